//! `[commands]`: rules about commands, with examples that are tried while the file is read.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::walker::Walker;
use super::{COMMANDS, Problem, text, value};
use crate::command::{ArgPattern, CommandRules, Judgement, Pattern, Rule, Verdict};
use crate::error::quoted;
use crate::keys::{Key, Kind};
use crate::statement::{Entry, Statement, Value};

/// More words in one list of a rule.
const MAX_WORDS: usize = 32;
/// Longest example or expected line, in bytes.
const MAX_LINE_BYTES: usize = 1024;

const RULE_KEYS: &[&str] = &[
    "program", "args", "exact", "has", "decision", "reason", "match", "no-match",
];
/// An example and where it stands.
struct Example {
    rule: usize,
    offset: usize,
    path: String,
    line: String,
    matches: bool,
}

impl Walker<'_> {
    /// What is stated of a key of `[commands]`, in whose table it stands.
    pub(super) fn about_commands(
        &mut self,
        key: &'static Key,
        table: &DeTable<'_>,
        found: &Spanned<DeValue<'_>>,
    ) -> Option<Statement> {
        let entries = match key.kind {
            Kind::Rules => self.rules(table, COMMANDS),
            Kind::Ceilings => self.ceilings(found),
            _ => {
                if key.name == "unreadable" {
                    self.laxer(table, COMMANDS);
                }
                return self.statement(key, found);
            }
        };
        Some(Statement {
            key,
            place: self.place(found.span().start),
            by_default: false,
            entries,
        })
    }

    /// A set of rules in which what cannot be read is treated better than what no rule is about.
    fn laxer(&mut self, table: &DeTable<'_>, path: &str) {
        let (Some(unreadable), default) = (verdict(table, "unreadable"), verdict(table, "default")) else {
            return;
        };
        let default = default.unwrap_or_default();
        if unreadable < default {
            let offset = table.get("unreadable").map_or(0, |value| value.span().start);
            let problem = Problem::new(
                format!("\"{unreadable}\" is laxer than `default = \"{default}\"`"),
                format!("write \"{default}\" or stricter: what cannot be read may be anything"),
            );
            self.problem(offset, &format!("{path}.unreadable"), problem);
        }
    }

    /// The rules of a set, those that are right.
    fn rules(&mut self, table: &DeTable<'_>, path: &str) -> Vec<Entry> {
        let Some(found) = table.get("rules") else {
            return Vec::new();
        };
        let offset = found.span().start;
        let path = format!("{path}.rules");
        let DeValue::Array(array) = found.get_ref() else {
            let help = "write `[[commands.rules]]` and below it the keys of one rule";
            self.problem(
                offset,
                &path,
                Problem::expected("a list of tables", found.get_ref(), help),
            );
            return Vec::new();
        };
        let most = Kind::Rules.max_entries();
        if array.len() > most {
            let problem = Problem::new(
                format!("{} rules, more than {most}", array.len()),
                "name several programs in one rule: program = [\"a\", \"b\"]",
            );
            self.problem(offset, &path, problem);
            return Vec::new();
        }
        let mut examples = Vec::new();
        let mut rules = Vec::new();
        let mut entries = Vec::new();
        for (index, rule) in array.iter().enumerate() {
            if let Some(read) = self.rule(&format!("{path}[{index}]"), index, rule, &mut examples) {
                rules.push(read.clone());
                entries.push(self.entry(Value::Rule(Box::new(read)), rule.span().start));
            }
        }
        // With a rule missing the indices would be wrong; who mends it is told then.
        if rules.len() == array.len() {
            let set = CommandRules::of(verdict(table, "default"), verdict(table, "unreadable"), rules);
            for example in &examples {
                self.example(&set, example);
            }
        }
        entries
    }

    fn ceilings(&mut self, found: &Spanned<DeValue<'_>>) -> Vec<Entry> {
        const PATH: &str = "commands.ceilings";
        const HELP: &str = "write `[[commands.ceilings]]` and below it `default`, `unreadable` and `rules`";
        let offset = found.span().start;
        let DeValue::Array(array) = found.get_ref() else {
            self.problem(
                offset,
                PATH,
                Problem::expected("a list of tables", found.get_ref(), HELP),
            );
            return Vec::new();
        };
        if self.too_many(array.len(), Kind::Ceilings, offset, PATH) {
            return Vec::new();
        }
        let mut entries = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let (offset, path) = (item.span().start, format!("{PATH}[{index}]"));
            let DeValue::Table(table) = item.get_ref() else {
                self.problem(offset, &path, Problem::expected("a table", item.get_ref(), HELP));
                continue;
            };
            self.unknown_keys(table, &path, &["default", "unreadable", "rules"]);
            for key in ["default", "unreadable"] {
                if let Some(value) = table.get(key) {
                    self.checked(value, &format!("{path}.{key}"), |value| {
                        text::word(value, Verdict::WORDS)
                    });
                }
            }
            self.laxer(table, &path);
            let rules = self.rules(table, &path).into_iter();
            let rules = rules.filter_map(|entry| match entry.value {
                Value::Rule(rule) => Some(*rule),
                _ => None,
            });
            let set = CommandRules::of(verdict(table, "default"), verdict(table, "unreadable"), rules.collect());
            entries.push(self.entry(Value::Rules(Box::new(set)), offset));
        }
        entries
    }

    /// `None`: wrong, and noted.
    fn rule(
        &mut self,
        path: &str,
        index: usize,
        value: &Spanned<DeValue<'_>>,
        examples: &mut Vec<Example>,
    ) -> Option<Rule> {
        let offset = value.span().start;
        let DeValue::Table(table) = value.get_ref() else {
            let problem = Problem::expected(
                "a table",
                value.get_ref(),
                "write `[[commands.rules]]` and below it the keys of one rule",
            );
            self.problem(offset, path, problem);
            return None;
        };
        self.unknown_keys(table, path, RULE_KEYS);
        let program = self.patterns(table, path, "program");
        if program.as_ref().is_some_and(Vec::is_empty) || table.get("program").is_none() {
            let at = table.get("program").map_or(offset, |value| value.span().start);
            let help = "name the programs: program = [\"git\"]; \"*\" stands for any";
            self.problem(at, &format!("{path}.program"), Problem::new("missing", help));
        }
        let args = self.args(table, path);
        let has = self.patterns(table, path, "has");
        let exact = match table.get("exact") {
            None => false,
            Some(value) => self.checked(value, &format!("{path}.exact"), value::boolean)?,
        };
        let decision = match table.get("decision") {
            None => {
                let help = "write `decision = \"allow\"`, \"ask\" or \"deny\"";
                self.problem(offset, &format!("{path}.decision"), Problem::new("missing", help));
                None
            }
            Some(value) => self.checked(value, &format!("{path}.decision"), |value| {
                text::word(value, Verdict::WORDS)
            }),
        };
        let reason = match table.get("reason") {
            None => Some(String::new()),
            Some(value) => self.checked(value, &format!("{path}.reason"), text::description),
        };
        let mut lines = |key, matches| self.examples(table, (index, path), key, matches, examples);
        let (matches, no_match) = (lines("match", true), lines("no-match", false));
        Some(Rule {
            program: program.filter(|program| !program.is_empty())?,
            args: args?,
            exact,
            has: has.unwrap_or_default(),
            decision: Verdict::of(decision?)?,
            reason: reason?,
            matches,
            no_match,
        })
    }

    fn checked<T>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        path: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<T> {
        match read(value.get_ref()) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problem(value.span().start, path, problem);
                None
            }
        }
    }

    /// The entries of a list, or a string that stands for a list of one.
    fn entries<'t>(&mut self, value: &'t Spanned<DeValue<'t>>, path: &str) -> Vec<(String, &'t Spanned<DeValue<'t>>)> {
        match value.get_ref() {
            DeValue::String(_) => vec![(path.to_owned(), value)],
            DeValue::Array(array) if array.len() > MAX_WORDS => {
                let message = format!("{} entries, more than {MAX_WORDS}", array.len());
                self.problem(value.span().start, path, Problem::new(message, "write a second rule"));
                Vec::new()
            }
            DeValue::Array(array) => array
                .iter()
                .enumerate()
                .map(|(index, value)| (format!("{path}[{index}]"), value))
                .collect(),
            other => {
                let problem = Problem::expected("a list of strings", other, "write [\"…\", \"…\"]");
                self.problem(value.span().start, path, problem);
                Vec::new()
            }
        }
    }

    /// `None`: the key is absent.
    fn patterns(&mut self, table: &DeTable<'_>, path: &str, key: &str) -> Option<Vec<Pattern>> {
        let value = table.get(key)?;
        let entries = self.entries(value, &format!("{path}.{key}"));
        Some(
            entries
                .into_iter()
                .filter_map(|(path, value)| self.checked(value, &path, pattern))
                .collect(),
        )
    }

    fn args(&mut self, table: &DeTable<'_>, path: &str) -> Option<Vec<ArgPattern>> {
        let Some(value) = table.get("args") else {
            return Some(Vec::new());
        };
        let mut args = Vec::new();
        let mut complete = true;
        for (path, value) in self.entries(value, &format!("{path}.args")) {
            let alternatives = self.entries(value, &path);
            let found: Vec<Pattern> = alternatives
                .iter()
                .filter_map(|(path, value)| self.checked(value, path, pattern))
                .collect();
            if matches!(value.get_ref(), DeValue::Array(array) if array.is_empty()) {
                let help = "remove it, or write \"*\" for any one word";
                self.problem(
                    value.span().start,
                    &path,
                    Problem::new("no alternative is listed", help),
                );
            }
            complete &= !found.is_empty();
            args.push(ArgPattern(found));
        }
        complete.then_some(args)
    }

    fn examples(
        &mut self,
        table: &DeTable<'_>,
        (rule, path): (usize, &str),
        key: &str,
        matches: bool,
        examples: &mut Vec<Example>,
    ) -> Vec<String> {
        let Some(value) = table.get(key) else { return Vec::new() };
        let entries = self.entries(value, &format!("{path}.{key}"));
        let mut lines = Vec::new();
        for (path, value) in entries {
            if let Some(line) = self.checked(value, &path, example) {
                lines.push(line.clone());
                let offset = value.span().start;
                examples.push(Example {
                    rule,
                    offset,
                    path,
                    line,
                    matches,
                });
            }
        }
        lines
    }

    fn example(&mut self, commands: &CommandRules, example: &Example) {
        let Example {
            rule,
            offset,
            path,
            line,
            matches,
        } = example;
        if commands.rules[*rule].matches_line(line) == *matches {
            return;
        }
        let message = match matches {
            true => "this rule does not match this line",
            false => "this rule matches this line",
        };
        let help = gets(&commands.judge_line(line));
        self.problem(*offset, path, Problem::new(message, help));
    }
}

