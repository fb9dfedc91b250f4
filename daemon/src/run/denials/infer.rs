//! Conclusions from messages: the end of a failed command's standard error, and what its policy grants.
//!
//! The kernel tells an unprivileged process nothing about what a view hides or shows read-only (audit records of Landlock need
//! Linux 6.15 and a privileged reader), and to the command a hidden file is one that does not exist. But it says in its messages
//! what it missed. Where such a message names an absolute path that the policy does not give, or a host where there is no
//! network, the policy is the likely reason: likely, since the path may not exist on the machine either, which is not looked
//! at, because the answer could tell somebody about files that are none of theirs.
//!
//! Pure: text in, denials out. A message that is not understood is passed over.

use std::collections::HashSet;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use fumehood_sandbox::spec::Protection;

use super::connect;
use crate::lower::Reach;
use crate::run::model::{Denial, Evidence, Operation, Subject};

/// Conclusions of one run, at most: the last messages of a long output say the same again.
const MAX_INFERRED: usize = 8;

/// Longest host name, in bytes (RFC 1035).
const MAX_HOST_BYTES: usize = 253;

/// Lines between a path and its cause, in reports that go "what was tried", "Caused by:", "why".
const MAX_LINES_BACK: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Problem {
    /// ENOENT
    Missing,
    /// EACCES
    Denied,
    /// EROFS
    ReadOnly,
}

/// What tells of a problem with a file, in lower case: strerror(3), and names that Node and Java use in its place.
const FILES: &[(&str, Problem)] = &[
    ("read-only file system", Problem::ReadOnly),
    ("erofs", Problem::ReadOnly),
    ("permission denied", Problem::Denied),
    ("eacces", Problem::Denied),
    ("accessdeniedexception", Problem::Denied),
    ("no such file or directory", Problem::Missing),
    ("enoent", Problem::Missing),
    ("nosuchfileexception", Problem::Missing),
    // dash, of a program.
    (": not found", Problem::Missing),
];

/// What tells that no host is reached, in lower case: strerror(3), gai_strerror(3), curl, Node, Go, Rust and Java.
const HOSTS: &[&str] = &[
    NO_ADDRESS,
    "temporary failure in name resolution",
    "name or service not known",
    "failed to lookup address",
    "no such host",
    "enotfound",
    "eai_again",
    "unknownhostexception",
    "network is unreachable",
    "enetunreach",
];

/// Of curl and git, before the name of the host, which may be without a dot.
const NO_ADDRESS: &str = "could not resolve host";

/// Of curl, with the address.
const NO_CONNECTION: &str = "failed to connect to ";

/// Words of messages about writing, in lower case.
const WRITING: &[&str] = &[
    "creat",
    "touch",
    "mkdir",
    "writ",
    "remov",
    "unlink",
    "delet",
    "renam",
    "output file",
    "lock",
    "append",
    "save",
];

/// What the messages let one conclude, each once, in their order. With `isolated`, no host outside is reached.
///
/// What could not be written is also known by a relative path, taken to be one in `directory`, the command's own.
pub(super) fn infer(stderr: &[u8], isolated: bool, directory: &Path, reach: impl Fn(&Path) -> Reach) -> Vec<Denial> {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for index in 0..lines.len() {
        let denial = file(&lines, index, directory, &reach).or_else(|| isolated.then(|| host(lines[index])).flatten());
        if let Some(denial) = denial
            && found.len() < MAX_INFERRED
            && seen.insert(denial.subject.bytes().to_vec())
        {
            found.push(denial);
        }
    }
    found
}

