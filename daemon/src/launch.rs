//! Where sandboxes come from: the launcher, kept alive, and what the self-test found out about this machine.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fumehood_sandbox::event::{Event, Finding, SignalScope};
use fumehood_sandbox::files::{Operation, Reply, Worker};
use fumehood_sandbox::spec::{
    Access, Enforced, Exceptions, Guard, Identity, Limits, Network, Protection, SandboxSpec, State, Syscalls, View,
    ViewEntry,
};
use fumehood_sandbox::{Cgroups, LaunchError, Launcher, Lister, Running, Sandbox, Starter, selftest};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::run::{Enforcement, Requirement};

/// How long the self-test may take before it counts as failed.
const SELF_TEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How soon a launcher that could not be started is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The launcher and what is known of the machine; clones share it.
#[derive(Clone, Debug)]
pub struct Launching {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    scratch_root: PathBuf,
    /// Starts launchers: the daemon itself has given that up. `None` once it is ended.
    starter: Mutex<Option<Starter>>,
    /// `None` between the death of one and the start of the next.
    launcher: Mutex<Option<Launcher>>,
    self_test: Mutex<SelfTest>,
}

/// What the self-test found.
#[derive(Clone, Debug, Default)]
pub struct SelfTest {
    /// What every attempt showed.
    pub findings: Vec<Finding>,
    /// The report of the test's own sandbox.
    pub enforcement: Vec<Enforced>,
    /// Why there was no test, if there was none.
    pub failure: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Launching {
    /// Starts the launcher and the process that can start another. Call it before the daemon's walls are up; after that nothing can be
    /// started.
    pub fn start(scratch_root: &Path) -> Result<Launching, LaunchError> {
        let starter = Starter::start()?;
        let launcher = starter.launch(scratch_root)?;
        Ok(Launching {
            shared: Arc::new(Shared {
                scratch_root: scratch_root.to_owned(),
                starter: Mutex::new(Some(starter)),
                launcher: Mutex::new(Some(launcher)),
                self_test: Mutex::default(),
            }),
        })
    }

    /// Asks for a sandbox.
    pub fn create(&self, spec: &SandboxSpec) -> io::Result<Watched> {
        let sandbox = self.with_launcher(|launcher| launcher.create(spec))?;
        let socket = watch(sandbox.as_fd())?;
        Ok(Watched { sandbox, socket })
    }

    /// Has directories opened that the daemon itself may not list. Blocks while the launcher is busy.
    pub fn lister(&self) -> io::Result<Lister> {
        self.with_launcher(Launcher::lister)
    }

    fn with_launcher<T>(&self, ask: impl FnOnce(&Launcher) -> io::Result<T>) -> io::Result<T> {
        match &*lock(&self.shared.launcher) {
            Some(launcher) => ask(launcher),
            None => {
                let dead = "the launcher died and is being started again";
                Err(io::Error::new(io::ErrorKind::ConnectionRefused, dead))
            }
        }
    }

    /// What limits sandboxes.
    pub fn cgroups(&self) -> Option<Cgroups> {
        lock(&self.shared.launcher)
            .as_ref()
            .map(|launcher| launcher.cgroups().clone())
    }

    /// What helps on this machine where `protection` is not fully active; empty when nothing is known to.
    pub fn remedy(&self, protection: Protection) -> String {
        crate::remedy::of(protection, self.cgroups().as_ref())
    }

    /// What the self-test found.
    pub fn self_test(&self) -> SelfTest {
        lock(&self.shared.self_test).clone()
    }

    /// The first protection that a sandbox requires and the self-test found without effect, with what got through.
    pub fn missing(&self, spec: &SandboxSpec) -> Option<(Protection, String)> {
        lock(&self.shared.self_test)
            .findings
            .iter()
            .find(|finding| !finding.held && spec.required.contains(&finding.protection) && concerns(finding, spec))
            .map(|finding| (finding.protection, format!("{}: {}", finding.name, finding.detail)))
    }

    /// A sandbox's own report, corrected by what the self-test found: what was let through is not active.
    ///
    /// `preferred` are the protections that the policy prefers; one that it requires as well counts as required.
    pub fn judge(&self, enforcement: Vec<Enforced>, spec: &SandboxSpec, preferred: &[Protection]) -> Vec<Enforcement> {
        let test = lock(&self.shared.self_test);
        let judged = |entry: Enforced| {
            let broken = test
                .findings
                .iter()
                .find(|finding| !finding.held && finding.protection == entry.protection && concerns(finding, spec));
            let state = match (entry.state, broken) {
                (State::Active(text), Some(finding)) => State::Degraded(format!(
                    "{text}; but the self-test got through: {}: {}",
                    finding.name, finding.detail
                )),
                (state, _) => state,
            };
            let requirement = if spec.required.contains(&entry.protection) {
                Requirement::Required
            } else if preferred.contains(&entry.protection) {
                Requirement::Preferred
            } else {
                Requirement::None
            };
            Enforcement {
                protection: entry.protection,
                state,
                requirement,
            }
        };
        enforcement.into_iter().map(judged).collect()
    }

    /// Tries everything that must not work in a throwaway sandbox, and remembers what that showed.
    pub async fn test(&self) -> SelfTest {
        let result = tokio::time::timeout(SELF_TEST_TIMEOUT, self.run_test()).await;
        let test = match result {
            Ok(Ok(test)) => test,
            Ok(Err(failure)) => SelfTest {
                failure: Some(failure),
                ..SelfTest::default()
            },
            Err(_) => SelfTest {
                failure: Some("the self-test did not end in time".to_owned()),
                ..SelfTest::default()
            },
        };
        *lock(&self.shared.self_test) = test.clone();
        test
    }

    async fn run_test(&self) -> Result<SelfTest, String> {
        let mut sandbox = self.create(&test_spec()).map_err(|error| error.to_string())?;
        let mut test = SelfTest::default();
        loop {
            let event = sandbox.receive().await.map_err(|error| error.to_string())?;
            match event.map(|(event, _)| event) {
                Some(Event::Ready { enforcement }) => {
                    test.enforcement = enforcement;
                    sandbox.handle().self_test().map_err(|error| error.to_string())?;
                }
                Some(Event::SelfTest { findings }) => test.findings = findings,
                Some(Event::Failed(failure)) => {
                    let errno = io::Error::from_raw_os_error(failure.errno);
                    let path = String::from_utf8_lossy(&failure.path).into_owned();
                    let about = if path.is_empty() { path } else { format!(" {path}") };
                    return Err(format!("{}{about}: {errno}", failure.stage));
                }
                Some(Event::Gone { .. }) if test.findings.is_empty() => {
                    return Err("the sandbox of the self-test ended early".to_owned());
                }
                Some(Event::Gone { .. }) => return Ok(test),
                Some(_) => {}
                None => return Err("the launcher died during the self-test".to_owned()),
            }
        }
    }

    /// Watches the launcher and has another started when it dies. Returns when that is not possible any more: the daemon can make no
    /// sandbox then, and whoever started it must start it anew.
    pub async fn keep_alive(self) -> LaunchError {
        loop {
            let socket = match &*lock(&self.shared.launcher) {
                Some(launcher) => watch(launcher.as_fd()),
                None => Err(io::ErrorKind::NotConnected.into()),
            };
            if let Ok(socket) = socket {
                tokio::select! {
                    // Readable means dead: nothing is ever sent on it.
                    _ = socket.readable() => {}
                    () = self.starter_death() => {
                        self.bury_starter().await;
                        continue;
                    }
                }
                let dead = lock(&self.shared.launcher).take();
                // The daemon is ending it.
                let Some(dead) = dead else {
                    return std::future::pending().await;
                };
                tracing::error!(
                    pid = dead.pid(),
                    "the launcher died, and every run with it; starting another"
                );
            }
            let shared = Arc::clone(&self.shared);
            let started = tokio::task::spawn_blocking(move || match &*lock(&shared.starter) {
                Some(starter) => starter.launch(&shared.scratch_root),
                None => Err(LaunchError::NoStarter),
            });
            match started.await {
                Ok(Ok(launcher)) => *lock(&self.shared.launcher) = Some(launcher),
                Ok(Err(gone @ LaunchError::NoStarter)) => return gone,
                Ok(Err(error)) => {
                    tracing::error!(
                        error = crate::telemetry::chain(&error),
                        "the launcher cannot be started"
                    );
                    tokio::time::sleep(RETRY).await;
                }
                Err(panic) => return LaunchError::Start(io::Error::other(panic)),
            }
        }
    }

    /// Resolves when the process that starts launchers has died.
    // The new constructors are unsafe for types that may close their descriptor early; an OwnedFd does not.
    #[expect(deprecated)]
    async fn starter_death(&self) {
        let process = lock(&self.shared.starter)
            .as_ref()
            .and_then(|starter| starter.process().try_clone_to_owned().ok());
        if let Some(process) = process.and_then(|process| AsyncFd::with_interest(process, Interest::READABLE).ok()) {
            let _ = process.readable().await;
            return;
        }
        std::future::pending().await
    }

    /// Reaps it. What runs goes on; another cannot be started from here, see [`Self::keep_alive`].
    async fn bury_starter(&self) {
        let Some(starter) = lock(&self.shared.starter).take() else {
            return;
        };
        tracing::error!(
            "the process that starts launchers died; runs go on, and when the launcher dies the daemon will end: start it anew soon"
        );
        // It is dead already: this does not wait.
        let _ = tokio::task::spawn_blocking(move || starter.end()).await;
    }

    /// Ends the launcher in order, and with it whatever is left. Blocks until nothing is.
    pub fn end(&self) {
        if let Some(launcher) = lock(&self.shared.launcher).take()
            && let Err(error) = launcher.end()
        {
            tracing::warn!(%error, "the launcher did not end in order");
        }
        if let Some(starter) = lock(&self.shared.starter).take()
            && let Err(error) = starter.end()
        {
            tracing::warn!(%error, "the launcher's starter did not end in order");
        }
    }
}

/// How long the processes of a sandbox are waited for whose launcher died. One in the kernel (a file system that hangs) can take longer.
const DEATH_PATIENCE: Duration = Duration::from_secs(5);

/// A sandbox whose events can be awaited.
#[derive(Debug)]
pub struct Watched {
    sandbox: Sandbox,
    socket: UnixStream,
}

impl Watched {
    /// The sandbox, to act on it.
    pub fn handle(&self) -> &Sandbox {
        &self.sandbox
    }

