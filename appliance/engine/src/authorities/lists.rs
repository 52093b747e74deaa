//! Lists of revoked certificates, each fetched and verified once for all who are asked about by it.
//!
//! A list is kept by where it is and whose it is, as the numbers of what it revokes; that one cannot be
//! believed is kept as long as a failure. Not for: what a list is worth ([`RevocationList`]). Fails by
//! [`Why`].

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use rustls_pki_types::UnixTime;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use weir_api::fetch::Fetch;
use weir_tls::verify::Issuer;
use weir_tls::verify::revocation::{AnswerError, RevocationList};

use super::Why;
use super::fetching::{FAILURE_LASTS, Fetching, LASTS, Unavailable};

/// Of all lists kept together; past it the least recently used is forgotten, and one that is larger by
/// itself is not kept. The longest that is fetched (8 MiB) takes about 5 MiB.
const BYTES: usize = 64 << 20;
/// Lists, and those that are not believed; past it the least recently used is forgotten.
const MOST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

pub struct Lists {
    kept: Mutex<Kept>,
    /// Lists are read one at a time: a long one is a core's work for tens of milliseconds.
    turn: Arc<Semaphore>,
}

type Read = Result<Arc<RevocationList>, AnswerError>;
/// And for how long the same will come of it; `None`: it may be had at once.
pub type Got = (Result<Arc<RevocationList>, Why>, Option<Duration>);
/// From where, and by the digest of its issuer.
type Key = (Fetch, [u8; 32]);

struct Kept {
    /// With until when it is kept.
    lists: LruCache<Key, (Read, Instant)>,
    weight: usize,
    bound: usize,
}

impl Default for Lists {
    fn default() -> Self {
        Self::bounded(BYTES)
    }
}

impl Lists {
    /// `bound`: bytes of all.
    pub(super) fn bounded(bound: usize) -> Self {
        let kept = Mutex::new(Kept { lists: LruCache::new(MOST), weight: 0, bound });
        Self { kept, turn: Arc::new(Semaphore::new(1)) }
    }

    /// The list that is there, if it is that issuer's.
    pub async fn get(
        &self,
        fetching: &Fetching,
        fetch: &Fetch,
        issuer: &Issuer,
        now: UnixTime,
        deadline: Instant,
    ) -> Got {
        // Of this certificate of the issuer's: another with the same key may say otherwise, and is kept
        // under the same.
        if !issuer.signs_lists() {
            return (Err(AnswerError::Responder.into()), None);
        }
        let key = (fetch.clone(), issuer.digest());
        if let Some(found) = self.find(&key) {
            return found;
        }
        let bytes = match fetching.fetch(fetch.clone(), None, deadline).await {
            Ok(bytes) => bytes,
            Err(unavailable) => return (Err(unavailable.into()), fetching.lasts(fetch)),
        };
        let slow = (Err(Unavailable::Slow.into()), None);
        let turn = Arc::clone(&self.turn).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout_at(deadline, turn).await else { return slow };
        // Who had his turn before may have read the same.
        if let Some(found) = self.find(&key) {
            return found;
        }
        let issuer = issuer.clone();
        let read = tokio::task::spawn_blocking(move || {
            // Held for as long as it takes, whoever waits.
            let _turn = turn;
            RevocationList::read(&bytes, &issuer).map(Arc::new)
        });
        let Ok(read) = read.await else { return slow };
        let lasts = lasts(&read, now);
        self.put(key, read.clone(), Instant::now() + lasts);
        fetching.taken(fetch);
        (read.map_err(Why::from), Some(lasts))
    }

    /// That those are not to be believed which were not.
    pub fn forget_disbelieved(&self) {
        let mut kept = self.kept();
        let disbelieved = kept.lists.iter().filter(|(_, (read, _))| read.is_err());
        let disbelieved: Vec<Key> = disbelieved.map(|(key, _)| key.clone()).collect();
        for key in disbelieved {
            kept.lists.pop(&key);
        }
    }

    fn find(&self, key: &Key) -> Option<Got> {
        let mut kept = self.kept();
        let (read, until) = kept.lists.get(key)?;
        let lasts = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some((read.clone().map_err(Why::from), Some(lasts)))
    }

    fn put(&self, key: Key, read: Read, until: Instant) {
        let mut kept = self.kept();
        let weighs = weight(&read);
        if weighs > kept.bound {
            return;
        }
        if let Some((_, (before, _))) = kept.lists.push(key, (read, until)) {
            kept.weight = kept.weight.saturating_sub(weight(&before));
        }
        kept.weight = kept.weight.saturating_add(weighs);
        while kept.weight > kept.bound {
            let Some((_, (oldest, _))) = kept.lists.pop_lru() else { break };
            kept.weight = kept.weight.saturating_sub(weight(&oldest));
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(read: &Read) -> usize {
    read.as_ref().map_or(0, |list| list.weight())
}

/// One whose time ends at once, or has ended, is not asked for anew at once.
fn lasts(read: &Read, now: UnixTime) -> Duration {
    let Ok(list) = read else { return FAILURE_LASTS };
    let next = Duration::from_secs(u64::try_from(list.next()).unwrap_or(0));
    next.saturating_sub(Duration::from_secs(now.as_secs())).clamp(FAILURE_LASTS, LASTS)
}
