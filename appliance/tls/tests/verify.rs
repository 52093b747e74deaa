//! The verdict on chains, and what follows from it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Authority, authority, authority_with, intermediate, leaf, leaf_with};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, NameConstraints,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SanType, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use weir_tls::verify::Failure;
use weir_tls::{Intermediates, Signer, TrustAnchors, Verdict};

/// 2026-06-15 12:00:00 UTC.
const NOW: u64 = 1_781_524_800;

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

fn root() -> Authority {
    authority("Root", &PKCS_ECDSA_P256_SHA256)
}

fn ders(chain: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    chain.iter().cloned().map(CertificateDer::from).collect()
}

fn judge(trusted: &[&Authority], chain: &[Vec<u8>], name: Option<&str>) -> Verdict {
    let authorities: Vec<_> = trusted.iter().map(|authority| authority.der().to_vec()).collect();
    TrustAnchors::new(&authorities, false).unwrap().verify(&ders(chain), name, 2048, now())
}

fn failures(verdict: Verdict) -> Vec<Failure> {
    verdict.failures().collect()
}

fn dated(from: i32, until: i32) -> impl FnOnce(&mut rcgen::CertificateParams) {
    move |params| {
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
    }
}

#[test]
fn good_chain_is_verified_and_signed_by_the_trusted_authority() {
    let root = root();
    let middle = intermediate("Middle", &root, |_| {});
    let server = leaf(&middle, &["www.example.org", "192.0.2.1"]);
    let names = [None, Some("www.example.org"), Some("WWW.EXAMPLE.ORG."), Some("192.0.2.1")];
    for name in names {
        let verdict = judge(&[&root], &server.chain, name);
        assert_eq!((verdict.to_string().as_str(), verdict.signer()), ("verified", Signer::Trusted));
    }
}

#[test]
fn certificates_of_the_chain_may_come_in_any_order_with_strangers_among_them() {
    let root = root();
    let middle = intermediate("Middle", &root, |_| {});
    let server = leaf(&middle, &["www.example.org"]);
    let stranger = authority_with("Stranger", &PKCS_ECDSA_P256_SHA256, dated(2001, 2002));
    let chain = [
        server.chain[0].clone(),
        stranger.der().to_vec(),
        root.der().to_vec(),
        middle.der().to_vec(),
    ];
    assert!(judge(&[&root], &chain, Some("www.example.org")).is_verified());
}

#[test]
fn unknown_issuer_missing_intermediate_and_self_signed_are_untrusted() {
    let (root, other) = (root(), authority("Other", &PKCS_ECDSA_P256_SHA256));
    let middle = intermediate("Middle", &root, |_| {});
    let server = leaf(&middle, &["www.example.org"]);
    let verdict = judge(&[&other], &server.chain, None);
    assert_eq!(failures(verdict), [Failure::Untrusted]);
    assert_eq!(verdict.signer(), Signer::Untrusted);
    assert_eq!(failures(judge(&[&root], &server.chain[..1], None)), [Failure::Untrusted]);
    let own = leaf(&other, &["self.example"]);
    assert_eq!(failures(judge(&[], &own.chain, None)), [Failure::Untrusted]);
    assert_eq!(failures(judge(&[&root], other.pair.chain.as_slice(), None)), [Failure::Untrusted]);
}

#[test]
fn dates_and_trust_are_told_apart() {
    let (root, other) = (root(), authority("Other", &PKCS_ECDSA_P256_SHA256));
    let expired = leaf_with(&root, &["a.example"], &PKCS_ECDSA_P256_SHA256, dated(2020, 2021));
    let verdict = judge(&[&root], &expired.chain, Some("a.example"));
    assert_eq!(failures(verdict), [Failure::Expired]);
    assert_eq!(verdict.signer(), Signer::Trusted);
    assert!(verdict.is_outside_dates() && !verdict.is_invalid());

    let verdict = judge(&[&other], &expired.chain, Some("b.example"));
    assert_eq!(verdict.to_string(), "expired, untrusted, name mismatch");
    assert_eq!(verdict.signer(), Signer::Untrusted);

    let early = leaf_with(&root, &["a.example"], &PKCS_ECDSA_P256_SHA256, dated(2040, 2041));
    let verdict = judge(&[&root], &early.chain, Some("a.example"));
    assert_eq!(failures(verdict), [Failure::NotYetValid]);
    assert_eq!(verdict.signer(), Signer::Trusted);
}

