//! The events of a run, kept within a bound and read by any number of readers.
//!
//! One writer (the run's actor) appends, readers have a position each and take what is there at their own pace. What is kept:
//!
//! | what | where | for how long |
//! |---|---|---|
//! | events other than output, a few dozen in a run | memory | always |
//! | the first output, half of the bound | memory: the head | always, unless many finished runs need the memory and the file has it |
//! | the newest output, the other half | memory: the tail | until newer output takes its place, and as the head |
//! | all output | the run's spill file, see `spill.rs` | as far as the bounds and the disk go, until the run is forgotten |
//! | events other than output, and once it is over what memory has of output that no file was to get | the run's state on disk, see `saved.rs` | as long |
//!
//! A reader that keeps up reads memory only. One that fell behind the tail, or that begins somewhere in the middle, reads the file from
//! there until it has caught up, on the runtime's threads for blocking work; the events it gets are the same, with the same numbers
//! and times. What is neither in memory nor in the file comes as one [`Item::Gap`] with exact counts. Output that waits to be
//! written stays in the tail, so that it is always in one of both.
//!
//! Nothing that a reader does can hold the writer up, with one exception that a run asks for: its *owner* may (`FlowControl::Block`). The
//! writer then waits in [`Journal::room`] until the owner has taken enough. What the owner has not taken is never given up, so a writer
//! that does not wait (for the last of a run that is over) makes the journal larger than its bound, by as much as it appends. The
//! disk can hold the writer up too, within the bounds that `spill.rs` names.
//!
//! Memory: `keep_bytes`, and with a file up to 2 MiB that wait for the disk and an index of 40 KiB; for each reader that is
//! behind, one block of the file (512 KiB).

mod reader;
mod slice;
mod spilling;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::model::{Denials, Event, Finished, Started, Stream, TerminalSize};
use super::saved::{Happened, Hole, Saved, Sealed};
use super::spill::record::Extent;
use super::spill::{SpillFile, SpillStore, Spilled};
use spilling::Spilling;

pub use reader::{Item, Reader};
pub use slice::Slice;

/// What an event costs beside its bytes, so that a million one-byte events count.
const EVENT_OVERHEAD: usize = 128;

/// The smallest bound: less would not hold two chunks of output.
pub const MIN_KEEP_BYTES: usize = 64 * 1024;

/// An event with its number and time.
#[derive(Clone, Debug)]
pub struct Entry {
    /// From 1.
    pub seq: u64,
    /// When it was noticed.
    pub time: SystemTime,
    /// What happened.
    pub event: Event,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// With the event of this number; 0 and 1 are the first.
    Seq(u64),
    /// With the next event.
    Now,
    /// With these bytes of each stream. Events other than output come from the beginning.
    Offsets([u64; 2]),
    /// With the last so many bytes of output, fewer where fewer are kept. Events other than output come from the beginning.
    Tail {
        /// So many, of both streams together.
        bytes: u64,
        /// Of the output that there was when each stream was this long; what came since follows. `None`: of what there is.
        end: Option<[u64; 2]>,
    },
}

/// Where a run's output goes beside memory.
#[derive(Clone, Debug)]
pub(super) enum To {
    /// Nowhere.
    Memory,
    /// To this file, with the run's state beside it.
    File(SpillStore, Arc<SpillFile>),
    /// To a file that cannot be made, for this reason.
    Nowhere(String),
}

/// The events of one run.
#[derive(Debug)]
pub struct Journal {
    inner: Mutex<Inner>,
    to: To,
    /// Told whenever something was appended.
    appended: Notify,
    /// Told whenever the owner or the disk took something, or does not hold the writer up any more.
    taken: Notify,
}

/// An event other than output.
#[derive(Debug)]
struct Mark {
    entry: Entry,
    /// Bytes of each stream before it.
    before: [u64; 2],
}

#[derive(Debug, Default)]
struct Inner {
    marks: Vec<Mark>,
    marks_bytes: usize,
    head: Vec<Entry>,
    head_bytes: usize,
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    /// Bound of head and of tail, each.
    half: usize,
    next_seq: u64,
    /// Where the head ends and where the tail begins, in bytes of each stream.
    head_end: [u64; 2],
    tail_start: [u64; 2],
    /// The length of each stream, and whether it can grow.
    end: [u64; 2],
    ended: [bool; 2],
    closed: bool,
    /// Bytes the owner has not taken yet; `None` without an owner.
    owed: Option<usize>,
    spilling: Option<Spilling>,
    /// So many events other than output are in the run's state on disk, the first ones; `None` where none is kept there.
    saved: Option<usize>,
    /// What the seal says beside what is known here; from the time on when nothing can follow.
    sealing: Option<Sealing>,
}

