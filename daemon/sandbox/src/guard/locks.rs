//! One change at a time in each tree, across sandboxes: several runs may share a workspace, and what one init looks up must still hold when it
//! makes its change.
//!
//! A lock is a range of bytes in one file (open file description locks of fcntl(2)), which the launcher opens in the scratch root and no view
//! shows. A directory's range lies within its parent's, by the hashes of the names on the way from the root of its file system; so a workspace and
//! a subdirectory of it, or a repository and its linked worktree's share of it, exclude each other, and strangers do not, but for
//! hashes that happen to be the same. Bind mounts make no difference.
//!
//! A lock is held from the look-up of a call's path to the change, by one thread that waits for nobody meanwhile, and is the kernel's: it ends
//! with its holder. Not shared: daemons with different scratch roots, which daemons of different users have, know nothing of each other.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::io::Errno;

use super::place::Tree;

/// Bits of each level of a path in the place of its range; what lies deeper shares the last one's.
const LEVELS: [u32; 8] = [6, 6, 8, 8, 8, 8, 8, 8];

/// All of them: well within the 63 bits of an offset.
const BITS: u32 = 60;

/// How long a call waits for others' changes. One takes microseconds; whoever takes so long was stopped from outside.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks whether a lock is free, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_micros(10), Duration::from_micros(500)];

/// Bytes of the file of locks: the first one, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    start: i64,
    length: i64,
}

/// The locks of a sandbox.
#[derive(Debug)]
pub(super) struct Locks {
    /// `None` in tests that need none.
    file: Option<OwnedFd>,
    /// Per tree.
    ranges: Vec<Vec<Range>>,
    /// The tree whose locks are held.
    held: Cell<Option<usize>>,
    /// The tree of the last change: the next one is likely there, too.
    last: Cell<usize>,
}

impl Locks {
    pub fn new(file: Option<OwnedFd>, trees: &[Tree]) -> Locks {
        Locks {
            file,
            ranges: trees.iter().map(ranges).collect(),
            held: Cell::new(None),
            last: Cell::new(0),
        }
    }

    /// Takes the lock that a call most likely needs.
    pub fn begin(&self) -> Result<(), Errno> {
        self.take(self.last.get())
    }

    /// Whether a tree's lock is held.
    pub fn holds(&self, tree: usize) -> bool {
        self.held.get() == Some(tree)
    }

    /// Takes a tree's lock in the place of another's. BUSY when it was not to be had in a long time.
    pub fn take(&self, tree: usize) -> Result<(), Errno> {
        if self.holds(tree) {
            return Ok(());
        }
        self.release();
        // In rising order, so that no two wait for each other; see the test.
        for range in self.ranges.get(tree).into_iter().flatten() {
            if let Err(error) = self.wait_for(*range) {
                self.unlock();
                return Err(error);
            }
        }
        self.held.set(Some(tree));
        self.last.set(tree);
        Ok(())
    }

    /// Lets go.
    pub fn release(&self) {
        if self.held.take().is_some() {
            self.unlock();
        }
    }

    fn unlock(&self) {
        // Length 0: to the end of the file.
        let _ = self.set(libc::F_UNLCK, Range { start: 0, length: 0 });
    }

    fn wait_for(&self, range: Range) -> Result<(), Errno> {
        let mut pause = PAUSES[0];
        let mut began = None;
        loop {
            match self.set(libc::F_WRLCK, range) {
                Err(Errno::AGAIN | Errno::ACCESS) => {}
                result => return result,
            }
            // Not F_OFD_SETLKW: it has no end of its own where the holder was stopped.
            if began.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return Err(Errno::BUSY);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    fn set(&self, kind: i32, range: Range) -> Result<(), Errno> {
        let Some(file) = &self.file else { return Ok(()) };
        let lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: range.start,
            l_len: range.length,
            l_pid: 0,
        };
        loop {
            match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(Errno::from_raw_os_error(error as i32)),
            }
        }
    }
}

