//! A daemon takes over from another one of the same socket: a planned restart.
//!
//! The new daemon ([`TakeOver`]) connects to the socket as a client would and says [`PREFACE`] instead of HTTP/2's; the kernel says whose process
//! it is, and only one of the daemon's own user is answered. It gives one end of a socket pair, over which everything else goes:
//!
//! ```text
//!  new                                          old
//!   Hello ────────────────────────────────────►
//!   ◄──────────── Offer + listeners, locks, the audit log, all as they are open
//!   (everything that can fail happens; until here the old one serves as ever)
//!   Take ─────────────────────────────────────►  accepts no more, keeps its runs
//!   ◄──────────── Taken + a channel for calls about what the old one keeps
//!   ◄──────────── Ended: all of it is over and on disk
//! ```
//!
//! Connections meanwhile wait in the listening sockets' queues, which never close. A new daemon that fails closes its end without `Take`. A
//! successor's end that closes later tells the old daemon that nobody can reach what it keeps any more: it ends as at SIGTERM.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fumehood_sandbox::{packet_pair, receive_packet, send_packet};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

/// What a new daemon says first; as long as HTTP/2's preface, and unlike it from the first byte.
pub const PREFACE: &[u8; 24] = b"FUMEHOOD-HAND-OVER/1\r\n\r\n";

/// The form of what is said after the preface.
const FORM: u32 = 1;

/// How many daemons may go on behind one that serves: each is a hop on the way to what it keeps.
pub const MAX_PREDECESSORS: u32 = 8;

/// How long an answer may take that needs no work, ...
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// ... and how long a new daemon may take between being offered everything and taking it: the self-test of a slow machine, and room.
const TAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Never empty: that would look like the end.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    form: u32,
}

/// What the old daemon has; the descriptors that come along are in this order: Unix listeners, the socket's lock, the TCP listener, the
/// audit log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Offer {
    /// Its life's name in the audit log.
    pub instance: String,
    /// Unix listeners, at most 4.
    pub unix: u32,
    /// Device and inode of the socket, when the daemon made it itself; its lock comes along.
    pub own_socket: Option<(u64, u64)>,
    /// The TCP address as it was configured; the listener comes along.
    pub tcp: Option<SocketAddr>,
    /// The audit log's path as configured and as it is; the open file comes along.
    pub audit: Option<(Vec<u8>, Vec<u8>)>,
    /// How many daemons go on behind it.
    pub predecessors: u32,
    /// Its command line after `daemon`, and its working directory.
    pub arguments: Vec<Vec<u8>>,
    /// See `arguments`.
    pub directory: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Offer(Box<Offer>),
    Refused(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Take {
    finish: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum Told {
    Taken,
    Ended,
}

/// Why a daemon does not take over from another, or does not hand over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// Nobody serves the socket.
    #[error("no daemon serves {}, from which this one could take over", socket.display())]
    Nobody {
        /// The socket.
        socket: PathBuf,
        /// Why it cannot be reached.
        source: io::Error,
    },
    /// The other one does not answer as it should.
    #[error(
        "the daemon that serves hands nothing over: it is of another user, of another version, about to end, or being replaced already"
    )]
    Silent,
    /// The other one says why not.
    #[error("the daemon that serves hands nothing over: {0}")]
    Refused(String),
    /// What came is not what was announced.
    #[error("what the other daemon handed over is not what it announced")]
    Incomplete,
    /// The conversation broke.
    #[error("the conversation with the other daemon broke")]
    Io(#[from] io::Error),
}

fn limit(socket: BorrowedFd<'_>, time: Duration) -> io::Result<()> {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Ok(setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(seconds, 0))?)
}

/// What was offered, and the way to take it.
#[derive(Debug)]
pub struct TakeOver {
    /// What there is.
    pub offer: Offer,
    /// The Unix listeners.
    pub unix: Vec<UnixListener>,
    /// The lock of the daemon's own socket.
    pub lock: Option<File>,
    /// The TCP listener.
    pub tcp: Option<TcpListener>,
    /// The audit log as it is open.
    pub audit: Option<File>,
    /// For [`Control`].
    pub control: Control,
}

/// The conversation with the other daemon; blocking.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl TakeOver {
    /// Asks the daemon of a socket for what it has; blocking, for seconds at most. Nothing changes for that daemon.
    ///
    /// # Errors
    /// See [`HandOverError`].
    pub fn ask(socket: &Path) -> Result<TakeOver, HandOverError> {
        let mut stream = UnixStream::connect(socket).map_err(|source| HandOverError::Nobody {
            socket: socket.to_owned(),
            source,
        })?;
        let silent = |_| HandOverError::Silent;
        stream.write_all(PREFACE).map_err(silent)?;
        let (own, theirs) = packet_pair()?;
        limit(own.as_fd(), ANSWER_TIMEOUT)?;
        send_packet(stream.as_fd(), &Hello { form: FORM }, &[theirs.as_fd()]).map_err(silent)?;
        drop(theirs);
        let (offer, descriptors) = match receive_packet::<Answer>(own.as_fd()).map_err(silent)? {
            Some((Answer::Offer(offer), descriptors)) => (*offer, descriptors),
            Some((Answer::Refused(why), _)) => return Err(HandOverError::Refused(why)),
            None => return Err(HandOverError::Silent),
        };
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(HandOverError::Incomplete);
        let unix = (0..offer.unix).map(|_| next().map(UnixListener::from));
        let unix = unix.collect::<Result<Vec<_>, _>>()?;
        let lock = offer.own_socket.map(|_| next().map(File::from)).transpose()?;
        let tcp = offer.tcp.map(|_| next().map(TcpListener::from)).transpose()?;
        let audit = offer.audit.as_ref().map(|_| next().map(File::from)).transpose()?;
        if unix.is_empty() {
            return Err(HandOverError::Incomplete);
        }
        Ok(TakeOver {
            offer,
            unix,
            lock,
            tcp,
            audit,
            control: Control(own),
        })
    }

    /// The command line of the daemon of a socket after `daemon`, and its working directory.
    ///
    /// # Errors
    /// As [`TakeOver::ask`].
    pub fn arguments(socket: &Path) -> Result<(Vec<OsString>, PathBuf), HandOverError> {
        let Offer {
            arguments, directory, ..
        } = TakeOver::ask(socket)?.offer;
        let arguments = arguments.into_iter().map(OsString::from_vec).collect();
        Ok((arguments, OsString::from_vec(directory).into()))
    }
}

