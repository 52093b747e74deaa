//! What the agent holds while it runs: the policy in force, what the engine told, and the newest
//! sessions and events.
//!
//! Not for: I/O; the tasks that serve engine and consoles change this state through its methods.
//! Everything here is bounded: rings drop their oldest, the rest is one value each.

mod fallback;
mod shortage;
mod views;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::watch;
use weir_api::engine::{Counters, FallbackReason, FilterEvent, SessionRecord};
use weir_api::init::{MachineStatus, Mode};
use weir_policy::snapshot::{OverThreshold, SegmentId, Snapshot};

use crate::accounts::Accounts;
use crate::fetch::Fetcher;
use crate::questions::Engines;
use shortage::Shortages;

/// Sessions and events kept; a new one drops the oldest.
const RECORDS_KEPT: usize = 4096;

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
    /// What of the configuration in force was ignored; a line each.
    pub configuration_warnings: Vec<String>,
    /// Things an operator should know that hold until the agent ends.
    pub warnings: Vec<String>,
    pub machine: Option<MachineStatus>,
    /// Since when Layer-2 fallback is in force.
    fallback_since: Option<SystemTime>,
    pub engine: Engine,
    pub fetcher: Rc<Fetcher>,
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
    shortages: Shortages,
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
            configuration_warnings: Vec::new(),
            warnings: Vec::new(),
            machine: None,
            fallback_since: None,
            engine: Engine::default(),
            fetcher: Rc::default(),
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

    /// The counters of the engine that is connected; none of one that went away.
    pub fn counters(&self) -> Option<&Counters> {
        self.engine.counters.as_ref().filter(|_| self.engine.connections > 0)
    }

    /// What the engine counted until now.
    pub fn note_counters(&mut self, counters: Counters, now: Instant) {
        self.engine.shortages.note(&counters, now);
        self.engine.counters = Some(counters);
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
        if self.counters().is_some_and(|counters| counters.legacy_missing) {
            warnings.push(
                "the legacy TLS worker does not run: sessions with old clients and servers fail"
                    .into(),
            );
        }
        if self.counters().is_some() {
            warnings.extend(self.engine.shortages.warnings());
        }
        if let Some(refused) = &self.engine.refused {
            warnings.push(format!("the engine refused the policy: {refused}"));
        }
        warnings.extend(
            self.configuration_errors
                .iter()
                .chain(&self.configuration_warnings)
                .map(|line| format!("configuration: {line}")),
        );
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_legacy_worker_is_warned_of() {
        let mut state = State::default();
        state.engine.connections = 1;
        let warned = |state: &State| {
            state.all_warnings().iter().any(|warning| warning.contains("legacy TLS worker"))
        };
        for legacy_missing in [true, false] {
            state.engine.counters = Some(Counters { legacy_missing, ..Counters::default() });
            assert_eq!(warned(&state), legacy_missing);
        }
    }

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
}
