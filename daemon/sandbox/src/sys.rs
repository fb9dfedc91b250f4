//! The floor: raw calls that no crate of ours wraps, each behind a safe signature.
//!
//! Everything here is called in a process with one thread (launcher, init, a command before its exec) unless its doc
//! says otherwise.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub(crate) mod notify;

/// Turns the -1 of a raw call into the error it stands for.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// What a fork returns.
pub(crate) enum Forked {
    /// In the parent: the child's pid.
    Parent(Pid),
    /// In the child.
    Child,
}

/// Forks. Only for a process with one thread, where the child may do anything the parent could.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: launcher and init never start a second thread, so no lock can be held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Forked::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
    }
}

/// The namespaces every sandbox's init is born into. The network's depends on the sandbox; the cgroup namespace is entered later, once init is in its cgroup.
pub(crate) const NAMESPACES: libc::c_int =
    libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// `CLONE_INTO_CGROUP` of linux/sched.h; libc's constant has a type too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks a sibling: a child of this process's parent (`CLONE_PARENT`), which reaps it. Neither nix nor rustix wraps that. As for [`fork`], only
/// for a process with one thread. Returns the sibling's pid here, `None` in the sibling.
pub(crate) fn fork_sibling() -> io::Result<Option<Pid>> {
    // SAFETY: clone_args is plain data for which all zeroes is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    // The signal at its end is that of this process: the kernel refuses another.
    args.flags = libc::CLONE_PARENT as u64;
    // SAFETY: without CLONE_VM and with no stack given the call behaves as fork; the process has one thread, `args` outlives the call.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    Ok((pid != 0).then(|| Pid::from_raw(pid as i32)))
}

/// clone3(2) into new namespaces, optionally into a version 2 cgroup (`CLONE_INTO_CGROUP`, Linux 5.7). nix and rustix wrap
/// neither clone3 nor that flag.
///
/// Returns the child's pid and pidfd in the parent, `None` in the child.
pub(crate) fn clone_namespaces(
    own_network: bool,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain data for which all zeroes is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let network = if own_network { libc::CLONE_NEWNET } else { 0 };
    args.flags = (NAMESPACES | network | libc::CLONE_PIDFD) as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with no stack given the call behaves as fork; the process has one thread, `args` and
    // `pidfd` outlive the call.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel stored a fresh descriptor in `pidfd`, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some((Pid::from_raw(pid as i32), pidfd)))
}

/// Installs a seccomp filter with a listener on the calling thread, for good, and sets `no_new_privs`. Does not allocate.
///
/// seccompiler has no listener. `WAIT_KILLABLE_RECV` (Linux 5.19) keeps a signal from interrupting a call that the listener has
/// already received, so that what was done for it is not done twice; an older kernel is asked without.
pub(crate) fn install_filter_with_listener(filter: &[seccompiler::sock_filter]) -> io::Result<OwnedFd> {
    let length = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_ptr().cast_mut().cast::<libc::sock_filter>(),
    };
    // SAFETY: the option takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    let install = |flags: libc::c_ulong| {
        // SAFETY: seccompiler's sock_filter is laid out as the kernel's (repr(C), same fields); the kernel reads `length` of them and
        // writes nothing.
        check(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        })
    };
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = match install(listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => install(listener)?,
        result => result?,
    };
    // SAFETY: the kernel returned a fresh descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// mount_setattr(2) (Linux 5.12): adds attributes to the mount `fd` refers to, and with `recursive` to all below it.
/// rustix has no wrapper.
pub(crate) fn mount_set_attributes(fd: BorrowedFd<'_>, attributes: u64, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` lives through the call and its size is passed along.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Takes over a descriptor that is known by its number (a launcher's standard input, the error pipe at 3), after checking that it is
/// open, and marks it close-on-exec. The caller must be the only one to adopt that number.
pub(crate) fn adopt(raw: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD touches no memory; it fails with EBADF for a number that is not open.
    check(unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: the descriptor is open, was opened by nobody in this process, and its number is given away only here.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Wraps descriptors that the kernel has just installed for an SCM_RIGHTS message.
pub(crate) fn received(raw: Vec<RawFd>) -> Vec<OwnedFd> {
    // SAFETY: recvmsg(2) opened these numbers for us; no other owner exists.
    raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// Makes `stdio` 0, 1 and 2 in the child of a fork, gives `keep` the number 3 and marks everything above close-on-exec, so that
/// after exec exactly 0, 1 and 2 are open. Init holds [`reserve_low`] numbers, so nothing in use is overwritten.
pub(crate) fn install_stdio(stdio: &[OwnedFd; 3], keep: BorrowedFd<'_>) -> io::Result<()> {
    // Sources are moved above the targets first, so that no target is overwritten before it was copied.
    let mut high = [0; 4];
    for (slot, fd) in high.iter_mut().zip(stdio.iter().map(AsFd::as_fd).chain([keep])) {
        // SAFETY: F_DUPFD_CLOEXEC touches no memory.
        *slot = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) }.into())? as RawFd;
    }
    for (target, source) in high.iter().enumerate() {
        let flags = if target == 3 { libc::O_CLOEXEC } else { 0 };
        // SAFETY: dup3 touches no memory; the numbers 0 to 3 hold nothing but /dev/null and standard error here.
        check(unsafe { libc::dup3(*source, target as RawFd, flags) }.into())?;
    }
    close_on_exec_from(4)
}

