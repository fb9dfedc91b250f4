//! Service `Files`.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use fumehood_proto::v1;
use fumehood_proto::v1::files_server::Files as Service;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::request::{Door, Violations};
use super::runs::peer;
use super::status;
use crate::files::{Answer, Files, FilesError, Info, Kind, Operation, PATIENCE, Part, Piece, View, Write, WriteMode};
use crate::peer::Peer;
use crate::session::SessionTable;

/// Longest path, in bytes; the wire documents it.
const MAX_PATH_BYTES: usize = 4095;

/// Most bytes of contents in one message that is taken; the wire documents it.
const MAX_DATA_BYTES: usize = 1 << 20;

/// The page sizes of ListDirectory; the wire documents them.
const PAGE: u32 = 1000;
const MAX_PAGE: u32 = 10_000;

/// How long the end of a stream may be behind the end of the contents. One that stays open longer is not waited for.
const STREAM_END: Duration = Duration::from_secs(1);

/// Permission bits of what is made when nothing is said; the wire documents them.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// The service.
#[derive(Clone, Debug)]
pub struct FilesService {
    /// What works.
    pub files: Files,
    /// What checks views.
    pub door: Door,
    /// The sessions that there are.
    pub sessions: SessionTable,
}

type Parts = Pin<Box<dyn Stream<Item = Result<v1::ReadFileResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Service for FilesService {
    type ReadFileStream = Parts;

    async fn stat(&self, request: Request<v1::StatRequest>) -> Result<Response<v1::StatResponse>, Status> {
        let peer = peer(&request)?;
        let v1::StatRequest { view, path, follow } = request.into_inner();
        let mut wrong = Violations::default();
        let path = take_path(&mut wrong, "path", path);
        let view = self.view(&peer, view, wrong).await?;
        match self.perform(view, Operation::Stat { path, follow }).await? {
            Answer::Info(file) => Ok(Response::new(v1::StatResponse { file: Some(info(file)) })),
            _ => Err(unexpected()),
        }
    }

    async fn list_directory(
        &self,
        request: Request<v1::ListDirectoryRequest>,
    ) -> Result<Response<v1::ListDirectoryResponse>, Status> {
        let peer = peer(&request)?;
        let v1::ListDirectoryRequest {
            view,
            path,
            page_size,
            page_token,
        } = request.into_inner();
        let mut wrong = Violations::default();
        let path = take_path(&mut wrong, "path", path);
        if page_token.len() > MAX_PATH_BYTES {
            wrong.add("page_token", "not one of this daemon's: too long");
        }
        let view = self.view(&peer, view, wrong).await?;
        let limit = match page_size {
            0 => PAGE,
            size => size.min(MAX_PAGE),
        };
        let after = Vec::from(page_token);
        match self.perform(view, Operation::List { path, after, limit }).await? {
            Answer::Entries(entries, more) => {
                let last = entries.last().filter(|_| more);
                let next_page_token = last.map(|last| Bytes::from(last.name.clone())).unwrap_or_default();
                Ok(Response::new(v1::ListDirectoryResponse {
                    entries: entries.into_iter().map(info).collect(),
                    next_page_token,
                }))
            }
            _ => Err(unexpected()),
        }
    }

    async fn read_file(&self, request: Request<v1::ReadFileRequest>) -> Result<Response<Parts>, Status> {
        let peer = peer(&request)?;
        let v1::ReadFileRequest {
            view,
            path,
            offset,
            length,
        } = request.into_inner();
        let mut wrong = Violations::default();
        let path = take_path(&mut wrong, "path", path);
        if i64::try_from(offset).is_err() {
            wrong.add("offset", "more than a file can be long (2^63 - 1)");
        }
        let view = self.view(&peer, view, wrong).await?;
        let mut parts = self.files.read(view, path, offset, length);
        // What is wrong with the file is the call's own status, not that of a stream that has begun.
        let first = match parts.recv().await {
            Some(Ok(first)) => first,
            Some(Err(error)) => return Err(status::files(&error)),
            None => return Err(unexpected()),
        };
        let rest = ReceiverStream::new(parts);
        let all = tokio_stream::once(Ok(first)).chain(rest);
        Ok(Response::new(Box::pin(all.map(|part| match part {
            Ok(Part::Info(file)) => Ok(v1::ReadFileResponse {
                file: Some(info(file)),
                data: Bytes::new(),
            }),
            Ok(Part::Data(data)) => Ok(v1::ReadFileResponse { file: None, data }),
            Err(error) => Err(status::files(&error)),
        }))))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<v1::WriteFileRequest>>,
    ) -> Result<Response<v1::WriteFileResponse>, Status> {
        use v1::write_file_request::Message as Said;
        let peer = peer(&request)?;
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(PATIENCE, messages.message()).await;
        let first = first.map_err(|_| status::files(&FilesError::Stalled))?;
        let said = first.map_err(status::of_message)?.and_then(|message| message.message);
        let Some(Said::Write(start)) = said else {
            return Err(status::invalid_field(
                "write",
                "missing; the first message says which file",
            ));
        };
        let (view, write) = self.check_write(&peer, start).await?;
        let (pieces, mut told) = self.files.write(view, write);
        let pieces = {
            // The answer may come early: then it is an error.
            let sent = tokio::select! {
                biased;
                answer = &mut told => return written(answer),
                sent = send_all(&mut messages, &pieces) => sent,
            };
            sent.map(|()| pieces)
        };
        match pieces {
            Ok(pieces) => {
                // Its end is said by the piece: who breaks off now does not.
                if pieces.send(Piece::End).await.is_err() {
                    tracing::debug!("a write ended before its contents did");
                }
                written(told.await)
            }
            // Dropped without an end, it is not written; that nothing works on it any more is waited for.
            Err(error) => {
                let _ = told.await;
                Err(error)
            }
        }
    }

    async fn make_directory(
        &self,
        request: Request<v1::MakeDirectoryRequest>,
    ) -> Result<Response<v1::MakeDirectoryResponse>, Status> {
        let peer = peer(&request)?;
        let v1::MakeDirectoryRequest {
            view,
            path,
            permissions,
            parents,
        } = request.into_inner();
        let mut wrong = Violations::default();
        let path = take_path(&mut wrong, "path", path);
        let mode = take_mode(&mut wrong, "permissions", permissions, DIRECTORY_MODE);
        let view = self.view(&peer, view, wrong).await?;
        match self
            .perform(view, Operation::MakeDirectory { path, mode, parents })
            .await?
        {
            Answer::Made(file, created) => Ok(Response::new(v1::MakeDirectoryResponse {
                file: Some(info(file)),
                created,
            })),
            _ => Err(unexpected()),
        }
    }

    async fn remove(&self, request: Request<v1::RemoveRequest>) -> Result<Response<v1::RemoveResponse>, Status> {
        let peer = peer(&request)?;
        let v1::RemoveRequest { view, path, recursive } = request.into_inner();
        let mut wrong = Violations::default();
        let path = take_path(&mut wrong, "path", path);
        let view = self.view(&peer, view, wrong).await?;
        match self.perform(view, Operation::Remove { path, recursive }).await? {
            Answer::Removed(removed) => Ok(Response::new(v1::RemoveResponse { removed })),
            _ => Err(unexpected()),
        }
    }

    async fn rename(&self, request: Request<v1::RenameRequest>) -> Result<Response<v1::RenameResponse>, Status> {
        let peer = peer(&request)?;
        let v1::RenameRequest {
            view,
            from,
            to,
            keep_existing,
        } = request.into_inner();
        let mut wrong = Violations::default();
        let from = take_path(&mut wrong, "from", from);
        let to = take_path(&mut wrong, "to", to);
        let view = self.view(&peer, view, wrong).await?;
        let operation = Operation::Rename {
            from,
            to,
            keep_existing,
        };
        match self.perform(view, operation).await? {
            Answer::Done => Ok(Response::new(v1::RenameResponse {})),
            _ => Err(unexpected()),
        }
    }
}

