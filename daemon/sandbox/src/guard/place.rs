//! Where a path of a waiting call leads: into a guarded tree, and there to which directory and name, or elsewhere.
//!
//! A guarded tree is mounted twice at one place: writable, and over that read-only. The command only ever walks the upper, read-only mount;
//! init keeps a descriptor of the lower one's root and changes the tree through it. So a wrong answer here can make a
//! change fail, or happen in another directory of the same tree than the one a racing caller last named. It cannot let a change by:
//! what is not carried out here is carried out by the kernel on a mount that is read-only.

use std::cell::RefCell;
use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::caller::{At, Caller, of_caller};

/// Symbolic links followed in one path: the kernel's own bound (`MAXSYMLINKS` of linux/namei.h).
const MAX_LINKS: usize = 40;

/// Longest path that the kernel takes at once, its NUL included (linux/limits.h).
pub(super) const PATH_MAX: usize = 4096;

/// Entries of directories that are looked at to find out where one is whose path is longer than that, at most.
const MAX_LOOKED_AT: usize = 20_000;

/// How often a directory is looked up again that was renamed from outside meanwhile.
const ATTEMPTS: usize = 4;

/// A tree that only init changes.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Where it is in the view.
    pub path: PathBuf,
    /// The root of its writable mount.
    pub root: OwnedFd,
    /// Whether its root is a repository itself and stays one, whatever is taken out of it: the one that a linked worktree shares.
    pub repository: bool,
    /// What it is made of: the device and the path in its file system of its root, and of each file system mounted below it.
    pub sources: Vec<(OsString, PathBuf)>,
    /// Places in it, relative to its root, that the view mounted something else over. What is there is not the tree's, and the kernel's to handle.
    pub covered: Vec<PathBuf>,
    /// A directory whose path was longer than `/proc` tells, with where it was: what is done next is mostly done in it, or beside it.
    pub far: RefCell<Option<Far>>,
}

/// Where a directory was when it was looked for last. Only a guess: it may have been moved since.
#[derive(Debug)]
pub(crate) struct Far {
    identity: (u64, u64),
    /// From the tree's root.
    path: PathBuf,
}

impl Tree {
    /// A tree in the view of which nothing more is known.
    pub fn new(path: PathBuf, root: OwnedFd) -> Tree {
        Tree {
            path,
            root,
            repository: false,
            sources: Vec::new(),
            covered: Vec::new(),
            far: RefCell::new(None),
        }
    }

    /// Looks up which mounts the tree is made of, and which lie over parts of it. Those that its writable mount has as well belong to it.
    pub fn find_covered(&mut self) {
        let Ok(mounts) = std::fs::read("/proc/self/mountinfo") else {
            return;
        };
        let same = |inside: &Path| {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let (point, own) = match inside.as_os_str().is_empty() {
                true => (self.path.clone(), rustix::fs::fstat(&self.root)),
                false => (self.path.join(inside), rustix::fs::statat(&self.root, inside, flags)),
            };
            let seen = rustix::fs::statat(CWD, &point, flags).map(|stat| (stat.st_dev, stat.st_ino));
            seen.is_ok() && seen == own.map(|stat| (stat.st_dev, stat.st_ino))
        };
        // Something lies over what the whole tree is in.
        if !same(Path::new("")) {
            self.covered.push(PathBuf::new());
        }
        for line in mounts.split(|byte| *byte == b'\n') {
            let mut fields = line.split(|byte| *byte == b' ').skip(2);
            let (Some(device), Some(source), Some(point)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let source = (
                OsString::from_vec(device.to_vec()),
                PathBuf::from(OsString::from_vec(unescape(source))),
            );
            let point = PathBuf::from(OsString::from_vec(unescape(point)));
            let Ok(inside) = point.strip_prefix(&self.path) else {
                continue;
            };
            if inside.as_os_str().is_empty() {
                self.sources.push(source);
                continue;
            }
            if self.covered.iter().any(|known| known == inside) {
                continue;
            }
            match same(inside) {
                true => self.sources.push(source),
                false => self.covered.push(inside.to_owned()),
            }
        }
    }
}

/// A path as mountinfo writes it, without the octal codes that stand for blanks, line breaks and backslashes.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// A name in a directory of a guarded tree.
#[derive(Debug)]
pub(super) struct Place {
    /// Which tree.
    pub tree: usize,
    /// The directory, on the writable mount.
    pub parent: OwnedFd,
    /// The directory relative to the tree's root, without symbolic links.
    pub directory: PathBuf,
    /// The name; `.` for the directory itself.
    pub name: OsString,
    /// Whether a slash followed.
    pub must_be_directory: bool,
    /// Whether the path ended in `.` or `..`: such an entry can be neither made nor removed.
    pub dots: bool,
}

impl Place {
    /// The path relative to the tree's root.
    pub fn relative(&self) -> PathBuf {
        match self.name.as_bytes() {
            b"." => self.directory.clone(),
            _ => self.directory.join(&self.name),
        }
    }

