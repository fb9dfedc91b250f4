//! Runs that somebody ends: at every stage of their life, with every grace, whatever their trees do about it.

use std::time::{Duration, Instant};

use fumehood_client::proto::convert::duration_from_std;
use fumehood_client::proto::v1::{
    CancelCause, InputMode, RequestedLimits, RunInfo, RunState, StartRequest, TerminalOptions, TimeLimit, ending::Kind,
    run_event::Event,
};
use fumehood_client::{Client, RunHandle};
use fumehood_tests::{DEADLINE, House, Told, eventually, inline, within};
use nix::sys::signal::Signal;

use super::{builder, house};

fn request(id: &str, spec: fumehood_client::proto::v1::RunSpec) -> StartRequest {
    StartRequest {
        run_id: id.to_owned(),
        spec: Some(spec),
    }
}

/// Starts `sh -c SCRIPT` and waits until it has said `ready`.
async fn ready(client: &Client, house: &House, id: &str, script: &str) -> (RunHandle, Told) {
    let mut run = within("a run", client.run(request(id, house.script(script))))
        .await
        .unwrap();
    let said = |event: &Event| matches!(event, Event::Output(output) if output.data.ends_with(b"ready\n"));
    let told = Told::until(run.events(), said).await;
    (run, told)
}

async fn kill(client: &Client, id: &str, grace: Duration) -> RunInfo {
    within("the kill", client.kill(id, Some(grace), "enough"))
        .await
        .unwrap()
}

/// Asserts that a run was cancelled by a kill of ours.
#[track_caller]
fn expect_killed(info: &RunInfo) {
    let finished = info.finished.as_ref().expect("it is over");
    let Some(Kind::Cancelled(cancelled)) = finished.ending.as_ref().and_then(|ending| ending.kind.as_ref()) else {
        panic!("{finished:?}")
    };
    assert_eq!(
        (cancelled.cause(), cancelled.reason.as_str()),
        (CancelCause::Kill, "enough")
    );
    assert_eq!(finished.shell_code, 137);
}

/// Asserts that no process of this name is left.
#[track_caller]
fn expect_none(house: &House, comm: &str) {
    let left = fumehood_tests::holding(&house.workspace());
    assert!(left.iter().all(|process| process.comm != comm), "{left:?}");
}

