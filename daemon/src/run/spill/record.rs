//! The form of a spill file.
//!
//! ```text
//! 8 bytes   "FHOUT" 0 0 and the version, 3
//! 8 bytes   the order of the run that it is of (Described.order), which no other run of the same socket's daemons has
//! then records: 4 bytes length of the data, 1 byte stream (0 stdout, 1 stderr), 3 bytes zero, 8 bytes number of the event, 8 bytes
//!           offset of the data in its stream, 8 bytes time in nanoseconds since 1970, 4 bytes CRC-32 of all that and the data, then
//!           the data. Numbers are little-endian.
//! ```
//!
//! Records are in the order of their numbers. A last record that is cut short was not written to its end and counts as absent; one whose
//! checksum is wrong is never given to a reader.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::run::journal::Entry;
use crate::run::model::{Event, Stream};

/// What a file begins with.
const MAGIC: [u8; 8] = *b"FHOUT\0\0\x03";

/// Bytes before the first record.
pub const START_BYTES: usize = 16;

/// What the file of this run begins with.
pub fn start(order: u64) -> [u8; START_BYTES] {
    let mut start = [0; START_BYTES];
    start[..MAGIC.len()].copy_from_slice(&MAGIC);
    start[MAGIC.len()..].copy_from_slice(&order.to_le_bytes());
    start
}

/// Sees to it that a file is that of this run, and not another's that was put in its place.
///
/// # Errors
/// When it is not, or cannot be read.
pub fn expect_start(file: &File, order: u64) -> io::Result<()> {
    let mut found = [0; START_BYTES];
    match file.read_exact_at(&mut found, 0) {
        Ok(()) if found == start(order) => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        Ok(()) | Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "not the output of this run")),
    }
}

/// Bytes before the data of a record.
pub const HEADER_BYTES: usize = 36;

/// Those of them that the checksum is about.
const SUMMED_BYTES: usize = 32;

/// Bytes read from a file at once. More than the longest record (an output event has at most 256 KiB), so that one always fits.
const BLOCK_BYTES: u64 = 512 * 1024;

/// The bytes before an output event's data; `None` for other events.
pub fn header(entry: &Entry) -> Option<[u8; HEADER_BYTES]> {
    let Event::Output { stream, offset, data } = &entry.event else {
        return None;
    };
    let time = entry.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&u32::try_from(data.len()).ok()?.to_le_bytes());
    header[4] = stream.index() as u8;
    header[8..16].copy_from_slice(&entry.seq.to_le_bytes());
    header[16..24].copy_from_slice(&offset.to_le_bytes());
    header[24..32].copy_from_slice(&u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
    let sum = checksum(&header[..SUMMED_BYTES], data);
    header[SUMMED_BYTES..].copy_from_slice(&sum.to_le_bytes());
    Some(header)
}

fn checksum(header: &[u8], data: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(header);
    sum.update(data);
    sum.finalize()
}

/// Reads the records of one block of the file: those from `from` on, a record's place, that end before `end`; at least one. Also gives
/// the place after the last one.
///
/// # Errors
/// When the file cannot be read, or does not hold whole records there. With a damaged one behind others, those are given.
pub fn read(file: &File, from: u64, end: u64) -> io::Result<(Vec<Entry>, u64)> {
    let length = end.saturating_sub(from).min(BLOCK_BYTES) as usize;
    let mut block = BytesMut::zeroed(length);
    file.read_exact_at(&mut block, from)?;
    let (entries, read) = parse(block.freeze())?;
    Ok((entries, from + read as u64))
}

fn parse(block: Bytes) -> io::Result<(Vec<Entry>, usize)> {
    let mut entries = Vec::new();
    let mut at = 0;
    while let Some(header) = block.get(at..at + HEADER_BYTES) {
        let Some(head) = header.try_into().ok().and_then(Head::of) else {
            if at > 0 {
                break;
            }
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a record of output"));
        };
        let start = at + HEADER_BYTES;
        let stop = start + head.length as usize;
        if stop > block.len() {
            break;
        }
        if checksum(&header[..SUMMED_BYTES], &block[start..stop]).to_le_bytes() != header[SUMMED_BYTES..] {
            if at > 0 {
                break;
            }
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a record with a wrong checksum",
            ));
        }
        entries.push(Entry {
            seq: head.seq,
            time: UNIX_EPOCH + Duration::from_nanos(head.time),
            event: Event::Output {
                stream: head.stream,
                offset: head.offset,
                data: block.slice(start..stop),
            },
        });
        at = stop;
    }
    if at == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a record that is cut short"));
    }
    Ok((entries, at))
}

