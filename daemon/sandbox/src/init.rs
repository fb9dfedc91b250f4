//! Init: pid 1 of a sandbox.
//!
//! Born by the launcher into new namespaces, it waits until its ids are mapped and its cgroup is set, builds the view, gives up
//! every privilege and says `Ready`. Then it waits for a command, executes it in a child of its own, reaps whatever ends in
//! the sandbox, and reports. Its end takes every process of the sandbox with it, whatever the reason: that is the kernel's promise
//! for pid 1 of a pid namespace, and the one this house is built on.
//!
//! Init itself is confined by everything but Landlock and seccomp, which the command's process takes on after the fork. It is not dumpable
//! and lies outside the command's Landlock domain, so the command can neither trace it nor read its memory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::cgroup::Gauges;
use crate::command::{self, Confinement, SpawnError, Task};
use crate::event::{Event, ExitStatus, Failure, Request};
use crate::guard::{self, Guard};
use crate::ports::{self, Ports};
use crate::processes;
use crate::recorder::{self, Recorder};
use crate::rights::{self, Rights};
use crate::seccomp::{self, Program};
use crate::session::{self, Session};
use crate::spec::{CommandSpec, Enforced, Fallback, Limits, Network, Protection, SandboxSpec, State};
use crate::sys::{self, notify};
use crate::waiting::{Refusals, Waiting};
use crate::watch::Watch;
use crate::{selftest, terminal, view, wire};

/// What the launcher hands to init through the fork.
pub(crate) struct Birth<'a> {
    pub spec: &'a SandboxSpec,
    /// The sandbox's socket.
    pub socket: OwnedFd,
    /// One byte comes when ids are mapped, a second one when init is in its cgroup; end of file means the launcher gave up or died.
    pub go: OwnedFd,
    /// Read end of a pipe whose only write end the launcher holds: it hangs up when the launcher dies.
    pub life: BorrowedFd<'a>,
    /// The sandbox's directory on disk.
    pub scratch: &'a Path,
    /// Supplementary groups that cannot be given up, as the machine numbers them.
    pub kept_groups: &'a [u32],
    /// What the cgroup enforces.
    pub resources: State,
    /// What it does not.
    pub fallback: Fallback,
    /// Whether calls can be made to wait for init.
    pub can_guard: bool,
    /// The file by whose locks sandboxes change the same trees one after the other; there if trees are guarded.
    pub locks: Option<OwnedFd>,
    /// What a session's cgroup tells, where it has one.
    pub gauges: Gauges,
}

/// Runs init. Never returns.
pub(crate) fn run(mut birth: Birth<'_>) -> ! {
    // Asked for again after the ids change, which clears it. From here to there the launcher's death shows as end of file.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    wait_for_launcher(&birth.go);
    // A session of its own, and with it a scheduling group (autogroup): what a command does to init's stays here. Cannot fail in a
    // process that has just been born.
    let _ = rustix::process::setsid();
    let code = match set_up(&mut birth) {
        Ok(ready) => serve(&birth.socket, birth.life, ready),
        Err(failure) => {
            let _ = wire::send(birth.socket.as_fd(), &Event::Failed(failure), &[]);
            1
        }
    };
    std::process::exit(code)
}

/// Waits for the launcher's next byte. Without it, the launcher has given up or died, and so does init.
fn wait_for_launcher(go: &OwnedFd) {
    if !matches!(
        rustix::io::retry_on_intr(|| rustix::io::read(go, &mut [0u8][..])),
        Ok(1)
    ) {
        std::process::exit(1);
    }
}

/// A sandbox in which a command can be started.
struct Ready {
    enforcement: Vec<Enforced>,
    rights: Rights,
    filters: Program,
    waiting: Waiting,
    refusal: Option<OwnedFd>,
    limits: Limits,
    fallback: Fallback,
    watch: Watch,
    /// Of a session only.
    session: Option<(Gauges, Network)>,
}

fn fail<E: Into<io::Error>>(protection: Protection, stage: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure {
        protection: Some(protection),
        stage: stage.into(),
        errno: sys::errno_of(&error.into()),
        path: Vec::new(),
    }
}

