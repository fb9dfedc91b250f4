//! What must not change in a guarded tree, decided by where a change would happen.
//!
//! Three kinds of places. *Names* that the policy protects, at the root of the tree and of every repository in it: settings by which an
//! editor or an agent runs programs. *Programs* that the repository's own configuration names: hooks kept in the project.
//! And *git's own files*, in every directory that git would take for a repository, whatever it is called: hooks, configuration, and what
//! leads git to another repository's. A directory that becomes a repository by a change is looked at in that moment.
//!
//! All changes of a tree pass through one thread, one after the other, so what is looked up here holds until the change is made: nobody inside
//! can move a directory in between. Who outside does so is not whom this guards against.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::place::{PATH_MAX, Tree, open_beneath};
use super::roots::{Near, Roots};
use super::{index, state};

/// What a change does to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Something new appears under a name that means nothing yet.
    Create(Kind),
    /// What is there gets other contents.
    Write,
    /// What is there gets another mode, owner, time or attribute.
    Attributes,
    /// The name means nothing any more, and what it meant is gone.
    Remove,
    /// The name means nothing any more; what it meant gets another one.
    MoveAway,
    /// The name comes to mean something that exists already under another one.
    Replace(Kind),
}

/// What appears under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// A directory that is a repository and was guarded as one.
    Repository,
    Link,
    /// A FIFO or socket: its reader reads what its writer says.
    Node,
}

/// What is to be done with a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    /// It is refused, because of this.
    Refuse(String),
    /// The name is a repository's configuration: its new contents must be read first.
    Configuration,
    /// A directory becomes a repository by the change: its configuration must be read first.
    Adopt,
    /// The name is the configuration of a linked worktree that is being made: a copy of the repository's own.
    WorktreeConfiguration,
    /// The name is the file by which a linked worktree finds its repository, which can only be the one it lies in.
    CommonDirectory,
    /// The name is the list of what a rebase still has to do, or another file of `state.rs`: its new contents must be read first.
    Todo,
    /// It is the index of a repository, judged by what it is to hold.
    Index,
}

/// The names that make a directory a repository: git asks for the first two and `HEAD` (`is_git_directory` of git's setup.c), which may be that
/// of a linked worktree instead.
const SHAPE: [&str; 4] = ["objects", "refs", "HEAD", "worktrees"];

/// Directories of a repository in which git writes to files that it did not make anew.
const WRITTEN: [&str; 7] = [
    "logs",
    "refs",
    "info",
    "rebase-merge",
    "rebase-apply",
    "sequencer",
    "worktrees",
];

/// Directories that are remembered as roots of repositories, at most; further ones keep their `.git` and their names.
const MAX_ROOTS: usize = 10_000;

/// Entries that a directory may have which becomes a repository; one with more is not looked through.
const MAX_ENTRIES: usize = 10_000;

/// Names of a repository that rules exist for.
const SENSITIVE: [&str; 8] = [
    "config",
    "config.worktree",
    "commondir",
    "hooks",
    "info",
    "objects",
    "remotes",
    "branches",
];

/// The rules of a sandbox.
#[derive(Debug)]
pub(super) struct Rules {
    /// Paths relative to the root of a tree or repository.
    protected: Vec<PathBuf>,
    /// Whether git's files are guarded.
    git: bool,
    /// Per tree: what its repository's configuration names, with why.
    programs: Vec<Vec<(PathBuf, String)>>,
    /// Repositories made in this sandbox: device and inode of their `.git`, or of the directory itself. Nobody outside trusts them yet.
    born: HashSet<(u64, u64)>,
    /// Other repositories in the trees.
    checkouts: RefCell<Roots>,
    /// Directories, by tree and path, that were the root of a repository before this sandbox and from which its `.git`, or which
    /// themselves, were taken away in it. People know them by their paths: names stay protected there, whatever is put in the place.
    roots: HashSet<(usize, PathBuf)>,
    /// When this sandbox began, by the clock of files.
    began: Timespec,
}

impl Rules {
    pub fn new(protected: Vec<PathBuf>, git: bool, programs: Vec<Vec<(PathBuf, String)>>, checkouts: Roots) -> Self {
        Rules {
            protected,
            git,
            programs,
            born: HashSet::new(),
            checkouts: RefCell::new(checkouts),
            roots: HashSet::new(),
            began: clock_gettime(ClockId::RealtimeCoarse),
        }
    }

