//! The command's own process: from init's fork to execve.
//!
//! The order of the irreversible steps is the file. What can fail for reasons of the command (its directory, its
//! program) is told apart from what can fail for reasons of the sandbox.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::event::{Event, Failure, Finding};
use crate::rights::Rights;
use crate::seccomp::Program;
use crate::spec::{CommandSpec, Fallback, Limits, Protection, STATE_FD};
use crate::sys::{self, Forked};
use crate::waiting::Waiting;
use crate::{files, wire};

/// Where programs are searched when the environment has no PATH: what execvp(3) documents.
pub(crate) const DEFAULT_PATH: &str = "/bin:/usr/bin";

const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// Why a command could not be executed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SpawnError {
    pub stage: String,
    pub errno: i32,
    pub path: Vec<u8>,
    pub protection: Option<Protection>,
}

impl SpawnError {
    pub(crate) fn new(stage: &str, errno: i32, path: impl AsRef<OsStr>) -> Self {
        SpawnError {
            stage: stage.into(),
            errno,
            path: path.as_ref().as_bytes().to_vec(),
            protection: None,
        }
    }

    fn layer(protection: Protection, stage: impl Into<String>, errno: i32) -> Self {
        SpawnError {
            stage: stage.into(),
            errno,
            path: Vec::new(),
            protection: Some(protection),
        }
    }
}

/// What the command's process takes on before it becomes the command.
pub(crate) struct Confinement {
    pub limits: Limits,
    pub fallback: Fallback,
    pub rights: Rights,
    pub filters: Program,
}

impl Confinement {
    /// Takes on, for good, what the commands of a session have in common: no capabilities, and one Landlock domain, so that they
    /// reach each other.
    pub(crate) fn enter_domain(&self) -> Result<(), SpawnError> {
        // An init that looks has one left. Exec would take it; what runs without exec must not have it either.
        rustix::thread::set_capabilities(None, NO_CAPABILITIES)
            .map_err(|errno| SpawnError::layer(Protection::Privileges, "drop capabilities", errno.raw_os_error()))?;
        self.rights.apply().map_err(|what| {
            let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
            let stage = format!("landlock_restrict_self: {what}");
            SpawnError::layer(Protection::FilesystemRights, stage, errno)
        })
    }
}

/// The Landlock domain of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    /// One of its own.
    Own,
    /// That of the process that forks it, which has [entered](Confinement::enter_domain) it.
    Inherited,
}

/// The descriptors of a command.
pub(crate) struct Descriptors {
    /// 0, 1 and 2.
    pub stdio: [OwnedFd; 3],
    /// [`STATE_FD`], where it is asked for.
    pub state: Option<OwnedFd>,
    /// Where what becomes of it is said: [`Report`].
    pub reports: OwnedFd,
}

/// What the child says to init, on a socket that exec closes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Its system calls can be answered by whoever has the descriptor that comes along.
    Listener,
    /// It did not become the command.
    Failed(SpawnError),
    /// What the self-test found, in place of a command.
    SelfTest(Vec<Finding>),
}

/// A command that was executed.
pub(crate) struct Spawned {
    pub pid: Pid,
    /// Where its watched calls wait.
    pub listener: Option<OwnedFd>,
}

impl SpawnError {
    /// What was asked for makes no sense.
    pub(crate) fn request() -> Self {
        SpawnError::new("request", libc::EINVAL, "")
    }

    /// The same, of what no command can be executed without.
    pub(crate) fn into_failure(self) -> Failure {
        Failure {
            protection: self.protection,
            stage: self.stage,
            errno: self.errno,
            path: self.path,
        }
    }

    /// What is told of it.
    pub(crate) fn into_event(self) -> Event {
        let SpawnError {
            stage,
            errno,
            path,
            protection,
        } = self;
        Event::SpawnFailed {
            stage,
            errno,
            path,
            protection,
        }
    }

    /// There is no terminal to be had.
    pub(crate) fn terminal(error: &io::Error) -> Self {
        SpawnError::new("open a terminal", sys::errno_of(error), "/dev/ptmx")
    }
}

/// What becomes of a confined process.
#[derive(Clone, Copy)]
pub(crate) enum Task<'a> {
    /// It executes its command.
    Execute,
    /// It carries out operations on files that come from this socket.
    Files(&'a OwnedFd),
}

