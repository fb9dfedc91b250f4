//! Service `Policies`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use fumehood_proto::v1;
use fumehood_proto::v1::policies_server::Policies;
use tonic::{Request, Response, Status};

use super::runs::peer;
use super::{explain, status};
use crate::audit::{self, AuditLog};
use crate::peer::Peer;
use crate::policy::{self, Examined, Ignored, Stored, Trusted};
use crate::telemetry::chain;

/// Longest path of a policy file, in bytes.
const MAX_PATH_BYTES: usize = 4095;
/// Entries of `ExaminePolicyResponse.widenings`.
const MAX_WIDENINGS: usize = 256;

/// The service.
#[derive(Clone, Debug)]
pub struct PoliciesService {
    /// The policies.
    pub policies: policy::Policies,
    /// Where changes are written down.
    pub audit: Option<AuditLog>,
    /// Whether a change that cannot be written down may not be made.
    pub audit_required: bool,
    /// The daemon's user.
    pub uid: u32,
    /// Places of the daemon's own: as of [`Door`](super::Door).
    pub private: Arc<[PathBuf]>,
}

impl PoliciesService {
    /// Whether a peer is the daemon's own user, or root, at the Unix socket.
    fn keeps(&self, peer: &Peer) -> bool {
        peer.is_user(0) || peer.is_user(self.uid)
    }

