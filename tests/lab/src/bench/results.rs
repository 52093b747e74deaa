//! What a bench keeps of a run, and prints at its end.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::bars::Bar;

/// Writes `results` as JSON.
pub fn keep(results: &impl Serialize, file: &Path) -> Result<()> {
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let text = serde_json::to_string_pretty(results)?;
    std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))
}

/// The spread of each bar for the reader, then the line of each that scripts read.
pub fn print(bars: &[Bar]) {
    for bar in bars {
        println!("{} (limit {})", bar.spread(), bar.limit);
    }
    for bar in bars {
        println!("{bar}");
    }
}

/// The running kernel's version.
pub fn kernel() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}
