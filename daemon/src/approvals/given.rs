//! Answers that hold for later runs too.
//!
//! One for a session lets pass runs of the same peer, policy, workspace, label `session` and variables, until the daemon ends, for
//! [`SESSION_LIFE`] at most: the same command line, or commands each of which has a narrow rule made of the ones approved. One for always has the narrow
//! rule of its command line only, sets no variables, and is kept in a file (`kept.rs`). An answer is bound to the policy's name, not its
//! digest: what the policy denies meanwhile stays denied, what it no longer asks about needs no answer.
//!
//! At most [`MAX_RULES`] of each kind; an answer more is refused, never dropped.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fumehood_policies::command::Rule;
use tokio::time::Instant;
use uuid::Uuid;

use super::ResolveError;
use super::kept::{Kept, KeptError};
use super::model::{Answer, Asked, Means, Pending, Resolution};

/// How long an answer for a session holds at most: a working day, and the night after it.
pub const SESSION_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Answers of each kind that are kept.
pub const MAX_RULES: usize = 1024;

/// An answer that holds for later runs.
#[derive(Clone, Debug)]
pub struct Given {
    /// Its id.
    pub id: String,
    /// For how long.
    pub lasting: Lasting,
    /// Whose runs it lets pass: `uid:1000`.
    pub peer: String,
    /// Under which policy, by name.
    pub policy: String,
    /// In which workspace.
    pub workspace: PathBuf,
    /// The commands, as they were read.
    pub commands: Vec<String>,
    /// The command line that it was given for.
    pub argv: Vec<Vec<u8>>,
    /// The rules it comes to; none where a session's line has no narrow ones and is let pass as a whole only.
    pub rules: Vec<Rule>,
    /// Who gave it.
    pub by: String,
    /// How.
    pub means: Means,
    /// Why; may be empty.
    pub reason: String,
    /// When, as RFC 3339 in UTC.
    pub at: String,
}

/// How long an answer holds.
#[derive(Clone, Debug)]
pub enum Lasting {
    /// For a session.
    Session {
        /// The label.
        session: String,
        /// The variables of the request.
        env_digest: [u8; 32],
        /// When it ends at the latest, by the clock that cannot be set.
        until: Instant,
        /// The same for people.
        expires_at: SystemTime,
    },
    /// For always.
    Always,
}

impl Given {
    /// Which answer it was.
    pub fn answer(&self) -> Answer {
        match self.lasting {
            Lasting::Session { .. } => Answer::AllowSession,
            Lasting::Always => Answer::AllowAlways,
        }
    }

    /// Whether it is about such runs at all.
    fn concerns(&self, asked: &Asked) -> bool {
        let same = self.peer == asked.peer.to_string()
            && self.policy == asked.policy.name
            && self.workspace == asked.workspace;
        same && match &self.lasting {
            Lasting::Session {
                session,
                env_digest,
                until,
                expires_at: _,
            } => *session == asked.session && *env_digest == asked.env_digest && Instant::now() < *until,
            Lasting::Always => asked.env_names.is_empty(),
        }
    }
}

/// The answers that hold.
#[derive(Debug)]
pub(super) struct Answers {
    session: Mutex<Vec<Arc<Given>>>,
    kept: Option<Arc<Kept>>,
}

impl Answers {
    pub fn new(directory: Option<PathBuf>) -> Answers {
        Answers {
            session: Mutex::default(),
            kept: directory.map(|directory| Arc::new(Kept::new(directory))),
        }
    }

    /// The answers that let a run pass, or `None` when they leave something to ask.
    pub async fn covering(&self, asked: &Asked) -> Option<Vec<Arc<Given>>> {
        let mut all = self.all().await;
        all.retain(|given| given.concerns(asked));
        if let Some(whole) = all.iter().find(|given| given.argv == asked.argv) {
            return Some(vec![Arc::clone(whole)]);
        }
        let rules: Vec<(&Rule, &Arc<Given>)> = all
            .iter()
            .flat_map(|given| given.rules.iter().map(move |rule| (rule, given)))
            .collect();
        let only: Vec<&Rule> = rules.iter().map(|(rule, _)| *rule).collect();
        let used = asked.policy.commands.covered_by(&asked.argv, &only)?;
        let mut covering: Vec<Arc<Given>> = Vec::new();
        for index in used {
            let (_, given) = rules[index];
            if covering.iter().all(|known| known.id != given.id) {
                covering.push(Arc::clone(given));
            }
        }
        Some(covering)
    }

    /// All of them, those for sessions first.
    pub async fn all(&self) -> Vec<Arc<Given>> {
        let mut all = {
            let mut session = self.lock();
            session.retain(|given| !matches!(given.lasting, Lasting::Session { until, .. } if until <= Instant::now()));
            session.clone()
        };
        if let Some(kept) = &self.kept {
            let kept = Arc::clone(kept);
            match blocking(move || kept.read()).await {
                Ok(always) => all.extend(always),
                // Nothing is let pass by a file that cannot be read; the questions are asked again.
                Err(error) => tracing::error!(%error, "answers for always are not applied"),
            }
        }
        all
    }

    /// Makes an answer hold for later runs.
    pub async fn keep(&self, pending: &Pending, resolution: &Resolution) -> Result<Arc<Given>, ResolveError> {
        let asked = &pending.asked;
        let always = resolution.answer == Answer::AllowAlways;
        let lasting = match always {
            true => Lasting::Always,
            false => Lasting::Session {
                session: asked.session.clone(),
                env_digest: asked.env_digest,
                until: Instant::now() + SESSION_LIFE,
                expires_at: SystemTime::now() + SESSION_LIFE,
            },
        };
        let rules = match always {
            // It is narrow: that was looked at before.
            true => fumehood_policies::command::CommandRules::rule_for(&asked.argv)
                .map(|rule| vec![rule])
                .map_err(|error| ResolveError::NotNarrow(error.to_string()))?,
            false => asked.policy.commands.rules_for_asked(&asked.argv).unwrap_or_default(),
        };
        let given = Arc::new(Given {
            id: Uuid::now_v7().simple().to_string().split_off(20),
            lasting,
            peer: asked.peer.to_string(),
            policy: asked.policy.name.clone(),
            workspace: asked.workspace.clone(),
            commands: asked.commands.clone(),
            argv: asked.argv.clone(),
            rules,
            by: resolution.by.clone(),
            means: resolution.means,
            reason: resolution.reason.clone(),
            at: crate::audit::timestamp(SystemTime::now()),
        });
        if always {
            let kept = self.kept.clone().ok_or(KeptError::NoPlace)?;
            let added = Arc::clone(&given);
            if !blocking(move || kept.add(&added)).await? {
                return Err(ResolveError::TooManyRules);
            }
        } else {
            let mut session = self.lock();
            session.retain(|given| !matches!(given.lasting, Lasting::Session { until, .. } if until <= Instant::now()));
            if session.len() >= MAX_RULES {
                return Err(ResolveError::TooManyRules);
            }
            session.push(Arc::clone(&given));
        }
        Ok(given)
    }

    /// Takes one back; one that is not there is none the worse.
    pub async fn remove(&self, id: &str) -> Result<(), KeptError> {
        let before = {
            let mut session = self.lock();
            let before = session.len();
            session.retain(|given| given.id != id);
            before - session.len()
        };
        match &self.kept {
            Some(kept) if before == 0 => {
                let (kept, id) = (Arc::clone(kept), id.to_owned());
                blocking(move || kept.remove(&id)).await
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Given>>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work with files, away from the threads that serve.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
