//! Questions of policies that wait for people, and their answers.

use fumehood_proto::v1::watch_approvals_response::Change;
use fumehood_proto::v1::{
    ApprovalAnswer, ApprovalRule, ListApprovalRulesRequest, ListApprovalsRequest, PendingApproval,
    RemoveApprovalRuleRequest, ResolveApprovalRequest, WatchApprovalsRequest, WatchApprovalsResponse,
};
use tonic::Streaming;

use crate::client::Client;
use crate::error::Error;

impl Client {
    /// The questions that wait and that this peer may see, oldest first.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn pending_approvals(&self) -> Result<Vec<PendingApproval>, Error> {
        let answer = self.approvals.clone().list(ListApprovalsRequest {}).await?;
        Ok(answer.into_inner().pending)
    }

    /// Follows the questions: those that wait, then `caught_up`, then every change.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn watch_approvals(&self) -> Result<ApprovalChanges, Error> {
        let stream = self.approvals.clone().watch(WatchApprovalsRequest {}).await?;
        Ok(ApprovalChanges(stream.into_inner()))
    }

    /// Answers a question; `reason` is for the record and whoever asked, at most 1,024 bytes. Gives the rule that was made of an answer for a
    /// session or always.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] of the kinds `ALREADY_RESOLVED` (with by whom), `NOT_NARROW` and `ONCE_ONLY` (with why);
    /// [`Error::Denied`] where it is not this peer's to answer; [`Error::Exhausted`] where no further answers are kept.
    pub async fn resolve_approval(
        &self,
        approval_id: impl Into<String>,
        answer: ApprovalAnswer,
        reason: impl Into<String>,
    ) -> Result<Option<ApprovalRule>, Error> {
        let request = ResolveApprovalRequest {
            approval_id: approval_id.into(),
            answer: answer.into(),
            reason: reason.into(),
        };
        Ok(self.approvals.clone().resolve(request).await?.into_inner().rule)
    }

    /// What was allowed for a session or always, still holds, and this peer may see.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn approval_rules(&self) -> Result<Vec<ApprovalRule>, Error> {
        let answer = self.approvals.clone().list_rules(ListApprovalRulesRequest {}).await?;
        Ok(answer.into_inner().rules)
    }

    /// Takes such an answer back.
    ///
    /// # Errors
    /// [`Error::NotFound`] and the other refusals of a call.
    pub async fn remove_approval_rule(&self, rule_id: impl Into<String>) -> Result<(), Error> {
        let request = RemoveApprovalRuleRequest {
            rule_id: rule_id.into(),
        };
        self.approvals.clone().remove_rule(request).await?;
        Ok(())
    }
}

/// The changes of questions that are followed.
#[derive(Debug)]
pub struct ApprovalChanges(Streaming<WatchApprovalsResponse>);

impl ApprovalChanges {
    /// The next change; none when the daemon ends. Changes of a kind that this library does not know are passed over. May be dropped while
    /// it waits without losing one.
    ///
    /// # Errors
    /// [`Error::Transport`] when the connection broke, and what the daemon says otherwise.
    pub async fn next(&mut self) -> Result<Option<Change>, Error> {
        while let Some(response) = self.0.message().await? {
            if let Some(change) = response.change {
                return Ok(Some(change));
            }
        }
        Ok(None)
    }
}