/// Forks, confines the child and makes it `command`, or what `task` says. Returns once it is that; init goes on as it was.
pub(crate) fn spawn(
    command: &CommandSpec,
    task: Task<'_>,
    stdio: [OwnedFd; 3],
    confinement: &Confinement,
    waiting: &mut Waiting,
) -> Result<Spawned, SpawnError> {
    let socket = |error: io::Error| SpawnError::new("socket", sys::errno_of(&error), "");
    let (reader, reports) = wire::pair().map_err(socket)?;
    let descriptors = Descriptors {
        stdio,
        state: None,
        reports,
    };
    match sys::fork().map_err(|error| SpawnError::new("fork", sys::errno_of(&error), ""))? {
        Forked::Child => become_task(command, task, &descriptors, confinement, Domain::Own),
        Forked::Parent(pid) => {
            drop(descriptors);
            let mut listener = None;
            loop {
                // Where a recorder has it wait, the child's execve itself is a call to answer.
                if let Some(listener) = &listener
                    && !serve_until_readable(listener, &reader, waiting).map_err(socket)?
                {
                    continue;
                }
                match wire::receive::<Report>(reader.as_fd()) {
                    // Exec closed the socket, or a worker did.
                    Ok(None) => return Ok(Spawned { pid, listener }),
                    Ok(Some((Report::Listener, mut fds))) => listener = fds.pop(),
                    Ok(Some((Report::SelfTest(_), _))) => {}
                    Ok(Some((Report::Failed(error), _))) => {
                        let _ = nix::sys::wait::waitpid(pid, None);
                        return Err(error);
                    }
                    Err(error) => return Err(socket(error)),
                }
            }
        }
    }
}

/// Answers a call that waits, if one does. Whether the child has said something, or nothing more can come from it.
fn serve_until_readable(listener: &OwnedFd, reader: &OwnedFd, waiting: &mut Waiting) -> io::Result<bool> {
    let mut fds = [
        PollFd::new(reader.as_fd(), PollFlags::POLLIN),
        PollFd::new(listener.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, PollTimeout::NONE) {
        Err(Errno::EINTR) => return Ok(false),
        result => result?,
    };
    let [said, calls] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    // One that waits when the socket is closed already is the command's own, which whoever serves it next tells of.
    if calls.contains(PollFlags::POLLIN) && said.is_empty() {
        // Refusals before the command is there are the child's own failure, which it reports.
        let _ = waiting.serve(listener.as_fd());
    }
    Ok(!said.is_empty() || (calls.contains(PollFlags::POLLHUP) && !calls.contains(PollFlags::POLLIN)))
}

/// Says that there will be no command, on descriptor 3, where [`sys::install_stdio`] put the socket.
fn report(error: SpawnError) {
    if let Ok(fd) = sys::adopt(3) {
        let _ = wire::send(fd.as_fd(), &Report::Failed(error), &[]);
    }
}

/// Makes the process that was forked for it what it is to be. Where that fails it says so and ends.
pub(crate) fn become_task(
    command: &CommandSpec,
    task: Task<'_>,
    descriptors: &Descriptors,
    confinement: &Confinement,
    domain: Domain,
) -> ! {
    let become_it = || match task {
        Task::Execute => {
            confine(command, descriptors, confinement, domain)?;
            Err(execute(command))
        }
        Task::Files(socket) => become_worker(command, descriptors, socket, confinement, domain),
    };
    match become_it() {
        Ok(()) => std::process::exit(0),
        Err(error) => report(error),
    }
    std::process::exit(127)
}

/// `/dev/null` three times: for what runs in a command's place.
pub(crate) fn no_stdio() -> io::Result<[OwnedFd; 3]> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    Ok([null.try_clone()?.into(), null.try_clone()?.into(), null.into()])
}

/// Returns once there are no more operations.
fn become_worker(
    command: &CommandSpec,
    descriptors: &Descriptors,
    socket: &OwnedFd,
    confinement: &Confinement,
    domain: Domain,
) -> Result<(), SpawnError> {
    let failed = |stage: &'static str| move |error: io::Error| SpawnError::new(stage, sys::errno_of(&error), "");
    // A command is dumpable once it was executed, and init reads the arguments of its waiting calls. This one is not executed.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
        .map_err(|error| failed("become dumpable")(error.into()))?;
    confine(command, descriptors, confinement, domain)?;
    sys::ignore_write_signals();
    // What exec would do: nothing of init's is left, and the closing of 3 says that all went well.
    sys::close_all_but(&[socket.as_fd()]).map_err(failed("close descriptors"))?;
    files::serve(socket);
    Ok(())
}

