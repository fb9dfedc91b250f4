//! What a policy file may say, and what is said about one that is wrong.

use std::time::Duration;

use fumehood_policies::{
    Home, Network, ParseErrors, PathPattern, Policy, Protection, SyscallProfile, WorkspaceAccess, builtin,
};

const HEAD: &str = "version = 1\nname = \"x\"\n";

fn parse(text: &str) -> Result<Policy, ParseErrors> {
    Policy::parse(text.as_bytes(), "p.toml")
}

fn policy(body: &str) -> Policy {
    parse(&format!("{HEAD}{body}")).unwrap_or_else(|errors| panic!("{errors}"))
}

/// `line:column path` of every error.
fn places(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err(text);
    errors
        .errors()
        .iter()
        .map(|error| format!("{}:{} {}", error.line, error.column, error.path))
        .collect()
}

#[test]
fn every_key_is_read() {
    let policy = policy(
        r#"description = "one line"
        [filesystem]
        workspace = "write"
        home = "copy-on-write"
        read = ["/usr/", "${home}/.cargo"]
        write = ["${workspace}/../x"]
        "#
        .replace("/../", "/./")
        .as_str(),
    );
    assert_eq!(policy.name, "x");
    assert_eq!(policy.description, "one line");
    let filesystem = &policy.filesystem;
    assert_eq!(
        (filesystem.workspace, filesystem.home),
        (WorkspaceAccess::Write, Home::CopyOnWrite)
    );
    assert_eq!(
        filesystem.read,
        [PathPattern::Absolute("/usr".into()), PathPattern::Home(".cargo".into())]
    );
    assert_eq!(filesystem.write, [PathPattern::Workspace("x".into())]);

    let policy = self::policy(
        r#"[filesystem]
        hide = ["/q/shadow", "${home}/.q/"]
        tmp = true
        shm = "1MiB"
        [network]
        mode = "loopback-silent"
        [syscalls]
        profile = "strict"
        [limits]
        wall = "1h"
        idle = "2m"
        cpu-time = "3s"
        grace = "4ms"
        memory = "5GiB"
        processes = 6
        cpus = 7.5
        open-files = { soft = 8, hard = 9 }
        file-size = "10KiB"
        disk = "12KiB"
        files = 13
        output = "11B"
        [environment]
        pass = ["LC_*", "A"]
        never = ["*_Q"]
        set = { B = "b" }
        [protections]
        required = ["resources", "filesystem-view"]
        "#,
    );
    let filesystem = &policy.filesystem;
    for hidden in [
        PathPattern::Absolute("/q/shadow".into()),
        PathPattern::Home(".q".into()),
    ] {
        assert!(filesystem.hide.contains(&hidden));
    }
    assert_eq!((filesystem.tmp, filesystem.shm_bytes), (true, 1 << 20));
    assert_eq!(
        (policy.network, policy.syscalls.profile),
        (Network::LoopbackSilent, SyscallProfile::Strict)
    );
    let limits = policy.limits;
    let secs = |secs| Some(Duration::from_secs(secs));
    assert_eq!(
        (limits.wall, limits.idle, limits.cpu_time),
        (secs(3600), secs(120), secs(3))
    );
    assert_eq!(limits.grace, Duration::from_millis(4));
    assert_eq!(
        (limits.memory_bytes, limits.processes, limits.cpu_millis),
        (Some(5 << 30), Some(6), Some(7500))
    );
    assert_eq!((limits.open_files_soft, limits.open_files_hard), (8, 9));
    assert_eq!((limits.file_bytes, limits.output_bytes), (Some(10240), Some(11)));
    assert_eq!((limits.disk_bytes, limits.files), (Some(12288), Some(13)));
    assert_eq!(policy.environment.pass, ["A", "LC_*"]);
    assert!(policy.environment.never.contains(&"*_Q".to_owned()));
    assert_eq!(policy.environment.set["B"], "b");
    assert!(policy.protections.required.contains(&Protection::Resources));
}

