//! What a tree takes of the disks it may write to.
//!
//! Two measures, because neither suffices alone:
//!
//! 1. **Growth**: by how much the file systems' free space (and free inodes) shrank since the command started. Exact, at once and
//!    nearly free, whatever the means (write, mmap, fallocate, io), but it counts everybody on that file system.
//! 2. **Account**: what can be laid at the tree's door. First what its processes have written by the kernel's accounting
//!    (`write_bytes` less `cancelled_write_bytes` of `/proc/PID/io`), which is quick. Where that is not enough, a count of the files in its
//!    writable trees that changed since the start (ctime, which nobody can set back), and of files without a name that its
//!    processes hold open. Only while growth is past the limit, in small steps between which init serves the command.
//!
//! A limit is passed when both are past it. What is deliberately not told apart: changes that others make in the same writable
//! tree at the same time; old files that were changed count whole; a new directory that hides its contents counts as if all growth
//! were in it; and so does growth that no file explains while descriptors wait in Unix sockets that nobody receives, since an unlinked
//! file can be kept so. Not seen: unlinked files that are only mapped, on file systems without accounting (tmpfs); mounts below the root
//! of a writable tree; on btrfs the number of files, which it does not tell.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use super::{DiskResource, held};
use crate::processes;

/// Timestamps of files come from the clock of the last tick: 10 ms late at 100 Hz.
const TICK: Duration = Duration::from_millis(20);

/// How long a count that found nothing holds.
const COUNT_AGAIN: Duration = Duration::from_secs(1);
/// And in proportion to how long it took.
const COUNT_SHARE: u32 = 10;

/// A descriptor that is still on its way after this time is kept there.
const IN_TRANSIT: Duration = Duration::from_millis(50);

/// Directories open at once in a count. What lies deeper counts as hidden.
const MAX_DEPTH: usize = 128;

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Entries read between two looks at the clock.
const BATCH: u32 = 32;

#[derive(Debug)]
pub(super) struct Disk {
    bytes: Option<u64>,
    files: Option<u64>,
    roots: Vec<OwnedFd>,
    systems: Vec<FileSystem>,
    /// Devices of the sandbox's own file systems in memory: unlinked files there are none of a disk's.
    memory: Vec<u64>,
    since: Since,
    count: Option<Count>,
    /// Until when the last count holds.
    counted_until: Option<Instant>,
    /// Whether every Unix socket of the network namespace is the sandbox's.
    own_sockets: bool,
    /// Whether the last count found descriptors on their way, which may hide files.
    in_flight: bool,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// This much room is left at least.
    Within { bytes: u64, files: u64 },
    /// A count is under way.
    Counting,
    /// Past a limit.
    Passed { resource: DiskResource, used: u64 },
}

/// Space and files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    bytes: u64,
    files: u64,
}

/// A file system, and how full it was.
#[derive(Debug)]
struct FileSystem {
    root: OwnedFd,
    device: u64,
    free_bytes: u64,
    used_files: u64,
}

impl FileSystem {
    fn read(root: &OwnedFd) -> Option<(u64, u64)> {
        let found = rustix::fs::fstatvfs(root).ok()?;
        Some((
            found.f_bfree.saturating_mul(found.f_frsize),
            // XFS makes inodes as they are needed: only the difference says how many are in use. Both are 0 on btrfs.
            found.f_files.saturating_sub(found.f_ffree),
        ))
    }

    fn growth(&self) -> Amount {
        let Some((free_bytes, used_files)) = FileSystem::read(&self.root) else {
            return Amount::default();
        };
        Amount {
            bytes: self.free_bytes.saturating_sub(free_bytes),
            files: used_files.saturating_sub(self.used_files),
        }
    }
}

/// Seconds and nanoseconds of the clock that files are stamped with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Since(i64, i64);

impl Since {
    fn now() -> Since {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_sub(TICK);
        Since(
            i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            now.subsec_nanos().into(),
        )
    }

    #[allow(clippy::unnecessary_cast)] // The fields' types differ between architectures.
    fn has_seen(self, stat: &Stat) -> bool {
        Since(stat.st_ctime as i64, stat.st_ctime_nsec as i64) >= self
    }
}

