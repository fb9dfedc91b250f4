//! The task that owns a session: makes its sandbox, lets runs in, watches its times, and ends it, until nothing of it exists.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fumehood_sandbox::description::Description;
use fumehood_sandbox::event::{DiskResource, Event, SignalScope};
use tokio::sync::{mpsc, oneshot, watch};

use super::handle::{Command, Inside, Session};
use super::model::{Activity, Close, Ended, SessionEnd, SessionPhase};
use crate::audit;
use crate::launch::{FileWorker, Watched, WatchedRun};
use crate::lower;
use crate::refusal::{self, Refusal};
use crate::run::prepare;
use crate::run::{CancelCause, Ending, Enforcement, Kill, Surroundings};

/// SIGTERM and SIGCONT: what is stopped takes the one once it gets the other.
const STOP_SIGNALS: [i32; 2] = [15, 18];

/// How often a session that is being closed is looked at, whether anything is left in it.
const LOOK: Duration = Duration::from_millis(100);

/// How long runs may take to be over once their sandbox is gone.
const RUNS_PATIENCE: Duration = Duration::from_secs(10);

/// Hosts that the refusing proxy was asked for and that wait to be told to runs.
const REFUSED_HOSTS: usize = 64;

/// How long the record of the end may hold up the word of it.
const END_PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Actor {
    pub session: Arc<Session>,
    pub surroundings: Surroundings,
    pub commands: mpsc::Receiver<Command>,
    pub close: watch::Receiver<Option<Close>>,
    pub activity: watch::Receiver<Activity>,
    /// Whether the audit log has its creation, and so wants an end.
    pub recorded: bool,
}

/// A sandbox that stands, with what concerns it as a whole.
struct Standing {
    sandbox: Watched,
    enforcement: Arc<[Enforcement]>,
    refusal: Option<Refusal>,
    refused_hosts: mpsc::Receiver<String>,
    /// Who hears of refused hosts.
    hosts: Vec<mpsc::Sender<String>>,
    /// Who waits for a description.
    asked: VecDeque<oneshot::Sender<Description>>,
    generation: u32,
}

/// Why the sandbox that stands is to go.
enum Next {
    End(Close),
    /// It is gone already.
    Gone(Ended),
    Reset {
        by: String,
        by_pid: Option<i32>,
        done: oneshot::Sender<Result<(), String>>,
    },
}

impl Actor {
    /// Lives the session's life. `written`: the record of its creation, which everything waits for.
    pub(super) async fn run(mut self) {
        let ended = match self.write_creation().await {
            Ok(()) => self.live().await,
            Err(ended) => ended,
        };
        self.finish(ended).await;
    }

    async fn live(&mut self) -> Ended {
        let mut waiting: Option<oneshot::Sender<Result<(), String>>> = None;
        loop {
            let mut standing = match self.begin().await {
                Ok(standing) => standing,
                Err(ended) => return ended,
            };
            let enforcement = Arc::clone(&standing.enforcement);
            self.session.snapshot.send_modify(|snapshot| {
                snapshot.phase = SessionPhase::Open;
                snapshot.enforcement = enforcement;
            });
            if let Some(done) = waiting.take() {
                let _ = done.send(Ok(()));
            }
            match self.serve(&mut standing).await {
                Next::End(close) => return self.end(standing, close).await,
                Next::Gone(ended) => {
                    self.say_over(&ended);
                    standing.stop().await;
                    return ended;
                }
                Next::Reset { by, by_pid, done } => {
                    if let Err(why) = self.write_reset(&by, by_pid).await {
                        let _ = done.send(Err(why));
                        return self
                            .end(standing, Close::now(Ended::lost("its reset could not be recorded")))
                            .await;
                    }
                    self.reset(standing, &by).await;
                    waiting = Some(done);
                }
            }
        }
    }

    /// Makes a sandbox and waits until it stands.
    async fn begin(&mut self) -> Result<Standing, Ended> {
        let generation = self.session.shared().generation;
        let request = &self.session.request;
        let name = match generation {
            0 => format!("session-{}", self.session.number),
            again => format!("session-{}-{again}", self.session.number),
        };
        let mut spec = lower::sandbox(&name, &request.grants, &request.host);
        spec.session = true;
        let launching = self.surroundings.launching.clone();
        if let Some(ending) = prepare::missing(&spec, &launching) {
            return Err(Ended::lost(in_words(&ending)));
        }
        let mut sandbox = prepare::create_sandbox(&spec, &launching)
            .await
            .map_err(|error| Ended::lost(format!("ask the launcher for a sandbox: {error}")))?;
        let memory = request.grants.limits.memory_bytes;
        let made = tokio::select! {
            made = prepare::ready(&mut sandbox, memory, &launching) => made.map_err(|ending| Ended::lost(in_words(&ending))),
            close = asked_to_close(&mut self.close) => Err(close.ended),
        };
        let (enforcement, listener) = match made {
            Ok(made) => made,
            Err(ended) => {
                until_gone(&mut sandbox).await;
                return Err(ended);
            }
        };
        let enforcement = launching.judge(enforcement, &spec, &lower::preferred(&request.grants));
        let (tell, refused_hosts) = mpsc::channel(REFUSED_HOSTS);
        Ok(Standing {
            sandbox,
            enforcement: enforcement.into(),
            refusal: listener.map(|listener| refusal::serve(listener, &request.policy.name, tell)),
            refused_hosts,
            hosts: Vec::new(),
            asked: VecDeque::new(),
            generation,
        })
    }

