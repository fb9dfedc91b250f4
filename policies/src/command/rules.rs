//! The rules, and what they say about a line.

use std::fmt;

use super::options::Options;
use super::read::{Reading, SimpleCommand, harmless, read, read_line};
use super::shell::{GIT, GIT_SAME, is_git_command};
use super::word::Word;
use crate::words::words;

/// Of a command so many characters are shown.
const MAX_SHOWN_CHARS: usize = 200;
/// At most so many findings of one line are kept, the strictest first to be.
pub(super) const MAX_FINDINGS: usize = 64;

/// What is to be done with a command, from the laxest to the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Run it.
    #[default]
    Allow,
    /// Somebody has to approve it.
    Ask,
    /// Do not run it.
    Deny,
}

words!(Verdict { Deny = "deny", Ask = "ask", Allow = "allow" });

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word in which `*` stands for any bytes, none included. At most 256 bytes, no control characters, not empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(pub String);

/// One argument of a rule: any of these. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArgPattern(pub Vec<Pattern>);

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The programs that it is about: a pattern with a `/` is compared with the path as it was written, any other with its last part. Never empty.
    pub program: Vec<Pattern>,
    /// The first arguments, in order; what follows is free. git's options before its subcommand are passed over where the rule asks or denies.
    pub args: Vec<ArgPattern>,
    /// Whether nothing may follow `args`.
    pub exact: bool,
    /// At least one of these must be among the arguments after `args`, if any are listed. `--name` also stands for `--name=value`; where the rule asks
    /// or denies, also for its abbreviations (`--na`), and `-f` for a cluster with it (`-uf`).
    pub has: Vec<Pattern>,
    /// What is to be done.
    pub decision: Verdict,
    /// Shown to whoever asked. May be empty.
    pub reason: String,
    /// Lines that it must match: checked when a file is read. They decide nothing, and a [`Policy`](crate::Policy) has none.
    pub matches: Vec<String>,
    /// Lines that it must not match: the same.
    pub no_match: Vec<String>,
}

/// One set of rules. The default is that of a file without the section `[commands]`: everything is allowed and nothing is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommandRules {
    /// For a command that no rule matches.
    pub default: Verdict,
    /// For what could not be read. Never laxer than `default`.
    pub unreadable: Verdict,
    /// At most 256.
    pub rules: Vec<Rule>,
}

/// What the rules say about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Judgement {
    /// The strictest of all.
    pub verdict: Verdict,
    /// For each command, and each part that could not be read; for the whole where nothing is found that is allowed. At most 64, of more the strictest.
    pub findings: Vec<Finding>,
}

/// What the rules say about one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The command as it was read, quoted, escaped, at most 200 characters, with what it was read out of.
    pub command: String,
    /// What is to be done with it.
    pub verdict: Verdict,
    /// The rule that says so, by index in its set. `None`: `default` or `unreadable`.
    pub rule: Option<usize>,
    /// The place in the policy: `commands.rules[3]`, `commands.default`, `commands.unreadable`, `commands.ceilings[0].rules[3]`.
    pub place: String,
    /// Why: the rule's reason, or why it could not be read.
    pub reason: String,
}

/// A rule that makes no difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeverMatching {
    /// The rule, by index.
    pub rule: usize,
    /// The rule that is as strict or stricter and matches whatever it matches.
    pub hidden_by: usize,
}

impl Judgement {
    /// The finding that made the verdict.
    pub fn decisive(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.verdict == self.verdict)
    }
}

impl CommandRules {
    /// Whether every command is allowed, whatever it is.
    pub fn is_open(&self) -> bool {
        self.default == Verdict::Allow
            && self.unreadable == Verdict::Allow
            && self.rules.iter().all(|rule| rule.decision == Verdict::Allow)
    }

    /// Judges an argument vector. Time and memory are bounded whatever it holds: see [`read`](super::read).
    pub fn judge(&self, argv: &[Vec<u8>]) -> Judgement {
        if self.is_open() {
            return Judgement {
                verdict: Verdict::Allow,
                findings: Vec::new(),
            };
        }
        self.judge_reading(&read(argv))
    }

