//! `fumehood run`: exit codes, streams, input, output, options.

use std::process::{Command, Stdio};

use fumehood_tests::eventually;
use serde_json::Value;

use super::{for_both, house};

/// As sha256sum(1) says it.
fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..64].to_owned()
}

#[test]
fn the_commands_exit_code_is_passed_on() {
    for_both(|house| {
        for code in [
            0, 1, 2, 3, 42, 99, 100, 124, 125, 126, 127, 128, 130, 137, 192, 254, 255,
        ] {
            house.sh(&format!("exit {code}")).expect(code);
        }
    });
}

#[test]
fn death_by_signal_n_is_exit_code_128_plus_n() {
    for_both(|house| {
        for (signal, number) in [
            ("HUP", 1),
            ("INT", 2),
            ("ABRT", 6),
            ("KILL", 9),
            ("SEGV", 11),
            ("TERM", 15),
        ] {
            house.sh(&format!("kill -{signal} $$")).expect(128 + number);
        }
    });
}

#[test]
fn a_command_that_is_missing_is_127_and_named() {
    for_both(|house| {
        let ended = house.run(&["no-such-program", "x"]);
        ended.expect(127);
        assert_eq!(ended.err(), "fumehood: no-such-program: command not found\n");
        let ended = house.run(&["./missing"]);
        ended.expect(127);
        assert!(ended.err().contains("./missing"), "{}", ended.err());
    });
}

#[test]
fn a_command_that_cannot_be_executed_is_126_and_named() {
    for_both(|house| {
        house.write("work/plain", "no program");
        let ended = house.run(&["./plain"]);
        ended.expect(126);
        assert!(
            ended.err().contains("plain") && ended.err().contains("EACCES"),
            "{}",
            ended.err()
        );
        house.run(&["/etc"]).expect(126);
    });
}

#[test]
fn what_fumehood_cannot_do_is_125_with_the_reason() {
    let house = house();
    let ended = house.run_with(&["--policy", "no-such-policy"], &["true"]).finish();
    ended.expect(125);
    assert!(
        ended.err().contains("no-such-policy") && ended.err().contains("default"),
        "{}",
        ended.err()
    );
    house
        .cli()
        .args(["run", "--no-such-option", "true"])
        .finish()
        .expect(125);
    let ended = house
        .run_with(&["--workspace", "/no/such/directory"], &["true"])
        .finish();
    ended.expect(125);
    assert!(ended.err().contains("/no/such/directory"), "{}", ended.err());
    let nowhere = house.path("run/nobody.sock");
    let ended = house
        .cli()
        .env("FUMEHOOD_SOCKET", nowhere)
        .args(["run", "--no-start", "--", "true"])
        .finish();
    ended.expect(125);
    assert!(ended.err().contains("no daemon"), "{}", ended.err());
}

#[test]
fn output_goes_to_the_stream_the_command_wrote_it_to() {
    for_both(|house| {
        let ended = house.sh("echo out; echo err >&2; printf 'no newline'");
        ended.expect(0);
        assert_eq!(
            (ended.out().as_str(), ended.err().as_str()),
            ("out\nno newline", "err\n")
        );
    });
}

