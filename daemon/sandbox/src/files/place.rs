//! From a path to a directory and a name in it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat};
use rustix::io::Errno;

use super::{Failed, Info, Kind, failing};

/// Symbolic links that one path may lead over (`MAXSYMLINKS` of linux/namei.h).
const MAX_LINKS: u32 = 40;

/// Permission bits of directories that are made on the way.
const PARENT_MODE: u32 = 0o755;

/// Where a name is, or could be.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory, by `O_PATH`.
    pub directory: OwnedFd,
    /// The name in it; `.` for the root.
    pub name: Vec<u8>,
    /// Whether slashes followed, so that only a directory can be meant.
    pub must_be_directory: bool,
}

impl Place {
    /// What has the name now; a symbolic link itself. `None`: nothing.
    pub fn stat(&self) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(&self.directory, &*self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the name is one that every directory has.
    pub fn is_dots(&self) -> bool {
        self.name == b"." || self.name == b".."
    }
}

/// A path without the slashes at its end, and whether there were any.
fn trim(path: &[u8]) -> (&[u8], bool) {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    (&path[..end], end < path.len())
}

/// The directory's part of a path and the name's.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        _ if path.is_empty() => (b"/", b"."),
        None => (b".", path),
        Some(0) => (b"/", &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
    }
}

/// The name by which a path is told: its last part, `/` for the root.
pub(super) fn last_name(path: &[u8]) -> &[u8] {
    match trim(path).0 {
        [] => b"/",
        path => split(path).1,
    }
}

/// Where a path's last name is. Links before it are followed, one at its end is not.
pub(super) fn locate(from: BorrowedFd<'_>, path: &[u8]) -> Result<Place, Errno> {
    let (path, must_be_directory) = trim(path);
    let (parent, name) = split(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(from, parent, flags, Mode::empty())?;
    refuse_own(&directory)?;
    Ok(Place {
        directory,
        name: name.to_vec(),
        must_be_directory,
    })
}

/// What is told when [`open`] and [`locate`] refuse.
pub(super) const OWN_RULE: &str = "/proc: what it tells of the process that carries out operations on files tells of the sandbox's making, not of a command";

/// Opens a path to read or look at, but nothing of this process's own. The directories on the way of links are looked at by themselves: the links
/// in there lead on to what has another name.
pub(super) fn open(path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    match flags.contains(OFlags::NOFOLLOW) {
        true => locate(CWD, path)?,
        false => follow(path)?,
    };
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    refuse_own(&file)?;
    Ok(file)
}

/// EACCES for what `/proc` holds of this process: it was forked and not executed, so its memory holds what whoever forked it knew.
/// Judged by what is open, whichever path and links led there.
fn refuse_own(file: &OwnedFd) -> Result<(), Errno> {
    if rustix::fs::fstatfs(file)?.f_type != PROC_SUPER_MAGIC {
        return Ok(());
    }
    let named = rustix::fs::readlinkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new())?;
    let own = std::process::id().to_string();
    match named
        .as_bytes()
        .split(|byte| *byte == b'/')
        .any(|part| part == own.as_bytes())
    {
        true => Err(Errno::ACCESS),
        false => Ok(()),
    }
}

/// Whether it was [`refuse_own`] that refused a path, of which it is only known that something did.
pub(super) fn is_own(path: &[u8]) -> bool {
    let refused = |path: &[u8]| {
        rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .is_ok_and(|file| refuse_own(&file) == Err(Errno::ACCESS))
    };
    refused(path) || refused(split(trim(path).0).0)
}

/// What a path leads to that is neither a regular file nor a directory, in words.
pub(super) fn special(path: &[u8]) -> Option<&'static str> {
    let stat = rustix::fs::statat(CWD, path, AtFlags::empty()).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => Some("a named pipe (FIFO)"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice => Some("a character device"),
        FileType::BlockDevice => Some("a block device"),
        _ => None,
    }
}

/// The same, where links at the end are followed to what has, or could have, a name that is no link. ELOOP.
pub(super) fn follow(path: &[u8]) -> Result<Place, Errno> {
    let mut place = locate(CWD, path)?;
    for _ in 0..MAX_LINKS {
        match rustix::fs::readlinkat(&place.directory, &*place.name, Vec::new()) {
            Ok(target) => {
                let must_be_directory = place.must_be_directory;
                place = locate(place.directory.as_fd(), target.as_bytes())?;
                place.must_be_directory |= must_be_directory;
            }
            // No link, or nothing.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(place),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::LOOP)
}

/// Makes the directories above a path's last name that are missing.
pub(super) fn make_parents(path: &[u8]) -> Result<(), Failed> {
    let failed = failing("mkdir", path);
    let (trimmed, _) = trim(path);
    let (parent, _) = split(trimmed);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Mostly they are all there.
    match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        result => return result.map(drop).map_err(failing("open", path)),
    }
    let start: &[u8] = if parent.starts_with(b"/") { b"/" } else { b"." };
    let mut directory = rustix::fs::openat(CWD, start, flags, Mode::empty()).map_err(&failed)?;
    for name in parent.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let open = |directory: &OwnedFd| rustix::fs::openat(directory, name, flags, Mode::empty());
        directory = match open(&directory) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(PARENT_MODE)) {
                    // Somebody else made it meanwhile; or it is a link to nowhere, which opening says.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(failed(error)),
                }
                open(&directory).map_err(&failed)?
            }
            result => result.map_err(&failed)?,
        };
    }
    Ok(())
}

/// What a file is.
pub(super) fn kind_of(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    }
}

/// What is told of a file.
// The widths of these fields depend on the architecture.
#[allow(clippy::unnecessary_cast)]
pub(super) fn info(name: &[u8], stat: &Stat, link_target: Vec<u8>) -> Info {
    Info {
        name: name.to_vec(),
        kind: kind_of(stat),
        size: stat.st_size as u64,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified_s: stat.st_mtime as i64,
        modified_ns: stat.st_mtime_nsec as u32,
        link_target,
        inode: stat.st_ino,
        device: stat.st_dev,
        links: stat.st_nlink as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_directory_and_a_name() {
        let parts = |path: &'static str| {
            let (trimmed, must) = trim(path.as_bytes());
            let (parent, name) = split(trimmed);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (text(parent), text(name), must)
        };
        let expected = |parent: &str, name: &str, must| (parent.to_owned(), name.to_owned(), must);
        assert_eq!(parts("a"), expected(".", "a", false));
        assert_eq!(parts("a/b//"), expected("a", "b", true));
        assert_eq!(parts("/a"), expected("/", "a", false));
        assert_eq!(parts("/a/../b"), expected("/a/..", "b", false));
        assert_eq!(parts("//"), expected("/", ".", true));
        assert_eq!(last_name(b"/"), b"/");
        assert_eq!(last_name(b"x/y/"), b"y");
    }

    #[test]
    fn links_at_the_end_are_followed_to_where_a_file_could_be() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        std::os::unix::fs::symlink("sub/real", at("first")).unwrap();
        std::os::unix::fs::symlink(at("first"), at("second")).unwrap();
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        let bytes = |name: &str| at(name).into_os_string().into_encoded_bytes();
        let place = follow(&bytes("second")).unwrap();
        assert_eq!(place.name, b"real");
        assert!(place.stat().unwrap().is_none());
        std::fs::write(at("sub/real"), "x").unwrap();
        assert_eq!(place.stat().unwrap().unwrap().st_size, 1);
        assert_eq!(follow(&bytes("loop")).unwrap_err(), Errno::LOOP);
        assert_eq!(follow(&bytes("none/x")).unwrap_err(), Errno::NOENT);
    }
}
