//! Judges a server's certificate chain against a trust store: everything that is wrong with it at
//! once (SPEC T7).
//!
//! For: choosing the signer of a forged certificate, blocking invalid or expired ones, and the log.
//! Not for: revocation, fetching missing intermediates (both come later), and the handshake's
//! signature, which the leg has verified.
//!
//! webpki verifies paths and stops at the first error, so a chain that fails by its dates is tried
//! again at instants inside its validity: dates and trust are told apart. A trust anchor's own
//! dates are not looked at.
//!
//! The name: where the client sent one, the certificate must be for it (DNS name, or address
//! literal). Where it sent none, nobody but the client knows whom it meant; the forged certificate
//! has the names of the original, so the client finds out for itself.

use std::collections::HashSet;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use thiserror::Error;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::certificate::{Certificate, PublicKey};
use crate::forge::Signer;

/// Shortest modulus of an RSA key that is not [`Failure::WeakKey`].
pub const MINIMUM_RSA_BITS: usize = 2048;

/// Certificates of a chain that are looked at, the leaf included; what comes after is ignored.
/// webpki itself bounds the signatures it checks (100) and the depth of a path (6).
pub const CHAIN_BOUND: usize = 16;

/// One trust store (SPEC P6).
#[derive(Debug)]
pub struct TrustAnchors {
    anchors: Vec<TrustAnchor<'static>>,
    default_ca_package: bool,
    /// SHA-256 of each user certificate: a server that shows one of these is trusted for itself,
    /// be it an authority or not.
    pinned: HashSet<[u8; 32]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TrustAnchorsError {
    #[error("authority {index} of the trust store is no X.509 certificate: {reason}")]
    Certificate { index: usize, reason: String },
}

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Failure {
    /// The leaf's notAfter has passed.
    Expired = 1,
    /// The leaf's notBefore has not come.
    NotYetValid = 1 << 1,
    /// The leaf is within its dates, but every path has an intermediate that is not.
    IntermediateDates = 1 << 2,
    /// No path to a trust anchor.
    Untrusted = 1 << 3,
    NameMismatch = 1 << 4,
    /// An RSA key under [`MINIMUM_RSA_BITS`].
    WeakKey = 1 << 5,
    /// A leaf signed with MD5 or SHA-1.
    WeakSignature = 1 << 6,
    /// A path exists but breaks a constraint: names, path length, usage, a critical extension.
    Constraint = 1 << 7,
    /// Not a certificate, or none at all.
    Malformed = 1 << 8,
}

/// All failures of a chain; none: it verifies. Prints as `verified`, or the failures in words.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Verdict(u16);

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
            pinned.insert(sha256(der));
        }
        Ok(Self { anchors, default_ca_package, pinned })
    }

    /// Judges `chain` (leaf first) for the name the client asked for.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        server_name: Option<&str>,
        now: UnixTime,
    ) -> Verdict {
        let chain = chain.get(..CHAIN_BOUND).unwrap_or(chain);
        let Some((leaf_der, intermediates)) = chain.split_first() else {
            return Failure::Malformed.into();
        };
        let Ok(leaf) = Certificate::parse(leaf_der) else { return Failure::Malformed.into() };
        let mut verdict = Verdict::default();
        // A time before 1970 and one after the year 292277026596 are both far from any certificate.
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        verdict.add_if(seconds > leaf.validity.not_after, Failure::Expired);
        verdict.add_if(seconds < leaf.validity.not_before, Failure::NotYetValid);
        match leaf.public_key() {
            Ok(PublicKey::Rsa(bits)) => {
                verdict.add_if(bits < MINIMUM_RSA_BITS, Failure::WeakKey);
            }
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
            return verdict;
        };
        verdict.add_if(!is_for_name(&end_entity, server_name), Failure::NameMismatch);
        if !self.is_pinned(leaf_der)
            && let Err(failure) = self.path(&end_entity, &leaf, intermediates, now, seconds)
        {
            verdict.add(failure);
        }
        verdict
    }

    /// The trust store has this very certificate.
    fn is_pinned(&self, leaf: &CertificateDer<'_>) -> bool {
        self.pinned.contains(&sha256(leaf))
    }

    /// Looks for a path now; where dates are in its way, at instants when they might not be.
    fn path(
        &self,
        end_entity: &EndEntityCert<'_>,
        leaf: &Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        seconds: i64,
    ) -> Result<(), Failure> {
        let error = match self.path_at(end_entity, intermediates, now) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let leaf_outside = seconds > leaf.validity.not_after || seconds < leaf.validity.not_before;
        if !leaf_outside && !is_about_dates(&error) {
            return Err(failure_of(&error));
        }
        // Where all of the chain is valid, if ever; then the ends of the leaf's validity, since a
        // chain may have certificates that belong to no path.
        let (mut from, mut until) = (leaf.validity.not_before, leaf.validity.not_after);
        for one in intermediates.iter().filter_map(|der| Certificate::parse(der).ok()) {
            from = from.max(one.validity.not_before);
            until = until.min(one.validity.not_after);
        }
        let nearest = if from <= until { Some(seconds.clamp(from, until)) } else { None };
        let ends = [leaf.validity.not_after, leaf.validity.not_before];
        let mut last = error;
        for instant in nearest.into_iter().chain(ends) {
            let Ok(instant) = u64::try_from(instant) else { continue };
            let instant = UnixTime::since_unix_epoch(Duration::from_secs(instant));
            match self.path_at(end_entity, intermediates, instant) {
                // The leaf's dates are in the verdict already, and are copied for the client to
                // see; an intermediate's are not.
                Ok(()) if leaf_outside => return Ok(()),
                Ok(()) => return Err(Failure::IntermediateDates),
                Err(error) => last = error,
            }
        }
        Err(failure_of(&last))
    }

    fn path_at(
        &self,
        end_entity: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        instant: UnixTime,
    ) -> Result<(), webpki::Error> {
        let attempt = |anchors: &[TrustAnchor<'_>]| {
            end_entity
                .verify_for_usage(
                    ALL_VERIFICATION_ALGS,
                    anchors,
                    intermediates,
                    instant,
                    KeyUsage::server_auth(),
                    None,
                    None,
                )
                .map(|_| ())
        };
        match attempt(&self.anchors) {
            // The package's error tells more than that the user's authorities know no such issuer.
            Err(webpki::Error::UnknownIssuer) if self.default_ca_package => {
                attempt(default_package())
            }
            Err(first) if self.default_ca_package => attempt(default_package()).map_err(|second| {
                if matches!(second, webpki::Error::UnknownIssuer) { first } else { second }
            }),
            other => other,
        }
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

fn is_for_name(certificate: &EndEntityCert<'_>, server_name: Option<&str>) -> bool {
    let Some(name) = server_name else { return true };
    let name = name.strip_suffix('.').unwrap_or(name);
    match ServerName::try_from(name) {
        Ok(name) => certificate.verify_is_valid_for_subject_name(&name).is_ok(),
        // No certificate can be for what is neither a DNS name nor an address.
        Err(_) => false,
    }
}

fn is_about_dates(error: &webpki::Error) -> bool {
    matches!(error, webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. })
}

