//! Drafts: what a program writes that opens a repository's configuration itself, as `cp -r` and editors do.
//!
//! Git replaces its configuration by rename, and init reads what is to take the name. Who opens the file for writing gets a draft: a file
//! without a name, on the same file system, with the present contents unless they were to be truncated. When it is closed init reads it and
//! gives a copy the name, or tells the refusal, which the writer cannot be told any more.
//!
//! Guaranteed: what is read under the name is whole, and was judged; a change through init, by whichever process, finds the draft judged that was
//! closed before. Not guaranteed: that who opens the file only to read it, in the moment after it was closed, finds the new contents
//! already. A draft that is open when the sandbox is killed is dropped, and one that is opened a second time through `/proc` is judged when it is
//! closed first.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::caller::errno;
use super::place::Place;
use super::repository::{MAX_BYTES, read};

/// Drafts that are open at the same time, at most: each holds two descriptors of init.
const MAX_OPEN: usize = 64;

/// A file that has been opened for writing and will be judged.
#[derive(Debug)]
pub(super) struct Draft {
    pub tree: usize,
    /// The directory that its name is in, on the writable mount.
    pub parent: OwnedFd,
    pub name: OsString,
    file: File,
}

impl Draft {
    /// What was written, and the permission bits. TOOBIG.
    pub fn contents(&self) -> Result<(Vec<u8>, u32), Errno> {
        let mut bytes = Vec::new();
        (&self.file)
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(errno)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Errno::TOOBIG);
        }
        Ok((bytes, rustix::fs::fstat(&self.file)?.st_mode & 0o777))
    }
}

/// The drafts of a sandbox.
#[derive(Debug)]
pub(super) struct Drafts {
    closed: OwnedFd,
    /// By the number of the watch.
    open: HashMap<i32, Draft>,
}

impl Drafts {
    /// ENFILE, EMFILE: the user has too many inotify instances.
    pub fn new() -> Result<Self, Errno> {
        let closed = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Drafts {
            closed,
            open: HashMap::new(),
        })
    }

    /// Readable when a draft was closed.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.closed.as_fd()
    }

    /// Opens a draft for a caller, who gets the descriptor. `mode` is that of a file which does not exist yet. NFILE when too many are open.
    pub fn open(&mut self, place: &Place, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
        if self.open.len() >= MAX_OPEN {
            return Err(Errno::NFILE);
        }
        let (present, mode) = match read(&place.parent, &place.name, MAX_BYTES) {
            Ok(present) => {
                rustix::fs::accessat(&place.parent, &place.name, Access::WRITE_OK, AtFlags::empty())?;
                present
            }
            Err(Errno::NOENT) => (Vec::new(), mode),
            Err(error) => return Err(error),
        };
        // EXCL: it shall not get a name from anybody else.
        let temporary = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&place.parent, ".", temporary, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(file);
        if !flags.contains(OFlags::TRUNC) {
            file.write_all(&present).map_err(errno)?;
        }
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let kept = rustix::fs::open(&link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let not_again = OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC | OFlags::NOFOLLOW;
        let flags = flags.difference(not_again) | OFlags::CLOEXEC;
        let given = rustix::fs::open(&link, flags, Mode::empty())?;
        // Last, because the bits may forbid what the one who makes a file may do with it.
        rustix::fs::fchmod(&kept, Mode::from_raw_mode(mode))?;
        // From here on the caller's is the only one that can write; the closing of this one must not be seen.
        drop(file);
        let parent = rustix::io::fcntl_dupfd_cloexec(&place.parent, 3)?;
        let link = format!("/proc/self/fd/{}", kept.as_raw_fd());
        let watch = inotify::add_watch(&self.closed, &link, WatchFlags::CLOSE_WRITE | WatchFlags::ONESHOT)?;
        let draft = Draft {
            tree: place.tree,
            parent,
            name: place.name.clone(),
            file: File::from(kept),
        };
        self.open.insert(watch, draft);
        Ok(given)
    }

    /// The drafts that were closed since.
    pub fn closed(&mut self) -> Vec<Draft> {
        if self.open.is_empty() {
            return Vec::new();
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.closed, &mut buffer);
        let mut closed = Vec::new();
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::CLOSE_WRITE) {
                closed.extend(self.open.remove(&event.wd()));
            }
        }
        closed
    }
}
