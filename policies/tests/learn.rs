//! Proposals from what was observed: smallest, readable, never a secret, never more than was shown.

use std::collections::BTreeMap;
use std::time::Duration;

use fumehood_policies::learn::{Facts, Measures, Observation, Purpose, Reach, Target, Watched, propose};
use fumehood_policies::{Filesystem, Home, Network, PathPattern, Policy, PolicyFile, SyscallProfile, WorkspaceAccess};
use proptest::prelude::*;

fn facts() -> Facts {
    Facts {
        command: "cargo test".to_owned(),
        policy: "default".to_owned(),
        home: "/home/ada".to_owned(),
        workspace: "/home/ada/shop".to_owned(),
        repository: None,
        shown: ["/usr", "/bin", "/lib", "/lib64", "/etc", "/opt", "/home/ada"]
            .map(str::to_owned)
            .to_vec(),
        executable: ["/usr", "/bin", "/lib", "/lib64", "/opt", "/home/ada"]
            .map(str::to_owned)
            .to_vec(),
        changeable: vec!["/home/ada".to_owned()],
        presets: Vec::new(),
        hidden: ["/home/ada/.ssh", "/home/ada/.cargo/credentials.toml", "/etc/shadow"]
            .map(str::to_owned)
            .to_vec(),
        restated_hide: Vec::new(),
        restated_required: None,
        rules: String::new(),
        workspace_writable: true,
        tmp: true,
        network: Reach::Loopback,
        refusal_port: 61_127,
        passed: ["PATH", "LC_ALL", "LC_TIME", "EDITOR", "CARGO_HOME"]
            .map(str::to_owned)
            .to_vec(),
        set: BTreeMap::from([
            ("CARGO_NET_OFFLINE".to_owned(), "true".to_owned()),
            ("GOPROXY".to_owned(), "off".to_owned()),
        ]),
        limits: Measures {
            wall: Some(Duration::from_secs(600)),
            memory_bytes: Some(4 << 30),
            processes: Some(4096),
        },
        measured: Measures {
            wall: Some(Duration::from_secs(40)),
            memory_bytes: Some(700 << 20),
            processes: Some(50),
        },
    }
}

fn asked(purpose: Purpose, path: &str, existed: bool, program: &str) -> Observation {
    Observation {
        target: Target::Path(path.to_owned()),
        purpose,
        existed,
        directory: path.ends_with('d') && purpose == Purpose::List,
        program: program.to_owned(),
    }
}

fn watched(observations: Vec<Observation>) -> Watched {
    Watched {
        observations,
        ..Watched::default()
    }
}

fn policy(facts: &Facts, watched: &Watched, proofs: &[Watched]) -> (Policy, Vec<String>, String) {
    let proposal = propose("learnt", facts, watched, proofs);
    match Policy::parse(proposal.toml.as_bytes(), "proposal") {
        Ok(policy) => (policy, proposal.notes, proposal.toml),
        Err(errors) => panic!("{errors}\n{}", proposal.toml),
    }
}

fn home(path: &str) -> PathPattern {
    PathPattern::Home(path.to_owned())
}

fn absolute(path: &str) -> PathPattern {
    PathPattern::Absolute(path.to_owned())
}

/// A toolchain is extended where its preset gives most of what was asked for and the policy gives what the preset does.
#[test]
fn a_known_toolchain_is_extended_and_what_it_gives_is_not_said_again() {
    let known = Facts {
        presets: vec!["node".to_owned(), "rust".to_owned()],
        ..facts()
    };
    let first = cargo();
    let extending = propose("learnt", &known, &first, &[]).toml;
    let file = PolicyFile::parse(extending.as_bytes(), "proposal").unwrap();
    let names: Vec<_> = file.extends().map(|reference| reference.text).collect();
    assert_eq!(names, ["rust"], "{extending}");
    for given in ["\"/usr\"", "\"/lib64\"", "/.rustup/toolchains\"", "/.cargo/bin\""] {
        assert!(!extending.contains(given), "{given}: {extending}");
    }
    let plain = propose("learnt", &facts(), &first, &[]).toml;
    assert!(!plain.contains("extends"), "{plain}");
    // A policy that is watched under without what the preset gives: no preset.
    let few = watched(vec![asked(Purpose::Execute, "/opt/x/cargo", true, "init")]);
    let alone = propose("learnt", &known, &few, &[]).toml;
    assert!(!alone.contains("extends"), "{alone}");
}

