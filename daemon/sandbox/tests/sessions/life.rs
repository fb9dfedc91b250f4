//! What runs of a session have in common, and what each has for itself.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use fumehood_sandbox::event::{Event, ExitStatus, SignalScope, Subject};
use fumehood_sandbox::files::{Operation, Reply};

use super::lab::{Lab, children, on_terminal, probe, readable, shell, wait_until};

pub fn runs_after_each_other_share_the_sandbox(lab: &Lab) {
    let session = lab.session();
    session.says("echo left > /tmp/file; mkdir /dev/shm/x");
    assert_eq!(
        session.says("cat /tmp/file; ls -d /dev/shm/x; pwd"),
        "left\n/dev/shm/x\n/tmp\n"
    );
    let other = session.run(&shell("exit 7"));
    assert_eq!(other.status, Some(ExitStatus::Exited(7)));
    assert!(other.usage.is_some_and(|usage| !usage.from_cgroup));
    session.close();
}

pub fn many_runs_at_once_each_get_their_own_end(lab: &Lab) {
    let session = lab.session();
    // None ends before all have begun.
    let line = "touch /tmp/begun-$0; until [ $(ls /tmp | grep -c begun) = 20 ]; do read -t 0.01 <> <(:); done; exit $0";
    let runs: Vec<_> = (1..=20)
        .map(|index| {
            let mut command = shell(line);
            command.argv.push(index.to_string().into());
            session.start(&command)
        })
        .collect();
    for (index, run) in (1..).zip(runs) {
        let outcome = run.end();
        assert_eq!(outcome.status, Some(ExitStatus::Exited(index)), "{outcome:?}");
    }
    session.close();
}

pub fn a_server_in_the_background_is_reached_by_a_later_run(lab: &Lab) {
    let session = lab.session();
    let mut server = session.start(&probe("serve", &["127.0.0.1:3000"]));
    server.started();
    server.wait_for("listening");
    assert_eq!(session.run(&probe("ask", &["127.0.0.1:3000"])).text, "served\n");
    let outcome = server.kill();
    let killed = ExitStatus::Signaled {
        signal: libc::SIGKILL,
        core: false,
    };
    assert_eq!(outcome.status, Some(killed));
    assert_ne!(
        session.run(&probe("ask", &["127.0.0.1:3000"])).status,
        Some(ExitStatus::Exited(0))
    );
    session.close();
}

pub fn a_later_run_looks_into_a_background_process_and_ends_it(lab: &Lab) {
    let mut session = lab.session();
    let outcome = session.start(&shell("setsid sleep 1000 > /tmp/open & echo $!")).leave();
    let pid = outcome.text.trim().to_owned();
    let names: Vec<_> = outcome
        .leftovers
        .iter()
        .map(|process| process.comm.as_slice())
        .collect();
    assert!(
        matches!(names.as_slice(), [b"sleep" | b"setsid" | b"bash"]),
        "{outcome:?}"
    );
    assert_eq!(session.says(&format!("readlink /proc/{pid}/fd/1")), "/tmp/open\n");
    session.says(&format!("kill {pid}; while kill -0 {pid} 2>&-; do :; done"));
    wait_until("it is reaped", || session.describe().processes.is_empty());
    session.close();
}

pub fn a_run_that_is_left_before_its_end_is_over_with_it(lab: &Lab) {
    let mut session = lab.session();
    let mut run = session.start(&shell("sleep 1000 & echo here; read -t 0.3 <> <(:); exit 3"));
    run.started();
    run.running.leave().expect("asked");
    run.wait_for("here");
    let outcome = run.finish(|_| {});
    assert_eq!(outcome.status, Some(ExitStatus::Exited(3)));
    assert_eq!(session.describe().process_count, 1);
    session.close();
}

pub fn the_state_descriptor_is_there_when_asked_for_and_only_then(lab: &Lab) {
    let session = lab.session();
    let state = || rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC).expect("a memory file");
    let file: OwnedFd = state();
    let mut command = shell("echo told >&63; ls /proc/self/fd | tr '\\n' ' '");
    command.state = true;
    let outcome = session
        .start_with_state(&command, Some(file.try_clone().expect("a copy")))
        .end();
    // 3 is the directory that ls reads.
    assert_eq!(outcome.text, "0 1 2 3 63 ");
    let mut text = String::new();
    let mut file = std::fs::File::from(file);
    std::io::Seek::rewind(&mut file).expect("the beginning");
    file.read_to_string(&mut text).expect("text");
    assert_eq!(text, "told\n");
    assert_eq!(session.says("ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3 ");
    assert!(session.sandbox.run(99, &command, None, None).is_err());
    session.close();
}

