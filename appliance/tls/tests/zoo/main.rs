//! A zoo of server certificates: for each the verdict as the log has it, who signs the copy, what
//! the two block options do; and what clients say of the copy.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod animals;
#[path = "../common/mod.rs"]
mod common;
mod python;

use animals::{Animal, ZOO};
use rustls_pki_types::{CertificateDer, UnixTime};
use weir_tls::verify::Action;
use weir_tls::{Forger, LeafKind, Signer, TrustAnchors};

/// Verdict of the log, and what becomes of a session with no block option, with "block invalid", and
/// with "block expired".
struct Expected {
    verdict: &'static str,
    signer: Signer,
    blocked: &'static [Action],
}

const GOOD: Expected = Expected { verdict: "verified", signer: Signer::Trusted, blocked: &[] };

const fn dates(verdict: &'static str) -> Expected {
    Expected { verdict, signer: Signer::Trusted, blocked: &[Action::BlockExpired] }
}

const fn invalid(verdict: &'static str) -> Expected {
    Expected { verdict, signer: Signer::Untrusted, blocked: &[Action::BlockInvalid] }
}

const fn both(verdict: &'static str) -> Expected {
    let blocked = &[Action::BlockInvalid, Action::BlockExpired];
    Expected { verdict, signer: Signer::Untrusted, blocked }
}

fn expected(name: &str) -> Expected {
    match name {
        "good" | "address" | "wildcard" | "no common name" | "1000 names" | "shuffled chain"
        | "RSA-8192" | "P-384" | "P-224" => GOOD,
        "expired" => dates("expired"),
        "not yet valid" => dates("not yet valid"),
        "self-signed"
        | "unknown root"
        | "missing intermediate"
        | "authority as leaf"
        | "unknown critical extension"
        | "version 1" => invalid("untrusted"),
        "wrong name" | "common name only" => invalid("name mismatch"),
        "RSA-1024" => invalid("weak key"),
        "SHA-1" | "MD5" | "SHA-1 intermediate" => invalid("untrusted, weak signature"),
        "name constraint" | "path length" | "client authentication only" => {
            invalid("constraint violated")
        }
        "expired intermediate" => invalid("intermediate expired or not yet valid"),
        "everything" => both("expired, untrusted, name mismatch, weak key"),
        other => panic!("no expectation for {other}"),
    }
}

fn ders(chain: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    chain.iter().cloned().map(CertificateDer::from).collect()
}

#[test]
fn every_certificate_gets_its_verdict_signer_and_block() {
    let (keeper, animals) = &*ZOO;
    assert!(animals.len() >= 26);
    for Animal { name, chain, asked } in animals {
        // A store for each: nothing is learnt from one for the other.
        let anchors = TrustAnchors::new(&[keeper.root_der()], false).unwrap();
        let verdict = anchors.verify(&ders(chain), Some(asked), 2048, UnixTime::now());
        let expected = expected(name);
        assert_eq!(verdict.to_string(), expected.verdict, "{name}");
        assert_eq!(verdict.action(false, false), Action::Forge(expected.signer), "{name}");
        for (invalid, expired) in [(true, false), (false, true)] {
            let option = if invalid { Action::BlockInvalid } else { Action::BlockExpired };
            let action = if expected.blocked.contains(&option) {
                option
            } else {
                Action::Forge(expected.signer)
            };
            assert_eq!(verdict.action(invalid, expired), action, "{name}");
        }
    }
}

/// Whatever the original was like, the copy is a certificate that a strict verifier takes apart
/// without complaint under the authority that signed it, dates apart.
#[test]
fn every_copy_is_strictly_well_formed_under_its_signer() {
    let (keeper, animals) = &*ZOO;
    let forger = keeper.forger();
    for Animal { name, chain, .. } in animals {
        for kind in [LeafKind::Ecdsa, LeafKind::Rsa] {
            let signer = expected(name).signer;
            let forged = forger.forge(&chain[0], signer, kind).unwrap();
            let complaint = keeper.strict_complaint(signer, &forged);
            assert_eq!(complaint, "", "{name} {kind:?}");
        }
    }
}

/// Python's strict mode, by name, over a real handshake: the copies of good certificates are taken,
/// those of bad ones refused for the right reason.
#[test]
fn python_takes_the_copies_of_good_certificates_and_no_others() {
    let (keeper, animals) = &*ZOO;
    let forger: Forger = keeper.forger();
    for Animal { name, chain, asked } in animals {
        let expected = expected(name);
        let forged = forger.forge(&chain[0], expected.signer, LeafKind::Ecdsa).unwrap();
        let said = python::visit(&keeper.signing_pem(), asked, &forged);
        let right = match expected.verdict {
            "verified" => "accepted",
            "expired" => "certificate has expired",
            "not yet valid" => "certificate is not yet valid",
            _ => "self-signed certificate in certificate chain",
        };
        assert!(said.contains(right), "{name}: {said}");
    }
}
