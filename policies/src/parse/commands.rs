//! `[commands]`: rules about commands, with examples that are tried while the file is read.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::walker::{Absent, Walker};
use super::{COMMANDS, Problem, text, value};
use crate::command::{ArgPattern, CommandRules, Judgement, Pattern, Rule, Verdict};
use crate::error::quoted;

/// More rules than this are refused: each is compared with each command.
const MAX_RULES: usize = 256;
/// More words in one list of a rule.
const MAX_WORDS: usize = 32;
/// Longest example, in bytes.
const MAX_EXAMPLE_BYTES: usize = 1024;

const RULE_KEYS: &[&str] = &[
    "program", "args", "exact", "has", "decision", "reason", "match", "no-match",
];
const VERDICTS: &[(&str, Verdict)] = &[
    (Verdict::Allow.name(), Verdict::Allow),
    (Verdict::Ask.name(), Verdict::Ask),
    (Verdict::Deny.name(), Verdict::Deny),
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
    pub(super) fn commands(&mut self, document: &DeTable<'_>) -> CommandRules {
        let section = self.section(document, COMMANDS);
        if section.table.is_none() {
            return CommandRules::default();
        }
        let verdict = |value: &DeValue<'_>| text::choice(value, VERDICTS);
        let default = self.value(&section, "default", Absent::Least, verdict);
        let unreadable = match section.get("unreadable") {
            None => default.max(Verdict::Ask),
            Some(value) => {
                let unreadable = self.value(&section, "unreadable", Absent::Least, verdict);
                if unreadable < default {
                    let problem = Problem::new(
                        format!("\"{unreadable}\" is laxer than `default = \"{default}\"`"),
                        format!("write \"{default}\" or stricter: what cannot be read may be anything"),
                    );
                    self.problem(value.span().start, "commands.unreadable", problem);
                }
                unreadable
            }
        };
        let mut commands = CommandRules {
            default,
            unreadable,
            rules: Vec::new(),
        };
        let Some(rules) = section.get("rules") else {
            return commands;
        };
        let offset = rules.span().start;
        let DeValue::Array(rules) = rules.get_ref() else {
            let problem = Problem::expected(
                "a list of tables",
                rules.get_ref(),
                "write `[[commands.rules]]` and below it the keys of one rule",
            );
            self.problem(offset, "commands.rules", problem);
            return commands;
        };
        if rules.len() > MAX_RULES {
            let problem = Problem::new(
                format!("{} rules, more than {MAX_RULES}", rules.len()),
                "name several programs in one rule: program = [\"a\", \"b\"]",
            );
            self.problem(offset, "commands.rules", problem);
            return commands;
        }
        let mut examples = Vec::new();
        let mut complete = true;
        for (index, rule) in rules.iter().enumerate() {
            match self.rule(index, rule, &mut examples) {
                Some(rule) => commands.rules.push(rule),
                None => complete = false,
            }
        }
        // With a rule missing the indices would be wrong; who mends it is told then.
        if complete {
            for example in &examples {
                self.example(&commands, example);
            }
        }
        commands
    }

    /// `None`: wrong, and noted.
    fn rule(&mut self, index: usize, value: &Spanned<DeValue<'_>>, examples: &mut Vec<Example>) -> Option<Rule> {
        let path = format!("commands.rules[{index}]");
        let offset = value.span().start;
        let DeValue::Table(table) = value.get_ref() else {
            let problem = Problem::expected(
                "a table",
                value.get_ref(),
                "write `[[commands.rules]]` and below it the keys of one rule",
            );
            self.problem(offset, &path, problem);
            return None;
        };
        for (key, _) in table.iter() {
            let name: &str = key.get_ref();
            if !RULE_KEYS.contains(&name) {
                let near = text::nearest(name, RULE_KEYS.iter().copied());
                self.errors.push(
                    key.span().start,
                    &format!("{path}.{}", quoted(name)),
                    "unknown key",
                    || {
                        Some(match near {
                            Some(near) => format!("did you mean `{near}`?"),
                            None => format!("the keys here are {}", RULE_KEYS.join(", ")),
                        })
                    },
                );
            }
        }
        let program = self.patterns(table, &path, "program");
        if program.as_ref().is_some_and(Vec::is_empty) || table.get("program").is_none() {
            let at = table.get("program").map_or(offset, |value| value.span().start);
            let help = "name the programs: program = [\"git\"]; \"*\" stands for any";
            self.problem(at, &format!("{path}.program"), Problem::new("missing", help));
        }
        let args = self.args(table, &path);
        let has = self.patterns(table, &path, "has");
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
                text::choice(value, VERDICTS)
            }),
        };
        let reason = match table.get("reason") {
            None => Some(String::new()),
            Some(value) => self.checked(value, &format!("{path}.reason"), text::description),
        };
        let mut lines = |key, matches| self.examples(table, (index, &path), key, matches, examples);
        let (matches, no_match) = (lines("match", true), lines("no-match", false));
        Some(Rule {
            program: program.filter(|program| !program.is_empty())?,
            args: args?,
            exact,
            has: has.unwrap_or_default(),
            decision: decision?,
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
    let text = string(value)?;
    if text.is_empty() || text.len() > MAX_EXAMPLE_BYTES || text.contains('\0') {
        let message = format!("an example has 1 to {MAX_EXAMPLE_BYTES} bytes");
        return Err(Problem::new(message, "write the line as one would type it"));
    }
    Ok(text.to_owned())
}