/// What only others know of a run that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealing {
    /// Bytes of input that were taken.
    pub input_bytes: u64,
    /// The last size of its terminal.
    pub terminal: Option<TerminalSize>,
}

/// Events for the state on disk, with the number that they have there.
#[derive(Debug)]
pub(super) struct Unsaved {
    pub file: Arc<SpillFile>,
    pub from: usize,
    pub happened: Vec<Happened>,
}

/// Whether there is something to be written of a journal.
#[derive(Debug)]
pub(super) enum Rest {
    /// There is.
    No,
    /// There is not, for now.
    Now,
    /// There is not, and nothing will come any more; with the seal, where there is a state on disk.
    Sealed(Arc<SpillFile>, Option<Box<Sealed>>),
}

fn cost(event: &Event) -> usize {
    EVENT_OVERHEAD
        + match event {
            Event::Output { data, .. } => data.len(),
            Event::Denial(denial) => denial.subject.bytes().len() + denial.rule.len() + denial.remedy.len(),
            Event::ApprovalRequested(question) => {
                question.reason.len() + question.commands.iter().map(String::len).sum::<usize>()
            }
            Event::ApprovalResolved { resolution, .. } => resolution.reason.len(),
            _ => 0,
        }
}

impl Journal {
    /// An empty journal that keeps about `keep_bytes` of output in memory.
    pub(super) fn new(keep_bytes: usize, to: To) -> Arc<Journal> {
        let spilling = match &to {
            To::Memory => None,
            To::File(_, file) => Some(Spilling::new(file.whole)),
            To::Nowhere(why) => Some(Spilling::stopped(why.clone())),
        };
        let inner = Inner {
            half: keep_bytes.max(MIN_KEEP_BYTES) / 2,
            next_seq: 1,
            saved: matches!(to, To::File(..)).then_some(0),
            spilling,
            ..Inner::default()
        };
        Arc::new(Journal::of(inner, to))
    }

    fn of(inner: Inner, to: To) -> Journal {
        Journal {
            inner: Mutex::new(inner),
            to,
            appended: Notify::new(),
            taken: Notify::new(),
        }
    }

