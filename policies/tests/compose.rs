//! Extending, ceilings and printing: what is joined, where it comes from, and what never grows.

use std::collections::BTreeMap;

use fumehood_policies::{
    Access, Expected, Facts, Home, Layer, LayeredAnswer, LoadError, MAX_DEPTH, MAX_FILES, PathPattern, Policy,
    PolicyFile, Reference, Resolved, Stack, Tool, Value, builtin, builtin_names, resolve,
};
use proptest::prelude::*;

const FACTS: Facts<'static> = Facts {
    home: "/home/ada",
    workspace: "/home/ada/shop",
};

fn file(name: &str, body: &str) -> PolicyFile {
    let text = format!("version = 1\nname = \"{name}\"\n{body}");
    PolicyFile::parse(text.as_bytes(), &format!("{name}.toml")).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Resolves the first of some files; the others can be extended by their names.
fn resolved(files: &[(&str, &str)]) -> Result<Resolved, String> {
    let all: BTreeMap<&str, PolicyFile> = files.iter().map(|(name, body)| (*name, file(name, body))).collect();
    let load = |reference: &Reference| {
        all.get(reference.text.as_str())
            .cloned()
            .ok_or_else(|| LoadError::Missing {
                message: format!("there is no policy `{reference}`"),
                help: None,
            })
    };
    resolve(&all[files[0].0], &load).map_err(|errors| errors.to_string())
}

#[test]
fn lists_are_joined_and_single_values_are_ones_own_or_the_strictest() {
    let base = "[filesystem]\nhome = \"copy-on-write\"\nread = [\"/a\"]\nhide = [\"/h\"]\n[limits]\nwall = \"1h\"\nmemory = \"1GiB\"\nopen-files = { soft = 10, hard = 90 }\n[environment.set]\nA = \"base\"\nB = \"base\"\n";
    let other = "[filesystem]\nhome = \"empty\"\nread = [\"/b\"]\n[limits]\nwall = \"2h\"\nopen-files = { soft = 20, hard = 50 }\n[environment.set]\nB = \"other\"\nC = \"other\"\n";
    let own = "extends = [\"base\", \"other\"]\n[filesystem]\nread = [\"/c\", \"/a\"]\nhide = [\"/i\"]\n[limits]\nmemory = \"2GiB\"\n[environment.set]\nA = \"own\"\n";
    let Resolved { policy, origins } = resolved(&[("own", own), ("base", base), ("other", other)]).unwrap();
    let paths = |list: &[PathPattern]| list.iter().map(PathPattern::spelled).collect::<Vec<_>>();
    assert_eq!(paths(&policy.filesystem.read), ["/a", "/b", "/c"]);
    let hidden = paths(&policy.filesystem.hide);
    assert!(
        ["/h", "/i", "${home}/.ssh"]
            .iter()
            .all(|path| hidden.contains(&(*path).to_owned())),
        "{hidden:?}"
    );
    assert_eq!(policy.filesystem.home, Home::Empty);
    assert_eq!(policy.limits.wall.unwrap().as_secs(), 3600);
    assert_eq!(
        policy.limits.memory_bytes,
        Some(2 << 30),
        "the file's own stands, looser or not"
    );
    assert_eq!((policy.limits.open_files_soft, policy.limits.open_files_hard), (10, 50));
    let set: Vec<_> = policy.environment.set.iter().map(|(a, b)| format!("{a}={b}")).collect();
    assert_eq!(set, ["A=own", "B=base", "C=other"]);
    assert_eq!(policy.name, "own");

    let place = |key: &str, path: &str| {
        let entry = origins
            .place_of(key, &Value::Path(PathPattern::Absolute(path.into())))
            .unwrap();
        (entry.place.to_string(), entry.by_default)
    };
    assert_eq!(place("filesystem.read", "/b"), ("other.toml:5".to_owned(), false));
    assert_eq!(place("filesystem.read", "/a"), ("own.toml:5".to_owned(), false));
    assert_eq!(origins.get("limits.wall").unwrap().place.to_string(), "base.toml:8");
    assert!(origins.get("limits.disk").unwrap().by_default);
    assert!(origins.get("filesystem.write").is_none());
}

#[test]
fn a_preset_beside_the_default_takes_nothing_away() {
    let Resolved { policy, .. } = resolved(&[("x", "extends = [\"default\", \"rust\", \"git\"]\n")]).unwrap();
    let (_, default) = builtin("default").unwrap();
    assert_eq!(
        (policy.filesystem.home, policy.limits),
        (Home::CopyOnWrite, default.limits)
    );
    assert_eq!(policy.filesystem.hide, default.filesystem.hide);
    assert!(
        policy
            .filesystem
            .copy_on_write
            .contains(&PathPattern::Home(".cargo".into()))
    );
}

#[test]
fn cycles_depth_and_number_are_bounded_and_told_at_their_place() {
    let cycle = resolved(&[
        ("fa", "extends = [\"fb\"]\n"),
        ("fb", "extends = [\"fc\"]\n"),
        ("fc", "extends = [\"fa\"]\n"),
    ]);
    let error = cycle.unwrap_err();
    assert!(
        error.starts_with(
            "fc.toml:3:12: extends[0]: it extends itself: fa.toml extends fb.toml extends fc.toml extends fa.toml"
        ),
        "{error}"
    );
    let names: Vec<String> = (0..=MAX_DEPTH).map(|n| format!("n{n}")).collect();
    let bodies: Vec<String> = (0..=MAX_DEPTH)
        .map(|n| format!("extends = [\"n{}\"]\n", n + 1))
        .collect();
    let mut chain: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(bodies.iter().map(String::as_str))
        .collect();
    assert!(resolved(&chain).unwrap_err().contains("more than 8 policies extend"));
    chain.truncate(MAX_DEPTH);
    chain[MAX_DEPTH - 1].1 = "";
    resolved(&chain).unwrap();
    // Each extends the next four: as many files as there are ways.
    let many = "extends = [\"fb\", \"fc\", \"fd\", \"fe\"]\n";
    let wide = resolved(&[
        ("fa", many),
        ("fb", "extends = [\"fc\", \"fd\", \"fe\"]\n"),
        ("fc", "extends = [\"fd\", \"fe\", \"ff\", \"fg\"]\n"),
        ("fd", "extends = [\"fe\", \"ff\", \"fg\"]\n"),
        ("fe", "extends = [\"ff\", \"fg\"]\n"),
        ("ff", "extends = [\"fg\"]\n"),
        ("fg", ""),
    ]);
    assert!(wide.unwrap_err().contains(&format!("more than {MAX_FILES} files")));
    assert!(
        resolved(&[("fa", "extends = [\"zz\"]\n")])
            .unwrap_err()
            .contains("there is no policy `zz`")
    );
}

#[test]
fn what_a_parent_requires_cannot_be_given_up() {
    let error = resolved(&[(
        "x",
        "extends = [\"default\"]\n[network]\nmode = \"host-without-isolation\"\n[protections]\nrequired = []\n",
    )])
    .unwrap_err();
    assert!(
        error.contains("`network` is required (built-in policy default:") && error.contains("extend another one"),
        "{error}"
    );
    let error = resolved(&[("x", "extends = [\"default\"]\n[network]\ntcp-bind = [1]\n")]).unwrap_err();
    assert!(error.starts_with("x.toml:5:12: network.tcp-bind"), "{error}");
}

#[test]
fn every_built_in_policy_prints_and_reads_as_itself() {
    for name in builtin_names() {
        check_printing(&builtin(name).unwrap().1);
    }
}

#[test]
fn default_and_locked_state_every_restriction_themselves() {
    use fumehood_policies::{Absent, KEYS, builtin_file};
    for name in ["default", "locked"] {
        let file = builtin_file(name).unwrap();
        for key in KEYS.iter().filter(|key| key.absent == Absent::OfDefault) {
            assert!(file.statements().get(&key.path()).is_some(), "{name}: {}", key.path());
        }
    }
    for name in builtin_names()
        .iter()
        .filter(|name| !["default", "locked"].contains(name))
    {
        let file = builtin_file(name).unwrap();
        let restricts = |key: &&fumehood_policies::Statement| key.key.nature == fumehood_policies::Nature::Restriction;
        assert_eq!(
            file.statements().iter().filter(restricts).count(),
            0,
            "{name} grants only"
        );
    }
}

#[test]
fn the_examples_are_read_and_are_what_they_say() {
    for name in ["ceiling", "ci", "project"] {
        let path = format!("{}/examples/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let file = PolicyFile::parse(text.as_bytes(), name).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(!file.tests().is_empty());
        let policy = Policy::parse(text.as_bytes(), name).unwrap();
        for test in file.tests() {
            assert_eq!(
                policy.answers(&test.subject, FACTS),
                test.expected,
                "{name}: {}",
                test.place
            );
        }
    }
}

/// Of every list of restrictions: what is stated is joined with what `default` says, and only the empty list takes that away.
#[test]
fn a_restriction_that_is_stated_is_beside_those_of_default() {
    use fumehood_policies::{KEYS, Nature};
    let default = resolved(&[("x", "")]).unwrap().origins;
    let lists: Vec<_> = KEYS
        .iter()
        .filter(|key| key.nature == Nature::Restriction && key.kind.is_list() && key.section != "commands")
        .collect();
    assert_eq!(lists.len(), 8);
    for key in lists {
        let own = match key.path().as_str() {
            "filesystem.hide" | "filesystem.read-only" => "/q",
            "syscalls.deny" => "ptrace",
            "protections.required" | "protections.preferred" => "resources",
            _ => "QQ",
        };
        let stated = |list: &str| {
            let text = format!("[{}]\n{} = {list}\n", key.section, key.name);
            let Resolved { policy, origins } = resolved(&[("x", &text)]).unwrap();
            check_printing(&policy);
            let statement = origins.get(&key.path()).unwrap();
            let spelled = |entry: &fumehood_policies::Entry| (entry.value.spelled(key.kind), entry.by_default);
            statement
                .entries
                .iter()
                .map(spelled)
                .collect::<BTreeMap<String, bool>>()
        };
        let mut expected: BTreeMap<String, bool> = default
            .get(&key.path())
            .unwrap()
            .entries
            .iter()
            .map(|entry| (entry.value.spelled(key.kind), true))
            .collect();
        expected.insert(format!("\"{own}\""), false);
        assert_eq!(stated(&format!("[\"{own}\"]")), expected, "{}", key.path());
        assert!(stated("[]").is_empty(), "{}", key.path());
    }
}

#[test]
fn who_gives_the_network_away_and_says_what_is_required_need_not_say_it_again() {
    let text = "[network]\nmode = \"host-without-isolation\"\n[protections]\nrequired = [\"resources\"]\n";
    let host = resolved(&[("x", text)]).unwrap().policy;
    check_printing(&host);
    use fumehood_policies::Protection::{Network, Privileges, Resources};
    let has = |policy: &Policy, protection| policy.protections.required.contains(&protection);
    assert!(has(&host, Resources) && has(&host, Privileges) && !has(&host, Network));
    let narrowed = host.narrowed_by(&resolved(&[("x", "[protections]\nrequired = []\n")]).unwrap().policy);
    assert!(has(&narrowed, Network));
    check_printing(&narrowed);
}

const RULE: &str = "[[commands.rules]]\nprogram = ";

#[test]
fn rules_are_joined_in_order_and_a_word_is_ones_own_or_the_strictest() {
    let base = format!("[commands]\ndefault = \"ask\"\n{RULE}\"a\"\ndecision = \"allow\"\nmatch = \"a\"\n");
    let other = format!("extends = [\"base\"]\n{RULE}\"b\"\ndecision = \"deny\"\n");
    let own = format!(
        "extends = [\"other\", \"base\"]\n{RULE}\"c\"\ndecision = \"allow\"\n[[tests]]\ncommand = \"a; c\"\nexpect = \"allow\"\n"
    );
    let files = [("own", own.as_str()), ("other", &other), ("base", &base)];
    let Resolved { policy, origins } = resolved(&files).unwrap();
    let programs: Vec<_> = policy
        .commands
        .own
        .rules
        .iter()
        .map(|rule| rule.program[0].0.as_str())
        .collect();
    assert_eq!(programs, ["a", "b", "c"]);
    let places: Vec<_> = origins
        .get("commands.rules")
        .unwrap()
        .entries
        .iter()
        .map(|entry| entry.place.to_string())
        .collect();
    assert_eq!(places, ["base.toml:5", "other.toml:4", "own.toml:4"]);
    for (line, verdict) in [
        ("a", "allow"),
        ("b", "deny"),
        ("c", "allow"),
        ("d", "ask"),
        ("( (", "ask"),
        ("a; d", "ask"),
    ] {
        assert_eq!(policy.commands.judge_line(line).verdict.name(), verdict, "{line}");
    }
    check_printing(&policy);
    let test = &file("own", &own).tests()[0].clone();
    assert_eq!(
        (policy.answers(&test.subject, FACTS), test.expected),
        (Expected::Allow, Expected::Allow)
    );
    let strict = resolved(&[
        ("x", "extends = [\"y\"]\n[commands]\nunreadable = \"ask\"\n"),
        ("y", "[commands]\ndefault = \"deny\"\n"),
    ]);
    assert_eq!(
        strict.unwrap().policy.commands.own.unreadable.name(),
        "deny",
        "never laxer than `default`"
    );
}

#[test]
fn a_ceiling_keeps_its_rules_as_a_set_of_their_own() {
    let parsed = |body: &str| resolved(&[("x", body)]).unwrap().policy;
    let own = parsed(&format!(
        "[commands]\ndefault = \"deny\"\n{RULE}\"a\"\ndecision = \"allow\"\n{RULE}\"b\"\ndecision = \"allow\"\n"
    ));
    let ceiling = parsed(&format!(
        "[commands]\n{RULE}\"b\"\nargs = \"x\"\ndecision = \"deny\"\nreason = \"no \\\"x\\\"\"\n"
    ));
    let narrowed = own.narrowed_by(&ceiling);
    check_printing(&narrowed);
    let verdict = |line: &str| narrowed.commands.judge_line(line).verdict.name();
    assert_eq!(
        [verdict("a"), verdict("b"), verdict("b x"), verdict("c")],
        ["allow", "allow", "deny", "deny"]
    );
    let judgement = narrowed.commands.judge_line("b x");
    let why = judgement.decisive().unwrap();
    assert_eq!(
        (why.place.as_str(), why.reason.as_str()),
        ("commands.ceilings[0].rules[0]", "no \"x\"")
    );
    let again = narrowed.narrowed_by(&ceiling).narrowed_by(&parsed(""));
    assert_eq!(
        (&again.commands, again.commands.ceilings.len()),
        (&narrowed.commands, 1)
    );
}

#[test]
fn sets_of_ceilings_are_checked_as_rules_are() {
    let text = "version = 1\nname = \"x\"\n[commands]\nceilings = [{ default = \"deny\", unreadable = \"ask\", rule = [] }, { rules = [{ program = \"a\" }] }, 1]\n";
    let errors = PolicyFile::parse(text.as_bytes(), "p").unwrap_err();
    let shown: Vec<_> = errors
        .errors()
        .iter()
        .map(|error| format!("{}: {}", error.path, error.message))
        .collect();
    assert_eq!(
        shown,
        [
            "commands.ceilings[0].unreadable: \"ask\" is laxer than `default = \"deny\"`",
            "commands.ceilings[0].rule: unknown key",
            "commands.ceilings[1].rules[0].decision: missing",
            "commands.ceilings[2]: expected a table, found an integer",
        ]
    );
}

fn check_printing(policy: &Policy) {
    let text = policy.to_toml();
    let again = Policy::parse(text.as_bytes(), "printed").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert_eq!(again, *policy);
    assert_eq!(again.to_toml(), text);
}

fn path() -> impl Strategy<Value = String> {
    let base = prop_oneof![
        Just(""),
        Just("${home}"),
        Just("${workspace}"),
        Just("/home/ada"),
        Just("/home/ada/shop")
    ];
    let name = prop_oneof![
        Just("a"),
        Just("b"),
        Just("ab"),
        Just("*"),
        Just("a*"),
        Just("?"),
        Just(".v")
    ];
    (base, proptest::collection::vec(name, 1..3)).prop_map(|(base, names)| match names.join("/") {
        rest if rest.starts_with('*') && base.is_empty() => format!("/r/{rest}"),
        rest => format!("{base}/{rest}"),
    })
}

fn list(entries: impl Strategy<Value = String>) -> impl Strategy<Value = Option<String>> {
    proptest::option::of(proptest::collection::btree_set(entries, 0..4).prop_map(|set| {
        let quoted: Vec<_> = set.into_iter().map(|entry| format!("\"{entry}\"")).collect();
        format!("[{}]", quoted.join(", "))
    }))
}

fn words(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::sample::select(words).prop_map(str::to_owned)
}

/// The text of a random policy; some are refused, for a path that is granted and hidden.
fn text() -> impl Strategy<Value = String> {
    let outside = || path().prop_map(|path| path.replace("${workspace}", "${home}"));
    let files = (
        list(path()),
        list(path()),
        list(path()),
        list(path()),
        list(outside()),
        list(path()),
        list(words(&[".v", "a/.v", "b"])),
    );
    let one = |words: &'static [&'static str]| proptest::option::of(proptest::sample::select(words));
    let modes = (
        one(&["read", "write"]),
        one(&["empty", "copy-on-write"]),
        one(&["true", "false"]),
        one(&["none", "loopback", "loopback-silent", "host-without-isolation"]),
    );
    let calls = (
        one(&["default", "strict"]),
        list(words(&["ptrace", "bpf"])),
        list(words(&["ptrace", "socket"])),
    );
    let env = (
        list(words(&["A", "A*", "AB", "B*", "C"])),
        list(words(&["*B", "C"])),
        list(words(&["A", "*C*"])),
    );
    let ports = (
        proptest::option::of("\\[(1|2|1, 2)?\\]"),
        proptest::option::of("\\[(1|2|1, 2)?\\]"),
    );
    let rest = (
        list(words(&["shell", "test", "git", "files"])),
        one(&["\"1s\"", "\"1m\"", "\"unlimited\""]),
        one(&["\"1B\"", "\"1500KB\"", "\"unlimited\""]),
        one(&["0.01", "1.5", "\"unlimited\""]),
    );
    let verdict = || one(&["allow", "ask", "deny"]);
    let rule = (
        words(&["a", "b", "*"]),
        one(&["x", "y*"]),
        words(&["allow", "ask", "deny"]),
        any::<bool>(),
    );
    let commands = (verdict(), proptest::collection::vec(rule, 0..3));
    (files, modes, calls, env, ports, rest, commands).prop_map(|(files, modes, calls, env, ports, rest, commands)| {
        let mut text = "version = 1\nname = \"x\"\n".to_owned();
        let mut line = |section: &str, lines: Vec<(&str, Option<String>)>| {
            text.push_str(section);
            for (key, value) in lines {
                if let Some(value) = value {
                    text.push_str(&format!("{key} = {value}\n"));
                }
            }
        };
        let quote = |word: Option<&str>| word.map(|word| format!("\"{word}\""));
        let host = modes.3 == Some("host-without-isolation");
        line("", vec![("tools", rest.0)]);
        line(
            "[filesystem]\n",
            vec![
                ("read", files.0),
                ("execute", files.1),
                ("write", files.2),
                ("copy-on-write", files.3),
                ("hide", files.4),
                ("read-only", files.5),
                ("protect", files.6),
                ("workspace", quote(modes.0)),
                ("home", quote(modes.1)),
                ("tmp", modes.2.map(str::to_owned)),
            ],
        );
        line(
            "[network]\n",
            vec![
                ("mode", quote(modes.3)),
                ("tcp-connect", ports.0.filter(|_| host)),
                ("tcp-bind", ports.1.filter(|_| host)),
            ],
        );
        line(
            "[protections]\n",
            vec![("required", Some("[]".to_owned()).filter(|_| host))],
        );
        line(
            "[syscalls]\n",
            vec![("profile", quote(calls.0)), ("allow", calls.1), ("deny", calls.2)],
        );
        line(
            "[environment]\n",
            vec![("pass", env.0), ("never", env.1), ("remove", env.2)],
        );
        line(
            "[limits]\n",
            vec![
                ("wall", rest.1.map(str::to_owned)),
                ("memory", rest.2.map(str::to_owned)),
                ("cpus", rest.3.map(str::to_owned)),
            ],
        );
        let (default, rules) = commands;
        line("[commands]\n", vec![("default", quote(default))]);
        for (program, arg, decision, exact) in rules {
            let quoted = |word: &str| Some(format!("\"{word}\""));
            let of_rule = vec![
                ("program", quoted(&program)),
                ("args", quote(arg)),
                ("exact", Some(exact.to_string())),
                ("decision", quoted(&decision)),
            ];
            line("[[commands.rules]]\n", of_rule);
        }
        text
    })
}

fn random() -> impl Strategy<Value = Policy> {
    text().prop_filter_map("granted twice or hidden", |text| {
        Policy::parse(text.as_bytes(), "random").ok()
    })
}

/// Everything that is tried of a policy and its ceiling.
fn tried() -> impl Iterator<Item = Access<'static>> {
    const PATHS: &[&str] = &[
        "/a",
        "/a/b",
        "/ab/a/x",
        "/r/a/.v",
        "/b/.v",
        "/a/a/.v",
        "/a/.v/b",
        "/home",
        "/home/ada",
        "/home/ada/a",
        "/home/ada/b/a",
        "/home/ada/ab/.v/x",
        "/home/ada/shop",
        "/home/ada/shop/a",
        "/home/ada/shop/a/.v",
        "/home/ada/shop/.v",
        "/home/ada/shop/b/ab",
        "/tmp/x",
        "/dev/null",
        "/.v",
        "/home/ada/.v/a",
    ];
    let paths = PATHS
        .iter()
        .flat_map(|path| [Access::Read(path), Access::Write(path), Access::Execute(path)]);
    let names = ["A", "AB", "ABC", "B", "C", "Ax"].map(Access::Environment);
    let hosts = [("example.org", 1), ("10.0.0.1", 2)].map(|(host, port)| Access::Connect(host, port));
    let listen = [1, 2].map(Access::Listen);
    let calls = ["ptrace", "bpf", "socket"].map(Access::SystemCall);
    let tools = [Tool::Shell, Tool::Test, Tool::Git, Tool::Files].map(Access::Tool);
    let limits = ["limits.wall", "limits.memory", "limits.cpus"]
        .into_iter()
        .flat_map(|key| [1, 10, 1000, 2_000_000, u64::MAX].map(|amount| Access::Limit(key, amount)));
    paths
        .chain(names)
        .chain(hosts)
        .chain(listen)
        .chain(calls)
        .chain(tools)
        .chain(limits)
}

