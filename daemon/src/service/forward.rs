//! Calls about what the daemon before this one keeps, given on to it.
//!
//! After a planned restart (`handover.rs`) the runs, sessions and questions of the daemon before live on there. [`ForwardLayer`] looks at a call's
//! first message: a call about a run, session or question that is not known here and is known there goes there as it came, both its streams with
//! it. The services ask [`Forward`] for what lists there have. The channel is a socket pair between the two daemons; who really asks is said in
//! the metadata [`PEER`], which only what serves the other end of that channel looks at ([`from_successor`]).
//!
//! Once the other daemon is gone, what it had is here, and nothing is given on any more. A call that comes in the moment between waits for that; one
//! that was on its way there and may have been heard is refused with `RESTARTING` and the word when to ask again.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{Bytes, BytesMut};
use fumehood_proto::resend::Resend;
use fumehood_proto::v1;
use http_body::{Body as _, Frame};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::status;
use crate::approvals::Approvals;
use crate::peer::Peer;
use crate::run::RunTable;
use crate::session::SessionTable;

/// Whose call it is: postcard of a [`Peer`].
pub const PEER: &str = "fumehood-peer-bin";

/// That what is not there is not to begin there any more.
const CLAIM: &str = "fumehood-claim";

/// What page tokens begin with that are the other daemon's.
pub(super) const EARLIER: &str = "earlier:";

/// A page has room for others' entries while it is shorter than this: together they stay below what clients take.
pub(super) const ROOM_BYTES: usize = 512 << 10;

/// How long a call waits for what a daemon had that has just ended.
const ADOPTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest first message that is looked at, as the server takes it.
const MAX_FIRST_BYTES: usize = 8 << 20;

/// Length of what precedes each message: a flag and four bytes of length.
const PREFIX_BYTES: usize = 5;

/// What may be under way on the channel: as much as all calls of a daemon may have in their windows.
const CHANNEL_WINDOW_BYTES: u32 = 1 << 30;
const CALL_WINDOW_BYTES: u32 = 256 << 10;

/// The way to the daemon before this one, where there is one; clones share it.
#[derive(Clone, Debug)]
pub struct Forward {
    predecessor: Arc<OnceLock<Predecessor>>,
    /// Who is to follow what happens here with another daemon, which serves in this one's place.
    moved: watch::Sender<Moved>,
}

/// Who is to follow what happens with another daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moved {
    Nobody,
    /// Everybody but that daemon.
    Clients,
    Everybody,
}

impl Default for Forward {
    fn default() -> Self {
        Forward {
            predecessor: Arc::default(),
            moved: watch::Sender::new(Moved::Nobody),
        }
    }
}

#[derive(Debug)]
struct Predecessor {
    channel: Channel,
    /// True once it has ended and what it had is here.
    gone: watch::Receiver<bool>,
}

