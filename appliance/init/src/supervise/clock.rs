//! Time as the supervisor lived it.
//!
//! For: back-off and watchdogs. Not for: wall clock, or telling others. A virtual machine that was
//! paused, or a host that gave it no processor for a while, lets the monotonic clock jump for
//! supervisor and service alike; a watchdog on that clock would kill a healthy service for a
//! silence that was nobody's fault. So only time in which this loop itself ran is counted.

use std::time::{Duration, Instant};

/// Most that one turn of the loop adds, however long it took.
pub const LONGEST_TURN: Duration = Duration::from_millis(500);

/// Since the supervisor began, jumps left out.
pub type Lived = Duration;

pub struct LivedClock {
    last: Instant,
    lived: Lived,
}

impl Default for LivedClock {
    fn default() -> Self {
        Self { last: Instant::now(), lived: Lived::ZERO }
    }
}

impl LivedClock {
    /// The time at the last turn.
    pub fn now(&self) -> Lived {
        self.lived
    }

    /// Once a turn: counts what has passed.
    pub fn turn(&mut self) -> Lived {
        self.turn_at(Instant::now())
    }

    fn turn_at(&mut self, instant: Instant) -> Lived {
        self.lived += instant.saturating_duration_since(self.last).min(LONGEST_TURN);
        self.last = instant;
        self.lived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_of_the_machine_counts_as_one_turn() {
        let mut clock = LivedClock::default();
        let start = clock.last;
        assert_eq!(clock.turn_at(start + Duration::from_millis(200)), Duration::from_millis(200));
        assert_eq!(
            clock.turn_at(start + Duration::from_secs(3600)),
            Duration::from_millis(200) + LONGEST_TURN
        );
    }

    #[test]
    fn a_clock_that_went_back_adds_nothing() {
        let mut clock = LivedClock::default();
        let start = clock.last;
        let _ = clock.turn_at(start + Duration::from_millis(100));
        assert_eq!(clock.turn_at(start), Duration::from_millis(100));
    }
}
