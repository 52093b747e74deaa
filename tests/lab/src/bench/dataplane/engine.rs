//! The engine that is measured: Weir's own processes, agent, engine and legacy worker under their
//! supervisor, as they are shipped.
//!
//! For: what they did, what they cost, and what they have in memory. What they counted is asked for at the
//! console, which knows it a second late.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use super::memory;
use crate::bench::cpu;
use crate::bench::memory::resident;
use crate::wire::Wire as _;
use crate::wire::lab::Lab;

pub struct Engine {
    lab: RefCell<Lab>,
    engine: Pid,
}

/// Flows of the segment so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    pub released: u64,
    pub taken: u64,
    pub blocked: u64,
}

impl Engine {
    pub fn new(lab: Lab) -> Result<Self> {
        let engine = lab.engine()?;
        Ok(Self { lab: RefCell::new(lab), engine })
    }

    pub fn decided(&self) -> Result<Decided> {
        let shown = self.shown()?;
        // "N held since the boot; by this engine N released, N taken over, N blocked", folded at will.
        let words: Vec<&str> = shown.split_whitespace().collect();
        let before = |what: &str| {
            let is_it =
                |pair: &[&str]| pair.get(1).is_some_and(|word| word.trim_end_matches(',') == what);
            let found = words.windows(2).filter(|pair| is_it(pair));
            let mut numbers = found.filter_map(|pair| pair.first()?.parse().ok());
            numbers.next().with_context(|| format!("no number {what} in {shown}"))
        };
        Ok(Decided {
            released: before("released")?,
            taken: before("taken")?,
            blocked: before("blocked")?,
        })
    }

    /// What the console says of the segment, every counter included.
    pub fn shown(&self) -> Result<String> {
        self.lab.borrow_mut().console("show segments detail")
    }

    /// What the engine's process ran so far.
    pub fn cpu(&self) -> Result<Duration> {
        cpu::of_tree(self.engine)
    }

    /// Bytes that all of Weir's processes have in memory.
    pub fn resident(&self) -> Result<u64> {
        let processes = cpu::tree(self.lab.borrow().supervisor())?;
        processes.into_iter().map(|process| resident(&process.to_string())).sum()
    }

    /// Bytes of the maps that flows are kept in or go through.
    pub fn flow_maps(&self) -> Result<u64> {
        memory::of_flow_maps(self.engine)
    }
}
