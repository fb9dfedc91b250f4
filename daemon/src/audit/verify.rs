//! Verification: reads a log from its first byte and names the first record that is not what was written.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::chain::{self, Broken, Envelope, Expect, Fault, Line};
use super::head;
use super::record::RecordRef;

/// What a log that is in order holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Records in all; also the number of the last.
    pub records: u64,
    /// Hash of the last record: noted elsewhere, it pins everything before it. `None` for an empty log.
    pub last_hash: Option<String>,
    /// Runs that were allowed.
    pub intents: u64,
    /// Ends recorded.
    pub ends: u64,
    /// Runs closed as `interrupted`.
    pub interrupted: u64,
    /// Runs without an end: going on, or interrupted by a crash and not yet closed.
    pub open: u64,
    /// A daemon holds the log: it may have grown since.
    pub in_use: bool,
    /// Whether `audit.head` was there to tell that nothing is missing at the end.
    pub head_checked: bool,
    /// The first record that a daemon began to write after without finding `audit.head`.
    pub head_missing_at: Option<u64>,
}

impl std::fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} records in order: {} runs, {} ended, {} interrupted, {} open",
            self.records, self.intents, self.ends, self.interrupted, self.open
        )?;
        if let Some(hash) = &self.last_hash {
            write!(f, "; last hash {hash}")?;
        }
        if self.in_use {
            write!(f, "; in use by a daemon")?;
        }
        if let Some(seq) = self.head_missing_at {
            write!(
                f,
                "; audit.head was missing when record {seq} was written, so records removed just before it would not show"
            )?;
        }
        if !self.head_checked {
            write!(f, "; no audit.head, so records removed at the end would not be noticed")?;
        }
        Ok(())
    }
}

/// Why a log could not be verified, or what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The log or its head cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log is not what was written.
    #[error("the audit log is broken: {0}; the {1} records before it are in order")]
    Broken(Broken, u64),
}

/// Verifies the log at `path`; blocking, and as long as it takes to read and hash the file. Can be used while a daemon writes.
///
/// # Errors
/// [`VerifyError::Broken`] names the first bad record: edited, removed, reordered, put in, torn, or missing at the end.
pub fn verify(path: &Path) -> Result<VerifyReport, VerifyError> {
    match verify_once(path) {
        // A daemon that started meanwhile may be in the middle of a line: read again, knowing that it is there.
        Err(VerifyError::Broken(Broken { fault: Fault::Torn, .. }, _)) => verify_once(path),
        result => result,
    }
}

fn verify_once(path: &Path) -> Result<VerifyReport, VerifyError> {
    let read = |source| VerifyError::Read {
        path: path.to_owned(),
        source,
    };
    // The head first: the log only grows, so it is never behind a head that was read before it.
    let head = head::read(path).map_err(|source| VerifyError::Read {
        path: head::path_of(path),
        source,
    })?;
    let file = open_regular(path).map_err(read)?;
    // Only asked, not kept: a daemon that starts now must find the log free.
    let in_use = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    let _ = file.unlock();

    let mut scan = Scan::new(path, head.as_ref());
    scan.report.in_use = in_use;
    scan.report.head_checked = head.is_some();
    let mut reader = BufReader::with_capacity(256 * 1024, &file);
    scan.run(&mut reader, in_use)
        .and_then(|()| scan.reaches(head.as_ref()))
        .map_err(|stop| match stop {
            Stop::Read(source) => read(source),
            Stop::Broken(broken) => VerifyError::Broken(look_further(&file, broken), scan.report.records),
        })?;
    scan.report.open = scan.open.len() as u64;
    Ok(scan.report)
}

/// Opens a log for reading; what is no regular file, or a link to one, is none.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// An intent without its end.
#[derive(Clone, Debug)]
pub(super) struct OpenRun {
    pub intent_seq: u64,
    pub instance: String,
}

/// A question to people without its end.
#[derive(Clone, Debug)]
pub(super) struct OpenQuestion {
    pub run_id: String,
    pub request_seq: u64,
    pub instance: String,
}

/// A session without its end.
#[derive(Clone, Debug)]
pub(super) struct OpenSession {
    pub created_seq: u64,
    pub instance: String,
}

/// Why a scan stopped.
pub(super) enum Stop {
    Read(io::Error),
    Broken(Broken),
}

/// One pass over a log, from its start or from a record that is taken as given.
pub(super) struct Scan<'a> {
    path: &'a Path,
    head: Option<&'a RecordRef>,
    line: u64,
    instance: String,
    /// What must come next; `None` before a first record that is taken as given.
    pub expect: Option<Expect>,
    pub open: HashMap<String, OpenRun>,
    /// Questions without an end, by their ids.
    pub questions: HashMap<String, OpenQuestion>,
    /// Sessions without an end, by their ids.
    pub sessions: HashMap<String, OpenSession>,
    pub report: VerifyReport,
}

impl<'a> Scan<'a> {
    pub fn new(path: &'a Path, head: Option<&'a RecordRef>) -> Self {
        Scan {
            path,
            head,
            line: 0,
            instance: String::new(),
            expect: Some(Expect::first()),
            open: HashMap::new(),
            questions: HashMap::new(),
            sessions: HashMap::new(),
            report: VerifyReport::default(),
        }
    }

