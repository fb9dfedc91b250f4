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
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Why a longer one is refused.
pub(super) const TOO_LONG: &str = "git: a configuration or list of more than 1 MiB";

/// Longest file that names a repository, in bytes: a path and a few words.
const MAX_POINTER_BYTES: u64 = 8192;

/// Files of the project that its repository's configuration names, at most: each is compared with the path of every change.
const MAX_PROGRAMS: usize = 256;

/// How deep configurations include others: git's own bound (`MAX_INCLUDE_DEPTH` of git's config.c).
const MAX_INCLUDES: u32 = 10;

/// Where what a remote calls a local path may not be: everybody writes there.
const SHARED: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// What configurations were before their first change in this sandbox, by tree and path: several harmless steps may make a change that is none.
pub(super) type Started = HashMap<(usize, PathBuf), Option<Vec<u8>>>;

/// A judgement that can fail for reasons of the file system: `Ok(Err(rule))` refuses.
type Ruling = Result<Result<(), String>, Errno>;

/// A file whose contents are read before they get their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// A repository's configuration.
    Configuration {
        /// Whether its repository was made in this sandbox.
        made_here: bool,
    },
    /// What a rebase still has to do.
    Todo,
}

/// Carries out the renaming of `from` to a judged file `to`.
pub(super) fn replace(trees: &[Tree], started: &mut Started, what: Judged, from: &Place, to: &Place) -> Ruling {
    let (new, mode) = match read(&from.parent, &from.name, MAX_BYTES) {
        Ok(file) => file,
        Err(Errno::TOOBIG) => return Ok(Err(TOO_LONG.to_owned())),
        Err(error) => return Err(error),
    };
    let published = publish(trees, started, what, to, &new, mode)?;
    if published.is_ok() {
        rustix::fs::unlinkat(&from.parent, &from.name, AtFlags::empty())?;
    }
    Ok(published)
}

/// Gives a judged file new contents if they are harmless.
pub(super) fn publish(
    trees: &[Tree],
    started: &mut Started,
    what: Judged,
    to: &Place,
    new: &[u8],
    mode: u32,
) -> Ruling {
    let ruling = match what {
        Judged::Todo => todo(new),
        Judged::Configuration { made_here } => {
            let old = match read(&to.parent, &to.name, MAX_BYTES) {
                Ok((old, _)) => Some(old),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(error),
            };
            let start = match made_here {
                true => &None,
                false => started.entry((to.tree, to.relative())).or_insert_with(|| old.clone()),
            };
            judge(&trees[to.tree], &to.directory, start.as_deref(), old.as_deref(), new)
        }
    };
    if let Err(rule) = ruling {
        return Ok(Err(rule));
    }
    write(&to.parent, &to.name, new, mode)?;
    Ok(Ok(()))
}

/// Whether the list of a rebase makes `git rebase --continue` outside run nothing: it has no line that says `exec`.
fn todo(list: &[u8]) -> Result<(), String> {
    let executes = |line: &[u8]| {
        let first = line
            .trim_ascii_start()
            .split(|byte| !byte.is_ascii_alphanumeric())
            .next();
        matches!(first, Some(b"x" | b"exec"))
    };
    match list.split(|byte| *byte == b'\n').any(executes) {
        true => Err("git: `exec` in the list of a rebase would run when the rebase is continued outside".to_owned()),
        false => Ok(()),
    }
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

/// What the configuration of a tree's own repository names, with why; so that it is not changed. Where a name of `protected` is a link to
/// another place in the tree, that place is protected too.
pub(super) fn programs(trees: &[Tree], tree: usize, git: bool, protected: &[PathBuf]) -> Vec<(PathBuf, String)> {
    let mut found = Found {
        tree: &trees[tree],
        paths: Vec::new(),
    };
    for name in protected {
        let why = format!("filesystem.protect: {} leads here", name.display());
        found.add_targets(&found.tree.path.join(name), &why);
    }
    if !git {
        return found.paths;
    }
    for repository in repositories(trees, tree) {
        found.add_hooks(trees, &repository.join("hooks"), "git: its hooks are kept here", false);
        for name in ["config", "config.worktree"] {
            found.add_configuration(trees, &repository.join(name), MAX_INCLUDES);
        }
    }
    found.paths
}

/// What must not change in a tree because something outside runs or reads it.
struct Found<'t> {
    tree: &'t Tree,
    paths: Vec<(PathBuf, String)>,
}

