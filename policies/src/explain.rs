//! What a policy comes to, line by line, and why it answers a question as it does. Nothing is run, no path is looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::allows::{self, Access, Facts, covers, is_in};
use crate::command::{Finding, Judgement, Verdict};
use crate::environment::name_matches;
use crate::error::quoted;
use crate::file::{Expected, Subject};
use crate::keys::{Absent, KEYS, Kind, Nature};
use crate::model::{GitAccess, Home, NetworkMode, PathPattern, Tool, WorkspaceAccess};
use crate::pattern::is_at_or_below;
use crate::resolve::Resolved;
use crate::statement::{Entry, Place, Value};

/// One value of a resolved policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The key, of rules about commands with the index: `filesystem.read`, `commands.rules[2]`.
    pub key: String,
    /// The value as a file spells it; of an absent key what its absence means.
    pub value: String,
    /// `file:line`; empty where nobody states it.
    pub place: String,
    /// Whether no file states it: it is the built-in policy `default`'s, or what absence means.
    pub by_default: bool,
}

/// What is decided about one thing, and by which lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was asked: `read ${home}/.ssh/id_rsa`.
    pub question: String,
    /// What would be decided.
    pub verdict: Expected,
    /// Why: grants first, then what takes away.
    pub reasons: Vec<Reason>,
    /// What would allow it, one way to a line. Empty where it is allowed.
    pub help: Vec<String>,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What it makes of the question.
    pub verdict: Expected,
    /// In words: `given`, `taken away`, `asks about git push: a person releases`.
    pub text: String,
    /// The line that says so. `None`: no line does.
    pub line: Option<Line>,
}

impl Resolved {
    /// The whole policy, key by key in the order of [`KEYS`], each entry with where it comes from.
    pub fn lines(&self) -> Vec<Line> {
        let mut positions = Positions::default();
        let mut lines = Vec::new();
        for key in KEYS {
            if matches!(
                key.kind,
                Kind::Version | Kind::Tests | Kind::References | Kind::Ceilings
            ) {
                continue;
            }
            let path = key.path();
            match self.origins.get(&path) {
                Some(statement) if statement.entries.is_empty() => lines.push(Line {
                    key: path,
                    value: "nothing".to_owned(),
                    place: positions.of(&statement.place),
                    by_default: statement.by_default,
                }),
                Some(statement) => lines.extend(statement.entries.iter().enumerate().map(|(index, entry)| Line {
                    key: match key.kind {
                        Kind::Rules => format!("{path}[{index}]"),
                        _ => path.clone(),
                    },
                    value: shown(entry, key.kind),
                    place: positions.of(&entry.place),
                    by_default: entry.by_default,
                })),
                None if key.nature == Nature::About => {}
                None => lines.push(Line {
                    key: path.clone(),
                    value: self.absent(&path, key.absent),
                    place: String::new(),
                    by_default: true,
                }),
            }
        }
        lines
    }

    /// What an absent key means.
    fn absent(&self, key: &str, absent: Absent) -> String {
        let policy = &self.policy;
        let word = |word: &str| format!("\"{word}\"");
        match key {
            "filesystem.workspace" => word(policy.filesystem.workspace.name()),
            "filesystem.home" => word(policy.filesystem.home.name()),
            "filesystem.tmp" => policy.filesystem.tmp.to_string(),
            "network.mode" => word(policy.network.mode().name()),
            "network.tcp-connect" | "network.tcp-bind" if policy.network.mode() == NetworkMode::Host => {
                "every port".to_owned()
            }
            "syscalls.profile" => word(policy.syscalls.profile.name()),
            "commands.default" => word(policy.commands.own.default.name()),
            "commands.unreadable" => word(policy.commands.own.unreadable.name()),
            "approvals.self" => word(policy.approvals.own.name()),
            _ if absent == Absent::OfDefault => "as default".to_owned(),
            _ => "nothing".to_owned(),
        }
    }

