//! Readers of a journal: from memory while they keep up, from the file when they do not.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Entry, Inner, Journal, Position, To, cost};
use crate::run::model::{Event, Stream};
use crate::run::spill::record::{self, Place};

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

/// A reader of a journal.
#[derive(Debug)]
pub struct Reader {
    journal: Arc<Journal>,
    next: u64,
    /// Before this event, output is passed over.
    output_from: u64,
    /// Bytes of each stream that were read, passed over or declared lost: no byte before them is given.
    position: [u64; 2],
    owner: bool,
    behind: Behind,
}

/// What a reader has from the file.
#[derive(Debug, Default)]
struct Behind {
    file: Option<Arc<File>>,
    /// Read and not given yet.
    ahead: VecDeque<Entry>,
    /// Where the file goes on after the last event that was read from it.
    after: Option<(u64, u64)>,
    /// The file could not be read: what is in it only is lost to this reader.
    unreadable: bool,
}

/// What is to be done for the next item.
enum Step {
    Give(Item),
    /// Go on with this event: what lies before is not wanted.
    Pass(u64),
    /// Read the file from this place to this end.
    Read(Place, u64),
    /// Nothing is there yet, or ever.
    Wait,
}

impl Reader {
    pub(super) fn new(journal: &Arc<Journal>, next: u64, position: [u64; 2]) -> Reader {
        Reader {
            journal: Arc::clone(journal),
            next,
            output_from: 0,
            position,
            owner: false,
            behind: Behind::default(),
        }
    }

    pub(super) fn into_owner(mut self) -> Reader {
        self.owner = true;
        self
    }

