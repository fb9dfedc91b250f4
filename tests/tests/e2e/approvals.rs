//! Runs whose policy asks: who answers, what an answer lets pass, and what is written down.

use std::path::Path;

use fumehood_client::proto::v1::watch_approvals_response::Change;
use fumehood_client::proto::v1::{ApprovalAnswer, RunSpec, RunState, StartRequest, ending::Kind};
use fumehood_tests::{Cli, House, Running, as_root_only, eventually, within};
use nix::sys::signal::Signal;

use super::{builder, for_both, house};

const STRANGER: u32 = 54_323;

/// A policy that asks before `git` and `touch`, as a file in the house.
pub(super) fn policy(house: &House, name: &str, approvals: &str) -> String {
    let text = format!(
        "version = 1\nname = \"{name}\"\nextends = [\"default\"]\n[approvals]\n{approvals}\n\
         [commands]\ndefault = \"allow\"\nunreadable = \"ask\"\n\
         [[commands.rules]]\nprogram = [\"git\", \"touch\", \"python3\"]\ndecision = \"ask\"\nreason = \"a person looks\"\n"
    );
    house.write(&format!("{name}.toml"), text).display().to_string()
}

/// The question that waits, once there is one whose command holds `text`.
pub(super) fn question(cli: impl Fn() -> Cli, text: &str) -> serde_json::Value {
    eventually(fumehood_tests::DEADLINE, "a question", || {
        let listed = cli().args(["approve", "--list", "--json"]).finish();
        listed
            .json()
            .into_iter()
            .find(|pending| pending["commands"].to_string().contains(text))
    })
}

pub(super) fn id(question: &serde_json::Value) -> String {
    question["approval_id"].as_str().unwrap().to_owned()
}

/// A command line at a terminal of its own, with this typed.
pub(super) fn at_a_terminal(house: &House, line: &str, typed: &str) -> Cli {
    let program = house.program().display();
    Cli::new(Path::new("/usr/bin/script"), Some(house.uid()))
        .env("HOME", house.home())
        .env("SHELL", "/bin/sh")
        .env("FUMEHOOD_SOCKET", house.socket())
        .args(["-qec", &format!("{program} {line}"), "/dev/null"])
        .current_dir(&house.workspace())
        .input(typed)
}

