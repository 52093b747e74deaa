//! The agent's state as consoles are shown it: segments, virtual segments, availability, TLS inspection.
//!
//! For: joining what is configured with what the engine counted. Not for: how it looks on a screen.
//! Does not fail: what is not known is left out, or said to be unknown.

use std::collections::BTreeMap;

use weir_api::console::{
    HighAvailability, SegmentAvailability, SegmentView, TlsInspectionView, VirtualSegmentView,
};
use weir_api::engine::SegmentCounters;
use weir_api::links::LinkStatus;
use weir_api::sight::VirtualSegmentCounters;
use weir_policy::snapshot::{
    Layer2Fallback, LinkDownSynchronisation, Segment, SegmentId, Snapshot,
};

use super::State;
use super::fallback::crosses;

impl State {
    pub fn segment_views(&self) -> Vec<SegmentView> {
        let snapshot = self.snapshot();
        let mut ids: Vec<SegmentId> = snapshot.segments.iter().map(|segment| segment.id).collect();
        for id in &self.engine.segments {
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
        ids.sort_unstable();
        ids.iter().map(|id| self.segment_view(&snapshot, *id)).collect()
    }

    fn segment_view(&self, snapshot: &Snapshot, id: SegmentId) -> SegmentView {
        let configured = snapshot.segments.iter().find(|segment| segment.id == id);
        let counters = self
            .counters()
            .and_then(|counters| counters.segments.iter().find(|one| one.segment == id));
        let fallback = configured.map_or(Layer2Fallback::default(), |one| one.layer2_fallback);
        SegmentView {
            name: configured.map_or_else(|| format!("segment {}", id.0), |one| one.name.clone()),
            ports: [format!("{}A", id.0), format!("{}B", id.0)],
            layer2_fallback: fallback.word().into(),
            state: self.segment_state(snapshot),
            inspection_off: self.inspection_off(crosses(fallback).into()),
            meanings: counters.map(|one| self.meanings(&one.counters)).unwrap_or_default(),
            ..counters.map(counted).unwrap_or_default()
        }
    }

    fn segment_state(&self, snapshot: &Snapshot) -> String {
        match self.fallback_reason() {
            Some(reason) => format!("Layer-2 fallback ({reason})"),
            None if snapshot.device.client_inspection || snapshot.device.server_inspection => {
                "inspecting".into()
            }
            None => "bridging, TLS inspection off".into(),
        }
    }

    /// Of those that counted.
    fn meanings(&self, counters: &[(String, u64)]) -> BTreeMap<String, String> {
        let counted = counters.iter().filter(|(_, value)| *value > 0);
        counted
            .filter_map(|(name, _)| self.engine.counter_meanings.get_key_value(name))
            .map(|(name, meaning)| (name.clone(), meaning.clone()))
            .collect()
    }

    /// In the order of matching.
    pub fn virtual_segment_views(&self) -> Vec<VirtualSegmentView> {
        let snapshot = self.snapshot();
        let name_of = |id: &SegmentId| {
            let configured = snapshot.segments.iter().find(|segment| segment.id == *id);
            configured.map_or_else(|| id.0.to_string(), |segment| segment.name.clone())
        };
        let views = snapshot.virtual_segments.iter().zip(1..).map(|(one, order)| {
            let profile = snapshot.profiles.get(one.profile);
            let counted = self
                .counters()
                .and_then(|all| all.virtual_segments.iter().find(|c| c.name == one.name).cloned());
            VirtualSegmentView {
                order,
                segments: one.segments.iter().map(name_of).collect(),
                from: one.from.map(|side| format!("{side:?}")),
                vlans: one.vlans.clone(),
                sources: one.sources.iter().map(ToString::to_string).collect(),
                destinations: one.destinations.iter().map(ToString::to_string).collect(),
                profile: profile.map(|profile| profile.name.clone()).unwrap_or_default(),
                meanings: counted
                    .as_ref()
                    .map(|counted| self.meanings(&counted.counters))
                    .unwrap_or_default(),
                counted: VirtualSegmentCounters {
                    name: one.name.clone(),
                    ..counted.unwrap_or_default()
                },
            }
        });
        views.collect()
    }

    /// `links`: what link-down synchronisation told, or why it did not.
    pub fn high_availability(&self, links: &Result<Vec<LinkStatus>, String>) -> HighAvailability {
        let snapshot = self.snapshot();
        let availability = |view: SegmentView| {
            let configured = snapshot.segments.iter().find(|segment| segment.name == view.name);
            let of_view = |link: &&LinkStatus| view.ports[0] == format!("{}A", link.segment.0);
            let links = match links {
                Ok(links) => links.iter().find(of_view).map(ToString::to_string),
                Err(reason) => Some(format!("not known: {reason}")),
            };
            SegmentAvailability {
                name: view.name,
                ports: view.ports,
                layer2_fallback: view.layer2_fallback,
                state: view.state,
                link_down_synchronisation: configured.map_or_else(
                    || LinkDownSynchronisation::default().word().into(),
                    link_down_synchronisation,
                ),
                links: links.unwrap_or_default(),
            }
        };
        HighAvailability {
            state: self.availability(),
            fallback_forced: self.fallback_forced(),
            draining_engines: self.engine.draining,
            segments: self.segment_views().into_iter().map(availability).collect(),
        }
    }

    pub fn tls_inspection_view(&self) -> TlsInspectionView {
        TlsInspectionView {
            counters: self.counters().cloned(),
            ..TlsInspectionView::configured(&self.snapshot())
        }
    }
}

/// The part of a segment's view that the engine counted.
fn counted(counters: &SegmentCounters) -> SegmentView {
    SegmentView {
        counters: counters.counters.clone(),
        traffic: counters.ports,
        held_now: counters.held_now,
        hold_time: counters.hold_time.clone(),
        take_over_time: counters.take_over_time.clone(),
        outcomes: counters.outcomes.clone(),
        ..SegmentView::default()
    }
}

fn link_down_synchronisation(segment: &Segment) -> String {
    match segment.link_down_synchronisation {
        mode @ LinkDownSynchronisation::Hub => mode.word().into(),
        mode => format!("{}, wait {} s", mode.word(), segment.wait_time.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use weir_api::engine::FallbackReason;

    use super::*;

    #[test]
    fn segment_without_an_engine_is_in_fallback() {
        let mut state = State::default();
        state.engine.segments = vec![SegmentId(2)];
        let state_of = |state: &State| state.segment_views()[0].state.clone();
        assert_eq!(state_of(&state), "Layer-2 fallback (engine down)");
        state.engine.connections = 1;
        assert_eq!(state_of(&state), "Layer-2 fallback (engine stuck)");
        state.engine.heard = Some(Instant::now());
        assert_eq!(state_of(&state), "inspecting");
        state.engine.fallback = Some(FallbackReason::HeldFlows);
        assert_eq!(state_of(&state), "Layer-2 fallback (overloaded: held flows at their bound)");
        state.orders.send_modify(|orders| orders.fallback_forced = true);
        assert_eq!(state_of(&state), "Layer-2 fallback (forced)");
        assert_eq!(state.segment_views()[0].ports, ["2A", "2B"]);
    }
}