    /// What is decided about a thing that an expectation can be about.
    pub fn explain(&self, subject: &Subject, facts: Facts<'_>) -> Answer {
        match subject {
            Subject::Read(pattern) => self.explain_access(Access::Read(&facts.place(pattern)), facts),
            Subject::Write(pattern) => self.explain_access(Access::Write(&facts.place(pattern)), facts),
            Subject::Execute(pattern) => self.explain_access(Access::Execute(&facts.place(pattern)), facts),
            Subject::Host(host, port) => self.explain_access(Access::Connect(host, *port), facts),
            Subject::Environment(name) => self.explain_access(Access::Environment(name), facts),
            Subject::Command(line) => {
                let judged = self.policy.commands.judge_line(line);
                self.explain_judgement(format!("command {}", quoted(line)), judged)
            }
        }
    }

    /// What is decided about an argument vector. A tool that is not allowed comes first: [`Access::Tool`].
    pub fn explain_command(&self, argv: &[Vec<u8>]) -> Answer {
        let words: Vec<_> = argv.iter().map(|word| String::from_utf8_lossy(word)).collect();
        let judged = self.policy.commands.judge(argv);
        self.explain_judgement(format!("command {}", quoted(&words.join(" "))), judged)
    }

    /// What is decided about an access.
    pub fn explain_access(&self, access: Access<'_>, facts: Facts<'_>) -> Answer {
        let allowed = self.policy.shows(access, facts);
        let mut answer = Answer {
            question: asked(access, facts),
            verdict: if allowed { Expected::Allow } else { Expected::Deny },
            reasons: Vec::new(),
            help: Vec::new(),
        };
        match access {
            Access::Read(path) | Access::Write(path) | Access::Keep(path) | Access::Execute(path) => {
                self.explain_path(access, path, facts, &mut answer);
            }
            Access::Connect(host, port) => self.explain_ports("network.tcp-connect", port, Some(host), &mut answer),
            Access::Listen(port) => self.explain_ports("network.tcp-bind", port, None, &mut answer),
            Access::Environment(name) => self.explain_variable(name, &mut answer),
            Access::Tool(tool) => {
                answer.gives(self.entry("tools", |value| *value == Value::Word(tool.name())));
                answer.or_help(format!("add \"{}\" to tools", tool.name()));
            }
            Access::SystemCall(name) => {
                let named = |value: &Value| *value == Value::Text(name.to_owned());
                answer.gives([self.single("syscalls.profile")]);
                answer.gives(self.entry("syscalls.allow", named));
                answer.takes(self.entry("syscalls.deny", named));
                answer.or_help(format!(
                    "add \"{}\" to syscalls.allow, or take it out of syscalls.deny",
                    quoted(name)
                ));
            }
            Access::Limit(key, _) => {
                let line = self.single(key);
                match allowed {
                    true => answer.gives([line]),
                    false => answer.takes([line]),
                }
                answer.or_help(format!("raise {}", quoted(key)));
            }
        }
        answer
    }

