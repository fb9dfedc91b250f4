//! All that this program asks of the daemon's library: to be the daemon, or its launcher, and to check and read its audit log.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use crate::failure::Failure;

pub use fumehoodd::audit::{Heading, Next, Reader, VerifyError as AuditReadError};
pub use fumehoodd::handover::HandOverError;

use fumehoodd::cli::DaemonArgs;
use fumehoodd::handover::TakeOver;

/// `daemon`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// What else there is to do with a daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put a new daemon, of this program and with the configuration as it is now, in the place of the running one; runs and sessions go on
    Reload(ReloadArgs),
}

/// `daemon reload`.
#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    /// The daemon's socket [default: as for `run`]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// What the daemon of a socket was told when it was started, and where.
pub fn told(socket: &Path) -> Result<(Vec<OsString>, PathBuf), HandOverError> {
    TakeOver::arguments(socket)
}

/// Becomes the sandbox launcher, and never returns, when this process was started as one. To be called before anything
/// else: the launcher must stay single-threaded and small.
pub fn entry_if_launcher() {
    fumehoodd::entry_if_launcher();
}

/// Is the daemon until it is told to end.
pub fn run(args: DaemonArgs) -> ExitCode {
    fumehoodd::cli::run(args)
}

/// The audit log that is named, or each of this user's; none where the environment names no place for it.
pub fn audit_logs(file: Option<PathBuf>) -> Vec<PathBuf> {
    file.map_or_else(fumehoodd::audit::default_paths, |path| vec![path])
}

/// Checks an audit log, or each of this user's when none is named; 0 when all are whole, 1 when one is not.
pub fn verify_audit(file: Option<PathBuf>) -> ExitCode {
    let paths = audit_logs(file);
    if paths.is_empty() {
        eprintln!("fumehood: {}", Failure::NoAuditLog);
        return ExitCode::FAILURE;
    }
    let mut result = ExitCode::SUCCESS;
    for path in &paths {
        match fumehoodd::audit::verify(path) {
            // With one log it is clear which.
            Ok(report) => {
                let named = if paths.len() == 1 {
                    String::new()
                } else {
                    format!("{}: ", path.display())
                };
                if let Err(error) = writeln!(std::io::stdout(), "{named}{report}") {
                    eprintln!("fumehood: cannot write to standard output: {error}");
                    return ExitCode::FAILURE;
                }
            }
            Err(error) => {
                eprintln!("fumehood: {}", crate::failure::chain(&error));
                result = ExitCode::FAILURE;
            }
        }
    }
    result
}
