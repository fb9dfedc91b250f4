//! A run on disk, beside the file of its output: what it is, what happened in it, and how far its output is in that file.
//!
//! ```text
//! 8 bytes   "FHRUN" 0 0 and the version, 1
//! then frames: 4 bytes length, 4 bytes CRC-32 of what follows, then a Frame in postcard's form. Numbers are little-endian.
//! ```
//!
//! Frames are only appended: the description when the run is taken, each event as it happens, and when all of the run is written, the
//! seal. What a frame does not hold to its end, or not with the right checksum, ends the file there: what comes before it counts. A
//! file without a seal is that of a run that was interrupted, or of whose end not everything was written.
//!
//! The form is that of the types below: whoever changes one changes [`VERSION`], and a test fails until that is done. A file of another
//! version is not read. No environment is in it: neither of the request nor of the caller.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fumehood_policies::Limits;
use serde::{Deserialize, Serialize};

use super::model::{Event, TerminalSize};
use super::spill::record::Place;
use crate::peer::Peer;

/// The version of the form.
const VERSION: u8 = 1;

/// What a file begins with.
pub const MAGIC: [u8; 8] = [b'F', b'H', b'R', b'U', b'N', 0, 0, VERSION];

/// Bytes before a frame's contents.
const HEADER_BYTES: usize = 8;

/// The longest file that is read. A request has at most 2 MiB of arguments, and a run few events beside its output.
pub const MAX_BYTES: u64 = 32 << 20;

/// No number of a file is larger: sums of some of them do not overflow.
const MAX_NUMBER: u64 = 1 << 60;

/// A piece of the file.
#[derive(Debug, Serialize, Deserialize)]
pub enum Frame {
    /// The first.
    Described(Described),
    /// An event other than output.
    Happened(Happened),
    /// The last.
    Sealed(Sealed),
}

/// What a run is, as far as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// Its id.
    pub id: String,
    /// Who started it.
    pub peer: Peer,
    /// SHA-256 of the request.
    pub digest: [u8; 32],
    /// Program and arguments.
    pub argv: Vec<Vec<u8>>,
    /// The workspace.
    pub workspace: Bytes,
    /// The working directory.
    pub cwd: Bytes,
    /// The policy's name.
    pub policy_name: String,
    /// The policy's digest.
    pub policy_digest: [u8; 32],
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// When it was accepted.
    pub accepted_at: SystemTime,
    /// Its place among all runs of this socket's daemons.
    pub order: u64,
    /// Whether its whole output was to be written.
    pub whole: bool,
    /// The session that it ran in.
    pub session: Option<String>,
    /// The size of its terminal at first, where it has one.
    pub terminal: Option<TerminalSize>,
}

/// A path, whatever its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes(Vec<u8>);

impl From<&Path> for Bytes {
    fn from(path: &Path) -> Self {
        Bytes(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<Bytes> for PathBuf {
    fn from(Bytes(bytes): Bytes) -> Self {
        OsString::from_vec(bytes).into()
    }
}

/// An event other than output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Happened {
    /// Its number.
    pub seq: u64,
    /// When it was noticed.
    pub time: SystemTime,
    /// Bytes of each stream before it.
    pub before: [u64; 2],
    /// What it was.
    pub event: Event,
}

/// What is known once all of a run is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The number that the next event would have.
    pub next_seq: u64,
    /// The length of each stream.
    pub end: [u64; 2],
    /// Bytes of input that were taken.
    pub input_bytes: u64,
    /// The last size of its terminal, where it has one.
    pub terminal: Option<TerminalSize>,
    /// The file of its output.
    pub output: Output,
}

/// How far output is in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Every output event up to this one is in the file, but for those of the hole.
    pub written_seq: u64,
    /// The file's length.
    pub file_bytes: u64,
    /// Bytes of output in it.
    pub output_bytes: u64,
    /// Where each stream ends in it.
    pub ends: [u64; 2],
    /// Why not everything was written.
    pub stopped: Option<String>,
    /// What is missing in its middle.
    pub hole: Option<Hole>,
    /// Where some of the events are.
    pub places: Vec<Place>,
}

/// Output that is nowhere, between output that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// The first event that is missing.
    pub seq: u64,
    /// Bytes of each stream before it.
    pub before: [u64; 2],
    /// The first output event that is there again.
    pub next_seq: u64,
    /// Bytes of each stream before that.
    pub next_before: [u64; 2],
    /// When that was noticed.
    pub time: SystemTime,
}

/// A file that was read.
#[derive(Debug)]
pub struct Saved {
    /// What the run is.
    pub described: Described,
    /// What happened, in order.
    pub happened: Vec<Happened>,
    /// The seal; `None` for a run that was interrupted.
    pub sealed: Option<Sealed>,
    /// How long the file is as far as it can be read.
    pub bytes: u64,
}

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It begins with something else.
    #[error("not the state of a run")]
    Other,
    /// Another version of this program wrote it.
    #[error("in the form of version {0}, and this program knows version {VERSION} only")]
    Version(u8),
    /// Its first frame is damaged or not there.
    #[error("cut short or damaged at its beginning")]
    Undescribed,
}

