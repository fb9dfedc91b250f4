//! Sessions: what runs in one share, what carries from one line to the next, and how everything in it ends.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use bytes::Bytes;
use fumehood_client::proto::convert::duration_from_std;
use fumehood_client::proto::v1::{
    CancelCause, CreateSessionRequest, EnvironmentVariable, ListSessionsRequest, RequestedLimits, RunSpec, RunState,
    SessionEnd, SessionInfo, SessionSpec, SessionState, ShellCarry, ShellLine, StartRequest, ending::Kind,
    run_event::Event,
};
use fumehood_client::{Client, Error};
use fumehood_tests::{DEADLINE, House, Told, eventually, inline, send, with_cgroups_only, within};
use nix::sys::signal::Signal;

use super::{builder, for_both, house};

fn request(house: &House, id: &str, change: impl FnOnce(&mut SessionSpec)) -> CreateSessionRequest {
    let mut spec = SessionSpec {
        workspace: Bytes::copy_from_slice(house.workspace().as_os_str().as_bytes()),
        ..SessionSpec::default()
    };
    change(&mut spec);
    CreateSessionRequest {
        session_id: id.to_owned(),
        spec: Some(spec),
    }
}

async fn create(client: &Client, request: CreateSessionRequest) -> SessionInfo {
    let created = within("a session", client.create_session(request)).await.unwrap();
    created.session.unwrap()
}

/// A daemon with an open session `s`.
async fn open() -> (House, Client) {
    let house = house();
    let client = house.client().await;
    let info = create(&client, request(&house, "s", |_| {})).await;
    assert_eq!(info.state(), SessionState::Open);
    (house, client)
}

fn line(text: &str) -> RunSpec {
    carrying(text, ShellCarry::Environment)
}

fn carrying(text: &str, carry: ShellCarry) -> RunSpec {
    RunSpec {
        session: "s".to_owned(),
        shell: Some(ShellLine {
            line: Bytes::copy_from_slice(text.as_bytes()),
            carry: carry.into(),
        }),
        ..RunSpec::default()
    }
}

fn argv(arguments: &[&str]) -> RunSpec {
    RunSpec {
        session: "s".to_owned(),
        argv: fumehood_tests::argv(arguments),
        ..RunSpec::default()
    }
}

/// Runs a line that must end with success, and gives its output.
#[track_caller]
fn out(told: &Told) -> String {
    assert_eq!(told.finished().shell_code, 0, "{}{}", told.out(), told.err());
    told.out()
}

async fn run(client: &Client, text: &str) -> String {
    out(&send(client, line(text)).await)
}

async fn info(client: &Client) -> SessionInfo {
    client.in_session("s").describe().await.unwrap().session.unwrap()
}

