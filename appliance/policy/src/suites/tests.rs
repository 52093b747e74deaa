use std::collections::HashSet;

use super::*;

#[test]
fn code_points_and_names_are_unique() {
    assert_eq!(TABLE.iter().map(|s| s.id).collect::<HashSet<_>>().len(), TABLE.len());
    assert_eq!(TABLE.iter().map(|s| s.name).collect::<HashSet<_>>().len(), TABLE.len());
}

/// IANA's names say what a suite is made of.
#[test]
fn lines_agree_with_their_names() {
    for suite in &TABLE {
        let name = suite.name;
        let (exchange, cipher) = name.split_once("_WITH_").unwrap_or(("", name));
        let expected = match exchange {
            "" => (KeyExchange::Negotiated, Authentication::Negotiated),
            "TLS_ECDHE_ECDSA" => (KeyExchange::Ecdhe, Authentication::Ecdsa),
            "TLS_ECDHE_RSA" => (KeyExchange::Ecdhe, Authentication::Rsa),
            "TLS_RSA" => (KeyExchange::Rsa, Authentication::Rsa),
            other => panic!("{other}"),
        };
        assert_eq!((suite.key_exchange, suite.authentication), expected, "{name}");
        let bulk = match suite.bulk {
            Bulk::Aes128Cbc => "AES_128_CBC",
            Bulk::Aes256Cbc => "AES_256_CBC",
            Bulk::Aes128Gcm => "AES_128_GCM",
            Bulk::Aes256Gcm => "AES_256_GCM",
            Bulk::ChaCha20 => "CHACHA20_POLY1305",
            Bulk::TripleDes => "3DES_EDE_CBC",
        };
        assert!(cipher.contains(bulk), "{name}");
        match suite.mac {
            Mac::Sha1 => assert!(cipher.ends_with("CBC_SHA"), "{name}"),
            Mac::Sha256 => assert!(cipher.ends_with("CBC_SHA256"), "{name}"),
            Mac::Sha384 => assert!(cipher.ends_with("CBC_SHA384"), "{name}"),
            Mac::Gcm => assert!(cipher.contains("GCM"), "{name}"),
            Mac::Poly1305 => assert!(cipher.contains("POLY1305"), "{name}"),
        }
        assert!(suite.versions.0 <= suite.versions.1);
        assert_eq!(suite.used_in(Protocol::Tls13), exchange.is_empty(), "{name}");
    }
}

#[test]
fn defaults_are_those_of_the_specification() {
    let default = Allowed::default();
    assert!(!default.version(Protocol::Ssl30) && default.version(Protocol::Tls10));
    let off: Vec<_> = TABLE.iter().filter(|suite| !default.suite(suite)).collect();
    assert!(off.iter().all(|s| {
        s.authentication == Authentication::Ecdsa
            && matches!(s.bulk, Bulk::Aes128Cbc | Bulk::Aes256Cbc)
    }));
    assert_eq!(off.len(), 4);
}

#[test]
fn suites_of_versions_that_are_off_are_not_usable() {
    let only_13 = Allowed { weakest: Protocol::Tls13, ..Allowed::default() };
    assert!(only_13.usable().all(|suite| suite.used_in(Protocol::Tls13)));
    assert_eq!(only_13.usable().count(), 3);
    let only_10 = Allowed { strongest: Protocol::Tls10, ..Allowed::default() };
    assert!(only_10.usable().all(|suite| suite.mac == Mac::Sha1));
    assert_eq!(only_10.usable().count(), 6);
}
