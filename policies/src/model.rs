//! The model of a policy: what a checked file says.
//!
//! `daemon/src/lower.rs` is the other end of the seam.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::command::Commands;
use crate::digest::Digest;
use crate::words::words;

/// A policy that was read, put together from what it extends, and checked.
///
/// # What an absent key means
///
/// `version` and `name` are required. Leaving out any other key never gives more than the built-in policy `default`
/// ([`KEYS`](crate::KEYS) says it of each):
///
/// - an absent **grant** is nothing or the least: `filesystem.workspace` is `"read"`, `filesystem.home` is `"empty"`,
///   `filesystem.tmp` is `false`, `approvals.self` is `"never"`, lists are empty; `network.mode` is `"loopback"`,
///   `syscalls.profile` is `"default"`, and `tools` are all;
/// - an absent **restriction** is that of `default`, and a list of restrictions that is stated is joined with that of `default`. Who wants
///   none writes `[]` or, where that is allowed, `"unlimited"`; `default` has no rules about commands.
///
/// Absent is what neither the file nor anything that it extends states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name: 1 to 64 of `a-z 0-9 -`.
    pub name: String,
    /// What it is for, in one line.
    pub description: String,
    /// The tools that may be used, sorted.
    pub tools: Vec<Tool>,
    /// The file tree.
    pub filesystem: Filesystem,
    /// The network.
    pub network: Network,
    /// Which system calls are refused.
    pub syscalls: Syscalls,
    /// Bounds.
    pub limits: Limits,
    /// The environment.
    pub environment: Environment,
    /// Which protections a run cannot do without, and which it should have.
    pub protections: Protections,
    /// Which commands are run, asked about and refused. Absent: everything is allowed and nothing is read.
    pub commands: Commands,
    /// How questions to people are answered.
    pub approvals: Approvals,
    /// What is written down.
    pub audit: Audit,
    /// SHA-256 of the canonical form: equal policies have equal digests whatever their comments and order of keys.
    pub digest: Digest,
}

/// The file tree that a command sees. Each list is sorted (a directory before what is below it), each path once, and has
/// at most 1024 entries.
///
/// `/`, `/proc`, `/dev` and `/sys` are in no grant: the sandbox makes its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// What may be done in the workspace.
    pub workspace: WorkspaceAccess,
    /// The caller's home directory.
    pub home: Home,
    /// Paths that are read and executed.
    pub execute: Vec<PathPattern>,
    /// Paths that are read and listed.
    pub read: Vec<PathPattern>,
    /// Paths that are read and written.
    pub write: Vec<PathPattern>,
    /// Directories that are read and written, and whose changes vanish with the sandbox.
    pub copy_on_write: Vec<PathPattern>,
    /// Whether `/tmp` and `/var/tmp` exist (private, on disk, for the life of the sandbox).
    pub tmp: bool,
    /// Paths that are not seen: absolute, or below the home. Holds outside the workspace.
    pub hide: Vec<PathPattern>,
    /// Paths that are never written.
    pub read_only: Vec<PathPattern>,
    /// Paths that cannot be made, changed, moved or removed, relative to the workspace and to the root of every repository in it (and in what
    /// `write` lists): by them programs outside are made to run something.
    pub protect: Vec<String>,
    /// Whether git's own files are protected as well.
    pub git: GitAccess,
    /// Size of the private `/dev/shm`, in bytes. Never 0, which a tmpfs would take for unlimited.
    pub shm_bytes: u64,
}

/// A path in a policy, normalised: no `.`, `..`, doubled or trailing `/`, no control character, at most 4095 bytes. `*` and `?` in a name
/// stand for any part and any character of one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathPattern {
    /// From the root: `/usr`.
    Absolute(String),
    /// Below the caller's home: `""` is the home itself.
    Home(String),
    /// Below the workspace: `""` is the workspace itself.
    Workspace(String),
}

