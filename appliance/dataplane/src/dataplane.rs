//! An open data plane: the engine's handle on segments, programs and tables.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap as EbpfHashMap, MapData, PerCpuArray, SockMap};
use nix::sys::eventfd::EventFd;
use tokio::sync::mpsc;
use weir_policy::Snapshot;
use weir_policy::snapshot::{SegmentId, Side};

use crate::core::{Core, Counts, SegmentLinks};
use crate::held::HeldFlows;
use crate::layout::{COUNTERS, Port, SIDE_ENGINE};
use crate::link::Link;
use crate::namespace::inside;
use crate::programs::{self, Attach, ProgramError, chain};
use crate::ring::{RingThread, monotonic_nanoseconds};
use crate::rings::Rings;
use crate::segment::{MAX_SEGMENT, Names};
use crate::socket::SocketPool;
use crate::state::StateCommand;
use crate::tables::{self, ApplyError, Tables};

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
        }
    }
}

/// Sizes of pinned tables hold from their first use until the pins are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Handshakes watched; past it the oldest is forgotten and its flow stays on the bridge.
    pub half_open: u32,
    /// Held, taken and finished flows; past it candidates stay on the bridge. A finished one stays
    /// for 60 s, so this bounds the flows taken a second; memory is used as entries come.
    pub flows: u32,
    /// Bytes of held packets on their way to user space, in all rings together; past it they are
    /// dropped and TCP sends them again. Each ring gets 256 KiB at least.
    pub rings: u32,
    /// Flows held at one time; past it new ones are released at once.
    pub held: usize,
}

