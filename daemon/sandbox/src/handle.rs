//! The daemon's side: a handle on the launcher and one on each sandbox.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::event::{Event, Job, Request, SignalScope};
use crate::files::Worker;
use crate::launcher::{Cgroups, Command, Configuration, Greeting};
use crate::lister::Lister;
use crate::running::Running;
use crate::spec::{CommandSpec, SandboxSpec};
use crate::starter::{self, Answer, Order};
use crate::wire;

/// `PIPEFS_MAGIC` of linux/magic.h: the file system of unnamed pipes.
const PIPEFS: rustix::fs::FsWord = 0x5049_5045;

/// Why there is no launcher.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The process could not be started, or broke off.
    #[error("start the launcher")]
    Start(#[from] io::Error),
    /// It ended before it was ready; it was not this program, or it could not read its first message.
    #[error("the launcher ended before it was ready")]
    Ended,
    /// Without it there will be no launcher any more.
    #[error("the process that starts launchers is gone; the daemon must be started anew")]
    NoStarter,
    /// It says that it cannot work.
    #[error("{stage}: {error}")]
    Refused {
        /// What it was doing.
        stage: String,
        /// Why that failed.
        error: String,
    },
}

/// The process that starts launchers, outside of what the daemon confines itself with. Dropping the handle ends it.
#[derive(Debug)]
pub struct Starter {
    socket: OwnedFd,
    child: Child,
    /// Its pidfd.
    process: OwnedFd,
}

impl Starter {
    /// Starts it: this program again, under another name, with an empty environment. Before [`crate::shed()`], which makes starting a program
    /// impossible.
    ///
    /// The program must call [`crate::become_launcher_if_asked`] first thing in `main`.
    pub fn start() -> io::Result<Starter> {
        let (socket, theirs) = wire::pair()?;
        let mut command = std::process::Command::new("/proc/self/exe");
        command
            .arg0(starter::ARGV0)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null());
        let mut child = command.spawn()?;
        // The command holds the other end of the socket: end of file comes only once it is gone.
        drop(command);
        let pid = rustix::process::Pid::from_child(&child);
        match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(process) => Ok(Starter { socket, child, process }),
            Err(error) => {
                drop(socket);
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// Its pidfd: readable once it has died, which [`Starter::end`] then only has to reap.
    pub fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Has a launcher started, in place of the last, which is killed if it still lives. `scratch_root` is where sandboxes keep what
    /// they write outside the workspace. Blocks until the launcher is ready. One call at a time.
    pub fn launch(&self, scratch_root: &Path) -> Result<Launcher, LaunchError> {
        let (socket, theirs) = wire::pair()?;
        let answer = wire::send(self.socket.as_fd(), &Order::Launch, &[theirs.as_fd()])
            .and_then(|()| wire::receive::<Answer>(self.socket.as_fd()));
        drop(theirs);
        let (pid, process) = match answer {
            Ok(Some((Answer::Started(pid), mut fds))) if fds.len() == 1 => (pid, fds.remove(0)),
            Ok(Some((Answer::Failed(error), _))) => return Err(LaunchError::Start(io::Error::other(error))),
            Ok(Some(_)) => return Err(LaunchError::Start(io::ErrorKind::InvalidData.into())),
            Ok(None) => return Err(LaunchError::NoStarter),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(LaunchError::NoStarter),
            Err(error) => return Err(LaunchError::Start(error)),
        };
        let configuration = Configuration {
            scratch_root: scratch_root.to_owned(),
            daemon_pid: std::process::id() as i32,
        };
        let greeting = wire::send(socket.as_fd(), &Command::Configure(configuration), &[])
            .and_then(|()| wire::receive::<Greeting>(socket.as_fd()));
        match greeting {
            Ok(Some((Greeting::Ready { instance, cgroups }, _))) => Ok(Launcher {
                socket,
                process,
                pid,
                instance,
                cgroups,
            }),
            Ok(Some((Greeting::Failed { stage, error }, _))) => Err(LaunchError::Refused { stage, error }),
            Ok(None) => Err(LaunchError::Ended),
            Err(error) => Err(LaunchError::Start(error)),
        }
    }

    /// Ends it, and waits for its end and that of the launcher it started. End the launcher first, or drop its handle.
    pub fn end(self) -> io::Result<()> {
        let Starter { socket, mut child, .. } = self;
        drop(socket);
        child.wait().map(drop)
    }
}

/// The launcher process. Dropping the handle ends it and every sandbox.
#[derive(Debug)]
pub struct Launcher {
    socket: OwnedFd,
    /// Its pidfd.
    process: OwnedFd,
    pid: u32,
    instance: String,
    cgroups: Cgroups,
}

impl Launcher {
    /// The name of this launcher's cgroup and scratch directories.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What limits sandboxes.
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// The launcher's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its socket: readable only when it has died.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Asks for a sandbox. Returns at once; how it goes is told by [`Sandbox::receive`].
    pub fn create(&self, spec: &SandboxSpec) -> io::Result<Sandbox> {
        let (socket, theirs) = wire::pair()?;
        let memory = wire::memory_file(spec)?;
        wire::send(self.socket.as_fd(), &Command::Create, &[memory.as_fd(), theirs.as_fd()])?;
        wire::set_nonblocking(&socket)?;
        let owner = (spec.identity.outside_uid, spec.identity.outside_gid);
        Ok(Sandbox {
            socket,
            init: None,
            owner,
        })
    }

