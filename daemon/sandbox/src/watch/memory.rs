//! What a tree takes of memory, where no cgroup counts it.
//!
//! The sum of three: what the processes have mapped, shared pages divided among those that share them; the sandbox's own file systems
//! in memory (`/dev/shm`, `/run`, a home's changes where they must be kept in memory); and memory files (memfd_create) that are open.
//! Pages of the last two that are also mapped appear in both, and cannot be told from shared memory that is only mapped: of the two
//! figures the larger counts. A tree that uses both kinds to the full may so have up to twice its limit of shared memory.
//!
//! Memory files that are open nowhere because they wait in a Unix socket are not found one by one. While descriptors wait so at two looks in
//! a row, shared memory in files is taken to be all that the machine's has grown by since the start (`Shmem` of proc_meminfo(5)), if
//! that is more.
//!
//! Not seen: System V segments and memory files that nobody has mapped or open; kernel memory (page tables, pipes, sockets).

use std::os::fd::OwnedFd;

use nix::unistd::SysconfVar;

use super::held;
use crate::processes::{self, Stat};

#[derive(Debug)]
pub(super) struct Memory {
    pub limit: u64,
    roots: Vec<OwnedFd>,
    /// Shared memory of the machine at the start.
    shared_before: u64,
    /// Whether every Unix socket of the network namespace is the sandbox's.
    own_sockets: bool,
    /// Whether the last look found descriptors on their way.
    in_flight: bool,
}

impl Memory {
    pub fn new(limit: u64, roots: Vec<OwnedFd>, own_sockets: bool) -> Memory {
        Memory {
            limit,
            roots,
            shared_before: machine_shared(),
            own_sockets,
            in_flight: false,
        }
    }

    /// What the tree uses, in bytes. Exact where that is above the limit, else a figure that is no smaller than the truth.
    pub fn used(&mut self) -> u64 {
        let page = processes::system_constant(SysconfVar::PAGE_SIZE);
        // rss, in pages, is field 24.
        let resident = |stat: &Stat| {
            stat.fields
                .get(21)
                .and_then(|pages| pages.parse::<u64>().ok())
                .unwrap_or(0)
                * page
        };
        let shared = self.stored().max(self.kept_in_flight());
        // Cheap, and too much: pages that several processes share count for each, which for a thousand forks of one interpreter is a
        // thousand times what they use.
        let most = processes::all().map(|(_, stat)| resident(&stat)).sum::<u64>() + shared;
        if most <= self.limit {
            return most;
        }
        let mapped = processes::all()
            .map(|(pid, stat)| proportional(pid).unwrap_or((resident(&stat), 0)))
            .fold((0, 0), |sum, (all, of_it_shared)| (sum.0 + all, sum.1 + of_it_shared));
        total(mapped, shared)
    }

    /// Shared memory in files that can be found.
    fn stored(&self) -> u64 {
        self.file_systems() + held::memory_files()
    }

    /// Shared memory that can be hidden in sockets; 0 when nothing is, or not enough to matter.
    fn kept_in_flight(&mut self) -> u64 {
        let grown = machine_shared().saturating_sub(self.shared_before);
        let before = std::mem::replace(
            &mut self.in_flight,
            grown > self.limit && held::in_flight(self.own_sockets),
        );
        if before && self.in_flight { grown } else { 0 }
    }

    /// What is stored in the sandbox's own file systems in memory.
    fn file_systems(&self) -> u64 {
        let used = |root: &OwnedFd| {
            let found = rustix::fs::fstatvfs(root).ok()?;
            Some(
                found
                    .f_blocks
                    .saturating_sub(found.f_bfree)
                    .saturating_mul(found.f_frsize),
            )
        };
        self.roots.iter().filter_map(used).sum()
    }
}

/// Shared memory of the whole machine in bytes: tmpfs, memory files, System V segments.
fn machine_shared() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("Shmem:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) * 1024
}

/// `mapped` is all that is mapped, and what of it is shared memory; `stored` is shared memory in files.
fn total((mapped, of_it_shared): (u64, u64), stored: u64) -> u64 {
    mapped.saturating_sub(of_it_shared) + of_it_shared.max(stored)
}

/// Resident memory of a process in bytes, shared pages divided among those that share them, and how much of it is shared memory
/// (Linux 5.4; without that figure, nothing). `None` for a process that is gone.
fn proportional(pid: i32) -> Option<(u64, u64)> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let value = |key: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some((value("Pss:")?, value("Pss_Shmem:").unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_that_is_both_mapped_and_stored_counts_once() {
        assert_eq!(total((100, 0), 50), 150);
        assert_eq!(total((100, 40), 50), 110);
        assert_eq!(total((100, 60), 50), 100);
        assert_eq!(total((0, 0), 0), 0);
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        let (all, shared) = proportional(std::process::id() as i32).unwrap();
        assert!(all > 1 << 20 && shared < all, "{all} {shared}");
        assert_eq!(proportional(i32::MAX), None);
    }

    #[test]
    fn a_memory_file_counts_while_it_is_open() {
        use std::io::Write;
        let _alone = crate::watch::MEASURING
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Without what is mapped, by which any program on this machine grows and shrinks.
        let memory = Memory::new(0, Vec::new(), false);
        let before = memory.stored();
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = std::fs::File::from(file);
        for _ in 0..256 {
            file.write_all(&vec![1; 1 << 20]).unwrap();
        }
        assert!(memory.stored() > before + (200 << 20));
    }

    #[test]
    fn a_memory_file_counts_while_it_is_in_a_socket() {
        use std::io::Write;
        use std::os::fd::AsFd;
        let _alone = crate::watch::MEASURING
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let limit = 100 << 20;
        let mut memory = Memory::new(limit, Vec::new(), false);
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = std::fs::File::from(file);
        for _ in 0..256 {
            file.write_all(&vec![1; 1 << 20]).unwrap();
        }
        let (near, _far) = crate::wire::pair().unwrap();
        crate::wire::send(near.as_fd(), &0u8, &[file.as_fd()]).unwrap();
        drop(file);
        // The first look sees descriptors that may be received at once.
        memory.kept_in_flight();
        let kept = memory.kept_in_flight();
        assert!(kept > limit, "{kept}");
    }
}
