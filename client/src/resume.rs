//! A run that is followed across broken connections.
//!
//! One task owns the stream of a run. It passes events on, one at a time and only when somebody takes them; it passes input on and keeps
//! what the daemon is not known to have taken; and when the stream breaks it attaches again where it was: events from the number after the
//! last, input from the byte that the daemon asks for. Whoever has the run sees none of it, unless the daemon stays away too long.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fumehood_proto::v1::run_event::Event;
use fumehood_proto::v1::{AttachStart, RunEvent, RunInfo, Stdin};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::client::Client;
use crate::error::Error;
use crate::readers::{Readers, passed_over};
use crate::run::{Input, MAX_STDIN_BYTES, RunEvents, RunHandle, RunInput, last_seq_of};

/// Bytes of input that are kept for a repetition. Beyond it no more is taken until the daemon has taken some.
pub(crate) const REPLAY_BYTES: usize = 1024 * 1024;
/// Between two questions how much input was taken: at first, and at most.
const TAKEN_PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));
/// One attempt to connect takes at most so long.
const ATTEMPT: Duration = Duration::from_secs(10);
/// A connection that has lasted so long has healed: the next break has the whole time again.
const STEADY: Duration = Duration::from_secs(5);
/// A run that is to be killed because it was dropped is tried to be killed for so long.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts there is at least so much, whatever [`Reconnect`] says.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// How long, and how often, a connection that broke is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// Before the first attempt; zero: at once. Each further pause is twice as long.
    pub first_pause: Duration,
    /// No pause is longer; but from the second attempt on none is shorter than 10 ms.
    pub longest_pause: Duration,
    /// From the break to [`Error::GivenUp`], but for an attempt that is under way (10 seconds at most). Zero: never again, and the break
    /// itself is the error.
    pub give_up_after: Duration,
}

impl Reconnect {
    /// A connection that breaks stays broken.
    #[must_use]
    pub const fn never() -> Self {
        Self {
            first_pause: Duration::ZERO,
            longest_pause: Duration::ZERO,
            give_up_after: Duration::ZERO,
        }
    }

    /// Tries for this long, with pauses from 50 ms to 2 seconds.
    #[must_use]
    pub const fn for_up_to(give_up_after: Duration) -> Self {
        Self {
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(2),
            give_up_after,
        }
    }
}

impl Reconnect {
    fn pause_after(self, pause: Duration) -> Duration {
        (pause * 2).min(self.longest_pause).max(SHORTEST_PAUSE)
    }
}

impl Default for Reconnect {
    /// For up to 30 seconds: half of the time that a run lingers by default.
    fn default() -> Self {
        Self::for_up_to(Duration::from_secs(30))
    }
}

/// Calls again while the connection is at fault, or the daemon drains: the next one may take its place. A call may last: when it breaks after
/// [`STEADY`], that is a new break.
pub(crate) async fn retry<T, F>(policy: Reconnect, mut call: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut broken_at = Instant::now();
    let (mut attempts, mut pause) = (1, policy.first_pause);
    loop {
        let called_at = Instant::now();
        match call().await {
            Err(error) if may_pass(&error) && !policy.give_up_after.is_zero() => {
                if called_at.elapsed() >= STEADY {
                    (broken_at, attempts, pause) = (Instant::now(), 1, policy.first_pause);
                }
                if broken_at.elapsed() >= policy.give_up_after {
                    let source = Box::new(error);
                    return Err(Error::GivenUp { attempts, source });
                }
                attempts += 1;
                sleep(pause).await;
                pause = policy.pause_after(pause);
            }
            done => return done,
        }
    }
}

/// Whether the same call may succeed a little later.
fn may_pass(error: &Error) -> bool {
    error.is_broken_connection() || matches!(error, Error::Unavailable { .. })
}

/// Input that the daemon is not known to have taken.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pieces: VecDeque<Bytes>,
    /// Where the first piece begins in the whole input.
    from: u64,
    bytes: usize,
    /// The input has ended, as far as this side is concerned.
    ended: bool,
    /// The daemon does not count what it takes: nothing can be repeated, and nothing is kept.
    uncounted: bool,
}

