//! Every run that is known, and how many may run at once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fumehood_sandbox::event::SignalScope;
use fumehood_sandbox::spec::TerminalSize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use uuid::Uuid;

use super::actor::{Actor, Command, Kill, Surroundings};
use super::deeds::Deeds;
use super::input::{Input, InputError};
use super::journal::{Journal, Position, Reader, Sealing, Slice, To};
use super::model::{CancelCause, Denials, Ending, Event, Finished, Phase, Request, Snapshot, Stream, Usage};
use super::saved::{Described, Saved};
use super::spill::{Adopted, SpillStore, Spilled};
use crate::audit::AuditLog;
use crate::handover::Claims;
use crate::peer::Peer;
use crate::session::Ended;

/// Requests that may wait for an actor that is busy; more make their senders wait.
const COMMANDS: usize = 16;

/// Memory for the output of finished runs, of all together, in bytes.
const MAX_RETAINED_BYTES: usize = 256 << 20;

/// What an argument takes beside its bytes: its place in the list and the allocator's share.
const ARGUMENT_OVERHEAD: usize = 40;

/// How many runs there may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// At once.
    pub running: usize,
    /// Waiting for a place.
    pub queued: usize,
    /// Finished ones kept.
    pub retained: usize,
    /// How long finished ones are kept.
    pub retain_for: Duration,
}

/// A run, as everybody but its actor sees it.
#[derive(Debug)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Who started it.
    pub peer: Peer,
    /// SHA-256 of the request.
    pub digest: [u8; 32],
    /// Program and arguments.
    pub argv: Vec<Vec<u8>>,
    /// The workspace.
    pub workspace: std::path::PathBuf,
    /// The working directory.
    pub cwd: std::path::PathBuf,
    /// The name of the policy that decides.
    pub policy_name: String,
    /// Its digest.
    pub policy_digest: [u8; 32],
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// When it was accepted.
    pub accepted_at: SystemTime,
    /// Its place in the order of acceptance, among all runs of daemons that follow upon each other at a socket.
    pub order: u64,
    /// Its number among the runs of this daemon.
    pub number: u64,
    /// The session that it runs in.
    pub session: Option<String>,
    journal: Arc<Journal>,
    snapshot: watch::Receiver<Snapshot>,
    commands: mpsc::Sender<Command>,
    input: Input,
    deeds: Arc<Deeds>,
    /// How many follow it.
    followers: watch::Sender<u32>,
}

/// Counts as a follower of a run until it is dropped.
#[derive(Debug)]
pub struct Follower(Arc<Run>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.followers.send_modify(|followers| *followers -= 1);
    }
}

/// Somebody who may send input over an attachment, for the record.
#[derive(Debug)]
pub struct Sender {
    run: Arc<Run>,
    by: Peer,
    sent: AtomicBool,
}

impl Sender {
    /// Notes that so many bytes were taken from them.
    pub fn sent(&self, bytes: usize) {
        let first = !self.sent.swap(true, Ordering::SeqCst);
        self.run.deeds.input(&self.by, bytes, first);
    }

    /// Who it is.
    pub fn peer(&self) -> &Peer {
        &self.by
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if *self.sent.get_mut() {
            self.run.deeds.input_ended(&self.by);
        }
    }
}

