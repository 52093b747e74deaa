//! Whether the engine is fit to judge new flows (SPEC D2, D10).
//!
//! For: entering Layer-2 fallback when the engine was stuck or is overloaded, and leaving it after a
//! time of continuous health. Not for: an engine that died or is stuck at this moment; it cannot say
//! so, and eBPF sees that by itself. A state machine without I/O whose time is handed in; it cannot
//! fail.

use std::time::Duration;

use weir_api::engine::FallbackReason;
use weir_policy::snapshot::Health as Settings;

/// A runtime must be late for this long before it counts as overloaded: one long step is none.
const LATE_FOR: Duration = Duration::from_secs(1);

/// What was seen at one look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// On any clock that does not go back.
    pub now: Duration,
    /// Since the least lively runtime last showed that it turns.
    pub silence: Duration,
    /// By how much the least lively runtime was late then.
    pub lateness: Duration,
    pub held: usize,
    pub held_limit: usize,
    /// Packets of held flows that found no room on their way here, ever.
    pub packets_lost: u64,
}

/// The state between two looks.
#[derive(Debug, Default)]
pub struct Monitor {
    /// Why flows are not judged, and since when nothing speaks for it any more.
    fallback: Option<(FallbackReason, Option<Duration>)>,
    late_since: Option<Duration>,
    packets_lost: Option<u64>,
}

impl Monitor {
    /// Why fallback is in force.
    pub fn fallback(&self) -> Option<FallbackReason> {
        self.fallback.map(|(reason, _)| reason)
    }

    /// Looks; `true` where the state is another than before.
    pub fn look(&mut self, sample: &Sample, settings: &Settings) -> bool {
        let before = self.fallback();
        let trouble = self.trouble(sample, settings);
        self.fallback = match (trouble, self.fallback) {
            // The graver one stays the reason that is told.
            (Some(_), Some((FallbackReason::Stuck, _))) => Some((FallbackReason::Stuck, None)),
            (Some(reason), _) => Some((reason, None)),
            (None, Some((reason, since))) => {
                let since = since.unwrap_or(sample.now);
                (sample.now.saturating_sub(since) < settings.recovery_time)
                    .then_some((reason, Some(since)))
            }
            (None, None) => None,
        };
        self.fallback() != before
    }

    fn trouble(&mut self, sample: &Sample, settings: &Settings) -> Option<FallbackReason> {
        // The first look finds what was lost before this engine began: the counters outlive engines.
        let before = self.packets_lost.replace(sample.packets_lost);
        let lost = before.is_some_and(|before| sample.packets_lost > before);
        if sample.lateness.max(sample.silence) > settings.overload_lag {
            self.late_since.get_or_insert(sample.now);
        } else {
            self.late_since = None;
        }
        let late = self.late_since.is_some_and(|since| sample.now - since >= LATE_FOR);
        // Once full, it must be well below its bound to count as healthy.
        let full = match self.fallback() {
            Some(FallbackReason::HeldFlows) => sample.held_limit - sample.held_limit / 5,
            _ => sample.held_limit,
        };
        if sample.silence > settings.heartbeat_timeout {
            Some(FallbackReason::Stuck)
        } else if sample.held >= full {
            Some(FallbackReason::HeldFlows)
        } else if lost {
            Some(FallbackReason::PacketsLost)
        } else if late {
            Some(FallbackReason::Late)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Sample {
        Sample { now: Duration::from_millis(milliseconds), held_limit: 100, ..Sample::default() }
    }

    #[test]
    fn an_engine_that_was_stuck_must_be_healthy_for_a_while() {
        let (mut monitor, settings) = (Monitor::default(), Settings::default());
        assert!(!monitor.look(&at(0), &settings));
        let silence = Duration::from_millis(501);
        assert!(monitor.look(&Sample { silence, ..at(1000) }, &settings));
        assert_eq!(monitor.fallback(), Some(FallbackReason::Stuck));
        assert!(!monitor.look(&at(1050), &settings));
        assert!(!monitor.look(&at(3000), &settings));
        assert!(monitor.look(&at(3050), &settings));
        assert_eq!(monitor.fallback(), None);
    }

    #[test]
    fn trouble_in_between_starts_the_time_of_health_anew() {
        let (mut monitor, settings) = (Monitor::default(), Settings::default());
        monitor.look(&Sample { packets_lost: 5, ..at(0) }, &settings);
        assert_eq!(monitor.fallback(), None, "lost before this engine began");
        monitor.look(&Sample { packets_lost: 6, ..at(0) }, &settings);
        assert_eq!(monitor.fallback(), Some(FallbackReason::PacketsLost));
        let lost = |milliseconds, packets_lost| Sample { packets_lost, ..at(milliseconds) };
        monitor.look(&lost(1000, 6), &settings);
        monitor.look(&lost(2000, 7), &settings);
        monitor.look(&lost(2100, 7), &settings);
        monitor.look(&lost(4000, 7), &settings);
        assert_eq!(monitor.fallback(), Some(FallbackReason::PacketsLost));
        monitor.look(&lost(4100, 7), &settings);
        assert_eq!(monitor.fallback(), None);
    }

    #[test]
    fn held_flows_at_their_bound_must_go_well_below_it() {
        let (mut monitor, settings) = (Monitor::default(), Settings::default());
        monitor.look(&Sample { held: 100, ..at(0) }, &settings);
        assert_eq!(monitor.fallback(), Some(FallbackReason::HeldFlows));
        monitor.look(&Sample { held: 90, ..at(5000) }, &settings);
        assert_eq!(monitor.fallback(), Some(FallbackReason::HeldFlows));
        monitor.look(&Sample { held: 79, ..at(6000) }, &settings);
        monitor.look(&Sample { held: 79, ..at(8000) }, &settings);
        assert_eq!(monitor.fallback(), None);
    }

    #[test]
    fn one_late_turn_is_no_overload_and_a_second_of_them_is() {
        let (mut monitor, settings) = (Monitor::default(), Settings::default());
        let late =
            |milliseconds| Sample { lateness: Duration::from_millis(201), ..at(milliseconds) };
        monitor.look(&late(0), &settings);
        monitor.look(&late(950), &settings);
        assert_eq!(monitor.fallback(), None);
        monitor.look(&at(960), &settings);
        monitor.look(&late(1000), &settings);
        monitor.look(&late(1950), &settings);
        assert_eq!(monitor.fallback(), None);
        monitor.look(&late(2000), &settings);
        assert_eq!(monitor.fallback(), Some(FallbackReason::Late));
    }
}
