//! The launcher: one small process with one thread that makes every sandbox.
//!
//! It exists so that nothing ever forks from the threaded daemon, and so that the process that parses network input is not the
//! one that makes namespaces. It is started before the daemon has threads, with an empty environment, and does four things: it makes a
//! sandbox for each request, it opens directories that the daemon may not list itself, it reaps each init, and when the daemon is gone (end of file on its socket) it kills every sandbox, removes
//! what they left and ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Backend, CpuTime, Leaf};
use crate::event::{Event, Failure, Usage};
use crate::init::{self, Birth};
use crate::spec::{Fallback, Limits, Network, Protection, SandboxSpec, State};
use crate::sys::{self, Forked, Rusage};
use crate::{idmap, lister, scratch, starter, waiting, wire};

/// What a process that shall become the launcher is called (`argv[0]`). The daemon's socket is its standard input.
pub(crate) const ARGV0: &str = "fumehood-launcher";

/// How often ended sweepers and listers are reaped.
const REAP_PERIOD_MS: u16 = 50;

/// What limits sandboxes on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroups {
    /// 0: nothing but rlimits; 1 or 2: the cgroup version.
    pub version: u8,
    /// How far limits hold.
    pub state: State,
    /// Commands or settings that would mend what is missing.
    pub remedy: Vec<String>,
}

/// From the daemon to the launcher.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// First message.
    Configure(Configuration),
    /// Make a sandbox: a memory file with its spec and one end of its socket come along.
    Create,
    /// Open directories for whoever holds the other end of the socket that comes along; see `lister.rs`.
    List,
}

/// What the launcher needs to know once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Configuration {
    /// Where scratch directories are made; see `scratch.rs`.
    pub scratch_root: PathBuf,
    /// The daemon's pid, to be kept out of the sandboxes' cgroups.
    pub daemon_pid: i32,
}

/// From the launcher to the daemon, once, in answer to `Configure`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Greeting {
    /// It can make sandboxes.
    Ready {
        /// Name of this launcher's cgroup and scratch directories.
        instance: String,
        /// What limits sandboxes.
        cgroups: Cgroups,
    },
    /// It cannot.
    Failed {
        /// What was being done.
        stage: String,
        /// Why it failed.
        error: String,
    },
}

/// Becomes the launcher, or what starts it, if this process was started as one, and then never returns. Must be the first thing in
/// `main` of every program that starts a [`crate::Starter`].
pub fn become_launcher_if_asked() {
    match std::env::args_os().next() {
        Some(name) if name == ARGV0 => std::process::exit(run()),
        Some(name) if name == starter::ARGV0 => std::process::exit(starter::run()),
        _ => {}
    }
}

fn run() -> i32 {
    let socket = match sys::adopt(0).and_then(sys::move_high) {
        Ok(socket) => socket,
        Err(_) => return 1,
    };
    if sys::reserve_low(&[0, 1, 3]).is_err() || sys::thread_count().is_ok_and(|count| count != 1) {
        return 1;
    }
    let _ = rustix::thread::set_name(c"fumehood-launch");
    // A terminal's Ctrl-C reaches the whole group: the daemon decides what it means, not this process.
    let _ = rustix::process::setsid();
    let _ = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let configuration = match wire::receive::<Command>(socket.as_fd()) {
        Ok(Some((Command::Configure(configuration), _))) => configuration,
        _ => return 1,
    };
    let mut launcher = match Launcher::new(&configuration) {
        Ok((launcher, greeting)) => {
            if wire::send(socket.as_fd(), &greeting, &[]).is_err() {
                return 1;
            }
            launcher
        }
        Err((stage, error)) => {
            let greeting = Greeting::Failed {
                stage: stage.into(),
                error: error.to_string(),
            };
            let _ = wire::send(socket.as_fd(), &greeting, &[]);
            return 1;
        }
    };
    launcher.serve(&socket);
    launcher.end();
    0
}

/// A sandbox as the launcher sees it.
struct Living {
    init: Pid,
    pidfd: OwnedFd,
    socket: OwnedFd,
    leaf: Option<Leaf>,
    /// CPU time of init itself before its cgroup began to count, in microseconds.
    uncounted_us: u64,
    scratch: PathBuf,
}