    /// What kind of thing the name means; `None` when it means nothing.
    pub fn kind(&self) -> Result<Option<FileType>, Errno> {
        match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether the last name of a path is followed when it is a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    Follow,
    Keep,
}

/// Finds where a path argument leads. `None`: not into a guarded tree, or nowhere; the kernel shall say.
pub(super) fn find(trees: &[Tree], caller: Caller<'_>, at: At, links: Links) -> Result<Option<Place>, Errno> {
    match caller.string(at.address) {
        Ok(path) => find_path(trees, caller, at.directory, &path, links),
        // A program whose file may be executed and not read is out of init's reach as well.
        Err(Errno::PERM) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// As [`find`], with the path already read.
pub(super) fn find_path(
    trees: &[Tree],
    caller: Caller<'_>,
    directory: i32,
    path: &CStr,
    links: Links,
) -> Result<Option<Place>, Errno> {
    let path = OsStr::from_bytes(path.to_bytes());
    // By far the most frequent one that is written to and lies elsewhere.
    if path.is_empty() || path == "/dev/null" {
        return Ok(None);
    }
    let mut from = directory;
    let mut path = of_caller(caller, path);
    for _ in 0..MAX_LINKS {
        if links == Links::Follow && names_descriptor(&path) {
            return by_descriptor(trees, Path::new(&path));
        }
        let Some(place) = locate(trees, caller, from, &path)? else {
            return Ok(None);
        };
        if links == Links::Keep && !place.must_be_directory || place.kind()? != Some(FileType::Symlink) {
            return Ok(Some(place));
        }
        let target = rustix::fs::readlinkat(&place.parent, &place.name, Vec::with_capacity(256))?;
        let target = OsString::from_vec(target.into_bytes());
        let mut next = match Path::new(&target).is_absolute() {
            true => PathBuf::from(of_caller(caller, &target)),
            false => trees[place.tree].path.join(&place.directory).join(&target),
        };
        if place.must_be_directory {
            next.push("");
        }
        (from, path) = (libc::AT_FDCWD, next.into_os_string());
    }
    Err(Errno::LOOP)
}

/// The directory and the last name of a path, if that directory lies in a tree.
fn locate(trees: &[Tree], caller: Caller<'_>, from: i32, path: &OsStr) -> Result<Option<Place>, Errno> {
    let trimmed = trim(path.as_bytes());
    let must_be_directory = trimmed.len() < path.len();
    let mut begins_nowhere = false;
    let whole = match Path::new(path).is_absolute() {
        true => PathBuf::from(OsStr::from_bytes(trimmed)),
        false => {
            // Where that is too long to be told, the walk finds it.
            let base = match caller.base(from) {
                Err(Errno::NAMETOOLONG) => PathBuf::new(),
                base => base?,
            };
            begins_nowhere = base.as_os_str().as_bytes().ends_with(b" (deleted)");
            base.join(OsStr::from_bytes(trimmed))
        }
    };
    let finish = |place: Option<Place>| match place {
        // What was read belongs to the caller only if it still waits.
        Some(_) if !caller.waits() => Err(Errno::INTR),
        place => Ok(place.map(|place| Place {
            must_be_directory,
            dots: ends_in_dots(trimmed),
            ..place
        })),
    };
    // What ends in dots is no entry that could be made: only the kernel's walk finds that it is there.
    if !ends_in_dots(trimmed)
        && let Some(place) = walk_names(trees, &whole)
    {
        return match place? {
            // The kernel would say that the mount is read-only: it need not look for a directory that it has.
            None if begins_nowhere && containing(trees, &whole).is_some() => Err(Errno::NOENT),
            place => finish(place),
        };
    }
    finish(walk_links(trees, caller, from, trimmed)?)
}

/// Without trailing slashes.
fn trim(mut path: &[u8]) -> &[u8] {
    while let [rest @ .., b'/'] = path
        && !rest.is_empty()
    {
        path = rest;
    }
    path
}

/// Whether a path ends in `.` or `..`, and so names no entry of a directory.
fn ends_in_dots(path: &[u8]) -> bool {
    matches!(path.rsplit(|byte| *byte == b'/').next(), Some(b"." | b".."))
}

/// For a path that names a tree's root and then only names: no link, no `..`. `None`: it is not that simple.
fn walk_names(trees: &[Tree], whole: &Path) -> Option<Result<Option<Place>, Errno>> {
    let (index, rest) = containing(trees, whole)?;
    let mut names: Vec<&OsStr> = Vec::new();
    for component in rest.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    let name = names.pop().unwrap_or(OsStr::new("."));
    let directory: PathBuf = names.iter().collect();
    match open_beneath(&trees[index], &directory) {
        Ok(parent) => Some(Ok(Some(Place {
            tree: index,
            parent,
            directory,
            name: name.to_owned(),
            must_be_directory: false,
            dots: false,
        }))),
        Err(Errno::LOOP) => None,
        // As the kernel will say.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Some(Ok(None)),
        Err(error) => Some(Err(error)),
    }
}

/// For every other path: the kernel walks to the directory in the view, which then is looked up on the writable mount.
fn walk_links(trees: &[Tree], caller: Caller<'_>, from: i32, path: &[u8]) -> Result<Option<Place>, Errno> {
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (&b"/"[..], &path[1..]),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b"."[..], path),
    };
    // A path may also end in a directory itself.
    let (parent, name) = match name {
        b"" | b"." | b".." => (path, &b"."[..]),
        name => (parent, name),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    for _ in 0..ATTEMPTS {
        let opened = if path.starts_with(b"/") {
            rustix::fs::open(parent, flags | OFlags::DIRECTORY, Mode::empty())
        } else {
            rustix::fs::open(caller.link(from), flags, Mode::empty())
                .and_then(|base| rustix::fs::openat(base, parent, flags | OFlags::DIRECTORY, Mode::empty()))
        };
        // The kernel will say the same, and what it does is harmless.
        let Ok(seen) = opened else { return Ok(None) };
        let (real, far) = match named(&seen) {
            // What is known is taken: a wrong guess is not made twice.
            Err(Errno::NAMETOOLONG) => (climb(&seen, &near_far(trees))?, true),
            result => (result?, false),
        };
        let Some((tree, directory)) = containing(trees, &real) else {
            return Ok(None);
        };
        match open_beneath(&trees[tree], directory) {
            Ok(parent) if same(&seen, &parent)? => {
                if far {
                    trees[tree].far.replace(Some(Far {
                        identity: identity(&parent)?,
                        path: directory.to_owned(),
                    }));
                }
                return Ok(Some(Place {
                    tree,
                    parent,
                    directory: directory.to_owned(),
                    name: OsStr::from_bytes(name).to_owned(),
                    must_be_directory: false,
                    dots: false,
                }));
            }
            // It was renamed or removed meanwhile, or is not where it was last.
            Ok(_) | Err(Errno::LOOP | Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(error),
        }
    }
    // A directory that was removed while it is somebody's working directory: nothing can be made in it.
    Err(Errno::NOENT)
}

/// The innermost tree that holds a path, and the path in it. `None` where something else is mounted over that part of the tree.
pub(super) fn containing<'p>(trees: &[Tree], path: &'p Path) -> Option<(usize, &'p Path)> {
    trees
        .iter()
        .enumerate()
        .filter_map(|(index, tree)| Some((index, path.strip_prefix(&tree.path).ok()?)))
        .min_by_key(|(_, rest)| rest.as_os_str().len())
        .filter(|(index, rest)| !trees[*index].covered.iter().any(|covered| rest.starts_with(covered)))
}

/// Whether a path is `/proc/PID/fd/NUMBER`: a link that leads to an open file, whatever its text says.
fn names_descriptor(path: &OsStr) -> bool {
    let mut parts = path.as_bytes().split(|byte| *byte == b'/');
    let number = |part: Option<&[u8]>| part.is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit));
    parts.next() == Some(b"")
        && parts.next() == Some(b"proc")
        && number(parts.next())
        && parts.next() == Some(b"fd")
        && number(parts.next())
        && parts.next().is_none()
}

/// The place of the open file that a link in `/proc` leads to, if it was opened on a tree's read-only mount. The kernel lets through what
/// is on a writable one.
pub(super) fn by_descriptor(trees: &[Tree], link: &Path) -> Result<Option<Place>, Errno> {
    let Ok(file) = rustix::fs::open(link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
        return Ok(None);
    };
    let mount = rustix::fs::fstatvfs(&file)?;
    if !mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Ok(None);
    }
    let real = path_of(&file)?;
    let Some((tree, inside)) = containing(trees, &real) else {
        return Ok(None);
    };
    let (directory, name) = match (inside.parent(), inside.file_name()) {
        (Some(directory), Some(name)) => (directory, name),
        _ => (Path::new(""), OsStr::new(".")),
    };
    // Renamed or removed since: no path leads to it any more.
    let Ok(parent) = open_beneath(&trees[tree], directory) else {
        return Ok(None);
    };
    let (open, named) = (
        rustix::fs::fstat(&file)?,
        rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW),
    );
    let is_the_same = named.is_ok_and(|named| (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino));
    Ok(is_the_same.then(|| Place {
        tree,
        parent,
        directory: directory.to_owned(),
        name: name.to_owned(),
        must_be_directory: false,
        dots: false,
    }))
}

