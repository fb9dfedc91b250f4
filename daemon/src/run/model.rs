//! What a run is asked, what happens in it, and how it ends.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fumehood_policies::{Limits, Policy, RequestedLimits};
use fumehood_sandbox::event::{DiskResource, Leftover};
pub use fumehood_sandbox::spec::TerminalSize;
use fumehood_sandbox::spec::{Protection, State};
use serde::{Deserialize, Serialize};

use super::host::Host;
use super::learn::Recorded;
use super::saved::{LimitsForm, shared};
use crate::approvals::{Pending, Resolution};
use crate::peer::Peer;
use crate::session::{Carried, Carry, Session, Shell};

/// A request to run a command, checked at the door.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its id, chosen by the client or by the door.
    pub id: String,
    /// SHA-256 of the request as the wire carried it.
    pub digest: [u8; 32],
    /// Who asks.
    pub peer: Peer,
    /// Program and arguments.
    pub argv: Vec<Vec<u8>>,
    /// The request's own variables.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The caller's environment, candidates for the policy's `pass`. Emptied once the policy has decided.
    pub caller_env: Vec<(Vec<u8>, Vec<u8>)>,
    /// As whom and where.
    pub host: Host,
    /// The policy that decides.
    pub policy: Arc<Policy>,
    /// What it comes from; see [`Choice`](crate::policy::Choice).
    pub layers: Vec<String>,
    /// What the project's file states and was not given, in words.
    pub not_given: Vec<String>,
    /// Bounds tighter than the policy's.
    pub limits: RequestedLimits,
    /// Whether the command's input is a pipe that clients fill; /dev/null otherwise.
    pub input: bool,
    /// Bytes of output kept in memory, of both streams together.
    pub keep_bytes: usize,
    /// Whether both output streams are one pipe, and one stream.
    pub merged: bool,
    /// Whether the whole output is written to a file.
    pub spill: bool,
    /// Free text of the caller's.
    pub labels: BTreeMap<String, String>,
    /// Permission bits that new files do not get.
    pub umask: u32,
    /// The terminal that it gets.
    pub terminal: Option<Terminal>,
    /// Whether it is there to learn from, and how.
    pub learn: Option<Learn>,
    /// The line for a shell that `argv` stands for.
    pub line: Option<Line>,
    /// The session that it runs in.
    pub session: Option<InSession>,
}

/// A line for a shell.
#[derive(Clone, Debug)]
pub struct Line {
    /// What reads it.
    pub shell: Shell,
    /// The line.
    pub text: Vec<u8>,
    /// What the next line of the session finds of it.
    pub carry: Carry,
}

/// A place in a session.
#[derive(Clone, Debug)]
pub struct InSession {
    /// The session.
    pub session: Arc<Session>,
    /// What the run finds of the lines before it.
    pub begin: Arc<Carried>,
    /// Whether the request says where it begins.
    pub cwd_named: bool,
    /// Variables of those that it would find, which its line does nothing but unset: it is started without them.
    pub dropped: Vec<Vec<u8>>,
}

/// A terminal for a command.
#[derive(Clone, Debug)]
pub struct Terminal {
    /// Its size, the latest that anybody asked for.
    pub size: TerminalSize,
    /// The value of TERM; empty: the policy's, or a default.
    pub term: String,
}

/// How a run to learn from differs from others: it is recorded, and its changes vanish.
#[derive(Clone, Debug)]
pub struct Learn {
    /// Whether it gets the network that its policy gives; loopback at most without.
    pub network: bool,
    /// The policy that decides, without the ceilings over it: those hold over a proposal as well, and are no part of it.
    pub own: Arc<Policy>,
}

impl Request {
    /// The id in the audit log; see [`Peer::recorded`].
    pub fn recorded_id(&self) -> String {
        self.peer.recorded(&self.id)
    }
}