    /// The journal of a run whose daemon is no more, from its state on disk and, where that has no seal, from what is found of its output.
    pub(super) fn restored(
        store: SpillStore,
        file: Arc<SpillFile>,
        saved: Saved,
        found: Option<Extent>,
    ) -> Arc<Journal> {
        let mut inner = Inner {
            half: MIN_KEEP_BYTES / 2,
            next_seq: 1,
            ..Inner::default()
        };
        for Happened {
            seq,
            time,
            before,
            event,
        } in saved.happened
        {
            match &event {
                Event::Closed { stream, .. } => inner.ended[stream.index()] = true,
                Event::Finished(_) => {
                    inner.ended = [true; 2];
                    inner.closed = true;
                }
                _ => {}
            }
            inner.marks_bytes += cost(&event);
            inner.next_seq = seq + 1;
            inner.end = before;
            let entry = Entry { seq, time, event };
            inner.marks.push(Mark { entry, before });
        }
        inner.saved = Some(inner.marks.len());
        let spilling = match (found, saved.sealed) {
            (None, Some(sealed)) => Spilling::sealed(file.whole, sealed.output),
            (found, sealed) => {
                let stopped = sealed.map(|_| super::spill::DAMAGED.to_owned());
                Spilling::found(file.whole, found.unwrap_or_default(), stopped)
            }
        };
        if !inner.closed {
            let ends = spilling.ends();
            inner.end = [0, 1].map(|index| inner.end[index].max(ends[index]));
            inner.next_seq = inner.next_seq.max(spilling.written_seq() + 1);
        }
        inner.tail_start = inner.end;
        inner.spilling = Some(spilling);
        Arc::new(Journal::of(inner, To::File(store, file)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while appending leaves counters at worst inexact; readers of other runs must go on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an event. [`Event::Finished`] closes the journal.
    pub fn append(self: &Arc<Self>, event: Event) {
        self.append_at(event, SystemTime::now());
    }

    /// Appends an event that was noticed at a time that is told elsewhere too.
    pub fn append_at(self: &Arc<Self>, event: Event, time: SystemTime) {
        let mut inner = self.lock();
        let entry = Entry {
            seq: inner.next_seq,
            time,
            event,
        };
        inner.next_seq += 1;
        match &entry.event {
            Event::Output { stream, offset, data } => {
                inner.end[stream.index()] = offset + data.len() as u64;
                inner.keep(entry);
            }
            other => {
                match other {
                    Event::Closed { stream, .. } => inner.ended[stream.index()] = true,
                    Event::Finished(_) => {
                        inner.ended = [true; 2];
                        inner.closed = true;
                    }
                    _ => {}
                }
                inner.marks_bytes += cost(other);
                let before = inner.end;
                inner.marks.push(Mark { entry, before });
            }
        }
        let write = inner.queue();
        drop(inner);
        self.tell_writer(write);
        self.appended.notify_waiters();
    }

    fn tell_writer(self: &Arc<Self>, write: bool) {
        if let (true, To::File(store, _)) = (write, &self.to) {
            store.write(self);
        }
    }

    /// Has the state on disk completed and sealed: nothing follows any more, and the run is as it will be told from now on.
    pub(super) fn seal(self: &Arc<Self>, sealing: Sealing) {
        let mut inner = self.lock();
        inner.sealing = Some(sealing);
        inner.write_rest();
        let write = inner.queue();
        drop(inner);
        self.tell_writer(write);
    }

    /// How the run ended, and when; `None` before its last event.
    pub(super) fn finished(&self) -> Option<(SystemTime, Arc<Finished>)> {
        let inner = self.lock();
        let last = &inner.marks.last()?.entry;
        match &last.event {
            Event::Finished(finished) => Some((last.time, Arc::clone(finished))),
            _ => None,
        }
    }

    /// When the command was started, and what holds for it; `None` where it was not.
    pub(super) fn started(&self) -> Option<(SystemTime, Arc<Started>)> {
        self.lock().marks.iter().find_map(|mark| match &mark.entry.event {
            Event::Started(started) => Some((mark.entry.time, Arc::clone(started))),
            _ => None,
        })
    }

    /// What was refused, as far as it was told.
    pub(super) fn denials(&self) -> Denials {
        let inner = self.lock();
        let denials = inner.marks.iter().filter_map(|mark| match &mark.entry.event {
            Event::Denial(denial) => Some(denial.clone()),
            _ => None,
        });
        let list: Vec<_> = denials.collect();
        let count = list.len() as u64;
        Denials { list, count }
    }

    /// The number of the newest event; 0 when there is none.
    pub fn last_seq(&self) -> u64 {
        self.lock().next_seq - 1
    }

    /// Bytes of each output stream appended so far.
    pub fn output_bytes(&self) -> [u64; 2] {
        self.lock().end
    }

    /// Memory that its events take, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let inner = self.lock();
        let index = inner.spilling.as_ref().map_or(0, Spilling::memory_bytes);
        inner.marks_bytes + inner.head_bytes + inner.tail_bytes + index
    }

    /// The largest event to append at once: a few fit each half of the bound.
    pub fn chunk_bytes(&self) -> usize {
        self.lock().half / 4
    }

    /// Whether an event of `bytes` could be appended now without waiting for the owner or the disk.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.lock().has_room(bytes)
    }

    /// A reader from the event `from_seq` on; 0 and 1 mean the beginning.
    pub fn reader(self: &Arc<Self>, from_seq: u64) -> Reader {
        let before = self.lock().position_before(from_seq);
        Reader::new(self, from_seq.max(1), before)
    }

    /// A reader from the beginning that holds the writer up. Once per journal, before anything is appended.
    pub fn owner(self: &Arc<Self>) -> Reader {
        self.lock().owed = Some(0);
        Reader::new(self, 1, [0; 2]).into_owner()
    }

    /// Waits until an event of `bytes` can be appended without taking something from the owner that it has not read, and without more
    /// waiting for the disk than may. A disk that takes nothing for [`STALL`](super::spill::STALL) is waited for no longer.
    pub async fn room(&self, bytes: usize) {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            // Registered before the look, so that nothing taken in between is missed.
            taken.as_mut().enable();
            let patience = {
                let mut inner = self.lock();
                if inner.has_room(bytes) {
                    return;
                }
                match inner.spilling.as_mut().filter(|spilling| !spilling.has_room(bytes)) {
                    None => None,
                    Some(spilling) => match spilling.patience() {
                        Duration::ZERO => {
                            spilling.stop("stalled".to_owned());
                            inner.give_up();
                            continue;
                        }
                        patience => Some(patience),
                    },
                }
            };
            match patience {
                None => taken.await,
                Some(patience) => drop(tokio::time::timeout(patience, taken).await),
            }
        }
    }

