//! Judges a server's certificate chain against a trust store: everything that is wrong with it at
//! once (SPEC T7).
//!
//! For: choosing the signer of a forged certificate, blocking invalid or expired ones, and the log;
//! saying what may be asked of others ([`revocation`], [`MissingIssuer`]) and what their answers are
//! worth. Not for: asking them, and the handshake's signature, which the leg has verified.
//!
//! | verdict | signer of the copy | blocked by |
//! |---|---|---|
//! | verified | trusted | |
//! | expired, not yet valid (the leaf) | trusted: the dates are copied, the client warns | block expired |
//! | everything else | untrusted | block invalid |
//!
//! webpki verifies paths and stops at the first error, so a chain that fails by its dates is tried
//! again at instants inside its validity: dates and trust are told apart ([`path`]). A trust anchor's
//! own dates are not looked at. All parsing is in memory-safe code; the number of signatures and the
//! depth that one chain may cost are bounded, so no time limit is needed.
//!
//! The name: where the client sent one, the certificate must be for it (DNS name, or address
//! literal). Where it sent none, nobody but the client knows whom it meant; the forged certificate
//! has the names of the original, so the client finds out for itself.

mod bundle;
mod cache;
mod learnt;
mod missing;
mod path;
pub mod revocation;
mod staple;
mod verdict;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, anchor_from_trusted_cert};

pub use self::bundle::BUNDLE_BOUND;
pub use self::cache::PATHS_BOUND;
use self::cache::PathCache;
pub use self::learnt::{Intermediates, SUBJECTS_BOUND};
pub use self::missing::MissingIssuer;
use self::path::Verified;
pub use self::path::{Issued, Issuer};
pub use self::staple::{KEPT_STAPLE_BOUND, RESUMED_FOR, STAPLE_BOUND, resumed_for, says_revoked};
pub use self::verdict::{Action, Failure, Verdict};
use crate::certificate::{Certificate, PublicKey};
use crate::hashed::Hashed;
use crate::hello::address_sent;

/// Certificates of a chain that are looked at, the leaf included; what comes after is ignored.
/// webpki itself bounds the signatures it checks (100) and the depth of a path (6).
pub const CHAIN_BOUND: usize = 16;

/// One trust store (SPEC P6), with what was found out under it: paths looked for are kept by the
/// chain's hash for as long as the store lives ([`PATHS_BOUND`]).
#[derive(Debug)]
pub struct TrustAnchors {
    anchors: Vec<TrustAnchor<'static>>,
    default_ca_package: bool,
    /// The user certificates: a server that shows one of these is trusted for itself,
    /// be it an authority or not.
    pinned: HashSet<Vec<u8>>,
    learnt: Arc<Intermediates>,
    paths: PathCache,
}

/// A verdict, and whom to ask more.
#[derive(Clone, Debug)]
pub struct Judged {
    pub verdict: Verdict,
    /// Of a leaf whose path was found, upwards to the trust anchor; none also where the store has the
    /// leaf itself.
    issuers: Arc<[Issuer]>,
}

impl Judged {
    /// The certificates of the path, upwards from `leaf`, which is the one that was judged.
    pub fn issued<'a>(&'a self, leaf: &'a [u8]) -> impl Iterator<Item = Issued<'a>> {
        path::issued(leaf, &self.issuers)
    }
}

impl From<Verdict> for Judged {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, issuers: Arc::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TrustAnchorsError {
    #[error("authority {index} of the trust store is no X.509 certificate: {reason}")]
    Certificate { index: usize, reason: String },
}

impl TrustAnchors {
    /// `authorities` in DER; `default_ca_package`: Mozilla's list as well.
    ///
    /// # Errors
    /// Names the first authority that is no certificate.
    pub fn new(
        authorities: &[Vec<u8>],
        default_ca_package: bool,
    ) -> Result<Self, TrustAnchorsError> {
        let mut anchors = Vec::with_capacity(authorities.len());
        let mut pinned = HashSet::new();
        for (index, der) in authorities.iter().enumerate() {
            let anchor = anchor_from_trusted_cert(&CertificateDer::from(der.as_slice()))
                .map_err(|error| TrustAnchorsError::Certificate {
                    index,
                    reason: error.to_string(),
                })?
                .to_owned();
            anchors.push(anchor);
            pinned.insert(der.clone());
        }
        let (learnt, paths) = (Arc::default(), PathCache::default());
        Ok(Self { anchors, default_ca_package, pinned, learnt, paths })
    }

    /// With intermediates that other stores have learnt, and learning for them.
    #[must_use]
    pub fn learning(mut self, learnt: Arc<Intermediates>) -> Self {
        self.learnt = learnt;
        self
    }

    /// Judges `chain` (leaf first) for the name the client asked for. RSA keys shorter than
    /// `minimum_rsa_bits` are weak.
    pub fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        server_name: Option<&str>,
        minimum_rsa_bits: usize,
        now: UnixTime,
    ) -> Judged {
        let Some((leaf, others)) = chain.split_first() else {
            return Verdict::from(Failure::Malformed).into();
        };
        self.judge_hashed(&Hashed::new(leaf), others, server_name, minimum_rsa_bits, now)
    }

