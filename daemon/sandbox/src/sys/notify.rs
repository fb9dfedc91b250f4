//! seccomp's user notification (seccomp_unotify(2)): a call waits in the kernel while init decides. No crate that we use wraps it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::unistd::Pid;

use super::check;

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` and `SECCOMP_IOCTL_NOTIF_SET_FLAGS` of linux/seccomp.h (Linux 6.6); not in libc. The one who
/// waits and the one who answers take turns on one processor, which halves the time of a round trip.
const SYNC_WAKE_UP: u64 = 1;
const SET_FLAGS: libc::c_ulong = 0x4008_2104;

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notification {
    /// The kernel's name for it.
    pub id: u64,
    /// The thread that made it, as init sees it.
    pub thread: i32,
    /// Its number.
    pub number: libc::c_long,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What the caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel carries the call out as if nobody had looked.
    Continue,
    /// This return value.
    Value(i64),
    /// This error number.
    Error(i32),
}

/// Makes answers of this listener wake their callers at once. Kernels before 6.6 do not know how; it costs only time there.
pub(crate) fn prefer_turns(listener: BorrowedFd<'_>) {
    // SAFETY: this ioctl takes an integer.
    unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS as _, SYNC_WAKE_UP) };
}

/// The next waiting call. Blocks when none waits: poll first. An interrupted or withdrawn call is ENOENT.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    // SAFETY: seccomp_notif is plain data; the kernel asks for all zeroes.
    let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the ioctl writes one seccomp_notif, which lives through the call.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut raw) }.into())?;
    Ok(Notification {
        id: raw.id,
        thread: raw.pid as i32,
        number: raw.data.nr.into(),
        arguments: raw.data.args,
    })
}

/// Whether the caller still waits: what was read by its thread's number was read from it and from nobody who got the number since.
pub(crate) fn waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the ioctl reads one u64, which lives through the call.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _,
            &raw const id,
        ) == 0
    }
}

/// Answers a call. ENOENT: the caller is gone.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> io::Result<()> {
    let mut response = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: 0,
        flags: 0,
    };
    match answer {
        Answer::Continue => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        Answer::Value(value) => response.val = value,
        Answer::Error(errno) => response.error = -errno,
    }
    let fd = listener.as_raw_fd();
    // SAFETY: the ioctl reads one seccomp_notif_resp, which lives through the call.
    let result = unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw mut response) };
    check(result.into())?;
    Ok(())
}

/// Answers a call with a descriptor: `fd` is opened in the caller, whose call returns its number (Linux 5.14). EMFILE: the
/// caller has no number left.
pub(crate) fn answer_with_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<()> {
    let request = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: fd.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    let fd = listener.as_raw_fd();
    // SAFETY: the ioctl reads one seccomp_notif_addfd, which lives through the call.
    let result = unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_ADDFD as _, &raw const request) };
    check(result.into())?;
    Ok(())
}

/// Reads the memory of another thread's process; what is not mapped ends the read. EFAULT when nothing is.
pub(crate) fn read_memory(thread: i32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let length = buffer.len();
    let remote = [nix::sys::uio::RemoteIoVec {
        base: usize::try_from(address).map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))?,
        len: length,
    }];
    let mut local = [io::IoSliceMut::new(buffer)];
    Ok(nix::sys::uio::process_vm_readv(
        Pid::from_raw(thread),
        &mut local,
        &remote,
    )?)
}

/// A copy of another process's descriptor (pidfd_getfd(2), Linux 5.6). `process` is a pidfd.
pub(crate) fn descriptor_of(process: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes integers only.
    let copy = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })?;
    Ok(super::received(vec![copy as RawFd]).remove(0))
}
