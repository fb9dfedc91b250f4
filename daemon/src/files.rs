//! Operations on files, each carried out by a worker in a sandbox (`fumehood_sandbox::files`).
//!
//! A call gets the view that a run would get, by the same decision, and a sandbox for itself, which ends with it; or it works in a session's,
//! beside its runs. It is owned by a task, so
//! that who asked may go at any moment: what has begun to be changed is brought to its end or left as it was, the sandbox is gone
//! before the call's place is given to another, and what became of it is in the audit log.
//!
//! ```text
//! files/call.rs   the conversation with one worker
//! ```

mod call;

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fumehood_policies::{Decision, Grants, Policy, RequestedLimits, Tool};
use fumehood_sandbox::event::DiskResource;
pub use fumehood_sandbox::files::{Info, Kind, Operation, Write, WriteMode};
use nix::errno::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::audit::{AuditLog, FileOperation};
use crate::launch::Launching;
use crate::peer::Peer;
use crate::run::{Ending, Host, prepare};
use crate::session::{Presence, Session};
use call::Call;

/// Calls that are under way at once; each has a sandbox.
const MAX_CALLS: usize = 64;

/// The same of one peer.
const MAX_CALLS_OF_PEER: usize = 16;

/// Calls that wait for a place.
const MAX_WAITING: usize = 256;

/// How long they do.
const WAIT_FOR_PLACE: Duration = Duration::from_secs(30);

/// From how many peers on those are forgotten that have no call here.
const PEERS: usize = 64;

/// How long a call goes on whose client sends or takes nothing, or whose worker says nothing; the wire documents it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long calls may take to end when the daemon does.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Pieces of a file's contents that wait between the connection and the task of a call.
const PIECES: usize = 2;