    /// Judges a change of `path`, relative to the tree's root.
    pub fn judge(&self, trees: &[Tree], tree: usize, path: &Path, change: Change) -> Verdict {
        let view = Look { trees, tree };
        let names: Vec<&OsStr> = path.iter().collect();
        let departs = matches!(change, Change::Remove | Change::MoveAway);
        if departs && self.roots.len() >= MAX_ROOTS && self.makes_more_roots(view, path) {
            return refuse("git: more than 10,000 repositories cannot be moved or taken apart in one run");
        }
        if let Some(rule) = self.protects(view, path, &names, change) {
            return Verdict::Refuse(rule);
        }
        if !self.git {
            return Verdict::Allow;
        }
        let born = |mark: &Path| self.is_born(view, mark);
        match self.checkouts.borrow_mut().refuses(trees, tree, &names, change, born) {
            Some(rule) => Verdict::Refuse(rule),
            None => self.judge_git(view, path, &names, change),
        }
    }

    /// The rule by which a name of the policy, or a program that the repository names, is protected.
    fn protects(&self, view: Look<'_>, path: &Path, names: &[&OsStr], change: Change) -> Option<String> {
        for (protected, why) in self.names_at_root(view.tree) {
            if concerns(view, Path::new(""), path, protected, change) {
                return Some(why.map_or_else(|| by_policy(protected), str::to_owned));
            }
        }
        // A path may have thousands of names: what is put together of them for each is bounded.
        let longest = self.longest_protected();
        let firsts: Vec<Option<&OsStr>> = self.protected.iter().map(|path| path.iter().next()).collect();
        let mut root = PathBuf::new();
        for index in 1..names.len() {
            root.push(names[index - 1]);
            let begins =
                |first: &Option<&OsStr>| first.is_none_or(|first| same(names[index].as_bytes(), first.as_bytes()));
            if !firsts.iter().any(begins) {
                continue;
            }
            // With one name more than any that is protected it is as far below as it would be with all.
            let rest: PathBuf = names[index..].iter().take(longest + 1).collect();
            let concerned = |protected: &&PathBuf| concerns(view, &root, &rest, protected, change);
            if let Some(protected) = self.protected.iter().find(concerned)
                && self.is_root(view, &root)
            {
                return Some(of_repository(protected));
            }
        }
        let (name, above) = (names.last()?, path.parent()?);
        let makes_repository = same_name(name, ".git")
            && matches!(change, Change::Create(Kind::File | Kind::Directory))
            && !above.as_os_str().is_empty();
        // In one that was a repository before nobody could touch them.
        if makes_repository && !self.roots.contains(&(view.tree, above.to_owned())) {
            let older = |protected: &&PathBuf| view.is_older(&above.join(protected), self.began);
            return self
                .protected
                .iter()
                .find(older)
                .map(|protected| of_repository(protected));
        }
        None
    }

    /// How many names the longest path has that the policy protects.
    fn longest_protected(&self) -> usize {
        let lengths = self.protected.iter().map(|protected| protected.iter().count());
        lengths.max().unwrap_or(0)
    }

    /// What is protected at the root of a tree, with why if it is not by the policy.
    fn names_at_root(&self, tree: usize) -> impl Iterator<Item = (&Path, Option<&str>)> {
        let own = self.protected.iter().map(|path| (path.as_path(), None));
        let programs = self.programs[tree].iter();
        own.chain(programs.map(|(path, why)| (path.as_path(), Some(why.as_str()))))
    }

    /// Whether a directory is the root of a repository that there was before this sandbox.
    fn is_root(&self, view: Look<'_>, directory: &Path) -> bool {
        let mark = directory.join(".git");
        !self.roots.is_empty() && self.roots.contains(&(view.tree, directory.to_owned()))
            || view.exists(&mark) && !self.is_born(view, &mark)
    }

