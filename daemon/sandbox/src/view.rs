//! The file tree of a sandbox, built inside its mount namespace by init.
//!
//! The order is the story. Mounts stop propagating; the machine's tree moves aside to `/old` and a new, empty root grows in `/new`
//! from the entries of the [`View`]; then `/new` becomes the root, `/old` is let go and can never be reached again, and
//! what may not be written is made read-only.
//!
//! Every source is resolved below a descriptor of the old root and every target below one of the new root (`openat2` with
//! `RESOLVE_IN_ROOT`), so a symbolic link in either tree cannot lead out of it.

mod devices;
mod home;
mod kernel;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

pub(crate) use home::OVERLAY_CAPABILITIES;
use kernel::is_kernels;
pub use kernel::is_kernels_file_system;

use crate::event::Failure;
use crate::guard::Tree;
use crate::spec::{Access, Protection, View, ViewEntry};
use crate::sys;
use crate::watch::Places;

/// Attributes of every mount: no set-uid gain, no device files but those of [`devices`].
const BASE: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// Symbolic links followed for a synthesised file before giving up.
const MAX_LINKS: usize = 8;

/// What may be done below a path, for [`crate::rights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    Read,
    ReadExecute,
    Write,
    WriteNoExecute,
    /// Read and write files that exist, and their ioctls: devices and `/proc`.
    Use,
}

/// A built view.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// Paths and rights, for Landlock.
    pub rules: Vec<(PathBuf, Right)>,
    /// What could not be had as asked, in words.
    pub degraded: Vec<String>,
    /// Trees that only init can change.
    pub guarded: Vec<Tree>,
    /// Where the command can take memory and disk space.
    pub places: Places,
}

/// Builds the view and makes it the root of this process. `scratch` is the sandbox's directory on disk.
///
/// Trees are only guarded where calls can be made to wait (`can_guard`); else they are plainly writable, which the report says.
pub(crate) fn build(view: &View, scratch: BorrowedFd<'_>, can_guard: bool) -> Result<Built, Failure> {
    // Nothing mounted here may show outside, nothing mounted outside may appear here.
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(fail("stop mount propagation", "/"))?;
    let kernels = kernel::mounted().map_err(fail("read", "/proc/self/mountinfo"))?;
    let mut builder = Builder::prepare(scratch, can_guard, kernels)?;
    for entry in &view.entries {
        builder.add(entry)?;
    }
    builder.finish()
}

/// A failure of this layer.
fn fail<E: Into<io::Error>>(stage: &str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Failure {
    let (stage, path) = (stage.to_owned(), path.as_ref().as_os_str().as_bytes().to_vec());
    move |error| Failure {
        protection: Some(Protection::FilesystemView),
        stage,
        errno: sys::errno_of(&error.into()),
        path,
    }
}

struct Builder<'a> {
    scratch: BorrowedFd<'a>,
    can_guard: bool,
    /// The machine's root.
    old: OwnedFd,
    /// The root to be.
    new: OwnedFd,
    /// The root in between: it holds `/old`, `/new` and the contents of synthesised files.
    base: OwnedFd,
    /// Where the machine has file systems of the kernel.
    kernels: Vec<PathBuf>,
    /// Mounts that become read-only when everything is in place.
    seal: Vec<OwnedFd>,
    files: u32,
    built: Built,
}

impl<'a> Builder<'a> {
    fn prepare(scratch: BorrowedFd<'a>, can_guard: bool, kernels: Vec<PathBuf>) -> Result<Self, Failure> {
        let base = tmpfs("16m", "755").map_err(fail("mount the base tmpfs", ""))?;
        for name in ["old", "new"] {
            rustix::fs::mkdirat(&base, name, Mode::from_raw_mode(0o755)).map_err(fail("make a directory", name))?;
        }
        // pivot_root wants the new root attached somewhere; the scratch directory is ours and hides nothing.
        attach(&base, scratch).map_err(fail("attach the base tmpfs", ""))?;
        rustix::process::fchdir(&base).map_err(fail("enter the base tmpfs", ""))?;
        rustix::process::pivot_root(".", "old").map_err(fail("pivot_root", "/"))?;
        rustix::process::chdir("/").map_err(fail("chdir", "/"))?;
        let root = tmpfs("16m", "755").map_err(fail("mount the root tmpfs", "/"))?;
        let point = open_directory(CWD, "/new").map_err(fail("open", "/new"))?;
        attach(&root, point.as_fd()).map_err(fail("attach the root tmpfs", "/"))?;
        let old = open_directory(CWD, "/old").map_err(fail("open", "/old"))?;
        let new = open_directory(CWD, "/new").map_err(fail("open", "/new"))?;
        Ok(Builder {
            scratch,
            can_guard,
            old,
            new,
            base,
            kernels,
            seal: vec![root],
            files: 0,
            built: Built::default(),
        })
    }

