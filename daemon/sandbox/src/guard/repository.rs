//! Configuration of repositories in guarded trees: read, judged, and written by init alone.
//!
//! A configuration is never the caller's own file. Whoever opened that for writing could go on writing after it was read; so what was read
//! and found harmless is written to a new file, which takes the name.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::caller::errno;
use super::gitconfig;
use super::place::{Place, Tree, containing, open_beneath};

/// Longest configuration that is read, in bytes; real ones have a few KiB.
const MAX_BYTES: u64 = 1 << 20;

/// Longest file that names a repository, in bytes: a path and a few words.
const MAX_POINTER_BYTES: u64 = 8192;

/// Where what a remote calls a local path may not be: everybody writes there.
const SHARED: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// What configurations were before their first change in this sandbox, by tree and path: several harmless steps may make a change that is none.
pub(super) type Started = HashMap<(usize, PathBuf), Option<Vec<u8>>>;

/// A judgement that can fail for reasons of the file system: `Ok(Err(rule))` refuses.
type Ruling = Result<Result<(), String>, Errno>;

/// Carries out the renaming of `from` to a repository's configuration `to`.
pub(super) fn replace_configuration(trees: &[Tree], started: &mut Started, from: &Place, to: &Place) -> Ruling {
    let tree = &trees[to.tree];
    let (new, mode) = match read(&from.parent, &from.name, MAX_BYTES) {
        Ok(file) => file,
        Err(Errno::TOOBIG) => return Ok(Err("git: a configuration of more than 1 MiB".to_owned())),
        Err(error) => return Err(error),
    };
    let old = match read(&to.parent, &to.name, MAX_BYTES) {
        Ok((old, _)) => Some(old),
        Err(Errno::NOENT) => None,
        Err(error) => return Err(error),
    };
    let start = started.entry((to.tree, to.relative())).or_insert_with(|| old.clone());
    if let Err(rule) = judge(tree, &to.directory, start.as_deref(), old.as_deref(), &new) {
        return Ok(Err(rule));
    }
    write(&to.parent, &to.name, &new, mode)?;
    rustix::fs::unlinkat(&from.parent, &from.name, AtFlags::empty())?;
    Ok(Ok(()))
}

/// Looks at the configuration of a directory that is about to become a repository, and makes it nobody's but init's.
pub(super) fn adopt(tree: &Tree, parent: &OwnedFd, directory: &Path) -> Ruling {
    let name = OsStr::new("config");
    let (bytes, mode) = match read(parent, name, MAX_BYTES) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Ok(())),
        Err(_) => {
            return Ok(Err(
                "git: what would become a repository here has an unreadable configuration".to_owned(),
            ));
        }
    };
    if let Err(rule) = judge(tree, directory, None, None, &bytes) {
        return Ok(Err(rule));
    }
    write(parent, name, &bytes, mode)?;
    Ok(Ok(()))
}

fn judge(tree: &Tree, directory: &Path, start: Option<&[u8]>, old: Option<&[u8]>, new: &[u8]) -> Result<(), String> {
    let repository = tree.path.join(directory);
    let worktree = match repository.file_name() {
        Some(name) if name == ".git" => repository.parent().unwrap_or(&repository),
        _ => &repository,
    };
    let inside = |path: Option<PathBuf>| path.is_some_and(|path| path.starts_with(&tree.path));
    let worktree_allowed = |value: &[u8]| inside(join(&repository, value));
    let local_url_allowed = |value: &[u8]| {
        let value = value.strip_prefix(b"file://").unwrap_or(value);
        let path = join(worktree, value);
        let shared = |path: &PathBuf| SHARED.iter().any(|shared| path.starts_with(shared));
        inside(path.clone()) || path.is_some_and(|path| !shared(&path))
    };
    let place = gitconfig::Place {
        worktree_allowed: &worktree_allowed,
        local_url_allowed: &local_url_allowed,
    };
    // What was made in this sandbox is nobody's yet, and may be changed in any harmless way.
    let step = match start {
        Some(_) => gitconfig::check(old, new, &place),
        None => Ok(()),
    };
    step.and_then(|()| gitconfig::check_run(start, new, &place))
        .map_err(|refused| format!("git configuration: {refused}"))
}

/// What a call that writes `commondir` of a linked worktree gets: a file of its own. The real one says what it must.
pub(super) fn common_directory(place: &Place) -> Result<OwnedFd, Errno> {
    if place.kind()?.is_none() {
        write(&place.parent, &place.name, b"../..\n", 0o644)?;
    }
    rustix::fs::memfd_create("commondir", rustix::fs::MemfdFlags::CLOEXEC)
}

