//! One side of a relayed session: its leg, and how far it has come to its end in either way.
//!
//! For: what of a side is to be waited for, and sending to it what TCP takes, with FIN after the last
//! byte. Not for: waiting ([`super::waiting`]), what is made of its bytes ([`super::direction`]), nor what
//! its end does to the other side. Fails by the leg's [`LegFault`], which ends the session.

use std::io;

use weir_dataplane::Patience;
use weir_tls::InProgress;

use crate::closing::{deliver, reset_unheard, shut_down, unacknowledged};
use crate::leg::{HIGH_WATER, Leg, LegFault, UNHEARD};

pub(super) struct Side {
    pub(super) leg: Leg,
    /// TCP has said its last.
    pub(super) fin_received: bool,
    /// Nothing more will be read from it.
    pub(super) ended: bool,
    /// Nothing more will be sent to it: FIN follows the last byte.
    pub(super) closing: bool,
    /// What TLS has for it of its own accord goes with the data that it waits for.
    pub(super) withholds: bool,
    /// It got its tickets before any answer.
    pub(super) has_tickets: bool,
    fin_sent: bool,
    /// It had ended in order, and a word of ours was too late for it: nothing can be said to it any more.
    pub(super) left: bool,
    /// It is gone; so long what it said last waits for the other side.
    pub(super) patience: Option<Patience>,
}

/// What of a side is waited for.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Side {
    pub(super) fn of(leg: Leg) -> Self {
        Self {
            leg,
            fin_received: false,
            ended: false,
            closing: false,
            withholds: false,
            has_tickets: false,
            fin_sent: false,
            left: false,
            patience: None,
        }
    }

    /// Sends what TCP takes, and FIN after the last byte.
    pub(super) fn push(&mut self) -> Result<(), LegFault> {
        if self.fin_sent {
            // What TLS would answer to its peer has no way any more (a KeyUpdate, for one).
            self.leg.discard();
            return Ok(());
        }
        if !self.closing {
            return if self.withholds { Ok(()) } else { Ok(self.leg.flush_some()?) };
        }
        self.leg.flush_before_end()?;
        if self.leg.pending() == 0 {
            self.fin_sent = true;
            shut_down(&self.leg.stream)?;
        }
        Ok(())
    }

    pub(super) fn reads(&self) -> bool {
        !self.ended
            && !self.fin_received
            && self.leg.tls.wants_read()
            && self.leg.unsent() < UNHEARD
    }

    /// What of it is to be waited for, beside that other side.
    pub(super) fn wanted(&self, other: &Self) -> Wanted {
        Wanted {
            read: self.reads() && other.leg.pending() < HIGH_WATER,
            write: self.leg.unsent() > 0 && (self.closing || !self.withholds),
        }
    }

    /// Whether a reset of an end that had ended in order was drawn by what TLS said of its own accord: it
    /// has not acknowledged all of that, or has ended its session of TLS and then closed, maybe without
    /// having read its tickets. Where no data was sent to it.
    pub(super) fn left_by_words_of_ours(&self) -> bool {
        let may_have_read_none = self.leg.tls.peer_closed() && self.has_tickets;
        self.ended && (may_have_read_none || reset_unheard(&self.leg.stream))
    }

    /// Whether what the other side said has not come here because the legacy worker holds it, on either leg:
    /// the peer has acknowledged all that there was for it.
    pub(super) fn waits_for_worker(&self, other: &Self) -> bool {
        let with_worker = |side: &Self| side.leg.tls.in_progress() != InProgress::default();
        let has_all = self.leg.unsent() == 0 && !unacknowledged(&self.leg.stream);
        has_all && (with_worker(self) || with_worker(other))
    }

    /// Nothing is said to it any more.
    pub(super) fn leave(&mut self) {
        (self.left, self.fin_sent, self.patience) = (true, true, None);
    }

    /// Gives it all that waits for it, and FIN where the other side `had_ended` in order.
    pub(super) async fn deliver_last(&mut self, had_ended: bool) -> io::Result<()> {
        if self.fin_sent {
            self.leg.discard();
        }
        deliver(&mut self.leg, had_ended).await
    }

    pub(super) fn done(&self) -> bool {
        self.ended && self.fin_sent
    }
}

#[cfg(test)]
mod tests;