impl Run {
    /// A run of an earlier daemon, and whether that did not see its end: then it is lost now.
    fn restored(
        number: u64,
        saved: Saved,
        why: &str,
        audit: Option<AuditLog>,
        journal: impl FnOnce(Saved) -> Arc<Journal>,
    ) -> (Run, bool) {
        let described = saved.described.clone();
        let (input_bytes, terminal) = match &saved.sealed {
            Some(sealed) => (sealed.input_bytes, sealed.terminal),
            None => (0, described.terminal),
        };
        let journal = journal(saved);
        let lost = journal.finished().is_none();
        if lost {
            let usage = Usage {
                output_bytes: journal.output_bytes(),
                ..Usage::default()
            };
            journal.append(Event::Finished(Arc::new(Finished {
                ending: Ending::Lost { why: why.to_owned() },
                usage,
                denials: journal.denials(),
                not_carried: String::new(),
                recorded: None,
            })));
        }
        let (started_at, started) = journal.started().unzip();
        let (finished_at, finished) = journal.finished().unzip();
        let snapshot = Snapshot {
            phase: Phase::Finished,
            awaiting: None,
            started_at,
            finished_at,
            started,
            finished,
            terminal,
        };
        let Described {
            id,
            peer,
            digest,
            argv,
            workspace,
            cwd,
            policy_name,
            policy_digest,
            labels,
            accepted_at,
            order,
            session,
            whole: _,
            terminal: _,
        } = described;
        let deeds = Arc::new(Deeds::new(audit, peer.recorded(&id), peer.clone()));
        let run = Run {
            id,
            peer,
            digest,
            argv,
            workspace: workspace.into(),
            cwd: cwd.into(),
            policy_name,
            policy_digest,
            labels,
            accepted_at,
            order,
            number,
            journal,
            // Nobody hears what is said to it: it is over.
            snapshot: watch::channel(snapshot).1,
            commands: mpsc::channel(1).0,
            input: Input::of_ended(input_bytes),
            session,
            deeds,
            followers: watch::channel(0).0,
        };
        (run, lost)
    }

    /// Has its state on disk sealed: it is over, and all that is to be known of it is known.
    fn seal(&self) {
        self.journal.seal(Sealing {
            input_bytes: self.input_bytes(),
            terminal: self.snapshot.borrow().terminal,
        });
    }

    /// Whether an earlier daemon ran it, and this one does not know how far others have followed it.
    pub fn is_lost(&self) -> bool {
        let finished = self.snapshot.borrow().finished.clone();
        finished.is_some_and(|finished| matches!(finished.ending, Ending::Lost { .. }))
    }

    /// What is known of it now.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// The number of its newest event.
    pub fn last_seq(&self) -> u64 {
        self.journal.last_seq()
    }

    /// A reader of its events.
    pub async fn reader_at(&self, position: Position) -> Reader {
        self.journal.reader_at(position).await
    }

    /// Up to `most` bytes of a stream from `offset` on; see [`Journal::read`].
    pub async fn read(&self, stream: Stream, offset: u64, most: usize, wait: Duration) -> Slice {
        self.journal.read(stream, offset, most, wait).await
    }

    /// The length of each output stream so far.
    pub fn output_bytes(&self) -> [u64; 2] {
        self.journal.output_bytes()
    }

    /// What became of writing the output to a file; `None` where that was not asked for.
    pub fn spilled(&self) -> Option<Spilled> {
        self.journal.spilled()
    }

    /// Bytes of input that were taken.
    pub fn input_bytes(&self) -> u64 {
        self.input.taken()
    }

    /// Notes that somebody attached to it, other than over the stream that started it.
    pub fn note_attached(&self, by: &Peer) {
        self.deeds.attached(by);
    }

    /// Notes who sends input over an attachment, until what this gives is dropped.
    pub fn note_input(self: &Arc<Self>, by: Peer) -> Sender {
        Sender {
            run: Arc::clone(self),
            by,
            sent: AtomicBool::new(false),
        }
    }

    /// Notes that somebody sent it a signal.
    pub fn note_signalled(&self, by: &Peer, signal: i32) {
        self.deeds.signalled(by, signal);
    }

    /// Notes that somebody asked for its end.
    pub fn note_killed(&self, by: &Peer) {
        self.deeds.killed(by);
    }

    /// Counts somebody who follows it.
    pub fn follow(self: &Arc<Self>) -> Follower {
        self.followers.send_modify(|followers| *followers += 1);
        Follower(Arc::clone(self))
    }

    /// How many follow it.
    pub fn followers(&self) -> u32 {
        *self.followers.borrow()
    }

