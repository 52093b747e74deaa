//! What the agent holds while it runs: the policy in force, what the engine told, and the newest
//! sessions and events.
//!
//! Not for: I/O; the tasks that serve engine and consoles change this state through its methods.
//! Everything here is bounded: rings drop their oldest, the rest is one value each.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use weir_api::console::{
    HighAvailability, InspectionOff, SegmentAvailability, SegmentView, TlsInspectionView,
    VirtualSegmentView,
};
use weir_api::engine::{Counters, FallbackReason, FilterEvent, SegmentCounters, SessionRecord};
use weir_api::init::{MachineStatus, Mode};
use weir_api::links::LinkStatus;
use weir_api::sight::VirtualSegmentCounters;
use weir_policy::snapshot::{
    Layer2Fallback, LinkDownSynchronisation, OverThreshold, Segment, SegmentId, Snapshot,
};

use crate::accounts::Accounts;
use crate::questions::Engines;

/// Sessions and events kept; a new one drops the oldest.
const RECORDS_KEPT: usize = 4096;

/// An engine that says nothing for so long (it tells its counters each second) is stuck.
const SILENT: Duration = Duration::from_millis(2500);

/// What every connected engine is to have, now.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    pub snapshot: Arc<Snapshot>,
    pub fallback_forced: bool,
    /// How often it was ordered that the engine forget what it has learnt to bypass.
    pub forget_learnt: u64,
    /// Grows with each order to clear the proxied sessions.
    pub sessions_cleared: u64,
}

#[derive(Debug)]
pub struct State {
    pub orders: watch::Sender<Orders>,
    /// There while fallback is forced.
    forced_file: Option<PathBuf>,
    pub hostname: Option<String>,
    /// The running configuration for showing, secrets left out.
    pub document: String,
    pub accounts: Accounts,
    /// What was wrong with the configuration at boot or at the last reload; a line each.
    pub configuration_errors: Vec<String>,
    /// Things an operator should know that hold until the agent ends.
    pub warnings: Vec<String>,
    pub machine: Option<MachineStatus>,
    /// Since when Layer-2 fallback is in force.
    fallback_since: Option<SystemTime>,
    pub engine: Engine,
    pub sessions: Ring<SessionRecord>,
    /// Of proxies whose logging is on.
    pub tls_inspection_log: Ring<SessionRecord>,
    pub events: Ring<FilterEvent>,
}

/// What the engine told.
#[derive(Debug, Default)]
pub struct Engine {
    /// Connections now; more than one only for the moment in which a restarted engine is faster
    /// than the end of its predecessor.
    pub connections: usize,
    /// Connections of engines that have a successor; not among the others.
    pub draining: usize,
    /// Why the engine judges no new flow, though it lives.
    pub fallback: Option<FallbackReason>,
    /// When the engine last said something.
    pub heard: Option<Instant>,
    pub starts: u64,
    pub segments: Vec<SegmentId>,
    pub applied: Option<u64>,
    pub refused: Option<String>,
    pub counters: Option<Counters>,
    pub asked: Engines,
    /// What one count of each of the data plane's counters means.
    pub counter_meanings: BTreeMap<String, String>,
}

impl Engine {
    pub fn connections_of_all_kinds(&self) -> usize {
        self.connections + self.draining
    }
}

/// The newest values, at most [`RECORDS_KEPT`].
#[derive(Debug)]
pub struct Ring<T>(VecDeque<T>);

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Clone> Ring<T> {
    pub fn push(&mut self, value: T) {
        if self.0.len() == RECORDS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    /// The newest first.
    pub fn newest(&self, limit: usize) -> Vec<T> {
        self.0.iter().rev().take(limit).cloned().collect()
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            orders: watch::Sender::new(Orders::default()),
            forced_file: None,
            hostname: None,
            document: String::new(),
            accounts: Accounts::default(),
            configuration_errors: Vec::new(),
            warnings: Vec::new(),
            machine: None,
            fallback_since: None,
            engine: Engine::default(),
            sessions: Ring::default(),
            tls_inspection_log: Ring::default(),
            events: Ring::default(),
        }
    }
}

