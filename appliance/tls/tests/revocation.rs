//! What OCSP answers and lists are worth, made by the openssl command.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;

use common::{Authority, authority, authority_with, intermediate, leaf, leaf_with, openssl, write};
use rcgen::{
    CustomExtension, ExtendedKeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    date_time_ymd,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use weir_policy::snapshot::CertifiedKey;
use weir_tls::TrustAnchors;
use weir_tls::verify::revocation::{
    Answer, AnswerError, RevocationList, SOURCES_BOUND, Sources, Status, judge_ocsp, ocsp_request,
};
use weir_tls::verify::{BUNDLE_BOUND, Failure, Issuer, Judged};

/// A leaf below an intermediate; the index of that authority in `directory`.
struct World {
    directory: tempfile::TempDir,
    middle: Authority,
    server: CertifiedKey,
    anchors: TrustAnchors,
    issuer: Issuer,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = authority("Root", &PKCS_RSA_SHA256);
        let middle = intermediate("Middle", &root, |_| {});
        let server = leaf(&middle, &["www.example.org"]);
        let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
        let judged = anchors.judge(&ders(&server.chain), None, 2048, UnixTime::now());
        assert!(judged.verdict.is_verified(), "{}", judged.verdict);
        let path = directory.path();
        pem(path, "middle", &middle.pair);
        pem(path, "leaf", &server);
        Self { middle, server, anchors, issuer: issuer_of(&judged), directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn leaf(&self) -> &[u8] {
        &self.server.chain[0]
    }

    /// openssl-ca's index: `V` or `R`, or nothing at all.
    fn index(&self, status: Option<&str>) {
        let shown = openssl(self.path(), &["x509", "-noout", "-serial", "-in", "leaf.pem"]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        let serial = shown.trim().trim_start_matches("serial=").to_owned();
        let line = status.map_or(String::new(), |status| {
            let revoked = if status == "R" { "260101000000Z" } else { "" };
            format!("{status}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN=x\n")
        });
        write(self.path(), "index", line.as_bytes());
        write(self.path(), "index.attr", b"unique_subject = no\n");
    }

    /// openssl's answer to our own request, signed by `signer`.
    fn ocsp(&self, status: Option<&str>, signer: &str, options: &[&str]) -> Vec<u8> {
        self.index(status);
        write(self.path(), "request", &ocsp_request(self.leaf(), &self.issuer).unwrap());
        let (certificate, key) = (format!("{signer}.pem"), format!("{signer}.key"));
        let fixed = ["ocsp", "-index", "index", "-CA", "middle.pem", "-reqin", "request"];
        let signed = ["-rsigner", &certificate, "-rkey", &key, "-respout", "answer"];
        openssl(self.path(), &[&fixed[..], &signed, options].concat());
        std::fs::read(self.path().join("answer")).unwrap()
    }

    fn judged(&self, answer: &[u8]) -> Result<Status, AnswerError> {
        let judged = judge_ocsp(self.leaf(), &self.issuer, answer, UnixTime::now());
        judged.map(|answer| answer.status)
    }

    /// openssl's list of what the index has revoked, signed by the authority of this name.
    fn list(&self, status: Option<&str>, signer: &str, extensions: &str) -> Vec<u8> {
        self.index(status);
        let configuration = format!(
            "[ca]\ndefault_ca=one\n[one]\ndatabase=index\ndefault_md=sha256\n\
             default_crl_days=7\ncrlnumber=number\n\
             [extensions]\nauthorityKeyIdentifier=keyid:always\n{extensions}\n"
        );
        write(self.path(), "number", b"01\n");
        write(self.path(), "ca.cnf", configuration.as_bytes());
        let (certificate, key) = (format!("{signer}.pem"), format!("{signer}.key"));
        let fixed = ["ca", "-gencrl", "-config", "ca.cnf", "-crlexts", "extensions"];
        let signed = ["-cert", &certificate, "-keyfile", &key, "-out", "list.pem"];
        openssl(self.path(), &[&fixed[..], &signed].concat());
        openssl(self.path(), &["crl", "-in", "list.pem", "-outform", "DER", "-out", "list"]);
        std::fs::read(self.path().join("list")).unwrap()
    }

    fn listed(&self, list: &[u8]) -> Result<Status, AnswerError> {
        self.listed_of(&ders(&self.server.chain), list)
    }

    /// Of a server that sends this chain.
    fn listed_of(&self, chain: &[CertificateDer<'_>], list: &[u8]) -> Result<Status, AnswerError> {
        let issuer = issuer_of(&self.anchors.judge(chain, None, 2048, UnixTime::now()));
        let judged = judge_list(&chain[0], &issuer, list, UnixTime::now());
        judged.map(|answer| answer.status)
    }
}

fn judge_list(
    certificate: &[u8],
    issuer: &Issuer,
    list: &[u8],
    now: UnixTime,
) -> Result<Answer, AnswerError> {
    RevocationList::read(list, issuer)?.says(certificate, now)
}

/// The leaf's.
fn issuer_of(judged: &Judged) -> Issuer {
    judged.issued(&[]).next().unwrap().issuer.clone()
}

fn ders(chain: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    chain.iter().cloned().map(CertificateDer::from).collect()
}

/// NAME.pem and NAME.key.
fn pem(directory: &Path, name: &str, pair: &CertifiedKey) {
    let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
    write(directory, "one.der", &pair.chain[0]);
    openssl(directory, &["x509", "-inform", "DER", "-in", "one.der", "-out", &certificate]);
    write(directory, "one.der", pair.key.expose());
    openssl(directory, &["pkey", "-inform", "DER", "-in", "one.der", "-out", &key]);
}

fn later(seconds: i64) -> UnixTime {
    let now = UnixTime::now().as_secs().checked_add_signed(seconds).unwrap();
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(now))
}

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

/// The DER of an element.
fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
    [&[tag, 0x82], &length[..], contents].concat()
}

fn access(method: u8, url: &str) -> Vec<u8> {
    let method = [0x06, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, method];
    let url = [&[0x86, u8::try_from(url.len()).unwrap()], url.as_bytes()].concat();
    short(0x30, &[&method[..], &url].concat())
}

fn short(tag: u8, contents: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(contents.len()).unwrap()], contents].concat()
}

