//! Takes what looks like a secret out of a command line before it is recorded.
//!
//! A command line holds secrets in few shapes: a flag or variable whose name says so (`--password=x`, `--token x`,
//! `DB_PASSWORD=x`), an HTTP header, the password of a URL, and tokens that carry their issuer's prefix. Each is replaced by
//! [`REDACTED`]; what stays is still a readable command. This is a net under the real rule, which is to pass secrets by
//! environment: environment values are never recorded at all. It errs on the side of redacting.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::bytes::{Captures, Regex, RegexBuilder};

/// What stands where a secret was.
pub const REDACTED: &str = "[redacted]";

/// Words that make a flag's or variable's name secret: `--db-password`, `GITHUB_TOKEN`, `authToken`.
const SECRET_WORDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pass",
    "secret",
    "token",
    "apikey",
    "credential",
    "credentials",
    "pat",
];

/// Words that make `key` secret when they stand before it: `--api-key`, `AWS_SECRET_ACCESS_KEY`.
const SECRET_KEYS: &[&str] = &[
    "api",
    "access",
    "private",
    "secret",
    "encryption",
    "signing",
    "account",
    "auth",
    "master",
];

/// Last words that say the value is about a secret, not the secret: `--password-file`, `credential.helper`.
const HARMLESS_LAST_WORDS: &[&str] = &[
    "file", "path", "dir", "stdin", "fd", "name", "id", "url", "uri", "endpoint", "ttl", "type", "length", "len",
    "count", "limit", "policy", "prompt", "helper", "store", "env", "var",
];

/// Shapes that are secret wherever they stand. The group `keep`, if there is one, stays.
const SHAPES: &[(&str, &str)] = &[
    (
        "PEM private key",
        r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
    ),
    (
        "authorization header",
        r#"(?i)(?P<keep>authorization["']?\s*[:=]\s*["']?(?:(?:bearer|basic|token|digest|negotiate|apikey)\s+)?)[^\s"']+"#,
    ),
    ("bearer token", r"(?i)(?P<keep>\bbearer\s+)[a-z0-9._~+/=-]{8,}"),
    ("cookie header", r#"(?i)(?P<keep>\b(?:set-)?cookie:\s*)[^"'\r\n]+"#),
    (
        "password in a URL",
        r#"(?i)(?P<keep>\b[a-z][a-z0-9+.-]*://[^\s/:@'"]*:)[^\s/@'"]+@"#,
    ),
    ("AWS access key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    (
        "GitHub token",
        r"\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{20,}",
    ),
    ("GitLab token", r"\bgl(?:pat|ptt|rt|dt|cbt)-[A-Za-z0-9_-]{16,}"),
    ("Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    (
        "OpenAI, Anthropic or Stripe key",
        r"\b(?:sk|rk|pk)[-_][A-Za-z0-9_-]{20,}",
    ),
    ("Google key", r"\bAIza[0-9A-Za-z_-]{30,}|\bya29\.[0-9A-Za-z_-]{20,}"),
    (
        "npm, PyPI or Hugging Face token",
        r"\bnpm_[A-Za-z0-9]{30,}|\bpypi-[A-Za-z0-9_-]{40,}|\bhf_[A-Za-z0-9]{30,}",
    ),
    (
        "JSON web token",
        r"\beyJ[A-Za-z0-9_-]{5,}\.eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*",
    ),
];

/// Programs with short options that carry a password: program, option, whether the value is joined to it.
const SHORT_OPTIONS: &[(&str, &str, bool)] = &[
    ("curl", "-u", false),
    ("curl", "--user", false),
    ("curl", "--proxy-user", false),
    ("wget", "--user", false),
    ("sshpass", "-p", false),
    ("sshpass", "-p", true),
    ("mysql", "-p", true),
    ("mysqldump", "-p", true),
    ("mariadb", "-p", true),
];

static SHAPE_PATTERNS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| SHAPES.iter().map(|(_, shape)| pattern(shape)).collect());

/// Programs that take a script as one argument: `PASSWORD=x command` is an assignment there, not a value with a blank.
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "fish", "busybox"];

/// What stands before a value: `name=`, `name: `, `"name": `, `--name `; the name decides.
static NAMED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"(?P<dash>--?)?\b(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)(?P<sep>\\?["']?\s*[=:]\s*|\s+)"#));

