//! The client against a server of the generated kind, over real sockets. What a real daemon does is tested elsewhere; here it
//! is what this library makes of its answers.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use fumehood_client::proto::v1::run_event::Event;
use fumehood_client::proto::v1::run_request::Message;
use fumehood_client::proto::v1::runs_server::{Runs, RunsServer};
use fumehood_client::proto::v1::*;
use fumehood_client::{Client, ConnectError, Error, MAX_STDIN_BYTES, TlsOptions};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

/// Gives back the input as output; a run with the id `cut` ends without `finished`.
struct Echo;

type Events = Pin<Box<dyn Stream<Item = Result<RunEvent, Status>> + Send>>;

fn event(seq: u64, event: Event) -> Result<RunEvent, Status> {
    Ok(RunEvent {
        run_id: "echo".to_owned(),
        seq,
        time: None,
        event: Some(event),
    })
}

#[tonic::async_trait]
impl Runs for Echo {
    type RunStream = Events;
    type AttachStream = Events;

    async fn run(&self, request: Request<Streaming<RunRequest>>) -> Result<Response<Events>, Status> {
        let mut input = request.into_inner();
        let Some(Message::Start(start)) = input.message().await?.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("the first message must carry start"));
        };
        if start.spec.is_none() {
            let details = ErrorDetails::with_bad_request_violation("spec", "must be set");
            return Err(Status::with_error_details(
                Code::InvalidArgument,
                "1 field is wrong",
                details,
            ));
        }
        let (events, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let mut seq = 1;
            let _ = events.send(event(seq, Event::Accepted(Accepted::default()))).await;
            let mut offset = 0;
            while start.run_id != "cut"
                && let Ok(Some(RunRequest {
                    message: Some(Message::Stdin(Stdin { data, eof, .. })),
                })) = input.message().await
            {
                assert!(data.len() <= MAX_STDIN_BYTES);
                let length = data.len() as u64;
                seq += 1;
                if length > 0 {
                    let output = Output {
                        stream: OutputStream::Stdout.into(),
                        offset,
                        data,
                    };
                    let _ = events.send(event(seq, Event::Output(output))).await;
                }
                offset += length;
                if eof {
                    let _ = events.send(event(seq + 1, Event::Finished(Finished::default()))).await;
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn attach(&self, request: Request<Streaming<AttachRequest>>) -> Result<Response<Events>, Status> {
        let first = request.into_inner().message().await?.and_then(|first| first.message);
        let Some(attach_request::Message::Attach(AttachStart { from_seq, .. })) = first else {
            return Err(Status::invalid_argument("the first message must carry attach"));
        };
        let events = vec![event(
            from_seq,
            Event::Finished(Finished {
                shell_code: 3,
                ..Finished::default()
            }),
        )];
        Ok(Response::new(Box::pin(
            tokio_stream::iter(events).chain(tokio_stream::pending()),
        )))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        Err(Status::not_found(format!("no run `{}`", request.into_inner().run_id)))
    }

    async fn wait(&self, _: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        Ok(Response::new(WaitResponse { run: None }))
    }

    async fn kill(&self, _: Request<KillRequest>) -> Result<Response<KillResponse>, Status> {
        let mut details = ErrorDetails::with_error_info("DRAINING", "fumehood", std::collections::HashMap::new());
        details.set_retry_info(Some(std::time::Duration::from_secs(1)));
        Err(Status::with_error_details(Code::Unavailable, "it drains", details))
    }

    async fn start(&self, _: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn signal(&self, _: Request<SignalRequest>) -> Result<Response<SignalResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn release(&self, _: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Serves on a Unix socket until the task is aborted.
fn serve(path: &Path) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let server = Server::builder().add_service(RunsServer::new(Echo));
        server
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .unwrap();
    })
}

async fn connected() -> (tempfile::TempDir, Client) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fumehood.sock");
    serve(&path);
    (directory, Client::connect_unix(path).await.unwrap())
}

fn request(run_id: &str) -> StartRequest {
    StartRequest {
        run_id: run_id.to_owned(),
        spec: Some(RunSpec::default()),
    }
}

#[tokio::test]
async fn input_and_events_live_in_two_tasks() {
    let (_directory, client) = connected().await;
    let (input, mut events) = client.run(request("")).await.unwrap().split();
    let sent = bytes::Bytes::from(vec![b'x'; 3 * MAX_STDIN_BYTES + 1]);
    let expected = sent.len();
    let writer = tokio::spawn(async move {
        input.send_stdin(sent).await.unwrap();
        input.close_stdin().await.unwrap();
    });
    let (mut received, mut finished) = (0, 0);
    while let Some(event) = events.next().await.unwrap() {
        match event.event {
            Some(Event::Output(output)) => {
                assert_eq!(output.offset, received as u64);
                received += output.data.len();
            }
            Some(Event::Finished(_)) => finished += 1,
            _ => {}
        }
    }
    writer.await.unwrap();
    assert_eq!((received, finished), (expected, 1));
    assert!(
        events.next().await.unwrap().is_none(),
        "after finished there is nothing, and no error"
    );
}

#[tokio::test]
async fn events_that_end_before_finished_are_an_error() {
    let (_directory, client) = connected().await;
    let mut handle = client.run(request("cut")).await.unwrap();
    assert!(matches!(handle.events().next().await, Ok(Some(_))));
    assert!(matches!(handle.events().next().await, Err(Error::Interrupted)));
    assert_eq!(handle.events().last_seq(), 1);
}

#[tokio::test]
async fn input_of_a_run_that_is_over_is_refused() {
    let (_directory, client) = connected().await;
    let (input, events) = client.run(request("")).await.unwrap().split();
    drop(events);
    // The stream's end is noticed by the connection's task; until then messages may still be queued.
    while input.send_stdin("x".into()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(input.close_stdin().await, Err(Error::InputClosed)));
}

#[tokio::test]
async fn attaching_ends_with_finished_though_the_stream_stays_open() {
    let (_directory, client) = connected().await;
    let mut handle = client.attach_stream("echo", 7).await.unwrap();
    let event = handle.events().next().await.unwrap().unwrap();
    assert_eq!(event.seq, 7);
    assert!(handle.events().next().await.unwrap().is_none());
}

#[tokio::test]
async fn refusals_have_types() {
    let (_directory, client) = connected().await;
    let error = client.run(StartRequest::default()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Invalid { violations, .. } if violations[0].field == "spec"),
        "{error:?}"
    );
    let error = client.get("x").await.unwrap_err();
    assert!(
        matches!(&error, Error::NotFound { message } if message == "no run `x`"),
        "{error:?}"
    );
    let error = client.kill("x", None, "").await.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Unavailable {
                retry_after: Some(_),
                ..
            }
        ),
        "{error:?}"
    );
    assert!(matches!(
        client.list(ListRequest::default()).await,
        Err(Error::Unsupported)
    ));
    assert!(matches!(client.wait("x", None).await, Err(Error::Internal { .. })));
    // The server has no such service at all.
    assert!(matches!(client.version().await, Err(Error::Unsupported)));
}

