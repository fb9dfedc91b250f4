//! Commands with a terminal, at a real one: `fumehood run --tty`, and `attach` to such a run.
//!
//! What is typed and what shall be seen differ by quotes: a terminal shows what is typed, too.

use std::path::Path;

use fumehood_tests::{DEADLINE, House, Terminal, eventually, not_run};
use nix::sys::signal::Signal;

use super::approvals::{id, question};
use super::{for_both, house};

/// Ctrl-C, Ctrl-D, Ctrl-Z, Ctrl-\.
const INTERRUPT: &str = "\x03";
const END: &str = "\x04";
const STOP: &str = "\x1a";
const QUIT: &str = "\x1c";

/// A command with a terminal, at one of 24 lines of 80 characters.
fn run(house: &House, options: &[&str], command: &[&str]) -> Terminal {
    let options: Vec<&str> = ["--tty"].iter().chain(options).copied().collect();
    house.run_with(&options, command).at_terminal(24, 80)
}

/// A shell that says `ready> `.
fn bash(house: &House) -> Terminal {
    let mut terminal = run(house, &["-e", "PS1=ready> "], &["bash", "--norc"]);
    terminal.wait_for("ready> ");
    terminal
}

/// True when the program is on this machine.
fn is_there(program: &str) -> bool {
    let there = Path::new("/usr/bin").join(program).exists();
    if !there {
        not_run(program, "it is not in /usr/bin");
    }
    there
}

#[test]
fn a_shell_has_job_control() {
    for_both(|house| {
        let mut terminal = bash(house);
        assert!(terminal.is_raw());
        terminal.keys("test -t 0 && test -t 1 && test -t 2 && echo a''ll $TERM; stty size\r");
        terminal.wait_for("all xterm\r\n24 80\r\n");

        // `cat` shows each line once more: the first sight of it is the typing.
        let cat = |terminal: &mut Terminal| {
            terminal.keys("echo run''ning; cat\r");
            terminal.wait_for("running");
            terminal.keys("first\r");
            terminal.wait_for("first\r\nfirst\r\n");
        };
        cat(&mut terminal);
        terminal.keys(STOP);
        terminal.wait_for("Stopped");
        terminal.wait_for("ready> ");
        terminal.keys("jobs\r");
        terminal.wait_for("Stopped");
        terminal.wait_for("ready> ");
        terminal.keys("fg\r");
        terminal.wait_for("\rcat\r\n");
        terminal.keys("second\r");
        terminal.wait_for("second\r\nsecond\r\n");
        terminal.keys(INTERRUPT);
        terminal.wait_for("ready> ");
        terminal.keys("echo \"code\" $?\r");
        terminal.wait_for("code 130");

        terminal.wait_for("ready> ");
        cat(&mut terminal);
        terminal.keys(QUIT);
        terminal.wait_for("ready> ");
        terminal.keys("echo \"code\" $?\r");
        terminal.wait_for("code 131");

        // `~` is a key as any other in the middle of a line.
        terminal.wait_for("ready> ");
        terminal.keys("echo x~.y\r");
        terminal.wait_for("\rx~.y\r\n");
        terminal.keys("exit 7\r");
        let ended = terminal.finish();
        assert_eq!((ended.code, ended.raw), (7, false), "{}", ended.rest);
    });
}

#[test]
fn the_size_of_the_terminal_is_the_commands_and_changes_with_it() {
    let house = house();
    let script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.02; done";
    let mut terminal = run(&house, &[], &["sh", "-c", script]);
    terminal.wait_for("24 80");
    for (rows, columns) in [(40, 100), (7, 33)] {
        terminal.resize(rows, columns);
        terminal.wait_for(&format!("{rows} {columns}"));
    }
    terminal.keys(INTERRUPT);
    let ended = terminal.finish();
    assert_eq!((ended.code, ended.raw), (130, false), "{}", ended.rest);
}

#[test]
fn the_end_of_input_is_a_key() {
    let house = house();
    let mut terminal = run(&house, &[], &["cat"]);
    terminal.wait_for_raw(true);
    terminal.keys("a line\r");
    // Once as it is typed, once as it is written.
    terminal.wait_for("a line\r\n");
    terminal.wait_for("a line\r\n");
    terminal.keys(END);
    assert_eq!(terminal.finish().code, 0);
}