/// Reads any bytes as a run's state, and panics when a promise is broken: what is read of them is their beginning, frame by frame. For fuzzing.
pub fn try_read(bytes: &[u8]) {
    let Ok(saved) = read(bytes) else { return };
    let mut again = MAGIC.to_vec();
    let happened = saved.happened.into_iter().map(Frame::Happened);
    let frames = [Frame::Described(saved.described)].into_iter().chain(happened);
    for frame in frames.chain(saved.sealed.map(Frame::Sealed)) {
        again.extend(encode(&frame).unwrap_or_default());
    }
    let read = read(&again).expect("what was read can be written");
    assert_eq!(read.bytes, again.len() as u64, "and read again, all of it");
}

/// A frame as it stands in a file. An error: a time before 1970.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, postcard::Error> {
    let mut bytes = postcard::to_extend(frame, vec![0; HEADER_BYTES])?;
    let length = u32::try_from(bytes.len() - HEADER_BYTES).map_err(|_| postcard::Error::SerializeBufferFull)?;
    let sum = crc32fast::hash(&bytes[HEADER_BYTES..]);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

/// Reads what a file holds, up to where it is whole.
///
/// # Errors
/// When not even the description is there.
pub fn read(bytes: &[u8]) -> Result<Saved, Unreadable> {
    match bytes.get(..MAGIC.len()) {
        Some(magic) if magic[..7] != MAGIC[..7] => return Err(Unreadable::Other),
        Some(magic) if magic[7] != VERSION => return Err(Unreadable::Version(magic[7])),
        Some(_) => {}
        None => return Err(Unreadable::Other),
    }
    let mut at = MAGIC.len();
    let Some((Frame::Described(described), next)) = frame(bytes, at) else {
        return Err(Unreadable::Undescribed);
    };
    at = next;
    if described.order > MAX_NUMBER << 3 {
        return Err(Unreadable::Undescribed);
    }
    let mut saved = Saved {
        described,
        happened: Vec::new(),
        sealed: None,
        bytes: at as u64,
    };
    while saved.sealed.is_none()
        && let Some((frame, next)) = frame(bytes, at)
    {
        match frame {
            Frame::Happened(happened) if saved.may_come(&happened) => saved.happened.push(happened),
            Frame::Sealed(sealed) if saved.may_end_with(&sealed) => saved.sealed = Some(sealed),
            _ => break,
        }
        at = next;
        saved.bytes = at as u64;
    }
    Ok(saved)
}

/// The frame at a place, and the place after it; `None` where there is no whole one.
fn frame(bytes: &[u8], at: usize) -> Option<(Frame, usize)> {
    let header = bytes.get(at..at + HEADER_BYTES)?;
    let word = |from: usize| Some(u32::from_le_bytes(header.get(from..from + 4)?.try_into().ok()?));
    let start = at + HEADER_BYTES;
    let end = start.checked_add(word(0)? as usize)?;
    let contents = bytes.get(start..end)?;
    if crc32fast::hash(contents) != word(4)? {
        return None;
    }
    match postcard::take_from_bytes(contents) {
        Ok((frame, [])) => Some((frame, end)),
        _ => None,
    }
}

impl Saved {
    /// Whether an event is one that could follow those before it.
    fn may_come(&self, happened: &Happened) -> bool {
        let (seq, before) = self.happened.last().map_or((0, [0; 2]), |last| (last.seq, last.before));
        let over = matches!(
            self.happened.last(),
            Some(Happened {
                event: Event::Finished(_),
                ..
            })
        );
        !over
            && (seq + 1..MAX_NUMBER).contains(&happened.seq)
            && (0..2).all(|index| (before[index]..MAX_NUMBER).contains(&happened.before[index]))
    }

    fn may_end_with(&self, sealed: &Sealed) -> bool {
        let Some(last) = self.happened.last() else { return false };
        let Sealed {
            next_seq, end, output, ..
        } = sealed;
        let hole = output.hole.is_none_or(|hole| {
            let ordered = (0..2).all(|index| hole.before[index] <= hole.next_before[index]);
            ordered && hole.seq < hole.next_seq && hole.next_seq < *next_seq
        });
        matches!(last.event, Event::Finished(_))
            && *next_seq == last.seq + 1
            && *end == last.before
            && output.written_seq < *next_seq
            && output.file_bytes < MAX_NUMBER
            && output.output_bytes <= output.file_bytes
            && (0..2).all(|index| output.ends[index] <= end[index])
            && output
                .places
                .is_sorted_by(|one, next| one.at < next.at && one.seq < next.seq)
            && output.places.iter().all(|place| place.at < output.file_bytes)
            && hole
    }

    /// When the run was over; `None` for one that was interrupted.
    pub fn finished_at(&self) -> Option<SystemTime> {
        let last = self.happened.last()?;
        matches!(last.event, Event::Finished(_)).then_some(last.time)
    }
}

/// What is shared in memory is saved as what it is.
pub mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Saves the contents.
    ///
    /// # Errors
    /// Those of the contents.
    pub fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(serializer)
    }

    /// Reads the contents.
    ///
    /// # Errors
    /// Those of the contents.
    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}

/// [`Limits`], whose package saves nothing.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Limits")]
pub struct LimitsForm {
    wall: Option<Duration>,
    idle: Option<Duration>,
    cpu_time: Option<Duration>,
    grace: Duration,
    memory_bytes: Option<u64>,
    processes: Option<u32>,
    cpu_millis: Option<u32>,
    open_files_soft: u64,
    open_files_hard: u64,
    file_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    files: Option<u64>,
    output_bytes: Option<u64>,
}

#[cfg(test)]
mod tests;