    /// What became of writing the output to a file; `None` where that was not asked for.
    pub fn spilled(&self) -> Option<Spilled> {
        let spilled = self.lock().spilling.as_ref()?.told();
        match &self.to {
            To::File(_, file) if !file.whole => None,
            To::File(_, file) if file.is_removed() => Some(Spilled {
                bytes: 0,
                stopped: super::spill::REMOVED.to_owned(),
            }),
            _ => Some(spilled),
        }
    }

    /// Gives up the memory of output that the file holds too; for a run that is over. Readers go on in the file.
    pub(super) fn trim(&self) {
        let mut inner = self.lock();
        let newest = inner.tail.back().or(inner.head.last()).map_or(0, |newest| newest.seq);
        let removed = matches!(&self.to, To::File(_, file) if file.is_removed());
        let written = |spilling: &Spilling| spilling.written_seq() >= newest;
        if !inner.closed || removed || !inner.spilling.as_ref().is_some_and(written) {
            return;
        }
        inner.head = Vec::new();
        inner.tail = VecDeque::new();
        (inner.head_bytes, inner.tail_bytes) = (0, 0);
        (inner.head_end, inner.tail_start) = ([0; 2], inner.end);
    }

    /// Removes the file: the run is forgotten. Readers that have it open read on.
    pub fn discard(&self) {
        if let To::File(store, file) = &self.to {
            store.remove(file);
        }
    }

    /// Output that is not in the file yet, up to about `bytes`, at most `events`, with the file and its length. `None`: all is, or no
    /// more is to be; the next append says again that there is something.
    pub(super) fn unwritten(&self, bytes: usize, events: usize) -> Option<(Arc<SpillFile>, Vec<Entry>, u64)> {
        let To::File(_, file) = &self.to else { return None };
        let mut inner = self.lock();
        let inner = &mut *inner;
        let spilling = inner.spilling.as_mut()?;
        let written = spilling.written_seq();
        let mut left = bytes;
        let head = inner.head.partition_point(|entry| entry.seq <= written);
        let tail = inner.tail.partition_point(|entry| entry.seq <= written);
        let entries: Vec<Entry> = inner.head[head..]
            .iter()
            .chain(inner.tail.range(tail..))
            .take(events)
            .take_while(|entry| {
                let takes = left > 0;
                left = left.saturating_sub(cost(&entry.event));
                takes
            })
            .cloned()
            .collect();
        if entries.is_empty() || !spilling.writes() {
            return None;
        }
        Some((Arc::clone(file), entries, spilling.file_bytes()))
    }

    /// Takes note that `entries`, the next ones, are in the file, which ends at `end` now.
    pub(super) fn written(&self, entries: &[Entry], end: u64) {
        let mut inner = self.lock();
        if let Some(spilling) = &mut inner.spilling {
            spilling.written(entries, end);
        }
        inner.give_up();
        drop(inner);
        self.taken.notify_waiters();
    }

    /// Writes no more to the file.
    pub(super) fn stop_spilling(&self, why: String) {
        let mut inner = self.lock();
        let was_resting = inner.spilling.as_ref().is_some_and(Spilling::is_resting);
        if let Some(spilling) = &mut inner.spilling {
            spilling.stop(why);
        }
        // What the file cannot take of the whole, it may take of the end.
        if inner.sealing.is_some() && !was_resting {
            inner.write_rest();
        }
        inner.give_up();
        drop(inner);
        self.taken.notify_waiters();
    }

    /// Events other than output that are not in the state on disk yet.
    pub(super) fn unsaved(&self) -> Option<Unsaved> {
        let To::File(_, file) = &self.to else { return None };
        let inner = self.lock();
        let from = inner.saved?;
        let happened: Vec<_> = inner
            .marks
            .iter()
            .skip(from)
            .map(|Mark { entry, before }| Happened {
                seq: entry.seq,
                time: entry.time,
                before: *before,
                event: entry.event.clone(),
            })
            .collect();
        (!happened.is_empty()).then(|| Unsaved {
            file: Arc::clone(file),
            from,
            happened,
        })
    }

