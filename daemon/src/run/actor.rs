//! The task that owns a run.
//!
//! From the decision to the last event, in the order in which it happens: wait for an answer where the policy asks, for a place, build the sandbox while
//! the audit log takes the intent, send the command once both are done, follow it, and when nothing of it exists any more, write
//! the end down and say so. Every waiting step also listens to requests, so a run can be ended at any moment of its life.

mod ask;
mod follow;
mod terminal;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fumehood_policies::{Decision, Grants, Network, Question};
use fumehood_sandbox::event as sandbox_event;
use fumehood_sandbox::event::SignalScope;
use fumehood_sandbox::spec::{CommandSpec, Protection, State, TerminalSize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::deeds::Deeds;
use super::input::Piece;
use super::journal::Journal;
use super::learn::Recorded;
use super::model::{
    CancelCause, Denial, Denials, Ending, Enforcement, Event, Evidence, Finished, InSession, Phase, Request, Snapshot,
    Started, Stream, Usage,
};
use super::prepare::{self, failed, ready, sandbox_failed};
use super::spill::SpillStore;
use crate::approvals::Approvals;
use crate::audit::{self, AuditLog};
use crate::launch::{Launching, Tree, Watched};
use crate::session::{Carry, Presence, StateFile};
use crate::{lower, refusal};
use follow::{Carrying, Sent};

/// A request to end a run.
#[derive(Clone, Debug)]
pub struct Kill {
    /// Why.
    pub cause: CancelCause,
    /// Who asks.
    pub by: String,
    /// The reason given.
    pub reason: String,
    /// From the stop signal to SIGKILL; `None`: the run's own.
    pub grace: Option<Duration>,
}

/// From handles to the actor.
#[derive(Debug)]
pub(super) enum Command {
    Kill(Kill),
    Signal { signal: i32, scope: SignalScope },
    Resize(TerminalSize),
}

/// What runs share.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where sandboxes come from.
    pub launching: Launching,
    /// Where it is written down; `None` where there is no log and the configuration does not require one.
    pub audit: Option<AuditLog>,
    /// Whether a run whose intent cannot be written may not start.
    pub audit_required: bool,
    /// Where questions of policies wait for people.
    pub approvals: Approvals,
    /// Where whole output is written; or why nowhere.
    pub spill: Result<SpillStore, String>,
}

