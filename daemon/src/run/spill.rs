//! The whole output of runs in files: a directory, one file for each run, and one thread that writes them all.
//!
//! A run's journal keeps in memory what has not been written yet, and the thread takes it from there: nothing is copied, and a small
//! run's actor never waits for a disk. A run that writes faster than the disk takes it is held back by it, as behind `> file`, once
//! [`BACKLOG_BYTES`] wait; but a disk that takes nothing at all for [`STALL`] ends the writing for this run, and the run goes on. So do
//! a full disk, the bound for a run and the bound for all of them: each ends the writing for good, what was written stays
//! readable, and [`Spilled::stopped`] says which it was. Nothing of this reaches the command.
//!
//! The bound for all files is kept by removing those of finished runs, the oldest first, before a run that lives loses anything. A file
//! also goes when its run is forgotten. Space is left for others, the audit log first of all: below the configured reserve
//! a disk counts as full. `record.rs` has the form of a file.
//!
//! Each daemon has a directory of its own in the configured one, and holds a lock on it; a daemon that starts removes the directories that
//! nobody holds. Deliberately absent: fsync. A file is for reading while its daemon lives, not for surviving the machine.

pub(super) mod record;

use std::collections::{HashMap, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::journal::{Entry, Journal};
use super::model::Event;

/// Bytes that may wait to be written for a run before its pipes are left unread.
pub(super) const BACKLOG_BYTES: usize = 2 << 20;

/// How long a disk may take nothing before a run that waits for it goes on without.
pub(super) const STALL: Duration = Duration::from_secs(2);

/// Bytes written for one run before it is the next one's turn.
const BATCH_BYTES: usize = 1 << 20;

/// Events written at once, at most: each is two pieces, and the kernel takes 1024 (`UIO_MAXIOV`).
const BATCH_EVENTS: usize = 512;

/// The disk's free space is looked at each time so much was written. No less than a batch.
const LOOK_BYTES: u64 = 8 << 20;

/// Of a file that is no more.
pub(super) const REMOVED: &str = "removed";

/// The lock that a living daemon holds in its directory.
const LOCK: &str = "lock";

/// What the files may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillBounds {
    /// One file, in bytes.
    pub run_bytes: u64,
    /// All of them, in bytes.
    pub total_bytes: u64,
    /// What stays free on the disk, in bytes.
    pub reserve_bytes: u64,
}

/// What became of writing a run's output to a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spilled {
    /// Bytes of output in the file.
    pub bytes: u64,
    /// Why not everything is in it: `limit`, `disk_full`, `stalled`, `removed`, or what the system said. Empty: everything is.
    pub stopped: String,
}

/// Why there is no place for files of output.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// Something about a file or directory failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others could read the output of runs, or put files of theirs in place of it.
    #[error("{} belongs to uid {uid} and has mode {mode:04o}; make it the daemon's own and `chmod 700` it", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
}

/// The files of one daemon; clones share them.
#[derive(Clone, Debug)]
pub struct SpillStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    work: Sender<Work>,
    used: AtomicU64,
    /// Held as long as this daemon lives.
    _lock: File,
}

#[derive(Debug)]
enum Work {
    /// A journal has something that is not written, or is closed. Each is queued once at a time.
    Write(Arc<Journal>),
    Remove(Arc<SpillFile>),
    End(Sender<()>),
}

/// A run's file.
#[derive(Debug)]
pub(super) struct SpillFile {
    path: PathBuf,
    number: u64,
    /// Its length, as it counts for the bound.
    bytes: AtomicU64,
    removed: AtomicBool,
}

