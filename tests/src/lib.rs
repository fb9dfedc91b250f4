//! The harness of the end-to-end tests: a daemon of a test's own, ways to use it, and the proof that nothing is left of it.
//!
//! ```text
//! house.rs      a daemon in a private directory, from start to the check that nothing stays behind
//! cli.rs        the command-line program as a process
//! terminal.rs   the same at a terminal, as a person sees it
//! run.rs        requests and what became of them, through the client library
//! leftovers.rs  what is left of a daemon, looked for in /proc, in cgroups and on disk
//! wait.rs       conditions with a deadline
//! ```
//!
//! Tests run as whoever runs `cargo test`. Root's also play an ordinary user ([`Who::Ordinary`]), because Fumehood promises
//! its work to both.

mod cli;
mod house;
mod leftovers;
mod run;
mod terminal;
mod wait;

pub use cli::{Cli, Ended, Running};
pub use house::{Builder, House, PROGRAM, Who};
pub use leftovers::{Process, cgroups_named, descent, holding, mounts_naming, process};
pub use run::{Told, argv, inline, named_policy, send};
pub use terminal::{Terminal, TerminalEnd};
pub use wait::{DEADLINE, eventually, within};

/// Whether this process may do everything.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether the environment declares something absent on this machine: `FUMEHOOD_TEST_WITHOUT_CGROUPS=1`. Without such a
/// declaration, what needs it fails.
#[must_use]
pub fn declared_absent(what: &str) -> bool {
    std::env::var_os(format!("FUMEHOOD_TEST_WITHOUT_{what}")).is_some_and(|value| value == "1")
}

/// Says that a test did not run, where everybody sees it: what a test prints is hidden when it passes.
pub fn not_run(test: &str, why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "NOT RUN: {test}: {why}");
}

/// For tests of what only root's daemon does: true as root, else says that the test did not run.
#[must_use]
pub fn as_root_only(test: &str) -> bool {
    if !is_root() {
        not_run(test, "it is about root's daemon");
    }
    is_root()
}

/// For tests of limits on trees of processes: true for root, who must have cgroups unless the environment declares them absent;
/// else says that the test did not run.
#[must_use]
pub fn with_cgroups_only(test: &str) -> bool {
    let expected = is_root() && !declared_absent("CGROUPS");
    if !expected {
        not_run(test, "it needs cgroups, which only root is sure to have");
    }
    expected
}
