//! Giving a held flow back to the bridge, and what is kept of it until that is final (SPEC D15).
//!
//! For: a judge's release, and a flow that is dropped undecided. Not for: the watch that follows
//! (`crate::ring`). Where the flow's entry cannot be changed user space forwards its packets.

use std::io;
use std::sync::Arc;

use super::{HeldFlow, ReleaseError, other};
use crate::assembly::ClientEnd;
use crate::core::{Count, Disposition};
use crate::judged::Judged;
use crate::layout::State;
use crate::state::Swap;

impl HeldFlow {
    /// Gives the flow back to the bridge: its frames go out as they came. Until the server has
    /// acknowledged the client's bytes, and its FIN where one came, no others can take their place
    /// (SPEC D15); then the flow is on its own. One that its client reset is over.
    pub fn release(mut self) -> Result<(), ReleaseError> {
        self.judged();
        self.give_back()
    }

    /// Under the flow's lock: what comes by the ring meanwhile waits, and is then sent on directly.
    pub(crate) fn give_back(&mut self) -> Result<(), ReleaseError> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        self.absorb_locked(&mut state);
        let fin = self.assembly.end == Some(ClientEnd::Fin);
        let judged = self.assembly.payload().len() as u32 + u32::from(fin); // bounded by the assembly
        let states = &self.core.state;
        let reset = self.assembly.end == Some(ClientEnd::Rst);
        // While several go out, what its client says meanwhile waits behind them. One alone is out at once.
        let at_once = judged > 0 && self.assembly.frames().len() == 1 && !reset;
        let swap = if at_once {
            states.watching(&self.key, self.id, judged)
        } else {
            states.releasing(&self.key, self.id, judged)
        };
        let ours = matches!(swap, Ok(Swap::Done | Swap::Found(State::Releasing)) | Err(_));
        if let Some(links) = self.links()
            && ours
        {
            for frame in self.assembly.frames() {
                links.send(other(self.from()), frame);
            }
            self.shared.count(links, Count::Released);
        }
        let (disposition, changed) = match swap {
            Ok(Swap::Done) if at_once => (Disposition::Watched, Ok(())),
            Ok(_) => self.leave_releasing(judged),
            Err(error) => (Disposition::Released, Err(error)),
        };
        if disposition == Disposition::Watched {
            let [first, server] = self.flow.end.map(|end| end.isn.wrapping_add(1));
            let heard = self.assembly.heard_more_than(server);
            let (bytes, _) = std::mem::take(&mut self.assembly).into_parts();
            state.judged = Some(Judged { first, bytes, fin, heard });
        }
        state.disposition = disposition;
        drop(state);
        self.finish_as(disposition, changed.is_ok());
        changed.map_err(ReleaseError::Table)
    }

    /// What becomes of a released flow whose frames went out, and whether its entry says so already.
    fn leave_releasing(&self, judged: u32) -> (Disposition, io::Result<()>) {
        let state = &self.core.state;
        let (disposition, changed) = if self.assembly.end == Some(ClientEnd::Rst) {
            // A server that takes it says nothing, and one that does not must hear no more.
            let swap = state.swap(&self.key, self.id, State::Releasing, State::Blocked);
            (Disposition::Blocked, swap)
        } else if judged == 0 {
            (Disposition::Released, state.remove(&self.key, self.id, State::Releasing))
        } else {
            let swap = state.swap(&self.key, self.id, State::Releasing, State::Watched);
            (Disposition::Watched, swap)
        };
        match changed {
            Ok(Swap::Done) => (disposition, Ok(())),
            // Final already, or given back.
            Ok(_) => (Disposition::Released, Ok(())),
            Err(error) if disposition == Disposition::Blocked => (disposition, Err(error)),
            Err(error) => (Disposition::Released, Err(error)),
        }
    }
}

impl Drop for HeldFlow {
    fn drop(&mut self) {
        if !self.decided
            && let Err(error) = self.give_back()
        {
            tracing::warn!(%error, "held flow not given back");
        }
    }
}
