//! Putting the counts of clients' flows right: when an engine has taken on the tables of those before it,
//! and from time to time.
//!
//! For: counts that an engine's death, or two processors at one moment, left too high or too low: they
//! are pinned, and nobody else ever would. The flow table says what they should be. Packets change both
//! meanwhile: a count is mended only where nothing changed it from before one walk to after another, a
//! while later, and both found it wrong by as much; where something did it stays as it is. Not for:
//! counting (bpf/clients.h). Fails as the walks do; the counts stay as they were then.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aya::maps::{Array, MapData};

use crate::layout::{
    CLIENT_CELLS, CLIENT_ENTRIES, CLIENT_ENTRIES_ALL, CLIENT_HANDSHAKES, CLIENT_HANDSHAKES_ALL,
    Flow, FlowKey, State, count_of, id_of,
};
use crate::test_run::test_run_with_arguments;
use crate::walk::{Broken, FlowTable, Walked};

/// Counts read between two pauses.
const STEP: u32 = 1024;
/// Pauses between two walks: far longer than a packet, of which only one of a flow's change and that of
/// its count may be done.
const APART: usize = 1500;

/// What it needs.
pub struct Recount {
    /// The table `client_flows`.
    pub counts: Arc<Array<MapData, u64>>,
    /// Of the clients' cells.
    pub seed: u64,
    /// Of `count_command`.
    pub command: OwnedFd,
}

/// Of cells that nothing changed while it was found out: what is in them, and by how much their counts
/// are too high. Those of all clients also where they are right.
type Wrong = HashMap<u32, (u64, i32)>;

impl Recount {
    /// How many counts were mended. `pause` as for walks. None where, by then, another engine is in charge
    /// (`superseded`), which counts, too.
    pub fn mend(
        &self,
        flows: &FlowTable,
        mut pause: impl FnMut() -> bool,
        superseded: impl Fn() -> bool,
    ) -> Result<usize, Broken> {
        let once = self.wrong(flows, &mut pause)?;
        if once.values().all(|(_, by)| *by == 0) || !(0..APART).all(|_| pause()) {
            return Ok(0);
        }
        let again = self.wrong(flows, &mut pause)?;
        let still = once.into_iter().filter(|(cell, found)| again.get(cell) == Some(found));
        let mut still: Vec<(u32, (u64, i32))> = still.collect();
        // Those of all clients first: where they stood still they say by themselves what they should be.
        still.sort_by_key(|(cell, _)| Reverse(*cell));
        let (mut stood, mut mended) = (HashSet::new(), HashSet::new());
        for (cell, (found, by)) in still {
            // Mended by another engine meanwhile, or its client has new flows.
            if superseded() || self.counts.get(&cell, 0)? != found {
                continue;
            }
            stood.insert(cell);
            if by == 0 {
                continue;
            }
            self.add(cell, by.wrapping_neg())?;
            mended.insert(cell);
            // On a busy machine they never stand still; each client is in one cell of a group's first row.
            // An error here leaves them to a time when they do.
            if let Some(all) = all_of(cell).filter(|all| !stood.contains(all)) {
                self.add(all, by.wrapping_neg())?;
                mended.insert(all);
            }
        }
        Ok(mended.len())
    }

    fn wrong(&self, flows: &FlowTable, pause: &mut impl FnMut() -> bool) -> Result<Wrong, Broken> {
        let before = self.read(pause)?;
        let mut counted: HashMap<u32, i32> = HashMap::new();
        // As many as the table has, and those that came meanwhile: a walk that begins anew shows flows
        // again.
        let mut seen = HashSet::new();
        let walked = flows.walk(&mut *pause, |key, flow| {
            if seen.insert(id_of(flow.word)) {
                for cell in cells(&key, flow, self.seed) {
                    *counted.entry(cell).or_default() += 1;
                }
            }
            Ok(())
        })?;
        let after = self.read(pause)?;
        if walked == Walked::Stopped || before.len() != after.len() {
            return Ok(Wrong::new());
        }
        let unchanged = (0u32..).zip(before.into_iter().zip(after));
        let unchanged = unchanged.filter(|(_, (before, after))| before == after);
        let by = unchanged.map(|(cell, (found, _))| {
            let right = counted.get(&cell).copied().unwrap_or_default();
            (cell, (found, count_of(found).wrapping_sub(right)))
        });
        Ok(by.filter(|(cell, (_, by))| *by != 0 || *cell >= CLIENT_ENTRIES_ALL).collect())
    }

    /// All cells; fewer where `pause` says to stop.
    fn read(&self, pause: &mut impl FnMut() -> bool) -> Result<Vec<u64>, Broken> {
        let mut counts = vec![];
        for cell in 0..self.counts.len() {
            if cell % STEP == STEP - 1 && !pause() {
                break;
            }
            counts.push(self.counts.get(&cell, 0)?);
        }
        Ok(counts)
    }

    /// Between packets, and never over them.
    fn add(&self, cell: u32, amount: i32) -> io::Result<()> {
        let arguments = [u64::from(cell), i64::from(amount).cast_unsigned()];
        let bytes: Vec<u8> = arguments.iter().flat_map(|argument| argument.to_ne_bytes()).collect();
        test_run_with_arguments(&self.command, &bytes).map(drop)
    }
}

/// Where what a cell counts is counted for all clients, too.
fn all_of(cell: u32) -> Option<u32> {
    let row = |first: u32| first..first + CLIENT_CELLS;
    if row(CLIENT_ENTRIES).contains(&cell) {
        Some(CLIENT_ENTRIES_ALL)
    } else {
        row(CLIENT_HANDSHAKES).contains(&cell).then_some(CLIENT_HANDSHAKES_ALL)
    }
}

/// The cells that count a flow: two of its client for each count, and those of all clients.
fn cells(key: &FlowKey, flow: &Flow, seed: u64) -> impl Iterator<Item = u32> {
    let hash = client_hash(key, flow.client_low != 0, seed);
    let row = u64::from(CLIENT_CELLS);
    let pair = [(hash % row) as u32, CLIENT_CELLS + ((hash >> 32) % row) as u32];
    let answered = State::of(flow.word) == Some(State::Answered);
    [(0, flow.counted != 0), (CLIENT_ENTRIES, true), (CLIENT_HANDSHAKES, answered)]
        .into_iter()
        .filter(|(_, counts)| *counts)
        .flat_map(move |(base, _)| pair.map(|cell| base + cell))
        .flat_map(|cell| [Some(cell), all_of(cell)])
        .flatten()
}

/// As `client_hash` of bpf/clients.h.
fn client_hash(key: &FlowKey, client_low: bool, seed: u64) -> u64 {
    let address = key.address[usize::from(!client_low)];
    let word = |at: usize| {
        let bytes = address.get(at * 4..).and_then(|rest| rest.first_chunk());
        u64::from(bytes.copied().map_or(0, u32::from_ne_bytes))
    };
    let four = word(0) == 0 && word(1) == 0 && word(2) == u64::from(0xffff_u32.to_be());
    let client = if four { word(3) } else { word(0) << 32 | word(1) };
    let mixed = (client ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32 ^ seed >> 17).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 29
}
