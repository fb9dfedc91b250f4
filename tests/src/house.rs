//! A daemon in a private directory, from its start to the check that nothing of it stays behind.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use fumehood_client::Client;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::cli::{Cli, Ended};
use crate::leftovers::{self, Process};
use crate::wait::{DEADLINE, eventually};

/// The name of the program under test among the binaries of this package.
pub const PROGRAM: &str = "fumehood-under-test";

/// What launchers share in the scratch directory, and leave there.
const LOCKS: &str = "locks";

/// Who an ordinary user is when root plays one: an id that no user database has, as in many containers.
const ORDINARY: u32 = 60_123;

/// How long anything may outlive its daemon.
const LEFTOVER_DEADLINE: Duration = Duration::from_secs(5);

/// Whose daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Of whoever runs the tests.
    Me,
    /// Of an ordinary user: another one for root, the same for anybody else.
    Ordinary,
}

/// A daemon to be.
#[derive(Debug)]
pub struct Builder {
    program: PathBuf,
    who: Who,
    config: String,
    arguments: Vec<String>,
    policies: bool,
    started: bool,
    without: String,
}

impl Builder {
    /// Whose it is.
    #[must_use]
    pub fn who(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    /// Adds to its configuration file.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Gives it directories of policies: `policies`, the user's, and `system`, whose policies hold as the machine's own do.
    #[must_use]
    pub fn policies(mut self) -> Self {
        self.policies = true;
        self
    }

    /// Takes a feature of the kernel away from the daemon and everything it starts; see `fumehood-under-test` for the names.
    #[must_use]
    pub fn without(mut self, feature: &str) -> Self {
        self.without = feature.to_owned();
        self
    }

    /// Leaves it to others to start a daemon: everything is in place for `fumehood run` to do so.
    #[must_use]
    pub fn not_started(mut self) -> Self {
        self.started = false;
        self
    }

    /// Makes the place, and starts the daemon in it.
    #[must_use]
    pub fn build(self) -> House {
        let directory = tempfile::Builder::new()
            .prefix("fumehood-e2e-")
            .tempdir()
            .expect("a temporary directory");
        let uid = match (self.who, crate::is_root()) {
            (Who::Ordinary, true) => Some(ORDINARY),
            _ => None,
        };
        let root = directory.path();
        fs::set_permissions(root, Permissions::from_mode(0o755)).expect("chmod");
        let mut house = House {
            program: self.program.clone(),
            uid,
            arguments: self.arguments,
            without: self.without,
            child: None,
            instances: Vec::new(),
            checked: false,
            directory,
        };
        // The users that root plays may not be able to enter the directory cargo builds in. A link is quicker than a copy; and
        // where it must be a copy, a program of its own makes it: one that this process had open for writing could not be
        // executed while a child of another thread still has it open too (ETXTBSY).
        if crate::is_root() {
            house.program = house.path("fumehood");
            if fs::hard_link(&self.program, &house.program).is_err() {
                let copied = Command::new("cp").arg(&self.program).arg(&house.program).status();
                assert!(copied.is_ok_and(|status| status.success()), "copy the program");
            }
        }
        // The daemon makes its scratch directory itself where it may; here its parent may be root's.
        for (name, mode) in [
            ("run", 0o700),
            ("state", 0o700),
            ("home", 0o700),
            ("work", 0o755),
            ("scratch", 0o700),
        ] {
            house.make_directory(name, mode);
        }
        if self.policies {
            for (name, option) in [("policies", "--policy-dir"), ("system", "--system-policy-dir")] {
                let directory = house.make_directory(name, 0o755);
                let directory = directory.to_str().expect("a path in UTF-8").to_owned();
                house.arguments.extend([option.to_owned(), directory]);
            }
        }
        let quoted = |path: PathBuf| format!("{path:?}");
        // Most tests bring policies of their own.
        let inline = match self.config.contains("inline_policies") {
            true => "",
            false => "inline_policies = \"any\"\n",
        };
        let config = format!(
            "scratch_dir = {}\n{inline}{}\n[audit]\npath = {}\n",
            quoted(house.scratch()),
            self.config,
            quoted(house.audit())
        );
        // What was given may hold tables; keys without one must come first, `[audit]` may come last.
        fs::write(house.path("config.toml"), config).expect("write the configuration");
        if self.started {
            house.start_daemon();
        }
        house
    }
}

/// A daemon of a test's own, with a home, a workspace and everything it keeps in a private directory. Dropping it ends it and
/// asserts that nothing is left.
#[derive(Debug)]
pub struct House {
    program: PathBuf,
    uid: Option<u32>,
    arguments: Vec<String>,
    without: String,
    child: Option<Child>,
    instances: Vec<String>,
    checked: bool,
    directory: TempDir,
}

impl House {
    /// A daemon to be, of the program at `program`: `env!("CARGO_BIN_EXE_fumehood-under-test")`.
    #[must_use]
    pub fn builder(program: &str) -> Builder {
        Builder {
            program: program.into(),
            who: Who::Me,
            config: String::new(),
            arguments: Vec::new(),
            policies: false,
            started: true,
            without: String::new(),
        }
    }

