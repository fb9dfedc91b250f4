//! How a section and its values are read: known keys, lists, tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Problem, entry, one, text, value};
use crate::error::{Collector, quoted};
use crate::keys::{KEYS, Key, Kind, names};
use crate::statement::{Entry, Place, Source, Statement, Value};

pub(super) struct Walker<'s> {
    pub(super) errors: Collector<'s>,
    pub(super) source: Arc<Source>,
}

impl Walker<'_> {
    pub(super) fn place(&self, offset: usize) -> Place {
        Place {
            source: Arc::clone(&self.source),
            offset,
        }
    }

    /// Checks that a section is a table of known keys, if it is there.
    pub(super) fn section(&mut self, document: &DeTable<'_>, name: &'static str) {
        let Some(value) = document.get(name) else { return };
        match value.get_ref() {
            DeValue::Table(table) => self.unknown_keys(table, name, &names(name)),
            other => {
                let help = format!("write `[{name}]` and below it its keys");
                self.problem(value.span().start, name, Problem::expected("a table", other, help));
            }
        }
    }

    pub(super) fn unknown_keys(&mut self, table: &DeTable<'_>, section: &str, known: &[&str]) {
        for (key, _) in table.iter() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let path = match section {
                "" => quoted(name),
                section => format!("{section}.{}", quoted(name)),
            };
            self.errors.push(key.span().start, &path, "unknown key", || {
                Some(key_help(name, section, known))
            });
        }
    }

    /// What is stated of a key. `None`: nothing usable, and that is noted.
    pub(super) fn statement(&mut self, key: &'static Key, found: &Spanned<DeValue<'_>>) -> Option<Statement> {
        let offset = found.span().start;
        let entries = match key.kind {
            Kind::Variables => self.variables(found)?,
            Kind::OpenFiles => {
                let (soft, hard) = self.open_files(found)?;
                vec![self.entry(Value::SoftHard(soft, hard), offset)]
            }
            kind if kind.is_list() => self.list(key, found)?,
            kind => match one(kind, found.get_ref()) {
                Ok(value) => vec![self.entry(value, offset)],
                Err(problem) => {
                    self.problem(offset, &key.path(), problem);
                    return None;
                }
            },
        };
        Some(Statement {
            key,
            place: self.place(offset),
            by_default: false,
            entries,
        })
    }

    pub(super) fn entry(&self, value: Value, offset: usize) -> Entry {
        Entry {
            value,
            place: self.place(offset),
            by_default: false,
        }
    }

    /// A list, each entry read by itself and each once.
    fn list(&mut self, key: &'static Key, found: &Spanned<DeValue<'_>>) -> Option<Vec<Entry>> {
        let path = key.path();
        let DeValue::Array(array) = found.get_ref() else {
            let (what, example) = match key.kind {
                Kind::Ports => ("a list of ports", "[443, 8080]"),
                _ => ("a list of strings", "[\"…\", \"…\"]"),
            };
            let help = format!("write `{} = {example}`", key.name);
            self.problem(
                found.span().start,
                &path,
                Problem::expected(what, found.get_ref(), help),
            );
            return None;
        };
        if self.too_many(array.len(), key.kind, found.span().start, &path) {
            return None;
        }
        let mut seen: BTreeMap<Value, usize> = BTreeMap::new();
        let mut entries = Vec::with_capacity(array.len());
        for (index, item) in array.iter().enumerate() {
            let offset = item.span().start;
            let problem = match entry(key.kind, item.get_ref()) {
                Ok(value) => match seen.get(&value) {
                    None => {
                        seen.insert(value.clone(), index);
                        entries.push(self.entry(value, offset));
                        continue;
                    }
                    Some(first) => Problem::new(
                        format!("listed twice: the same as {path}[{first}]"),
                        "remove one of the two",
                    ),
                },
                Err(problem) => problem,
            };
            self.problem(offset, &format!("{path}[{index}]"), problem);
        }
        Some(entries)
    }

    /// `open-files = { soft = 4096, hard = 1048576 }`, both or neither.
    fn open_files(&mut self, found: &Spanned<DeValue<'_>>) -> Option<(u64, u64)> {
        const EXAMPLE: &str = "write `open-files = { soft = 4096, hard = 1048576 }`";
        const PATH: &str = "limits.open-files";
        let offset = found.span().start;
        let DeValue::Table(table) = found.get_ref() else {
            self.problem(offset, PATH, Problem::expected("a table", found.get_ref(), EXAMPLE));
            return None;
        };
        self.unknown_keys(table, PATH, &["soft", "hard"]);
        let mut read = |key: &str| {
            let path = format!("{PATH}.{key}");
            let Some(found) = table.get(key) else {
                self.missing(&path, offset, EXAMPLE);
                return None;
            };
            value::open_files(found.get_ref())
                .map_err(|problem| self.problem(found.span().start, &path, problem))
                .ok()
        };
        let (soft, hard) = (read("soft"), read("hard"));
        let (soft, hard) = (soft?, hard?);
        if soft > hard {
            let problem = Problem::new(format!("the soft limit {soft} is above the hard limit {hard}"), EXAMPLE);
            self.problem(offset, PATH, problem);
        }
        Some((soft, hard))
    }

    fn variables(&mut self, found: &Spanned<DeValue<'_>>) -> Option<Vec<Entry>> {
        const PATH: &str = "environment.set";
        let offset = found.span().start;
        let DeValue::Table(table) = found.get_ref() else {
            let help = "write `[environment.set]` and below it `NAME = \"value\"`";
            self.problem(offset, PATH, Problem::expected("a table", found.get_ref(), help));
            return None;
        };
        if self.too_many(table.len(), Kind::Variables, offset, PATH) {
            return None;
        }
        let mut entries = Vec::new();
        for (key, value) in table.iter() {
            let name: &str = key.get_ref();
            let path = format!("{PATH}.{}", quoted(name));
            if let Err(problem) = text::variable_name(name) {
                self.problem(key.span().start, &path, problem);
                continue;
            }
            match text::variable_value(name, value.get_ref()) {
                Ok(value) => entries.push(self.entry(Value::Variable(name.to_owned(), value), key.span().start)),
                Err(problem) => self.problem(value.span().start, &path, problem),
            }
        }
        Some(entries)
    }

    pub(super) fn too_many(&mut self, entries: usize, kind: Kind, offset: usize, path: &str) -> bool {
        let most = kind.max_entries();
        if entries > most {
            let message = format!("{entries} entries, more than {most}");
            self.problem(offset, path, Problem { message, help: None });
        }
        entries > most
    }

    pub(super) fn missing(&mut self, path: &str, offset: usize, help: &str) {
        self.problem(offset, path, Problem::new("missing", help));
    }

    pub(super) fn problem(&mut self, offset: usize, path: &str, Problem { message, help }: Problem) {
        self.errors.push(offset, path, message, || help);
    }
}

/// What to write instead of an unknown key.
fn key_help(name: &str, section: &str, known: &[&str]) -> String {
    if (section, name) == ("filesystem", "hide-in-home") {
        return "write the paths in `hide`, each beginning with \"${home}/\"".to_owned();
    }
    let at_home = KEYS.iter().find(|key| key.section != section && key.name == name);
    at_home
        .map(|key| match key.section {
            "" => format!("`{name}` belongs at the top"),
            home => format!("`{name}` belongs below `[{home}]`"),
        })
        .or_else(|| text::nearest(name, known.iter().copied()).map(|near| format!("did you mean `{near}`?")))
        .unwrap_or_else(|| format!("the keys here are {}", known.join(", ")))
}
