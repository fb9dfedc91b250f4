//! A launcher with sandboxes for one test, and how to wait for what happens in them.

use std::cell::Cell;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fumehood_sandbox::description::Description;
use fumehood_sandbox::event::{Denial, Event, ExitStatus, Leftover, Usage};
use fumehood_sandbox::spec::{
    Access, CommandSpec, Exceptions, Guard, Identity, Limits, Network, SandboxSpec, Syscalls, TerminalSize, View,
    ViewEntry,
};
use fumehood_sandbox::{Launcher, Running, Sandbox, Starter};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where this program is in a sandbox.
pub const PROBE: &str = "/probe";

pub struct Lab {
    starter: Starter,
    launcher: Launcher,
    scratch: tempfile::TempDir,
    sandboxes: Cell<u32>,
}

impl Lab {
    pub fn new() -> Lab {
        let scratch = tempfile::tempdir().expect("a directory");
        let starter = Starter::start().expect("the starter");
        let launcher = starter.launch(&scratch.path().join("scratch")).expect("the launcher");
        Lab {
            starter,
            launcher,
            scratch,
            sandboxes: Cell::new(0),
        }
    }

    pub fn launcher_pid(&self) -> i32 {
        self.launcher.pid() as i32
    }

    pub fn has_cgroups(&self) -> bool {
        self.launcher.cgroups().version > 0
    }

    /// A session in which nothing is of the machine but its programs.
    pub fn session(&self) -> Session {
        self.session_with(|_| {})
    }

