//! Tools for people: explanations, differences, lints and expectations, on the examples, the built-in policies and random ones.

use fumehood_policies::{
    Access, Diff, Expected, Facts, Level, LoadError, Policy, PolicyFile, Reference, Resolved, builtin, builtin_file,
    builtin_names, lint, parse_tests, resolve,
};
use proptest::prelude::*;

const FACTS: Facts<'static> = Facts {
    home: "/home/ada",
    workspace: "/home/ada/shop",
};

fn none(reference: &Reference) -> Result<PolicyFile, LoadError> {
    Err(LoadError::Missing {
        message: format!("there is no policy `{reference}`"),
        help: None,
    })
}

fn read(text: &str, origin: &str) -> (PolicyFile, Resolved) {
    let file = PolicyFile::parse(text.as_bytes(), origin).unwrap_or_else(|errors| panic!("{errors}"));
    let resolved = resolve(&file, &none).unwrap_or_else(|errors| panic!("{errors}"));
    (file, resolved)
}

/// A policy of one body.
fn of(body: &str) -> (PolicyFile, Resolved) {
    read(&format!("version = 1\nname = \"x\"\n{body}"), "x.toml")
}

fn example(name: &str) -> (PolicyFile, Resolved) {
    let path = format!("{}/examples/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    read(&std::fs::read_to_string(path).unwrap(), &format!("{name}.toml"))
}

/// An answer as one text.
fn told(answer: &fumehood_policies::Answer) -> String {
    let mut text = format!("{}: {}\n", answer.question, answer.verdict.name());
    for reason in &answer.reasons {
        let line = reason.line.as_ref();
        let line = line.map_or(String::new(), |line| {
            format!(" [{} = {} @ {}]", line.key, line.value, line.place)
        });
        text += &format!("  {}: {}{line}\n", reason.verdict.name(), reason.text);
    }
    for help in &answer.help {
        text += &format!("  help: {help}\n");
    }
    text
}

fn lints(body: &str) -> Vec<String> {
    let (file, resolved) = of(body);
    let found = lint(&file, &resolved);
    found
        .iter()
        .map(|lint| {
            format!(
                "{} {}:{}: {}",
                lint.level.name(),
                lint.place.line(),
                lint.key,
                lint.message
            )
        })
        .collect()
}

fn texts(changes: &[fumehood_policies::Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| format!("{}: {}", change.group.name(), change.text))
        .collect()
}

#[test]
fn expectations_of_every_built_in_and_example_hold() {
    let hold = |name: &str, tried: Vec<fumehood_policies::Tried>| {
        assert!(!tried.is_empty(), "{name}");
        let wrong: Vec<_> = tried.iter().filter(|tried| !tried.holds()).collect();
        let wrong: Vec<_> = wrong
            .iter()
            .map(|tried| {
                format!(
                    "{}: expected {}: {}",
                    tried.place,
                    tried.expected.name(),
                    told(&tried.answer)
                )
            })
            .collect();
        assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
    };
    for name in builtin_names() {
        let path = format!("{}/builtin/{name}.test.toml", env!("CARGO_MANIFEST_DIR"));
        let tests = parse_tests(&std::fs::read(&path).unwrap(), &path).unwrap_or_else(|errors| panic!("{errors}"));
        let resolved = resolve(builtin_file(name).unwrap(), &none).unwrap();
        hold(name, resolved.try_all(&tests, FACTS));
    }
    for name in ["ceiling", "ci", "project"] {
        let (file, resolved) = example(name);
        hold(name, resolved.try_all(file.tests(), FACTS));
    }
}

#[test]
fn an_expectation_that_does_not_hold_says_so() {
    let (file, resolved) =
        of("[[tests]]\nread = \"/usr/x\"\nexpect = \"allow\"\n[[tests]]\ncommand = \"ls\"\nexpect = \"allow\"\n");
    let tried = resolved.try_all(file.tests(), FACTS);
    assert_eq!(
        tried.iter().map(fumehood_policies::Tried::holds).collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(tried[0].place, "x.toml:4");
}

#[test]
fn a_file_of_tests_holds_nothing_else() {
    let error = |text: &str| parse_tests(text.as_bytes(), "x.test.toml").unwrap_err().to_string();
    assert!(
        error("version = 1\nname = \"x\"\n[[tests]]\nread = \"/a\"\nexpect = \"deny\"\n")
            .contains("x.test.toml:2:1: name: unknown key")
    );
    assert!(error("version = 1\n").contains("tests: missing"));
    assert!(error("version = 2\n").contains("version 2 is not understood"));
    assert!(error("version = 1\n[[tests]]\nread = \"/a\"\nexpect = \"no\"\n").contains("tests[0].expect"));
    assert!(parse_tests(b"\xff", "x").is_err());
}

#[test]
fn a_path_is_explained_by_the_lines_that_decide() {
    let (_, resolved) = example("ceiling");
    let path = |access| told(&resolved.explain_access(access, FACTS));
    assert_eq!(
        path(Access::Read("/opt/licences/key")),
        "read /opt/licences/key: deny\n  \
         allow: gives it [filesystem.execute = \"/opt\" @ built-in policy default:27]\n  \
         deny: takes it away [filesystem.hide = \"/opt/licences\" @ ceiling.toml:10]\n  \
         help: take \"/opt/licences\" out of filesystem.hide (ceiling.toml:10)\n"
    );
    assert_eq!(
        path(Access::Read("/srv/data")),
        "read /srv/data: deny\n  deny: no line gives it\n  help: add \"/srv/data\", or a directory above it, to filesystem.read\n"
    );
    assert_eq!(
        path(Access::Write("/home/ada/shop/a.rs")),
        "write ${workspace}/a.rs: allow\n  allow: gives it [filesystem.workspace = \"write\" @ built-in policy default:13]\n"
    );
    let protected = path(Access::Write("/home/ada/shop/.vscode/tasks.json"));
    assert!(
        protected.contains("deny: takes it away [filesystem.protect = \".vscode\""),
        "{protected}"
    );
    assert!(path(Access::Write("/home/ada/.cache/x")).contains("allow: gives it [filesystem.home"));
    assert!(path(Access::Keep("/home/ada/.cache/x")).starts_with("write ${home}/.cache/x for good: deny"));
}

#[test]
fn a_command_is_explained_by_its_rules() {
    let (_, resolved) = example("ceiling");
    let argv = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let answer = resolved.explain_command(&argv(&["env", "git", "push", "-f"]));
    assert_eq!(answer.verdict, Expected::Deny);
    let text = told(&answer);
    assert!(
        text.contains("denies `env: git push -f`: A forced push rewrites what others have.")
            && text.contains("@ ceiling.toml:27]"),
        "{text}"
    );
    assert_eq!(
        resolved.explain_command(&argv(&["git", "push"])).verdict,
        Expected::Allow
    );
    let (_, none) = of("tools = [\"git\"]\n");
    assert_eq!(none.explain_command(&argv(&["ls"])).verdict, Expected::Deny);
    let (_, ci) = example("ci");
    let text = told(&ci.explain_command(&argv(&["curl", "https://example.org"])));
    assert!(
        text.contains("commands.default = \"deny\" @ ci.toml:") && text.contains("help: add a rule"),
        "{text}"
    );
}

#[test]
fn what_is_explained_is_what_is_decided() {
    for name in builtin_names() {
        let resolved = resolve(builtin_file(name).unwrap(), &none).unwrap();
        for path in [
            "/usr/bin/x",
            "/etc/shadow",
            "/home/ada/.ssh",
            "/home/ada/shop/.git",
            "/tmp/x",
            "/proc/1",
            "/run/x",
            "/nowhere",
        ] {
            for access in [
                Access::Read(path),
                Access::Write(path),
                Access::Keep(path),
                Access::Execute(path),
            ] {
                let answer = resolved.explain_access(access, FACTS);
                let allowed = answer.verdict == Expected::Allow;
                assert_eq!(allowed, resolved.policy.allows(access, FACTS), "{name} {access:?}");
                let given = answer.reasons.iter().any(|reason| reason.verdict == Expected::Allow);
                let taken = answer.reasons.iter().any(|reason| reason.verdict == Expected::Deny);
                assert_eq!(allowed, given && !taken, "{name}: {}", told(&answer));
                assert_eq!(allowed, answer.help.is_empty(), "{name}: {}", told(&answer));
            }
        }
    }
}

#[test]
fn every_line_of_a_policy_says_where_it_comes_from() {
    let (_, resolved) = example("ceiling");
    let lines = resolved.lines();
    let find = |key: &str, value: &str| {
        let line = lines.iter().find(|line| line.key == key && line.value == value);
        line.unwrap_or_else(|| panic!("{key} {value}")).clone()
    };
    assert_eq!(find("limits.wall", "\"2h\"").place, "ceiling.toml:15");
    assert_eq!(find("filesystem.hide", "\"/opt/licences\"").place, "ceiling.toml:10");
    assert!(
        find("filesystem.hide", "\"/etc/shadow\"")
            .place
            .starts_with("built-in policy default:")
    );
    let (_, short) = of("[filesystem]\nread = []\n");
    let lines = short.lines();
    let find = |key: &str| lines.iter().find(|line| line.key == key).unwrap().clone();
    assert_eq!(
        (
            find("filesystem.read").value.as_str(),
            find("filesystem.read").place.as_str()
        ),
        ("nothing", "x.toml:4")
    );
    assert_eq!(
        (
            find("filesystem.home").value.as_str(),
            find("filesystem.home").by_default
        ),
        ("\"empty\"", true)
    );
    assert!(find("limits.wall").by_default && find("limits.wall").place.starts_with("built-in"));
}

#[test]
fn what_is_useless_or_dangerous_is_found() {
    // body, what is said in any of the findings
    let table = [
        (
            "[filesystem]\nread = [\"/usr/share\"]\nexecute = [\"/usr\"]\n",
            "note 4:filesystem.read[0]: `/usr/share` lies in `/usr` of `execute` (x.toml:5)",
        ),
        (
            "[filesystem]\nread = [\"/opt/a\"]\nhide = [\"/opt\"]\n",
            "warning 4:filesystem.read[0]: `/opt/a` is hidden by `/opt` (x.toml:5)",
        ),
        (
            "[filesystem]\nwrite = [\"/srv/a\"]\nread-only = [\"/srv\"]\n",
            "warning 4:filesystem.write[0]: `/srv/a` is read-only",
        ),
        (
            "[filesystem]\nexecute = [\"/usr\"]\nhide = [\"/data/x\"]\n",
            "note 5:filesystem.hide[0]: nothing gives `/data/x`",
        ),
        (
            "[filesystem]\nwrite = [\"/etc\"]\n",
            "warning 4:filesystem.write[0]: `/etc` is written for good",
        ),
        (
            "[filesystem]\nwrite = [\"/srv/out\"]\n",
            "note 4:filesystem.write[0]: `/srv/out` lies outside the workspace",
        ),
        (
            "[filesystem]\nwrite = [\"${home}/.bashrc\"]\n",
            "warning 4:filesystem.write[0]: `${home}/.bashrc` is written for good",
        ),
        (
            "[filesystem]\nread = [\"${home}\"]\n",
            "warning 4:filesystem.read[0]: `${home}` gives the whole home",
        ),
        (
            "[filesystem]\nread = [\"${home}/.ssh\"]\nhide = []\n",
            "gives `${home}/.ssh`, which `default` hides",
        ),
        (
            "[filesystem]\nread = [\"/var/run/docker.sock\"]\n",
            "may hold sockets of services",
        ),
        (
            "[filesystem]\nworkspace = \"write\"\nprotect = []\n",
            "warning 5:filesystem.protect: nothing is protected",
        ),
        ("[filesystem]\ngit = \"open\"\n", "warning 4:filesystem.git"),
        (
            "[network]\nmode = \"host-without-isolation\"\n[protections]\nrequired = []\n",
            "warning 4:network.mode",
        ),
        (
            "[network]\nmode = \"host-without-isolation\"\n[protections]\nrequired = []\n",
            "warning 6:protections.required",
        ),
        ("[limits]\nmemory = \"unlimited\"\n", "warning 4:limits.memory"),
        ("[limits]\nprocesses = \"unlimited\"\n", "warning 4:limits.processes"),
        (
            "[environment]\npass = [\"AWS_PROFILE\"]\nnever = []\n",
            "signs in somewhere",
        ),
        (
            "[environment]\npass = [\"AWS_PROFILE\"]\n",
            "warning 4:environment.pass[0]: `AWS_PROFILE` is never passed",
        ),
        (
            "[environment]\npass = [\"LC_*\", \"LC_ALL\"]\n",
            "note 4:environment.pass[1]: `LC_*` passes it already",
        ),
        ("[environment.set]\nDB_PASSWORD = \"x\"\n", "a policy file is no place"),
        ("[approvals]\nself = \"always\"\n", "warning 4:approvals.self"),
        (
            "[commands]\ndefault = \"ask\"\n[[commands.rules]]\nprogram = \"python3\"\ndecision = \"allow\"\n",
            "warning 5:commands.rules[0]: `python3` runs whatever it is told",
        ),
        (
            "[commands]\n[[commands.rules]]\nprogram = \"ls\"\ndecision = \"allow\"\n",
            "note 4:commands.rules[0]: what no rule is about is allowed",
        ),
        (
            "[commands]\n[[commands.rules]]\nprogram = \"git\"\ndecision = \"deny\"\n[[commands.rules]]\nprogram = \"git\"\nargs = [\"push\"]\ndecision = \"ask\"\n",
            "warning 7:commands.rules[1]: it never decides",
        ),
        (
            "[syscalls]\nallow = [\"ptrace\"]\n",
            "note 4:syscalls.allow[0]: profile \"default\" has it",
        ),
        ("tools = []\n", "warning 3:tools: no tool"),
    ];
    for (body, expected) in table {
        let found = lints(body);
        assert!(found.iter().any(|found| found.contains(expected)), "{body}\n{found:#?}");
    }
}

#[test]
fn what_we_ship_has_no_warnings() {
    for name in builtin_names().iter().filter(|name| **name != "locked") {
        let file = builtin_file(name).unwrap();
        let resolved = resolve(file, &none).unwrap();
        let found = lint(file, &resolved);
        let warnings: Vec<_> = found.iter().filter(|lint| lint.level == Level::Warning).collect();
        assert!(warnings.is_empty(), "{name}: {warnings:#?}");
    }
    for name in ["ceiling", "ci", "project"] {
        let (file, resolved) = example(name);
        let found = lint(&file, &resolved);
        let warnings: Vec<_> = found.iter().filter(|lint| lint.level == Level::Warning).collect();
        assert!(warnings.is_empty(), "{name}: {warnings:#?}");
    }
}

fn diff(a: &str, b: &str) -> Diff {
    Diff::of(&of(a).1.policy, &of(b).1.policy, FACTS)
}

#[test]
fn a_difference_is_told_in_words_and_in_both_directions() {
    // a, b, wider, narrower
    let table: &[(&str, &str, &[&str], &[&str])] = &[
        ("", "", &[], &[]),
        (
            "[filesystem]\nread = [\"/opt\"]\n",
            "[filesystem]\nexecute = [\"/opt\"]\n",
            &["files: execute /opt"],
            &[],
        ),
        (
            "",
            "[filesystem]\nexecute = [\"/opt\"]\nhide = [\"/opt/licences\"]\n",
            &["files: read and execute /opt, but not /opt/licences"],
            &[],
        ),
        (
            "[filesystem]\nhome = \"copy-on-write\"\nhide = []\nprotect = []\n",
            "[filesystem]\nhome = \"copy-on-write\"\nwrite = [\"${home}/.cache\"]\nhide = []\nprotect = []\n",
            &["files: write ${home}/.cache (changes stay)"],
            &[],
        ),
        (
            "[filesystem]\ncopy-on-write = [\"/srv/a\"]\n",
            "",
            &[],
            &["files: read and write /srv/a (changes vanish with the sandbox)"],
        ),
        (
            "[filesystem]\nread = [\"/opt/jdk-*\"]\n",
            "[filesystem]\nread = [\"/opt/*\"]\n",
            &["files: read /opt/*"],
            &[],
        ),
        (
            "[network]\nmode = \"none\"\n",
            "[network]\nmode = \"loopback-silent\"\n",
            &["network: connect to its own loopback, every TCP port"],
            &[],
        ),
        (
            "",
            "[network]\nmode = \"host-without-isolation\"\ntcp-connect = [443]\ntcp-bind = []\n[protections]\nrequired = []\n",
            &[
                "network: connect to other hosts, TCP port 443",
                "network: use the machine's own network: UDP, and everything that listens on its loopback",
            ],
            &["network: connect to its own loopback, every TCP port but 443"],
        ),
        (
            "[limits]\nwall = \"1h\"\n",
            "[limits]\nwall = \"2h\"\n",
            &["limits: wall: 2h instead of 1h"],
            &[],
        ),
        (
            "[limits]\nmemory = \"unlimited\"\n",
            "[limits]\nmemory = \"1GiB\"\n",
            &[],
            &["limits: memory: unlimited instead of 1GiB"],
        ),
        (
            "[environment]\npass = [\"CARGO_*\"]\nnever = []\nremove = [\"*_TOKEN\"]\n",
            "[environment]\npass = [\"CARGO_*\"]\nnever = []\n",
            &[
                "environment: pass CARGO_* where it is *_TOKEN",
                "environment: have *_TOKEN, set by a request",
            ],
            &[],
        ),
        (
            "[environment]\npass = [\"A\"]\n",
            "[environment]\npass = [\"LC_*\"]\n",
            &["environment: pass LC_*"],
            &["environment: pass A"],
        ),
        (
            "[syscalls]\nprofile = \"strict\"\n",
            "[syscalls]\nprofile = \"strict\"\nallow = [\"ptrace\"]\n",
            &["system calls: ptrace"],
            &[],
        ),
        (
            "tools = [\"shell\"]\n",
            "tools = [\"git\"]\n",
            &["tools: use the tool git"],
            &["tools: use the tool shell"],
        ),
        (
            "[commands]\n[[commands.rules]]\nprogram = \"git\"\nargs = [\"push\"]\ndecision = \"deny\"\n",
            "[commands]\n[[commands.rules]]\nprogram = \"git\"\nargs = [\"push\"]\ndecision = \"ask\"\n",
            &[
                "commands: `git push`: ask instead of deny",
                "commands: `git push more`: ask instead of deny",
            ],
            &[],
        ),
        (
            "[filesystem]\nworkspace = \"write\"\ngit = \"open\"\n",
            "[filesystem]\nworkspace = \"write\"\n",
            &[],
            &["files: change git's hooks and configuration, which run programs outside"],
        ),
    ];
    for (a, b, wider, narrower) in table {
        let found = diff(a, b);
        let without_protections = |texts: Vec<String>| -> Vec<String> {
            texts
                .into_iter()
                .filter(|text| !text.starts_with("protections"))
                .collect()
        };
        assert_eq!(without_protections(texts(&found.wider)), *wider, "{a}---\n{b}");
        assert_eq!(without_protections(texts(&found.narrower)), *narrower, "{a}---\n{b}");
        let back = diff(b, a);
        assert_eq!(
            (texts(&back.wider), texts(&back.narrower)),
            (texts(&found.narrower), texts(&found.wider)),
            "{a}---\n{b}"
        );
        assert!(found.complete);
    }
}

#[test]
fn what_differs_without_letting_anything_through_is_told_apart() {
    let found = diff(
        "[environment.set]\nA = \"1\"\n",
        "[environment.set]\nA = \"2\"\n[audit]\narguments = \"digest\"\n",
    );
    assert!(found.is_empty());
    let other = texts(&found.other);
    assert!(
        other
            .iter()
            .any(|text| text == "environment: A is set to \"2\" instead of \"1\""),
        "{other:?}"
    );
    assert_eq!(other.len(), 2, "{other:?}");
}

#[test]
fn built_in_policies_differ_from_each_other_and_not_from_themselves() {
    for a in builtin_names() {
        for b in builtin_names() {
            let found = Diff::of(&builtin(a).unwrap().1, &builtin(b).unwrap().1, FACTS);
            assert_eq!(found.is_empty(), a == b, "{a} {b}");
            assert!(found.complete, "{a} {b}");
        }
    }
}

const PATHS: [&str; 12] = [
    "/opt",
    "/opt/a",
    "/opt/a/b",
    "/opt/*",
    "/opt/a*",
    "/opt/*b",
    "/opt/?/c",
    "/srv/x",
    "${home}/.cache",
    "${home}/.c*",
    "/home/ada",
    "${home}",
];
const TRIED: [&str; 18] = [
    "/",
    "/opt",
    "/opt/a",
    "/opt/a/b",
    "/opt/ab",
    "/opt/ab/x",
    "/opt/q",
    "/opt/q/c",
    "/opt/qb",
    "/srv/x/y",
    "/home/ada",
    "/home/ada/.cache/x",
    "/home/ada/.config",
    "/home/ada/shop",
    "/home/ada/shop/.vscode/x",
    "/tmp/x",
    "/usr",
    "/home/bob",
];
const NAMES: [&str; 8] = [
    "A",
    "A_TOKEN",
    "AWS_X",
    "A_SECRET_X",
    "LC_ALL",
    "LC_TOKEN",
    "LD_PRELOAD",
    "B",
];

fn bodies() -> impl Strategy<Value = String> {
    let paths = || proptest::sample::subsequence(PATHS.to_vec(), 0..3);
    let some = |names: &'static [&'static str]| proptest::sample::subsequence(names.to_vec(), 0..=names.len());
    (
        (paths(), paths(), paths(), paths()),
        (any::<bool>(), any::<bool>(), any::<bool>()),
        (some(&["A", "A*", "LC_*", "B"]), some(&["*_TOKEN", "*SECRET*", "AWS_*", "A"])),
        (proptest::sample::select(vec!["none", "loopback", "loopback-silent"]), any::<bool>(), 1..3u8),
        some(&["shell", "git"]),
    )
        .prop_map(|((read, execute, hide, read_only), (write, home, tmp), (pass, never), (mode, strict, hours), tools)| {
            // No path stands in two lists that contradict each other.
            let read: Vec<_> = read.into_iter().filter(|path| !execute.contains(path) && !hide.contains(path)).collect();
            let execute: Vec<_> = execute.into_iter().filter(|path| !hide.contains(path)).collect();
            let hide: Vec<_> = hide.into_iter().filter(|path| *path != "${home}").collect();
            format!(
                "tools = {tools:?}\n[filesystem]\nread = {read:?}\nexecute = {execute:?}\nhide = {hide:?}\nread-only = {read_only:?}\n\
                 workspace = \"{}\"\nhome = \"{}\"\ntmp = {tmp}\n[network]\nmode = \"{mode}\"\n[syscalls]\nprofile = \"{}\"\n\
                 [limits]\nwall = \"{hours}h\"\n[environment]\npass = {pass:?}\nnever = {never:?}\n",
                if write { "write" } else { "read" },
                if home { "copy-on-write" } else { "empty" },
                if strict { "strict" } else { "default" },
            )
        })
}

/// Everything that is tried of two policies.
fn accesses() -> Vec<Access<'static>> {
    let mut all: Vec<Access<'static>> = TRIED
        .iter()
        .flat_map(|path| {
            [
                Access::Read(path),
                Access::Write(path),
                Access::Keep(path),
                Access::Execute(path),
            ]
        })
        .collect();
    all.extend(NAMES.iter().map(|name| Access::Environment(name)));
    all.extend(["localhost", "example.org"].map(|host| Access::Connect(host, 80)));
    all.extend(fumehood_policies::Tool::ALL.iter().map(|tool| Access::Tool(*tool)));
    all.extend([
        Access::SystemCall("ptrace"),
        Access::Limit("limits.wall", 7_200_000),
        Access::Listen(80),
    ]);
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// A difference that the oracle sees is told, in its direction; where nothing is told, the oracle sees nothing.
    #[test]
    fn nothing_is_let_through_that_is_not_told(a in bodies(), b in bodies()) {
        let parse = |body: &str| Policy::parse(format!("version = 1\nname = \"x\"\n{body}").as_bytes(), "x");
        let (Ok(a), Ok(b)) = (parse(&a), parse(&b)) else { return Ok(()) };
        let found = Diff::of(&a, &b, FACTS);
        prop_assert!(found.complete);
        let back = Diff::of(&b, &a, FACTS);
        prop_assert_eq!(found.is_empty(), back.is_empty());
        for access in accesses() {
            match (a.allows(access, FACTS), b.allows(access, FACTS)) {
                (false, true) => prop_assert!(!found.wider.is_empty(), "{:?}", access),
                (true, false) => prop_assert!(!found.narrower.is_empty(), "{:?}", access),
                _ => {}
            }
        }
        if found.is_empty() {
            prop_assert!(accesses().into_iter().all(|access| a.allows(access, FACTS) == b.allows(access, FACTS)));
        }
        prop_assert!(Diff::of(&a, &a, FACTS).is_empty());
        // What is cut to both lets nothing through that the first does not.
        let met = a.narrowed_by(&b);
        prop_assert!(Diff::of(&a, &met, FACTS).wider.iter().all(|change| change.group != fumehood_policies::Group::Files), "{:#?}", Diff::of(&a, &met, FACTS).wider);
    }
}

