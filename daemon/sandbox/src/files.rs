//! File operations in a sandbox.
//!
//! A *worker* is what a command is, but for the last step: forked by init, confined by the same function, its calls judged by
//! the same filter and guard. Instead of becoming a program it carries out operations that it is told over a socket, one after the other,
//! until that is closed. So it reaches what a command could, and nothing here has to know what that is.
//!
//! Contents of files pass through a pipe that comes along with the operation, not through the socket: as much as fits a buffer is
//! held at each end, however large the file.
//!
//! Paths are resolved once, to a descriptor of a directory and a name in it or to a descriptor of what they lead to, and everything is done by
//! that. Nothing is opened that could block or do something by being opened: what a path leads to is looked at first.
//!
//! ```text
//! files/place.rs     from a path to a directory and a name
//! files/contents.rs  reading and writing
//! files/names.rs     what there is, making, removing, renaming
//! ```

mod contents;
mod names;
mod place;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::wire;

/// Longest path of an operation, in bytes: `PATH_MAX` of linux/limits.h without its NUL.
pub const MAX_PATH_BYTES: usize = 4095;

/// Most entries of one page of a directory.
pub const MAX_PAGE_ENTRIES: u32 = 10_000;

/// A page of a directory ends with the entry by which names and link targets come to more bytes than this.
pub const MAX_PAGE_BYTES: usize = 1 << 20;

/// Names and link targets of the entries in one message: with the longest entry behind them they fit.
const BATCH_BYTES: usize = 8 * 1024;

/// What a worker is told to do. Paths are absolute or relative to the working directory it was given, hold no NUL and have 1 to
/// [`MAX_PATH_BYTES`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Say what a path is. Answered by [`Reply::Info`].
    Stat {
        /// The path.
        path: Vec<u8>,
        /// Whether a symbolic link at its end is followed.
        follow: bool,
    },
    /// List a directory in the order of names. Answered by any number of [`Reply::Entries`], then [`Reply::Page`].
    List {
        /// The directory.
        path: Vec<u8>,
        /// Only names behind this one; empty: all.
        after: Vec<u8>,
        /// So many entries at most, up to [`MAX_PAGE_ENTRIES`].
        limit: u32,
    },
    /// Write a regular file's contents to the pipe that comes along. Answered by [`Reply::Info`] before the first byte and [`Reply::Done`] behind
    /// the last.
    Read {
        /// The file.
        path: Vec<u8>,
        /// From which byte on.
        offset: u64,
        /// So many bytes at most; to its end without.
        length: Option<u64>,
    },
    /// Make a file of what comes from the pipe that comes along. When the pipe is at its end, [`Operation::Commit`] must follow; without it
    /// nothing has been written, but for what was appended. Answered by [`Reply::Written`].
    Write(Write),
    /// All of the contents were sent.
    Commit {
        /// How many bytes that is.
        bytes: u64,
    },
    /// Make a directory. Answered by [`Reply::Made`].
    MakeDirectory {
        /// The directory.
        path: Vec<u8>,
        /// Its permission bits, up to `0o777`.
        mode: u32,
        /// Whether to make those above it; then it may be there already.
        parents: bool,
    },
    /// Remove a file, a link or a directory. Answered by [`Reply::Removed`].
    Remove {
        /// What.
        path: Vec<u8>,
        /// Whether a directory goes with what is in it.
        recursive: bool,
    },
    /// Give something another name. Answered by [`Reply::Done`].
    Rename {
        /// The old name.
        from: Vec<u8>,
        /// The new name.
        to: Vec<u8>,
        /// Whether nothing may be there yet.
        keep_existing: bool,
    },
}

/// How a file is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The file.
    pub path: Vec<u8>,
    /// What becomes of what is there.
    pub mode: WriteMode,
    /// Permission bits of a new file, up to `0o777`.
    pub permissions: u32,
    /// Whether to make missing directories above it.
    pub parents: bool,
    /// Whether it is on disk before the answer.
    pub sync: bool,
}

/// What becomes of a file that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteMode {
    /// Another one takes its place, atomically.
    Replace,
    /// That is an error.
    Create,
    /// It is written behind.
    Append,
}

/// What a worker answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// What a path is.
    Info(Info),
    /// Entries of a directory.
    Entries(Vec<Info>),
    /// The page is complete; whether there are more.
    Page {
        /// Whether names follow behind the last one.
        more: bool,
    },
    /// It is written.
    Written {
        /// What it is now.
        info: Info,
        /// Whether it was not there before.
        created: bool,
        /// How many bytes came.
        bytes: u64,
    },
    /// It is made.
    Made {
        /// What it is.
        info: Info,
        /// Whether it was not there before.
        created: bool,
    },
    /// It is removed.
    Removed {
        /// How many files and directories went.
        count: u64,
    },
    /// It is done.
    Done,
    /// It goes on: sent now and then by what can take long.
    Working,
    /// It failed.
    Failed(Failure),
}

