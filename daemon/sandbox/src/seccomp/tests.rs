//! Every entry of the table is tried in a process that installed it: once as it is, for the exact error number, and once
//! with every answer moved by [`MARK`], which tells the filter's refusal from one of the kernel. Each has a twin that is
//! allowed. The arguments are such that a call that got through by mistake would fail by itself.

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::*;

/// Added to a filter's answers; no error number of the kernel is as high, and MAX_ERRNO (4095) is above.
const MARK: i32 = 1000;

/// One system call and what shall come of it.
struct Probe {
    name: &'static str,
    call: [libc::c_long; 7],
    expect: Expect,
}

enum Expect {
    /// The filter answers this.
    Refused(i32),
    /// The call succeeds.
    Works,
    /// The call reaches the kernel, which may answer what it likes.
    Passes,
}

fn probe<const N: usize>(name: &'static str, call: [libc::c_long; N], expect: Expect) -> Probe {
    let mut seven = [0; 7];
    seven[..N].copy_from_slice(&call);
    Probe {
        name,
        call: seven,
        expect,
    }
}

fn refused<const N: usize>(name: &'static str, errno: i32, call: [libc::c_long; N]) -> Probe {
    probe(name, call, Expect::Refused(errno))
}

fn works<const N: usize>(name: &'static str, call: [libc::c_long; N]) -> Probe {
    probe(name, call, Expect::Works)
}

fn passes<const N: usize>(name: &'static str, call: [libc::c_long; N]) -> Probe {
    probe(name, call, Expect::Passes)
}

fn answers(program: &Program, probes: &[Probe]) -> Vec<i32> {
    answers_under(&[program], probes)
}

/// Forks, installs the programs one after the other (nobody keeps their listeners) and makes the calls; returns each call's error
/// number, 0 for success.
fn answers_under(programs: &[&Program], probes: &[Probe]) -> Vec<i32> {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut results = vec![0i32; probes.len()];
    // SAFETY: the child makes system calls on memory that existed before and leaves with _exit: no lock that another
    // thread of the harness may hold is taken (`install` does not allocate when it succeeds, `syscall` never does).
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", io::Error::last_os_error());
    if child == 0 {
        // SAFETY: setsid and _exit take no pointers and are async-signal-safe.
        unsafe { libc::setsid() };
        if programs.iter().any(|program| program.install().is_err()) {
            // SAFETY: as above.
            unsafe { libc::_exit(1) };
        }
        for (probe, result) in probes.iter().zip(&mut results) {
            let [number, a, b, c, d, e, f] = probe.call;
            // SAFETY: every pointer in the table is to memory that outlives the call, or an address that the kernel refuses.
            let returned = unsafe { libc::syscall(number, a, b, c, d, e, f) };
            if (number == libc::SYS_clone || number == libc::SYS_clone3) && returned == 0 {
                // SAFETY: the grandchild of a clone that was allowed has nothing to do.
                unsafe { libc::_exit(0) };
            }
            // SAFETY: the address of this thread's errno is valid as long as the thread lives.
            let errno = unsafe { *libc::__errno_location() };
            *result = if returned < 0 { errno } else { 0 };
        }
        // SAFETY: an i32 has no padding, so the vector's elements may be seen as bytes.
        let bytes = unsafe { std::slice::from_raw_parts(results.as_ptr().cast::<u8>(), results.len() * 4) };
        let written = (&writer).write(bytes).unwrap_or(0);
        // SAFETY: as above.
        unsafe { libc::_exit(if written == bytes.len() { 0 } else { 2 }) };
    }
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(wait(child), 0, "status of the child that tried the calls");
    bytes
        .chunks_exact(4)
        .map(|chunk| i32::from_ne_bytes(chunk.try_into().unwrap()))
        .collect()
}

/// Reaps a child and returns its raw status.
fn wait(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is valid for writing.
    let reaped = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(reaped, child, "waitpid: {}", io::Error::last_os_error());
    status
}

fn check(probes: &[Probe]) {
    check_under(Syscalls::Default, probes);
}

