//! A fuzz target for each parser of what others write: policies, command lines, configuration, requests, the messages between the daemon's
//! processes, git configuration, the audit log, the state of runs on disk, what shells leave in sessions.
//!
//! A target takes any bytes and panics when a promise is broken: nothing panics, errors point into the text, what was decoded encodes to
//! the same. The inputs in `corpus/` are kept because each reaches code that the others do not; `tests/replay.rs` runs
//! them, and mutants of them, with every `cargo test`. `run` looks for new ones, guided by coverage.
//!
//! libFuzzer was chosen over cargo-fuzz (needs a nightly compiler) and over a mutator of our own (blind): its runtime is a crate,
//! and the instrumentation it needs is a pass of LLVM that the stable compiler can be asked for.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fumehood_policies::Policy;
use fumehoodd::audit::{self, AuditLog};
use fumehoodd::config::{Config, EnvFacts, File, Overrides};
use fumehoodd::peer::{Identity, Peer};
use fumehoodd::policy::{Policies, TrustStore};
use fumehoodd::service::{Door, try_request};
use fumehoodd::session::{Carried, Left};

/// One parser.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its corpus's directory.
    pub name: &'static str,
    /// Takes any bytes; panics when a promise is broken.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "policy",
        run: policy,
    },
    Target {
        name: "command",
        run: command,
    },
    Target {
        name: "config",
        run: config,
    },
    Target {
        name: "request",
        run: request,
    },
    Target {
        name: "messages",
        run: fumehood_sandbox::try_decoders,
    },
    Target {
        name: "git-config",
        run: fumehood_sandbox::try_git_config,
    },
    Target {
        name: "audit",
        run: audit_log,
    },
    Target {
        name: "state",
        run: fumehoodd::run::try_saved,
    },
    Target {
        name: "shell-state",
        run: shell_state,
    },
];

/// Where the kept inputs of a target are.
#[must_use]
pub fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The target that `FUMEHOOD_FUZZ_TARGET` names.
///
/// # Panics
/// When it names none.
#[must_use]
pub fn chosen() -> fn(&[u8]) {
    static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("FUMEHOOD_FUZZ_TARGET").unwrap_or_default();
        let names = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
        match TARGETS.iter().find(|target| target.name == name) {
            Some(target) => target.run,
            None => panic!("FUMEHOOD_FUZZ_TARGET is {name:?}; there are: {}", names()),
        }
    })
}

/// Lines of a text, counted as the parsers do.
fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count() + 1
}

