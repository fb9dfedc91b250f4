//! What the daemon before keeps, used through the one that serves: sessions, files in them, questions, other peers' runs.

use fumehood_client::proto::v1::{CreateSessionRequest, SessionSpec, SessionState, ShellCarry, ShellLine};
use fumehood_client::{Client, FilesView};
use fumehood_tests::{Who, as_root_only, send};

use super::super::approvals::{id, policy, question};
use super::super::mtls::{Authority, on_tcp, options};
use super::*;

fn session(house: &House, id: &str) -> CreateSessionRequest {
    use std::os::unix::ffi::OsStrExt as _;
    CreateSessionRequest {
        session_id: id.to_owned(),
        spec: Some(SessionSpec {
            workspace: bytes::Bytes::copy_from_slice(house.workspace().as_os_str().as_bytes()),
            ..SessionSpec::default()
        }),
    }
}

fn line(session: &str, text: &str) -> RunSpec {
    RunSpec {
        session: session.to_owned(),
        shell: Some(ShellLine {
            line: bytes::Bytes::copy_from_slice(text.as_bytes()),
            carry: ShellCarry::Environment.into(),
        }),
        ..RunSpec::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_with_all_that_is_in_it() {
    let mut house = house();
    let first = serving(&house).await;
    let old = house.client().await;
    within("a session", old.create_session(session(&house, "s")))
        .await
        .unwrap();
    let told = send(
        &old,
        line("s", "export KEPT=yes; cd /tmp; echo hello > file; sleep 1000 &"),
    )
    .await;
    assert!(matches!(told.ending(), Kind::Exited(_)), "{told:?}");
    reload(&house);
    let new = house.client().await;
    let pid = serving(&house).await;
    assert_ne!(pid, first);

    let told = send(&new, line("s", "echo $KEPT $PWD $(cat file)")).await;
    assert_eq!(told.out(), "yes /tmp hello\n");
    let kept = new.in_session("s");
    let described = within("a description", kept.describe()).await.unwrap();
    let contents = described.contents.expect("its contents");
    assert!(
        contents
            .processes
            .iter()
            .any(|process| process.command.starts_with(b"sleep")),
        "{contents:?}"
    );
    let listed = within("a list", new.list_sessions(Default::default())).await.unwrap();
    assert_eq!(listed.sessions.len(), 1);
    // The same request is the same session; the same id for another one is none.
    let again = within("the same", new.create_session(session(&house, "s")))
        .await
        .unwrap();
    assert!(again.existed);

    // Files as its commands see them, over the channel in both directions.
    let files = new.files(FilesView::session("s"));
    let large = vec![b'x'; 3 << 20];
    within("a file", async { files.write("/tmp/large", large.clone()).await })
        .await
        .unwrap();
    assert_eq!(within("a file", files.read("/tmp/large")).await.unwrap(), large);
    let stat = within("a file", files.stat("/tmp/file")).await.unwrap();
    assert_eq!(stat.size, 6);
    assert_eq!(
        send(&new, line("s", "wc -c < large")).await.out().trim(),
        large.len().to_string()
    );

    // A session that is made now is the new one's.
    within("a session", new.create_session(session(&house, "t")))
        .await
        .unwrap();
    let closed = within("its end", kept.close()).await.unwrap();
    assert_eq!(closed.state(), SessionState::Closed);
    drop(old);
    gone(&mut house, &[first]);
    assert_eq!(send(&new, line("t", "echo here")).await.out(), "here\n");
    // Its id is free again.
    within("a session", new.create_session(session(&house, "s")))
        .await
        .unwrap();
    audit_is_whole(&house, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_id_makes_one_session_whichever_daemon_hears_of_it_first() {
    let mut house = house();
    let first = serving(&house).await;
    let old = house.client().await;
    within("a version", old.version()).await.unwrap();
    reload(&house);
    let new = house.client().await;
    within("a session", new.create_session(session(&house, "new-first")))
        .await
        .unwrap();
    let refused = within("an answer", old.create_session(session(&house, "new-first")))
        .await
        .unwrap_err();
    assert!(refused.is_broken_connection(), "{refused:?}");
    within("a session", old.create_session(session(&house, "old-first")))
        .await
        .unwrap();
    let same = within("the same", new.create_session(session(&house, "old-first")))
        .await
        .unwrap();
    assert!(same.existed);
    within("its end", new.in_session("old-first").close()).await.unwrap();
    drop(old);
    gone(&mut house, &[first]);
    audit_is_whole(&house, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_seen_and_answered_through_the_new_daemon() {
    let mut house = house();
    let first = serving(&house).await;
    let asks = policy(&house, "asks", "self = \"always\"");
    let touch = |name: &str| house.run_with(&["--policy", &asks], &["touch", name]).start();
    let earlier = touch("earlier");
    let asked = id(&question(|| house.cli(), "earlier"));
    // Somebody watches, from before.
    let mut watching = house.cli().args(["approve", "--watch"]).start();
    watching.wait_for("earlier");
    reload(&house);
    let later = touch("later");
    let other = id(&question(|| house.cli(), "later"));
    let listed = house.cli().args(["approve", "--list", "--json"]).finish().json();
    assert_eq!(listed.len(), 2, "{listed:?}");
    // The one that watched the old daemon watches the new one by itself.
    watching.wait_for("later");
    house.cli().args(["approve", &asked]).finish().expect(0);
    house.cli().args(["deny", &other]).finish().expect(0);
    earlier.finish().expect(0);
    assert_ne!(later.finish().code(), 0);
    assert!(house.workspace().join("earlier").exists() && !house.workspace().join("later").exists());
    gone(&mut house, &[first]);
    watching.signal(nix::sys::signal::Signal::SIGINT);
    drop(watching);
    audit_is_whole(&house, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_goes_on_and_who_asks_over_it_is_who_they_were() {
    let authority = Authority::new();
    let (mut house, address) = on_tcp(&authority);
    let first = serving(&house).await;
    let connect = async |name: &str| {
        let (cert, key) = authority.vouch(name);
        let client = Client::connect_tls(&address, options(&authority, cert, key));
        within("a connection", client).await.expect(name)
    };
    let agent = connect("agent.example").await;
    start(&house, &agent, "theirs", &until("stop")).await;
    reload(&house);
    let (again, other) = (connect("agent.example").await, connect("other.example").await);
    assert_ne!(within("a version", again.version()).await.unwrap().pid, first);
    let info = within("the state", again.get("theirs")).await.unwrap();
    assert_eq!(info.peer, "cert:agent.example");
    assert_ne!(info.state(), RunState::Finished);
    let unknown = within("the state", other.get("theirs")).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");
    // Another peer's run of the same id is another run.
    start(&house, &other, "theirs", "echo other").await;
    within("its end", other.wait("theirs", None)).await.unwrap();
    assert_eq!(output(&other, "theirs").await, b"other\n");
    house.write("work/stop", "");
    assert_eq!(output(&again, "theirs").await, b"begun\nended\n");
    drop(agent);
    gone(&mut house, &[first]);
    assert_eq!(output(&again, "theirs").await, b"begun\nended\n");
    audit_is_whole(&house, 2);
}

#[test]
fn an_ordinary_users_daemon_is_reloaded_by_that_user_alone() {
    let mut house = builder().who(Who::Ordinary).build();
    let first = house.daemon().pid;
    let started = house.run_with(&["--detach"], &["sh", "-c", &until("stop")]).finish();
    let id = started.expect(0).out().trim().to_owned();
    let mut following = house.cli().args(["logs", "--follow", &id]).start();
    following.wait_for("begun");
    reload(&house);
    house.run(&["true"]).expect(0);
    let listed = house.cli().args(["ps", "--json"]).finish().json();
    assert!(
        listed
            .iter()
            .any(|run| run["run_id"] == id.as_str() && run["state"] == "running"),
        "{listed:?}"
    );
    house.write("work/stop", "");
    assert_eq!(following.finish().expect(0).out(), "begun\nended\n");
    gone(&mut house, &[first]);
    assert_eq!(
        house.cli().args(["logs", &id]).finish().expect(0).out(),
        "begun\nended\n"
    );
    audit_is_whole(&house, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_gets_nothing_handed_over() {
    if !as_root_only("one user asks another's daemon") {
        return;
    }
    let house = builder().config("allowed_uids = [0, 54324]\n").build();
    let stranger = fumehood_tests::Cli::new(house.program(), Some(54_324))
        .env("HOME", "/")
        .env("FUMEHOOD_SOCKET", house.socket())
        .args(["daemon", "reload"]);
    std::fs::set_permissions(house.path("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let refused = stranger.finish();
    assert_eq!(refused.code(), 125, "{}", refused.err());
    assert!(refused.err().contains("hands nothing over"), "{}", refused.err());
    let pid = serving(&house).await;
    assert_eq!(pid, house.daemon().pid);
}
