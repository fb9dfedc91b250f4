//! The processes of a sandbox, as `/proc` shows them to init.

use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

use nix::unistd::{Pid, SysconfVar};

use crate::event::{Leftover, SignalScope};
use crate::sys;

/// Left-over processes named in a report, at most.
const MAX_LEFTOVERS: usize = 64;

/// Rounds of one [`kill_below`], at most: whoever still forks after that is met again by the next.
const MAX_ROUNDS: usize = 256;

/// Rounds of sending a signal, which programs may handle and go on forking.
const MAX_SIGNAL_ROUNDS: usize = 8;

/// Whether the kernel lists the children of a process (CONFIG_PROC_CHILDREN, which distributions set). Without, all processes are looked
/// at for their parent.
static LISTS_CHILDREN: LazyLock<bool> = LazyLock::new(|| Path::new("/proc/thread-self/children").exists());

/// `/proc/PID/stat` of a process.
pub(crate) struct Stat {
    /// Its name.
    pub comm: Vec<u8>,
    /// From the third field on: the state.
    pub fields: Vec<String>,
}

impl Stat {
    /// A number among the fields, by its number in proc_pid_stat(5). 0 where there is none.
    pub fn number(&self, field: usize) -> u64 {
        let text = field.checked_sub(3).and_then(|index| self.fields.get(index));
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Its state, by its letter; dead where nothing can be read.
    pub fn state(&self) -> char {
        self.fields
            .first()
            .and_then(|state| state.chars().next())
            .unwrap_or('X')
    }

    /// Whether it has ended.
    pub fn is_dead(&self) -> bool {
        matches!(self.state(), 'Z' | 'X')
    }

    /// The pid of its parent; 0 where it has none in the sandbox.
    pub fn parent(&self) -> i32 {
        self.number(4) as i32
    }
}

/// The number of every process of the sandbox, in rising order.
pub(crate) fn pids() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
}

/// One process, unless it is gone.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // "pid (comm) state ...": the name may hold anything, the last parenthesis ends it.
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = String::from_utf8_lossy(stat.get(close + 1..)?).into_owned();
    Some(Stat {
        comm: stat.get(open + 1..close)?.to_vec(),
        fields: rest.split_ascii_whitespace().map(str::to_owned).collect(),
    })
}

/// Every process of the sandbox.
pub(crate) fn all() -> impl Iterator<Item = (i32, Stat)> {
    pids().filter_map(|pid| Some((pid, stat(pid)?)))
}

/// The children of a process, of all its threads, the dead but unreaped included.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    if !*LISTS_CHILDREN {
        return all()
            .filter(|(_, stat)| stat.parent() == pid)
            .map(|(child, _)| child)
            .collect();
    }
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(
            text.split_ascii_whitespace()
                .filter_map(|child| child.parse::<i32>().ok()),
        );
    }
    found
}

/// Everything that descends from a process, itself left out. What forks meanwhile may be missed.
pub(crate) fn below(root: i32) -> Vec<i32> {
    let mut found = children(root);
    let mut seen: HashSet<i32> = found.iter().copied().collect();
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        // Whose parent has just ended may be met twice: below it, and below whoever took it in.
        found.extend(children(*pid).into_iter().filter(|child| seen.insert(*child)));
        next += 1;
    }
    found
}

/// Kills everything that descends from a process but what `spared` says among its own children, and what is forked meanwhile. Whether there
/// was anything, the dead but unreaped counted.
///
/// From the top down: with a signal pending that kills it a process forks no more, so a list of its children that is read after that is the
/// last one; and what loses its parent becomes a child of `root`, whose children are listed again. A number is used at once after it was
/// read, and all others would have to be given out in between for it to mean another process.
pub(crate) fn kill_below(root: i32, spared: impl Fn(i32) -> bool) -> bool {
    let mut killed = HashSet::new();
    for _ in 0..MAX_ROUNDS {
        let mut work: Vec<i32> = children(root).into_iter().filter(|pid| !spared(*pid)).collect();
        let mut is_news = false;
        while let Some(pid) = work.pop() {
            sys::kill(pid, libc::SIGKILL);
            is_news |= killed.insert(pid);
            work.extend(children(pid).into_iter().filter(|child| !killed.contains(child)));
        }
        if !is_news {
            break;
        }
    }
    !killed.is_empty()
}

