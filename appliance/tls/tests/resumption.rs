//! Which sessions are resumed, on either leg, and which are not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use common::{authority, leaf, plain, pump};
use rcgen::PKCS_ECDSA_P256_SHA256;
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weir_policy::Place;
use weir_policy::snapshot::{CertifiedKey, SegmentId};
use weir_policy::suites::{Allowed, Protocol};
use weir_tls::verify::Failure;
use weir_tls::{LegKey, ModernStack, Shares, TlsLeg, Verdict};

const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);
const VERSIONS: [Protocol; 2] = [Protocol::Tls12, Protocol::Tls13];

fn stack(version: Protocol) -> ModernStack {
    let allowed = Allowed { weakest: version, strongest: version, ..Allowed::default() };
    ModernStack::under(&allowed).unwrap().unwrap()
}

fn key(name: &str) -> LegKey {
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    LegKey::new(&leaf(&authority, &[name])).unwrap()
}

/// One session between a server leg of `near` and a client leg of `far`; whether both resumed.
struct Visit<'a> {
    near: &'a ModernStack,
    far: &'a ModernStack,
    key: &'a LegKey,
    verdict: Verdict,
    address: SocketAddr,
    vlan: Option<u16>,
    name: &'a str,
    shares: Shares,
}

impl<'a> Visit<'a> {
    fn of(near: &'a ModernStack, far: &'a ModernStack, key: &'a LegKey) -> Self {
        Self {
            near,
            far,
            key,
            verdict: Verdict::default(),
            address: ADDRESS,
            vlan: None,
            name: "a.example",
            shares: Shares::PostQuantum,
        }
    }

    fn resumed(&self) -> bool {
        let Self { near, name, address, vlan, shares, .. } = *self;
        let server = Place::new(SegmentId(1), vlan).server(address);
        let mut server_leg =
            near.server_leg_offering(Some(name), server, Vec::new(), shares).unwrap();
        let mut client_leg = self.far.client_leg(self.key, self.verdict, None).unwrap();
        pump(server_leg.as_mut(), client_leg.as_mut(), 1400).unwrap();
        server_leg.write_plain(b"ping");
        pump(server_leg.as_mut(), client_leg.as_mut(), 1400).unwrap();
        assert_eq!(plain(client_leg.as_mut()), b"ping");
        let (near, far) = (server_leg.negotiated().unwrap(), client_leg.negotiated().unwrap());
        assert_eq!(near.resumed, far.resumed);
        assert_eq!(near.signature, far.signature);
        assert_eq!(near.signature.is_none(), near.resumed);
        // Judged again at each visit, so it must be known.
        assert_eq!(server_leg.peer_chain().unwrap()[0], self.key.chain()[0]);
        near.resumed
    }
}

#[test]
fn second_visit_resumes_in_both_versions() {
    for version in VERSIONS {
        let (near, far, key) = (stack(version), stack(version), key("a.example"));
        let visit = Visit::of(&near, &far, &key);
        assert!(!visit.resumed(), "{version}");
        for _ in 0..4 {
            assert!(visit.resumed(), "{version}");
        }
    }
}

/// By clients with ML-KEM and without in turn.
#[test]
fn second_visit_resumes_whatever_key_shares_its_client_offers() {
    for version in VERSIONS {
        let (near, far, key) = (stack(version), stack(version), key("a.example"));
        let visit = |shares| Visit { shares, ..Visit::of(&near, &far, &key) };
        assert!(!visit(Shares::Classic).resumed(), "{version}");
        for shares in [Shares::PostQuantum, Shares::Classic, Shares::PostQuantum] {
            assert!(visit(shares).resumed(), "{version}, {shares:?}");
        }
    }
}

/// What a server chooses where it has no choice is not what later clients ask it for first.
#[test]
fn key_exchange_is_post_quantum_where_the_client_offers_it_whatever_others_agreed_on() {
    let (near, far, key) = (stack(Protocol::Tls13), stack(Protocol::Tls13), key("a.example"));
    for shares in [Shares::Classic, Shares::PostQuantum, Shares::Classic, Shares::PostQuantum] {
        let server = Place::default().server(ADDRESS);
        let leg = near.server_leg_offering(Some("a.example"), server, Vec::new(), shares);
        let (mut leg, mut client_leg) =
            (leg.unwrap(), far.client_leg(&key, Verdict::default(), None).unwrap());
        pump(leg.as_mut(), client_leg.as_mut(), 1400).unwrap();
        let group = leg.negotiated().unwrap().group.unwrap().to_string();
        let expected = if shares == Shares::Classic { "x25519" } else { "X25519MLKEM768" };
        assert_eq!(group, expected);
    }
}

#[test]
fn session_with_a_client_is_bound_to_verdict_certificate_and_policy_generation() {
    for version in VERSIONS {
        let (near, far, first) = (stack(version), stack(version), key("a.example"));
        let visit = Visit::of(&near, &far, &first);
        let again = |visit: Visit<'_>| (visit.resumed(), visit.resumed());
        assert_eq!(again(Visit { ..visit }), (false, true));
        let worse = Verdict::from(Failure::Expired);
        assert_eq!(again(Visit { verdict: worse, ..visit }), (false, true), "{version}");
        let second = key("a.example");
        assert_eq!(again(Visit { key: &second, ..visit }), (false, true), "{version}");
        let next_generation = stack(version);
        assert_eq!(again(Visit { far: &next_generation, ..visit }), (false, true), "{version}");
    }
}

