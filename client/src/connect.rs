//! Ways to a daemon.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nix::unistd::geteuid;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tower::service_fn;

use crate::client::Client;
use crate::directory::{self, Closed, DirectoryError};
use crate::socket::{SOCKET_VARIABLE, SocketPathError, socket_path};

/// Bytes of a stream that may be under way unread: two of the largest output events and room for their frames.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// The same for all streams of a connection: so much that a thousand runs whose events nobody takes do not hold back the others. Only
/// what streams have under way takes memory.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;
/// The largest HTTP/2 frame taken: an output event of 256 KiB arrives in one piece.
const FRAME_BYTES: u32 = 512 * 1024;

/// A connection over TCP is made within this time, or not at all.
const TCP_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After this time of silence on TCP the daemon is asked whether it is still there, and has the same time to answer.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A listening socket whose backlog is full refuses with EAGAIN at once; it is tried again for this time.
const BACKLOG_PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no path for the socket.
    #[error(transparent)]
    SocketPath(#[from] SocketPathError),
    /// The directory of the socket cannot be trusted.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// No daemon listens there: no such socket, or one that nobody serves any more.
    #[error("no daemon listens on {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// `ENOENT` or `ECONNREFUSED`.
        source: io::Error,
    },
    /// The process that serves the socket is another user's, and not root's: it would see the whole request.
    #[error(
        "the daemon on {} runs as user id {daemon}, neither yours ({ours}) nor root: nothing was sent to it; set FUMEHOOD_SOCKET to a socket of your own",
        path.display()
    )]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// The user id that listens.
        daemon: u32,
        /// The effective user id of this process.
        ours: u32,
    },
    /// The socket is there and cannot be connected to.
    #[error("cannot connect to {}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file of the TLS identity cannot be read.
    #[error("cannot read {}", path.display())]
    TlsFile {
        /// Which.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The address, a certificate or the key is malformed, the daemon's certificate is not trusted, or nothing answers.
    #[error("cannot connect to {address} over TLS")]
    Tls {
        /// The address as given.
        address: String,
        /// The reason.
        source: tonic::transport::Error,
    },
    /// HTTP/2 could not be spoken on a connection that was made.
    #[error("the daemon does not speak HTTP/2")]
    Handshake(#[source] tonic::transport::Error),
}

/// What mutual TLS needs: all in PEM.
#[derive(Clone)]
pub struct TlsOptions {
    /// The certificates of the authorities that may vouch for the daemon. The system's own are not used.
    pub ca: Vec<u8>,
    /// This client's certificate chain; its name is the identity the daemon knows this client by.
    pub cert: Vec<u8>,
    /// The certificate's private key.
    pub key: Vec<u8>,
    /// The name the daemon's certificate must carry.
    pub domain: String,
}

impl TlsOptions {
    /// Reads the three files.
    ///
    /// # Errors
    /// [`ConnectError::TlsFile`] for one that cannot be read. What is in them is judged when connecting.
    pub fn read(ca: &Path, cert: &Path, key: &Path, domain: impl Into<String>) -> Result<Self, ConnectError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| ConnectError::TlsFile {
                path: path.to_owned(),
                source,
            })
        };
        Ok(Self {
            ca: read(ca)?,
            cert: read(cert)?,
            key: read(key)?,
            domain: domain.into(),
        })
    }
}

impl std::fmt::Debug for TlsOptions {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsOptions")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to this user's daemon, where `fumehood` looks for it: see [`socket_path`]. None is started: the program does that, as by
    /// `fumehood doctor`.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = fumehood_client::Client::connect().await?;
    /// let output = client.command("cargo").arg("test").output().await?;
    /// assert!(output.status.success());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ConnectError::SocketPath`] and [`ConnectError::Directory`] where the socket cannot be trusted to be a daemon's, and those of
    /// [`connect_unix`](Self::connect_unix).
    pub async fn connect() -> Result<Self, ConnectError> {
        let socket = socket_path()?;
        let named = std::env::var_os(SOCKET_VARIABLE).is_some_and(|value| !value.is_empty());
        let directory = socket.parent().unwrap_or_else(|| Path::new("/"));
        // A directory of ours is looked at before it is trusted; a named one may be the system's, that others look into.
        if !named && directory.symlink_metadata().is_ok() {
            directory::open_checked(directory, Closed::ToAll)?;
        }
        Self::connect_unix(socket).await
    }

