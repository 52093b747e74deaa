//! How a relayed session ends before its time: a side breaks, or inspection drops the session.
//!
//! For: giving the other side what came before and the nearest alert, and telling a client that
//! left because of its certificate. Not for: sessions that close by themselves
//! ([`crate::closing::close_in_order`]). Each wait has a bound, past which streams are reset.

use std::io;
use std::time::Duration;

use tracing::debug;
use weir_api::engine::{BreakRecord, End, FilterAction};
use weir_inspect::Dropped;
use weir_policy::outcome::Blocked;
use weir_tls::LegError;

use super::direction::{Input, Progress};
use super::{Fault, Relay, sent_by};
use crate::closing::{DRAIN, make_room, part};
use crate::counters::increment;
use crate::leg::{HIGH_WATER, LegFault, progress, reset_on_close};

/// A client that closes so soon after the handshake, having said nothing, did not like the
/// certificate: so do programs that compare it with one that they know only once TLS is done. They do at
/// once; a client that has little of its machine's time has so long for it.
const REJECTS_WITHIN: Duration = Duration::from_secs(2);

/// Within it the runtime has asked the kernel for what has already happened.
const NEXT_EVENT: Duration = Duration::from_millis(1);

impl Relay<'_> {
    /// `by` broke the session, or ended it by an alert.
    pub(super) async fn broken(&mut self, by: End, fault: &LegFault) -> Option<Blocked> {
        self.note_broken(by, fault);
        if by == End::Client {
            self.rejected |= match fault {
                LegFault::Tls(LegError::AlertReceived(alert)) => alert.rejects_certificate(),
                LegFault::Tcp(_) => self.left_at_once(),
                _ => false,
            };
        }
        let until = self.dies.at();
        let winding = self.wind_down(by, fault.alert_for_other_side());
        if let Ok(blocked) = tokio::time::timeout_at(until, winding).await {
            return blocked;
        }
        // Both are reset by the drop of their streams.
        self.cut_short(by);
        None
    }

    /// What `by`, which is gone, had said last did not all reach its peer: who held it is told, and counted.
    pub(super) fn cut_short(&mut self, by: End) {
        let words = self.count_cut_short(by);
        if let Some(broken) = &mut self.record.broken {
            broken.words = format!("{}; {words}", broken.words);
        }
    }

    /// Counts the same, and says who held it.
    pub(super) fn count_cut_short(&mut self, by: End) -> &'static str {
        let (from, to) = self.sides(sent_by(by));
        let worker_holds = to.waits_for_worker(from);
        let totals = &self.surroundings.totals;
        let (counter, words) = if worker_holds {
            (&totals.cut_short_by_worker, "the legacy stack held what it had said last")
        } else {
            (&totals.cut_short_by_peer, "its peer took no more of what it had said last")
        };
        increment(counter);
        words
    }

    pub(super) fn note_broken(&mut self, by: End, fault: &LegFault) {
        debug!(session = self.record.id, %by, %fault, "session broken");
        self.record.broken = Some(BreakRecord { by, words: fault.in_short() });
    }

    /// Of a client that leaves now.
    pub(super) fn left_at_once(&self) -> bool {
        !self.client_spoke && self.started.elapsed() < REJECTS_WITHIN
    }

    /// The session is dropped: both sides are closed as the proxy's options say.
    pub(super) fn block(&mut self, dropped: &Dropped) -> Blocked {
        // Our Finished, where the request that is dropped came with the client's.
        let _ = self.server.leg.flush_some();
        reset_on_close(&self.client.leg.stream, self.resets_on_block.client);
        reset_on_close(&self.server.leg.stream, self.resets_on_block.server);
        if let Dropped::Filter(alert) = dropped {
            self.tell(alert, FilterAction::Block);
        }
        dropped.into()
    }

    /// `by` broke. What it sent before still goes to the other side, as it would without us (a server that
    /// answers and then resets is common) as long as that takes some of it, and its end where it had ended in
    /// order; then the other
    /// side gets `alert` and an orderly end, or is reset by the drop of its stream.
    async fn wind_down(&mut self, by: End, alert: Option<weir_tls::Alert>) -> Option<Blocked> {
        let direction = sent_by(by);
        // Before anything more is read: a stream that has told its error looks as if it had ended in order.
        let had_ended = self.sides(direction).0.ended;
        loop {
            let (from, to) = self.sides(direction);
            // Where its work is done elsewhere it is read on once that has come further.
            let with_worker = from.leg.tls.in_progress().wire > 0;
            if !from.reads() && (from.ended || from.fin_received || !with_worker) {
                break;
            }
            if to.leg.pending() >= HIGH_WATER
                && let Err(error) = make_room(&mut to.leg).await
            {
                if is_late(&error) {
                    self.cut_short(by);
                    return None;
                }
                break;
            }
            let (from, _) = self.sides(direction);
            let input = if from.reads() {
                Input::Wire
            } else {
                if tokio::time::timeout(DRAIN, progress(&mut from.leg.tls)).await.is_err() {
                    break;
                }
                Input::Buffered
            };
            match self.take_in(direction, input) {
                Ok(Progress::Some) => {}
                Ok(Progress::None) => {
                    // What came since the last event is told by the next.
                    let more = self.sides(direction).0.leg.stream.readable();
                    if tokio::time::timeout(NEXT_EVENT, more).await.is_err() {
                        break;
                    }
                }
                Err(Fault::Dropped(dropped)) => return Some(self.block(&dropped)),
                Err(_) => break,
            }
        }
        // What a leg whose work is done elsewhere was given before.
        let settled = async {
            while self.sides(direction).0.leg.tls.in_progress().wire > 0 {
                progress(&mut self.sides(direction).0.leg.tls).await;
                match self.take_in(direction, Input::Buffered) {
                    Ok(_) => {}
                    Err(Fault::Dropped(dropped)) => return Some(self.block(&dropped)),
                    Err(_) => break,
                }
            }
            None
        };
        let settled = tokio::time::timeout(DRAIN, settled).await;
        if let Ok(Some(blocked)) = settled {
            return Some(blocked);
        }
        let (from, to) = self.sides(direction);
        if let Some(alert) = alert {
            tokio::join!(part(&mut from.leg, None), part(&mut to.leg, Some(alert)));
            return None;
        }
        // An alert to the broken side, if TLS has one and TCP takes it.
        from.leg.collect();
        let _ = from.leg.flush_some();
        // Past it the other side is reset with what it did not take.
        let delivered = to.deliver_last(had_ended).await;
        if settled.is_err() || delivered.is_err_and(|error| is_late(&error)) {
            self.cut_short(by);
        }
        None
    }
}

fn is_late(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}
