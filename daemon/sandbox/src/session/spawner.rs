//! The spawner of a session: a process that has taken on what all commands of the session have in common, and forks keepers.
//!
//! What descends from it shares one Landlock domain. Commands that took on a domain of their own each could neither signal nor look into a
//! background process of an earlier one. It forks siblings (`CLONE_PARENT`), so that keepers are init's children and do not depend on it; one
//! is kept ready, so that a run does not wait for it.
//!
//! Commands can kill or stop it: it has their user and their domain. Then init replaces it, or lets it go on, and never waits for it. It
//! cannot be traced: it is not dumpable, as init, whose image it is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::keeper;
use crate::command::{Confinement, SpawnError};
use crate::sys::{self, Forked};
use crate::wire;

/// Spawners and keepers that may die one after the other without a keeper coming of it, before the runs that wait for one are given up.
const MAX_FAILURES: u32 = 8;

/// How long to wait after a failure before it is tried again.
const REST: Duration = Duration::from_millis(100);

/// From init to the spawner.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Fork a keeper, which takes the socket that comes along.
    Fork,
}

/// From the spawner to init.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// It is confined: once, at first.
    Ready,
    /// It could not be confined, and ends.
    Failed(SpawnError),
    /// The keeper's pid.
    Forked(i32),
    /// There is none; the kernel's error number.
    NotForked(i32),
}

/// A keeper, as init holds it.
#[derive(Debug)]
pub(super) struct Keeper {
    pub pid: Pid,
    pub socket: OwnedFd,
}

/// The spawner and the keepers that have no run yet, as init holds them.
#[derive(Debug, Default)]
pub(super) struct Spawner {
    /// Its pid, until it is reaped; and its socket, until it has hung up.
    process: Option<Pid>,
    socket: Option<OwnedFd>,
    /// The socket of the keeper that is being forked.
    forking: Option<OwnedFd>,
    spare: Option<Keeper>,
    failures: u32,
    /// Until when nothing is tried, after a failure that is likely to come again: no process may be forked.
    resting: Option<Instant>,
}

impl Spawner {
    /// Starts the first one and waits until it is confined. There is no command yet that could keep it from that.
    pub fn start(confinement: &Confinement) -> Result<Spawner, SpawnError> {
        let mut spawner = Spawner::default();
        let failed = |error: io::Error| SpawnError::new("start the spawner", sys::errno_of(&error), "");
        spawner.launch(confinement).map_err(failed)?;
        let socket = spawner
            .socket
            .as_ref()
            .ok_or_else(|| failed(io::ErrorKind::NotConnected.into()))?;
        match wire::receive::<Answer>(socket.as_fd()).map_err(failed)? {
            Some((Answer::Ready, _)) => {}
            Some((Answer::Failed(error), _)) => return Err(error),
            _ => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
        }
        spawner.prepare(confinement)?;
        Ok(spawner)
    }

    /// Forks a spawner.
    fn launch(&mut self, confinement: &Confinement) -> io::Result<()> {
        let (socket, theirs) = wire::pair()?;
        match sys::fork()? {
            Forked::Child => serve(&theirs, confinement),
            Forked::Parent(pid) => {
                self.process = Some(pid);
                self.socket = Some(socket);
                Ok(())
            }
        }
    }

    /// Sees to it that there is a keeper to spare, or will be. An error is why there will be none for now.
    pub fn prepare(&mut self, confinement: &Confinement) -> Result<(), SpawnError> {
        if self.spare.is_some() || self.forking.is_some() || self.resting.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        self.resting = None;
        self.order(confinement)
            .map_err(|error| self.rest(SpawnError::new("fork", sys::errno_of(&error), "")))
    }

    fn order(&mut self, confinement: &Confinement) -> io::Result<()> {
        // One that has hung up but is not reaped yet is dead.
        if self.socket.is_none() {
            self.launch(confinement)?;
        }
        let (socket, theirs) = wire::pair()?;
        let order = |to: &OwnedFd| wire::send(to.as_fd(), &Order::Fork, &[theirs.as_fd()]);
        match self.socket.as_ref().map(order) {
            Some(Ok(())) => self.forking = Some(socket),
            // It died meanwhile: the next call starts another.
            _ => self.lose(),
        }
        Ok(())
    }