    fn add(&mut self, entry: &ViewEntry) -> Result<(), Failure> {
        match entry {
            ViewEntry::Bind {
                source,
                target,
                access,
                optional,
            } => self.bind(source, target, *access, *optional),
            ViewEntry::Overlay {
                lower,
                target,
                scratch,
                hide,
                execute,
                optional,
                guarded,
            } => self.overlay(lower, target, scratch, hide, (*execute, *optional, *guarded)),
            ViewEntry::Scratch {
                target,
                scratch,
                mode,
                guarded,
            } => self.scratch(target, scratch, *mode, *guarded),
            ViewEntry::Tmpfs {
                target,
                size_bytes,
                mode,
                writable,
            } => self.tmpfs(target, *size_bytes, *mode, *writable),
            ViewEntry::File { target, contents } => self.file(target, contents),
            ViewEntry::Directory { target, mode } => self.directory(target, *mode).map(drop),
            ViewEntry::Mask { target } => self.mask(target),
            ViewEntry::ReadOnly { target } => self.read_only(target),
            ViewEntry::Proc => self.proc(),
            ViewEntry::Sys => self.sysfs(),
            ViewEntry::Dev { shm_bytes } => self.dev(*shm_bytes),
        }
    }

    fn bind(&mut self, source: &Path, target: &Path, access: Access, optional: bool) -> Result<(), Failure> {
        let links = if optional {
            ResolveFlags::empty()
        } else {
            ResolveFlags::NO_SYMLINKS
        };
        let fd = match resolve_within(&self.old, source, OFlags::NOFOLLOW, links) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) if optional => return Ok(()),
            result => result.map_err(fail("open", source))?,
        };
        let stat = rustix::fs::fstat(&fd).map_err(fail("stat", source))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink && !optional {
            return Err(fail("open", source)(Errno::LOOP));
        }
        if kind == FileType::Symlink {
            let link = rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(fail("read the link", source))?;
            let (parent, name) = self.parent(target)?;
            return match rustix::fs::symlinkat(link.as_c_str(), &parent, name) {
                Err(Errno::EXIST) => Ok(()),
                result => result.map_err(fail("make the link", target)),
            };
        }
        if access.writes() && is_kernels(&fd).map_err(fail("statfs", source))? {
            let stage = "bind for writing: the kernel's own file systems (proc, sysfs, cgroup, ...) are never written";
            return Err(fail(stage, source)(Errno::PERM));
        }
        let tree = clone_tree(fd.as_fd(), true).map_err(fail("open_tree", source))?;
        let attributes = match access {
            Access::Read => BASE | READ_ONLY | libc::MOUNT_ATTR_NOEXEC,
            Access::ReadExecute => BASE | READ_ONLY,
            Access::Write | Access::Guarded => BASE,
            Access::WriteNoExecute | Access::GuardedNoExecute => BASE | libc::MOUNT_ATTR_NOEXEC,
        };
        sys::mount_set_attributes(tree.as_fd(), attributes, true).map_err(fail("mount_setattr", source))?;
        let point = if kind == FileType::Directory {
            self.directory(target, 0o755)?
        } else {
            self.empty_file(target)?
        };
        attach(&tree, point.as_fd()).map_err(fail("mount", target))?;
        if access.writes() {
            self.freeze_kernels(source, target)?;
            let root = tree.try_clone().map_err(fail("copy a descriptor of", target))?;
            self.built.places.disk.push(root);
        }
        if access.is_guarded() && kind == FileType::Directory && self.can_guard {
            self.cover(tree, target)?;
        }
        let right = match access {
            Access::Read => Right::Read,
            Access::ReadExecute => Right::ReadExecute,
            Access::Write | Access::Guarded => Right::Write,
            Access::WriteNoExecute | Access::GuardedNoExecute => Right::WriteNoExecute,
        };
        self.built.rules.push((target.to_owned(), right));
        Ok(())
    }

    /// Makes what a writable tree that is in place has mounted of the kernel's read-only: a directory for chroot(8) has its `/proc`.
    fn freeze_kernels(&self, source: &Path, target: &Path) -> Result<(), Failure> {
        for inside in kernel::below(&self.kernels, source) {
            let path = target.join(inside);
            let mount = match resolve(&self.new, &path, OFlags::NOFOLLOW) {
                // Something else is mounted over what it is in.
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                result => result.map_err(fail("open", &path))?,
            };
            match sys::mount_set_attributes(mount.as_fd(), BASE | READ_ONLY, true) {
                // So that here is no mount, but what happens to have its name.
                Err(error)
                    if error.raw_os_error() == Some(libc::EINVAL)
                        && !is_kernels(&mount).map_err(fail("statfs", &path))? => {}
                result => result.map_err(fail("mount_setattr", &path))?,
            }
        }
        Ok(())
    }

    /// Mounts a tree that is in place once more over itself, read-only. The writable mount below it is in nobody's reach but through the
    /// descriptor that is kept.
    fn cover(&mut self, tree: OwnedFd, target: &Path) -> Result<(), Failure> {
        let cover = clone_tree(tree.as_fd(), true).map_err(fail("open_tree", target))?;
        sys::mount_set_attributes(cover.as_fd(), BASE | READ_ONLY, true).map_err(fail("mount_setattr", target))?;
        attach(&cover, tree.as_fd()).map_err(fail("mount", target))?;
        self.built.guarded.push(Tree::new(target.to_owned(), tree));
        Ok(())
    }

    fn scratch(&mut self, target: &Path, name: &str, mode: u32, guarded: bool) -> Result<(), Failure> {
        let directory = self.scratch_directory(name, mode)?;
        let tree = clone_tree(directory.as_fd(), false).map_err(fail("open_tree", name))?;
        sys::mount_set_attributes(tree.as_fd(), BASE, false).map_err(fail("mount_setattr", name))?;
        let point = self.directory(target, 0o755)?;
        attach(&tree, point.as_fd()).map_err(fail("mount", target))?;
        if guarded && self.can_guard {
            self.cover(tree, target)?;
        }
        self.built.rules.push((target.to_owned(), Right::Write));
        self.built.places.disk.push(directory);
        Ok(())
    }

    /// Makes a directory below the scratch directory, with exactly this mode whatever the umask.
    fn scratch_directory(&self, name: &str, mode: u32) -> Result<OwnedFd, Failure> {
        match rustix::fs::mkdirat(self.scratch, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(fail("make a scratch directory", name)(error)),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.scratch, name, flags, Mode::empty()).map_err(fail("open", name))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(fail("chmod", name))?;
        Ok(fd)
    }

    fn tmpfs(&mut self, target: &Path, bytes: u64, mode: u32, writable: bool) -> Result<(), Failure> {
        let mount = tmpfs(&bytes.to_string(), &format!("{mode:o}")).map_err(fail("mount tmpfs", target))?;
        let point = self.directory(target, 0o755)?;
        attach(&mount, point.as_fd()).map_err(fail("mount tmpfs", target))?;
        self.built
            .rules
            .push((target.to_owned(), if writable { Right::Write } else { Right::Read }));
        match writable {
            true => self.built.places.memory.push(mount),
            false => self.seal.push(mount),
        }
        Ok(())
    }

    fn file(&mut self, target: &Path, contents: &[u8]) -> Result<(), Failure> {
        let Some(point) = self.file_point(target)? else {
            return Ok(());
        };
        let tree = self.new_file(contents, 0o444).map_err(fail("write a file", target))?;
        attach(&tree, point.as_fd()).map_err(fail("mount", target))?;
        self.built.rules.push((target.to_owned(), Right::Read));
        Ok(())
    }

    /// The existing or newly made file that `target` leads to. `None` where it does not exist and cannot be made because its directory is a
    /// read-only one of the machine: a machine without `/etc/nsswitch.conf` gets none.
    fn file_point(&self, target: &Path) -> Result<Option<OwnedFd>, Failure> {
        let mut path = target.to_owned();
        for _ in 0..MAX_LINKS {
            match resolve(&self.new, &path, OFlags::NOFOLLOW) {
                Ok(fd) => {
                    let stat = rustix::fs::fstat(&fd).map_err(fail("stat", &path))?;
                    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                        return Ok(Some(fd));
                    }
                    let link = rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(fail("read the link", &path))?;
                    path = join_link(&path, Path::new(OsStr::from_bytes(link.as_bytes())));
                }
                Err(Errno::NOENT) => {
                    return match self.empty_file(&path) {
                        Ok(fd) => Ok(Some(fd)),
                        Err(failure) if [libc::EROFS, libc::EACCES].contains(&failure.errno) => Ok(None),
                        Err(failure) => Err(failure),
                    };
                }
                Err(error) => return Err(fail("open", &path)(error)),
            }
        }
        Err(fail("follow links", target)(Errno::LOOP))
    }

    /// A mount of a fresh file in the base tmpfs, read-only.
    fn new_file(&mut self, contents: &[u8], mode: u32) -> io::Result<OwnedFd> {
        let name = format!("file{}", self.files);
        self.files += 1;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(
            &self.base,
            &name,
            flags,
            Mode::from_raw_mode(0o600),
        )?);
        file.write_all(contents)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        self.clone_read_only(&name)
    }

    /// A read-only mount of something in the base tmpfs.
    fn clone_read_only(&self, name: &str) -> io::Result<OwnedFd> {
        let fd = rustix::fs::openat(&self.base, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let tree = clone_tree(fd.as_fd(), false)?;
        sys::mount_set_attributes(tree.as_fd(), BASE | READ_ONLY | libc::MOUNT_ATTR_NOEXEC, false)?;
        Ok(tree)
    }

    /// Mounts what is there once more over itself, read-only. What is mounted cannot be moved away either.
    fn read_only(&mut self, target: &Path) -> Result<(), Failure> {
        let fd = match resolve(&self.new, target, OFlags::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => return Ok(()),
            result => result.map_err(fail("open", target))?,
        };
        let tree = clone_tree(fd.as_fd(), true).map_err(fail("open_tree", target))?;
        sys::mount_set_attributes(tree.as_fd(), BASE | READ_ONLY, true).map_err(fail("mount_setattr", target))?;
        attach(&tree, fd.as_fd()).map_err(fail("mount", target))
    }

    fn mask(&mut self, target: &Path) -> Result<(), Failure> {
        let fd = match resolve(&self.new, target, OFlags::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => return Ok(()),
            result => result.map_err(fail("open", target))?,
        };
        let stat = rustix::fs::fstat(&fd).map_err(fail("stat", target))?;
        // Mode 0 on a read-only mount: not even its owner can read it or change that.
        let tree = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            match rustix::fs::mkdirat(&self.base, "masked", Mode::empty()) {
                Ok(()) | Err(Errno::EXIST) => self.clone_read_only("masked"),
                Err(error) => Err(error.into()),
            }
        } else {
            self.new_file(b"", 0)
        };
        let tree = tree.map_err(fail("make a mask", target))?;
        attach(&tree, fd.as_fd()).map_err(fail("mask", target))
    }

    /// Makes a directory and its parents; one that exists is taken as it is. Returns it.
    fn directory(&self, target: &Path, mode: u32) -> Result<OwnedFd, Failure> {
        let mut fd = resolve(&self.new, Path::new("/"), OFlags::DIRECTORY).map_err(fail("open", "/"))?;
        let mut path = PathBuf::from("/");
        let names: Vec<_> = names(target).collect();
        for (index, name) in names.iter().enumerate() {
            path.push(name);
            let next = match resolve(&self.new, &path, OFlags::DIRECTORY) {
                Err(Errno::NOENT) => {
                    let mode = if index + 1 == names.len() { mode } else { 0o755 };
                    rustix::fs::mkdirat(&fd, *name, Mode::from_raw_mode(mode))
                        .map_err(fail("make the directory", &path))?;
                    rustix::fs::chmodat(&fd, *name, Mode::from_raw_mode(mode), AtFlags::empty())
                        .map_err(fail("chmod", &path))?;
                    resolve(&self.new, &path, OFlags::DIRECTORY)
                }
                result => result,
            };
            fd = next.map_err(fail("open", &path))?;
        }
        Ok(fd)
    }

    /// The parent directory of `target`, made if need be, and the last name.
    fn parent<'p>(&self, target: &'p Path) -> Result<(OwnedFd, &'p OsStr), Failure> {
        let name = target
            .file_name()
            .ok_or_else(|| fail("find the name of", target)(Errno::INVAL))?;
        Ok((self.directory(target.parent().unwrap_or(Path::new("/")), 0o755)?, name))
    }

    /// An empty file to mount on; one that exists is taken.
    fn empty_file(&self, target: &Path) -> Result<OwnedFd, Failure> {
        let (parent, name) = self.parent(target)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o444)) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(error) => return Err(fail("make the file", target)(error)),
        }
        resolve(&self.new, target, OFlags::empty()).map_err(fail("open", target))
    }

    /// Makes the new tree the root and lets go of the old one.
    fn finish(self) -> Result<Built, Failure> {
        rustix::process::fchdir(&self.new).map_err(fail("enter the new root", "/"))?;
        rustix::process::pivot_root(".", ".").map_err(fail("pivot_root", "/"))?;
        // The old root is now mounted on top of the new one at the same place; "." still names it.
        rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(fail("let go of the old root", "/"))?;
        rustix::process::chdir("/").map_err(fail("chdir", "/"))?;
        for mount in &self.seal {
            sys::mount_set_attributes(mount.as_fd(), BASE | READ_ONLY, false).map_err(fail("make read-only", "/"))?;
        }
        Ok(self.built)
    }
}