    /// The next event with its descriptors; see [`Sandbox::receive`]. At end of file no process of the sandbox is left. Cancelling loses nothing.
    pub async fn receive(&mut self) -> io::Result<Option<(Event, Vec<OwnedFd>)>> {
        loop {
            self.socket.readable().await?;
            let sandbox = &mut self.sandbox;
            match self.socket.try_io(Interest::READABLE, || sandbox.receive()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(None) => {
                    self.dead().await;
                    return Ok(None);
                }
                result => return result,
            }
        }
    }

    /// Waits for the death of all that is in it, where nobody tells of it.
    async fn dead(&self) {
        // The launcher's death kills init, but init closes its socket long before it is gone.
        let _ = self.sandbox.kill();
        let Some(init) = self.sandbox.init() else { return };
        // `register`, which takes its place, is unsafe. What is unsound of `new` are types that change or close their descriptor.
        #[allow(deprecated)]
        let watched = init
            .try_clone_to_owned()
            .and_then(|init| AsyncFd::with_interest(init, Interest::READABLE));
        match watched {
            Ok(init) => {
                if tokio::time::timeout(DEATH_PATIENCE, init.readable()).await.is_err() {
                    tracing::error!("the processes of a sandbox that was killed are still there");
                }
            }
            Err(error) => tracing::warn!(%error, "the end of a sandbox cannot be awaited"),
        }
    }
}

/// A run in a session whose events can be awaited. Dropped early, it is ended.
#[derive(Debug)]
pub struct WatchedRun {
    run: Running,
    socket: UnixStream,
}

impl WatchedRun {
    /// Watches a run.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn watch(run: Running) -> io::Result<WatchedRun> {
        let socket = watch(run.as_fd())?;
        Ok(WatchedRun { run, socket })
    }

