//! The copy-on-write home: an overlay of the real one, with what must not be seen removed.
//!
//! Hiding uses a third layer between the real directory and the changes: a tmpfs that holds nothing but whiteouts (character
//! devices 0:0, which any user may make since Linux 5.8). Nothing is written to the real directory, and a hidden name can
//! be used anew inside.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{BASE, Builder, Right, attach, fail, names, new_mount, open_directory, resolve, tmpfs};
use crate::event::Failure;
use crate::sys;

impl Builder<'_> {
    pub(super) fn overlay(
        &mut self,
        lower: &Path,
        target: &Path,
        scratch: &str,
        hide: &[PathBuf],
        (execute, optional, guarded): (bool, bool, bool),
    ) -> Result<(), Failure> {
        let real = match resolve(&self.old, lower, OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) if optional => return Ok(()),
            result => result.map_err(fail("open", lower))?,
        };
        let mode = rustix::fs::fstat(&real).map_err(fail("stat", lower))?.st_mode & 0o7777;
        let mask = self.whiteouts(lower, &real, scratch, hide)?;

        let directory = self.scratch_directory(scratch, 0o700)?;
        let mount = match overlay_mount(&mask, &real, directory.as_fd(), mode) {
            Ok(mount) => {
                let changes = open_directory(directory.as_fd(), "changes").map_err(fail("open", lower))?;
                self.built.places.disk.push(changes);
                mount
            }
            // /var/tmp may lie on a file system that cannot take an overlay's changes (another overlay, in a container): memory then.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.built
                    .degraded
                    .push(format!("changes below {} are kept in memory", target.display()));
                let memory = tmpfs("50%", "700").map_err(fail("mount tmpfs", lower))?;
                // An overlay's upper layer must be attached somewhere in this namespace; the base root is let go of later.
                let name = format!("memory-{scratch}");
                rustix::fs::mkdirat(&self.base, &name, Mode::from_raw_mode(0o700)).map_err(fail("make", &name))?;
                let point = open_directory(self.base.as_fd(), &name).map_err(fail("open", &name))?;
                attach(&memory, point.as_fd()).map_err(fail("mount tmpfs", lower))?;
                let mount = overlay_mount(&mask, &real, memory.as_fd(), mode).map_err(fail("mount overlay", lower))?;
                self.built.places.memory.push(memory);
                mount
            }
            Err(error) => return Err(fail("mount overlay", lower)(error)),
        };
        let (attributes, right) = match execute {
            true => (BASE, Right::Write),
            false => (BASE | libc::MOUNT_ATTR_NOEXEC, Right::WriteNoExecute),
        };
        sys::mount_set_attributes(mount.as_fd(), attributes, false).map_err(fail("mount_setattr", target))?;
        let point = self.directory(target, 0o755)?;
        attach(&mount, point.as_fd()).map_err(fail("mount overlay", target))?;
        if guarded && self.can_guard {
            self.cover(mount, target)?;
        }
        self.built.rules.push((target.to_owned(), right));
        Ok(())
    }

    /// A tmpfs with a whiteout for each hidden path that exists. Its directories have the modes of the real ones, because in a
    /// merged directory the upper layer's attributes are seen.
    fn whiteouts(&self, lower: &Path, real: &OwnedFd, scratch: &str, hide: &[PathBuf]) -> Result<OwnedFd, Failure> {
        let mask = tmpfs("4m", "755").map_err(fail("mount tmpfs", lower))?;
        let name = format!("mask-{scratch}");
        rustix::fs::mkdirat(&self.base, &name, Mode::from_raw_mode(0o700)).map_err(fail("make", &name))?;
        let point = open_directory(self.base.as_fd(), &name).map_err(fail("open", &name))?;
        attach(&mask, point.as_fd()).map_err(fail("mount tmpfs", lower))?;
        let mut paths = BTreeSet::new();
        let root = self.below_old(lower).map_err(fail("open", lower))?;
        for path in hide {
            self.hidden(&root, path, &mut paths);
        }
        for path in &paths {
            // Below a hidden directory there is nothing left to hide.
            if path.ancestors().skip(1).any(|above| paths.contains(above)) {
                continue;
            }
            let names: Vec<_> = names(path).collect();
            let Some((last, parents)) = names.split_last() else {
                continue;
            };
            let mut in_mask = open_directory(mask.as_fd(), ".").map_err(fail("open", path))?;
            let mut in_real = open_directory(real.as_fd(), ".").map_err(fail("open", path))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            for name in parents {
                in_real = rustix::fs::openat(&in_real, *name, flags, Mode::empty()).map_err(fail("open", path))?;
                let mode = rustix::fs::fstat(&in_real).map_err(fail("stat", path))?.st_mode & 0o7777;
                match rustix::fs::mkdirat(&in_mask, *name, Mode::from_raw_mode(0o700)) {
                    Ok(()) => rustix::fs::chmodat(&in_mask, *name, Mode::from_raw_mode(mode), AtFlags::empty())
                        .map_err(fail("chmod", path))?,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(fail("hide", path)(error)),
                }
                in_mask = rustix::fs::openat(&in_mask, *name, flags, Mode::empty()).map_err(fail("open", path))?;
            }
            match rustix::fs::mknodat(&in_mask, *last, FileType::CharacterDevice, Mode::empty(), 0) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(fail("hide", path)(error)),
            }
        }
        Ok(mask)
    }

    /// Adds what must be whited out so that `path` (relative to `root`, the lower directory) is not seen: the name itself, and where a
    /// part of the path is a symbolic link, what it leads to inside `root`. A missing path needs nothing.
    fn hidden(&self, root: &Path, path: &Path, found: &mut BTreeSet<PathBuf>) {
        let full = root.join(path);
        let (Some(parent), Some(name)) = (full.parent(), full.file_name()) else {
            return;
        };
        // Most of the list exists on no one machine: one look at the parent settles those.
        let Ok(parent) = self.below_old(parent) else { return };
        let full = parent.join(name);
        if resolve(&self.old, &full, OFlags::NOFOLLOW).is_err() {
            return;
        }
        let real = self.below_old(&full).ok();
        found.extend(
            [Some(full), real]
                .into_iter()
                .flatten()
                .filter_map(|path| Some(path.strip_prefix(root).ok()?.to_owned())),
        );
    }

    /// The path without symbolic links of `path` in the old root.
    fn below_old(&self, path: &Path) -> Result<PathBuf, Errno> {
        use std::os::unix::ffi::OsStringExt;
        let fd = resolve(&self.old, path, OFlags::empty())?;
        let link = rustix::fs::readlink(format!("/old/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
        let full = PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes()));
        Ok(Path::new("/").join(full.strip_prefix("/old").map_err(|_| Errno::NOENT)?))
    }
}

