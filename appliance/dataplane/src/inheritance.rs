//! What becomes of the flows of an engine that died (SPEC D10).
//!
//! For: its held flows, which go back to the bridge (their clients send again), and its taken ones,
//! which become tombstones and are reset at both ends. Not for: flows of an engine that lives beside
//! this one and drains; those are left alone until it ends. A thread of its own goes through the
//! table in small steps, so that nobody waits for it: until it has come to a flow the programs do
//! what its packets need (`engine_dead`). A walk that fails is logged and done again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::maps::{Array, HashMap as EbpfHashMap, MapData, MapError};

use crate::core::{Core, Disposition, Finished};
use crate::layout::{ENGINES, EngineInstance, Flow, FlowKey, State, id_of};
use crate::programs::chain;
use crate::state::{EngineQuery, Swap};

/// Between two looks at which engines live.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Entries looked at in one step, and the pause after it.
const STEP: usize = 256;
const PAUSE: Duration = Duration::from_millis(1);
/// Walks begin anew where packets remove the entry they are at: so many times the table's size they
/// go at most, and the rest is for the next.
const MOST_TIMES: usize = 4;

/// The thread. Ends when dropped.
pub struct Inheritance {
    walk: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What it needs.
pub struct Heir {
    pub core: Arc<Core>,
    pub flows: Arc<EbpfHashMap<MapData, FlowKey, Flow>>,
    pub engines: Array<MapData, EngineInstance>,
    /// Of `engine_query`.
    pub query: OwnedFd,
    /// This engine's number.
    pub own: u32,
    /// The table's bound.
    pub most_flows: usize,
}

impl Inheritance {
    pub fn start(heir: Heir) -> io::Result<Self> {
        let (walk, walks) = channel();
        let query = EngineQuery::new(heir.query.try_clone()?);
        let mut walker = Walker { heir, query, walks, living: HashSet::new() };
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
}

/// Why a walk ended before its end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("flow table: {}", chain(.0))]
    Table(#[from] MapError),
    #[error("flow table: {0}")]
    System(#[from] io::Error),
    #[error("flow table: it changed too fast to go through")]
    TooFast,
}

impl Walker {
    fn run(&mut self) {
        // Not before the first word: until then an earlier engine judges.
        let mut due = match self.walks.recv() {
            Ok(()) => true,
            Err(_) => return,
        };
        loop {
            match self.look() {
                Ok(ended) => due |= ended,
                Err(error) => tracing::warn!(%error, "which engines live is not known"),
            }
            if due {
                match self.walk() {
                    Ok(Walked::Whole) => due = false,
                    Ok(Walked::Stopped) => return,
                    Err(error) => tracing::warn!(%error, "flows of an engine that ended"),
                }
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

    fn walk(&self) -> Result<Walked, Broken> {
        let mut lives = HashMap::from([(self.heir.own, true)]);
        let most = self.heir.most_flows.saturating_mul(MOST_TIMES);
        let mut keys = self.heir.flows.keys();
        let mut next = keys.next();
        let mut count: usize = 0;
        while let Some(key) = next {
            // Before the entry may go: the next one is found by it.
            next = keys.next();
            count += 1;
            if count > most {
                return Err(Broken::TooFast);
            }
            if count % STEP == STEP - 1 {
                if matches!(self.walks.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected))
                {
                    return Ok(Walked::Stopped);
                }
                std::thread::sleep(PAUSE);
            }
            let key = key?;
            let Ok(flow) = self.heir.flows.get(&key, 0) else { continue }; // it has ended
            let owner = match lives.get(&flow.owner) {
                Some(lives) => *lives,
                None => *lives.entry(flow.owner).or_insert(self.query.lives(flow.owner)?),
            };
            if !owner {
                self.inherit(key, &flow)?;
            }
        }
        Ok(Walked::Whole)
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
                    links.reset_server(&key, flow);
                    links.reset_client(&key, flow);
                }
            }
            Some(State::Tombstone) => bury(Disposition::Tombstone),
            Some(State::Blocked) => bury(Disposition::Blocked),
            // Nobody's yet (crate::silence).
            Some(State::Answered | State::Released) | None => {}
        }
        Ok(())
    }
}

enum Walked {
    Whole,
    /// The data plane closes.
    Stopped,
}
