//! The tables the programs decide by, compiled from a policy snapshot.
//!
//! For: the rules of [`weir_policy::precedence`] and the policies' candidates, put in force in one
//! step: the tables have two halves, and the generation's last bit says which one packets are
//! looked up in. Not for: judging; the tables name every flow that [`weir_policy::judge()`] might
//! take. A table that cannot be filled leaves the half in force as it was; reputation, which is
//! changed entry by entry, may then be in part the new one until the next snapshot is applied.

mod counts;
mod covered;
mod drops;
mod in_force;
mod quarantine;
mod reputation;
mod rows;

use std::net::IpAddr;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, MapData, MapError};
use weir_policy::Snapshot;
use weir_policy::precedence::tables::TooMany;
use weir_policy::snapshot::{Evasion, EvasionAction, Layer2Fallback, SegmentId};

use crate::layout::rules::{
    Classes, FilterEntry, NetworkKey, PolicySet, ROWS, Row, TRAFFIC_FILTERS, VIRTUAL_SEGMENTS,
};
use crate::layout::{
    EVASION_CLIENT_FLOOD, EVASION_DECOY, EVASION_FRAGMENTS, EVASION_SERVER_SPEAKS_FIRST,
    EVASION_SYN_DATA, EVASION_TABLE_FULL, EVASION_TWO_PASSES, EVASION_UNREAD_HEADERS,
    EVASION_UNSEEN_HANDSHAKE, EVASION_UNTAKEABLE_OPTIONS, SegmentSettings,
};
use crate::programs::{ProgramError, chain};
use crate::ring::monotonic_nanoseconds;
use counts::RuleCounts;
pub use counts::{RuleKind, RuleReport};
use covered::CoveredPorts;
pub use drops::DropReport;
use drops::VirtualDrops;
pub use in_force::InForce;
pub use quarantine::QuarantineError;
use quarantine::QuarantineTable;
use reputation::ReputationTable;
use rows::Half;

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("eBPF table {table}: {}", chain(.error))]
    Table { table: &'static str, error: MapError },
    #[error("eBPF table {0} is not in the object, or is of another type")]
    Missing(&'static str),
    #[error(transparent)]
    Program(ProgramError),
    /// Such a configuration is refused before.
    #[error(transparent)]
    TooMany(TooMany),
    #[error("number of processors: {0}")]
    Processors(std::io::Error),
    #[error("device.congestion-control: {0}")]
    CongestionControl(std::io::Error),
    #[error(
        "device.congestion-control: is {0}, which this kernel does not have; cubic is expected (or \
         a kernel with tcp_{0})"
    )]
    UnknownCongestionControl(&'static str),
}

pub struct Tables {
    in_force: InForce,
    segments: Array<MapData, SegmentSettings>,
    rows: Array<MapData, Row>,
    classes: Array<MapData, Classes>,
    networks: LpmTrie<MapData, NetworkKey, u32>,
    segment_policies: Array<MapData, PolicySet>,
    filters: Array<MapData, FilterEntry>,
    reputation: ReputationTable,
    quarantine: QuarantineTable,
    covered: CoveredPorts,
    counts: RuleCounts,
    drops: VirtualDrops,
    own: Vec<SegmentId>,
}

/// Why Layer-2 fallback is in force while the engine lives (SPEC D2, D10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackCause {
    /// By command; kept in the tables over engines.
    Told,
    Overloaded,
    /// Healthy again, but not for long enough.
    Recovering,
}

impl FallbackCause {
    /// `FALLBACK_...` of bpf/weir.h.
    fn bit(self) -> u32 {
        match self {
            Self::Told => 1,
            Self::Overloaded => 2,
            Self::Recovering => 4,
        }
    }
}