impl Kept {
    /// For input that begins at this byte of the whole.
    pub(crate) fn from(from: u64, counted: bool) -> Self {
        Self {
            from,
            uncounted: !counted,
            ..Self::default()
        }
    }

    fn note(&mut self, stdin: &Stdin) {
        self.ended |= stdin.eof;
        if self.uncounted {
            self.from += stdin.data.len() as u64;
        } else if !stdin.data.is_empty() {
            self.bytes += stdin.data.len();
            self.pieces.push_back(stdin.data.clone());
        }
    }

    fn has_room(&self) -> bool {
        self.bytes < REPLAY_BYTES
    }

    /// Forgets what the daemon has taken. True when that was anything.
    fn taken(&mut self, info: &RunInfo) -> bool {
        // A daemon that tells the length of output counts input too; an older one tells neither.
        if info.output_bytes.is_none() {
            self.uncounted = true;
            self.from += std::mem::take(&mut self.bytes) as u64;
            self.pieces.clear();
            return true;
        }
        let before = self.from;
        while let Some(piece) = self.pieces.front_mut() {
            let taken = usize::try_from(info.input_bytes.saturating_sub(self.from)).unwrap_or(usize::MAX);
            let forget = taken.min(piece.len());
            let whole = forget == piece.len();
            drop(piece.split_to(forget));
            self.from += forget as u64;
            self.bytes -= forget;
            if !whole {
                break;
            }
            self.pieces.pop_front();
        }
        self.from > before
    }

    /// What is to be said again, each piece with its place.
    fn repetition(&self) -> VecDeque<Input> {
        let mut offset = self.from;
        let mut all = VecDeque::new();
        for data in &self.pieces {
            all.push_back(Input::Stdin(Stdin {
                data: data.clone(),
                eof: false,
                offset: Some(offset),
            }));
            offset += data.len() as u64;
        }
        if self.ended {
            all.push_back(Input::Stdin(Stdin {
                data: Bytes::new(),
                eof: true,
                offset: Some(offset),
            }));
        }
        all
    }
}

/// Where what is to be said comes from.
pub(crate) struct Says {
    /// Input. Its end is the input's end where `end_is_eof`.
    pub stdin: Option<mpsc::Receiver<Stdin>>,
    /// What becomes of the input when its writer is dropped without a word.
    pub end_is_eof: bool,
    /// Sizes of the terminal.
    pub control: mpsc::Receiver<Input>,
}

/// The task that follows a run.
pub(crate) struct Driver {
    pub client: Client,
    pub run_id: String,
    pub policy: Reconnect,
    /// How to attach again as long as nothing of the position has come.
    pub start: AttachStart,
    /// Whether a number of an event says where to go on.
    pub reached: bool,
    pub kept: Kept,
    pub kill_on_drop: Arc<AtomicBool>,
    /// Whether the command waits for what this task does not take.
    pub holds_back: bool,
    /// Who reads the output elsewhere.
    pub readers: Arc<Readers>,
    input: RunInput,
    events: RunEvents,
    last_seq: u64,
    outgoing: VecDeque<Input>,
    made_at: Instant,
    broken_at: Option<Instant>,
}

/// What the task woke up for.
#[allow(clippy::large_enum_variant)] // One at a time, on the stack.
enum Turn {
    Left,
    Passed,
    PassedOver,
    Event(Result<Option<RunEvent>, Error>),
    Stdin(Option<Stdin>),
    Control(Option<Input>),
    Said(bool),
    Taken(Result<RunInfo, Error>),
}

type Question = Pin<Box<dyn Future<Output = Result<RunInfo, Error>> + Send>>;

