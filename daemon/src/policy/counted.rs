//! Which policy files count: those that nobody but root and the daemon's own user can have written.
//!
//! A file, its directory and every directory above it must belong to root or the daemon's user, and nobody else may write to them; above the
//! policy directory, one that others write to will do where the sticky bit keeps them from what is not theirs (/tmp). A symbolic link counts
//! if it names a file of the same directory, or one that is root's in places that are. Every name is opened once, without following links, its
//! descriptor is looked at, and what is read is read from that descriptor: there is no moment between a look and an opening.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

/// Symbolic links that are followed on one path, as the kernel's own bound (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Why a file or directory does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Uncounted {
    /// It belongs to somebody else.
    #[error("{} belongs to uid {uid}; it must be root's or the daemon's own user's", path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose.
        uid: u32,
    },
    /// Others can write to it.
    #[error("others can write to {} (mode {mode:04o}); `chmod go-w` it", path.display())]
    Writable {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A link that leads out of the directory.
    #[error("{} is a symbolic link to {}, which is neither in the same directory nor a file of root's", path.display(), target.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// It is something else.
    #[error("{} is no regular file", .0.display())]
    NotRegular(PathBuf),
}

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// It does not count.
    #[error(transparent)]
    Uncounted(#[from] Uncounted),
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl Fn(Errno) -> CountError {
    move |errno| CountError::Read {
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// What is looked at, and what it may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On the way: others may write to it where they cannot replace what is not theirs.
    Above,
    /// The directory of policies, or a file.
    Last,
}

/// Whether a thing counts, by what its descriptor says.
fn judge(path: &Path, stat: &FileStat, uid: u32, place: Place) -> Result<(), Uncounted> {
    if stat.st_uid != 0 && stat.st_uid != uid {
        return Err(Uncounted::Owner {
            path: path.to_owned(),
            uid: stat.st_uid,
        });
    }
    let sticky = place == Place::Above && stat.st_mode & nix::libc::S_ISVTX != 0;
    if kind(stat) != SFlag::S_IFLNK && stat.st_mode & 0o022 != 0 && !sticky {
        return Err(Uncounted::Writable {
            path: path.to_owned(),
            mode: stat.st_mode & 0o7777,
        });
    }
    Ok(())
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Opens what an absolute path leads to, as `O_PATH`, following links of root's and the daemon's user, and looks at everything on the way.
/// With it comes its path without links.
fn walk(path: &Path, uid: u32) -> Result<(OwnedFd, PathBuf), CountError> {
    let step = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = open("/", step | OFlag::O_DIRECTORY, Mode::empty()).map_err(failed(path))?;
    let mut trail = vec![(root, PathBuf::from("/"))];
    let mut names: VecDeque<OsString> = names(path);
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let Some((above, above_path)) = trail.last() else { break };
        let here = above_path.join(&name);
        let found = openat(above, name.as_os_str(), step, Mode::empty()).map_err(failed(&here))?;
        let stat = fstat(&found).map_err(failed(&here))?;
        judge(&here, &stat, uid, Place::Above)?;
        if kind(&stat) != SFlag::S_IFLNK {
            trail.push((found, here));
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(failed(&here)(Errno::ELOOP));
        }
        let target = PathBuf::from(readlinkat(&found, "").map_err(failed(&here))?);
        if target.is_absolute() {
            trail.truncate(1);
        }
        for name in self::names(&target).into_iter().rev() {
            names.push_front(name);
        }
    }
    // The root is always there.
    trail.pop().ok_or_else(|| failed(path)(Errno::ENOENT))
}

fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

/// A directory that counts.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    uid: u32,
}

impl Directory {
    /// Opens a directory, for the daemon's user `uid`; `None`: it does not exist.
    ///
    /// # Errors
    /// When it does not count, or cannot be looked at.
    pub fn open(path: &Path, uid: u32) -> Result<Option<Directory>, CountError> {
        let (fd, real) = match walk(path, uid) {
            Err(CountError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            walked => walked?,
        };
        let stat = fstat(&fd).map_err(failed(path))?;
        judge(&real, &stat, uid, Place::Last)?;
        if kind(&stat) != SFlag::S_IFDIR {
            return Err(failed(path)(Errno::ENOTDIR));
        }
        Ok(Some(Directory { fd, path: real, uid }))
    }

    /// Its path, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the policy files in it, sorted: `*.toml` but for `*.test.toml`, which hold expectations.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn policies(&self) -> Result<Vec<OsString>, CountError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = Dir::openat(&self.fd, ".", flags, Mode::empty()).map_err(failed(&self.path))?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(failed(&self.path))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let bytes = name.as_bytes();
            if bytes.len() > 5 && bytes.ends_with(b".toml") && !bytes.ends_with(b".test.toml") {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// What a file of the directory holds.
    ///
    /// # Errors
    /// When it does not count, is longer than `most` bytes, or cannot be read.
    pub fn read(&self, name: &OsStr, most: u64) -> Result<Vec<u8>, CountError> {
        let path = self.path.join(name);
        match self.open_here(name) {
            Err(CountError::Read { source, .. }) if source.raw_os_error() == Some(nix::libc::ELOOP) => {}
            opened => return read(opened?, &path, self.uid, most),
        }
        let target = PathBuf::from(readlinkat(&self.fd, name).map_err(failed(&path))?);
        // Of one link in this directory to another file in it, and no further.
        let mut parts = target.components().filter(|part| *part != Component::CurDir);
        if let (Some(Component::Normal(other)), None) = (parts.next(), parts.next())
            && !target.is_absolute()
        {
            return read(self.open_here(other)?, &self.path.join(other), self.uid, most);
        }
        let elsewhere = || Uncounted::Link {
            path: path.clone(),
            target: target.clone(),
        };
        // Root's alone: a uid that is nobody else's.
        let (fd, real) = match walk(&self.path.join(&target), 0) {
            Err(CountError::Uncounted(_)) => return Err(elsewhere().into()),
            walked => walked?,
        };
        let stat = fstat(&fd).map_err(failed(&real))?;
        judge(&real, &stat, 0, Place::Last).map_err(|_| elsewhere())?;
        // The name was walked with every link resolved; the last step is taken again from its directory, for reading.
        let (above, _) = walk(real.parent().unwrap_or(Path::new("/")), 0)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let name = real.file_name().unwrap_or(OsStr::new("."));
        let opened = openat(above, name, flags, Mode::empty()).map_err(failed(&real))?;
        read(opened, &real, 0, most)
    }

    fn open_here(&self, name: &OsStr) -> Result<OwnedFd, CountError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        openat(&self.fd, name, flags, Mode::empty()).map_err(failed(&self.path.join(name)))
    }
}

/// What a file holds that an absolute path leads to and that counts, with its path without links.
///
/// # Errors
/// As [`Directory::read`].
pub fn read_path(path: &Path, uid: u32, most: u64) -> Result<(PathBuf, Vec<u8>), CountError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Uncounted::NotRegular(path.to_owned()).into());
    };
    let directory = Directory::open(parent, uid)?.ok_or_else(|| failed(path)(Errno::ENOENT))?;
    let bytes = directory.read(name, most)?;
    Ok((directory.path().join(name), bytes))
}