struct Launcher {
    backend: Backend,
    /// With what the backend limits, or why it cannot.
    resources: State,
    /// `<scratch root>/<instance>`
    scratch: PathBuf,
    /// The file of locks that every launcher of the scratch root opens.
    locks: PathBuf,
    /// The write end that only this process holds: inits see it hang up when this process dies.
    life: (OwnedFd, OwnedFd),
    living: Vec<Living>,
    /// Children that remove scratch directories.
    sweepers: Vec<Pid>,
    /// Children that open directories. They end by themselves, and one may hang on a dead file system: nobody waits for them.
    listers: Vec<Pid>,
    privileged: bool,
    own_uids: Vec<(u32, u32)>,
    own_gids: Vec<(u32, u32)>,
    /// Supplementary groups that commands keep: none where they can be dropped.
    kept_groups: Vec<u32>,
    /// Whether inits can have calls wait for them.
    can_guard: bool,
}

impl Launcher {
    fn new(configuration: &Configuration) -> Result<(Self, Greeting), (&'static str, io::Error)> {
        let instance = cgroup::instance_name().map_err(|error| ("name this instance", error))?;
        scratch::prepare_root(&configuration.scratch_root).map_err(|error| ("prepare the scratch directory", error))?;
        // What dead launchers left. A failure here must not keep the living from working.
        let _ = scratch::sweep(&configuration.scratch_root);
        let own = scratch::instance(&configuration.scratch_root, &instance);
        std::fs::create_dir(&own).map_err(|error| ("make the scratch directory", error))?;
        let mut own_processes = vec![configuration.daemon_pid, std::process::id() as libc::pid_t];
        // The starter. In a pid namespace that it is outside of it has no number, and is in no cgroup of ours.
        own_processes.extend(rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()));
        let (backend, detail) = Backend::detect(&instance, &own_processes);
        // What cannot be removed now stays for the next sweep; it holds no process.
        let _ = backend.sweep();
        let map = |file| idmap::parse_own(&std::fs::read_to_string(file).unwrap_or_default());
        let life = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| ("pipe", error.into()))?;
        let version = detail.version.map_or(0, |version| match version {
            cgroup::Version::V1 => 1,
            cgroup::Version::V2 => 2,
        });
        let resources = detail.state();
        let cgroups = Cgroups {
            version,
            state: resources.clone(),
            remedy: detail.remedy,
        };
        let greeting = Greeting::Ready { instance, cgroups };
        let launcher = Launcher {
            backend,
            resources,
            scratch: own,
            locks: scratch::locks(&configuration.scratch_root),
            life,
            living: Vec::new(),
            sweepers: Vec::new(),
            listers: Vec::new(),
            privileged: rustix::process::geteuid().is_root(),
            own_uids: map("/proc/self/uid_map"),
            own_gids: map("/proc/self/gid_map"),
            kept_groups: kept_groups(),
            can_guard: waiting::available(),
        };
        Ok((launcher, greeting))
    }

    /// Serves until the daemon is gone.
    fn serve(&mut self, socket: &OwnedFd) {
        loop {
            let mut fds = vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            fds.extend(
                self.living
                    .iter()
                    .map(|sandbox| PollFd::new(sandbox.pidfd.as_fd(), PollFlags::POLLIN)),
            );
            // Sweepers and listers have no descriptor of their own; they are looked after every so often while there are any.
            let timeout = if self.sweepers.is_empty() && self.listers.is_empty() {
                PollTimeout::NONE
            } else {
                REAP_PERIOD_MS.into()
            };
            if !matches!(poll(&mut fds, timeout), Ok(_) | Err(nix::errno::Errno::EINTR)) {
                return;
            }
            let requests = fds[0].any().unwrap_or(false);
            let ended: Vec<usize> = fds[1..]
                .iter()
                .enumerate()
                .filter(|(_, fd)| fd.any().unwrap_or(false))
                .map(|(index, _)| index)
                .collect();
            for index in ended.into_iter().rev() {
                let sandbox = self.living.swap_remove(index);
                self.bury(sandbox);
            }
            for children in [&mut self.sweepers, &mut self.listers] {
                children.retain(|pid| matches!(sys::reap(*pid), Ok(None)));
            }
            if requests {
                match wire::receive::<Command>(socket.as_fd()) {
                    Ok(Some((Command::Create, fds))) => self.create(fds),
                    Ok(Some((Command::List, fds))) => self.list(fds),
                    Ok(Some((Command::Configure(_), _))) => {}
                    Ok(None) | Err(_) => return,
                }
            }
        }
    }

    /// Makes a sandbox and tells whoever holds the other end of its socket how that went.
    fn create(&mut self, fds: Vec<OwnedFd>) {
        let Ok([spec, socket]) = <[OwnedFd; 2]>::try_from(fds) else {
            return;
        };
        let result = wire::read_memory_file::<SandboxSpec>(spec)
            .map_err(|error| failure(None, "read the spec")(error))
            .and_then(|spec| self.give_birth(&spec, &socket));
        match result {
            Ok(sandbox) => {
                let _ = wire::send(socket.as_fd(), &Event::Created, &[sandbox.pidfd.as_fd()]);
                self.living.push(Living { socket, ..sandbox });
            }
            Err(failure) => {
                let _ = wire::send(socket.as_fd(), &Event::Failed(failure), &[]);
                let _ = wire::send(
                    socket.as_fd(),
                    &Event::Gone {
                        init_status: 0,
                        usage: Usage::default(),
                    },
                    &[],
                );
            }
        }
    }

    /// Starts a lister. A child, because a directory may lie where opening it takes long. Where it cannot be started, the socket hangs up.
    fn list(&mut self, fds: Vec<OwnedFd>) {
        let Ok([socket]) = <[OwnedFd; 1]>::try_from(fds) else {
            return;
        };
        match sys::fork() {
            Ok(Forked::Child) => {
                if sys::close_all_but(&[socket.as_fd()]).is_ok() {
                    lister::serve(&socket);
                }
                std::process::exit(0);
            }
            Ok(Forked::Parent(pid)) => self.listers.push(pid),
            Err(_) => {}
        }
    }

    fn give_birth(&mut self, spec: &SandboxSpec, socket: &OwnedFd) -> Result<Living, Failure> {
        let own_socket = socket.try_clone().map_err(failure(None, "copy the socket"))?;
        let identity = &spec.identity;
        let scratch = scratch::create(&self.scratch, &spec.name, identity.outside_uid, identity.outside_gid)
            .map_err(failure(Some(Protection::FilesystemView), "make the scratch directory"))?;
        let (leaf, resources) = self.limits(spec);
        match self.clone_init(spec, own_socket, &scratch, leaf.as_ref(), resources) {
            Ok((init, pidfd, socket)) => Ok(Living {
                init,
                pidfd,
                socket,
                // On v2 it is born in its cgroup, on v1 it is moved there while it builds the view.
                uncounted_us: match leaf.as_ref().map(Leaf::dir_fd) {
                    Some(None) => own_cpu_us(init),
                    Some(Some(_)) | None => 0,
                },
                leaf,
                scratch,
            }),
            Err(failure) => {
                if let Some(leaf) = leaf {
                    remove(&leaf);
                }
                let _ = scratch::remove_tree(&scratch);
                Err(failure)
            }
        }
    }

    /// The sandbox's cgroup, and what it enforces. What it does not is left to [`fallback`], and the report says so.
    fn limits(&self, spec: &SandboxSpec) -> (Option<Leaf>, State) {
        let without = |why: &str| {
            State::Degraded(format!(
                "no cgroup ({why}): processes by rlimit, memory looked at four times a second or oftener, CPU not limited"
            ))
        };
        if !self.backend.is_usable() {
            let (State::Active(why) | State::Degraded(why) | State::Off(why)) = &self.resources;
            return (None, without(why));
        }
        match self.backend.create(&spec.name, &spec.limits) {
            Ok(leaf) => {
                let held = leaf.in_force();
                let asked = &spec.limits;
                let complete = (held.memory || asked.memory_bytes.is_none())
                    && (held.processes || asked.processes.is_none())
                    && (held.cpu || asked.cpu_millis.is_none());
                let state = match &self.resources {
                    State::Degraded(text) if complete => State::Active(text.clone()),
                    State::Active(text) if !complete => State::Degraded(text.clone()),
                    state => state.clone(),
                };
                (Some(leaf), state)
            }
            Err(error) => (None, without(&error.to_string())),
        }
    }

    fn clone_init(
        &self,
        spec: &SandboxSpec,
        socket: OwnedFd,
        scratch: &Path,
        leaf: Option<&Leaf>,
        resources: State,
    ) -> Result<(Pid, OwnedFd, OwnedFd), Failure> {
        // Opened for each sandbox: locks belong to what was opened.
        let locks = (spec.is_guarded() && self.can_guard)
            .then(|| scratch::open_locks(&self.locks))
            .transpose()
            .map_err(failure(Some(Protection::ProtectedPaths), "open the file of locks"))?;
        let (go_read, go_write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failure(None, "pipe"))?;
        let child = sys::clone_namespaces(
            !matches!(spec.network, Network::Host { .. }),
            leaf.and_then(Leaf::dir_fd),
        )
        .map_err(failure(Some(Protection::Processes), "clone3 into new namespaces"))?;
        let Some((pid, pidfd)) = child else {
            drop(go_write);
            let life = self.life.0.as_fd();
            let fallback = fallback(leaf, &spec.limits);
            let gauges = leaf.filter(|_| spec.session).map(Leaf::gauges).unwrap_or_default();
            self.become_init(Birth {
                spec,
                socket,
                go: go_read,
                life,
                scratch,
                kept_groups: &self.kept_groups,
                resources,
                fallback,
                can_guard: self.can_guard,
                locks,
                gauges,
            })
        };
        drop(go_read);
        let mut go = File::from(go_write);
        let mut release = || {
            go.write_all(&[1])
                .map_err(failure(Some(Protection::Processes), "release init"))
        };
        // Moving a process between version 1 cgroups takes 10 ms and more on an idle machine (an RCU grace period): init builds its view
        // meanwhile and goes on with the second byte.
        let released = self.map_ids(pid, spec).and_then(|()| release()).and_then(|()| {
            if let Some(leaf) = leaf {
                leaf.attach(pid.as_raw()).map_err(|error| Failure {
                    protection: Some(Protection::Resources),
                    stage: error.to_string(),
                    errno: error.errno,
                    path: Vec::new(),
                })?;
            }
            release()
        });
        match released {
            Ok(()) => Ok((pid, pidfd, socket)),
            Err(failure) => {
                // Its pipe has hung up, so it ends by itself; it is waited for so that its cgroup can be removed.
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
                let _ = nix::sys::wait::waitpid(pid, None);
                Err(failure)
            }
        }
    }

    /// The child's side of the clone: lets go of what belongs to the launcher, then is init.
    fn become_init(&self, birth: Birth<'_>) -> ! {
        // Of the launcher's descriptors only these survive. Those of other sandboxes (sockets, pidfds) must not: a socket held here
        // would keep another sandbox's end of file from the daemon, and the write end of `life` would keep this one alive.
        let mut keep = vec![birth.socket.as_fd(), birth.go.as_fd(), birth.life];
        keep.extend(birth.locks.iter().map(AsFd::as_fd));
        keep.extend(birth.gauges.descriptors());
        if sys::close_all_but(&keep).is_err() {
            std::process::exit(1);
        }
        init::run(birth)
    }

    fn map_ids(&self, pid: Pid, spec: &SandboxSpec) -> Result<(), Failure> {
        let plan = idmap::plan(&spec.identity, self.privileged, &self.own_uids, &self.own_gids);
        let write = |file: &'static str, contents: &str| {
            let path = format!("/proc/{pid}/{file}");
            // One write: the kernel takes a map only whole.
            File::options()
                .write(true)
                .open(path)
                .and_then(|mut file| file.write_all(contents.as_bytes()))
                .map_err(failure(
                    Some(Protection::Privileges),
                    match file {
                        "setgroups" => "write setgroups",
                        "gid_map" => "write gid_map",
                        _ => "write uid_map",
                    },
                ))
        };
        if plan.deny_setgroups {
            write("setgroups", "deny")?;
        }
        write("gid_map", &plan.gid_map)?;
        write("uid_map", &plan.uid_map)
    }

    /// After init's death, which no process of the sandbox survives: takes its status, removes its cgroup, starts the removal of its scratch
    /// directory, and says so.
    fn bury(&mut self, sandbox: Living) {
        // While it is a zombie: whoever reaps it gets its own time and that of its children in one sum.
        let own_us = own_cpu_us(sandbox.init);
        let (init_status, rusage) = loop {
            match sys::reap(sandbox.init) {
                Ok(Some((_, status, rusage))) => break (status, rusage),
                // Its pidfd said it is dead; it cannot be otherwise for long.
                Ok(None) => continue,
                Err(_) => break (0, Rusage::default()),
            }
        };
        let usage = usage(sandbox.leaf.as_ref(), rusage, own_us, sandbox.uncounted_us);
        if let Some(leaf) = &sandbox.leaf {
            remove(leaf);
        }
        let init_status = match init::exit_status(init_status) {
            crate::event::ExitStatus::Exited(code) => code,
            crate::event::ExitStatus::Signaled { signal, .. } => -signal,
        };
        let _ = wire::send(sandbox.socket.as_fd(), &Event::Gone { init_status, usage }, &[]);
        drop(sandbox.socket);
        // Removing a large tree takes long: a child does it.
        match sys::fork() {
            Ok(Forked::Child) => {
                let _ = sys::close_all_but(&[]);
                let _ = scratch::remove_tree(&sandbox.scratch);
                std::process::exit(0);
            }
            Ok(Forked::Parent(pid)) => self.sweepers.push(pid),
            Err(_) => {
                let _ = scratch::remove_tree(&sandbox.scratch);
            }
        }
    }

    /// The daemon is gone: nothing of ours may stay.
    fn end(&mut self) {
        for sandbox in &self.living {
            let _ = rustix::process::pidfd_send_signal(&sandbox.pidfd, rustix::process::Signal::KILL);
        }
        for sandbox in std::mem::take(&mut self.living) {
            let mut fds = [PollFd::new(sandbox.pidfd.as_fd(), PollFlags::POLLIN)];
            while matches!(poll(&mut fds, PollTimeout::NONE), Err(nix::errno::Errno::EINTR)) {}
            self.bury(sandbox);
        }
        let _ = self.backend.remove_instance();
        for pid in std::mem::take(&mut self.sweepers) {
            let _ = nix::sys::wait::waitpid(pid, None);
        }
        let _ = scratch::remove_tree(&self.scratch);
    }
}

