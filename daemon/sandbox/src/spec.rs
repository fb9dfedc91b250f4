//! What a sandbox shall be, as plain data.
//!
//! A [`SandboxSpec`] says everything the launcher and init need to build a sandbox; a [`CommandSpec`] what to execute
//! in it. Both are made by the daemon (`lower.rs`), checked there, and cross to the launcher in a sealed memory file.
//! There are no policy names here: grants have become mounts, rights, limits and filters.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A layer of the sandbox, as reports name it. The order is the order of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protection {
    /// Own mount namespace, `pivot_root`, a tree built from [`View`].
    FilesystemView,
    /// Landlock rights on that tree.
    FilesystemRights,
    /// Own pid namespace.
    Processes,
    /// Own network namespace with loopback only.
    Network,
    /// Own IPC namespace, Landlock's abstract-socket scope.
    Ipc,
    /// seccomp filters.
    SystemCalls,
    /// `no_new_privs`, no capabilities, never uid 0 inside.
    Privileges,
    /// cgroup limits and rlimits.
    Resources,
    /// Every descriptor closed but 0, 1, 2.
    Descriptors,
    /// The environment is built, never inherited.
    Environment,
    /// Names in writable trees that cannot be changed: [`Guard`].
    ProtectedPaths,
}

impl Protection {
    /// Every protection, in the order of reports.
    pub const ALL: [Protection; 11] = [
        Protection::FilesystemView,
        Protection::FilesystemRights,
        Protection::Processes,
        Protection::Network,
        Protection::Ipc,
        Protection::SystemCalls,
        Protection::Privileges,
        Protection::Resources,
        Protection::Descriptors,
        Protection::Environment,
        Protection::ProtectedPaths,
    ];

    /// The name that policies, logs and reports use: `filesystem-view`.
    pub fn name(self) -> &'static str {
        match self {
            Protection::FilesystemView => "filesystem-view",
            Protection::FilesystemRights => "filesystem-rights",
            Protection::ProtectedPaths => "protected-paths",
            Protection::Processes => "processes",
            Protection::Network => "network",
            Protection::Ipc => "ipc",
            Protection::SystemCalls => "system-calls",
            Protection::Privileges => "privileges",
            Protection::Resources => "resources",
            Protection::Descriptors => "descriptors",
            Protection::Environment => "environment",
        }
    }
}

/// How far a protection holds, with the text that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// In force; with what (`Landlock ABI 7`).
    Active(String),
    /// Partly in force; what is missing.
    Degraded(String),
    /// Not in force; why.
    Off(String),
}

/// What one protection really did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// Which protection.
    pub protection: Protection,
    /// How far it holds.
    pub state: State,
}

/// Everything a sandbox is built from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Name of the cgroup and of the scratch directory; unique among living sandboxes of one launcher,
    /// 1 to 128 of `A-Z a-z 0-9 . _ : -`, not starting with a dot.
    pub name: String,
    /// As whom the command runs.
    pub identity: Identity,
    /// The file tree.
    pub view: View,
    /// Host name inside the UTS namespace, at most 64 bytes.
    pub hostname: String,
    /// What must not change in trees bound with [`Access::Guarded`].
    pub guard: Guard,
    /// The network.
    pub network: Network,
    /// Which system calls are refused.
    pub syscalls: Syscalls,
    /// Calls that are answered otherwise than the profile does.
    pub exceptions: Exceptions,
    /// Bounds of the tree.
    pub limits: Limits,
    /// Protections without which no sandbox is made: one of these that turns out `Degraded` or `Off` fails the creation.
    pub required: Vec<Protection>,
    /// Whether what the command asks for is noted ([`Event::Recorded`](crate::event::Event::Recorded)). It changes nothing of what is allowed.
    pub record: bool,
    /// Whether it stays when no command runs, and takes any number of them ([`Sandbox::run`](crate::Sandbox::run)); else it takes one
    /// ([`Sandbox::exec`](crate::Sandbox::exec)) and is over with it. A session records nothing.
    pub session: bool,
}

impl SandboxSpec {
    /// Whether there is a tree that is to be guarded.
    pub fn is_guarded(&self) -> bool {
        !self.guard.is_empty()
            && self.view.entries.iter().any(|entry| match entry {
                ViewEntry::Bind { access, .. } => access.is_guarded(),
                ViewEntry::Scratch { guarded, .. } | ViewEntry::Overlay { guarded, .. } => *guarded,
                _ => false,
            })
    }
}

/// As whom the command runs.
///
/// The user namespace maps ids so that `inside_*` is never 0 and files come out owned by `outside_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The uid on the machine that files belong to. May be 0 when a root-owned workspace is run by root.
    pub outside_uid: u32,
    /// The gid on the machine.
    pub outside_gid: u32,
    /// The uid the command sees; never 0.
    pub inside_uid: u32,
    /// The gid the command sees; never 0.
    pub inside_gid: u32,
}

/// The file tree of a sandbox: nothing exists in it that no entry puts there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct View {
    /// What is mounted or made, in this order; a later entry may lie inside an earlier one.
    pub entries: Vec<ViewEntry>,
}

