use std::path::Path;

use fumehood_policies::{Decision, Policy, Request, RequestedLimits, Tool, builtin};
use fumehood_sandbox::spec::Identity;

use super::*;

pub(crate) fn host() -> Host {
    Host {
        identity: Identity {
            outside_uid: 1001,
            outside_gid: 1002,
            inside_uid: 1001,
            inside_gid: 1002,
        },
        user: "ada".into(),
        group: "dev".into(),
        home: "/home/ada".into(),
        home_exists: true,
        workspace: "/home/ada/project".into(),
        repository: None,
        programs: Vec::new(),
        cwd: "/home/ada/project/src".into(),
        private: [PathBuf::from("/home/ada/state/audit.jsonl"), "/srv/fumehood".into()].into(),
        found: BTreeMap::new(),
    }
}

fn grants(policy: &Policy, env: &[(Vec<u8>, Vec<u8>)], caller_env: &[(Vec<u8>, Vec<u8>)]) -> Grants {
    let argv = [b"true".to_vec()];
    let request = Request {
        tool: Tool::Shell,
        argv: &argv,
        caller_env,
        env,
        limits: RequestedLimits::default(),
    };
    match policy.decide(&request) {
        Decision::Allowed(grants) => *grants,
        other => panic!("{other:?}"),
    }
}

fn policy(text: &str) -> Policy {
    Policy::parse(format!("version = 1\nname = \"test\"\n{text}").as_bytes(), "test.toml").unwrap()
}

fn built_in(name: &str) -> Policy {
    builtin(name).unwrap().1
}

fn entries(policy: &Policy) -> Vec<ViewEntry> {
    sandbox("run-1", &grants(policy, &[], &[]), &host()).view.entries
}

