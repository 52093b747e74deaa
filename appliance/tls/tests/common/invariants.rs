//! What holds for the forger, the verifier, the modern stack's legs and what authorities serve, whatever
//! bytes a peer sends. The fuzz targets `certificate`, `chain`, `leg`, `revocation` and `bundle` run these
//! on made-up input, `tests/seeds.rs` on the seeds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, UnixTime};
use weir_policy::SecretBytes;
use weir_policy::snapshot::CertifiedKey;
use weir_tls::verify::revocation::{RevocationList, Status, judge_ocsp};
use weir_tls::verify::{BUNDLE_BOUND, Failure};
use weir_tls::{
    Forger, LeafKeys, LeafKind, LegKey, ModernStack, Names, Signer, TrustAnchors, Verdict,
};

/// 2026-11-24, when the seeds were made.
pub const NOW: u64 = 1_795_500_000;

static FORGER: LazyLock<Forger> = LazyLock::new(|| {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        CertifiedKey { chain: vec![certificate], key: SecretBytes::new(key.serialize_der()) }
    };
    let leaf_keys = LeafKeys::generate().unwrap();
    Forger::new(&authority("Signing"), &authority("Untrusted"), leaf_keys).unwrap()
});

/// `input` is a server's leaf certificate. What can be copied can be copied for both keys, the copy
/// is a certificate, and a copy of it is as long but for what is made anew. Whether it was copied.
pub fn certificate(input: &[u8]) -> bool {
    let ecdsa = FORGER.forge(input, Signer::Trusted, LeafKind::Ecdsa);
    let rsa = FORGER.forge(input, Signer::Untrusted, LeafKind::Rsa);
    assert_eq!(ecdsa.is_ok(), rsa.is_ok());
    let Ok(forged) = ecdsa else { return false };
    let copy = &forged.chain()[0];
    let again = FORGER.forge(copy, Signer::Trusted, LeafKind::Ecdsa).expect("a copy can be copied");
    // Only the signature's length may differ: two INTEGERs of up to 33 bytes.
    assert!(again.chain()[0].len().abs_diff(copy.len()) <= 8, "nothing is added or lost");
    true
}

/// `input` is what a peer sends before any key is agreed. It makes neither leg tell plaintext, and a leg
/// that has failed stays so. Whether the leg to a client had an answer, and that to a server took all.
pub fn leg(input: &[u8]) -> (bool, bool) {
    static KEY: LazyLock<Arc<LegKey>> = LazyLock::new(|| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["server.test".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        let key = SecretBytes::new(key.serialize_der());
        Arc::new(LegKey::new(&CertifiedKey { chain: vec![certificate], key }).unwrap())
    });
    static STACK: LazyLock<ModernStack> = LazyLock::new(|| ModernStack::new().unwrap());
    let address = SocketAddr::from(([192, 0, 2, 1], 443));
    let mut to_client = STACK.client_leg(&KEY, Verdict::default(), None).unwrap();
    let mut to_server = STACK.server_leg(Some("server.test"), address, Vec::new()).unwrap();
    to_server.write_wire(&mut Vec::new());
    let mut wire = Vec::new();
    let mut took = [false; 2];
    for (leg, took) in [&mut to_client, &mut to_server].into_iter().zip(&mut took) {
        let step = usize::from(input.first().copied().unwrap_or_default()).max(1) * 16;
        let mut parts = input.chunks(step);
        let failed = parts.by_ref().find_map(|part| leg.read_wire(part).err());
        assert!(leg.handshaking(), "no handshake is over before keys are agreed");
        let mut plain = Vec::new();
        leg.read_plain(&mut plain);
        assert!(plain.is_empty());
        if let Some(error) = &failed {
            assert_eq!(leg.read_wire(b"more").as_ref(), Err(error));
        }
        wire.clear();
        leg.write_wire(&mut wire);
        *took = failed.is_none();
    }
    wire.clear();
    let mut again = STACK.client_leg(&KEY, Verdict::default(), None).unwrap();
    let _ = again.read_wire(input);
    again.write_wire(&mut wire);
    (took[0] && wire.first() == Some(&22), took[1])
}