impl Disk {
    pub fn new(
        bytes: Option<u64>,
        files: Option<u64>,
        roots: Vec<OwnedFd>,
        memory: &[OwnedFd],
        own_sockets: bool,
    ) -> Disk {
        Disk {
            bytes,
            files,
            roots,
            systems: Vec::new(),
            memory: memory.iter().filter_map(device).collect(),
            since: Since::default(),
            count: None,
            counted_until: None,
            own_sockets,
            in_flight: false,
        }
    }

    pub fn begin(&mut self) {
        self.since = Since::now();
        self.systems.clear();
        for root in &self.roots {
            let (Some(device), Some((free_bytes, used_files)), Ok(root)) =
                (device(root), FileSystem::read(root), root.try_clone())
            else {
                continue;
            };
            if self.systems.iter().all(|system| system.device != device) {
                self.systems.push(FileSystem {
                    root,
                    device,
                    free_bytes,
                    used_files,
                });
            }
        }
    }

    /// Looks, and counts on until `until` where that is needed.
    pub fn look(&mut self, until: Instant) -> Finding {
        let growth = self.growth();
        let over = self.over(growth);
        if over.is_none() {
            // What was counted so far is of no use: the tree may have removed it.
            self.count = None;
            self.in_flight = false;
            return self.within(growth);
        }
        // The quick way: bytes only.
        if let (Some((DiskResource::Space, _)), Some(limit)) = (over, self.bytes) {
            let written = written();
            if written > limit {
                return Finding::Passed {
                    resource: DiskResource::Space,
                    used: written.min(growth.bytes),
                };
            }
        }
        if self.count.is_none() {
            if self.counted_until.is_some_and(|until| Instant::now() < until) {
                return self.within(growth);
            }
            self.count = Some(Count::new(&self.roots, self.since));
        }
        let Some(count) = &mut self.count else {
            return Finding::Counting;
        };
        let Some(counted) = count.go_on(until) else {
            return Finding::Counting;
        };
        let hidden = count.hidden;
        let took = count.begun.elapsed();
        self.count = None;
        self.counted_until = Some(Instant::now() + COUNT_AGAIN.max(took * COUNT_SHARE));
        let (held_bytes, held_files) = held::unlinked_on_disk(&self.memory);
        let account = match hidden {
            true => growth,
            false => Amount {
                bytes: growth.bytes.min(counted.bytes + held_bytes),
                files: growth.files.min(counted.files + held_files),
            },
        };
        if let Some((resource, used)) = self.over(account) {
            return Finding::Passed { resource, used };
        }
        let before = std::mem::replace(&mut self.in_flight, held::in_flight(self.own_sockets));
        match (before, self.in_flight, over) {
            (true, true, Some((resource, used))) => Finding::Passed { resource, used },
            (false, true, _) => {
                // Programs that pass descriptors on have received them a moment later.
                self.counted_until = Some(Instant::now() + IN_TRANSIT.max(took));
                Finding::Within { bytes: 0, files: 0 }
            }
            _ => self.within(growth),
        }
    }

    fn growth(&self) -> Amount {
        self.systems.iter().fold(Amount::default(), |sum, system| {
            let growth = system.growth();
            Amount {
                bytes: sum.bytes + growth.bytes,
                files: sum.files + growth.files,
            }
        })
    }

    fn over(&self, amount: Amount) -> Option<(DiskResource, u64)> {
        let passed = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| used > limit);
        if passed(self.bytes, amount.bytes) {
            return Some((DiskResource::Space, amount.bytes));
        }
        passed(self.files, amount.files).then_some((DiskResource::Files, amount.files))
    }

    /// The room that is left; where others have used it up, all of it: the next count is on time.
    fn within(&self, growth: Amount) -> Finding {
        let room = |limit: Option<u64>, used: u64| match limit {
            Some(limit) if used <= limit => limit - used,
            _ => u64::MAX,
        };
        Finding::Within {
            bytes: room(self.bytes, growth.bytes),
            files: room(self.files, growth.files),
        }
    }
}

fn device(root: &OwnedFd) -> Option<u64> {
    rustix::fs::fstat(root).ok().map(|stat| stat.st_dev)
}

