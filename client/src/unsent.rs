//! Calls that nobody heard are made again: see [`fumehood_proto::resend`].

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use fumehood_proto::resend::Resend;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

/// How often a call is made that nobody hears.
const ATTEMPTS: u32 = 4;

/// A channel whose calls are made again when nobody heard them; clones share it.
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
            let resend = Resend::new(request);
            for _ in 1..ATTEMPTS {
                match channel.call(resend.request()).await {
                    Ok(response) => {
                        resend.answered();
                        return Ok(response);
                    }
                    Err(error) if is_of_connecting(&error) || !resend.may_follow(&error) => return Err(error),
                    Err(_) => std::future::poll_fn(|cx| channel.poll_ready(cx)).await?,
                }
            }
            channel.call(resend.request()).await
        })
    }
}

/// Whether there was no connection, and none could be made: that is for others to try again.
fn is_of_connecting(error: &tonic::transport::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<tonic::ConnectError>())
}
