//! Commands that take all they can get: each is contained, its end says which limit it met, and nothing of it is left.
//!
//! As root with cgroups, and as an ordinary user, who here has none: init looks, and rlimits hold.

use fumehood_tests::{Ended, House, with_cgroups_only};
use serde_json::Value;

use super::{for_both, house};

/// Runs a command under the built-in `default` with these limits and these lines for `[filesystem]`.
fn run_limited(house: &House, limits: &str, filesystem: &str, command: &[&str]) -> Ended {
    let wall = if limits.contains("wall") {
        ""
    } else {
        "wall = \"30s\"\n"
    };
    let policy = format!(
        "version = 1\nname = \"bounded\"\n[filesystem]\nworkspace = \"write\"\nread = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\", \"/etc\"]\n\
         tmp = true\n{filesystem}\n[limits]\ngrace = \"0s\"\n{wall}{limits}\n"
    );
    house.write("work/bounded.toml", policy);
    house
        .run_with(&["--json", "--policy", "bounded.toml"], command)
        .finish()
}

fn limited(house: &House, limits: &str, command: &[&str]) -> Ended {
    run_limited(house, limits, "", command)
}

fn finished(ended: &Ended) -> Value {
    let last = ended.json().pop().expect("an event");
    assert_eq!(last["type"], "finished", "{last}\n{}", ended.err());
    last
}

/// Asserts the kind of the ending, and gives the last event.
#[track_caller]
fn ended_as(ended: &Ended, kind: &str) -> Value {
    let last = finished(ended);
    assert_eq!(last["ending"]["kind"], kind, "{last}\n{}\n{}", ended.out(), ended.err());
    last
}

fn has_cgroup(last: &Value) -> bool {
    last["usage"]["source"] == "cgroup"
}

/// Python without the user's surroundings.
fn python(script: &str) -> [&str; 4] {
    ["python3", "-I", "-c", script]
}

const MIB: u64 = 1 << 20;

#[test]
fn memory_of_every_kind_ends_at_the_memory_limit() {
    // Each takes 400 MiB in steps and then ends well.
    let kinds = [
        ("heap", "a = []\nfor i in range(100): a.append(b'x' * 4194304)"),
        (
            "many processes",
            "import os, time\nfor i in range(8):\n  if not os.fork():\n    a = b'x' * 52428800; time.sleep(3); os._exit(0)\n\
             assert not any([os.wait()[1] for i in range(8)])",
        ),
        (
            "a memory file",
            "import os\nf = os.memfd_create('m')\nfor i in range(100): os.write(f, b'x' * 4194304)",
        ),
        (
            "shared memory",
            "import mmap\nm = mmap.mmap(-1, 419430400)\nfor i in range(100): m.write(b'x' * 4194304)",
        ),
        (
            "a file in memory",
            "f = open('/dev/shm/f', 'wb', 0)\nfor i in range(100): f.write(b'x' * 4194304)",
        ),
    ];
    for_both(|house| {
        for (what, script) in kinds {
            // What takes its memory faster than it is looked at shall still be there for the next look.
            let script = format!("{script}\nimport time; time.sleep(1)");
            let ended = run_limited(house, "memory = \"96MiB\"", "shm = \"1GiB\"", &python(&script));
            let last = ended_as(&ended, "out_of_memory");
            println!("{what}: {}", last["usage"]);
            assert_eq!(last["ending"]["limit_bytes"], 96 * MIB, "{what}");
            ended.expect(137);
            assert!(
                ended.err().contains("ended at its memory limit: 96 MiB"),
                "{what}: {}",
                ended.err()
            );
            if has_cgroup(&last) {
                assert!(last["usage"]["oom_kills"].as_u64() > Some(0), "{what}: {last}");
                assert!(ended.err().contains("(limits.memory)"), "{what}: {}", ended.err());
            }
        }
    });
}

#[test]
fn a_run_within_its_memory_is_left_alone() {
    for_both(|house| {
        // 200 MiB in all, shared by five: each page counts once.
        let script = "import mmap, os, time\nm = mmap.mmap(-1, 41943040); m.write(b'x' * 41943040)\n\
                      k = [os.fork() for i in range(1)]\nm.seek(0); m.read()\ntime.sleep(1)";
        let ended = limited(house, "memory = \"128MiB\"", &python(script));
        ended.expect(0);
    });
}