/// Works on files. Clones share it.
#[derive(Clone, Debug)]
pub struct Files {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    launching: Launching,
    audit: Option<AuditLog>,
    audit_required: bool,
    /// Names the sandboxes.
    number: AtomicU64,
    draining: AtomicBool,
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    peers: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Whose view of which files.
#[derive(Clone, Debug)]
pub struct View {
    /// Who asks.
    pub peer: Peer,
    /// What a sandbox is made from.
    pub host: Host,
    /// The policy that decides.
    pub policy: Arc<Policy>,
    /// What it comes from.
    pub layers: Vec<String>,
    /// The session whose view it is; `None`: a sandbox is made for the call.
    pub session: Option<Arc<Session>>,
}

impl View {
    /// That of a session, where its next line begins.
    pub fn of_session(peer: Peer, session: Arc<Session>) -> View {
        let request = &session.request;
        let mut host = request.host.clone();
        if let Some(cwd) = &session.carried().cwd {
            host.cwd = cwd.clone();
        }
        View {
            peer,
            host,
            policy: Arc::clone(&request.policy),
            layers: request.layers.clone(),
            session: Some(session),
        }
    }
}

/// Why an operation was not carried out, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// Something is wrong with a file.
    #[error("{}", told(.0))]
    File(FileFailure),
    /// The policy says no.
    #[error("{explanation}")]
    Denied {
        /// The rule.
        rule: String,
        /// Why, and what would allow it.
        explanation: String,
    },
    /// There can be no such view.
    #[error("{0}")]
    NoView(String),
    /// There is no such view any more.
    #[error("{why}")]
    Closed {
        /// The session.
        session: String,
        /// Why it takes no more calls.
        why: String,
    },
    /// A limit of the policy ended it.
    #[error("{what} of the policy was reached")]
    Limit {
        /// Which: `limits.memory`.
        what: &'static str,
    },
    /// There are too many calls.
    #[error("too many calls work on files; there are at most {MAX_CALLS} at once, {MAX_CALLS_OF_PEER} of one peer")]
    Busy,
    /// The daemon is ending.
    #[error("the daemon takes no more calls: it is ending")]
    Draining,
    /// The client neither sent nor took anything.
    #[error("nothing was sent or taken for {} s", PATIENCE.as_secs())]
    Stalled,
    /// The worker does not answer.
    #[error("the file system did not answer for {} s", PATIENCE.as_secs())]
    Unanswered,
    /// Whoever asked is gone.
    #[error("it was broken off")]
    Cancelled,
    /// The sandbox went away.
    #[error("the sandbox ended early: {0}")]
    Lost(String),
    /// It was done and is not in the audit log, which the configuration requires.
    #[error("it was done, and cannot be written to the audit log: {0}")]
    NotRecorded(String),
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFailure {
    /// What was being done: `open`.
    pub operation: String,
    /// The kernel's error.
    pub errno: Errno,
    /// The path it is about.
    pub path: Vec<u8>,
    /// The rule that protects it, where that is why.
    pub rule: Option<String>,
    /// What is there in place of a regular file, where that is why: `a socket`.
    pub found: Option<String>,
    /// How many files and directories had been removed by then.
    pub removed: u64,
}

/// An error number in words, with its name.
fn told(failure: &FileFailure) -> String {
    let FileFailure {
        operation,
        errno,
        path,
        rule,
        found,
        removed,
    } = failure;
    let why = match found {
        Some(found) => format!("it is {found}; only regular files can be read and written"),
        None => errno.desc().to_lowercase(),
    };
    let mut text = format!("{}: {operation}: {why} ({errno:?})", printable(path));
    if let Some(rule) = rule {
        text += &format!("; {rule}");
    }
    if *removed > 0 {
        text += &format!("; {removed} below it were removed");
    }
    text
}

/// Bytes as one printable line: what is no UTF-8, and control characters, as `\xNN`; a backslash doubled.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                character if character.is_control() => {
                    let mut buffer = [0; 4];
                    for byte in character.encode_utf8(&mut buffer).bytes() {
                        text.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                character => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What a path is.
    Info(Info),
    /// A page of a directory, and whether there are more.
    Entries(Vec<Info>, bool),
    /// It is there, and whether it was not before.
    Made(Info, bool),
    /// So many are gone.
    Removed(u64),
    /// It is done.
    Done,
}

/// A part of the contents of a file that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the file is; comes first.
    Info(Info),
    /// Its next bytes.
    Data(Bytes),
}

/// A part of the contents of a file that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next bytes.
    Data(Bytes),
    /// That was all. Contents that end without it are not written.
    End,
}

/// How contents pass.
enum Transfer {
    None,
    Out(mpsc::Sender<Result<Part, FilesError>>),
    In(mpsc::Receiver<Piece>),
}

/// What the answer to a call comes by. Dropping it breaks the call off where that leaves nothing half done.
pub type Told = oneshot::Receiver<Result<Answer, FilesError>>;

/// A place among the calls.
struct Place {
    _in_session: Option<Presence>,
    _own: OwnedSemaphorePermit,
    _one: OwnedSemaphorePermit,
}

impl Files {
    /// Ready to work.
    pub fn new(launching: Launching, audit: Option<AuditLog>, audit_required: bool) -> Files {
        Files {
            shared: Arc::new(Shared {
                launching,
                audit,
                audit_required,
                number: AtomicU64::new(1),
                draining: AtomicBool::new(false),
                places: Arc::new(Semaphore::new(MAX_CALLS)),
                waiting: Arc::new(Semaphore::new(MAX_WAITING)),
                peers: Mutex::default(),
            }),
        }
    }

    /// Takes no more calls.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Waits for those there are, for a while.
    pub async fn end(&self) {
        self.drain();
        let all = self.shared.places.acquire_many(MAX_CALLS as u32);
        if tokio::time::timeout(END_PATIENCE, all).await.is_err() {
            tracing::warn!("some calls that work on files did not end; the launcher's end takes them along");
        }
    }

