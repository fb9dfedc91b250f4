//! Listening as peers see it: real sockets, real TLS, a real gRPC service.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint as Client, Identity as ClientIdentity};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::unix::{BindError, Reach, Socket, bind};
use super::*;
use crate::audit::AuditLog;
use crate::config::Tcp;
use crate::peer::Peer;

struct Served {
    stop: oneshot::Sender<()>,
    done: tokio::task::JoinHandle<()>,
    connections: watch::Receiver<usize>,
}

impl Served {
    async fn stop(self) {
        drop(self.stop);
        self.done.await.unwrap();
    }
}

/// A health service whose calls are refused as serve.rs refuses them.
async fn serve(endpoints: Vec<Endpoint>, admission: Admission) -> Served {
    let incoming = incoming(endpoints, admission);
    let connections = incoming.connections();
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("x", tonic_health::ServingStatus::Serving)
        .await;
    let gate = tonic::service::InterceptorLayer::new(|request: tonic::Request<()>| match Peer::of(&request) {
        Ok(_) => Ok(request),
        Err(error) => Err(tonic::Status::permission_denied(error.to_string())),
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let done = tokio::spawn(async move {
        let stopped = async move { drop(stopped.await) };
        server()
            .layer(gate)
            .add_service(health)
            .serve_with_incoming_shutdown(incoming, stopped)
            .await
            .unwrap();
    });
    Served {
        stop,
        done,
        connections,
    }
}

fn everybody() -> Admission {
    Admission {
        allowed_uids: vec![nix::unistd::geteuid().as_raw()],
        audit: None,
        successors: None,
    }
}

async fn check(channel: tonic::transport::Channel) -> Result<(), tonic::Status> {
    HealthClient::new(channel)
        .check(HealthCheckRequest { service: "x".into() })
        .await
        .map(drop)
}

async fn connect(path: &Path) -> tonic::transport::Channel {
    Client::from_shared(format!("unix://{}", path.display()))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

fn socket_in(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("run/fumehood.sock")
}

#[tokio::test]
async fn an_allowed_peer_is_served_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let (listener, socket) = bind(&path, Reach::Owner).unwrap();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let mut served = serve(vec![Endpoint::Unix(listener)], everybody()).await;
    let channel = connect(&path).await;
    check(channel.clone()).await.unwrap();
    assert_eq!(*served.connections.borrow_and_update(), 1);
    drop(channel);
    served.connections.wait_for(|count| *count == 0).await.unwrap();
    served.stop().await;
    socket.remove().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stranger_gets_a_refusal_for_every_call_and_a_record_for_each_connection() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let log = directory.path().join("audit/audit.jsonl");
    let audit = AuditLog::open(&log, "x").unwrap();
    let (listener, _socket) = bind(&path, Reach::Owner).unwrap();
    let own = nix::unistd::geteuid().as_raw();
    let admission = Admission {
        allowed_uids: vec![own + 1],
        audit: Some(audit.clone()),
        successors: None,
    };
    let served = serve(vec![Endpoint::Unix(listener)], admission).await;
    let channel = connect(&path).await;
    for _ in 0..2 {
        let status = check(channel.clone()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        assert!(status.message().contains(&format!("uid:{own} may not")), "{status}");
    }
    audit.close().await.unwrap();
    let text = fs::read_to_string(&log).unwrap();
    let denied: Vec<_> = text
        .lines()
        .filter(|line| line.contains("\"kind\":\"peer_denied\""))
        .collect();
    assert_eq!(denied.len(), 1, "{text}");
    assert!(denied[0].contains(&format!("\"peer\":\"uid:{own}\"")) && denied[0].contains("\"listener\":\"unix\""));
    drop(channel);
    served.stop().await;
}

#[tokio::test]
async fn what_is_not_http2_is_closed_at_its_first_wrong_byte() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let (listener, _socket) = bind(&path, Reach::Owner).unwrap();
    let served = serve(vec![Endpoint::Unix(listener)], everybody()).await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    // Unread bytes make it a reset instead of an end of file.
    assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    served.stop().await;
}

#[tokio::test]
async fn silent_connections_make_room_for_those_that_speak() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let (listener, _socket) = bind(&path, Reach::Owner).unwrap();
    let mut served = serve(vec![Endpoint::Unix(listener)], everybody()).await;
    let mut silent = Vec::new();
    for number in 0..MAX_HANDSHAKES + 50 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        }
        silent.push(stream);
    }
    tokio::time::timeout(Duration::from_secs(2), async {
        check(connect(&path).await).await.unwrap()
    })
    .await
    .unwrap();
    // The oldest was dropped for it, long before its time was over.
    let end = tokio::time::timeout(HANDSHAKE_TIMEOUT / 2, silent[1].read(&mut [0; 1]))
        .await
        .unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
    served.connections.wait_for(|count| *count == 0).await.unwrap();
    served.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let (listener, _socket) = bind(&path, Reach::Owner).unwrap();
    let served = serve(vec![Endpoint::Unix(listener)], everybody()).await;
    let start = tokio::time::Instant::now();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert_eq!(start.elapsed().as_secs(), HANDSHAKE_TIMEOUT.as_secs());
    served.stop().await;
}

