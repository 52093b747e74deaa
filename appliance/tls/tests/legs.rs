//! Both legs of the modern stack against each other, in memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::{authority, authority_params, leaf, leaf_with, pair, plain, pump};
use proptest::prelude::*;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weir_policy::suites::{Allowed, Authentication, Protocol, Stack, TABLE};
use weir_tls::hello::{Field, HelloError};
use weir_tls::leg::{Fault, PLAIN_BOUND, WIRE_BOUND};
use weir_tls::names::{Group, SignatureScheme, Version};
use weir_tls::{Alert, LegError, LegKey, ModernStack, Peek, PlainState, TlsLeg, Verdict, peek};

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

#[test]
fn handshake_is_tls_1_3_with_post_quantum_key_exchange_on_both_legs() {
    let key = test_key();
    let (server_leg, client_leg) = joined(&key);
    for leg in [&server_leg, &client_leg] {
        let negotiated = leg.negotiated().unwrap();
        assert_eq!(negotiated.version, Version::TLS13);
        assert_eq!(negotiated.group, Some(Group(0x11ec)));
        assert_eq!(negotiated.signature, Some(SignatureScheme(0x0403)));
        assert_eq!(negotiated.alpn_text().as_deref(), Some("http/1.1"));
        assert!(!negotiated.resumed);
    }
    let negotiated = server_leg.negotiated().unwrap();
    assert_eq!(negotiated.version.to_string(), "TLS 1.3");
    assert_eq!(negotiated.suite.to_string(), "TLS_AES_256_GCM_SHA384");
    assert_eq!(negotiated.group.unwrap().to_string(), "X25519MLKEM768");
    assert_eq!(negotiated.signature.unwrap().to_string(), "ecdsa_secp256r1_sha256");
    assert_eq!(server_leg.peer_chain().unwrap(), key.chain());
    assert_eq!(client_leg.peer_chain(), None);
    assert!(!server_leg.client_certificate_requested());
}

#[test]
fn every_key_type_serves() {
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    for (algorithm, scheme) in [
        (&PKCS_RSA_SHA256, "rsa_pss_rsae_sha512"),
        (&PKCS_ECDSA_P256_SHA256, "ecdsa_secp256r1_sha256"),
        (&PKCS_ECDSA_P384_SHA384, "ecdsa_secp384r1_sha384"),
    ] {
        let pair = leaf_with(&authority, &["www.example.org"], algorithm, |_| {});
        let (server_leg, client_leg) = joined(&LegKey::new(&pair).unwrap());
        assert_eq!(server_leg.negotiated().unwrap().signature.unwrap().to_string(), scheme);
        assert_eq!(client_leg.negotiated().unwrap().signature.unwrap().to_string(), scheme);
    }
}

#[test]
fn plaintext_crosses_both_ways_and_closes_by_halves() {
    let (mut server_leg, mut client_leg) = joined(&test_key());
    assert_eq!(server_leg.write_plain(b"GET / HTTP/1.1\r\n\r\n"), 18);
    pump(server_leg.as_mut(), client_leg.as_mut(), 7).unwrap();
    assert_eq!(plain(client_leg.as_mut()), b"GET / HTTP/1.1\r\n\r\n");
    server_leg.close_notify();
    assert_eq!(server_leg.write_plain(b"more"), 0);
    pump(server_leg.as_mut(), client_leg.as_mut(), 7).unwrap();
    assert!(client_leg.peer_closed() && !client_leg.wants_read());
    assert_eq!(client_leg.read_plain(&mut Vec::new()), PlainState::Closed);
    assert!(!server_leg.peer_closed());
    assert_eq!(client_leg.write_plain(b"HTTP/1.1 200 OK\r\n\r\n"), 19);
    client_leg.close_notify();
    pump(server_leg.as_mut(), client_leg.as_mut(), 1400).unwrap();
    let mut answer = b"> ".to_vec();
    assert_eq!(server_leg.read_plain(&mut answer), PlainState::Closed);
    assert_eq!(answer, b"> HTTP/1.1 200 OK\r\n\r\n");
    // What comes behind close_notify is nobody's.
    client_leg.read_wire(b"\x17\x03\x03\x00\x01x").unwrap();
    assert!(plain(client_leg.as_mut()).is_empty());
}

