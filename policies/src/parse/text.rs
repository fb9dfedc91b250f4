//! Words: names, choices, variables, and the nearest valid one.

use toml::de::DeValue;

use super::Problem;
use crate::calls::{CallKind, call_kind, calls};
use crate::error::quoted;

const MAX_DESCRIPTION_CHARS: usize = 1024;
/// `MAX_ARG_STRLEN` of Linux: the longest `NAME=value` that exec takes, with its NUL.
const MAX_VARIABLE_BYTES: usize = 128 * 1024;
/// Longer words are not compared: nobody mistypes so much.
const MAX_COMPARED_CHARS: usize = 40;

fn string<'v>(value: &'v DeValue<'_>, help: &str) -> Result<&'v str, Problem> {
    match value {
        DeValue::String(text) => Ok(text),
        other => Err(Problem::expected("a string", other, help)),
    }
}

/// The name of a policy.
pub(super) fn name(value: &DeValue<'_>) -> Result<String, Problem> {
    const HELP: &str = "write 1 to 64 of a-z, 0-9 and -";
    let name = string(value, HELP)?;
    if is_name(name) {
        Ok(name.to_owned())
    } else {
        Err(Problem::new(
            format!("`{}` is not a name of a policy", quoted(name)),
            HELP,
        ))
    }
}

/// One line about a policy.
pub(super) fn description(value: &DeValue<'_>) -> Result<String, Problem> {
    const HELP: &str = "write one line in quotes";
    let text = string(value, HELP)?;
    if text.chars().any(char::is_control) {
        return Err(Problem::new(
            "the description has a line break or another control character",
            HELP,
        ));
    }
    if text.chars().count() > MAX_DESCRIPTION_CHARS {
        let help = format!("at most {MAX_DESCRIPTION_CHARS} characters");
        return Err(Problem::new("the description is too long", help));
    }
    Ok(text.to_owned())
}

/// A value that is one of a few words.
pub(super) fn word(value: &DeValue<'_>, words: &'static [&'static str]) -> Result<&'static str, Problem> {
    one_of(string(value, &possible(words))?, words)
}

/// One of a few words.
pub(super) fn one_of(word: &str, words: &'static [&'static str]) -> Result<&'static str, Problem> {
    if let Some(found) = words.iter().find(|name| **name == word) {
        return Ok(found);
    }
    let help = match nearest(word, words.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => possible(words),
    };
    Err(Problem::new(format!("`{}` is not possible here", quoted(word)), help))
}

fn possible(words: &[&str]) -> String {
    let names: Vec<_> = words.iter().map(|name| format!("\"{name}\"")).collect();
    format!("write {}", names.join(" or "))
}

/// The name of a system call, as the kernel writes it, of another kind than `wrong`.
pub(super) fn system_call(name: &str, wrong: CallKind) -> Result<String, Problem> {
    let shown = quoted(name);
    match call_kind(name) {
        Some(CallKind::Never) if wrong == CallKind::Never => Err(Problem::new(
            format!("`{shown}` is a call that no policy can allow"),
            "remove it",
        )),
        Some(CallKind::Needed) if wrong == CallKind::Needed => Err(Problem::new(
            format!("without `{shown}` no command can be started"),
            "remove it",
        )),
        Some(_) => Ok(name.to_owned()),
        None => Err(Problem::new(
            format!("there is no system call `{shown}`"),
            match nearest(name, calls().map(|(known, _)| known)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write it as the kernel does: \"ptrace\"".to_owned(),
            },
        )),
    }
}

/// An entry of `extends`: a name, or a path relative to the file.
pub(super) fn reference(text: &str) -> Result<String, Problem> {
    const HELP: &str = "write the name of a policy, \"default\", or a path relative to this file, \"./base.toml\"";
    let wrong = || {
        Problem::new(
            format!("`{}` is neither a name nor a relative path", quoted(text)),
            HELP,
        )
    };
    if text.starts_with("./") || text.starts_with("../") {
        let fine = text.ends_with(".toml") && text.len() <= 4095 && !text.chars().any(char::is_control);
        return if fine { Ok(text.to_owned()) } else { Err(wrong()) };
    }
    match is_name(text) {
        true => Ok(text.to_owned()),
        false => Err(wrong()),
    }
}

fn is_name(name: &str) -> bool {
    let valid = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(valid)
}

/// An entry of `environment.pass`.
pub(super) fn pass_pattern(text: &str) -> Result<String, Problem> {
    const HELP: &str = "`*` may stand at the end of a name: \"LC_*\"";
    check_name_pattern(text, text.strip_suffix('*').unwrap_or(text), HELP)?;
    if text == "*" {
        return Err(Problem::new(
            "not everything can be passed on",
            "list the names, or beginnings of names: \"LC_*\"",
        ));
    }
    Ok(text.to_owned())
}

