//! Where the daemon's socket is.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::directory::{self, Closed, DirectoryError};

/// The environment variable that names the socket: an absolute path.
pub const SOCKET_VARIABLE: &str = "FUMEHOOD_SOCKET";

/// The socket's name in its directory.
const SOCKET_NAME: &str = "fumehood.sock";

/// A Unix socket's path has 108 bytes in `sockaddr_un`, the closing NUL included (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Why there is no path for the socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketPathError {
    /// A relative path would mean another socket in each directory.
    #[error("FUMEHOOD_SOCKET must be an absolute path, not `{}`", .0.display())]
    Relative(PathBuf),
    /// The kernel takes no longer one.
    #[error("the socket's path {} has {} bytes, the kernel takes at most {MAX_SOCKET_PATH}: set FUMEHOOD_SOCKET to a shorter one", .0.display(), .0.as_os_str().len())]
    TooLong(PathBuf),
}

/// The path of this user's daemon's socket. Whether anything is there is not looked at.
///
/// It is, the first that applies:
/// 1. `$FUMEHOOD_SOCKET`;
/// 2. `$XDG_RUNTIME_DIR/fumehood/fumehood.sock`, when that directory exists, is this user's and closed to the writing of
///    others (after `su` the variable may still name another user's);
/// 3. `/tmp/fumehood-<uid>/fumehood.sock`.
///
/// # Errors
/// When `FUMEHOOD_SOCKET` is relative, or the path is longer than the 107 bytes the kernel takes.
pub fn socket_path() -> Result<PathBuf, SocketPathError> {
    choose(
        env::var_os(SOCKET_VARIABLE).as_deref(),
        env::var_os("XDG_RUNTIME_DIR").as_deref(),
        geteuid().as_raw(),
    )
}

/// The decision of [`socket_path`].
fn choose(explicit: Option<&OsStr>, runtime: Option<&OsStr>, uid: u32) -> Result<PathBuf, SocketPathError> {
    let path = match explicit.filter(|value| !value.is_empty()) {
        Some(explicit) => {
            let path = PathBuf::from(explicit);
            if !path.is_absolute() {
                return Err(SocketPathError::Relative(path));
            }
            path
        }
        None => runtime
            .map(Path::new)
            .filter(|runtime| runtime.is_absolute() && directory::open_checked(runtime, Closed::ToWriters).is_ok())
            .map(|runtime| runtime.join("fumehood").join(SOCKET_NAME))
            .unwrap_or_else(|| PathBuf::from(format!("/tmp/fumehood-{uid}")).join(SOCKET_NAME)),
    };
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(SocketPathError::TooLong(path));
    }
    Ok(path)
}

/// Makes the socket's directory, private, when there is none, and makes sure that it is as `closed` as asked: to be done
/// before a daemon is started there.
///
/// # Errors
/// As [`directory::create_private`] and [`directory::open_checked`].
pub fn prepare_directory(socket: &Path, closed: Closed) -> Result<std::fs::File, DirectoryError> {
    // A path that was accepted above has a parent; "/" itself as one is refused for being root's or open.
    let directory = socket.parent().unwrap_or_else(|| Path::new("/"));
    match closed {
        Closed::ToAll => directory::create_private(directory),
        Closed::ToWriters if directory.symlink_metadata().is_ok() => directory::open_checked(directory, closed),
        Closed::ToWriters => directory::create_private(directory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_variable_wins_and_must_be_absolute() {
        let runtime = tempfile::tempdir().unwrap();
        let chosen = choose(Some(OsStr::new("/run/x.sock")), Some(runtime.path().as_os_str()), 7).unwrap();
        assert_eq!(chosen, Path::new("/run/x.sock"));
        assert!(matches!(
            choose(Some(OsStr::new("x.sock")), None, 7),
            Err(SocketPathError::Relative(_))
        ));
        let long = format!("/{}", "x".repeat(MAX_SOCKET_PATH));
        assert!(matches!(
            choose(Some(OsStr::new(&long)), None, 7),
            Err(SocketPathError::TooLong(_))
        ));
    }

    #[test]
    fn a_trustworthy_runtime_directory_is_used() {
        let runtime = tempfile::tempdir().unwrap();
        let chosen = choose(Some(OsStr::new("")), Some(runtime.path().as_os_str()), 7).unwrap();
        assert_eq!(chosen, runtime.path().join("fumehood/fumehood.sock"));
    }

    #[test]
    fn without_one_the_socket_is_below_tmp() {
        let loose = tempfile::tempdir().unwrap();
        fs::set_permissions(loose.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for runtime in [
            None,
            Some(OsStr::new("/nonexistent")),
            Some(OsStr::new("relative")),
            Some(loose.path().as_os_str()),
        ] {
            assert_eq!(
                choose(None, runtime, 7).unwrap(),
                Path::new("/tmp/fumehood-7/fumehood.sock"),
                "{runtime:?}"
            );
        }
    }
}
