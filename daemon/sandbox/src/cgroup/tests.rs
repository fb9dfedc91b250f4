//! On the machine's own cgroups. `FUMEHOOD_TEST_WITHOUT_CGROUPS=1` declares that it has none for us; otherwise their absence
//! is a failure.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::leaf::{CgroupUsage, CpuTime};
use super::*;

const UNLIMITED: Limits = Limits {
    memory_bytes: None,
    processes: None,
    cpu_millis: None,
    open_files_soft: 0,
    open_files_hard: 0,
    file_bytes: None,
    disk_bytes: None,
    files: None,
};

/// A backend of its own for one test; asserts at the end that nothing of it is left.
struct Fixture {
    backend: Backend,
    detail: Detail,
}

impl Fixture {
    fn new() -> Option<Fixture> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if std::env::var_os("FUMEHOOD_TEST_WITHOUT_CGROUPS").is_some_and(|value| value == "1") {
            println!("not run: FUMEHOOD_TEST_WITHOUT_CGROUPS=1");
            return None;
        }
        let instance = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (backend, detail) = Backend::detect(&instance, &[std::process::id() as libc::pid_t]);
        println!("{detail:?}");
        assert!(
            backend.is_usable(),
            "this machine gives us no cgroups: {}",
            [detail.missing.clone(), detail.remedy.clone()].concat().join("; ")
        );
        Some(Fixture { backend, detail })
    }

    fn leaf(&self, limits: Limits) -> Leaf {
        self.backend.create("run", &limits).unwrap()
    }

    /// The directory above the instance's, in the hierarchy of the first controller.
    fn base(&self) -> PathBuf {
        self.backend.directories()[0].parent().unwrap().to_owned()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let removed = self.backend.remove_instance();
        if !std::thread::panicking() {
            removed.unwrap();
            assert!(self.backend.directories().iter().all(|directory| !directory.exists()));
        }
    }
}

/// A shell that runs a script once it is told to, so that it can be attached before.
struct Shell(Child);

