//! The `Development` profile: what is refused to compilers, test runners, debuggers, browsers and shells.
//!
//! Allowed on purpose, because tools fail without it inside their own pid namespace: `ptrace`, `process_vm_readv` and
//! `pidfd_getfd` (gdb, strace, LeakSanitizer; Landlock keeps them inside the sandbox), `personality` (gdb, sanitizers),
//! `seccomp`, `landlock_*` (nested sandboxes), `memfd_create`, `mknod` of FIFOs, `chown`, extended attributes,
//! `sched_*`, `setpriority`, `kcmp`, `name_to_handle_at` (a handle is useless without `open_by_handle_at`).

use super::When::{Above, Is, IsNot, Masked};
use super::{Call, Refusal, always, when};

/// Everything the profile refuses, one row per answer.
pub(super) const REFUSALS: &[Refusal] = &[
    Refusal {
        answer: libc::ENOSYS,
        calls: NOT_IMPLEMENTED,
    },
    Refusal {
        answer: libc::EPERM,
        calls: NOT_PERMITTED,
    },
    Refusal {
        answer: libc::EAFNOSUPPORT,
        calls: NO_SUCH_FAMILY,
    },
    Refusal {
        answer: libc::EPROTONOSUPPORT,
        calls: NO_SUCH_PROTOCOL,
    },
];

/// Linux 6.15; not in libc yet. Same number everywhere, as all from 424 on.
const SYS_OPEN_TREE_ATTR: libc::c_long = 467;
/// Linux 6.6; libc lacks it for aarch64.
const SYS_FCHMODAT2: libc::c_long = 452;

/// Calls that tools expect to be missing on older kernels, and that they replace by older ones.
const NOT_IMPLEMENTED: &[Call] = &[
    // Its flags are in memory, where a filter cannot look for CLONE_NEWUSER; glibc, Go and musl fall back to clone.
    always(libc::SYS_clone3),
    // Its mode is in memory too: it could create a set-uid file. Since Linux 5.6; callers fall back to openat.
    always(libc::SYS_openat2),
    // Executes file and socket operations past every seccomp filter; a long line of kernel bugs. libuv, Node and
    // databases fall back to threads.
    always(libc::SYS_io_uring_setup),
    always(libc::SYS_io_uring_enter),
    always(libc::SYS_io_uring_register),
    // The new mount API: reaches what mount(2) below does not. libmount falls back to mount.
    always(libc::SYS_open_tree),
    always(SYS_OPEN_TREE_ATTR),
    always(libc::SYS_move_mount),
    always(libc::SYS_fsopen),
    always(libc::SYS_fsconfig),
    always(libc::SYS_fsmount),
    always(libc::SYS_fspick),
    always(libc::SYS_mount_setattr),
    // quotactl by descriptor, Linux 5.14.
    always(libc::SYS_quotactl_fd),
];

/// Bits of the second argument of open(2) and its kin that make the mode count. Each is one bit here: `O_TMPFILE` itself
/// contains `O_DIRECTORY`.
const CREATE: u32 = libc::O_CREAT as u32;
const TMPFILE: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
const SET_UID: u32 = libc::S_ISUID;
const TYPE: u32 = libc::S_IFMT;
const CHARACTER: u32 = libc::S_IFCHR;
const BLOCK: u32 = libc::S_IFBLK;

/// One condition per namespace, because seccompiler cannot say "any of these bits".
const NEW_NS: u32 = libc::CLONE_NEWNS as u32;
const NEW_CGROUP: u32 = libc::CLONE_NEWCGROUP as u32;
const NEW_UTS: u32 = libc::CLONE_NEWUTS as u32;
const NEW_IPC: u32 = libc::CLONE_NEWIPC as u32;
const NEW_USER: u32 = libc::CLONE_NEWUSER as u32;
const NEW_PID: u32 = libc::CLONE_NEWPID as u32;
const NEW_NET: u32 = libc::CLONE_NEWNET as u32;
/// `linux/sched.h`; not in libc. Only for unshare: in clone's flags the bit belongs to the exit signal.
const NEW_TIME: u32 = 0x80;

