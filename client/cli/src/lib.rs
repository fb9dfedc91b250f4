//! The command-line program `fumehood`.
//!
//! A library with a thin `main`, so that its parts can be tested. It talks to a daemon over its socket as any client does;
//! the daemon's own code is used in one place, [`daemon`], to be a daemon when asked to.

mod approve;
mod args;
mod attach;
mod audit;
mod daemon;
mod doctor;
mod duration;
mod failure;
mod files;
mod ids;
mod json;
mod learn;
mod listing;
mod policy;
mod render;
mod request;
mod run;
mod session;
mod signals;
mod start;
mod stdio;
mod table;
mod tail;
mod terminal;
mod trust;
mod tty;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{AuditCommand, Cli, Command};
use failure::{EXIT_FAILURE, Failure, chain};

/// The exit code for a command line that cannot be understood, but of those whose codes are a command's.
const EXIT_USAGE: u8 = 2;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything that could start a thread or open a file.
    daemon::entry_if_launcher();

    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            let _ = error.print();
            let stands_in = |first: std::ffi::OsString| ["run", "attach", "wait"].iter().any(|one| first == *one);
            let running = std::env::args_os().nth(1).is_some_and(stands_in);
            return ExitCode::from(match (error.use_stderr(), running) {
                (false, _) => 0,
                (true, true) => EXIT_FAILURE,
                (true, false) => EXIT_USAGE,
            });
        }
    };
    match command {
        // These have no use for a runtime of ours.
        Command::Daemon(daemon::Args { command: None, daemon }) => daemon::run(daemon),
        Command::RestoreTerminal(before) => {
            tty::restorer::run(&before);
            ExitCode::SUCCESS
        }
        Command::Audit(audit) => match audit.command {
            AuditCommand::Verify { file } => daemon::verify_audit(file),
            AuditCommand::Show(args) => code(audit::show(args)),
        },
        command => talk(command),
    }
}

/// Does what needs a daemon to talk to.
fn talk(command: Command) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(&format!("cannot start: {}", chain(&error)));
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    let done = runtime.block_on(async {
        match command {
            Command::Run(args) => run::run(args).await,
            Command::Doctor(args) => doctor::run(args).await,
            Command::Policy(args) => policy::run(args.command).await,
            Command::Ps(args) => listing::ps(args).await,
            Command::Session(args) => session::run(args.command).await,
            Command::Files(args) => files::run(args.command).await,
            Command::Attach(args) => attach::attach(args).await,
            Command::Logs(args) => attach::logs(args).await,
            Command::Wait(args) => listing::wait(args).await,
            Command::Kill(args) => listing::kill(args).await,
            Command::Rm(args) => listing::rm(args).await,
            Command::Approve(args) => approve::approve(args).await,
            Command::Deny(args) => approve::deny(args).await,
            Command::Version(args) => listing::version(args).await,
            Command::Daemon(daemon) => match daemon.command {
                Some(daemon::Command::Reload(args)) => start::reload(args).await,
                None => Ok(0),
            },
            Command::Audit(_) | Command::RestoreTerminal(_) => Ok(0),
        }
    });
    code(done)
}

/// What this program's exit code tells; a failure is told on standard error.
fn code(done: Result<u8, Failure>) -> ExitCode {
    ExitCode::from(done.unwrap_or_else(|failure| {
        if failure.is_broken_pipe() {
            return 128 + 13;
        }
        tell(&chain(&failure));
        EXIT_FAILURE
    }))
}

/// Tells a person something, on standard error. Whether anybody listens is not for us to mind.
fn tell(message: &str) {
    let _ = write!(io::stderr(), "fumehood: {message}{}", tty::line_end());
}

/// Prints what was asked for.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|source| Failure::Output {
        stream: "output",
        source,
    })
}