fn no_control(text: &str) {
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

fn policy(bytes: &[u8]) {
    match Policy::parse(bytes, "p.toml") {
        Ok(policy) => {
            assert!((1..=policy.limits.open_files_hard).contains(&policy.limits.open_files_soft));
            assert!(policy.environment.set.values().all(|value| !value.contains('\0')));
            let again = Policy::parse(bytes, "p.toml").expect("the same bytes");
            assert_eq!(policy.digest.to_string(), again.digest.to_string());
            let printed = policy.to_toml();
            let read = Policy::parse(printed.as_bytes(), "printed").expect("what is printed");
            assert_eq!((&read, read.to_toml()), (&policy, printed));
            let (_, default) = fumehood_policies::builtin("default").expect("built in");
            let narrowed = policy.narrowed_by(&default);
            assert!(narrowed.limits.amounts().iter().zip(default.limits.amounts()).all(
                |((_, narrowed), (_, above))| {
                    above.is_none_or(|above| narrowed.is_some_and(|narrowed| narrowed <= above))
                }
            ));
        }
        Err(errors) => {
            assert!(!errors.errors().is_empty());
            for error in errors.errors() {
                assert!((1..=lines(bytes)).contains(&(error.line as usize)) && error.column >= 1);
                assert!(!error.message.is_empty());
            }
            no_control(&errors.to_string());
        }
    }
}

/// The bytes are a script, given to a shell and read as a line.
fn command(bytes: &[u8]) {
    use fumehood_policies::command::{CommandRules, Verdict, read, read_line};

    let argv = [b"sh".to_vec(), b"-c".to_vec(), bytes.to_vec()];
    let reading = read(&argv);
    assert!(reading.commands.len() <= 512 && reading.unreadable.len() <= 64);
    if let Ok(line) = std::str::from_utf8(bytes) {
        let reading = read_line(line);
        assert!(reading.commands.len() <= 512 && reading.unreadable.len() <= 64);
    }
    let rules = CommandRules {
        default: Verdict::Ask,
        unreadable: Verdict::Deny,
        rules: Vec::new(),
    };
    let judgement = rules.judge(&argv);
    for finding in &judgement.findings {
        assert!(finding.verdict <= judgement.verdict);
        no_control(&finding.command);
    }
    // Cut at each NUL byte it is an argument vector.
    let words: Vec<Vec<u8>> = bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    if let Ok(rule) = CommandRules::rule_for(&words) {
        assert_eq!(rules.with(rule).judge(&words).verdict, Verdict::Allow);
    }
}

fn config(bytes: &[u8]) {
    // What is not UTF-8 is refused before the parser.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Path::new("/etc/fumehood/fumehoodd.toml");
    match File::parse(text, path) {
        Ok(file) => match Config::resolve(
            Some((path.to_owned(), file)),
            Overrides::default(),
            &EnvFacts::default(),
        ) {
            Ok(config) => {
                let paths = config.policy_dirs.iter().chain([&config.socket, &config.audit.path]);
                assert!(paths.chain([&config.scratch_dir]).all(|path| path.is_absolute()));
                assert!((1..=10_000).contains(&config.max_runs) && config.keep_bytes <= config.max_keep_bytes);
                assert!(!config.allowed_uids.is_empty());
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        },
        Err(errors) => assert!(errors.to_string().contains(":")),
    }
}

fn request(bytes: &[u8]) {
    static DOOR: OnceLock<Door> = OnceLock::new();
    let door = DOOR.get_or_init(|| Door {
        policies: Policies::built_in(TrustStore::beside(Path::new("/nonexistent/audit.jsonl"))),
        private: Arc::from([PathBuf::from("/var/lib/fumehood")]),
        keep_bytes: 1 << 20,
        max_keep_bytes: 64 << 20,
        spill: true,
        audit: None,
        sessions: None,
    });
    let peer = Peer {
        identity: Identity::Unix {
            uid: 1000,
            gid: 1000,
            pid: None,
        },
        allowed: true,
    };
    if let Some(Err(status)) = try_request(door, &peer, bytes) {
        // It travels in headers, which clients bound at 8 KiB.
        assert!(!status.details().is_empty() && status.details().len() + 3 * status.message().len() < 8192);
    }
}

/// What a shell leaves for the next line of its session.
fn shell_state(bytes: &[u8]) {
    let Ok(left) = Left::parse(bytes) else { return };
    let given = [(b"A".to_vec(), b"1".to_vec())].into();
    let carried = Carried::default().after(left, &given, &given, |name| name == b"FORBIDDEN");
    assert!(carried.cwd.is_none_or(|cwd| cwd.is_absolute()));
    let plain = |name: &[u8]| name != b"FORBIDDEN" && name != b"PWD" && !name.contains(&b'=') && !name.is_empty();
    assert!(carried.variables.keys().all(|name| plain(name)));
    let values = carried.variables.values().flatten();
    assert!(values.chain([&carried.text]).all(|value| !value.contains(&0)));
}

/// The bytes are a log and, after the first NUL byte, its head.
fn audit_log(bytes: &[u8]) {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared } else { Path::new("/tmp") };
    let directory = tempfile::Builder::new()
        .prefix("fumehood-fuzz-")
        .tempdir_in(parent)
        .expect("a directory");
    let path = directory.path().join("audit.jsonl");
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    std::fs::write(&path, parts.next().unwrap_or_default()).expect("write the log");
    if let Some(head) = parts.next() {
        std::fs::write(path.with_extension("head"), head).expect("write the head");
    }
    let before = audit::verify(&path);
    if let Err(error) = &before {
        assert!(!error.to_string().is_empty());
    }
    match AuditLog::open(&path, "fuzz") {
        Ok(log) => {
            // A log that was in order still is when it has been opened.
            if before.is_ok() {
                audit::verify(&path).expect("the log after it was opened");
            }
            drop(log);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
