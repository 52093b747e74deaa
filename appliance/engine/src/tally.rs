//! Flows by segment, virtual segment and outcome; and each virtual segment's holds, takeovers and
//! drops.
//!
//! Counted by the typed outcome itself; the words are made when the counters are told. Each runtime
//! has a tally of its own, so that nobody waits for its locks but the reader, once a second. Flows that
//! no judge saw (too many were held) are in their segments' counts only.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_api::sight::{Histogram, OutcomeCount, VirtualSegmentCounters};
use weir_dataplane::{DropReport, FlowCounts, FlowReport, HistogramReport};
use weir_policy::Outcome;
use weir_policy::outcome::Blocked;
use weir_policy::snapshot::SegmentId;

/// One runtime's count.
#[derive(Debug, Default)]
pub struct Tally {
    outcomes: Mutex<HashMap<Line, u64>>,
    /// By virtual segment.
    flows: Mutex<HashMap<String, Arc<FlowCounts>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Line {
    segment: SegmentId,
    virtual_segment: Option<Arc<str>>,
    outcome: Outcome,
}

/// Lines of a tally. Past it flows of new lines count without their virtual segment, filters
/// without their number; what is left is bounded by segments and reasons.
const MAX_LINES: usize = 16_384;
/// Virtual segments of a tally, under 1 KiB each. Past it, after many changes of names, the flows of
/// further ones are in their segments' counts only.
const MAX_VIRTUAL_SEGMENTS: usize = 2048;

impl Tally {
    pub fn count(&self, segment: SegmentId, virtual_segment: Option<&Arc<str>>, outcome: Outcome) {
        let mut lines = lock(&self.outcomes);
        let mut line = Line { segment, virtual_segment: virtual_segment.cloned(), outcome };
        if lines.len() >= MAX_LINES && !lines.contains_key(&line) {
            line = Line { segment, virtual_segment: None, outcome: without_number(outcome) };
        }
        let count = lines.entry(line).or_default();
        *count = count.saturating_add(1);
    }

