//! Changes of guarded trees: read from the waiting call, judged, made.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dev, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::caller::{At, Caller, Means, errno};
use super::drafts::Draft;
use super::place::{Links, Place, Tree, by_descriptor, containing, find, find_path, path_of};
use super::repository;
use super::rules::{Change, Kind, Verdict, same_name};
use super::{Guard, Refusal};
use crate::seccomp::{Call, Notify, When};
use crate::sys::notify;

/// Largest value of an extended attribute (`XATTR_SIZE_MAX` of linux/limits.h).
const XATTR_SIZE_MAX: u64 = 65536;

/// What became of a call.
#[derive(Debug)]
pub(super) enum Done {
    /// It does not concern a guarded tree.
    Elsewhere,
    /// It was carried out.
    Value(i64),
    /// A file was opened; whether the caller wants it closed on exec.
    Opened(OwnedFd, bool),
    /// It was refused.
    Refused(Refusal),
}

/// A call that may change a tree.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Open {
        at: At,
        flags: u32,
        mode: u32,
    },
    MakeDirectory {
        at: At,
        mode: u32,
    },
    MakeNode {
        at: At,
        mode: u32,
        device: u64,
    },
    Remove {
        at: At,
        flags: u32,
    },
    Rename {
        from: At,
        to: At,
        flags: u32,
    },
    Link {
        from: At,
        to: At,
        flags: u32,
    },
    SymbolicLink {
        target: u64,
        at: At,
    },
    Truncate {
        at: At,
        length: u64,
    },
    Mode {
        at: At,
        mode: u32,
        links: Links,
    },
    Owner {
        at: At,
        uid: u32,
        gid: u32,
        links: Links,
    },
    Times {
        at: At,
        times: Times,
        links: Links,
    },
    SetAttribute {
        at: At,
        name: u64,
        value: u64,
        size: u64,
        flags: u32,
        links: Links,
    },
    RemoveAttribute {
        at: At,
        name: u64,
        links: Links,
    },
    Access {
        at: At,
        mode: u32,
        links: Links,
    },
    Bind {
        socket: i32,
        address: u64,
        length: u64,
    },
    /// Its flags mean nothing.
    Invalid,
}

/// How a call gives times, with the address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Times {
    Timespec(u64),
    Timeval(u64),
    Utimbuf(u64),
}

/// Flags of open(2) with which it changes something.
const OPEN_CHANGES: u32 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u32;

/// What makes whoever executes a file somebody else. `chmod g+s` of a directory is how a shared one is made.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;
const SET_ID_RULE: &str =
    "set-uid and set-gid files: whoever executes one outside would run it as another group or user";
/// `O_LARGEFILE` of asm-generic/fcntl.h and that of ARM, which open(2) sets by itself and openat2(2) does not; 0 in libc.
const LARGE_FILE: OFlags = OFlags::from_bits_retain(if cfg!(target_arch = "aarch64") {
    0o400_000
} else {
    0o100_000
});

const WRITE_OK: u32 = libc::W_OK as u32;

const fn always(call: Call) -> Notify {
    Notify { call, when: &[] }
}

const fn when(call: Call, when: &'static [When]) -> Notify {
    Notify { call, when }
}

/// The calls that wait for init. What is missing here meets a read-only mount. `openat2` is not allowed at all.
pub(crate) const WATCHED: &[Notify] = &[
    when(Call::open, &[When::Any(1, OPEN_CHANGES)]),
    when(Call::openat, &[When::Any(2, OPEN_CHANGES)]),
    always(Call::creat),
    always(Call::mkdir),
    always(Call::mkdirat),
    always(Call::mknod),
    always(Call::mknodat),
    always(Call::unlink),
    always(Call::rmdir),
    always(Call::unlinkat),
    always(Call::rename),
    always(Call::renameat),
    always(Call::renameat2),
    always(Call::link),
    always(Call::linkat),
    always(Call::symlink),
    always(Call::symlinkat),
    always(Call::truncate),
    always(Call::chmod),
    always(Call::fchmodat),
    always(Call::fchmodat2),
    always(Call::chown),
    always(Call::lchown),
    always(Call::fchownat),
    always(Call::utime),
    always(Call::utimes),
    always(Call::futimesat),
    always(Call::utimensat),
    // These concern an open file, and those that can only be read were opened on the read-only mount.
    always(Call::fchmod),
    always(Call::fchown),
    always(Call::fsetxattr),
    always(Call::fremovexattr),
    always(Call::setxattr),
    always(Call::lsetxattr),
    always(Call::removexattr),
    always(Call::lremovexattr),
    when(Call::access, &[When::Any(1, WRITE_OK)]),
    when(Call::faccessat, &[When::Any(2, WRITE_OK)]),
    when(Call::faccessat2, &[When::Any(2, WRITE_OK)]),
    // A socket with a name in the file tree.
    always(Call::bind),
];

fn at(directory: u64, address: u64) -> At {
    At {
        directory: directory as i32,
        address,
        means: Means::Path,
    }
}

fn here(address: u64) -> At {
    At {
        directory: libc::AT_FDCWD,
        address,
        means: Means::Path,
    }
}

fn links(flags: u64) -> Links {
    match flags & libc::AT_SYMLINK_NOFOLLOW as u64 {
        0 => Links::Follow,
        _ => Links::Keep,
    }
}

