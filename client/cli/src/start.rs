//! Finding a daemon, and starting one where there is none.
//!
//! Two programs that start at the same moment must end with one daemon: whoever holds the lock beside the socket looks
//! again and only then starts one; all others wait for the socket as well as for the lock.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use fumehood_client::directory::{self, Closed};
use fumehood_client::proto::v1::VersionResponse;
use fumehood_client::{Client, ConnectError, prepare_directory, socket_path};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::args::ConnectArgs;
use crate::daemon::ReloadArgs;
use crate::failure::{Failure, chain};

/// A daemon that was started answers within this time, or has failed.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// A daemon that takes over from another may wait for runs and sessions that are to be over before.
const RELOAD_PATIENCE: Duration = Duration::from_secs(600);
/// Somebody else who holds the lock is waited for this long: their patience and a little.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);
/// A daemon that is reached answers its first call within this time.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// A daemon that drains is waited for this long before a new one takes its place.
const DRAIN_PATIENCE: Duration = Duration::from_secs(15);
/// First and longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// The log of a daemon that was started here, in the socket's directory.
const LOG_NAME: &str = "daemon.log";
/// A log of more bytes than this is begun anew.
const LOG_BYTES: u64 = 4 * 1024 * 1024;
/// So many bytes of its end are shown when the daemon does not come up.
const LOG_TAIL_BYTES: u64 = 2_000;

/// The variables a daemon started here keeps of its starter's environment: where things are, how to log, and how to reach the
/// user's systemd for a cgroup. All others stay behind: they may hold secrets, and a daemon outlives its starter.
const KEPT_VARIABLES: [&str; 11] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "DBUS_SESSION_BUS_ADDRESS",
    "NO_COLOR",
];
/// What a daemon that takes over keeps beside them, to speak with the service manager.
const MANAGER_VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "JOURNAL_STREAM", "INVOCATION_ID"];
/// Bytes of what a daemon says that did not take over.
const SAID_BYTES: u64 = 8_000;
/// Prefixes of further variables that are kept.
const KEPT_PREFIXES: [&str; 2] = ["XDG_", "FUMEHOOD_"];

/// Why no daemon could be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("another program has held {} for {} seconds without a daemon coming up: end it and try again", path.display(), LOCK_PATIENCE.as_secs())]
    Locked { path: PathBuf },
    #[error("cannot start the daemon")]
    Spawn(#[source] io::Error),
    #[error("the daemon ended as soon as it was started ({status}); its log, {}, ends with:\n{tail}", log.display())]
    Died {
        status: ExitStatus,
        log: PathBuf,
        tail: String,
    },
    #[error(
        "the new daemon ended before it took over ({status}), and the running one goes on (process {running}); the new one said:\n{said}"
    )]
    NotTakenOver {
        status: ExitStatus,
        running: i32,
        said: String,
    },
    #[error("the new daemon (process {pid}) has not taken over after {} seconds; it may still do so, the running one goes on until then", RELOAD_PATIENCE.as_secs())]
    Slow { pid: u32 },
    #[error("the daemon was started (process {pid}) and does not listen on {} after {} seconds; its log, {}, ends with:\n{tail}", socket.display(), START_PATIENCE.as_secs(), log.display())]
    Silent {
        pid: u32,
        socket: PathBuf,
        log: PathBuf,
        tail: String,
    },
}

/// A daemon that answered.
pub struct Connected {
    /// The connection to it.
    pub client: Client,
    /// What it said of itself.
    pub version: VersionResponse,
    /// Where it listens.
    pub socket: PathBuf,
}

/// Connects to the daemon; starts one when there is none and `args` do not forbid it.
pub async fn connect(args: &ConnectArgs) -> Result<Connected, Failure> {
    let place = Place::find(args)?;
    let gave_up = Instant::now() + DRAIN_PATIENCE;
    loop {
        match place.reach().await? {
            Some(connected) if !connected.version.draining => return Ok(connected),
            Some(connected) if args.no_start || Instant::now() > gave_up => {
                return Err(Failure::Draining {
                    pid: connected.version.pid,
                });
            }
            // It goes away; then a new one takes its place.
            Some(_) => tokio::time::sleep(PAUSES.1).await,
            None if args.no_start => return Err(Failure::NotStarted(place.socket)),
            None => place.start()?,
        }
    }
}