/// Sends a signal to everything that descends from a process, once each, and to what is forked meanwhile: who has a signal pending that it
/// does not handle forks no more, so when nobody new is found everybody has it.
pub(crate) fn signal_below(root: i32, signal: i32) {
    let mut told = HashSet::new();
    for _ in 0..MAX_SIGNAL_ROUNDS {
        let mut is_news = false;
        for pid in below(root) {
            if told.insert(pid) {
                sys::kill(pid, signal);
                is_news = true;
            }
        }
        if !is_news {
            return;
        }
    }
}

/// The processes there are beside init.
pub(crate) fn leftovers() -> (Vec<Leftover>, u32) {
    living(all().filter(|(pid, _)| *pid != 1))
}

/// The processes there are below one.
pub(crate) fn leftovers_below(root: i32) -> (Vec<Leftover>, u32) {
    living(below(root).into_iter().filter_map(|pid| Some((pid, stat(pid)?))))
}

/// Those that live, counted and named.
fn living(processes: impl Iterator<Item = (i32, Stat)>) -> (Vec<Leftover>, u32) {
    let mut found = Vec::new();
    let mut count = 0;
    for (pid, stat) in processes.filter(|(_, stat)| !stat.is_dead()) {
        count += 1;
        if found.len() < MAX_LEFTOVERS {
            found.push(Leftover { pid, comm: stat.comm });
        }
    }
    (found, count)
}

/// CPU time of every process of the sandbox and of what was reaped in it, in microseconds, but not init's own.
pub(crate) fn cpu_time() -> u64 {
    micros(all().map(|(pid, stat)| cpu_ticks(pid == 1, &stat)).sum())
}

/// The same of what descends from a process, whose own does not count.
pub(crate) fn cpu_time_below(root: i32) -> u64 {
    let reaped = stat(root).map_or(0, |stat| cpu_ticks(true, &stat));
    let living = below(root).into_iter().filter_map(stat);
    micros(reaped + living.map(|stat| cpu_ticks(false, &stat)).sum::<u64>())
}

/// What is laid at the command's door of a process's CPU time. Of one that only `reaps` (init: how often it must look at limits also depends on
/// what others do to a disk) that is what it has reaped.
fn cpu_ticks(reaps: bool, stat: &Stat) -> u64 {
    // utime and stime, cutime and cstime.
    let own = if reaps { 0 } else { stat.number(14) + stat.number(15) };
    own + stat.number(16) + stat.number(17)
}

/// Ticks, in which the kernel tells times, in microseconds.
pub(crate) fn micros(ticks: u64) -> u64 {
    ticks * (1_000_000 / system_constant(SysconfVar::CLK_TCK))
}

/// A constant of this machine, at least 1. By libc: rustix looks into `/proc/self/auxv` before Linux 6.4, which a process that is not
/// dumpable may not, and panics.
pub(crate) fn system_constant(name: SysconfVar) -> u64 {
    nix::unistd::sysconf(name)
        .ok()
        .flatten()
        .and_then(|value| u64::try_from(value).ok())
        .unwrap_or(1)
        .max(1)
}

/// Sends a signal. A target that is gone is no error: it may have ended while the request was under way.
pub(crate) fn send_signal(leader: Option<Pid>, signal: i32, scope: SignalScope) {
    let target = match (scope, leader) {
        // Everything init may signal: every process of the pid namespace but init itself.
        (SignalScope::Tree, _) => -1,
        (SignalScope::Leader, Some(pid)) => pid.as_raw(),
        (SignalScope::Group, Some(pid)) => -foreground_group(pid).unwrap_or(pid.as_raw()),
        (_, None) => return,
    };
    // nix's kill takes its own enum, which has no real-time signals.
    sys::kill(target, signal);
}

/// The process group in the foreground of the terminal that controls a process's session.
pub(crate) fn foreground_group(pid: Pid) -> Option<i32> {
    // tpgid is field 8. -1 without a terminal, 0 for a group of another namespace; as a target of kill(2) those and 1 would mean more
    // than one group.
    let group = stat(pid.as_raw())?.fields.get(5)?.parse().ok();
    group.filter(|group| *group > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inits_own_processor_time_is_not_the_commands() {
        let mut fields: Vec<String> = (3..=52).map(|_| "1000000".to_owned()).collect();
        for (field, ticks) in [(14, "1"), (15, "20"), (16, "300"), (17, "4000")] {
            fields[field - 3] = ticks.to_owned();
        }
        let stat = Stat {
            comm: b"x".to_vec(),
            fields,
        };
        assert_eq!(cpu_ticks(false, &stat), 4321);
        assert_eq!(cpu_ticks(true, &stat), 4300);
        let torn = Stat {
            comm: Vec::new(),
            fields: vec!["R".to_owned()],
        };
        assert_eq!(cpu_ticks(false, &torn), 0);
    }
}
