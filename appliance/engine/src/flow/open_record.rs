//! A session's record from its first byte until it is told.
//!
//! For: what is known of a flow before anything is decided, and telling what became of it: to the
//! counters and to the agent, or to those that are told when asked for ([`crate::recent`]), once, whatever
//! becomes of the task that serves it. A task that panics drops
//! it without an outcome: its record says so, and names an outcome of its own. Not for: what legs tell
//! ([`crate::record`]). Cannot fail; what the agent does not take in time is lost and counted.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tracing::error;
use weir_api::engine::{Carried, FromEngine, SessionRecord};
use weir_policy::outcome::{Blocked, Bypassed, Outcome};

use super::milliseconds_now;
use crate::counters::Totals;
use crate::recent::Recent;
use crate::runtime::tell;
use crate::tally::Tally;

/// Where records are told.
#[derive(Clone, Copy)]
pub struct Ledger<'a> {
    pub totals: &'a Totals,
    pub tally: &'a Tally,
    pub recent: &'a Recent,
    pub events: &'a mpsc::Sender<FromEngine>,
}

/// Told when it is dropped.
pub(super) struct OpenRecord<'a> {
    record: Box<SessionRecord>,
    /// By the clock that nobody sets.
    opened: u64,
    outcome: Option<Outcome>,
    /// The flow is not held any more: its end resets both ends of it.
    taken: bool,
    /// `None`: it was handed over.
    ledger: Option<Ledger<'a>>,
}

impl<'a> OpenRecord<'a> {
    pub(super) fn new(record: Box<SessionRecord>, ledger: Ledger<'a>) -> Self {
        let opened = monotonic_milliseconds();
        Self { record, opened, outcome: None, taken: false, ledger: Some(ledger) }
    }

    pub(super) fn taken_over(&mut self) {
        self.taken = true;
        self.record.bytes = Some(Carried::default());
    }

    /// Counts the outcome and tells the agent.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// To be opened again by who goes on with the flow.
    pub(super) fn hand_over(mut self) -> Box<SessionRecord> {
        self.ledger = None;
        self.taken_out()
    }

    /// With the time for which it was open.
    fn taken_out(&mut self) -> Box<SessionRecord> {
        let end = self.record.client;
        let nothing = SessionRecord::new(0, 0, self.record.segment, end, end);
        let mut record = std::mem::replace(&mut self.record, Box::new(nothing));
        record.ended_monotonic = monotonic_milliseconds();
        let open = record.ended_monotonic.saturating_sub(self.opened);
        record.milliseconds = record.milliseconds.saturating_add(open);
        record
    }
}

impl Deref for OpenRecord<'_> {
    type Target = SessionRecord;

    fn deref(&self) -> &SessionRecord {
        &self.record
    }
}

impl DerefMut for OpenRecord<'_> {
    fn deref_mut(&mut self) -> &mut SessionRecord {
        &mut self.record
    }
}

impl Drop for OpenRecord<'_> {
    fn drop(&mut self) {
        let Some(Ledger { totals, tally, recent, events }) = self.ledger.take() else { return };
        let mut record = self.taken_out();
        record.outcome = self.outcome.unwrap_or_else(|| {
            let (session, client, server) = (record.id, record.client, record.server);
            error!(session, %client, %server, "a session's task failed; this is an error of Weir's");
            // As the data plane does with what nobody has any more.
            if self.taken {
                Outcome::Blocked(Blocked::InternalError)
            } else {
                Outcome::Bypassed(Bypassed::InternalError)
            }
        });
        // Of a flow that was held and then blocked nothing crossed.
        if matches!(record.outcome, Outcome::Blocked(_)) {
            record.bytes.get_or_insert_default();
        }
        record.ended = milliseconds_now();
        totals.statistics.count(&record);
        tally.count(record.segment, record.virtual_segment.as_ref(), record.outcome);
        if let Some(record) = recent.keep(record) {
            tell(events, totals, FromEngine::Session(record));
        }
    }
}

