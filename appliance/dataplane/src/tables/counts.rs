//! What each rule let pass or stopped, by name, over changes of the rules.

use std::collections::HashMap;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use weir_policy::Snapshot;

use super::{ApplyError, in_table, map};
use crate::layout::rules::{BYPASS_AT, FILTER_AT, RULES, RuleCount};

/// A kind of rule that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleKind {
    VirtualSegment,
    InspectionBypass,
    TrafficFilter,
}

/// Since the data plane was opened. A packet counts in its virtual segment and in the bypass rule or
/// traffic filter that it met; where a filter limits the rate, dropped packets count as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleReport {
    pub kind: RuleKind,
    pub name: String,
    pub packets: u64,
    /// From the Ethernet header.
    pub bytes: u64,
}

pub struct RuleCounts {
    map: PerCpuArray<MapData, RuleCount>,
    /// The rules in force, by their bit.
    rules: Vec<(u32, RuleKind, String)>,
    /// What rules of the same name counted before.
    carried: HashMap<(RuleKind, String), RuleCount>,
}

impl RuleCounts {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ApplyError> {
        Ok(Self { map: map(ebpf, "rule_counts")?, rules: vec![], carried: HashMap::new() })
    }

    /// Before a half is put in force: its counts begin at nothing.
    pub fn prepare(&mut self, snapshot: &Snapshot, half: u32) -> Result<(), ApplyError> {
        let cpus = nr_cpus().map_err(|(_, error)| ApplyError::Processors(error))?;
        for (bit, ..) in rules(snapshot) {
            let zero = PerCpuValues::try_from(vec![RuleCount::default(); cpus])
                .map_err(ApplyError::Processors)?;
            self.map.set(index(half, bit), zero, 0).map_err(in_table("rule_counts"))?;
        }
        Ok(())
    }

    /// After it: what the other half counted is kept, of names that are still there.
    pub fn changed(&mut self, snapshot: &Snapshot, half: u32) {
        let before = self.report(1 - half);
        self.rules = rules(snapshot).collect();
        self.carried = before
            .into_iter()
            .map(|one| ((one.kind, one.name), RuleCount { packets: one.packets, bytes: one.bytes }))
            .collect();
        let rules = &self.rules;
        self.carried
            .retain(|(kind, name), _| rules.iter().any(|(_, of, one)| of == kind && one == name));
    }

    pub fn report(&self, half: u32) -> Vec<RuleReport> {
        let read = |(bit, kind, name): &(u32, RuleKind, String)| {
            let carried = self.carried.get(&(*kind, name.clone())).copied().unwrap_or_default();
            let counted = self.map.get(&index(half, *bit), 0);
            let sum = |of: fn(&RuleCount) -> u64| {
                counted.as_ref().map_or(0, |values| values.iter().map(of).sum::<u64>())
            };
            RuleReport {
                kind: *kind,
                name: name.clone(),
                packets: carried.packets + sum(|one| one.packets),
                bytes: carried.bytes + sum(|one| one.bytes),
            }
        };
        self.rules.iter().map(read).collect()
    }
}

fn index(half: u32, bit: u32) -> u32 {
    half * RULES as u32 + bit
}

fn rules(snapshot: &Snapshot) -> impl Iterator<Item = (u32, RuleKind, String)> + '_ {
    let precedence = &snapshot.precedence;
    let segments = (0u32..).zip(&snapshot.virtual_segments);
    let bypass = (BYPASS_AT as u32..).zip(&precedence.inspection_bypass);
    let filters = (FILTER_AT as u32..).zip(&precedence.traffic_filters);
    segments
        .map(|(bit, one)| (bit, RuleKind::VirtualSegment, one.name.clone()))
        .chain(bypass.map(|(bit, one)| (bit, RuleKind::InspectionBypass, one.name.clone())))
        .chain(filters.map(|(bit, one)| (bit, RuleKind::TrafficFilter, one.name.clone())))
}