impl State {
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.orders.borrow().snapshot.clone()
    }

    pub fn fallback_forced(&self) -> bool {
        self.orders.borrow().fallback_forced
    }

    /// Keeps the order over restarts of the agent: it holds until another is given.
    ///
    /// # Errors
    /// It is in force, but could not be kept.
    pub fn force_fallback(&self, on: bool) -> io::Result<()> {
        self.orders.send_modify(|orders| orders.fallback_forced = on);
        match (&self.forced_file, on) {
            (None, _) => Ok(()),
            (Some(file), true) => fs::write(file, "forced by command\n"),
            (Some(file), false) => match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Takes up what an agent before this one was told.
    pub fn keep_orders_in(&mut self, directory: &Path) {
        let file = directory.join("fallback-forced");
        let forced = file.exists();
        self.orders.send_modify(|orders| orders.fallback_forced = forced);
        self.forced_file = Some(file);
    }

    /// The counters of the engine that is connected; none of one that went away.
    pub fn counters(&self) -> Option<&Counters> {
        self.engine.counters.as_ref().filter(|_| self.engine.connections > 0)
    }

    /// One of the data plane's counters, of all segments together; `None` where nothing is known.
    pub fn counted(&self, name: &str) -> Option<u64> {
        let segments = &self.counters()?.segments;
        let counters = segments.iter().flat_map(|segment| &segment.counters);
        Some(counters.filter(|(one, _)| one == name).map(|(_, count)| count).sum())
    }

    /// SPEC L3: TLS inspection runs in performance mode only. Without init (the lab) it is
    /// assumed.
    pub fn mode(&self) -> Mode {
        self.machine.as_ref().map_or(Mode::Performance, |machine| machine.mode)
    }

    /// What an operator should know, newest facts included.
    pub fn all_warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        if let Some(machine) = &self.machine {
            warnings.extend(machine.warnings.iter().cloned());
            if !machine.rdrand && !machine.warnings.iter().any(|w| w.contains("RDRAND")) {
                warnings.push("the processor offers no RDRAND".into());
            }
            if machine.mode == Mode::Normal {
                warnings.push("normal mode: TLS inspection is off".into());
            }
        }
        if self.engine.connections == 0 {
            warnings.push("no engine is connected: new flows cross uninspected".into());
        }
        if self.counters().is_some_and(|counters| counters.over_threshold) {
            let device = &self.snapshot().device;
            let becomes = match device.over_threshold {
                OverThreshold::Bypass => "bypassed",
                OverThreshold::Block => "blocked",
            };
            warnings.push(format!(
                "TLS inspection is over its threshold of {} concurrent sessions: new ones are {becomes}",
                device.max_concurrent_sessions
            ));
        }
        if let Some(refused) = &self.engine.refused {
            warnings.push(format!("the engine refused the policy: {refused}"));
        }
        warnings.extend(
            self.configuration_errors.iter().map(|error| format!("configuration: {error}")),
        );
        warnings
    }

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

    /// Why no new flow is judged; `None`: normal operation (SPEC D2).
    pub fn fallback_reason(&self) -> Option<String> {
        let silent = || self.engine.heard.is_none_or(|heard| heard.elapsed() > SILENT);
        if self.fallback_forced() {
            Some("forced".into())
        } else if self.engine.connections == 0 {
            Some("engine down".into())
        } else if silent() {
            Some("engine stuck".into())
        } else {
            self.engine.fallback.map(|reason| reason.to_string())
        }
    }

    /// `normal operation`, or `Layer-2 fallback: REASON`.
    pub fn availability(&self) -> String {
        match self.fallback_reason() {
            Some(reason) => format!("Layer-2 fallback: {reason}"),
            None => "normal operation".into(),
        }
    }

    /// To be called often: keeps since when Layer-2 fallback is in force. How long it was, where it
    /// is no more.
    pub fn note_fallback(&mut self) -> Option<Duration> {
        if self.fallback_reason().is_some() {
            self.fallback_since.get_or_insert_with(SystemTime::now);
            return None;
        }
        self.fallback_since.take().map(|since| since.elapsed().unwrap_or_default())
    }

    fn inspection_off(&self, crosses: String) -> Option<InspectionOff> {
        self.fallback_reason()?;
        // Not noted yet: since this moment.
        let since = self.fallback_since.unwrap_or_else(SystemTime::now);
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(InspectionOff { since: u64::try_from(since.as_millis()).unwrap_or(0), crosses })
    }

    /// Of the whole device: `None` outside of Layer-2 fallback.
    pub fn inspection_off_everywhere(&self) -> Option<InspectionOff> {
        let snapshot = self.snapshot();
        let blocks = |segment: &Segment| segment.layer2_fallback == Layer2Fallback::BlockAll;
        let crosses = if !snapshot.segments.iter().any(blocks) {
            crosses(Layer2Fallback::PermitAll).into()
        } else if snapshot.segments.iter().all(blocks) {
            crosses(Layer2Fallback::BlockAll).into()
        } else {
            format!(
                "{} (permit-all), or {} (block-all)",
                crosses(Layer2Fallback::PermitAll),
                crosses(Layer2Fallback::BlockAll)
            )
        };
        self.inspection_off(crosses)
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

    fn segment_state(&self, snapshot: &Snapshot) -> String {
        match self.fallback_reason() {
            Some(reason) => format!("Layer-2 fallback ({reason})"),
            None if snapshot.device.client_inspection || snapshot.device.server_inspection => {
                "inspecting".into()
            }
            None => "bridging, TLS inspection off".into(),
        }
    }

    pub fn tls_inspection_view(&self) -> TlsInspectionView {
        TlsInspectionView {
            counters: self.counters().cloned(),
            ..TlsInspectionView::configured(&self.snapshot())
        }
    }
}

/// What a segment in Layer-2 fallback lets through (SPEC D2).
fn crosses(fallback: Layer2Fallback) -> &'static str {
    match fallback {
        Layer2Fallback::PermitAll => {
            "everything crosses, whatever filters, reputation and quarantine say"
        }
        Layer2Fallback::BlockAll => "nothing crosses",
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
    use super::*;

    #[test]
    fn ring_drops_its_oldest_and_tells_the_newest_first() {
        let mut ring = Ring::default();
        for number in 0..=RECORDS_KEPT {
            ring.push(number);
        }
        assert_eq!(ring.newest(2), [RECORDS_KEPT, RECORDS_KEPT - 1]);
        let all = ring.newest(usize::MAX);
        assert_eq!(all.len(), RECORDS_KEPT);
        assert_eq!(all.last(), Some(&1));
    }

    #[test]
    fn forced_fallback_is_kept_for_the_next_agent() {
        let directory = tempfile::tempdir().unwrap();
        let agent = || {
            let mut state = State::default();
            state.keep_orders_in(directory.path());
            state
        };
        let first = agent();
        assert!(!first.fallback_forced());
        first.force_fallback(true).unwrap();
        let second = agent();
        assert!(second.fallback_forced());
        second.force_fallback(false).unwrap();
        second.force_fallback(false).unwrap();
        assert!(!agent().fallback_forced());
    }

    #[test]
    fn while_inspection_is_off_it_is_said_since_when_and_what_crosses() {
        let mut state = State::default();
        state.orders.send_modify(|orders| {
            let mut blocks = Segment::with_defaults(SegmentId(2), "dmz".into());
            blocks.layer2_fallback = Layer2Fallback::BlockAll;
            let segments = vec![Segment::with_defaults(SegmentId(1), "lan".into()), blocks];
            orders.snapshot = Arc::new(Snapshot { segments, ..Snapshot::default() });
        });
        assert_eq!(state.note_fallback(), None);
        let off = state.inspection_off_everywhere().unwrap();
        let everything = "everything crosses, whatever filters, reputation and quarantine say";
        assert_eq!(
            off.crosses,
            format!("{everything} (permit-all), or nothing crosses (block-all)")
        );
        assert_eq!(state.note_fallback(), None);
        assert_eq!(state.inspection_off_everywhere().unwrap().since, off.since);
        let views = state.segment_views();
        assert_eq!(views[0].inspection_off.as_ref().unwrap().crosses, everything);
        assert_eq!(views[1].inspection_off.as_ref().unwrap().crosses, "nothing crosses");

        state.engine.connections = 1;
        state.engine.heard = Some(Instant::now());
        assert_eq!(state.inspection_off_everywhere(), None);
        assert_eq!(state.segment_views()[0].inspection_off, None);
        assert!(state.note_fallback().is_some());
        assert_eq!(state.note_fallback(), None);
    }

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
