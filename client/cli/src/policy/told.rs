//! What is said about policies, for people and as JSON.

use fumehood_policies::{Answer, Change, Diff, Lint, Reason, Tried};
use serde_json::{Value, json};

use super::source::{Source, Wrong};
use crate::json::hex;
use crate::table;

/// Characters of a value that a table of a whole policy shows; `show --resolved` has all.
const VALUE_CHARS: usize = 60;
/// Characters of a line with several names.
const LIST_CHARS: usize = 100;

/// Text as it may stand on a terminal: nothing in it moves the cursor or turns the direction.
#[must_use]
pub fn safe(text: &str) -> String {
    let fit = |c: char| match c {
        '\n' => c,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(fit).collect()
}

/// `1 warning`, `2 warnings`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A lint, with what to do.
pub fn lint(lint: &Lint) -> String {
    let (line, column) = lint.place.position();
    format!(
        "{}:{line}:{column}: {}: {}: {}\nhelp: {}\n",
        lint.place.origin(),
        lint.level.name(),
        lint.key,
        lint.message,
        lint.help
    )
}

/// The whole policy: every value with where it comes from.
pub fn policy(source: &Source) -> String {
    let policy = &source.resolved.policy;
    let mut rows = vec![["KEY", "VALUE", "FROM"].map(str::to_owned).to_vec()];
    let mut last = String::new();
    for line in source.resolved.lines() {
        let from = match (line.place.is_empty(), line.by_default) {
            (true, _) => "not stated".to_owned(),
            (false, true) => format!("{} (not stated)", line.place),
            (false, false) => line.place,
        };
        // A list says its key once.
        let key = if line.key == last {
            String::new()
        } else {
            line.key.clone()
        };
        last = line.key;
        let value = match line.value.char_indices().nth(VALUE_CHARS) {
            Some((end, _)) => format!("{}...", line.value.get(..end).unwrap_or_default()),
            None => line.value,
        };
        rows.push(vec![key, value, from]);
    }
    let head = format!("policy {} (digest {})\n\n", policy.name, hex(&policy.digest.0));
    safe(&(head + &table::lines(&rows).join("\n") + "\n"))
}

/// One question, what is decided and why.
pub fn answer(answer: &Answer) -> String {
    let mut text = format!("{}: {}\n", answer.question, answer.verdict.name());
    let rows: Vec<Vec<String>> = answer.reasons.iter().map(row).collect();
    for line in table::lines(&rows) {
        text += &format!("  {line}\n");
    }
    for help in &answer.help {
        text += &format!("  to allow it: {help}\n");
    }
    safe(&text)
}

fn row(reason: &Reason) -> Vec<String> {
    let Some(line) = &reason.line else {
        return vec![reason.text.clone()];
    };
    let from = match (line.place.is_empty(), line.by_default) {
        (true, _) => "not stated".to_owned(),
        (false, true) => format!("{} (not stated)", line.place),
        (false, false) => line.place.clone(),
    };
    // Of a rule its reason is said already.
    let what = match line.key.starts_with("commands.rules") {
        true => line.key.clone(),
        false => format!("{} = {}", line.key, line.value),
    };
    vec![reason.text.clone(), what, from]
}

/// An expectation that does not hold.
pub fn failed(tried: &Tried) -> String {
    let told = answer(&tried.answer);
    format!(
        "{}: expected {}\n  {}",
        tried.place,
        tried.expected.name(),
        told.replace('\n', "\n  ").trim_end()
    ) + "\n"
}

/// Two policies compared.
pub fn diff(a: &Source, b: &Source, diff: &Diff) -> String {
    let (a, b) = (a.file.origin(), b.file.origin());
    let mut text = String::new();
    for (head, changes) in [
        (format!("{b} lets through what {a} does not:"), &diff.wider),
        (format!("{a} lets through what {b} does not:"), &diff.narrower),
        (format!("Also different in {b}:"), &diff.other),
    ] {
        if changes.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text += &format!("{head}\n");
        let mut changes: Vec<&Change> = changes.iter().collect();
        changes.sort_by_key(|change| change.group);
        let mut group = None;
        let mut rows: Vec<Vec<String>> = Vec::new();
        for change in changes {
            let first = group != Some(change.group);
            group = Some(change.group);
            // Variables are many and short: several to a line.
            let last = rows.last_mut().and_then(|row| row.last_mut()).filter(|_| !first);
            if let (Some(last), Some(name)) = (last, change.text.strip_prefix("pass "))
                && last.starts_with("pass ")
                && last.len() + name.len() < LIST_CHARS
            {
                *last += &format!(", {name}");
                continue;
            }
            let name = if first { change.group.name() } else { "" };
            rows.push(vec![name.to_owned(), change.text.clone()]);
        }
        for line in table::lines(&rows) {
            text += &format!("  {line}\n");
        }
    }
    if diff.is_empty() {
        let all = if diff.complete { "" } else { " in what was compared" };
        text = format!("Neither {a} nor {b} lets anything through that the other does not{all}.\n{text}");
    }
    if !diff.complete {
        text += "Not everything was compared: there are too many paths or rules.\n";
    }
    safe(&text)
}

pub fn diff_json(a: &Source, b: &Source, diff: &Diff) -> Value {
    let list = |changes: &[Change]| -> Vec<Value> {
        let one = |change: &Change| json!({ "group": change.group.name(), "text": change.text });
        changes.iter().map(one).collect()
    };
    json!({
        "a": about(a), "b": about(b), "complete": diff.complete,
        "wider": list(&diff.wider), "narrower": list(&diff.narrower), "other": list(&diff.other),
    })
}

pub fn explained_json(source: &Source, answers: &[Answer]) -> Value {
    let lines: Vec<Value> = source.resolved.lines().iter().map(line_json).collect();
    let answers: Vec<Value> = answers.iter().map(answer_json).collect();
    json!({ "policy": about(source), "lines": lines, "answers": answers })
}

fn about(source: &Source) -> Value {
    let policy = &source.resolved.policy;
    json!({ "name": policy.name, "origin": source.file.origin(), "digest": hex(&policy.digest.0) })
}

pub fn answer_json(answer: &Answer) -> Value {
    let reason = |reason: &Reason| {
        json!({
            "verdict": reason.verdict.name(), "text": reason.text, "line": reason.line.as_ref().map(line_json),
        })
    };
    json!({
        "question": answer.question, "verdict": answer.verdict.name(), "help": answer.help,
        "reasons": answer.reasons.iter().map(reason).collect::<Vec<_>>(),
    })
}

fn line_json(line: &fumehood_policies::Line) -> Value {
    json!({ "key": line.key, "value": line.value, "place": line.place, "by_default": line.by_default })
}

pub fn wrong_json(file: &str, wrong: &Wrong) -> Value {
    let errors: Vec<Value> = match wrong {
        Wrong::Parse(errors) => {
            let one = |(origin, error): (&str, &fumehood_policies::ParseError)| {
                json!({
                    "file": origin, "line": error.line, "column": error.column, "key": error.path,
                    "message": error.message, "help": error.help,
                })
            };
            errors.all().into_iter().map(one).collect()
        }
        other => vec![json!({ "file": file, "message": other.to_string() })],
    };
    json!({ "file": file, "ok": false, "errors": errors, "lints": [] })
}
