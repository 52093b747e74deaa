//! A held flow: its client's bytes, and the three ways it ends.
//!
//! For: reading the client's first bytes while its flow is held, then [`HeldFlow::release`],
//! [`HeldFlow::block`] or [`HeldFlow::take_over`]. Not for: judging. A flow dropped undecided is
//! released; every failure leaves the flow on the bridge.

mod blocked;
mod given_back;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use weir_policy::snapshot::{SegmentId, Side};
use weir_policy::{Candidate, Place};

use crate::assembly::{Assembly, Pushed};
use crate::core::{
    Core, Count, Disposition, Finished, FlowCounts, SegmentLinks, Shared, SharedState,
};
use crate::encapsulation::Encapsulation;
use crate::frame::{ACK, Frame, RST};
use crate::layout::{END_TIMESTAMPS, End, Flow, FlowKey, Held as HeldRecord, RESET_BY_SERVER};
use crate::loads::Load;
use crate::place::place;
use crate::ring::{RingReader, monotonic_nanoseconds};
use crate::segment_of_ours::Segment;

/// The held flows of one runtime, in the order they were held; and its share of the rings that their
/// packets come by, which are read from the first time on that somebody asks for a flow.
#[derive(Debug)]
pub struct HeldFlows {
    receiver: mpsc::Receiver<HeldFlow>,
    /// `None` where there are fewer rings than runtimes.
    reader: Option<RingReader>,
    reading: Option<JoinHandle<()>>,
}

impl HeldFlows {
    pub(crate) fn new(receiver: mpsc::Receiver<HeldFlow>, reader: Option<RingReader>) -> Self {
        Self { receiver, reader, reading: None }
    }

    /// The next one; `None` once the data plane is closed, or the rings cannot be read any more. On the
    /// runtime that will own the flows: it must go on turning, as their packets come by a task of its own.
    /// Safe to cancel.
    pub async fn next(&mut self) -> Option<HeldFlow> {
        if let Some(reader) = self.reader.take() {
            self.reading = Some(tokio::spawn(reader.run()));
        }
        poll_fn(|cx| {
            if let Some(reading) = &mut self.reading
                && Pin::new(reading).poll(cx).is_ready()
            {
                self.reading = None;
                self.receiver.close();
            }
            self.receiver.poll_recv(cx)
        })
        .await
    }
}

impl Drop for HeldFlows {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.abort();
        }
    }
}

/// What came while a flow was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// [`HeldFlow::payload`] is longer than before.
    More,
    /// FIN or RST of the client: nothing more will come, or what does is not let through.
    Ended,
    /// The server sent data before the judgement, which policy has it not do.
    ServerSpoke,
    /// As much as is ever kept of a held flow.
    Full,
}

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The flow's entry could not be changed; its packets are forwarded by user space.
    #[error("flow table: {0}")]
    Table(#[from] io::Error),
}

/// It was given back to the bridge because the engine seemed dead, or its entry is gone.
#[derive(Debug, thiserror::Error)]
#[error("the flow is not held any more")]
pub struct NotHeld;

/// Why a flow was not taken over; it has been released, except for [`TakeOverError::Lost`] and
/// [`TakeOverError::Blocked`].
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// It was given back because the engine seemed dead.
    #[error("the flow is not held any more")]
    NotHeld,
    #[error("another flow has the same addresses and ports")]
    TupleOwned,
    #[error("no socket: {0}")]
    Socket(io::Error),
    #[error("socket towards the client: {0}")]
    Client(io::Error),
    #[error("socket towards the server: {0}")]
    Server(io::Error),
    #[error("flow table: {0}")]
    Table(io::Error),
    /// Policy blocks what cannot be taken over for such a reason (SPEC D15).
    #[error("its server had ended, and its client heard so")]
    ServerEnded,
    #[error("blocked: {0}")]
    Blocked(Box<TakeOverError>),
    /// The flow was taken and is lost: both ends are sent a RST and get nothing more.
    #[error("taken, and lost: {0}")]
    Lost(io::Error),
}

/// A flow that waits for its judgement. Its client's packets are off the wire.
#[derive(Debug)]
pub struct HeldFlow {
    pub(crate) core: Arc<Core>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: FlowKey,
    pub(crate) id: u64,
    /// As it was when the flow was held.
    pub(crate) flow: Flow,
    pub(crate) assembly: Assembly,
    pub(crate) runtime: usize,
    decided: bool,
}

impl HeldFlow {
    /// From the ring's first record of a flow; without a frame where its server spoke first.
    pub(crate) fn new(
        core: &Arc<Core>,
        record: &HeldRecord,
        frame: Option<Frame>,
        runtime: usize,
    ) -> Self {
        core.held_now.fetch_add(1, Ordering::Relaxed);
        core.loads.add(runtime, Load::Held);
        if let Some(links) = core.segments.get(&record.key.segment) {
            links.held_now.fetch_add(1, Ordering::Relaxed);
        }
        let mut flow = Self {
            core: Arc::clone(core),
            shared: Arc::new(Shared::new(frame, record.flow.said)),
            key: record.key,
            id: record.id,
            flow: record.flow,
            assembly: Assembly::new(
                record.flow.end[0].isn.wrapping_add(1),
                record.flow.end[1].syn_window,
            ),
            runtime,
            decided: false,
        };
        flow.absorb();
        flow
    }

