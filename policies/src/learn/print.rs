//! From grants to the text of a policy: every line with who asked for it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use super::gather::{Gathered, Grant, Kind, names, plain};
use super::places::{within, written};
use super::{Facts, Reach};
use crate::builtin::builtin;
use crate::decide::{duration, size};
use crate::model::{Filesystem, PathPattern, Policy};
use crate::print::quoted as string;

/// Least limits: what a machine under load needs for next to nothing.
const LEAST_WALL: Duration = Duration::from_secs(60);
const LEAST_MEMORY: u64 = 512 << 20;
const LEAST_PROCESSES: u32 = 64;

/// Variables that matter to everybody: who is asked, and in which words.
const EVERYBODY: &[&str] = &[
    "PATH",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "FORCE_COLOR",
    "CI",
    "SOURCE_DATE_EPOCH",
    "SANDBOX*",
];

/// Variables that matter to programs: which of them a program read cannot be seen.
const VARIABLES: &[(&[&str], &[&str])] = &[
    (
        &["cargo", "rustc", "rustup"],
        &["CARGO_*", "RUSTUP_*", "RUSTFLAGS", "RUST_BACKTRACE", "RUST_LOG"],
    ),
    (
        &["node", "npm", "npx", "pnpm", "yarn"],
        &["NODE_*", "NPM_CONFIG_*", "npm_config_*"],
    ),
    (
        &["python*", "pip*", "pytest", "uv"],
        &["PYTHON*", "PIP_*", "UV_*", "VIRTUAL_ENV"],
    ),
    (&["go"], &["GO*", "CGO_*"]),
    (
        &["cc", "gcc", "clang", "c++", "g++", "make", "cmake", "ninja"],
        &["CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "MAKEFLAGS"],
    ),
    (
        &["java", "javac", "mvn", "gradle"],
        &["JAVA_HOME", "JAVA_TOOL_OPTIONS", "MAVEN_OPTS", "GRADLE_OPTS"],
    ),
    (&["git"], &["GIT_*", "PAGER"]),
];

pub(super) fn policy(name: &str, facts: &Facts, gathered: &Gathered) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "# Proposed by `fumehood policy learn` from one run. Read it before it is used: it lets pass what that run did."
    );
    let _ = writeln!(text, "version = 1");
    let _ = writeln!(text, "name = {}", string(name));
    let extended = preset(facts, gathered);
    let about: String = plain(&facts.command).chars().take(120).collect();
    let _ = writeln!(
        text,
        "description = {}",
        string(&format!("What `{about}` asked for under the policy {}.", facts.policy))
    );
    if let Some(Policy { name, .. }) = &extended {
        let _ = writeln!(
            text,
            "extends = [{}] # whose programs it ran; below is what was asked for beside it",
            string(name)
        );
    }
    filesystem(&mut text, facts, gathered, extended.as_ref());
    network(&mut text, facts, gathered);
    let profile = if gathered.default_profile { "default" } else { "strict" };
    let _ = writeln!(text, "\n[syscalls]\nprofile = {}", string(profile));
    limits(&mut text, facts);
    environment(&mut text, facts, gathered);
    if let Some(required) = &facts.restated_required {
        let whose = plain(&facts.policy);
        let _ = match required.is_empty() {
            true => writeln!(text, "\n[protections]\n# None, as in the policy {whose}."),
            false => writeln!(
                text,
                "\n[protections]\n# Beside those of `default`: those of the policy {whose}."
            ),
        };
        let names = required.iter().map(|name| (name.clone(), String::new()));
        list(&mut text, "required", names);
    }
    if !facts.rules.is_empty() {
        let _ = writeln!(
            text,
            "\n# What the policy {} says of commands, as it says it.\n{}",
            plain(&facts.policy),
            facts.rules.trim().replace("\nceilings = []", "")
        );
    }
    text
}

