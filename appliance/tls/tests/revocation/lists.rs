//! Lists of revoked certificates.

use super::*;

#[test]
fn a_list_that_the_issuer_signed_says_good_or_revoked() {
    let world = World::new();
    assert_eq!(world.listed(&world.list(Some("V"), "middle", "")), Ok(Status::Good));
    let list = world.list(Some("R"), "middle", "");
    assert_eq!(world.listed(&list), Ok(Status::Revoked));
    let at = |seconds| judge_list(world.leaf(), &world.issuer, &list, later(seconds));
    let week = 7 * 86_400;
    let until = RevocationList::read(&list, &world.issuer).unwrap().next();
    assert!(matches!(at(week - 60), Ok(Answer { status: Status::Revoked, .. })));
    assert!(at(0).unwrap().until < until, "a day at most");
    assert_eq!(at(week + 400), Err(AnswerError::OutOfDate));
    assert_eq!(at(-400), Err(AnswerError::OutOfDate));
    for length in 0..list.len() {
        assert!(world.listed(&list[..length]).is_err(), "{length}");
    }
    for at in 0..list.len() {
        let mut changed = list.clone();
        changed[at] ^= 1;
        assert!(world.listed(&changed).is_err(), "{at}");
    }
}

#[test]
fn a_path_has_each_certificate_below_its_anchor_with_who_issued_it() {
    let root = authority("Root", &PKCS_RSA_SHA256);
    let upper = intermediate("Upper", &root, |_| {});
    let middle = intermediate("Middle", &upper, |_| {});
    let server = leaf(&middle, &["www.example.org"]).chain.remove(0);
    let chain = [server.clone(), middle.der().to_vec(), upper.der().to_vec()];
    let judged = |anchor: &Authority, chain: &[Vec<u8>]| {
        let anchors = TrustAnchors::new(&[anchor.der().to_vec()], false).unwrap();
        anchors.judge(&ders(chain), None, 2048, UnixTime::now())
    };
    let whole = judged(&root, &chain);
    let issued: Vec<_> = whole.issued(&server).collect();
    assert_eq!(issued.iter().map(|one| one.certificate).collect::<Vec<_>>(), chain);
    // Each one's issuer is the one whose answers are believed of it.
    let world = World::new();
    for (one, by) in issued.iter().zip([&middle, &upper, &root]) {
        pem(world.path(), "signer", &by.pair);
        write(world.path(), "number", b"01\n");
        write(world.path(), "index", b"");
        let configuration = "[ca]\ndefault_ca=one\n[one]\ndatabase=index\ndefault_md=sha256\n\
                             default_crl_days=7\ncrlnumber=number\n";
        write(world.path(), "ca.cnf", configuration.as_bytes());
        let made = ["ca", "-gencrl", "-config", "ca.cnf", "-cert", "signer.pem"];
        let signed = ["-keyfile", "signer.key", "-out", "list.pem"];
        openssl(world.path(), &[&made[..], &signed].concat());
        let list = openssl(world.path(), &["crl", "-in", "list.pem", "-outform", "DER"]).stdout;
        let of = |issuer| judge_list(one.certificate, issuer, &list, UnixTime::now());
        assert_eq!(of(one.issuer).unwrap().status, Status::Good);
        for other in issued.iter().filter(|other| other.issuer != one.issuer) {
            assert_eq!(of(other.issuer), Err(AnswerError::OtherCertificate));
        }
    }
    // Up to the anchor, whatever is sent above it; nothing of what the store has itself.
    assert_eq!(judged(&middle, &chain).issued(&server).count(), 1);
    let own = TrustAnchors::new(std::slice::from_ref(&server), false).unwrap();
    let own = own.judge(&ders(&chain), None, 2048, UnixTime::now());
    assert!(own.verdict.is_verified() && own.issued(&server).next().is_none());
    let broken = judged(&authority("Other", &PKCS_RSA_SHA256), &chain);
    assert!(broken.issued(&server).next().is_none());
}

/// Whoever has the leaf's key may send what he likes beside it.
#[test]
fn a_namesake_of_the_issuer_does_not_hide_that_a_certificate_is_revoked() {
    let world = World::new();
    let list = world.list(Some("R"), "middle", "");
    let namesake = |from, until| {
        authority_with("Middle", &PKCS_ECDSA_P256_SHA256, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), until);
        })
    };
    for namesake in [
        namesake(2001, date_time_ymd(2002, 1, 1)),
        namesake(4000, date_time_ymd(4001, 1, 1)),
        namesake(2001, date_time_ymd(4001, 1, 1)),
    ] {
        let namesake = CertificateDer::from(namesake.der().to_vec());
        let whole = ders(&world.server.chain);
        for at in 1..=whole.len() {
            let mut chain = whole.clone();
            chain.insert(at, namesake.clone());
            let judged = world.anchors.judge(&chain, None, 2048, UnixTime::now());
            assert!(judged.verdict.is_verified(), "{at}: {}", judged.verdict);
            assert_eq!(world.listed_of(&chain, &list), Ok(Status::Revoked), "{at}");
        }
    }
}

