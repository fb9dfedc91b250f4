//! Protected files that had other names before the sandbox began.
//!
//! Rules go by names. Inside, nobody gives a protected file a second one (`act.rs`), but one that it has already would be a way to write it. So
//! those that have several are looked for at the start, and known by their numbers.
//!
//! Deliberately absent: names that somebody outside gives later, files of nested repositories (there is no list of those), and what lies in
//! directories that are read-only or hidden, which can be large.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use super::place::{Place, Tree, containing, open_beneath};
use super::repository;

/// Entries of directories that are looked at for one sandbox, at most.
const MAX_LOOKED_AT: usize = 10_000;

/// In a repository: what `rules.rs` protects whatever it holds, and the configuration, which is judged when it gets new contents.
const OF_GIT: [&str; 7] = [
    "config",
    "config.worktree",
    "commondir",
    "hooks",
    "info/attributes",
    "objects/info/alternates",
    "objects/info/http-alternates",
];

/// Where the repositories of submodules and linked worktrees are.
const INNER: [&str; 2] = ["modules", "worktrees"];

/// What is known of them.
#[derive(Debug)]
pub(super) struct Aliases {
    /// By device and inode: where it is protected.
    known: HashMap<(u64, u64), Vec<Protected>>,
    /// Entries that may still be looked at.
    left: usize,
}

/// A protected place.
#[derive(Debug)]
struct Protected {
    tree: usize,
    path: PathBuf,
    rule: String,
}

impl Aliases {
    pub fn new() -> Self {
        Aliases {
            known: HashMap::new(),
            left: MAX_LOOKED_AT,
        }
    }

    /// Looks at a file that a rule protects in a tree, or at the files of a directory.
    pub fn look(&mut self, trees: &[Tree], tree: usize, path: &Path, rule: &str) {
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            match self.note(trees, tree, &path, rule) {
                Some(FileType::Directory) => waiting.extend(self.entries(&trees[tree], &path)),
                _ if self.left == 0 => return,
                _ => {}
            }
        }
    }

    /// Looks at a file only.
    pub fn look_at_file(&mut self, trees: &[Tree], tree: usize, path: &Path, rule: &str) {
        self.note(trees, tree, path, rule);
    }

    /// Looks at what makes git run programs, in the repositories that a tree is checked out from.
    pub fn look_at_git(&mut self, trees: &[Tree], tree: usize) {
        self.look_at_file(
            trees,
            tree,
            Path::new(".git"),
            "git: .git makes this directory a repository",
        );
        let mut waiting = repository::repositories(trees, tree, Path::new(""));
        while let Some(whole) = waiting.pop().filter(|_| self.left > 0) {
            let Some((tree, inside)) = containing(trees, &whole) else {
                continue;
            };
            for name in OF_GIT {
                let rule = format!("git: {name} of a repository");
                self.look(trees, tree, &inside.join(name), &rule);
            }
            // The names of submodules may hold slashes: what is none is a directory of some.
            let is_one = ["config", "commondir"].map(|name| stat(&trees[tree], &inside.join(name)).is_some());
            let inner = match is_one.contains(&true) {
                true => INNER.iter().map(|name| inside.join(name)).collect(),
                false => self.entries(&trees[tree], inside),
            };
            let inner = inner.into_iter().map(|path| trees[tree].path.join(path));
            waiting.extend(inner.filter(|path| is_directory(trees, path)));
        }
    }

    /// The rule by which what a place names is not changed, because it is protected under another name.
    pub fn refuses(&self, place: &Place) -> Option<String> {
        if self.known.is_empty() {
            return None;
        }
        let stat = rustix::fs::statat(&place.parent, &place.name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let protected = self.known.get(&(stat.st_dev, stat.st_ino))?;
        let path = place.relative();
        // By its own name the rule for that says what may be done.
        if protected.iter().any(|own| own.tree == place.tree && own.path == path) {
            return None;
        }
        let Protected { path, rule, .. } = protected.first()?;
        Some(format!("{rule}: this is another name of {}", path.display()))
    }

    /// What had a number is gone.
    pub fn forget(&mut self, identity: (u64, u64)) {
        self.known.remove(&identity);
    }

    fn note(&mut self, trees: &[Tree], tree: usize, path: &Path, rule: &str) -> Option<FileType> {
        let stat = stat(&trees[tree], path)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::RegularFile && stat.st_nlink > 1 {
            let places = self.known.entry((stat.st_dev, stat.st_ino)).or_default();
            places.push(Protected {
                tree,
                path: path.to_owned(),
                rule: rule.to_owned(),
            });
        }
        Some(kind)
    }

    /// What a directory holds, but for samples of hooks, which nothing executes.
    fn entries(&mut self, tree: &Tree, path: &Path) -> Vec<PathBuf> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let entries = open_beneath(tree, path)
            .and_then(|directory| rustix::fs::openat(&directory, ".", flags, Mode::empty()))
            .and_then(Dir::new);
        let mut found = Vec::new();
        for entry in entries.into_iter().flatten().flatten().take(self.left) {
            self.left -= 1;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") && !name.ends_with(b".sample") {
                found.push(path.join(OsStr::from_bytes(name)));
            }
        }
        found
    }
}

fn stat(tree: &Tree, path: &Path) -> Option<Stat> {
    rustix::fs::statat(&tree.root, path, AtFlags::SYMLINK_NOFOLLOW).ok()
}

fn is_directory(trees: &[Tree], whole: &Path) -> bool {
    containing(trees, whole)
        .and_then(|(tree, inside)| stat(&trees[tree], inside))
        .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
