//! Tests of the rules on real directories.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::aliases::Aliases;
use super::place::{Place, Tree, containing, open_beneath, path_of};
use super::repository;
use super::roots::Roots;
use super::rules::{Change, Kind, Look, Rules, Verdict, is_repository_root};

use crate::spec::Program;
use Change::{Attributes, Create, MoveAway, Remove, Replace, Write};

/// A tree with a repository of its own, a nested one, a bare one and a linked worktree.
struct Example {
    directory: tempfile::TempDir,
    trees: Vec<Tree>,
}

fn open(path: &Path) -> Tree {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Tree::new(path.to_owned(), rustix::fs::open(path, flags, Mode::empty()).unwrap())
}

impl Example {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        for repository in [".git", "nested/.git", "bare"] {
            for part in ["objects/info", "refs", "hooks", "info"] {
                fs::create_dir_all(root.join(repository).join(part)).unwrap();
            }
            fs::write(root.join(repository).join("HEAD"), "ref: refs/heads/main\n").unwrap();
            fs::write(root.join(repository).join("config"), "").unwrap();
        }
        fs::create_dir_all(root.join(".git/worktrees/w")).unwrap();
        fs::write(root.join(".git/worktrees/w/commondir"), "../..\n").unwrap();
        fs::create_dir_all(root.join("plain/objects")).unwrap();
        Example {
            trees: vec![open(&root)],
            directory,
        }
    }

    fn make(&self, name: &str, contents: &str) {
        let path = self.trees[0].path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    fn rules(&self) -> Rules {
        let protected = vec![PathBuf::from(".vscode"), PathBuf::from(".github/hooks")];
        let programs = repository::programs(&self.trees, 0, true, &protected, &[]);
        Rules::new(protected, true, vec![programs], Roots::new(&[]))
    }

    /// Those of a sandbox that begins when what is there is a moment old: the clock of files moves in steps.
    fn rules_later(&self) -> Rules {
        std::thread::sleep(std::time::Duration::from_millis(20));
        self.rules()
    }

    fn judge(&self, path: &str, change: Change) -> Verdict {
        self.rules().judge(&self.trees, 0, Path::new(path), change)
    }

    fn refuses(&self, path: &str, change: Change) {
        let verdict = self.judge(path, change);
        assert!(matches!(verdict, Verdict::Refuse(_)), "{path} {change:?}: {verdict:?}");
    }
}

#[test]
fn names_have_these_verdicts() {
    let example = Example::new();
    let file = Create(Kind::File);
    #[rustfmt::skip]
    let table: &[(&str, Change, Verdict)] = &[
        ("src/main.rs", file, Verdict::Allow), ("hooks/pre-commit", file, Verdict::Allow), ("config", file, Verdict::Allow),
        (".git/config", Write, Verdict::Configuration), (".git/CONFIG", Write, Verdict::Configuration),
        (".git/config", Replace(Kind::File), Verdict::Configuration), (".git/config", Attributes, Verdict::Allow),
        (".git/config.worktree", Replace(Kind::File), Verdict::Configuration),
        ("anywhere/config.worktree", file, Verdict::Configuration),
        (".git/worktrees/w/config.worktree", file, Verdict::WorktreeConfiguration),
        (".git/worktrees/w/commondir", Write, Verdict::CommonDirectory),
        (".git/hooks/x.sample", file, Verdict::Allow), (".git/HEAD.lock", file, Verdict::Allow),
        (".git/index", Replace(Kind::File), Verdict::Index), (".git/refs/heads/x", Remove, Verdict::Allow),
        (".git/rebase-merge/git-rebase-todo", Replace(Kind::File), Verdict::Todo),
        ("elsewhere/git-rebase-todo", file, Verdict::Todo), (".git/rebase-merge/git-rebase-todo", Remove, Verdict::Allow),
        ("nested/.git/config", Remove, Verdict::Allow), ("nested/.git/hooks/x", Remove, Verdict::Allow),
        ("new/.git", Create(Kind::Directory), Verdict::Allow), ("link", Create(Kind::Link), Verdict::Allow),
        ("plain/refs", Create(Kind::Directory), Verdict::Allow), ("sub/.vscode/x", file, Verdict::Allow),
    ];
    for (path, change, verdict) in table {
        assert_eq!(example.judge(path, *change), *verdict, "{path} {change:?}");
    }
}