impl Tables {
    /// Takes the maps out of the object. What is in force stays in force.
    pub fn new(
        ebpf: &mut Ebpf,
        own: Vec<SegmentId>,
        in_force: InForce,
    ) -> Result<Self, ApplyError> {
        Ok(Self {
            in_force,
            segments: map(ebpf, "segments")?,
            rows: map(ebpf, "rows")?,
            classes: map(ebpf, "classes")?,
            networks: map(ebpf, "networks")?,
            segment_policies: map(ebpf, "segment_policies")?,
            filters: map(ebpf, "traffic_filters")?,
            reputation: ReputationTable::new(ebpf)?,
            quarantine: QuarantineTable::new(ebpf)?,
            covered: CoveredPorts::new(ebpf)?,
            counts: RuleCounts::new(ebpf)?,
            drops: VirtualDrops::new(ebpf)?,
            own,
        })
    }

    /// Does nothing once another engine has its programs on the ports: the tables are that one's.
    pub fn apply(&mut self, snapshot: &Snapshot) -> Result<(), ApplyError> {
        if self.in_force.superseded() {
            return Ok(());
        }
        let compiled = Half::compile(snapshot)?;
        let half = u32::from(self.in_force.generation()? & 1 == 0);
        self.fill(&compiled, half)?;
        self.covered.add(&compiled.covered_ports)?;
        self.counts.prepare(snapshot, half)?;
        self.drops.prepare(half)?;
        self.quarantine.apply(&snapshot.precedence.quarantine)?;
        // A segment in which rules begin to match is looked at before they do, and after they did.
        let quiet = |settings: &SegmentSettings| settings.rules == 0;
        let wanted: Vec<_> =
            self.own.iter().map(|id| self.settings(snapshot, &compiled, *id)).collect();
        for (id, settings) in self.own.clone().into_iter().zip(&wanted) {
            self.set_segment(id, SegmentSettings { rules: 1, ..*settings })?;
        }
        self.reputation.apply(&snapshot.precedence.reputation)?;
        self.in_force.switch(&snapshot.device)?;
        wait_for_packets();
        self.counts.changed(snapshot, half);
        self.drops.changed(snapshot, half);
        for (id, settings) in self.own.clone().into_iter().zip(wanted) {
            if quiet(&settings) {
                self.set_segment(id, settings)?;
            }
        }
        Ok(())
    }

    /// Drops what a host sends and what is sent to it; for how long.
    pub fn quarantine(
        &mut self,
        host: IpAddr,
        duration: Option<Duration>,
    ) -> Result<Duration, QuarantineError> {
        let left = self.quarantine.add(host, duration)?;
        for id in self.own.clone() {
            let settings = self.segments.get(&u32::from(id.0), 0).map_err(in_table("segments"))?;
            self.set_segment(id, SegmentSettings { rules: 1, ..settings })?;
        }
        self.in_force.forget_verdicts()?;
        Ok(left)
    }

    /// Whether it was quarantined.
    pub fn release_host(&mut self, host: IpAddr) -> Result<bool, ApplyError> {
        let there = self.quarantine.release(host)?;
        self.in_force.forget_verdicts()?;
        Ok(there)
    }

    /// Quarantined hosts and what is left of their time.
    pub fn quarantined(&self) -> Vec<(IpAddr, Duration)> {
        self.quarantine.hosts(monotonic_nanoseconds().unwrap_or_default())
    }

    pub fn rule_report(&self) -> Vec<RuleReport> {
        self.counts.report(self.half())
    }

    pub fn drop_report(&self) -> Vec<DropReport> {
        self.drops.report(self.half())
    }

    fn half(&self) -> u32 {
        u32::from(self.in_force.known_generation() & 1 == 1)
    }

    fn settings(&self, snapshot: &Snapshot, compiled: &Half, id: SegmentId) -> SegmentSettings {
        let block = snapshot
            .segments
            .iter()
            .any(|s| s.id == id && s.layer2_fallback == Layer2Fallback::BlockAll);
        let named = compiled.segments.as_ref().is_none_or(|named| named.contains(&id));
        let rules = named || !self.quarantine.hosts(0).is_empty();
        SegmentSettings { block_all: u32::from(block), rules: u32::from(rules) }
    }

