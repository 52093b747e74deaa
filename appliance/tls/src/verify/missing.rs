//! The intermediate that a server forgot, and where its certificates say that it can be had.
//!
//! For: fetching it, and finding it in what came ([`super::bundle`]). Not for: believing it; with it the
//! chain is verified as any other. Cannot fail.

use rustls_pki_types::{CertificateDer, UnixTime};

use super::bundle::certificates;
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
    /// The certificates among those in a file that bring the path up: the issuer, in each version that
    /// there is, and then whoever issued one of them in turn. None: the issuer is not in it.
    pub fn found_in(&self, file: &[u8]) -> Vec<CertificateDer<'static>> {
        let all = certificates(file).into_iter();
        let (mut found, mut rest): (Vec<_>, Vec<_>) = all.partition(|one| self.is(one));
        // Each step takes one of at most `BUNDLE_BOUND`.
        let mut steps = 0;
        while let Some(below) = found.get(steps).and_then(|one| Below::parse(one)) {
            let is_above = |one: &Vec<u8>| below.is_signed_by(one) && is_within_dates(one, self.at);
            let (above, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_above);
            found.extend(above);
            rest = others;
            steps = steps.saturating_add(1);
        }
        found.into_iter().map(CertificateDer::from).collect()
    }

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
