//! What is recorded: the entries, and the line each becomes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::redact::{REDACTED, is_secret_name, redact_argv, redact_text};
use super::text::{Text, TextList, sha256_hex, to_ascii_json};

/// Longest line of the log, in bytes with its newline. A record that would be longer is refused.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// The hash that stands before the first record.
pub(super) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Length of `,"hash":"<64 digits>"}`, with which every line ends; the hash is over what stands before it.
pub(super) const SEAL_BYTES: usize = 9 + 64 + 2;

/// A decision about a run, recorded before anything of it happens. Kind `intent` when allowed, `denied` when not; only an
/// `intent` is followed by an [`End`].
#[derive(Clone, Debug)]
pub struct Intent {
    /// The run's id; with `@` and the peer's name behind it when the peer is not the daemon's own user.
    pub run_id: String,
    /// Who asked: `uid:1000`, `cert:NAME`.
    pub peer: String,
    /// The peer's process id when it connected; information only, since ids are reused.
    pub peer_pid: Option<i32>,
    /// SHA-256 of the request as the wire carried it, in hexadecimal.
    pub request_digest: String,
    /// The policy's name.
    pub policy_name: String,
    /// The policy's digest, in hexadecimal.
    pub policy_digest: String,
    /// What the policy comes from, the request's own first, the ceilings last.
    pub policy_layers: Vec<String>,
    /// What was decided.
    pub decision: Decision,
    /// The command line; secrets are taken out before it is recorded, see [`super::redact_argv`].
    pub argv: Vec<Vec<u8>>,
    /// Names of the environment variables that the request sets. Values are never recorded.
    pub env_names: Vec<Vec<u8>>,
    /// The workspace's path.
    pub workspace: Vec<u8>,
    /// The working directory.
    pub cwd: Vec<u8>,
    /// The caller's labels; their values are searched for secrets like a command line.
    pub labels: BTreeMap<String, String>,
    /// The session that it runs in, by the id in the records of that one.
    pub session: Option<String>,
    /// What it has of earlier lines of that, in words; empty where that is nothing.
    pub carried: String,
}

/// What the policy decided, by which rule.
#[derive(Clone, Debug)]
pub enum Decision {
    /// The run may start.
    Allowed {
        /// The rule, as the policy names it.
        rule: String,
    },
    /// It may not.
    Denied {
        /// The rule, as the policy names it.
        rule: String,
        /// Why, for people.
        reason: String,
    },
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct End {
    /// The run's id.
    pub run_id: String,
    /// How it ended: `exited`, `signaled`, `timed_out`, ...
    pub outcome: String,
    /// The outcome's particulars: `code`, `signal`, `stage`, `errno`, ... Strings are searched for secrets.
    pub details: BTreeMap<String, Detail>,
    /// What a shell would report: 128+n for signals.
    pub shell_code: Option<i32>,
    /// The state of every protection.
    pub enforcement: Vec<Enforcement>,
    /// What it consumed.
    pub usage: Usage,
    /// What it wrote to stdout.
    pub stdout: StreamDigest,
    /// What it wrote to stderr.
    pub stderr: StreamDigest,
    /// What the sandbox refused, each once.
    pub denials: Vec<Denial>,
    /// How often it refused something.
    pub denial_count: u64,
}

/// Something that the sandbox refused.
#[derive(Clone, Debug)]
pub struct Denial {
    /// The layer: `protected-paths`, `network`, ...
    pub protection: String,
    /// What was tried: `change`, `write`, `read`, `call`, `connect`.
    pub operation: &'static str,
    /// On what; searched for secrets, and cut to [`MAX_SUBJECT_BYTES`].
    pub subject: Vec<u8>,
    /// The rule that refused it.
    pub rule: String,
    /// Whether it is concluded from the command's messages, not told by the part that refused.
    pub inferred: bool,
}

/// Longest subject of a denial that is recorded, in bytes: 32 of them fit a line however they are escaped.
pub const MAX_SUBJECT_BYTES: usize = 1024;

/// One particular of an outcome.
#[derive(Clone, Debug)]
pub enum Detail {
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
    /// A text, or bytes that may not be one.
    Bytes(Vec<u8>),
}

/// The state of one protection.
#[derive(Clone, Debug, Serialize)]
pub struct Enforcement {
    /// The protection: `landlock`, `seccomp`, ...
    pub protection: String,
    /// `active`, `degraded` or `off`.
    pub state: String,
    /// With what, what is missing, or why.
    pub detail: String,
}

/// What a run consumed. `None` is "not measured", never zero.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    /// Wall-clock time from start to exit, in microseconds.
    pub wall_us: Option<u64>,
    /// CPU time in user mode, in microseconds.
    pub cpu_user_us: Option<u64>,
    /// CPU time in the kernel, in microseconds.
    pub cpu_system_us: Option<u64>,
    /// Highest memory use, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Processes ended by the out-of-memory killer.
    pub oom_kills: Option<u64>,
    /// Forks that the limit of processes made fail.
    pub fork_failures: Option<u64>,
    /// How long the CPU limit held processes back, in microseconds.
    pub throttled_us: Option<u64>,
}