/// How far a file can be read that nobody closed.
#[derive(Debug, Default)]
pub struct Extent {
    /// The file's length up to the last whole record.
    pub bytes: u64,
    /// The last event.
    pub seq: u64,
    /// Where each stream ends.
    pub ends: [u64; 2],
    /// Bytes of output.
    pub output_bytes: u64,
    /// Where some of the events are.
    pub index: Index,
}

/// At the end of a file that nobody closed so much is read and checked, in bytes. What lies before it was written earlier, and is
/// checked when it is read.
const CHECKED_BYTES: u64 = 4 << 20;

/// Finds out how far a file can be read that nobody closed: in records that follow upon each other, without a hole. It begins as it
/// must ([`expect_start`]).
///
/// # Errors
/// When it cannot be read.
pub fn extent(file: &File) -> io::Result<Extent> {
    let length = file.metadata()?.len();
    let start = Place {
        at: START_BYTES as u64,
        seq: 0,
        before: [0; 2],
    };
    // First by the headers only: a file may be gigabytes long.
    let mut walked = Walk::new(start);
    let mut bytes = [0; HEADER_BYTES];
    while walked.at + HEADER_BYTES as u64 <= length {
        file.read_exact_at(&mut bytes, walked.at)?;
        let Some(head) = Head::of(&bytes) else { break };
        if !walked.take(&head, length) {
            break;
        }
    }
    let checked_from = walked
        .index
        .last_where(|place| place.at + CHECKED_BYTES <= walked.at)
        .filter(|place| place.at + CHECKED_BYTES <= walked.at);
    let end = walked.at;
    let mut walk = match checked_from {
        None => Walk::new(start),
        Some(place) => {
            let mut walk = Walk::new(place);
            walked.index.places.retain(|known| known.at < place.at);
            walk.index = walked.index;
            walk.seq = place.seq - 1;
            walk
        }
    };
    'checked: while walk.at < end {
        let Ok((entries, _)) = read(file, walk.at, end) else {
            break;
        };
        for entry in entries {
            let Some(head) = header(&entry).as_ref().and_then(Head::of) else {
                break 'checked;
            };
            if !walk.take(&head, end) {
                break 'checked;
            }
        }
    }
    Ok(Extent {
        bytes: walk.at,
        seq: walk.seq,
        ends: walk.ends,
        output_bytes: walk.ends.iter().sum(),
        index: walk.index,
    })
}

/// What a header says.
struct Head {
    length: u64,
    stream: Stream,
    seq: u64,
    offset: u64,
    /// In nanoseconds since 1970.
    time: u64,
}

impl Head {
    fn of(header: &[u8; HEADER_BYTES]) -> Option<Head> {
        let number = |range: std::ops::Range<usize>| {
            let mut bytes = [0; 8];
            bytes[..range.len()].copy_from_slice(&header[range]);
            u64::from_le_bytes(bytes)
        };
        let length = number(0..4);
        (length + (HEADER_BYTES as u64) < BLOCK_BYTES).then_some(Head {
            length,
            stream: *Stream::ALL.get(usize::from(header[4]))?,
            seq: number(8..16),
            offset: number(16..24),
            time: number(24..32),
        })
    }
}

/// Goes through the records of a file.
struct Walk {
    at: u64,
    seq: u64,
    ends: [u64; 2],
    index: Index,
}

impl Walk {
    fn new(from: Place) -> Walk {
        Walk {
            at: from.at,
            seq: from.seq,
            ends: from.before,
            index: Index::default(),
        }
    }

    /// Takes the next record, if it is one that can follow and lies before `end`.
    fn take(&mut self, head: &Head, end: u64) -> bool {
        let after = self.at + HEADER_BYTES as u64 + head.length;
        let stream = head.stream.index();
        if after > end || head.seq <= self.seq || head.seq == u64::MAX || head.offset != self.ends[stream] {
            return false;
        }
        self.index.note(Place {
            at: self.at,
            seq: head.seq,
            before: self.ends,
        });
        self.at = after;
        self.seq = head.seq;
        self.ends[stream] += head.length;
        true
    }
}