/// One entry of a [`View`]. Every `target` is an absolute, normalised path in the new tree; missing parent directories
/// are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ViewEntry {
    /// A directory or file of the machine, with everything mounted below it. Where `source` is a symbolic link, the
    /// same link is made at `target` instead (`/bin -> usr/bin`).
    Bind {
        /// Absolute path on the machine.
        #[serde(with = "as_os_string")]
        source: PathBuf,
        /// Where it appears.
        #[serde(with = "as_os_string")]
        target: PathBuf,
        /// What may be done with it.
        access: Access,
        /// Whether a missing source is passed over instead of an error. A source that is not optional must be given without
        /// symbolic links: one that turns up on the way was put there since the path was looked at, and is an error.
        optional: bool,
    },
    /// A copy-on-write view of a directory of the machine. Changes go to the sandbox's scratch directory on disk and
    /// vanish with the sandbox. Mounts below `lower` are not seen.
    Overlay {
        /// Absolute path of the directory on the machine.
        #[serde(with = "as_os_string")]
        lower: PathBuf,
        /// Where it appears.
        #[serde(with = "as_os_string")]
        target: PathBuf,
        /// Names of the scratch directory that takes the changes; unique in the view.
        scratch: String,
        /// Paths relative to `lower` that are not seen (removed in the view), whether they exist or not.
        #[serde(with = "as_os_strings")]
        hide: Vec<PathBuf>,
        /// Whether its files can be executed.
        execute: bool,
        /// Whether a missing directory, or something that is none, is passed over instead of an error.
        optional: bool,
        /// Whether [`Guard`] holds in it.
        guarded: bool,
    },
    /// A directory on disk that lives as long as the sandbox.
    Scratch {
        /// Where it appears.
        #[serde(with = "as_os_string")]
        target: PathBuf,
        /// Name of the scratch directory; unique in the view.
        scratch: String,
        /// Permission bits, `0o1777`.
        mode: u32,
        /// Whether [`Guard`] holds in it.
        guarded: bool,
    },
    /// A file system in memory.
    Tmpfs {
        /// Where it appears.
        #[serde(with = "as_os_string")]
        target: PathBuf,
        /// Its size in bytes.
        size_bytes: u64,
        /// Permission bits of its root.
        mode: u32,
        /// Whether it stays writable once the view is built.
        writable: bool,
    },
    /// A file written for the sandbox. Where the tree has a symbolic link at `target`, the file it leads to is
    /// replaced (inside the tree). Read-only.
    File {
        /// Where it appears.
        #[serde(with = "as_os_string")]
        target: PathBuf,
        /// Its contents.
        contents: Vec<u8>,
    },
    /// An empty directory.
    Directory {
        /// Where it appears.
        #[serde(with = "as_os_string")]
        target: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// An empty, unreadable file or directory over something that must not be seen; nothing when it does not exist in the tree.
    Mask {
        /// What is hidden.
        #[serde(with = "as_os_string")]
        target: PathBuf,
    },
    /// What is at this place of the tree by now, made read-only with everything below it; nothing when it does not exist.
    ReadOnly {
        /// What stays as it is.
        #[serde(with = "as_os_string")]
        target: PathBuf,
    },
    /// The sandbox's own `/proc`, with everything that configures the kernel read-only or masked.
    Proc,
    /// What programs ask `/sys` about: processors, memory, the network interfaces of the sandbox. Read-only; an empty
    /// directory where it cannot be mounted.
    Sys,
    /// `/dev` with null, zero, full, random, urandom, tty, a private pts and ptmx, a private shm of this many bytes, and
    /// the links fd, stdin, stdout, stderr.
    Dev {
        /// Size of `/dev/shm` in bytes.
        shm_bytes: u64,
    },
}

/// What may be done with a bound tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Read and list.
    Read,
    /// Read, list and execute.
    ReadExecute,
    /// Read, list, execute, write, create, remove, rename across directories.
    Write,
    /// As `Write`, but for what [`Guard`] protects. Only for directories. The command sees a read-only mount; init carries out
    /// what the command may change.
    Guarded,
    /// As `Write`, without execution.
    WriteNoExecute,
    /// As `Guarded`, without execution.
    GuardedNoExecute,
}

impl Access {
    /// Whether it is one of those that write.
    pub fn writes(self) -> bool {
        !matches!(self, Access::Read | Access::ReadExecute)
    }

    /// Whether [`Guard`] holds.
    pub fn is_guarded(self) -> bool {
        matches!(self, Access::Guarded | Access::GuardedNoExecute)
    }
}

/// What must not change in guarded trees. See `guard.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Paths relative to the root of a guarded tree and of every repository in it: they and what is below them are not made, changed,
    /// moved or removed.
    #[serde(with = "as_os_strings")]
    pub protected: Vec<PathBuf>,
    /// Absolute paths of the view, which hold for what lies there and below in the same way.
    #[serde(with = "as_os_strings")]
    pub read_only: Vec<PathBuf>,
    /// The same for what the view masks in guarded trees: whoever changes a file may read it as well, and a mask moves with what it lies on.
    #[serde(with = "as_os_strings")]
    pub hidden: Vec<PathBuf>,
    /// Whether what makes git run programs outside is protected as well: hooks, configuration other than harmless one, and what leads git to
    /// another repository's; in every repository, also one that the command makes.
    pub git: bool,
    /// What configuration that git reads outside makes it run, as far as that could lie in a guarded tree.
    pub programs: Vec<Program>,
}

