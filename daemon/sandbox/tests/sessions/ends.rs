//! How runs end, and what commands can do to those who keep them.

use fumehood_sandbox::event::{Event, ExitStatus, SignalScope};

use super::lab::{Lab, Live, Session, children, on_terminal, probe, readable, shell, wait_until};

const KILLED: Option<ExitStatus> = Some(ExitStatus::Signaled {
    signal: libc::SIGKILL,
    core: false,
});

/// A run that does nothing, in a session of processes of its own.
fn bystander(session: &Session) -> Live {
    let mut run = session.start(&shell("setsid sleep 1000 & echo here; sleep 1000"));
    run.started();
    run.wait_for("here");
    run
}

/// It goes on, and can still be ended.
fn still_there(session: &mut Session, run: Live) {
    let description = session.describe();
    let own = description
        .processes
        .iter()
        .filter(|process| process.run == Some(run.number));
    assert_eq!(own.count(), 2, "{description:?}");
    assert_eq!(run.kill().status, KILLED);
    assert_eq!(session.describe().process_count, 0);
}

pub fn a_killed_run_takes_its_tree_and_no_other(lab: &Lab) {
    let mut session = lab.session();
    let other = bystander(&session);
    let line = "setsid bash -c 'setsid sleep 1000 & sleep 1000 & trap \"\" TERM INT HUP; sleep 1000' &
        (setsid sleep 1000 &) ; (sleep 1000 & exec sleep 1000) & trap '' TERM; echo here; wait; sleep 1000";
    let mut run = session.start(&shell(line));
    run.started();
    run.wait_for("here");
    let number = run.number;
    assert_eq!(run.kill().status, KILLED);
    let description = session.describe();
    assert!(
        description.processes.iter().all(|process| process.run != Some(number)),
        "{description:?}"
    );
    still_there(&mut session, other);
    // Also when its main process has ended and the rest was to stay.
    let mut run = session.start(&shell("setsid sleep 1000 & (setsid sleep 1000 &)"));
    run.started();
    let outcome = run.end();
    assert_eq!(
        (outcome.status, outcome.leftovers.len()),
        (Some(ExitStatus::Exited(0)), 2)
    );
    assert_eq!(session.describe().process_count, 0);
    session.close();
}

pub fn what_forks_forever_is_killed(lab: &Lab) {
    // Each of a bomb's processes gets as much of a processor as init, so there are not too many.
    let mut session = lab.session_with(|spec| spec.limits.processes = Some(80));
    let other = bystander(&session);
    for name in ["chain", "bomb", "chain", "bomb"] {
        let mut run = session.start(&probe(name, &[]));
        run.started();
        run.wait_for(name);
        if name == "bomb" {
            // Nobody can be forked any more; who is there can be told nevertheless.
            wait_until("it is full", || session.describe().process_count > 70);
        }
        let _ = run.kill();
    }
    still_there(&mut session, other);
    wait_until("it works", || session.run(&shell("exit 0")).status.is_some());
    session.close();
}

pub fn a_run_killed_at_any_moment_ends(lab: &Lab) {
    let mut session = lab.session();
    for turn in 0..60u32 {
        let runs = [(); 3].map(|()| session.start(&shell("sleep 1000 & sleep 1000")));
        for _ in 0..turn * 500 {
            std::hint::spin_loop();
        }
        for run in runs {
            let outcome = run.kill();
            // It had begun or it had not.
            assert!(
                outcome.status == KILLED || outcome.spawn_failed.is_some(),
                "{outcome:?}"
            );
        }
    }
    assert_eq!(session.describe().process_count, 0);
    session.close();
}

pub fn a_dropped_handle_kills_before_the_end_and_leaves_after_it(lab: &Lab) {
    let mut session = lab.session();
    let before = bystander(&session);
    drop(before);
    wait_until("it is killed", || session.describe().process_count == 0);
    let after = session.start(&shell("sleep 1000 & exit 0"));
    while !matches!(after.next().0, Event::Exited { .. }) {}
    drop(after);
    session.says("true");
    let description = session.describe();
    assert_eq!(description.process_count, 1);
    assert!(description.processes[0].background);
    session.close();
}

pub fn a_run_that_kills_everything_ends_the_runs_and_not_the_session(lab: &Lab) {
    let mut session = lab.session();
    for _ in 0..5 {
        let others = [bystander(&session), bystander(&session)];
        let left = session.start(&shell("sleep 1000 &")).leave();
        assert_eq!(left.status, Some(ExitStatus::Exited(0)));
        let outcome = session.run(&shell("kill -9 -1; sleep 1000"));
        assert_eq!(outcome.status, KILLED);
        for other in others {
            assert_eq!(other.end().status, KILLED);
        }
        assert_eq!(session.describe().process_count, 0);
        assert_eq!(session.says("echo on"), "on\n");
    }
    session.close();
}

pub fn a_run_that_stops_everything_holds_nothing_up(lab: &Lab) {
    let mut session = lab.session();
    let other = bystander(&session);
    let outcome = session.run(&shell("kill -STOP -1; exit 4"));
    assert_eq!(outcome.status, Some(ExitStatus::Exited(4)));
    assert_eq!(session.says("echo on"), "on\n");
    // It is stopped as it was told to be, and can be ended as it is.
    wait_until("it is stopped", || {
        session.describe().processes.iter().all(|process| process.state == 'T')
    });
    still_there(&mut session, other);
    // Those who keep runs do not follow commands either.
    let mut terminal = session.start(&on_terminal(shell(
        "kill -TERM -1; kill -HUP -1; kill -TSTP -1; echo on; exit 5",
    )));
    terminal.started();
    assert_eq!(terminal.end().status, Some(ExitStatus::Exited(5)));
    session.says("true");
    session.close();
}