    /// The rule by which a directory may not come to be under a name, because what is in it would be a protected name there.
    fn brings(&self, view: Look<'_>, from: &Path, to: &Path) -> Option<String> {
        let names: Vec<&OsStr> = to.iter().collect();
        let holds = |protected: &Path, to: &Path| {
            let rest: PathBuf = protected.iter().skip(to.iter().count()).collect();
            starts_with(protected, to) && !rest.as_os_str().is_empty() && view.holds(from, &rest)
        };
        for (protected, why) in self.names_at_root(view.tree) {
            if holds(protected, to) {
                return Some(why.map_or_else(|| by_policy(protected), str::to_owned));
            }
        }
        // What has more names than a protected path holds none.
        let first = names.len().saturating_sub(self.longest_protected()).max(1);
        for index in first..names.len() {
            let rest: PathBuf = names[index..].iter().collect();
            let root: PathBuf = names[..index].iter().collect();
            if let Some(protected) = self.protected.iter().find(|protected| holds(protected, &rest))
                && self.is_root(view, &root)
            {
                return Some(of_repository(protected));
            }
        }
        // In the place of a repository's root, or of what that was in.
        let placed = self.roots.iter().filter(|(tree, _)| *tree == view.tree);
        for inner in placed.filter_map(|(_, root)| root.strip_prefix(to).ok()) {
            let brought = |protected: &&PathBuf| view.holds(from, &inner.join(protected));
            if let Some(protected) = self.protected.iter().find(brought) {
                return Some(of_repository(protected));
            }
        }
        None
    }

    fn judge_git(&self, view: Look<'_>, path: &Path, names: &[&OsStr], change: Change) -> Verdict {
        let Some(name) = names.last() else {
            return Verdict::Allow;
        };
        if same_name(name, ".git") {
            return self.judge_dot_git(view, path, change);
        }
        for (index, name) in names.iter().enumerate() {
            if !SENSITIVE.iter().any(|sensitive| same_name(name, sensitive)) {
                continue;
            }
            let repository: PathBuf = names[..index].iter().collect();
            if view.is_repository(&repository) {
                match self.judge_inside(view, &repository, &names[index..], change) {
                    Verdict::Allow => {}
                    verdict => return verdict,
                }
            }
        }
        // Git outside writes through a link in its own files: what is to be its log or a message would become somebody's `.bashrc`.
        if matches!(change, Change::Create(Kind::Link) | Change::Replace(Kind::Link)) && view.holder(path).is_some() {
            return refuse("git: a link among its own files is written through when git is used outside");
        }
        // Whatever the directory is called now, it can be moved to where git looks for its list.
        if same_name(name, "git-rebase-todo") || state::is_noted(path) {
            return match change {
                Change::Create(Kind::File) | Change::Write | Change::Replace(Kind::File) => Verdict::Todo,
                Change::Remove | Change::MoveAway | Change::Attributes => Verdict::Allow,
                _ => refuse("git: what it notes about an unfinished rebase can make it run programs"),
            };
        }
        if index::is_index(name) && view.holder(path).is_some() {
            return match change {
                Change::Create(Kind::File) | Change::Write | Change::Replace(Kind::File) => Verdict::Index,
                Change::Remove | Change::MoveAway | Change::Attributes => Verdict::Allow,
                _ => refuse("git: its index is a file"),
            };
        }
        let brings = matches!(change, Change::Replace(Kind::Directory | Kind::Repository));
        if (brings || matches!(change, Change::Create(Kind::Link) | Change::Replace(Kind::Link)))
            && state::is_directory(name)
        {
            return refuse("git: what it notes about an unfinished rebase is not moved to where it looks for that");
        }
        // These mean something also where no repository is yet, or is not seen to be one.
        if same_name(name, "config.worktree") {
            return match change {
                Change::Remove => Verdict::Allow,
                change => configuration(change),
            };
        }
        if same_name(name, "commondir") && !matches!(change, Change::Remove | Change::MoveAway | Change::Attributes) {
            let parent: PathBuf = names[..names.len() - 1].iter().collect();
            return match view.is_linked_worktree(&parent) {
                true => common_directory(change),
                false => refuse("git: commondir leads git to another repository's configuration"),
            };
        }
        let appears = matches!(change, Change::Create(_) | Change::Replace(_));
        if appears && SHAPE.iter().any(|shape| same_name(name, shape)) {
            let parent: PathBuf = names[..names.len() - 1].iter().collect();
            if !view.is_repository(&parent) && view.would_be_repository(&parent, name) {
                return view.ready_for_git(&parent);
            }
        }
        Verdict::Allow
    }

    /// A change of the name `.git` itself.
    fn judge_dot_git(&self, view: Look<'_>, path: &Path, change: Change) -> Verdict {
        let settled = !self.is_born(view, path);
        let own = path.as_os_str() == ".git";
        match change {
            Change::Create(Kind::Directory | Kind::File) | Change::Attributes => Verdict::Allow,
            Change::Write | Change::MoveAway if !settled => Verdict::Allow,
            Change::Remove if !settled || !own => Verdict::Allow,
            _ => refuse("git: .git makes this directory a repository"),
        }
    }

