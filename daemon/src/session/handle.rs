//! A session as everybody but its task sees it, and what its runs share.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use fumehood_sandbox::description::Description;
use fumehood_sandbox::spec::CommandSpec;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};

use super::background::{Background, Backgrounds};
use super::model::{Activity, Close, Ended, SessionEnd, SessionPhase, SessionRequest, SessionSnapshot};
use super::shell::Carried;
use crate::launch::{FileWorker, WatchedRun};
use crate::run::{Ending, Enforcement, Run, Stream};

/// Runs whose ids are known by their numbers, at most: those that background processes came from.
const MAX_KNOWN_RUNS: usize = 4096;

/// How long a run whose sandbox is gone waits for the word why.
const VERDICT_PATIENCE: Duration = Duration::from_secs(5);

/// From handles to the task.
#[derive(Debug)]
pub(super) enum Command {
    /// Execute this.
    Run {
        number: u64,
        command: Box<CommandSpec>,
        stdio: Option<[OwnedFd; 3]>,
        state: Option<OwnedFd>,
        hosts: mpsc::Sender<String>,
        entered: oneshot::Sender<std::io::Result<Inside>>,
    },
    /// Start a process that works on files.
    Files {
        number: u64,
        command: Box<CommandSpec>,
        entered: oneshot::Sender<std::io::Result<(WatchedRun, FileWorker, u32)>>,
    },
    /// Say what is in it.
    Describe(oneshot::Sender<Description>),
    /// Begin anew; says when that is done.
    Reset {
        by: String,
        by_pid: Option<i32>,
        done: oneshot::Sender<Result<(), String>>,
    },
}

/// A run that the task let in.
#[derive(Debug)]
pub(super) struct Inside {
    pub run: WatchedRun,
    pub enforcement: Arc<[Enforcement]>,
    /// In which of the session's sandboxes.
    pub generation: u32,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    /// What it is made of.
    pub request: SessionRequest,
    /// What every run in it gets as its environment.
    pub base_env: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Its place in the order of creation.
    pub number: u64,
    /// When it was asked for.
    pub created_at: SystemTime,
    /// The same, for what is measured from it.
    pub created: Instant,
    pub(super) snapshot: watch::Sender<SessionSnapshot>,
    pub(super) activity: watch::Sender<Activity>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) close: watch::Sender<Option<Close>>,
    pub(super) shared: Mutex<Shared>,
    pub(super) background: Backgrounds,
}

/// What runs share, one after the other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// What the next line finds.
    pub carried: Arc<Carried>,
    /// Counts the sandboxes that this session has had.
    pub generation: u32,
    /// Why the last sandbox ended, with its generation, as soon as that is known.
    pub over: Option<(u32, Ending)>,
    /// Runs that may be in it.
    pub runs: Vec<Weak<Run>>,
    /// Ids of runs by number, the oldest first.
    pub known: VecDeque<(u64, String)>,
}

/// A run that was let into the sandbox of a session.
#[derive(Debug)]
pub struct Entered {
    /// Its events and its tree.
    pub run: WatchedRun,
    /// The state of every protection.
    pub enforcement: Vec<Enforcement>,
    /// In which of the session's sandboxes.
    pub generation: u32,
    /// Hosts that the refusing proxy was asked for meanwhile.
    pub refused_hosts: mpsc::Receiver<String>,
}

/// The numbers of what works on files in a session have this bit, those of runs do not: they are counted by themselves.
pub const FILES_NUMBER: u64 = 1 << 63;

/// Counts as a run in a session until it is dropped.
#[derive(Debug)]
pub struct Presence(Arc<Session>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.note_use(|activity| activity.active -= 1);
    }
}

impl Session {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.request.id
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_use(&self, change: impl FnOnce(&mut Activity)) {
        self.activity.send_modify(|activity| {
            change(activity);
            activity.used = Instant::now();
            activity.used_at = SystemTime::now();
        });
    }

