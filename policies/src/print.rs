//! A policy as a file: complete, in one spelling. What is printed reads as the same policy.

use std::fmt::Write;

use crate::command::{ArgPattern, CommandRules, Pattern, Rule};
use crate::decide::{duration, size};
use crate::keys::{KEYS, Kind};
use crate::model::Policy;
use crate::parse::VERSION;
use crate::statement::Value;

impl Policy {
    /// The policy as a file that states every key and extends nothing: the canonical form, of which the digest is taken. Equal policies have
    /// equal texts; [`Policy::parse`] of it gives the same policy.
    ///
    /// Only a policy that was narrowed may come out too long to be read again: its lists are joined from two.
    pub fn to_toml(&self) -> String {
        let mut text = format!("version = {VERSION}\n");
        self.print(|_| true, &mut text);
        text
    }

    /// Some sections of the policy, as in [`Policy::to_toml`].
    #[must_use]
    pub fn sections(&self, names: &[&str]) -> String {
        let mut text = String::new();
        self.print(|section| names.contains(&section), &mut text);
        text
    }

    fn print(&self, wanted: impl Fn(&str) -> bool, text: &mut String) {
        let stated = self.stated();
        let mut section = "";
        for key in KEYS.iter().filter(|key| wanted(key.section)) {
            let path = key.path();
            let Some(values) = stated.get(path.as_str()) else {
                continue;
            };
            if key.section != section {
                section = key.section;
                let _ = write!(text, "\n[{section}]\n");
            }
            let _ = writeln!(text, "{} = {}", key.name, shown(key.kind, values));
        }
    }
}

/// The values of one key as a file states them.
fn shown(kind: Kind, values: &[Value]) -> String {
    match (kind, values) {
        (Kind::Variables, _) => {
            let pairs: Vec<_> = values.iter().map(|value| value.spelled(kind)).collect();
            match pairs.is_empty() {
                true => "{}".to_owned(),
                false => format!("{{ {} }}", pairs.join(", ")),
            }
        }
        (kind, values) if kind.is_list() => match values {
            [] => "[]".to_owned(),
            [one] => format!("[{}]", one.spelled(kind)),
            many => {
                let lines: String = many
                    .iter()
                    .map(|value| format!("    {},\n", value.spelled(kind)))
                    .collect();
                format!("[\n{lines}]")
            }
        },
        (kind, [value, ..]) => value.spelled(kind),
        (_, []) => String::new(),
    }
}

impl Value {
    /// As a file spells it, for a key of this kind.
    pub fn spelled(&self, kind: Kind) -> String {
        match (self, kind) {
            (Value::Word(word), _) => quoted(word),
            (Value::Flag(flag), _) => flag.to_string(),
            (Value::Text(text), _) => quoted(text),
            (Value::Path(path), _) => quoted(&path.spelled()),
            (Value::Port(port), _) => port.to_string(),
            (Value::Variable(name, value), _) => format!("{name} = {}", quoted(value)),
            (Value::SoftHard(soft, hard), _) => format!("{{ soft = {soft}, hard = {hard} }}"),
            (Value::Rule(rule), _) => inline(rule),
            (Value::Rules(set), _) => {
                let CommandRules {
                    default,
                    unreadable,
                    rules,
                } = &**set;
                let rules: Vec<_> = rules.iter().map(inline).collect();
                let rules = rules.join(", ");
                format!("{{ default = \"{default}\", unreadable = \"{unreadable}\", rules = [{rules}] }}")
            }
            (Value::Amount(None), _) => quoted("unlimited"),
            (Value::Amount(Some(amount)), Kind::Size | Kind::SizeOrUnlimited) => quoted(&size(*amount)),
            (Value::Amount(Some(amount)), Kind::DurationOrUnlimited | Kind::Grace | Kind::Wait) => {
                quoted(&duration(std::time::Duration::from_millis(*amount)))
            }
            (Value::Amount(Some(amount)), Kind::Cpus) => {
                let (whole, rest) = (amount / 1000, amount % 1000);
                match rest {
                    0 => whole.to_string(),
                    rest => format!("{whole}.{}", format!("{rest:03}").trim_end_matches('0')),
                }
            }
            (Value::Amount(Some(amount)), _) => amount.to_string(),
        }
    }
}

/// A rule as an inline table, without its examples.
fn inline(rule: &Rule) -> String {
    let Rule {
        program,
        args,
        exact,
        has,
        decision,
        reason,
        matches: _,
        no_match: _,
    } = rule;
    let words = |list: &[Pattern]| {
        let quoted: Vec<_> = list.iter().map(|Pattern(text)| quoted(text)).collect();
        format!("[{}]", quoted.join(", "))
    };
    let mut text = format!("{{ program = {}", words(program));
    if !args.is_empty() {
        let args: Vec<_> = args
            .iter()
            .map(|ArgPattern(alternatives)| words(alternatives))
            .collect();
        let _ = write!(text, ", args = [{}]", args.join(", "));
    }
    if *exact {
        text.push_str(", exact = true");
    }
    if !has.is_empty() {
        let _ = write!(text, ", has = {}", words(has));
    }
    let _ = write!(text, ", decision = \"{decision}\"");
    if !reason.is_empty() {
        let _ = write!(text, ", reason = {}", quoted(reason));
    }
    text.push_str(" }");
    text
}

/// A basic string of TOML.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => drop(write!(quoted, "\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
