//! The daemon's configuration: a file, the command line, and the facts of the environment, resolved to one [`Config`].
//!
//! [`EnvFacts::read`] is the only place in the daemon that reads its environment and its user; [`Config::resolve`] is pure. Every
//! key with its default and unit stands in [`REFERENCE`].

mod file;

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::policy::{CountError, Inline, Rules, SYSTEM_DIR, read_path};

pub use file::{File, FileError, FileErrors, LogFormat, MAX_FILE_BYTES};

/// The configuration file with every key, its default and its meaning, all commented out.
pub const REFERENCE: &str = include_str!("config/reference.toml");

/// The machine's configuration: root's daemon's own, and of others' daemons the access rules.
pub const SYSTEM_FILE: &str = "/etc/fumehood/fumehoodd.toml";

/// After how long a daemon that was started with `--auto` ends when nothing happens.
pub const AUTO_IDLE_EXIT: Duration = Duration::from_secs(15 * 60);

/// A Unix socket's path has 108 bytes in `sockaddr_un`, the closing NUL included (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// What the daemon does; every value is valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file that is read, whether it is there or not: no command may make it.
    pub file: Option<PathBuf>,
    /// The daemon's effective user id.
    pub uid: u32,
    /// The Unix socket, absolute and short enough for the kernel.
    pub socket: PathBuf,
    /// Who may connect there; never empty.
    pub allowed_uids: Vec<u32>,
    /// Names of certificates whose holders may answer the questions of others.
    pub approvers: Vec<String>,
    /// TCP with mutual TLS, if at all.
    pub tcp: Option<Tcp>,
    /// Which policies requests may bring.
    pub inline_policies: Inline,
    /// Who may use which policies: the rules of the machine's file, which only narrow, and those of the daemon's own.
    pub access: Vec<Rules>,
    /// The machine's own policy directories.
    pub system_policy_dirs: Vec<PathBuf>,
    /// The policy of requests that name none.
    pub default_policy: String,
    /// Where policy files `NAME.toml` are; the first directory that has one wins, missing ones are skipped.
    pub policy_dirs: Vec<PathBuf>,
    /// Whether the command line named them: then they must exist.
    pub policy_dirs_named: bool,
    /// Runs at the same time; at least 1.
    pub max_runs: usize,
    /// Runs that wait for a place; may be 0.
    pub max_queue: usize,
    /// Sessions that are not closed, at the same time; may be 0.
    pub max_sessions: usize,
    /// Ended runs that are remembered, and closed sessions; may be 0.
    pub retained_runs: usize,
    /// For how long they are.
    pub retain_for: Duration,
    /// Output kept for each run, in bytes; at most `max_keep_bytes`.
    pub keep_bytes: u64,
    /// The most that a request may ask for, in bytes.
    pub max_keep_bytes: u64,
    /// Files of output.
    pub output: Output,
    /// How long runs may go on after SIGTERM; zero ends them at once.
    pub drain_grace: Duration,
    /// Whether a daemon that takes over from another waits until that one's runs are over.
    pub reload_finish: bool,
    /// After how long an idle daemon ends; `None` is never.
    pub idle_exit: Option<Duration>,
    /// Where runs get their temporary files.
    pub scratch_dir: PathBuf,
    /// The audit log.
    pub audit: Audit,
    /// The daemon's own log.
    pub log: Log,
}

/// Where the daemon listens on TCP, and with which certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// The address.
    pub listen: SocketAddr,
    /// Whose certificates clients must have: a PEM file.
    pub ca: PathBuf,
    /// The daemon's certificate chain: a PEM file.
    pub cert: PathBuf,
    /// Its key: a PEM file.
    pub key: PathBuf,
}

/// The whole output of runs, in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Whether it is written when a request does not say.
    pub spill: bool,
    /// Where.
    pub dir: PathBuf,
    /// At most for one run, in bytes.
    pub run_bytes: u64,
    /// At most for all runs, in bytes.
    pub total_bytes: u64,
    /// What stays free on the disk, in bytes.
    pub reserve_bytes: u64,
}

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Where it is.
    pub path: PathBuf,
    /// Whether runs are refused while it cannot be written.
    pub required: bool,
}

/// The daemon's own log, on stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its form.
    pub format: LogFormat,
    /// What is in it, in the syntax of tracing's `EnvFilter`.
    pub filter: String,
}