    /// Lets runs in until the sandbox is to go.
    async fn serve(&mut self, standing: &mut Standing) -> Next {
        let lifetime = self.session.created + self.session.request.lifetime;
        let idle_timeout = self.session.request.idle_timeout;
        loop {
            let activity = *self.activity.borrow_and_update();
            let idle = (activity.active == 0).then(|| activity.used + idle_timeout);
            let until = idle.map_or(lifetime, |idle| idle.min(lifetime));
            tokio::select! {
                // The last word first: what comes after is for a session that goes on.
                biased;
                close = asked_to_close(&mut self.close) => return Next::End(close),
                event = standing.sandbox.receive() => {
                    if let Some(ended) = self.hear(standing, event) {
                        return ended;
                    }
                }
                Some(command) = self.commands.recv() => {
                    if let Some(next) = standing.take(command) {
                        return next;
                    }
                }
                Some(host) = standing.refused_hosts.recv() => standing.tell(&host),
                _ = self.activity.changed() => {}
                () = tokio::time::sleep_until(until.into()) => {
                    let (end, detail) = match Instant::now() >= lifetime {
                        true => (SessionEnd::Lifetime, format!("it lived for {:?}, as long as it may", self.session.request.lifetime)),
                        false => (SessionEnd::Idle, format!("no run was in it for {idle_timeout:?}")),
                    };
                    let (by, grace) = (String::new(), self.session.request.grants.limits.grace);
                    return Next::End(Close { ended: Ended { end, by, detail }, grace });
                }
            }
        }
    }

    /// Takes what the sandbox says of itself.
    fn hear(
        &self,
        standing: &mut Standing,
        event: std::io::Result<Option<(Event, Vec<std::os::fd::OwnedFd>)>>,
    ) -> Option<Next> {
        let limits = &self.session.request.grants.limits;
        let limit = |detail: String| {
            let by = String::new();
            Ended {
                end: SessionEnd::Limit,
                by,
                detail,
            }
        };
        let Ok(Some((event, mut fds))) = event else {
            return Some(Next::Gone(Ended::lost("the launcher died")));
        };
        match event {
            Event::Described => {
                if let (Some(asked), Some(file)) = (standing.asked.pop_front(), fds.pop()) {
                    match Description::read(file) {
                        Ok(description) => drop(asked.send(description)),
                        Err(error) => tracing::error!(%error, "a session's description cannot be read"),
                    }
                }
                None
            }
            Event::MemoryExceeded { bytes } => {
                let most = limits.memory_bytes.unwrap_or(0);
                let detail =
                    format!("what was in it used {bytes} bytes of memory, more than the {most} of the session");
                Some(Next::End(Close::now(limit(detail))))
            }
            Event::DiskExceeded { resource, used } => {
                let (most, what) = match resource {
                    DiskResource::Space => (limits.disk_bytes, "bytes of disk"),
                    DiskResource::Files => (limits.files, "files"),
                };
                let most = most.unwrap_or(0);
                let detail = format!("what was in it took {used} {what}, more than the {most} of the session");
                Some(Next::End(Close::now(limit(detail))))
            }
            Event::Gone { usage, .. } if usage.oom_kills > 0 => {
                let most = limits.memory_bytes.unwrap_or(0);
                Some(Next::Gone(limit(format!(
                    "what was in it used all of its {most} bytes of memory"
                ))))
            }
            Event::Gone { init_status, .. } => {
                let how = match init_status {
                    status @ ..0 => format!("its init was killed by signal {}", -status),
                    status => format!("its init ended with code {status}"),
                };
                Some(Next::Gone(Ended::lost(how)))
            }
            event => {
                tracing::debug!(session = self.session.id(), ?event, "an event of a session as a whole");
                None
            }
        }
    }

    /// Says why everything in the session ends, before it does: who finds its sandbox gone wants to know.
    fn say_over(&self, ended: &Ended) {
        self.session.snapshot.send_modify(|snapshot| {
            snapshot.phase = SessionPhase::Closing;
            snapshot.ended = Some(ended.clone());
        });
    }

