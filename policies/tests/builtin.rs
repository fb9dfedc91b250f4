//! The built-in policies, and the digest by which a policy is known.

use std::time::Duration;

use fumehood_policies::{Home, PathPattern, Policy, Protection, WorkspaceAccess, builtin, builtin_names};

fn absolute(path: &str) -> PathPattern {
    PathPattern::Absolute(path.to_owned())
}

#[test]
fn each_is_found_by_its_name_and_is_what_its_text_says() {
    for name in builtin_names() {
        let (text, policy) = builtin(name).unwrap();
        assert_eq!(policy.name, *name);
        let read = Policy::parse(text.as_bytes(), name).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(read, policy);
        assert!(!policy.description.is_empty());
    }
    assert!(builtin("").is_none() && builtin("Default").is_none() && builtin("../default").is_none());
}

#[test]
fn every_line_of_a_list_says_who_needs_it() {
    for name in builtin_names() {
        let (text, _) = builtin(name).unwrap();
        for line in text.lines().filter(|line| line.trim_start().starts_with('"')) {
            assert!(line.contains(" # "), "{name}: {line}");
        }
    }
}

#[test]
fn the_default_is_what_the_design_says_a_run_sees() {
    let (_, default) = builtin("default").unwrap();
    assert_eq!(default.filesystem.workspace, WorkspaceAccess::Write);
    assert_eq!(default.filesystem.home, Home::CopyOnWrite);
    assert!(default.filesystem.tmp && default.filesystem.write.is_empty());
    assert!(default.filesystem.execute.contains(&absolute("/usr")));
    assert!(!default.filesystem.execute.contains(&absolute("/home")));
    for secret in [
        ".ssh",
        ".aws",
        ".gnupg",
        ".kube",
        ".netrc",
        ".cargo/credentials.toml",
        ".npmrc",
        ".config/fumehood",
    ] {
        assert!(
            default.filesystem.hide.contains(&PathPattern::Home(secret.to_owned())),
            "{secret}"
        );
    }
    assert!(default.filesystem.hide.contains(&absolute("/etc/shadow")));
    assert_eq!(default.limits.wall, Some(Duration::from_secs(3600)));
    assert_eq!(
        (default.limits.memory_bytes, default.limits.processes),
        (Some(4 << 30), Some(2048))
    );
    assert_eq!(
        (default.limits.open_files_soft, default.limits.open_files_hard),
        (4096, 1 << 20)
    );
    assert_eq!(default.filesystem.shm_bytes, 256 << 20);
    assert!(!default.environment.set.contains_key("CI"));
    assert!(!default.protections.required.contains(&Protection::FilesystemRights));
    assert!(!default.protections.required.contains(&Protection::Resources));
    assert_eq!(default.protections.required.len(), 9);
}

#[test]
fn what_the_default_hides_lies_below_what_it_grants() {
    let (_, default) = builtin("default").unwrap();
    for hidden in &default.filesystem.hide {
        let PathPattern::Absolute(hidden) = hidden else {
            continue;
        };
        let granted = default.filesystem.execute.iter().any(|granted| match granted {
            PathPattern::Absolute(granted) => hidden
                .strip_prefix(granted.as_str())
                .is_some_and(|r| r.starts_with('/')),
            _ => false,
        });
        assert!(granted, "{hidden}");
    }
}

#[test]
fn no_name_that_a_policy_passes_is_cancelled_by_its_never() {
    for name in builtin_names() {
        let (_, policy) = builtin(name).unwrap();
        for pattern in &policy.environment.pass {
            let example = pattern.replace('*', "");
            assert!(policy.environment.passes(example.as_bytes()), "{name}: {pattern}");
        }
    }
}

#[test]
fn the_default_passes_toolchains_and_no_secrets() {
    let (_, default) = builtin("default").unwrap();
    for name in [
        "PATH",
        "TERM",
        "LC_ALL",
        "CARGO_HOME",
        "RUSTUP_TOOLCHAIN",
        "VIRTUAL_ENV",
        "JAVA_HOME",
        "GOCACHE",
    ] {
        assert!(default.environment.passes(name.as_bytes()), "{name}");
    }
    for name in [
        "HOME",
        "USER",
        "TMPDIR",
        "GH_TOKEN",
        "ANTHROPIC_API_KEY",
        "AWS_PROFILE",
        "SSH_AUTH_SOCK",
        "LD_PRELOAD",
        "GIT_DIR",
        "CARGO_REGISTRY_TOKEN",
        "CARGO_TARGET_SECRET",
        "CMAKE_api_key",
        "DOCKER_HOST",
        "DBUS_SESSION_BUS_ADDRESS",
        "BASH_ENV",
        "FUMEHOOD_SOCKET",
    ] {
        assert!(!default.environment.passes(name.as_bytes()), "{name}");
    }
}