fn filesystem(text: &mut String, facts: &Facts, gathered: &Gathered, extended: Option<&Policy>) {
    let _ = writeln!(text, "\n[filesystem]");
    let writes = facts.workspace_writable && !gathered.workspace_written.is_empty();
    match writes {
        true => key(text, "workspace = \"write\"", &names(&gathered.workspace_written)),
        false => key(text, "workspace = \"read\"", "nothing in it was written"),
    }
    key(text, "home = \"empty\"", "what is written there vanishes");
    let in_any = |path: &str, above: &[String]| above.iter().any(|above| within(path, above));
    let executed = |path: &str, grant: &Grant| grant.executed && in_any(path, &facts.executable);
    let changed = |path: &str, grant: &Grant| grant.kind == Kind::CopyOnWrite && in_any(path, &facts.changeable);
    let of = |wanted: &dyn Fn(&str, &Grant) -> bool| -> Vec<(String, String)> {
        let left = gathered.grants.iter().filter(|(path, grant)| {
            wanted(path, grant) && !gives(extended, path, executed(path, grant), changed(path, grant), facts)
        });
        left.map(|(path, grant)| (written(path, facts), names(&grant.programs)))
            .collect()
    };
    list(text, "execute", of(&|path, grant| executed(path, grant)).into_iter());
    list(
        text,
        "read",
        of(&|path, grant| !executed(path, grant) && !changed(path, grant)).into_iter(),
    );
    list(
        text,
        "copy-on-write",
        of(&|path, grant| changed(path, grant)).into_iter(),
    );
    if !gathered.tmp.is_empty() && facts.tmp {
        key(text, "tmp = true", &names(&gathered.tmp));
    }
    if !facts.restated_hide.is_empty() {
        let _ = writeln!(
            text,
            "# Beside what `default` hides: what the policy {} does.",
            plain(&facts.policy)
        );
        list(
            text,
            "hide",
            facts.restated_hide.iter().map(|path| (path.clone(), String::new())),
        );
    }
}

/// Which preset is for which programs.
const PRESETS: &[(&str, &[&str])] = &[
    ("rust", &["cargo", "rustc", "rustup"]),
    ("node", &["node", "npm", "npx", "pnpm", "yarn"]),
    ("python", &["python*", "pip*", "pytest", "uv"]),
    ("go", &["go"]),
    ("java", &["java", "javac", "mvn", "gradle"]),
    ("c", &["cc", "gcc", "clang", "c++", "g++", "make", "cmake", "ninja"]),
    ("git", &["git"]),
];

/// The preset of the first toolchain that was used, where the policy gives what it does and it gives most of what was asked for.
fn preset(facts: &Facts, gathered: &Gathered) -> Option<Policy> {
    PRESETS.iter().find_map(|(name, programs)| {
        let used = |program: &&str| gathered.executed.iter().any(|name| matches(program, name));
        let known = facts.presets.iter().any(|preset| preset == name) && programs.iter().any(used);
        let preset = builtin(name).filter(|_| known)?.1;
        let given = gathered.grants.iter().filter(|(path, grant)| {
            gives(
                Some(&preset),
                path,
                grant.executed,
                grant.kind == Kind::CopyOnWrite,
                facts,
            )
        });
        (2 * given.count() > gathered.grants.len()).then_some(preset)
    })
}

/// Whether what is extended gives a path already.
fn gives(extended: Option<&Policy>, path: &str, executed: bool, changed: bool, facts: &Facts) -> bool {
    let Some(Policy { filesystem, .. }) = extended else {
        return false;
    };
    let within_any = |lists: &[&Vec<PathPattern>]| {
        let mut patterns = lists.iter().flat_map(|list| list.iter());
        patterns.any(|pattern| match pattern {
            PathPattern::Absolute(above) => within(path, above),
            PathPattern::Home(rest) => within(path, &format!("{}/{rest}", facts.home)),
            PathPattern::Workspace(_) => false,
        })
    };
    let Filesystem {
        read,
        execute,
        write,
        copy_on_write,
        ..
    } = filesystem;
    within_any(&[read, execute, write, copy_on_write])
        && (!executed || within_any(&[execute]))
        && (!changed || within_any(&[write, copy_on_write]))
}

fn network(text: &mut String, facts: &Facts, gathered: &Gathered) {
    let _ = writeln!(text, "\n[network]");
    if facts.network == Reach::Host && !(gathered.ports.is_empty() && gathered.listened.is_empty()) {
        key(
            text,
            "mode = \"host-without-isolation\"",
            "only these ports, but of every host",
        );
        for (name, ports) in [("tcp-connect", &gathered.ports), ("tcp-bind", &gathered.listened)] {
            let numbers: Vec<_> = ports.keys().map(u16::to_string).collect();
            let who: BTreeSet<_> = ports.values().flatten().cloned().collect();
            let line = format!("{name} = [{}]", numbers.join(", "));
            key(
                text,
                &line,
                &if ports.is_empty() {
                    "nobody".to_owned()
                } else {
                    names(&who)
                },
            );
        }
    } else if gathered.loopback.is_empty() {
        key(text, "mode = \"none\"", "nobody used a network");
    } else {
        key(text, "mode = \"loopback\"", &names(&gathered.loopback));
    }
}

