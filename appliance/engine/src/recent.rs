//! Sessions that ended, or were released, and that nobody is told of unless they ask: those that were not
//! decrypted, of proxies that do not log.
//!
//! For: `show sessions`. They are by far the most, and telling each of them to the agent costs more than
//! judging it. The newest are kept here and told when somebody asks; with an engine that ends without a
//! successor they are lost. What was decrypted or blocked, is logged, or failed of an error of ours is told at
//! once. Each runtime has a list of its own, so that nobody waits for its lock but who asks. Cannot fail.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_api::console::MOST_RECORDS;
use weir_api::engine::SessionRecord;
use weir_policy::Outcome;
use weir_policy::outcome::Bypassed;

/// One runtime's, the newest [`MOST_RECORDS`]: more are never asked for.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    sessions: VecDeque<Box<SessionRecord>>,
    /// Nobody can ask any more: there is a successor.
    closed: bool,
}

impl Recent {
    /// Takes what need not be told at once, in place of its oldest; what it does not take comes back.
    pub fn keep(&self, session: Box<SessionRecord>) -> Option<Box<SessionRecord>> {
        let at_once = match session.outcome {
            Outcome::NotDecrypted(_) => false,
            Outcome::Bypassed(reason) => reason == Bypassed::InternalError,
            _ => true,
        };
        if at_once || session.is_logged() {
            return Some(session);
        }
        let mut kept = lock(&self.0);
        if kept.closed {
            return Some(session);
        }
        if kept.sessions.len() >= MOST_RECORDS {
            kept.sessions.pop_front();
        }
        kept.sessions.push_back(session);
        None
    }
}

/// The lists of all runtimes.
#[derive(Debug, Default)]
pub struct AllRecent(Mutex<Vec<Arc<Recent>>>);

impl AllRecent {
    /// A new one: one runtime's own.
    pub fn add(&self) -> Arc<Recent> {
        let recent = Arc::new(Recent::default());
        lock(&self.0).push(Arc::clone(&recent));
        recent
    }

    /// The newest of all, the newest first.
    pub fn newest(&self, limit: usize) -> Vec<SessionRecord> {
        let limit = limit.min(MOST_RECORDS);
        let mut all = Vec::new();
        for recent in lock(&self.0).iter() {
            let kept = lock(&recent.0);
            all.extend(kept.sessions.iter().rev().take(limit).map(|session| (**session).clone()));
        }
        all.sort_by_key(|session| std::cmp::Reverse((session.ended_monotonic, session.id)));
        all.truncate(limit);
        all
    }

    /// The newest of all, no more than are ever asked for, the oldest first: as they would have been told. From
    /// now on none is kept.
    pub fn close(&self) -> impl Iterator<Item = Box<SessionRecord>> {
        let mut all = Vec::new();
        for recent in lock(&self.0).iter() {
            let kept = Kept { closed: true, ..Kept::default() };
            all.extend(std::mem::replace(&mut *lock(&recent.0), kept).sessions);
        }
        all.sort_by_key(|session| (session.ended_monotonic, session.id));
        all.split_off(all.len().saturating_sub(MOST_RECORDS)).into_iter()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use weir_policy::outcome::Blocked;
    use weir_policy::snapshot::SegmentId;

    use super::*;

    fn session(id: u64, outcome: Outcome) -> Box<SessionRecord> {
        let end = "192.0.2.1:443".parse().unwrap();
        let mut record = SessionRecord::new(id, id, SegmentId(1), end, end);
        (record.outcome, record.ended_monotonic) = (outcome, id);
        Box::new(record)
    }

    const RELEASED: Outcome = Outcome::Bypassed(Bypassed::NotTls);

    #[test]
    fn what_was_decrypted_blocked_or_is_logged_is_not_kept_back() {
        let all = AllRecent::default();
        let recent = all.add();
        assert!(recent.keep(session(1, Outcome::DecryptedAndInspected)).is_some());
        assert!(recent.keep(session(2, Outcome::Blocked(Blocked::Reputation))).is_some());
        let mut logged = session(3, RELEASED);
        logged.logging = true;
        assert!(recent.keep(logged).is_some());
        let of_ours = Outcome::Bypassed(Bypassed::InternalError);
        assert!(recent.keep(session(5, of_ours)).is_some());
        assert!(recent.keep(session(4, RELEASED)).is_none());
        let ids = |sessions: Vec<SessionRecord>| -> Vec<u64> {
            sessions.iter().map(|session| session.id).collect()
        };
        assert_eq!(ids(all.newest(10)), [4]);
    }

    #[test]
    fn the_newest_of_all_runtimes_are_told_and_the_oldest_go() {
        let all = AllRecent::default();
        let (one, other) = (all.add(), all.add());
        for id in 0..2 * MOST_RECORDS as u64 {
            let recent = if id % 2 == 0 { &one } else { &other };
            assert!(recent.keep(session(id, RELEASED)).is_none());
        }
        assert!(one.keep(session(9999, RELEASED)).is_none());
        let newest: Vec<u64> = all.newest(3).iter().map(|session| session.id).collect();
        assert_eq!(newest, [9999, 1999, 1998]);
        assert_eq!(all.newest(usize::MAX).len(), MOST_RECORDS);
        assert_eq!(lock(&one.0).sessions.len(), MOST_RECORDS);
    }

    #[test]
    fn a_closed_list_gives_back_all_it_has_and_keeps_nothing() {
        let all = AllRecent::default();
        let (one, other) = (all.add(), all.add());
        for recent in [&one, &other] {
            assert!(recent.keep(session(1, RELEASED)).is_none());
        }
        assert_eq!(all.close().count(), 2);
        assert!(one.keep(session(2, RELEASED)).is_some());
        assert!(all.newest(10).is_empty());
    }

    /// What hears it keeps the last that it is told: else one runtime's would displace all others.
    #[test]
    fn closed_lists_give_back_the_newest_of_all_in_the_order_of_their_ends() {
        let all = AllRecent::default();
        let (one, other) = (all.add(), all.add());
        let most = MOST_RECORDS as u64;
        for id in 0..2 * most {
            let recent = if id % 2 == 0 { &one } else { &other };
            assert!(recent.keep(session(id, RELEASED)).is_none());
        }
        let given: Vec<u64> = all.close().map(|session| session.id).collect();
        assert_eq!(given, (most..2 * most).collect::<Vec<_>>());
    }
}
