//! The writer: one thread that owns the file, and the handle through which everyone else records.
//!
//! Group commit: whatever waits when the disk is free is written and made durable together, so that a hundred runs that
//! start at once wait for one sync, not for a hundred.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::telemetry::chain;

use super::approval::{Approval, ApprovalRuleRemoved};
use super::deed::Deed;
use super::file::{AuditError, LogFile, OpenError, Opened};
use super::files::FileOperation;
use super::record::{End, Entry, Intent, MAX_LINE_BYTES, PeerDenied, PolicyChange, RecordRef, RequestRefused};
use super::session::SessionRecord;

/// Records that wait for the writer. Whoever comes when the queue is full waits for a place.
const QUEUE: usize = 1024;

/// Most records in one commit.
const MAX_BATCH: usize = 256;

/// Most ends kept in memory while the log cannot be written. Past it the oldest is given up, and its run is closed as
/// `interrupted` when the log is next opened.
const MAX_BACKLOG: usize = 4096;

/// How often ends that could not be written are tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Room for what [`Entry::seal`] puts around a payload, in bytes.
const SEAL_ROOM: usize = 512;

/// A handle to the open log; clones share it.
#[derive(Clone, Debug)]
pub struct AuditLog {
    jobs: mpsc::Sender<Job>,
    path: Arc<PathBuf>,
    opened: Arc<Opened>,
    instance: Arc<str>,
}

#[derive(Debug)]
struct Job {
    entry: Option<Entry>,
    /// Something else that is to be done, between records.
    errand: Option<Errand>,
    /// Whether it is kept when it cannot be written now.
    keep: bool,
    reply: oneshot::Sender<Result<RecordRef, AuditError>>,
}

/// What the writer does beside writing records that it is given.
#[derive(Debug)]
enum Errand {
    /// [`AuditLog::lend`].
    Lend(oneshot::Sender<std::io::Result<File>>),
    /// [`AuditLog::share`].
    Share,
    /// [`AuditLog::go_on`].
    GoOn,
    /// [`AuditLog::interrupt`].
    Interrupt(String),
}