/// An entry of `environment.never`.
pub(super) fn never_pattern(text: &str) -> Result<String, Problem> {
    const HELP: &str = "`*` may stand at the start, the end or both: \"*_TOKEN\", \"AWS_*\", \"*SECRET*\"";
    let core = text.strip_prefix('*').unwrap_or(text);
    let core = core.strip_suffix('*').unwrap_or(core);
    check_name_pattern(text, core, HELP)?;
    if core.is_empty() && text != "*" {
        return Err(Problem::new(format!("`{text}` has no name in it"), HELP));
    }
    Ok(text.to_owned())
}

fn check_name_pattern(text: &str, core: &str, star_help: &str) -> Result<(), Problem> {
    if text.is_empty() {
        return Err(Problem::new("the name is empty", "write a name, or remove the entry"));
    }
    if text.contains('=') {
        return Err(Problem::new(
            "`=` in the name of a variable",
            "write the name alone; values belong in `[environment.set]`",
        ));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Problem::new(
            "a space or control character in the name of a variable",
            "write the name without it",
        ));
    }
    if text.starts_with('$') {
        return Err(Problem::new(
            "`$` in the name of a variable",
            "write the name without it",
        ));
    }
    if core.contains('*') {
        return Err(Problem::new(format!("`*` inside `{}`", quoted(text)), star_help));
    }
    Ok(())
}

/// A name in `[environment.set]`.
pub(super) fn variable_name(name: &str) -> Result<(), Problem> {
    let valid = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    if name.is_empty() || !valid || name.starts_with(|c: char| c.is_ascii_digit()) {
        let help = "write letters of A-Z and a-z, digits and _, with no digit first";
        return Err(Problem::new("not the name of a variable", help));
    }
    Ok(())
}

/// A value in `[environment.set]`.
pub(super) fn variable_value(name: &str, value: &DeValue<'_>) -> Result<String, Problem> {
    let value = string(value, "put the value in quotes")?;
    if value.contains('\0') {
        return Err(Problem::new(
            "a NUL character in the value of a variable",
            "write the value without it",
        ));
    }
    // With `=` and NUL.
    if name.len() + value.len() + 2 > MAX_VARIABLE_BYTES {
        let help = format!("name and value have at most {MAX_VARIABLE_BYTES} bytes");
        return Err(Problem::new("the value is too long", help));
    }
    Ok(value.to_owned())
}

/// The option that `word` was most likely meant to be, if one is near enough to say so.
pub(super) fn nearest<'o>(word: &str, options: impl Iterator<Item = &'o str>) -> Option<&'o str> {
    let word = word.to_lowercase().replace('_', "-");
    if word.chars().count() > MAX_COMPARED_CHARS {
        return None;
    }
    let near = options
        .map(|option| (distance(&word, option), option))
        .min_by_key(|(distance, _)| *distance)?;
    // A third of the word may be wrong, and of a short one a letter.
    let bound = (word.chars().count() / 3).max(1);
    (near.0 <= bound).then_some(near.1)
}

/// Levenshtein distance, with a swap of neighbours as one step.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("wall", "wal", 1),
            ("raed", "read", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_is_named_only_when_it_is_near() {
        let options = ["wall", "idle", "cpu-time", "memory", "open-files"];
        for (word, expected) in [
            ("wal", Some("wall")),
            ("cpu_time", Some("cpu-time")),
            ("CPU_TIME", Some("cpu-time")),
            ("memroy", Some("memory")),
            ("openfiles", Some("open-files")),
            ("x", None),
            ("", None),
            ("network", None),
        ] {
            assert_eq!(nearest(word, options.into_iter()), expected, "{word}");
        }
        assert_eq!(nearest(&"wall".repeat(1000), options.into_iter()), None);
    }

    #[test]
    fn stars_stand_where_the_list_says() {
        for text in ["PATH", "LC_*", "npm_config_prefix", "ProgramFiles(x86)"] {
            assert_eq!(pass_pattern(text).as_deref(), Ok(text));
        }
        for text in ["", "*", "*_X", "*X*", "A*B", "A**", "A=B", "A B", "$A", "A\0", "A\n"] {
            assert!(pass_pattern(text).is_err(), "{text}");
        }
        for text in ["PATH", "LC_*", "*_TOKEN", "*SECRET*", "*"] {
            assert_eq!(never_pattern(text).as_deref(), Ok(text));
        }
        for text in ["", "**", "***", "A*B", "*A*B", "**A", "A**", "*A**", "A=B", "* A"] {
            assert!(never_pattern(text).is_err(), "{text}");
        }
    }
}