#[test]
fn a_child_that_is_killed_for_memory_is_the_reason_why_its_parent_fails() {
    if !with_cgroups_only("the kernel's choice of whom to kill") {
        return;
    }
    let house = house();
    let limits = "memory = \"64MiB\"";
    let failing = limited(&house, limits, &["sh", "-c", "tail /dev/zero; exit 3"]);
    let last = ended_as(&failing, "out_of_memory");
    let exited = failing
        .json()
        .into_iter()
        .find(|event| event["type"] == "exited")
        .unwrap();
    assert_eq!(exited["status"]["code"], 3, "{exited}");
    assert_eq!(last["usage"]["oom_kills"], 1);
    assert!(
        failing
            .err()
            .contains("the kernel killed 1 process at the memory limit of 64 MiB"),
        "{}",
        failing.err()
    );
    // One that copes has not failed; what happened is told all the same.
    let coping = limited(&house, limits, &["sh", "-c", "tail /dev/zero; exit 0"]);
    ended_as(&coping, "exited");
    coping.expect(0);
    assert!(coping.err().contains("the kernel killed 1 process"), "{}", coping.err());
}

#[test]
fn a_fork_bomb_meets_the_limit_of_processes() {
    for_both(|house| {
        let script = "import os, sys, time\nn = 0\ntry:\n  while n < 400:\n    if not os.fork(): time.sleep(60); os._exit(0)\n    n += 1\n\
                      except OSError as e:\n  print(n, e.errno, flush=True); sys.exit(1)\nprint(n)";
        let ended = limited(house, "processes = 40", &python(script));
        let last = ended_as(&ended, "exited");
        let output: String = ended
            .json()
            .iter()
            .filter_map(|event| event["data"].as_str().map(str::to_owned))
            .collect();
        let made: u64 = output
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("{output}"));
        assert!((20..=40).contains(&made), "{output}");
        ended.expect(1);
        if has_cgroup(&last) {
            assert!(last["usage"]["fork_failures"].as_u64() > Some(0), "{last}");
            assert!(
                ended
                    .err()
                    .contains("the limit of 40 processes and threads was reached 1 time (limits.processes)"),
                "{}",
                ended.err()
            );
        } else {
            assert_eq!(last["usage"]["fork_failures"], Value::Null, "{last}");
        }
    });
}

#[test]
fn a_fork_bomb_that_never_gives_up_ends_at_the_wall_limit() {
    for_both(|house| {
        let script = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass";
        let ended = limited(house, "processes = 60\nwall = \"2s\"", &python(script));
        ended_as(&ended, "timed_out");
    });
}

#[test]
fn a_disk_that_is_filled_ends_at_the_disk_limit() {
    // 1 GiB if nobody stops it: in the workspace, in /tmp, reserved without being written, and in a file that has no name.
    let ways = [
        ("workspace", "exec dd if=/dev/zero of=fill bs=1M count=1024 status=none"),
        ("/tmp", "exec dd if=/dev/zero of=/tmp/fill bs=1M count=1024 status=none"),
        (
            "many files",
            "i=0; while [ $i -lt 64 ]; do dd if=/dev/zero of=fill$i bs=1M count=16 status=none; i=$((i+1)); done",
        ),
        (
            "reserved",
            "i=0; while [ $i -lt 64 ]; do fallocate -l 16M room$i; i=$((i+1)); done; sleep 10",
        ),
        (
            "unlinked",
            "exec 3>gone; rm gone; dd if=/dev/zero bs=1M count=1024 status=none >&3; sleep 10",
        ),
        (
            "hidden",
            "mkdir in; exec 3>in/room; chmod 0 in; fallocate -l 1G /dev/fd/3; sleep 10",
        ),
    ];
    for_both(|house| {
        for (what, script) in ways {
            let ended = limited(house, "disk = \"32MiB\"", &["sh", "-c", script]);
            let last = ended_as(&ended, "disk_limit");
            let ending = &last["ending"];
            println!("{what}: {ending}");
            assert_eq!(
                (&ending["resource"], &ending["limit"]),
                (&"space".into(), &(32 * MIB).into())
            );
            assert!(ending["used"].as_u64() > Some(32 * MIB), "{what}: {ending}");
            ended.expect(137);
            assert!(ended.err().contains("(limits.disk)"), "{what}: {}", ended.err());
            clear(house);
        }
    });
}