/// `cargo test` as it was recorded, shortened.
fn cargo() -> Watched {
    use Purpose::{Execute, Look, Read, Write};
    watched(vec![
        asked(Execute, "/home/ada/.cargo/bin/cargo", true, "init"),
        asked(Execute, "/lib64/ld-linux-x86-64.so.2", true, "init"),
        asked(Read, "/etc/ld.so.cache", true, "cargo"),
        asked(Read, "/usr/lib/libc.so.6", true, "cargo"),
        asked(Execute, "/home/ada/.rustup/toolchains/stable/bin/rustc", true, "cargo"),
        asked(Look, "/home/ada/.config", true, "cargo"),
        asked(Read, "/home/ada/.cargo/config.toml", true, "cargo"),
        asked(Read, "/home/ada/.cargo/config", false, "cargo"),
        asked(Read, "/home/ada/.cargo/credentials.toml", false, "cargo"),
        asked(Read, "/home/ada/.cargo/registry/src/a/lib.rs", true, "rustc"),
        asked(Write, "/home/ada/.cargo/registry/.lock", true, "cargo"),
        asked(Write, "/home/ada/shop/target/debug/x", false, "rustc"),
        asked(Write, "/tmp/rustc1", false, "rustc"),
    ])
}

#[test]
fn a_toolchain_is_granted_by_its_places_and_nothing_else() {
    let (policy, notes, text) = policy(&facts(), &cargo(), &[]);
    let Filesystem {
        workspace,
        read,
        execute,
        write,
        copy_on_write,
        tmp,
        ..
    } = &policy.filesystem;
    assert_eq!(
        (*workspace, policy.filesystem.home, *tmp),
        (WorkspaceAccess::Write, Home::Empty, true)
    );
    let sorted = |list: &[PathPattern]| {
        let mut list = list.to_vec();
        list.sort();
        list
    };
    assert_eq!(
        sorted(execute),
        sorted(&[
            absolute("/lib64"),
            absolute("/usr"),
            home(".cargo/bin"),
            home(".rustup/toolchains"),
        ]),
        "{text}"
    );
    assert_eq!(
        sorted(read),
        sorted(&[
            absolute("/etc/ld.so.cache"),
            home(".cargo/config.toml"),
            home(".cargo/registry"),
        ]),
        "{text}"
    );
    assert!(write.is_empty() && copy_on_write.is_empty() && policy.network == Network::None);
    assert_eq!(policy.syscalls.profile, SyscallProfile::Strict);
    assert_eq!(
        policy.limits.wall,
        Some(Duration::from_secs(180)),
        "four times 40 s, and what people say"
    );
    assert_eq!(
        (policy.limits.memory_bytes, policy.limits.processes),
        (Some(3 << 29), Some(128))
    );
    assert_eq!(policy.environment.pass, ["CARGO_HOME", "LC_*", "PATH"]);
    assert_eq!(policy.environment.set.keys().collect::<Vec<_>>(), ["CARGO_NET_OFFLINE"]);
    assert!(text.contains("\"${home}/.cargo/registry\", # cargo, rustc"), "{text}");
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].contains("${home}/.cargo/credentials.toml (cargo): a secret"),
        "{notes:?}"
    );
}

#[test]
fn what_a_proof_missed_is_granted_and_what_it_could_not_write_can_change() {
    let mut proof = watched(vec![asked(Purpose::Look, "/home/ada/.toolrc", false, "tool")]);
    proof.missed_calls = true;
    let mut first = cargo();
    first
        .observations
        .push(asked(Purpose::Look, "/home/ada/.toolrc", true, "tool"));
    let (before, ..) = policy(&facts(), &first, &[]);
    assert!(!before.filesystem.read.contains(&home(".toolrc")));
    let (after, _, text) = policy(&facts(), &first, &[proof]);
    assert_eq!(after.syscalls.profile, SyscallProfile::Default);
    // The registry is written: it takes changes, and nothing else of the home is shown for it.
    assert_eq!(after.filesystem.copy_on_write, [home(".cargo/registry")], "{text}");
    assert_eq!(after.filesystem.home, Home::Empty, "{text}");
    let mut proof = watched(vec![asked(Purpose::Look, "/home/ada/.toolrc", false, "tool")]);
    proof.missed_network = true;
    first
        .observations
        .retain(|observation| observation.purpose != Purpose::Write);
    let (after, _, text) = policy(&facts(), &first, &[proof]);
    assert!(after.filesystem.read.contains(&home(".toolrc")), "{text}");
    assert_eq!(after.network, Network::Loopback);
}

