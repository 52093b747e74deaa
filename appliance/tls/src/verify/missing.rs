//! The intermediate that a server forgot, and where its certificates say that it can be had.
//!
//! For: fetching it. Not for: believing it; with it the chain is verified as any other. Cannot fail.

use rustls_pki_types::CertificateDer;

use super::revocation::Sources;
use super::{CHAIN_BOUND, TrustAnchors, default_package};
use crate::certificate::Certificate;
use crate::der::{self, Reader};

/// Steps up from the leaf.
const DEPTH: usize = 6;

/// An issuer that nobody sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingIssuer {
    /// Raw, a SEQUENCE.
    subject: Vec<u8>,
    /// Where it can be had.
    pub urls: Vec<String>,
}

impl MissingIssuer {
    /// Whether these bytes are a certificate of that name.
    pub fn is(&self, der: &[u8]) -> bool {
        Certificate::parse(der).is_ok_and(|one| one.subject == self.subject)
    }
}

impl TrustAnchors {
    /// The first issuer, upwards from the leaf, that is neither sent nor known nor trusted. `None`: none
    /// is missing, or nobody says where it is.
    pub fn missing_issuer(&self, chain: &[CertificateDer<'_>]) -> Option<MissingIssuer> {
        let chain = chain.get(..CHAIN_BOUND).unwrap_or(chain);
        let chain: Vec<_> = chain.iter().map(|der| Certificate::parse(der).ok()).collect();
        let mut below = chain.first()?.as_ref()?;
        for _ in 0..DEPTH {
            let wanted = below.issuer;
            if wanted == below.subject || self.trusts_name(wanted) || self.learnt.knows(wanted) {
                return None;
            }
            match chain.iter().flatten().find(|one| one.subject == wanted) {
                Some(next) => below = next,
                None => {
                    let urls = Sources::named_by(below).issuers;
                    let subject = wanted.to_vec();
                    return (!urls.is_empty()).then_some(MissingIssuer { subject, urls });
                }
            }
        }
        None
    }

    /// There is an anchor of this name.
    fn trusts_name(&self, name: &[u8]) -> bool {
        let Ok(name) = Reader(name).expect(der::SEQUENCE) else { return false };
        let package = if self.default_ca_package { default_package() } else { &[] };
        let mut anchors = self.anchors.iter().chain(package);
        anchors.any(|anchor| anchor.subject.as_ref() == name.contents)
    }
}
