//! The person's own terminal while a command on the other side has one too (`run --tty`, and `attach` to such a run).
//!
//! It is raw while the command runs: every key goes to the command, whose terminal makes of Ctrl-C what it makes of it. [`Raw`] gives the
//! terminal back as it was, whichever way this program ends; where it is killed, [`restorer`] does. Some things typed are for this program, as in
//! ssh: `~` at the beginning of a line, and then `.` leaves, Ctrl-Z stops this program, `~` is one `~`. They are looked for before anything is
//! sent, so that a daemon that hangs keeps nobody.

pub mod restorer;

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use fumehood_client::{Client, Position};
use nix::sys::signal::{Signal, raise};
use rustix::termios::{OptionalActions, Termios};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::run::STOP_PATIENCE;
use restorer::Restorer;

/// Whether this program's terminal is raw now: lines of ours need a carriage return then.
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// What switches off everything that [`crate::terminal`] lets a command switch on: mouse, focus and paste reports, application keys, insert mode, the other
/// screen, other characters, colours; and the cursor shows. On the first screen already, 1049 would only move the cursor; so that is not
/// among these but added where the command had switched to the other one.
const PLAIN: &[u8] = b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?2026l\x1b[?1l\x1b>\x1b[4l\x1b(B\x0f\x1b[?7h\x1b[?25h\x1b[0m";

/// Whether standard input is a terminal.
pub fn is_there() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin())
}

/// Lines and columns; nothing where the terminal does not know.
pub fn size() -> Option<(u32, u32)> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then(|| (size.ws_row.into(), size.ws_col.into()))
}

/// Whether the wire takes it for TERM.
pub fn is_term(term: &str) -> bool {
    (1..=64).contains(&term.len())
        && term
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte))
}

/// What ends a line of ours on standard error.
pub fn line_end() -> &'static str {
    if IS_RAW.load(Ordering::SeqCst) { "\r\n" } else { "\n" }
}

/// Moments at which the terminal may have another size or be another's.
pub struct Changes {
    resized: unix::Signal,
    continued: unix::Signal,
}

impl Changes {
    /// Listens for SIGWINCH and SIGCONT.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            resized: unix::signal(SignalKind::window_change())?,
            continued: unix::signal(SignalKind::from_raw(Signal::SIGCONT as i32))?,
        })
    }

    /// The next such moment.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.resized.recv() => {}
            _ = self.continued.recv() => {}
        }
    }
}

/// What to tell a run's terminal of the size of this one. With `redraw`, by way of another size: programs draw their screen anew only when
/// that changes.
pub fn sizes(redraw: bool) -> impl Iterator<Item = (u32, u32)> + Send {
    let size = size();
    let other = size.filter(|_| redraw);
    let other = other.map(|(rows, columns)| (rows, columns.saturating_sub(1).max(1)));
    other.into_iter().chain(size)
}

/// Tells a run's terminal each new size of this one, over an attachment of its own: on the run's stream it would wait behind keys that the
/// command does not read. One task, so that the last size is the last that is told.
pub struct Resizes(mpsc::Sender<bool>);

impl Resizes {
    /// For this run.
    pub fn of(client: Client, run: String) -> Self {
        // What waits already is told with the size of its moment.
        let (to, wanted) = mpsc::channel(1);
        tokio::spawn(pass_sizes(client, run, wanted));
        Self(to)
    }

    /// Tells the size, without waiting; `redraw` as in [`sizes`].
    pub fn tell(&self, redraw: bool) {
        let _ = self.0.try_send(redraw);
    }
}

async fn pass_sizes(client: Client, run: String, mut wanted: mpsc::Receiver<bool>) {
    while let Some(mut redraw) = wanted.recv().await {
        let Ok(mut attached) = client.attach(run.as_str()).from(Position::Now).start().await else {
            continue;
        };
        // A message goes with its stream: that is left when the daemon has had time to take it, and sizes change many at a time.
        'sizes: loop {
            for (rows, columns) in sizes(redraw) {
                let _ = attached.resize(rows, columns).await;
            }
            let until = Instant::now() + STOP_PATIENCE;
            redraw = loop {
                tokio::select! {
                    next = wanted.recv() => match next {
                        Some(redraw) => break redraw,
                        None => break 'sizes,
                    },
                    // What it tells is told on the run's own stream.
                    event = attached.next() => if !matches!(event, Ok(Some(_))) {
                        break 'sizes;
                    },
                    () = sleep_until(until) => break 'sizes,
                }
            };
        }
        let _ = attached.detach();
    }
}

/// The terminal in raw mode. Dropping it restores what was before.
pub struct Raw {
    before: Termios,
    /// `None` where it could not be started: then this program alone restores it.
    restorer: Option<RefCell<Restorer>>,
}