impl SpillFile {
    /// Opens it for reading.
    pub(super) fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

impl SpillStore {
    /// Takes a directory of its own in `parent`, which it makes where it is missing, removes those of dead daemons, and starts the thread.
    ///
    /// # Errors
    /// When the directory cannot be made or others could write to it.
    pub fn open(parent: &Path, instance: &str, bounds: SpillBounds) -> Result<SpillStore, SpillError> {
        let io = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| SpillError::Io { what, path, source }
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(parent).map_err(io("make the directory", parent))?;
        let found = parent.metadata().map_err(io("look at", parent))?;
        let uid = nix::unistd::geteuid().as_raw();
        if found.uid() != uid || found.mode() & 0o022 != 0 {
            return Err(SpillError::Open {
                path: parent.to_owned(),
                uid: found.uid(),
                mode: found.mode() & 0o7777,
            });
        }
        if found.mode() & 0o077 != 0 {
            let private = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(parent, private).map_err(io("close to others", parent))?;
        }
        sweep(parent);
        let directory = parent.join(instance);
        builder
            .create(&directory)
            .map_err(io("make the directory", &directory))?;
        let path = directory.join(LOCK);
        let lock = File::create(&path).map_err(io("make", &path))?;
        lock.lock().map_err(io("lock", &path))?;
        let (work, queue) = channel();
        let shared = Arc::new(Shared {
            directory,
            work,
            used: AtomicU64::new(0),
            _lock: lock,
        });
        let writer = Writer {
            directory: shared.directory.clone(),
            bounds,
            used: Arc::downgrade(&shared),
            open: HashMap::new(),
            finished: VecDeque::new(),
            until_look: 0,
        };
        let spawned = std::thread::Builder::new().name("output".to_owned());
        spawned
            .spawn(move || writer.work(&queue))
            .map_err(io("start the thread that writes to", parent))?;
        Ok(SpillStore { shared })
    }

    /// A file for the run with this number; it is made when something is written.
    pub(super) fn file(&self, number: u64) -> Arc<SpillFile> {
        Arc::new(SpillFile {
            path: self.shared.directory.join(format!("{number}.out")),
            number,
            bytes: AtomicU64::new(0),
            removed: AtomicBool::new(false),
        })
    }

    /// Has the thread look at a journal. Without the thread, which only a defect can end, the journal's disk counts as stalled.
    pub(super) fn write(&self, journal: &Arc<Journal>) {
        let _ = self.shared.work.send(Work::Write(Arc::clone(journal)));
    }

    /// Removes a file soon; who reads it already may go on.
    pub(super) fn remove(&self, file: &Arc<SpillFile>) {
        file.removed.store(true, Ordering::Release);
        let _ = self.shared.work.send(Work::Remove(Arc::clone(file)));
    }

    /// Bytes that all files take.
    pub fn used_bytes(&self) -> u64 {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// Ends the thread and removes all files with their directory. Blocks for as long as that takes.
    pub fn close(&self) {
        let (done, ended) = channel();
        if self.shared.work.send(Work::End(done)).is_ok() {
            let _ = ended.recv();
        }
    }
}

/// Removes the directories of daemons that are dead: whose lock can be had. What cannot be removed is left and told.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        // A link is none of ours, and what has no lock yet may be being made at this moment.
        let Ok(lock) = OpenOptions::new().write(true).open(path.join(LOCK)) else {
            continue;
        };
        if path.is_symlink() || matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            continue;
        }
        match std::fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed the output of a daemon that is dead"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "the output of a dead daemon is left behind"),
        }
    }
}

/// The thread's own.
struct Writer {
    directory: PathBuf,
    bounds: SpillBounds,
    used: std::sync::Weak<Shared>,
    /// Files of runs that live, by number.
    open: HashMap<u64, File>,
    /// Files of finished runs, in the order of their ends.
    finished: VecDeque<Arc<SpillFile>>,
    /// Bytes to be written before the disk's free space is looked at again.
    until_look: u64,
}

/// Why no more is written for a run.
enum Stop {
    Limit,
    DiskFull,
    Removed,
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded => Stop::DiskFull,
            _ => Stop::Failed(error),
        }
    }
}

impl Writer {
    fn work(mut self, work: &Receiver<Work>) {
        let mut waiting: VecDeque<Arc<Journal>> = VecDeque::new();
        loop {
            let next = match waiting.is_empty() {
                true => work.recv().ok(),
                false => work.try_recv().ok(),
            };
            match next {
                Some(Work::Write(journal)) => waiting.push_back(journal),
                Some(Work::Remove(file)) => self.remove(&file),
                Some(Work::End(done)) => {
                    self.open.clear();
                    if let Err(error) = std::fs::remove_dir_all(&self.directory) {
                        tracing::warn!(%error, "the files of output are left behind");
                    }
                    let _ = done.send(());
                    return;
                }
                None => {
                    let Some(journal) = waiting.pop_front() else { return };
                    if self.write(&journal) {
                        waiting.push_back(journal);
                    }
                }
            }
        }
    }