fn failure<E: Into<io::Error>>(protection: Option<Protection>, stage: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure {
        protection,
        stage: stage.into(),
        errno: sys::errno_of(&error.into()),
        path: Vec::new(),
    }
}

fn kept_groups() -> Vec<u32> {
    if rustix::process::geteuid().is_root() {
        return Vec::new();
    }
    let own = rustix::process::getegid();
    let groups = rustix::process::getgroups().unwrap_or_default();
    groups
        .into_iter()
        .filter(|group| *group != own)
        .map(|group| group.as_raw())
        .collect()
}

/// What the cgroup does not bound.
fn fallback(leaf: Option<&Leaf>, limits: &Limits) -> Fallback {
    let held = leaf.map(Leaf::in_force).unwrap_or_default();
    Fallback {
        memory_bytes: limits.memory_bytes.filter(|_| !held.memory),
        processes: limits.processes.filter(|_| !held.processes),
    }
}

/// Removes a sandbox's cgroup. It is empty, because its init is dead; killing confirms that before it is said. What cannot be removed
/// is removed by a later sweep.
fn remove(leaf: &Leaf) {
    let _ = leaf.kill().and_then(|()| leaf.remove());
}

/// The cgroup's figures where there are any, else those of wait4; without init's own CPU time, `own_us` in all, of which the cgroup did not
/// see `uncounted_us`.
fn usage(leaf: Option<&Leaf>, rusage: Rusage, own_us: u64, uncounted_us: u64) -> Usage {
    let reaped = reaped_usage(rusage, own_us);
    leaf.map_or(reaped, |leaf| {
        let mut counted = leaf.usage();
        counted.cpu = counted.cpu.map(|cpu| cpu.without(own_us.saturating_sub(uncounted_us)));
        counted.over(reaped)
    })
}

