//! The policies that are part of the program.

use std::sync::OnceLock;

use crate::model::Policy;
use crate::parse::{self, Fallback};

/// Also what an absent restriction of any other policy is taken from: see [`Policy`].
static DEFAULT: OnceLock<Policy> = OnceLock::new();
static LOCKED: OnceLock<Policy> = OnceLock::new();

const DEFAULT_TEXT: &str = include_str!("../builtin/default.toml");
const LOCKED_TEXT: &str = include_str!("../builtin/locked.toml");

/// The names of the built-in policies, sorted.
pub fn builtin_names() -> &'static [&'static str] {
    &["default", "locked"]
}

/// A built-in policy by name: its text, with the reason for every line, and the policy. `None`: there is none so named.
///
/// `default` is what a development command needs; `locked` reads the workspace and writes nothing but its private `/tmp`.
pub fn builtin(name: &str) -> Option<(&'static str, Policy)> {
    match name {
        "default" => Some((DEFAULT_TEXT, default_policy().clone())),
        "locked" => Some((
            LOCKED_TEXT,
            LOCKED
                .get_or_init(|| read("locked", LOCKED_TEXT, Fallback::None))
                .clone(),
        )),
        _ => None,
    }
}

/// The built-in `default`.
pub(crate) fn default_policy() -> &'static Policy {
    DEFAULT.get_or_init(|| read("default", DEFAULT_TEXT, Fallback::None))
}

/// A built-in file states every key itself: [`Fallback::None`].
fn read(name: &str, text: &str, fallback: Fallback) -> Policy {
    // The text is fixed when the program is built, and the tests read every one of them.
    parse::parse(text.as_bytes(), &format!("built-in policy {name}"), fallback)
        .unwrap_or_else(|errors| panic!("a built-in policy is wrong:\n{errors}"))
}
