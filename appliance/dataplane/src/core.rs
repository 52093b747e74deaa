//! What all parts of one open data plane share: state command, links, counters, socket pools.
//!
//! Nothing here takes a lock that two flows could wait for.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use socket2::Socket;
use tokio::sync::Notify;
use weir_policy::snapshot::{CongestionControl, Side};

use crate::frame::{ACK, Frame, RST};
use crate::held::{empty_segment, other};
use crate::histogram::{Histogram, HistogramReport};
use crate::judged::Judged;
use crate::layout::{End, Flow, FlowKey, ring_of};
use crate::link::Link;
use crate::loads::Loads;
use crate::quic::Judge;
use crate::segment::INNER_MAC;
use crate::segment_of_ours::Segment;
use crate::socket::SocketPool;
use crate::state::StateCommand;

#[derive(Debug)]
pub struct Core {
    pub state: StateCommand,
    pub segments: BTreeMap<u32, SegmentLinks>,
    /// What policy does about evasion, EVASION_... of bpf/weir.h.
    pub evasion: AtomicU32,
    /// Whether the engine's sockets control congestion by BBR, else by CUBIC.
    pub bbr: AtomicBool,
    /// One for each runtime: sockets of each segment's engine namespace.
    pub sockets: Vec<BTreeMap<u32, SocketPool>>,
    /// Flows held at this moment.
    pub held_now: AtomicUsize,
    /// Flows whose ends are sockets of this process, at this moment.
    pub taken_now: AtomicUsize,
    /// Of each runtime: flows held, and taken.
    pub loads: Loads,
    /// One for each ring: when its reader turned last, CLOCK_MONOTONIC nanoseconds.
    pub turned: Vec<AtomicU64>,
    /// Who knows which QUIC passes, once it was told.
    pub quic: OnceLock<Judge>,
    /// One for each ring: to its reader. Unbounded, but each held flow sends three at
    /// most.
    pub finished: Vec<Sender<Finished>>,
}

impl Core {
    /// Tells the reader of a flow's ring that the flow ended in user space. The reader is gone only
    /// when the data plane is, or its engine ends.
    pub fn finish(&self, finished: Finished) {
        if let Some(reader) = self.finished.get(ring_of(finished.id, self.finished.len())) {
            let _ = reader.send(finished);
        }
    }
}

impl Core {
    /// Sees the ports as they are now.
    pub fn look_at_links(&self) {
        for port in self.segments.values().flat_map(|links| [&links.port_a, &links.port_b]) {
            if let Err(error) = port.look() {
                tracing::debug!(%error, "port not looked at");
            }
        }
    }

    /// A socket of the engine's namespace of a segment, as `device.congestion-control` says.
    pub async fn socket(
        &self,
        runtime: usize,
        segment: u32,
        peer: SocketAddr,
    ) -> io::Result<Socket> {
        let bbr = self.bbr.load(Ordering::Relaxed);
        let control = if bbr { CongestionControl::Bbr } else { CongestionControl::Cubic };
        let pool = self.sockets.get(runtime).and_then(|pools| pools.get(&segment));
        pool.ok_or(io::ErrorKind::NotConnected)?.take(peer, control).await
    }

    /// Whether policy blocks a way of evasion (SPEC D15).
    pub fn blocks(&self, way: u32) -> bool {
        self.evasion.load(Ordering::Relaxed) & way != 0
    }
}

/// Where frames of a segment go.
#[derive(Debug)]
pub struct SegmentLinks {
    pub port_a: Link,
    pub port_b: Link,
    /// Into the engine's namespace.
    pub engine: Link,
    pub counts: Counts,
    /// Flows held at this moment.
    pub held_now: AtomicU64,
    /// From the hold of a flow's first packet to its judgement.
    pub hold_time: Histogram,
    /// From the decision to take a flow over to its two sockets speaking.
    pub take_over_time: Histogram,
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

    /// A RST to the server as its client would send it, after so much of its client's sequence was
    /// forwarded, and nothing of its own. To a server that went on, it says nothing.
    pub fn reset_server(&self, key: &FlowKey, flow: &Flow, forwarded: u32) {
        let [client, server] = &flow.end;
        let client_address = key.end(flow.client_low == 0);
        let from = End { isn: client.isn.wrapping_add(forwarded), ..*client };
        let frame = reset(key, &from, server, client_address, key.end(flow.client_low != 0));
        self.send_some(other(client_side(flow)), frame);
    }

    /// As above, wherever the server of a blocked flow may stand: where it did before anything was
    /// forwarded, at what it acknowledged last, or behind all. A RST anywhere else in its window does not
    /// end its connection (RFC 5961 3.2).
    pub fn reset_blocked_server(&self, key: &FlowKey, flow: &Flow) {
        let mut places = vec![0, flow.server_heard.min(flow.judged), flow.judged];
        places.dedup();
        for forwarded in places {
            self.reset_server(key, flow, forwarded);
        }
    }