/// A file or directory by which git outside runs programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Absolute; or relative to the root of every repository, whose working tree git looks in.
    #[serde(with = "as_os_string")]
    pub path: PathBuf,
    /// The rule, for whoever is refused a change: which configuration names it.
    pub why: String,
}

impl Guard {
    /// Whether there is anything to guard in every tree that is written.
    pub fn is_empty(&self) -> bool {
        self.protected.is_empty() && self.read_only.is_empty() && !self.git
    }
}

/// The network of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Own network namespace in which nothing is up.
    None,
    /// Own network namespace, loopback up (v4 and v6), nothing else. With `refusal_port`, init listens on
    /// 127.0.0.1 at that port and hands the listener to the daemon, which answers every proxy request with a refusal.
    Loopback {
        /// TCP port of the refusing proxy.
        refusal_port: Option<u16>,
    },
    /// The machine's own network namespace.
    Host {
        /// TCP ports that may be connected to, by Landlock (ABI 4); `None` is every one.
        connect: Option<Vec<u16>>,
        /// TCP ports that may be listened on; `None` is every one.
        bind: Option<Vec<u16>>,
    },
}

/// Which system calls are allowed; see `seccomp/groups.rs` for the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Syscalls {
    /// What development tools need.
    Default,
    /// What shells, git, compilers, interpreters and package managers need.
    Strict,
}

impl Syscalls {
    /// The name that policies use.
    pub fn name(self) -> &'static str {
        match self {
            Syscalls::Default => "default",
            Syscalls::Strict => "strict",
        }
    }
}

/// System calls that are answered otherwise than a profile does, by the kernel's names. A name that the table does not have means
/// nothing: whoever takes names from others asks [`seccomp::Call::named`](crate::seccomp::Call::named) first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exceptions {
    /// Allowed as under [`Syscalls::Default`], where that allows them.
    pub allow: Vec<String>,
    /// Refused with `EPERM`, before `allow` is looked at.
    pub deny: Vec<String>,
}

/// Bounds of a sandbox. `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of the tree, in bytes (`memory.max`; swap is not given beyond it).
    pub memory_bytes: Option<u64>,
    /// Processes and threads of the tree (`pids.max`).
    pub processes: Option<u32>,
    /// CPU bandwidth in thousandths of one processor (`cpu.max`).
    pub cpu_millis: Option<u32>,
    /// Soft limit of open files (`RLIMIT_NOFILE`).
    pub open_files_soft: u64,
    /// Hard limit of open files; lowered to what init has.
    pub open_files_hard: u64,
    /// Largest file, in bytes (`RLIMIT_FSIZE`).
    pub file_bytes: Option<u64>,
    /// Growth of the file systems that the tree may write to, as far as it is the tree's, in bytes; see `watch/disk.rs`.
    pub disk_bytes: Option<u64>,
    /// The same in files: inodes.
    pub files: Option<u64>,
}

/// Bounds that no cgroup holds, so that init and the command's process must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fallback {
    /// Memory of the tree: init looks at it [every so often](crate::init) and ends the tree that has more.
    pub memory_bytes: Option<u64>,
    /// Processes and threads: `RLIMIT_NPROC`, which since Linux 5.14 counts within the sandbox's own user namespace.
    pub processes: Option<u32>,
}

/// What to execute in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSpec {
    /// Program and arguments; not empty.
    pub argv: Vec<OsString>,
    /// The whole environment, each name once.
    pub env: Vec<(OsString, OsString)>,
    /// Absolute working directory, as seen inside.
    #[serde(with = "as_os_string")]
    pub cwd: PathBuf,
    /// Permission bits taken from new files.
    pub umask: u32,
    /// A terminal of its own as 0, 1 and 2, and as what controls its session; descriptors of the daemon's otherwise.
    pub terminal: Option<TerminalSize>,
    /// Whether a further descriptor comes, for what a shell wants to be known of it at its end: number [`STATE_FD`]. In sessions only.
    pub state: bool,
}

/// The number of the descriptor that [`CommandSpec::state`] speaks of. Shells give out numbers from 10 on, users those below.
pub const STATE_FD: i32 = 63;

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters to a line.
    pub columns: u16,
}

/// Paths on the way to the launcher. serde's own form of a path is text, and on Linux a path need not be any.
mod as_os_string {
    use std::ffi::{OsStr, OsString};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let path: &OsStr = path.as_os_str();
        path.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        OsString::deserialize(deserializer).map(PathBuf::from)
    }
}

/// The same for several.
mod as_os_strings {
    use std::ffi::{OsStr, OsString};
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| -> &OsStr { path.as_os_str() }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<OsString>::deserialize(deserializer)?
            .into_iter()
            .map(PathBuf::from)
            .collect())
    }
}
