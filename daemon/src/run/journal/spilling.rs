//! How far a journal is written to its file.

use std::time::{Duration, Instant};

use super::{Entry, Event, cost};
use crate::run::saved::{Hole, Output};
use crate::run::spill::record::{Extent, HEADER_BYTES, Index, Place, START_BYTES};
use crate::run::spill::{BACKLOG_BYTES, STALL, Spilled};

#[derive(Debug)]
pub(super) struct Spilling {
    /// Whether the whole output is to be in the file. Else only what memory holds of it in the end.
    whole: bool,
    /// Every output event up to this one is in the file, but for those of the hole.
    written_seq: u64,
    /// Cost of those that are not.
    unwritten: usize,
    /// Whether the writer knows that there is something.
    queued: bool,
    file_bytes: u64,
    output_bytes: u64,
    index: Index,
    stopped: Option<String>,
    /// When something was written last, or began to wait.
    progressed: Instant,
    /// Where each stream ends in the file.
    ends: [u64; 2],
    hole: Option<Hole>,
    /// The run is over, and what memory holds and the file does not is written too, so that it outlives the daemon.
    resting: bool,
}

impl Spilling {
    pub(super) fn new(whole: bool) -> Self {
        Spilling {
            whole,
            written_seq: 0,
            unwritten: 0,
            queued: false,
            file_bytes: 0,
            output_bytes: 0,
            index: Index::default(),
            stopped: None,
            progressed: Instant::now(),
            ends: [0; 2],
            hole: None,
            resting: false,
        }
    }

    pub(super) fn stopped(why: String) -> Self {
        Spilling {
            stopped: Some(why),
            ..Spilling::new(true)
        }
    }

    /// Of a run whose daemon is no more, with a seal.
    pub(super) fn sealed(whole: bool, output: Output) -> Self {
        let Output {
            written_seq,
            file_bytes,
            output_bytes,
            ends,
            stopped,
            hole,
            places,
        } = output;
        Spilling {
            written_seq,
            file_bytes,
            output_bytes,
            index: Index::of(places),
            stopped,
            ends,
            hole,
            ..Spilling::new(whole)
        }
    }

    /// The same without one, or where what the seal tells of is not there: `stopped` says so.
    pub(super) fn found(whole: bool, extent: Extent, stopped: Option<String>) -> Self {
        let Extent {
            bytes,
            seq,
            ends,
            output_bytes,
            index,
        } = extent;
        Spilling {
            written_seq: seq,
            file_bytes: bytes,
            output_bytes,
            index,
            ends,
            stopped: stopped.filter(|_| whole),
            ..Spilling::new(whole)
        }
    }

    /// As it is saved.
    pub(super) fn output(&self) -> Output {
        Output {
            written_seq: self.written_seq,
            file_bytes: self.file_bytes,
            output_bytes: self.output_bytes,
            ends: self.ends,
            stopped: self.stopped.clone(),
            hole: self.hole,
            places: self.index.places().to_vec(),
        }
    }

    /// Where each stream ends in the file.
    pub(super) fn ends(&self) -> [u64; 2] {
        self.ends
    }

    /// What is missing in the file's middle.
    pub(super) fn hole(&self) -> Option<Hole> {
        self.hole
    }

    /// Has the rest written of what memory holds; in front of it the hole is missing.
    pub(super) fn rest(&mut self, hole: Option<Hole>) {
        self.resting = true;
        self.hole = hole;
    }

    pub(super) fn is_resting(&self) -> bool {
        self.resting
    }

    /// Whether output is still to be written.
    pub(super) fn writes(&self) -> bool {
        self.goes_on() || self.resting
    }

    pub(super) fn written_seq(&self) -> u64 {
        self.written_seq
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Whether the file gets the whole output so far.
    pub(super) fn goes_on(&self) -> bool {
        self.whole && self.stopped.is_none()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes()
    }

    pub(super) fn told(&self) -> Spilled {
        Spilled {
            bytes: self.output_bytes,
            stopped: self.stopped.clone().unwrap_or_default(),
        }
    }

    /// Output waits to be written.
    pub(super) fn add(&mut self, cost: usize) {
        if self.goes_on() {
            if self.unwritten == 0 {
                self.progressed = Instant::now();
            }
            self.unwritten += cost;
        }
    }

    /// Whether the writer is to be told: there is output for it, or something else, and it does not know.
    pub(super) fn queue(&mut self, more: bool) -> bool {
        let tell = !self.queued && ((self.goes_on() && self.unwritten > 0) || more);
        self.queued |= tell;
        tell
    }

    pub(super) fn unqueue(&mut self) {
        self.queued = false;
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        !self.goes_on() || self.unwritten == 0 || self.unwritten + bytes <= BACKLOG_BYTES
    }

    /// How long the disk may still take nothing.
    pub(super) fn patience(&self) -> Duration {
        STALL.saturating_sub(self.progressed.elapsed())
    }

    pub(super) fn stop(&mut self, why: String) {
        if self.whole {
            self.stopped.get_or_insert(why);
        }
        self.unwritten = 0;
        self.resting = false;
    }

    pub(super) fn written(&mut self, entries: &[Entry], end: u64) {
        // Given up meanwhile, because the disk took too long over it.
        if !self.writes() {
            return;
        }
        let mut at = self.file_bytes.max(START_BYTES as u64);
        for entry in entries {
            let Event::Output { stream, offset, data } = &entry.event else {
                continue;
            };
            if let Some(hole) = self.hole.filter(|hole| hole.next_seq == entry.seq) {
                self.ends = hole.next_before;
            }
            self.index.note(Place {
                at,
                seq: entry.seq,
                before: self.ends,
            });
            at += (HEADER_BYTES + data.len()) as u64;
            self.ends[stream.index()] = offset + data.len() as u64;
            self.output_bytes += data.len() as u64;
            self.unwritten = self.unwritten.saturating_sub(cost(&entry.event));
            self.written_seq = entry.seq;
        }
        debug_assert_eq!(at, end, "the file is as long as what was written to it");
        self.file_bytes = end;
        self.progressed = Instant::now();
    }

    /// Where to look in the file for the event `seq`, if it can be there.
    pub(super) fn place_of(&self, seq: u64) -> Option<Place> {
        let missing = |hole: Hole| (hole.seq..hole.next_seq).contains(&seq);
        let in_file = seq <= self.written_seq && !self.hole.is_some_and(missing);
        in_file.then(|| self.index.last_where(|place| place.seq <= seq))?
    }

    /// Where to look for a byte of a stream, if it is there.
    pub(super) fn place_of_byte(&self, stream: usize, offset: u64) -> Option<Place> {
        let in_file = offset < self.ends[stream];
        in_file.then(|| self.index.last_where(|place| place.before[stream] <= offset))?
    }

    /// Where to look for the byte that has so many of both streams before it, if it is there.
    pub(super) fn place_of_total(&self, before: u64) -> Option<Place> {
        let in_file = before < self.ends.iter().sum();
        in_file.then(|| {
            self.index
                .last_where(|place| place.before.iter().sum::<u64>() <= before)
        })?
    }
}