    /// Carries out an operation that moves no contents.
    pub async fn perform(&self, view: View, operation: Operation) -> Result<Answer, FilesError> {
        let told = self.start(view, operation, Transfer::None);
        told.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Reads a file: [`Part::Info`] comes first, then its bytes; an error ends them.
    pub fn read(
        &self,
        view: View,
        path: Vec<u8>,
        offset: u64,
        length: Option<u64>,
    ) -> mpsc::Receiver<Result<Part, FilesError>> {
        let (parts, receiver) = mpsc::channel(PIECES);
        self.start(view, Operation::Read { path, offset, length }, Transfer::Out(parts));
        receiver
    }

    /// Writes a file of the pieces that are sent. The answer may come before the last one is: then it is an error.
    pub fn write(&self, view: View, write: Write) -> (mpsc::Sender<Piece>, Told) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (sender, self.start(view, Operation::Write(write), Transfer::In(pieces)))
    }

    fn start(&self, view: View, operation: Operation, transfer: Transfer) -> Told {
        let (tell, told) = oneshot::channel();
        tokio::spawn(self.clone().own(view, operation, transfer, tell));
        told
    }

    /// The life of a call.
    async fn own(
        self,
        mut view: View,
        operation: Operation,
        mut transfer: Transfer,
        mut tell: oneshot::Sender<Result<Answer, FilesError>>,
    ) {
        let mut record = record(&view, &operation);
        let reads = matches!(transfer, Transfer::Out(_));
        // A reader takes its answer from the parts and keeps nothing else.
        let prepared = tokio::select! {
            prepared = self.prepare(&mut view) => prepared,
            () = tell.closed(), if !reads => Err(FilesError::Cancelled),
        };
        let mut ending = None;
        let result = match prepared {
            Err(error) => Err(error),
            Ok((mut call, place, wall)) => {
                let carried_out = call.carry_out(operation, &mut transfer, &mut tell);
                let mut result = match wall {
                    None => carried_out.await,
                    // Whoever sends or takes a byte now and then is not silent, and must not keep a place for ever either.
                    Some(wall) => tokio::time::timeout(wall, carried_out)
                        .await
                        .unwrap_or(Err(FilesError::Limit { what: "limits.wall" })),
                };
                // By which rule, init says elsewhere.
                if let Err(FilesError::File(failure)) = &mut result
                    && failure.errno == Errno::EPERM
                {
                    call.end().await;
                    failure.rule = call.rule();
                }
                if let Some(record) = &mut record {
                    record.bytes = call.bytes();
                }
                ending = Some((call, place));
                result
            }
        };
        let result = match record {
            Some(record) => self.record(record, result).await,
            None => result,
        };
        if let (Transfer::Out(parts), Err(error)) = (&transfer, &result) {
            let _ = tokio::time::timeout(PATIENCE, parts.send(Err(error.clone()))).await;
        }
        drop(transfer);
        let _ = tell.send(result);
        if let Some((mut call, place)) = ending {
            call.end().await;
            drop(place);
        }
    }

    /// Everything up to a worker that waits for its operation, and how long that may take.
    async fn prepare(&self, view: &mut View) -> Result<(Call, Place, Option<Duration>), FilesError> {
        let grants = decide(view)?;
        let wall = grants.limits.wall;
        let mut place = self.place(&view.peer).await?;
        let number = self.shared.number.fetch_add(1, Ordering::Relaxed);
        if let Some(session) = &view.session {
            let presence = session.enter().map_err(|ended| FilesError::Closed {
                session: session.id().to_owned(),
                why: format!("the session is closed ({}): {}", ended.end.name(), ended.detail),
            })?;
            place._in_session = Some(presence);
            let call = Call::open_in_session(session, number, &grants, &view.host).await?;
            return Ok((call, place, wall));
        }
        let launching = &self.shared.launching;
        let found = prepare::find_all(grants, &mut view.host, launching).await;
        let grants = found.map_err(|error| FilesError::Denied {
            rule: error.rule().to_owned(),
            explanation: crate::telemetry::chain(&error).to_string(),
        })?;
        if let Some((rule, explanation)) = prepare::shows_hidden(&view.policy.name, &grants, &view.host) {
            return Err(FilesError::Denied {
                rule: rule.to_owned(),
                explanation,
            });
        }
        let call = Call::open(&format!("files-{number}"), &grants, &view.host, launching).await?;
        Ok((call, place, wall))
    }