/// All that a run wrote to one stream, kept or not.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StreamDigest {
    /// How many bytes.
    pub bytes: u64,
    /// Their SHA-256 in hexadecimal; `None` when the stream was not read to its end.
    pub sha256: Option<String>,
}

/// A peer that may not speak to the daemon connected. Kind `peer_denied`.
#[derive(Clone, Debug, Serialize)]
pub struct PeerDenied {
    /// Who: `uid:1001`.
    pub peer: String,
    /// Its process id when it connected; information only.
    pub peer_pid: Option<i32>,
    /// Where: `unix` or `tcp`.
    pub listener: &'static str,
    /// Why, for people.
    pub reason: String,
    /// How many more were refused since the last such record, and not recorded one by one.
    pub suppressed: u64,
}

/// A request to start a run was refused before any policy could decide about it: no access rule, a policy that the peer may not name, or one
/// of its own that gives too much. Kind `request_refused`.
#[derive(Clone, Debug)]
pub struct RequestRefused {
    /// Who asked: `uid:1001`.
    pub peer: String,
    /// Its process id when it connected; information only.
    pub peer_pid: Option<i32>,
    /// Why, for people.
    pub reason: String,
}

/// Somebody changed what policies there are, or which files are trusted.
#[derive(Clone, Debug)]
pub enum PolicyChange {
    /// A file is trusted from now on. Kind `policy_trusted`.
    Trusted(TrustedFile),
    /// A file is trusted no more. Kind `policy_untrusted`.
    Untrusted {
        /// Who said so.
        by: String,
        /// The file.
        path: Vec<u8>,
    },
    /// The policy directories were read again. Kind `policies_reloaded`.
    Reloaded {
        /// Who asked: a peer, or `signal`.
        by: String,
        /// Names of policies that are new.
        added: Vec<String>,
        /// Names of those that are no more.
        removed: Vec<String>,
        /// Names of those that say something else.
        changed: Vec<String>,
        /// Why what was there stayed; `None`: it did not.
        error: Option<String>,
    },
}

/// A file that is trusted.
#[derive(Clone, Debug)]
pub struct TrustedFile {
    /// Who said so.
    pub by: String,
    /// The file.
    pub path: Vec<u8>,
    /// The policy's name.
    pub policy_name: String,
    /// The policy's digest, in hexadecimal.
    pub policy_digest: String,
    /// The digest of the file's bytes, in hexadecimal.
    pub file_digest: String,
    /// What it gives beyond what holds otherwise, in words.
    pub widenings: Vec<String>,
}

/// The log was opened by a daemon. Kind `log_opened`, the last record of what opening writes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LogOpened<'a> {
    /// The daemon's instance id.
    pub instance: &'a str,
    /// The daemon's version.
    pub version: &'a str,
    /// Runs closed as `interrupted` just before this record.
    pub interrupted: u64,
    /// Bytes of a half-written last line that were cut off; 0 for none.
    pub dropped_bytes: u64,
    /// First and last record that `audit.head` knew and the file no longer had: records were removed at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_seq: Option<[u64; 2]>,
    /// The log had records and no `audit.head`: whether records were removed at the end cannot be told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub head_missing: bool,
}

/// A daemon took over from one that goes on with its own runs and writes to the log as well. Kind `log_continued`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LogContinued<'a> {
    /// The daemon's instance id.
    pub instance: &'a str,
    /// The daemon's version.
    pub version: &'a str,
    /// The instance it took over from. What that one writes from here on about what it begins names it as `instance`.
    pub goes_on: &'a [&'a str],
}

/// A run whose daemon ended before the run's end was recorded. Kind `interrupted`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Interrupted<'a> {
    pub run_id: &'a str,
    /// The instance that wrote the intent.
    pub instance: &'a str,
    /// The intent's record.
    pub intent_seq: u64,
}

/// A question to people whose daemon ended before anybody answered; its run did not start. Kind `approval_interrupted`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ApprovalInterrupted<'a> {
    pub approval_id: &'a str,
    pub run_id: &'a str,
    /// The instance that asked.
    pub instance: &'a str,
    /// The question's record.
    pub request_seq: u64,
}

/// A session whose daemon ended before the session's end was recorded. Kind `session_interrupted`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SessionInterrupted<'a> {
    pub session_id: &'a str,
    /// The instance that made it.
    pub instance: &'a str,
    /// The record of its creation.
    pub created_seq: u64,
}

