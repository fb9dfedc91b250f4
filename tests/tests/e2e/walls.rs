//! The daemon's own walls: what it gave up before it served, and that its work goes on behind them.

use std::collections::BTreeMap;
use std::fs;

use fumehood_tests::{Cli, House, Process, Who, as_root_only, eventually};
use nix::sys::signal::Signal;

use super::{builder, for_both, house};

/// The lines of `/proc/PID/status`, of one thread.
fn status(pid: i32, thread: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
    let line = |line: &str| {
        line.split_once(':')
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn threads(process: &Process) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid)).unwrap();
    tasks
        .map(|task| task.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn every_thread_of_a_serving_daemon_is_confined_and_the_launcher_is_not() {
    for_both(|house| {
        house.sh("true").expect(0);
        let daemon = house.daemon();
        let all = threads(&daemon);
        assert!(all.len() > 2, "{all:?}");
        // chown (bit 0) and dac_read_search (bit 2), of root's only.
        let most = if house.uid() == 0 { 0b101 } else { 0 };
        for thread in all {
            let status = status(daemon.pid, &thread);
            if status.is_empty() {
                // It ended meanwhile.
                continue;
            }
            let line = |key: &str| status[key].as_str();
            assert_eq!((line("Seccomp"), line("NoNewPrivs")), ("2", "1"), "{status:?}");
            for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
                let held = u64::from_str_radix(line(set), 16).unwrap();
                assert_eq!(held & !most, 0, "{set} {held:x}");
            }
        }
        let launcher = house.launcher();
        assert_eq!(launcher.comm, "fumehood-launch");
        assert_eq!(status(launcher.pid, &launcher.pid.to_string())["Seccomp"], "0");
        let log = house.log();
        for wall in ["privileges", "file system", "system calls"] {
            let line = log.lines().find(|line| line.contains(&format!("wall=\"{wall}\"")));
            assert!(
                line.is_some_and(|line| line.contains("the daemon is confined")),
                "{log}"
            );
        }
    });
}

#[test]
fn a_process_of_the_same_user_cannot_look_into_the_daemon() {
    if !as_root_only("a process of the same user looks into the daemon") {
        return;
    }
    let house = builder().who(Who::Ordinary).build();
    let look = |pid: i32, file: &str| {
        let path = format!("/proc/{pid}/{file}");
        Cli::new("/usr/bin/head".as_ref(), Some(house.uid()))
            .args(["-c", "1", &path])
            .finish()
    };
    for process in [house.daemon(), house.starter()] {
        for file in ["environ", "mem", "maps"] {
            let ended = look(process.pid, file);
            assert!(
                ended.code() != 0 && ended.err().contains("Permission denied"),
                "{file} of {process:?}: {} {}",
                ended.code(),
                ended.err()
            );
        }
    }
    // The reader itself is one that can read what is dumpable.
    assert_eq!(look(house.launcher().pid, "environ").code(), 0);
}

#[test]
fn a_daemon_without_the_starter_goes_on_until_it_needs_it_and_then_says_so() {
    let mut house = house();
    house.starter().signal(Signal::SIGKILL);
    house.sh("true").expect(0);
    let launcher = eventually(fumehood_tests::DEADLINE, "the launcher", || launcher_of(&house));
    launcher.signal(Signal::SIGKILL);
    let status = house.wait_for_end();
    assert_eq!(status.code(), Some(1));
    assert!(
        house.log().contains("the process that starts launchers is gone"),
        "{}",
        house.log()
    );
    house.start_daemon();
    house.sh("true").expect(0);
}

/// The launcher, wherever it hangs now.
fn launcher_of(house: &House) -> Option<Process> {
    let log = fs::read_dir(house.scratch()).ok()?;
    // `fumehood-<pid>-<start time>-<pid namespace>`
    let pid = log.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix("fumehood-")?.split('-').next()?.parse().ok()
    })?;
    fumehood_tests::process(pid).filter(|process| process.comm == "fumehood-launch")
}

/// Tries everything at its arguments, and prints what it got through to. A directory that can be listed and holds nothing is none; the
/// numbers of init's descriptors can be listed, and what is behind them must not be reached.
const REACH: &str = r#"
import ctypes, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
tried = 0
def attempt(what, act):
    global tried
    tried += 1
    try:
        result = act()
    except OSError:
        return
    if result is None or result >= 0:
        print("reached:", what)