impl FilesService {
    async fn perform(&self, view: View, operation: Operation) -> Result<Answer, Status> {
        let answer = self.files.perform(view, operation).await;
        answer.map_err(|error| status::files(&error))
    }

    /// The view that a request names, with everything else that is wrong with it.
    async fn view(&self, peer: &Peer, view: Option<v1::FilesView>, wrong: Violations) -> Result<View, Status> {
        use v1::files_view::View as Named;
        match view.and_then(|view| view.view) {
            Some(Named::Workspace(named)) => self.door.files_view(peer, named, wrong).await,
            Some(Named::Session(id)) => {
                wrong.none()?;
                let session = self
                    .sessions
                    .get(peer, &id)
                    .ok_or_else(|| status::no_such_session(&id))?;
                Ok(View::of_session(peer.clone(), session))
            }
            None => {
                let mut wrong = wrong;
                wrong.add("view", "missing; name a session or a workspace");
                Err(wrong.into_status())
            }
        }
    }

    async fn check_write(&self, peer: &Peer, start: v1::WriteFileStart) -> Result<(View, Write), Status> {
        let v1::WriteFileStart {
            view,
            path,
            mode,
            permissions,
            parents,
            sync,
        } = start;
        let mut wrong = Violations::default();
        let path = take_path(&mut wrong, "write.path", path);
        let mode = match v1::WriteMode::try_from(mode) {
            Ok(v1::WriteMode::Unspecified | v1::WriteMode::Replace) => WriteMode::Replace,
            Ok(v1::WriteMode::Create) => WriteMode::Create,
            Ok(v1::WriteMode::Append) => WriteMode::Append,
            Err(_) => {
                wrong.add("write.mode", format!("{mode} is no WriteMode"));
                WriteMode::Create
            }
        };
        let permissions = take_mode(&mut wrong, "write.permissions", permissions, FILE_MODE);
        let view = self.view(peer, view, wrong).await?;
        let write = Write {
            path,
            mode,
            permissions,
            parents,
            sync,
        };
        Ok((view, write))
    }
}