pub fn a_terminal_each(lab: &Lab) {
    let session = lab.session();
    let line = "stty size; tty; read -r a; echo got $a; sleep 1000";
    let mut runs = [(); 2].map(|()| session.start(&on_terminal(shell(line))));
    for run in &mut runs {
        run.started();
        run.wait_for("/dev/pts/");
        assert!(run.text.contains("11 77"), "{}", run.text);
    }
    for (run, word) in runs.iter_mut().zip(["one", "two"]) {
        run.write(&format!("{word}\n"));
        run.wait_for(&format!("got {word}"));
    }
    assert!(!runs[0].text.contains("two"));
    let [first, second] = runs;
    // Ctrl-C, by the terminal; and what it means by way of the group in the foreground.
    first.write("\x03");
    let interrupted = ExitStatus::Signaled {
        signal: libc::SIGINT,
        core: false,
    };
    assert_eq!(first.end().status, Some(interrupted));
    second.running.signal(libc::SIGINT, SignalScope::Group).expect("asked");
    assert_eq!(second.end().status, Some(interrupted));
    session.close();
}

pub fn what_cannot_be_executed_is_told(lab: &Lab) {
    let session = lab.session();
    let mut command = shell("true");
    command.argv = vec!["no-such-program".into()];
    let outcome = session.run(&command);
    assert_eq!(
        outcome.spawn_failed,
        Some(("search".into(), libc::ENOENT, b"no-such-program".to_vec()))
    );
    assert_eq!((outcome.status, outcome.pid), (None, None));
    command.argv = vec!["/tmp".into()];
    let outcome = session.run(&command);
    assert_eq!(
        outcome.spawn_failed,
        Some(("exec".into(), libc::EACCES, b"/tmp".to_vec()))
    );
    let mut command = shell("true");
    command.cwd = "/nowhere".into();
    let outcome = session.run(&command);
    assert_eq!(
        outcome.spawn_failed,
        Some(("cwd".into(), libc::ENOENT, b"/nowhere".to_vec()))
    );
    session.says("true");
    session.close();
}

pub fn what_makes_no_sense_is_refused(lab: &Lab) {
    let session = lab.session();
    let mut first = session.start(&shell("echo here; sleep 1000"));
    first.wait_for("here");
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("/dev/null"));
    // A number that is taken.
    let stdio = Some([null(), null(), null()]);
    let second = session
        .sandbox
        .run(first.number, &shell("true"), stdio, None)
        .expect("asked");
    let second = super::lab::Live {
        number: first.number,
        running: second,
        output: None,
        text: String::new(),
    };
    assert_eq!(
        second.end().spawn_failed,
        Some(("request".into(), libc::EINVAL, Vec::new()))
    );
    let mut empty = shell("true");
    empty.argv.clear();
    assert_eq!(
        session.run(&empty).spawn_failed,
        Some(("request".into(), libc::EINVAL, Vec::new()))
    );
    first.kill();
    session.close();
}

pub fn operations_on_files_are_a_run_like_others(lab: &Lab) {
    let session = lab.session();
    session.says("echo text > /tmp/file");
    let (running, worker) = session.sandbox.run_files(1000, &shell("")).expect("asked");
    let run = super::lab::Live {
        number: 1000,
        running,
        output: None,
        text: String::new(),
    };
    let answer = |operation: &Operation| {
        worker.send(operation, None).expect("sent");
        readable(worker.as_fd());
        worker.receive().expect("a message").expect("an answer")
    };
    let path = b"file".to_vec();
    let reply = answer(&Operation::Stat { path, follow: true });
    assert!(matches!(&reply, Reply::Info(info) if info.size == 5), "{reply:?}");
    // What a command may not do it may not either, and it is told to this run.
    let path = b"/guarded/.protected".to_vec();
    let reply = answer(&Operation::MakeDirectory {
        path,
        mode: 0o755,
        parents: false,
    });
    assert!(matches!(reply, Reply::Failed(_)), "{reply:?}");
    drop(worker);
    let outcome = run.end();
    assert_eq!(
        (outcome.status, outcome.denials.len()),
        (Some(ExitStatus::Exited(0)), 1),
        "{outcome:?}"
    );
    session.close();
}

pub fn signals_reach_the_leader_or_the_tree(lab: &Lab) {
    let session = lab.session();
    let line = "trap 'echo leader' TERM; (trap 'echo child' TERM; echo ready; while :; do sleep 0.01; done) & while :; do wait; done";
    let mut run = session.start(&shell(line));
    run.started();
    run.wait_for("ready");
    run.running.signal(libc::SIGTERM, SignalScope::Leader).expect("asked");
    run.wait_for("leader\n");
    assert!(!run.text.contains("child"));
    run.running.signal(libc::SIGTERM, SignalScope::Tree).expect("asked");
    run.wait_until("both", |text| {
        text.contains("child\n") && text.matches("leader\n").count() == 2
    });
    // Another run of the session has not heard of it, nor has what keeps the runs.
    session.says("true");
    session.sandbox.signal(libc::SIGTERM, SignalScope::Tree).expect("asked");
    run.kill();
    session.says("true");
    session.close();
}

