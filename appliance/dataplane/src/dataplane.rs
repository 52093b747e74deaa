//! An open data plane: the engine's handle on segments, programs and tables.

mod options;
mod ports;
mod rules;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use nix::sys::eventfd::EventFd;
use tokio::sync::{mpsc, watch};
use weir_policy::Snapshot;
use weir_policy::snapshot::{CongestionControl, Side};

use crate::core::Core;
use crate::explain::Explain;
use crate::held::HeldFlows;
use crate::inheritance::{Heir, Inheritance};
use crate::instance::{self, Instance};
use crate::layout::{HANDSHAKES_PART, Port};
use crate::loads::Loads;
use crate::namespace::inside;
use crate::programs::{self, ProgramError, RING_TABLE, RingTable, chain};
use crate::quic::{DroppedQuic, ExceptedQuic, Judge, QuicJudge, judge_all_again};
use crate::recount::Recount;
use crate::report::{Reports, SegmentReport};
use crate::ring::{Limits, RingReader, monotonic_nanoseconds};
use crate::rings::Rings;
use crate::segment::MAX_SEGMENT;
use crate::silence::{Silence, SilenceThread};
use crate::socket::{SocketPool, is_known};
use crate::state::StateCommand;
use crate::stray::StrayRefusal;
use crate::tables::{self, ApplyError, FallbackCause, InForce, Tables};
use crate::walk::FlowTable;
pub use options::{OpenError, Options, TableSizes, Times};
use ports::connect;

/// The open data plane. Dropped, or its process ended: new flows stay on the bridge, held flows go
/// back to it.
pub struct Dataplane {
    core: Arc<Core>,
    tables: Mutex<Tables>,
    in_force: InForce,
    instance: Mutex<Instance>,
    inheritance: Inheritance,
    _silence: SilenceThread,
    reports: Reports,
    explain: Explain,
    options: Options,
    flow_table: u32,
    /// What the rings' readers end with.
    _open: watch::Sender<()>,
    quic: Option<JoinHandle<()>>,
    excepted: Arc<Mutex<ExceptedQuic>>,
    stop: EventFd,
    /// Programs stay loaded through their pins; this is for their descriptors.
    ebpf: Mutex<Ebpf>,
    _refusals: Vec<StrayRefusal>,
}

impl Dataplane {
    /// [`Self::prepare`], then [`Self::attach`].
    ///
    /// No flow is held before the first [`Self::heartbeat`]; [`Self::apply`] a snapshot before that.
    pub fn open(options: Options) -> Result<(Self, Vec<HeldFlows>), OpenError> {
        let (dataplane, held) = Self::prepare(options)?;
        dataplane.attach()?;
        Ok((dataplane, held))
    }

