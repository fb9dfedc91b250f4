//! Signals, terminals, and programs that go away.

use std::time::Duration;

use fumehood_tests::{Cli, House, Process, eventually, holding};
use nix::sys::signal::Signal;

use super::{for_both, house};

/// The processes of a sandbox by their name.
fn inside(house: &House, comm: &str) -> Vec<Process> {
    let mut found = holding(&house.workspace());
    found.retain(|process| process.comm == comm);
    found
}

// In the scripts below the shell becomes the command: one that has just forked takes an interrupt for its child's affair, and
// the child may not have got so far as to have one (bash, between fork and exec).

fn expect_gone(house: &House, comm: &str) {
    eventually(Duration::from_secs(10), "the end of the run", || {
        inside(house, comm).is_empty().then_some(())
    });
}

#[test]
fn an_interrupt_of_the_program_interrupts_the_command_and_is_130() {
    for_both(|house| {
        let mut run = house
            .run_with(&[], &["sh", "-c", "echo ready; exec sleep 86400"])
            .start();
        run.wait_for("ready");
        run.signal(Signal::SIGINT);
        run.finish().expect(130);
        expect_gone(house, "sleep");
    });
}

#[test]
fn a_command_that_handles_the_interrupt_decides_itself() {
    let house = house();
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut run = house.run_with(&[], &["sh", "-c", script]).start();
    run.wait_for("ready");
    run.signal(Signal::SIGINT);
    let ended = run.finish();
    ended.expect(9);
    assert_eq!(ended.out(), "ready\ncaught\n");
}

#[test]
fn a_second_interrupt_kills_a_command_that_ignores_the_first() {
    let house = house();
    let mut run = house
        .run_with(
            &[],
            &[
                "sh",
                "-c",
                "trap 'echo ignored' INT; echo ready; while :; do sleep 0.05; done",
            ],
        )
        .start();
    run.wait_for("ready");
    run.signal(Signal::SIGINT);
    run.wait_for("ignored");
    run.signal(Signal::SIGINT);
    run.finish().expect(137);
}

#[test]
fn a_termination_of_the_program_terminates_the_command_and_is_143() {
    for_both(|house| {
        let mut run = house
            .run_with(&[], &["sh", "-c", "echo ready; exec sleep 86400"])
            .start();
        run.wait_for("ready");
        run.signal(Signal::SIGTERM);
        run.finish().expect(143);
    });
}

#[test]
fn ctrl_c_at_a_terminal_interrupts_the_command() {
    let house = house();
    let program = house.program().display().to_string();
    // script(1) makes the terminal and turns what it reads into what is typed.
    let line = format!("{program} run -- sh -c 'echo ready; exec sleep 86400'");
    let terminal = Cli::new(std::path::Path::new("sh"), None)
        .args([
            "-c",
            "(until [ -e typed ]; do sleep 0.02; done; printf '\\003'; cat) | script -qefc \"$LINE\" /dev/null",
        ])
        .env("LINE", line)
        .env("SHELL", "/bin/sh")
        .env("HOME", house.home())
        .env("FUMEHOOD_SOCKET", house.socket())
        .current_dir(&house.workspace());
    let mut terminal = terminal.start();
    terminal.wait_for("ready");
    house.write("work/typed", "");
    terminal.finish().expect(130);
    expect_gone(&house, "sleep");
}

#[test]
fn a_program_that_is_killed_takes_its_run_with_it() {
    for_both(|house| {
        let mut run = house
            .run_with(&[], &["sh", "-c", "echo ready; exec sleep 86400"])
            .start();
        run.wait_for("ready");
        run.signal(Signal::SIGKILL);
        assert_eq!(run.finish().code(), -9);
        expect_gone(house, "sleep");
        let end = eventually(Duration::from_secs(10), "the record of the end", || {
            house.records().into_iter().find(|record| record["kind"] == "end")
        });
        assert_eq!(
            (end["outcome"].as_str(), end["details"]["cause"].as_str()),
            (Some("cancelled"), Some("disconnect")),
            "{end}"
        );
    });
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let house = house();
    let line = format!("{} run -- sh -c 'yes' | head -1", house.program().display());
    let ended = Cli::new(std::path::Path::new("sh"), None)
        .args(["-c", &line])
        .env("HOME", house.home())
        .env("FUMEHOOD_SOCKET", house.socket())
        .current_dir(&house.workspace())
        .finish();
    ended.expect(0);
    assert_eq!(ended.out(), "y\n");
    expect_gone(&house, "yes");
}