impl AuditLog {
    /// Prepares to go on with a log that another daemon has handed over and writes to as well, blocking. `file` is the log as that one has it open
    /// ([`AuditLog::lend`]), `before` its instance. Nothing may be recorded before that one shares the log.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn take_over(file: File, path: &Path, instance: &str, before: &str) -> Result<AuditLog, OpenError> {
        AuditLog::start(LogFile::take_over(file, path, instance, before)?, path, instance)
    }

    /// Which life of the daemon this is.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// This daemon's open file, for another daemon that may write to the log too once it is shared: the lock is on it, and stays until all who
    /// have it have closed it.
    ///
    /// # Errors
    /// When the log is closed, or there is no descriptor left.
    pub async fn lend(&self) -> std::io::Result<File> {
        let (reply, answer) = oneshot::channel();
        let closed = || std::io::Error::other(AuditError::Closed);
        self.errand(Errand::Lend(reply)).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Lets another daemon write to the log too; returns when this one minds it.
    ///
    /// # Errors
    /// When the log is closed.
    pub async fn share(&self) -> Result<(), AuditError> {
        let answer = self.errand(Errand::Share).await?;
        answer.await.unwrap_or(Err(AuditError::Closed)).map(drop)
    }

    /// Records that this daemon goes on with a log that was handed over, and is shared now.
    ///
    /// # Errors
    /// What is in the way; it is recorded before the next record.
    pub async fn go_on(&self) -> Result<(), AuditError> {
        let answer = self.errand(Errand::GoOn).await?;
        answer.await.unwrap_or(Err(AuditError::Closed)).map(drop)
    }

    /// Closes the runs, questions and sessions of a daemon as interrupted that wrote to this log too and has died.
    ///
    /// # Errors
    /// What is in the way; the next daemon that opens the log does it.
    pub async fn interrupt(&self, instance: &str) -> Result<(), AuditError> {
        let answer = self.errand(Errand::Interrupt(instance.to_owned())).await?;
        answer.await.unwrap_or(Err(AuditError::Closed)).map(drop)
    }

    async fn errand(&self, errand: Errand) -> Result<oneshot::Receiver<Result<RecordRef, AuditError>>, AuditError> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            entry: None,
            errand: Some(errand),
            keep: false,
            reply,
        };
        self.jobs.send(job).await.map_err(|_| AuditError::Closed)?;
        Ok(answer)
    }

    /// Opens or creates the log at an absolute path, blocking. `instance` names this life of the daemon.
    ///
    /// Cuts off a half-written last line, closes the runs of an earlier daemon as `interrupted`, and holds an exclusive lock
    /// on the file until the last handle is dropped or [`AuditLog::close`] returns.
    ///
    /// # Errors
    /// See [`OpenError`]; a log that was tampered with since it was last opened is not written to.
    pub fn open(path: &Path, instance: &str) -> Result<AuditLog, OpenError> {
        AuditLog::start(LogFile::open(path, instance)?, path, instance)
    }

    fn start((file, opened): (LogFile, Opened), path: &Path, instance: &str) -> Result<AuditLog, OpenError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                Writer {
                    file,
                    backlog: Vec::new(),
                    reported: false,
                }
                .run(queue)
            })
            .map_err(|source| OpenError::Io {
                what: "start the writer of",
                path: path.to_owned(),
                source,
            })?;
        Ok(AuditLog {
            jobs,
            path: Arc::new(path.to_owned()),
            opened: Arc::new(opened),
            instance: instance.into(),
        })
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What opening found.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Records a decision. Returns when the record is durable: only then may the command start.
    ///
    /// Cancelling it leaves open whether the record is written; a run that then does not start needs an [`End`].
    ///
    /// # Errors
    /// The record is not in the log, and the run must not start.
    pub async fn intent(&self, intent: &Intent) -> Result<RecordRef, AuditError> {
        self.append(Entry::intent(intent), false).await
    }

    /// Records how a run ended; returns when the record is durable, which a caller need not wait for: spawn it. While the
    /// log cannot be written it waits in memory (at most 4096 do) and is tried again.
    ///
    /// # Errors
    /// The record is not in the log; the run will be closed as `interrupted` when the log is next opened.
    pub async fn end(&self, end: &End) -> Result<RecordRef, AuditError> {
        self.append(Entry::end(end), true).await
    }

    /// Records a change of what policies there are or of what is trusted; returns when the record is durable: only then may it be made.
    ///
    /// # Errors
    /// The record is not in the log.
    pub async fn policy_change(&self, change: &PolicyChange) -> Result<RecordRef, AuditError> {
        self.append(Entry::policy_change(change), false).await
    }

    /// Records that a request got no policy; returns when the record is durable.
    ///
    /// # Errors
    /// The record is not in the log.
    pub async fn request_refused(&self, refused: &RequestRefused) -> Result<RecordRef, AuditError> {
        self.append(Entry::request_refused(refused), false).await
    }

    /// Records something about a question to people; returns when it is durable.
    ///
    /// # Errors
    /// The record is not in the log: what it is about must not have consequences.
    pub async fn approval(&self, approval: &Approval) -> Result<RecordRef, AuditError> {
        self.append(approval.entry(), false).await
    }

    /// Records something in the life of a session; returns when it is durable. Its end waits in memory while the log cannot be written, as
    /// those of runs do.
    ///
    /// # Errors
    /// The record is not in the log.
    pub async fn session(&self, record: &SessionRecord) -> Result<RecordRef, AuditError> {
        self.append(record.entry(), record.is_end()).await
    }

    /// Records what became of an operation on files; returns when it is durable.
    ///
    /// # Errors
    /// The record is not in the log.
    pub async fn file_operation(&self, operation: &FileOperation) -> Result<RecordRef, AuditError> {
        self.append(operation.entry(), false).await
    }

    /// Records that an earlier answer was taken back; returns when it is durable.
    ///
    /// # Errors
    /// The record is not in the log.
    pub async fn approval_rule_removed(&self, removed: &ApprovalRuleRemoved) -> Result<RecordRef, AuditError> {
        self.append(Entry::new("approval_rule_removed", removed), false).await
    }

    /// Records that a peer was refused. Waits for nothing; a full queue or a failing log loses the record with a warning,
    /// because a stranger must not be able to hold up the daemon.
    pub fn peer_denied(&self, denied: &PeerDenied) {
        if let Err(error) = self.offer(Entry::new("peer_denied", denied)) {
            tracing::warn!(peer = denied.peer, error, "a refused peer is not in the audit log");
        }
    }

    /// Records what somebody did to a run. Waits for nothing; a full queue or a failing log loses the record with a warning, because
    /// nobody may hold a run up who only looks at it.
    pub fn deed(&self, deed: &Deed) {
        if let Err(error) = self.offer(deed.entry()) {
            let Deed { run_id, peer, .. } = deed;
            tracing::warn!(run_id, peer, error, "what was done to a run is not in the audit log");
        }
    }

    fn offer(&self, entry: Result<Entry, serde_json::Error>) -> Result<(), String> {
        let (reply, _) = oneshot::channel();
        let job = Job {
            entry: Some(entry.map_err(|error| error.to_string())?),
            errand: None,
            keep: false,
            reply,
        };
        self.jobs.try_send(job).map_err(|error| error.to_string())
    }

    /// Writes what waits, ends the writer and frees the lock. Records offered later fail with [`AuditError::Closed`].
    ///
    /// # Errors
    /// Why the ends that still wait could not be written; they are given up.
    pub async fn close(&self) -> Result<(), AuditError> {
        let (reply, answer) = oneshot::channel();
        if self
            .jobs
            .send(Job {
                entry: None,
                errand: None,
                keep: false,
                reply,
            })
            .await
            .is_err()
        {
            return Ok(());
        }
        match answer.await {
            Ok(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    async fn append(&self, entry: Result<Entry, serde_json::Error>, keep: bool) -> Result<RecordRef, AuditError> {
        let entry = entry.map_err(|error| AuditError::Encode(error.to_string()))?;
        let bytes = entry.payload.len() + SEAL_ROOM;
        if bytes > MAX_LINE_BYTES {
            return Err(AuditError::TooLong { bytes });
        }
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Job {
                entry: Some(entry),
                errand: None,
                keep,
                reply,
            })
            .await
            .map_err(|_| AuditError::Closed)?;
        answer.await.unwrap_or(Err(AuditError::Closed))
    }
}

struct Writer {
    file: LogFile,
    /// Ends that could not be written yet, oldest first.
    backlog: Vec<Job>,
    /// Whether the failure that lasts was logged.
    reported: bool,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            match self.next(&mut queue) {
                Next::Job(job) => batch.push(job),
                Next::Retry => {}
                Next::Ended => return,
            }
            while batch.len() < MAX_BATCH
                && let Ok(job) = queue.try_recv()
            {
                batch.push(job);
            }
            for job in batch.extract_if(.., |job| job.errand.is_some()) {
                self.run_errand(job);
            }
            let closing = batch.iter().position(|job| job.entry.is_none());
            let rest = closing.map(|at| batch.split_off(at)).unwrap_or_default();
            let result = self.commit(std::mem::take(&mut batch));
            if let Some(close) = rest.into_iter().next() {
                queue.close();
                drop(self.file);
                let _ = close.reply.send(result.map(|()| RecordRef {
                    seq: 0,
                    hash: String::new(),
                }));
                return;
            }
        }
    }

    fn run_errand(&mut self, job: Job) {
        let done = match job.errand {
            Some(Errand::Lend(file)) => {
                let _ = file.send(self.file.lend());
                return;
            }
            Some(Errand::Share) => {
                self.file.share();
                Ok(Vec::new())
            }
            Some(Errand::GoOn) => self.file.append(&[]),
            Some(Errand::Interrupt(instance)) => self.file.interrupt(&instance),
            None => return,
        };
        let none = || RecordRef {
            seq: 0,
            hash: String::new(),
        };
        let last = |mut records: Vec<RecordRef>| records.pop().unwrap_or_else(none);
        let _ = job.reply.send(done.map(last));
    }

    /// The next thing to do: at once when nothing is owed, else no later than [`RETRY`].
    fn next(&mut self, queue: &mut mpsc::Receiver<Job>) -> Next {
        if self.backlog.is_empty() {
            return queue.blocking_recv().map_or(Next::Ended, Next::Job);
        }
        let until = std::time::Instant::now() + RETRY;
        loop {
            match queue.try_recv() {
                Ok(job) => return Next::Job(job),
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    let _ = self.commit(Vec::new());
                    return Next::Ended;
                }
                Err(mpsc::error::TryRecvError::Empty) if std::time::Instant::now() >= until => return Next::Retry,
                Err(mpsc::error::TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Writes what is owed and then the batch, together. If that fails, ends go to the backlog and the rest is refused.
    fn commit(&mut self, batch: Vec<Job>) -> Result<(), AuditError> {
        let jobs: Vec<Job> = self.backlog.drain(..).chain(batch).collect();
        if jobs.is_empty() {
            return Ok(());
        }
        let entries: Vec<&Entry> = jobs.iter().filter_map(|job| job.entry.as_ref()).collect();
        match self.file.append(&entries) {
            Ok(records) => {
                if std::mem::take(&mut self.reported) {
                    tracing::info!("the audit log can be written again");
                }
                for (job, record) in jobs.into_iter().zip(records) {
                    let _ = job.reply.send(Ok(record));
                }
                Ok(())
            }
            Err(error) => {
                if !std::mem::replace(&mut self.reported, true) {
                    tracing::error!(error = %chain(&error), "the audit log cannot be written: new runs are refused");
                }
                for job in jobs {
                    if !job.keep {
                        let _ = job.reply.send(Err(error.clone()));
                        continue;
                    }
                    if self.backlog.len() == MAX_BACKLOG {
                        let _ = self.backlog.remove(0).reply.send(Err(error.clone()));
                    }
                    self.backlog.push(job);
                }
                Err(error)
            }
        }
    }
}

enum Next {
    Job(Job),
    Retry,
    Ended,
}
