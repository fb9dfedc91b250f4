//! Who did what to a run, in the audit log.

use std::time::Duration;

use fumehood_tests::{DEADLINE, House, as_root_only, eventually, within};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::approvals::{house_of_a_stranger, strangers};
use super::{for_both, house};

/// Records of this kind, once there are so many.
fn records(house: &House, kind: &str, at_least: usize) -> Vec<Value> {
    eventually(DEADLINE, kind, || {
        let mut records = house.records();
        records.retain(|record| record["kind"] == kind);
        (records.len() >= at_least).then_some(records)
    })
}

fn detached(house: &House, script: &str) -> String {
    let started = house
        .run_with(&["--detach", "--interactive"], &["sh", "-c", script])
        .finish();
    started.expect(0).out().trim().to_owned()
}

#[test]
fn what_others_do_to_a_run_is_recorded_and_told_without_what_they_said() {
    for_both(|house| {
        let id = detached(
            house,
            "trap 'echo caught' INT; read line; echo got; while :; do sleep 0.02; done",
        );
        // Its end is the end of the input, too.
        let mut feeds = house
            .cli()
            .args(["attach", "--input", &id])
            .input("secret-word\n")
            .start();
        feeds.wait_for("got");
        let input = records(house, "run_input", 0);
        assert!(input.is_empty(), "it is counted when the attachment ends: {input:?}");
        feeds.signal(Signal::SIGINT);
        feeds.finish().expect(0);
        let mut signals = house.cli().args(["attach", "--signals", "--from-start", &id]).start();
        signals.wait_for("got");
        signals.signal(Signal::SIGINT);
        signals.wait_for("caught");
        signals.signal(Signal::SIGKILL);
        let _ = signals.finish();
        house
            .cli()
            .args(["kill", "--grace", "0s", "--reason", "enough", &id])
            .finish()
            .expect(0);
        house.cli().args(["logs", &id]).finish().expect(0);
        house.cli().args(["rm", &id]).finish().expect(0);

        let me = format!("uid:{}", house.uid());
        let of_run = |kind: &str, at_least| -> Vec<Value> {
            let records = records(house, kind, at_least);
            let own = |record: &Value| record["run_id"].as_str().unwrap().starts_with(&id);
            assert!(
                records
                    .iter()
                    .all(|record| own(record) && record["peer"] == me.as_str()),
                "{records:?}"
            );
            assert!(
                records.iter().all(|record| record["peer_pid"].as_i64() > Some(0)),
                "{records:?}"
            );
            records
        };
        assert_eq!(of_run("run_released", 1).len(), 1);
        // The one that fed it, the one with signals, and `logs`; not the program that started it.
        assert_eq!(of_run("run_attached", 3).len(), 3);
        let input = of_run("run_input", 1);
        assert_eq!(
            (input.len(), &input[0]["bytes"], &input[0]["count"]),
            (1, &12.into(), &1.into())
        );
        assert_eq!(of_run("run_signalled", 1)[0]["signals"], serde_json::json!([2]));
        assert_eq!(of_run("run_killed", 1).len(), 1);
        let log = std::fs::read_to_string(house.audit()).unwrap();
        assert!(!log.contains("secret-word"), "{log}");

        let audit = house.audit().display().to_string();
        let told = house.cli().args(["audit", "show", &audit]).finish();
        let short = &id[id.len() - 12..];
        for words in [
            "attached to\n",
            "got 12 B of input\n",
            "got SIGINT\n",
            "asked to end\n",
            "removed, and its output with it\n",
        ] {
            let line = format!("run {short} {words}");
            assert!(told.expect(0).out().contains(&line), "{line:?}: {}", told.out());
        }
        house.cli().args(["audit", "verify", &audit]).finish().expect(0);
    });
}

#[test]
fn the_program_that_stands_in_for_a_run_is_not_recorded_but_for_its_signals() {
    let house = house();
    let mut run = house
        .run_with(
            &[],
            &[
                "sh",
                "-c",
                "trap 'exit 3' INT; echo ready; while :; do sleep 0.02; done",
            ],
        )
        .start();
    run.wait_for("ready");
    run.signal(Signal::SIGINT);
    run.finish().expect(3);
    records(&house, "end", 1);
    assert_eq!(records(&house, "run_signalled", 1).len(), 1);
    for kind in ["run_attached", "run_input", "run_killed", "run_released"] {
        assert!(records(&house, kind, 0).is_empty(), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_attachments_is_a_few_records_that_account_for_it() {
    const FLOOD: u64 = 250;
    let house = house();
    let client = house.client().await;
    let id = detached(&house, "read go");
    for number in 0..FLOOD {
        let run = within("an attachment", client.attach_stream(id.as_str(), 0))
            .await
            .unwrap();
        run.input().send_stdin("x".into()).await.unwrap();
        // The next begins when this one's input has arrived.
        while client.get(id.as_str()).await.unwrap().input_bytes <= number {}
    }
    client.kill(id.as_str(), Some(Duration::ZERO), "").await.unwrap();
    records(&house, "end", 1);
    let sum = |kind: &str, field: &str| -> (usize, u64) {
        let records = records(&house, kind, 1);
        (
            records.len(),
            records.iter().map(|record| record[field].as_u64().unwrap()).sum(),
        )
    };
    // Each of the first ten, the hundredth, and the rest.
    assert_eq!(sum("run_attached", "count"), (12, FLOOD));
    let (count, bytes) = sum("run_input", "bytes");
    assert!(count <= 14 && bytes == FLOOD, "{count} records of {bytes} bytes");
}

#[test]
fn another_user_who_may_is_recorded_by_name() {
    if !as_root_only("root at another user's run") {
        return;
    }
    let (house, workspace) = house_of_a_stranger();
    let started = strangers(&house, &workspace, "default", &["--detach"], &["sleep", "86400"]).finish();
    let id = started.expect(0).out().trim().to_owned();
    house.cli().args(["kill", "--grace", "0s", &id]).finish().expect(0);
    house.cli().args(["rm", &id]).finish().expect(0);
    for kind in ["run_killed", "run_released"] {
        let record = &records(&house, kind, 1)[0];
        assert_eq!(record["peer"], "uid:0");
        assert!(record["run_id"].as_str().unwrap().ends_with("@uid:54323"), "{record}");
    }
}
