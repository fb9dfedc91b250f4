//! Names in directories that the daemon itself may not list: a policy's patterns stand for what is there when a run starts.
//!
//! Landlock asks when a directory is opened, not when it is read. So a child of the launcher, which no wall confines, opens what it is
//! asked for and passes the descriptor; the daemon reads it. The child ends when the daemon's end of the socket is closed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{Mode, OFlags};

use crate::wire;

/// How long opening one directory may take: one on a dead network file system takes forever.
const PATIENCE_MS: u16 = 10_000;

/// Opens directories until the other end of the socket is closed.
pub(crate) fn serve(socket: &OwnedFd) {
    while let Ok(Some((path, _))) = wire::receive::<PathBuf>(socket.as_fd()) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let sent = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(directory) => wire::send(socket.as_fd(), &0i32, &[directory.as_fd()]),
            Err(errno) => wire::send(socket.as_fd(), &errno.raw_os_error(), &[]),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The daemon's end. Dropping it ends the child.
#[derive(Debug)]
pub struct Lister {
    socket: OwnedFd,
}

impl Lister {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Lister { socket }
    }

    /// The names in a directory, without `.` and `..`, in no order, `max` of them at most. Blocks.
    ///
    /// # Errors
    /// Why it cannot be opened or read, a symbolic link among other things (`ELOOP` or `ENOTDIR`); `TimedOut` after 10 s; `BrokenPipe` when
    /// nobody opens directories any more.
    pub fn names(&self, directory: &Path, max: usize) -> io::Result<Vec<OsString>> {
        wire::send(self.socket.as_fd(), &directory, &[])?;
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::from(PATIENCE_MS)) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        let (errno, fds) = wire::receive::<i32>(self.socket.as_fd())?.ok_or(io::ErrorKind::BrokenPipe)?;
        let opened = match (errno, <[OwnedFd; 1]>::try_from(fds)) {
            (0, Ok([opened])) => opened,
            (0, Err(_)) => return Err(io::ErrorKind::InvalidData.into()),
            (errno, _) => return Err(io::Error::from_raw_os_error(errno)),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(opened)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() == max {
                break;
            }
            names.push(OsStr::from_bytes(name).to_owned());
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_are_listed_links_are_not_followed_and_the_end_is_told() {
        let place = tempfile::tempdir().unwrap();
        for name in ["b", "a", ".c"] {
            std::fs::write(place.path().join(name), "").unwrap();
        }
        symlink(place.path(), place.path().join("link")).unwrap();
        let (ours, theirs) = wire::pair().unwrap();
        let server = std::thread::spawn(move || serve(&theirs));
        let lister = Lister::new(ours);
        let mut names = lister.names(place.path(), 10).unwrap();
        names.sort();
        assert_eq!(names, [".c", "a", "b", "link"]);
        assert_eq!(lister.names(place.path(), 2).unwrap().len(), 2);
        let errno = |name: &str| lister.names(&place.path().join(name), 10).unwrap_err().raw_os_error();
        assert_eq!(errno("none"), Some(libc::ENOENT));
        assert_eq!(errno("a"), Some(libc::ENOTDIR));
        assert!(matches!(errno("link"), Some(libc::ELOOP | libc::ENOTDIR)));
        drop(lister);
        server.join().unwrap();
        let (ours, theirs) = wire::pair().unwrap();
        drop(theirs);
        let gone = Lister::new(ours).names(place.path(), 1).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    }
}