    /// Judges a line as bash would read it.
    pub fn judge_line(&self, line: &str) -> Judgement {
        self.judge_reading(&read_line(line))
    }

    /// Judges what was read.
    pub fn judge_reading(&self, reading: &Reading) -> Judgement {
        let mut findings: Vec<Finding> = Vec::new();
        let mut verdict = Verdict::Allow;
        for command in &reading.commands {
            let (decision, rule) = self.decide(command, reading);
            // A transparent one that no rule names is what it starts.
            if rule.is_none() && command.transparent {
                continue;
            }
            verdict = verdict.max(decision);
            let via: String = command.via.iter().map(|via| format!("{via}: ")).collect();
            findings.push(Finding {
                command: via + &command.show_variables() + &command.show(MAX_SHOWN_CHARS),
                verdict: decision,
                rule,
                place: rule.map_or("commands.default".to_owned(), |rule| format!("commands.rules[{rule}]")),
                reason: rule.map_or_else(
                    || self.why_none(command, reading),
                    |rule| self.rules[rule].reason.clone(),
                ),
            });
        }
        for command in &reading.commands {
            let Some(sub) = unknown_to_git(command).filter(|_| self.tells_git_apart()) else {
                continue;
            };
            // A rule that names it knows what it is.
            if let (_, Some(rule)) = self.decide(command, reading)
                && !self.rules[rule].args.is_empty()
            {
                continue;
            }
            verdict = verdict.max(self.unreadable);
            findings.push(Finding {
                command: command.show(MAX_SHOWN_CHARS),
                verdict: self.unreadable,
                rule: None,
                place: "commands.unreadable".to_owned(),
                reason: format!("cannot be read: `{sub}` is no command of git's own: an alias, or a program"),
            });
        }
        for part in &reading.unreadable {
            verdict = verdict.max(self.unreadable);
            findings.push(Finding {
                command: part.what.clone(),
                verdict: self.unreadable,
                rule: None,
                place: "commands.unreadable".to_owned(),
                reason: format!("cannot be read: {}", part.why),
            });
        }
        if findings.len() > MAX_FINDINGS {
            findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
            findings.truncate(MAX_FINDINGS);
        }
        if findings.is_empty() {
            verdict = verdict.max(self.default);
            // Where nothing is allowed there has to be a reason.
            if verdict != Verdict::Allow {
                findings.push(Finding {
                    command: (reading.commands.first())
                        .map_or_else(|| "an empty line".to_owned(), |command| command.show(MAX_SHOWN_CHARS)),
                    verdict,
                    rule: None,
                    place: "commands.default".to_owned(),
                    reason: "no command is found in it, and the default holds".to_owned(),
                });
            }
        }
        Judgement { verdict, findings }
    }

    /// Whether a rule forbids or asks about some of what git does.
    fn tells_git_apart(&self) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.decision != Verdict::Allow && !rule.args.is_empty() && rule.is_about_git())
    }

    /// Why no rule matches: variables keep those that allow from it.
    fn why_none(&self, command: &SimpleCommand, reading: &Reading) -> String {
        let own = command.assignments.iter().map(|one| &one.name);
        let mut names: Vec<String> = own
            .filter(|name| !harmless(name))
            .chain(&reading.variables)
            .take(8)
            .map(|name| super::word::printable(name.as_bytes()))
            .collect();
        names.sort();
        names.dedup();
        match names.is_empty() || !self.rules.iter().any(|rule| rule.decision == Verdict::Allow) {
            true => "no rule is about this command".to_owned(),
            false => format!(
                "no rule is about this command; one that allows does not hold where these are set: {}",
                names.join(", ")
            ),
        }
    }

    pub(super) fn decide(&self, command: &SimpleCommand, reading: &Reading) -> (Verdict, Option<usize>) {
        let matching = self
            .rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.matches(command, reading));
        // Of equally strict ones the first.
        let strictest = matching.max_by_key(|(index, rule)| (rule.decision, std::cmp::Reverse(*index)));
        match strictest {
            Some((index, rule)) => (rule.decision, Some(index)),
            None => (self.default, None),
        }
    }

    /// Rules that make no difference, because one that is as strict or stricter matches whatever they match.
    pub fn never_matching(&self) -> Vec<NeverMatching> {
        let mut found = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let hiding = self.rules.iter().enumerate().find(|(other_index, other)| {
                let first = other.decision > rule.decision || (other.decision == rule.decision && *other_index < index);
                index != *other_index && first && other.covers(rule)
            });
            if let Some((hidden_by, _)) = hiding {
                found.push(NeverMatching { rule: index, hidden_by });
            }
        }
        found
    }
}

