//! What cryptography alone costs, in memory: the two TLS roles of an inspected session, a signature,
//! a chain parsed; and forging, by the engine's own forger.
//!
//! For: what the engine's CPU time is held against. Thread CPU time, in nanoseconds each, of many in
//! a row. Both roles resume nothing and send no tickets; the client's verifies the server's
//! certificate up to its authority, and the handshake's signature.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SignatureScheme,
};
use weir_policy::SecretBytes;
use weir_policy::snapshot::CertifiedKey;
use weir_tls::{Forger, LeafKeys, LeafKind, Names, Signer};

use super::config::provider;
use crate::certificates::Identity;
use crate::tls::own;

/// About what a certificate to be signed has.
const TO_BE_SIGNED: usize = 512;

/// CPU nanoseconds of a handshake, by role.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    pub client: f64,
    pub server: f64,
}

/// Full handshakes in memory with a server of this identity, which `authority` vouches for.
pub fn handshakes(
    identity: &Identity,
    name: &'static str,
    authority: &Identity,
    count: usize,
) -> Result<Roles> {
    let mut roots = RootCertStore::empty();
    roots.add(own(authority)?)?;
    let mut client = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    let mut server = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![own(identity)?], PrivateKeyDer::from_pem_file(&identity.key)?)?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let (client, server) = (Arc::new(client), Arc::new(server));
    let name = ServerName::try_from(name)?;

    let mut spent = [Duration::ZERO; 2];
    let mut wire = Vec::new();
    for _ in 0..count {
        let mut began = now()?;
        let mut one = ClientConnection::new(client.clone(), name.clone())?;
        let mut turn = |spent: &mut Duration| -> Result<()> {
            let ended = now()?;
            *spent += ended.saturating_sub(std::mem::replace(&mut began, ended));
            Ok(())
        };
        turn(&mut spent[0])?;
        let mut other = ServerConnection::new(server.clone())?;
        turn(&mut spent[1])?;
        while one.is_handshaking() || other.is_handshaking() {
            wire.clear();
            while one.wants_write() {
                one.write_tls(&mut wire)?;
            }
            turn(&mut spent[0])?;
            read(&wire, |wire| {
                other.read_tls(wire)?;
                other.process_new_packets()?;
                Ok(())
            })?;
            wire.clear();
            while other.wants_write() {
                other.write_tls(&mut wire)?;
            }
            turn(&mut spent[1])?;
            read(&wire, |wire| {
                one.read_tls(wire)?;
                one.process_new_packets()?;
                Ok(())
            })?;
            turn(&mut spent[0])?;
        }
    }
    let each = |spent: Duration| spent.as_secs_f64() * 1e9 / count as f64;
    Ok(Roles { client: each(spent[0]), server: each(spent[1]) })
}

fn read(mut wire: &[u8], mut take: impl FnMut(&mut &[u8]) -> Result<()>) -> Result<()> {
    while !wire.is_empty() {
        take(&mut wire)?;
    }
    Ok(())
}

/// CPU nanoseconds of forging, and of what it is held against.
#[derive(Clone, Copy, Debug)]
pub struct Forging {
    pub certificate: f64,
    /// One P-256 signature and one parse of the server's chain.
    pub bare: f64,
}

/// Forges copies of a server's certificate under a P-256 authority, none of them from the cache.
pub fn forging(
    server: &Identity,
    issuer: &Identity,
    signing: &Identity,
    count: usize,
) -> Result<Forging> {
    let key = PrivateKeyDer::from_pem_file(&signing.key)?;
    let pair = CertifiedKey {
        chain: vec![own(signing)?.to_vec()],
        key: SecretBytes::new(key.secret_der().to_vec()),
    };
    let forger = Forger::new(&pair, &pair, LeafKeys::generate()?)?;
    let chain = [own(server)?, own(issuer)?];
    // Nobody here looks at the signature that the server's certificate ends with: other bytes in its
    // place make it another certificate.
    let others: Vec<CertificateDer<'_>> = (0..count)
        .map(|number| {
            let mut other = chain[0].to_vec();
            let end = other.len().saturating_sub(8);
            other.truncate(end);
            other.extend_from_slice(&(number as u64).to_be_bytes());
            other.into()
        })
        .collect();
    // The key is warm then.
    forger.forge(&chain[0], Signer::Trusted, LeafKind::Ecdsa)?;
    let certificate = cpu_of_each(count, |number| {
        forger.forge(&others[number], Signer::Trusted, LeafKind::Ecdsa)?;
        Ok(())
    })?;
    ensure!(forger.signatures() == count as u64 + 1, "some were not forged anew");

    let key = provider().key_provider.load_private_key(key)?;
    let signer = key
        .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
        .context("the signing authority's key is not of P-256")?;
    let message = [0x5a; TO_BE_SIGNED];
    let bare = cpu_of_each(count, |_| {
        signer.sign(&message)?;
        for certificate in &chain {
            Names::of(certificate).context("a certificate that does not parse")?;
        }
        Ok(())
    })?;
    Ok(Forging { certificate, bare })
}

fn cpu_of_each(count: usize, mut act: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let began = now()?;
    for number in 0..count {
        act(number)?;
    }
    Ok(now()?.saturating_sub(began).as_secs_f64() * 1e9 / count as f64)
}

/// This thread's CPU time.
fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