impl Surroundings {
    /// What a record that could not be written means for its run.
    fn judge_audit(&self, written: Result<(), String>) -> Result<(), Ending> {
        match written {
            Err(error) if self.audit_required => Err(failed(None, "write the audit record", 0, error)),
            Err(error) => {
                tracing::error!(
                    error,
                    "a run is not in the audit log, and the configuration does not require it"
                );
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// How long the end of a run waits to be durable before it is announced.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Hosts that the refusing proxy was asked for and that wait to be noted, at most.
const REFUSED_HOSTS: usize = 64;

/// What the actor is made from.
pub(super) struct Actor {
    /// Its place in the order of acceptance; names its sandbox, whose cgroups and directories take fewer characters than ids do.
    pub(super) number: u64,
    pub request: Request,
    pub surroundings: Surroundings,
    pub journal: Arc<Journal>,
    pub snapshot: watch::Sender<Snapshot>,
    pub commands: mpsc::Receiver<Command>,
    pub input: mpsc::Receiver<Piece>,
    /// What others did to it, of which the rest is recorded before its end.
    pub deeds: Arc<Deeds>,
    pub accepted_at: Instant,
    /// The places among the running ones: for a run that gave its own back while it waited for an answer.
    pub places: Arc<Semaphore>,
    /// What let it start, for the record of its intent.
    pub allowed_by: String,
    /// Whether the audit log has the intent, and so wants an end.
    pub recorded: bool,
    /// Names of the variables that the policy passed on from the caller; for runs to learn from.
    pub passed: Vec<String>,
    /// Its place in its session.
    pub presence: Option<Presence>,
}

/// What is known of a run's end while it is being brought about.
#[derive(Default)]
struct Outcome {
    ending: Option<Ending>,
    usage: Usage,
    enforcement: Vec<Enforcement>,
    digests: [Option<String>; 2],
    denials: Denials,
    not_carried: String,
    recorded: Option<Arc<Recorded>>,
}

impl Outcome {
    fn ended(ending: Ending) -> Self {
        Outcome {
            ending: Some(ending),
            ..Outcome::default()
        }
    }
}

impl Actor {
    /// Runs the run. `place` resolves when it has a place among the running ones.
    pub(super) async fn run(mut self, place: impl Future<Output = Option<OwnedSemaphorePermit>> + Send + 'static) {
        let outcome = self.live(place).await;
        self.finish(outcome).await;
    }

    async fn live(&mut self, place: impl Future<Output = Option<OwnedSemaphorePermit>> + Send + 'static) -> Outcome {
        let mut place: Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>> = Box::pin(place);
        // An allow-list chooses from the caller's environment; nothing of the rest stays in memory.
        let decision = self.decide(&self.request.judged_argv(), &self.request.judged_env());
        let left_over = match &decision {
            Decision::Denied(denial) => self.denied_for_what_was_left(&denial.explanation),
            _ => String::new(),
        };
        let caller_env = std::mem::take(&mut self.request.caller_env);
        let grants = match decision {
            Decision::Allowed(grants) => grants,
            Decision::Denied(denial) => {
                let above = prepare::standing_under(&self.request.layers);
                return self.deny(denial.rule, denial.explanation + &above + &left_over).await;
            }
            Decision::Ask(question) => {
                // Whoever waits for a person keeps nobody else waiting.
                drop(place);
                let places = Arc::clone(&self.places);
                place = Box::pin(async move { places.acquire_owned().await.ok() });
                match self.approve(question).await {
                    Ok(grants) => grants,
                    Err(outcome) => return outcome,
                }
            }
        };
        let launching = &self.surroundings.launching;
        let found = match self.request.session {
            None => prepare::find_all(grants, &mut self.request.host, launching).await,
            // It was looked for when the session was made.
            Some(_) => Ok(grants),
        };
        let mut grants = match found {
            Ok(grants) => grants,
            Err(error) => {
                return self
                    .deny(error.rule().to_owned(), crate::telemetry::chain(&error).to_string())
                    .await;
            }
        };
        if let Some(learn) = &self.request.learn {
            if let (Network::Host(_), false) = (&grants.network, learn.network) {
                grants.network = Network::Loopback;
            }
            let named = |name: &[u8]| String::from_utf8(name.to_vec()).ok();
            self.passed = caller_env
                .iter()
                .filter(|(name, value)| learn.own.environment.passes(name) && grants.env.get(name) == Some(value))
                .filter_map(|(name, _)| named(name))
                .collect();
        }
        drop(caller_env);
        if let Some((rule, explanation)) = prepare::shows_hidden(&self.request.policy.name, &grants, &self.request.host)
        {
            return self.deny(rule.to_owned(), explanation).await;
        }
        let _place = match self.wait_for(place).await {
            Ok(Some(place)) => place,
            Ok(None) => return self.give_up(cancelled(CancelCause::Drain)).await,
            Err(kill) => return self.give_up(kill.ending()).await,
        };
        let queued = self.accepted_at.elapsed();
        self.set_phase(Phase::Starting);
        let starting = Instant::now();
        let mut outcome = match self.request.session.clone() {
            None => self.with_sandbox(&grants, starting).await,
            Some(place) => self.in_session(&place, &grants, starting).await,
        };
        outcome.usage.queued = queued;
        outcome
    }

    fn decide(&self, argv: &[Vec<u8>], env: &[(Vec<u8>, Vec<u8>)]) -> Decision {
        self.request.policy.decide(&fumehood_policies::Request {
            tool: fumehood_policies::Tool::Shell,
            argv,
            caller_env: &self.request.caller_env,
            env,
            limits: self.request.limits,
        })
    }

    /// What to do about a denial where the line by itself would not be denied, but what earlier ones left it is; else empty.
    fn denied_for_what_was_left(&self, explanation: &str) -> String {
        let (Some(place), Some((argv, env))) = (&self.request.session, self.request.judged_alone()) else {
            return String::new();
        };
        match self.decide(argv, &env) {
            Decision::Denied(_) => String::new(),
            Decision::Allowed(_) | Decision::Ask(_) => place.begin.how_to_drop(place.session.id(), explanation),
        }
    }

    /// Ends a run that was allowed and had no place yet: its story is in the log as that of any other.
    async fn give_up(&mut self, ending: Ending) -> Outcome {
        match self.write_intent(self.allowed()).await {
            Ok(()) => Outcome::ended(ending),
            Err(failed) => Outcome::ended(failed),
        }
    }

    /// Writes a denial down and makes it the run's end.
    async fn deny(&mut self, rule: String, explanation: String) -> Outcome {
        let denied = audit::Decision::Denied {
            rule: rule.clone(),
            reason: explanation.clone(),
        };
        match self.write_intent(denied).await {
            Ok(()) => Outcome::ended(Ending::Denied { rule, explanation }),
            Err(ending) => Outcome::ended(ending),
        }
    }

    /// Waits for `future` unless somebody ends the run first.
    async fn wait_for<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Kill> {
        tokio::pin!(future);
        loop {
            tokio::select! {
                value = &mut future => return Ok(value),
                command = self.commands.recv() => match command {
                    Some(Command::Kill(kill)) => return Err(kill),
                    // There is nobody yet to signal.
                    Some(Command::Signal { .. }) => {}
                    Some(Command::Resize(size)) => self.resize(size),
                    // The table forgot the run: it is not announced any more, nobody can end it.
                    None => return Err(Kill::nobody()),
                },
            }
        }
    }

    /// Builds the sandbox while the audit log takes the intent; sends the command once both are done; follows it.
    async fn with_sandbox(&mut self, grants: &Grants, starting: Instant) -> Outcome {
        let mut spec = lower::sandbox(&format!("run-{}", self.number), grants, &self.request.host);
        if self.request.learn.is_some() {
            // A look at each writable place, of which a policy names few.
            lower::make_throwaway(&mut spec, |path| path.is_dir());
        }
        if let Some(ending) = prepare::missing(&spec, &self.surroundings.launching) {
            let _ = self.write_intent(self.allowed()).await;
            return Outcome::ended(ending);
        }
        let mut sandbox = match prepare::create_sandbox(&spec, &self.surroundings.launching).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                let _ = self.write_intent(self.allowed()).await;
                let errno = error.raw_os_error().unwrap_or(0);
                return Outcome::ended(failed(None, "ask the launcher for a sandbox", errno, error.to_string()));
            }
        };
        // The intent is durable before the command starts, not before its sandbox is built: both take their time at once.
        let intent = self.intent(self.allowed());
        let audit = self.surroundings.audit.clone();
        let written = tokio::spawn(async move {
            match audit {
                Some(audit) => audit.intent(&intent).await.map(drop),
                None => Ok(()),
            }
        });
        let launching = self.surroundings.launching.clone();
        let ready = match self
            .wait_for(ready(&mut sandbox, grants.limits.memory_bytes, &launching))
            .await
        {
            Ok(ready) => ready,
            Err(kill) => {
                self.recorded = matches!(written.await, Ok(Ok(())));
                return self.abandon(sandbox, kill.ending()).await;
            }
        };
        let written = written
            .await
            .map_err(|error| error.to_string())
            .and_then(|result| result.map_err(|e| e.to_string()));
        self.recorded = written.is_ok();
        let written = self.surroundings.judge_audit(written);
        let (enforcement, refusal) = match ready {
            Ok(ready) => ready,
            Err(ending) => return self.abandon(sandbox, ending).await,
        };
        if let Err(ending) = written {
            return self.abandon(sandbox, ending).await;
        }
        let (tell, refused_hosts) = mpsc::channel(REFUSED_HOSTS);
        let refusal = refusal.map(|listener| refusal::serve(listener, &self.request.policy.name, tell));
        let enforcement = self
            .surroundings
            .launching
            .judge(enforcement, &spec, &lower::preferred(grants));
        let command = self.command_spec(grants);
        let (outputs, feeder, stdio) = match self.pipes() {
            Ok(pipes) => pipes,
            Err(error) => return self.abandon(sandbox, not_sent(&error)).await,
        };
        let sent = match stdio {
            Some(stdio) => sandbox.handle().exec(&command, stdio),
            None => sandbox.handle().exec_on_terminal(&command),
        };
        if let Err(error) = sent {
            return self.abandon(sandbox, not_sent(&error)).await;
        }
        let started = Sent {
            tree: Tree::Own(sandbox),
            outputs,
            feeder,
            enforcement,
            starting,
            refused_hosts,
            carrying: None,
            generation: None,
        };
        let outcome = self.follow(started, grants).await;
        if let Some(refusal) = refusal {
            refusal.stop().await;
        }
        outcome
    }

    /// Records the intent, has the command executed in its session, and follows it.
    async fn in_session(&mut self, place: &InSession, grants: &Grants, starting: Instant) -> Outcome {
        if let Err(ending) = self.write_intent(self.allowed()).await {
            return Outcome::ended(ending);
        }
        let mut command = self.command_spec(grants);
        let mut carrying = None;
        let mut theirs = None;
        if let Some(line) = &self.request.line {
            // Where an earlier line went is entered by the shell: that may be gone, and this one still wants to begin somewhere.
            let enter = place.begin.cwd.as_deref().filter(|_| !place.cwd_named);
            if enter.is_some() {
                command.cwd = "/".into();
            }
            if line.shell.needs_state(&place.begin, line.carry) {
                let file = StateFile::new(&place.begin.text).and_then(|file| Ok((file.for_shell()?, file)));
                match file {
                    Ok((shells, file)) => {
                        theirs = Some(shells);
                        let bytes = |text: &std::ffi::OsString| text.as_bytes().to_vec();
                        let given = command.env.iter().map(|(name, value)| (bytes(name), bytes(value)));
                        // As if it had been given them and had unset them.
                        let given = given.chain(place.dropped.iter().map(|name| (name.clone(), Vec::new())));
                        carrying = (line.carry != Carry::Nothing).then(|| Carrying {
                            place: place.clone(),
                            file,
                            carry: line.carry,
                            given: given.collect(),
                        });
                    }
                    Err(error) => return Outcome::ended(not_sent(&error)),
                }
            }
            command.state = theirs.is_some();
        }
        let (outputs, feeder, stdio) = match self.pipes() {
            Ok(pipes) => pipes,
            Err(error) => return Outcome::ended(not_sent(&error)),
        };
        let session = Arc::clone(&place.session);
        let entering = session.run(self.number, command, stdio, theirs, REFUSED_HOSTS);
        let entered = match self.wait_for(entering).await {
            Ok(Ok(entered)) => entered,
            Ok(Err(ending)) => return Outcome::ended(ending),
            Err(kill) => return Outcome::ended(kill.ending()),
        };
        let started = Sent {
            tree: Tree::InSession(entered.run),
            outputs,
            feeder,
            enforcement: entered.enforcement,
            starting,
            refused_hosts: entered.refused_hosts,
            carrying,
            generation: Some(entered.generation),
        };
        self.follow(started, grants).await
    }

    /// What is executed.
    fn command_spec(&self, grants: &Grants) -> CommandSpec {
        let request = &self.request;
        let mut command = lower::command(
            &request.executed_argv(),
            request.umask,
            &request.own_env(),
            grants,
            &request.host,
        );
        command.env.retain(|(name, _)| !request.has_unset(name.as_bytes()));
        if let Some(terminal) = &request.terminal {
            lower::give_terminal(&mut command, terminal.size, &terminal.term, &request.env);
        }
        command
    }

    /// Kills a sandbox in which nothing was started and waits until it is gone.
    async fn abandon(&mut self, mut sandbox: Watched, ending: Ending) -> Outcome {
        let _ = sandbox.handle().kill();
        while let Ok(Some((event, _))) = sandbox.receive().await {
            if matches!(event, sandbox_event::Event::Gone { .. }) {
                break;
            }
        }
        Outcome::ended(ending)
    }

    fn allowed(&self) -> audit::Decision {
        audit::Decision::Allowed {
            rule: self.allowed_by.clone(),
        }
    }

    fn intent(&self, decision: audit::Decision) -> audit::Intent {
        let request = &self.request;
        audit::Intent {
            run_id: request.recorded_id(),
            peer: request.peer.to_string(),
            peer_pid: request.peer.pid(),
            request_digest: hex(&request.digest),
            policy_name: request.policy.name.clone(),
            policy_digest: request.policy.digest.to_string(),
            policy_layers: request.layers.clone(),
            decision,
            argv: audit::kept_arguments(&request.argv, request.policy.audit.arguments),
            env_names: request.env.iter().map(|(name, _)| name.clone()).collect(),
            workspace: path_bytes(&request.host.workspace),
            cwd: path_bytes(&request.host.cwd),
            labels: request.labels.clone(),
            session: request
                .session
                .as_ref()
                .map(|place| place.session.request.recorded_id()),
            carried: request
                .session
                .as_ref()
                .filter(|_| request.line.is_some())
                .map(|place| place.begin.summary())
                .unwrap_or_default(),
        }
    }

    async fn write_intent(&mut self, decision: audit::Decision) -> Result<(), Ending> {
        let Some(audit) = &self.surroundings.audit else {
            return Ok(());
        };
        let ends = matches!(decision, audit::Decision::Allowed { .. });
        let written = audit
            .intent(&self.intent(decision))
            .await
            .map(drop)
            .map_err(|error| error.to_string());
        self.recorded = ends && written.is_ok();
        self.surroundings.judge_audit(written)
    }

    /// Notes the terminal's size.
    fn resize(&mut self, size: TerminalSize) {
        if let Some(terminal) = &mut self.request.terminal {
            terminal.size = size;
            self.snapshot.send_modify(|snapshot| snapshot.terminal = Some(size));
        }
    }

    fn set_phase(&self, phase: Phase) {
        self.snapshot.send_modify(|snapshot| snapshot.phase = phase);
    }

    /// Writes the end down and announces it.
    async fn finish(self, outcome: Outcome) {
        let ending = outcome.ending.unwrap_or(Ending::Lost {
            why: "the run's end was not seen".to_owned(),
        });
        self.deeds.tell_rest();
        // A denial is one record, not an intent with an end; and without an intent in the log there is nothing to end.
        if let (Some(audit), true) = (&self.surroundings.audit, self.recorded) {
            let end = audit_end(
                &self.request.recorded_id(),
                &ending,
                &outcome.enforcement,
                &outcome.usage,
                outcome.digests,
                &outcome.denials,
            );
            let (audit, id) = (audit.clone(), self.request.id.clone());
            let written = tokio::spawn(async move {
                if let Err(error) = audit.end(&end).await {
                    tracing::error!(run = id, %error, "the end of a run is not in the audit log");
                }
            });
            // A log that cannot be written now keeps the record and tries again; the run is over all the same.
            let _ = tokio::time::timeout(END_PATIENCE, written).await;
        }
        tracing::info!(run = self.request.id, ending = ending.name(), "run finished");
        let finished = Arc::new(Finished {
            ending,
            usage: outcome.usage,
            denials: outcome.denials,
            not_carried: outcome.not_carried,
            recorded: outcome.recorded,
        });
        let now = SystemTime::now();
        self.snapshot.send_modify(|snapshot| {
            snapshot.phase = Phase::Finished;
            snapshot.finished_at = Some(now);
            snapshot.finished = Some(Arc::clone(&finished));
        });
        // Who hears of the end finds the session without it.
        drop(self.presence);
        self.journal.append_at(Event::Finished(finished), now);
    }

    /// Says that the command runs.
    fn announce_start(&self, started: Started) {
        let started = Arc::new(started);
        let now = SystemTime::now();
        self.snapshot.send_modify(|snapshot| {
            snapshot.phase = Phase::Running;
            snapshot.started_at = Some(now);
            snapshot.started = Some(Arc::clone(&started));
        });
        self.journal.append_at(Event::Started(started), now);
    }
}

impl Kill {
    fn nobody() -> Kill {
        Kill {
            cause: CancelCause::Drain,
            by: String::new(),
            reason: String::new(),
            grace: None,
        }
    }

    fn ending(&self) -> Ending {
        Ending::Cancelled {
            cause: self.cause,
            by: self.by.clone(),
            reason: self.reason.clone(),
        }
    }
}

fn cancelled(cause: CancelCause) -> Ending {
    Ending::Cancelled {
        cause,
        by: String::new(),
        reason: String::new(),
    }
}

fn not_sent(error: &std::io::Error) -> Ending {
    failed(
        None,
        "send the command",
        error.raw_os_error().unwrap_or(0),
        error.to_string(),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn path_bytes(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}

/// The end as the audit log records it.
fn audit_end(
    run_id: &str,
    ending: &Ending,
    enforcement: &[Enforcement],
    usage: &Usage,
    digests: [Option<String>; 2],
    denials: &Denials,
) -> audit::End {
    use audit::Detail::{Bytes as Text, Flag, Number};
    let text = |text: &str| Text(text.as_bytes().to_vec());
    let details: Vec<(&str, audit::Detail)> = match ending {
        Ending::Exited { code } => vec![("code", Number((*code).into()))],
        Ending::Signaled { signal, core } => vec![("signal", Number((*signal).into())), ("core", Flag(*core))],
        Ending::TimedOut { limit, after } => vec![
            ("limit", text(&format!("{limit:?}").to_lowercase())),
            ("after_ms", Number(i64::try_from(after.as_millis()).unwrap_or(i64::MAX))),
        ],
        Ending::Cancelled { cause, by, reason } => vec![
            ("cause", text(&format!("{cause:?}").to_lowercase())),
            ("by", text(by)),
            ("reason", text(reason)),
        ],
        Ending::OutOfMemory { limit_bytes } => vec![("limit_bytes", Number(*limit_bytes as i64))],
        Ending::OutputLimit { stream, limit_bytes } => vec![
            ("stream", text(&format!("{stream:?}").to_lowercase())),
            ("limit_bytes", Number(*limit_bytes as i64)),
        ],
        Ending::DiskLimit { resource, limit, used } => vec![
            ("resource", text(&format!("{resource:?}").to_lowercase())),
            ("limit", Number(i64::try_from(*limit).unwrap_or(i64::MAX))),
            ("used", Number(i64::try_from(*used).unwrap_or(i64::MAX))),
        ],
        Ending::Denied { rule, explanation } => vec![("rule", text(rule)), ("explanation", text(explanation))],
        Ending::SpawnFailed { stage, errno, path } => {
            vec![
                ("stage", text(stage)),
                ("errno", Number((*errno).into())),
                ("path", Text(path.clone())),
            ]
        }
        Ending::SandboxFailed {
            protection,
            stage,
            errno,
            path,
            hint,
        } => vec![
            ("protection", text(protection.map_or("", Protection::name))),
            ("stage", text(stage)),
            ("errno", Number((*errno).into())),
            ("path", Text(path.clone())),
            ("hint", text(hint)),
        ],
        Ending::Lost { why } => vec![("why", text(why))],
    };
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).ok();
    let measured = usage.from_cgroup.is_some();
    let [stdout, stderr] = Stream::ALL.map(|stream| audit::StreamDigest {
        bytes: usage.output_bytes[stream.index()],
        sha256: digests[stream.index()].clone(),
    });
    audit::End {
        run_id: run_id.to_owned(),
        outcome: ending.name().to_owned(),
        details: details
            .into_iter()
            .map(|(name, detail)| (name.to_owned(), detail))
            .collect(),
        shell_code: Some(ending.shell_code()),
        enforcement: enforcement
            .iter()
            .map(|entry| {
                let (state, detail) = match &entry.state {
                    State::Active(detail) => ("active", detail),
                    State::Degraded(detail) => ("degraded", detail),
                    State::Off(detail) => ("off", detail),
                };
                audit::Enforcement {
                    protection: entry.protection.name().to_owned(),
                    state: state.to_owned(),
                    detail: detail.clone(),
                }
            })
            .collect(),
        usage: audit::Usage {
            wall_us: micros(usage.wall).filter(|_| measured),
            cpu_user_us: micros(usage.cpu_user).filter(|_| measured),
            cpu_system_us: micros(usage.cpu_system).filter(|_| measured),
            memory_peak_bytes: Some(usage.memory_peak_bytes).filter(|_| measured),
            oom_kills: Some(usage.oom_kills).filter(|_| usage.from_cgroup == Some(true)),
            fork_failures: usage.fork_failures,
            throttled_us: usage.throttled.and_then(micros),
        },
        stdout,
        stderr,
        denials: denials.list.iter().map(audit_denial).collect(),
        denial_count: denials.count,
    }
}

fn audit_denial(denial: &Denial) -> audit::Denial {
    audit::Denial {
        protection: denial.protection.name().to_owned(),
        operation: denial.operation.name(),
        subject: denial.subject.bytes().to_vec(),
        rule: denial.rule.clone(),
        inferred: denial.evidence == Evidence::Inferred,
    }
}
