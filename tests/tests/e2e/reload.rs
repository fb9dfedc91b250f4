//! A planned restart: a new daemon takes the place of the running one, and nothing that it keeps is lost.

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
    house.cli().args(["daemon", "reload"]).finish().expect(0);
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
        assert_eq!(info.state(), RunState::Running);
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
    std::fs::write(house.path("config.toml"), format!("max_runs = \"many\"\n{right}")).unwrap();
    let ended = house.cli().args(["daemon", "reload"]).finish();
    assert_eq!(ended.code(), 125, "{}", ended.err());
    assert!(
        ended.err().contains("max_runs") && ended.err().contains("goes on"),
        "{}",
        ended.err()
    );
    assert_eq!(serving(&house).await, first);
    house.run(&["true"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_finish_the_new_daemon_serves_when_the_runs_are_over() {
    let mut house = builder()
        .config("drain_grace = \"60s\"\n[reload]\nruns = \"finish\"\n")
        .build();
    let first = serving(&house).await;
    let client = house.client().await;
    start(&house, &client, "long", &until("stop")).await;
    let reloading = house.cli().args(["daemon", "reload"]).start();
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