impl Raw {
    /// Makes it raw.
    ///
    /// # Errors
    /// When standard input is no terminal, or one that is gone.
    pub fn enter() -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(rustix::stdio::stdin())?;
        let restorer = Restorer::start(&before).ok().map(RefCell::new);
        let raw = Self { before, restorer };
        raw.set_raw()?;
        Ok(raw)
    }

    fn set_raw(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        // Said before it is done: what is not raw is not restored.
        if let Some(restorer) = &self.restorer {
            restorer.borrow_mut().is_raw();
        }
        rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        IS_RAW.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Makes it raw again, after this program was stopped and whoever was in front set it as they liked.
    pub fn again(&self) {
        if is_in_front() {
            let _ = self.set_raw();
        }
    }

    /// Gives it back for as long as this program is stopped.
    pub fn pause(&self) {
        IS_RAW.store(false, Ordering::SeqCst);
        // Not from the background: whoever is in front has set it as they want it.
        if is_in_front() {
            let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
        }
        if let Some(restorer) = &self.restorer {
            restorer.borrow_mut().is_given_back();
        }
    }

    /// Stops this program until it is continued. The command is not stopped, but waits when it has written so much.
    pub fn stop(&self) {
        self.pause();
        let _ = raise(Signal::SIGSTOP);
        self.again();
    }
}

/// Whether the terminal may be set: in the background that would stop this program.
fn is_in_front() -> bool {
    rustix::termios::tcgetpgrp(rustix::stdio::stdin()).is_ok_and(|front| front == rustix::process::getpgrp())
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.pause();
        let other = crate::terminal::on_other_screen();
        give_up_modes(if other { b"\x1b[?1049l" } else { b"" });
    }
}

/// Switches off what a command may have switched on, if standard output is a terminal. `first` goes before it.
fn give_up_modes(first: &[u8]) {
    if rustix::termios::isatty(rustix::stdio::stdout()) {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            rustix::stdio::stdout(),
            rustix::event::PollFlags::OUT,
        )];
        // Stopped by Ctrl-S, it takes nothing, and this program shall end.
        if rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0) {
            let _ = rustix::io::write(rustix::stdio::stdout(), first);
            let _ = rustix::io::write(rustix::stdio::stdout(), PLAIN);
        }
    }
}

/// Looks for the keys that are for this program.
pub struct Keys {
    line_begins: bool,
    tilde: bool,
}

/// What was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// Keys for the command.
    Keys(Vec<u8>),
    /// For this program: leave. What was typed after it is for whoever reads the terminal next.
    Leave,
    /// For this program: stop.
    Stop,
}

/// Ctrl-Z.
const STOP_KEY: u8 = 0x1a;

impl Default for Keys {
    fn default() -> Self {
        Self {
            line_begins: true,
            tilde: false,
        }
    }
}

impl Keys {
    /// What these keys say, in their order.
    pub fn take(&mut self, keys: &[u8]) -> Vec<Typed> {
        let mut all = Vec::new();
        let mut passed = Vec::with_capacity(keys.len() + 1);
        for key in keys {
            let mut ours = |what, passed: &mut Vec<u8>| {
                if !passed.is_empty() {
                    all.push(Typed::Keys(std::mem::take(passed)));
                }
                all.push(what);
            };
            match (std::mem::take(&mut self.tilde), *key) {
                (true, b'.') => {
                    ours(Typed::Leave, &mut passed);
                    return all;
                }
                (true, STOP_KEY) => {
                    ours(Typed::Stop, &mut passed);
                    self.line_begins = true;
                    continue;
                }
                (true, b'~') => passed.push(b'~'),
                (true, key) => passed.extend([b'~', key]),
                (false, b'~') if self.line_begins => self.tilde = true,
                (false, key) => passed.push(key),
            }
            self.line_begins = matches!(*key, b'\r' | b'\n');
        }
        if !passed.is_empty() {
            all.push(Typed::Keys(passed));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All keys, with `Leave` as `<leave>` and `Stop` as `<stop>`.
    fn taken(typed: Vec<Typed>) -> Vec<u8> {
        let one = |typed| match typed {
            Typed::Keys(keys) => keys,
            Typed::Leave => b"<leave>".to_vec(),
            Typed::Stop => b"<stop>".to_vec(),
        };
        typed.into_iter().flat_map(one).collect()
    }

    #[test]
    fn a_tilde_means_something_only_where_a_line_begins() {
        for (keys, expected) in [
            (&b"~."[..], &b"<leave>"[..]),
            (b"x\r~.", b"x\r<leave>"),
            (b"x~.", b"x~."),
            (b"~~.", b"~."),
            (b"~a~.", b"~a~."),
            (b"\x03\x1a\xff", b"\x03\x1a\xff"),
            (b"x\r~\x1a~\x1ay~.", b"x\r<stop><stop>y~."),
            (b"~\x1a~.", b"<stop><leave>"),
        ] {
            assert_eq!(taken(Keys::default().take(keys)), expected, "{keys:?}");
            // Key by key.
            let mut one = Keys::default();
            let each = keys.chunks(1).flat_map(|key| one.take(key)).collect();
            assert_eq!(taken(each), expected, "{keys:?}");
        }
    }
}