    /// Takes no more from handles: those that wait for an answer learn so.
    fn refuse_all(&mut self) {
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
    }

    /// Ends every run in the session; [`Self::runs_are_over`] says when they are.
    fn end_runs(&self, kill: &Kill) {
        let runs: Vec<_> = self
            .session
            .shared()
            .runs
            .iter()
            .filter_map(|run| run.upgrade())
            .collect();
        for run in runs {
            let kill = kill.clone();
            tokio::spawn(async move { run.kill(kill).await });
        }
    }

    async fn runs_are_over(&self) {
        let runs: Vec<_> = self
            .session
            .shared()
            .runs
            .iter()
            .filter_map(|run| run.upgrade())
            .collect();
        let over = async {
            for run in runs {
                run.finished().await;
            }
        };
        if tokio::time::timeout(RUNS_PATIENCE, over).await.is_err() {
            tracing::error!(
                session = self.session.id(),
                "runs of a session are not over though its sandbox is gone"
            );
        }
    }

    /// Ends the sandbox and everything in it.
    async fn end(&mut self, mut standing: Standing, close: Close) -> Ended {
        let Close { ended, mut grace } = close;
        self.say_over(&ended);
        // New runs find it closed; those that wait for its sandbox are told by the end of the channel.
        self.refuse_all();
        let began = Instant::now();
        self.end_runs(&Kill {
            cause: CancelCause::Session,
            by: ended.by.clone(),
            reason: ended.detail.clone(),
            grace: Some(grace),
        });
        if !grace.is_zero() {
            for signal in STOP_SIGNALS {
                let _ = standing.sandbox.handle().signal(signal, SignalScope::Tree);
            }
        }
        let mut gone = false;
        while !gone && began.elapsed() < grace {
            let _ = standing.sandbox.handle().describe();
            let look = tokio::time::sleep(LOOK.min(grace.saturating_sub(began.elapsed())));
            tokio::pin!(look);
            loop {
                tokio::select! {
                    event = standing.sandbox.receive() => match event {
                        Ok(Some((Event::Described, mut fds))) => {
                            let description = fds.pop().and_then(|file| Description::read(file).ok());
                            if description.is_some_and(|description| description.process_count == 0) {
                                grace = Duration::ZERO;
                            }
                        }
                        Ok(Some((Event::Gone { .. }, _)) | None) | Err(_) => gone = true,
                        Ok(Some(_)) => {}
                    },
                    result = self.close.changed() => match (result, self.close.borrow().clone()) {
                        (Ok(()), Some(sooner)) => grace = grace.min(sooner.grace),
                        _ => grace = Duration::ZERO,
                    },
                    () = &mut look => break,
                }
                if gone || grace.is_zero() {
                    break;
                }
            }
        }
        if !gone {
            until_gone(&mut standing.sandbox).await;
        }
        standing.stop().await;
        self.runs_are_over().await;
        ended
    }

    /// Ends the sandbox, and everything that runs took over from each other.
    async fn reset(&mut self, mut standing: Standing, by: &str) {
        let ending = Ending::Cancelled {
            cause: CancelCause::Session,
            by: by.to_owned(),
            reason: "the session was reset".to_owned(),
        };
        self.session.snapshot.send_modify(|snapshot| {
            snapshot.phase = SessionPhase::Starting;
            snapshot.resets += 1;
        });
        {
            let mut shared = self.session.shared();
            shared.over = Some((standing.generation, ending));
            shared.generation += 1;
            shared.carried = Arc::default();
        }
        self.end_runs(&Kill {
            cause: CancelCause::Session,
            by: by.to_owned(),
            reason: "the session was reset".to_owned(),
            grace: Some(Duration::ZERO),
        });
        until_gone(&mut standing.sandbox).await;
        standing.stop().await;
        self.runs_are_over().await;
        self.session.background.clear();
    }

