//! A keeper: the parent of one run's main process, and of whatever of the run loses its own (`PR_SET_CHILD_SUBREAPER`).
//!
//! So the run's tree is what descends from it, whatever its processes do: sessions and process groups of their own, forks and ends of parents.
//! It executes one command, reaps until nothing is left below it, and ends. It kills nothing: init does, which commands can neither stop
//! nor kill.

use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::Pid;
use rustix::process::{Pid as Process, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::command::{self, Confinement, Descriptors, Domain, Report, SpawnError, Task};
use crate::spec::CommandSpec;
use crate::sys::{self, Forked, Rusage};
use crate::wire;

/// From init to a keeper, once.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Execute a command. These come along: where its process [reports](Report) what becomes of it, its spec, its state where it has one, and
    /// what becomes 0, 1 and 2.
    Command {
        /// Whether a state comes.
        state: bool,
    },
    /// Carry out operations on files. Where its process reports, the spec of a command, of which working directory and umask count, and the
    /// socket that the operations come from come along.
    Files,
}

/// From a keeper to init.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Kept {
    /// The main process is there; its pidfd comes along. Whether it becomes the command is reported by itself.
    Born(i32),
    /// It could not be forked.
    NotForked(i32),
    /// It was reaped.
    Ended {
        /// Its status, as wait4(2) has it.
        status: i32,
        /// What was reaped so far consumed.
        usage: Rusage,
    },
}

/// Keeps a run. A process that was just forked for it, with the spawner's descriptors.
pub(super) fn run(socket: &OwnedFd, confinement: &Confinement) -> ! {
    let _ = rustix::thread::set_name(c"fumehood-keep");
    // Any pid switches it on; the call knows no other errors.
    let own = Process::from_raw(std::process::id() as i32);
    if sys::close_all_but(&[socket.as_fd()]).is_err() || rustix::process::set_child_subreaper(own).is_err() {
        std::process::exit(1);
    }
    let Ok(Some((order, fds))) = wire::receive::<Order>(socket.as_fd()) else {
        std::process::exit(0);
    };
    let say = |kept: &Kept, fds: &[std::os::fd::BorrowedFd<'_>]| {
        let _ = wire::send(socket.as_fd(), kept, fds);
    };
    let leader = match sys::fork() {
        Ok(Forked::Child) => become_leader(order, fds, confinement),
        Ok(Forked::Parent(pid)) => pid,
        Err(error) => {
            say(&Kept::NotForked(sys::errno_of(&error)), &[]);
            std::process::exit(0)
        }
    };
    // Pipes must end with the command and not with its keeper.
    drop(fds);
    // By its parent, before it is reaped: the number is its own.
    let process =
        Process::from_raw(leader.as_raw()).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    let process: Vec<_> = process.iter().map(AsFd::as_fd).collect();
    say(&Kept::Born(leader.as_raw()), &process);
    reap(leader, |status| {
        let usage = sys::children_usage();
        say(&Kept::Ended { status, usage }, &[]);
    });
    std::process::exit(0)
}

/// Reaps until nothing is left below this process.
fn reap(leader: Pid, ended: impl Fn(i32)) {
    while let Ok((pid, status)) = sys::wait_for_any() {
        if pid == leader {
            ended(status);
        }
    }
}

/// The main process, from its fork on.
fn become_leader(order: Order, fds: Vec<OwnedFd>, confinement: &Confinement) -> ! {
    let mut fds = fds.into_iter();
    let Some(reports) = fds.next() else {
        std::process::exit(127)
    };
    let error = match prepare(order, fds) {
        Ok((command, worker, stdio, state)) => {
            let task = worker.as_ref().map_or(Task::Execute, Task::Files);
            let descriptors = Descriptors { stdio, state, reports };
            command::become_task(&command, task, &descriptors, confinement, Domain::Inherited)
        }
        Err(error) => error,
    };
    let _ = wire::send(reports.as_fd(), &Report::Failed(error), &[]);
    std::process::exit(127)
}

/// Spec, a worker's socket, descriptors 0 to 2 and state, from what came with the order.
type Prepared = (CommandSpec, Option<OwnedFd>, [OwnedFd; 3], Option<OwnedFd>);

fn prepare(order: Order, mut fds: impl Iterator<Item = OwnedFd>) -> Result<Prepared, SpawnError> {
    let spec = fds.next().ok_or_else(SpawnError::request)?;
    let command: CommandSpec = wire::read_memory_file(spec).map_err(|_| SpawnError::request())?;
    match order {
        Order::Files => {
            let socket = fds.next().ok_or_else(SpawnError::request)?;
            let failed = |error| SpawnError::new("open /dev/null", sys::errno_of(&error), "");
            let stdio = command::no_stdio().map_err(failed)?;
            Ok((command, Some(socket), stdio, None))
        }
        Order::Command { .. } if command.argv.is_empty() => Err(SpawnError::request()),
        Order::Command { state } => {
            let state = if state { fds.next() } else { None };
            let stdio = <[OwnedFd; 3]>::try_from(fds.collect::<Vec<_>>()).map_err(|_| SpawnError::request())?;
            Ok((command, None, stdio, state))
        }
    }
}
