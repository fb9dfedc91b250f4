//! What a sandbox tells the daemon, and the little the daemon tells a sandbox.
//!
//! The daemon holds one end of a `SOCK_SEQPACKET` pair for each sandbox. The launcher speaks first (`Created` or `Failed`), then
//! init, and at the end the launcher again: [`Event::Gone`] is the last message and comes only when no process of the
//! sandbox exists any more. End of file without `Gone` means that the launcher died.
//!
//! A session's runs have a pair each, on which the same is said of the run alone: `Started` or `SpawnFailed`, `Refused`, `CpuTime`, `Exited`
//! and at last `Gone`, all by init. On the session's own pair stays what concerns all of it.

use serde::{Deserialize, Serialize};

use crate::spec::{Enforced, Protection, TerminalSize};

/// From launcher and init to the daemon. A message is at most [`MAX_MESSAGE_BYTES`] long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The launcher made the namespaces and init. Carries init's pidfd.
    Created,
    /// The sandbox could not be built; only `Gone` follows.
    Failed(Failure),
    /// Init has built the view and confined itself: a command may be sent. Carries the refusing proxy's listener when
    /// the spec asks for one.
    Ready {
        /// What was enforced; the layers that only the command's own process takes on (Landlock, seccomp) are reported as
        /// prepared, and a failure to take them on fails the spawn.
        enforcement: Vec<Enforced>,
    },
    /// The command was executed. Carries the master of its terminal where it has one.
    Started {
        /// Its pid inside.
        pid: i32,
    },
    /// The command could not be executed.
    SpawnFailed {
        /// `cwd`, `search`, `exec`, or the layer that failed.
        stage: String,
        /// The kernel's error number.
        errno: i32,
        /// The path it was about, in bytes; may be empty.
        path: Vec<u8>,
        /// The protection that could not be taken on; `None` for `cwd`, `search` and `exec`.
        protection: Option<Protection>,
    },
    /// The main process ended.
    Exited {
        /// How.
        status: ExitStatus,
        /// Processes still there, at most 64.
        leftovers: Vec<Leftover>,
        /// How many there are in all.
        leftover_count: u32,
        /// How often init refused something, repetitions counted.
        refusals: u64,
    },
    /// What the command asked for since the last time, where the spec says that it be recorded: each once. What an event does not hold
    /// follows in further ones; the last one comes before `Exited`, or after it while processes are left.
    Recorded {
        /// In the order in which it was asked for.
        observations: Vec<Observation>,
        /// How many more there were than are kept, so far.
        lost: u64,
        /// The most processes and threads that were seen at once, so far. Looked at now and then: at least.
        tasks: u32,
    },
    /// Init refused a call. Each subject and rule once, at most 32 in all; of a run in a session, 32 of that. On a session's own socket: to
    /// processes of runs whose `Gone` has come, and where it is not known to which run.
    Refused(Denial),
    /// The tree used more memory than it may, and was killed. Only where no cgroup limits it; `Exited` follows.
    MemoryExceeded {
        /// What it used, in bytes, as far as it was looked at.
        bytes: u64,
    },
    /// The tree took more of a disk than it may, and was killed; `Exited` follows.
    DiskExceeded {
        /// What of it.
        resource: DiskResource,
        /// How much it took when it was looked at, in bytes or files.
        used: u64,
    },
    /// The answer to [`Request::CpuTime`].
    CpuTime {
        /// CPU time of the tree so far but init's own, in microseconds; what a process that was not waited for by its parent used before
        /// init reaped it is counted when it is reaped.
        micros: u64,
    },
    /// The answer to [`Request::Describe`]. Carries the memory file that [`Description::read`](crate::description::Description::read) reads.
    Described,
    /// What the self-test found; see `probe.rs`. Only when a self-test was asked for.
    SelfTest {
        /// Each finding.
        findings: Vec<Finding>,
    },
    /// No process of the sandbox exists any more, its cgroups are removed. Last message. Of a run in a session: no process of it exists any
    /// more, or what does was [left](Request::Leave) in the background.
    Gone {
        /// How init ended: exit code, or minus the signal. Of a run in a session, 0.
        init_status: i32,
        /// What the tree consumed. Of a run in a session: its processes that were reaped by now.
        usage: Usage,
    },
}

/// Something that a recorded command asked for. What it was given is not known: the call went on after it was noted, and its arguments
/// could be changed meanwhile. A hint for people, on which nothing may rest that protects them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// What was asked for.
    pub target: Target,
    /// What for.
    pub purpose: Purpose,
    /// Whether a path was there when it was first asked for, as the sandbox shows it; true for an address.
    pub existed: bool,
    /// Whether it was a directory.
    pub directory: bool,
    /// The name of the program that asked first: the last part of its path, at most 64 bytes.
    pub program: Vec<u8>,
}

/// What a recorded command asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// An absolute path without `.` and `..`, as seen inside; at most 4096 bytes.
    Path(Vec<u8>),
    /// A TCP or UDP address.
    Address(std::net::SocketAddr),
}