/// `input` is certificates, each after its length in two bytes: the chain, and last the authority
/// that is trusted. What was found out once is found out again, with what was kept and without.
pub fn chain(input: &[u8]) -> Option<Verdict> {
    let mut certificates = Vec::new();
    let mut rest = input;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (one, after) = after.split_at(length);
        certificates.push(CertificateDer::from(one));
        rest = after;
    }
    let (trusted, chain) = certificates.split_last()?;
    let store = || TrustAnchors::new(&[trusted.to_vec()], false);
    let anchors = store().ok()?;
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let name = Some("www.example.org");
    let verdict = anchors.verify(chain, name, 2048, at(NOW));
    assert_eq!(anchors.verify(chain, name, 2048, at(NOW)), verdict);
    assert!(anchors.searches() <= 2);
    assert_eq!(store().ok()?.verify(chain, name, 2048, at(NOW)), verdict);
    assert!(!anchors.verify(chain, None, 2048, at(NOW)).has(Failure::NameMismatch));
    assert!(!anchors.verify(chain, name, 0, at(NOW)).has(Failure::WeakKey));
    for seconds in [0, 4_102_444_800, u64::MAX] {
        let _ = anchors.verify(chain, name, 2048, at(seconds));
    }
    // Back at the time it was, nothing has changed.
    assert_eq!(anchors.verify(chain, name, 2048, at(NOW)), verdict);
    Some(verdict)
}

/// 2027-01-15: the seeds of both below were made before, and hold for longer.
const LATER: u64 = 1_800_000_000;

/// `input` is a certificate, its issuer's, each with its length in two bytes before, and an OCSP answer or
/// a list. None is believed in part, and each says the same twice. What it says.
pub fn answer(input: &[u8]) -> Option<Status> {
    let (leaf, rest) = first(input)?;
    let (issuer, answer) = first(rest)?;
    let anchors = TrustAnchors::new(&[issuer.to_vec()], false).ok()?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(LATER));
    let judged = anchors.judge(&[CertificateDer::from(leaf)], None, 0, now);
    let issuer = judged.issued(leaf).next()?.issuer;
    let cut = &answer[..answer.len().saturating_sub(1)];

    let ocsp = judge_ocsp(leaf, issuer, answer, now);
    assert_eq!(ocsp, judge_ocsp(leaf, issuer, answer, now));
    let list = RevocationList::read(answer, issuer);
    if let Ok(list) = &list {
        assert!(list.weight() <= answer.len() + 256, "{} of {}", list.weight(), answer.len());
        assert_eq!(list.says(leaf, now), list.says(leaf, now));
        assert!(RevocationList::read(cut, issuer).is_err());
    }
    let says = ocsp.or_else(|_| list?.says(leaf, now)).ok()?;
    let (made, until) = (says.made.cast_unsigned(), says.until.cast_unsigned());
    assert!(made <= LATER + 300 && until > LATER, "{says:?}");
    assert!(judge_ocsp(leaf, issuer, cut, now).is_err());
    Some(says.status)
}

/// `input` is a certificate, with its length in two bytes before, and a file that may have its issuer. What
/// is found there are certificates, the first of which is the issuer. Whether it is.
pub fn bundle(input: &[u8]) -> Option<bool> {
    let (leaf, file) = first(input)?;
    let anchors = TrustAnchors::new(&[], false).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(LATER));
    let missing = anchors.missing_issuer(&[CertificateDer::from(leaf)], now)?;
    let found = missing.found_in(file);
    assert!(found.len() <= BUNDLE_BOUND);
    assert!(found.iter().all(|one| Names::of(one).is_some()));
    assert!(found.first().is_none_or(|first| missing.is(first)));
    Some(!found.is_empty())
}

/// What has its length in two bytes before it, and the rest.
fn first(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