/// Connects to the daemon if there is one; else gives the socket on which none listens.
pub async fn connect_existing(args: &ConnectArgs) -> Result<Result<Connected, PathBuf>, Failure> {
    let place = Place::find(args)?;
    let found = place.reach().await?;
    Ok(found.ok_or(place.socket))
}

/// Has a new daemon, of this program, take the place of the running one, with the command line that that one was given.
pub async fn reload(args: ReloadArgs) -> Result<u8, Failure> {
    let place = Place::find(&ConnectArgs {
        socket: args.socket,
        no_start: true,
    })?;
    let Some(before) = place.reach().await? else {
        return Err(Failure::NotStarted(place.socket));
    };
    let running = before.version.pid;
    if before.version.draining {
        return Err(Failure::Draining { pid: running });
    }
    drop(before);
    let (arguments, directory) = crate::daemon::told(&place.socket)?;
    // A service manager's journal is where its daemon's log goes; what this program started has a file.
    let log = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => None,
        None => Some(place.open_log()?),
    };
    let written = log
        .as_ref()
        .and_then(|log| log.metadata().ok())
        .map_or(0, |found| found.len());
    let mut child = place
        .spawn_successor(&arguments, &directory, log.as_ref())
        .map_err(StartError::Spawn)?;
    let gave_up = Instant::now() + RELOAD_PATIENCE;
    loop {
        if let Some(status) = child.try_wait().map_err(StartError::Spawn)? {
            // Both daemons write to the log; only the new one to this.
            let mut said = String::new();
            if let Some(output) = child.stdout.take() {
                let _ = output.take(SAID_BYTES).read_to_string(&mut said);
            }
            let said = match (said.trim(), log) {
                ("", Some(log)) => format!("  (nothing; the log of both ends with)\n{}", tail(log, written)),
                ("", None) => "  (nothing; see the journal)".to_owned(),
                (said, _) => format!("  {}", said.replace('\n', "\n  ")),
            };
            return Err(StartError::NotTakenOver { status, running, said }.into());
        }
        // While the old one finishes its runs, connections wait.
        if let Ok(Some(connected)) = place.reach().await
            && u32::try_from(connected.version.pid) == Ok(child.id())
        {
            println!("process {} took over from process {running}", child.id());
            return Ok(0);
        }
        if Instant::now() > gave_up {
            return Err(StartError::Slow { pid: child.id() }.into());
        }
        tokio::time::sleep(PAUSES.1).await;
    }
}

/// Where the daemon is.
struct Place {
    socket: PathBuf,
    /// How closed its directory must be: ours, 0700; one that was named may be looked into by others.
    closed: Closed,
}

impl Place {
    fn find(args: &ConnectArgs) -> Result<Self, Failure> {
        if let Some(socket) = &args.socket {
            let socket = std::path::absolute(socket).map_err(Failure::CurrentDirectory)?;
            return Ok(Self {
                socket,
                closed: Closed::ToWriters,
            });
        }
        let named = std::env::var_os(fumehood_client::SOCKET_VARIABLE).is_some_and(|value| !value.is_empty());
        Ok(Self {
            socket: socket_path()?,
            closed: if named { Closed::ToWriters } else { Closed::ToAll },
        })
    }

    fn directory(&self) -> &Path {
        self.socket.parent().unwrap_or_else(|| Path::new("/"))
    }

