//! Reading and writing.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::place::{self, Place};
use super::{Failed, Kind, Operation, Outcome, Reply, Write, WriteMode, failing};
use crate::{sys, wire};

/// What is read or written at once, in bytes.
const BUFFER_BYTES: usize = 128 * 1024;

/// Names that are tried for a file that is being written.
const MAX_NAMES: u32 = 16;

/// Writes a regular file's contents to a pipe.
pub(super) fn read(
    socket: &OwnedFd,
    pipe: OwnedFd,
    path: &[u8],
    offset: u64,
    length: Option<u64>,
) -> Result<Outcome, Failed> {
    let (open, failed) = (failing("open", path), failing("read", path));
    if i64::try_from(offset).is_err() {
        return Err(failed(Errno::INVAL));
    }
    // To look at it must not open it: a FIFO would wait for a writer, a device might do something.
    let found = place::open(path, OFlags::PATH | OFlags::CLOEXEC).map_err(&open)?;
    demand_regular(&rustix::fs::fstat(&found).map_err(&open)?).map_err(&open)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(link_to(&found), flags, Mode::empty()).map_err(&open)?;
    let stat = rustix::fs::fstat(&file).map_err(&open)?;
    let info = place::info(place::last_name(path), &stat, Vec::new());
    if wire::send(socket.as_fd(), &Reply::Info(info), &[]).is_err() {
        return Ok(Outcome::Abandoned);
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut at, mut left) = (offset, length.unwrap_or(u64::MAX));
    while left > 0 {
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut buffer[..most], at)).map_err(&failed)?;
        if read == 0 {
            break;
        }
        if write_all(&pipe, &buffer[..read]).is_err() {
            return Ok(Outcome::Abandoned);
        }
        at += read as u64;
        left -= read as u64;
    }
    Ok(Outcome::Reply(Reply::Done))
}

/// Writes what comes from a pipe to a file.
pub(super) fn write(socket: &OwnedFd, pipe: OwnedFd, write: &Write) -> Result<Outcome, Failed> {
    let open = failing("open", &write.path);
    if write.parents {
        place::make_parents(&write.path)?;
    }
    let place = match write.mode {
        // As O_EXCL: also a link that leads nowhere is something.
        WriteMode::Create => place::locate(CWD, &write.path),
        WriteMode::Replace | WriteMode::Append => place::follow(&write.path),
    }
    .map_err(&open)?;
    let present = place.stat().map_err(&open)?;
    if present.is_some() && write.mode == WriteMode::Create {
        return Err(open(Errno::EXIST));
    }
    if place.is_dots() || place.must_be_directory {
        return Err(open(Errno::ISDIR));
    }
    present.as_ref().map_or(Ok(()), demand_regular).map_err(&open)?;
    if write.mode == WriteMode::Append {
        return append(socket, pipe, write, &place, present.is_some());
    }
    let mode = match &present {
        // Without what makes whoever executes it somebody else, which no file of a sandbox gets.
        Some(stat) => stat.st_mode & 0o777,
        None => write.permissions,
    };
    let mut draft = Draft::make(&place, mode).map_err(&open)?;
    let result = fill(socket, &pipe, &draft.file, write).and_then(|bytes| match bytes {
        None => Ok(Outcome::Abandoned),
        Some(bytes) => {
            let created = draft.publish(write.mode).map_err(failing("rename", &write.path))? || present.is_none();
            if write.sync {
                sync_directory(&place).map_err(failing("fsync", &write.path))?;
            }
            written(&draft.file, &place, created, bytes).map_err(failing("stat", &write.path))
        }
    });
    draft.remove();
    result
}

fn append(socket: &OwnedFd, pipe: OwnedFd, write: &Write, place: &Place, mut present: bool) -> Result<Outcome, Failed> {
    let open = failing("open", &write.path);
    // Something that is no regular file may have come meanwhile: it is not followed and not waited for.
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = loop {
        let (flags, missed) = match present {
            true => (flags, Errno::NOENT),
            false => (flags | OFlags::CREATE | OFlags::EXCL, Errno::EXIST),
        };
        let mode = Mode::from_raw_mode(write.permissions);
        match rustix::fs::openat(&place.directory, &*place.name, flags, mode) {
            Err(error) if error == missed => present = !present,
            result => break result.map_err(&open)?,
        }
    };
    demand_regular(&rustix::fs::fstat(&file).map_err(&open)?).map_err(&open)?;
    let Some(bytes) = fill(socket, &pipe, &file, write)? else {
        return Ok(Outcome::Abandoned);
    };
    let appended = rustix::fs::fstat(&file).map_err(failing("stat", &write.path))?;
    // What is guarded is judged when it is closed, and dropped where it is refused. It is, before the next call that asks about a change.
    drop(file);
    let _ = rustix::fs::accessat(&place.directory, &*place.name, Access::WRITE_OK, AtFlags::empty());
    let now = place.stat().map_err(failing("stat", &write.path))?.unwrap_or(appended);
    let replaced = (now.st_dev, now.st_ino) != (appended.st_dev, appended.st_ino);
    if replaced && now.st_size != appended.st_size {
        return Err(failing("write", &write.path)(Errno::PERM));
    }
    if write.sync && !present {
        sync_directory(place).map_err(failing("fsync", &write.path))?;
    }
    let info = place::info(&place.name, &now, Vec::new());
    let created = !present;
    Ok(Outcome::Reply(Reply::Written { info, created, bytes }))
}

