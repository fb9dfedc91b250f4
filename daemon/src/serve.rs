//! The daemon from start to end.
//!
//! Start: audit log, listeners, self-test, ready; what comes before is in `cli.rs` and `walls.rs`. End, on SIGTERM or SIGINT: no more runs are taken and health says so, those
//! there are may go on for the grace, then they are ended, and the record of their end is written before the log is closed. A
//! second signal ends the grace.

mod end;
mod listening;
mod places;
mod reload;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fumehood_proto::FILE_DESCRIPTOR_SET;
use fumehood_proto::v1::approvals_server::ApprovalsServer;
use fumehood_proto::v1::files_server::FilesServer;
use fumehood_proto::v1::learning_server::LearningServer;
use fumehood_proto::v1::node_server::NodeServer;
use fumehood_proto::v1::policies_server::PoliciesServer;
use fumehood_proto::v1::runs_server::RunsServer;
use fumehood_proto::v1::sessions_server::SessionsServer;
use fumehood_sandbox::LaunchError;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt as _;
use tonic::service::{InterceptorLayer, Routes};
use tonic::{Request, Status};

use self::end::{END_TIMEOUT, Server, Signals, close_all, drain, idle};
use self::listening::Listening;
use self::places::{answers_directory, open_audit, open_spill, private_places};
use self::reload::{Custody, LOST, Left, Taking, hand_over, handed_audit};
use crate::approvals::{Approvals, Judges};
use crate::audit;
use crate::config::{Config, ConfigError};
use crate::files::Files;
use crate::handover::{HandOverError, Successor, TakeOver};
use crate::launch::Launching;
use crate::listen::{self, Admission, tls, unix};
use crate::peer::Peer;
use crate::policy::StoreError;
use crate::run::{Bounds, RunTable, Surroundings};
use crate::service::{
    ApprovalsService, Calls, Door, FilesService, Forward, ForwardLayer, Here, IntakeLayer, LearningService,
    NodeService, PoliciesService, RunsService, SessionsService, from_successor,
};
use crate::session::{SessionBounds, SessionTable};
use crate::systemd;
use crate::walls::Opened;

/// Longest message taken: argv and environments (2 MiB each), an inline policy (1 MiB), and room.
const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// How long connections may take to end once the runs are over.
const CONNECTIONS_GRACE: Duration = Duration::from_secs(1);

/// What sees every call first.
type Interceptor = fn(Request<()>) -> Result<Request<()>, Status>;

