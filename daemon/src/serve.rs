//! The daemon from start to end.
//!
//! Start: audit log, listeners, self-test, ready; what comes before is in `cli.rs` and `walls.rs`. End, on SIGTERM or SIGINT: no more runs are taken and health says so, those
//! there are may go on for the grace, then they are ended, and the record of their end is written before the log is closed. A
//! second signal ends the grace.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

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
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::service::{InterceptorLayer, Routes};
use tonic::{Request, Status};

use crate::approvals::{Approvals, Judges};
use crate::audit::{self, AuditLog};
use crate::cli;
use crate::config::{Config, ConfigError};
use crate::files::Files;
use crate::handover::{Control, HandOverError, Handed, Offer, Successor, TakeOver, bytes};
use crate::launch::Launching;
use crate::listen::{self, Admission, Endpoint, tls, unix};
use crate::peer::Peer;
use crate::policy::{Policies, StoreError};
use crate::run::{Adopted, Bounds, Keeper, RunTable, SpillBounds, SpillStore, Surroundings};
use crate::service::{
    ApprovalsService, Door, FilesService, Forward, ForwardLayer, Here, IntakeLayer, LearningService, NodeService,
    PoliciesService, RunsService, SessionsService, from_successor,
};
use crate::session::{SessionBounds, SessionTable};
use crate::systemd;
use crate::walls::Opened;

/// Longest message taken: argv and environments (2 MiB each), an inline policy (1 MiB), and room.
const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// How long connections may take to end once the runs are over.
const CONNECTIONS_GRACE: Duration = Duration::from_secs(1);

/// What background processes of sessions have after the stop signal when the daemon ends.
const SESSIONS_GRACE: Duration = Duration::from_secs(2);

/// How long connections may go on that have nothing to wait for any more, once everything that was kept for a successor is over.
const CONNECTIONS_PATIENCE: Duration = Duration::from_secs(5);

/// How long the kernel may take to close what a dead process had open.
const DEATH: Duration = Duration::from_millis(500);

/// How long ended runs may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a run ended that the daemon before this one was running.
const LOST: &str = "the daemon was killed, or its machine failed; what had been saved of the run is there";

