//! The conversation with one worker, and the sandbox around it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use fumehood_policies::Grants;
use fumehood_sandbox::event::{Denial, DiskResource, Event, Subject};
use fumehood_sandbox::files::{Operation, Reply};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Answer, FileFailure, FilesError, PATIENCE, Part, Piece, Transfer, no_view, printable};
use crate::launch::{FileWorker, Launching, Tree};
use crate::lower;
use crate::run::{Host, prepare};
use crate::session::Session;

/// How long a sandbox may take to be gone once its worker was told to end, and once it was killed.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a file in one part, at most; the wire documents it.
const PART_BYTES: usize = 256 * 1024;

/// A worker and its sandbox.
#[derive(Debug)]
pub(super) struct Call {
    tree: Tree,
    /// The session that it is in, and in which of its sandboxes.
    session: Option<(Arc<Session>, u32)>,
    /// `None` once it was told to end.
    worker: Option<FileWorker>,
    /// What the guard refused.
    denials: Vec<Denial>,
    /// The limit that ended it.
    limit: Option<&'static str>,
    /// Why there was no worker.
    not_started: Option<String>,
    /// Whether nothing of the sandbox exists any more.
    gone: bool,
    /// Contents that passed.
    bytes: Option<u64>,
}

impl Call {
    /// Makes a sandbox and has a worker started in it.
    pub async fn open(name: &str, grants: &Grants, host: &Host, launching: &Launching) -> Result<Call, FilesError> {
        let spec = lower::sandbox(name, grants, host);
        if let Some(ending) = prepare::missing(&spec, launching) {
            return Err(no_view(&ending));
        }
        let lost = |error: io::Error| FilesError::Lost(error.to_string());
        let mut sandbox = prepare::create_sandbox(&spec, launching).await.map_err(lost)?;
        // From here on the sandbox's end follows from its handle's.
        let ready = prepare::ready(&mut sandbox, grants.limits.memory_bytes, launching).await;
        ready.map_err(|ending| no_view(&ending))?;
        let command = lower::command(&[], 0, &[], grants, host);
        let worker = sandbox
            .handle()
            .files(&command)
            .and_then(FileWorker::new)
            .map_err(lost)?;
        Ok(Call::with(Tree::Own(sandbox), worker, None))
    }

    /// Has a worker started in a session. `number` is the call's.
    pub async fn open_in_session(
        session: &Arc<Session>,
        number: u64,
        grants: &Grants,
        host: &Host,
    ) -> Result<Call, FilesError> {
        let command = lower::command(&[], 0, &[], grants, host);
        let entered = session.work_on_files(number, command).await;
        let (run, worker, generation) = entered.map_err(|ending| no_view(&ending))?;
        let place = (Arc::clone(session), generation);
        Ok(Call::with(Tree::InSession(run), worker, Some(place)))
    }

    fn with(tree: Tree, worker: FileWorker, session: Option<(Arc<Session>, u32)>) -> Call {
        Call {
            tree,
            session,
            worker: Some(worker),
            denials: Vec::new(),
            limit: None,
            not_started: None,
            gone: false,
            bytes: None,
        }
    }

    /// How many bytes of contents passed.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Carries out an operation. It is broken off when nobody waits for the answer any more, where it does not change anything or
    /// takes long.
    pub async fn carry_out(
        &mut self,
        operation: Operation,
        transfer: &mut Transfer,
        tell: &mut oneshot::Sender<Result<Answer, FilesError>>,
    ) -> Result<Answer, FilesError> {
        match transfer {
            Transfer::Out(parts) => self.read(&operation, parts).await,
            Transfer::In(pieces) => self.write(&operation, pieces).await,
            Transfer::None => {
                let may_break_off = matches!(
                    operation,
                    Operation::Stat { .. } | Operation::List { .. } | Operation::Remove { recursive: true, .. }
                );
                self.send(&operation, None)?;
                tokio::select! {
                    answer = self.answer() => answer,
                    () = tell.closed(), if may_break_off => Err(FilesError::Cancelled),
                }
            }
        }
    }