#[test]
fn a_flood_arrives_whole() {
    let house = house();
    let mut terminal = run(
        &house,
        &[],
        &["sh", "-c", "yes 123456789 | head -n 500000; echo end of it"],
    );
    let seen = terminal.wait_for("end of it");
    assert_eq!(seen.matches("123456789\r\n").count(), 500_000);
    assert_eq!(terminal.finish().code, 0);
}

#[test]
fn interpreters_pagers_editors_and_multiplexers_are_usable() {
    for_both(|house| {
        if is_there("python3") {
            let mut terminal = run(house, &[], &["/usr/bin/python3", "-q"]);
            terminal.wait_for(">>> ");
            terminal.keys("6 * 7\r");
            terminal.wait_for("42");
            terminal.wait_for(">>> ");
            terminal.keys("print('loop' + 'ing', flush=True); exec('while True: pass')\r");
            terminal.wait_for("looping");
            terminal.keys(INTERRUPT);
            terminal.wait_for("KeyboardInterrupt");
            terminal.wait_for(">>> ");
            terminal.keys("exit(3)\r");
            let ended = terminal.finish();
            assert_eq!((ended.code, ended.raw), (3, false), "{}", ended.rest);
        }
        if is_there("less") {
            let lines: String = (1..=5000).map(|number| format!("line {number}\n")).collect();
            house.write("work/long", lines);
            let mut terminal = run(house, &[], &["less", "long"]);
            terminal.wait_for("line 20");
            terminal.keys("G");
            terminal.wait_for("line 5000");
            terminal.keys("q");
            let ended = terminal.finish();
            assert_eq!((ended.code, ended.raw), (0, false), "{}", ended.rest);
        }
        if is_there("vim") {
            let mut terminal = run(house, &[], &["vim", "-u", "NONE", "written"]);
            terminal.wait_for("~");
            terminal.keys("iby hand\x1b:wq\r");
            let ended = terminal.finish();
            assert_eq!((ended.code, ended.raw), (0, false), "{}", ended.rest);
            let written = std::fs::read_to_string(house.workspace().join("written")).unwrap();
            assert_eq!(written, "by hand\n");
            std::fs::remove_file(house.workspace().join("written")).unwrap();
        }
        if is_there("tmux") {
            let tmux = ["tmux", "-f", "/dev/null", "new-session", "PS1='inner> ' sh"];
            let mut terminal = run(house, &["-e", "LC_ALL=C.UTF-8"], &tmux);
            terminal.wait_for("inner>");
            terminal.keys("echo thro''ugh\r");
            terminal.wait_for("through");
            terminal.keys("exit\r");
            let ended = terminal.finish();
            assert_eq!((ended.code, ended.raw), (0, false), "{}", ended.rest);
            assert!(ended.rest.contains("[exited]"), "{}", ended.rest);
        }
    });
}

#[test]
fn the_terminal_is_restored_whichever_way_the_program_ends() {
    let mut house = house();
    type Way = fn(&mut House, &mut Terminal);
    let ways: [(Way, i32, &str); 4] = [
        (|_, terminal| terminal.signal(Signal::SIGTERM), 143, ""),
        (|_, terminal| terminal.signal(Signal::SIGHUP), 129, ""),
        (
            |_, terminal| terminal.keys("~."),
            125,
            "left with `~.`: the daemon ends the command\r\n",
        ),
        (|house, _| house.kill_daemon(), 125, "is gone, and the command with it"),
    ];
    for (way, code, told) in ways {
        let mut terminal = bash(&house);
        // The other screen, a mouse, no cursor: what an editor leaves that dies.
        terminal.keys("printf '\\033[?1049h\\033[?1000h\\033[?25l%s' o''n\r");
        terminal.wait_for("\x1b[?25lon");
        assert!(terminal.is_raw());
        way(&mut house, &mut terminal);
        let ended = terminal.finish();
        assert_eq!((ended.code, ended.raw), (code, false), "{}", ended.rest);
        assert!(ended.rest.contains(told), "{}", ended.rest);
        for off in ["\x1b[?1049l", "\x1b[?1000l", "\x1b[?25h"] {
            assert!(ended.rest.contains(off), "{off:?}: {:?}", ended.rest);
        }
    }
    house.start_daemon();
    assert!(house.cli().args(["ps"]).finish().expect(0).out().lines().count() <= 1);
}

