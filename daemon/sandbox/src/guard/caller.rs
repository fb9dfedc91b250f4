//! What a waiting call says: its paths and values, read from the caller's memory, and where its paths begin.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::io::Errno;

use super::place::PATH_MAX;
use crate::sys::notify;

/// The part of memory that is read at once: what crosses the border of a page may not be mapped behind it.
const PAGE: u64 = 4096;

/// The thread that waits, and for which answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'l> {
    pub thread: i32,
    pub listener: BorrowedFd<'l>,
    pub id: u64,
}

/// A path argument: a descriptor number to begin at (or `AT_FDCWD`) and an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub directory: i32,
    pub address: u64,
    pub means: Means,
}

/// What a descriptor and an address mean together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// A path.
    Path,
    /// A path, or with an empty one the descriptor's own file (`AT_EMPTY_PATH`).
    PathIfAny,
    /// The descriptor's own file.
    File,
}

impl Caller<'_> {
    /// Whether it still waits. If not, what was read by its number may be another's.
    pub fn waits(self) -> bool {
        notify::waits(self.listener, self.id)
    }

    /// The NUL-terminated string at an address. ENAMETOOLONG, EFAULT.
    pub fn string(self, address: u64) -> Result<CString, Errno> {
        let mut bytes = Vec::with_capacity(256);
        while bytes.len() < PATH_MAX {
            let from = address + bytes.len() as u64;
            let mut buffer = [0u8; 256];
            let rest = (PAGE - from % PAGE).min(256) as usize;
            let read = notify::read_memory(self.thread, from, &mut buffer[..rest]).map_err(errno)?;
            let read = &buffer[..read];
            if let Some(end) = read.iter().position(|byte| *byte == 0) {
                bytes.extend_from_slice(&read[..end]);
                return CString::new(bytes).map_err(|_| Errno::FAULT);
            }
            if read.is_empty() {
                return Err(Errno::FAULT);
            }
            bytes.extend_from_slice(read);
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Exactly `length` bytes at an address.
    pub fn bytes(self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        match notify::read_memory(self.thread, address, &mut bytes).map_err(errno)? {
            read if read == length => Ok(bytes),
            _ => Err(Errno::FAULT),
        }
    }

    /// The words of 64 bits at an address, as timespec and timeval are made of.
    pub fn words<const N: usize>(self, address: u64) -> Result<[i64; N], Errno> {
        let bytes = self.bytes(address, N * 8)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = i64::from_ne_bytes(bytes.try_into().map_err(|_| Errno::FAULT)?);
        }
        Ok(words)
    }

    /// Where a relative path begins: the working directory, or what a descriptor refers to, as the caller's `/proc` names it.
    pub fn base(self, directory: i32) -> Result<PathBuf, Errno> {
        let link = self.link(directory);
        let target = rustix::fs::readlinkat(rustix::fs::CWD, &link, Vec::with_capacity(256));
        match target {
            Ok(target) => Ok(PathBuf::from(OsString::from_vec(target.into_bytes()))),
            Err(Errno::NOENT) if directory != libc::AT_FDCWD => Err(Errno::BADF),
            Err(error) => Err(error),
        }
    }

    /// The magic link that leads to the same.
    pub fn link(self, directory: i32) -> PathBuf {
        match directory {
            libc::AT_FDCWD => format!("/proc/{}/cwd", self.thread).into(),
            number => format!("/proc/{}/fd/{number}", self.thread).into(),
        }
    }

    /// The file mode creation mask.
    pub fn umask(self) -> Result<u32, Errno> {
        self.status("Umask:", 8)
    }

    /// The process that the thread belongs to.
    pub fn process(self) -> Result<i32, Errno> {
        self.status("Tgid:", 10).map(|pid| pid as i32)
    }

    fn status(self, field: &str, radix: u32) -> Result<u32, Errno> {
        let status = std::fs::read(format!("/proc/{}/status", self.thread)).map_err(errno)?;
        // The name, in the first line, may hold anything but a line feed.
        status
            .split(|byte| *byte == b'\n')
            .find_map(|line| line.strip_prefix(field.as_bytes()))
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|value| u32::from_str_radix(value.trim(), radix).ok())
            .ok_or(Errno::SRCH)
    }
}

/// A path as the caller's own process would see it: `/proc/self` and its kin are the caller's, not init's.
pub(crate) fn of_caller(caller: Caller<'_>, path: &OsStr) -> OsString {
    let bytes = path.as_bytes();
    let own = |rest: &[u8]| {
        let mut own = format!("/proc/{}", caller.thread).into_bytes();
        own.extend_from_slice(rest);
        OsString::from_vec(own)
    };
    let rest_of = |prefix: &[u8]| {
        let rest = bytes.strip_prefix(prefix)?;
        (rest.is_empty() || rest[0] == b'/').then_some(rest)
    };
    if let Some(rest) = rest_of(b"/proc/self").or_else(|| rest_of(b"/proc/thread-self")) {
        return own(rest);
    }
    if let Some(rest) = rest_of(b"/dev/fd") {
        return own(&[b"/fd", rest].concat());
    }
    match bytes {
        b"/dev/stdin" => own(b"/fd/0"),
        b"/dev/stdout" => own(b"/fd/1"),
        b"/dev/stderr" => own(b"/fd/2"),
        _ => path.to_owned(),
    }
}

/// The kernel's number of an error.
pub(super) fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// A caller whose memory and `/proc` can be read; it waits for nothing.
    fn caller(thread: i32) -> Caller<'static> {
        static NULL: std::sync::OnceLock<std::fs::File> = std::sync::OnceLock::new();
        Caller {
            thread,
            listener: NULL.get_or_init(|| std::fs::File::open("/dev/null").unwrap()).as_fd(),
            id: 0,
        }
    }

    #[test]
    fn what_is_the_callers_own_is_not_inits() {
        let caller = caller(42);
        let seen = |path: &str| of_caller(caller, OsStr::new(path)).into_string().unwrap();
        assert_eq!(seen("/proc/self/fd/3"), "/proc/42/fd/3");
        assert_eq!(seen("/proc/thread-self/cwd/x"), "/proc/42/cwd/x");
        assert_eq!(seen("/dev/stderr"), "/proc/42/fd/2");
        assert_eq!(seen("/dev/fd/7"), "/proc/42/fd/7");
        assert_eq!(seen("/proc/selfish"), "/proc/selfish");
        assert_eq!(seen("src/main.rs"), "src/main.rs");
    }

    #[test]
    fn memory_is_read_up_to_the_end_of_a_string() {
        let caller = caller(std::process::id() as i32);
        let long = CString::new(vec![b'x'; 700]).unwrap();
        assert_eq!(caller.string(long.as_ptr() as u64).unwrap(), long);
        assert_eq!(caller.string(8), Err(Errno::FAULT));
        let endless = vec![b'y'; PATH_MAX * 2];
        assert_eq!(caller.string(endless.as_ptr() as u64), Err(Errno::NAMETOOLONG));
        assert_eq!(caller.words([7i64, -1].as_ptr() as u64), Ok([7i64, -1]));
        assert!(caller.umask().is_ok());
        assert_eq!(caller.process(), Ok(caller.thread));
    }
}
