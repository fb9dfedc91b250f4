//! `kill -9` of each of the three processes, in the middle of runs.

use std::time::Duration;

use fumehood_client::Client;
use fumehood_client::proto::v1::{StartRequest, ending::Kind, run_event::Event};
use fumehood_tests::{House, Process, Told, Who, eventually, within};
use nix::sys::signal::Signal;

use super::{builder, house};

/// Within this time after a crash, nothing is left.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Several runs in their middle: with processes of their own, in the background, in sessions of their own.
async fn busy(house: &House, client: &Client) -> Vec<fumehood_client::RunHandle> {
    let mut runs = Vec::new();
    for n in 0..3 {
        let script = "sleep 86400 & setsid sh -c 'trap \"\" TERM HUP; sleep 86400' & echo x > /tmp/x; echo x > ~/x; echo ready; wait";
        let request = StartRequest {
            run_id: format!("busy-{n}"),
            spec: Some(house.script(script)),
        };
        let mut run = within("a run", client.run(request)).await.unwrap();
        Told::until(run.events(), |event| matches!(event, Event::Output(_))).await;
        runs.push(run);
    }
    runs
}

fn expect_gone(processes: &[Process]) {
    eventually(AT_ONCE, "the end of every process", || {
        processes.iter().all(|process| !process.lives()).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_daemon_that_was_killed_and_the_next_one_works() {
    let mut house = house();
    let client = house.client().await;
    let runs = busy(&house, &client).await;
    let below = house.below_daemon();
    assert!(below.len() >= 3 * 4, "{below:?}");
    house.kill_daemon();
    expect_gone(&below);
    house.expect_nothing_left(AT_ONCE);
    drop(runs);
    house.start_daemon();
    house.sh("echo works").expect(0);
}

#[test]
fn nothing_outlives_an_ordinary_users_daemon_that_was_killed() {
    let mut house = builder().who(Who::Ordinary).build();
    let mut run = house
        .run_with(&[], &["sh", "-c", "setsid sleep 86400 & echo ready; sleep 86400"])
        .start();
    run.wait_for("ready");
    let below = house.below_daemon();
    house.kill_daemon();
    expect_gone(&below);
    let ended = run.finish();
    ended.expect(125);
    assert!(ended.err().contains("daemon"), "{}", ended.err());
    house.expect_nothing_left(AT_ONCE);
    house.start_daemon();
    house.sh("echo works").expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_launcher_was_killed_loses_its_runs_and_goes_on() {
    let mut house = house();
    let client = house.client().await;
    let mut runs = busy(&house, &client).await;
    let (daemon, launcher) = (house.daemon(), house.launcher());
    let below = fumehood_tests::descent(launcher.pid);
    house.note_instances();
    launcher.signal(Signal::SIGKILL);
    expect_gone(&below);
    for run in &mut runs {
        let told = Told::all(run.events()).await;
        assert!(
            matches!(told.ending(), Kind::Lost(lost) if !lost.why.is_empty()),
            "{:?}",
            told.ending()
        );
        assert_eq!(told.finished().shell_code, 125);
    }
    assert!(daemon.lives());
    let code = eventually(Duration::from_secs(10), "the next launcher", || {
        (house.sh("exit 5").code() == 5).then_some(5)
    });
    assert_eq!(code, 5);
    assert_ne!(house.launcher().pid, launcher.pid);
    // What the dead one could not remove, the next one has.
    house.note_instances();
    let (dead, living): (Vec<String>, Vec<String>) = house
        .instances()
        .iter()
        .cloned()
        .partition(|instance| !house.scratch().join(instance).exists());
    assert_eq!((dead.len(), living.len()), (1, 1), "{dead:?} {living:?}");
    assert_eq!(fumehood_tests::cgroups_named(&dead), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_init_was_killed_is_lost_and_no_other_one_is() {
    let house = house();
    let client = house.client().await;
    let mut runs = busy(&house, &client).await;
    let launcher = house.launcher();
    let mut inits = fumehood_tests::descent(launcher.pid);
    inits.retain(|process| process.parent == launcher.pid && process.comm != "sleep");
    assert_eq!(inits.len(), 3, "{inits:?}");
    let below = fumehood_tests::descent(inits[0].pid);
    inits[0].signal(Signal::SIGKILL);
    expect_gone(&below);

    let lost = eventually(Duration::from_secs(5), "the lost run", || {
        let ends = house.records().into_iter().filter(|record| record["kind"] == "end");
        ends.map(|record| record["run_id"].as_str().unwrap().to_owned()).next()
    });
    let index: usize = lost.strip_prefix("busy-").unwrap().parse().unwrap();
    let told = Told::all(runs[index].events()).await;
    assert!(matches!(told.ending(), Kind::Lost(_)), "{:?}", told.ending());
    for (n, run) in runs.iter_mut().enumerate().filter(|(n, _)| *n != index) {
        assert!(client.get(format!("busy-{n}")).await.unwrap().finished.is_none());
        client
            .kill(format!("busy-{n}"), Some(Duration::ZERO), "")
            .await
            .unwrap();
        let told = Told::all(run.events()).await;
        assert!(matches!(told.ending(), Kind::Cancelled(_)), "{:?}", told.ending());
    }
    house.sh("echo works").expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_search_for_leftovers_finds_what_a_run_is_made_of_while_it_runs() {
    let mut house = house();
    let client = house.client().await;
    let runs = busy(&house, &client).await;
    house.note_instances();
    let left = house.leftovers();
    let holds = |what: &str| left.iter().filter(|line| line.contains(what)).count();
    // The daemon, and of each run the shell and init, in whose mounts the workspace is; what the shell started may be on its way.
    assert!(holds("Process") > 2 * runs.len(), "{left:#?}");
    assert!(holds("scratch ") >= 1, "{left:#?}");
    if fumehood_tests::is_root() && !fumehood_tests::declared_absent("CGROUPS") {
        assert!(holds("cgroup ") >= 1, "{left:#?}");
    }
    for n in 0..runs.len() {
        client
            .kill(format!("busy-{n}"), Some(Duration::ZERO), "")
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_starter_was_killed_reaps_it_and_its_runs_go_on() {
    let house = house();
    let client = house.client().await;
    let mut runs = busy(&house, &client).await;
    let (daemon, starter) = (house.daemon(), house.starter());
    starter.signal(Signal::SIGKILL);
    eventually(Duration::from_secs(5), "the end of the zombie", || {
        (!std::path::Path::new(&format!("/proc/{}", starter.pid)).exists()).then_some(())
    });
    assert!(daemon.lives());
    house.sh("echo works").expect(0);
    for (n, run) in runs.iter_mut().enumerate() {
        client
            .kill(format!("busy-{n}"), Some(Duration::ZERO), "")
            .await
            .unwrap();
        let told = Told::all(run.events()).await;
        assert!(matches!(told.ending(), Kind::Cancelled(_)), "{:?}", told.ending());
    }
}