    /// Connects and asks who is there; none when nobody is. A daemon that goes away in this moment counts as none.
    async fn reach(&self) -> Result<Option<Connected>, Failure> {
        // One of ours is looked at before it is trusted. A socket in a place that was named may be the system's daemon's.
        if self.closed == Closed::ToAll && self.directory().symlink_metadata().is_ok() {
            directory::open_checked(self.directory(), Closed::ToAll)?;
        }
        let client = match Client::connect_unix(&self.socket).await {
            Ok(client) => client,
            Err(ConnectError::NotRunning { .. })
                if std::fs::metadata(&self.socket).is_ok_and(|found| !found.file_type().is_socket()) =>
            {
                return Err(Failure::NoSocket(self.socket.clone()));
            }
            Err(ConnectError::NotRunning { .. } | ConnectError::Handshake(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match tokio::time::timeout(ANSWER_PATIENCE, client.version()).await {
            Ok(Ok(version)) => Ok(Some(Connected {
                client,
                version,
                socket: self.socket.clone(),
            })),
            // An idle daemon that ends just now takes the connection and drops it; the next look finds it gone.
            Ok(Err(fumehood_client::Error::Transport { .. })) => Ok(None),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Failure::Silent(self.socket.clone())),
        }
    }

    /// Starts a daemon and waits until it listens. When somebody else does so at the same time, waits for theirs.
    fn start(&self) -> Result<(), Failure> {
        let directory = prepare_directory(&self.socket, self.closed)?;
        let Some(lock) = self.lock()? else { return Ok(()) };
        // Whoever had the lock before may have started one.
        if !listening(&self.socket) {
            let log = self.open_log()?;
            // What earlier daemons wrote is not about this one.
            let before = log.metadata().map_or(0, |metadata| metadata.len());
            let mut child = self.spawn(&log)?;
            self.await_start(&mut child, log, before)?;
        }
        drop(lock);
        drop(directory);
        Ok(())
    }

    /// Takes the lock; none when a daemon came up while it was held by somebody else.
    fn lock(&self) -> Result<Option<Flock<File>>, StartError> {
        let path = beside(&self.socket, ".start.lock");
        let io_error = |source| StartError::File {
            action: "lock",
            path: path.clone(),
            source,
        };
        let mut file = open_private(&path, OpenOptions::new().read(true).write(true).create(true)).map_err(io_error)?;
        let (gave_up, mut pause) = (Instant::now() + LOCK_PATIENCE, PAUSES.0);
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Some(lock)),
                Err((file, Errno::EAGAIN | Errno::EINTR)) => file,
                Err((_, errno)) => return Err(io_error(errno.into())),
            };
            if listening(&self.socket) {
                return Ok(None);
            }
            if Instant::now() > gave_up {
                return Err(StartError::Locked { path });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn open_log(&self) -> Result<File, StartError> {
        let path = self.directory().join(LOG_NAME);
        let io_error = |source| StartError::File {
            action: "open",
            path: path.clone(),
            source,
        };
        let log = open_private(&path, OpenOptions::new().read(true).append(true).create(true)).map_err(io_error)?;
        let metadata = log.metadata().map_err(io_error)?;
        if !metadata.is_file() || metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(io_error(io::Error::other("it is not a file of this user's")));
        }
        if metadata.len() > LOG_BYTES {
            log.set_len(0).map_err(io_error)?;
        }
        Ok(log)
    }

    /// Starts this same program as a daemon of its own: no terminal's Ctrl-C, no caller's directory, no caller's pipes.
    fn spawn(&self, log: &File) -> Result<Child, StartError> {
        let spawn = || {
            // The link, not what it points to: the file may have been replaced by a newer build since this process started.
            Command::new("/proc/self/exe")
                .arg0("fumehood")
                .arg("daemon")
                .arg("--socket")
                .arg(&self.socket)
                .arg("--auto")
                .env_clear()
                .envs(std::env::vars_os().filter(|(name, _)| kept(name)))
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log.try_clone()?)
                .process_group(0)
                .spawn()
        };
        spawn().map_err(StartError::Spawn)
    }

