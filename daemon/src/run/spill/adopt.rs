//! What a dead daemon left, taken over by the next one of the same socket.
//!
//! ```text
//! <output.dir>/<instance>/lock       held by the daemon whose directory it is
//!                         daemon     which daemon that is, by its socket, and how long it kept runs: JSON
//!                         <n>.run    a run, see saved.rs
//!                         <n>.out    its output, see record.rs
//! ```
//!
//! A directory whose lock can be had is that of a dead daemon. The next one that serves the same socket holds the lock from then on and
//! reads what is there; what belongs to other sockets it leaves alone until nobody would want it any more. Nothing is trusted that this
//! user's daemon cannot have written, and nothing that is not whole: what is left out is said in the log.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use serde::{Deserialize, Serialize};

use super::record::{self, Extent};
use super::{SpillFile, saved};
use crate::run::saved::Saved;

/// The lock that a living daemon holds in its directory.
pub(super) const LOCK: &str = "lock";

/// Which daemon a directory is of.
const DAEMON: &str = "daemon";

/// The ends of names.
pub(super) const OUTPUT: &str = "out";
pub(super) const STATE: &str = "run";

/// The form of what is in the file [`DAEMON`].
const FORM: u32 = 1;

/// The longest file of that name: a socket's path has 107 bytes.
const MAX_DAEMON_BYTES: u64 = 4096;

/// Files that are looked at in a directory, at most: more than a daemon keeps runs.
pub(super) const MAX_FILES: usize = 4_000_000;

/// After this time a directory that was never finished is one whose maker died.
const UNFINISHED: Duration = Duration::from_secs(3600);

/// Whose runs are kept, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    /// The socket of the daemons that follow upon each other.
    pub socket: PathBuf,
    /// How long finished runs are kept.
    pub retain_for: Duration,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Daemon {
    form: u32,
    socket: String,
    retain_secs: u64,
}

impl Keeper {
    fn daemon(&self) -> Daemon {
        Daemon {
            form: FORM,
            socket: self.socket.to_string_lossy().into_owned(),
            retain_secs: self.retain_for.as_secs(),
        }
    }
}

/// A run that was taken over.
#[derive(Debug)]
pub struct Adopted {
    pub(in crate::run) file: Arc<SpillFile>,
    pub(in crate::run) saved: Saved,
    /// What is in the file of its output, where its state does not say.
    pub(in crate::run) found: Option<Extent>,
}

/// All that was taken over.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// In the order in which they were accepted.
    pub runs: Vec<Adopted>,
    /// Files of those that are over, in the order of their ends.
    pub finished: Vec<Arc<SpillFile>>,
    pub locks: Vec<File>,
    pub directories: Vec<PathBuf>,
    pub next_key: u64,
}

/// Makes a daemon's own directory, with its lock held.
pub(super) fn make(parent: &Path, instance: &str, keeper: &Keeper) -> io::Result<(PathBuf, File)> {
    // Under another name until it is complete: whoever looks for dead daemons' meanwhile passes over it.
    let (making, directory) = (parent.join(format!(".{instance}")), parent.join(instance));
    DirBuilder::new().mode(0o700).create(&making)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let lock = options.open(making.join(LOCK))?;
    lock.lock()?;
    let mut daemon = options.open(making.join(DAEMON))?;
    daemon.write_all(&serde_json::to_vec(&keeper.daemon())?)?;
    std::fs::rename(&making, &directory)?;
    Ok((directory, lock))
}

/// Takes over what dead daemons of the same socket left in `parent`, beside the `own` directory, and removes what is too old or too much.
pub(super) fn adopt(parent: &Path, own: &Path, keeper: &Keeper, total_bytes: u64, first_key: u64) -> Left {
    let mut left = Left {
        next_key: first_key,
        ..Left::default()
    };
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let directory = entry.path();
        // A link is none of ours.
        if directory == own || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            if is_older(&directory, UNFINISHED) {
                remove_directory(&directory);
            }
            continue;
        }
        let Ok(lock) = open_own(&directory.join(LOCK), OpenOptions::new().write(true)) else {
            continue;
        };
        if lock.try_lock().is_err() {
            continue;
        }
        match daemon_of(&directory) {
            Some(daemon) if daemon.socket == keeper.daemon().socket => {
                take(&directory, &mut left);
                left.locks.push(lock);
                left.directories.push(directory);
            }
            // Of another socket, whose next daemon may still come.
            Some(daemon) if !is_older(&directory, Duration::from_secs(daemon.retain_secs)) => {}
            // Or of a version that kept nothing.
            Some(_) | None => remove_directory(&directory),
        }
    }
    forget(&mut left, keeper.retain_for, total_bytes);
    // Those of which nothing is left are of no more use; their locks go with the daemon.
    left.directories.retain(|directory| !remove_if_empty(directory));
    left
}

/// Removes a directory in which there is no run any more. Whether it did.
pub(super) fn remove_if_empty(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_run = |name: &Path| name.extension().is_some_and(|end| end == OUTPUT || end == STATE);
    if entries.into_iter().any(|entry| is_run(Path::new(&entry.file_name()))) {
        return false;
    }
    remove_directory(directory);
    true
}

fn remove_directory(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        tracing::warn!(path = %directory.display(), %error, "the runs of a dead daemon are left behind");
    }
}

/// Whether nothing in a directory was written for so long.
fn is_older(directory: &Path, age: Duration) -> bool {
    let written = |path: &Path| path.symlink_metadata().and_then(|found| found.modified()).ok();
    let inside = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let newest = inside
        .filter_map(|entry| written(&entry.path()))
        .chain(written(directory))
        .max();
    let elapsed = newest.and_then(|newest| SystemTime::now().duration_since(newest).ok());
    elapsed.is_some_and(|elapsed| elapsed > age)
}