fn written(file: &OwnedFd, place: &Place, created: bool, bytes: u64) -> Result<Outcome, Errno> {
    let info = place::info(&place.name, &rustix::fs::fstat(file)?, Vec::new());
    Ok(Outcome::Reply(Reply::Written { info, created, bytes }))
}

/// Takes everything from the pipe into the file, and on to the disk where that is asked for. How many bytes; `None` when whoever sent them
/// did not say that they are all.
fn fill(socket: &OwnedFd, pipe: &OwnedFd, file: &OwnedFd, write: &Write) -> Result<Option<u64>, Failed> {
    let failed = failing("write", &write.path);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut total = 0;
    loop {
        let read = rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut buffer[..])).map_err(&failed)?;
        if read == 0 {
            break;
        }
        write_all(file, &buffer[..read]).map_err(&failed)?;
        total += read as u64;
    }
    match wire::receive::<Operation>(socket.as_fd()) {
        Ok(Some((Operation::Commit { bytes }, _))) if bytes == total => {}
        _ => return Ok(None),
    }
    if write.sync {
        rustix::fs::fsync(file).map_err(failing("fsync", &write.path))?;
    }
    Ok(Some(total))
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// EISDIR for a directory, EOPNOTSUPP for what is no file either.
fn demand_regular(stat: &Stat) -> Result<(), Errno> {
    match place::kind_of(stat) {
        Kind::File => Ok(()),
        Kind::Directory => Err(Errno::ISDIR),
        Kind::Symlink => Err(Errno::LOOP),
        Kind::Other => Err(Errno::OPNOTSUPP),
    }
}

/// The magic link to an open file.
fn link_to(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn sync_directory(place: &Place) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(&place.directory, ".", flags, Mode::empty()) {
        Ok(directory) => rustix::fs::fsync(directory),
        // One that may be written and not read: there is no way to.
        Err(Errno::ACCESS) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A file that is being written beside the one whose place it will take.
struct Draft<'p> {
    place: &'p Place,
    file: OwnedFd,
    /// The name it has meanwhile. Mostly none: then nothing is left of it when this process is killed.
    name: Option<String>,
}

impl<'p> Draft<'p> {
    fn make(place: &'p Place, mode: u32) -> Result<Draft<'p>, Errno> {
        let mode = Mode::from_raw_mode(mode);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let unnamed = rustix::fs::openat(&place.directory, ".", flags | OFlags::TMPFILE, mode);
        let (file, name) = match unnamed {
            Ok(file) => (file, None),
            // Not every file system has files without a name. What else is wrong, is with one that has a name too.
            Err(_) => {
                let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let (file, name) = with_new_name(|name| rustix::fs::openat(&place.directory, name, flags, mode))?;
                (file, Some(name))
            }
        };
        let draft = Draft { place, file, name };
        // A directory's default ACL may have had its say.
        let stat = rustix::fs::fstat(&draft.file)?;
        if stat.st_mode & 0o777 != mode.bits()
            && let Err(error) = rustix::fs::fchmod(&draft.file, mode)
        {
            let mut draft = draft;
            draft.remove();
            return Err(error);
        }
        Ok(draft)
    }

    /// Gives it its name, atomically. Whether nothing had that before, as far as the kernel says.
    fn publish(&mut self, mode: WriteMode) -> Result<bool, Errno> {
        let directory = &self.place.directory;
        let name = match self.name.take() {
            Some(name) => name,
            // Only rename(2) replaces, and that needs a name.
            None => {
                let link = link_to(&self.file);
                with_new_name(|name| rustix::fs::linkat(CWD, &link, directory, name, AtFlags::SYMLINK_FOLLOW))?.1
            }
        };
        let name = &*self.name.insert(name);
        let flags = match mode {
            WriteMode::Create => RenameFlags::NOREPLACE,
            WriteMode::Replace | WriteMode::Append => RenameFlags::empty(),
        };
        match rustix::fs::renameat_with(directory, name, directory, &*self.place.name, flags) {
            // A file system that cannot say no: a second name is refused where there is one.
            Err(Errno::INVAL) if mode == WriteMode::Create => {
                rustix::fs::linkat(directory, name, directory, &*self.place.name, AtFlags::empty())?;
                self.remove();
            }
            result => result?,
        }
        self.name = None;
        Ok(mode == WriteMode::Create)
    }

    /// Removes it, if it has a name of its own.
    fn remove(&mut self) {
        if let Some(name) = self.name.take() {
            let _ = rustix::fs::unlinkat(&self.place.directory, name, AtFlags::empty());
        }
    }
}

/// Does something with a name that nothing has yet.
fn with_new_name<T>(act: impl Fn(&str) -> Result<T, Errno>) -> Result<(T, String), Errno> {
    let mut tries = 0;
    loop {
        let name = format!(".fumehood-{:016x}", sys::random()?);
        tries += 1;
        match act(&name) {
            Err(Errno::EXIST) if tries < MAX_NAMES => {}
            result => return result.map(|value| (value, name)),
        }
    }
}
