//! QUIC that policy blocks: the programs drop it, and what they dropped is told apart here.
//!
//! For: sending on a connection's first datagrams, and letting it pass from then on, where its client asks
//! for a name that policy excepts (SPEC D14); telling all others by an ICMP error, so that they fall back to
//! TCP at once ([`crate::refusal`]). What could begin another connection on the addresses and ports of one that
//! was excepted is judged, too, and so is an excepted one by each policy that follows. What is judged otherwise
//! there is dropped, and ends nothing: anybody can send it in the client's name. Not for: reading QUIC, and
//! policy; who opens the data plane does that ([`crate::Dataplane::judge_quic_by`]), and until it does
//! everything is refused. Fails by silence: a datagram that is not understood, or cannot be sent, is gone, and
//! its client sends it again.

mod datagram;
mod excepted;
mod recent;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{Array, MapData, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weir_policy::Candidate;

use crate::core::{Core, Count, SegmentLinks};
use crate::held::other;
use crate::layout::rules::FilterEntry;
use crate::refusal::unreachable_port;
use crate::tables::{self, ApplyError};
use datagram::{Datagram, Dropped, Way};
pub use excepted::ExceptedQuic;
use recent::Recent;

/// Datagrams a second that are judged or refused, of all segments together (RFC 4443 2.4 (f) wants a bound
/// on errors). The programs drop what is over it in silence, and what is over its client's share of half of it
/// (bpf/quic.h).
const A_SECOND: u64 = 1000;
/// Of these at once; the ring has room for more.
const AT_ONCE: u64 = 200;

/// Connections whose hello is not whole; past it further ones are refused.
const MAX_WAITING: usize = 256;
/// Of one client; past it its oldest is forgotten.
const MAX_WAITING_OF_CLIENT: usize = 32;
/// Datagrams of one of them; past it, it is refused.
const MAX_DATAGRAMS: usize = 4;
/// Without another datagram it is forgotten; its client sends all of them again (RFC 9002 6.2).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3);

/// Excepted connections whose first datagrams are kept, by which parts of the hello that come again are known;
/// without them these wait for the rest.
const MAX_BEGUN: usize = 1024;
const MAX_BEGUN_OF_CLIENT: usize = 128;
/// Hellos come again until the server answers: some doublings of a second.
const BEGUN_FOR: Duration = Duration::from_secs(30);

/// What becomes of a QUIC connection by its first datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuicVerdict {
    /// Its client is told that nobody is there.
    Refuse,
    /// It passes, end to end, as its client asks for this name.
    Except(String),
    /// More of its datagrams are needed.
    Wait,
    /// They are of the connection that was excepted before.
    Same,
    /// They begin no connection; nor, unless a hello may still follow, do they belong to one that does.
    NoHello { may_follow: bool },
    /// They are of more than one connection.
    Several,
    /// Policy blocks it no more.
    Pass,
}

/// Who knows QUIC, and policy.
pub trait QuicJudge: Send + Sync {
    /// Judges a connection by all its client's datagrams so far; its candidate has the addresses and ports.
    /// `begun`: those by which the connection there was excepted before, where they are known.
    fn judge(&self, candidate: &Candidate, begun: &[&[u8]], datagrams: &[&[u8]]) -> QuicVerdict;

    /// Whether policy still excepts a connection whose client asked for this name.
    fn excepts(&self, candidate: &Candidate, name: &str) -> bool;
}

