//! The maximum of concurrent TLS sessions (SPEC D9): who is still admitted, and what the system log
//! is told.
//!
//! For: one gate that all runtimes pass. Not for: what becomes of a session that is not admitted;
//! the device's setting says so. Cannot fail.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The log is told of a crossing at most so often: sessions that come and go at the threshold would
/// fill it.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Counts the sessions that live, and closes at the maximum until a twentieth of it is free again.
#[derive(Debug)]
pub struct Threshold {
    /// Decrypted sessions that live now.
    live: AtomicU32,
    over: AtomicBool,
    /// While it is over: below so many, sessions are admitted again.
    reopens_below: AtomicU32,
    started: Instant,
    /// When a crossing was last told: milliseconds since `started`, plus 1; 0: never.
    told: AtomicU64,
    /// Whether the crossing that holds was told, so that its end is told too.
    announced: AtomicBool,
}

/// What a session that asks is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is counted until [`Threshold::leave`]. `back_under`: the log is to be told that sessions
    /// are admitted again.
    Admitted { back_under: bool },
    /// `tell`: the log is to be told.
    Refused { tell: bool },
}

impl Default for Threshold {
    fn default() -> Self {
        Self {
            live: AtomicU32::new(0),
            over: AtomicBool::new(false),
            reopens_below: AtomicU32::new(0),
            started: Instant::now(),
            told: AtomicU64::new(0),
            announced: AtomicBool::new(false),
        }
    }
}

impl Threshold {
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Relaxed)
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn admit(&self, maximum: u32) -> Admission {
        self.admit_at(maximum, self.started.elapsed())
    }

    fn admit_at(&self, maximum: u32, now: Duration) -> Admission {
        // While it is over, a twentieth must be free first, one session at least.
        let was_over = self.is_over();
        let reopens_below = maximum - maximum / 20;
        let bound = if was_over { reopens_below } else { maximum };
        let admitted = self
            .live
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |live| {
                (live < bound).then(|| live.saturating_add(1))
            })
            .is_ok();
        if admitted {
            // The maximum is another than it was.
            return Admission::Admitted { back_under: was_over && self.reopen() };
        }
        self.reopens_below.store(reopens_below, Ordering::Relaxed);
        let crossed = !self.over.swap(true, Ordering::Relaxed);
        Admission::Refused { tell: crossed && self.may_tell(now) }
    }

    /// A session that was admitted has ended. Whether the log is to be told that sessions are admitted
    /// again.
    pub fn leave(&self) -> bool {
        let live = self.live.fetch_sub(1, Ordering::Relaxed).saturating_sub(1);
        self.is_over() && live < self.reopens_below.load(Ordering::Relaxed) && self.reopen()
    }

    fn reopen(&self) -> bool {
        self.over.swap(false, Ordering::Relaxed) && self.announced.swap(false, Ordering::Relaxed)
    }

    fn may_tell(&self, now: Duration) -> bool {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX - 1) + 1;
        let last = self.told.load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= TOLD_EVERY.as_millis() as u64;
        if due {
            self.told.store(now, Ordering::Relaxed);
            self.announced.store(true, Ordering::Relaxed);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMITTED: Admission = Admission::Admitted { back_under: false };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn sessions_past_the_maximum_are_refused_and_told_once() {
        let threshold = Threshold::default();
        for _ in 0..40 {
            assert_eq!(threshold.admit_at(40, at(0)), ADMITTED);
        }
        assert_eq!(threshold.admit_at(40, at(0)), Admission::Refused { tell: true });
        assert_eq!(threshold.admit_at(40, at(0)), Admission::Refused { tell: false });
        assert_eq!(threshold.live(), 40);
    }

    #[test]
    fn sessions_come_back_under_it_by_themselves_once_a_twentieth_is_free() {
        let threshold = Threshold::default();
        for _ in 0..40 {
            let _ = threshold.admit_at(40, at(0));
        }
        let _ = threshold.admit_at(40, at(0));
        for _ in 0..2 {
            assert!(!threshold.leave());
            assert_eq!(threshold.admit_at(40, at(1)), Admission::Refused { tell: false });
        }
        assert!(threshold.is_over());
        assert!(threshold.leave(), "told, though no session asks");
        assert!(!threshold.is_over());
        assert_eq!(threshold.admit_at(40, at(1)), ADMITTED);
        assert!(!threshold.leave());
    }

    #[test]
    fn a_maximum_that_is_raised_admits_again() {
        let threshold = Threshold::default();
        let _ = threshold.admit_at(1, at(0));
        let _ = threshold.admit_at(1, at(0));
        assert_eq!(threshold.admit_at(2, at(0)), Admission::Admitted { back_under: true });
        assert!(!threshold.is_over());
    }

    #[test]
    fn a_maximum_of_one_admits_again_when_it_is_free() {
        let threshold = Threshold::default();
        assert_eq!(threshold.admit_at(1, at(0)), ADMITTED);
        assert_eq!(threshold.admit_at(1, at(0)), Admission::Refused { tell: true });
        assert!(threshold.leave());
        assert_eq!(threshold.admit_at(1, at(0)), ADMITTED);
    }

    #[test]
    fn crossings_in_quick_succession_are_told_once_a_minute() {
        let threshold = Threshold::default();
        let mut told = 0;
        for second in 0..120 {
            assert!(matches!(threshold.admit_at(1, at(second)), Admission::Admitted { .. }));
            if threshold.admit_at(1, at(second)) == (Admission::Refused { tell: true }) {
                told += 1;
            }
            threshold.leave();
        }
        assert_eq!(told, 2);
    }
}