/// What a line gets, and by which rule.
fn gets(judgement: &Judgement) -> String {
    let verdict = judgement.verdict;
    match judgement.decisive() {
        Some(finding) => {
            format!(
                "the line gets \"{verdict}\" by {} for `{}`",
                finding.place,
                quoted(&finding.command)
            )
        }
        None => format!("the line gets \"{verdict}\": no command was found in it"),
    }
}

fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Problem> {
    match value {
        DeValue::String(text) => Ok(text),
        other => Err(Problem::expected("a string", other, "put the entry in quotes")),
    }
}

fn pattern(value: &DeValue<'_>) -> Result<Pattern, Problem> {
    let text = string(value)?;
    if !Pattern::is_sayable(text) {
        let help = "write one word as it is after quoting; `*` stands for any rest";
        return Err(Problem::new(
            "a word has 1 to 256 bytes and no control characters",
            help,
        ));
    }
    Ok(Pattern(text.to_owned()))
}

fn example(value: &DeValue<'_>) -> Result<String, Problem> {
    line(string(value)?)
}

/// A line as one would type it.
pub(super) fn line(text: &str) -> Result<String, Problem> {
    if text.is_empty() || text.len() > MAX_LINE_BYTES || text.contains('\0') {
        let message = format!("a line has 1 to {MAX_LINE_BYTES} bytes");
        return Err(Problem::new(message, "write it as one would type it"));
    }
    Ok(text.to_owned())
}

/// What a set says in its own table, if that is right.
fn verdict(table: &DeTable<'_>, key: &str) -> Option<Verdict> {
    Verdict::of(table.get(key)?.get_ref().as_str()?)
}