    /// Writes a batch of a journal. Whether there may be more.
    fn write(&mut self, journal: &Journal) -> bool {
        let Some((file, entries, at)) = journal.unwritten(BATCH_BYTES, BATCH_EVENTS) else {
            if let Some(file) = journal.spill_to_finish()
                && self.open.remove(&file.number).is_some()
            {
                self.finished.push_back(file);
            }
            return false;
        };
        let appended = self
            .append(&file, &entries, at)
            .map(|end| journal.written(&entries, end));
        if let Err(stop) = appended.or_else(|_| self.append_each(journal, &file, &entries, at)) {
            let why = match stop {
                Stop::Limit => "limit".to_owned(),
                Stop::DiskFull => "disk_full".to_owned(),
                Stop::Removed => REMOVED.to_owned(),
                Stop::Failed(error) => error.to_string(),
            };
            tracing::warn!(path = %file.path.display(), why, "the output of a run is not written to its file any more");
            journal.stop_spilling(why);
        }
        true
    }

    /// What does not fit together may fit in part.
    fn append_each(
        &mut self,
        journal: &Journal,
        file: &Arc<SpillFile>,
        entries: &[Entry],
        mut at: u64,
    ) -> Result<(), Stop> {
        for entry in entries.chunks(1) {
            let end = self.append(file, entry, at)?;
            journal.written(entry, end);
            at = end;
        }
        Ok(())
    }

    /// Appends entries to a file that ends at `at`; gives its new end. Fails whole: nothing of them is in the file then.
    fn append(&mut self, file: &Arc<SpillFile>, entries: &[Entry], at: u64) -> Result<u64, Stop> {
        if file.is_removed() {
            return Err(Stop::Removed);
        }
        if !self.open.contains_key(&file.number) {
            let made = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&file.path)?;
            self.open.insert(file.number, made);
        }
        let headers: Vec<_> = entries.iter().filter_map(record::header).collect();
        let mut slices = Vec::with_capacity(entries.len() * 2 + 1);
        if at == 0 {
            slices.push(IoSlice::new(&record::MAGIC));
        }
        for (entry, header) in entries.iter().zip(&headers) {
            if let Event::Output { data, .. } = &entry.event {
                slices.extend([IoSlice::new(header), IoSlice::new(data)]);
            }
        }
        let bytes: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        self.make_room(at, bytes)?;
        let open = &mut self.open.get_mut(&file.number).ok_or(Stop::Limit)?;
        if self.until_look < bytes {
            let found = nix::sys::statvfs::fstatvfs(&**open).map_err(io::Error::from)?;
            let free = found.blocks_available() as u64 * found.fragment_size() as u64;
            // Space that shrinks meanwhile by others' writing is noticed within so many bytes.
            self.until_look = LOOK_BYTES;
            if free < self.bounds.reserve_bytes.saturating_add(bytes) {
                self.until_look = 0;
                return Err(Stop::DiskFull);
            }
        }
        self.until_look -= bytes.min(self.until_look);
        let mut rest = slices.as_mut_slice();
        let written = loop {
            match open.write_vectored(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if rest.is_empty() {
                break Ok(());
            }
        };
        if let Err(error) = written {
            let _ = open.set_len(at);
            return Err(error.into());
        }
        file.bytes.store(at + bytes, Ordering::Relaxed);
        self.use_more(bytes);
        Ok(at + bytes)
    }

    /// Sees to it that `bytes` more fit the bounds: files of finished runs go, the oldest first.
    fn make_room(&mut self, at: u64, bytes: u64) -> Result<(), Stop> {
        if at + bytes > self.bounds.run_bytes {
            return Err(Stop::Limit);
        }
        loop {
            let used = self
                .used
                .upgrade()
                .map_or(0, |shared| shared.used.load(Ordering::Relaxed));
            if used + bytes <= self.bounds.total_bytes {
                return Ok(());
            }
            let oldest = self.finished.pop_front().ok_or(Stop::Limit)?;
            self.remove(&oldest);
        }
    }

    fn use_more(&self, bytes: u64) {
        if let Some(shared) = self.used.upgrade() {
            shared.used.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn remove(&mut self, file: &Arc<SpillFile>) {
        file.removed.store(true, Ordering::Release);
        self.open.remove(&file.number);
        self.finished.retain(|other| other.number != file.number);
        match std::fs::remove_file(&file.path) {
            Ok(()) => {}
            // Nothing was written, or it went before.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %file.path.display(), %error, "a file of output is left behind"),
        }
        let bytes = file.bytes.swap(0, Ordering::Relaxed);
        if let Some(shared) = self.used.upgrade() {
            shared.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