/// Gives a copy of `fd` this number, replacing what was there, to be inherited by what is executed.
pub(crate) fn install_at(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // SAFETY: F_SETFD touches no memory.
        check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }.into())?;
    } else {
        // SAFETY: dup3 touches no memory; the caller is about to execute something else and owns nothing at that number any more.
        check(unsafe { libc::dup3(fd.as_raw_fd(), number, 0) }.into())?;
    }
    Ok(())
}

/// Opens /dev/null on each number of 0 to 3 in `numbers`, replacing what was there, so that no descriptor of ours ever gets a number that
/// [`install_stdio`] overwrites. The caller has moved or given up what it held there.
pub(crate) fn reserve_low(numbers: &[RawFd]) -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    for number in numbers {
        if null.as_raw_fd() != *number {
            // SAFETY: dup3 touches no memory; what was open at that number has been given up by the caller.
            check(unsafe { libc::dup3(null.as_raw_fd(), *number, libc::O_CLOEXEC) }.into())?;
        }
    }
    if numbers.contains(&null.as_raw_fd()) {
        // It landed on one of the numbers itself and stays there.
        std::mem::forget(null);
    }
    Ok(())
}

/// A copy of `fd` with a number of at least 10, close-on-exec.
pub(crate) fn move_high(fd: OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC touches no memory.
    let high = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10) }.into())? as RawFd;
    // SAFETY: fcntl has just opened this number for us.
    Ok(unsafe { OwnedFd::from_raw_fd(high) })
}

/// Lets go of what a caller left in a process that shall outlive it: descriptors above 2 are closed, so that no pipe of the caller's stays
/// open, and signals have their default actions, so that what it ignored is not ignored here. SIGPIPE is ignored, as the Rust
/// runtime has it. For the beginning of `main`, before anything was opened.
pub fn forget_caller() -> io::Result<()> {
    reset_signals();
    // SAFETY: SIG_IGN installs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    // SAFETY: the call touches no memory; at the beginning of main nobody owns a descriptor above 2.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) })?;
    Ok(())
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: the call touches no memory and closes nothing now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Sets every signal to its default action and empties the signal mask: the Rust runtime ignores SIGPIPE, and what was ignored
/// or blocked stays so across exec.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL installs no code; numbers that cannot be set (SIGKILL, SIGSTOP, glibc's own) fail harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: both sets are plain memory that the calls initialise and read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Has signals ignored that would end a process which writes: it gets the error then.
pub(crate) fn ignore_write_signals() {
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        // SAFETY: SIG_IGN installs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// A random number: getrandom(2).
pub(crate) fn random() -> Result<u64, rustix::io::Errno> {
    let mut bytes = [0u8; 8];
    // SAFETY: the call writes at most the given length to the buffer, which lives through it.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(got) {
        Ok(8) => Ok(u64::from_ne_bytes(bytes)),
        // Up to 256 bytes come whole, or an error does.
        _ => Err(rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO)),
    }
}

/// Landlock's ABI version on this kernel: landlock_create_ruleset(2) with LANDLOCK_CREATE_RULESET_VERSION. 0 when absent or
/// disabled at boot.
pub fn landlock_abi() -> u32 {
    // SAFETY: with a null pointer and size 0 the call reads no memory.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32) };
    u32::try_from(abi).unwrap_or(0)
}

/// Brings `lo` of the current network namespace up; the kernel then gives it 127.0.0.1/8 and ::1.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())?;
    Ok(())
}

/// CPU time and largest resident set of the children that were waited for.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rusage {
    pub user_us: u64,
    pub system_us: u64,
    pub max_rss_bytes: u64,
}

impl From<libc::rusage> for Rusage {
    fn from(usage: libc::rusage) -> Self {
        let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
        Rusage {
            user_us: micros(usage.ru_utime),
            system_us: micros(usage.ru_stime),
            max_rss_bytes: usage.ru_maxrss as u64 * 1024,
        }
    }
}

