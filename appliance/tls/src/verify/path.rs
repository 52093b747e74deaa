//! The search for a path from a leaf to a trust anchor, at the time it is and at times when dates
//! would not be in its way.
//!
//! For: the one failure, if any, that the path is to blame for. Fails by [`Failure`].

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};

use super::cache::Found;
use super::learnt::Intermediates;
use super::verdict::Failure;
use super::{TrustAnchors, default_package, sha256};
use crate::certificate::{Certificate, PublicKey};
use crate::der::{self, DerError, Reader};

/// A path that was found.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    /// Bits of the shortest RSA key among its intermediates; `None`: there is none.
    pub(super) weakest: Option<usize>,
    /// Upwards from the leaf's; the last is the trust anchor.
    pub(super) issuers: Arc<[Issuer]>,
}

/// Who issued a certificate of a path that verified: the one whom the path names, whatever else the
/// server sent under the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Raw, a SEQUENCE.
    pub(super) name: Vec<u8>,
    /// SubjectPublicKeyInfo, a SEQUENCE.
    pub(super) key: Vec<u8>,
    /// Its certificate allows it; a trust anchor may.
    pub(super) signs_lists: bool,
    /// In DER; `None`: a trust anchor, of which nobody is asked.
    pub(super) certificate: Option<Vec<u8>>,
}

/// A certificate of a path that verified, below its trust anchor.
#[derive(Clone, Copy, Debug)]
pub struct Issued<'a> {
    /// In DER.
    pub certificate: &'a [u8],
    pub issuer: &'a Issuer,
}

/// The certificates of a path, upwards from the leaf. `issuers`: what [`Verified`] has.
pub(super) fn issued<'a>(
    leaf: &'a [u8],
    issuers: &'a [Issuer],
) -> impl Iterator<Item = Issued<'a>> {
    let above = issuers.iter().map_while(|issuer| issuer.certificate.as_deref());
    let certificates = std::iter::once(leaf).chain(above);
    certificates.zip(issuers).map(|(certificate, issuer)| Issued { certificate, issuer })
}

impl Issuer {
    /// Whether its certificate lets it sign lists of what is revoked.
    pub fn signs_lists(&self) -> bool {
        self.signs_lists
    }

    /// Equal for equal names and keys only.
    pub fn digest(&self) -> [u8; 32] {
        sha256(&[&sha256(&self.name)[..], &self.key].concat())
    }

    /// To verify what it signed without a search that others have a say in.
    pub(super) fn anchor(&self) -> Result<TrustAnchor<'_>, DerError> {
        let contents = |raw| Reader(raw).expect(der::SEQUENCE).map(|element| element.contents);
        Ok(TrustAnchor {
            subject: contents(&self.name)?.into(),
            subject_public_key_info: contents(&self.key)?.into(),
            name_constraints: None,
        })
    }
}

impl TrustAnchors {
    /// Looks for a path with what the server sent; where an issuer is missing, with what other
    /// servers sent as well. What verified is learnt.
    pub(super) fn path(
        &self,
        end_entity: &EndEntityCert<'_>,
        leaf: &Certificate<'_>,
        sent: &[CertificateDer<'_>],
        now: UnixTime,
        seconds: i64,
    ) -> Found {
        let learnt_before = self.learnt.generation();
        let mut result = self.path_among(end_entity, leaf, sent, now, seconds);
        let mut dates = dates_of(leaf, sent);
        if matches!(result, Err(Failure::Untrusted)) {
            let missing = self.learnt.missing(leaf, sent);
            if !missing.is_empty() {
                let all: Vec<_> = sent.iter().chain(&missing).cloned().collect();
                result = self.path_among(end_entity, leaf, &all, now, seconds);
                dates = dates_of(leaf, &all);
            }
        }
        Found { result, dates, learnt: learnt_before }
    }

    /// Now; where dates are in the way, at instants when they might not be.
    fn path_among(
        &self,
        end_entity: &EndEntityCert<'_>,
        leaf: &Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        seconds: i64,
    ) -> Result<Verified, Failure> {
        let error = match self.path_at(end_entity, intermediates, now, Some(&self.learnt)) {
            Ok(verified) => return Ok(verified),
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
            match self.path_at(end_entity, intermediates, instant, None) {
                // The leaf's dates are in the verdict already, and are copied for the client to
                // see; an intermediate's are not.
                Ok(verified) if leaf_outside => return Ok(verified),
                Ok(_) => return Err(Failure::IntermediateDates),
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
        learn: Option<&Intermediates>,
    ) -> Result<Verified, webpki::Error> {
        let attempt = |anchors: &[TrustAnchor<'_>]| {
            let path = end_entity.verify_for_usage(
                ALL_VERIFICATION_ALGS,
                anchors,
                intermediates,
                instant,
                KeyUsage::server_auth(),
                None,
                None,
            )?;
            let mut weakest = None;
            let mut issuers = Vec::new();
            for der in path.intermediate_certificates().map(|one| one.der()) {
                // Cannot fail: webpki has read it.
                let one = Certificate::parse(&der).map_err(|_| webpki::Error::BadDer)?;
                if let Ok(PublicKey::Rsa(bits)) = one.public_key() {
                    weakest = Some(weakest.map_or(bits, |least: usize| least.min(bits)));
                }
                if let Some(learnt) = learn {
                    learnt.learn(one.subject, &der);
                }
                issuers.push(Issuer {
                    name: one.subject.to_vec(),
                    key: one.subject_public_key_info.to_vec(),
                    signs_lists: one.may_sign_lists(),
                    certificate: Some(der.to_vec()),
                });
            }
            let anchor = path.anchor();
            issuers.push(Issuer {
                name: der::element(der::SEQUENCE, &[&anchor.subject]),
                key: der::element(der::SEQUENCE, &[&anchor.subject_public_key_info]),
                signs_lists: true,
                certificate: None,
            });
            Ok(Verified { weakest, issuers: issuers.into() })
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

/// Every second at which a certificate's validity begins, and every one after it ended.
fn dates_of(leaf: &Certificate<'_>, others: &[CertificateDer<'_>]) -> Vec<i64> {
    let others = others.iter().filter_map(|der| Certificate::parse(der).ok());
    let validities = others.map(|one| one.validity).chain([leaf.validity]);
    validities.flat_map(|one| [one.not_before, one.not_after.saturating_add(1)]).collect()
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