pub fn a_signal_that_comes_early_is_not_lost(lab: &Lab) {
    let session = lab.session();
    for round in 0..40 {
        let mut run = session.start(&shell("sleep 1000; true"));
        if round % 2 == 1 {
            run.started();
        }
        run.running.signal(libc::SIGTERM, SignalScope::Tree).expect("asked");
        let outcome = run.end();
        assert!(
            outcome.status.is_some() || outcome.spawn_failed.is_some(),
            "{outcome:?}"
        );
    }
    session.close();
}

pub fn cpu_time_is_each_runs_own(lab: &Lab) {
    let session = lab.session();
    let mut busy = session.start(&shell("/probe --probe burn 400; echo; sleep 1000"));
    let mut idle = session.start(&shell("echo here; sleep 1000"));
    busy.started();
    idle.started();
    busy.wait_for("burnt");
    idle.wait_for("here");
    let micros = |run: &super::lab::Live| {
        run.running.ask_cpu_time().expect("asked");
        match run.next() {
            (Event::CpuTime { micros }, _) => micros,
            other => panic!("{other:?}"),
        }
    };
    // A burner shares its processor with others.
    assert!(micros(&busy) >= 50_000, "{}", micros(&busy));
    assert!(micros(&idle) < 50_000, "{}", micros(&idle));
    let used = |run: super::lab::Live| {
        let usage = run.kill().usage.expect("figures");
        usage.cpu_user_us + usage.cpu_system_us
    };
    assert!(used(busy) >= 50_000);
    assert!(used(idle) < 50_000);
    session.close();
}

pub fn what_is_refused_is_told_to_whom_it_was_refused_to(lab: &Lab) {
    let session = lab.session();
    let line = |name: &str| {
        shell(&format!(
            "for i in 1 2 3; do mkdir -p /guarded/{name}/.protected; done; unshare -U true; exit 0"
        ))
    };
    session.says("mkdir /guarded/plain; ls /guarded/plain");
    let (one, two) = (session.start(&line("one")), session.start(&line("two")));
    let quiet = session.run(&shell("true"));
    assert_eq!((quiet.denials.len(), quiet.refusals), (0, 0));
    let _ = (one, two).0.end();
    let outcome = session.run(&shell(
        "mkdir /guarded/.protected; mkdir /guarded/.protected; unshare -U true; exit 0",
    ));
    let subjects: Vec<_> = outcome.denials.iter().map(|denial| &denial.subject).collect();
    assert!(
        matches!(subjects.as_slice(), [Subject::Path(path), Subject::SystemCall { name, .. }]
            if path == b"/guarded/.protected" && name == "unshare"),
        "{outcome:?}"
    );
    assert_eq!(outcome.refusals, 3);
    // Each run is told anew.
    assert_eq!(session.run(&shell("mkdir /guarded/.protected")).denials.len(), 1);
    session.close();
}

pub fn hundreds_of_runs_leave_nothing(lab: &Lab) {
    let mut session = lab.session();
    let init = *children(lab.launcher_pid()).iter().max().expect("an init");
    // Whoever may look sees the descriptors themselves. Others see the size of their table, which doubles and never shrinks: it may
    // have been larger for a moment, but not by what so many more runs would leave.
    let descriptors = || std::fs::read_dir(format!("/proc/{init}/fd")).ok().map(Iterator::count);
    let table = || {
        let status = std::fs::read_to_string(format!("/proc/{init}/status")).expect("its status");
        let size = status
            .lines()
            .find_map(|line| line.strip_prefix("FDSize:"))
            .expect("a size");
        size.trim().parse::<usize>().expect("a number")
    };
    session.says("true");
    // The spawner and the keeper to spare.
    wait_until("all is at rest", || children(init).len() == 2);
    let before = descriptors();
    let runs = if before.is_some() { 200 } else { 600 };
    for index in 0..runs {
        let line = match index % 4 {
            0 => "true",
            1 => "exit 3",
            2 => "mkdir /guarded/.protected",
            _ => "sleep 1000 & disown",
        };
        session.start(&shell(line)).end();
    }
    wait_until("all is at rest", || children(init).len() == 2);
    assert_eq!(session.describe().process_count, 0);
    wait_until("its descriptors are what they were", || descriptors() == before);
    if before.is_none() {
        assert!(table() < runs, "{}", table());
    }
    session.close();
}
