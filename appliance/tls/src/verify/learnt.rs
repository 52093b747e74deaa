//! Intermediates of chains that verified, sent by servers or fetched, for servers that forget to send
//! theirs.
//!
//! For: completing a chain without fetching anything (SPEC T12). Only certificates of a path that
//! verified are learnt, so a server without a trusted certificate can put nothing in; and what is
//! learnt is only ever a candidate: it is verified each time. Cannot fail.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustls_pki_types::CertificateDer;

use super::sha256;
use crate::certificate::Certificate;
use crate::sharded::ShardedCache;

/// Subjects kept; past it the least recently used goes. With the two bounds below at most 16 MiB.
pub const SUBJECTS_BOUND: usize = 512;
/// Certificates of one subject (cross-signed ones); past it the oldest goes.
const PER_SUBJECT: usize = 4;
/// Longest certificate that is learnt.
const LONGEST: usize = 8 << 10;
/// Steps up from the leaf.
const DEPTH: usize = 6;

/// Learnt intermediates by SHA-256 of their subject. One serves all trust stores of a process.
#[derive(Debug)]
pub struct Intermediates {
    by_subject: ShardedCache<[u8; 32], Vec<CertificateDer<'static>>>,
    /// Grows with each one learnt.
    generation: AtomicU64,
}

impl Default for Intermediates {
    fn default() -> Self {
        Self { by_subject: ShardedCache::new(SUBJECTS_BOUND), generation: AtomicU64::new(0) }
    }
}

impl Intermediates {
    /// How many were ever learnt: where it is as it was, nothing new can be found.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Of a path that verified.
    pub(super) fn learn(&self, subject: &[u8], der: &CertificateDer<'_>) {
        if der.len() > LONGEST {
            return;
        }
        self.by_subject.with(sha256(subject), Vec::new, |known| {
            if known.iter().any(|one| one == der) {
                return;
            }
            if known.len() >= PER_SUBJECT {
                known.remove(0);
            }
            known.push(der.clone().into_owned());
            self.generation.fetch_add(1, Relaxed);
        });
    }

    /// Candidates of this name.
    pub(super) fn of(&self, subject: &[u8]) -> Vec<CertificateDer<'static>> {
        self.by_subject.find(&sha256(subject), |known| known.clone()).unwrap_or_default()
    }

    /// Candidates for the issuers, upwards from the leaf, that are not among `sent`.
    pub(super) fn missing(
        &self,
        leaf: &Certificate<'_>,
        sent: &[CertificateDer<'_>],
    ) -> Vec<CertificateDer<'static>> {
        let sent: Vec<_> = sent.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
        let mut missing: Vec<CertificateDer<'static>> = Vec::new();
        let mut wanted = leaf.issuer.to_vec();
        for _ in 0..DEPTH {
            let next = if let Some(one) = sent.iter().find(|one| one.subject == wanted) {
                one.issuer.to_vec()
            } else if let Some(known) =
                self.by_subject.find(&sha256(&wanted), |known| known.clone())
            {
                // Cross-signed ones have several issuers; those of the last are looked for.
                let last = known.last().map(|der| Certificate::parse(der));
                let Some(Ok(next)) = last.map(|last| last.map(|last| last.issuer.to_vec())) else {
                    break;
                };
                missing.extend(known);
                next
            } else {
                break;
            };
            if next == wanted {
                break;
            }
            wanted = next;
        }
        missing
    }
}