impl Shell {
    fn new(script: &str) -> Shell {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("read start; {script}")])
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        Shell(command.process_group(0).spawn().unwrap())
    }

    fn in_leaf(leaf: &Leaf, script: &str) -> Shell {
        let mut shell = Shell::new(script);
        leaf.attach(shell.0.id() as libc::pid_t).unwrap();
        shell.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        shell
    }

    fn wait(mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_tree_over_its_memory_limit_loses_a_process_and_says_so() {
    let Some(fixture) = Fixture::new() else { return };
    let leaf = fixture.leaf(Limits {
        memory_bytes: Some(48 << 20),
        ..UNLIMITED
    });
    assert!(leaf.in_force().memory);
    // The shell survives its child and reports it.
    let status = Shell::in_leaf(&leaf, "dd if=/dev/zero of=/dev/null bs=128M count=1; exit $?").wait();
    assert_eq!(status.code(), Some(128 + libc::SIGKILL), "{status:?}");
    let usage = leaf.usage();
    assert_eq!(usage.oom_kills, Some(1), "{usage:?}");
    assert!(
        (40 << 20..=48 << 20).contains(&usage.memory_peak_bytes.unwrap()),
        "{usage:?}"
    );
    leaf.remove().unwrap();
}

#[test]
fn a_tree_below_its_memory_limit_is_left_alone() {
    let Some(fixture) = Fixture::new() else { return };
    let leaf = fixture.leaf(Limits {
        memory_bytes: Some(512 << 20),
        ..UNLIMITED
    });
    let status = Shell::in_leaf(&leaf, "dd if=/dev/zero of=/dev/null bs=64M count=1").wait();
    assert!(status.success(), "{status:?}");
    let usage = leaf.usage();
    assert_eq!(usage.oom_kills, Some(0));
    assert!(usage.memory_peak_bytes.unwrap() >= 64 << 20, "{usage:?}");
    leaf.remove().unwrap();
}

const EIGHT_PROCESSES: &str = "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; echo";

#[test]
fn processes_over_the_limit_cannot_be_made() {
    let Some(fixture) = Fixture::new() else { return };
    for (limit, fits) in [(4, false), (64, true)] {
        let leaf = fixture.leaf(Limits {
            processes: Some(limit),
            ..UNLIMITED
        });
        assert!(leaf.in_force().processes);
        assert_eq!(
            Shell::in_leaf(&leaf, EIGHT_PROCESSES).wait().success(),
            fits,
            "limit {limit}"
        );
        let members = leaf::members(leaf_directory(&leaf)).unwrap().len();
        assert!(members > 0 && members <= limit as usize, "{members} of {limit}");
        leaf.kill().unwrap();
        leaf.remove().unwrap();
    }
}

#[test]
fn cpu_over_the_limit_is_throttled() {
    let Some(fixture) = Fixture::new() else { return };
    for (limit, throttled) in [(Some(100), true), (None, false)] {
        let leaf = fixture.leaf(Limits {
            cpu_millis: limit,
            ..UNLIMITED
        });
        assert!(leaf.in_force().cpu);
        let shell = Shell::in_leaf(&leaf, "while :; do :; done");
        let directory = fixture
            .backend
            .places
            .iter()
            .find(|(controller, _)| *controller == Controller::Cpu);
        let stat = directory.unwrap().1.join("run/cpu.stat");
        let throttles = || proc::flat_value(&fs::read_to_string(&stat).unwrap(), "nr_throttled").unwrap();
        let consumed = || {
            let cpu = leaf.usage().cpu.unwrap();
            Duration::from_micros(cpu.user_us + cpu.system_us)
        };
        eventually("50 ms of CPU", || consumed() >= Duration::from_millis(50));
        if throttled {
            eventually("throttled thrice", || throttles() >= 3);
        }
        assert_eq!(throttles() > 0, throttled);
        leaf.kill().unwrap();
        shell.wait();
        let sum = consumed();
        assert!(sum >= Duration::from_millis(50), "{sum:?}");
        assert_eq!(consumed(), sum, "nobody is left to consume more");
        leaf.remove().unwrap();
    }
}

#[test]
fn killing_ends_the_whole_tree_and_only_then_can_it_be_removed() {
    let Some(fixture) = Fixture::new() else { return };
    let leaf = fixture.leaf(UNLIMITED);
    assert!(leaf.is_empty().unwrap());
    let shell = Shell::in_leaf(
        &leaf,
        "trap '' TERM HUP; setsid sleep 60 & (sleep 60 & sleep 60) & wait",
    );
    eventually("four processes", || {
        leaf::members(leaf_directory(&leaf)).unwrap().len() >= 4
    });
    assert!(!leaf.is_empty().unwrap());
    let started = Instant::now();
    assert_eq!(leaf.remove().unwrap_err().errno, libc::EBUSY);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "removing gave up after {:?}",
        started.elapsed()
    );
    leaf.kill().unwrap();
    assert!(leaf.is_empty().unwrap());
    assert_eq!(shell.wait().signal(), Some(libc::SIGKILL));
    leaf.remove().unwrap();
    leaf.remove().unwrap();
}

#[test]
fn removing_the_instance_ends_what_runs_in_it() {
    let Some(fixture) = Fixture::new() else { return };
    let shells: Vec<_> = ["a", "b"]
        .map(|name| Shell::in_leaf(&fixture.backend.create(name, &UNLIMITED).unwrap(), "sleep 60; true"))
        .into_iter()
        .collect();
    fixture.backend.remove_instance().unwrap();
    for shell in shells {
        assert_eq!(shell.wait().signal(), Some(libc::SIGKILL));
    }
}

#[test]
fn limits_are_rounded_and_clamped_to_what_the_kernel_takes() {
    let Some(fixture) = Fixture::new() else { return };
    for limits in [
        Limits {
            memory_bytes: Some((64 << 20) + 1),
            processes: Some(1),
            cpu_millis: Some(1),
            ..UNLIMITED
        },
        Limits {
            memory_bytes: Some(u64::MAX),
            processes: Some(u32::MAX),
            cpu_millis: Some(1_000_000),
            ..UNLIMITED
        },
    ] {
        let leaf = fixture.leaf(limits);
        assert_eq!(leaf.in_force(), fixture.detail.in_force, "{limits:?}");
        leaf.remove().unwrap();
    }
}