/// What the command line sets; it wins over the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// `--config`: this file must exist.
    pub config: Option<PathBuf>,
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// `--audit`.
    pub audit_path: Option<PathBuf>,
    /// `--scratch-dir`.
    pub scratch_dir: Option<PathBuf>,
    /// `--policy-dir`, in place of the file's list.
    pub policy_dirs: Option<Vec<PathBuf>>,
    /// `--system-policy-dir`, beside the machine's own: for tests. What they hold can narrow, as what the machine's own holds.
    pub system_policy_dirs: Vec<PathBuf>,
    /// `--max-runs`.
    pub max_runs: Option<usize>,
    /// `--auto`: started by a client; ends after [`AUTO_IDLE_EXIT`] of idling unless something else is set.
    pub auto: bool,
    /// `--idle-exit`.
    pub idle_exit: Option<Duration>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
    /// `--log`.
    pub log_filter: Option<String>,
}

/// What the configuration depends on outside of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvFacts {
    /// The effective user id.
    pub uid: u32,
    /// `$HOME`, if absolute.
    pub home: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`, if absolute.
    pub config_home: Option<PathBuf>,
    /// `$XDG_STATE_HOME`, if absolute.
    pub state_home: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`, if it is a directory of this user that nobody else can write to: after `su` it may be another's.
    pub runtime_dir: Option<PathBuf>,
    /// `$FUMEHOOD_SOCKET`.
    pub socket: Option<PathBuf>,
    /// `$FUMEHOOD_CONFIG`: this file must exist.
    pub config: Option<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could be changed by others, who could then change what the daemon allows.
    #[error("the configuration {} belongs to uid {uid} and has mode {mode:04o}: others could change it; make it yours and `chmod go-w` it", path.display())]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// Its content is wrong.
    #[error(transparent)]
    File(#[from] FileErrors),
    /// TCP is half configured.
    #[error(
        "TCP needs mutual TLS, on loopback too: set {missing} as well, or none of tcp.listen, tcp.ca, tcp.cert and tcp.key"
    )]
    Tcp {
        /// The missing keys.
        missing: String,
    },
    /// A path must be absolute.
    #[error("{what} must be an absolute path, not `{}`", path.display())]
    Relative {
        /// Which setting.
        what: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// The kernel takes no longer socket path.
    #[error("the socket's path {} has {} bytes, the kernel takes at most {MAX_SOCKET_PATH}: set a shorter one", .0.display(), .0.as_os_str().len())]
    SocketTooLong(PathBuf),
    /// A number is out of its range.
    #[error("{what} must be {range}, not {value}")]
    Range {
        /// Which setting.
        what: &'static str,
        /// What it may be.
        range: &'static str,
        /// What it is.
        value: u64,
    },
    /// Nobody could connect.
    #[error("allowed_uids is empty: nobody could use the daemon; leave it out for its own user and root")]
    NobodyAllowed,
    /// The log's filter is not one.
    #[error(transparent)]
    Filter(#[from] crate::telemetry::FilterError),
}

impl EnvFacts {
    /// Reads the daemon's environment, user, and the owner and mode of `$XDG_RUNTIME_DIR`.
    pub fn read() -> Self {
        let uid = nix::unistd::geteuid().as_raw();
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|value: &OsString| !value.is_empty())
                .map(PathBuf::from)
        };
        let absolute = |name: &str| set(name).filter(|path| path.is_absolute());
        let own = |path: &PathBuf| {
            std::fs::symlink_metadata(path)
                .is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0)
        };
        EnvFacts {
            uid,
            home: absolute("HOME"),
            config_home: absolute("XDG_CONFIG_HOME"),
            state_home: absolute("XDG_STATE_HOME"),
            runtime_dir: absolute("XDG_RUNTIME_DIR").filter(own),
            socket: set("FUMEHOOD_SOCKET"),
            config: set("FUMEHOOD_CONFIG"),
        }
    }

    /// The directory of the configuration and the policies: `$XDG_CONFIG_HOME/fumehood`, else `/etc/fumehood` for root and
    /// `~/.config/fumehood` for others.
    fn config_dir(&self) -> Option<PathBuf> {
        match (&self.config_home, self.uid, &self.home) {
            (Some(config), _, _) => Some(config.join("fumehood")),
            (None, 0, _) => Some(PathBuf::from("/etc/fumehood")),
            (None, _, home) => home.as_ref().map(|home| home.join(".config/fumehood")),
        }
    }

    /// Where the audit log is by default: `$XDG_STATE_HOME/fumehood`, else `/var/lib/fumehood` for root and
    /// `~/.local/state/fumehood` for others.
    pub fn audit_path(&self) -> Option<PathBuf> {
        let directory = match (&self.state_home, self.uid, &self.home) {
            (Some(state), _, _) => Some(state.join("fumehood")),
            (None, 0, _) => Some(PathBuf::from("/var/lib/fumehood")),
            (None, _, home) => home.as_ref().map(|home| home.join(".local/state/fumehood")),
        };
        directory.map(|directory| directory.join("audit.jsonl"))
    }
}