#[test]
fn input_reaches_the_command_to_the_last_of_ten_million_binary_bytes() {
    for_both(|house| {
        let bytes: Vec<u8> = (0..10_000_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let ended = house.run_with(&[], &["sha256sum"]).input(bytes.clone()).finish();
        ended.expect(0);
        assert_eq!(ended.out()[..64], sha256(&bytes));
    });
}

#[test]
fn end_of_input_reaches_the_command() {
    for_both(|house| {
        let ended = house
            .run_with(&[], &["sh", "-c", "cat; echo end"])
            .input("text\n")
            .finish();
        ended.expect(0);
        assert_eq!(ended.out(), "text\nend\n");
        house
            .run_with(&["--no-stdin"], &["sh", "-c", "! read x"])
            .input("text\n")
            .finish()
            .expect(0);
    });
}

#[test]
fn a_command_that_reads_nothing_of_its_input_ends_all_the_same() {
    let house = house();
    house
        .run_with(&[], &["true"])
        .input(vec![7; 3_000_000])
        .finish()
        .expect(0);
}

#[test]
fn pipelines_work() {
    for_both(|house| {
        let ended = house.sh("seq 1 1000 | grep 7 | wc -l | tr -d ' '");
        ended.expect(0);
        assert_eq!(ended.out(), "271\n");
    });
}

#[test]
fn arguments_reach_the_command_as_they_are() {
    let house = house();
    let ended = house.run(&["printf", "%s|", "a b", "", "--json", "$HOME", "'", "\n"]);
    ended.expect(0);
    assert_eq!(ended.out(), "a b||--json|$HOME|'|\n|");
}

#[test]
fn two_hundred_megabytes_arrive_whole_while_the_daemon_stays_small() {
    const BYTES: usize = 200_000_000;
    const GENERATE: &str = "yes 'a line of output that is not too short' | head -c 200000000";
    let house = house();
    let expected = Command::new("sh")
        .args(["-c", &format!("{GENERATE} | sha256sum")])
        .output()
        .unwrap()
        .stdout;
    let mut run = house.run_with(&[], &["sh", "-c", GENERATE]).start_into(Stdio::piped());
    let sum = Command::new("sha256sum")
        .stdin(run.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sum = sum.wait_with_output().unwrap();
    assert!(run.wait().unwrap().success());
    assert_eq!(sum.stdout, expected, "{BYTES} bytes arrive as they were written");
    let status = std::fs::read_to_string(format!("/proc/{}/status", house.daemon().pid)).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak_kib < 100 * 1024, "the daemon's memory is bounded: {peak}");
}

#[test]
fn a_command_that_leaves_a_process_in_the_background_ends_at_once_and_the_process_is_listed_and_killed() {
    for_both(|house| {
        // The process holds both pipes: waiting for their end would take for ever.
        let ended = house.sh("sleep 86400 & until grep -q sleep /proc/$!/comm; do :; done; echo started");
        ended.expect(0);
        assert_eq!(ended.out(), "started\n");
        assert!(
            ended.err().contains("1 background process was still there"),
            "{}",
            ended.err()
        );
        assert!(ended.err().contains("sleep"), "{}", ended.err());
        let sandbox = house.workspace();
        eventually(
            std::time::Duration::from_secs(5),
            "the end of the process in the background",
            || {
                let left = fumehood_tests::holding(&sandbox);
                left.iter().all(|process| process.comm != "sleep").then_some(())
            },
        );
    });
}

#[test]
fn json_events_come_in_order_and_numbered_without_holes() {
    for_both(|house| {
        let ended = house
            .run_with(&["--json"], &["sh", "-c", "echo one; echo two >&2; exit 3"])
            .finish();
        ended.expect(3);
        let events = ended.json();
        let numbers: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
        let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(
            (kinds[0], kinds[1], *kinds.last().unwrap()),
            ("accepted", "started", "finished"),
            "{kinds:?}"
        );
        let all = |stream: &str| -> String {
            let of = events
                .iter()
                .filter(|event| event["type"] == "output" && event["stream"] == stream);
            of.map(|event| event["data"].as_str().unwrap()).collect()
        };
        assert_eq!((all("stdout"), all("stderr")), ("one\n".to_owned(), "two\n".to_owned()));
        let last = events.last().unwrap();
        assert_eq!(
            (&last["ending"]["kind"], &last["ending"]["code"]),
            (&Value::from("exited"), &Value::from(3))
        );
    });
}

#[test]
fn the_timeout_ends_the_command_with_124_and_what_it_wrote() {
    for_both(|house| {
        let ended = house
            .run_with(&["--timeout", "300ms"], &["sh", "-c", "echo before; sleep 86400"])
            .finish();
        ended.expect(124);
        assert_eq!(ended.out(), "before\n");
        assert!(ended.err().contains("time limit"), "{}", ended.err());
    });
}

#[test]
fn the_working_directory_is_the_one_that_was_asked_for() {
    for_both(|house| {
        let below = house.make_directory("work/below", 0o755);
        let print = |options: &[&str]| house.run_with(options, &["pwd"]).finish().out();
        let (below, work) = (
            format!("{}\n", below.display()),
            format!("{}\n", house.workspace().display()),
        );
        assert_eq!(print(&[]), work);
        assert_eq!(print(&["--cwd", "below"]), below);
        assert_eq!(print(&["--cwd", below.trim()]), below);
        let other = house.make_directory("other", 0o755);
        assert_eq!(
            print(&["--workspace", other.to_str().unwrap()]),
            format!("{}\n", other.display())
        );
        let ended = house.run_with(&["--cwd", "nowhere"], &["pwd"]).finish();
        assert!(
            ended.code() != 0 && ended.err().contains("nowhere"),
            "{}: {}",
            ended.code(),
            ended.err()
        );
    });
}

#[test]
fn variables_are_set_or_passed_on_when_asked_for() {
    for_both(|house| {
        let ended = house
            .run_with(
                &["-e", "A=one two", "-e", "PASSED"],
                &["sh", "-c", "echo \"$A $PASSED ${ABSENT-unset}\""],
            )
            .env("ABSENT", "four")
            .env("PASSED", "three")
            .finish();
        ended.expect(0);
        assert_eq!(ended.out(), "one two three unset\n");
        let ended = house.run_with(&["-e", "NOWHERE"], &["true"]).finish();
        ended.expect(125);
        assert!(ended.err().contains("NOWHERE"), "{}", ended.err());
    });
}

#[test]
fn a_policy_is_chosen_by_name_or_by_file() {
    for_both(|house| {
        let touch = |policy: &str| house.run_with(&["--policy", policy], &["touch", "made"]).finish();
        let ended = touch("locked");
        assert!(
            ended.code() != 0 && ended.err().contains("Read-only"),
            "{}",
            ended.err()
        );
        assert!(!house.workspace().join("made").exists());
        house.write("work/mine.toml", "version = 1\nname = \"mine\"\n[filesystem]\nworkspace = \"write\"\nexecute = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\"]\n");
        touch("mine.toml").expect(0);
        assert!(house.workspace().join("made").exists());
    });
}

#[test]
fn a_wrong_policy_file_is_named_with_line_and_column() {
    for_both(|house| {
        house.write(
            "work/wrong.toml",
            "version = 1\nname = \"wrong\"\n\n[limits]\n  wal = \"1h\"\nwall = \"soon\"\n",
        );
        let ended = house.run_with(&["--policy", "wrong.toml"], &["true"]).finish();
        ended.expect(125);
        assert!(ended.err().contains("wrong.toml:5:3:"), "{}", ended.err());
        assert!(ended.err().contains("wrong.toml:6:8:"), "{}", ended.err());
    });
}

#[test]
fn verbose_tells_how_it_ended_and_what_was_enforced() {
    let house = house();
    let ended = house.run_with(&["--verbose"], &["true"]).finish();
    ended.expect(0);
    for word in ["default", "network", "wall"] {
        assert!(ended.err().contains(word), "{word}: {}", ended.err());
    }
}

#[test]
fn git_does_its_work() {
    for_both(|house| {
        let script = "git init -q . && git config user.email t@example.org && git config user.name t && echo x > file && \
                      git add file && git commit -qm one && git status --porcelain && git log --format=%s";
        let ended = house.sh(script);
        ended.expect(0);
        assert_eq!(ended.out(), "one\n");
        let owner = std::os::unix::fs::MetadataExt::uid(&house.workspace().join("file").metadata().unwrap());
        assert_eq!(owner, house.uid());
    });
}
