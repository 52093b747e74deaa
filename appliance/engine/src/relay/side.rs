//! One side of a relayed session: its leg, and how far it has come to its end in either way.
//!
//! For: waiting for a side, and sending to it what TCP takes, with FIN after the last byte. Not for:
//! what is made of its bytes ([`super::direction`]), nor what its end does to the other side. Fails
//! by the leg's [`LegFault`], which ends the session.

use std::task::{Context, Poll};

use weir_api::engine::End;

use crate::closing::shut_down;
use crate::leg::{Leg, LegFault};

pub(super) struct Side {
    pub(super) leg: Leg,
    /// TCP has said its last.
    pub(super) fin_received: bool,
    /// Nothing more will be read from it.
    pub(super) ended: bool,
    /// Nothing more will be sent to it: FIN follows the last byte.
    pub(super) closing: bool,
    fin_sent: bool,
}

/// What of a side is waited for.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) read: bool,
    pub(super) write: bool,
}

/// What a relay waits for.
pub(super) enum Event {
    Readable(End),
    Writable,
    Progress(End),
    /// The client, and the server, asked whether the other is there.
    Asked([bool; 2]),
    /// Both sides ended, and had their time to take what is left.
    Drained,
}

impl Side {
    pub(super) fn of(leg: Leg) -> Self {
        Self { leg, fin_received: false, ended: false, closing: false, fin_sent: false }
    }

    /// Sends what TCP takes, and FIN after the last byte.
    pub(super) fn push(&mut self) -> Result<(), LegFault> {
        if self.fin_sent {
            // What TLS would answer to its peer has no way any more (a KeyUpdate, for one).
            self.leg.discard();
            return Ok(());
        }
        self.leg.flush_some()?;
        if self.closing && !self.fin_sent && self.leg.pending() == 0 {
            self.fin_sent = true;
            shut_down(&self.leg.stream)?;
        }
        Ok(())
    }

    pub(super) fn reads(&self) -> bool {
        !self.ended && !self.fin_received && self.leg.tls.wants_read()
    }

    pub(super) fn done(&self) -> bool {
        self.ended && self.fin_sent
    }

    pub(super) fn poll(
        &mut self,
        end: End,
        wanted: Wanted,
        context: &mut Context<'_>,
    ) -> Poll<Result<Event, LegFault>> {
        let stream = &self.leg.stream;
        if wanted.read
            && let Poll::Ready(ready) = stream.poll_read_ready(context)
        {
            return Poll::Ready(ready.map(|()| Event::Readable(end)).map_err(LegFault::Tcp));
        }
        if wanted.write
            && let Poll::Ready(ready) = stream.poll_write_ready(context)
        {
            return Poll::Ready(ready.map(|()| Event::Writable).map_err(LegFault::Tcp));
        }
        self.leg.tls.poll_progress(context).map(|()| Ok(Event::Progress(end)))
    }
}
