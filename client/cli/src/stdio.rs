//! This program's own standard streams.
//!
//! They are used by threads of their own with blocking calls, because they belong to others as well: making them
//! non-blocking would change them for the shell and everything else that shares them, and a runtime that is blocked in
//! one of them could neither pass on a signal nor read the other.

use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::mpsc as blocking;
use std::thread;

use bytes::{Bytes, BytesMut};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::{mpsc, oneshot};

use crate::terminal::Tame;

/// Chunks that wait for one writer: with the largest of 256 KiB, 2 MiB. Beyond it the run's stream is not read on.
const WRITE_QUEUE: usize = 8;
/// Bytes read from standard input at once: what a pipe holds.
const READ_BYTES: usize = 64 * 1024;
/// How often a terminal is asked whether this program may read it again, in milliseconds.
const FOREGROUND_POLL_MS: u16 = 200;

/// One of the two standard streams to write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A standard stream that takes no more.
#[derive(Debug)]
pub struct Broken {
    pub stream: Stream,
    pub error: io::Error,
}

type Chunk = (Stream, Bytes);

/// Writes to standard output and standard error.
pub struct Writers {
    stdout: mpsc::Sender<Chunk>,
    stderr: mpsc::Sender<Chunk>,
    broken: mpsc::Receiver<Broken>,
    ended: Vec<oneshot::Receiver<()>>,
}

impl Writers {
    /// Starts the writers: one when both streams are the same file, so that what comes first stays first; else two, so
    /// that one that is not read does not hold back the other.
    ///
    /// # Errors
    /// When the system has no more descriptors or threads.
    pub fn start(interactive: bool) -> io::Result<Self> {
        let (out, err) = (duplicate(io::stdout().as_fd())?, duplicate(io::stderr().as_fd())?);
        let (broken_to, broken) = mpsc::channel(2);
        let same = same_file(&out, &err);
        let (stdout, from_stdout) = mpsc::channel(WRITE_QUEUE);
        let mut ended = vec![writer(
            from_stdout,
            duplicate(out.as_fd())?,
            duplicate(err.as_fd())?,
            broken_to.clone(),
            interactive,
        )?];
        let stderr = if same {
            stdout.clone()
        } else {
            let (stderr, from_stderr) = mpsc::channel(WRITE_QUEUE);
            ended.push(writer(from_stderr, out, err, broken_to, interactive)?);
            stderr
        };
        Ok(Self {
            stdout,
            stderr,
            broken,
            ended,
        })
    }

    /// The queue of a stream.
    pub fn queue(&self, stream: Stream) -> &mpsc::Sender<Chunk> {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    /// Waits until a stream takes no more; forever when none ever does.
    pub async fn broken(&mut self) -> Broken {
        match self.broken.recv().await {
            Some(broken) => broken,
            None => std::future::pending().await,
        }
    }

    /// Waits until all that was queued is written, or a stream takes no more.
    ///
    /// # Errors
    /// The stream that takes no more.
    pub async fn finish(self) -> Result<(), Broken> {
        let Self {
            stdout,
            stderr,
            mut broken,
            ended,
        } = self;
        drop((stdout, stderr));
        for end in ended {
            // A writer that is gone without a word panicked; there is nothing left to wait for.
            let _ = end.await;
        }
        match broken.try_recv() {
            Ok(broken) => Err(broken),
            Err(_) => Ok(()),
        }
    }
}

fn writer(
    mut queue: mpsc::Receiver<Chunk>,
    stdout: File,
    stderr: File,
    broken: mpsc::Sender<Broken>,
    interactive: bool,
) -> io::Result<oneshot::Receiver<()>> {
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name("writer".to_owned()).spawn(move || {
        let kind = if interactive { Tame::interactive } else { Tame::default };
        let tame = |file: &File| file.is_terminal().then(kind);
        let (mut tame_stdout, mut tame_stderr) = (tame(&stdout), tame(&stderr));
        while let Some((stream, bytes)) = queue.blocking_recv() {
            let (file, tame) = match stream {
                Stream::Stdout => (&stdout, &mut tame_stdout),
                Stream::Stderr => (&stderr, &mut tame_stderr),
            };
            let written = match tame {
                Some(tame) => write_all(file, &tame.pass(&bytes)),
                None => write_all(file, &bytes),
            };
            if let Err(error) = written {
                let _ = broken.try_send(Broken { stream, error });
                break;
            }
        }
        drop(queue);
        let _ = end.send(());
    })?;
    Ok(ended)
}

/// `write_all` that also serves a descriptor that somebody else made non-blocking.
fn write_all(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What standard input can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// `/dev/null`: nothing, ever.
    Null,
    /// Something, or the end of file.
    Readable,
}

/// Looks at what standard input is.
#[must_use]
pub fn stdin_kind() -> Stdin {
    let null = std::fs::metadata("/dev/null").map(|null| (null.file_type().is_char_device(), null.rdev()));
    match (duplicate(io::stdin().as_fd()).and_then(|stdin| stdin.metadata()), null) {
        (Ok(stdin), Ok(null)) if (stdin.file_type().is_char_device(), stdin.rdev()) == null => Stdin::Null,
        _ => Stdin::Readable,
    }
}

/// Reads standard input, a piece at a time and only when asked for one: what a run does not take stays there for whoever
/// reads it next. Dropping the reader stops it, even while it waits.
pub struct Reader {
    asks: blocking::Sender<()>,
    pieces: mpsc::Receiver<Option<Bytes>>,
    /// Its end wakes the thread out of its wait.
    _wake: PipeWriter,
}

impl Reader {
    /// Starts the reading thread, which reads nothing yet.
    ///
    /// # Errors
    /// When the system has no more descriptors or threads.
    pub fn start() -> io::Result<Self> {
        let stdin = duplicate(io::stdin().as_fd())?;
        Self::of(stdin)
    }

