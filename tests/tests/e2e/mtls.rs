//! TCP, with mutual TLS only.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use fumehood_client::{Client, Error, TlsOptions};
use fumehood_tests::{House, send};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::builder;

pub(super) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// Certificate and key in PEM.
    pub(super) fn vouch(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A daemon on TCP, vouched for by `authority`.
pub(super) fn on_tcp(authority: &Authority) -> (House, String) {
    // A port that was free a moment ago: the configuration takes no port 0, of which nobody would learn the number.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mut house = builder().not_started().build();
    let (cert, key) = authority.vouch("daemon.test");
    house.write("ca.pem", &authority.pem);
    house.write("server.pem", cert);
    let key = house.write("server.key", key);
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let path = |name: &str| house.path(name).display().to_string();
    let tcp = format!(
        "[tcp]\nlisten = \"{address}\"\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n",
        path("ca.pem"),
        path("server.pem"),
        path("server.key")
    );
    house.write("config.toml", tcp);
    house.start_daemon();
    (house, address)
}

pub(super) fn options(authority: &Authority, cert: String, key: String) -> TlsOptions {
    TlsOptions {
        ca: authority.pem.clone().into(),
        cert: cert.into(),
        key: key.into(),
        domain: "daemon.test".to_owned(),
    }
}

#[test]
fn a_daemon_does_not_listen_on_tcp_without_certificates() {
    for config in [
        "[tcp]\nlisten = \"127.0.0.1:0\"",
        "[tcp]\nlisten = \"127.0.0.1:7443\"\nca = \"/ca.pem\"",
    ] {
        let mut house = builder().config(config).not_started().build();
        let (status, log) = house.try_start().unwrap_err();
        assert_eq!(status.code(), Some(1));
        assert!(log.contains("mutual TLS") && log.contains("tcp.cert"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_certificate_works_and_its_name_is_its_identity() {
    let authority = Authority::new();
    let (house, address) = on_tcp(&authority);
    let (cert, key) = authority.vouch("agent.example");
    let client = Client::connect_tls(&address, options(&authority, cert, key))
        .await
        .unwrap();
    let told = send(&client, house.script("echo over tcp")).await;
    assert_eq!(told.out(), "over tcp\n");
    assert_eq!(client.get(told.id()).await.unwrap().peer, "cert:agent.example");
    assert!(
        house
            .records()
            .iter()
            .any(|record| record["peer"] == "cert:agent.example")
    );

    // Another name is another peer: it does not see the run.
    let (cert, key) = authority.vouch("other.example");
    let other = Client::connect_tls(&address, options(&authority, cert, key))
        .await
        .unwrap();
    assert!(matches!(other.get(told.id()).await, Err(Error::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_of_the_authority_gets_nothing() {
    let authority = Authority::new();
    let (_house, address) = on_tcp(&authority);
    let stranger = Authority::new();
    let (cert, key) = stranger.vouch("agent.example");
    // With TLS 1.3 a client may learn of its refusal only when it first reads.
    if let Ok(client) = Client::connect_tls(&address, options(&authority, cert, key)).await {
        let answer = client.version().await;
        assert!(matches!(answer, Err(Error::Transport { .. })), "{answer:?}");
    }
    let tls = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(&authority.pem))
        .domain_name("daemon.test");
    let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{address}"))
        .unwrap()
        .tls_config(tls)
        .unwrap();
    if let Ok(channel) = endpoint.connect().await {
        let mut node = fumehood_client::proto::v1::node_client::NodeClient::new(channel);
        let answer = node.version(fumehood_client::proto::v1::VersionRequest {}).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    let plain = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    if let Ok(channel) = plain.connect().await {
        let mut node = fumehood_client::proto::v1::node_client::NodeClient::new(channel);
        assert!(
            node.version(fumehood_client::proto::v1::VersionRequest {})
                .await
                .is_err()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_each_peers_own_and_tell_nobody_elses() {
    let authority = Authority::new();
    let (house, address) = on_tcp(&authority);
    let mut peers = Vec::new();
    for name in ["one.example", "other.example"] {
        let (cert, key) = authority.vouch(name);
        peers.push(
            Client::connect_tls(&address, options(&authority, cert, key))
                .await
                .unwrap(),
        );
    }
    let request = |id: &str, script: &str| fumehood_client::proto::v1::StartRequest {
        run_id: id.to_owned(),
        spec: Some(house.script(script)),
    };
    let theirs = peers[0].start(request("build", "echo one")).await.unwrap();
    assert!(!theirs.existed);
    // What is somebody else's and what never was get the same answer, whatever is asked.
    let said = |error: Option<Error>| match error {
        Some(Error::NotFound { message }) => message.replace("never-was", "build"),
        other => panic!("{other:?}"),
    };
    let mut answers = Vec::new();
    for id in ["build", "never-was"] {
        answers.push([
            said(peers[1].get(id).await.err()),
            said(peers[1].wait(id, None).await.err()),
            said(peers[1].kill(id, None, "").await.err()),
            said(peers[1].release(id).await.err()),
            said(peers[1].attach_stream(id, 0).await.err()),
        ]);
    }
    assert_eq!(answers[0], answers[1]);
    // The id is free for them, for another request.
    let own = peers[1].start(request("build", "echo other")).await.unwrap();
    assert!(!own.existed);
    for peer in &peers {
        peer.wait("build", None).await.unwrap();
        assert_eq!(peer.list(Default::default()).await.unwrap().runs.len(), 1);
    }
    peers[1].release("build").await.unwrap();
    assert_eq!(peers[0].get("build").await.unwrap().peer, "cert:one.example");
    // In the log, where all stand side by side, they are told apart.
    let mut ids: Vec<String> = house
        .records()
        .iter()
        .filter(|record| record["kind"] == "intent")
        .map(|record| record["run_id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    assert_eq!(ids, ["build@cert:one.example", "build@cert:other.example"]);
}