fn set_up(birth: &mut Birth<'_>) -> Result<Ready, Failure> {
    let spec = birth.spec;
    use Protection::{FilesystemView, Ipc, Network as Net, Privileges, Processes};
    sys::reserve_low(&[0, 1, 3]).map_err(fail(Protection::Descriptors, "reserve descriptors"))?;
    // While this process may still pass through directories that the command's user may not.
    let scratch = rustix::fs::open(
        birth.scratch,
        rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(fail(FilesystemView, "open the scratch directory"))?;
    become_user(spec).map_err(fail(Privileges, "change to the command's ids"))?;
    // Changing ids cleared the request; whether the launcher died in between shows on the pipe.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(fail(Processes, "ask for the death signal"))?;
    if hung_up(birth.life) {
        std::process::exit(1);
    }

    nix::unistd::sethostname(&spec.hostname).map_err(fail(Ipc, "sethostname"))?;
    let refusal_port = match spec.network {
        Network::Loopback { refusal_port } => {
            sys::loopback_up().map_err(fail(Net, "bring loopback up"))?;
            refusal_port
        }
        Network::None | Network::Host { .. } => None,
    };
    let refusal = refusal_port
        .map(listen)
        .transpose()
        .map_err(fail(Net, "listen on loopback"))?;

    let mut built = view::build(&spec.view, scratch.as_fd(), birth.can_guard)?;
    drop(scratch);
    let trees = std::mem::take(&mut built.guarded);
    let guard = (!trees.is_empty()).then(|| Guard::new(&spec.guard, trees, birth.locks.take()));
    // What truncate(2) makes long is made so by init. The command's own limits are set after the fork, within the hard one.
    if let (Some(_), Some(bytes)) = (&guard, spec.limits.file_bytes) {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        getrlimit(Resource::RLIMIT_FSIZE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_FSIZE, bytes.min(hard), hard))
            .map_err(fail(Protection::Resources, "setrlimit"))?;
    }

    wait_for_launcher(&birth.go);
    // Only now, so that the namespace's root is the sandbox's own cgroup.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
        .map_err(fail(Protection::Resources, "unshare cgroup"))?;
    let ports = Ports::of(&spec.network).filter(|_| birth.can_guard && rights::tells_ports());
    if spec.record && !birth.can_guard {
        return Err(Failure {
            protection: Some(Protection::SystemCalls),
            stage:
                "record: calls cannot be made to wait here (no seccomp user notification, or another sandbox uses it)"
                    .into(),
            errno: libc::ENOSYS,
            path: Vec::new(),
        });
    }
    if spec.record && spec.session {
        return Err(Failure {
            protection: None,
            stage: "record: a session records nothing".into(),
            errno: libc::EINVAL,
            path: Vec::new(),
        });
    }
    let recorder = spec.record.then(Recorder::new);
    let looks = guard.is_some() || ports.is_some() || recorder.is_some();
    drop_privileges(looks || Watch::is_needed(birth.fallback.memory_bytes, &spec.limits))
        .map_err(fail(Privileges, "drop capabilities"))?;
    if guard.is_some() {
        limit_own_files(&spec.limits).map_err(fail(Protection::Resources, "setrlimit"))?;
    }
    let rights = rights::prepare(&built.rules, &spec.network).map_err(|error| Failure {
        protection: Some(Protection::FilesystemRights),
        stage: format!("landlock: {error}"),
        errno: io::Error::last_os_error().raw_os_error().unwrap_or(0),
        path: Vec::new(),
    })?;
    let mut watched = Vec::new();
    watched.extend_from_slice(if guard.is_some() { guard::WATCHED } else { &[] });
    watched.extend_from_slice(if ports.is_some() { ports::WATCHED } else { &[] });
    watched.extend_from_slice(if recorder.is_some() { recorder::WATCHED } else { &[] });
    let exceptions = seccomp::Except::of(&spec.exceptions);
    let filters = seccomp::compile_told_except(spec.syscalls, &exceptions, &watched).map_err(|error| Failure {
        protection: Some(Protection::SystemCalls),
        stage: format!("compile the filter: {error}"),
        errno: 0,
        path: Vec::new(),
    })?;
    built.places.own_sockets = !matches!(spec.network, Network::Host { .. });
    let protected_paths = protected_paths(spec, guard.is_some(), birth.can_guard);
    let enforcement = report(birth, &built, &rights, protected_paths);
    require(&spec.required, &enforcement)?;
    Ok(Ready {
        enforcement,
        rights,
        filters,
        waiting: Waiting::new(spec.syscalls, exceptions, guard, ports, recorder),
        refusal,
        limits: spec.limits,
        fallback: birth.fallback,
        watch: Watch::new(birth.fallback.memory_bytes, &spec.limits, built.places),
        session: spec
            .session
            .then(|| (std::mem::take(&mut birth.gauges), spec.network.clone())),
    })
}