/// The ranges of a tree and of the file systems mounted in it, none within another; everything when they are not known.
fn ranges(tree: &Tree) -> Vec<Range> {
    let all: BTreeSet<Range> = match tree.sources.as_slice() {
        [] => [range(std::iter::empty())].into(),
        sources => sources
            .iter()
            .map(|(device, path)| range(std::iter::once(device.as_os_str()).chain(names(path))))
            .collect(),
    };
    let mut ranges: Vec<Range> = Vec::new();
    // What begins at the same place comes with the shortest first.
    let mut sorted: Vec<Range> = all.into_iter().collect();
    sorted.sort_by_key(|range| (range.start, std::cmp::Reverse(range.length)));
    for range in sorted {
        let within = ranges.last().is_some_and(|last| range.start < last.start + last.length);
        if !within {
            ranges.push(range);
        }
    }
    ranges
}

fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.iter().filter(|name| *name != "/")
}

fn range<'a>(names: impl Iterator<Item = &'a OsStr>) -> Range {
    let mut start = 0;
    let mut left = BITS;
    for (name, bits) in names.zip(LEVELS) {
        left -= bits;
        start |= ((hash(name.as_bytes()) & ((1 << bits) - 1)) as i64) << left;
    }
    Range {
        start,
        length: 1 << left,
    }
}

/// FNV-1a, folded: the same in every version of this program.
fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn tree(sources: &[(&str, &str)]) -> Tree {
        let root = std::fs::File::open("/").unwrap().into();
        let mut tree = Tree::new(PathBuf::from("/w"), root);
        tree.sources = sources
            .iter()
            .map(|(device, path)| (device.into(), path.into()))
            .collect();
        tree
    }

    fn locks(file: &Path, sources: &[(&str, &str)]) -> Locks {
        let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
        Locks::new(Some(file.into()), &[tree(sources)])
    }

    #[test]
    fn a_directory_excludes_what_lies_in_it_and_nobody_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let deep = "/home/ada/a/b/c/d/e/f/g/h";
        let holder = locks(file.path(), &[("8:1", "/home/ada/project"), ("8:2", "/")]);
        holder.take(0).unwrap();
        let is_free = |device: &str, path: &str| {
            let other = locks(file.path(), &[(device, path)]);
            other.set(libc::F_WRLCK, other.ranges[0][0]).is_ok()
        };
        assert!(!is_free("8:1", "/home/ada/project") && !is_free("8:1", "/home/ada/project/sub/dir"));
        assert!(!is_free("8:1", "/home") && !is_free("8:1", "/") && !is_free("8:2", "/x"));
        assert!(is_free("8:1", "/home/ada/other") && is_free("8:1", deep) && is_free("8:3", "/home/ada/project"));
        holder.release();
        assert!(is_free("8:1", "/home/ada/project") && is_free("8:2", "/x"));
        // What lies deeper than there are levels shares its place.
        let holder = locks(file.path(), &[("8:1", deep)]);
        holder.take(0).unwrap();
        assert!(!is_free("8:1", &format!("{deep}/i")) && !is_free("8:1", "/home/ada"));
        // It ends with its holder.
        drop(holder);
        assert!(is_free("8:1", deep));
    }

    #[test]
    fn ranges_are_taken_in_order_and_none_within_another() {
        let tree = tree(&[
            ("8:1", "/a/b"),
            ("8:1", "/a"),
            ("8:1", "/c"),
            ("8:1", "/a/b/c"),
            ("8:2", "/"),
        ]);
        let ranges = ranges(&tree);
        assert_eq!(ranges.len(), 3);
        assert!(
            ranges
                .windows(2)
                .all(|pair| pair[0].start + pair[0].length <= pair[1].start)
        );
    }

    #[test]
    fn threads_that_take_several_each_all_come_to_an_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sets: [&[(&str, &str)]; 4] = [
            &[("8:1", "/a"), ("8:2", "/x")],
            &[("8:2", "/x/y"), ("8:1", "/a/b")],
            &[("8:2", "/"), ("8:1", "/q")],
            &[("8:1", "/")],
        ];
        let busy = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for set in sets {
                let (busy, file) = (&busy, file.path());
                scope.spawn(move || {
                    let locks = locks(file, set);
                    for _ in 0..300 {
                        locks.take(0).unwrap();
                        // The last set excludes the first two.
                        busy.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        locks.release();
                    }
                });
            }
        });
        assert_eq!(busy.into_inner(), 1200);
    }
}
