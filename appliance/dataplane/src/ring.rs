//! The threads that read the rings of held packets: one for each runtime, as far as there are rings.
//!
//! For: handing each held flow's frames to its judge, sending on what comes after a flow was
//! decided, and removing finished flows' entries. Not for: judging. It waits for nothing but the
//! kernel: a judge that does not keep up loses frames (counted), which TCP sends again.

mod due;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use aya::maps::{HashMap as EbpfHashMap, MapData, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc::{self, error::TrySendError};
use weir_policy::Resets;

use crate::core::{Core, Count, Disposition, Finished, Shared, client_side};
use crate::dataplane::Times;
use crate::frame::{Frame, FrameError};
use crate::held::{HeldFlow, other};
use crate::judged::of_another_connection;
use crate::layout::{
    EVASION_DECOY, EVASION_TABLE_FULL, Flow, FlowKey, HELD_CLIENT_ALIVE, HELD_FINAL, HELD_FIRST,
    HELD_SERVER_ALIVE, HELD_SERVER_FIRST, HELD_SERVER_SPOKE, Held, State, read_held,
};

/// How long a held flow waits for a first packet that can be judged.
const UNREAD: Duration = Duration::from_secs(5);
/// Finished flows are looked after this often when no packet comes.
const TICK_MILLISECONDS: u16 = 100;
/// Most records of a ring read before finished flows, tombstones and the end are looked after again.
const RECORDS_A_TURN: usize = 1024;

/// Bounds of what one thread keeps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most flows held at one time, by all threads; past it new ones are released at once.
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

pub struct RingThread {
    pub core: Arc<Core>,
    /// This thread's rings, by number; all records of a flow come by one ring.
    pub rings: Vec<(usize, RingBuf<MapData>)>,
    pub flows: Arc<EbpfHashMap<MapData, FlowKey, Flow>>,
    pub finished: Receiver<Finished>,
    pub runtimes: Vec<mpsc::Sender<HeldFlow>>,
    pub limits: Limits,
    /// Readable when the data plane closes.
    pub stop: OwnedFd,
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
    hasher: RandomState,
}

impl RingThread {
    pub fn new(
        core: Arc<Core>,
        rings: Vec<(usize, RingBuf<MapData>)>,
        flows: Arc<EbpfHashMap<MapData, FlowKey, Flow>>,
        finished: Receiver<Finished>,
        runtimes: Vec<mpsc::Sender<HeldFlow>>,
        limits: Limits,
        stop: OwnedFd,
    ) -> Self {
        Self {
            core,
            rings,
            flows,
            finished,
            runtimes,
            limits,
            stop,
            known: HashMap::new(),
            graves: VecDeque::new(),
            unchanged: VecDeque::new(),
            unread: HashSet::new(),
            unread_until: VecDeque::new(),
            watched: VecDeque::new(),
            hasher: RandomState::new(),
        }
    }

    pub fn run(mut self) {
        let mut more = false;
        loop {
            let now = monotonic_nanoseconds().unwrap_or_default();
            for turned in self.rings.iter().filter_map(|(ring, _)| self.core.turned.get(*ring)) {
                turned.store(now, Ordering::Relaxed);
            }
            match self.wait(!more) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    // Without the ring no flow can be judged; the heartbeat ends with this thread
                    // and new flows stay on the bridge.
                    tracing::error!(%error, "ring of held packets cannot be read");
                    return;
                }
            }
            for index in 0..self.rings.len() {
                self.read_ring(index);
            }
            more = self.read_finished();
            more |= self.remove_tombstones();
            more |= self.change_unchanged();
            more |= self.block_unread();
            more |= self.end_watches();
        }
    }

    /// Waits for records, a little; or only looks. Whether the data plane closes.
    fn wait(&self, wait: bool) -> io::Result<bool> {
        let stop = PollFd::new(self.stop.as_fd(), PollFlags::POLLIN);
        let mut descriptors: Vec<PollFd<'_>> = std::iter::once(stop)
            .chain(self.rings.iter().map(|(_, ring)| {
                // SAFETY: a ring's descriptor is open as long as the ring, which outlives this
                // function.
                let ring = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
                PollFd::new(ring, PollFlags::POLLIN)
            }))
            .collect();
        let timeout = if wait { TICK_MILLISECONDS } else { 0 };
        match poll(&mut descriptors, PollTimeout::from(timeout)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {
                Ok(descriptors.first().is_some_and(|stop| stop.any().unwrap_or(false)))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn read_ring(&mut self, index: usize) {
        // A record is copied out before it is handled: the ring's room is free again at once.
        for _ in 0..RECORDS_A_TURN {
            let Some((_, ring)) = self.rings.get_mut(index) else { return };
            let Some((held, frame)) = ring.next().and_then(|record| {
                let (held, frame) = read_held(&record)?;
                Some((held, Frame::parse(frame, held.gso_size, held.tag())))
            }) else {
                return;
            };
            self.record(&held, frame);
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
        let runtime = self.hasher.hash_one(held.id) as usize % self.runtimes.len().max(1);
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