    /// There will be no keeper for now.
    fn rest(&mut self, error: SpawnError) -> SpawnError {
        self.failures = 0;
        self.resting = Some(Instant::now() + REST);
        error
    }

    /// When [`Self::prepare`] has something to try again.
    pub fn due(&self) -> Option<Instant> {
        self.resting.filter(|_| self.spare.is_none() && self.forking.is_none())
    }

    /// The spawner is dead, and nothing will come of a keeper that it was about to fork.
    fn lose(&mut self) {
        self.socket = None;
        self.forking = None;
        self.failures += 1;
    }

    /// Takes what the spawner has said so far. An error is why there will be no keeper.
    pub fn listen(&mut self) -> Result<(), SpawnError> {
        while let Some(socket) = self.socket.as_ref().filter(|socket| super::is_readable(socket.as_fd())) {
            match wire::receive::<Answer>(socket.as_fd()) {
                Ok(Some((Answer::Ready, _))) => {}
                Ok(Some((Answer::Failed(error), _))) => {
                    self.lose();
                    return Err(self.rest(error));
                }
                Ok(Some((Answer::Forked(pid), _))) => {
                    let pid = Pid::from_raw(pid);
                    self.spare = self.forking.take().map(|socket| Keeper { pid, socket });
                }
                Ok(Some((Answer::NotForked(errno), _))) => {
                    self.forking = None;
                    return Err(self.rest(SpawnError::new("fork", errno, "")));
                }
                Ok(None) | Err(_) => self.lose(),
            }
        }
        if self.failures >= MAX_FAILURES {
            return Err(self.rest(SpawnError::new("fork", libc::EAGAIN, "")));
        }
        Ok(())
    }

    /// The keeper that is ready.
    pub fn take(&mut self) -> Option<Keeper> {
        self.spare.take()
    }

    /// A run was given to a keeper that took it: things work.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A keeper was dead before it could take a run.
    pub fn keeper_failed(&mut self) {
        self.failures += 1;
    }

    /// Where the spawner speaks.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Whether a child of init may be a keeper of which the spawner has not told yet.
    pub fn is_forking(&self) -> bool {
        self.forking.is_some()
    }

    /// Whether a child of init is the spawner or the spare keeper.
    pub fn has(&self, pid: Pid) -> bool {
        self.process == Some(pid) || self.spare.as_ref().is_some_and(|keeper| keeper.pid == pid)
    }

    /// Takes note of the end of a child.
    pub fn bury(&mut self, pid: Pid) {
        if self.process == Some(pid) {
            self.process = None;
        }
        if self.spare.as_ref().is_some_and(|keeper| keeper.pid == pid) {
            self.spare = None;
            self.failures += 1;
        }
    }
}

/// The spawner itself.
fn serve(socket: &OwnedFd, confinement: &Confinement) -> ! {
    sys::block_signals();
    let _ = rustix::thread::set_name(c"fumehood-spawn");
    let say = |answer: &Answer| wire::send(socket.as_fd(), answer, &[]);
    let confined = confinement.enter_domain().and_then(|()| {
        // After the domain, for which the ruleset's descriptor was needed. Keepers, and through them commands, must hold nothing of init's.
        sys::close_all_but(&[socket.as_fd()])
            .map_err(|error| SpawnError::new("close descriptors", sys::errno_of(&error), ""))
    });
    let mut said = match confined {
        Ok(()) => say(&Answer::Ready),
        Err(error) => {
            let _ = say(&Answer::Failed(error));
            std::process::exit(1)
        }
    };
    while said.is_ok() {
        let Ok(Some((Order::Fork, fds))) = wire::receive::<Order>(socket.as_fd()) else {
            break;
        };
        let Ok([theirs]) = <[OwnedFd; 1]>::try_from(fds) else {
            break;
        };
        said = match sys::fork_sibling() {
            Ok(None) => keeper::run(&theirs, confinement),
            Ok(Some(pid)) => say(&Answer::Forked(pid.as_raw())),
            Err(error) => say(&Answer::NotForked(sys::errno_of(&error))),
        };
    }
    std::process::exit(0)
}