/// Why the daemon does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What systemd handed over.
    #[error(transparent)]
    Activation(#[from] systemd::ActivationError),
    /// The launcher.
    #[error("cannot make sandboxes")]
    Launch(#[from] LaunchError),
    /// Its own log.
    #[error(transparent)]
    Telemetry(#[from] crate::telemetry::TelemetryError),
    /// The runtime.
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
    /// Its own walls.
    #[error("cannot confine the daemon itself")]
    Walls(#[from] fumehood_sandbox::ShedError),
    /// Its policies.
    #[error(transparent)]
    Policies(#[from] StoreError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] audit::OpenError),
    /// The daemon that it was to take over from.
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    /// Its socket.
    #[error(transparent)]
    Bind(#[from] unix::BindError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The TCP address.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Signals or the server.
    #[error("cannot serve: {0}")]
    Serve(String),
}

/// Serves until told to end.
pub async fn serve(
    config: Config,
    inherited: Vec<std::os::unix::net::UnixListener>,
    opened: Opened,
    launching: Launching,
    mut take_over: Option<TakeOver>,
) -> Result<(), ServeError> {
    let mut signals = Signals::new().map_err(|error| ServeError::Serve(error.to_string()))?;
    let Opened { policies, tcp } = opened;
    let audit = match handed_audit(take_over.as_mut()) {
        Some(handed) => Some(handed.await?),
        None => open_audit(&config).await?,
    };
    let listening = Listening::new(&config, inherited, tcp, take_over.as_mut())?;
    test_machine(&launching).await;
    let mut launcher_lost = tokio::spawn(launching.clone().keep_alive());

    let bounds = Bounds {
        running: config.max_runs,
        queued: config.max_queue,
        retained: config.retained_runs,
        retain_for: config.retain_for,
    };
    let judges = Judges {
        own_uid: config.uid,
        approvers: config.approvers.clone(),
    };
    let kept = answers_directory(&config, audit.as_ref());
    let approvals = Approvals::new(judges, audit.clone(), config.audit.required, Some(kept));
    let spill = open_spill(&config).await?;
    let (spill, left) = spill.map_or_else(|why| (Err(why), Vec::new()), |(store, left)| (Ok(store), left));
    let surroundings = Surroundings {
        launching: launching.clone(),
        audit: audit.clone(),
        audit_required: config.audit.required,
        approvals: approvals.clone(),
        spill: spill.clone(),
    };
    let runs = RunTable::new(bounds, surroundings.clone());
    if let Ok(store) = &spill {
        runs.restore(left, store, LOST);
    }
    let sessions = SessionTable::new(SessionBounds {
        living: config.max_sessions,
        of_peer: config.max_sessions_of_peer(),
        retained: config.retained_runs,
        retain_for: config.retain_for,
    });
    let forward = Forward::default();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RunsServer<RunsService>>().await;
    health.set_serving::<SessionsServer<SessionsService>>().await;
    health.set_serving::<PoliciesServer<PoliciesService>>().await;
    health.set_serving::<ApprovalsServer<ApprovalsService>>().await;
    health.set_serving::<LearningServer<LearningService>>().await;
    health.set_serving::<FilesServer<FilesService>>().await;
    health.set_serving::<NodeServer<NodeService>>().await;

    let door = Door {
        policies: policies.clone(),
        private: private_places(&config, audit.as_ref(), &policies),
        keep_bytes: config.keep_bytes,
        max_keep_bytes: config.max_keep_bytes,
        spill: config.output.spill,
        audit: audit.clone(),
        sessions: Some(sessions.clone()),
    };
    let answers_of = policies.clone();
    let policies = PoliciesService {
        policies,
        audit: audit.clone(),
        audit_required: config.audit.required,
        uid: config.uid,
        private: Arc::clone(&door.private),
    };
    // Before anybody is told that the daemon is ready: a SIGHUP that finds no handler ends it.
    let hangups = signal(SignalKind::hangup()).map_err(|error| ServeError::Serve(error.to_string()))?;
    let reader = tokio::spawn(read_again(policies.clone(), hangups));
    let files = Files::new(launching.clone(), audit.clone(), config.audit.required);
    let forwarding = ForwardLayer {
        forward: forward.clone(),
        here: Here {
            runs: runs.clone(),
            sessions: sessions.clone(),
            approvals: approvals.clone(),
        },
    };
    let answers = ApprovalsService {
        approvals,
        policies: answers_of,
        forward: forward.clone(),
    };
    let node = NodeService {
        launching,
        runs: runs.clone(),
        started_at: SystemTime::now(),
        idle_exit: config.idle_exit,
    };
    let in_sessions = SessionsService {
        sessions: sessions.clone(),
        door: door.clone(),
        surroundings,
        forward: forward.clone(),
    };
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let describe = |error: tonic_reflection::server::Error| ServeError::Serve(error.to_string());
    let routes = Routes::new(
        FilesServer::new(FilesService {
            files: files.clone(),
            door: door.clone(),
            sessions: sessions.clone(),
        })
        .max_decoding_message_size(MAX_MESSAGE_BYTES),
    )
    .add_service(
        RunsServer::new(RunsService {
            runs: runs.clone(),
            door,
            forward: forward.clone(),
        })
        .max_decoding_message_size(MAX_MESSAGE_BYTES),
    )
    .add_service(SessionsServer::new(in_sessions).max_decoding_message_size(MAX_MESSAGE_BYTES))
    .add_service(PoliciesServer::new(policies))
    .add_service(ApprovalsServer::new(answers))
    .add_service(LearningServer::new(LearningService { runs: runs.clone() }))
    .add_service(NodeServer::new(node))
    .add_service(health_service)
    .add_service(reflection().build_v1().map_err(describe)?)
    // Tools older than 2024 know only this one.
    .add_service(reflection().build_v1alpha().map_err(describe)?);
    let calls = Calls::default();
    let serving = |who: Interceptor| {
        listen::server()
            .layer(InterceptorLayer::new(who))
            .layer(IntakeLayer::counting(calls.clone()))
            .layer(forwarding.clone())
            .add_routes(routes.clone())
    };
    let behind = take_over.as_ref().map_or(0, |there| there.offer.predecessors + 1);
    let taking = Taking {
        finish: config.reload_finish,
        runs: runs.clone(),
        store: spill.as_ref().ok().cloned(),
        audit: audit.clone(),
        drain: config.drain_grace + 2 * END_TIMEOUT,
        tcp: config.tcp.as_ref().map(|tcp| tcp.listen),
    };
    let predecessor = match take_over {
        Some(there) => Some(taking.clone().take(there, &forward).await?),
        None => None,
    };
    let custody = Custody {
        runs: &runs,
        sessions: &sessions,
        forward: &forward,
        calls: &calls,
        patience: config.retain_for,
    };
    let (mut listening, mut took_over) = (Some(listening), predecessor.is_some());
    let mut servers: Vec<Server> = Vec::new();
    let mut successor = None;
    let ended = loop {
        let Some(listeners) = &listening else {
            break Ended::Asked;
        };
        if took_over {
            listeners.take_place(&config);
        }
        let failed = |error: io::Error| ServeError::Serve(error.to_string());
        let (successors, asking) = mpsc::channel(1);
        let incoming = listen::incoming(
            listeners.endpoints().map_err(failed)?,
            Admission {
                allowed_uids: config.allowed_uids.clone(),
                audit: audit.clone(),
                successors: Some(successors),
            },
        );
        let (connections, closing) = (incoming.connections(), incoming.closing());
        let (stop, stopped) = oneshot::channel();
        let server = serving(only_allowed).serve_with_incoming_shutdown(incoming, until(stopped));
        let mut server = Server::new(stop, tokio::spawn(server));
        systemd::ready(took_over);
        tracing::info!(socket = %config.socket.display(), pid = std::process::id(), "serving");

        let handed = listeners.handed(&config).map_err(failed)?;
        let ended = tokio::select! {
            () = signals.next() => Ended::Asked,
            () = idle(config.idle_exit, runs.active(), sessions.living(), connections, &forward) => Ended::Idle,
            successor = hand_over(asking, handed, audit.as_ref(), &forward, behind) => Ended::Succeeded(successor),
            lost = &mut launcher_lost => Ended::Broken(lost_launcher(lost)),
            result = &mut server.task => Ended::Broken(match result {
                Ok(Ok(())) => "the server ended by itself".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            }),
        };
        servers.push(server);
        let Ended::Succeeded(next) = ended else { break ended };
        // What is connected goes on here; whoever connects from now on, there.
        closing.close();
        if let Some(predecessor) = &predecessor {
            predecessor.passed();
        }
        // Nobody would accept there.
        if let Some(listening) = listening.as_mut().filter(|_| !next.tcp) {
            listening.close_tcp();
        }
        if next.finish {
            listening = None;
            successor = Some(next);
            break Ended::Asked;
        }
        let channel = |stream| {
            let (stop, stopped) = oneshot::channel();
            let only = tokio_stream::once(Ok::<_, io::Error>(stream)).chain(tokio_stream::pending());
            let server = serving(from_successor).serve_with_incoming_shutdown(only, until(stopped));
            Server::new(stop, tokio::spawn(server))
        };
        let left = tokio::select! {
            left = custody.keep(&next, &mut servers, &mut listening, channel) => left,
            () = signals.next() => Left::Unreachable,
            lost = &mut launcher_lost => {
                successor = Some(next);
                break Ended::Broken(lost_launcher(lost));
            }
        };
        match left {
            Left::Alone => {
                custody.set_succeeded(false);
                taking.adopt(&next.instance, false).await;
                tracing::error!("the daemon that took over died; this one serves again");
                took_over = true;
            }
            Left::Over(until) => {
                successor = Some(next);
                break Ended::Over(until);
            }
            Left::Unreachable => {
                successor = Some(next);
                break Ended::Asked;
            }
        }
    };
    if successor.is_none() {
        systemd::stopping();
    }
    // When this one fails, the one before it serves again, should it still be there; on the same socket.
    let falls_back = matches!(ended, Ended::Broken(_)) && successor.is_none() && forward.is_living();
    if let Some(predecessor) = &predecessor
        && !falls_back
    {
        predecessor.give_up();
    }
    reader.abort();
    runs.drain();
    sessions.drain();
    files.drain();
    health.set_not_serving::<RunsServer<RunsService>>().await;
    health.set_not_serving::<SessionsServer<SessionsService>>().await;
    health
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    drain(&runs, &mut signals, config.drain_grace).await;
    close_all(&sessions).await;
    if !falls_back {
        // It drains as this one did, and has its own grace.
        let _ = tokio::time::timeout(config.drain_grace + END_TIMEOUT, forward.gone()).await;
        // Whoever connects from here on finds no socket and starts another daemon.
        if let Some(listening) = listening
            && successor.is_none()
        {
            listening.remove();
        }
    }
    servers.iter_mut().for_each(Server::stop);
    let last_answers = match ended {
        // What there is to be read is on disk and with the successor; what was read already is still on its way.
        Ended::Over(until) => until,
        _ => {
            let until = Instant::now() + CONNECTIONS_GRACE;
            end_servers(&mut servers, until).await;
            until
        }
    };
    files.end().await;
    runs.forget_old();
    if let Ok(spill) = spill {
        let _ = tokio::task::spawn_blocking(move || spill.close()).await;
    }
    if let Some(audit) = audit
        && let Err(error) = audit.close().await
    {
        tracing::error!(%error, "the audit log is not complete");
    }
    if let Some(successor) = successor {
        if successor.finish {
            let _ = successor.taken(None);
        }
        successor.ended();
    }
    end_servers(&mut servers, last_answers).await;
    match ended {
        Ended::Broken(error) => Err(ServeError::Serve(error)),
        Ended::Asked | Ended::Idle | Ended::Over(_) | Ended::Succeeded(_) => {
            tracing::info!("ended");
            Ok(())
        }
    }
}

/// Why serving ends.
enum Ended {
    Asked,
    Idle,
    /// All that was kept for a successor is over; those that read it have until then.
    Over(Instant),
    Broken(String),
    Succeeded(Successor),
}

/// Lets servers that were stopped end until then, and cuts what is left.
async fn end_servers(servers: &mut [Server], until: Instant) {
    for server in servers {
        if !server.has_ended(until).await {
            server.task.abort();
        }
    }
}

/// Returns when it is said, or cannot be any more.
async fn until(stopped: oneshot::Receiver<()>) {
    let _ = stopped.await;
}

fn lost_launcher(lost: Result<LaunchError, tokio::task::JoinError>) -> String {
    match lost {
        Ok(error) => crate::telemetry::chain(&error),
        Err(error) => error.to_string(),
    }
}

/// Reads the policies again at each SIGHUP.
async fn read_again(policies: PoliciesService, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        // What came of it is in both logs.
        let _ = policies.read_again("signal").await;
    }
}

/// Tries everything that must not work, and says what got through.
async fn test_machine(launching: &Launching) {
    let test = launching.test().await;
    if let Some(failure) = &test.failure {
        tracing::error!(
            failure,
            "no sandbox can be made on this machine; `fumehood doctor` says why"
        );
    }
    for finding in test.findings.iter().filter(|finding| !finding.held) {
        let protection = finding.protection.name();
        tracing::warn!(
            protection,
            name = finding.name,
            detail = finding.detail,
            "a protection does not hold here"
        );
    }
}

/// Nobody else gets further than this.
fn only_allowed(request: Request<()>) -> Result<Request<()>, Status> {
    match Peer::of(&request) {
        Ok(_) => Ok(request),
        Err(error) => Err(crate::service::refuse(error)),
    }
}
