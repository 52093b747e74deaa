//! Going through the flow table beside the packets that change it.
//!
//! For: threads of their own that look for entries with nobody to end them, in small steps: no heartbeat
//! waits for them. Not for: what becomes of an entry. Fails where the table cannot be read, or changes
//! too fast; whoever walks logs that, and walks again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{HashMap as EbpfHashMap, MapData, MapError};

use crate::layout::{Flow, FlowKey};
use crate::programs::chain;

/// Entries looked at in one step, and the pause after it.
const STEP: usize = 256;
pub const PAUSE: Duration = Duration::from_millis(1);
/// Walks begin anew where packets remove the entry they are at: so many times the table's size they
/// go at most, and the rest is for the next.
const MOST_TIMES: usize = 4;

/// The table `flows`.
#[derive(Clone)]
pub struct FlowTable {
    pub flows: Arc<EbpfHashMap<MapData, FlowKey, Flow>>,
    /// Its bound.
    pub most: usize,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walked {
    Whole,
    Stopped,
}

/// Why a walk ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("flow table: {}", chain(.0))]
    Table(#[from] MapError),
    #[error("flow table: {0}")]
    System(#[from] io::Error),
    #[error("flow table: it changed too fast to go through")]
    TooFast,
}

impl FlowTable {
    /// Shows every entry to `visit`, some more than once where the walk begins anew. After each step `pause` waits for [`PAUSE`], and says whether to
    /// go on.
    pub fn walk(
        &self,
        mut pause: impl FnMut() -> bool,
        mut visit: impl FnMut(FlowKey, &Flow) -> Result<(), Broken>,
    ) -> Result<Walked, Broken> {
        let most = self.most.saturating_mul(MOST_TIMES);
        let mut keys = self.flows.keys();
        let mut next = keys.next();
        let mut count: usize = 0;
        while let Some(key) = next {
            // Before the entry may go: the next one is found by it.
            next = keys.next();
            count += 1;
            if count > most {
                return Err(Broken::TooFast);
            }
            if count % STEP == STEP - 1 && !pause() {
                return Ok(Walked::Stopped);
            }
            let key = key?;
            let Ok(flow) = self.flows.get(&key, 0) else { continue }; // it has ended
            visit(key, &flow)?;
        }
        Ok(Walked::Whole)
    }
}