#[test]
fn what_a_certificate_names_to_ask_is_bounded_and_by_http() {
    let world = World::new();
    let urls = ["ldap://a/", "http://one.example/", "HTTP://two.example/", "http://three/"];
    let wrong = ["https://a/", "http://a/\r\nb", "http://b /"];
    let all = wrong
        .iter()
        .chain(&urls)
        .flat_map(|url| [access(1, url), access(2, url), access(3, url)].concat());
    let access = element(0x30, &all.collect::<Vec<_>>());
    let url = [&[0x86, 19][..], b"http://list.example"].concat();
    let name = short(0xa0, &short(0xa0, &url));
    let points = [
        short(0x30, &name),
        // For some reasons only; and by another issuer.
        short(0x30, &[&name[..], &[0x81, 2, 1, 0x40]].concat()),
        short(0x30, &[&name[..], &[0xa2, 2, 0x81, 0]].concat()),
    ];
    let points = short(0x30, &points.concat());
    let server = leaf_with(&world.middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, |params| {
        let of = CustomExtension::from_oid_content;
        params.custom_extensions = vec![
            of(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access.clone()),
            of(&[2, 5, 29, 31], points.clone()),
        ];
    });
    let sources = Sources::of(&server.chain[0]);
    let expected = ["http://one.example/", "HTTP://two.example/"];
    assert_eq!(SOURCES_BOUND, expected.len());
    assert_eq!(
        (&sources.responders[..], &sources.issuers[..]),
        (&expected.map(str::to_owned)[..], &expected.map(str::to_owned)[..])
    );
    assert_eq!(sources.lists, ["http://list.example"]);
    assert_eq!(Sources::of(world.leaf()), Sources::default());
    assert_eq!(Sources::of(b"no certificate"), Sources::default());
}

