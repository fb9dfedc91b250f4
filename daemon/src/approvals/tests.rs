use std::time::Duration;

use fumehood_policies::{Decision, Digest, Policy, Request, RequestedLimits, Tool};

use super::*;
use crate::peer::Identity;

const POLICY: &str = r#"
    version = 1
    name = "asks"
    [approvals]
    wait = "5m"
    self = "SELF"
    [commands]
    default = "allow"
    unreadable = "ask"
    [[commands.rules]]
    program = ["git", "npm", "python3"]
    decision = "ask"
    reason = "a person looks at it"
"#;

fn approvals(directory: Option<PathBuf>) -> Approvals {
    let judges = Judges {
        own_uid: 7,
        approvers: vec!["ops".to_owned()],
    };
    Approvals::new(judges, None, true, directory)
}

fn uid(uid: u32) -> Peer {
    Peer {
        identity: Identity::Unix {
            uid,
            gid: uid,
            pid: None,
        },
        allowed: true,
    }
}

fn certificate(name: &str) -> Peer {
    Peer {
        identity: Identity::Certificate { name: name.to_owned() },
        allowed: true,
    }
}

/// The digest of an environment.
fn environment(variables: &[(&str, &str)]) -> Digest {
    let pair = |(name, value): &(&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    environment_digest(&variables.iter().map(pair).collect())
}

fn asked_by(peer: Peer, own: &str, words: &[&str]) -> Asked {
    let policy = Arc::new(Policy::parse(POLICY.replace("SELF", own).as_bytes(), "asks").unwrap());
    let argv: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let decision = policy.decide(&Request {
        tool: Tool::Shell,
        argv: &argv,
        caller_env: &[],
        env: &[],
        limits: RequestedLimits::default(),
    });
    let Decision::Ask(question) = decision else {
        panic!("{decision:?}")
    };
    Asked {
        run_id: "r".to_owned(),
        recorded_id: "r".to_owned(),
        peer,
        seat: None,
        policy,
        workspace: "/w".into(),
        cwd: "/w".into(),
        session: String::new(),
        argv,
        env_names: Vec::new(),
        env_digest: environment(&[]),
        program_from_input: None,
        rule: question.rule,
        reason: question.reason,
        commands: question.commands,
    }
}

fn asked(words: &[&str]) -> Asked {
    asked_by(uid(1001), "never", words)
}

/// Asks and answers.
async fn answer(approvals: &Approvals, asked: Asked, answer: Answer) -> Result<Option<Arc<Given>>, ResolveError> {
    let mut ticket = approvals.ask(asked).await.unwrap();
    let id = ticket.pending().id.clone();
    let given = approvals.resolve(&uid(0), &id, answer, "looked at".to_owned()).await?;
    match ticket.answered().await {
        Outcome::Answered(resolution) => assert_eq!((resolution.answer, resolution.by.as_str()), (answer, "uid:0")),
        other => panic!("{other:?}"),
    }
    Ok(given)
}

async fn passes(approvals: &Approvals, asked: &Asked) -> bool {
    approvals.apply(asked).await.unwrap().is_some()
}

#[tokio::test(start_paused = true)]
async fn a_question_that_nobody_answers_expires_and_cannot_be_answered_then() {
    let approvals = approvals(None);
    let mut ticket = approvals.ask(asked(&["git", "push"])).await.unwrap();
    let id = ticket.pending().id.clone();
    let before = Instant::now();
    assert_eq!(ticket.answered().await, Outcome::Expired);
    assert_eq!(before.elapsed(), Duration::from_secs(300));
    assert!(approvals.list(&uid(0)).is_empty());
    let late = approvals.resolve(&uid(0), &id, Answer::AllowOnce, String::new()).await;
    assert!(
        matches!(&late, Err(ResolveError::AlreadyResolved { how, .. }) if how.contains("nobody")),
        "{late:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_later_runs_lets_those_pass_that_wait_with_the_same_question() {
    let approvals = approvals(None);
    let push = || asked(&["git", "push"]);
    let mut first = approvals.ask(push()).await.unwrap();
    let mut same = approvals.ask(push()).await.unwrap();
    let other = approvals.ask(asked(&["npm", "publish"])).await.unwrap();
    let id = first.pending().id.clone();
    let resolved = approvals
        .resolve(&uid(0), &id, Answer::AllowSession, "fine".to_owned())
        .await;
    let rule = resolved.unwrap().unwrap().id.clone();
    assert!(matches!(first.answered().await, Outcome::Answered(_)));
    let Outcome::Answered(resolution) = same.answered().await else {
        panic!()
    };
    assert_eq!((resolution.means, resolution.rule_ids), (Means::Earlier, vec![rule]));
    let waiting: Vec<_> = approvals
        .list(&uid(0))
        .iter()
        .map(|pending| pending.id.clone())
        .collect();
    assert_eq!(waiting, [other.pending().id.clone()]);
    let late = approvals
        .resolve(&uid(0), &same.pending().id, Answer::Deny, String::new())
        .await;
    assert!(
        matches!(&late, Err(ResolveError::AlreadyResolved { how, .. }) if how.contains("the same question")),
        "{late:?}"
    );

    // Once is once.
    let mut again = approvals.ask(asked(&["python3", "x"])).await.unwrap();
    let more = approvals.ask(asked(&["python3", "x"])).await.unwrap();
    let id = again.pending().id.clone();
    approvals
        .resolve(&uid(0), &id, Answer::AllowOnce, String::new())
        .await
        .unwrap();
    assert!(matches!(again.answered().await, Outcome::Answered(_)));
    assert!(
        approvals
            .list(&uid(0))
            .iter()
            .any(|pending| pending.id == more.pending().id)
    );
}

#[tokio::test(start_paused = true)]
async fn of_several_answers_at_once_one_wins_and_the_others_hear_whose_it_was() {
    let approvals = approvals(None);
    let mut ticket = approvals.ask(asked(&["git", "push"])).await.unwrap();
    let id = ticket.pending().id.clone();
    let answers: Vec<_> = [(0, Answer::Deny), (7, Answer::AllowOnce), (0, Answer::AllowSession)]
        .into_iter()
        .map(|(by, answer)| {
            let (approvals, id) = (approvals.clone(), id.clone());
            tokio::spawn(async move { approvals.resolve(&uid(by), &id, answer, String::new()).await })
        })
        .collect();
    let mut won = 0;
    for answer in answers {
        match answer.await.unwrap() {
            Ok(_) => won += 1,
            Err(ResolveError::AlreadyResolved { how, .. }) => assert!(how.contains("uid:"), "{how}"),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(won, 1);
    assert!(matches!(ticket.answered().await, Outcome::Answered(_)));
}

#[tokio::test(start_paused = true)]
async fn who_asked_does_not_answer_unless_the_policy_says_so() {
    let approvals = approvals(None);
    let peers = [
        (uid(1001), "never", uid(1001), false),
        (uid(1001), "always", uid(1001), true),
        (uid(1001), "terminal", uid(1001), false),
        (uid(1001), "always", uid(1002), false),
        (uid(1001), "never", uid(0), true),
        (uid(1001), "never", uid(7), true),
        (uid(0), "never", uid(0), false),
        (uid(0), "never", uid(7), true),
        (uid(1001), "never", certificate("ops"), true),
        (uid(1001), "always", certificate("dev"), false),
        (certificate("ops"), "never", certificate("ops"), false),
        (certificate("dev"), "terminal", certificate("dev"), false),
        (certificate("dev"), "always", certificate("dev"), true),
    ];
    for (asking, own, answering, expected) in peers {
        let what = format!("{asking} asks, {answering} answers, self is {own}");
        let ticket = approvals.ask(asked_by(asking, own, &["git", "push"])).await.unwrap();
        let id = ticket.pending().id.clone();
        let answered = approvals
            .resolve(&answering, &id, Answer::AllowOnce, String::new())
            .await;
        assert_eq!(answered.is_ok(), expected, "{what}: {answered:?}");
        // Whom it does not concern is not told that there is a question.
        let visible = !matches!(answered, Err(ResolveError::Unknown(_)));
        let sees = answering.same_as(&ticket.pending().asked.peer) || approvals.judges().sees_all(&answering);
        assert_eq!(visible, sees, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_a_session_lets_pass_the_same_of_the_same_and_nothing_else() {
    let approvals = approvals(None);
    let push = ["git", "push", "origin", "main"];
    assert!(!passes(&approvals, &asked(&push)).await);
    let given = answer(&approvals, asked(&push), Answer::AllowSession)
        .await
        .unwrap()
        .unwrap();
    assert!(passes(&approvals, &asked(&push)).await);
    assert!(passes(&approvals, &asked(&["bash", "-c", "cd /w && git push origin main; ls"])).await);
    for other in [
        &["git", "push", "origin", "other"][..],
        &["bash", "-c", "git push origin main && npm publish"],
        &["python3", "x.py"],
        &["bash", "-c", "cd x && git push origin main"],
    ] {
        assert!(!passes(&approvals, &asked(other)).await, "{other:?}");
    }
    let changed = |change: fn(&mut Asked)| {
        let mut asked = asked(&push);
        change(&mut asked);
        asked
    };
    for other in [
        changed(|asked| asked.workspace = "/other".into()),
        changed(|asked| asked.session = "other".to_owned()),
        changed(|asked| asked.peer = uid(1002)),
        changed(|asked| asked.env_digest = environment(&[("A", "1")])),
        changed(|asked| asked.cwd = "/w/x".into()),
        changed(|asked| asked.program_from_input = Some("bash".to_owned())),
        changed(|asked| {
            let mut policy = Policy::clone(&asked.policy);
            policy.name = "other".to_owned();
            asked.policy = Arc::new(policy);
        }),
    ] {
        assert!(!passes(&approvals, &other).await, "{other:?}");
    }
    // Until a day is over.
    tokio::time::advance(SESSION_LIFE - Duration::from_secs(1)).await;
    assert!(passes(&approvals, &asked(&push)).await);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!passes(&approvals, &asked(&push)).await);
    assert!(approvals.rules(&uid(0)).await.is_empty());
    assert!(matches!(
        approvals.remove_rule(&uid(0), &given.id).await,
        Err(RemoveError::Unknown(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn what_has_no_narrow_rule_passes_in_a_session_as_a_whole_and_never_always() {
    let directory = tempfile::tempdir().unwrap();
    let approvals = approvals(Some(directory.path().join("approvals")));
    for words in [
        &["bash", "-c", "git push origin $x"][..],
        &["python3", "x.py"],
        &["bash", "-c", "git push origin main"],
        &["env", "git", "push"],
        &["git", "-c", "a.b=c", "push"],
    ] {
        let mut ticket = approvals.ask(asked(words)).await.unwrap();
        let id = ticket.pending().id.clone();
        let refused = approvals
            .resolve(&uid(0), &id, Answer::AllowAlways, String::new())
            .await;
        assert!(
            matches!(refused, Err(ResolveError::NotNarrow(_))),
            "{words:?}: {refused:?}"
        );
        assert!(!ticket.pending().not_narrow.is_empty(), "{words:?}");
        // The question waits on.
        approvals
            .resolve(&uid(0), &id, Answer::AllowSession, String::new())
            .await
            .unwrap();
        assert!(matches!(ticket.answered().await, Outcome::Answered(_)));
        assert!(passes(&approvals, &asked(words)).await, "{words:?}");
    }
    assert!(!passes(&approvals, &asked(&["bash", "-c", "git push origin $y"])).await);
    assert!(!passes(&approvals, &asked(&["python3", "y.py"])).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_always_outlives_the_daemon_in_a_private_file_and_can_be_taken_back() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("approvals");
    let push = ["git", "push", "origin", "main"];
    let first = approvals(Some(place.clone()));
    let given = answer(&first, asked(&push), Answer::AllowAlways)
        .await
        .unwrap()
        .unwrap();
    let file = place.join("always.toml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o7777, 0o700);
    let text = std::fs::read_to_string(&file).unwrap();
    for part in [
        "command = [\"git\", \"push\", \"origin\", \"main\"]",
        "by = \"uid:0\"",
        "looked at",
        "peer = \"uid:1001\"",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let second = approvals(Some(place.clone()));
    assert!(passes(&second, &asked(&push)).await);
    // In any session, of the same peer and workspace.
    let mut other = asked(&push);
    other.session = "other".to_owned();
    assert!(passes(&second, &other).await);
    other.workspace = "/other".into();
    assert!(!passes(&second, &other).await);
    assert!(!passes(&second, &asked_by(uid(1002), "never", &push)).await);
    second.remove_rule(&uid(1001), &given.id).await.unwrap();
    assert!(!passes(&first, &asked(&push)).await);
}

#[test]
fn only_what_describes_terminal_and_language_is_no_part_of_an_environment() {
    let plain = environment(&[("PATH", "/usr/bin")]);
    for (name, value) in [
        ("TERM", "xterm"),
        ("LC_ALL", "C"),
        ("CLICOLOR_FORCE", "1"),
        ("TZ", "UTC"),
        ("COLUMNS", "80"),
    ] {
        assert_eq!(environment(&[("PATH", "/usr/bin"), (name, value)]), plain, "{name}");
    }
    for (name, value) in [
        ("LD_PRELOAD", "/w/x.so"),
        ("TERMINFO", "/w"),
        ("GIT_SSH_COMMAND", "x"),
        ("LANG_", "x"),
        ("BASH_ENV", "/w/x"),
        ("term", "x"),
    ] {
        assert_ne!(environment(&[("PATH", "/usr/bin"), (name, value)]), plain, "{name}");
    }
    assert_ne!(environment(&[("PATH", "/w/bin:/usr/bin")]), plain);
    assert_ne!(environment(&[("A", "B"), ("C", "D")]), environment(&[("A", "B\nC=D")]));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_bound_to_the_policy_as_it_was_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let approvals = approvals(Some(directory.path().join("approvals")));
    let push = ["git", "push", "origin", "main"];
    // A policy of this name that somebody brought, and who asked answered: the real one says "never".
    let brought = asked_by(uid(1001), "always", &push);
    for lasting in [Answer::AllowAlways, Answer::AllowSession] {
        let mut ticket = approvals.ask(brought.clone()).await.unwrap();
        let id = ticket.pending().id.clone();
        let given = approvals
            .resolve(&uid(1001), &id, lasting, String::new())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(given.means, Means::Own);
        assert!(matches!(ticket.answered().await, Outcome::Answered(_)));
        assert!(passes(&approvals, &brought).await);
        assert_eq!(approvals.not_applied(&given), "");
        let real = asked(&push);
        assert_eq!(real.policy.name, brought.policy.name);
        assert!(!passes(&approvals, &real).await);
        let ticket = approvals.ask(real).await.unwrap();
        let earlier = &ticket.pending().earlier;
        assert!(
            earlier.len() == 1 && earlier[0].contains(&given.id) && earlier[0].contains("the policy has changed since"),
            "{earlier:?}"
        );
        // It is listed with why, and can be taken back.
        let rules = approvals.rules(&uid(0)).await;
        assert_eq!(rules.len(), 1);
        assert_eq!(approvals.not_applied(&rules[0]), "the policy has changed since");
        approvals.remove_rule(&uid(0), &given.id).await.unwrap();
        assert!(approvals.rules(&uid(0)).await.is_empty());
    }
    // One that only narrowed elsewhere, by a ceiling that came later.
    let before = asked(&push);
    answer(&approvals, before.clone(), Answer::AllowAlways).await.unwrap();
    assert!(passes(&approvals, &before).await);
    let text = POLICY.replace("SELF", "never") + "[network]\nmode = \"none\"\n";
    let ceiling = Policy::parse(text.as_bytes(), "ceiling").unwrap();
    let mut after = before.clone();
    after.policy = Arc::new(before.policy.narrowed_by(&ceiling));
    assert_eq!(after.policy.name, before.policy.name);
    assert!(!passes(&approvals, &after).await);
    // As the first one is there again, so is what was allowed under it.
    assert!(passes(&approvals, &before).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_always_is_bound_to_environment_and_directory() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("approvals");
    let first = approvals(Some(place.clone()));
    let push = ["git", "push", "origin", "main"];
    let mut plain = asked(&push);
    plain.env_digest = environment(&[("PATH", "/usr/bin"), ("TERM", "xterm")]);
    answer(&first, plain.clone(), Answer::AllowAlways).await.unwrap();
    let second = approvals(Some(place.clone()));
    assert!(passes(&second, &plain).await);
    plain.env_digest = environment(&[("PATH", "/usr/bin"), ("TERM", "dumb")]);
    assert!(passes(&second, &plain).await);
    let mut other = plain.clone();
    other.env_digest = environment(&[("PATH", "/w/bin:/usr/bin")]);
    other.cwd = "/w/x".into();
    assert!(!passes(&second, &other).await);
    let ticket = second.ask(other).await.unwrap();
    let earlier = &ticket.pending().earlier;
    assert!(
        earlier.len() == 1
            && earlier[0].contains("for always")
            && earlier[0].ends_with("under another environment, in another directory"),
        "{earlier:?}"
    );
    // Another command has no such answer, and one that applies again is not marked.
    assert!(
        second
            .ask(asked(&["npm", "publish"]))
            .await
            .unwrap()
            .pending()
            .earlier
            .is_empty()
    );
    let rules = second.rules(&uid(0)).await;
    assert!(second.not_applied(&rules[0]).contains("environment"));
    assert!(passes(&second, &plain).await);
    assert_eq!(second.not_applied(&rules[0]), "");
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_an_older_file_lets_nothing_pass_and_is_listed() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("approvals");
    let approvals = approvals(Some(place.clone()));
    let push = asked(&["git", "push", "origin", "main"]);
    answer(&approvals, push.clone(), Answer::AllowAlways).await.unwrap();
    let file = place.join("always.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let without = |names: &[&str]| {
        let kept = |line: &&str| !names.iter().any(|name| line.starts_with(&format!("{name} = ")));
        good.lines()
            .filter(kept)
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let all = ["policy_digest", "environment", "cwd"];
    for names in [&all[..], &all[..1], &all[1..2], &all[2..]] {
        let older = without(names);
        assert!(older.len() < good.len(), "{names:?}");
        std::fs::write(&file, older).unwrap();
        assert!(!passes(&approvals, &push).await, "{names:?}");
        let rules = approvals.rules(&uid(0)).await;
        assert!(approvals.not_applied(&rules[0]).contains("older version"), "{names:?}");
    }
    std::fs::write(&file, &good).unwrap();
    assert!(passes(&approvals, &push).await);
    std::fs::write(&file, without(&all)).unwrap();
    let id = approvals.rules(&uid(0)).await[0].id.clone();
    approvals.remove_rule(&uid(0), &id).await.unwrap();
    assert!(approvals.rules(&uid(0)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_takes_its_program_from_standard_input_is_allowed_once_only() {
    let directory = tempfile::tempdir().unwrap();
    let approvals = approvals(Some(directory.path().join("approvals")));
    let with_input = |words: &[&str]| {
        let mut asked = asked(words);
        asked.program_from_input = fumehood_policies::command::reads_program_from_input(&asked.argv);
        asked
    };
    for words in [&["bash"][..], &["python3", "-"], &["bash", "-c", "git push $(cat)"]] {
        let mut ticket = approvals.ask(with_input(words)).await.unwrap();
        let id = ticket.pending().id.clone();
        for lasting in [Answer::AllowSession, Answer::AllowAlways] {
            let refused = approvals.resolve(&uid(0), &id, lasting, String::new()).await;
            let Err(ResolveError::OnceOnly(why)) = refused else {
                panic!("{words:?}: {refused:?}")
            };
            assert!(
                why.contains("reads its commands from standard input, which nobody has seen"),
                "{why}"
            );
        }
        approvals
            .resolve(&uid(0), &id, Answer::AllowOnce, String::new())
            .await
            .unwrap();
        assert!(matches!(ticket.answered().await, Outcome::Answered(_)));
        assert!(!passes(&approvals, &with_input(words)).await, "{words:?}");
        // Without input it can do no harm, and that answer is none for a run with input.
        answer(&approvals, asked(words), Answer::AllowSession).await.unwrap();
        assert!(passes(&approvals, &asked(words)).await, "{words:?}");
        assert!(!passes(&approvals, &with_input(words)).await, "{words:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_others_could_change_or_that_is_broken_lets_nothing_pass() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("approvals");
    let push = ["git", "push", "origin", "main"];
    let approvals = approvals(Some(place.clone()));
    answer(&approvals, asked(&push), Answer::AllowAlways).await.unwrap();
    let file = place.join("always.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    for bad in [
        good.replace("version = 1", "version = 2"),
        good.replace("reason", "raeson"),
        good.replace(
            "[\"git\", \"push\", \"origin\", \"main\"]",
            "[\"bash\", \"-c\", \"git push origin main\"]",
        ),
        "\u{0}".to_owned(),
    ] {
        assert_ne!(bad, good);
        std::fs::write(&file, &bad).unwrap();
        assert!(!passes(&approvals, &asked(&push)).await, "{bad}");
        assert!(
            !passes(&approvals, &asked(&["bash", "-c", "git push origin main"])).await,
            "{bad}"
        );
    }
    std::fs::write(&file, &good).unwrap();
    assert!(passes(&approvals, &asked(&push)).await);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o620)).unwrap();
    assert!(!passes(&approvals, &asked(&push)).await);
    let refused = answer(&approvals, asked(&["npm", "publish"]), Answer::AllowAlways).await;
    assert!(matches!(refused, Err(ResolveError::Kept(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_questions_is_refused_and_leaves_room_for_others() {
    let approvals = approvals(None);
    let mut tickets = Vec::new();
    for peer in 0..8 {
        for _ in 0..MAX_PENDING_OF_PEER {
            tickets.push(
                approvals
                    .ask(asked_by(uid(2000 + peer), "never", &["git", "push"]))
                    .await
                    .unwrap(),
            );
        }
        let own = approvals
            .ask(asked_by(uid(2000 + peer), "never", &["git", "push"]))
            .await;
        assert!(matches!(
            own,
            Err(AskError::Full {
                own: true,
                waiting: MAX_PENDING_OF_PEER
            })
        ));
    }
    let other = approvals.ask(asked(&["git", "push"])).await;
    assert!(matches!(
        other,
        Err(AskError::Full {
            own: false,
            waiting: MAX_PENDING
        })
    ));
    // A run that ends takes its question along.
    drop(tickets.pop());
    approvals.ask(asked(&["git", "push"])).await.unwrap();
    assert_eq!(approvals.list(&uid(0)).len(), MAX_PENDING - 1);
}

#[tokio::test(start_paused = true)]
async fn watchers_hear_what_they_may_see_and_a_slow_one_hears_what_it_lost() {
    let approvals = approvals(None);
    let waiting = approvals.ask(asked(&["git", "push"])).await.unwrap();
    let (before, mut changes) = approvals.watch(&uid(0));
    assert_eq!(before.len(), 1);
    assert!(approvals.watch(&uid(1002)).0.is_empty());
    drop(waiting);
    let heard = changes.recv().await;
    assert!(
        matches!(&heard, Ok(Change::Resolved { resolution, .. }) if resolution.means == Means::Withdrawn),
        "{heard:?}"
    );
    for _ in 0..CHANGES {
        drop(approvals.ask(asked(&["git", "push"])).await.unwrap());
    }
    let heard = changes.recv().await;
    assert!(
        matches!(heard, Err(broadcast::error::RecvError::Lagged(lost)) if lost == CHANGES as u64),
        "{heard:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_ends_takes_no_questions_and_answers_none() {
    let approvals = approvals(None);
    let mut ticket = approvals.ask(asked(&["git", "push"])).await.unwrap();
    approvals.drain();
    assert_eq!(ticket.answered().await, Outcome::Draining);
    assert!(matches!(
        approvals.ask(asked(&["git", "push"])).await,
        Err(AskError::Draining)
    ));
}

#[tokio::test]
async fn what_cannot_be_recorded_is_neither_asked_nor_answered() {
    let directory = tempfile::tempdir().unwrap();
    let log = AuditLog::open(&directory.path().join("audit.jsonl"), "test").unwrap();
    let judges = Judges {
        own_uid: 7,
        approvers: Vec::new(),
    };
    let approvals = Approvals::new(judges, Some(log.clone()), true, None);
    let push = ["git", "push", "origin", "main"];
    let mut ticket = approvals.ask(asked(&push)).await.unwrap();
    log.close().await.unwrap();
    let id = ticket.pending().id.clone();
    let refused = approvals
        .resolve(&uid(0), &id, Answer::AllowSession, String::new())
        .await;
    assert!(matches!(refused, Err(ResolveError::Audit(_))), "{refused:?}");
    assert!(approvals.rules(&uid(0)).await.is_empty());
    let waited = tokio::time::timeout(Duration::from_millis(50), ticket.answered()).await;
    assert!(waited.is_err(), "the question waits on");
    assert!(matches!(approvals.ask(asked(&push)).await, Err(AskError::Audit(_))));
}
