//! What one policy lets through that another does not, in words: from what they allow, not from how they are written.
//!
//! Each part of the file tree in which other grants or restrictions hold is asked about once, by [`Policy::allows`]; the variables and the
//! commands that are asked about are made from the patterns of both.

mod files;
mod names;

use std::collections::BTreeSet;

use crate::allows::Facts;
use crate::command::{CommandRules, Rule, Verdict};
use crate::error::quoted;
use crate::keys::{Kind, key_named};
use crate::model::{GitAccess, Network, Policy, SyscallProfile, Tool};
use crate::statement::Value;

/// At most so many commands are tried.
const MAX_COMMANDS: usize = 2048;

/// The difference between two policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// What the second lets through and the first does not.
    pub wider: Vec<Change>,
    /// What the first lets through and the second does not.
    pub narrower: Vec<Change>,
    /// What is different without letting anything through.
    pub other: Vec<Change>,
    /// Whether everything was compared. Policies with very many paths are compared as far as that takes about a second.
    pub complete: bool,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is about.
    pub group: Group,
    /// In words: `read and execute /opt, but not /opt/licences`.
    pub text: String,
}

/// What a difference is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The file tree.
    Files,
    /// The network.
    Network,
    /// System calls.
    SystemCalls,
    /// Variables.
    Environment,
    /// Bounds.
    Limits,
    /// Commands.
    Commands,
    /// Tools.
    Tools,
    /// Which protections have to be in force, and who may approve.
    Protections,
}

impl Group {
    /// The word for it, as a heading.
    pub const fn name(self) -> &'static str {
        match self {
            Group::Files => "files",
            Group::Network => "network",
            Group::SystemCalls => "system calls",
            Group::Environment => "environment",
            Group::Limits => "limits",
            Group::Commands => "commands",
            Group::Tools => "tools",
            Group::Protections => "protections",
        }
    }
}

impl Diff {
    /// Compares two policies, for a home and a workspace. Paths are spelled by those.
    pub fn of(a: &Policy, b: &Policy, facts: Facts<'_>) -> Diff {
        let mut diff = Diff {
            complete: true,
            ..Diff::default()
        };
        files::compare(a, b, facts, &mut diff);
        diff.git_and_shm(a, b);
        diff.network(&a.network, &b.network);
        diff.calls(a, b);
        names::compare(a, b, &mut diff);
        diff.limits(a, b);
        diff.commands(a, b);
        diff.tools(a, b);
        diff.protections(a, b);
        diff
    }

    /// What `b` lets commands do that `a` does not, in words. That not all could be compared is said as well.
    pub(crate) fn wider_commands(a: &Policy, b: &Policy) -> Vec<String> {
        let mut diff = Diff {
            complete: true,
            ..Diff::default()
        };
        diff.commands(a, b);
        let rest =
            (!diff.complete).then(|| format!("more than {MAX_COMMANDS} kinds of commands, which are not compared"));
        diff.wider.into_iter().map(|change| change.text).chain(rest).collect()
    }

    /// Whether neither lets anything through that the other does not.
    pub fn is_empty(&self) -> bool {
        self.wider.is_empty() && self.narrower.is_empty()
    }

    /// Notes a difference. `wider`: the second gives more.
    fn note(&mut self, wider: bool, group: Group, text: impl Into<String>) {
        let list = if wider { &mut self.wider } else { &mut self.narrower };
        list.push(Change {
            group,
            text: text.into(),
        });
    }

    /// Notes a difference of one value, told as what the one that gives more says, and what the other says instead.
    fn between<T>(&mut self, wider: bool, group: Group, old: T, new: T, text: impl FnOnce(T, T) -> String) {
        let (more, less) = if wider { (new, old) } else { (old, new) };
        self.note(wider, group, text(more, less));
    }

    fn also(&mut self, group: Group, text: impl Into<String>) {
        self.other.push(Change {
            group,
            text: text.into(),
        });
    }

    fn git_and_shm(&mut self, a: &Policy, b: &Policy) {
        let (a, b) = (&a.filesystem, &b.filesystem);
        if a.git != b.git {
            self.note(
                b.git == GitAccess::Open,
                Group::Files,
                "change git's hooks and configuration, which run programs outside",
            );
        }
        if a.shm_bytes != b.shm_bytes {
            let (old, new) = (a.shm_bytes, b.shm_bytes);
            self.between(new > old, Group::Limits, old, new, |more, less| {
                amounts("filesystem.shm", Some(less), Some(more))
            });
        }
    }