/// An argument that is a descriptor, for a call that takes no path.
fn open_file(descriptor: u64) -> At {
    At {
        directory: descriptor as i32,
        address: 0,
        means: Means::File,
    }
}

fn or_itself(at: At, flags: u64) -> At {
    match flags & libc::AT_EMPTY_PATH as u64 {
        0 => at,
        _ => At {
            means: Means::PathIfAny,
            ..at
        },
    }
}

impl Operation {
    /// What a call wants; `None` for one that is not watched.
    pub fn read(call: Call, a: [u64; 6]) -> Option<Operation> {
        use Links::{Follow, Keep};
        let word = |index: usize| a[index] as u32;
        const REMOVE_DIRECTORY: u32 = libc::AT_REMOVEDIR as u32;
        const CREATE: u32 = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u32;
        const OF_PATHS: i32 = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
        let unknown = match call {
            Call::fchownat => word(4) & !OF_PATHS as u32,
            Call::fchmodat2 | Call::utimensat => word(3) & !OF_PATHS as u32,
            Call::faccessat2 => word(3) & !(OF_PATHS | libc::AT_EACCESS) as u32,
            Call::renameat2 if word(4) & libc::RENAME_EXCHANGE != 0 => word(4) & !libc::RENAME_EXCHANGE,
            // It would leave a device where the file was.
            Call::renameat2 => word(4) & libc::RENAME_WHITEOUT,
            Call::linkat => word(4) & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_FOLLOW) as u32,
            _ => 0,
        };
        if unknown != 0 {
            return Some(Operation::Invalid);
        }
        Some(match call {
            Call::openat => Operation::Open {
                at: at(a[0], a[1]),
                flags: word(2),
                mode: word(3),
            },
            Call::mkdirat => Operation::MakeDirectory {
                at: at(a[0], a[1]),
                mode: word(2),
            },
            Call::mknodat => Operation::MakeNode {
                at: at(a[0], a[1]),
                mode: word(2),
                device: a[3],
            },
            Call::unlinkat => Operation::Remove {
                at: at(a[0], a[1]),
                flags: word(2),
            },
            Call::renameat => Operation::Rename {
                from: at(a[0], a[1]),
                to: at(a[2], a[3]),
                flags: 0,
            },
            Call::renameat2 => Operation::Rename {
                from: at(a[0], a[1]),
                to: at(a[2], a[3]),
                flags: word(4),
            },
            Call::linkat => Operation::Link {
                from: at(a[0], a[1]),
                to: at(a[2], a[3]),
                flags: word(4),
            },
            Call::symlinkat => Operation::SymbolicLink {
                target: a[0],
                at: at(a[1], a[2]),
            },
            Call::truncate => Operation::Truncate {
                at: here(a[0]),
                length: a[1],
            },
            Call::fchmodat => Operation::Mode {
                at: at(a[0], a[1]),
                mode: word(2),
                links: Follow,
            },
            Call::fchmod => Operation::Mode {
                at: open_file(a[0]),
                mode: word(1),
                links: Follow,
            },
            Call::fchmodat2 => Operation::Mode {
                at: or_itself(at(a[0], a[1]), a[3]),
                mode: word(2),
                links: links(a[3]),
            },
            Call::fchown => Operation::Owner {
                at: open_file(a[0]),
                uid: word(1),
                gid: word(2),
                links: Follow,
            },
            Call::fchownat => Operation::Owner {
                at: or_itself(at(a[0], a[1]), a[4]),
                uid: word(2),
                gid: word(3),
                links: links(a[4]),
            },
            Call::utimensat => Operation::Times {
                at: match a[1] {
                    0 => open_file(a[0]),
                    _ => or_itself(at(a[0], a[1]), a[3]),
                },
                times: Times::Timespec(a[2]),
                links: links(a[3]),
            },
            Call::setxattr | Call::lsetxattr | Call::fsetxattr => Operation::SetAttribute {
                at: match call {
                    Call::fsetxattr => open_file(a[0]),
                    _ => here(a[0]),
                },
                name: a[1],
                value: a[2],
                size: a[3],
                flags: word(4),
                links: if call == Call::lsetxattr { Keep } else { Follow },
            },
            Call::removexattr => Operation::RemoveAttribute {
                at: here(a[0]),
                name: a[1],
                links: Follow,
            },
            Call::fremovexattr => Operation::RemoveAttribute {
                at: open_file(a[0]),
                name: a[1],
                links: Follow,
            },
            Call::lremovexattr => Operation::RemoveAttribute {
                at: here(a[0]),
                name: a[1],
                links: Keep,
            },
            Call::faccessat => Operation::Access {
                at: at(a[0], a[1]),
                mode: word(2),
                links: Follow,
            },
            Call::faccessat2 => Operation::Access {
                at: or_itself(at(a[0], a[1]), a[3]),
                mode: word(2),
                links: links(a[3]),
            },
            Call::bind => Operation::Bind {
                socket: a[0] as i32,
                address: a[1],
                length: a[2],
            },
            Call::open => Operation::Open {
                at: here(a[0]),
                flags: word(1),
                mode: word(2),
            },
            Call::creat => Operation::Open {
                at: here(a[0]),
                flags: CREATE,
                mode: word(1),
            },
            Call::access => Operation::Access {
                at: here(a[0]),
                mode: word(1),
                links: Follow,
            },
            Call::mkdir => Operation::MakeDirectory {
                at: here(a[0]),
                mode: word(1),
            },
            Call::mknod => Operation::MakeNode {
                at: here(a[0]),
                mode: word(1),
                device: a[2],
            },
            Call::unlink => Operation::Remove {
                at: here(a[0]),
                flags: 0,
            },
            Call::rmdir => Operation::Remove {
                at: here(a[0]),
                flags: REMOVE_DIRECTORY,
            },
            Call::rename => Operation::Rename {
                from: here(a[0]),
                to: here(a[1]),
                flags: 0,
            },
            Call::link => Operation::Link {
                from: here(a[0]),
                to: here(a[1]),
                flags: 0,
            },
            Call::symlink => Operation::SymbolicLink {
                target: a[0],
                at: here(a[1]),
            },
            Call::chmod => Operation::Mode {
                at: here(a[0]),
                mode: word(1),
                links: Follow,
            },
            Call::chown => Operation::Owner {
                at: here(a[0]),
                uid: word(1),
                gid: word(2),
                links: Follow,
            },
            Call::lchown => Operation::Owner {
                at: here(a[0]),
                uid: word(1),
                gid: word(2),
                links: Keep,
            },
            Call::utime => Operation::Times {
                at: here(a[0]),
                times: Times::Utimbuf(a[1]),
                links: Follow,
            },
            Call::utimes => Operation::Times {
                at: here(a[0]),
                times: Times::Timeval(a[1]),
                links: Follow,
            },
            Call::futimesat => Operation::Times {
                at: match a[1] {
                    0 => open_file(a[0]),
                    _ => at(a[0], a[1]),
                },
                times: Times::Timeval(a[2]),
                links: Follow,
            },
            _ => return None,
        })
    }
}

