//! The model of a policy: what a checked file says.
//!
//! Small on purpose. The full language (presets, layering) grows here; `daemon/src/lower.rs`
//! is the other end of the seam.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::command::CommandRules;
use crate::digest::Digest;

/// A policy that was parsed and checked.
///
/// # What an absent key means
///
/// `version` and `name` are required. Leaving out any other key never gives more than the built-in policy `default`:
///
/// - an absent **grant** is nothing or the least: `filesystem.workspace` is `"read"`, `filesystem.home` is `"empty"`,
///   `filesystem.tmp` is `false`, and `filesystem.read`, `filesystem.write`, `environment.pass` and `environment.set`
///   are empty; `network.mode` is `"loopback"` and `syscalls.profile` is `"default"`;
/// - an absent **restriction** is that of `default`: every key of `limits`, `filesystem.shm`, `filesystem.hide`,
///   `filesystem.hide-in-home`, `filesystem.protect`, `filesystem.git`, `environment.never` and `protections.required`. Who wants none writes `[]` or, where
///   that is allowed, `"unlimited"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name: 1 to 64 of `a-z 0-9 -`.
    pub name: String,
    /// What it is for, in one line.
    pub description: String,
    /// The file tree.
    pub filesystem: Filesystem,
    /// The network.
    pub network: Network,
    /// Which system calls are refused.
    pub syscalls: SyscallProfile,
    /// Bounds.
    pub limits: Limits,
    /// The environment.
    pub environment: Environment,
    /// Which protections a run cannot do without, and which it should have.
    pub protections: Protections,
    /// Which commands are run, asked about and refused. Absent: everything is allowed and nothing is read.
    pub commands: CommandRules,
    /// SHA-256 of the canonical form: equal policies have equal digests whatever their comments and order of keys.
    pub digest: Digest,
}

/// The file tree that a command sees. Each list is sorted (a directory before what is below it), each path once, and has
/// at most 1024 entries.
///
/// `/`, `/proc`, `/dev` and `/sys` are in neither `read` nor `write`: the sandbox makes its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// What may be done in the workspace.
    pub workspace: WorkspaceAccess,
    /// The caller's home directory.
    pub home: Home,
    /// Paths that are readable and executable, never writable: absolute, or starting with `${home}` or `${workspace}`.
    pub read: Vec<PathPattern>,
    /// Paths that are writable as well.
    pub write: Vec<PathPattern>,
    /// Paths below the home directory that are not seen, relative to it. Holds for `home = "copy-on-write"`.
    pub hide_in_home: Vec<String>,
    /// Absolute paths below granted system paths that are not seen: always [`PathPattern::Absolute`].
    pub hide: Vec<PathPattern>,
    /// Paths that cannot be made, changed, moved or removed, relative to the workspace and to the root of every repository in it (and in what
    /// `write` lists): by them programs outside are made to run something.
    pub protect: Vec<String>,
    /// Whether git's own files are protected as well.
    pub git: GitAccess,
    /// Whether `/tmp` and `/var/tmp` exist (private, on disk, for the life of the sandbox).
    pub tmp: bool,
    /// Size of the private `/dev/shm`, in bytes. Never 0, which a tmpfs would take for unlimited.
    pub shm_bytes: u64,
}

/// A path in a policy, normalised: no `.`, `..`, doubled or trailing `/`, no control character, at most 4095 bytes.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkspaceAccess {
    /// Read, list and execute.
    #[default]
    Read,
    /// Write as well.
    Write,
}

/// What may be done to the files of git repositories in writable trees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GitAccess {
    /// Everything but what makes git run programs outside: hooks, configuration other than harmless one, and what leads git to another
    /// repository's.
    #[default]
    Guarded,
    /// Everything: the commands are trusted with what git outside will run.
    Open,
}

/// What a command sees at its home directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Home {
    /// An empty private directory.
    #[default]
    Empty,
    /// A copy-on-write view of the real one, with `hide_in_home` hidden; changes vanish with the sandbox.
    CopyOnWrite,
}

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

/// Which system calls are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyscallProfile {
    /// What development tools need, debuggers, browsers and databases among them.
    #[default]
    Default,
    /// What shells, git, compilers, interpreters and package managers need to build and test; no debugger, no System V IPC, no
    /// files without a name, no netlink.
    Strict,
}

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
}

impl Protection {
    /// Every protection, in the order of the model.
    pub const ALL: [Self; 11] = [
        Self::FilesystemView,
        Self::FilesystemRights,
        Self::ProtectedPaths,
        Self::Processes,
        Self::Network,
        Self::Ipc,
        Self::SystemCalls,
        Self::Privileges,
        Self::Resources,
        Self::Descriptors,
        Self::Environment,
    ];

    /// The word that a policy file uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FilesystemView => "filesystem-view",
            Self::FilesystemRights => "filesystem-rights",
            Self::ProtectedPaths => "protected-paths",
            Self::Processes => "processes",
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::SystemCalls => "system-calls",
            Self::Privileges => "privileges",
            Self::Resources => "resources",
            Self::Descriptors => "descriptors",
            Self::Environment => "environment",
        }
    }
}
