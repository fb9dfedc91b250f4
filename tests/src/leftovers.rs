//! What is left of a daemon: looked for from outside, in /proc, in every cgroup hierarchy and on disk.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

/// A process that cannot be mistaken for a later one with its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
    /// Its parent's id.
    pub parent: i32,
    /// Its name.
    pub comm: String,
}

impl Process {
    /// Whether it is still there, and no zombie.
    #[must_use]
    pub fn lives(&self) -> bool {
        process(self.pid).is_some_and(|now| now.start == self.start)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let _ = nix::sys::signal::kill(Pid::from_raw(self.pid), signal);
    }
}

/// A process by its id; none when there is none or it is a zombie, of which nothing is left but its parent's duty.
#[must_use]
pub fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything.
    let (head, tail) = (stat.find('(')?, stat.rfind(')')?);
    let fields: Vec<&str> = stat[tail + 1..].split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    Some(Process {
        pid,
        start: fields.get(19)?.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        comm: stat[head + 1..tail].to_owned(),
    })
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Every living process that descends from `root`, and `root` itself first.
#[must_use]
pub fn descent(root: i32) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for found in pids().filter_map(process) {
        children.entry(found.parent).or_default().push(found);
    }
    let mut all: Vec<Process> = process(root).into_iter().collect();
    let mut next = 0;
    while next < all.len() {
        all.extend(children.remove(&all[next].pid).unwrap_or_default());
        next += 1;
    }
    all
}

/// Living processes whose command line, environment or mounts name `path`.
#[must_use]
pub fn holding(path: &Path) -> Vec<Process> {
    let needle = path.as_os_str().as_bytes();
    let names =
        |file: PathBuf| fs::read(file).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle));
    pids()
        .filter(|pid| *pid != std::process::id() as i32)
        .filter(|pid| {
            ["cmdline", "environ", "mountinfo"]
                .iter()
                .any(|file| names(format!("/proc/{pid}/{file}").into()))
        })
        .filter_map(process)
        .collect()
}

/// Lines of this process's mount table that name `path`.
#[must_use]
pub fn mounts_naming(path: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let needle = path.to_string_lossy();
    table
        .lines()
        .filter(|line| line.contains(&*needle))
        .map(str::to_owned)
        .collect()
}

/// Every cgroup of one of these names, in every hierarchy.
#[must_use]
pub fn cgroups_named(names: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if names.iter().any(|name| entry.file_name().as_os_str() == name.as_str()) {
                    found.push(entry.path());
                }
                open.push(entry.path());
            }
        }
    }
    found
}