/// Passes on contents until the client has said that they are all. The end of the stream says nothing: one that was reset looks the same.
async fn send_all(messages: &mut Streaming<v1::WriteFileRequest>, pieces: &mpsc::Sender<Piece>) -> Result<(), Status> {
    use v1::write_file_request::Message as Said;
    let mut sent = 0;
    loop {
        let Some(v1::WriteFileRequest { message }) = messages.message().await.map_err(status::of_message)? else {
            let what = "missing; the stream ended before the file did, and nothing was written";
            return Err(status::invalid_field("end", what));
        };
        let data = match message {
            Some(Said::Data(data)) if data.len() <= MAX_DATA_BYTES => data,
            Some(Said::Data(data)) => {
                let what = format!(
                    "{} bytes in one message, more than {MAX_DATA_BYTES}; send several",
                    data.len()
                );
                return Err(status::invalid_field("data", what));
            }
            Some(Said::End(v1::WriteFileEnd { bytes })) if bytes == sent => {
                return match tokio::time::timeout(STREAM_END, messages.message()).await {
                    Ok(Ok(Some(_))) => {
                        let what = "something came behind it, and nothing was written; it is the last message";
                        Err(status::invalid_field("end", what))
                    }
                    Ok(Err(error)) => Err(status::of_message(error)),
                    Ok(Ok(None)) | Err(_) => Ok(()),
                };
            }
            Some(Said::End(v1::WriteFileEnd { bytes })) => {
                let what = format!("{bytes} bytes are said to have been sent, {sent} came; nothing was written");
                return Err(status::invalid_field("end.bytes", what));
            }
            Some(Said::Write(_)) => {
                return Err(status::invalid_field("write", "only the first message says which file"));
            }
            None => {
                return Err(status::invalid_field(
                    "data",
                    "missing; every message but the first carries data, or ends it",
                ));
            }
        };
        sent += data.len() as u64;
        if !data.is_empty() && pieces.send(Piece::Data(data)).await.is_err() {
            // The answer says why nobody takes it: wait for that.
            return std::future::pending().await;
        }
    }
}

fn written(
    answer: Result<Result<Answer, FilesError>, tokio::sync::oneshot::error::RecvError>,
) -> Result<Response<v1::WriteFileResponse>, Status> {
    match answer {
        Ok(Ok(Answer::Made(file, created))) => Ok(Response::new(v1::WriteFileResponse {
            file: Some(info(file)),
            created,
        })),
        Ok(Err(error)) => Err(status::files(&error)),
        Ok(Ok(_)) | Err(_) => Err(unexpected()),
    }
}

fn unexpected() -> Status {
    Status::internal("the call ended without its answer")
}

fn take_path(wrong: &mut Violations, field: &str, path: Bytes) -> Vec<u8> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        wrong.add(field, format!("{} bytes; a path has 1 to {MAX_PATH_BYTES}", path.len()));
    } else if path.contains(&0) {
        wrong.add(field, "holds a NUL byte, which no path can");
    }
    path.into()
}

fn take_mode(wrong: &mut Violations, field: &str, mode: Option<u32>, otherwise: u32) -> u32 {
    let mode = mode.unwrap_or(otherwise);
    if mode > 0o777 {
        wrong.add(field, format!("{mode:#o} is more than 0o777"));
    }
    mode
}

fn info(file: Info) -> v1::FileInfo {
    let Info {
        name,
        kind,
        size,
        mode,
        uid,
        gid,
        modified_s,
        modified_ns,
        link_target,
        inode,
        device,
        links,
    } = file;
    let kind = match kind {
        Kind::File => v1::FileKind::File,
        Kind::Directory => v1::FileKind::Directory,
        Kind::Symlink => v1::FileKind::Symlink,
        Kind::Other => v1::FileKind::Other,
    };
    // What a worker says is a process's word: a number that is none of nanoseconds becomes one.
    let nanos = Duration::from_nanos(modified_ns.into()).subsec_nanos();
    v1::FileInfo {
        name: name.into(),
        kind: kind.into(),
        size,
        mode,
        uid,
        gid,
        modified_at: Some(prost_types::Timestamp {
            seconds: modified_s,
            nanos: i32::try_from(nanos).unwrap_or_default(),
        }),
        link_target: link_target.into(),
        inode,
        device,
        links,
    }
}
