//! Questions that a policy puts to people before a run may start, and their answers.
//!
//! ```text
//! approvals.rs          the table of questions that wait: asked by a run's actor, answered through the service
//! approvals/model.rs    what is asked, what is answered: plain types
//! approvals/judge.rs    who may answer
//! approvals/given.rs    answers that hold for later runs too, and which of them lets a run pass
//! approvals/kept.rs     those of them that were given for always: a file
//! ```
//!
//! # The way of a question
//!
//! A run whose policy says `ask` gives back its place among the running ones and looks for earlier answers ([`Approvals::apply`]). When those
//! do not cover everything that is asked about, it asks ([`Approvals::ask`]): the question is durable in the audit log, then it is
//! told to whoever watches. The run waits on its [`Ticket`] until somebody answers, `approvals.wait` of the policy is over (then the answer is
//! "no"), or the run is ended; dropping the ticket withdraws the question.
//!
//! An answer ([`Approvals::resolve`]) is in the audit log before the run hears of it. Of several at once one wins: it claims the question
//! under the table's lock, and the others are told whose it was.
//!
//! # Bounds
//!
//! [`MAX_PENDING`] questions wait at once, [`MAX_PENDING_OF_PEER`] of one peer. A watcher that is [`CHANGES`] changes behind loses the oldest, and
//! is told so. The last [`MAX_CLOSED`] questions are remembered, to say who answered. Bounds of answers: see `given.rs`.
//!
//! Deliberately absent: answers by more than one person, and answers kept apart by branch or time of day.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use fumehood_policies::command::CommandRules;
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

mod given;
mod judge;
mod kept;
mod model;

pub use given::{Bound, Given, Lasting, MAX_RULES, POLICY_CHANGED, SESSION_LIFE};
pub use judge::{Judges, NotYours, Seat};
pub use model::{Answer, Asked, Change, Means, Pending, Resolution, UNBOUND_VARIABLES, environment_digest};

use given::Answers;

use crate::audit::{self, AuditLog};
use crate::peer::Peer;

/// Questions that wait at once: more than people answer, and little memory.
pub const MAX_PENDING: usize = 256;

/// Of one peer: one that floods must leave room for others.
pub const MAX_PENDING_OF_PEER: usize = 32;

/// Changes that a watcher may be behind.
pub const CHANGES: usize = 256;

/// Questions that are remembered after their answer.
const MAX_CLOSED: usize = 1024;

/// Why a question cannot be asked. The run does not start.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// As many wait as may.
    #[error("{waiting} questions wait for an answer{}, as many as may: answer some, or try again later", if *.own { " to this peer" } else { "" })]
    Full {
        /// How many wait.
        waiting: usize,
        /// Whether they are all the peer's own.
        own: bool,
    },
    /// The daemon ends.
    #[error("the daemon is draining")]
    Draining,
    /// The audit log.
    #[error("the question cannot be recorded: {0}")]
    Audit(String),
}

/// Why an answer is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is none, or none that this peer may see.
    #[error(
        "there is no question {0:?}: it never was, or was forgotten by age; `fumehood approve --list` shows those that wait"
    )]
    Unknown(String),
    /// Somebody was quicker.
    #[error("question {id} does not wait any more: {how}")]
    AlreadyResolved {
        /// The question.
        id: String,
        /// How it ended, and by whom.
        how: String,
    },
    /// Not this peer's to answer.
    #[error("question {id} is not yours to answer: {source}")]
    NotYours {
        /// The question.
        id: String,
        /// Why.
        source: NotYours,
    },
    /// "Always" needs a narrow rule.
    #[error("this cannot be allowed for always: {0}; allow it once or for the session")]
    NotNarrow(String),
    /// What it runs was not seen.
    #[error(
        "this can be allowed once only: {0}; allow it once, or let it be run without input (`fumehood run --no-stdin`)"
    )]
    OnceOnly(String),
    /// As many answers are kept as may.
    #[error(
        "{MAX_RULES} such answers are kept, as many as may: `fumehood approve --rules` lists them, `fumehood approve --forget RULE` takes one back"
    )]
    TooManyRules,
    /// The file of answers for always.
    #[error("the answer cannot be kept: {0}")]
    Kept(#[from] kept::KeptError),
    /// The audit log.
    #[error("the answer cannot be recorded, and so was not given: {0}")]
    Audit(String),
}