    /// A change of `rest` in the repository `repository`.
    fn judge_inside(&self, view: Look<'_>, repository: &Path, rest: &[&OsStr], change: Change) -> Verdict {
        let is = |index: usize, name: &str| rest.get(index).is_some_and(|found| same_name(found, name));
        let born = self.is_born(view, repository);
        // The workspace's own repository keeps what it has; others may be removed, and with them what they hold.
        let own = !born && (repository.as_os_str() == ".git" || repository.as_os_str().is_empty());
        let removal = change == Change::Remove || change == Change::MoveAway && born;
        if removal && !own {
            return Verdict::Allow;
        }
        let makes_directory = matches!(change, Change::Create(Kind::Directory) | Change::Attributes);
        if is(0, "hooks") {
            let sample = rest.len() == 2 && rest[1].as_bytes().ends_with(b".sample");
            return match rest.len() {
                1 if makes_directory => Verdict::Allow,
                2 if sample && !matches!(change, Change::Create(Kind::Link) | Change::Replace(Kind::Link)) => {
                    Verdict::Allow
                }
                _ => refuse("git: hooks run when git is used outside"),
            };
        }
        if (is(0, "config") || is(0, "config.worktree")) && rest.len() == 1 {
            let linked = is(0, "config.worktree") && view.is_linked_worktree(repository);
            return match change {
                Change::Create(Kind::File) if linked => Verdict::WorktreeConfiguration,
                change => configuration(change),
            };
        }
        if is(0, "commondir") && rest.len() == 1 {
            return match view.is_linked_worktree(repository) {
                true => common_directory(change),
                false => refuse("git: commondir leads git to another repository's configuration"),
            };
        }
        if is(0, "info") {
            let plain = rest.len() > 2 || rest.len() == 2 && !is(1, "attributes");
            return match plain || rest.len() == 1 && (makes_directory || removal) {
                true => Verdict::Allow,
                false => refuse("git: info/attributes chooses the programs that files pass through"),
            };
        }
        if (is(0, "remotes") || is(0, "branches")) && !(rest.len() == 1 && (makes_directory || removal)) {
            return refuse("git: files here name addresses as its configuration does");
        }
        if is(0, "objects") {
            let alternates = rest.len() == 3 && is(1, "info") && (is(2, "alternates") || is(2, "http-alternates"));
            let moved = rest.len() <= 2
                && rest.get(1).is_none_or(|name| same_name(name, "info"))
                && matches!(
                    change,
                    Change::Replace(Kind::Directory | Kind::Repository | Kind::Link) | Change::Create(Kind::Link)
                );
            return match alternates && !born && change != Change::Attributes || moved {
                true => refuse("git: objects/info/alternates takes objects from elsewhere"),
                false => Verdict::Allow,
            };
        }
        Verdict::Allow
    }

    /// Whether a directory may be moved, apart from what both names are. One that holds a link would bring that along into a repository;
    /// and `commondir` of a linked worktree leads two directories up, wherever that then is.
    pub fn may_move(&self, trees: &[Tree], tree: usize, from: &Path, to: &Path) -> Result<(), String> {
        let view = Look { trees, tree };
        if let Some(rule) = self.brings(view, from, to) {
            return Err(rule);
        }
        if !self.git {
            return Ok(());
        }
        let linked = |path: &Path| view.exists(&path.join("commondir"));
        let holds_linked = || {
            let named = from.file_name().is_some_and(|name| same_name(name, "worktrees"));
            named
                && view
                    .entries(from)
                    .is_none_or(|entries| entries.iter().any(|(name, _)| linked(&from.join(name))))
        };
        if from.parent() != to.parent() && linked(from) || holds_linked() {
            return Err("git: a linked worktree's files stay where they find their repository".to_owned());
        }
        let enters = view.holder(to).is_some_and(|holder| !from.starts_with(holder));
        if enters && view.holds_links(vec![from.to_owned()]) {
            return Err(
                "git: what is moved among its own files may hold no link, and no more than 10,000 entries".to_owned(),
            );
        }
        Ok(())
    }

