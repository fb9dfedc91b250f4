//! Limits that no part of the kernel holds for us: init looks every so often at what the tree takes.
//!
//! - Memory, where no cgroup limits it (`memory.rs`).
//! - Disk space and files, everywhere (`disk.rs`): quotas by project need an administrator and a file system made for them.
//!
//! How often: as the room that is left demands. Nothing writes faster than [`BYTES_PER_SECOND`] for long, so a tree that is far
//! from its limits is left alone for up to a second, and one that is close is looked at every few milliseconds. What is written
//! between two looks is by how much a limit can be passed.
//!
//! What it costs: looks at most a sixth of one processor, since after each comes a pause of five times its length; a count of files
//! the whole of one while it lasts, and then there is none for ten times as long. It is init's time, not the command's
//! (`init.rs::cpu_time`).

mod disk;
mod held;
mod memory;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

use crate::event::{DiskResource, Event};
use crate::spec::Limits;
use disk::Disk;
use memory::Memory;

/// The fastest growth that is reckoned with: two threads that fault pages in, or a fast NVMe disk, do half of it.
const BYTES_PER_SECOND: u64 = 4 << 30;
/// The fastest making of files that is reckoned with: empty ones in a tmpfs.
const FILES_PER_SECOND: u64 = 400_000;

/// Closer looks would cost more than they tell.
const SHORTEST: Duration = Duration::from_millis(5);
/// Longest time between two looks at disks, which cost a few microseconds.
const LONGEST: Duration = Duration::from_secs(1);
/// Longest time between two looks at memory: the figures are less certain than those of disks.
const LONGEST_MEMORY: Duration = Duration::from_millis(250);

/// After a look comes a pause of this many times its length.
const SHARE: u32 = 5;

/// How long one step of a count may keep init from answering waiting calls.
const STEP: Duration = Duration::from_millis(1);

/// What looks after a tree.
#[derive(Debug)]
pub(crate) struct Watch {
    memory: Option<Memory>,
    disk: Option<Disk>,
    /// When to look next; `None` before the command.
    due: Option<Instant>,
}

/// Where a tree can take memory and disk space, beside its own address spaces.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// The roots of file systems in memory that are the sandbox's own.
    pub memory: Vec<OwnedFd>,
    /// The roots of writable trees on disk.
    pub disk: Vec<OwnedFd>,
    /// Whether the network namespace, and with it every Unix socket that the kernel lists there, is the sandbox's own.
    pub own_sockets: bool,
}

impl Watch {
    /// `memory_bytes` is the limit that no cgroup holds.
    pub fn new(memory_bytes: Option<u64>, limits: &Limits, places: Places) -> Watch {
        let Places {
            memory,
            disk,
            own_sockets,
        } = places;
        Watch {
            disk: (limits.disk_bytes.is_some() || limits.files.is_some())
                .then(|| Disk::new(limits.disk_bytes, limits.files, disk, &memory, own_sockets)),
            memory: memory_bytes.map(|limit| Memory::new(limit, memory, own_sockets)),
            due: None,
        }
    }

    /// Whether there is anything to look after.
    pub fn is_needed(memory_bytes: Option<u64>, limits: &Limits) -> bool {
        memory_bytes.is_some() || limits.disk_bytes.is_some() || limits.files.is_some()
    }

    /// The command is about to start: growth counts from now.
    pub fn begin(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.begin();
        }
        if self.disk.is_some() || self.memory.is_some() {
            self.due = Some(Instant::now());
        }
    }

    /// When it looks next.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// How long init may sleep.
    pub fn timeout(&self) -> PollTimeout {
        let Some(due) = self.due else {
            return PollTimeout::NONE;
        };
        until(due)
    }

    /// Looks, if it is time. `Some` says which limit was passed, every time it is seen to be: the tree is to be killed.
    pub fn look(&mut self) -> Option<Event> {
        let begun = Instant::now();
        if self.due.is_none_or(|due| begun < due) {
            return None;
        }
        let mut next = LONGEST;
        let mut counting = false;
        let mut passed = None;
        if let Some(memory) = &mut self.memory {
            let used = memory.used();
            if used > memory.limit {
                passed = Some(Event::MemoryExceeded { bytes: used });
            }
            next = next
                .min(LONGEST_MEMORY)
                .min(time_for(memory.limit.saturating_sub(used), BYTES_PER_SECOND));
        }
        if let Some(disk) = &mut self.disk {
            match disk.look(begun + STEP) {
                disk::Finding::Within { bytes, files } => {
                    next = next
                        .min(time_for(bytes, BYTES_PER_SECOND))
                        .min(time_for(files, FILES_PER_SECOND));
                }
                disk::Finding::Counting => counting = true,
                disk::Finding::Passed { resource, used } => {
                    passed.get_or_insert(Event::DiskExceeded { resource, used });
                    next = SHORTEST;
                }
            }
        }
        let pause = match counting {
            // In steps, without a pause: what is written meanwhile goes beyond the limit. How often it counts is bounded there.
            true => Duration::ZERO,
            false => pause(next, begun.elapsed()),
        };
        self.due = Some(Instant::now() + pause);
        passed
    }
}

/// How long poll(2) may sleep.
pub(crate) fn until(due: Instant) -> PollTimeout {
    match due.saturating_duration_since(Instant::now()) {
        Duration::ZERO => PollTimeout::ZERO,
        // poll(2) counts in milliseconds; rounded up, so that it does not wake up early to find nothing due.
        left => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
    }
}

/// The time to the next look, `wanted` for the room that is left, after one that took `took`.
fn pause(wanted: Duration, took: Duration) -> Duration {
    wanted.max(SHORTEST).max(took * SHARE)
}

/// How long it takes at least to use up `room`.
fn time_for(room: u64, per_second: u64) -> Duration {
    Duration::from_millis(u64::try_from(u128::from(room) * 1000 / u128::from(per_second)).unwrap_or(u64::MAX))
}

/// Tests that measure how much shared memory there is run one at a time: each makes some.
#[cfg(test)]
static MEASURING: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_looks_follows_the_room_that_is_left() {
        assert_eq!(time_for(4 << 30, BYTES_PER_SECOND), Duration::from_secs(1));
        assert_eq!(time_for(0, BYTES_PER_SECOND), Duration::ZERO);
        assert_eq!(time_for(40_000, FILES_PER_SECOND), Duration::from_millis(100));
        assert!(time_for(u64::MAX, 1) > Duration::from_secs(1));
    }

    #[test]
    fn however_little_room_is_left_init_pauses_between_looks() {
        // Less than a millisecond's worth: others may have used it up while the command sleeps.
        let wanted = time_for(FILES_PER_SECOND / 2000, FILES_PER_SECOND);
        assert_eq!(pause(wanted, Duration::ZERO), SHORTEST);
        assert_eq!(pause(wanted, Duration::from_millis(20)), Duration::from_millis(100));
        assert_eq!(pause(LONGEST, Duration::from_millis(20)), LONGEST);
    }

    #[test]
    fn without_limits_init_sleeps() {
        let limits = Limits {
            memory_bytes: None,
            processes: None,
            cpu_millis: None,
            open_files_soft: 1,
            open_files_hard: 1,
            file_bytes: None,
            disk_bytes: None,
            files: None,
        };
        let mut watch = Watch::new(None, &limits, Places::default());
        watch.begin();
        assert_eq!((watch.timeout(), watch.look()), (PollTimeout::NONE, None));
        assert!(!Watch::is_needed(None, &limits));
    }
}
