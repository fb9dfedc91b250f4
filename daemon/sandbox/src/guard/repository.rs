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

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::caller::errno;
use super::place::{Place, Tree, containing, open_beneath};
use super::rules::{Look, same_name};
use super::{gitconfig, index, state};
use crate::spec::Program;

/// Longest configuration that is read, in bytes; real ones have a few KiB.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Why a longer one is refused.
pub(super) const TOO_LONG: &str = "git: a configuration or list of more than 1 MiB";

/// Why a repository that was without configuration gets none that says where to push.
const NO_REMOTES: &str = "git configuration: a repository that had none is not given remotes";

/// Longest file that names a repository, in bytes: a path and a few words.
const MAX_POINTER_BYTES: u64 = 8192;

/// Files of the project that its repository's configuration names, at most: each is compared with the path of every change.
const MAX_PROGRAMS: usize = 256;

/// How deep configurations include others: git's own bound (`MAX_INCLUDE_DEPTH` of git's config.c).
const MAX_INCLUDES: u32 = 10;

/// Where what a remote calls a local path may not be: everybody writes there.
const SHARED: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Names without which a directory is no repository, or one without configuration.
pub(super) const TELLING: [&str; 5] = ["config", "HEAD", "objects", "refs", "worktrees"];

/// What configurations were before their first change in this sandbox: several harmless steps may make a change that is none.
#[derive(Debug)]
pub(super) struct Started {
    /// By the device and inode of their directory, which can get another name, and their name.
    known: HashMap<(u64, u64, OsString), Option<Vec<u8>>>,
    /// Whether configuration outside the repositories names programs in their working trees.
    named_everywhere: bool,
}

impl Started {
    pub fn new(named_everywhere: bool) -> Self {
        Started {
            known: HashMap::new(),
            named_everywhere,
        }
    }

    /// Remembers the configuration in a directory, if it has one and none is remembered.
    pub fn note(&mut self, directory: &OwnedFd) {
        let name = OsStr::new("config");
        if let Ok(key) = key(directory, name)
            && !self.known.contains_key(&key)
        {
            let present = read(directory, name, MAX_BYTES).ok();
            self.known.insert(key, present.map(|(bytes, _)| bytes));
        }
    }

    /// A directory is gone, and its number may be another's.
    pub fn forget(&mut self, directory: (u64, u64)) {
        self.known
            .retain(|(device, inode, _), _| (*device, *inode) != directory);
    }

    /// Whether the configuration in a directory is remembered.
    pub fn knows(&self, directory: &OwnedFd) -> bool {
        key(directory, OsStr::new("config")).is_ok_and(|key| self.known.contains_key(&key))
    }

    fn get(&self, directory: &OwnedFd) -> Option<&[u8]> {
        let key = key(directory, OsStr::new("config")).ok()?;
        self.known.get(&key)?.as_deref()
    }
}

fn key(directory: &OwnedFd, name: &OsStr) -> Result<(u64, u64, OsString), Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino, name.to_ascii_lowercase()))
}

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
    /// What git notes about something unfinished.
    State,
    /// A repository's index.
    Index,
}

impl Judged {
    fn max_bytes(self) -> u64 {
        match self {
            Judged::Configuration { .. } | Judged::State => MAX_BYTES,
            Judged::Index => index::MAX_BYTES,
        }
    }
}