/// A value: quoted, in escaped quotes, or up to what ends a shell word. An open quote reaches to the end.
static VALUE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"(?s)\A(?:\\"(?:[^"\\]|\\[^"])*(?:\\")?|"(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s"'&;|,}]+)"#));

fn pattern(source: &str) -> Regex {
    RegexBuilder::new(source)
        .unicode(false)
        .build()
        .expect("the patterns of this module are valid")
}

/// The command line as it may be recorded: as many arguments as were given, secrets replaced.
pub fn redact_argv<T: AsRef<[u8]>>(argv: &[T]) -> Vec<Cow<'_, [u8]>> {
    let program = argv.first().map_or(&b""[..], |argument| basename(argument.as_ref()));
    let mut value_follows = false;
    argv.iter()
        .map(|argument| {
            let argument = argument.as_ref();
            if std::mem::take(&mut value_follows) && !argument.starts_with(b"-") {
                return Cow::Borrowed(REDACTED.as_bytes());
            }
            value_follows = takes_secret(program, argument);
            redact_argument(program, argument)
        })
        .collect()
}

/// A text, for instance a label's value or a script, with its secrets replaced.
pub fn redact_text(text: &[u8]) -> Cow<'_, [u8]> {
    let mut text = Cow::Borrowed(text);
    for pattern in SHAPE_PATTERNS.iter() {
        if let Cow::Owned(redacted) = pattern.replace_all(&text, |found: &Captures<'_>| {
            let mut kept = found
                .name("keep")
                .map(|kept| kept.as_bytes().to_vec())
                .unwrap_or_default();
            kept.extend_from_slice(REDACTED.as_bytes());
            if found[0].ends_with(b"@") {
                kept.push(b'@');
            }
            kept
        }) {
            text = Cow::Owned(redacted);
        }
    }
    match redact_named(&text) {
        Some(redacted) => Cow::Owned(redacted),
        None => text,
    }
}

/// Replaces the values of secret names. Where a name is harmless the search goes on inside its value, so that
/// `--env=TOKEN=x` and a URL's query are seen.
fn redact_named(text: &[u8]) -> Option<Vec<u8>> {
    let mut redacted = Vec::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = NAMED.captures_at(text, at) {
        at = found.get(0).map_or(text.len(), |whole| whole.end());
        let spaced = !found["sep"].iter().any(|byte| matches!(byte, b'=' | b':'));
        let applies = !spaced || (found.name("dash").is_some() && text.get(at) != Some(&b'-'));
        if applies
            && is_secret_name(&found["name"])
            && let Some(value) = VALUE.find(&text[at..])
            && !value.as_bytes().starts_with(REDACTED.as_bytes())
        {
            redacted.extend_from_slice(&text[copied..at]);
            redacted.extend_from_slice(REDACTED.as_bytes());
            at += value.end();
            copied = at;
        }
    }
    (copied > 0).then(|| {
        redacted.extend_from_slice(&text[copied..]);
        redacted
    })
}

fn redact_argument<'a>(program: &[u8], argument: &'a [u8]) -> Cow<'a, [u8]> {
    let joined = SHORT_OPTIONS.iter().find(|(of, option, joined)| {
        *joined && of.as_bytes() == program && argument.starts_with(option.as_bytes()) && argument.len() > option.len()
    });
    if let Some((_, option, _)) = joined {
        return Cow::Owned([option.as_bytes(), REDACTED.as_bytes()].concat());
    }
    // A whole argument `--password=two words` or `PASSWORD=two words`: everything after the sign is the value.
    if let Some(sign) = argument.iter().position(|&byte| byte == b'=') {
        let name = &argument[..sign];
        let whole = name.starts_with(b"-") || !SHELLS.iter().any(|shell| shell.as_bytes() == program);
        let plain = name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte));
        if whole && plain && is_secret_name(name) && sign + 1 < argument.len() {
            return Cow::Owned([&argument[..=sign], REDACTED.as_bytes()].concat());
        }
    }
    redact_text(argument)
}

/// Whether the argument is a flag whose value, the next argument, is a secret.
fn takes_secret(program: &[u8], argument: &[u8]) -> bool {
    let known = SHORT_OPTIONS
        .iter()
        .any(|(of, option, joined)| !joined && of.as_bytes() == program && option.as_bytes() == argument);
    let name = argument.strip_prefix(b"--").or_else(|| argument.strip_prefix(b"-"));
    known || name.is_some_and(|name| !name.contains(&b'=') && !name.contains(&b' ') && is_secret_name(name))
}

pub(super) fn is_secret_name(name: &[u8]) -> bool {
    let words = words(name);
    let harmless = words.first().is_some_and(|first| first == "no")
        || words
            .last()
            .is_some_and(|last| HARMLESS_LAST_WORDS.contains(&last.as_str()));
    !harmless
        && (words
            .iter()
            .any(|word| SECRET_WORDS.contains(&word.as_str()) || word.ends_with("password"))
            || words
                .windows(2)
                .any(|pair| pair[1] == "key" && SECRET_KEYS.contains(&pair[0].as_str()))
            || (words.len() > 1 && words.last().is_some_and(|last| last == "pwd")))
}

/// The lower-case words of a name, cut at `-`, `_`, `.` and where lower case turns to upper (`authToken`).
fn words(name: &[u8]) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for &byte in name {
        let cut = matches!(byte, b'-' | b'_' | b'.');
        if (cut || (lower && byte.is_ascii_uppercase())) && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if !cut && let Some(word) = words.last_mut() {
            word.push(char::from(byte.to_ascii_lowercase()));
        }
        lower = byte.is_ascii_lowercase();
    }
    words
}