#[test]
fn alert_of_the_owners_choice_ends_the_session_after_what_was_written() {
    let of_tls12 = Allowed { strongest: Protocol::Tls12, ..Allowed::default() };
    let suites = TABLE.iter().filter(|suite| suite.stack == Stack::Modern);
    let mut alerts = 0;
    for (allowed, suite) in
        suites.flat_map(|suite| [(Allowed::default(), suite), (of_tls12.clone(), suite)])
    {
        let only = Allowed { suites: vec![suite.id], ..allowed };
        let Some(stack) = ModernStack::under(&only).unwrap() else { continue };
        let algorithm = match suite.authentication {
            Authentication::Rsa => &PKCS_RSA_SHA256,
            _ => &PKCS_ECDSA_P256_SHA256,
        };
        let pair = leaf_with(&authority("CA", &PKCS_ECDSA_P256_SHA256), &["x"], algorithm, |_| {});
        let key = LegKey::new(&pair).unwrap();
        let mut server_leg = stack.server_leg(None, ADDRESS, Vec::new()).unwrap();
        let mut client_leg = stack.client_leg(&key, Verdict::default(), None).unwrap();
        // Not yet, and not instead of a handshake message.
        client_leg.fatal_alert(Alert::ACCESS_DENIED);
        pump(server_leg.as_mut(), client_leg.as_mut(), 1400).unwrap();
        assert_eq!(client_leg.write_plain(b"last words"), 10);
        client_leg.fatal_alert(Alert::ACCESS_DENIED);
        client_leg.fatal_alert(Alert::INTERNAL_ERROR);
        client_leg.close_notify();
        assert_eq!(client_leg.write_plain(b"more"), 0);
        let (error, _) = pump(server_leg.as_mut(), client_leg.as_mut(), 1400).unwrap_err();
        assert_eq!(error, LegError::AlertReceived(Alert::ACCESS_DENIED), "{}", suite.name);
        assert_eq!(plain(server_leg.as_mut()), b"last words");
        assert!(!server_leg.peer_closed());
        alerts += 1;
    }
    assert!(alerts >= 9, "{alerts}");
}

#[test]
fn plaintext_written_during_the_handshake_arrives() {
    let stack = stack();
    let mut server_leg = stack.server_leg(None, ADDRESS, Vec::new()).unwrap();
    let mut client_leg = stack.client_leg(&test_key(), Verdict::default(), None).unwrap();
    assert_eq!(server_leg.write_plain(b"early"), 5);
    pump(server_leg.as_mut(), client_leg.as_mut(), 4096).unwrap();
    assert_eq!(plain(client_leg.as_mut()), b"early");
}

#[test]
fn writing_stops_at_the_bound_and_goes_on_when_written_out() {
    let (mut server_leg, mut client_leg) = joined(&test_key());
    let data: Vec<u8> = (0..300_000u32).map(|number| (number % 251) as u8).collect();
    let (mut sent, mut received) = (0, Vec::new());
    while sent < data.len() {
        let accepted = server_leg.write_plain(&data[sent..]);
        assert!(accepted > 0 && accepted <= WIRE_BOUND, "{accepted}");
        sent += accepted;
        if sent < data.len() {
            assert_eq!(server_leg.write_plain(&data[sent..]), 0);
        }
        let mut wire = Vec::new();
        server_leg.write_wire(&mut wire);
        assert!(!server_leg.wants_write());
        client_leg.read_wire(&wire).unwrap();
        client_leg.read_plain(&mut received);
    }
    assert_eq!(received, data);
}

#[test]
fn leg_that_is_not_read_asks_for_no_more() {
    let (mut server_leg, mut client_leg) = joined(&test_key());
    let mut wire = Vec::new();
    let mut held = 0;
    while client_leg.wants_read() {
        held += server_leg.write_plain(&[b'x'; 16 * 1024]);
        wire.clear();
        server_leg.write_wire(&mut wire);
        client_leg.read_wire(&wire).unwrap();
        assert!(held <= PLAIN_BOUND + 32 * 1024);
    }
    assert_eq!(client_leg.read_wire(b"\x17"), Err(LegError::Overfed));
    assert_eq!(plain(client_leg.as_mut()).len(), held);
    assert!(client_leg.wants_read());
}

