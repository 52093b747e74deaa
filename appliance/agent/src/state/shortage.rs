//! Want of room, for which flows pass unjudged or are dropped while everything else is well.
//!
//! For: warnings while the data plane's counters of it grow, and a line of the log when that begins and
//! when it is over. Not for: Layer-2 fallback, which the engine enters where all flows are concerned.
//! Does not fail.

use std::time::{Duration, Instant};

use weir_api::engine::Counters;

/// So long after a counter last grew the shortage is over.
const OVER: Duration = Duration::from_secs(10);

/// Counters of the data plane, and what is said while they grow.
const CAUSES: [(&str, &str); 9] = [
    (
        "flow_table_full_passed",
        "the flow table is full (device.flow-table): new flows cross uninspected",
    ),
    (
        "flow_table_full_dropped",
        "the flow table is full (device.flow-table): new flows are dropped",
    ),
    (
        "handshakes_full_passed",
        "silent flows fill their share of the flow table (device.flow-table): new ones may cross \
         uninspected",
    ),
    (
        "handshakes_full_dropped",
        "silent flows fill their share of the flow table (device.flow-table): new ones wait",
    ),
    (
        "take_over_no_socket",
        "no socket is left to take flows over: they cross uninspected, or are blocked, as policy \
         says",
    ),
    (
        "take_over_no_memory",
        "the kernel has no memory to take flows over: they cross uninspected, or are blocked, as \
         policy says",
    ),
    (
        "flow_released_unjudged",
        "too many flows are held, or a queue of them is full: flows cross uninspected",
    ),
    (
        "flow_blocked_unjudged",
        "too many flows are held, or a queue of them is full: flows are blocked",
    ),
    (
        "client_flood_passed",
        "a client has more flows than its share (device.max-handshakes-per-client): its new ones \
         cross uninspected",
    ),
];

/// What each of [`CAUSES`] counted last, and when it last grew.
#[derive(Debug, Default)]
pub struct Shortages([Seen; CAUSES.len()]);

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    count: Option<u64>,
    grew: Option<Instant>,
}

impl Shortages {
    /// Takes in what an engine counted until now, and logs what begins and what is over.
    pub fn note(&mut self, counters: &Counters, now: Instant) {
        for (seen, (name, cause)) in self.0.iter_mut().zip(CAUSES) {
            let counted = counters.segments.iter().flat_map(|segment| &segment.counters);
            let count = counted.filter(|(one, _)| one == name).map(|(_, count)| *count).sum();
            // What was counted before the first look may be long ago; so may an engine's that is
            // another one's successor, which begins anew.
            let grew = seen.count.replace(count).is_some_and(|before| count > before);
            if grew {
                if seen.grew.replace(now).is_none() {
                    tracing::warn!(counter = name, count, "{cause}");
                }
            } else if seen.grew.is_some_and(|last| now.saturating_duration_since(last) > OVER) {
                seen.grew = None;
                tracing::info!(counter = name, count, "over: {cause}");
            }
        }
    }

    /// What there is no room for at the moment.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.0
            .iter()
            .zip(CAUSES)
            .filter(|(seen, _)| seen.grew.is_some())
            .map(|(_, (_, cause))| cause.into())
    }
}

#[cfg(test)]
mod tests {
    use weir_api::engine::SegmentCounters;

    use super::*;
    use crate::state::State;

    fn counted(name: &str, counts: &[u64]) -> Counters {
        let segment = |count: &u64| SegmentCounters {
            counters: vec![(name.into(), *count)],
            ..Default::default()
        };
        Counters { segments: counts.iter().map(segment).collect(), ..Default::default() }
    }

    #[test]
    fn want_of_room_is_a_warning_as_long_as_it_goes_on() {
        let mut state = State::default();
        state.engine.connections = 1;
        let begun = Instant::now();
        let mut look = |name, counts: &[u64], seconds| {
            state.note_counters(counted(name, counts), begun + Duration::from_secs(seconds));
            state.all_warnings()
        };
        assert_eq!(look("flow_table_full_passed", &[7, 0], 0), [""; 0], "of a time before");
        let found = look("flow_table_full_passed", &[7, 1], 1);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("device.flow-table"), "{found:?}");
        assert_eq!(look("flow_table_full_passed", &[7, 1], 11).len(), 1);
        assert_eq!(look("flow_table_full_passed", &[7, 1], 12), [""; 0]);
        assert_eq!(look("packet_held", &[70, 1], 13), [""; 0], "an engine that begins anew");
    }

    #[test]
    fn every_cause_is_a_counter_that_the_data_plane_has() {
        for (name, _) in CAUSES {
            assert!(
                COUNTERS.contains(&format!("({name},")) || OWN.contains(&format!("\"{name}\"")),
                "{name}"
            );
        }
    }

    const COUNTERS: &str = include_str!("../../../dataplane/bpf/counters.h");
    const OWN: &str = include_str!("../../../dataplane/src/core.rs");
}