/// What may be done in the workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkspaceAccess {
    /// Read, list and execute.
    #[default]
    Read,
    /// Write as well.
    Write,
}

words!(WorkspaceAccess { Read = "read", Write = "write" });

/// What may be done to the files of git repositories in writable trees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum GitAccess {
    /// Everything but what makes git run programs outside: hooks, configuration other than harmless one, and what leads git to another
    /// repository's.
    #[default]
    Guarded,
    /// Everything: the commands are trusted with what git outside will run.
    Open,
}

words!(GitAccess { Guarded = "guarded", Open = "open" });

/// What a command sees at its home directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Home {
    /// An empty private directory.
    #[default]
    Empty,
    /// A copy-on-write view of the real one, without what is hidden; changes vanish with the sandbox.
    CopyOnWrite,
}

words!(Home { Empty = "empty", CopyOnWrite = "copy-on-write" });

/// The network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// None: not even loopback. The word is `none`.
    None,
    /// Own loopback and nothing else; a proxy on it refuses everything at once, naming the rule.
    #[default]
    Loopback,
    /// Own loopback without that proxy.
    LoopbackSilent,
    /// The machine's own network, with everything that listens on its loopback: the word is `host-without-isolation`. The protection `network`
    /// cannot be required then.
    Host(Ports),
}

/// TCP ports of the machine's network that may be used. `None`: every one; an empty list: none. Other protocols are not covered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Ports that may be connected to, sorted.
    pub connect: Option<Vec<u16>>,
    /// Ports that may be listened on, sorted.
    pub bind: Option<Vec<u16>>,
}

/// The modes of [`Network`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkMode {
    /// [`Network::None`]
    None,
    /// [`Network::LoopbackSilent`]
    LoopbackSilent,
    /// [`Network::Loopback`]
    #[default]
    Loopback,
    /// [`Network::Host`]
    Host,
}

words!(NetworkMode {
    None = "none",
    LoopbackSilent = "loopback-silent",
    Loopback = "loopback",
    Host = "host-without-isolation",
});

impl Network {
    /// Its mode.
    pub const fn mode(&self) -> NetworkMode {
        match self {
            Network::None => NetworkMode::None,
            Network::LoopbackSilent => NetworkMode::LoopbackSilent,
            Network::Loopback => NetworkMode::Loopback,
            Network::Host(_) => NetworkMode::Host,
        }
    }
}

/// Which system calls are allowed. The names are the kernel's; whether a call of that name exists, the daemon says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Syscalls {
    /// The profile.
    pub profile: SyscallProfile,
    /// Calls that are allowed beside it. Sorted.
    pub allow: Vec<String>,
    /// Calls that are refused whatever else is said. Sorted.
    pub deny: Vec<String>,
}

/// A profile of system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyscallProfile {
    /// What shells, git, compilers, interpreters and package managers need to build and test; no debugger, no System V IPC, no
    /// files without a name, no netlink.
    Strict,
    /// What development tools need, debuggers, browsers and databases among them.
    #[default]
    Default,
}

words!(SyscallProfile { Strict = "strict", Default = "default" });

/// Bounds. `None` is unlimited, which a file says in that word; an absent key is the built-in policy `default`'s number.
///
/// None is zero but `grace`. Durations are whole milliseconds up to 365 days; sizes go up to 2^63 - 1 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Elapsed time.
    pub wall: Option<Duration>,
    /// Time without output.
    pub idle: Option<Duration>,
    /// CPU time of the tree.
    pub cpu_time: Option<Duration>,
    /// From the stop signal to SIGKILL. Zero: killed at once.
    pub grace: Duration,
    /// Memory of the tree, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads, 1 to 4194304 (the kernel's own bound, `PID_MAX_LIMIT`).
    pub processes: Option<u32>,
    /// CPU bandwidth in thousandths of one processor: 10 (the least the kernel's CFS quota takes) to 1024000.
    pub cpu_millis: Option<u32>,
    /// Soft limit of open files, 1 to the hard limit.
    pub open_files_soft: u64,
    /// Hard limit of open files, up to 2^30. The kernel refuses more than its `fs.nr_open`, 1048576 unless changed.
    pub open_files_hard: u64,
    /// Largest file, in bytes.
    pub file_bytes: Option<u64>,
    /// Bytes by which the disk space in use may grow: workspace, other writable paths, `/tmp` and the copy of the home together.
    pub disk_bytes: Option<u64>,
    /// Files (of every kind) by which the same may grow.
    pub files: Option<u64>,
    /// Bytes of both output streams together; past it the run is ended.
    pub output_bytes: Option<u64>,
}