#[test]
fn many_files_of_a_directory_become_the_directory_but_never_a_shared_one() {
    let files = |directory: &str| -> Vec<Observation> {
        let file = |number| asked(Purpose::Read, &format!("{directory}/{number}"), true, "tool");
        (0..20).map(file).collect()
    };
    let (policy_of, ..) = policy(&facts(), &watched(files("/home/ada/data/set")), &[]);
    assert_eq!(policy_of.filesystem.read, [home("data/set")]);
    for shared in ["/home/ada", "/home/ada/.config", "/etc", "/home/ada/.cargo"] {
        let (policy_of, ..) = policy(&facts(), &watched(files(shared)), &[]);
        assert_eq!(policy_of.filesystem.read.len(), 20, "{shared}");
    }
}

#[test]
fn addresses_become_loopback_or_a_note() {
    let to = |address: &str, purpose| Observation {
        target: Target::Address(address.parse().unwrap()),
        purpose,
        existed: true,
        directory: false,
        program: "curl".to_owned(),
    };
    let (policy_of, notes, _) = policy(&facts(), &watched(vec![to("93.184.216.34:443", Purpose::Connect)]), &[]);
    assert_eq!(policy_of.network, Network::None);
    assert!(notes[0].contains("93.184.216.34:443 (curl)"), "{notes:?}");
    let (policy_of, ..) = policy(&facts(), &watched(vec![to("127.0.0.1:0", Purpose::Bind)]), &[]);
    assert_eq!(policy_of.network, Network::Loopback);
    let under = Facts {
        network: Reach::None,
        ..facts()
    };
    let (policy_of, ..) = policy(&under, &watched(vec![to("127.0.0.1:0", Purpose::Bind)]), &[]);
    assert_eq!(policy_of.network, Network::None);
}

#[test]
fn bounds_and_restrictions_of_the_policy_above_are_kept() {
    let under = Facts {
        limits: Measures {
            wall: Some(Duration::from_millis(1500)),
            memory_bytes: Some(123_456_789),
            processes: Some(7),
        },
        workspace_writable: false,
        restated_hide: vec!["${home}/.secret".to_owned(), "/opt/keys".to_owned()],
        restated_required: Some(vec!["resources".to_owned()]),
        ..facts()
    };
    let (policy, _, text) = policy(&under, &cargo(), &[]);
    assert_eq!(policy.limits.wall, Some(Duration::from_millis(1500)));
    assert_eq!(
        (policy.limits.memory_bytes, policy.limits.processes),
        (Some(123_456_789), Some(7))
    );
    assert_eq!(policy.filesystem.workspace, WorkspaceAccess::Read);
    assert!(policy.filesystem.hide.contains(&absolute("/opt/keys")), "{text}");
    assert!(policy.filesystem.hide.contains(&home(".secret")), "{text}");
    assert!(
        policy.filesystem.hide.contains(&home(".ssh")),
        "beside default's: {text}"
    );
    assert!(
        policy
            .protections
            .required
            .iter()
            .any(|required| required.name() == "resources")
    );
}

#[test]
fn what_is_called_like_a_secret_and_what_is_only_listed_is_not_proposed() {
    let look = |purpose, path: &str, directory| Observation {
        directory,
        ..asked(purpose, path, true, "tool")
    };
    let mut watched = cargo();
    let home = facts().home;
    for (purpose, name, directory) in [
        (Purpose::Read, ".my_credentials", false),
        (Purpose::Read, "keys/server.pem", false),
        (Purpose::Read, "keys/id_ed25519", false),
        (Purpose::Read, "app/.env", false),
        (Purpose::List, "notes", true),
        (Purpose::Read, "notes/todo.txt", false),
    ] {
        watched
            .observations
            .push(look(purpose, &format!("{home}/{name}"), directory));
    }
    let (policy, notes, text) = policy(&facts(), &watched, &[]);
    let read = &policy.filesystem.read;
    assert!(read.contains(&self::home("notes/todo.txt")), "{text}");
    for name in [
        ".my_credentials",
        "keys",
        "keys/server.pem",
        "keys/id_ed25519",
        "app",
        "app/.env",
        "notes",
    ] {
        assert!(!read.contains(&self::home(name)), "{name}: {text}");
    }
    for name in [".my_credentials", "server.pem", "id_ed25519", ".env"] {
        let told = notes
            .iter()
            .any(|note| note.contains(name) && note.contains("called like a secret"));
        assert!(told, "{name}: {notes:?}");
    }
}

