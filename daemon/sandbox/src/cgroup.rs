//! Resource limits and usage of a sandbox's whole tree, by control groups.
//!
//! [`Backend::detect`] finds by trying what this process may use: the unified hierarchy (v2), or the separate v1
//! hierarchies of memory, pids, cpu and cpuacct, each of which may be missing. It makes one directory for this daemon,
//! `<base>/fumehood-<instance>`, in which [`Backend::create`] makes one [`Leaf`] per sandbox. The base is the process's own
//! cgroup wherever that works, so that limits set on the daemon hold for what it runs.
//!
//! The sandbox sees no cgroup file system, so it cannot leave its leaf or change it. On v2 a process is best born in its
//! leaf (`CLONE_INTO_CGROUP` with [`Leaf::dir_fd`]): writing `cgroup.procs` waits for an RCU grace period, 10 to 16 ms on
//! an idle machine, and on v1 once for each hierarchy ([`Leaf::attach`]).
//!
//! cgroups-rs makes the directories and writes the limits. Reading usage, finding mounts, enabling controllers, killing
//! and removing are done here, because there the crate ignores errors, returns zeros for v2 or assumes `/sys/fs/cgroup`.
//!
//! `memory.oom.group` stays 0: the kernel ends the largest process, not the tree, so that a shell lives to report the
//! death of its compiler. [`Usage::oom_kills`](crate::event::Usage::oom_kills) counts those.
//!
//! Deliberately absent: freezing (pid 1 of the namespace is ended instead), IO limits, systemd's D-Bus interface, and any
//! work in `Drop`: [`Leaf::remove`] and [`Backend::remove_instance`] are explicit and can fail.

mod detect;
mod leaf;
mod limits;
mod proc;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::spec::{Limits, State};

pub use leaf::{CpuTime, Gauges, Leaf};

/// What every directory of ours begins with.
pub(crate) const PREFIX: &str = "fumehood-";

/// Which interface of the kernel is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller, or a few co-mounted.
    V1,
    /// The unified hierarchy.
    V2,
}

/// A controller that limits or accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Memory,
    Pids,
    Cpu,
    /// v1 only: in v2 every cgroup has `cpu.stat`.
    CpuAccounting,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Cpu => "cpu",
            Controller::CpuAccounting => "cpuacct",
        }
    }
}

/// Which limits hold. A limit that the spec leaves unlimited holds where its controller is present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// Memory of the tree.
    pub memory: bool,
    /// No swap beyond it. On v1 this needs a kernel that accounts swap (`memory.memsw.*`).
    pub swap: bool,
    /// Number of processes and threads.
    pub processes: bool,
    /// CPU bandwidth.
    pub cpu: bool,
}

/// What [`Backend::detect`] found, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// The interface in use; `None` when there are no cgroups for us.
    pub version: Option<Version>,
    /// Which limits can be set: each was set on a cgroup and read back.
    pub in_force: InForce,
    /// What is missing and why, one sentence each.
    pub missing: Vec<String>,
    /// Commands or settings that would mend it.
    pub remedy: Vec<String>,
}

impl Detail {
    /// As the report of the resources protection states it (cgroups only; rlimits are on top).
    pub fn state(&self) -> State {
        let missing = self.missing.join("; ");
        let version = match self.version {
            None => return State::Off(missing),
            Some(Version::V1) => "cgroup v1",
            Some(Version::V2) => "cgroup v2",
        };
        let InForce {
            memory,
            swap: _,
            processes,
            cpu,
        } = self.in_force;
        if memory && processes && cpu {
            // Missing swap accounting alone does not loosen the bound on a machine without swap; it is named all the same.
            let note = if missing.is_empty() {
                String::new()
            } else {
                format!(" ({missing})")
            };
            return State::Active(format!("{version}: memory, processes, cpu{note}"));
        }
        State::Degraded(format!("{version}: {missing}"))
    }
}

/// An operation on a cgroup that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {stage} {}: {}", path.display(), io::Error::from_raw_os_error(*errno))]
pub struct CgroupError {
    /// What was being done: `write`, `read back`, `remove`.
    pub stage: &'static str,
    /// The kernel's error number.
    pub errno: i32,
    /// The file or directory.
    pub path: PathBuf,
}

impl CgroupError {
    fn new(stage: &'static str, errno: i32, path: impl Into<PathBuf>) -> Self {
        Self {
            stage,
            errno,
            path: path.into(),
        }
    }

    fn io(stage: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(stage, error.raw_os_error().unwrap_or(libc::EIO), path)
    }
}

/// Where this daemon makes its cgroups.
#[derive(Clone, Debug)]
pub struct Backend {
    version: Option<Version>,
    /// For each controller the directory of this instance; on v2 the same for all.
    places: Vec<(Controller, PathBuf)>,
}

impl Backend {
    /// Finds what this process can use, by making a cgroup in the instance's directory, setting every limit and reading
    /// them back. Never fails: what cannot be used is said in the [`Detail`].
    ///
    /// `instance` names the daemon, usually [`instance_name`]; letters, digits and `-`. `own` are the daemon's
    /// processes: where v2 demands it they are moved into the cgroup `fumehood-daemon` beside the instance's.
    pub fn detect(instance: &str, own: &[libc::pid_t]) -> (Backend, Detail) {
        detect::detect(instance, own)
    }

    /// Whether [`create`](Self::create) can succeed.
    pub fn is_usable(&self) -> bool {
        self.version.is_some()
    }