/// Makes room for the next.
fn clear(house: &House) {
    let hidden = house.workspace().join("in");
    if hidden.exists() {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    std::fs::remove_dir_all(house.workspace()).unwrap();
    house.make_directory("work", 0o755);
}

#[test]
fn what_is_removed_again_takes_nothing_of_the_disk() {
    for_both(|house| {
        let script =
            "i=0; while [ $i -lt 12 ]; do dd if=/dev/zero of=f bs=1M count=8 status=none; rm f; i=$((i+1)); done";
        limited(house, "disk = \"64MiB\"", &["sh", "-c", script]).expect(0);
    });
}

#[test]
fn files_without_end_end_at_the_limit_of_files() {
    for_both(|house| {
        for directory in [".", "/tmp"] {
            let script = format!(
                "import os\nos.chdir('{directory}'); os.mkdir('many')\nfor i in range(60000): os.close(os.open('many/%d' % i, os.O_CREAT | os.O_WRONLY))"
            );
            let ended = limited(house, "files = 2000", &python(&script));
            let last = ended_as(&ended, "disk_limit");
            println!("{directory}: {}", last["ending"]);
            assert_eq!(last["ending"]["resource"], "files");
            assert!(ended.err().contains("(limits.files)"), "{}", ended.err());
            clear(house);
        }
    });
}

#[test]
fn no_file_grows_past_the_file_size_limit() {
    for_both(|house| {
        let limits = "file-size = \"1MiB\"";
        let signalled = limited(
            house,
            limits,
            &["sh", "-c", "exec dd if=/dev/zero of=f bs=64k count=64 status=none"],
        );
        let last = ended_as(&signalled, "signaled");
        assert_eq!(last["ending"]["name"], "SIGXFSZ");
        assert!(
            signalled
                .err()
                .contains("a file would have passed the limit of 1 MiB (limits.file-size)"),
            "{}",
            signalled.err()
        );
        // By path and by descriptor, in the workspace and outside of it.
        let script = "import os, signal, errno\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n\
                      for name in ['sparse', '/tmp/sparse']:\n  open(name, 'w').close()\n  f = os.open(name, os.O_RDWR)\n\
                      \x20 for make in [lambda: os.truncate(name, 1 << 40), lambda: os.ftruncate(f, 1 << 40),\n\
                      \x20              lambda: os.pwrite(f, b'x', 1 << 40), lambda: os.posix_fallocate(f, 0, 1 << 24)]:\n\
                      \x20   try: make()\n    except OSError as e: assert e.errno == errno.EFBIG, e\n    else: raise SystemExit('made')\n\
                      \x20 assert os.fstat(f).st_size == 0";
        limited(house, limits, &python(script)).expect(0);
    });
}

#[test]
fn descriptors_end_at_the_limit_of_open_files() {
    for_both(|house| {
        let script = "import os, resource, errno\nresource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\nn = 0\n\
                      try:\n  while n < 1000: os.open('/dev/null', 0); n += 1\n\
                      except OSError as e: assert e.errno == errno.EMFILE, e\nassert 100 < n < 128, n\n\
                      try: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\nexcept (ValueError, OSError): pass\nelse: raise SystemExit('raised')";
        limited(house, "open-files = { soft = 64, hard = 128 }", &python(script)).expect(0);
    });
}

#[test]
fn an_output_flood_ends_at_the_output_limit() {
    for_both(|house| {
        let ended = limited(house, "output = \"1MiB\"", &["yes"]);
        let last = ended_as(&ended, "output_limit");
        assert_eq!(last["ending"]["limit_bytes"], MIB);
        assert!(ended.stdout.len() < 8 * MIB as usize, "{}", ended.stdout.len());
    });
}

#[test]
fn a_processor_hog_gets_its_share_and_no_more() {
    for_both(|house| {
        let hog = "for i in 1 2 3; do while :; do :; done & done; while :; do :; done";
        let ended = limited(house, "cpus = 0.2\nwall = \"2s\"", &["sh", "-c", hog]);
        let last = ended_as(&ended, "timed_out");
        if has_cgroup(&last) {
            let cpu = last["usage"]["cpu_user"].as_f64().unwrap() + last["usage"]["cpu_system"].as_f64().unwrap();
            let wall = last["usage"]["wall"].as_f64().unwrap();
            assert!(cpu < wall * 0.2 + 0.3, "{cpu} of {wall}");
            assert!(last["usage"]["throttled"].as_f64() > Some(0.1), "{last}");
            assert!(ended.err().contains("(limits.cpus)"), "{}", ended.err());
        }
    });
}

#[test]
fn files_that_wait_in_a_socket_take_disk_and_memory() {
    // Forty files of 10 MiB, each open nowhere once it is sent, and nobody receives.
    let script = |open: &str| {
        format!(
            "import os, socket, time\na, b = socket.socketpair()\nfor i in range(40):\n  f = {open}\n\
             \x20 os.posix_fallocate(f, 0, 10 << 20)\n  socket.send_fds(a, [b'x'], [f])\n  os.close(f)\ntime.sleep(20)"
        )
    };
    for_both(|house| {
        let unlinked = script("os.open('f', os.O_CREAT | os.O_RDWR); os.unlink('f')");
        let ended = limited(house, "disk = \"32MiB\"", &python(&unlinked));
        assert_eq!(ended_as(&ended, "disk_limit")["ending"]["resource"], "space");
        let ended = limited(house, "memory = \"64MiB\"", &python(&script("os.memfd_create('f')")));
        ended_as(&ended, "out_of_memory");
        ended.expect(137);
    });
}