#[test]
fn a_list_of_others_or_of_part_of_the_certificates_says_nothing() {
    let world = World::new();
    let (other, namesake) =
        (authority("Other", &PKCS_ECDSA_P256_SHA256), authority("Middle", &PKCS_ECDSA_P256_SHA256));
    pem(world.path(), "other", &other.pair);
    pem(world.path(), "namesake", &namesake.pair);
    let list =
        |signer: &str, extensions: &str| world.listed(&world.list(Some("V"), signer, extensions));
    assert_eq!(list("other", ""), Err(AnswerError::OtherCertificate));
    assert_eq!(list("namesake", ""), Err(AnswerError::Signature));
    let point = |what: &str| {
        let section = format!("[point]\nfullname=URI:http://list.example/\n{what}");
        format!("issuingDistributionPoint=critical,@point\n{section}")
    };
    assert_eq!(list("middle", &point("onlyuser=TRUE")), Ok(Status::Good));
    assert_eq!(list("middle", &point("onlyCA=TRUE")), Err(AnswerError::OtherCertificate));
    // One that names where its list is: elsewhere, or there.
    let mut named = World::new();
    for (url, expected) in [
        ("http://list.example", Err(AnswerError::OtherCertificate)),
        ("http://list.example/", Ok(Status::Good)),
    ] {
        let name = [&[0x86, u8::try_from(url.len()).unwrap()], url.as_bytes()].concat();
        let points = short(0x30, &short(0x30, &short(0xa0, &short(0xa0, &name))));
        named.server =
            leaf_with(&named.middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, |params| {
                let point = CustomExtension::from_oid_content(&[2, 5, 29, 31], points);
                params.custom_extensions = vec![point];
            });
        pem(named.path(), "leaf", &named.server);
        let list = named.list(Some("V"), "middle", &point("onlyuser=TRUE"));
        assert_eq!(named.listed(&list), expected, "{url}");
    }
    let indirect = list("middle", &point("indirectCRL=TRUE"));
    assert_eq!(indirect, Err(AnswerError::CriticalExtension));
    let some = list("middle", &point("onlysomereasons=keyCompromise"));
    assert_eq!(some, Err(AnswerError::CriticalExtension));
    let unknown = list("middle", "1.2.3.4=critical,DER:0500");
    assert_eq!(unknown, Err(AnswerError::CriticalExtension));
    let delta = list("middle", "2.5.29.27=critical,DER:020101");
    assert_eq!(delta, Err(AnswerError::CriticalExtension));
}

/// What is kept of it is its numbers.
#[test]
fn a_long_list_is_verified_once_and_takes_no_more_memory_than_it_had_bytes() {
    use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
    let world = World::new();
    let date = date_time_ymd(2026, 1, 1);
    let revoked = |number: u32| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&number.to_be_bytes()),
        revocation_time: date,
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date,
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: (1..=20_000).map(|number| revoked(number * 3)).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(&world.middle.issuer).unwrap();
    let read = RevocationList::read(list.der(), &world.issuer).unwrap();
    assert!(read.weight() < list.der().len() / 2, "{} of {}", read.weight(), list.der().len());
    for number in [1u32, 2, 3, 4, 59_997, 60_000, 60_001, 60_003] {
        let server = leaf_with(&world.middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, |params| {
            params.serial_number = Some(SerialNumber::from_slice(&number.to_be_bytes()));
        });
        let is_listed = number.is_multiple_of(3) && number <= 60_000;
        let expected = if is_listed { Status::Revoked } else { Status::Good };
        let says = read.says(&server.chain[0], UnixTime::now()).unwrap();
        assert_eq!(says.status, expected, "{number}");
    }
}

#[test]
fn a_list_of_an_authority_that_may_sign_none_says_nothing() {
    use rcgen::KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};
    let mut world = World::new();
    let root = authority("Root", &PKCS_RSA_SHA256);
    let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
    for (usages, expected) in [
        (vec![KeyCertSign], Err(AnswerError::Responder)),
        (vec![KeyCertSign, DigitalSignature], Err(AnswerError::Responder)),
        (vec![CrlSign, KeyCertSign, DigitalSignature], Ok(Status::Revoked)),
        (Vec::new(), Ok(Status::Revoked)),
    ] {
        let middle = intermediate("Middle", &root, |params| params.key_usages = usages.clone());
        world.server = leaf(&middle, &["www.example.org"]);
        pem(world.path(), "middle", &middle.pair);
        pem(world.path(), "leaf", &world.server);
        let judged = anchors.judge(&ders(&world.server.chain), None, 2048, UnixTime::now());
        let list = world.list(Some("R"), "middle", "");
        let judged = judge_list(world.leaf(), &issuer_of(&judged), &list, UnixTime::now());
        assert_eq!(judged.map(|answer| answer.status), expected, "{usages:?}");
    }
}
