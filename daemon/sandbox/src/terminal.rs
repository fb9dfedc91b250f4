//! The terminal of a command: a pair of the sandbox's own devpts.
//!
//! Init opens it, the command gets the slave as 0, 1 and 2 and takes it as its session's controlling terminal (`command.rs`), and the
//! daemon gets the master with the word that the command started. Init keeps neither end: when the last process that has the slave open is gone, the
//! daemon reads EIO, and when the daemon lets go of the master, the session is hung up. Signals and job control are the kernel's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::spec::TerminalSize;

/// Opens a pair: the master, which does not block, and the slave three times.
pub(crate) fn open(size: TerminalSize) -> io::Result<(OwnedFd, [OwnedFd; 3])> {
    // Without NOCTTY it would become init's own: init leads a session without one.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    resize(&master, size)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    // By the master (TIOCGPTPEER, Linux 4.13) and not by its name, which the view may hide.
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    let stdio = [slave.try_clone()?, slave.try_clone()?, slave];
    Ok((master, stdio))
}

/// Gives the terminal behind `master` another size. The group in its foreground gets SIGWINCH if that is a change.
pub fn resize(master: impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    const SIZE: TerminalSize = TerminalSize { rows: 7, columns: 33 };

    #[test]
    fn a_terminal_has_the_size_it_was_asked_for_and_takes_another() {
        let (master, [slave, ..]) = open(SIZE).unwrap();
        let size = || rustix::termios::tcgetwinsize(&slave).unwrap();
        assert_eq!((size().ws_row, size().ws_col), (7, 33));
        resize(
            &master,
            TerminalSize {
                rows: 65_535,
                columns: 1,
            },
        )
        .unwrap();
        assert_eq!((size().ws_row, size().ws_col), (65_535, 1));
    }

    #[test]
    fn the_master_never_blocks_and_ends_with_the_last_slave() {
        let (master, stdio) = open(SIZE).unwrap();
        let mut bytes = [0; 16];
        assert_eq!(rustix::io::read(&master, &mut bytes), Err(Errno::AGAIN));
        rustix::io::write(&stdio[1], b"last").unwrap();
        drop(stdio);
        assert_eq!(rustix::io::read(&master, &mut bytes), Ok(4));
        assert_eq!(rustix::io::read(&master, &mut bytes), Err(Errno::IO));
    }

    #[test]
    fn opening_a_terminal_gives_the_opener_none() {
        let before = std::fs::File::open("/dev/tty").map(drop).is_ok();
        let _pair = open(SIZE).unwrap();
        assert_eq!(std::fs::File::open("/dev/tty").map(drop).is_ok(), before);
    }
}
