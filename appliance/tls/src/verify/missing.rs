//! The intermediate that a server forgot, and where its certificates say that it can be had.
//!
//! For: fetching it. Not for: believing it; with it the chain is verified as any other. Only one
//! certificate in DER is read, as authorities are to serve it (RFC 5280 section 4.2.2.1): neither PKCS #7
//! nor PEM. Cannot fail.

use rustls_pki_types::{CertificateDer, UnixTime};

use super::revocation::{Sources, verify_signature};
use super::{CHAIN_BOUND, TrustAnchors, default_package};
use crate::certificate::{Certificate, Signed};
use crate::der::{self, Reader};

/// Steps up from the leaf.
const DEPTH: usize = 6;

/// An issuer that nobody sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingIssuer {
    /// The certificate whose issuer it is, in DER.
    below: Vec<u8>,
    /// When it is to be valid.
    at: i64,
    /// Where it can be had.
    pub urls: Vec<String>,
}

impl MissingIssuer {
    /// Whether these bytes are a certificate of that name, within its dates, whose key signed the one
    /// below: authorities renew theirs under one name.
    pub fn is(&self, der: &[u8]) -> bool {
        Below::parse(&self.below)
            .is_some_and(|below| below.is_signed_by(der) && is_within_dates(der, self.at))
    }
}

impl TrustAnchors {
    /// The first issuer, upwards from the leaf, that is neither sent nor known nor trusted. `None`: none
    /// is missing, or nobody says where it is. What is known counts while it is valid; what is sent
    /// counts always: a server's own mistake is told and not mended.
    pub fn missing_issuer(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<MissingIssuer> {
        let at = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let chain = chain.get(..CHAIN_BOUND).unwrap_or(chain);
        let (leaf, sent) = chain.split_first()?;
        let mut der = leaf.clone().into_owned();
        for _ in 0..DEPTH {
            let below = Below::parse(&der)?;
            let wanted = below.certificate.issuer;
            if wanted == below.certificate.subject || self.signed(&below) {
                return None;
            }
            let learnt = || self.learnt.of(wanted).into_iter();
            let next = sent
                .iter()
                .find(|one| below.is_signed_by(one))
                .or_else(|| sent.iter().find(|one| has_name(one, wanted)))
                .map(|one| one.clone().into_owned())
                .or_else(|| {
                    learnt().find(|one| below.is_signed_by(one) && is_within_dates(one, at))
                });
            match next {
                Some(next) => der = next,
                None => {
                    let urls = Sources::named_by(&below.certificate).issuers;
                    let below = der.to_vec();
                    return (!urls.is_empty()).then_some(MissingIssuer { below, at, urls });
                }
            }
        }
        None
    }

    /// An anchor did.
    fn signed(&self, below: &Below<'_>) -> bool {
        let Ok(name) = Reader(below.certificate.issuer).expect(der::SEQUENCE) else { return false };
        let package = if self.default_ca_package { default_package() } else { &[] };
        let anchors = self.anchors.iter().chain(package);
        anchors.filter(|anchor| anchor.subject.as_ref() == name.contents).any(|anchor| {
            below.verifies(&der::element(der::SEQUENCE, &[&anchor.subject_public_key_info]))
        })
    }
}

/// A certificate whose issuer is looked for.
struct Below<'a> {
    certificate: Certificate<'a>,
    signed: Signed<'a>,
}

impl<'a> Below<'a> {
    fn parse(der: &'a [u8]) -> Option<Self> {
        let (certificate, signed) = (Certificate::parse(der).ok()?, Signed::parse(der).ok()?);
        Some(Self { certificate, signed })
    }

    /// By the certificate `der`, whose name is the issuer's.
    fn is_signed_by(&self, der: &[u8]) -> bool {
        Certificate::parse(der).is_ok_and(|one| {
            one.subject == self.certificate.issuer && self.verifies(one.subject_public_key_info)
        })
    }

    /// By the key of this SubjectPublicKeyInfo.
    fn verifies(&self, info: &[u8]) -> bool {
        let Signed { message, algorithm, signature } = self.signed;
        verify_signature(info, algorithm, message, signature).is_ok()
    }
}

fn has_name(der: &[u8], name: &[u8]) -> bool {
    Certificate::parse(der).is_ok_and(|one| one.subject == name)
}

fn is_within_dates(der: &[u8], at: i64) -> bool {
    Certificate::parse(der)
        .is_ok_and(|one| (one.validity.not_before..=one.validity.not_after).contains(&at))
}