    /// What is known of it now.
    pub fn snapshot(&self) -> SessionSnapshot {
        self.snapshot.borrow().clone()
    }

    /// Who is in it now.
    pub fn activity(&self) -> Activity {
        *self.activity.borrow()
    }

    /// What the next line finds.
    pub fn carried(&self) -> Arc<Carried> {
        Arc::clone(&self.shared().carried)
    }

    /// Changes what the next line finds, unless the session was reset meanwhile.
    pub fn carry(&self, generation: u32, change: impl FnOnce(&Carried) -> Carried) {
        let mut shared = self.shared();
        if shared.generation == generation {
            shared.carried = Arc::new(change(&shared.carried));
        }
    }

    /// When it will be closed at the latest, as things are.
    pub fn closes_at(&self) -> SystemTime {
        let activity = self.activity();
        let old = self.created_at + self.request.lifetime;
        match activity.active {
            0 => old.min(activity.used_at + self.request.idle_timeout),
            _ => old,
        }
    }

    /// Registers a run that wants to be in it.
    ///
    /// # Errors
    /// It takes no more runs.
    pub fn register(self: &Arc<Self>, run: &Arc<Run>) -> Result<Presence, Ended> {
        self.is_taking_runs()?;
        let mut shared = self.shared();
        shared.runs.retain(|run| run.strong_count() > 0);
        shared.runs.push(Arc::downgrade(run));
        if shared.known.len() == MAX_KNOWN_RUNS {
            shared.known.pop_front();
        }
        shared.known.push_back((run.number, run.id.clone()));
        drop(shared);
        self.note_use(|activity| {
            activity.active += 1;
            activity.total += 1;
        });
        Ok(Presence(Arc::clone(self)))
    }

    /// Registers somebody who works on its files: it is in use meanwhile.
    ///
    /// # Errors
    /// It takes no more runs.
    pub fn enter(self: &Arc<Self>) -> Result<Presence, Ended> {
        self.is_taking_runs()?;
        self.note_use(|activity| activity.active += 1);
        Ok(Presence(Arc::clone(self)))
    }

    /// Has a process started in it that works on files, as soon as its sandbox stands. Of the command, working directory and umask count; of
    /// the number, all but [`FILES_NUMBER`]. Also says in which of its sandboxes.
    ///
    /// # Errors
    /// As of a run.
    pub async fn work_on_files(
        &self,
        number: u64,
        command: CommandSpec,
    ) -> Result<(WatchedRun, FileWorker, u32), Ending> {
        let (entered, answer) = oneshot::channel();
        let asked = Command::Files {
            number: number | FILES_NUMBER,
            command: Box::new(command),
            entered,
        };
        let _ = self.commands.send(asked).await;
        match answer.await {
            Ok(entered) => entered.map_err(|error| not_sent(&error)),
            Err(_) => Err(self.verdict(None).await),
        }
    }

    /// # Errors
    /// Why it takes no more runs.
    pub fn is_taking_runs(&self) -> Result<(), Ended> {
        match self.snapshot.borrow().ended.clone() {
            None => Ok(()),
            Some(ended) => Err(ended),
        }
    }

    /// Has a command executed in it, as soon as its sandbox stands.
    ///
    /// # Errors
    /// The run's ending.
    pub async fn run(
        &self,
        number: u64,
        command: CommandSpec,
        stdio: Option<[OwnedFd; 3]>,
        state: Option<OwnedFd>,
        hosts: usize,
    ) -> Result<Entered, Ending> {
        let (tell, refused_hosts) = mpsc::channel(hosts);
        let (entered, answer) = oneshot::channel();
        let asked = Command::Run {
            number,
            command: Box::new(command),
            stdio,
            state,
            hosts: tell,
            entered,
        };
        let _ = self.commands.send(asked).await;
        match answer.await {
            Ok(Ok(Inside {
                run,
                enforcement,
                generation,
            })) => Ok(Entered {
                run,
                enforcement: enforcement.to_vec(),
                generation,
                refused_hosts,
            }),
            Ok(Err(error)) => Err(not_sent(&error)),
            // The task ends only with the session.
            Err(_) => Err(self.verdict(None).await),
        }
    }