/// Calls that have always existed.
const NOT_PERMITTED: &[Call] = &[
    // Namespaces: a nested user namespace hands out capabilities over kernel code that expects an administrator.
    // Chromium's own sandbox and `unshare -r` are what stops working.
    always(libc::SYS_setns),
    when(libc::SYS_unshare, &[Masked(0, NEW_NS, NEW_NS)]),
    when(libc::SYS_unshare, &[Masked(0, NEW_CGROUP, NEW_CGROUP)]),
    when(libc::SYS_unshare, &[Masked(0, NEW_UTS, NEW_UTS)]),
    when(libc::SYS_unshare, &[Masked(0, NEW_IPC, NEW_IPC)]),
    when(libc::SYS_unshare, &[Masked(0, NEW_USER, NEW_USER)]),
    when(libc::SYS_unshare, &[Masked(0, NEW_PID, NEW_PID)]),
    when(libc::SYS_unshare, &[Masked(0, NEW_NET, NEW_NET)]),
    when(libc::SYS_unshare, &[Masked(0, NEW_TIME, NEW_TIME)]),
    when(libc::SYS_clone, &[Masked(0, NEW_NS, NEW_NS)]),
    when(libc::SYS_clone, &[Masked(0, NEW_CGROUP, NEW_CGROUP)]),
    when(libc::SYS_clone, &[Masked(0, NEW_UTS, NEW_UTS)]),
    when(libc::SYS_clone, &[Masked(0, NEW_IPC, NEW_IPC)]),
    when(libc::SYS_clone, &[Masked(0, NEW_USER, NEW_USER)]),
    when(libc::SYS_clone, &[Masked(0, NEW_PID, NEW_PID)]),
    when(libc::SYS_clone, &[Masked(0, NEW_NET, NEW_NET)]),
    // The view of the file tree.
    always(libc::SYS_mount),
    always(libc::SYS_umount2),
    always(libc::SYS_pivot_root),
    always(libc::SYS_chroot),
    // Opens a file by its number, past every directory: Docker's "shocker" of 2014.
    always(libc::SYS_open_by_handle_at),
    // Set-uid files would outlive the sandbox and serve whoever executes them outside. Only S_ISUID: git and others use
    // S_ISGID on directories. mkdir ignores the bit by itself.
    when(libc::SYS_fchmod, &[Masked(1, SET_UID, SET_UID)]),
    when(libc::SYS_fchmodat, &[Masked(2, SET_UID, SET_UID)]),
    when(SYS_FCHMODAT2, &[Masked(2, SET_UID, SET_UID)]),
    when(
        libc::SYS_openat,
        &[Masked(2, CREATE, CREATE), Masked(3, SET_UID, SET_UID)],
    ),
    when(
        libc::SYS_openat,
        &[Masked(2, TMPFILE, TMPFILE), Masked(3, SET_UID, SET_UID)],
    ),
    when(libc::SYS_mknodat, &[Masked(2, SET_UID, SET_UID)]),
    // Devices; FIFOs and sockets are allowed.
    when(libc::SYS_mknodat, &[Masked(2, TYPE, CHARACTER)]),
    when(libc::SYS_mknodat, &[Masked(2, TYPE, BLOCK)]),
    // The same by the older names that only x86-64 still has.
    #[cfg(target_arch = "x86_64")]
    when(libc::SYS_chmod, &[Masked(1, SET_UID, SET_UID)]),
    #[cfg(target_arch = "x86_64")]
    when(libc::SYS_creat, &[Masked(1, SET_UID, SET_UID)]),
    #[cfg(target_arch = "x86_64")]
    when(
        libc::SYS_open,
        &[Masked(1, CREATE, CREATE), Masked(2, SET_UID, SET_UID)],
    ),
    #[cfg(target_arch = "x86_64")]
    when(
        libc::SYS_open,
        &[Masked(1, TMPFILE, TMPFILE), Masked(2, SET_UID, SET_UID)],
    ),
    #[cfg(target_arch = "x86_64")]
    when(libc::SYS_mknod, &[Masked(1, SET_UID, SET_UID)]),
    #[cfg(target_arch = "x86_64")]
    when(libc::SYS_mknod, &[Masked(1, TYPE, CHARACTER)]),
    #[cfg(target_arch = "x86_64")]
    when(libc::SYS_mknod, &[Masked(1, TYPE, BLOCK)]),
    // A terminal shared with the caller: push input into it (CVE-2017-5226), paste into a console, switch the line
    // discipline to a driver nobody looked at for years.
    when(libc::SYS_ioctl, &[Is(1, libc::TIOCSTI as u32)]),
    when(libc::SYS_ioctl, &[Is(1, libc::TIOCLINUX as u32)]),
    when(libc::SYS_ioctl, &[Is(1, TIOCSETD)]),
    // Keyrings belong to the user, not to a namespace.
    always(libc::SYS_keyctl),
    always(libc::SYS_add_key),
    always(libc::SYS_request_key),
    // Init, which is 1 and has the command's uid: without descriptors it could not read what the tree uses, and idle priority would
    // keep it from looking. Signals, tracing and memory are refused elsewhere.
    when(libc::SYS_prlimit64, &[Is(0, INIT)]),
    when(libc::SYS_sched_setattr, &[Is(0, INIT)]),
    when(libc::SYS_sched_setscheduler, &[Is(0, INIT)]),
    // Kernel interfaces with a history and no use here; `perf` stops working.
    always(libc::SYS_bpf),
    always(libc::SYS_perf_event_open),
    always(libc::SYS_userfaultfd),
    // Watches whole mounts; inotify is allowed.
    always(libc::SYS_fanotify_init),
    // Writes into other processes. Debuggers use ptrace or /proc/PID/mem.
    always(libc::SYS_process_vm_writev),
    // The machine: kernels, modules, time, swap, quotas, log, names, ports. The kernel refuses most of them without a
    // capability; a filter does not depend on that.
    always(libc::SYS_kexec_load),
    always(libc::SYS_kexec_file_load),
    always(libc::SYS_init_module),
    always(libc::SYS_finit_module),
    always(libc::SYS_delete_module),
    always(libc::SYS_reboot),
    always(libc::SYS_swapon),
    always(libc::SYS_swapoff),
    always(libc::SYS_acct),
    always(libc::SYS_quotactl),
    always(libc::SYS_syslog),
    always(libc::SYS_clock_settime),
    always(libc::SYS_settimeofday),
    always(libc::SYS_clock_adjtime),
    always(libc::SYS_adjtimex),
    always(libc::SYS_sethostname),
    always(libc::SYS_setdomainname),
    always(libc::SYS_vhangup),
    always(libc::SYS_lookup_dcookie),
    #[cfg(target_arch = "x86_64")]
    always(libc::SYS_iopl),
    #[cfg(target_arch = "x86_64")]
    always(libc::SYS_ioperm),
];

