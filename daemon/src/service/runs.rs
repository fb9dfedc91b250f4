//! Service `Runs`.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fumehood_proto::convert::duration_to_std;
use fumehood_proto::v1;
use fumehood_proto::v1::runs_server::Runs;
use fumehood_sandbox::event::SignalScope;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::forward::{EARLIER, Forward, ROOM_BYTES, Successors};
use super::request::{Checked, Door, OnDisconnect, check_size};
use super::status::{self, Refused};
use crate::peer::Peer;
use crate::run::{
    CancelCause, Follower, InputError, Kill, Phase, Position, Reader, Run, RunTable, Sender, Slice, Snapshot,
    Stream as Output,
};

/// Events that wait for HTTP/2 flow control, per stream. The journal holds the rest.
const EVENTS: usize = 4;

/// Most bytes of one input message; the wire documents it.
const MAX_INPUT_BYTES: usize = 1 << 20;

/// Grace of a run whose owner went away: nobody waits for what it might still say. The wire documents it.
const DISCONNECT_GRACE: Duration = Duration::from_millis(500);

/// Bytes that Read gives when it is not told, and the most it gives; the wire documents them.
const READ_BYTES: u32 = 256 * 1024;
const MAX_READ_BYTES: u32 = 1 << 20;

/// The longest that Read waits; the wire documents it.
const MAX_READ_WAIT: Duration = Duration::from_secs(60);

/// Most bytes of a reason.
pub(super) const MAX_REASON_BYTES: usize = 1024;

/// The page sizes of List; the wire documents them.
pub(super) const PAGE: u32 = 100;
pub(super) const MAX_PAGE: u32 = 1000;

/// A page ends before it is longer than this: clients take messages of 4 MiB by default.
pub(super) const MAX_PAGE_BYTES: usize = 3 << 20;

/// The service.
#[derive(Clone, Debug)]
pub struct RunsService {
    /// The runs.
    pub runs: RunTable,
    /// What checks requests.
    pub door: Door,
    /// Runs of the daemon before this one.
    pub forward: Forward,
}

type Events = Pin<Box<dyn Stream<Item = Result<v1::RunEvent, Status>> + Send>>;

#[tonic::async_trait]
impl Runs for RunsService {
    type RunStream = Events;
    type AttachStream = Events;

