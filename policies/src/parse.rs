//! From the bytes of a file to a checked policy, or to everything that is wrong with it.
//!
//! The file is walked by hand over the TOML parser's spanned values, not through serde: serde ends at the first error,
//! and who writes a policy wants them all. A wrong value is noted and stands in as its type's default until the end.

mod commands;
mod path;
mod text;
mod value;
mod walker;

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use self::walker::{Absent, Entries, Section, Walker};
use crate::digest::Digest;
use crate::error::{Collector, ParseErrors, quoted, single};
use crate::model::{
    Environment, Filesystem, GitAccess, Home, Limits, Network, Policy, Ports, Protection, Protections, SyscallProfile,
    WorkspaceAccess,
};

/// Larger files are refused unread: a policy is written by hand.
const MAX_FILE_BYTES: usize = 1 << 20;
/// More entries in one list or table are refused: each may become a mount.
const MAX_ENTRIES: usize = 1024;
/// The version of the language that is read here.
const VERSION: u64 = 1;

const FILESYSTEM: &str = "filesystem";
const NETWORK: &str = "network";
const SYSCALLS: &str = "syscalls";
const LIMITS: &str = "limits";
const ENVIRONMENT: &str = "environment";
const PROTECTIONS: &str = "protections";
const COMMANDS: &str = "commands";

const TOP_KEYS: &[&str] = &[
    "version",
    "name",
    "description",
    FILESYSTEM,
    NETWORK,
    SYSCALLS,
    LIMITS,
    ENVIRONMENT,
    PROTECTIONS,
    COMMANDS,
];

/// The sections and their keys.
const SECTIONS: &[(&str, &[&str])] = &[
    (
        FILESYSTEM,
        &[
            "workspace",
            "home",
            "read",
            "write",
            "hide-in-home",
            "hide",
            "protect",
            "git",
            "tmp",
            "shm",
        ],
    ),
    (NETWORK, &["mode", "tcp-connect", "tcp-bind"]),
    (SYSCALLS, &["profile"]),
    (
        LIMITS,
        &[
            "wall",
            "idle",
            "cpu-time",
            "grace",
            "memory",
            "processes",
            "cpus",
            "open-files",
            "file-size",
            "disk",
            "files",
            "output",
        ],
    ),
    (ENVIRONMENT, &["pass", "never", "set"]),
    (PROTECTIONS, &["required"]),
    (COMMANDS, &["default", "unreadable", "rules"]),
];

/// Where an absent restriction is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// From the built-in policy `default`.
    Default,
    /// From nowhere: its absence is an error. For the built-in policies themselves.
    None,
}

/// What is wrong with one value, before its place is known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    message: String,
    help: Option<String>,
}

impl Problem {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: Some(help.into()),
        }
    }

    /// A value of a type that was not expected.
    fn expected(what: &str, found: &DeValue<'_>, help: impl Into<String>) -> Self {
        let found = found.type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        Self::new(format!("expected {what}, found {article} {found}"), help)
    }
}

impl Policy {
    /// Reads a policy file. `origin` names it in the errors: a path, or whatever the bytes came from.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file at once; of a file that is not TOML, or is of another version, that alone.
    /// At most 1 MiB is read, in UTF-8, at most 80 levels deep, at most 1024 entries to a list.
    pub fn parse(bytes: &[u8], origin: &str) -> Result<Self, ParseErrors> {
        parse(bytes, origin, Fallback::Default)
    }
}

pub(crate) fn parse(bytes: &[u8], origin: &str, fallback: Fallback) -> Result<Policy, ParseErrors> {
    if bytes.len() > MAX_FILE_BYTES {
        let message = format!("the file has {} bytes, more than {MAX_FILE_BYTES}", bytes.len());
        return Err(single("", origin, 0, message, None));
    }
    let source = match std::str::from_utf8(bytes) {
        Ok(source) => source,
        Err(error) => {
            // Up to the wrong byte the lossy text is the file's own, so the offset holds.
            let lossy = String::from_utf8_lossy(bytes);
            let help = "save the file as UTF-8".to_owned();
            return Err(single(
                &lossy,
                origin,
                error.valid_up_to(),
                "not UTF-8".to_owned(),
                Some(help),
            ));
        }
    };
    let document = DeTable::parse(source).map_err(|error| {
        let message = match error.message() {
            message if message.contains("recurs") => "nested too deeply: more than 80 levels",
            message => message,
        };
        let offset = error.span().map_or(0, |span| span.start);
        single(source, origin, offset, message.to_owned(), None)
    })?;
    let mut walker = Walker {
        errors: Collector::new(source),
        fallback,
    };
    let policy = walker.policy(document.get_ref());
    match walker.errors.finish(origin) {
        None => Ok(policy.expect("only a file of another version has no policy, and that is an error")),
        Some(errors) => Err(errors),
    }
}

