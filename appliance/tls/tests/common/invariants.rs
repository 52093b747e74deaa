//! What holds for the forger and the verifier whatever bytes a server sends. The fuzz targets
//! `certificate` and `chain` run these on made-up input, `tests/seeds.rs` on the seeds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::LazyLock;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, UnixTime};
use weir_policy::SecretBytes;
use weir_policy::snapshot::CertifiedKey;
use weir_tls::verify::Failure;
use weir_tls::{Forger, LeafKeys, LeafKind, Signer, TrustAnchors, Verdict};

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