/// The environment of a command. Precedence: the request's own variables, then `set`, then what `pass` lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Names passed on from the caller; `*` at the end stands for any rest: `LC_*`. Case matters. Sorted.
    pub pass: Vec<String>,
    /// Names never passed on from the caller, whatever `pass` says; `*` at the start, the end or both stands for any
    /// rest: `*_TOKEN`, `AWS_*`, `*SECRET*`. The case of ASCII letters does not matter. Sorted.
    pub never: Vec<String>,
    /// Names that no command has, whoever sets them; patterns as in `never`. Sorted.
    pub remove: Vec<String>,
    /// Set for every command. Names are of `A-Z a-z 0-9 _` and do not begin with a digit; values hold no NUL.
    pub set: BTreeMap<String, String>,
}

/// The protections by name, as the enum of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protection {
    /// `filesystem-view`
    FilesystemView,
    /// `filesystem-rights`
    FilesystemRights,
    /// `protected-paths`
    ProtectedPaths,
    /// `processes`
    Processes,
    /// `network`
    Network,
    /// `ipc`
    Ipc,
    /// `system-calls`
    SystemCalls,
    /// `privileges`
    Privileges,
    /// `resources`
    Resources,
    /// `descriptors`
    Descriptors,
    /// `environment`
    Environment,
}

/// What a run cannot do without. A protection that is not required is still applied where the machine can, and
/// its state is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protections {
    /// A run that cannot have one of these fully active does not start. Sorted, each once.
    pub required: Vec<Protection>,
    /// A run that cannot have one of these starts, and says so. Sorted, each once.
    pub preferred: Vec<Protection>,
}

/// Which tool asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    /// An argument vector of the caller's.
    Shell,
    /// A test runner, with structured results.
    Test,
    /// git, with structured results.
    Git,
    /// Operations on files, in the view and with the rights that a command has. Rules about commands do not concern it.
    Files,
}

words!(Tool { Shell = "shell", Test = "test", Git = "git", Files = "files" });

/// How questions to people are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Approvals {
    /// How long a question waits for its answer; then it is "no". 1 ms to 365 days.
    pub wait: Duration,
    /// Whether who asks may answer.
    pub own: SelfApproval,
}

/// Whether who asks may answer: the key `approvals.self`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SelfApproval {
    /// No.
    #[default]
    Never,
    /// From a terminal, where a person sits.
    Terminal,
    /// Yes.
    Always,
}

words!(SelfApproval { Never = "never", Terminal = "terminal", Always = "always" });

/// What the audit log keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Of a command line.
    pub arguments: Arguments,
}

/// What the audit log keeps of a command line. To write more down is stricter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arguments {
    /// All, without what looks like a secret.
    #[default]
    Full,
    /// The program, and how many arguments it had.
    Program,
    /// SHA-256 of the whole.
    Digest,
}

words!(Arguments { Full = "full", Program = "program", Digest = "digest" });

words!(Protection {
    FilesystemView = "filesystem-view",
    FilesystemRights = "filesystem-rights",
    ProtectedPaths = "protected-paths",
    Processes = "processes",
    Network = "network",
    Ipc = "ipc",
    SystemCalls = "system-calls",
    Privileges = "privileges",
    Resources = "resources",
    Descriptors = "descriptors",
    Environment = "environment",
});
