//! The floors of the house: who may name whom. Read from the sources, so that an import that runs the wrong way fails here.

use std::fs;
use std::path::{Path, PathBuf};

/// Our packages, their folder, and which of ours each may import.
const PACKAGES: &[(&str, &str, &[&str])] = &[
    ("fumehood-proto", "proto", &[]),
    ("fumehood-policies", "policies", &[]),
    ("fumehood-sandbox", "daemon/sandbox", &[]),
    (
        "fumehoodd",
        "daemon",
        &["fumehood-proto", "fumehood-policies", "fumehood-sandbox"],
    ),
    ("fumehood-client", "client", &["fumehood-proto"]),
    (
        "fumehood",
        "client/cli",
        &["fumehood-client", "fumehood-policies", "fumehoodd"],
    ),
    (
        "fumehood-tests",
        "tests",
        &[
            "fumehood",
            "fumehood-client",
            "fumehood-proto",
            "fumehood-policies",
            "fumehood-sandbox",
            "fumehoodd",
        ],
    ),
];

/// In the daemon, only these name the wire: the door, and who opens it.
const NAME_THE_WIRE: &[&str] = &["service/", "serve.rs"];

/// In the daemon, only these name the mechanism: what becomes a sandbox (`lower`), who follows it (`run/`, `session/`), where sandboxes come
/// from (`launch`), what works on files in them (`files`), what helps where a protection is missing (`remedy`), what must come before threads (`lib`, `cli`) or confines or
/// stops the daemon (`walls`, `serve`), or sends descriptors as sandboxes get theirs (`handover`); and at the door,
/// where states, signals and leftovers get their wire form.
const NAME_THE_SANDBOX: &[&str] = &[
    "lower.rs",
    "lower/",
    "run/",
    "session/",
    "launch.rs",
    "files.rs",
    "files/",
    "remedy.rs",
    "lib.rs",
    "cli.rs",
    "serve.rs",
    "handover.rs",
    "walls.rs",
    "service/node.rs",
    "service/convert.rs",
    "service/runs.rs",
    "service/sessions.rs",
];

/// What those below the daemon and the client must not know.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("daemon/sandbox", &["tokio", "tonic", "prost"]),
    ("policies", &["tokio", "tonic", "prost", "nix", "rustix", "libc"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines of a file that are code, with their numbers.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"));
    lines.map(|(number, line)| (number + 1, line.to_owned())).collect()
}

/// Whether `line` uses `word` as a whole word.
fn names(line: &str, word: &str) -> bool {
    let part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    line.match_indices(word).any(|(at, _)| {
        let bytes = line.as_bytes();
        !part(at.checked_sub(1).and_then(|before| bytes.get(before))) && !part(bytes.get(at + word.len()))
    })
}

/// Lines of `files` that name `word`, but for files that `allowed` begins.
fn offenders(base: &Path, word: &str, allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in sources(base) {
        let relative = path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
        if allowed
            .iter()
            .any(|prefix| relative == *prefix || (prefix.ends_with('/') && relative.starts_with(prefix)))
        {
            continue;
        }
        let lines = code(&path).into_iter().filter(|(_, line)| names(line, word));
        found.extend(lines.map(|(number, line)| format!("{}:{number}: {}", path.display(), line.trim())));
    }
    found
}

#[test]
fn imports_run_downwards_in_every_manifest() {
    for (package, folder, may) in PACKAGES {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some(*package));
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let Some(dependencies) = manifest.get(section).and_then(|section| section.as_table()) else {
                continue;
            };
            for name in dependencies.keys() {
                let ours = PACKAGES.iter().any(|(package, ..)| package == name);
                assert!(
                    !ours || may.contains(&name.as_str()),
                    "{package} must not import {name} ({section})"
                );
                for (_, words) in FORBIDDEN
                    .iter()
                    .filter(|(path, _)| path == folder && section == "dependencies")
                {
                    assert!(!words.contains(&name.as_str()), "{package} must not know {name}");
                }
            }
        }
    }
}

