//! Where a request wants to run, and under what: its directories, its policy, its session; and requests for sessions.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fumehood_policies::{Policy, RequestedLimits, Tool};
use fumehood_proto::convert::duration_to_std;
use fumehood_proto::v1;
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::request::{
    DEFAULT_UMASK, Door, MAX_NOT_GIVEN, Violations, check_env, check_id, check_labels, check_limits, check_path,
    check_umask, variable_problem,
};
use super::status;
use crate::launch::Launching;
use crate::lower::{self, Reach};
use crate::peer::Peer;
use crate::run::{Host, InSession, prepare};
use crate::session::{Session, SessionRequest, Shell};
use crate::telemetry;

/// How long a session lives without a run when its request does not say, and how long in all; the wire documents them.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The bounds of both; the wire documents them.
const MIN_TIME: Duration = Duration::from_secs(1);
const MAX_TIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Variables of a caller or of an environment.
type Variables = Vec<(Vec<u8>, Vec<u8>)>;

/// Where a request wants to run.
pub(super) struct Place {
    pub host: Host,
    pub policy: Arc<Policy>,
    /// The policy without the ceilings over it.
    pub own: Arc<Policy>,
    pub layers: Vec<String>,
    pub not_given: Vec<String>,
    /// The caller's environment.
    pub caller_env: Variables,
    pub session: Option<InSession>,
}

impl Place {
    /// In a session, where the lines before have gone, or in the directory that is named.
    pub fn within(session: Arc<Session>, cwd: &Path) -> Place {
        let request = &session.request;
        let begin = session.carried();
        let cwd_named = !cwd.as_os_str().is_empty();
        let mut host = request.host.clone();
        if cwd_named {
            // Of an absolute one, only that stays.
            host.cwd = host.workspace.join(cwd);
        } else if let Some(cwd) = &begin.cwd {
            host.cwd = cwd.clone();
        }
        Place {
            host,
            policy: Arc::clone(&request.policy),
            own: Arc::clone(&request.policy),
            layers: request.layers.clone(),
            not_given: request.not_given.clone(),
            caller_env: request.caller_env.clone(),
            session: Some(InSession {
                session,
                begin,
                cwd_named,
                dropped: Vec::new(),
            }),
        }
    }

    /// What reads lines there. Looks at the machine's shells.
    pub fn shell(&self) -> Shell {
        if let Some(place) = &self.session {
            return place.session.request.shell.clone();
        }
        let nothing = fumehood_policies::Request {
            tool: Tool::Shell,
            argv: &[],
            caller_env: &[],
            env: &[],
            limits: RequestedLimits::default(),
        };
        match self.policy.grants(&nothing) {
            Ok(grants) => shell(&grants, &self.host),
            // It will be denied all the same.
            Err(_) => Shell::choose(|_| false),
        }
    }
}

fn shell(grants: &fumehood_policies::Grants, host: &Host) -> Shell {
    Shell::choose(|path| {
        !matches!(
            lower::reach(path, grants, host),
            Reach::Hidden { .. } | Reach::Absent { .. }
        )
    })
}

