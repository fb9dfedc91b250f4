//! What a session is made of, where it is in its life, and why it ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fumehood_policies::{Grants, Policy, RequestedLimits};

use super::shell::Shell;
use crate::peer::Peer;
use crate::run::{Ending, Enforcement, Host};

/// A request for a session, checked at the door, with what its policy gives.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// Its id, chosen by the client or by the door.
    pub id: String,
    /// SHA-256 of the request as the wire carried it.
    pub digest: [u8; 32],
    /// Who asks.
    pub peer: Peer,
    /// As whom and where; `cwd` is the first working directory.
    pub host: Host,
    /// The policy that decides about every run in it.
    pub policy: Arc<Policy>,
    /// What it comes from; see [`Choice`](crate::policy::Choice).
    pub layers: Vec<String>,
    /// What the project's file states and was not given, in words.
    pub not_given: Vec<String>,
    /// What the policy gives, whatever is run.
    pub grants: Arc<Grants>,
    /// Bounds tighter than the policy's: of the session, and of each run that names none.
    pub limits: RequestedLimits,
    /// What the policy may pass on of the caller's environment.
    pub caller_env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Variables that every run gets.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Free text of the caller's.
    pub labels: BTreeMap<String, String>,
    /// Permission bits that new files do not get.
    pub umask: u32,
    /// What runs lines.
    pub shell: Shell,
    /// How long it lives without a run.
    pub idle_timeout: Duration,
    /// How long it lives.
    pub lifetime: Duration,
}

impl SessionRequest {
    /// The id in the audit log; see [`Request::recorded_id`](crate::run::Request::recorded_id).
    pub fn recorded_id(&self) -> String {
        self.peer.recorded(&self.id)
    }
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionPhase {
    /// Its sandbox is being made.
    Starting,
    /// It takes runs.
    Open,
    /// Its sandbox is being ended.
    Closing,
    /// Nothing of it exists any more.
    Closed,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// Somebody asked for it.
    Closed,
    /// It was not used.
    Idle,
    /// It lived for as long as it may.
    Lifetime,
    /// It took more memory or disk than it may.
    Limit,
    /// The daemon ended.
    Drain,
    /// Its sandbox was lost, or could not be made.
    Lost,
}

impl SessionEnd {
    /// Its name in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            SessionEnd::Closed => "closed",
            SessionEnd::Idle => "idle",
            SessionEnd::Lifetime => "lifetime",
            SessionEnd::Limit => "limit",
            SessionEnd::Drain => "drain",
            SessionEnd::Lost => "lost",
        }
    }
}

/// The end of a session: why, who, and more for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub end: SessionEnd,
    /// Who asked; empty: nobody did.
    pub by: String,
    /// More about that.
    pub detail: String,
}

impl Ended {
    /// What that is to a run that was in it.
    pub fn of_run(&self) -> Ending {
        match self.end {
            SessionEnd::Lost => Ending::Lost {
                why: self.detail.clone(),
            },
            _ => Ending::Cancelled {
                cause: crate::run::CancelCause::Session,
                by: self.by.clone(),
                reason: self.detail.clone(),
            },
        }
    }
}

/// What is known of a session at a moment.
#[derive(Clone, Debug)]
pub struct SessionSnapshot {
    /// Where it is.
    pub phase: SessionPhase,
    /// Why it ended, once that is known.
    pub ended: Option<Ended>,
    /// When it was closed.
    pub closed_at: Option<SystemTime>,
    /// The state of every protection; empty before it was open.
    pub enforcement: Arc<[Enforcement]>,
    /// How often it was reset.
    pub resets: u32,
}

/// Who is in a session.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    /// Runs that are not finished.
    pub active: u32,
    /// Runs there were, those included.
    pub total: u64,
    /// When one last began or ended.
    pub used: Instant,
    /// The same by the clock.
    pub used_at: SystemTime,
}

/// A request to end a session.
#[derive(Clone, Debug)]
pub struct Close {
    /// Why, and who asks.
    pub ended: Ended,
    /// From the stop signal to SIGKILL.
    pub grace: Duration,
}
