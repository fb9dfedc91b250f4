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
