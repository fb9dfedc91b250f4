//! The calls.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fumehood_proto::convert::duration_from_std;
use fumehood_proto::v1::approvals_client::ApprovalsClient;
use fumehood_proto::v1::attach_request::Message as AttachMessage;
use fumehood_proto::v1::files_client::FilesClient;
use fumehood_proto::v1::learning_client::LearningClient;
use fumehood_proto::v1::node_client::NodeClient;
use fumehood_proto::v1::policies_client::PoliciesClient;
use fumehood_proto::v1::run_request::Message as RunMessage;
use fumehood_proto::v1::runs_client::RunsClient;
use fumehood_proto::v1::sessions_client::SessionsClient;
use fumehood_proto::v1::{
    AttachRequest, AttachStart, CapabilitiesRequest, CapabilitiesResponse, CheckPolicyRequest, CheckPolicyResponse,
    ExaminePolicyRequest, ExaminePolicyResponse, ExplainPolicyRequest, ExplainPolicyResponse, GetPolicyRequest,
    GetPolicyResponse, GetRequest, IgnoredPolicy, KillRequest, ListPoliciesRequest, ListRequest, ListResponse,
    ListTrustedRequest, Observation, ObservationsRequest, PolicySummary, ProposeRequest, ProposeResponse, ReadRequest,
    ReadResponse, ReleaseRequest, ReloadPoliciesRequest, ReloadPoliciesResponse, RunInfo, RunRequest, SignalRequest,
    SignalScope, StartRequest, StartResponse, TrustPolicyRequest, TrustPolicyResponse, TrustedFile,
    UntrustPolicyRequest, VersionRequest, VersionResponse, WaitRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::error::Error;
use crate::resume::{Reconnect, retry};
use crate::run::{RunEvents, RunHandle, RunInput};
use crate::unsent::Unsent;

/// Largest message taken from the daemon, in bytes: a page of runs or a policy's text; events are far smaller.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// Input messages that may wait for the connection; beyond it, senders wait.
const INPUT_QUEUE: usize = 4;

/// A connection to a daemon. Clones share it; calls may be made at the same time.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) approvals: ApprovalsClient<Unsent>,
    pub(crate) sessions: SessionsClient<Unsent>,
    pub(crate) files: FilesClient<Unsent>,
    runs: RunsClient<Unsent>,
    policies: PoliciesClient<Unsent>,
    learning: LearningClient<Unsent>,
    node: NodeClient<Unsent>,
    pub(crate) reconnect: Reconnect,
}