fn failure_of(error: &webpki::Error) -> Failure {
    use webpki::Error as E;
    match error {
        E::NameConstraintViolation
        | E::PathLenConstraintViolated
        | E::RequiredEkuNotFoundContext(_)
        | E::UnsupportedCriticalExtension
        | E::EndEntityUsedAsCa => Failure::Constraint,
        E::CertExpired { .. } | E::CertNotValidYet { .. } => Failure::IntermediateDates,
        _ => Failure::Untrusted,
    }
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

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

impl Failure {
    /// In the order they are told.
    pub const ALL: [Self; 9] = [
        Self::Expired,
        Self::NotYetValid,
        Self::IntermediateDates,
        Self::Untrusted,
        Self::NameMismatch,
        Self::WeakKey,
        Self::WeakSignature,
        Self::Constraint,
        Self::Malformed,
    ];
}

impl Verdict {
    /// The chain verifies.
    pub fn is_verified(&self) -> bool {
        self.0 == 0
    }

    pub fn has(&self, failure: Failure) -> bool {
        self.0 & failure as u16 != 0
    }

    /// The option "block expired certificates" is about these (SPEC T8): the leaf's own dates.
    pub fn is_outside_dates(&self) -> bool {
        self.has(Failure::Expired) || self.has(Failure::NotYetValid)
    }

    /// The option "block invalid certificates" is about these (SPEC T8): everything but the leaf's
    /// own dates.
    pub fn is_invalid(&self) -> bool {
        self.0 & !(Failure::Expired as u16 | Failure::NotYetValid as u16) != 0
    }

    /// Who signs the forged certificate (SPEC T7). The leaf's dates are copied, so the client warns
    /// of them by itself under the trusted signer; of anything else only the untrusted one warns.
    pub fn signer(&self) -> Signer {
        if self.is_invalid() { Signer::Untrusted } else { Signer::Trusted }
    }

    /// In the order of [`Failure::ALL`].
    pub fn failures(&self) -> impl Iterator<Item = Failure> + use<> {
        let verdict = *self;
        Failure::ALL.into_iter().filter(move |failure| verdict.has(*failure))
    }

    fn add(&mut self, failure: Failure) {
        self.0 |= failure as u16;
    }

    fn add_if(&mut self, condition: bool, failure: Failure) {
        if condition {
            self.add(failure);
        }
    }
}

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Self {
        Self(failure as u16)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not yet valid",
            Self::IntermediateDates => "intermediate expired or not yet valid",
            Self::Untrusted => "untrusted",
            Self::NameMismatch => "name mismatch",
            Self::WeakKey => "weak key",
            Self::WeakSignature => "weak signature",
            Self::Constraint => "constraint violated",
            Self::Malformed => "malformed",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_verified() {
            return f.write_str("verified");
        }
        for (index, failure) in self.failures().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            failure.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verdict({self})")
    }
}
