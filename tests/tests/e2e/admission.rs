//! How many runs there may be, and how the daemon stops taking them.

use std::time::Duration;

use fumehood_client::Error;
use fumehood_client::proto::v1::{CancelCause, InputMode, RunState, StartRequest, ending::Kind, run_event::Event};
use fumehood_tests::{House, Told, eventually, within};
use nix::sys::signal::Signal;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{builder, house};

fn waiting(house: &House, id: &str) -> StartRequest {
    let mut spec = house.script("echo ready; read go; echo went");
    spec.input = InputMode::Stream.into();
    StartRequest {
        run_id: id.to_owned(),
        spec: Some(spec),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_beyond_the_bound_wait_and_beyond_the_queue_are_told_when_to_come_again() {
    let house = builder().config("max_runs = 1\nmax_queue = 1").build();
    let client = house.client().await;
    let mut first = client.run(waiting(&house, "first")).await.unwrap();
    Told::until(first.events(), |event| matches!(event, Event::Output(_))).await;
    let second = client.start(waiting(&house, "second")).await.unwrap().run.unwrap();
    assert_eq!(second.state(), RunState::Queued);

    let Err(Error::Exhausted { retry_after, .. }) = client.start(waiting(&house, "third")).await else {
        panic!("the third was taken")
    };
    assert!(retry_after.unwrap() > Duration::ZERO);
    let ended = house.run(&["true"]);
    ended.expect(125);

    // A place is handed on; a run in the queue can be ended as any other.
    first.input().close_stdin().await.unwrap();
    Told::all(first.events()).await;
    let mut second = client.attach_stream("second", 0).await.unwrap();
    let told = Told::until(second.events(), |event| matches!(event, Event::Output(_))).await;
    assert!(told.order().starts_with(&["accepted", "started"]));
    client.start(waiting(&house, "fourth")).await.unwrap();
    let fourth = within("the kill", client.kill("fourth", None, "")).await.unwrap();
    assert!(matches!(
        fourth.finished.unwrap().ending.unwrap().kind,
        Some(Kind::Cancelled(_))
    ));
    client.kill("second", Some(Duration::ZERO), "").await.unwrap();
}

async fn health(house: &House) -> HealthClient<tonic::transport::Channel> {
    let socket = house.socket();
    let connect = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move {
            tokio::net::UnixStream::connect(socket)
                .await
                .map(hyper_util::rt::TokioIo::new)
        }
    });
    let channel = tonic::transport::Endpoint::from_static("http://local")
        .connect_with_connector(connect)
        .await
        .unwrap();
    HealthClient::new(channel)
}

async fn serving(client: &mut HealthClient<tonic::transport::Channel>, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    within("health", client.check(request))
        .await
        .unwrap()
        .into_inner()
        .status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_daemon_takes_no_runs_and_lets_running_ones_finish() {
    let mut house = builder().config("drain_grace = \"20s\"").build();
    let client = house.client().await;
    let mut health = health(&house).await;
    for service in ["", "fumehood.v1.Runs"] {
        assert_eq!(serving(&mut health, service).await, ServingStatus::Serving);
    }
    let mut run = client.run(waiting(&house, "running")).await.unwrap();
    Told::until(run.events(), |event| matches!(event, Event::Output(_))).await;
    house.signal(Signal::SIGTERM);
    let gave_up = std::time::Instant::now() + Duration::from_secs(5);
    while serving(&mut health, "").await != ServingStatus::NotServing {
        assert!(std::time::Instant::now() < gave_up, "health still says that it serves");
    }
    assert_eq!(
        serving(&mut health, "fumehood.v1.Runs").await,
        ServingStatus::NotServing
    );
    let refused = client.start(waiting(&house, "late")).await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    assert!(client.version().await.unwrap().draining);

    run.input()
        .send_stdin(bytes::Bytes::from_static(b"go\n"))
        .await
        .unwrap();
    let told = Told::all(run.events()).await;
    assert_eq!((told.out().as_str(), told.finished().shell_code), ("went\n", 0));
    assert!(house.wait_for_end().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_outlasts_the_grace_of_a_drain_is_cancelled_for_it() {
    let mut house = builder().config("drain_grace = \"300ms\"").build();
    let client = house.client().await;
    let mut run = client.run(waiting(&house, "stubborn")).await.unwrap();
    Told::until(run.events(), |event| matches!(event, Event::Output(_))).await;
    house.signal(Signal::SIGTERM);
    let told = Told::all(run.events()).await;
    let Kind::Cancelled(cancelled) = told.ending() else {
        panic!("{:?}", told.ending())
    };
    assert_eq!((cancelled.cause(), cancelled.by.as_str()), (CancelCause::Drain, ""));
    assert!(house.wait_for_end().success());
    let end = house.records().pop().unwrap();
    assert!(
        house.records().iter().any(|record| record["outcome"] == "cancelled"),
        "{end}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_grace() {
    let mut house = builder().config("drain_grace = \"1h\"").build();
    let client = house.client().await;
    let mut run = client.run(waiting(&house, "stubborn")).await.unwrap();
    Told::until(run.events(), |event| matches!(event, Event::Output(_))).await;
    house.signal(Signal::SIGTERM);
    while !client.version().await.unwrap().draining {}
    house.signal(Signal::SIGTERM);
    let told = Told::all(run.events()).await;
    assert!(matches!(told.ending(), Kind::Cancelled(cancelled) if cancelled.cause() == CancelCause::Drain));
    assert!(house.wait_for_end().success());
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused_and_harms_nobody() {
    let house = house();
    let ended = house
        .cli()
        .args(["daemon", "--socket"])
        .args([house.socket()])
        .args(["--audit"])
        .args([house.path("state/other.jsonl")])
        .finish();
    ended.expect(1);
    let pid = house.daemon().pid.to_string();
    assert!(
        ended.err().contains("another daemon") && ended.err().contains(&pid),
        "{}",
        ended.err()
    );
    house.sh("true").expect(0);
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_with_line_and_column() {
    let mut house = builder().config("max_runs = 4\n\n  max_rums = 5").not_started().build();
    let (status, log) = house.try_start().unwrap_err();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("config.toml:5:3") && log.contains("max_rums"), "{log}");
}

#[test]
fn what_a_killed_daemon_left_does_not_keep_the_next_from_starting() {
    let mut house = house();
    house.kill_daemon();
    assert!(house.socket().exists(), "the stale socket is part of this test");
    eventually(Duration::from_secs(5), "the launcher's end", || {
        fumehood_tests::holding(&house.scratch()).is_empty().then_some(())
    });
    house.start_daemon();
    house.sh("true").expect(0);
}
