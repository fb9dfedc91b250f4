//! What systemd and the daemon tell each other: sockets at the start, readiness, the end.
//!
//! Without systemd (`NOTIFY_SOCKET`, `LISTEN_FDS` unset) all of this does nothing. It is the one place beside `config.rs` that
//! looks at the daemon's environment, through the two libraries that implement the protocol.

use std::io;
use std::os::unix::net::UnixListener;

use sd_notify::NotifyState;

/// Why sockets that were passed on cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// A descriptor is no listening Unix stream socket.
    #[error(
        "socket {index} from LISTEN_FDS cannot be used; the unit's socket must be a ListenStream= with an absolute path"
    )]
    NotUnix {
        /// Which, from 0.
        index: usize,
        /// Why.
        source: io::Error,
    },
}

/// The Unix listeners that systemd opened for this process (`LISTEN_FDS`, `LISTEN_PID`), close-on-exec from here on. None when it was
/// started otherwise. To be called once, before other processes or threads are started.
///
/// TCP is not taken: it needs the certificates of the configuration, which also names its address.
///
/// # Errors
/// When a socket is of another kind.
pub fn listeners() -> Result<Vec<UnixListener>, ActivationError> {
    // The library takes sockets without LISTEN_PID as well; such a variable was left over by some other process.
    if std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let mut sockets = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..sockets.len() {
        // As systemd gives it, it blocks.
        let taken = sockets.take_unix_listener(index).and_then(|listener| {
            listener
                .iter()
                .try_for_each(|listener| listener.set_nonblocking(true))?;
            Ok(listener)
        });
        match taken {
            Ok(listener) => listeners.extend(listener),
            Err(source) => return Err(ActivationError::NotUnix { index, source }),
        }
    }
    Ok(listeners)
}

/// Says that the daemon serves, and that it is the unit's main process from here on where it took over from another.
pub fn ready(took_over: bool) {
    let ready = [NotifyState::Ready, NotifyState::Status("serving")];
    let process = took_over.then(|| NotifyState::MainPid(std::process::id()));
    notify(&ready.into_iter().chain(process).collect::<Vec<_>>());
}

/// Says that the daemon is ending: it takes no more runs and waits for those there are.
pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Whether a service manager wants to hear of this process.
pub fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// Whether the service manager listens on an abstract socket, which has no path.
pub fn notifies_abstract_socket() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| socket.as_encoded_bytes().starts_with(b"@"))
}

/// A service manager that does not listen is no reason to fail.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::process::{Command, Stdio};

    /// Runs a test of this module in a process of its own, as systemd starts one: with a socket as descriptor 3.
    fn activated(inner: &str, socket: OwnedFd, notify: &std::path::Path) -> (bool, String) {
        let output = Command::new("/bin/sh")
            .args([
                "-c",
                "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" --exact \"$1\" --ignored",
            ])
            .arg(std::env::current_exe().unwrap())
            .arg(format!("systemd::tests::{inner}"))
            .env("NOTIFY_SOCKET", notify)
            .stdin(Stdio::from(socket))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success() && text.contains("1 passed"), text)
    }

    #[test]
    fn sockets_are_taken_and_readiness_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let notify = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (passed, text) = activated(
            "inner_takes_a_socket",
            listener.into(),
            &directory.path().join("notify"),
        );
        assert!(passed, "{text}");
        drop(client);
        let mut told = Vec::new();
        for _ in 0..2 {
            let mut message = [0; 256];
            let length = notify.recv(&mut message).unwrap();
            told.push(String::from_utf8_lossy(&message[..length]).into_owned());
        }
        assert!(
            told[0].starts_with("READY=1") && told[1].starts_with("STOPPING=1"),
            "{told:?}"
        );

        let datagram = UnixDatagram::unbound().unwrap();
        let (passed, text) = activated(
            "inner_refuses_a_datagram_socket",
            datagram.into(),
            &directory.path().join("notify"),
        );
        assert!(passed, "{text}");
    }

    #[test]
    #[ignore = "an inner half of sockets_are_taken_and_readiness_is_said, which runs it"]
    fn inner_takes_a_socket() {
        let taken = listeners().unwrap();
        assert_eq!(taken.len(), 1);
        let flags = nix::fcntl::fcntl(&taken[0], nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & nix::libc::FD_CLOEXEC, nix::libc::FD_CLOEXEC);
        taken[0].accept().unwrap();
        ready(false);
        stopping();
    }

    #[test]
    #[ignore = "an inner half of sockets_are_taken_and_readiness_is_said, which runs it"]
    fn inner_refuses_a_datagram_socket() {
        let error = listeners().unwrap_err().to_string();
        assert!(error.contains("socket 0") && error.contains("ListenStream="), "{error}");
    }

    #[test]
    fn without_systemd_there_is_nothing() {
        assert!(listeners().unwrap().is_empty());
        ready(false);
    }
}