    /// Connects to the daemon on a Unix socket, after making sure by `SO_PEERCRED` that it runs as this user or as root.
    ///
    /// A connection that breaks later is made again by the next call, with the same check.
    ///
    /// # Errors
    /// [`ConnectError::NotRunning`] when none listens there, [`ConnectError::Foreign`] when another user's does,
    /// [`ConnectError::Socket`] for what else the system says.
    pub async fn connect_unix(path: impl Into<PathBuf>) -> Result<Self, ConnectError> {
        let path = path.into();
        // The first connection is made here, where its errors have types; the channel takes it from here.
        let first = Arc::new(Mutex::new(Some(open_unix(&path).await?)));
        let connector = service_fn(move |_: Uri| {
            let ready = first.lock().ok().and_then(|mut first| first.take());
            let path = path.clone();
            async move {
                let stream = match ready {
                    Some(stream) => stream,
                    None => open_unix(&path).await.map_err(io::Error::other)?,
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        // The URI is never resolved; HTTP/2 only wants an authority.
        let endpoint = tuned(Endpoint::from_static("http://localhost"));
        endpoint
            .connect_with_connector(connector)
            .await
            .map(Self::over)
            .map_err(ConnectError::Handshake)
    }

    /// Connects over TCP with mutual TLS; `address` is `HOST:PORT`.
    ///
    /// # Errors
    /// [`ConnectError::Tls`], with the reason as its source.
    pub async fn connect_tls(address: &str, options: TlsOptions) -> Result<Self, ConnectError> {
        let TlsOptions { ca, cert, key, domain } = options;
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .identity(Identity::from_pem(cert, key))
            .domain_name(domain);
        let connect = async {
            tuned(Endpoint::from_shared(format!("https://{address}"))?)
                .tls_config(config)?
                .connect_timeout(TCP_CONNECT_TIMEOUT)
                .http2_keep_alive_interval(TCP_KEEP_ALIVE)
                .keep_alive_timeout(TCP_KEEP_ALIVE)
                .connect()
                .await
        };
        connect.await.map(Self::over).map_err(|source| ConnectError::Tls {
            address: address.to_owned(),
            source,
        })
    }

    /// Uses a channel that was made elsewhere. Nothing is checked: whom it leads to is the caller's affair.
    #[must_use]
    pub fn from_channel(channel: Channel) -> Self {
        Self::over(channel)
    }
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .tcp_nodelay(true)
}

/// Connects and looks at who listens.
async fn open_unix(path: &Path) -> Result<UnixStream, ConnectError> {
    let give_up = tokio::time::Instant::now() + BACKLOG_PATIENCE;
    let mut pause = Duration::from_millis(1);
    let stream = loop {
        match UnixStream::connect(path).await {
            Ok(stream) => break stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tokio::time::Instant::now() < give_up => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(source) => {
                let path = path.to_owned();
                return Err(match source.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        ConnectError::NotRunning { path, source }
                    }
                    _ => ConnectError::Socket { path, source },
                });
            }
        }
    };
    // Who called listen(2), as the kernel recorded it then.
    let daemon = stream
        .peer_cred()
        .map_err(|source| ConnectError::Socket {
            path: path.to_owned(),
            source,
        })?
        .uid();
    let ours = geteuid().as_raw();
    if daemon != ours && daemon != 0 {
        return Err(ConnectError::Foreign {
            path: path.to_owned(),
            daemon,
            ours,
        });
    }
    Ok(stream)
}