/// A server's task.
type Serving = JoinHandle<Result<(), tonic::transport::Error>>;

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
    let audit = match handed_audit(&config, take_over.as_mut()) {
        Some(handed) => Some(handed.await?),
        None => open_audit(&config).await?,
    };
    let Listening {
        endpoints,
        mut socket,
        handed,
    } = endpoints(&config, inherited, tcp, take_over.as_mut())?;
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
    let (stop, stopped) = oneshot::channel::<()>();
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
    let serving = |routes: Routes| {
        listen::server()
            .layer(InterceptorLayer::new(only_allowed))
            .layer(IntakeLayer::default())
            .layer(forwarding.clone())
            .add_routes(routes)
    };
    let predecessor = match take_over {
        Some(there) => {
            let store = spill.as_ref().ok().cloned();
            let taking = Taking {
                finish: config.reload_finish,
                runs: runs.clone(),
                store,
                audit: audit.clone(),
            };
            Some(taking.take(there, &forward).await?)
        }
        None => None,
    };
    if let Some(socket) = socket.as_ref().filter(|_| predecessor.is_some())
        && let Err(error) = socket.note_process()
    {
        tracing::warn!(%error, "the socket's lock still names the daemon before this one");
    }
    let (successors, asking) = mpsc::channel(1);
    let incoming = listen::incoming(
        endpoints,
        Admission {
            allowed_uids: config.allowed_uids.clone(),
            audit: audit.clone(),
            successors: Some(successors),
        },
    );
    let (connections, closing) = (incoming.connections(), incoming.closing());
    let server = serving(routes.clone()).serve_with_incoming_shutdown(incoming, async {
        let _ = stopped.await;
    });
    let mut server = tokio::spawn(server);
    systemd::ready(predecessor.is_some());
    tracing::info!(socket = %config.socket.display(), pid = std::process::id(), "serving");

    let mut ended = tokio::select! {
        () = signals.next() => Ended::Asked,
        () = idle(config.idle_exit, runs.active(), sessions.living(), connections, &forward) => Ended::Idle,
        successor = hand_over(asking, handed, &config, audit.as_ref()) => Ended::Succeeded(successor),
        lost = &mut launcher_lost => Ended::Broken(match lost {
            Ok(error) => crate::telemetry::chain(&error),
            Err(error) => error.to_string(),
        }),
        result = &mut server => Ended::Broken(match result {
            Ok(Ok(())) => "the server ended by itself".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        }),
    };
    let mut successor = None;
    if let Ended::Succeeded(next) = ended {
        ended = Ended::Asked;
        // What is connected goes on here; whoever connects from now on, there. The listeners' other copies went with the offer.
        closing.close();
        socket = None;
        if !next.finish {
            let kept = Kept {
                runs: &runs,
                sessions: &sessions,
                forward: &forward,
            };
            let channel = |stream, stopped: oneshot::Receiver<()>| {
                let server = listen::server()
                    .layer(InterceptorLayer::new(from_successor))
                    .layer(IntakeLayer::default())
                    .layer(forwarding.clone())
                    .add_routes(routes.clone())
                    .serve_with_incoming_shutdown(
                        tokio_stream::once(Ok::<_, io::Error>(stream)).chain(tokio_stream::pending()),
                        async {
                            let _ = stopped.await;
                        },
                    );
                tokio::spawn(server)
            };
            ended = tokio::select! {
                ended = kept.keep(&next, &mut server, channel) => ended,
                () = signals.next() => Ended::Asked,
                lost = &mut launcher_lost => Ended::Broken(match lost {
                    Ok(error) => crate::telemetry::chain(&error),
                    Err(error) => error.to_string(),
                }),
            };
        }
        successor = Some(next);
    } else {
        systemd::stopping();
    }
    if let Some(predecessor) = &predecessor {
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
    // It drains as this one did, and has its own grace.
    let _ = tokio::time::timeout(config.drain_grace + END_TIMEOUT, forward.gone()).await;
    // Whoever connects from here on finds no socket and starts another daemon.
    if let Some(socket) = socket
        && let Err(error) = socket.remove()
    {
        tracing::warn!(%error, "the socket is left behind");
    }
    let _ = stop.send(());
    if !server.is_finished() && tokio::time::timeout(CONNECTIONS_GRACE, &mut server).await.is_err() {
        server.abort();
    }
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
    match ended {
        Ended::Broken(error) => Err(ServeError::Serve(error)),
        Ended::Asked | Ended::Idle | Ended::Over | Ended::Succeeded(_) => {
            tracing::info!("ended");
            Ok(())
        }
    }
}

/// Why serving ends.
enum Ended {
    Asked,
    Idle,
    /// All that was kept for a successor is over.
    Over,
    Broken(String),
    Succeeded(Successor),
}

/// What a daemon that takes over needs to take what the other one leaves.
struct Taking {
    finish: bool,
    runs: RunTable,
    store: Option<SpillStore>,
    audit: Option<AuditLog>,
}

impl Taking {
    /// Takes over, when everything else is ready: from here on the other daemon accepts nothing. Its calls go to it over `forward`, until what
    /// it had is here.
    async fn take(self, there: TakeOver, forward: &Forward) -> Result<Arc<Control>, ServeError> {
        let TakeOver { offer, control, .. } = there;
        let (control, finish) = (Arc::new(control), self.finish);
        let asking = Arc::clone(&control);
        let taken = tokio::task::spawn_blocking(move || asking.take(finish)).await;
        let channel = taken.map_err(|error| ServeError::Serve(error.to_string()))??;
        tracing::info!(
            instance = offer.instance,
            survive = channel.is_some(),
            "took over from the daemon before"
        );
        let Some(channel) = channel else {
            self.adopt(&offer.instance, true).await;
            return Ok(control);
        };
        let (say, gone) = watch::channel(false);
        forward
            .begin(channel, gone)
            .map_err(|error| ServeError::Serve(error.to_string()))?;
        let (told, ended) = oneshot::channel();
        let listening = Arc::clone(&control);
        // A thread of its own, which nothing waits for: it lasts as long as the other daemon.
        std::thread::Builder::new()
            .name("predecessor".to_owned())
            .spawn(move || told.send(listening.ended()))
            .map_err(ServeError::Runtime)?;
        tokio::spawn(async move {
            let in_order = ended.await.unwrap_or(false);
            self.adopt(&offer.instance, in_order).await;
            say.send_replace(true);
        });
        Ok(control)
    }

