//! How a data plane is opened, and why that fails.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use weir_policy::snapshot::SegmentId;

use crate::programs::{Attach, ProgramError, chain};
use crate::segment::{MAX_SEGMENT, Names};
use crate::tables::ApplyError;

/// How a data plane is opened.
#[derive(Clone, Debug)]
pub struct Options {
    pub names: Names,
    /// Made by [`crate::segment::create`] before.
    pub segments: Vec<SegmentId>,
    /// On a bpf file system; where it is none, one is mounted there.
    pub pin_directory: PathBuf,
    /// As many [`HeldFlows`] are returned; flows are spread over them.
    pub runtimes: usize,
    pub attach: Attach,
    /// Without a heartbeat for this long, new flows stay on the bridge.
    pub heartbeat_timeout: Duration,
    pub tables: TableSizes,
    pub times: Times,
}

impl Options {
    pub fn new(names: Names, segments: Vec<SegmentId>, pin_directory: PathBuf) -> Self {
        Self {
            names,
            segments,
            pin_directory,
            runtimes: 1,
            attach: Attach::Auto,
            heartbeat_timeout: Duration::from_millis(500),
            tables: TableSizes::default(),
            times: Times::default(),
        }
    }
}

/// Sizes of pinned tables hold from their first use until the pins are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Handshakes watched until they are whole; past it the oldest is forgotten and its flow stays on
    /// the bridge.
    pub half_open: u32,
    /// Flows whose handshake is whole (a fourth of it for those that say nothing), held, taken and
    /// finished ones; past it candidates stay on the bridge. A finished one stays
    /// for 60 s, so this bounds the flows taken a second; memory is used as entries come.
    pub flows: u32,
    /// Bytes of held packets on their way to user space, in all rings together; past it they are
    /// dropped and TCP sends them again. Each ring gets 256 KiB at least.
    pub rings: u32,
    /// Flows held at one time; past it new ones are released at once.
    pub held: usize,
    /// Released flows watched until their servers acknowledged what was judged, their bytes kept;
    /// past it the oldest is left to the bridge.
    pub watched: usize,
}

impl Default for TableSizes {
    fn default() -> Self {
        Self { half_open: 65_536, flows: 262_144, rings: 16 << 20, held: 4096, watched: 32_768 }
    }
}

/// How long entries of flows stay for which nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// A finished flow (tombstone, blocked), after its last packet.
    pub tombstone: Duration,
    /// A released flow whose server has not acknowledged what was judged.
    pub watched: Duration,
    /// A flow whose handshake is whole and whose client has said nothing, after its last packet.
    /// Longer than ends send no keep-alive (RFC 9293 3.8.4: two hours).
    pub silent: Duration,
    /// The same where half of such flows' room is used, or an end reset the flow.
    pub silent_crowded: Duration,
    /// Between two looks at such flows.
    pub look: Duration,
    /// Between two recounts of clients' flows: so long a count that went wrong may stay so.
    pub recount: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            tombstone: Duration::from_secs(60),
            watched: Duration::from_secs(30),
            silent: Duration::from_secs(3 * 3600),
            silent_crowded: Duration::from_secs(60),
            look: Duration::from_secs(20),
            recount: Duration::from_secs(600),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no segments: at least one is needed")]
    NoSegments,
    #[error("segment {0}: the number must be 1 to {MAX_SEGMENT}")]
    Segment(u16),
    #[error("namespace {path}: {error}")]
    Namespace { path: PathBuf, error: io::Error },
    #[error("interface {interface}: {error}")]
    Interface { interface: String, error: io::Error },
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Table(#[from] ApplyError),
    #[error("eBPF table {table}: {}", chain(.error))]
    Map { table: &'static str, error: aya::maps::MapError },
    #[error("{what}: {error}")]
    System { what: &'static str, error: io::Error },
}
