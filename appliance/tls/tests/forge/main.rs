//! Forged certificates as clients see them: checked by the openssl command and by a second parser.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bounds;
#[path = "../common/mod.rs"]
mod common;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Barrier};

use common::{
    Authority, authority, der_of, intermediate, leaf, leaf_keys, leaf_with, openssl,
    openssl_status, pkcs8_of, write,
};
use proptest::prelude::*;
use rcgen::{
    CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, SanType, date_time_ymd,
};
use weir_policy::snapshot::CertifiedKey;
use weir_tls::forge::CACHE_BOUND;
use weir_tls::key::KeyKind;
use weir_tls::{ForgeError, Forger, ForgerError, LeafKind, LegKey, Signer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

fn upstream() -> Authority {
    authority("Upstream CA", &PKCS_ECDSA_P256_SHA256)
}

fn forger(signing: &CertifiedKey) -> Forger {
    let untrusted = authority("Untrusted", &PKCS_ECDSA_P256_SHA256).pair;
    Forger::new(signing, &untrusted, leaf_keys()).unwrap()
}

/// `openssl verify -x509_strict` of a forged chain against its root. Empty: it verifies.
fn strict_complaint(root: &[u8], forged: &LegKey, options: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let pem = |der: &[u8]| pem_of(directory, der);
    write(directory, "root.pem", &pem(root));
    write(directory, "leaf.pem", &pem(&forged.chain()[0]));
    let rest: Vec<u8> = forged.chain()[1..].iter().flat_map(|der| pem(der)).collect();
    write(directory, "rest.pem", &rest);
    let mut arguments = vec!["verify", "-x509_strict", "-purpose", "sslserver"];
    arguments.extend_from_slice(options);
    arguments.extend_from_slice(&["-CAfile", "root.pem", "-untrusted", "rest.pem", "leaf.pem"]);
    let output = openssl_status(directory, &arguments);
    if output.status.success() { String::new() } else { String::from_utf8(output.stderr).unwrap() }
}

fn pem_of(directory: &Path, der: &[u8]) -> Vec<u8> {
    write(directory, "one.der", der);
    openssl(directory, &["x509", "-inform", "DER", "-in", "one.der"]).stdout
}

fn parsed(key: &LegKey) -> X509Certificate<'_> {
    let (rest, certificate) = X509Certificate::from_der(&key.chain()[0]).unwrap();
    assert!(rest.is_empty());
    certificate
}

fn raw_extension<'a>(certificate: &X509Certificate<'a>, oid: &str) -> Option<(&'a [u8], bool)> {
    certificate
        .extensions()
        .iter()
        .find(|extension| extension.oid.to_id_string() == oid)
        .map(|extension| (extension.value, extension.critical))
}

#[test]
fn forged_certificates_pass_strict_verification_under_every_kind_of_authority() {
    let server = leaf(&upstream(), &["www.example.org", "*.example.org", "192.0.2.1"]);
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256] {
        let signing = authority("Corporate CA", algorithm);
        let forged = forger(&signing.pair)
            .forge(&server.chain[0], Signer::Trusted, LeafKind::Ecdsa)
            .unwrap();
        for name in [
            ["-verify_hostname", "www.example.org"],
            ["-verify_hostname", "other.example.org"],
            ["-verify_ip", "192.0.2.1"],
        ] {
            assert_eq!(strict_complaint(signing.der(), &forged, &name), "");
        }
        let wrong = strict_complaint(signing.der(), &forged, &["-verify_hostname", "a.b.c"]);
        assert!(wrong.contains("hostname mismatch"), "{wrong}");
    }
}

/// What speaks about the original, and about no copy of it.
const OF_THE_ORIGINAL_ONLY: &[(&str, &[u8])] = &[
    // Where its issuer and its status are found, and the lists of what is revoked.
    ("1.3.6.1.5.5.7.1.1", &[0x30, 0]),
    ("2.5.29.31", &[0x30, 0]),
    // Receipts of transparency logs.
    ("1.3.6.1.4.1.11129.2.4.2", &[0x04, 0]),
    // Must-staple (RFC 7633).
    ("1.3.6.1.5.5.7.1.24", &[0x30, 0x03, 0x02, 0x01, 0x05]),
    // Its authority's policies.
    ("2.5.29.32", &[0x30, 0]),
];