/// The same for its configuration, of which git makes a copy of the repository's own.
pub(super) fn worktree_configuration(tree: &Tree, place: &Place) -> Result<OwnedFd, Errno> {
    let repository = place.directory.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let repository = open_beneath(tree, repository)?;
    let contents = match read(&repository, OsStr::new("config.worktree"), MAX_BYTES) {
        Ok((contents, _)) => contents,
        Err(Errno::NOENT) => Vec::new(),
        Err(error) => return Err(error),
    };
    write(&place.parent, &place.name, &contents, 0o644)?;
    rustix::fs::memfd_create("config.worktree", rustix::fs::MemfdFlags::CLOEXEC)
}

/// What the configuration of a tree's own repository names, with why; so that it is not changed.
pub(super) fn programs(trees: &[Tree], tree: usize) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let worktree = &trees[tree].path;
    let mut add = |path: Option<PathBuf>, why: String| {
        let Some(path) = path else { return };
        let Ok(relative) = path.strip_prefix(worktree) else {
            return;
        };
        let there = rustix::fs::statat(&trees[tree].root, relative, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if !relative.as_os_str().is_empty() && there {
            found.push((relative.to_owned(), why));
        }
    };
    for repository in repositories(trees, tree) {
        let open = containing(trees, &repository).map(|(index, directory)| open_beneath(&trees[index], directory));
        let Some(Ok(directory)) = open else { continue };
        if let Ok(target) = rustix::fs::readlinkat(&directory, "hooks", Vec::new()) {
            add(
                join(&repository, target.as_bytes()),
                "git: its hooks are kept here".to_owned(),
            );
        }
        for name in ["config", "config.worktree"] {
            let Ok((bytes, _)) = read(&directory, OsStr::new(name), MAX_BYTES) else {
                continue;
            };
            for (key, value) in gitconfig::programs(&bytes) {
                for word in value.split(|byte| byte.is_ascii_whitespace()) {
                    let word: Vec<u8> = word
                        .iter()
                        .copied()
                        .filter(|byte| !b"'\"!;&|()".contains(byte))
                        .collect();
                    if !word.is_empty() {
                        add(join(worktree, &word), format!("git: {key} runs it"));
                    }
                }
            }
        }
    }
    found
}

/// The directories of the repository that a tree is checked out from, as seen inside: its own, and the one it shares.
fn repositories(trees: &[Tree], tree: usize) -> Vec<PathBuf> {
    let root = &trees[tree];
    let own = root.path.join(".git");
    let own = match rustix::fs::statat(&root.root, ".git", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            let pointer = read(&root.root, OsStr::new(".git"), MAX_POINTER_BYTES);
            let target = pointer.ok().and_then(|(text, _)| {
                let target = text.strip_prefix(b"gitdir:")?.trim_ascii().to_vec();
                join(&root.path, &target)
            });
            match target {
                Some(target) => target,
                None => return Vec::new(),
            }
        }
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
            match rustix::fs::readlinkat(&root.root, ".git", Vec::new()) {
                Ok(target) => join(&root.path, target.as_bytes()).unwrap_or(own),
                Err(_) => own,
            }
        }
        Ok(_) => own,
        Err(_) => return Vec::new(),
    };
    let common = containing(trees, &own).and_then(|(index, directory)| {
        let directory = open_beneath(&trees[index], directory).ok()?;
        let (text, _) = read(&directory, OsStr::new("commondir"), MAX_POINTER_BYTES).ok()?;
        join(&own, text.trim_ascii())
    });
    [Some(own), common].into_iter().flatten().collect()
}

/// A path as written in `directory`, without `.` and `..`. `None` for what is no path.
fn join(directory: &Path, value: &[u8]) -> Option<PathBuf> {
    if value.is_empty() || value.contains(&0) || value.starts_with(b"~") {
        return None;
    }
    let mut path = PathBuf::new();
    for component in directory.join(OsStr::from_bytes(value)).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            component => path.push(component),
        }
    }
    Some(path)
}

/// A regular file's contents and permission bits. TOOBIG, and LOOP for a symbolic link.
fn read(directory: &OwnedFd, name: &OsStr, limit: u64) -> Result<(Vec<u8>, u32), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(errno)?;
    match bytes.len() as u64 > limit {
        true => Err(Errno::TOOBIG),
        false => Ok((bytes, stat.st_mode & 0o777)),
    }
}

/// Gives `name` these contents, at once or not at all.
fn write(directory: &OwnedFd, name: &OsStr, contents: &[u8], mode: u32) -> Result<(), Errno> {
    for attempt in 0..16u32 {
        // Every init is process 1: the time tells their files apart.
        let moment = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let mut temporary = OsString::from(name);
        temporary.push(format!(".{moment:x}{attempt:x}"));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, &temporary, flags, Mode::from_raw_mode(0o600)) {
            Err(Errno::EXIST) => continue,
            result => result?,
        };
        let mut file = File::from(file);
        let written = file
            .write_all(contents)
            .map_err(errno)
            .and_then(|()| rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)))
            .and_then(|()| rustix::fs::renameat(directory, &temporary, directory, name));
        if written.is_err() {
            let _ = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
        }
        return written;
    }
    Err(Errno::EXIST)
}
