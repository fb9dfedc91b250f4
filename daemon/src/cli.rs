//! The daemon's command line, shared by `fumehoodd` and `fumehood daemon`.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::config::{Config, LogFormat, Overrides, REFERENCE};
use crate::handover::{Places, TakeOver};
use crate::launch::Launching;
use crate::serve::{self, ServeError};
use crate::walls::{self, Opened};
use crate::{systemd, telemetry};

/// What the command line may say; everything else is in the configuration file.
#[derive(Args, Clone, Debug)]
pub struct DaemonArgs {
    /// Configuration file [default: ~/.config/fumehood/fumehoodd.toml, for root /etc/fumehood/fumehoodd.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Unix socket to listen on [default: $XDG_RUNTIME_DIR/fumehood/fumehood.sock, else /tmp/fumehood-UID/fumehood.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Audit log [default: ~/.local/state/fumehood/audit.jsonl, for root /var/lib/fumehood/audit.jsonl]
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Where sandboxes keep their private /tmp and the changes to the home directory [default: /var/tmp/fumehood-UID]
    #[arg(long, value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
    /// Directory of policy files; may be given again
    #[arg(long, value_name = "DIR")]
    policy_dir: Vec<PathBuf>,
    /// Directory of policy files that hold as the machine's own do; for tests
    #[arg(long, value_name = "DIR", hide = true)]
    system_policy_dir: Vec<PathBuf>,
    /// Runs at the same time
    #[arg(long, value_name = "N")]
    max_runs: Option<usize>,
    /// Started by a client: end after 15 minutes without a run or a connection
    #[arg(long, hide = true)]
    auto: bool,
    /// Take over from the daemon that serves this socket; what is in the way is said on standard output too
    #[arg(long, value_name = "PATH", hide = true)]
    take_over: Option<PathBuf>,
    /// End after so many seconds without a run or a connection
    #[arg(long, value_name = "SECONDS")]
    idle_exit: Option<u64>,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORM")]
    log_format: Option<LogFormat>,
    /// What is logged, like `info` or `fumehoodd=debug,warn`
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Print the configuration file with every key, its default and its meaning
    #[arg(long)]
    print_config: bool,
}

impl DaemonArgs {
    fn overrides(self) -> Overrides {
        Overrides {
            config: self.config,
            socket: self.socket,
            audit_path: self.audit,
            scratch_dir: self.scratch_dir,
            policy_dirs: Some(self.policy_dir).filter(|directories| !directories.is_empty()),
            system_policy_dirs: self.system_policy_dir,
            max_runs: self.max_runs,
            auto: self.auto,
            idle_exit: self.idle_exit.map(Duration::from_secs),
            log_format: self.log_format,
            log_filter: self.log,
        }
    }
}

/// Is the daemon until it is told to end. 0: it ended in order; 1: it could not start.
pub fn run(arguments: DaemonArgs) -> ExitCode {
    if arguments.print_config {
        print!("{REFERENCE}");
        return ExitCode::SUCCESS;
    }
    let taking_over = arguments.take_over.is_some();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = telemetry::chain(&error);
            eprintln!("fumehoodd: {error}");
            if taking_over {
                // Who started it may be gone.
                let _ = writeln!(std::io::stdout(), "{error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// What this process was told after `daemon`, for one that takes over from it.
pub(crate) fn own_arguments() -> Vec<Vec<u8>> {
    let mut arguments = std::env::args_os().skip(1).peekable();
    arguments.next_if(|first| first == "daemon");
    let arguments = arguments.filter(|argument| !argument.as_encoded_bytes().starts_with(b"--take-over="));
    arguments.map(OsString::into_encoded_bytes).collect()
}

/// In this order: what needs everything, the daemon's walls, which must come before threads, then the runtime.
fn start(arguments: DaemonArgs) -> Result<(), ServeError> {
    if arguments.auto {
        fumehood_sandbox::forget_caller().map_err(ServeError::Runtime)?;
    }
    let take_over = arguments.take_over.clone();
    let config = Config::load(arguments.overrides())?;
    let inherited = systemd::listeners()?;
    // Nothing changes for the other daemon before everything that can fail here has not.
    let mut take_over = take_over.map(|socket| TakeOver::ask(&socket)).transpose()?;
    if let Some(there) = &take_over {
        there.offer.places.same_as(&Places::of(&config))?;
    }
    telemetry::init(&config.log)?;
    raise_limits();
    let launching = Launching::start(&config.scratch_dir)?;
    let opened = Opened::open(&config, take_over.as_mut())?;
    let own_socket = take_over
        .as_ref()
        .map_or(inherited.is_empty(), |there| there.lock.is_some());
    walls::raise(&config, own_socket)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("fumehoodd")
        .build()
        .map_err(ServeError::Runtime)?;
    let result = runtime.block_on(serve::serve(config, inherited, opened, launching.clone(), take_over));
    // A connection that does not end must not keep the daemon from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    launching.end();
    result
}

/// As much of everything as may be: a daemon outlives the shell that started it, and that one's `ulimit` is not meant for those who come
/// later. A hard limit cannot be raised; one that will hurt is told.
fn raise_limits() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
    let all = [
        ("open files", Resource::RLIMIT_NOFILE, false),
        ("CPU time", Resource::RLIMIT_CPU, true),
        ("address space", Resource::RLIMIT_AS, true),
        ("data", Resource::RLIMIT_DATA, true),
        ("file size", Resource::RLIMIT_FSIZE, true),
        ("processes", Resource::RLIMIT_NPROC, false),
        ("locked memory", Resource::RLIMIT_MEMLOCK, false),
    ];
    for (name, resource, hurts) in all {
        if let Ok((_, hard)) = getrlimit(resource) {
            let _ = setrlimit(resource, hard, hard);
            if hurts && hard != RLIM_INFINITY {
                tracing::warn!(
                    limit = name,
                    hard,
                    "started under a hard resource limit that holds for every run too"
                );
            }
        }
    }
}