    fn send(&self, operation: &Operation, pipe: Option<&std::os::fd::OwnedFd>) -> Result<(), FilesError> {
        let sent = match &self.worker {
            Some(worker) => worker.send(operation, pipe.map(AsFd::as_fd)),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match sent {
            // It is gone; why is told by what it said last.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| FilesError::Lost(error.to_string())),
        }
    }

    async fn answer(&mut self) -> Result<Answer, FilesError> {
        let mut entries = Vec::new();
        loop {
            match self.reply().await? {
                Reply::Working => {}
                Reply::Info(info) => return Ok(Answer::Info(info)),
                Reply::Entries(more) => entries.extend(more),
                Reply::Page { more } => return Ok(Answer::Entries(entries, more)),
                Reply::Made { info, created } | Reply::Written { info, created, .. } => {
                    return Ok(Answer::Made(info, created));
                }
                Reply::Removed { count } => return Ok(Answer::Removed(count)),
                Reply::Done => return Ok(Answer::Done),
                Reply::Failed(failure) => return Err(failed(failure)),
            }
        }
    }

    async fn read(
        &mut self,
        operation: &Operation,
        parts: &mpsc::Sender<Result<Part, FilesError>>,
    ) -> Result<Answer, FilesError> {
        let (mut reader, writer) = pipe_from_worker().map_err(|error| FilesError::Lost(error.to_string()))?;
        self.send(operation, Some(&writer))?;
        drop(writer);
        let give = async |part: Part| match timeout(PATIENCE, parts.send(Ok(part))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(FilesError::Cancelled),
            Err(_) => Err(FilesError::Stalled),
        };
        let Answer::Info(info) = self.answer().await? else {
            return Err(FilesError::Lost("it did not say what the file is".to_owned()));
        };
        give(Part::Info(info)).await?;
        let mut total = 0;
        self.bytes = Some(0);
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PART_BYTES);
            let mut limited = bytes::BufMut::limit(&mut buffer, PART_BYTES);
            let read = tokio::select! {
                read = timeout(PATIENCE, reader.read_buf(&mut limited)) => read,
                () = parts.closed() => return Err(FilesError::Cancelled),
            };
            match read {
                Err(_) => return Err(FilesError::Unanswered),
                Ok(Err(error)) => return Err(FilesError::Lost(error.to_string())),
                Ok(Ok(0)) => break,
                Ok(Ok(read)) => {
                    total += read as u64;
                    self.bytes = Some(total);
                    give(Part::Data(buffer.split().freeze())).await?;
                }
            }
        }
        self.answer().await
    }

    async fn write(&mut self, operation: &Operation, pieces: &mut mpsc::Receiver<Piece>) -> Result<Answer, FilesError> {
        let (reader, mut writer) = pipe_to_worker().map_err(|error| FilesError::Lost(error.to_string()))?;
        self.send(operation, Some(&reader))?;
        drop(reader);
        let mut bytes = 0;
        self.bytes = Some(0);
        loop {
            let piece = tokio::select! {
                // Before the end there is nothing but an error to be told.
                early = self.answer_whenever() => return early,
                piece = timeout(PATIENCE, pieces.recv()) => piece,
            };
            match piece {
                Err(_) => return Err(FilesError::Stalled),
                Ok(None) => return Err(FilesError::Cancelled),
                Ok(Some(Piece::End)) => break,
                Ok(Some(Piece::Data(data))) => match timeout(PATIENCE, writer.write_all(&data)).await {
                    Err(_) => return Err(FilesError::Unanswered),
                    Ok(Ok(())) => {
                        bytes += data.len() as u64;
                        self.bytes = Some(bytes);
                    }
                    // It reads no more: it says why.
                    Ok(Err(_)) => return self.answer().await,
                },
            }
        }
        drop(writer);
        self.send(&Operation::Commit { bytes }, None)?;
        self.answer().await
    }

    /// As [`Self::answer`], however long it takes.
    async fn answer_whenever(&mut self) -> Result<Answer, FilesError> {
        loop {
            match self.answer().await {
                Err(FilesError::Unanswered) => {}
                result => return result,
            }
        }
    }

    /// The worker's next reply. Cancelling loses nothing.
    async fn reply(&mut self) -> Result<Reply, FilesError> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let Some(worker) = &mut self.worker else {
                return Err(self.lost().await);
            };
            tokio::select! {
                // What it said last comes before its sandbox's end.
                biased;
                reply = worker.receive() => match reply {
                    Ok(Some(reply)) => return Ok(reply),
                    Ok(None) => {
                        self.worker = None;
                        return Err(self.lost().await);
                    }
                    Err(error) => return Err(FilesError::Lost(error.to_string())),
                },
                event = self.tree.receive(), if !self.gone => {
                    let event = event.map(|event| event.map(|(event, _)| event));
                    self.note(event);
                }
                () = tokio::time::sleep_until(until) => return Err(FilesError::Unanswered),
            }
        }
    }

    /// Why the worker is gone, which its sandbox says.
    async fn lost(&mut self) -> FilesError {
        self.end().await;
        match (self.limit, self.not_started.take()) {
            (Some(what), _) => FilesError::Limit { what },
            (None, Some(why)) => FilesError::NoView(why),
            (None, None) => match &self.session {
                // What happened to the session is said to whoever owns it.
                Some((session, generation)) => no_view(&session.verdict(Some(*generation)).await),
                None => FilesError::Lost("its process is gone".to_owned()),
            },
        }
    }

    fn note(&mut self, event: io::Result<Option<Event>>) {
        match event {
            Ok(Some(Event::Refused(denial))) => self.denials.push(denial),
            Ok(Some(Event::MemoryExceeded { .. })) => self.limit = Some("limits.memory"),
            Ok(Some(Event::DiskExceeded { resource, .. })) => {
                self.limit = Some(match resource {
                    DiskResource::Space => "limits.disk",
                    DiskResource::Files => "limits.files",
                });
            }
            Ok(Some(Event::SpawnFailed { stage, errno, path, .. })) => {
                let errno = Errno::from_raw(errno);
                let path = printable(&path);
                self.not_started = Some(format!(
                    "no process can be started in the sandbox: {stage} {path}: {errno}"
                ));
            }
            Ok(Some(Event::Gone { usage, .. })) => {
                if usage.oom_kills > 0 {
                    self.limit.get_or_insert("limits.memory");
                }
                self.gone = true;
            }
            Ok(Some(_)) => {}
            // The launcher died, and with it every sandbox.
            Ok(None) | Err(_) => self.gone = true,
        }
    }

    /// Ends the worker, which takes back what it had not finished, and waits until nothing of its sandbox exists any more.
    pub async fn end(&mut self) {
        self.worker = None;
        if timeout(END_PATIENCE, self.follow()).await.is_err() {
            let _ = self.tree.kill();
            let _ = timeout(END_PATIENCE, self.follow()).await;
        }
    }

    async fn follow(&mut self) {
        while !self.gone {
            let event = self.tree.receive().await.map(|event| event.map(|(event, _)| event));
            self.note(event);
        }
    }

    /// The rule by which something was refused, where the guard told of one.
    pub fn rule(&self) -> Option<String> {
        let of_path = |denial: &&Denial| matches!(denial.subject, Subject::Path(_) | Subject::Dropped(_));
        self.denials.iter().find(of_path).map(|denial| denial.rule.clone())
    }
}

fn failed(failure: fumehood_sandbox::files::Failure) -> FilesError {
    let fumehood_sandbox::files::Failure {
        operation,
        errno,
        path,
        removed,
        rule,
        found,
    } = failure;
    FilesError::File(FileFailure {
        operation,
        errno: Errno::from_raw(errno),
        path,
        rule: Some(rule).filter(|rule| !rule.is_empty()),
        found: Some(found).filter(|found| !found.is_empty()),
        removed,
    })
}

fn pipe_from_worker() -> io::Result<(pipe::Receiver, std::os::fd::OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((pipe::Receiver::from_owned_fd(reader)?, writer))
}

fn pipe_to_worker() -> io::Result<(std::os::fd::OwnedFd, pipe::Sender)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((reader, pipe::Sender::from_owned_fd(writer)?))
}
