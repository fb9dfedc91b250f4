//! What a command sees and what it cannot do. The deep tests of each layer are the sandbox's own; these prove that a run gets them.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use fumehood_tests::as_root_only;
use nix::errno::Errno;

use super::{for_both, house};

#[test]
fn secrets_in_the_home_are_hidden_and_the_rest_of_it_is_there() {
    for_both(|house| {
        for directory in [".ssh", ".aws", ".config", ".config/fumehood"] {
            house.make_directory(&format!("home/{directory}"), 0o700);
        }
        for secret in [
            ".ssh/id_ed25519",
            ".aws/credentials",
            ".netrc",
            ".git-credentials",
            ".config/fumehood/x.toml",
        ] {
            house.write(&format!("home/{secret}"), "hunter2");
        }
        house.write("home/.gitconfig", "[user]\n\tname = Somebody\n");
        let ended =
            house.sh("grep -rs hunter2 ~; cat ~/.gitconfig; ls -A ~/.ssh ~/.aws 2>/dev/null | grep -v ':$' | grep .");
        assert!(!ended.out().contains("hunter2"), "{}", ended.out());
        assert!(ended.out().contains("Somebody"), "{} {}", ended.out(), ended.err());
        assert!(
            !ended.out().contains("id_ed25519") && !ended.out().contains("credentials"),
            "{}",
            ended.out()
        );
    });
}

#[test]
fn what_is_written_to_the_home_does_not_stay() {
    for_both(|house| {
        house.write("home/file", "before");
        let ended = house.sh("echo after > ~/file && echo x > ~/new && cat ~/file ~/new");
        ended.expect(0);
        assert_eq!(ended.out(), "after\nx\n");
        assert_eq!(fs::read_to_string(house.home().join("file")).unwrap(), "before");
        assert!(!house.home().join("new").exists());
    });
}

#[test]
fn temporary_directories_are_private_to_the_run() {
    for_both(|house| {
        let outside = house.write("outside", "x");
        let script = format!(
            "for d in /tmp /var/tmp; do echo x > $d/mine && cat $d/mine; done; ls {}",
            outside.display()
        );
        let ended = house.sh(&script);
        assert_eq!(ended.out(), "x\nx\n", "{}", ended.err());
        let ended = house.sh("ls /tmp/mine /var/tmp/mine");
        assert!(ended.code() != 0 && ended.out().is_empty(), "{}", ended.out());
    });
}

#[test]
fn nothing_outside_the_workspace_can_be_written_or_seen() {
    for_both(|house| {
        let ended = house.sh(
            "for p in /etc/x /usr/x /usr/bin/sh /x; do echo x > $p && echo wrote $p; done; ls -A /root /home; true",
        );
        assert!(!ended.out().contains("wrote"), "{}", ended.out());
        let state = house.path("state");
        let ended = house.sh(&format!(
            "ls {0} {1} {2}",
            state.display(),
            house.socket().display(),
            house.scratch().display()
        ));
        assert!(
            ended.out().is_empty() && ended.code() != 0,
            "the daemon's own files: {}",
            ended.out()
        );
    });
}

#[test]
fn the_network_is_unreachable_and_the_proxy_names_the_rule_that_says_so() {
    for_both(|house| {
        let script = "import socket, os, urllib.request, urllib.error\n\
                      s = socket.socket(); s.settimeout(5)\n\
                      try: s.connect(('192.0.2.1', 80)); print('connected')\n\
                      except OSError as e: print(e.errno)\n\
                      try: urllib.request.urlopen('http://example.com/', timeout=5); print('fetched')\n\
                      except urllib.error.HTTPError as e: print(e.code, e.read().decode())\n\
                      print(sorted(name for _, name in socket.if_nameindex()))\n\
                      l = socket.create_server(('127.0.0.1', 0)); socket.create_connection(l.getsockname()).close(); print('loopback')\n";
        house.write("work/net.py", script);
        let ended = house.run(&["/usr/bin/env", "python3", "net.py"]);
        let out = ended.out();
        ended.expect(0);
        assert!(out.starts_with(&format!("{}\n", nix::libc::ENETUNREACH)), "{out}");
        assert!(
            out.contains("403") && out.contains("network.mode") && out.contains("`default`"),
            "{out}"
        );
        assert!(out.contains("['lo']") && out.ends_with("loopback\n"), "{out}");
    });
}

