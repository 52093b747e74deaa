//! Which engine this is, among those that live at one time (SPEC D2).
//!
//! For: numbers of engines, their heartbeats, and whether another one lives. A planned restart has
//! two: the new one gets all new flows, the old one keeps those it has taken until they end. Not
//! for: what becomes of a dead engine's flows ([`crate::inheritance`]). Fails with the table that
//! could not be read or written.

use std::io;
use std::net::TcpListener;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError, SockMap};

use crate::layout::{ENGINES, EngineInstance};
use crate::programs::{self, ProgramError};
use crate::state::EngineQuery;
use crate::tables::{self, ApplyError};

/// The number that an engine started now has: one more than any before it. At most [`ENGINES`] live
/// at one time (the supervisor lets far fewer drain), so its place in the tables is nobody else's.
pub fn next_number(pins: &Path) -> Result<u32, ProgramError> {
    let path = programs::layout_directory_at(pins)?.join("engines");
    if !path.exists() {
        return Ok(1);
    }
    let engines: Array<MapData, EngineInstance> = MapData::from_pin(&path)
        .and_then(|data| Array::try_from(Map::Array(data)))
        .map_err(|error| ProgramError::Pinned { path, error })?;
    let newest = engines.iter().filter_map(Result::ok).map(|engine| engine.number).max();
    Ok(newest.unwrap_or(0).wrapping_add(1).max(1))
}

/// This engine's place among them.
pub struct Instance {
    pub number: u32,
    engines: Array<MapData, EngineInstance>,
    query: EngineQuery,
    /// The slot empties when the process ends.
    listeners: SockMap<MapData>,
    _listener: TcpListener,
}

impl Instance {
    /// `listener`: any socket that listens; it says that the process lives.
    pub fn claim(ebpf: &mut Ebpf, number: u32, listener: TcpListener) -> Result<Self, ApplyError> {
        let failed = |table| move |error| ApplyError::Table { table, error };
        let query = programs::descriptor(ebpf, "engine_query").map_err(ApplyError::Program)?;
        let mut engines: Array<MapData, EngineInstance> = tables::map(ebpf, "engines")?;
        let mut listeners: SockMap<MapData> = tables::map(ebpf, "listeners")?;
        let index = number % ENGINES;
        let own = EngineInstance { heartbeat: 0, number, reserved: 0 };
        engines.set(index, own, 0).map_err(failed("engines"))?;
        listeners.set(index, &listener, 0).map_err(failed("listeners"))?;
        let query = EngineQuery::new(query);
        Ok(Self { number, engines, query, listeners, _listener: listener })
    }

    /// `time`: CLOCK_MONOTONIC, nanoseconds.
    pub fn beat(&mut self, time: u64) -> Result<(), MapError> {
        let own = EngineInstance { heartbeat: time, number: self.number, reserved: 0 };
        self.engines.set(self.number % ENGINES, own, 0)
    }

    /// Whether the engine of that number lives, be it stuck.
    pub fn lives(&self, number: u32) -> io::Result<bool> {
        self.query.lives(number)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The socket alone may outlive this in a child between fork and exec. Where this fails the
        // slot empties then.
        let _ = self.listeners.clear_index(&(self.number % ENGINES));
    }
}
