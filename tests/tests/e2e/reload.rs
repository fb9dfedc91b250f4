//! A planned restart: a new daemon takes the place of the running one, and nothing that it keeps is lost.

mod deaths;
mod kept;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fumehood_client::proto::v1::{OnDisconnect, OutputStream, RunSpec, RunState, StartRequest, ending::Kind};
use fumehood_client::{Client, Error};
use fumehood_tests::{DEADLINE, House, Told, eventually, within};

use super::{builder, house};

async fn start(house: &House, client: &Client, id: &str, script: &str) {
    let spec = RunSpec {
        on_disconnect: OnDisconnect::Keep.into(),
        ..house.script(script)
    };
    let request = StartRequest {
        run_id: id.to_owned(),
        spec: Some(spec),
    };
    within("a start", client.start(request)).await.expect(id);
}

fn reload(house: &House) {
    house.reload().finish().expect(0);
}

async fn serving(house: &House) -> i32 {
    let client = house.client().await;
    within("the version", client.version()).await.expect("a version").pid
}

/// A script that goes on until a file is there, and says so at its end.
fn until(name: &str) -> String {
    format!("echo begun; while ! [ -e {name} ]; do sleep 0.05; done; echo ended")
}

async fn output(client: &Client, id: &str) -> Vec<u8> {
    let mut run = within("attach", client.attach_stream(id, 0)).await.expect(id);
    Told::all(run.events()).await.output(OutputStream::Stdout)
}

