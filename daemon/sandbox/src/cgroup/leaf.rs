//! The cgroup of one sandbox: members, usage, end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{CgroupError, Controller, InForce, Version, limits, proc};
use crate::event::Usage;
use crate::spec::Limits;

/// How long ending the processes of a cgroup may take. SIGKILL takes microseconds per process; what is left after this
/// sits in the kernel (a dead network file system) and cannot be ended.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long removing an empty cgroup may take: the kernel answers `EBUSY` until the last exiting task has left.
const REMOVE_TIMEOUT: Duration = Duration::from_millis(500);
const FIRST_STEP: Duration = Duration::from_millis(1);
const LONGEST_STEP: Duration = Duration::from_millis(20);

/// CPU time of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In user mode, in microseconds.
    pub user_us: u64,
    /// In the kernel, in microseconds.
    pub system_us: u64,
}

impl CpuTime {
    /// Without `own_us` of init's own. How that divides is not known; what init does is nearly all in the kernel.
    pub fn without(self, own_us: u64) -> CpuTime {
        let rest = own_us.saturating_sub(self.system_us);
        CpuTime {
            user_us: self.user_us.saturating_sub(rest),
            system_us: self.system_us.saturating_sub(own_us),
        }
    }
}

/// What the processes of a cgroup consumed so far; `None` where the controller or the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupUsage {
    /// CPU time.
    pub cpu: Option<CpuTime>,
    /// Highest memory use in bytes, page cache included. v2: since Linux 5.19.
    pub memory_peak_bytes: Option<u64>,
    /// Processes that the out-of-memory killer ended. v1: since Linux 4.13.
    pub oom_kills: Option<u64>,
    /// How often `pids.max` made a fork fail.
    pub fork_failures: Option<u64>,
    /// How long the CPU limit held processes back, in microseconds.
    pub throttled_us: Option<u64>,
}

impl CgroupUsage {
    /// These figures where they are known, and otherwise those of the reaped processes.
    pub fn over(self, reaped: Usage) -> Usage {
        Usage {
            cpu_user_us: self.cpu.map_or(reaped.cpu_user_us, |cpu| cpu.user_us),
            cpu_system_us: self.cpu.map_or(reaped.cpu_system_us, |cpu| cpu.system_us),
            memory_peak_bytes: self.memory_peak_bytes.unwrap_or(reaped.memory_peak_bytes),
            oom_kills: self.oom_kills.unwrap_or(reaped.oom_kills),
            fork_failures: self.fork_failures.or(reaped.fork_failures),
            throttled_us: self.throttled_us.or(reaped.throttled_us),
            from_cgroup: self.cpu.is_some() && self.memory_peak_bytes.is_some(),
        }
    }
}

/// What a cgroup tells whoever holds its files.
#[derive(Debug, Default)]
pub struct Gauges {
    memory: Option<File>,
    kills: Option<File>,
}

impl Gauges {
    /// Memory in use, in bytes.
    pub fn memory_bytes(&self) -> Option<u64> {
        text(self.memory.as_ref()?)?.trim().parse().ok()
    }

    /// Processes that the out-of-memory killer ended so far; 0 where nobody counts.
    pub fn oom_kills(&self) -> u64 {
        let kills = || proc::flat_value(&text(self.kills.as_ref()?)?, "oom_kill");
        kills().unwrap_or(0)
    }

    /// The descriptors, to be kept open where others are closed.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.memory.iter().chain(&self.kills).map(AsFd::as_fd)
    }
}

