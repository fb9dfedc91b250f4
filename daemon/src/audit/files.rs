//! Records about operations on files.

use serde::Serialize;

use super::record::Entry;
use super::redact::redact_text;
use super::text::{Text, TextList};

/// An operation on files, written when it is over. Kind `file`.
#[derive(Clone, Debug)]
pub struct FileOperation {
    /// Who asked.
    pub peer: String,
    /// The process id of who asked, when it connected; information only.
    pub peer_pid: Option<i32>,
    /// The policy's name.
    pub policy_name: String,
    /// The policy's digest, in hexadecimal.
    pub policy_digest: String,
    /// What the policy comes from, the request's own first, the ceilings last.
    pub policy_layers: Vec<String>,
    /// The workspace of the view.
    pub workspace: Vec<u8>,
    /// The session whose view it was; empty: a view made for it.
    pub session: String,
    /// What was done: `read`, `list`, `replace`, `create`, `append`, `mkdir`, `remove`, `rename`.
    pub operation: &'static str,
    /// To which path, as it was given.
    pub path: Vec<u8>,
    /// The new name, of a rename.
    pub to: Option<Vec<u8>>,
    /// How many bytes were read or written.
    pub bytes: Option<u64>,
    /// `done`, `denied`, `cancelled`, `failed`, or the name of an error number.
    pub outcome: String,
    /// The rule that denied it, or that protects the path.
    pub rule: Option<String>,
    /// Why, for people; searched for secrets.
    pub reason: Option<String>,
}

impl FileOperation {
    pub(super) fn entry(&self) -> Result<Entry, serde_json::Error> {
        #[derive(Serialize)]
        struct Payload<'a> {
            peer: Text<'a>,
            peer_pid: Option<i32>,
            policy_name: Text<'a>,
            policy_digest: &'a str,
            policy_layers: TextList<'a, String>,
            workspace: Text<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            session: Option<Text<'a>>,
            operation: &'static str,
            path: Text<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            to: Option<Text<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            bytes: Option<u64>,
            outcome: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            rule: Option<Text<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<Text<'a>>,
        }
        let reason = self.reason.as_ref().map(|reason| redact_text(reason.as_bytes()));
        Entry::new(
            "file",
            &Payload {
                peer: Text(self.peer.as_bytes()),
                peer_pid: self.peer_pid,
                policy_name: Text(self.policy_name.as_bytes()),
                policy_digest: &self.policy_digest,
                policy_layers: TextList(&self.policy_layers),
                workspace: Text(&self.workspace),
                session: (!self.session.is_empty()).then_some(Text(self.session.as_bytes())),
                operation: self.operation,
                path: Text(&self.path),
                to: self.to.as_ref().map(|path| Text(path)),
                bytes: self.bytes,
                outcome: &self.outcome,
                rule: self.rule.as_ref().map(|rule| Text(rule.as_bytes())),
                reason: reason.as_ref().map(|reason| Text(reason)),
            },
        )
    }
}