impl Client {
    pub(crate) fn over(channel: Channel) -> Self {
        let channel = Unsent::over(channel);
        Self {
            approvals: ApprovalsClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES),
            sessions: SessionsClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES),
            files: FilesClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES),
            runs: RunsClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES),
            learning: LearningClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES),
            policies: PoliciesClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES),
            node: NodeClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES),
            reconnect: Reconnect::default(),
        }
    }

    /// The same connection, on which runs are followed through breaks for as long as this says.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use fumehood_client::{Client, Reconnect};
    ///
    /// let patient = Client::connect().await?.with_reconnect(Reconnect::for_up_to(Duration::from_secs(300)));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_reconnect(mut self, reconnect: Reconnect) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Starts a command and follows it over this one connection: [`Client::command`] is what survives a broken one. What becomes of
    /// the run when the handle is dropped early, the request says (`RunSpec.on_disconnect`; by default it is killed).
    ///
    /// # Errors
    /// When the request was not taken. The end of the command is told by its last event, not here.
    pub async fn run(&self, request: StartRequest) -> Result<RunHandle, Error> {
        let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
        let first = RunRequest {
            message: Some(RunMessage::Start(request)),
        };
        sender.try_send(first).map_err(|_| Error::InputClosed)?;
        let events = self.runs.clone().run(ReceiverStream::new(receiver)).await?.into_inner();
        let input = RunInput::to_run(sender);
        Ok(RunHandle::new(input.clone(), RunEvents::new(events, input)))
    }

    /// Follows a run that exists over this one connection, from the event with number `from_seq` (0: the first); [`Client::attach`] is
    /// what survives a broken one. Dropping the handle leaves the run alone, unless it was the last follower of one that lingers.
    ///
    /// # Errors
    /// [`Error::NotFound`] and the other refusals of a call.
    pub async fn attach_stream(&self, run_id: impl Into<String>, from_seq: u64) -> Result<RunHandle, Error> {
        self.attach_at(AttachStart {
            run_id: run_id.into(),
            from_seq,
            position: None,
            tail_end: None,
        })
        .await
    }

    /// As [`attach_stream`](Self::attach_stream), from any position that the wire knows.
    ///
    /// # Errors
    /// As there.
    pub async fn attach_at(&self, start: AttachStart) -> Result<RunHandle, Error> {
        let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
        let first = AttachRequest {
            message: Some(AttachMessage::Attach(start)),
        };
        sender.try_send(first).map_err(|_| Error::InputClosed)?;
        let events = self
            .runs
            .clone()
            .attach(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let input = RunInput::to_attachment(sender);
        Ok(RunHandle::new(input.clone(), RunEvents::new(events, input)))
    }

    /// Bytes of one output stream of a run, from an offset on.
    ///
    /// # Errors
    /// [`Error::NotFound`] and the other refusals of a call. That bytes are no longer kept is in the answer.
    pub async fn read(&self, request: ReadRequest) -> Result<ReadResponse, Error> {
        Ok(self.runs.clone().read(request).await?.into_inner())
    }

    /// Starts a command that belongs to the daemon, not to this connection.
    ///
    /// # Errors
    /// When the request was not taken.
    pub async fn start(&self, request: StartRequest) -> Result<StartResponse, Error> {
        Ok(self.runs.clone().start(request).await?.into_inner())
    }

    /// Waits until the run is over, or for `timeout`, through broken connections as [`with_reconnect`](Self::with_reconnect) says; tells its
    /// state as it is then (`finished` is set when it is over).
    ///
    /// # Errors
    /// [`Error::NotFound`] and the other refusals of a call; [`Error::GivenUp`] when the connection broke and could not be made again. That
    /// the time passed is no error.
    pub async fn wait(&self, run_id: impl Into<String>, timeout: Option<Duration>) -> Result<RunInfo, Error> {
        let run_id = run_id.into();
        let give_up = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let run = retry(self.reconnect, || {
            let left = give_up.map(|give_up| give_up.saturating_duration_since(Instant::now()));
            let request = WaitRequest {
                run_id: run_id.clone(),
                timeout: left.map(duration_from_std),
            };
            let mut runs = self.runs.clone();
            async move { Ok(runs.wait(request).await?.into_inner().run) }
        });
        present(run.await?)
    }

    /// The state of a run.
    ///
    /// # Errors
    /// [`Error::NotFound`] and the other refusals of a call.
    pub async fn get(&self, run_id: impl Into<String>) -> Result<RunInfo, Error> {
        let request = GetRequest { run_id: run_id.into() };
        present(self.runs.clone().get(request).await?.into_inner().run)
    }

    /// A page of runs, newest first.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn list(&self, request: ListRequest) -> Result<ListResponse, Error> {
        Ok(self.runs.clone().list(request).await?.into_inner())
    }

    /// Sends a signal, 1 to 64, to a running command.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Precondition`] when it is not running.
    pub async fn signal(&self, run_id: impl Into<String>, signal: i32, scope: SignalScope) -> Result<(), Error> {
        let request = SignalRequest {
            run_id: run_id.into(),
            signal,
            scope: scope.into(),
        };
        self.runs.clone().signal(request).await?;
        Ok(())
    }

    /// Ends a run and returns when no process of it exists any more. `grace` is from SIGTERM to SIGKILL: unset, the
    /// run's own; zero, SIGKILL at once. `reason` is for the record, at most 1,024 bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`]. Killing a finished run is no error.
    pub async fn kill(
        &self,
        run_id: impl Into<String>,
        grace: Option<Duration>,
        reason: impl Into<String>,
    ) -> Result<RunInfo, Error> {
        let grace = grace.map(duration_from_std);
        let request = KillRequest {
            run_id: run_id.into(),
            grace,
            reason: reason.into(),
        };
        present(self.runs.clone().kill(request).await?.into_inner().run)
    }

    /// Forgets a finished run and its kept output.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Precondition`] while it is not finished.
    pub async fn release(&self, run_id: impl Into<String>) -> Result<(), Error> {
        self.runs
            .clone()
            .release(ReleaseRequest { run_id: run_id.into() })
            .await?;
        Ok(())
    }

    /// The policies the daemon knows by name, in the order of the names.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn policies(&self) -> Result<Vec<PolicySummary>, Error> {
        Ok(self
            .policies
            .clone()
            .list(ListPoliciesRequest {})
            .await?
            .into_inner()
            .policies)
    }

    /// Files and directories that have no effect as policies, in the order in which the daemon found them.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn ignored_policies(&self) -> Result<Vec<IgnoredPolicy>, Error> {
        let listed = self.policies.clone().list(ListPoliciesRequest {}).await?;
        Ok(listed.into_inner().ignored)
    }

    /// Has the daemon read its policies again. For its own user and root, as everything about trust.
    ///
    /// # Errors
    /// [`Error::Precondition`] when a file is wrong: what was there stays.
    pub async fn reload_policies(&self) -> Result<ReloadPoliciesResponse, Error> {
        let reloaded = self.policies.clone().reload(ReloadPoliciesRequest {}).await?;
        Ok(reloaded.into_inner())
    }

    /// What a policy file is worth, and what it would be worth if it were trusted. The path is absolute and without symbolic links.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it cannot be read or is wrong; the refusals of a call.
    pub async fn examine_policy(&self, path: impl Into<Bytes>) -> Result<ExaminePolicyResponse, Error> {
        let request = ExaminePolicyRequest { path: path.into() };
        Ok(self.policies.clone().examine(request).await?.into_inner())
    }

    /// Trusts a file as it was examined.
    ///
    /// # Errors
    /// [`Error::Precondition`] when it has changed since; the refusals of a call.
    pub async fn trust_policy(&self, examined: &ExaminePolicyResponse) -> Result<TrustPolicyResponse, Error> {
        let request = TrustPolicyRequest {
            path: examined.path.clone(),
            policy_digest: examined.policy_digest.clone(),
            file_digest: examined.file_digest.clone(),
        };
        Ok(self.policies.clone().trust(request).await?.into_inner())
    }

    /// Trusts a file no more.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was not trusted; the refusals of a call.
    pub async fn untrust_policy(&self, path: impl Into<Bytes>) -> Result<(), Error> {
        let request = UntrustPolicyRequest { path: path.into() };
        self.policies.clone().untrust(request).await?;
        Ok(())
    }

    /// The files that are trusted, in the order of trusting.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn trusted_policies(&self) -> Result<Vec<TrustedFile>, Error> {
        let listed = self.policies.clone().list_trusted(ListTrustedRequest {}).await?;
        Ok(listed.into_inner().files)
    }

    /// One policy with its text; an empty name stands for the default.
    ///
    /// # Errors
    /// [`Error::NotFound`] and the other refusals of a call.
    pub async fn policy(&self, name: impl Into<String>) -> Result<GetPolicyResponse, Error> {
        Ok(self
            .policies
            .clone()
            .get(GetPolicyRequest { name: name.into() })
            .await?
            .into_inner())
    }

    /// What is wrong with a policy file, and what in it is useless or dangerous.
    ///
    /// # Errors
    /// The refusals of a call. That the file is wrong is in the answer.
    pub async fn check_policy(&self, toml: impl Into<bytes::Bytes>) -> Result<CheckPolicyResponse, Error> {
        let request = CheckPolicyRequest { toml: toml.into() };
        Ok(self.policies.clone().check(request).await?.into_inner())
    }

    /// What a policy comes to, and what it decides about what is asked. Nothing is run.
    ///
    /// # Errors
    /// [`Error::NotFound`] and the other refusals of a call.
    pub async fn explain_policy(&self, request: ExplainPolicyRequest) -> Result<ExplainPolicyResponse, Error> {
        Ok(self.policies.clone().explain(request).await?.into_inner())
    }

    /// What a finished run to learn from asked for, and how much more there was than is kept.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Precondition`] for a run that is not over or was not recorded.
    pub async fn observations(&self, run_id: impl Into<String>) -> Result<(Vec<Observation>, u64), Error> {
        let request = ObservationsRequest { run_id: run_id.into() };
        let mut parts = self.learning.clone().observations(request).await?.into_inner();
        let (mut all, mut lost) = (Vec::new(), 0);
        while let Some(part) = parts.message().await? {
            all.extend(part.observations);
            lost = part.lost;
        }
        Ok((all, lost))
    }

    /// A policy under which the command of a run to learn from would have passed.
    ///
    /// # Errors
    /// As [`observations`](Self::observations), for each run that the request names.
    pub async fn propose(&self, request: ProposeRequest) -> Result<ProposeResponse, Error> {
        Ok(self.learning.clone().propose(request).await?.into_inner())
    }

    /// What the daemon's machine can enforce.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn capabilities(&self) -> Result<CapabilitiesResponse, Error> {
        Ok(self
            .node
            .clone()
            .capabilities(CapabilitiesRequest {})
            .await?
            .into_inner())
    }

    /// What the daemon is.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn version(&self) -> Result<VersionResponse, Error> {
        Ok(self.node.clone().version(VersionRequest {}).await?.into_inner())
    }
}

/// A message that the daemon always sends.
fn present(run: Option<RunInfo>) -> Result<RunInfo, Error> {
    run.ok_or_else(|| Error::Internal {
        code: tonic::Code::Internal,
        message: "the answer holds no run".to_owned(),
    })
}