/// What whoever mounts an overlay must hold in effect: the kernel uses the mounter's rights for its own work in the layers (it keeps a
/// directory of mode 0, copies owners and modes along), after it has checked the caller's rights on the merged tree.
pub(crate) const OVERLAY_CAPABILITIES: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FSETID);

/// Mounts the overlay: changes and work directory below `changes`. Layers are named by descriptor, so that no path with a colon, a
/// comma or 256 bytes can confuse the options. `userxattr`: without it, a lower directory that was removed and made
/// again gives EIO in a user namespace. `volatile` (Linux 5.10): the changes are thrown away, so nothing needs to wait for the disk;
/// without it the end of every sandbox syncs the whole file system (measured: 5 to 28 ms against 0.2).
fn overlay_mount(mask: &OwnedFd, real: &OwnedFd, changes: BorrowedFd<'_>, mode: u32) -> Result<OwnedFd, Errno> {
    let mut directories = Vec::new();
    for (name, mode) in [("changes", mode), ("work", 0o700)] {
        match rustix::fs::mkdirat(changes, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        rustix::fs::chmodat(changes, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        directories.push(open_directory(changes, name)?);
    }
    let by_fd = |fd: &OwnedFd| format!("/old/proc/self/fd/{}", fd.as_raw_fd());
    let options = [
        ("lowerdir", format!("{}:{}", by_fd(mask), by_fd(real))),
        ("upperdir", by_fd(&directories[0])),
        ("workdir", by_fd(&directories[1])),
        ("userxattr", String::new()),
        ("volatile", String::new()),
    ];
    let options: Vec<_> = options.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let before = rustix::thread::capabilities(None)?;
    let raised = CapabilitySets {
        effective: before.effective | (OVERLAY_CAPABILITIES & before.permitted),
        ..before
    };
    rustix::thread::set_capabilities(None, raised)?;
    let mount = new_mount("overlay", &options, MountAttrFlags::empty());
    rustix::thread::set_capabilities(None, before)?;
    mount
}
