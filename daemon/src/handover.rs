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
//! Connections meanwhile wait in the listening sockets' queues, which never close. A new daemon that fails closes its end without `Take`.
//!
//! The old daemon keeps its listeners, and accepts nothing on them, for as long as the new one is the last in line. So when that one dies, the
//! old one serves again; when that one ends in order (`GivenUp`), the old one ends as well, as at SIGTERM. A new daemon that is itself taken over from
//! says so (`Passed`), and from then on whoever keeps runs for it only keeps them.

mod claims;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fumehood_sandbox::{packet_pair, receive_packet, send_packet};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::systemd;

pub use claims::Claims;

/// What a new daemon says first; as long as HTTP/2's preface, and unlike it from the first byte.
pub const PREFACE: &[u8; 24] = b"FUMEHOOD-HAND-OVER/1\r\n\r\n";

/// The form of what is said after the preface.
const FORM: u32 = 1;

/// How many daemons may go on behind one that serves: each is a hop on the way to what it keeps.
pub const MAX_PREDECESSORS: u32 = 8;

/// Unix listeners that are handed over, at most: what a unit may reasonably have.
pub const MAX_LISTENERS: usize = 64;

/// Descriptors in one message: what the messages of sandboxes have.
const MESSAGE_DESCRIPTORS: usize = 8;

/// How long whoever connects to take over may be silent, while others that want to wait.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer may take that needs no work, ...
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// ... and how long a new daemon may take between being offered everything and taking it: the self-test of a slow machine, and room.
const TAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Never empty: that would look like the end.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    form: u32,
    asks: Asks,
    /// Whether a service manager hears of it.
    supervised: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Asks {
    /// How it was started.
    Arguments,
    /// All that is needed to go on with it.
    Everything,
}

/// What the old daemon has; the descriptors that come along, and in as many messages as they need, are in this order: Unix listeners, the socket's
/// lock, the TCP listener, the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its life's name in the audit log.
    pub instance: String,
    /// Unix listeners.
    pub unix: u32,
    /// Device and inode of the socket, when the daemon made it itself; its lock comes along.
    pub own_socket: Option<(u64, u64)>,
    /// The TCP address as it was configured; the listener comes along.
    pub tcp: Option<SocketAddr>,
    /// The audit log's path as it is; the open file comes along.
    pub audit: Option<Vec<u8>>,
    /// What must be the same for both.
    pub places: Places,
    /// How many daemons go on behind it.
    pub predecessors: u32,
}

impl Offer {
    fn descriptors(&self) -> usize {
        let others = [self.own_socket.is_some(), self.tcp.is_some(), self.audit.is_some()];
        self.unix as usize + others.into_iter().filter(|is| *is).count()
    }
}

/// Places of a daemon that its successor goes on with: as they were configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// The socket.
    pub socket: Vec<u8>,
    /// The audit log. Beside it are answers for always and what is trusted.
    pub audit: Vec<u8>,
    /// Where the output of runs is.
    pub output: Vec<u8>,
}

impl Places {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Places {
        Places {
            socket: bytes(&config.socket),
            audit: bytes(&config.audit.path),
            output: bytes(&config.output.dir),
        }
    }

    /// Whether a daemon with places of its own can go on with these.
    ///
    /// # Errors
    /// The first that is another.
    pub fn same_as(&self, own: &Places) -> Result<(), HandOverError> {
        let Places { socket, audit, output } = self;
        let pairs = [
            ("socket", socket, &own.socket),
            ("audit.path", audit, &own.audit),
            ("output.dir", output, &own.output),
        ];
        match pairs.into_iter().find(|(_, theirs, own)| theirs != own) {
            Some((what, theirs, own)) => Err(HandOverError::Moved {
                what,
                theirs: path(theirs.clone()),
                own: path(own.clone()),
            }),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Arguments {
        arguments: Vec<Vec<u8>>,
        directory: Vec<u8>,
    },
    Offer(Box<Offer>),
    /// Further descriptors.
    More,
    Refused(String),
}

/// What the new daemon says once it was offered everything.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Said {
    Take {
        finish: bool,
        /// Its life's name in the audit log.
        instance: String,
        /// Whether it listens where the TCP listener does.
        tcp: bool,
    },
    /// It was taken over from.
    Passed,
    /// It ends in order.
    GivenUp,
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
    /// The configuration moves what both need.
    #[error(
        "a reload leaves `{what}` where it is: the running daemon has {}, the configuration now says {}; change it back, or end the running daemon and start one anew",
        theirs.display(), own.display()
    )]
    Moved {
        /// The key.
        what: &'static str,
        /// Of the daemon that serves.
        theirs: PathBuf,
        /// Of the new one.
        own: PathBuf,
    },
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

