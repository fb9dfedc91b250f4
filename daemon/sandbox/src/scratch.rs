//! Directories on disk that live as long as a sandbox: its `/tmp`, the changes to its home.
//!
//! Layout: `<root>/<instance>/<sandbox>/...`, and `<root>/locks` (see `guard/locks.rs`), which stays: who has it open would not see another. The root is private to the daemon's user (0700, checked). An instance is one launcher; its
//! name carries the launcher's pid and start time, so that a later daemon can tell the dead ones and remove
//! what they left.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Makes the root, or checks the one that exists: a directory, ours, closed to others. Anything else is refused, because
/// `/var/tmp` is a place where anybody can make a directory of any name.
pub(crate) fn prepare_root(root: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).recursive(false).create(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(root)?;
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(root)?;
    let own = rustix::process::geteuid().as_raw();
    let refuse = |what: String, first: &str| {
        let mend = format!("{first}, or name another directory (scratch_dir in the configuration, --scratch-dir)");
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{what}: {mend}"),
        ))
    };
    if !metadata.is_dir() {
        return refuse(format!("{} is not a directory", root.display()), "remove it");
    }
    if metadata.uid() != own {
        let what = format!("{} belongs to uid {}, not to {own}", root.display(), metadata.uid());
        return refuse(what, "remove it");
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        let what = format!("{} is open to others (mode {mode:03o})", root.display());
        return refuse(what, &format!("run `chmod 700 {}`", root.display()));
    }
    Ok(())
}

/// Makes a sandbox's directory, owned by the ids its command runs as.
pub(crate) fn create(instance: &Path, name: &str, uid: u32, gid: u32) -> io::Result<PathBuf> {
    let path = instance.join(name);
    fs::DirBuilder::new().mode(0o700).create(&path)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(uid), Some(gid))?;
    }
    Ok(path)
}

/// Removes a tree whatever modes its directories have (Go's module cache is read-only, an overlay's work directory has
/// mode 0). Follows no symbolic link. What cannot be removed is left; the error is the first one.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Gives the owner every right on every directory of a tree.
fn open_up(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// The directory of one launcher.
pub(crate) fn instance(root: &Path, instance: &str) -> PathBuf {
    root.join(format!("{}{instance}", crate::cgroup::PREFIX))
}

/// The file of locks of a root.
pub(crate) fn locks(root: &Path) -> PathBuf {
    root.join("locks")
}

/// Opens the file of locks, made if need be.
pub(crate) fn open_locks(path: &Path) -> io::Result<OwnedFd> {
    fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map(OwnedFd::from)
}

/// Removes the directories of launchers that no longer live.
pub(crate) fn sweep(root: &Path) -> io::Result<()> {
    crate::cgroup::stale_instances(root)
        .iter()
        .try_for_each(|stale| remove_tree(stale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_with_closed_directories_is_removed_as_an_ordinary_user_would_need() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o500)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn a_root_that_others_can_enter_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        prepare_root(&root).unwrap();
        prepare_root(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(prepare_root(&root).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        assert!(prepare_root(&link).is_err());
    }
}