    /// Where flows of a virtual segment count, but for their outcome; `None`: there are too many.
    pub fn flows_of(&self, virtual_segment: &str) -> Option<Arc<FlowCounts>> {
        let mut flows = lock(&self.flows);
        if let Some(counts) = flows.get(virtual_segment) {
            return Some(Arc::clone(counts));
        }
        if flows.len() >= MAX_VIRTUAL_SEGMENTS {
            return None;
        }
        Some(Arc::clone(flows.entry(virtual_segment.to_owned()).or_default()))
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

    /// What is counted of each virtual segment: its flows by outcome, filters together, its holds and
    /// takeovers, and what eBPF dropped of its packets.
    pub fn by_virtual_segment(&self, drops: &[DropReport]) -> Vec<VirtualSegmentCounters> {
        let mut outcomes = self.grouped(|line| {
            Some((line.virtual_segment.as_deref()?.to_owned(), without_number(line.outcome)))
        });
        let mut flows: BTreeMap<String, Vec<FlowReport>> =
            outcomes.keys().map(|name| (name.clone(), Vec::new())).collect();
        for tally in lock(&self.0).iter() {
            for (name, counts) in lock(&tally.flows).iter() {
                flows.entry(name.clone()).or_default().push(counts.read());
            }
        }
        for DropReport { virtual_segment, counters } in drops {
            let report = FlowReport { counters: counters.clone(), ..FlowReport::default() };
            flows.entry(virtual_segment.clone()).or_default().push(report);
        }
        flows
            .into_iter()
            .map(|(name, reports)| VirtualSegmentCounters {
                outcomes: in_words(outcomes.remove(&name).unwrap_or_default()),
                ..together(name, &reports)
            })
            .collect()
    }

    fn grouped<K: Ord>(
        &self,
        key: impl Fn(&Line) -> Option<(K, Outcome)>,
    ) -> BTreeMap<K, BTreeMap<Outcome, u64>> {
        let mut groups: BTreeMap<K, BTreeMap<Outcome, u64>> = BTreeMap::new();
        for tally in lock(&self.0).iter() {
            for (line, flows) in lock(&tally.outcomes).iter() {
                if let Some((group, outcome)) = key(line) {
                    let count = groups.entry(group).or_default().entry(outcome).or_default();
                    *count = count.saturating_add(*flows);
                }
            }
        }
        groups
    }
}

/// The runtimes' shares of one virtual segment.
fn together(name: String, reports: &[FlowReport]) -> VirtualSegmentCounters {
    let mut counters: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut hold_time, mut take_over_time) = <(HistogramReport, HistogramReport)>::default();
    for report in reports {
        for (counter, value) in &report.counters {
            let sum = counters.entry(*counter).or_default();
            *sum = sum.saturating_add(*value);
        }
        hold_time.add(&report.hold_time);
        take_over_time.add(&report.take_over_time);
    }
    VirtualSegmentCounters {
        name,
        counters: counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        hold_time: histogram(&hold_time),
        take_over_time: histogram(&take_over_time),
        ..VirtualSegmentCounters::default()
    }
}

/// As the console has it.
pub fn histogram(report: &HistogramReport) -> Histogram {
    Histogram { buckets: report.buckets.to_vec(), maximum: report.maximum }
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

    fn dmz() -> Arc<str> {
        "dmz".into()
    }

    const NOT_TLS: Outcome = Outcome::Bypassed(Bypassed::NotTls);

    #[test]
    fn a_tally_stays_bounded_and_loses_no_flow() {
        let tallies = Tallies::default();
        let tally = tallies.add();
        for sid in 1..20_000 {
            tally.count(SegmentId(1), Some(&dmz()), Outcome::Blocked(Blocked::Filter(sid)));
        }
        tally.count(SegmentId(1), Some(&dmz()), Outcome::DecryptedAndInspected);
        let lines = tallies.outcomes();
        assert!(lines.len() <= MAX_LINES + 2, "{}", lines.len());
        assert_eq!(lines.iter().map(|(_, _, count)| count).sum::<u64>(), 20_000);
    }

    #[test]
    fn virtual_segments_that_are_counted_stay_bounded() {
        let tallies = Tallies::default();
        let tally = tallies.add();
        for number in 0..MAX_VIRTUAL_SEGMENTS {
            assert!(tally.flows_of(&number.to_string()).is_some());
        }
        assert!(tally.flows_of("one more").is_none());
        assert!(tally.flows_of("0").is_some());
        assert_eq!(tallies.by_virtual_segment(&[]).len(), MAX_VIRTUAL_SEGMENTS);
    }

    #[test]
    fn flows_of_all_runtimes_are_grouped_by_segment_and_virtual_segment() {
        let tallies = Tallies::default();
        let (one, other) = (tallies.add(), tallies.add());
        one.count(SegmentId(1), Some(&dmz()), NOT_TLS);
        other.count(SegmentId(1), Some(&dmz()), NOT_TLS);
        other.count(SegmentId(2), None, NOT_TLS);
        other.count(SegmentId(1), Some(&dmz()), Outcome::Blocked(Blocked::Filter(7)));
        one.count(SegmentId(1), Some(&dmz()), Outcome::Blocked(Blocked::Filter(8)));

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
        let dropped = |virtual_segment: &str, count| DropReport {
            virtual_segment: virtual_segment.into(),
            counters: vec![("filter_dropped", count)],
        };
        let drops = [dropped("dmz", 3), dropped("guests", 4)];
        let virtual_segments = tallies.by_virtual_segment(&drops);
        let names: Vec<&str> = virtual_segments.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["dmz", "guests"]);
        assert_eq!(virtual_segments[0].outcomes, [expected(2), filters]);
        assert_eq!(virtual_segments[0].counters, [("filter_dropped".into(), 3)]);
        assert_eq!(virtual_segments[1].counters, [("filter_dropped".into(), 4)]);
        let all = tallies.outcomes();
        assert!(all.contains(&("blocked".into(), Some("filter 7".into()), 1)), "{all:?}");
        assert!(all.contains(&("bypassed".into(), Some("not TLS".into()), 3)), "{all:?}");
    }
}
