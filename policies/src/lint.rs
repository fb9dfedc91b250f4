//! What in a file is of no use, and what is dangerous. Nothing of it makes the file wrong.

use crate::builtin;
use crate::command::{NeverMatching, Rule, Verdict, runs_anything};
use crate::environment::{matches_any, pass_covers};
use crate::error::quoted;
use crate::file::PolicyFile;
use crate::model::{Arguments, GitAccess, Home, NetworkMode, PathPattern, Policy, SelfApproval, WorkspaceAccess};
use crate::resolve::Resolved;
use crate::statement::{Entry, Place, Value};

/// At most so many findings of one file are kept.
const MAX_LINTS: usize = 200;

/// Limits below which hardly anything runs: a shell with its libraries takes 2 to 4 MiB, and one more process for each command; the loader
/// opens a library at a time beside the three streams.
const LEAST_MEMORY: u64 = 4 << 20;
const LEAST_PROCESSES: u64 = 4;
const LEAST_OPEN_FILES: u64 = 16;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It gives more than it seems to, or does nothing where something is meant.
    Warning,
    /// Worth a look.
    Note,
}

impl Level {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Warning => "warning",
            Level::Note => "note",
        }
    }
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Lint {
    /// How much it matters.
    pub level: Level,
    /// The key, of a list with the index: `filesystem.write[1]`.
    pub key: String,
    /// Where it stands.
    pub place: Place,
    /// What is found, a lower-case fragment.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// Looks through a file that was resolved. Only what the file states itself is told, in the order of the file; what it extends is looked at
/// when that is checked.
pub fn lint(file: &PolicyFile, resolved: &Resolved) -> Vec<Lint> {
    let mut search = Search {
        file,
        resolved,
        policy: &resolved.policy,
        found: Vec::new(),
    };
    search.grants();
    search.restrictions();
    search.dangerous_paths();
    search.dangerous_words();
    search.limits();
    search.environment();
    search.commands();
    let mut found = search.found;
    found.sort_by_key(|lint| (lint.place.offset, lint.level));
    found.truncate(MAX_LINTS);
    found
}

struct Search<'a> {
    file: &'a PolicyFile,
    resolved: &'a Resolved,
    policy: &'a Policy,
    found: Vec<Lint>,
}

const READ: &str = "filesystem.read";
const EXECUTE: &str = "filesystem.execute";
const WRITE: &str = "filesystem.write";
const COPIED: &str = "filesystem.copy-on-write";
const GRANTS: [&str; 4] = [READ, EXECUTE, WRITE, COPIED];

/// Directories of the system that programs outside trust.
const SYSTEM: &[&str] = &[
    "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/opt", "/boot", "/var", "/home", "/root", "/srv",
];
/// Files and directories of the home from which programs outside are started.
const STARTED: &[&str] = &[
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".config",
    ".local",
    ".local/bin",
    "bin",
    ".ssh",
    ".cargo",
    ".cargo/bin",
    ".gitconfig",
    ".vimrc",
    ".vim",
    ".emacs.d",
    ".npmrc",
];

impl<'a> Search<'a> {
    /// The entries that the file states of a key, with their indices.
    fn own(&self, key: &str) -> Vec<(usize, &'a Entry)> {
        let entries = self
            .file
            .statements()
            .get(key)
            .into_iter()
            .flat_map(|list| &list.entries);
        entries.enumerate().collect()
    }

    fn own_paths(&self, key: &str) -> Vec<(usize, &'a PathPattern, &'a Place)> {
        let path = |(index, entry): (usize, &'a Entry)| match &entry.value {
            Value::Path(path) => Some((index, path, &entry.place)),
            _ => None,
        };
        self.own(key).into_iter().filter_map(path).collect()
    }

