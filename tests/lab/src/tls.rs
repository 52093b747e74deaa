//! TLS ends inside the lab's own processes, by rustls.
//!
//! For: conversations by the hundred, and in a machine that has no curl and no nginx. The client
//! tells whether it was shown the server's own certificate or another one that it trusts.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ResolvesServerCertUsingSni;
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

use crate::certificates::Identity;

/// How large the client's hello is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// With a post-quantum key share: more than a segment.
    Large,
    /// In one segment of any link.
    Small,
}

/// A client that trusts the authorities in `trust` (PEM) and never resumes a session.
pub fn client(trust: &Path, hello: Hello) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(trust)
        .with_context(|| format!("reading {}", trust.display()))?;
    for certificate in certificates {
        roots.add(certificate?)?;
    }
    let mut provider = aws_lc_rs::default_provider();
    if hello == Hello::Small {
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A server that has these names' certificates.
pub fn server(names: &[(&str, &Identity)]) -> Result<Arc<ServerConfig>> {
    let provider = aws_lc_rs::default_provider();
    let mut resolver = ResolvesServerCertUsingSni::new();
    for (name, identity) in names {
        let key = PrivateKeyDer::from_pem_file(&identity.key)?;
        let key = provider.key_provider.load_private_key(key)?;
        resolver.add(name, CertifiedKey::new(vec![own(identity)?], key))?;
    }
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificate a server of this identity has.
pub fn own(identity: &Identity) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(&identity.certificate)
        .with_context(|| format!("reading {}", identity.certificate.display()))
}

/// A finished handshake and the certificate that was shown.
pub fn connect(
    mut stream: TcpStream,
    config: &Arc<ClientConfig>,
    host: &str,
) -> io::Result<(StreamOwned<ClientConnection, TcpStream>, CertificateDer<'static>)> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut connection =
        ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        if connection.complete_io(&mut stream)? == (0, 0) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let shown = connection.peer_certificates().and_then(<[_]>::first).cloned();
    let shown = shown.ok_or_else(|| io::Error::other("no certificate was shown"))?;
    Ok((StreamOwned::new(connection, stream), shown))
}

/// The server's side; its handshake happens with the first read.
pub fn accept(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
) -> Result<StreamOwned<ServerConnection, TcpStream>> {
    Ok(StreamOwned::new(ServerConnection::new(Arc::clone(config))?, stream))
}
