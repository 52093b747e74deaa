//! Flows whose handshake is whole and whose client says nothing.
//!
//! For: forgetting them in time, so that who opens connections and leaves them has not the room of
//! others for good. They have a part of the flow table (bpf/clients.h), a client a share of that part;
//! past it a handshake stays in the table that floods of SYNs push entries out of. Where nobody wants
//! the room they stay for longer than ends go without a keep-alive. What a forgotten flow says later
//! passes unjudged (but for one that seemed to be reset: its server is, so that it takes nothing that is
//! said): it is counted, or the flow is blocked, as policy has it for handshakes that were
//! not seen: as the engine's own policy has it that is in force, so nothing is forgotten before it has
//! one, nor while it drains. Not for: flows that were held. A look that fails is logged and done again.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::maps::{Array, MapData};

use crate::core::{Core, Count, Disposition, Finished};
use crate::dataplane::Times;
use crate::layout::{
    CLIENT_HANDSHAKES_ALL, EVASION_SERVER_SPEAKS_FIRST, EVASION_UNSEEN_HANDSHAKE, Flow, FlowKey,
    RESET_BY_ANYBODY, RESET_BY_SERVER, SERVER_SPOKE, State, count_of, id_of,
};
use crate::ring::monotonic_nanoseconds;
use crate::state::Swap;
use crate::tables::InForce;
use crate::walk::{Broken, FlowTable, PAUSE};

/// What the thread needs.
pub struct Silence {
    pub core: Arc<Core>,
    pub flows: FlowTable,
    /// The table `client_flows`.
    pub counts: Arc<Array<MapData, u64>>,
    pub in_force: InForce,
    /// Most silent flows.
    pub room: u32,
    pub times: Times,
}

/// The thread. Ends when dropped.
pub struct SilenceThread {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for SilenceThread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Silence {
    pub fn start(self) -> io::Result<SilenceThread> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("weir-silence".into())
            .spawn(move || self.run(&stopped))?;
        Ok(SilenceThread { stop: Some(stop), thread: Some(thread) })
    }

    fn run(&self, stopped: &Receiver<()>) {
        while stopped.recv_timeout(self.times.look) == Err(RecvTimeoutError::Timeout) {
            let done = match self.counts.get(&CLIENT_HANDSHAKES_ALL, 0) {
                Ok(silent) if count_of(silent) == 0 => Ok(()),
                Ok(silent) => self.look(crowded(count_of(silent), self.room), stopped),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = done {
                tracing::warn!(%error, "silent flows are not forgotten yet");
            }
        }
    }

    fn look(&self, crowded: bool, stopped: &Receiver<()>) -> Result<(), Broken> {
        let Some(evasion) = self.in_force.own_evasion() else { return Ok(()) };
        let evasion = Cell::new(evasion);
        let pause = || {
            let goes_on = stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout);
            let now = self.in_force.own_evasion().filter(|_| goes_on);
            now.inspect(|now| evasion.set(*now)).is_some()
        };
        let visit = |key, flow: &Flow| {
            if State::of(flow.word) == Some(State::Answered) && self.silent(flow, crowded)? {
                self.forget(key, flow, blocks(flow, evasion.get()))?;
            }
            Ok(())
        };
        self.flows.walk(pause, visit).map(drop)
    }

    /// Whether it has been for too long. What ended it may be a decoy.
    fn silent(&self, flow: &Flow, crowded: bool) -> io::Result<bool> {
        let silent = Duration::from_nanos(monotonic_nanoseconds()?.saturating_sub(flow.touched));
        let most =
            if crowded || flow.reset != 0 { self.times.silent_crowded } else { self.times.silent };
        Ok(silent > most)
    }

    fn forget(&self, key: FlowKey, flow: &Flow, blocks: bool) -> io::Result<()> {
        let (core, id) = (&self.core, id_of(flow.word));
        // A server that took the RST, or the end of what it has, is not moved by another; one that did
        // not must take nothing once nobody judges it.
        if !blocks
            && flow.reset == RESET_BY_ANYBODY
            && let Some(links) = core.segments.get(&key.segment)
        {
            links.reset_server(&key, flow, 0);
        }
        let swap = if blocks {
            core.state.swap(&key, id, State::Answered, State::Blocked)?
        } else {
            core.state.remove(&key, id, State::Answered)?
        };
        if swap != Swap::Done {
            return Ok(()); // its client has said something
        }
        if let Some(links) = core.segments.get(&key.segment) {
            let count = if blocks { Count::HandshakeBlocked } else { Count::HandshakeForgotten };
            links.counts.add(count);
        }
        if blocks {
            core.finish(Finished { key, id, disposition: Disposition::Blocked, changed: true });
        }
        Ok(())
    }
}

/// Whether others may soon want the room. Below 0 a count is wrong, and no flood.
fn crowded(silent: i32, room: u32) -> bool {
    i64::from(silent) >= i64::from(room / 2)
}

/// Whether what its client says later, if it says anything, must not cross unjudged: of a server proxy's
/// server nothing but TLS does (SPEC T9). A server that ended without a word may wait for its client
/// for as long as it likes: nothing of that handshake was not seen.
fn blocks(flow: &Flow, evasion: u32) -> bool {
    let ways = match flow.reset {
        0 => EVASION_UNSEEN_HANDSHAKE,
        RESET_BY_SERVER | SERVER_SPOKE => EVASION_SERVER_SPEAKS_FIRST,
        _ => EVASION_UNSEEN_HANDSHAKE | EVASION_SERVER_SPEAKS_FIRST,
    };
    flow.served != 0 || evasion & ways != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_races_left_below_0_is_no_crowd() {
        for (silent, is) in [(-1, false), (i32::MIN, false), (0, false), (4, false), (5, true)] {
            assert_eq!(crowded(silent, 10), is, "{silent}");
        }
        assert!(!crowded(i32::MAX - 1, u32::MAX));
    }
}