    fn set_segment(&mut self, id: SegmentId, settings: SegmentSettings) -> Result<(), ApplyError> {
        self.segments.set(u32::from(id.0), settings, 0).map_err(in_table("segments"))
    }

    /// Writes the half that is not in force.
    fn fill(&mut self, compiled: &Half, half: u32) -> Result<(), ApplyError> {
        for (index, row) in (half * ROWS as u32..).zip(&compiled.rows) {
            self.rows.set(index, row, 0).map_err(in_table("rows"))?;
        }
        // By reference: it is 400 KiB.
        let classes: &Classes = &compiled.classes;
        self.classes.set(half, classes, 0).map_err(in_table("classes"))?;
        let first = half * VIRTUAL_SEGMENTS as u32;
        for (index, set) in (first..).zip(&compiled.segment_policies) {
            self.segment_policies.set(index, set, 0).map_err(in_table("segment_policies"))?;
        }
        for (index, filter) in (half * TRAFFIC_FILTERS as u32..).zip(&compiled.filters) {
            self.filters.set(index, filter, 0).map_err(in_table("traffic_filters"))?;
        }
        let old: Vec<Key<NetworkKey>> = self
            .networks
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.data().scope / 2 == half)
            .collect();
        for key in old {
            self.networks.remove(&key).map_err(in_table("networks"))?;
        }
        for (destination, prefix, address, class) in &compiled.networks {
            let scope = half * 2 + u32::from(*destination);
            let key = Key::new(32 + prefix, NetworkKey { scope, address: *address });
            self.networks.insert(&key, class, 0).map_err(in_table("networks"))?;
        }
        Ok(())
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// EVASION_... bits of the ways that are blocked.
pub fn evasion(evasion: &Evasion) -> u32 {
    [
        (evasion.server_speaks_first, EVASION_SERVER_SPEAKS_FIRST),
        (evasion.syn_data, EVASION_SYN_DATA),
        (evasion.untakeable_options, EVASION_UNTAKEABLE_OPTIONS),
        (evasion.unseen_handshake, EVASION_UNSEEN_HANDSHAKE),
        (evasion.fragments, EVASION_FRAGMENTS),
        (evasion.decoy, EVASION_DECOY),
        (evasion.table_full, EVASION_TABLE_FULL),
        (evasion.client_flood, EVASION_CLIENT_FLOOD),
        (evasion.two_passes, EVASION_TWO_PASSES),
        (evasion.unread_headers, EVASION_UNREAD_HEADERS),
    ]
    .into_iter()
    .filter_map(|(action, bit)| (action == EvasionAction::Block).then_some(bit))
    .sum()
}

/// Until no packet is looked up in the half that was in force: the next snapshot is written there.
fn wait_for_packets() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: membarrier(2) takes three integers and touches no memory of ours. It waits for a grace
    // period of RCU, under which programs run; neither std nor nix has it.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Not with nohz_full, and nowhere else: a packet takes microseconds.
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Takes a map out of the object as the type it is used by.
pub fn map<M: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, ApplyError> {
    let map = ebpf.take_map(name).ok_or(ApplyError::Missing(name))?;
    M::try_from(map).map_err(in_table(name))
}

/// Entries that a hash map has room for.
pub fn entries(ebpf: &Ebpf, name: &'static str) -> Result<u32, ApplyError> {
    match ebpf.map(name) {
        Some(aya::maps::Map::HashMap(map)) => Ok(map.info().map_err(in_table(name))?.max_entries()),
        _ => Err(ApplyError::Missing(name)),
    }
}

fn in_table(table: &'static str) -> impl Fn(MapError) -> ApplyError {
    move |error| ApplyError::Table { table, error }
}
