//! The keys of the language, as one table: what the parser knows, what the JSON Schema is made from, and what `explain` says of a key.

use crate::command::Verdict;
use crate::model::{
    Arguments, GitAccess, Home, NetworkMode, Protection, SelfApproval, SyscallProfile, Tool, WorkspaceAccess,
};

/// One key of a policy file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The table it stands in: `filesystem`; empty at the top.
    pub section: &'static str,
    /// Its name: `read`.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Whether it gives or takes.
    pub nature: Nature,
    /// What its absence means, once everything that the file extends was looked at.
    pub absent: Absent,
    /// One line about it.
    pub doc: &'static str,
}

/// Whether a key gives or takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Grants add up.
    Grant,
    /// A restriction beats every grant.
    Restriction,
    /// It says something about the file itself.
    About,
}

/// What an absent key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Nothing, or the least.
    Least,
    /// What the built-in policy `default` says.
    OfDefault,
    /// The file is wrong.
    Refused,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The version of the language: 1.
    Version,
    /// The name of a policy.
    Name,
    /// One line of text.
    Line,
    /// Names of policies, and paths of policy files relative to this one.
    References,
    /// One of these words, the strictest first.
    Word(&'static [&'static str]),
    /// Some of these words.
    Words(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// Paths that are given.
    Granted,
    /// Paths that are not seen.
    Hidden,
    /// Paths that are not written.
    ReadOnly,
    /// Paths relative to the workspace.
    Protected,
    /// A size.
    Size,
    /// A size, or `"unlimited"`.
    SizeOrUnlimited,
    /// A duration, or `"unlimited"`.
    DurationOrUnlimited,
    /// A duration, which may be zero.
    Grace,
    /// A duration.
    Wait,
    /// A number of processes, or `"unlimited"`.
    Processes,
    /// A number of processors, or `"unlimited"`.
    Cpus,
    /// A soft and a hard limit.
    OpenFiles,
    /// A number of files, or `"unlimited"`.
    Files,
    /// TCP ports.
    Ports,
    /// Names of variables, `*` at the end.
    PassNames,
    /// Names of variables, `*` at either end.
    NeverNames,
    /// Names and values of variables.
    Variables,
    /// Names of system calls that are allowed.
    AllowedCalls,
    /// Names of system calls that are denied.
    DeniedCalls,
    /// Rules about commands, an array of tables.
    Rules,
    /// Sets of rules about commands, an array of tables.
    Ceilings,
    /// Expectations, an array of tables.
    Tests,
}

impl Kind {
    /// Whether the value has entries, which are joined when a policy extends another.
    pub const fn is_list(self) -> bool {
        matches!(
            self,
            Kind::References
                | Kind::Words(_)
                | Kind::Granted
                | Kind::Hidden
                | Kind::ReadOnly
                | Kind::Protected
                | Kind::Ports
                | Kind::PassNames
                | Kind::NeverNames
                | Kind::Variables
                | Kind::AllowedCalls
                | Kind::DeniedCalls
                | Kind::Rules
                | Kind::Ceilings
        )
    }

    /// The most entries that a list may have. Each path may become a mount, each rule is compared with each command.
    pub const fn max_entries(self) -> usize {
        match self {
            Kind::Rules => 256,
            Kind::Ceilings => 16,
            _ => 1024,
        }
    }
}

impl Key {
    /// The key as a path into the file: `filesystem.read`.
    pub fn path(&self) -> String {
        match self.section {
            "" => self.name.to_owned(),
            section => format!("{section}.{}", self.name),
        }
    }
}

const fn key(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    nature: Nature,
    absent: Absent,
    doc: &'static str,
) -> Key {
    Key {
        section,
        name,
        kind,
        nature,
        absent,
        doc,
    }
}