#[test]
fn locked_gives_less_than_the_default_everywhere() {
    let ((_, locked), (_, default)) = (builtin("locked").unwrap(), builtin("default").unwrap());
    assert_eq!(
        (locked.filesystem.workspace, locked.filesystem.home),
        (WorkspaceAccess::Read, Home::Empty)
    );
    assert!(locked.filesystem.write.is_empty() && locked.filesystem.tmp);
    assert!(!locked.filesystem.execute.contains(&absolute("/etc")));
    for required in &default.protections.required {
        assert!(locked.protections.required.contains(required), "{required:?}");
    }
    assert!(locked.protections.required.contains(&Protection::FilesystemRights));
    assert!(
        locked
            .environment
            .pass
            .iter()
            .all(|name| default.environment.pass.contains(name))
    );
    let tighter =
        |locked: Option<Duration>, default: Option<Duration>| locked.is_some_and(|l| default.is_none_or(|d| l < d));
    assert!(tighter(locked.limits.wall, default.limits.wall));
    assert!(tighter(locked.limits.idle, default.limits.idle));
    assert!(tighter(locked.limits.cpu_time, default.limits.cpu_time));
    assert!(locked.limits.memory_bytes < default.limits.memory_bytes);
    assert!(locked.limits.processes < default.limits.processes);
    assert!(locked.limits.disk_bytes < default.limits.disk_bytes && locked.limits.files < default.limits.files);
    assert!(locked.limits.output_bytes.is_some() && locked.limits.file_bytes.is_some());
}

fn digest(text: &str) -> String {
    Policy::parse(text.as_bytes(), "p.toml")
        .unwrap_or_else(|errors| panic!("{errors}"))
        .digest
        .to_string()
}

#[test]
fn a_digest_is_of_the_meaning_and_not_of_the_spelling() {
    let one = digest(
        "version = 1\nname = \"x\"\n[filesystem]\nread = [\"/a\", \"/b\"]\n[limits]\nwall = \"60s\"\nmemory = \"1GiB\"\n[environment.set]\nA = \"1\"\nB = \"2\"\n",
    );
    let other = digest(
        "# a comment\nname = 'x'\nlimits = { memory = \"1024MiB\", wall = \"1m\" }\nenvironment.set = { B = \"2\", A = \"1\" }\nfilesystem.read = [\n  \"//b/\", # why\n  \"/a/.\",\n]\nversion = 0x1\n",
    );
    assert_eq!(one, other);
    // Saying what would hold anyway.
    assert_eq!(
        digest("version = 1\nname = \"x\""),
        digest("version = 1\nname = \"x\"\n[network]\nmode = \"loopback\"")
    );
}