/// Kills whoever of Fumehood's processes has this name, among all or only the parent.
fn kill_named(name: &str) -> String {
    format!("for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>&-)\" = {name} ] && kill -9 ${{p#/proc/}}; done")
}

pub fn who_kills_a_keeper_ends_the_run_and_no_other(lab: &Lab) {
    let mut session = lab.session();
    let other = bystander(&session);
    let outcome = session.run(&shell(
        "setsid sleep 1000 & (setsid sleep 1000 &); kill -9 $PPID; sleep 1000",
    ));
    assert_eq!(outcome.status, KILLED);
    still_there(&mut session, other);
    session.says("true");
    session.close();
}

pub fn who_kills_the_spawner_gains_nothing(lab: &Lab) {
    let mut session = lab.session();
    let other = bystander(&session);
    for _ in 0..10 {
        assert!(session.run(&shell(&kill_named("fumehood-spawn"))).pid.is_some());
        assert_eq!(session.says("echo on"), "on\n");
    }
    still_there(&mut session, other);
    // All the time, while others want to run.
    let line = format!("echo here; while :; do {}; done", kill_named("fumehood-spawn"));
    let mut killer = session.start(&shell(&line));
    killer.started();
    killer.wait_for("here");
    for _ in 0..20 {
        let outcome = session.run(&shell("exit 0"));
        assert!(
            outcome.status.is_some() || outcome.spawn_failed.is_some(),
            "{outcome:?}"
        );
    }
    killer.kill();
    wait_until("it works", || {
        session.run(&shell("exit 0")).status == Some(ExitStatus::Exited(0))
    });
    assert_eq!(session.describe().process_count, 0);
    session.close();
}

pub fn a_full_sandbox_says_so_and_works_again(lab: &Lab) {
    let mut session = lab.session_with(|spec| spec.limits.processes = Some(30));
    let mut bomb = session.start(&probe("bomb", &[]));
    bomb.started();
    bomb.wait_for("bomb");
    // Whether a run gets through is chance; none hangs.
    for _ in 0..5 {
        let outcome = session.run(&shell("exit 0"));
        assert!(
            outcome.status.is_some() || outcome.spawn_failed.is_some(),
            "{outcome:?}"
        );
    }
    bomb.kill();
    wait_until("it works", || {
        session.run(&shell("exit 0")).status == Some(ExitStatus::Exited(0))
    });
    assert_eq!(session.describe().process_count, 0);
    session.close();
}

pub fn memory_that_runs_out_is_counted(lab: &Lab) {
    let mut session = lab.session_with(|spec| spec.limits.memory_bytes = Some(64 << 20));
    let other = bystander(&session);
    let outcome = session.start(&probe("fill", &[])).end();
    assert_eq!(outcome.status, KILLED);
    if lab.has_cgroups() {
        assert!(outcome.usage.is_some_and(|usage| usage.oom_kills > 0), "{outcome:?}");
        still_there(&mut session, other);
        session.close();
        return;
    }
    // Without a cgroup all of the session ends, each run with a last word.
    assert_eq!(other.end().status, KILLED);
    assert!(matches!(session.next(), Some((Event::MemoryExceeded { .. }, _))));
    assert!(matches!(session.next(), Some((Event::Gone { .. }, _))));
}

pub fn the_end_of_the_sandbox_ends_all(lab: &Lab) {
    let session = lab.session();
    let (one, two) = (bystander(&session), bystander(&session));
    let init = *children(lab.launcher_pid()).iter().max().expect("an init");
    session.close();
    for run in [one, two] {
        readable(std::os::fd::AsFd::as_fd(&run.running));
        assert!(matches!(run.running.receive(), Ok(None)));
        // What is asked of it then is done already.
        run.running.signal(libc::SIGTERM, SignalScope::Tree).expect("asked");
        run.running.kill().expect("asked");
    }
    assert!(!children(lab.launcher_pid()).contains(&init));
    // So does a daemon that lets go of it.
    let session = lab.session();
    let run = bystander(&session);
    drop(session);
    readable(std::os::fd::AsFd::as_fd(&run.running));
    assert!(matches!(run.running.receive(), Ok(None)));
}

pub fn the_death_of_the_launcher_ends_all(lab: &Lab) {
    let own = Lab::new();
    let mut session = own.session();
    let run = bystander(&session);
    let init = *children(own.launcher_pid()).iter().max().expect("an init");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(own.launcher_pid()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("killed");
    assert!(session.next().is_none());
    readable(std::os::fd::AsFd::as_fd(&run.running));
    assert!(matches!(run.running.receive(), Ok(None)));
    // Who inherits it may take its time to reap it.
    let is_gone = || {
        let status = std::fs::read_to_string(format!("/proc/{init}/status"));
        status.map_or(true, |status| status.contains("State:\tZ"))
    };
    wait_until("its init is gone", is_gone);
    assert!(lab.session().run(&shell("exit 0")).status.is_some());
}