/// Becomes the ids the command runs as, keeping the capabilities that this process has in its own user namespace and still needs,
/// but none that would let it pass where that user may not.
fn become_user(spec: &SandboxSpec) -> io::Result<()> {
    let (uid, gid) = (spec.identity.inside_uid, spec.identity.inside_gid);
    rustix::thread::set_keep_capabilities(true)?;
    // An unprivileged launcher had to deny setgroups; its groups are its own then.
    if std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "allow") {
        nix::unistd::setgroups(&[])?;
    }
    let (uid, gid) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(gid));
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    let use_now = CapabilitySet::SYS_ADMIN
        | CapabilitySet::NET_ADMIN
        | CapabilitySet::SETPCAP
        | CapabilitySet::SYS_RESOURCE
        | CapabilitySet::SYS_PTRACE
        | CapabilitySet::SETGID;
    let have = rustix::thread::capabilities(None)?.permitted;
    let sets = CapabilitySets {
        effective: use_now & have,
        permitted: (use_now | view::OVERLAY_CAPABILITIES) & have,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}

/// Gives up every capability for good, in every set, and the right to gain any. An init that guards trees keeps one: it reads the arguments of
/// waiting calls, also those of programs that let nobody of their own user look (ssh-agent, gpg-agent). So does one that holds
/// limits by looking, lest a program hide what it holds in the same way. The command gets none: exec gives what the bounding
/// set holds, which is nothing.
fn drop_privileges(looks: bool) -> io::Result<()> {
    sys::empty_bounding_set()?;
    // Linux 4.3 and later have the ambient set; a kernel without it has nothing to clear.
    match rustix::thread::clear_ambient_capability_set() {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let kept = match looks {
        true => CapabilitySet::SYS_PTRACE,
        false => CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let left = rustix::thread::capabilities(None)?;
    if left.effective | left.permitted | left.inheritable != kept || rustix::process::geteuid().is_root() {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}

/// An init that carries out truncate(2) for the command is bound by the command's limit, and takes an error instead of the signal.
fn limit_own_files(limits: &Limits) -> Result<(), nix::errno::Errno> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Some(bytes) = limits.file_bytes else {
        return Ok(());
    };
    let mut ignored = SigSet::empty();
    ignored.add(Signal::SIGXFSZ);
    ignored.thread_block()?;
    let (_, inherited) = getrlimit(Resource::RLIMIT_FSIZE)?;
    setrlimit(Resource::RLIMIT_FSIZE, bytes.min(inherited), bytes.min(inherited))
}

/// A listener on 127.0.0.1 of the sandbox, for the daemon to answer on.
fn listen(port: u16) -> io::Result<OwnedFd> {
    Ok(std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port))?.into())
}

/// The report of what holds. Landlock and seccomp are prepared; a process that cannot take them on does not become the command.
fn report(birth: &Birth<'_>, built: &view::Built, rights: &Rights, protected_paths: State) -> Vec<Enforced> {
    let spec = birth.spec;
    let active = |text: &str| State::Active(text.into());
    let view = match built.degraded.as_slice() {
        [] => active("own mount namespace, pivot_root"),
        what => State::Degraded(what.join("; ")),
    };
    let of = |protection| match protection {
        Protection::FilesystemView => view.clone(),
        Protection::FilesystemRights => rights.state(),
        Protection::ProtectedPaths => protected_paths.clone(),
        Protection::Processes => active("own pid namespace"),
        Protection::Network => rights.network(&spec.network),
        Protection::Ipc => rights.ipc(&spec.network),
        Protection::SystemCalls => active("seccomp filter"),
        Protection::Privileges => State::Active(format!(
            "no_new_privs, no capabilities, uid {} inside{}",
            spec.identity.inside_uid,
            kept_groups(birth.kept_groups)
        )),
        Protection::Resources => birth.resources.clone(),
        Protection::Descriptors if spec.session => active("0, 1 and 2 only, and 63 where a shell tells its state"),
        Protection::Descriptors => active("0, 1 and 2 only"),
        Protection::Environment => active("built from policy and request"),
    };
    Protection::ALL
        .into_iter()
        .map(|protection| Enforced {
            protection,
            state: of(protection),
        })
        .collect()
}

/// What an unprivileged daemon cannot take from its commands: the kernel lets nobody drop groups in a user namespace of their own, because
/// being in a group can also mean to be kept out.
fn kept_groups(groups: &[u32]) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
    format!(
        ", the daemon's supplementary groups kept (only root's daemon can drop them): {}",
        groups.join(" ")
    )
}