#[test]
fn validity_ends_after_its_last_second() {
    let root = root();
    let server = leaf_with(&root, &["a.example"], &PKCS_ECDSA_P256_SHA256, |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2026, 1, 1);
    });
    let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
    let at = |second| {
        let instant = UnixTime::since_unix_epoch(Duration::from_secs(second));
        anchors.verify(&ders(&server.chain), None, 2048, instant)
    };
    // 2026-01-01 00:00:00 and a second later; 2020-01-01 00:00:00 and a second before.
    assert!(at(1_767_225_600).is_verified());
    assert_eq!(failures(at(1_767_225_601)), [Failure::Expired]);
    assert!(at(1_577_836_800).is_verified());
    assert_eq!(failures(at(1_577_836_799)), [Failure::NotYetValid]);
}

/// The forged certificate has the leaf's dates only: under the trusted signer the client would see
/// nothing wrong.
#[test]
fn expired_intermediate_is_not_hidden_by_the_trusted_signer() {
    let root = root();
    let middle = intermediate("Middle", &root, dated(2010, 2020));
    let server = leaf_with(&middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, dated(2015, 2035));
    let verdict = judge(&[&root], &server.chain, Some("a.example"));
    assert_eq!(failures(verdict), [Failure::IntermediateDates]);
    assert_eq!(verdict.signer(), Signer::Untrusted);
}

#[test]
fn wrong_name_is_a_mismatch_and_no_name_is_none() {
    let root = root();
    let server = leaf(&root, &["www.example.org", "*.wild.example"]);
    for wrong in ["example.org", "a.b.wild.example", "192.0.2.1", "not/a/name"] {
        let verdict = judge(&[&root], &server.chain, Some(wrong));
        assert_eq!(failures(verdict), [Failure::NameMismatch], "{wrong}");
        assert_eq!(verdict.signer(), Signer::Untrusted);
    }
    assert!(judge(&[&root], &server.chain, Some("a.wild.example")).is_verified());
    assert!(judge(&[&root], &server.chain, None).is_verified());
}

/// No host may be called so, and some are.
#[test]
fn name_with_a_label_that_ends_in_a_hyphen_is_that_of_its_certificate() {
    let root = root();
    let server = leaf(&root, &["abc-.example", "*.wild.example"]);
    for right in ["abc-.example", "ABC-.example.", "abc-.wild.example"] {
        assert!(judge(&[&root], &server.chain, Some(right)).is_verified(), "{right}");
    }
    for wrong in
        ["abd-.example", "x.abc-.example", "a.abc-.wild.example", "*-.wild.example", "-.example"]
    {
        let verdict = judge(&[&root], &server.chain, Some(wrong));
        assert_eq!(failures(verdict), [Failure::NameMismatch], "{wrong}");
    }
}

/// Inside networks hosts are called so, and TLS stacks send it.
#[test]
fn name_that_ends_in_a_number_is_that_of_its_certificate() {
    let root = root();
    let server = leaf(&root, &["node.10", "*.rack.7", "*.10"]);
    for right in ["node.10", "NODE.10.", "a.rack.7"] {
        assert!(judge(&[&root], &server.chain, Some(right)).is_verified(), "{right}");
    }
    for wrong in ["node.11", "other.10", "a.b.rack.7", "rack.7", "10", "192.0.2.10"] {
        let verdict = judge(&[&root], &server.chain, Some(wrong));
        assert_eq!(failures(verdict), [Failure::NameMismatch], "{wrong}");
    }
}