    /// Remembers a repository that was made just now: its `.git`.
    pub fn remember(&mut self, trees: &[Tree], tree: usize, path: &Path) {
        if let Some(identity) = (Look { trees, tree }).identity(path) {
            self.born.insert(identity);
        }
    }

    /// What had a number is gone: the next one that gets it was not made here.
    pub fn forget(&mut self, identity: (u64, u64)) {
        self.born.remove(&identity);
    }

    /// Remembers the root of a repository before its `.git`, or the root itself, gets another name or none.
    pub fn note_departure(&mut self, trees: &[Tree], tree: usize, path: &Path) {
        if let Some(root) = self.departing(Look { trees, tree }, path) {
            self.roots.insert((tree, root.to_owned()));
        }
    }

    /// The root of a repository that a name belongs to which goes.
    fn departing<'p>(&self, view: Look<'_>, path: &'p Path) -> Option<&'p Path> {
        let root = match path.file_name() {
            Some(name) if same_name(name, ".git") => path.parent()?,
            _ => path,
        };
        let mark = root.join(".git");
        (!root.as_os_str().is_empty() && view.exists(&mark) && !self.is_born(view, &mark)).then_some(root)
    }

    /// Whether a departure makes more to remember.
    fn makes_more_roots(&self, view: Look<'_>, path: &Path) -> bool {
        let holds = |(tree, root): &(usize, PathBuf)| *tree == view.tree && root.starts_with(path);
        self.departing(view, path).is_some() || self.roots.iter().any(holds)
    }

    /// Remembers where the roots go that a directory holds which is renamed.
    pub fn note_move(&mut self, tree: usize, from: &Path, to: &Path) {
        let moved = |(of, root): &(usize, PathBuf)| {
            let inner = root.strip_prefix(from).ok().filter(|_| *of == tree)?;
            Some((tree, to.join(inner)))
        };
        let moved: Vec<_> = self.roots.iter().filter_map(moved).collect();
        self.roots.extend(moved);
    }

    /// Whether the repository in a directory was made in this sandbox.
    pub fn made_here(&self, trees: &[Tree], tree: usize, repository: &Path) -> bool {
        self.is_born(Look { trees, tree }, repository)
    }

    fn is_born(&self, view: Look<'_>, path: &Path) -> bool {
        view.identity(path)
            .is_some_and(|identity| self.born.contains(&identity))
    }
}

/// Whether a tree's root is what git takes for a repository.
pub(super) fn is_repository_root(tree: &Tree) -> bool {
    let view = Look {
        trees: std::slice::from_ref(tree),
        tree: 0,
    };
    tree.path.file_name().is_some_and(|name| same_name(name, ".git")) || view.is_repository(Path::new(""))
}

fn refuse(rule: &str) -> Verdict {
    Verdict::Refuse(rule.to_owned())
}

fn configuration(change: Change) -> Verdict {
    match change {
        Change::Create(Kind::File) | Change::Write | Change::Replace(Kind::File) => Verdict::Configuration,
        Change::Attributes => Verdict::Allow,
        Change::Remove | Change::MoveAway => {
            refuse("git: a repository keeps its configuration, which only another one takes the place of")
        }
        _ => refuse("git: a repository's configuration can only be a file, and one that names no program"),
    }
}

fn common_directory(change: Change) -> Verdict {
    match change {
        Change::Create(Kind::File) | Change::Write => Verdict::CommonDirectory,
        Change::Attributes | Change::Remove | Change::MoveAway => Verdict::Allow,
        _ => refuse("git: commondir leads git to another repository's configuration"),
    }
}

/// The rule that protects a name at the root of a tree.
pub(super) fn by_policy(protected: &Path) -> String {
    format!("filesystem.protect: {}", protected.display())
}

/// The rule that protects a name at the root of a repository.
fn of_repository(protected: &Path) -> String {
    format!("{} of a repository", by_policy(protected))
}

/// Whether a change of `path` below `root` changes what `protected` means there.
fn concerns(view: Look<'_>, root: &Path, path: &Path, protected: &Path, change: Change) -> bool {
    if starts_with(path, protected) {
        return true;
    }
    if path.as_os_str().is_empty() || !starts_with(protected, path) {
        return false;
    }
    match change {
        // What is elsewhere could be changed at any time.
        Change::Create(Kind::Link) | Change::Replace(Kind::Link) => true,
        // What comes with a directory is looked at when it is moved.
        Change::Remove | Change::MoveAway | Change::Replace(_) => view.exists(&root.join(protected)),
        Change::Create(_) | Change::Write | Change::Attributes => false,
    }
}

