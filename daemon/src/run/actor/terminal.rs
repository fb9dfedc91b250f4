//! The daemon's end of a command's terminal: its output, its input, its size.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use fumehood_sandbox::spec::TerminalSize;
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::run::input::Piece;

/// What is read at once. The kernel gives at most 4095 bytes a call; several calls make one event.
const READ_BYTES: usize = 64 * 1024;

/// How often a terminal that no process has open is looked at again: a command may close it and come back by way of `/dev/tty`.
const REOPENED_PERIOD: Duration = Duration::from_millis(100);

/// The character that a terminal takes for the end of its input, where its program has not chosen another.
const END_OF_INPUT: u8 = 0x04;

/// The master of a terminal.
#[derive(Debug)]
pub(super) struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// Takes a master that does not block, and gives a task's own of it for [`feed`].
    pub(super) fn new(master: OwnedFd) -> Result<(Terminal, Terminal)> {
        let other = master.try_clone()?;
        Ok((Self::watch(master)?, Self::watch(other)?))
    }

    // `register`, which takes its place, is unsafe. What is unsound of `new` are types that change or close their descriptor; this one owns it.
    #[allow(deprecated)]
    fn watch(master: OwnedFd) -> Result<Terminal> {
        AsyncFd::new(master).map(Terminal)
    }

    /// Another size. A command that has just ended does not mind.
    pub(super) fn resize(&self, size: TerminalSize) {
        if let Err(error) = fumehood_sandbox::resize_terminal(self.0.get_ref(), size) {
            tracing::debug!(%error, "a terminal did not take its size");
        }
    }

    /// What was written. Empty when nobody can write any more, which before the end of the main process (`ended`) nobody knows: a command
    /// may open its terminal again. Cancelling loses nothing.
    pub(super) async fn read(&self, ended: bool) -> Result<Bytes> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|master| drain(master.get_ref())) {
                Err(_would_block) => {}
                // EIO: no process has it open.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::EIO as i32) => {
                    if ended {
                        return Ok(Bytes::new());
                    }
                    // The runtime takes such a descriptor for closed, and would find it readable again at once.
                    tokio::time::sleep(REOPENED_PERIOD).await;
                }
                Ok(result) => return result,
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|master| nix::unistd::write(master, bytes).map_err(Error::from)) {
                Err(_would_block) => {}
                Ok(Ok(written)) => bytes = &bytes[written..],
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What there is, up to [`READ_BYTES`]. An error comes only where there is nothing before it.
fn drain(master: &OwnedFd) -> Result<Bytes> {
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    while filled < buffer.len() {
        match nix::unistd::read(master, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::EINTR) => {}
            Err(errno) if filled == 0 => return Err(errno.into()),
            // It is said again when it is asked again.
            Err(_) => break,
        }
    }
    Ok(Bytes::copy_from_slice(&buffer[..filled]))
}

/// Types what clients send, until the end of their input. That is a character, as from a keyboard: where a line has begun, the first
/// hands that line over and the second ends the input. A program that reads characters rather than lines gets the characters.
pub(super) async fn feed(terminal: Terminal, mut input: mpsc::Receiver<Piece>) {
    let mut line_begun = false;
    while let Some(Piece { data, eof }) = input.recv().await {
        if terminal.write_all(&data).await.is_err() {
            return;
        }
        if let Some(last) = data.last() {
            line_begun = !matches!(*last, b'\n' | b'\r' | END_OF_INPUT);
        }
        if eof {
            let end: &[u8] = if line_begun {
                &[END_OF_INPUT; 2]
            } else {
                &[END_OF_INPUT]
            };
            let _ = terminal.write_all(end).await;
            return;
        }
    }
}
