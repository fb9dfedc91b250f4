//! A run and those who follow it: left to itself, found again by others of the same user, continued, ended and forgotten.

use std::time::Duration;

use bytes::Bytes;
use fumehood_client::proto::v1::{
    FlowControl, InputMode, OnDisconnect, OutputLayout, RunState, SignalScope, run_event::Event,
};
use fumehood_client::{Client, Command, Error, LostOutput, Piece, Position, Reconnect};
use fumehood_tests::{DEADLINE, House, eventually, within};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{for_both, house};

/// Starts a run that nobody follows; gives its id.
fn detached(house: &House, options: &[&str], script: &str) -> String {
    let all: Vec<&str> = ["--detach"].iter().chain(options).copied().collect();
    let ended = house.run_with(&all, &["sh", "-c", script]).finish();
    ended.expect(0);
    ended.out().trim().to_owned()
}

#[test]
fn a_detached_run_is_listed_followed_waited_for_and_forgotten_by_others() {
    for_both(|house| {
        let id = detached(
            house,
            &[],
            "echo out; echo err >&2; until test -e go; do sleep 0.02; done; echo gone; exit 7",
        );
        let listed = house.cli().args(["ps"]).finish();
        assert!(listed.expect(0).out().contains(&id), "{}", listed.out());
        let listed = house.cli().args(["ps", "--json"]).finish().json();
        assert_eq!(
            (listed[0]["run_id"].as_str(), listed[0]["state"].as_str()),
            (Some(id.as_str()), Some("running"))
        );

        // What was written so far, each stream where it belongs.
        let end = &id[id.len() - 10..];
        let logs = eventually(DEADLINE, "both lines", || {
            let logs = house.cli().args(["logs", end]).finish();
            logs.expect(0);
            (!logs.stdout.is_empty() && !logs.stderr.is_empty()).then_some(logs)
        });
        assert_eq!((logs.out().as_str(), logs.err().as_str()), ("out\n", "err\n"));
        let events = house.cli().args(["logs", "--json", end]).finish().json();
        assert_eq!(events[0]["type"], "accepted");

        let mut follows = house.cli().args(["logs", "--follow", end]).start();
        follows.wait_for("out\n");
        let mut attached = house.cli().args(["attach", "--from-start", end]).start();
        attached.wait_for("out\n");
        let waits = house.cli().args(["wait", end]).start();
        let refused = house.cli().args(["rm", end]).finish();
        assert!(refused.expect(1).err().contains("--force"), "{}", refused.err());
        house.write("work/go", "");
        let (follows, attached, waits) = (follows.finish(), attached.finish(), waits.finish());
        assert_eq!(follows.expect(0).out(), "out\ngone\n");
        assert_eq!(attached.expect(7).out(), "out\ngone\n");
        assert_eq!(waits.expect(7).out(), format!("{id}: exited 7\n"));

        // It is over, and can be looked at all the same.
        house.cli().args(["attach", "-q", &id]).finish().expect(7);
        assert_eq!(
            house.cli().args(["logs", "--tail", "1", &id]).finish().expect(0).err(),
            ""
        );
        let all = house.cli().args(["ps", "-a"]).finish();
        assert!(all.out().contains("exited 7"), "{}", all.out());
        assert_eq!(
            house.cli().args(["rm", end]).finish().expect(0).out(),
            format!("{id}\n")
        );
        let gone = house.cli().args(["logs", &id]).finish();
        assert!(gone.expect(125).err().contains("no run has"), "{}", gone.err());
        std::fs::remove_file(house.path("work/go")).unwrap();
    });
}

#[test]
fn what_keeps_a_detached_command_from_running_is_told_at_once() {
    let house = house();
    let ended = house.run_with(&["--detach"], &["/nonexistent/program"]).finish();
    assert!(
        ended.expect(127).err().contains("/nonexistent/program"),
        "{}",
        ended.err()
    );
    let ended = house.run_with(&["-d", "--json"], &["true"]).finish();
    let id = ended.expect(0).json()[0]["run_id"].as_str().unwrap().to_owned();
    house.cli().args(["wait", &id]).finish().expect(0);
    house
        .run_with(&["-d", "--linger", "5s"], &["true"])
        .finish()
        .expect(125);
    house.run_with(&["-i"], &["true"]).finish().expect(125);
}