#[test]
fn every_difference_of_meaning_has_its_own_digest() {
    let head = "version = 1\nname = \"x\"\n";
    let mut seen = vec![("default".to_owned(), builtin("default").unwrap().1.digest.to_string())];
    seen.push(("locked".into(), builtin("locked").unwrap().1.digest.to_string()));
    seen.push(("another name".into(), digest("version = 1\nname = \"y\"")));
    for body in [
        "",
        "description = \"d\"",
        "[filesystem]\nworkspace = \"write\"",
        "[filesystem]\nhome = \"copy-on-write\"",
        "[filesystem]\nread = [\"/a\"]",
        "[filesystem]\nread = [\"/a\", \"/b\"]",
        "[filesystem]\nread = [\"/a/b\"]",
        "[filesystem]\nread = [\"${home}/a\"]",
        "[filesystem]\nread = [\"${workspace}/a\"]",
        "[filesystem]\nwrite = [\"/a\"]",
        "[filesystem]\nhide = [\"/a\"]",
        "[filesystem]\nhide = []",
        "[filesystem]\nhide = [\"${home}/a\"]",
        "[filesystem]\nexecute = [\"/a\"]",
        "[filesystem]\ncopy-on-write = [\"/a\"]",
        "[filesystem]\nread-only = [\"/a\"]",
        "[filesystem]\nread = [\"/a*\"]",
        "tools = []",
        "tools = [\"shell\"]",
        "[syscalls]\nprofile = \"strict\"",
        "[syscalls]\nallow = [\"ptrace\"]",
        "[syscalls]\ndeny = [\"ptrace\"]",
        "[environment]\nremove = [\"A\"]",
        "[protections]\npreferred = [\"resources\"]",
        "[approvals]\nwait = \"1s\"",
        "[approvals]\nself = \"terminal\"",
        "[audit]\narguments = \"digest\"",
        "[filesystem]\ntmp = true",
        "[filesystem]\nshm = \"1B\"",
        "[network]\nmode = \"loopback-silent\"",
        "[limits]\nwall = \"1s\"",
        "[limits]\nidle = \"1s\"",
        "[limits]\ncpu-time = \"1s\"",
        "[limits]\ngrace = \"1s\"",
        "[limits]\ngrace = \"0s\"",
        "[limits]\nmemory = \"1B\"",
        "[limits]\nmemory = \"unlimited\"",
        "[limits]\nprocesses = 1",
        "[limits]\ncpus = 1",
        "[limits]\nopen-files = { soft = 1, hard = 2 }",
        "[limits]\nopen-files = { soft = 2, hard = 2 }",
        "[limits]\nfile-size = \"1B\"",
        "[limits]\ndisk = \"1B\"",
        "[limits]\nfiles = 1",
        "[limits]\noutput = \"1B\"",
        "[environment]\npass = [\"A\"]",
        "[environment]\nnever = [\"A\"]",
        "[environment]\nnever = []",
        "[environment.set]\nA = \"\"",
        "[environment.set]\nA = \"B\"",
        "[environment.set]\nAB = \"\"",
        "[filesystem]\nprotect = [\".x\"]",
        "[filesystem]\nprotect = []",
        "[filesystem]\ngit = \"open\"",
        "[network]\nmode = \"none\"",
        "[network]\nmode = \"host-without-isolation\"\n[protections]\nrequired = [\"ipc\", \"processes\"]",
        "[network]\nmode = \"host-without-isolation\"\ntcp-connect = []\n[protections]\nrequired = [\"ipc\", \"processes\"]",
        "[network]\nmode = \"host-without-isolation\"\ntcp-bind = []\n[protections]\nrequired = [\"ipc\", \"processes\"]",
        "[protections]\nrequired = []",
        "[protections]\nrequired = [\"resources\"]",
        "[commands]\ndefault = \"ask\"",
        "[commands]\nunreadable = \"deny\"",
        "[[commands.rules]]\nprogram = \"a\"\ndecision = \"deny\"",
        "[[commands.rules]]\nprogram = \"a\"\ndecision = \"deny\"\nreason = \"b\"",
        "[[commands.ceilings]]\ndefault = \"deny\"",
    ] {
        let new = digest(&format!("{head}{body}"));
        if let Some((old, _)) = seen.iter().find(|(_, digest)| *digest == new) {
            panic!("{old:?} and {body:?} have one digest");
        }
        seen.push((body.to_owned(), new));
    }
}

#[test]
fn the_canonical_form_is_fixed() {
    // Audit records name policies by it: a change needs a new version of the form.
    let text = concat!(
        "version = 1\nname = \"fixed\"\ntools = [\"shell\"]\n[filesystem]\nread = [\"/usr\"]\nhide = []\nread-only = []\nprotect = []\ngit = \"open\"\nshm = \"1MiB\"\n",
        "[limits]\nwall = \"1m\"\nidle = \"unlimited\"\ncpu-time = \"unlimited\"\ngrace = \"1s\"\nmemory = \"1GiB\"\n",
        "processes = 10\ncpus = 1\nopen-files = { soft = 1, hard = 2 }\nfile-size = \"unlimited\"\ndisk = \"unlimited\"\nfiles = \"unlimited\"\noutput = \"unlimited\"\n",
        "[environment]\nnever = []\nremove = []\n[environment.set]\nA = \"b\"\n[protections]\nrequired = []\npreferred = []\n",
        "[syscalls]\ndeny = []\n[approvals]\nwait = \"1s\"\n[audit]\narguments = \"full\"\n",
    );
    assert_eq!(
        digest(text),
        "ecc067ce4b6788f73cc9dd8c68c1f893d6048327c8eb2afd68d4ed6b681942ef"
    );
}