    async fn place(&self, peer: &Peer) -> Result<Place, FilesError> {
        if self.shared.draining.load(Ordering::Relaxed) {
            return Err(FilesError::Draining);
        }
        let shared = &self.shared;
        let own = self.places_of(peer);
        let _waiting = shared.waiting.try_acquire().map_err(|_| FilesError::Busy)?;
        let both = async {
            // Its own first: who has many of them waits without holding one of all.
            let own = own.acquire_owned().await.ok()?;
            let one = Arc::clone(&shared.places).acquire_owned().await.ok()?;
            Some(Place {
                _in_session: None,
                _own: own,
                _one: one,
            })
        };
        match tokio::time::timeout(WAIT_FOR_PLACE, both).await {
            Ok(Some(place)) => Ok(place),
            Ok(None) | Err(_) => Err(FilesError::Busy),
        }
    }

    fn places_of(&self, peer: &Peer) -> Arc<Semaphore> {
        let mut peers = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS {
            // Each call in flight holds a clone.
            peers.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let new = || Arc::new(Semaphore::new(MAX_CALLS_OF_PEER));
        Arc::clone(peers.entry(peer.to_string()).or_insert_with(new))
    }

    /// Writes down what became of a call.
    async fn record(
        &self,
        mut record: FileOperation,
        result: Result<Answer, FilesError>,
    ) -> Result<Answer, FilesError> {
        let Some(audit) = &self.shared.audit else {
            return result;
        };
        record.outcome = match &result {
            Ok(_) => "done".to_owned(),
            Err(FilesError::File(failure)) => {
                record.rule = failure.rule.clone();
                format!("{:?}", failure.errno)
            }
            Err(FilesError::Denied { rule, explanation }) => {
                record.rule = Some(rule.clone());
                record.reason = Some(explanation.clone());
                "denied".to_owned()
            }
            Err(FilesError::Cancelled | FilesError::Stalled) => "cancelled".to_owned(),
            Err(error) => {
                record.reason = Some(error.to_string());
                "failed".to_owned()
            }
        };
        match audit.file_operation(&record).await {
            Ok(_) => result,
            Err(error) if self.shared.audit_required => {
                let error = crate::telemetry::chain(&error).to_string();
                tracing::error!(error, "an operation on files is not in the audit log");
                result.and(Err(FilesError::NotRecorded(error)))
            }
            Err(error) => {
                let error = crate::telemetry::chain(&error).to_string();
                tracing::error!(
                    error,
                    "an operation on files is not in the audit log, and the configuration does not require it"
                );
                result
            }
        }
    }
}

/// What the policy gives; its rules about commands are not asked.
fn decide(view: &View) -> Result<Box<Grants>, FilesError> {
    let decision = view.policy.decide(&fumehood_policies::Request {
        tool: Tool::Files,
        argv: &[],
        caller_env: &[],
        env: &[],
        limits: RequestedLimits::default(),
    });
    match decision {
        Decision::Allowed(grants) => Ok(grants),
        Decision::Denied(denial) => Err(FilesError::Denied {
            rule: denial.rule,
            explanation: denial.explanation + &prepare::standing_under(&view.layers),
        }),
        // No rule about commands is asked. Were one, nobody is asked here.
        Decision::Ask(question) => Err(FilesError::Denied {
            rule: question.rule,
            explanation: question.reason,
        }),
    }
}

fn ended() -> FilesError {
    FilesError::Lost("its task ended".to_owned())
}

/// Why a sandbox that could not be made was not.
fn no_view(ending: &Ending) -> FilesError {
    match ending {
        Ending::SandboxFailed {
            stage,
            errno,
            path,
            hint,
            ..
        } => {
            let about = |text: String, before: &str| {
                if text.is_empty() {
                    text
                } else {
                    format!("{before}{text}")
                }
            };
            let why = if *errno == 0 {
                String::new()
            } else {
                format!(": {}", Errno::from_raw(*errno))
            };
            let path = about(printable(path), " ");
            let hint = about(hint.clone(), "; ");
            FilesError::NoView(format!("the sandbox cannot be made: {stage}{path}{why}{hint}"))
        }
        Ending::OutOfMemory { .. } => FilesError::Limit { what: "limits.memory" },
        Ending::DiskLimit {
            resource: DiskResource::Space,
            ..
        } => FilesError::Limit { what: "limits.disk" },
        Ending::DiskLimit { .. } => FilesError::Limit { what: "limits.files" },
        Ending::Lost { why } => FilesError::Lost(why.clone()),
        other => FilesError::Lost(other.name().to_owned()),
    }
}

/// What is written down of an operation; `None` for one that neither changes nor reads contents or names.
fn record(view: &View, operation: &Operation) -> Option<FileOperation> {
    let (name, path, to) = match operation {
        Operation::Stat { .. } | Operation::Commit { .. } => return None,
        Operation::List { path, .. } => ("list", path, None),
        Operation::Read { path, .. } => ("read", path, None),
        Operation::Write(write) => {
            let name = match write.mode {
                WriteMode::Replace => "replace",
                WriteMode::Create => "create",
                WriteMode::Append => "append",
            };
            (name, &write.path, None)
        }
        Operation::MakeDirectory { path, .. } => ("mkdir", path, None),
        Operation::Remove { path, .. } => ("remove", path, None),
        Operation::Rename { from, to, .. } => ("rename", from, Some(to.clone())),
    };
    Some(FileOperation {
        peer: view.peer.to_string(),
        peer_pid: view.peer.pid(),
        policy_name: view.policy.name.clone(),
        policy_digest: view.policy.digest.to_string(),
        policy_layers: view.layers.clone(),
        workspace: view.host.workspace.as_os_str().as_bytes().to_vec(),
        session: view
            .session
            .as_ref()
            .map(|session| session.request.recorded_id())
            .unwrap_or_default(),
        operation: name,
        path: path.clone(),
        to,
        bytes: None,
        outcome: String::new(),
        rule: None,
        reason: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_in_one_printable_line() {
        assert_eq!(printable("/ä b".as_bytes()), "/ä b");
        assert_eq!(printable(b"a\nb\\\xff\x1b[m"), "a\\x0ab\\\\\\xff\\x1b[m");
        assert_eq!(printable("\u{85}".as_bytes()), "\\xc2\\x85");
    }

    #[test]
    fn a_failure_says_path_operation_and_error() {
        let failure = FileFailure {
            operation: "open".to_owned(),
            errno: Errno::ENOENT,
            path: b"/w/x".to_vec(),
            rule: None,
            found: None,
            removed: 0,
        };
        assert_eq!(
            FilesError::File(failure).to_string(),
            "/w/x: open: no such file or directory (ENOENT)"
        );
        let failure = FileFailure {
            operation: "open".to_owned(),
            errno: Errno::EOPNOTSUPP,
            path: b"/w/x".to_vec(),
            rule: None,
            found: Some("a socket".to_owned()),
            removed: 0,
        };
        assert_eq!(
            FilesError::File(failure).to_string(),
            "/w/x: open: it is a socket; only regular files can be read and written (EOPNOTSUPP)"
        );
    }
}