#[test]
fn an_absent_grant_is_the_least_and_an_absent_restriction_is_the_defaults() {
    let (_, default) = builtin("default").unwrap();
    let mut policy = policy("");
    assert_eq!(policy.filesystem.workspace, WorkspaceAccess::Read);
    assert_eq!(policy.filesystem.home, Home::Empty);
    assert!(policy.filesystem.read.is_empty() && policy.filesystem.write.is_empty() && !policy.filesystem.tmp);
    assert!(policy.environment.pass.is_empty() && policy.environment.set.is_empty());
    assert_eq!(policy.network, Network::Loopback);

    assert_eq!(policy.limits, default.limits);
    assert_eq!(policy.filesystem.shm_bytes, default.filesystem.shm_bytes);
    assert_eq!(policy.filesystem.hide, default.filesystem.hide);
    assert_eq!(policy.tools, default.tools);
    assert_eq!(policy.approvals, default.approvals);
    assert_eq!(policy.environment.never, default.environment.never);
    assert_eq!(policy.protections, default.protections);

    // What is said is what holds, also when it is nothing.
    policy = self::policy(
        "[filesystem]\nhide = []\n[environment]\nnever = []\n[protections]\nrequired = []\n[limits]\nwall = \"unlimited\"\n",
    );
    assert!(policy.filesystem.hide.is_empty());
    assert!(policy.environment.never.is_empty() && policy.protections.required.is_empty());
    assert_eq!(policy.limits.wall, None);
    assert_eq!(policy.limits.memory_bytes, default.limits.memory_bytes);
}