impl Pattern {
    /// Whether these bytes are meant.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        glob(self.0.as_bytes(), bytes)
    }

    /// Whether a word could be meant.
    fn may_match(&self, word: &Word) -> bool {
        match word {
            Word::Known(bytes) => self.matches(bytes),
            Word::Dynamic { prefix, suffix, .. } => {
                let pattern = self.0.as_bytes();
                let literal = pattern.iter().position(|byte| *byte == b'*');
                let head = &pattern[..literal.unwrap_or(pattern.len())];
                let tail = &pattern[pattern.iter().rposition(|byte| *byte == b'*').map_or(0, |at| at + 1)..];
                let fits = literal.is_some() || prefix.len() + suffix.len() <= pattern.len();
                fits && (head.starts_with(prefix) || (literal.is_some() && prefix.starts_with(head)))
                    && (tail.ends_with(suffix) || (literal.is_some() && suffix.ends_with(tail)))
            }
        }
    }
}

/// `*` stands for any bytes. Time is the product of the lengths at worst: it goes back to the last `*` only.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            back = Some((p + 1, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((after, from)) = back {
            back = Some((after, from + 1));
            (p, t) = (after, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl Rule {
    /// Whether this rule is about a command that was read.
    pub fn matches(&self, command: &SimpleCommand, reading: &Reading) -> bool {
        if self.decision == Verdict::Allow {
            self.surely(command, reading)
        } else {
            self.maybe(command)
        }
    }

    /// Whether it matches a command of the line.
    pub fn matches_line(&self, line: &str) -> bool {
        let reading = read_line(line);
        reading.commands.iter().any(|command| self.matches(command, &reading))
    }

    fn surely(&self, command: &SimpleCommand, reading: &Reading) -> bool {
        let known = !reading.changed_environment
            && command.assignments.iter().all(|assignment| harmless(&assignment.name))
            && !command.redirects.iter().any(super::read::Redirect::changes_something);
        let args: Option<Vec<&[u8]>> = command.args.iter().map(Word::bytes).collect();
        let (true, Some(program), Some(mut args)) = (known, command.program.bytes(), args) else {
            return false;
        };
        let named = |at: usize, word: &[u8]| {
            let patterns = self.args.get(at).map_or(&self.has, |arg| &arg.0);
            patterns
                .iter()
                .any(|pattern| !pattern.0.starts_with('*') && has_surely(pattern, word))
        };
        if !command
            .doors
            .iter()
            .all(|at| args.get(*at).is_some_and(|word| named(*at, word)))
        {
            return false;
        }
        let options = program.rsplit(|byte| *byte == b'/').next() == Some(b"git")
            && !self
                .args
                .first()
                .is_some_and(|arg| arg.0.iter().any(|pattern| pattern.0.starts_with('-')));
        if options {
            let plain = args.iter().take_while(|word| GIT_PLAIN.contains(word)).count();
            args.drain(..plain);
        }
        let path = program.contains(&b'/');
        let named = self
            .program
            .iter()
            .any(|pattern| match (pattern.0.contains('/'), path) {
                (true, _) => pattern.matches(program),
                (false, false) => pattern.matches(program),
                // `./cargo` is whatever lies there; in a directory of the system it is what its name says.
                (false, true) => SYSTEM.iter().any(|directory| {
                    program
                        .strip_prefix(directory.as_bytes())
                        .is_some_and(|name| !name.contains(&b'/') && pattern.matches(name))
                }),
            });
        let leading = self.args.len() <= args.len()
            && self
                .args
                .iter()
                .zip(&args)
                .all(|(arg, word)| arg.0.iter().any(|pattern| pattern.matches(word)));
        named
            && leading
            && (!self.exact || args.len() == self.args.len())
            && (self.has.is_empty()
                || args[self.args.len()..]
                    .iter()
                    .any(|word| self.has.iter().any(|pattern| has_surely(pattern, word))))
    }

    fn is_about_git(&self) -> bool {
        let name = |pattern: &Pattern| glob(base(pattern.0.as_bytes()), b"git");
        self.program.iter().any(name)
    }

    fn maybe(&self, command: &SimpleCommand) -> bool {
        self.maybe_as(command)
            || (self.is_about_git() && other_spellings(command).iter().any(|other| self.maybe_as(other)))
    }

    fn maybe_as(&self, command: &SimpleCommand) -> bool {
        let named = self.program.iter().any(|pattern| match &command.program {
            Word::Known(path) if pattern.0.contains('/') => pattern.matches(path),
            Word::Known(path) => pattern.matches(path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)),
            // The known end may hold the last part of a path.
            Word::Dynamic {
                suffix, many: false, ..
            } if !pattern.0.contains('/') && suffix.contains(&b'/') => {
                pattern.matches(suffix.rsplit(|byte| *byte == b'/').next().unwrap_or(suffix))
            }
            Word::Dynamic { many: false, .. } if pattern.0.contains('/') => pattern.may_match(&command.program),
            Word::Dynamic { .. } => true,
        });
        if !named {
            return false;
        }
        if command.program.is_many() {
            return true;
        }
        let git = command
            .program
            .bytes()
            .is_none_or(|path| path == b"git" || path.ends_with(b"/git"));
        let args = match git.then(|| GIT.parse(&command.args)) {
            // Where the subcommand stands is not known.
            Some(Err(_)) => return true,
            Some(Ok(parsed)) => &command.args[parsed.operand..],
            None => &command.args[..],
        };
        for (index, arg) in self.args.iter().enumerate() {
            match args.get(index) {
                // From here on any word may be anywhere.
                Some(word) if word.is_many() => return true,
                Some(word) if arg.0.iter().any(|pattern| pattern.may_match(word)) => {}
                _ => return false,
            }
        }
        let rest = &args[self.args.len()..];
        if self.exact && rest.iter().any(|word| !word.is_many()) {
            return false;
        }
        self.has.is_empty()
            || rest
                .iter()
                .any(|word| self.has.iter().any(|pattern| has_maybe(pattern, word)))
    }

    /// Whether it surely matches whatever `other` matches. May say no where it does.
    fn covers(&self, other: &Self) -> bool {
        let program = other.program.iter().all(|program| {
            let name = program.0.rsplit('/').next().unwrap_or(&program.0);
            self.program.iter().any(|own| {
                own == program
                    || own.0 == "*"
                    || (!own.0.contains('/') && !name.contains('*') && own.matches(name.as_bytes()))
            })
        });
        let args = (self.args.len() <= other.args.len() && !self.exact
            || self.args.len() == other.args.len() && other.exact)
            && self.args.iter().zip(&other.args).all(|(own, arg)| {
                arg.0.iter().all(|pattern| {
                    own.0
                        .iter()
                        .any(|own| own == pattern || (!pattern.0.contains('*') && own.matches(pattern.0.as_bytes())))
                })
            });
        let has = self.has.is_empty()
            || (self.args.len() == other.args.len()
                && !other.has.is_empty()
                && other.has.iter().all(|pattern| self.has.contains(pattern)));
        program && args && has
    }
}

