//! Mutual TLS: the daemon's certificate, the authority whose certificates clients must have, and a client's name.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::config::Tcp;

/// Longest name taken from a certificate, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read.
    #[error("cannot read {what} from {}", path.display())]
    Read {
        /// Which: `tcp.ca`, `tcp.cert`, `tcp.key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A PEM file holds no certificate.
    #[error("{what}: no certificate in {}", path.display())]
    Empty {
        /// Which: `tcp.ca` or `tcp.cert`.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The key can be read by everybody.
    #[error("tcp.key: {} has mode {mode:04o} and can be read by everybody; mend it with `chmod 600 {}`", path.display(), path.display())]
    LooseKey {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The authority's certificate cannot be used.
    #[error("tcp.ca cannot be used as an authority for clients")]
    Authority(#[source] VerifierBuilderError),
    /// Certificate and key do not go together, or one of them cannot be used.
    #[error("tcp.cert and tcp.key cannot be used together")]
    Certificate(#[source] rustls::Error),
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The handshake failed: no certificate, one of another authority, one out of its time.
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    /// The certificate has no name that can be an identity.
    #[error("the client's certificate has no usable name: a DNS name, URI, e-mail address or common name is needed")]
    Nameless,
}

/// Lets clients in who have a certificate of the authority.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Acceptor {
    /// Reads the files, blocking. TLS 1.2 and 1.3.
    ///
    /// # Errors
    /// When a file is missing, empty, readable by everybody (the key), or does not fit the others.
    pub fn new(tcp: &Tcp) -> Result<Self, TlsError> {
        let mut authority = RootCertStore::empty();
        for certificate in certificates("tcp.ca", &tcp.ca)? {
            authority.add(certificate).map_err(TlsError::Certificate)?;
        }
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(authority), provider.clone())
            .build()
            .map_err(TlsError::Authority)?;
        let chain = certificates("tcp.cert", &tcp.cert)?;
        let key = key(&tcp.key)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Certificate)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .map_err(TlsError::Certificate)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
    }

    /// The handshake, and the client's name.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<(TlsStream<TcpStream>, String), HandshakeError> {
        let stream = self.0.accept(stream).await.map_err(HandshakeError::Handshake)?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let name = certificates
            .first()
            .and_then(|certificate| name_of(certificate))
            .ok_or(HandshakeError::Nameless)?;
        Ok((stream, name))
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)?;
    if found.is_empty() {
        Err(TlsError::Empty {
            what,
            path: path.to_owned(),
        })
    } else {
        Ok(found)
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let read = |source| TlsError::Read {
        what: "tcp.key",
        path: path.to_owned(),
        source,
    };
    let mode = std::fs::metadata(path)
        .map_err(|error| read(pem::Error::Io(error)))?
        .mode()
        & 0o7777;
    if mode & 0o004 != 0 {
        return Err(TlsError::LooseKey {
            path: path.to_owned(),
            mode,
        });
    }
    PrivateKeyDer::from_pem_file(path).map_err(read)
}

/// The certificate's name: the first DNS name, URI or e-mail address of its alternative names, else its common name.
fn name_of(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let first = alternative
        .iter()
        .flat_map(|names| &names.value.general_names)
        .find_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some(*name),
            _ => None,
        });
    let common = || {
        certificate
            .subject()
            .iter_common_name()
            .find_map(|name| name.as_str().ok())
    };
    let name = first.or_else(common)?;
    let usable = !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(|byte| byte.is_ascii_graphic());
    usable.then(|| name.to_owned())
}