#[test]
fn every_error_is_reported_at_its_place() {
    // text after the head (which is two lines), place and path, part of the message, part of the help
    let table: &[(&str, &str, &str, &str)] = &[
        // Keys
        (
            "[filesystm]\n",
            "3:2 filesystm",
            "unknown key",
            "did you mean `filesystem`?",
        ),
        (
            "[limits]\nwal = \"1m\"\n",
            "4:1 limits.wal",
            "unknown key",
            "did you mean `wall`?",
        ),
        (
            "[limits]\ncpu_time = \"1m\"\n",
            "4:1 limits.cpu_time",
            "unknown key",
            "did you mean `cpu-time`?",
        ),
        (
            "memory = \"1GiB\"\n",
            "3:1 memory",
            "unknown key",
            "`memory` belongs below `[limits]`",
        ),
        (
            "[network]\nhide = []\n",
            "4:1 network.hide",
            "unknown key",
            "`hide` belongs below `[filesystem]`",
        ),
        (
            "[network]\nname = \"x\"\n",
            "4:1 network.name",
            "unknown key",
            "`name` belongs at the top",
        ),
        (
            "[network]\nzzzzzz = 1\n",
            "4:1 network.zzzzzz",
            "unknown key",
            "the keys here are mode",
        ),
        ("limits.wal = \"1m\"\n", "3:8 limits.wal", "unknown key", "`wall`"),
        ("\"a\\nb\" = 1\n", "3:1 a\u{fffd}b", "unknown key", "the keys here are"),
        (
            "limits = { open-files = { sofd = 1, soft = 1, hard = 2 } }\n",
            "3:27 limits.open-files.sofd",
            "unknown key",
            "`soft`",
        ),
        // Types
        (
            "filesystem = 3\n",
            "3:14 filesystem",
            "expected a table, found an integer",
            "[filesystem]",
        ),
        (
            "[[limits]]\n",
            "3:1 limits",
            "expected a table, found an array",
            "[limits]",
        ),
        (
            "description = 3\n",
            "3:15 description",
            "expected a string, found an integer",
            "quotes",
        ),
        (
            "[filesystem]\ntmp = \"yes\"\n",
            "4:7 filesystem.tmp",
            "expected true or false, found a string",
            "true or false",
        ),
        (
            "[filesystem]\nread = \"/usr\"\n",
            "4:8 filesystem.read",
            "expected a list of strings, found a string",
            "read = [",
        ),
        (
            "[filesystem]\nread = [\"/usr\", 7]\n",
            "4:17 filesystem.read[1]",
            "expected a string, found an integer",
            "quotes",
        ),
        (
            "[limits]\nwall = 600\n",
            "4:8 limits.wall",
            "expected a duration, found an integer",
            "\"10m\"",
        ),
        (
            "[limits]\nmemory = 1e400\n",
            "4:10 limits.memory",
            "expected a size, found a float",
            "\"4GiB\"",
        ),
        (
            "[limits]\nprocesses = nan\n",
            "4:13 limits.processes",
            "expected a whole number, found a float",
            "2048",
        ),
        (
            "[limits]\ncpus = nan\n",
            "4:8 limits.cpus",
            "not a possible number",
            "from 0.01",
        ),
        (
            "[limits]\nopen-files = 4096\n",
            "4:14 limits.open-files",
            "expected a table",
            "soft = 4096",
        ),
        (
            "[environment]\nset = []\n",
            "4:7 environment.set",
            "expected a table",
            "[environment.set]",
        ),
        (
            "[environment.set]\nA = 1\n",
            "4:5 environment.set.A",
            "expected a string, found an integer",
            "quotes",
        ),
        // Values
        (
            "description = \"a\\nb\"\n",
            "3:15 description",
            "line break",
            "one line",
        ),
        (
            "[filesystem]\nworkspace = \"wirte\"\n",
            "4:13 filesystem.workspace",
            "`wirte`",
            "did you mean `write`?",
        ),
        (
            "[filesystem]\nhome = \"overlay\"\n",
            "4:8 filesystem.home",
            "`overlay`",
            "\"empty\" or \"copy-on-write\"",
        ),
        (
            "[network]\nmode = \"host\"\n",
            "4:8 network.mode",
            "`host`",
            "\"host-without-isolation\"",
        ),
        (
            "[network]\nmode = \"host-without-isolation\"\n",
            "4:8 network.mode",
            "gives it up",
            "without \"network\"",
        ),
        (
            "[network]\ntcp-connect = [443]\n",
            "4:15 network.tcp-connect",
            "only chosen",
            "host-without-isolation",
        ),
        (
            "[network]\nmode = \"host-without-isolation\"\ntcp-bind = [0]\n[protections]\nrequired = []\n",
            "5:13 network.tcp-bind[0]",
            "0",
            "1 to 65535",
        ),
        (
            "[syscalls]\nprofile = \"dev\"\n",
            "4:11 syscalls.profile",
            "`dev`",
            "\"strict\" or \"default\"",
        ),
        (
            "[filesystem]\nread = [\"~/x\"]\n",
            "4:9 filesystem.read[0]",
            "`~/x` is not expanded",
            "\"${home}/x\"",
        ),
        (
            "[filesystem]\nhide-in-home = [\".ssh\"]\n",
            "4:1 filesystem.hide-in-home",
            "unknown key",
            "in `hide`, each beginning with",
        ),
        (
            "tools = [\"shel\"]\n",
            "3:10 tools[0]",
            "not possible",
            "did you mean `shell`?",
        ),
        (
            "extends = [\"/etc/x.toml\"]\n",
            "3:12 extends[0]",
            "neither a name",
            "./base.toml",
        ),
        (
            "extends = [\"nobody\"]\n",
            "3:12 extends[0]",
            "no built-in policy",
            "default, git",
        ),
        (
            "[filesystem]\nwrite = [\"${tmp}/x\"]\n",
            "4:10 filesystem.write[0]",
            "not possible here",
            "tmp = true",
        ),
        (
            "[syscalls]\nallow = [\"SYS_ptrace\"]\n",
            "4:10 syscalls.allow[0]",
            "there is no system call `SYS_ptrace`",
            "ptrace",
        ),
        (
            "[approvals]\nwait = \"0s\"\n",
            "4:8 approvals.wait",
            "zero is not possible",
            "a duration such as",
        ),
        (
            "[[tests]]\nread = \"/x\"\n",
            "3:1 tests[0].expect",
            "missing",
            "expect = ",
        ),
        (
            "[[tests]]\nread = \"/x\"\nwrite = \"/y\"\nexpect = \"deny\"\n",
            "3:1 tests[0]",
            "more than one",
            "write one of",
        ),
        (
            "[[tests]]\nhost = \"example.org\"\nexpect = \"deny\"\n",
            "4:8 tests[0].host",
            "not a host and a port",
            "example.org:443",
        ),
        (
            "[filesystem]\nshm = \"0B\"\n",
            "4:7 filesystem.shm",
            "zero is not possible",
            "4GiB",
        ),
        (
            "[limits]\nwall = \"0s\"\n",
            "4:8 limits.wall",
            "zero is not unlimited",
            "\"unlimited\"",
        ),
        (
            "[limits]\nprocesses = 0\n",
            "4:13 limits.processes",
            "zero is not unlimited",
            "\"unlimited\"",
        ),
        (
            "[limits]\ngrace = \"unlimited\"\n",
            "4:9 limits.grace",
            "not possible here",
            "write a duration",
        ),
        (
            "[limits]\nopen-files = { soft = 9, hard = 8 }\n",
            "4:14 limits.open-files",
            "soft limit 9 is above",
            "hard",
        ),
        (
            "[limits]\nopen-files = { soft = 9 }\n",
            "4:14 limits.open-files.hard",
            "missing",
            "hard = ",
        ),
        (
            "[environment]\npass = [\"A*B\"]\n",
            "4:9 environment.pass[0]",
            "`*` inside `A*B`",
            "\"LC_*\"",
        ),
        (
            "[environment]\nnever = [\"**\"]\n",
            "4:10 environment.never[0]",
            "has no name",
            "*_TOKEN",
        ),
        (
            "[environment.set]\n\"A-B\" = \"x\"\n",
            "4:1 environment.set.A-B",
            "not the name",
            "letters",
        ),
        (
            "[environment.set]\nA = \"\\u0000\"\n",
            "4:5 environment.set.A",
            "NUL",
            "without it",
        ),
        (
            "[protections]\nrequired = [\"netwrok\"]\n",
            "4:13 protections.required[0]",
            "`netwrok`",
            "did you mean `network`?",
        ),
        // Twice and contradictory
        (
            "[filesystem]\nread = [\"/a\", \"/b\", \"/a/\"]\n",
            "4:21 filesystem.read[2]",
            "same as filesystem.read[0]",
            "remove",
        ),
        (
            "[environment]\nnever = [\"A\", \"A\"]\n",
            "4:15 environment.never[1]",
            "listed twice",
            "remove",
        ),
        (
            "[protections]\nrequired = [\"ipc\", \"ipc\"]\n",
            "4:20 protections.required[1]",
            "listed twice",
            "remove",
        ),
        (
            "[filesystem]\nread = [\"/a\"]\nwrite = [\"/a\"]\n",
            "5:10 filesystem.write[0]",
            "filesystem.read[0]",
            "includes reading",
        ),
        (
            "[filesystem]\nread = [\"/a\"]\nhide = [\"/a\"]\n",
            "5:9 filesystem.hide[0]",
            "filesystem.read[0]",
            "either",
        ),
        (
            "[filesystem]\nwrite = [\"/a\"]\nhide = [\"/a\"]\n",
            "5:9 filesystem.hide[0]",
            "filesystem.write[0]",
            "either",
        ),
        // Columns are characters
        (
            "[environment.set]\nA = \"ü\"\nB = 1 # ü\n",
            "5:5 environment.set.B",
            "expected a string",
            "quotes",
        ),
        (
            "environment = { set = { A = \"äöü\", B = 1 } }\n",
            "3:40 environment.set.B",
            "expected a string",
            "quotes",
        ),
    ];
    for (body, place, message, help) in table {
        let text = format!("{HEAD}{body}");
        assert_eq!(places(&text), [*place], "{body}");
        let errors = parse(&text).unwrap_err();
        let error = &errors.errors()[0];
        assert!(error.message.contains(message), "{body}: {}", error.message);
        let shown = error.help.clone().unwrap_or_default();
        assert!(shown.contains(help), "{body}: {shown}");
        assert_eq!(
            error.line_text,
            text.lines().nth(error.line as usize - 1).unwrap(),
            "{body}"
        );
    }
}

