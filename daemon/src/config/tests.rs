use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn parse(text: &str) -> Result<File, String> {
    File::parse(text, Path::new("f.toml")).map_err(|errors| errors.to_string())
}

fn user() -> EnvFacts {
    EnvFacts {
        uid: 1000,
        home: Some("/home/me".into()),
        ..EnvFacts::default()
    }
}

fn resolve(text: &str, env: &EnvFacts) -> Result<Config, ConfigError> {
    Config::resolve(Some(("f.toml".into(), parse(text).unwrap())), Overrides::default(), env)
}

#[test]
fn the_reference_names_every_key_with_its_default() {
    // Every commented line that is TOML, uncommented.
    let is_toml =
        |line: &str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let text: String = REFERENCE
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| is_toml(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let file = parse(&text).unwrap();
    let root = EnvFacts {
        uid: 0,
        ..EnvFacts::default()
    };
    let set = Config::resolve(Some(("f".into(), file.clone())), Overrides::default(), &root).unwrap();
    let defaults = Config::resolve(None, Overrides::default(), &root).unwrap();
    // What has no fixed default stands there as an example.
    let expected = Config {
        file: set.file.clone(),
        socket: "/run/fumehood/fumehood.sock".into(),
        tcp: set.tcp.clone(),
        access: set.access.clone(),
        idle_exit: Some(AUTO_IDLE_EXIT),
        ..defaults
    };
    assert_eq!(set, expected);
    assert!(set.tcp.is_some() && set.access[0].rules.len() == 1);
    // No key is missing in the reference: no field of the file is silent.
    assert!(!format!("{file:?}").contains("None"), "{file:?}");
    // As it stands, it sets nothing.
    assert_eq!(parse(REFERENCE).unwrap(), File::default());
}

#[test]
fn what_is_wrong_is_named_with_place_and_remedy() {
    let table = [
        (
            "max_rums = 3",
            "f.toml:1:1: unknown key `max_rums`: did you mean `max_runs`?",
        ),
        (
            "\n[tcp]\n  lisen = \"x\"",
            "f.toml:3:3: unknown key `tcp.lisen`: did you mean `listen`?",
        ),
        (
            "[log]\nzzzzzz = 1",
            "f.toml:2:1: unknown key `log.zzzzzz`: the keys here are format, filter",
        ),
        (
            "max_runs = \"3\"",
            "f.toml:1:12: max_runs: expected a whole number from 1 to 10000, found string",
        ),
        (
            "max_runs = 0",
            "f.toml:1:12: max_runs: 0 is not a whole number from 1 to 10000",
        ),
        (
            "max_runs = -1",
            "f.toml:1:12: max_runs: -1 is not a whole number from 1 to 10000",
        ),
        (
            "max_queue = 99999999999999999999",
            "f.toml:1:13: max_queue: 99999999999999999999 is not a whole number",
        ),
        (
            "retain_for = 10",
            "f.toml:1:14: retain_for: expected \"10s\", found integer; write a whole number with one of",
        ),
        (
            "retain_for = \"10 parsecs\"",
            "f.toml:1:14: retain_for: `10 parsecs` is not understood; write",
        ),
        ("retain_for = \"\u{ff11}s\"", "is not understood"),
        ("retain_for = \"99999999999h\"", "more than a year"),
        ("retain_for = \"99999999999999999999h\"", "is not understood"),
        ("idle_exit = \"0s\"", "leave the key out"),
        ("keep_bytes = \"1 MB\"", "with one of B, KiB, MiB, GiB"),
        ("keep_bytes = \"2 GiB\"", "more than 1 GiB"),
        (
            "socket = \"x.sock\"",
            "f.toml:1:10: socket: `x.sock` is not an absolute path",
        ),
        ("socket = \"~/x.sock\"", "without ~ or variables"),
        (
            "allowed_uids = [0, \"me\"]",
            "f.toml:1:16: allowed_uids: item 2: expected a whole number",
        ),
        ("allowed_uids = 0", "expected a list, found integer"),
        ("tcp = 3", "f.toml:1:7: tcp: expected a table, found integer"),
        ("[tcp]\nlisten = \"localhost\"", "is not an address with port"),
        ("default_policy = \"../x\"", "is not a policy's name"),
        ("[log]\nformat = \"xml\"", "f.toml:2:10: log.format: `xml` is neither"),
        ("[log]\nfilter = \"a=b=c\"", "f.toml:2:10: log.filter: "),
        (
            "inline_policies = true",
            "expected one of \"none\", \"trusted\", \"narrow\", \"any\", found boolean",
        ),
        ("inline_policies = \"all\"", "`all` is not one of \"none\""),
        ("[access]\nuid = 1", "write [[access]]"),
        (
            "[[access]]\nuidd = 1",
            "f.toml:2:1: unknown key `access[0].uidd`: did you mean `uid`?",
        ),
        ("[[access]]\nuid = -1", "access[0].uid: -1 is not a whole number"),
        ("[[access]]\ncertificate = \"a*b\"", "`*` may stand at either end"),
        ("[[access]]\nlabel = { a = 1 }", "access[0].label: expected a string"),
        ("[[access]]\ninline = \"yes\"", "access[0].inline: `yes` is not one of"),
        ("max_runs = 1\nmax_runs = 2", "f.toml:2:1: duplicate key"),
        ("max_runs = ", "f.toml:1:"),
        ("é = \"\n", "f.toml:1:"),
    ];
    for (text, expected) in table {
        let error = parse(text).unwrap_err();
        assert!(error.contains(expected), "{text:?}: {error:?} lacks {expected:?}");
    }
}

#[test]
fn all_errors_come_at_once_in_order() {
    let error = parse("zzz = 1\nmax_runs = 0\n[log]\nformat = 1\n").unwrap_err();
    let places: Vec<_> = error.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["f.toml:1:1", "f.toml:2:12", "f.toml:4:10"]);
}