#[test]
fn a_proposal_says_of_commands_what_the_policy_above_says() {
    let above = "version = 1\nname = \"team\"\n[protections]\nrequired = []\n[commands]\ndefault = \"allow\"\n\
                 [[commands.rules]]\nprogram = \"git\"\nargs = [\"push\"]\ndecision = \"deny\"\nreason = \"no\"\n\
                 [approvals]\nwait = \"3s\"\n";
    let above = fumehood_policies::Policy::parse(above.as_bytes(), "team.toml").unwrap();
    let under = Facts {
        restated_required: Some(Vec::new()),
        rules: above.sections(&["commands", "approvals"]),
        ..facts()
    };
    let (policy, _, text) = policy(&under, &cargo(), &[]);
    assert_eq!(policy.commands, above.commands, "{text}");
    assert_eq!(policy.approvals, above.approvals, "{text}");
    assert!(policy.protections.required.is_empty(), "{text}");
}

fn path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "home",
        "ada",
        ".ssh",
        ".cargo",
        "credentials.toml",
        "registry",
        "etc",
        "shadow",
        "usr",
        "opt",
        "a",
        "b",
        "é\n\"\\",
        "tmp",
        "shop",
        ".config",
    ]);
    prop::collection::vec(part, 0..6).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn observation() -> impl Strategy<Value = Observation> {
    use Purpose::{Bind, Connect, Execute, List, Look, Read, Write};
    let purpose = prop::sample::select(vec![Look, Read, List, Execute, Write, Connect, Bind]);
    (path(), purpose, any::<bool>(), any::<bool>(), "[a-z\n\"#]{0,5}").prop_map(
        |(path, purpose, existed, directory, program)| Observation {
            target: Target::Path(path),
            purpose,
            existed,
            directory,
            program,
        },
    )
}

fn within(path: &str, above: &str) -> bool {
    path == above || path.starts_with(&format!("{above}/"))
}

proptest! {
    #[test]
    fn no_proposal_holds_a_secret_or_more_than_was_shown(
        first in prop::collection::vec(observation(), 0..40),
        second in prop::collection::vec(observation(), 0..20),
    ) {
        // A name with a control character cannot stand in a policy: the parser says so, and the proposal must not hold it.
        let facts = facts();
        let first = watched(first);
        let proposal = propose("learnt", &facts, &first, &[watched(second)]);
        let again = propose("learnt", &facts, &first, &[]);
        prop_assert_eq!(&again, &propose("learnt", &facts, &first, &[]));
        for text in [&proposal.toml, &again.toml] {
            let policy = match Policy::parse(text.as_bytes(), "proposal") {
                Ok(policy) => policy,
                Err(errors) => return Err(TestCaseError::fail(format!("{errors}\n{text}"))),
            };
            let Filesystem { read, execute, copy_on_write, .. } = &policy.filesystem;
            for pattern in read.iter().chain(execute).chain(copy_on_write) {
                let path = match pattern {
                    PathPattern::Absolute(path) => path.clone(),
                    PathPattern::Home(rest) => format!("{}/{rest}", facts.home),
                    PathPattern::Workspace(_) => unreachable!("never written"),
                };
                prop_assert!(facts.shown.iter().any(|shown| within(&path, shown)), "{}", path);
                prop_assert!(!facts.hidden.iter().any(|hidden| within(&path, hidden)), "{}", path);
                prop_assert!(!["/", "/home", "/home/ada", "/home/ada/"].contains(&path.as_str()), "{}", path);
            }
            prop_assert!(policy.filesystem.write.is_empty());
        }
        for note in &proposal.notes {
            prop_assert!(!note.contains(char::is_control), "{:?}", note);
        }
    }
}