    pub fn session_with(&self, change: impl FnOnce(&mut SandboxSpec)) -> Session {
        self.sandboxes.set(self.sandboxes.get() + 1);
        let mut spec = spec(format!("session-{}", self.sandboxes.get()));
        change(&mut spec);
        let mut session = Session {
            sandbox: self.launcher.create(&spec).expect("a sandbox"),
            number: Cell::new(0),
        };
        loop {
            match session.next().expect("an event") {
                (Event::Created, _) => {}
                (Event::Ready { .. }, _) => return session,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Ends everything. Nothing may be left.
    pub fn end(self) {
        self.launcher.end().expect("the launcher ends");
        self.starter.end().expect("the starter ends");
        let left = std::fs::read_dir(self.scratch.path().join("scratch")).expect("the scratch directory");
        let left: Vec<_> = left
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| name != "locks")
            .collect();
        assert!(
            left.iter().all(|name| name.to_string_lossy().starts_with('.')),
            "left over: {left:?}"
        );
    }
}

fn spec(name: String) -> SandboxSpec {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let inside = |id: u32| if id == 0 { 1000 } else { id };
    let bind = |source: &std::path::Path, target: &str| ViewEntry::Bind {
        source: source.into(),
        target: target.into(),
        access: Access::ReadExecute,
        optional: true,
    };
    let scratch = |target: &str, name: &str, guarded| ViewEntry::Scratch {
        target: target.into(),
        scratch: name.into(),
        mode: 0o1777,
        guarded,
    };
    let mut entries = vec![ViewEntry::Proc, ViewEntry::Sys, ViewEntry::Dev { shm_bytes: 1 << 20 }];
    entries.extend(["/usr", "/bin", "/sbin", "/lib", "/lib64"].map(|path| bind(path.as_ref(), path)));
    entries.push(bind(&std::env::current_exe().expect("this program"), PROBE));
    entries.extend([scratch("/tmp", "tmp", false), scratch("/guarded", "guarded", true)]);
    SandboxSpec {
        name,
        identity: Identity {
            outside_uid: uid,
            outside_gid: gid,
            inside_uid: inside(uid),
            inside_gid: inside(gid),
        },
        view: View { entries },
        guard: Guard {
            protected: vec![".protected".into()],
            ..Guard::default()
        },
        hostname: "session".to_owned(),
        network: Network::Loopback { refusal_port: None },
        syscalls: Syscalls::Default,
        exceptions: Exceptions::default(),
        limits: Limits {
            memory_bytes: Some(512 << 20),
            processes: Some(300),
            cpu_millis: None,
            open_files_soft: 1024,
            open_files_hard: 4096,
            file_bytes: None,
            disk_bytes: None,
            files: None,
        },
        required: Vec::new(),
        record: false,
        session: true,
    }
}

/// What `sh -c` is to execute.
pub fn shell(line: &str) -> CommandSpec {
    command(&["/bin/bash", "-c", line])
}

pub fn probe(name: &str, arguments: &[&str]) -> CommandSpec {
    command(&[&[PROBE, super::probe::FLAG, name], arguments].concat())
}

pub fn command(argv: &[&str]) -> CommandSpec {
    CommandSpec {
        argv: argv.iter().map(|argument| (*argument).into()).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/tmp".into(),
        umask: 0o022,
        terminal: None,
        state: false,
    }
}

/// Waits until it can be read, or fails.
pub fn readable(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(PATIENCE).expect("a timeout");
    assert_eq!(poll(&mut fds, timeout), Ok(1), "nothing came");
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

pub struct Session {
    pub sandbox: Sandbox,
    number: Cell<u64>,
}

impl Session {
    /// The next event of the sandbox; `None` at its end.
    pub fn next(&mut self) -> Option<(Event, Vec<OwnedFd>)> {
        readable(self.sandbox.as_fd());
        self.sandbox.receive().expect("a message")
    }

    pub fn start(&self, command: &CommandSpec) -> Live {
        self.start_with_state(command, None)
    }

    pub fn start_with_state(&self, command: &CommandSpec, state: Option<OwnedFd>) -> Live {
        self.number.set(self.number.get() + 1);
        let number = self.number.get();
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("/dev/null"));
        let (output, stdio) = match command.terminal {
            Some(_) => (None, None),
            None => {
                let (reader, writer) = std::io::pipe().expect("a pipe");
                let again = writer.try_clone().expect("a copy");
                rustix::io::ioctl_fionbio(&reader, true).expect("not blocking");
                (Some(reader.into()), Some([null(), writer.into(), again.into()]))
            }
        };
        Live {
            number,
            running: self.sandbox.run(number, command, stdio, state).expect("a run"),
            output,
            text: String::new(),
        }
    }

    /// Runs it to its end, with nothing left.
    pub fn run(&self, command: &CommandSpec) -> Outcome {
        self.start(command).end()
    }

    /// What a shell line prints; it must succeed.
    pub fn says(&self, line: &str) -> String {
        let outcome = self.run(&shell(line));
        assert_eq!(outcome.status, Some(ExitStatus::Exited(0)), "{line}: {outcome:?}");
        outcome.text
    }

    pub fn describe(&mut self) -> Description {
        self.sandbox.describe().expect("asked");
        loop {
            match self.next().expect("an event") {
                (Event::Described, mut fds) => return Description::read(fds.remove(0)).expect("a description"),
                (Event::Refused(_), _) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Ends the sandbox and waits for its last word.
    pub fn close(mut self) {
        self.sandbox.kill().expect("killed");
        while let Some((event, _)) = self.next() {
            if matches!(event, Event::Gone { .. }) {
                return;
            }
        }
        panic!("no last word");
    }
}

/// A run.
pub struct Live {
    pub number: u64,
    pub running: Running,
    pub output: Option<OwnedFd>,
    /// What was read of its output.
    pub text: String,
}

/// What was told of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    pub pid: Option<i32>,
    pub spawn_failed: Option<(String, i32, Vec<u8>)>,
    pub denials: Vec<Denial>,
    pub status: Option<ExitStatus>,
    pub refusals: u64,
    pub leftovers: Vec<Leftover>,
    pub usage: Option<Usage>,
    pub text: String,
}

impl Live {
    pub fn next(&self) -> (Event, Vec<OwnedFd>) {
        readable(self.running.as_fd());
        let message = self.running.receive().expect("a message");
        message.expect("an event before the end")
    }

    /// Waits until it has started, and returns its pid.
    pub fn started(&mut self) -> i32 {
        match self.next() {
            (Event::Started { pid }, fds) => {
                if let Some(master) = fds.into_iter().next() {
                    self.output = Some(master);
                }
                pid
            }
            other => panic!("{other:?}"),
        }
    }

    /// Reads its output until this is in it.
    pub fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |so_far| so_far.contains(text));
    }

    /// Waits until what it has written so far is as it should be.
    pub fn wait_until(&mut self, what: &str, is_so: impl Fn(&str) -> bool) {
        while !is_so(&self.text) {
            readable(self.output.as_ref().expect("an output").as_fd());
            assert!(self.read() > 0, "{what:?} not in {:?}", self.text);
        }
    }

    /// Reads what there is of its output.
    fn read(&mut self) -> usize {
        let output = self.output.as_ref().expect("an output");
        let mut bytes = Vec::new();
        let _ = std::fs::File::from(output.try_clone().expect("a copy")).read_to_end(&mut bytes);
        self.text.push_str(&String::from_utf8_lossy(&bytes));
        bytes.len()
    }

    pub fn write(&self, text: &str) {
        let output = self.output.as_ref().expect("a terminal");
        assert_eq!(rustix::io::write(output, text.as_bytes()), Ok(text.len()));
    }

    /// Waits for its end; what is left then is killed.
    pub fn end(self) -> Outcome {
        self.finish(|running| running.kill().expect("asked"))
    }

    /// Waits for its end; what is left then is kept.
    pub fn leave(self) -> Outcome {
        self.finish(|running| running.leave().expect("asked"))
    }

    pub fn kill(self) -> Outcome {
        self.running.kill().expect("asked");
        self.finish(|_| {})
    }

    pub fn finish(mut self, on_leftovers: impl Fn(&Running)) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            match self.next().0 {
                Event::Started { pid } => outcome.pid = Some(pid),
                Event::SpawnFailed { stage, errno, path, .. } => outcome.spawn_failed = Some((stage, errno, path)),
                Event::Refused(denial) => outcome.denials.push(denial),
                Event::CpuTime { .. } => {}
                Event::Exited {
                    status,
                    leftovers,
                    leftover_count,
                    refusals,
                } => {
                    assert_eq!(outcome.status, None, "twice");
                    assert_eq!(leftovers.len(), leftover_count.min(64) as usize);
                    outcome.status = Some(status);
                    outcome.refusals = refusals;
                    if leftover_count > 0 {
                        on_leftovers(&self.running);
                    }
                    outcome.leftovers = leftovers;
                }
                Event::Gone { usage, .. } => {
                    outcome.usage = Some(usage);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        // Nothing comes after it.
        readable(self.running.as_fd());
        assert!(matches!(self.running.receive(), Ok(None)));
        if self.output.is_some() {
            self.read();
        }
        outcome.text = std::mem::take(&mut self.text);
        outcome
    }
}

/// A terminal for a command.
pub fn on_terminal(mut command: CommandSpec) -> CommandSpec {
    command.terminal = Some(TerminalSize { rows: 11, columns: 77 });
    command
}

/// The pids of the children of a process of the machine.
pub fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    text.split_ascii_whitespace()
        .map(|child| child.parse().expect("a pid"))
        .collect()
}