impl Forward {
    /// Gives calls on from here over `channel`, until `gone` says that the other daemon's runs are here. To be called once.
    ///
    /// # Errors
    /// When the channel cannot be used.
    pub async fn begin(
        &self,
        channel: std::os::unix::net::UnixStream,
        gone: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        channel.set_nonblocking(true)?;
        let mut stream = Some(UnixStream::from_std(channel)?);
        // There is one stream, and no second when that has ended.
        let connector = tower::service_fn(move |_: http::Uri| {
            let stream = stream.take().map(TokioIo::new);
            std::future::ready(stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)))
        });
        let channel = Endpoint::from_static("http://predecessor")
            .initial_connection_window_size(CHANNEL_WINDOW_BYTES)
            .initial_stream_window_size(CALL_WINDOW_BYTES)
            // Now, and not at the first call: the other end waits for its beginning before it can come to its end.
            .connect_with_connector(connector)
            .await
            .map_err(std::io::Error::other)?;
        let _ = self.predecessor.set(Predecessor { channel, gone });
        Ok(())
    }

    fn living(&self) -> Option<&Predecessor> {
        self.predecessor.get().filter(|there| !*there.gone.borrow())
    }

    /// Whether there is somebody to give calls on to.
    pub fn is_living(&self) -> bool {
        self.living().is_some()
    }

    /// Returns when nobody is there any more.
    pub async fn gone(&self) {
        if let Some(there) = self.predecessor.get() {
            // An error: nobody will say so any more.
            let _ = there.gone.clone().wait_for(|gone| *gone).await;
        }
    }

    /// Says who is to follow what happens here elsewhere.
    pub fn set_moved(&self, moved: Moved) {
        self.moved.send_replace(moved);
    }

    /// Returns when whoever follows what happens here, a daemon or somebody else, is to follow it elsewhere.
    pub(super) async fn moved(&self, from_successor: bool) {
        let who = match from_successor {
            true => Moved::Everybody,
            false => Moved::Clients,
        };
        // The sender is here.
        let _ = self.moved.subscribe().wait_for(|moved| *moved >= who).await;
    }

    /// Asks the other daemon in a peer's name. `None` when it does not know, or is gone.
    async fn ask<R, A, F>(&self, peer: &Peer, request: R, call: impl FnOnce(Channel, Request<R>) -> F) -> Option<A>
    where
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let there = self.living()?;
        let mut request = Request::new(request);
        let peer = MetadataValue::from_bytes(&postcard::to_stdvec(peer).ok()?);
        request.metadata_mut().insert_bin(PEER, peer);
        match call(there.channel.clone(), request).await {
            Ok(answer) => Some(answer.into_inner()),
            Err(status) if status.code() == Code::NotFound => None,
            Err(error) => {
                tracing::debug!(%error, "the daemon before this one does not answer");
                // Of the transport, or said by one that ends.
                if error.code() == Code::Unavailable || error.source().is_some() {
                    there.adopted().await;
                }
                None
            }
        }
    }

    /// A run there, as `peer` sees it. With `claim`, only one of its own, and where there is none, none begins there any more.
    async fn run(&self, peer: &Peer, id: &str, claim: bool) -> Option<v1::RunInfo> {
        let request = v1::GetRequest { run_id: id.to_owned() };
        let call = async |channel, request| {
            let request = claiming(request, claim);
            v1::runs_client::RunsClient::new(channel).get(request).await
        };
        self.ask(peer, request, call).await?.run
    }

    /// Whether a session is there. With `claim`, one of this peer's own that is not closed, and where there is none, none begins there any more.
    async fn knows_session(&self, peer: &Peer, id: &str, claim: bool) -> bool {
        let request = v1::DescribeSessionRequest {
            session_id: id.to_owned(),
        };
        let call = async |channel, request| {
            let request = claiming(request, claim);
            v1::sessions_client::SessionsClient::new(channel)
                .describe(request)
                .await
        };
        self.ask(peer, request, call).await.is_some()
    }

    /// A page of runs there; its token is one for this daemon.
    pub(super) async fn runs(&self, peer: &Peer, request: v1::ListRequest) -> v1::ListResponse {
        let call = async |channel, request| v1::runs_client::RunsClient::new(channel).list(request).await;
        let mut page = self.ask(peer, request, call).await.unwrap_or_default();
        page.next_page_token = earlier(page.next_page_token);
        page
    }

    /// A page of sessions there; its token is one for this daemon.
    pub(super) async fn sessions(&self, peer: &Peer, request: v1::ListSessionsRequest) -> v1::ListSessionsResponse {
        let call = async |channel, request| v1::sessions_client::SessionsClient::new(channel).list(request).await;
        let mut page = self.ask(peer, request, call).await.unwrap_or_default();
        page.next_page_token = earlier(page.next_page_token);
        page
    }

    /// The questions that wait there.
    pub(super) async fn questions(&self, peer: &Peer) -> Vec<v1::PendingApproval> {
        let call = async |channel, request| v1::approvals_client::ApprovalsClient::new(channel).list(request).await;
        let answer = self.ask(peer, v1::ListApprovalsRequest {}, call).await;
        answer.map(|answer| answer.pending).unwrap_or_default()
    }

    /// What changes with them.
    pub(super) async fn watch_questions(&self, peer: &Peer) -> Option<Streaming<v1::WatchApprovalsResponse>> {
        let call = async |channel, request| v1::approvals_client::ApprovalsClient::new(channel).watch(request).await;
        self.ask(peer, v1::WatchApprovalsRequest {}, call).await
    }

    /// Gives a call on as it came; gives it back when it did not get there, and never will.
    async fn give_on(
        &self,
        peer: &Peer,
        claim: bool,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, http::Request<Body>> {
        let peer = postcard::to_stdvec(peer).map(|peer| http::HeaderValue::from_str(&STANDARD_NO_PAD.encode(peer)));
        let (Some(there), Ok(Ok(peer))) = (self.living(), peer) else {
            return Err(request);
        };
        let resend = Resend::new(request);
        let mut given = resend.request();
        given.headers_mut().insert(PEER, peer);
        match claim {
            true => drop(given.headers_mut().insert(CLAIM, http::HeaderValue::from_static("1"))),
            false => drop(given.headers_mut().remove(CLAIM)),
        }
        let mut channel = there.channel.clone();
        let given = async {
            std::future::poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx)).await?;
            tower::Service::call(&mut channel, given).await
        };
        let error = match given.await {
            Ok(response) => {
                resend.answered();
                return Ok(response);
            }
            Err(error) => error,
        };
        tracing::debug!(%error, "a call could not be given on");
        there.adopted().await;
        match resend.may_follow(&error) {
            true => Err(resend.request()),
            false => Ok(status::restarting("the daemon that keeps this has just ended; ask again").into_http()),
        }
    }
}

