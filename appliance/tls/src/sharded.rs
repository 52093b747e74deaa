//! A bounded cache that all runtimes share, in parts with a lock each.
//!
//! For: what is looked up for every new session, so that two of them wait for one another only where
//! both are in the same part. Least recently used first out, by part: an entry may go a little before the
//! whole is full. Not for: what sessions look through as a whole. Cannot fail.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Some times as many as runtimes look something up at one time.
const PARTS: usize = 16;

/// At most as many entries as [`Self::new`] was told, in all parts together.
pub struct ShardedCache<K, V> {
    parts: [Mutex<LruCache<K, V>>; PARTS],
    /// Of a part.
    bound: usize,
    hasher: RandomState,
}

impl<K: Hash + Eq, V> ShardedCache<K, V> {
    /// No room in advance. `bound`: entries, a multiple of 16.
    pub fn new(bound: usize) -> Self {
        let parts = std::array::from_fn(|_| Mutex::new(LruCache::unbounded()));
        Self { parts, bound: (bound / PARTS).max(1), hasher: RandomState::new() }
    }

    /// Puts, or replaces.
    pub fn put(&self, key: K, value: V) {
        let mut part = self.lock(&key);
        part.put(key, value);
        if part.len() > self.bound {
            part.pop_lru();
        }
    }

    /// Acts on the entry, which is made where there is none; the part is locked meanwhile.
    pub fn with<T>(&self, key: K, make: impl FnOnce() -> V, act: impl FnOnce(&mut V) -> T) -> T {
        let mut part = self.lock(&key);
        let done = act(part.get_or_insert_mut(key, make));
        // The least recently used one is another than this.
        if part.len() > self.bound {
            part.pop_lru();
        }
        done
    }

    /// Acts on the entry, if there is one; the part is locked meanwhile.
    pub fn find<Q, T>(&self, key: &Q, act: impl FnOnce(&mut V) -> T) -> Option<T>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.lock(key).get_mut(key).map(act)
    }

    /// What was there.
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.lock(key).pop(key)
    }

    pub fn clear(&self) {
        self.parts.iter().for_each(|part| locked(part).clear());
    }

    /// Of each entry what is wanted, in no order; one part is locked at a time.
    pub fn gather<T>(&self, mut wanted: impl FnMut(&K, &V) -> Option<T>) -> Vec<T> {
        let mut gathered = Vec::new();
        for part in &self.parts {
            gathered.extend(locked(part).iter().filter_map(|(key, value)| wanted(key, value)));
        }
        gathered
    }

    /// Entries now.
    pub fn count(&self) -> usize {
        self.parts.iter().map(|part| locked(part).len()).sum()
    }

    fn lock<Q: Hash + ?Sized>(&self, key: &Q) -> MutexGuard<'_, LruCache<K, V>> {
        // Below 16, whatever the hash.
        let [first, ..] = &self.parts;
        let index = self.hasher.hash_one(key) as usize % PARTS;
        locked(self.parts.get(index).unwrap_or(first))
    }
}

fn locked<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K, V> fmt::Debug for ShardedCache<K, V> {
    /// Without what is in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardedCache({PARTS} parts of {})", self.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_stays_bounded_and_keeps_what_is_used() {
        let cache = ShardedCache::new(64);
        for number in 0..10_000 {
            cache.put(number, number);
            cache.with(-1, || 7, |value| assert_eq!(*value, 7));
        }
        assert_eq!(cache.count(), 64);
        assert_eq!(cache.find(&-1, |value| *value), Some(7));
        assert_eq!(cache.find(&0, |value| *value), None);
        assert_eq!(cache.remove(&-1), Some(7));
        assert_eq!(cache.find(&-1, |value| *value), None);
        let mut even = cache.gather(|_, value| (value % 2 == 0).then_some(*value));
        even.sort_unstable();
        assert!(!even.is_empty() && even.iter().all(|value| value % 2 == 0), "{even:?}");
        assert_eq!(cache.gather(|key, value| Some((*key, *value))).len(), cache.count());
        cache.clear();
        assert_eq!(cache.count(), 0);
    }

    #[test]
    fn one_that_is_locked_keeps_nearly_nobody_waiting() {
        let cache = ShardedCache::new(1024);
        let free = cache.with(
            0,
            || (),
            |()| cache.parts.iter().filter(|part| part.try_lock().is_ok()).count(),
        );
        assert_eq!(free, PARTS - 1);
    }
}
