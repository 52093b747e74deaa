//! QUIC that policy blocks: the programs drop it, and what they dropped is told apart here.
//!
//! For: sending on a connection's first datagrams, and letting it pass from then on, where its client asks
//! for a name that policy excepts (SPEC D14); telling all others by an ICMP error, so that they fall back to
//! TCP at once ([`crate::refusal`]). Not for: reading QUIC, and policy; who opens the data plane does that
//! ([`crate::Dataplane::judge_quic_by`]), and until it does everything is refused. Fails by silence: a
//! datagram that is not understood, or cannot be sent, is gone, and its client sends it again.

mod datagram;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{Array, HashMap as Table, MapData, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weir_policy::Candidate;

use crate::core::{Core, Count, SegmentLinks};
use crate::held::other;
use crate::layout::FlowKey;
use crate::layout::rules::FilterEntry;
use crate::refusal::unreachable_port;
use crate::ring::monotonic_nanoseconds;
use crate::tables::{self, ApplyError};
use datagram::{Datagram, Dropped};

/// Datagrams a second that are judged or refused, of all segments together (RFC 4443 2.4 (f) wants a bound
/// on errors). The programs drop what is over it in silence.
const A_SECOND: u64 = 1000;
/// Of these at once.
const AT_ONCE: u64 = 100;

/// Connections whose hello is not whole; past it further ones are refused.
const MAX_WAITING: usize = 256;
/// Datagrams of one of them; past it, it is refused.
const MAX_DATAGRAMS: usize = 4;
/// Without another datagram it is forgotten; its client sends all of them again (RFC 9002 6.2).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3);

/// What becomes of a QUIC connection by its first datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuicVerdict {
    /// Its client is told that nobody is there.
    Refuse,
    /// It passes, end to end.
    Except,
    /// More of its datagrams are needed.
    Wait,
}

/// Judges a connection by all its client's datagrams so far. Its candidate has the addresses and ports.
pub type QuicJudge = dyn Fn(&Candidate, &[&[u8]]) -> QuicVerdict + Send + Sync;

/// Reads the ring, and acts.
pub struct DroppedQuic {
    core: Arc<Core>,
    ring: RingBuf<MapData>,
    excepted: Table<MapData, FlowKey, u64>,
    waiting: Waiting,
    stop: OwnedFd,
}

impl DroppedQuic {
    /// Sets the rate, and takes the tables out of the object.
    pub fn new(ebpf: &mut Ebpf, core: Arc<Core>, stop: OwnedFd) -> Result<Self, ApplyError> {
        let mut rate: Array<MapData, FilterEntry> = tables::map(ebpf, "dropped_rate")?;
        let each = 1_000_000_000 / A_SECOND; // ns
        let bucket =
            FilterEntry { picoseconds: each * 1000, burst: each * AT_ONCE, ..Default::default() };
        rate.set(0, bucket, 0)
            .map_err(|error| ApplyError::Table { table: "dropped_rate", error })?;
        let ring = tables::map(ebpf, "dropped_ring")?;
        let excepted = tables::map(ebpf, "excepted_quic")?;
        Ok(Self { core, ring, excepted, waiting: Waiting::default(), stop })
    }

    /// Until the data plane closes.
    pub fn run(mut self) {
        loop {
            match self.wait() {
                Ok(false) => {}
                Ok(true) => return,
                Err(error) => {
                    tracing::error!(%error, "ring of dropped QUIC cannot be read");
                    return;
                }
            }
            while let Some(record) = self.ring.next().map(|record| Dropped::read(&record)) {
                if let Some(dropped) = record {
                    self.act(dropped);
                }
            }
        }
    }

    /// Whether the data plane closes.
    fn wait(&self) -> io::Result<bool> {
        // SAFETY: the ring's descriptor is open as long as the ring, which outlives this function.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let mut descriptors = [
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(ring, PollFlags::POLLIN),
        ];
        match poll(&mut descriptors, PollTimeout::NONE) {
            Ok(_) => Ok(descriptors[0].any().unwrap_or(false)),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn act(&mut self, dropped: Dropped) {
        let core = Arc::clone(&self.core);
        let Some(links) = core.segments.get(&dropped.key.segment) else { return };
        let datagrams = dropped.datagrams();
        let Some(judge) = core.quic.get().filter(|_| !datagrams.is_empty()) else {
            return refuse(links, &dropped);
        };
        let candidate = dropped.candidate();
        let all = self.waiting.with(dropped.key, datagrams, Instant::now());
        let payloads: Vec<&[u8]> = all.iter().map(Datagram::payload).collect();
        let verdict = judge.0(&candidate, &payloads);
        match verdict {
            QuicVerdict::Wait => {
                if !self.waiting.keep(dropped.key, all, Instant::now()) {
                    refuse(links, &dropped);
                }
            }
            QuicVerdict::Refuse => refuse(links, &dropped),
            QuicVerdict::Except => {
                if let Err(error) = self.except(&dropped.key) {
                    tracing::debug!(%error, "QUIC connection not excepted");
                    return refuse(links, &dropped);
                }
                links.counts.add(Count::QuicExcepted);
                for datagram in all {
                    if let Err(error) =
                        links.port(other(dropped.side)).send_complete(&datagram.frame)
                    {
                        links.counts.add(Count::FrameNotSent);
                        tracing::debug!(%error, "datagram not sent");
                    }
                }
            }
        }
    }

    fn except(&mut self, key: &FlowKey) -> Result<(), ApplyError> {
        let failed = |error| ApplyError::Table { table: "excepted_quic", error };
        let now = monotonic_nanoseconds().map_err(|error| failed(error.into()))?;
        self.excepted.insert(key, now, 0).map_err(failed)
    }
}

/// Tells the sender that nobody listens.
fn refuse(links: &SegmentLinks, dropped: &Dropped) {
    let Some(error) = unreachable_port(&dropped.frame, dropped.tag) else { return };
    if let Err(error) = links.port(dropped.side).send_complete(&error) {
        tracing::debug!(%error, "ICMP error not sent");
    }
}

/// Connections whose hello is not whole.
#[derive(Default)]
struct Waiting(HashMap<FlowKey, (Instant, Vec<Datagram>)>);

impl Waiting {
    /// The datagrams of a connection that came before, which are not kept any longer, and these.
    fn with(&mut self, key: FlowKey, more: Vec<Datagram>, now: Instant) -> Vec<Datagram> {
        let (since, mut all) = self.0.remove(&key).unwrap_or((now, vec![]));
        if now.duration_since(since) > FORGOTTEN_AFTER {
            all.clear();
        }
        all.extend(more);
        all
    }

    /// Keeps them until the next; `false` where there is no room.
    fn keep(&mut self, key: FlowKey, all: Vec<Datagram>, now: Instant) -> bool {
        if self.0.len() >= MAX_WAITING {
            self.0.retain(|_, (since, _)| now.duration_since(*since) <= FORGOTTEN_AFTER);
        }
        let room = self.0.len() < MAX_WAITING && all.len() < MAX_DATAGRAMS;
        if room {
            self.0.insert(key, (now, all));
        }
        room
    }
}

/// What [`Core`] has of it.
pub struct Judge(pub Box<QuicJudge>);

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judge")
    }
}