    fn of(stdin: File) -> io::Result<Self> {
        let (asks, asked) = blocking::channel();
        let (pieces_to, pieces) = mpsc::channel(1);
        let (woken, wake) = io::pipe()?;
        thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            let mut buffer = BytesMut::new();
            while asked.recv().is_ok() {
                let piece = next_piece(&stdin, &woken, &mut buffer);
                let over = piece.is_none();
                if pieces_to.blocking_send(piece).is_err() || over {
                    break;
                }
            }
        })?;
        Ok(Self {
            asks,
            pieces,
            _wake: wake,
        })
    }

    /// The next bytes; none at the end of file. A stream that cannot be read is one that has ended.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.asks.send(()).ok()?;
        self.pieces.recv().await.flatten()
    }
}

fn next_piece(mut stdin: &File, woken: &PipeReader, buffer: &mut BytesMut) -> Option<Bytes> {
    loop {
        // A background job that reads its terminal is stopped by SIGTTIN; so it does not read until it is in front again.
        let in_front = may_read_terminal(stdin.as_fd());
        let timeout = if in_front {
            PollTimeout::NONE
        } else {
            PollTimeout::from(FOREGROUND_POLL_MS)
        };
        let mut waits = [
            PollFd::new(woken.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        let waits = if in_front { &mut waits[..] } else { &mut waits[..1] };
        match poll(waits, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return None,
        }
        let ready = |wait: Option<&PollFd<'_>>| wait.and_then(PollFd::any) == Some(true);
        if ready(waits.first()) {
            return None;
        }
        if !ready(waits.get(1)) {
            continue;
        }
        buffer.resize(READ_BYTES, 0);
        match stdin.read(buffer) {
            Ok(0) => return None,
            Ok(read) => return Some(buffer.split_to(read).freeze()),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(_) => return None,
        }
    }
}

/// False when `stdin` is this process's controlling terminal and another process group is in front of it.
fn may_read_terminal(stdin: BorrowedFd<'_>) -> bool {
    // ENOTTY: no terminal, or not the controlling one; reading it stops nobody.
    nix::unistd::tcgetpgrp(stdin).map_or(true, |front| front == nix::unistd::getpgrp())
}

/// A descriptor of its own for the same open file, closed on exec.
fn duplicate(descriptor: BorrowedFd<'_>) -> io::Result<File> {
    descriptor.try_clone_to_owned().map(File::from)
}

fn same_file(one: &File, other: &File) -> bool {
    let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn input_is_read_only_when_asked_for_and_ends() {
        let (mut from, mut to) = io::pipe().unwrap();
        to.write_all(b"hello").unwrap();
        let mut reader = Reader::of(File::from(OwnedFd::from(from.try_clone().unwrap()))).unwrap();
        runtime().block_on(async {
            assert_eq!(reader.next().await.unwrap(), "hello");
            to.write_all(b"left").unwrap();
            drop(reader);
        });
        drop(to);
        let mut left = String::new();
        from.read_to_string(&mut left).unwrap();
        assert_eq!(left, "left");
    }

    #[test]
    fn the_end_of_file_is_told_once_and_for_all() {
        let (from, to) = io::pipe().unwrap();
        drop(to);
        let mut reader = Reader::of(File::from(OwnedFd::from(from))).unwrap();
        runtime().block_on(async {
            assert_eq!(reader.next().await, None);
            assert_eq!(reader.next().await, None);
        });
    }

    #[test]
    fn a_reader_that_waits_can_be_dropped() {
        let (from, to) = io::pipe().unwrap();
        let mut reader = Reader::of(File::from(OwnedFd::from(from))).unwrap();
        runtime().block_on(async {
            let waits = tokio::select! {
                biased;
                piece = reader.next() => panic!("nothing was written, yet there is {piece:?}"),
                () = tokio::task::yield_now() => true,
            };
            assert!(waits);
        });
        let Reader {
            asks,
            mut pieces,
            _wake,
        } = reader;
        drop((asks, _wake));
        // The thread wakes, says that there is no more, and ends.
        assert_eq!(pieces.blocking_recv().flatten(), None);
        assert!(pieces.blocking_recv().is_none());
        drop(to);
    }

    #[test]
    fn a_non_blocking_descriptor_is_waited_for() {
        let (mut from, to) = io::pipe().unwrap();
        let to = File::from(OwnedFd::from(to));
        nix::fcntl::fcntl(&to, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        let bytes = vec![7; 1024 * 1024];
        let reads = thread::spawn(move || {
            let mut all = Vec::new();
            from.read_to_end(&mut all).unwrap();
            all.len()
        });
        write_all(&to, &bytes).unwrap();
        drop(to);
        assert_eq!(reads.join().unwrap(), bytes.len());
    }
}