fn read(fd: OwnedFd, path: &Path, uid: u32, most: u64) -> Result<Vec<u8>, CountError> {
    let stat = fstat(fd.as_fd()).map_err(failed(path))?;
    if kind(&stat) != SFlag::S_IFREG {
        return Err(Uncounted::NotRegular(path.to_owned()).into());
    }
    judge(path, &stat, uid, Place::Last)?;
    read_bounded(fd, most).map_err(|source| CountError::Read {
        path: path.to_owned(),
        source,
    })
}

/// At most so many bytes of a file; more is an error.
pub(super) fn read_bounded(fd: OwnedFd, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(fd).take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::other(format!("it is longer than {most} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const STRANGER: u32 = 54_399;

    fn me() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn root() -> bool {
        me() == 0
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn read_in(directory: &Path, name: &str) -> Result<Vec<u8>, String> {
        let opened = Directory::open(directory, me()).map_err(|error| error.to_string())?;
        let opened = opened.ok_or("missing")?;
        opened.read(OsStr::new(name), 100).map_err(|error| error.to_string())
    }

    #[test]
    fn who_can_write_decides_whether_it_counts() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("policies");
        fs::create_dir(&directory).unwrap();
        let file = directory.join("a.toml");
        fs::write(&file, "x").unwrap();
        // (what, its mode, whether it counts)
        for (path, mode, counts) in [
            (&file, 0o644, true),
            (&file, 0o600, true),
            (&file, 0o664, false),
            (&file, 0o646, false),
            (&directory, 0o755, true),
            (&directory, 0o775, false),
            (&directory, 0o777, false),
            (&directory, 0o1777, false),
            (&place.path().to_owned(), 0o755, true),
            (&place.path().to_owned(), 0o777, false),
            // Others cannot rename what is not theirs.
            (&place.path().to_owned(), 0o1777, true),
        ] {
            let before = fs::metadata(path).unwrap().permissions();
            chmod(path, mode);
            let read = read_in(&directory, "a.toml");
            assert_eq!(read.is_ok(), counts, "{} {mode:o}: {read:?}", path.display());
            if let Err(error) = read {
                assert!(
                    error.contains("chmod go-w") && error.contains(&format!("{mode:04o}")),
                    "{error}"
                );
            }
            fs::set_permissions(path, before).unwrap();
        }
        if root() {
            for path in [&file, &directory, &place.path().to_owned()] {
                chown(path, Some(STRANGER), None).unwrap();
                let error = read_in(&directory, "a.toml").unwrap_err();
                assert!(error.contains("belongs to uid 54399"), "{error}");
                // For the daemon of that user, it counts.
                let theirs = Directory::open(&directory, STRANGER).unwrap().unwrap();
                assert!(theirs.read(OsStr::new("a.toml"), 100).is_ok());
                chown(path, Some(0), None).unwrap();
            }
        }
    }

    #[test]
    fn a_link_counts_within_its_directory_and_to_what_is_roots() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("policies");
        let other = place.path().join("other");
        fs::create_dir(&directory).unwrap();
        fs::create_dir(&other).unwrap();
        for file in [directory.join("a.toml"), other.join("b.toml")] {
            fs::write(file, "x").unwrap();
        }
        let link = |name: &str, target: &str| symlink(target, directory.join(name)).unwrap();
        link("same.toml", "a.toml");
        link("dot.toml", "./a.toml");
        link("out.toml", "../other/b.toml");
        link("loop.toml", "loop.toml");
        link("two.toml", "same.toml");
        link("etc.toml", "/etc/passwd");
        link("gone.toml", "nothing.toml");
        assert!(read_in(&directory, "same.toml").is_ok());
        assert!(read_in(&directory, "dot.toml").is_ok());
        for name in ["loop.toml", "two.toml", "gone.toml"] {
            assert!(read_in(&directory, name).is_err(), "{name}");
        }
        // A file of root's elsewhere is read; it is only too long here, or just as it is.
        match read_in(&directory, "etc.toml") {
            Ok(_) => {}
            Err(error) => assert!(!error.contains("symbolic link"), "{error}"),
        }
        let out = read_in(&directory, "out.toml");
        if root() {
            assert!(out.is_ok(), "{out:?}");
            chown(other.join("b.toml"), Some(STRANGER), None).unwrap();
        }
        let error = read_in(&directory, "out.toml").unwrap_err();
        assert!(error.contains("symbolic link to ../other/b.toml"), "{error}");
        // A directory that is reached by a link is looked at where it is.
        symlink("policies", place.path().join("link")).unwrap();
        assert!(read_in(&place.path().join("link"), "a.toml").is_ok());
        chmod(&directory, 0o777);
        assert!(read_in(&place.path().join("link"), "a.toml").is_err());
    }

    #[test]
    fn what_is_no_file_or_too_long_is_not_read() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path();
        nix::unistd::mkfifo(&directory.join("pipe.toml"), Mode::S_IRUSR).unwrap();
        fs::create_dir(directory.join("dir.toml")).unwrap();
        fs::write(directory.join("long.toml"), [b'x'; 101]).unwrap();
        fs::write(directory.join("a.test.toml"), "").unwrap();
        fs::write(directory.join(".toml"), "").unwrap();
        for name in ["pipe.toml", "dir.toml", "long.toml"] {
            assert!(read_in(directory, name).is_err(), "{name}");
        }
        let names = Directory::open(directory, me()).unwrap().unwrap().policies().unwrap();
        assert_eq!(names, ["dir.toml", "long.toml", "pipe.toml"]);
        assert!(Directory::open(&directory.join("missing"), me()).unwrap().is_none());
    }
}
