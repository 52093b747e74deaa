//! What packets of each virtual segment were dropped for, by name, over changes of the rules.
//!
//! For: drops of the programs, whose packets were classified by then. Not for: those before that
//! (Layer-2 fallback), nor what the engine's own sockets sent, which count in their segments alone.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuHashMap};
use weir_policy::Snapshot;

use super::{ApplyError, in_table, map};
use crate::layout::COUNTERS;
use crate::layout::rules::{VIRTUAL_SEGMENTS, VirtualDrop};

/// Packets of one virtual segment that were dropped, since the data plane was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropReport {
    pub virtual_segment: String,
    /// By reason; those that counted.
    pub counters: Vec<(&'static str, u64)>,
}

pub struct VirtualDrops {
    map: PerCpuHashMap<MapData, VirtualDrop, u64>,
    /// The virtual segments in force, in order.
    names: Vec<String>,
    /// What those of the same name counted before, by name and counter.
    carried: Counted,
}

type Counted = BTreeMap<String, BTreeMap<u32, u64>>;

impl VirtualDrops {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ApplyError> {
        let map = map(ebpf, "virtual_drops")?;
        Ok(Self { map, names: vec![], carried: Counted::new() })
    }

    /// Before a half is put in force: its counts begin at nothing.
    pub fn prepare(&mut self, half: u32) -> Result<(), ApplyError> {
        let old: Vec<VirtualDrop> =
            self.map.keys().filter_map(Result::ok).filter(|key| half_of(key) == half).collect();
        for key in old {
            self.map.remove(&key).map_err(in_table("virtual_drops"))?;
        }
        Ok(())
    }

    /// After it: what the other half counted is kept, of names that are still there.
    pub fn changed(&mut self, snapshot: &Snapshot, half: u32) {
        let mut before = self.counted(1 - half);
        self.names = snapshot.virtual_segments.iter().map(|one| one.name.clone()).collect();
        before.retain(|name, _| self.names.contains(name));
        self.carried = before;
    }

    pub fn report(&self, half: u32) -> Vec<DropReport> {
        let report = |(virtual_segment, counters): (String, BTreeMap<u32, u64>)| DropReport {
            virtual_segment,
            counters: counters
                .into_iter()
                .filter_map(|(counter, count)| {
                    Some((COUNTERS.get(usize::try_from(counter).ok()?)?.0, count))
                })
                .collect(),
        };
        self.counted(half).into_iter().map(report).collect()
    }

    /// An entry that cannot be read is left out.
    fn counted(&self, half: u32) -> Counted {
        let mut counted = self.carried.clone();
        for (key, values) in self.map.iter().filter_map(Result::ok) {
            let number = key.virtual_segment as usize % VIRTUAL_SEGMENTS;
            if half_of(&key) == half
                && let Some(name) = self.names.get(number)
            {
                let counters = counted.entry(name.clone()).or_default();
                let count = counters.entry(key.counter).or_default();
                *count = count.saturating_add(values.iter().sum());
            }
        }
        counted
    }
}

fn half_of(key: &VirtualDrop) -> u32 {
    key.virtual_segment / VIRTUAL_SEGMENTS as u32
}
