//! Daemons that die or end while they follow upon each other.

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::*;

fn signal(pid: i32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid), signal).expect("a daemon that lives");
}

/// The chain holds, and so many runs were interrupted.
fn interrupted(house: &House, runs: usize) {
    house
        .cli()
        .args(["audit", "verify"])
        .args([house.audit()])
        .finish()
        .expect(0);
    let records = house.records();
    let count = |kind: &str| records.iter().filter(|record| record["kind"] == kind).count();
    assert_eq!(count("interrupted"), runs);
    assert_eq!(count("intent"), count("end") + runs);
}

/// Waits until what a run said first is on disk: a daemon that is killed before has nothing to leave.
fn saved(house: &House, id: &str) {
    let has = |path: &std::path::Path, text: &str| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let files = |path: std::path::PathBuf| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let is_saved = |path: std::path::PathBuf| {
        let state = path.extension().is_some_and(|end| end == "run") && has(&path, id);
        state && has(&path.with_extension("out"), "begun")
    };
    eventually(DEADLINE, "the run's state on disk", || {
        let mut all = files(house.path("state/output")).into_iter().flat_map(files);
        all.any(is_saved).then_some(())
    });
}

fn is_lost(info: &fumehood_client::proto::v1::RunInfo) -> bool {
    let ending = info.finished.as_ref().and_then(|finished| finished.ending.as_ref());
    matches!(ending.and_then(|ending| ending.kind.as_ref()), Some(Kind::Lost(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_new_daemon_is_killed_the_old_one_serves_again() {
    let mut house = house();
    let first = serving(&house).await;
    let client = house.client().await;
    start(&house, &client, "kept", &until("stop")).await;
    reload(&house);
    let second = serving(&house).await;
    start(&house, &house.client().await, "mine", &until("never")).await;
    let lasting = house.client().await;
    saved(&house, "mine");
    signal(second, Signal::SIGKILL);
    // Nobody is refused: connections wait in the queue until it does.
    let ended = house.run_with(&["--no-start"], &["echo", "here"]).finish();
    assert_eq!(ended.expect(0).out(), "here\n");
    assert_eq!(serving(&house).await, first);
    // Also a client of the dead one's comes through.
    let info = within("the state", lasting.wait("mine", Some(DEADLINE))).await.unwrap();
    assert!(is_lost(&info), "{info:?}");
    assert_eq!(output(&lasting, "mine").await, b"begun\n");
    assert_ne!(
        within("the state", lasting.get("kept")).await.unwrap().state(),
        RunState::Finished
    );
    // And it is taken over from again.
    reload(&house);
    let third = serving(&house).await;
    assert!(third != first && third != second);
    house.write("work/stop", "");
    let last = house.client().await;
    assert_eq!(output(&last, "kept").await, b"begun\nended\n");
    assert!(is_lost(&within("the state", last.get("mine")).await.unwrap()));
    drop((client, lasting));
    gone(&mut house, &[first, second]);
    interrupted(&house, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_old_daemon_is_killed_its_runs_are_lost_and_read_from_the_new_one() {
    let mut house = house();
    let first = serving(&house).await;
    let client = house.client().await;
    start(&house, &client, "kept", &until("never")).await;
    reload(&house);
    let new = house.client().await;
    start(&house, &new, "mine", &until("stop")).await;
    let mut following = house.cli().args(["logs", "--follow", "kept"]).start();
    following.wait_for("begun");
    let waiting = {
        let new = new.clone();
        tokio::spawn(async move { new.wait("kept", None).await })
    };
    let mut stream = within("attach", new.attach("kept").start()).await.unwrap();
    assert!(stream.next().await.unwrap().is_some());
    saved(&house, "kept");
    signal(first, Signal::SIGKILL);
    house.forget();
    // Everybody who followed it through the new one hears of its end.
    assert!(is_lost(&within("the end", waiting).await.unwrap().expect("an end")));
    while within("events", stream.next())
        .await
        .expect("the stream goes on")
        .is_some()
    {}
    assert_eq!(following.finish().out(), "begun\n");
    assert!(is_lost(&within("the state", new.get("kept")).await.unwrap()));
    assert_eq!(output(&new, "kept").await, b"begun\n");
    house.write("work/stop", "");
    assert_eq!(output(&new, "mine").await, b"begun\nended\n");
    gone(&mut house, &[first]);
    interrupted(&house, 1);
    house.run(&["true"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_one_between_is_killed_nothing_hangs_and_the_last_serves() {
    let mut house = builder().config("drain_grace = \"1s\"\n").build();
    let first = serving(&house).await;
    start(&house, &house.client().await, "eldest", &until("never")).await;
    reload(&house);
    let second = serving(&house).await;
    start(&house, &house.client().await, "middle", &until("never")).await;
    reload(&house);
    let new = house.client().await;
    saved(&house, "middle");
    assert_ne!(
        within("the state", new.get("eldest")).await.unwrap().state(),
        RunState::Finished
    );
    signal(second, Signal::SIGKILL);
    let info = within("the end", new.wait("middle", None)).await.unwrap();
    assert!(is_lost(&info), "{info:?}");
    // What nobody reaches any more is ended, as when a daemon ends.
    gone(&mut house, &[first, second]);
    house.run(&["true"]).expect(0);
    let found = async || new.get("eldest").await.ok();
    let gave_up = std::time::Instant::now() + DEADLINE;
    let info = loop {
        match found().await {
            Some(info) => break info,
            None if std::time::Instant::now() > gave_up => panic!("it is not found"),
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let kind = info.finished.unwrap().ending.unwrap().kind;
    assert!(matches!(kind, Some(Kind::Cancelled(_))), "{kind:?}");
    interrupted(&house, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_daemon_that_serves_is_the_end_of_what_is_kept_for_it() {
    let mut house = builder().config("drain_grace = \"0s\"\n").build();
    let first = serving(&house).await;
    start(&house, &house.client().await, "kept", &until("never")).await;
    reload(&house);
    let second = serving(&house).await;
    signal(second, Signal::SIGTERM);
    gone(&mut house, &[first, second]);
    assert!(!house.socket().exists());
    house.start_daemon();
    let info = within("the state", house.client().await.get("kept")).await.unwrap();
    let kind = info.finished.unwrap().ending.unwrap().kind;
    assert!(matches!(kind, Some(Kind::Cancelled(_))), "{kind:?}");
    interrupted(&house, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ninth_daemon_in_a_row_is_refused_until_one_has_gone() {
    let mut house = house();
    let mut daemons = vec![serving(&house).await];
    let client = house.client().await;
    start(&house, &client, "long", &until("stop")).await;
    for _ in 0..8 {
        reload(&house);
        daemons.push(serving(&house).await);
    }
    let refused = house.reload().finish();
    assert_eq!(refused.code(), 125, "{}", refused.err());
    let said = refused.err();
    assert!(
        said.contains("8 earlier daemons") && said.contains("wait for some of them"),
        "{said}"
    );
    assert_eq!(serving(&house).await, daemons[8]);
    let last = house.client().await;
    assert_ne!(
        within("the state", last.get("long")).await.unwrap().state(),
        RunState::Finished
    );
    house.write("work/stop", "");
    assert_eq!(output(&last, "long").await, b"begun\nended\n");
    drop(client);
    gone(&mut house, &daemons[..8]);
    reload(&house);
    gone(&mut house, &daemons[8..]);
    assert_eq!(output(&house.client().await, "long").await, b"begun\nended\n");
    audit_is_whole(&house, 1);
}