#[test]
fn defaults_follow_user_and_environment() {
    let config = Config::resolve(None, Overrides::default(), &user()).unwrap();
    assert_eq!(config.socket, Path::new("/tmp/fumehood-1000/fumehood.sock"));
    assert_eq!(
        config.audit.path,
        Path::new("/home/me/.local/state/fumehood/audit.jsonl")
    );
    assert_eq!(config.policy_dirs, [Path::new("/home/me/.config/fumehood/policies")]);
    assert_eq!(config.allowed_uids, [0, 1000]);
    assert_eq!((config.idle_exit, config.audit.required), (None, true));

    let env = EnvFacts {
        runtime_dir: Some("/run/user/1000".into()),
        state_home: Some("/s".into()),
        config_home: Some("/c".into()),
        ..user()
    };
    let config = Config::resolve(None, Overrides::default(), &env).unwrap();
    assert_eq!(config.socket, Path::new("/run/user/1000/fumehood/fumehood.sock"));
    assert_eq!(config.audit.path, Path::new("/s/fumehood/audit.jsonl"));
    assert_eq!(config.policy_dirs, [Path::new("/c/fumehood/policies")]);

    let root = Config::resolve(None, Overrides::default(), &EnvFacts::default()).unwrap();
    assert_eq!(root.audit.path, Path::new("/var/lib/fumehood/audit.jsonl"));
    assert_eq!(root.policy_dirs, [Path::new("/etc/fumehood/policies")]);
    assert_eq!(root.allowed_uids, [0]);

    // Whoever shares a daemon leaves something to the others.
    let mut config = root;
    assert_eq!(config.max_sessions_of_peer(), 64);
    for (uids, all, share) in [
        (&[0, 1000][..], 64, 48),
        (&[0, 1000], 5, 3),
        (&[0, 1000], 1, 1),
        (&[0], 5, 5),
    ] {
        (config.allowed_uids, config.max_sessions) = (uids.to_vec(), all);
        assert_eq!(config.max_sessions_of_peer(), share, "{uids:?} {all}");
    }

    let homeless = EnvFacts { home: None, ..user() };
    let config = Config::resolve(None, Overrides::default(), &homeless).unwrap();
    assert_eq!(config.audit.path, Path::new("/var/tmp/fumehood-1000/audit.jsonl"));
}

#[test]
fn the_command_line_wins_over_the_file_and_the_file_over_the_environment() {
    let text = "socket = \"/file.sock\"\nmax_runs = 2\nidle_exit = \"1m\"\n[log]\nformat = \"json\"\n";
    let env = EnvFacts {
        socket: Some("/env.sock".into()),
        ..user()
    };
    assert_eq!(resolve("", &env).unwrap().socket, Path::new("/env.sock"));
    let config = resolve(text, &env).unwrap();
    assert_eq!((config.socket.to_str(), config.max_runs), (Some("/file.sock"), 2));
    let flags = Overrides {
        socket: Some("/flag.sock".into()),
        max_runs: Some(3),
        auto: true,
        ..Overrides::default()
    };
    let config = Config::resolve(Some(("f".into(), parse(text).unwrap())), flags.clone(), &env).unwrap();
    assert_eq!((config.socket.to_str(), config.max_runs), (Some("/flag.sock"), 3));
    assert_eq!(config.idle_exit, Some(Duration::from_secs(60)));
    assert_eq!(
        Config::resolve(None, flags, &env).unwrap().idle_exit,
        Some(AUTO_IDLE_EXIT)
    );
}

#[test]
fn tcp_without_all_of_tls_is_refused_on_loopback_too() {
    let error = resolve("[tcp]\nlisten = \"127.0.0.1:1\"\ncert = \"/c\"", &user())
        .unwrap_err()
        .to_string();
    assert!(error.contains("set tcp.ca, tcp.key as well"), "{error}");
    let error = resolve("[tcp]\nca = \"/c\"\ncert = \"/c\"\nkey = \"/k\"", &user())
        .unwrap_err()
        .to_string();
    assert!(error.contains("set tcp.listen as well"), "{error}");
}

#[test]
fn values_that_do_not_fit_together_are_refused() {
    let error = |text: &str| resolve(text, &user()).unwrap_err().to_string();
    assert!(error("allowed_uids = []").contains("nobody"));
    assert!(error("keep_bytes = \"2 MiB\"\nmax_keep_bytes = \"1 MiB\"").contains("at most max_keep_bytes"));
    assert_eq!(resolve("max_keep_bytes = \"1 KiB\"", &user()).unwrap().keep_bytes, 1024);
    assert!(error(&format!("socket = \"/{}\"", "x".repeat(107))).contains("108 bytes"));
    let flags = Overrides {
        socket: Some("x.sock".into()),
        ..Overrides::default()
    };
    assert!(matches!(
        Config::resolve(None, flags, &user()),
        Err(ConfigError::Relative { .. })
    ));
}

#[test]
fn a_file_is_read_only_when_it_can_be_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.toml");
    let own = nix::unistd::geteuid().as_raw();
    assert_eq!(read_file(&path, false, own).unwrap(), None);
    assert!(matches!(read_file(&path, true, own), Err(ConfigError::Read { .. })));
    fs::write(&path, "max_runs = 5").unwrap();
    assert_eq!(read_file(&path, true, own).unwrap().unwrap().max_runs, Some(5));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(read_file(&path, true, own), Err(ConfigError::Loose { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, b"a = 1\n\xff").unwrap();
    let error = read_file(&path, true, own).unwrap_err();
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("line 2")
    );
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(read_file(&path, true, own), Err(ConfigError::Read { .. })));
}
