//! `[[tests]]`: what a policy is for.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::walker::Walker;
use super::{Problem, commands, path, text};
use crate::error::quoted;
use crate::file::{Expectation, Expected, Subject};
use crate::keys::Kind;
use crate::statement::Place;

const SUBJECTS: [&str; 6] = ["read", "write", "execute", "host", "environment", "command"];
const EXAMPLE: &str = "write `[[tests]]` and below it `read = \"/path\"` and `expect = \"deny\"`";

impl Walker<'_> {
    pub(super) fn expectations(&mut self, found: &Spanned<DeValue<'_>>) -> Vec<Expectation> {
        let offset = found.span().start;
        let DeValue::Array(array) = found.get_ref() else {
            self.problem(
                offset,
                "tests",
                Problem::expected("an array of tables", found.get_ref(), EXAMPLE),
            );
            return Vec::new();
        };
        if self.too_many(array.len(), Kind::Tests, offset, "tests") {
            return Vec::new();
        }
        let mut expectations = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let (at, path) = (item.span().start, format!("tests[{index}]"));
            let DeValue::Table(table) = item.get_ref() else {
                self.problem(at, &path, Problem::expected("a table", item.get_ref(), EXAMPLE));
                continue;
            };
            expectations.extend(self.expectation(table, at, &path));
        }
        expectations
    }

    fn expectation(&mut self, table: &DeTable<'_>, offset: usize, path: &str) -> Option<Expectation> {
        let known = [&SUBJECTS[..], &["expect"]].concat();
        self.unknown_keys(table, path, &known);
        let expected = match table.get("expect") {
            None => {
                self.missing(
                    &format!("{path}.expect"),
                    offset,
                    "write `expect = \"allow\"`, \"ask\" or \"deny\"",
                );
                None
            }
            Some(found) => match text::word(found.get_ref(), Expected::WORDS) {
                Ok(word) => Expected::of(word),
                Err(problem) => {
                    self.problem(found.span().start, &format!("{path}.expect"), problem);
                    None
                }
            },
        };
        let stated: Vec<_> = SUBJECTS
            .iter()
            .filter_map(|key| Some((*key, table.get(*key)?)))
            .collect();
        let [(key, found)] = stated[..] else {
            let problem = Problem::new(
                match stated.len() {
                    0 => "nothing is tried".to_owned(),
                    _ => "more than one thing is tried".to_owned(),
                },
                format!("write one of {} to a test", SUBJECTS.join(", ")),
            );
            self.problem(offset, path, problem);
            return None;
        };
        let subject = match found.get_ref() {
            DeValue::String(text) => subject(key, text),
            other => Err(Problem::expected("a string", other, "put it in quotes")),
        };
        if expected == Some(Expected::Ask) && key != "command" {
            let problem = Problem::new(
                "only a command can be asked about",
                "write `expect = \"allow\"` or \"deny\"",
            );
            self.problem(found.span().start, &format!("{path}.expect"), problem);
            return None;
        }
        match subject {
            Ok(subject) => Some(Expectation {
                subject,
                expected: expected?,
                place: Place {
                    source: self.source.clone(),
                    offset: found.span().start,
                },
            }),
            Err(problem) => {
                self.problem(found.span().start, &format!("{path}.{key}"), problem);
                None
            }
        }
    }
}

fn subject(key: &str, text: &str) -> Result<Subject, Problem> {
    Ok(match key {
        "command" => Subject::Command(commands::line(text)?),
        "read" => Subject::Read(path::tried(text)?),
        "write" => Subject::Write(path::tried(text)?),
        "execute" => Subject::Execute(path::tried(text)?),
        "environment" => {
            text::variable_name(text)?;
            Subject::Environment(text.to_owned())
        }
        _ => {
            let wrong = || {
                Problem::new(
                    format!("`{}` is not a host and a port", quoted(text)),
                    "write \"example.org:443\"",
                )
            };
            let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
            let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
            let host = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
                .unwrap_or(host);
            let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
            if host.is_empty() || host.len() > 253 || !host.chars().all(valid) {
                return Err(wrong());
            }
            Subject::Host(host.to_ascii_lowercase(), port)
        }
    })
}
