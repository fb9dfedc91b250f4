//! The policies that are part of the program.

use std::sync::OnceLock;

use crate::file::PolicyFile;
use crate::model::Policy;
use crate::resolve;

/// Names and texts, sorted by name.
const FILES: [(&str, &str); 9] = [
    ("c", include_str!("../builtin/c.toml")),
    ("default", include_str!("../builtin/default.toml")),
    ("git", include_str!("../builtin/git.toml")),
    ("go", include_str!("../builtin/go.toml")),
    ("java", include_str!("../builtin/java.toml")),
    ("locked", include_str!("../builtin/locked.toml")),
    ("node", include_str!("../builtin/node.toml")),
    ("python", include_str!("../builtin/python.toml")),
    ("rust", include_str!("../builtin/rust.toml")),
];
const NAMES: [&str; FILES.len()] = {
    let mut names = [""; FILES.len()];
    let mut index = 0;
    while index < FILES.len() {
        names[index] = FILES[index].0;
        index += 1;
    }
    names
};

static READ: [OnceLock<(PolicyFile, OnceLock<Policy>)>; FILES.len()] = [const { OnceLock::new() }; FILES.len()];

/// The names of the built-in policies, sorted.
pub fn builtin_names() -> &'static [&'static str] {
    &NAMES
}

/// A built-in policy by name: its text, with the reason for every line, and the policy. `None`: there is none so named.
///
/// `default` is what a development command needs; `locked` reads the workspace and writes nothing but its private `/tmp`. The others are
/// presets, made to be extended: what one toolchain needs outside the workspace.
pub fn builtin(name: &str) -> Option<(&'static str, Policy)> {
    let (index, file) = read(name)?;
    let policy = READ[index].get()?.1.get_or_init(|| right(resolve::alone(file)).policy);
    Some((FILES[index].1, policy.clone()))
}

/// A built-in policy's file, as it stands. `None`: there is none so named.
pub fn builtin_file(name: &str) -> Option<&'static PolicyFile> {
    read(name).map(|(_, file)| file)
}

/// Also what an absent restriction of any other policy is taken from: see [`Policy`].
pub(crate) fn default_file() -> &'static PolicyFile {
    let at = NAMES.iter().position(|name| *name == "default").unwrap_or_default();
    file(at)
}

fn read(name: &str) -> Option<(usize, &'static PolicyFile)> {
    let index = NAMES.iter().position(|known| *known == name)?;
    Some((index, file(index)))
}

fn file(index: usize) -> &'static PolicyFile {
    let (name, text) = FILES[index];
    let read = || right(PolicyFile::parse(text.as_bytes(), &format!("built-in policy {name}")));
    &READ[index].get_or_init(|| (read(), OnceLock::new())).0
}

/// The texts are fixed when the program is built, and the tests read every one of them.
fn right<T>(read: Result<T, crate::error::ParseErrors>) -> T {
    read.unwrap_or_else(|errors| panic!("a built-in policy is wrong:\n{errors}"))
}
