//! What files state, value by value, each with its place.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::command::{CommandRules, Rule};
use crate::error::position;
use crate::keys::{KEYS, Key};
use crate::model::PathPattern;

/// The text of a file, and the name by which errors and origins call it.
#[derive(Debug)]
pub(crate) struct Source {
    pub origin: String,
    pub text: String,
}

/// A place in a file.
#[derive(Clone)]
pub struct Place {
    pub(crate) source: Arc<Source>,
    pub(crate) offset: usize,
}

impl Place {
    /// The file's name, as its reader gave it.
    pub fn origin(&self) -> &str {
        &self.source.origin
    }

    /// Line and column in characters, both from 1. Counted when asked: takes time with the file's length.
    pub fn position(&self) -> (u32, u32) {
        position(&self.source.text, self.offset)
    }

    /// The line, from 1.
    pub fn line(&self) -> u32 {
        self.position().0
    }
}

/// `file:line`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", crate::error::quoted(self.origin()), self.line())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.source.origin, self.offset)
    }
}

/// One value, or one entry of a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// One of the words of the key.
    Word(&'static str),
    /// `true` or `false`.
    Flag(bool),
    /// A name, a line, a pattern of names, a path relative to the workspace.
    Text(String),
    /// A path.
    Path(PathPattern),
    /// Milliseconds, bytes, a count or thousandths of a processor, by the kind of the key. `None`: unlimited.
    Amount(Option<u64>),
    /// A soft and a hard limit.
    SoftHard(u64, u64),
    /// A TCP port.
    Port(u16),
    /// A variable and its value.
    Variable(String, String),
    /// A rule about commands.
    Rule(Box<Rule>),
    /// A set of such rules.
    Rules(Box<CommandRules>),
}

/// One entry of a list that is stated.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it says.
    pub value: Value,
    /// Where.
    pub place: Place,
    /// Whether no file said it, and it is the built-in policy `default`'s.
    pub by_default: bool,
}

/// What is stated of one key: one entry for a single value, any number for a list.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The key.
    pub key: &'static Key,
    /// Where the value begins: of a list that was joined from several files, in the first of them.
    pub place: Place,
    /// Whether no file stated the key, and this is what the built-in policy `default` says.
    pub by_default: bool,
    /// The value, or the entries in the order in which they were found.
    pub entries: Vec<Entry>,
}

/// What one file, or several taken together, state. Keys that nobody states are not in it.
#[derive(Clone, Debug, Default)]
pub struct Statements(pub(crate) BTreeMap<usize, Statement>);

impl Statements {
    /// What is stated of a key, by its path: `filesystem.read`.
    pub fn get(&self, path: &str) -> Option<&Statement> {
        let (section, name) = path.split_once('.').unwrap_or(("", path));
        let index = KEYS.iter().position(|key| key.section == section && key.name == name)?;
        self.0.get(&index)
    }

    /// Everything that is stated, in the order of [`KEYS`].
    pub fn iter(&self) -> impl Iterator<Item = &Statement> {
        self.0.values()
    }

    /// Where an entry of a list comes from.
    pub fn place_of(&self, path: &str, value: &Value) -> Option<&Entry> {
        self.get(path)?.entries.iter().find(|entry| entry.value == *value)
    }

    /// The value of a key that has one.
    pub(crate) fn one(&self, path: &str) -> Option<&Value> {
        self.get(path)?.entries.first().map(|entry| &entry.value)
    }

    /// The entries of a list, none where it is absent.
    pub(crate) fn values(&self, path: &str) -> impl Iterator<Item = &Value> {
        self.get(path)
            .into_iter()
            .flat_map(|statement| statement.entries.iter().map(|entry| &entry.value))
    }
}
