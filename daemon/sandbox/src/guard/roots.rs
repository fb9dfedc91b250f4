//! Repositories other than a tree's own: nested ones, submodules, linked worktrees. What their configuration names, and what the user's own
//! configuration names for every repository, is protected in their working trees.
//!
//! There is no list of them: each is looked up when a change is met below it for the first time, except those that the tree's own
//! repository lists. A working tree stays one for the whole run, wherever it is moved and whatever becomes of its `.git`; one that was made by this
//! run is nobody's yet, and not looked up. What is named may be removed there, with the repository or a worktree; but not made again.
//!
//! Deliberately absent: what a nested repository names outside its own working tree.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::gitconfig;
use super::place::{Tree, containing, open_beneath};
use super::repository::{self, join};
use super::rules::{Change, Kind, starts_with};
use crate::spec::Program;

/// Working trees that are remembered, at most.
const MAX_KNOWN: usize = 10_000;

/// Checkouts of the tree's own repository that are looked up at the start, at most.
const MAX_CHECKOUTS: usize = 256;

/// How deep the repositories of submodules are looked for: their names may hold slashes.
const MAX_DEPTH: u32 = 6;

/// What is protected in the working trees of repositories.
#[derive(Debug)]
pub(super) struct Roots {
    /// In every one, with why.
    everywhere: Vec<(PathBuf, String)>,
    /// Those met so far, by device and inode: paths relative to each, with why.
    known: HashMap<(u64, u64), Vec<(PathBuf, String)>>,
}

impl Roots {
    /// `outside`: what configuration outside the repositories names.
    pub fn new(outside: &[Program]) -> Self {
        let named = outside.iter().filter(|program| program.path.is_relative());
        Roots {
            everywhere: named
                .map(|program| (program.path.clone(), program.why.clone()))
                .collect(),
            known: HashMap::new(),
        }
    }

    /// Looks up the linked worktrees and submodules of the repository that a tree is checked out from.
    pub fn meet_checkouts(&mut self, trees: &[Tree], tree: usize) {
        let mut checkouts = Vec::new();
        for repository in repository::repositories(trees, tree, Path::new("")) {
            for linked in directories(&repository.join("worktrees")) {
                let named = repository::contents(trees, &linked.join("gitdir"));
                let mark = named.and_then(|text| join(&linked, text.trim_ascii()));
                if let Some(root) = mark.as_deref().and_then(Path::parent) {
                    checkouts.push((root.to_owned(), vec![linked, repository.clone()]));
                }
            }
            let mut waiting: Vec<_> = directories(&repository.join("modules"))
                .into_iter()
                .map(|directory| (directory, 0))
                .collect();
            while let Some((directory, depth)) = waiting.pop()
                && checkouts.len() < MAX_CHECKOUTS
            {
                match repository::contents(trees, &directory.join("config")) {
                    Some(config) => {
                        let root =
                            gitconfig::value(&config, "core.worktree").and_then(|value| join(&directory, &value));
                        checkouts.extend(root.map(|root| (root, vec![directory.clone()])));
                        let below = directories(&directory.join("modules"));
                        waiting.extend(below.into_iter().map(|below| (below, depth + 1)));
                    }
                    None if depth < MAX_DEPTH => {
                        waiting.extend(directories(&directory).into_iter().map(|below| (below, depth + 1)));
                    }
                    None => {}
                }
            }
        }
        for (root, repositories) in checkouts.iter().take(MAX_CHECKOUTS) {
            if let Some((index, root)) = containing(trees, root)
                && !root.as_os_str().is_empty()
                && let Some(identity) = identity(&trees[index], root)
            {
                self.meet(trees, index, root, identity, repositories);
            }
        }
    }