impl Walker<'_> {
    /// The policy, or a stand-in for it once errors are noted. `None`: of a version that is not read here, and noted.
    fn policy(&mut self, document: &DeTable<'_>) -> Option<Policy> {
        let top = Section {
            name: "",
            table: Some(document),
        };
        if !self.version(&top) {
            return None;
        }
        self.unknown_keys(document, "", TOP_KEYS);
        if top.get("name").is_none() {
            self.missing(&top, "name", 0, "write `name = \"…\"`, of a-z, 0-9 and -");
        }
        let network = self.section(document, NETWORK);
        let syscalls = self.section(document, SYSCALLS);
        let mut policy = Policy {
            name: self.value(&top, "name", Absent::Least, text::name),
            description: self.value(&top, "description", Absent::Least, text::description),
            filesystem: self.filesystem(document),
            network: self.network(&network),
            syscalls: self.value(&syscalls, "profile", Absent::Least, |value| {
                text::choice(
                    value,
                    &[("default", SyscallProfile::Default), ("strict", SyscallProfile::Strict)],
                )
            }),
            limits: self.limits(document),
            environment: self.environment(document),
            protections: self.protections(document),
            commands: self.commands(document),
            digest: Digest([0; 32]),
        };
        self.network_can_be_required(&policy, document);
        policy.digest = Digest::of(&policy);
        Some(policy)
    }

    fn network(&mut self, section: &Section<'_>) -> Network {
        #[derive(Clone, Copy, Default, PartialEq)]
        enum Mode {
            None,
            #[default]
            Loopback,
            LoopbackSilent,
            Host,
        }
        let mode = self.value(section, "mode", Absent::Least, |value| {
            text::choice(
                value,
                &[
                    ("none", Mode::None),
                    ("loopback", Mode::Loopback),
                    ("loopback-silent", Mode::LoopbackSilent),
                    ("host-without-isolation", Mode::Host),
                ],
            )
        });
        let mut ports = |key| {
            let value = section.get(key)?;
            if mode != Mode::Host {
                let problem = Problem::new(
                    "ports are only chosen on the machine's own network",
                    "remove it, or write `mode = \"host-without-isolation\"` if the commands may have that",
                );
                self.problem(value.span().start, &section.path(key), problem);
                return None;
            }
            Some(self.value(section, key, Absent::Least, value::ports))
        };
        let (connect, bind) = (ports("tcp-connect"), ports("tcp-bind"));
        match mode {
            Mode::None => Network::None,
            Mode::Loopback => Network::Loopback,
            Mode::LoopbackSilent => Network::LoopbackSilent,
            Mode::Host => Network::Host(Ports { connect, bind }),
        }
    }

    /// Whoever gives the machine's network away says so twice: the protection cannot stay among the required ones, where the
    /// built-in policy has it.
    fn network_can_be_required(&mut self, policy: &Policy, document: &DeTable<'_>) {
        let required = policy.protections.required.contains(&Protection::Network);
        if !required || !matches!(policy.network, Network::Host(_)) {
            return;
        }
        // Where `required` is absent, what asks for the machine's network is what has to change.
        let (network, protections) = (self.section(document, NETWORK), self.section(document, PROTECTIONS));
        let stated = protections.get("required").map(|value| (value, "protections.required"));
        let Some((value, key)) = stated.or_else(|| Some((network.get("mode")?, "network.mode"))) else {
            return;
        };
        let problem = Problem::new(
            "`network` is required, and `network.mode = \"host-without-isolation\"` gives it up",
            "write `required = […]` without \"network\" if that is meant",
        );
        self.problem(value.span().start, key, problem);
    }

    /// Whether the rest of the file can be understood.
    fn version(&mut self, top: &Section<'_>) -> bool {
        let Some(value) = top.get("version") else {
            self.missing(top, "version", 0, &format!("write `version = {VERSION}`"));
            return true;
        };
        let version = value::integer(value.get_ref(), 0..=u64::MAX, &VERSION.to_string());
        let problem = match version {
            Ok(VERSION) => return true,
            Ok(other) => Problem::new(
                format!("version {other} is not understood by this program"),
                format!("it reads `version = {VERSION}`"),
            ),
            Err(problem) => problem,
        };
        self.problem(value.span().start, "version", problem);
        false
    }

    fn filesystem(&mut self, document: &DeTable<'_>) -> Filesystem {
        let section = self.section(document, FILESYSTEM);
        let workspace = self.value(&section, "workspace", Absent::Least, |value| {
            text::choice(
                value,
                &[("read", WorkspaceAccess::Read), ("write", WorkspaceAccess::Write)],
            )
        });
        let home = self.value(&section, "home", Absent::Least, |value| {
            text::choice(value, &[("empty", Home::Empty), ("copy-on-write", Home::CopyOnWrite)])
        });
        let read = self.list(&section, "read", path::granted);
        let write = self.list(&section, "write", path::granted);
        let hide = self.list(&section, "hide", path::hidden);
        self.contradiction(
            &section,
            ("write", &write),
            ("read", &read),
            "`write` includes reading: list it there alone",
        );
        for (key, granted) in [("read", &read), ("write", &write)] {
            self.contradiction(
                &section,
                ("hide", &hide),
                (key, granted),
                "a path is either granted or hidden",
            );
        }
        let hide_in_home = self.list(&section, "hide-in-home", path::hidden_in_home);
        Filesystem {
            workspace,
            home,
            read: self.or_absent(&section, "read", keys(read), Absent::Least),
            write: self.or_absent(&section, "write", keys(write), Absent::Least),
            hide_in_home: self.or_absent(
                &section,
                "hide-in-home",
                keys(hide_in_home),
                Absent::OfDefault(|default| default.filesystem.hide_in_home.clone()),
            ),
            hide: self.or_absent(
                &section,
                "hide",
                keys(hide),
                Absent::OfDefault(|default| default.filesystem.hide.clone()),
            ),
            protect: {
                let protect = self.list(&section, "protect", path::protected);
                self.or_absent(
                    &section,
                    "protect",
                    keys(protect),
                    Absent::OfDefault(|default| default.filesystem.protect.clone()),
                )
            },
            git: self.value(
                &section,
                "git",
                Absent::OfDefault(|default| default.filesystem.git),
                |value| text::choice(value, &[("guarded", GitAccess::Guarded), ("open", GitAccess::Open)]),
            ),
            tmp: self.value(&section, "tmp", Absent::Least, value::boolean),
            shm_bytes: self.value(
                &section,
                "shm",
                Absent::OfDefault(|default| default.filesystem.shm_bytes),
                value::size,
            ),
        }
    }

    fn limits(&mut self, document: &DeTable<'_>) -> Limits {
        let section = &self.section(document, LIMITS);
        let duration = value::duration_or_unlimited;
        let size = value::size_or_unlimited;
        let open_files = Absent::OfDefault(|default| (default.limits.open_files_soft, default.limits.open_files_hard));
        let (open_files_soft, open_files_hard) = match section.get("open-files") {
            Some(_) => self.open_files(section),
            None => self.or_absent(section, "open-files", None, open_files),
        };
        Limits {
            wall: self.value(
                section,
                "wall",
                Absent::OfDefault(|default| default.limits.wall),
                duration,
            ),
            idle: self.value(
                section,
                "idle",
                Absent::OfDefault(|default| default.limits.idle),
                duration,
            ),
            cpu_time: self.value(
                section,
                "cpu-time",
                Absent::OfDefault(|default| default.limits.cpu_time),
                duration,
            ),
            grace: self.value(
                section,
                "grace",
                Absent::OfDefault(|default| default.limits.grace),
                value::grace,
            ),
            memory_bytes: self.value(
                section,
                "memory",
                Absent::OfDefault(|default| default.limits.memory_bytes),
                size,
            ),
            processes: self.value(
                section,
                "processes",
                Absent::OfDefault(|default| default.limits.processes),
                value::processes,
            ),
            cpu_millis: self.value(
                section,
                "cpus",
                Absent::OfDefault(|default| default.limits.cpu_millis),
                value::cpus,
            ),
            open_files_soft,
            open_files_hard,
            file_bytes: self.value(
                section,
                "file-size",
                Absent::OfDefault(|default| default.limits.file_bytes),
                size,
            ),
            disk_bytes: self.value(
                section,
                "disk",
                Absent::OfDefault(|default| default.limits.disk_bytes),
                size,
            ),
            files: self.value(
                section,
                "files",
                Absent::OfDefault(|default| default.limits.files),
                value::files,
            ),
            output_bytes: self.value(
                section,
                "output",
                Absent::OfDefault(|default| default.limits.output_bytes),
                size,
            ),
        }
    }

    /// `open-files = { soft = 4096, hard = 1048576 }`, both or neither.
    fn open_files(&mut self, limits: &Section<'_>) -> (u64, u64) {
        const EXAMPLE: &str = "write `open-files = { soft = 4096, hard = 1048576 }`";
        let Some(value) = limits.get("open-files") else {
            return (0, 0);
        };
        let offset = value.span().start;
        let DeValue::Table(table) = value.get_ref() else {
            self.problem(
                offset,
                "limits.open-files",
                Problem::expected("a table", value.get_ref(), EXAMPLE),
            );
            return (0, 0);
        };
        let section = Section {
            name: "limits.open-files",
            table: Some(table),
        };
        self.unknown_keys(table, section.name, &["soft", "hard"]);
        let mut read = |key| match section.get(key) {
            Some(_) => Some(self.value(&section, key, Absent::Least, value::open_files)),
            None => {
                self.missing(&section, key, offset, EXAMPLE);
                None
            }
        };
        // A wrong one stands as 0 and has been reported.
        match (read("soft"), read("hard")) {
            (Some(soft), Some(hard)) if hard != 0 && soft > hard => {
                let problem = Problem::new(format!("the soft limit {soft} is above the hard limit {hard}"), EXAMPLE);
                self.problem(offset, section.name, problem);
                (soft, hard)
            }
            (soft, hard) => (soft.unwrap_or(0), hard.unwrap_or(0)),
        }
    }

    fn environment(&mut self, document: &DeTable<'_>) -> Environment {
        let section = self.section(document, ENVIRONMENT);
        let pass = self.list(&section, "pass", text::pass_pattern);
        let never = self.list(&section, "never", text::never_pattern);
        let absent = Absent::OfDefault(|default| default.environment.never.clone());
        Environment {
            pass: self.or_absent(&section, "pass", keys(pass), Absent::Least),
            never: self.or_absent(&section, "never", keys(never), absent),
            set: self.variables(&section),
        }
    }

    fn variables(&mut self, environment: &Section<'_>) -> BTreeMap<String, String> {
        let mut set = BTreeMap::new();
        let Some(value) = environment.get("set") else {
            return set;
        };
        let DeValue::Table(table) = value.get_ref() else {
            let help = "write `[environment.set]` and below it `NAME = \"value\"`";
            self.problem(
                value.span().start,
                "environment.set",
                Problem::expected("a table", value.get_ref(), help),
            );
            return set;
        };
        if self.too_many(table.len(), value.span().start, "environment.set") {
            return set;
        }
        for (key, value) in table.iter() {
            let name: &str = key.get_ref();
            let path = format!("environment.set.{}", quoted(name));
            if let Err(problem) = text::variable_name(name) {
                self.problem(key.span().start, &path, problem);
                continue;
            }
            match text::variable_value(name, value.get_ref()) {
                Ok(value) => drop(set.insert(name.to_owned(), value)),
                Err(problem) => self.problem(value.span().start, &path, problem),
            }
        }
        set
    }

    fn protections(&mut self, document: &DeTable<'_>) -> Protections {
        let section = self.section(document, PROTECTIONS);
        let known = Protection::ALL.map(|protection| (protection.name(), protection));
        let required = self.list(&section, "required", |name| text::one_of(name, &known));
        let absent = Absent::OfDefault(|default| default.protections.required.clone());
        Protections {
            required: self.or_absent(&section, "required", keys(required), absent),
        }
    }
}

fn keys<T>(entries: Option<Entries<T>>) -> Option<Vec<T>> {
    entries.map(|entries| entries.into_keys().collect())
}