    /// Starts this same program as the daemon that takes over, as the running one was started.
    fn spawn_successor(&self, arguments: &[OsString], directory: &Path, log: Option<&File>) -> io::Result<Child> {
        let mut take_over = OsString::from("--take-over=");
        take_over.push(&self.socket);
        let to_manager = |name: &OsStr| MANAGER_VARIABLES.iter().any(|known| name == *known);
        let errors = match log {
            Some(log) => Stdio::from(log.try_clone()?),
            None => Stdio::inherit(),
        };
        Command::new("/proc/self/exe")
            .arg0("fumehood")
            .arg("daemon")
            .args(arguments)
            .arg(take_over)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| kept(name) || to_manager(name)))
            .env(fumehood_client::SOCKET_VARIABLE, &self.socket)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
    }

    fn await_start(&self, child: &mut Child, log: File, before: u64) -> Result<(), StartError> {
        let (gave_up, mut pause) = (Instant::now() + START_PATIENCE, PAUSES.0);
        let path = self.directory().join(LOG_NAME);
        while !listening(&self.socket) {
            if let Some(status) = child.try_wait().map_err(StartError::Spawn)? {
                // Another daemon may have been faster than this one, by other hands than this program's.
                if listening(&self.socket) {
                    break;
                }
                return Err(StartError::Died {
                    status,
                    tail: tail(log, before),
                    log: path,
                });
            }
            if Instant::now() > gave_up {
                let socket = self.socket.clone();
                return Err(StartError::Silent {
                    pid: child.id(),
                    socket,
                    tail: tail(log, before),
                    log: path,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
        Ok(())
    }
}

/// Opens a file of mode 0600 that is no symbolic link; closed on exec, as all that std opens.
fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)
}

/// Whether anybody listens. Who, [`Client::connect_unix`] asks.
fn listening(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        // Its backlog is full: it is very much there.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn kept(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    KEPT_VARIABLES.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// `path` with `suffix` after its last component.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(suffix);
    path.with_file_name(name)
}

/// The last lines of a log that were written after its first `before` bytes, indented; says so when there are none.
fn tail(mut log: File, before: u64) -> String {
    let mut read = || -> io::Result<String> {
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(
            length.saturating_sub(LOG_TAIL_BYTES).max(before.min(length)),
        ))?;
        let mut bytes = Vec::new();
        log.by_ref().take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.trim().is_empty() => "  (nothing)".to_owned(),
        Ok(text) => text
            .lines()
            .map(|line| format!("  {line}"))
            .collect::<Vec<_>>()
            .join("\n"),
        Err(error) => format!("  (unreadable: {})", chain(&error)),
    }
}

/// What to say about a daemon of another version than this program; none when they are the same.
#[must_use]
pub fn version_notice(connected: &Connected) -> Option<String> {
    let ours = env!("CARGO_PKG_VERSION");
    let VersionResponse { version, pid, .. } = &connected.version;
    (version != ours).then(|| {
        format!("the daemon (process {pid}) is version {version}, this program {ours}; `fumehood daemon reload` puts a daemon of this version in its place")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_environment_stay_behind() {
        for name in ["PATH", "HOME", "XDG_RUNTIME_DIR", "FUMEHOOD_CONFIG"] {
            assert!(kept(OsStr::new(name)), "{name}");
        }
        for name in [
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "LD_PRELOAD",
            "PATHS",
            "SSH_AUTH_SOCK",
        ] {
            assert!(!kept(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn the_lock_is_beside_the_socket_and_never_followed() {
        assert_eq!(
            beside(Path::new("/run/a/f.sock"), ".start.lock"),
            Path::new("/run/a/f.sock.start.lock")
        );
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(open_private(&link, OpenOptions::new().write(true).create(true)).is_err());
        assert!(!target.exists());
    }

    #[test]
    fn the_tail_of_a_log_is_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            tail(File::open(&path).unwrap(), 0)
        };
        assert_eq!(read(""), "  (nothing)");
        assert_eq!(read("one\ntwo\n"), "  one\n  two");
        let long = read(&format!("{}the end", "x".repeat(10_000)));
        assert!(long.ends_with("the end") && long.len() < 2_100);
    }

    #[test]
    fn nobody_listens_on_a_stale_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(listening(&path));
        drop(listener);
        assert!(path.exists() && !listening(&path));
    }
}