#[test]
fn the_command_is_never_root_and_has_no_privilege() {
    for_both(|house| {
        let ended = house
            .sh("id -u; grep -E '^(Cap(Eff|Prm|Bnd|Inh|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t' ' '");
        ended.expect(0);
        let out = ended.out();
        let uid: u32 = out.lines().next().unwrap().parse().unwrap();
        assert_ne!(uid, 0);
        for line in out.lines().filter(|line| line.starts_with("Cap")) {
            assert!(line.ends_with(" 0000000000000000"), "{line}");
        }
        assert!(out.contains("NoNewPrivs: 1") && out.contains("Seccomp: 2"), "{out}");
    });
}

#[test]
fn files_belong_to_whoever_owns_the_workspace() {
    for_both(|house| {
        house.sh("touch file && mkdir directory").expect(0);
        for name in ["file", "directory"] {
            assert_eq!(house.workspace().join(name).metadata().unwrap().uid(), house.uid());
        }
    });
}

#[test]
fn in_a_users_workspace_roots_command_runs_as_that_user() {
    if !as_root_only("files in a user's workspace belong to the user") {
        return;
    }
    let house = house();
    const USER: u32 = 54_321;
    let theirs = house.make_directory("theirs", 0o755);
    chown(&theirs, Some(USER), Some(USER)).unwrap();
    let ended = house
        .run_with(
            &["--workspace", theirs.to_str().unwrap()],
            &["sh", "-c", "id -u; touch made"],
        )
        .finish();
    ended.expect(0);
    assert_eq!(ended.out(), format!("{USER}\n"));
    let made = theirs.join("made").metadata().unwrap();
    assert_eq!((made.uid(), made.gid()), (USER, USER));
}

#[test]
fn no_descriptor_but_the_three_standard_ones_is_open() {
    for_both(|house| {
        let ended = house.sh("i=0; while [ $i -lt 1100 ]; do [ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done; true");
        ended.expect(0);
        assert_eq!(ended.out(), "0\n1\n2\n");
    });
}

#[test]
fn the_environment_is_built_and_secrets_of_the_caller_do_not_arrive() {
    for_both(|house| {
        let ended = house
            .run_with(&[], &["env"])
            .env("SECRET_TOKEN", "hunter2")
            .env("LD_PRELOAD", "/nowhere.so")
            .env("LANG", "C.UTF-8")
            .finish();
        let out = ended.out();
        assert!(!out.contains("hunter2") && !out.contains("LD_PRELOAD"), "{out}");
        for line in [
            "SANDBOX=fumehood",
            "LANG=C.UTF-8",
            &format!("PWD={}", house.workspace().display()),
        ] {
            assert!(out.lines().any(|found| found == line), "{line}: {out}");
        }
        assert!(
            out.lines()
                .any(|line| line == format!("HOME={}", house.home().display())),
            "{out}"
        );
        assert!(!out.contains("FUMEHOOD_SOCKET"), "{out}");
    });
}

#[test]
fn processes_of_the_machine_are_invisible() {
    for_both(|house| {
        let ended = house.sh(
            "for p in /proc/[0-9]*; do echo ${p#/proc/}; done; kill -0 PID && echo reached"
                .replace("PID", &std::process::id().to_string())
                .as_str(),
        );
        let out = ended.out();
        let pids: Vec<u32> = out.lines().filter_map(|line| line.parse().ok()).collect();
        assert!(pids.len() <= 3 && pids.iter().all(|pid| *pid < 20), "{out}");
        assert!(!out.contains("reached"));
    });
}

#[test]
fn the_sandbox_refuses_new_namespaces_mounts_and_tracing() {
    for_both(|house| {
        for attempt in [
            "unshare -U true",
            "unshare -m true",
            "mount -t tmpfs x /tmp",
            "chroot / true",
        ] {
            let ended = house.sh(&format!("{attempt} && echo succeeded"));
            assert!(!ended.out().contains("succeeded"), "{attempt}");
        }
    });
}

