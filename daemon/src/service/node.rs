//! Service `Node`: what this daemon is, and what this machine can enforce.

use std::time::{Duration, SystemTime};

use fumehood_proto::convert::{duration_from_std, timestamp_from_system};
use fumehood_proto::v1;
use fumehood_proto::v1::node_server::Node;
use fumehood_sandbox::spec::{Protection, State};
use tonic::{Request, Response, Status};

use super::convert;
use super::runs::peer;
use crate::launch::Launching;
use crate::remedy;
use crate::run::RunTable;

/// The service.
#[derive(Clone, Debug)]
pub struct NodeService {
    /// What was found out.
    pub launching: Launching,
    /// For whether it drains.
    pub runs: RunTable,
    /// When the daemon started.
    pub started_at: SystemTime,
    /// After what idle time it ends.
    pub idle_exit: Option<Duration>,
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn capabilities(
        &self,
        request: Request<v1::CapabilitiesRequest>,
    ) -> Result<Response<v1::CapabilitiesResponse>, Status> {
        peer(&request)?;
        let release = nix::sys::utsname::uname().map(|uname| uname.release().to_string_lossy().into_owned());
        let version = match self.launching.cgroups().map(|cgroups| cgroups.version) {
            Some(1) => v1::CgroupVersion::V1,
            Some(2) => v1::CgroupVersion::V2,
            _ => v1::CgroupVersion::Unspecified,
        };
        Ok(Response::new(v1::CapabilitiesResponse {
            capabilities: capabilities(&self.launching),
            kernel_release: release.unwrap_or_default(),
            landlock_abi: fumehood_sandbox::landlock_abi(),
            cgroup_version: version.into(),
            daemon_uid: nix::unistd::geteuid().as_raw(),
        }))
    }

    async fn version(&self, request: Request<v1::VersionRequest>) -> Result<Response<v1::VersionResponse>, Status> {
        peer(&request)?;
        Ok(Response::new(v1::VersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api: "fumehood.v1".to_owned(),
            started_at: Some(timestamp_from_system(self.started_at)),
            pid: std::process::id() as i32,
            idle_exit: self.idle_exit.map(duration_from_std),
            draining: self.runs.is_draining(),
        }))
    }
}

/// The layers as the self-test's sandbox reported them, then each attempt of the test.
fn capabilities(launching: &Launching) -> Vec<v1::Capability> {
    let test = launching.self_test();
    let cgroups = launching.cgroups();
    let mut found = Vec::new();
    if let Some(failure) = &test.failure {
        found.push(v1::Capability {
            protection: v1::Protection::FilesystemView.into(),
            name: "make a sandbox".to_owned(),
            state: v1::ProtectionState::Off.into(),
            detail: failure.clone(),
            remedy: remedy::namespaces(),
        });
    }
    for entry in &test.enforcement {
        // The test's sandbox asks for few limits; what the machine offers is what the launcher found.
        let state = match (&cgroups, entry.protection) {
            (Some(cgroups), Protection::Resources) => match &cgroups.state {
                // A run falls back on rlimits and says so.
                State::Off(why) => State::Degraded(format!("no cgroup: {why}")),
                state => state.clone(),
            },
            _ => entry.state.clone(),
        };
        let (state, detail) = convert::state(&state);
        let remedy = match state {
            v1::ProtectionState::Active => String::new(),
            _ => remedy::of(entry.protection, cgroups.as_ref()),
        };
        found.push(v1::Capability {
            protection: convert::protection(entry.protection).into(),
            name: "set up".to_owned(),
            state: state.into(),
            detail,
            remedy,
        });
    }
    found.extend(test.findings.iter().map(|finding| {
        v1::Capability {
            protection: convert::protection(finding.protection).into(),
            name: format!("stop: {}", finding.name),
            state: if finding.held {
                v1::ProtectionState::Active
            } else {
                v1::ProtectionState::Off
            }
            .into(),
            detail: finding.detail.clone(),
            remedy: String::new(),
        }
    }));
    found
}
