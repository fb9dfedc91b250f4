//! The API as a program sees it: events, streams, the life of a run.

use std::time::Duration;

use bytes::Bytes;
use fumehood_client::Error;
use fumehood_client::proto::v1::{
    EnvironmentVariable, InputMode, ListRequest, OnDisconnect, OutputOptions, OutputSpill, OutputStream,
    ProtectionState, RunState, SignalScope, StartRequest, UsageSource, ending::Kind, run_event::Event,
};
use fumehood_tests::{Told, declared_absent, eventually, is_root, send, within};

use super::house;

fn start(id: &str, spec: fumehood_client::proto::v1::RunSpec) -> StartRequest {
    StartRequest {
        run_id: id.to_owned(),
        spec: Some(spec),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_the_documented_order_and_numbered_without_holes() {
    let house = house();
    let client = house.client().await;
    // A stream that the command closes early ends before it: `closed` still comes after `exited`.
    for script in ["echo out; echo err >&2", "exec >&- 2>&-; sleep 0.1", "true"] {
        let told = send(&client, house.script(script)).await;
        let mut order = told.order();
        order.retain(|kind| *kind != "output");
        assert_eq!(
            order,
            ["accepted", "started", "exited", "closed", "closed", "finished"],
            "{script}"
        );
        assert!(told.order()[..2] == ["accepted", "started"], "{:?}", told.order());
        let numbers: Vec<u64> = told.events.iter().map(|event| event.seq).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        assert!(
            told.events
                .iter()
                .all(|event| event.run_id == told.id() && event.time.is_some())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn started_tells_what_was_enforced_by_which_policy() {
    let house = house();
    let client = house.client().await;
    let told = send(&client, house.script("true")).await;
    let started = told.started();
    assert_eq!(started.policy_name, "default");
    let policies = client.policies().await.unwrap();
    let default = policies.iter().find(|policy| policy.is_default).unwrap();
    assert_eq!(
        (default.name.as_str(), &default.digest),
        ("default", &started.policy_digest)
    );
    assert_eq!(started.policy_digest.len(), 32);
    let entries = &started.enforcement.as_ref().unwrap().entries;
    let protections: Vec<i32> = entries.iter().map(|entry| entry.protection).collect();
    assert_eq!(
        protections,
        (1..=11).collect::<Vec<_>>(),
        "each protection once, in the order of the enum"
    );
    for entry in entries
        .iter()
        .filter(|entry| entry.requirement() == fumehood_client::proto::v1::Requirement::Required)
    {
        assert_eq!(entry.state(), ProtectionState::Active, "{entry:?}");
    }
    assert!(started.limits.as_ref().unwrap().wall.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_tells_what_was_consumed() {
    let house = house();
    let client = house.client().await;
    let told = send(
        &client,
        house.script("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo 12345; echo 1 >&2"),
    )
    .await;
    let usage = told.finished().usage.as_ref().unwrap();
    let cpu =
        |duration: &Option<_>| fumehood_client::proto::convert::duration_to_std(duration.as_ref().unwrap()).unwrap();
    assert!(
        cpu(&usage.cpu_user) + cpu(&usage.cpu_system) > Duration::ZERO,
        "{usage:?}"
    );
    assert!(
        cpu(&usage.wall) > Duration::ZERO && usage.memory_peak_bytes > 100_000,
        "{usage:?}"
    );
    assert_eq!((usage.stdout_bytes, usage.stderr_bytes), (6, 2));
    if is_root() && !declared_absent("CGROUPS") {
        assert_eq!(usage.source(), UsageSource::Cgroup);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_after_the_fact_from_any_event_gives_the_same_bytes() {
    let house = house();
    let client = house.client().await;
    let told = send(
        &client,
        house.script("for i in 1 2 3 4 5; do echo line $i; sleep 0.01; done"),
    )
    .await;
    assert_eq!(told.out(), "line 1\nline 2\nline 3\nline 4\nline 5\n");
    for from in [0, 1, 2, 4, told.events.len() as u64] {
        let mut again = within("attach", client.attach_stream(told.id(), from)).await.unwrap();
        let again = Told::all(again.events()).await;
        let skipped = from.saturating_sub(1) as usize;
        assert_eq!(again.events, told.events[skipped..], "from {from}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_kept_comes_as_a_gap_with_exact_counts() {
    const BYTES: u64 = 3_000_000;
    let house = house();
    let client = house.client().await;
    let mut spec = house.script("seq 1 1000000 | head -c 3000000");
    spec.output = Some(OutputOptions {
        keep_bytes: Some(64 * 1024),
        spill: OutputSpill::No.into(),
        ..OutputOptions::default()
    });
    let id = client.start(start("", spec)).await.unwrap().run.unwrap().run_id;
    let run = within("the end", client.wait(&id, None)).await.unwrap();
    assert_eq!(run.finished.unwrap().usage.unwrap().stdout_bytes, BYTES);

    let mut late = within("attach", client.attach_stream(&id, 0)).await.unwrap();
    let told = Told::all(late.events()).await;
    let gaps = told.gaps();
    assert_eq!(gaps.len(), 1, "what is lost in one piece comes as one gap");
    // `output` asserts that every offset is where the one before, or the gap, ended.
    let kept = told.output(OutputStream::Stdout);
    assert_eq!(kept.len() as u64 + gaps[0].stdout_bytes, BYTES);
    assert_eq!(gaps[0].stderr_bytes, 0);
    assert!(
        kept.starts_with(b"1\n2\n3\n") && kept.len() <= 80 * 1024,
        "{}",
        kept.len()
    );
    let at = told
        .events
        .iter()
        .position(|event| matches!(event.event, Some(Event::Gap(_))))
        .unwrap();
    assert_eq!(
        told.events[at].seq,
        told.events[at - 1].seq + 1,
        "a gap carries the number of the first event it stands for"
    );
    assert_eq!(told.events[at + 1].seq, gaps[0].next_seq);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_started_can_be_asked_about_waited_for_and_released() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.script("read go; echo went");
    spec.input = InputMode::Stream.into();
    spec.labels.insert("purpose".to_owned(), "test".to_owned());
    let response = client.start(start("ask-about-me", spec)).await.unwrap();
    assert!(!response.existed);
    let run = client
        .wait("ask-about-me", Some(Duration::from_millis(1)))
        .await
        .unwrap();
    assert!(run.finished.is_none(), "the time was over before the run was");
    assert_eq!(run.labels["purpose"], "test");

    let refused = client.release("ask-about-me").await.unwrap_err();
    assert!(
        matches!(&refused, Error::Precondition { violations, .. } if violations.len() == 1),
        "{refused:?}"
    );
    let mut attached = client.attach_stream("ask-about-me", 0).await.unwrap();
    attached.input().send_stdin(Bytes::from_static(b"go\n")).await.unwrap();
    let told = Told::all(attached.events()).await;
    assert_eq!(told.out(), "went\n");

    let run = client.get("ask-about-me").await.unwrap();
    assert_eq!(run.state(), RunState::Finished);
    assert_eq!(run.finished.as_ref(), Some(told.finished()));
    assert_eq!(run.last_seq, told.events.len() as u64);
    assert!(run.accepted_at.is_some() && run.started_at.is_some() && run.finished_at.is_some());
    client.release("ask-about-me").await.unwrap();
    assert!(matches!(client.get("ask-about-me").await, Err(Error::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_listed_newest_first_page_by_page() {
    let house = house();
    let client = house.client().await;
    for n in 0..5 {
        client
            .start(start(&format!("run-{n}"), house.script("true")))
            .await
            .unwrap();
        within("its end", client.wait(format!("run-{n}"), None)).await.unwrap();
    }
    let (mut ids, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = client
            .list(ListRequest {
                page_size: 2,
                page_token: token,
                ..ListRequest::default()
            })
            .await
            .unwrap();
        pages += 1;
        assert!(page.runs.len() <= 2);
        ids.extend(page.runs.into_iter().map(|run| run.run_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(ids, ["run-4", "run-3", "run-2", "run-1", "run-0"]);
    let running = ListRequest {
        states: vec![RunState::Running.into()],
        ..ListRequest::default()
    };
    assert!(client.list(running).await.unwrap().runs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_the_leader_the_group_or_the_tree() {
    let house = house();
    let client = house.client().await;
    // The shell starts a child in a group of its own; who gets the signal says so.
    let script = "trap 'echo leader' USR1; setsid sh -c 'trap \"echo child; exit\" USR1; echo ready; while :; do sleep 0.02; done' & \
                  while :; do sleep 0.02; done";
    for (scope, child_too) in [
        (SignalScope::Leader, false),
        (SignalScope::Group, false),
        (SignalScope::Tree, true),
    ] {
        let mut run = client.run(start("", house.script(script))).await.unwrap();
        let ready = |event: &Event| matches!(event, Event::Output(output) if output.data.ends_with(b"ready\n"));
        let told = Told::until(run.events(), ready).await;
        client.signal(told.id(), nix::libc::SIGUSR1, scope).await.unwrap();
        let leader = |event: &Event| matches!(event, Event::Output(output) if output.data.windows(6).any(|text| text == b"leader"));
        let mut said = Told::until(run.events(), leader).await;
        client.kill(told.id(), Some(Duration::ZERO), "").await.unwrap();
        said.events.extend(Told::all(run.events()).await.events);
        let output: Vec<u8> = said
            .events
            .iter()
            .filter_map(|event| match &event.event {
                Some(Event::Output(output)) => Some(output.data.to_vec()),
                _ => None,
            })
            .flatten()
            .collect();
        let output = String::from_utf8(output).unwrap();
        // A tree's signal reaches the child as well, but when it says so is its own affair.
        assert!(output.contains("leader"), "{output}");
        assert!(child_too || !output.contains("child"), "{scope:?}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_the_tree_before_it_returns_and_names_who_asked() {
    let house = house();
    let client = house.client().await;
    let mut run = client
        .run(start(
            "",
            house.script("setsid sleep 86400 & sleep 86400 & echo ready; wait"),
        ))
        .await
        .unwrap();
    let told = Told::until(run.events(), |event| matches!(event, Event::Output(_))).await;
    let info = within(
        "the kill",
        client.kill(told.id(), Some(Duration::from_secs(5)), "enough"),
    )
    .await
    .unwrap();
    let left = fumehood_tests::holding(&house.workspace());
    assert!(!left.iter().any(|process| process.comm == "sleep"), "{left:?}");
    let finished = info.finished.unwrap();
    let Some(Kind::Cancelled(cancelled)) = finished.ending.unwrap().kind else {
        panic!("not cancelled")
    };
    assert_eq!(cancelled.cause, fumehood_client::proto::v1::CancelCause::Kill as i32);
    assert_eq!(
        (cancelled.by, cancelled.reason),
        (format!("uid:{}", house.uid()), "enough".to_owned())
    );
    assert_eq!(finished.shell_code, 137);
    client
        .kill(told.id(), None, "")
        .await
        .expect("killing a finished run is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_variables_directories_and_input_are_bytes() {
    const ODD: &[u8] = b"\xff\xfe odd \x01";
    let house = house();
    let client = house.client().await;
    let directory = std::os::unix::ffi::OsStringExt::from_vec(b"d\xffr".to_vec());
    let directory: std::ffi::OsString = directory;
    std::fs::create_dir(house.workspace().join(&directory)).unwrap();
    let mut spec = house.spec(&["sh", "-c", "printf '%s|%s|' \"$1\" \"$V\"; pwd; cat", "sh"]);
    spec.argv.push(Bytes::from_static(ODD));
    spec.env.push(EnvironmentVariable {
        name: Bytes::from_static(b"V"),
        value: Bytes::from_static(ODD),
    });
    spec.cwd = Bytes::from_static(b"d\xffr");
    spec.input = InputMode::Stream.into();
    let mut run = client.run(start("", spec)).await.unwrap();
    run.input().send_stdin(Bytes::from_static(ODD)).await.unwrap();
    run.input().close_stdin().await.unwrap();
    let told = Told::all(run.events()).await;
    let mut expected = [ODD, b"|", ODD, b"|"].concat();
    expected.extend(house.workspace().as_os_str().as_encoded_bytes());
    expected.extend([b"/d\xffr\n", ODD].concat());
    assert_eq!(told.output(OutputStream::Stdout), expected, "{}", told.out());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_kept_outlives_its_connection_and_another_client_finds_it() {
    let house = house();
    let first = house.client().await;
    let mut spec = house.script("echo one; read go; echo two");
    spec.input = InputMode::Stream.into();
    spec.on_disconnect = OnDisconnect::Keep.into();
    let mut run = first.run(start("kept", spec)).await.unwrap();
    Told::until(run.events(), |event| matches!(event, Event::Output(_))).await;
    drop(run);
    drop(first);

    let second = house.client().await;
    let mut run = within("attach", second.attach_stream("kept", 0)).await.unwrap();
    run.input().send_stdin(Bytes::from_static(b"go\n")).await.unwrap();
    let told = Told::all(run.events()).await;
    assert_eq!(told.out(), "one\ntwo\n");
    assert_eq!(told.finished().shell_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_not_kept_ends_with_its_stream() {
    let house = house();
    let client = house.client().await;
    let mut run = client
        .run(start("dropped", house.script("echo ready; sleep 86400")))
        .await
        .unwrap();
    Told::until(run.events(), |event| matches!(event, Event::Output(_))).await;
    drop(run);
    let info = within("its end", client.wait("dropped", None)).await.unwrap();
    let Some(Kind::Cancelled(cancelled)) = info.finished.unwrap().ending.unwrap().kind else {
        panic!("not cancelled")
    };
    assert_eq!(
        cancelled.cause,
        fumehood_client::proto::v1::CancelCause::Disconnect as i32
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_never_holds_a_command_back_unless_it_asked_to() {
    use fumehood_client::proto::v1::FlowControl;
    const BYTES: u64 = 8_000_000;
    let house = house();
    let client = house.client().await;
    let with = |flow: FlowControl| {
        let mut spec = house.script("seq 1 10000000 | head -c 8000000; touch written");
        spec.output = Some(OutputOptions {
            keep_bytes: Some(64 * 1024),
            flow: flow.into(),
            ..OutputOptions::default()
        });
        spec
    };
    // Nobody reads: the command ends all the same.
    let mut run = client.run(start("", with(FlowControl::Drop))).await.unwrap();
    let id = within("accepted", run.events().next()).await.unwrap().unwrap().run_id;
    let info = within("its end", client.wait(&id, None)).await.unwrap();
    assert_eq!(info.finished.unwrap().usage.unwrap().stdout_bytes, BYTES);
    let mut told = Told::all(run.events()).await;
    let lost: u64 = told.gaps().iter().map(|gap| gap.stdout_bytes).sum();
    assert_eq!(told.output(OutputStream::Stdout).len() as u64 + lost, BYTES);
    std::fs::remove_file(house.workspace().join("written")).unwrap();

    // Nobody reads, and the command waits: what is under way is far less than what it wants to write.
    let mut run = client.run(start("", with(FlowControl::Block))).await.unwrap();
    let id = within("accepted", run.events().next()).await.unwrap().unwrap().run_id;
    let info = client.wait(&id, Some(Duration::from_millis(700))).await.unwrap();
    assert!(info.finished.is_none() && !house.workspace().join("written").exists());
    told = Told::all(run.events()).await;
    assert!(told.gaps().is_empty());
    assert_eq!(told.output(OutputStream::Stdout).len() as u64, BYTES);
    eventually(Duration::from_secs(1), "the command's end", || {
        house.workspace().join("written").exists().then_some(())
    });
}