fn file(lines: &[&str], index: usize, directory: &Path, reach: &impl Fn(&Path) -> Reach) -> Option<Denial> {
    let line = lines[index];
    // Lower case of ASCII only: every byte keeps its place.
    let lower = line.to_ascii_lowercase();
    let (at, problem) = FILES
        .iter()
        .find_map(|(words, problem)| Some((lower.find(words)?, *problem)))?;
    let absolute = path_at(line, at).or_else(|| path_before_cause(lines, index));
    let relative = || relative_at(line, at).filter(|_| problem == Problem::ReadOnly);
    let path = match absolute {
        Some(path) => PathBuf::from(path),
        None => directory.join(relative()?),
    };
    let writes = WRITING.iter().any(|word| lower.contains(word));
    let (operation, rule, remedy) = match (reach(&path), problem) {
        (Reach::Open, _) | (Reach::ReadOnly { .. }, Problem::Missing) => return None,
        // The file's own mode may be the reason, and for reading it is.
        (Reach::ReadOnly { .. }, Problem::Denied) if !writes => return None,
        (Reach::ReadOnly { remedy }, _) => (Operation::Write, "the policy grants it read-only".to_owned(), remedy),
        (Reach::Hidden { rule: None }, _) => {
            let rule = "it belongs to fumehood itself, which no command reaches";
            (Operation::Read, rule.to_owned(), String::new())
        }
        (Reach::Hidden { rule: Some(rule) }, _) => {
            let remedy = rule.replacen(": ", " without ", 1);
            (Operation::Read, rule, remedy)
        }
        (
            Reach::Absent {
                remedies: [read, write],
            },
            problem,
        ) => {
            let rule = "the policy does not grant it, so it is not there whether it exists or not".to_owned();
            match writes || problem == Problem::ReadOnly {
                true => (Operation::Write, rule, write),
                false => (Operation::Read, rule, read),
            }
        }
    };
    Some(Denial {
        protection: Protection::FilesystemView,
        operation,
        subject: Subject::Path(path.into_os_string().into_vec()),
        rule,
        remedy,
        evidence: Evidence::Inferred,
    })
}

/// The path that a message is about: the last one before the words that tell of the problem, else the first one after them.
fn path_at(line: &str, problem: usize) -> Option<&str> {
    let paths = paths(line);
    let before = paths.iter().rev().find(|(start, path)| {
        // `/bin/sh: 1: cannot create x: ...` begins with who speaks, not with what it is about.
        let end = start + path.len();
        let speaker = *start == 0
            && line[end..].starts_with(':')
            && line
                .get(end..problem)
                .is_some_and(|rest| rest.chars().any(|c| c.is_alphanumeric()));
        *start < problem && !speaker
    });
    let after = || paths.iter().find(|(start, _)| *start > problem);
    before.or_else(after).map(|(_, path)| *path)
}

/// The relative path that a message is about: what is quoted before the words that tell of the problem, else after them, else the last word before
/// them where it can be nothing else.
fn relative_at(line: &str, problem: usize) -> Option<&str> {
    let plain = |path: &&str| {
        let path = path.strip_suffix('/').unwrap_or(path);
        !path.is_empty() && !path.starts_with(['/', '~']) && !path.split('/').any(|name| name == "..")
    };
    if let Some(path) = quoted(&line[..problem])
        .or_else(|| quoted(&line[problem..]))
        .filter(plain)
    {
        return Some(path.strip_prefix("./").unwrap_or(path));
    }
    // `sh: 1: cannot create x: ...`, `bash: line 1: x: ...`, `error: could not lock config file .git/config: ...`
    let (speaker, said) = line[..problem].strip_suffix(": ")?.rsplit_once(": ")?;
    let word = said.rsplit(' ').next()?;
    let is_path = said == word || said.starts_with("cannot create ") || word.contains(['/', '.']);
    let sign = |c: char| !c.is_alphanumeric() && !"._-+@/".contains(c);
    (is_path && !speaker.is_empty() && !word.contains(sign) && plain(&word))
        .then(|| word.strip_prefix("./").unwrap_or(word))
}

/// What the last quotes of a text enclose.
fn quoted(text: &str) -> Option<&str> {
    [('\'', '\''), ('‘', '’'), ('"', '"'), ('`', '`'), ('`', '\'')]
        .into_iter()
        .find_map(|(opening, closing)| {
            let (before, _) = text.rsplit_once(closing)?;
            before.rsplit_once(opening).map(|(_, path)| path)
        })
}

