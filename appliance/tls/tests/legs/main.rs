//! Both legs of the modern stack against each other, and against rustls, in memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;

mod alerts;
mod data;
mod handshake;
mod negotiation;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::{authority, leaf, leaf_with, pump};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weir_tls::{LegError, LegKey, ModernStack, TlsLeg, Verdict};

const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 443);

fn stack() -> ModernStack {
    ModernStack::new().unwrap()
}

fn test_key() -> LegKey {
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    LegKey::new(&leaf(&authority, &["www.example.org"])).unwrap()
}

/// A server leg and a client leg after their handshake.
fn joined(key: &LegKey) -> (Box<dyn TlsLeg>, Box<dyn TlsLeg>) {
    let stack = stack();
    let mut server_leg =
        stack.server_leg(Some("www.example.org"), ADDRESS, vec![b"http/1.1".to_vec()]).unwrap();
    let mut client_leg =
        stack.client_leg(key, Verdict::default(), Some(b"http/1.1".to_vec())).unwrap();
    assert!(server_leg.handshaking() && server_leg.wants_write());
    assert_eq!(server_leg.negotiated(), None);
    pump(server_leg.as_mut(), client_leg.as_mut(), 1400).unwrap();
    assert!(!server_leg.handshaking() && !client_leg.handshaking());
    (server_leg, client_leg)
}

/// A rustls server with settings that Weir's own client leg does not have.
fn foreign_server(
    change_provider: impl FnOnce(&mut rustls::crypto::CryptoProvider),
    client_authentication: bool,
) -> ServerConnection {
    let mut provider = default_provider();
    change_provider(&mut provider);
    let provider = Arc::new(provider);
    let authority = authority("Test CA", &PKCS_RSA_SHA256);
    let pair = leaf_with(&authority, &["www.example.org"], &PKCS_RSA_SHA256, |_| {});
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.der().to_vec())).unwrap();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if client_authentication {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let config = builder
        .with_single_cert(
            pair.chain.into_iter().map(CertificateDer::from).collect(),
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.key.expose().to_vec())),
        )
        .unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

/// Carries bytes until both are silent; what ended the leg, if something did.
fn pump_foreign(leg: &mut dyn TlsLeg, server: &mut ServerConnection) -> Result<(), LegError> {
    for _ in 0..100 {
        let mut wire = Vec::new();
        leg.write_wire(&mut wire);
        let mut quiet = wire.is_empty();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            // Its error shows as its alert.
            let _ = server.process_new_packets();
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        quiet &= wire.is_empty();
        leg.read_wire(&wire)?;
        if quiet {
            return Ok(());
        }
    }
    panic!("never stops talking");
}