/// The names of an absolute path.
fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}

/// Where a symbolic link found at `path` leads.
fn join_link(path: &Path, link: &Path) -> PathBuf {
    let mut result = match link.is_absolute() {
        true => PathBuf::from("/"),
        false => path.parent().unwrap_or(Path::new("/")).to_owned(),
    };
    for component in link.components() {
        match component {
            Component::ParentDir => {
                result.pop();
            }
            Component::Normal(name) => result.push(name),
            _ => {}
        }
    }
    result
}

/// Opens `path` below `root` as if `root` were `/`.
fn resolve(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    resolve_within(root, path, flags, ResolveFlags::empty())
}

/// As [`resolve`], with further restrictions.
fn resolve_within(root: &OwnedFd, path: &Path, flags: OFlags, restrictions: ResolveFlags) -> Result<OwnedFd, Errno> {
    let relative: PathBuf = names(path).collect();
    let relative = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &relative
    };
    loop {
        // RESOLVE_IN_ROOT answers EAGAIN when a rename raced with "..".
        match rustix::fs::openat2(
            root,
            relative,
            flags | OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | restrictions,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

fn open_directory(parent: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        parent,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// A detached tmpfs.
fn tmpfs(size: &str, mode: &str) -> Result<OwnedFd, Errno> {
    let mount = new_mount("tmpfs", &[("size", size), ("mode", mode)], MountAttrFlags::empty())?;
    sys::mount_set_attributes(mount.as_fd(), BASE, false)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(mount)
}

/// A detached mount of a file system by name.
fn new_mount(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match *value {
            "" => rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?,
            value => rustix::mount::fsconfig_set_string(context.as_fd(), *key, value)?,
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A detached copy of the mount at `fd`. Always recursive where something may be mounted below: a user namespace may not uncover
/// what a mount of the machine covers.
fn clone_tree(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(fd, "", flags)
}

/// Mounts a detached mount on `point`.
fn attach(mount: &OwnedFd, point: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount.as_fd(), "", point, "", flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_joined_to_the_directory_it_lies_in() {
        let from = Path::new("/etc/resolv.conf");
        let joined = |link: &str| join_link(from, Path::new(link));
        assert_eq!(
            joined("../run/systemd/resolve/stub-resolv.conf"),
            Path::new("/run/systemd/resolve/stub-resolv.conf")
        );
        assert_eq!(joined("/run/x"), Path::new("/run/x"));
        assert_eq!(joined("other"), Path::new("/etc/other"));
        assert_eq!(joined("../../../x"), Path::new("/x"));
    }

    #[test]
    fn names_of_a_path_leave_out_the_root() {
        assert_eq!(names(Path::new("/a/b")).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(names(Path::new("/")).count(), 0);
    }
}
