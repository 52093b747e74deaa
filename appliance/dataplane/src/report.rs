//! What is counted per segment, read together.
//!
//! For: the programs' counters, user space's, the ports' traffic and the times of holds and
//! takeovers, once a second. Not for: counting. What cannot be read is left out.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;

use aya::maps::{MapData, PerCpuArray};
use weir_policy::snapshot::{SegmentId, Side};

use crate::core::{Core, Count};
use crate::histogram::HistogramReport;
use crate::layout::COUNTERS;
use crate::segment::Names;
use crate::traffic::{PortTraffic, Traffic};

/// One segment's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    pub segment: SegmentId,
    /// Of the ports A and B; `None` where the kernel tells nothing of them.
    pub ports: [Option<PortTraffic>; 2],
    pub counters: Vec<(&'static str, u64)>,
    /// Flows held at this moment.
    pub held_now: u64,
    /// From the hold of a flow's first packet to its judgement.
    pub hold_time: HistogramReport,
    /// From the decision to take a flow over to its two sockets speaking.
    pub take_over_time: HistogramReport,
}

/// Every counter by its name, with what one count of it means. A segment's counters of the programs are kept
/// from engine to engine; of those of user space the meaning says that they are not.
pub fn counter_meanings() -> impl Iterator<Item = (&'static str, String)> {
    let programs = COUNTERS.iter().map(|(name, meaning)| (*name, (*meaning).to_owned()));
    programs.chain(
        Count::ALL.iter().map(|(name, meaning)| (*name, format!("{meaning}; by this engine"))),
    )
}

/// Where the counters are read.
pub struct Reports {
    counters: PerCpuArray<MapData, u64>,
    traffic: Traffic,
    /// Each with the names of its ports.
    segments: Vec<(SegmentId, [String; 2])>,
}

impl Reports {
    /// Fails where the wire namespace cannot be entered.
    pub fn new(
        names: &Names,
        segments: &[SegmentId],
        counters: PerCpuArray<MapData, u64>,
    ) -> io::Result<Self> {
        let ports = |id| [Side::A, Side::B].map(|side| names.port(id, side));
        let segments = segments.iter().map(|id| (*id, ports(*id))).collect();
        Ok(Self { counters, traffic: Traffic::open(&names.wire())?, segments })
    }

    /// A report for each segment.
    pub fn read(&self, core: &Core) -> Vec<SegmentReport> {
        let traffic = self.traffic.read().unwrap_or_else(|error| {
            tracing::debug!(%error, "statistics of the ports not read");
            HashMap::new()
        });
        let report = |(id, ports): &(SegmentId, [String; 2])| SegmentReport {
            ports: ports.each_ref().map(|port| traffic.get(port).copied()),
            ..self.segment(*id, core)
        };
        self.segments.iter().map(report).collect()
    }

    /// One counter of the programs, over all segments; 0 for a name that is none of theirs.
    pub fn program_counter(&self, name: &str) -> u64 {
        let Some(counter) = COUNTERS.iter().position(|(known, _)| *known == name) else { return 0 };
        let first = |id: &SegmentId| usize::from(id.0) * COUNTERS.len();
        self.segments.iter().map(|(id, _)| self.programs_counter(first(id) + counter)).sum()
    }

    fn segment(&self, segment: SegmentId, core: &Core) -> SegmentReport {
        let first = usize::from(segment.0) * COUNTERS.len();
        let programs = COUNTERS.iter().enumerate();
        let mut report = SegmentReport {
            segment,
            ports: [None; 2],
            counters: programs
                .map(|(n, (name, _))| (*name, self.programs_counter(first + n)))
                .collect(),
            held_now: 0,
            hold_time: HistogramReport::default(),
            take_over_time: HistogramReport::default(),
        };
        if let Some(links) = core.segments.get(&u32::from(segment.0)) {
            report.counters.extend(links.counts.read());
            report.held_now = links.held_now.load(Ordering::Relaxed);
            report.hold_time = links.hold_time.read();
            report.take_over_time = links.take_over_time.read();
        }
        report
    }

    fn programs_counter(&self, index: usize) -> u64 {
        let Ok(index) = u32::try_from(index) else { return 0 };
        self.counters.get(&index, 0).map_or(0, |values| values.iter().sum())
    }
}