    /// The entries of a key in the whole policy.
    fn all(&self, key: &str) -> impl Iterator<Item = (&'a PathPattern, &'a Entry)> + use<'a> {
        let list = self.resolved.origins.get(key).into_iter();
        list.flat_map(|list| &list.entries)
            .filter_map(|entry| match &entry.value {
                Value::Path(path) => Some((path, entry)),
                _ => None,
            })
    }

    fn word(&self, key: &str) -> Option<(&'static str, &'a Place)> {
        let (_, entry) = *self.own(key).first()?;
        match &entry.value {
            Value::Word(word) => Some((word, &entry.place)),
            _ => None,
        }
    }

    fn note(&mut self, level: Level, key: impl Into<String>, place: &Place, message: impl Into<String>, help: &str) {
        self.found.push(Lint {
            level,
            key: key.into(),
            place: place.clone(),
            message: message.into(),
            help: help.to_owned(),
        });
    }

    /// Grants that are hidden, or lie in others.
    fn grants(&mut self) {
        for key in GRANTS {
            for (index, path, place) in self.own_paths(key) {
                let at = format!("{key}[{index}]");
                if let Some((outer, by)) = self.covering("filesystem.hide", path) {
                    let message = format!("`{}` is hidden by `{outer}` ({by}): nothing is given", path.spelled());
                    self.note(Level::Warning, at, place, message, "remove the one that is not meant");
                    continue;
                }
                let writes = key == WRITE || key == COPIED;
                if writes && let Some((outer, by)) = self.covering("filesystem.read-only", path) {
                    let message = format!(
                        "`{}` is read-only by `{outer}` ({by}): it is never written",
                        path.spelled()
                    );
                    self.note(
                        Level::Warning,
                        at,
                        place,
                        message,
                        "list it under `read`, or take it out of `read-only`",
                    );
                    continue;
                }
                // What gives the same or more.
                let stronger: &[&str] = match key {
                    READ => &[READ, EXECUTE, WRITE, COPIED],
                    EXECUTE => &[EXECUTE],
                    WRITE => &[WRITE],
                    _ => &[COPIED, WRITE],
                };
                let mut within = stronger.iter().find_map(|other| {
                    let mut outer = self.all(other).filter(|(outer, _)| outer.covers(path));
                    let (outer, entry) = outer.find(|(outer, _)| *outer != path)?;
                    let place = said(entry);
                    let other = other.rsplit('.').next().unwrap_or(other);
                    Some(format!("`{}` of `{other}` ({place})", outer.spelled()))
                });
                let workspace = matches!(path, PathPattern::Workspace(_));
                let written = self.policy.filesystem.workspace == WorkspaceAccess::Write;
                if workspace && (!writes || written) {
                    within = Some("the workspace, which has that already".to_owned());
                }
                let home = matches!(path, PathPattern::Home(_)) && self.policy.filesystem.home == Home::CopyOnWrite;
                if home && key != WRITE {
                    within = Some("the home, of which a copy is shown".to_owned());
                }
                if let Some(within) = within {
                    let message = format!("`{}` lies in {within}: it adds nothing", path.spelled());
                    self.note(Level::Note, at, place, message, "remove it");
                }
            }
        }
    }

    /// The entry of a list of restrictions that covers a path.
    fn covering(&self, key: &str, path: &PathPattern) -> Option<(String, String)> {
        let (outer, entry) = self.all(key).find(|(outer, _)| outer.covers(path))?;
        Some((outer.spelled(), said(entry)))
    }

    /// Restrictions of what is not given.
    fn restrictions(&mut self) {
        let fs = &self.policy.filesystem;
        let mut given: Vec<PathPattern> = GRANTS
            .iter()
            .flat_map(|key| self.all(key))
            .map(|(path, _)| path.clone())
            .collect();
        if fs.home == Home::CopyOnWrite {
            given.push(PathPattern::Home(String::new()));
        }
        let mut written: Vec<PathPattern> = [WRITE, COPIED]
            .iter()
            .flat_map(|key| self.all(key))
            .map(|(path, _)| path.clone())
            .collect();
        written.extend(self.policy.written_roots());
        if fs.home == Home::CopyOnWrite {
            written.push(PathPattern::Home(String::new()));
        }
        let outside = |path: &PathPattern, places: &[PathPattern]| {
            let same = |place: &&PathPattern| std::mem::discriminant(*place) == std::mem::discriminant(path);
            !places
                .iter()
                .filter(same)
                .any(|place| place.may_hold(path) || path.may_hold(place))
        };
        for (index, path, place) in self.own_paths("filesystem.hide") {
            if let PathPattern::Workspace(_) = path {
                let message = format!("`{}` lies in the workspace, where nothing is hidden", path.spelled());
                let help = "keep it outside the workspace, or list it under `read-only`";
                self.note(
                    Level::Warning,
                    format!("filesystem.hide[{index}]"),
                    place,
                    message,
                    help,
                );
            } else if same_base_only(path, &given) && outside(path, &given) {
                let message = format!("nothing gives `{}`: there is nothing to hide", path.spelled());
                self.note(
                    Level::Note,
                    format!("filesystem.hide[{index}]"),
                    place,
                    message,
                    "keep it if a grant may come that holds it",
                );
            }
        }
        for (index, path, place) in self.own_paths("filesystem.read-only") {
            if same_base_only(path, &written) && outside(path, &written) {
                let message = format!("`{}` is not written anyway", path.spelled());
                self.note(
                    Level::Note,
                    format!("filesystem.read-only[{index}]"),
                    place,
                    message,
                    "keep it if a grant may come that holds it",
                );
            }
        }
        let preferred = self.own("protections.preferred");
        for (index, entry) in preferred {
            if let Some(required) = self.resolved.origins.place_of("protections.required", &entry.value) {
                let message = format!("it is required already ({})", said(required));
                self.note(
                    Level::Note,
                    format!("protections.preferred[{index}]"),
                    &entry.place,
                    message,
                    "remove it",
                );
            }
        }
    }

    fn dangerous_paths(&mut self) {
        let default = builtin::builtin("default")
            .map(|(_, policy)| policy.filesystem.hide)
            .unwrap_or_default();
        for key in GRANTS {
            let writes = key == WRITE;
            for (index, path, place) in self.own_paths(key) {
                let at = format!("{key}[{index}]");
                let spelled = path.spelled();
                let hidden = self.covering("filesystem.hide", path).is_some();
                let secret = default.iter().find(|secret| {
                    (secret.covers(path) || path.covers(secret))
                        && !hidden
                        && self.covering("filesystem.hide", secret).is_none()
                });
                if let Some(secret) = secret {
                    let message = format!(
                        "`{spelled}` gives `{}`, which `default` hides as a secret",
                        secret.spelled()
                    );
                    self.note(
                        Level::Warning,
                        at.clone(),
                        place,
                        message,
                        "hide what a command must not see",
                    );
                }
                match path {
                    PathPattern::Absolute(text)
                        if text.contains(".sock")
                            || (is_below(text, "/run") && !is_below(text, "/run/current-system"))
                            || is_below(text, "/var/run") =>
                    {
                        let message = format!(
                            "`{spelled}` may hold sockets of services outside: who talks to Docker or the bus is out of the sandbox"
                        );
                        self.note(Level::Warning, at, place, message, "name the one file that is needed");
                    }
                    PathPattern::Absolute(text)
                        if writes && (SYSTEM.contains(&text.as_str()) || text.matches('/').count() < 2) =>
                    {
                        let message =
                            format!("`{spelled}` is written for good: programs outside are made of it, or trust it");
                        self.note(
                            Level::Warning,
                            at,
                            place,
                            message,
                            "grant the one directory below it that is needed",
                        );
                    }
                    PathPattern::Home(text) if writes && (text.is_empty() || STARTED.contains(&text.as_str())) => {
                        let message = format!(
                            "`{spelled}` is written for good: what is put there runs when the user logs in or works outside"
                        );
                        self.note(
                            Level::Warning,
                            at,
                            place,
                            message,
                            "use `copy-on-write`, or grant a directory that holds data only",
                        );
                    }
                    PathPattern::Absolute(_) | PathPattern::Home(_) if writes => {
                        let message = format!("`{spelled}` lies outside the workspace and is written for good");
                        self.note(
                            Level::Note,
                            at,
                            place,
                            message,
                            "use `copy-on-write` if the changes need not stay",
                        );
                    }
                    PathPattern::Absolute(text) if ["/home", "/root"].contains(&text.as_str()) || is_one_home(text) => {
                        let message = format!("`{spelled}` names a home of one machine");
                        self.note(
                            Level::Note,
                            at,
                            place,
                            message,
                            "write `${home}`, which is the caller's",
                        );
                    }
                    PathPattern::Home(text) if text.is_empty() && key != COPIED => {
                        let message =
                            format!("`{spelled}` gives the whole home, with everything that nobody thought of hiding");
                        self.note(
                            Level::Warning,
                            at,
                            place,
                            message,
                            "list what is needed, or use a preset",
                        );
                    }
                    _ => {}
                }
            }
        }
    }

    fn dangerous_words(&mut self) {
        let fs = &self.policy.filesystem;
        let writes = self.policy.written_roots().next().is_some();
        if let Some((word, place)) = self
            .word("network.mode")
            .filter(|(word, _)| *word == NetworkMode::Host.name())
        {
            let message = format!(
                "`{word}` gives the machine's own network, with everything that listens on its loopback and every protocol but TCP"
            );
            self.note(
                Level::Warning,
                "network.mode",
                place,
                message,
                "use \"loopback\" where nothing is fetched",
            );
            for key in ["network.tcp-connect", "network.tcp-bind"] {
                if self.resolved.origins.get(key).is_none() {
                    let message = format!("{key} is absent: every TCP port");
                    self.note(
                        Level::Note,
                        "network.mode",
                        place,
                        message,
                        "list the ports that are needed",
                    );
                }
            }
        }
        if let Some((_, place)) = self
            .word("filesystem.git")
            .filter(|(word, _)| *word == GitAccess::Open.name())
        {
            let message = "git's hooks and configuration can be changed: git outside runs what the command puts there";
            self.note(
                Level::Warning,
                "filesystem.git",
                place,
                message,
                "use \"guarded\": commits and branches work",
            );
        }
        for (key, empty, message, help) in [
            (
                "filesystem.protect",
                writes,
                "nothing is protected: editors and agents outside run what a command puts into the workspace",
                "leave the key out: then the list of `default` holds",
            ),
            (
                "filesystem.hide",
                fs.home == Home::CopyOnWrite || !fs.read.is_empty() || !fs.execute.is_empty(),
                "nothing is hidden: keys and tokens in what is granted are seen",
                "leave the key out: then the list of `default` holds",
            ),
            (
                "environment.never",
                !self.policy.environment.pass.is_empty(),
                "no variable is held back by its name",
                "leave the key out: then the list of `default` holds",
            ),
            (
                "protections.required",
                true,
                "a run starts whatever protection is missing",
                "leave the key out: then what `default` requires is required",
            ),
            (
                "tools",
                true,
                "no tool may be used, and so nothing can be run",
                "list \"shell\", or leave the key out",
            ),
        ] {
            let stated = self.file.statements().get(key);
            let joined = self.resolved.origins.get(key);
            if let Some(stated) = stated
                && stated.entries.is_empty()
                && joined.is_some_and(|list| list.entries.is_empty())
                && empty
            {
                self.note(Level::Warning, key, &stated.place, message, help);
            }
        }
        if let Some((_, place)) = self
            .word("approvals.self")
            .filter(|(word, _)| *word == SelfApproval::Always.name())
        {
            let message = "who asks may answer: a question then stops nobody";
            self.note(
                Level::Warning,
                "approvals.self",
                place,
                message,
                "use \"terminal\" where the same person sits at both ends",
            );
        }
        if let Some((word, place)) = self
            .word("audit.arguments")
            .filter(|(word, _)| *word != Arguments::Full.name())
        {
            let message = format!("with \"{word}\" the audit log does not tell what was run");
            self.note(
                Level::Note,
                "audit.arguments",
                place,
                message,
                "use \"full\" unless command lines hold what nobody may read",
            );
        }
        for (index, entry) in self.own("syscalls.allow") {
            let at = format!("syscalls.allow[{index}]");
            if self.policy.syscalls.profile == crate::SyscallProfile::Default {
                self.note(
                    Level::Note,
                    at,
                    &entry.place,
                    "profile \"default\" has it already",
                    "remove it, or write `profile = \"strict\"`",
                );
            } else if matches!(&entry.value, Value::Text(call) if !self.policy.calls(call)) {
                self.note(
                    Level::Warning,
                    at,
                    &entry.place,
                    "`deny` has it as well: it is refused",
                    "remove the one that is not meant",
                );
            }
        }
    }

    fn limits(&mut self) {
        for (key, level, message) in [
            (
                "limits.memory",
                Level::Warning,
                "a command may take all memory of the machine, and others with it",
            ),
            (
                "limits.processes",
                Level::Warning,
                "a command may start processes until the machine can start none",
            ),
            ("limits.wall", Level::Note, "a command that never ends is never ended"),
            ("limits.disk", Level::Note, "a command may fill the disk"),
            ("limits.output", Level::Note, "a command may print without end"),
        ] {
            if let Some((_, entry)) = self.own(key).first()
                && entry.value == Value::Amount(None)
            {
                self.note(
                    level,
                    key,
                    &entry.place,
                    message,
                    "state a bound that no honest command meets",
                );
            }
        }
        for (key, least, message) in [
            ("limits.memory", LEAST_MEMORY, "no shell starts with so little memory"),
            (
                "limits.processes",
                LEAST_PROCESSES,
                "a shell and what it starts are more processes",
            ),
        ] {
            if let Some((_, entry)) = self.own(key).first()
                && matches!(entry.value, Value::Amount(Some(amount)) if amount < least)
            {
                self.note(Level::Warning, key, &entry.place, message, "state more");
            }
        }
        if let Some((_, entry)) = self.own("limits.open-files").first()
            && matches!(entry.value, Value::SoftHard(soft, _) if soft < LEAST_OPEN_FILES)
        {
            let message = "a program and its libraries are more open files";
            self.note(Level::Warning, "limits.open-files", &entry.place, message, "state more");
        }
        let limits = &self.policy.limits;
        if let (Some(idle), Some(wall)) = (limits.idle, limits.wall)
            && idle >= wall
            && let Some((_, entry)) = self.own("limits.idle").first()
        {
            let message = "it is not less than limits.wall, which comes first";
            self.note(
                Level::Note,
                "limits.idle",
                &entry.place,
                message,
                "make it less, or leave it out",
            );
        }
    }

    fn environment(&mut self) {
        let default = builtin::builtin("default")
            .map(|(_, policy)| policy.environment.never)
            .unwrap_or_default();
        let environment = &self.policy.environment;
        let own = self.own("environment.pass");
        for (index, entry) in &own {
            let Value::Text(pattern) = &entry.value else { continue };
            let at = format!("environment.pass[{index}]");
            let name = pattern.trim_end_matches('*');
            let example = match pattern.ends_with('*') {
                true => format!("{name}_zz"),
                false => name.to_owned(),
            };
            let taken = !environment.passes(example.as_bytes());
            if taken {
                let message = format!("`{}` is never passed: `never` or `remove` has it", quoted(pattern));
                self.note(
                    Level::Warning,
                    at,
                    &entry.place,
                    message,
                    "remove it: a restriction beats every grant",
                );
            } else if matches_any(&default, example.as_bytes()) {
                let message = format!(
                    "`{}` signs in somewhere or reaches outside: `default` never passes it",
                    quoted(pattern)
                );
                self.note(
                    Level::Warning,
                    at,
                    &entry.place,
                    message,
                    "let the request set it, for the one command that needs it",
                );
            } else if let Some((outer, _)) =
                own.iter()
                    .filter(|(other, _)| other != index)
                    .find_map(|(other, entry)| match &entry.value {
                        Value::Text(outer) if pass_covers(outer, pattern) => Some((outer, other)),
                        _ => None,
                    })
            {
                let message = format!("`{}` passes it already", quoted(outer));
                self.note(Level::Note, at, &entry.place, message, "remove it");
            }
        }
        for (_, entry) in self.own("environment.set") {
            let Value::Variable(name, value) = &entry.value else {
                continue;
            };
            let at = format!("environment.set.{name}");
            if value.contains("${") {
                let message = "`${` is passed on as it stands: values are not expanded";
                let help = "write the value itself, or let the request set it";
                self.note(Level::Warning, at.clone(), &entry.place, message, help);
            }
            if environment.removes(name.as_bytes()) {
                self.note(
                    Level::Warning,
                    at,
                    &entry.place,
                    "`remove` has it: it is not set",
                    "remove the one that is not meant",
                );
            } else if matches_any(&default, name.as_bytes()) && !name.starts_with("GIT_") {
                let message = "a policy file is no place for what signs in: everybody who may use it reads it";
                self.note(Level::Warning, at, &entry.place, message, "let the request set it");
            }
        }
    }

    fn commands(&mut self) {
        let rules = &self.policy.commands.own;
        let all = self.resolved.origins.get("commands.rules");
        let entries: Vec<&Entry> = all.into_iter().flat_map(|list| &list.entries).collect();
        let own = |index: usize| {
            entries
                .get(index)
                .filter(|entry| entry.place.origin() == self.file.origin())
                .copied()
        };
        let mut notes: Vec<(Level, usize, &Entry, String, &str)> = Vec::new();
        let mut useless = std::collections::BTreeSet::new();
        for NeverMatching { rule, hidden_by } in rules.never_matching() {
            if let (Some(entry), Some(by)) = (own(rule), entries.get(hidden_by)) {
                useless.insert(rule);
                let message = format!(
                    "it never decides: the rule at {} is as strict and matches whatever it matches",
                    by.place
                );
                notes.push((
                    Level::Warning,
                    rule,
                    entry,
                    message,
                    "remove it, or make it about fewer commands",
                ));
            }
        }
        for (index, rule) in rules.rules.iter().enumerate() {
            let Some(entry) = own(index) else { continue };
            if rule.decision != Verdict::Allow || useless.contains(&index) {
                continue;
            }
            if rules.default == Verdict::Allow {
                let help = "write `default = \"ask\"` or \"deny\" if only what is listed may run";
                notes.push((
                    Level::Note,
                    index,
                    entry,
                    "what no rule is about is allowed already: it changes nothing".to_owned(),
                    help,
                ));
            } else if let Some(program) = anything(rule) {
                let message = format!(
                    "`{}` runs whatever it is told: allowing it allows everything",
                    quoted(&program)
                );
                notes.push((
                    Level::Warning,
                    index,
                    entry,
                    message,
                    "allow exact arguments only (`exact = true`), or ask",
                ));
            }
        }
        for (index, rule) in rules.rules.iter().enumerate() {
            let spaced = rule
                .program
                .iter()
                .find(|program| program.0.contains(char::is_whitespace));
            if let (Some(program), Some(entry)) = (spaced, own(index)) {
                notes.push((
                    Level::Warning,
                    index,
                    entry,
                    format!("no program is called `{}`: it matches no command", quoted(&program.0)),
                    "write the program alone, and what follows it under `args`",
                ));
            }
        }
        for (level, index, entry, message, help) in notes {
            // The number in the file, which has what it extends before it.
            let first = entries
                .iter()
                .position(|entry| entry.place.origin() == self.file.origin())
                .unwrap_or_default();
            let at = format!("commands.rules[{}]", index.saturating_sub(first));
            self.note(level, at, &entry.place.clone(), message, help);
        }
    }
}

