//! What becomes of the flows of an engine that died (SPEC D10).
//!
//! For: its held flows, which go back to the bridge (their clients send again), and its taken ones,
//! which become tombstones and are reset at both ends. Not for: flows of an engine that lives beside
//! this one and drains; those are left alone until it ends. A thread of its own goes through the
//! table in small steps, so that nobody waits for it: until it has come to a flow the programs do
//! what its packets need (`engine_dead`). A walk that fails is logged and done again. Between such walks
//! the engine in charge looks from time to time for entries that the kernel did not delete when it was asked to,
//! and recounts clients' flows (`crate::recount`).

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData};

use crate::core::{Core, Disposition, Finished};
use crate::layout::{
    END_SPOKEN_TO, ENGINES, EngineInstance, Flow, FlowKey, SYN_ANSWERED, State, id_of,
};
use crate::recount::Recount;
use crate::ring::monotonic_nanoseconds;
use crate::state::{EngineQuery, Swap};
use crate::tables::InForce;
use crate::walk::{Broken, FlowTable, PAUSE, Walked};

/// Between two looks at which engines live.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Left-over entries that are deleted at one look, at most; the rest waits for the next ones.
const MOST_LEFT: usize = 65_536;

/// The thread. Ends when dropped.
pub struct Inheritance {
    walk: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What it needs.
pub struct Heir {
    pub core: Arc<Core>,
    pub flows: FlowTable,
    pub engines: Array<MapData, EngineInstance>,
    /// Of `engine_query`.
    pub query: OwnedFd,
    /// This engine's number.
    pub own: u32,
    pub recount: Recount,
    /// Between two recounts.
    pub recount_every: Duration,
    pub in_force: InForce,
}

impl Inheritance {
    pub fn start(heir: Heir) -> io::Result<Self> {
        let (walk, walks) = channel();
        let query = EngineQuery::new(heir.query.try_clone()?);
        let mut walker =
            Walker { heir, query, walks, living: HashSet::new(), left: HashSet::new() };
        let thread =
            std::thread::Builder::new().name("weir-inherit".into()).spawn(move || walker.run())?;
        Ok(Self { walk: Some(walk), thread: Some(thread) })
    }