impl Config {
    /// Sessions of one peer that are not closed, at the same time: all, where nobody but the daemon's own user and root may use it, else so
    /// many that a quarter is left for others.
    pub fn max_sessions_of_peer(&self) -> usize {
        let shared = self.tcp.is_some() || self.allowed_uids.iter().any(|uid| ![0, self.uid].contains(uid));
        match shared {
            true => (self.max_sessions - self.max_sessions.div_ceil(4)).max(1),
            false => self.max_sessions,
        }
    }

    /// Reads the environment and the file, and resolves them with the command line.
    ///
    /// # Errors
    /// See [`ConfigError`]; everything that is wrong in the file is named at once.
    pub fn load(flags: Overrides) -> Result<Config, ConfigError> {
        let env = EnvFacts::read();
        let explicit = flags.config.clone().or_else(|| env.config.clone());
        let (path, must_exist) = match explicit {
            Some(path) => (Some(path), true),
            None => (
                env.config_dir().map(|directory| directory.join("fumehoodd.toml")),
                false,
            ),
        };
        let file = match &path {
            Some(path) => read_file(path, must_exist, env.uid)?.map(|file| (path.clone(), file)),
            None => None,
        };
        let own_is_machines = file.as_ref().is_some_and(|(path, _)| path == Path::new(SYSTEM_FILE));
        let mut config = Config::resolve(file, flags, &env)?;
        config.file = path;
        if !own_is_machines && let Some(rules) = machine_rules(Path::new(SYSTEM_FILE))? {
            config.access.insert(0, rules);
        }
        Ok(config)
    }

    /// What the file (with its path), the command line and the environment amount to. Pure.
    ///
    /// # Errors
    /// What is wrong across them; see [`ConfigError`].
    pub fn resolve(file: Option<(PathBuf, File)>, flags: Overrides, env: &EnvFacts) -> Result<Config, ConfigError> {
        let (path, file) = file.map_or((None, File::default()), |(path, file)| (Some(path), file));
        let uid = env.uid;
        let socket = flags
            .socket
            .or(file.socket)
            .or_else(|| env.socket.clone())
            .unwrap_or_else(|| {
                let directory = env.runtime_dir.as_ref().map(|runtime| runtime.join("fumehood"));
                directory
                    .unwrap_or_else(|| PathBuf::from(format!("/tmp/fumehood-{uid}")))
                    .join("fumehood.sock")
            });
        let socket = absolute("the socket", socket)?;
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(ConfigError::SocketTooLong(socket));
        }
        let mut allowed_uids = file.allowed_uids.unwrap_or_else(|| vec![uid, 0]);
        allowed_uids.sort_unstable();
        allowed_uids.dedup();
        if allowed_uids.is_empty() {
            return Err(ConfigError::NobodyAllowed);
        }
        let tcp = match (file.tcp_listen, file.tcp_ca, file.tcp_cert, file.tcp_key) {
            (None, None, None, None) => None,
            (Some(listen), Some(ca), Some(cert), Some(key)) => Some(Tcp { listen, ca, cert, key }),
            (listen, ca, cert, key) => {
                let keys = [
                    ("tcp.listen", listen.is_none()),
                    ("tcp.ca", ca.is_none()),
                    ("tcp.cert", cert.is_none()),
                    ("tcp.key", key.is_none()),
                ];
                let missing: Vec<_> = keys
                    .iter()
                    .filter(|(_, missing)| *missing)
                    .map(|(key, _)| *key)
                    .collect();
                return Err(ConfigError::Tcp {
                    missing: missing.join(", "),
                });
            }
        };
        let max_runs = flags.max_runs.or(file.max_runs).unwrap_or(64);
        if !(1..=10_000).contains(&max_runs) {
            return Err(ConfigError::Range {
                what: "max_runs",
                range: "1 to 10000",
                value: max_runs as u64,
            });
        }
        let max_keep_bytes = file.max_keep_bytes.unwrap_or(64 << 20);
        let keep_bytes = match file.keep_bytes {
            Some(keep) if keep > max_keep_bytes => {
                return Err(ConfigError::Range {
                    what: "keep_bytes",
                    range: "at most max_keep_bytes",
                    value: keep,
                });
            }
            keep => keep.unwrap_or(1 << 20).min(max_keep_bytes),
        };
        let log_filter = flags
            .log_filter
            .or(file.log_filter)
            .unwrap_or_else(|| "info".to_owned());
        crate::telemetry::check_filter(&log_filter)?;
        let audit_path = flags.audit_path.or(file.audit_path).or_else(|| env.audit_path());
        let policy_dirs_named = flags.policy_dirs.is_some();
        let policy_dirs = flags.policy_dirs.or(file.policy_dirs).unwrap_or_else(|| {
            env.config_dir()
                .map(|directory| directory.join("policies"))
                .into_iter()
                .collect()
        });
        let own = Rules {
            origin: path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            system: false,
            rules: file.access,
        };
        let system_policy_dirs = std::iter::once(PathBuf::from(SYSTEM_DIR))
            .chain(flags.system_policy_dirs)
            .map(|path| absolute("a policy directory", path))
            .collect::<Result<_, _>>()?;
        let scratch_dir = flags.scratch_dir.or(file.scratch_dir);
        let scratch_dir = scratch_dir.unwrap_or_else(|| PathBuf::from(format!("/var/tmp/fumehood-{uid}")));
        // A user without a home has its log where its sandboxes keep theirs: on disk, and private too.
        let audit_path = audit_path.unwrap_or_else(|| scratch_dir.join("audit.jsonl"));
        let audit_path = absolute("the audit log", audit_path)?;
        let output = Output {
            spill: file.output_spill.unwrap_or(true),
            dir: file.output_dir.unwrap_or_else(|| audit_path.with_file_name("output")),
            run_bytes: file.output_run_bytes.unwrap_or(4 << 30),
            total_bytes: file.output_total_bytes.unwrap_or(16 << 30),
            reserve_bytes: file.output_reserve_bytes.unwrap_or(1 << 30),
        };
        Ok(Config {
            file: path,
            uid,
            socket,
            allowed_uids,
            approvers: file.approvers.unwrap_or_default(),
            tcp,
            inline_policies: file.inline_policies.unwrap_or_default(),
            access: vec![own],
            system_policy_dirs,
            default_policy: file.default_policy.unwrap_or_else(|| "default".to_owned()),
            policy_dirs_named,
            policy_dirs: policy_dirs
                .into_iter()
                .map(|path| absolute("a policy directory", path))
                .collect::<Result<_, _>>()?,
            max_runs,
            max_queue: file.max_queue.unwrap_or(256),
            max_sessions: file.max_sessions.unwrap_or(64),
            retained_runs: file.retained_runs.unwrap_or(1000),
            retain_for: file.retain_for.unwrap_or(Duration::from_secs(600)),
            keep_bytes,
            max_keep_bytes,
            output,
            reload_finish: file.reload_finish.unwrap_or(false),
            drain_grace: file.drain_grace.unwrap_or(Duration::from_secs(10)),
            idle_exit: flags
                .idle_exit
                .or(file.idle_exit)
                .or(flags.auto.then_some(AUTO_IDLE_EXIT)),
            scratch_dir: absolute("the scratch directory", scratch_dir)?,
            audit: Audit {
                path: audit_path,
                required: file.audit_required.unwrap_or(true),
            },
            log: Log {
                format: flags.log_format.or(file.log_format).unwrap_or_default(),
                filter: log_filter,
            },
        })
    }
}

