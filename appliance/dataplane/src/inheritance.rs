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
use weir_policy::snapshot::Side;

use crate::core::{Core, Disposition, Finished};
use crate::frame::{ACK, RST};
use crate::held::{empty_segment, other};
use crate::instance::Instance;
use crate::layout::{Flow, FlowKey, State, id_of};
use crate::segment_of_ours::Segment;
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
                if swap == Swap::Done {
                    self.reset(&key, flow);
                }
            }
            Some(State::Tombstone) => bury(Disposition::Tombstone),
            Some(State::Blocked) => bury(Disposition::Blocked),
            Some(State::Released) | None => {}
        }
        Ok(())
    }

    /// The kernel reset both ends when the sockets went, unless the engine died before they spoke:
    /// a socket in repair goes silently. Nothing was said to either end then, so their sequences are
    /// still those of the handshake; to an end that was reset, or went on, these say nothing.
    fn reset(&self, key: &FlowKey, flow: &Flow) {
        let Some(links) = self.core.segments.get(&key.segment) else { return };
        let [client, server] = &flow.end;
        let (client_address, server_address) =
            (key.end(flow.client_low == 0), key.end(flow.client_low != 0));
        let client_side = if flow.client_side == 0 { Side::A } else { Side::B };
        let (of_client, of_server) = (client.isn.wrapping_add(1), server.isn.wrapping_add(1));
        let to_client = Segment {
            sequence: of_server,
            acknowledged: of_client,
            flags: RST | ACK,
            ..empty_segment(key, server, server_address, client_address)
        };
        let to_server = Segment {
            sequence: of_client,
            acknowledged: of_server,
            flags: RST | ACK,
            ..empty_segment(key, client, client_address, server_address)
        };
        for (segment, side) in [(to_client, client_side), (to_server, other(client_side))] {
            if let Some(frame) = segment.frame() {
                links.send(side, &frame);
            }
        }
    }
}