fn monotonic_milliseconds() -> u64 {
    // The kernel has this clock.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::{LocalSet, spawn_local};
    use weir_policy::snapshot::SegmentId;

    use super::*;
    use crate::leg::reset_on_close;

    fn panics() -> Outcome {
        panic!("expected by the test")
    }

    /// A session's task that fails; the record that is told of it, and what its client sees.
    async fn fails(taken: bool) -> (SessionRecord, Arc<Totals>, std::io::Error) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        // As taken flows' streams come.
        reset_on_close(&stream, true);
        let (events, mut told) = mpsc::channel(8);
        let totals = Arc::new(Totals::default());
        let (of_task, tally) = (Arc::clone(&totals), totals.tallies.add());
        let recent = totals.recent.add();
        let task = async move {
            let mut record = Box::new(SessionRecord::new(7, 1, SegmentId(1), address, address));
            record.names = Some(Arc::default());
            let ledger =
                Ledger { totals: &of_task, tally: &tally, recent: &recent, events: &events };
            let mut record = OpenRecord::new(record, ledger);
            if taken {
                record.taken_over();
            }
            let session = async {
                let _stream = stream;
                if taken {
                    record.bytes.as_mut().unwrap().to_client = 3;
                }
                tokio::task::yield_now().await;
                panics()
            };
            let outcome = session.await;
            record.finish(outcome);
        };
        let ended = LocalSet::new().run_until(async { spawn_local(task).await }).await;
        assert!(ended.unwrap_err().is_panic());
        let Some(FromEngine::Session(record)) = told.recv().await else { panic!("none is told") };
        assert!(told.recv().await.is_none(), "it is told twice");
        let seen = client.read(&mut [0; 1]).await.unwrap_err();
        (*record, totals, seen)
    }

    /// A clock that is set meanwhile changes neither.
    #[test]
    fn record_that_is_handed_over_tells_all_of_its_time_and_when_it_ended_since_boot() {
        let (events, mut told) = mpsc::channel(1);
        let totals = Totals::default();
        let (tally, recent) = (totals.tallies.add(), totals.recent.add());
        let ledger = Ledger { totals: &totals, tally: &tally, recent: &recent, events: &events };
        let end = "192.0.2.1:443".parse().unwrap();
        let mut record = Box::new(SessionRecord::new(7, u64::MAX, SegmentId(1), end, end));
        let before = monotonic_milliseconds();
        for _ in 0..2 {
            let open = OpenRecord::new(record, ledger);
            std::thread::sleep(Duration::from_millis(10));
            record = open.hand_over();
        }
        OpenRecord::new(record, ledger).finish(Outcome::DecryptedAndInspected);
        let Ok(FromEngine::Session(record)) = told.try_recv() else { panic!("none is told") };
        let after = monotonic_milliseconds();
        assert!((before + 18..=after).contains(&record.ended_monotonic), "{record:?}");
        assert!((18..=after - before).contains(&record.milliseconds), "{record:?}");
    }

    #[tokio::test]
    async fn session_whose_task_panics_is_reset_and_told_and_counted_as_what_it_is() {
        let (record, totals, seen) = fails(true).await;
        assert_eq!(seen.kind(), std::io::ErrorKind::ConnectionReset);
        let bytes = Some(Carried { to_server: 0, to_client: 3 });
        assert_eq!((record.id, record.bytes), (7, bytes));
        assert!(record.ended > record.started);
        assert_eq!(record.outcome, Outcome::Blocked(Blocked::InternalError));
        let counted = |totals: &Totals, outcome: &str| {
            let all = totals.tallies.outcomes();
            let of_it = all.iter().filter(|(word, reason, _)| {
                word == outcome && reason.as_deref() == Some("internal error")
            });
            of_it.map(|(_, _, flows)| flows).sum::<u64>()
        };
        assert_eq!(counted(&totals, "blocked"), 1);
        let statistics = totals.statistics.inspection(0);
        assert!(statistics.contains(&("connectionsBlocked".to_owned(), 1)), "{statistics:?}");
        // Held still: it goes back to the bridge.
        let (record, totals, _) = fails(false).await;
        assert_eq!(record.outcome, Outcome::Bypassed(Bypassed::InternalError));
        // Nobody counts what crosses then.
        assert_eq!(record.bytes, None);
        assert_eq!(counted(&totals, "bypassed"), 1);
    }
}
