//! The log as its users see it: written, attacked, opened again, verified.

mod shared;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::*;

struct Log {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Log {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/audit.jsonl");
        Log {
            _directory: directory,
            path,
        }
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.path)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn records(&self) -> Vec<serde_json::Value> {
        self.lines()
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.records()
            .iter()
            .map(|record| record["kind"].as_str().unwrap().to_owned())
            .collect()
    }

    fn rewrite(&self, lines: &[String]) {
        fs::write(
            &self.path,
            lines.iter().map(|line| format!("{line}\n")).collect::<String>(),
        )
        .unwrap();
    }

    fn fault(&self) -> (u64, Fault) {
        match verify(&self.path).unwrap_err() {
            VerifyError::Broken(broken, _) => (broken.line, broken.fault),
            error => panic!("{error}"),
        }
    }

    /// A log of six records: opened, then run `a`, run `b` and a denial.
    async fn filled() -> Self {
        let log = Log::new();
        let audit = AuditLog::open(&log.path, "first").unwrap();
        audit.intent(&intent("a")).await.unwrap();
        audit.end(&end("a")).await.unwrap();
        audit.intent(&intent("b")).await.unwrap();
        audit.end(&end("b")).await.unwrap();
        let decision = Decision::Denied {
            rule: "commands.rm".into(),
            reason: "not here".into(),
        };
        audit
            .intent(&Intent {
                decision,
                ..intent("c")
            })
            .await
            .unwrap();
        audit.close().await.unwrap();
        log
    }
}

fn intent(run_id: &str) -> Intent {
    Intent {
        run_id: run_id.into(),
        peer: "uid:1000".into(),
        peer_pid: Some(42),
        request_digest: "00".repeat(32),
        policy_name: "default".into(),
        policy_digest: "11".repeat(32),
        policy_layers: vec!["default".into(), "org (system)".into()],
        decision: Decision::Allowed { rule: "default".into() },
        argv: vec![b"tool".to_vec(), b"--token".to_vec(), b"hunter2".to_vec()],
        env_names: vec![b"LANG".to_vec()],
        workspace: b"/home/me/project".to_vec(),
        cwd: b"/home/me/project".to_vec(),
        labels: BTreeMap::from([("task".into(), "t1".into()), ("api-key".into(), "hunter2".into())]),
        session: None,
        carried: String::new(),
    }
}

fn end(run_id: &str) -> End {
    End {
        run_id: run_id.into(),
        outcome: "exited".into(),
        details: BTreeMap::from([
            ("code".into(), Detail::Number(0)),
            ("path".into(), Detail::Bytes(b"/x\xff".to_vec())),
        ]),
        shell_code: Some(0),
        enforcement: vec![Enforcement {
            protection: "seccomp".into(),
            state: "active".into(),
            detail: String::new(),
        }],
        usage: Usage {
            wall_us: Some(1000),
            ..Usage::default()
        },
        stdout: StreamDigest {
            bytes: 3,
            sha256: Some("22".repeat(32)),
        },
        stderr: StreamDigest::default(),
        denials: Vec::new(),
        denial_count: 0,
    }
}

#[tokio::test]
async fn what_is_written_verifies_and_says_what_happened() {
    let log = Log::filled().await;
    let report = verify(&log.path).unwrap();
    assert_eq!((report.records, report.intents, report.ends, report.open), (6, 2, 2, 0));
    assert!(report.head_checked && !report.in_use);
    assert_eq!(log.kinds(), ["log_opened", "intent", "end", "intent", "end", "denied"]);
    let records = log.records();
    assert_eq!(records[1]["argv"], serde_json::json!(["tool", "--token", "[redacted]"]));
    assert_eq!(
        records[1]["labels"],
        serde_json::json!({"task": "t1", "api-key": "[redacted]"})
    );
    assert_eq!(
        records[2]["details"],
        serde_json::json!({"code": 0, "path": {"base64": "L3j/"}})
    );
    assert_eq!(records[5]["reason"], "not here");
    assert!(!fs::read_to_string(&log.path).unwrap().contains("hunter2"));
    assert_eq!(records[5]["hash"].as_str(), report.last_hash.as_deref());
}