/// Its issuer is at this URL.
fn at(url: &'static str) -> impl FnOnce(&mut rcgen::CertificateParams) {
    move |params| {
        let contents = short(0x30, &access(2, url));
        let of = CustomExtension::from_oid_content;
        params.custom_extensions = vec![of(&[1, 3, 6, 1, 5, 5, 7, 1, 1], contents)];
    }
}

#[test]
fn the_first_issuer_that_nobody_sent_is_missing_where_its_place_is_named() {
    let root = authority("Root", &PKCS_ECDSA_P256_SHA256);
    let upper = intermediate("Upper", &root, |_| {});
    let middle = intermediate("Middle", &upper, at("http://ca.example/upper"));
    let server =
        leaf_with(&middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, at("http://ca.example/middle"));
    let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
    let missing = |chain: &[Vec<u8>]| anchors.missing_issuer(&ders(chain), UnixTime::now());
    let leaf = server.chain[0].clone();
    let first = missing(std::slice::from_ref(&leaf)).unwrap();
    assert_eq!(first.urls, ["http://ca.example/middle"]);
    assert!(first.is(middle.der()) && !first.is(upper.der()) && !first.is(b"nothing"));
    let second = missing(&[leaf.clone(), middle.der().to_vec()]).unwrap();
    assert_eq!(second.urls, ["http://ca.example/upper"]);
    let whole = [leaf.clone(), middle.der().to_vec(), upper.der().to_vec()];
    assert_eq!(missing(&whole), None);
    // One that signs itself lacks nobody; and one that says nothing of its issuer cannot be helped.
    assert_eq!(missing(&[authority("Self", &PKCS_ECDSA_P256_SHA256).der().to_vec()]), None);
    let other = authority("Other", &PKCS_ECDSA_P256_SHA256);
    let silent = common::leaf(&other, &["a.example"]);
    assert_eq!(missing(&silent.chain[..1]), None);
    // What was learnt is not missing any more.
    assert!(anchors.verify(&ders(&whole), None, 0, UnixTime::now()).is_verified());
    assert_eq!(missing(&[leaf]), None);
}