#[test]
fn a_failed_creation_says_where_and_leaves_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let error = fixture
        .backend
        .create(
            "run",
            &Limits {
                cpu_millis: Some(0),
                ..UNLIMITED
            },
        )
        .unwrap_err();
    assert_eq!((error.stage, error.errno), ("write", libc::EINVAL), "{error}");
    assert!(
        error.path.file_name().unwrap().to_str().unwrap().starts_with("cpu."),
        "{error}"
    );
    assert!(
        fixture
            .backend
            .directories()
            .iter()
            .all(|directory| !directory.join("run").exists())
    );

    let leaf = fixture.leaf(UNLIMITED);
    assert_eq!(
        fixture.backend.create("run", &UNLIMITED).unwrap_err().errno,
        libc::EEXIST
    );
    assert!(leaf.is_empty().is_ok(), "the refused twin must not remove the first");
    assert_eq!(leaf.attach(i32::MAX).unwrap_err().errno, libc::ESRCH);
    leaf.remove().unwrap();

    for name in ["", ".", "..", ".x", "a/b", "a\nb"] {
        assert_eq!(
            fixture.backend.create(name, &UNLIMITED).unwrap_err().errno,
            libc::EINVAL,
            "{name:?}"
        );
    }
}

#[test]
fn more_cpu_than_an_ancestor_has_is_held_by_the_ancestor() {
    let Some(fixture) = Fixture::new() else { return };
    if fixture.detail.version == Some(Version::V1) {
        let (_, directory) = fixture
            .backend
            .places
            .iter()
            .find(|(place, _)| *place == Controller::Cpu)
            .unwrap();
        fs::write(directory.join("cpu.cfs_quota_us"), "20000").unwrap();
    }
    let leaf = fixture.leaf(Limits {
        cpu_millis: Some(500),
        ..UNLIMITED
    });
    assert!(leaf.in_force().cpu);
    leaf.remove().unwrap();
}

#[test]
fn a_process_can_be_born_in_a_v2_leaf() {
    let Some(fixture) = Fixture::new() else { return };
    let leaf = fixture.leaf(UNLIMITED);
    let Some(directory) = leaf.dir_fd() else {
        assert_eq!(fixture.detail.version, Some(Version::V1));
        return leaf.remove().unwrap();
    };
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    // CLONE_INTO_CGROUP of linux/sched.h; libc's constant has a type that is too narrow for it.
    args.flags = 0x2_0000_0000;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = directory.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM this is a fork; the child only pauses.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    if pid == 0 {
        loop {
            // SAFETY: pause takes no arguments and is async-signal-safe.
            unsafe { libc::pause() };
        }
    }
    assert!(pid > 0, "clone3: {}", io::Error::last_os_error());
    assert_eq!(leaf::members(leaf_directory(&leaf)).unwrap(), [pid as libc::pid_t]);
    leaf.kill().unwrap();
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid as i32), None).unwrap();
    leaf.remove().unwrap();
}

#[test]
fn sweeping_removes_the_cgroups_of_dead_daemons_and_no_others() {
    let Some(fixture) = Fixture::new() else { return };
    let mut dead = Command::new("/bin/true").spawn().unwrap();
    let pid = dead.id();
    dead.wait().unwrap();
    let namespace = pid_namespace().unwrap();
    let directory = |owner: String| {
        let path = fixture.base().join(format!("{PREFIX}{owner}"));
        fs::create_dir(&path).unwrap();
        path
    };
    let stale = directory(format!("{pid}-1-{namespace}"));
    let recycled = directory(format!("{}-1-{namespace}", std::process::id()));
    let living = directory(instance_name().unwrap());
    // Namespaces without a process can be told from others only where every process is seen.
    let elsewhere = directory(format!("{pid}-1-{}", namespace + 1));
    let sees_all = populated_pid_namespaces(namespace).is_some();
    // By root only, as this test is: a process that is the first of its own namespace.
    let mut first = Command::new("unshare")
        .args(["--pid", "--fork", "sleep", "60"])
        .spawn()
        .unwrap();
    let inhabited = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(5));
        fs::metadata(format!("/proc/{}/ns/pid_for_children", first.id()))
            .unwrap()
            .ino()
    })
    .find(|inode| *inode != namespace)
    .unwrap();
    let container = directory(format!("1-1-{inhabited}"));
    // The namespace is populated once the child is there.
    while fs::read_to_string(format!("/proc/{0}/task/{0}/children", first.id()))
        .unwrap()
        .is_empty()
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    let unknown = directory(format!("test{pid}"));
    let inner = stale.join("run");
    fs::create_dir(&inner).unwrap();
    let left_behind = Shell::new("sleep 60");
    // A v2 cgroup below one without controllers takes processes as well.
    fs::write(inner.join("cgroup.procs"), left_behind.0.id().to_string()).unwrap();

    // The machine may hold cgroups of daemons that died before this test, here and in other hierarchies: those are swept too.
    let made = [&stale, &recycled, &living, &elsewhere, &container, &unknown];
    let (mut removed, mut failed) = fixture.backend.sweep();
    removed.retain(|path| made.contains(&path));
    failed.retain(|error| {
        made.iter()
            .any(|path| error.to_string().contains(&*path.to_string_lossy()))
    });
    removed.sort();
    let mut expected = vec![stale.clone(), recycled.clone()];
    expected.extend(sees_all.then(|| elsewhere.clone()));
    expected.sort();
    let child = fs::read_to_string(format!("/proc/{0}/task/{0}/children", first.id())).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.trim().parse().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    first.wait().unwrap();
    assert_eq!((removed.as_slice(), failed.as_slice()), (&expected[..], &[][..]));
    assert_eq!(left_behind.wait().signal(), Some(libc::SIGKILL));
    if !sees_all {
        fs::remove_dir(&elsewhere).unwrap();
    }
    for kept in [living, container, unknown] {
        fs::remove_dir(&kept).unwrap_or_else(|error| panic!("{} was not kept: {error}", kept.display()));
    }
    assert!(!stale.exists() && !recycled.exists());
}

