//! What git notes about something unfinished, and reads when it is continued outside: a rebase, a cherry-pick, a patch that did not apply.
//!
//! Most of these files hold names of commits and answers to yes or no. A few can make git run something, or write where it should not:
//!
//! * `git-rebase-todo` has lines that say `exec`.
//! * `strategy`, and `opts` of `sequencer`: the strategy is run as the program `git-merge-STRATEGY`, a path with `..` included.
//! * `strategy_opts`, and `opts` again: other strategies than git's own two hand these on to `git read-tree`, and its
//!   `--index-output` writes to any file.
//! * `apply-opt`: options of `git apply`, whose `--build-fake-ancestor` does the same.
//!
//! Looked at and left alone, since git 2.30 only ever takes apart or compares them: `author-script`, `gpg_sign_opt`, `head-name`,
//! `update-refs`, `autostash`, `message`, `done`, `sequencer/todo` (another command than that of the whole is an error), `BISECT_*`, and of
//! `MERGE_*` all but one:
//!
//! * `MERGE_RR` names files into which the next commit writes what `rr-cache` says (git-rerere(1)), wherever they lie.

use std::ffi::OsStr;
use std::path::Path;

use super::gitconfig;
use super::rules::same_name;

/// The directories that git keeps these files in.
const DIRECTORIES: [&str; 3] = ["rebase-merge", "rebase-apply", "sequencer"];

/// The files that are read before they get their name, beside the list of a rebase.
const FILES: [&str; 4] = ["strategy", "strategy_opts", "opts", "apply-opt"];

/// Strategies that come with git.
const STRATEGIES: [&str; 6] = ["ort", "recursive", "resolve", "octopus", "ours", "subtree"];

/// Options of `ort` and `recursive`, without their values (git-merge(1)); none means anything to what the others start.
const STRATEGY_OPTIONS: [&str; 17] = [
    "ours",
    "theirs",
    "ignore-space-change",
    "ignore-all-space",
    "ignore-space-at-eol",
    "ignore-cr-at-eol",
    "renormalize",
    "no-renormalize",
    "find-renames",
    "no-renames",
    "rename-threshold",
    "subtree",
    "patience",
    "histogram",
    "diff-algorithm",
    "no-recurse-submodules",
    "recurse-submodules",
];

/// Options of `git apply` that `git am` and `git rebase` take, without their values.
const APPLY_OPTIONS: [&str; 10] = [
    "--whitespace",
    "--ignore-space-change",
    "--ignore-whitespace",
    "--directory",
    "--exclude",
    "--include",
    "--reject",
    "--allow-empty",
    "--no-add",
    "--3way",
];

/// The list of conflicts that are to be resolved as before.
const MERGE_RR: &str = "MERGE_RR";

/// Whether a name is one of those directories'.
pub(super) fn is_directory(name: &OsStr) -> bool {
    DIRECTORIES.iter().any(|known| same_name(name, known))
}

/// Whether a file is one of these: by its name and that of the directory that holds it.
pub(super) fn is_noted(path: &Path) -> bool {
    let within = path.parent().and_then(Path::file_name).is_some_and(is_directory);
    let name = path.file_name();
    within && name.is_some_and(is_file) || name.is_some_and(|name| same_name(name, MERGE_RR))
}

/// Whether a name is one of these files', or the list's.
pub(super) fn is_file(name: &OsStr) -> bool {
    same_name(name, "git-rebase-todo") || FILES.iter().any(|known| same_name(name, known))
}

/// Whether a file of this name with these contents makes git outside run nothing and write only what is its own.
pub(super) fn judge(name: &OsStr, contents: &[u8]) -> Result<(), String> {
    let refuse = |what: &str| Err(format!("git: {what} when this is continued outside"));
    if same_name(name, "git-rebase-todo") {
        return match contents.split(|byte| *byte == b'\n').any(executes) {
            true => Err(
                "git: `exec` in the list of a rebase would also run when the rebase is continued outside; `git rebase --abort` takes \
                 back what was begun; without --exec, and with a loop over the commits instead, it works"
                    .to_owned(),
            ),
            false => Ok(()),
        };
    }
    if same_name(name, MERGE_RR) {
        return match contents.split(|byte| *byte == 0).all(is_conflict) {
            true => Ok(()),
            false => Err(
                "git: a resolution of a conflict would be written to this file at the next commit outside".to_owned(),
            ),
        };
    }
    if same_name(name, "strategy") {
        return match is_strategy(contents) {
            true => Ok(()),
            false => refuse("a strategy that is not git's own is a program, which would run"),
        };
    }
    if same_name(name, "strategy_opts") || same_name(name, "apply-opt") {
        let words = contents
            .split(u8::is_ascii_whitespace)
            .map(unquoted)
            .filter(|word| !word.is_empty());
        let known = |word: Vec<u8>| match same_name(name, "apply-opt") {
            true => is_apply_option(&word),
            false => is_strategy_option(word.strip_prefix(b"--").unwrap_or(&word)),
        };
        return match words.into_iter().all(known) {
            true => Ok(()),
            false => refuse("an option here could write any file"),
        };
    }
    let strategy = gitconfig::values(contents, "options.strategy").unwrap_or_else(|| vec![b"?".to_vec()]);
    let options = gitconfig::values(contents, "options.strategy-option").unwrap_or_default();
    match strategy.iter().all(|value| is_strategy(value)) && options.iter().all(|value| is_strategy_option(value)) {
        true => Ok(()),
        false => refuse("a strategy or option that is not git's own could run a program or write any file"),
    }
}

