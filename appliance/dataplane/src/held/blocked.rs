//! Blocking a held flow, and telling its ends.
//!
//! For: a judge's word, and policy's about flows that cannot be taken. Not for: what becomes of the entry
//! later (`crate::ring`). A flow whose entry cannot be changed is blocked all the same: what its client
//! sends comes by the ring, and goes no farther.

use weir_policy::Resets;

use super::{HeldFlow, NotHeld, other};
use crate::core::{Count, Disposition, SegmentLinks};
use crate::frame::{ACK, RST};
use crate::layout::State;
use crate::segment_of_ours::Segment;
use crate::state::Swap;

impl HeldFlow {
    /// Drops the flow's packets from now on.
    pub fn block(mut self, resets: Resets) -> Result<(), NotHeld> {
        self.judged();
        self.block_now(resets)
    }

    pub(crate) fn block_now(&mut self, resets: Resets) -> Result<(), NotHeld> {
        self.absorb();
        let swap = self.core.state.swap(&self.key, self.id, State::Held, State::Blocked);
        match &swap {
            Ok(Swap::Done) => {}
            Ok(_) => return Err(NotHeld), // released where it is dropped
            // It is blocked all the same: what its client sends comes by the ring, and goes no farther.
            Err(error) => tracing::warn!(%error, "flow's entry stays as held for now"),
        }
        self.finish_as(Disposition::Blocked, swap.is_ok());
        if let Some(links) = self.links() {
            self.shared.count(links, Count::Blocked);
            self.reset(links, resets);
        }
        Ok(())
    }

    /// A RST as each end would send it, to the other.
    pub(crate) fn reset(&self, links: &SegmentLinks, resets: Resets) {
        let [client, server] = &self.flow.end;
        // What the client expects next: its server may be heard while it is held, as well as before. Nothing
        // of the client's reached the server.
        let expected = self.assembly.acknowledged().filter(|said| later(*said, self.flow.heard()));
        let expected = expected.unwrap_or(self.flow.heard());
        let to_client = self.segment(server, self.server(), self.client());
        let to_client = Segment {
            sequence: expected,
            acknowledged: self.assembly.next_sequence(),
            flags: RST | ACK,
            ..to_client
        };
        let to_server = Segment {
            sequence: client.isn.wrapping_add(1),
            acknowledged: expected,
            flags: RST | ACK,
            ..self.segment(client, self.client(), self.server())
        };
        let client = (resets.client, to_client, self.from());
        let server = (resets.server, to_server, other(self.from()));
        for (_, segment, side) in [client, server].into_iter().filter(|(wanted, ..)| *wanted) {
            if let Some(frame) = segment.frame() {
                links.send(side, &frame);
            }
        }
    }
}

/// Whether one sequence number is behind another.
fn later(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) > 0
}