#[test]
fn the_locked_policy_reads_the_workspace_and_nothing_more() {
    for_both(|house| {
        house.write("work/file", "readable");
        house.write("home/file", "private");
        let script = "cat file; cat ~/file; echo x > file || echo refused; echo x > /tmp/x && echo tmp";
        let ended = house.run_with(&["--policy", "locked"], &["sh", "-c", script]).finish();
        assert_eq!(ended.out(), "readablerefused\ntmp\n", "{}", ended.err());
    });
}

/// Prints the error number of each call, 0 for success: ptrace (PTRACE_TRACEME), memfd_create, socket (netlink), io_uring_setup and a
/// number that no kernel has. Arguments are none that a call could do harm with.
const CALLS: &str = r#"
import ctypes
call = ctypes.CDLL(None, use_errno=True)
def tried(result):
    return ctypes.get_errno() if result < 0 else 0
answers = [tried(call.memfd_create(b"x", 0)), tried(call.socket(16, 3, 0)), tried(call.syscall(425, 1, 0)), tried(call.syscall(2000))]
print(answers, tried(call.ptrace(0, 0, 0, 0)), flush=True)
"#;

/// What the profile `strict` is for.
const WORK: &str = "set -e
git init -q repository && cd repository && git config user.email a@b && git config user.name a
echo text > file && git add file && git commit -qm message && git log --oneline | wc -l
printf 'int main(void){return 0;}' > main.c && printf 'main: main.c\n\tcc -o main main.c\n' > Makefile && make -s && ./main
python3 -c 'import subprocess, multiprocessing as m; subprocess.check_call([\"true\"]); print(m.Pool(2).map(abs, [-1, -2]))'
seq 1000 | sort -n | tail -n 1";

#[test]
fn the_strict_profile_lets_builds_work_and_refuses_to_debug() {
    for_both(|house| {
        house.write("work/calls.py", CALLS);
        let strict = include_str!("../../../policies/builtin/default.toml")
            .replace("\nname = \"default\"", "\nname = \"tight\"")
            .replace("\nprofile = \"default\"", "\nprofile = \"strict\"");
        house.write("work/tight.toml", strict);
        let run = |policy, command: &[&str]| house.run_with(&["--policy", policy], command).finish();
        let calls = ["python3", "calls.py"];
        let (eperm, enosys, eafnosupport) = (Errno::EPERM as i32, Errno::ENOSYS as i32, Errno::EAFNOSUPPORT as i32);
        let ended = run("default", &calls);
        assert_eq!(
            ended.out(),
            format!("[0, 0, {enosys}, {enosys}] 0\n"),
            "{}",
            ended.err()
        );
        let ended = run("tight.toml", &calls);
        assert_eq!(
            ended.out(),
            format!("[{enosys}, {eafnosupport}, {enosys}, {enosys}] {eperm}\n"),
            "{}",
            ended.err()
        );
        let ended = run("tight.toml", &["sh", "-c", WORK]);
        ended.expect(0);
        assert_eq!(ended.out(), "1\n[1, 2]\n1000\n", "{}", ended.err());
    });
}

#[test]
fn no_file_of_the_workspace_becomes_set_uid_or_set_gid_and_directories_may_be_shared() {
    for_both(|house| {
        let script = "import os, errno\nf = os.open('file', os.O_CREAT | os.O_RDWR, 0o755)\nos.mkdir('shared')\n\
                      for mode in 0o2755, 0o4755, 0o6755:\n  for make in lambda: os.chmod('file', mode), lambda: os.fchmod(f, mode):\n\
                      \x20   try: make()\n    except OSError as e: assert e.errno == errno.EPERM, e\n    else: raise SystemExit('made')\n\
                      os.chmod('file', 0o700); os.fchmod(f, 0o711)\nos.chmod('shared', 0o2770)";
        house.run(&["python3", "-I", "-c", script]).expect(0);
        let mode = |name: &str| fs::metadata(house.workspace().join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("file"), mode("shared")), (0o711, 0o2770));
    });
}