    /// Takes what the other daemon left; one that died may hold its lock for a moment yet.
    async fn adopt(&self, instance: &str, in_order: bool) {
        if !in_order {
            tracing::error!(instance, "the daemon before this one died");
            if let Some(audit) = &self.audit
                && let Err(error) = audit.interrupt(instance).await
            {
                tracing::error!(%error, "its runs are not closed in the audit log; the next daemon does it");
            }
            tokio::time::sleep(DEATH).await;
        }
        let Some(store) = self.store.clone() else { return };
        let adopting = store.clone();
        if let Ok(left) = tokio::task::spawn_blocking(move || adopting.adopt()).await {
            self.runs.restore(left, &store, LOST);
        }
    }
}

/// What a daemon goes on with that another one took over from.
struct Kept<'a> {
    runs: &'a RunTable,
    sessions: &'a SessionTable,
    forward: &'a Forward,
}

impl Kept<'_> {
    /// Serves the successor's calls and the connections there are, until all of it is over or the successor is gone.
    async fn keep(
        &self,
        successor: &Successor,
        server: &mut Serving,
        serve: impl FnOnce(tokio::net::UnixStream, oneshot::Receiver<()>) -> Serving,
    ) -> Ended {
        let channel = || -> io::Result<_> {
            let (own, theirs) = tokio::net::UnixStream::pair()?;
            let gone = successor.gone()?;
            successor.taken(Some(theirs.as_fd()))?;
            let (say, told) = oneshot::channel();
            let wait = move || {
                gone();
                let _ = say.send(());
            };
            std::thread::Builder::new().name("successor".to_owned()).spawn(wait)?;
            Ok((own, told))
        };
        let (own, gone) = match channel() {
            Ok(channel) => channel,
            Err(error) => return Ended::Broken(format!("the hand-over failed: {error}")),
        };
        let (stop, stopped) = oneshot::channel();
        let served = serve(own, stopped);
        tracing::info!(
            runs = *self.runs.active().borrow(),
            sessions = *self.sessions.living().borrow(),
            "another daemon took over; what there is goes on here"
        );
        let (mut active, mut living) = (self.runs.active(), self.sessions.living());
        let over = async {
            loop {
                let _ = active.wait_for(|active| *active == 0).await;
                let _ = living.wait_for(|living| *living == 0).await;
                self.forward.gone().await;
                // Those that only watch have no end of their own.
                let served = tokio::time::timeout(CONNECTIONS_PATIENCE, &mut *server).await;
                let empty = |count: &watch::Receiver<usize>| *count.borrow() == 0;
                while served.is_ok() && !(empty(&active) && empty(&living)) {
                    // What began meanwhile began over the connections that are gone now, or in a session.
                    let _ = active.wait_for(|active| *active == 0).await;
                    let _ = living.wait_for(|living| *living == 0).await;
                }
                if empty(&active) && empty(&living) {
                    return;
                }
            }
        };
        tokio::select! {
            () = over => {
                // Answers that are under way arrive; whoever asks from here on finds it with the successor, a little later.
                let _ = stop.send(());
                let _ = tokio::time::timeout(CONNECTIONS_GRACE, served).await;
                Ended::Over
            }
            _ = gone => {
                tracing::warn!("the daemon that took over is gone or ending");
                Ended::Asked
            }
        }
    }
}

