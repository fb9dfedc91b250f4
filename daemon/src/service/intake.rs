//! What a peer may have on its way to the daemon at once.
//!
//! A message is decoded when it is complete, so until then its bytes are held: with thousands of calls on hundreds of connections, each with
//! a message that never ends, that would be all of the machine's memory. Each peer has a budget of bytes, which a message takes as soon
//! as its length is known and gives back when it is complete; who waits for budget is not read from, and flow control does the rest.
//! A message that does not come to its end in time is refused, so that nothing is taken for ever.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, watch};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use super::status;
use crate::peer::Peer;

/// Bytes of incomplete messages that one peer may have here, all its connections together: eight of the longest.
const MAX_BYTES: usize = 64 << 20;

/// Calls that one peer may have open, all its connections together: above the most runs there can be, each with a stream.
const MAX_CALLS: usize = 16_384;

/// How long a message may take from its first byte to its last, and the first one of a call from the call's beginning. The longest, 8 MiB,
/// needs 280 kB/s.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Length of what precedes each message: a flag and four bytes of length.
const PREFIX_BYTES: usize = 5;

/// From how many peers on those are forgotten that have nothing here.
const PEERS: usize = 64;

/// Puts every call under its peer's budget, and counts it.
#[derive(Clone, Debug, Default)]
pub struct IntakeLayer {
    peers: Arc<Mutex<HashMap<String, Budget>>>,
    calls: Calls,
}

/// How many calls are being answered that come to an end by themselves; clones share the count.
#[derive(Clone, Debug)]
pub struct Calls(watch::Sender<usize>);

/// Counts as a call until it is dropped.
#[derive(Debug)]
struct Counted(watch::Sender<usize>);

impl Default for Calls {
    fn default() -> Self {
        Calls(watch::Sender::new(0))
    }
}

impl Calls {
    /// Their number; changes wake the receiver.
    pub fn number(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }

    /// Those that only follow what happens have no end of their own.
    fn count(&self, path: &str) -> Option<Counted> {
        let ends = path.starts_with("/fumehood.") && !path.ends_with("Approvals/Watch");
        ends.then(|| {
            self.0.send_modify(|calls| *calls += 1);
            Counted(self.0.clone())
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

/// What one peer may have here.
#[derive(Clone, Debug)]
struct Budget {
    bytes: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

impl IntakeLayer {
    /// One that counts calls there.
    pub fn counting(calls: Calls) -> IntakeLayer {
        IntakeLayer {
            calls,
            ..IntakeLayer::default()
        }
    }

    fn budget(&self, peer: Option<&Peer>) -> Budget {
        let name = peer.map(Peer::to_string).unwrap_or_default();
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS {
            // Each call in flight holds a clone of `calls`.
            peers.retain(|_, budget| Arc::strong_count(&budget.calls) > 1);
        }
        let new = || Budget {
            bytes: Arc::new(Semaphore::new(MAX_BYTES)),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
        };
        peers.entry(name).or_insert_with(new).clone()
    }
}

impl<S> tower::Layer<S> for IntakeLayer {
    type Service = Intake<S>;

    fn layer(&self, inner: S) -> Intake<S> {
        Intake {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`IntakeLayer`] makes.
#[derive(Clone, Debug)]
pub struct Intake<S> {
    inner: S,
    layer: IntakeLayer,
}

impl<S> tower::Service<http::Request<Body>> for Intake<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
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
        let budget = self.layer.budget(request.extensions().get::<Peer>());
        let call = match Arc::clone(&budget.calls).try_acquire_owned() {
            Ok(call) => Arc::new(call),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                let refused = status::too_much("this peer has as many calls open as one may; close some").into_http();
                return Box::pin(std::future::ready(Ok(refused)));
            }
        };
        let request = request.map(|inner| Body::new(Incoming::new(inner, budget.bytes, Arc::clone(&call))));
        let counted = self.layer.calls.count(request.uri().path());
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            // A call is open while it is answered or its client may still say something, whichever is longer.
            let answer = |inner| {
                Body::new(Answer {
                    inner,
                    _call: call,
                    _counted: counted,
                })
            };
            Ok(reworded(response).map(answer))
        })
    }
}

/// A refusal that tonic made itself, before any service of ours was asked, in our words.
fn reworded(response: http::Response<Body>) -> http::Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(refused) if refused.code() != tonic::Code::Ok && refused.details().is_empty() => {
            let (code, ours) = (refused.code(), status::of_message(refused));
            if ours.code() == code {
                response
            } else {
                ours.into_http()
            }
        }
        _ => response,
    }
}

/// A request's body, read no faster than its peer's budget lets.
struct Incoming {
    inner: Body,
    budget: Arc<Semaphore>,
    prefix: Prefix,
    /// What of the current message is still to come.
    left: usize,
    taken: Option<OwnedSemaphorePermit>,
    /// A frame that waits for budget, and the wait.
    waiting: Option<(Bytes, Wait)>,
    /// Runs while a message is expected to come to its end.
    timeout: Option<Pin<Box<Sleep>>>,
    _call: Arc<OwnedSemaphorePermit>,
}