    /// The next item; waits for one. `None` after the last event. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Item> {
        let journal = Arc::clone(&self.journal);
        loop {
            let appended = journal.appended.notified();
            tokio::pin!(appended);
            appended.as_mut().enable();
            if let Some(item) = self.ready().await {
                return Some(item);
            }
            if self.is_at_end() {
                return None;
            }
            appended.await;
        }
    }

    /// The next item, if there is one now; waits for the file at most.
    pub async fn ready(&mut self) -> Option<Item> {
        loop {
            match self.try_next() {
                Ok(item) => return item,
                Err((place, end)) => self.fetch(place, end).await,
            }
        }
    }

    /// The next item, if there is one now and in memory. The place in the file where it is else, and the file's end.
    pub(super) fn try_next(&mut self) -> Result<Option<Item>, (Place, u64)> {
        let journal = Arc::clone(&self.journal);
        loop {
            self.pass_over_read();
            let mut inner = journal.lock();
            match self.step(&inner) {
                Step::Wait => return Ok(None),
                Step::Read(place, end) => return Err((place, end)),
                Step::Pass(to) => self.next = to,
                Step::Give(item) => {
                    let given = match &item {
                        Item::Event(entry) => {
                            self.next = entry.seq + 1;
                            self.owner
                                .then(|| cost(&entry.event))
                                .filter(|_| matches!(entry.event, Event::Output { .. }))
                        }
                        Item::Gap {
                            next_seq, lost_bytes, ..
                        } => {
                            self.next = *next_seq;
                            self.position = [0, 1].map(|index| self.position[index] + lost_bytes[index]);
                            None
                        }
                    };
                    if let Some(cost) = given {
                        inner.owed = inner.owed.map(|owed| owed.saturating_sub(cost));
                    }
                    drop(inner);
                    if given.is_some() {
                        journal.taken.notify_waiters();
                    }
                    match item {
                        Item::Event(entry) => match self.cut(entry) {
                            Some(entry) => return Ok(Some(Item::Event(entry))),
                            None => continue,
                        },
                        gap @ Item::Gap { .. } => return Ok(Some(gap)),
                    }
                }
            }
        }
    }

    fn step(&mut self, inner: &Inner) -> Step {
        if self.next >= inner.next_seq {
            return Step::Wait;
        }
        if self.next < self.output_from {
            let mark = inner.marks.partition_point(|mark| mark.entry.seq < self.next);
            return match inner.marks.get(mark).filter(|mark| mark.entry.seq < self.output_from) {
                Some(mark) => Step::Give(Item::Event(mark.entry.clone())),
                None => Step::Pass(self.output_from),
            };
        }
        if let Some(entry) = inner.kept(self.next) {
            return Step::Give(Item::Event(entry.clone()));
        }
        if self.behind.ahead.front().is_some_and(|entry| entry.seq == self.next)
            && let Some(entry) = self.behind.ahead.pop_front()
        {
            return Step::Give(Item::Event(entry));
        }
        if let Some(spilling) = inner.spilling.as_ref().filter(|_| !self.behind.unreadable)
            && let Some(mut place) = spilling.place_of(self.next)
        {
            if let Some((at, seq)) = self.behind.after.filter(|(at, seq)| *seq < self.next && *at > place.at) {
                place = Place { at, seq, ..place };
            }
            return Step::Read(place, spilling.file_bytes());
        }
        let end = inner.next_kept(self.next, !self.behind.unreadable);
        let (next_seq, before) = end.map_or((inner.next_seq, inner.end), |(seq, _, before)| (seq, before));
        let lost_bytes = Stream::ALL.map(|stream| before[stream.index()].saturating_sub(self.position[stream.index()]));
        if lost_bytes == [0; 2] {
            return Step::Pass(next_seq);
        }
        Step::Give(Item::Gap {
            seq: self.next,
            next_seq,
            time: end.map_or_else(SystemTime::now, |(_, time, _)| time),
            lost_bytes,
        })
    }

    /// Output without what lies before the position; `None` when nothing is left of it. What was never asked for counts as taken.
    fn cut(&mut self, mut entry: Entry) -> Option<Entry> {
        if let Event::Output { stream, offset, data } = &mut entry.event {
            let position = &mut self.position[stream.index()];
            let end = *offset + data.len() as u64;
            if end <= *position {
                return None;
            }
            let before = position.saturating_sub(*offset);
            *data = data.slice(before as usize..);
            *offset += before;
            *position = end;
        }
        Some(entry)
    }

    /// Drops what was read from the file and lies before the next event: only where it ends is of interest.
    fn pass_over_read(&mut self) {
        while let Some(entry) = self.behind.ahead.front().filter(|entry| entry.seq < self.next) {
            if let Event::Output { stream, offset, data } = &entry.event {
                let position = &mut self.position[stream.index()];
                *position = (*position).max(offset + data.len() as u64);
            }
            self.behind.ahead.pop_front();
        }
    }

    /// Reads a block of the file. A file that cannot be read is told once, in the log, and its output is lost to this reader.
    async fn fetch(&mut self, place: Place, end: u64) {
        let open = self.behind.file.clone();
        let journal = Arc::clone(&self.journal);
        let read = tokio::task::spawn_blocking(move || {
            let file = match (open, &journal.to) {
                (Some(file), _) => file,
                (None, To::File(_, file)) => Arc::new(file.open()?),
                (None, To::Memory | To::Nowhere(_)) => return Err(io::ErrorKind::NotFound.into()),
            };
            let (entries, after) = record::read(&file, place.at, end)?;
            Ok((file, entries, after))
        });
        match read.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok((file, entries, after)) => {
                if let Some(next) = entries.iter().find(|entry| entry.seq >= self.next) {
                    self.expect(next);
                }
                self.behind.file = Some(file);
                self.behind.after = entries.last().map(|last| (after, last.seq));
                self.behind.ahead = entries.into();
            }
            Err(error) => {
                // A file that was removed to make room is not there; that is told in the run's state.
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "output that was written to a file cannot be read");
                }
                self.behind.unreadable = true;
            }
        }
    }

    /// Goes on with what the file has next. An event may be missing there: the last ones other than output that a daemon that was killed
    /// did not save. Where output is missing, the file is not the one that was written.
    fn expect(&mut self, found: &Entry) {
        let Event::Output { stream, offset, .. } = &found.event else {
            return;
        };
        if found.seq > self.next {
            self.behind.unreadable = *offset > self.position[stream.index()];
            let kept = self.journal.lock().next_kept(self.next, false);
            self.next = kept.map_or(found.seq, |(kept, ..)| found.seq.min(kept));
        }
    }

    fn is_at_end(&self) -> bool {
        let inner = self.journal.lock();
        inner.closed && self.next >= inner.next_seq
    }

    /// Bytes of each stream that were read, passed over or declared lost.
    pub(super) fn position(&self) -> [u64; 2] {
        self.position
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

impl Journal {
    /// A reader that begins at a position. For the last bytes, the file may have to be looked at.
    pub async fn reader_at(self: &Arc<Self>, position: Position) -> Reader {
        match position {
            Position::Seq(seq) => self.reader(seq),
            Position::Now => {
                let inner = self.lock();
                let mut reader = Reader::new(self, 1, inner.end);
                reader.output_from = inner.next_seq;
                reader
            }
            Position::Offsets(offsets) => self.reader_of(offsets),
            Position::Tail { bytes, end } => {
                let offsets = self.offsets_of_last(bytes, end).await;
                self.reader_of(offsets)
            }
        }
    }

    /// A reader of each stream from a byte on.
    pub(super) fn reader_of(self: &Arc<Self>, offsets: [u64; 2]) -> Reader {
        let mut reader = Reader::new(self, 1, offsets);
        reader.output_from = self.lock().seq_of(offsets);
        reader
    }

    /// Where each stream stands `bytes` before an end, of both together in the order in which they came. Never behind that end: what is not
    /// kept of what came after it is lost to the reader, and told.
    async fn offsets_of_last(self: &Arc<Self>, bytes: u64, end: Option<[u64; 2]>) -> [u64; 2] {
        let end = end.unwrap_or_else(|| self.output_bytes());
        let wanted = end.iter().sum::<u64>().saturating_sub(bytes);
        let found = self.offsets_at(wanted).await;
        [0, 1].map(|index| found[index].min(end[index]))
    }

    /// Where each stream stands when so many bytes of both together have come; where that is not kept, where what is kept goes on after it.
    async fn offsets_at(self: &Arc<Self>, wanted: u64) -> [u64; 2] {
        let mut reader = {
            let inner = self.lock();
            let place = inner
                .spilling
                .as_ref()
                .and_then(|spilling| spilling.place_of_total(wanted));
            let tail: u64 = inner.tail_start.iter().sum();
            let head: u64 = inner.head_end.iter().sum();
            let (seq, before) = match place {
                _ if wanted < head => (1, [0; 2]),
                _ if wanted >= tail => (
                    inner.tail.front().map_or(inner.next_seq, |first| first.seq),
                    inner.tail_start,
                ),
                Some(place) => (place.seq, place.before),
                // Not kept: what is kept begins later.
                None => return inner.tail_start,
            };
            Reader::new(self, seq, before)
        };
        // Reads on until the byte is reached.
        loop {
            let before = reader.position();
            let left = wanted.saturating_sub(before.iter().sum());
            match reader.ready().await {
                _ if left == 0 => return before,
                Some(Item::Event(Entry {
                    event: Event::Output { stream, data, .. },
                    ..
                })) if data.len() as u64 > left => {
                    let mut found = before;
                    found[stream.index()] += left;
                    return found;
                }
                Some(_) => {}
                None => return before,
            }
        }
    }
}
