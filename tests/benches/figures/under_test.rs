//! A daemon of our own: its place, its life, its memory.

use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::Result;
use crate::client::Connection;

/// The program under test: command line, daemon and launcher in one.
const PROGRAM: &str = env!("CARGO_BIN_EXE_fumehood-under-test");

/// How long a daemon may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon in a directory of its own, ended with it.
pub struct Daemon {
    child: Child,
    pub socket: PathBuf,
    pub workspace: PathBuf,
    log: PathBuf,
    _directory: TempDir,
}

/// What a process holds, in bytes.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    pub rss: u64,
    /// Each page divided by the number of processes that share it. Of a process that is not dumpable, as an init of a sandbox is not,
    /// only root may read it; RSS then.
    pub pss: u64,
}

impl Display for Memory {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        write!(f, "RSS {:.1} MiB, PSS {:.1} MiB", mib(self.rss), mib(self.pss))
    }
}

impl Daemon {
    /// Starts one with the default configuration, whatever this machine's says. Returns at once: [`connect`](Self::connect) waits.
    pub fn start() -> Result<Daemon> {
        let directory = tempfile::Builder::new().prefix("fumehood-figures-").tempdir()?;
        let path = |name: &str| directory.path().join(name);
        let (socket, workspace, log) = (path("socket"), path("workspace"), path("log"));
        fs::create_dir(&workspace)?;
        fs::write(path("config.toml"), "")?;
        let child = Command::new(PROGRAM)
            .arg("daemon")
            .arg("--config")
            .arg(path("config.toml"))
            .arg("--socket")
            .arg(&socket)
            .arg("--audit")
            .arg(path("audit.jsonl"))
            .arg("--scratch-dir")
            .arg(path("scratch"))
            .args(["--max-runs", "256"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .map_err(|error| format!("{PROGRAM}: {error}"))?;
        Ok(Daemon {
            child,
            socket,
            workspace,
            log,
            _directory: directory,
        })
    }

    /// Connects, once it listens.
    pub fn connect(&self) -> Result<Connection> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match Connection::open(&self.socket) {
                Ok(connection) => return Ok(connection),
                Err(error) if Instant::now() >= give_up || !self.pid_exists() => {
                    let log = fs::read_to_string(&self.log).unwrap_or_default();
                    return Err(format!("the daemon does not listen: {error}; its log:\n{log}").into());
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// The command-line program: its subcommand, this daemon's socket, then the rest.
    pub fn command_line(&self, subcommand: &[&str], rest: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(subcommand)
            .arg("--socket")
            .arg(&self.socket)
            .args(rest)
            .current_dir(&self.workspace);
        command
    }

    pub fn memory(&self) -> Result<Memory> {
        memory(self.child.id())
    }

    /// The most that the daemon has held so far, in bytes.
    pub fn peak(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        field(&text, "VmHWM").ok_or(format!("{path} holds no VmHWM").into())
    }

    pub fn launcher_memory(&self) -> Result<Memory> {
        memory(self.launcher()?)
    }

    /// All processes below the launcher together: the inits and their commands.
    pub fn sandboxes_memory(&self) -> Result<Memory> {
        let mut sum = Memory::default();
        let mut left = children(self.launcher()?)?;
        while let Some(pid) = left.pop() {
            left.extend(children(pid)?);
            let memory = memory(pid)?;
            sum = Memory {
                rss: sum.rss + memory.rss,
                pss: sum.pss + memory.pss,
            };
        }
        Ok(sum)
    }

    /// Ends it as an administrator does; an error when it does not end in order.
    pub fn end(mut self) -> Result<()> {
        kill(self.pid(), Signal::SIGTERM)?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the daemon ended with {status}").into()),
                None if Instant::now() >= give_up => return Err("the daemon does not end".into()),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn launcher(&self) -> Result<u32> {
        // Between the two is what starts launchers.
        let only = |parent: u32| match children(parent)?.as_slice() {
            [child] => Ok(*child),
            other => Err(format!("process {parent} has {} children and should have one", other.len()).into()),
        };
        only(only(self.child.id())?)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Whether it has not ended: a process that ended and was not waited for is a zombie without memory.
    fn pid_exists(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/statm", self.child.id())).is_ok_and(|text| !text.starts_with("0 "))
    }
}

impl Drop for Daemon {
    /// After an error. Told again, it hurries, and ends in order: its launcher removes what sandboxes left before the directory goes.
    fn drop(&mut self) {
        let give_up = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= give_up {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            // Two at once would be one to the kernel.
            let _ = kill(self.pid(), Signal::SIGTERM);
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return resident(pid),
        text => text.map_err(|error| format!("{path}: {error}"))?,
    };
    field(&text, "Rss")
        .zip(field(&text, "Pss"))
        .map(|(rss, pss)| Memory { rss, pss })
        .ok_or(format!("{path} holds no Rss or Pss").into())
}

/// What everybody may read: the resident set, shared pages counted in full.
fn resident(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    field(&text, "VmRSS")
        .map(|rss| Memory { rss, pss: rss })
        .ok_or(format!("{path} holds no VmRSS").into())
}

/// A line `Name: 12 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The children of a process.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that ended meanwhile is nobody's child.
        if parent_of(&entry.path()).is_some_and(|of| of == parent) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn parent_of(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name, in parentheses, may hold anything; state and parent follow the last one.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}