/// Carries out the renaming of `from` to a judged file `to`.
pub(super) fn replace(trees: &[Tree], started: &mut Started, what: Judged, from: &Place, to: &Place) -> Ruling {
    let (new, mode) = match read(&from.parent, &from.name, what.max_bytes()) {
        Ok(file) => file,
        Err(Errno::TOOBIG) => {
            return Ok(Err(match what {
                Judged::Index => format!("git: an index of more than {} MiB", index::MAX_BYTES >> 20),
                Judged::Configuration { .. } | Judged::State => TOO_LONG.to_owned(),
            }));
        }
        Err(error) => return Err(error),
    };
    let times = times(&from.parent, &from.name)?;
    let published = publish(trees, started, what, to, &new, mode)?;
    if published.is_ok() {
        // Git takes files for unchanged that are older than its index: this one must not be younger than what it was made of.
        rustix::fs::utimensat(&to.parent, &to.name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
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
        Judged::State => state::judge(&to.name, new),
        Judged::Index => index::judge(new),
        Judged::Configuration { made_here } => {
            let old = match read(&to.parent, &to.name, MAX_BYTES) {
                Ok((old, _)) => Some(old),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(error),
            };
            let everywhere = started.named_everywhere;
            let start = match made_here {
                true => &None,
                false => started
                    .known
                    .entry(key(&to.parent, &to.name)?)
                    .or_insert_with(|| old.clone()),
            };
            let plain = same_name(&to.name, "config");
            // An earlier run may have taken its configuration away, and its remotes with it.
            let headed = || rustix::fs::statat(&to.parent, "HEAD", AtFlags::SYMLINK_NOFOLLOW).is_ok();
            let lost = plain && !made_here && start.is_none() && headed();
            let addresses = |config: &[u8]| gitconfig::addresses(config);
            match lost && addresses(new) > 0 {
                true => Err(NO_REMOTES.to_owned()),
                // To those of the configuration proper they would be added: a push goes to all addresses of a remote.
                false if !plain && addresses(new) > old.as_deref().map_or(0, addresses) => {
                    Err("git configuration: a remote is not added for one worktree".to_owned())
                }
                false => {
                    let present = (start.as_deref(), old.as_deref());
                    let made = if made_here { Made::Here } else { Made::Before };
                    judge(trees, to, present, new, made, everywhere)
                }
            }
        }
    };
    if let Err(rule) = ruling {
        return Ok(Err(rule));
    }
    write(&to.parent, &to.name, new, mode)?;
    Ok(Ok(()))
}

/// Looks at the index and configuration of a directory that is about to become a repository, and makes them nobody's but init's.
pub(super) fn adopt(trees: &[Tree], started: &Started, place: &Place) -> Ruling {
    match read(&place.parent, OsStr::new("index"), index::MAX_BYTES) {
        Ok((bytes, mode)) => {
            if let Err(rule) = index::judge(&bytes) {
                return Ok(Err(rule));
            }
            let times = times(&place.parent, OsStr::new("index"))?;
            write(&place.parent, OsStr::new("index"), &bytes, mode)?;
            rustix::fs::utimensat(&place.parent, "index", &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Err(Errno::NOENT) => {}
        Err(_) => {
            return Ok(Err(
                "git: what would become a repository here has an unreadable index".to_owned()
            ));
        }
    }
    let name = OsStr::new("config");
    let (bytes, mode) = match read(&place.parent, name, MAX_BYTES) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Ok(())),
        Err(_) => {
            return Ok(Err(
                "git: what would become a repository here has an unreadable configuration".to_owned(),
            ));
        }
    };
    // One that only lacked a part of itself for a while is not new.
    let start = started.get(&place.parent);
    if started.knows(&place.parent) && start.is_none() && gitconfig::addresses(&bytes) > 0 {
        return Ok(Err(NO_REMOTES.to_owned()));
    }
    let made = if started.knows(&place.parent) {
        Made::Before
    } else {
        Made::Here
    };
    if let Err(rule) = judge(trees, place, (start, start), &bytes, made, started.named_everywhere) {
        return Ok(Err(rule));
    }
    write(&place.parent, name, &bytes, mode)?;
    Ok(Ok(()))
}

/// Whose a repository is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Here,
    Before,
}