#[test]
fn what_every_policy_states_is_version_and_name() {
    assert_eq!(places(""), ["1:1 version", "1:1 name"]);
    assert_eq!(places("version = 1\n"), ["1:1 name"]);
    assert_eq!(places("name = \"x\"\n"), ["1:1 version"]);
    for name in ["\"\"", "\"A\"", "\"a b\"", "\"ä\"", "\"../x\"", "\"a_b\"", "3", "[]"] {
        assert_eq!(places(&format!("version = 1\nname = {name}\n")), ["2:8 name"], "{name}");
    }
    let longest = "a".repeat(64);
    assert_eq!(
        parse(&format!("version = 1\nname = \"{longest}\"")).unwrap().name,
        longest
    );
    assert_eq!(places(&format!("version = 1\nname = \"{longest}a\"")), ["2:8 name"]);
}

#[test]
fn of_another_version_nothing_else_is_said() {
    for version in ["2", "0", "-1", "\"1\"", "1.0", "99999999999999999999999", "[1]"] {
        assert_eq!(
            places(&format!("version = {version}\nname = 3\nwal = 7\n")),
            ["1:11 version"],
            "{version}"
        );
    }
    let message = &parse("version = 2").unwrap_err().errors()[0].message.clone();
    assert_eq!(message, "version 2 is not understood by this program");
}