/// Why an earlier answer is not taken back.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is none, or none that this peer may see.
    #[error("there is no answer {0:?}; `fumehood approve --rules` lists them")]
    Unknown(String),
    /// The file of answers for always.
    #[error("the answer cannot be taken back: {0}")]
    Kept(#[from] kept::KeptError),
    /// The audit log.
    #[error("that it was taken back cannot be recorded: {0}")]
    Audit(String),
}

/// How a question ended, for the run that asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody answered.
    Answered(Resolution),
    /// Nobody did in time.
    Expired,
    /// The daemon ends.
    Draining,
}

/// The table of questions; clones share it.
#[derive(Clone, Debug)]
pub struct Approvals {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    judges: Judges,
    audit: Option<AuditLog>,
    audit_required: bool,
    open: Mutex<Open>,
    answers: Answers,
    changes: broadcast::Sender<Change>,
}

#[derive(Debug, Default)]
struct Open {
    waiting: HashMap<String, Waiting>,
    closed: VecDeque<Closed>,
    draining: bool,
}

#[derive(Debug)]
struct Waiting {
    pending: Arc<Pending>,
    /// Whether it was told: before that it is being recorded.
    announced: bool,
    /// Who is answering it right now.
    claimed: Option<String>,
    answer: oneshot::Sender<Resolution>,
}

#[derive(Debug)]
struct Closed {
    id: String,
    peer: Peer,
    how: String,
}

impl Approvals {
    /// An empty table. `directory` is where answers for always are kept; `None` where there is no place for them.
    pub fn new(judges: Judges, audit: Option<AuditLog>, audit_required: bool, directory: Option<PathBuf>) -> Approvals {
        Approvals {
            shared: Arc::new(Shared {
                judges,
                audit,
                audit_required,
                open: Mutex::default(),
                answers: Answers::new(directory),
                changes: broadcast::channel(CHANGES).0,
            }),
        }
    }

    /// Which earlier answers let a run pass, recorded durably; `None` when something is left to ask.
    ///
    /// # Errors
    /// They do, and that cannot be recorded: the run must not start.
    pub async fn apply(&self, asked: &Asked) -> Result<Option<Resolution>, AskError> {
        let Some(covering) = self.shared.answers.covering(asked).await else {
            return Ok(None);
        };
        let resolution = earlier(&covering);
        self.shared
            .record("", asked, audit::ApprovalEvent::of(&resolution, None))
            .await
            .map_err(AskError::Audit)?;
        Ok(Some(resolution))
    }

