//! Histograms of durations: fixed buckets, one atomic addition a value, no allocation.
//!
//! For: times on a flow's path (hold, takeover). Not for: showing them (`weir_api::engine`). Bucket
//! 0 counts values under 1 µs, bucket n those from 2^(n-1) up to, not including, 2^n µs; the last
//! one everything above. Cannot fail; a reader sees each bucket by itself, not all at one moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The last bucket begins at 2^30 µs, some 18 minutes.
pub const BUCKETS: usize = 32;

#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    /// µs.
    maximum: AtomicU64,
}

/// A histogram as it was when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramReport {
    /// How many values each bucket has.
    pub buckets: [u64; BUCKETS],
    /// The largest value, µs.
    pub maximum: u64,
}

impl HistogramReport {
    /// The values of both.
    pub fn add(&mut self, other: &Self) {
        for (own, values) in self.buckets.iter_mut().zip(other.buckets) {
            *own = own.saturating_add(values);
        }
        self.maximum = self.maximum.max(other.maximum);
    }
}

impl Histogram {
    pub fn record(&self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - microseconds.leading_zeros()) as usize;
        if let Some(value) = self.buckets.get(bucket.min(BUCKETS - 1)) {
            value.fetch_add(1, Ordering::Relaxed);
        }
        // A read first: the line stays shared between processors while no value is the largest.
        if self.maximum.load(Ordering::Relaxed) < microseconds {
            self.maximum.fetch_max(microseconds, Ordering::Relaxed);
        }
    }

    pub fn read(&self) -> HistogramReport {
        HistogramReport {
            buckets: std::array::from_fn(|index| {
                self.buckets.get(index).map_or(0, |value| value.load(Ordering::Relaxed))
            }),
            maximum: self.maximum.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_in_the_bucket_of_its_power_of_two() {
        for (nanoseconds, bucket) in
            [(0, 0), (999, 0), (1_000, 1), (1_999, 1), (2_000, 2), (3_999, 2), (4_000, 3)]
        {
            let histogram = Histogram::default();
            histogram.record(Duration::from_nanos(nanoseconds));
            let mut expected = [0; BUCKETS];
            expected[bucket] = 1;
            assert_eq!(histogram.read().buckets, expected, "{nanoseconds} ns");
        }
    }

    #[test]
    fn values_past_the_last_bucket_count_there_and_the_maximum_is_kept() {
        let histogram = Histogram::default();
        for time in [Duration::from_secs(86_400), Duration::MAX, Duration::from_micros(7)] {
            histogram.record(time);
        }
        let report = histogram.read();
        assert_eq!(report.buckets[BUCKETS - 1], 2);
        assert_eq!(report.buckets[3], 1);
        assert_eq!(report.maximum, u64::MAX);
    }
}