/// Connects to the daemon of a socket and asks it; gives its answer and where it goes on.
fn ask(socket: &Path, asks: Asks) -> Result<(Answer, Vec<OwnedFd>, OwnedFd), HandOverError> {
    let mut stream = UnixStream::connect(socket).map_err(|source| HandOverError::Nobody {
        socket: socket.to_owned(),
        source,
    })?;
    let silent = |_| HandOverError::Silent;
    stream.write_all(PREFACE).map_err(silent)?;
    let (own, theirs) = packet_pair()?;
    limit(own.as_fd(), ANSWER_TIMEOUT)?;
    let hello = Hello {
        form: FORM,
        asks,
        supervised: systemd::is_supervised(),
    };
    send_packet(stream.as_fd(), &hello, &[theirs.as_fd()]).map_err(silent)?;
    drop(theirs);
    match receive_packet::<Answer>(own.as_fd()).map_err(silent)? {
        Some((Answer::Refused(why), _)) => Err(HandOverError::Refused(why)),
        Some((answer, descriptors)) => Ok((answer, descriptors, own)),
        None => Err(HandOverError::Silent),
    }
}

impl TakeOver {
    /// Asks the daemon of a socket for what it has; blocking, for seconds at most. Nothing changes for that daemon.
    ///
    /// # Errors
    /// See [`HandOverError`].
    pub fn ask(socket: &Path) -> Result<TakeOver, HandOverError> {
        let (answer, mut descriptors, own) = ask(socket, Asks::Everything)?;
        let Answer::Offer(offer) = answer else {
            return Err(HandOverError::Incomplete);
        };
        let expected = offer.descriptors();
        if offer.unix == 0 || offer.unix as usize > MAX_LISTENERS {
            return Err(HandOverError::Incomplete);
        }
        while descriptors.len() < expected {
            match receive_packet::<Answer>(own.as_fd()).map_err(|_| HandOverError::Silent)? {
                Some((Answer::More, more)) if !more.is_empty() => descriptors.extend(more),
                _ => return Err(HandOverError::Incomplete),
            }
        }
        if descriptors.len() > expected {
            return Err(HandOverError::Incomplete);
        }
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(HandOverError::Incomplete);
        let unix = (0..offer.unix).map(|_| next().map(UnixListener::from));
        let unix = unix.collect::<Result<Vec<_>, _>>()?;
        let lock = offer.own_socket.map(|_| next().map(File::from)).transpose()?;
        let tcp = offer.tcp.map(|_| next().map(TcpListener::from)).transpose()?;
        let audit = offer.audit.as_ref().map(|_| next().map(File::from)).transpose()?;
        Ok(TakeOver {
            offer: *offer,
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
        match ask(socket, Asks::Arguments)? {
            (Answer::Arguments { arguments, directory }, ..) => {
                let arguments = arguments.into_iter().map(OsString::from_vec).collect();
                Ok((arguments, path(directory)))
            }
            _ => Err(HandOverError::Incomplete),
        }
    }
}

impl Control {
    /// Takes over, as this instance, with the TCP listener or without. Returns when the other daemon accepts no more, with the channel to what it keeps; with `finish` when everything it
    /// had is over, without one: one that dies while it finishes keeps nothing.
    ///
    /// # Errors
    /// When the other one had given up waiting, or could not hand over: then it goes on.
    pub fn take(&self, finish: bool, instance: &str, tcp: bool) -> Result<Option<UnixStream>, HandOverError> {
        let take = Said::Take {
            finish,
            instance: instance.to_owned(),
            tcp,
        };
        send_packet(self.0.as_fd(), &take, &[]).map_err(|_| HandOverError::Silent)?;
        limit(self.0.as_fd(), Duration::ZERO)?;
        match receive_packet::<Told>(self.0.as_fd())? {
            Some((Told::Taken, descriptors)) if !finish => {
                let channel = descriptors.into_iter().next().ok_or(HandOverError::Incomplete)?;
                Ok(Some(channel.into()))
            }
            None if !finish => Err(HandOverError::Silent),
            Some((Told::Taken | Told::Ended, _)) | None => Ok(None),
        }
    }

    /// Waits until what the other daemon kept is over; false when it died before.
    pub fn ended(&self) -> bool {
        matches!(receive_packet::<Told>(self.0.as_fd()), Ok(Some((Told::Ended, _))))
    }

    /// Tells the other daemon that this one was taken over from.
    pub fn passed(&self) {
        // One that is gone needs no telling.
        let _ = send_packet(self.0.as_fd(), &Said::Passed, &[]);
    }

    /// Tells the other daemon that this one ends, and that nobody will reach it any more.
    pub fn give_up(&self) {
        let _ = send_packet(self.0.as_fd(), &Said::GivenUp, &[]);
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Write);
    }
}

/// What a daemon has that another may take; kept open beside what serves.
#[derive(Debug)]
pub struct Handed {
    /// All that is told.
    pub offer: Offer,
    /// Its command line after `daemon`, and its working directory.
    pub arguments: (Vec<Vec<u8>>, Vec<u8>),
    /// Copies of the listeners: first the Unix ones, then the socket's lock, then the TCP one.
    pub descriptors: Vec<OwnedFd>,
    /// Whether it is a service of a service manager, which would take its end for that of the service.
    pub supervised: bool,
}

/// A daemon that takes over.
#[derive(Debug)]
pub struct Successor {
    control: OwnedFd,
    /// Whether it waits until the runs are over.
    pub finish: bool,
    /// Its life's name in the audit log.
    pub instance: String,
    /// Whether it listens where the TCP listener does.
    pub tcp: bool,
}

/// What becomes of a daemon that took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was taken over from.
    Passed,
    /// It ends in order.
    GivenUp,
    /// It is gone without a word.
    Died,
}