    fn explain_path(&self, access: Access<'_>, path: &str, facts: Facts<'_>, answer: &mut Answer) {
        let fs = &self.policy.filesystem;
        let (keys, list): (&[&str], &str) = match access {
            Access::Read(_) => (&["read", "execute", "write", "copy-on-write"], "read"),
            Access::Execute(_) => (&["execute"], "execute"),
            Access::Keep(_) => (&["write"], "write"),
            _ => (&["write", "copy-on-write"], "write"),
        };
        let writes = matches!(access, Access::Write(_) | Access::Keep(_));
        let keeps = matches!(access, Access::Keep(_));
        let covering = |value: &Value| matches!(value, Value::Path(pattern) if covers(pattern, path, facts));
        let in_workspace = is_in(path, facts.workspace);
        if in_workspace && (!writes || fs.workspace == WorkspaceAccess::Write) {
            answer.gives([self.single("filesystem.workspace")]);
        }
        for key in keys {
            // The copy of a home is not one of the workspace in it.
            let counts = |value: &Value| {
                covering(value)
                    && (!in_workspace
                        || *key != "copy-on-write"
                        || matches!(value, Value::Path(PathPattern::Workspace(_))))
            };
            answer.gives(self.entry(&format!("filesystem.{key}"), counts));
        }
        if !in_workspace && !keeps {
            if fs.home == Home::CopyOnWrite && is_in(path, facts.home) {
                answer.gives([self.single("filesystem.home")]);
            }
            let in_tmp = fs.tmp && allows::TMP.iter().any(|tree| is_in(path, tree));
            if in_tmp && !self.policy.grants_in_tmp(path, facts) {
                answer.gives([self.single("filesystem.tmp")]);
            }
            // Only /run may hold programs.
            let own = match access {
                Access::Execute(_) => &allows::OWN[3..],
                Access::Write(_) => &allows::OWN_WRITTEN[..],
                _ => &allows::OWN[..],
            };
            let file = matches!(access, Access::Read(_)) && self.policy.has_file(path);
            if file || own.iter().any(|tree| is_in(path, tree)) {
                answer.reasons.push(Reason {
                    verdict: Expected::Allow,
                    text: "every sandbox makes its own".to_owned(),
                    line: None,
                });
            }
        }
        let written_for_it = matches!(access, Access::Read(_)) && self.policy.has_file(path);
        if !in_workspace && !written_for_it {
            answer.takes(self.entry("filesystem.hide", covering));
        }
        if writes {
            answer.takes(self.entry("filesystem.read-only", covering));
            answer.takes(self.entry("filesystem.protect", |value| match value {
                Value::Text(name) => self.protects(name, path, facts),
                _ => false,
            }));
            self.explain_guard(path, facts, answer);
            let private = fs.home == Home::Empty && is_in(path, facts.home) && !in_workspace;
            if private && answer.verdict == Expected::Deny {
                answer.note("the home is empty: what is written there vanishes with the sandbox".to_owned());
            }
        }
        let spelled = quoted(&facts.spelled(path));
        let given = answer.reasons.iter().any(|reason| reason.verdict == Expected::Allow);
        if !given && writes && in_workspace {
            answer.or_help("write `workspace = \"write\"` in [filesystem]".to_owned());
        } else if !given {
            answer.or_help(format!(
                "add \"{spelled}\", or a directory above it, to filesystem.{list}"
            ));
        }
        if !given && answer.verdict == Expected::Deny {
            answer.reasons.push(Reason {
                verdict: Expected::Deny,
                text: "no line gives it".to_owned(),
                line: None,
            });
        }
        answer.help_about_restrictions();
    }

    /// What git's guard says of writing a path, as far as a path tells.
    fn explain_guard(&self, path: &str, facts: Facts<'_>, answer: &mut Answer) {
        let fs = &self.policy.filesystem;
        let Some(rest) = self.policy.in_written(path, facts).next() else {
            return;
        };
        let git = fs.git == GitAccess::Guarded;
        if git && allows::is_hook(path) {
            answer.takes([self.single("filesystem.git")]);
        } else if git && rest.contains(&".git") {
            answer.note(
                "among git's own files the guard decides by what is written: what would run programs is refused"
                    .to_owned(),
            );
        }
        let nested = (1..rest.len()).find_map(|at| {
            let names = rest.get(at..)?;
            let name = fs
                .protect
                .iter()
                .find(|name| is_at_or_below(names.iter().copied(), name))?;
            Some((rest.get(..at)?.join("/"), name))
        });
        if let (Some((directory, name)), Expected::Allow) = (nested, answer.verdict) {
            answer.note(format!(
                "refused where {} is a repository: there \"{}\" is protected as well",
                quoted(&directory),
                quoted(name)
            ));
        }
    }

    /// Whether a protected name is that of a path in a tree that is written for good.
    fn protects(&self, name: &str, path: &str, facts: Facts<'_>) -> bool {
        let mut below = self.policy.in_written(path, facts);
        below.any(|rest| is_at_or_below(rest.into_iter(), name))
    }

    fn explain_ports(&self, key: &str, port: u16, host: Option<&str>, answer: &mut Answer) {
        let mode = self.single("network.mode");
        let host_mode = self.policy.network.mode() == NetworkMode::Host;
        let listed = self.entry(key, |value| *value == Value::Port(port));
        match answer.verdict {
            Expected::Deny => {
                answer.takes([mode]);
                answer.takes(match host_mode {
                    true => self.entry(key, |_| true),
                    false => Vec::new(),
                });
            }
            _ => {
                answer.gives([mode]);
                answer.gives(listed);
            }
        }
        answer.or_help(match (host_mode, host) {
            (true, _) => format!("add {port} to {key}"),
            (false, Some(host)) if allows::is_loopback(host) => "write `mode = \"loopback\"` in [network]".to_owned(),
            (false, Some(_)) => "no single host can be let through: only `mode = \"host-without-isolation\"` reaches \
                                 others, and gives the whole network of the machine"
                .to_owned(),
            (false, None) => "only `mode = \"host-without-isolation\"` lets others connect".to_owned(),
        });
    }