/// Waits until daemons are no more, whoever's children they are.
fn gone(house: &mut House, daemons: &[i32]) {
    house.reap();
    eventually(DEADLINE, "the end of the old daemon", || {
        house.reap();
        let living = daemons
            .iter()
            .any(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
        (!living).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_over_three_reloads_and_everybody_reaches_it() {
    let mut house = house();
    let first = serving(&house).await;
    let old = house.client().await;
    start(&house, &old, "long", &until("stop")).await;
    let attached = {
        let old = old.clone();
        tokio::spawn(async move { output(&old, "long").await })
    };
    let mut daemons = vec![first];
    for id in ["one", "two", "three"] {
        reload(&house);
        let pid = serving(&house).await;
        assert!(!daemons.contains(&pid), "a new daemon serves");
        daemons.push(pid);
        let client = house.client().await;
        let info = within("get", client.get("long")).await.expect("long");
        assert_ne!(info.state(), RunState::Finished);
        start(&house, &client, id, &until("stop")).await;
        let listed = within("list", client.list(Default::default())).await.expect("a list");
        let ids: Vec<_> = listed.runs.iter().map(|run| run.run_id.as_str()).collect();
        assert_eq!(ids.first(), Some(&id), "{ids:?}");
        assert_eq!(ids.last(), Some(&"long"), "{ids:?}");
    }
    // The same request under the same id is the same run, wherever it lives.
    let client = house.client().await;
    let again = StartRequest {
        run_id: "long".to_owned(),
        spec: Some(RunSpec {
            on_disconnect: OnDisconnect::Keep.into(),
            ..house.script(&until("stop"))
        }),
    };
    assert!(within("start", client.start(again)).await.expect("the same").existed);
    let other = StartRequest {
        run_id: "long".to_owned(),
        spec: Some(house.script("true")),
    };
    assert!(within("start", client.start(other)).await.is_err());

    let through = {
        let client = client.clone();
        tokio::spawn(async move { output(&client, "long").await })
    };
    house.write("work/stop", "");
    for id in ["long", "one", "two", "three"] {
        let info = within("the end", client.wait(id, None)).await.expect(id);
        let kind = info.finished.unwrap().ending.unwrap().kind;
        assert!(matches!(kind, Some(Kind::Exited(_))), "{id}: {kind:?}");
    }
    for reader in [attached, through] {
        assert_eq!(within("output", reader).await.unwrap(), b"begun\nended\n");
    }
    drop((old, client));
    gone(&mut house, &daemons[..3]);
    // What the old ones had is the last one's now.
    let client = house.client().await;
    for id in ["long", "one", "two", "three"] {
        assert_eq!(output(&client, id).await, b"begun\nended\n", "{id}");
    }
    audit_is_whole(&house, 4);
}

/// The chain holds, each run has its intent and its end, and none is called interrupted.
fn audit_is_whole(house: &House, runs: usize) {
    house
        .cli()
        .args(["audit", "verify"])
        .args([house.audit()])
        .finish()
        .expect(0);
    let records = house.records();
    let count = |kind: &str| records.iter().filter(|record| record["kind"] == kind).count();
    assert_eq!((count("intent"), count("end"), count("interrupted")), (runs, runs, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_while_daemons_change_under_load() {
    let mut house = house();
    let first = serving(&house).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut loops = Vec::new();
    for number in 0..4 {
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        let make = (0..400)
            .map(|_| house.run_with(&["--no-start"], &["echo", "here"]))
            .collect::<Vec<_>>();
        loops.push(std::thread::spawn(move || {
            for cli in make {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let ended = cli.finish();
                assert_eq!(
                    (ended.code(), ended.out().as_str()),
                    (0, "here\n"),
                    "{number}: {}",
                    ended.err()
                );
                done.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    let more = |than: usize| {
        eventually(DEADLINE, "runs", || (done.load(Ordering::SeqCst) > than).then_some(()));
    };
    more(4);
    let mut daemons = vec![first];
    for _ in 0..2 {
        reload(&house);
        daemons.push(serving(&house).await);
        more(done.load(Ordering::SeqCst) + 8);
    }
    stop.store(true, Ordering::SeqCst);
    for one in loops {
        one.join().expect("no run failed");
    }
    gone(&mut house, &daemons[..2]);
    audit_is_whole(&house, done.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_daemon_that_cannot_start_leaves_the_old_one() {
    let house = house();
    let first = serving(&house).await;
    let right = std::fs::read_to_string(house.path("config.toml")).unwrap();
    // Wrong before it asks the old one for anything, and wrong when it has been offered everything.
    let moved = format!(
        "{right}[output]\ndir = \"{}\"\n",
        house.path("state/elsewhere").display()
    );
    let cases = [
        (format!("max_runs = \"many\"\n{right}"), "max_runs"),
        (moved, "leaves `output.dir` where it is"),
        (
            format!("{right}[tcp]\nlisten = \"127.0.0.1:0\"\nca = \"/no\"\ncert = \"/no\"\nkey = \"/no\"\n"),
            "/no",
        ),
    ];
    for (config, why) in cases {
        house.write("config.toml", config);
        let ended = house.reload().finish();
        assert_eq!(ended.code(), 125, "{}", ended.err());
        let said = ended.err();
        assert!(said.contains(why) && said.contains("goes on"), "{said}");
        assert!(
            !said.contains("serving"),
            "the old one's words are not the new one's: {said}"
        );
        assert_eq!(serving(&house).await, first);
        house.run(&["true"]).expect(0);
    }
    // The log is the old one's alone as before.
    let records = house.records();
    let named = |record: &&serde_json::Value| record["kind"] == "intent" && record.get("instance").is_some();
    assert_eq!(records.iter().filter(named).count(), 0);
    assert!(!records.iter().any(|record| record["kind"] == "log_continued"));
    audit_is_whole(&house, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_who_serves() {
    let mut house = house();
    let first = serving(&house).await;
    let path = house.path("run/manager");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let reloading = house.reload().env("NOTIFY_SOCKET", &path);
    reloading.finish().expect(0);
    let mut message = [0; 512];
    let length = manager.recv(&mut message).expect("a word of the new daemon");
    let said = String::from_utf8_lossy(&message[..length]).into_owned();
    let lines: Vec<_> = said.lines().collect();
    let pid = serving(&house).await;
    assert!(
        lines.contains(&"READY=1") && lines.contains(&format!("MAINPID={pid}").as_str()),
        "{said}"
    );
    gone(&mut house, &[first]);
    std::fs::remove_file(path).unwrap();
    // Somebody's own reload it would not hear of, and would end what goes on.
    let told = house.cli().args(["daemon", "reload"]).finish();
    assert_eq!(told.code(), 125, "{}", told.err());
    assert!(told.err().contains("systemctl reload"), "{}", told.err());
    assert_eq!(serving(&house).await, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_client_find_the_daemon_that_serves_whenever_they_are_made() {
    let mut house = house();
    let mut daemons = vec![serving(&house).await];
    let client = house.client().await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = Vec::new();
    for caller in 0..6 {
        let (client, stop, done) = (client.clone(), Arc::clone(&stop), Arc::clone(&done));
        let spec = house.script("true");
        callers.push(tokio::spawn(async move {
            let mut number = 0;
            while !stop.load(Ordering::SeqCst) {
                // None of these is repeated by the library when it was refused.
                client.version().await.expect("a version");
                client.list(Default::default()).await.expect("a list");
                let id = format!("{caller}-{number}");
                if number % 8 == 0 {
                    let spec = Some(spec.clone());
                    let request = StartRequest {
                        run_id: id.clone(),
                        spec,
                    };
                    client.start(request).await.expect("a start");
                    client.wait(id.as_str(), None).await.expect("its end");
                    client.get(id.as_str()).await.expect("it is known");
                }
                number += 1;
                done.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    for _ in 0..3 {
        reload(&house);
        daemons.push(serving(&house).await);
        let before = done.load(Ordering::SeqCst);
        // Also while connections are told to end, and when the old daemon goes.
        let enough = || (done.load(Ordering::SeqCst) > before + 40).then_some(());
        eventually(DEADLINE, "calls", enough);
        let pids = daemons[..daemons.len() - 1].to_vec();
        tokio::task::block_in_place(|| gone(&mut house, &pids));
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        within("a caller", caller).await.expect("no call failed");
    }
    let runs = house
        .records()
        .iter()
        .filter(|record| record["kind"] == "intent")
        .count();
    audit_is_whole(&house, runs);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_run_follows_it_over_a_reload_and_the_old_daemons_end() {
    let mut house = house();
    let first = serving(&house).await;
    let client = house.client().await;
    start(&house, &client, "kept", &until("stop")).await;
    let mut running = house.run_with(&[], &["sh", "-c", &until("stop")]).start();
    running.wait_for("begun");
    let mut attached = house.cli().args(["attach", "--from-start", "kept"]).start();
    let mut logs = house.cli().args(["logs", "--follow", "kept"]).start();
    let waiting = house.cli().args(["wait", "kept"]).start();
    attached.wait_for("begun");
    logs.wait_for("begun");
    reload(&house);
    // Connections of before are told to end meanwhile; what is asked over them goes on.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let late = house.cli().args(["logs", "--follow", "kept"]).start();
    house.write("work/stop", "");
    for follower in [running, attached, logs, late] {
        let ended = follower.finish();
        assert_eq!(ended.expect(0).out(), "begun\nended\n");
    }
    waiting.finish().expect(0);
    drop(client);
    gone(&mut house, &[first]);
    audit_is_whole(&house, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_begins_once_whichever_daemon_hears_of_it_first() {
    let mut house = house();
    let first = serving(&house).await;
    let old = house.client().await;
    within("a version", old.version()).await.unwrap();
    reload(&house);
    let new = house.client().await;
    let request = |id: &str| StartRequest {
        run_id: id.to_owned(),
        spec: Some(RunSpec {
            on_disconnect: OnDisconnect::Keep.into(),
            ..house.script("echo once")
        }),
    };
    // The old connection is served for two seconds yet.
    within("a start", new.start(request("new-first")))
        .await
        .expect("the new one takes it");
    let refused = within("an answer", old.start(request("new-first"))).await.unwrap_err();
    assert!(
        refused.is_broken_connection() && refused.to_string().contains("broke"),
        "{refused:?}"
    );
    within("a start", old.start(request("old-first")))
        .await
        .expect("the old one takes it yet");
    assert!(
        within("a start", new.start(request("old-first")))
            .await
            .expect("it is known")
            .existed
    );
    // At the same moment, many times.
    for number in 0..20 {
        let id = format!("both-{number}");
        let (one, other) = tokio::join!(old.start(request(&id)), new.start(request(&id)));
        let begun = [&one, &other]
            .iter()
            .filter(|said| said.as_ref().is_ok_and(|said| !said.existed))
            .count();
        assert_eq!(begun, 1, "{one:?} {other:?}");
    }
    // The library asks again where it may, and comes to the same run.
    let mut run = within("a run", old.spawn(request("new-first")))
        .await
        .expect("the same run");
    assert!(within("its end", run.wait()).await.unwrap().success());
    drop((old, new, run));
    gone(&mut house, &[first]);
    audit_is_whole(&house, 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_what_is_over_are_served_to_the_end() {
    const BYTES: usize = 6 << 20;
    let mut house = house();
    let first = serving(&house).await;
    let old = house.client().await;
    let script = format!("{}; head -c {BYTES} /dev/zero | tr '\\0' x", until("stop"));
    start(&house, &old, "large", &script).await;
    reload(&house);
    let new = house.client().await;
    let (mut one, mut other) = (
        within("attach", old.attach_stream("large", 0)).await.unwrap(),
        within("attach", new.attach_stream("large", 0)).await.unwrap(),
    );
    house.write("work/stop", "");
    within("the end", new.wait("large", None)).await.unwrap();
    // Longer than connections have that nobody reads from.
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(
        std::path::Path::new(&format!("/proc/{first}")).exists(),
        "it is still read from"
    );
    // Others are not held up by it.
    let info = within("the state", house.client().await.get("large")).await.unwrap();
    assert_eq!(info.state(), RunState::Finished);
    for reader in [&mut one, &mut other] {
        let output = Told::all(reader.events()).await.output(OutputStream::Stdout);
        assert_eq!(output.len(), BYTES + "begun\nended\n".len());
    }
    drop((old, new, one, other));
    gone(&mut house, &[first]);
    assert_eq!(output(&house.client().await, "large").await.len(), BYTES + 12);
    audit_is_whole(&house, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_finish_the_new_daemon_serves_when_the_runs_are_over() {
    let mut house = builder()
        .config("drain_grace = \"60s\"\n[reload]\nruns = \"finish\"\n")
        .build();
    let first = serving(&house).await;
    let client = house.client().await;
    start(&house, &client, "long", &until("stop")).await;
    let reloading = house.reload().start();
    // It takes no more runs, and waits.
    while !within("the version", client.version())
        .await
        .expect("a version")
        .draining
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let other = StartRequest {
        run_id: "other".to_owned(),
        spec: Some(house.script("true")),
    };
    let refused = within("a refusal", client.start(other)).await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    house.write("work/stop", "");
    reloading.finish_within(DEADLINE).expect(0);
    drop(client);
    gone(&mut house, &[first]);
    let client = house.client().await;
    assert_eq!(output(&client, "long").await, b"begun\nended\n");
    audit_is_whole(&house, 1);
}
