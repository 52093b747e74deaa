//! Layer-2 fallback, as the agent sees it: whether, why, since when, and what crosses meanwhile.
//!
//! For: the order that forces it, which outlives the agent, and what consoles are told (SPEC D2).
//! Not for: falling back, which engine and data plane do. Only keeping the order can fail.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weir_api::console::InspectionOff;
use weir_policy::snapshot::{Layer2Fallback, Segment};

use super::State;

/// An engine that says nothing for so long (it tells its counters each second) is stuck.
const SILENT: Duration = Duration::from_millis(2500);

impl State {
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

    pub(super) fn inspection_off(&self, crosses: String) -> Option<InspectionOff> {
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
}

/// What a segment in Layer-2 fallback lets through (SPEC D2).
pub(super) fn crosses(fallback: Layer2Fallback) -> &'static str {
    match fallback {
        Layer2Fallback::PermitAll => {
            "everything crosses, whatever filters, reputation and quarantine say"
        }
        Layer2Fallback::BlockAll => "nothing crosses",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use weir_policy::snapshot::{SegmentId, Snapshot};

    use super::*;

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
}