    /// Takes note that the first so many events other than output are in the state on disk; `None`: that there is none any more.
    pub(super) fn saved(&self, marks: Option<usize>) {
        self.lock().saved = marks;
    }

    /// Whether nothing can follow any more.
    pub(super) fn is_over(&self) -> bool {
        self.lock().sealing.is_some()
    }

    /// Whether the writer may forget it until it is told again.
    pub(super) fn rests(&self) -> Rest {
        let To::File(_, file) = &self.to else { return Rest::Now };
        let mut inner = self.lock();
        let inner = &mut *inner;
        let newest = inner.tail.back().or(inner.head.last()).map_or(0, |newest| newest.seq);
        let unsaved = inner.saved.is_some_and(|saved| inner.marks.len() > saved);
        let Some(spilling) = inner.spilling.as_mut() else {
            return Rest::Now;
        };
        if unsaved || (spilling.writes() && newest > spilling.written_seq()) {
            return Rest::No;
        }
        spilling.unqueue();
        let Some(Sealing { input_bytes, terminal }) = inner.sealing.take_if(|_| inner.closed) else {
            return Rest::Now;
        };
        let sealed = Sealed {
            next_seq: inner.next_seq,
            end: inner.end,
            input_bytes,
            terminal,
            output: spilling.output(),
        };
        Rest::Sealed(Arc::clone(file), inner.saved.is_some().then(|| Box::new(sealed)))
    }
}

impl Inner {
    /// Whether the writer is to be told that there is something for it.
    fn queue(&mut self) -> bool {
        let unsaved = self.saved.is_some_and(|saved| self.marks.len() > saved);
        let more = unsaved || self.sealing.is_some();
        self.spilling.as_mut().is_some_and(|spilling| spilling.queue(more))
    }

    /// For a run that is over: has the file get what memory holds of output that it was not to get, or could not.
    fn write_rest(&mut self) {
        let Some(spilling) = self.spilling.as_mut().filter(|spilling| !spilling.goes_on()) else {
            return;
        };
        let written = spilling.written_seq();
        let ends = spilling.ends();
        let whole_to = [0, 1].map(|index| ends[index].max(self.head_end[index]));
        let last = self.head.last().map_or(0, |last| last.seq).max(written);
        let behind_hole = self.tail.iter().find(|entry| entry.seq > written);
        let hole = behind_hole.filter(|next| self.tail.front().is_some_and(|first| first.seq == next.seq));
        let hole = hole.filter(|_| self.tail_start != whole_to).map(|next| Hole {
            seq: last + 1,
            before: whole_to,
            next_seq: next.seq,
            next_before: self.tail_start,
            time: next.time,
        });
        spilling.rest(hole);
    }

    fn has_room(&self, bytes: usize) -> bool {
        // One event always fits: a bound below the size of a chunk must not stop everything.
        let owner = self
            .owed
            .is_none_or(|owed| owed == 0 || owed + bytes + EVENT_OVERHEAD <= self.half);
        owner && self.spilling.as_ref().is_none_or(|spilling| spilling.has_room(bytes))
    }

    /// Keeps output: in the head while that has room, then in the tail.
    fn keep(&mut self, entry: Entry) {
        let cost = cost(&entry.event);
        if let Some(owed) = &mut self.owed {
            *owed += cost;
        }
        if let Some(spilling) = &mut self.spilling {
            spilling.add(cost);
        }
        if self.tail.is_empty() && self.head_bytes + cost <= self.half {
            self.head_bytes += cost;
            self.head_end = self.end;
            self.tail_start = self.end;
            self.head.push(entry);
        } else {
            self.tail_bytes += cost;
            self.tail.push_back(entry);
            self.give_up();
        }
    }

    /// Gives up the oldest of the tail, as far as that is over its bound and nobody is to get it yet.
    fn give_up(&mut self) {
        while self.tail_bytes > self.half && self.tail.len() > 1 && self.oldest_is_free() {
            let Some(entry) = self.tail.pop_front() else { return };
            self.tail_bytes -= cost(&entry.event);
            if let Event::Output { stream, offset, data } = &entry.event {
                self.tail_start[stream.index()] = offset + data.len() as u64;
            }
        }
    }