#[test]
fn what_makes_a_program_run_outside_is_refused() {
    let example = Example::new();
    example.make(".vscode/tasks.json", "");
    let file = Create(Kind::File);
    #[rustfmt::skip]
    let table: &[(&str, Change)] = &[
        (".git/hooks/pre-commit", file), (".git/HOOKS/pre-commit", file), ("nested/.git/hooks/x", Replace(Kind::File)),
        ("bare/hooks/x", file), (".git/hooks", MoveAway), (".git/hooks", Replace(Kind::Directory)), (".git/hooks/x", Attributes),
        (".git/hooks/x.sample", Create(Kind::Link)), (".git", MoveAway), (".git", Remove), (".git", Replace(Kind::Directory)),
        ("sub/.git", Create(Kind::Link)), ("nested/.git", MoveAway), (".git/config", Create(Kind::Link)), (".git/config", Remove),
        (".git/config", Create(Kind::Node)), (".git/commondir", file), ("anywhere/commondir", file),
        (".git/worktrees/w/commondir", Replace(Kind::File)), (".git/info/attributes", file), (".git/remotes/x", file),
        (".git/objects/info/alternates", file), (".git/objects", Replace(Kind::Directory)),
        (".git/logs", Create(Kind::Link)), (".git/COMMIT_EDITMSG", Replace(Kind::Link)), ("bare/logs/HEAD", Create(Kind::Link)),
        ("x/git-rebase-todo", Create(Kind::Link)),
        (".vscode/tasks.json", Write), (".VSCode/tasks.json", Write), (".vscode", Remove), (".vscode", MoveAway),
        (".github/hooks", Create(Kind::Directory)), ("nested/.vscode", Create(Kind::Directory)),
        // Above a name of several parts, which is not there yet.
        (".github", Create(Kind::Link)), ("nested/.github", Replace(Kind::Link)),
        // As the `casefold` feature of file systems folds names.
        (".git/hoo\u{212A}s/x", file), (".git/hook\u{17F}/x", file), (".git/con\u{FB01}g", Create(Kind::Link)),
        (".g\u{200C}it", Create(Kind::Link)), (".v\u{17F}code/x", file), ("nested/.VSCODE\u{FE0F}", file),
    ];
    for (path, change) in table {
        example.refuses(path, *change);
    }
}

#[test]
fn a_directory_that_becomes_a_repository_is_looked_through() {
    let example = Example::new();
    example.make("plain/HEAD", "");
    let refs = Create(Kind::Directory);
    assert_eq!(example.judge("plain/refs", refs), Verdict::Adopt);
    example.make("plain/hooks/x.sample", "");
    assert_eq!(example.judge("plain/refs", refs), Verdict::Adopt);
    example.make("plain/hooks/x", "");
    example.refuses("plain/refs", refs);
    // What a linked worktree shares needs no HEAD of its own.
    fs::remove_file(example.trees[0].path.join("plain/HEAD")).unwrap();
    fs::create_dir(example.trees[0].path.join("plain/worktrees")).unwrap();
    example.refuses("plain/refs", refs);
    fs::remove_dir_all(example.trees[0].path.join("plain/hooks")).unwrap();
    assert_eq!(example.judge("plain/refs", refs), Verdict::Adopt);
    fs::create_dir(example.trees[0].path.join("plain/logs")).unwrap();
    symlink("/x", example.trees[0].path.join("plain/logs/HEAD")).unwrap();
    example.refuses("plain/refs", refs);
}

#[test]
fn directories_keep_links_out_and_linked_worktrees_in() {
    let example = Example::new();
    fs::create_dir_all(example.trees[0].path.join("moved/deep")).unwrap();
    let may_move = |from: &str, to: &str| {
        let rules = example.rules();
        rules
            .may_move(&example.trees, 0, Path::new(from), Path::new(to))
            .is_ok()
    };
    assert!(may_move("moved", ".git/logs") && may_move("moved", "other"));
    symlink("/x", example.trees[0].path.join("moved/deep/link")).unwrap();
    assert!(!may_move("moved", ".git/logs") && may_move("moved", "other"));
    assert!(!may_move(".git/worktrees/w", "w") && may_move(".git/worktrees/w", ".git/worktrees/v"));
    assert!(!may_move(".git/worktrees", "a"));
}

#[test]
fn a_directory_brings_no_protected_name_with_it() {
    let example = Example::new();
    example.make("a/hooks/x", "");
    example.make("b/workflows/x", "");
    example.make("c/y", "");
    symlink("../a/hooks", example.trees[0].path.join("c/hooks")).unwrap();
    let rules = example.rules();
    let moves = |from: &str, to: &str| {
        let moved = rules.may_move(&example.trees, 0, Path::new(from), Path::new(to));
        moved.is_ok()
    };
    for root in ["", "nested/"] {
        let to = format!("{root}.github");
        assert!(!moves("a", &to) && moves("b", &to) && !moves("c", &to), "{to}");
    }
    assert!(moves("a", "plain/.github"));
}