/// Where in a file an event is, roughly: bounded, however long the file gets.
#[derive(Debug)]
pub struct Index {
    places: Vec<Place>,
    /// Bytes of the file between two places, at least.
    spacing: u64,
}

/// A record's place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// In bytes from the file's beginning.
    pub at: u64,
    /// The event's number.
    pub seq: u64,
    /// Bytes of each stream before it.
    pub before: [u64; 2],
}

/// Most places remembered for a file: 40 KiB of memory. When they are all taken, every other one is given up.
const MAX_PLACES: usize = 1024;

/// Bytes between two places at first.
const SPACING: u64 = 128 * 1024;

impl Default for Index {
    fn default() -> Self {
        Index {
            places: Vec::new(),
            spacing: SPACING,
        }
    }
}

impl Index {
    /// An index of these places, which are in order.
    pub fn of(places: Vec<Place>) -> Index {
        let apart = places.windows(2).map(|pair| pair[1].at - pair[0].at).min();
        Index {
            spacing: apart.unwrap_or(SPACING).max(SPACING),
            places,
        }
    }

    /// All of its places, in order.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Notes a record; they come in the order of the file.
    pub fn note(&mut self, place: Place) {
        if self.places.last().is_some_and(|last| place.at - last.at < self.spacing) {
            return;
        }
        if self.places.len() == MAX_PLACES {
            let mut keep = false;
            self.places.retain(|_| {
                keep = !keep;
                keep
            });
            self.spacing *= 2;
        }
        self.places.push(place);
    }

    /// The last place for which `is_before` holds; it holds for a first part of the file. The first place when there is none.
    pub fn last_where(&self, is_before: impl Fn(&Place) -> bool) -> Option<Place> {
        let count = self.places.partition_point(is_before);
        self.places.get(count.saturating_sub(1)).copied()
    }

    /// Memory that it takes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Place>()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn entry(seq: u64, offset: u64, data: &'static [u8]) -> Entry {
        Entry {
            seq,
            time: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789 + seq),
            event: Event::Output {
                stream: Stream::ALL[seq as usize % 2],
                offset,
                data: Bytes::from_static(data),
            },
        }
    }

    fn write(file: &mut File, entry: &Entry) {
        let Event::Output { data, .. } = &entry.event else {
            panic!("not output")
        };
        file.write_all(&header(entry).unwrap()).unwrap();
        file.write_all(data).unwrap();
    }

    #[test]
    fn what_was_written_is_read_with_number_time_and_offset() {
        let mut file = tempfile::tempfile().unwrap();
        for seq in 1..=5 {
            write(&mut file, &entry(seq, seq * 3, b"abc"));
        }
        let end = file.metadata().unwrap().len();
        let (entries, at) = read(&file, 0, end).unwrap();
        assert_eq!(at, end);
        assert_eq!(
            entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
        assert_eq!(format!("{:?}", entries[2]), format!("{:?}", entry(3, 9, b"abc")));
    }

    #[test]
    fn what_is_cut_short_or_no_record_is_an_error_and_no_panic() {
        let mut file = tempfile::tempfile().unwrap();
        write(&mut file, &entry(1, 0, b"abc"));
        let end = file.metadata().unwrap().len();
        for end in 1..end {
            assert!(read(&file, 0, end).is_err(), "{end}");
        }
        assert!(read(&file, 0, end + 1).is_err());
        file.write_all(&[0xff; 200]).unwrap();
        assert!(read(&file, end, end + 200).is_err());
    }

    #[test]
    fn an_index_stays_small_and_finds_a_place_before() {
        let mut index = Index::default();
        for number in 0..100_000u64 {
            index.note(Place {
                at: number * 100_000,
                seq: number + 1,
                before: [number * 10, 0],
            });
        }
        assert!(index.memory_bytes() <= 2 * MAX_PLACES * size_of::<Place>());
        for wanted in [1, 2, 777, 50_000, 100_000] {
            let place = index.last_where(|place| place.seq <= wanted).unwrap();
            assert!(place.seq <= wanted && wanted - place.seq < 400, "{wanted}: {place:?}");
        }
        assert_eq!(index.last_where(|_| false).unwrap().at, 0);
    }
}