/// What the processes of the sandbox have written to disks, in bytes. Init's own figures hold those of everything it has
/// reaped.
fn written() -> u64 {
    let of = |pid: i32| {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        let value = |key: &str| {
            io.lines()
                .find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok())
        };
        Some(value("write_bytes:")?.saturating_sub(value("cancelled_write_bytes:")?))
    };
    processes::pids().filter_map(of).sum()
}

/// A count of files, in steps.
struct Count {
    since: Since,
    begun: Instant,
    roots: Vec<OwnedFd>,
    /// Device and inode of the roots: one that lies in another is counted once.
    known: HashSet<(u64, u64)>,
    /// From a root down.
    open: Vec<(Dir, u64)>,
    /// Files with several names that have been counted.
    linked: HashSet<(u64, u64)>,
    counted: Amount,
    /// Whether there is something new that could not be looked into.
    hidden: bool,
}

impl std::fmt::Debug for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Count")
            .field("counted", &self.counted)
            .finish_non_exhaustive()
    }
}

impl Count {
    fn new(roots: &[OwnedFd], since: Since) -> Count {
        let identity = |root: &OwnedFd| rustix::fs::fstat(root).ok().map(|stat| (stat.st_dev, stat.st_ino));
        let mut known = HashSet::new();
        let mut distinct = Vec::new();
        for root in roots {
            if let (Some(identity), Ok(root)) = (identity(root), root.try_clone())
                && known.insert(identity)
            {
                distinct.push(root);
            }
        }
        Count {
            since,
            begun: Instant::now(),
            roots: distinct,
            known,
            open: Vec::new(),
            linked: HashSet::new(),
            counted: Amount::default(),
            hidden: false,
        }
    }

    /// Counts until `until`; the sum when all is counted.
    fn go_on(&mut self, until: Instant) -> Option<Amount> {
        let mut entries = 0u32;
        loop {
            if self.open.is_empty() {
                let Some(root) = self.roots.pop() else {
                    return Some(self.counted);
                };
                self.root(&root);
            }
            self.entry();
            entries += 1;
            if entries.is_multiple_of(BATCH) && Instant::now() >= until {
                return None;
            }
        }
    }