#[test]
fn forged_certificate_has_the_names_dates_and_usages_of_the_original() {
    let server = leaf_with(
        &upstream(),
        &["www.example.org", "192.0.2.1", "2001:db8::1"],
        &PKCS_RSA_SHA256,
        |params| {
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.not_before = date_time_ymd(2024, 2, 29);
            params.not_after = date_time_ymd(2055, 1, 1);
            for (oid, content) in OF_THE_ORIGINAL_ONLY {
                let numbers: Vec<u64> = oid.split('.').map(|part| part.parse().unwrap()).collect();
                let extension = CustomExtension::from_oid_content(&numbers, content.to_vec());
                params.custom_extensions.push(extension);
            }
        },
    );
    let signing = authority("Corporate CA", &PKCS_ECDSA_P256_SHA256);
    let forged =
        forger(&signing.pair).forge(&server.chain[0], Signer::Trusted, LeafKind::Ecdsa).unwrap();
    let (_, original) = X509Certificate::from_der(&server.chain[0]).unwrap();
    let copy = parsed(&forged);
    assert_eq!(copy.subject().as_raw(), original.subject().as_raw());
    assert_eq!(copy.validity(), original.validity());
    for oid in ["2.5.29.17", "2.5.29.37"] {
        let extension = raw_extension(&copy, oid);
        assert!(extension.is_some());
        assert_eq!(extension, raw_extension(&original, oid));
    }
    for (oid, content) in OF_THE_ORIGINAL_ONLY {
        assert_eq!(raw_extension(&original, oid), Some((*content, false)), "{oid}");
        assert_eq!(raw_extension(&copy, oid), None, "{oid}");
    }
    assert_ne!(copy.raw_serial(), original.raw_serial());
    assert!(!copy.basic_constraints().unwrap().unwrap().value.ca);
    let usage = copy.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digitalSignature alone");
    assert_eq!(forged.chain()[1].as_ref(), signing.der());
    assert_eq!(strict_complaint(signing.der(), &forged, &[]), "");
}

/// For clients that know no ECDSA: the same copy for the other leaf key.
#[test]
fn forged_certificate_for_an_rsa_client_differs_by_key_and_key_usage_only() {
    let server = leaf(&upstream(), &["www.example.org"]);
    let signing = authority("Corporate CA", &PKCS_ECDSA_P256_SHA256);
    let forger = forger(&signing.pair);
    let [ecdsa, rsa] = [LeafKind::Ecdsa, LeafKind::Rsa]
        .map(|kind| forger.forge(&server.chain[0], Signer::Trusted, kind).unwrap());
    assert_eq!((ecdsa.kind(), rsa.kind()), (KeyKind::P256, KeyKind::Rsa));
    let usage = parsed(&rsa).key_usage().unwrap().unwrap().value.flags;
    assert_eq!(usage, 0b101, "digitalSignature and keyEncipherment");
    assert_eq!(parsed(&rsa).subject().as_raw(), parsed(&ecdsa).subject().as_raw());
    assert_eq!(
        raw_extension(&parsed(&rsa), "2.5.29.17"),
        raw_extension(&parsed(&ecdsa), "2.5.29.17")
    );
    assert_ne!(parsed(&rsa).raw_serial(), parsed(&ecdsa).raw_serial());
    assert_eq!(strict_complaint(signing.der(), &rsa, &["-verify_hostname", "www.example.org"]), "");
    assert_eq!(forger.signatures(), 2);
    let again = forger.forge(&server.chain[0], Signer::Trusted, LeafKind::Rsa).unwrap();
    assert!(Arc::ptr_eq(&rsa, &again));
}

#[test]
fn verdict_chooses_between_two_issuers() {
    let signing = authority("Corporate CA", &PKCS_ECDSA_P256_SHA256);
    let untrusted = authority("Nobody trusts this", &PKCS_ECDSA_P256_SHA256);
    let forger = Forger::new(&signing.pair, &untrusted.pair, leaf_keys()).unwrap();
    let server = leaf(&upstream(), &["www.example.org"]);
    let trusted = forger.forge(&server.chain[0], Signer::Trusted, LeafKind::Ecdsa).unwrap();
    let warned = forger.forge(&server.chain[0], Signer::Untrusted, LeafKind::Ecdsa).unwrap();
    assert_eq!(parsed(&trusted).issuer().to_string(), "CN=Corporate CA");
    assert_eq!(parsed(&warned).issuer().to_string(), "CN=Nobody trusts this");
    assert_eq!(strict_complaint(signing.der(), &trusted, &[]), "");
    assert_ne!(strict_complaint(signing.der(), &warned, &[]), "");
}

