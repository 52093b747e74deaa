//! What all parts of one open data plane share: state command, links, counters, socket pools.
//!
//! Nothing here takes a lock that two flows could wait for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use weir_policy::snapshot::Side;

use crate::assembly::Judged;
use crate::frame::Frame;
use crate::layout::{FlowKey, ring_of};
use crate::link::Link;
use crate::socket::SocketPool;
use crate::state::StateCommand;

#[derive(Debug)]
pub struct Core {
    pub state: StateCommand,
    pub segments: BTreeMap<u32, SegmentLinks>,
    /// One for each runtime: sockets of each segment's engine namespace.
    pub sockets: Vec<BTreeMap<u32, SocketPool>>,
    /// Flows held at this moment.
    pub held_now: AtomicUsize,
    /// Flows whose ends are sockets of this process, at this moment.
    pub taken_now: AtomicUsize,
    /// One for each ring: when its thread turned last, CLOCK_MONOTONIC nanoseconds.
    pub turned: Vec<AtomicU64>,
    /// One for each ring: to the thread that reads it. Unbounded, but each held flow sends three at
    /// most.
    pub finished: Vec<Sender<Finished>>,
}

impl Core {
    /// Tells the thread of a flow's ring that the flow ended in user space. The thread is gone only
    /// when the data plane is.
    pub fn finish(&self, finished: Finished) {
        if let Some(thread) = self.finished.get(ring_of(finished.id, self.finished.len())) {
            let _ = thread.send(finished);
        }
    }
}

/// Where frames of a segment go.
#[derive(Debug)]
pub struct SegmentLinks {
    pub port_a: Link,
    pub port_b: Link,
    /// Into the engine's namespace.
    pub engine: Link,
    /// Address of the veth's end there.
    pub inner_mac: [u8; 6],
    pub counts: Counts,
}

impl SegmentLinks {
    pub fn port(&self, side: Side) -> &Link {
        match side {
            Side::A => &self.port_a,
            Side::B => &self.port_b,
        }
    }

    /// Sends a frame by a port. One that cannot be sent is counted; TCP sends it again.
    pub fn send(&self, side: Side, frame: &Frame) {
        if let Err(error) = self.port(side).send(frame) {
            self.counts.add(Count::FrameNotSent);
            tracing::debug!(%error, "frame not sent");
        }
    }

    /// Sends a frame to the engine's sockets.
    pub fn inject(&self, mut frame: Frame) {
        frame.set_destination_mac(self.inner_mac);
        if let Err(error) = self.engine.send(&frame) {
            self.counts.add(Count::FrameNotSent);
            tracing::debug!(%error, "frame not injected");
        }
    }
}

/// A flow's end in user space, told to the ring's thread.
#[derive(Debug)]
pub struct Finished {
    pub key: FlowKey,
    pub id: u64,
    pub disposition: Disposition,
}

/// What becomes of a flow's packets that still come by the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Kept for whoever judges the flow.
    Held,
    /// Sent on by the other port.
    Released,
    /// As released, but nothing that differs from what was judged, until the server acknowledged it.
    Watched,
    /// Given to the engine's sockets.
    Taken,
    /// Given to the engine's sockets that are closing; its entry will be removed.
    Tombstone,
    Blocked,
}

/// Between the ring's thread and the flow's judge: a lock of this flow alone.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<SharedState>,
    pub arrived: Notify,
}

#[derive(Debug)]
pub struct SharedState {
    pub disposition: Disposition,
    pub inbox: Vec<Frame>,
    /// Bytes in `inbox`.
    pub weight: usize,
    pub server_spoke: bool,
    pub server_ended: bool,
    /// Of a watched flow.
    pub judged: Option<Judged>,
}

impl Shared {
    /// Most bytes waiting for the judge; past it a frame is dropped, the client sends it again.
    pub const MAX_INBOX: usize = 256 * 1024;

    pub fn new(first: Frame) -> Self {
        let weight = first.bytes().len();
        let state = SharedState {
            disposition: Disposition::Held,
            inbox: vec![first],
            weight,
            server_spoke: false,
            server_ended: false,
            judged: None,
        };
        Self { state: Mutex::new(state), arrived: Notify::new() }
    }

    /// Of a flow that is blocked without a judge.
    pub fn blocked() -> Self {
        let state = SharedState {
            disposition: Disposition::Blocked,
            inbox: vec![],
            weight: 0,
            server_spoke: false,
            server_ended: false,
            judged: None,
        };
        Self { state: Mutex::new(state), arrived: Notify::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

macro_rules! counts {
    ($($(#[$meaning:meta])* $name:ident => $text:literal,)*) => {
        /// Counted in user space, beside the programs' own counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count { $($(#[$meaning])* $name,)* }

        impl Count {
            pub const NAMES: &[&str] = &[$($text,)*];
        }
    };
}

counts! {
    Released => "flow_released",
    TakenOver => "flow_taken_over",
    Blocked => "flow_blocked",
    /// Given back before a judgement: flow limit, a runtime's queue full.
    ReleasedUnjudged => "flow_released_unjudged",
    /// Taken, but its sockets could not speak: both ends were reset.
    Lost => "take_over_lost",
    TakeOverFailed => "take_over_failed",
    /// Another flow's sockets have the same tuple (SPEC D16).
    TupleOwned => "take_over_tuple_owned",
    /// Held frames that the server would not have accepted, dropped (SPEC D15).
    BadChecksum => "held_bad_checksum_dropped",
    BadHeaderChecksum => "held_bad_header_checksum_dropped",
    NoAcknowledgement => "held_no_acknowledgement_dropped",
    /// Outside the server's window, a SYN, a RST not at the next byte, after the end, or no room.
    NotTakeable => "held_not_takeable_dropped",
    /// Other bytes in the place of some that came before, dropped.
    Conflicting => "held_conflicting_dropped",
    /// As above, after the flow was released and before its server acknowledged what was judged.
    WatchedConflicting => "watched_conflicting_dropped",
    /// The same bytes again, sent on.
    WatchedRepeated => "watched_repeated_forwarded",
    /// Released flows whose server did not acknowledge what was judged for too long, or for which
    /// there was no room: left to the bridge.
    WatchGivenUp => "watch_given_up",
    NotUnderstood => "held_not_understood_dropped",
    /// Flows none of whose packets the server would have accepted, blocked.
    UnreadBlocked => "held_unread_blocked",
    QueueFull => "held_queue_full_dropped",
    ForwardedLate => "packet_forwarded_after_release",
    InjectedLate => "packet_injected_after_take_over",
    FrameNotSent => "frame_not_sent",
    TombstoneRemoved => "tombstone_removed",
}

#[derive(Debug)]
pub struct Counts([AtomicU64; Count::NAMES.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Count::NAMES.len()])
    }
}

impl Counts {
    pub fn add(&self, count: Count) {
        if let Some(value) = self.0.get(count as usize) {
            value.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Count::NAMES.iter().copied().zip(self.0.iter().map(|value| value.load(Ordering::Relaxed)))
    }
}