fn check_narrowing(policy: &Policy, ceiling: &Policy) {
    let narrowed = policy.narrowed_by(ceiling);
    for access in tried().filter(|access| narrowed.allows(*access, FACTS)) {
        for (which, policy) in [("policy", policy), ("ceiling", ceiling)] {
            assert!(
                policy.allows(access, FACTS),
                "{access:?} is not allowed by the {which}\n{}\nnarrowed:\n{}",
                policy.to_toml(),
                narrowed.to_toml()
            );
        }
    }
    for line in [
        "a",
        "a x",
        "a x z",
        "b",
        "b ya",
        "c",
        "a; b",
        "sh -c 'b x'",
        "( (",
        "$x",
        "",
    ] {
        let verdict = |policy: &Policy| policy.commands.judge_line(line).verdict;
        assert_eq!(
            verdict(&narrowed),
            verdict(policy).max(verdict(ceiling)),
            "{line}\n{}",
            narrowed.to_toml()
        );
    }
    check_printing(&narrowed);
}

/// The layers' own answers come to what the narrowed policy answers, and it is told whose they are.
fn check_layers(layers: &[Resolved]) {
    let names = ["low", "middle", "high"];
    let named: Vec<Layer<'_>> = names
        .iter()
        .zip(layers)
        .map(|(name, resolved)| Layer { name, resolved })
        .collect();
    let (first, above) = layers.split_first().unwrap();
    let narrowed = above
        .iter()
        .fold(first.policy.clone(), |policy, above| policy.narrowed_by(&above.policy));
    let stack = Stack::new(named, narrowed.clone());
    let told = |answer: &LayeredAnswer, what: &str| {
        assert!(
            answer
                .reasons
                .iter()
                .any(|reason| reason.reason.verdict == answer.verdict),
            "{what}: no reason: {answer:?}"
        );
        assert_eq!(
            answer.help.is_empty(),
            answer.verdict == Expected::Allow,
            "{what}: {answer:?}"
        );
    };
    for access in tried() {
        let answer = stack.explain_access(access, FACTS);
        let all = layers.iter().all(|layer| layer.policy.allows(access, FACTS));
        let narrowed = narrowed.allows(access, FACTS);
        assert_eq!(answer.verdict == Expected::Allow, narrowed, "{access:?}");
        told(&answer, &format!("{access:?}"));
        let by_none = answer.reasons.iter().any(|reason| reason.layer.is_empty());
        match (all, narrowed) {
            // Where patterns meet, less is given than each gives.
            (true, false) => assert!(
                by_none && matches!(access, Access::Read(_) | Access::Write(_) | Access::Execute(_)),
                "{access:?}"
            ),
            (false, true) => panic!("{access:?} is allowed and not by every layer"),
            _ => assert!(!by_none, "{answer:?}"),
        }
    }
    for line in ["a", "a x", "b ya", "a; b", "sh -c 'b x'", "( (", "$x", "c"] {
        let argv = ["sh", "-c", line].map(|word| word.as_bytes().to_vec());
        let answer = stack.explain_command(&argv);
        let strictest = layers
            .iter()
            .map(|layer| layer.policy.commands.judge(&argv).verdict)
            .max();
        let tool = layers.iter().all(|layer| layer.policy.tools.contains(&Tool::Shell));
        let expected = match (tool, strictest.unwrap()) {
            (false, _) | (_, fumehood_policies::command::Verdict::Deny) => Expected::Deny,
            (true, fumehood_policies::command::Verdict::Ask) => Expected::Ask,
            (true, fumehood_policies::command::Verdict::Allow) => Expected::Allow,
        };
        assert_eq!(answer.verdict, expected, "{line}");
        told(&answer, line);
    }
}

