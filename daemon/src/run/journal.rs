//! The events of a run, kept within a bound and read by any number of readers.
//!
//! One writer (the run's actor) appends, readers have a position each and take what is there at their own pace. The beginning and the
//! end are kept: half of the bound for the first events, half for the newest. What lies between is given up when it
//! does not fit, and a reader that comes by gets one [`Item::Gap`] for it.
//!
//! No reader can hold the writer up, with one exception that a run asks for: its *owner* may (`FlowControl::Block`). The writer then
//! waits in [`Journal::room`] until the owner has taken enough. What the owner has not taken is never given up, so a writer that does not
//! wait (for the last of a run that is over) makes the journal larger than its bound, by as much as it appends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::model::{Event, Stream};

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

/// What a reader gets.
#[derive(Clone, Debug)]
pub enum Item {
    /// The next event.
    Event(Entry),
    /// Events that are no longer kept.
    Gap {
        /// The first of them.
        seq: u64,
        /// The next event there is.
        next_seq: u64,
        /// When that one was noticed.
        time: SystemTime,
        /// Bytes of each stream lost to this reader.
        lost_bytes: [u64; 2],
    },
}

/// The events of one run.
#[derive(Debug)]
pub struct Journal {
    inner: Mutex<Inner>,
    /// Told whenever something was appended.
    appended: Notify,
    /// Told whenever the owner took something or left.
    taken: Notify,
}

#[derive(Debug)]
struct Inner {
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
    closed: bool,
    output_bytes: u64,
    /// Bytes the owner has not taken yet; `None` without an owner.
    owed: Option<usize>,
}

fn cost(event: &Event) -> usize {
    EVENT_OVERHEAD
        + match event {
            Event::Output { data, .. } => data.len(),
            Event::Denial(denial) => denial.subject.bytes().len() + denial.rule.len() + denial.remedy.len(),
            Event::ApprovalRequested(pending) => {
                pending.asked.reason.len() + pending.asked.commands.iter().map(String::len).sum::<usize>()
            }
            Event::ApprovalResolved { resolution, .. } => resolution.reason.len(),
            _ => 0,
        }
}

impl Journal {
    /// An empty journal that keeps about `keep_bytes` of output.
    pub fn new(keep_bytes: usize) -> Arc<Journal> {
        let half = keep_bytes.max(MIN_KEEP_BYTES) / 2;
        Arc::new(Journal {
            inner: Mutex::new(Inner {
                head: Vec::new(),
                head_bytes: 0,
                tail: VecDeque::new(),
                tail_bytes: 0,
                half,
                next_seq: 1,
                head_end: [0; 2],
                tail_start: [0; 2],
                closed: false,
                output_bytes: 0,
                owed: None,
            }),
            appended: Notify::new(),
            taken: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while appending leaves counters at worst inexact; readers of other runs must go on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an event. [`Event::Finished`] closes the journal.
    pub fn append(&self, event: Event) {
        let mut inner = self.lock();
        inner.closed |= matches!(event, Event::Finished(_));
        let entry = Entry {
            seq: inner.next_seq,
            time: SystemTime::now(),
            event,
        };
        inner.next_seq += 1;
        if let Event::Output { data, .. } = &entry.event {
            inner.output_bytes += data.len() as u64;
        }
        let cost = cost(&entry.event);
        if let Some(owed) = &mut inner.owed {
            *owed += cost;
        }
        if inner.tail.is_empty() && inner.head_bytes + cost <= inner.half {
            inner.head_bytes += cost;
            if let Event::Output { stream, offset, data } = &entry.event {
                inner.head_end[stream.index()] = offset + data.len() as u64;
                inner.tail_start = inner.head_end;
            }
            inner.head.push(entry);
        } else {
            inner.tail_bytes += cost;
            inner.tail.push_back(entry);
            while inner.tail_bytes > inner.half && inner.tail.len() > 1 && inner.oldest_is_free() {
                inner.give_up_oldest();
            }
        }
        drop(inner);
        self.appended.notify_waiters();
    }

    /// The number of the newest event; 0 when there is none.
    pub fn last_seq(&self) -> u64 {
        self.lock().next_seq - 1
    }

    /// Bytes of output appended so far, of both streams.
    pub fn output_bytes(&self) -> u64 {
        self.lock().output_bytes
    }

    /// Memory that its events take, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let inner = self.lock();
        inner.head_bytes + inner.tail_bytes
    }

    /// The largest event to append at once: a few fit each half of the bound.
    pub fn chunk_bytes(&self) -> usize {
        self.lock().half / 4
    }

    /// Whether an event of `bytes` could be appended now without waiting for the owner.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.lock().has_room(bytes)
    }

    /// A reader from the event `from_seq` on; 0 and 1 mean the beginning.
    pub fn reader(self: &Arc<Self>, from_seq: u64) -> Reader {
        let position = self.lock().position_before(from_seq);
        Reader {
            journal: Arc::clone(self),
            next: from_seq.max(1),
            position,
            owner: false,
        }
    }

    /// A reader from the beginning that holds the writer up. Once per journal, before anything is appended.
    pub fn owner(self: &Arc<Self>) -> Reader {
        let mut inner = self.lock();
        inner.owed = Some(inner.head_bytes + inner.tail_bytes);
        drop(inner);
        Reader {
            journal: Arc::clone(self),
            next: 1,
            position: [0; 2],
            owner: true,
        }
    }

    /// Waits until an event of `bytes` can be appended without taking something from the owner that it has not read.
    pub async fn room(&self, bytes: usize) {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            // Registered before the look, so that nothing taken in between is missed.
            taken.as_mut().enable();
            if self.has_room(bytes) {
                return;
            }
            taken.await;
        }
    }
}