const NONE: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_for_a_place_is_cancelled_without_having_started() {
    let house = builder().config("max_runs = 1").build();
    let client = house.client().await;
    let _running = ready(&client, &house, "first", "echo ready; sleep 86400").await;
    let queued = client
        .start(request("queued", house.script("touch ran")))
        .await
        .unwrap();
    assert_eq!(queued.run.unwrap().state(), RunState::Queued);
    expect_killed(&kill(&client, "queued", LONG).await);
    let told = Told::all(client.attach_stream("queued", 0).await.unwrap().events()).await;
    assert_eq!(told.order(), ["accepted", "finished"]);
    kill(&client, "first", NONE).await;
    assert!(!house.workspace().join("ran").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_for_an_approval_is_cancelled_without_having_started() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.spec(&["touch", "ran"]);
    spec.policy = inline(
        "version = 1\nname = \"asks\"\nextends = [\"default\"]\n[[commands.rules]]\nprogram = \"touch\"\ndecision = \"ask\"\nreason = \"x\"\n",
    );
    let mut run = client.run(request("asks", spec)).await.unwrap();
    Told::until(run.events(), |event| matches!(event, Event::ApprovalRequested(_))).await;
    assert_eq!(client.get("asks").await.unwrap().state(), RunState::AwaitingApproval);
    expect_killed(&kill(&client, "asks", LONG).await);
    let told = Told::all(run.events()).await;
    assert!(!told.order().contains(&"started"), "{:?}", told.order());
    assert!(!house.workspace().join("ran").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_sandbox_is_being_built_is_cancelled_without_having_started() {
    let house = house();
    let client = house.client().await;
    let launcher = house.launcher();
    launcher.signal(Signal::SIGSTOP);
    let mut run = client
        .run(request("starting", house.script("touch ran")))
        .await
        .unwrap();
    while client.get("starting").await.unwrap().state() != RunState::Starting {}
    let killing = tokio::spawn({
        let client = client.clone();
        async move { kill(&client, "starting", LONG).await }
    });
    // The log tells that the request has arrived.
    eventually(Duration::from_secs(10), "the record of the kill", || {
        house
            .records()
            .into_iter()
            .find(|record| record["kind"] == "run_killed")
    });
    launcher.signal(Signal::SIGCONT);
    expect_killed(&killing.await.unwrap());
    assert_eq!(Told::all(run.events()).await.order(), ["accepted", "finished"]);
    assert!(!house.workspace().join("ran").exists());
    house.sh("echo works").expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_command_is_asked_to_end_and_what_it_wrote_stays() {
    let house = house();
    let client = house.client().await;
    let script = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.02; done";
    let (mut run, mut told) = ready(&client, &house, "asked", script).await;
    expect_killed(&kill(&client, "asked", LONG).await);
    told.events.extend(Told::all(run.events()).await.events);
    assert_eq!(told.out(), "ready\nasked\n");
    // How the command itself took it.
    let status = told.exited().status.clone();
    assert!(format!("{status:?}").contains("code: 3"), "{status:?}");
    // Without a grace it is not asked.
    let (mut run, mut told) = ready(&client, &house, "not-asked", script).await;
    expect_killed(&kill(&client, "not-asked", NONE).await);
    told.events.extend(Told::all(run.events()).await.events);
    assert_eq!(told.out(), "ready\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_command_hears_that_it_is_asked_to_end() {
    let house = house();
    let client = house.client().await;
    let script = "trap 'echo asked; exit 3' TERM; echo ready; kill -STOP $$; while :; do sleep 0.02; done";
    let (mut run, mut told) = ready(&client, &house, "stopped", script).await;
    let shell = fumehood_tests::holding(&house.workspace());
    let is_stopped = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") T ")
    };
    eventually(Duration::from_secs(10), "the stop", || {
        shell.iter().any(|process| is_stopped(process.pid)).then_some(())
    });
    expect_killed(&kill(&client, "stopped", LONG).await);
    told.events.extend(Told::all(run.events()).await.events);
    assert_eq!(told.out(), "ready\nasked\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_kill_with_less_grace_is_the_one_that_counts() {
    let house = house();
    let client = house.client().await;
    let script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.02; done";
    let (mut run, _) = ready(&client, &house, "twice", script).await;
    let first = tokio::spawn({
        let client = client.clone();
        async move { kill(&client, "twice", LONG).await }
    });
    let asked = |event: &Event| matches!(event, Event::Output(output) if output.data.ends_with(b"asked\n"));
    Told::until(run.events(), asked).await;
    assert_eq!(client.get("twice").await.unwrap().state(), RunState::Ending);
    let second = within("the kill", client.kill("twice", Some(NONE), "now"))
        .await
        .unwrap();
    // The first is why it ends.
    expect_killed(&second);
    expect_killed(&first.await.unwrap());
    // A longer one gives no respite.
    let (_run, _) = ready(&client, &house, "shortened", script).await;
    let grace = Duration::from_millis(300);
    let first = tokio::spawn({
        let client = client.clone();
        async move { kill(&client, "shortened", grace).await }
    });
    while client.get("shortened").await.unwrap().state() != RunState::Ending {}
    let begun = Instant::now();
    within("the kill", client.kill("shortened", Some(LONG), ""))
        .await
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15));
    expect_killed(&first.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_the_output_of_an_ended_command_is_awaited_ends_what_is_left() {
    let house = house();
    let client = house.client().await;
    // Its child holds the output open.
    let script = "sh -c 'trap \"\" TERM; sleep 86400' & echo ready; exit 3";
    let mut run = client.run(request("draining", house.script(script))).await.unwrap();
    let mut told = Told::until(run.events(), |event| matches!(event, Event::Exited(_))).await;
    let info = kill(&client, "draining", LONG).await;
    expect_none(&house, "sleep");
    told.events.extend(Told::all(run.events()).await.events);
    // It had ended by itself.
    assert!(
        matches!(told.ending(), Kind::Exited(exited) if exited.code == 3),
        "{:?}",
        told.ending()
    );
    assert_eq!((told.out().as_str(), info.finished.unwrap().shell_code), ("ready\n", 3));
    assert!(told.exited().leftover_count >= 1);
}

/// A tree of so many processes that do not mind the stop signal, in sessions of their own in part.
fn tree(processes: u32) -> String {
    format!(
        "trap '' TERM HUP; for i in $(seq {}); do sleep 86400 & setsid sleep 86400 & done; echo ready; wait",
        processes / 2
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_processes_are_gone_when_the_kill_returns() {
    let house = house();
    let client = house.client().await;
    for (id, grace) in [("at-once", NONE), ("after", Duration::from_millis(200))] {
        let (_run, _) = ready(&client, &house, id, &tree(500)).await;
        let below = eventually(DEADLINE, "five hundred processes", || {
            let mut below = house.below_daemon();
            below.retain(|process| process.comm == "sleep");
            (below.len() >= 500).then_some(below)
        });
        expect_killed(&kill(&client, id, grace).await);
        let living: Vec<_> = below.iter().filter(|process| process.lives()).collect();
        assert!(living.is_empty(), "{} of them", living.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_limit_ends_a_tree_that_ignores_it_after_the_grace() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.script(&tree(20));
    spec.limits = Some(RequestedLimits {
        wall: Some(duration_from_std(Duration::from_millis(500))),
        grace: Some(duration_from_std(Duration::from_millis(300))),
        ..Default::default()
    });
    let mut run = client.run(request("stubborn", spec)).await.unwrap();
    let told = Told::all(run.events()).await;
    let Kind::TimedOut(timed_out) = told.ending() else {
        panic!("{:?}", told.ending())
    };
    assert_eq!((timed_out.limit(), told.out().as_str()), (TimeLimit::Wall, "ready\n"));
    let wall = told.finished().usage.as_ref().unwrap().wall.as_ref().unwrap();
    assert!(
        wall.seconds > 0 || wall.nanos >= 700_000_000,
        "the grace was given: {wall:?}"
    );
    expect_none(&house, "sleep");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_on_a_terminal_which_ignores_the_stop_signal_hears_that_it_is_hung_up() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.spec(&["bash", "--norc", "-i"]);
    spec.terminal = Some(TerminalOptions::default());
    let patient =
        "version = 1\nname = \"patient\"\nextends = [\"default\"]\n[limits]\nwall = \"500ms\"\ngrace = \"1h\"\n";
    spec.policy = inline(patient);
    let mut run = client.run(request("shell", spec)).await.unwrap();
    let told = Told::all(run.events()).await;
    assert!(matches!(told.ending(), Kind::TimedOut(_)), "{:?}", told.ending());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_what_waits_at_once_and_says_so() {
    let mut house = builder().config("max_runs = 1\ndrain_grace = \"20s\"").build();
    let client = house.client().await;
    let mut spec = house.script("echo ready; read go");
    spec.input = InputMode::Stream.into();
    let mut running = client.run(request("running", spec)).await.unwrap();
    Told::until(running.events(), |event| matches!(event, Event::Output(_))).await;
    let mut queued = client.run(request("queued", house.script("touch ran"))).await.unwrap();
    Told::until(queued.events(), |event| matches!(event, Event::Accepted(_))).await;
    house.signal(Signal::SIGTERM);
    let told = Told::all(queued.events()).await;
    assert!(
        matches!(told.ending(), Kind::Cancelled(cancelled) if cancelled.cause() == CancelCause::Drain),
        "{:?}",
        told.ending()
    );
    running.input().close_stdin().await.unwrap();
    assert!(matches!(Told::all(running.events()).await.ending(), Kind::Exited(_)));
    assert!(house.wait_for_end().success());
    assert!(!house.workspace().join("ran").exists());
}
