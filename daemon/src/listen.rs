//! Listening: a Unix socket that is provably the daemon's own, TCP with mutual TLS, and connections that know their peer.
//!
//! [`unix::bind`] and [`tls::Acceptor::new`] prepare endpoints; [`incoming`] turns them into the one stream of [`Connection`]s that a
//! tonic server from [`server`] serves. A connection is handed on only when its TLS handshake and its HTTP/2 preface are
//! complete, within [`HANDSHAKE_TIMEOUT`]: what only connects and says nothing costs a descriptor for that long, and is the
//! first to be dropped when many do it.

mod accept;
mod connection;
pub mod tls;
pub mod unix;

use std::time::Duration;

pub use accept::{Admission, Closing, Endpoint, Incoming, incoming};
pub use connection::Connection;

/// How long a connection may take for its TLS handshake and HTTP/2 preface.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections in their handshake, for each endpoint; one more drops the oldest of them.
pub const MAX_HANDSHAKES: usize = 128;

/// Connections being served, all endpoints together. One more takes the place of the oldest that has not made a call; when all have, it
/// is closed at once.
pub const MAX_CONNECTIONS: usize = 512;

/// Of these, connections of peers that may not use the daemon.
pub const MAX_REFUSED_CONNECTIONS: usize = 16;

/// Calls at the same time on one connection. Above what admission takes, so that its refusal comes and not a silent wait.
pub const MAX_STREAMS: u32 = 4096;

/// Largest header list of a request, in bytes.
pub const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;

/// Bytes a client may send ahead on one call, before the daemon has taken them.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// Bytes a client may send ahead on all calls of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// How often a connection is asked whether its peer is still there, ...
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// ... and how long the answer may take.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Streams that a client reset before they were looked at; more end the connection (rapid reset, CVE-2023-44487).
pub const MAX_PENDING_RESETS: usize = 20;

/// Streams that the daemon reset for a client's errors; more end the connection.
pub const MAX_ERROR_RESETS: usize = 256;

/// A tonic server with the bounds of this module, without services.
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
}

#[cfg(test)]
mod tests;
