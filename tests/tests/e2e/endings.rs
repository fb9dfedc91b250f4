//! How runs end by their limits, and how they fail to begin.
//!
//! Every ending of the wire's `Ending`, and where it is reached with what was written until then:
//!
//! | ending | tests |
//! |---|---|
//! | `exited` | `run.rs`, `wire.rs` |
//! | `signaled` | here: by itself, and by its child |
//! | `timed_out`: wall, idle, CPU | here; a tree that ignores it: `cancels.rs`, `bombs.rs` |
//! | `cancelled`: kill | `cancels.rs`, at every stage; `wire.rs` |
//! | `cancelled`: disconnect | `wire.rs`, `signals.rs`; after a linger: `output.rs`, `handover.rs` |
//! | `cancelled`: drain | `admission.rs`; what waits: `cancels.rs` |
//! | `out_of_memory` | here; of every kind, and of init: `bombs.rs` |
//! | `output_limit`: each stream | here; a flood: `bombs.rs` |
//! | `disk_limit`: space, files | `bombs.rs` |
//! | `denied` | by a limit: `requests.rs`; by a rule, by a person, by nobody: `approvals.rs`, `journeys.rs` |
//! | `spawn_failed`: search, exec, cwd | here |
//! | `sandbox_failed` | here: a missing protection, a sandbox that cannot be built |
//! | `lost`: init killed, launcher killed | here with their output; others unharmed: `crash.rs` |

use std::time::{Duration, Instant};

use bytes::Bytes;
use fumehood_client::Error;
use fumehood_client::proto::convert::duration_from_std;
use fumehood_client::proto::v1::{OutputStream, RequestedLimits, StartRequest, TimeLimit, ending::Kind};
use fumehood_tests::{DEADLINE, Told, Who, eventually, inline, send, with_cgroups_only};
use nix::sys::signal::Signal;

use super::{builder, house};

fn limits(limits: RequestedLimits) -> Option<RequestedLimits> {
    let grace = limits.grace.or(Some(duration_from_std(Duration::from_millis(200))));
    Some(RequestedLimits { grace, ..limits })
}