#[test]
fn a_root_whose_repository_went_keeps_its_names() {
    let example = Example::new();
    let mut rules = example.rules();
    let root = example.trees[0].path.clone();
    let settings = Create(Kind::Directory);
    let is_refused = |rules: &Rules, path: &str| {
        let verdict = rules.judge(&example.trees, 0, Path::new(path), settings);
        matches!(verdict, Verdict::Refuse(_))
    };
    rules.note_departure(&example.trees, 0, Path::new("nested/.git"));
    fs::remove_dir_all(root.join("nested/.git")).unwrap();
    assert!(is_refused(&rules, "nested/.vscode") && !is_refused(&rules, "plain/.vscode"));
    // It may become one again, in whose place nothing was changed; what was nobody's root before is looked through.
    assert!(!is_refused(&rules, "nested/.git"));
    rules.note_move(0, Path::new("nested"), Path::new("other"));
    assert!(is_refused(&rules, "other/.vscode") && is_refused(&rules, "nested/.vscode"));
    let made_now = example.rules();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::create_dir_all(root.join("old/.vscode")).unwrap();
    assert!(!is_refused(&made_now, "old/.git") && is_refused(&example.rules_later(), "old/.git"));
}

#[test]
fn a_root_that_is_a_repository_stays_one() {
    let example = Example::new();
    let mut tree = open(&example.trees[0].path.join("bare"));
    tree.repository = is_repository_root(&tree);
    assert!(tree.repository && !is_repository_root(&example.trees[0]));
    let trees = [tree];
    let rules = Rules::new(Vec::new(), true, vec![Vec::new()], Roots::new(&[]));
    fs::remove_dir(trees[0].path.join("refs")).unwrap();
    let verdict = rules.judge(&trees, 0, Path::new("hooks/x"), Create(Kind::File));
    assert!(matches!(verdict, Verdict::Refuse(_)), "{verdict:?}");
}

#[test]
fn programs_are_found_through_links_includes_and_hooks() {
    let example = Example::new();
    let root = example.directory.path();
    example.make(
        ".git/config",
        "[include]\n\tpath = ../shared\n[core]\n\tfsmonitor = ./fsm\n\teditor = vim -f\n",
    );
    example.make("shared", "[core]\n\thooksPath = .husky/_\n");
    for name in ["tools/real", "scripts/hook", "editor/tasks.json"] {
        example.make(name, "");
    }
    symlink("tools/real", root.join("fsm")).unwrap();
    symlink("editor", root.join(".vscode")).unwrap();
    symlink("../../scripts/hook", root.join(".git/hooks/post-merge")).unwrap();
    for protected in [
        "shared",
        "fsm",
        "tools/real",
        "scripts/hook",
        "editor/tasks.json",
        ".husky/_/x",
        ".husky/x",
    ] {
        let change = if root.join(protected).exists() {
            Write
        } else {
            Create(Kind::File)
        };
        example.refuses(protected, change);
    }
    assert_eq!(example.judge("tools/other", Create(Kind::File)), Verdict::Allow);
    assert_eq!(example.judge("vim", Create(Kind::File)), Verdict::Allow);
}

#[test]
fn what_is_mounted_over_is_not_the_trees() {
    let mut example = Example::new();
    example.trees[0].covered.push(PathBuf::from("secret"));
    let root = example.trees[0].path.clone();
    assert!(containing(&example.trees, &root.join("secret/x")).is_none());
    assert!(containing(&example.trees, &root.join("secrets")).is_some());
}

#[test]
fn paths_longer_than_the_kernel_takes_are_found_and_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&fs::canonicalize(directory.path()).unwrap());
    let mut relative = PathBuf::new();
    let mut at = open_beneath(&tree, Path::new("")).unwrap();
    for _ in 0..60 {
        let name = "x".repeat(100);
        rustix::fs::mkdirat(&at, name.as_str(), Mode::from_raw_mode(0o700)).unwrap();
        relative.push(&name);
        at = open_beneath(&tree, &relative).unwrap();
    }
    assert_eq!(path_of(&at).unwrap(), tree.path.join(&relative));
    rustix::fs::mkdirat(&at, ".git", Mode::from_raw_mode(0o700)).unwrap();
    let rules = Rules::new(Vec::new(), true, vec![Vec::new()], Roots::new(&[]));
    let trees = [tree];
    let verdict = rules.judge(&trees, 0, &relative.join(".git/hooks/x"), Create(Kind::File));
    assert!(matches!(verdict, Verdict::Refuse(_)), "{verdict:?}");
}