    /// Makes the cgroup of one sandbox and sets its limits. After an error nothing is left of it.
    ///
    /// `name` is a file name: unique among the living sandboxes of the instance. Limits of open files and file sizes are
    /// none of a cgroup's and are passed over.
    pub fn create(&self, name: &str, limits: &Limits) -> Result<Leaf, CgroupError> {
        let Some(version) = self.version else {
            return Err(CgroupError::new("find a usable cgroup for", libc::EOPNOTSUPP, name));
        };
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0', '\n']) {
            return Err(CgroupError::new("use the cgroup name", libc::EINVAL, name));
        }
        Leaf::create(version, &self.places, name, limits)
    }

    /// Removes this instance's directories and every cgroup in them, after ending the processes there.
    pub fn remove_instance(&self) -> Result<(), CgroupError> {
        let mut result = Ok(());
        for directory in self.directories() {
            if directory.exists() {
                result = result.and(clear(directory));
            }
        }
        result
    }

    /// Removes what daemons left behind that are dead: directories beside our own that have our form of name and our
    /// owner, and whose owner process is gone, or its pid namespace. Returns their paths, and what could not be removed.
    pub fn sweep(&self) -> (Vec<PathBuf>, Vec<CgroupError>) {
        let (mut removed, mut failed) = (Vec::new(), Vec::new());
        for directory in self.directories() {
            let Some(base) = directory.parent() else { continue };
            for stale in stale_cgroups(base) {
                match clear(&stale) {
                    Ok(()) => removed.push(stale),
                    Err(error) => failed.push(error),
                }
            }
        }
        (removed, failed)
    }

    /// Each directory of the instance once: on v2 all controllers share one, on v1 co-mounted ones do.
    fn directories(&self) -> Vec<&Path> {
        let mut directories: Vec<&Path> = Vec::new();
        for (_, directory) in &self.places {
            if !directories.contains(&directory.as_path()) {
                directories.push(directory);
            }
        }
        directories
    }
}

/// Name of the instance that this process owns: `<pid>-<start time>-<pid namespace>`. The start time (clock ticks after
/// boot) tells it from a later process with the same number; the namespace's inode from a process of a container that
/// shares the hierarchy and whose liveness cannot be judged from here.
pub fn instance_name() -> io::Result<String> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let start = proc::start_time(&stat).ok_or_else(|| io::Error::other("/proc/self/stat has no start time"))?;
    Ok(format!("{}-{start}-{}", std::process::id(), pid_namespace()?))
}

fn pid_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// Inode of the initial pid namespace, which sees every process: `PROC_PID_INIT_INO` of linux/proc_ns.h.
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// The pid namespaces that hold processes. `None` where that cannot be known: below the initial namespace, where processes
/// elsewhere are not seen, and where one may not be looked at.
fn populated_pid_namespaces(own: u64) -> Option<HashSet<u64>> {
    if own != INITIAL_PID_NAMESPACE {
        return None;
    }
    let mut found = HashSet::new();
    for entry in fs::read_dir("/proc").ok()? {
        let entry = entry.ok()?;
        if entry
            .file_name()
            .to_str()
            .is_none_or(|name| name.parse::<u32>().is_err())
        {
            continue;
        }
        match fs::metadata(entry.path().join("ns/pid")) {
            Ok(metadata) => _ = found.insert(metadata.ino()),
            // It has ended meanwhile, or is a zombie.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(_) => return None,
        }
    }
    Some(found)
}

/// The instance directories below `base` whose owners are dead for sure: processes of our pid namespace that are gone.
pub(crate) fn stale_instances(base: &Path) -> Vec<PathBuf> {
    stale(base, |_, _| false)
}

/// As [`stale_instances`], and those of pid namespaces in which no process is left. For directories of this kernel only, which cgroups
/// are: elsewhere another machine may count its namespaces alike.
fn stale_cgroups(base: &Path) -> Vec<PathBuf> {
    // Looked at once, when a name needs it, and after the names were read: a daemon is older than its directory.
    let populated = OnceCell::new();
    stale(base, |own, home| {
        let populated = populated.get_or_init(|| populated_pid_namespaces(own));
        populated.as_ref().is_some_and(|populated| !populated.contains(&home))
    })
}

/// `is_gone` says whether another namespace than our own, given first, is.
fn stale(base: &Path, is_gone: impl Fn(u64, u64) -> bool) -> Vec<PathBuf> {
    let (Ok(entries), Ok(namespace)) = (fs::read_dir(base), pid_namespace()) else {
        return Vec::new();
    };
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let stale = |path: &PathBuf| {
        let owner = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        let (pid, rest) = owner.split_once('-')?;
        let (start, home) = rest.split_once('-')?;
        let (pid, start): (u32, u64) = (pid.parse().ok()?, start.parse().ok()?);
        let metadata = fs::symlink_metadata(path).ok()?;
        let home: u64 = home.parse().ok()?;
        if !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw() {
            return None;
        }
        if home != namespace {
            return is_gone(namespace, home).then_some(());
        }
        let living = match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => proc::start_time(&stat) == Some(start),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        (!living).then_some(())
    };
    paths.into_iter().filter(|path| stale(path).is_some()).collect()
}

/// Ends the processes of a cgroup and of those below it, and removes them all.
fn clear(directory: &Path) -> Result<(), CgroupError> {
    let entries = fs::read_dir(directory).map_err(CgroupError::io("list", directory))?;
    for entry in entries {
        let entry = entry.map_err(CgroupError::io("list", directory))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            clear(&entry.path())?;
        }
    }
    leaf::end_members(&[directory])?;
    leaf::remove_directory(directory)
}