/// Everything between fork and exec that does not depend on which program it is.
pub(crate) fn confine(
    command: &CommandSpec,
    descriptors: &Descriptors,
    confinement: &Confinement,
    domain: Domain,
) -> Result<(), SpawnError> {
    // First, so that no later step can leak a descriptor. What is above 3 (the ruleset, still needed) is closed by exec.
    let Descriptors { stdio, state, reports } = descriptors;
    let install = |error: io::Error| SpawnError::layer(Protection::Descriptors, "install stdio", sys::errno_of(&error));
    sys::install_stdio(stdio, reports.as_fd()).map_err(install)?;
    if let Some(state) = state {
        sys::install_at(state.as_fd(), STATE_FD).map_err(install)?;
    }
    // A session of its own: no controlling terminal but its own, a process group that signals can address.
    nix::unistd::setsid().map_err(|errno| SpawnError::new("setsid", errno as i32, ""))?;
    if command.terminal.is_some() {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
            .map_err(|errno| SpawnError::new("take the terminal", errno.raw_os_error(), ""))?;
    }
    sys::reset_signals();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(command.umask));
    set_rlimits(&confinement.limits, &confinement.fallback)
        .map_err(|errno| SpawnError::layer(Protection::Resources, "setrlimit", errno as i32))?;
    // Before Landlock: entering a directory needs no right, but its failure should be the directory's own.
    nix::unistd::chdir(&command.cwd).map_err(|errno| SpawnError::new("cwd", errno as i32, &command.cwd))?;
    if domain == Domain::Own {
        confinement.enter_domain()?;
    }
    // Last: the filter may refuse what the steps above needed.
    let layer = |error: io::Error| SpawnError::layer(Protection::SystemCalls, "seccomp", sys::errno_of(&error));
    if let Some(listener) = confinement.filters.install().map_err(layer)? {
        // Nothing from here to exec is a call that waits for init.
        wire::send(reports.as_fd(), &Report::Listener, &[listener.as_fd()]).map_err(layer)?;
    }
    Ok(())
}

fn set_rlimits(limits: &Limits, fallback: &Fallback) -> Result<(), Errno> {
    if let Some(processes) = fallback.processes {
        let (_, inherited) = getrlimit(Resource::RLIMIT_NPROC)?;
        let processes = u64::from(processes).min(inherited);
        setrlimit(Resource::RLIMIT_NPROC, processes, processes)?;
    }
    // No core files: they would hold the memory of the command in the workspace.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (_, inherited) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let hard = limits.open_files_hard.min(inherited);
    setrlimit(Resource::RLIMIT_NOFILE, limits.open_files_soft.min(hard), hard)?;
    if let Some(bytes) = limits.file_bytes {
        let (_, inherited) = getrlimit(Resource::RLIMIT_FSIZE)?;
        setrlimit(Resource::RLIMIT_FSIZE, bytes.min(inherited), bytes.min(inherited))?;
    }
    Ok(())
}

/// Searches the program as execvp(3) does and executes it. A file without a known format is ENOEXEC: it is not handed to a shell.
fn execute(command: &CommandSpec) -> SpawnError {
    let program = &command.argv[0];
    let strings = |items: &mut dyn Iterator<Item = OsString>| {
        items
            .map(|item| sys::c_string(&item))
            .collect::<io::Result<Vec<CString>>>()
    };
    let env = command.env.iter().map(|(name, value)| {
        let mut variable = name.as_bytes().to_vec();
        variable.push(b'=');
        variable.extend_from_slice(value.as_bytes());
        OsString::from_vec(variable)
    });
    let (argv, env) = match (strings(&mut command.argv.iter().cloned()), strings(&mut { env })) {
        (Ok(argv), Ok(env)) => (argv, env),
        _ => return SpawnError::new("exec", libc::EINVAL, program),
    };
    if program.as_bytes().contains(&b'/') {
        return exec(Path::new(program), &argv, &env);
    }
    if program.is_empty() {
        return SpawnError::new("search", libc::ENOENT, program);
    }
    let path = command
        .env
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map(|(_, value)| value.as_os_str());
    let mut denied = None;
    for directory in path
        .unwrap_or(OsStr::new(DEFAULT_PATH))
        .as_bytes()
        .split(|byte| *byte == b':')
    {
        // An empty entry means the working directory.
        let directory = if directory.is_empty() { b"." } else { directory };
        let candidate = Path::new(OsStr::from_bytes(directory)).join(program);
        let error = exec(&candidate, &argv, &env);
        match error.errno {
            libc::ENOENT | libc::ENOTDIR => {}
            // A directory of that name, or a file one may not execute: a later entry may still have the program.
            libc::EACCES => {
                denied.get_or_insert(error);
            }
            _ => return error,
        }
    }
    denied.unwrap_or_else(|| SpawnError::new("search", libc::ENOENT, program))
}

fn exec(path: &Path, argv: &[CString], env: &[CString]) -> SpawnError {
    let errno = match sys::c_string(path.as_os_str()) {
        Ok(path) => sys::execve(&path, argv, env) as i32,
        Err(_) => libc::EINVAL,
    };
    SpawnError::new("exec", errno, path)
}
