//! Which certificates of a path are asked about, and which of the answers decides.

use super::judging::{GOOD, REVOKED, answer_of, today};
use super::*;

/// A path with so many authorities between the leaf and the trust anchor. Of each certificate says
/// `http://N.example/`, where the leaf is 0.
struct Path {
    leaf: CertificateDer<'static>,
    judged: Judged,
    /// Of the issuers, upwards from the leaf's.
    keys: Vec<KeyPair>,
}

impl Path {
    fn new(between: usize) -> Self {
        let path = Self::made(between);
        assert!(path.judged.verdict.is_verified(), "{}", path.judged.verdict);
        path
    }

    fn verdict(between: usize) -> Verdict {
        Self::made(between).judged.verdict
    }

    fn made(between: usize) -> Self {
        let params = |place: usize| {
            let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("Place {place}"));
            let url = format!("http://{place}.example/");
            let method = [6, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 1];
            let url = [&[0x86, url.len() as u8], url.as_bytes()].concat();
            let one = [&[0x30, (method.len() + url.len()) as u8], &method[..], &url].concat();
            let all = [&[0x30, one.len() as u8], &one[..]].concat();
            params.custom_extensions =
                vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], all)];
            if place > 0 {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }
            params
        };
        let mut keys: Vec<_> = (0..between + 2).map(|_| KeyPair::generate().unwrap()).collect();
        let root = params(between + 1).self_signed(&keys[between + 1]).unwrap();
        let mut chain: Vec<_> = (0..=between)
            .map(|place| {
                let above = Issuer::new(params(place + 1), &keys[place + 1]);
                params(place).signed_by(&keys[place], &above).unwrap().der().clone()
            })
            .collect();
        keys.remove(0);
        let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
        let judged = anchors.judge(&chain, None, 0, today(12));
        Self { leaf: chain.remove(0), judged, keys }
    }

    fn issued(&self) -> Vec<Issued<'_>> {
        self.judged.issued(&self.leaf).collect()
    }

    fn answer(&self, place: usize, status: &[u8]) -> Bytes {
        Bytes(answer_of(self.issued()[place], &self.keys[place], status, "1100", "151300"))
    }

    /// What is found where nothing is known yet and these are the answers: `None` is none in time.
    async fn found(&self, answers: &[Option<&[u8]>]) -> Found {
        let (authorities, mut agent) = authorities();
        let path = self.issued();
        let asking = authorities.revocation(&path, None, today(12), soon());
        let (found, ()) = tokio::join!(asking, async {
            tokio::task::yield_now().await;
            // All are asked before the first answers.
            let fetches: Vec<_> = answers.iter().map(|_| asked(&mut agent)).collect();
            assert!(agent.try_recv().is_err());
            for (number, fetch) in fetches {
                let host = fetch.url().host().split('.').next().unwrap().to_owned();
                let place: usize = host.parse().unwrap();
                if let Some(status) = answers[place] {
                    authorities.fetching.answered(number, Ok(self.answer(place, status)));
                }
            }
        });
        found
    }
}

const BY_OCSP: Revocation = Revocation::Revoked(RevocationSource::Ocsp);

#[tokio::test(start_paused = true)]
async fn every_certificate_below_the_anchor_is_asked_about_at_once_and_a_revoked_one_decides() {
    let path = Path::new(2);
    assert_eq!(path.issued().len(), 3);
    let good = Some(GOOD);
    let found = path.found(&[good, good, good]).await;
    assert_eq!(found.revocation, Revocation::Good(RevocationSource::Ocsp));
    assert_eq!(found.record(&path.issued()), RevocationRecord::Good(RevocationSource::Ocsp));
    for place in 0..3 {
        let mut answers = [good; 3];
        answers[place] = Some(REVOKED);
        assert_eq!(path.found(&answers).await, Found { revocation: BY_OCSP, place });
        // Whether the others answer or not.
        let mut answers = [None; 3];
        answers[place] = Some(REVOKED);
        let started = Instant::now();
        let found = path.found(&answers).await;
        assert_eq!(found, Found { revocation: BY_OCSP, place });
        assert_eq!(started.elapsed(), Duration::ZERO);
        let record = found.record(&path.issued()).to_string();
        let expected = match place {
            0 => "revoked, by OCSP".to_owned(),
            _ => format!("intermediate Place {place} revoked, by OCSP"),
        };
        assert_eq!(record, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_which_nobody_says_anything_makes_the_path_unknown() {
    let (path, good) = (Path::new(2), Some(GOOD));
    let unknown = Revocation::Unknown(Unavailable::Slow.into());
    for (answers, place) in [
        ([None, None, None], 0),
        ([good, None, None], 1),
        ([good, good, None], 2),
        ([None, good, good], 0),
    ] {
        let started = Instant::now();
        let found = path.found(&answers).await;
        assert_eq!(found, Found { revocation: unknown, place });
        // One time for all.
        assert_eq!(started.elapsed(), WITHIN);
    }
    let found = path.found(&[good, None, good]).await;
    let record = found.record(&path.issued()).to_string();
    assert_eq!(record, "unknown of intermediate Place 1: not fetched: not in time");
}

/// Under a revoked intermediate its thief can put others of his own, which all say that they are good.
#[tokio::test(start_paused = true)]
async fn of_the_longest_path_that_verifies_every_certificate_is_asked_about() {
    let (path, good) = (Path::new(MOST_ASKED - 1), Some(GOOD));
    assert_eq!(path.issued().len(), MOST_ASKED);
    let mut answers = [good; MOST_ASKED];
    let found = path.found(&answers).await;
    assert_eq!(found.revocation, Revocation::Good(RevocationSource::Ocsp));
    answers[MOST_ASKED - 1] = Some(REVOKED);
    assert_eq!(path.found(&answers).await, Found { revocation: BY_OCSP, place: MOST_ASKED - 1 });
}

#[test]
fn no_path_verifies_that_is_longer_than_what_is_asked_about() {
    assert!(!Path::verdict(MOST_ASKED).is_verified());
}

/// What is known of an authority serves all who are below it; and a staple is of the leaf alone.
#[tokio::test(start_paused = true)]
async fn an_intermediate_that_is_known_is_asked_about_no_more() {
    let (authorities, mut agent) = authorities();
    let path = Path::new(1);
    let issued = path.issued();
    let ask = |staple| authorities.revocation(&issued, staple, today(12), soon());
    let (found, ()) = tokio::join!(ask(None), async {
        tokio::task::yield_now().await;
        for _ in 0..2 {
            let (number, fetch) = asked(&mut agent);
            let place = usize::from(fetch.url().host() == "1.example");
            authorities.fetching.answered(number, Ok(path.answer(place, GOOD)));
        }
    });
    assert_eq!(found.revocation, Revocation::Good(RevocationSource::Ocsp));
    let staple = path.answer(0, GOOD).0;
    assert_eq!(ask(Some(&staple)).await.revocation, Revocation::Good(RevocationSource::Staple));
    assert!(agent.try_recv().is_err());
}