/// Waits for another daemon that takes over, and offers it all there is.
async fn hand_over(
    mut asking: mpsc::Receiver<tokio::net::UnixStream>,
    mut handed: Handed,
    config: &Config,
    audit: Option<&AuditLog>,
) -> Successor {
    handed.offer.instance = audit.map(|audit| audit.instance().to_owned()).unwrap_or_default();
    handed.offer.audit = audit.map(|audit| (bytes(&config.audit.path), bytes(audit.path())));
    let handed = Arc::new(handed);
    loop {
        let Some(stream) = asking.recv().await else {
            return std::future::pending().await;
        };
        let log = match audit {
            Some(audit) => audit.share().await.ok(),
            None => None,
        };
        let handed = Arc::clone(&handed);
        let offer = move || handed.offer(stream.into_std()?, log);
        match tokio::task::spawn_blocking(offer).await {
            Ok(Ok(Some(successor))) => return successor,
            Ok(Ok(None)) => tracing::debug!("another daemon asked what there is, and did not take over"),
            Ok(Err(error)) => {
                tracing::warn!(error = %crate::telemetry::chain(&error), "another daemon did not take over");
            }
            Err(error) => tracing::error!(%error, "a hand-over failed"),
        }
    }
}

/// The audit log that was handed over, if it is the one that the configuration names.
fn handed_audit(
    config: &Config,
    take_over: Option<&mut TakeOver>,
) -> Option<impl Future<Output = Result<AuditLog, ServeError>>> {
    let there = take_over?;
    let (configured, path) = there.offer.audit.clone()?;
    if configured != bytes(&config.audit.path) {
        return None;
    }
    let (file, before) = (there.audit.take()?, there.offer.instance.clone());
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    let open = move || AuditLog::take_over(file, &path, &RunTable::new_id(), &before);
    Some(async move {
        let opened = tokio::task::spawn_blocking(open).await;
        Ok(opened.map_err(|error| ServeError::Serve(error.to_string()))??)
    })
}

/// Opens the audit log. Where nobody chose its place and another daemon of this user writes there (one was started in a login
/// session, one by cron), the next free of `audit-2.jsonl` to `audit-9.jsonl` beside it is taken; where that place cannot be written
/// (a service user without a home), the scratch directory, which is on disk and private to the user too.
async fn open_audit(config: &Config) -> Result<Option<AuditLog>, ServeError> {
    let mut paths = vec![config.audit.path.clone()];
    if audit::default_path().as_ref() == Some(&config.audit.path) {
        paths.extend((2..=audit::MAX_LOGS).map(|number| audit::further_path(&config.audit.path, number)));
    }
    let instance = RunTable::new_id();
    let elsewhere = (paths.len() > 1).then(|| config.scratch_dir.join("audit.jsonl"));
    let open = move || {
        let mut opened = AuditLog::open(&paths[0], &instance);
        for path in &paths[1..] {
            if !matches!(opened, Err(audit::OpenError::InUse { .. })) {
                break;
            }
            opened = AuditLog::open(path, &instance);
        }
        if let (Err(audit::OpenError::Io { .. }), Some(elsewhere)) = (&opened, &elsewhere) {
            tracing::warn!(path = %elsewhere.display(), "the usual place of the audit log cannot be written; taking another");
            opened = AuditLog::open(elsewhere, &instance);
        }
        opened
    };
    let opened = tokio::task::spawn_blocking(open).await;
    match opened.map_err(|error| ServeError::Serve(error.to_string()))? {
        Ok(audit) => Ok(Some(audit)),
        Err(error) if config.audit.required => Err(error.into()),
        Err(error) => {
            tracing::error!(%error, "there is no audit log, and the configuration does not require one");
            Ok(None)
        }
    }
}