#[test]
fn ids_may_be_parts_and_must_mean_one_run() {
    let house = house();
    let (one, other) = (detached(&house, &[], "sleep 60"), detached(&house, &[], "sleep 60"));
    // Made within seconds of each other, so that the beginnings are the same.
    let both = house.cli().args(["kill", &one[..6]]).finish();
    assert!(both.expect(1).err().contains("more than one run"), "{}", both.err());
    let short = house.cli().args(["wait", "zz"]).finish();
    assert!(short.expect(125).err().contains("6 characters"), "{}", short.err());
    let timeout = house.cli().args(["wait", "--timeout", "10ms", &one]).finish();
    assert_eq!(timeout.expect(124).out(), format!("{one}: running\n"));
    let killed = house
        .cli()
        .args(["kill", "--json", "--grace", "0s", &one[one.len() - 12..]])
        .finish();
    assert_eq!(killed.expect(0).json()[0]["finished"]["ending"]["kind"], "cancelled");
    house.cli().args(["rm", "--force", &one, &other]).finish().expect(0);
    assert_eq!(house.cli().args(["ps", "-a", "--json"]).finish().out(), "");
    let nobody = house.cli().args(["attach", &one]).finish();
    assert!(nobody.expect(125).err().contains("ps --all"), "{}", nobody.err());
}

#[test]
fn the_last_lines_and_bytes_are_those_of_both_streams() {
    let house = house();
    let id = detached(&house, &[], "seq 1 2000; printf end");
    house.cli().args(["wait", &id]).finish().expect(0);
    let logs = |tail: &str| house.cli().args(["logs", "--tail", tail, &id]).finish().expect(0).out();
    assert_eq!(logs("3"), "1999\n2000\nend");
    assert_eq!(logs("7B"), "000\nend");
    assert_eq!(logs("0"), "");
    assert_eq!(logs("1M").lines().count(), 2001);
    house.cli().args(["logs", "--tail", "1G", &id]).finish().expect(2);
}

#[test]
fn ctrl_c_lets_go_of_a_run_and_with_signals_reaches_it() {
    for_both(|house| {
        let id = detached(
            house,
            &[],
            "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.02; done",
        );
        let mut attached = house.cli().args(["attach", "--from-start", &id]).start();
        attached.wait_for("ready");
        attached.signal(Signal::SIGINT);
        let ended = attached.finish();
        assert!(ended.expect(0).err().contains("let go of it"), "{}", ended.err());
        let listed = house.cli().args(["ps"]).finish();
        assert!(listed.out().contains("running"), "{}", listed.out());
        let mut attached = house.cli().args(["attach", "--from-start", "--signals", &id]).start();
        attached.wait_for("ready");
        attached.signal(Signal::SIGINT);
        let ended = attached.finish();
        assert_eq!(ended.expect(5).out(), "ready\ncaught\n");
    });
}

#[test]
fn input_goes_on_from_another_program() {
    for_both(|house| {
        let id = detached(
            house,
            &["--interactive"],
            "while read line; do echo \"got $line\"; done; echo end",
        );
        let mut first = house
            .cli()
            .args(["attach", "--from-start", "--input", &id])
            .input("one\n")
            .start();
        first.wait_for("got one");
        let ended = first.finish();
        assert_eq!(ended.expect(0).out(), "got one\nend\n");
        let deaf = detached(house, &[], "until test -e go; do sleep 0.02; done");
        let refused = house.cli().args(["attach", "--input", &deaf]).input("x").finish();
        assert!(
            refused.expect(125).err().contains("without --input"),
            "{}",
            refused.err()
        );
        house.cli().args(["rm", "-f", &deaf]).finish().expect(0);
    });
}

#[test]
fn a_program_that_is_killed_leaves_a_kept_run_to_the_next() {
    for_both(|house| {
        let id = detached(house, &[], "seq 1 5; until test -e go; do sleep 0.02; done; seq 6 10");
        let mut first = house.cli().args(["attach", "--from-start", &id]).start();
        first.wait_for("5\n");
        first.signal(Signal::SIGKILL);
        assert_eq!(first.finish().code(), -9);
        let second = house.cli().args(["attach", "--from-start", &id]).start();
        house.write("work/go", "");
        assert_eq!(second.finish().expect(0).out(), "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n");
        std::fs::remove_file(house.path("work/go")).unwrap();
    });
}