    fn root(&mut self, root: &OwnedFd) {
        let Ok(stat) = rustix::fs::fstat(root) else { return };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return self.add(&stat);
        }
        // Anew, because the descriptor that is kept only names the directory (O_PATH).
        match rustix::fs::openat(root, c".", OPEN, Mode::empty()).and_then(Dir::new) {
            Ok(directory) => self.open.push((directory, stat.st_dev)),
            Err(_) => self.hidden = true,
        }
    }

    /// The next entry of the innermost directory.
    fn entry(&mut self) {
        let depth = self.open.len();
        let Some((directory, device)) = self.open.last_mut() else {
            return;
        };
        let Some(Ok(entry)) = directory.next() else {
            self.open.pop();
            return;
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            return;
        }
        let Ok(parent) = directory.fd() else { return };
        let Ok(stat) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return;
        };
        if stat.st_dev != *device {
            return;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return self.add(&stat);
        }
        let device = stat.st_dev;
        if self.known.contains(&(stat.st_dev, stat.st_ino)) {
            return;
        }
        let inner = match depth < MAX_DEPTH {
            true => rustix::fs::openat(parent, name, OPEN, Mode::empty())
                .and_then(Dir::new)
                .ok(),
            false => None,
        };
        self.add(&stat);
        match inner {
            Some(inner) => self.open.push((inner, device)),
            None => self.hidden |= self.since.has_seen(&stat),
        }
    }

    fn add(&mut self, stat: &Stat) {
        if !self.since.has_seen(stat) {
            return;
        }
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink > 1 && !directory && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.counted.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        self.counted.files += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::path::Path;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// As the view hands them over.
    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn fill(path: &Path, mib: usize) {
        let mut file = File::create(path).unwrap();
        for _ in 0..mib {
            file.write_all(&vec![b'x'; MIB as usize]).unwrap();
        }
        // Space that is only promised is no file's yet.
        file.sync_all().unwrap();
    }

    fn counted(roots: &[OwnedFd], since: Since) -> (Amount, bool) {
        let mut count = Count::new(roots, since);
        loop {
            // Steps of nothing: each takes up where the last one stopped.
            if let Some(amount) = count.go_on(Instant::now()) {
                return (amount, count.hidden);
            }
        }
    }

    #[test]
    fn only_what_changed_since_the_start_is_counted_and_each_file_once() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        for name in 0..50 {
            File::create(inner.join(format!("old{name}"))).unwrap();
        }
        fill(&inner.join("large"), 2);
        std::thread::sleep(TICK * 2);
        let since = Since::now();
        std::thread::sleep(TICK * 2);
        let nothing = counted(&[open(directory.path())], since);
        assert_eq!(nothing, (Amount::default(), false));

        fill(&directory.path().join("new"), 3);
        fs::hard_link(directory.path().join("new"), directory.path().join("again")).unwrap();
        // The same tree twice, and one root within another.
        let roots = [open(directory.path()), open(directory.path()), open(&inner)];
        let (amount, hidden) = counted(&roots, since);
        assert_eq!((amount.files, hidden), (1, false));
        assert!((3 * MIB..4 * MIB).contains(&amount.bytes), "{amount:?}");
    }

    #[test]
    fn what_cannot_be_looked_into_is_hidden_when_it_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let since = Since::now();
        let mut deep = directory.path().to_owned();
        for _ in 0..MAX_DEPTH + 2 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        assert!(counted(&[open(directory.path())], since).1);
        let later = Since(i64::MAX, 0);
        assert!(!counted(&[open(directory.path())], later).1);
    }

    #[test]
    fn growth_that_the_tree_accounts_for_passes_its_limit() {
        let directory = tempfile::tempdir().unwrap();
        let look = |bytes, files| {
            let mut disk = Disk::new(bytes, files, vec![open(directory.path())], &[], false);
            disk.begin();
            // As if the file system had been emptier: growth is there, and the question is whose it is.
            for system in &mut disk.systems {
                system.free_bytes += 1 << 40;
                system.used_files = 0;
            }
            loop {
                match disk.look(Instant::now()) {
                    Finding::Counting => {}
                    found => return found,
                }
            }
        };
        // Others' growth.
        assert!(matches!(look(Some(1 << 39), None), Finding::Within { .. }));
        let mut disk = Disk::new(Some(4 * MIB), None, vec![open(directory.path())], &[], false);
        disk.begin();
        disk.systems.iter_mut().for_each(|system| system.free_bytes += 1 << 40);
        fill(&directory.path().join("new"), 6);
        let found = loop {
            match disk.look(Instant::now()) {
                Finding::Counting => {}
                found => break found,
            }
        };
        assert!(
            matches!(found, Finding::Passed { resource: DiskResource::Space, used } if used >= 6 * MIB),
            "{found:?}"
        );
    }

    #[test]
    fn growth_that_only_files_in_flight_can_explain_passes_its_limit() {
        use std::os::fd::AsFd;
        let directory = tempfile::tempdir().unwrap();
        let mut disk = Disk::new(Some(1 << 39), None, vec![open(directory.path())], &[], false);
        disk.begin();
        disk.systems.iter_mut().for_each(|system| system.free_bytes += 1 << 40);
        let (near, _far) = crate::wire::pair().unwrap();
        let file = tempfile::tempfile_in(directory.path()).unwrap();
        crate::wire::send(near.as_fd(), &0u8, &[file.as_fd()]).unwrap();
        drop(file);
        let give_up = Instant::now() + Duration::from_secs(20);
        let found = loop {
            match disk.look(Instant::now()) {
                found @ Finding::Passed { .. } => break found,
                found => assert!(Instant::now() < give_up, "{found:?}"),
            }
        };
        assert!(
            matches!(found, Finding::Passed { resource: DiskResource::Space, used } if used > 1 << 39),
            "{found:?}"
        );
    }

    #[test]
    fn what_is_written_is_accounted() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let before = written();
        fill(&directory.path().join("file"), 8);
        let after = written();
        // Other tests of this process write too; none writes less than nothing.
        assert!(after >= before + 8 * MIB, "{before} {after}");
    }
}