    /// The daemon's own user, or root, at the Unix socket: who decides what is trusted.
    fn keeper<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let peer = peer(request)?;
        match self.keeps(&peer) {
            true => Ok(peer),
            false => {
                let message = format!(
                    "{peer} may not do this: trust is given by the daemon's own user (uid {}) or root, over the Unix socket",
                    self.uid
                );
                Err(status::permission("NOT_THE_DAEMONS_USER", message))
            }
        }
    }

    /// Writes a change down before it is made.
    async fn record(&self, change: &audit::PolicyChange) -> Result<(), Status> {
        let written = match &self.audit {
            Some(audit) => audit
                .policy_change(change)
                .await
                .map(drop)
                .map_err(|error| chain(&error)),
            None => Ok(()),
        };
        match written {
            Err(error) if self.audit_required => {
                let message = format!("the audit log cannot be written, and nothing was changed: {error}");
                Err(status::unavailable("AUDIT", message))
            }
            Err(error) => {
                tracing::error!(error, "a change of policies is not in the audit log");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Whether a peer may look at a policy.
    fn may_see(&self, peer: &Peer, name: &str) -> Result<bool, Status> {
        let seen = self.policies.may_see(peer, name);
        seen.map_err(|refusal| status::refused_policy(&refusal))
    }

    async fn examined(&self, peer: &Peer, path: PathBuf) -> Result<Examined, Status> {
        let (policies, peer) = (self.policies.clone(), peer.clone());
        blocking(move || policies.examine(&peer, &path))
            .await?
            .map_err(|refusal| status::refused_policy(&refusal))
    }

    /// Reads the policies again for `by`, and writes down what came of it.
    ///
    /// # Errors
    /// Why what was there stays.
    pub async fn read_again(&self, by: &str) -> Result<policy::Changes, Status> {
        let policies = self.policies.clone();
        let read = blocking(move || policies.reload()).await?;
        let mut change = (Vec::new(), Vec::new(), Vec::new(), None);
        match &read {
            Ok(changes) => {
                change = (
                    changes.added.clone(),
                    changes.removed.clone(),
                    changes.changed.clone(),
                    None,
                );
                let (added, removed, changed) = (change.0.len(), change.1.len(), change.2.len());
                tracing::info!(by, added, removed, changed, "the policies were read again");
            }
            Err(error) => {
                let error = chain(error);
                tracing::error!(
                    by,
                    error,
                    "the policies were not read again; those that were there stay"
                );
                change.3 = Some(error);
            }
        }
        let (added, removed, changed, error) = change;
        let record = audit::PolicyChange::Reloaded {
            by: by.to_owned(),
            added,
            removed,
            changed,
            error: error.clone(),
        };
        self.record(&record).await?;
        read.map_err(|_| {
            let error = error.unwrap_or_default();
            let what = format!("the policies that were there stay: {error}");
            status::policy_precondition("POLICIES_WRONG", "policies", what)
        })
    }
}

#[tonic::async_trait]
impl Policies for PoliciesService {
    async fn list(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let peer = peer(&request)?;
        let store = self.policies.current();
        let mut policies = Vec::new();
        for (stored, is_default) in store.all() {
            if self.may_see(&peer, &stored.policy.name)? {
                policies.push(summary(stored, is_default));
            }
        }
        // Paths of files are nothing that others need.
        let without_effect = store.ignored().iter().filter(|_| self.keeps(&peer));
        Ok(Response::new(v1::ListPoliciesResponse {
            policies,
            ignored: without_effect.map(ignored).collect(),
        }))
    }

    async fn get(&self, request: Request<v1::GetPolicyRequest>) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let peer = peer(&request)?;
        let name = &request.get_ref().name;
        let store = self.policies.current();
        let found = match store.get(name) {
            Some(stored) if self.may_see(&peer, &stored.policy.name)? => Some(stored),
            _ => None,
        };
        let Some(stored) = found else {
            let mut known = Vec::new();
            for (stored, _) in store.all() {
                if self.may_see(&peer, &stored.policy.name)? {
                    known.push(stored.policy.name.as_str());
                }
            }
            return Err(status::no_such_policy(name, &known.join(", ")));
        };
        let is_default = store.is_default(&stored.policy.name);
        Ok(Response::new(v1::GetPolicyResponse {
            summary: Some(summary(stored, is_default)),
            toml: stored.text.to_string(),
        }))
    }

    async fn reload(
        &self,
        request: Request<v1::ReloadPoliciesRequest>,
    ) -> Result<Response<v1::ReloadPoliciesResponse>, Status> {
        let peer = self.keeper(&request)?;
        let policy::Changes {
            added,
            removed,
            changed,
            ignored: without_effect,
        } = self.read_again(&peer.to_string()).await?;
        Ok(Response::new(v1::ReloadPoliciesResponse {
            added,
            removed,
            changed,
            ignored: without_effect.iter().map(ignored).collect(),
        }))
    }

    async fn examine(
        &self,
        request: Request<v1::ExaminePolicyRequest>,
    ) -> Result<Response<v1::ExaminePolicyResponse>, Status> {
        let peer = self.keeper(&request)?;
        let examined = self.examined(&peer, path(&request.get_ref().path)?).await?;
        let widenings = status::widenings(&examined.widenings, MAX_WIDENINGS);
        Ok(Response::new(v1::ExaminePolicyResponse {
            path: request.get_ref().path.clone(),
            name: examined.outside.policy.name.clone(),
            policy_digest: examined.outside.policy.digest.0.to_vec().into(),
            file_digest: examined.outside.file_digest.to_vec().into(),
            trusted: examined.trusted,
            changed: examined.changed,
            widenings,
            base: examined.base,
            ceilings: examined.ceilings,
        }))
    }

    async fn trust(
        &self,
        request: Request<v1::TrustPolicyRequest>,
    ) -> Result<Response<v1::TrustPolicyResponse>, Status> {
        let peer = self.keeper(&request)?;
        let v1::TrustPolicyRequest {
            path: named,
            policy_digest,
            file_digest,
        } = request.into_inner();
        let path = path(&named)?;
        // JSON is text: the list could not hold it.
        let Some(shown) = path.to_str().map(str::to_owned) else {
            return Err(status::invalid_field(
                "path",
                "not UTF-8; rename the directory to trust a file in it",
            ));
        };
        let examined = self.examined(&peer, path).await?;
        let outside = &examined.outside;
        if outside.policy.digest.0[..] != policy_digest[..] || outside.file_digest[..] != file_digest[..] {
            let what = "it is not what was examined: look at it again before trusting it";
            return Err(status::policy_precondition(
                "CHANGED",
                &shown,
                format!("{shown}: {what}"),
            ));
        }
        let entry = outside.trusted_now(&peer.to_string());
        let widenings = examined.widenings.iter().take(MAX_WIDENINGS).map(status::widening);
        self.record(&audit::PolicyChange::Trusted(audit::TrustedFile {
            by: entry.by.clone(),
            path: named.to_vec(),
            policy_name: entry.name.clone(),
            policy_digest: entry.policy_digest.clone(),
            file_digest: entry.file_digest.clone(),
            widenings: widenings.collect(),
        }))
        .await?;
        let (trust, kept) = (self.policies.trust().clone(), entry.clone());
        blocking(move || trust.trust(kept))
            .await?
            .map_err(|error| no_list(&error))?;
        let trusted = trusted_file(&entry, Some((&policy_digest, &file_digest)));
        Ok(Response::new(v1::TrustPolicyResponse { trusted: Some(trusted) }))
    }

    async fn untrust(
        &self,
        request: Request<v1::UntrustPolicyRequest>,
    ) -> Result<Response<v1::UntrustPolicyResponse>, Status> {
        let peer = self.keeper(&request)?;
        let path = path(&request.get_ref().path)?;
        let trust = self.policies.trust().clone();
        let known = trust.list().map_err(|error| no_list(&error))?;
        if !known.iter().any(|entry| entry.path == path) {
            return Err(status::not_trusted(&path.display().to_string()));
        }
        self.record(&audit::PolicyChange::Untrusted {
            by: peer.to_string(),
            path: request.get_ref().path.to_vec(),
        })
        .await?;
        blocking(move || trust.untrust(&path))
            .await?
            .map_err(|error| no_list(&error))?;
        Ok(Response::new(v1::UntrustPolicyResponse {}))
    }

    async fn list_trusted(
        &self,
        request: Request<v1::ListTrustedRequest>,
    ) -> Result<Response<v1::ListTrustedResponse>, Status> {
        let peer = self.keeper(&request)?;
        let policies = self.policies.clone();
        let files = blocking(move || {
            let entries = policies.trust().list()?;
            let now = |entry: &Trusted| {
                let examined = policies.examine(&peer, &entry.path).ok()?;
                Some((examined.outside.policy.digest.0, examined.outside.file_digest))
            };
            let file = |entry: &Trusted| match now(entry) {
                Some((policy, file)) => trusted_file(entry, Some((&policy[..], &file[..]))),
                None => trusted_file(entry, None),
            };
            Ok::<_, policy::TrustError>(entries.iter().map(file).collect())
        });
        let files = files.await?.map_err(|error| no_list(&error))?;
        Ok(Response::new(v1::ListTrustedResponse { files }))
    }

    async fn check(
        &self,
        request: Request<v1::CheckPolicyRequest>,
    ) -> Result<Response<v1::CheckPolicyResponse>, Status> {
        let peer = peer(&request)?;
        self.may_see(&peer, "")?;
        Ok(Response::new(explain::check(
            &self.policies.current(),
            request.get_ref(),
        )))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainPolicyRequest>,
    ) -> Result<Response<v1::ExplainPolicyResponse>, Status> {
        let peer = peer(&request)?;
        let (policies, private) = (self.policies.clone(), Arc::clone(&self.private));
        let explained = blocking(move || explain::explain(&policies, &private, &peer, request.into_inner()));
        Ok(Response::new(explained.await??))
    }
}

/// What looks at files, where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Status::internal(format!("the policies could not be looked at: {error}")))
}