#[test]
fn names_are_protected_however_deep_their_repository_lies() {
    let directory = tempfile::tempdir().unwrap();
    let tree = open(&fs::canonicalize(directory.path()).unwrap());
    let deep: PathBuf = vec!["d"; 3000].iter().collect();
    for depth in [15, 16, 17, 33, 3000] {
        let mut relative = PathBuf::new();
        for name in deep.iter().take(depth) {
            let above = open_beneath(&tree, &relative).unwrap();
            relative.push(name);
            match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let root = open_beneath(&tree, &relative).unwrap();
        rustix::fs::mkdirat(&root, ".git", Mode::from_raw_mode(0o700)).unwrap();
        let trees = std::slice::from_ref(&tree);
        let program = |path: &str| Program {
            path: path.into(),
            why: "outside names it".to_owned(),
        };
        let roots = Roots::new(&[program("tools/hook")]);
        let rules = Rules::new(vec![PathBuf::from(".vscode/x")], true, vec![Vec::new()], roots);
        for (path, refused) in [
            (".vscode/x", true),
            (".vscode/x/y", true),
            (".vscode/z", false),
            ("e/.vscode/x", false),
            ("tools/hook", true),
            ("tools/other", false),
        ] {
            let verdict = rules.judge(trees, 0, &relative.join(path), Create(Kind::File));
            assert_eq!(
                matches!(verdict, Verdict::Refuse(_)),
                refused,
                "{depth} {path} {verdict:?}"
            );
        }
        rustix::fs::unlinkat(&root, ".git", AtFlags::REMOVEDIR).unwrap();
    }
}

#[test]
fn a_file_is_protected_by_its_other_names_too() {
    let example = Example::new();
    let root = example.trees[0].path.clone();
    let protected = [
        (".vscode/tasks.json", Some("filesystem.protect: .vscode")),
        (".git/config", Some("git: config")),
        (".git/hooks/pre-commit", Some("git: hooks")),
        (".git/info/attributes", Some("git: info/attributes")),
        (".git/worktrees/w/commondir", Some("git: commondir")),
        (".git/modules/deep/er/config", Some("git: config")),
        (".git/HEAD", None),
        (".git/hooks/x.sample", None),
        ("src/main.rs", None),
    ];
    let place = |path: &str| {
        let path = Path::new(path);
        let directory = path.parent().unwrap().to_owned();
        Place {
            tree: 0,
            parent: open_beneath(&example.trees[0], &directory).unwrap(),
            directory,
            name: path.file_name().unwrap().to_owned(),
            must_be_directory: false,
            dots: false,
        }
    };
    for (index, (path, _)) in protected.iter().enumerate() {
        if !root.join(path).exists() {
            example.make(path, "");
        }
        fs::hard_link(root.join(path), root.join(format!("alias{index}"))).unwrap();
    }
    let mut aliases = Aliases::new();
    aliases.look(&example.trees, 0, Path::new(".vscode"), "filesystem.protect: .vscode");
    aliases.look_at_git(&example.trees, 0);
    for (index, (path, rule)) in protected.into_iter().enumerate() {
        let found = aliases.refuses(&place(&format!("alias{index}")));
        assert_eq!(found.is_some(), rule.is_some(), "{path}: {found:?}");
        let says = rule.is_none_or(|rule| found.is_some_and(|found| found.starts_with(rule) && found.contains(path)));
        assert!(says, "{path}");
        assert_eq!(aliases.refuses(&place(path)), None, "{path} by its own name");
    }
    // A number that is another's now.
    let alias = rustix::fs::statat(&example.trees[0].root, "alias0", AtFlags::empty()).unwrap();
    aliases.forget((alias.st_dev, alias.st_ino));
    assert_eq!(aliases.refuses(&place("alias0")), None);
}

#[test]
fn what_a_path_lies_in_is_the_innermost_repository() {
    let example = Example::new();
    let deep: PathBuf = vec!["d"; 40].iter().collect();
    let whole = example.trees[0].path.clone();
    fs::create_dir_all(whole.join(&deep)).unwrap();
    for part in ["deep/objects", "deep/refs", "d/d/bare/objects", "d/d/bare/refs"] {
        fs::create_dir_all(whole.join(part)).unwrap();
    }
    fs::create_dir_all(whole.join(&deep).join(".git/refs/heads")).unwrap();
    fs::write(whole.join("d/d/bare/HEAD"), "").unwrap();
    let look = Look {
        trees: &example.trees,
        tree: 0,
    };
    let inner = deep.join(".git");
    for (path, holder) in [
        (PathBuf::new(), None),
        ("x".into(), None),
        ("plain/objects/x".into(), None),
        // It has no HEAD.
        ("deep/refs/x".into(), None),
        (".git".into(), None),
        (".git/x".into(), Some(Path::new(".git"))),
        (".git/worktrees/w/x".into(), Some(Path::new(".git/worktrees/w"))),
        ("nested/.git/a/b/c".into(), Some(Path::new("nested/.git"))),
        ("d/d/bare/refs/x".into(), Some(Path::new("d/d/bare"))),
        ("d/d/bare".into(), None),
        (inner.join("refs/heads/x"), Some(&inner)),
        (inner.clone(), None),
    ] {
        assert_eq!(look.holder(&path), holder, "{}", path.display());
    }
}
