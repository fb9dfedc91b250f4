//! Answers that hold for later runs too.
//!
//! One for a session lets pass runs with the same label `session`, until the daemon ends, for [`SESSION_LIFE`] at most: the same command line,
//! or commands each of which has a narrow rule made of the ones approved. One for always has the narrow rule of its command line only, and
//! is kept in a file (`kept.rs`). Neither is taken from, or given to, a run that takes its program from its standard input.
//!
//! Both are bound to who asked, the workspace, the working directory, the environment of the command and the policy ([`Bound`]). The policy's
//! name is not enough: a request can bring one of any name, and a policy that was tightened since shall be asked again.
//!
//! At most [`MAX_RULES`] of each kind; an answer more is refused, never dropped.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fumehood_policies::Digest;
use fumehood_policies::command::{Rule, stays_in};
use tokio::time::Instant;
use uuid::Uuid;

use super::ResolveError;
use super::kept::{Kept, KeptError};
use super::model::{Answer, Asked, Means, Pending, Resolution};

/// How long an answer for a session holds at most: a working day, and the night after it.
pub const SESSION_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Answers of each kind that are kept.
pub const MAX_RULES: usize = 1024;

/// Answers that do not apply and are told with a question.
const MAX_PASSED_OVER: usize = 4;

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
    /// What else it is bound to; `None` where an older version kept it without: it lets nothing pass.
    pub bound: Option<Bound>,
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

/// What an answer is bound to beside peer, workspace and the policy's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The policy as it was, with the ceilings over it.
    pub policy: Digest,
    /// The command's environment; see [`environment_digest`](super::environment_digest).
    pub environment: Digest,
    /// The working directory, by the path that was shown to whoever answered: what is in it may change as well.
    pub cwd: PathBuf,
}

impl Bound {
    fn of(asked: &Asked) -> Bound {
        Bound {
            policy: asked.policy.digest,
            environment: asked.env_digest,
            cwd: asked.cwd.clone(),
        }
    }
}

/// Why an answer under a policy of the same name does not apply.
pub const POLICY_CHANGED: &str = "the policy has changed since";

/// Why an answer without [`Bound`] lets nothing pass.
const UNBOUND: &str = "an older version kept it without what it is bound to";

/// How long an answer holds.
#[derive(Clone, Debug)]
pub enum Lasting {
    /// For a session.
    Session {
        /// The label.
        session: String,
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

    /// Whether it is about runs of this peer, session and place under a policy of this name.
    fn concerns(&self, asked: &Asked) -> bool {
        let same = self.peer == asked.peer.to_string()
            && self.policy == asked.policy.name
            && self.workspace == asked.workspace;
        same && match &self.lasting {
            Lasting::Session { session, until, .. } => *session == asked.session && Instant::now() < *until,
            Lasting::Always => true,
        }
    }

    /// Why it does not apply to a run that it concerns; none when it does.
    fn differences(&self, asked: &Asked) -> Vec<&'static str> {
        let Some(bound) = &self.bound else {
            return vec![UNBOUND];
        };
        let now = Bound::of(asked);
        [
            (bound.policy != now.policy, POLICY_CHANGED),
            (bound.environment != now.environment, "under another environment"),
            (bound.cwd != now.cwd, "in another directory"),
        ]
        .into_iter()
        .filter_map(|(differs, why)| differs.then_some(why))
        .collect()
    }

    /// Whether it says by itself that a run may pass, where it applies.
    fn covers(&self, asked: &Asked) -> bool {
        let rules: Vec<&Rule> = self.rules.iter().collect();
        self.argv == asked.argv || covered(asked, &rules).is_some()
    }
}

/// Which rules let pass all that is asked about. A line that goes elsewhere (`cd x && git push`) is not covered: the rules were made of
/// commands in the run's own directory.
fn covered(asked: &Asked, rules: &[&Rule]) -> Option<Vec<usize>> {
    stays_in(&asked.argv, asked.cwd.as_os_str().as_bytes())
        .then(|| asked.policy.commands.covered_by(&asked.argv, rules))
        .flatten()
}

/// The answers that hold.
#[derive(Debug)]
pub(super) struct Answers {
    /// Of answers that did not apply to the last run that asked the same: why, by id. Bounded by the answers.
    passed_over: Mutex<HashMap<String, String>>,
    session: Mutex<Vec<Arc<Given>>>,
    kept: Option<Arc<Kept>>,
}

impl Answers {
    pub fn new(directory: Option<PathBuf>) -> Answers {
        Answers {
            passed_over: Mutex::default(),
            session: Mutex::default(),
            kept: directory.map(|directory| Arc::new(Kept::new(directory))),
        }
    }

    /// The answers that let a run pass, or `None` when they leave something to ask.
    pub async fn covering(&self, asked: &Asked) -> Option<Vec<Arc<Given>>> {
        if asked.program_from_input.is_some() {
            return None;
        }
        let mut all = self.all().await;
        all.retain(|given| given.concerns(asked) && given.differences(asked).is_empty());
        let covering = Self::among(all, asked)?;
        let mut passed_over = self.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
        for given in &covering {
            passed_over.remove(&given.id);
        }
        Some(covering)
    }

    fn among(all: Vec<Arc<Given>>, asked: &Asked) -> Option<Vec<Arc<Given>>> {
        if let Some(whole) = all.iter().find(|given| given.argv == asked.argv) {
            return Some(vec![Arc::clone(whole)]);
        }
        let rules: Vec<(&Rule, &Arc<Given>)> = all
            .iter()
            .flat_map(|given| given.rules.iter().map(move |rule| (rule, given)))
            .collect();
        let only: Vec<&Rule> = rules.iter().map(|(rule, _)| *rule).collect();
        let used = covered(asked, &only)?;
        let mut covering: Vec<Arc<Given>> = Vec::new();
        for index in used {
            let (_, given) = rules[index];
            if covering.iter().all(|known| known.id != given.id) {
                covering.push(Arc::clone(given));
            }
        }
        Some(covering)
    }

    /// Earlier answers to the same that do not apply, in words, at most [`MAX_PASSED_OVER`]. They are remembered for [`Answers::not_applied`].
    pub async fn passing_over(&self, asked: &Asked) -> Vec<String> {
        let mut all = self.all().await;
        all.retain(|given| given.concerns(asked));
        let mut told = Vec::new();
        let mut passed_over = self.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
        // Of those that were kept in a file and are no longer there.
        if passed_over.len() >= 2 * MAX_RULES {
            passed_over.clear();
        }
        for given in all {
            let why = given.differences(asked).join(", ");
            if why.is_empty() || !given.covers(asked) {
                continue;
            }
            if told.len() < MAX_PASSED_OVER {
                let lasting = match given.lasting {
                    Lasting::Session { .. } => "for the session",
                    Lasting::Always => "for always",
                };
                told.push(format!("allowed {lasting} by {} ({}), {why}", given.by, given.id));
            }
            passed_over.insert(given.id.clone(), why);
        }
        told
    }

    /// Why an answer lets nothing pass, or did not let the last run pass that asked the same; empty when nothing of the kind is known.
    pub fn not_applied(&self, given: &Given) -> String {
        let passed_over = self.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
        match &given.bound {
            None => UNBOUND.to_owned(),
            Some(_) => passed_over.get(&given.id).cloned().unwrap_or_default(),
        }
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
            bound: Some(Bound::of(asked)),
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
        self.passed_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
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