/// Leaves the calling function where the path does not lead into a guarded tree.
macro_rules! inside {
    ($place:expr) => {
        match $place? {
            Some(place) => place,
            None => return Ok(Done::Elsewhere),
        }
    };
}

/// Leaves the calling function where the change is refused.
macro_rules! permitted {
    ($verdict:expr) => {
        match $verdict? {
            Judged::Permitted => {}
            Judged::Refused(refusal) => return Ok(Done::Refused(refusal)),
        }
    };
}

/// A judgement with everything looked up that it depends on.
enum Judged {
    Permitted,
    Refused(Refusal),
}

impl Guard {
    /// Carries a call out, refuses it, or finds that it is not the guard's.
    pub(super) fn carry_out(&mut self, caller: Caller<'_>, operation: Operation) -> Result<Done, Errno> {
        match operation {
            Operation::Open { at, flags, mode } => self.open(caller, at, flags, mode),
            Operation::MakeDirectory { at, mode } => self.make_directory(caller, at, mode),
            Operation::MakeNode { at, mode, device } => {
                let place = inside!(self.find(caller, at, Links::Keep));
                // Without a type it is a regular file.
                let kind = match mode & libc::S_IFMT {
                    0 => FileType::RegularFile,
                    _ => FileType::from_raw_mode(mode),
                };
                let change = match kind {
                    FileType::RegularFile => Change::Create(Kind::File),
                    _ => Change::Create(Kind::Node),
                };
                if place.kind()?.is_some() {
                    return Err(Errno::EXIST);
                }
                if place.must_be_directory {
                    return Err(Errno::NOENT);
                }
                permitted!(self.judge(&place, change));
                done(self.with_umask(caller, || {
                    rustix::fs::mknodat(
                        &place.parent,
                        &place.name,
                        kind,
                        Mode::from_raw_mode(mode),
                        device as Dev,
                    )
                }))
            }
            Operation::Remove { at, flags } => {
                let place = inside!(self.find(caller, at, Links::Keep));
                if place.dots {
                    return Ok(Done::Elsewhere);
                }
                let judged = self.judge(&place, Change::Remove)?;
                let flags = AtFlags::from_bits_retain(flags);
                // Git tries to remove directories up to its own, which is never empty: nothing that anybody need be told.
                if matches!(judged, Judged::Refused(_)) && flags.contains(AtFlags::REMOVEDIR) && place.has_entries() {
                    return Err(Errno::NOTEMPTY);
                }
                permitted!(Ok::<_, Errno>(judged));
                place.demand_directory()?;
                self.note(&place);
                self.rules.note_departure(&self.trees, place.tree, &place.relative());
                let gone = rustix::fs::statat(&place.parent, &place.name, AtFlags::SYMLINK_NOFOLLOW)
                    .ok()
                    .filter(|stat| flags.contains(AtFlags::REMOVEDIR) || stat.st_nlink == 1);
                let result = rustix::fs::unlinkat(&place.parent, &place.name, flags);
                // The file system gives its number to the next one, which is another.
                if let (Ok(()), Some(stat)) = (&result, gone) {
                    self.started.forget((stat.st_dev, stat.st_ino));
                    self.rules.forget((stat.st_dev, stat.st_ino));
                    self.aliases.forget((stat.st_dev, stat.st_ino));
                }
                done(result)
            }
            Operation::Rename { from, to, flags } => self.rename(caller, from, to, flags),
            Operation::Link { from, to, flags } => self.link(caller, from, to, flags),
            Operation::SymbolicLink { target, at } => {
                let place = inside!(self.find(caller, at, Links::Keep));
                if place.must_be_directory {
                    return Ok(Done::Elsewhere);
                }
                let target = caller.string(target)?;
                // Git once made HEAD a link to the branch; and it looks whether there can be links at all by a first one, to this name.
                let text = target.as_bytes();
                let head = same_name(&place.name, "HEAD")
                    && text.starts_with(b"refs/")
                    && !text.split(|byte| *byte == b'/').any(|name| name == b"..");
                let kind = if head || text == b"testing" {
                    Kind::File
                } else {
                    Kind::Link
                };
                permitted!(self.judge(&place, Change::Create(kind)));
                done(rustix::fs::symlinkat(&target, &place.parent, &place.name))
            }
            Operation::Truncate { at, length } => {
                if length > i64::MAX as u64 {
                    return Err(Errno::INVAL);
                }
                let place = inside!(self.find(caller, at, Links::Follow));
                place.demand_directory()?;
                if place.kind()? != Some(FileType::RegularFile) {
                    return Ok(Done::Elsewhere);
                }
                permitted!(self.judge(&place, Change::Write));
                let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&place.parent, &place.name, flags, Mode::empty())?;
                done(rustix::fs::ftruncate(&file, length))
            }
            Operation::Mode { at, mode, links } => {
                let set_id_of_open = mode & SET_ID != 0 && is_itself(caller, at)? && at.directory != libc::AT_FDCWD;
                if set_id_of_open && let Some(done) = self.set_id_of_open(caller, at.directory, mode)? {
                    return Ok(done);
                }
                let place = match self.object(caller, at, links)? {
                    Some(place) => place,
                    // By now the number may mean another file, so the kernel is not asked again.
                    None if set_id_of_open => return Err(Errno::ROFS),
                    None => return Ok(Done::Elsewhere),
                };
                permitted!(self.judge(&place, Change::Attributes));
                match place.kind()? {
                    Some(FileType::Symlink) => return Err(Errno::OPNOTSUPP),
                    Some(FileType::RegularFile) if mode & SET_ID != 0 => {
                        return Ok(Done::Refused(self.refusal(&place, SET_ID_RULE.to_owned())));
                    }
                    _ => {}
                }
                let mode = Mode::from_raw_mode(mode);
                done(rustix::fs::chmodat(&place.parent, &place.name, mode, AtFlags::empty()))
            }
            Operation::Owner { at, uid, gid, links } => {
                let place = inside!(self.object(caller, at, links));
                permitted!(self.judge(&place, Change::Attributes));
                let uid = (uid != u32::MAX).then(|| Uid::from_raw(uid));
                let gid = (gid != u32::MAX).then(|| Gid::from_raw(gid));
                done(rustix::fs::chownat(
                    &place.parent,
                    &place.name,
                    uid,
                    gid,
                    AtFlags::SYMLINK_NOFOLLOW,
                ))
            }
            Operation::Times { at, times, links } => {
                let place = inside!(self.object(caller, at, links));
                permitted!(self.judge(&place, Change::Attributes));
                let times = read_times(caller, times)?;
                done(rustix::fs::utimensat(
                    &place.parent,
                    &place.name,
                    &times,
                    AtFlags::SYMLINK_NOFOLLOW,
                ))
            }
            Operation::SetAttribute {
                at,
                name,
                value,
                size,
                flags,
                links,
            } => {
                let place = inside!(self.object(caller, at, links));
                permitted!(self.judge(&place, Change::Attributes));
                let name = caller.string(name)?;
                if size > XATTR_SIZE_MAX {
                    return Err(Errno::TOOBIG);
                }
                let value = match size {
                    0 => Vec::new(),
                    size => caller.bytes(value, size as usize)?,
                };
                let flags = XattrFlags::from_bits_retain(flags);
                done(rustix::fs::lsetxattr(path_to(&place), &name, &value, flags))
            }
            Operation::RemoveAttribute { at, name, links } => {
                let place = inside!(self.object(caller, at, links));
                permitted!(self.judge(&place, Change::Attributes));
                let name = caller.string(name)?;
                done(rustix::fs::lremovexattr(path_to(&place), &name))
            }
            Operation::Access { at, mode, links } => {
                let place = inside!(self.object(caller, at, links));
                let access = rustix::fs::Access::from_bits_retain(mode);
                rustix::fs::accessat(&place.parent, &place.name, access, AtFlags::empty())?;
                match self
                    .rules
                    .judge(&self.trees, place.tree, &place.relative(), Change::Write)
                {
                    Verdict::Refuse(_) => Err(Errno::ACCESS),
                    _ if self.aliases.refuses(&place).is_some() => Err(Errno::ACCESS),
                    _ => Ok(Done::Value(0)),
                }
            }
            Operation::Bind {
                socket,
                address,
                length,
            } => self.bind(caller, socket, address, length),
            Operation::Invalid => Err(Errno::INVAL),
        }
    }

    /// The mode of an open file, with set-uid or set-gid bits: set on a copy of the descriptor, so that what was looked at is what is changed.
    /// `None` for one that lies on a read-only mount.
    fn set_id_of_open(&self, caller: Caller<'_>, descriptor: i32, mode: u32) -> Result<Option<Done>, Errno> {
        let process = rustix::process::Pid::from_raw(caller.process()?).ok_or(Errno::SRCH)?;
        let process = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())?;
        let file = notify::descriptor_of(process.as_fd(), descriptor).map_err(errno)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile {
            let path = std::fs::read_link(proc_path(&file)).map_err(errno)?;
            if self.trees.iter().any(|tree| path.starts_with(&tree.path)) {
                return Ok(Some(Done::Refused(Refusal {
                    path,
                    rule: SET_ID_RULE.to_owned(),
                    dropped: false,
                })));
            }
        }
        match rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)) {
            Err(Errno::ROFS) => Ok(None),
            result => done(result).map(Some),
        }
    }

    /// The place of something that exists, by its path or as an open file. One that can be written is on the writable mount, and not looked for.
    fn object(&self, caller: Caller<'_>, at: At, links: Links) -> Result<Option<Place>, Errno> {
        if !is_itself(caller, at)? {
            let place = self.find(caller, at, links)?;
            place.as_ref().map_or(Ok(()), Place::demand_directory)?;
            return Ok(place);
        }
        let place = match at.directory {
            libc::AT_FDCWD => return self.settled(|trees| find_path(trees, caller, libc::AT_FDCWD, c".", links)),
            descriptor => self.settled(|trees| by_descriptor(trees, &caller.link(descriptor)))?,
        };
        match place {
            Some(_) if !caller.waits() => Err(Errno::INTR),
            place => Ok(place),
        }
    }

    /// Finds where a path leads, and holds the lock of the tree that it leads into.
    fn find(&self, caller: Caller<'_>, at: At, links: Links) -> Result<Option<Place>, Errno> {
        self.settled(|trees| find(trees, caller, at, links))
    }

    /// Looks a place up, once more if its tree's lock was not held meanwhile.
    fn settled(&self, look_up: impl Fn(&[Tree]) -> Result<Option<Place>, Errno>) -> Result<Option<Place>, Errno> {
        loop {
            match look_up(&self.trees)? {
                Some(place) if !self.locks.holds(place.tree) => self.locks.take(place.tree)?,
                found => return Ok(found),
            }
        }
    }

    /// Judges a change of contents or names, and reads what the judgement depends on.
    fn judge(&mut self, place: &Place, change: Change) -> Result<Judged, Errno> {
        let path = place.relative();
        let rule = match self.rules.judge(&self.trees, place.tree, &path, change) {
            Verdict::Allow => match matches!(change, Change::Write | Change::Attributes)
                .then(|| self.aliases.refuses(place))
                .flatten()
            {
                Some(rule) => rule,
                None => return Ok(Judged::Permitted),
            },
            Verdict::Refuse(rule) => rule,
            Verdict::Adopt => {
                match repository::adopt(&self.trees, &self.started, place)? {
                    Ok(()) => {
                        // What was one before stays what it was.
                        if !self.started.knows(&place.parent) {
                            self.rules.remember(&self.trees, place.tree, &place.directory);
                        }
                        return Ok(Judged::Permitted);
                    }
                    Err(rule) => rule,
                }
            }
            // Those who can handle these ask for the verdict themselves.
            Verdict::Configuration
            | Verdict::Todo
            | Verdict::Index
            | Verdict::CommonDirectory
            | Verdict::WorktreeConfiguration => "git: a repository's configuration or index".to_owned(),
        };
        Ok(Judged::Refused(self.refusal(place, rule)))
    }

    fn refusal(&self, place: &Place, rule: String) -> Refusal {
        Refusal {
            path: self.trees[place.tree].path.join(place.relative()),
            rule,
            dropped: false,
        }
    }

    fn open(&mut self, caller: Caller<'_>, at: At, flags: u32, mode: u32) -> Result<Done, Errno> {
        let flags = OFlags::from_bits_retain(flags);
        if flags.contains(OFlags::PATH) {
            return Ok(Done::Elsewhere);
        }
        let exclusive = flags.contains(OFlags::CREATE | OFlags::EXCL);
        let links = match exclusive || flags.contains(OFlags::NOFOLLOW) {
            true => Links::Keep,
            false => Links::Follow,
        };
        let place = inside!(self.find(caller, at, links));
        let close_on_exec = flags.contains(OFlags::CLOEXEC);
        let mode = Mode::from_raw_mode(mode & 0o7777);
        if flags.contains(OFlags::TMPFILE) {
            let file = self.with_umask(caller, || place.open(flags, mode))?;
            return Ok(Done::Opened(file, close_on_exec));
        }
        let kind = place.kind()?;
        let creates = kind.is_none();
        let writes = flags.bits() & OPEN_CHANGES & !(libc::O_CREAT as u32) != 0;
        // On the writable mount a descriptor that can only read could be opened a second time, to write.
        if !creates && !writes {
            return Ok(Done::Elsewhere);
        }
        match kind {
            None if !flags.contains(OFlags::CREATE) => return Err(Errno::NOENT),
            None if place.must_be_directory => return Err(Errno::ISDIR),
            None | Some(FileType::RegularFile) => {}
            // Directories are not opened for writing; devices, FIFOs and sockets are not part of the tree's contents.
            Some(_) => return Ok(Done::Elsewhere),
        }
        // As the kernel says it: whoever creates does not get as far as looking at what is there.
        if place.must_be_directory {
            let creates = flags.contains(OFlags::CREATE);
            return Err(if creates { Errno::ISDIR } else { Errno::NOTDIR });
        }
        if kind.is_some() && exclusive {
            return Err(Errno::EXIST);
        }
        let change = match creates {
            true => Change::Create(Kind::File),
            false => Change::Write,
        };
        let verdict = self.rules.judge(&self.trees, place.tree, &place.relative(), change);
        let file = match (verdict, &mut self.drafts) {
            (Verdict::CommonDirectory, _) => Some(repository::common_directory(&place)?),
            (Verdict::WorktreeConfiguration, _) => {
                Some(repository::worktree_configuration(&self.trees[place.tree], &place)?)
            }
            (Verdict::Configuration | Verdict::Todo | Verdict::Index, Some(drafts)) => {
                let mode = mode.bits() & !caller.umask()?;
                match drafts.open(&place, flags, mode) {
                    // A file system without unnamed files: such a file can only be replaced there, as git does.
                    Err(Errno::OPNOTSUPP) => None,
                    result => Some(result?),
                }
            }
            _ => None,
        };
        if let Some(file) = file {
            return Ok(Done::Opened(file, close_on_exec));
        }
        permitted!(self.judge(&place, change));
        let file = match creates {
            // Whoever else made it meanwhile made it outside; that is EEXIST where it was to be new, and fine else.
            true => self.with_umask(caller, || place.open(flags, mode))?,
            false => place.open(flags, mode)?,
        };
        if creates && same_name(&place.name, ".git") {
            self.rules.remember(&self.trees, place.tree, &place.relative());
        }
        Ok(Done::Opened(file, close_on_exec))
    }

    fn make_directory(&mut self, caller: Caller<'_>, at: At, mode: u32) -> Result<Done, Errno> {
        let place = inside!(self.find(caller, at, Links::Keep));
        if place.kind()?.is_some() {
            return Err(Errno::EXIST);
        }
        permitted!(self.judge(&place, Change::Create(Kind::Directory)));
        let result = self.with_umask(caller, || {
            rustix::fs::mkdirat(&place.parent, &place.name, Mode::from_raw_mode(mode & 0o7777))
        });
        if result.is_ok() && same_name(&place.name, ".git") {
            self.rules.remember(&self.trees, place.tree, &place.relative());
        }
        done(result)
    }

    fn rename(&mut self, caller: Caller<'_>, from: At, to: At, flags: u32) -> Result<Done, Errno> {
        // Where only one end is guarded the other is on another mount, and the kernel says EXDEV.
        let from = inside!(self.find(caller, from, Links::Keep));
        let to = inside!(self.find(caller, to, Links::Keep));
        if from.tree != to.tree || from.dots || to.dots {
            return Ok(Done::Elsewhere);
        }
        from.demand_directory()?;
        let Some(kind) = from.kind()? else {
            return Err(Errno::NOENT);
        };
        if to.must_be_directory && kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let flags = RenameFlags::from_bits_retain(flags);
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let from_kind = self.kind_of(&from, kind);
        permitted!(self.judge(&from, Change::MoveAway));
        permitted!(self.may_move(&from, &to, kind));
        let replaces = Change::Replace(from_kind);
        let verdict = self.rules.judge(&self.trees, to.tree, &to.relative(), replaces);
        if let Some(what) = self.judged(&to, &verdict).filter(|_| !exchange) {
            if flags.contains(RenameFlags::NOREPLACE) && to.kind()?.is_some() {
                return Err(Errno::EXIST);
            }
            return match repository::replace(&self.trees, &mut self.started, what, &from, &to)? {
                Ok(()) => Ok(Done::Value(0)),
                Err(rule) => Ok(Done::Refused(self.refusal(&to, rule))),
            };
        }
        permitted!(self.judge(&to, replaces));
        if exchange {
            let Some(kind) = to.kind()? else {
                return Err(Errno::NOENT);
            };
            let to_kind = self.kind_of(&to, kind);
            permitted!(self.judge(&to, Change::MoveAway));
            permitted!(self.judge(&from, Change::Replace(to_kind)));
            permitted!(self.may_move(&to, &from, kind));
        }
        self.note(&from);
        self.note(&to);
        if kind == FileType::Directory {
            self.rules.note_departure(&self.trees, from.tree, &from.relative());
            self.rules.note_move(from.tree, &from.relative(), &to.relative());
        }
        if exchange {
            self.rules.note_departure(&self.trees, to.tree, &to.relative());
            self.rules.note_move(to.tree, &to.relative(), &from.relative());
        }
        done(rustix::fs::renameat_with(
            &from.parent,
            &from.name,
            &to.parent,
            &to.name,
            flags,
        ))
    }

    /// Remembers the configuration of a repository before a name goes without which it would look like none, or like a new one.
    fn note(&mut self, place: &Place) {
        let told = repository::TELLING.iter().any(|name| same_name(&place.name, name));
        if told
            && self.look(place).is_repository(&place.directory)
            && !self.rules.made_here(&self.trees, place.tree, &place.directory)
        {
            self.started.note(&place.parent);
        }
    }

    /// Judges the moving of a directory, apart from the names.
    fn may_move(&self, from: &Place, to: &Place, kind: FileType) -> Result<Judged, Errno> {
        if kind != FileType::Directory {
            return Ok(Judged::Permitted);
        }
        match self
            .rules
            .may_move(&self.trees, to.tree, &from.relative(), &to.relative())
        {
            Ok(()) => Ok(Judged::Permitted),
            Err(rule) => Ok(Judged::Refused(self.refusal(to, rule))),
        }
    }

    /// How the contents of a place are to be judged, if they are.
    fn judged(&self, place: &Place, verdict: &Verdict) -> Option<repository::Judged> {
        match verdict {
            Verdict::Configuration => Some(repository::Judged::Configuration {
                made_here: self.rules.made_here(&self.trees, place.tree, &place.directory),
            }),
            Verdict::Todo => Some(repository::Judged::State),
            Verdict::Index => Some(repository::Judged::Index),
            _ => None,
        }
    }

    /// Gives a draft its name, or says why not. One whose directory is gone is dropped, as what was written there would be.
    pub(super) fn publish(&mut self, draft: Draft) -> Option<Refusal> {
        let refusal = self.judge_draft(draft)?;
        Some(Refusal {
            rule: format!("{}; what was written is dropped", refusal.rule),
            dropped: true,
            ..refusal
        })
    }

    fn judge_draft(&mut self, draft: Draft) -> Option<Refusal> {
        if self.locks.take(draft.tree).is_err() {
            return Some(Refusal {
                path: self.trees[draft.tree].path.join(&draft.name),
                rule: "git: other runs' changes of this workspace did not come to an end".to_owned(),
                dropped: true,
            });
        }
        let real = path_of(&draft.parent).ok()?;
        let (tree, directory) = containing(&self.trees, &real).filter(|(tree, _)| *tree == draft.tree)?;
        let place = Place {
            tree,
            directory: directory.to_owned(),
            name: draft.name.clone(),
            must_be_directory: false,
            dots: false,
            parent: draft.parent.try_clone().ok()?,
        };
        let change = match place.kind().ok()? {
            None => Change::Create(Kind::File),
            Some(FileType::RegularFile) => Change::Write,
            Some(_) => return Some(self.refusal(&place, "git: a repository's configuration is a file".to_owned())),
        };
        // Since it was opened its directory may have become something else.
        let verdict = self.rules.judge(&self.trees, tree, &place.relative(), change);
        let ruling = match (self.judged(&place, &verdict), draft.contents()) {
            (_, Err(Errno::TOOBIG)) => Err(repository::TOO_LONG.to_owned()),
            (_, Err(error)) => Err(format!("git: what was written cannot be read: {error}")),
            (Some(what), Ok((contents, mode))) => {
                match repository::publish(&self.trees, &mut self.started, what, &place, &contents, mode) {
                    Ok(ruling) => ruling,
                    Err(error) => Err(format!("git: what was written cannot be put in place: {error}")),
                }
            }
            (None, Ok(_)) => Err("git: what it was written for is no repository any more".to_owned()),
        };
        ruling.err().map(|rule| self.refusal(&place, rule))
    }

    fn kind_of(&self, place: &Place, kind: FileType) -> Kind {
        match kind {
            FileType::RegularFile => Kind::File,
            FileType::Directory if self.look(place).is_repository(&place.relative()) => Kind::Repository,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            _ => Kind::Node,
        }
    }

    fn look(&self, place: &Place) -> super::rules::Look<'_> {
        super::rules::Look {
            trees: &self.trees,
            tree: place.tree,
        }
    }

    fn link(&mut self, caller: Caller<'_>, from: At, to: At, flags: u32) -> Result<Done, Errno> {
        let to = inside!(self.find(caller, to, Links::Keep));
        if to.must_be_directory {
            return Err(if to.kind()?.is_some() {
                Errno::EXIST
            } else {
                Errno::NOENT
            });
        }
        let by_descriptor = flags & libc::AT_EMPTY_PATH as u32 != 0 && caller.string(from.address)?.is_empty();
        let follow = flags & libc::AT_SYMLINK_FOLLOW as u32 != 0;
        let source = match by_descriptor {
            true => self.settled(|trees| super::place::by_descriptor(trees, &caller.link(from.directory)))?,
            false => self.find(caller, from, if follow { Links::Follow } else { Links::Keep })?,
        };
        let Some(source) = source else {
            let path = match by_descriptor {
                true => caller.link(from.directory).into_os_string(),
                false => super::caller::of_caller(
                    caller,
                    std::ffi::OsStr::from_bytes(caller.string(from.address)?.as_bytes()),
                ),
            };
            if !Path::new(&path).starts_with(format!("/proc/{}/fd", caller.thread)) {
                return Ok(Done::Elsewhere);
            }
            // A file that init opened for the caller, with a name or without: whatever is done by the new one could be done by the descriptor.
            // What is on another mount cannot be linked.
            let file = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            if to.kind()?.is_some() {
                return Err(Errno::EXIST);
            }
            permitted!(self.judge(&to, Change::Replace(Kind::File)));
            let path = proc_path(&file);
            return done(rustix::fs::linkat(
                rustix::fs::CWD,
                &path,
                &to.parent,
                &to.name,
                AtFlags::SYMLINK_FOLLOW,
            ));
        };
        // Its tree's lock took the place of the other's, and the kernel says the same.
        if source.tree != to.tree {
            return Err(Errno::XDEV);
        }
        let Some(kind) = source.kind()? else {
            return Err(Errno::NOENT);
        };
        // By another name a protected file could be written.
        permitted!(self.judge(&source, Change::Write));
        let kind = self.kind_of(&source, kind);
        permitted!(self.judge(&to, Change::Replace(kind)));
        done(rustix::fs::linkat(
            &source.parent,
            &source.name,
            &to.parent,
            &to.name,
            AtFlags::empty(),
        ))
    }

    /// A socket in a guarded tree gets its name from init, which takes the socket for that moment.
    fn bind(&mut self, caller: Caller<'_>, socket: i32, address: u64, length: u64) -> Result<Done, Errno> {
        const FAMILY: usize = size_of::<libc::sa_family_t>();
        if length as usize <= FAMILY || length as usize > size_of::<libc::sockaddr_un>() {
            return Ok(Done::Elsewhere);
        }
        let bytes = caller.bytes(address, length as usize)?;
        let family = libc::sa_family_t::from_ne_bytes([bytes[0], bytes[1]]);
        let path = bytes[FAMILY..].split(|byte| *byte == 0).next().unwrap_or_default();
        if i32::from(family) != libc::AF_UNIX || path.is_empty() {
            return Ok(Done::Elsewhere);
        }
        let path = CString::new(path).map_err(|_| Errno::INVAL)?;
        let place = inside!(self.settled(|trees| find_path(trees, caller, libc::AT_FDCWD, &path, Links::Keep)));
        if place.kind()?.is_some() {
            return Err(Errno::ADDRINUSE);
        }
        permitted!(self.judge(&place, Change::Create(Kind::Node)));
        let process = rustix::process::Pid::from_raw(caller.process()?).ok_or(Errno::SRCH)?;
        let process = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())?;
        let socket = notify::descriptor_of(process.as_fd(), socket).map_err(errno)?;
        // By a name alone, from its directory: the path could be too long for an address otherwise.
        let name = rustix::net::SocketAddrUnix::new(&*place.name)?;
        rustix::process::fchdir(&place.directory_for_entering()?)?;
        let result = self.with_umask(caller, || rustix::net::bind(&socket, &name));
        rustix::process::chdir("/")?;
        done(result)
    }

    /// Runs something with the caller's file mode creation mask.
    fn with_umask<T>(&self, caller: Caller<'_>, run: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let own = rustix::process::umask(Mode::from_raw_mode(caller.umask()?));
        let result = run();
        rustix::process::umask(own);
        result
    }
}