#[tokio::test]
async fn a_second_daemon_is_told_who_serves() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let (_listener, socket) = bind(&path, Reach::Owner).unwrap();
    let error = bind(&path, Reach::Owner).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("another daemon (pid {}) serves {}", std::process::id(), path.display())
    );
    assert!(path.exists());
    socket.remove().unwrap();
    bind(&path, Reach::Owner).unwrap();
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced_and_a_foreign_one_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    drop(bind(&path, Reach::Owner).unwrap());
    assert!(path.exists(), "left behind");
    let (_listener, socket) = bind(&path, Reach::Owner).unwrap();
    // Somebody put another one in its place: it is not ours to remove.
    fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    socket.remove().unwrap();
    assert!(path.exists());
    // It is served without our lock.
    assert!(matches!(
        bind(&path, Reach::Owner),
        Err(BindError::InUse { pid: None, .. })
    ));
    drop(other);
    bind(&path, Reach::Owner).unwrap();
}

#[tokio::test]
async fn whatever_else_is_at_the_path_is_refused_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(matches!(
        bind(&path, Reach::Owner),
        Err(BindError::NotOurs { what: "no socket", .. })
    ));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    symlink("/nonexistent", &path).unwrap();
    assert!(matches!(
        bind(&path, Reach::Owner),
        Err(BindError::NotOurs {
            what: "a symbolic link",
            ..
        })
    ));
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path.with_extension("lock"), nix::sys::stat::Mode::S_IRWXU).ok();
    let lock = path.with_extension("lock");
    fs::remove_file(&lock).unwrap();
    nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(
        bind(&path, Reach::Owner),
        Err(BindError::NotOurs {
            what: "no regular file",
            ..
        })
    ));
}

#[tokio::test]
async fn a_directory_that_is_not_the_daemons_own_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let run = path.parent().unwrap();
    symlink(directory.path(), run).unwrap();
    assert!(matches!(
        bind(&path, Reach::Owner),
        Err(BindError::NotADirectory { .. })
    ));
    fs::remove_file(run).unwrap();
    fs::write(run, "").unwrap();
    assert!(matches!(
        bind(&path, Reach::Owner),
        Err(BindError::NotADirectory { .. })
    ));
    fs::remove_file(run).unwrap();
    fs::create_dir(run).unwrap();
    for mode in [0o777, 0o1777, 0o770] {
        fs::set_permissions(run, fs::Permissions::from_mode(mode)).unwrap();
        let error = bind(&path, Reach::Owner).unwrap_err();
        assert!(matches!(error, BindError::LooseDirectory { .. }), "{mode:o}: {error}");
    }
    if nix::unistd::geteuid().is_root() {
        fs::set_permissions(run, fs::Permissions::from_mode(0o700)).unwrap();
        nix::unistd::chown(run, Some(12345.into()), None).unwrap();
        assert!(matches!(
            bind(&path, Reach::Owner),
            Err(BindError::LooseDirectory { uid: 12345, .. })
        ));
    }
}

#[test]
fn the_socket_opens_only_when_others_may_use_the_daemon() {
    assert_eq!(Reach::of(&[0, 1000], 1000), Reach::Owner);
    assert_eq!(Reach::of(&[0, 1000, 1001], 1000), Reach::Everybody);
    assert_eq!(Reach::of(&[1000], 0), Reach::Everybody);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let (_listener, _socket): (_, Socket) = bind(&path, Reach::Everybody).unwrap();
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
}

