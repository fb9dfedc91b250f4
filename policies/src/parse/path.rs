//! Paths: what a policy may name, in one normal form.

use super::Problem;
use crate::error::quoted;
use crate::model::PathPattern;
use crate::pattern::matches_name;

/// `PATH_MAX` of Linux without its NUL.
const MAX_PATH_BYTES: usize = 4095;
/// `NAME_MAX` of Linux.
const MAX_NAME_BYTES: usize = 255;

const HOME: &str = "${home}";
const WORKSPACE: &str = "${workspace}";
/// Where programs keep caches by the XDG base directory specification, and what it stands for.
const CACHE: (&str, &str) = ("${cache}", ".cache");
/// The sandbox's own, and what it stands for.
const TMP: (&str, &str) = ("${tmp}", "/tmp");

/// What a shell would expand and a policy does not. Taken literally it would protect or grant nothing, and say nothing about it.
const OTHER_PATTERNS: [char; 4] = ['[', ']', '{', '}'];
/// What a policy expands.
const WILDCARDS: [char; 2] = ['*', '?'];

/// Trees that the sandbox makes its own: granting the machine's would undo that.
const OWN_TREES: [&str; 3] = ["/proc", "/dev", "/sys"];

/// A path that is given.
pub(super) fn granted(text: &str) -> Result<PathPattern, Problem> {
    no_tmp(text, "write `tmp = true` instead: the sandbox has a /tmp of its own")?;
    let pattern = pattern(text)?;
    if let PathPattern::Absolute(path) = &pattern {
        if path == "/" || path.starts_with("/*") && !path[1..].contains('/') {
            return Err(Problem::new(
                "the whole file tree cannot be granted",
                "list the directories below it that are needed: \"/usr\", \"/etc\"",
            ));
        }
        let first = path[1..].split('/').next().unwrap_or_default();
        if let Some(tree) = OWN_TREES.iter().find(|tree| matches_name(first, &tree[1..])) {
            return Err(Problem::new(
                format!("the machine's `{tree}` cannot be granted"),
                "remove it: a sandbox has its own /proc, /dev and /sys",
            ));
        }
    }
    Ok(pattern)
}

/// A path of `hide`.
pub(super) fn hidden(text: &str) -> Result<PathPattern, Problem> {
    no_tmp(text, "remove it: nothing lies in the sandbox's own /tmp when it starts")?;
    match pattern(text)? {
        PathPattern::Absolute(path) if path == "/" => Err(Problem::new(
            "the whole file tree cannot be hidden",
            "grant less in `read` instead",
        )),
        PathPattern::Home(path) if path.is_empty() => Err(Problem::new(
            "the home directory cannot be hidden",
            "write `home = \"empty\"` instead",
        )),
        PathPattern::Workspace(_) => Err(Problem::new(
            "nothing in the workspace can be hidden",
            "remove it: what is mounted over a file of a repository shows up in `git status`",
        )),
        other => Ok(other),
    }
}

/// A path of `read-only`.
pub(super) fn read_only(text: &str) -> Result<PathPattern, Problem> {
    no_tmp(text, "remove it: nothing lies in the sandbox's own /tmp when it starts")?;
    match pattern(text)? {
        PathPattern::Absolute(path) if path == "/" => Err(Problem::new(
            "the whole file tree cannot be read-only",
            "leave `write` empty, and write `workspace = \"read\"`",
        )),
        PathPattern::Workspace(path) if path.is_empty() => Err(Problem::new(
            "this is the whole workspace",
            "write `workspace = \"read\"` instead",
        )),
        other => Ok(other),
    }
}

/// A path that an expectation is about.
pub(super) fn tried(text: &str) -> Result<PathPattern, Problem> {
    let in_tmp = text
        .strip_prefix(TMP.0)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let pattern = match in_tmp {
        Some(rest) => pattern(&format!("{}{rest}", TMP.1))?,
        None => pattern(text)?,
    };
    if has_wildcards(pattern_text(&pattern)) {
        return Err(Problem::new(
            "a test is about one path",
            "write the path without `*` and `?`",
        ));
    }
    Ok(pattern)
}

