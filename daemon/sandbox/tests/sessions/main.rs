//! Sessions through the real launcher: several commands in one sandbox.
//!
//! A program of its own without the standard test runner, because the launcher is the program that starts it, started again, with one thread.
//! Arguments are parts of the names of tests to run.

mod ends;
mod lab;
mod life;
mod probe;
mod show;

use lab::Lab;

type Test = (&'static str, fn(&Lab));

/// `name(lab)` as a [`Test`] with its name.
macro_rules! tests {
    ($($module:ident: $($name:ident)*;)*) => { &[$($((stringify!($name), $module::$name as fn(&Lab))),*),*] };
}

const TESTS: &[Test] = tests! {
    life:
        runs_after_each_other_share_the_sandbox
        many_runs_at_once_each_get_their_own_end
        a_server_in_the_background_is_reached_by_a_later_run
        a_later_run_looks_into_a_background_process_and_ends_it
        a_run_that_is_left_before_its_end_is_over_with_it
        the_state_descriptor_is_there_when_asked_for_and_only_then
        a_terminal_each
        what_cannot_be_executed_is_told
        what_makes_no_sense_is_refused
        operations_on_files_are_a_run_like_others
        signals_reach_the_leader_or_the_tree
        a_signal_that_comes_early_is_not_lost
        cpu_time_is_each_runs_own
        what_is_refused_is_told_to_whom_it_was_refused_to
        hundreds_of_runs_leave_nothing;
    ends:
        a_killed_run_takes_its_tree_and_no_other
        what_forks_forever_is_killed
        a_run_killed_at_any_moment_ends
        a_dropped_handle_kills_before_the_end_and_leaves_after_it
        a_run_that_kills_everything_ends_the_runs_and_not_the_session
        a_run_that_stops_everything_holds_nothing_up
        who_kills_a_keeper_ends_the_run_and_no_other
        who_kills_the_spawner_gains_nothing
        a_full_sandbox_says_so_and_works_again
        memory_that_runs_out_is_counted
        the_end_of_the_sandbox_ends_all
        the_death_of_the_launcher_ends_all;
    show:
        a_session_is_described
        an_empty_session_is_described
        a_run_costs_little_more_than_a_fork;
};

fn main() {
    fumehood_sandbox::become_launcher_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, rest @ ..] = arguments.as_slice()
        && flag == probe::FLAG
    {
        probe::run(name, rest);
    }
    let wanted = |name: &str| {
        let mut parts = arguments
            .iter()
            .filter(|argument| !argument.starts_with('-'))
            .peekable();
        parts.peek().is_none() || parts.any(|part| name.contains(part.as_str()))
    };
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        let begun = std::time::Instant::now();
        let result = std::panic::catch_unwind(|| {
            let lab = Lab::new();
            test(&lab);
            lab.end();
        });
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({} ms)", begun.elapsed().as_millis());
        failed += i32::from(result.is_err());
    }
    std::process::exit(failed.min(1));
}