fn precondition(result: Result<impl std::fmt::Debug, Error>) -> String {
    match result {
        Err(Error::Precondition { violations, .. }) => violations[0].kind.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_one_line_starts_is_used_by_the_next_and_seen_in_the_session() {
    let (house, client) = open().await;
    let started = send(
        &client,
        line("echo served > index; python3 -u -m http.server 4321 & echo started; echo kept > /tmp/note"),
    )
    .await;
    assert!(out(&started).starts_with("started\n"), "{}", started.out());
    assert_eq!(started.exited().leftover_count, 1);
    let page = run(
        &client,
        "for n in $(seq 100); do curl -sf 127.0.0.1:4321/index && break; sleep 0.1; done; cat /tmp/note",
    )
    .await;
    assert_eq!(page, "served\nkept\n");
    let described = client.in_session("s").describe().await.unwrap();
    let contents = described.contents.unwrap();
    let server = contents
        .processes
        .iter()
        .find(|process| process.name == "python3")
        .unwrap();
    assert_eq!((server.run_id.as_str(), server.background), (started.id(), true));
    assert!(server.command.windows(11).any(|part| part == b"http.server"));
    assert_eq!(contents.process_count, 1, "{:?}", contents.processes);
    let listening = &contents.listening[0];
    assert_eq!(
        (listening.protocol.as_str(), listening.port, listening.pid),
        ("tcp", 4321, server.pid)
    );
    assert!(contents.memory_bytes > 0);
    assert_eq!(contents.temporary_files[0].path, "/tmp/note");
    // Its log goes to the pipe of a run that is over, which is still read.
    let logged = eventually(DEADLINE, "the server's log", || {
        let handle = tokio::runtime::Handle::current();
        let describing = async { client.in_session("s").describe().await.unwrap().contents.unwrap() };
        let contents = tokio::task::block_in_place(|| handle.block_on(describing));
        contents.background.into_iter().find(|one| !one.tail.is_empty())
    });
    assert_eq!(logged.run_id, started.id());
    assert!(
        logged.tail.windows(10).any(|part| part == b"GET /index"),
        "{:?}",
        logged.tail
    );
    // A later run can look into it and end it.
    run(
        &client,
        "ls /proc/$(pgrep -x python3)/fd >/dev/null && pkill -x python3",
    )
    .await;
    let info = client.in_session("s").close().await.unwrap();
    assert_eq!((info.state(), info.end()), (SessionState::Closed, SessionEnd::Closed));
    drop(house);
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_and_variables_carry_and_argv_runs_find_them_too() {
    let (house, client) = open().await;
    run(&client, "mkdir -p a/b; cd a/b; export ONE='x\ny' TWO=2; unset LANG").await;
    let told = send(&client, argv(&["sh", "-c", "pwd; echo \"$ONE|$TWO|${LANG-gone}\""])).await;
    let workspace = house.workspace().canonicalize().unwrap();
    assert_eq!(out(&told), format!("{}/a/b\nx\ny|2|gone\n", workspace.display()));
    assert_eq!(info(&client).await.cwd, workspace.join("a/b").as_os_str().as_bytes());
    // For one line: another directory, another value.
    let mut spec = line("pwd; echo $TWO");
    spec.cwd = Bytes::from_static(b"a");
    spec.env = vec![EnvironmentVariable {
        name: Bytes::from_static(b"TWO"),
        value: Bytes::from_static(b"own"),
    }];
    assert_eq!(
        out(&send(&client, spec).await),
        format!("{}/a\nown\n", workspace.display())
    );
    assert_eq!(
        run(&client, "echo $TWO; pwd; cd ..; cd - >/dev/null; cat </dev/null").await,
        format!("2\n{}/a/b\n", workspace.display())
    );
    // It is gone, and the line begins all the same: in none where a careless command could do harm.
    run(&client, "rmdir $PWD").await;
    let told = send(&client, line("ls -A | wc -l; cd /tmp")).await;
    assert_eq!(out(&told).trim(), "0");
    assert!(told.err().contains("cannot be entered"), "{}", told.err());
    assert_eq!(run(&client, "pwd").await, "/tmp\n");
    // What a line has beyond its environment, where it is asked for.
    send(
        &client,
        carrying("f() { echo \"f $v\"; }; v=7; shopt -s nullglob", ShellCarry::Everything),
    )
    .await;
    assert_eq!(run(&client, "f; echo *.nothing").await, "f 7\n\n");
    // What was ended leaves nothing.
    let killed = send(&client, line("export TWO=no; kill -9 $$")).await;
    assert!(matches!(killed.ending(), Kind::Signaled(_)));
    let mut limited = line("export TWO=no; sleep 100");
    limited.limits = Some(RequestedLimits {
        wall: Some(duration_from_std(Duration::from_millis(300))),
        ..RequestedLimits::default()
    });
    let limited = send(&client, limited).await;
    assert!(matches!(limited.ending(), Kind::TimedOut(_)), "{:?}", limited.ending());
    for ended in [&killed, &limited] {
        let told = &ended.finished().not_carried;
        assert!(told.contains("by a signal or a limit"), "{told}");
    }
    let kept = send(&client, carrying("kill -9 $$", ShellCarry::Nothing)).await;
    assert_eq!(kept.finished().not_carried, "");
    assert_eq!(run(&client, "echo $TWO").await, "2\n");
    assert_eq!(
        out(&send(&client, carrying("export TWO=3", ShellCarry::Nothing)).await),
        ""
    );
    assert_eq!(run(&client, "echo $TWO; exec true").await, "2\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_has_its_input_its_exit_code_and_an_ordinary_surrounding() {
    let (house, client) = open().await;
    for (text, code) in [
        ("exit 3", 3),
        ("set -e; false; true", 1),
        ("if", 2),
        ("kill -TERM $$", 143),
    ] {
        assert_eq!(send(&client, line(text)).await.finished().shell_code, code, "{text}");
    }
    let told = send(&client, line("env; echo $0 $#; cat")).await;
    assert!(
        out(&told).ends_with("bash 0\n") && !told.out().contains("__"),
        "{}",
        told.out()
    );
    // Outside of a session too.
    let mut spec = RunSpec {
        session: String::new(),
        ..line("echo $0 $LINENO; exit 4")
    };
    spec.workspace = Bytes::copy_from_slice(house.workspace().as_os_str().as_bytes());
    let told = send(&client, spec).await;
    assert_eq!((told.out().as_str(), told.finished().shell_code), ("bash 1\n", 4));
    let run = client.get(told.id()).await.unwrap();
    assert_eq!(run.argv, ["bash", "-c", "echo $0 $LINENO; exit 4"]);
    let ended = house
        .run_with(&["-s", "s", "-c", "read a; echo got $a; tty"], &[])
        .input("one\ntwo\n")
        .finish();
    assert!(
        ended.out().starts_with("got one\nnot a tty"),
        "{}{}",
        ended.out(),
        ended.err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_in_descriptor_63_changes_nothing_that_a_line_could_not() {
    let (_house, client) = open().await;
    run(&client, "export A=1").await;
    for text in [
        "head -c 3000000 /dev/urandom 1<>/proc/self/fd/63; kill -9 $$",
        "head -c 3000000 /dev/urandom >&63; exec true",
        "exec 63>&-",
        "printf 'fumehood-2\\0d' 1<>/proc/self/fd/63; exec true",
    ] {
        let told = send(&client, line(text)).await;
        assert!(told.started().pid > 0);
        assert_eq!(run(&client, "echo $A").await, "1\n", "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_at_once_and_the_end_of_one_leaves_the_others() {
    let (_house, client) = open().await;
    send(&client, line("sleep 86400 & echo $! > /tmp/server")).await;
    let mut all = Vec::new();
    for number in 0..20 {
        let client = client.clone();
        all.push(tokio::spawn(async move {
            let told = send(
                &client,
                line(&format!(
                    "echo {number} > /tmp/n{number}; sleep 0.1; echo {number}; exit {number}"
                )),
            )
            .await;
            (number, told)
        }));
    }
    for one in all {
        let (number, told) = one.await.unwrap();
        assert_eq!(
            (told.finished().shell_code, told.out()),
            (number, format!("{number}\n"))
        );
    }
    assert_eq!(run(&client, "ls /tmp/n* | wc -l").await.trim(), "20");
    let mut victim = client
        .run(StartRequest {
            run_id: "victim".to_owned(),
            spec: Some(line("setsid sleep 86399 & (sleep 86398 &) ; echo ready; sleep 86397")),
        })
        .await
        .unwrap();
    Told::until(victim.events(), |event| matches!(event, Event::Output(_))).await;
    client.kill("victim", Some(Duration::ZERO), "").await.unwrap();
    let told = Told::all(victim.events()).await;
    assert!(matches!(told.ending(), Kind::Cancelled(cancelled) if cancelled.cause() == CancelCause::Kill));
    let contents = client.in_session("s").describe().await.unwrap().contents.unwrap();
    assert_eq!(contents.process_count, 1, "{:?}", contents.processes);
    assert_eq!(
        run(&client, "kill -0 $(cat /tmp/server) && echo lives").await,
        "lives\n"
    );
    let info = info(&client).await;
    assert_eq!((info.active_runs, info.total_runs), (0, 24));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_ends_everything_and_begins_anew() {
    let (house, client) = open().await;
    run(&client, "cd /tmp; export A=1; touch /tmp/x ~/y; sleep 86400 &").await;
    let mut long = client
        .run(StartRequest {
            run_id: "long".to_owned(),
            spec: Some(line("echo ready; sleep 86400")),
        })
        .await
        .unwrap();
    Told::until(long.events(), |event| matches!(event, Event::Output(_))).await;
    let info = within("the reset", client.in_session("s").reset()).await.unwrap();
    assert_eq!(
        (info.state(), info.resets, info.active_runs),
        (SessionState::Open, 1, 0)
    );
    let told = Told::all(long.events()).await;
    assert!(
        matches!(told.ending(), Kind::Cancelled(cancelled) if cancelled.cause() == CancelCause::Session),
        "{:?}",
        told.ending()
    );
    let workspace = house.workspace().canonicalize().unwrap();
    let found = run(&client, "pwd; echo ${A-none}; ls -A /tmp ~; pgrep sleep || echo nobody").await;
    assert!(
        found.starts_with(&format!("{}\nnone\n", workspace.display())),
        "{found}"
    );
    assert!(
        found.ends_with("nobody\n") && !found.contains(" y") && !found.contains("\nx\n"),
        "{found}"
    );
    let contents = client.in_session("s").describe().await.unwrap().contents.unwrap();
    assert!(contents.background.is_empty() && contents.process_count == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stopped_in_a_session_hears_that_it_is_asked_to_end() {
    let (house, client) = open().await;
    // The line's own shell, and one that left its process group.
    let text = "trap 'echo line >> said; wait; exit 3' TERM
        setsid sh -c 'trap \"echo other >> said; exit 0\" TERM; kill -STOP $$; while :; do sleep 0.02; done' &
        kill -STOP $$; while :; do sleep 0.02; done";
    let start = StartRequest {
        run_id: "stopped".to_owned(),
        spec: Some(line(text)),
    };
    let _run = within("a run", client.run(start)).await.unwrap();
    eventually(DEADLINE, "both stopped", || {
        let stat = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let held = fumehood_tests::holding(&house.workspace());
        let stopped = held.iter().filter(|process| stat(process.pid).contains(") T "));
        (stopped.count() == 2).then_some(())
    });
    within(
        "the kill",
        client.kill("stopped", Some(Duration::from_secs(20)), "enough"),
    )
    .await
    .unwrap();
    let said = std::fs::read_to_string(house.path("work/said")).unwrap();
    let mut said: Vec<_> = said.lines().collect();
    said.sort_unstable();
    assert_eq!(said, ["line", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_gives_the_grace_and_leaves_nothing() {
    let (house, client) = open().await;
    run(&client, "(trap 'echo bye > said; exit 0' TERM; echo > ready; while :; do sleep 0.02; done) & while ! [ -e ready ]; do sleep 0.02; done").await;
    let below = house.below_daemon().len();
    let session = client.in_session("s");
    let info = within("the close", session.close_with(Some(Duration::from_secs(20)), "enough"))
        .await
        .unwrap();
    assert_eq!(
        (info.end(), info.end_detail.contains("enough")),
        (SessionEnd::Closed, true)
    );
    assert_eq!(std::fs::read_to_string(house.path("work/said")).unwrap(), "bye\n");
    assert!(house.below_daemon().len() < below);
    // Again is no error; a run in it is one.
    assert_eq!(session.close().await.unwrap().state(), SessionState::Closed);
    assert!(session.describe().await.unwrap().contents.is_none());
    assert_eq!(precondition(session.reset().await), "SESSION_CLOSED");
    let start = StartRequest {
        run_id: String::new(),
        spec: Some(line("true")),
    };
    assert_eq!(precondition(client.start(start).await), "SESSION_CLOSED");
    // The id can be taken anew.
    create(&client, request(&house, "s", |_| {})).await;
    assert_eq!(run(&client, "echo new").await, "new\n");
    let listed = client
        .list_sessions(ListSessionsRequest::default())
        .await
        .unwrap()
        .sessions;
    assert_eq!(listed.len(), 1, "the new one stands for the id");

    let told = house.cli().args(["audit", "show"]).args([house.audit()]).finish();
    let told = told.expect(0).out();
    for words in [
        "session s created (policy",
        "session s closed (closed) after 1 runs",
        "closed it: enough",
        "in session s in ",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    house
        .cli()
        .args(["audit", "verify"])
        .args([house.audit()])
        .finish()
        .expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_not_used_or_old_is_closed() {
    let house = house();
    let client = house.client().await;
    let seconds = |seconds| Some(duration_from_std(Duration::from_secs(seconds)));
    create(&client, request(&house, "s", |spec| spec.idle_timeout = seconds(1))).await;
    // A run is a use for as long as it runs; what it leaves is none.
    assert_eq!(run(&client, "sleep 86400 & sleep 1.5; echo done").await, "done\n");
    let ended = wait_for_end(&client).await;
    assert_eq!(ended.end(), SessionEnd::Idle);
    create(&client, request(&house, "s", |spec| spec.lifetime = seconds(1))).await;
    let told = send(&client, line("echo begun; sleep 86400")).await;
    let Kind::Cancelled(cancelled) = told.ending() else {
        panic!("{:?}", told.ending())
    };
    assert_eq!(
        (cancelled.cause(), told.out().as_str()),
        (CancelCause::Session, "begun\n")
    );
    assert_eq!(wait_for_end(&client).await.end(), SessionEnd::Lifetime);
}

async fn wait_for_end(client: &Client) -> SessionInfo {
    let closed = async {
        loop {
            let info = info(client).await;
            if info.state() == SessionState::Closed {
                return info;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the end of the session", closed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_the_same_session_and_bounds_hold() {
    let house = builder().config("max_sessions = 2").build();
    let client = house.client().await;
    let first = request(&house, "s", |_| {});
    let made = client.create_session(first.clone()).await.unwrap();
    let again = client.create_session(first).await.unwrap();
    assert!(!made.existed && again.existed);
    let other = client
        .create_session(request(&house, "s", |spec| spec.umask = Some(0)))
        .await;
    assert!(matches!(other, Err(Error::AlreadyExists { .. })), "{other:?}");
    create(&client, request(&house, "", |_| {})).await;
    let third = client.create_session(request(&house, "t", |_| {})).await;
    assert!(
        matches!(
            third,
            Err(Error::Exhausted {
                retry_after: Some(_),
                ..
            })
        ),
        "{third:?}"
    );
    client.in_session("s").close().await.unwrap();
    create(&client, request(&house, "t", |_| {})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_named() {
    let (house, client) = open().await;
    let wrong = client
        .create_session(request(&house, "no blanks", |spec| {
            spec.workspace = Bytes::from_static(b"relative");
            spec.umask = Some(0o1000);
            spec.idle_timeout = Some(duration_from_std(Duration::from_millis(10)));
            spec.lifetime = Some(duration_from_std(Duration::from_secs(8 * 24 * 3600)));
            spec.labels.insert(String::new(), String::new());
            spec.limits = Some(RequestedLimits {
                processes: Some(0),
                ..RequestedLimits::default()
            });
        }))
        .await;
    let expected = [
        "session_id",
        "spec.limits.processes",
        "spec.workspace",
        "spec.labels",
        "spec.umask",
        "spec.idle_timeout",
        "spec.lifetime",
    ];
    assert_eq!(fields(wrong), expected);
    let mut spec = line("");
    spec.argv = fumehood_tests::argv(&["true"]);
    spec.workspace = Bytes::from_static(b"/tmp");
    spec.policy = fumehood_tests::named_policy("default");
    spec.limits = Some(RequestedLimits {
        memory_bytes: Some(1 << 20),
        ..RequestedLimits::default()
    });
    let start = |spec| {
        let spec = Some(spec);
        client.start(StartRequest {
            run_id: String::new(),
            spec,
        })
    };
    let expected = [
        "spec.shell.line",
        "spec.argv",
        "spec.workspace",
        "spec.policy",
        "spec.limits.memory_bytes",
    ];
    assert_eq!(fields(start(spec).await), expected);
    let mut nowhere = line("true");
    nowhere.session = "nope".to_owned();
    assert!(matches!(start(nowhere).await, Err(Error::NotFound { .. })));
    assert!(matches!(
        client.in_session("nope").close().await,
        Err(Error::NotFound { .. })
    ));
}

fn fields(result: Result<impl std::fmt::Debug, Error>) -> Vec<String> {
    match result {
        Err(Error::Invalid { violations, .. }) => violations.into_iter().map(|violation| violation.field).collect(),
        other => panic!("{other:?}"),
    }
}

/// A line that writes a state of its own making, in place of its shell's.
fn forged(variables: &str, rest: &str) -> RunSpec {
    let program = format!(
        "import os; fd = os.open(\"/proc/self/fd/63\", os.O_RDWR); \
         os.write(fd, b\"fumehood-2\\0e\\0{variables}\\0{rest}end\\0\")"
    );
    carrying(&format!("exec python3 -c '{program}'"), ShellCarry::Everything)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_carries_gets_no_command_past_the_rules() {
    let house = house();
    let client = house.client().await;
    let policy = "version = 1\nname = \"rules\"\nextends = [\"default\"]\n[environment]\nremove = [\"FORBIDDEN\"]\n\
        [commands]\ndefault = \"allow\"\nunreadable = \"deny\"\n\
        [[commands.rules]]\nprogram = [\"curl\"]\ndecision = \"deny\"\nreason = \"no curl\"\n";
    create(&client, request(&house, "s", |spec| spec.policy = inline(policy))).await;
    let denied = |told: &Told| matches!(told.ending(), Kind::Denied(_));
    assert!(denied(&send(&client, line("curl localhost")).await));
    // A function is text before the line: it is denied where it is made, and by what a line leaves behind our back where it is used.
    assert!(denied(
        &send(&client, carrying("f() { curl localhost; }", ShellCarry::Everything)).await
    ));
    let told = send(&client, forged("", "ff() { curl localhost; }\\n\\0")).await;
    assert_eq!(told.finished().shell_code, 0, "{}", told.err());
    let told = send(&client, line("true")).await;
    assert!(denied(&told), "{:?} {}", told.ending(), told.out());
    client.in_session("s").reset().await.unwrap();
    // Variables that say what runs count as if they were written before the command.
    for variable in [
        "LD_PRELOAD=/tmp/x.so",
        "BASH_ENV=/tmp/x",
        "GIT_SSH_COMMAND=curl x",
        "PAGER=curl x",
    ] {
        let told = send(&client, forged(&format!("{variable}\\0"), "")).await;
        assert_eq!(told.finished().shell_code, 0, "{}", told.err());
        let told = send(&client, argv(&["true"])).await;
        assert!(denied(&told), "{variable}: {:?}", told.ending());
        client.in_session("s").reset().await.unwrap();
    }
    // What no command may have is not carried.
    assert_eq!(run(&client, "export FORBIDDEN=1 FINE=2").await, "");
    assert_eq!(run(&client, "echo ${FORBIDDEN-none} $FINE").await, "none 2\n");
    // The text of a variable that no shell evaluates is no command. Where one does, who is refused is told how to get rid of it.
    assert_eq!(run(&client, "export MSG='x[`curl y`]'").await, "");
    assert_eq!(out(&send(&client, argv(&["true"])).await), "");
    assert_eq!(run(&client, "echo \"$MSG\"").await, "x[`curl y`]\n");
    let explanation = |told: &Told| match told.ending() {
        Kind::Denied(denied) => denied.explanation.clone(),
        other => panic!("not denied: {other:?}"),
    };
    let told = explanation(&send(&client, line("(( MSG ))")).await);
    assert!(
        told.contains("`unset MSG`") && told.contains("`fumehood session reset s`"),
        "{told}"
    );
    let mut spec = line("(( MSG ))");
    spec.env = vec![EnvironmentVariable {
        name: Bytes::from_static(b"MSG"),
        value: Bytes::from_static(b"1"),
    }];
    assert_eq!(out(&send(&client, spec).await), "");
    assert_eq!(run(&client, "unset MSG").await, "");
    assert_eq!(run(&client, "(( MSG )); echo \"${MSG-gone}\"").await, "gone\n");
    let told = send(&client, forged("LD_PRELOAD=/tmp/x.so\\0", "")).await;
    assert_eq!(told.finished().shell_code, 0, "{}", told.err());
    let told = explanation(&send(&client, argv(&["true"])).await);
    assert!(told.contains("`unset LD_PRELOAD`"), "{told}");
    let told = send(&client, line("unset LD_PRELOAD")).await;
    assert_eq!((out(&told), told.err()), (String::new(), String::new()));
    assert_eq!(out(&send(&client, argv(&["true"])).await), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carried_path_makes_a_rule_that_allows_ask_again() {
    let house = house();
    let client = house.client().await;
    let policy = "version = 1\nname = \"allows\"\nextends = [\"default\"]\n\
        [commands]\ndefault = \"deny\"\nunreadable = \"deny\"\n\
        [[commands.rules]]\nprogram = [\"id\", \"cd\", \"python3\"]\ndecision = \"allow\"\n";
    create(&client, request(&house, "s", |spec| spec.policy = inline(policy))).await;
    assert_eq!(send(&client, line("id")).await.finished().shell_code, 0);
    assert_eq!(send(&client, line("cd /tmp")).await.finished().shell_code, 0);
    assert_eq!(
        send(&client, line("id")).await.finished().shell_code,
        0,
        "where it is does not matter"
    );
    let told = send(&client, line("export PATH=/tmp/evil")).await;
    assert!(matches!(told.ending(), Kind::Denied(_)), "{:?}", told.ending());
    // Nor does it get there by another way.
    let told = send(&client, forged("PATH=/tmp/evil\\0", "")).await;
    assert_eq!(told.finished().shell_code, 0, "{:?} {}", told.ending(), told.err());
    for told in [send(&client, line("id")).await, send(&client, argv(&["id"])).await] {
        assert!(matches!(told.ending(), Kind::Denied(_)), "{:?}", told.ending());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_for_what_earlier_lines_left_says_so_and_how_to_be_rid_of_it() {
    let house = house();
    let client = house.client().await;
    let policy = "version = 1\nname = \"allows\"\nextends = [\"default\"]\n\
        [commands]\ndefault = \"deny\"\nunreadable = \"deny\"\n\
        [[commands.rules]]\nprogram = [\"id\", \"set\"]\ndecision = \"allow\"\n";
    create(&client, request(&house, "s", |spec| spec.policy = inline(policy))).await;
    let denied = |told: &Told| match told.ending() {
        Kind::Denied(denied) => denied.explanation.clone(),
        other => panic!("{other:?}"),
    };
    assert!(!denied(&send(&client, line("rm x")).await).contains("session reset"));
    // With it bash sets a variable, under which no rule that allows holds.
    let told = send(&client, carrying("set -o posix; id", ShellCarry::Everything)).await;
    assert_eq!(told.finished().shell_code, 0, "{:?} {}", told.ending(), told.err());
    let why = denied(&send(&client, line("id")).await);
    assert!(
        why.contains("not because of the line itself")
            && why.contains("functions, aliases and settings")
            && why.contains("`fumehood session reset s`"),
        "{why}"
    );
    // What would be denied anyway is not blamed on it.
    assert!(!denied(&send(&client, line("rm x")).await).contains("session reset"));
    client.in_session("s").reset().await.unwrap();
    assert_eq!(send(&client, line("id")).await.finished().shell_code, 0);
}

#[test]
fn a_run_in_a_session_asks_as_others_do_and_an_answer_is_for_its_state_only() {
    let house = house();
    let policy = house.write(
        "asks.toml",
        "version = 1\nname = \"asks\"\nextends = [\"default\"]\n[approvals]\nself = \"always\"\n\
         [commands]\ndefault = \"allow\"\nunreadable = \"allow\"\n[[commands.rules]]\nprogram = [\"touch\"]\ndecision = \"ask\"\n",
    );
    let policy = policy.to_str().unwrap();
    let created = house
        .cli()
        .args(["session", "create", "--id", "s", "--policy", policy])
        .finish();
    created.expect(0);
    let touch = || {
        house
            .run_with(&["-s", "s", "-c", "touch x && echo touched"], &[])
            .start()
    };
    let asked = touch();
    let question = super::approvals::question(|| house.cli(), "touch");
    let id = super::approvals::id(&question);
    house.cli().args(["approve", "--session", &id]).finish().expect(0);
    assert_eq!(asked.finish().expect(0).out(), "touched\n");
    assert_eq!(
        touch().finish().expect(0).out(),
        "touched\n",
        "the same line, answered for the session"
    );
    // With another state, it is another question.
    house
        .run_with(&["-s", "s", "-c", "export PATH=/tmp:$PATH"], &[])
        .finish()
        .expect(0);
    let asked = touch();
    let question = super::approvals::question(|| house.cli(), "touch");
    house
        .cli()
        .args(["deny", &super::approvals::id(&question)])
        .finish()
        .expect(0);
    asked.finish().expect(125);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_of_everything_in_it_together() {
    if !with_cgroups_only("limits_are_of_everything_in_it_together") {
        return;
    }
    let house = house();
    let client = house.client().await;
    let limits = RequestedLimits {
        processes: Some(20),
        wall: Some(duration_from_std(Duration::from_millis(700))),
        ..RequestedLimits::default()
    };
    let info = create(&client, request(&house, "s", |spec| spec.limits = Some(limits))).await;
    assert_eq!(info.limits.unwrap().processes, Some(20));
    run(&client, "for n in 1 2 3 4 5 6; do sleep 86400 & done").await;
    run(&client, "for n in 1 2 3 4 5 6; do sleep 86400 & done").await;
    let told = send(
        &client,
        line("for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 86400 & done; true"),
    )
    .await;
    assert_ne!(told.finished().shell_code, 0, "{}", told.err());
    let told = send(&client, line("sleep 86400")).await;
    assert!(
        matches!(told.ending(), Kind::TimedOut(_) | Kind::Exited(_)),
        "{:?}",
        told.ending()
    );
    // The bound of memory takes everything with it.
    client.in_session("s").close().await.unwrap();
    let limits = RequestedLimits {
        memory_bytes: Some(64 << 20),
        ..RequestedLimits::default()
    };
    create(&client, request(&house, "s", |spec| spec.limits = Some(limits))).await;
    run(&client, "sleep 86400 &").await;
    let told = send(
        &client,
        line("head -c 500000000 /dev/zero | tail -c 400000000 | wc -c; exit ${PIPESTATUS[1]}"),
    )
    .await;
    assert_ne!(told.finished().shell_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_session_outlives_a_daemon_that_was_killed() {
    let (mut house, client) = open().await;
    run(&client, "setsid sleep 86400 & sleep 86400 & touch /tmp/x").await;
    let below = house.below_daemon();
    assert!(
        below.iter().filter(|process| process.comm == "sleep").count() == 2,
        "{below:?}"
    );
    house.kill_daemon();
    house.expect_nothing_left(Duration::from_secs(5));
    house.start_daemon();
    house.sh("echo works").expect(0);
    let interrupted = |house: &House| {
        let records = house.records();
        let kinds = records.iter().filter(|record| record["kind"] == "session_interrupted");
        kinds.filter(|record| record["session_id"] == "s").count()
    };
    assert_eq!(interrupted(&house), 1);
    house.kill_daemon();
    house.start_daemon();
    assert_eq!(interrupted(&house), 1, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_sandbox_is_lost_says_so_to_its_runs() {
    let (house, client) = open().await;
    let mut run = client
        .run(StartRequest {
            run_id: String::new(),
            spec: Some(line("echo ready; sleep 86400")),
        })
        .await
        .unwrap();
    Told::until(run.events(), |event| matches!(event, Event::Output(_))).await;
    house.launcher().signal(Signal::SIGKILL);
    let told = Told::all(run.events()).await;
    assert!(matches!(told.ending(), Kind::Lost(_)), "{:?}", told.ending());
    let ended = wait_for_end(&client).await;
    assert_eq!(ended.end(), SessionEnd::Lost, "{ended:?}");
    eventually(DEADLINE, "the next launcher", || {
        (house.sh("exit 5").code() == 5).then_some(())
    });
    create(&client, request(&house, "s", |_| {})).await;
    assert_eq!(self::run(&client, "echo again").await, "again\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_leaves_a_session_and_what_is_kept_in_it() {
    let (_house, client) = open().await;
    let other = _house.client().await;
    let mut spec = line("echo ready; until test -e /tmp/go; do sleep 0.02; done; export LATE=1; echo end");
    spec.on_disconnect = fumehood_client::proto::v1::OnDisconnect::Keep.into();
    let mut kept = other
        .run(StartRequest {
            run_id: "kept".to_owned(),
            spec: Some(spec),
        })
        .await
        .unwrap();
    Told::until(kept.events(), |event| matches!(event, Event::Output(_))).await;
    drop((kept, other));
    let listed = client.get("kept").await.unwrap();
    assert_eq!((listed.state(), listed.session.as_str()), (RunState::Running, "s"));
    run(&client, "touch /tmp/go").await;
    let finished = client.wait("kept", None).await.unwrap();
    assert_eq!(finished.finished.unwrap().shell_code, 0);
    assert_eq!(run(&client, "echo $LATE").await, "1\n");
}

#[test]
fn another_user_neither_sees_nor_reaches_a_session() {
    if !fumehood_tests::as_root_only("another_user_neither_sees_nor_reaches_a_session") {
        return;
    }
    const STRANGER: u32 = 54_323;
    let config = format!("allowed_uids = [0, {STRANGER}]\nmax_sessions = 4");
    let house = builder().config(&config).build();
    let create = |id: &str| house.cli().args(["session", "create", "--id", id]).finish();
    create("mine").expect(0);
    let stranger = || {
        fumehood_tests::Cli::new(house.program(), Some(STRANGER))
            .env("HOME", house.home())
            .env("FUMEHOOD_SOCKET", house.socket())
            .current_dir(&house.workspace())
    };
    std::os::unix::fs::chown(house.path("run"), Some(0), Some(STRANGER)).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(house.path("run"), std::fs::Permissions::from_mode(0o750)).unwrap();
    for arguments in [
        ["session", "show", "mine"].as_slice(),
        &["session", "reset", "mine"],
        &["session", "close", "mine"],
        &["run", "-s", "mine", "--", "id"],
    ] {
        let ended = stranger().args(arguments).finish();
        assert_ne!(ended.code(), 0, "{arguments:?}: {}", ended.out());
        assert!(ended.err().contains("no session"), "{arguments:?}: {}", ended.err());
    }
    let listed = stranger().args(["session", "ls", "--all"]).finish();
    assert!(!listed.out().contains("mine"), "{}", listed.out());
    house.run_with(&["-s", "mine"], &["true"]).finish().expect(0);
    // Nor does one of them keep the other out.
    create("second").expect(0);
    create("third").expect(0);
    let fourth = create("fourth");
    assert_ne!(fourth.code(), 0);
    assert!(
        fourth.err().contains("3 sessions of yours are open"),
        "{}",
        fourth.err()
    );
    stranger()
        .args(["session", "create", "--id", "theirs"])
        .finish()
        .expect(0);
    let full = stranger().args(["session", "create", "--id", "more"]).finish();
    assert!(full.err().contains("4 sessions are open"), "{}", full.err());
}

#[test]
fn the_daemons_end_closes_sessions_and_an_idle_daemon_stays_for_them() {
    for_both(|house| {
        house.cli().args(["session", "create", "--id", "s"]).finish().expect(0);
        house
            .run_with(&["-s", "s", "-c", "sleep 86400 &"], &[])
            .finish()
            .expect(0);
        let shown = house.cli().args(["session", "show", "s"]).finish();
        assert!(shown.expect(0).out().contains("sleep 86400"), "{}", shown.out());
    });
    let mut house = house();
    house.cli().args(["session", "create", "--id", "s"]).finish().expect(0);
    house
        .run_with(&["-s", "s", "-c", "sleep 86400 &"], &[])
        .finish()
        .expect(0);
    house.signal(Signal::SIGTERM);
    assert!(house.wait_for_end().success());
    let closed = house
        .records()
        .into_iter()
        .find(|record| record["kind"] == "session_closed")
        .unwrap();
    assert_eq!(
        (closed["end"].as_str(), closed["runs"].as_u64()),
        (Some("drain"), Some(1))
    );
}
