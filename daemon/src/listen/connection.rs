//! A connection whose handshake is complete and whose peer is known.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::accept::Place;
use crate::handover;
use crate::peer::Peer;

/// What every HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A served connection; tonic puts its [`Peer`] into every request's extensions.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// What of the preface, which was read already, is still to be given to the reader.
    preface: &'static [u8],
    peer: Peer,
    place: Place,
    /// Looks for the first call; `None` once it was made.
    silence: Option<Silence>,
}

/// The type of the frame that begins a call (RFC 9113, section 6.2), and the length of what precedes each frame's payload.
const HEADERS: u8 = 1;
const FRAME_PREFIX_BYTES: usize = 9;

/// Follows the frames of a connection up to its first call.
#[derive(Debug, Default)]
struct Silence {
    prefix: [u8; FRAME_PREFIX_BYTES],
    known: usize,
    /// What of the current frame's payload is still to come.
    payload: usize,
}

impl Silence {
    /// Whether a call begins in these bytes.
    fn ends_with(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let skipped = bytes.len().min(self.payload);
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let taken = bytes.len().min(FRAME_PREFIX_BYTES - self.known);
            self.prefix[self.known..][..taken].copy_from_slice(&bytes[..taken]);
            self.known += taken;
            bytes = &bytes[taken..];
            if self.known == FRAME_PREFIX_BYTES {
                let [high, middle, low, kind, ..] = self.prefix;
                if kind == HEADERS {
                    return true;
                }
                self.known = 0;
                self.payload = u32::from_be_bytes([0, high, middle, low]) as usize;
            }
        }
        false
    }
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preface {
    Http2,
    HandOver,
}

#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    pub(super) fn new(stream: Stream, peer: Peer, place: Place) -> Self {
        Connection {
            stream,
            preface: PREFACE,
            peer,
            place,
            silence: Some(Silence::default()),
        }
    }

    /// The one at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Stream {
    /// Reads the HTTP/2 preface, or that of a daemon that wants to take over, and stops at the first byte that is none of it.
    pub(super) async fn read_preface(&mut self) -> io::Result<Preface> {
        let mut read = [0; PREFACE.len()];
        let mut length = 0;
        while length < PREFACE.len() {
            let more = match self {
                Stream::Unix(stream) => stream.read(&mut read[length..]).await?,
                Stream::Tls(stream) => stream.read(&mut read[length..]).await?,
            };
            length += more;
            if more == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !PREFACE.starts_with(&read[..length]) && !handover::PREFACE.starts_with(&read[..length]) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no HTTP/2 preface"));
            }
        }
        Ok(match read == *PREFACE {
            true => Preface::Http2,
            false => Preface::HandOver,
        })
    }
}

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.preface.is_empty() {
            let (now, later) = self.preface.split_at(self.preface.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.preface = later;
            return Poll::Ready(Ok(()));
        }
        let this = &mut *self;
        if this.silence.is_some() && this.place.is_lost(cx.waker()) {
            // As if the client had closed it: nothing is open on it.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = match &mut this.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if let Some(silence) = &mut this.silence
            && silence.ends_with(&buffer.filled()[before..])
        {
            this.place.keep();
            this.silence = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Unix(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_call_is_found_wherever_reads_are_cut() {
        let frame = |kind: u8, payload: usize| {
            let mut bytes = (payload as u32).to_be_bytes()[1..].to_vec();
            bytes.extend([kind, 0, 0, 0, 0, 1]);
            bytes.resize(FRAME_PREFIX_BYTES + payload, HEADERS);
            bytes
        };
        let silent = [frame(4, 18), frame(4, 0), frame(8, 4), frame(6, 8)].concat();
        let call = [silent.clone(), frame(HEADERS, 3)].concat();
        for cut in 1..call.len() {
            let found = |bytes: &[u8]| {
                let mut silence = Silence::default();
                bytes.chunks(cut).any(|piece| silence.ends_with(piece))
            };
            assert!(!found(&silent) && found(&call), "{cut}");
        }
    }
}
