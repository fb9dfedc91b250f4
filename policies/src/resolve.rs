//! From a file and what it extends to a policy.
//!
//! Lists are joined. A key with one value is the file's own if it states one, else the strictest of those it extends. What nobody states is
//! nothing if it is a grant, and what `default` says if it is a restriction; a list of restrictions that is stated is joined with that of `default`,
//! but for the empty one.

use std::collections::{BTreeMap, BTreeSet};

use crate::builtin;
use crate::error::{Collector, ParseErrors, quoted};
use crate::file::{PolicyFile, Reference};
use crate::keys::{Absent, Kind, Nature};
use crate::model::{NetworkMode, Policy, Protection};
use crate::parse::{MAX_FILE_BYTES, PORTS, parse_partly};
use crate::statement::{Entry, Statement, Statements, Value};

/// How deep files may extend one another, the first one counted.
pub const MAX_DEPTH: usize = 8;
/// How many files may be taken in, the first one counted; one that is reached by several ways counts each time.
pub const MAX_FILES: usize = 32;

/// A policy, and where each part of it comes from.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The policy.
    pub policy: Policy,
    /// What it is made of: for every key, each value with the file and line that state it. A restriction that nobody states is there as
    /// `default` states it, and says so; a grant that nobody states is not there.
    pub origins: Statements,
}

/// Why a file that is extended cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read: said at the place that extends it.
    #[error("{message}")]
    Missing {
        /// Why, a lower-case fragment: `there is no policy so named`.
        message: String,
        /// What to do, `the policies are ci, default`.
        help: Option<String>,
    },
    /// It can be read, and is wrong.
    #[error(transparent)]
    Wrong(#[from] ParseErrors),
}

/// How files that are extended are read. Built-in policies are not asked for. Two references to one file must give files of one
/// [`origin`](PolicyFile::origin): by it cycles are found.
pub type Load<'a> = &'a dyn Fn(&Reference) -> Result<PolicyFile, LoadError>;

/// Puts a file together with what it extends. Pure: `load` reads the files, which may be at most 32, 8 deep.
///
/// Memory is bounded by that of 32 files of 1 MiB, time by reading them.
///
/// # Errors
///
/// What is wrong with the file, or with one that it extends: cycles, too many files, what cannot be read, and what only shows when
/// everything is put together.
pub fn resolve(file: &PolicyFile, load: Load<'_>) -> Result<Resolved, ParseErrors> {
    let mut statements = Walk::begin(file, load).taken_in(file)?;
    fill(&mut statements);
    check(file, &statements)?;
    let policy = Policy::of_statements(&statements);
    if policy.to_toml().len() > MAX_FILE_BYTES {
        let message = format!("the whole policy is longer than {MAX_FILE_BYTES} bytes");
        return Err(at_name(file, &message));
    }
    Ok(Resolved {
        policy,
        origins: statements,
    })
}

/// Takes what a built-in file states by itself; for those and for the tests.
pub(crate) fn alone(file: &PolicyFile) -> Result<Resolved, ParseErrors> {
    resolve(file, &|reference| {
        let help = format!("the built-in policies are {}", builtin::builtin_names().join(", "));
        Err(LoadError::Missing {
            message: format!(
                "`{}` is no built-in policy, and no others can be had here",
                quoted(&reference.text)
            ),
            help: Some(help),
        })
    })
}

struct Walk<'a> {
    load: Load<'a>,
    /// The origins of the files that lead here.
    chain: Vec<String>,
    files: usize,
}

/// Reads a file and puts it together with what it extends, as [`PolicyFile::parse`] and [`resolve`] do, but tells of everything at once: what is
/// wrong with the file and with what it extends.
///
/// # Errors
///
/// All of that.
pub fn read(bytes: &[u8], origin: &str, load: Load<'_>) -> Result<(PolicyFile, Resolved), ParseErrors> {
    match parse_partly(bytes, origin) {
        Ok(file) => {
            let resolved = resolve(&file, load)?;
            Ok((file, resolved))
        }
        Err((errors, None)) => Err(errors),
        Err((errors, Some(part))) => match Walk::begin(&part, load).taken_in(&part) {
            Ok(_) => Err(errors),
            Err(more) => Err(errors.and(more)),
        },
    }
}