impl Request {
    /// The argument vector as rules for commands see it: what a line is given by those before it stands before it.
    pub fn judged_argv(&self) -> Cow<'_, [Vec<u8>]> {
        match (&self.line, &self.session) {
            (Some(line), Some(place)) if !place.begin.text.is_empty() => {
                let text = [place.begin.text.as_slice(), b"\n", &line.text].concat();
                Cow::Owned(line.shell.argv(&text))
            }
            _ => Cow::Borrowed(&self.argv),
        }
    }

    /// The argument vector that is executed.
    pub fn executed_argv(&self) -> Cow<'_, [Vec<u8>]> {
        match (&self.line, &self.session) {
            (None, _) => Cow::Borrowed(&self.argv),
            (Some(line), None) => Cow::Owned(line.shell.alone(&line.text)),
            (Some(line), Some(place)) => {
                let enter = place.begin.cwd.as_deref().filter(|_| !place.cwd_named);
                Cow::Owned(line.shell.within(&line.text, &place.begin, enter, line.carry))
            }
        }
    }

    /// Variables that win over what the policy passes on: the session's, those that lines before it left, and the request's own.
    pub fn own_env(&self) -> Cow<'_, [(Vec<u8>, Vec<u8>)]> {
        match &self.session {
            None => Cow::Borrowed(&self.env),
            Some(place) => {
                let carried = place.begin.variables.iter();
                let carried = carried.filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
                let session = place.session.request.env.iter().cloned();
                Cow::Owned(session.chain(carried).chain(self.env.iter().cloned()).collect())
            }
        }
    }

    /// The same as rules for commands see it: what was unset is empty.
    pub fn judged_env(&self) -> Cow<'_, [(Vec<u8>, Vec<u8>)]> {
        match &self.session {
            None => Cow::Borrowed(&self.env),
            Some(place) => {
                let session = place.session.request.env.iter().cloned();
                let all = session.chain(place.begin.assignments()).chain(self.env.iter().cloned());
                // The last one of a name is the one that counts.
                let all: BTreeMap<_, _> = all.collect();
                Cow::Owned(all.into_iter().collect())
            }
        }
    }

    /// The same request without what lines before it left: argument vector and variables as rules for commands see them. `None`: they left
    /// nothing that rules look at.
    #[allow(clippy::type_complexity)]
    pub fn judged_alone(&self) -> Option<(&[Vec<u8>], Vec<(Vec<u8>, Vec<u8>)>)> {
        let place = self.session.as_ref()?;
        if place.begin.variables.is_empty() && place.begin.text.is_empty() {
            return None;
        }
        let session = place.session.request.env.iter().cloned();
        Some((&self.argv, session.chain(self.env.iter().cloned()).collect()))
    }

    /// Whether a line before it has unset this variable, and the request does not set it.
    pub fn has_unset(&self, name: &[u8]) -> bool {
        let unset = |place: &InSession| place.begin.variables.get(name).is_some_and(Option::is_none);
        self.session.as_ref().is_some_and(unset) && !self.env.iter().any(|(own, _)| own == name)
    }
}

/// Output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// Both, in the order of their descriptors.
    pub const ALL: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

    /// 0 or 1, for arrays of both.
    pub fn index(self) -> usize {
        match self {
            Stream::Stdout => 0,
            Stream::Stderr => 1,
        }
    }
}

/// Something that happened in a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// It has a place in the queue or among the running ones.
    Accepted {
        /// Runs that wait before it.
        queue_position: u32,
    },
    /// The policy asks, and the run waits for an answer.
    ApprovalRequested(Question),
    /// The question has its answer.
    ApprovalResolved {
        /// The question; empty when an earlier answer made it unnecessary.
        approval_id: String,
        /// The answer.
        resolution: Resolution,
    },
    /// The command was executed.
    Started(#[serde(with = "shared")] Arc<Started>),
    /// The main process ended.
    Exited {
        /// How: `Exited` or `Signaled` only.
        status: Ending,
        /// Processes still there, at most 64.
        leftovers: Vec<Leftover>,
        /// How many in all.
        leftover_count: u32,
    },
    /// No more output of a stream will come.
    Closed {
        /// Which.
        stream: Stream,
        /// Its length.
        total_bytes: u64,
        /// Whether end of file was seen.
        end_of_file: bool,
    },
    /// The sandbox refused something.
    Denial(Denial),
    /// The run is over.
    Finished(#[serde(with = "shared")] Arc<Finished>),
    /// It wrote something. Saved in a form of its own, see `spill/record.rs`; the last here, because serde numbers the variants behind one
    /// that is skipped differently when it writes and when it reads.
    #[serde(skip)]
    Output {
        /// To which stream.
        stream: Stream,
        /// Bytes of that stream before these.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
}

/// A question of a policy to people, as its run tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its id.
    pub approval_id: String,
    /// The commands that are asked about, as they were read.
    pub commands: Vec<String>,
    /// The rule that asks.
    pub rule: String,
    /// Why.
    pub reason: String,
    /// When it counts as denied.
    pub expires_at: SystemTime,
}

impl From<&Pending> for Question {
    fn from(pending: &Pending) -> Self {
        Question {
            approval_id: pending.id.clone(),
            commands: pending.asked.commands.clone(),
            rule: pending.asked.rule.clone(),
            reason: pending.asked.reason.clone(),
            expires_at: pending.expires_at,
        }
    }
}

/// Something that the sandbox refused to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The layer that refuses.
    pub protection: Protection,
    /// What the command tried.
    pub operation: Operation,
    /// What it tried that on.
    pub subject: Subject,
    /// The rule that refuses, in words.
    pub rule: String,
    /// What would allow it, in words; empty where no policy does.
    pub remedy: String,
    /// How it is known.
    pub evidence: Evidence,
}

