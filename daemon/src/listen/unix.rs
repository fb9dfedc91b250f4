//! The Unix socket: in a directory that is the daemon's own, under a lock, never over something that is not its own.
//!
//! The lock is a file beside the socket, `fumehood.lock` for `fumehood.sock`. It holds the daemon's pid for people, is held for the
//! daemon's life by flock(2), so that it is free however the daemon ends, and is never removed: between removing and making it
//! anew two daemons could each hold one.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Who can reach the socket. Who may use the daemon is decided by the peer's uid in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The daemon's user and root: socket 0600, directory made with 0700.
    Owner,
    /// Everybody, for a daemon with other users in `allowed_uids`: socket 0666, directory made with 0755.
    Everybody,
}

impl Reach {
    /// What the allowed users need, for a daemon of user `own`.
    pub fn of(allowed_uids: &[u32], own: u32) -> Self {
        let others = allowed_uids.iter().any(|&uid| uid != own && uid != 0);
        if others { Reach::Everybody } else { Reach::Owner }
    }

    /// The mode of the socket.
    fn mode(self) -> u32 {
        match self {
            Reach::Owner => 0o600,
            Reach::Everybody => 0o666,
        }
    }
}

/// Why the socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A file operation failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket's directory is no directory of its own.
    #[error("the socket's directory {} is {what}; remove it or choose another with --socket", path.display())]
    NotADirectory {
        /// The directory.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Others could put a socket of their own there.
    #[error("the socket's directory {} belongs to uid {uid} and has mode {mode:04o}: others could put a socket of theirs there; it must be uid {own}'s and not writable by others (chmod go-w), or choose another with --socket", path.display())]
    LooseDirectory {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
        /// Who should own it.
        own: u32,
    },
    /// Another daemon serves this socket.
    #[error("another daemon{} serves {}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The other daemon, if it can be told.
        pid: Option<u32>,
    },
    /// Something else is at the socket's path.
    #[error("{} is {what}, not a socket that a daemon left behind; remove it or choose another with --socket", path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

/// A socket that is listened on. [`Socket::remove`] takes it away; a socket that is left behind is taken away by the next daemon.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    inode: (u64, u64),
    lock: File,
}