    /// Loads the programs and takes on the tables. An earlier engine's programs stay on the ports,
    /// and go on judging where it lives.
    pub fn prepare(options: Options) -> Result<(Self, Vec<HeldFlows>), OpenError> {
        let first = *options.segments.first().ok_or(OpenError::NoSegments)?;
        if let Some(wrong) = options.segments.iter().find(|id| id.0 == 0 || id.0 > MAX_SEGMENT) {
            return Err(OpenError::Segment(wrong.0));
        }
        let names = &options.names;
        // First of all: what follows takes time, and the number is to be nobody else's meanwhile.
        let listener = inside(&names.engine(first), || TcpListener::bind("127.0.0.1:0"))
            .and_then(|listener| listener)
            .map_err(|error| OpenError::Namespace { path: names.engine(first), error })?;
        let claimed = instance::claim(&options.pin_directory, &listener)?;
        let number = claimed.number;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let rings = Rings::new(options.tables.rings, processors);
        let sizes: Vec<(&str, u32)> = [
            ("half_open", options.tables.half_open),
            ("flows", options.tables.flows),
            ("engine_tuples", options.tables.flows),
            ("gre_aliases", options.tables.flows),
        ]
        .into();
        let made = rings.make().map_err(|error| system("rings of held packets", error))?;
        let table = RingTable { count: rings.count.try_into().unwrap_or(1), map: &made.table };
        let mut ebpf = programs::load(&options.pin_directory, number, &sizes, &table)?;

        let query = programs::descriptor(&mut ebpf, "engine_query")?;
        let instance = Instance::begin(&mut ebpf, claimed, listener)?;
        let engines = instance::engines(&options.pin_directory)?;

        let state = StateCommand::new(programs::descriptor(&mut ebpf, programs::STATE_COMMAND)?);
        let explain = Explain::new(programs::descriptor(&mut ebpf, "classify_probe")?);
        let mut ports: Array<MapData, Port> = tables::map(&mut ebpf, "ports")?;
        let timeout = options.heartbeat_timeout;
        let in_force = InForce::new(&mut ebpf, number, timeout)?;
        let tables = Tables::new(&mut ebpf, options.segments.clone(), in_force.clone())?;
        let counters = tables::map(&mut ebpf, "counters")?;
        let reports = Reports::new(names, &options.segments, counters)
            .map_err(|error| OpenError::Namespace { path: names.wire(), error })?;
        // A table of an earlier engine has the size of that one.
        let flow_table = tables::entries(&ebpf, "flows")?;
        let flows = Arc::new(tables::map(&mut ebpf, "flows")?);
        let readers = rings.readers(options.runtimes);
        let shares = rings
            .share(made, readers)
            .map_err(|error| OpenError::Map { table: RING_TABLE, error })?;
        let (finished, receivers): (Vec<_>, Vec<_>) =
            (0..readers).map(|_| std::sync::mpsc::channel()).unzip();
        let finished = (0..rings.count)
            .filter_map(|ring| finished.get(rings.reader(ring, readers)).cloned())
            .collect();
        let now = monotonic_nanoseconds().map_err(|error| system("clock", error))?;

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
            evasion: AtomicU32::new(0),
            bbr: AtomicBool::new(false),
            state,
            segments: links,
            sockets,
            held_now: AtomicUsize::new(0),
            taken_now: AtomicUsize::new(0),
            loads: Loads::new(options.runtimes),
            quic: OnceLock::new(),
            turned: (0..rings.count).map(|_| AtomicU64::new(now)).collect(),
            finished,
        });
        let (senders, queues): (Vec<_>, Vec<_>) =
            (0..options.runtimes.max(1)).map(|_| mpsc::channel(options.tables.held.max(1))).unzip();
        let stop = EventFd::new().map_err(|error| system("eventfd", error.into()))?;
        let limits = Limits {
            held: options.tables.held,
            watched: (options.tables.watched / readers).max(1),
            times: options.times,
        };
        let table = FlowTable { flows: Arc::clone(&flows), most: flow_table as usize };
        let counts = Arc::new(tables::map(&mut ebpf, "client_flows")?);
        let recount = Recount {
            counts: Arc::clone(&counts),
            seed: in_force.seed(),
            command: programs::descriptor(&mut ebpf, programs::COUNT_COMMAND)?,
        };
        let silence = Silence {
            core: Arc::clone(&core),
            flows: table.clone(),
            counts: Arc::clone(&counts),
            in_force: in_force.clone(),
            room: options.tables.flows / HANDSHAKES_PART,
            times: options.times,
        };
        let silence = silence.start().map_err(|error| system("thread", error))?;
        let (open, closed) = watch::channel(());
        let mut shares = shares.into_iter().zip(receivers);
        let held = queues.into_iter().enumerate().map(|(runtime, queue)| {
            let reader = shares.next().map(|(rings, finished)| RingReader {
                core: Arc::clone(&core),
                rings,
                runtime,
                flows: Arc::clone(&flows),
                finished,
                runtimes: senders.clone(),
                limits,
                open: closed.clone(),
            });
            HeldFlows::new(queue, reader)
        });
        let held: Vec<_> = held.collect();

        let refusals: Result<Vec<_>, _> =
            options.segments.iter().map(|id| StrayRefusal::start(&names.engine(*id))).collect();
        let refusals = refusals?;

        let quic = DroppedQuic::new(
            &mut ebpf,
            Arc::clone(&core),
            stop_descriptor(&stop).map_err(|error| system("eventfd", error))?,
        )?;
        let excepted = quic.excepted();
        let quic = std::thread::Builder::new()
            .name("weir-quic".into())
            .spawn(move || quic.run())
            .map_err(|error| system("thread", error))?;

        let heir = Heir {
            core: Arc::clone(&core),
            flows: table,
            engines,
            query,
            own: number,
            recount,
            recount_every: options.times.recount,
            in_force: in_force.clone(),
        };
        let inheritance = Inheritance::start(heir).map_err(|error| system("thread", error))?;
        let dataplane = Self {
            core,
            tables: Mutex::new(tables),
            in_force,
            instance: Mutex::new(instance),
            inheritance,
            _silence: silence,
            reports,
            explain,
            options,
            flow_table,
            _open: open,
            quic: Some(quic),
            excepted,
            stop,
            ebpf: Mutex::new(ebpf),
            _refusals: refusals,
        };
        Ok((dataplane, held))
    }

    /// Puts the programs on the ports, in place of an earlier engine's, which gets no new flow from
    /// here on. Flows of engines that died, or die later, are then taken on, by a thread of its own:
    /// held ones go back to the bridge, taken ones become tombstones.
    pub fn attach(&self) -> Result<(), OpenError> {
        let Options { names, segments, pin_directory, attach, .. } = &self.options;
        let mut ebpf = lock(&self.ebpf);
        let ebpf = &mut *ebpf;
        inside(&names.wire(), || -> Result<(), ProgramError> {
            for id in segments {
                for (program, interface) in [
                    ("engine_ingress", names.engine_outer(*id)),
                    ("port_ingress", names.port(*id, Side::A)),
                    ("port_ingress", names.port(*id, Side::B)),
                ] {
                    programs::attach(ebpf, program, &interface, pin_directory, *attach)?;
                }
            }
            Ok(())
        })
        .map_err(|error| OpenError::Namespace { path: names.wire(), error })??;
        // Not before: until now the earlier engine may have held new flows, and one without any
        // would have ended with its programs still on the ports.
        self.in_force.attached()?;
        self.judge_quic_again();
        self.inheritance.take_on();
        Ok(())
    }

    /// Says who judges QUIC that policy blocks; once, and until then all of it is refused.
    pub fn judge_quic_by(&self, judge: Box<dyn QuicJudge>) {
        let _ = self.core.quic.set(Judge(judge));
    }

    /// Whether a later engine's programs are on the ports: no new flow comes to this one any more.
    pub fn superseded(&self) -> bool {
        self.in_force.superseded()
    }

    /// Flows that are this engine's to bring to an end: held, and taken.
    pub fn flows_now(&self) -> FlowsNow {
        FlowsNow {
            held: self.core.held_now.load(Ordering::Relaxed),
            held_limit: self.options.tables.held,
            taken: self.core.taken_now.load(Ordering::Relaxed),
        }
    }

    /// Entries that the table of held, taken and finished flows has room for, as the kernel has it.
    pub fn flow_table(&self) -> u32 {
        self.flow_table
    }

    /// Puts a snapshot's rules, candidates and fallback settings in force, in one step: a packet
    /// meets all of the old ones or all of the new ones. Reputation is changed entry by entry.
    pub fn apply(&self, snapshot: &Snapshot) -> Result<(), ApplyError> {
        let control = snapshot.device.congestion_control;
        if !is_known(control).map_err(ApplyError::CongestionControl)? {
            return Err(ApplyError::UnknownCongestionControl(control.word()));
        }
        self.tables().apply(snapshot)?;
        self.core.bbr.store(control == CongestionControl::Bbr, Ordering::Relaxed);
        self.core.evasion.store(tables::evasion(&snapshot.device.evasion), Ordering::Relaxed);
        self.judge_quic_again();
        Ok(())
    }

    /// What an earlier policy excepted of QUIC, by this engine's, once that is in force.
    fn judge_quic_again(&self) {
        if let Some(policy) = self.in_force.own_policy() {
            judge_all_again(&self.core, &self.excepted, policy);
        }
    }

    /// Layer-2 fallback (SPEC D2, D10), for as long as one cause is on: new flows stay on the
    /// bridge, taken ones stay with the engine; segments with `layer-2-fallback: block-all` drop
    /// everything, taken flows included.
    pub fn fall_back(&self, cause: FallbackCause, on: bool) -> Result<(), ApplyError> {
        self.in_force.set_fallback(cause, on)
    }

    /// Says that everything that judges flows lives. Call it every 50 ms.
    pub fn heartbeat(&self) {
        self.heartbeat_of(monotonic_nanoseconds().unwrap_or_default());
    }

    /// Says when the least lively part that judges flows last showed that it lives
    /// (CLOCK_MONOTONIC, nanoseconds). Where that is too long ago, or a ring's reader is no livelier,
    /// new flows stay on the bridge.
    pub fn heartbeat_of(&self, time: u64) {
        self.core.look_at_links();
        let turned = self.core.turned.iter().map(|turned| turned.load(Ordering::Relaxed));
        let time = turned.fold(time, u64::min);
        if let Err(error) = lock(&self.instance).beat(time) {
            tracing::warn!(error = chain(&error), "no heartbeat");
        }
    }

    /// Counters of every segment: the programs' own, then user space's.
    pub fn counters(&self) -> Vec<SegmentReport> {
        self.reports.read(&self.core)
    }

    /// Packets of held flows that found no room on their way to user space, on all segments.
    pub fn held_packets_lost(&self) -> u64 {
        self.reports.program_counter("ring_full_dropped")
    }

    /// Whether Layer-2 fallback is in force for this cause.
    pub fn falls_back(&self, cause: FallbackCause) -> bool {
        self.in_force.fallback(cause)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }
}

/// Flows of this engine at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowsNow {
    pub held: usize,
    /// Flows held at one time; past it new ones are released at once.
    pub held_limit: usize,
    /// Flows whose ends are sockets of this process.
    pub taken: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(quic) = self.quic.take() {
            let _ = quic.join();
        }
    }
}

fn stop_descriptor(stop: &EventFd) -> io::Result<OwnedFd> {
    std::os::fd::AsFd::as_fd(stop).try_clone_to_owned()
}

fn system(what: &'static str, error: io::Error) -> OpenError {
    OpenError::System { what, error }
}