    /// The rule by which a change is refused. `born`: whether a `.git` was made by this run.
    pub fn refuses(
        &mut self,
        trees: &[Tree],
        tree: usize,
        names: &[&OsStr],
        change: Change,
        born: impl Fn(&Path) -> bool,
    ) -> Option<String> {
        let mut root = PathBuf::new();
        let mut near = Near::new(&trees[tree]);
        for index in 1..names.len() {
            root.push(names[index - 1]);
            near.enter(names[index - 1]);
            // Among git's own files there is no working tree.
            if super::rules::same_name(names[index - 1], ".git") {
                return None;
            }
            let met = (!self.known.is_empty()).then(|| near.identity("")).flatten();
            let met = met.filter(|here| self.known.contains_key(here));
            let here = match met {
                Some(here) => here,
                None => {
                    if near.identity(".git").is_none() || born(&root.join(".git")) {
                        continue;
                    }
                    let Some(here) = near.identity("") else {
                        continue;
                    };
                    let repositories = repository::repositories(trees, tree, &root);
                    self.meet(trees, tree, &root, here, &repositories);
                    here
                }
            };
            let rest: PathBuf = names[index..].iter().collect();
            for (program, why) in self.known.get(&here).into_iter().flatten() {
                let itself = starts_with(&rest, program) && change != Change::Remove;
                let above = || match change {
                    Change::MoveAway => identity(&trees[tree], &root.join(program)).is_some(),
                    Change::Create(Kind::Link) | Change::Replace(_) => true,
                    _ => false,
                };
                if itself || starts_with(program, &rest) && above() {
                    return Some(why.clone());
                }
            }
        }
        if change == Change::Remove {
            self.forget(&trees[tree], &names.iter().collect::<PathBuf>());
        }
        None
    }

    /// A directory that is about to be removed, and empty: the next one that gets its number is another one.
    fn forget(&mut self, tree: &Tree, path: &Path) {
        if self.known.is_empty() {
            return;
        }
        if let Some(identity) = identity(tree, path)
            && self.known.contains_key(&identity)
            && is_empty(tree, path)
        {
            self.known.remove(&identity);
        }
    }

    fn meet(&mut self, trees: &[Tree], tree: usize, root: &Path, identity: (u64, u64), repositories: &[PathBuf]) {
        if self.known.len() < MAX_KNOWN {
            let named = repository::programs_below(trees, tree, root, repositories, &self.everywhere);
            self.known.insert(identity, named);
        }
    }
}

/// A directory on the way down in a tree. One far down is looked up from one near it, so that a path of thousands of names does not
/// cost the kernel the square of that.
pub(super) struct Near<'t> {
    tree: &'t Tree,
    /// What is looked up from; `None`: the tree's root.
    base: Option<OwnedFd>,
    /// From there to the directory.
    path: PathBuf,
    names: usize,
    /// It is not there any more, and so is nothing below it.
    gone: bool,
}

/// Names that are looked up at once, at most.
const NAMES_AT_ONCE: usize = 16;

impl<'t> Near<'t> {
    pub fn new(tree: &'t Tree) -> Self {
        Near {
            tree,
            base: None,
            path: PathBuf::new(),
            names: 0,
            gone: false,
        }
    }

    /// Goes one name down.
    pub fn enter(&mut self, name: &OsStr) {
        if self.names == NAMES_AT_ONCE {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match rustix::fs::openat(self.base(), &self.path, flags, Mode::empty()) {
                Ok(base) => self.base = Some(base),
                Err(_) => self.gone = true,
            }
            self.path.clear();
            self.names = 0;
        }
        self.path.push(name);
        self.names += 1;
    }

    fn base(&self) -> &OwnedFd {
        self.base.as_ref().unwrap_or(&self.tree.root)
    }

    /// Device and inode of what has a name in it, or of itself.
    pub fn identity(&self, name: &str) -> Option<(u64, u64)> {
        if self.gone {
            return None;
        }
        let path = match name {
            "" => Cow::Borrowed(&self.path),
            name => Cow::Owned(self.path.join(name)),
        };
        let stat = rustix::fs::statat(self.base(), path.as_path(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }
}

fn identity(tree: &Tree, path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statat(&tree.root, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

fn is_empty(tree: &Tree, path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let entries = open_beneath(tree, path)
        .and_then(|directory| rustix::fs::openat(&directory, ".", flags, Mode::empty()))
        .and_then(rustix::fs::Dir::new);
    let dots = [&b"."[..], b".."];
    entries.is_ok_and(|entries| {
        entries
            .flatten()
            .all(|entry| dots.contains(&entry.file_name().to_bytes()))
    })
}

/// The directories in one, as seen inside.
fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).take(MAX_CHECKOUTS).collect()
}