fn check_under(profile: Syscalls, probes: &[Probe]) {
    let real = compile(profile, &[]).unwrap();
    let marked = compile_answering(Arch::NATIVE, profile, &[], |errno| errno + MARK).unwrap();
    let mut wrong = Vec::new();
    for (real_run, (program, mark)) in [(true, (&real, 0)), (false, (&marked, MARK))] {
        let answers = answers(program, probes);
        assert_eq!(answers.len(), probes.len());
        for (probe, answer) in probes.iter().zip(answers) {
            let right = match probe.expect {
                Expect::Refused(errno) => answer == errno + mark,
                // A call may succeed once only (mkfifo): the second run must merely reach the kernel.
                Expect::Works if real_run => answer == 0,
                Expect::Works | Expect::Passes => real_run || answer < MARK,
            };
            if !right {
                wrong.push(format!("{} (mark {mark}): errno {answer}", probe.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

const HIGH: libc::c_long = 1 << 32;
const BAD: libc::c_long = -1;

#[test]
fn calls_that_are_new_are_answered_as_if_missing() {
    let calls: &[(&'static str, libc::c_long)] = &[
        ("clone3", libc::SYS_clone3),
        ("openat2", libc::SYS_openat2),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("io_uring_enter", libc::SYS_io_uring_enter),
        ("io_uring_register", libc::SYS_io_uring_register),
        ("open_tree", libc::SYS_open_tree),
        ("open_tree_attr", 467),
        ("move_mount", libc::SYS_move_mount),
        ("fsopen", libc::SYS_fsopen),
        ("fsconfig", libc::SYS_fsconfig),
        ("fsmount", libc::SYS_fsmount),
        ("fspick", libc::SYS_fspick),
        ("mount_setattr", libc::SYS_mount_setattr),
        ("quotactl_fd", libc::SYS_quotactl_fd),
        ("statmount", 457),
        ("setxattrat", 463),
        ("the last known number", LAST_KNOWN.into()),
        ("the next number", 470),
        ("a far number", 100_000),
        ("x32 getpid", 0x4000_0000 + 39),
        ("x32 mkdir", 0x4000_0000 + 83),
        ("x32 ioctl", 0x4000_0000 + 514),
    ];
    let mut probes: Vec<_> = calls
        .iter()
        .map(|(name, number)| refused(name, libc::ENOSYS, [*number, BAD, BAD, BAD]))
        .collect();
    probes.push(works("getpid", [libc::SYS_getpid]));
    probes.push(passes(
        "landlock_create_ruleset",
        [libc::SYS_landlock_create_ruleset, 0, 0, 1],
    ));
    check(&probes);
}

#[test]
fn calls_of_an_administrator_are_not_permitted() {
    let calls: &[(&'static str, libc::c_long)] = &[
        ("setns", libc::SYS_setns),
        ("mount", libc::SYS_mount),
        ("umount2", libc::SYS_umount2),
        ("pivot_root", libc::SYS_pivot_root),
        ("chroot", libc::SYS_chroot),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("request_key", libc::SYS_request_key),
        ("bpf", libc::SYS_bpf),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("fanotify_init", libc::SYS_fanotify_init),
        ("process_vm_writev", libc::SYS_process_vm_writev),
        ("kexec_load", libc::SYS_kexec_load),
        ("kexec_file_load", libc::SYS_kexec_file_load),
        ("init_module", libc::SYS_init_module),
        ("finit_module", libc::SYS_finit_module),
        ("delete_module", libc::SYS_delete_module),
        ("reboot", libc::SYS_reboot),
        ("swapon", libc::SYS_swapon),
        ("swapoff", libc::SYS_swapoff),
        ("acct", libc::SYS_acct),
        ("quotactl", libc::SYS_quotactl),
        ("syslog", libc::SYS_syslog),
        ("clock_settime", libc::SYS_clock_settime),
        ("settimeofday", libc::SYS_settimeofday),
        ("clock_adjtime", libc::SYS_clock_adjtime),
        ("adjtimex", libc::SYS_adjtimex),
        ("sethostname", libc::SYS_sethostname),
        ("setdomainname", libc::SYS_setdomainname),
        ("vhangup", libc::SYS_vhangup),
        ("lookup_dcookie", libc::SYS_lookup_dcookie),
        #[cfg(target_arch = "x86_64")]
        ("iopl", libc::SYS_iopl),
        #[cfg(target_arch = "x86_64")]
        ("ioperm", libc::SYS_ioperm),
    ];
    let mut probes: Vec<_> = calls
        .iter()
        .map(|(name, number)| refused(name, libc::EPERM, [*number, BAD, BAD, BAD]))
        .collect();
    let mut time = [0u64; 2];
    probes.push(works(
        "clock_gettime",
        [libc::SYS_clock_gettime, 0, time.as_mut_ptr() as libc::c_long],
    ));
    probes.push(passes("process_vm_readv", [libc::SYS_process_vm_readv, BAD, 0, 0]));
    probes.push(passes("ptrace", [libc::SYS_ptrace, BAD]));
    probes.push(works("personality", [libc::SYS_personality, 0xffff_ffff]));
    probes.push(works("inotify_init1", [libc::SYS_inotify_init1, 0]));
    probes.push(passes("name_to_handle_at", [libc::SYS_name_to_handle_at, BAD, 0, 0]));
    check(&probes);
}

#[test]
fn limits_and_priority_of_init_cannot_be_changed_and_ones_own_can() {
    let own = libc::c_long::from(std::process::id());
    let (nofile, idle) = (
        libc::c_long::from(libc::RLIMIT_NOFILE),
        libc::c_long::from(libc::SCHED_IDLE),
    );
    let parameters = 0i32;
    let parameters = (&raw const parameters) as libc::c_long;
    check(&[
        refused("prlimit64", libc::EPERM, [libc::SYS_prlimit64, 1, nofile, 0, 0]),
        refused(
            "prlimit64, high bits",
            libc::EPERM,
            [libc::SYS_prlimit64, HIGH | 1, nofile, 0, 0],
        ),
        refused("sched_setattr", libc::EPERM, [libc::SYS_sched_setattr, 1, BAD, 0]),
        refused(
            "sched_setscheduler",
            libc::EPERM,
            [libc::SYS_sched_setscheduler, 1, idle, parameters],
        ),
        refused("setpriority", libc::EPERM, [libc::SYS_setpriority, 0, 1, 19]),
        refused(
            "setpriority of the group",
            libc::EPERM,
            [libc::SYS_setpriority, 1, 1, 19],
        ),
        refused(
            "setpriority of the user",
            libc::EPERM,
            [libc::SYS_setpriority, 2, 0, 19],
        ),
        refused("ioprio_set", libc::EPERM, [libc::SYS_ioprio_set, 1, 1, 0]),
        refused("ioprio_set of the user", libc::EPERM, [libc::SYS_ioprio_set, 3, 0, 0]),
        refused(
            "sched_setaffinity",
            libc::EPERM,
            [libc::SYS_sched_setaffinity, 1, 8, BAD],
        ),
        refused("sched_setparam", libc::EPERM, [libc::SYS_sched_setparam, 1, parameters]),
        works("setpriority of oneself", [libc::SYS_setpriority, 0, 0, 19]),
        works("prlimit64 of oneself", [libc::SYS_prlimit64, 0, nofile, 0, 0]),
        works("prlimit64 of oneself by pid", [libc::SYS_prlimit64, own, nofile, 0, 0]),
        works(
            "sched_setscheduler of oneself",
            [libc::SYS_sched_setscheduler, 0, idle, parameters],
        ),
    ]);
}

#[test]
fn namespaces_cannot_be_made_and_processes_can() {
    let child = libc::c_long::from(libc::SIGCHLD);
    let flags: &[(&'static str, libc::c_int)] = &[
        ("NEWNS", libc::CLONE_NEWNS),
        ("NEWCGROUP", libc::CLONE_NEWCGROUP),
        ("NEWUTS", libc::CLONE_NEWUTS),
        ("NEWIPC", libc::CLONE_NEWIPC),
        ("NEWUSER", libc::CLONE_NEWUSER),
        ("NEWPID", libc::CLONE_NEWPID),
        ("NEWNET", libc::CLONE_NEWNET),
    ];
    let mut probes = Vec::new();
    for (name, flag) in flags {
        let flag = libc::c_long::from(*flag);
        probes.push(refused(name, libc::EPERM, [libc::SYS_unshare, flag]));
        probes.push(refused(name, libc::EPERM, [libc::SYS_unshare, flag | 0x400]));
        probes.push(refused(name, libc::EPERM, [libc::SYS_clone, flag | child]));
        probes.push(refused(name, libc::EPERM, [libc::SYS_clone, HIGH | flag | child]));
    }
    probes.push(refused("NEWTIME", libc::EPERM, [libc::SYS_unshare, 0x80]));
    probes.push(works("unshare(FS|FILES)", [libc::SYS_unshare, 0x200 | 0x400]));
    probes.push(works("clone", [libc::SYS_clone, child]));
    probes.push(works(
        "clone(VFORK)",
        [libc::SYS_clone, child | libc::c_long::from(libc::CLONE_VFORK)],
    ));
    check(&probes);
}

#[test]
fn set_uid_files_and_devices_cannot_be_made_and_fifos_can() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| CString::new(directory.path().join(name).as_os_str().as_bytes()).unwrap();
    let (file, fifo, fresh, root) = (path("file"), path("fifo"), path("fresh"), path("."));
    std::fs::write(directory.path().join("file"), "").unwrap();
    let open = std::fs::File::open(directory.path().join("file")).unwrap();
    let fd = libc::c_long::from(open.as_raw_fd());
    let (file, fifo, fresh, root) = (
        file.as_ptr() as libc::c_long,
        fifo.as_ptr() as libc::c_long,
        fresh.as_ptr() as libc::c_long,
        root.as_ptr() as libc::c_long,
    );
    let at = libc::c_long::from(libc::AT_FDCWD);
    let create = libc::c_long::from(libc::O_CREAT | libc::O_WRONLY);
    let temporary = libc::c_long::from(libc::O_TMPFILE | libc::O_WRONLY);
    let probes = [
        refused("fchmod u+s", libc::EPERM, [libc::SYS_fchmod, fd, 0o4755]),
        refused("fchmod ug+s", libc::EPERM, [libc::SYS_fchmod, fd, 0o6755]),
        refused("fchmodat u+s", libc::EPERM, [libc::SYS_fchmodat, at, file, 0o4755]),
        refused(
            "fchmodat u+s, high bits",
            libc::EPERM,
            [libc::SYS_fchmodat, at, file, HIGH | 0o4755],
        ),
        refused("fchmodat2 u+s", libc::EPERM, [452, at, file, 0o4755]),
        refused("openat u+s", libc::EPERM, [libc::SYS_openat, at, fresh, create, 0o4755]),
        refused(
            "openat O_TMPFILE u+s",
            libc::EPERM,
            [libc::SYS_openat, at, root, temporary, 0o4755],
        ),
        refused("mknodat u+s", libc::EPERM, [libc::SYS_mknodat, at, fresh, 0o104755]),
        refused(
            "mknodat character",
            libc::EPERM,
            [libc::SYS_mknodat, at, fresh, 0o020644, 0x103],
        ),
        refused(
            "mknodat block",
            libc::EPERM,
            [libc::SYS_mknodat, at, fresh, 0o060644, 0x103],
        ),
        #[cfg(target_arch = "x86_64")]
        refused("chmod u+s", libc::EPERM, [libc::SYS_chmod, file, 0o4755]),
        #[cfg(target_arch = "x86_64")]
        refused("creat u+s", libc::EPERM, [libc::SYS_creat, fresh, 0o4755]),
        #[cfg(target_arch = "x86_64")]
        refused("open u+s", libc::EPERM, [libc::SYS_open, fresh, create, 0o4755]),
        #[cfg(target_arch = "x86_64")]
        refused(
            "open O_TMPFILE u+s",
            libc::EPERM,
            [libc::SYS_open, root, temporary, 0o4755],
        ),
        #[cfg(target_arch = "x86_64")]
        refused("mknod u+s", libc::EPERM, [libc::SYS_mknod, fresh, 0o104755]),
        #[cfg(target_arch = "x86_64")]
        refused(
            "mknod character",
            libc::EPERM,
            [libc::SYS_mknod, fresh, 0o020644, 0x103],
        ),
        #[cfg(target_arch = "x86_64")]
        refused("mknod block", libc::EPERM, [libc::SYS_mknod, fresh, 0o060644, 0x103]),
        works("fchmod", [libc::SYS_fchmod, fd, 0o755]),
        works("fchmodat g+s", [libc::SYS_fchmodat, at, file, 0o2755]),
        works(
            "openat without O_CREAT ignores the mode",
            [libc::SYS_openat, at, file, 0, 0o4755],
        ),
        works("openat O_CREAT", [libc::SYS_openat, at, fresh, create, 0o755]),
        works("mknodat FIFO", [libc::SYS_mknodat, at, fifo, 0o010644]),
    ];
    check(&probes);
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        3,
        "file, fifo and fresh"
    );
}

#[test]
fn terminals_cannot_be_written_to_from_behind() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    let fd = libc::c_long::from(writer.as_raw_fd());
    let ioctl = libc::SYS_ioctl;
    let (sti, linux, getsize) = (
        libc::TIOCSTI as libc::c_long,
        libc::TIOCLINUX as libc::c_long,
        libc::TIOCGWINSZ as libc::c_long,
    );
    let mut available: libc::c_int = 0;
    check(&[
        refused("TIOCSTI", libc::EPERM, [ioctl, fd, sti, BAD]),
        refused("TIOCSTI, bit 32", libc::EPERM, [ioctl, fd, HIGH | sti, BAD]),
        refused(
            "TIOCSTI, all high bits",
            libc::EPERM,
            [ioctl, fd, !0xffff_ffff | sti, BAD],
        ),
        refused("TIOCLINUX", libc::EPERM, [ioctl, fd, linux, BAD]),
        refused("TIOCLINUX, bit 32", libc::EPERM, [ioctl, fd, HIGH | linux, BAD]),
        refused("TIOCSETD", libc::EPERM, [ioctl, fd, 0x5423, BAD]),
        passes("TIOCGWINSZ", [ioctl, fd, getsize, BAD]),
        works(
            "FIONREAD",
            [
                ioctl,
                fd,
                libc::FIONREAD as libc::c_long,
                (&raw mut available) as libc::c_long,
            ],
        ),
    ]);
}

#[test]
fn sockets_are_of_four_families() {
    let socket = libc::SYS_socket;
    let mut pair = [0 as libc::c_int; 2];
    let pair = pair.as_mut_ptr() as libc::c_long;
    let (unix, inet, inet6, netlink) = (1, 2, 10, 16);
    check(&[
        refused("AF_ALG", libc::EAFNOSUPPORT, [socket, 38, 5, 0]),
        refused("AF_VSOCK", libc::EAFNOSUPPORT, [socket, 40, 1, 0]),
        refused("AF_VSOCK, bit 32", libc::EAFNOSUPPORT, [socket, HIGH | 40, 1, 0]),
        refused("AF_PACKET", libc::EAFNOSUPPORT, [socket, 17, 3, 0]),
        refused("SOCK_PACKET", libc::EAFNOSUPPORT, [socket, inet, 10, 0]),
        refused(
            "SOCK_PACKET with flags",
            libc::EAFNOSUPPORT,
            [socket, inet, 10 | 0o2000000, 0],
        ),
        refused("AF_BLUETOOTH", libc::EAFNOSUPPORT, [socket, 31, 3, 0]),
        refused("AF_UNSPEC", libc::EAFNOSUPPORT, [socket, 0, 1, 0]),
        refused(
            "socketpair AF_TIPC",
            libc::EAFNOSUPPORT,
            [libc::SYS_socketpair, 30, 1, 0, pair],
        ),
        refused(
            "socketpair AF_INET",
            libc::EAFNOSUPPORT,
            [libc::SYS_socketpair, inet, 1, 0, pair],
        ),
        refused("NETLINK_NETFILTER", libc::EPROTONOSUPPORT, [socket, netlink, 3, 12]),
        refused("NETLINK_AUDIT", libc::EPROTONOSUPPORT, [socket, netlink, 3, 9]),
        refused("MPTCP", libc::EPROTONOSUPPORT, [socket, inet, 1, 262]),
        refused("MPTCP, IPv6", libc::EPROTONOSUPPORT, [socket, inet6, 1, 262]),
        refused("SMC", libc::EPROTONOSUPPORT, [socket, inet, 1, 256]),
        refused("SCTP", libc::EPROTONOSUPPORT, [socket, inet, 1, 132]),
        refused("DCCP", libc::EPROTONOSUPPORT, [socket, inet, 6, 33]),
        works("AF_UNIX", [socket, unix, 1, 0]),
        works("AF_UNIX seqpacket", [socket, unix, 5 | 0o2000000, 0]),
        works("TCP", [socket, inet, 1, 6]),
        works("TCP, high bits", [socket, HIGH | inet, 1, 0]),
        works("UDP", [socket, inet, 2, 17]),
        works("TCP, IPv6", [socket, inet6, 1, 0]),
        works("NETLINK_ROUTE", [socket, netlink, 3, 0]),
        works("socketpair AF_UNIX", [libc::SYS_socketpair, unix, 1, 0, pair]),
    ]);
}

/// `int $0x80` enters the kernel with i386 numbers: 39 is mkdir there and getpid here.
#[cfg(target_arch = "x86_64")]
#[test]
fn calls_of_the_i386_abi_end_the_process() {
    let run = |program: Option<&Program>| {
        // SAFETY: see `answers`; the child makes two system calls.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let code = match program.map(Program::install) {
                Some(Err(_)) => 1,
                _ => {
                    let mut result: i64 = 20; // getpid
                    // SAFETY: i386's getpid takes no arguments; the kernel may clobber r8 to r11 on this entry.
                    unsafe {
                        std::arch::asm!("int 0x80", inout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _)
                    };
                    if result > 0 { 0 } else { 2 }
                }
            };
            // SAFETY: _exit takes no pointer.
            unsafe { libc::_exit(code) };
        }
        wait(child)
    };
    let unfiltered = run(None);
    let filtered = run(Some(&compile(Syscalls::Default, &[]).unwrap()));
    assert!(libc::WIFSIGNALED(filtered), "status {filtered:#x}");
    if unfiltered == 0 {
        assert_eq!(libc::WTERMSIG(filtered), libc::SIGSYS);
    } else {
        // A kernel without ia32 emulation: the instruction itself faults.
        assert_eq!(libc::WTERMSIG(unfiltered), libc::SIGSEGV);
    }
}

#[test]
fn a_told_refusal_that_nobody_answers_is_still_one() {
    let told = compile_told(Syscalls::Default, &[]).unwrap();
    let calls = [
        works("getpid", [libc::SYS_getpid]),
        passes("mount", [libc::SYS_mount, BAD, BAD, BAD]),
        passes("unshare", [libc::SYS_unshare, libc::CLONE_NEWUSER.into()]),
        passes("setns", [libc::SYS_setns, BAD]),
        passes("clone3", [libc::SYS_clone3, 0, 0]),
    ];
    let missing = libc::ENOSYS;
    assert_eq!(answers(&told, &calls), [0, missing, missing, missing, missing]);
    // The kernel gives no second listener, so the second program answers by itself.
    let denied = libc::EPERM;
    assert_eq!(
        answers_under(&[&told, &told], &calls),
        [0, denied, denied, denied, missing]
    );
}

const INSIDE: &str = "FUMEHOOD_TEST_INSIDE_FILTER";

/// Threads, processes, pipes and loopback, as test runners use them. Runs itself again under the filters.
#[test]
fn threads_processes_and_loopback_work_inside() {
    if std::env::var_os(INSIDE).is_some() {
        let sum: u32 = (0..8)
            .map(|n| std::thread::spawn(move || n))
            .map(|thread| thread.join().unwrap())
            .sum();
        assert_eq!(sum, 28);
        assert!(
            Command::new("/bin/sh")
                .args(["-c", "true | true & wait"])
                .status()
                .unwrap()
                .success()
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(
            std::fs::read_to_string("/proc/self/status")
                .unwrap()
                .contains("\nSeccomp:\t2\n")
        );
        return;
    }
    let program = compile(Syscalls::Default, &[]).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        concat!(module_path!(), "::threads_processes_and_loopback_work_inside")
            [module_path!().find("::").unwrap() + 2..]
            .as_ref(),
    ]);
    command.env(INSIDE, "1");
    // SAFETY: `install` makes system calls only and does not allocate when it succeeds.
    unsafe { command.pre_exec(move || program.install().map(drop)) };
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn strict_refuses_what_reaches_into_processes_and_what_has_no_name() {
    let (unix, netlink) = (1, 16);
    let linux32 = 8;
    let parameters = 0i32;
    let parameters = (&raw const parameters) as libc::c_long;
    let missing = [
        ("memfd_create", libc::SYS_memfd_create),
        ("execveat", libc::SYS_execveat),
        ("shmget", libc::SYS_shmget),
        ("semget", libc::SYS_semget),
        ("msgget", libc::SYS_msgget),
        ("mq_open", libc::SYS_mq_open),
        ("io_setup", libc::SYS_io_setup),
        ("landlock_create_ruleset", libc::SYS_landlock_create_ruleset),
        ("futex_waitv", libc::SYS_futex_waitv),
        ("mbind", libc::SYS_mbind),
    ];
    let denied = [
        ("ptrace", libc::SYS_ptrace),
        ("process_vm_readv", libc::SYS_process_vm_readv),
        ("pidfd_getfd", libc::SYS_pidfd_getfd),
        ("kcmp", libc::SYS_kcmp),
        ("unshare", libc::SYS_unshare),
        ("name_to_handle_at", libc::SYS_name_to_handle_at),
        ("vmsplice", libc::SYS_vmsplice),
    ];
    let of = |errno, calls: &[(&'static str, libc::c_long)]| -> Vec<Probe> {
        let probe = |(name, number): &(&'static str, libc::c_long)| refused(name, errno, [*number, BAD, BAD, BAD]);
        calls.iter().map(probe).collect()
    };
    let mut probes = of(libc::ENOSYS, &missing);
    probes.extend(of(libc::EPERM, &denied));
    probes.extend([
        refused(
            "sched_setscheduler",
            libc::EPERM,
            [libc::SYS_sched_setscheduler, 0, 5, parameters],
        ),
        refused("personality", libc::EPERM, [libc::SYS_personality, linux32]),
        refused(
            "personality, high bits",
            libc::EPERM,
            [libc::SYS_personality, HIGH | linux32],
        ),
        works("personality, asked", [libc::SYS_personality, 0xffff_ffff]),
        refused("netlink", libc::EAFNOSUPPORT, [libc::SYS_socket, netlink, 3, 0]),
        works("AF_UNIX", [libc::SYS_socket, unix, 1, 0]),
        works("getpid", [libc::SYS_getpid]),
        // What `default` refuses, `strict` does too.
        refused("TIOCSTI", libc::EPERM, [libc::SYS_ioctl, 0, 0x5412, BAD]),
        refused("clone3", libc::ENOSYS, [libc::SYS_clone3, BAD, BAD]),
        refused("mount", libc::EPERM, [libc::SYS_mount, BAD, BAD, BAD]),
    ]);
    check_under(Syscalls::Strict, &probes);

    // The twin: under `default` the same calls reach the kernel.
    let twins = missing.iter().chain(&denied[..4]).chain(&denied[5..]);
    let mut probes: Vec<_> = twins
        .map(|(name, number)| passes(name, [*number, BAD, BAD, BAD]))
        .collect();
    probes.push(works("netlink", [libc::SYS_socket, netlink, 3, 0]));
    probes.push(works("personality, set", [libc::SYS_personality, 0]));
    check(&probes);
}

#[test]
fn set_gid_files_cannot_be_made_and_directories_can() {
    let directory = tempfile::tempdir().unwrap();
    let path = CString::new(directory.path().join("file").as_os_str().as_bytes()).unwrap();
    let root = CString::new(directory.path().as_os_str().as_bytes()).unwrap();
    let (path, root) = (path.as_ptr() as libc::c_long, root.as_ptr() as libc::c_long);
    let at = libc::c_long::from(libc::AT_FDCWD);
    let create = libc::c_long::from(libc::O_CREAT | libc::O_WRONLY);
    check(&[
        refused("openat g+s", libc::EPERM, [libc::SYS_openat, at, path, create, 0o2755]),
        refused("mknodat g+s", libc::EPERM, [libc::SYS_mknodat, at, path, 0o102755]),
        #[cfg(target_arch = "x86_64")]
        refused("creat g+s", libc::EPERM, [libc::SYS_creat, path, 0o2755]),
        works("fchmodat g+s", [libc::SYS_fchmodat, at, root, 0o2755]),
    ]);
}

/// What the thread under the filter saw of one call: the value or the negative error number.
fn outcome(call: [libc::c_long; 4]) -> libc::c_long {
    let [number, a, b, c] = call;
    // SAFETY: no argument in the test below is an address that the kernel would take.
    let returned = unsafe { libc::syscall(number, a, b, c, 0, 0, 0) };
    match returned {
        -1 => -libc::c_long::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        value => value,
    }
}

/// Takes one notification, answers it with `answer` (a negative error number, or a value) and returns what it was about.
fn answer_next(listener: &OwnedFd, answer: libc::c_long) -> libc::seccomp_data {
    // Receiving blocks whatever the descriptor's flags say.
    let mut ready = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    assert_eq!(unsafe { libc::poll(&mut ready, 1, 10_000) }, 1, "nothing was notified");
    // SAFETY: plain data for which all zeroes is valid, and what the kernel demands.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one seccomp_notif.
    let received = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV as _,
            &mut notification,
        )
    };
    assert_eq!(received, 0, "{}", io::Error::last_os_error());
    let response = libc::seccomp_notif_resp {
        id: notification.id,
        val: answer.max(0),
        error: answer.min(0) as i32,
        flags: 0,
    };
    // SAFETY: the kernel reads one seccomp_notif_resp.
    let sent = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &response) };
    assert_eq!(sent, 0, "{}", io::Error::last_os_error());
    notification.data
}

#[test]
fn notified_calls_reach_the_listener_and_refused_ones_do_not() {
    let notify = [
        Notify {
            call: Call::mkdirat,
            when: &[],
        },
        Notify {
            call: Call::socket,
            when: &[When::Is(0, 2)],
        },
        Notify {
            call: Call::mount,
            when: &[],
        },
    ];
    let program = compile(Syscalls::Default, &notify).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    // A filter belongs to a thread, so the listener need not be passed to another process here.
    let confined = std::thread::spawn(move || {
        sender.send(program.install().unwrap().unwrap()).unwrap();
        let filter = libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER);
        [
            outcome([libc::SYS_mkdirat, BAD, BAD, 0o755]),
            outcome([libc::SYS_socket, HIGH | 2, 1, 0]),
            outcome([libc::SYS_socket, 38, 5, 0]),
            outcome([libc::SYS_mount, BAD, BAD, BAD]),
            outcome([libc::SYS_clone3, BAD, BAD, 0]),
            // Another filter is allowed (this one fails for its address), another listener is not.
            outcome([libc::SYS_seccomp, filter, 0, BAD]),
            outcome([libc::SYS_seccomp, filter, 8, BAD]),
            outcome([libc::SYS_getpid, 0, 0, 0]),
        ]
    });
    let listener = receiver.recv().unwrap();
    let first = answer_next(&listener, -libc::c_long::from(libc::EXDEV));
    assert_eq!((first.nr.into(), first.args[2]), (libc::SYS_mkdirat, 0o755));
    let second = answer_next(&listener, 4321);
    assert_eq!((second.nr.into(), second.args[1]), (libc::SYS_socket, 1));
    // SAFETY: F_GETFD takes no pointer.
    let flags = unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags, libc::FD_CLOEXEC);
    let errno = |errno: i32| -libc::c_long::from(errno);
    assert_eq!(
        confined.join().unwrap(),
        [
            errno(libc::EXDEV),
            4321,
            errno(libc::EAFNOSUPPORT),
            errno(libc::EPERM),
            errno(libc::ENOSYS),
            errno(libc::EFAULT),
            errno(libc::EBUSY),
            libc::c_long::from(std::process::id()),
        ]
    );
}