    async fn write_creation(&mut self) -> Result<(), Ended> {
        let Some(audit) = self.surroundings.audit.clone() else {
            return Ok(());
        };
        let written = audit
            .session(&audit::SessionRecord::created(&self.session.request))
            .await;
        self.recorded = written.is_ok();
        match written {
            Err(error) if self.surroundings.audit_required => {
                let why = crate::telemetry::chain(&error);
                Err(Ended::lost(format!("its creation cannot be recorded: {why}")))
            }
            Err(error) => {
                let why = crate::telemetry::chain(&error).to_string();
                tracing::error!(
                    why,
                    "a session is not in the audit log, and the configuration does not require it"
                );
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    async fn write_reset(&self, by: &str, by_pid: Option<i32>) -> Result<(), String> {
        let Some(audit) = self.surroundings.audit.as_ref().filter(|_| self.recorded) else {
            return Ok(());
        };
        let id = self.session.request.recorded_id();
        match audit.session(&audit::SessionRecord::reset(&id, by, by_pid)).await {
            Err(error) if self.surroundings.audit_required => Err(crate::telemetry::chain(&error).to_string()),
            _ => Ok(()),
        }
    }

    /// Writes the end down and announces it.
    async fn finish(mut self, ended: Ended) {
        self.say_over(&ended);
        self.refuse_all();
        self.runs_are_over().await;
        if let (Some(audit), true) = (self.surroundings.audit.clone(), self.recorded) {
            let runs = self.session.activity().total;
            let record = audit::SessionRecord::closed(&self.session.request.recorded_id(), &ended, runs);
            let id = self.session.id().to_owned();
            let written = tokio::spawn(async move {
                if let Err(error) = audit.session(&record).await {
                    tracing::error!(session = id, %error, "the end of a session is not in the audit log");
                }
            });
            let _ = tokio::time::timeout(END_PATIENCE, written).await;
        }
        let (session, end, detail) = (self.session.id(), ended.end.name(), &ended.detail);
        tracing::info!(session, end, detail, "session closed");
        self.session.snapshot.send_modify(|snapshot| {
            snapshot.phase = SessionPhase::Closed;
            snapshot.closed_at = Some(SystemTime::now());
        });
    }
}

impl Standing {
    /// Does what a handle asks for.
    fn take(&mut self, command: Command) -> Option<Next> {
        match command {
            Command::Run {
                number,
                command,
                stdio,
                state,
                hosts,
                entered,
            } => {
                // Who asked may have been ended while the sandbox was being made.
                if entered.is_closed() {
                    return None;
                }
                let run = self.sandbox.handle().run(number, &command, stdio, state);
                let run = run.and_then(WatchedRun::watch);
                if run.is_ok() {
                    self.hosts.retain(|other| !other.is_closed());
                    self.hosts.push(hosts);
                }
                // A handle that nobody takes ends the run.
                let _ = entered.send(run.map(|run| Inside {
                    run,
                    enforcement: Arc::clone(&self.enforcement),
                    generation: self.generation,
                }));
                None
            }
            Command::Files {
                number,
                command,
                entered,
            } => {
                if entered.is_closed() {
                    return None;
                }
                let started = self.sandbox.handle().run_files(number, &command);
                let watched = started
                    .and_then(|(run, worker)| Ok((WatchedRun::watch(run)?, FileWorker::new(worker)?, self.generation)));
                let _ = entered.send(watched);
                None
            }
            Command::Describe(reply) => {
                if self.sandbox.handle().describe().is_ok() {
                    self.asked.push_back(reply);
                }
                None
            }
            Command::Reset { by, by_pid, done } => Some(Next::Reset { by, by_pid, done }),
        }
    }

    /// Tells runs of a host that was refused. Nobody can say which run asked for it: each that is there hears of it.
    fn tell(&mut self, host: &str) {
        self.hosts.retain(|run| !run.is_closed());
        for run in &self.hosts {
            let _ = run.try_send(host.to_owned());
        }
    }

    async fn stop(self) {
        if let Some(refusal) = self.refusal {
            refusal.stop().await;
        }
    }
}

impl Close {
    pub(super) fn now(ended: Ended) -> Close {
        Close {
            ended,
            grace: Duration::ZERO,
        }
    }
}

async fn asked_to_close(close: &mut watch::Receiver<Option<Close>>) -> Close {
    match close.wait_for(Option::is_some).await.map(|close| close.clone()) {
        Ok(Some(close)) => close,
        // Nobody holds the session any more, not even the table.
        _ => Close::now(Ended::lost("nobody knows it any more")),
    }
}

/// Kills a sandbox and waits until nothing of it exists.
async fn until_gone(sandbox: &mut Watched) {
    let _ = sandbox.handle().kill();
    while let Ok(Some((event, _))) = sandbox.receive().await {
        if matches!(event, Event::Gone { .. }) {
            return;
        }
    }
}

/// Why there is no sandbox.
fn in_words(ending: &Ending) -> String {
    match ending {
        Ending::SandboxFailed {
            protection,
            stage,
            errno,
            path,
            hint,
        } => {
            let mut words = vec![format!("the sandbox could not be made: {stage}")];
            words.extend(protection.map(|protection| format!("of `{}`", protection.name())));
            words.extend((!path.is_empty()).then(|| String::from_utf8_lossy(path).into_owned()));
            words.extend((*errno != 0).then(|| std::io::Error::from_raw_os_error(*errno).to_string()));
            words.extend((!hint.is_empty()).then(|| hint.clone()));
            words.join("; ")
        }
        Ending::OutOfMemory { limit_bytes } => format!("the sandbox needs more than its {limit_bytes} bytes of memory"),
        Ending::Lost { why } => why.clone(),
        other => other.name().to_owned(),
    }
}
