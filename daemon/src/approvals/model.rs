//! What is asked and what is answered.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use fumehood_policies::{Arguments, Digest, Policy};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::judge::Seat;
use crate::audit;
use crate::peer::Peer;

/// An answer, from the one that lets the least pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Answer {
    /// The run may not start.
    Deny,
    /// This run may.
    AllowOnce,
    /// So may others of the same session.
    AllowSession,
    /// So may others, for always.
    AllowAlways,
}

impl Answer {
    /// Its name in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Answer::Deny => "deny",
            Answer::AllowOnce => "allow-once",
            Answer::AllowSession => "allow-session",
            Answer::AllowAlways => "allow-always",
        }
    }

    /// What whoever gave it did, in words.
    pub fn did(self) -> &'static str {
        match self {
            Answer::Deny => "denied it",
            Answer::AllowOnce => "allowed it once",
            Answer::AllowSession => "allowed it for the session",
            Answer::AllowAlways => "allowed it for always",
        }
    }
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Means {
    /// Another identity than the one that asked gave it.
    Other,
    /// The one that asked gave it from a terminal.
    Terminal,
    /// The one that asked gave it.
    Own,
    /// It was given earlier.
    Earlier,
    /// Nobody gave one in time.
    Expired,
    /// The run ended before.
    Withdrawn,
}

impl Means {
    /// Its name in the audit log and in the file of answers.
    pub fn name(self) -> &'static str {
        match self {
            Means::Other => "other",
            Means::Terminal => "terminal",
            Means::Own => "self",
            Means::Earlier => "earlier",
            Means::Expired => "expired",
            Means::Withdrawn => "withdrawn",
        }
    }

    /// The means of this name.
    pub fn from_name(name: &str) -> Option<Means> {
        [Means::Other, Means::Terminal, Means::Own]
            .into_iter()
            .find(|means| means.name() == name)
    }
}

/// The answer to a question, as its run and its watchers hear it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// The answer.
    pub answer: Answer,
    /// How it came about.
    pub means: Means,
    /// Who gave it; empty when nobody did.
    pub by: String,
    /// Why; may be empty.
    pub reason: String,
    /// The rules made of it, or those that were applied.
    pub rule_ids: Vec<String>,
}

impl Resolution {
    /// A "no" that nobody said.
    pub fn nobody(means: Means) -> Resolution {
        Resolution {
            answer: Answer::Deny,
            means,
            by: String::new(),
            reason: String::new(),
            rule_ids: Vec::new(),
        }
    }
}

/// What a run asks.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The run, by the id that its peer knows.
    pub run_id: String,
    /// The run, by the id in the audit log.
    pub recorded_id: String,
    /// Who asks.
    pub peer: Peer,
    /// Where the asking process sat; `None` when that could not be learnt.
    pub seat: Option<Seat>,
    /// The policy that asks.
    pub policy: Arc<Policy>,
    /// The run's workspace.
    pub workspace: PathBuf,
    /// The run's working directory.
    pub cwd: PathBuf,
    /// The run's label `session`; empty without one.
    pub session: String,
    /// The command line.
    pub argv: Vec<Vec<u8>>,
    /// Names of the variables that the request sets.
    pub env_names: Vec<Vec<u8>>,
    /// SHA-256 of all variables that the command gets: see [`environment_digest`].
    pub env_digest: Digest,
    /// The program that takes what it runs from the standard input of the run, where the request brings one: nobody has seen that.
    pub program_from_input: Option<String>,
    /// The rule that asks.
    pub rule: String,
    /// Why.
    pub reason: String,
    /// The commands that are asked about, as they were read.
    pub commands: Vec<String>,
}

impl Asked {
    /// Of the record about it, without the commands where the policy keeps command lines out of the log.
    pub(super) fn record(&self, id: &str, mut event: audit::ApprovalEvent) -> audit::Approval {
        use std::os::unix::ffi::OsStrExt as _;
        if let audit::ApprovalEvent::Requested { commands, reason, .. } = &mut event
            && self.policy.audit.arguments != Arguments::Full
        {
            // The reason quotes the command.
            commands.clear();
            reason.clear();
        }
        audit::Approval {
            approval_id: id.to_owned(),
            run_id: self.recorded_id.clone(),
            peer: self.peer.to_string(),
            peer_pid: self.peer.pid(),
            policy_name: self.policy.name.clone(),
            workspace: self.workspace.as_os_str().as_bytes().to_vec(),
            session: self.session.clone(),
            event,
        }
    }
}

impl audit::ApprovalEvent {
    /// An answer.
    pub(super) fn of(resolution: &Resolution, by_pid: Option<i32>) -> audit::ApprovalEvent {
        audit::ApprovalEvent::Resolved {
            answer: resolution.answer.name(),
            means: resolution.means.name(),
            by: resolution.by.clone(),
            by_pid,
            reason: resolution.reason.clone(),
            rule_ids: resolution.rule_ids.clone(),
        }
    }
}

impl Asked {
    /// Why it can be allowed once only; `None` when it can for later runs too.
    pub(crate) fn once_only(&self) -> Option<String> {
        let program = self.program_from_input.as_ref()?;
        Some(format!(
            "`{program}` reads its commands from standard input, which nobody has seen"
        ))
    }
}

/// Variables that describe only the terminal and the language of who sits there: they differ between two terminals of one person, and
/// change how output looks and not what runs. An answer for later runs does not look at them. `*` at the end stands for anything.
///
/// Not among them, because they name files that programs load: `TERMINFO`, `LOCPATH`, `NLSPATH`.
pub const UNBOUND_VARIABLES: &[&str] = &[
    "TERM",
    "COLUMNS",
    "LINES",
    "COLORTERM",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR*",
];

fn is_bound(name: &[u8]) -> bool {
    !UNBOUND_VARIABLES.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start.as_bytes()),
        None => name == pattern.as_bytes(),
    })
}

/// SHA-256 of the variables that a command gets, whoever set them, without [`UNBOUND_VARIABLES`]: an answer for one environment is none for
/// another, because `PATH` and its like decide what a name runs.
pub fn environment_digest(env: &BTreeMap<Vec<u8>, Vec<u8>>) -> Digest {
    let mut digest = Sha256::new();
    for (name, value) in env.iter().filter(|(name, _)| is_bound(name)) {
        // No NUL is in either.
        for part in [name, value] {
            digest.update(part);
            digest.update([0]);
        }
    }
    Digest(digest.finalize().into())
}

/// A question that waits.
#[derive(Debug)]
pub struct Pending {
    /// Its id: 8 hexadecimal digits.
    pub id: String,
    /// What is asked.
    pub asked: Asked,
    /// Since when.
    pub requested_at: SystemTime,
    /// When the default answer is given, which is "no".
    pub expires_at: SystemTime,
    /// Why "always" is refused; empty when it is not.
    pub not_narrow: String,
    /// Earlier answers to the same that do not apply, each with why.
    pub earlier: Vec<String>,
}

/// What watchers hear.
#[derive(Clone, Debug)]
pub enum Change {
    /// A question waits.
    Asked(Arc<Pending>),
    /// One no longer does.
    Resolved {
        /// Which.
        pending: Arc<Pending>,
        /// How it ended.
        resolution: Resolution,
    },
}