fn bound(entries: &[ViewEntry], path: &str) -> Option<Access> {
    entries.iter().find_map(|entry| match entry {
        ViewEntry::Bind {
            source, target, access, ..
        } if target == Path::new(path) => {
            assert_eq!(source, target, "a grant appears where it lies on the machine");
            Some(*access)
        }
        _ => None,
    })
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    pairs
        .iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

fn variable(command: &CommandSpec, name: &str) -> Option<String> {
    let values: Vec<_> = command.env.iter().filter(|(found, _)| found == name).collect();
    assert!(values.len() <= 1, "{name} is there twice");
    values.first().map(|(_, value)| value.to_string_lossy().into_owned())
}

#[test]
fn a_grant_becomes_a_mount_with_its_access_and_nothing_else_is_mounted() {
    let text = "[filesystem]\nworkspace = \"write\"\nexecute = [\"/usr\", \"${home}/tools\"]\nread = [\"/etc\"]\nwrite = [\"/srv/cache\", \"/srv/bin\"]\n";
    let entries = entries(&policy(text));
    assert_eq!(bound(&entries, "/usr"), Some(Access::ReadExecute));
    assert_eq!(bound(&entries, "/home/ada/tools"), Some(Access::ReadExecute));
    assert_eq!(bound(&entries, "/etc"), Some(Access::Read));
    assert_eq!(bound(&entries, "/srv/cache"), Some(Access::GuardedNoExecute));
    assert_eq!(bound(&entries, "/home/ada/project"), Some(Access::Guarded));
    let binds = entries
        .iter()
        .filter(|entry| matches!(entry, ViewEntry::Bind { .. }))
        .count();
    assert_eq!(binds, 6);
}

#[test]
fn a_workspace_is_read_only_unless_granted_and_mounted_over_everything_else() {
    let entries = entries(&policy("[filesystem]\nworkspace = \"read\"\n"));
    assert_eq!(bound(&entries, "/home/ada/project"), Some(Access::ReadExecute));
    let last = entries.last().unwrap();
    assert!(
        matches!(last, ViewEntry::Bind { target, optional: false, .. } if target == Path::new("/home/ada/project"))
    );
}

#[test]
fn a_home_is_copied_on_write_with_secrets_hidden_or_empty() {
    let overlay = entries(&built_in("default")).into_iter().find_map(|entry| match entry {
        ViewEntry::Overlay {
            lower, target, hide, ..
        } => Some((lower, target, hide)),
        _ => None,
    });
    let (lower, target, hide) = overlay.unwrap();
    assert_eq!(
        (lower.as_path(), target.as_path()),
        (Path::new("/home/ada"), Path::new("/home/ada"))
    );
    assert!(hide.contains(&".ssh".into()) && hide.contains(&".aws".into()));
    let locked = entries(&built_in("locked"));
    assert!(!locked.iter().any(|entry| matches!(entry, ViewEntry::Overlay { .. })));
    let empty =
        |entry: &ViewEntry| matches!(entry, ViewEntry::Scratch { target, .. } if target == Path::new("/home/ada"));
    assert!(locked.iter().any(empty));
}

#[test]
fn the_daemons_own_places_are_hidden_wherever_they_lie_and_whatever_is_granted() {
    let entries = entries(&policy(
        "[filesystem]\nhome = \"copy-on-write\"\nread = [\"/srv\"]\nhide = []\n",
    ));
    let hidden = entries.iter().find_map(|entry| match entry {
        ViewEntry::Overlay { hide, .. } => Some(hide.clone()),
        _ => None,
    });
    assert_eq!(hidden.unwrap(), [Path::new("state/audit.jsonl")]);
    let granted = entries
        .iter()
        .position(|entry| matches!(entry, ViewEntry::Bind { target, .. } if target == Path::new("/srv")));
    let masked = entries
        .iter()
        .position(|entry| matches!(entry, ViewEntry::Mask { target } if target == Path::new("/srv/fumehood")));
    assert!(granted.unwrap() < masked.unwrap());
}

#[test]
fn a_home_that_does_not_exist_is_empty_even_where_it_would_be_copied() {
    let host = Host {
        home: "/nonexistent".into(),
        home_exists: false,
        ..host()
    };
    let spec = sandbox("run-1", &grants(&built_in("default"), &[], &[]), &host);
    assert!(
        !spec
            .view
            .entries
            .iter()
            .any(|entry| matches!(entry, ViewEntry::Overlay { .. }))
    );
}

#[test]
fn temporary_directories_exist_only_where_granted() {
    let has_tmp = |text: &str| {
        entries(&policy(text)).iter().any(
            |entry| matches!(entry, ViewEntry::Scratch { target, mode: 0o1777, .. } if target == Path::new("/tmp")),
        )
    };
    assert!(has_tmp("[filesystem]\ntmp = true\n"));
    assert!(!has_tmp("[filesystem]\ntmp = false\n"));
}

#[test]
fn hidden_system_paths_are_masked_after_they_were_mounted() {
    let entries = entries(&built_in("default"));
    let at = |found: &dyn Fn(&ViewEntry) -> bool| entries.iter().position(found).unwrap();
    let etc = at(&|entry| matches!(entry, ViewEntry::Bind { target, .. } if target == Path::new("/etc")));
    let shadow = at(&|entry| matches!(entry, ViewEntry::Mask { target } if target == Path::new("/etc/shadow")));
    assert!(etc < shadow);
}

#[test]
fn a_grant_below_run_is_mounted_after_run_itself() {
    let entries = entries(&built_in("default"));
    let run = entries
        .iter()
        .position(|entry| matches!(entry, ViewEntry::Tmpfs { target, .. } if target == Path::new("/run")));
    let current = entries.iter().position(
        |entry| matches!(entry, ViewEntry::Bind { target, .. } if target == Path::new("/run/current-system")),
    );
    assert!(run.unwrap() < current.unwrap());
}

#[test]
fn files_that_name_the_user_say_who_runs_the_command() {
    let passwd = entries(&built_in("default")).into_iter().find_map(|entry| match entry {
        ViewEntry::File { target, contents } if target == Path::new("/etc/passwd") => Some(contents),
        _ => None,
    });
    let passwd = String::from_utf8(passwd.unwrap()).unwrap();
    assert!(passwd.contains("ada:x:1001:1002:ada:/home/ada:/bin/sh\n"), "{passwd}");
}

#[test]
fn the_network_has_a_refusing_proxy_and_its_variables_unless_it_shall_be_silent() {
    let loud = grants(&policy("[network]\nmode = \"loopback\"\n"), &[], &[]);
    assert_eq!(
        sandbox("run-1", &loud, &host()).network,
        Network::Loopback {
            refusal_port: Some(REFUSAL_PORT)
        }
    );
    let proxy = variable(&command(&[], 0o022, &[], &loud, &host()), "https_proxy").unwrap();
    assert_eq!(proxy, format!("http://127.0.0.1:{REFUSAL_PORT}"));
    let silent = grants(&policy("[network]\nmode = \"loopback-silent\"\n"), &[], &[]);
    assert_eq!(
        sandbox("run-1", &silent, &host()).network,
        Network::Loopback { refusal_port: None }
    );
    assert_eq!(
        variable(&command(&[], 0o022, &[], &silent, &host()), "https_proxy"),
        None
    );
}

#[test]
fn limits_pass_through_as_they_are() {
    let text = "[limits]\nmemory = \"1GiB\"\nprocesses = 10\ncpus = 1.5\nfile-size = \"unlimited\"\n";
    let limits = sandbox("run-1", &grants(&policy(text), &[], &[]), &host()).limits;
    assert_eq!(limits.memory_bytes, Some(1 << 30));
    assert_eq!(limits.processes, Some(10));
    assert_eq!(limits.cpu_millis, Some(1500));
    assert_eq!(limits.file_bytes, None);
}

#[test]
fn every_protection_has_the_same_name_on_both_sides() {
    for required in policies::Protection::ALL {
        assert_eq!(protection(*required).name(), required.name());
    }
}

#[test]
fn facts_about_the_sandbox_win_over_the_caller_and_the_request_wins_over_facts() {
    let caller = pairs(&[
        ("HOME", "/root"),
        ("USER", "root"),
        ("PATH", "/opt/x/bin:/usr/bin"),
        ("AWS_SECRET_KEY", "s"),
    ]);
    let policy = built_in("default");
    let passed = grants(&policy, &[], &caller);
    let made = command(&[], 0o022, &[], &passed, &host());
    assert_eq!(variable(&made, "HOME").as_deref(), Some("/home/ada"));
    assert_eq!(variable(&made, "USER").as_deref(), Some("ada"));
    assert_eq!(variable(&made, "PATH").as_deref(), Some("/opt/x/bin:/usr/bin"));
    assert_eq!(variable(&made, "PWD").as_deref(), Some("/home/ada/project/src"));
    assert_eq!(variable(&made, "AWS_SECRET_KEY"), None);
    let own = pairs(&[("HOME", "/elsewhere"), ("API_TOKEN", "mine")]);
    let made = command(&[], 0o022, &own, &grants(&policy, &own, &caller), &host());
    assert_eq!(variable(&made, "HOME").as_deref(), Some("/elsewhere"));
    assert_eq!(variable(&made, "API_TOKEN").as_deref(), Some("mine"));
}

#[test]
fn a_command_keeps_bytes_that_are_no_text() {
    let argv = vec![b"prog".to_vec(), vec![0xff, 0xfe]];
    let made = command(&argv, 0o022, &[], &grants(&built_in("default"), &[], &[]), &host());
    assert_eq!(made.argv[1].as_bytes(), [0xff, 0xfe]);
    assert_eq!(made.cwd, Path::new("/home/ada/project/src"));
}

#[test]
fn a_workspace_that_lies_in_what_is_hidden_is_found() {
    let hidden = |policy: &Policy, workspace: &str| {
        let host = Host {
            workspace: workspace.into(),
            ..host()
        };
        hidden_by_workspace(&grants(policy, &[], &[]), &host).into_iter().next()
    };
    let default = built_in("default");
    assert_eq!(
        hidden(&default, "/home/ada/.ssh"),
        Some(("filesystem.hide", "/home/ada/.ssh".into()))
    );
    assert_eq!(
        hidden(&default, "/home/ada/.aws/cli/cache"),
        Some(("filesystem.hide", "/home/ada/.aws".into()))
    );
    assert_eq!(
        hidden(&default, "/etc/ssh/sshd_config.d"),
        Some(("filesystem.hide", "/etc/ssh".into()))
    );
    assert_eq!(hidden(&default, "/home/ada/.ssh-tools"), None);
    assert_eq!(hidden(&default, "/home/ada/project"), None);
    assert_eq!(hidden(&built_in("locked"), "/home/ada/.ssh"), None);
}

#[test]
fn a_workspace_that_holds_a_hidden_path_is_named_with_its_rule() {
    let host = Host {
        workspace: "/home/ada/.cache".into(),
        ..host()
    };
    let hidden = hidden_by_workspace(&grants(&built_in("default"), &[], &[]), &host);
    assert!(hidden.contains(&("filesystem.hide", "/home/ada/.cache/huggingface/token".into())));
}

#[test]
fn a_grant_that_holds_a_hidden_path_does_not_bring_it_back() {
    let text = "[filesystem]\nhome = \"copy-on-write\"\nwrite = [\"${home}/.config\"]\nhide = [\"${home}/.config/gh\", \"${home}/.ssh\"]\n";
    let entries = entries(&policy(text));
    let masked = |path: &str| {
        entries
            .iter()
            .position(|entry| matches!(entry, ViewEntry::Mask { target } if target == Path::new(path)))
    };
    let granted = entries
        .iter()
        .position(|entry| matches!(entry, ViewEntry::Bind { target, .. } if target == Path::new("/home/ada/.config")));
    assert!(granted.unwrap() < masked("/home/ada/.config/gh").unwrap());
    assert_eq!(
        masked("/home/ada/.ssh"),
        None,
        "the overlay hides what no grant uncovers"
    );
}

#[test]
fn what_a_command_can_do_with_a_path_is_read_as_the_view_is_built() {
    let of = |policy: &Policy, path: &str| reach(Path::new(path), &grants(policy, &[], &[]), &host());
    let default = built_in("default");
    for open in [
        "/home/ada/project/x",
        "/home/ada/.cache/x",
        "/tmp/x",
        "/dev/null",
        "/run/x",
        "/proc/1/mem",
    ] {
        assert_eq!(of(&default, open), Reach::Open, "{open}");
    }
    for read in ["/usr/lib/x", "/etc/hosts", "/opt"] {
        let remedy = "filesystem.write with this path".to_owned();
        assert_eq!(of(&default, read), Reach::ReadOnly { remedy }, "{read}");
    }
    let rule = Some("filesystem.hide: ${home}/.ssh".to_owned());
    assert_eq!(of(&default, "/home/ada/.ssh/id"), Reach::Hidden { rule });
    assert_eq!(
        of(&default, "/home/ada/state/audit.jsonl"),
        Reach::Hidden { rule: None }
    );
    assert!(matches!(of(&default, "/etc/shadow"), Reach::Hidden { rule: Some(_) }));
    for absent in ["/root/x", "/home/bob", "/srv/x", "/usrlocal"] {
        assert!(matches!(of(&default, absent), Reach::Absent { .. }), "{absent}");
    }

    let empty = policy("");
    let remedy = "filesystem.workspace = \"write\"".to_owned();
    assert_eq!(of(&empty, "/home/ada/project/x"), Reach::ReadOnly { remedy });
    let remedies = ["filesystem.tmp = true"; 2].map(str::to_owned);
    assert_eq!(of(&empty, "/tmp/x"), Reach::Absent { remedies });
    let remedies = ["filesystem.home = \"copy-on-write\""; 2].map(str::to_owned);
    assert_eq!(of(&empty, "/home/ada/.ssh/id"), Reach::Absent { remedies });
    let granted = policy("[filesystem]\nread = [\"${home}/lib\"]\nwrite = [\"/data\"]\n");
    assert!(matches!(of(&granted, "/home/ada/lib/x"), Reach::ReadOnly { .. }));
    assert_eq!(of(&granted, "/data/x"), Reach::Open);
}

#[test]
fn grants_add_up_where_they_meet() {
    let text = "[filesystem]\nexecute = [\"/srv\", \"/opt/x\"]\nread = [\"/srv/data\"]\nwrite = [\"/opt/x/state\"]\ncopy-on-write = [\"/opt/x/cache\", \"/var/lib/y\"]\n";
    let entries = entries(&policy(text));
    assert_eq!(
        bound(&entries, "/srv/data"),
        Some(Access::ReadExecute),
        "/srv gives execution"
    );
    assert_eq!(bound(&entries, "/opt/x/state"), Some(Access::Guarded));
    let copied = |path: &str| {
        entries.iter().find_map(|entry| match entry {
            ViewEntry::Overlay { target, execute, .. } if target == Path::new(path) => Some(*execute),
            _ => None,
        })
    };
    assert_eq!(
        (copied("/opt/x/cache"), copied("/var/lib/y")),
        (Some(true), Some(false))
    );
}

#[test]
fn what_is_read_only_is_mounted_so_last_and_guarded() {
    let text =
        "[filesystem]\nworkspace = \"write\"\nread-only = [\"${workspace}/sql\"]\nprotect = []\ngit = \"open\"\n";
    let spec = sandbox("run-1", &grants(&policy(text), &[], &[]), &host());
    assert_eq!(spec.guard.read_only, [Path::new("/home/ada/project/sql")]);
    assert!(spec.is_guarded());
    let last = spec.view.entries.last().unwrap();
    assert!(
        matches!(last, ViewEntry::ReadOnly { target } if target == Path::new("/home/ada/project/sql")),
        "{last:?}"
    );
    let at = |path: &str| reach(Path::new(path), &grants(&policy(text), &[], &[]), &host());
    assert_eq!(at("/home/ada/project/x"), Reach::Open);
    assert!(matches!(at("/home/ada/project/sql/1"), Reach::ReadOnly { .. }));
}

#[test]
fn a_workspace_is_written_where_a_grant_says_so_and_copied_where_it_is_named() {
    let mut host = host();
    let target = PathPattern::Workspace("target".into());
    host.found.insert(target, vec!["/home/ada/project/target".into()]);
    let of = |text: &str| sandbox("run-1", &grants(&policy(text), &[], &[]), &host).view.entries;
    let inner = of("[filesystem]\nwrite = [\"${workspace}/target\"]\n");
    assert_eq!(bound(&inner, "/home/ada/project"), Some(Access::ReadExecute));
    assert_eq!(bound(&inner, "/home/ada/project/target"), Some(Access::Guarded));
    let copied = of("[filesystem]\ncopy-on-write = [\"${workspace}\"]\n");
    assert_eq!(bound(&copied, "/home/ada/project"), None);
    let is_copy = |entry: &ViewEntry| matches!(entry, ViewEntry::Overlay { target, .. } if target == Path::new("/home/ada/project"));
    assert!(copied.iter().any(is_copy));
}

#[test]
fn a_pattern_is_what_was_found_for_it() {
    let mut host = host();
    let text = "[filesystem]\nexecute = [\"/opt/jdk*\"]\n";
    let of = |host: &Host| sandbox("run-1", &grants(&policy(text), &[], &[]), host).view.entries;
    assert_eq!(bound(&of(&host), "/opt/jdk*"), None);
    host.found
        .insert(PathPattern::Absolute("/opt/jdk*".into()), vec!["/opt/jdk-21".into()]);
    assert_eq!(bound(&of(&host), "/opt/jdk-21"), Some(Access::ReadExecute));
}

#[test]
fn a_variable_that_is_removed_is_not_among_the_facts_either() {
    let removing = grants(&policy("[environment]\nremove = [\"LANG\", \"XDG_*\"]\n"), &[], &[]);
    let made = command(&[], 0o022, &[], &removing, &host());
    assert_eq!(
        (variable(&made, "LANG"), variable(&made, "XDG_RUNTIME_DIR")),
        (None, None)
    );
    assert!(variable(&made, "HOME").is_some());
}

#[test]
fn calls_are_excepted_by_name() {
    let text = "[syscalls]\nprofile = \"strict\"\nallow = [\"ptrace\"]\ndeny = [\"socket\"]\n";
    let spec = sandbox("run-1", &grants(&policy(text), &[], &[]), &host());
    assert_eq!(
        (spec.exceptions.allow, spec.exceptions.deny),
        (vec!["ptrace".to_owned()], vec!["socket".to_owned()])
    );
}

#[test]
fn policies_know_the_sandboxes_system_calls() {
    use fumehood_sandbox::seccomp::Call;
    use policies::CallKind;
    let mut known: Vec<_> = policies::calls().collect();
    known.sort_by_key(|(name, _)| *name);
    let kind = |call: &Call| match (call.is_needed(), call.is_allowed_by_default()) {
        (true, _) => CallKind::Needed,
        (false, false) => CallKind::Never,
        (false, true) => CallKind::Choice,
    };
    let mut real: Vec<_> = Call::ALL.iter().map(|call| (call.name(), kind(call))).collect();
    real.sort_by_key(|(name, _)| *name);
    assert_eq!(known, real);
}

#[test]
fn a_terminal_has_its_size_and_the_kind_that_was_asked_for_first() {
    const SIZE: TerminalSize = TerminalSize { rows: 7, columns: 33 };
    let own = [(b"TERM".to_vec(), b"own".to_vec())];
    for (passed, own, asked, expected) in [
        // The request's own variable, which is in the environment already.
        (Some("own"), &own[..], "asked", "own"),
        (Some("own"), &own[..], "", "own"),
        // What the terminal was asked to be, before what the policy passed on of the caller's.
        (Some("passed"), &[][..], "asked", "asked"),
        (None, &[][..], "asked", "asked"),
        (Some("passed"), &[][..], "", "passed"),
        (None, &[][..], "", DEFAULT_TERM),
    ] {
        let mut command = CommandSpec {
            argv: vec!["true".into()],
            env: vec![("A".into(), "1".into())],
            cwd: "/".into(),
            umask: 0o22,
            terminal: None,
            state: false,
        };
        command.env.extend(passed.map(|term| ("TERM".into(), term.into())));
        give_terminal(&mut command, SIZE, asked, own);
        assert_eq!(command.terminal, Some(SIZE));
        let terms: Vec<_> = command.env.iter().filter(|(name, _)| name == "TERM").collect();
        assert_eq!(terms, [&("TERM".into(), expected.into())], "{passed:?} {asked:?}");
        assert_eq!(command.env[0], ("A".into(), "1".into()));
    }
}