#[test]
fn of_layers_those_that_refuse_are_told_by_name() {
    let layer = |name: &str, body: &str| resolved(&[(name, body)]).unwrap();
    let low = layer(
        "low",
        "[filesystem]\nread = [\"/etc\", \"/srv\"]\nhome = \"copy-on-write\"\n",
    );
    let high = layer(
        "high",
        "[filesystem]\nread = [\"/etc\", \"/srv/*\"]\nhide = [\"/etc/fstab\"]\n[[commands.rules]]\nprogram = \"git\"\nargs = [\"push\"]\ndecision = \"ask\"\n[commands]\ndefault = \"allow\"\n",
    );
    let narrowed = low.policy.narrowed_by(&high.policy);
    let layers = [("low (request)", &low), ("high (system)", &high)];
    let layers = layers.map(|(name, resolved)| Layer { name, resolved });
    let stack = Stack::new(layers.to_vec(), narrowed);
    let named = |answer: &LayeredAnswer| {
        answer
            .reasons
            .iter()
            .map(|reason| reason.layer.clone())
            .collect::<Vec<_>>()
    };

    let hidden = stack.explain_access(Access::Read("/etc/fstab"), FACTS);
    assert_eq!(hidden.verdict, Expected::Deny);
    assert!(named(&hidden).iter().all(|name| name == "high (system)"), "{hidden:?}");
    assert_eq!(
        hidden.help,
        ["in high (system): take \"/etc/fstab\" out of filesystem.hide (high.toml:5)"]
    );

    let both = stack.explain_access(Access::Read("/etc/profile"), FACTS);
    assert_eq!((both.verdict, named(&both).len()), (Expected::Allow, 2), "{both:?}");

    let asked = stack.explain_command(&["git", "push"].map(|word| word.as_bytes().to_vec()));
    assert_eq!(
        (asked.verdict, named(&asked)),
        (Expected::Ask, vec!["high (system)".to_owned()])
    );

    let neither = stack.explain_access(Access::Write("/srv/x"), FACTS);
    assert_eq!(neither.verdict, Expected::Deny);
    assert_eq!(neither.help.len(), 2, "each has to give it: {neither:?}");
}