impl Found<'_> {
    /// Adds a path as seen inside, if it lies in the tree, with everything it leads to. What does not exist counts only if `missing`.
    fn add(&mut self, path: &Path, why: &str, missing: bool) {
        let Ok(relative) = path.strip_prefix(&self.tree.path) else {
            return;
        };
        let there = rustix::fs::statat(&self.tree.root, relative, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let known = self.paths.iter().any(|(path, _)| path == relative);
        if relative.as_os_str().is_empty() || !there && !missing || known || self.paths.len() >= MAX_PROGRAMS {
            return;
        }
        self.paths.push((relative.to_owned(), why.to_owned()));
        self.add_targets(path, why);
    }

    /// Adds what a path leads to when it, or a directory on its way, is a symbolic link.
    fn add_targets(&mut self, path: &Path, why: &str) {
        if let Ok(target) = std::fs::read_link(path)
            && let Some(target) = path
                .parent()
                .and_then(|above| join(above, target.as_os_str().as_bytes()))
        {
            self.add(&target, why, true);
        }
        if let Ok(real) = std::fs::canonicalize(path)
            && real != path
        {
            self.add(&real, why, true);
        }
    }

    /// Adds a directory of hooks, where it lies in the tree, and what hooks in it lead to.
    fn add_hooks(&mut self, trees: &[Tree], directory: &Path, why: &str, itself: bool) {
        match itself {
            true => self.add(directory, why, true),
            false => self.add_targets(directory, why),
        }
        // The hooks that husky makes run the files of the same names one directory above.
        if itself
            && directory.file_name().is_some_and(|name| name == "_")
            && let Some(above) = directory.parent()
        {
            self.add(above, why, true);
        }
        if containing(trees, directory).is_none() {
            return;
        }
        for entry in std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .take(MAX_PROGRAMS)
        {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                self.add_targets(&entry.path(), "git: a hook leads here");
            }
        }
    }

    /// Adds what a configuration names, and what those name that it includes.
    fn add_configuration(&mut self, trees: &[Tree], path: &Path, includes: u32) {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return;
        };
        let open = containing(trees, directory).map(|(index, inside)| open_beneath(&trees[index], inside));
        let Some(Ok(opened)) = open else { return };
        let Ok((bytes, _)) = read(&opened, name, MAX_BYTES) else {
            return;
        };
        let worktree = self.tree.path.clone();
        for (key, value) in gitconfig::programs(&bytes) {
            if key.starts_with("include") {
                let Some(included) = join(directory, &value).filter(|_| includes > 0) else {
                    continue;
                };
                self.add(&included, "git: its configuration includes it", true);
                self.add_configuration(trees, &included, includes - 1);
                continue;
            }
            let why = format!("git: {key} runs it");
            if key == "core.hookspath" {
                if let Some(hooks) = join(&worktree, &value) {
                    self.add_hooks(trees, &hooks, &why, true);
                }
                continue;
            }
            for word in value.split(|byte| byte.is_ascii_whitespace()) {
                let word: Vec<u8> = word
                    .iter()
                    .copied()
                    .filter(|byte| !b"'\"!;&|()".contains(byte))
                    .collect();
                if let Some(path) = join(&worktree, &word) {
                    self.add(&path, &why, false);
                }
            }
        }
    }
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
pub(super) fn read(directory: &OwnedFd, name: &OsStr, limit: u64) -> Result<(Vec<u8>, u32), Errno> {
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