    /// Returns when nobody has followed it for `linger`, or when it is over: then false.
    pub async fn abandoned(&self, linger: Duration) -> bool {
        let mut followers = self.followers.subscribe();
        let nobody = async {
            loop {
                // The sender is the run's own: it outlives this.
                let _ = followers.wait_for(|followers| *followers == 0).await;
                let somebody = followers.wait_for(|followers| *followers > 0);
                if tokio::time::timeout(linger, somebody).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = nobody => true,
            () = self.finished() => false,
        }
    }

    /// Waits until it is over.
    pub async fn finished(&self) {
        let mut snapshot = self.snapshot.clone();
        // An error means that the actor is gone, and then it is over.
        let _ = snapshot.wait_for(|snapshot| snapshot.phase == Phase::Finished).await;
    }

    /// Asks for its end. Returns at once; a run that is over is none the worse.
    pub async fn kill(&self, kill: Kill) {
        let _ = self.commands.send(Command::Kill(kill)).await;
    }

    /// Gives its terminal another size. False when it has none.
    pub async fn resize(&self, size: TerminalSize) -> bool {
        let has_one = self.snapshot.borrow().terminal.is_some();
        if has_one {
            // An error: it is over.
            let _ = self.commands.send(Command::Resize(size)).await;
        }
        has_one
    }

    /// Sends a signal to a running command. False when it is over.
    pub async fn signal(&self, signal: i32, scope: SignalScope) -> bool {
        self.commands.send(Command::Signal { signal, scope }).await.is_ok()
    }

    /// Gives bytes to its input, waiting while the command has not read what was given before. `offset` is where they begin in the
    /// whole input; without, right behind what was taken last.
    ///
    /// # Errors
    /// When the run takes no input or no more of it, or bytes before these are missing.
    pub async fn input(&self, data: bytes::Bytes, eof: bool, offset: Option<u64>) -> Result<(), InputError> {
        self.input.take(data, eof, offset).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a run is not taken.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The daemon stops taking runs.
    #[error("the daemon is draining and takes no more runs")]
    Draining,
    /// As many runs as may wait are waiting.
    #[error("{running} runs are running and {queued} are waiting, as many as may")]
    Full {
        /// Running at once.
        running: usize,
        /// Waiting.
        queued: usize,
    },
    /// The id is taken by a run of the same peer with another request.
    #[error("run id {0:?} is taken by a run with another request; choose another id")]
    Exists(String),
    /// The daemon was taken over from.
    #[error("another daemon has taken over; ask again over a new connection")]
    Elsewhere,
    /// The session takes no more runs.
    #[error("session {id:?} is closed ({}): {}; create another", ended.end.name(), ended.detail)]
    SessionClosed {
        /// The session.
        id: String,
        /// Why it is.
        ended: Ended,
    },
}

/// The table of runs; clones share it.
#[derive(Clone, Debug)]
pub struct RunTable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bounds: Bounds,
    surroundings: Surroundings,
    runs: Mutex<Runs>,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    draining: AtomicBool,
    /// Runs that are not over.
    active: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Runs {
    /// By [`Peer::qualified`] id: what one peer chooses neither hinders another nor tells it anything.
    by_id: HashMap<String, Arc<Run>>,
    next_number: u64,
    last_order: u64,
    /// Finished runs in the order of their ends.
    ended: VecDeque<EndedRun>,
    /// Whether a task sees to it that they are forgotten in time.
    is_timed: bool,
    /// Memory that the output of those takes.
    ended_bytes: usize,
    /// The first so many of those have given up the memory that their files made needless.
    trimmed: usize,
    /// While another daemon serves in this one's place.
    claims: Option<Claims>,
}

/// What is to be known of a finished run to forget it.
#[derive(Debug)]
struct EndedRun {
    at: Instant,
    /// How long it was over before this daemon knew of it.
    before: Duration,
    number: u64,
    key: String,
    bytes: usize,
}

impl RunTable {
    /// An empty table.
    pub fn new(bounds: Bounds, surroundings: Surroundings) -> RunTable {
        RunTable {
            shared: Arc::new(Shared {
                bounds,
                surroundings,
                runs: Mutex::default(),
                places: Arc::new(Semaphore::new(bounds.running)),
                waiting: AtomicUsize::new(0),
                draining: AtomicBool::new(false),
                active: watch::channel(0).0,
            }),
        }
    }

    /// An id for a run whose client chose none.
    pub fn new_id() -> String {
        Uuid::now_v7().to_string()
    }

    /// Takes a run: registers it and starts its actor. With `owned`, the reader that comes along holds the run up (see
    /// [`Journal`]). The second value is true when the same request had been taken under this id before.
    pub fn start(&self, request: Request, owned: bool) -> Result<(Arc<Run>, bool, Reader), StartError> {
        let shared = &self.shared;
        let mut runs = lock(&shared.runs);
        shared.forget_old(&mut runs);
        let key = request.peer.qualified(&request.id);
        if let Some(run) = runs.by_id.get(&key) {
            if run.digest != request.digest {
                return Err(StartError::Exists(request.id));
            }
            return Ok((Arc::clone(run), true, run.journal.reader(0)));
        }
        if shared.draining.load(Ordering::SeqCst) {
            return Err(StartError::Draining);
        }
        let forbids = |claims: &Claims| claims.forbids(&key, Instant::now());
        if request.session.is_none() && runs.claims.as_ref().is_some_and(forbids) {
            return Err(StartError::Elsewhere);
        }
        let session = request.session.as_ref().map(|place| Arc::clone(&place.session));
        let closed = |ended| {
            let id = session
                .as_ref()
                .map(|session| session.id().to_owned())
                .unwrap_or_default();
            StartError::SessionClosed { id, ended }
        };
        if let Some(session) = &session {
            session.is_taking_runs().map_err(closed)?;
        }
        let place = Arc::clone(&shared.places).try_acquire_owned().ok();
        let queue_position = match &place {
            Some(_) => 0,
            None => {
                let waiting = shared.waiting.load(Ordering::SeqCst);
                if waiting >= shared.bounds.queued {
                    return Err(StartError::Full {
                        running: shared.bounds.running,
                        queued: waiting,
                    });
                }
                shared.waiting.fetch_add(1, Ordering::SeqCst);
                waiting as u32 + 1
            }
        };
        let numbers = runs.next_numbers();
        let (run, mut actor, reader) = prepare(
            request,
            shared.surroundings.clone(),
            Arc::clone(&shared.places),
            numbers,
            owned,
        );
        // One that is being closed meanwhile ends the run as soon as it asks to be let in.
        actor.presence = session.and_then(|session| session.register(&run).ok());
        runs.by_id.insert(key, Arc::clone(&run));
        shared.active.send_modify(|active| *active += 1);
        drop(runs);
        // Registered before it is announced: whoever reads the first event finds the run.
        actor.journal.append(Event::Accepted { queue_position });
        tokio::spawn(self.clone().supervise(Arc::clone(&run), actor, place));
        Ok((run, false, reader))
    }

    async fn supervise(self, run: Arc<Run>, actor: Actor, place: Option<OwnedSemaphorePermit>) {
        let places = Arc::clone(&self.shared.places);
        let waiting = Waiting {
            shared: Arc::clone(&self.shared),
            counted: place.is_none(),
        };
        let place = async move {
            let place = match place {
                Some(place) => Some(place),
                // Closed by a drain.
                None => places.acquire_owned().await.ok(),
            };
            drop(waiting);
            place
        };
        // A task of its own, so that a panic in it is seen here, its readers come to an end and the run counts as over.
        let snapshot = actor.snapshot.clone();
        if let Err(error) = tokio::spawn(actor.run(place)).await {
            tracing::error!(run = run.id, %error, "the actor of a run failed");
            let ending = Ending::Lost {
                why: "the daemon failed; this is a defect of it".to_owned(),
            };
            let finished = Arc::new(Finished {
                ending,
                usage: Usage::default(),
                denials: Denials::default(),
                not_carried: String::new(),
                recorded: None,
            });
            let now = SystemTime::now();
            snapshot.send_modify(|snapshot| {
                snapshot.phase = Phase::Finished;
                snapshot.finished_at = Some(now);
                snapshot.finished = Some(Arc::clone(&finished));
            });
            run.journal.append_at(Event::Finished(finished), now);
        }
        run.seal();
        let mut runs = lock(&self.shared.runs);
        self.shared.keep_ended(&mut runs, &run, Duration::ZERO);
        self.shared.forget_old(&mut runs);
        drop(runs);
        self.shared.active.send_modify(|active| *active -= 1);
    }

    /// Takes the runs that earlier daemons left, before any other or beside those there are. Those that they did not see the end of are lost, for the reason given.
    pub fn restore(&self, mut adopted: Vec<Adopted>, store: &SpillStore, why: &str) {
        if adopted.is_empty() {
            return;
        }
        let now = SystemTime::now();
        // In the order of their ends, as they are to be forgotten.
        adopted.sort_by_key(|run| run.saved.finished_at().unwrap_or(now));
        let (mut lost, count) = (0, adopted.len());
        let mut runs = lock(&self.shared.runs);
        for Adopted { file, saved, found } in adopted {
            let key = saved.described.peer.qualified(&saved.described.id);
            // The same id was taken again here since: that one counts.
            if let Some(known) = runs.by_id.get(&key)
                && known.order > saved.described.order
            {
                store.remove(&file);
                continue;
            }
            let sealed = saved.sealed.is_some();
            let age = saved.finished_at().and_then(|at| now.duration_since(at).ok());
            runs.last_order = runs.last_order.max(saved.described.order);
            let (_, number) = runs.next_numbers();
            let (run, was_lost) = Run::restored(number, saved, why, self.shared.surroundings.audit.clone(), |saved| {
                Journal::restored(store.clone(), file, saved, found)
            });
            lost += usize::from(was_lost);
            let run = Arc::new(run);
            if !sealed {
                run.seal();
            }
            // One of the same id was released, and its file could not be removed; the later one counts.
            if let Some(earlier) = runs.by_id.insert(key, Arc::clone(&run)) {
                earlier.journal.discard();
            }
            self.shared.keep_ended(&mut runs, &run, age.unwrap_or_default());
            self.shared.forget_old(&mut runs);
        }
        tracing::info!(runs = count, lost, "took over the runs of an earlier daemon");
    }

    /// Forgets finished runs that are too old now.
    pub fn forget_old(&self) {
        self.shared.forget_old(&mut lock(&self.shared.runs));
    }

    /// A run by its id, if this peer may see it: its own before those of others, and of these the newest.
    pub fn get(&self, peer: &Peer, id: &str) -> Option<Arc<Run>> {
        let mut runs = lock(&self.shared.runs);
        self.shared.forget_old(&mut runs);
        if let Some(own) = runs.by_id.get(&peer.qualified(id)) {
            return Some(Arc::clone(own));
        }
        let others = runs
            .by_id
            .values()
            .filter(|run| run.id == id && may_see(peer, &run.peer));
        others.max_by_key(|run| run.order).cloned()
    }

    /// Another daemon serves in this one's place, or no longer does.
    pub fn set_succeeded(&self, succeeded: bool) {
        lock(&self.shared.runs).claims = succeeded.then(|| Claims::new(Instant::now()));
    }

    /// Asks in the name of the daemon that took over for a run of this very peer's. Where there is none, there will be none here any more.
    pub fn claim(&self, peer: &Peer, id: &str) -> Option<Arc<Run>> {
        let mut runs = lock(&self.shared.runs);
        let key = peer.qualified(id);
        let known = runs.by_id.get(&key).cloned();
        if let (None, Some(claims)) = (&known, &mut runs.claims) {
            claims.leave(key, Instant::now());
        }
        known
    }

    /// Whether a run that this very peer started has this id.
    pub fn has_own(&self, peer: &Peer, id: &str) -> bool {
        lock(&self.shared.runs).by_id.contains_key(&peer.qualified(id))
    }

    /// The runs this peer may see, newest first.
    pub fn list(&self, peer: &Peer) -> Vec<Arc<Run>> {
        let mut runs = lock(&self.shared.runs);
        self.shared.forget_old(&mut runs);
        let mut list: Vec<_> = runs
            .by_id
            .values()
            .filter(|run| may_see(peer, &run.peer))
            .cloned()
            .collect();
        drop(runs);
        list.sort_by_key(|run| std::cmp::Reverse(run.order));
        list
    }

    /// Forgets a finished run, as `by` asks. False when it is not finished.
    pub fn release(&self, run: &Run, by: &Peer) -> bool {
        if run.snapshot().phase != Phase::Finished {
            return false;
        }
        let mut runs = lock(&self.shared.runs);
        let key = run.peer.qualified(&run.id);
        if runs.by_id.get(&key).is_some_and(|known| known.number == run.number) {
            runs.by_id.remove(&key);
            run.deeds.released(by);
        }
        run.journal.discard();
        true
    }

    /// How many runs are not over; changes can be waited for.
    pub fn active(&self) -> watch::Receiver<usize> {
        self.shared.active.subscribe()
    }

    /// Whether it still takes runs.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::SeqCst)
    }

    /// Stops taking runs. Those that wait for a place or an answer are cancelled.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.places.close();
        self.shared.surroundings.approvals.drain();
    }

