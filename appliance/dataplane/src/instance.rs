//! Which engine this is, among those that live at one time (SPEC D2).
//!
//! For: numbers of engines, their heartbeats, and whether another one lives. A planned restart has
//! two: the new one gets all new flows, the old one keeps those it has taken until they end. Not
//! for: what becomes of a dead engine's flows ([`crate::inheritance`]). Fails with the table that
//! could not be read or written, or where as many engines live as there is room for.

use std::net::TcpListener;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError, SockMap};

use crate::layout::{ENGINES, EngineInstance};
use crate::programs::{self, ProgramError};
use crate::tables::{self, ApplyError};

/// A number that is nobody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub number: u32,
    /// There are no tables yet in which its place could be taken.
    first: bool,
}

/// Takes the number of an engine started now: larger than any before it, and one whose place in the
/// tables no engine has that lives. A place is taken by its socket, which `listener` is (any that
/// listens), and is free again when the process ends: starts that fail, however many, take nothing
/// from an engine that lives.
pub fn claim(pins: &Path, listener: &TcpListener) -> Result<Claimed, ProgramError> {
    /// linux/bpf.h
    const BPF_NOEXIST: u64 = 1;
    let layout = programs::layout_directory_at(pins)?;
    if !layout.join("engines").exists() {
        return Ok(Claimed { number: 1, first: true });
    }
    let mut engines = engines(pins)?;
    let path = layout.join("listeners");
    let mut listeners: SockMap<MapData> = MapData::from_pin(&path)
        .and_then(|data| SockMap::try_from(Map::SockMap(data)))
        .map_err(|error| ProgramError::Pinned { path: path.clone(), error })?;
    let newest = engines.iter().filter_map(Result::ok).map(|engine| engine.number).max();
    for ahead in 1..=ENGINES {
        let number = newest.unwrap_or(0).wrapping_add(ahead).max(1);
        match listeners.set(number % ENGINES, listener, BPF_NOEXIST) {
            Ok(()) => {
                let own = EngineInstance { heartbeat: 0, number, reserved: 0 };
                let told = engines.set(number % ENGINES, own, 0);
                let path = layout.join("engines");
                told.map_err(|error| ProgramError::Pinned { path, error })?;
                return Ok(Claimed { number, first: false });
            }
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(ProgramError::Pinned { path, error }),
        }
    }
    Err(ProgramError::TooManyEngines)
}

/// This engine's place among them.
pub struct Instance {
    pub number: u32,
    engines: Array<MapData, EngineInstance>,
    /// The slot empties when the process ends.
    listeners: SockMap<MapData>,
    _listener: TcpListener,
}

impl Instance {
    /// `listener`: as it was claimed with.
    pub fn begin(
        ebpf: &mut Ebpf,
        claimed: Claimed,
        listener: TcpListener,
    ) -> Result<Self, ApplyError> {
        let failed = |table| move |error| ApplyError::Table { table, error };
        let mut engines: Array<MapData, EngineInstance> = tables::map(ebpf, "engines")?;
        let mut listeners: SockMap<MapData> = tables::map(ebpf, "listeners")?;
        let Claimed { number, first } = claimed;
        let index = number % ENGINES;
        if first {
            let own = EngineInstance { heartbeat: 0, number, reserved: 0 };
            engines.set(index, own, 0).map_err(failed("engines"))?;
            listeners.set(index, &listener, 0).map_err(failed("listeners"))?;
        }
        Ok(Self { number, engines, listeners, _listener: listener })
    }

    /// `time`: CLOCK_MONOTONIC, nanoseconds.
    pub fn beat(&mut self, time: u64) -> Result<(), MapError> {
        let own = EngineInstance { heartbeat: time, number: self.number, reserved: 0 };
        self.engines.set(self.number % ENGINES, own, 0)
    }
}

/// Another handle on the table of engines.
pub fn engines(pins: &Path) -> Result<Array<MapData, EngineInstance>, ProgramError> {
    let path = programs::layout_directory_at(pins)?.join("engines");
    MapData::from_pin(&path)
        .and_then(|data| Array::try_from(Map::Array(data)))
        .map_err(|error| ProgramError::Pinned { path, error })
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The socket alone may outlive this in a child between fork and exec. Where this fails the
        // slot empties then.
        let _ = self.listeners.clear_index(&(self.number % ENGINES));
    }
}