/// What explanations say of places that the sandbox makes itself, of git's files and of nested repositories.
#[test]
fn places_of_the_sandboxes_own_and_git_are_told() {
    let text = "version = 1\nname = \"x\"\n[filesystem]\nworkspace = \"write\"\ntmp = true\nread = [\"/tmp/shown\"]\n";
    let policy = PolicyFile::parse(text.as_bytes(), "x.toml").unwrap();
    let resolved = fumehood_policies::resolve(&policy, &|_| unreachable!("it extends nothing")).unwrap();
    let facts = Facts {
        home: "/home/ada",
        workspace: "/srv/shop",
    };
    let told = |access| {
        let answer = resolved.explain_access(access, facts);
        let texts: Vec<_> = answer.reasons.iter().map(|reason| reason.text.as_str()).collect();
        format!("{}: {}", answer.verdict.name(), texts.join("; "))
    };
    for (access, verdict, says) in [
        (Access::Write("/tmp/x"), "allow", "gives it"),
        (Access::Read("/tmp/shown/x"), "allow", "gives it"),
        (Access::Write("/tmp/shown/x"), "deny", "no line gives it"),
        (Access::Read("/etc/passwd"), "allow", "every sandbox makes its own"),
        (Access::Read("/etc/resolv.conf"), "allow", "every sandbox makes its own"),
        (Access::Write("/etc/passwd"), "deny", "no line gives it"),
        (Access::Write("/sys/x"), "deny", "no line gives it"),
        (Access::Write("/home/ada/x"), "deny", "vanishes with the sandbox"),
        (
            Access::Write("/srv/shop/.git/hooks/pre-commit"),
            "deny",
            "takes it away",
        ),
        (Access::Write("/srv/shop/sub/.git/hooks/x"), "deny", "takes it away"),
        (
            Access::Write("/srv/shop/.git/config"),
            "allow",
            "decides by what is written",
        ),
        (
            Access::Write("/srv/shop/sub/.vscode/x"),
            "allow",
            "refused where sub is a repository",
        ),
        (Access::Write("/srv/shop/src/x"), "allow", "gives it"),
    ] {
        let said = told(access);
        assert!(said.starts_with(verdict) && said.contains(says), "{access:?}: {said}");
    }
}
