//! Reading the rings of held packets: each runtime reads its share, on its own thread, where the flows of
//! these packets are judged, too.
//!
//! For: handing each held flow's frames to its judge, sending on what comes after a flow was
//! decided, and removing finished flows' entries. Not for: judging. It waits for nothing but the
//! kernel: a judge that does not keep up loses frames (counted), which TCP sends again. Where a ring
//! cannot be read no flow of its runtime can be judged: the reader ends, and its runtime with it.

mod due;
mod positions;
mod wait;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use aya::maps::{HashMap as EbpfHashMap, MapData};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::watch;
use weir_policy::Resets;

use crate::core::{Core, Count, Disposition, Finished, Shared, client_side};
use crate::dataplane::Times;
use crate::frame::{Frame, FrameError};
use crate::held::{HeldFlow, other};
use crate::judged::of_another_connection;
use crate::layout::{
    EVASION_DECOY, EVASION_TABLE_FULL, Flow, FlowKey, HELD_CLIENT_ALIVE, HELD_FINAL, HELD_FIRST,
    HELD_SERVER_ALIVE, HELD_SERVER_FIRST, HELD_SERVER_SPOKE, Held, State,
};
use crate::rings::Share;

/// How long a held flow waits for a first packet that can be judged.
const UNREAD: Duration = Duration::from_secs(5);
/// Most records of a ring read before the runtime's other tasks have a turn; and for how long they are read,
/// about: those tasks have long turns, too.
const RECORDS_A_TURN: usize = 1024;
const TURN: Duration = Duration::from_millis(1);

/// Bounds of what one reader keeps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most flows held at one time, by all readers; past it new ones are released at once.
    pub held: usize,
    /// Most released flows watched at one time; past it the oldest is left to the bridge.
    pub watched: usize,
    pub times: Times,
}

/// A flow among those that can exist at one time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity(FlowKey, u64);

/// By its id, which is the kernel's and nearly always a flow's alone: the key is long.
impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.1.hash(state);
    }
}

/// Reads the rings of one runtime.
pub struct RingReader {
    pub core: Arc<Core>,
    /// This reader's rings, by number; all records of a flow come by one ring.
    pub rings: Share,
    /// The runtime that this reader is a task of.
    pub runtime: usize,
    pub flows: Arc<EbpfHashMap<MapData, FlowKey, Flow>>,
    pub finished: Receiver<Finished>,
    pub runtimes: Vec<mpsc::Sender<HeldFlow>>,
    pub limits: Limits,
    /// Closes with the data plane.
    pub open: watch::Receiver<()>,
}

impl fmt::Debug for RingReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingReader").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

impl RingReader {
    /// Reads until the data plane closes, or its rings cannot be read. On the runtime whose it is.
    pub async fn run(self) {
        let Self { core, rings, runtime, flows, finished, runtimes, limits, open } = self;
        let mut rings = match wait::RingSet::new(rings) {
            Ok(rings) => rings,
            Err(error) => {
                return tracing::error!(%error, "rings of held packets cannot be waited for");
            }
        };
        let mut reading = Reading {
            core,
            runtime,
            flows,
            finished,
            runtimes,
            limits,
            known: HashMap::new(),
            graves: VecDeque::new(),
            unchanged: VecDeque::new(),
            unread: HashSet::new(),
            unread_until: VecDeque::new(),
            watched: VecDeque::new(),
        };
        // Its sender is gone with the data plane.
        let mut changes = open.clone();
        let mut closed = pin!(async move { while changes.changed().await.is_ok() {} });
        while open.has_changed().is_ok() {
            reading.turned(&rings);
            let more = rings.read(RECORDS_A_TURN, TURN, |held, frame| reading.record(held, frame));
            let due = reading.look_after_due();
            if more || due {
                tokio::task::yield_now().await;
            } else if let Err(error) = rings.wait(closed.as_mut()).await {
                // New flows stay on the bridge: nobody shows that this ring's reader lives.
                return tracing::error!(%error, "ring of held packets cannot be read");
            }
        }
    }
}

/// What a reader knows of the flows whose packets came by its rings.
struct Reading {
    core: Arc<Core>,
    runtime: usize,
    flows: Arc<EbpfHashMap<MapData, FlowKey, Flow>>,
    finished: Receiver<Finished>,
    runtimes: Vec<mpsc::Sender<HeldFlow>>,
    limits: Limits,
    known: HashMap<Identity, Arc<Shared>>,
    /// Entries to remove, by the time they may go. As many as the flow table has, at most.
    graves: VecDeque<(Instant, FlowKey, u64, State)>,
    /// Flows whose entry could not be changed to what became of them, and when that is tried again. As
    /// many as the flow table has, at most.
    unchanged: VecDeque<(Instant, FlowKey, u64, Disposition)>,
    /// Held flows none of whose packets could be judged yet, and until when they are waited for.
    unread: HashSet<Identity>,
    unread_until: VecDeque<(Instant, FlowKey, u64)>,
    /// Released flows, and until when they are watched. As many as `limits.watched` at most, those
    /// included that ended since.
    watched: VecDeque<(Instant, FlowKey, u64)>,
}

impl Reading {
    /// Shows that the reader lives.
    fn turned(&self, rings: &wait::RingSet) {
        let now = monotonic_nanoseconds().unwrap_or_default();
        for turned in rings.numbers().filter_map(|ring| self.core.turned.get(ring)) {
            turned.store(now, Ordering::Relaxed);
        }
    }