impl Inner {
    fn has_room(&self, bytes: usize) -> bool {
        // One event always fits: a bound below the size of a chunk must not stop everything.
        self.owed
            .is_none_or(|owed| owed == 0 || owed + bytes + EVENT_OVERHEAD <= self.half)
    }

    /// Whether the oldest event of the tail is not owed to the owner.
    fn oldest_is_free(&self) -> bool {
        let oldest = self.tail.front().map_or(0, |entry| cost(&entry.event));
        self.owed.is_none_or(|owed| owed <= self.tail_bytes - oldest)
    }

    fn give_up_oldest(&mut self) {
        let Some(entry) = self.tail.pop_front() else { return };
        self.tail_bytes -= cost(&entry.event);
        if let Event::Output { stream, offset, data } = &entry.event {
            self.tail_start[stream.index()] = offset + data.len() as u64;
        }
    }

    /// Bytes of each stream before the event `seq`, as far as kept events tell.
    fn position_before(&self, seq: u64) -> [u64; 2] {
        let mut position = [0; 2];
        for entry in self.head.iter().chain(&self.tail).take_while(|entry| entry.seq < seq) {
            if let Event::Output { stream, offset, data } = &entry.event {
                position[stream.index()] = offset + data.len() as u64;
            }
        }
        position
    }

    /// What a reader at `seq` gets. `None`: nothing yet, or nothing ever.
    fn item(&self, seq: u64, position: [u64; 2]) -> Option<Item> {
        if let Some(last) = self.head.last()
            && seq <= last.seq
        {
            // The head has no holes: it begins with 1.
            return self.head.get(seq as usize - 1).cloned().map(Item::Event);
        }
        let first = self.tail.front()?;
        if seq < first.seq {
            let lost = Stream::ALL.map(|stream| {
                let index = stream.index();
                self.tail_start[index].saturating_sub(position[index])
            });
            return Some(Item::Gap {
                seq,
                next_seq: first.seq,
                time: first.time,
                lost_bytes: lost,
            });
        }
        self.tail.get((seq - first.seq) as usize).cloned().map(Item::Event)
    }
}

/// A reader of a journal.
#[derive(Debug)]
pub struct Reader {
    journal: Arc<Journal>,
    next: u64,
    /// Bytes of each stream that were read or declared lost.
    position: [u64; 2],
    owner: bool,
}

impl Reader {
    /// The next item; waits for one. `None` after the last event. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Item> {
        let journal = Arc::clone(&self.journal);
        loop {
            let appended = journal.appended.notified();
            tokio::pin!(appended);
            appended.as_mut().enable();
            if let Some(item) = self.try_next() {
                return Some(item);
            }
            if self.is_at_end() {
                return None;
            }
            appended.await;
        }
    }

    /// The next item, if there is one now.
    pub fn try_next(&mut self) -> Option<Item> {
        let mut inner = self.journal.lock();
        let item = inner.item(self.next, self.position)?;
        match &item {
            Item::Event(entry) => {
                self.next = entry.seq + 1;
                if let Event::Output { stream, offset, data } = &entry.event {
                    self.position[stream.index()] = offset + data.len() as u64;
                }
                if self.owner {
                    let cost = cost(&entry.event);
                    inner.owed = inner.owed.map(|owed| owed.saturating_sub(cost));
                }
            }
            Item::Gap { next_seq, .. } => {
                self.next = *next_seq;
                self.position = inner.tail_start;
            }
        }
        drop(inner);
        if self.owner {
            self.journal.taken.notify_waiters();
        }
        Some(item)
    }

    fn is_at_end(&self) -> bool {
        let inner = self.journal.lock();
        inner.closed && self.next >= inner.next_seq
    }
}

