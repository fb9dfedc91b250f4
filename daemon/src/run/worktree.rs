//! The repository of a workspace that is a linked worktree or a submodule's checkout: its `.git` is a file that names a
//! directory elsewhere, without which git does not work.
//!
//! A command could have left any such file behind. So the directory must name the workspace in turn, which only whoever may
//! write there can have made it do. Read by hand: git, asked where it is, would first read a configuration.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The directory, without symbolic links, that git must be able to write beside `workspace`, which is without them too. It belongs to
/// `uid`. `None` where the repository lies in the workspace, or there is none, or the two do not name each other, or the workspace lies in it.
pub fn repository(workspace: &Path, uid: u32) -> Option<PathBuf> {
    let pointer = read(&workspace.join(".git"))?;
    let target = path(pointer.strip_prefix(b"gitdir:")?)?;
    let directory = workspace.join(target).canonicalize().ok()?;
    let repository = match read(&directory.join("commondir")) {
        Some(common) => {
            let common = directory.join(path(&common)?).canonicalize().ok()?;
            let back = path(&read(&directory.join("gitdir"))?)?;
            let named = directory.join(back).canonicalize().ok()? == workspace.join(".git");
            (named && directory.parent()? == common.join("worktrees")).then_some(common)?
        }
        None => {
            let back = worktree(&read(&directory.join("config"))?)?;
            (directory.join(back).canonicalize().ok()? == workspace).then_some(directory)?
        }
    };
    let belongs = repository
        .metadata()
        .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == uid);
    let apart = !repository.starts_with(workspace) && !workspace.starts_with(&repository);
    (belongs && apart).then_some(repository)
}

/// The last `worktree` of a configuration's section `core`. Not the whole syntax: git writes this line itself, and what is misread
/// does not name the workspace.
fn worktree(config: &[u8]) -> Option<PathBuf> {
    let mut core = false;
    let mut found = None;
    for line in config.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        if line.starts_with(b"[") {
            core = line.eq_ignore_ascii_case(b"[core]");
        } else if let Some(value) = line.strip_prefix(b"worktree").filter(|_| core)
            && let Some(value) = value.trim_ascii().strip_prefix(b"=")
        {
            found = path(value);
        }
    }
    found
}

fn path(text: &[u8]) -> Option<PathBuf> {
    let text = text.trim_ascii();
    (!text.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(text)))
}

/// A regular file; neither a symbolic link nor something that would make the reader wait.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn layout() -> (tempfile::TempDir, PathBuf, u32) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let uid = root.metadata().unwrap().uid();
        (directory, root, uid)
    }

    #[test]
    fn a_linked_worktree_and_its_repository_name_each_other() {
        let (_keep, root, uid) = layout();
        let (main, work) = (root.join("main/.git"), root.join("work"));
        let linked = main.join("worktrees/work");
        fs::create_dir_all(&linked).unwrap();
        fs::create_dir_all(&work).unwrap();
        fs::write(work.join(".git"), format!("gitdir: {}\n", linked.display())).unwrap();
        fs::write(linked.join("commondir"), "../..\n").unwrap();
        assert_eq!(repository(&work, uid), None, "it does not name the workspace");
        fs::write(linked.join("gitdir"), format!("{}/.git\n", work.display())).unwrap();
        assert_eq!(repository(&work, uid), Some(main.clone()));
        assert_eq!(repository(&work, uid + 1), None, "it is somebody else's");
        fs::write(linked.join("commondir"), root.join("main").as_os_str().as_bytes()).unwrap();
        assert_eq!(repository(&work, uid), None, "it does not lie in that repository");
    }

    #[test]
    fn a_submodule_and_its_repository_name_each_other() {
        let (_keep, root, uid) = layout();
        let (module, work) = (root.join("super/.git/modules/lib"), root.join("super/lib"));
        fs::create_dir_all(&module).unwrap();
        fs::create_dir_all(&work).unwrap();
        fs::write(work.join(".git"), "gitdir: ../.git/modules/lib\n").unwrap();
        fs::write(module.join("config"), "[core]\n\tbare = false\n").unwrap();
        assert_eq!(repository(&work, uid), None);
        fs::write(
            module.join("config"),
            "[core]\n\tbare = false\n\tworktree = ../../../lib\n",
        )
        .unwrap();
        assert_eq!(repository(&work, uid), Some(module.clone()));
        fs::write(module.join("config"), "[remote \"x\"]\n\tworktree = ../../../lib\n").unwrap();
        assert_eq!(repository(&work, uid), None);
        assert_eq!(
            repository(&root.join("super"), uid),
            None,
            "its .git is a directory or missing"
        );
    }

    #[test]
    fn what_is_planted_names_nothing() {
        let (_keep, root, uid) = layout();
        let victim = root.join("victim/.git");
        fs::create_dir_all(&victim).unwrap();
        fs::write(victim.join("config"), "[core]\n\tbare = false\n").unwrap();
        let work = root.join("work");
        fs::create_dir_all(&work).unwrap();
        for pointer in [
            "gitdir: ../victim/.git",
            "gitdir:",
            "",
            "gitdir: /dev/zero",
            "../victim/.git",
        ] {
            fs::write(work.join(".git"), pointer).unwrap();
            assert_eq!(repository(&work, uid), None, "{pointer}");
        }
        fs::remove_file(work.join(".git")).unwrap();
        std::os::unix::fs::symlink(root.join("victim/.git/config"), work.join(".git")).unwrap();
        assert_eq!(repository(&work, uid), None);
    }
}
