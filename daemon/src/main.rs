//! `fumehoodd`: the daemon as a program of its own. `fumehood daemon` is the same.

use std::process::ExitCode;

use clap::Parser;

/// The Fumehood daemon: runs commands in sandboxes for those who ask over gRPC.
#[derive(Parser)]
#[command(name = "fumehoodd", version)]
struct Arguments {
    #[command(flatten)]
    daemon: fumehoodd::cli::DaemonArgs,
}

fn main() -> ExitCode {
    fumehoodd::entry_if_launcher();
    fumehoodd::cli::run(Arguments::parse().daemon)
}