    /// Starts in the middle: the first record read is trusted to be at its place.
    pub fn from_middle(path: &'a Path, head: Option<&'a RecordRef>) -> Self {
        Scan {
            expect: None,
            ..Scan::new(path, head)
        }
    }

    /// Who began to write last, of what was read.
    pub fn latest(&self) -> Option<&str> {
        Some(self.instance.as_str()).filter(|instance| !instance.is_empty())
    }

    /// Reads to the end. `growing`: a last line without a newline is being written and is not yet a record.
    pub fn run(&mut self, reader: &mut impl io::BufRead, growing: bool) -> Result<(), Stop> {
        let mut line = Vec::with_capacity(4096);
        loop {
            self.line += 1;
            match chain::next_line(reader, &mut line).map_err(Stop::Read)? {
                Line::End => break,
                Line::Torn if growing => break,
                Line::Torn => return Err(self.broken(None, Fault::Torn)),
                Line::TooLong => return Err(self.broken(None, Fault::Malformed("longer than any record".to_owned()))),
                Line::Whole => {}
            }
            let record = chain::parse(&line).map_err(|(seq, fault)| self.broken(seq, fault))?;
            if let Some(expect) = &self.expect {
                expect
                    .check(&record)
                    .map_err(|fault| self.broken(Some(record.seq), fault))?;
            }
            self.take(&record)?;
        }
        Ok(())
    }

    /// Whether the log goes as far as its head says.
    fn reaches(&self, head: Option<&RecordRef>) -> Result<(), Stop> {
        let next = self.expect.as_ref().map_or(1, |expect| expect.seq);
        match head {
            Some(head) if head.seq >= next => Err(self.broken(
                None,
                Fault::Truncated {
                    first: next,
                    last: head.seq,
                },
            )),
            _ => Ok(()),
        }
    }

    fn take(&mut self, record: &Envelope<'_>) -> Result<(), Stop> {
        if self
            .head
            .is_some_and(|head| head.seq == record.seq && head.hash != record.hash)
        {
            return Err(self.broken(Some(record.seq), Fault::Rewritten));
        }
        // The daemon that opened a log whose end was missing wrote so: the gap stays visible for good. Where a scan starts
        // in the middle, at that very record, the gap lies before it.
        if let Some([first, last]) = record.missing_seq
            && self.expect.is_some()
        {
            return Err(self.broken(Some(record.seq), Fault::Truncated { first, last }));
        }
        if record.head_missing {
            self.report.head_missing_at.get_or_insert(record.seq);
        }
        let run_id = record.run_id.as_deref().unwrap_or_default();
        // While several daemons write, those that did not begin last say who they are.
        let instance = || match &record.instance {
            Some(instance) => instance.clone().into_owned(),
            None => self.instance.clone(),
        };
        match &*record.kind {
            "log_opened" | "log_continued" => self.instance = record.instance.as_deref().unwrap_or_default().to_owned(),
            "intent" => {
                self.report.intents += 1;
                let open = OpenRun {
                    intent_seq: record.seq,
                    instance: instance(),
                };
                self.open.insert(run_id.to_owned(), open);
            }
            "end" => {
                self.report.ends += 1;
                self.open.remove(run_id);
            }
            "interrupted" => {
                self.report.interrupted += 1;
                self.open.remove(run_id);
            }
            "approval_requested" => {
                let open = OpenQuestion {
                    run_id: run_id.to_owned(),
                    request_seq: record.seq,
                    instance: instance(),
                };
                let id = record.approval_id.as_deref().unwrap_or_default();
                self.questions.insert(id.to_owned(), open);
            }
            "approval_resolved" | "approval_expired" | "approval_withdrawn" | "approval_interrupted" => {
                self.questions.remove(record.approval_id.as_deref().unwrap_or_default());
            }
            "session_created" => {
                let open = OpenSession {
                    created_seq: record.seq,
                    instance: instance(),
                };
                let id = record.session_id.as_deref().unwrap_or_default();
                self.sessions.insert(id.to_owned(), open);
            }
            "session_closed" | "session_interrupted" => {
                self.sessions.remove(record.session_id.as_deref().unwrap_or_default());
            }
            _ => {}
        }
        self.report.records = record.seq;
        self.report.last_hash = Some(record.hash.clone().into_owned());
        self.expect = Some(Expect::after(record));
        Ok(())
    }

    fn broken(&self, seq: Option<u64>, fault: Fault) -> Stop {
        Stop::Broken(Broken {
            path: self.path.to_owned(),
            line: self.line,
            seq,
            fault,
        })
    }
}

/// A gap is a removal, unless the missing record stands further down: then it is a change of order.
fn look_further(file: &File, broken: Broken) -> Broken {
    let Fault::Removed { first, .. } = broken.fault else {
        return broken;
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    if reader.seek(SeekFrom::Start(0)).is_err() {
        return broken;
    }
    for found_in_line in 1.. {
        match chain::next_line(&mut reader, &mut line) {
            Ok(Line::Whole) => {}
            _ => break,
        }
        if found_in_line > broken.line && chain::parse(&line).is_ok_and(|record| record.seq == first) {
            return Broken {
                fault: Fault::Reordered {
                    expected: first,
                    found_in_line,
                },
                ..broken
            };
        }
    }
    broken
}
