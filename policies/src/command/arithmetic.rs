//! What arithmetic sets: `((PATH=1))`, `$((PATH++))`, `a[PATH=1]=2`, `${x:PATH=1}`. Bash reads the value of a variable in it as arithmetic once
//! more, so that `x=PATH=1; ((x))` sets it as well.

/// The names of variables that an arithmetic text gives a value.
pub(super) fn set_in(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let begin = at;
        if !is_name(bytes[at]) {
            at += 1;
            continue;
        }
        while at < bytes.len() && is_name(bytes[at]) {
            at += 1;
        }
        let name = &text[begin..at];
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let before = text[..begin].trim_end();
        let mut after = text[at..].trim_start();
        // An element of an array is one of it.
        if let Some(index) = after.strip_prefix('[') {
            after = index.split_once(']').map_or("", |(_, after)| after).trim_start();
        }
        if before.ends_with("++") || before.ends_with("--") || sets(after) {
            found.push(name);
        }
    }
    found
}

/// Whether an arithmetic text reads any variable.
pub(super) fn reads(text: &str) -> bool {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .any(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
}

/// Whether what follows a name gives it a value.
fn sets(after: &str) -> bool {
    if after.starts_with("++") || after.starts_with("--") {
        return true;
    }
    let operator = after.trim_start_matches(['+', '-', '*', '/', '%', '&', '^', '|', '<', '>']);
    // `a <= b` and `a >= b` compare, `a <<= b` and `a >>= b` set.
    let compares = matches!(&after[..after.len() - operator.len()], "<" | ">");
    !compares && operator.starts_with('=') && !operator.starts_with("==")
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_told_from_what_is_compared() {
        for (text, set) in [
            ("PATH=1", &["PATH"][..]),
            (" i = 0", &["i"]),
            ("a[1] += 2, b++", &["a", "b"]),
            ("--n", &["n"]),
            ("x <<= 2", &["x"]),
            ("a == b", &[]),
            ("a <= b || c >= d || e != f", &[]),
            ("1 + 2 * n", &[]),
            ("$PATH", &[]),
            ("0x1f=2", &[]),
        ] {
            assert_eq!(set_in(text), set, "{text}");
        }
        assert!(reads("1 + n") && !reads("1 + 0x1f * (2)"));
    }
}