    async fn receive(&mut self) -> io::Result<Option<(Event, Vec<OwnedFd>)>> {
        loop {
            self.socket.readable().await?;
            match self.socket.try_io(Interest::READABLE, || self.run.receive()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// A worker for files whose answers can be awaited.
#[derive(Debug)]
pub struct FileWorker {
    worker: Worker,
    socket: UnixStream,
}

impl FileWorker {
    /// Watches it.
    pub fn new(worker: Worker) -> io::Result<FileWorker> {
        let socket = watch(worker.as_fd())?;
        Ok(FileWorker { worker, socket })
    }

    /// Sends an operation; see [`Worker::send`].
    pub fn send(&self, operation: &Operation, pipe: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.worker.send(operation, pipe)
    }

    /// Its next answer; see [`Worker::receive`]. Cancelling loses nothing.
    pub async fn receive(&mut self) -> io::Result<Option<Reply>> {
        loop {
            self.socket.readable().await?;
            match self.socket.try_io(Interest::READABLE, || self.worker.receive()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// What the processes of a run are: all those of a sandbox of its own, or some of a session's.
#[derive(Debug)]
pub enum Tree {
    /// The run's own sandbox.
    Own(Watched),
    /// A part of a session.
    InSession(WatchedRun),
}

impl Tree {
    /// The next event; see [`Sandbox::receive`]. Cancelling loses nothing.
    pub async fn receive(&mut self) -> io::Result<Option<(Event, Vec<OwnedFd>)>> {
        match self {
            Tree::Own(sandbox) => sandbox.receive().await,
            Tree::InSession(run) => run.receive().await,
        }
    }

    /// Whether it is a part of a session.
    pub fn is_in_session(&self) -> bool {
        matches!(self, Tree::InSession(_))
    }

    /// Sends a signal into it.
    pub fn signal(&self, signal: i32, scope: SignalScope) -> io::Result<()> {
        match self {
            Tree::Own(sandbox) => sandbox.handle().signal(signal, scope),
            Tree::InSession(run) => run.run.signal(signal, scope),
        }
    }

    /// Asks for [`Event::CpuTime`].
    pub fn ask_cpu_time(&self) -> io::Result<()> {
        match self {
            Tree::Own(sandbox) => sandbox.handle().ask_cpu_time(),
            Tree::InSession(run) => run.run.ask_cpu_time(),
        }
    }

    /// Kills every process of it. [`Event::Gone`] confirms it.
    pub fn kill(&self) -> io::Result<()> {
        match self {
            Tree::Own(sandbox) => sandbox.handle().kill(),
            Tree::InSession(run) => run.run.kill(),
        }
    }

    /// Lets what is left of it go its way, once the main process has ended: in a session it is kept, else it is killed. [`Event::Gone`]
    /// follows.
    pub fn let_go(&self) -> io::Result<()> {
        match self {
            Tree::Own(sandbox) => sandbox.handle().kill(),
            Tree::InSession(run) => run.run.leave(),
        }
    }
}

/// Whether a finding says something about a sandbox: where nothing is writable, nothing needs to be guarded.
fn concerns(finding: &Finding, spec: &SandboxSpec) -> bool {
    finding.protection != Protection::ProtectedPaths || spec.is_guarded()
}

/// Watches a socket for the runtime. Its type there is a stream's, of which only the readiness is used; tokio knows no `SOCK_SEQPACKET`.
fn watch(socket: BorrowedFd<'_>) -> io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(socket.try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// The sandbox of the self-test: every layer, nothing of the user's.
fn test_spec() -> SandboxSpec {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let inside = |id: u32| if id == 0 { 1000 } else { id };
    let bind = |path: &str| ViewEntry::Bind {
        source: path.into(),
        target: path.into(),
        access: Access::ReadExecute,
        optional: true,
    };
    let entries = vec![
        ViewEntry::Proc,
        ViewEntry::Sys,
        ViewEntry::Dev { shm_bytes: 1 << 20 },
        bind("/usr"),
        ViewEntry::Tmpfs {
            target: "/tmp".into(),
            size_bytes: 1 << 20,
            mode: 0o1777,
            writable: true,
        },
        ViewEntry::Scratch {
            target: selftest::GUARDED.into(),
            scratch: "guarded".into(),
            mode: 0o700,
            guarded: true,
        },
    ];
    SandboxSpec {
        name: "self-test".to_owned(),
        identity: Identity {
            outside_uid: uid,
            outside_gid: gid,
            inside_uid: inside(uid),
            inside_gid: inside(gid),
        },
        view: View { entries },
        guard: Guard {
            protected: vec![selftest::PROTECTED.into()],
            read_only: Vec::new(),
            hidden: Vec::new(),
            git: true,
            programs: Vec::new(),
        },
        hostname: "self-test".to_owned(),
        network: Network::Loopback { refusal_port: None },
        syscalls: Syscalls::Default,
        exceptions: Exceptions::default(),
        limits: Limits {
            memory_bytes: Some(64 << 20),
            processes: Some(16),
            cpu_millis: None,
            open_files_soft: 64,
            open_files_hard: 64,
            file_bytes: Some(1 << 20),
            disk_bytes: None,
            files: None,
        },
        required: Vec::new(),
        record: false,
        session: false,
    }
}
