//! What is counted per segment and per virtual segment, and histograms of times.
//!
//! For: the types that engine, agent and console pass on. Not for: counting. Every field has a
//! default, so that an older peer's message is still read. Cannot fail.

use serde::{Deserialize, Serialize};

/// One port, both directions, since its interface was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortTraffic {
    /// From the wire.
    pub received: Direction,
    /// To the wire.
    pub sent: Direction,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    pub packets: u64,
    pub bytes: u64,
    /// Lost in the interface or its driver.
    pub dropped: u64,
    /// Broken on the wire.
    pub errors: u64,
}

/// Flows of one outcome and reason, in the outcome's words (SPEC T11).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeCount {
    pub outcome: String,
    pub reason: Option<String>,
    pub flows: u64,
}

/// One virtual segment's share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualSegmentCounters {
    pub name: String,
    /// Packets and bytes of its flows, both directions; `None` where they are not counted.
    #[serde(default)]
    pub packets: Option<u64>,
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Judged flows.
    #[serde(default)]
    pub outcomes: Vec<OutcomeCount>,
    /// What eBPF dropped of its packets, and what user space counted of its held and taken flows; those
    /// that counted.
    #[serde(default)]
    pub counters: Vec<(String, u64)>,
    /// From the hold of a flow's first packet to its judgement.
    #[serde(default)]
    pub hold_time: Histogram,
    /// From the decision to take a flow over to its two sockets speaking.
    #[serde(default)]
    pub take_over_time: Histogram,
}

/// Times in µs, by powers of two: bucket 0 counts those under 1 µs, bucket n those from 2^(n-1) up
/// to, not including, 2^n µs; the last one everything above.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    pub buckets: Vec<u64>,
    /// The largest value, µs.
    pub maximum: u64,
}

impl Histogram {
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(*bucket))
    }

    /// A time in µs that at least `percent` of a hundred values do not exceed: the end of their
    /// bucket, or the maximum where that is less. `None` where nothing was counted.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = (u128::from(count) * u128::from(percent.min(100))).div_ceil(100).max(1);
        let mut seen = 0;
        for (bucket, values) in self.buckets.iter().enumerate() {
            seen += u128::from(*values);
            if seen >= wanted {
                return Some(bucket_end(bucket).map_or(self.maximum, |end| end.min(self.maximum)));
            }
        }
        Some(self.maximum)
    }

    /// The buckets that have values: (from, up to, how many), µs; the last may be without an end.
    pub fn filled(&self) -> impl Iterator<Item = (u64, Option<u64>, u64)> + '_ {
        let last = self.buckets.len().saturating_sub(1);
        self.buckets.iter().enumerate().filter(|(_, values)| **values > 0).map(
            move |(bucket, values)| {
                let start = bucket.checked_sub(1).and_then(bucket_end).unwrap_or(0);
                let end = if bucket == last { None } else { bucket_end(bucket) };
                (start, end, *values)
            },
        )
    }
}

/// 2^bucket µs.
fn bucket_end(bucket: usize) -> Option<u64> {
    u32::try_from(bucket).ok().and_then(|bucket| 1u64.checked_shl(bucket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_ends_of_their_buckets_or_the_maximum() {
        // 90 values under 1 µs, 9 from 8 to 16 µs, one of 100 µs.
        let mut buckets = vec![0; 32];
        (buckets[0], buckets[4], buckets[7]) = (90, 9, 1);
        let histogram = Histogram { buckets, maximum: 100 };
        assert_eq!(histogram.count(), 100);
        let percentiles = [50, 90, 91, 99, 100].map(|percent| histogram.percentile(percent));
        assert_eq!(percentiles, [Some(1), Some(1), Some(16), Some(16), Some(100)]);
        let filled: Vec<_> = histogram.filled().collect();
        assert_eq!(filled, [(0, Some(1), 90), (8, Some(16), 9), (64, Some(128), 1)]);
    }

    #[test]
    fn an_empty_histogram_has_no_percentile() {
        assert_eq!(Histogram::default().percentile(50), None);
        assert_eq!(Histogram { buckets: vec![0; 32], maximum: 0 }.percentile(99), None);
    }

    #[test]
    fn the_last_bucket_has_no_end() {
        let histogram = Histogram { buckets: vec![0, 0, 5], maximum: 70 };
        assert_eq!(histogram.filled().collect::<Vec<_>>(), [(2, None, 5)]);
        assert_eq!(histogram.percentile(50), Some(4));
    }
}
