//! Service `Policies`.

use fumehood_proto::v1;
use fumehood_proto::v1::policies_server::Policies;
use tonic::{Request, Response, Status};

use super::runs::peer;
use super::{explain, status};
use crate::policy_store::{PolicyStore, Stored};

/// The service.
#[derive(Clone, Debug)]
pub struct PoliciesService {
    /// The policies.
    pub policies: PolicyStore,
}

#[tonic::async_trait]
impl Policies for PoliciesService {
    async fn list(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        peer(&request)?;
        let policies = self
            .policies
            .all()
            .map(|(stored, is_default)| summary(stored, is_default))
            .collect();
        Ok(Response::new(v1::ListPoliciesResponse { policies }))
    }

    async fn get(&self, request: Request<v1::GetPolicyRequest>) -> Result<Response<v1::GetPolicyResponse>, Status> {
        peer(&request)?;
        let name = &request.get_ref().name;
        let stored = self
            .policies
            .get(name)
            .ok_or_else(|| status::no_such_policy(name, &self.policies.names()))?;
        let is_default = self.policies.is_default(&stored.policy.name);
        Ok(Response::new(v1::GetPolicyResponse {
            summary: Some(summary(stored, is_default)),
            toml: stored.text.to_string(),
        }))
    }

    async fn check(
        &self,
        request: Request<v1::CheckPolicyRequest>,
    ) -> Result<Response<v1::CheckPolicyResponse>, Status> {
        peer(&request)?;
        Ok(Response::new(explain::check(&self.policies, request.get_ref())))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainPolicyRequest>,
    ) -> Result<Response<v1::ExplainPolicyResponse>, Status> {
        peer(&request)?;
        let name = &request.get_ref().name;
        let missing = || status::no_such_policy(name, &self.policies.names());
        let stored = self.policies.get(name).ok_or_else(missing)?;
        let resolved = self.policies.resolved(name).ok_or_else(missing)?;
        let resolved = resolved.map_err(|error| status::invalid_field("name", error.to_string()))?;
        let explained = explain::explain(&resolved, request.get_ref())?;
        let is_default = self.policies.is_default(&stored.policy.name);
        Ok(Response::new(v1::ExplainPolicyResponse {
            summary: Some(summary(stored, is_default)),
            ..explained
        }))
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
    }
}