/// What a recorded command asked for something for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Purpose {
    /// To see whether and what it is.
    Look,
    /// To read a file.
    Read,
    /// To list a directory.
    List,
    /// To execute it; or it is the interpreter or loader of what is executed.
    Execute,
    /// To make, change, move or remove it.
    Write,
    /// To connect to it.
    Connect,
    /// To listen on it, or to be reached by it.
    Bind,
}

/// What a tree takes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskResource {
    /// Bytes.
    Space,
    /// Files, of every kind: inodes.
    Files,
}

/// A call that was refused by who decides about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Denial {
    /// What it was about.
    pub subject: Subject,
    /// The rule that refused it, in words.
    pub rule: String,
}

/// What a refused call was about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// A change of a protected path ([`Protection::ProtectedPaths`]), as seen inside, in bytes; at most 4096.
    Path(Vec<u8>),
    /// What a program wrote to such a path and had closed before it could be refused: dropped.
    Dropped(Vec<u8>),
    /// A system call, or a use of it, that the profile does not allow ([`Protection::SystemCalls`]).
    SystemCall {
        /// The kernel's name for it.
        name: String,
        /// Whether the profile `default` would have let it through.
        default_allows: bool,
    },
    /// A TCP port of the machine's network that the policy does not list ([`Protection::Network`]).
    Port {
        /// What was to be connected to or listened on.
        address: std::net::SocketAddr,
        /// Whether to be listened on.
        listens: bool,
    },
}

/// How the main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It called exit.
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether a core was dumped.
        core: bool,
    },
}

/// A process that outlived the main one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// Its pid inside.
    pub pid: i32,
    /// Its `comm`, at most 15 bytes.
    pub comm: Vec<u8>,
}

/// Why a sandbox could not be built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The protection whose set-up failed, if it was one.
    pub protection: Option<Protection>,
    /// What was being done: `mount /proc`.
    pub stage: String,
    /// The kernel's error number; 0 when a required protection is missing rather than broken.
    pub errno: i32,
    /// The path it was about, in bytes; may be empty.
    pub path: Vec<u8>,
}

/// What a tree consumed, as the cgroup or wait4(2) tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time in user mode, in microseconds.
    pub cpu_user_us: u64,
    /// CPU time in the kernel, in microseconds.
    pub cpu_system_us: u64,
    /// Highest memory use, in bytes.
    pub memory_peak_bytes: u64,
    /// Processes ended by the out-of-memory killer in this cgroup.
    pub oom_kills: u64,
    /// How often the limit of processes made a fork fail. `None`: nobody counted.
    pub fork_failures: Option<u64>,
    /// How long the CPU limit held back processes that could have run, in microseconds, summed over processors. `None`: nobody
    /// counted.
    pub throttled_us: Option<u64>,
    /// Whether the figures are the cgroup's (the whole tree) or those of reaped processes.
    pub from_cgroup: bool,
}

/// One finding of the self-test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The protection it tests.
    pub protection: Protection,
    /// What was tried: `write outside the workspace`.
    pub name: String,
    /// Whether the protection held.
    pub held: bool,
    /// What happened, for people.
    pub detail: String,
}

/// From the daemon to init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Execute the command whose spec is in the memory file that comes along, with the three descriptors
    /// after it as 0, 1 and 2; with none where the spec asks for a terminal. Once per sandbox.
    Exec,
    /// Start a process that is confined as a command and carries out operations on files ([`crate::files`]), which come from the socket
    /// behind the memory file with its spec; of that working directory and umask count. Instead of `Exec`; the events are the same.
    Files,
    /// Try everything that must not work, in a confined process, and report; instead of `Exec`.
    SelfTest,
    /// Of a session: execute one more. Carries the run's own socket, on which everything about it is said from now on, and then what
    /// the job says.
    Run {
        /// The number of the run; unique in the session.
        number: u64,
        /// What is to be executed.
        job: Job,
    },
    /// Of a session: say what is in it.
    Describe,
    /// On a run's socket: kill what is left of it. [`Event::Gone`] confirms it.
    Kill,
    /// On a run's socket: what is left of it when its main process has ended is kept, in the background. [`Event::Gone`] follows as
    /// soon as that is so.
    Leave,
    /// Say how much CPU time the tree has used.
    CpuTime,
    /// Send a signal.
    Signal {
        /// The signal's number.
        signal: i32,
        /// To whom.
        scope: SignalScope,
    },
}

/// What a session is to execute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Job {
    /// A command. A memory file with its spec comes along, then the descriptor of [`CommandSpec::state`] if it says so, then the three that
    /// become 0, 1 and 2 if there is no terminal.
    ///
    /// [`CommandSpec::state`]: crate::spec::CommandSpec::state
    Command {
        /// As the spec has it.
        terminal: Option<TerminalSize>,
        /// As the spec has it.
        state: bool,
    },
    /// What [`Request::Files`] says, with the same descriptors.
    Files,
}

/// To whom a signal goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalScope {
    /// The main process.
    Leader,
    /// The group in the foreground of the main process's terminal; its own group where it has none.
    Group,
    /// Every process of the sandbox but init; of a run in a session, every process of that run.
    Tree,
}

/// Bound of a message on a sandbox's socket, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 32 * 1024;