#[tokio::test]
async fn file_and_directory_are_private() {
    let log = Log::filled().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&log.path), 0o600);
    assert_eq!(mode(&log.path.with_extension("head")), 0o600);
    assert_eq!(mode(log.path.parent().unwrap()), 0o700);
}

#[tokio::test]
async fn an_edited_record_is_named() {
    let log = Log::filled().await;
    let mut lines = log.lines();
    lines[3] = lines[3].replace("uid:1000", "uid:1001");
    log.rewrite(&lines);
    assert_eq!(log.fault(), (4, Fault::Edited));
    let message = verify(&log.path).unwrap_err().to_string();
    assert!(
        message.contains("line 4 (record 4): edited") && message.contains("the 3 records before"),
        "{message}"
    );
}

#[tokio::test]
async fn an_edit_with_its_hash_mended_breaks_the_link_of_the_next() {
    let log = Log::filled().await;
    let mut lines = log.lines();
    let body = lines[3][..lines[3].len() - record::SEAL_BYTES].replace("uid:1000", "uid:1001");
    lines[3] = format!("{body},\"hash\":\"{}\"}}", text::sha256_hex(body.as_bytes()));
    log.rewrite(&lines);
    assert_eq!(log.fault(), (5, Fault::Unlinked));
}

#[tokio::test]
async fn a_removed_record_is_named() {
    let log = Log::filled().await;
    let mut lines = log.lines();
    lines.drain(2..4);
    log.rewrite(&lines);
    assert_eq!(log.fault(), (3, Fault::Removed { first: 3, last: 4 }));
    lines.remove(0);
    log.rewrite(&lines);
    assert_eq!(log.fault(), (1, Fault::Removed { first: 1, last: 1 }));
}

#[tokio::test]
async fn a_changed_order_and_a_repetition_are_named() {
    let log = Log::filled().await;
    let mut lines = log.lines();
    lines.swap(1, 3);
    log.rewrite(&lines);
    assert_eq!(
        log.fault(),
        (
            2,
            Fault::Reordered {
                expected: 2,
                found_in_line: 4
            }
        )
    );
    lines.swap(1, 3);
    lines.insert(2, lines[1].clone());
    log.rewrite(&lines);
    assert_eq!(log.fault(), (3, Fault::Inserted { expected: 3 }));
}

#[tokio::test]
async fn a_removed_end_is_noticed_by_the_head_and_stays_visible() {
    let log = Log::filled().await;
    let lines = log.lines();
    log.rewrite(&lines[..4]);
    assert_eq!(log.fault(), (5, Fault::Truncated { first: 5, last: 6 }));
    // A daemon goes on, but does not cover it up.
    let audit = AuditLog::open(&log.path, "second").unwrap();
    assert_eq!(audit.opened().missing_seq, Some([5, 6]));
    assert_eq!(audit.opened().interrupted, ["b"]);
    audit.intent(&intent("d")).await.unwrap();
    audit.close().await.unwrap();
    assert_eq!(log.fault(), (6, Fault::Truncated { first: 5, last: 6 }));
    AuditLog::open(&log.path, "third").unwrap();
}

#[tokio::test]
async fn a_head_that_was_taken_away_leaves_a_trace_for_good() {
    let log = Log::filled().await;
    let lines = log.lines();
    log.rewrite(&lines[..5]);
    fs::remove_file(log.path.with_extension("head")).unwrap();
    assert_eq!(verify(&log.path).unwrap().head_missing_at, None);
    let audit = AuditLog::open(&log.path, "second").unwrap();
    audit.close().await.unwrap();
    let report = verify(&log.path).unwrap();
    assert!(report.head_checked && report.head_missing_at.is_some(), "{report}");
    // A new log has no head either, and nothing to hide.
    let new = Log::filled().await;
    assert_eq!(verify(&new.path).unwrap().head_missing_at, None);
}

