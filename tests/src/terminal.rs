//! The command-line program at a terminal of its own, as a person sees and types it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize};

use crate::cli::Cli;
use crate::wait::{DEADLINE, eventually};

/// A program at a terminal.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    /// Kept open: what the program leaves of the modes can be seen when it is gone.
    slave: Option<OwnedFd>,
    pieces: mpsc::Receiver<Vec<u8>>,
    screen: Vec<u8>,
}

/// How a program at a terminal ended.
#[derive(Debug)]
pub struct TerminalEnd {
    /// Its exit code; `-n` for signal n.
    pub code: i32,
    /// What it wrote and nobody had waited for.
    pub rest: String,
    /// Whether it left the terminal raw.
    pub raw: bool,
}

impl Cli {
    /// Starts it at a terminal of this size, which it controls as a login shell does.
    #[must_use]
    pub fn at_terminal(self, rows: u16, columns: u16) -> Terminal {
        self.start_at_terminal(&[], rows, columns)
    }

    /// The same below a shell, which waits for it, says how it ended, and ends with the next line that is typed. Its process id is
    /// [`Terminal::child`]; the terminal is the shell's, and is not hung up when the program is killed.
    #[must_use]
    pub fn below_shell_at_terminal(self, rows: u16, columns: u16) -> Terminal {
        let script = "\"$@\"; echo ended $?; read line";
        self.start_at_terminal(&["/bin/sh", "-c", script, "sh"], rows, columns)
    }

    fn start_at_terminal(self, before: &[&str], rows: u16, columns: u16) -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).expect("a terminal");
        rustix::pty::unlockpt(&master).expect("unlock it");
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).expect("its other end");
        // `setsid -c` does what needs code between fork and exec.
        let mut command = Command::new("/usr/bin/setsid");
        command
            .arg("-c")
            .args(before)
            .arg(self.command.get_program())
            .args(self.command.get_args());
        command.env_clear().env("TERM", "xterm");
        for (name, value) in self.command.get_envs() {
            value.map(|value| command.env(name, value));
        }
        if let Some(directory) = self.command.get_current_dir() {
            command.current_dir(directory);
        }
        if let Some(uid) = self.user {
            command.uid(uid).gid(uid);
        }
        let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
        command.stdin(end()).stdout(end()).stderr(end());
        let mut reader = File::from(master.try_clone().expect("a descriptor"));
        let (to, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                if to.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        set_size(&master, rows, columns);
        Terminal {
            child: command.spawn().expect("start the program"),
            master: File::from(master),
            slave: Some(slave),
            pieces,
            screen: Vec::new(),
        }
    }
}

fn set_size(master: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size).expect("set the size");
}

impl Terminal {
    /// The program's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The process id of the program's first child.
    #[must_use]
    pub fn child(&self) -> i32 {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
        let first = children.split_whitespace().next().expect("a child");
        first.parse().expect("a process id")
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.pid()), signal).expect("signal the program");
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("type");
    }

    /// Gives the terminal another size.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        set_size(&self.master, rows, columns);
    }

    /// Whether keys go to the program one by one and unseen.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.master).expect("its modes").local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Sets it as a shell would: keys are seen, and go to the program line by line.
    pub fn set_cooked(&self) {
        let mut modes = rustix::termios::tcgetattr(&self.master).expect("its modes");
        modes.local_modes |= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        rustix::termios::tcsetattr(&self.master, rustix::termios::OptionalActions::Now, &modes).expect("set its modes");
    }

    /// Waits until the screen shows `text`; gives everything up to its end, which later looks pass over.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let gave_up = Instant::now() + DEADLINE;
        let mut looked = 0;
        loop {
            let found = self.screen[looked..]
                .windows(text.len())
                .position(|window| window == text.as_bytes());
            if let Some(at) = found.map(|at| at + looked) {
                let rest = self.screen.split_off(at + text.len());
                let seen = std::mem::replace(&mut self.screen, rest);
                return String::from_utf8_lossy(&seen).into_owned();
            }
            looked = (self.screen.len() + 1).saturating_sub(text.len());
            match self
                .pieces
                .recv_timeout(gave_up.saturating_duration_since(Instant::now()))
            {
                Ok(piece) => self.screen.extend(piece),
                Err(error) => {
                    let ended = self.child.try_wait();
                    panic!(
                        "{text:?} never came ({error}; {ended:?}): {:?}",
                        String::from_utf8_lossy(&self.screen)
                    )
                }
            }
        }
    }

    /// Waits until the terminal is raw, or is not.
    #[track_caller]
    pub fn wait_for_raw(&self, raw: bool) {
        eventually(DEADLINE, "another mode of the terminal", || {
            (self.is_raw() == raw).then_some(())
        });
    }

    /// Waits for the program's end.
    #[track_caller]
    pub fn finish(mut self) -> TerminalEnd {
        let gave_up = Instant::now() + DEADLINE;
        // What it writes must be taken, or it never ends.
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            if let Ok(piece) = self.pieces.recv_timeout(std::time::Duration::from_millis(5)) {
                self.screen.extend(piece);
            }
            assert!(
                Instant::now() < gave_up,
                "the program does not end: {:?}",
                String::from_utf8_lossy(&self.screen)
            );
        };
        let raw = self.is_raw();
        // With the last of those ends the reader ends.
        self.slave = None;
        while let Ok(piece) = self.pieces.recv_timeout(DEADLINE) {
            self.screen.extend(piece);
        }
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        TerminalEnd {
            code: status.code().unwrap_or(-signal.unwrap_or(0)),
            rest: String::from_utf8_lossy(&self.screen).into_owned(),
            raw,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
