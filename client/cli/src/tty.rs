//! The person's own terminal while a command on the other side has one too (`run --tty`).
//!
//! It is raw while the command runs: every key goes to the command, whose terminal makes of Ctrl-C what it makes of it. [`Raw`] gives the
//! terminal back as it was, whichever way this program ends but by SIGKILL. One thing typed is for this program, as in ssh: `~` at the beginning of a
//! line, and `.` after it, leaves; `~~` is one `~`. It is looked for before anything is sent, so that a daemon that hangs keeps
//! nobody.

use std::io;

use rustix::termios::{OptionalActions, Termios};

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

/// The terminal in raw mode. Dropping it restores what was before.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes it raw.
    ///
    /// # Errors
    /// When standard input is no terminal, or one that is gone.
    pub fn enter() -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(rustix::stdio::stdin())?;
        let raw = Self { before };
        raw.again()?;
        Ok(raw)
    }

    /// Makes it raw again, after this program was stopped.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub fn again(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        Ok(rustix::termios::tcsetattr(
            rustix::stdio::stdin(),
            OptionalActions::Now,
            &raw,
        )?)
    }

    /// Gives it back for as long as this program is stopped.
    pub fn pause(&self) {
        let stdin = rustix::stdio::stdin();
        // Not from the background, where setting it would stop this program: whoever is in front has set it as they want it.
        if rustix::termios::tcgetpgrp(stdin).is_ok_and(|front| front == rustix::process::getpgrp()) {
            let _ = rustix::termios::tcsetattr(stdin, OptionalActions::Now, &self.before);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.pause();
        if rustix::termios::isatty(rustix::stdio::stdout()) {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                rustix::stdio::stdout(),
                rustix::event::PollFlags::OUT,
            )];
            // Stopped by Ctrl-S, it takes nothing, and this program shall end.
            if rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0) {
                let other = crate::terminal::on_other_screen();
                let _ = rustix::io::write(rustix::stdio::stdout(), if other { b"\x1b[?1049l" } else { b"" });
                let _ = rustix::io::write(rustix::stdio::stdout(), PLAIN);
            }
        }
    }
}

/// Looks for the keys that are for this program.
pub struct Keys {
    line_begins: bool,
    tilde: bool,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            line_begins: true,
            tilde: false,
        }
    }
}

impl Keys {
    /// What of the keys is for the command; nothing when they say to leave.
    pub fn pass(&mut self, keys: &[u8]) -> Option<Vec<u8>> {
        let mut passed = Vec::with_capacity(keys.len() + 1);
        for key in keys {
            match (std::mem::take(&mut self.tilde), *key) {
                (true, b'.') => return None,
                (true, b'~') => passed.push(b'~'),
                (true, key) => passed.extend([b'~', key]),
                (false, b'~') if self.line_begins => self.tilde = true,
                (false, key) => passed.push(key),
            }
            self.line_begins = matches!(*key, b'\r' | b'\n');
        }
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_and_a_dot_leave_only_where_a_line_begins() {
        for (keys, passed) in [
            (&b"~."[..], None),
            (b"x\r~.", None),
            (b"x~.", Some(&b"x~."[..])),
            (b"~~.", Some(b"~.")),
            (b"~a~.", Some(b"~a~.")),
            (b"\x03\x1a\xff", Some(b"\x03\x1a\xff")),
        ] {
            assert_eq!(Keys::default().pass(keys).as_deref(), passed, "{keys:?}");
            // Key by key.
            let mut one = Keys::default();
            let each: Option<Vec<_>> = keys.chunks(1).map(|key| one.pass(key)).collect();
            assert_eq!(each.map(|all| all.concat()).as_deref(), passed, "{keys:?}");
        }
    }
}