const FS: &str = "filesystem";
const ENV: &str = "environment";
const GRANT: Nature = Nature::Grant;
const RESTRICTION: Nature = Nature::Restriction;
const ABOUT: Nature = Nature::About;
const LEAST: Absent = Absent::Least;
const OF_DEFAULT: Absent = Absent::OfDefault;

const fn limit(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    key("limits", name, kind, RESTRICTION, OF_DEFAULT, doc)
}

/// Every key, in the order in which a policy is printed.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("", "version", Kind::Version, ABOUT, Absent::Refused, "The version of the language: 1."),
    key("", "name", Kind::Name, ABOUT, Absent::Refused, "The policy's name: 1 to 64 of a-z, 0-9 and -."),
    key("", "description", Kind::Line, ABOUT, LEAST, "What the policy is for, in one line."),
    key("", "extends", Kind::References, ABOUT, LEAST, "Policies that this one takes in, by name or by a path relative to this file: \"default\", \"./base.toml\"."),
    key("", "ceiling", Kind::Flag, ABOUT, LEAST, "Whether it holds over every other policy. Only in the machine's own directory, /etc/fumehood/policies."),
    key("", "tools", Kind::Words(Tool::WORDS), GRANT, OF_DEFAULT, "The tools that may be used."),
    key(FS, "workspace", Kind::Word(WorkspaceAccess::WORDS), GRANT, LEAST, "What may be done in the workspace. It can always be read and executed."),
    key(FS, "home", Kind::Word(Home::WORDS), GRANT, LEAST, "What is seen at the home directory: nothing, or the real one, whose changes vanish with the sandbox."),
    key(FS, "execute", Kind::Granted, GRANT, LEAST, "Paths that are read and executed."),
    key(FS, "read", Kind::Granted, GRANT, LEAST, "Paths that are read and listed, not executed."),
    key(FS, "write", Kind::Granted, GRANT, LEAST, "Paths that are read and written, not executed unless `execute` has them as well."),
    key(FS, "copy-on-write", Kind::Granted, GRANT, LEAST, "Directories that can be read and written, and whose changes vanish with the sandbox."),
    key(FS, "tmp", Kind::Flag, GRANT, LEAST, "Whether there is a /tmp and a /var/tmp: private, on disk, for the life of the sandbox."),
    key(FS, "hide", Kind::Hidden, RESTRICTION, OF_DEFAULT, "Paths that are not seen. Holds outside the workspace."),
    key(FS, "read-only", Kind::ReadOnly, RESTRICTION, OF_DEFAULT, "Paths that are never written, whatever is granted."),
    key(FS, "protect", Kind::Protected, RESTRICTION, OF_DEFAULT, "Names that cannot be made, changed, moved or removed, relative to the workspace, to every repository in it and to every path of `write`."),
    key(FS, "git", Kind::Word(GitAccess::WORDS), RESTRICTION, OF_DEFAULT, "Whether git's hooks and configuration are protected in writable trees."),
    key(FS, "shm", Kind::Size, RESTRICTION, OF_DEFAULT, "Size of the private /dev/shm."),
    key("network", "mode", Kind::Word(NetworkMode::WORDS), GRANT, LEAST, "The network; an absent one is \"loopback\"."),
    key("network", "tcp-connect", Kind::Ports, GRANT, LEAST, "TCP ports that may be connected to, in mode \"host-without-isolation\"; absent: every one."),
    key("network", "tcp-bind", Kind::Ports, GRANT, LEAST, "TCP ports that may be listened on, in mode \"host-without-isolation\"; absent: every one."),
    key("syscalls", "profile", Kind::Word(SyscallProfile::WORDS), GRANT, LEAST, "Which system calls are allowed; absent: \"default\"."),
    key("syscalls", "allow", Kind::AllowedCalls, GRANT, LEAST, "System calls allowed beside those of the profile; profile \"default\" must have them."),
    key("syscalls", "deny", Kind::DeniedCalls, RESTRICTION, OF_DEFAULT, "System calls refused, whatever the profile says."),
    limit("wall", Kind::DurationOrUnlimited, "Elapsed time."),
    limit("idle", Kind::DurationOrUnlimited, "Time without output."),
    limit("cpu-time", Kind::DurationOrUnlimited, "CPU time of all processes together."),
    limit("grace", Kind::Grace, "From the stop signal to SIGKILL."),
    limit("memory", Kind::SizeOrUnlimited, "Memory of all processes together."),
    limit("processes", Kind::Processes, "Processes and threads."),
    limit("cpus", Kind::Cpus, "Processors."),
    limit("open-files", Kind::OpenFiles, "Open files of one process."),
    limit("file-size", Kind::SizeOrUnlimited, "The largest file."),
    limit("disk", Kind::SizeOrUnlimited, "Disk space that may be taken."),
    limit("files", Kind::Files, "Files that may be made."),
    limit("output", Kind::SizeOrUnlimited, "Output of both streams together; past it the run is ended."),
    key(ENV, "pass", Kind::PassNames, GRANT, LEAST, "Variables passed on from the caller; `*` may stand at the end: \"LC_*\"."),
    key(ENV, "never", Kind::NeverNames, RESTRICTION, OF_DEFAULT, "Variables never passed on from the caller; `*` may stand at either end: \"*_TOKEN\". Case does not matter."),
    key(ENV, "remove", Kind::NeverNames, RESTRICTION, OF_DEFAULT, "Variables that no command has, whoever sets them; `*` may stand at either end. Case does not matter."),
    key(ENV, "set", Kind::Variables, GRANT, LEAST, "Variables set for every command."),
    key("protections", "required", Kind::Words(Protection::WORDS), RESTRICTION, OF_DEFAULT, "Protections without which a run does not start."),
    key("protections", "preferred", Kind::Words(Protection::WORDS), RESTRICTION, OF_DEFAULT, "Protections without which a run starts, and says so."),
    key("commands", "default", Kind::Word(Verdict::WORDS), RESTRICTION, LEAST, "For a command that no rule matches; absent: \"allow\"."),
    key("commands", "unreadable", Kind::Word(Verdict::WORDS), RESTRICTION, LEAST, "For what cannot be read. Never laxer than `default`; absent: \"ask\" or as strict as `default`."),
    key("commands", "rules", Kind::Rules, RESTRICTION, LEAST, "Rules about programs and arguments: of those that match a command the strictest holds."),
    key("commands", "ceilings", Kind::Ceilings, RESTRICTION, LEAST, "More sets of rules, as a policy has that was narrowed by others: each is judged by itself, and the strictest holds."),
    key("approvals", "wait", Kind::Wait, RESTRICTION, OF_DEFAULT, "How long a question waits for its answer; then it is \"no\"."),
    key("approvals", "self", Kind::Word(SelfApproval::WORDS), GRANT, LEAST, "Whether who asks may answer: never, from a terminal, always."),
    key("audit", "arguments", Kind::Word(Arguments::WORDS), RESTRICTION, OF_DEFAULT, "What the audit log keeps of a command line: all but secrets, the program, or a digest."),
    key("", "tests", Kind::Tests, ABOUT, LEAST, "What the policy is expected to allow and to deny."),
];

/// A key by its path: `filesystem.read`.
pub fn key_named(path: &str) -> Option<&'static Key> {
    let (section, name) = path.split_once('.').unwrap_or(("", path));
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// The names of the sections, in the order of the table.
pub(crate) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    KEYS.iter().filter_map(move |key| {
        let new = key.section != last && !key.section.is_empty();
        last = key.section;
        new.then_some(key.section)
    })
}

/// The names of the keys that stand in a section; at the top, the sections as well.
pub(crate) fn names(section: &str) -> Vec<&'static str> {
    let own = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    let sections = sections().filter(|_| section.is_empty());
    own.chain(sections).collect()
}