#[test]
fn the_terminal_is_restored_when_the_program_is_killed() {
    let kill = |pid: i32, signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    for_both(|house| {
        for attached in [false, true] {
            let mut id = None;
            let cli = match attached {
                true => {
                    let options = ["--tty", "--detach", "-e", "PS1=ready> "];
                    let started = house.run_with(&options, &["bash", "--norc"]).finish();
                    let started = id.insert(started.expect(0).out().trim().to_owned());
                    house.cli().args(["attach", &*started])
                }
                false => house.run_with(&["--tty", "-e", "PS1=ready> "], &["bash", "--norc"]),
            };
            let mut terminal = cli.below_shell_at_terminal(24, 80);
            terminal.wait_for_raw(true);
            terminal.keys("printf '\\033[?1000h%s' o''n\r");
            terminal.wait_for("\x1b[?1000hon");
            kill(terminal.child(), Signal::SIGKILL);
            let seen = terminal.wait_for("ended 137");
            terminal.wait_for_raw(false);
            // Whichever of the two is the first.
            if !seen.contains("\x1b[?1000l") {
                terminal.wait_for("\x1b[?1000l");
            }
            terminal.keys("\n");
            assert!(!terminal.finish().raw);
            if let Some(id) = id {
                house.cli().args(["kill", "-g", "0s", &id]).finish().expect(0);
            }
        }
    });
}

#[test]
fn a_daemon_that_hangs_keeps_nobody_at_its_terminal() {
    let house = house();
    let mut terminal = bash(&house);
    house.signal(Signal::SIGSTOP);
    terminal.keys("never read\r~.");
    let ended = terminal.finish();
    assert_eq!((ended.code, ended.raw), (125, false), "{}", ended.rest);
    house.signal(Signal::SIGCONT);
    eventually(DEADLINE, "the end of the run", || {
        house.records().into_iter().find(|record| record["kind"] == "end")
    });
}

/// Whether a process is stopped.
fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
}

#[test]
fn the_program_is_stopped_by_its_own_key_or_a_signal_and_goes_on_where_it_was() {
    let house = house();
    let mut terminal = bash(&house);
    type Way = fn(&mut Terminal);
    let ways: [Way; 2] = [
        |terminal| terminal.keys("~\x1a"),
        |terminal| terminal.signal(Signal::SIGTSTP),
    ];
    for stop in ways {
        stop(&mut terminal);
        let pid = terminal.pid();
        eventually(DEADLINE, "the stop", || is_stopped(pid).then_some(()));
        assert!(!terminal.is_raw(), "a stopped program gives the terminal back");
        terminal.resize(50, 90);
        terminal.signal(Signal::SIGCONT);
        terminal.wait_for_raw(true);
        terminal.keys("echo go''es on\r");
        terminal.wait_for("goes on");
        terminal.keys("stty size\r");
        terminal.wait_for("50 90");
    }
    // Stopped without being asked, while somebody else sets the terminal: it is raw again all the same.
    terminal.signal(Signal::SIGSTOP);
    let pid = terminal.pid();
    eventually(DEADLINE, "the stop", || is_stopped(pid).then_some(()));
    terminal.set_cooked();
    terminal.signal(Signal::SIGCONT);
    terminal.wait_for_raw(true);
    terminal.keys("exit 5\r");
    assert_eq!(terminal.finish().code, 5);
}

#[test]
fn a_terminal_is_left_and_found_again() {
    for_both(|house| {
        let started = house
            .run_with(&["--detach", "--tty", "-e", "PS1=ready> "], &["bash", "--norc"])
            .finish();
        let run_id = started.expect(0).out().trim().to_owned();
        let attach = |rows, columns| house.cli().args(["attach", &run_id]).at_terminal(rows, columns);
        let mut first = attach(30, 90);
        first.wait_for("attached to the terminal of");
        first.wait_for_raw(true);
        first.keys("kept=here; stty size\r");
        first.wait_for("30 90");
        first.wait_for("ready> ");
        first.keys("~.");
        let left = first.finish();
        assert_eq!((left.code, left.raw), (0, false), "{}", left.rest);
        assert!(left.rest.contains("let go of it"), "{}", left.rest);

        let mut second = attach(31, 91);
        let mut third = attach(32, 92);
        for terminal in [&mut second, &mut third] {
            terminal.wait_for("attached to");
            terminal.wait_for_raw(true);
        }
        second.keys("echo still $kept\r");
        second.wait_for("still here");
        third.wait_for("still here");
        second.keys("exit 6\r");
        for terminal in [second, third] {
            let ended = terminal.finish();
            assert_eq!((ended.code, ended.raw), (6, false), "{}", ended.rest);
        }
        // To who is at no terminal it is a run as others.
        let logs = house.cli().args(["logs", &run_id]).finish();
        assert!(logs.expect(0).out().contains("still here"), "{}", logs.out());
    });
}

