//! Arguments for which an allowed call is refused.
//!
//! Deliberately without conditions: whatever the C library needs to make a thread, and `chmod g+s`, which is how a shared
//! directory hands its group to what is made in it (git and others use it), and which a filter cannot tell from the same
//! bit on a file.

use super::When::{self, Above, Any, Is, IsNot, Masked};
use super::calls::Call::{self, *};

/// A call that is refused if all conditions hold.
pub(super) struct Condition {
    pub call: Call,
    pub when: &'static [When],
    pub errno: i32,
    /// What is refused; reads well behind the call's name.
    pub what: &'static str,
}

const fn refuse(call: Call, when: &'static [When], errno: i32, what: &'static str) -> Condition {
    Condition {
        call,
        when,
        errno,
        what,
    }
}

/// Bits of the second argument of open(2) and its kin that make the mode count: `O_CREAT`, and of `O_TMPFILE` the bit that is its
/// own (the other is `O_DIRECTORY`, which differs between architectures).
const CREATE: u32 = 0o100 | 0o20000000;
/// `S_ISUID` and `S_ISGID`.
const SET_ID: u32 = 0o6000;
const SET_UID: u32 = libc::S_ISUID;
const TYPE: u32 = libc::S_IFMT;
const CHARACTER: u32 = libc::S_IFCHR;
const BLOCK: u32 = libc::S_IFBLK;

/// `CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}` of linux/sched.h.
const NAMESPACES: u32 = 0x7e02_0000;
/// `CLONE_NEWTIME`. Only for unshare: in clone's flags the bit belongs to the exit signal.
const TIME: u32 = 0x80;

/// `asm-generic/ioctls.h`; libc has them for some targets only.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
const TIOCSETD: u32 = 0x5423;

/// The pid of a sandbox's init.
const INIT: u32 = 1;
/// `linux/resource.h`, `linux/ioprio.h`.
const PRIO_USER: u32 = 2;
const IOPRIO_WHO_USER: u32 = 3;

const UNIX: u32 = libc::AF_UNIX as u32;
const INET: u32 = libc::AF_INET as u32;
const INET6: u32 = libc::AF_INET6 as u32;
const NETLINK: u32 = libc::AF_NETLINK as u32;
/// `linux/net.h`; not in libc.
const SOCK_PACKET: u32 = 10;
/// The socket type without SOCK_NONBLOCK and SOCK_CLOEXEC: `SOCK_TYPE_MASK` of linux/net.h.
const SOCKET_TYPE: u32 = 0xf;

const FASTOPEN: u32 = libc::MSG_FASTOPEN as u32;

const EPERM: i32 = libc::EPERM;
const SET_ID_MADE: &str = "creating a set-uid or set-gid file";
const SET_UID_MADE: &str = "making a file set-uid";
const DEVICE: &str = "creating a device";
const NAMESPACE: &str = "creating a namespace";
const OF_INIT: &str = "changing the sandbox's own init";
const TERMINAL: &str = "feeding or reprogramming a terminal";
const FAMILY: &str = "a socket family that sandboxes do not have";
const FAST_OPEN: &str = "connecting while sending";
const PROTOCOL: &str = "a socket protocol that sandboxes do not have";