    /// Why the sandbox of this generation (`None`: the session) is over, for a run that was in it.
    pub async fn verdict(&self, generation: Option<u32>) -> Ending {
        let over = || {
            let of_sandbox = match (&self.shared().over, generation) {
                (Some((over, ending)), Some(generation)) if *over == generation => Some(ending.clone()),
                _ => None,
            };
            of_sandbox.or_else(|| self.snapshot.borrow().ended.as_ref().map(Ended::of_run))
        };
        let mut snapshots = self.snapshot.subscribe();
        let told = async {
            loop {
                snapshots.mark_unchanged();
                if let Some(ending) = over() {
                    return ending;
                }
                if snapshots.changed().await.is_err() {
                    return Ended::lost("the session's task ended").of_run();
                }
            }
        };
        let unknown = || Ended::lost("the session's sandbox was lost").of_run();
        tokio::time::timeout(VERDICT_PATIENCE, told)
            .await
            .unwrap_or_else(|_| unknown())
    }

    /// What is in it. `None` unless it is open.
    pub async fn describe(&self) -> Option<Description> {
        if self.snapshot.borrow().phase != SessionPhase::Open {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Describe(reply)).await.ok()?;
        answer.await.ok()
    }

    /// The run of a number, where that is known.
    pub fn run_id(&self, number: u64) -> Option<String> {
        let shared = self.shared();
        let known = shared.known.iter().rev().find(|(known, _)| *known == number);
        known.map(|(_, id)| id.clone())
    }

    /// Keeps reading what may still be written to the output of a run that is over.
    pub fn keep_output(&self, run: &str, stream: Stream, pipe: pipe::Receiver) {
        self.background.take(run, stream, pipe);
    }

    /// What background processes wrote.
    pub fn background(&self) -> Vec<Background> {
        self.background.all()
    }

    /// Ends everything in it and begins it anew. Returns when that is done.
    ///
    /// # Errors
    /// It is closed, or was closed by that; why.
    pub async fn reset(&self, by: String, by_pid: Option<i32>) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Reset { by, by_pid, done }).await;
        let closed = || match self.snapshot.borrow().ended.clone() {
            Some(ended) => format!("the session is closed ({}): {}", ended.end.name(), ended.detail),
            None => "the session is closed".to_owned(),
        };
        match sent {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(closed())),
            Err(_) => Err(closed()),
        }
    }

    /// Ends it. Returns at once; an end that is under way already can only be made sooner.
    pub fn ask_to_close(&self, close: Close) {
        self.close.send_modify(|before| match before {
            None => *before = Some(close),
            Some(before) => before.grace = before.grace.min(close.grace),
        });
    }

    /// Returns when it is closed.
    pub async fn closed(&self) {
        let mut snapshot = self.snapshot.subscribe();
        let _ = snapshot
            .wait_for(|snapshot| snapshot.phase == SessionPhase::Closed)
            .await;
    }

    /// Returns when it is open or closed.
    pub async fn settled(&self) {
        let settled = |snapshot: &SessionSnapshot| matches!(snapshot.phase, SessionPhase::Open | SessionPhase::Closed);
        let _ = self.snapshot.subscribe().wait_for(settled).await;
    }
}

fn not_sent(error: &std::io::Error) -> Ending {
    Ending::SandboxFailed {
        protection: None,
        stage: "send the command".to_owned(),
        errno: error.raw_os_error().unwrap_or(0),
        path: Vec::new(),
        hint: error.to_string(),
    }
}

impl Ended {
    /// The sandbox is gone.
    pub fn lost(detail: impl Into<String>) -> Ended {
        Ended {
            end: SessionEnd::Lost,
            by: String::new(),
            detail: detail.into(),
        }
    }
}