/// What holds of the paths that are to be protected.
fn protected_paths(spec: &SandboxSpec, guarded: bool, can_guard: bool) -> State {
    match (spec.guard.is_empty(), guarded) {
        (true, _) => State::Active("the policy protects none".into()),
        (false, true) => State::Active("read-only mount, changes through init".into()),
        (false, false) if spec.is_guarded() && !can_guard => State::Off(
            "calls cannot be made to wait: the kernel has no seccomp user notification that hands over descriptors, or \
             another sandbox around this one uses it"
                .into(),
        ),
        (false, false) => State::Active("no tree is writable".into()),
    }
}

/// Fails when a required protection is not fully active.
fn require(required: &[Protection], enforcement: &[Enforced]) -> Result<(), Failure> {
    for entry in enforcement.iter().filter(|entry| required.contains(&entry.protection)) {
        let (State::Degraded(why) | State::Off(why)) = &entry.state else {
            continue;
        };
        return Err(Failure {
            protection: Some(entry.protection),
            stage: why.clone(),
            errno: 0,
            path: Vec::new(),
        });
    }
    Ok(())
}

/// Waits for requests and for children, until the sandbox is over. Returns init's exit code.
fn serve(socket: &OwnedFd, life: BorrowedFd<'_>, mut ready: Ready) -> i32 {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    let children = match mask
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
    {
        Ok(children) => children,
        Err(errno) => {
            let failure = fail(Protection::Processes, "signalfd")(errno);
            let _ = wire::send(socket.as_fd(), &Event::Failed(failure), &[]);
            return 1;
        }
    };
    let refusal = ready.refusal.take();
    let enforcement = std::mem::take(&mut ready.enforcement);
    let announce = || {
        let fds: Vec<_> = refusal.iter().map(AsFd::as_fd).collect();
        wire::send(socket.as_fd(), &Event::Ready { enforcement }, &fds)
    };
    let Ready {
        limits,
        fallback,
        rights,
        filters,
        mut waiting,
        mut watch,
        session,
        ..
    } = ready;
    let confinement = Confinement {
        limits,
        fallback,
        rights,
        filters,
    };
    if let Some((gauges, network)) = session {
        let opened = Session::open(session::Parts {
            socket,
            children,
            life,
            confinement,
            waiting,
            watch,
            gauges,
            network,
        });
        return match opened {
            Ok(session) if announce().is_ok() => {
                drop(refusal);
                session.serve()
            }
            Ok(_) => 1,
            Err(error) => {
                let _ = wire::send(socket.as_fd(), &Event::Failed(error.into_failure()), &[]);
                1
            }
        };
    }
    if announce().is_err() {
        return 1;
    }
    drop(refusal);
    let mut refusals = Refusals::default();
    let mut listener: Option<OwnedFd> = None;
    let mut confinement = Some(confinement);
    let mut leader = None;
    loop {
        let mut fds = vec![
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            PollFd::new(life, PollFlags::POLLIN),
        ];
        fds.extend(
            listener
                .iter()
                .map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)),
        );
        let unsettled = waiting.unsettled().filter(|_| listener.is_some());
        fds.extend(unsettled.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, watch.timeout()) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return 1,
            Ok(_) => {}
        }
        if let Some(passed) = watch.look() {
            sys::kill(-1, libc::SIGKILL);
            let _ = wire::send(socket.as_fd(), &passed, &[]);
        }
        let calls = fds.get(3).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        let [requests, child, launcher] = [0, 1, 2].map(|index: usize| fds[index].any().unwrap_or(false));
        if launcher {
            return 1;
        }
        // Before any call, so that it finds what was closed before it; and after the last process.
        let mut denials = waiting.settle();
        if calls.contains(PollFlags::POLLIN)
            && let Some(listener) = &listener
        {
            denials.extend(waiting.serve(listener.as_fd()));
        }
        for denial in denials.into_iter().filter_map(|denial| refusals.note(denial)) {
            let _ = wire::send(socket.as_fd(), &Event::Refused(denial), &[]);
        }
        while let Some(recorded) = waiting.recorded(child) {
            let _ = wire::send(socket.as_fd(), &recorded, &[]);
        }
        if !calls.contains(PollFlags::POLLIN) && calls.contains(PollFlags::POLLHUP) {
            // Nobody under the filter is left.
            listener = None;
        }
        if child {
            while let Ok(Some(_)) = children.read_signal() {}
            if !reap(socket, &mut leader, refusals.count()) {
                return 0;
            }
        }
        if requests {
            match wire::receive::<Request>(socket.as_fd()) {
                Ok(Some((request @ (Request::Exec | Request::Files), fds))) => match confinement.take() {
                    Some(confinement) => {
                        watch.begin();
                        if let Some(spawned) = start(socket, &request, fds, confinement, &mut waiting) {
                            (leader, listener) = (Some(spawned.pid), spawned.listener);
                        }
                    }
                    None => return 1,
                },
                Ok(Some((Request::SelfTest, _))) => match confinement.take() {
                    Some(confinement) => {
                        let findings = selftest::run(confinement, waiting);
                        return wire::send(socket.as_fd(), &Event::SelfTest { findings }, &[]).map_or(1, |()| 0);
                    }
                    None => return 1,
                },
                Ok(Some((Request::CpuTime, _))) => {
                    let _ = wire::send(
                        socket.as_fd(),
                        &Event::CpuTime {
                            micros: processes::cpu_time(),
                        },
                        &[],
                    );
                }
                Ok(Some((Request::Signal { signal, scope }, _))) => processes::send_signal(leader, signal, scope),
                // The daemon closed its end or speaks nonsense: the sandbox is over.
                Ok(Some((Request::Run { .. } | Request::Describe | Request::Kill | Request::Leave, _)) | None)
                | Err(_) => {
                    return 1;
                }
            }
        }
    }
}

