//! Sessions that live: what is known of each so far, to be shown.
//!
//! For: flows that were taken over, from then to their end. Each runtime has a list of its own, so that nobody
//! waits for its lock but who asks. Not for: what became of them ([`crate::record`]). Bounded by the most
//! concurrent sessions of the device; an entry has under 1 KiB. Cannot fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use weir_api::engine::{LegRecord, LiveSession, LiveSessions, SessionRecord};
use weir_policy::Outcome;

/// One runtime's, by their numbers. Boxed: a tree that grows at its end alone has half of its room empty.
#[derive(Debug, Default)]
pub struct Live(Mutex<BTreeMap<u64, Box<Lives>>>);

/// A session, and since when.
#[derive(Debug)]
struct Lives {
    session: LiveSession,
    since: Instant,
}

/// In the list until it is dropped.
pub struct Listed<'a>(&'a Live, u64);

impl Live {
    /// A session whose handshakes begin.
    pub fn list(&self, record: &SessionRecord) -> Listed<'_> {
        let session = LiveSession {
            id: record.id,
            started: record.started,
            seconds: 0,
            segment: record.segment,
            client: record.client,
            server: record.server,
            server_name: record.server_name.clone(),
            policy: record.names.as_ref().map(|names| names.policy.clone()),
            outcome: None,
            client_leg: None,
            server_leg: None,
            draining: false,
        };
        lock(&self.0).insert(record.id, Box::new(Lives { session, since: Instant::now() }));
        Listed(self, record.id)
    }

    /// Its handshakes are done, or it is relayed: its outcome, where nothing else comes.
    pub fn settled(&self, record: &SessionRecord, outcome: Outcome) {
        let legs: [Option<LegRecord>; 2] = [record.client_leg.clone(), record.server_leg.clone()];
        if let Some(Lives { session, .. }) = lock(&self.0).get_mut(&record.id).map(Box::as_mut) {
            session.outcome = Some(outcome);
            [session.client_leg, session.server_leg] = legs;
            if session.server_name.is_none() {
                session.server_name.clone_from(&record.server_name);
            }
        }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).remove(&self.1);
    }
}

/// The lists of all runtimes, read together.
#[derive(Debug, Default)]
pub struct AllLive(Mutex<Vec<Arc<Live>>>);

impl AllLive {
    /// A new one: one runtime's own.
    pub fn add(&self) -> Arc<Live> {
        let live = Arc::new(Live::default());
        lock(&self.0).push(Arc::clone(&live));
        live
    }

    /// The newest `most`, at this time.
    pub fn newest(&self, most: usize, now: Instant) -> LiveSessions {
        let (mut sessions, mut count) = (Vec::new(), 0);
        for live in lock(&self.0).iter() {
            let live = lock(&live.0);
            count += live.len();
            sessions.extend(live.values().rev().take(most).map(|one| LiveSession {
                seconds: now.saturating_duration_since(one.since).as_secs(),
                ..one.session.clone()
            }));
        }
        sessions.sort_by_key(|session| std::cmp::Reverse(session.id));
        sessions.truncate(most);
        LiveSessions { sessions, count }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weir_policy::outcome::Bypassed;
    use weir_policy::snapshot::SegmentId;

    use super::*;

    #[test]
    fn sessions_of_all_runtimes_are_told_while_they_live_the_newest_first() {
        let all = AllLive::default();
        let (one, other) = (all.add(), all.add());
        let end = "192.0.2.1:443".parse().unwrap();
        // A clock that was set back meanwhile.
        let record = |id| SessionRecord::new(id, 1000 * (9 - id), SegmentId(1), end, end);
        let begun = Instant::now();
        let listed: Vec<_> =
            (1..=4).map(|id| if id % 2 == 0 { &one } else { &other }.list(&record(id))).collect();
        for live in [&one, &other] {
            for (id, session) in lock(&live.0).iter_mut() {
                session.since = begun + Duration::from_secs(*id);
            }
        }
        let told = |most| {
            let now = begun + Duration::from_secs(10);
            let LiveSessions { sessions, count } = all.newest(most, now);
            (sessions.iter().map(|one| (one.id, one.seconds)).collect::<Vec<_>>(), count)
        };
        assert_eq!(told(10), (vec![(4, 6), (3, 7), (2, 8), (1, 9)], 4));
        assert_eq!(told(1), (vec![(4, 6)], 4));
        let relayed = Outcome::Bypassed(Bypassed::NothingShared);
        one.settled(&SessionRecord { server_name: Some("a.example".into()), ..record(4) }, relayed);
        let newest = all.newest(1, begun).sessions.remove(0);
        let name = newest.server_name.as_deref();
        assert_eq!((newest.outcome, name), (Some(relayed), Some("a.example")));
        drop(listed);
        assert_eq!(told(10), (vec![], 0));
        one.settled(&record(4), relayed);
        assert_eq!(told(10).1, 0);
    }
}