/// The path below its base.
fn pattern_text(pattern: &PathPattern) -> &str {
    match pattern {
        PathPattern::Absolute(path) | PathPattern::Home(path) | PathPattern::Workspace(path) => path,
    }
}

fn has_wildcards(path: &str) -> bool {
    path.contains(WILDCARDS)
}

fn no_tmp(text: &str, help: &str) -> Result<(), Problem> {
    match text.starts_with(TMP.0) {
        true => Err(Problem::new(format!("`{}` is not possible here", TMP.0), help)),
        false => Ok(()),
    }
}

/// How a path is spelled in a file.
pub(super) fn spelled(pattern: &PathPattern) -> String {
    let below = |base: &str, path: &str| match path {
        "" => base.to_owned(),
        path => format!("{base}/{path}"),
    };
    match pattern {
        PathPattern::Absolute(path) => path.clone(),
        PathPattern::Home(path) => below(HOME, path),
        PathPattern::Workspace(path) => below(WORKSPACE, path),
    }
}

/// A path of `protect`.
pub(super) fn protected(text: &str) -> Result<String, Problem> {
    if let Some(rest) = text.strip_prefix("${workspace}/") {
        let help = format!("write \"{}\"", quoted(rest));
        return Err(Problem::new("paths here are relative to the workspace already", help));
    }
    check_characters(text)?;
    if text.starts_with('/') || text.starts_with("${home}") || text.starts_with('~') {
        return Err(Problem::new(
            format!("`{}` is not relative to the workspace", quoted(text)),
            "write \".vscode\" for a path of the workspace; what lies elsewhere is not written unless `write` lists it",
        ));
    }
    if text.contains('$') {
        return Err(Problem::new(
            "variables are not expanded here",
            "write a path relative to the workspace",
        ));
    }
    if let Some(found) = text.chars().find(|c| WILDCARDS.contains(c)) {
        return Err(Problem::new(
            format!("patterns are not understood here: `{found}`"),
            "list each name by itself: it is protected before it exists",
        ));
    }
    let path = normalised(text)?;
    if path.is_empty() {
        return Err(Problem::new(
            "this is the whole workspace",
            "write `workspace = \"read\"` instead",
        ));
    }
    if path.split('/').any(|name| name.eq_ignore_ascii_case(".git")) {
        return Err(Problem::new(
            "git's own files are protected by `git = \"guarded\"`",
            "remove it: protected as a whole, git could not work",
        ));
    }
    Ok(path)
}

fn pattern(text: &str) -> Result<PathPattern, Problem> {
    if let Some(help) = variable_help(text) {
        return Err(Problem::new(format!("`{}` is not expanded", quoted(text)), help));
    }
    // The two variables are taken off first: their braces are no pattern.
    let (base, rest): (fn(String) -> PathPattern, &str) = if let Some(rest) = text.strip_prefix(HOME) {
        (PathPattern::Home, rest)
    } else if let Some(rest) = text.strip_prefix(WORKSPACE) {
        (PathPattern::Workspace, rest)
    } else if let Some(rest) = text.strip_prefix(CACHE.0) {
        let below = |path: String| match path.as_str() {
            "" => PathPattern::Home(CACHE.1.to_owned()),
            path => PathPattern::Home(format!("{}/{path}", CACHE.1)),
        };
        (below, rest)
    } else {
        (|path| PathPattern::Absolute(format!("/{path}")), text)
    };
    let variable = &text[..text.len() - rest.len()];
    if !variable.is_empty() && rest.is_empty() {
        return Ok(base(String::new()));
    }
    if rest.contains('$') {
        let help = format!(
            "`{HOME}`, `{WORKSPACE}`, `{}` and `{}` at the start are the only variables; write the path out",
            CACHE.0, TMP.0
        );
        return Err(Problem::new(
            format!("`{}` has a variable that is not known", quoted(text)),
            help,
        ));
    }
    check_characters(rest)?;
    if !rest.starts_with('/') {
        let shown = quoted(rest.trim_start_matches("./"));
        let help = if variable.is_empty() {
            format!("write \"/{shown}\", \"{HOME}/{shown}\" or \"{WORKSPACE}/{shown}\"")
        } else {
            format!("write \"{variable}/{shown}\"")
        };
        return Err(Problem::new(format!("`{}` is not absolute", quoted(text)), help));
    }
    normalised(rest).map(base)
}

