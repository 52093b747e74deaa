//! Flows by segment, virtual segment and outcome.
//!
//! Counted by the typed outcome itself; the words are made when the counters are told. Each runtime
//! has a tally of its own, so that nobody waits for its lock but the reader, once a second.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_api::sight::{OutcomeCount, VirtualSegmentCounters};
use weir_policy::Outcome;
use weir_policy::outcome::Blocked;
use weir_policy::snapshot::SegmentId;

/// One runtime's count.
#[derive(Debug, Default)]
pub struct Tally(Mutex<HashMap<Line, u64>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Line {
    segment: SegmentId,
    virtual_segment: Option<String>,
    outcome: Outcome,
}

/// Lines of a tally. Past it flows of new lines count without their virtual segment, filters
/// without their number; what is left is bounded by segments and reasons.
const MAX_LINES: usize = 16_384;

impl Tally {
    pub fn count(&self, segment: SegmentId, virtual_segment: Option<&str>, outcome: Outcome) {
        let mut lines = lock(&self.0);
        let mut line =
            Line { segment, virtual_segment: virtual_segment.map(ToOwned::to_owned), outcome };
        if lines.len() >= MAX_LINES && !lines.contains_key(&line) {
            line = Line { segment, virtual_segment: None, outcome: without_number(outcome) };
        }
        let count = lines.entry(line).or_default();
        *count = count.saturating_add(1);
    }
}

/// The tallies of all runtimes, read together.
#[derive(Debug, Default)]
pub struct Tallies(Mutex<Vec<Arc<Tally>>>);

impl Tallies {
    /// A new one: one runtime's own.
    pub fn add(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        lock(&self.0).push(Arc::clone(&tally));
        tally
    }

    /// All flows by outcome, filters by their number.
    pub fn outcomes(&self) -> Vec<(String, Option<String>, u64)> {
        let mut all = self.grouped(|line| Some(((), line.outcome)));
        in_words(all.remove(&()).unwrap_or_default())
            .into_iter()
            .map(|count| (count.outcome, count.reason, count.flows))
            .collect()
    }

    /// Each segment's flows by outcome, filters together.
    pub fn by_segment(&self) -> BTreeMap<SegmentId, Vec<OutcomeCount>> {
        self.grouped(|line| Some((line.segment, without_number(line.outcome))))
            .into_iter()
            .map(|(segment, outcomes)| (segment, in_words(outcomes)))
            .collect()
    }

    /// Each virtual segment's flows by outcome, filters together.
    pub fn by_virtual_segment(&self) -> Vec<VirtualSegmentCounters> {
        self.grouped(|line| Some((line.virtual_segment.clone()?, without_number(line.outcome))))
            .into_iter()
            .map(|(name, outcomes)| VirtualSegmentCounters {
                name,
                outcomes: in_words(outcomes),
                ..VirtualSegmentCounters::default()
            })
            .collect()
    }

    fn grouped<K: Ord>(
        &self,
        key: impl Fn(&Line) -> Option<(K, Outcome)>,
    ) -> BTreeMap<K, BTreeMap<Outcome, u64>> {
        let mut groups: BTreeMap<K, BTreeMap<Outcome, u64>> = BTreeMap::new();
        for tally in lock(&self.0).iter() {
            for (line, flows) in lock(&tally.0).iter() {
                if let Some((group, outcome)) = key(line) {
                    let count = groups.entry(group).or_default().entry(outcome).or_default();
                    *count = count.saturating_add(*flows);
                }
            }
        }
        groups
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All filters as one: filter 0 there is none.
fn without_number(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Blocked(Blocked::Filter(_)) => Outcome::Blocked(Blocked::Filter(0)),
        outcome => outcome,
    }
}

fn in_words(outcomes: BTreeMap<Outcome, u64>) -> Vec<OutcomeCount> {
    outcomes
        .into_iter()
        .map(|(outcome, flows)| OutcomeCount {
            outcome: outcome.to_string(),
            reason: match outcome {
                Outcome::Blocked(Blocked::Filter(0)) => Some("filters".into()),
                outcome => outcome.reason(),
            },
            flows,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use weir_policy::outcome::Bypassed;

    use super::*;

    const NOT_TLS: Outcome = Outcome::Bypassed(Bypassed::NotTls);

    #[test]
    fn a_tally_stays_bounded_and_loses_no_flow() {
        let tallies = Tallies::default();
        let tally = tallies.add();
        for sid in 1..20_000 {
            tally.count(SegmentId(1), Some("dmz"), Outcome::Blocked(Blocked::Filter(sid)));
        }
        tally.count(SegmentId(1), Some("dmz"), Outcome::DecryptedAndInspected);
        let lines = tallies.outcomes();
        assert!(lines.len() <= MAX_LINES + 2, "{}", lines.len());
        assert_eq!(lines.iter().map(|(_, _, count)| count).sum::<u64>(), 20_000);
    }

    #[test]
    fn flows_of_all_runtimes_are_grouped_by_segment_and_virtual_segment() {
        let tallies = Tallies::default();
        let (one, other) = (tallies.add(), tallies.add());
        one.count(SegmentId(1), Some("dmz"), NOT_TLS);
        other.count(SegmentId(1), Some("dmz"), NOT_TLS);
        other.count(SegmentId(2), None, NOT_TLS);
        other.count(SegmentId(1), Some("dmz"), Outcome::Blocked(Blocked::Filter(7)));
        one.count(SegmentId(1), Some("dmz"), Outcome::Blocked(Blocked::Filter(8)));

        let expected = |flows| OutcomeCount {
            outcome: "bypassed".into(),
            reason: Some("not TLS".into()),
            flows,
        };
        let filters =
            OutcomeCount { outcome: "blocked".into(), reason: Some("filters".into()), flows: 2 };
        let segments = tallies.by_segment();
        assert_eq!(segments[&SegmentId(1)], [expected(2), filters.clone()]);
        assert_eq!(segments[&SegmentId(2)], [expected(1)]);
        let virtual_segments = tallies.by_virtual_segment();
        assert_eq!(virtual_segments.len(), 1);
        assert_eq!(virtual_segments[0].name, "dmz");
        assert_eq!(virtual_segments[0].outcomes, [expected(2), filters]);
        let all = tallies.outcomes();
        assert!(all.contains(&("blocked".into(), Some("filter 7".into()), 1)), "{all:?}");
        assert!(all.contains(&("bypassed".into(), Some("not TLS".into()), 3)), "{all:?}");
    }
}
