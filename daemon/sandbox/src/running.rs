//! The daemon's side of one run in a session.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::event::{Event, Request, SignalScope};
use crate::wire;

/// A run in a session, from [`Sandbox::run`](crate::Sandbox::run) until [`Event::Gone`].
///
/// Dropped before that, its handle means [`Self::leave`] when the main process has ended, and [`Self::kill`] when it has not.
#[derive(Debug)]
pub struct Running {
    socket: OwnedFd,
}

impl Running {
    /// `socket` does not block.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Running { socket }
    }

    /// The next event with the descriptors it carries. `None` at end of file, which without [`Event::Gone`] before it means that the
    /// session's sandbox is over. `WouldBlock` when there is none yet: wait until [`AsRawFd`]'s descriptor is readable.
    pub fn receive(&self) -> io::Result<Option<(Event, Vec<OwnedFd>)>> {
        wire::receive::<Event>(self.socket.as_fd())
    }

    /// Sends a signal to the run's main process, its group or all of its processes, wherever they have moved to.
    pub fn signal(&self, signal: i32, scope: SignalScope) -> io::Result<()> {
        self.ask(&Request::Signal { signal, scope })
    }

    /// Asks for [`Event::CpuTime`].
    pub fn ask_cpu_time(&self) -> io::Result<()> {
        self.ask(&Request::CpuTime)
    }

    /// Kills every process of the run, and what they start meanwhile. [`Event::Gone`] confirms it.
    pub fn kill(&self) -> io::Result<()> {
        self.ask(&Request::Kill)
    }

    /// Keeps what is left of the run when its main process has ended: it goes on in the background of the session. [`Event::Gone`] follows
    /// as soon as that is so. Such processes can be seen in the session's description, and signalled by later commands.
    pub fn leave(&self) -> io::Result<()> {
        self.ask(&Request::Leave)
    }

    /// Asks init for something. Of a run that is over there is nothing to ask; its last events may still wait to be received.
    fn ask(&self, request: &Request) -> io::Result<()> {
        match wire::send(self.socket.as_fd(), request, &[]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            result => result,
        }
    }
}

impl AsRawFd for Running {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
