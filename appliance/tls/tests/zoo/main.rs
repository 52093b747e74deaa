//! A zoo of server certificates: for each the verdict as the log has it, who signs the copy, what
//! the two block options do; and what clients say of the copy.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod animals;
#[path = "../common/mod.rs"]
mod common;
mod expected;
mod python;

use animals::{Animal, ZOO};
use expected::expected;
use rustls_pki_types::{CertificateDer, UnixTime};
use weir_tls::verify::Action;
use weir_tls::{Forger, LeafKind, TrustAnchors};

fn ders(chain: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    chain.iter().cloned().map(CertificateDer::from).collect()
}

#[test]
fn every_certificate_gets_its_verdict_signer_and_block() {
    let (keeper, animals) = &*ZOO;
    assert!(animals.len() >= 26);
    for Animal { name, pair, asked } in animals {
        // A store for each: nothing is learnt from one for the other.
        let anchors = TrustAnchors::new(&[keeper.root_der()], false).unwrap();
        let verdict = anchors.verify(&ders(&pair.chain), Some(asked), 2048, UnixTime::now());
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
    for Animal { name, pair, .. } in animals {
        for kind in [LeafKind::Ecdsa, LeafKind::Rsa] {
            let signer = expected(name).signer;
            let forged = forger.forge(&pair.chain[0], signer, kind).unwrap();
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
    for Animal { name, pair, asked } in animals {
        let expected = expected(name);
        let forged = forger.forge(&pair.chain[0], expected.signer, LeafKind::Ecdsa).unwrap();
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
