//! Telling a taken flow's client that the bytes arrived which it sent before the takeover.
//!
//! For: an acknowledgement by what is said to the client in time or, where nothing is, by a segment of its
//! own: within [`ONE_WITHIN`] where one segment came (RFC 9293 3.8.6.3 has 500 ms at most), within
//! [`SEVERAL_WITHIN`] where more did, or its end. Whoever takes a flow over whose client may wait for it
//! gives it.
//! Not for: what comes after the takeover, which the kernel acknowledges. A segment that is not sent is
//! counted: the client sends its bytes again, and the socket answers.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use weir_policy::snapshot::Side;

use crate::core::Core;
use crate::layout::FlowKey;
use crate::segment_of_ours::Segment;

/// Half of what Linux waits at least, and far less than any client waits before it sends again.
const ONE_WITHIN: Duration = Duration::from_millis(20);
/// A server near by has answered then, which saves the segment; the runtime's timer makes it up to 2 ms. A
/// client on a short path looks after 2 ms at the least whether its last segment was lost (RFC 8985 7.2, as
/// Linux has it).
const SEVERAL_WITHIN: Duration = Duration::from_millis(1);

/// What the client is to be told. Poll [`Self::in_time`] beside whatever may answer the client.
#[derive(Debug)]
pub struct Acknowledgement {
    core: Arc<Core>,
    key: FlowKey,
    id: u64,
    /// The client's.
    side: Side,
    due: Instant,
    /// `None` once it is told.
    segment: Option<Segment>,
}

impl Acknowledgement {
    /// From now on. `several`: more than one segment came, or the client's end.
    pub(crate) fn new(
        core: &Arc<Core>,
        key: FlowKey,
        id: u64,
        side: Side,
        segment: Segment,
        several: bool,
    ) -> Self {
        let due = Instant::now() + if several { SEVERAL_WITHIN } else { ONE_WITHIN };
        Self { core: Arc::clone(core), key, id, side, due, segment: Some(segment) }
    }

    /// Tells the client, if nothing was said to it yet; once.
    pub fn give(&mut self) {
        let Some(segment) = self.segment.take() else { return };
        match self.core.state.spoken_to_client(&self.key, self.id) {
            Ok(true) => {}
            Ok(false) => self.send(&segment),
            // Twice is no harm.
            Err(error) => {
                tracing::debug!(%error, "not known whether the client was spoken to");
                self.send(&segment);
            }
        }
    }

    /// Tells the client when it is time, if nothing was said to it until then. Safe to cancel.
    pub async fn in_time(&mut self) -> Infallible {
        if self.segment.is_some() {
            sleep_until(self.due).await;
            self.give();
        }
        pending().await
    }

    fn send(&self, segment: &Segment) {
        if let (Some(links), Some(frame)) =
            (self.core.segments.get(&self.key.segment), segment.frame())
        {
            links.send(self.side, &frame);
        }
    }
}
