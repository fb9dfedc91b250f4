//! The record of what was asked and how it ended.

use std::fs;

use fumehood_client::proto::v1::{EnvironmentVariable, StartRequest};
use fumehood_tests::{DEADLINE, House, Told, eventually, send};
use serde_json::Value;

use super::{for_both, house};

fn verify(house: &House) -> fumehood_tests::Ended {
    house.cli().args(["audit", "verify"]).args([house.audit()]).finish()
}

fn kinds(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["kind"].as_str().unwrap()).collect()
}

#[test]
fn a_run_leaves_its_intent_and_its_end_and_the_log_verifies() {
    for_both(|house| {
        house.sh("echo hello; exit 4").expect(4);
        let records = house.records();
        assert_eq!(kinds(&records), ["log_opened", "intent", "end"]);
        let (intent, end) = (&records[1], &records[2]);
        assert_eq!(intent["run_id"], end["run_id"]);
        assert_eq!(intent["peer"], format!("uid:{}", house.uid()));
        assert_eq!(intent["decision"], "allowed");
        assert_eq!(intent["argv"][2], "echo hello; exit 4");
        assert_eq!(
            (&end["outcome"], &end["details"]["code"]),
            (&"exited".into(), &4.into())
        );
        assert_eq!(end["stdout"]["bytes"], 6);
        let digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(end["stdout"]["sha256"], digest, "that of `hello` and a newline");
        assert_eq!(end["enforcement"].as_array().unwrap().len(), 11);
        let ended = verify(house);
        ended.expect(0);
        assert!(
            ended
                .out()
                .contains("3 records in order: 1 runs, 1 ended, 0 interrupted, 0 open"),
            "{}",
            ended.out()
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_intent_is_on_disk_while_the_command_runs() {
    let house = house();
    let client = house.client().await;
    let spec = house.script("echo running; sleep 86400");
    let mut run = client
        .run(StartRequest {
            run_id: String::new(),
            spec: Some(spec),
        })
        .await
        .unwrap();
    let told = Told::until(run.events(), |event| {
        matches!(event, fumehood_client::proto::v1::run_event::Event::Started(_))
    })
    .await;
    let records = house.records();
    assert_eq!(kinds(&records), ["log_opened", "intent"]);
    assert_eq!(records[1]["run_id"], told.id());
    client.kill(told.id(), None, "").await.unwrap();
}

#[test]
fn an_edited_a_removed_and_a_reordered_record_are_found_and_named() {
    let mut house = house();
    for n in 0..3 {
        house.sh(&format!("exit {n}")).expect(n);
    }
    house.stop();
    verify(&house).expect(0);
    let whole = fs::read_to_string(house.audit()).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 7);
    let broken = |lines: Vec<String>| {
        fs::write(house.audit(), lines.join("\n") + "\n").unwrap();
        let ended = verify(&house);
        ended.expect(1);
        ended.err()
    };
    let owned = || lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();

    let mut edited = owned();
    edited[4] = edited[4].replace("\"code\":1", "\"code\":0");
    assert_ne!(edited, owned());
    let said = broken(edited);
    assert!(said.contains("edited") && said.contains('5'), "{said}");

    let mut removed = owned();
    removed.remove(3);
    let said = broken(removed);
    assert!(said.contains("removed") && said.contains("record 4"), "{said}");

    let mut shorter = owned();
    shorter.truncate(5);
    let said = broken(shorter);
    assert!(said.contains("removed at the end: record 6 to 7"), "{said}");

    let mut reordered = owned();
    reordered.swap(1, 2);
    let said = broken(reordered);
    assert!(said.contains("reordered") && said.contains("record 2"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_look_like_secrets_are_never_in_it_nor_in_the_log() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.spec(&[
        "sh",
        "-c",
        "echo 2 | sed s/^/hunter/",
        "--password=hunter2arg",
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    ]);
    for (name, value) in [("MY_TOKEN", "hunter2env"), ("HARMLESS", "hunter2harmless")] {
        let (name, value) = (name.into(), value.into());
        spec.env.push(EnvironmentVariable { name, value });
    }
    assert_eq!(send(&client, spec).await.finished().shell_code, 0);
    let audit = fs::read_to_string(house.audit()).unwrap();
    assert!(audit.contains("MY_TOKEN"), "names are recorded: {audit}");
    for text in [audit, house.log()] {
        assert!(!text.contains("hunter2") && !text.contains("ghp_0123456789"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_a_crash_interrupted_is_closed_as_interrupted_at_the_next_start() {
    let mut house = house();
    let client = house.client().await;
    let request = StartRequest {
        run_id: "interrupted-one".to_owned(),
        spec: Some(house.script("echo ready; sleep 86400")),
    };
    let mut run = client.run(request).await.unwrap();
    Told::until(run.events(), |event| {
        matches!(event, fumehood_client::proto::v1::run_event::Event::Output(_))
    })
    .await;
    house.kill_daemon();
    drop(run);
    house.start_daemon();
    let records = house.records();
    assert_eq!(
        kinds(&records),
        ["log_opened", "intent", "interrupted", "log_opened"],
        "{records:#?}"
    );
    assert_eq!(records[2]["run_id"], "interrupted-one");
    house.sh("true").expect(0);
    let ended = verify(&house);
    ended.expect(0);
    assert!(ended.out().contains("1 interrupted"), "{}", ended.out());
}

#[test]
fn the_log_is_told_in_words() {
    let house = house();
    let policy = |name: &str, text: &str| {
        let head = format!("version = 1\nname = \"{name}\"\nextends = [\"default\"]\n");
        let path = house.write(&format!("{name}.toml"), head + text);
        path.display().to_string()
    };
    let asks = policy(
        "asks",
        "[approvals]\nself = \"always\"\n[[commands.rules]]\nprogram = [\"touch\"]\ndecision = \"ask\"\nreason = \"a person looks\"\n",
    );
    let denies = policy(
        "denies",
        "[[commands.rules]]\nprogram = [\"git\"]\ndecision = \"deny\"\nreason = \"no git here\"\n",
    );
    let show = |arguments: &[&str]| {
        let cli = house.cli().args(["audit", "show"]).args([house.audit()]);
        cli.args(arguments).finish()
    };
    house.sh("echo hello; exit 4").expect(4);
    house
        .run_with(&["--policy", &denies], &["git", "push\u{1b}[2J"])
        .finish()
        .expect(125);
    let run = house.run_with(&["--policy", &asks], &["touch", "made"]).start();
    let question = eventually(DEADLINE, "a question", || {
        let pending = house.cli().args(["approve", "--list", "--json"]).finish().json();
        Some(pending.first()?["approval_id"].as_str()?.to_owned())
    });
    let answer = ["approve", &question, "--session", "--reason", "it is harmless"];
    house.cli().args(answer).finish().expect(0);
    run.finish().expect(0);
    house
        .run_with(&["--policy", &asks], &["touch", "made"])
        .finish()
        .expect(0);

    let told = show(&[]);
    told.expect(0);
    assert!(told.err().is_empty(), "{}", told.err());
    let out = told.out();
    let lines: Vec<_> = out.lines().collect();
    let uid = house.uid();
    let expected = [
        "opened the log".to_owned(),
        format!("uid:{uid}"),
        "ended: exit code 4, after ".to_owned(),
        "denied by commands.rules[0] (policy denies ".to_owned(),
        format!("question {question} of run "),
        format!("question {question} of run "),
        "allowed by commands.rules[0] (policy asks ".to_owned(),
        "ended: exit code 0".to_owned(),
        format!("needs no new answer: allowed for the session earlier by uid:{uid} (kept as "),
        "allowed by commands.rules[0] (policy asks ".to_owned(),
        "ended: exit code 0".to_owned(),
    ];
    assert_eq!(lines.len(), expected.len(), "{out}");
    for (line, part) in lines.iter().zip(&expected) {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(lines[1].contains("'echo hello; exit 4'"), "{}", lines[1]);
    assert!(
        lines[3].contains(r"git 'push\u{1b}[2J'; ") && lines[3].ends_with("no git here"),
        "{}",
        lines[3]
    );
    assert!(
        lines[4].contains("'touch made'; ") && lines[4].contains("a person looks"),
        "{}",
        lines[4]
    );
    assert!(
        lines[5].contains("allowed for the session, by who asked"),
        "{}",
        lines[5]
    );
    assert!(lines[5].ends_with(": it is harmless"), "{}", lines[5]);

    // One run with its question, by what its lines show of it; the last records; the records themselves.
    let asked = lines[4].split(" of run ").nth(1).unwrap().split(' ').next().unwrap();
    assert_eq!(show(&["--run", asked]).out().lines().collect::<Vec<_>>(), lines[4..8]);
    assert_eq!(show(&["--last", "2"]).out().lines().collect::<Vec<_>>(), lines[9..]);
    let text = fs::read_to_string(house.audit()).unwrap();
    assert_eq!(show(&["--json"]).out(), text);
    let none = show(&["--run", "nosuchrun"]);
    none.expect(1);
    assert!(
        none.out().is_empty() && none.err().contains("no run has an id"),
        "{}",
        none.err()
    );

    // What is no record is told and passed over, and a half line is no fault.
    let torn = text.replacen('\n', "\nnonsense\u{1b}\n", 1) + "{\"seq\":";
    let copy = house.write("copy.jsonl", torn);
    let told = house.cli().args(["audit", "show"]).args([copy]).finish();
    told.expect(1);
    assert_eq!(told.out(), out);
    let err = told.err();
    assert!(
        err.contains("line 2: not a record") && err.contains("line 13: the line has no end"),
        "{err}"
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_telling_without_a_word() {
    let house = house();
    let record = r#"{"seq":1,"time":"2026-01-02T03:04:05.000006Z","kind":"end","prev":"","run_id":"r","hash":""}"#;
    let log = house.write("long.jsonl", format!("{record}\n").repeat(20_000));
    let script = format!("{} audit show {} | head -n 1", house.program().display(), log.display());
    let told = fumehood_tests::Cli::new("/bin/sh".as_ref(), Some(house.uid()))
        .args(["-c", &script])
        .finish();
    told.expect(0);
    assert_eq!((told.out().lines().count(), told.err()), (1, String::new()));
}