/// Starts the command. `None` when it could not be started, which the daemon has been told.
fn start(
    socket: &OwnedFd,
    request: &Request,
    fds: Vec<OwnedFd>,
    confinement: Confinement,
    waiting: &mut Waiting,
) -> Option<command::Spawned> {
    let refuse = |error: SpawnError| {
        let _ = wire::send(socket.as_fd(), &error.into_event(), &[]);
    };
    let mut fds = fds.into_iter();
    let (Some(spec), stdio) = (fds.next(), fds.collect::<Vec<_>>()) else {
        refuse(SpawnError::request());
        return None;
    };
    let command: CommandSpec = match wire::read_memory_file(spec) {
        Ok(command) => command,
        Err(_) => {
            refuse(SpawnError::request());
            return None;
        }
    };
    if *request == Request::Files {
        let (Ok([operations]), Ok(stdio)) = (<[OwnedFd; 1]>::try_from(stdio), command::no_stdio()) else {
            refuse(SpawnError::request());
            return None;
        };
        let worker = command::spawn(&command, Task::Files(&operations), stdio, &confinement, waiting);
        return worker
            .map(|spawned| announce(socket, spawned, &[]))
            .map_err(refuse)
            .ok();
    }
    let (stdio, master) = match (command.terminal, <[OwnedFd; 3]>::try_from(stdio)) {
        (None, Ok(stdio)) => (stdio, None),
        (Some(size), Err(none)) if none.is_empty() => match terminal::open(size) {
            Ok((master, stdio)) => (stdio, Some(master)),
            Err(error) => {
                refuse(SpawnError::terminal(&error));
                return None;
            }
        },
        _ => {
            refuse(SpawnError::request());
            return None;
        }
    };
    waiting.note_command(&command);
    match command::spawn(&command, Task::Execute, stdio, &confinement, waiting) {
        Ok(spawned) => {
            let master: Vec<_> = master.iter().map(AsFd::as_fd).collect();
            Some(announce(socket, spawned, &master))
        }
        Err(error) => {
            refuse(error);
            None
        }
    }
}

/// Says that the command, or what is in its place, runs.
fn announce(socket: &OwnedFd, spawned: command::Spawned, fds: &[BorrowedFd<'_>]) -> command::Spawned {
    if let Some(listener) = &spawned.listener {
        notify::prefer_turns(listener.as_fd());
    }
    let pid = spawned.pid.as_raw();
    let _ = wire::send(socket.as_fd(), &Event::Started { pid }, fds);
    spawned
}

/// Reaps everything that has ended. Reports the main process. False when no process is left and the main one was started: the sandbox is
/// over.
fn reap(socket: &OwnedFd, leader: &mut Option<Pid>, refusals: u64) -> bool {
    loop {
        match sys::reap(Pid::from_raw(-1)) {
            Ok(Some((pid, status, _))) if Some(pid) == *leader => {
                *leader = None;
                let (leftovers, leftover_count) = processes::leftovers();
                let status = exit_status(status);
                let event = Event::Exited {
                    status,
                    leftovers,
                    leftover_count,
                    refusals,
                };
                if wire::send(socket.as_fd(), &event, &[]).is_err() {
                    return false;
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return true,
            // ECHILD: nobody is left.
            Err(_) => return false,
        }
    }
}

pub(crate) fn exit_status(status: libc::c_int) -> ExitStatus {
    if libc::WIFEXITED(status) {
        ExitStatus::Exited(libc::WEXITSTATUS(status))
    } else {
        ExitStatus::Signaled {
            signal: libc::WTERMSIG(status),
            core: libc::WCOREDUMP(status),
        }
    }
}

fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
}