#[test]
fn a_run_that_lingers_outlives_the_program_that_started_it() {
    for_both(|house| {
        let script = "echo here; until test -e go; do sleep 0.02; done; echo there; exit 4";
        let mut first = house.run_with(&["--linger", "1h"], &["sh", "-c", script]).start();
        first.wait_for("here");
        first.signal(Signal::SIGKILL);
        let _ = first.finish();
        let listed = house.cli().args(["ps", "--json"]).finish().json();
        let id = listed[0]["run_id"].as_str().unwrap().to_owned();
        let second = house.cli().args(["attach", "--from-start", &id]).start();
        house.write("work/go", "");
        assert_eq!(second.finish().expect(4).out(), "here\nthere\n");
        std::fs::remove_file(house.path("work/go")).unwrap();
    });
}

#[test]
fn a_run_that_nobody_follows_for_so_long_is_ended() {
    let house = house();
    let mut first = house
        .run_with(&["--linger", "200ms"], &["sh", "-c", "echo here; sleep 600"])
        .start();
    first.wait_for("here");
    let listed = house.cli().args(["ps", "--json"]).finish().json();
    let id = listed[0]["run_id"].as_str().unwrap().to_owned();
    first.signal(Signal::SIGKILL);
    let _ = first.finish();
    let waited = house.cli().args(["wait", "--timeout", "20s", &id]).finish();
    assert!(waited.expect(137).out().contains("cancelled"), "{}", waited.out());
}

#[test]
fn merged_output_is_in_the_order_of_writing() {
    let house = house();
    let ended = house
        .run_with(
            &["--merged"],
            &["sh", "-c", "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done"],
        )
        .finish();
    assert_eq!(ended.expect(0).out(), "o1\ne1\no2\ne2\no3\ne3\no4\ne4\no5\ne5\n");
    assert_eq!(ended.err(), "");
}

/// A command of the library's in the house's workspace, that goes on without its connection.
fn sh(client: &Client, house: &House, script: &str) -> Command {
    let command = client.command("sh").args(["-c", script]).workspace(house.workspace());
    command.on_disconnect(OnDisconnect::Keep)
}