fn no_list(error: &policy::TrustError) -> Status {
    status::unavailable("NO_TRUST", chain(error))
}

fn path(bytes: &[u8]) -> Result<PathBuf, Status> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    match bytes.len() <= MAX_PATH_BYTES && !bytes.contains(&0) && path.is_absolute() && path.components().all(plain) {
        true => Ok(path.to_owned()),
        false => Err(status::invalid_field(
            "path",
            format!("not an absolute path without `..`, of at most {MAX_PATH_BYTES} bytes"),
        )),
    }
}

fn trusted_file(entry: &Trusted, now: Option<(&[u8], &[u8])>) -> v1::TrustedFile {
    let bytes = |hex: &str| -> Vec<u8> {
        let digits = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        (0..hex.len()).step_by(2).map_while(digits).collect()
    };
    let (policy, file) = (bytes(&entry.policy_digest), bytes(&entry.file_digest));
    v1::TrustedFile {
        path: entry.path.as_os_str().as_bytes().to_vec().into(),
        name: entry.name.clone(),
        current: now.is_some_and(|now| now == (&policy[..], &file[..])),
        policy_digest: policy.into(),
        file_digest: file.into(),
        at: entry.at.clone(),
        by: entry.by.clone(),
    }
}

fn ignored(Ignored { path, reason }: &Ignored) -> v1::IgnoredPolicy {
    v1::IgnoredPolicy {
        path: path.display().to_string(),
        reason: reason.clone(),
    }
}

fn summary(stored: &Stored, is_default: bool) -> v1::PolicySummary {
    v1::PolicySummary {
        name: stored.policy.name.clone(),
        description: stored.policy.description.clone(),
        digest: stored.policy.digest.0.to_vec().into(),
        builtin: stored.origin.is_none(),
        is_default,
        origin: stored
            .origin
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        ceiling: stored.ceiling,
        system: stored.system && stored.origin.is_some(),
    }
}