impl Control {
    /// Takes over. Returns when the other daemon accepts no more, with the channel to what it keeps; with `finish` when everything it had is
    /// over, without one. A daemon that dies meanwhile keeps nothing.
    ///
    /// # Errors
    /// When the other one had given up waiting: then it goes on.
    pub fn take(&self, finish: bool) -> Result<Option<UnixStream>, HandOverError> {
        send_packet(self.0.as_fd(), &Take { finish }, &[]).map_err(|_| HandOverError::Silent)?;
        limit(self.0.as_fd(), Duration::ZERO)?;
        match receive_packet::<Told>(self.0.as_fd())? {
            Some((Told::Taken, descriptors)) => Ok(descriptors.into_iter().next().map(UnixStream::from)),
            Some((Told::Ended, _)) | None => Ok(None),
        }
    }

    /// Waits until what the other daemon kept is over; false when it died before.
    pub fn ended(&self) -> bool {
        matches!(receive_packet::<Told>(self.0.as_fd()), Ok(Some((Told::Ended, _))))
    }

    /// Tells the other daemon that nobody will reach it any more.
    pub fn give_up(&self) {
        let _ = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.0),
            nix::sys::socket::Shutdown::Write,
        );
    }
}

/// What a daemon has that another may take; kept open beside what serves.
#[derive(Debug)]
pub struct Handed {
    /// All that is told.
    pub offer: Offer,
    /// Copies of the listeners: first the Unix ones, then the socket's lock, then the TCP one.
    pub descriptors: Vec<OwnedFd>,
}

/// A daemon that takes over.
#[derive(Debug)]
pub struct Successor {
    control: OwnedFd,
    /// Whether it waits until the runs are over.
    pub finish: bool,
}

impl Handed {
    /// Speaks with a process of this user that wants to take over, blocking. `None` when it only asked, or failed meanwhile.
    ///
    /// # Errors
    /// When it does not keep to what is agreed.
    pub fn offer(&self, stream: UnixStream, audit: Option<File>) -> Result<Option<Successor>, HandOverError> {
        stream.set_nonblocking(false)?;
        limit(stream.as_fd(), ANSWER_TIMEOUT)?;
        let Some((Hello { form }, descriptors)) = receive_packet::<Hello>(stream.as_fd())? else {
            return Ok(None);
        };
        let control = descriptors.into_iter().next().ok_or(HandOverError::Incomplete)?;
        limit(control.as_fd(), TAKE_TIMEOUT)?;
        if form != FORM {
            let why = "it is of another version; stop it and start this one".to_owned();
            send_packet(control.as_fd(), &Answer::Refused(why), &[])?;
            return Ok(None);
        }
        if self.offer.predecessors >= MAX_PREDECESSORS {
            let why = format!(
                "runs of {MAX_PREDECESSORS} earlier daemons still go on behind it; wait for some of them or end them"
            );
            send_packet(control.as_fd(), &Answer::Refused(why), &[])?;
            return Ok(None);
        }
        let mut offer = self.offer.clone();
        if audit.is_none() {
            offer.audit = None;
        }
        let audit = audit.as_ref().map(AsFd::as_fd);
        let descriptors: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).chain(audit).collect();
        send_packet(control.as_fd(), &Answer::Offer(Box::new(offer)), &descriptors)?;
        Ok(receive_packet::<Take>(control.as_fd())?.map(|(Take { finish }, _)| Successor { control, finish }))
    }
}

impl Successor {
    /// Tells it that nothing is accepted here any more, and gives it the channel.
    ///
    /// # Errors
    /// When it is gone.
    pub fn taken(&self, channel: Option<BorrowedFd<'_>>) -> io::Result<()> {
        limit(self.control.as_fd(), Duration::ZERO)?;
        send_packet(
            self.control.as_fd(),
            &Told::Taken,
            &channel.into_iter().collect::<Vec<_>>(),
        )
    }

    /// Waits until it is gone, or has given up; blocking. To be called once.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn gone(&self) -> io::Result<impl FnOnce() + Send + 'static> {
        let control = self.control.try_clone()?;
        Ok(move || {
            let _ = receive_packet::<Take>(control.as_fd());
        })
    }

    /// Tells it that everything is over and on disk.
    pub fn ended(self) {
        let _ = send_packet(self.control.as_fd(), &Told::Ended, &[]);
    }
}

/// A path as it is told.
pub fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}
