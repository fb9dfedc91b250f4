//! Service `Approvals`, and how questions and answers go out.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::pin::Pin;
use std::sync::Arc;

use fumehood_policies::Digest;
use fumehood_proto::convert::timestamp_from_system;
use fumehood_proto::v1;
use fumehood_proto::v1::approvals_server::Approvals as Service;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::forward::{Forward, Successors};
use super::runs::peer;
use super::status::{self, Refused};
use crate::approvals::{Answer, Approvals, Change, Given, Lasting, Means, POLICY_CHANGED, Pending, Resolution};
use crate::peer::Peer;
use crate::policy::Policies;
use crate::run::Question;

/// Changes that wait for HTTP/2 flow control, per watcher; the table holds the rest.
const CHANGES: usize = 4;

/// Most bytes of a reason; the wire documents it.
const MAX_REASON_BYTES: usize = 1024;

/// The service.
#[derive(Clone, Debug)]
pub struct ApprovalsService {
    /// The questions.
    pub approvals: Approvals,
    /// The policies, to say which answers were given under one that has changed.
    pub policies: Policies,
    /// Questions of the daemon before this one.
    pub forward: Forward,
}

type Changes = Pin<Box<dyn Stream<Item = Result<v1::WatchApprovalsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Service for ApprovalsService {
    type WatchStream = Changes;

    async fn watch(&self, request: Request<v1::WatchApprovalsRequest>) -> Result<Response<Changes>, Status> {
        let peer = peer(&request)?;
        let (changes, stream) = mpsc::channel(CHANGES);
        let from_successor = request.extensions().get::<Successors>().is_some();
        let (forward, approvals) = (self.forward.clone(), self.approvals.clone());
        let (elsewhere, said) = (self.forward.clone(), changes.clone());
        let tell = async move {
            // What waits there comes before this daemon says that all was told; what changes there, as it comes.
            if let Some(mut there) = forward.watch_questions(&peer).await {
                while let Ok(Some(response)) = there.message().await {
                    if matches!(response.change, Some(v1::watch_approvals_response::Change::CaughtUp(_))) {
                        break;
                    }
                    if changes.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                tokio::spawn(tell_of_there(there, changes.clone()));
            }
            tell(approvals, peer, changes).await;
        };
        tokio::spawn(async move {
            tokio::select! {
                () = tell => {}
                () = elsewhere.moved(from_successor) => {
                    let moved = status::restarting("another daemon has taken over; watch again, and what waits is told again");
                    let _ = said.send(Err(moved)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list(
        &self,
        request: Request<v1::ListApprovalsRequest>,
    ) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        let peer = peer(&request)?;
        let pending = self.approvals.list(&peer);
        let here = pending.iter().map(|pending| self.pending(&peer, pending));
        let there = self.forward.questions(&peer).await;
        Ok(Response::new(v1::ListApprovalsResponse {
            pending: here.chain(there).collect(),
        }))
    }

    async fn resolve(
        &self,
        request: Request<v1::ResolveApprovalRequest>,
    ) -> Result<Response<v1::ResolveApprovalResponse>, Status> {
        let peer = peer(&request)?;
        let v1::ResolveApprovalRequest {
            approval_id,
            answer,
            reason,
        } = request.into_inner();
        let answer = match v1::ApprovalAnswer::try_from(answer) {
            Ok(v1::ApprovalAnswer::AllowOnce) => Answer::AllowOnce,
            Ok(v1::ApprovalAnswer::AllowSession) => Answer::AllowSession,
            Ok(v1::ApprovalAnswer::AllowAlways) => Answer::AllowAlways,
            Ok(v1::ApprovalAnswer::Deny) => Answer::Deny,
            Ok(v1::ApprovalAnswer::Unspecified) => {
                return Err(status::invalid_field(
                    "answer",
                    "missing: ALLOW_ONCE, ALLOW_SESSION, ALLOW_ALWAYS or DENY",
                ));
            }
            Err(_) => {
                return Err(status::invalid_field(
                    "answer",
                    format!("{answer} is no ApprovalAnswer"),
                ));
            }
        };
        if reason.len() > MAX_REASON_BYTES {
            return Err(status::invalid_field(
                "reason",
                format!("longer than {MAX_REASON_BYTES} bytes"),
            ));
        }
        let resolved = self.approvals.resolve(&peer, &approval_id, answer, reason).await;
        let given = resolved.map_err(Refused::from)?;
        Ok(Response::new(v1::ResolveApprovalResponse {
            rule: given.map(|given| rule(&self.approvals, &given)),
        }))
    }

    async fn list_rules(
        &self,
        request: Request<v1::ListApprovalRulesRequest>,
    ) -> Result<Response<v1::ListApprovalRulesResponse>, Status> {
        let peer = peer(&request)?;
        let given = self.approvals.rules(&peer).await;
        let mut rules: Vec<_> = given.iter().map(|given| rule(&self.approvals, given)).collect();
        let mut now: HashMap<String, Option<Digest>> = HashMap::new();
        for rule in rules.iter_mut().filter(|rule| rule.not_applied.is_empty()) {
            let digest = now
                .entry(rule.policy_name.clone())
                .or_insert_with(|| self.policies.digest_by_name(&rule.policy_name));
            if digest.is_some_and(|digest| rule.policy_digest != digest.0[..]) {
                rule.not_applied = POLICY_CHANGED.to_owned();
            }
        }
        Ok(Response::new(v1::ListApprovalRulesResponse { rules }))
    }

    async fn remove_rule(
        &self,
        request: Request<v1::RemoveApprovalRuleRequest>,
    ) -> Result<Response<v1::RemoveApprovalRuleResponse>, Status> {
        let peer = peer(&request)?;
        let removed = self.approvals.remove_rule(&peer, &request.get_ref().rule_id).await;
        removed.map_err(Refused::from)?;
        Ok(Response::new(v1::RemoveApprovalRuleResponse {}))
    }
}

impl ApprovalsService {
    fn pending(&self, peer: &Peer, pending: &Pending) -> v1::PendingApproval {
        self::pending(&self.approvals, peer, pending)
    }
}

/// Tells a watcher what changes in the daemon before this one, until that is gone or it stops listening.
async fn tell_of_there(
    mut there: tonic::Streaming<v1::WatchApprovalsResponse>,
    told: mpsc::Sender<Result<v1::WatchApprovalsResponse, Status>>,
) {
    loop {
        let response = tokio::select! {
            response = there.message() => response,
            () = told.closed() => return,
        };
        // That it has caught up again after a gap is between the two of them.
        let Ok(Some(response)) = response else { return };
        if told.send(Ok(response)).await.is_err() {
            return;
        }
    }
}

/// Tells one watcher what waits and what changes, until it stops listening.
async fn tell(approvals: Approvals, peer: Peer, told: mpsc::Sender<Result<v1::WatchApprovalsResponse, Status>>) {
    use v1::watch_approvals_response::Change as Wire;
    let say = async |change: Wire| {
        let response = v1::WatchApprovalsResponse { change: Some(change) };
        told.send(Ok(response)).await.is_ok()
    };
    loop {
        let (waiting, mut changes) = approvals.watch(&peer);
        for pending in waiting {
            if !say(Wire::Pending(self::pending(&approvals, &peer, &pending))).await {
                return;
            }
        }
        if !say(Wire::CaughtUp(v1::ApprovalsCaughtUp {})).await {
            return;
        }
        let lost = loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                () = told.closed() => return,
            };
            let change = match change {
                Ok(Change::Asked(pending)) if sees(&approvals, &peer, &pending) => {
                    Wire::Pending(self::pending(&approvals, &peer, &pending))
                }
                Ok(Change::Resolved { pending, resolution }) if sees(&approvals, &peer, &pending) => {
                    Wire::Resolved(resolved(&pending.id, &resolution))
                }
                Ok(_) => continue,
                Err(RecvError::Lagged(lost)) => break lost,
                // The daemon ends.
                Err(RecvError::Closed) => return,
            };
            if !say(change).await {
                return;
            }
        };
        if !say(Wire::Gap(v1::ApprovalsGap { lost })).await {
            return;
        }
    }
}

fn sees(approvals: &Approvals, peer: &Peer, pending: &Arc<Pending>) -> bool {
    approvals.judges().may_see(peer, &pending.asked.peer)
}

fn pending(approvals: &Approvals, peer: &Peer, pending: &Pending) -> v1::PendingApproval {
    let asked = &pending.asked;
    let not_yours = approvals.judges().identity_may_resolve(peer, asked).err();
    v1::PendingApproval {
        question: Some(requested(pending.into())),
        run_id: asked.run_id.clone(),
        peer: asked.peer.to_string(),
        policy_name: asked.policy.name.clone(),
        workspace: asked.workspace.as_os_str().as_bytes().to_vec().into(),
        cwd: asked.cwd.as_os_str().as_bytes().to_vec().into(),
        session: asked.session.clone(),
        env_names: asked.env_names.iter().map(|name| name.clone().into()).collect(),
        requested_at: Some(timestamp_from_system(pending.requested_at)),
        not_narrow: pending.not_narrow.clone(),
        not_yours: not_yours.map(|why| why.to_string()).unwrap_or_default(),
        once_only: asked.once_only().unwrap_or_default(),
        earlier: pending.earlier.clone(),
    }
}

/// A question, as an event of its run.
pub(super) fn requested(question: Question) -> v1::ApprovalRequested {
    let Question {
        approval_id,
        commands,
        rule,
        reason,
        expires_at,
    } = question;
    v1::ApprovalRequested {
        approval_id,
        commands,
        rule,
        reason,
        expires_at: Some(timestamp_from_system(expires_at)),
        default_answer: v1::ApprovalAnswer::Deny.into(),
    }
}

/// An answer, as an event of its run and for watchers.
pub(super) fn resolved(approval_id: &str, resolution: &Resolution) -> v1::ApprovalResolved {
    let Resolution {
        answer,
        means,
        by,
        reason,
        rule_ids,
    } = resolution;
    v1::ApprovalResolved {
        approval_id: approval_id.to_owned(),
        answer: self::answer(*answer).into(),
        means: self::means(*means).into(),
        by: by.clone(),
        reason: reason.clone(),
        rule_ids: rule_ids.clone(),
    }
}

fn rule(approvals: &Approvals, given: &Given) -> v1::ApprovalRule {
    let (session, expires_at) = match &given.lasting {
        Lasting::Session {
            session, expires_at, ..
        } => (session.clone(), Some(timestamp_from_system(*expires_at))),
        Lasting::Always => (String::new(), None),
    };
    let bound = given.bound.as_ref();
    v1::ApprovalRule {
        rule_id: given.id.clone(),
        answer: answer(given.answer()).into(),
        commands: given.commands.clone(),
        peer: given.peer.clone(),
        policy_name: given.policy.clone(),
        workspace: given.workspace.as_os_str().as_bytes().to_vec().into(),
        session,
        by: given.by.clone(),
        means: means(given.means).into(),
        reason: given.reason.clone(),
        // A file that people may edit holds it as text.
        given_at: given.at.parse().ok(),
        expires_at,
        cwd: bound
            .map(|bound| bound.cwd.as_os_str().as_bytes().to_vec().into())
            .unwrap_or_default(),
        policy_digest: bound.map(|bound| bound.policy.0.to_vec().into()).unwrap_or_default(),
        not_applied: approvals.not_applied(given),
    }
}

fn answer(answer: Answer) -> v1::ApprovalAnswer {
    match answer {
        Answer::Deny => v1::ApprovalAnswer::Deny,
        Answer::AllowOnce => v1::ApprovalAnswer::AllowOnce,
        Answer::AllowSession => v1::ApprovalAnswer::AllowSession,
        Answer::AllowAlways => v1::ApprovalAnswer::AllowAlways,
    }
}

fn means(means: Means) -> v1::ApprovalMeans {
    match means {
        Means::Other => v1::ApprovalMeans::Other,
        Means::Terminal => v1::ApprovalMeans::Terminal,
        Means::Own => v1::ApprovalMeans::Self_,
        Means::Earlier => v1::ApprovalMeans::Earlier,
        Means::Expired => v1::ApprovalMeans::Expired,
        Means::Withdrawn => v1::ApprovalMeans::Withdrawn,
    }
}