    /// As [`Self::reset_server`], to the client, which expects this sequence number of its server next.
    pub fn reset_client(&self, key: &FlowKey, flow: &Flow, expected: u32) {
        let [client, server] = &flow.end;
        let client_address = key.end(flow.client_low == 0);
        let from = End { isn: expected.wrapping_sub(1), ..*server };
        let frame = reset(key, &from, client, key.end(flow.client_low != 0), client_address);
        self.send_some(client_side(flow), frame);
    }

    fn send_some(&self, side: Side, frame: Option<Frame>) {
        if let Some(frame) = frame {
            self.send(side, &frame);
        }
    }

    /// Sends a frame to the engine's sockets.
    pub fn inject(&self, frame: Frame) {
        if let Err(error) = self.engine.send(&frame.plain(INNER_MAC)) {
            self.counts.add(Count::FrameNotSent);
            tracing::debug!(%error, "frame not injected");
        }
    }
}

fn reset(
    key: &FlowKey,
    from: &End,
    to: &End,
    source: SocketAddr,
    destination: SocketAddr,
) -> Option<Frame> {
    let segment = Segment {
        sequence: from.isn.wrapping_add(1),
        acknowledged: to.isn.wrapping_add(1),
        flags: RST | ACK,
        ..empty_segment(key, from, source, destination)
    };
    segment.frame()
}

/// The side that a flow's client is at.
pub fn client_side(flow: &Flow) -> Side {
    if flow.client_side == 0 { Side::A } else { Side::B }
}

/// A flow's end in user space, told to the ring's reader.
#[derive(Debug)]
pub struct Finished {
    pub key: FlowKey,
    pub id: u64,
    pub disposition: Disposition,
    /// Whether its entry says so; else the kernel would not change it yet.
    pub changed: bool,
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

/// What is counted of some flows, those of one virtual segment, beside their segments' counts.
#[derive(Debug, Default)]
pub struct FlowCounts {
    counts: Counts,
    hold_time: Histogram,
    take_over_time: Histogram,
}

/// [`FlowCounts`] as they were when they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// Those that counted.
    pub counters: Vec<(&'static str, u64)>,
    /// From the hold of a flow's first packet to its judgement.
    pub hold_time: HistogramReport,
    /// From the decision to take a flow over to its two sockets speaking.
    pub take_over_time: HistogramReport,
}

impl FlowCounts {
    pub fn read(&self) -> FlowReport {
        FlowReport {
            counters: self.counts.read().filter(|(_, count)| *count > 0).collect(),
            hold_time: self.hold_time.read(),
            take_over_time: self.take_over_time.read(),
        }
    }
}

/// Between the ring's reader and the flow's judge: a lock of this flow alone.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<SharedState>,
    pub arrived: Notify,
    /// Where the flow counts beside its segment, once that is known.
    pub counted_for: OnceLock<Arc<FlowCounts>>,
}

#[derive(Debug)]
pub struct SharedState {
    pub disposition: Disposition,
    pub inbox: Vec<Frame>,
    /// Bytes in `inbox`.
    pub weight: usize,
    /// Of the server, that its client may have heard.
    pub said: u32,
    pub server_spoke: bool,
    /// Of a watched flow.
    pub judged: Option<Judged>,
    /// Of a taken flow: whether its client, and its server, sent a keep-alive that was not passed on
    /// yet.
    pub kept_alive: [bool; 2],
}

impl Shared {
    /// Most bytes waiting for the judge; past it a frame is dropped, the client sends it again.
    pub const MAX_INBOX: usize = 256 * 1024;

    /// `first`: the client's; `None` where the server spoke before it.
    pub fn new(first: Option<Frame>, said: u32) -> Self {
        let state = SharedState {
            said,
            disposition: Disposition::Held,
            weight: first.as_ref().map_or(0, |first| first.bytes().len()),
            server_spoke: first.is_none(),
            inbox: first.into_iter().collect(),
            judged: None,
            kept_alive: [false; 2],
        };
        Self::of(state)
    }

    /// Of a flow that is blocked without a judge.
    pub fn blocked() -> Self {
        let state = SharedState {
            disposition: Disposition::Blocked,
            inbox: vec![],
            weight: 0,
            said: 0,
            server_spoke: false,
            judged: None,
            kept_alive: [false; 2],
        };
        Self::of(state)
    }

    fn of(state: SharedState) -> Self {
        Self { state: Mutex::new(state), arrived: Notify::new(), counted_for: OnceLock::new() }
    }

    /// Counts something of this flow.
    pub fn count(&self, links: &SegmentLinks, count: Count) {
        links.counts.add(count);
        if let Some(counted_for) = self.counted_for.get() {
            counted_for.counts.add(count);
        }
    }

    pub fn held_for(&self, links: &SegmentLinks, time: Duration) {
        links.hold_time.record(time);
        if let Some(counted_for) = self.counted_for.get() {
            counted_for.hold_time.record(time);
        }
    }