#[test]
fn a_terminal_that_lingers_outlives_its_programs_end() {
    let house = house();
    for close in [Signal::SIGHUP, Signal::SIGKILL] {
        let mut terminal = run(&house, &["--linger", "1h", "-e", "PS1=ready> "], &["bash", "--norc"]);
        terminal.wait_for("ready> ");
        terminal.keys("kept=here\r");
        terminal.wait_for("ready> ");
        terminal.signal(close);
        let _ = terminal.finish();
        let listed = house.cli().args(["ps", "--json"]).finish().json();
        let run_id = listed[0]["run_id"].as_str().unwrap().to_owned();
        let mut again = house.cli().args(["attach", &run_id]).at_terminal(24, 80);
        again.wait_for("attached to");
        again.wait_for_raw(true);
        again.keys("echo still $kept; exit 4\r");
        again.wait_for("still here");
        assert_eq!(again.finish().code, 4);
    }
}

#[test]
fn a_question_before_the_command_is_asked_of_an_ordinary_terminal() {
    let house = house();
    house.write(
        "work/asks.toml",
        "version = 1\nname = \"asks\"\nextends = [\"default\"]\n[approvals]\nself = \"always\"\n\
         [[commands.rules]]\nprogram = \"cat\"\ndecision = \"ask\"\nreason = \"Somebody looks.\"\n",
    );
    let mut terminal = run(&house, &["--policy", "./asks.toml"], &["cat"]);
    terminal.wait_for("waits for an approval");
    assert!(!terminal.is_raw());
    let asked = id(&question(|| house.cli(), "cat"));
    house.cli().args(["approve", &asked]).finish().expect(0);
    terminal.wait_for_raw(true);
    terminal.keys("typed\r");
    terminal.wait_for("typed\r\ntyped\r\n");
    terminal.keys(END);
    assert_eq!(terminal.finish().code, 0);
    // Ctrl-C while it waits ends the waiting.
    let mut terminal = run(&house, &["--policy", "./asks.toml"], &["cat"]);
    terminal.wait_for("waits for an approval");
    terminal.keys(INTERRUPT);
    assert_eq!(terminal.finish().code, 130);
}

#[test]
fn no_run_reaches_the_terminal_of_another() {
    for_both(|house| {
        let mut mine = bash(house);
        mine.keys("for pts in /dev/pts/[0-9]*; do echo \"o\"wn > $pts; done\r");
        mine.wait_for("own");
        let script = "ls /dev/pts > seen; for pts in /dev/pts/[0-9]* /dev/tty /proc/[0-9]*/fd/[012]; do echo leak > $pts; done; true";
        let other = house.sh(script);
        other.expect(0);
        let seen = std::fs::read_to_string(house.workspace().join("seen")).unwrap();
        assert_eq!(seen, "ptmx\n");
        // With a terminal of its own it has just that.
        let mut another = run(house, &[], &["sh", "-c", "ls /dev/pts; echo; echo leak > /dev/pts/0"]);
        another.wait_for("0");
        another.wait_for("leak");
        assert_eq!(another.finish().code, 0);
        mine.keys("echo do''ne\r");
        let seen = mine.wait_for("done");
        assert!(!seen.contains("leak"), "{seen}");
        mine.keys("exit\r");
        assert_eq!(mine.finish().code, 0);
    });
}

#[test]
fn without_a_terminal_there_is_none_to_give() {
    let house = house();
    let refused = house.run_with(&["--tty"], &["true"]).finish();
    assert!(
        refused.expect(125).err().contains("is no terminal"),
        "{}",
        refused.err()
    );
}