/// Whether an argument means the open file itself and no path.
fn is_itself(caller: Caller<'_>, at: At) -> Result<bool, Errno> {
    Ok(match at.means {
        Means::Path => false,
        Means::PathIfAny => caller.string(at.address)?.is_empty(),
        Means::File => true,
    })
}

fn done<T>(result: Result<T, Errno>) -> Result<Done, Errno> {
    result.map(|_| Done::Value(0))
}

fn proc_path(file: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A path to a place for calls that take nothing else.
fn path_to(place: &Place) -> std::path::PathBuf {
    Path::new(&proc_path(&place.parent)).join(&place.name)
}

impl Place {
    /// Opens what the name means as the caller wants it, without following a link; the descriptor has the caller's flags and no others.
    fn open(&self, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        // openat2(2) minds flags that open(2) does not know, and a mode where nothing is made.
        let known = OFlags::from_bits_truncate(flags.bits()) | LARGE_FILE | OFlags::CLOEXEC | OFlags::NOCTTY;
        let mode = match known.intersects(OFlags::CREATE) || known.contains(OFlags::TMPFILE) {
            true => mode,
            false => Mode::empty(),
        };
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        loop {
            match rustix::fs::openat2(&self.parent, &self.name, known, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// ENOTDIR where a slash followed the name of something else.
    fn demand_directory(&self) -> Result<(), Errno> {
        match self.must_be_directory && self.kind()?.is_some_and(|kind| kind != FileType::Directory) {
            true => Err(Errno::NOTDIR),
            false => Ok(()),
        }
    }

    /// Whether it is a directory that holds something.
    fn has_entries(&self) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.parent, &self.name, flags, Mode::empty())
            .and_then(rustix::fs::Dir::new)
            .is_ok_and(|entries| {
                entries
                    .flatten()
                    .any(|entry| ![&b"."[..], b".."].contains(&entry.file_name().to_bytes()))
            })
    }

    fn directory_for_entering(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.parent, ".", flags, Mode::empty())
    }
}

/// The times a call sets; without any it sets now.
fn read_times(caller: Caller<'_>, times: Times) -> Result<Timestamps, Errno> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW,
    };
    let spec = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let (last_access, last_modification) = match times {
        Times::Timespec(0) | Times::Timeval(0) | Times::Utimbuf(0) => (now, now),
        Times::Timespec(address) => {
            let [access, access_ns, modification, modification_ns] = caller.words(address)?;
            (spec(access, access_ns), spec(modification, modification_ns))
        }
        Times::Timeval(address) => {
            let [access, access_us, modification, modification_us] = caller.words(address)?;
            let valid = 0..1_000_000;
            if !valid.contains(&access_us) || !valid.contains(&modification_us) {
                return Err(Errno::INVAL);
            }
            (
                spec(access, access_us * 1000),
                spec(modification, modification_us * 1000),
            )
        }
        Times::Utimbuf(address) => {
            let [access, modification] = caller.words(address)?;
            (spec(access, 0), spec(modification, 0))
        }
    };
    Ok(Timestamps {
        last_access,
        last_modification,
    })
}