#[test]
fn address_in_the_place_of_a_name_is_that_of_its_certificate_however_it_is_written() {
    let root = root();
    let server = leaf_with(&root, &[], &PKCS_ECDSA_P256_SHA256, |params| {
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|one| one.parse().unwrap());
        params.subject_alt_names = addresses.map(SanType::IpAddress).into();
    });
    for right in ["192.0.2.1", "192.0.2.1.", "2001:db8::1", "[2001:db8::1]"] {
        assert!(judge(&[&root], &server.chain, Some(right)).is_verified(), "{right}");
    }
    for wrong in ["192.0.2.2", "[2001:db8::2]", "192.0.2"] {
        let verdict = judge(&[&root], &server.chain, Some(wrong));
        assert_eq!(failures(verdict), [Failure::NameMismatch], "{wrong}");
    }
}

#[test]
fn constraints_are_kept() {
    let root = root();
    let narrow = intermediate("Narrow", &root, |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("inside.example".into())],
            excluded_subtrees: Vec::new(),
        });
    });
    let outside = leaf(&narrow, &["outside.example"]);
    assert_eq!(failures(judge(&[&root], &outside.chain, None)), [Failure::Constraint]);
    let inside = leaf(&narrow, &["a.inside.example"]);
    assert!(judge(&[&root], &inside.chain, None).is_verified());

    let short = intermediate("Short", &root, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let below = intermediate("Below", &short, |_| {});
    let mut deep = leaf(&below, &["a.example"]).chain;
    deep.push(short.der().to_vec());
    assert_eq!(failures(judge(&[&root], &deep, None)), [Failure::Constraint]);

    let client_only = leaf_with(&root, &["a.example"], &PKCS_ECDSA_P256_SHA256, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(failures(judge(&[&root], &client_only.chain, None)), [Failure::Constraint]);
}

#[test]
fn certificate_in_the_trust_store_is_trusted_for_itself() {
    let appliance = authority_with("printer.example", &PKCS_ECDSA_P256_SHA256, |params| {
        params.subject_alt_names = vec![SanType::DnsName("printer.example".try_into().unwrap())];
    });
    let chain = appliance.pair.chain.as_slice();
    assert!(judge(&[&appliance], chain, Some("printer.example")).is_verified());
    assert_eq!(
        failures(judge(&[&appliance], chain, Some("other.example"))),
        [Failure::NameMismatch]
    );
}

/// Made by openssl: rustls's own tools refuse to.
#[test]
fn weak_keys_weak_signatures_and_version_1_are_invalid() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let make = |key: &str, extra: &[&str]| {
        let mut arguments = vec![
            "req",
            "-x509",
            "-newkey",
            key,
            "-nodes",
            "-keyout",
            "k.pem",
            "-out",
            "c.pem",
            "-days",
            "36500",
            "-subj",
            "/CN=weak.example",
            "-addext",
            "subjectAltName=DNS:weak.example",
        ];
        arguments.extend_from_slice(extra);
        common::openssl(directory, &arguments);
        vec![common::der_of(directory, "c.pem")]
    };
    let short = judge(&[], &make("rsa:1024", &[]), Some("weak.example"));
    assert!(short.has(Failure::WeakKey) && !short.has(Failure::WeakSignature), "{short}");
    let sha1 = judge(&[], &make("rsa:2048", &["-sha1"]), Some("weak.example"));
    assert!(sha1.has(Failure::WeakSignature) && !sha1.has(Failure::WeakKey), "{sha1}");
    assert_eq!((short.signer(), sha1.signer()), (Signer::Untrusted, Signer::Untrusted));

    common::openssl(
        directory,
        &["req", "-new", "-key", "k.pem", "-subj", "/CN=v1.example", "-out", "r.pem"],
    );
    common::openssl(
        directory,
        &["x509", "-req", "-in", "r.pem", "-signkey", "k.pem", "-days", "36500", "-out", "v1.pem"],
    );
    let old = common::der_of(directory, "v1.pem");
    // Just made, so valid now and not at this file's own instant.
    let now = UnixTime::now;
    let chain = [CertificateDer::from(old.clone())];
    let verdict =
        TrustAnchors::new(&[], false).unwrap().verify(&chain, Some("v1.example"), 2048, now());
    assert_eq!(failures(verdict), [Failure::Untrusted]);
    let pinned = TrustAnchors::new(std::slice::from_ref(&old), false).unwrap();
    assert!(pinned.verify(&chain, Some("v1.example"), 2048, now()).is_verified());
    assert_eq!(
        failures(pinned.verify(&chain, Some("v2.example"), 2048, now())),
        [Failure::NameMismatch]
    );
}