#[test]
fn an_issuer_is_found_in_whatever_file_its_authority_has_it() {
    let root = authority("Root", &PKCS_ECDSA_P256_SHA256);
    let upper = intermediate("Upper", &root, |_| {});
    let middle = intermediate("Middle", &upper, |_| {});
    let others: Vec<_> = ["One", "Two", "Three", "Four", "Five", "Six", "Seven"]
        .map(|name| authority(name, &PKCS_ECDSA_P256_SHA256))
        .into();
    let url = at("http://ca.example/");
    let server = leaf_with(&middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, url).chain.remove(0);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for (name, one) in [("root", &root), ("upper", &upper), ("middle", &middle)] {
        pem(path, name, &one.pair);
    }
    for (number, one) in others.iter().enumerate() {
        pem(path, &format!("other{number}"), &one.pair);
    }
    let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
    let now = UnixTime::now();
    let missing = anchors.missing_issuer(&ders(std::slice::from_ref(&server)), now).unwrap();
    let found = |file: &[u8]| missing.found_in(file);
    let message = |names: &[&str], form: &str| {
        let files: Vec<String> = names.iter().map(|name| format!("{name}.pem")).collect();
        let files = files.iter().flat_map(|file| ["-certfile", file.as_str()]);
        let files: Vec<&str> = files.collect();
        let fixed = ["crl2pkcs7", "-nocrl", "-outform", form, "-out", "message"];
        openssl(path, &[&fixed[..], &files].concat());
        std::fs::read(path.join("message")).unwrap()
    };
    let text = |names: &[&str]| -> Vec<u8> {
        names
            .iter()
            .flat_map(|name| std::fs::read(path.join(format!("{name}.pem"))).unwrap())
            .collect()
    };
    let middle_alone = ders(&[middle.der().to_vec()]);
    let both = ders(&[middle.der().to_vec(), upper.der().to_vec()]);
    assert_eq!(found(middle.der()), middle_alone);
    for form in ["DER", "PEM"] {
        assert_eq!(found(&message(&["middle"], form)), middle_alone, "{form}");
        // In any order, and beside what is no part of the path.
        assert_eq!(found(&message(&["upper", "other0", "middle"], form)), both, "{form}");
        assert_eq!(found(&message(&["upper", "other0"], form)), [], "{form}");
        let with_root = found(&message(&["root", "upper", "middle"], form));
        assert_eq!(with_root[..2], both);
    }
    assert_eq!(found(&text(&["middle"])), middle_alone);
    assert_eq!(found(&text(&["other1", "upper", "middle"])), both);
    let windows = String::from_utf8(text(&["middle"])).unwrap().replace('\n', "\r\n");
    assert_eq!(found(format!("Subject: Middle\r\n{windows}").as_bytes()), middle_alone);
    // With it the chain verifies.
    let chain: Vec<_> =
        ders(std::slice::from_ref(&server)).into_iter().chain(both.clone()).collect();
    assert!(anchors.verify(&chain, None, 0, now).is_verified());

    // Eight are looked at.
    let many = ["other0", "other1", "other2", "other3", "other4", "other5", "other6", "middle"];
    assert_eq!(found(&message(&many, "DER")), middle_alone);
    assert_eq!(many.len(), BUNDLE_BOUND);
    let more = [&many[..7], &["upper", "middle"]].concat();
    assert_eq!(found(&message(&more, "DER")), []);
    // Cut short, up to the line that ends it, a file lacks the last one at least.
    for file in [message(&["upper", "middle"], "DER"), text(&["upper", "middle"])] {
        for length in (0..file.len() - "-----END CERTIFICATE-----\n".len()).step_by(7) {
            assert!(found(&file[..length]).len() < 2, "{length}");
        }
    }
    for nothing in ["", "-----BEGIN ", "-----BEGIN A-----", "-----BEGIN A----------END A-----", "0"]
    {
        assert_eq!(found(nothing.as_bytes()), [], "{nothing}");
    }
}

#[test]
fn an_issuer_that_is_known_under_another_key_or_no_longer_valid_is_missing() {
    let root = authority("Root", &PKCS_ECDSA_P256_SHA256);
    let old = intermediate("Middle", &root, |params| {
        params.not_after = date_time_ymd(2040, 1, 1);
    });
    let new = intermediate("Middle", &root, |_| {});
    let below = |middle: &Authority| {
        let url = at("http://ca.example/middle");
        leaf_with(middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, url).chain
    };
    let (before, after) = (below(&old), below(&new));
    // An anchor of the intermediate's name, too.
    let stranger = authority("Middle", &PKCS_ECDSA_P256_SHA256);
    let store = [root.der().to_vec(), stranger.der().to_vec()];
    let anchors = TrustAnchors::new(&store, false).unwrap();
    let now = UnixTime::now();
    let is_verified = |chain: &[Vec<u8>]| anchors.verify(&ders(chain), None, 0, now).is_verified();
    let missing = |chain: &[Vec<u8>], now| anchors.missing_issuer(&ders(chain), now);
    assert!(missing(&before[..1], now).is_some());
    assert!(is_verified(&before));
    assert_eq!(missing(&before[..1], now), None);

    // Another key under the same name.
    assert!(!is_verified(&after[..1]));
    let found = missing(&after[..1], now).unwrap();
    assert!(found.is(new.der()) && !found.is(old.der()) && !found.is(stranger.der()));
    assert!(is_verified(&after) && is_verified(&after[..1]) && is_verified(&before[..1]));
    assert_eq!(missing(&after[..1], now), None);

    // 2050-01-01: the old one is known, and no longer valid.
    let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(2_524_608_000));
    let verdict = anchors.verify(&ders(&before[..1]), None, 0, later);
    assert_eq!(verdict.failures().collect::<Vec<_>>(), [Failure::IntermediateDates]);
    let found = missing(&before[..1], later).unwrap();
    assert!(!found.is(old.der()));
    // What the server sends is as it is.
    assert_eq!(missing(&before, later), None);
}
