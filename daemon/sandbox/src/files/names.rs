//! What there is; making, removing and renaming.

use std::collections::BinaryHeap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;

use super::place::{self, Place};
use super::{BATCH_BYTES, Failed, Info, MAX_PAGE_BYTES, MAX_PAGE_ENTRIES, MAX_PATH_BYTES, Outcome, Reply, failing};
use crate::wire;

/// How often a long operation says that it goes on.
const WORKING_EVERY: Duration = Duration::from_secs(2);

/// Names of a directory that are held while it is emptied.
const NAMES_AT_ONCE: usize = 64;

/// Directories on the way down that are held open; further up they are found again by `..`.
const OPEN_LEVELS: usize = 32;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

/// Says now and then that an operation goes on.
struct Pulse<'s> {
    socket: &'s OwnedFd,
    last: Instant,
}

impl<'s> Pulse<'s> {
    fn new(socket: &'s OwnedFd) -> Self {
        Pulse {
            socket,
            last: Instant::now(),
        }
    }

    /// False when nobody listens any more.
    fn beat(&mut self) -> bool {
        if self.last.elapsed() < WORKING_EVERY {
            return true;
        }
        self.last = Instant::now();
        wire::send(self.socket.as_fd(), &Reply::Working, &[]).is_ok()
    }
}

pub(super) fn stat(path: &[u8], follow: bool) -> Result<Reply, Failed> {
    let failed = failing("stat", path);
    let links = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    let file = place::open(path, OFlags::PATH | OFlags::CLOEXEC | links).map_err(&failed)?;
    info_of(&file, place::last_name(path)).map(Reply::Info).map_err(&failed)
}

/// What an `O_PATH` descriptor refers to.
fn info_of(file: &OwnedFd, name: &[u8]) -> Result<Info, Errno> {
    let stat = rustix::fs::fstat(file)?;
    let target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => rustix::fs::readlinkat(file, "", Vec::new())?.into_bytes(),
        _ => Vec::new(),
    };
    Ok(place::info(name, &stat, target))
}

/// Reads the whole directory for every page and holds one page of names: a directory of any size takes the same memory.
pub(super) fn list(socket: &OwnedFd, path: &[u8], after: &[u8], limit: u32) -> Result<Outcome, Failed> {
    let failed = failing("list", path);
    let directory = place::open(path, DIRECTORY).map_err(failing("open", path))?;
    let limit = limit.clamp(1, MAX_PAGE_ENTRIES) as usize;
    // The smallest names behind `after`, one more than asked for; the largest of them on top.
    let mut names: BinaryHeap<Vec<u8>> = BinaryHeap::new();
    let mut pulse = Pulse::new(socket);
    for entry in Dir::read_from(&directory).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." || name <= after {
            continue;
        }
        if names.len() > limit {
            if names.peek().is_some_and(|largest| name >= largest.as_slice()) {
                continue;
            }
            names.pop();
        }
        names.push(name.to_vec());
        if !pulse.beat() {
            return Ok(Outcome::Abandoned);
        }
    }
    let names = names.into_sorted_vec();
    let mut more = names.len() > limit;
    let (mut batch, mut batch_bytes, mut bytes) = (Vec::new(), 0, 0);
    for name in names.iter().take(limit) {
        let info = match entry(&directory, name) {
            Ok(info) => info,
            // It went meanwhile.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(failing("stat", &below(path, name))(error)),
        };
        let size = info.name.len() + info.link_target.len();
        (batch_bytes, bytes) = (batch_bytes + size + size_of::<Info>(), bytes + size);
        batch.push(info);
        if batch_bytes > BATCH_BYTES {
            batch_bytes = 0;
            if wire::send(socket.as_fd(), &Reply::Entries(std::mem::take(&mut batch)), &[]).is_err() {
                return Ok(Outcome::Abandoned);
            }
        }
        if bytes > MAX_PAGE_BYTES {
            more |= names.last() != Some(name);
            break;
        }
    }
    if wire::send(socket.as_fd(), &Reply::Entries(batch), &[]).is_err() {
        return Ok(Outcome::Abandoned);
    }
    Ok(Outcome::Reply(Reply::Page { more }))
}

fn entry(directory: &OwnedFd, name: &[u8]) -> Result<Info, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    info_of(&rustix::fs::openat(directory, name, flags, Mode::empty())?, name)
}

fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
    [path, slash, name].concat()
}