#[test]
fn default_package_and_own_authorities_are_trusted_together() {
    let root = root();
    let server = leaf(&root, &["www.example.org"]);
    let both = TrustAnchors::new(&[root.der().to_vec()], true).unwrap();
    assert!(both.verify(&ders(&server.chain), Some("www.example.org"), 2048, now()).is_verified());
    let package = TrustAnchors::new(&[], true).unwrap();
    let verdict = package.verify(&ders(&server.chain), Some("www.example.org"), 2048, now());
    assert_eq!(failures(verdict), [Failure::Untrusted]);
}

/// SPEC T8: a proxy's minimum is about the leaf and the path's intermediates, not about the root.
#[test]
fn short_rsa_keys_are_weak_by_the_proxys_minimum() {
    let root = authority("Root", &PKCS_RSA_SHA256);
    let middle = intermediate("Middle", &root, |_| {});
    let server = leaf_with(&middle, &["a.example"], &PKCS_RSA_SHA256, |_| {});
    let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
    let judge = |bits| failures(anchors.verify(&ders(&server.chain), None, bits, now()));
    assert_eq!(judge(2048), []);
    assert_eq!(judge(2049), [Failure::WeakKey]);
    // An RSA intermediate counts, whatever the leaf is.
    let (middle, middle_key) = rsa_intermediate(&root);
    let server = leaf(&Authority { issuer: middle_key, pair: middle }, &["a.example"]);
    let judge = |bits| failures(anchors.verify(&ders(&server.chain), None, bits, now()));
    assert_eq!(judge(2048), []);
    assert_eq!(judge(3072), [Failure::WeakKey]);
}

fn rsa_intermediate(
    parent: &Authority,
) -> (weir_policy::snapshot::CertifiedKey, rcgen::Issuer<'static, rcgen::KeyPair>) {
    let params = common::authority_params("RSA middle");
    let key = common::key(&PKCS_RSA_SHA256);
    let certificate = params.signed_by(&key, &parent.issuer).unwrap();
    let pair = common::pair(vec![certificate.der().to_vec()], &key);
    (pair, rcgen::Issuer::new(params, key))
}

#[test]
fn chain_without_its_intermediate_is_completed_once_another_server_sent_it() {
    let root = root();
    let top = intermediate("Top", &root, |_| {});
    let middle = intermediate("Middle", &top, |_| {});
    let (whole, bare) = (leaf(&middle, &["whole.example"]), leaf(&middle, &["bare.example"]));
    let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
    let judge = |chain: &[Vec<u8>]| failures(anchors.verify(&ders(chain), None, 2048, now()));
    let bare = &bare.chain[..1];
    assert_eq!(judge(bare), [Failure::Untrusted]);
    assert_eq!(judge(bare), [Failure::Untrusted]);
    assert_eq!(anchors.searches(), 1, "nothing new was learnt");
    let mut chain = whole.chain.clone();
    chain.push(top.der().to_vec());
    assert_eq!(judge(&chain), []);
    assert_eq!(judge(bare), []);
    assert_eq!(judge(bare), []);
    assert_eq!(anchors.searches(), 3, "each chain once, and the bare one again");
}