/// Reads the ring, and acts.
pub struct DroppedQuic {
    core: Arc<Core>,
    ring: RingBuf<MapData>,
    excepted: Arc<Mutex<ExceptedQuic>>,
    /// Connections whose hello is not whole.
    waiting: Recent,
    /// Those that were excepted: the datagrams that began them.
    begun: Recent,
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
        let excepted = Arc::new(Mutex::new(ExceptedQuic::new(ebpf)?));
        let waiting = Recent::new(MAX_WAITING, MAX_WAITING_OF_CLIENT, FORGOTTEN_AFTER);
        let begun = Recent::new(MAX_BEGUN, MAX_BEGUN_OF_CLIENT, BEGUN_FOR);
        Ok(Self { core, ring, excepted, waiting, begun, stop })
    }

    /// The table that it goes by.
    pub fn excepted(&self) -> Arc<Mutex<ExceptedQuic>> {
        Arc::clone(&self.excepted)
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
        let Some(links) = core.segments.get(&dropped.way.key.segment) else { return };
        let Some(Judge(judge)) = core.quic.get() else { return refuse(links, &dropped) };
        let way = dropped.way;
        let excepted = self.is_excepted(&dropped, judge.as_ref());
        let Some(datagrams) = dropped.datagrams() else {
            if !excepted {
                refuse(links, &dropped);
            }
            return;
        };
        if datagrams.is_empty() {
            return; // its receiver would not take it
        }
        // They overtook the one that was judged; or their policy was in force before, too.
        if excepted && !datagrams.iter().any(Datagram::may_begin_connection) {
            return send(links, &dropped, &datagrams);
        }
        let now = Instant::now();
        let (verdict, all) = self.judge(judge.as_ref(), &way, excepted, datagrams, now);
        // One that is told gives up its connection, too.
        let refuse_others = || {
            if !excepted {
                refuse(links, &dropped);
            }
        };
        match verdict {
            QuicVerdict::Pass | QuicVerdict::Same => send(links, &dropped, &all),
            QuicVerdict::NoHello { .. } if excepted => send(links, &dropped, &all),
            QuicVerdict::NoHello { may_follow: true } => {
                if all.len() < MAX_DATAGRAMS {
                    self.waiting.keep(way, all, now);
                }
            }
            QuicVerdict::Wait => {
                let room = all.len() < MAX_DATAGRAMS && self.waiting.keep(way, all, now);
                if !room {
                    refuse_others();
                }
            }
            QuicVerdict::Refuse | QuicVerdict::Several | QuicVerdict::NoHello { .. } => {
                refuse_others();
            }
            QuicVerdict::Except(name) => {
                match lock(&self.excepted).insert(&way, &name, dropped.policy) {
                    Ok(true) => links.counts.add(Count::QuicExcepted),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(%error, "QUIC connection not excepted");
                        return refuse_others();
                    }
                }
                send(links, &dropped, &all);
                self.begun.keep(way, all, now);
            }
        }
    }

    /// Whether the connection was excepted before, and is so by the policy that dropped this.
    fn is_excepted(&mut self, dropped: &Dropped, judge: &dyn QuicJudge) -> bool {
        let key = &dropped.way.key;
        let mut excepted = lock(&self.excepted);
        let excepts = |candidate: &Candidate, name: &str| judge.excepts(candidate, name);
        excepted
            .get(key)
            .is_some_and(|entry| excepted.judge_again(key, &entry, dropped.policy, excepts))
    }

    /// What becomes of datagrams that may begin a connection, and of which: with those that wait where they need
    /// them, and are of the same connection. Else what anybody sent in the client's name would spoil its own.
    fn judge(
        &mut self,
        judge: &dyn QuicJudge,
        way: &Way,
        excepted: bool,
        new: Vec<Datagram>,
        now: Instant,
    ) -> (QuicVerdict, Vec<Datagram>) {
        let candidate = way.candidate();
        let begun = payloads(if excepted { self.begun.get(way, now) } else { &[] });
        let alone = judge.judge(&candidate, &begun, &payloads(&new));
        let waiting = match &alone {
            QuicVerdict::NoHello { .. } if excepted => vec![],
            QuicVerdict::Except(_) | QuicVerdict::Wait | QuicVerdict::NoHello { .. } => {
                self.waiting.take(way, now)
            }
            _ => vec![],
        };
        if waiting.is_empty() {
            return (alone, new);
        }
        let all = [waiting, new.clone()].concat();
        match judge.judge(&candidate, &begun, &payloads(&all)) {
            QuicVerdict::Several => (alone, new),
            together => (together, all),
        }
    }
}

/// Judges all that were excepted by a policy that was in force before this one. What comes of them meanwhile is
/// asked about one by one, which many would have to wait for.
pub fn judge_all_again(core: &Core, excepted: &Mutex<ExceptedQuic>, policy: u64) {
    let Some(Judge(judge)) = core.quic.get() else { return };
    let keys = lock(excepted).keys();
    for key in keys {
        let mut excepted = lock(excepted);
        if let Some(entry) = excepted.get(&key) {
            excepted.judge_again(&key, &entry, policy, |client, name| judge.excepts(client, name));
        }
    }
}

fn payloads(datagrams: &[Datagram]) -> Vec<&[u8]> {
    datagrams.iter().map(Datagram::payload).collect()
}

fn lock(excepted: &Mutex<ExceptedQuic>) -> MutexGuard<'_, ExceptedQuic> {
    excepted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends datagrams on, the way of the frame that was dropped.
fn send(links: &SegmentLinks, dropped: &Dropped, datagrams: &[Datagram]) {
    for datagram in datagrams {
        if let Err(error) = links.port(other(dropped.way.side)).send_complete(&datagram.frame) {
            links.counts.add(Count::FrameNotSent);
            tracing::debug!(%error, "datagram not sent");
        }
    }
}

/// Tells the sender that nobody listens.
fn refuse(links: &SegmentLinks, dropped: &Dropped) {
    let Some(error) = unreachable_port(&dropped.frame, dropped.tag) else { return };
    if let Err(error) = links.port(dropped.way.side).send_complete(&error) {
        tracing::debug!(%error, "ICMP error not sent");
    }
}

/// What [`Core`] has of it.
pub struct Judge(pub Box<dyn QuicJudge>);

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judge")
    }
}
