//! One run of a session, as init holds it: its sockets, its keeper, and what was said of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::keeper::{Kept, Order};
use super::spawner::Keeper;
use crate::command::{Report, SpawnError};
use crate::event::{Event, ExitStatus, SignalScope, Usage};
use crate::init::exit_status;
use crate::sys::{self, Rusage, notify};
use crate::waiting::Refusals;
use crate::{launcher, processes, wire};

/// The first pause between two rounds of killing, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Signals that are kept for a run that has no process yet. Whoever sends more sends the same again.
const MAX_EARLY: usize = 16;

/// Rounds of killing: the next one is due, and how long the pause after it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    pub due: Instant,
    pause: Duration,
}

impl Rounds {
    pub fn begin() -> Self {
        Rounds {
            due: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    pub fn next(self) -> Self {
        Rounds {
            due: Instant::now() + self.pause,
            pause: (self.pause * 2).min(LONGEST_PAUSE),
        }
    }
}

/// What a run has to be given to a keeper.
#[derive(Debug)]
pub(super) struct Material {
    pub order: Order,
    /// As the [`Order`] says, but for the first.
    pub fds: Vec<OwnedFd>,
    /// The master of its terminal.
    pub master: Option<OwnedFd>,
}

/// How far it is.
#[derive(Debug)]
enum Stage {
    /// It has no keeper yet.
    Queued(Material),
    /// A keeper has it.
    Starting {
        /// Where its process reports. `None` once that is closed: it has become the command, or ended.
        reports: Option<OwnedFd>,
        master: Option<OwnedFd>,
        failure: Option<SpawnError>,
    },
    /// The command runs.
    Started,
    /// Its main process has ended, or never became the command.
    Ended,
}

/// The main process.
#[derive(Debug)]
struct Leader {
    pid: Pid,
    /// Its pidfd; `None` where it was gone already.
    process: Option<OwnedFd>,
}

#[derive(Debug)]
pub(super) struct Run {
    pub number: u64,
    /// Where the daemon listens; `None` once it does not any more, or has been told that the run is over.
    daemon: Option<OwnedFd>,
    stage: Stage,
    /// The pid of its keeper, until that is reaped.
    pub keeper: Option<Pid>,
    /// The socket of its keeper, until that hangs up.
    keeper_socket: Option<OwnedFd>,
    leader: Option<Leader>,
    /// Signals that came before it was known.
    early: Vec<(i32, SignalScope)>,
    /// How its main process ended, where init reaped it.
    reaped: Option<ExitStatus>,
    /// Where its watched calls wait, until none of its processes is left.
    pub listener: Option<OwnedFd>,
    refusals: Refusals,
    usage: Usage,
    /// Processes that the kernel killed for want of memory in the whole session, before it.
    oom_kills_before: u64,
    /// Whether what is left when the main process has ended is to stay.
    leaving: bool,
    /// Its tree is being killed.
    pub killing: Option<Rounds>,
}

impl Run {
    pub fn new(number: u64, daemon: OwnedFd, material: Material, oom_kills: u64) -> Self {
        Run {
            number,
            daemon: Some(daemon),
            stage: Stage::Queued(material),
            keeper: None,
            keeper_socket: None,
            leader: None,
            early: Vec::new(),
            reaped: None,
            listener: None,
            refusals: Refusals::default(),
            usage: Usage::default(),
            oom_kills_before: oom_kills,
            leaving: false,
            killing: None,
        }
    }

    /// Whether it waits for a keeper.
    pub fn is_queued(&self) -> bool {
        matches!(self.stage, Stage::Queued(_))
    }

    /// Whether a keeper has it, and the command does not run yet.
    pub fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. })
    }

    /// Whether its main process has ended.
    pub fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// Whether the daemon still wants to know of it.
    pub fn is_followed(&self) -> bool {
        self.daemon.is_some()
    }

    /// Where the daemon speaks, the keeper, the process that shall become the command, and where calls wait.
    pub fn sockets(&self) -> [Option<BorrowedFd<'_>>; 4] {
        let reports = match &self.stage {
            Stage::Starting { reports, .. } => reports.as_ref(),
            _ => None,
        };
        let [daemon, keeper, listener] = [&self.daemon, &self.keeper_socket, &self.listener].map(Option::as_ref);
        [daemon, keeper, reports, listener].map(|fd| fd.map(AsFd::as_fd))
    }

    /// Gives it to a keeper. False: the keeper is dead, and it waits on.
    pub fn give(&mut self, keeper: Keeper) -> bool {
        let Stage::Queued(material) = &self.stage else {
            return true;
        };
        let Ok((reports, theirs)) = wire::pair() else {
            return false;
        };
        let fds: Vec<_> = [theirs.as_fd()]
            .into_iter()
            .chain(material.fds.iter().map(AsFd::as_fd))
            .collect();
        if wire::send(keeper.socket.as_fd(), &material.order, &fds).is_err() {
            return false;
        }
        let Stage::Queued(material) = std::mem::replace(&mut self.stage, Stage::Ended) else {
            return true;
        };
        self.stage = Stage::Starting {
            reports: Some(reports),
            master: material.master,
            failure: None,
        };
        self.keeper = Some(keeper.pid);
        self.keeper_socket = Some(keeper.socket);
        true
    }

    /// Takes what its process has reported so far.
    pub fn read_reports(&mut self) {
        while let Stage::Starting {
            reports: reports @ Some(_),
            failure,
            ..
        } = &mut self.stage
        {
            let Some(socket) = reports.as_ref().filter(|socket| super::is_readable(socket.as_fd())) else {
                return;
            };
            match wire::receive::<Report>(socket.as_fd()) {
                Ok(Some((Report::Listener, mut fds))) => {
                    self.listener = fds.pop();
                    if let Some(listener) = &self.listener {
                        notify::prefer_turns(listener.as_fd());
                    }
                }
                Ok(Some((Report::Failed(error), _))) => *failure = Some(error),
                Ok(Some((Report::SelfTest(_), _))) => {}
                Ok(None) | Err(_) => {
                    *reports = None;
                    self.start();
                }
            }
        }
    }

    /// Says that the command runs, or why it does not, once both are known: who it is, and what became of it.
    fn start(&mut self) {
        let (
            Some(leader),
            Stage::Starting {
                reports: None,
                master,
                failure,
            },
        ) = (&self.leader, &mut self.stage)
        else {
            return;
        };
        let pid = leader.pid.as_raw();
        match failure.take() {
            Some(error) => self.fail(error),
            None => {
                let master = master.take();
                let master: Vec<_> = master.iter().map(AsFd::as_fd).collect();
                self.stage = Stage::Started;
                self.tell(&Event::Started { pid }, &master);
            }
        }
    }

    /// It will not become the command.
    pub fn fail(&mut self, error: SpawnError) {
        self.stage = Stage::Ended;
        self.tell(&error.into_event(), &[]);
    }

    /// Takes what its keeper has said so far.
    pub fn read_keeper(&mut self) {
        while let Some(socket) = self
            .keeper_socket
            .as_ref()
            .filter(|socket| super::is_readable(socket.as_fd()))
        {
            match wire::receive::<Kept>(socket.as_fd()) {
                Ok(Some((Kept::Born(pid), mut fds))) => {
                    self.leader = Some(Leader {
                        pid: Pid::from_raw(pid),
                        process: fds.pop(),
                    });
                    self.start();
                    for (signal, scope) in std::mem::take(&mut self.early) {
                        self.signal(signal, scope);
                    }
                }
                Ok(Some((Kept::NotForked(errno), _))) => self.fail(SpawnError::new("fork", errno, "")),
                Ok(Some((Kept::Ended { status, usage }, _))) => {
                    // All that it could report it has reported.
                    self.read_reports();
                    self.usage = launcher::reaped_usage(usage, 0);
                    self.end(exit_status(status));
                }
                Ok(None) | Err(_) => self.keeper_socket = None,
            }
        }
    }

    /// The main process has ended.
    fn end(&mut self, status: ExitStatus) {
        if !matches!(self.stage, Stage::Started) {
            self.stage = Stage::Ended;
            return;
        }
        self.stage = Stage::Ended;
        let (leftovers, leftover_count) = self
            .keeper
            .map_or_else(Default::default, |keeper| processes::leftovers_below(keeper.as_raw()));
        let refusals = self.refusals.count();
        self.tell(
            &Event::Exited {
                status,
                leftovers,
                leftover_count,
                refusals,
            },
            &[],
        );
    }

    /// Something was refused to it.
    pub fn refuse(&mut self, denial: crate::event::Denial) {
        if let Some(denial) = self.refusals.note(denial) {
            self.tell(&Event::Refused(denial), &[]);
        }
    }

    /// Says something to the daemon. It never waits for it: a daemon that lets hundreds of messages lie has forgotten the run.
    fn tell(&mut self, event: &Event, fds: &[BorrowedFd<'_>]) {
        let Some(daemon) = &self.daemon else { return };
        match wire::send(daemon.as_fd(), event, fds) {
            Ok(()) => {}
            Err(error)
                if error.kind() == std::io::ErrorKind::WouldBlock
                    && matches!(event, Event::Refused(_) | Event::CpuTime { .. }) => {}
            Err(_) => self.forget(),
        }
    }

    /// The daemon does not follow it any more.
    pub fn forget(&mut self) {
        self.daemon = None;
        if !self.has_ended() {
            self.kill();
        }
    }

    /// Has its tree killed.
    pub fn kill(&mut self) {
        self.leaving = false;
        self.killing.get_or_insert_with(Rounds::begin);
    }

    /// One round of that, if it is due. It is confirmed by the end of the keeper, which comes when nothing is left below.
    pub fn kill_round(&mut self) {
        let (Some(rounds), Some(keeper)) = (self.killing, self.keeper) else {
            return;
        };
        if rounds.due <= Instant::now() {
            processes::kill_below(keeper.as_raw(), |_| false);
            self.killing = Some(rounds.next());
        }
    }

    /// Has what is left when the main process has ended stay.
    pub fn leave(&mut self) {
        self.leaving = self.killing.is_none();
    }

    /// Whether it is over for the daemon, though not gone.
    pub fn is_left(&self) -> bool {
        self.leaving && self.has_ended() && self.daemon.is_some()
    }

    /// The last word to the daemon. `oom_kills` as at its beginning.
    pub fn part(&mut self, oom_kills: u64) {
        let usage = Usage {
            oom_kills: oom_kills.saturating_sub(self.oom_kills_before),
            ..self.usage
        };
        self.tell(&Event::Gone { init_status: 0, usage }, &[]);
        self.daemon = None;
    }

    /// Sends a signal; to a run that has no process yet, as soon as it has.
    pub fn signal(&mut self, signal: i32, scope: SignalScope) {
        let ended = self.has_ended();
        let Some(leader) = &self.leader else {
            if !ended && self.early.len() < MAX_EARLY {
                self.early.push((signal, scope));
            }
            return;
        };
        match scope {
            SignalScope::Tree => {
                if let Some(keeper) = self.keeper {
                    processes::signal_below(keeper.as_raw(), signal);
                }
            }
            SignalScope::Leader => {
                if let Some(process) = leader.process.as_ref().filter(|_| !ended) {
                    sys::signal_process(process.as_fd(), signal);
                }
            }
            SignalScope::Group if !ended => processes::send_signal(Some(leader.pid), signal, scope),
            SignalScope::Group => {}
        }
    }

    /// Answers how much CPU time its tree has used.
    pub fn tell_cpu_time(&mut self) {
        let below = |keeper: Pid| processes::cpu_time_below(keeper.as_raw());
        let micros = self
            .keeper
            .map_or(self.usage.cpu_user_us + self.usage.cpu_system_us, below);
        self.tell(&Event::CpuTime { micros }, &[]);
    }

    /// Its keeper was reaped, and used `own_us` of CPU time itself.
    pub fn lose_keeper(&mut self, usage: Rusage, own_us: u64) {
        self.read_keeper();
        self.read_reports();
        self.keeper = None;
        self.keeper_socket = None;
        self.usage = launcher::reaped_usage(usage, own_us);
    }

    /// Init reaped something that its dead keeper had left. If that is its main process, this is how it ended.
    pub fn reaped(&mut self, pid: Pid, status: libc::c_int) {
        if self.leader.as_ref().is_some_and(|leader| leader.pid == pid) {
            self.reaped = Some(exit_status(status));
        }
    }

    /// Nothing is left of it, nor of its keeper: says what was not said yet.
    pub fn bury(mut self, oom_kills: u64) {
        self.read_reports();
        match &self.stage {
            Stage::Started => {
                let killed = ExitStatus::Signaled {
                    signal: libc::SIGKILL,
                    core: false,
                };
                let status = self.reaped.unwrap_or(killed);
                self.end(status);
            }
            Stage::Queued(_) | Stage::Starting { .. } => self.fail(SpawnError::new("fork", libc::EINTR, "")),
            Stage::Ended => {}
        }
        self.part(oom_kills);
    }
}

/// Says that there will be no run.
pub(super) fn refuse(daemon: &OwnedFd, error: SpawnError) {
    let gone = Event::Gone {
        init_status: 0,
        usage: Usage::default(),
    };
    let _ = wire::send(daemon.as_fd(), &error.into_event(), &[]).and_then(|()| wire::send(daemon.as_fd(), &gone, &[]));
}
