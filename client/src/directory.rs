//! Directories that must be private before what is in them is trusted: the one of the socket.
//!
//! In a directory that others may write to, anybody can put a socket and answer on it. So the directory is opened
//! without following a symbolic link, and what is checked is the opened object, not a name that may be exchanged between
//! the check and the use.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Uid, geteuid};

/// Permission bits that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;
/// Permission bits of others than the owner.
const OTHERS_ANY: u32 = 0o077;

/// Why a directory cannot be trusted or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// It is a symbolic link, or no directory at all.
    #[error("{} is no directory (a symbolic link does not count as one): remove it, or set FUMEHOOD_SOCKET to a path elsewhere", path.display())]
    NotADirectory {
        /// Which.
        path: PathBuf,
    },
    /// It belongs to another user, who could put a socket of their own there.
    #[error(
        "{} belongs to user id {owner}, not to yours ({ours}): have it removed, or set FUMEHOOD_SOCKET to a path in a directory of your own",
        path.display()
    )]
    Foreign {
        /// Which.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
        /// The effective user id of this process.
        ours: u32,
    },
    /// Its mode gives others more than it may.
    #[error("{} has mode {mode:04o}, open to other users: mend it with `chmod {} {}`", path.display(), if *.private { "700" } else { "go-w" }, path.display())]
    Loose {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Whether it had to be closed to others altogether, not only to their writing.
        private: bool,
    },
    /// The system said no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: `create`, `open`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// How closed a directory has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Nobody but the owner may write: others may look. For directories that somebody else made for us.
    ToWriters,
    /// Nobody but the owner may do anything: mode 0700. For directories that we make.
    ToAll,
}

/// Opens a directory after making sure that it is one, belongs to this user, and is as closed as asked.
///
/// The descriptor stands for what was checked; it is closed on exec.
///
/// # Errors
/// When it is missing ([`DirectoryError::Io`]), is no directory or a symbolic link, is another user's, or is too open.
pub fn open_checked(path: &Path, closed: Closed) -> Result<File, DirectoryError> {
    let io_error = |action, source| DirectoryError::Io {
        action,
        path: path.to_owned(),
        source,
    };
    // O_DIRECTORY with O_NOFOLLOW: ENOTDIR for a link and for a file alike; ELOOP on some file systems.
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let directory = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(directory) => directory,
        Err(error) => {
            return Err(match error.raw_os_error().map(nix::errno::Errno::from_raw) {
                Some(nix::errno::Errno::ENOTDIR | nix::errno::Errno::ELOOP) => {
                    DirectoryError::NotADirectory { path: path.to_owned() }
                }
                // Not even readable: whose it is says more than that.
                Some(nix::errno::Errno::EACCES) => match path.symlink_metadata() {
                    Ok(metadata) if metadata.uid() != geteuid().as_raw() => DirectoryError::Foreign {
                        path: path.to_owned(),
                        owner: metadata.uid(),
                        ours: geteuid().as_raw(),
                    },
                    _ => io_error("open", error),
                },
                _ => io_error("open", error),
            });
        }
    };
    let metadata = directory.metadata().map_err(|error| io_error("look at", error))?;
    check(path, metadata.uid(), metadata.mode() & 0o7777, geteuid(), closed)?;
    Ok(directory)
}

/// Makes a directory of mode 0700 when there is none, then opens it as [`open_checked`] does with [`Closed::ToAll`].
///
/// Only the last component is made. Two processes may do this at once.
///
/// # Errors
/// As [`open_checked`], and when it cannot be made.
pub fn create_private(path: &Path) -> Result<File, DirectoryError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => {
            return Err(DirectoryError::Io {
                action: "create",
                path: path.to_owned(),
                source,
            });
        }
    }
    open_checked(path, Closed::ToAll)
}

/// The decision of [`open_checked`], without the file system.
fn check(path: &Path, owner: u32, mode: u32, ours: Uid, closed: Closed) -> Result<(), DirectoryError> {
    if owner != ours.as_raw() {
        return Err(DirectoryError::Foreign {
            path: path.to_owned(),
            owner,
            ours: ours.as_raw(),
        });
    }
    let forbidden = match closed {
        Closed::ToWriters => OTHERS_WRITE,
        Closed::ToAll => OTHERS_ANY,
    };
    if mode & forbidden != 0 {
        return Err(DirectoryError::Loose {
            path: path.to_owned(),
            mode,
            private: closed == Closed::ToAll,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn with_mode(parent: &Path, mode: u32) -> PathBuf {
        let path = parent.join(format!("{mode:o}"));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_new_directory_is_made_private() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("fumehood");
        create_private(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        create_private(&path).unwrap();
    }

    #[test]
    fn a_directory_open_to_others_is_refused_with_the_command_that_mends_it() {
        let parent = tempfile::tempdir().unwrap();
        for mode in [0o701, 0o740, 0o750, 0o777, 0o1777] {
            let path = with_mode(parent.path(), mode);
            let error = create_private(&path).unwrap_err();
            assert!(
                matches!(error, DirectoryError::Loose { mode: found, .. } if found == mode),
                "{error:?}"
            );
            assert!(
                error.to_string().contains(&format!("chmod 700 {}", path.display())),
                "{error}"
            );
        }
    }

    #[test]
    fn others_may_look_into_a_directory_that_only_has_to_be_closed_to_writers() {
        let parent = tempfile::tempdir().unwrap();
        open_checked(&with_mode(parent.path(), 0o755), Closed::ToWriters).unwrap();
        for mode in [0o770, 0o707, 0o722] {
            let error = open_checked(&with_mode(parent.path(), mode), Closed::ToWriters).unwrap_err();
            assert!(matches!(error, DirectoryError::Loose { .. }), "{error:?}");
            assert!(error.to_string().contains("chmod go-w"), "{error}");
        }
    }

    #[test]
    fn a_symbolic_link_and_a_file_are_no_directories() {
        let parent = tempfile::tempdir().unwrap();
        let real = with_mode(parent.path(), 0o700);
        let link = parent.path().join("link");
        symlink(&real, &link).unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [link, file] {
            let error = create_private(&path).unwrap_err();
            assert!(matches!(error, DirectoryError::NotADirectory { .. }), "{error:?}");
        }
    }

    #[test]
    fn another_users_directory_is_refused_naming_both() {
        let error = check(Path::new("/tmp/fumehood-7"), 8, 0o700, Uid::from_raw(7), Closed::ToAll).unwrap_err();
        assert!(
            matches!(error, DirectoryError::Foreign { owner: 8, ours: 7, .. }),
            "{error:?}"
        );
        assert!(
            error.to_string().contains("belongs to user id 8, not to yours (7)"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_parent_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let error = create_private(&parent.path().join("a/b")).unwrap_err();
        assert!(
            matches!(error, DirectoryError::Io { action: "create", .. }),
            "{error:?}"
        );
    }
}
