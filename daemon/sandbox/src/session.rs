//! Init of a session: a sandbox that stays, and takes any number of commands.
//!
//! ```text
//! init ──fork──► spawner: takes on the Landlock domain that all commands share
//!  │                │ CLONE_PARENT
//!  └──── keeper ◄───┘ one per run, and one to spare
//!          └──fork──► seccomp, execve: the command
//! ```
//!
//! `spawner.rs` and `keeper.rs` say what the two are for. Commands can stop or kill both: one that is stopped is let go on at once, a
//! spawner that was killed is replaced. When a keeper is killed, what it kept becomes init's and nobody can say any more what of it
//! belongs to which run: all of that is killed, and the run is over. So `kill -9 -1` in a run ends every run of the session and
//! their background processes, the one that said it included, and the session goes on.
//!
//! Init waits for nobody but at its poll(2): what it sends to spawner and keepers fits into their sockets, and a daemon that does not read is
//! dropped.

mod describe;
mod keeper;
mod run;
mod spawner;

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use crate::cgroup::Gauges;
use crate::command::{Confinement, SpawnError};
use crate::event::{Denial, Event, Job, Request};
use crate::spec::Network;
use crate::sys::{self, Change, Forked};
use crate::waiting::{Refusals, Waiting};
use crate::watch::{self, Watch};
use crate::{launcher, processes, terminal, wire};
use keeper::Order;
use run::{Material, Rounds, Run};
use spawner::Spawner;

/// Descriptors of init that are no run's: the guard's above all.
const OTHER_DESCRIPTORS: u64 = 128;
/// Descriptors that a run takes of init, at most: the daemon's, the keeper's, reports, listener, pidfd; and while it waits for a keeper, spec,
/// state, 0, 1, 2 and a terminal's master.
const DESCRIPTORS_OF_RUN: u64 = 8;
/// Runs of a session at once, those in the background included, however many descriptors there are.
const MAX_RUNS: u64 = 1024;

/// How long a description may take, after which it has no command lines.
const LOOK: Duration = Duration::from_secs(1);
/// Descriptions that can be asked for ahead.
const MAX_ASKED: u32 = 16;

/// What a session is made of.
pub(crate) struct Parts<'a> {
    /// The sandbox's socket.
    pub socket: &'a OwnedFd,
    /// Tells of the ends of children.
    pub children: SignalFd,
    /// Hangs up when the launcher dies.
    pub life: BorrowedFd<'a>,
    pub confinement: Confinement,
    pub waiting: Waiting,
    pub watch: Watch,
    pub gauges: Gauges,
    pub network: Network,
}

/// A session.
pub(crate) struct Session<'a> {
    parts: Parts<'a>,
    spawner: Spawner,
    runs: Vec<Run>,
    most_runs: usize,
    /// What was refused and no run can be named for.
    refusals: Refusals,
    /// Orphans of a keeper that was killed are being killed.
    hunt: Option<Rounds>,
    /// Who is looking at what is in the session, until it is reaped.
    looker: Option<Looker>,
    /// Descriptions that are to follow.
    asked: u32,
    /// A limit of the whole session was passed: everything is killed, and when that is done init ends.
    over: bool,
}

/// A child that makes a description.
#[derive(Debug)]
struct Looker {
    pid: Pid,
    /// When its time is over; `None`: it is, and init has answered in its place.
    deadline: Option<Instant>,
}

/// Where something has come. Runs are named by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Socket,
    Children,
    Life,
    Spawner,
    Unsettled,
    Daemon(u64),
    Keeper(u64),
    Reports(u64),
    Listener(u64),
}

/// Whether something can be read without waiting, be it the end.
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