#[test]
fn all_errors_come_at_once_and_in_order() {
    let text = format!(
        "{HEAD}wal = 1\n[protections]\nrequired = [\"x\", 3]\n[filesystem]\nread = [\"..\", \"/a\", \"/a\"]\nhome = 7\n[limits]\nwall = \"0s\"\n"
    );
    let expected = [
        "3:1 wal",
        "5:13 protections.required[0]",
        "5:18 protections.required[1]",
        "7:9 filesystem.read[0]",
        "7:21 filesystem.read[2]",
        "8:8 filesystem.home",
        "10:8 limits.wall",
    ];
    assert_eq!(places(&text), expected);
    let shown = parse(&text).unwrap_err().to_string();
    assert!(
        shown.starts_with("p.toml:3:1: wal: unknown key\n3 | wal = 1\n  | ^\nhelp: "),
        "{shown}"
    );
    assert!(
        shown.contains("\n\np.toml:10:8: limits.wall: zero is not unlimited\n10 | wall = \"0s\"\n   |        ^\n"),
        "{shown}"
    );
}

#[test]
fn what_is_not_toml_is_placed() {
    for (text, place) in [
        ("version = \n", "1:11 "),
        ("version = 1\nname = \"x\n", "2:10 "),
        ("version = 1\nversion = 1\n", "2:1 "),
        ("[a]\n[a]\n", "2:2 "),
        ("a = 1\r b = 2", "1:7 "),
        ("ü = 1", "1:1 "),
        ("version = 1 # ä\nname = ä", "2:8 "),
        ("a = \"\x1b[31m\"", "1:6 "),
    ] {
        assert_eq!(places(text), [place], "{text}");
    }
    let errors = parse("a = \"\x1b[31m\"").unwrap_err();
    assert!(!errors.to_string().contains('\x1b'));
}

#[test]
fn what_is_not_utf_8_is_placed() {
    let errors = Policy::parse(b"version = 1\nname = \"\xc3\xa4\xff\"\n", "p.toml").unwrap_err();
    let error = &errors.errors()[0];
    assert_eq!((error.line, error.column, error.message.as_str()), (2, 10, "not UTF-8"));
    assert_eq!(error.line_text, "name = \"ä\u{fffd}\"");
    // A file cut inside a character.
    let errors = Policy::parse(b"a = \xc3", "p.toml").unwrap_err();
    assert_eq!((errors.errors()[0].line, errors.errors()[0].column), (1, 5));
}

#[test]
fn a_byte_order_mark_and_carriage_returns_do_no_harm() {
    let text = format!("\u{feff}{HEAD}description = \"d\"\n").replace('\n', "\r\n");
    assert_eq!(parse(&text).unwrap().description, "d");
    assert_eq!(places("\u{feff}version = 7\r\n"), ["1:11 version"]);
}

#[test]
fn what_is_too_large_or_too_deep_is_an_error() {
    let mut text = format!("{HEAD}#");
    text.push_str(&" ".repeat((1 << 20) - text.len()));
    assert!(parse(&text).is_ok());
    text.push(' ');
    let errors = parse(&text).unwrap_err();
    assert!(
        errors
            .to_string()
            .contains("the file has 1048577 bytes, more than 1048576"),
        "{errors}"
    );

    for text in [
        format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("a = {}", "{a=".repeat(100_000)),
        format!("a = {}", "[".repeat(100_000)),
        format!("{}a = 1", "a.".repeat(100_000)),
        format!("[{}a]", "a.".repeat(100_000)),
    ] {
        let errors = parse(&text).unwrap_err();
        assert!(
            errors.to_string().contains("nested too deeply"),
            "{}",
            &errors.to_string()[..200]
        );
    }

    let list = |count: usize| {
        let paths: Vec<_> = (0..count).map(|n| format!("\"/{n}\"")).collect();
        format!("{HEAD}[filesystem]\nread = [{}]\n", paths.join(","))
    };
    assert_eq!(parse(&list(1024)).unwrap().filesystem.read.len(), 1024);
    assert_eq!(places(&list(1025)), ["4:8 filesystem.read"]);
}

#[test]
fn a_file_of_nothing_but_errors_is_answered_soon_and_shortly() {
    let keys: String = (0..80_000).map(|n| format!("key{n}=1\n")).collect();
    let errors = parse(&format!("{HEAD}{keys}")).unwrap_err();
    assert_eq!((errors.errors().len(), errors.omitted()), (100, 79_900));

    // One line of a megabyte: what is kept of it for each error is bounded.
    let set: Vec<_> = (0..1000).map(|n| format!("K{n} = {}", "1".repeat(900))).collect();
    let errors = parse(&format!("{HEAD}environment = {{ set = {{ {} }} }}\n", set.join(", "))).unwrap_err();
    assert_eq!(errors.errors().len(), 100);
    assert!(errors.to_string().len() < 100_000);
    assert!(
        errors
            .errors()
            .iter()
            .all(|error| error.line_text.chars().count() <= 162)
    );
}