    fn explain_variable(&self, name: &str, answer: &mut Answer) {
        let matching = |value: &Value| match value {
            Value::Text(pattern) => name_matches(pattern, name, false),
            _ => false,
        };
        answer.gives(self.entry("environment.pass", |value| match value {
            Value::Text(pattern) => name_matches(pattern, name, true),
            _ => false,
        }));
        answer.takes(self.entry("environment.never", matching));
        answer.takes(self.entry("environment.remove", matching));
        let set = self.entry(
            "environment.set",
            |value| matches!(value, Value::Variable(own, _) if own == name),
        );
        answer.reasons.extend(set.into_iter().map(|line| Reason {
            verdict: answer.verdict,
            text: "set to a value of the policy's own instead".to_owned(),
            line: Some(line),
        }));
        if !answer.reasons.iter().any(|reason| reason.verdict == Expected::Allow) {
            answer.or_help(format!("add \"{}\" to environment.pass", quoted(name)));
        }
        answer.help_about_restrictions();
    }

    fn explain_judgement(&self, question: String, judged: Judgement) -> Answer {
        let mut answer = Answer {
            question,
            verdict: expected(judged.verdict),
            reasons: Vec::new(),
            help: Vec::new(),
        };
        for finding in &judged.findings {
            answer.reasons.push(self.finding(finding));
        }
        if judged.findings.is_empty() {
            let line = (!self.policy.commands.is_open()).then(|| self.single("commands.default"));
            answer.reasons.push(Reason {
                verdict: answer.verdict,
                text: match line {
                    None => "nothing is said about commands".to_owned(),
                    Some(_) => "no command is found in it".to_owned(),
                },
                line,
            });
        }
        let tool = Tool::Shell;
        if !self.policy.tools.contains(&tool) {
            answer.verdict = Expected::Deny;
            answer.reasons.push(Reason {
                verdict: Expected::Deny,
                text: "the tool `shell` is not among those of the policy".to_owned(),
                line: self.entry("tools", |_| true).into_iter().next(),
            });
            answer.help.push("add \"shell\" to tools".to_owned());
        }
        let strictest = judged.findings.iter().find(|finding| finding.verdict == judged.verdict);
        if let Some(finding) = strictest.filter(|finding| finding.verdict != Verdict::Allow) {
            let place = &finding.place;
            answer.help.push(match finding.rule {
                Some(_) => format!("change {place}: of all rules that match a command the strictest holds"),
                None if place.ends_with("unreadable") => {
                    "write the command plainly, or relax commands.unreadable".to_owned()
                }
                None => "add a rule that allows this command, or relax commands.default".to_owned(),
            });
        }
        answer
    }

    fn finding(&self, finding: &Finding) -> Reason {
        let line = match finding.rule.filter(|_| !finding.place.starts_with("commands.ceilings")) {
            Some(rule) => self.numbered("commands.rules", rule),
            None if finding.place.starts_with("commands.ceilings") => None,
            None => Some(self.single(&finding.place)),
        };
        let does = match finding.verdict {
            Verdict::Allow => "allows",
            Verdict::Ask => "asks about",
            Verdict::Deny => "denies",
        };
        let reason = match finding.reason.is_empty() {
            true => String::new(),
            false => format!(": {}", finding.reason),
        };
        Reason {
            verdict: expected(finding.verdict),
            text: format!("{does} `{}`{reason}", finding.command),
            line,
        }
    }

    /// The line of a key that has one value.
    fn single(&self, key: &str) -> Line {
        let stated = self.origins.get(key).and_then(|statement| statement.entries.first());
        let known = crate::key_named(key);
        match (stated, known) {
            (Some(entry), Some(known)) => line_of(key.to_owned(), entry, known.kind),
            _ => Line {
                key: key.to_owned(),
                value: self.absent(key, known.map_or(Absent::Least, |key| key.absent)),
                place: String::new(),
                by_default: true,
            },
        }
    }