#[test]
fn server_name_is_sent_on_and_nothing_else_in_its_place() {
    let sent = |name: Option<&str>| {
        let mut wire = Vec::new();
        stack().server_leg(name, ADDRESS, Vec::new()).unwrap().write_wire(&mut wire);
        let Peek::Hello(hello) = peek(&wire) else { panic!() };
        assert!(hello.alpn.is_empty());
        hello.server_name
    };
    assert_eq!(sent(Some("www.example.org")).as_deref(), Some("www.example.org"));
    assert_eq!(sent(Some("WWW.Example.org.")).as_deref(), Some("WWW.Example.org"));
    assert_eq!(sent(Some("under_score.example")).as_deref(), Some("under_score.example"));
    assert_eq!(sent(Some("192.0.2.7")), None);
    assert_eq!(sent(Some("not/a/name")), None);
    assert_eq!(sent(None), None);
}

#[test]
fn client_is_offered_what_the_server_picked_or_nothing() {
    let key = test_key();
    let negotiate = |offered: &[&[u8]], picked: Option<&[u8]>| {
        let stack = stack();
        let offered = offered.iter().map(|name| name.to_vec()).collect();
        let mut client = stack.server_leg(Some("www.example.org"), ADDRESS, offered).unwrap();
        let mut client_leg =
            stack.client_leg(&key, Verdict::default(), picked.map(<[u8]>::to_vec)).unwrap();
        pump(client.as_mut(), client_leg.as_mut(), 9999).map(|()| client.negotiated().unwrap().alpn)
    };
    let both: &[&[u8]] = &[b"h2", b"http/1.1"];
    assert_eq!(negotiate(both, Some(b"http/1.1")), Ok(Some(b"http/1.1".to_vec())));
    assert_eq!(negotiate(both, None), Ok(None));
    assert_eq!(negotiate(&[], Some(b"http/1.1")), Ok(None));
    let refused = LegError::Refused {
        fault: Fault::NoApplicationProtocol,
        alert: Alert::NO_APPLICATION_PROTOCOL,
    };
    assert_eq!(negotiate(&[b"h2"], Some(b"http/1.1")), Err((refused, "right")));
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

/// Hellos of every single suite with every single group, against every key type.
#[test]
fn supported_says_what_the_handshake_will_say() {
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.der().to_vec())).unwrap();
    let stack = stack();
    let mut seen = [0, 0];
    for algorithm in [&PKCS_RSA_SHA256, &PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
        let pair = leaf_with(&authority, &["www.example.org"], algorithm, |_| {});
        let key = LegKey::new(&pair).unwrap();
        for suite in default_provider().cipher_suites {
            for group in [kx_group::X25519MLKEM768, kx_group::SECP384R1, kx_group::MLKEM1024] {
                let mut provider = default_provider();
                provider.cipher_suites = vec![suite];
                provider.kx_groups = vec![group];
                let config = ClientConfig::builder_with_provider(Arc::new(provider))
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(roots.clone())
                    .with_no_client_auth();
                let name = "www.example.org".try_into().unwrap();
                let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
                let mut hello = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut hello).unwrap();
                }
                let mut leg = stack.client_leg(&key, Verdict::default(), None).unwrap();
                let answered = leg.read_wire(&hello).is_ok();
                let Peek::Hello(parsed) = peek(&hello) else {
                    // Pure ML-KEM cannot serve TLS 1.2: such a client sends an empty list.
                    assert_eq!(peek(&hello), Peek::Malformed(HelloError::Length(Field::Groups)));
                    assert!(!answered);
                    continue;
                };
                let supported = parsed.supported_with(key.kind(), &Allowed::default());
                assert_eq!(supported, answered, "{suite:?} {group:?} {key:?}");
                assert!(parsed.supported() || !supported);
                seen[usize::from(supported)] += 1;
            }
        }
    }
    assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
}

#[test]
fn table_has_the_modern_suites_of_the_stack() {
    let mut of_stack: Vec<u16> =
        default_provider().cipher_suites.iter().map(|suite| suite.suite().into()).collect();
    let mut of_table: Vec<u16> =
        TABLE.iter().filter(|line| line.stack == Stack::Modern).map(|line| line.id).collect();
    of_stack.sort_unstable();
    of_table.sort_unstable();
    assert_eq!(of_stack, of_table);
}

