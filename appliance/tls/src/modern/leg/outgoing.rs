//! What goes to the peer: records that rustls made, and those of data that we sealed.
//!
//! For: the one buffer in which both stand in their order, and keys that are used up. Not for:
//! what the peer sent ([`super::incoming`]). Does not fail: a key without a successor ends the leg
//! by close_notify.

use std::io::Write as _;

use super::ModernLeg;
use super::spare::{SPARE_OUT, give_back};
use crate::leg::{TlsLeg, WIRE_BOUND};
use crate::modern::protection::{Exhausted, LONGEST_PLAIN, MOST_ADDED};
use crate::modern::witness::observing;

impl ModernLeg {
    /// Moves what rustls wants to send behind what is to be sent already.
    pub(super) fn collect(&mut self) {
        // Writing into memory does not fail, and takes at least a byte each time.
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.out) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }

    pub(super) fn unsent(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    pub(super) fn all_sent(&mut self) {
        self.sent = 0;
        give_back(&SPARE_OUT, std::mem::take(&mut self.out));
    }

    /// Seals as much as there is room for; fewer bytes only where the keys are used up.
    pub(super) fn seal(&mut self, plain: &[u8]) -> usize {
        if self.sent > 0 {
            self.out.drain(..self.sent.min(self.out.len()));
            self.sent = 0;
        }
        if !plain.is_empty() && std::mem::take(&mut self.answer_due) {
            // The KeyUpdate that stands before the first data under the key it tells of.
            let _ = observing(&self.observed, || self.connection.writer().write(&[]));
        }
        self.collect();
        let room = WIRE_BOUND.saturating_sub(self.unsent().len());
        let plain = plain.get(..room).unwrap_or(plain);
        if self.out.capacity() == 0 {
            self.out = SPARE_OUT.take();
        }
        let records = plain.len().div_ceil(LONGEST_PLAIN);
        self.out.reserve(plain.len().saturating_add(records.saturating_mul(MOST_ADDED)));
        let mut sealed: usize = 0;
        for part in plain.chunks(LONGEST_PLAIN) {
            let Some(traffic) = &self.traffic else { break };
            if traffic.sealing.seal(part, &mut self.out) == Err(Exhausted) {
                if !self.renew_key() {
                    self.close_notify();
                    break;
                }
                let Some(traffic) = &self.traffic else { break };
                if traffic.sealing.seal(part, &mut self.out).is_err() {
                    break;
                }
            }
            sealed = sealed.saturating_add(part.len());
        }
        sealed
    }

    /// A key that has sealed all it may gets a successor, by KeyUpdate (RFC 8446 section 4.6.3).
    /// `false`: TLS 1.2 has none, and the session is over.
    pub(super) fn renew_key(&mut self) -> bool {
        let renewed = observing(&self.observed, || self.connection.refresh_traffic_keys()).is_ok();
        self.take_keys();
        self.collect();
        renewed
    }
}