impl Predecessor {
    /// Returns when what the other daemon had is here, or after a while.
    async fn adopted(&self) {
        let mut gone = self.gone.clone();
        let _ = tokio::time::timeout(ADOPTION_TIMEOUT, gone.wait_for(|gone| *gone)).await;
    }
}

fn claiming<R>(mut request: Request<R>, claim: bool) -> Request<R> {
    if claim {
        request.metadata_mut().insert(CLAIM, MetadataValue::from_static("1"));
    }
    request
}

fn earlier(token: String) -> String {
    match token.is_empty() {
        true => token,
        false => format!("{EARLIER}{token}"),
    }
}

/// What the server of the channel does instead of asking the kernel: the daemon at the other end says who asks.
///
/// # Errors
/// When it does not.
pub fn from_successor(mut request: Request<()>) -> Result<Request<()>, Status> {
    let said = request.metadata().get_bin(PEER).and_then(|said| said.to_bytes().ok());
    let peer = said.and_then(|said| postcard::from_bytes::<Peer>(&said).ok());
    let peer = peer.ok_or_else(|| Status::unauthenticated("who asks is not said"))?;
    let claim = request.metadata().contains_key(CLAIM);
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(Successors { claim });
    Ok(request)
}

/// Of a call that a daemon gave on which serves in this one's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Successors {
    /// Whether what is not here is not to begin here any more.
    pub claim: bool,
}

/// What is known here.
#[derive(Clone, Debug)]
pub struct Here {
    /// The runs.
    pub runs: RunTable,
    /// The sessions.
    pub sessions: SessionTable,
    /// The questions.
    pub approvals: Approvals,
}

/// What a call is about.
#[derive(Debug, PartialEq, Eq)]
enum About {
    Run(String),
    /// A run that may have been started before under this id.
    NewRun(String),
    Session(String),
    /// A session that may have been made before under this id.
    NewSession(String),
    Question(String),
}

impl About {
    /// What a call with this first message is about, where it can be about something that another daemon keeps.
    fn of(path: &str, message: &[u8]) -> Option<About> {
        fn decoded<M: Message + Default>(message: &[u8]) -> Option<M> {
            M::decode(message).ok()
        }
        let start = |start: v1::StartRequest| match start.spec.map(|spec| spec.session) {
            Some(session) if !session.is_empty() => Some(About::Session(session)),
            _ => Some(About::NewRun(start.run_id)),
        };
        let session = |view: Option<v1::FilesView>| match view?.view? {
            v1::files_view::View::Session(session) => Some(About::Session(session)),
            v1::files_view::View::Workspace(_) => None,
        };
        let run = |id| Some(About::Run(id));
        let about = match path.strip_prefix("/fumehood.v1.")? {
            "Runs/Run" => match decoded::<v1::RunRequest>(message)?.message? {
                v1::run_request::Message::Start(first) => start(first),
                _ => None,
            },
            "Runs/Start" => start(decoded(message)?),
            "Runs/Attach" => match decoded::<v1::AttachRequest>(message)?.message? {
                v1::attach_request::Message::Attach(attach) => run(attach.run_id),
                _ => None,
            },
            "Runs/Read" => run(decoded::<v1::ReadRequest>(message)?.run_id),
            "Runs/Wait" => run(decoded::<v1::WaitRequest>(message)?.run_id),
            "Runs/Get" => run(decoded::<v1::GetRequest>(message)?.run_id),
            "Runs/Signal" => run(decoded::<v1::SignalRequest>(message)?.run_id),
            "Runs/Kill" => run(decoded::<v1::KillRequest>(message)?.run_id),
            "Runs/Release" => run(decoded::<v1::ReleaseRequest>(message)?.run_id),
            "Learning/Observations" => run(decoded::<v1::ObservationsRequest>(message)?.run_id),
            "Learning/Propose" => run(decoded::<v1::ProposeRequest>(message)?.run_id),
            "Sessions/Create" => Some(About::NewSession(
                decoded::<v1::CreateSessionRequest>(message)?.session_id,
            )),
            "Sessions/Describe" => Some(About::Session(
                decoded::<v1::DescribeSessionRequest>(message)?.session_id,
            )),
            "Sessions/Reset" => Some(About::Session(decoded::<v1::ResetSessionRequest>(message)?.session_id)),
            "Sessions/Close" => Some(About::Session(decoded::<v1::CloseSessionRequest>(message)?.session_id)),
            "Files/Stat" => session(decoded::<v1::StatRequest>(message)?.view),
            "Files/ListDirectory" => session(decoded::<v1::ListDirectoryRequest>(message)?.view),
            "Files/ReadFile" => session(decoded::<v1::ReadFileRequest>(message)?.view),
            "Files/WriteFile" => match decoded::<v1::WriteFileRequest>(message)?.message? {
                v1::write_file_request::Message::Write(write) => session(write.view),
                _ => None,
            },
            "Files/MakeDirectory" => session(decoded::<v1::MakeDirectoryRequest>(message)?.view),
            "Files/Remove" => session(decoded::<v1::RemoveRequest>(message)?.view),
            "Files/Rename" => session(decoded::<v1::RenameRequest>(message)?.view),
            "Approvals/Resolve" => Some(About::Question(
                decoded::<v1::ResolveApprovalRequest>(message)?.approval_id,
            )),
            _ => None,
        };
        about.filter(|about| !about.id().is_empty())
    }