pub(super) fn make_directory(path: &[u8], mode: u32, parents: bool) -> Result<Reply, Failed> {
    let failed = failing("mkdir", path);
    if parents {
        place::make_parents(path)?;
    }
    let place = place::locate(CWD, path).map_err(&failed)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let made = match rustix::fs::mkdirat(&place.directory, &*place.name, Mode::from_raw_mode(mode)) {
        Ok(()) => rustix::fs::openat(&place.directory, &*place.name, flags | OFlags::NOFOLLOW, Mode::empty())
            .map(|directory| (directory, true)),
        // What is there must be a directory; a link to one will do.
        Err(error @ Errno::EXIST) if parents => {
            match rustix::fs::openat(&place.directory, &*place.name, flags, Mode::empty()) {
                Ok(directory) => Ok((directory, false)),
                Err(_) => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    let (directory, created) = made.map_err(&failed)?;
    let stat = rustix::fs::fstat(&directory).map_err(&failed)?;
    if created && stat.st_mode & 0o777 != mode {
        // A default ACL of the directory above. Set-gid, which such directories inherit, stays.
        let mode = Mode::from_raw_mode(mode | stat.st_mode & 0o7000);
        rustix::fs::chmodat(&place.directory, &*place.name, mode, AtFlags::empty()).map_err(&failed)?;
    }
    let info = info_of(&directory, &place.name).map_err(&failed)?;
    Ok(Reply::Made { info, created })
}

pub(super) fn rename(from: &[u8], to: &[u8], keep_existing: bool) -> Result<Reply, Failed> {
    let old = place::locate(CWD, from).map_err(failing("rename", from))?;
    let new = place::locate(CWD, to).map_err(failing("rename", to))?;
    let flags = match keep_existing {
        true => RenameFlags::NOREPLACE,
        false => RenameFlags::empty(),
    };
    // A slash at the end means something to the kernel too.
    let name = |place: &Place| match place.must_be_directory {
        true => [&*place.name, b"/"].concat(),
        false => place.name.clone(),
    };
    rustix::fs::renameat_with(&old.directory, name(&old), &new.directory, name(&new), flags)
        .map(|()| Reply::Done)
        .map_err(|errno| {
            // What is in the way is at the new name.
            let about = match errno {
                Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR => to,
                _ => from,
            };
            failing("rename", about)(errno)
        })
}

pub(super) fn remove(socket: &OwnedFd, path: &[u8], recursive: bool) -> Result<Outcome, Failed> {
    let failed = failing("remove", path);
    let place = place::locate(CWD, path).map_err(&failed)?;
    if place.is_dots() {
        return Err(failed(Errno::INVAL));
    }
    let stat = place.stat().map_err(&failed)?.ok_or(Errno::NOENT).map_err(&failed)?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_directory && recursive {
        return Removal::new(socket, path, &place)?.run();
    }
    let flags = match is_directory {
        true => AtFlags::REMOVEDIR,
        false if place.must_be_directory => return Err(failed(Errno::NOTDIR)),
        false => AtFlags::empty(),
    };
    rustix::fs::unlinkat(&place.directory, &*place.name, flags).map_err(&failed)?;
    Ok(Outcome::Reply(Reply::Removed { count: 1 }))
}

/// A directory on the way down.
struct Level {
    name: Vec<u8>,
    /// Device, inode and mount.
    id: Id,
    /// `None` while it is far above.
    directory: Option<OwnedFd>,
    /// Names that are still to be removed, as far as they were read.
    names: Vec<(Vec<u8>, FileType)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id {
    device: (u32, u32),
    inode: u64,
    mount: u64,
}

impl Id {
    fn of(file: &OwnedFd) -> Result<Id, Errno> {
        // Linux 5.8 tells mounts apart; before, and of bind mounts of the same file system, nobody does.
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let found = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
        Ok(Id {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            mount: found.stx_mnt_id,
        })
    }

    fn same_mount(self, other: Id) -> bool {
        (self.device, self.mount) == (other.device, other.mount)
    }
}

/// The removal of a directory with what is in it, from below. Bounded in descriptors and names held, however deep and wide it is.
struct Removal<'a> {
    pulse: Pulse<'a>,
    path: &'a [u8],
    place: &'a Place,
    levels: Vec<Level>,
    count: u64,
}

impl<'a> Removal<'a> {
    fn new(socket: &'a OwnedFd, path: &'a [u8], place: &'a Place) -> Result<Self, Failed> {
        let failed = failing("remove", path);
        let above = Id::of(&place.directory).map_err(&failed)?;
        let first = Level::open(&place.directory, place.name.clone()).map_err(&failed)?;
        if !first.id.same_mount(above) {
            return Err(failed(Errno::BUSY));
        }
        Ok(Removal {
            pulse: Pulse::new(socket),
            path,
            place,
            levels: vec![first],
            count: 0,
        })
    }

    fn run(mut self) -> Result<Outcome, Failed> {
        while !self.levels.is_empty() {
            if !self.pulse.beat() {
                return Ok(Outcome::Abandoned);
            }
            if let Err(errno) = self.step() {
                let names = self.levels.iter().skip(1).map(|level| level.name.as_slice());
                let mut path = names.fold(self.path.to_vec(), |path, name| match path.len() {
                    ..MAX_PATH_BYTES => below(&path, name),
                    _ => path,
                });
                if let Some((name, _)) = self.levels.last().and_then(|level| level.names.last()) {
                    path = below(&path, name);
                }
                return Err(Failed {
                    operation: "remove",
                    errno,
                    path,
                    removed: self.count,
                });
            }
        }
        Ok(Outcome::Reply(Reply::Removed { count: self.count }))
    }

    /// Removes one thing, goes down into a directory, or comes back up from an empty one.
    fn step(&mut self) -> Result<(), Errno> {
        let depth = self.levels.len();
        let Some(top) = self.levels.last_mut() else {
            return Ok(());
        };
        let directory = top.directory.as_ref().ok_or(Errno::BADF)?;
        if top.names.is_empty() {
            top.names = names_in(directory)?;
        }
        let Some((name, kind)) = top.names.last() else {
            return self.leave();
        };
        let gone = match kind {
            FileType::Directory => Err(Errno::ISDIR),
            _ => rustix::fs::unlinkat(directory, &**name, AtFlags::empty()),
        };
        match gone {
            Ok(()) => self.count += 1,
            // Somebody else removed it.
            Err(Errno::NOENT) => {}
            Err(error @ (Errno::ISDIR | Errno::PERM)) => {
                let level = match Level::open(directory, name.clone()) {
                    Ok(level) => level,
                    Err(Errno::NOENT) => {
                        top.names.pop();
                        return Ok(());
                    }
                    Err(Errno::NOTDIR | Errno::LOOP) if error == Errno::PERM => return Err(error),
                    Err(error) => return Err(error),
                };
                if !level.id.same_mount(top.id) {
                    return Err(Errno::BUSY);
                }
                if let Some(far) = depth.checked_sub(OPEN_LEVELS) {
                    self.levels[far].directory = None;
                }
                self.levels.push(level);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.levels.last_mut().and_then(|top| top.names.pop());
        Ok(())
    }

    /// Removes the directory that is empty now.
    fn leave(&mut self) -> Result<(), Errno> {
        let Some(left) = self.levels.pop() else {
            return Ok(());
        };
        let removed = match self.levels.last_mut() {
            None => rustix::fs::unlinkat(&self.place.directory, &*left.name, AtFlags::REMOVEDIR),
            Some(above) => {
                let directory = match above.directory.take() {
                    Some(directory) => directory,
                    None => {
                        let inner = left.directory.as_ref().ok_or(Errno::BADF)?;
                        let directory = rustix::fs::openat(inner, "..", DIRECTORY, Mode::empty())?;
                        // It was moved: what is above it now is not what was asked for.
                        if Id::of(&directory)? != above.id {
                            return Err(Errno::STALE);
                        }
                        directory
                    }
                };
                let directory = above.directory.insert(directory);
                let removed = rustix::fs::unlinkat(directory, &*left.name, AtFlags::REMOVEDIR);
                let gone = matches!(removed, Ok(()) | Err(Errno::NOENT));
                above.names.pop_if(|(name, _)| gone && *name == left.name);
                removed
            }
        };
        match removed {
            Ok(()) => {
                self.count += 1;
                Ok(())
            }
            // Somebody else removed it.
            Err(Errno::NOENT) => Ok(()),
            // Something was put there meanwhile: it goes as well.
            Err(Errno::NOTEMPTY) => {
                self.levels.push(left);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl Level {
    fn open(above: &OwnedFd, name: Vec<u8>) -> Result<Level, Errno> {
        let directory = rustix::fs::openat(above, &*name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Level {
            name,
            id: Id::of(&directory)?,
            directory: Some(directory),
            names: Vec::new(),
        })
    }
}

/// Some names of a directory.
fn names_in(directory: &OwnedFd) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        names.push((name.to_vec(), entry.file_type()));
        if names.len() == NAMES_AT_ONCE {
            break;
        }
    }
    Ok(names)
}