#[tokio::test(flavor = "multi_thread")]
async fn output_status_and_errors_of_the_library() {
    let house = house();
    let client = house.client().await;
    let output = within("output", sh(&client, &house, "echo out; echo err >&2; exit 3").output())
        .await
        .unwrap();
    assert_eq!(
        (output.status.code(), &output.stdout[..], &output.stderr[..]),
        (Some(3), &b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(
        (output.stdout_omitted, output.status.to_string().as_str()),
        (None, "exited with code 3")
    );
    assert!(output.usage.is_some());
    let slow = sh(&client, &house, "echo early; sleep 60").timeout(Duration::from_millis(500));
    let output = within("the time limit", slow.output()).await.unwrap();
    assert!(output.status.timed_out() && output.stdout == b"early\n", "{output:?}");
    let fed = sh(&client, &house, "wc -c").input(vec![b'x'; 3_000_000]);
    let output = within("wc", fed.output()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "3000000");
    let big = sh(&client, &house, "seq 1 1000000").capture(1000);
    let output = within("seq", big.output()).await.unwrap();
    let omitted = output.stdout_omitted.unwrap();
    assert!(output.stdout.starts_with(b"1\n2\n") && output.stdout.ends_with(b"\n1000000\n"));
    assert_eq!((omitted.at, omitted.bytes + 1000), (500, 6_888_896));
    let refused = sh(&client, &house, "true").policy("no-such-policy").status().await;
    assert!(
        matches!(refused, Err(Error::Invalid { .. } | Error::NotFound { .. })),
        "{refused:?}"
    );
    let status = within(
        "true",
        sh(&client, &house, "true").layout(OutputLayout::Separate).status(),
    )
    .await
    .unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_of_the_library_hands_a_run_to_another() {
    let house = house();
    let (first, second) = (house.client().await, house.client().await);
    let command = sh(&first, &house, "while read line; do echo \"$line $line\"; done; exit 9").pipe_stdin();
    let mut run = within("spawn", command.spawn()).await.unwrap();
    run.stdin.as_mut().unwrap().send("one\n").await.unwrap();
    let output = loop {
        if let Some(Event::Output(output)) = within("output", run.next()).await.unwrap().unwrap().event {
            break output;
        }
    };
    assert_eq!(output.data, "one one\n");
    let seen = run.last_seq();
    let id = run.detach().expect("it is kept");
    drop(first);
    let mut run = within(
        "attach",
        second.attach(id.as_str()).from(Position::Seq(seen + 1)).input().start(),
    )
    .await
    .unwrap();
    let mut stdin = run.stdin.take().unwrap();
    stdin.write_all(b"two\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    let mut stdout = within("a reader", run.stdout()).await.unwrap();
    let mut all = String::new();
    within("all of it", stdout.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "one one\ntwo two\n");
    assert_eq!(within("the end", run.wait()).await.unwrap().code(), Some(9));
    assert!(
        run.try_wait()
            .await
            .unwrap()
            .is_some_and(|status| status.code() == Some(9))
    );
    // Input that nobody took out ends with the waiting, also of a run that was attached to.
    let command = sh(&second, &house, "cat; exit 3").pipe_stdin();
    let waiting = within("spawn", command.spawn())
        .await
        .unwrap()
        .detach()
        .expect("it is kept");
    let mut attached = within("attach", second.attach(waiting).input().start()).await.unwrap();
    assert!(attached.try_wait().await.unwrap().is_none());
    assert_eq!(within("the end", attached.wait()).await.unwrap().code(), Some(3));
    // From now on, of a run that is over: its end.
    let mut late = within("attach", second.attach(id.as_str()).from(Position::Now).start())
        .await
        .unwrap();
    assert_eq!(within("the end", late.wait()).await.unwrap().code(), Some(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dropped_run_becomes_is_what_was_asked_for() {
    let house = house();
    let client = house.client().await;
    let started = async |command: Command| {
        let mut run = within("spawn", command.spawn()).await.unwrap();
        while !matches!(
            within("started", run.next()).await.unwrap().unwrap().event,
            Some(Event::Started(_))
        ) {}
        run
    };
    let sleep = || sh(&client, &house, "sleep 600").pipe_stdin();
    let kept = started(sleep()).await;
    let kept_id = kept.id().to_owned();
    let dropped = started(sleep().kill_on_drop(true)).await;
    let dropped_id = dropped.id().to_owned();
    drop((kept, dropped));
    let ended = within("the kill", client.wait(dropped_id, None)).await.unwrap();
    assert_eq!(ended.finished.unwrap().shell_code, 137);
    assert_eq!(client.get(kept_id.as_str()).await.unwrap().state(), RunState::Running);
    let refused = started(sleep().on_disconnect(OnDisconnect::Kill)).await.detach();
    let mut run = *refused.expect_err("it is killed with its connection");
    run.signal(15, SignalScope::Tree).await.unwrap();
    assert_eq!(within("the end", run.wait()).await.unwrap().signal(), Some(15));
    let mut kept = within("attach", client.attach(kept_id).start()).await.unwrap();
    assert_eq!(within("the kill", kept.kill()).await.unwrap().shell_code(), 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_the_output_alone_needs_not_take_the_events() {
    let house = house();
    let client = house.client().await;
    let script = "head -c 30000000 /dev/zero; head -c 10000000 /dev/zero >&2; printf end; exit 4";
    let command = sh(&client, &house, script).flow(FlowControl::Block);
    let mut run = within("spawn", command.spawn()).await.unwrap();
    let mut stdout = within("a reader", run.stdout()).await.unwrap();
    let mut first = vec![0; 1_000_000];
    within("the beginning", stdout.read_exact(&mut first)).await.unwrap();
    // Nobody reads on, and the command waits.
    let length = async || client.get(run.id()).await.unwrap().output_bytes.unwrap().stdout;
    let mut before = 0;
    let held = loop {
        let now = length().await;
        if now == before {
            break now;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    assert!(held < 15_000_000, "{held}");
    let mut rest = Vec::new();
    within("all of it", stdout.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(first.len() + rest.len(), 30_000_003);
    assert!(rest.ends_with(b"\0end"));
    drop(stdout);
    // The events tell the rest, and what they do not hold.
    let (mut told, mut passed, mut gaps) = ([0; 2], [0; 2], 0);
    let mut ended = None;
    while let Some(event) = within("an event", run.next()).await.unwrap() {
        match event.event {
            Some(Event::Output(output)) => told[usize::from(output.stream == 2)] += output.data.len() as u64,
            Some(Event::Gap(gap)) => {
                gaps += 1;
                passed = [passed[0] + gap.stdout_bytes, passed[1] + gap.stderr_bytes];
            }
            Some(Event::Finished(finished)) => ended = Some(finished.shell_code),
            _ => {}
        }
    }
    assert_eq!([told[0] + passed[0], told[1] + passed[1]], [30_000_003, 10_000_000]);
    assert!((1..5).contains(&gaps), "{gaps}");
    assert_eq!(ended, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_whose_events_nobody_takes_hold_no_other_up() {
    let house = house();
    let client = house.client().await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        unread.push(
            within("spawn", sh(&client, &house, "seq 1 1000000").spawn())
                .await
                .unwrap(),
        );
    }
    for run in &unread {
        within("the end of it", client.wait(run.id(), None)).await.unwrap();
    }
    let output = within("another", sh(&client, &house, "seq 1 300000").output())
        .await
        .unwrap();
    assert!(output.status.success() && output.stdout_omitted.is_none());
}

/// Passes connections on to a daemon's socket until told to break them all. Gives the socket to connect to.
struct Weak {
    path: std::path::PathBuf,
    breaks: tokio::sync::watch::Sender<u32>,
    /// How many connections there have been.
    accepted: tokio::sync::watch::Sender<u32>,
}

impl Weak {
    fn before(house: &House) -> Self {
        let path = house.path("run/weak.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (breaks, broken) = tokio::sync::watch::channel(0);
        let accepted = tokio::sync::watch::channel(0).0;
        let count = accepted.clone();
        let target = house.socket();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut broken, target) = (broken.clone(), target.clone());
                broken.mark_unchanged();
                count.send_modify(|count| *count += 1);
                tokio::spawn(async move {
                    let mut far = tokio::net::UnixStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = broken.changed() => {}
                    }
                });
            }
        });
        Self { path, breaks, accepted }
    }

    fn snap(&self) {
        self.breaks.send_modify(|count| *count += 1);
    }

    /// Breaks them all, and lets nobody in until told so.
    fn close(&self) {
        std::fs::rename(&self.path, self.path.with_extension("closed")).unwrap();
        self.snap();
    }

    fn open(&self) {
        std::fs::rename(self.path.with_extension("closed"), &self.path).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_again_and_again_loses_no_output() {
    let house = house();
    let weak = Weak::before(&house);
    let client = Client::connect_unix(&weak.path).await.unwrap();
    let mut command = sh(&client, &house, "for i in $(seq 1 40); do seq 1 5000; sleep 0.02; done");
    command.spec_mut().output.get_or_insert_default().keep_bytes = Some(8 << 20);
    let mut run = within("spawn", command.spawn()).await.unwrap();
    let (mut all, mut events) = (Vec::new(), 0_u32);
    while let Some(event) = within("the next event", run.next()).await.unwrap() {
        events += 1;
        if events.is_multiple_of(7) {
            weak.snap();
        }
        match event.event {
            Some(Event::Output(output)) => {
                assert_eq!(output.offset, all.len() as u64, "no byte twice, none missing");
                all.extend_from_slice(&output.data);
            }
            Some(Event::Gap(gap)) => panic!("{gap:?}"),
            _ => {}
        }
    }
    assert!(events > 30, "it was broken {} times only", events / 7);
    let once: String = (1..=5000).map(|number| format!("{number}\n")).collect();
    assert!(all == once.repeat(40).into_bytes(), "{} bytes", all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wanted_the_end_gets_all_that_came_while_the_connection_was_broken() {
    let house = house();
    let weak = Weak::before(&house);
    let id = detached(
        &house,
        &[],
        "echo before; until test -e go; do sleep 0.02; done; seq 1 20000; echo last",
    );
    let direct = house.client().await;
    while direct.get(id.as_str()).await.unwrap().output_bytes.unwrap().stdout < 7 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let client = Client::connect_unix(&weak.path).await.unwrap();
    let mut run = within("attach", client.attach(id.as_str()).from(Position::Tail(0)).start())
        .await
        .unwrap();
    let socket = weak.path.to_str().unwrap();
    let follow = |command: &str, tail: &str| {
        let arguments = [command, "--socket", socket, "--tail", tail, &id];
        house.cli().args(arguments).start()
    };
    let followers = [follow("attach", "0B"), follow("attach", "4B")];
    while direct.get(id.as_str()).await.unwrap().followers < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    weak.close();
    house.write("work/go", "");
    within("the end", direct.wait(id.as_str(), None)).await.unwrap();
    weak.open();
    let mut all = Vec::new();
    while let Some(event) = within("the next event", run.next()).await.unwrap() {
        match event.event {
            Some(Event::Output(output)) => all.extend_from_slice(&output.data),
            Some(Event::Gap(gap)) => panic!("{gap:?}"),
            _ => {}
        }
    }
    let numbers: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    let wanted = format!("{numbers}last\n");
    assert_eq!(all.len(), wanted.len());
    assert!(all == wanted.as_bytes());
    for (follower, before) in followers.into_iter().zip(["", "ore\n"]) {
        let told = follower.finish().expect(0).out();
        assert!(told == format!("{before}{wanted}"), "{} bytes", told.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_of_the_connection_alone_is_not_told_as_the_daemons_end() {
    let house = house();
    let weak = Weak::before(&house);
    let socket = weak.path.to_str().unwrap();
    let mut running = house
        .run_with(&["--socket", socket], &["sh", "-c", "echo here; sleep 600"])
        .start();
    running.wait_for("here");
    weak.snap();
    let told = running.finish();
    let err = told.expect(125).err();
    assert!(err.contains("broke; the ") && err.contains("fumehood logs "), "{err}");
    assert!(!err.contains("is gone"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_goes_on_through_broken_connections() {
    let house = house();
    let weak = Weak::before(&house);
    let id = detached(&house, &[], "until test -e go; do sleep 0.02; done; exit 8");
    let client = Client::connect_unix(&weak.path).await.unwrap();
    let limited = client.clone();
    let same = id.clone();
    let limited = tokio::spawn(async move { limited.wait(same, Some(Duration::from_millis(700))).await });
    let unlimited = tokio::spawn({
        let id = id.clone();
        async move { client.wait(id, None).await }
    });
    for _ in 0..5 {
        let mut accepted = weak.accepted.subscribe();
        let before = *accepted.borrow_and_update();
        weak.snap();
        within("another connection", accepted.wait_for(|now| *now > before))
            .await
            .unwrap();
    }
    // The time that was given is that of all attempts together.
    let limited = within("the timeout", limited).await.unwrap().unwrap();
    assert!(limited.finished.is_none());
    house.write("work/go", "");
    let waited = within("the end", unlimited).await.unwrap().unwrap();
    assert_eq!(waited.finished.unwrap().shell_code, 8);
    // A daemon that stays away is given up.
    let short = Client::connect_unix(house.socket()).await.unwrap();
    let short = short.with_reconnect(Reconnect::for_up_to(Duration::from_millis(200)));
    let id = detached(&house, &[], "sleep 600");
    let waits = tokio::spawn(async move { short.wait(id, None).await });
    let mut house = house;
    while house.client().await.list(Default::default()).await.unwrap().runs[0].state() != RunState::Running {}
    house.kill_daemon();
    let given_up = within("giving up", waits).await.unwrap();
    assert!(
        matches!(&given_up, Err(Error::GivenUp { .. }) | Err(Error::Transport { .. })),
        "{given_up:?}"
    );
    house.start_daemon();
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_said_again_is_not_written_twice() {
    let house = house();
    let weak = Weak::before(&house);
    let client = Client::connect_unix(&weak.path).await.unwrap();
    let mut run = within(
        "spawn",
        sh(&client, &house, "cat").pipe_stdin().flow(FlowControl::Block).spawn(),
    )
    .await
    .unwrap();
    let mut stdin = run.stdin.take().unwrap();
    let said: Vec<u8> = (0..400_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    let pieces: Vec<Bytes> = said.chunks(4_001).map(Bytes::copy_from_slice).collect();
    let writer = tokio::spawn(async move {
        for piece in pieces {
            stdin.send(piece).await.unwrap();
        }
    });
    let mut all = Vec::new();
    let mut events = 0_u32;
    while let Some(event) = within("the next event", run.next()).await.unwrap() {
        events += 1;
        if events.is_multiple_of(20) {
            weak.snap();
        }
        if let Some(Event::Output(output)) = event.event {
            assert_eq!(output.offset, all.len() as u64);
            all.extend_from_slice(&output.data);
        }
    }
    writer.await.unwrap();
    assert!(all == said, "{} of {} bytes", all.len(), said.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_stays_away_is_given_up_with_a_type() {
    let mut house = house();
    let patience = Reconnect::for_up_to(Duration::from_millis(300));
    let client = house.client().await.with_reconnect(patience);
    let mut run = within("spawn", sh(&client, &house, "echo here; sleep 600").spawn())
        .await
        .unwrap();
    let proud = house.client().await.with_reconnect(Reconnect::never());
    let mut other = within("attach", proud.attach(run.id()).start()).await.unwrap();
    while !matches!(
        within("output", run.next()).await.unwrap().unwrap().event,
        Some(Event::Output(_))
    ) {}
    while !matches!(
        within("output", other.next()).await.unwrap().unwrap().event,
        Some(Event::Output(_))
    ) {}
    let patient = house.client().await;
    let mut third = within("attach", patient.attach(run.id()).start()).await.unwrap();
    house.kill_daemon();
    let ended = within("giving up", run.wait()).await;
    assert!(matches!(ended, Err(Error::GivenUp { attempts: 2.., .. })), "{ended:?}");
    let ended = within("the break", other.wait()).await;
    assert!(ended.as_ref().is_err_and(Error::is_broken_connection), "{ended:?}");
    assert!(
        within("the end", run.next()).await.unwrap().is_none(),
        "an error is told once"
    );
    // One that waited long enough finds a daemon that has never heard of it, as one does whose state on disk was lost.
    std::fs::remove_dir_all(house.path("state/output")).unwrap();
    house.start_daemon();
    let ended = within("the new daemon", third.wait()).await;
    assert!(
        matches!(&ended, Err(Error::RunLost { run_id }) if run_id == run.id()),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_longer_kept_are_an_error_with_their_number() {
    let house = house();
    let client = house.client().await;
    let mut command = sh(&client, &house, "seq 1 300000");
    let output = command.spec_mut().output.get_or_insert_default();
    output.keep_bytes = Some(64 * 1024);
    output.spill = fumehood_client::proto::v1::OutputSpill::No.into();
    let run = within("spawn", command.spawn()).await.unwrap();
    within("the end", client.wait(run.id(), None)).await.unwrap();
    let mut reader = within("a reader", run.stdout()).await.unwrap();
    let (mut length, mut lost) = (0, None);
    while let Some(piece) = within("a piece", reader.next()).await.unwrap() {
        match piece {
            Piece::Data(offset, data) => {
                assert_eq!(offset, length);
                length += data.len() as u64;
            }
            Piece::Lost(gap) => {
                assert_eq!((gap.offset, lost.replace(gap)), (length, None));
                length += gap.bytes;
            }
        }
    }
    assert_eq!(length, 1_988_895);
    let mut reader = within("a reader", run.stdout()).await.unwrap();
    let error = within("reading", reader.read_to_end(&mut Vec::new()))
        .await
        .unwrap_err();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<LostOutput>());
    assert_eq!(inner.copied(), lost);
    within("the rest", reader.read_to_end(&mut Vec::new())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn following_begins_where_it_was_asked_to() {
    let house = house();
    let client = house.client().await;
    let run = within(
        "spawn",
        sh(&client, &house, "printf 0123456789; printf abc >&2").spawn(),
    )
    .await
    .unwrap();
    within("the end", client.wait(run.id(), None)).await.unwrap();
    let read = async |position| {
        let run = within("attach", client.attach(run.id()).from(position).start())
            .await
            .unwrap();
        let mut run = run;
        let mut all = (Vec::new(), Vec::new());
        while let Some(event) = within("an event", run.next()).await.unwrap() {
            match event.event {
                Some(Event::Output(output)) if output.stream == 2 => all.1.extend_from_slice(&output.data),
                Some(Event::Output(output)) => all.0.extend_from_slice(&output.data),
                _ => {}
            }
        }
        (String::from_utf8(all.0).unwrap(), String::from_utf8(all.1).unwrap())
    };
    assert_eq!(read(Position::Start).await, ("0123456789".to_owned(), "abc".to_owned()));
    assert_eq!(
        read(Position::Offsets { stdout: 7, stderr: 3 }).await,
        ("789".to_owned(), String::new())
    );
    let (stdout, stderr) = read(Position::Tail(4)).await;
    assert_eq!(stdout.len() + stderr.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_input_has_none_to_write() {
    let house = house();
    let client = house.client().await;
    let mut command = sh(&client, &house, "cat");
    command.spec_mut().input = InputMode::None.into();
    let mut run = within("spawn", command.spawn()).await.unwrap();
    assert!(run.stdin.is_none());
    assert!(within("the end", run.wait()).await.unwrap().success());
}