/// Every modern suite alone, in every version alone: both legs agree on it or refuse, and
/// `supported_with` says which.
#[test]
fn legs_negotiate_within_what_is_allowed() {
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    let key = |algorithm| {
        LegKey::new(&leaf_with(&authority, &["www.example.org"], algorithm, |_| {})).unwrap()
    };
    let keys = [key(&PKCS_ECDSA_P256_SHA256), key(&PKCS_RSA_SHA256)];
    let everything = stack();
    let mut agreed = 0;
    for line in TABLE.iter().filter(|line| line.stack == Stack::Modern) {
        for version in [Protocol::Tls12, Protocol::Tls13] {
            let allowed = Allowed { weakest: version, strongest: version, suites: vec![line.id] };
            let Some(bounded) = ModernStack::under(&allowed).unwrap() else {
                assert!(!line.used_in(version));
                continue;
            };
            for key in &keys {
                let mut hello = Vec::new();
                let mut peer =
                    everything.server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap();
                peer.write_wire(&mut hello);
                let Peek::Hello(parsed) = peek(&hello) else { panic!() };
                let mut client_leg = bounded.client_leg(key, Verdict::default(), None).unwrap();
                let answered = client_leg.read_wire(&hello).is_ok();
                let supported = parsed.supported_with(key.kind(), &allowed);
                assert_eq!(answered, supported, "{line:?} {key:?}");
                if answered {
                    pump(peer.as_mut(), client_leg.as_mut(), 4096).unwrap();
                    let negotiated = client_leg.negotiated().unwrap();
                    assert_eq!(negotiated.version.0, version.code());
                    assert_eq!(negotiated.suite.0, line.id);
                    agreed += 1;
                }
                // And as a client: nothing else is offered.
                let mut hello = Vec::new();
                bounded
                    .server_leg(Some("www.example.org"), ADDRESS, Vec::new())
                    .unwrap()
                    .write_wire(&mut hello);
                let Peek::Hello(offered) = peek(&hello) else { panic!() };
                assert_eq!(offered.versions, [Version(version.code())]);
                let suites: Vec<u16> = offered
                    .cipher_suites
                    .iter()
                    .map(|suite| suite.0)
                    .filter(|id| *id != 0x00ff) // RFC 5746: signals, is no suite
                    .collect();
                assert_eq!(suites, [line.id]);
            }
        }
    }
    // Three of TLS 1.3 with either key, six of TLS 1.2 with its own.
    assert_eq!(agreed, 12);
    let legacy = Allowed { suites: vec![0x002f], ..Allowed::default() };
    assert!(ModernStack::under(&legacy).unwrap().is_none());
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

#[test]
fn tls_1_2_is_negotiated_where_the_server_knows_no_more() {
    let mut server = foreign_server(
        |provider| {
            provider.cipher_suites = vec![cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
            provider.kx_groups = vec![kx_group::SECP256R1];
        },
        false,
    );
    let mut leg = stack().server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap();
    pump_foreign(leg.as_mut(), &mut server).unwrap();
    let negotiated = leg.negotiated().unwrap();
    assert_eq!(negotiated.version.to_string(), "TLS 1.2");
    assert_eq!(negotiated.suite.to_string(), "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256");
    assert_eq!(negotiated.group.unwrap().to_string(), "secp256r1");
    assert!(negotiated.signature.unwrap().to_string().starts_with("rsa_pss_rsae"));
}

#[test]
fn request_for_a_client_certificate_is_told_in_both_versions() {
    for suite in [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ] {
        let mut server = foreign_server(|provider| provider.cipher_suites = vec![suite], true);
        let mut leg = stack().server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap();
        pump_foreign(leg.as_mut(), &mut server).unwrap();
        assert!(!leg.handshaking());
        assert!(leg.client_certificate_requested(), "{suite:?}");
    }
}

#[test]
fn alerts_tell_who_refused_whom() {
    // A group that Weir does not offer: the server refuses.
    let mut server = foreign_server(
        |provider| {
            provider.kx_groups = vec![kx_group::MLKEM1024];
            provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
        },
        false,
    );
    let mut leg = stack().server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap();
    let error = pump_foreign(leg.as_mut(), &mut server).unwrap_err();
    assert_eq!(error, LegError::AlertReceived(Alert::HANDSHAKE_FAILURE));
    assert_eq!(error.alert_for_other_side(), Alert::HANDSHAKE_FAILURE);
    assert!(!leg.wants_read());
    assert_eq!(leg.read_wire(b"x"), Err(error));

    // No TLS at all: we refuse, and an alert is due.
    let mut leg = stack().server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap();
    leg.write_wire(&mut Vec::new());
    let error = leg.read_wire(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_err();
    assert!(matches!(error, LegError::Refused { fault: Fault::Malformed, .. }), "{error:?}");
    assert_eq!(error.alert_for_other_side(), Alert::INTERNAL_ERROR);
    let mut alert = Vec::new();
    leg.write_wire(&mut alert);
    assert_eq!(alert.first(), Some(&21));
}

#[test]
fn alert_record_ends_a_leg_that_waits_for_its_server_hello() {
    let mut leg = stack().server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap();
    let record = Alert::HANDSHAKE_FAILURE.fatal_record();
    assert_eq!(leg.read_wire(&record), Err(LegError::AlertReceived(Alert::HANDSHAKE_FAILURE)));
}

#[test]
fn altered_record_ends_the_leg_after_what_came_before_it() {
    let (mut server_leg, mut client_leg) = joined(&test_key());
    let mut wire = Vec::new();
    server_leg.write_plain(b"good");
    server_leg.write_wire(&mut wire);
    let good = wire.len();
    server_leg.write_plain(b"bad");
    server_leg.write_wire(&mut wire);
    wire[good + 6] ^= 1;
    let error = client_leg.read_wire(&wire).unwrap_err();
    assert_eq!(
        error,
        LegError::Refused { fault: Fault::Undecryptable, alert: Alert::BAD_RECORD_MAC }
    );
    assert_eq!(plain(client_leg.as_mut()), b"good");
}

/// A server that presents somebody else's certificate cannot sign for it.
#[test]
fn handshake_signature_is_verified_though_any_certificate_is_accepted() {
    let mine = common::p256();
    let theirs = leaf(&authority("Test CA", &PKCS_ECDSA_P256_SHA256), &["bank.example"]);
    let provider = Arc::new(default_provider());
    let own = pair(Vec::new(), &mine);
    let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(
        PrivatePkcs8KeyDer::from(own.key.expose()),
    ))
    .unwrap();
    let certified = Arc::new(rustls::sign::CertifiedKey::new(
        theirs.chain.into_iter().map(CertificateDer::from).collect(),
        signing,
    ));
    for versions in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[versions])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified.clone())));
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        let mut leg = stack().server_leg(Some("bank.example"), ADDRESS, Vec::new()).unwrap();
        let error = pump_foreign(leg.as_mut(), &mut server).unwrap_err();
        assert_eq!(
            error,
            LegError::Refused { fault: Fault::BadSignature, alert: Alert::DECRYPT_ERROR }
        );
    }
}

