//! Records about questions to people and their answers.

use std::time::SystemTime;

use serde::Serialize;

use super::record::{Entry, rfc3339};
use super::redact::redact_text;
use super::text::{Text, TextList};

/// Something about a question. Its kind is that of its event.
#[derive(Clone, Debug)]
pub struct Approval {
    /// The question; empty where an earlier answer made it unnecessary.
    pub approval_id: String,
    /// The run's id, as in its intent.
    pub run_id: String,
    /// Who asked.
    pub peer: String,
    /// The process id of who asked, when it connected; information only.
    pub peer_pid: Option<i32>,
    /// The policy that asks.
    pub policy_name: String,
    /// The run's workspace.
    pub workspace: Vec<u8>,
    /// The run's label `session`.
    pub session: String,
    /// What happened.
    pub event: ApprovalEvent,
}

/// What happened to a question.
#[derive(Clone, Debug)]
pub enum ApprovalEvent {
    /// It was asked. Kind `approval_requested`.
    Requested {
        /// When the default answer is given.
        expires_at: SystemTime,
        /// The rule that asks.
        rule: String,
        /// The commands; searched for secrets. Empty where the policy keeps command lines out of the log.
        commands: Vec<String>,
        /// Why; searched for secrets, and empty likewise.
        reason: String,
    },
    /// It was answered. Kind `approval_resolved`; `approval_applied` where an earlier answer made it unnecessary.
    Resolved {
        /// The answer.
        answer: &'static str,
        /// How it came about.
        means: &'static str,
        /// Who gave it.
        by: String,
        /// The process id of who gave it, when it connected; information only.
        by_pid: Option<i32>,
        /// Why; searched for secrets.
        reason: String,
        /// The rules made of it, or those that were applied.
        rule_ids: Vec<String>,
    },
    /// Nobody answered in time. Kind `approval_expired`.
    Expired,
    /// The run ended before. Kind `approval_withdrawn`.
    Withdrawn,
}

/// An answer that held for later runs was taken back. Kind `approval_rule_removed`.
#[derive(Clone, Debug, Serialize)]
pub struct ApprovalRuleRemoved {
    /// Which.
    pub rule_id: String,
    /// Whose runs it let pass.
    pub peer: String,
    /// Under which policy.
    pub policy_name: String,
    /// Who took it back.
    pub by: String,
    /// The process id of who did, when it connected; information only.
    pub by_pid: Option<i32>,
}

impl Approval {
    pub(super) fn entry(&self) -> Result<Entry, serde_json::Error> {
        #[derive(Serialize)]
        struct Payload<'a> {
            approval_id: &'a str,
            run_id: &'a str,
            peer: Text<'a>,
            peer_pid: Option<i32>,
            policy_name: Text<'a>,
            workspace: Text<'a>,
            session: Text<'a>,
            #[serde(flatten)]
            event: Event<'a>,
        }
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Event<'a> {
            Requested {
                expires_at: String,
                rule: Text<'a>,
                commands: TextList<'a, std::borrow::Cow<'a, [u8]>>,
                reason: Text<'a>,
            },
            Resolved {
                answer: &'static str,
                means: &'static str,
                by: Text<'a>,
                by_pid: Option<i32>,
                reason: Text<'a>,
                rule_ids: &'a [String],
            },
            Nothing {},
        }
        let (said, commands): (_, Vec<_>) = match &self.event {
            ApprovalEvent::Requested { reason, commands, .. } => (
                redact_text(reason.as_bytes()),
                commands.iter().map(|command| redact_text(command.as_bytes())).collect(),
            ),
            ApprovalEvent::Resolved { reason, .. } => (redact_text(reason.as_bytes()), Vec::new()),
            ApprovalEvent::Expired | ApprovalEvent::Withdrawn => (redact_text(b""), Vec::new()),
        };
        let (kind, event) = match &self.event {
            ApprovalEvent::Requested { expires_at, rule, .. } => (
                "approval_requested",
                Event::Requested {
                    expires_at: rfc3339((*expires_at).into()),
                    rule: Text(rule.as_bytes()),
                    commands: TextList(&commands),
                    reason: Text(&said),
                },
            ),
            ApprovalEvent::Resolved {
                answer,
                means,
                by,
                by_pid,
                reason: _,
                rule_ids,
            } => (
                if self.approval_id.is_empty() {
                    "approval_applied"
                } else {
                    "approval_resolved"
                },
                Event::Resolved {
                    answer,
                    means,
                    by: Text(by.as_bytes()),
                    by_pid: *by_pid,
                    reason: Text(&said),
                    rule_ids,
                },
            ),
            ApprovalEvent::Expired => ("approval_expired", Event::Nothing {}),
            ApprovalEvent::Withdrawn => ("approval_withdrawn", Event::Nothing {}),
        };
        Entry::new(
            kind,
            &Payload {
                approval_id: &self.approval_id,
                run_id: &self.run_id,
                peer: Text(self.peer.as_bytes()),
                peer_pid: self.peer_pid,
                policy_name: Text(self.policy_name.as_bytes()),
                workspace: Text(&self.workspace),
                session: Text(self.session.as_bytes()),
                event,
            },
        )
    }
}