/// Where a program's name says what it is.
const SYSTEM: &[&str] = &["/bin/", "/usr/bin/", "/sbin/", "/usr/sbin/", "/usr/local/bin/"];

/// git's options before its subcommand that do not matter to a rule that allows.
const GIT_PLAIN: &[&[u8]] = &[b"--no-pager", b"-P", b"--no-optional-locks", b"--no-advice"];

fn has_surely(pattern: &Pattern, word: &[u8]) -> bool {
    pattern.matches(word)
        || (pattern.0.starts_with("--")
            && word
                .iter()
                .position(|byte| *byte == b'=')
                .is_some_and(|at| pattern.matches(&word[..at])))
}

fn has_maybe(pattern: &Pattern, word: &Word) -> bool {
    let Word::Known(bytes) = word else {
        return match word {
            // `-…` may be a cluster, `--fo…` an abbreviation.
            Word::Dynamic { prefix, .. } if prefix.starts_with(b"-") && pattern.0.starts_with('-') => {
                let stem = prefix.split(|byte| *byte == b'=').next().unwrap_or_default();
                has_maybe(pattern, &Word::known(stem))
                    || pattern.may_match(word)
                    || !prefix.starts_with(b"--")
                    || pattern.0.as_bytes().starts_with(stem)
            }
            word => pattern.may_match(word) || (pattern.0.starts_with("--") && word.is_many()),
        };
    };
    if has_surely(pattern, bytes) {
        return true;
    }
    let stem = bytes.split(|byte| *byte == b'=').next().unwrap_or_default();
    let own = pattern.0.as_bytes();
    let abbreviated = stem.len() > 2 && stem.starts_with(b"--") && own.starts_with(stem);
    let cluster = own.len() == 2
        && own[0] == b'-'
        && own[1] != b'-'
        && bytes.starts_with(b"-")
        && !bytes.starts_with(b"--")
        && bytes.contains(&own[1]);
    abbreviated || cluster
}