fn limits(text: &mut String, facts: &Facts) {
    let _ = writeln!(
        text,
        "\n[limits]\n# What was measured, with room: four times the time, twice the rest."
    );
    let (measured, bound) = (facts.measured, facts.limits);
    let wall = pleasant_wall(measured.wall.unwrap_or_default().saturating_mul(4).max(LEAST_WALL));
    let wall = bound.wall.map_or(wall, |bound| bound.min(wall));
    let seconds = measured.wall.unwrap_or_default().as_secs_f64();
    key(
        text,
        &format!("wall = {}", string(&duration(wall))),
        &format!("took {seconds:.1}s"),
    );
    let memory = measured
        .memory_bytes
        .map(|bytes| pleasant_memory(bytes.saturating_mul(2).max(LEAST_MEMORY)));
    if let Some(memory) = least(memory, bound.memory_bytes) {
        let used = measured.memory_bytes.unwrap_or(0).div_ceil(1 << 20);
        key(
            text,
            &format!("memory = {}", string(&size(memory))),
            &format!("used {used}MiB"),
        );
    }
    let processes = measured.processes.map(|count| {
        count
            .saturating_mul(2)
            .max(LEAST_PROCESSES)
            .checked_next_power_of_two()
            .unwrap_or(u32::MAX)
    });
    if let Some(processes) = least(processes, bound.processes) {
        let seen = measured.processes.unwrap_or(0);
        key(
            text,
            &format!("processes = {processes}"),
            &format!("at least {seen} were there at once"),
        );
    }
}

/// The smaller of two bounds. Without a measure the policy's own is kept.
fn least<T: Ord>(measured: Option<T>, bound: Option<T>) -> Option<T> {
    match (measured, bound) {
        (Some(measured), Some(bound)) => Some(measured.min(bound)),
        (one, other) => one.or(other),
    }
}

fn environment(text: &mut String, facts: &Facts, gathered: &Gathered) {
    let known: Vec<&str> = VARIABLES
        .iter()
        .filter(|(programs, _)| {
            programs
                .iter()
                .any(|program| gathered.executed.iter().any(|name| matches(program, name)))
        })
        .flat_map(|(_, variables)| variables.iter().copied())
        .chain(EVERYBODY.iter().copied())
        .collect();
    let matters = |name: &str| known.iter().any(|pattern| matches(pattern, name));
    let passed: BTreeSet<&str> = facts
        .passed
        .iter()
        .map(|name| if name.starts_with("LC_") { "LC_*" } else { name.as_str() })
        .filter(|name| matters(name))
        .collect();
    let _ = writeln!(text, "\n[environment]");
    list(
        text,
        "pass",
        passed.into_iter().map(|name| (name.to_owned(), String::new())),
    );
    let set: Vec<_> = facts.set.iter().filter(|(name, _)| matters(name)).collect();
    if !set.is_empty() {
        let _ = writeln!(text, "\n[environment.set]\n# Of the policy {}.", plain(&facts.policy));
        for (name, value) in set {
            let _ = writeln!(text, "{name} = {}", string(value));
        }
    }
}

/// Whether a name is meant by a pattern with a `*` at its end.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

fn key(text: &mut String, line: &str, comment: &str) {
    let _ = writeln!(text, "{line} # {}", plain(comment));
}

fn list(text: &mut String, name: &str, entries: impl Iterator<Item = (String, String)>) {
    let entries: Vec<_> = entries.collect();
    if entries.is_empty() {
        let _ = writeln!(text, "{name} = []");
        return;
    }
    let _ = writeln!(text, "{name} = [");
    for (entry, comment) in entries {
        let _ = match comment.is_empty() {
            true => writeln!(text, "    {},", string(&entry)),
            false => writeln!(text, "    {}, # {}", string(&entry), plain(&comment)),
        };
    }
    let _ = writeln!(text, "]");
}

/// The next length of time that people would say.
fn pleasant_wall(wall: Duration) -> Duration {
    const MINUTES: &[u64] = &[
        1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440,
    ];
    let minutes = wall.as_millis().div_ceil(60_000);
    let found = MINUTES.iter().find(|pleasant| u128::from(**pleasant) >= minutes);
    Duration::from_secs(60 * found.copied().unwrap_or(365 * 1440))
}

/// The next half or whole GiB.
fn pleasant_memory(bytes: u64) -> u64 {
    let step: u64 = if bytes <= 4 << 30 { 512 << 20 } else { 1 << 30 };
    bytes.div_ceil(step).saturating_mul(step)
}
