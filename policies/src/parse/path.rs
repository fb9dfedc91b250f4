//! Paths: what a policy may name, in one normal form.

use super::Problem;
use crate::error::quoted;
use crate::model::PathPattern;

/// `PATH_MAX` of Linux without its NUL.
const MAX_PATH_BYTES: usize = 4095;
/// `NAME_MAX` of Linux.
const MAX_NAME_BYTES: usize = 255;

const HOME: &str = "${home}";
const WORKSPACE: &str = "${workspace}";

/// What a shell would expand. Taken literally it would protect or grant nothing, and say nothing about it.
const PATTERN_CHARS: [char; 6] = ['*', '?', '[', ']', '{', '}'];

/// Trees that the sandbox makes its own: granting the machine's would undo that.
const OWN_TREES: [&str; 3] = ["/proc", "/dev", "/sys"];

/// A path of `read` or `write`.
pub(super) fn granted(text: &str) -> Result<PathPattern, Problem> {
    let pattern = pattern(text)?;
    if let PathPattern::Absolute(path) = &pattern {
        if path == "/" {
            return Err(Problem::new(
                "the whole file tree cannot be granted",
                "list the directories below it that are needed: \"/usr\", \"/etc\"",
            ));
        }
        if let Some(tree) = OWN_TREES.iter().find(|tree| is_below(path, tree)) {
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
    match pattern(text)? {
        PathPattern::Absolute(path) if path == "/" => Err(Problem::new(
            "the whole file tree cannot be hidden",
            "grant less in `read` instead",
        )),
        PathPattern::Home(path) if path.is_empty() => Err(Problem::new(
            "the home directory cannot be hidden",
            "write `home = \"empty\"` instead",
        )),
        PathPattern::Home(path) => {
            let help = format!("write \"{}\" in `hide-in-home` instead", quoted(&path));
            Err(Problem::new("this is a path of the home directory", help))
        }
        PathPattern::Workspace(_) => Err(Problem::new(
            "nothing in the workspace can be hidden",
            "remove it: what is mounted over a file of a repository shows up in `git status`",
        )),
        absolute => Ok(absolute),
    }
}

/// A path of `hide-in-home`.
pub(super) fn hidden_in_home(text: &str) -> Result<String, Problem> {
    for prefix in ["~/", "${home}/", "$HOME/"] {
        if let Some(rest) = text.strip_prefix(prefix) {
            let help = format!("write \"{}\"", quoted(rest));
            return Err(Problem::new(
                "paths here are relative to the home directory already",
                help,
            ));
        }
    }
    check_characters(text)?;
    if text.starts_with('/') {
        return Err(Problem::new(
            format!("`{}` is not relative to the home directory", quoted(text)),
            "write \".ssh\" for a path of the home directory; others belong in `hide`",
        ));
    }
    if text.contains('$') {
        return Err(Problem::new(
            "variables are not expanded here",
            "write a path relative to the home directory",
        ));
    }
    match normalised(text)? {
        path if path.is_empty() => Err(Problem::new(
            "this is the whole home directory",
            "write `home = \"empty\"` instead",
        )),
        path => Ok(path),
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

fn is_below(path: &str, tree: &str) -> bool {
    path.strip_prefix(tree)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
    } else {
        (|path| PathPattern::Absolute(format!("/{path}")), text)
    };
    let variable = &text[..text.len() - rest.len()];
    if !variable.is_empty() && rest.is_empty() {
        return Ok(base(String::new()));
    }
    if rest.contains('$') {
        let help = format!("`{HOME}` and `{WORKSPACE}` at the start are the only variables; write the path out");
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
    if let Some(found) = path.chars().find(|c| PATTERN_CHARS.contains(c)) {
        return Err(Problem::new(
            format!("patterns are not understood in paths: `{found}`"),
            "list each path by itself",
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
            ("${cache}/x", "a variable that is not known"),
            ("/opt/$USER", "a variable that is not known"),
            ("/opt/${home}", "a variable that is not known"),
            ("${home}${workspace}", "a variable that is not known"),
            ("${home}.cache", "write \"${home}/.cache\""),
            ("/usr/*", "list each path by itself"),
            ("/usr/lib?", "patterns are not understood"),
            ("/usr/[ab]", "patterns are not understood"),
            ("/usr/{a,b}", "patterns are not understood"),
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
    fn hidden_paths_are_absolute() {
        assert_eq!(shown(hidden("/etc/shadow")), Ok(Absolute("/etc/shadow".into())));
        for (text, expected) in [
            ("/", "the whole file tree"),
            ("${home}", "home = \"empty\""),
            ("${home}/.ssh", "write \".ssh\" in `hide-in-home`"),
            ("${workspace}/.env", "nothing in the workspace"),
            ("/etc/ssh/*_key", "patterns are not understood"),
        ] {
            let error = shown(hidden(text)).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn paths_hidden_in_the_home_are_relative() {
        assert_eq!(shown(hidden_in_home(".ssh")), Ok(".ssh".into()));
        assert_eq!(shown(hidden_in_home("./.config//gh/")), Ok(".config/gh".into()));
        for (text, expected) in [
            ("", "the path is empty"),
            (".", "the whole home directory"),
            ("./", "the whole home directory"),
            ("/etc/shadow", "others belong in `hide`"),
            ("~/.ssh", "write \".ssh\""),
            ("~", "not expanded"),
            ("${home}/.ssh", "write \".ssh\""),
            ("$HOME/.ssh", "write \".ssh\""),
            ("a/$X", "variables are not expanded"),
            ("../x", "`..` is not possible"),
            (".cargo/credentials*", "patterns are not understood"),
            (".config/{a,b}", "patterns are not understood"),
            ("a\0", "control character"),
        ] {
            let error = shown(hidden_in_home(text)).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
