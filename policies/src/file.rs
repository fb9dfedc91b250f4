//! A policy file by itself: what it states, before anything that it extends is taken in.

use std::fmt;
use std::sync::Arc;

use crate::error::ParseErrors;
use crate::model::PathPattern;
use crate::parse;
use crate::statement::{Place, Source, Statements, Value};
use crate::words::words;

/// What one file states. Every key but `version` and `name` is optional; what is absent is not in it.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    pub(crate) source: Arc<Source>,
    pub(crate) statements: Statements,
    pub(crate) tests: Vec<Expectation>,
}

/// A policy that a file extends.
#[derive(Clone, Debug)]
pub struct Reference {
    /// As written: `rust`, `./base.toml`.
    pub text: String,
    /// Where.
    pub place: Place,
}

impl Reference {
    /// Whether it is a path relative to the file that says so, and not a name.
    pub fn is_path(&self) -> bool {
        self.text.starts_with('.')
    }
}

/// Something that the policy is expected to allow or deny: an entry of `[[tests]]`. It holds for the policy of its own file, and is not
/// taken in by those that extend it.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// What is tried.
    pub subject: Subject,
    /// What should come of it.
    pub expected: Expected,
    /// Where the subject stands.
    pub place: Place,
}

/// What an expectation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Reading a path. Without `*` and `?`.
    Read(PathPattern),
    /// Writing a path.
    Write(PathPattern),
    /// Executing a path.
    Execute(PathPattern),
    /// Connecting to a host, by name or address and in lower case, at a TCP port.
    Host(String, u16),
    /// Passing a variable on from the caller.
    Environment(String),
    /// Running a command line, as bash would read it.
    Command(String),
}

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is refused.
    Deny,
    /// A person is asked.
    Ask,
    /// It is allowed.
    Allow,
}

words!(Expected { Deny = "deny", Ask = "ask", Allow = "allow" });

impl PolicyFile {
    /// Reads a file. `origin` names it in errors and in what tells where a value comes from: a path, or whatever the bytes came from.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file at once; of a file that is not TOML, or is of another version, that alone.
    /// At most 1 MiB is read, in UTF-8, at most 80 levels deep, at most 1024 entries to a list.
    pub fn parse(bytes: &[u8], origin: &str) -> Result<Self, ParseErrors> {
        parse::parse(bytes, origin)
    }

    /// The name that was given for the bytes.
    pub fn origin(&self) -> &str {
        &self.source.origin
    }

    /// The file's text.
    pub fn text(&self) -> &str {
        &self.source.text
    }

    /// The policy's name.
    pub fn name(&self) -> &str {
        match self.statements.one("name") {
            Some(Value::Text(name)) => name,
            _ => "",
        }
    }

    /// Where it says `ceiling = true`, if it does: that it holds over every policy of every request. Only a file of the machine's own
    /// policy directory can; whoever reads one from elsewhere refuses it.
    pub fn ceiling(&self) -> Option<&Place> {
        let statement = self.statements.get("ceiling")?;
        let says = statement.entries.iter().any(|entry| entry.value == Value::Flag(true));
        says.then_some(&statement.place)
    }

    /// What it states, by key.
    pub fn statements(&self) -> &Statements {
        &self.statements
    }

    /// What it extends, in the order of the file.
    pub fn extends(&self) -> impl Iterator<Item = Reference> {
        let entries = self
            .statements
            .get("extends")
            .into_iter()
            .flat_map(|list| &list.entries);
        entries.filter_map(|entry| match &entry.value {
            Value::Text(text) => Some(Reference {
                text: text.clone(),
                place: entry.place.clone(),
            }),
            _ => None,
        })
    }

    /// Its expectations, in the order of the file.
    pub fn tests(&self) -> &[Expectation] {
        &self.tests
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
