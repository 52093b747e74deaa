//! What authorities say of certificates beyond the chain that a server sends: missing intermediates,
//! and whether the certificates of its path are revoked (SPEC T12).
//!
//! For: asking within a time ([`asking`]), and keeping what was answered ([`known`], [`lists`]). Not for: fetching
//! (the agent's, by the management port: [`fetching`]), and what an answer is worth (`weir_tls::verify`).
//! Nothing here decides what becomes of a session; where nothing can be learnt in time the certificate
//! is what it was, and its revocation is unknown, with the reason.

mod asking;
mod fetching;
mod known;
mod lists;

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use tokio::time::Instant;
use weir_api::engine::{CertificateRecord, RevocationRecord, RevocationSource};
use weir_api::fetch::Fetch;
use weir_tls::verify::revocation::{Answer, AnswerError, Status};
use weir_tls::verify::{Failure, Issued};
use weir_tls::{Names, TrustAnchors};

use self::asking::Question;
pub use self::fetching::{Client, Fetching, Unavailable};
use self::known::Known;
use self::lists::Lists;

/// For all that one session's certificate needs; the client waits for it.
pub const WITHIN: Duration = Duration::from_secs(3);
/// Files with intermediates that are fetched for one chain; of each,
/// [`weir_tls::verify::BUNDLE_BOUND`] certificates are looked at.
const MOST_INTERMEDIATES: usize = 4;
/// Certificates of a path that are asked about: as many as the longest path that verifies has below its
/// trust anchor (webpki's bound, and the leaf). Whoever has the key of a revoked intermediate can put as
/// many others under it as it likes.
pub const MOST_ASKED: usize = 7;

/// One serves all runtimes of an engine, and every generation of its policy.
pub struct Authorities {
    pub fetching: Fetching,
    known: Known,
    lists: Lists,
}

/// What is known of a certificate's revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    Good(RevocationSource),
    Revoked(RevocationSource),
    Unknown(Why),
}

/// Why it is unknown. Of several sources, the last that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Why {
    #[error("the certificate names nobody to ask by HTTP")]
    NoSource,
    #[error("not fetched: {0}")]
    NotFetched(#[from] Unavailable),
    #[error("the answer is not believed: {0}")]
    NotBelieved(#[from] AnswerError),
}

impl Revocation {
    fn of(answer: Answer, source: RevocationSource) -> Self {
        match answer.status {
            Status::Good => Self::Good(source),
            Status::Revoked => Self::Revoked(source),
        }
    }
}

/// What was found of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub revocation: Revocation,
    /// Of which certificate, upwards from the leaf, which is 0.
    place: usize,
}

impl Found {
    /// `path`: the one that was asked about.
    pub fn record(self, path: &[Issued<'_>]) -> RevocationRecord {
        let intermediate = path.get(self.place).filter(|_| self.place > 0).map(|one| {
            let subject = Names::of(one.certificate).and_then(|names| names.subject);
            let subject = subject.unwrap_or_else(|| "without a common name".to_owned());
            subject.chars().take(CertificateRecord::NAME_LENGTH).collect()
        });
        match (self.revocation, intermediate) {
            (Revocation::Good(source), _) => RevocationRecord::Good(source),
            (Revocation::Revoked(source), None) => RevocationRecord::Revoked(source),
            (Revocation::Revoked(source), Some(subject)) => {
                RevocationRecord::IntermediateRevoked { subject, source }
            }
            (Revocation::Unknown(why), None) => RevocationRecord::Unknown(why.to_string()),
            (Revocation::Unknown(why), Some(subject)) => {
                RevocationRecord::IntermediateUnknown { subject, why: why.to_string() }
            }
        }
    }
}

impl Authorities {
    pub fn new(fetching: Fetching) -> Self {
        Self { fetching, known: Known::default(), lists: Lists::default() }
    }

    /// What may be fetched from where may have changed.
    pub fn forget_failures(&self) {
        self.fetching.forget_failures();
        self.lists.forget_disbelieved();
        self.known.forget_unknown();
    }

    /// The chain, and behind its leaf the intermediates that it lacks, as far as they can be had. Those
    /// that make it verify are learnt by `anchors`: the next session need not ask.
    pub async fn complete(
        &self,
        anchors: &TrustAnchors,
        mut chain: Vec<CertificateDer<'static>>,
        client: Client,
        now: UnixTime,
        deadline: Instant,
    ) -> Vec<CertificateDer<'static>> {
        // Once: a search takes its time, and whether the last one found is the last that is missing
        // says its issuer.
        let verdict = anchors.verify(&chain, None, 0, now);
        if !verdict.has(Failure::Untrusted) && !verdict.has(Failure::IntermediateDates) {
            return chain;
        }
        for _ in 0..MOST_INTERMEDIATES {
            let Some(missing) = anchors.missing_issuer(&chain, now) else { break };
            let mut found = Vec::new();
            for url in missing.urls.iter().filter_map(|url| url.parse().ok()) {
                let fetch = Fetch::Intermediate { url };
                let fetched = self.fetching.fetch(fetch.clone(), Some(client), deadline).await;
                let Ok(file) = fetched else { continue };
                found = missing.found_in(&file);
                if !found.is_empty() {
                    break;
                }
                self.fetching.disbelieved(&fetch, &file);
            }
            if found.is_empty() {
                break;
            }
            chain.splice(1..1, found);
        }
        chain
    }

    /// Whether a certificate of the path, which is not empty, is revoked: by what its server staples of
    /// the leaf, what is known, OCSP, its authority's list. All are asked at once. One that is revoked
    /// decides; then the lowest of which it is unknown, those that name somebody to ask first; what is
    /// good, the leaf's answer says.
    pub async fn revocation(
        &self,
        path: &[Issued<'_>],
        staple: Option<&[u8]>,
        now: UnixTime,
        deadline: Instant,
    ) -> Found {
        let asked = path.iter().take(MOST_ASKED).enumerate().map(async |(place, issued)| {
            let Issued { certificate, issuer } = *issued;
            let staple = staple.filter(|_| place == 0);
            let question = Question { certificate, issuer, staple };
            Found { revocation: self.answer(question, now, deadline).await, place }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut worst: Option<Found> = None;
        while let Some(found) = asked.next().await {
            if matches!(found.revocation, Revocation::Revoked(_)) {
                return found;
            }
            let rank = |found: &Found| {
                let weight = match found.revocation {
                    Revocation::Revoked(_) => 0,
                    Revocation::Unknown(Why::NotFetched(_) | Why::NotBelieved(_)) => 1,
                    Revocation::Unknown(Why::NoSource) => 2,
                    Revocation::Good(_) => 3,
                };
                (weight, found.place)
            };
            worst = worst.into_iter().chain([found]).min_by_key(rank);
        }
        worst.unwrap_or(Found { revocation: Revocation::Unknown(Why::NoSource), place: 0 })
    }
}

#[cfg(test)]
mod tests;