fn millis(millis: u64) -> Option<fumehood_client::proto::v1::RequestedLimits> {
    limits(RequestedLimits {
        wall: Some(duration_from_std(Duration::from_millis(millis))),
        ..Default::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_limit_ends_the_whole_tree_and_keeps_what_was_written() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.script("echo before; setsid sh -c 'trap \"\" TERM; sleep 86400' & sleep 86400");
    spec.limits = millis(300);
    let told = send(&client, spec).await;
    let Kind::TimedOut(timed_out) = told.ending() else {
        panic!("{:?}", told.ending())
    };
    assert_eq!(timed_out.limit(), TimeLimit::Wall);
    assert_eq!(told.out(), "before\n");
    assert_eq!(told.finished().shell_code, 124);
    let left = fumehood_tests::holding(&house.workspace());
    assert!(left.iter().all(|process| process.comm != "sleep"), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_ignores_the_stop_signal_is_killed_after_the_grace() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.script("trap 'echo asked' TERM; echo ready; while :; do sleep 0.02; done");
    spec.limits = millis(300);
    let begun = Instant::now();
    let told = send(&client, spec).await;
    assert!(matches!(told.ending(), Kind::TimedOut(_)), "{:?}", told.ending());
    assert!(told.out().contains("asked"), "{}", told.out());
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_command_ends_at_its_idle_limit_and_a_talking_one_does_not() {
    let house = house();
    let client = house.client().await;
    let idle = || {
        limits(RequestedLimits {
            idle: Some(duration_from_std(Duration::from_millis(400))),
            ..Default::default()
        })
    };
    let mut silent = house.script("echo once; sleep 86400");
    silent.limits = idle();
    let told = send(&client, silent).await;
    let Kind::TimedOut(timed_out) = told.ending() else {
        panic!("{:?}", told.ending())
    };
    assert_eq!((timed_out.limit(), told.out().as_str()), (TimeLimit::Idle, "once\n"));
    let mut talking = house.script("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done");
    talking.limits = idle();
    let told = send(&client, talking).await;
    assert!(
        matches!(told.ending(), Kind::Exited(exited) if exited.code == 0),
        "{:?}",
        told.ending()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_tree_ends_at_its_cpu_limit() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.script("(while :; do :; done) & while :; do :; done");
    spec.limits = limits(RequestedLimits {
        cpu_time: Some(duration_from_std(Duration::from_millis(500))),
        ..Default::default()
    });
    let told = send(&client, spec).await;
    let Kind::TimedOut(timed_out) = told.ending() else {
        panic!("{:?}", told.ending())
    };
    assert_eq!(timed_out.limit(), TimeLimit::Cpu);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_passes_its_memory_limit_is_out_of_memory() {
    if !with_cgroups_only("limits on memory") {
        return;
    }
    let house = house();
    let client = house.client().await;
    // `tail` keeps an unending line whole.
    let mut spec = house.script("exec tail /dev/zero");
    spec.limits = limits(RequestedLimits {
        memory_bytes: Some(32 << 20),
        ..Default::default()
    });
    let told = send(&client, spec).await;
    let Kind::OutOfMemory(out) = told.ending() else {
        panic!("{:?}", told.ending())
    };
    assert_eq!(out.limit_bytes, 32 << 20);
    assert_eq!(told.finished().shell_code, 137);
    assert!(told.finished().usage.as_ref().unwrap().oom_kills > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_has_no_more_processes_than_its_limit() {
    if !with_cgroups_only("limits on processes") {
        return;
    }
    let house = house();
    let client = house.client().await;
    let mut spec =
        house.script("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 5 & done; echo all");
    spec.limits = limits(RequestedLimits {
        processes: Some(10),
        ..Default::default()
    });
    let told = send(&client, spec).await;
    assert!(
        told.err().contains("fork") && !told.out().contains("all"),
        "{} {}",
        told.out(),
        told.err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_writes_more_than_its_limit_ends_at_it() {
    let house = house();
    let client = house.client().await;
    for (script, stream) in [("yes", OutputStream::Stdout), ("yes >&2", OutputStream::Stderr)] {
        let mut spec = house.script(script);
        spec.limits = limits(RequestedLimits {
            output_bytes: Some(100_000),
            ..Default::default()
        });
        let told = send(&client, spec).await;
        let Kind::OutputLimit(limit) = told.ending() else {
            panic!("{:?}", told.ending())
        };
        assert_eq!((limit.stream(), limit.limit_bytes), (stream, 100_000));
        assert!(told.output(stream).starts_with(b"y\ny\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_executed_fails_to_spawn_with_stage_error_and_path() {
    let house = house();
    let client = house.client().await;
    house.write("work/plain", "no program");
    for (name, contents) in [
        ("work/no-interpreter", "#!/no/such/interpreter\n"),
        ("work/garbage", "\x7fELF\0\0"),
    ] {
        let path = house.write(name, contents);
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut elsewhere = house.spec(&["true"]);
    elsewhere.cwd = Bytes::from_static(b"nowhere");
    let nowhere = format!("{}/nowhere", house.workspace().display());
    let cases = [
        (
            house.spec(&["no-such-program"]),
            "search",
            "ENOENT",
            "no-such-program",
            127,
        ),
        (
            house.spec(&["/no/such/program"]),
            "exec",
            "ENOENT",
            "/no/such/program",
            127,
        ),
        (house.spec(&["./plain"]), "exec", "EACCES", "./plain", 126),
        (
            house.spec(&["./no-interpreter"]),
            "exec",
            "ENOENT",
            "./no-interpreter",
            127,
        ),
        (house.spec(&["./garbage"]), "exec", "ENOEXEC", "./garbage", 126),
        (elsewhere, "cwd", "ENOENT", nowhere.as_str(), 127),
    ];
    for (spec, stage, errno, path, code) in cases {
        let told = send(&client, spec).await;
        let Kind::SpawnFailed(failed) = told.ending() else {
            panic!("{:?}", told.ending())
        };
        assert_eq!(
            (failed.stage.as_str(), failed.errno_name.as_str()),
            (stage, errno),
            "{failed:?}"
        );
        assert!(
            path.ends_with(&*String::from_utf8_lossy(&failed.path)) && !failed.path.is_empty(),
            "{path}: {failed:?}"
        );
        assert!(
            stage == "cwd" || told.finished().shell_code == code,
            "{:?}",
            told.finished()
        );
        assert!(!told.order().contains(&"started"), "{:?}", told.order());
    }
}

#[test]
fn a_run_does_not_start_without_a_protection_its_policy_requires() {
    // What an ordinary user surely lacks in this test: a cgroup.
    let house = builder().who(Who::Ordinary).build();
    let policy =
        "version = 1\nname = \"strict\"\ndescription = \"For a test.\"\n[protections]\nrequired = [\"resources\"]\n";
    house.write("work/strict.toml", policy);
    let ended = house
        .run_with(&["--json", "--policy", "strict.toml"], &["touch", "ran"])
        .finish();
    let events = ended.json();
    let started = events.iter().find(|event| event["type"] == "started");
    if let Some(started) = started {
        // A machine that delegates cgroups to this user: then it must really hold.
        let entries = started["enforcement"].as_array().unwrap();
        let resources = entries.iter().find(|entry| entry["protection"] == "resources").unwrap();
        assert_eq!(
            (&resources["state"], &resources["requirement"]),
            (&"active".into(), &"required".into())
        );
        return;
    }
    ended.expect(125);
    let finished = events.last().unwrap();
    assert_eq!(
        (&finished["ending"]["kind"], &finished["ending"]["protection"]),
        (&"sandbox_failed".into(), &"resources".into())
    );
    assert!(
        finished["ending"]["hint"]
            .as_str()
            .unwrap()
            .contains("the policy requires"),
        "{finished}"
    );
    assert!(!house.workspace().join("ran").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_is_none_is_refused_with_its_path() {
    let house = house();
    let client = house.client().await;
    house.write("work/file", "");
    for path in [
        house.path("nowhere"),
        house.workspace().join("file"),
        "/".into(),
        "/etc".into(),
        house.home(),
    ] {
        let mut spec = house.spec(&["true"]);
        spec.workspace = Bytes::from(path.to_str().unwrap().to_owned());
        spec.caller_env = vec![fumehood_client::proto::v1::EnvironmentVariable {
            name: Bytes::from_static(b"HOME"),
            value: Bytes::from(house.home().to_str().unwrap().to_owned()),
        }];
        let request = StartRequest {
            run_id: String::new(),
            spec: Some(spec),
        };
        let refused = client.start(request).await;
        let Err(Error::Invalid { violations, .. }) = refused else {
            panic!("{}: {refused:?}", path.display())
        };
        assert_eq!(violations[0].field, "spec.workspace");
        assert!(
            violations[0].description.contains(path.to_str().unwrap()),
            "{violations:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_may_not_bring_a_policy_where_the_configuration_says_so() {
    let house = builder().config("inline_policies = \"none\"").build();
    let client = house.client().await;
    let mut spec = house.spec(&["true"]);
    spec.policy = inline("version = 1\nname = \"mine\"\n");
    let request = StartRequest {
        run_id: String::new(),
        spec: Some(spec),
    };
    let refused = client.start(request).await.unwrap_err();
    assert!(refused.to_string().contains("inline_policies"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_ends_the_command_is_told_with_what_it_wrote() {
    let house = house();
    let client = house.client().await;
    for (name, number) in [("SEGV", 11), ("TERM", 15), ("KILL", 9), ("USR1", 10)] {
        // Its own doing, and that of a child of its.
        for script in [
            format!("echo before; kill -{name} $$"),
            format!("echo before; (kill -{name} $$); sleep 60"),
        ] {
            let told = send(&client, house.script(&script)).await;
            let Kind::Signaled(signaled) = told.ending() else {
                panic!("{script}: {:?}", told.ending())
            };
            assert_eq!(
                (signaled.signal, signaled.name.as_str()),
                (number, format!("SIG{name}").as_str())
            );
            assert_eq!(
                (told.out().as_str(), told.finished().shell_code),
                ("before\n", 128 + number)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_run_wrote_is_kept() {
    let house = house();
    let client = house.client().await;
    for victim in ["init", "launcher"] {
        let launcher = house.launcher();
        let script = "echo out; echo err >&2; touch written; sleep 86400";
        let request = StartRequest {
            run_id: victim.to_owned(),
            spec: Some(house.script(script)),
        };
        let mut run = client.run(request).await.unwrap();
        eventually(DEADLINE, "the command", || {
            house.workspace().join("written").exists().then_some(())
        });
        std::fs::remove_file(house.workspace().join("written")).unwrap();
        let init = eventually(DEADLINE, "the init", || {
            let mut below = fumehood_tests::descent(launcher.pid);
            below.retain(|process| process.parent == launcher.pid);
            below.pop()
        });
        let processes = fumehood_tests::descent(init.pid);
        match victim {
            "init" => init.signal(Signal::SIGKILL),
            _ => launcher.signal(Signal::SIGKILL),
        }
        let told = Told::all(run.events()).await;
        let Kind::Lost(lost) = told.ending() else {
            panic!("{victim}: {:?}", told.ending())
        };
        assert!(lost.why.contains(victim), "{lost:?}");
        assert_eq!(
            (told.out().as_str(), told.err().as_str()),
            ("out\n", "err\n"),
            "{victim}"
        );
        assert_eq!(told.finished().shell_code, 125);
        assert!(processes.iter().all(|process| !process.lives()), "{processes:?}");
        eventually(DEADLINE, "a launcher", || {
            (house.sh("exit 5").code() == 5).then_some(())
        });
    }
}

#[test]
fn a_sandbox_that_cannot_be_built_says_at_which_stage() {
    let mut house = house();
    house.note_instances();
    // Nowhere to put the sandbox's files: what a full or broken disk looks like.
    let instance = house.instances()[0].clone();
    let place = house.scratch().join(&instance);
    let moved = house.scratch().join("moved");
    std::fs::rename(&place, &moved).unwrap();
    let ended = house.run_with(&["--json"], &["touch", "ran"]).finish();
    std::fs::rename(&moved, &place).unwrap();
    ended.expect(125);
    let events = ended.json();
    let ending = &events.last().unwrap()["ending"];
    assert_eq!(ending["kind"], "sandbox_failed", "{ending}");
    assert!(!ending["stage"].as_str().unwrap().is_empty(), "{ending}");
    assert!(!house.workspace().join("ran").exists());
    house.sh("echo works").expect(0);
}
