//! The service of Fumehood: it takes requests over gRPC, decides by policy, has them run in sandboxes, and writes everything down.
//!
//! ```text
//! cli.rs       the daemon's command line     config.rs        its configuration
//! serve.rs     from start to end             listen.rs peer.rs  who connects
//! service/     the door: wire types          run/             runs and their actors
//! lower.rs     grants to a sandbox           launch.rs        where sandboxes come from
//! approvals/   questions to people           audit/           what was asked and how it ended
//! files.rs     operations on files
//! ```

pub mod approvals;
pub mod audit;
pub mod cli;
pub mod config;
pub mod files;
pub mod handover;
pub mod launch;
pub mod listen;
pub mod lower;
pub mod peer;
pub mod policy;
pub mod refusal;
pub mod remedy;
pub mod run;
pub mod serve;
pub mod service;
pub mod session;
pub mod systemd;
pub mod telemetry;
pub mod walls;

/// Becomes the sandbox launcher, or what starts it, and never returns, when this process was started as one. First thing in `main` of every program that
/// can be the daemon.
pub fn entry_if_launcher() {
    fumehood_sandbox::become_launcher_if_asked();
}