fn kinds(house: &House) -> Vec<String> {
    let records = house.records();
    records
        .iter()
        .map(|record| record["kind"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn who_asked_answers_only_where_the_policy_says_so() {
    for_both(|house| {
        let start = |approvals: &str, name: &str| -> Running {
            let policy = policy(house, name, approvals);
            house.run_with(&["--policy", &policy], &["touch", name]).start()
        };
        let answer = |arguments: &[&str]| house.cli().args(arguments).finish();

        let run = start("", "never");
        let asked = id(&question(|| house.cli(), "never"));
        let refused = answer(&["approve", &asked]);
        refused.expect(1);
        assert!(refused.err().contains("not yours"), "{}", refused.err());
        at_a_terminal(house, &format!("approve {asked}"), "").finish().expect(1);
        answer(&["deny", &asked]).expect(1);
        assert!(answer(&["ps"]).out().contains(&format!("awaiting approval {asked}")));
        run.signal(Signal::SIGINT);
        run.finish().expect(130);
        eventually(fumehood_tests::DEADLINE, "the question's end", || {
            kinds(house).contains(&"approval_withdrawn".to_owned()).then_some(())
        });
        assert!(answer(&["approve", "--list", "--json"]).out().is_empty());

        let run = start("self = \"terminal\"", "terminal");
        let asked = id(&question(|| house.cli(), "terminal"));
        let refused = answer(&["approve", &asked]);
        refused.expect(1);
        assert!(refused.err().contains("terminal"), "{}", refused.err());
        at_a_terminal(house, &format!("approve {asked} --reason seen"), "")
            .finish()
            .expect(0);
        let ended = run.finish();
        ended.expect(0);
        assert!(
            ended.err().contains(&format!("fumehood approve {asked}")),
            "{}",
            ended.err()
        );

        let run = start("self = \"always\"", "always");
        let asked = id(&question(|| house.cli(), "always"));
        answer(&["approve", &asked]).expect(0);
        run.finish().expect(0);
        let late = answer(&["deny", &asked]);
        late.expect(1);
        assert!(late.err().contains("allowed it once"), "{}", late.err());

        for (name, made) in [("never", false), ("terminal", true), ("always", true)] {
            assert_eq!(house.workspace().join(name).exists(), made, "{name}");
        }
    });
}

#[test]
fn a_person_at_a_terminal_is_shown_what_is_asked_and_answers() {
    let house = house();
    let policy = policy(&house, "asks", "self = \"terminal\"");
    let run = house.run_with(&["--policy", &policy], &["touch", "made"]).start();
    let asked = id(&question(|| house.cli(), "touch"));
    let told = at_a_terminal(&house, "approve", "\ns\nit is harmless\n").finish();
    told.expect(0);
    for part in ["touch made", "a person looks", "[s]ession", &asked] {
        assert!(told.out().contains(part), "{part}: {}", told.out());
    }
    let ended = run.finish();
    ended.expect(0);
    assert!(ended.err().contains("it is harmless"), "{}", ended.err());
    // Without a terminal nobody can be asked.
    let ended = house.cli().args(["approve"]).finish();
    ended.expect(125);
    assert!(ended.err().contains("--list"), "{}", ended.err());
}

#[test]
fn what_is_denied_or_not_answered_never_starts() {
    let house = house();
    let soon = policy(&house, "soon", "wait = \"300ms\"");
    let ended = house.run_with(&["--policy", &soon], &["touch", "made"]).finish();
    ended.expect(125);
    assert!(
        ended.err().contains("nobody answered") && ended.err().contains("a person looks"),
        "{}",
        ended.err()
    );
    let always = policy(&house, "always", "self = \"always\"");
    let run = house
        .run_with(&["--policy", &always, "--json"], &["touch", "made"])
        .start();
    let asked = id(&question(|| house.cli(), "touch"));
    house
        .cli()
        .args(["deny", &asked, "--reason", "not today"])
        .finish()
        .expect(0);
    let ended = run.finish();
    ended.expect(125);
    let events = ended.json();
    let of = |kind: &str| {
        events
            .iter()
            .find(|event| event["type"] == kind)
            .unwrap_or_else(|| panic!("{kind}"))
            .clone()
    };
    assert_eq!(of("approval_requested")["default_answer"], "deny");
    assert_eq!(of("approval_resolved")["means"], "self");
    assert_eq!(of("finished")["ending"]["rule"], "commands.rules[0]");
    assert!(
        of("finished")["ending"]["explanation"]
            .as_str()
            .unwrap()
            .contains("not today")
    );
    assert!(!house.workspace().join("made").exists());
    assert_eq!(
        kinds(&house),
        [
            "log_opened",
            "approval_requested",
            "approval_expired",
            "denied",
            "approval_requested",
            "approval_resolved",
            "denied"
        ]
    );
}

#[test]
fn another_user_is_answered_by_root_and_the_answer_holds_as_far_as_it_says() {
    if !as_root_only("root answers another user") {
        return;
    }
    let mut house = builder().config(&format!("allowed_uids = [0, {STRANGER}]")).build();
    let asks = policy(&house, "asks", "");
    let place = |house: &House, name: &str| {
        let path = house.make_directory(name, 0o755);
        std::os::unix::fs::chown(&path, Some(STRANGER), Some(STRANGER)).unwrap();
        path
    };
    let (one, other) = (place(&house, "one"), place(&house, "other"));
    std::fs::set_permissions(house.path("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let theirs = |house: &House, workspace: &Path, session: &str, command: &[&str]| {
        Cli::new(house.program(), Some(STRANGER))
            .env("HOME", "/nonexistent")
            .env("FUMEHOOD_SOCKET", house.socket())
            .current_dir("/".as_ref())
            .args([
                "run",
                "--policy",
                &asks,
                "--label",
                &format!("session={session}"),
                "--workspace",
            ])
            .args([workspace])
            .args(["--"])
            .args(command)
    };
    let waits = |house: &House, cli: Cli, command: &str| {
        let run = cli.start();
        let asked = id(&question(|| house.cli(), command));
        (run, asked)
    };
    let line = ["sh", "-c", "touch made; ls"];

    let (run, asked) = waits(&house, theirs(&house, &one, "a", &line), "touch");
    let refused = house.cli().args(["approve", &asked, "--always"]).finish();
    refused.expect(1);
    assert!(refused.err().contains("runs whatever it is told"), "{}", refused.err());
    house
        .cli()
        .args(["approve", &asked, "--session", "--reason", "agreed"])
        .finish()
        .expect(0);
    run.finish().expect(0);
    // The same again, and the command alone, in this session and workspace only.
    theirs(&house, &one, "a", &line).finish().expect(0);
    theirs(&house, &one, "a", &["touch", "made"]).finish().expect(0);
    for (workspace, session) in [(&one, "b"), (&other, "a")] {
        let (run, asked) = waits(&house, theirs(&house, workspace, session, &line), "touch");
        house.cli().args(["deny", &asked]).finish().expect(0);
        run.finish().expect(125);
    }
    let applied: Vec<_> = house
        .records()
        .into_iter()
        .filter(|record| record["kind"] == "approval_applied")
        .collect();
    assert_eq!(applied.len(), 2);
    assert!(
        applied
            .iter()
            .all(|record| record["by"] == "uid:0" && record["reason"] == "agreed"),
        "{applied:?}"
    );

    // "Always" outlives the daemon, a session does not; what is taken back no longer holds.
    let (run, asked) = waits(&house, theirs(&house, &one, "a", &["touch", "kept"]), "kept");
    house.cli().args(["approve", &asked, "--always"]).finish().expect(0);
    run.finish().expect(0);
    house.stop();
    house.start_daemon();
    theirs(&house, &one, "z", &["touch", "kept"]).finish().expect(0);
    let rules = house.cli().args(["approve", "--rules", "--json"]).finish().json();
    assert_eq!(rules.len(), 1, "{rules:?}");
    assert_eq!(
        (&rules[0]["answer"], &rules[0]["by"]),
        (&"allow_always".into(), &"uid:0".into())
    );
    let rule = rules[0]["rule_id"].as_str().unwrap();
    house.cli().args(["approve", "--forget", rule]).finish().expect(0);
    let (run, asked) = waits(&house, theirs(&house, &one, "z", &["touch", "kept"]), "kept");
    house.cli().args(["deny", &asked]).finish().expect(0);
    run.finish().expect(125);
    assert_eq!(
        house
            .cli()
            .args(["audit", "verify"])
            .args([house.audit()])
            .finish()
            .code(),
        0
    );
}

/// A house where root answers a stranger, with a policy that asks, and a workspace of the stranger's.
pub(super) fn house_of_a_stranger() -> (House, std::path::PathBuf) {
    let house = builder()
        .policies()
        .config(&format!("allowed_uids = [0, {STRANGER}]"))
        .build();
    let workspace = house.make_directory("theirs", 0o755);
    std::os::unix::fs::chown(&workspace, Some(STRANGER), Some(STRANGER)).unwrap();
    std::fs::set_permissions(house.path("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    (house, workspace)
}

/// The stranger's `fumehood run`.
pub(super) fn strangers(house: &House, workspace: &Path, policy: &str, options: &[&str], command: &[&str]) -> Cli {
    Cli::new(house.program(), Some(STRANGER))
        .env("HOME", "/nonexistent")
        .env("FUMEHOOD_SOCKET", house.socket())
        .current_dir("/".as_ref())
        .args(["run", "--policy", policy, "--workspace"])
        .args([workspace])
        .args(options)
        .args(["--"])
        .args(command)
}

/// It asks, and is refused: nothing of an earlier answer let it pass. Gives the question.
fn asks_again(house: &House, run: Cli) -> serde_json::Value {
    let run = run.start();
    let question = question(|| house.cli(), "");
    house.cli().args(["deny", &id(&question)]).finish().expect(0);
    run.finish().expect(125);
    question
}

#[test]
fn an_answer_for_always_is_none_for_another_path_of_programs_or_directory() {
    if !as_root_only("root answers another user") {
        return;
    }
    let (house, workspace) = house_of_a_stranger();
    let asks = policy(&house, "asks", "");
    let programs = workspace.join("bin");
    std::fs::create_dir_all(&programs).unwrap();
    std::fs::create_dir(workspace.join("below")).unwrap();
    let script = programs.join("touch");
    std::fs::write(&script, "#!/bin/sh\necho not the one that was approved\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let touch = |options: &[&str]| strangers(&house, &workspace, &asks, options, &["touch", "made"]);

    for lasting in ["--session", "--always"] {
        let run = touch(&[]).start();
        let asked = id(&question(|| house.cli(), "touch"));
        house.cli().args(["approve", &asked, lasting]).finish().expect(0);
        run.finish().expect(0);
        touch(&[]).finish().expect(0);
        // What describes the terminal makes no difference.
        touch(&[])
            .env("TERM", "xterm")
            .env("LC_ALL", "C.UTF-8")
            .finish()
            .expect(0);

        let path = format!("{}:/usr/bin:/bin", programs.display());
        let other = asks_again(&house, touch(&[]).env("PATH", &path));
        let earlier = other["earlier"].to_string();
        assert!(earlier.contains("under another environment"), "{lasting}: {other}");
        let other = asks_again(&house, touch(&["-e", &format!("PATH={path}")]));
        assert!(
            other["earlier"].to_string().contains("environment"),
            "{lasting}: {other}"
        );
        let below = workspace.join("below").display().to_string();
        let other = asks_again(&house, touch(&["--cwd", &below]));
        assert!(
            other["earlier"].to_string().contains("in another directory"),
            "{lasting}: {other}"
        );
        asks_again(
            &house,
            strangers(&house, &workspace, &asks, &[], &["sh", "-c", "cd below && touch made"]),
        );
        let rules = house.cli().args(["approve", "--rules"]).finish();
        assert!(rules.out().contains("in another directory"), "{}", rules.out());

        touch(&[]).finish().expect(0);
        let rules = house.cli().args(["approve", "--rules", "--json"]).finish().json();
        assert_eq!((rules.len(), &rules[0]["not_applied"]), (1, &"".into()), "{rules:?}");
        let rule = rules[0]["rule_id"].as_str().unwrap();
        house.cli().args(["approve", "--forget", rule]).finish().expect(0);
    }
    assert!(!workspace.join("below/made").exists());
}

#[test]
fn an_answer_under_a_policy_that_was_brought_is_none_for_another_of_its_name() {
    if !as_root_only("root answers another user") {
        return;
    }
    let (house, workspace) = house_of_a_stranger();
    let touch = |policy: &str| strangers(&house, &workspace, policy, &[], &["touch", "made"]);
    // Both are called `asks`; the first would let its asker answer, and that is whom it asks.
    let brought = policy(&house, "asks", "self = \"always\"");
    let run = touch(&brought).start();
    let asked = id(&question(|| house.cli(), "touch"));
    let own = Cli::new(house.program(), Some(STRANGER))
        .env("HOME", "/nonexistent")
        .env("FUMEHOOD_SOCKET", house.socket())
        .current_dir("/".as_ref())
        .args(["approve", &asked, "--always"])
        .finish();
    if own.code() != 0 {
        // Under the default policy, which says "never", what is brought may not say "always".
        house.cli().args(["approve", &asked, "--always"]).finish().expect(0);
    }
    run.finish().expect(0);
    touch(&brought).finish().expect(0);

    let real = policy(&house, "asks", "self = \"never\"\nwait = \"1h\"");
    let other = asks_again(&house, touch(&real));
    assert_eq!(other["policy_name"], "asks");
    let why = "the policy has changed since";
    assert!(other["earlier"].to_string().contains(why), "{other}");
    let rules = house.cli().args(["approve", "--rules", "--json"]).finish().json();
    assert_eq!((rules.len(), &rules[0]["not_applied"]), (1, &why.into()), "{rules:?}");
    let rule = rules[0]["rule_id"].as_str().unwrap();
    house.cli().args(["approve", "--forget", rule]).finish().expect(0);
    assert!(
        house
            .cli()
            .args(["approve", "--rules", "--json"])
            .finish()
            .json()
            .is_empty()
    );
}

#[test]
fn an_answer_ends_with_the_policy_that_it_was_given_under_and_the_list_says_so() {
    if !as_root_only("root answers another user") {
        return;
    }
    let (house, workspace) = house_of_a_stranger();
    let text = "version = 1\nname = \"ci\"\nextends = [\"default\"]\n[commands]\ndefault = \"allow\"\n\
                [[commands.rules]]\nprogram = \"touch\"\ndecision = \"ask\"\nreason = \"a person looks\"\n";
    let install = |text: &str| {
        house.write("policies/ci.toml", text);
        house.cli().args(["policy", "reload"]).finish().expect(0);
    };
    let touch = |policy: &str| strangers(&house, &workspace, policy, &[], &["touch", "made"]);
    let allow_always = |policy: &str| {
        let run = touch(policy).start();
        let asked = id(&question(|| house.cli(), "touch"));
        house.cli().args(["approve", &asked, "--always"]).finish().expect(0);
        run.finish().expect(0);
    };
    let not_applied = || {
        let rules = house.cli().args(["approve", "--rules", "--json"]).finish().json();
        let all: Vec<_> = rules.iter().map(|rule| rule["not_applied"].clone()).collect();
        all
    };
    let changed = "the policy has changed since";

    // One of the same name that the request brings: what is answered there is no answer for the daemon's own.
    install(text);
    let narrow = house.write("narrow.toml", format!("{text}[limits]\nwall = \"1m\"\n"));
    let narrow = narrow.display().to_string();
    allow_always(&narrow);
    asks_again(&house, touch("ci"));
    allow_always("ci");
    assert_eq!(not_applied(), [changed, ""]);
    // The other way round as well.
    touch("ci").finish().expect(0);
    touch(&narrow).finish().expect(0);

    // The policy is changed, then a ceiling comes: the list says so before any run asks.
    install(&text.replace("a person looks", "a person looks hard"));
    assert_eq!(not_applied(), [changed, changed]);
    asks_again(&house, touch("ci"));
    install(text);
    touch("ci").finish().expect(0);
    assert_eq!(not_applied(), [changed, ""]);
    house.write(
        "system/roof.toml",
        "version = 1\nname = \"roof\"\nceiling = true\nextends = [\"default\"]\n[limits]\nwall = \"2m\"\n",
    );
    house.cli().args(["policy", "reload"]).finish().expect(0);
    assert_eq!(not_applied(), [changed, changed]);
    asks_again(&house, touch("ci"));
}

#[test]
fn what_comes_from_standard_input_is_allowed_once_only() {
    if !as_root_only("root answers another user") {
        return;
    }
    let (house, workspace) = house_of_a_stranger();
    let asks = policy(&house, "asks", "");
    let shell = |options: &[&str], input: &str| strangers(&house, &workspace, &asks, options, &["bash"]).input(input);

    let run = shell(&[], "echo one\n").start();
    let asked = question(|| house.cli(), "");
    for part in ["`bash` reads its commands from standard input", "nobody has seen"] {
        assert!(asked["once_only"].to_string().contains(part), "{asked}");
    }
    let asked = id(&asked);
    for lasting in ["--session", "--always"] {
        let refused = house.cli().args(["approve", &asked, lasting]).finish();
        refused.expect(1);
        assert!(
            refused.err().contains("standard input, which nobody has seen"),
            "{}",
            refused.err()
        );
    }
    house.cli().args(["approve", &asked]).finish().expect(0);
    let ended = run.finish();
    ended.expect(0);
    assert_eq!(ended.out(), "one\n");
    asks_again(&house, shell(&[], "echo two\n"));

    // Without input it reads nothing; that it may is no answer for one with input.
    let run = shell(&["--no-stdin"], "").start();
    let asked = id(&question(|| house.cli(), ""));
    house.cli().args(["approve", &asked, "--session"]).finish().expect(0);
    run.finish().expect(0);
    shell(&["--no-stdin"], "").finish().expect(0);
    asks_again(&house, shell(&[], "touch made\n"));
    assert!(!workspace.join("made").exists());
}

#[test]
fn a_question_whose_daemon_was_killed_is_closed_in_the_log_as_never_answered() {
    let mut house = house();
    let asks = policy(&house, "asks", "");
    let run = house.run_with(&["--policy", &asks], &["touch", "made"]).start();
    let asked = id(&question(|| house.cli(), "touch"));
    house.kill_daemon();
    assert_ne!(run.finish().code(), 0);
    house.start_daemon();
    let records = house.records();
    let of = |kind: &str| {
        let found = records.iter().find(|record| record["kind"] == kind);
        found.unwrap_or_else(|| panic!("{kind}: {records:?}")).clone()
    };
    let (requested, interrupted) = (of("approval_requested"), of("approval_interrupted"));
    assert_eq!(interrupted["approval_id"], asked.as_str());
    assert_eq!(interrupted["run_id"], requested["run_id"]);
    assert_eq!(interrupted["request_seq"], requested["seq"]);
    let shown = house.cli().args(["audit", "verify"]).args([house.audit()]).finish();
    shown.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_questions_is_bounded_holds_no_place_and_ends_with_the_daemon() {
    let house = builder()
        .config("max_runs = 1\nmax_queue = 0\ndrain_grace = \"60s\"")
        .build();
    let asks = std::fs::read(policy(&house, "asks", "self = \"always\"")).unwrap();
    let client = house.client().await;
    let spec = |command: &[&str]| RunSpec {
        argv: command.iter().map(|word| (*word).to_owned().into()).collect(),
        workspace: house.workspace().display().to_string().into(),
        policy: Some(fumehood_client::proto::v1::PolicyReference {
            reference: Some(fumehood_client::proto::v1::policy_reference::Reference::Inline(
                fumehood_client::proto::v1::InlinePolicy {
                    toml: asks.clone().into(),
                    origin: "asks.toml".to_owned(),
                    ..Default::default()
                },
            )),
        }),
        ..RunSpec::default()
    };
    let start = async |command: &[&str]| {
        let request = StartRequest {
            run_id: String::new(),
            spec: Some(spec(command)),
        };
        within("a start", client.start(request))
            .await
            .unwrap()
            .run
            .unwrap()
            .run_id
    };
    let mut changes = client.watch_approvals().await.unwrap();
    assert!(matches!(changes.next().await.unwrap(), Some(Change::CaughtUp(_))));
    let mut first = String::new();
    for number in 0..32 {
        let run = start(&["touch", "made"]).await;
        let Some(Change::Pending(pending)) = within("a question", changes.next()).await.unwrap() else {
            panic!("no question {number}")
        };
        assert_eq!(pending.run_id, run);
        assert_eq!(
            client.get(run.as_str()).await.unwrap().state(),
            RunState::AwaitingApproval
        );
        first = pending.question.unwrap().approval_id;
    }
    let refused = start(&["touch", "made"]).await;
    let refused = within("the end", client.wait(refused, None)).await.unwrap();
    match refused.finished.unwrap().ending.unwrap().kind {
        Some(Kind::Denied(denied)) => assert_eq!(denied.rule, "approvals.pending"),
        other => panic!("{other:?}"),
    }
    // The only place is free all the while.
    let plain = start(&["true"]).await;
    let plain = within("the end", client.wait(plain, None)).await.unwrap();
    assert_eq!(plain.finished.unwrap().shell_code, 0);
    // Of two who answer at once, one wins.
    let (one, two) = tokio::join!(
        client.resolve_approval(first.as_str(), ApprovalAnswer::AllowOnce, ""),
        client.resolve_approval(first.as_str(), ApprovalAnswer::Deny, "")
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert_eq!(client.pending_approvals().await.unwrap().len(), 31);
    drop((changes, client));
    // Nobody waits for the rest when the daemon ends.
    tokio::task::spawn_blocking(move || house.end()).await.unwrap();
}