    /// A path in the private directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program, where the daemon's user can execute it.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("run/fumehood.sock")
    }

    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.path("state/audit.jsonl")
    }

    /// Where sandboxes keep their files.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.path("scratch")
    }

    /// The workspace: the current directory of every command line.
    #[must_use]
    pub fn workspace(&self) -> PathBuf {
        self.path("work")
    }

    /// The home of whoever uses the daemon.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// The user id everything runs as.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw())
    }

    /// Makes a directory that belongs to the daemon's user.
    pub fn make_directory(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("make a directory");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
        self.own(&path);
        path
    }

    /// Tells the daemon to read its policies again, as a service manager would.
    pub fn hang_up(&self) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.daemon().pid), Signal::SIGHUP).expect("SIGHUP");
    }

    /// Writes a file that belongs to the daemon's user.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).expect("write a file");
        self.own(&path);
        path
    }

    fn own(&self, path: &Path) {
        if let Some(uid) = self.uid {
            chown(path, Some(uid), Some(uid)).expect("chown");
        }
    }

    /// A command line of the daemon's user, without arguments yet, in the workspace.
    #[must_use]
    pub fn cli(&self) -> Cli {
        Cli::new(&self.program, self.uid)
            .env("HOME", self.home())
            .env("FUMEHOOD_CONFIG", self.path("config.toml"))
            .env("FUMEHOOD_SOCKET", self.socket())
            .current_dir(&self.workspace())
    }

    /// `fumehood daemon reload`, as the service manager calls it that the daemon was started with.
    #[must_use]
    pub fn reload(&self) -> Cli {
        let notify = self.path("run/notify");
        self.cli().env("NOTIFY_SOCKET", notify).args(["daemon", "reload"])
    }

    /// `fumehood run` with options and a command after `--`.
    #[must_use]
    pub fn run_with(&self, options: &[&str], command: &[&str]) -> Cli {
        self.cli().args(["run"]).args(options).args(["--"]).args(command)
    }

    /// `fumehood run` of a command, to its end.
    #[must_use]
    pub fn run(&self, command: &[&str]) -> Ended {
        self.run_with(&[], command).finish()
    }

    /// `fumehood run -- sh -c SCRIPT`, to its end.
    #[must_use]
    pub fn sh(&self, script: &str) -> Ended {
        self.run(&["sh", "-c", script])
    }

    /// A connection of the client library. Only where the daemon runs as this process's user: the library trusts no other.
    pub async fn client(&self) -> Client {
        crate::within("a connection", Client::connect_unix(self.socket()))
            .await
            .expect("connect")
    }

    /// The daemon's process.
    #[must_use]
    pub fn daemon(&self) -> Process {
        let pid = self.child.as_ref().expect("a daemon that was started").id();
        leftovers::process(pid as i32).expect("a daemon that lives")
    }

    /// The launcher: the only child of the daemon's only child, which starts it.
    #[must_use]
    pub fn launcher(&self) -> Process {
        eventually(DEADLINE, "the launcher", || {
            leftovers::descent(self.daemon().pid).get(2).cloned()
        })
    }

    /// What starts the launcher: the daemon's only child.
    #[must_use]
    pub fn starter(&self) -> Process {
        eventually(DEADLINE, "the starter", || {
            leftovers::descent(self.daemon().pid).get(1).cloned()
        })
    }

    /// Everything that descends from the daemon.
    #[must_use]
    pub fn below_daemon(&self) -> Vec<Process> {
        leftovers::descent(self.daemon().pid).split_off(1)
    }

    /// The daemon's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// The records of the audit log.
    #[must_use]
    pub fn records(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.audit()).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a record is JSON"))
            .collect()
    }

    /// Tries to start the daemon, and gives its exit status and log when it ends instead of serving.
    pub fn try_start(&mut self) -> Result<(), (ExitStatus, String)> {
        // The daemon says when it is ready, as it would to systemd.
        let notify = self.path("run/notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).expect("a socket for the daemon's word");
        self.own(&notify);
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a timeout");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("daemon.log"))
            .expect("a log");
        let mut command = Command::new(&self.program);
        command
            .arg("daemon")
            .arg("--config")
            .arg(self.path("config.toml"))
            .arg("--socket")
            .arg(self.socket())
            .arg("--audit")
            .arg(self.audit())
            .arg("--scratch-dir")
            .arg(self.scratch())
            .args(&self.arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home())
            .env("NOTIFY_SOCKET", &notify)
            .env("FUMEHOOD_TEST_WITHOUT", &self.without)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        let mut child = command.spawn().expect("start the daemon");
        let gave_up = Instant::now() + DEADLINE;
        let mut message = [0; 256];
        loop {
            if let Ok(read) = socket.recv(&mut message)
                && message[..read].windows(7).any(|window| window == b"READY=1")
            {
                break;
            }
            if let Some(status) = child.try_wait().expect("wait") {
                let _ = fs::remove_file(&notify);
                return Err((status, self.log()));
            }
            if Instant::now() > gave_up {
                let _ = child.kill();
                panic!("the daemon does not become ready: {}", self.log());
            }
        }
        let _ = fs::remove_file(&notify);
        self.child = Some(child);
        self.note_instances();
        Ok(())
    }

    /// Starts the daemon, again if it has run before.
    pub fn start_daemon(&mut self) {
        if let Err((status, log)) = self.try_start() {
            panic!("the daemon ended at once with {status}: {log}");
        }
    }

    /// Launchers name their cgroups and directories alike: what is seen in one place is looked for in all.
    pub fn note_instances(&mut self) {
        for entry in fs::read_dir(self.scratch()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != LOCKS && !self.instances.contains(&name) {
                self.instances.push(name);
            }
        }
    }

    /// The names of the launchers' cgroups and directories seen so far, by [`House::note_instances`].
    #[must_use]
    pub fn instances(&self) -> &[String] {
        &self.instances
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        self.daemon().signal(signal);
    }

    /// Waits for the daemon's end.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("a daemon that was started");
        let status = eventually(DEADLINE, "the daemon's end", || child.try_wait().expect("wait"));
        self.child = None;
        status
    }

    /// Takes note that the daemon this house started has ended, if it has: another one took its place.
    pub fn reap(&mut self) {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait().expect("wait")
        {
            assert!(status.success(), "the daemon ended with {status}: {}", self.log());
            self.child = None;
        }
    }

    /// Takes no account of how the daemon ends that this house started.
    pub fn forget(&mut self) {
        if self.child.is_some() {
            let _ = self.wait_for_end();
        }
    }

    /// `kill -9` of the daemon.
    pub fn kill_daemon(&mut self) {
        self.note_instances();
        self.signal(Signal::SIGKILL);
        let _ = self.wait_for_end();
    }

    /// Ends the daemon in order.
    pub fn stop(&mut self) {
        self.note_instances();
        if self.child.is_some() {
            self.signal(Signal::SIGTERM);
            let status = self.wait_for_end();
            assert!(status.success(), "the daemon ended with {status}: {}", self.log());
        }
        // One that a command line started.
        for daemon in self.started_by_others() {
            daemon.signal(Signal::SIGTERM);
            eventually(DEADLINE, "the end of a daemon that was started by a client", || {
                (!daemon.lives()).then_some(())
            });
        }
    }

    /// Daemons of this place that are not this process's children.
    #[must_use]
    pub fn started_by_others(&self) -> Vec<Process> {
        let socket = self.socket().to_string_lossy().into_owned();
        let is_daemon = |process: &Process| {
            let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            let arguments: Vec<_> = line.split(|byte| *byte == 0).collect();
            arguments.get(1) == Some(&&b"daemon"[..]) && arguments.contains(&socket.as_bytes())
        };
        leftovers::holding(self.directory.path())
            .into_iter()
            .filter(is_daemon)
            .collect()
    }

    /// What is left of what ran here: processes, cgroups, mounts, scratch directories. Empty while nothing does.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        left.extend(
            leftovers::holding(self.directory.path())
                .iter()
                .map(|process| format!("{process:?}")),
        );
        left.extend(
            leftovers::cgroups_named(&self.instances)
                .iter()
                .map(|path| format!("cgroup {}", path.display())),
        );
        left.extend(
            leftovers::mounts_naming(self.directory.path())
                .into_iter()
                .map(|line| format!("mount {line}")),
        );
        let scratch = fs::read_dir(self.scratch()).into_iter().flatten().flatten();
        let scratch = scratch.filter(|entry| entry.file_name() != LOCKS);
        left.extend(scratch.map(|entry| format!("scratch {}", entry.path().display())));
        left
    }

    /// Waits until nothing is left.
    #[track_caller]
    pub fn expect_nothing_left(&self, deadline: Duration) {
        let mut left = Vec::new();
        let gave_up = Instant::now() + deadline;
        while Instant::now() < gave_up {
            left = self.leftovers();
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!(
            "left behind after {deadline:?}: {left:#?}\nthe daemon's log: {}",
            self.log()
        );
    }

    /// Ends the daemon and asserts that nothing is left of it.
    pub fn end(mut self) {
        self.end_and_check();
    }

    fn end_and_check(&mut self) {
        self.checked = true;
        let before = self.child.as_ref().map(|_| self.below_daemon()).unwrap_or_default();
        self.stop();
        self.expect_nothing_left(LEFTOVER_DEADLINE);
        eventually(LEFTOVER_DEADLINE, "the end of everything below the daemon", || {
            before.iter().all(|process| !process.lives()).then_some(())
        });
        assert!(!self.socket().exists(), "the socket is left behind: {}", self.log());
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log: {}", self.log());
            if let Some(child) = &mut self.child {
                let _ = child.kill();
                let _ = child.wait();
            }
            self.started_by_others()
                .iter()
                .for_each(|daemon| daemon.signal(Signal::SIGKILL));
        } else if !self.checked {
            self.end_and_check();
        }
    }
}