    fn numbered(&self, key: &str, index: usize) -> Option<Line> {
        let entry = self.origins.get(key)?.entries.get(index)?;
        Some(line_of(format!("{key}[{index}]"), entry, Kind::Rules))
    }

    /// The lines of a list that some values have.
    fn entry(&self, key: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Line> {
        let Some(statement) = self.origins.get(key) else {
            return Vec::new();
        };
        let entries = statement.entries.iter().filter(|entry| wanted(&entry.value));
        entries
            .map(|entry| line_of(key.to_owned(), entry, statement.key.kind))
            .collect()
    }
}

impl Answer {
    fn gives(&mut self, lines: impl IntoIterator<Item = Line>) {
        self.reasons.extend(lines.into_iter().map(|line| Reason {
            verdict: Expected::Allow,
            text: "gives it".to_owned(),
            line: Some(line),
        }));
    }

    fn takes(&mut self, lines: impl IntoIterator<Item = Line>) {
        self.reasons.extend(lines.into_iter().map(|line| Reason {
            verdict: Expected::Deny,
            text: "takes it away".to_owned(),
            line: Some(line),
        }));
    }

    /// Says more about the verdict, whatever it is.
    fn note(&mut self, text: String) {
        self.reasons.push(Reason {
            verdict: self.verdict,
            text,
            line: None,
        });
    }

    fn or_help(&mut self, help: String) {
        if self.verdict != Expected::Allow {
            self.help.push(help);
        }
    }

    fn help_about_restrictions(&mut self) {
        if self.verdict == Expected::Allow {
            return;
        }
        let taking: Vec<String> = self
            .reasons
            .iter()
            .filter(|reason| reason.verdict == Expected::Deny)
            .filter_map(|reason| {
                let line = reason.line.as_ref()?;
                Some(match line.by_default {
                    false => format!("take {} out of {} ({})", line.value, line.key, line.place),
                    true => format!(
                        "{} has {} of the built-in policy default: it stays unless the key is the empty list",
                        line.key, line.value
                    ),
                })
            })
            .collect();
        self.help.extend(taking);
    }
}

fn expected(verdict: Verdict) -> Expected {
    match verdict {
        Verdict::Allow => Expected::Allow,
        Verdict::Ask => Expected::Ask,
        Verdict::Deny => Expected::Deny,
    }
}

/// What is asked, in words.
pub(crate) fn asked(access: Access<'_>, facts: Facts<'_>) -> String {
    let path = |path: &str| quoted(&facts.spelled(path));
    match access {
        Access::Read(at) => format!("read {}", path(at)),
        Access::Write(at) => format!("write {}", path(at)),
        Access::Keep(at) => format!("write {} for good", path(at)),
        Access::Execute(at) => format!("execute {}", path(at)),
        Access::Connect(host, port) => format!("connect to {}:{port}", quoted(host)),
        Access::Listen(port) => format!("listen on port {port}"),
        Access::Environment(name) => format!("pass {} on from the caller", quoted(name)),
        Access::Tool(tool) => format!("use the tool {}", tool.name()),
        Access::SystemCall(name) => format!("make the system call {}", quoted(name)),
        Access::Limit(key, amount) => format!("take {amount} of {}", quoted(key)),
    }
}

fn line_of(key: String, entry: &Entry, kind: Kind) -> Line {
    Line {
        key,
        value: shown(entry, kind),
        place: entry.place.to_string(),
        by_default: entry.by_default,
    }
}

/// A value on one line, safe to show.
fn shown(entry: &Entry, kind: Kind) -> String {
    entry.value.spelled(kind)
}

/// Places of many values of few files, without counting each file's lines anew for each.
#[derive(Default)]
struct Positions {
    /// By the address of the text: the offsets at which its lines begin.
    lines: BTreeMap<usize, Vec<usize>>,
}

impl Positions {
    fn of(&mut self, place: &Place) -> String {
        let starts = self
            .lines
            .entry(Arc::as_ptr(&place.source) as usize)
            .or_insert_with(|| {
                let ends = place.source.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
                std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect()
            });
        let line = starts.partition_point(|start| *start <= place.offset);
        format!("{}:{line}", quoted(place.origin()))
    }
}