#[test]
fn imports_run_downwards_in_every_source() {
    for (package, folder, may) in PACKAGES {
        // A package below another's folder has its own sources.
        for part in ["src", "tests", "examples", "benches"] {
            for (other, ..) in PACKAGES
                .iter()
                .filter(|(other, ..)| other != package && !may.contains(other))
            {
                let word = other.replace('-', "_");
                let found: Vec<String> = offenders(&root().join(folder).join(part), &format!("{word}::"), &[]);
                assert!(found.is_empty(), "{package} must not import {other}: {found:#?}");
            }
        }
    }
}

#[test]
fn wire_types_end_at_the_door_of_the_daemon() {
    let found = offenders(&root().join("daemon/src"), "fumehood_proto", NAME_THE_WIRE);
    assert!(found.is_empty(), "{found:#?}");
    // Inside the door the generated types are called `v1`: outside of it nobody does.
    let found = offenders(&root().join("daemon/src"), "v1::", NAME_THE_WIRE);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn kernel_types_stay_with_those_who_make_and_follow_sandboxes() {
    let found = offenders(&root().join("daemon/src"), "fumehood_sandbox", NAME_THE_SANDBOX);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn unsafe_code_is_in_the_sandbox_alone() {
    for (package, folder, _) in PACKAGES {
        let manifest: toml::Table = fs::read_to_string(root().join(folder).join("Cargo.toml"))
            .unwrap()
            .parse()
            .unwrap();
        let inherits = manifest["lints"].get("workspace").and_then(|value| value.as_bool()) == Some(true);
        assert!(
            inherits || *package == "fumehood-sandbox",
            "{package} does not inherit the workspace's lints"
        );
    }
    let workspace: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    assert_eq!(
        workspace["workspace"]["lints"]["rust"]["unsafe_code"].as_str(),
        Some("forbid")
    );
    for folder in ["proto", "policies", "daemon", "client", "tests"] {
        for part in ["src", "tests", "examples", "benches", "cli/src"] {
            let base = root().join(folder).join(part);
            // This file has to say the word.
            let found: Vec<String> = offenders(&base, "unsafe", &["e2e/layering.rs"]);
            let found: Vec<String> = found
                .into_iter()
                .filter(|line| line.contains("unsafe {") || line.contains("unsafe fn"))
                .collect();
            assert!(found.is_empty(), "{found:#?}");
        }
    }
}

#[test]
fn nothing_below_the_configuration_reads_the_environment() {
    // systemd hands descriptors over in the environment, and that is read before there is a configuration.
    let allowed = ["config.rs", "systemd.rs"];
    for (base, allowed) in [
        ("daemon/src", &allowed[..]),
        ("daemon/sandbox/src", &[]),
        ("policies/src", &[]),
    ] {
        for word in ["env::var", "env::var_os", "env::vars", "env::vars_os"] {
            let mut found = offenders(&root().join(base), word, allowed);
            found.retain(|line| !line.contains("/tests.rs:") && !line.contains("/tests/"));
            assert!(found.is_empty(), "{found:#?}");
        }
    }
}

#[test]
fn the_policy_language_does_no_input_or_output() {
    for word in [
        "std::fs",
        "std::net",
        "std::process",
        "std::time::SystemTime",
        "std::time::Instant",
        "std::os",
    ] {
        let found = offenders(&root().join("policies/src"), word, &[]);
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn the_exceptions_above_are_all_needed() {
    let base = root().join("daemon/src");
    for (word, allowed) in [
        ("fumehood_proto", NAME_THE_WIRE),
        ("fumehood_sandbox", NAME_THE_SANDBOX),
    ] {
        for exception in allowed {
            let others: Vec<&str> = allowed.iter().filter(|other| *other != exception).copied().collect();
            assert!(
                !offenders(&base, word, &others).is_empty(),
                "{exception} does not name {word} any more: strike it off"
            );
        }
    }
}