/// A line of the list: a hash, perhaps a number, and a path in the working tree. Names that begin with a dot are refused as a whole: hooks and
/// settings of editors are kept under such.
fn is_conflict(entry: &[u8]) -> bool {
    let Some((id, path)) = entry
        .iter()
        .position(|byte| *byte == b'\t')
        .map(|at| (&entry[..at], &entry[at + 1..]))
    else {
        return entry.is_empty();
    };
    id.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'.')
        && path
            .split(|byte| *byte == b'/')
            .all(|part| !matches!(part, [] | [b'.', ..]))
}

fn executes(line: &[u8]) -> bool {
    let first = line
        .trim_ascii_start()
        .split(|byte| !byte.is_ascii_alphanumeric())
        .next();
    matches!(first, Some(b"x" | b"exec"))
}

fn is_strategy(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    text.is_empty() || STRATEGIES.iter().any(|known| text == known.as_bytes())
}

fn is_strategy_option(text: &[u8]) -> bool {
    let name = text.split(|byte| *byte == b'=').next().unwrap_or_default();
    STRATEGY_OPTIONS.iter().any(|known| name == known.as_bytes())
}

fn is_apply_option(text: &[u8]) -> bool {
    let name = text.split(|byte| *byte == b'=').next().unwrap_or_default();
    let number = |rest: Option<&[u8]>| rest.is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit));
    APPLY_OPTIONS.iter().any(|known| name == known.as_bytes())
        || number(text.strip_prefix(b"-p"))
        || number(text.strip_prefix(b"-C"))
}

/// A word without the quotes that git puts round it. One that holds blanks falls apart, into what is no option.
fn unquoted(word: &[u8]) -> Vec<u8> {
    word.iter().copied().filter(|byte| !b"'\"".contains(byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_names_nothing_to_run_and_nowhere_to_write() {
        #[rustfmt::skip]
        let table: &[(&str, &str, bool)] = &[
            ("git-rebase-todo", "pick 1 exec\n# exec x\n", true), ("git-rebase-todo", "pick 1\n  x\ttrue\n", false),
            ("git-rebase-todo", "exec true", false), ("strategy", "ort\n", true), ("strategy", "x/../evil\n", false),
            ("STRATEGY", "evil", false), ("strategy", "ort evil", false),
            ("strategy_opts", "'--ours' '--find-renames=50'\n", true), ("strategy_opts", " --theirs", true),
            ("strategy_opts", "'--index-output=/x'", false), ("strategy_opts", "--ours\t--index-output=/x", false),
            ("apply-opt", "'--whitespace=fix' '-p2'\n", true), ("apply-opt", "\n", true),
            ("apply-opt", "'--build-fake-ancestor=/x'", false), ("apply-opt", "'--build-f=/x'", false),
            ("apply-opt", "\\-\\-build-fake-ancestor=/x", false), ("apply-opt", "-'-build-fake-ancestor=/x'", false),
            ("opts", "[options]\n\tstrategy = ort\n\tmainline = 1\n\tstrategy-option = ours\n", true), ("opts", "", true),
            ("opts", "[options]\n\tstrategy = x/../evil\n", false), ("opts", "[options]\nstrategy=ort\nstrategy=evil\n", false),
            ("opts", "[options]\nstrategy-option=index-output=/x\n", false), ("opts", "[options]\nstrategy=evil\n[", false),
            ("MERGE_RR", "", true), ("MERGE_RR", "ab12\tsrc/a.rs\0ab12.1\tb\0", true), ("MERGE_RR", "ab.-1\t.git/config\0", false),
            ("MERGE_RR", "ab\ta\0ab\t/x\0", false), ("MERGE_RR", "ab\ta/../../x\0", false), ("merge_rr", "ab\t.vscode/tasks.json\0", false),
            ("MERGE_RR", "nonsense", false), ("MERGE_RR", "ab\t", false),
        ];
        for (name, contents, harmless) in table {
            assert_eq!(
                judge(OsStr::new(name), contents.as_bytes()).is_ok(),
                *harmless,
                "{name}: {contents:?}"
            );
        }
        assert!(is_noted(Path::new(".git/rebase-merge/strategy")) && !is_noted(Path::new("src/strategy")));
    }
}
