//! What the table of suites, a hello and the stack say of the same thing agrees.

use std::sync::Arc;

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::CertificateDer;
use weir_policy::suites::{Allowed, Protocol, Stack, TABLE};
use weir_tls::hello::{Field, HelloError};
use weir_tls::names::Version;
use weir_tls::{LegKey, ModernStack, Peek, Verdict, peek};

use super::common::{authority, leaf_with, pump};
use super::{ADDRESS, stack};

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