/// What a command tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// To change a protected path.
    Change,
    /// To keep what it had written to a protected path: it was dropped after the command closed it, which the command was not told.
    Keep,
    /// To write where it may only read.
    Write,
    /// To read what is not there for it.
    Read,
    /// A system call.
    Call,
    /// To reach a host.
    Connect,
    /// To listen on a port of the machine.
    Listen,
}

impl Operation {
    /// The word for it, on the wire and in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Change => "change",
            Operation::Keep => "keep",
            Operation::Write => "write",
            Operation::Read => "read",
            Operation::Call => "call",
            Operation::Connect => "connect",
            Operation::Listen => "listen",
        }
    }
}

/// What a denial is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// A path as seen inside, at most 4096 bytes.
    Path(Vec<u8>),
    /// The kernel's name of a system call.
    SystemCall(String),
    /// A host, with its port where it is known; empty where the command did not say which.
    Address(String),
}

impl Subject {
    /// Its bytes, of whichever kind.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Subject::Path(path) => path,
            Subject::SystemCall(text) | Subject::Address(text) => text.as_bytes(),
        }
    }
}

/// How something is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// The part that refused says so.
    Observed,
    /// Concluded from what the command wrote and what its policy grants.
    Inferred,
}

/// What was refused in a run, within bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denials {
    /// Each once; what was observed stands first.
    pub list: Vec<Denial>,
    /// How often at least something was refused, repetitions and what is not in the list included.
    pub count: u64,
}

/// What holds for a run that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// The state of every protection, in the order of reports.
    pub enforcement: Vec<Enforcement>,
    /// The policy's name.
    pub policy_name: String,
    /// The policy's digest.
    pub policy_digest: [u8; 32],
    /// The main process's pid inside.
    pub pid: i32,
    /// The bounds in force.
    #[serde(with = "LimitsForm")]
    pub limits: Limits,
    /// What the policy comes from.
    pub layers: Vec<String>,
    /// What the project's file states and was not given, in words.
    pub not_given: Vec<String>,
}

/// The state of one protection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enforcement {
    /// Which.
    pub protection: Protection,
    /// How far it holds.
    pub state: State,
    /// Whether the policy asks for it.
    pub requirement: Requirement,
}

/// Whether a policy asks for a protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Requirement {
    /// The run would not have started without it.
    Required,
    /// The run starts without it, and whoever started it is told.
    Preferred,
    /// It is applied where the machine has it.
    None,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The main process called exit.
    Exited {
        /// With this code.
        code: i32,
    },
    /// A signal ended it.
    Signaled {
        /// Its number.
        signal: i32,
        /// Whether a core was dumped.
        core: bool,
    },
    /// A time limit passed.
    TimedOut {
        /// Which.
        limit: TimeLimit,
        /// Its value.
        after: Duration,
    },
    /// Somebody asked for the end.
    Cancelled {
        /// Why.
        cause: CancelCause,
        /// Who.
        by: String,
        /// The reason given.
        reason: String,
    },
    /// The memory limit was reached and processes were killed: the main one, or others after which it failed.
    OutOfMemory {
        /// The limit.
        limit_bytes: u64,
    },
    /// The output limit was passed.
    OutputLimit {
        /// By this stream.
        stream: Stream,
        /// The limit.
        limit_bytes: u64,
    },
    /// The limit of disk space or files was passed.
    DiskLimit {
        /// Which of the two.
        resource: DiskResource,
        /// The limit, in bytes or files.
        limit: u64,
        /// What was used when it was looked at.
        used: u64,
    },
    /// The policy refuses the request.
    Denied {
        /// The rule.
        rule: String,
        /// Why, and what would allow it.
        explanation: String,
    },
    /// The command could not be executed.
    SpawnFailed {
        /// The step.
        stage: String,
        /// The kernel's error number.
        errno: i32,
        /// The path it was about.
        path: Vec<u8>,
    },
    /// The sandbox could not be built.
    SandboxFailed {
        /// The protection that failed.
        protection: Option<Protection>,
        /// The step.
        stage: String,
        /// The kernel's error number; 0 for a required protection that is missing.
        errno: i32,
        /// The path it was about.
        path: Vec<u8>,
        /// What would mend it.
        hint: String,
    },
    /// What happened is not known.
    Lost {
        /// What was noticed.
        why: String,
    },
}

