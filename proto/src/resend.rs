//! Requests that go out again when nobody can have heard them.
//!
//! A daemon that is being replaced tells its peers to make another connection (GOAWAY). A request that is made in this very moment finds the old
//! one closed before it left, or leaves and is told that it was not looked at (RFC 9113, section 6.8). Either is certain, so the same request may go
//! out over the next connection. What was said until then is kept for that, up to a bound, and until there is an answer.

use std::collections::VecDeque;
use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

/// Bytes of a request that are kept, at most: the longest message that a daemon takes, and room. A longer one goes out once.
const MAX_BYTES: usize = 9 << 20;

/// A request that may go out more than once.
#[derive(Debug)]
pub struct Resend {
    parts: http::request::Parts,
    said: Arc<Mutex<Said>>,
}

#[derive(Debug)]
struct Said {
    body: Body,
    /// What was taken from the body, while it may be needed again.
    kept: Vec<Bytes>,
    bytes: usize,
    state: State,
    /// Of which sending the body is.
    sending: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Everything that was said is kept.
    Whole,
    /// Not any more.
    Cut,
}

impl Resend {
    /// A request that has not gone out.
    #[must_use]
    pub fn new(request: http::Request<Body>) -> Resend {
        let (parts, body) = request.into_parts();
        let said = Said {
            body,
            kept: Vec::new(),
            bytes: 0,
            state: State::Whole,
            sending: 0,
        };
        Resend {
            parts,
            said: Arc::new(Mutex::new(said)),
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        lock(&self.said)
    }

    /// The request, from its beginning. One that was given before is at its end.
    #[must_use]
    pub fn request(&self) -> http::Request<Body> {
        let mut said = self.said();
        said.sending += 1;
        let sent = Sent {
            again: said.kept.iter().cloned().collect(),
            sending: said.sending,
            said: Arc::clone(&self.said),
        };
        // Whoever wraps a body looks at it.
        drop(said);
        http::Request::from_parts(self.parts.clone(), Body::new(sent))
    }

    /// Whether the request may go out again after this error: nobody has heard it.
    #[must_use]
    pub fn may_follow(&self, error: &(dyn Error + 'static)) -> bool {
        let said = self.said();
        // Before its first byte, nobody can have.
        said.state == State::Whole && (said.kept.is_empty() || was_not_heard(error))
    }

    /// There is an answer: nothing is kept any more.
    pub fn answered(self) {
        let mut said = self.said();
        (said.state, said.kept) = (State::Cut, Vec::new());
    }
}

/// Whether an error says that the other end did not look at the request.
fn was_not_heard(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|error| {
        error.downcast_ref::<h2::Error>().is_some_and(|error| {
            // GOAWAY without an error is the error of those streams alone that came after the last one looked at.
            let left = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            error.is_remote() && (left || refused)
        })
    })
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body that goes out.
struct Sent {
    /// What was said before, to be said again.
    again: VecDeque<Bytes>,
    sending: u64,
    said: Arc<Mutex<Said>>,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let mut said = lock(&this.said);
        if said.sending != this.sending {
            return Poll::Ready(None);
        }
        if let Some(data) = this.again.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let frame = ready!(Pin::new(&mut said.body).poll_frame(cx));
        if said.state == State::Whole
            && let Some(Ok(frame)) = &frame
        {
            match frame.data_ref() {
                Some(data) if said.bytes + data.len() <= MAX_BYTES => {
                    said.bytes += data.len();
                    said.kept.push(data.clone());
                }
                // Trailers, which no request of ours has, or too much.
                _ => (said.state, said.kept) = (State::Cut, Vec::new()),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let said = lock(&self.said);
        said.sending != self.sending || (self.again.is_empty() && said.body.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pieces(VecDeque<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn resend(pieces: &[&'static [u8]]) -> Resend {
        let pieces = pieces.iter().map(|piece| Bytes::from_static(piece)).collect();
        Resend::new(http::Request::new(Body::new(Pieces(pieces))))
    }

    fn next(body: &mut Body) -> Option<Bytes> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match http_body::Body::poll_frame(Pin::new(body), &mut cx) {
            Poll::Ready(Some(frame)) => Some(frame.unwrap().into_data().unwrap()),
            Poll::Ready(None) => None,
            Poll::Pending => panic!("the pieces are all there"),
        }
    }

    fn left() -> std::io::Error {
        std::io::Error::other("something else")
    }

    #[test]
    fn what_was_said_is_said_again_and_goes_on_where_it_was() {
        let resend = resend(&[b"a", b"b", b"c"]);
        let mut first = resend.request().into_body();
        assert_eq!(
            (next(&mut first), next(&mut first)),
            (Some("a".into()), Some("b".into()))
        );
        let mut second = resend.request().into_body();
        // Who still holds the first one takes nothing from the second.
        assert_eq!(next(&mut first), None);
        assert!(http_body::Body::is_end_stream(&first));
        for piece in ["a", "b", "c"] {
            assert!(!http_body::Body::is_end_stream(&second));
            assert_eq!(next(&mut second), Some(piece.into()));
        }
        assert!(http_body::Body::is_end_stream(&second) && next(&mut second).is_none());
    }

    #[test]
    fn only_what_nobody_heard_goes_out_again() {
        let resend = resend(&[b"a"]);
        let mut body = resend.request().into_body();
        assert!(resend.may_follow(&left()), "nothing was said yet");
        next(&mut body);
        assert!(!resend.may_follow(&left()), "somebody may have heard");
        let mut ours = h2::Error::from(h2::Reason::NO_ERROR);
        assert!(!resend.may_follow(&ours), "said by this side");
        ours = h2::Error::from(h2::Reason::INTERNAL_ERROR);
        assert!(!resend.may_follow(&ours));
    }

    #[test]
    fn what_is_answered_or_too_long_is_not_kept() {
        let answered = resend(&[b"a", b"b"]);
        let mut body = answered.request().into_body();
        next(&mut body);
        let said = Arc::clone(&answered.said);
        answered.answered();
        assert_eq!(next(&mut body), Some("b".into()), "it goes on");
        assert!(lock(&said).kept.is_empty());

        static LONG: [u8; MAX_BYTES] = [0; MAX_BYTES];
        let long = resend(&[&LONG, b"b"]);
        let mut body = long.request().into_body();
        next(&mut body);
        assert_eq!(lock(&long.said).kept.len(), 1);
        next(&mut body);
        assert!(lock(&long.said).kept.is_empty());
        assert!(!long.may_follow(&left()));
    }
}