impl Door {
    /// A place of a request's own. `None`: something about it is wrong, and was noted.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn place(
        &self,
        wrong: &mut Violations,
        peer: &Peer,
        workspace: &[u8],
        cwd: &Path,
        caller_env: Vec<v1::EnvironmentVariable>,
        labels: &BTreeMap<String, String>,
        policy: Option<v1::PolicyReference>,
    ) -> Result<Option<Place>, Status> {
        // Candidates only: what could not be a variable is passed over, and what the policy does not pass is dropped later.
        let caller_env: Variables = caller_env
            .into_iter()
            .filter(|variable| variable_problem(variable).is_none())
            .map(|variable| (variable.name.to_vec(), variable.value.to_vec()))
            .collect();
        let host = self.host(peer, workspace, cwd, &caller_env);
        let host = wrong.take("spec.workspace", host.map(Some));
        let choice = self.policy(wrong, "spec", peer, labels, host.as_ref(), policy)?;
        Ok(host.zip(choice).map(|(host, choice)| Place {
            host,
            policy: choice.policy,
            own: choice.own,
            layers: choice.layers,
            not_given: status::widenings(&choice.not_given, MAX_NOT_GIVEN),
            caller_env,
            session: None,
        }))
    }

    /// Checks a request for a session, and finds what its policy gives it on this machine.
    pub(super) async fn check_session(
        &self,
        peer: &Peer,
        launching: &Launching,
        create: v1::CreateSessionRequest,
    ) -> Result<SessionRequest, Status> {
        let check = move |door: &Door, peer: &Peer| door.check_session_blocking(peer, create);
        let mut request = self.blocking(peer, check).await?;
        let grants = Box::new((*request.grants).clone());
        let refusal = match prepare::find_all(grants, &mut request.host, launching).await {
            Err(error) => Some((error.rule(), telemetry::chain(&error).to_string())),
            Ok(grants) => prepare::shows_hidden(&request.policy.name, &grants, &request.host),
        };
        match refusal {
            None => Ok(request),
            Some((rule, why)) => self.note_refusal(peer, Err(status::denied(rule, why))).await,
        }
    }

    pub(super) fn check_session_blocking(
        &self,
        peer: &Peer,
        create: v1::CreateSessionRequest,
    ) -> Result<SessionRequest, Status> {
        let digest = session_digest(&create);
        let v1::CreateSessionRequest { session_id, spec } = create;
        let Some(spec) = spec else {
            return Err(status::invalid_field(
                "spec",
                "missing; it says what the session is made of",
            ));
        };
        // Every field is named: one that is added to the wire and forgotten here does not compile.
        let v1::SessionSpec {
            workspace,
            cwd,
            policy,
            caller_env,
            env,
            limits,
            labels,
            umask,
            idle_timeout,
            lifetime,
        } = spec;
        for (field, variables) in [("spec.env", &env), ("spec.caller_env", &caller_env)] {
            check_size(field, variables)?;
        }
        let mut wrong = Violations::default();
        let id = wrong.take("session_id", check_id(session_id));
        let env = check_env(&mut wrong, env);
        let limits = check_limits(&mut wrong, limits);
        let cwd = wrong.take("spec.cwd", check_path(&cwd));
        let place = self.place(&mut wrong, peer, &workspace, &cwd, caller_env, &labels, policy)?;
        check_labels(&mut wrong, &labels);
        check_umask(&mut wrong, umask);
        let idle_timeout = check_time(&mut wrong, "spec.idle_timeout", idle_timeout, IDLE_TIMEOUT);
        let lifetime = check_time(&mut wrong, "spec.lifetime", lifetime, LIFETIME);
        let Some(place) = place.filter(|_| wrong.0.is_empty()) else {
            return Err(status::invalid(wrong.0));
        };
        let asked = fumehood_policies::Request {
            tool: Tool::Shell,
            argv: &[],
            caller_env: &place.caller_env,
            env: &env,
            limits,
        };
        let grants = place.policy.grants(&asked).map_err(|denial| {
            let above = prepare::standing_under(&place.layers);
            status::denied(&denial.rule, denial.explanation + &above)
        })?;
        let shell = shell(&grants, &place.host);
        let Place {
            host,
            policy,
            layers,
            not_given,
            mut caller_env,
            ..
        } = place;
        // Nothing of the rest stays in memory.
        caller_env.retain(|(name, _)| policy.environment.passes(name));
        Ok(SessionRequest {
            id,
            digest,
            peer: peer.clone(),
            host,
            policy,
            layers,
            not_given,
            grants: Arc::from(grants),
            limits,
            caller_env,
            env,
            labels,
            umask: umask.unwrap_or(DEFAULT_UMASK),
            shell,
            idle_timeout,
            lifetime,
        })
    }
}

/// The digest by which a repeated request is known; see [`Door::check`].
pub(super) fn session_digest(create: &v1::CreateSessionRequest) -> [u8; 32] {
    let mut asked = create.clone();
    if let Some(spec) = &mut asked.spec {
        spec.caller_env.clear();
    }
    Sha256::digest(asked.encode_to_vec()).into()
}

/// Most bytes of the variables of a session, of each kind: what a command takes at most.
const MAX_VARIABLES_BYTES: usize = 2_097_152;

fn check_size(field: &str, variables: &[v1::EnvironmentVariable]) -> Result<(), Status> {
    let bytes = |text: &Bytes| text.len() + 1 + size_of::<usize>();
    let total: usize = variables.iter().map(|one| bytes(&one.name) + one.value.len()).sum();
    match total > MAX_VARIABLES_BYTES {
        true => Err(status::invalid_field(
            field,
            format!("takes more than {MAX_VARIABLES_BYTES} bytes"),
        )),
        false => Ok(()),
    }
}

fn check_time(wrong: &mut Violations, field: &str, value: Option<prost_types::Duration>, usual: Duration) -> Duration {
    match value.map(|value| duration_to_std(&value)).transpose() {
        Ok(Some(time)) if !(MIN_TIME..=MAX_TIME).contains(&time) => {
            wrong.add(field, "not between 1 second and 7 days");
            usual
        }
        Ok(time) => time.unwrap_or(usual),
        Err(error) => {
            wrong.add(field, error.to_string());
            usual
        }
    }
}
