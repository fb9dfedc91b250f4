//! The starter: the daemon's only child, whose only child is the launcher.
//!
//! A daemon that has given up what it does not need (see `shed.rs`) cannot start a program, and if it could, the program would
//! be confined as it is: a launcher that died could not be replaced. So a process that does nothing else is started first, and stays
//! outside. It takes one order, to start a launcher in place of the last, with the launcher's end of its socket; the
//! daemon can have the program started that makes sandboxes, under its own policy checks, and nothing else.
//!
//! At end of file on its socket the daemon is gone: the launcher sees the same on its own, cleans up and ends; it is waited for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use serde::{Deserialize, Serialize};

use crate::launcher;
use crate::{sys, wire};

/// What a process that shall become the starter is called (`argv[0]`). The daemon's socket is its standard input.
pub(crate) const ARGV0: &str = "fumehood-starter";

/// From the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Start a launcher. One end of its socket comes along.
    Launch,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Its process id; its pidfd comes along.
    Started(u32),
    /// It could not be started.
    Failed(String),
}

pub(crate) fn run() -> i32 {
    let Ok(socket) = sys::adopt(0).and_then(sys::move_high) else {
        return 1;
    };
    if sys::reserve_low(&[0, 1]).is_err() {
        return 1;
    }
    let _ = rustix::thread::set_name(c"fumehood-start");
    // A terminal's Ctrl-C reaches the whole group: the daemon decides what it means.
    let _ = rustix::process::setsid();
    // What it starts is dumpable again, as a launcher must be to write the id maps of its children.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let mut launcher: Option<Child> = None;
    while let Ok(Some((Order::Launch, fds))) = wire::receive::<Order>(socket.as_fd()) {
        if let Some(mut last) = launcher.take() {
            // Only its socket may be closed; it may be stuck rather than dead.
            let _ = last.kill();
            let _ = last.wait();
        }
        let sent = match start(fds) {
            Ok((child, pidfd)) => {
                let pid = child.id();
                launcher = Some(child);
                wire::send(socket.as_fd(), &Answer::Started(pid), &[pidfd.as_fd()])
            }
            Err(error) => wire::send(socket.as_fd(), &Answer::Failed(error.to_string()), &[]),
        };
        if sent.is_err() {
            break;
        }
    }
    if let Some(mut last) = launcher {
        let _ = last.wait();
    }
    0
}

fn start(fds: Vec<OwnedFd>) -> io::Result<(Child, OwnedFd)> {
    let [socket] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| io::Error::from_raw_os_error(libc::EBADMSG))?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command
        .arg0(launcher::ARGV0)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null());
    let mut child = command.spawn()?;
    let pid = rustix::process::Pid::from_child(&child);
    match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Ok(pidfd) => Ok((child, pidfd)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error.into())
        }
    }
}
