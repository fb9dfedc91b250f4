//! The command-line program as a process.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::wait::{DEADLINE, eventually};

/// A command line under construction.
#[derive(Debug)]
pub struct Cli {
    pub(crate) command: Command,
    pub(crate) user: Option<u32>,
    input: Option<Vec<u8>>,
}

impl Cli {
    /// A program with an environment of its own: nothing of the tests' reaches it.
    #[must_use]
    pub fn new(program: &Path, user: Option<u32>) -> Self {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        if let Some(uid) = user {
            command.uid(uid).gid(uid);
        }
        Self {
            command,
            user,
            input: None,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Its current directory.
    #[must_use]
    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// What it reads; without it, nothing.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Starts it with `output` as its standard output.
    #[must_use]
    pub fn start_into(mut self, output: Stdio) -> Child {
        self.command.stdin(Stdio::null()).stdout(output).stderr(Stdio::piped());
        self.command.spawn().expect("start the program")
    }

    /// Starts it.
    #[must_use]
    pub fn start(mut self) -> Running {
        let stdin = if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("start the program");
        let writer = self.input.zip(child.stdin.take()).map(|(bytes, mut pipe)| {
            // A program that does not read it all is no error here.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let (pieces, stdout) = mpsc::channel();
        let mut pipe = child.stdout.take().expect("a pipe");
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                if pieces.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut pipe = child.stderr.take().expect("a pipe");
        let stderr = std::thread::spawn(move || {
            let mut all = Vec::new();
            let _ = pipe.read_to_end(&mut all);
            all
        });
        Running {
            child,
            stdout,
            seen: Vec::new(),
            stderr: Some(stderr),
            writer,
        }
    }

    /// Runs it to its end.
    #[must_use]
    pub fn finish(self) -> Ended {
        self.start().finish()
    }
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.pid()), signal).expect("signal the program");
    }

    /// Waits until its standard output holds `text`.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let seen = |seen: &[u8]| seen.windows(text.len()).any(|window| window == text.as_bytes());
        while !seen(&self.seen) {
            match self.stdout.recv_timeout(DEADLINE) {
                Ok(piece) => self.seen.extend(piece),
                Err(error) => {
                    let ended = self.child.try_wait();
                    panic!(
                        "{text:?} never came ({error}; {ended:?}): {:?}",
                        String::from_utf8_lossy(&self.seen)
                    )
                }
            }
        }
    }

    /// Waits for its end; kills it when it does not come.
    #[must_use]
    pub fn finish(self) -> Ended {
        self.finish_within(DEADLINE * 2)
    }

    /// As [`Running::finish`], with a deadline of one's own.
    #[must_use]
    pub fn finish_within(mut self, deadline: Duration) -> Ended {
        let status = eventually(deadline, "the end of the program", || {
            self.child.try_wait().expect("wait")
        });
        let mut stdout = std::mem::take(&mut self.seen);
        while let Ok(piece) = self.stdout.recv_timeout(DEADLINE) {
            stdout.extend(piece);
        }
        let stderr = self
            .stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        Ended { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// As wait(2) says it.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Ended {
    /// The exit code; `-n` for signal n.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| -self.status.signal().unwrap_or(0))
    }

    /// Standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Asserts the exit code, showing everything otherwise.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code(), code, "stdout: {}\nstderr: {}", self.out(), self.err());
        self
    }

    /// Standard output as JSON, one value a line.
    #[must_use]
    pub fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.out().lines().map(parse).collect()
    }
}
