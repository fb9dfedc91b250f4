//! A log that two daemons write to: what each adds, what a dead one leaves.

use std::io::Write as _;

use super::*;

/// An old daemon with an open run, and a new one that has taken over from it.
async fn two(log: &Log) -> (AuditLog, AuditLog) {
    let old = AuditLog::open(&log.path, "old").unwrap();
    old.intent(&intent("kept")).await.unwrap();
    let file = old.lend().await.unwrap();
    let new = AuditLog::take_over(file, &log.path, "new", "old").unwrap();
    old.share().await.unwrap();
    new.go_on().await.unwrap();
    (old, new)
}

#[tokio::test]
async fn asking_for_the_log_changes_nothing_in_it() {
    let log = Log::new();
    let old = AuditLog::open(&log.path, "old").unwrap();
    let before = log.kinds();
    drop(old.lend().await.unwrap());
    // A daemon that failed before it took over.
    let new = AuditLog::take_over(old.lend().await.unwrap(), &log.path, "new", "old").unwrap();
    new.close().await.unwrap();
    assert_eq!(log.kinds(), before);
    old.intent(&intent("a")).await.unwrap();
    assert!(log.records()[1].get("instance").is_none());
    old.close().await.unwrap();
    assert_eq!(verify(&log.path).unwrap().records, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_write_one_log_in_turns_and_each_says_what_it_began() {
    let log = Log::new();
    let (old, new) = two(&log).await;
    assert_eq!(log.kinds(), ["log_opened", "intent", "log_continued"]);
    let many = |audit: AuditLog, name: &'static str| async move {
        for number in 0..40 {
            audit.intent(&intent(&format!("{name}{number}"))).await.unwrap();
            audit.end(&end(&format!("{name}{number}"))).await.unwrap();
        }
    };
    let writing = [(old.clone(), "o"), (new.clone(), "n")].map(|(audit, name)| tokio::spawn(many(audit, name)));
    for one in writing {
        one.await.unwrap();
    }
    let report = verify(&log.path).unwrap();
    assert_eq!(
        (report.intents, report.ends, report.open, report.interrupted),
        (81, 80, 1, 0)
    );
    for record in log.records().iter().skip(3).filter(|record| record["kind"] == "intent") {
        let olds = record["run_id"].as_str().unwrap().starts_with('o');
        assert_eq!(record.get("instance").is_some(), olds, "{record}");
    }
    // The old one's end of what it kept, and its own, make nothing look interrupted.
    old.end(&end("kept")).await.unwrap();
    old.close().await.unwrap();
    new.intent(&intent("last")).await.unwrap();
    let report = verify(&log.path).unwrap();
    assert_eq!((report.open, report.interrupted), (1, 0));
    new.close().await.unwrap();
}

#[tokio::test]
async fn the_first_record_of_a_successor_says_first_that_it_goes_on() {
    let log = Log::new();
    let old = AuditLog::open(&log.path, "old").unwrap();
    let new = AuditLog::take_over(old.lend().await.unwrap(), &log.path, "new", "old").unwrap();
    // What is written meanwhile is no change by a stranger.
    old.intent(&intent("a")).await.unwrap();
    old.share().await.unwrap();
    let record = new.intent(&intent("b")).await.unwrap();
    assert_eq!(record.seq, 4);
    assert_eq!(log.kinds(), ["log_opened", "intent", "log_continued", "intent"]);
    new.go_on().await.unwrap();
    assert_eq!(log.kinds().len(), 4, "it is said once");
    old.close().await.unwrap();
    new.close().await.unwrap();
    verify(&log.path).unwrap();
}

#[tokio::test]
async fn what_a_dead_one_left_is_closed_by_the_other_and_nothing_else_is() {
    let log = Log::new();
    let (old, new) = two(&log).await;
    new.intent(&intent("mine")).await.unwrap();
    old.intent(&intent("later")).await.unwrap();
    // It dies in the middle of a record.
    drop(old);
    let mut file = fs::OpenOptions::new().append(true).open(&log.path).unwrap();
    file.write_all(br#"{"seq":6,"time":"#).unwrap();
    new.interrupt("old").await.unwrap();
    let closed: Vec<_> = log
        .records()
        .into_iter()
        .filter(|record| record["kind"] == "interrupted")
        .collect();
    let runs: Vec<_> = closed.iter().map(|record| record["run_id"].as_str().unwrap()).collect();
    assert_eq!(runs, ["kept", "later"]);
    let report = verify(&log.path).unwrap();
    assert_eq!((report.open, report.interrupted), (1, 2));
    new.interrupt("old").await.unwrap();
    assert_eq!(verify(&log.path).unwrap().interrupted, 2, "once");
    // The one that died may be the one that came later.
    new.close().await.unwrap();
    let last = AuditLog::open(&log.path, "last").unwrap();
    assert_eq!(last.opened().interrupted, ["mine"]);
    last.close().await.unwrap();
    verify(&log.path).unwrap();
}

#[tokio::test]
async fn a_stranger_finds_the_log_in_use_until_the_last_has_closed_it() {
    let log = Log::new();
    let (old, new) = two(&log).await;
    old.end(&end("kept")).await.unwrap();
    old.close().await.unwrap();
    assert!(matches!(
        AuditLog::open(&log.path, "third"),
        Err(OpenError::InUse { .. })
    ));
    new.close().await.unwrap();
    let third = AuditLog::open(&log.path, "third").unwrap();
    assert_eq!(third.opened(), &Opened::default());
    third.close().await.unwrap();
}

#[tokio::test]
async fn what_is_no_record_of_the_other_one_stops_both() {
    let log = Log::new();
    let (old, new) = two(&log).await;
    let mut file = fs::OpenOptions::new().append(true).open(&log.path).unwrap();
    file.write_all(b"{\"forged\":true}\n").unwrap();
    for audit in [&old, &new] {
        let error = audit.intent(&intent("x")).await.unwrap_err();
        assert!(matches!(error, AuditError::Changed { .. }), "{error}");
    }
    drop((old, new));
}
