//! What a handshake comes to, what it sends of the other leg's, and which keys can serve.

use std::sync::Arc;

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weir_tls::leg::Fault;
use weir_tls::names::{Group, SignatureScheme, Version};
use weir_tls::{Alert, LegError, LegKey, Peek, Verdict, peek};

use super::common::{self, authority, authority_params, leaf, leaf_with, pair, pump};
use super::{ADDRESS, foreign_server, joined, pump_foreign, stack, test_key};

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