/// A directory of a tree, on its writable mount, reached without symbolic links.
pub(super) fn open_beneath(tree: &Tree, directory: &Path) -> Result<OwnedFd, Errno> {
    let directory = match directory.as_os_str().is_empty() {
        true => Path::new("."),
        false => directory,
    };
    if directory.as_os_str().len() < PATH_MAX {
        return open_piece(&tree.root, directory);
    }
    // Longer than the kernel takes at once: whoever made it went there step by step, too.
    let mut opened: Option<OwnedFd> = None;
    let mut piece = PathBuf::new();
    let mut names = directory.iter().peekable();
    while let Some(name) = names.next() {
        piece.push(name);
        let full = |next: &&OsStr| piece.as_os_str().len() + 1 + next.len() >= PATH_MAX;
        if names.peek().is_none_or(full) {
            opened = Some(open_piece(opened.as_ref().unwrap_or(&tree.root), &piece)?);
            piece.clear();
        }
    }
    opened.ok_or(Errno::NOENT)
}

fn open_piece(from: &OwnedFd, directory: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    loop {
        match rustix::fs::openat2(from, directory, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// The path of a descriptor of ours. NAMETOOLONG for one that is too long to be named and not a directory, or too deep.
pub(super) fn path_of(fd: &OwnedFd) -> Result<PathBuf, Errno> {
    match named(fd) {
        Err(Errno::NAMETOOLONG) => climb(fd, &[]),
        result => result,
    }
}

/// The directories that were looked for last and those above them, with where they were.
fn near_far(trees: &[Tree]) -> Vec<((u64, u64), PathBuf)> {
    let mut known = Vec::new();
    for tree in trees {
        let Some(Far { identity: far, path }) = tree.far.take() else {
            continue;
        };
        if let Some(above) = path.parent()
            && let Ok(directory) = open_beneath(tree, above)
            && let Ok(identity) = identity(&directory)
        {
            known.push((identity, tree.path.join(above)));
        }
        known.push((far, tree.path.join(path)));
    }
    known
}

/// The path of a directory that `/proc` cannot name: from it up to one that it can, or whose path is `known`, with each name looked for in the
/// directory above. Whoever knows any must look whether it is there.
fn climb(fd: &OwnedFd, known: &[((u64, u64), PathBuf)]) -> Result<PathBuf, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut looked_at = 0;
    let mut names: Vec<OsString> = Vec::new();
    let mut below =
        rustix::fs::openat(fd, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR => Errno::NAMETOOLONG,
            error => error,
        })?;
    loop {
        let sought = rustix::fs::fstat(&below)?;
        if let Some((_, path)) = known.iter().find(|(known, _)| *known == (sought.st_dev, sought.st_ino)) {
            let mut path = path.clone();
            path.extend(names.iter().rev());
            return Ok(path);
        }
        let above = rustix::fs::openat(&below, "..", flags, Mode::empty())?;
        let mut found = None;
        for entry in rustix::fs::Dir::read_from(&above)? {
            let entry = entry?;
            looked_at += 1;
            if looked_at > MAX_LOOKED_AT {
                return Err(Errno::NAMETOOLONG);
            }
            let name = entry.file_name();
            if !matches!(entry.file_type(), FileType::Directory | FileType::Unknown) || [c".", c".."].contains(&name) {
                continue;
            }
            let stat = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW);
            if stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (sought.st_dev, sought.st_ino)) {
                found = Some(OsStr::from_bytes(name.to_bytes()).to_owned());
                break;
            }
        }
        names.push(found.ok_or(Errno::NOENT)?);
        match named(&above) {
            Ok(mut path) => {
                path.extend(names.iter().rev());
                return Ok(path);
            }
            Err(Errno::NAMETOOLONG) => below = above,
            Err(error) => return Err(error),
        }
    }
}

/// The path that `/proc` names for a descriptor of ours.
fn named(fd: &OwnedFd) -> Result<PathBuf, Errno> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = rustix::fs::readlinkat(CWD, link, Vec::with_capacity(256))?;
    Ok(PathBuf::from(OsString::from_vec(path.into_bytes())))
}

/// Device and inode.
fn identity(file: &OwnedFd) -> Result<(u64, u64), Errno> {
    rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino))
}

fn same(left: &OwnedFd, right: &OwnedFd) -> Result<bool, Errno> {
    let (left, right) = (rustix::fs::fstat(left)?, rustix::fs::fstat(right)?);
    Ok((left.st_dev, left.st_ino) == (right.st_dev, right.st_ino))
}
