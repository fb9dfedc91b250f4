//! The chain: what makes a line the right one at its place.

use std::borrow::Cow;
use std::io::{self, BufRead, Read as _};
use std::path::PathBuf;

use serde::Deserialize;

use super::record::{GENESIS, MAX_LINE_BYTES, SEAL_BYTES};
use super::text::sha256_hex;

/// The first record of a log that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}, line {line}{}: {fault}", path.display(), seq.map(|seq| format!(" (record {seq})")).unwrap_or_default())]
pub struct Broken {
    /// The log.
    pub path: PathBuf,
    /// The line, from 1. When records are missing at the end: the line after the last.
    pub line: u64,
    /// The number that the record gives itself, when it can be read.
    pub seq: Option<u64>,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its bytes do not have its hash.
    #[error("edited: its content does not have the hash it carries")]
    Edited,
    /// It is no record at all.
    #[error("not a record: {0}")]
    Malformed(String),
    /// The last line has no newline: a crash in mid-write, or an edit.
    #[error("torn: the line has no end; a daemon that opens this log cuts it off and says so")]
    Torn,
    /// Records before it are nowhere in the file.
    #[error("removed before it: record {first} to {last}")]
    Removed {
        /// First missing record.
        first: u64,
        /// Last missing record.
        last: u64,
    },
    /// Records stand in another order than they were written in.
    #[error("reordered: record {expected} belongs here and stands in line {found_in_line}")]
    Reordered {
        /// The record that belongs here.
        expected: u64,
        /// Where it is.
        found_in_line: u64,
    },
    /// It stands a second time, or was put in.
    #[error("put in: record {expected} belongs here")]
    Inserted {
        /// The record that belongs here.
        expected: u64,
    },
    /// It has the right number, but was not written after the record that stands before it.
    #[error("replaced: it does not follow the record before it, or that one was edited together with its hash")]
    Unlinked,
    /// Records at the end are gone.
    #[error("removed at the end: record {first} to {last}, which audit.head knows")]
    Truncated {
        /// First missing record.
        first: u64,
        /// Last record that was ever written.
        last: u64,
    },
    /// The file is a consistent log, but not the one that was written.
    #[error("replaced: audit.head knows another record of this number; the log from here back was written anew")]
    Rewritten,
}

/// What every record has, borrowed from its line.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope<'a> {
    pub seq: u64,
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub prev: Cow<'a, str>,
    #[serde(borrow)]
    pub hash: Cow<'a, str>,
    #[serde(borrow, default)]
    pub run_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub approval_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub session_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub instance: Option<Cow<'a, str>>,
    #[serde(default)]
    pub missing_seq: Option<[u64; 2]>,
    #[serde(default)]
    pub head_missing: bool,
}

/// What the next record must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expect {
    /// Its number.
    pub seq: u64,
    /// The hash it must carry as `prev`.
    pub prev: String,
}

impl Expect {
    /// The first record of a log.
    pub fn first() -> Self {
        Expect {
            seq: 1,
            prev: GENESIS.to_owned(),
        }
    }

    /// The record after `this` one.
    pub fn after(this: &Envelope<'_>) -> Self {
        Expect {
            seq: this.seq + 1,
            prev: this.hash.clone().into_owned(),
        }
    }

    /// Checks the place of a record whose own content is in order. A gap is named by what is missing; whether those records
    /// stand further down only the caller can see.
    pub fn check(&self, record: &Envelope<'_>) -> Result<(), Fault> {
        match record.seq {
            seq if seq > self.seq => Err(Fault::Removed {
                first: self.seq,
                last: seq - 1,
            }),
            seq if seq < self.seq => Err(Fault::Inserted { expected: self.seq }),
            _ if record.prev != self.prev => Err(Fault::Unlinked),
            _ => Ok(()),
        }
    }
}

/// Reads a line (without its newline) as a record whose content has its hash.
pub(super) fn parse(line: &[u8]) -> Result<Envelope<'_>, (Option<u64>, Fault)> {
    let record: Envelope<'_> =
        serde_json::from_slice(line).map_err(|error| (None, Fault::Malformed(error.to_string())))?;
    let body = line
        .len()
        .checked_sub(SEAL_BYTES)
        .map(|cut| &line[..cut])
        .unwrap_or_default();
    let seal = format!(",\"hash\":\"{}\"}}", record.hash);
    if !line.ends_with(seal.as_bytes()) || sha256_hex(body) != record.hash || record.seq == u64::MAX {
        return Err((Some(record.seq), Fault::Edited));
    }
    Ok(record)
}

/// One line of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A whole line; the buffer holds it without its newline.
    Whole,
    /// The file ends without a newline; the buffer holds what there is.
    Torn,
    /// Longer than any record: the buffer holds its beginning.
    TooLong,
    /// The file has ended.
    End,
}

/// Reads the next line, at most [`MAX_LINE_BYTES`] of it.
pub(super) fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let read = reader.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', line)?;
    Ok(match line.last() {
        None => Line::End,
        Some(b'\n') => {
            line.pop();
            Line::Whole
        }
        Some(_) if read == MAX_LINE_BYTES => Line::TooLong,
        Some(_) => Line::Torn,
    })
}