/// What to write for the ways in which a shell writes the home directory.
fn variable_help(text: &str) -> Option<String> {
    let rest = text
        .strip_prefix('~')
        .or_else(|| text.strip_prefix("$HOME"))
        .or_else(|| text.strip_prefix("${HOME}"))?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(format!("write \"{HOME}/{}\"", quoted(rest))),
        None if rest.is_empty() => Some(format!("write \"{HOME}\"")),
        None => Some(format!("write \"{HOME}/…\" or an absolute path")),
    }
}

fn check_characters(path: &str) -> Result<(), Problem> {
    if path.is_empty() {
        return Err(Problem::new("the path is empty", "write a path, or remove the entry"));
    }
    if path.starts_with('~') {
        return Err(Problem::new("`~` is not expanded", format!("write \"{HOME}/…\"")));
    }
    if path.chars().any(char::is_control) {
        return Err(Problem::new(
            "the path has a control character",
            "write the path without it",
        ));
    }
    if let Some(found) = path.chars().find(|c| OTHER_PATTERNS.contains(c)) {
        return Err(Problem::new(
            format!("this pattern is not understood in paths: `{found}`"),
            "list each path by itself, or write `*` and `?`",
        ));
    }
    if path.contains("**") {
        return Err(Problem::new(
            "`**` is not understood in paths",
            "write one `*` for each directory; what is granted or hidden is so with everything below it",
        ));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(Problem::new(
            "the path is too long",
            format!("at most {MAX_PATH_BYTES} bytes"),
        ));
    }
    if path.split('/').any(|name| name.len() > MAX_NAME_BYTES) {
        return Err(Problem::new(
            "a name in the path is too long",
            format!("at most {MAX_NAME_BYTES} bytes"),
        ));
    }
    Ok(())
}