#[test]
fn an_instance_name_is_checked() {
    for name in ["", "../x", "a b", "x\n"] {
        let (backend, detail) = Backend::detect(name, &[]);
        assert!(
            !backend.is_usable() && detail.missing[0].contains("instance name"),
            "{detail:?}"
        );
        assert_eq!(backend.create("run", &UNLIMITED).unwrap_err().errno, libc::EOPNOTSUPP);
    }
    let name = instance_name().unwrap();
    assert_eq!(name, instance_name().unwrap());
    assert!(name.starts_with(&format!("{}-", std::process::id())));
}

#[test]
fn the_report_tells_active_degraded_and_off_apart() {
    let detail = |version, cpu, missing: &[&str]| Detail {
        version,
        in_force: InForce {
            memory: true,
            swap: true,
            processes: true,
            cpu,
        },
        missing: missing.iter().map(|text| (*text).to_owned()).collect(),
        remedy: Vec::new(),
    };
    let active = State::Active("cgroup v2: memory, processes, cpu".to_owned());
    assert_eq!(detail(Some(Version::V2), true, &[]).state(), active);
    assert_eq!(
        detail(Some(Version::V1), false, &["no cpu"]).state(),
        State::Degraded("cgroup v1: no cpu".to_owned())
    );
    assert_eq!(
        detail(None, false, &["none", "at all"]).state(),
        State::Off("none; at all".to_owned())
    );
}

#[test]
fn usage_that_is_unknown_comes_from_reaped_processes() {
    let reaped = crate::event::Usage {
        cpu_user_us: 7,
        cpu_system_us: 8,
        memory_peak_bytes: 9,
        ..Default::default()
    };
    assert_eq!(CgroupUsage::default().over(reaped), reaped);
    let cpu = Some(CpuTime {
        user_us: 1,
        system_us: 2,
    });
    let merged = CgroupUsage {
        cpu,
        memory_peak_bytes: Some(3),
        oom_kills: Some(4),
        fork_failures: Some(5),
        throttled_us: None,
    }
    .over(reaped);
    assert_eq!(
        (merged.cpu_user_us, merged.memory_peak_bytes, merged.oom_kills),
        (1, 3, 4)
    );
    assert!(merged.from_cgroup);
}

fn leaf_directory(leaf: &Leaf) -> &Path {
    leaf.directories()[0]
}

#[test]
fn what_is_not_mounted_is_to_be_mounted_as_this_machine_has_it() {
    let remedy = |cgroup: &[u8], bare| super::detect::mount_remedy(&super::proc::memberships(cgroup), bare);
    let separate = remedy(
        b"4:memory:/\n3:cpu,cpuacct:/a\n2:pids:/\n1:name=systemd:/\n5:devices:/\n0::/\n",
        true,
    );
    assert!(
        separate.contains("mount -t tmpfs cgroups /sys/fs/cgroup && for c in memory cpu,cpuacct pids; do"),
        "{separate}"
    );
    assert!(
        !separate.contains("systemd") && !separate.contains("cgroup2"),
        "{separate}"
    );
    assert!(!remedy(b"4:memory:/\n", false).contains("tmpfs"));
    assert!(remedy(b"0::/user.slice\n", true).contains("mount -t cgroup2 cgroup2 /sys/fs/cgroup"));
    assert!(remedy(b"", true).contains("CONFIG_MEMCG"));
}