    fn network(&mut self, a: &Network, b: &Network) {
        type Reach = fn(&Network) -> Ports<'_>;
        let kinds: [(&str, Reach); 3] = [
            ("connect to its own loopback", own_loopback),
            ("connect to other hosts", others),
            ("be connected to by others", listening),
        ];
        for (what, reach) in kinds {
            for (more, less, wider) in [(b, a, true), (a, b, false)] {
                if let Some(ports) = beyond(reach(more), reach(less)) {
                    self.note(wider, Group::Network, format!("{what}, {ports}"));
                }
            }
        }
        // Other protocols are not bounded by ports.
        let open = |network: &Network| matches!(network, Network::Host(_));
        if open(a) != open(b) {
            let text = "use the machine's own network: UDP, and everything that listens on its loopback";
            self.note(open(b), Group::Network, text);
        }
        let silent = |network: &Network| *network == Network::LoopbackSilent;
        if silent(a) != silent(b) && a != &Network::None && b != &Network::None {
            let says = if silent(b) { "no longer says" } else { "now says" };
            self.also(
                Group::Network,
                format!("a proxy on the loopback {says} at once what is refused"),
            );
        }
    }

    fn calls(&mut self, a: &Policy, b: &Policy) {
        let lists = [&a.syscalls, &b.syscalls];
        let named: BTreeSet<&String> = lists.iter().flat_map(|s| s.allow.iter().chain(&s.deny)).collect();
        let (profile_a, profile_b) = (a.syscalls.profile, b.syscalls.profile);
        let rest = (profile_a != profile_b).then_some(profile_b == SyscallProfile::Default);
        if let Some(wider) = rest {
            let differs = |name: &&&String| a.calls(name) == b.calls(name);
            let but: Vec<&str> = named.iter().filter(differs).map(|name| name.as_str()).collect();
            let but = match but.is_empty() {
                true => String::new(),
                false => format!(", but not {}", but.join(", ")),
            };
            let text = format!("the system calls of profile \"default\" that \"strict\" has not{but}");
            self.note(wider, Group::SystemCalls, text);
        }
        for name in named {
            let (old, new) = (a.calls(name), b.calls(name));
            if old != new && rest != Some(new) {
                self.note(new, Group::SystemCalls, name.clone());
            }
        }
    }

    fn limits(&mut self, a: &Policy, b: &Policy) {
        let (a, b) = (&a.limits, &b.limits);
        for ((key, old), (_, new)) in a.amounts().into_iter().zip(b.amounts()) {
            if old != new {
                let wider = new.is_none_or(|new| old.is_some_and(|old| new > old));
                self.between(wider, Group::Limits, old, new, |more, less| amounts(key, less, more));
            }
        }
        for (which, old, new) in [
            ("soft", a.open_files_soft, b.open_files_soft),
            ("hard", a.open_files_hard, b.open_files_hard),
        ] {
            if old != new {
                self.between(new > old, Group::Limits, old, new, |more, less| {
                    format!("open-files ({which}): {more} instead of {less}")
                });
            }
        }
    }

    fn commands(&mut self, a: &Policy, b: &Policy) {
        if a.commands == b.commands {
            return;
        }
        let mut found = false;
        let mut compare = |diff: &mut Diff, what: String, old: Verdict, new: Verdict| {
            if old != new {
                found = true;
                diff.between(new < old, Group::Commands, old, new, |more, less| {
                    format!("{what}: {more} instead of {less}")
                });
            }
        };
        let strictest = |policy: &Policy, of: fn(&CommandRules) -> Verdict| {
            policy.commands.sets().map(of).max().unwrap_or_default()
        };
        let (old, new) = (strictest(a, |set| set.default), strictest(b, |set| set.default));
        compare(self, "commands that no rule is about".to_owned(), old, new);
        let by_default = (old != new).then_some((old, new));
        let (old, new) = (strictest(a, |set| set.unreadable), strictest(b, |set| set.unreadable));
        compare(self, "what cannot be read".to_owned(), old, new);
        let sets = a.commands.sets().chain(b.commands.sets());
        let lines: BTreeSet<Vec<String>> = sets.flat_map(|set| &set.rules).flat_map(examples).collect();
        if lines.len() > MAX_COMMANDS {
            self.complete = false;
        }
        for line in lines.into_iter().take(MAX_COMMANDS) {
            let argv: Vec<Vec<u8>> = line.iter().map(|word| word.clone().into_bytes()).collect();
            let (old, new) = (a.commands.judge(&argv).verdict, b.commands.judge(&argv).verdict);
            if by_default != Some((old, new)) {
                compare(self, format!("`{}`", quoted(&line.join(" "))), old, new);
            }
        }
        if !found {
            let text =
                "the rules about commands are written differently; no command was found that they judge differently";
            self.also(Group::Commands, text);
        }
    }