/// The last part of a path, as a program is named.
fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// git's commands are programs too, `git-push`, and some are another one under its name or below it: `git send-pack`.
fn other_spellings(command: &SimpleCommand) -> Vec<SimpleCommand> {
    let Some(name) = command
        .program
        .bytes()
        .map(base)
        .filter(|name| name.starts_with(b"git"))
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut git = None;
    if let Some(sub) = name
        .strip_prefix(b"git-")
        .filter(|sub| std::str::from_utf8(sub).is_ok_and(is_git_command))
    {
        let args = std::iter::once(Word::known(sub))
            .chain(command.args.iter().cloned())
            .collect();
        let spelled = SimpleCommand {
            program: Word::known("git"),
            args,
            ..command.clone()
        };
        found.push(spelled.clone());
        git = Some(spelled);
    } else if name == b"git" {
        git = Some(command.clone());
    }
    let Some(git) = git else { return found };
    let Ok(parsed) = GIT.parse(&git.args) else { return found };
    let sub = git.args.get(parsed.operand).and_then(Word::text);
    if let Some((_, same)) = GIT_SAME.iter().find(|(other, _)| Some(*other) == sub) {
        let mut args = git.args.clone();
        args[parsed.operand] = Word::known(*same);
        found.push(SimpleCommand { args, ..git });
    }
    found
}

/// What git is told to do, where that is no command of its own.
fn unknown_to_git(command: &SimpleCommand) -> Option<&str> {
    if command.program.bytes().map(base) != Some(b"git") {
        return None;
    }
    let parsed = GIT.parse(&command.args).ok()?;
    let sub = command.args.get(parsed.operand)?.text()?;
    (!is_git_command(sub)).then_some(sub)
}

/// Finds the first operand for those who only want that.
pub(super) fn first_operand(options: &Options, args: &[Word]) -> Option<usize> {
    options.parse(args).ok().map(|parsed| parsed.operand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_bytes() {
        for (pattern, text, matches) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "ab", false),
            ("*a*b", "xaybab", true),
            ("a**", "a", true),
            ("a", "ab", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn an_unknown_word_may_be_what_its_ends_allow() {
        let word = |prefix: &str, suffix: &str| Word::Dynamic {
            prefix: prefix.into(),
            suffix: suffix.into(),
            many: false,
            origin: crate::command::Origin::unknown(),
        };
        let may = |pattern: &str, word: &Word| Pattern(pattern.into()).may_match(word);
        assert!(may("--force", &word("", "")));
        assert!(may("--force", &word("--f", "e")));
        assert!(!may("--force", &word("/home", "")));
        assert!(!may("ab", &word("ab", "b")));
        assert!(may("a*", &word("abc", "")));
        assert!(may("*.c", &word("src/", ".c")));
        assert!(!may("*.c", &word("src/", ".h")));
    }
}
