//! What the daemon gives up before it serves: the process that parses what strangers send should be able to do little else.
//!
//! Four things, in an order of no return: capabilities (only root has any), the right to gain privileges and to be looked into,
//! a Landlock domain that can write nothing but the daemon's own directories, and a filter that knows only the system calls a
//! server makes: no `execve`, no process of its own, no mounts, no namespaces, no sockets but Unix ones.
//!
//! A domain and a filter hold for the thread that takes them on and for those it starts, so this comes before the runtime. The
//! launcher, which needs all that is given up here, is started before by a process that stays outside; see `starter.rs`.
//!
//! Deliberately kept: `connect` to Unix sockets, because looking a user up asks daemons (nscd, sssd, systemd); reading files by
//! name, because a worktree's pointers are files of the workspace (listing is confined); and for root the right to look at any path and to give pipes away.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::spec::State;
use crate::sys;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;

/// The newest ABI whose rights are asked for. Older kernels enforce what they know.
const WANTED: ABI = ABI::V6;

/// From this ABI on emptying a file counts as writing it.
const COMPLETE_FROM: u32 = 3;

/// What root keeps: giving a pipe to the command's user, and finding workspaces in homes that are closed to others.
const KEPT: CapabilitySet = CapabilitySet::CHOWN.union(CapabilitySet::DAC_READ_SEARCH);

/// What is read and listed while serving: the user database and the libraries that look users up, facts of the kernel, the limits of the daemon's own
/// cgroup. What does not exist is passed over.
const READ: &[&str] = &[
    "/etc",
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/proc",
    "/sys/fs/cgroup",
    // sssd's tables and the sockets of systemd's user records.
    "/var/lib/sss",
    "/run/systemd/userdb",
];

/// What the daemon does once it serves.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Directories, existing ones, in which it writes files of its own.
    pub write: Vec<PathBuf>,
    /// Directories, existing ones, that it lists again while it serves: those of policies.
    pub list: Vec<PathBuf>,
    /// Whether it must reach an abstract Unix socket: a service manager may listen on one.
    pub abstract_sockets: bool,
}

/// What was given up, each as it was found afterwards by trying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shed {
    /// Capabilities, `no_new_privs`, not dumpable.
    pub privileges: State,
    /// Landlock.
    pub rights: State,
    /// seccomp.
    pub syscalls: State,
}