/// Judges a configuration of the repository that `place` lies in, by what it was at the start and before this change.
fn judge(
    trees: &[Tree],
    place: &Place,
    (start, old): (Option<&[u8]>, Option<&[u8]>),
    new: &[u8],
    made: Made,
    named_everywhere: bool,
) -> Result<(), String> {
    let tree = &trees[place.tree];
    let repository = tree.path.join(&place.directory);
    let worktree = match repository.file_name() {
        Some(name) if name == ".git" => repository.parent().unwrap_or(&repository),
        _ => &repository,
    };
    let inside = |path: Option<PathBuf>| path.is_some_and(|path| path.starts_with(&tree.path));
    let made_here = made == Made::Here;
    let plain = read(&place.parent, OsStr::new("config"), MAX_BYTES)
        .ok()
        .map(|(bytes, _)| bytes);
    let before = [start, old, plain.as_deref()];
    let of_submodule = is_of_submodule(trees, place);
    let worktree_allowed = |value: &[u8]| {
        let Some(root) = join(&repository, value).filter(|path| path.starts_with(&tree.path)) else {
            return false;
        };
        let known = |config: &&[u8]| {
            gitconfig::value(config, "core.worktree")
                .and_then(|value| join(&repository, &value))
                .as_ref()
                == Some(&root)
        };
        // What a relative name leads to moves with the working tree.
        let moves = || named_everywhere || before.iter().flatten().any(|config| names_relative(config));
        before.iter().flatten().any(known)
            || (made_here || of_submodule && !moves()) && leads_back(trees, &root, &repository)
    };
    let worktree_was_its_own = |value: &[u8]| (made_here || of_submodule) && inside(join(&repository, value));
    let local_url_allowed = |value: &[u8]| {
        let value = value.strip_prefix(b"file://").unwrap_or(value);
        let path = join(worktree, value);
        let shared = |path: &PathBuf| SHARED.iter().any(|shared| path.starts_with(shared));
        inside(path.clone()) || path.is_some_and(|path| !shared(&path))
    };
    let linked = repository
        .parent()
        .and_then(Path::file_name)
        .is_some_and(|name| same_name(name, "worktrees"));
    let has_worktree = linked || of_submodule || repository.file_name().is_some_and(|name| same_name(name, ".git"));
    let place = gitconfig::Place {
        worktree_allowed: &worktree_allowed,
        worktree_was_its_own: &worktree_was_its_own,
        made_here,
        bare_allowed: made_here || !has_worktree || before.into_iter().flatten().any(gitconfig::is_bare),
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

/// Whether a configuration's directory is a submodule's: below `modules` of a repository.
fn is_of_submodule(trees: &[Tree], place: &Place) -> bool {
    let view = Look {
        trees,
        tree: place.tree,
    };
    let modules = |path: &&Path| path.file_name().is_some_and(|name| same_name(name, "modules"));
    let above = |path: &Path| path.parent().is_some_and(|repository| view.is_repository(repository));
    place.directory.ancestors().skip(1).filter(modules).any(above)
}

/// Whether the `.git` of a working tree is a file that names this repository.
fn leads_back(trees: &[Tree], root: &Path, repository: &Path) -> bool {
    let text = contents(trees, &root.join(".git"));
    let target = text.as_deref().and_then(|text| text.strip_prefix(b"gitdir:"));
    target.and_then(|target| join(root, target.trim_ascii())).as_deref() == Some(repository)
}

/// Whether a configuration names a program by a path that begins at the working tree.
fn names_relative(config: &[u8]) -> bool {
    gitconfig::programs(config).iter().any(|(key, value)| {
        let mut words = value.split(|byte| byte.is_ascii_whitespace());
        match key == "core.hookspath" {
            true => !value.starts_with(b"/") && !value.starts_with(b"~"),
            false => words.any(|word| word.contains(&b'/') && !word.starts_with(b"/") && !word.starts_with(b"~")),
        }
    })
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
pub(super) fn programs(
    trees: &[Tree],
    tree: usize,
    git: bool,
    protected: &[PathBuf],
    outside: &[Program],
) -> Vec<(PathBuf, String)> {
    let mut found = Found {
        tree: &trees[tree],
        worktrees: vec![trees[tree].path.clone()],
        paths: Vec::new(),
    };
    for name in protected {
        let why = format!("filesystem.protect: {} leads here", name.display());
        found.add_targets(&found.tree.path.join(name), &why);
    }
    if !git {
        return found.paths;
    }
    for program in outside {
        found.add(&found.tree.path.join(&program.path), &program.why, true);
    }
    for repository in repositories(trees, tree, Path::new("")) {
        found.add_repository(trees, &repository);
    }
    found.paths
}

/// The same for another working tree in a tree, checked out from these repositories: paths below its root, relative to that. `everywhere`: what
/// every working tree has.
pub(super) fn programs_below(
    trees: &[Tree],
    tree: usize,
    root: &Path,
    repositories: &[PathBuf],
    everywhere: &[(PathBuf, String)],
) -> Vec<(PathBuf, String)> {
    let whole = trees[tree].path.join(root);
    let mut found = Found {
        tree: &trees[tree],
        worktrees: vec![whole.clone()],
        paths: Vec::new(),
    };
    for (path, why) in everywhere {
        found.add(&whole.join(path), why, true);
    }
    for repository in repositories {
        found.add_repository(trees, repository);
    }
    let relative = |(path, why): (PathBuf, String)| Some((path.strip_prefix(root).ok()?.to_owned(), why));
    let below = found.paths.into_iter().filter_map(relative);
    below.filter(|(path, _)| !path.as_os_str().is_empty()).collect()
}

/// What must not change in a tree because something outside runs or reads it.
struct Found<'t> {
    tree: &'t Tree,
    /// Where relative names begin.
    worktrees: Vec<PathBuf>,
    paths: Vec<(PathBuf, String)>,
}

impl Found<'_> {
    fn add_repository(&mut self, trees: &[Tree], repository: &Path) {
        self.add_hooks(trees, &repository.join("hooks"), "git: its hooks are kept here", false);
        for name in ["config", "config.worktree"] {
            self.add_configuration(trees, &repository.join(name), MAX_INCLUDES);
        }
    }

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
        if let Some(root) = gitconfig::value(&bytes, "core.worktree").and_then(|value| join(directory, &value)) {
            self.worktrees.push(root);
        }
        let worktrees = self.worktrees.clone();
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
                for hooks in worktrees.iter().filter_map(|worktree| join(worktree, &value)) {
                    self.add_hooks(trees, &hooks, &why, true);
                }
                continue;
            }
            for word in gitconfig::words(&value) {
                // A word without a slash is rarely a file of the project; one with it may not be there yet.
                for path in worktrees.iter().filter_map(|worktree| join(worktree, &word)) {
                    self.add(&path, &why, word.contains(&b'/'));
                }
            }
        }
    }
}