/// What went wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done: `open`, `rename`.
    pub operation: String,
    /// The kernel's error number.
    pub errno: i32,
    /// The path it is about, as it was given, with what lies below it; at most [`MAX_PATH_BYTES`] bytes.
    pub path: Vec<u8>,
    /// How many files and directories had been removed by then.
    pub removed: u64,
    /// The rule by which the worker itself refused it; empty where it did not.
    pub rule: String,
    /// What is there in a regular file's place where that is why: `a socket`. Empty else.
    pub found: String,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The last part of the path that led to it.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes.
    pub size: u64,
    /// Permission bits, up to `0o7777`.
    pub mode: u32,
    /// Its owner as seen inside.
    pub uid: u32,
    /// Its group as seen inside.
    pub gid: u32,
    /// When its contents last changed, in seconds since 1970.
    pub modified_s: i64,
    /// Nanoseconds behind those.
    pub modified_ns: u32,
    /// Where a symbolic link points.
    pub link_target: Vec<u8>,
    /// Its inode's number.
    pub inode: u64,
    /// Its device's number.
    pub device: u64,
    /// How many names it has.
    pub links: u64,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, socket or device.
    Other,
}

/// The daemon's end of a worker's socket. Dropping it ends the worker, which first removes what it was writing.
#[derive(Debug)]
pub struct Worker {
    socket: OwnedFd,
}

impl Worker {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Worker> {
        wire::set_nonblocking(&socket)?;
        Ok(Worker { socket })
    }

    /// Sends an operation with the end of the pipe that it needs. The answers to the one before must have come.
    pub fn send(&self, operation: &Operation, pipe: Option<BorrowedFd<'_>>) -> io::Result<()> {
        wire::send(self.socket.as_fd(), operation, pipe.as_slice())
    }

    /// The next answer; `None` when the worker is gone. `WouldBlock` when there is none yet.
    pub fn receive(&self) -> io::Result<Option<Reply>> {
        Ok(wire::receive::<Reply>(self.socket.as_fd())?.map(|(reply, _)| reply))
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Worker {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// An error on its way to be a [`Failure`].
#[derive(Debug)]
struct Failed {
    operation: &'static str,
    errno: Errno,
    path: Vec<u8>,
    removed: u64,
}

/// Says which operation on which path failed.
fn failing<'a>(operation: &'static str, path: &'a [u8]) -> impl Fn(Errno) -> Failed + 'a {
    move |errno| Failed {
        operation,
        errno,
        path: path.to_vec(),
        removed: 0,
    }
}

/// What an operation came to.
enum Outcome {
    Reply(Reply),
    /// Who asked is gone, or broke off: there is nobody to answer.
    Abandoned,
}

/// Carries out operations until the socket is closed. For a process that is confined already; its umask is 0.
pub(crate) fn serve(socket: &OwnedFd) {
    while let Ok(Some((operation, fds))) = wire::receive::<Operation>(socket.as_fd()) {
        let reply = match carry_out(socket, operation, fds) {
            Ok(Outcome::Reply(reply)) => reply,
            Ok(Outcome::Abandoned) => return,
            Err(Failed {
                operation,
                errno,
                mut path,
                removed,
            }) => {
                let rule = match errno == Errno::ACCESS && place::is_own(&path) {
                    true => place::OWN_RULE,
                    false => "",
                };
                let found = match errno {
                    Errno::OPNOTSUPP => place::special(&path).unwrap_or_default(),
                    _ => "",
                };
                path.truncate(MAX_PATH_BYTES);
                Reply::Failed(Failure {
                    operation: operation.into(),
                    errno: errno.raw_os_error(),
                    path,
                    removed,
                    rule: rule.into(),
                    found: found.into(),
                })
            }
        };
        if wire::send(socket.as_fd(), &reply, &[]).is_err() {
            return;
        }
    }
}

fn carry_out(socket: &OwnedFd, operation: Operation, mut fds: Vec<OwnedFd>) -> Result<Outcome, Failed> {
    let reply = match operation {
        Operation::Stat { path, follow } => names::stat(&path, follow)?,
        Operation::List { path, after, limit } => return names::list(socket, &path, &after, limit),
        Operation::Read { path, offset, length } => {
            let pipe = fds.pop().ok_or(Errno::INVAL).map_err(failing("read", &path))?;
            return contents::read(socket, pipe, &path, offset, length);
        }
        Operation::Write(write) => {
            let pipe = fds.pop().ok_or(Errno::INVAL).map_err(failing("write", &write.path))?;
            return contents::write(socket, pipe, &write);
        }
        // It belongs behind a write.
        Operation::Commit { .. } => return Ok(Outcome::Abandoned),
        Operation::MakeDirectory { path, mode, parents } => names::make_directory(&path, mode, parents)?,
        Operation::Remove { path, recursive } => return names::remove(socket, &path, recursive),
        Operation::Rename {
            from,
            to,
            keep_existing,
        } => names::rename(&from, &to, keep_existing)?,
    };
    Ok(Outcome::Reply(reply))
}

#[cfg(test)]
mod tests;