impl<'a> Session<'a> {
    /// Starts the spawner and has the first keeper made.
    pub(crate) fn open(mut parts: Parts<'a>) -> Result<Self, SpawnError> {
        // Commands get their own limit (`command.rs::set_rlimits`), which is within the hard one.
        let mut most = u64::MAX;
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
            most = hard.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_OF_RUN;
        }
        let spawner = Spawner::start(&parts.confinement)?;
        parts.watch.begin();
        Ok(Session {
            parts,
            spawner,
            runs: Vec::new(),
            most_runs: most.clamp(1, MAX_RUNS) as usize,
            refusals: Refusals::default(),
            hunt: None,
            looker: None,
            asked: 0,
            over: false,
        })
    }

    /// Serves until the session is over. Returns init's exit code.
    pub(crate) fn serve(mut self) -> i32 {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return 1,
            };
            if let Some(passed) = self.parts.watch.look() {
                self.over = true;
                sys::kill(-1, libc::SIGKILL);
                let _ = wire::send(self.parts.socket.as_fd(), &passed, &[]);
            }
            // Before any call, so that it finds what was closed before it; and after the last process.
            for denial in self.parts.waiting.settle() {
                self.refuse_somebody(denial);
            }
            for (source, flags) in ready {
                match source {
                    Source::Life => return 1,
                    Source::Socket => {
                        if !self.take_request() {
                            return 1;
                        }
                    }
                    Source::Children => {
                        if !self.reap() {
                            return 0;
                        }
                    }
                    Source::Spawner => self.hear_spawner(),
                    Source::Unsettled => {}
                    Source::Listener(number) => self.serve_call(number, flags),
                    Source::Daemon(number) => self.take_run_request(number),
                    Source::Keeper(number) => self.with(number, Run::read_keeper),
                    Source::Reports(number) => self.with(number, Run::read_reports),
                }
            }
            self.go_on();
        }
    }

    /// Waits until something comes or is due.
    fn wait(&self) -> nix::Result<Vec<(Source, PollFlags)>> {
        let parts = &self.parts;
        let mut sources = vec![
            (Source::Life, parts.life),
            (Source::Socket, parts.socket.as_fd()),
            (Source::Children, parts.children.as_fd()),
        ];
        sources.extend(self.spawner.socket().map(|fd| (Source::Spawner, fd)));
        sources.extend(parts.waiting.unsettled().map(|fd| (Source::Unsettled, fd)));
        for run in &self.runs {
            let kinds = [Source::Daemon, Source::Keeper, Source::Reports, Source::Listener];
            let fds = kinds.into_iter().zip(run.sockets());
            sources.extend(fds.filter_map(|(kind, fd)| Some((kind(run.number), fd?))));
        }
        let mut fds: Vec<_> = sources
            .iter()
            .map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN))
            .collect();
        let rounds = self
            .runs
            .iter()
            .filter(|run| run.keeper.is_some())
            .filter_map(|run| run.killing);
        let due = rounds.chain(self.hunt).map(|rounds| rounds.due);
        let look = self.looker.as_ref().and_then(|looker| looker.deadline);
        let due = due.chain(parts.watch.due()).chain(self.spawner.due()).chain(look).min();
        poll(&mut fds, due.map_or(PollTimeout::NONE, watch::until))?;
        let flags = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let ready = sources.iter().map(|(source, _)| *source).zip(flags);
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn run(&mut self, number: u64) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.number == number)
    }

    /// A run may be over by the time its turn comes.
    fn with(&mut self, number: u64, act: impl FnOnce(&mut Run)) {
        if let Some(run) = self.run(number) {
            act(run);
        }
    }

    /// Does what has become possible, or due.
    fn go_on(&mut self) {
        self.dispatch();
        let kills = &self.parts.gauges;
        for run in &mut self.runs {
            if run.is_left() {
                run.part(kills.oom_kills());
            }
            run.kill_round();
        }
        // Nobody will start what was killed before its turn.
        let given_up = |run: &Run| run.is_queued() && run.killing.is_some();
        while let Some(index) = self.runs.iter().position(given_up) {
            self.bury(index);
        }
        self.hunt();
        self.look();
    }

    /// Gives waiting runs to keepers, the oldest first, and sees to the next keeper.
    fn dispatch(&mut self) {
        let next = self
            .runs
            .iter_mut()
            .find(|run| run.is_queued() && run.killing.is_none());
        if let Some(run) = next
            && let Some(keeper) = self.spawner.take()
        {
            match run.give(keeper) {
                true => self.spawner.succeeded(),
                false => self.spawner.keeper_failed(),
            }
        }
        // The next one is made when nobody waits for something else: a run that is starting would share its processor with it.
        let (queued, starting) = (
            self.runs.iter().any(Run::is_queued),
            self.runs.iter().any(Run::is_starting),
        );
        if self.over || (starting && !queued) {
            return;
        }
        if let Err(error) = self.spawner.prepare(&self.parts.confinement) {
            self.give_up(&error);
        }
    }

    /// There is no keeper to be had now. Runs that come later try anew.
    fn give_up(&mut self, error: &SpawnError) {
        while let Some(index) = self.runs.iter().position(Run::is_queued) {
            self.runs[index].fail(error.clone());
            self.bury(index);
        }
    }

    fn hear_spawner(&mut self) {
        if let Err(error) = self.spawner.listen() {
            self.give_up(&error);
        }
    }

    /// Answers a call of a run that waits.
    fn serve_call(&mut self, number: u64, flags: PollFlags) {
        let Some(run) = self.runs.iter_mut().find(|run| run.number == number) else {
            return;
        };
        match &run.listener {
            Some(listener) if flags.contains(PollFlags::POLLIN) => {
                if let Some(denial) = self.parts.waiting.serve(listener.as_fd()) {
                    self.refuse(Some(number), denial);
                }
            }
            // Nobody under its filter is left.
            _ => run.listener = None,
        }
    }

    /// Tells of a refusal where its run is followed, and otherwise where the session is.
    fn refuse(&mut self, number: Option<u64>, denial: Denial) {
        match number.and_then(|number| self.run(number)) {
            Some(run) if run.is_followed() => run.refuse(denial),
            _ => {
                if let Some(denial) = self.refusals.note(denial) {
                    let _ = wire::send(self.parts.socket.as_fd(), &Event::Refused(denial), &[]);
                }
            }
        }
    }

    /// Tells of a refusal that the guard found out later, when nobody waited any more: where there is one run, it is that one's.
    fn refuse_somebody(&mut self, denial: Denial) {
        let number = match self.runs.as_slice() {
            [run] => Some(run.number),
            _ => None,
        };
        self.refuse(number, denial);
    }

    /// Takes a request on the session's own socket. False: the daemon closed its end, or speaks nonsense.
    fn take_request(&mut self) -> bool {
        let socket = self.parts.socket.as_fd();
        match wire::receive::<Request>(socket) {
            Ok(Some((Request::Run { number, job }, fds))) => self.begin(number, &job, fds),
            Ok(Some((Request::Describe, _))) => self.asked = (self.asked + 1).min(MAX_ASKED),
            Ok(Some((Request::CpuTime, _))) => {
                let micros = processes::cpu_time();
                let _ = wire::send(socket, &Event::CpuTime { micros }, &[]);
            }
            Ok(Some((Request::Signal { signal, scope }, _))) => processes::send_signal(None, signal, scope),
            Ok(
                Some((Request::Exec | Request::Files | Request::SelfTest | Request::Kill | Request::Leave, _)) | None,
            )
            | Err(_) => {
                return false;
            }
        }
        true
    }

    /// Takes a request on a run's socket.
    fn take_run_request(&mut self, number: u64) {
        let Some(run) = self.run(number) else { return };
        let [Some(socket), ..] = run.sockets() else { return };
        match wire::receive::<Request>(socket) {
            Ok(Some((Request::Signal { signal, scope }, _))) => run.signal(signal, scope),
            Ok(Some((Request::CpuTime, _))) => run.tell_cpu_time(),
            Ok(Some((Request::Kill, _))) => run.kill(),
            Ok(Some((Request::Leave, _))) => run.leave(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(
                Some((Request::Exec | Request::Files | Request::SelfTest | Request::Run { .. } | Request::Describe, _))
                | None,
            )
            | Err(_) => run.forget(),
        }
    }

    /// Begins a run, or says why it cannot.
    fn begin(&mut self, number: u64, job: &Job, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let Some(daemon) = fds.next() else { return };
        if wire::set_nonblocking(&daemon).is_err() {
            return;
        }
        let is_room = self.runs.len() < self.most_runs;
        let material = match self.runs.iter().any(|run| run.number == number) {
            true => Err(SpawnError::request()),
            false if !is_room => Err(SpawnError::new("fork", libc::EAGAIN, "")),
            false => material(job, fds.collect()),
        };
        match material {
            Ok(material) => {
                let kills = self.parts.gauges.oom_kills();
                self.runs.push(Run::new(number, daemon, material, kills));
            }
            Err(error) => run::refuse(&daemon, error),
        }
    }

    /// Has a child look at what is in the session, if one is asked to and none does.
    fn look(&mut self) {
        if let Some(looker) = &mut self.looker {
            if looker.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                looker.deadline = None;
                sys::kill(looker.pid.as_raw(), libc::SIGKILL);
                self.tell_description(false);
            }
            // One that cannot be killed keeps nobody from being answered.
            if self.looker.as_ref().is_some_and(|looker| looker.deadline.is_some()) {
                return;
            }
        }
        if self.asked == 0 {
            return;
        }
        self.asked -= 1;
        if self.looker.is_some() {
            return self.tell_description(false);
        }
        match sys::fork() {
            Ok(Forked::Child) => {
                sys::block_signals();
                let keep: Vec<_> = [self.parts.socket.as_fd()]
                    .into_iter()
                    .chain(self.parts.gauges.descriptors())
                    .collect();
                if sys::close_all_but(&keep).is_ok() {
                    self.tell_description(true);
                }
                std::process::exit(0)
            }
            Ok(Forked::Parent(pid)) => {
                let deadline = Some(Instant::now() + LOOK);
                self.looker = Some(Looker { pid, deadline });
            }
            // There may be no process more.
            Err(_) => self.tell_description(false),
        }
    }

    /// The child that looked has ended. False: it was not that.
    fn bury_looker(&mut self, pid: Pid, status: libc::c_int) -> bool {
        let Some(looker) = self.looker.take_if(|looker| looker.pid == pid) else {
            return false;
        };
        let is_orderly = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        if looker.deadline.is_some() && !is_orderly {
            self.tell_description(false);
        }
        true
    }

    fn tell_description(&self, command_lines: bool) {
        let keepers = self.runs.iter().filter_map(|run| {
            Some(describe::Kept {
                keeper: run.keeper?.as_raw(),
                run: run.number,
                background: run.has_ended(),
            })
        });
        let keepers: Vec<_> = keepers.collect();
        let mut description = describe::describe(&keepers, &self.parts.network, command_lines);
        if let Some(bytes) = self.parts.gauges.memory_bytes() {
            description.memory_bytes = bytes;
        }
        let socket = self.parts.socket.as_fd();
        let _ = wire::memory_file(&description).and_then(|file| wire::send(socket, &Event::Described, &[file.as_fd()]));
    }

    /// Takes note of what became of children. False: there are none, and the session is over.
    fn reap(&mut self) -> bool {
        while let Ok(Some(_)) = self.parts.children.read_signal() {}
        // What it has forked is no stray.
        self.hear_spawner();
        loop {
            match sys::next_change() {
                Ok(Some(Change::Stopped(pid))) => sys::kill(pid.as_raw(), libc::SIGCONT),
                Ok(Some(Change::Ended(pid))) => self.take_end(pid),
                Ok(None) => return true,
                Err(_) if self.over => {
                    while !self.runs.is_empty() {
                        self.bury(0);
                    }
                    return false;
                }
                Err(_) => return true,
            }
        }
    }

    /// A child has ended and is to be reaped.
    fn take_end(&mut self, pid: Pid) {
        // While it is a zombie: whoever reaps it gets its own time and that of its children in one sum.
        let own_us = launcher::own_cpu_us(pid);
        let Ok(Some((_, status, usage))) = sys::reap(pid) else {
            return;
        };
        if self.bury_looker(pid, status) {
            return;
        }
        let is_orderly = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        if let Some(index) = self.runs.iter().position(|run| run.keeper == Some(pid)) {
            self.runs[index].lose_keeper(usage, own_us);
            if is_orderly {
                // It ends when nothing is left below it.
                self.bury(index);
                return;
            }
        } else if self.spawner.has(pid) {
            self.spawner.bury(pid);
        } else {
            self.runs.iter_mut().for_each(|run| run.reaped(pid, status));
            return;
        }
        // What it kept is init's now.
        self.hunt = Some(Rounds::begin());
    }

    /// Kills what became init's because its keeper was killed, round after round, until there is nothing. Then the runs that it was of are over.
    fn hunt(&mut self) {
        let Some(rounds) = self.hunt.filter(|rounds| rounds.due <= Instant::now()) else {
            return;
        };
        let keepers = self.runs.iter().filter_map(|run| run.keeper);
        let looker = self.looker.as_ref().map(|looker| looker.pid);
        let known: HashSet<i32> = keepers.chain(looker).map(Pid::as_raw).collect();
        // A child that nobody knows may be a keeper of which the spawner has not told yet.
        let is_clear = !self.spawner.is_forking();
        let is_own = |pid: i32| known.contains(&pid) || self.spawner.has(Pid::from_raw(pid));
        if !is_clear || processes::kill_below(1, is_own) {
            self.hunt = Some(rounds.next());
            return;
        }
        self.hunt = None;
        while let Some(index) = self
            .runs
            .iter()
            .position(|run| run.keeper.is_none() && !run.is_queued())
        {
            self.bury(index);
        }
    }

    /// Nothing of a run is left.
    fn bury(&mut self, index: usize) {
        let run = self.runs.remove(index);
        run.bury(self.parts.gauges.oom_kills());
    }
}

/// What a job needs, from the descriptors that came with it.
fn material(job: &Job, mut fds: Vec<OwnedFd>) -> Result<Material, SpawnError> {
    let (order, own, terminal) = match *job {
        Job::Command { terminal: None, state } => (Order::Command { state }, 4 + usize::from(state), None),
        Job::Command { terminal, state } => (Order::Command { state }, 1 + usize::from(state), terminal),
        Job::Files => (Order::Files, 2, None),
    };
    if fds.len() != own {
        return Err(SpawnError::request());
    }
    let pair = terminal.map(terminal::open).transpose();
    let master = pair
        .map_err(|error| SpawnError::terminal(&error))?
        .map(|(master, stdio)| {
            fds.extend(stdio);
            master
        });
    Ok(Material { order, fds, master })
}