/// An authority, and what it signed.
struct Authority {
    directory: tempfile::TempDir,
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        Authority {
            directory,
            certificate,
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    /// Certificate and key for a common name and alternative DNS names.
    fn sign(&self, common: &str, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !common.is_empty() {
            params.distinguished_name.push(rcgen::DnType::CommonName, common);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn tcp(&self) -> Tcp {
        let (cert, key) = self.sign("server", &["localhost"]);
        Tcp {
            listen: "127.0.0.1:0".parse().unwrap(),
            ca: self.write("ca.pem", &self.certificate.pem()),
            cert: self.write("server.pem", &cert),
            key: self.write("server.key", &key),
        }
    }
}

/// Calls the health service over TLS, with a certificate or without.
async fn check_tls(authority: &Authority, port: u16, identity: Option<(String, String)>) -> Result<(), String> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.certificate.pem()))
        .domain_name("localhost");
    if let Some((cert, key)) = identity {
        tls = tls.identity(ClientIdentity::from_pem(cert, key));
    }
    let client = Client::from_shared(format!("https://127.0.0.1:{port}"))
        .unwrap()
        .tls_config(tls)
        .unwrap();
    let channel = client.connect().await.map_err(|error| error.to_string())?;
    check(channel).await.map_err(|status| status.to_string())
}

#[tokio::test]
async fn tcp_lets_in_who_has_a_certificate_and_records_who_has_not() {
    let authority = Authority::new();
    let log = authority.directory.path().join("audit/audit.jsonl");
    let audit = AuditLog::open(&log, "x").unwrap();
    let acceptor = tls::Acceptor::new(&authority.tcp()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let admission = Admission {
        allowed_uids: vec![],
        audit: Some(audit.clone()),
        successors: None,
    };
    let served = serve(vec![Endpoint::Tls(listener, acceptor)], admission).await;

    check_tls(&authority, port, Some(authority.sign("common", &["ci.example"])))
        .await
        .unwrap();
    check_tls(&authority, port, None).await.unwrap_err();
    let other = Authority::new();
    check_tls(&authority, port, Some(other.sign("common", &["ci.example"])))
        .await
        .unwrap_err();
    check_tls(&authority, port, Some(authority.sign("", &[])))
        .await
        .unwrap_err();
    served.stop().await;
    audit.close().await.unwrap();
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.matches("\"kind\":\"peer_denied\"").count(), 3, "{text}");
    assert!(
        text.contains("\"peer\":\"tcp:127.0.0.1:") && text.contains("no usable name"),
        "{text}"
    );
}

#[tokio::test]
async fn the_identity_is_the_certificates_first_name() {
    let authority = Authority::new();
    let acceptor = tls::Acceptor::new(&authority.tcp()).unwrap();
    for (identity, expected) in [
        (
            authority.sign("common", &["first.example", "second.example"]),
            "cert:first.example",
        ),
        (authority.sign("only-common", &[]), "cert:only-common"),
        (authority.sign("common", &["10.0.0.1"]), "cert:common"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoints = vec![Endpoint::Tls(listener, acceptor.clone())];
        let mut incoming = incoming(
            endpoints,
            Admission {
                allowed_uids: vec![],
                audit: None,
                successors: None,
            },
        );
        // The call itself is never answered; the connection is all that is looked at.
        let call = check_tls(&authority, port, Some(identity));
        let connection = tokio::select! {
            connection = tokio_stream::StreamExt::next(&mut incoming) => connection.unwrap().unwrap(),
            result = call => panic!("{result:?}"),
        };
        assert_eq!(connection.peer().to_string(), expected);
        assert!(connection.peer().allowed);
    }
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    use std::error::Error as _;
    let authority = Authority::new();
    let good = authority.tcp();
    tls::Acceptor::new(&good).unwrap();
    let error = |tcp: Tcp| tls::Acceptor::new(&tcp).unwrap_err();
    let missing = error(Tcp {
        cert: "/nonexistent.pem".into(),
        ..good.clone()
    });
    assert!(
        missing.to_string().contains("tcp.cert from /nonexistent.pem") && missing.source().is_some(),
        "{missing}"
    );
    let empty = authority.write("empty.pem", "nothing");
    assert!(
        error(Tcp {
            ca: empty.clone(),
            ..good.clone()
        })
        .to_string()
        .contains("tcp.ca: no certificate")
    );
    assert!(
        error(Tcp {
            key: empty,
            ..good.clone()
        })
        .to_string()
        .contains("tcp.key")
    );
    let (_, other_key) = authority.sign("other", &[]);
    let other = error(Tcp {
        key: authority.write("other.key", &other_key),
        ..good.clone()
    });
    assert!(other.to_string().contains("together"), "{other}");
    fs::set_permissions(&good.key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(error(good).to_string().contains("chmod 600"));
}