/// Names are compared as a directory does that is set not to tell upper case from lower (the `casefold` feature of ext4 and f2fs), because any may be.
pub(super) fn same_name(name: &OsStr, other: &str) -> bool {
    same(name.as_bytes(), other.as_bytes())
}

fn same(name: &[u8], other: &[u8]) -> bool {
    // Nearly always; and a path may have thousands of names.
    if name.is_ascii() && other.is_ascii() {
        return name.eq_ignore_ascii_case(other);
    }
    folded(name).eq_ignore_ascii_case(&folded(other))
}

/// A name with the characters replaced that Unicode's case folding (`CaseFolding.txt`, C and F) makes ASCII letters of, and without those that
/// the kernel's (fs/unicode) leaves out: `Default_Ignorable_Code_Point` of `DerivedCoreProperties.txt`.
fn folded(name: &[u8]) -> Cow<'_, [u8]> {
    let text = match std::str::from_utf8(name) {
        Ok(text) if !text.is_ascii() => text,
        // What is no text is compared byte by byte.
        _ => return Cow::Borrowed(name),
    };
    let mut folded = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{212A}' => folded.push('k'),
            '\u{17F}' => folded.push('s'),
            '\u{DF}' | '\u{1E9E}' => folded.push_str("ss"),
            '\u{FB00}' => folded.push_str("ff"),
            '\u{FB01}' => folded.push_str("fi"),
            '\u{FB02}' => folded.push_str("fl"),
            '\u{FB03}' => folded.push_str("ffi"),
            '\u{FB04}' => folded.push_str("ffl"),
            '\u{FB05}' | '\u{FB06}' => folded.push_str("st"),
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' => {}
            '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' => {}
            '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' => {}
            '\u{FFF0}'..='\u{FFF8}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}' => {}
            '\u{E0000}'..='\u{E0FFF}' => {}
            other => folded.push(other),
        }
    }
    Cow::Owned(folded.into_bytes())
}

pub(super) fn starts_with(path: &Path, prefix: &Path) -> bool {
    let mut names = path.iter();
    prefix.iter().all(|wanted| {
        names
            .next()
            .is_some_and(|name| same(name.as_bytes(), wanted.as_bytes()))
    })
}

/// A look at a tree.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    pub trees: &'a [Tree],
    pub tree: usize,
}