#[tokio::test]
async fn a_socket_without_a_daemon_is_told_from_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fumehood.sock");
    assert!(matches!(
        Client::connect_unix(&path).await,
        Err(ConnectError::NotRunning { .. })
    ));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(
        matches!(Client::connect_unix(&path).await, Err(ConnectError::NotRunning { .. })),
        "a stale socket"
    );
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(Client::connect_unix(file.join("below")).await.is_err());
}

#[tokio::test]
async fn a_daemon_that_is_gone_is_a_broken_connection() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fumehood.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let client = Client::connect_unix(&path).await.unwrap();
    drop(listener);
    let error = client.get("x").await.unwrap_err();
    assert!(matches!(error, Error::Transport { .. }), "{error:?}");
}

/// An authority and what it vouches for.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate,
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    /// Certificate and key in PEM.
    fn vouch(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn client(&self, domain: &str) -> TlsOptions {
        let (cert, key) = self.vouch("client");
        TlsOptions {
            ca: self.certificate.pem().into(),
            cert: cert.into(),
            key: key.into(),
            domain: domain.to_owned(),
        }
    }
}

#[tokio::test]
async fn tls_needs_trust_on_both_sides() {
    let (ours, other) = (Authority::new(), Authority::new());
    let (cert, key) = ours.vouch("daemon.test");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(ours.certificate.pem()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut server = Server::builder().tls_config(tls).unwrap();
    let server = server.add_service(RunsServer::from_arc(Arc::new(Echo)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let client = Client::connect_tls(&address, ours.client("daemon.test")).await.unwrap();
    assert!(matches!(client.get("x").await, Err(Error::NotFound { .. })));

    let wrong_name = Client::connect_tls(&address, ours.client("elsewhere.test")).await;
    assert!(matches!(wrong_name, Err(ConnectError::Tls { .. })));
    let untrusted_server = Client::connect_tls(&address, other.client("daemon.test")).await;
    assert!(matches!(untrusted_server, Err(ConnectError::Tls { .. })));

    // With TLS 1.3 a client learns of its refusal only when it reads.
    let (cert, key) = other.vouch("client");
    let stranger = TlsOptions {
        cert: cert.into(),
        key: key.into(),
        ..ours.client("daemon.test")
    };
    if let Ok(client) = Client::connect_tls(&address, stranger).await {
        let error = client.get("x").await.unwrap_err();
        assert!(matches!(error, Error::Transport { .. }), "{error:?}");
    }
}