/// The figures of wait4, without the `own_us` of whoever it was that kept the tree.
pub(crate) fn reaped_usage(rusage: Rusage, own_us: u64) -> Usage {
    let cpu = CpuTime {
        user_us: rusage.user_us,
        system_us: rusage.system_us,
    }
    .without(own_us);
    Usage {
        cpu_user_us: cpu.user_us,
        cpu_system_us: cpu.system_us,
        memory_peak_bytes: rusage.max_rss_bytes,
        oom_kills: 0,
        fork_failures: None,
        throttled_us: None,
        from_cgroup: false,
    }
}

/// CPU time of a process with one thread, its children's not included, in microseconds. 0 where the kernel does not tell
/// (without CONFIG_SCHED_INFO, which no distribution leaves out): then a run's figures hold init's as well.
pub(crate) fn own_cpu_us(pid: Pid) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    // Nanoseconds on a processor, nanoseconds waiting, turns. proc_pid_stat(5) has only ticks of 10 ms.
    let on_cpu = text.split_ascii_whitespace().next();
    on_cpu.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inits_own_processor_time_is_not_reported_as_the_commands() {
        let rusage = || Rusage {
            user_us: 500,
            system_us: 3_000,
            max_rss_bytes: 1,
        };
        let times = |own_us| {
            let usage = usage(None, rusage(), own_us, 0);
            (usage.cpu_user_us, usage.cpu_system_us)
        };
        assert_eq!(times(0), (500, 3_000));
        assert_eq!(times(2_900), (500, 100));
        assert_eq!(times(3_200), (300, 0));
        assert_eq!(times(9_000), (0, 0));
    }

    #[test]
    fn the_kernel_tells_what_a_process_itself_used() {
        let begun = own_cpu_us(Pid::this());
        let mut sum = 0u64;
        // The figure of the main thread of this test program grows at its own pace: any growth of this process's shows that it is read.
        while own_cpu_us(Pid::from_raw(rustix::thread::gettid().as_raw_nonzero().get())) == 0 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(own_cpu_us(Pid::this()) >= begun);
        assert_eq!(own_cpu_us(Pid::from_raw(i32::MAX)), 0);
    }
}