/// A response's body, which keeps its call counted.
struct Answer {
    inner: Body,
    _call: Arc<OwnedSemaphorePermit>,
    _counted: Option<Counted>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

type Wait = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// The beginning of a message as far as it is known.
#[derive(Debug, Default)]
struct Prefix {
    bytes: [u8; PREFIX_BYTES],
    known: usize,
}

impl Incoming {
    fn new(inner: Body, budget: Arc<Semaphore>, call: Arc<OwnedSemaphorePermit>) -> Self {
        Incoming {
            inner,
            budget,
            prefix: Prefix::default(),
            left: 0,
            taken: None,
            waiting: None,
            timeout: Some(Box::pin(tokio::time::sleep(MESSAGE_TIMEOUT))),
            _call: call,
        }
    }

    /// Follows the messages' borders through a frame. The length of the last message that it leaves incomplete is what is needed of the
    /// budget; `None` when it is paid or nothing is left incomplete.
    fn follow(&mut self, mut data: &[u8]) -> Option<usize> {
        let mut needed = None;
        while !data.is_empty() {
            if self.left == 0 {
                if self.timeout.is_none() {
                    self.timeout = Some(Box::pin(tokio::time::sleep(MESSAGE_TIMEOUT)));
                }
                let take = data.len().min(PREFIX_BYTES - self.prefix.known);
                self.prefix.bytes[self.prefix.known..][..take].copy_from_slice(&data[..take]);
                self.prefix.known += take;
                data = &data[take..];
                if self.prefix.known < PREFIX_BYTES {
                    break;
                }
                self.prefix.known = 0;
                let [_, length @ ..] = self.prefix.bytes;
                self.left = u32::from_be_bytes(length) as usize;
                needed = Some(self.left);
            }
            let take = data.len().min(self.left);
            self.left -= take;
            data.advance(take);
            if self.left == 0 {
                (needed, self.taken, self.timeout) = (None, None, None);
            }
        }
        needed
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let expired = |timeout: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>| {
            timeout
                .as_mut()
                .is_some_and(|timeout| timeout.as_mut().poll(cx).is_ready())
        };
        if this.waiting.is_none() {
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Pending if expired(&mut this.timeout, cx) => {
                    return Poll::Ready(Some(Err(status::too_slow(MESSAGE_TIMEOUT))));
                }
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                    let Ok(data) = frame.into_data() else {
                        return Poll::Ready(None);
                    };
                    let Some(needed) = this.follow(&data) else {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    };
                    // One that is too long is refused by its prefix and never held.
                    let needed = u32::try_from(needed.min(MAX_BYTES / 8)).unwrap_or_default();
                    let wait = Arc::clone(&this.budget).acquire_many_owned(needed);
                    this.waiting = Some((data, Box::pin(async move { wait.await.ok() })));
                }
                other => return other,
            }
        }
        let Some((data, wait)) = &mut this.waiting else {
            return Poll::Pending;
        };
        match wait.as_mut().poll(cx) {
            Poll::Ready(taken) => {
                let data = std::mem::take(data);
                (this.taken, this.waiting) = (taken, None);
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Pending if expired(&mut this.timeout, cx) => {
                let why = "this peer sends as much at once as is held for one; send again later";
                Poll::Ready(Some(Err(status::too_much(why))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming() -> Incoming {
        let call = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Incoming::new(Body::empty(), Arc::new(Semaphore::new(MAX_BYTES)), Arc::new(call))
    }

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((length as u32).to_be_bytes());
        bytes.resize(PREFIX_BYTES + length, 7);
        bytes
    }

    #[tokio::test]
    async fn borders_are_found_wherever_frames_are_cut() {
        let all: Vec<u8> = [message(0), message(3), message(1000), message(1)].concat();
        for cut in 1..all.len() {
            let mut body = incoming();
            for piece in all.chunks(cut) {
                body.follow(piece);
            }
            assert_eq!((body.left, body.prefix.known), (0, 0), "{cut}");
            assert!(body.timeout.is_none(), "{cut}: between messages nothing is expected");
        }
    }

    #[tokio::test]
    async fn a_message_is_paid_once_by_its_length() {
        let mut body = incoming();
        let bytes = message(1000);
        assert_eq!(body.follow(&bytes[..100]), Some(1000));
        assert_eq!(body.follow(&bytes[100..900]), None);
        assert!(body.timeout.is_some());
        // The end of this one and the beginning of the next.
        let next = [&bytes[900..], &message(5)[..7]].concat();
        assert_eq!(body.follow(&next), Some(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_message_ends_with_a_status() {
        // A body that never says anything.
        struct Silent;
        impl http_body::Body for Silent {
            type Data = Bytes;
            type Error = Status;
            fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
                Poll::Pending
            }
        }
        let mut body = incoming();
        body.inner = Body::new(Silent);
        let frame = std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await;
        assert_eq!(frame.unwrap().unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }
}