#[test]
fn session_with_a_server_is_bound_to_place_address_name_and_policy_generation() {
    for version in VERSIONS {
        let (near, far, key) = (stack(version), stack(version), key("a.example"));
        let visit = Visit::of(&near, &far, &key);
        assert!(!visit.resumed());
        assert!(!Visit { vlan: Some(7), ..visit }.resumed(), "{version}");
        let other_port = SocketAddr::new(ADDRESS.ip(), 8443);
        assert!(!Visit { address: other_port, ..visit }.resumed(), "{version}");
        let other_address = SocketAddr::new([192, 0, 2, 2].into(), 443);
        assert!(!Visit { address: other_address, ..visit }.resumed(), "{version}");
        assert!(!Visit { name: "b.example", ..visit }.resumed(), "{version}");
        let next_generation = stack(version);
        assert!(!Visit { near: &next_generation, ..visit }.resumed(), "{version}");
        assert!(visit.resumed(), "{version}");
    }
}

/// A session resumed past the request would keep a server from asking (SPEC T10).
#[test]
fn session_with_a_server_that_asked_for_a_client_certificate_is_not_kept() {
    for version in VERSIONS {
        let near = stack(version);
        let config = asking_server();
        for visit in 0..3 {
            let mut leg = near.server_leg(Some("a.example"), ADDRESS, Vec::new()).unwrap();
            let mut server = ServerConnection::new(config.clone()).unwrap();
            talk(leg.as_mut(), &mut server);
            assert!(leg.client_certificate_requested(), "{version}, visit {visit}");
            assert!(!leg.negotiated().unwrap().resumed);
        }
    }
}

fn asking_server() -> Arc<ServerConfig> {
    let provider = Arc::new(default_provider());
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    let CertifiedKey { chain, key } = leaf(&authority, &["a.example"]);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.der().to_vec())).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            chain.into_iter().map(CertificateDer::from).collect(),
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose().to_vec())),
        )
        .unwrap();
    Arc::new(config)
}

fn talk(leg: &mut dyn TlsLeg, server: &mut ServerConnection) {
    for _ in 0..20 {
        let mut wire = Vec::new();
        leg.write_wire(&mut wire);
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        leg.read_wire(&wire).unwrap();
    }
}

/// Its session is known again by its number, bound like a ticket.
#[test]
fn client_of_tls_1_2_without_tickets_is_resumed_under_the_same_verdict_and_policy_generation() {
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    let key = LegKey::new(&leaf(&authority, &["a.example"])).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.der().to_vec())).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption =
        Resumption::in_memory_sessions(8).tls12_resumption(Tls12Resumption::SessionIdOnly);
    let (config, far) = (Arc::new(config), stack(Protocol::Tls12));
    let resumed = |far: &ModernStack, verdict| {
        let name = "a.example".try_into().unwrap();
        let mut client = ClientConnection::new(config.clone(), name).unwrap();
        let mut leg = far.client_leg(&key, verdict, None).unwrap();
        converse(&mut client, leg.as_mut());
        let kind = client.handshake_kind().unwrap();
        let resumed = leg.negotiated().unwrap().resumed;
        assert_eq!(kind == HandshakeKind::Resumed, resumed);
        resumed
    };
    let verified = Verdict::default();
    assert_eq!([(); 3].map(|()| resumed(&far, verified)), [false, true, true]);
    let worse = Verdict::from(Failure::Expired);
    assert_eq!([(); 2].map(|()| resumed(&far, worse)), [false, true]);
    let next_generation = stack(Protocol::Tls12);
    assert_eq!([(); 2].map(|()| resumed(&next_generation, worse)), [false, true]);
}

fn converse(client: &mut ClientConnection, leg: &mut dyn TlsLeg) {
    for _ in 0..20 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        leg.read_wire(&wire).unwrap();
        wire.clear();
        leg.write_wire(&mut wire);
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
}

/// A client that would like to send early data is not told that it may, and what it sends so is
/// passed over.
#[test]
fn early_data_is_never_accepted() {
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    let key = LegKey::new(&leaf(&authority, &["a.example"])).unwrap();
    let mut config = trusting(authority.der().to_vec());
    config.enable_early_data = true;
    let config = Arc::new(config);
    let far = stack(Protocol::Tls13);
    for resumed in [false, true] {
        let name = "a.example".try_into().unwrap();
        let mut client = ClientConnection::new(config.clone(), name).unwrap();
        assert!(client.early_data().is_none());
        let mut leg = far.client_leg(&key, Verdict::default(), None).unwrap();
        converse(&mut client, leg.as_mut());
        assert_eq!(leg.negotiated().unwrap().resumed, resumed);
    }
}

/// Also a resumed one: a client that comes back one by one always has the next.
#[test]
fn session_of_tls_1_3_gives_its_client_one_ticket() {
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    let key = LegKey::new(&leaf(&authority, &["a.example"])).unwrap();
    let config = Arc::new(trusting(authority.der().to_vec()));
    let far = stack(Protocol::Tls13);
    for resumed in [false, true, true] {
        let name = "a.example".try_into().unwrap();
        let mut client = ClientConnection::new(config.clone(), name).unwrap();
        let mut leg = far.client_leg(&key, Verdict::default(), None).unwrap();
        converse(&mut client, leg.as_mut());
        assert_eq!(leg.negotiated().unwrap().resumed, resumed);
        assert_eq!(client.tls13_tickets_received(), 1);
    }
}

fn trusting(authority: Vec<u8>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority)).unwrap();
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
