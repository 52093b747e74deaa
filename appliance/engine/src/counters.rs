//! What the engine counts: sessions by outcome and reason, and the TLS side's events.
//!
//! Counted by the typed outcome itself; the words are made when the counters are told.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_policy::Outcome;

use crate::threshold::Threshold;

/// Totals since the engine started. Shared by all runtimes.
#[derive(Debug, Default)]
pub struct Totals {
    /// Bounded by the number of distinct outcomes: past [`MAX_OUTCOMES`] (filters have a number
    /// each) new ones are counted as the outcome without its own line.
    outcomes: Mutex<BTreeMap<Outcome, u64>>,
    pub threshold: Threshold,
    pub client_hellos: AtomicU64,
    pub taken_over: AtomicU64,
    pub taken_before_judgement: AtomicU64,
    pub certificates_asked: AtomicU64,
    pub resumed_with_client: AtomicU64,
    pub resumed_with_server: AtomicU64,
    pub server_handshake_failures: AtomicU64,
    pub client_handshake_failures: AtomicU64,
    pub client_certificates_requested: AtomicU64,
    /// Messages that the agent did not take in time.
    pub events_lost: AtomicU64,
    next_session: AtomicU64,
}

/// Lines of the outcome table.
const MAX_OUTCOMES: usize = 4096;

impl Totals {
    pub fn count(&self, outcome: Outcome) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let full = outcomes.len() >= MAX_OUTCOMES && !outcomes.contains_key(&outcome);
        let line = match outcome {
            Outcome::Blocked(weir_policy::outcome::Blocked::Filter(_)) if full => {
                Outcome::Blocked(weir_policy::outcome::Blocked::Filter(0))
            }
            outcome => outcome,
        };
        let count = outcomes.entry(line).or_default();
        *count = count.saturating_add(1);
    }

    pub fn next_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    pub fn outcomes(&self) -> Vec<(String, Option<String>, u64)> {
        let outcomes = self.outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        outcomes.iter().map(|(o, count)| (o.to_string(), o.reason(), *count)).collect()
    }

    pub fn tls(&self) -> Vec<(String, u64)> {
        [
            ("ClientHellos seen", &self.client_hellos),
            ("flows taken over", &self.taken_over),
            ("taken over before judgement", &self.taken_before_judgement),
            ("forged certificates shown", &self.certificates_asked),
            ("sessions resumed with the client", &self.resumed_with_client),
            ("sessions resumed with the server", &self.resumed_with_server),
            ("server handshake failures", &self.server_handshake_failures),
            ("client handshake failures", &self.client_handshake_failures),
            ("client certificates requested", &self.client_certificates_requested),
            ("log messages lost", &self.events_lost),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.load(Ordering::Relaxed)))
        .collect()
    }
}

/// Adds one.
pub fn increment(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use weir_policy::outcome::Blocked;

    use super::*;

    #[test]
    fn outcome_table_stays_bounded() {
        let totals = Totals::default();
        for sid in 1..6000 {
            totals.count(Outcome::Blocked(Blocked::Filter(sid)));
        }
        totals.count(Outcome::DecryptedAndInspected);
        let lines = totals.outcomes();
        assert!(lines.len() <= MAX_OUTCOMES + 2);
        assert_eq!(lines.iter().map(|(_, _, count)| count).sum::<u64>(), 6000);
    }
}