fn basename(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(line: &[&str]) -> String {
        let argv: Vec<String> = redact_argv(line)
            .iter()
            .map(|argument| String::from_utf8(argument.to_vec()).unwrap())
            .collect();
        argv.join("|")
    }

    #[test]
    fn secrets_are_replaced_and_the_rest_stays_readable() {
        let table: &[(&[&str], &str)] = &[
            (&["tool", "--password=hunter2"], "tool|--password=[redacted]"),
            (&["tool", "--password=two words"], "tool|--password=[redacted]"),
            (&["tool", "--token", "abc", "next"], "tool|--token|[redacted]|next"),
            (&["tool", "--api-key", "abc"], "tool|--api-key|[redacted]"),
            (&["tool", "--authToken=abc"], "tool|--authToken=[redacted]"),
            (&["env", "DB_PASSWORD=x y", "psql"], "env|DB_PASSWORD=[redacted]|psql"),
            (
                &["env", "AWS_SECRET_ACCESS_KEY=abc"],
                "env|AWS_SECRET_ACCESS_KEY=[redacted]",
            ),
            (
                &["docker", "run", "--env=API_TOKEN=abc", "img"],
                "docker|run|--env=API_TOKEN=[redacted]|img",
            ),
            (
                &["/bin/sh", "-c", "PGPASSWORD=x psql"],
                "/bin/sh|-c|PGPASSWORD=[redacted] psql",
            ),
            (
                &["sh", "-c", "f='{\\\"token\\\": \\\"a b\\\"}'"],
                "sh|-c|f='{\\\"token\\\": [redacted]}'",
            ),
            (
                &["sh", "-c", "tool --password=\"a b"],
                "sh|-c|tool --password=[redacted]",
            ),
            (
                &["sh", "-c", "tool --token abc && ls"],
                "sh|-c|tool --token [redacted] && ls",
            ),
            (
                &["sh", "-c", "tool --token='a b' ok"],
                "sh|-c|tool --token=[redacted] ok",
            ),
            (
                &["curl", "-H", "Authorization: Bearer abc.def"],
                "curl|-H|Authorization: Bearer [redacted]",
            ),
            (
                &["curl", "-HAuthorization: Basic dTpw"],
                "curl|-HAuthorization: Basic [redacted]",
            ),
            (&["curl", "-H", "X-Api-Key: abc"], "curl|-H|X-Api-Key: [redacted]"),
            (&["curl", "-H", "Cookie: a=b; c=d"], "curl|-H|Cookie: [redacted]"),
            (
                &["/usr/bin/curl", "-u", "me:pw", "https://h"],
                "/usr/bin/curl|-u|[redacted]|https://h",
            ),
            (
                &["curl", "https://h/?token=abc&page=2"],
                "curl|https://h/?token=[redacted]&page=2",
            ),
            (
                &["curl", "-d", "{\"password\": \"abc\", \"n\": 1}"],
                "curl|-d|{\"password\": [redacted], \"n\": 1}",
            ),
            (
                &["git", "clone", "https://me:pw@host/r"],
                "git|clone|https://me:[redacted]@host/r",
            ),
            (&["mysql", "-psecret", "db"], "mysql|-p[redacted]|db"),
            (&["sshpass", "-p", "x", "ssh", "h"], "sshpass|-p|[redacted]|ssh|h"),
            (&["echo", "AKIAIOSFODNN7EXAMPLE"], "echo|[redacted]"),
            (&["echo", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"], "echo|[redacted]"),
            (&["echo", "a sk-ant-api03-abcdefghijklmnop b"], "echo|a [redacted] b"),
            (&["echo", "eyJhbGciOi.eyJzdWIiOi.c2ln"], "echo|[redacted]"),
            (
                &[
                    "tool",
                    "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
                ],
                "tool|[redacted]",
            ),
        ];
        for (line, expected) in table {
            assert_eq!(&redacted(line), expected);
        }
    }

    #[test]
    fn ordinary_command_lines_are_left_alone() {
        let table: &[&[&str]] = &[
            &["git", "push", "-u", "origin", "main"],
            &["cargo", "test", "--", "token", "password"],
            &["tool", "--max-tokens", "100", "--tokenizer=bpe"],
            &["tool", "--password-stdin", "--token-file=/x", "--secret-name", "n"],
            &["tool", "--no-password", "db"],
            &["git", "config", "credential.helper", "store"],
            &["git", "-c", "credential.helper=store", "fetch"],
            &["env", "PWD=/home/me", "PATH=/bin:/usr/bin", "ls"],
            &["docker", "run", "-u", "1000:1000", "img"],
            &["sort", "--key=2", "-k", "1"],
            &["sh", "-c", "for f in *; do echo \"$f: ok\"; done"],
            &["tool", "--token", "--verbose"],
            &["", "--", "-"],
        ];
        for line in table {
            assert_eq!(redacted(line), line.join("|"));
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_searched_too() {
        assert_eq!(&*redact_text(b"\xff--token=\xfe\xfd x"), b"\xff--token=[redacted] x");
        assert_eq!(&*redact_text(b"\xff\xfe"), b"\xff\xfe");
    }

    #[test]
    fn a_megabyte_is_searched_in_linear_time() {
        let long = "a=".repeat(1 << 19);
        assert_eq!(redact_text(long.as_bytes()).len(), long.len());
    }
}