impl Look<'_> {
    fn stat(self, path: &Path) -> Option<rustix::fs::Stat> {
        let root = &self.trees[self.tree].root;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        if path.as_os_str().len() >= PATH_MAX {
            let above = open_beneath(&self.trees[self.tree], path.parent()?).ok()?;
            return rustix::fs::statat(above, path.file_name()?, AtFlags::SYMLINK_NOFOLLOW).ok();
        }
        rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    fn exists(self, path: &Path) -> bool {
        self.stat(path).is_some()
    }

    /// Whether something is there that was made before a moment, or may have been: not every file system knows.
    fn is_older(self, path: &Path, moment: Timespec) -> bool {
        if !self.exists(path) {
            return false;
        }
        let root = &self.trees[self.tree].root;
        let made = rustix::fs::statx(root, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).ok();
        made.filter(|made| made.stx_mask & StatxFlags::BTIME.bits() != 0)
            .is_none_or(|made| {
                (made.stx_btime.tv_sec, i64::from(made.stx_btime.tv_nsec)) < (moment.tv_sec, moment.tv_nsec)
            })
    }

    /// Whether a directory holds a path, or a link on the way to it.
    fn holds(self, directory: &Path, path: &Path) -> bool {
        let mut at = directory.to_owned();
        for name in path {
            at.push(name);
            match self.stat(&at) {
                None => return false,
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => return true,
                Some(_) => {}
            }
        }
        true
    }

    fn is_directory(self, path: &Path) -> bool {
        self.stat(path)
            .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    fn identity(self, path: &Path) -> Option<(u64, u64)> {
        self.stat(path).map(|stat| (stat.st_dev, stat.st_ino))
    }

    /// Whether git would take a directory for a repository.
    pub fn is_repository(self, path: &Path) -> bool {
        let named = path.file_name().is_some_and(|name| same_name(name, ".git"));
        path.as_os_str().is_empty() && self.trees[self.tree].repository
            || named && self.is_directory(path)
            || self.is_linked_worktree(path)
            || self.has_shape(path, None)
    }

    /// Whether a directory is that of a linked worktree in its repository: `REPOSITORY/worktrees/NAME`.
    fn is_linked_worktree(self, path: &Path) -> bool {
        let Some(worktrees) = path.parent() else { return false };
        let named = worktrees.file_name().is_some_and(|name| same_name(name, "worktrees"));
        named
            && worktrees
                .parent()
                .is_some_and(|repository| self.is_repository(repository))
    }

    /// The repository that a path lies in, not counting the path itself.
    pub fn holder(self, path: &Path) -> Option<&Path> {
        // Each is looked at from near it, so that a path of thousands of names does not cost the square of that; and only what could be one
        // is looked at from the root.
        let mut near = Near::new(&self.trees[self.tree]);
        let mut could_be = vec![true];
        let mut in_worktrees = false;
        let names = path.parent()?.iter();
        for name in names {
            near.enter(name);
            could_be.push(in_worktrees || same_name(name, ".git") || near.identity(SHAPE[0]).is_some());
            in_worktrees = same_name(name, "worktrees");
        }
        let above = path.ancestors().skip(1).zip(could_be.into_iter().rev());
        above
            .filter(|(_, could_be)| *could_be)
            .map(|(above, _)| above)
            .find(|above| self.is_repository(above))
    }

    /// Whether directories hold a symbolic link anywhere, or too much to tell.
    fn holds_links(self, mut waiting: Vec<PathBuf>) -> bool {
        let mut seen = 0;
        while let Some(path) = waiting.pop() {
            let Some(entries) = self.entries(&path) else {
                return true;
            };
            for (name, kind) in entries {
                seen += 1;
                if kind == FileType::Symlink || seen > MAX_ENTRIES {
                    return true;
                }
                if kind == FileType::Directory {
                    waiting.push(path.join(name));
                }
            }
        }
        false
    }

    /// What a directory holds; `None` when it cannot be read.
    fn entries(self, path: &Path) -> Option<Vec<(OsString, FileType)>> {
        let directory = open_beneath(&self.trees[self.tree], path).ok()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&directory, ".", flags, Mode::empty()).ok()?;
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::new(directory).ok()?.take(MAX_ENTRIES + 3) {
            let entry = entry.ok()?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                // Not every file system says it here.
                FileType::Unknown => FileType::from_raw_mode(self.stat(&path.join(name))?.st_mode),
                kind => kind,
            };
            found.push((name.to_owned(), kind));
        }
        Some(found)
    }

    /// Whether `name` is all that a directory lacks to be a repository.
    fn would_be_repository(self, path: &Path, name: &OsStr) -> bool {
        self.has_shape(path, Some(name))
    }

    /// Whether a directory holds what makes a repository, if it also held `more`.
    fn has_shape(self, path: &Path, more: Option<&OsStr>) -> bool {
        let [objects, refs, head, worktrees] = SHAPE
            .map(|shape| move || more.is_some_and(|more| same_name(more, shape)) || self.exists(&path.join(shape)));
        objects() && refs() && (head() || worktrees())
    }

    /// Whether a directory may become a repository: it must hold no hook and nothing that leads elsewhere. Its configuration is left to
    /// the one who makes the change.
    fn ready_for_git(self, path: &Path) -> Verdict {
        if self.exists(&path.join("commondir")) || self.exists(&path.join("info/attributes")) {
            return refuse("git: what would become a repository here leads git to programs");
        }
        let hooks = path.join("hooks");
        if self.exists(&hooks) && !self.only_samples(&hooks) {
            return refuse("git: what would become a repository here has hooks");
        }
        let links = |entries: Vec<(OsString, FileType)>| entries.iter().any(|(_, kind)| *kind == FileType::Symlink);
        let written = WRITTEN.map(|name| path.join(name)).into_iter();
        if self.entries(path).is_none_or(links) || self.holds_links(written.filter(|path| self.exists(path)).collect())
        {
            return refuse(
                "git: what would become a repository here holds links, through which git outside would write",
            );
        }
        Verdict::Adopt
    }

    fn only_samples(self, hooks: &Path) -> bool {
        self.entries(hooks)
            .is_some_and(|entries| entries.iter().all(|(name, _)| name.as_bytes().ends_with(b".sample")))
    }
}