    /// The flow, as policy looks at it.
    pub fn candidate(&self) -> Candidate {
        Candidate {
            segment: SegmentId(self.key.segment as u16),
            from: self.from(),
            vlan: (self.key.outer_vlan != 0).then_some(self.key.outer_vlan & 0xfff),
            client: self.client(),
            server: self.server(),
        }
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        place(&self.key)
    }

    /// Counts the flow there as well as with its segment, from now on; once.
    pub fn count_for(&self, counts: Arc<FlowCounts>) {
        let _ = self.shared.counted_for.set(counts);
    }

    /// The client's bytes so far, from its first, without gaps.
    pub fn payload(&self) -> &[u8] {
        self.assembly.payload()
    }

    /// Whether the server sent data before the judgement, which policy has it not do: what came of the
    /// client is no first word.
    pub fn server_spoke(&self) -> bool {
        self.shared.lock().server_spoke
    }

    /// Waits for something new. Waits for ever where nothing comes: put a limit around it. Safe to
    /// cancel.
    pub async fn more(&mut self) -> Held {
        let before = self.payload().len();
        loop {
            if self.absorb() {
                return Held::ServerSpoke;
            }
            if self.payload().len() > before {
                return Held::More;
            }
            if self.assembly.end.is_some() {
                return Held::Ended;
            }
            if self.assembly.full {
                return Held::Full;
            }
            let shared = Arc::clone(&self.shared);
            shared.arrived.notified().await;
        }
    }

    /// Records how long the flow was held until now, when it is judged.
    pub(crate) fn judged(&self) {
        if let Some(links) = self.links()
            && let Ok(now) = monotonic_nanoseconds()
        {
            let held = now.saturating_sub(self.flow.touched);
            self.shared.held_for(links, Duration::from_nanos(held));
        }
    }

    /// Takes in what the ring's reader left for this flow. Whether the server spoke.
    fn absorb(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        self.absorb_locked(&mut state);
        state.server_spoke
    }

    pub(crate) fn absorb_locked(&mut self, state: &mut SharedState) {
        state.weight = 0;
        // A FIN is one more; while it is held none crosses.
        let end = u32::from(self.flow.reset == RESET_BY_SERVER);
        let server = self.flow.end[1].isn.wrapping_add(1);
        self.assembly.server_said = Some(server.wrapping_add(state.said.saturating_add(end)));
        let [client, server] = self.flow.end;
        let timestamps = client.flags & server.flags & END_TIMESTAMPS != 0;
        for frame in state.inbox.drain(..) {
            let old = |value: u32| (value.wrapping_sub(client.tsval) as i32) < 0;
            if timestamps && frame.flags & RST == 0 && frame.timestamp().is_some_and(old) {
                if let Some(links) = self.core.segments.get(&self.key.segment) {
                    self.shared.count(links, Count::OldTimestamp);
                }
                continue;
            }
            let count = match self.assembly.push(frame) {
                Pushed::Kept | Pushed::Repeated => continue,
                Pushed::Refused => Count::NotTakeable,
                Pushed::Conflicting => Count::Conflicting,
            };
            if let Some(links) = self.core.segments.get(&self.key.segment) {
                self.shared.count(links, count);
            }
        }
    }

    /// The headers below the IP packets of `end`, whose address is `address`.
    pub(crate) fn encapsulation(&self, end: &End, address: SocketAddr) -> Encapsulation {
        Encapsulation::of(&self.key, end, address == self.key.end(false))
    }

    pub(crate) fn segment(&self, end: &End, from: SocketAddr, to: SocketAddr) -> Segment {
        empty_segment(&self.key, end, from, to)
    }

    /// Decided: says what becomes of the flow's late packets.
    pub(crate) fn finish(&mut self, disposition: Disposition) {
        self.finish_as(disposition, true);
    }

    /// As above. `changed`: the flow's entry says so already.
    fn finish_as(&mut self, disposition: Disposition, changed: bool) {
        self.shared.lock().disposition = disposition;
        if !self.decided {
            self.decided = true;
            self.core.held_now.fetch_sub(1, Ordering::Relaxed);
            self.core.loads.subtract(self.runtime, Load::Held);
            if let Some(links) = self.links() {
                links.held_now.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.core.finish(Finished { key: self.key, id: self.id, disposition, changed });
    }

    pub(crate) fn links(&self) -> Option<&SegmentLinks> {
        self.core.segments.get(&self.key.segment)
    }

    pub(crate) fn from(&self) -> Side {
        if self.flow.client_side == 0 { Side::A } else { Side::B }
    }

    pub(crate) fn client(&self) -> SocketAddr {
        self.key.end(self.flow.client_low == 0)
    }

    pub(crate) fn server(&self) -> SocketAddr {
        self.key.end(self.flow.client_low != 0)
    }
}

/// An empty segment as `end` sends its own: addresses, VLAN, tunnel, TTL and DSCP.
pub(crate) fn empty_segment(key: &FlowKey, end: &End, from: SocketAddr, to: SocketAddr) -> Segment {
    Segment {
        mac: end.mac,
        encapsulation: Encapsulation::of(key, end, from == key.end(false)),
        ttl: end.ttl,
        tos: end.tos & 0xfc,
        flow_label: end.flow_label,
        from,
        to,
        sequence: 0,
        acknowledged: 0,
        flags: ACK,
        window: 0,
        timestamps: None,
    }
}

pub(crate) fn other(side: Side) -> Side {
    match side {
        Side::A => Side::B,
        Side::B => Side::A,
    }
}
