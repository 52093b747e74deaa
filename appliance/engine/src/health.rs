//! Whether the engine is fit to judge new flows (SPEC D2, D10).
//!
//! For: entering Layer-2 fallback when the engine was stuck or is overloaded, and leaving it after a
//! time of continuous health. Not for: an engine that died or is stuck at this moment; it cannot say
//! so, and eBPF sees that by itself. A state machine without I/O whose time is handed in; it cannot
//! fail.

use std::time::Duration;

use weir_api::engine::FallbackReason;
use weir_policy::snapshot::Health as Settings;

use crate::HEARTBEAT;

/// Trouble must last so long before it counts as overload: one long step, or one burst that fills a
/// bound for a moment, is none. A bound that is full does its own work meanwhile.
const LASTS: Duration = Duration::from_secs(1);
/// So long after the last packet was lost nothing is being lost any more: more than lies between two
/// readings of the count.
const LOSS_ENDS: Duration = Duration::from_millis(900);

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
    full_since: Option<Duration>,
    packets_lost: Option<u64>,
    /// When packets began to be lost without a pause, and when the last one was.
    losing: Option<(Duration, Duration)>,
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
        self.losing = match self.losing {
            Some((since, _)) if lost => Some((since, sample.now)),
            None if lost => Some((sample.now, sample.now)),
            losing => losing.filter(|(_, last)| sample.now.saturating_sub(*last) <= LOSS_ENDS),
        };
        let losing = self.losing.is_some_and(|(since, last)| last.saturating_sub(since) >= LASTS);
        // A beat's silence is none.
        let silence = sample.silence.saturating_sub(HEARTBEAT);
        let late = sample.lateness.max(silence) > settings.overload_lag;
        let late = lasts(&mut self.late_since, late, sample.now);
        // Once full, it must be well below its bound to count as healthy.
        let bound = match self.fallback() {
            Some(FallbackReason::HeldFlows) => sample.held_limit - sample.held_limit / 5,
            _ => sample.held_limit,
        };
        let full = lasts(&mut self.full_since, sample.held >= bound, sample.now);
        if sample.silence > settings.heartbeat_timeout {
            Some(FallbackReason::Stuck)
        } else if full {
            Some(FallbackReason::HeldFlows)
        } else if losing {
            Some(FallbackReason::PacketsLost)
        } else if late {
            Some(FallbackReason::Late)
        } else {
            None
        }
    }
}

/// Whether what is `seen` now has been seen for long enough without a pause.
fn lasts(since: &mut Option<Duration>, seen: bool, now: Duration) -> bool {
    if !seen {
        *since = None;
        return false;
    }
    now.saturating_sub(*since.get_or_insert(now)) >= LASTS
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
        let lost = |milliseconds, packets_lost| Sample { packets_lost, ..at(milliseconds) };
        monitor.look(&lost(0, 5), &settings);
        monitor.look(&lost(500, 6), &settings);
        monitor.look(&lost(1000, 7), &settings);
        assert_eq!(monitor.fallback(), None, "not for long enough");
        monitor.look(&lost(1500, 8), &settings);
        assert_eq!(monitor.fallback(), Some(FallbackReason::PacketsLost));
        monitor.look(&lost(2500, 8), &settings);
        monitor.look(&lost(3000, 9), &settings);
        monitor.look(&lost(3500, 10), &settings);
        monitor.look(&lost(4000, 11), &settings);
        monitor.look(&lost(4950, 11), &settings);
        monitor.look(&lost(6900, 11), &settings);
        assert_eq!(monitor.fallback(), Some(FallbackReason::PacketsLost));
        monitor.look(&lost(6950, 11), &settings);
        assert_eq!(monitor.fallback(), None);
    }

    #[test]
    fn packets_lost_in_bursts_are_no_overload() {
        let (mut monitor, settings) = (Monitor::default(), Settings::default());
        for second in 0..60u64 {
            for part in 0..20 {
                // A thousand at a time, every other second.
                let packets_lost = second.div_ceil(2) * 1000;
                let now = Duration::from_millis(second * 1000 + part * 50);
                let sample = Sample { now, packets_lost, held_limit: 100, ..Sample::default() };
                assert!(!monitor.look(&sample, &settings), "{second}");
            }
        }
    }

    #[test]
    fn as_many_held_flows_as_there_may_be_are_no_overload_before_they_last() {
        let (mut monitor, settings) = (Monitor::default(), Settings::default());
        let held = |milliseconds, held| Sample { held, ..at(milliseconds) };
        monitor.look(&held(0, 100), &settings);
        monitor.look(&held(950, 100), &settings);
        monitor.look(&held(960, 99), &settings);
        monitor.look(&held(970, 100), &settings);
        monitor.look(&held(1950, 100), &settings);
        assert_eq!(monitor.fallback(), None);
        monitor.look(&held(1970, 100), &settings);
        assert_eq!(monitor.fallback(), Some(FallbackReason::HeldFlows));
    }

    #[test]
    fn held_flows_at_their_bound_must_go_well_below_it() {
        let (mut monitor, settings) = (Monitor::default(), Settings::default());
        monitor.look(&Sample { held: 100, ..at(0) }, &settings);
        monitor.look(&Sample { held: 100, ..at(1000) }, &settings);
        assert_eq!(monitor.fallback(), Some(FallbackReason::HeldFlows));
        monitor.look(&Sample { held: 90, ..at(5000) }, &settings);
        assert_eq!(monitor.fallback(), Some(FallbackReason::HeldFlows));
        monitor.look(&Sample { held: 79, ..at(6000) }, &settings);
        monitor.look(&Sample { held: 79, ..at(8000) }, &settings);
        assert_eq!(monitor.fallback(), None);
    }

    #[test]
    fn an_engine_that_turns_with_every_beat_is_not_late_by_the_smallest_lag() {
        let (mut monitor, mut settings) = (Monitor::default(), Settings::default());
        settings.overload_lag = Duration::from_millis(10);
        let silent = |milliseconds, silence| Sample {
            silence: Duration::from_millis(silence),
            ..at(milliseconds)
        };
        for beat in 0..60 {
            assert!(!monitor.look(&silent(beat * 55, 55), &settings), "beat {beat}");
        }
        monitor.look(&silent(4000, 61), &settings);
        monitor.look(&silent(5000, 61), &settings);
        assert_eq!(monitor.fallback(), Some(FallbackReason::Late));
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