/// The names of a path joined by single slashes, with none at the ends.
fn normalised(path: &str) -> Result<String, Problem> {
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.contains(&"..") {
        return Err(Problem::new(
            "`..` is not possible in a path",
            "write the directory that is meant",
        ));
    }
    Ok(names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathPattern::{Absolute, Home, Workspace};

    fn shown<T>(result: Result<T, Problem>) -> Result<T, String> {
        result.map_err(|problem| format!("{} ({})", problem.message, problem.help.unwrap_or_default()))
    }

    #[test]
    fn granted_paths_have_one_form() {
        for (text, expected) in [
            ("/usr", Absolute("/usr".into())),
            ("/usr/", Absolute("/usr".into())),
            ("//usr//./local/.", Absolute("/usr/local".into())),
            ("/opt/a b/ü~", Absolute("/opt/a b/ü~".into())),
            ("/procfs", Absolute("/procfs".into())),
            ("${home}", Home(String::new())),
            ("${home}/", Home(String::new())),
            ("${home}/.cargo//bin/", Home(".cargo/bin".into())),
            ("${workspace}", Workspace(String::new())),
            ("${workspace}/target", Workspace("target".into())),
            ("${cache}", Home(".cache".into())),
            ("${cache}/go-build/", Home(".cache/go-build".into())),
            ("/usr/lib/jvm/*/bin", Absolute("/usr/lib/jvm/*/bin".into())),
            ("${home}/.pyenv/versions/3.?", Home(".pyenv/versions/3.?".into())),
        ] {
            assert_eq!(shown(granted(text)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_granted_is_refused_with_what_to_write() {
        let long = format!("/{}", "a".repeat(256));
        let longer = "/a".repeat(2048);
        for (text, expected) in [
            ("", "the path is empty"),
            ("/", "the whole file tree"),
            ("///.", "the whole file tree"),
            ("usr", "write \"/usr\", \"${home}/usr\" or \"${workspace}/usr\""),
            ("./src", "write \"/src\""),
            ("..", "is not absolute"),
            ("/usr/../etc", "`..` is not possible"),
            ("${home}/..", "`..` is not possible"),
            ("${workspace}/../x", "`..` is not possible"),
            ("~", "write \"${home}\""),
            ("~/.cache", "write \"${home}/.cache\""),
            ("~root/x", "write \"${home}/…\" or an absolute path"),
            ("$HOME/.cache", "write \"${home}/.cache\""),
            ("${HOME}/.cache", "write \"${home}/.cache\""),
            ("$XDG_CACHE_HOME", "a variable that is not known"),
            ("${tmp}/x", "write `tmp = true`"),
            ("/*", "the whole file tree"),
            ("/d*/kvm", "cannot be granted"),
            ("/?roc/1", "cannot be granted"),
            ("/usr/**/x", "write one `*` for each"),
            ("/opt/$USER", "a variable that is not known"),
            ("/opt/${home}", "a variable that is not known"),
            ("${home}${workspace}", "a variable that is not known"),
            ("${home}.cache", "write \"${home}/.cache\""),
            ("/usr/[ab]", "pattern is not understood"),
            ("/usr/{a,b}", "pattern is not understood"),
            ("/usr\0", "control character"),
            ("${home}/a\nb", "control character"),
            ("/proc", "cannot be granted"),
            ("/proc/1/root", "cannot be granted"),
            ("/dev/kvm", "cannot be granted"),
            ("//sys/", "cannot be granted"),
            (long.as_str(), "a name in the path is too long"),
            (longer.as_str(), "the path is too long"),
        ] {
            let error = shown(granted(text)).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn hidden_paths_lie_outside_the_workspace() {
        assert_eq!(shown(hidden("/etc/shadow")), Ok(Absolute("/etc/shadow".into())));
        assert_eq!(shown(hidden("${home}/.ssh")), Ok(Home(".ssh".into())));
        assert_eq!(shown(hidden("/etc/ssh/*_key")), Ok(Absolute("/etc/ssh/*_key".into())));
        for (text, expected) in [
            ("/", "the whole file tree"),
            ("${home}", "home = \"empty\""),
            ("${workspace}/.env", "nothing in the workspace"),
            ("${tmp}/x", "nothing lies in the sandbox's own /tmp"),
            (".ssh", "write \"/.ssh\", \"${home}/.ssh\""),
        ] {
            let error = shown(hidden(text)).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn read_only_paths_lie_anywhere() {
        assert_eq!(shown(read_only("${workspace}/sql")), Ok(Workspace("sql".into())));
        for (text, expected) in [("/", "the whole file tree"), ("${workspace}", "workspace = \"read\"")] {
            let error = shown(read_only(text)).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn protected_names_are_no_patterns() {
        assert_eq!(shown(protected(".vscode/")), Ok(".vscode".into()));
        for (text, expected) in [
            (".v*", "before it exists"),
            ("/etc", "not relative"),
            (".git/hooks", "git's own"),
        ] {
            let error = shown(protected(text)).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_test_tries_one_path() {
        assert_eq!(shown(tried("${tmp}/x")), Ok(Absolute("/tmp/x".into())));
        assert!(shown(tried("/usr/*")).is_err() && shown(tried("${tmp}x")).is_err());
    }

    #[test]
    fn a_path_is_spelled_as_it_is_read() {
        for text in ["/usr", "${home}", "${home}/a b", "${workspace}/x*", "${workspace}"] {
            assert_eq!(spelled(&granted(text).unwrap()), text);
        }
    }
}
