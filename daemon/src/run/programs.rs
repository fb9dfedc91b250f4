//! What git makes run outside by configuration that the sandbox does not see: the user's own, the machine's, and that of a repository that the
//! workspace is only a part of. As far as it could lie in the workspace, it must not be changed there.
//!
//! Read by hand, like the repository of a linked worktree: a command could have left any of these files behind, and git would act on them. What
//! is misread protects too much or too little of the workspace, and grants nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use fumehood_sandbox::spec::Program;
use fumehood_sandbox::{git_programs, git_value, git_words};

use super::worktree::read;

/// Files that are read, at most.
const MAX_FILES: usize = 64;

/// How deep configurations include others: git's own bound (`MAX_INCLUDE_DEPTH` of git's config.c).
const MAX_INCLUDES: u32 = 10;

/// Names in the workspace, at most.
const MAX_PROGRAMS: usize = 256;

/// Names by which git runs hooks (githooks(5)): directories cannot be listed by the daemon.
const HOOKS: [&str; 20] = [
    "applypatch-msg",
    "pre-applypatch",
    "post-applypatch",
    "pre-commit",
    "pre-merge-commit",
    "prepare-commit-msg",
    "commit-msg",
    "post-commit",
    "pre-rebase",
    "post-checkout",
    "post-merge",
    "pre-push",
    "pre-receive",
    "update",
    "post-receive",
    "post-update",
    "reference-transaction",
    "pre-auto-gc",
    "post-rewrite",
    "post-index-change",
];

/// For whom is looked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The workspace, without symbolic links.
    pub workspace: &'a Path,
    /// The user, whose git it is.
    pub uid: u32,
    /// That user's home.
    pub home: &'a Path,
    /// `XDG_CONFIG_HOME`, where the caller says it.
    pub config_home: Option<&'a Path>,
}

/// Everything of the kind. Blocks on the file system.
pub fn programs(asked: Asked<'_>) -> Vec<Program> {
    let mut found = Found {
        asked,
        files: 0,
        programs: Vec::new(),
    };
    let config_home = asked
        .config_home
        .map_or_else(|| asked.home.join(".config"), Path::to_owned);
    for path in [
        PathBuf::from("/etc/gitconfig"),
        config_home.join("git/config"),
        asked.home.join(".gitconfig"),
    ] {
        found.read(&path, &[], MAX_INCLUDES);
    }
    // Names for every repository hold for the one around the workspace as well; within it init sees to them.
    let everywhere: Vec<Program> = found
        .programs
        .iter()
        .filter(|one| one.path.is_relative())
        .cloned()
        .collect();
    for root in asked.workspace.ancestors() {
        let Some(directory) = git_directory(root) else {
            continue;
        };
        let mut directories = vec![directory.clone()];
        if let Some(common) = read(&directory.join("commondir")) {
            directories.push(join(&directory, common.trim_ascii(), asked.home));
        }
        let mut roots = vec![root.to_owned()];
        let named = directories.iter().filter_map(|directory| {
            let value = git_value(&read(&directory.join("config"))?, "core.worktree")?;
            Some(join(directory, &value, asked.home))
        });
        roots.extend(named);
        for (root, program) in roots
            .iter()
            .flat_map(|root| everywhere.iter().map(move |one| (root, one)))
        {
            found.add(&root.join(&program.path), &program.why);
        }
        for directory in &directories {
            found.add_hooks(&directory.join("hooks"), "git: a hook leads here");
            for name in ["config", "config.worktree"] {
                found.read(&directory.join(name), &roots, MAX_INCLUDES);
            }
        }
        break;
    }
    found.programs
}

struct Found<'a> {
    asked: Asked<'a>,
    files: usize,
    programs: Vec<Program>,
}