/// Takes the place for files of output, with the runs that earlier daemons of the socket left there. Without one, runs go on: each says so
/// that asks for a file.
async fn open_spill(config: &Config) -> Result<Result<(SpillStore, Vec<Adopted>), String>, ServeError> {
    let bounds = SpillBounds {
        run_bytes: config.output.run_bytes,
        total_bytes: config.output.total_bytes,
        reserve_bytes: config.output.reserve_bytes,
    };
    let (directory, instance) = (config.output.dir.clone(), RunTable::new_id());
    let keeper = Keeper {
        socket: config.socket.clone(),
        retain_for: config.retain_for,
    };
    let opened = tokio::task::spawn_blocking(move || SpillStore::open(&directory, &instance, bounds, &keeper)).await;
    let opened = opened.map_err(|error| ServeError::Serve(error.to_string()))?;
    Ok(opened.map_err(|error| {
        let why = crate::telemetry::chain(&error).to_string();
        tracing::error!(
            why,
            "no output of runs is written to files, and no run will be known when the daemon is started again"
        );
        why
    }))
}

/// Where answers for always are: beside the audit log, in a directory of their own.
fn answers_directory(config: &Config, audit: Option<&AuditLog>) -> PathBuf {
    let log = audit.map(|audit| audit.path()).unwrap_or(&config.audit.path);
    log.with_file_name("approvals")
}

/// What no command may reach: the daemon's socket, audit log, answers for always, configuration, policies, list of trusted files and scratch
/// directory and the output of runs. Where one of them lies in
/// the directory that Fumehood makes for it, that directory.
fn private_places(config: &Config, audit: Option<&AuditLog>, policies: &Policies) -> Arc<[PathBuf]> {
    let log = audit.map(|audit| audit.path()).unwrap_or(&config.audit.path);
    let head = log.with_extension("head");
    let answers = answers_directory(config, audit);
    let files = [
        Some(config.socket.as_path()),
        config.file.as_deref(),
        Some(&config.audit.path),
        Some(log),
        Some(&head),
        Some(policies.trust().path()),
        Some(&answers),
    ];
    let own_name = std::ffi::OsString::from(format!("fumehood-{}", config.uid));
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let place = |path: &Path| {
        let path = real(path);
        let ours = |parent: &&Path| {
            parent
                .file_name()
                .is_some_and(|name| name == "fumehood" || *name == *own_name)
        };
        path.parent().filter(ours).map(Path::to_owned).unwrap_or(path)
    };
    let directories = config
        .policy_dirs
        .iter()
        .chain(&config.system_policy_dirs)
        .chain([&config.scratch_dir, &config.output.dir])
        .map(|path| real(path));
    let mut places: Vec<_> = files.into_iter().flatten().map(place).chain(directories).collect();
    places.sort();
    places.dedup();
    places.into()
}

/// Reads the policies again at each SIGHUP.
async fn read_again(policies: PoliciesService, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        // What came of it is in both logs.
        let _ = policies.read_again("signal").await;
    }
}

/// Where to listen: what systemd handed over, or the configured socket; and TCP where configured.
fn endpoints(
    config: &Config,
    inherited: Vec<std::os::unix::net::UnixListener>,
    tcp: Option<(std::net::TcpListener, tls::Acceptor)>,
    take_over: Option<&mut TakeOver>,
) -> Result<Listening, ServeError> {
    let failed = |error: io::Error| ServeError::Serve(error.to_string());
    let mut endpoints = Vec::new();
    let mut own = None;
    let mut listeners = inherited;
    let predecessors = take_over.as_ref().map_or(0, |there| there.offer.predecessors + 1);
    if let Some(there) = take_over {
        listeners = std::mem::take(&mut there.unix);
        let lock = there.lock.take().zip(there.offer.own_socket);
        own = lock.map(|(lock, inode)| unix::Socket::handed(&config.socket, inode, lock));
    }
    for listener in listeners {
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
        endpoints.push(Endpoint::Unix(listener));
    }
    if endpoints.is_empty() {
        let reach = unix::Reach::of(&config.allowed_uids, config.uid);
        let (listener, socket) = unix::bind(&config.socket, reach)?;
        endpoints.push(Endpoint::Unix(listener));
        own = Some(socket);
    }
    let mut handed = Handed {
        offer: Offer {
            unix: endpoints.len() as u32,
            predecessors,
            arguments: cli::own_arguments(),
            directory: std::env::current_dir().map(|path| bytes(&path)).unwrap_or_default(),
            ..Offer::default()
        },
        descriptors: Vec::new(),
    };
    for endpoint in &endpoints {
        if let Endpoint::Unix(listener) = endpoint {
            let copy = listener.as_fd().try_clone_to_owned().map_err(failed)?;
            handed.descriptors.push(copy);
        }
    }
    if let Some(socket) = &own {
        let (inode, lock) = socket.hand_over().map_err(failed)?;
        handed.offer.own_socket = Some(inode);
        handed.descriptors.push(lock.into());
    }
    if let Some((listener, acceptor)) = tcp {
        handed.offer.tcp = config.tcp.as_ref().map(|tcp| tcp.listen);
        handed
            .descriptors
            .push(listener.as_fd().try_clone_to_owned().map_err(failed)?);
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        endpoints.push(Endpoint::Tls(listener, acceptor));
    }
    Ok(Listening {
        endpoints,
        socket: own,
        handed,
    })
}

