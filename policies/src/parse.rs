//! From the bytes of a file to what it states, or to everything that is wrong with it.
//!
//! The file is walked by hand over the TOML parser's spanned values, not through serde: serde ends at the first error,
//! and who writes a policy wants them all. What is read of which key says the table in `keys.rs`.

mod commands;
mod expectation;
mod path;
mod text;
mod value;
mod walker;

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use self::walker::Walker;
use crate::calls::CallKind;
use crate::error::{Collector, ParseErrors, single};
use crate::file::{Expectation, PolicyFile};
use crate::keys::{KEYS, Kind, names, sections};
use crate::model::{NetworkMode, PathPattern};
use crate::statement::{Source, Statements, Value};

/// Larger files are refused unread: a policy is written by hand.
pub(crate) const MAX_FILE_BYTES: usize = 1 << 20;
/// The section that has keys of more than one line.
const COMMANDS: &str = "commands";
/// The version of the language that is read here.
pub(crate) const VERSION: u64 = 1;

/// What is wrong with one value, before its place is known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    message: String,
    help: Option<String>,
}

impl Problem {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: Some(help.into()),
        }
    }

    /// A value of a type that was not expected.
    fn expected(what: &str, found: &DeValue<'_>, help: impl Into<String>) -> Self {
        let found = found.type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        Self::new(format!("expected {what}, found {article} {found}"), help)
    }
}

pub(crate) fn parse(bytes: &[u8], origin: &str) -> Result<PolicyFile, ParseErrors> {
    parse_partly(bytes, origin).map_err(|(errors, _)| errors)
}

/// With the errors comes what could be read of the file all the same.
pub(crate) fn parse_partly(bytes: &[u8], origin: &str) -> Result<PolicyFile, (ParseErrors, Option<PolicyFile>)> {
    walk(bytes, origin, |walker, document| walker.file(document))
}

/// A file with nothing but expectations.
pub(crate) fn parse_tests(bytes: &[u8], origin: &str) -> Result<Vec<Expectation>, ParseErrors> {
    let read = walk(bytes, origin, |walker, document| {
        if !walker.version(document) {
            return Vec::new();
        }
        walker.unknown_keys(document, "", &["version", "tests"]);
        match document.get("tests") {
            Some(tests) => walker.expectations(tests),
            None => {
                walker.missing("tests", 0, "write `[[tests]]` and below it what is tried");
                Vec::new()
            }
        }
    });
    read.map_err(|(errors, _)| errors)
}

fn walk<T>(
    bytes: &[u8],
    origin: &str,
    read: impl FnOnce(&mut Walker<'_>, &DeTable<'_>) -> T,
) -> Result<T, (ParseErrors, Option<T>)> {
    let nothing = |errors: ParseErrors| (errors, None);
    if bytes.len() > MAX_FILE_BYTES {
        let message = format!("the file has {} bytes, more than {MAX_FILE_BYTES}", bytes.len());
        return Err(nothing(single("", origin, 0, message, None)));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            // Up to the wrong byte the lossy text is the file's own, so the offset holds.
            let lossy = String::from_utf8_lossy(bytes);
            let help = "save the file as UTF-8".to_owned();
            let message = "not UTF-8".to_owned();
            return Err(nothing(single(
                &lossy,
                origin,
                error.valid_up_to(),
                message,
                Some(help),
            )));
        }
    };
    let source = Arc::new(Source {
        origin: origin.to_owned(),
        text: text.to_owned(),
    });
    let document = DeTable::parse(text).map_err(|error| {
        let message = match error.message() {
            message if message.contains("recurs") => "nested too deeply: more than 80 levels",
            message => message,
        };
        let offset = error.span().map_or(0, |span| span.start);
        nothing(single(text, origin, offset, message.to_owned(), None))
    })?;
    let mut walker = Walker {
        errors: Collector::new(text),
        source: Arc::clone(&source),
    };
    let found = read(&mut walker, document.get_ref());
    match walker.errors.finish(origin) {
        None => Ok(found),
        Some(errors) => Err((errors, Some(found))),
    }
}

