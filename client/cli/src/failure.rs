//! Why this program could not do what it was asked, and how that is told.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

use fumehood_client::{ConnectError, DirectoryError, SocketPathError};

use crate::start::StartError;

/// The exit code of a failure of Fumehood itself, as `env`, `timeout` and `docker run` use it.
pub const EXIT_FAILURE: u8 = 125;

/// Why this program could not do what it was asked. How a command ended is never here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    #[error(transparent)]
    SocketPath(#[from] SocketPathError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    HandOver(#[from] crate::daemon::HandOverError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Call(#[from] fumehood_client::Error),
    #[error("the daemon on {} does not answer: see its log, or end it and try again", .0.display())]
    Silent(PathBuf),
    #[error(
        "the daemon is draining and still has runs to wait for: try again when it is gone, or end it with a second SIGTERM (process {pid})"
    )]
    Draining { pid: i32 },
    #[error("the daemon on {} is gone, and the command with it", socket.display())]
    Lost {
        socket: PathBuf,
        source: fumehood_client::Error,
    },
    #[error("the connection to the daemon on {} broke; {known}", socket.display())]
    Cut {
        socket: PathBuf,
        known: String,
        source: fumehood_client::Error,
    },
    #[error("a trial run was not over after {seconds} seconds")]
    Trial { seconds: u64 },
    #[error(
        "there is no terminal to ask on: name a question, `fumehood approve ID`; `fumehood approve --list` shows them"
    )]
    NoTerminal,
    #[error("{0}; `fumehood ps --all` shows the runs that there are")]
    NoRun(String),
    #[error("{0}; `fumehood session ls` shows the sessions that there are")]
    NoSession(String),
    #[error("this run was started without input: attach to it without --input")]
    NoInput,
    #[error("standard input is no terminal, and --tty passes one on: leave it out, or run this on a terminal")]
    NoTty,
    #[error("left with `~.`: the daemon ends the command")]
    Left,
    #[error("no daemon listens on {}", .0.display())]
    NoDaemon(PathBuf),
    #[error("no daemon listens on {}, and --no-start forbids starting one", .0.display())]
    NotStarted(PathBuf),
    #[error("{} is no socket: name the daemon's, or a path where there is nothing yet", .0.display())]
    NoSocket(PathBuf),
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the policy file {} has more than {limit} bytes", path.display())]
    PolicyTooLong { path: PathBuf, limit: u64 },
    #[error("the policy's name is not valid UTF-8: a file must be named with a `/`, as ./FILE")]
    PolicyName,
    #[error(
        "nobody can be asked here, because standard input or standard error is no terminal: look at what is shown, and say --yes"
    )]
    NobodyToAsk,
    #[error("the path {} is not valid UTF-8, and no policy can name it", .0.display())]
    PathNotText(PathBuf),
    #[error("-e {0}: no such variable here; write -e {0}=VALUE, or -e {0}= for an empty one")]
    NoVariable(String),
    #[error("cannot find the current directory; name one with --workspace")]
    CurrentDirectory(#[source] io::Error),
    #[error("the workspace {} is no directory", .0.display())]
    WorkspaceNotDirectory(PathBuf),
    #[error("{} exists: name another file, or replace it with --force", .0.display())]
    Exists(PathBuf),
    #[error("the command did not run, and so nothing can be learnt: {0}")]
    NothingLearnt(String),
    #[error("the environment names no place for the audit log: name the file, or set HOME")]
    NoAuditLog,
    #[error(transparent)]
    AuditLog(#[from] crate::daemon::AuditReadError),
    #[error("cannot {action}")]
    System { action: &'static str, source: io::Error },
    #[error("cannot write to standard {stream}")]
    Output { stream: &'static str, source: io::Error },
}

impl Failure {
    /// Whether all that failed is that nobody reads the output any more, which is no news to anybody.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// An error and its causes, once each, on one line (but for the lines a message has of its own).
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Libraries repeat their cause's text in their own more often than not.
        if !text.ends_with(&message) {
            let _ = write!(text, ": {message}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_once() {
        let source = io::Error::new(io::ErrorKind::PermissionDenied, "permission denied");
        let failure = Failure::File {
            action: "read",
            path: "/x".into(),
            source,
        };
        assert_eq!(chain(&failure), "cannot read /x: permission denied");

        let socket = ConnectError::Socket {
            path: "/s".into(),
            source: io::Error::other("broken"),
        };
        assert_eq!(chain(&Failure::from(socket)), "cannot connect to /s: broken");
    }
}