/// Where a record is: enough to find it and to notice if it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRef {
    /// Its number; the first record of a log has 1.
    pub seq: u64,
    /// Its hash, in hexadecimal.
    pub hash: String,
}

/// An entry ready to be written: kind and payload, a JSON object in one line of ASCII.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub kind: &'static str,
    pub payload: String,
}

impl Entry {
    pub fn new(kind: &'static str, payload: &impl Serialize) -> Result<Self, serde_json::Error> {
        let payload = String::from_utf8(to_ascii_json(payload)?).map_err(serde::ser::Error::custom)?;
        Ok(Entry { kind, payload })
    }

    pub fn intent(intent: &Intent) -> Result<Self, serde_json::Error> {
        #[derive(Serialize)]
        struct Payload<'a> {
            run_id: &'a str,
            peer: Text<'a>,
            peer_pid: Option<i32>,
            request_digest: &'a str,
            policy_name: Text<'a>,
            policy_digest: &'a str,
            policy_layers: TextList<'a, String>,
            decision: &'static str,
            rule: Text<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<Text<'a>>,
            argv: TextList<'a, std::borrow::Cow<'a, [u8]>>,
            env_names: TextList<'a, Vec<u8>>,
            workspace: Text<'a>,
            cwd: Text<'a>,
            labels: BTreeMap<&'a str, Text<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            session: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            carried: Option<Text<'a>>,
        }
        let (kind, decision, rule, reason) = match &intent.decision {
            Decision::Allowed { rule } => ("intent", "allowed", rule, None),
            Decision::Denied { rule, reason } => ("denied", "denied", rule, Some(redact_text(reason.as_bytes()))),
        };
        let argv = redact_argv(&intent.argv);
        let labels: Vec<_> = intent
            .labels
            .iter()
            .map(|(name, value)| match is_secret_name(name.as_bytes()) {
                true => (name.as_str(), std::borrow::Cow::Borrowed(REDACTED.as_bytes())),
                false => (name.as_str(), redact_text(value.as_bytes())),
            })
            .collect();
        Entry::new(
            kind,
            &Payload {
                run_id: &intent.run_id,
                peer: Text(intent.peer.as_bytes()),
                peer_pid: intent.peer_pid,
                request_digest: &intent.request_digest,
                policy_name: Text(intent.policy_name.as_bytes()),
                policy_digest: &intent.policy_digest,
                policy_layers: TextList(&intent.policy_layers),
                decision,
                rule: Text(rule.as_bytes()),
                reason: reason.as_deref().map(Text),
                argv: TextList(&argv),
                env_names: TextList(&intent.env_names),
                workspace: Text(&intent.workspace),
                cwd: Text(&intent.cwd),
                labels: labels.iter().map(|(name, value)| (*name, Text(value))).collect(),
                session: intent.session.as_deref(),
                carried: Some(Text(intent.carried.as_bytes())).filter(|_| !intent.carried.is_empty()),
            },
        )
    }

    pub fn request_refused(refused: &RequestRefused) -> Result<Self, serde_json::Error> {
        #[derive(Serialize)]
        struct Payload<'a> {
            peer: Text<'a>,
            peer_pid: Option<i32>,
            reason: Text<'a>,
        }
        Entry::new(
            "request_refused",
            &Payload {
                peer: Text(refused.peer.as_bytes()),
                peer_pid: refused.peer_pid,
                reason: Text(&redact_text(refused.reason.as_bytes())),
            },
        )
    }

    pub fn policy_change(change: &PolicyChange) -> Result<Self, serde_json::Error> {
        #[derive(Serialize)]
        struct Trusted<'a> {
            peer: Text<'a>,
            path: Text<'a>,
            policy_name: Text<'a>,
            policy_digest: &'a str,
            file_digest: &'a str,
            widenings: TextList<'a, String>,
        }
        #[derive(Serialize)]
        struct Untrusted<'a> {
            peer: Text<'a>,
            path: Text<'a>,
        }
        #[derive(Serialize)]
        struct Reloaded<'a> {
            peer: Text<'a>,
            added: TextList<'a, String>,
            removed: TextList<'a, String>,
            changed: TextList<'a, String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<Text<'a>>,
        }
        match change {
            PolicyChange::Trusted(file) => Entry::new(
                "policy_trusted",
                &Trusted {
                    peer: Text(file.by.as_bytes()),
                    path: Text(&file.path),
                    policy_name: Text(file.policy_name.as_bytes()),
                    policy_digest: &file.policy_digest,
                    file_digest: &file.file_digest,
                    widenings: TextList(&file.widenings),
                },
            ),
            PolicyChange::Untrusted { by, path } => Entry::new(
                "policy_untrusted",
                &Untrusted {
                    peer: Text(by.as_bytes()),
                    path: Text(path),
                },
            ),
            PolicyChange::Reloaded {
                by,
                added,
                removed,
                changed,
                error,
            } => Entry::new(
                "policies_reloaded",
                &Reloaded {
                    peer: Text(by.as_bytes()),
                    added: TextList(added),
                    removed: TextList(removed),
                    changed: TextList(changed),
                    error: error.as_ref().map(|error| Text(error.as_bytes())),
                },
            ),
        }
    }

    pub fn end(end: &End) -> Result<Self, serde_json::Error> {
        #[derive(Serialize)]
        struct Payload<'a> {
            run_id: &'a str,
            outcome: &'a str,
            details: BTreeMap<&'a str, serde_json::Value>,
            shell_code: Option<i32>,
            enforcement: &'a [Enforcement],
            usage: &'a Usage,
            stdout: &'a StreamDigest,
            stderr: &'a StreamDigest,
            denials: Vec<Refused<'a>>,
            denial_count: u64,
        }
        #[derive(Serialize)]
        struct Refused<'a> {
            protection: &'a str,
            operation: &'a str,
            subject: Text<'a>,
            rule: Text<'a>,
            inferred: bool,
        }
        let subjects: Vec<_> = end
            .denials
            .iter()
            .map(|denial| redact_text(&denial.subject[..denial.subject.len().min(MAX_SUBJECT_BYTES)]))
            .collect();
        let denials = end.denials.iter().zip(&subjects).map(|(denial, subject)| Refused {
            protection: &denial.protection,
            operation: denial.operation,
            subject: Text(subject),
            rule: Text(denial.rule.as_bytes()),
            inferred: denial.inferred,
        });
        let mut details = BTreeMap::new();
        for (name, detail) in &end.details {
            let value = match detail {
                Detail::Number(number) => (*number).into(),
                Detail::Flag(flag) => (*flag).into(),
                Detail::Bytes(bytes) => serde_json::to_value(Text(&redact_text(bytes)))?,
            };
            details.insert(name.as_str(), value);
        }
        Entry::new(
            "end",
            &Payload {
                run_id: &end.run_id,
                outcome: &end.outcome,
                details,
                shell_code: end.shell_code,
                enforcement: &end.enforcement,
                usage: &end.usage,
                stdout: &end.stdout,
                stderr: &end.stderr,
                denials: denials.collect(),
                denial_count: end.denial_count,
            },
        )
    }

    /// The same record, with the instance that writes it where it begins something: it is not the one that began to write last.
    pub fn of_instance(&self, instance: &str) -> Entry {
        let mut entry = self.clone();
        if matches!(self.kind, "intent" | "approval_requested" | "session_created") && entry.payload.ends_with('}') {
            entry.payload.pop();
            entry.payload.push_str(&format!(r#","instance":"{instance}"}}"#));
        }
        entry
    }

    /// The record's line with its newline, and its hash.
    pub fn seal(&self, seq: u64, time: &str, prev: &str) -> (Vec<u8>, String) {
        let fields = self
            .payload
            .strip_prefix('{')
            .and_then(|fields| fields.strip_suffix('}'))
            .unwrap_or_default();
        let comma = if fields.is_empty() { "" } else { "," };
        let kind = self.kind;
        let mut line =
            format!(r#"{{"seq":{seq},"time":"{time}","kind":"{kind}","prev":"{prev}"{comma}{fields}"#).into_bytes();
        let hash = sha256_hex(&line);
        line.extend_from_slice(format!(",\"hash\":\"{hash}\"}}\n").as_bytes());
        (line, hash)
    }
}

/// Now, as RFC 3339 in UTC with microseconds: `2026-01-02T03:04:05.000006Z`.
pub(crate) fn now() -> String {
    rfc3339(time::OffsetDateTime::from(std::time::SystemTime::now()))
}

pub(super) fn rfc3339(at: time::OffsetDateTime) -> String {
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_microseconds_and_a_zone() {
        let at = time::OffsetDateTime::UNIX_EPOCH + std::time::Duration::from_micros(1_000_000_000_000_007);
        assert_eq!(rfc3339(at), "2001-09-09T01:46:40.000007Z");
        assert_eq!(now().len(), 27);
    }

    #[test]
    fn the_hash_is_over_what_stands_before_the_seal() {
        let entry = Entry::new("peer_denied", &serde_json::json!({"peer": "uid:1"})).unwrap();
        let (line, hash) = entry.seal(7, "2001-09-09T01:46:40.000007Z", GENESIS);
        let line = std::str::from_utf8(&line).unwrap().strip_suffix('\n').unwrap();
        assert_eq!(sha256_hex(&line.as_bytes()[..line.len() - SEAL_BYTES]), hash);
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (value["seq"].as_u64(), value["hash"].as_str()),
            (Some(7), Some(hash.as_str()))
        );
    }
}
