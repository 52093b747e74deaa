//! What flows cost in the memory of the maps that serve them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

/// Maps that flows are kept in or go through, as the kernel has their names (15 bytes).
const FLOW_MAPS: &[&str] = &[
    "half_open",
    "flows",
    "engine_tuples",
    "gre_pairs",
    "gre_aliases",
    "taken_fragments",
    "fragment_share",
    "client_flows",
    "syn_shares",
    "ring_shares",
    "scratch",
];
const RINGS: &str = "held_ring_";

/// Bytes of the maps for flows that a process has open, each counted once.
pub fn of_flow_maps(process: Pid) -> Result<u64> {
    let names = flow_maps();
    let mut bytes_of = HashMap::new();
    for descriptor in fs::read_dir(format!("/proc/{process}/fd"))? {
        let number = descriptor?.file_name();
        let path = Path::new(&format!("/proc/{process}/fdinfo")).join(&number);
        let Ok(text) = fs::read_to_string(path) else { continue };
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
        };
        if let Some(id) = field("map_id:")
            && names.contains(&id)
        {
            bytes_of.insert(id, field("memlock:").context("a map without memlock")?);
        }
    }
    ensure!(!bytes_of.is_empty(), "no map for flows is open");
    Ok(bytes_of.values().sum())
}

/// Ids of the kernel's maps of these names, other processes' too.
fn flow_maps() -> Vec<u64> {
    aya::maps::loaded_maps()
        .filter_map(std::result::Result::ok)
        .filter(|map| {
            let name = map.name_as_str().unwrap_or_default();
            FLOW_MAPS.contains(&name) || name.starts_with(RINGS)
        })
        .map(|map| u64::from(map.id()))
        .collect()
}
