//! Files without a command: what a command could do to them, no more and no less, and nothing half done.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use fumehood_client::{Error, FileError, Files, FilesView};
use fumehood_tests::{DEADLINE, House, Who, as_root_only, eventually, inline, within};
use nix::sys::signal::Signal;

use super::guard::{outside_ok, with_repository};
use super::{builder, for_both, house};

/// A policy that gives the workspace and little else.
const POLICY: &str = "version = 1\nname = \"p\"\n";

async fn files(house: &House) -> Files {
    house.client().await.files(FilesView::workspace(house.workspace()))
}

fn wrong(error: Error) -> FileError {
    match error {
        Error::File(error) => *error,
        other => panic!("not a file's error: {other}"),
    }
}

/// `fumehood files` with arguments, to its end.
fn tool(house: &House, arguments: &[&str]) -> fumehood_tests::Ended {
    house.cli().args(["files"]).args(arguments).finish()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn every_operation_works_and_files_come_out_as_a_commands() {
    for_both(|house| {
        let work = house.workspace();
        let written = house
            .cli()
            .args(["files", "write", "-p", "--json", "sub/dir/a.txt"])
            .input("one\n")
            .finish();
        let json = &written.expect(0).json()[0];
        assert_eq!((json["name"].as_str(), json["size"].as_u64()), (Some("a.txt"), Some(4)));
        assert_eq!(
            (json["created"].as_bool(), json["mode"].as_str()),
            (Some(true), Some("0644"))
        );
        let file = work.join("sub/dir/a.txt");
        assert_eq!(fs::read(&file).unwrap(), b"one\n");
        let owner = |path: &Path| (fs::metadata(path).unwrap().uid(), fs::metadata(path).unwrap().gid());
        house.sh("echo x > by-command").expect(0);
        assert_eq!(owner(&file), owner(&work.join("by-command")));
        fs::remove_file(work.join("by-command")).unwrap();

        house
            .cli()
            .args(["files", "write", "-a", "sub/dir/a.txt"])
            .input("two\n")
            .finish()
            .expect(0);
        assert_eq!(tool(house, &["cat", "sub/dir/a.txt"]).expect(0).out(), "one\ntwo\n");
        assert_eq!(
            tool(house, &["cat", "--offset", "2", "--length", "4", "sub/dir/a.txt"]).out(),
            "e\ntw"
        );
        house
            .cli()
            .args(["files", "write", "-m", "600", "-x", "--sync", "new"])
            .input("n")
            .finish()
            .expect(0);
        assert_eq!(
            fs::metadata(work.join("new")).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        house
            .cli()
            .args(["files", "write", "new"])
            .input("replaced")
            .finish()
            .expect(0);
        assert_eq!(
            fs::metadata(work.join("new")).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert_eq!(fs::read(work.join("new")).unwrap(), b"replaced");

        tool(house, &["mkdir", "-m", "700", "made"]).expect(0);
        assert_eq!(
            fs::metadata(work.join("made")).unwrap().permissions().mode() & 0o7777,
            0o700
        );
        tool(house, &["mv", "new", "made/moved"]).expect(0);
        symlink("made/moved", work.join("link")).unwrap();
        assert_eq!(tool(house, &["ls"]).expect(0).out(), "link\nmade\nsub\n");
        let listed = tool(house, &["ls", "--json"]);
        assert_eq!(listed.json()[0]["link_target"], "made/moved");
        let stats = tool(house, &["stat", "--json", "link"]);
        assert_eq!(
            (stats.json()[0]["kind"].as_str(), stats.json()[0]["size"].as_u64()),
            (Some("file"), Some(8))
        );
        assert_eq!(
            tool(house, &["stat", "-P", "--json", "link"]).json()[0]["kind"],
            "symlink"
        );
        // What a link leads to is replaced; the link itself is removed.
        house
            .cli()
            .args(["files", "write", "link"])
            .input("by link")
            .finish()
            .expect(0);
        assert_eq!(fs::read(work.join("made/moved")).unwrap(), b"by link");
        tool(house, &["rm", "link"]).expect(0);
        assert_eq!(tool(house, &["rm", "made", "sub"]).expect(1).err().lines().count(), 2);
        tool(house, &["rm", "-r", "made", "sub"]).expect(0);
        assert_eq!(names(&work), Vec::<String>::new());
        let verified = house.cli().args(["audit", "verify"]).args([house.audit()]).finish();
        verified.expect(0);
    });
}

#[tokio::test]
async fn every_error_has_its_number_and_its_path() {
    let house = house();
    let files = files(&house).await;
    let work = house.workspace();
    house.write("work/file", "x");
    house.make_directory("work/full/inner", 0o755);
    symlink("loop", work.join("loop")).unwrap();
    let long = "n".repeat(300);
    let long = long.as_str();
    let stat = |error: Result<_, Error>| wrong(error.map(drop).unwrap_err());
    let cases: Vec<(&str, &str, &str, FileError)> = vec![
        ("ENOENT", "open", "none", stat(files.read("none").await)),
        (
            "ENOENT",
            "rename",
            "none",
            wrong(files.rename("none", "x").await.unwrap_err()),
        ),
        (
            "EEXIST",
            "mkdir",
            "full",
            wrong(files.make_directory("full").await.unwrap_err()),
        ),
        (
            "EEXIST",
            "open",
            "file",
            wrong(files.write("file", "y").create_new().await.unwrap_err()),
        ),
        (
            "EEXIST",
            "rename",
            "full",
            wrong(files.rename_new("file", "full").await.unwrap_err()),
        ),
        ("ENOTDIR", "open", "file/x", stat(files.read("file/x").await)),
        (
            "ENOTDIR",
            "remove",
            "file/",
            wrong(files.remove("file/").await.unwrap_err()),
        ),
        ("ENOTDIR", "open", "file", wrong(files.list("file").await.unwrap_err())),
        ("EISDIR", "open", "full", stat(files.read("full").await)),
        (
            "EISDIR",
            "open",
            "full",
            wrong(files.write("full", "y").await.unwrap_err()),
        ),
        (
            "ENOTEMPTY",
            "remove",
            "full",
            wrong(files.remove("full").await.unwrap_err()),
        ),
        ("ELOOP", "open", "loop", stat(files.read("loop").await)),
        (
            "ELOOP",
            "open",
            "loop",
            wrong(files.write("loop", "y").await.unwrap_err()),
        ),
        (
            "EXDEV",
            "rename",
            "file",
            wrong(files.rename("file", "/tmp/file").await.unwrap_err()),
        ),
        ("ENAMETOOLONG", "open", long, stat(files.read(long).await)),
        (
            "EINVAL",
            "remove",
            "full/.",
            wrong(files.remove("full/.").await.unwrap_err()),
        ),
        (
            "EBUSY",
            "remove",
            work.to_str().unwrap(),
            wrong(files.remove_all(&work).await.unwrap_err()),
        ),
    ];
    for (name, operation, path, error) in cases {
        assert_eq!(error.name, name, "{error:?}");
        assert_eq!(
            (error.operation.as_str(), error.path.as_path()),
            (operation, Path::new(path)),
            "{error:?}"
        );
        assert!(
            error.message.contains(path) && error.message.contains(name),
            "{error:?}"
        );
        assert_ne!(error.errno, 0);
    }
    // A place that a command cannot write either, by whichever layer.
    let error = wrong(files.write("/usr/x", "y").await.unwrap_err());
    assert_eq!(
        error.kind(),
        wrong(files.make_directory("/usr/y").await.unwrap_err()).kind()
    );
    assert!(["EROFS", "EACCES"].contains(&error.name.as_str()), "{error:?}");
    for path in ["", "a\0b"] {
        let error = files.read(path).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    assert_eq!(fs::read(work.join("file")).unwrap(), b"x");
    assert_eq!(names(&work), ["file", "full", "loop"]);
}

#[test]
fn what_a_view_does_not_show_is_not_there_whichever_way_leads_to_it() {
    for_both(|house| {
        let secret = house.write("outside-secret", "hunter2");
        house.make_directory("home/.ssh", 0o700);
        house.write("home/.ssh/id_ed25519", "hunter2");
        let work = house.workspace();
        symlink(&secret, work.join("out")).unwrap();
        symlink("..", work.join("up")).unwrap();
        symlink(house.home().join(".ssh"), work.join("keys")).unwrap();
        let secret = secret.to_str().unwrap().to_owned();
        for path in [
            "out",
            "../outside-secret",
            "up/outside-secret",
            "keys/id_ed25519",
            &secret,
            "/proc/1/environ",
        ] {
            let read = tool(house, &["cat", path]);
            read.expect(1);
            assert!(!read.out().contains("hunter2"), "{path}");
        }
        // Neither is it written: what the view has of its own there is gone with it.
        for path in ["out", "../outside-new", "keys/new"] {
            let _ = house.cli().args(["files", "write", path]).input("evil").finish();
        }
        assert_eq!(fs::read(&secret).unwrap(), b"hunter2");
        assert!(!house.path("outside-new").exists() && !house.home().join(".ssh/new").exists());
        // The home is a copy whose changes vanish.
        house.write("home/notes", "mine");
        let notes = house.home().join("notes");
        let notes = notes.to_str().unwrap();
        assert_eq!(tool(house, &["cat", notes]).expect(0).out(), "mine");
        house
            .cli()
            .args(["files", "write", notes])
            .input("theirs")
            .finish()
            .expect(0);
        assert_eq!(fs::read(notes).unwrap(), b"mine");
    });
}

#[test]
fn protected_paths_are_protected_and_harmless_configuration_is_not() {
    for_both(|house| {
        with_repository(house);
        let work = house.workspace();
        let before = fs::read(work.join(".git/config")).unwrap();
        let evil = "[core]\n\tfsmonitor = ./evil\n";
        for (arguments, input) in [
            (&["write", ".git/config"][..], evil),
            (&["write", "-a", ".git/config"], evil),
            (&["write", ".git/hooks/pre-commit"], "#!/bin/sh\n"),
            (&["write", "-p", ".vscode/tasks.json"], "{}"),
            (&["mkdir", ".vscode"], ""),
            (&["mv", "a", ".git/hooks/post-checkout"], ""),
            (&["rm", "-r", ".git/hooks"], ""),
            (&["mv", ".git", "moved"], ""),
        ] {
            let ended = house.cli().args(["files"]).args(arguments).input(input).finish();
            ended.expect(1);
            assert!(
                ended.err().contains("(EPERM); "),
                "{arguments:?}: the rule is told: {}",
                ended.err()
            );
        }
        assert_eq!(fs::read(work.join(".git/config")).unwrap(), before);
        let hooks = names(&work.join(".git/hooks"));
        assert!(
            !hooks.iter().any(|name| name == "pre-commit" || name == "post-checkout"),
            "{hooks:?}"
        );
        assert!(!work.join(".vscode").exists());
        // What had been made on the way is not left.
        let all = outside_ok(house, "find . -name '.fumehood*' -o -name '*.lock'");
        assert_eq!(all, "");
        let mut harmless = before;
        harmless.extend_from_slice(b"[branch \"x\"]\n\tdescription = y\n");
        let input = harmless.clone();
        house
            .cli()
            .args(["files", "write", ".git/config"])
            .input(input)
            .finish()
            .expect(0);
        assert_eq!(fs::read(work.join(".git/config")).unwrap(), harmless);
        assert_eq!(outside_ok(house, "git config branch.x.description"), "y\n");
        let told = house.cli().args(["audit", "show"]).args([house.audit()]).finish();
        assert!(told.out().contains("file mkdir .vscode in "), "{}", told.out());
        assert!(told.out().contains(": EPERM by "), "{}", told.out());
    });
}

#[test]
fn the_workers_memory_is_shown_to_nobody() {
    for_both(|house| {
        symlink("/proc/self/mem", house.workspace().join("memory")).unwrap();
        for path in ["/proc/self/maps", "/proc/thread-self/environ", "memory"] {
            let refused = tool(house, &["cat", path]).expect(1).err();
            assert!(refused.contains("EACCES"), "{path}: {refused}");
            assert!(
                refused.contains("the process that carries out operations"),
                "{path}: {refused}"
            );
        }
        tool(house, &["ls", "/proc/self/"]).expect(1);
        tool(house, &["stat", "/proc/self/exe"]).expect(1);
        assert!(
            tool(house, &["cat", "/proc/meminfo"])
                .expect(0)
                .out()
                .contains("MemTotal")
        );
    });
}

#[tokio::test]
async fn pipes_and_devices_hold_nobody_up() {
    let house = house();
    let files = files(&house).await;
    let fifo = house.workspace().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in ["fifo", "/dev/zero", "/dev/tty"] {
        let error = wrong(within("read", files.read(path)).await.unwrap_err());
        assert_eq!(error.name, "EOPNOTSUPP", "{error:?}");
        let found = if path == "fifo" {
            "a named pipe (FIFO)"
        } else {
            "a character device"
        };
        assert!(error.message.contains(found), "{error:?}");
        for writing in [files.write(path, "x"), files.write(path, "x").append()] {
            let error = wrong(within("write", writing.into_future()).await.unwrap_err());
            assert_eq!(error.name, "EOPNOTSUPP", "{error:?}");
        }
    }
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    within("remove", files.remove("fifo")).await.unwrap();
}

#[tokio::test]
async fn names_are_bytes() {
    let house = house();
    let files = files(&house).await;
    let name = OsStr::from_bytes(b"caf\xe9\n\\x41 ");
    files.write(name, "x").await.unwrap();
    assert_eq!(fs::read(house.workspace().join(name)).unwrap(), b"x");
    assert_eq!(files.list(".").await.unwrap()[0].name, name.as_bytes());
    assert_eq!(files.read(name).await.unwrap(), b"x");
    let missing = PathBuf::from(name).join("y");
    let error = wrong(files.read(&missing).await.unwrap_err());
    assert_eq!((error.name.as_str(), &error.path), ("ENOTDIR", &missing));
    assert!(!error.message.contains('\n'), "{}", error.message);
    files.remove(name).await.unwrap();
}

/// Resident memory of the daemon, in KiB: the most so far.
fn peak(house: &House) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", house.daemon().pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn a_large_file_streams_in_little_memory() {
    const MIB: usize = 1 << 20;
    const TOTAL: usize = 128 * MIB;
    let house = house();
    let files = files(&house).await;
    files.write("warm", vec![1; MIB]).await.unwrap();
    files.read("warm").await.unwrap();
    let before = peak(&house);
    let mut writer = files.writer("big").start().unwrap();
    let block = |number: usize| vec![(number % 251) as u8; MIB];
    for number in 0..TOTAL / MIB {
        writer.send(block(number)).await.unwrap();
    }
    let written = within("the end", writer.finish()).await.unwrap();
    assert_eq!(written.file.unwrap().size, TOTAL as u64);
    let mut reader = files.open("big").await.unwrap();
    assert_eq!(reader.info().size, TOTAL as u64);
    let (mut total, mut largest) = (0, 0);
    while let Some(data) = within("data", reader.next()).await.unwrap() {
        largest = largest.max(data.len());
        for (at, byte) in data.iter().enumerate().step_by(4096) {
            assert_eq!(*byte, ((total + at) / MIB % 251) as u8);
        }
        total += data.len();
    }
    assert_eq!(total, TOTAL);
    assert!(largest <= 256 * 1024);
    let grown = peak(&house) - before;
    assert!(grown < 24 * 1024, "the daemon took {grown} KiB more");
}

#[test]
fn a_write_that_breaks_off_leaves_what_was_there_and_nothing_else() {
    for_both(|house| {
        let work = house.workspace();
        house.write("work/file", "old");
        // Killed at some moment of its way; the moments differ.
        for pause_ms in [0, 20, 40, 60, 80, 120] {
            let writing = house
                .cli()
                .args(["files", "write", "file"])
                .input(vec![b'x'; 4 << 20])
                .start();
            std::thread::sleep(Duration::from_millis(pause_ms));
            writing.signal(Signal::SIGKILL);
            let _ = writing.finish();
        }
        house.expect_nothing_but_launcher();
        let contents = fs::read(work.join("file")).unwrap();
        assert!(
            contents == b"old" || contents == vec![b'x'; 4 << 20],
            "{} bytes",
            contents.len()
        );
        assert_eq!(names(&work), ["file"]);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_dropped_writer_nor_a_killed_daemon_leaves_anything() {
    let mut house = house();
    house.write("work/file", "old");
    let files = files(&house).await;
    let half = async |name: &str| {
        let mut writer = files.writer(name).start().unwrap();
        for _ in 0..8 {
            writer.send(vec![b'x'; 1 << 20]).await.unwrap();
        }
        writer
    };
    // Again and again: a stream that is reset can look like one that ended.
    for _ in 0..5 {
        drop(within("half a file", half("file")).await);
    }
    house.expect_nothing_but_launcher();
    assert_eq!(names(&house.workspace()), ["file"]);
    assert_eq!(fs::metadata(house.workspace().join("file")).unwrap().len(), 3);
    let outcome = house.records().last().unwrap()["outcome"].clone();
    assert_eq!(outcome, "cancelled");

    let writer = within("half a file", half("file")).await;
    house.kill_daemon();
    drop(writer);
    house.expect_nothing_left(DEADLINE);
    assert_eq!(names(&house.workspace()), ["file"]);
    assert_eq!(fs::metadata(house.workspace().join("file")).unwrap().len(), 3);
    house.start_daemon();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_a_mixed_file() {
    const LENGTH: usize = 200_000;
    let house = house();
    let files = files(&house).await;
    files.write("file", vec![b'0'; LENGTH]).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let path = house.workspace().join("file");
    let looker = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                let contents = fs::read(&path).unwrap();
                let first = contents[0];
                assert!(
                    contents.len() == LENGTH && contents.iter().all(|byte| *byte == first),
                    "mixed"
                );
                looks += 1;
            }
            looks
        }
    });
    let writers = (b'a'..b'e').map(|byte| {
        let files = files.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                within("a write", files.write("file", vec![byte; LENGTH]).into_future())
                    .await
                    .unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(looker.join().unwrap() > 0);
    assert_eq!(names(&house.workspace()), ["file"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_has_so_many_calls_at_once_and_the_next_one_waits() {
    let house = house();
    let client = house.client().await;
    let files = client.files(FilesView::workspace(house.workspace()));
    let mut writers = Vec::new();
    for number in 0..16 {
        let mut writer = files.writer(number.to_string()).start().unwrap();
        writer.send("x").await.unwrap();
        writers.push(writer);
    }
    eventually(DEADLINE, "sixteen sandboxes", || {
        (house.below_daemon().len() >= 2 + 16 * 2).then_some(())
    });
    let mut waiting = tokio::spawn(async move { files.stat(".").await });
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "{early:?}");
    writers.remove(3).finish().await.unwrap();
    within("a place", waiting).await.unwrap().unwrap();
    for writer in writers {
        within("the end", writer.finish()).await.unwrap();
    }
    assert_eq!(names(&house.workspace()).len(), 16);
}

#[tokio::test]
async fn the_policy_says_whether_and_what() {
    let house = house();
    let client = house.client().await;
    house.write("work/file", "x");
    let view = |text: &str| FilesView::workspace(house.workspace()).policy_reference(inline(text).unwrap());
    let without = client.files(view(&format!(
        "{POLICY}tools = [\"shell\"]\n[filesystem]\nworkspace = \"write\"\n"
    )));
    match without.read("file").await {
        Err(Error::Denied { message, reason, .. }) => {
            assert_eq!(reason, "DENIED_BY_POLICY");
            assert!(message.contains("add \"files\" to tools"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    // Rules about commands are not asked.
    let rules = client.files(view(&format!("{POLICY}[commands]\ndefault = \"deny\"\n")));
    assert_eq!(rules.read("file").await.unwrap(), b"x");
    let locked = client.files(FilesView::workspace(house.workspace()).policy("locked"));
    assert_eq!(locked.read("file").await.unwrap(), b"x");
    for error in [
        locked.write("file", "y").await.map(drop),
        locked.write("new", "y").await.map(drop),
        locked.remove("file").await,
        locked.rename("file", "z").await,
        locked.make_directory("d").await.map(drop),
    ] {
        let error = wrong(error.unwrap_err());
        assert!(["EROFS", "EACCES"].contains(&error.name.as_str()), "{error:?}");
    }
    let unknown = client.files(FilesView::workspace(house.workspace()).policy("nowhere"));
    match unknown.stat("file").await {
        Err(Error::Invalid { violations, .. }) => assert_eq!(violations[0].field, "view.workspace.policy.name"),
        other => panic!("{other:?}"),
    }
    let outcomes: Vec<_> = house
        .records()
        .iter()
        .filter(|record| record["kind"] == "file")
        .map(|record| {
            format!(
                "{} {}",
                record["operation"].as_str().unwrap(),
                record["outcome"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(outcomes[..3], ["read denied", "read done", "read done"]);
    assert_eq!(outcomes.len(), 8, "what only looks is not recorded: {outcomes:?}");
    let small = client.files(view(&format!(
        "{POLICY}[filesystem]\nworkspace = \"write\"\n[limits]\nfile-size = \"1MiB\"\n"
    )));
    let error = wrong(small.write("large", vec![0; 2 << 20]).await.unwrap_err());
    assert_eq!((error.name.as_str(), error.operation.as_str()), ("EFBIG", "write"));
    assert_eq!(names(&house.workspace()), ["file"]);
}

#[tokio::test]
async fn a_call_takes_no_longer_than_the_policy_lets_a_run() {
    let house = house();
    let client = house.client().await;
    house.write("work/file", "old");
    let policy = format!("{POLICY}[filesystem]\nworkspace = \"write\"\n[limits]\nwall = \"2s\"\n");
    let view = FilesView::workspace(house.workspace()).policy_reference(inline(&policy).unwrap());
    let files = client.files(view);
    let mut writing = files.writer("file").start().unwrap();
    let error = within("the limit", async {
        loop {
            if let Err(error) = writing.send("x").await {
                break error;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let error = match error {
        Error::Deadline { .. } => error,
        other => panic!("{other:?}"),
    };
    assert!(error.to_string().contains("limits.wall"), "{error}");
    assert_eq!(fs::read(house.workspace().join("file")).unwrap(), b"old");
    // Its place is free again, and the next one has a time of its own.
    assert_eq!(files.read("file").await.unwrap(), b"old");
}

/// What a command may do to these paths is what this service may.
#[test]
fn it_may_what_a_command_may() {
    for_both(|house| {
        with_repository(house);
        let work = house.workspace();
        for (name, mode) in [("work/private", 0o000), ("work/read-only", 0o444), ("work/open", 0o666)] {
            let path = house.write(name, "x");
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        house.make_directory("work/closed", 0o555);
        house.make_directory("home/.ssh", 0o700);
        house.write("home/.ssh/config", "x");
        house.write("home/.bashrc", "x");
        house.write("outside", "x");
        symlink("/etc/passwd", work.join("to-passwd")).unwrap();
        symlink(house.path("outside"), work.join("to-outside")).unwrap();
        symlink(".git/hooks/pre-push", work.join("to-hook")).unwrap();
        let home = |name: &str| house.home().join(name).to_str().unwrap().to_owned();
        let mut paths: Vec<String> = [
            "a",
            "private",
            "read-only",
            "open",
            "new",
            "closed/new",
            "none/new",
            ".git/config",
            ".git/HEAD",
            ".git/index",
            ".git/hooks/pre-commit",
            ".git/new",
            ".git/info/attributes",
            ".gitmodules",
            ".vscode/settings.json",
            ".mcp.json",
            ".envrc",
            "to-passwd",
            "to-outside",
            "to-hook",
            "../outside",
            "../new",
            "/etc/passwd",
            "/etc/shadow",
            "/etc/hostname",
            "/etc/new",
            "/usr/bin/env",
            "/usr/new",
            "/tmp/new",
            "/var/tmp/new",
            "/dev/shm/new",
            "/dev/new",
            "/proc/version",
            "/proc/1/mem",
            "/proc/sys/kernel/hostname",
            "/sys/kernel/uevent_seqnum",
            "/root/.bashrc",
            "/run/new",
            "/new",
        ]
        .map(str::to_owned)
        .into();
        paths.extend([".ssh/config", ".ssh/new", ".bashrc", ".config/new", "new"].map(home));
        let restore = || {
            let added = [
                "new",
                "closed/new",
                ".git/new",
                ".mcp.json",
                ".envrc",
                ".gitmodules",
                ".git/info/attributes",
            ];
            for name in added {
                let _ = fs::remove_file(work.join(name));
            }
        };
        let by_command = |test: &str| -> Vec<bool> {
            let script = format!("for p; do if {test}; then echo yes; else echo no; fi; done 2> /dev/null");
            let arguments = ["sh", "-c", &script, "sh"]
                .into_iter()
                .chain(paths.iter().map(String::as_str));
            let ended = house.run(&arguments.collect::<Vec<_>>());
            let answers: Vec<_> = ended.out().lines().map(|line| line == "yes").collect();
            assert_eq!(answers.len(), paths.len(), "{}", ended.err());
            answers
        };
        let commands = by_command("cat \"$p\" > /dev/null").into_iter();
        // A subshell, because a redirection that fails ends a shell.
        let commands: Vec<_> = commands.zip(by_command("(: >> \"$p\")")).collect();
        restore();
        let mut differ = Vec::new();
        for (path, command) in paths.iter().zip(commands) {
            let reads = tool(house, &["cat", path]).code() == 0;
            let appends = house.cli().args(["files", "write", "-a", path]).finish().code() == 0;
            restore();
            if command != (reads, appends) {
                differ.push((path, command, (reads, appends)));
            }
        }
        assert!(
            differ.is_empty(),
            "(path, a command (reads, appends), files (read, append)): {differ:#?}"
        );
    });
}

/// Gives some bytes, and then an error.
struct Broken(bool);

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Err(std::io::Error::other("gone")));
        }
        buffer.put_slice(b"BROKEN");
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_appended_has_come_to_its_end() {
    use fumehood_client::proto::v1::files_client::FilesClient;
    use fumehood_client::proto::v1::{
        FilesView as WireView, WorkspaceView, WriteFileEnd, WriteFileRequest, WriteFileStart, WriteMode, files_view,
        write_file_request::Message,
    };
    let house = house();
    let work = house.workspace();
    let workspace = WorkspaceView {
        workspace: work.as_os_str().as_bytes().to_vec().into(),
        ..WorkspaceView::default()
    };
    let start = |path: &str| {
        Message::Write(WriteFileStart {
            view: Some(WireView {
                view: Some(files_view::View::Workspace(workspace.clone())),
            }),
            path: path.as_bytes().to_vec().into(),
            mode: WriteMode::Append.into(),
            ..WriteFileStart::default()
        })
    };
    let data = || Message::Data("BROKEN".into());
    let end = |bytes| Message::End(WriteFileEnd { bytes });
    let uri = format!("unix://{}", house.socket().display());
    let endpoint = tonic::transport::Endpoint::from_shared(uri).unwrap();
    let mut client = FilesClient::new(endpoint.connect().await.unwrap());
    fs::write(work.join("old"), "old").unwrap();
    for path in ["old", "new"] {
        for (said, field) in [
            (vec![data()], "end"),
            (vec![data(), end(5)], "end.bytes"),
            (vec![data(), end(6), data()], "end"),
            (vec![data(), end(6), end(6)], "end"),
        ] {
            let messages = [start(path)].into_iter().chain(said);
            let messages: Vec<_> = messages
                .map(|message| WriteFileRequest { message: Some(message) })
                .collect();
            let refused = within("the answer", client.write_file(tokio_stream::iter(messages))).await;
            let error = Error::from(refused.unwrap_err());
            assert!(
                matches!(&error, Error::Invalid { violations, .. } if violations[0].field == field),
                "{error:?}"
            );
            assert!(error.to_string().contains("nothing was written"), "{error}");
            assert_eq!(fs::read(work.join("old")).unwrap(), b"old", "{path} {field}");
            assert!(!work.join("new").exists());
        }
    }
    // What cannot be read to its end is not written either.
    let files = files(&house).await;
    let error = files
        .writer("old")
        .append()
        .copy_from(&mut Broken(false))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Contents { .. }), "{error:?}");
    // A stream that stays open behind its end holds nothing up for long.
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    for message in [start("old"), Message::Data(" new".into()), end(4)] {
        sender.send(WriteFileRequest { message: Some(message) }).await.unwrap();
    }
    let open = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let written = within("the answer", client.write_file(open))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(written.file.unwrap().size, 7);
    assert_eq!(fs::read(work.join("old")).unwrap(), b"old new");
    drop(sender);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_session_files_are_those_of_its_runs() {
    let house = house();
    with_repository(&house);
    house.make_directory("work/sub", 0o755);
    let client = house.client().await;
    let missing = client.files(FilesView::session("none")).stat(".").await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    let session = client.session().workspace(house.workspace()).create().await.unwrap();
    let files = session.files();
    // Before the first run, and after some that left something.
    assert_eq!(files.read("a").await.unwrap(), b"a\n");
    let line = "cd sub && echo mine > /tmp/left && sleep 300 > /dev/null 2>&1 &\n cd sub; echo mine > /tmp/left";
    let left = session.shell(line).output().await.unwrap();
    assert!(left.status.success(), "{}", String::from_utf8_lossy(&left.stderr));
    assert_eq!(files.read("/tmp/left").await.unwrap(), b"mine\n");
    files.write("new", "relative").await.unwrap();
    assert_eq!(fs::read(house.workspace().join("sub/new")).unwrap(), b"relative");
    files.write("/tmp/given", "yours").await.unwrap();
    files.write("/tmp/given", " and mine").append().await.unwrap();
    let read = session.shell("cat /tmp/given new").output().await.unwrap();
    assert_eq!(read.stdout, b"yours and minerelative");
    // Guarded as ever, with others there: what is judged when it is closed is not said to be written.
    let evil = "[core]\n\tfsmonitor = ./evil\n";
    for writing in [
        files.write("../.git/config", evil),
        files.write("../.git/config", evil).append(),
    ] {
        let error = wrong(writing.await.unwrap_err());
        assert_eq!(error.name, "EPERM", "{error:?}");
    }
    let good = files
        .write("../.git/config", "[user]\n\tname = M\n")
        .append()
        .await
        .unwrap();
    assert!(!good.created);
    assert_eq!(outside_ok(&house, "git config user.name"), "M\n");
    // A call is no run, and what carries it out none of the session's processes.
    let mut writer = files.writer("/tmp/half").start().unwrap();
    writer.send("x").await.unwrap();
    eventually(DEADLINE, "the worker", || {
        (house.below_daemon().len() >= 7).then_some(())
    });
    let described = session.describe().await.unwrap();
    let contents = described.contents.unwrap();
    let names: Vec<_> = contents.processes.iter().map(|process| process.name.clone()).collect();
    assert!(names.iter().any(|name| &name[..] == b"sleep"), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with(b"fumehood")), "{names:?}");
    let info = described.session.unwrap();
    assert_eq!(
        (info.total_runs, info.active_runs),
        (2, 1),
        "it is in use while files are worked on"
    );
    drop(writer);
    let id = session.id().to_owned();
    let told = house.cli().args(["files", "cat", "-s", &id, "/tmp/left"]).finish();
    assert_eq!(told.expect(0).out(), "mine\n");
    session.close().await.unwrap();
    let error = files.read("/tmp/left").await.unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
    let records = house.records();
    let reads = records
        .iter()
        .filter(|record| record["kind"] == "file" && record["session"] == id.as_str());
    assert!(reads.count() >= 7);
}

#[test]
fn another_user_works_as_itself() {
    if !as_root_only("another_user_works_as_itself") {
        return;
    }
    let house = builder().who(Who::Ordinary).build();
    let root_only = house.workspace().join("of-root");
    fs::File::create(&root_only).unwrap().write_all(b"x").unwrap();
    fs::set_permissions(&root_only, fs::Permissions::from_mode(0o600)).unwrap();
    let read = tool(&house, &["cat", "of-root"]);
    assert!(read.expect(1).err().contains("EACCES"), "{}", read.err());
}

/// A client that is killed while it reads holds nothing.
#[test]
fn a_reader_that_goes_away_is_forgotten() {
    let house = house();
    house.write("work/file", vec![7; 8 << 20]);
    let child = house.cli().args(["files", "cat", "file"]).start_into(Stdio::piped());
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    eventually(DEADLINE, "a sandbox", || (house.below_daemon().len() > 2).then_some(()));
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    let mut child = child;
    let _ = child.wait();
    house.expect_nothing_but_launcher();
    eventually(DEADLINE, "the word of its end", || {
        let outcome = house.records().last()?["outcome"].clone();
        (outcome == "cancelled").then_some(())
    });
}

trait NothingButLauncher {
    fn expect_nothing_but_launcher(&self);
}

impl NothingButLauncher for House {
    /// Waits until no sandbox is left: only the launcher and what starts it.
    #[track_caller]
    fn expect_nothing_but_launcher(&self) {
        eventually(DEADLINE, "the end of every sandbox", || {
            (self.below_daemon().len() == 2).then_some(())
        });
    }
}
