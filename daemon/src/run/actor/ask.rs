//! A run whose policy asks, until it has its answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use fumehood_policies::command::reads_program_from_input;
use fumehood_policies::{Arguments, Grants};

use super::{Actor, Outcome, Question, cancelled, failed};
use crate::approvals::{self, Answer, AskError, Asked, Seat, environment_digest};
use crate::lower;
use crate::run::model::{CancelCause, Ending, Event, Phase};

/// The label that names a session.
const SESSION: &str = "session";

/// In place of what quotes a command line that its policy keeps out of the audit log.
const LEFT_OUT: &str = "the command line is left out, as the policy's audit.arguments says";

impl Actor {
    /// Waits for the answer to a question, unless earlier ones make it unnecessary. An error is the run's end.
    pub(super) async fn approve(&mut self, question: Question) -> Result<Box<Grants>, Outcome> {
        let Question {
            rule,
            reason,
            commands,
            grants,
        } = question;
        // What the approver sees of the line is not all of it.
        let carried = self.request.session.as_ref().map(|place| place.begin.summary());
        let reason = match carried.filter(|carried| !carried.is_empty()) {
            Some(carried) => format!("{reason}; earlier lines of its session left it {carried}"),
            None => reason,
        };
        let asked = self.asked(rule.clone(), reason.clone(), commands, &grants);
        let approvals = self.surroundings.approvals.clone();
        let applied = match self.wait_for(approvals.apply(&asked)).await {
            Ok(applied) => applied.map_err(|error| audit_failed(&error))?,
            Err(kill) => return Err(Outcome::ended(kill.ending())),
        };
        if let Some(resolution) = applied {
            self.allowed_by = rule;
            self.journal.append(Event::ApprovalResolved {
                approval_id: String::new(),
                resolution,
            });
            return Ok(grants);
        }
        let snapshot = self.snapshot.clone();
        let waits = |pending: &Arc<approvals::Pending>| {
            snapshot.send_modify(|snapshot| {
                snapshot.phase = Phase::AwaitingApproval;
                snapshot.awaiting = Some(Arc::clone(pending));
            });
        };
        let mut ticket = match self.wait_for(approvals.ask_and(asked, waits)).await {
            Ok(Ok(ticket)) => ticket,
            Ok(Err(error @ AskError::Full { .. })) => {
                let explanation = format!("{error}; {reason}");
                return Err(self.deny_question("approvals.pending".to_owned(), explanation).await);
            }
            Ok(Err(AskError::Draining)) => return Err(Outcome::ended(cancelled(CancelCause::Drain))),
            Ok(Err(error @ AskError::Audit(_))) => return Err(audit_failed(&error)),
            Err(kill) => {
                self.waits_no_more();
                return Err(Outcome::ended(kill.ending()));
            }
        };
        let pending = Arc::clone(ticket.pending());
        self.journal.append(Event::ApprovalRequested(pending.as_ref().into()));
        let answered = self.wait_for(ticket.answered()).await;
        self.waits_no_more();
        let resolution = match answered {
            Ok(approvals::Outcome::Answered(resolution)) => resolution,
            Ok(approvals::Outcome::Expired) => approvals::Resolution::nobody(approvals::Means::Expired),
            Ok(approvals::Outcome::Draining) => return Err(Outcome::ended(cancelled(CancelCause::Drain))),
            Err(kill) => return Err(Outcome::ended(kill.ending())),
        };
        let explanation = match (resolution.means, resolution.reason.as_str()) {
            (approvals::Means::Expired, _) => {
                let wait = self.request.policy.approvals.wait;
                format!("nobody answered question {} within {wait:?}; {reason}", pending.id)
            }
            (_, "") => format!("{} denied it; {reason}", resolution.by),
            (_, why) => format!("{} denied it: {why}; {reason}", resolution.by),
        };
        let answer = resolution.answer;
        self.journal.append(Event::ApprovalResolved {
            approval_id: pending.id.clone(),
            resolution,
        });
        match answer {
            Answer::Deny => Err(self.deny_question(rule, explanation).await),
            Answer::AllowOnce | Answer::AllowSession | Answer::AllowAlways => {
                self.allowed_by = rule;
                Ok(grants)
            }
        }
    }

    fn waits_no_more(&self) {
        self.snapshot.send_modify(|snapshot| {
            snapshot.phase = Phase::Queued;
            snapshot.awaiting = None;
        });
    }

    fn asked(&self, rule: String, reason: String, commands: Vec<String>, grants: &Grants) -> Asked {
        let request = &self.request;
        Asked {
            run_id: request.id.clone(),
            recorded_id: request.recorded_id(),
            peer: request.peer.clone(),
            seat: Seat::of(&request.peer),
            policy: Arc::clone(&request.policy),
            workspace: request.host.workspace.clone(),
            cwd: request.host.cwd.clone(),
            session: match (request.labels.get(SESSION), &request.session) {
                (Some(label), _) => label.clone(),
                (None, Some(place)) => place.session.id().to_owned(),
                (None, None) => String::new(),
            },
            argv: request.argv.clone(),
            env_names: request.judged_env().iter().map(|(name, _)| name.clone()).collect(),
            env_digest: environment_digest(&self.surrounding(grants)),
            program_from_input: request
                .input
                .then(|| reads_program_from_input(&request.judged_argv()))
                .flatten(),
            rule,
            reason,
            commands,
        }
    }

    /// The whole environment: what the caller's says of `PATH` counts as much as what the request says. What a shell takes on of the lines
    /// before it counts too.
    fn surrounding(&self, grants: &Grants) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let request = &self.request;
        let mut env = lower::environment(&request.own_env(), grants, &request.host);
        env.retain(|name, _| !request.has_unset(name));
        if let Some(place) = &request.session
            && !place.begin.text.is_empty()
        {
            // No variable has such a name.
            env.insert(b"=text".to_vec(), place.begin.text.clone());
        }
        env
    }

    /// A denial of which the audit log gets no command line where the policy keeps that out of it.
    async fn deny_question(&mut self, rule: String, explanation: String) -> Outcome {
        let recorded = match self.request.policy.audit.arguments {
            Arguments::Full => explanation.clone(),
            Arguments::Program | Arguments::Digest => LEFT_OUT.to_owned(),
        };
        let outcome = self.deny(rule, recorded).await;
        match outcome.ending {
            Some(Ending::Denied { rule, .. }) => Outcome::ended(Ending::Denied { rule, explanation }),
            _ => outcome,
        }
    }
}

fn audit_failed(error: &AskError) -> Outcome {
    Outcome::ended(failed(None, "write the audit record", 0, error.to_string()))
}