    fn tools(&mut self, a: &Policy, b: &Policy) {
        for tool in Tool::ALL {
            let (old, new) = (a.tools.contains(tool), b.tools.contains(tool));
            if old != new {
                self.note(new, Group::Tools, format!("use the tool {}", tool.name()));
            }
        }
    }

    fn protections(&mut self, a: &Policy, b: &Policy) {
        for protection in crate::Protection::ALL {
            let required = |policy: &Policy| policy.protections.required.contains(protection);
            let preferred = |policy: &Policy| policy.protections.preferred.contains(protection);
            if required(a) != required(b) {
                let text = format!("run where `{}` is not in force", protection.name());
                self.note(required(a), Group::Protections, text);
            } else if preferred(a) != preferred(b) {
                let says = if preferred(b) {
                    "is now told"
                } else {
                    "is no longer told"
                };
                self.also(
                    Group::Protections,
                    format!("that `{}` is missing {says}", protection.name()),
                );
            }
        }
        if a.approvals.own != b.approvals.own {
            let (old, new) = (a.approvals.own, b.approvals.own);
            self.between(new > old, Group::Protections, old, new, |more, less| {
                format!("who asks may answer: {} instead of {}", more.name(), less.name())
            });
        }
        if a.approvals.wait != b.approvals.wait {
            let ms = |policy: &Policy| u64::try_from(policy.approvals.wait.as_millis()).ok();
            self.also(Group::Protections, amounts("approvals.wait", ms(a), ms(b)));
        }
        if a.audit != b.audit {
            let (old, new) = (a.audit.arguments.name(), b.audit.arguments.name());
            let text = format!("the audit log keeps of a command line: {new} instead of {old}");
            self.also(Group::Protections, text);
        }
    }
}

/// `wall: 2h instead of 1h`.
fn amounts(key: &str, old: Option<u64>, new: Option<u64>) -> String {
    let kind = key_named(key).map_or(Kind::Files, |key| key.kind);
    let shown = |amount| Value::Amount(amount).spelled(kind).trim_matches('"').to_owned();
    let name = key.rsplit('.').next().unwrap_or(key);
    format!("{name}: {} instead of {}", shown(new), shown(old))
}

/// Ports: `None` is all of them.
type Ports<'a> = Option<&'a [u16]>;

fn own_loopback(network: &Network) -> Ports<'_> {
    match network {
        Network::None => Some(&[]),
        Network::Loopback | Network::LoopbackSilent => None,
        Network::Host(ports) => ports.connect.as_deref(),
    }
}

fn others(network: &Network) -> Ports<'_> {
    match network {
        Network::Host(ports) => ports.connect.as_deref(),
        _ => Some(&[]),
    }
}

fn listening(network: &Network) -> Ports<'_> {
    match network {
        Network::Host(ports) => ports.bind.as_deref(),
        _ => Some(&[]),
    }
}

/// The ports of `more` that are none of `less`, in words.
fn beyond(more: Ports<'_>, less: Ports<'_>) -> Option<String> {
    let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    match (more, less) {
        (_, None) => None,
        (None, Some([])) => Some("every TCP port".to_owned()),
        (None, Some(ports)) => Some(format!("every TCP port but {}", list(ports))),
        (Some(more), Some(less)) => {
            let ports: Vec<u16> = more.iter().filter(|port| !less.contains(port)).copied().collect();
            (!ports.is_empty()).then(|| format!("TCP port {}", list(&ports)))
        }
    }
}

/// Command lines that a rule is about: each alternative of each part once.
fn examples(rule: &Rule) -> Vec<Vec<String>> {
    let word = |pattern: &crate::command::Pattern| pattern.0.replace('*', "x");
    let first = || -> Vec<String> { rule.args.iter().filter_map(|arg| arg.0.first()).map(word).collect() };
    let has = rule.has.first().map(word);
    let mut lines = Vec::new();
    for program in &rule.program {
        let line = |args: Vec<String>, has: Option<String>| {
            let words = std::iter::once(word(program)).chain(args);
            words.chain(has).collect::<Vec<_>>()
        };
        lines.push(line(first(), has.clone()));
        // Longer than the rule says, unless nothing may follow.
        if !rule.exact {
            lines.push(line(first(), has.clone().or(Some("more".to_owned()))));
        }
        for (index, arg) in rule.args.iter().enumerate() {
            for alternative in arg.0.iter().skip(1) {
                let mut args = first();
                args[index] = word(alternative);
                lines.push(line(args, has.clone()));
            }
        }
        for other in rule.has.iter().skip(1) {
            lines.push(line(first(), Some(word(other))));
        }
    }
    lines
}