/// The program of a rule that allows and that runs anything, if its arguments are open.
fn anything(rule: &Rule) -> Option<String> {
    if rule.exact && !rule.args.is_empty() {
        return None;
    }
    let open = |name: &str| name == "*" || runs_anything(name.rsplit('/').next().unwrap_or(name));
    rule.program
        .iter()
        .map(|pattern| &pattern.0)
        .find(|name| open(name))
        .cloned()
}

/// Where an entry comes from, in words.
fn said(entry: &Entry) -> String {
    match entry.by_default {
        true => "default".to_owned(),
        false => entry.place.to_string(),
    }
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `/home/ada`, with or without more.
fn is_one_home(path: &str) -> bool {
    path.strip_prefix("/home/")
        .is_some_and(|rest| !rest.starts_with(['*', '?']) && !rest.starts_with("linuxbrew"))
}

/// Whether a path of the system may hold one below the home.
fn holds_home(place: &PathPattern, path: &PathPattern) -> bool {
    matches!((place, path), (PathPattern::Absolute(_), PathPattern::Home(_)) | (PathPattern::Home(_), PathPattern::Absolute(_)))
        && [place, path].iter().any(|side| matches!(side, PathPattern::Absolute(text) if ["/home", "/root", "/var"].iter().any(|top| is_below(text, top))))
}

/// Whether no place that begins otherwise than the path can hold it.
fn same_base_only(path: &PathPattern, places: &[PathPattern]) -> bool {
    !matches!(path, PathPattern::Workspace(_)) && places.iter().all(|place| !holds_home(place, path))
}
