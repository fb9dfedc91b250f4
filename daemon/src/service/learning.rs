//! Service `Learning`.

use std::pin::Pin;
use std::sync::Arc;

use fumehood_policies::learn::{self, Observation, Purpose, Target};
use fumehood_proto::v1;
use fumehood_proto::v1::learning_server::Learning;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::runs::peer;
use super::status;
use crate::peer::Peer;
use crate::run::{Recorded, RunTable};

/// Observations in one message; the wire documents it.
const PART: usize = 1024;

/// Runs under earlier proposals, at most; the wire documents it.
const MAX_PROOFS: usize = 8;

/// Longest name of a policy.
const MAX_NAME: usize = 64;

/// The name of a proposal that is given none.
const DEFAULT_NAME: &str = "learnt";

/// The service.
#[derive(Clone, Debug)]
pub struct LearningService {
    /// The runs.
    pub runs: RunTable,
}

type Parts = Pin<Box<dyn Stream<Item = Result<v1::ObservationsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Learning for LearningService {
    type ObservationsStream = Parts;

    async fn observations(&self, request: Request<v1::ObservationsRequest>) -> Result<Response<Parts>, Status> {
        let recorded = self.recorded(&peer(&request)?, &request.get_ref().run_id)?;
        let lost = recorded.watched.lost;
        let parts = recorded.watched.observations.len().div_ceil(PART);
        let part = move |number: usize| {
            let observations = recorded
                .watched
                .observations
                .chunks(PART)
                .nth(number)
                .unwrap_or_default();
            Ok(v1::ObservationsResponse {
                observations: observations.iter().map(observation).collect(),
                lost,
            })
        };
        // One at a time, as the reader takes them.
        Ok(Response::new(Box::pin(tokio_stream::iter((0..parts.max(1)).map(part)))))
    }

    async fn propose(&self, request: Request<v1::ProposeRequest>) -> Result<Response<v1::ProposeResponse>, Status> {
        let peer = peer(&request)?;
        let v1::ProposeRequest {
            run_id,
            proof_ids,
            name,
        } = request.into_inner();
        let name = if name.is_empty() { DEFAULT_NAME.to_owned() } else { name };
        let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.len() > MAX_NAME || !name.bytes().all(valid) {
            return Err(status::invalid_field(
                "name",
                format!("not 1 to {MAX_NAME} of a-z 0-9 -"),
            ));
        }
        if proof_ids.len() > MAX_PROOFS {
            return Err(status::invalid_field("proof_ids", format!("more than {MAX_PROOFS}")));
        }
        let recorded = self.recorded(&peer, &run_id)?;
        let proofs: Vec<_> = proof_ids
            .iter()
            .map(|id| self.recorded(&peer, id).map(|recorded| recorded.watched.clone()))
            .collect::<Result<_, _>>()?;
        // Tens of thousands of paths take longer than a thread that serves others should be held.
        let proposed = tokio::task::spawn_blocking(move || {
            let propose = |proofs| learn::propose(&name, &recorded.facts, &recorded.watched, proofs);
            let before = proofs.split_last().map(|(_, before)| propose(before).toml);
            let proposal = propose(&proofs);
            (before.is_none_or(|before| before != proposal.toml), proposal)
        });
        let (news, proposal) = proposed
            .await
            .map_err(|error| Status::internal(format!("the proposal failed: {error}")))?;
        Ok(Response::new(v1::ProposeResponse {
            toml: proposal.toml,
            notes: proposal.notes,
            news,
        }))
    }
}

impl LearningService {
    fn recorded(&self, peer: &Peer, id: &str) -> Result<Arc<Recorded>, Status> {
        let run = self.runs.get(peer, id).ok_or_else(|| status::no_such_run(id))?;
        let Some(finished) = run.snapshot().finished else {
            return Err(status::precondition(
                "NOT_FINISHED",
                id,
                "the run is not finished; wait for it",
            ));
        };
        finished.recorded.clone().ok_or_else(|| {
            let what = "the run was not recorded: its request did not say `learn`, its command did not start, or the daemon was started again since";
            status::precondition("NOT_RECORDED", id, what)
        })
    }
}

fn observation(observation: &Observation) -> v1::Observation {
    let Observation {
        target,
        purpose,
        existed,
        directory,
        program,
    } = observation;
    let target = match target {
        Target::Path(path) => path.clone(),
        Target::Address(address) => address.to_string(),
    };
    let purpose = match purpose {
        Purpose::Look => v1::Purpose::Look,
        Purpose::Read => v1::Purpose::Read,
        Purpose::List => v1::Purpose::List,
        Purpose::Execute => v1::Purpose::Execute,
        Purpose::Write => v1::Purpose::Write,
        Purpose::Connect => v1::Purpose::Connect,
        Purpose::Bind => v1::Purpose::Bind,
    };
    v1::Observation {
        target: target.into_bytes().into(),
        purpose: purpose.into(),
        existed: *existed,
        directory: *directory,
        program: program.clone().into_bytes().into(),
    }
}