/// Why a process could not shed what it should; it must not go on.
#[derive(Debug, thiserror::Error)]
pub enum ShedError {
    /// Threads that run already would keep everything.
    #[error("{0} threads run already; what is given up must be given up before the first is started")]
    Threads(usize),
    /// The capabilities, or one of the two flags.
    #[error("cannot give up privileges")]
    Privileges(#[source] io::Error),
    /// A directory that is to be written cannot be opened.
    #[error("cannot open {} to grant it", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: Box<landlock::PathFdError>,
    },
    /// The ruleset.
    #[error("cannot confine the file system")]
    Rights(#[from] landlock::RulesetError),
    /// The filter.
    #[error("cannot compile the system call filter")]
    Filter(#[from] seccompiler::BackendError),
}

/// Gives up what a serving daemon does not need, for good, in the calling thread and all it will start. What this kernel lacks is said in
/// the result and is no error.
///
/// # Errors
/// When there are other threads, or the kernel refuses what it claims to have.
pub fn shed(needs: &Needs) -> Result<Shed, ShedError> {
    match sys::thread_count().map_err(ShedError::Privileges)? {
        1 => {}
        more => return Err(ShedError::Threads(more)),
    }
    let privileges = give_up_privileges().map_err(ShedError::Privileges)?;
    let rights = confine(needs)?;
    let syscalls = filter()?;
    Ok(Shed {
        privileges,
        rights,
        syscalls,
    })
}

/// Capabilities first, while there is one to change the bounding set with.
fn give_up_privileges() -> io::Result<State> {
    let have = rustix::thread::capabilities(None)?;
    let keep = KEPT & have.permitted;
    if have.effective.contains(CapabilitySet::SETPCAP) {
        sys::empty_bounding_set()?;
    }
    match rustix::thread::clear_ambient_capability_set() {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)?;
    // Nobody with the same uid reads the memory or the descriptors of a process that is not dumpable, and it leaves no core.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;

    let left = rustix::thread::capabilities(None)?;
    if left.permitted != keep || !rustix::thread::no_new_privs()? {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let capabilities = match (keep.contains(CapabilitySet::CHOWN), keep.is_empty()) {
        (_, true) => "no capabilities",
        (true, _) if keep == KEPT => "capabilities: chown, dac_read_search",
        (true, _) => "capabilities: chown",
        (false, _) => "capabilities: dac_read_search",
    };
    Ok(State::Active(format!("no_new_privs, not dumpable, {capabilities}")))
}

/// Own directories may be written, [`READ`] may be read, nothing may be executed, no TCP port bound or connected to.
fn confine(needs: &Needs) -> Result<State, ShedError> {
    let abi = sys::landlock_abi();
    if abi == 0 {
        return Ok(State::Off(
            "this kernel has no Landlock, or it is not among the active security modules".into(),
        ));
    }
    let all = AccessFs::from_all(WANTED);
    let special = AccessFs::MakeBlock | AccessFs::MakeChar | AccessFs::Execute | AccessFs::Refer;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?;
    if !needs.abstract_sockets {
        // Not signals: ending a sandbox is a signal to its init, which is outside.
        ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
    }
    let mut ruleset = ruleset.create()?;
    for path in &needs.write {
        let fd = PathFd::new(path).map_err(|source| ShedError::Open {
            path: path.clone(),
            source: Box::new(source),
        })?;
        ruleset = ruleset.add_rule(PathBeneath::new(fd, all & !special))?;
    }
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let null: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile;
    for path in &needs.list {
        let fd = PathFd::new(path).map_err(|source| ShedError::Open {
            path: path.clone(),
            source: Box::new(source),
        })?;
        ruleset = ruleset.add_rule(PathBeneath::new(fd, read))?;
    }
    let reads = READ.iter().map(|path| (*path, read));
    // Where a linked worktree's repository is stands in small files in and beside the workspace, which can be anywhere.
    let named: BitFlags<AccessFs> = AccessFs::ReadFile.into();
    for (path, access) in reads.chain([("/dev/null", null), ("/", named)]) {
        if let Ok(fd) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    ruleset.restrict_self()?;
    // Everybody may list the root, and no rule says so: whoever still can is not confined.
    Ok(match std::fs::read_dir("/") {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) && abi >= COMPLETE_FROM => {
            State::Active(format!("Landlock ABI {abi}"))
        }
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => State::Degraded(format!(
            "Landlock ABI {abi}: emptying a file is not covered before ABI {COMPLETE_FROM}"
        )),
        _ => State::Off(format!("Landlock ABI {abi} took the rules, and they have no effect")),
    })
}

fn filter() -> Result<State, ShedError> {
    let program = compile()?;
    if let Err(error) = seccompiler::apply_filter(&program) {
        return Ok(State::Off(format!("the kernel takes no filter: {error}")));
    }
    // Without a filter the kernel would say that there is no such file.
    Ok(match sys::execve(c"", &[], &[]) {
        nix::errno::Errno::ENOSYS => State::Active(format!("{} system calls", CALLS.len() + conditional().len())),
        _ => State::Off("the kernel took the filter, and it has no effect".into()),
    })
}

/// Everything else is answered with `ENOSYS`, to which libraries have an answer of their own; glibc's `clone3` needs it.
fn compile() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    for (call, alternatives) in conditional() {
        let alternatives = alternatives.into_iter().map(|(argument, operator, value)| {
            SeccompRule::new(vec![SeccompCondition::new(
                argument,
                SeccompCmpArgLen::Dword,
                operator,
                value,
            )?])
        });
        rules.insert(call, alternatives.collect::<Result<_, _>>()?);
    }
    let refused = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, refused, SeccompAction::Allow, ARCHITECTURE)?.try_into()
}

/// An argument's number, the comparison, and the value.
type Condition = (u8, SeccompCmpOp, u64);

/// Calls that are allowed with certain arguments only; one condition must hold.
fn conditional() -> Vec<(i64, Vec<Condition>)> {
    let own = u64::from(std::process::id());
    let equal = |argument, values: &[u64]| -> Vec<Condition> {
        let condition = |value: &u64| (argument, SeccompCmpOp::Eq, *value);
        values.iter().map(condition).collect()
    };
    let unix = libc::AF_UNIX as u64;
    // A thread shares memory and thread group; a process does not. With these flags no namespace of a privileged kind can be had
    // either, since the capability for it is gone.
    let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
    vec![
        (libc::SYS_clone, vec![(0, SeccompCmpOp::MaskedEq(thread), thread)]),
        // TCP listeners are made before; what they accept needs no call of this kind.
        (libc::SYS_socket, equal(0, &[unix])),
        (libc::SYS_socketpair, equal(0, &[unix])),
        // abort() and the runtime, to threads of this process.
        (libc::SYS_tgkill, equal(0, &[own])),
        (libc::SYS_prlimit64, equal(0, &[0, own])),
        // Names of threads and of memory. Nothing that undoes what was given up.
        (
            libc::SYS_prctl,
            equal(0, &[libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, PR_SET_VMA]),
        ),
        // Asking for the version (LANDLOCK_CREATE_RULESET_VERSION), for the report.
        (libc::SYS_landlock_create_ruleset, equal(2, &[1])),
        // No terminal is fed (TIOCSTI) and none taken.
        (
            libc::SYS_ioctl,
            equal(
                1,
                &[
                    libc::FIONBIO,
                    libc::FIONREAD,
                    libc::FIOCLEX,
                    libc::TCGETS,
                    libc::TIOCGWINSZ,
                    // The terminals of commands get another size.
                    libc::TIOCSWINSZ,
                ],
            ),
        ),
    ]
}

/// `PR_SET_VMA` of linux/prctl.h, by which glibc names its memory.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// Calls that are allowed with any arguments, by who needs them.
const CALLS: &[i64] = &[
    // Memory: the allocator, thread stacks, libraries that look users up.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    // Threads.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // Signals of its own, and to a sandbox's init by the descriptor it was handed.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_pidfd_send_signal,
    // The end of the starter.
    libc::SYS_wait4,
    libc::SYS_waitid,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    // The event loop.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Sockets: accepted connections, the launcher's and the sandboxes' messages, the service manager.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    // Descriptors, pipes for output, specs in memory files.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_memfd_create,
    // Files: the audit log and its head, the socket and its lock, workspaces that are looked at, answers that are kept (a new file takes the
    // old one's place; Landlock keeps that to one of the daemon's own directories).
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_statfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    // The list of trusted files is replaced as a whole.
    libc::SYS_renameat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_umask,
    // Who and where it is.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_capget,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_getrandom,
    // What newer architectures have in the forms above only.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_create,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_and_names_no_call_twice() {
        compile().unwrap();
        let mut all: Vec<i64> = CALLS.to_vec();
        all.extend(conditional().iter().map(|(call, _)| *call));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn nothing_that_starts_a_program_or_changes_the_machine_is_in_the_list() {
        let allowed = |call: i64| CALLS.contains(&call) || conditional().iter().any(|(known, _)| *known == call);
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone3,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_open_tree,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_pidfd_getfd,
            libc::SYS_kill,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_open_by_handle_at,
            libc::SYS_keyctl,
            libc::SYS_setuid,
            libc::SYS_capset,
            libc::SYS_linkat,
            libc::SYS_symlinkat,
            libc::SYS_renameat2,
        ] {
            assert!(!allowed(call), "{call}");
        }
    }

    /// The test's own process has threads.
    #[test]
    fn a_process_with_threads_is_refused() {
        std::thread::scope(|scope| {
            let (stay, leave) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || leave.recv());
            assert!(matches!(shed(&Needs::default()), Err(ShedError::Threads(2..))));
            drop(stay);
        });
    }
}
