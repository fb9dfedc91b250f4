//! How a section is read: known keys, values, lists, and what an absent key stands for.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::text;
use super::{Fallback, MAX_ENTRIES, Problem, SECTIONS, TOP_KEYS};
use crate::builtin;
use crate::error::{Collector, quoted};
use crate::model::{PathPattern, Policy};

/// A section of the file: its table, if it is there.
pub(super) struct Section<'t> {
    pub(super) name: &'static str,
    pub(super) table: Option<&'t DeTable<'t>>,
}

impl<'t> Section<'t> {
    pub(super) fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table.and_then(|table| table.get(key))
    }

    pub(super) fn path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }
}

/// What an absent key stands for.
pub(super) enum Absent<T> {
    /// An absent grant: the type's default, the least.
    Least,
    /// An absent restriction: that of the built-in policy `default`.
    OfDefault(fn(&Policy) -> T),
}

/// The entries of a list, each with its index and byte offset.
pub(super) type Entries<T> = BTreeMap<T, (usize, usize)>;

pub(super) struct Walker<'s> {
    pub(super) errors: Collector<'s>,
    pub(super) fallback: Fallback,
}

impl Walker<'_> {
    pub(super) fn section<'t>(&mut self, document: &'t DeTable<'t>, name: &'static str) -> Section<'t> {
        let table = document.get(name).and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                let help = format!("write `[{name}]` and below it its keys");
                self.problem(value.span().start, name, Problem::expected("a table", other, help));
                None
            }
        });
        if let Some(table) = table {
            let known = SECTIONS.iter().find(|(section, _)| *section == name);
            self.unknown_keys(table, name, known.map_or(&[], |(_, keys)| keys));
        }
        Section { name, table }
    }

    pub(super) fn unknown_keys(&mut self, table: &DeTable<'_>, section: &'static str, known: &[&str]) {
        for (key, _) in table.iter() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let path = Section {
                name: section,
                table: None,
            }
            .path(&quoted(name));
            self.errors.push(key.span().start, &path, "unknown key", || {
                Some(key_help(name, section, known))
            });
        }
    }

    /// One value, or what its absence stands for. A wrong one is noted.
    pub(super) fn value<T: Default>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        absent: Absent<T>,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> T {
        let found = section.get(key).map(|value| {
            read(value.get_ref()).unwrap_or_else(|problem| {
                self.problem(value.span().start, &section.path(key), problem);
                T::default()
            })
        });
        self.or_absent(section, key, found, absent)
    }

    pub(super) fn or_absent<T: Default>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        found: Option<T>,
        absent: Absent<T>,
    ) -> T {
        match (found, absent, self.fallback) {
            (Some(found), _, _) => found,
            (None, Absent::Least, _) => T::default(),
            (None, Absent::OfDefault(of), Fallback::Default) => of(builtin::default_policy()),
            (None, Absent::OfDefault(_), Fallback::None) => {
                self.missing(section, key, 0, "a built-in policy states every restriction itself");
                T::default()
            }
        }
    }

    /// A list of strings, each read by `read` and each once. `None`: the key is absent.
    pub(super) fn list<T: Ord>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        read: impl Fn(&str) -> Result<T, Problem>,
    ) -> Option<Entries<T>> {
        let value = section.get(key)?;
        let path = section.path(key);
        let mut entries = Entries::new();
        let DeValue::Array(array) = value.get_ref() else {
            let help = format!("write `{key} = [\"…\", \"…\"]`");
            self.problem(
                value.span().start,
                &path,
                Problem::expected("a list of strings", value.get_ref(), help),
            );
            return Some(entries);
        };
        if self.too_many(array.len(), value.span().start, &path) {
            return Some(entries);
        }
        for (index, entry) in array.iter().enumerate() {
            let offset = entry.span().start;
            let read = match entry.get_ref() {
                DeValue::String(text) => read(text),
                other => Err(Problem::expected("a string", other, "put the entry in quotes")),
            };
            let problem = match read {
                Ok(value) => match entries.get(&value) {
                    None => {
                        entries.insert(value, (index, offset));
                        continue;
                    }
                    Some((first, _)) => Problem::new(
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

    /// Notes every path that is in both lists, at its place in the first.
    pub(super) fn contradiction(
        &mut self,
        section: &Section<'_>,
        (key, list): (&str, &Option<Entries<PathPattern>>),
        (other_key, other): (&str, &Option<Entries<PathPattern>>),
        help: &str,
    ) {
        let (Some(list), Some(other)) = (list, other) else {
            return;
        };
        for (pattern, (index, offset)) in list {
            if let Some((other_index, _)) = other.get(pattern) {
                let message = format!("the same path as {}[{other_index}]", section.path(other_key));
                let path = format!("{}[{index}]", section.path(key));
                self.problem(*offset, &path, Problem::new(message, help));
            }
        }
    }

    pub(super) fn too_many(&mut self, entries: usize, offset: usize, path: &str) -> bool {
        if entries > MAX_ENTRIES {
            let message = format!("{entries} entries, more than {MAX_ENTRIES}");
            self.problem(offset, path, Problem { message, help: None });
        }
        entries > MAX_ENTRIES
    }

    pub(super) fn missing(&mut self, section: &Section<'_>, key: &str, offset: usize, help: &str) {
        self.problem(offset, &section.path(key), Problem::new("missing", help));
    }

    pub(super) fn problem(&mut self, offset: usize, path: &str, Problem { message, help }: Problem) {
        self.errors.push(offset, path, message, || help);
    }
}

/// What to write instead of an unknown key.
fn key_help(name: &str, section: &str, known: &[&str]) -> String {
    let elsewhere = || {
        let home = SECTIONS
            .iter()
            .find(|(other, keys)| *other != section && keys.contains(&name));
        home.map(|(home, _)| format!("`{name}` belongs below `[{home}]`"))
    };
    let to_the_top =
        || (!section.is_empty() && TOP_KEYS.contains(&name)).then(|| format!("`{name}` belongs at the top"));
    elsewhere()
        .or_else(to_the_top)
        .or_else(|| text::nearest(name, known.iter().copied()).map(|near| format!("did you mean `{near}`?")))
        .unwrap_or_else(|| format!("the keys here are {}", known.join(", ")))
}