/// Listens on a Unix socket at an absolute path, blocking for a moment. The listener does not block.
///
/// # Errors
/// When the directory is not the daemon's own, another daemon serves the path, or something else is there. Nothing that is not
/// the daemon user's own socket is ever removed.
pub fn bind(path: &Path, reach: Reach) -> Result<(tokio::net::UnixListener, Socket), BindError> {
    let io = |what| {
        move |source| BindError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let (Some(directory), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(BindError::NotOurs {
            path: path.to_owned(),
            what: "no path of a file",
        });
    };
    own_directory(directory, reach)?;
    let lock = lock(path)?;
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(io("listen on"))?;
    // Until here the umask decided. In a directory that nobody else can write to, nobody can have exchanged the path, and
    // whoever connected meanwhile is judged by uid like everybody.
    std::fs::set_permissions(path, Permissions::from_mode(reach.mode())).map_err(io("set the mode of"))?;
    let found = std::fs::symlink_metadata(path).map_err(io("look at"))?;
    listener.set_nonblocking(true).map_err(io("listen on"))?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(io("listen on"))?;
    Ok((
        listener,
        Socket {
            path: path.to_owned(),
            inode: (found.dev(), found.ino()),
            lock,
        },
    ))
}

impl Socket {
    /// The socket that another daemon listened on, with its lock, both handed over.
    pub fn handed(path: &Path, inode: (u64, u64), lock: File) -> Socket {
        Socket {
            path: path.to_owned(),
            inode,
            lock,
        }
    }

    /// Notes in the lock that this process serves.
    ///
    /// # Errors
    /// When the lock cannot be written.
    pub fn note_process(&self) -> io::Result<()> {
        let mut lock = &self.lock;
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())
    }

    /// Sets who can reach it, if the path is still this one.
    ///
    /// # Errors
    /// When its mode cannot be changed.
    pub fn open_to(&self, reach: Reach) -> io::Result<()> {
        let found = std::fs::symlink_metadata(&self.path)?;
        match (found.dev(), found.ino()) == self.inode && found.mode() & 0o777 != reach.mode() {
            true => std::fs::set_permissions(&self.path, Permissions::from_mode(reach.mode())),
            false => Ok(()),
        }
    }

    /// What another daemon needs to go on with it: device and inode, and its lock.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn hand_over(&self) -> io::Result<((u64, u64), File)> {
        Ok((self.inode, self.lock.try_clone()?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the socket, if the path is still this one, and then frees the lock.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.inode => std::fs::remove_file(&self.path),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Makes the directory or checks that it is the daemon user's and closed to the writing of others. [`bind`] does this too; a daemon that
/// confines itself to its directories must have them before.
///
/// # Errors
/// When it cannot be made, is no directory, or others could put a socket of theirs there.
pub fn own_directory(path: &Path, reach: Reach) -> Result<(), BindError> {
    let io = |what| {
        move |source| BindError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let mode = if reach == Reach::Owner { 0o700 } else { 0o755 };
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        // Something that is no directory: said better below.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(io("make the directory"))?,
    }
    // The opened object is checked, not a name that could be exchanged; O_NOFOLLOW is for the last component.
    let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|source| {
            match source.raw_os_error() {
                // O_DIRECTORY with O_NOFOLLOW says ENOTDIR for a symbolic link too.
                Some(nix::libc::ELOOP | nix::libc::ENOTDIR) => BindError::NotADirectory {
                    path: path.to_owned(),
                    what: "a symbolic link or no directory",
                },
                _ => io("open")(source),
            }
        })?;
    let found = opened.metadata().map_err(io("look at"))?;
    let own = nix::unistd::geteuid().as_raw();
    if found.uid() != own || found.mode() & 0o022 != 0 {
        let (uid, mode) = (found.uid(), found.mode() & 0o7777);
        return Err(BindError::LooseDirectory {
            path: path.to_owned(),
            uid,
            mode,
            own,
        });
    }
    Ok(())
}

/// Where the lock of a socket is.
fn lock_path(socket: &Path) -> PathBuf {
    match socket.extension() {
        Some(extension) if extension == OsStr::new("lock") => socket.with_extension("lock.lock"),
        _ => socket.with_extension("lock"),
    }
}

fn lock(socket: &Path) -> Result<File, BindError> {
    let path = lock_path(socket);
    let io = |what| {
        let path = path.clone();
        move |source| BindError::Io { what, path, source }
    };
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(&path)
        .map_err(io("open the lock"))?;
    if !file.metadata().map_err(io("look at"))?.is_file() {
        return Err(BindError::NotOurs {
            path,
            what: "no regular file",
        });
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.take(32).read_to_string(&mut text);
            return Err(BindError::InUse {
                path: socket.to_owned(),
                pid: text.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(io("write the lock"))?;
    Ok(file)
}

/// Removes the socket of a daemon that is gone; to be called under the lock.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let io = |what| {
        move |source| BindError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let not_ours = |what| BindError::NotOurs {
        path: path.to_owned(),
        what,
    };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at")(error)),
    };
    if !found.file_type().is_socket() {
        let link = found.file_type().is_symlink();
        return Err(not_ours(if link { "a symbolic link" } else { "no socket" }));
    }
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(not_ours("another user's socket"));
    }
    // Somebody without our lock may be listening: a service manager, or another program.
    if UnixStream::connect(path).is_ok() {
        return Err(BindError::InUse {
            path: path.to_owned(),
            pid: None,
        });
    }
    std::fs::remove_file(path).map_err(io("remove the stale"))
}