impl Handed {
    /// Speaks with a process of this user that wants to take over, blocking. `None` when it only asked, or failed meanwhile.
    ///
    /// # Errors
    /// When it does not keep to what is agreed.
    pub fn offer(&self, stream: UnixStream, audit: Option<File>) -> Result<Option<Successor>, HandOverError> {
        stream.set_nonblocking(false)?;
        limit(stream.as_fd(), HELLO_TIMEOUT)?;
        let Some((hello, descriptors)) = receive_packet::<Hello>(stream.as_fd())? else {
            return Ok(None);
        };
        let Hello { form, asks, supervised } = hello;
        let control = descriptors.into_iter().next().ok_or(HandOverError::Incomplete)?;
        limit(control.as_fd(), TAKE_TIMEOUT)?;
        let refuse = |why: String| {
            send_packet(control.as_fd(), &Answer::Refused(why), &[])?;
            Ok(None)
        };
        if form != FORM {
            return refuse("it is of another version; end it and start this one".to_owned());
        }
        if asks == Asks::Arguments {
            let (arguments, directory) = self.arguments.clone();
            return match send_packet(control.as_fd(), &Answer::Arguments { arguments, directory }, &[]) {
                Ok(()) => Ok(None),
                Err(_) => refuse("its command line is too long to be told; end it and start one anew".to_owned()),
            };
        }
        if self.supervised && !supervised {
            return refuse(
                "it is a service of systemd, which would end it and all it has: `systemctl reload` (for a unit of a user: `systemctl --user reload`) reloads it"
                    .to_owned(),
            );
        }
        if self.offer.predecessors >= MAX_PREDECESSORS {
            return refuse(format!(
                "runs or sessions of {MAX_PREDECESSORS} earlier daemons still go on behind it; wait for some of them or end them"
            ));
        }
        if self.offer.unix as usize > MAX_LISTENERS {
            let count = self.offer.unix;
            return refuse(format!(
                "it has {count} listening sockets, and {MAX_LISTENERS} can be handed over"
            ));
        }
        let mut offer = self.offer.clone();
        if audit.is_none() {
            offer.audit = None;
        }
        let audit = audit.as_ref().map(AsFd::as_fd);
        let descriptors: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).chain(audit).collect();
        let (first, more) = descriptors.split_at(descriptors.len().min(MESSAGE_DESCRIPTORS));
        send_packet(control.as_fd(), &Answer::Offer(Box::new(offer)), first)?;
        for some in more.chunks(MESSAGE_DESCRIPTORS) {
            send_packet(control.as_fd(), &Answer::More, some)?;
        }
        match receive_packet::<Said>(control.as_fd())? {
            Some((Said::Take { finish, instance, tcp }, _)) => Ok(Some(Successor {
                control,
                finish,
                instance,
                tcp,
            })),
            Some(_) => Err(HandOverError::Incomplete),
            None => Ok(None),
        }
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

    /// What waits for what becomes of it: blocking, to be called until it is gone.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn fate(&self) -> io::Result<impl FnMut() -> Fate + Send + 'static> {
        let control = self.control.try_clone()?;
        Ok(move || match receive_packet::<Said>(control.as_fd()) {
            Ok(Some((Said::Passed, _))) => Fate::Passed,
            Ok(Some((Said::GivenUp, _))) => Fate::GivenUp,
            Ok(Some((Said::Take { .. }, _)) | None) | Err(_) => Fate::Died,
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

/// A path as it was told.
pub fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests;