    /// Has directories opened from outside the daemon's walls. Blocks while the launcher is busy.
    pub fn lister(&self) -> io::Result<Lister> {
        let (socket, theirs) = wire::pair()?;
        wire::send(self.socket.as_fd(), &Command::List, &[theirs.as_fd()])?;
        Ok(Lister::new(socket))
    }

    /// Ends the launcher in order: every sandbox is killed, every cgroup and scratch directory removed. Blocks until that is
    /// done.
    pub fn end(self) -> io::Result<()> {
        let Launcher { socket, process, .. } = self;
        drop(socket);
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => {}
                result => return Ok(result.map(drop)?),
            }
        }
    }
}

/// A sandbox, from the request to make it until nothing of it exists.
#[derive(Debug)]
pub struct Sandbox {
    socket: OwnedFd,
    /// Init's pidfd, once `Created` came.
    init: Option<OwnedFd>,
    /// The ids that the command's files belong to.
    owner: (u32, u32),
}

impl Sandbox {
    /// The next event with the descriptors it carries. `None` at end of file, which without [`Event::Gone`] before it means that the
    /// launcher died. `WouldBlock` when there is none yet: wait until [`AsRawFd`]'s descriptor is readable.
    pub fn receive(&mut self) -> io::Result<Option<(Event, Vec<OwnedFd>)>> {
        let message = wire::receive::<Event>(self.socket.as_fd())?;
        if let Some((Event::Created, mut fds)) = message {
            self.init = fds.pop();
            return Ok(Some((Event::Created, fds)));
        }
        Ok(message)
    }