impl Drop for Reader {
    /// An owner that leaves lets the writer go.
    fn drop(&mut self) {
        if self.owner {
            self.journal.lock().owed = None;
            self.journal.taken.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::run::model::{Denials, Ending, Finished, Usage};

    fn output(offset: u64, bytes: usize) -> Event {
        Event::Output {
            stream: Stream::Stdout,
            offset,
            data: Bytes::from(vec![b'x'; bytes]),
        }
    }

    fn finished() -> Event {
        Event::Finished(Arc::new(Finished {
            ending: Ending::Exited { code: 0 },
            usage: Usage::default(),
            denials: Denials::default(),
            recorded: None,
        }))
    }

    /// Reads everything; returns bytes read and bytes declared lost.
    async fn drain(mut reader: Reader) -> (u64, u64) {
        let (mut read, mut lost, mut next) = (0, 0, None);
        while let Some(item) = reader.next().await {
            match item {
                Item::Event(entry) => {
                    assert!(next.is_none_or(|next| next == entry.seq), "numbers have no holes");
                    next = Some(entry.seq + 1);
                    if let Event::Output { offset, data, .. } = entry.event {
                        assert_eq!(offset, read + lost);
                        read += data.len() as u64;
                    }
                }
                Item::Gap {
                    seq,
                    next_seq,
                    lost_bytes,
                    ..
                } => {
                    assert!(seq < next_seq);
                    lost += lost_bytes[0];
                    next = Some(next_seq);
                }
            }
        }
        (read, lost)
    }

    #[tokio::test]
    async fn a_late_reader_sees_beginning_gap_and_end() {
        let journal = Journal::new(MIN_KEEP_BYTES);
        for index in 0..1000 {
            journal.append(output(index * 1000, 1000));
        }
        journal.append(finished());
        let (read, lost) = drain(journal.reader(0)).await;
        assert_eq!(read + lost, 1_000_000);
        assert!(lost > 900_000 && read > 50_000, "read {read}, lost {lost}");
    }

    #[tokio::test]
    async fn a_reader_that_keeps_up_loses_nothing() {
        let journal = Journal::new(MIN_KEEP_BYTES);
        let mut reader = journal.reader(0);
        for index in 0..1000u64 {
            journal.append(output(index * 1000, 1000));
            assert!(matches!(reader.try_next(), Some(Item::Event(entry)) if entry.seq == index + 1));
        }
    }

    #[tokio::test]
    async fn the_writer_waits_for_its_owner_and_only_for_it() {
        let journal = Journal::new(MIN_KEEP_BYTES);
        let owner = journal.owner();
        let _idle = journal.reader(0);
        let writer = tokio::spawn({
            let journal = Arc::clone(&journal);
            async move {
                for index in 0..5000 {
                    journal.room(1000).await;
                    journal.append(output(index * 1000, 1000));
                }
                journal.append(finished());
            }
        });
        assert_eq!(drain(owner).await, (5_000_000, 0));
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn what_the_owner_has_not_taken_is_kept_even_past_the_bound() {
        let journal = Journal::new(MIN_KEEP_BYTES);
        let owner = journal.owner();
        for index in 0..500 {
            journal.append(output(index * 1000, 1000));
        }
        journal.append(finished());
        assert_eq!(drain(owner).await, (500_000, 0));
        // Nobody is owed anything any more; what is appended next brings it back into its bound.
        journal.append(output(500_000, 1000));
        assert!(journal.memory_bytes() <= MIN_KEEP_BYTES + 2 * (1000 + EVENT_OVERHEAD));
    }

    #[tokio::test]
    async fn an_owner_that_leaves_lets_the_writer_go() {
        let journal = Journal::new(MIN_KEEP_BYTES);
        let owner = journal.owner();
        for index in 0..100 {
            journal.append(output(index * 1000, 1000));
        }
        let waiting = tokio::time::timeout(Duration::from_millis(20), journal.room(1000)).await;
        assert!(waiting.is_err(), "it should have waited");
        drop(owner);
        journal.room(1000).await;
    }

    #[tokio::test]
    async fn many_small_events_are_bounded_too() {
        let journal = Journal::new(MIN_KEEP_BYTES);
        for index in 0..100_000 {
            journal.append(output(index, 1));
        }
        let inner = journal.lock();
        let kept = inner.head.len() + inner.tail.len();
        assert!(kept <= MIN_KEEP_BYTES / EVENT_OVERHEAD + 1, "{kept} events kept");
    }

    #[tokio::test]
    async fn a_reader_may_start_in_the_middle_and_after_the_end() {
        let journal = Journal::new(MIN_KEEP_BYTES);
        for index in 0..10 {
            journal.append(output(index * 10, 10));
        }
        journal.append(finished());
        let mut reader = journal.reader(6);
        assert!(matches!(reader.next().await, Some(Item::Event(entry)) if entry.seq == 6));
        assert!(journal.reader(100).next().await.is_none());
    }
}