impl Default for TableSizes {
    fn default() -> Self {
        Self { half_open: 65_536, flows: 262_144, rings: 16 << 20, held: 4096 }
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

/// One segment's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    pub segment: SegmentId,
    /// Fallback was told.
    pub fallback: bool,
    pub counters: Vec<(&'static str, u64)>,
}

/// The open data plane. Dropped, or its process ended: new flows stay on the bridge, held flows go
/// back to it.
pub struct Dataplane {
    core: Arc<Core>,
    tables: Mutex<Tables>,
    heartbeat: Mutex<Array<MapData, u64>>,
    counters: PerCpuArray<MapData, u64>,
    segments: Vec<SegmentId>,
    rings: Vec<JoinHandle<()>>,
    stop: EventFd,
    /// The slot empties with it.
    _listener: TcpListener,
    _listener_slot: SockMap<MapData>,
    /// Programs stay loaded through their pins; this is for their descriptors.
    _ebpf: Ebpf,
}

impl Dataplane {
    /// Loads and attaches the programs, in place of an earlier engine's, and takes on its tables:
    /// its held flows go back to the bridge, its taken ones become tombstones.
    ///
    /// No flow is held before the first [`Self::heartbeat`]; [`Self::apply`] a snapshot before that.
    pub fn open(options: Options) -> Result<(Self, Vec<HeldFlows>), OpenError> {
        let first = *options.segments.first().ok_or(OpenError::NoSegments)?;
        if let Some(wrong) = options.segments.iter().find(|id| id.0 == 0 || id.0 > MAX_SEGMENT) {
            return Err(OpenError::Segment(wrong.0));
        }
        let names = &options.names;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let rings = Rings::new(options.tables.rings, processors);
        let sizes: Vec<(&str, u32)> = [
            ("half_open", options.tables.half_open),
            ("flows", options.tables.flows),
            ("engine_tuples", options.tables.flows),
        ]
        .into_iter()
        .chain(rings.sizes())
        .collect();
        let mut ebpf =
            programs::load(&options.pin_directory, &sizes, rings.count.try_into().unwrap_or(1))?;

        let listener = inside(&names.engine(first), || TcpListener::bind("127.0.0.1:0"))
            .and_then(|listener| listener)
            .map_err(|error| OpenError::Namespace { path: names.engine(first), error })?;
        let mut slot: SockMap<MapData> = tables::map(&mut ebpf, "listener")?;
        slot.set(0, &listener, 0).map_err(|error| OpenError::Map { table: "listener", error })?;

        let state = StateCommand::new(programs::descriptor(&mut ebpf, "state_command")?);
        let mut ports: EbpfHashMap<MapData, u32, Port> = tables::map(&mut ebpf, "ports")?;
        let timeout = u64::try_from(options.heartbeat_timeout.as_nanos()).unwrap_or(u64::MAX / 2);
        let tables = Tables::new(&mut ebpf, options.segments.clone(), timeout)?;
        let heartbeat = tables::map(&mut ebpf, "heartbeat")?;
        let counters = tables::map(&mut ebpf, "counters")?;
        let flows = Arc::new(tables::map(&mut ebpf, "flows")?);
        let readers = rings.readers(options.runtimes);
        let shares = rings.share(&mut ebpf, readers)?;
        let (finished, receivers): (Vec<_>, Vec<_>) =
            (0..readers).map(|_| std::sync::mpsc::channel()).unzip();
        let finished = (0..rings.count)
            .filter_map(|ring| finished.get(rings.reader(ring, readers)).cloned())
            .collect();

        // The programs find a port only by its entry, so these come before attaching.
        let links = inside(&names.wire(), || -> Result<_, OpenError> {
            let mut links = BTreeMap::new();
            for id in &options.segments {
                links.insert(u32::from(id.0), connect(&options, *id, &mut ports)?);
            }
            Ok(links)
        })
        .map_err(|error| OpenError::Namespace { path: names.wire(), error })??;

        let mut sockets = Vec::with_capacity(options.runtimes);
        for _ in 0..options.runtimes.max(1) {
            let mut pools = BTreeMap::new();
            for id in &options.segments {
                let path = names.engine(*id);
                let pool = SocketPool::start(&path)
                    .map_err(|error| OpenError::Namespace { path, error })?;
                pools.insert(u32::from(id.0), pool);
            }
            sockets.push(pools);
        }
        let core = Arc::new(Core {
            state,
            segments: links,
            sockets,
            held_now: AtomicUsize::new(0),
            finished,
        });
        let (senders, held): (Vec<_>, Vec<_>) = (0..options.runtimes.max(1))
            .map(|_| {
                let (sender, receiver) = mpsc::channel(options.tables.held.max(1));
                (sender, HeldFlows { receiver })
            })
            .unzip();
        let stop = EventFd::new().map_err(|error| system("eventfd", error.into()))?;
        let mut readers = Vec::with_capacity(readers);
        for (share, finished) in shares.into_iter().zip(receivers) {
            let mut thread = RingThread::new(
                Arc::clone(&core),
                share,
                Arc::clone(&flows),
                finished,
                senders.clone(),
                options.tables.held,
                stop_descriptor(&stop).map_err(|error| system("eventfd", error))?,
            );
            thread.adopt().map_err(|error| system("flow table", error))?;
            readers.push(thread);
        }

        inside(&names.wire(), || -> Result<(), ProgramError> {
            for id in &options.segments {
                for (program, interface) in [
                    ("engine_ingress", names.engine_outer(*id)),
                    ("port_ingress", names.port(*id, Side::A)),
                    ("port_ingress", names.port(*id, Side::B)),
                ] {
                    let pins = &options.pin_directory;
                    programs::attach(&mut ebpf, program, &interface, pins, options.attach)?;
                }
            }
            Ok(())
        })
        .map_err(|error| OpenError::Namespace { path: names.wire(), error })??;

        let mut threads = Vec::with_capacity(readers.len());
        for reader in readers {
            let thread = std::thread::Builder::new()
                .name("weir-ring".into())
                .spawn(move || reader.run())
                .map_err(|error| system("thread", error))?;
            threads.push(thread);
        }
        let dataplane = Self {
            core,
            tables: Mutex::new(tables),
            heartbeat: Mutex::new(heartbeat),
            counters,
            segments: options.segments,
            rings: threads,
            stop,
            _listener: listener,
            _listener_slot: slot,
            _ebpf: ebpf,
        };
        Ok((dataplane, held))
    }

    /// Puts a snapshot's candidates and fallback settings in force, in one step.
    pub fn apply(&self, snapshot: &Snapshot) -> Result<(), ApplyError> {
        self.tables().apply(snapshot)
    }

    /// Fallback told (SPEC D2): new flows stay on the bridge, taken ones stay with the engine;
    /// segments with `layer-2-fallback: block-all` drop everything.
    pub fn force_fallback(&self, on: bool) -> Result<(), ApplyError> {
        self.tables().force_fallback(on)
    }

    /// Says that the engine lives. Call it every 50 ms, from where flows are judged: without it new
    /// flows stay on the bridge. Says nothing where a ring's thread has ended.
    pub fn heartbeat(&self) {
        if self.rings.iter().any(JoinHandle::is_finished) {
            return;
        }
        let mut beat = self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner);
        let now = monotonic_nanoseconds().unwrap_or_default();
        if let Err(error) = beat.set(0, now, 0) {
            tracing::warn!(error = chain(&error), "no heartbeat");
        }
    }

    /// Counters of every segment: the programs' own, then user space's.
    pub fn counters(&self) -> Vec<SegmentReport> {
        let fallback = self.tables().forced();
        self.segments
            .iter()
            .map(|segment| {
                let first = usize::from(segment.0) * COUNTERS.len();
                let mut counters: Vec<_> = COUNTERS
                    .iter()
                    .enumerate()
                    .map(|(index, name)| (*name, self.programs_counter(first + index)))
                    .collect();
                if let Some(links) = self.core.segments.get(&u32::from(segment.0)) {
                    counters.extend(links.counts.read());
                }
                SegmentReport { segment: *segment, fallback, counters }
            })
            .collect()
    }

    fn programs_counter(&self, index: usize) -> u64 {
        let Ok(index) = u32::try_from(index) else { return 0 };
        self.counters.get(&index, 0).map_or(0, |values| values.iter().sum())
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        for ring in self.rings.drain(..) {
            let _ = ring.join();
        }
    }
}

/// Inside the wire namespace: a segment's links, and its ports' entries.
fn connect(
    options: &Options,
    id: SegmentId,
    ports: &mut EbpfHashMap<MapData, u32, Port>,
) -> Result<SegmentLinks, OpenError> {
    let names = &options.names;
    let at = |interface: &str| {
        nix::net::if_::if_nametoindex(interface).map_err(|error| OpenError::Interface {
            interface: interface.to_owned(),
            error: error.into(),
        })
    };
    let open = |interface: &str, index| {
        Link::open(index)
            .map_err(|error| OpenError::Interface { interface: interface.to_owned(), error })
    };
    let (a, b) = (names.port(id, Side::A), names.port(id, Side::B));
    let outer = names.engine_outer(id);
    let (index_a, index_b, index_engine) = (at(&a)?, at(&b)?, at(&outer)?);
    let port = Port {
        segment: u32::from(id.0),
        side: 0,
        interface: [index_a, index_b],
        engine: index_engine,
        inner_mac: crate::segment::INNER_MAC,
        reserved: [0; 2],
    };
    for (index, side) in [(index_a, 0), (index_b, 1), (index_engine, SIDE_ENGINE)] {
        ports
            .insert(index, Port { side, ..port }, 0)
            .map_err(|error| OpenError::Map { table: "ports", error })?;
    }
    Ok(SegmentLinks {
        port_a: open(&a, index_a)?,
        port_b: open(&b, index_b)?,
        engine: open(&outer, index_engine)?,
        inner_mac: port.inner_mac,
        counts: Counts::default(),
    })
}

fn stop_descriptor(stop: &EventFd) -> io::Result<OwnedFd> {
    std::os::fd::AsFd::as_fd(stop).try_clone_to_owned()
}

fn system(what: &'static str, error: io::Error) -> OpenError {
    OpenError::System { what, error }
}
