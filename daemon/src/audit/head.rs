//! `audit.head`: the number and hash of the last record, beside the log.
//!
//! That records are missing at the end cannot be seen from the log alone. The head is written after each commit, in place
//! and with one `pwrite` of a fixed length: no reader sees half of one (it reads twice, see [`read`]), it needs no new
//! block when the disk is full, and it is one system call. It is never ahead of the log, because the log is durable
//! before it is written; without a sync of its own it may be behind after a power failure, which is harmless.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::record::RecordRef;

const NUMBER_DIGITS: usize = 20;
const HASH_DIGITS: usize = 64;
const LENGTH: usize = NUMBER_DIGITS + 1 + HASH_DIGITS + 1;

/// Where the head of a log is: `audit.jsonl` has `audit.head`.
pub(super) fn path_of(log: &Path) -> PathBuf {
    log.with_extension("head")
}

/// Opens the head for writing, created with mode 0600.
pub(super) fn open(log: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(path_of(log))?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Waits until no other daemon that shares the log writes to it; until the result is unlocked or dropped, none does. `held` is the head as it
/// is open; where another file is at the path by now, that one is opened, so that all wait for the same.
pub(super) fn turn(log: &Path, held: Option<File>) -> io::Result<File> {
    let mut held = held;
    loop {
        let file = match held.take() {
            Some(file) => file,
            None => open(log)?,
        };
        file.lock()?;
        let opened = file.metadata()?;
        match std::fs::symlink_metadata(path_of(log)) {
            Ok(found) if (found.dev(), found.ino()) == (opened.dev(), opened.ino()) => return Ok(file),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

/// Notes the last record.
pub(super) fn write(file: &File, last: &RecordRef) -> io::Result<()> {
    let text = format!("{:0NUMBER_DIGITS$} {}\n", last.seq, last.hash);
    file.write_all_at(text.as_bytes(), 0)
}

/// The last record as the head knows it; `None` when there is no head or it holds nothing yet.
pub(super) fn read(log: &Path) -> io::Result<Option<RecordRef>> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path_of(log)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() == 0 {
        return Ok(None);
    }
    let read_once = || {
        let mut text = [0; LENGTH];
        file.read_exact_at(&mut text, 0).map(|()| text)
    };
    // Two equal readings: a daemon may be writing at this moment.
    let mut text = read_once()?;
    for _ in 0..1000 {
        let again = read_once()?;
        if again == text {
            return parse(&text).map(Some);
        }
        text = again;
    }
    parse(&text).map(Some)
}

fn parse(text: &[u8]) -> io::Result<RecordRef> {
    let bad = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "not a head: a number and a hash were expected",
        )
    };
    let text = std::str::from_utf8(text).map_err(|_| bad())?.trim_end();
    let (seq, hash) = text.split_once(' ').ok_or_else(bad)?;
    let digits = hash.len() == HASH_DIGITS && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    match seq.parse() {
        Ok(seq) if digits => Ok(RecordRef {
            seq,
            hash: hash.to_owned(),
        }),
        _ => Err(bad()),
    }
}