#[test]
fn keys_that_cannot_serve_are_refused_by_name() {
    let refusal = |algorithm| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let certificate = authority_params("x").self_signed(&key).unwrap();
        LegKey::new(&pair(vec![certificate.der().to_vec()], &key)).unwrap_err().to_string()
    };
    assert!(refusal(&rcgen::PKCS_ED25519).contains("Ed25519"));
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    let one = leaf(&authority, &["one.example"]);
    let mut other = leaf(&authority, &["other.example"]);
    other.key = one.key;
    assert_eq!(LegKey::new(&other).unwrap_err(), weir_tls::KeyError::Mismatch);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_make_a_leg_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..4096),
        as_record in any::<bool>(),
    ) {
        let mut input = Vec::new();
        if as_record {
            input.extend_from_slice(&[22, 3, 3]);
            input.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        }
        input.extend_from_slice(&bytes);
        let key = test_key();
        let legs = [
            stack().client_leg(&key, Verdict::default(), None).unwrap(),
            stack().server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap(),
        ];
        for mut leg in legs {
            let _ = leg.read_wire(&input);
            leg.write_wire(&mut Vec::new());
            prop_assert!(plain(leg.as_mut()).is_empty());
        }
    }

    #[test]
    fn altered_handshakes_end_in_an_error_or_in_silence(
        flip in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let key = test_key();
        let stack = stack();
        let mut server_leg =
            stack.server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap();
        let mut client_leg = stack.client_leg(&key, Verdict::default(), None).unwrap();
        let mut wire = Vec::new();
        server_leg.write_wire(&mut wire);
        client_leg.read_wire(&wire).unwrap();
        wire.clear();
        client_leg.write_wire(&mut wire);
        let at = flip.index(wire.len());
        wire[at] ^= 1 << bit;
        let _ = server_leg.read_wire(&wire);
        // A flipped legacy version in a record header is the only change that may go unseen.
        prop_assert!(server_leg.handshaking() || server_leg.peer_chain().unwrap() == key.chain());
    }
}