    /// Ends every run that is left, because the daemon drains.
    pub async fn end_all(&self, grace: Duration) {
        let runs: Vec<_> = lock(&self.shared.runs).by_id.values().cloned().collect();
        for run in runs.iter().filter(|run| run.snapshot().phase != Phase::Finished) {
            let kill = Kill {
                cause: CancelCause::Drain,
                by: String::new(),
                reason: "the daemon is stopping".to_owned(),
                grace: Some(grace),
            };
            run.kill(kill).await;
        }
    }
}

/// Its own runs and sessions are seen by everybody; all of them by root and by the daemon's own user.
pub(crate) fn may_see(peer: &Peer, owner: &Peer) -> bool {
    use crate::peer::Identity::{Certificate, Unix};
    match (&peer.identity, &owner.identity) {
        (Unix { uid, .. }, _) if *uid == 0 || *uid == nix::unistd::geteuid().as_raw() => true,
        (Unix { uid, .. }, Unix { uid: owner, .. }) => uid == owner,
        (Certificate { name }, Certificate { name: owner }) => name == owner,
        _ => false,
    }
}

/// Keeps count of the runs that wait for a place, also when their tasks are dropped.
struct Waiting {
    shared: Arc<Shared>,
    counted: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.counted {
            self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Runs {
    /// The order of the next run, and its number here.
    fn next_numbers(&mut self) -> (u64, u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // In nanoseconds, so that the runs of daemons of one socket are in one order without their asking each other.
        self.last_order = (self.last_order + 1).max(u64::try_from(now.as_nanos()).unwrap_or(0));
        self.next_number += 1;
        (self.last_order, self.next_number - 1)
    }
}

/// The task that forgets finished runs looks no more often than this.
const FORGET_PERIOD: Duration = Duration::from_secs(1);

/// Forgets finished runs when they are too old, also where nobody asks for any. Ends when there are none left.
async fn forget_in_time(shared: Weak<Shared>) {
    loop {
        let pause = {
            let Some(shared) = shared.upgrade() else { return };
            let mut runs = lock(&shared.runs);
            shared.forget_old(&mut runs);
            let Some(oldest) = runs.ended.front() else {
                runs.is_timed = false;
                return;
            };
            shared.bounds.retain_for.saturating_sub(oldest.age())
        };
        tokio::time::sleep(pause.max(FORGET_PERIOD)).await;
    }
}

impl EndedRun {
    fn age(&self) -> Duration {
        self.at.elapsed() + self.before
    }
}

impl Shared {
    /// Counts a run among those that are over; it was for so long already.
    fn keep_ended(self: &Arc<Self>, runs: &mut Runs, run: &Run, before: Duration) {
        if !std::mem::replace(&mut runs.is_timed, true) {
            tokio::spawn(forget_in_time(Arc::downgrade(self)));
        }
        let argv: usize = run
            .argv
            .iter()
            .map(|argument| argument.capacity() + ARGUMENT_OVERHEAD)
            .sum();
        let recorded = run
            .snapshot()
            .finished
            .and_then(|finished| Some(finished.recorded.as_ref()?.bytes));
        let bytes = run.journal.memory_bytes() + argv + recorded.unwrap_or(0);
        runs.ended_bytes += bytes;
        runs.ended.push_back(EndedRun {
            at: Instant::now(),
            before,
            number: run.number,
            key: run.peer.qualified(&run.id),
            bytes,
        });
    }

    /// Forgets finished runs that are too many or too old. Where their memory is too much, those whose output is in a file give that up
    /// first.
    fn forget_old(&self, runs: &mut Runs) {
        while runs.ended_bytes > MAX_RETAINED_BYTES
            && let Some(ended) = runs.ended.get_mut(runs.trimmed)
        {
            runs.trimmed += 1;
            let run = runs.by_id.get(&ended.key).filter(|run| run.number == ended.number);
            if let Some(run) = run {
                let before = run.journal.memory_bytes();
                run.journal.trim();
                let freed = before.saturating_sub(run.journal.memory_bytes()).min(ended.bytes);
                ended.bytes -= freed;
                runs.ended_bytes -= freed;
            }
        }
        while let Some(oldest) = runs.ended.front() {
            let fits = runs.ended.len() <= self.bounds.retained && runs.ended_bytes <= MAX_RETAINED_BYTES;
            if fits && oldest.age() < self.bounds.retain_for {
                return;
            }
            // The id may have been released and taken again.
            if let Some(run) = runs.by_id.get(&oldest.key)
                && run.number == oldest.number
            {
                run.journal.discard();
                runs.by_id.remove(&oldest.key);
            }
            runs.ended_bytes -= oldest.bytes;
            runs.ended.pop_front();
            runs.trimmed = runs.trimmed.saturating_sub(1);
        }
    }
}

fn prepare(
    request: Request,
    surroundings: Surroundings,
    places: Arc<Semaphore>,
    (order, number): (u64, u64),
    owned: bool,
) -> (Arc<Run>, Actor, Reader) {
    let accepted_at = SystemTime::now();
    let terminal = request.terminal.as_ref().map(|terminal| terminal.size);
    let to = match (&surroundings.spill, request.spill) {
        (Ok(store), whole) => {
            let described = Described {
                id: request.id.clone(),
                peer: request.peer.clone(),
                digest: request.digest,
                argv: request.argv.clone(),
                workspace: request.host.workspace.as_path().into(),
                cwd: request.host.cwd.as_path().into(),
                policy_name: request.policy.name.clone(),
                policy_digest: request.policy.digest.0,
                labels: request.labels.clone(),
                accepted_at,
                order,
                whole,
                session: request.session.as_ref().map(|place| place.session.id().to_owned()),
                terminal,
            };
            To::File(store.clone(), store.file(described))
        }
        (Err(_), false) => To::Memory,
        (Err(why), true) => To::Nowhere(why.clone()),
    };
    let journal = Journal::new(request.keep_bytes, to);
    let reader = if owned { journal.owner() } else { journal.reader(0) };
    let (commands_sender, commands) = mpsc::channel(COMMANDS);
    let (input_sender, input) = Input::new(request.input);
    let initial = Snapshot {
        phase: Phase::Queued,
        awaiting: None,
        started_at: None,
        finished_at: None,
        started: None,
        finished: None,
        terminal,
    };
    let (snapshot, snapshots) = watch::channel(initial);
    let deeds = Arc::new(Deeds::new(
        surroundings.audit.clone(),
        request.recorded_id(),
        request.peer.clone(),
    ));
    let run = Arc::new(Run {
        id: request.id.clone(),
        peer: request.peer.clone(),
        digest: request.digest,
        argv: request.argv.clone(),
        workspace: request.host.workspace.clone(),
        cwd: request.host.cwd.clone(),
        policy_name: request.policy.name.clone(),
        policy_digest: request.policy.digest.0,
        labels: request.labels.clone(),
        accepted_at,
        order,
        number,
        session: request.session.as_ref().map(|place| place.session.id().to_owned()),
        journal: Arc::clone(&journal),
        snapshot: snapshots,
        commands: commands_sender,
        input: input_sender,
        deeds: Arc::clone(&deeds),
        followers: watch::channel(0).0,
    });
    let actor = Actor {
        number,
        request,
        surroundings,
        journal,
        snapshot,
        commands,
        input,
        deeds,
        accepted_at: Instant::now(),
        places,
        allowed_by: "tools.shell".to_owned(),
        recorded: false,
        passed: Vec::new(),
        presence: None,
    };
    (run, actor, reader)
}
