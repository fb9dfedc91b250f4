//! A daemon that is started because somebody needs one, and goes away when nobody does.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use fumehood_tests::{House, Who, eventually, is_root};

use super::builder;

/// A place without a daemon, for whoever runs the tests and for an ordinary user.
fn for_both(config: &str, check: impl Fn(&House)) {
    for who in [Who::Me, Who::Ordinary].into_iter().take(if is_root() { 2 } else { 1 }) {
        let house = builder().who(who).config(config).not_started().build();
        check(&house);
        house.end();
    }
}

#[test]
fn a_daemon_is_started_when_there_is_none() {
    for_both("", |house| {
        let ended = house.sh("echo hello");
        ended.expect(0);
        assert_eq!((ended.out().as_str(), ended.err().as_str()), ("hello\n", ""));
        assert_eq!(house.started_by_others().len(), 1);
    });
}

#[test]
fn eight_programs_at_once_end_with_one_daemon() {
    for_both("", |house| {
        let runs: Vec<_> = (0..8)
            .map(|n| house.run_with(&[], &["echo", &n.to_string()]).start())
            .collect();
        for (n, run) in runs.into_iter().enumerate() {
            let ended = run.finish();
            ended.expect(0);
            assert_eq!(ended.out(), format!("{n}\n"));
        }
        assert_eq!(house.started_by_others().len(), 1, "{:?}", house.started_by_others());
    });
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    for_both("", |house| {
        fs::set_permissions(house.path("run"), Permissions::from_mode(0o777)).unwrap();
        let ended = house.run(&["true"]);
        ended.expect(125);
        assert!(
            ended.err().contains("0777") && ended.err().contains("chmod"),
            "{}",
            ended.err()
        );
        assert!(house.started_by_others().is_empty());
    });
}

#[test]
fn the_runtime_directory_is_used_when_nothing_else_is_said() {
    let house = builder().not_started().build();
    let ended = house
        .cli()
        .env("FUMEHOOD_SOCKET", "")
        .env("XDG_RUNTIME_DIR", house.path("run"))
        .args(["run", "--", "true"])
        .finish();
    ended.expect(0);
    let socket = house.path("run/fumehood/fumehood.sock");
    assert!(socket.exists());
    assert_eq!(
        fs::metadata(house.path("run/fumehood")).unwrap().permissions().mode() & 0o7777,
        0o700
    );
    let pid: i32 = fs::read_to_string(socket.with_extension("lock"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let daemon = fumehood_tests::process(pid).unwrap();
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    eventually(Duration::from_secs(10), "the daemon's end", || {
        (!daemon.lives()).then_some(())
    });
}

#[test]
fn a_daemon_that_was_started_so_leaves_its_starters_secrets_behind() {
    let house = builder().not_started().build();
    house
        .cli()
        .env("SOME_TOKEN", "hunter2")
        .args(["run", "--", "true"])
        .finish()
        .expect(0);
    let daemon = house.started_by_others().remove(0);
    match fs::read(format!("/proc/{}/environ", daemon.pid)) {
        Ok(environ) => assert!(!String::from_utf8_lossy(&environ).contains("hunter2")),
        // Nobody but root looks into a daemon at all.
        Err(error) => assert!(!fumehood_tests::is_root(), "{error}"),
    }
    // What it started for its launchers can be looked into by its user.
    for process in fumehood_tests::descent(daemon.pid)
        .iter()
        .filter(|process| process.comm == "fumehood-launch")
    {
        let environ = fs::read(format!("/proc/{}/environ", process.pid)).unwrap();
        assert!(environ.is_empty(), "{}", String::from_utf8_lossy(&environ));
    }
}

#[test]
fn an_idle_daemon_ends() {
    for who in [Who::Me, Who::Ordinary] {
        let mut house = builder().who(who).arg("--idle-exit").arg("1").build();
        house.sh("exit 0").expect(0);
        assert!(house.wait_for_end().success());
        assert!(!house.socket().exists());
        house.end();
    }
}

#[test]
fn a_socket_that_was_named_and_is_not_there_is_named() {
    for_both("", |house| {
        let file = house.write("file", "x");
        let program = |arguments: &[&str]| house.cli().args(arguments).finish();
        let ended = program(&["ps", "--socket", "/nowhere/x.sock"]);
        ended.expect(1);
        assert!(ended.err().contains("/nowhere/x.sock"), "{}", ended.err());
        let ended = program(&["ps", "--socket", file.to_str().unwrap()]);
        assert!(
            ended.code() == 125 && ended.err().contains("file is no socket"),
            "{}",
            ended.err()
        );
        let ended = program(&["run", "--no-start", "--socket", "/nowhere/x.sock", "--", "true"]);
        ended.expect(125);
        assert!(ended.err().contains("/nowhere/x.sock"), "{}", ended.err());
    });
}

#[test]
fn who_forbids_to_start_one_is_told_that_there_is_none() {
    for_both("", |house| {
        let nowhere = house.path("no.sock");
        let program = |arguments: &[&str]| {
            house
                .cli()
                .env("FUMEHOOD_SOCKET", nowhere.to_str().unwrap())
                .args(arguments)
                .finish()
        };
        for arguments in [&["version"][..], &["ps"], &["session", "ls"]] {
            program(arguments).expect(0);
            let ended = program(&[arguments, &["--no-start"]].concat());
            assert!(
                ended.code() == 1 || ended.code() == 125,
                "{arguments:?}: {}",
                ended.code()
            );
            let told = ended.out() + &ended.err();
            assert!(told.contains("no.sock"), "{arguments:?}: {told}");
        }
        assert!(!nowhere.exists());
    });
}