    /// Sends the command to execute, once `Ready` came. `stdio` becomes 0, 1 and 2; pipes among them are given to the command's user,
    /// because opening `/dev/stderr` anew asks for the pipe's owner and mode.
    pub fn exec(&self, command: &CommandSpec, stdio: [OwnedFd; 3]) -> io::Result<()> {
        for fd in &stdio {
            self.give_pipe(fd)?;
        }
        let memory = wire::memory_file(command)?;
        let [stdin, stdout, stderr] = &stdio;
        wire::send(
            self.socket.as_fd(),
            &Request::Exec,
            &[memory.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        )
    }

    /// Sends a command that has a terminal, once `Ready` came. Init makes the terminal, and [`Event::Started`] carries its master: bytes
    /// do not pass through init.
    pub fn exec_on_terminal(&self, command: &CommandSpec) -> io::Result<()> {
        let memory = wire::memory_file(command)?;
        wire::send(self.socket.as_fd(), &Request::Exec, &[memory.as_fd()])
    }

    /// Has a worker started that carries out operations on files, instead of a command, once `Ready` came. Of the spec only working directory
    /// and umask count. The events are a command's: the worker ends, and with it the sandbox, when its handle is dropped.
    pub fn files(&self, command: &CommandSpec) -> io::Result<Worker> {
        let memory = wire::memory_file(command)?;
        let (ours, theirs) = wire::pair()?;
        wire::send(self.socket.as_fd(), &Request::Files, &[memory.as_fd(), theirs.as_fd()])?;
        Worker::new(ours)
    }

    /// Makes an unnamed pipe the command's user's. Only root can, and only root needs to.
    fn give_pipe(&self, fd: &OwnedFd) -> io::Result<()> {
        let (uid, gid) = self.owner;
        if !rustix::process::geteuid().is_root() || uid == 0 || rustix::fs::fstatfs(fd)?.f_type != PIPEFS {
            return Ok(());
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        Ok(rustix::fs::fchown(fd, Some(uid), Some(gid))?)
    }

    /// Executes a command in a session, once `Ready` came. `number` is the run's, unique in the session. `stdio` becomes 0, 1 and 2 as in
    /// [`Self::exec`]; `None` where the command has a terminal. `state` comes if and only if [`CommandSpec::state`] says so.
    pub fn run(
        &self,
        number: u64,
        command: &CommandSpec,
        stdio: Option<[OwnedFd; 3]>,
        state: Option<OwnedFd>,
    ) -> io::Result<Running> {
        if stdio.is_some() == command.terminal.is_some() || state.is_some() != command.state {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let memory = wire::memory_file(command)?;
        let mut fds = vec![memory.as_fd()];
        fds.extend(state.iter().map(AsFd::as_fd));
        for fd in stdio.iter().flatten() {
            self.give_pipe(fd)?;
            fds.push(fd.as_fd());
        }
        let job = Job::Command {
            terminal: command.terminal,
            state: command.state,
        };
        self.ask_to_run(number, job, &fds)
    }

    /// Has a worker started in a session that carries out operations on files, as [`Self::files`] does: a run like others, which ends when
    /// the worker's handle is dropped.
    pub fn run_files(&self, number: u64, command: &CommandSpec) -> io::Result<(Running, Worker)> {
        let memory = wire::memory_file(command)?;
        let (operations, theirs) = wire::pair()?;
        let worker = Worker::new(operations)?;
        let job = Job::Files;
        Ok((self.ask_to_run(number, job, &[memory.as_fd(), theirs.as_fd()])?, worker))
    }

    /// `fds` are those that the job asks for.
    fn ask_to_run(&self, number: u64, job: Job, fds: &[BorrowedFd<'_>]) -> io::Result<Running> {
        let (socket, theirs) = wire::pair()?;
        let fds = [&[theirs.as_fd()], fds].concat();
        wire::send(self.socket.as_fd(), &Request::Run { number, job }, &fds)?;
        wire::set_nonblocking(&socket)?;
        Ok(Running::new(socket))
    }

    /// Asks a session for [`Event::Described`].
    pub fn describe(&self) -> io::Result<()> {
        wire::send(self.socket.as_fd(), &Request::Describe, &[])
    }

    /// Asks for the self-test instead of a command, once `Ready` came.
    pub fn self_test(&self) -> io::Result<()> {
        wire::send(self.socket.as_fd(), &Request::SelfTest, &[])
    }

    /// Asks for [`Event::CpuTime`].
    pub fn ask_cpu_time(&self) -> io::Result<()> {
        wire::send(self.socket.as_fd(), &Request::CpuTime, &[])
    }

    /// Sends a signal into the sandbox.
    pub fn signal(&self, signal: i32, scope: SignalScope) -> io::Result<()> {
        wire::send(self.socket.as_fd(), &Request::Signal { signal, scope }, &[])
    }

    /// Its init's pidfd, once it is made: readable when no process of the sandbox exists any more, because init's death waits for that of all
    /// others in its pid namespace.
    pub fn init(&self) -> Option<BorrowedFd<'_>> {
        self.init.as_ref().map(AsFd::as_fd)
    }

    /// Kills every process of the sandbox by killing its init. [`Event::Gone`] confirms it.
    pub fn kill(&self) -> io::Result<()> {
        match &self.init {
            Some(pidfd) => match rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL) {
                Err(rustix::io::Errno::SRCH) => Ok(()),
                result => Ok(result?),
            },
            // Not born yet: init ends as soon as it finds that nobody speaks to it any more.
            None => Ok(rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write)?),
        }
    }
}

impl AsRawFd for Sandbox {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Sandbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