#[test]
fn where_layers_meet_the_answer_is_that_of_what_they_come_to() {
    let layer = |body: &str| resolved(&[("x", body)]).unwrap();
    let ask = |low: &str, high: &str, access| {
        let (low, high) = (layer(low), layer(high));
        let layers = [("low", &low), ("high", &high)];
        let layers = layers.map(|(name, resolved)| Layer { name, resolved });
        Stack::new(layers.to_vec(), low.policy.narrowed_by(&high.policy)).explain_access(access, FACTS)
    };
    // Each lets it be read; of the patterns none surely lies in the other, so nothing is given.
    let (low, high) = (
        "[filesystem]\nread = [\"/r/a*\"]\n",
        "[filesystem]\nread = [\"/r/*b\"]\n",
    );
    let met = ask(low, high, Access::Read("/r/ab"));
    assert_eq!((met.verdict, met.help.len()), (Expected::Deny, 1), "{met:?}");
    assert!(met.reasons.last().unwrap().layer.is_empty(), "{met:?}");
    // A sandbox's own loopback is a part of the machine's network, whatever the ports.
    let low = "[network]\nmode = \"host-without-isolation\"\ntcp-connect = [1]\n[protections]\nrequired = []\n";
    let own = ask(
        low,
        "[network]\nmode = \"loopback\"\n",
        Access::Connect("127.0.0.1", 80),
    );
    assert_eq!((own.verdict, own.help.len()), (Expected::Allow, 0), "{own:?}");
    assert!(
        own.reasons
            .iter()
            .all(|reason| reason.reason.verdict == Expected::Allow),
        "{own:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn layers_answer_as_the_policy_that_they_come_to(texts in proptest::collection::vec(text(), 1..4)) {
        let resolved = |text: &String| resolve(&PolicyFile::parse(text.as_bytes(), "random").ok()?, &|_| unreachable!()).ok();
        // Some are refused, for a path that is granted and hidden.
        let layers: Vec<_> = texts.iter().filter_map(resolved).collect();
        prop_assume!(!layers.is_empty());
        check_layers(&layers);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn narrowing_never_widens(policy in random(), ceiling in random()) {
        check_narrowing(&policy, &ceiling);
    }

    #[test]
    fn a_policy_under_itself_is_itself(policy in random()) {
        let narrowed = policy.narrowed_by(&policy);
        for access in tried() {
            assert_eq!(narrowed.allows(access, FACTS), policy.allows(access, FACTS), "{access:?}\n{}", policy.to_toml());
        }
    }

    #[test]
    fn what_is_printed_reads_as_the_same(policy in random()) {
        check_printing(&policy);
    }
}

proptest! {
    // The lists of `default` are long, and each case prints and reads them several times.
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn narrowing_by_a_built_in_never_widens(policy in random(), name in proptest::sample::select(builtin_names())) {
        let (_, built_in) = builtin(name).unwrap();
        check_narrowing(&policy, &built_in);
        check_narrowing(&built_in, &policy);
    }
}

/// What is wrong with a file, with what it extends and with where that is: all at once.
#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = "version = 1\nname = \"x\"\nextends = [\"./base.toml\", \"rsut\"]\n[filesystem]\nrd = []\n\
                [syscalls]\ndeny = [\"open_at\", \"execve\"]\nallow = [\"bpf\"]\n[limits]\nprocesses = \"unlimted\"\n";
    let base = "version = 1\nname = \"base\"\n[limits]\nwal = 3\n";
    let load = |reference: &Reference| match reference.text.as_str() {
        "./base.toml" => Ok(PolicyFile::parse(base.as_bytes(), "base.toml")?),
        _ => Err(LoadError::Missing {
            message: "there is none".to_owned(),
            help: None,
        }),
    };
    let errors = fumehood_policies::read(text.as_bytes(), "x.toml", &load).unwrap_err();
    let told: Vec<_> = errors
        .all()
        .into_iter()
        .map(|(origin, error)| format!("{origin}:{}:{} {}", error.line, error.column, error.path))
        .collect();
    let expected = [
        "x.toml:3:27 extends[1]",
        "x.toml:5:1 filesystem.rd",
        "x.toml:7:9 syscalls.deny[0]",
        "x.toml:7:20 syscalls.deny[1]",
        "x.toml:8:10 syscalls.allow[0]",
        "x.toml:10:13 limits.processes",
        "base.toml:4:1 limits.wal",
    ];
    assert_eq!(told, expected, "{errors}");
    let shown = errors.to_string();
    for words in [
        "did you mean `openat`",
        "did you mean \"unlimited\"",
        "no command can be started",
        "no policy can allow",
        "did you mean `wall`",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}
