//! Calls that did not leave are made again.
//!
//! A daemon that is being replaced tells its clients to make another connection. A call that is made in this very moment finds the old one
//! closed for new calls before it was sent. Whether it was is known for sure: as long as nobody has looked at a request's body, nobody can have
//! heard its first message, and without that no daemon does anything. So it goes out again, over the next connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

/// How often a call is made that does not leave.
const ATTEMPTS: u32 = 4;

/// A channel whose calls are made again when they did not leave; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Unsent(Channel);

impl Unsent {
    pub(crate) fn over(channel: Channel) -> Self {
        Self(channel)
    }
}

impl Service<http::Request<Body>> for Unsent {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The clone may not be ready; the one that was asked is.
        let next = self.0.clone();
        let mut channel = std::mem::replace(&mut self.0, next);
        Box::pin(async move {
            let (parts, mut body) = request.into_parts();
            let mut attempts = 1;
            loop {
                let held = Arc::new(Mutex::new(Some(body)));
                let lent = Body::new(Lent {
                    held: Arc::clone(&held),
                    taken: None,
                });
                let error = match channel.call(http::Request::from_parts(parts.clone(), lent)).await {
                    Ok(response) => return Ok(response),
                    Err(error) => error,
                };
                let unseen = held.lock().unwrap_or_else(PoisonError::into_inner).take();
                body = match unseen {
                    Some(body) if attempts < ATTEMPTS && !is_of_connecting(&error) => body,
                    _ => return Err(error),
                };
                attempts += 1;
                std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
            }
        })
    }
}

/// Whether there was no connection, and none could be made: that is for others to try again.
fn is_of_connecting(error: &tonic::transport::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<tonic::ConnectError>())
}

/// A body that can be had back for as long as nobody has looked at it.
struct Lent {
    held: Arc<Mutex<Option<Body>>>,
    taken: Option<Body>,
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.taken.is_none() {
            let taken = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.taken = taken;
        }
        match &mut self.taken {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.taken {
            Some(body) => body.is_end_stream(),
            None => {
                let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                held.as_ref().is_none_or(http_body::Body::is_end_stream)
            }
        }
    }
}