#[tokio::test]
async fn a_log_written_anew_is_noticed_by_the_head() {
    let (log, other) = (Log::filled().await, Log::filled().await);
    fs::copy(&other.path, &log.path).unwrap();
    assert_eq!(log.fault(), (6, Fault::Rewritten));
    assert!(matches!(
        AuditLog::open(&log.path, "x"),
        Err(OpenError::Broken(Broken {
            fault: Fault::Rewritten,
            ..
        }))
    ));
}

#[tokio::test]
async fn something_else_than_a_record_is_named() {
    let log = Log::filled().await;
    for junk in [
        "",
        "{}",
        "[1]",
        "{\"seq\":3",
        "{\"seq\":3,\"kind\":\"x\",\"prev\":\"\",\"hash\":\"\"}",
    ] {
        let mut lines = log.lines();
        lines[2] = junk.to_owned();
        let other = Log::new();
        fs::create_dir_all(other.path.parent().unwrap()).unwrap();
        other.rewrite(&lines);
        let (line, fault) = other.fault();
        assert_eq!(line, 3);
        assert!(matches!(fault, Fault::Malformed(_) | Fault::Edited), "{junk}: {fault}");
    }
    let missing = log.path.with_file_name("none.jsonl");
    assert!(verify(&missing).unwrap_err().to_string().contains("none.jsonl"));
}

#[tokio::test]
async fn a_torn_last_line_is_named_then_cut_off_and_noted() {
    let log = Log::filled().await;
    let whole = fs::read(&log.path).unwrap();
    // A crash in the middle of the seventh record, of which the head therefore knows nothing.
    fs::write(&log.path, [&whole[..], &whole[..50]].concat()).unwrap();
    assert_eq!(log.fault(), (7, Fault::Torn));
    let audit = AuditLog::open(&log.path, "second").unwrap();
    assert_eq!(audit.opened().dropped_bytes, 50);
    audit.close().await.unwrap();
    assert_eq!(verify(&log.path).unwrap().records, 7);
    assert_eq!(log.records()[6]["dropped_bytes"], 50);
    // Torn in the very first record.
    let log = Log::new();
    fs::create_dir_all(log.path.parent().unwrap()).unwrap();
    fs::write(&log.path, &whole[..50]).unwrap();
    AuditLog::open(&log.path, "x").unwrap().close().await.unwrap();
    assert_eq!(log.kinds(), ["log_opened"]);
    verify(&log.path).unwrap();
}

#[tokio::test]
async fn runs_of_a_daemon_that_died_are_closed_once_as_interrupted() {
    let log = Log::filled().await;
    let audit = AuditLog::open(&log.path, "second").unwrap();
    for run in ["x", "y", "z"] {
        audit.intent(&intent(run)).await.unwrap();
    }
    audit.end(&end("y")).await.unwrap();
    assert_eq!(verify(&log.path).unwrap().open, 2);
    assert!(verify(&log.path).unwrap().in_use);
    // Dying is what happens to a daemon whose ends are never written.
    audit.close().await.unwrap();
    let audit = AuditLog::open(&log.path, "third").unwrap();
    assert_eq!(audit.opened().interrupted, ["x", "z"]);
    audit.close().await.unwrap();
    let closed: Vec<_> = log
        .records()
        .into_iter()
        .filter(|record| record["kind"] == "interrupted")
        .collect();
    assert_eq!(
        (&closed[0]["run_id"], &closed[0]["instance"]),
        (&"x".into(), &"second".into())
    );
    let audit = AuditLog::open(&log.path, "fourth").unwrap();
    assert_eq!(audit.opened(), &Opened::default());
    audit.close().await.unwrap();
    let report = verify(&log.path).unwrap();
    assert_eq!((report.interrupted, report.open), (2, 0));
}