    fn record(&mut self, held: &Held, frame: Result<Frame, FrameError>) {
        let known = self.known.get(&Identity(held.key, held.id)).cloned();
        if held.kind == HELD_FINAL {
            self.known.remove(&Identity(held.key, held.id));
            return;
        }
        if held.kind == HELD_SERVER_SPOKE {
            if let Some(shared) = known {
                shared.lock().server_spoke = true;
                shared.arrived.notify_one();
            }
            return;
        }
        if matches!(held.kind, HELD_CLIENT_ALIVE | HELD_SERVER_ALIVE) {
            if let Some(shared) = known {
                let mut state = shared.lock();
                if state.disposition == Disposition::Taken {
                    let [client, server] = &mut state.kept_alive;
                    *(if held.kind == HELD_CLIENT_ALIVE { client } else { server }) = true;
                    drop(state);
                    shared.arrived.notify_one();
                }
            }
            return;
        }
        let core = Arc::clone(&self.core);
        let Some(links) = core.segments.get(&held.key.segment) else { return };
        if held.kind == HELD_SERVER_FIRST {
            self.first(held, None);
            return;
        }
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                let count = match error {
                    FrameError::Checksum => Count::BadChecksum,
                    FrameError::HeaderChecksum => Count::BadHeaderChecksum,
                    FrameError::NoAcknowledgement => Count::NoAcknowledgement,
                    FrameError::NotTcp => Count::NotUnderstood,
                };
                match &known {
                    Some(shared) => shared.count(links, count),
                    None => links.counts.add(count),
                }
                // A decoy (SPEC D15): the flow waits for a packet that the server would accept.
                if known.is_none() && held.kind == HELD_FIRST {
                    self.wait_for_first(held);
                }
                return;
            }
        };
        match known {
            None if held.kind == HELD_FIRST || self.unread.remove(&Identity(held.key, held.id)) => {
                self.first(held, Some(frame));
            }
            // Its flow was released: behind the frames that were sent then.
            None => {
                links.counts.add(Count::ForwardedLate);
                links.send(other(client_side(&held.flow)), &frame);
            }
            Some(shared) => {
                let mut state = shared.lock();
                match state.disposition {
                    Disposition::Held if state.weight + frame.bytes().len() > Shared::MAX_INBOX => {
                        shared.count(links, Count::QueueFull);
                    }
                    Disposition::Held => {
                        state.weight += frame.bytes().len();
                        state.said = held.flow.said;
                        state.inbox.push(frame);
                        drop(state);
                        shared.arrived.notify_one();
                    }
                    Disposition::Released => {
                        shared.count(links, Count::ForwardedLate);
                        links.send(other(client_side(&held.flow)), &frame);
                    }
                    Disposition::Watched => {
                        let conflicts = state.judged.as_ref().is_some_and(|j| j.conflicts(&frame));
                        if conflicts {
                            shared.count(links, Count::WatchedConflicting);
                            drop(state);
                            if core.blocks(EVASION_DECOY) {
                                self.block_watched(held.key, held.id, &shared);
                            }
                        } else if of_another_connection(&held.flow, &frame) {
                            shared.count(links, Count::WatchedAnother);
                        } else {
                            // Or it was on its way when its flow was released.
                            let new = state.judged.as_ref().is_some_and(|j| j.precede(&frame));
                            let count =
                                if new { Count::ForwardedLate } else { Count::WatchedRepeated };
                            shared.count(links, count);
                            links.send(other(client_side(&held.flow)), &frame);
                        }
                    }
                    Disposition::Taken | Disposition::Tombstone => {
                        shared.count(links, Count::InjectedLate);
                        links.inject(frame);
                    }
                    Disposition::Blocked => {}
                }
            }
        }
    }

    fn first(&mut self, held: &Held, frame: Option<Frame>) {
        let runtime = self.core.loads.choose(self.runtime);
        let flow = HeldFlow::new(&self.core, held, frame, runtime);
        self.known.insert(Identity(held.key, held.id), Arc::clone(&flow.shared));
        let room = self.core.held_now.load(Ordering::Relaxed) <= self.limits.held;
        let sent = match self.runtimes.get(runtime) {
            Some(runtime) if room => runtime.try_send(flow).map_err(TrySendError::into_inner),
            _ => Err(flow),
        };
        let (Err(flow), Some(links)) = (sent, self.core.segments.get(&held.key.segment)) else {
            return;
        };
        if self.core.blocks(EVASION_TABLE_FULL) {
            links.counts.add(Count::BlockedUnjudged);
            if let Err(error) = flow.block(Resets::BOTH) {
                tracing::warn!(%error, "flow over the limit not blocked");
            }
        } else {
            links.counts.add(Count::ReleasedUnjudged);
        }
    }

    fn wait_for_first(&mut self, held: &Held) {
        if self.unread_until.len() >= self.limits.held {
            self.block(held.key, held.id);
            return;
        }
        self.unread.insert(Identity(held.key, held.id));
        self.unread_until.push_back((Instant::now() + UNREAD, held.key, held.id));
    }
}

/// The clock of bpf_ktime_get_ns.
pub fn monotonic_nanoseconds() -> io::Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(now).as_nanos() as u64)
}
