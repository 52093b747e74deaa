//! Lists are fetched and verified once, and kept within a bound.

use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, KeyIdMethod, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use weir_tls::verify::revocation::RevocationList;

use super::judging::today;
use super::*;

/// Certificates of one authority, which has its lists at `http://NAME.example/`.
struct Listed {
    issuer: Issuer<'static, KeyPair>,
    anchors: TrustAnchors,
}

impl Listed {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
        Self { issuer: Issuer::new(params, key), anchors }
    }

    fn certificate(&self, number: u64, list: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(number));
        let uris = vec![format!("http://{list}.example/")];
        params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }

    /// Of these serial numbers.
    fn list(&self, numbers: impl Iterator<Item = u64>) -> Bytes {
        let revoked = |number| RevokedCertParams {
            serial_number: SerialNumber::from(number),
            revocation_time: date_time_ymd(2026, 6, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 6, 1),
            next_update: date_time_ymd(2026, 7, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: numbers.map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Bytes(params.signed_by(&self.issuer).unwrap().der().to_vec())
    }

    /// What is found of a certificate, and what was fetched for it, which is answered so.
    async fn found(
        &self,
        (authorities, agent): &mut (Authorities, Agent),
        certificate: &CertificateDer<'static>,
        list: &Bytes,
    ) -> (Revocation, Option<Fetch>) {
        let judged = self.anchors.judge(std::slice::from_ref(certificate), None, 0, today(12));
        let issued: Vec<_> = judged.issued(certificate).collect();
        let (found, fetched) =
            tokio::join!(authorities.revocation(&issued, None, today(12), soon()), async {
                tokio::task::yield_now().await;
                let Ok(FromEngine::Fetch { number, fetch }) = agent.try_recv() else { return None };
                authorities.fetching.answered(number, Ok(list.clone()));
                Some(fetch)
            });
        (found.revocation, fetched)
    }
}

const GOOD: Revocation = Revocation::Good(RevocationSource::List);
const REVOKED: Revocation = Revocation::Revoked(RevocationSource::List);

// Lists are read beside the runtime: its clock goes on meanwhile only where it is the real one.
#[tokio::test]
async fn one_list_says_of_all_its_authority_s_certificates_and_is_fetched_once() {
    let (mut world, listed) = (authorities(), Listed::new());
    let list = listed.list((0..500).map(|number| number * 2 + 1));
    let mut fetched = 0;
    for number in 1..10 {
        let certificate = listed.certificate(number, "one");
        let (found, asked) = listed.found(&mut world, &certificate, &list).await;
        assert_eq!(found, if number % 2 == 1 { REVOKED } else { GOOD }, "{number}");
        fetched += usize::from(asked.is_some());
    }
    assert_eq!(fetched, 1);
    // At the same place, another authority has another.
    let other = Listed::new();
    let certificate = other.certificate(1, "one");
    let (found, asked) = other.found(&mut world, &certificate, &other.list(1..2)).await;
    assert_eq!((found, asked), (REVOKED, Some(super::list("one"))));
}

#[tokio::test]
async fn a_list_that_is_not_believed_is_kept_as_long_as_a_failure() {
    let (mut world, listed) = (authorities(), Listed::new());
    let (strangers, own) = (Listed::new().list(1..3), listed.list(1..2));
    let unknown = Revocation::Unknown(AnswerError::Signature.into());
    for (number, asked) in [(1, true), (2, false), (3, false)] {
        let certificate = listed.certificate(number, "one");
        let (found, fetched) = listed.found(&mut world, &certificate, &strangers).await;
        assert_eq!((found, fetched.is_some()), (unknown, asked), "{number}");
    }
    // Or until what may be fetched has changed.
    world.0.forget_failures();
    let certificate = listed.certificate(1, "one");
    let (found, fetched) = listed.found(&mut world, &certificate, &own).await;
    assert_eq!((found, fetched.is_some()), (REVOKED, true));
}

#[tokio::test]
async fn lists_are_kept_within_their_bound_and_the_one_used_least_goes() {
    let (mut world, listed) = (authorities(), Listed::new());
    let list = listed.list(1000..2000);
    let certificate = |number, name| listed.certificate(number, name);
    let judged = |one: &CertificateDer<'static>| {
        listed.anchors.judge(std::slice::from_ref(one), None, 0, today(12))
    };
    let first = certificate(1, "one");
    let judged = judged(&first);
    let issuer = judged.issued(&first).next().unwrap().issuer;
    let weight = RevocationList::read(&list.0, issuer).unwrap().weight();
    world.0.lists = Lists::bounded(weight * 2);
    for (number, name, anew) in [
        (1, "one", true),
        (2, "two", true),
        (3, "one", false),
        (4, "three", true),
        (5, "one", false),
        (6, "two", true),
        (7, "one", false),
        (8, "three", true),
    ] {
        let (found, asked) = listed.found(&mut world, &certificate(number, name), &list).await;
        assert_eq!((found, asked.is_some()), (GOOD, anew), "{number}");
    }
    // Larger than all may be together.
    world.0.lists = Lists::bounded(weight - 1);
    for number in [11, 12] {
        let (found, asked) = listed.found(&mut world, &certificate(number, "one"), &list).await;
        assert_eq!((found, asked.is_some()), (GOOD, true));
    }
}