#[test]
fn nothing_of_init_can_be_read_or_traced() {
    for_both(|house| {
        // /proc/1/fd may be listed; what is behind a number may not be told.
        let script = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n\
            def tried(what, do):\n  try:\n    if do() == -1: return\n  except OSError: return\n  print('got', what)\n\
            for name in ['mem', 'environ', 'maps', 'auxv', 'syscall', 'stack']:\n  tried(name, lambda: open('/proc/1/' + name, 'rb').read(1) or -1)\n\
            for name in ['exe', 'root', 'cwd']:\n  tried(name, lambda: os.readlink('/proc/1/' + name))\n\
            for number in range(64):\n  tried(number, lambda: os.readlink(f'/proc/1/fd/{number}'))\n\
            \x20 tried(number, lambda: os.close(os.open(f'/proc/1/fd/{number}', os.O_RDONLY | os.O_NONBLOCK)))\n\
            tried('attach', lambda: libc.ptrace(16, 1, 0, 0))\ntried('seize', lambda: libc.ptrace(0x4206, 1, 0, 0))\n\
            fd = libc.syscall(434, 1, 0)\n\
            if fd >= 0:\n  for number in range(64): tried('getfd', lambda: libc.syscall(438, fd, number, 0))";
        let ended = house.run(&["python3", "-I", "-c", script]);
        ended.expect(0);
        assert_eq!(ended.out(), "", "{}", ended.err());
    });
}

#[test]
fn the_kernels_own_file_systems_are_no_workspace() {
    for_both(|house| {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let cgroups = mounts.lines().filter_map(|line| {
            let (own, kind) = line.split_once(" - ")?;
            kind.starts_with("cgroup")
                .then(|| own.split(' ').nth(4).unwrap().to_owned())
        });
        let places = ["/proc/sys/kernel", "/proc/1", "/proc/self", "/sys/kernel", "/dev/pts"];
        for place in places.map(str::to_owned).into_iter().chain(cgroups) {
            for command in [
                &["run", "--", "true"][..],
                &["session", "create"],
                &["files", "ls", "."],
            ] {
                let mut arguments = command.to_vec();
                arguments.splice(1..1, ["-w", &place]);
                if command[0] != "run" {
                    arguments = [command, &["-w", &place]].concat();
                }
                let ended = house.cli().args(&arguments).finish();
                assert_ne!(ended.code(), 0, "{arguments:?}: {}", ended.out());
                let why = [
                    "what the kernel is asked and told",
                    "of which every sandbox has one of its own",
                ];
                assert!(
                    why.iter().any(|why| ended.err().contains(why)),
                    "{arguments:?}: {}",
                    ended.err()
                );
            }
        }
    });
}

#[test]
fn what_a_workspace_has_mounted_of_the_kernel_is_read_only() {
    if !as_root_only("what_a_workspace_has_mounted_of_the_kernel_is_read_only") {
        return;
    }
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let house = house();
    let proc = house.workspace().join("root/a b/proc");
    fs::create_dir_all(&proc).unwrap();
    mount(Some("proc"), &proc, Some("proc"), MsFlags::empty(), None::<&str>).unwrap();
    // Its own value, were it to get through.
    let value = fs::read_to_string("/proc/sys/kernel/printk_ratelimit").unwrap();
    let script = format!(
        "echo {} > 'root/a b/proc/sys/kernel/printk_ratelimit' && echo wrote; echo x > 'root/a b/file' && echo ok",
        value.trim()
    );
    let ended = house.sh(&script);
    let text = format!(
        "version = 1\nname = \"kernel\"\nextends = [\"default\"]\n[filesystem]\nwrite = [\"{}/sys\"]\n",
        proc.display()
    );
    let policy = house.write("kernel.toml", text).display().to_string();
    let granted = house
        .run_with(&["--policy", &policy], &["true"])
        .current_dir(&house.make_directory("other", 0o755))
        .finish();
    let named = house
        .cli()
        .args(["run", "-w"])
        .args([proc.join("sys")])
        .args(["--", "true"])
        .finish();
    let unmounted = umount2(&proc, MntFlags::empty());
    assert_eq!((ended.out().as_str(), unmounted), ("ok\n", Ok(())), "{}", ended.err());
    assert!(
        granted.code() != 0 && granted.err().contains("never written"),
        "{}",
        granted.err()
    );
    assert!(
        named.code() != 0 && named.err().contains("asked and told"),
        "{}",
        named.err()
    );
    house.end();
}