    /// Asks. Returns when the question is durable and told.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, asked: Asked) -> Result<Ticket, AskError> {
        self.ask_and(asked, |_| {}).await
    }

    /// Asks; `before` is called when the question is durable and nobody has heard of it, so that whoever hears of it finds its run waiting.
    ///
    /// # Errors
    /// See [`AskError`]; `before` was not called then.
    pub async fn ask_and(&self, asked: Asked, before: impl FnOnce(&Arc<Pending>) + Send) -> Result<Ticket, AskError> {
        let earlier = self.shared.answers.passing_over(&asked).await;
        let mut ticket = self.reserve(asked, earlier)?;
        let pending = Arc::clone(&ticket.pending);
        ticket.recorded = true;
        let requested = audit::ApprovalEvent::Requested {
            expires_at: pending.expires_at,
            rule: pending.asked.rule.clone(),
            commands: pending.asked.commands.clone(),
            reason: pending.asked.reason.clone(),
        };
        self.shared
            .record(&pending.id, &pending.asked, requested)
            .await
            .map_err(AskError::Audit)?;
        before(&pending);
        {
            let mut open = self.shared.lock();
            if let Some(waiting) = open.waiting.get_mut(&pending.id) {
                waiting.announced = true;
            }
            // Under the lock, so that nobody who lists and then watches misses it or gets it twice.
            let _ = self.shared.changes.send(Change::Asked(Arc::clone(&pending)));
        }
        // An answer to the same question, given since earlier ones were looked for.
        self.shared.release(&pending).await;
        Ok(ticket)
    }

    /// Finds a place for a question.
    fn reserve(&self, asked: Asked, earlier: Vec<String>) -> Result<Ticket, AskError> {
        let mut open = self.shared.lock();
        if open.draining {
            return Err(AskError::Draining);
        }
        let same = |waiting: &&Waiting| waiting.pending.asked.peer.same_as(&asked.peer);
        let own = open.waiting.values().filter(same).count();
        if own >= MAX_PENDING_OF_PEER {
            return Err(AskError::Full {
                waiting: own,
                own: true,
            });
        }
        if open.waiting.len() >= MAX_PENDING {
            return Err(AskError::Full {
                waiting: open.waiting.len(),
                own: false,
            });
        }
        // The last digits of a version 7 id are random; so few are for people to type.
        let id = std::iter::repeat_with(|| Uuid::now_v7().simple().to_string().split_off(24))
            .find(|id| !open.waiting.contains_key(id) && open.closed.iter().all(|closed| closed.id != *id))
            .unwrap_or_default();
        let wait = asked.policy.approvals.wait;
        let requested_at = SystemTime::now();
        let not_narrow = not_narrow(&asked).err().unwrap_or_default();
        let pending = Arc::new(Pending {
            id: id.clone(),
            requested_at,
            expires_at: requested_at.checked_add(wait).unwrap_or(requested_at),
            not_narrow,
            earlier,
            asked,
        });
        let (sender, answer) = oneshot::channel();
        open.waiting.insert(
            id,
            Waiting {
                pending: Arc::clone(&pending),
                announced: false,
                claimed: None,
                answer: sender,
            },
        );
        Ok(Ticket {
            shared: Arc::clone(&self.shared),
            deadline: Instant::now() + wait,
            pending,
            answer,
            recorded: false,
        })
    }

    /// The questions that wait and that this peer may see, oldest first.
    pub fn list(&self, peer: &Peer) -> Vec<Arc<Pending>> {
        self.shared.list(&self.shared.lock(), peer)
    }

    /// The questions that wait now, and every change from now on.
    pub fn watch(&self, peer: &Peer) -> (Vec<Arc<Pending>>, broadcast::Receiver<Change>) {
        let open = self.shared.lock();
        let changes = self.shared.changes.subscribe();
        (self.shared.list(&open, peer), changes)
    }

    /// Who may see and answer what.
    pub fn judges(&self) -> &Judges {
        &self.shared.judges
    }

    /// Answers a question. Goes on when the caller does not wait for its end.
    ///
    /// # Errors
    /// See [`ResolveError`]; the question waits on, unless somebody else answered it.
    pub async fn resolve(
        &self,
        peer: &Peer,
        id: &str,
        answer: Answer,
        reason: String,
    ) -> Result<Option<Arc<Given>>, ResolveError> {
        let pending = self.find(peer, id)?;
        let means = self
            .shared
            .judges
            .may_resolve(peer, &pending.asked)
            .map_err(|source| ResolveError::NotYours {
                id: id.to_owned(),
                source,
            })?;
        if matches!(answer, Answer::AllowSession | Answer::AllowAlways)
            && let Some(why) = pending.asked.once_only()
        {
            return Err(ResolveError::OnceOnly(why));
        }
        if answer == Answer::AllowAlways {
            not_narrow(&pending.asked).map_err(ResolveError::NotNarrow)?;
        }
        self.claim(&pending, peer)?;
        let resolution = Resolution {
            answer,
            means,
            by: peer.to_string(),
            reason,
            rule_ids: Vec::new(),
        };
        let (shared, by_pid) = (Arc::clone(&self.shared), peer.pid());
        let resolved = tokio::spawn(async move {
            let given = shared.resolve(pending, resolution, by_pid).await?;
            if given.is_some() {
                shared.release_all().await;
            }
            Ok(given)
        });
        match resolved.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn find(&self, peer: &Peer, id: &str) -> Result<Arc<Pending>, ResolveError> {
        let open = self.shared.lock();
        if let Some(waiting) = open.waiting.get(id)
            && waiting.announced
            && self.shared.judges.may_see(peer, &waiting.pending.asked.peer)
        {
            return Ok(Arc::clone(&waiting.pending));
        }
        let closed = open.closed.iter().rev().find(|closed| closed.id == id);
        match closed.filter(|closed| self.shared.judges.may_see(peer, &closed.peer)) {
            Some(closed) => Err(ResolveError::AlreadyResolved {
                id: id.to_owned(),
                how: closed.how.clone(),
            }),
            None => Err(ResolveError::Unknown(id.to_owned())),
        }
    }

    fn claim(&self, pending: &Pending, peer: &Peer) -> Result<(), ResolveError> {
        let mut open = self.shared.lock();
        match open.waiting.get_mut(&pending.id) {
            Some(waiting) if waiting.claimed.is_none() => {
                waiting.claimed = Some(peer.to_string());
                Ok(())
            }
            Some(waiting) => Err(ResolveError::AlreadyResolved {
                id: pending.id.clone(),
                how: format!("{} is answering it", waiting.claimed.as_deref().unwrap_or_default()),
            }),
            // It ended since it was found.
            None => {
                drop(open);
                self.find(peer, &pending.id)
                    .and(Err(ResolveError::Unknown(pending.id.clone())))
            }
        }
    }

    /// The earlier answers that hold and that this peer may see: those for sessions, then those for always, oldest first.
    pub async fn rules(&self, peer: &Peer) -> Vec<Arc<Given>> {
        let mut rules = self.shared.answers.all().await;
        rules.retain(|given| given.peer == peer.to_string() || self.shared.judges.sees_all(peer));
        rules
    }

    /// Why an answer lets nothing pass, or did not let the last run pass that asked the same; empty when nothing of the kind is known.
    pub fn not_applied(&self, given: &Given) -> String {
        self.shared.answers.not_applied(given)
    }

    /// Takes an earlier answer back. To take back is always narrower: whoever may see it may.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove_rule(&self, peer: &Peer, rule_id: &str) -> Result<(), RemoveError> {
        let known = self.rules(peer).await.into_iter().find(|given| given.id == rule_id);
        let given = known.ok_or_else(|| RemoveError::Unknown(rule_id.to_owned()))?;
        self.shared.answers.remove(rule_id).await?;
        let record = audit::ApprovalRuleRemoved {
            rule_id: rule_id.to_owned(),
            peer: given.peer.clone(),
            policy_name: given.policy.clone(),
            by: peer.to_string(),
            by_pid: peer.pid(),
        };
        match &self.shared.audit {
            Some(audit) => match audit.approval_rule_removed(&record).await {
                Err(error) if self.shared.audit_required => Err(RemoveError::Audit(error.to_string())),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Takes no more questions. Runs that wait hear that the daemon ends.
    pub fn drain(&self) {
        let mut open = self.shared.lock();
        open.draining = true;
        // Those that are being answered right now get their answer.
        let unanswered: Vec<_> = open
            .waiting
            .values()
            .filter(|waiting| waiting.claimed.is_none())
            .collect();
        let ids: Vec<String> = unanswered
            .into_iter()
            .map(|waiting| waiting.pending.id.clone())
            .collect();
        for id in ids {
            let resolution = Resolution::nobody(Means::Withdrawn);
            drop(self.shared.close(&mut open, &id, &resolution, "the daemon ended"));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self, open: &Open, peer: &Peer) -> Vec<Arc<Pending>> {
        let announced = open.waiting.values().filter(|waiting| waiting.announced);
        let mut list: Vec<_> = announced
            .filter(|waiting| self.judges.may_see(peer, &waiting.pending.asked.peer))
            .map(|waiting| Arc::clone(&waiting.pending))
            .collect();
        list.sort_by(|a, b| (a.requested_at, &a.id).cmp(&(b.requested_at, &b.id)));
        list
    }

    /// Makes an answer that is claimed hold: keeps what is to hold for later runs, records it, tells the run.
    async fn resolve(
        &self,
        pending: Arc<Pending>,
        mut resolution: Resolution,
        by_pid: Option<i32>,
    ) -> Result<Option<Arc<Given>>, ResolveError> {
        let kept = self.keep_and_record(&pending, &mut resolution, by_pid).await;
        let mut open = self.lock();
        match kept {
            Err(error) => {
                if let Some(waiting) = open.waiting.get_mut(&pending.id) {
                    waiting.claimed = None;
                }
                Err(error)
            }
            Ok(given) => {
                let how = format!("{} {}", resolution.by, resolution.answer.did());
                if let Some(waiting) = self.close(&mut open, &pending.id, &resolution, &how) {
                    // The run may have ended meanwhile.
                    let _ = waiting.answer.send(resolution);
                }
                Ok(given)
            }
        }
    }

    /// Lets those pass that wait for what an answer for later runs covers by now.
    async fn release_all(&self) {
        let waiting: Vec<_> = self
            .lock()
            .waiting
            .values()
            .map(|waiting| Arc::clone(&waiting.pending))
            .collect();
        for pending in waiting {
            self.release(&pending).await;
        }
    }

    /// Lets the run pass if earlier answers cover its question by now and nobody is answering it.
    async fn release(&self, pending: &Pending) {
        let Some(covering) = self.answers.covering(&pending.asked).await else {
            return;
        };
        let resolution = earlier(&covering);
        match self.lock().waiting.get_mut(&pending.id) {
            Some(waiting) if waiting.announced && waiting.claimed.is_none() => {
                waiting.claimed = Some(resolution.by.clone());
            }
            _ => return,
        }
        let event = audit::ApprovalEvent::of(&resolution, None);
        let recorded = self.record(&pending.id, &pending.asked, event).await;
        let mut open = self.lock();
        if let Err(error) = recorded {
            tracing::error!(
                error,
                id = pending.id,
                "an answer that covers a question cannot be recorded"
            );
            if let Some(waiting) = open.waiting.get_mut(&pending.id) {
                waiting.claimed = None;
            }
            return;
        }
        let how = format!(
            "{} {}, in answer to the same question",
            resolution.by,
            resolution.answer.did()
        );
        if let Some(waiting) = self.close(&mut open, &pending.id, &resolution, &how) {
            let _ = waiting.answer.send(resolution);
        }
    }

    async fn keep_and_record(
        &self,
        pending: &Pending,
        resolution: &mut Resolution,
        by_pid: Option<i32>,
    ) -> Result<Option<Arc<Given>>, ResolveError> {
        let given = match resolution.answer {
            Answer::AllowOnce | Answer::Deny => None,
            Answer::AllowSession | Answer::AllowAlways => Some(self.answers.keep(pending, resolution).await?),
        };
        resolution.rule_ids.extend(given.iter().map(|given| given.id.clone()));
        let event = audit::ApprovalEvent::of(resolution, by_pid);
        if let Err(error) = self.record(&pending.id, &pending.asked, event).await {
            if let Some(given) = &given
                && let Err(error) = self.answers.remove(&given.id).await
            {
                tracing::error!(rule = given.id, %error, "an answer that could not be recorded is kept all the same");
            }
            return Err(ResolveError::Audit(error));
        }
        Ok(given)
    }

    /// Takes a question out of the table, remembers how it ended and tells watchers.
    fn close(&self, open: &mut Open, id: &str, resolution: &Resolution, how: &str) -> Option<Waiting> {
        let waiting = open.waiting.remove(id)?;
        if waiting.announced {
            if open.closed.len() == MAX_CLOSED {
                open.closed.pop_front();
            }
            open.closed.push_back(Closed {
                id: id.to_owned(),
                peer: waiting.pending.asked.peer.clone(),
                how: how.to_owned(),
            });
            let _ = self.changes.send(Change::Resolved {
                pending: Arc::clone(&waiting.pending),
                resolution: resolution.clone(),
            });
        }
        Some(waiting)
    }

    /// Takes a question whose time is over out of the table. False when it is being answered, or was.
    fn expire(&self, id: &str) -> bool {
        let mut open = self.lock();
        let free = open.waiting.get(id).is_some_and(|waiting| waiting.claimed.is_none());
        if free {
            let resolution = Resolution::nobody(Means::Expired);
            drop(self.close(&mut open, id, &resolution, "nobody answered in time, and it was denied"));
        }
        free
    }

    /// Writes down something about a question; durable when it returns. Without a log that is required, nothing can go wrong.
    async fn record(&self, id: &str, asked: &Asked, event: audit::ApprovalEvent) -> Result<(), String> {
        let Some(log) = &self.audit else { return Ok(()) };
        let written = log.approval(&asked.record(id, event)).await;
        match written {
            Err(error) if self.audit_required => Err(crate::telemetry::chain(&error)),
            Err(error) => {
                tracing::error!(%error, "a question or its answer is not in the audit log, and the configuration does not require it");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }
}

/// What earlier answers come to.
fn earlier(covering: &[Arc<Given>]) -> Resolution {
    let answers = covering.iter().map(|given| given.answer());
    let first = covering.first();
    Resolution {
        answer: answers.max().unwrap_or(Answer::AllowOnce),
        means: Means::Earlier,
        by: first.map(|given| given.by.clone()).unwrap_or_default(),
        reason: first.map(|given| given.reason.clone()).unwrap_or_default(),
        rule_ids: covering.iter().map(|given| given.id.clone()).collect(),
    }
}

/// Why there is no narrow rule for what was asked.
fn not_narrow(asked: &Asked) -> Result<(), String> {
    if let Some(why) = asked.once_only() {
        return Err(why);
    }
    if !asked.env_names.is_empty() {
        return Err("the request sets variables, which a rule cannot say".to_owned());
    }
    if asked.workspace.to_str().is_none() || asked.cwd.to_str().is_none() {
        return Err(
            "the path of the workspace or of the working directory is no text, which the file of answers cannot hold"
                .to_owned(),
        );
    }
    let rule = CommandRules::rule_for(&asked.argv).map_err(|error| error.to_string())?;
    match asked.policy.commands.covered_by(&asked.argv, &[&rule]) {
        Some(_) => Ok(()),
        None => Err("a rule for this command would not cover all that is asked about".to_owned()),
    }
}

/// A question that waits, in the hands of the run that asked. Dropping it withdraws the question.
#[derive(Debug)]
pub struct Ticket {
    shared: Arc<Shared>,
    pending: Arc<Pending>,
    deadline: Instant,
    answer: oneshot::Receiver<Resolution>,
    /// Whether the audit log may have the question, and so wants its end.
    recorded: bool,
}

impl Ticket {
    /// The question.
    pub fn pending(&self) -> &Arc<Pending> {
        &self.pending
    }

    /// Waits for the answer, or for the time to be over, which is recorded then. To be called until it has returned once.
    pub async fn answered(&mut self) -> Outcome {
        let expired = tokio::select! {
            biased;
            answer = &mut self.answer => return self.ended(answer),
            () = tokio::time::sleep_until(self.deadline) => self.shared.expire(&self.pending.id),
        };
        if !expired {
            // It is being answered just now.
            let answer = (&mut self.answer).await;
            return self.ended(answer);
        }
        self.recorded = false;
        let event = audit::ApprovalEvent::Expired;
        if let Err(error) = self.shared.record(&self.pending.id, &self.pending.asked, event).await {
            // It ends as a denial, which is recorded too.
            tracing::error!(error, "that a question expired is not in the audit log");
        }
        Outcome::Expired
    }

    fn ended(&mut self, answer: Result<Resolution, oneshot::error::RecvError>) -> Outcome {
        match answer {
            Ok(resolution) => {
                self.recorded = false;
                Outcome::Answered(resolution)
            }
            Err(_) => Outcome::Draining,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.shared.lock();
        let resolution = Resolution::nobody(Means::Withdrawn);
        let claimed = open
            .waiting
            .get(&self.pending.id)
            .is_some_and(|waiting| waiting.claimed.is_some());
        // Who is answering it finishes that: the answer may hold for later runs.
        if !claimed {
            drop(self.shared.close(
                &mut open,
                &self.pending.id,
                &resolution,
                "the run ended before it was answered",
            ));
        }
        drop(open);
        if !self.recorded || claimed {
            return;
        }
        let (shared, pending) = (Arc::clone(&self.shared), Arc::clone(&self.pending));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let event = audit::ApprovalEvent::Withdrawn;
                if let Err(error) = shared.record(&pending.id, &pending.asked, event).await {
                    tracing::error!(error, "that a question was withdrawn is not in the audit log");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