    /// The same for a leaf that is hashed already, and what the server sent beside it.
    pub fn judge_hashed(
        &self,
        hashed: &Hashed<'_>,
        others: &[CertificateDer<'_>],
        server_name: Option<&str>,
        minimum_rsa_bits: usize,
        now: UnixTime,
    ) -> Judged {
        let intermediates = others.get(..CHAIN_BOUND - 1).unwrap_or(others);
        let leaf_der = &CertificateDer::from(hashed.der());
        let Ok(leaf) = Certificate::parse(leaf_der) else {
            return Verdict::from(Failure::Malformed).into();
        };
        let mut verdict = Verdict::default();
        // A time before 1970 and one after the year 292277026596 are both far from any certificate.
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        verdict.add_if(seconds > leaf.validity.not_after, Failure::Expired);
        verdict.add_if(seconds < leaf.validity.not_before, Failure::NotYetValid);
        match leaf.public_key() {
            Ok(PublicKey::Rsa(bits)) => verdict.add_if(bits < minimum_rsa_bits, Failure::WeakKey),
            Ok(PublicKey::Other) => {}
            Err(_) => verdict.add(Failure::Malformed),
        }
        verdict.add_if(is_weak_signature(leaf.signature_algorithm), Failure::WeakSignature);
        let Ok(end_entity) = EndEntityCert::try_from(leaf_der) else {
            // Version 1, or contents that webpki does not read: only the store itself can vouch for
            // it, and only its common name can be compared.
            verdict.add_if(!self.is_pinned(leaf_der), Failure::Untrusted);
            let names = leaf.dns_names();
            let is_for = |asked: &str| names.iter().any(|name| name.eq_ignore_ascii_case(asked));
            verdict.add_if(server_name.is_some_and(|asked| !is_for(asked)), Failure::NameMismatch);
            return verdict.into();
        };
        verdict.add_if(!is_for_name(&end_entity, &leaf, server_name), Failure::NameMismatch);
        let mut issuers = Arc::default();
        if !self.is_pinned(leaf_der) {
            let found =
                self.paths.get_or_look(hashed, intermediates, seconds, &self.learnt, || {
                    self.path(&end_entity, &leaf, intermediates, now, seconds)
                });
            match found.result {
                Ok(Verified { weakest, issuers: found }) => {
                    let weak = weakest.is_some_and(|bits| bits < minimum_rsa_bits);
                    verdict.add_if(weak, Failure::WeakKey);
                    issuers = found;
                }
                Err(failure) => {
                    verdict.add(failure);
                    let signed_weakly = failure == Failure::Untrusted
                        && intermediates.iter().any(|der| is_signed_weakly(der));
                    verdict.add_if(signed_weakly, Failure::WeakSignature);
                }
            }
        }
        Judged { verdict, issuers }
    }

    /// The verdict alone.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        server_name: Option<&str>,
        minimum_rsa_bits: usize,
        now: UnixTime,
    ) -> Verdict {
        self.judge(chain, server_name, minimum_rsa_bits, now).verdict
    }

    /// Searches for a path so far: visits less what the cache knew.
    pub fn searches(&self) -> u64 {
        self.paths.searches()
    }

    /// The trust store has this very certificate.
    fn is_pinned(&self, leaf: &CertificateDer<'_>) -> bool {
        self.pinned.contains(leaf.as_ref())
    }
}

/// Mozilla's list, read once per process.
fn default_package() -> &'static [TrustAnchor<'static>] {
    static PACKAGE: OnceLock<Vec<TrustAnchor<'static>>> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        webpki_root_certs::TLS_SERVER_ROOT_CERTS
            .iter()
            .filter_map(|der| anchor_from_trusted_cert(der).ok().map(|anchor| anchor.to_owned()))
            .collect()
    })
}

fn is_for_name(
    certificate: &EndEntityCert<'_>,
    leaf: &Certificate<'_>,
    server_name: Option<&str>,
) -> bool {
    let Some(name) = server_name else { return true };
    if let Some(address) = address_sent(name) {
        let address = ServerName::from(address);
        return certificate.verify_is_valid_for_subject_name(&address).is_ok();
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    match ServerName::try_from(name) {
        Ok(name) => certificate.verify_is_valid_for_subject_name(&name).is_ok(),
        Err(_) => is_for_odd_name(leaf, name),
    }
}

/// By a name that webpki does not look for, since no host may have it by the letter. Some have, with a label
/// that ends in a hyphen, or with a number as the last one: compared as browsers do (RFC 9525 section 6.3); as
/// webpki does, no wildcard is of a whole top-level domain.
fn is_for_odd_name(leaf: &Certificate<'_>, asked: &str) -> bool {
    let below = asked.split_once('.').filter(|(label, _)| !label.is_empty());
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    asked.bytes().all(is_name)
        && leaf.alternative_names().iter().any(|name| match (name.strip_prefix("*."), below) {
            (Some(parent), Some((_, below))) => {
                parent.contains('.') && parent.eq_ignore_ascii_case(below)
            }
            (Some(_), None) => false,
            (None, _) => name.eq_ignore_ascii_case(asked),
        })
}

/// An intermediate whose signature nobody should believe; a root's own says nothing.
fn is_signed_weakly(der: &[u8]) -> bool {
    Certificate::parse(der)
        .is_ok_and(|one| one.issuer != one.subject && is_weak_signature(one.signature_algorithm))
}

/// RSA with MD2, MD5 or SHA-1, DSA and ECDSA with SHA-1.
fn is_weak_signature(algorithm: &[u8]) -> bool {
    const PKCS_1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA_WITH_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    const DSA_WITH_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x03];
    matches!(algorithm.strip_prefix(PKCS_1), Some([2..=5]))
        || algorithm == ECDSA_WITH_SHA1
        || algorithm == DSA_WITH_SHA1
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}