/// The pid of a sandbox's init.
const INIT: u32 = 1;

/// `asm-generic/ioctls.h`; libc has it for some targets only.
const TIOCSETD: u32 = 0x5423;

const UNIX: u32 = libc::AF_UNIX as u32;
const INET: u32 = libc::AF_INET as u32;
const INET6: u32 = libc::AF_INET6 as u32;
const NETLINK: u32 = libc::AF_NETLINK as u32;
/// `linux/net.h`; not in libc.
const SOCK_PACKET: u32 = 10;
/// The socket type without SOCK_NONBLOCK and SOCK_CLOEXEC: `SOCK_TYPE_MASK` of linux/net.h.
const SOCKET_TYPE: u32 = 0xf;

/// Socket families. AF_VSOCK reaches the hypervisor whatever the network namespace; the others (AF_ALG, AF_PACKET,
/// AF_BLUETOOTH, AF_CAN, ...) are rarely used kernel code, often loaded as a module on the first call.
const NO_SUCH_FAMILY: &[Call] = &[
    when(
        libc::SYS_socket,
        &[IsNot(0, UNIX), IsNot(0, INET), IsNot(0, INET6), IsNot(0, NETLINK)],
    ),
    // The kernel turns socket(AF_INET, SOCK_PACKET) into AF_PACKET, for programs from before Linux 2.2.
    when(libc::SYS_socket, &[Masked(1, SOCKET_TYPE, SOCK_PACKET)]),
    // Nothing else implements socketpair for tools' use.
    when(libc::SYS_socketpair, &[IsNot(0, UNIX)]),
];

/// Protocols of the families that are allowed.
const NO_SUCH_PROTOCOL: &[Call] = &[
    // getifaddrs, os.networkInterfaces and `ip` need NETLINK_ROUTE. Others administer the machine (netfilter, audit, generic)
    // or are not tied to the network namespace; `ss` falls back to /proc, libaudit takes this answer for "no audit".
    when(
        libc::SYS_socket,
        &[Is(0, NETLINK), IsNot(2, libc::NETLINK_ROUTE as u32)],
    ),
    // MPTCP (262) and SMC (256) connect past Landlock's TCP rules, which count where there is no network namespace. Go
    // tries MPTCP first and falls back. Numbers above 255 are on no wire.
    when(libc::SYS_socket, &[Above(2, 255)]),
    // SCTP likewise, and both are modules loaded on the first call.
    when(libc::SYS_socket, &[Is(2, libc::IPPROTO_SCTP as u32)]),
    when(libc::SYS_socket, &[Is(2, libc::IPPROTO_DCCP as u32)]),
];
