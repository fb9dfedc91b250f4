//! What is known of runs when their daemon is no more: finished ones as before, those that were going on as lost.

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use fumehood_client::proto::v1::{
    AttachStart, ListRequest, OnDisconnect, OutputOptions, OutputSpill, OutputStream, ReadRequest, RunInfo, RunSpec,
    RunState, StartRequest, attach_start::Position, ending::Kind, run_event::Event,
};
use fumehood_client::{Client, Error};
use fumehood_tests::{DEADLINE, House, Told, Who, eventually, send, within};

use super::{builder, house};

fn start(id: &str, spec: RunSpec) -> StartRequest {
    StartRequest {
        run_id: id.to_owned(),
        spec: Some(spec),
    }
}

/// A script whose output is kept in the least memory.
fn little(house: &House, script: &str, spill: OutputSpill) -> RunSpec {
    RunSpec {
        output: Some(OutputOptions {
            keep_bytes: Some(64 * 1024),
            spill: spill.into(),
            ..OutputOptions::default()
        }),
        ..house.script(script)
    }
}

async fn started(client: &Client, id: &str, spec: RunSpec) {
    within("a start", client.start(start(id, spec))).await.expect(id);
}

async fn finished(client: &Client, id: &str, spec: RunSpec) -> RunInfo {
    started(client, id, spec).await;
    within("the end", client.wait(id, None)).await.expect(id)
}

async fn told(client: &Client, id: &str) -> Told {
    let mut run = within("attach", client.attach_stream(id, 0)).await.expect(id);
    Told::all(run.events()).await
}

/// What is told of a run, as text; who follows it at the moment does not belong to it.
async fn info(client: &Client, id: &str) -> RunInfo {
    let mut info = within("the state", client.get(id)).await.expect(id);
    info.followers = 0;
    info
}

/// A stream, read piece by piece.
async fn read(client: &Client, id: &str, stream: OutputStream) -> (Vec<u8>, u64) {
    let (mut data, mut lost) = (Vec::new(), 0);
    loop {
        let piece = client
            .read(ReadRequest {
                run_id: id.to_owned(),
                stream: stream.into(),
                offset: data.len() as u64 + lost,
                ..ReadRequest::default()
            })
            .await
            .expect(id);
        data.extend_from_slice(&piece.data);
        lost += piece.lost_bytes;
        if piece.end {
            return (data, lost);
        }
        assert!(!piece.data.is_empty() || piece.lost_bytes > 0, "it goes on");
    }
}

fn why_lost(info: &RunInfo) -> String {
    match info
        .finished
        .as_ref()
        .and_then(|finished| finished.ending.as_ref()?.kind.clone())
    {
        Some(Kind::Lost(lost)) => lost.why,
        other => panic!("not lost but {other:?}"),
    }
}

/// Files of runs' states, in the order of their names.
fn states(house: &House) -> Vec<PathBuf> {
    let directories = fs::read_dir(house.path("state/output")).into_iter().flatten().flatten();
    let files = directories.flat_map(|directory| fs::read_dir(directory.path()).into_iter().flatten().flatten());
    let mut files: Vec<_> = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "run"))
        .collect();
    files.sort();
    files
}