/// The directories of the repository that a working tree is checked out from, as seen inside: its own, and the one it shares.
pub(super) fn repositories(trees: &[Tree], tree: usize, inside: &Path) -> Vec<PathBuf> {
    let Ok(root) = open_beneath(&trees[tree], inside) else {
        return Vec::new();
    };
    let whole = trees[tree].path.join(inside);
    let own = whole.join(".git");
    let own = match rustix::fs::statat(&root, ".git", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            let pointer = read(&root, OsStr::new(".git"), MAX_POINTER_BYTES);
            let target = pointer.ok().and_then(|(text, _)| {
                let target = text.strip_prefix(b"gitdir:")?.trim_ascii().to_vec();
                join(&whole, &target)
            });
            match target {
                Some(target) => target,
                None => return Vec::new(),
            }
        }
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
            match rustix::fs::readlinkat(&root, ".git", Vec::new()) {
                Ok(target) => join(&whole, target.as_bytes()).unwrap_or(own),
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

/// The contents of a file in one of the trees, given as seen inside.
pub(super) fn contents(trees: &[Tree], path: &Path) -> Option<Vec<u8>> {
    let (index, inside) = containing(trees, path.parent()?)?;
    let directory = open_beneath(&trees[index], inside).ok()?;
    let (bytes, _) = read(&directory, path.file_name()?, MAX_BYTES).ok()?;
    Some(bytes)
}

/// A path as written in `directory`, without `.` and `..`. `None` for what is no path.
pub(super) fn join(directory: &Path, value: &[u8]) -> Option<PathBuf> {
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

/// When a file was read and changed last.
fn times(directory: &OwnedFd, name: &OsStr) -> Result<Timestamps, Errno> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let moment = |seconds: i64, nanos: i64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    };
    Ok(Timestamps {
        last_access: moment(stat.st_atime as i64, stat.st_atime_nsec as i64),
        last_modification: moment(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
    })
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