/// A file of the kernel, which is shorter than this.
fn text(file: &File) -> Option<String> {
    let mut bytes = [0; 1024];
    let length = std::os::unix::fs::FileExt::read_at(file, &mut bytes, 0).ok()?;
    Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// The cgroup of one sandbox, one directory on v2, one per hierarchy on v1. Dropping it removes nothing.
#[derive(Debug)]
pub struct Leaf {
    version: Version,
    places: Vec<(Controller, PathBuf)>,
    in_force: InForce,
    directory: Option<File>,
}

impl Leaf {
    pub(super) fn create(
        version: Version,
        parents: &[(Controller, PathBuf)],
        name: &str,
        limits: &Limits,
    ) -> Result<Leaf, CgroupError> {
        let places: Vec<_> = parents
            .iter()
            .map(|(controller, parent)| (*controller, parent.join(name)))
            .collect();
        let mut leaf = Leaf {
            version,
            places,
            in_force: InForce::default(),
            directory: None,
        };
        // A directory that is there already has usage, limits and perhaps processes of somebody else.
        if let Some(taken) = leaf.directories().into_iter().find(|directory| directory.exists()) {
            return Err(CgroupError::new("create", libc::EEXIST, taken));
        }
        match leaf.set_up(limits) {
            Ok(()) => Ok(leaf),
            Err(error) => {
                // The first error is the one to report; what cannot be removed now is removed with the instance.
                let _ = leaf.remove();
                Err(error)
            }
        }
    }

    fn set_up(&mut self, limits: &Limits) -> Result<(), CgroupError> {
        for (controller, directory) in &self.places {
            limits::create(*controller, self.version, directory)?;
        }
        for (controller, directory) in &self.places {
            limits::apply(*controller, self.version, directory, limits, &mut self.in_force)?;
        }
        if let (Version::V2, Some((_, directory))) = (self.version, self.places.first()) {
            // Not O_PATH: clone3 wants a descriptor that was opened for reading.
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY)
                .open(directory);
            self.directory = Some(file.map_err(CgroupError::io("open", directory))?);
        }
        Ok(())
    }

    /// Which limits hold.
    pub fn in_force(&self) -> InForce {
        self.in_force
    }

    /// The directory for `CLONE_INTO_CGROUP` (`clone_args.cgroup`), on v2 only.
    pub fn dir_fd(&self) -> Option<BorrowedFd<'_>> {
        self.directory.as_ref().map(AsFd::as_fd)
    }

    /// Moves a process with all its threads here. Its children follow only if they are born later.
    pub fn attach(&self, pid: libc::pid_t) -> Result<(), CgroupError> {
        for directory in self.directories() {
            let file = directory.join("cgroup.procs");
            write_existing(&file, &pid.to_string()).map_err(CgroupError::io("move a process to", &file))?;
        }
        Ok(())
    }

    /// What was consumed so far; to be read before [`remove`](Self::remove).
    pub fn usage(&self) -> CgroupUsage {
        match self.version {
            Version::V1 => CgroupUsage {
                cpu: self.cpu_v1(),
                memory_peak_bytes: self.number(Controller::Memory, "memory.max_usage_in_bytes"),
                oom_kills: self
                    .text(Controller::Memory, "memory.oom_control")
                    .and_then(|text| proc::flat_value(&text, "oom_kill")),
                fork_failures: self.fork_failures(),
                throttled_us: self
                    .text(Controller::Cpu, "cpu.stat")
                    .and_then(|text| proc::flat_value(&text, "throttled_time"))
                    .map(|nanoseconds| nanoseconds / 1000),
            },
            Version::V2 => CgroupUsage {
                cpu: self.any("cpu.stat").and_then(|stat| {
                    let user_us = proc::flat_value(&stat, "user_usec")?;
                    Some(CpuTime {
                        user_us,
                        system_us: proc::flat_value(&stat, "system_usec")?,
                    })
                }),
                memory_peak_bytes: self.number(Controller::Memory, "memory.peak"),
                oom_kills: self
                    .text(Controller::Memory, "memory.events")
                    .and_then(|text| proc::flat_value(&text, "oom_kill")),
                fork_failures: self.fork_failures(),
                throttled_us: self
                    .text(Controller::Cpu, "cpu.stat")
                    .and_then(|text| proc::flat_value(&text, "throttled_usec")),
            },
        }
    }

    /// Files to be read again and again by a process that cannot see the cgroup: what its memory is now, and how many processes the
    /// out-of-memory killer has ended.
    pub fn gauges(&self) -> Gauges {
        let (memory, kills) = match self.version {
            Version::V1 => ("memory.usage_in_bytes", "memory.oom_control"),
            Version::V2 => ("memory.current", "memory.events"),
        };
        let place = self.places.iter().find(|(place, _)| *place == Controller::Memory);
        let open = |file: &str| File::open(place?.1.join(file)).ok();
        Gauges {
            memory: open(memory),
            kills: open(kills),
        }
    }

    /// `pids.events` has the same form in both versions.
    fn fork_failures(&self) -> Option<u64> {
        proc::flat_value(&self.text(Controller::Pids, "pids.events")?, "max")
    }

    /// The sum is exact (`cpuacct.usage`); its two parts are only sampled by the clock tick (`cpuacct.stat`), so they
    /// give the proportion, as the kernel itself does for getrusage(2).
    fn cpu_v1(&self) -> Option<CpuTime> {
        let total_us = self.number(Controller::CpuAccounting, "cpuacct.usage")? / 1000;
        let stat = self.text(Controller::CpuAccounting, "cpuacct.stat").unwrap_or_default();
        let user = proc::flat_value(&stat, "user").unwrap_or(0);
        let system = proc::flat_value(&stat, "system").unwrap_or(0);
        let ticks = u128::from(user) + u128::from(system);
        let system_us = (u128::from(total_us) * u128::from(system))
            .checked_div(ticks)
            .unwrap_or(0) as u64;
        Some(CpuTime {
            user_us: total_us - system_us,
            system_us,
        })
    }

    /// Ends every process here and waits until none is left, at most 2 s. `EBUSY` when some cannot be ended.
    pub fn kill(&self) -> Result<(), CgroupError> {
        end_members(&self.directories())
    }

    /// Whether no process is here. Zombies do not count. [`kill`](Self::kill) makes sure of it by itself.
    #[cfg(test)]
    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        for directory in self.directories() {
            if !is_empty(directory)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes the directories, retrying for 500 ms while the kernel says they are busy. The leaf must be empty. A
    /// directory that is gone already is no error; may be called again after one.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut result = Ok(());
        for directory in self.directories() {
            result = result.and(remove_directory(directory));
        }
        result
    }

    /// Each directory once: on v2 all controllers share one, on v1 co-mounted ones do.
    pub(super) fn directories(&self) -> Vec<&Path> {
        let mut directories: Vec<&Path> = Vec::with_capacity(self.places.len());
        for (_, directory) in &self.places {
            if !directories.contains(&directory.as_path()) {
                directories.push(directory);
            }
        }
        directories
    }

    fn text(&self, controller: Controller, file: &str) -> Option<String> {
        let (_, directory) = self.places.iter().find(|(place, _)| *place == controller)?;
        fs::read_to_string(directory.join(file)).ok()
    }

    fn number(&self, controller: Controller, file: &str) -> Option<u64> {
        self.text(controller, file)?.trim().parse().ok()
    }

    /// A file that every v2 cgroup has, whatever its controllers.
    fn any(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.places.first()?.1.join(file)).ok()
    }
}