/// Waits until a run's state is on disk as it will stay.
fn sealed(house: &House, count: usize) {
    let size = || {
        states(house)
            .iter()
            .map(|path| fs::metadata(path).map_or(0, |found| found.len()))
            .sum::<u64>()
    };
    eventually(DEADLINE, "the states on disk", || {
        (states(house).len() == count).then_some(())
    });
    let mut before = size();
    loop {
        std::thread::sleep(Duration::from_millis(100));
        if std::mem::replace(&mut before, size()) == before {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_finished_is_read_after_a_kill_as_before_it_and_what_ran_is_lost_with_its_output() {
    let mut house = house();
    let client = house.client().await;
    let specs = [
        ("small", house.script("echo out; echo err >&2; exit 3")),
        (
            "large",
            little(&house, "seq 1 400000; seq 1 5000 >&2", OutputSpill::Yes),
        ),
        ("ends-only", little(&house, "seq 1 100000", OutputSpill::No)),
        ("silent", house.script("kill -9 $$")),
        (
            "denied",
            house.script(
                "touch .git/hooks/x 2>/dev/null; mkdir -p .git/hooks; cat ~/.ssh/id_rsa; mount -t tmpfs x /mnt",
            ),
        ),
    ];
    for (id, spec) in specs.clone() {
        finished(&client, id, spec).await;
    }
    let mut before = Vec::new();
    for (id, _) in &specs {
        let streams = [
            read(&client, id, OutputStream::Stdout).await,
            read(&client, id, OutputStream::Stderr).await,
        ];
        before.push((info(&client, id).await, streams, told(&client, id).await.events));
    }
    // One in its middle, one that waits for nothing, and both with a secret in their environment.
    let mut running = house.script("seq 1 100000; echo halfway; sleep 86400");
    running.on_disconnect = OnDisconnect::Keep.into();
    running.env.push(fumehood_client::proto::v1::EnvironmentVariable {
        name: Bytes::from_static(b"SECRET_VALUE"),
        value: Bytes::from_static(b"hunter2hunter2"),
    });
    let mut run = within("a run", client.run(start("running", running))).await.unwrap();
    Told::until(
        run.events(),
        |event| matches!(event, Event::Output(output) if output.data.ends_with(b"halfway\n")),
    )
    .await;
    drop(run);
    let wanted: u64 = (1..=100_000).map(|n: u64| n.to_string().len() as u64 + 1).sum::<u64>() + 8;
    eventually(DEADLINE, "the output on disk", || {
        let files = states(&house).into_iter().map(|state| state.with_extension("out"));
        let longest = files
            .filter_map(|file| fs::read(file).ok())
            .find(|file| file.ends_with(b"halfway\n"));
        longest.filter(|file| file.len() as u64 > wanted).map(|_| ())
    });
    let all = states(&house);
    let secret = |path: &PathBuf| {
        fs::read(path)
            .unwrap()
            .windows(14)
            .any(|bytes| bytes == b"hunter2hunter2")
    };
    assert!(!all.iter().any(secret), "an environment is on disk");
    drop(client);
    house.kill_daemon();
    house.start_daemon();

    for round in 0..2 {
        let client = house.client().await;
        for ((id, spec), (run, streams, events)) in specs.iter().zip(&before) {
            assert_eq!(&info(&client, id).await, run, "round {round}");
            assert_eq!(read(&client, id, OutputStream::Stdout).await, streams[0], "{id}");
            assert_eq!(read(&client, id, OutputStream::Stderr).await, streams[1], "{id}");
            assert_eq!(&told(&client, id).await.events, events, "{id}");
            // The same request is the same run, another one is not taken.
            let again = client.start(start(id, spec.clone())).await.unwrap();
            assert!(again.existed && again.run.unwrap().finished.is_some());
            let other = client.start(start(id, house.script("echo other"))).await.unwrap_err();
            assert!(matches!(&other, Error::AlreadyExists { .. }), "{other:?}");
        }
        let run = info(&client, "running").await;
        assert!(why_lost(&run).contains("the daemon was killed"), "{run:?}");
        assert_eq!(run.state(), RunState::Finished);
        assert!(run.started_at.is_some() && run.enforcement.is_some());
        let (data, lost) = read(&client, "running", OutputStream::Stdout).await;
        assert_eq!((data.len() as u64, lost), (wanted, 0));
        assert!(data.ends_with(b"100000\nhalfway\n"));
        // Whoever had followed it further than was saved hears of its end.
        let from = AttachStart {
            run_id: "running".to_owned(),
            from_seq: 1_000_000,
            position: None,
            tail_end: None,
        };
        let mut late = client.attach_at(from).await.unwrap();
        assert!(matches!(Told::all(late.events()).await.ending(), Kind::Lost(_)));
        let list = client.list(ListRequest::default()).await.unwrap().runs;
        let ids: Vec<_> = list.iter().map(|run| run.run_id.as_str()).collect();
        assert_eq!(ids, ["running", "denied", "silent", "ends-only", "large", "small"]);
        drop(client);
        // And once more, ended in order this time.
        house.stop();
        house.start_daemon();
    }
    let client = house.client().await;
    client.release("large").await.unwrap();
    client.release("running").await.unwrap();
    eventually(DEADLINE, "the end of two files", || {
        (states(&house).len() == specs.len() - 1).then_some(())
    });
    drop(client);
    house.kill_daemon();
    house.start_daemon();
    let client = house.client().await;
    let gone = client.get("large").await.unwrap_err();
    assert!(matches!(&gone, Error::NotFound { .. }), "{gone:?}");
    house.cli().args(["logs", "small"]).finish().expect(0);
    let tail = house.cli().args(["logs", "ends-only"]).finish();
    assert!(tail.out().ends_with("99999\n100000\n"), "{}", tail.err());
    house.cli().args(["rm", "small"]).finish().expect(0);
    let verified = house.cli().args(["audit", "verify"]).args([house.audit()]).finish();
    assert!(verified.code() == 0, "{}", verified.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_not_its_own_is_passed_over_and_the_rest_is_there() {
    let mut house = house();
    let client = house.client().await;
    for n in 0..7 {
        finished(&client, &format!("r{n}"), house.script(&format!("seq {n} 2000"))).await;
    }
    sealed(&house, 7);
    drop(client);
    house.kill_daemon();
    let states = states(&house);
    let bytes = |n: usize| fs::read(&states[n]).unwrap();
    let put = |n: usize, bytes: &[u8]| fs::write(&states[n], bytes).unwrap();
    // r0: whole. r1: its end is torn off. r2: a bit in its middle. r3: of another version. r4: a link. r5: anybody may write it.
    put(1, &bytes(1)[..bytes(1).len() - 3]);
    let mut flipped = bytes(2);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    put(2, &flipped);
    let mut other = bytes(3);
    other[7] = 99;
    put(3, &other);
    let elsewhere = house.path("elsewhere");
    fs::rename(&states[4], &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &states[4]).unwrap();
    fs::set_permissions(&states[5], Permissions::from_mode(0o666)).unwrap();
    // r6: a bit of its output.
    let output = states[6].with_extension("out");
    let mut flipped = fs::read(&output).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    fs::write(&output, &flipped).unwrap();
    house.start_daemon();
    let client = house.client().await;
    let whole = |n: usize| (n..=2000).map(|n| format!("{n}\n")).collect::<String>().into_bytes();
    for n in [0, 1] {
        let id = format!("r{n}");
        assert_eq!(read(&client, &id, OutputStream::Stdout).await, (whole(n), 0));
        assert_eq!(info(&client, &id).await.finished.unwrap().shell_code, 0, "{n}");
    }
    // What came before the damage counts, and that is not its end.
    assert!(!why_lost(&info(&client, "r2").await).is_empty());
    assert_eq!(read(&client, "r2", OutputStream::Stdout).await, (whole(2), 0));
    for n in [3, 4, 5] {
        let missing = client.get(format!("r{n}")).await.unwrap_err();
        assert!(matches!(&missing, Error::NotFound { .. }), "{n}: {missing:?}");
    }
    assert!(elsewhere.exists());
    let log = house.log();
    assert!(
        log.contains("version 99") && log.contains("others may write to it"),
        "{log}"
    );
    let (data, lost) = read(&client, "r6", OutputStream::Stdout).await;
    assert_eq!(data.len() as u64 + lost, whole(6).len() as u64);
    assert!(lost > 0 && whole(6).starts_with(&data));
    assert_eq!(info(&client, "r6").await.finished.unwrap().shell_code, 0);
    send(&client, house.script("echo works")).await;
    drop(client);
    house.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_earlier_daemons_runs_no_more_are_kept_than_of_its_own() {
    let mut house = builder().config("retained_runs = 3").build();
    let client = house.client().await;
    for n in 0..3 {
        finished(&client, &format!("r{n}"), house.script("echo x")).await;
    }
    sealed(&house, 3);
    drop(client);
    house.kill_daemon();
    house.start_daemon();
    let client = house.client().await;
    let ids = || async {
        let runs = client.list(ListRequest::default()).await.unwrap().runs;
        runs.into_iter().map(|run| run.run_id).collect::<Vec<_>>()
    };
    assert_eq!(ids().await, ["r2", "r1", "r0"]);
    finished(&client, "r3", house.script("echo x")).await;
    assert_eq!(ids().await, ["r3", "r2", "r1"]);
    sealed(&house, 3);
    // A page goes on where the last one ended, whosever runs they are.
    let page = |token: String| {
        client.list(ListRequest {
            page_size: 2,
            page_token: token,
            ..ListRequest::default()
        })
    };
    let first = page(String::new()).await.unwrap();
    let second = page(first.next_page_token.clone()).await.unwrap();
    let ids: Vec<_> = first
        .runs
        .iter()
        .chain(&second.runs)
        .map(|run| run.run_id.as_str())
        .collect();
    assert_eq!(ids, ["r3", "r2", "r1"]);
    let of = AttachStart {
        run_id: "r1".to_owned(),
        from_seq: 0,
        position: Some(Position::TailBytes(1)),
        tail_end: None,
    };
    let mut tail = client.attach_at(of).await.unwrap();
    let told = Told::all(tail.events()).await;
    let output = told.events.iter().find_map(|event| match &event.event {
        Some(Event::Output(output)) => Some(&output.data[..]),
        _ => None,
    });
    assert_eq!(output, Some(&b"\n"[..]));
    drop(client);
    house.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_a_run_when_its_daemon_is_killed_hears_from_the_next_that_it_is_lost() {
    let mut house = house();
    let client = house.client().await;
    let command = client
        .command("sh")
        .args(["-c", "echo here; sleep 86400"])
        .current_dir(house.workspace());
    let mut run = within("spawn", command.spawn()).await.unwrap();
    while !matches!(
        within("output", run.next()).await.unwrap().unwrap().event,
        Some(Event::Output(_))
    ) {}
    house.kill_daemon();
    house.start_daemon();
    let ended = within("the end", run.wait()).await.unwrap();
    assert_eq!(ended.shell_code(), 125);
    assert!(why_lost(&info(&client, run.id()).await).contains("killed"));
}

#[test]
fn two_daemons_of_a_user_do_not_take_each_others_runs() {
    let mut house = builder().who(Who::Ordinary).build();
    let detached = house.run_with(&["--detach"], &["sh", "-c", "echo one"]).finish();
    let id = detached.out().trim().to_owned();
    house.cli().args(["wait", &id]).finish().expect(0);
    sealed(&house, 1);
    house.kill_daemon();
    // Another socket, the same places.
    let other = house.path("run/other.sock");
    let second = house
        .cli()
        .args(["daemon", "--socket"])
        .args([&other])
        .args(["--audit"])
        .args([house.path("state/other.jsonl")])
        .args(["--scratch-dir"])
        .args([house.scratch()])
        .start();
    let cli = || house.cli().env("FUMEHOOD_SOCKET", &other);
    eventually(DEADLINE, "the other daemon", || other.exists().then_some(()));
    cli().args(["logs", &id]).finish().expect(125);
    second.signal(nix::sys::signal::Signal::SIGTERM);
    second.finish().expect(0);
    house.start_daemon();
    let logs = house.cli().args(["logs", &id]).finish();
    assert_eq!(logs.out(), "one\n", "{}", logs.err());
}

/// A daemon whose socket somebody else holds, as systemd does for a socket unit.
fn activated(house: &House, listener: &UnixListener) -> Child {
    let socket: OwnedFd = listener.try_clone().expect("a second descriptor").into();
    let script =
        "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" daemon --config \"$1\" --socket \"$2\"";
    Command::new("/bin/sh")
        .args(["-c", script])
        .arg(house.program())
        .arg(house.path("config.toml"))
        .arg(house.socket())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", house.home())
        .stdin(Stdio::from(socket))
        .stderr(
            fs::File::options()
                .create(true)
                .append(true)
                .open(house.path("daemon.log"))
                .expect("a log"),
        )
        .spawn()
        .expect("a daemon")
}

fn ended(mut daemon: Child) {
    let status = eventually(DEADLINE, "the daemon's end", || daemon.try_wait().expect("wait"));
    assert!(status.success(), "{status}");
}

/// Ends a daemon in order.
fn terminate(daemon: &Child) {
    let pid = nix::unistd::Pid::from_raw(daemon.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("SIGTERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_socket_that_outlives_the_daemon_a_planned_restart_ends_no_run_and_refuses_no_connection() {
    let house = builder().config("drain_grace = \"60s\"").not_started().build();
    let listener = UnixListener::bind(house.socket()).unwrap();
    let first = activated(&house, &listener);
    let client = house.client().await;
    started(
        &client,
        "long",
        house.script("echo before; while ! test -e go; do sleep 0.05; done; echo after"),
    )
    .await;
    let mut run = within("attach", client.attach_stream("long", 0)).await.unwrap();
    Told::until(run.events(), |event| matches!(event, Event::Output(_))).await;
    terminate(&first);
    // While it drains, new runs are refused with the time to try again; what runs goes on.
    eventually(DEADLINE, "the drain", || {
        let refused = house.run(&["true"]);
        (refused.code() == 125 && refused.err().contains("draining")).then_some(())
    });
    house.write("work/go", "");
    let told = Told::all(run.events()).await;
    assert!(told.out().ends_with("after\n"), "{:?}", told.out());
    assert_eq!(told.finished().shell_code, 0);
    drop((run, client));
    ended(first);
    // Nobody serves now, and whoever connects waits for the next daemon instead of being refused.
    let waiting = house.run_with(&[], &["echo", "waited"]).start();
    let second = activated(&house, &listener);
    let waited = waiting.finish();
    assert_eq!(
        (waited.code(), waited.out().as_str()),
        (0, "waited\n"),
        "{}",
        waited.err()
    );
    let client = house.client().await;
    let told = self::told(&client, "long").await;
    assert_eq!(told.out(), "before\nafter\n");
    drop(client);
    terminate(&second);
    ended(second);
    let verified = house.cli().args(["audit", "verify"]).args([house.audit()]).finish();
    assert_eq!(verified.code(), 0, "{}", verified.err());
    assert!(!house.records().iter().any(|record| record["kind"] == "interrupted"));
    fs::remove_file(house.socket()).unwrap();
}