fn absolute(what: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(ConfigError::Relative { what, path })
    }
}

/// The access rules of the machine's file, if it is there and counts: written by root, and by nobody else.
fn machine_rules(path: &Path) -> Result<Option<Rules>, ConfigError> {
    let bytes = match read_path(path, 0, MAX_FILE_BYTES) {
        Ok((_, bytes)) => bytes,
        Err(CountError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(CountError::Uncounted(why)) => {
            eprintln!("fumehoodd: the rules of {} have no effect: {why}", path.display());
            return Ok(None);
        }
        Err(CountError::Read { path, source }) => return Err(ConfigError::Read { path, source }),
    };
    let text = std::str::from_utf8(&bytes).map_err(|error| ConfigError::Read {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    Ok(Some(Rules {
        origin: path.display().to_string(),
        system: true,
        rules: File::parse(text, path)?.access,
    }))
}

/// Reads and parses a configuration file; `None` when it does not exist and need not.
fn read_file(path: &Path, must_exist: bool, uid: u32) -> Result<Option<File>, ConfigError> {
    let fail = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    // O_NONBLOCK: a FIFO must not hold up the start.
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let opened = match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(None),
        opened => opened.map_err(fail)?,
    };
    let found = opened.metadata().map_err(fail)?;
    let invalid = |message: &str| fail(io::Error::new(io::ErrorKind::InvalidData, message));
    if !found.is_file() {
        return Err(invalid("not a regular file"));
    }
    if (found.uid() != uid && found.uid() != 0) || found.mode() & 0o002 != 0 {
        return Err(ConfigError::Loose {
            path: path.to_owned(),
            uid: found.uid(),
            mode: found.mode() & 0o7777,
        });
    }
    let mut bytes = Vec::new();
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(invalid("more than 1 MiB"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
            + 1;
        invalid(&format!("not UTF-8 in line {line}"))
    })?;
    Ok(Some(File::parse(text, path)?))
}

#[cfg(test)]
mod tests;