/// Writes to a file of the kernel, which must exist.
pub(super) fn write_existing(file: &Path, text: &str) -> io::Result<()> {
    io::Write::write_all(&mut OpenOptions::new().write(true).open(file)?, text.as_bytes())
}

/// The processes of one cgroup, by their numbers in our pid namespace; 0 for those outside of it.
pub(super) fn members(directory: &Path) -> Result<Vec<libc::pid_t>, CgroupError> {
    let file = directory.join("cgroup.procs");
    let text = fs::read_to_string(&file).map_err(CgroupError::io("read", &file))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

#[cfg(test)]
fn is_empty(directory: &Path) -> Result<bool, CgroupError> {
    Ok(members(directory)?.is_empty())
}

/// Ends every process in these cgroups and waits until they are empty.
pub(super) fn end_members(directories: &[&Path]) -> Result<(), CgroupError> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    for directory in directories {
        // v2 since Linux 5.14: one write, and no fork can escape it.
        match write_existing(&directory.join("cgroup.kill"), "1") {
            Ok(()) => wait_unpopulated(directory, deadline)?,
            // v1, an older kernel, or a directory where it is not permitted: one by one.
            Err(_) => end_one_by_one(directory, deadline)?,
        }
    }
    Ok(())
}

/// v1 has no other way. A tree that forks faster than this loop is bounded by `pids.max`; pid 1 of its namespace, whose
/// death ends it at once, is normally gone before.
fn end_one_by_one(directory: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let mut step = FIRST_STEP;
    loop {
        let pids = members(directory)?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            if pid == std::process::id() as libc::pid_t {
                continue;
            }
            // 0 stands for a process outside of our pid namespace, which cannot be named.
            let Some(process) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
                continue;
            };
            // Between reading the list and opening the descriptor the number may have gone to a stranger; now that it
            // is pinned, the list says whether it is one of ours.
            if members(directory)?.contains(&pid) {
                // It may have died meanwhile; whether all are gone is what the next round looks at.
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        }
        if Instant::now() >= deadline {
            return Err(CgroupError::new("end all processes in", libc::EBUSY, directory));
        }
        thread::sleep(step);
        step = (step * 2).min(LONGEST_STEP);
    }
}

/// Waits for `populated 0` in `cgroup.events`, whose changes poll(2) reports as POLLPRI.
fn wait_unpopulated(directory: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let path = directory.join("cgroup.events");
    let mut file = File::open(&path).map_err(CgroupError::io("read", &path))?;
    loop {
        let mut text = String::new();
        io::Seek::rewind(&mut file)
            .and_then(|()| io::Read::read_to_string(&mut file, &mut text))
            .map_err(CgroupError::io("read", &path))?;
        if proc::flat_value(&text, "populated") == Some(0) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CgroupError::new("end all processes in", libc::EBUSY, directory));
        }
        let timeout = PollTimeout::try_from(left + FIRST_STEP).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(CgroupError::new("wait for", errno as i32, &path)),
        }
    }
}

/// Removes one empty cgroup.
pub(super) fn remove_directory(directory: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + REMOVE_TIMEOUT;
    let mut step = FIRST_STEP;
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() + step < deadline => {
                thread::sleep(step);
                step *= 2;
            }
            Err(error) => return Err(CgroupError::io("remove", directory)(error)),
        }
    }
}