    async fn run(&self, request: Request<Streaming<v1::RunRequest>>) -> Result<Response<Events>, Status> {
        use v1::run_request::Message as Said;
        let peer = peer(&request)?;
        let mut messages = request.into_inner();
        let first = messages
            .message()
            .await
            .map_err(status::of_message)?
            .and_then(|request| request.message);
        let Some(Said::Start(start)) = first else {
            return Err(status::invalid_field(
                "start",
                "missing; the first message says what to run",
            ));
        };
        let Checked {
            request,
            block,
            on_disconnect,
        } = self.door.check(&peer, start).await?;
        let (run, existed, reader) = self.runs.start(request, block).map_err(Refused::from)?;
        let follower = run.follow();
        // A request that repeats another's id follows that run; it does not own it.
        let owner = match on_disconnect {
            OnDisconnect::Kill if !existed => Some(Owner::new(Arc::clone(&run), &peer)),
            OnDisconnect::Linger(linger) if !existed => {
                tokio::spawn(end_when_abandoned(Arc::clone(&run), linger, peer.to_string()));
                None
            }
            _ => None,
        };
        // So is it recorded.
        if existed {
            run.note_attached(&peer);
        }
        let by = existed.then_some(peer);
        Ok(follow(run, follower, reader, messages, owner, by))
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Result<Response<v1::StartResponse>, Status> {
        let peer = peer(&request)?;
        let Checked {
            request,
            block: _,
            on_disconnect: _,
        } = self.door.check(&peer, request.into_inner()).await?;
        let (run, existed, _) = self.runs.start(request, false).map_err(Refused::from)?;
        Ok(Response::new(v1::StartResponse {
            run: Some(convert::run_info(&run, false)),
            existed,
        }))
    }

    async fn attach(&self, request: Request<Streaming<v1::AttachRequest>>) -> Result<Response<Events>, Status> {
        use v1::attach_request::Message as Said;
        let peer = peer(&request)?;
        let mut messages = request.into_inner();
        let first = messages
            .message()
            .await
            .map_err(status::of_message)?
            .and_then(|request| request.message);
        let Some(Said::Attach(v1::AttachStart {
            run_id,
            from_seq,
            position,
            tail_end,
        })) = first
        else {
            return Err(status::invalid_field(
                "attach",
                "missing; the first message says which run to follow",
            ));
        };
        let run = self.find(&peer, &run_id)?;
        let position = attach_position(&run, from_seq, position, tail_end)?;
        let follower = run.follow();
        let reader = run.reader_at(position).await;
        run.note_attached(&peer);
        Ok(follow(run, follower, reader, messages, None, Some(peer)))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<v1::ReadResponse>, Status> {
        let peer = peer(&request)?;
        let v1::ReadRequest {
            run_id,
            stream,
            offset,
            max_bytes,
            wait,
        } = request.into_inner();
        let stream = match v1::OutputStream::try_from(stream) {
            Ok(v1::OutputStream::Stdout) => Output::Stdout,
            Ok(v1::OutputStream::Stderr) => Output::Stderr,
            Ok(v1::OutputStream::Unspecified) | Err(_) => {
                return Err(status::invalid_field("stream", "name STDOUT or STDERR"));
            }
        };
        let wait = duration("wait", wait)?.unwrap_or_default();
        if wait > MAX_READ_WAIT {
            return Err(status::invalid_field("wait", "more than 60 seconds; ask again instead"));
        }
        let run = self.find(&peer, &run_id)?;
        let length = run.output_bytes()[stream.index()];
        let offset = if run.is_lost() { offset.min(length) } else { offset };
        if offset > length {
            let what = format!("{offset} is beyond the stream's end so far, {length}");
            return Err(status::invalid_field("offset", what));
        }
        let most = if max_bytes == 0 {
            READ_BYTES
        } else {
            max_bytes.min(MAX_READ_BYTES)
        };
        let Slice {
            offset,
            data,
            lost_bytes,
            total_bytes,
            end,
        } = run.read(stream, offset, most as usize, wait).await;
        Ok(Response::new(v1::ReadResponse {
            offset,
            data,
            lost_bytes,
            total_bytes,
            end,
        }))
    }

    async fn wait(&self, request: Request<v1::WaitRequest>) -> Result<Response<v1::WaitResponse>, Status> {
        let peer = peer(&request)?;
        let v1::WaitRequest { run_id, timeout } = request.into_inner();
        let timeout = duration("timeout", timeout)?;
        let run = self.find(&peer, &run_id)?;
        match timeout {
            Some(timeout) => drop(tokio::time::timeout(timeout, run.finished()).await),
            None => run.finished().await,
        }
        Ok(Response::new(v1::WaitResponse {
            run: Some(convert::run_info(&run, false)),
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let (peer, id) = (peer(&request)?, &request.get_ref().run_id);
        let run = match request.extensions().get::<Successors>() {
            Some(Successors { claim: true }) => self.runs.claim(&peer, id).ok_or_else(|| status::no_such_run(id))?,
            _ => self.find(&peer, id)?,
        };
        Ok(Response::new(v1::GetResponse {
            run: Some(convert::run_info(&run, false)),
        }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let peer = peer(&request)?;
        let v1::ListRequest {
            states,
            page_size,
            page_token,
        } = request.into_inner();
        // Runs that the daemon before this one keeps come after its own: they are older.
        let earlier = |page_size, page_token: &str| v1::ListRequest {
            states: states.clone(),
            page_size,
            page_token: page_token.to_owned(),
        };
        let size = if page_size == 0 { PAGE } else { page_size.min(MAX_PAGE) };
        if let Some(token) = page_token.strip_prefix(EARLIER) {
            return Ok(Response::new(self.forward.runs(&peer, earlier(size, token)).await));
        }
        let wanted: HashSet<i32> = states.iter().copied().collect();
        let before: u64 = match page_token.as_str() {
            "" => u64::MAX,
            token => token
                .parse()
                .map_err(|_| status::invalid_field("page_token", "not one that List gave"))?,
        };
        let size = size as usize;
        let mut page: Vec<v1::RunInfo> = Vec::new();
        let (mut bytes, mut last, mut more) = (0, 0, false);
        for run in self.runs.list(&peer).into_iter().filter(|run| run.order < before) {
            let info = convert::run_info(&run, true);
            if !wanted.is_empty() && !wanted.contains(&info.state) {
                continue;
            }
            bytes += info.encoded_len();
            more = page.len() == size || (bytes > MAX_PAGE_BYTES && !page.is_empty());
            if more {
                break;
            }
            last = run.order;
            page.push(info);
        }
        let mut next_page_token = if more { last.to_string() } else { String::new() };
        if !more && self.forward.is_living() {
            let room = if bytes < ROOM_BYTES { size - page.len() } else { 0 };
            if room == 0 {
                next_page_token = EARLIER.to_owned();
            } else {
                let there = self.forward.runs(&peer, earlier(room as u32, "")).await;
                page.extend(there.runs);
                next_page_token = there.next_page_token;
            }
        }
        Ok(Response::new(v1::ListResponse {
            runs: page,
            next_page_token,
        }))
    }

    async fn signal(&self, request: Request<v1::SignalRequest>) -> Result<Response<v1::SignalResponse>, Status> {
        let peer = peer(&request)?;
        let v1::SignalRequest { run_id, signal, scope } = request.into_inner();
        let scope = signal_scope(signal, scope)?;
        let run = self.find(&peer, &run_id)?;
        match run.snapshot() {
            Snapshot {
                phase: Phase::AwaitingApproval | Phase::Queued | Phase::Starting,
                ..
            } => {
                return Err(status::precondition(
                    "NOT_STARTED",
                    &run_id,
                    "the command has not started yet",
                ));
            }
            Snapshot {
                phase: Phase::Finished, ..
            } => {
                return Err(status::precondition("FINISHED", &run_id, "the run is over"));
            }
            _ => {}
        }
        run.note_signalled(&peer, signal);
        run.signal(signal, scope).await;
        Ok(Response::new(v1::SignalResponse {}))
    }

    async fn kill(&self, request: Request<v1::KillRequest>) -> Result<Response<v1::KillResponse>, Status> {
        let peer = peer(&request)?;
        let v1::KillRequest { run_id, grace, reason } = request.into_inner();
        let grace = duration("grace", grace)?;
        if reason.len() > MAX_REASON_BYTES {
            return Err(status::invalid_field(
                "reason",
                format!("longer than {MAX_REASON_BYTES} bytes"),
            ));
        }
        let run = self.find(&peer, &run_id)?;
        if run.snapshot().phase != Phase::Finished {
            run.note_killed(&peer);
        }
        run.kill(Kill {
            cause: CancelCause::Kill,
            by: peer.to_string(),
            reason,
            grace,
        })
        .await;
        run.finished().await;
        Ok(Response::new(v1::KillResponse {
            run: Some(convert::run_info(&run, false)),
        }))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let peer = peer(&request)?;
        let run = self.find(&peer, &request.get_ref().run_id)?;
        if !self.runs.release(&run, &peer) {
            return Err(status::precondition(
                "NOT_FINISHED",
                &run.id,
                "the run is not finished; kill it first or wait for it",
            ));
        }
        Ok(Response::new(v1::ReleaseResponse {}))
    }
}

impl RunsService {
    fn find(&self, peer: &Peer, id: &str) -> Result<Arc<Run>, Status> {
        self.runs.get(peer, id).ok_or_else(|| status::no_such_run(id))
    }
}

/// Who asks, if they may.
pub(super) fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    Peer::of(request).cloned().map_err(|error| Refused::from(error).into())
}

pub(super) fn duration(field: &str, value: Option<prost_types::Duration>) -> Result<Option<Duration>, Status> {
    value
        .map(|value| duration_to_std(&value))
        .transpose()
        .map_err(|error| status::invalid_field(field, error.to_string()))
}

/// Where an attachment begins.
fn attach_position(
    run: &Run,
    from_seq: u64,
    position: Option<v1::attach_start::Position>,
    tail_end: Option<v1::StreamOffsets>,
) -> Result<Position, Status> {
    use v1::attach_start::Position as Wire;
    if tail_end.is_some() && !matches!(position, Some(Wire::TailBytes(_))) {
        let what = "given without `tail_bytes`, of which it is the end";
        return Err(status::invalid_field("attach.tail_end", what));
    }
    if from_seq > 0 && position.is_some() {
        let what = "given together with another position; give one of both";
        return Err(status::invalid_field("attach.from_seq", what));
    }
    match position {
        None | Some(Wire::Now(false)) => {
            let newest = run.last_seq();
            // Of a lost run others may have had more than was saved: they hear of its end.
            if from_seq > newest && run.is_lost() {
                return Ok(Position::Seq(newest));
            }
            if from_seq > newest + 1 {
                let what = format!("{from_seq} is beyond the newest event, {newest}");
                return Err(status::invalid_field("attach.from_seq", what));
            }
            Ok(Position::Seq(from_seq))
        }
        Some(Wire::Now(true)) => Ok(Position::Now),
        Some(Wire::Offsets(offsets)) => existing(run, "attach.offsets", offsets).map(Position::Offsets),
        Some(Wire::TailBytes(bytes)) => {
            let end = tail_end.map(|end| existing(run, "attach.tail_end", end)).transpose()?;
            Ok(Position::Tail { bytes, end })
        }
    }
}

/// A place in each stream that the stream has reached.
fn existing(
    run: &Run,
    field: &str,
    v1::StreamOffsets { stdout, stderr }: v1::StreamOffsets,
) -> Result<[u64; 2], Status> {
    let [stdout_end, stderr_end] = run.output_bytes();
    // Others may have had more of a lost run than was saved.
    if run.is_lost() {
        return Ok([stdout.min(stdout_end), stderr.min(stderr_end)]);
    }
    for (stream, offset, end) in [("stdout", stdout, stdout_end), ("stderr", stderr, stderr_end)] {
        if offset > end {
            let what = format!("{offset} is beyond the stream's end so far, {end}");
            return Err(status::invalid_field(&format!("{field}.{stream}"), what));
        }
    }
    Ok([stdout, stderr])
}

/// What a client says on a stream after its first message.
enum Said {
    Stdin(v1::Stdin),
    Signal(v1::SignalInput),
    Resize(v1::TerminalSize),
    /// What only a first message says.
    First(&'static str),
    Nothing,
}

impl From<v1::RunRequest> for Said {
    fn from(request: v1::RunRequest) -> Self {
        use v1::run_request::Message;
        match request.message {
            Some(Message::Stdin(stdin)) => Said::Stdin(stdin),
            Some(Message::Signal(signal)) => Said::Signal(signal),
            Some(Message::Resize(size)) => Said::Resize(size),
            Some(Message::Start(_)) => Said::First("start"),
            None => Said::Nothing,
        }
    }
}

impl From<v1::AttachRequest> for Said {
    fn from(request: v1::AttachRequest) -> Self {
        use v1::attach_request::Message;
        match request.message {
            Some(Message::Stdin(stdin)) => Said::Stdin(stdin),
            Some(Message::Signal(signal)) => Said::Signal(signal),
            Some(Message::Resize(size)) => Said::Resize(size),
            Some(Message::Attach(_)) => Said::First("attach"),
            None => Said::Nothing,
        }
    }
}

/// Takes what a client says until it has no more to say. A wrong message ends the stream with its status.
async fn hear<M: Into<Said>>(mut messages: Streaming<M>, inputs: Inputs) -> Option<Status> {
    loop {
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return None,
            // Not a message, or too long a one; or the connection broke, and then nobody reads this.
            Err(status) => return Some(status::of_message(status)),
        };
        let result = match message.into() {
            Said::Stdin(stdin) => inputs.stdin(stdin).await,
            Said::Signal(signal) => inputs.signal(signal).await,
            Said::Resize(size) => inputs.resize(size).await,
            Said::First(field) => Err(status::invalid_field(
                field,
                "only the first message of a stream carries it",
            )),
            Said::Nothing => Err(status::invalid_field("message", "empty; send stdin or signal")),
        };
        if let Err(status) = result {
            return Some(status);
        }
    }
}

/// The stream of a run's events. Ends after the last event, or with a wrong message of the client's. `by` is who follows, unless it is
/// the stream that started the run.
fn follow<M>(
    run: Arc<Run>,
    follower: Follower,
    reader: Reader,
    messages: Streaming<M>,
    owner: Option<Owner>,
    by: Option<Peer>,
) -> Response<Events>
where
    M: Into<Said> + Send + 'static,
{
    let (events, stream) = mpsc::channel(EVENTS);
    let sender = by.map(|by| run.note_input(by));
    let inputs = Inputs {
        run: Arc::clone(&run),
        sender,
    };
    let heard = hear(messages, inputs);
    tokio::spawn(async move {
        tell(run, reader, events, heard, owner).await;
        drop(follower);
    });
    Response::new(Box::pin(ReceiverStream::new(stream)))
}

/// Sends a run's events until the last one, or until the client stops listening: whoever stops listening is not heard any more either.
async fn tell(
    run: Arc<Run>,
    mut reader: Reader,
    events: mpsc::Sender<Result<v1::RunEvent, Status>>,
    heard: impl Future<Output = Option<Status>>,
    owner: Option<Owner>,
) {
    let mut heard = std::pin::pin!(heard);
    let mut hearing = true;
    loop {
        tokio::select! {
            item = reader.next() => match item {
                Some(item) => {
                    if events.send(Ok(convert::event(&run.id, item))).await.is_err() {
                        return;
                    }
                }
                None => {
                    if let Some(owner) = owner {
                        owner.disarm();
                    }
                    return;
                }
            },
            wrong = &mut heard, if hearing => match wrong {
                Some(status) => {
                    let _ = events.send(Err(status)).await;
                    return;
                }
                None => hearing = false,
            },
            () = events.closed() => return,
        }
    }
}

/// Ends the run when the stream that started it ends before it.
struct Owner {
    run: Option<Arc<Run>>,
    by: String,
}

impl Owner {
    fn new(run: Arc<Run>, peer: &Peer) -> Owner {
        Owner {
            run: Some(run),
            by: peer.to_string(),
        }
    }

    fn disarm(mut self) {
        self.run = None;
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let Some(run) = self.run.take() else { return };
        let kill = disconnected(
            std::mem::take(&mut self.by),
            "the stream that started the run ended".to_owned(),
        );
        tokio::spawn(async move { run.kill(kill).await });
    }
}

/// Ends a run once nobody has followed it for `linger`.
async fn end_when_abandoned(run: Arc<Run>, linger: Duration, by: String) {
    if run.abandoned(linger).await {
        run.kill(disconnected(by, format!("nobody followed the run for {linger:?}")))
            .await;
    }
}

fn disconnected(by: String, reason: String) -> Kill {
    Kill {
        cause: CancelCause::Disconnect,
        by,
        reason,
        grace: Some(DISCONNECT_GRACE),
    }
}

/// What a client says on a stream.
struct Inputs {
    run: Arc<Run>,
    /// For the record.
    sender: Option<Sender>,
}

impl Inputs {
    async fn stdin(&self, v1::Stdin { data, eof, offset }: v1::Stdin) -> Result<(), Status> {
        if data.len() > MAX_INPUT_BYTES {
            return Err(status::invalid_field(
                "stdin.data",
                format!("{} bytes, more than {MAX_INPUT_BYTES}", data.len()),
            ));
        }
        let bytes = data.len();
        let taken = self.run.input(data, eof, offset).await;
        if let (Some(sender), Ok(())) = (&self.sender, &taken) {
            sender.sent(bytes);
        }
        taken.map_err(|error| match error {
            InputError::NotTaken => status::precondition("INPUT_NOT_TAKEN", &self.run.id, error.to_string()),
            InputError::Closed(_) => status::precondition("INPUT_CLOSED", &self.run.id, error.to_string()),
            InputError::Missing { .. } => status::input_gap(error.to_string()),
        })
    }

    async fn resize(&self, size: v1::TerminalSize) -> Result<(), Status> {
        let size = check_size(size).map_err(|what| status::invalid_field("resize", what))?;
        match self.run.resize(size).await {
            true => Ok(()),
            false => Err(status::precondition(
                "NO_TERMINAL",
                &self.run.id,
                "the run has no terminal to resize",
            )),
        }
    }

    async fn signal(&self, v1::SignalInput { signal, scope }: v1::SignalInput) -> Result<(), Status> {
        let scope = signal_scope(signal, scope)?;
        if let Some(sender) = &self.sender {
            self.run.note_signalled(sender.peer(), signal);
        }
        self.run.signal(signal, scope).await;
        Ok(())
    }
}

/// Checks a signal and to whom it goes.
fn signal_scope(signal: i32, scope: i32) -> Result<SignalScope, Status> {
    if !(1..=64).contains(&signal) {
        return Err(status::invalid_field(
            "signal",
            format!("{signal} is not between 1 and 64"),
        ));
    }
    match v1::SignalScope::try_from(scope) {
        Ok(v1::SignalScope::Unspecified | v1::SignalScope::Leader) => Ok(SignalScope::Leader),
        Ok(v1::SignalScope::Group) => Ok(SignalScope::Group),
        Ok(v1::SignalScope::Tree) => Ok(SignalScope::Tree),
        Err(_) => Err(status::invalid_field("scope", format!("{scope} is no SignalScope"))),
    }
}