/// Time limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeLimit {
    /// Elapsed time.
    Wall,
    /// Time without output.
    Idle,
    /// CPU time of the tree.
    Cpu,
}

/// Why a run was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CancelCause {
    /// A client called Kill.
    Kill,
    /// The connection that owned the run ended.
    Disconnect,
    /// The daemon drained.
    Drain,
    /// The session that it ran in was closed or reset.
    Session,
}

impl Ending {
    /// As a shell would say it; see `Finished.shell_code` in `runs.proto`.
    pub fn shell_code(&self) -> i32 {
        match self {
            Ending::Exited { code } => *code,
            Ending::Signaled { signal, .. } => 128 + signal,
            Ending::TimedOut { .. } => 124,
            Ending::Cancelled { .. }
            | Ending::OutOfMemory { .. }
            | Ending::OutputLimit { .. }
            | Ending::DiskLimit { .. } => 137,
            // What execvp's callers use: not found, or found and not executable.
            Ending::SpawnFailed { stage, errno, .. } if stage == "search" || stage == "exec" => {
                if *errno == nix::libc::ENOENT { 127 } else { 126 }
            }
            Ending::Denied { .. } | Ending::SpawnFailed { .. } | Ending::SandboxFailed { .. } | Ending::Lost { .. } => {
                125
            }
        }
    }

    /// Its name in the audit log, as the wire's member of `Ending`.
    pub fn name(&self) -> &'static str {
        match self {
            Ending::Exited { .. } => "exited",
            Ending::Signaled { .. } => "signaled",
            Ending::TimedOut { .. } => "timed_out",
            Ending::Cancelled { .. } => "cancelled",
            Ending::OutOfMemory { .. } => "out_of_memory",
            Ending::OutputLimit { .. } => "output_limit",
            Ending::DiskLimit { .. } => "disk_limit",
            Ending::Denied { .. } => "denied",
            Ending::SpawnFailed { .. } => "spawn_failed",
            Ending::SandboxFailed { .. } => "sandbox_failed",
            Ending::Lost { .. } => "lost",
        }
    }
}

/// The last event's contents.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finished {
    /// How the run ended.
    pub ending: Ending,
    /// What it consumed.
    pub usage: Usage,
    /// What was refused in it.
    pub denials: Denials,
    /// Why the next line of its session finds nothing of it; empty where it does.
    pub not_carried: String,
    /// What it asked for, where it was to be recorded and was started. Not saved: it is for a question that follows at once.
    #[serde(skip)]
    pub recorded: Option<Arc<Recorded>>,
}

/// What a run consumed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// From the command's start to its end; zero when it never started.
    pub wall: Duration,
    /// CPU time in user mode.
    pub cpu_user: Duration,
    /// CPU time in the kernel.
    pub cpu_system: Duration,
    /// Highest memory use.
    pub memory_peak_bytes: u64,
    /// Processes that the out-of-memory killer ended.
    pub oom_kills: u64,
    /// How often the limit of processes made a fork fail; `None` when nobody counted.
    pub fork_failures: Option<u64>,
    /// How long the CPU limit held processes back; `None` when nobody counted.
    pub throttled: Option<Duration>,
    /// Whether the figures are a cgroup's; `None` when there are none.
    pub from_cgroup: Option<bool>,
    /// Bytes written to both streams.
    pub output_bytes: [u64; 2],
    /// From acceptance to a place among the running ones.
    pub queued: Duration,
    /// From that place to the command's start.
    pub setup: Duration,
}

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its policy asks, and nobody has answered yet. It holds no place.
    AwaitingApproval,
    /// It waits for a place.
    Queued,
    /// Its sandbox is being built.
    Starting,
    /// The command runs.
    Running,
    /// It is being ended, or the main process has ended.
    Ending,
    /// It is over.
    Finished,
}

/// What is known of a run at a moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where it is.
    pub phase: Phase,
    /// The question that it waits for.
    pub awaiting: Option<Arc<Pending>>,
    /// When the command was executed.
    pub started_at: Option<SystemTime>,
    /// When the run was over.
    pub finished_at: Option<SystemTime>,
    /// What holds; from the start on.
    pub started: Option<Arc<Started>>,
    /// How it ended.
    pub finished: Option<Arc<Finished>>,
    /// The size of its terminal, where it has one.
    pub terminal: Option<TerminalSize>,
}
