//! The whole output of runs in files: a directory, one file for each run, and one thread that writes them all.
//!
//! A run's journal keeps in memory what has not been written yet, and the thread takes it from there: nothing is copied, and a small
//! run's actor never waits for a disk. A run that writes faster than the disk takes it is held back by it, as behind `> file`, once
//! [`BACKLOG_BYTES`] wait; but a disk that takes nothing at all for [`STALL`] ends the writing for this run, and the run goes on. So do
//! a full disk, the bound for a run and the bound for all of them: each ends the writing for good, what was written stays
//! readable, and [`Spilled::stopped`] says which it was. Nothing of this reaches the command.
//!
//! The bound for all files is kept by removing those of finished runs, the oldest first, before a run that lives loses anything; so is
//! room on a full disk, where theirs is enough. A file also goes when its run is forgotten. Space is left for others, the audit log first of
//! all: below the configured reserve a disk counts as full. `record.rs` has the form of a file.
//!
//! Beside a run's output the same thread writes what else is known of it (`saved.rs`), so that the run can be read when its daemon is no
//! more. That costs the run nothing: it is written behind its back, and nobody waits for it. Each daemon has a directory of its own in the
//! configured one and holds a lock on it; `adopt.rs` takes over what a dead daemon of the same socket has left.
//!
//! Deliberately absent: fsync. What was written survives the death of the daemon, at whatever moment; the death of the machine takes what the
//! kernel had not written yet, the last half minute as a rule, and the checksums tell what is left from what only looks like it.

mod adopt;
pub(super) mod record;

use std::collections::{HashMap, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::journal::{Entry, Journal, Rest, Unsaved};
use super::model::Event;
use super::saved::{self, Described, Frame};

pub use adopt::{Adopted, Keeper};

/// Bytes that may wait to be written for a run before its pipes are left unread.
pub(super) const BACKLOG_BYTES: usize = 2 << 20;

/// How long a disk may take nothing before a run that waits for it goes on without.
pub(super) const STALL: Duration = Duration::from_secs(2);

/// Bytes written for one run before it is the next one's turn.
const BATCH_BYTES: usize = 1 << 20;

/// Events written at once, at most: each is two pieces, and the kernel takes 1024 (`UIO_MAXIOV`).
const BATCH_EVENTS: usize = 512;

/// The disk's free space is looked at each time so much was written, or earlier where less is free. No less than a batch.
const LOOK_BYTES: u64 = 8 << 20;

/// Of a file that is no more.
pub(super) const REMOVED: &str = "removed";

/// Of a file that is not, or not to its end, as it was when it was closed.
pub(super) const DAMAGED: &str = "damaged";

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
    /// Why not everything is in it: `limit`, `disk_full`, `stalled`, `removed`, `damaged`, or what the system said. Empty: everything is.
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
    /// For names of files that are unlike each other.
    next_key: AtomicU64,
    /// Held until the files are closed: on its own directory, and on those that it took over.
    locks: Mutex<Vec<File>>,
    /// Where it was made, for whom, and within which bounds.
    parent: PathBuf,
    keeper: Keeper,
    bounds: SpillBounds,
}

#[derive(Debug)]
enum Work {
    /// A journal has something that is not written, or is closed. Each is queued once at a time.
    Write(Arc<Journal>),
    Remove(Arc<SpillFile>),
    /// Directories that were taken over, and the files of finished runs in them.
    Adopted(Vec<PathBuf>, Vec<Arc<SpillFile>>),
    End(Sender<()>),
}

/// A run's file of output, and beside it its state.
#[derive(Debug)]
pub(super) struct SpillFile {
    path: PathBuf,
    state: PathBuf,
    key: u64,
    /// Of which run it is, see `record.rs`.
    order: u64,
    /// Whether it gets the whole output, as it comes.
    pub(super) whole: bool,
    /// What the state begins with, until it is written.
    described: Mutex<Option<Box<Described>>>,
    /// The length of both, as it counts for the bound.
    bytes: AtomicU64,
    state_bytes: AtomicU64,
    removed: AtomicBool,
}

impl SpillFile {
    fn new(directory: &Path, name: &str, key: u64, order: u64, whole: bool) -> SpillFile {
        SpillFile {
            path: directory.join(format!("{name}.{}", adopt::OUTPUT)),
            state: directory.join(format!("{name}.{}", adopt::STATE)),
            key,
            order,
            whole,
            described: Mutex::default(),
            bytes: AtomicU64::new(0),
            state_bytes: AtomicU64::new(0),
            removed: AtomicBool::new(false),
        }
    }