/// The path of the report whose cause a line is, as cargo writes them.
fn path_before_cause<'a>(lines: &[&'a str], index: usize) -> Option<&'a str> {
    let mut is_cause = false;
    for line in lines[..index].iter().rev().take(MAX_LINES_BACK) {
        match line.trim() {
            "Caused by:" => is_cause = true,
            "" => {}
            _ if is_cause => return path_at(line, line.len()),
            _ => return None,
        }
    }
    None
}

/// The absolute paths of a line and where they begin. A quoted one goes to its closing quote; any other to the next blank or sign that ends one.
fn paths(line: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = line[from..].find('/').map(|at| from + at) {
        let before = line[..start].chars().next_back();
        let opens = |c: char| c.is_whitespace() || "'\"`‘“([<=".contains(c);
        if !before.is_none_or(opens) {
            from = start + 1;
            continue;
        }
        let closing = match before {
            Some('\'' | '‘') => &['\'', '’'][..],
            Some('"' | '“') => &['"', '”'],
            // LaTeX's way of quoting, which make and older gcc use, ends with an apostrophe.
            Some('`') => &['`', '\''],
            _ => &[],
        };
        let rest = &line[start..];
        let end = rest
            .find(closing)
            .filter(|_| !closing.is_empty())
            .or_else(|| rest.find(|c: char| c.is_whitespace() || "'\"`’”),;:>]".contains(c)))
            .unwrap_or(rest.len());
        let path = &rest[..end];
        from = start + end.max(1);
        let plain = path.len() > 1 && !path.starts_with("//") && !path.split('/').any(|name| name == "..");
        if plain && path.len() <= 4096 {
            found.push((start, path));
        }
    }
    found
}

fn host(line: &str) -> Option<Denial> {
    let lower = line.to_ascii_lowercase();
    let Some((at, words)) = HOSTS.iter().find_map(|words| Some((lower.find(words)?, *words))) else {
        let (_, target) = line.split_at_checked(lower.find(NO_CONNECTION)? + NO_CONNECTION.len())?;
        let address = target.split(' ').find_map(address)?;
        return (!is_loopback(address)).then(|| connect(address.to_owned(), Evidence::Inferred));
    };
    let single = |rest: &&str| {
        let is_label = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !rest.is_empty() && rest.len() <= MAX_HOST_BYTES && rest.chars().all(is_label)
    };
    let named = line[at + words.len()..].strip_prefix(": ").map(str::trim);
    if let Some(name) = named.filter(|_| words == NO_ADDRESS).filter(single) {
        return (!is_loopback(name)).then(|| connect(name.to_owned(), Evidence::Inferred));
    }
    let (before, after) = (&line[..at], &line[at + words.len()..]);
    let address = after
        .split(is_between)
        .find_map(address)
        .or_else(|| before.split(is_between).rev().find_map(address))
        .unwrap_or_default();
    (!is_loopback(address)).then(|| connect(address.to_owned(), Evidence::Inferred))
}

fn is_between(c: char) -> bool {
    c.is_whitespace() || "'\"`‘’“”()[]<>=,;/".contains(c)
}

/// A word that is a host name with a dot or an IPv4 address, maybe with a port.
fn address(word: &str) -> Option<&str> {
    let word = word.trim_end_matches([':', '.']);
    let (name, port) = word.split_once(':').unwrap_or((word, "0"));
    if name.is_empty() || name.len() > MAX_HOST_BYTES || port.parse::<u16>().is_err() {
        return None;
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some(word);
    }
    let (labels, top) = name.rsplit_once('.')?;
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // `socket.gaierror` and `java.net.ConnectException` look the same but for their ends.
    let is_top = top.len() >= 2 && top.bytes().all(|byte| byte.is_ascii_lowercase()) && !top.ends_with("error");
    const FILES: [&str; 8] = ["py", "rs", "go", "js", "ts", "java", "txt", "toml"];
    (is_top && !FILES.contains(&top) && labels.split('.').all(label)).then_some(word)
}

fn is_loopback(address: &str) -> bool {
    let name = address.split(':').next().unwrap_or_default();
    let ip = name.parse::<std::net::Ipv4Addr>();
    ip.is_ok_and(|ip| ip.is_loopback()) || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests;
