//! What becomes of the flows of an engine that died (SPEC D10).
//!
//! For: its held flows, which go back to the bridge (their clients send again), and its taken ones,
//! which become tombstones and are reset at both ends. Not for: flows of an engine that lives beside
//! this one and drains; those are left alone until it ends. Fails with the table's error; what was
//! not dealt with is met again by the next call.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use aya::maps::{HashMap as EbpfHashMap, MapData};

use crate::core::{Core, Disposition, Finished};
use crate::instance::Instance;
use crate::layout::{Flow, FlowKey, State, id_of};
use crate::state::Swap;

pub struct Inheritance {
    core: Arc<Core>,
    flows: Arc<EbpfHashMap<MapData, FlowKey, Flow>>,
    /// Engines that lived when the table was looked through last, and had flows.
    living: Vec<u32>,
}

impl Inheritance {
    pub fn new(core: Arc<Core>, flows: Arc<EbpfHashMap<MapData, FlowKey, Flow>>) -> Self {
        Self { core, flows, living: Vec::new() }
    }

    /// Looks after engines that lived the last time; costs nothing where there are none.
    pub fn look(&mut self, own: &Instance) -> io::Result<()> {
        let mut ended = false;
        for number in &self.living {
            ended |= !own.lives(*number)?;
        }
        if ended { self.take_on(own) } else { Ok(()) }
    }

    /// Goes through the whole table.
    pub fn take_on(&mut self, own: &Instance) -> io::Result<()> {
        let entries: Vec<(FlowKey, Flow)> = self.flows.iter().filter_map(Result::ok).collect();
        let mut lives = HashMap::from([(own.number, true)]);
        for (key, flow) in entries {
            let owner = match lives.get(&flow.owner) {
                Some(lives) => *lives,
                None => *lives.entry(flow.owner).or_insert(own.lives(flow.owner)?),
            };
            if !owner {
                self.inherit(key, &flow)?;
            }
        }
        lives.remove(&own.number);
        self.living =
            lives.into_iter().filter_map(|(number, lives)| lives.then_some(number)).collect();
        Ok(())
    }

    fn inherit(&self, key: FlowKey, flow: &Flow) -> io::Result<()> {
        let id = id_of(flow.word);
        let bury = |disposition| self.core.finish(Finished { key, id, disposition });
        match State::of(flow.word) {
            Some(state @ (State::Held | State::Releasing | State::Watched)) => {
                self.core.state.remove(&key, id, state)?;
            }
            Some(State::Taken) => {
                let swap = self.core.state.swap(&key, id, State::Taken, State::Tombstone)?;
                bury(Disposition::Tombstone);
                // The kernel reset both ends when the sockets went, unless the engine died before
                // they spoke: a socket in repair goes silently.
                if swap == Swap::Done
                    && let Some(links) = self.core.segments.get(&key.segment)
                {
                    links.reset_server(&key, flow);
                    links.reset_client(&key, flow);
                }
            }
            Some(State::Tombstone) => bury(Disposition::Tombstone),
            Some(State::Blocked) => bury(Disposition::Blocked),
            Some(State::Released) | None => {}
        }
        Ok(())
    }
}