#[tokio::test]
async fn questions_of_a_daemon_that_died_are_closed_once_as_never_answered() {
    let log = Log::new();
    let audit = AuditLog::open(&log.path, "first").unwrap();
    let about = |id: &str, event: ApprovalEvent| Approval {
        approval_id: id.to_owned(),
        run_id: format!("run-{id}"),
        peer: "uid:1".to_owned(),
        peer_pid: None,
        policy_name: "asks".to_owned(),
        workspace: b"/w".to_vec(),
        session: String::new(),
        event,
    };
    let asked = || ApprovalEvent::Requested {
        expires_at: std::time::SystemTime::now(),
        rule: "commands.rules[0]".to_owned(),
        commands: vec!["git push".to_owned()],
        reason: "looked at".to_owned(),
    };
    for id in ["a", "b", "c"] {
        audit.approval(&about(id, asked())).await.unwrap();
    }
    audit.approval(&about("a", ApprovalEvent::Expired)).await.unwrap();
    audit.approval(&about("c", ApprovalEvent::Withdrawn)).await.unwrap();
    audit.close().await.unwrap();
    for instance in ["second", "third"] {
        AuditLog::open(&log.path, instance).unwrap().close().await.unwrap();
    }
    let closed: Vec<_> = log
        .records()
        .into_iter()
        .filter(|record| record["kind"] == "approval_interrupted")
        .collect();
    assert_eq!(closed.len(), 1, "{closed:?}");
    assert_eq!(
        (
            &closed[0]["approval_id"],
            &closed[0]["run_id"],
            &closed[0]["instance"],
            &closed[0]["request_seq"]
        ),
        (&"b".into(), &"run-b".into(), &"first".into(), &3.into())
    );
    verify(&log.path).unwrap();
}

#[tokio::test]
async fn the_last_opening_is_found_in_a_long_log_and_not_in_a_value() {
    let log = Log::new();
    let audit = AuditLog::open(&log.path, "first").unwrap();
    let fake = "\n{\"seq\":999,\"time\":\"\",\"kind\":\"log_opened\",\"prev\":\"".to_owned();
    for run in 0..200 {
        let labels = BTreeMap::from([("kind".into(), "log_opened".into()), ("fake".into(), fake.clone())]);
        let argv = vec![fake.clone().into_bytes(), vec![b'x'; 2000]];
        audit
            .intent(&Intent {
                labels,
                argv,
                ..intent(&format!("r{run}"))
            })
            .await
            .unwrap();
    }
    audit.close().await.unwrap();
    assert!(fs::metadata(&log.path).unwrap().len() > 5 * 64 * 1024);
    let audit = AuditLog::open(&log.path, "second").unwrap();
    assert_eq!(audit.opened().interrupted.len(), 200);
    audit.close().await.unwrap();
    assert_eq!(verify(&log.path).unwrap().records, 402);
}