/// Where the daemon listens.
struct Listening {
    endpoints: Vec<Endpoint>,
    /// Its own socket, where no service manager holds it.
    socket: Option<unix::Socket>,
    /// Copies of all of it.
    handed: Handed,
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

/// Waits for the runs to be over; when the grace or the patience is, ends them.
async fn drain(runs: &RunTable, signals: &mut Signals, grace: Duration) {
    let mut active = runs.active();
    let over = |active: &mut watch::Receiver<usize>| {
        let mut active = active.clone();
        async move { active.wait_for(|active| *active == 0).await.is_ok() }
    };
    if *active.borrow() > 0 {
        tracing::info!(runs = *active.borrow(), ?grace, "draining");
    }
    let hurried = tokio::select! {
        _ = over(&mut active) => return,
        () = tokio::time::sleep(grace) => false,
        () = signals.next() => true,
    };
    let grace = if hurried {
        Duration::ZERO
    } else {
        Duration::from_secs(2)
    };
    tracing::info!(runs = *active.borrow(), hurried, "ending the runs that are left");
    runs.end_all(grace).await;
    let ended = tokio::select! {
        _ = over(&mut active) => true,
        () = async { signals.next().await; runs.end_all(Duration::ZERO).await; std::future::pending().await } => true,
        () = tokio::time::sleep(END_TIMEOUT) => false,
    };
    if !ended {
        tracing::error!(
            runs = *active.borrow(),
            "some runs did not end; the launcher's end takes them along"
        );
    }
}

/// Closes the sessions, whose runs are over.
async fn close_all(sessions: &SessionTable) {
    sessions.end_all(SESSIONS_GRACE);
    let mut living = sessions.living();
    let closed = living.wait_for(|living| *living == 0);
    if tokio::time::timeout(SESSIONS_GRACE + END_TIMEOUT, closed)
        .await
        .is_err()
    {
        tracing::error!("some sessions did not end; the launcher's end takes them along");
    }
}

/// Resolves when nothing ran, no session was open and nobody was connected for `period`; never without one.
async fn idle(
    period: Option<Duration>,
    mut active: watch::Receiver<usize>,
    mut sessions: watch::Receiver<usize>,
    mut connections: watch::Receiver<usize>,
    forward: &Forward,
) {
    let Some(period) = period else {
        return std::future::pending().await;
    };
    loop {
        forward.gone().await;
        let busy = [&mut active, &mut sessions, &mut connections].map(|count| *count.borrow_and_update() > 0);
        let busy = busy.contains(&true);
        let changed = async {
            tokio::select! {
                result = active.changed() => result.is_ok(),
                result = sessions.changed() => result.is_ok(),
                result = connections.changed() => result.is_ok(),
            }
        };
        if busy {
            if !changed.await {
                return;
            }
        } else if tokio::time::timeout(period, changed).await.is_err() {
            tracing::info!(?period, "nothing to do; ending");
            return;
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