    fn id(&self) -> &str {
        match self {
            About::Run(id) | About::NewRun(id) | About::Session(id) | About::NewSession(id) | About::Question(id) => id,
        }
    }

    /// Whether it is there and not here. With `claim`, a successor asks for one that is about to begin under this id.
    async fn is_there(&self, forward: &Forward, here: &Here, peer: &Peer, claim: bool) -> bool {
        match self {
            About::Run(id) => !here.runs.has_own(peer, id) && forward.run(peer, id, claim).await.is_some(),
            About::NewRun(id) => !here.runs.has_own(peer, id) && forward.run(peer, id, true).await.is_some(),
            About::Session(id) if claim => {
                !here.sessions.has_own(peer, id) && forward.knows_session(peer, id, true).await
            }
            About::Session(id) => here.sessions.get(peer, id).is_none() && forward.knows_session(peer, id, false).await,
            About::NewSession(id) => !here.sessions.has_own(peer, id) && forward.knows_session(peer, id, true).await,
            About::Question(id) => {
                let here = here.approvals.list(peer).iter().any(|pending| pending.id == *id);
                let asks = |pending: &v1::PendingApproval| {
                    let question = pending.question.as_ref();
                    question.is_some_and(|question| question.approval_id == *id)
                };
                !here && forward.questions(peer).await.iter().any(asks)
            }
        }
    }
}

/// Puts [`Forward`] before the services.
#[derive(Clone, Debug)]
pub struct ForwardLayer {
    /// Where to.
    pub forward: Forward,
    /// What stays.
    pub here: Here,
}

impl<S> tower::Layer<S> for ForwardLayer {
    type Service = Forwarding<S>;

    fn layer(&self, inner: S) -> Forwarding<S> {
        Forwarding {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`ForwardLayer`] makes.
#[derive(Clone, Debug)]
pub struct Forwarding<S> {
    inner: S,
    layer: ForwardLayer,
}

impl<S> tower::Service<http::Request<Body>> for Forwarding<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().cloned();
        let claim = request.extensions().get::<Successors>().is_some_and(|said| said.claim);
        let (Some(peer), true) = (peer, self.layer.forward.is_living()) else {
            return Box::pin(self.inner.call(request));
        };
        // The clone may not be ready; the one that was asked is.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let ForwardLayer { forward, here } = self.layer.clone();
        Box::pin(async move {
            let (parts, mut body) = request.into_parts();
            let read = first_message(&mut body).await;
            let about = message_in(&read).and_then(|message| About::of(parts.uri.path(), message));
            let whole = Body::new(Begun {
                read: Some(read).filter(|read| !read.is_empty()),
                rest: body,
            });
            let request = http::Request::from_parts(parts, whole);
            let there = match &about {
                Some(about) => about.is_there(&forward, &here, &peer, claim).await,
                None => false,
            };
            let request = match there {
                true => forward.give_on(&peer, claim, request).await,
                false => Err(request),
            };
            match request {
                Ok(response) => Ok(response),
                Err(request) => inner.call(request).await,
            }
        })
    }
}

/// The first message of what was read, if it is whole; what comes behind it may be there as well. Compressed ones are not taken anyway.
fn message_in(read: &[u8]) -> Option<&[u8]> {
    let [0, a, b, c, d, rest @ ..] = read else { return None };
    rest.get(..u32::from_be_bytes([*a, *b, *c, *d]) as usize)
}

/// What was read of a body until its first message was whole, or until no more came.
async fn first_message(body: &mut Body) -> Bytes {
    let mut read = BytesMut::new();
    loop {
        if let [_, a, b, c, d, ..] = read[..] {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if length > MAX_FIRST_BYTES || read.len() >= PREFIX_BYTES + length {
                return read.freeze();
            }
        }
        match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => read.extend_from_slice(&data),
                Err(_) => return read.freeze(),
            },
            // Whoever reads on hears of the error.
            Some(Err(_)) | None => return read.freeze(),
        }
    }
}

/// A body of which the beginning was read.
struct Begun {
    read: Option<Bytes>,
    rest: Body,
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.read.take() {
            Some(read) => Poll::Ready(Some(Ok(Frame::data(read)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_none() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests;