    /// Whether the oldest event of the tail is neither owed to the owner nor waiting to be written.
    fn oldest_is_free(&self) -> bool {
        let Some(oldest) = self.tail.front() else { return false };
        let written = |spilling: &Spilling| !spilling.goes_on() || oldest.seq <= spilling.written_seq();
        let cost = cost(&oldest.event);
        self.owed.is_none_or(|owed| owed <= self.tail_bytes - cost) && self.spilling.as_ref().is_none_or(written)
    }

    /// Bytes of each stream before the event `seq`, as far as is known: of events that are kept nowhere, where those before them end.
    fn position_before(&self, seq: u64) -> [u64; 2] {
        if seq >= self.next_seq {
            return self.end;
        }
        let mut position = [0; 2];
        let mut reach = |end: [u64; 2]| position = [position[0].max(end[0]), position[1].max(end[1])];
        if let Some(place) = self.spilling.as_ref().and_then(|spilling| spilling.place_of(seq)) {
            reach(place.before);
        }
        if self.tail.front().is_some_and(|first| first.seq <= seq) {
            reach(self.tail_start);
        }
        for entry in self.head.iter().chain(&self.tail).take_while(|entry| entry.seq < seq) {
            if let Event::Output { stream, offset, data } = &entry.event {
                let mut end = [0; 2];
                end[stream.index()] = offset + data.len() as u64;
                reach(end);
            }
        }
        if let Some(hole) = self.hole().filter(|hole| hole.seq <= seq) {
            reach(hole.before);
        }
        for mark in self.marks.iter().take_while(|mark| mark.entry.seq <= seq) {
            reach(mark.before);
        }
        position
    }

    /// An event that is kept in memory.
    fn kept(&self, seq: u64) -> Option<&Entry> {
        if let Ok(found) = self.marks.binary_search_by_key(&seq, |mark| mark.entry.seq) {
            return Some(&self.marks[found].entry);
        }
        if let Ok(found) = self.head.binary_search_by_key(&seq, |entry| entry.seq) {
            return Some(&self.head[found]);
        }
        let found = self.tail.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
        self.tail.get(found)
    }

    fn hole(&self) -> Option<Hole> {
        self.spilling.as_ref()?.hole()
    }

    /// The first event after `seq` that is there again, its time, and the bytes of each stream before it. `in_file`: also where it is in
    /// the file only.
    fn next_kept(&self, seq: u64, in_file: bool) -> Option<(u64, SystemTime, [u64; 2])> {
        let mark = self.marks.partition_point(|mark| mark.entry.seq <= seq);
        let mark = self.marks.get(mark);
        let mark = mark.map(|mark| (mark.entry.seq, mark.entry.time, mark.before));
        // The head has no holes, and what is lost is behind it.
        let tail = self.tail.front().filter(|first| first.seq > seq);
        let tail = tail.map(|first| (first.seq, first.time, self.tail_start));
        let hole = self.hole().filter(|hole| in_file && hole.next_seq > seq);
        let hole = hole.map(|hole| (hole.next_seq, hole.time, hole.next_before));
        [mark, tail, hole].into_iter().flatten().min_by_key(|(seq, ..)| *seq)
    }

    /// The first event that holds output from these bytes on, or one a little before it.
    fn seq_of(&self, offsets: [u64; 2]) -> u64 {
        let of_stream = |stream: Stream| {
            let index = stream.index();
            let wanted = offsets[index];
            if wanted >= self.end[index] {
                return self.next_seq;
            }
            let holds = |entry: &&Entry| {
                matches!(&entry.event, Event::Output { stream: of, offset, data }
                    if *of == stream && offset + data.len() as u64 > wanted)
            };
            let kept = match wanted {
                _ if wanted < self.head_end[index] => self.head.iter().find(holds),
                _ if wanted >= self.tail_start[index] => self.tail.iter().find(holds),
                _ => None,
            };
            let behind_head = self.head.last().map_or(1, |last| last.seq + 1);
            let place = || self.spilling.as_ref()?.place_of_byte(index, wanted);
            kept.map(|entry| entry.seq)
                .unwrap_or_else(|| place().map_or(behind_head, |place| place.seq))
        };
        Stream::ALL.map(of_stream).into_iter().min().unwrap_or(self.next_seq)
    }
}

#[cfg(test)]
mod tests;