impl Walker<'_> {
    /// The file, or a part of it once errors are noted.
    fn file(&mut self, document: &DeTable<'_>) -> PolicyFile {
        let mut file = PolicyFile {
            source: Arc::clone(&self.source),
            statements: Statements::default(),
            tests: Vec::new(),
        };
        if !self.version(document) {
            return file;
        }
        self.unknown_keys(document, "", &names(""));
        if !document.contains_key("name") {
            self.missing("name", 0, "write `name = \"…\"`, of a-z, 0-9 and -");
        }
        for section in sections() {
            self.section(document, section);
        }
        for (index, key) in KEYS.iter().enumerate() {
            let table = match key.section {
                "" => Some(document),
                section => document.get(section).and_then(|value| value.get_ref().as_table()),
            };
            let Some(value) = table.and_then(|table| table.get(key.name)) else {
                continue;
            };
            match key.kind {
                Kind::Version => {}
                Kind::Tests => file.tests = self.expectations(value),
                _ => {
                    let statement = match table {
                        Some(table) if key.section == COMMANDS => self.about_commands(key, table, value),
                        _ => self.statement(key, value),
                    };
                    if let Some(statement) = statement {
                        file.statements.0.insert(index, statement);
                    }
                }
            }
        }
        for (key, other, help) in [
            ("write", "read", "`write` includes reading: list it there alone"),
            ("execute", "read", "`execute` includes reading: list it there alone"),
            (
                "copy-on-write",
                "read",
                "`copy-on-write` includes reading: list it there alone",
            ),
            ("copy-on-write", "write", "choose one of the two"),
            ("hide", "read", HIDDEN),
            ("hide", "execute", HIDDEN),
            ("hide", "write", HIDDEN),
            ("hide", "copy-on-write", HIDDEN),
        ] {
            self.contradiction(&file.statements, key, other, help);
        }
        self.ports(&file.statements);
        file
    }

    /// Whether the rest of the file can be understood.
    fn version(&mut self, document: &DeTable<'_>) -> bool {
        let Some(value) = document.get("version") else {
            self.missing("version", 0, &format!("write `version = {VERSION}`"));
            return true;
        };
        let version = value::integer(value.get_ref(), 0..=u64::MAX, &VERSION.to_string());
        let problem = match version {
            Ok(VERSION) => return true,
            Ok(other) => Problem::new(
                format!("version {other} is not understood by this program"),
                format!("it reads `version = {VERSION}`"),
            ),
            Err(problem) => problem,
        };
        self.problem(value.span().start, "version", problem);
        false
    }

    /// Ports beside a mode that has none. Where the file extends others its mode may come from them: then it is looked at later.
    fn ports(&mut self, statements: &Statements) {
        let host = Value::Word(NetworkMode::Host.name());
        let extends = statements.get("extends").is_some();
        match statements.one("network.mode") {
            Some(mode) if *mode == host => return,
            None if extends => return,
            _ => {}
        }
        for key in ["network.tcp-connect", "network.tcp-bind"] {
            if let Some(statement) = statements.get(key) {
                let (message, help) = PORTS;
                self.problem(statement.place.offset, key, Problem::new(message, help));
            }
        }
    }

    fn contradiction(&mut self, statements: &Statements, key: &str, other: &str, help: &str) {
        let paths = |key: &str| statements.get(&format!("filesystem.{key}"));
        let (Some(list), Some(other_list)) = (paths(key), paths(other)) else {
            return;
        };
        let others: std::collections::BTreeMap<&Value, usize> = other_list
            .entries
            .iter()
            .enumerate()
            .map(|(index, entry)| (&entry.value, index))
            .collect();
        for (index, entry) in list.entries.iter().enumerate() {
            if let Some(other_index) = others.get(&entry.value) {
                let message = format!("the same path as filesystem.{other}[{other_index}]");
                let path = format!("filesystem.{key}[{index}]");
                self.problem(entry.place.offset, &path, Problem::new(message, help));
            }
        }
    }
}

const HIDDEN: &str = "a path is either granted or hidden";

/// What is wrong with ports where there is no network to choose them of, and what helps.
pub(crate) const PORTS: (&str, &str) = (
    "ports are only chosen on the machine's own network",
    "remove it, or write `mode = \"host-without-isolation\"` if the commands may have that",
);

/// The value of a key that has one.
fn one(kind: Kind, value: &DeValue<'_>) -> Result<Value, Problem> {
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Ok(match kind {
        Kind::Name => Value::Text(text::name(value)?),
        Kind::Line => Value::Text(text::description(value)?),
        Kind::Word(words) => Value::Word(text::word(value, words)?),
        Kind::Flag => Value::Flag(value::boolean(value)?),
        Kind::Size => Value::Amount(Some(value::size(value)?)),
        Kind::SizeOrUnlimited => Value::Amount(value::size_or_unlimited(value)?),
        Kind::DurationOrUnlimited => Value::Amount(value::duration_or_unlimited(value)?.map(ms)),
        Kind::Grace => Value::Amount(Some(ms(value::grace(value)?))),
        Kind::Wait => Value::Amount(Some(ms(value::wait(value)?))),
        Kind::Processes => Value::Amount(value::processes(value)?.map(u64::from)),
        Kind::Cpus => Value::Amount(value::cpus(value)?.map(u64::from)),
        Kind::Files => Value::Amount(value::files(value)?),
        _ => return Err(Problem::new("not a single value", "write a list")),
    })
}

/// An entry of a list.
fn entry(kind: Kind, value: &DeValue<'_>) -> Result<Value, Problem> {
    if kind == Kind::Ports {
        return value::port(value).map(Value::Port);
    }
    let DeValue::String(text) = value else {
        return Err(Problem::expected("a string", value, "put the entry in quotes"));
    };
    Ok(match kind {
        Kind::Words(words) => Value::Word(text::one_of(text, words)?),
        Kind::Granted => Value::Path(path::granted(text)?),
        Kind::Hidden => Value::Path(path::hidden(text)?),
        Kind::ReadOnly => Value::Path(path::read_only(text)?),
        Kind::Protected => Value::Text(path::protected(text)?),
        Kind::PassNames => Value::Text(text::pass_pattern(text)?),
        Kind::NeverNames => Value::Text(text::never_pattern(text)?),
        Kind::AllowedCalls => Value::Text(text::system_call(text, CallKind::Never)?),
        Kind::DeniedCalls => Value::Text(text::system_call(text, CallKind::Needed)?),
        Kind::References => Value::Text(text::reference(text)?),
        _ => return Err(Problem::new("not an entry of a list", "write a single value")),
    })
}

/// How a path is spelled in a file.
pub(crate) fn spelled(path: &PathPattern) -> String {
    path::spelled(path)
}
