//! Results of path searches, by chain, for one trust store.
//!
//! For: not verifying the same signatures at every visit. A result holds as long as no date of its
//! certificates is crossed, and one of "no path" as long as nothing new was learnt. Names, key
//! lengths and the leaf's own dates are no part of it: they are looked at each time. Cannot fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::CertificateDer;

use super::learnt::Intermediates;
use super::path::{Issuer, Verified};
use super::verdict::Failure;
use crate::hashed::Hashed;
use crate::sharded::ShardedCache;

/// Chains of which the result is kept, about 200 bytes each; past it the least recently used goes.
pub const PATHS_BOUND: usize = 8192;
/// What stands above leaves, kept once for all chains that share it; past it the least recently used
/// goes, and stays with the chains that have it. Only who is certified as an authority makes any, and
/// each has at most as many as webpki goes up (6), of those that one handshake has room for.
const ISSUERS_BOUND: usize = 512;

/// What a search came to.
pub(super) struct Found {
    pub(super) result: Result<Verified, Failure>,
    /// Seconds at which it may come to something else.
    pub(super) dates: Vec<i64>,
    /// [`Intermediates::generation`] before the search.
    pub(super) learnt: u64,
}

/// What is kept of it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) result: Result<Verified, Failure>,
    /// Holds from this second on and until before that one.
    from: i64,
    until: i64,
    learnt: u64,
}

#[derive(Debug)]
pub(super) struct PathCache {
    kept: ShardedCache<[u8; 32], Kept>,
    /// By their certificates and keys.
    issuers: ShardedCache<[u8; 32], Arc<[Issuer]>>,
    searches: AtomicU64,
}

impl Default for PathCache {
    fn default() -> Self {
        Self {
            kept: ShardedCache::new(PATHS_BOUND),
            issuers: ShardedCache::new(ISSUERS_BOUND),
            searches: AtomicU64::new(0),
        }
    }
}

impl PathCache {
    /// The result for the chain of `leaf` and `others` at `now`. Two who ask at once may both look: the result is the same.
    pub(super) fn get_or_look(
        &self,
        leaf: &Hashed<'_>,
        others: &[CertificateDer<'_>],
        now: i64,
        learnt: &Intermediates,
        look: impl FnOnce() -> Found,
    ) -> Kept {
        let key = key_of(leaf, others);
        let known = self.kept.find(&key, |kept| kept.clone());
        if let Some(kept) = known
            && (kept.from..kept.until).contains(&now)
            && (kept.result.is_ok() || kept.learnt == learnt.generation())
        {
            return kept;
        }
        self.searches.fetch_add(1, Relaxed);
        let found = look();
        let kept = Kept {
            result: found.result.map(|verified| self.shared(verified)),
            from: found.dates.iter().copied().filter(|date| *date <= now).max().unwrap_or(i64::MIN),
            until: found.dates.iter().copied().filter(|date| *date > now).min().unwrap_or(i64::MAX),
            learnt: found.learnt,
        };
        self.kept.put(key, kept.clone());
        kept
    }

    /// With the issuers of another chain, where they are the same.
    fn shared(&self, verified: Verified) -> Verified {
        let mut context = Context::new(&SHA256);
        for issuer in verified.issuers.iter() {
            context.update(&issuer.digest());
            let certificate = issuer.certificate.as_deref().unwrap_or_default();
            context.update(&certificate.len().to_be_bytes());
            context.update(certificate);
        }
        let Verified { weakest, issuers } = verified;
        let issuers = self.issuers.with(finish(context), || issuers, |shared| Arc::clone(shared));
        Verified { weakest, issuers }
    }

    /// Searches made so far.
    pub(super) fn searches(&self) -> u64 {
        self.searches.load(Relaxed)
    }
}

/// SHA-256 over the leaf's own and the others, each with its length before it.
fn key_of(leaf: &Hashed<'_>, others: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&leaf.sha256());
    for der in others {
        context.update(&der.len().to_be_bytes());
        context.update(der);
    }
    finish(context)
}

fn finish(context: Context) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}