/// Whoever has no trusted certificate teaches nothing, and what one store learnt from a path that
/// verified is no anchor for another.
#[test]
fn nothing_is_learnt_from_chains_that_do_not_verify() {
    let (root, other) = (root(), authority("Other", &PKCS_ECDSA_P256_SHA256));
    let middle = intermediate("Middle", &root, |_| {});
    let server = leaf(&middle, &["a.example"]);
    let learnt = std::sync::Arc::new(Intermediates::default());
    let store = |authority: &Authority| {
        TrustAnchors::new(&[authority.der().to_vec()], false).unwrap().learning(learnt.clone())
    };
    let (knows, knows_not) = (store(&root), store(&other));
    let bare = ders(&server.chain[..1]);
    assert!(!knows_not.verify(&ders(&server.chain), None, 2048, now()).is_verified());
    assert!(!knows.verify(&bare, None, 2048, now()).is_verified());
    assert!(knows.verify(&ders(&server.chain), None, 2048, now()).is_verified());
    assert!(knows.verify(&bare, None, 2048, now()).is_verified());
    assert_eq!(failures(knows_not.verify(&bare, None, 2048, now())), [Failure::Untrusted]);
}

#[test]
fn known_chain_is_searched_again_when_a_date_is_crossed() {
    let root = root();
    let middle = intermediate("Middle", &root, dated(2020, 2027));
    let server = leaf_with(&middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, dated(2020, 2030));
    let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
    let at = |second| {
        let instant = UnixTime::since_unix_epoch(Duration::from_secs(second));
        failures(anchors.verify(&ders(&server.chain), Some("a.example"), 2048, instant))
    };
    for _ in 0..3 {
        assert_eq!(at(NOW), []);
    }
    assert_eq!(anchors.searches(), 1);
    // 2027-01-01 00:00:00 is the intermediate's last second.
    assert_eq!(at(1_798_761_600), []);
    assert_eq!(anchors.searches(), 1);
    assert_eq!(at(1_798_761_601), [Failure::IntermediateDates]);
    assert_eq!(at(1_798_761_602), [Failure::IntermediateDates]);
    assert_eq!(anchors.searches(), 2);
    // The leaf's own dates and the name are looked at each time, whatever is kept.
    let other = anchors.verify(&ders(&server.chain), Some("b.example"), 2048, now());
    assert_eq!(failures(other), [Failure::NameMismatch]);
}

#[test]
fn what_is_no_certificate_is_malformed() {
    assert_eq!(failures(judge(&[], &[], None)), [Failure::Malformed]);
    assert_eq!(failures(judge(&[], &[b"no".to_vec()], None)), [Failure::Malformed]);
    let error = TrustAnchors::new(&[root().der().to_vec(), b"no".to_vec()], true).unwrap_err();
    assert!(error.to_string().starts_with("authority 1 "), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn altered_chains_never_panic_and_never_verify_by_chance(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        seconds in 0u64..5_000_000_000,
    ) {
        thread_local! {
            static FIXTURE: (Authority, Vec<Vec<u8>>) = {
                let root = root();
                let chain = leaf(&root, &["www.example.org"]).chain;
                (root, chain)
            };
        }
        FIXTURE.with(|(root, chain)| {
            let mut chain = chain.clone();
            for (at, change) in changes {
                let at = at.index(chain[0].len());
                chain[0][at] ^= change;
            }
            let altered = FIXTURE.with(|(_, original)| original[0] != chain[0]);
            let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
            let instant = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            let verdict = anchors.verify(&ders(&chain), Some("www.example.org"), 2048, instant);
            if altered {
                assert_eq!(verdict.signer(), Signer::Untrusted, "{verdict}");
            }
        });
    }
}