#[tokio::test]
async fn hostile_values_make_one_line_each_and_come_back() {
    let log = Log::new();
    let audit = AuditLog::open(&log.path, "x").unwrap();
    let values: Vec<Vec<u8>> = vec![
        b"\n{\"seq\":999,\"kind\":\"end\"}\n".to_vec(),
        b"\r\x1b[2J\x1b]0;title\x07".to_vec(),
        "\u{2028}\u{2029}\u{85}\u{202e}".into(),
        b"\xff\xfe\x00allowed\0evil".to_vec(),
        vec![b'A'; 1 << 20],
    ];
    for value in &values {
        let hostile = Intent {
            argv: vec![value.clone()],
            env_names: vec![value.clone()],
            workspace: value.clone(),
            cwd: value.clone(),
            ..intent("r")
        };
        audit.intent(&hostile).await.unwrap();
    }
    audit.close().await.unwrap();
    let bytes = fs::read(&log.path).unwrap();
    assert!(bytes.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\n'));
    let records = log.records();
    assert_eq!(records.len(), 1 + values.len());
    for (record, value) in records[1..4].iter().zip(&values) {
        assert_eq!(record["cwd"].as_str().unwrap().as_bytes(), value);
        assert_eq!(record["argv"][0].as_str().unwrap().as_bytes(), value);
    }
    assert_eq!(records[4]["cwd"]["base64"], "//4AYWxsb3dlZABldmls");
    assert_eq!(records[5]["cwd"]["omitted_bytes"], (1 << 20) - MAX_VALUE_BYTES);
    verify(&log.path).unwrap();
}

#[tokio::test]
async fn a_record_that_is_too_long_is_refused_alone() {
    let log = Log::new();
    let audit = AuditLog::open(&log.path, "x").unwrap();
    let labels = (0..500).map(|label| (format!("l{label}"), "v".repeat(4000))).collect();
    assert!(matches!(
        audit.intent(&Intent { labels, ..intent("a") }).await,
        Err(AuditError::TooLong { .. })
    ));
    assert_eq!(audit.intent(&intent("b")).await.unwrap().seq, 2);
}

#[tokio::test]
async fn two_daemons_cannot_write_one_log() {
    let log = Log::new();
    let audit = AuditLog::open(&log.path, "first").unwrap();
    let error = AuditLog::open(&log.path, "second").unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    audit.close().await.unwrap();
    AuditLog::open(&log.path, "second").unwrap();
}

#[tokio::test]
async fn what_only_looks_like_a_log_is_refused_and_nothing_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("target");
    fs::write(&target, "").unwrap();
    let path = |name: &str| directory.path().join(name);
    symlink(&target, path("link.jsonl")).unwrap();
    nix::unistd::mkfifo(&path("fifo.jsonl"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(path("dir.jsonl")).unwrap();
    fs::hard_link(&target, path("hard.jsonl")).unwrap();
    for name in ["link.jsonl", "fifo.jsonl", "dir.jsonl", "hard.jsonl"] {
        let error = AuditLog::open(&path(name), "x").unwrap_err();
        assert!(matches!(error, OpenError::NotALog { .. }), "{name}: {error}");
    }
    assert!(matches!(
        AuditLog::open(Path::new("relative.jsonl"), "x"),
        Err(OpenError::Path { .. })
    ));
    fs::create_dir(path("shared")).unwrap();
    fs::set_permissions(path("shared"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        AuditLog::open(&path("shared/audit.jsonl"), "x"),
        Err(OpenError::Directory { .. })
    ));
}

#[tokio::test]
async fn a_log_that_is_moved_replaced_or_changed_refuses_records_until_it_is_back() {
    let log = Log::new();
    let audit = AuditLog::open(&log.path, "x").unwrap();
    let away = log.path.with_extension("away");
    fs::rename(&log.path, &away).unwrap();
    assert!(matches!(
        audit.intent(&intent("a")).await,
        Err(AuditError::Replaced { .. })
    ));
    nix::unistd::mkfifo(&log.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(
        audit.intent(&intent("a")).await,
        Err(AuditError::Replaced { .. })
    ));
    fs::rename(&away, &log.path).unwrap();
    assert_eq!(audit.intent(&intent("a")).await.unwrap().seq, 2);

    fs::set_permissions(&log.path, fs::Permissions::from_mode(0o000)).unwrap();
    let error = audit.intent(&intent("b")).await.unwrap_err().to_string();
    assert!(error.contains("mode is 0000") && error.contains("chmod 600"), "{error}");
    fs::set_permissions(&log.path, fs::Permissions::from_mode(0o600)).unwrap();

    // An end waits for the log to be whole again; it is not lost.
    let whole = fs::read(&log.path).unwrap();
    fs::write(&log.path, [&whole[..], b"junk\n"].concat()).unwrap();
    let waiting = tokio::spawn({
        let audit = audit.clone();
        async move { audit.end(&end("a")).await }
    });
    assert!(matches!(
        audit.intent(&intent("b")).await,
        Err(AuditError::Changed { .. })
    ));
    fs::OpenOptions::new()
        .write(true)
        .open(&log.path)
        .unwrap()
        .set_len(whole.len() as u64)
        .unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().seq, 3);
    fs::remove_file(&log.path).unwrap();
    assert!(matches!(
        audit.intent(&intent("b")).await,
        Err(AuditError::Replaced { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn records_of_many_tasks_keep_their_order_and_are_all_there() {
    let log = Log::new();
    let audit = AuditLog::open(&log.path, "x").unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|run| {
            let audit = audit.clone();
            tokio::spawn(async move {
                let id = format!("r{run}");
                let intent = audit.intent(&intent(&id)).await.unwrap();
                let end = audit.end(&end(&id)).await.unwrap();
                assert!(intent.seq < end.seq);
                (intent, end)
            })
        })
        .collect();
    let mut written = BTreeMap::new();
    for task in tasks {
        let (intent, end) = task.await.unwrap();
        written.insert(intent.seq, intent.hash);
        written.insert(end.seq, end.hash);
    }
    audit.peer_denied(&PeerDenied {
        peer: "uid:7".into(),
        peer_pid: None,
        listener: "unix",
        reason: "not allowed".into(),
        suppressed: 0,
    });
    audit.close().await.unwrap();
    assert!(matches!(audit.intent(&intent("late")).await, Err(AuditError::Closed)));
    let records = log.records();
    assert_eq!(records.len(), 102);
    for (seq, hash) in written {
        assert_eq!(records[seq as usize - 1]["hash"].as_str().unwrap(), hash);
    }
    assert_eq!(records[101]["kind"], "peer_denied");
    assert_eq!(verify(&log.path).unwrap().records, 102);
}

#[test]
fn a_full_disk_refuses_intents_keeps_ends_and_leaves_the_log_whole() {
    // A limit on the size of files is the disk that any user can fill. It holds for a whole process and its signal must be
    // ignored before that process starts, so the test runs in a process of its own.
    let directory = tempfile::tempdir().unwrap();
    let own = std::env::current_exe().unwrap();
    let output = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            "trap '' XFSZ; exec \"$0\" --exact audit::tests::full_disk --ignored --nocapture",
        ])
        .arg(own)
        .env("FUMEHOOD_TEST_FULL_DISK", directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
#[ignore = "the inner half of a_full_disk_refuses_intents_keeps_ends_and_leaves_the_log_whole, which runs it"]
async fn full_disk() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let directory = PathBuf::from(std::env::var_os("FUMEHOOD_TEST_FULL_DISK").expect("set by the outer half"));
    let path = directory.join("audit.jsonl");
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let audit = AuditLog::open(&path, "x").unwrap();
    audit.intent(&intent("a")).await.unwrap();
    // Room for half a record.
    let len = fs::metadata(&path).unwrap().len();
    setrlimit(Resource::RLIMIT_FSIZE, len + 100, hard).unwrap();

    let error = audit.intent(&intent("b")).await.unwrap_err();
    assert!(matches!(error, AuditError::Write { .. }), "{error}");
    assert_eq!(
        fs::metadata(&path).unwrap().len(),
        len,
        "what was half written is taken back"
    );
    let waiting = tokio::spawn({
        let audit = audit.clone();
        async move { audit.end(&end("a")).await }
    });
    assert!(audit.intent(&intent("c")).await.is_err());
    assert_eq!(verify(&path).unwrap().records, 2);

    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().seq, 3);
    assert_eq!(audit.intent(&intent("d")).await.unwrap().seq, 4);
    audit.close().await.unwrap();
    assert_eq!(verify(&path).unwrap().records, 4);
}