/// Under both profiles.
#[rustfmt::skip]
pub(super) const BOTH: &[Condition] = &[
    // A nested user namespace hands out capabilities over kernel code that expects an administrator. Chromium's own sandbox and
    // `unshare -r` are what stops working.
    refuse(unshare, &[Any(0, NAMESPACES | TIME)], EPERM, NAMESPACE),
    refuse(clone, &[Any(0, NAMESPACES)], EPERM, NAMESPACE),

    // Set-uid files would outlive the sandbox and serve whoever executes them outside. mkdir ignores the bits by itself.
    refuse(chmod, &[Any(1, SET_UID)], EPERM, SET_UID_MADE),
    refuse(fchmod, &[Any(1, SET_UID)], EPERM, SET_UID_MADE),
    refuse(fchmodat, &[Any(2, SET_UID)], EPERM, SET_UID_MADE),
    refuse(fchmodat2, &[Any(2, SET_UID)], EPERM, SET_UID_MADE),
    // A file that is created set-gid; nothing but an attack asks for it.
    refuse(creat, &[Any(1, SET_ID)], EPERM, SET_ID_MADE),
    refuse(open, &[Any(1, CREATE), Any(2, SET_ID)], EPERM, SET_ID_MADE),
    refuse(openat, &[Any(2, CREATE), Any(3, SET_ID)], EPERM, SET_ID_MADE),
    refuse(mknod, &[Any(1, SET_ID)], EPERM, SET_ID_MADE),
    refuse(mknodat, &[Any(2, SET_ID)], EPERM, SET_ID_MADE),
    // FIFOs and sockets are allowed, and so is the type 0020000 | 0060000 that does not exist: each is compared whole.
    refuse(mknod, &[Masked(1, TYPE, CHARACTER)], EPERM, DEVICE),
    refuse(mknod, &[Masked(1, TYPE, BLOCK)], EPERM, DEVICE),
    refuse(mknodat, &[Masked(2, TYPE, CHARACTER)], EPERM, DEVICE),
    refuse(mknodat, &[Masked(2, TYPE, BLOCK)], EPERM, DEVICE),

    // A lease makes whoever opens the file wait for its holder, up to 45 seconds: the sandbox's init, and after it programs outside.
    refuse(fcntl, &[Is(1, libc::F_SETLEASE as u32)], EPERM, "taking a lease on a file"),

    // A terminal shared with the caller: push input into it (CVE-2017-5226), paste into a console, switch the line discipline to a
    // driver nobody looked at for years.
    refuse(ioctl, &[Is(1, TIOCSTI)], EPERM, TERMINAL),
    refuse(ioctl, &[Is(1, TIOCLINUX)], EPERM, TERMINAL),
    refuse(ioctl, &[Is(1, TIOCSETD)], EPERM, TERMINAL),

    // Init, which is 1 and has the command's uid: without descriptors it could not read what the tree uses, and low priority would
    // keep it from looking. Signals, tracing and memory are refused elsewhere. A user's priority is that of init too.
    refuse(prlimit64, &[Is(0, INIT)], EPERM, OF_INIT),
    refuse(setpriority, &[Is(1, INIT)], EPERM, OF_INIT),
    refuse(setpriority, &[Is(0, PRIO_USER)], EPERM, OF_INIT),
    refuse(ioprio_set, &[Is(1, INIT)], EPERM, OF_INIT),
    refuse(ioprio_set, &[Is(0, IOPRIO_WHO_USER)], EPERM, OF_INIT),
    refuse(sched_setaffinity, &[Is(0, INIT)], EPERM, OF_INIT),
    refuse(sched_setattr, &[Is(0, INIT)], EPERM, OF_INIT),
    refuse(sched_setscheduler, &[Is(0, INIT)], EPERM, OF_INIT),
    refuse(sched_setparam, &[Is(0, INIT)], EPERM, OF_INIT),

    // AF_VSOCK reaches the hypervisor whatever the network namespace; the others (AF_ALG, AF_PACKET, AF_BLUETOOTH, AF_CAN, ...) are
    // rarely used kernel code, often loaded as a module on the first call.
    refuse(socket, &[IsNot(0, UNIX), IsNot(0, INET), IsNot(0, INET6), IsNot(0, NETLINK)], libc::EAFNOSUPPORT, FAMILY),
    // The kernel turns socket(AF_INET, SOCK_PACKET) into AF_PACKET, for programs from before Linux 2.2.
    refuse(socket, &[Masked(1, SOCKET_TYPE, SOCK_PACKET)], libc::EAFNOSUPPORT, FAMILY),
    // Nothing else implements socketpair for tools' use.
    refuse(socketpair, &[IsNot(0, UNIX)], libc::EAFNOSUPPORT, FAMILY),
    // getifaddrs, os.networkInterfaces and `ip` need NETLINK_ROUTE. Others administer the machine (netfilter, audit, generic) or
    // are not tied to the network namespace; `ss` falls back to /proc, libaudit takes this answer for "no audit".
    refuse(socket, &[Is(0, NETLINK), IsNot(2, libc::NETLINK_ROUTE as u32)], libc::EPROTONOSUPPORT, PROTOCOL),
    // MPTCP (262) and SMC (256) connect past Landlock's TCP rules, which count where there is no network namespace. Go tries MPTCP
    // first and falls back. Numbers above 255 are on no wire.
    refuse(socket, &[Above(2, 255)], libc::EPROTONOSUPPORT, PROTOCOL),
    // SCTP likewise, and both are modules loaded on the first call.
    refuse(socket, &[Is(2, libc::IPPROTO_SCTP as u32)], libc::EPROTONOSUPPORT, PROTOCOL),
    refuse(socket, &[Is(2, libc::IPPROTO_DCCP as u32)], libc::EPROTONOSUPPORT, PROTOCOL),
    // TCP Fast Open connects while it sends, and Landlock's TCP rules only look at connect.
    refuse(sendto, &[Any(3, FASTOPEN)], libc::EOPNOTSUPP, FAST_OPEN),
    refuse(sendmsg, &[Any(2, FASTOPEN)], libc::EOPNOTSUPP, FAST_OPEN),
    refuse(sendmmsg, &[Any(3, FASTOPEN)], libc::EOPNOTSUPP, FAST_OPEN),
];

/// Under `strict`, besides [`BOTH`] and before it.
#[rustfmt::skip]
pub(super) const STRICT: &[Condition] = &[
    // Asking is allowed. Changing switches off address randomization or makes every page executable.
    refuse(personality, &[IsNot(0, 0xffff_ffff)], EPERM, "changing the execution domain"),
    // No netlink at all. glibc then believes in both IPv4 and IPv6; the list of interfaces is empty or an error.
    refuse(socket, &[Is(0, NETLINK)], libc::EAFNOSUPPORT, FAMILY),
];

/// Where a program holds the sandbox's own listener, the kernel answers a second one with `EBUSY`; so does the filter, which
/// does not rely on it: an inner listener would answer instead of the sandbox's.
pub(super) const NESTED_LISTENER: Condition = refuse(
    seccomp,
    &[
        Is(0, libc::SECCOMP_SET_MODE_FILTER),
        Any(1, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32),
    ],
    libc::EBUSY,
    "a listener of one's own",
);
