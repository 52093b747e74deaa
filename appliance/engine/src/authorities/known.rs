//! Of which certificates it is known whether they are revoked.
//!
//! For: answers that serve the sessions to come, and which of two answers counts. Not for: asking. Cannot
//! fail: what was pushed out is asked again.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use weir_api::engine::RevocationSource;
use weir_tls::SerialNumber;
use weir_tls::verify::revocation::{Answer, AnswerError, Status};

use super::{Revocation, Why};

/// Certificates, about 200 bytes each; past it the least recently used goes.
const KNOWN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(8191);

/// A certificate, by who issued it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    pub issuer: [u8; 32],
    pub serial: SerialNumber,
}

/// All times are seconds since the Unix epoch.
#[derive(Clone)]
struct Entry {
    revocation: Revocation,
    until: i64,
    /// thisUpdate of the last answer that said that it is revoked, for as long as it is remembered:
    /// none that was made before it is believed any more, however long that one holds.
    revoked: Option<i64>,
}

pub struct Known(Mutex<LruCache<Subject, Entry>>);

impl Default for Known {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(KNOWN)))
    }
}

impl Known {
    pub fn find(&self, subject: &Subject, now: i64) -> Option<Revocation> {
        let mut entries = self.entries();
        entries.get(subject).filter(|known| now < known.until).map(|known| known.revocation)
    }

    /// That it is unknown, and `lasts` so for so many seconds; unless another session has learnt more
    /// meanwhile.
    pub fn keep_unknown(&self, subject: &Subject, why: Why, now: i64, lasts: i64) -> Revocation {
        let mut entries = self.entries();
        let before = entries.peek(subject);
        if let Some(known) = before.filter(|before| now < before.until)
            && !matches!(known.revocation, Revocation::Unknown(_))
        {
            return known.revocation;
        }
        let revoked = before.and_then(|before| before.revoked);
        let (revocation, until) = (Revocation::Unknown(why), now.saturating_add(lasts));
        entries.put(subject.clone(), Entry { revocation, until, revoked });
        revocation
    }

    /// What follows from an answer and those before it. Whoever has the key of a revoked certificate has
    /// answers of before that say good, and may staple them for as long as they hold: what is known to
    /// be revoked stays so for as long as that is known, and then until a later answer.
    pub fn learn(
        &self,
        subject: &Subject,
        answer: Answer,
        source: RevocationSource,
        now: i64,
    ) -> Result<Revocation, AnswerError> {
        let mut entries = self.entries();
        let before = entries.peek(subject);
        let revoked = before.and_then(|before| before.revoked);
        let revoked = match answer.status {
            Status::Revoked => revoked.max(Some(answer.made)),
            Status::Good => {
                if let Some(Entry { revocation: was @ Revocation::Revoked(_), until, .. }) = before
                    && now < *until
                {
                    return Ok(*was);
                }
                if revoked.is_some_and(|revoked| answer.made <= revoked) {
                    return Err(AnswerError::Superseded);
                }
                None
            }
        };
        let revocation = Revocation::of(answer, source);
        entries.put(subject.clone(), Entry { revocation, until: answer.until, revoked });
        Ok(revocation)
    }

    /// That it is unknown.
    pub fn forget_unknown(&self) {
        let mut entries = self.entries();
        let is_unknown = |entry: &Entry| matches!(entry.revocation, Revocation::Unknown(_));
        let unknown = entries.iter().filter(|(_, entry)| is_unknown(entry));
        let unknown: Vec<Subject> = unknown.map(|(subject, _)| subject.clone()).collect();
        for subject in unknown {
            entries.pop(&subject);
        }
    }

    fn entries(&self) -> MutexGuard<'_, LruCache<Subject, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