    /// Goes through the whole table once, soon; from then on whenever an engine has ended.
    pub fn take_on(&self) {
        if let Some(walk) = &self.walk {
            // The thread ends with this.
            let _ = walk.send(());
        }
    }
}

impl Drop for Inheritance {
    fn drop(&mut self) {
        self.walk = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Walker {
    heir: Heir,
    query: EngineQuery,
    walks: Receiver<()>,
    /// Other engines that lived at the last look.
    living: HashSet<u32>,
    /// Entries that were found left over at the last look for such: their ids, [`MOST_LEFT`] at most.
    left: HashSet<u64>,
}

impl Walker {
    fn run(&mut self) {
        // Not before the first word: until then an earlier engine judges.
        let mut due = match self.walks.recv() {
            Ok(()) => true,
            Err(_) => return,
        };
        let mut counted = Instant::now();
        loop {
            match self.look() {
                Ok(ended) => due |= ended,
                Err(error) => tracing::warn!(%error, "which engines live is not known"),
            }
            if due {
                match self.walk().and_then(|walked| self.recount().map(|()| walked)) {
                    Ok(Walked::Whole) => (due, counted) = (false, Instant::now()),
                    Ok(Walked::Stopped) => return,
                    Err(error) => tracing::warn!(%error, "flows of an engine that ended"),
                }
            } else if counted.elapsed() >= self.heir.recount_every {
                // Not beside another engine's: both would mend the same count.
                if !self.heir.in_force.superseded()
                    && let Err(error) = self.forget_left().and_then(|()| self.recount())
                {
                    tracing::warn!(%error, "counts of clients' flows are not looked at");
                }
                counted = Instant::now();
            }
            match self.walks.recv_timeout(LOOK_EVERY) {
                Ok(()) => due = true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether an engine ended that lived at the last look.
    fn look(&mut self) -> Result<bool, Broken> {
        let mut living = HashSet::new();
        for index in 0..ENGINES {
            let number = self.heir.engines.get(&index, 0)?.number;
            if number != 0 && number != self.heir.own && self.query.lives(number)? {
                living.insert(number);
            }
        }
        let ended = self.living.iter().any(|number| !living.contains(number));
        self.living = living;
        Ok(ended)
    }

    /// Between two steps: whether to go on.
    fn pause(&self) -> bool {
        // The data plane closes.
        let stops = matches!(self.walks.try_recv(), Err(TryRecvError::Disconnected));
        std::thread::sleep(PAUSE);
        !stops
    }

    /// An engine that died amid a change of state may have left counts wrong, and so may two processors
    /// at one moment.
    fn recount(&self) -> Result<(), Broken> {
        let superseded = || self.heir.in_force.superseded();
        let mended = self.heir.recount.mend(&self.heir.flows, || self.pause(), superseded)?;
        if mended > 0 {
            tracing::info!(mended, "counts of clients' flows were wrong");
        }
        Ok(())
    }

    /// Deletes entries of flows that are the bridge's, or the table of handshakes', already: the kernel did not
    /// when it was asked to (forget_moved of bpf/entry.h, for those that a packet comes to). One that is found
    /// twice nobody is about to delete.
    fn forget_left(&mut self) -> Result<(), Broken> {
        let now = monotonic_nanoseconds()?;
        let mut left = HashSet::new();
        self.heir.flows.walk(
            || self.pause(),
            |key, flow| {
                let (state, id) = (State::of(flow.word), id_of(flow.word));
                let old = now.saturating_sub(flow.touched) > SYN_ANSWERED;
                if let Some(state @ (State::HalfOpen | State::Ignored | State::Released)) = state
                    && old
                    && left.len() < MOST_LEFT
                {
                    left.insert(id);
                    if self.left.contains(&id) {
                        self.heir.core.state.remove(&key, id, state)?;
                    }
                }
                Ok(())
            },
        )?;
        self.left = left;
        Ok(())
    }

    fn walk(&self) -> Result<Walked, Broken> {
        let mut lives = HashMap::from([(self.heir.own, true)]);
        let visit = |key, flow: &Flow| {
            let owner = match lives.get(&flow.owner) {
                Some(lives) => *lives,
                None => *lives.entry(flow.owner).or_insert(self.query.lives(flow.owner)?),
            };
            if !owner {
                self.inherit(key, flow)?;
            }
            Ok(())
        };
        self.heir.flows.walk(|| self.pause(), visit)
    }

    fn inherit(&self, key: FlowKey, flow: &Flow) -> io::Result<()> {
        let core = &self.heir.core;
        let id = id_of(flow.word);
        let bury = |disposition| core.finish(Finished { key, id, disposition, changed: true });
        match State::of(flow.word) {
            Some(state @ (State::Held | State::Releasing | State::Watched)) => {
                core.state.remove(&key, id, state)?;
            }
            Some(State::Taken) => {
                let swap = core.state.swap(&key, id, State::Taken, State::Tombstone)?;
                bury(Disposition::Tombstone);
                // The kernel reset both ends when the sockets went, unless the engine died before
                // they spoke: a socket in repair goes silently.
                if swap == Swap::Done
                    && let Some(links) = core.segments.get(&key.segment)
                {
                    links.reset_server(&key, flow, 0);
                    // To whom no socket has spoken stands where they were put.
                    let [client, server] = &flow.end;
                    let silent = client.flags & END_SPOKEN_TO == 0;
                    let first = server.isn.wrapping_add(1);
                    links.reset_client(&key, flow, if silent { server.tsval } else { first });
                }
            }
            Some(State::Tombstone) => bury(Disposition::Tombstone),
            Some(State::Blocked) => bury(Disposition::Blocked),
            // Nobody's yet (crate::silence), or nobody's any more.
            Some(State::Answered | State::Released | State::HalfOpen | State::Ignored) | None => {}
        }
        Ok(())
    }
}