impl Found<'_> {
    /// Reads a configuration. `roots`: where relative names begin; none for what holds in every repository.
    fn read(&mut self, path: &Path, roots: &[PathBuf], includes: u32) {
        const INCLUDED: &str = "git: its configuration is read from here";
        self.files += 1;
        if self.files > MAX_FILES {
            return;
        }
        self.add(path, INCLUDED);
        let Ok(real) = path.canonicalize() else { return };
        let trusted = |metadata: std::fs::Metadata| {
            metadata.uid() == self.asked.uid || metadata.uid() == 0 || metadata.mode() & 0o004 != 0
        };
        // Root's daemon could read what this user cannot.
        if !real.metadata().is_ok_and(trusted) {
            return;
        }
        let Some(bytes) = read(&real) else { return };
        for (key, value) in git_programs(&bytes) {
            if key.starts_with("include") {
                if includes > 0 && !value.is_empty() {
                    // Beside the file as it is named, which may be a link.
                    let included = join(path.parent().unwrap_or(path), &value, self.asked.home);
                    self.read(&included, roots, includes - 1);
                }
                continue;
            }
            let why = format!("git: {key} runs it");
            if key == "core.hookspath" {
                self.add_named(&value, roots, &why, true);
                continue;
            }
            for word in git_words(&value) {
                // What has no slash is looked for among the programs of the machine.
                if word.contains(&b'/') {
                    self.add_named(&word, roots, &why, false);
                }
            }
        }
    }

    fn add_named(&mut self, value: &[u8], roots: &[PathBuf], why: &str, hooks: bool) {
        let absolute = value.starts_with(b"/") || value.starts_with(b"~");
        if !absolute && roots.is_empty() {
            self.add_everywhere(value, why, hooks);
            return;
        }
        let nowhere = [PathBuf::from("/")];
        for root in if absolute { &nowhere } else { roots } {
            let path = join(root, value, self.asked.home);
            self.add(&path, why);
            if hooks {
                self.add_hooks(&path, why);
                if let Some(above) = husky(&path) {
                    self.add(above, why);
                }
            }
        }
    }

    /// A name in the working tree of every repository.
    fn add_everywhere(&mut self, value: &[u8], why: &str, hooks: bool) {
        let path = join(Path::new(""), value, self.asked.home);
        if path.as_os_str().is_empty() || path.starts_with("..") {
            return;
        }
        if let Some(above) = husky(&path).filter(|above| hooks && !above.as_os_str().is_empty()) {
            self.push(above.to_owned(), why);
        }
        self.push(path, why);
    }

    /// What hooks of a directory lead to.
    fn add_hooks(&mut self, directory: &Path, why: &str) {
        for hook in HOOKS.iter().map(|name| directory.join(name)) {
            if hook.is_symlink() {
                self.add(&hook, why);
            }
        }
    }

    /// A place, and what it leads to, as far as they lie in the workspace.
    fn add(&mut self, path: &Path, why: &str) {
        let real = path.canonicalize().ok().filter(|real| real != path);
        for path in [Some(path.to_owned()), real].into_iter().flatten() {
            if path.starts_with(self.asked.workspace) && path != self.asked.workspace {
                self.push(path, why);
            }
        }
    }

    fn push(&mut self, path: PathBuf, why: &str) {
        // Git's own files have rules of their own, by which harmless changes are let through.
        let of_git = path.iter().any(|name| name.eq_ignore_ascii_case(".git"));
        let known = self.programs.iter().any(|program| program.path == path);
        if !of_git && !known && self.programs.len() < MAX_PROGRAMS {
            self.programs.push(Program {
                path,
                why: why.to_owned(),
            });
        }
    }
}

/// The hooks that husky makes, in `_`, run the files of the same names one directory above.
fn husky(hooks: &Path) -> Option<&Path> {
    hooks
        .parent()
        .filter(|_| hooks.file_name().is_some_and(|name| name == "_"))
}

/// Where the repository of a working tree is.
fn git_directory(root: &Path) -> Option<PathBuf> {
    let mark = root.join(".git");
    if mark.is_dir() {
        return Some(mark);
    }
    let pointer = read(&mark)?;
    let target = pointer.strip_prefix(b"gitdir:")?.trim_ascii();
    Some(join(root, target, Path::new("/")))
}

/// A path as written in `directory`, without `.` and `..`; `~` is the user's home.
fn join(directory: &Path, value: &[u8], home: &Path) -> PathBuf {
    let path = match value {
        b"~" => home.to_owned(),
        [b'~', b'/', rest @ ..] => home.join(OsStr::from_bytes(rest)),
        _ => directory.join(OsStr::from_bytes(value)),
    };
    let mut joined = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir if joined.file_name().is_some() => {
                joined.pop();
            }
            Component::ParentDir if !joined.has_root() => joined.push(".."),
            Component::CurDir | Component::ParentDir => {}
            component => joined.push(component),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_lies_in_the_workspace_is_found_by_every_configuration_that_git_reads() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let make = |name: &str, text: &str| {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), text).unwrap();
        };
        make(
            "home/.gitconfig",
            "[include]\n\tpath = more\n[core]\n\thooksPath = .husky/_\n\teditor = vim -f\n",
        );
        make(
            "home/more",
            "[core]\n\tfsmonitor = ~/../big/part/own --x\n[diff]\n\texternal = ./tools/diff\n",
        );
        make("home/.config/git/config", "[alias]\n\tx = !../out/x\n");
        make(
            "big/.git/config",
            "[core]\n\tfsmonitor = part/fsm\n\tsshCommand = elsewhere/ssh -i key\n[include]\n\tpath = ../part/shared\n",
        );
        make("big/part/shared", "[gpg]\n\tprogram = ./part/gpg\n");
        let (workspace, home) = (root.join("big/part"), root.join("home"));
        let asked = Asked {
            workspace: &workspace,
            uid: root.metadata().unwrap().uid(),
            home: &home,
            config_home: None,
        };
        let mut paths: Vec<PathBuf> = programs(asked).into_iter().map(|program| program.path).collect();
        paths.sort();
        let mut wanted: Vec<PathBuf> = [".husky", ".husky/_", "tools/diff"].map(PathBuf::from).into();
        wanted.extend(["own", "fsm", "gpg", "shared"].map(|name| workspace.join(name)));
        wanted.sort();
        assert_eq!(paths, wanted);
        // A configuration that is kept in the workspace itself.
        fs::remove_file(home.join(".gitconfig")).unwrap();
        make("big/part/dotfiles/gitconfig", "");
        std::os::unix::fs::symlink(workspace.join("dotfiles/gitconfig"), home.join(".gitconfig")).unwrap();
        let paths: Vec<PathBuf> = programs(asked).into_iter().map(|program| program.path).collect();
        assert!(paths.contains(&workspace.join("dotfiles/gitconfig")), "{paths:?}");
    }
}
