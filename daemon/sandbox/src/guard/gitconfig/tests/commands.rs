//! The judgement against what git's own commands write.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::{Place, Refused, check, check_run};

type Judge = fn(Option<&[u8]>, &[u8], &Place<'_>) -> Result<(), Refused>;

/// A directory with a bare repository `server.git`, a home, and whatever the commands make.
struct Playground {
    root: tempfile::TempDir,
}

impl Playground {
    fn new() -> Self {
        let playground = Playground {
            root: tempfile::tempdir().expect("a directory"),
        };
        std::fs::create_dir(playground.path("home")).expect("a home");
        for line in [
            "init -q --bare -b main server.git",
            "init -q -b main seed",
            "-C seed commit -q --allow-empty -m first",
            "-C seed branch topic",
            "-C seed push -q ../server.git main topic",
        ] {
            playground.git(".", line);
        }
        playground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn git(&self, folder: &str, line: &str) {
        let output = Command::new("git")
            .args(
                line.split(' ')
                    .map(|word| word.replace("{root}", self.root.path().to_str().expect("UTF-8"))),
            )
            .current_dir(self.path(folder))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_EDITOR", "sh -c 'echo described > \"$1\"' -")
            .envs([
                ("GIT_AUTHOR_NAME", "a"),
                ("GIT_AUTHOR_EMAIL", "a@b"),
                ("GIT_COMMITTER_NAME", "a"),
            ])
            .env("GIT_COMMITTER_EMAIL", "a@b")
            .envs([
                ("GIT_CONFIG_COUNT", "1"),
                ("GIT_CONFIG_KEY_0", "protocol.file.allow"),
                ("GIT_CONFIG_VALUE_0", "always"),
            ])
            .output()
            .expect("these tests need git");
        assert!(
            output.status.success(),
            "git {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Runs each command and has every change of every configuration of the place judged, step by step and in sum.
    fn all_accepted(&self, folder: &str, lines: &[&str]) {
        let start = self.configurations();
        let mut before = start.clone();
        let mut changes = 0;
        for line in lines {
            self.git(folder, line);
            let after = self.configurations();
            for (file, new) in &after {
                let find =
                    |all: &[(PathBuf, Vec<u8>)]| all.iter().find(|(name, _)| name == file).map(|(_, old)| old.clone());
                let old = find(&before);
                changes += usize::from(old.as_ref() != Some(new));
                self.accepted(line, file, check, old.as_deref(), new);
                self.accepted(line, file, check_run, find(&start).as_deref(), new);
            }
            before = after;
        }
        assert!(changes > 0, "no command changed a configuration: {lines:?}");
    }

    fn accepted(&self, line: &str, file: &Path, judge: Judge, old: Option<&[u8]>, new: &[u8]) {
        let root = self.root.path().to_str().expect("UTF-8").as_bytes();
        let file_url = [b"file://", root].concat();
        let local = |path: &[u8]| path.starts_with(root) || path.starts_with(&file_url) || path.starts_with(b"../");
        let place = Place {
            worktree_allowed: &|path| path.starts_with(b"../") || path.starts_with(root),
            worktree_was_its_own: &|path| path.starts_with(b"../") || path.starts_with(root),
            made_here: false,
            bare_allowed: true,
            local_url_allowed: &local,
        };
        if let Err(refused) = judge(old, new, &place) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            panic!(
                "git {line}: {file:?}: {refused}\n{}\n->\n{}",
                text(old.unwrap_or_default()),
                text(new)
            );
        }
    }

    /// Every `config` and `config.worktree` below, with its content.
    fn configurations(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)
                .expect("a directory")
                .map(|entry| entry.expect("an entry"))
            {
                let path = entry.path();
                if entry.file_type().expect("a type").is_dir() {
                    folders.push(path);
                } else if matches!(entry.file_name().to_str(), Some("config" | "config.worktree")) {
                    let content = std::fs::read(&path).expect("a configuration");
                    found.push((path, content));
                }
            }
        }
        found.sort();
        found
    }
}

#[test]
fn repositories_are_made() {
    let playground = Playground::new();
    #[rustfmt::skip]
    playground.all_accepted(".", &[
        "init -q a", "init -q --bare b.git", "init -q --object-format=sha256 c", "init -q --separate-git-dir d.git d",
        "init -q a", "clone -q server.git e", "clone -q --bare server.git f.git", "clone -q --mirror server.git g.git",
        "clone -q --depth 1 --no-tags file://{root}/server.git h", "clone -q -o upstream -b topic server.git i",
        "clone -q --sparse server.git j", "clone -q --shared server.git k", "init -q --ref-format=reftable l",
    ]);
}

#[test]
fn remotes_are_added_renamed_and_removed() {
    let playground = Playground::new();
    playground.git(".", "init -q -b main a");
    playground.git("a", "commit -q --allow-empty -m x");
    playground.all_accepted(
        "a",
        &[
            "remote add origin ../server.git",
            "push -q -u origin main:other",
            "remote add b https://h/x",
        ],
    );
    playground.all_accepted(
        "a",
        &[
            "remote add -t main -f more ../server.git",
            "remote set-branches --add more topic",
        ],
    );
    // What a run added it may also rename and remove.
    playground.all_accepted(
        "a",
        &[
            "remote add c https://h/y",
            "remote rename c up",
            "remote rename up c",
            "remote remove c",
        ],
    );
    playground.all_accepted(
        "a",
        &[
            "remote add --mirror=fetch m ../server.git",
            "remote add --mirror=push n ../server.git",
        ],
    );
}

#[test]
fn branches_are_tracked_moved_described_and_deleted() {
    let playground = Playground::new();
    playground.git(".", "clone -q server.git a");
    #[rustfmt::skip]
    playground.all_accepted("a", &[
        "switch -q -c one --track origin/topic", "switch -q -c two", "push -q -u origin two", "branch -m two three",
        "branch -c three four", "branch -q --set-upstream-to origin/main three", "branch --unset-upstream three",
        "branch --edit-description three", "switch -q main", "branch -q -D one three four", "checkout -q topic",
        "branch -q --track local main", "branch -q -d local",
    ]);
    playground.git("a", "config branch.topic.mergeOptions --no-ff");
    playground.git("a", "config branch.topic.unknown x");
    playground.all_accepted(
        "a",
        &["branch -m topic renamed", "switch -q main", "branch -q -D renamed"],
    );
}

#[test]
fn plain_settings_are_set_and_unset() {
    let playground = Playground::new();
    playground.git(".", "clone -q server.git a");
    #[rustfmt::skip]
    playground.all_accepted("a", &[
        "config user.name A", "config user.email a@b", "config --unset user.name", "config pull.rebase true",
        "config pull.rebase merges", "config push.default current", "config push.autoSetupRemote true",
        "config merge.conflictStyle zdiff3", "config rerere.enabled true", "config rebase.autoStash true",
        "config gc.auto 0", "config maintenance.auto false", "config color.ui always", "config diff.algorithm histogram",
        "config core.autocrlf input", "config core.untrackedCache true", "config commit.gpgsign false",
        "config branch.main.vscode-merge-base origin/main", "config remote.origin.gh-resolved base",
        "config lfs.repositoryformatversion 0", "config lfs.https://h/x.locksverify true", "config core.fsmonitor false",
        "config advice.detachedHead false", "config --remove-section color", "update-index --untracked-cache",
        "config init.defaultBranch main", "config fetch.prune true",
    ]);
}

#[test]
fn sparse_checkouts_worktrees_and_submodules_are_made() {
    let playground = Playground::new();
    playground.git(".", "clone -q server.git a");
    #[rustfmt::skip]
    playground.all_accepted("a", &[
        "sparse-checkout init --cone", "sparse-checkout set x", "worktree add -q ../w topic", "sparse-checkout disable",
        "worktree remove ../w", "submodule --quiet add -b main {root}/server.git sub", "commit -q -m sub",
        "submodule --quiet deinit -f sub", "submodule --quiet init", "submodule --quiet update",
        "submodule --quiet set-branch -b topic sub", "submodule --quiet sync", "add .gitmodules",
        "rm -q -f sub",
    ]);
    playground.git("a", "reset -q --hard");
    playground.git("a", "push -q origin main:withsub");
    playground.all_accepted(".", &["clone -q --recurse-submodules -b withsub server.git b"]);
    playground.git(".", "clone -q --bare server.git c.git");
    playground.all_accepted(
        "c.git",
        &["worktree add -q ../v topic", "-C ../v sparse-checkout set x"],
    );
}