def connect(address):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(address)
sock, audit, head, config, scratch, abstract = sys.argv[1:7]
attempt("socket", lambda: connect(sock))
attempt("abstract socket", lambda: connect("\0" + abstract))
for path in [audit, head, config]:
    attempt("read " + path, lambda: os.close(os.open(path, os.O_RDONLY)))
    attempt("write " + path, lambda: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)))
    attempt("link " + path, lambda: os.link(path, "linked"))
    os.symlink(path, "link")
    attempt("follow a link to " + path, lambda: os.close(os.open("link", os.O_RDONLY)))
    os.unlink("link")
attempt("list the scratch directory", lambda: len(os.listdir(scratch)) - 1)
for pid in map(int, sys.argv[7:]):
    attempt("signal %d" % pid, lambda: os.kill(pid, 0))
    attempt("look at %d" % pid, lambda: len(os.listdir("/proc/%d" % pid)) - 1)
    attempt("priority of %d" % pid, lambda: os.getpriority(os.PRIO_PROCESS, pid) and 0)
# Init is of the launcher's making and speaks with the daemon.
for pid in list(map(int, sys.argv[7:])) + [1]:
    attempt("trace %d" % pid, lambda: libc.ptrace(16, pid, 0, 0))
    buffer = ctypes.create_string_buffer(8)
    class iovec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
    here, there = iovec(ctypes.addressof(buffer), 8), iovec(0x400000, 8)
    attempt("memory of %d" % pid, lambda: libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
    for name in ["mem", "environ", "maps", "root/etc", "cwd/."] + ["fd/%d" % n for n in range(12)]:
        path = "/proc/%d/%s" % (pid, name)
        attempt(path, lambda: len(os.listdir(path)) - 1 if os.path.isdir(path) else os.close(os.open(path, os.O_RDONLY)))
fds = [int(name) for name in os.listdir("/proc/self/fd")]
for fd in fds:
    target = os.readlink("/proc/self/fd/%d" % fd) if os.path.exists("/proc/self/fd/%d" % fd) else ""
    if "socket" in target or "fumehood" in target and fd > 2:
        print("reached: descriptor", fd, target)
print("tried", tried)
"#;

#[test]
fn a_command_reaches_nothing_of_the_daemons() {
    for_both(|house| {
        let name = format!("fumehood-e2e-{}-{}", std::process::id(), house.uid());
        let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
        let _listener = std::os::unix::net::UnixListener::bind_addr(&address.unwrap()).unwrap();
        let path = |path: std::path::PathBuf| path.display().to_string();
        let mut arguments = vec![
            "python3".to_owned(),
            "-c".to_owned(),
            REACH.to_owned(),
            path(house.socket()),
            path(house.audit()),
            path(house.audit().with_extension("head")),
            path(house.path("config.toml")),
            path(house.scratch()),
            name,
        ];
        let ours = [house.daemon(), house.starter(), house.launcher()];
        arguments.extend(ours.iter().map(|process| process.pid.to_string()));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ended = house.run(&arguments);
        ended.expect(0);
        assert!(!ended.out().contains("reached"), "{}", ended.out());
        let tried: u32 = ended.out().trim().strip_prefix("tried ").unwrap().parse().unwrap();
        assert!(tried > 40, "{tried}");
        // From outside the same attempts get through: they are real ones.
        for file in [house.audit(), house.path("config.toml")] {
            assert!(fs::read(&file).is_ok(), "{}", file.display());
        }
        assert!(std::os::unix::net::UnixStream::connect(house.socket()).is_ok());
    });
}

#[test]
fn what_is_the_daemons_cannot_be_a_workspace_nor_lie_in_one() {
    for_both(|house| {
        let link = house.path("work/link");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(house.path("state"), &link).unwrap();
        for place in [
            house.path("state"),
            house.path("run"),
            house.scratch(),
            house.path(""),
            link.clone(),
        ] {
            let ended = house
                .run_with(&["--workspace", place.to_str().unwrap()], &["true"])
                .finish();
            ended.expect(125);
            assert!(
                ["lie in one another", "would give the command"]
                    .iter()
                    .any(|why| ended.err().contains(why)),
                "{}: {}",
                place.display(),
                ended.err()
            );
        }
        fs::remove_file(&link).unwrap();
    });
}