    pub fn taken_over_in(&self, links: &SegmentLinks, time: Duration) {
        links.take_over_time.record(time);
        if let Some(counted_for) = self.counted_for.get() {
            counted_for.take_over_time.record(time);
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

macro_rules! counts {
    ($($name:ident => $text:literal, $meaning:literal;)*) => {
        /// Counted in user space, beside the programs' own counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count { $(#[doc = $meaning] $name,)* }

        impl Count {
            /// Names, and what one count of each means.
            pub const ALL: &[(&str, &str)] = &[$(($text, $meaning),)*];
        }
    };
}

counts! {
    Released => "flow_released", "held flow given back to the bridge";
    TakenOver => "flow_taken_over", "held flow taken over by the engine's sockets";
    Blocked => "flow_blocked", "held flow blocked by policy";
    ReleasedUnjudged => "flow_released_unjudged", "held flow given back unjudged: too many flows were held, or a runtime's queue was full";
    BlockedUnjudged => "flow_blocked_unjudged", "held flow blocked unjudged by policy: too many flows were held, or a runtime's queue was full";
    Lost => "take_over_lost", "flow taken, but its sockets could not speak: both ends were reset";
    NotHeld => "take_over_not_held", "takeover of a flow that had ended, or was given back, by then";
    NoSocket => "take_over_no_socket", "takeover for which no socket was left: given back, or blocked by policy";
    NoMemory => "take_over_no_memory", "takeover for which the kernel had no memory: given back, or blocked by policy";
    ServerEnded => "take_over_server_ended", "takeover of a flow whose server had ended without a word, as its client acknowledged before: blocked, both ends reset";
    TakeOverFailed => "take_over_failed", "takeover that the kernel refused for another reason: given back, or blocked by policy";
    TupleOwned => "take_over_tuple_owned", "takeover refused because another flow's sockets have the same tuple";
    BadChecksum => "held_bad_checksum_dropped", "held packet with a wrong TCP checksum, which the server would not accept";
    BadHeaderChecksum => "held_bad_header_checksum_dropped", "held packet with a wrong IP header checksum, which the server would not accept";
    NoAcknowledgement => "held_no_acknowledgement_dropped", "held packet without ACK, which the server would not accept";
    NotTakeable => "held_not_takeable_dropped", "held packet outside the server's window, a SYN, a RST not at the next byte, after the end, or without room";
    Conflicting => "held_conflicting_dropped", "held packet with other bytes in the place of some that came before";
    WatchedConflicting => "watched_conflicting_dropped", "packet with other bytes than were judged, after the flow's release and before its server acknowledged them";
    WatchedAnother => "watched_another_connection_dropped", "packet after the flow's release that could be of another connection of the same ends, which only SYN cookies know";
    WatchedRepeated => "watched_repeated_forwarded", "judged bytes again, after the flow's release, sent on";
    WatchGivenUp => "watch_given_up", "released flow left to the bridge though its server did not acknowledge in time what was judged, or for want of room";
    WatchBlocked => "watch_blocked", "released flow blocked by policy: its client sent other bytes than were judged, or its server did not acknowledge those in time; or, whatever policy says, its server did not acknowledge in time the end behind them, or what came with an acknowledgement of a server's first word (both also where only another path has the server's packets)";
    HandshakeForgotten => "handshake_forgotten", "whole handshake whose client said nothing for too long, or that an end reset, forgotten: what is said later passes";
    HandshakeBlocked => "handshake_blocked", "the same, its flow blocked by policy";
    OldTimestamp => "held_old_timestamp_dropped", "held packet with a timestamp older than its SYN's, which the server would not accept (RFC 7323 5.3)";
    NotUnderstood => "held_not_understood_dropped", "held packet that user space does not understand";
    UnreadBlocked => "held_unread_blocked", "flow blocked because the server would have accepted none of its packets";
    QueueFull => "held_queue_full_dropped", "held packet that found its flow's queue full";
    ForwardedLate => "packet_forwarded_after_release", "packet that came by the ring after its flow's release, sent on";
    InjectedLate => "packet_injected_after_take_over", "packet that came by the ring after its flow's takeover, given to the sockets";
    QuicExcepted => "quic_excepted", "QUIC connection that passes though policy blocks QUIC: its client names a domain not to decrypt";
    KeepAlivePassed => "keep_alive_passed", "keep-alive of one end of a taken flow, upon which the other end was asked";
    FrameNotSent => "frame_not_sent", "frame that the kernel did not take from the engine";
    TombstoneRemoved => "tombstone_removed", "entry of a finished flow removed after its rest";
}

#[derive(Debug)]
pub struct Counts([AtomicU64; Count::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Count::ALL.len()])
    }
}

impl Counts {
    pub fn add(&self, count: Count) {
        if let Some(value) = self.0.get(count as usize) {
            value.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let names = Count::ALL.iter().map(|(name, _)| *name);
        names.zip(self.0.iter().map(|value| value.load(Ordering::Relaxed)))
    }
}
