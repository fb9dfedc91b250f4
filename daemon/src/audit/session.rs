//! Records about the life of a session.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::record::Entry;
use super::redact::{REDACTED, is_secret_name, redact_text};
use super::text::{Text, TextList};
use crate::session::{Ended, SessionRequest};

/// Something in the life of a session.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// The session's id; with `@` and the peer's name behind it when the peer is not the daemon's own user.
    pub session_id: String,
    /// What happened.
    pub event: SessionEvent,
}

/// What happened to a session.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// It is being made. Kind `session_created`.
    Created(Box<Created>),
    /// Everything in it was ended, and it began anew. Kind `session_reset`.
    Reset {
        /// Who asked.
        by: String,
        /// The process id of who asked, when it connected; information only.
        by_pid: Option<i32>,
    },
    /// It is over. Kind `session_closed`.
    Closed {
        /// Why: `closed`, `idle`, `lifetime`, `limit`, `drain` or `lost`.
        end: &'static str,
        /// Who asked; empty: nobody did.
        by: String,
        /// More, for people; searched for secrets.
        detail: String,
        /// Runs there were in it.
        runs: u64,
    },
}

/// What a session is made of.
#[derive(Clone, Debug)]
pub struct Created {
    /// Who asked.
    pub peer: String,
    /// The peer's process id when it connected; information only.
    pub peer_pid: Option<i32>,
    /// SHA-256 of the request, in hexadecimal.
    pub request_digest: String,
    /// The policy's name.
    pub policy_name: String,
    /// The policy's digest, in hexadecimal.
    pub policy_digest: String,
    /// What the policy comes from.
    pub policy_layers: Vec<String>,
    /// The workspace's path.
    pub workspace: Vec<u8>,
    /// The first working directory.
    pub cwd: Vec<u8>,
    /// Names of the variables that every run of it gets.
    pub env_names: Vec<Vec<u8>>,
    /// The caller's labels; their values are searched for secrets.
    pub labels: BTreeMap<String, String>,
    /// How long it lives without a run.
    pub idle_timeout: Duration,
    /// How long it lives.
    pub lifetime: Duration,
}

impl SessionRecord {
    /// It is being made.
    pub fn created(request: &SessionRequest) -> SessionRecord {
        use std::os::unix::ffi::OsStrExt;
        let created = Created {
            peer: request.peer.to_string(),
            peer_pid: request.peer.pid(),
            request_digest: request.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            policy_name: request.policy.name.clone(),
            policy_digest: request.policy.digest.to_string(),
            policy_layers: request.layers.clone(),
            workspace: request.host.workspace.as_os_str().as_bytes().to_vec(),
            cwd: request.host.cwd.as_os_str().as_bytes().to_vec(),
            env_names: request.env.iter().map(|(name, _)| name.clone()).collect(),
            labels: request.labels.clone(),
            idle_timeout: request.idle_timeout,
            lifetime: request.lifetime,
        };
        SessionRecord {
            session_id: request.recorded_id(),
            event: SessionEvent::Created(Box::new(created)),
        }
    }

    /// It began anew.
    pub fn reset(session_id: &str, by: &str, by_pid: Option<i32>) -> SessionRecord {
        SessionRecord {
            session_id: session_id.to_owned(),
            event: SessionEvent::Reset {
                by: by.to_owned(),
                by_pid,
            },
        }
    }

    /// It is over.
    pub fn closed(session_id: &str, ended: &Ended, runs: u64) -> SessionRecord {
        SessionRecord {
            session_id: session_id.to_owned(),
            event: SessionEvent::Closed {
                end: ended.end.name(),
                by: ended.by.clone(),
                detail: ended.detail.clone(),
                runs,
            },
        }
    }

    /// Whether it is kept when it cannot be written now.
    pub(super) fn is_end(&self) -> bool {
        matches!(self.event, SessionEvent::Closed { .. })
    }

    pub(super) fn entry(&self) -> Result<Entry, serde_json::Error> {
        #[derive(Serialize)]
        struct Payload<'a> {
            session_id: &'a str,
            peer: Text<'a>,
            peer_pid: Option<i32>,
            request_digest: &'a str,
            policy_name: Text<'a>,
            policy_digest: &'a str,
            policy_layers: TextList<'a, String>,
            workspace: Text<'a>,
            cwd: Text<'a>,
            env_names: TextList<'a, Vec<u8>>,
            labels: BTreeMap<&'a str, Text<'a>>,
            idle_timeout_ms: u64,
            lifetime_ms: u64,
        }
        #[derive(Serialize)]
        struct Reset<'a> {
            session_id: &'a str,
            by: Text<'a>,
            by_pid: Option<i32>,
        }
        #[derive(Serialize)]
        struct Closed<'a> {
            session_id: &'a str,
            end: &'static str,
            by: Text<'a>,
            detail: Text<'a>,
            runs: u64,
        }
        let session_id = self.session_id.as_str();
        match &self.event {
            SessionEvent::Created(created) => {
                let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                let labels: Vec<_> = created
                    .labels
                    .iter()
                    .map(|(name, value)| match is_secret_name(name.as_bytes()) {
                        true => (name.as_str(), std::borrow::Cow::Borrowed(REDACTED.as_bytes())),
                        false => (name.as_str(), redact_text(value.as_bytes())),
                    })
                    .collect();
                let payload = Payload {
                    session_id,
                    peer: Text(created.peer.as_bytes()),
                    peer_pid: created.peer_pid,
                    request_digest: &created.request_digest,
                    policy_name: Text(created.policy_name.as_bytes()),
                    policy_digest: &created.policy_digest,
                    policy_layers: TextList(&created.policy_layers),
                    workspace: Text(&created.workspace),
                    cwd: Text(&created.cwd),
                    env_names: TextList(&created.env_names),
                    labels: labels.iter().map(|(name, value)| (*name, Text(value))).collect(),
                    idle_timeout_ms: millis(created.idle_timeout),
                    lifetime_ms: millis(created.lifetime),
                };
                Entry::new("session_created", &payload)
            }
            SessionEvent::Reset { by, by_pid } => {
                let by = Text(by.as_bytes());
                let by_pid = *by_pid;
                Entry::new("session_reset", &Reset { session_id, by, by_pid })
            }
            SessionEvent::Closed { end, by, detail, runs } => Entry::new(
                "session_closed",
                &Closed {
                    session_id,
                    end,
                    by: Text(by.as_bytes()),
                    detail: Text(&redact_text(detail.as_bytes())),
                    runs: *runs,
                },
            ),
        }
    }
}