#[test]
fn expired_certificate_keeps_its_dates() {
    let server = leaf_with(&upstream(), &["old.example"], &PKCS_ECDSA_P256_SHA256, |params| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let signing = authority("Corporate CA", &PKCS_ECDSA_P256_SHA256);
    let forged =
        forger(&signing.pair).forge(&server.chain[0], Signer::Trusted, LeafKind::Ecdsa).unwrap();
    let complaint = strict_complaint(signing.der(), &forged, &[]);
    assert!(complaint.contains("certificate has expired"), "{complaint}");
    // 2019-07-01: nothing else is wrong with it.
    assert_eq!(strict_complaint(signing.der(), &forged, &["-attime", "1561939200"]), "");
}

#[test]
fn signing_certificate_below_a_root_brings_its_chain() {
    let root = authority("Corporate Root", &PKCS_ECDSA_P256_SHA256);
    let mut issuing = intermediate("Corporate Issuing CA", &root, |_| {}).pair;
    issuing.chain.push(root.der().to_vec());
    let server = leaf(&upstream(), &["www.example.org"]);
    let forged =
        forger(&issuing).forge(&server.chain[0], Signer::Trusted, LeafKind::Ecdsa).unwrap();
    assert_eq!(forged.chain().len(), 3);
    assert_eq!(strict_complaint(root.der(), &forged, &[]), "");
}

/// Two OUs, a multi-valued RDN and mixed string types, as openssl makes them: an issuer name that
/// was rebuilt instead of copied would not join.
#[test]
fn signing_certificate_with_two_units_is_the_issuer_byte_for_byte() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    for (name, algorithm) in [("rsa", "RSA"), ("ec", "EC")] {
        let key = format!("{name}.key");
        let certificate = format!("{name}.pem");
        let option =
            if algorithm == "RSA" { "rsa_keygen_bits:2048" } else { "ec_paramgen_curve:P-256" };
        openssl(directory, &["genpkey", "-algorithm", algorithm, "-pkeyopt", option, "-out", &key]);
        openssl(
            directory,
            &[
                "req",
                "-x509",
                "-new",
                "-key",
                &key,
                "-days",
                "3650",
                "-out",
                &certificate,
                "-multivalue-rdn",
                "-utf8",
                "-subj",
                "/C=CH/O=Beispiel AG/OU=Netz/OU=Prüfung/CN=Signing CA+UID=42",
                "-addext",
                "keyUsage=critical,keyCertSign,cRLSign",
            ],
        );
        let der = der_of(directory, &certificate);
        let signing = CertifiedKey { chain: vec![der.clone()], key: pkcs8_of(directory, &key) };
        let server = leaf(&upstream(), &["www.example.org"]);
        let forged =
            forger(&signing).forge(&server.chain[0], Signer::Trusted, LeafKind::Ecdsa).unwrap();
        let (_, authority) = X509Certificate::from_der(&der).unwrap();
        let copy = parsed(&forged);
        assert_eq!(copy.issuer().as_raw(), authority.subject().as_raw());
        assert_eq!(copy.issuer().iter_organizational_unit().count(), 2);
        assert_eq!(strict_complaint(&der, &forged, &[]), "");
    }
}

/// Version 1, common name only: the copy lacks a subjectAltName as the original does.
#[test]
fn version_1_certificate_is_copied_without_names_it_does_not_have() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let pkeyopt = "ec_paramgen_curve:P-256";
    openssl(directory, &["genpkey", "-algorithm", "EC", "-pkeyopt", pkeyopt, "-out", "v1.key"]);
    openssl(
        directory,
        &["req", "-new", "-key", "v1.key", "-subj", "/CN=v1.example", "-out", "v1.csr"],
    );
    let sign =
        ["x509", "-req", "-in", "v1.csr", "-signkey", "v1.key", "-days", "9", "-out", "v1.pem"];
    openssl(directory, &sign);
    let text = openssl(directory, &["x509", "-in", "v1.pem", "-noout", "-text"]).stdout;
    assert!(String::from_utf8(text).unwrap().contains("Version: 1 (0x0)"));
    let signing = authority("Corporate CA", &PKCS_ECDSA_P256_SHA256);
    let der = der_of(directory, "v1.pem");
    let forged = forger(&signing.pair).forge(&der, Signer::Trusted, LeafKind::Ecdsa).unwrap();
    let copy = parsed(&forged);
    assert_eq!(copy.subject().to_string(), "CN=v1.example");
    assert_eq!(raw_extension(&copy, "2.5.29.17"), None);
    assert_eq!(strict_complaint(signing.der(), &forged, &[]), "");
}

#[test]
fn empty_subject_keeps_its_critical_names() {
    let server = leaf_with(&upstream(), &[], &PKCS_ECDSA_P256_SHA256, |params| {
        *params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names.push(SanType::DnsName("bare.example".try_into().unwrap()));
    });
    let (_, original) = X509Certificate::from_der(&server.chain[0]).unwrap();
    let signing = authority("Corporate CA", &PKCS_ECDSA_P256_SHA256);
    let forged =
        forger(&signing.pair).forge(&server.chain[0], Signer::Trusted, LeafKind::Ecdsa).unwrap();
    let (names, critical) = raw_extension(&parsed(&forged), "2.5.29.17").unwrap();
    assert_eq!((names, critical), raw_extension(&original, "2.5.29.17").unwrap());
    assert!(critical);
    assert_eq!(strict_complaint(signing.der(), &forged, &["-verify_hostname", "bare.example"]), "");
}