/// wait4(2) without blocking. nix's waitpid gives no usage. `None`: no such child has ended.
pub(crate) fn reap(pid: Pid) -> io::Result<Option<(Pid, libc::c_int, Rusage)>> {
    let mut status = 0;
    // SAFETY: rusage is plain data for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both out-pointers live through the call.
    let pid = unsafe { libc::wait4(pid.as_raw(), &raw mut status, libc::WNOHANG, &raw mut usage) };
    match check(pid.into())? {
        0 => Ok(None),
        pid => Ok(Some((Pid::from_raw(pid as i32), status, usage.into()))),
    }
}

/// What has become of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It has ended, and waits to be reaped.
    Ended(Pid),
    /// A signal stopped it.
    Stopped(Pid),
}

/// The next child that has ended or was stopped (waitid(2)), without reaping it; that it was stopped is told once. nix cannot tell of an end
/// by a real-time signal. `None`: none has; ECHILD: there is no child.
pub(crate) fn next_change() -> io::Result<Option<Change>> {
    let wait = |kind, id, options| {
        // SAFETY: siginfo_t is plain data for which all zeroes is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the out-pointer lives through the call.
        check(unsafe { libc::waitid(kind, id, &raw mut info, options | libc::WNOHANG) }.into())?;
        // SAFETY: waitid filled in the fields of a SIGCHLD, or left zeroes where there is nothing to tell.
        Ok::<_, io::Error>((unsafe { info.si_pid() }, info.si_code))
    };
    let (pid, code) = wait(libc::P_ALL, 0, libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT)?;
    if pid == 0 {
        return Ok(None);
    }
    if matches!(code, libc::CLD_STOPPED | libc::CLD_TRAPPED) {
        wait(libc::P_PID, pid as libc::id_t, libc::WSTOPPED)?;
        return Ok(Some(Change::Stopped(Pid::from_raw(pid))));
    }
    Ok(Some(Change::Ended(Pid::from_raw(pid))))
}

/// wait4(2), blocking, for any child.
pub(crate) fn wait_for_any() -> io::Result<(Pid, libc::c_int)> {
    let mut status = 0;
    loop {
        // SAFETY: the out-pointer lives through the call; no usage is asked for.
        let pid = unsafe { libc::wait4(-1, &raw mut status, 0, std::ptr::null_mut()) };
        match check(pid.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return Ok((Pid::from_raw(result? as i32), status)),
        }
    }
}

/// What the children that this process has waited for consumed, and what they had waited for.
pub(crate) fn children_usage() -> Rusage {
    // SAFETY: rusage is plain data for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the out-pointer lives through the call, which cannot fail with these arguments.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    usage.into()
}

/// Holds back every signal that can be held back, so that only SIGKILL and SIGSTOP have an effect.
pub(crate) fn block_signals() {
    // SAFETY: the set is plain memory that the calls initialise and read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// pidfd_send_signal(2) with any signal number; rustix takes its own type, which has no real-time signals. As for [`kill`] the result is
/// of no use.
pub(crate) fn signal_process(process: BorrowedFd<'_>, signal: i32) {
    // SAFETY: without a siginfo the call touches no memory.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
}

/// A C string; the inner NUL that it cannot hold is EINVAL.
pub(crate) fn c_string(bytes: &OsStr) -> io::Result<CString> {
    CString::new(bytes.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// execve(2). Returns only when it failed.
pub(crate) fn execve(path: &CStr, argv: &[CString], env: &[CString]) -> nix::errno::Errno {
    match nix::unistd::execve(path, argv, env) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

/// The number of this process's threads.
pub(crate) fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// The errno of an error; 0 when it has none.
pub(crate) fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(match error.kind() {
        io::ErrorKind::NotFound => libc::ENOENT,
        io::ErrorKind::PermissionDenied => libc::EACCES,
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => libc::EINVAL,
        _ => libc::EIO,
    })
}

/// kill(2) with any signal number. The result is of no use to callers: a target may end at any moment.
pub(crate) fn kill(target: i32, signal: i32) {
    // SAFETY: the call touches no memory.
    unsafe { libc::kill(target, signal) };
}

/// Closes every descriptor above 2 but those in `keep`. For the child of a fork that goes on without exec.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut numbers: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    numbers.sort_unstable();
    let mut first = 3u32;
    for number in numbers.into_iter().filter(|number| *number >= 3) {
        if number > first {
            // SAFETY: the call touches no memory; the values that own these numbers belong to the parent's life and are never
            // dropped or used in this process.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, number - 1, 0) })?;
        }
        first = number + 1;
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })?;
    Ok(())
}

/// Gives up the right to gain any capability by exec. Takes CAP_SETPCAP.
pub(crate) fn empty_bounding_set() -> io::Result<()> {
    // The numbers end where the kernel says EINVAL; it has never defined more than 64.
    for number in 0..64 {
        let capability = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
