//! OCSP answers.

use super::*;

const WEEK: &[&str] = &["-ndays", "7"];

#[test]
fn an_answer_that_the_issuer_signed_says_good_or_revoked_or_that_it_does_not_know() {
    let world = World::new();
    for (status, expected) in [
        (Some("V"), Ok(Status::Good)),
        (Some("R"), Ok(Status::Revoked)),
        (None, Err(AnswerError::Unknown)),
    ] {
        for by in [&[][..], &["-resp_key_id"]] {
            let answer = world.ocsp(status, "middle", &[WEEK, by].concat());
            assert_eq!(world.judged(&answer), expected, "{status:?} {by:?}");
        }
    }
}

#[test]
fn an_answer_may_be_signed_by_whom_the_issuer_certified_for_it_and_by_nobody_else() {
    let world = World::new();
    let responder = |name: &str, by: &Authority, usage: ExtendedKeyUsagePurpose| {
        let pair = leaf_with(by, &["ocsp.example"], &PKCS_RSA_SHA256, |params| {
            params.extended_key_usages = vec![usage];
        });
        pem(world.path(), name, &pair);
    };
    let other = authority("Middle", &PKCS_ECDSA_P256_SHA256);
    responder("delegate", &world.middle, ExtendedKeyUsagePurpose::OcspSigning);
    responder("server", &world.middle, ExtendedKeyUsagePurpose::ServerAuth);
    responder("stranger", &other, ExtendedKeyUsagePurpose::OcspSigning);
    pem(world.path(), "other", &other.pair);
    for by in [&[][..], &["-resp_key_id"]] {
        let answer = world.ocsp(Some("R"), "delegate", &[WEEK, by].concat());
        assert_eq!(world.judged(&answer), Ok(Status::Revoked));
        for signer in ["server", "stranger", "leaf"] {
            let answer = world.ocsp(Some("V"), signer, &[WEEK, by].concat());
            assert_eq!(world.judged(&answer), Err(AnswerError::Responder), "{signer} {by:?}");
        }
    }
    // Of the issuer's name, with another key.
    let answer = world.ocsp(Some("V"), "other", WEEK);
    assert_eq!(world.judged(&answer), Err(AnswerError::Signature));
    // The delegate's certificate is not sent along.
    let answer = world.ocsp(Some("V"), "delegate", &[WEEK, &["-resp_no_certs"]].concat());
    assert_eq!(world.judged(&answer), Err(AnswerError::Responder));
}

#[test]
fn an_answer_holds_for_its_dates_and_its_certificate() {
    let world = World::new();
    let answer = world.ocsp(Some("V"), "middle", &["-nmin", "60"]);
    let at = |seconds| judge_ocsp(world.leaf(), &world.issuer, &answer, later(seconds));
    let until = at(0).unwrap().until;
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap();
    assert!((now + 3500..now + 3601).contains(&until), "{until} at {now}");
    assert!(at(3600 + 200).is_ok());
    assert_eq!(at(3600 + 400), Err(AnswerError::OutOfDate));
    assert!(at(-200).is_ok());
    assert_eq!(at(-400), Err(AnswerError::OutOfDate));
    // Another certificate of the same issuer; and the same number, of another issuer.
    let another = leaf(&world.middle, &["www.example.org"]);
    let of = |leaf: &[u8], issuer| judge_ocsp(leaf, issuer, &answer, UnixTime::now());
    let other = Err(AnswerError::OtherCertificate);
    assert_eq!(of(&another.chain[0], &world.issuer), other);
    let stranger = World::new();
    assert_eq!(of(world.leaf(), &stranger.issuer), other);
}

#[test]
fn an_answer_that_was_tampered_with_says_nothing_good() {
    let world = World::new();
    let answer = world.ocsp(Some("R"), "middle", WEEK);
    for length in 0..answer.len() {
        assert!(world.judged(&answer[..length]).is_err(), "{length}");
    }
    for at in 0..answer.len() {
        for bit in [1, 0x80] {
            let mut changed = answer.clone();
            changed[at] ^= bit;
            // What is outside of what is signed may change without harm, in the certificates.
            let judged = world.judged(&changed);
            assert!(matches!(judged, Err(_) | Ok(Status::Revoked)), "{at}: {judged:?}");
        }
    }
    for refusal in [1, 2, 3, 5, 6] {
        let judged = world.judged(&[0x30, 3, 0x0a, 1, refusal]);
        assert_eq!(judged, Err(AnswerError::Refused(refusal)));
    }
}
