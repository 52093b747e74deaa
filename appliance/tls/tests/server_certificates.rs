//! Which certificate a server proxy shows (SPEC T6).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{authority, leaf, leaf_with};
use rcgen::PKCS_ECDSA_P256_SHA256;
use weir_tls::server_certificates::ServerCertificatesError;
use weir_tls::{KeyError, ServerCertificates};

#[test]
fn exact_name_then_wildcard_then_the_first() {
    let authority = authority("CA", &PKCS_ECDSA_P256_SHA256);
    let default = leaf(&authority, &["default.example"]);
    let wildcard = leaf(&authority, &["*.example.org", "example.org"]);
    let exact = leaf(&authority, &["www.example.org"]);
    let common_name = leaf_with(&authority, &[], &PKCS_ECDSA_P256_SHA256, |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Old.example.net");
    });
    let pairs = [default.clone(), wildcard.clone(), exact.clone(), common_name.clone()];
    let certificates = ServerCertificates::new(&pairs).unwrap();
    let expected = [
        (Some("www.example.org"), &exact),
        (Some("WWW.EXAMPLE.ORG."), &exact),
        (Some("other.example.org"), &wildcard),
        (Some("example.org"), &wildcard),
        (Some("a.b.example.org"), &default),
        (Some(".example.org"), &default),
        (Some("old.example.net"), &common_name),
        (Some("elsewhere.example"), &default),
        (None, &default),
    ];
    for (name, pair) in expected {
        let chosen = certificates.choose(name);
        assert_eq!(chosen.chain()[0].as_ref(), pair.chain[0], "{name:?}");
        let serves = name.is_some_and(|name| certificates.serve(name));
        assert_eq!(serves, pair.chain[0] != default.chain[0], "{name:?}");
    }
    // The one fault of a name is a hyphen, and a wildcard serves it as any other.
    assert!(certificates.serve("shop-.example.org"));
    // So do names that end in a number.
    let node = leaf(&authority, &["node.10"]);
    let certificates = ServerCertificates::new(&[default, node]).unwrap();
    assert!(certificates.serve("NODE.10.") && !certificates.serve("other.10"));
}

#[test]
fn duplicates_are_discarded_and_the_first_of_several_for_a_name_wins() {
    let authority = authority("CA", &PKCS_ECDSA_P256_SHA256);
    let first = leaf(&authority, &["www.example.org"]);
    let second = leaf(&authority, &["www.example.org"]);
    let mut broken_duplicate = first.clone();
    broken_duplicate.key = second.key.clone();
    let certificates = ServerCertificates::new(&[first.clone(), broken_duplicate, second]).unwrap();
    let chosen = certificates.choose(Some("www.example.org"));
    assert_eq!(chosen.chain()[0].as_ref(), first.chain[0]);
}

#[test]
fn pair_that_cannot_be_used_is_named() {
    let authority = authority("CA", &PKCS_ECDSA_P256_SHA256);
    let good = leaf(&authority, &["a.example"]);
    let mut bad = leaf(&authority, &["b.example"]);
    bad.key = good.key.clone();
    assert_eq!(
        ServerCertificates::new(&[good, bad]).unwrap_err(),
        ServerCertificatesError::Key { index: 1, error: KeyError::Mismatch }
    );
    assert_eq!(ServerCertificates::new(&[]).unwrap_err(), ServerCertificatesError::Empty);
}
