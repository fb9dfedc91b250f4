//! Gives the terminal back when this program cannot any more: after SIGKILL, or an abort.
//!
//! A small process beside it, the same program again, holds the terminal and the end of a pipe, and is told whether the terminal is raw. When the
//! pipe ends and the last word was that it is, the program is gone without having restored it. It has a process group of its own, so that
//! what kills the program's does not kill it; it is in the background then, and sets the terminal with SIGTTOU blocked.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use rustix::termios::{ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios};

use super::give_up_modes;

/// The command by which this program is that process.
const COMMAND: &str = "restore-terminal";

/// That the terminal is raw, or is not.
const RAW: u8 = b'r';
const GIVEN_BACK: u8 = b'b';

/// The terminal's settings as they were: what raw mode changes.
#[derive(Debug, Args)]
pub struct Before {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    min: u8,
    time: u8,
}

impl Before {
    fn of(modes: &Termios) -> Self {
        Before {
            input: modes.input_modes.bits(),
            output: modes.output_modes.bits(),
            control: modes.control_modes.bits(),
            local: modes.local_modes.bits(),
            min: modes.special_codes[SpecialCodeIndex::VMIN],
            time: modes.special_codes[SpecialCodeIndex::VTIME],
        }
    }

    fn put_into(&self, modes: &mut Termios) {
        modes.input_modes = InputModes::from_bits_retain(self.input);
        modes.output_modes = OutputModes::from_bits_retain(self.output);
        modes.control_modes = ControlModes::from_bits_retain(self.control);
        modes.local_modes = LocalModes::from_bits_retain(self.local);
        modes.special_codes[SpecialCodeIndex::VMIN] = self.min;
        modes.special_codes[SpecialCodeIndex::VTIME] = self.time;
    }

    fn words(&self) -> [String; 6] {
        let [input, output, control, local] = [self.input, self.output, self.control, self.local];
        let numbers = [input, output, control, local, self.min.into(), self.time.into()];
        numbers.map(|number| number.to_string())
    }
}

/// That process, as the program holds it. Dropping it ends it.
#[derive(Debug)]
pub struct Restorer {
    words: Option<ChildStdin>,
    process: Child,
}

impl Restorer {
    /// Starts it for the terminal that is standard input. Until it is told otherwise it restores nothing.
    ///
    /// # Errors
    /// When no process can be started, or this program's own file not be found.
    pub fn start(before: &Termios) -> io::Result<Self> {
        let terminal = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let mut process = Command::new("/proc/self/exe")
            .arg0("fumehood")
            .arg(COMMAND)
            .args(Before::of(before).words())
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(terminal)
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Restorer {
            words: process.stdin.take(),
            process,
        })
    }

    /// Says that the terminal is raw now.
    pub fn is_raw(&mut self) {
        self.say(RAW);
    }

    /// Says that it was given back.
    pub fn is_given_back(&mut self) {
        self.say(GIVEN_BACK);
    }

    fn say(&mut self, word: u8) {
        // When it is gone there is nobody to help; a few bytes never fill the pipe before.
        if let Some(words) = &mut self.words {
            let _ = words.write_all(&[word]);
        }
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        self.words = None;
        // It ends at once. One that was stopped is left to whoever stopped it.
        let _ = self.process.try_wait();
    }
}

/// Is that process.
pub fn run(before: &Before) {
    // Also what the program's terminal says of it and the terminal's own keys shall not end it before the program.
    let mut blocked = SigSet::empty();
    let signals = [
        Signal::SIGTTOU,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
        Signal::SIGHUP,
        Signal::SIGTERM,
    ];
    signals.into_iter().for_each(|signal| blocked.add(signal));
    if blocked.thread_block().is_err() {
        return;
    }
    let mut last = GIVEN_BACK;
    let mut words = [0; 64];
    loop {
        match io::stdin().read(&mut words) {
            Ok(0) => break,
            Ok(read) => last = words[read - 1],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
    if last != RAW {
        return;
    }
    let terminal = rustix::stdio::stdout();
    let Ok(found) = rustix::termios::tcgetattr(terminal) else {
        return;
    };
    let mut restored = found.clone();
    before.put_into(&mut restored);
    let mut raw = restored.clone();
    raw.make_raw();
    // Whoever is in front may have set it meanwhile, as a shell does.
    let modes = |modes: &Termios| (modes.input_modes, modes.output_modes, modes.local_modes);
    if modes(&found) != modes(&raw) {
        return;
    }
    let _ = rustix::termios::tcsetattr(terminal, OptionalActions::Now, &restored);
    give_up_modes(b"\x1b[?1047l");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_out_of_words_as_they_were() {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let terminal = rustix::pty::openpt(flags).unwrap();
        let before = rustix::termios::tcgetattr(&terminal).unwrap();
        let mut modes = before.clone();
        modes.make_raw();
        modes.special_codes[SpecialCodeIndex::VMIN] = 7;
        let words = Before::of(&before).words().map(|word| word.parse::<u32>().unwrap());
        let [input, output, control, local, min, time] = words;
        let told = Before {
            input,
            output,
            control,
            local,
            min: min as u8,
            time: time as u8,
        };
        told.put_into(&mut modes);
        let parts = |modes: &Termios| {
            (
                modes.input_modes,
                modes.output_modes,
                modes.control_modes,
                modes.local_modes,
            )
        };
        assert_eq!(parts(&modes), parts(&before));
        assert_eq!(
            modes.special_codes[SpecialCodeIndex::VMIN],
            before.special_codes[SpecialCodeIndex::VMIN]
        );
    }
}
