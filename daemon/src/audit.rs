//! The audit log: what was asked, what was decided, and how it ended, so that it cannot be changed afterwards unnoticed.
//!
//! # The file
//!
//! One JSON object a line, in pure ASCII whatever bytes the values hold, appended only. Every record has, in this order,
//! `seq` (from 1), `time` (RFC 3339, UTC, microseconds), `kind`, `prev`, its payload, and last `hash`:
//!
//! ```text
//! {"seq":2,"time":"...","kind":"intent","prev":"<hash of record 1>","run_id":"...",...,"hash":"<64 hex digits>"}
//! ```
//!
//! `hash` is the SHA-256 of the line without its last 75 bytes, which are `,"hash":"`, the 64 digits, and `"}`. `prev` is the
//! `hash` of the record before, 64 zeros for the first. A stranger verifies a log like this:
//!
//! ```python
//! import hashlib, json
//! prev, seq = "0" * 64, 1
//! for line in open("audit.jsonl", "rb"):
//!     line = line.rstrip(b"\n")
//!     record = json.loads(line)
//!     assert record["hash"] == hashlib.sha256(line[:-75]).hexdigest(), f"record {seq} was edited"
//!     assert record["seq"] == seq and record["prev"] == prev, f"record {seq} is not the one that was written here"
//!     prev, seq = record["hash"], seq + 1
//! ```
//!
//! Kinds: `log_opened`, `log_continued` (by a daemon that took over from one that still writes about its own runs), `intent`, `end`, `interrupted`, `denied` (a run refused by policy), `request_refused` (no policy decided), `peer_denied`, `policy_trusted`, `policy_untrusted`,
//! `policies_reloaded`, `file` (an operation on files); and about questions to people
//! `approval_requested`, `approval_resolved`, `approval_applied` (an earlier answer let a run pass), `approval_expired`, `approval_withdrawn`,
//! `approval_interrupted` (its daemon died; nobody answered, and the run did not start), `approval_rule_removed`; and about what was done to a
//! run otherwise than over the stream that started it `run_attached`, `run_input`, `run_signalled`, `run_killed`, `run_released`, of which one
//! record can stand for many (`count`). `audit.head` beside the log holds the last number and hash, so that records removed at the end are noticed too. Whoever can write as the
//! daemon's user can forge both; the last hash, noted elsewhere from time to time, pins everything before it.
//!
//! # Promises
//!
//! - [`AuditLog::intent`] returns when the record is durable (`fdatasync`), and only then may the command start.
//! - A run whose daemon died gets an `interrupted` record when the log is next opened, and a question that waited then an
//!   `approval_interrupted` record.
//! - When the log cannot be written (disk full, file replaced), intents fail, so that no run starts unrecorded, and what was
//!   half written is taken back. Ends wait in memory and are written as soon as it can be.
//! - Environment values are never recorded, and what looks like a secret in a command line is taken out.
//!
//! Deliberately absent: rotation (move the file away while no daemon runs) and signatures.

use std::path::{Path, PathBuf};

mod approval;
mod arguments;
mod chain;
mod deed;
mod file;
mod files;
mod head;
mod read;
mod record;
mod redact;
mod session;
mod text;
mod verify;
mod writer;

pub use approval::{Approval, ApprovalEvent, ApprovalRuleRemoved};
pub use arguments::kept_arguments;
pub use chain::{Broken, Fault};
pub use deed::{Deed, DeedKind};
pub use file::{AuditError, OpenError, Opened};
pub use files::FileOperation;
pub use read::{Heading, Next, Reader};
pub(crate) use record::now;
pub use record::{
    Decision, Denial, Detail, End, Enforcement, Intent, MAX_LINE_BYTES, PeerDenied, PolicyChange, RecordRef,
    RequestRefused, StreamDigest, TrustedFile, Usage,
};
pub use redact::{REDACTED, redact_argv, redact_text};
pub use session::{Created, SessionEvent, SessionRecord};
pub use text::{MAX_LIST_BYTES, MAX_LIST_ITEMS, MAX_VALUE_BYTES};
pub use verify::{VerifyError, VerifyReport, verify};
pub use writer::AuditLog;

/// Where this user's log is when nothing else is said; `None` where the environment names no place.
pub fn default_path() -> Option<PathBuf> {
    crate::config::EnvFacts::read().audit_path()
}

/// The path beside `path` that a daemon takes when another one of the same user writes to it: `audit-2.jsonl` and so on.
pub(crate) fn further_path(path: &Path, number: u32) -> PathBuf {
    path.with_file_name(format!("audit-{number}.jsonl"))
}

/// How many logs of one user there may be side by side.
pub(crate) const MAX_LOGS: u32 = 9;

/// A moment as RFC 3339 in UTC with microseconds, as records have it.
pub(crate) fn timestamp(at: std::time::SystemTime) -> String {
    record::rfc3339(at.into())
}

/// This user's logs: the default one, and those of daemons that found it in use.
pub fn default_paths() -> Vec<PathBuf> {
    let Some(first) = default_path() else { return Vec::new() };
    let further = (2..=MAX_LOGS)
        .map(|number| further_path(&first, number))
        .filter(|path| path.exists())
        .collect::<Vec<_>>();
    std::iter::once(first).chain(further).collect()
}

#[cfg(test)]
mod tests;