impl<'a> Walk<'a> {
    fn begin(file: &PolicyFile, load: Load<'a>) -> Walk<'a> {
        Walk {
            load,
            chain: vec![file.origin().to_owned()],
            files: 1,
        }
    }

    /// What a file states and takes in.
    fn taken_in(&mut self, file: &PolicyFile) -> Result<Statements, ParseErrors> {
        let mut inherited: Vec<Statements> = Vec::new();
        let mut errors = Collector::new(file.text());
        let mut extended: Option<ParseErrors> = None;
        let mut also = |wrong: ParseErrors| {
            extended = Some(match extended.take() {
                Some(known) => known.and(wrong),
                None => wrong,
            });
        };
        for (index, reference) in file.extends().enumerate() {
            let mut wrong = |message: String, help: Option<String>| {
                let path = format!("extends[{index}]");
                errors.push(reference.place.offset, &path, message, || help);
            };
            let loaded = match builtin::builtin_file(&reference.text) {
                Some(built_in) => Ok(built_in.clone()),
                None => (self.load)(&reference),
            };
            let parent = match loaded {
                Ok(parent) => parent,
                Err(LoadError::Wrong(errors)) => {
                    also(errors);
                    continue;
                }
                Err(LoadError::Missing { message, help }) => {
                    wrong(message, help);
                    continue;
                }
            };
            if let Some(first) = self.chain.iter().position(|origin| origin == parent.origin()) {
                let round: Vec<_> = self.chain[first..]
                    .iter()
                    .chain([&self.chain[first]])
                    .map(|o| quoted(o))
                    .collect();
                wrong(
                    format!("it extends itself: {}", round.join(" extends ")),
                    Some("remove one of these lines".to_owned()),
                );
                continue;
            }
            if self.chain.len() == MAX_DEPTH {
                wrong(
                    format!("more than {MAX_DEPTH} policies extend one another here"),
                    Some("extend what they extend".to_owned()),
                );
                continue;
            }
            self.files += 1;
            if self.files > MAX_FILES {
                wrong(
                    format!("more than {MAX_FILES} files are taken in, one that several extend counted for each"),
                    Some("extend fewer policies".to_owned()),
                );
                break;
            }
            self.chain.push(parent.origin().to_owned());
            let statements = self.taken_in(&parent);
            self.chain.pop();
            match statements {
                Ok(statements) => inherited.push(statements),
                Err(errors) => also(errors),
            }
        }
        match (errors.finish(file.origin()), extended) {
            (None, None) => Ok(joined(file.statements().clone(), inherited)),
            (Some(errors), Some(extended)) => Err(errors.and_of(extended)),
            (Some(errors), None) | (None, Some(errors)) => Err(errors),
        }
    }
}

/// A file's own statements with what it inherits.
fn joined(mut own: Statements, inherited: Vec<Statements>) -> Statements {
    let owned: BTreeMap<usize, usize> = own.0.iter().map(|(index, s)| (*index, s.entries.len())).collect();
    for (index, statement) in inherited.into_iter().flat_map(|statements| statements.0) {
        let key = statement.key;
        // What a file says about itself is its own.
        if key.nature == Nature::About {
            continue;
        }
        match own.0.get_mut(&index) {
            None => drop(own.0.insert(index, statement)),
            // Rules stand in the order in which they are taken in: a file's own come last.
            Some(present) if key.kind == Kind::Rules => {
                let own = owned.get(&index).copied().unwrap_or_default();
                let known: BTreeSet<Value> = present.entries.iter().map(|entry| entry.value.clone()).collect();
                let at = present.entries.len() - own;
                let new = statement
                    .entries
                    .into_iter()
                    .filter(|entry| !known.contains(&entry.value));
                drop(present.entries.splice(at..at, new));
            }
            Some(present) if key.kind.is_list() => {
                let known: BTreeSet<Value> = present.entries.iter().map(|entry| named(&entry.value)).collect();
                let new = statement
                    .entries
                    .into_iter()
                    .filter(|entry| !known.contains(&named(&entry.value)));
                present.entries.extend(new);
            }
            // The file's own word stands; between those it extends, the strictest.
            Some(_) if owned.contains_key(&index) => {}
            Some(present) => {
                let stricter = |a: &Value, b: &Value| strictness(key.kind, a) < strictness(key.kind, b);
                match (&mut present.entries[..], &statement.entries[..]) {
                    (
                        [
                            Entry {
                                value: Value::SoftHard(soft, hard),
                                ..
                            },
                        ],
                        [
                            Entry {
                                value: Value::SoftHard(s, h),
                                ..
                            },
                        ],
                    ) => {
                        (*soft, *hard) = ((*soft).min(*s), (*hard).min(*h));
                    }
                    ([present_entry], [new]) if stricter(&new.value, &present_entry.value) => *present = statement,
                    _ => {}
                }
            }
        }
    }
    own
}

/// What an entry of a list is known by: of a variable its name, so that of several values the first found stands.
fn named(value: &Value) -> Value {
    match value {
        Value::Variable(name, _) => Value::Variable(name.clone(), String::new()),
        other => other.clone(),
    }
}

/// Smaller is stricter.
fn strictness(kind: Kind, value: &Value) -> u64 {
    match (kind, value) {
        (Kind::Word(words), Value::Word(word)) => words
            .iter()
            .position(|known| known == word)
            .map_or(0, |position| position as u64),
        (_, Value::Flag(flag)) => u64::from(*flag),
        (_, Value::Amount(amount)) => amount.unwrap_or(u64::MAX),
        _ => 0,
    }
}

/// Puts what `default` says in the place of restrictions that nobody states, and joins it with lists of restrictions that are stated. An
/// empty one stays empty.
fn fill(statements: &mut Statements) {
    let host = gives_network(statements);
    for (index, of_default) in &builtin::default_file().statements().0 {
        let key = of_default.key;
        if key.absent != Absent::OfDefault {
            continue;
        }
        let by_default = |entry: &Entry| Entry {
            by_default: true,
            ..entry.clone()
        };
        match statements.0.get_mut(index) {
            None => {
                let statement = Statement {
                    by_default: true,
                    entries: of_default.entries.iter().map(by_default).collect(),
                    ..of_default.clone()
                };
                statements.0.insert(*index, statement);
            }
            Some(stated) if key.nature == Nature::Restriction && key.kind.is_list() && !stated.entries.is_empty() => {
                let known: BTreeSet<&Value> = stated.entries.iter().map(|entry| &entry.value).collect();
                // Who gives the machine's network away and says what is required has said it twice.
                let given_up = |value: &Value| host && key.name == "required" && *value == network();
                let new = of_default.entries.iter();
                let new = new.filter(|entry| !known.contains(&entry.value) && !given_up(&entry.value));
                let new: Vec<_> = new.map(by_default).collect();
                stated.entries.extend(new);
            }
            Some(_) => {}
        }
    }
}

fn gives_network(statements: &Statements) -> bool {
    statements.one("network.mode") == Some(&Value::Word(NetworkMode::Host.name()))
}

/// The protection that cannot be had together with the machine's network.
fn network() -> Value {
    Value::Word(Protection::Network.name())
}

/// What only shows when everything is put together.
fn check(file: &PolicyFile, statements: &Statements) -> Result<(), ParseErrors> {
    let own = |path: &str| {
        file.statements()
            .get(path)
            .map(|statement| (statement.place.offset, path.to_owned()))
    };
    let extends = || own("extends").or_else(|| own("name")).unwrap_or((0, String::new()));
    let mut errors = Collector::new(file.text());
    for statement in statements
        .iter()
        .filter(|statement| statement.entries.len() > statement.key.kind.max_entries())
    {
        let (offset, path) = extends();
        let (key, count) = (statement.key.path(), statement.entries.len());
        let most = statement.key.kind.max_entries();
        let message = format!("with what is extended, {key} has {count} entries, more than {most}");
        errors.push(offset, &path, message, || Some("extend fewer policies".to_owned()));
    }
    let host = gives_network(statements);
    for key in ["network.tcp-connect", "network.tcp-bind"] {
        if let (false, Some((offset, path))) = (host, own(key)) {
            let (message, help) = PORTS;
            errors.push(offset, &path, message, || Some(help.to_owned()));
        }
    }
    // Whoever gives the machine's network away says so twice: the protection cannot stay among the required ones.
    if let (true, Some(required)) = (host, statements.place_of("protections.required", &network())) {
        let (offset, path) = own("protections.required")
            .or_else(|| own("network.mode"))
            .unwrap_or_else(extends);
        let by = match required.by_default {
            true => "the built-in policy default".to_owned(),
            false => required.place.to_string(),
        };
        let elsewhere = required.by_default || required.place.origin() != file.origin();
        let says = if elsewhere { format!(" ({by})") } else { String::new() };
        let help = match required.by_default || !elsewhere {
            true => "write `required = […]` without \"network\" if that is meant",
            false => {
                "what is required stays so in every policy that extends it: extend another one, or choose another mode"
            }
        };
        let message =
            format!("`network` is required{says}, and `network.mode = \"host-without-isolation\"` gives it up");
        errors.push(offset, &path, message, || Some(help.to_owned()));
    }
    match errors.finish(file.origin()) {
        None => Ok(()),
        Some(errors) => Err(errors),
    }
}

fn at_name(file: &PolicyFile, message: &str) -> ParseErrors {
    let offset = file
        .statements()
        .get("name")
        .map_or(0, |statement| statement.place.offset);
    crate::error::single(file.text(), file.origin(), offset, message.to_owned(), None)
}

impl Policy {
    /// Reads a policy file that extends at most built-in policies. `origin` names it in the errors.
    ///
    /// # Errors
    ///
    /// As [`PolicyFile::parse`] and [`resolve`].
    pub fn parse(bytes: &[u8], origin: &str) -> Result<Self, ParseErrors> {
        Ok(alone(&PolicyFile::parse(bytes, origin)?)?.policy)
    }
}
