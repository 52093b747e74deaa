//! Which of several answers counts; what an authority renewed.

use rcgen::SigningKey as _;

use super::*;

/// 2026-06-15 at this time.
pub fn today(hour: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_781_481_600 + hour * 3600))
}

/// An element of DER.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
    let head = match (contents.len(), length) {
        (..0x80, [_, low]) => vec![tag, low],
        (..0x100, [_, low]) => vec![tag, 0x81, low],
        (_, [high, low]) => vec![tag, 0x82, high, low],
    };
    [head, contents].concat()
}

pub const GOOD: &[u8] = &[0x80, 0];
pub const REVOKED: &[u8] = &[0xa1, 17, 0x18, 15];

/// What the intermediate's key says of the leaf: from this time of 2026-06-15 on, to that of a day of that
/// month.
fn answer(world: &World, status: &[u8], from: &str, until: &str) -> Vec<u8> {
    let judged = world.anchors.judge(&chain(world), None, 0, today(12));
    let issued = judged.issued(&world.leaf).next().unwrap();
    answer_of(issued, &world.middle_key, status, from, until)
}

/// What its issuer says of a certificate.
pub fn answer_of(
    Issued { certificate, issuer }: Issued<'_>,
    key: &KeyPair,
    status: &[u8],
    from: &str,
    until: &str,
) -> Vec<u8> {
    let request = ocsp_request(certificate, issuer).unwrap();
    // Four sequences of less than 128 bytes, then the certificate's identifier: its algorithm, the hash
    // of the issuer's name, and that of its key.
    let identifier = &request[8..];
    let key_hash = &identifier[2 + 11 + 22..][..22];
    let revoked_at: &[u8] = if status == REVOKED { b"20260615090000Z" } else { b"" };
    let time = |text: &str| element(0x18, &[format!("202606{text}00Z").as_bytes()]);
    let made = time(&format!("15{from}"));
    let next = element(0xa0, &[&time(until)]);
    let single = element(0x30, &[identifier, status, revoked_at, &made, &next]);
    let singles = element(0x30, &[&single]);
    let data = element(0x30, &[&element(0xa2, &[key_hash]), &made, &singles]);
    let ecdsa_with_sha256 = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let signature = element(3, &[&[0], &key.sign(&data).unwrap()]);
    let basic = element(0x30, &[&data, &ecdsa_with_sha256, &signature]);
    let kind = [6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
    let bytes = element(0x30, &[&kind, &element(4, &[&basic])]);
    element(0x30, &[&[0x0a, 1, 0], &element(0xa0, &[&bytes])])
}

fn chain(world: &World) -> [CertificateDer<'static>; 2] {
    [world.leaf.clone(), world.middle.clone()]
}

async fn asks(
    authorities: &Authorities,
    world: &World,
    staple: Option<&[u8]>,
    now: UnixTime,
) -> Revocation {
    let chain = chain(world);
    let judged = world.anchors.judge(&chain, None, 0, now);
    authorities.answer(question(&judged, &chain, staple), now, soon()).await
}

/// Servers staple nothing when they resume a session.
#[tokio::test(start_paused = true)]
async fn a_staple_that_is_believed_is_known_to_sessions_without_one() {
    let ((authorities, mut agent), world) = (authorities(), world());
    let good = answer(&world, GOOD, "1100", "151300");
    let stapled = Revocation::Good(RevocationSource::Staple);
    assert_eq!(asks(&authorities, &world, Some(&good), today(12)).await, stapled);
    assert_eq!(asks(&authorities, &world, None, today(12)).await, stapled);
    assert!(agent.try_recv().is_err());
    // No longer than it holds.
    let (later, ()) = tokio::join!(asks(&authorities, &world, None, today(14)), async {
        tokio::task::yield_now().await;
        let (number, _) = asked(&mut agent);
        authorities.fetching.answered(number, Err(FetchFailure::Name));
    });
    assert_eq!(later, Revocation::Unknown(Unavailable::Failed(FetchFailure::Name).into()));
}

/// Whoever stole the key has one of before, which holds for a week.
#[tokio::test(start_paused = true)]
async fn an_earlier_staple_does_not_hide_that_a_certificate_is_revoked() {
    let ((authorities, mut agent), world) = (authorities(), world());
    let earlier = answer(&world, GOOD, "1000", "220000");
    let revoked = answer(&world, REVOKED, "1100", "151300");
    let (found, ()) = tokio::join!(asks(&authorities, &world, None, today(12)), async {
        tokio::task::yield_now().await;
        let (number, _) = asked(&mut agent);
        authorities.fetching.answered(number, Ok(Bytes(revoked)));
    });
    let by_ocsp = Revocation::Revoked(RevocationSource::Ocsp);
    assert_eq!(found, by_ocsp);
    assert_eq!(asks(&authorities, &world, Some(&earlier), today(12)).await, by_ocsp);
    assert!(agent.try_recv().is_err());

    // When that answer does not hold any more, it is asked again, and the earlier one is none still.
    let (later, ()) = tokio::join!(asks(&authorities, &world, Some(&earlier), today(14)), async {
        tokio::task::yield_now().await;
        let (number, _) = asked(&mut agent);
        authorities.fetching.answered(number, Err(FetchFailure::Name));
    });
    let unknown = Revocation::Unknown(Unavailable::Failed(FetchFailure::Name).into());
    assert_eq!(later, unknown);
    assert_eq!(asks(&authorities, &world, Some(&earlier), today(14)).await, unknown);
    // One of afterwards counts: it was on hold.
    let released = answer(&world, GOOD, "1330", "152000");
    let stapled = Revocation::Good(RevocationSource::Staple);
    assert_eq!(asks(&authorities, &world, Some(&released), today(14)).await, stapled);
}

#[tokio::test(start_paused = true)]
async fn an_intermediate_that_is_known_and_no_longer_valid_is_fetched_anew() {
    let (authorities, mut agent) = authorities();
    let World { anchors, middle, renewed, leaf, .. } = world();
    let whole = [leaf.clone(), middle];
    assert!(anchors.verify(&whole, None, 0, UnixTime::now()).is_verified());
    let in_2050 = UnixTime::since_unix_epoch(Duration::from_secs(2_524_608_000));
    let completed =
        authorities.complete(&anchors, vec![leaf.clone()], client("10.0.0.1"), in_2050, soon());
    let (chain, ()) = tokio::join!(completed, async {
        tokio::task::yield_now().await;
        let (number, _) = asked(&mut agent);
        authorities.fetching.answered(number, Ok(Bytes(renewed.to_vec())));
    });
    assert_eq!(chain, [leaf.clone(), renewed]);
    assert!(anchors.verify(&chain, None, 0, in_2050).is_verified());
    assert!(anchors.verify(&[leaf], None, 0, in_2050).is_verified(), "learnt");
    // Sent by the server, an old one is the server's own fault.
    let sent =
        authorities.complete(&anchors, whole.to_vec(), client("10.0.0.1"), in_2050, soon()).await;
    assert_eq!(sent, whole);
    assert!(agent.try_recv().is_err());
}
