//! Memory of processes and of the kernel, as /proc has it.

use std::fs;

use anyhow::{Context, Result};

/// Resident bytes of a process: its number, or `self`.
pub fn resident(process: &str) -> Result<u64> {
    bytes(&format!("/proc/{process}/status"), "VmRSS:")
}

/// Bytes of the kernel's slabs.
pub fn slabs() -> Result<u64> {
    bytes("/proc/meminfo", "Slab:")
}

fn bytes(file: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes: u64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no {field} in {file}"))?;
    Ok(kibibytes * 1024)
}