    /// Opens the output for reading.
    pub(super) fn open(&self) -> io::Result<File> {
        if self.is_removed() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = File::open(&self.path)?;
        record::expect_start(&file, self.order)?;
        Ok(file)
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

impl SpillStore {
    /// Takes a directory of its own in `parent`, which it makes where it is missing, takes over what dead daemons of the same socket left,
    /// removes what nobody wants any more, and starts the thread. The runs that were taken over are in the order in which they were accepted.
    ///
    /// # Errors
    /// When the directory cannot be made or others could write to it.
    pub fn open(
        parent: &Path,
        instance: &str,
        bounds: SpillBounds,
        keeper: &Keeper,
    ) -> Result<(SpillStore, Vec<Adopted>), SpillError> {
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
        let (directory, lock) = adopt::make(parent, instance, keeper).map_err(io("make a directory in", parent))?;
        let mut left = adopt::adopt(parent, &directory, keeper, bounds.total_bytes, 0);
        left.locks.push(lock);
        let (work, queue) = channel();
        // Also those that are not sealed yet: they go as the others do.
        let used = left.runs.iter().map(|run| run.file.bytes.load(Ordering::Relaxed)).sum();
        let shared = Arc::new(Shared {
            directory,
            work,
            used: AtomicU64::new(used),
            next_key: AtomicU64::new(left.next_key),
            locks: Mutex::new(left.locks),
            parent: parent.to_owned(),
            keeper: keeper.clone(),
            bounds,
        });
        let writer = Writer {
            directories: left.directories.into_iter().chain([shared.directory.clone()]).collect(),
            bounds,
            used: Arc::downgrade(&shared),
            open: HashMap::new(),
            finished: left.finished.into(),
            until_look: 0,
        };
        let spawned = std::thread::Builder::new().name("output".to_owned());
        spawned
            .spawn(move || writer.work(&queue))
            .map_err(io("start the thread that writes to", parent))?;
        Ok((SpillStore { shared }, left.runs))
    }

    /// Takes over what daemons of the same socket left that have died since. Blocks for as long as reading it takes.
    pub fn adopt(&self) -> Vec<Adopted> {
        let shared = &self.shared;
        let free = shared.bounds.total_bytes.saturating_sub(self.used_bytes());
        // A range of keys of their own.
        let key = shared.next_key.fetch_add(adopt::MAX_FILES as u64, Ordering::Relaxed);
        let left = adopt::adopt(&shared.parent, &shared.directory, &shared.keeper, free, key);
        let used: u64 = left.runs.iter().map(|run| run.file.bytes.load(Ordering::Relaxed)).sum();
        shared.used.fetch_add(used, Ordering::Relaxed);
        shared
            .locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(left.locks);
        let _ = shared.work.send(Work::Adopted(left.directories, left.finished));
        left.runs
    }

    /// A file for a run; it is made when something is written.
    pub(super) fn file(&self, described: Described) -> Arc<SpillFile> {
        let key = self.shared.next_key.fetch_add(1, Ordering::Relaxed);
        let (order, whole) = (described.order, described.whole);
        let file = SpillFile::new(&self.shared.directory, &key.to_string(), key, order, whole);
        *file.described.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(described));
        Arc::new(file)
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

    /// Writes what is to be written, and ends the thread. The files stay for the next daemon. Blocks for as long as that takes.
    pub fn close(&self) {
        let (done, ended) = channel();
        if self.shared.work.send(Work::End(done)).is_ok() {
            let _ = ended.recv();
        }
        // Another daemon may take them over from here on.
        self.shared.locks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The thread's own.
struct Writer {
    /// Its daemon's own and those that were taken over.
    directories: Vec<PathBuf>,
    bounds: SpillBounds,
    used: std::sync::Weak<Shared>,
    /// Files of runs that live, by their key.
    open: HashMap<u64, Open>,
    /// Files of finished runs, in the order of their ends.
    finished: VecDeque<Arc<SpillFile>>,
    /// Bytes to be written before the disk's free space is looked at again.
    until_look: u64,
}

/// A run's files, as far as something was written to them.
#[derive(Default)]
struct Open {
    output: Option<File>,
    state: Option<File>,
}

/// Why no more is written for a run.
enum Stop {
    Limit,
    /// So many bytes are missing at least.
    DiskFull(u64),
    Removed,
    Failed(io::Error),
}

impl std::fmt::Display for Stop {
    /// The words of [`Spilled::stopped`].
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::Limit => f.write_str("limit"),
            Stop::DiskFull(_) => f.write_str("disk_full"),
            Stop::Removed => f.write_str(REMOVED),
            Stop::Failed(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::of(error, 0)
    }
}

impl Stop {
    /// Of an error while so many bytes were to be written.
    fn of(error: io::Error, bytes: u64) -> Stop {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded => Stop::DiskFull(bytes),
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
                Some(Work::Adopted(directories, finished)) => {
                    self.directories.extend(directories);
                    self.finished.extend(finished);
                }
                Some(Work::End(done)) => {
                    while let Some(journal) = waiting.pop_front() {
                        if self.write(&journal) {
                            waiting.push_back(journal);
                        }
                    }
                    self.open.clear();
                    for directory in &self.directories {
                        adopt::remove_if_empty(directory);
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
        if let Some(Unsaved { file, from, happened }) = journal.unsaved() {
            let saved = from + happened.len();
            let frames: Vec<_> = happened.into_iter().map(Frame::Happened).collect();
            let kept = self.save(&file, &frames);
            journal.saved(kept.then_some(saved));
        }
        let Some((file, entries, at)) = journal.unwritten(BATCH_BYTES, BATCH_EVENTS) else {
            return match journal.rests() {
                Rest::No => true,
                Rest::Now => false,
                Rest::Sealed(file, sealed) => {
                    if let Some(sealed) = sealed {
                        self.save(&file, &[Frame::Sealed(*sealed)]);
                    }
                    self.open.remove(&file.key);
                    if !file.is_removed() {
                        self.finished.push_back(file);
                    }
                    false
                }
            };
        };
        let rest = journal.is_over();
        let appended = self
            .append(&file, &entries, at, rest)
            .map(|end| journal.written(&entries, end));
        if let Err(stop) = appended.or_else(|_| self.append_each(journal, &file, &entries, at, rest)) {
            let why = stop.to_string();
            tracing::warn!(path = %file.path.display(), why, "the output of a run is not written to its file any more");
            journal.stop_spilling(why);
        }
        true
    }

    /// Appends frames to a run's state. False when that cannot be: there is no state any more then, because one that is not whole would be
    /// told as something that did not happen.
    fn save(&mut self, file: &Arc<SpillFile>, frames: &[Frame]) -> bool {
        let Err(stop) = self.append_state(file, frames) else {
            return true;
        };
        if !file.is_removed() {
            let why = stop.to_string();
            tracing::warn!(path = %file.state.display(), why, "a run will not be known any more when the daemon is started again");
        }
        if let Some(open) = self.open.get_mut(&file.key) {
            open.state = None;
        }
        remove_file(&file.state);
        self.use_less(file, file.state_bytes.swap(0, Ordering::Relaxed));
        false
    }

    fn append_state(&mut self, file: &Arc<SpillFile>, frames: &[Frame]) -> Result<(), Stop> {
        if file.is_removed() {
            return Err(Stop::Removed);
        }
        let mut bytes = Vec::new();
        let encode = |frame: &Frame| saved::encode(frame).map_err(|error| Stop::Failed(io::Error::other(error)));
        let described = file.described.lock().unwrap_or_else(PoisonError::into_inner).take();
        let is_new = described.is_some();
        if let Some(described) = described {
            bytes.extend(saved::MAGIC);
            bytes.extend(encode(&Frame::Described(*described))?);
        }
        for frame in frames {
            bytes.extend(encode(frame)?);
        }
        let at = file.state_bytes.load(Ordering::Relaxed);
        if at + bytes.len() as u64 > saved::MAX_BYTES {
            return Err(Stop::Limit);
        }
        self.make_room(bytes.len() as u64)?;
        self.with_room(|writer| writer.append_state_bytes(file, &bytes, at, is_new))?;
        file.state_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.use_more(file, bytes.len() as u64);
        Ok(())
    }

    fn append_state_bytes(&mut self, file: &SpillFile, bytes: &[u8], at: u64, is_new: bool) -> Result<(), Stop> {
        let state = &mut self.open.entry(file.key).or_default().state;
        let state = match state {
            Some(state) => state,
            None => {
                let mut options = OpenOptions::new();
                options.write(true).create_new(is_new).mode(0o600);
                state.insert(options.open(&file.state)?)
            }
        };
        let length = bytes.len() as u64;
        look(state, &self.bounds, &mut self.until_look, length)?;
        state.write_all_at(bytes, at).map_err(|error| Stop::of(error, length))
    }

    /// What does not fit together may fit in part.
    fn append_each(
        &mut self,
        journal: &Journal,
        file: &Arc<SpillFile>,
        entries: &[Entry],
        mut at: u64,
        rest: bool,
    ) -> Result<(), Stop> {
        for entry in entries.chunks(1) {
            let end = self.append(file, entry, at, rest)?;
            journal.written(entry, end);
            at = end;
        }
        Ok(())
    }

    /// Appends entries to a file that ends at `at`; gives its new end. Fails whole: nothing of them is in the file then. The `rest` of a run
    /// that is over is no more than memory held, and may exceed the bound for one.
    fn append(&mut self, file: &Arc<SpillFile>, entries: &[Entry], at: u64, rest: bool) -> Result<u64, Stop> {
        if file.is_removed() {
            return Err(Stop::Removed);
        }
        let start = record::start(file.order);
        let headers: Vec<_> = entries.iter().filter_map(record::header).collect();
        let mut slices = Vec::with_capacity(entries.len() * 2 + 1);
        if at == 0 {
            slices.push(IoSlice::new(&start));
        }
        for (entry, header) in entries.iter().zip(&headers) {
            if let Event::Output { data, .. } = &entry.event {
                slices.extend([IoSlice::new(header), IoSlice::new(data)]);
            }
        }
        let bytes: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        if !rest && at + bytes > self.bounds.run_bytes {
            return Err(Stop::Limit);
        }
        self.make_room(bytes)?;
        self.with_room(|writer| writer.append_slices(file, &mut slices.clone(), at, bytes))?;
        self.use_more(file, bytes);
        Ok(at + bytes)
    }

    fn append_slices(&mut self, file: &SpillFile, slices: &mut [IoSlice<'_>], at: u64, bytes: u64) -> Result<(), Stop> {
        let open = &mut self.open.entry(file.key).or_default().output;
        let open = match open {
            Some(open) => open,
            None => {
                let mut options = OpenOptions::new();
                options.write(true).create_new(at == 0).mode(0o600);
                open.insert(options.open(&file.path)?)
            }
        };
        look(open, &self.bounds, &mut self.until_look, bytes)?;
        open.seek(SeekFrom::Start(at))?;
        let mut rest = slices;
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
        written.map_err(|error| {
            let _ = open.set_len(at);
            Stop::of(error, bytes)
        })
    }

    /// Writes something, and where the disk is full does so again once files of finished runs have gone, the oldest first. They stay where all
    /// of them together would not be enough.
    fn with_room(&mut self, mut write: impl FnMut(&mut Self) -> Result<(), Stop>) -> Result<(), Stop> {
        loop {
            let missing = match write(self) {
                Err(Stop::DiskFull(missing)) => missing,
                done => return done,
            };
            let held = self.finished.iter().map(|file| file.bytes.load(Ordering::Relaxed));
            if self.finished.is_empty() || held.sum::<u64>() < missing {
                return Err(Stop::DiskFull(missing));
            }
            let mut freed = 0;
            while freed < missing.max(1)
                && let Some(oldest) = self.finished.pop_front()
            {
                freed += oldest.bytes.load(Ordering::Relaxed);
                self.remove(&oldest);
            }
        }
    }

    /// Sees to it that `bytes` more fit the bound for all: files of finished runs go, the oldest first.
    fn make_room(&mut self, bytes: u64) -> Result<(), Stop> {
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

    fn use_more(&self, file: &SpillFile, bytes: u64) {
        file.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(shared) = self.used.upgrade() {
            shared.used.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn use_less(&self, file: &SpillFile, bytes: u64) {
        file.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(shared) = self.used.upgrade() {
            shared.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn remove(&mut self, file: &Arc<SpillFile>) {
        file.removed.store(true, Ordering::Release);
        self.open.remove(&file.key);
        self.finished.retain(|other| other.key != file.key);
        // The state first: without it, output is nothing.
        remove_file(&file.state);
        remove_file(&file.path);
        self.use_less(file, file.bytes.load(Ordering::Relaxed));
    }
}

/// Removes a file, where it was made and is there still.
fn remove_file(path: &Path) {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "a file of a run is left behind"),
    }
}

/// Looks now and then whether the disk has room for so much beside what is left to others.
fn look(file: &File, bounds: &SpillBounds, until_look: &mut u64, bytes: u64) -> Result<(), Stop> {
    if *until_look < bytes {
        let found = nix::sys::statvfs::fstatvfs(file).map_err(io::Error::from)?;
        let free = found.blocks_available() as u64 * found.fragment_size() as u64;
        *until_look = 0;
        *until_look = allowance(free, bounds.reserve_bytes, bytes).map_err(Stop::DiskFull)?;
    }
    *until_look -= bytes.min(*until_look);
    Ok(())
}

/// How much may be written, these `bytes` first, before the free space is looked at again: space that shrinks meanwhile by others' writing is
/// noticed then. An error: what is missing.
fn allowance(free: u64, reserve: u64, bytes: u64) -> Result<u64, u64> {
    let wanted = reserve.saturating_add(bytes);
    match free.checked_sub(wanted) {
        Some(_) => Ok(LOOK_BYTES.min(free - reserve)),
        None => Err(wanted - free),
    }
}

#[cfg(test)]
mod tests;