impl Driver {
    pub(crate) fn new(client: Client, start: AttachStart, handle: RunHandle) -> Self {
        let (input, events) = handle.split();
        Self {
            policy: client.reconnect,
            client,
            run_id: start.run_id.clone(),
            reached: start.position.is_none(),
            last_seq: start.from_seq.saturating_sub(1),
            start,
            kept: Kept::default(),
            kill_on_drop: Arc::default(),
            holds_back: false,
            readers: Arc::default(),
            input,
            events,
            outgoing: VecDeque::new(),
            made_at: Instant::now(),
            broken_at: None,
        }
    }

    /// Says all of this, and then the end of input.
    pub(crate) fn give(&mut self, mut data: Bytes) {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_STDIN_BYTES));
            self.say(Stdin {
                data: piece,
                ..Stdin::default()
            });
        }
        self.say(Stdin {
            eof: true,
            ..Stdin::default()
        });
    }

    fn say(&mut self, stdin: Stdin) {
        self.kept.note(&stdin);
        self.outgoing.push_back(Input::Stdin(stdin));
    }

    /// Follows the run until its last event was taken, its events are wanted no more, or it cannot be followed.
    pub(crate) async fn drive(mut self, mut says: Says, events: mpsc::Sender<Result<RunEvent, Error>>) {
        // One event, and more only behind output that was passed over.
        let mut waiting: VecDeque<RunEvent> = VecDeque::new();
        let mut takes_input = true;
        let mut question: Option<Question> = None;
        let mut pause = TAKEN_PAUSES.0;
        loop {
            if question.is_none() && !self.kept.has_room() && says.stdin.is_some() {
                let (client, run_id) = (self.client.clone(), self.run_id.clone());
                question = Some(Box::pin(async move {
                    sleep(pause).await;
                    client.get(run_id).await
                }));
            }
            let takes_more = match waiting.back().map(|last| &last.event) {
                None => true,
                Some(Some(Event::Output(_) | Event::Finished(_))) => false,
                Some(_) => self.holds_back && self.readers.are_there(),
            };
            let next = self.outgoing.front().cloned();
            let idle = next.is_none();
            let turn = tokio::select! {
                biased;
                () = events.closed() => Turn::Left,
                room = events.reserve(), if !waiting.is_empty() => match (room, waiting.pop_front()) {
                    (Ok(room), Some(event)) => {
                        let last = matches!(event.event, Some(Event::Finished(_)));
                        room.send(Ok(event));
                        if last {
                            return;
                        }
                        Turn::Passed
                    }
                    _ => Turn::Left,
                },
                () = self.readers.past(waiting.back()), if self.holds_back => Turn::PassedOver,
                event = self.events.next(), if takes_more => Turn::Event(event),
                said = async { match next { Some(input) => self.input.send(input).await, None => Ok(()) } }, if !idle && takes_input => Turn::Said(said.is_ok()),
                control = says.control.recv(), if idle && !says.control.is_closed() => Turn::Control(control),
                stdin = async { match &mut says.stdin { Some(stdin) => stdin.recv().await, None => None } }, if idle && says.stdin.is_some() && self.kept.has_room() => Turn::Stdin(stdin),
                info = async { match &mut question { Some(question) => question.await, None => std::future::pending().await } }, if question.is_some() => Turn::Taken(info),
            };
            match turn {
                Turn::Passed => {}
                Turn::PassedOver => {
                    if let Some(event) = waiting.pop_back() {
                        let gap = waiting
                            .back()
                            .is_some_and(|before| matches!(before.event, Some(Event::Gap(_))));
                        let before = if gap { waiting.pop_back() } else { None };
                        waiting.push_back(passed_over(&event, before));
                    }
                }
                Turn::Left => return self.leave().await,
                Turn::Stdin(Some(stdin)) => {
                    if stdin.eof {
                        says.stdin = None;
                    }
                    self.say(stdin);
                }
                Turn::Stdin(None) => {
                    says.stdin = None;
                    if says.end_is_eof {
                        self.say(Stdin {
                            eof: true,
                            ..Stdin::default()
                        });
                    }
                }
                Turn::Control(Some(input)) => self.outgoing.push_back(input),
                Turn::Control(None) => says.control.close(),
                Turn::Said(true) => drop(self.outgoing.pop_front()),
                // The events say why.
                Turn::Said(false) => takes_input = false,
                Turn::Taken(info) => {
                    question = None;
                    let any = info.is_ok_and(|info| self.kept.taken(&info));
                    pause = if any {
                        TAKEN_PAUSES.0
                    } else {
                        (pause * 2).min(TAKEN_PAUSES.1)
                    };
                }
                Turn::Event(Ok(Some(event))) => {
                    // The end of a lost run may have a number that was another event's, which was not saved.
                    if event.seq <= self.last_seq && !matches!(event.event, Some(Event::Finished(_))) {
                        continue;
                    }
                    self.last_seq = last_seq_of(&event).max(self.last_seq);
                    match &event.event {
                        Some(Event::Output(_) | Event::Gap(_)) => self.reached = true,
                        // Nobody is left to read: who writes on is told so.
                        Some(Event::Exited(_) | Event::Finished(_)) => {
                            says.stdin = None;
                            takes_input = false;
                        }
                        _ => {}
                    }
                    waiting.push_back(event);
                }
                Turn::Event(Ok(None)) => return,
                Turn::Event(Err(error)) => {
                    // The end of input that was said again had arrived before.
                    let told_twice = self.kept.ended
                        && matches!(&error, Error::Precondition { violations, .. } if violations.iter().any(|one| one.kind == "INPUT_CLOSED"));
                    if told_twice {
                        self.kept = Kept::default();
                    }
                    let resumed =
                        if (told_twice || error.is_broken_connection()) && !self.policy.give_up_after.is_zero() {
                            self.resume(error, &events).await
                        } else {
                            Err(error)
                        };
                    match resumed {
                        Ok(()) => {
                            question = None;
                            takes_input = true;
                            if self.kept.uncounted && self.kept.from > 0 && !self.kept.ended {
                                // What of it arrived is not known: whoever writes is told so.
                                says.stdin = None;
                            }
                        }
                        Err(error) => {
                            for event in waiting {
                                let _ = events.send(Ok(event)).await;
                            }
                            let _ = events.send(Err(error)).await;
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Attaches again.
    async fn resume(&mut self, mut broken: Error, events: &mpsc::Sender<Result<RunEvent, Error>>) -> Result<(), Error> {
        let healed = self.made_at.elapsed() >= STEADY;
        let broken_at = match self.broken_at {
            Some(before) if !healed => before,
            _ => Instant::now(),
        };
        self.broken_at = Some(broken_at);
        let (mut attempts, mut pause) = (0, self.policy.first_pause);
        loop {
            tokio::select! {
                biased;
                () = events.closed() => return Err(broken),
                () = sleep(pause) => {}
            }
            pause = self.policy.pause_after(pause);
            attempts += 1;
            broken = match timeout(ATTEMPT, self.open()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Error::NotFound { .. })) => {
                    let run_id = self.run_id.clone();
                    return Err(Error::RunLost { run_id });
                }
                Ok(Err(error)) if may_pass(&error) => error,
                Ok(Err(refusal)) => return Err(refusal),
                Err(_) => Error::Deadline {
                    message: format!("the daemon did not answer within {} seconds", ATTEMPT.as_secs()),
                },
            };
            if broken_at.elapsed() >= self.policy.give_up_after {
                let source = Box::new(broken);
                return Err(Error::GivenUp { attempts, source });
            }
        }
    }

    /// One attempt to attach where we were.
    async fn open(&mut self) -> Result<(), Error> {
        let start = if self.reached {
            AttachStart {
                run_id: self.run_id.clone(),
                from_seq: self.last_seq + 1,
                position: None,
                tail_end: None,
            }
        } else {
            self.start.clone()
        };
        let repeats = !self.kept.pieces.is_empty() || self.kept.ended;
        let mut running = true;
        if repeats {
            let info = self.client.get(self.run_id.as_str()).await?;
            self.kept.taken(&info);
            running = info.finished.is_none();
        }
        let (input, events) = self.client.attach_at(start).await?.split();
        (self.input, self.events) = (input, events);
        self.made_at = Instant::now();
        // Sizes of the terminal that were not said yet stay; what was said of the input is said again.
        self.outgoing.retain(|input| !matches!(input, Input::Stdin(_)));
        if repeats && running && !self.kept.uncounted {
            let mut again = self.kept.repetition();
            again.append(&mut self.outgoing);
            self.outgoing = again;
        }
        Ok(())
    }

    /// Nobody wants the run's events any more.
    async fn leave(self) {
        if self.kill_on_drop.load(Ordering::Relaxed) {
            let killed = self
                .client
                .kill(self.run_id.as_str(), Some(Duration::ZERO), "its owner dropped it");
            let _ = timeout(KILL_PATIENCE, killed).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_proto::v1::StreamOffsets;

    fn info(input_bytes: u64) -> RunInfo {
        RunInfo {
            input_bytes,
            output_bytes: Some(StreamOffsets::default()),
            ..RunInfo::default()
        }
    }

    fn stdin(data: &'static [u8], eof: bool) -> Stdin {
        Stdin {
            data: Bytes::from_static(data),
            eof,
            offset: None,
        }
    }

    #[test]
    fn what_was_taken_is_forgotten_to_the_byte_and_the_rest_repeated_at_its_place() {
        let mut kept = Kept::from(100, true);
        kept.note(&stdin(b"hello", false));
        kept.note(&stdin(b"world", true));
        assert!(kept.taken(&info(107)));
        assert!(!kept.taken(&info(107)));
        let again: Vec<_> = kept.repetition().into();
        let at = |data: &'static [u8], offset, eof| {
            Input::Stdin(Stdin {
                data: Bytes::from_static(data),
                eof,
                offset: Some(offset),
            })
        };
        assert_eq!(again, [at(b"rld", 107, false), at(b"", 110, true)]);
        assert!(kept.taken(&info(1_000)), "never past what was said");
        assert_eq!((kept.from, kept.bytes), (110, 0));
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_with_pauses_and_given_up() {
        let policy = Reconnect {
            first_pause: Duration::ZERO,
            longest_pause: Duration::ZERO,
            give_up_after: Duration::from_millis(200),
        };
        let drains = || Error::Unavailable {
            message: "it drains".to_owned(),
            retry_after: None,
        };
        let mut calls = 0;
        let done = retry(policy, || {
            calls += 1;
            let result = if calls < 3 { Err(drains()) } else { Ok(calls) };
            async move { result }
        });
        assert_eq!(done.await.unwrap(), 3);
        let mut calls = 0;
        let never = retry(policy, || {
            calls += 1;
            let result: Result<(), _> = Err(drains());
            async move { result }
        });
        let given_up = never.await.unwrap_err();
        assert!(
            matches!(given_up, Error::GivenUp { attempts: 3..=22, .. }),
            "{given_up:?}"
        );
        assert!(calls <= 22, "{calls}");
        let at_once = retry(Reconnect::never(), || async { Err::<(), _>(drains()) }).await;
        assert!(matches!(at_once, Err(Error::Unavailable { .. })));
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let mut kept = Kept::from(0, true);
        assert!(kept.has_room());
        kept.note(&Stdin {
            data: vec![0; REPLAY_BYTES].into(),
            ..Stdin::default()
        });
        assert!(!kept.has_room());
        assert!(kept.taken(&info(1)));
        assert!(kept.has_room());
    }

    #[test]
    fn a_daemon_that_does_not_count_gets_nothing_twice() {
        let mut kept = Kept::from(0, true);
        kept.note(&stdin(b"hello", false));
        assert!(kept.taken(&RunInfo::default()));
        kept.note(&stdin(b"more", false));
        assert!(kept.repetition().is_empty() && kept.has_room());
    }
}