/// Opens a file that nobody but this user can have written.
fn open_own(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    let own = found.is_file()
        && found.uid() == nix::unistd::geteuid().as_raw()
        && found.mode() & 0o022 == 0
        && found.nlink() == 1;
    match own {
        true => Ok(file),
        false => Err(io::Error::other(
            "not a regular file of this user's with one name, or others may write to it",
        )),
    }
}

fn read_own(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open_own(path, OpenOptions::new().read(true))?;
    let mut bytes = Vec::new();
    if file.take(most + 1).read_to_end(&mut bytes)? as u64 > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn daemon_of(directory: &Path) -> Option<Daemon> {
    let daemon: Daemon = serde_json::from_slice(&read_own(&directory.join(DAEMON), MAX_DAEMON_BYTES).ok()?).ok()?;
    (daemon.form == FORM).then_some(daemon)
}

/// Reads the runs of a directory. Files that are of no use are removed, but for those that this user did not write, which are left
/// where they are.
fn take(directory: &Path, left: &mut Left) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries
        .take(MAX_FILES)
        .filter_map(|entry| entry.file_name().into_string().ok());
    let (states, others): (Vec<_>, Vec<_>) = names.partition(|name| name.ends_with(".run"));
    let mut kept = Vec::new();
    for state in &states {
        let name = state.trim_end_matches(".run");
        left.next_key += 1;
        match read(directory, name, left.next_key) {
            Ok(adopted) => {
                kept.push(name);
                left.runs.push(adopted);
            }
            Err(error) => {
                let path = directory.join(state);
                tracing::warn!(path = %path.display(), %error, "a run of an earlier daemon cannot be read, and is passed over");
                let _ = std::fs::remove_file(path);
            }
        }
    }
    for other in others.iter().filter_map(|name| name.strip_suffix(".out")) {
        if !kept.contains(&other) {
            let _ = std::fs::remove_file(directory.join(format!("{other}.{OUTPUT}")));
        }
    }
}

/// Reads a run.
fn read(directory: &Path, name: &str, key: u64) -> io::Result<Adopted> {
    let state = directory.join(format!("{name}.{STATE}"));
    let bytes = read_own(&state, saved::MAX_BYTES)?;
    let saved = saved::read(&bytes).map_err(io::Error::other)?;
    let file = SpillFile::new(directory, name, key, saved.described.order, saved.described.whole);
    if saved.bytes < bytes.len() as u64 {
        tracing::warn!(run = saved.described.id, path = %file.state.display(), "the end of a run's state is damaged or cut short");
        open_own(&file.state, OpenOptions::new().write(true))?.set_len(saved.bytes)?;
    }
    let opened = open_own(&file.path, OpenOptions::new().read(true).write(true))
        .and_then(|output| record::expect_start(&output, file.order).map(|()| output));
    let output = match opened {
        Ok(output) => Some(output),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(run = saved.described.id, path = %file.path.display(), %error, "the output of a run cannot be read, and counts as lost");
            // A link, or somebody else's, or another run's: the name is this daemon's, what is behind it is not.
            std::fs::remove_file(&file.path)?;
            None
        }
    };
    let length = output
        .as_ref()
        .map_or(Ok(0), |output| output.metadata().map(|found| found.len()))?;
    let sealed = saved.sealed.as_ref().map(|sealed| sealed.output.file_bytes);
    let found = match (&output, sealed) {
        (_, Some(sealed)) if sealed <= length => None,
        (Some(output), _) => Some(record::extent(output)?),
        (None, _) => Some(Extent::default()),
    };
    let ours = found.as_ref().map_or(sealed, |found| Some(found.bytes)).unwrap_or(0);
    if found.is_some() && sealed.is_some() {
        tracing::warn!(run = saved.described.id, path = %file.path.display(), found = ours, "the output of a run is not all there any more");
    }
    // What follows can never be read. It may be large without taking any room, and would count for what it seems.
    if let Some(output) = output.filter(|_| ours < length)
        && let Err(error) = output.set_len(ours)
    {
        tracing::warn!(path = %file.path.display(), %error, "what lies behind the output of a run is left there");
    }
    file.bytes.store(ours + saved.bytes, Ordering::Relaxed);
    file.state_bytes.store(saved.bytes, Ordering::Relaxed);
    Ok(Adopted {
        file: Arc::new(file),
        saved,
        found,
    })
}

/// Removes runs that are over for too long, and the oldest of the others as far as they take too much; puts the rest in order.
fn forget(left: &mut Left, retain_for: Duration, total_bytes: u64) {
    let now = SystemTime::now();
    left.runs.retain(|run| {
        let age = run.saved.finished_at().and_then(|at| now.duration_since(at).ok());
        let keep = age.is_none_or(|age| age < retain_for);
        if !keep {
            remove(&run.file);
        }
        keep
    });
    left.runs.sort_by_key(|run| run.saved.finished_at().unwrap_or(now));
    let mut used: u64 = left.runs.iter().map(|run| run.file.bytes.load(Ordering::Relaxed)).sum();
    left.runs.retain(|run| {
        let keep = used <= total_bytes;
        if !keep {
            used -= run.file.bytes.load(Ordering::Relaxed);
            remove(&run.file);
        }
        keep
    });
    // The others come among these when they are sealed.
    let over = left.runs.iter().filter(|run| run.saved.sealed.is_some());
    left.finished = over.map(|run| Arc::clone(&run.file)).collect();
    left.runs.sort_by_key(|run| run.saved.described.order);
}

fn remove(file: &SpillFile) {
    super::remove_file(&file.state);
    super::remove_file(&file.path);
}
