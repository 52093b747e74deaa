//! One direction of a relayed session: decrypted, inspected, encrypted for the other side.
//!
//! For: one read of the side that sends, and all that follows from it. Nothing is sent on but what
//! inspection gave back. Not for: waiting ([`super::side`]). Fails by [`Fault`]: a side that is
//! broken, once all that came before it has been sent on, or a session that inspection drops.

use std::io;
use std::rc::Rc;

use weir_api::engine::{End, FilterAction, FilterEvent, FromEngine};
use weir_dataplane::ask_seldom;
use weir_inspect::{Alert, Direction, MAX_HEAD};

use super::{Fault, Relay};
use crate::flow::milliseconds_now;
use crate::leg::{HIGH_WATER, UNHEARD};
use crate::session::certificate_accepted;

/// Bytes of the wire in one read.
const READ: usize = 64 << 10;
/// What one read adds for the other side, with a head that was withheld, is less than twice as much in
/// records of TLS: of honest data so much never waits that a side is not read for its own answers' sake.
const _: () = assert!(HIGH_WATER + 2 * (READ + MAX_HEAD) <= UNHEARD);

/// Buffers of one runtime, used by one session at a time, never across an await.
pub struct Scratch {
    wire: Vec<u8>,
    plain: Vec<u8>,
    forward: Vec<u8>,
    alerts: Vec<Alert>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { wire: vec![0; READ], plain: Vec::new(), forward: Vec::new(), alerts: Vec::new() }
    }
}

/// Whether a step found something to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    None,
    Some,
}

/// Where a step's bytes come from.
#[derive(Clone, Copy)]
pub(super) enum Input {
    /// What TLS has decrypted already.
    Buffered,
    Wire,
}

impl Relay<'_> {
    /// One read of the side that sends in `direction`: decrypt, inspect, encrypt for the other.
    pub(super) fn take_in(
        &mut self,
        direction: Direction,
        input: Input,
    ) -> Result<Progress, Fault> {
        let surroundings = Rc::clone(self.surroundings);
        let mut scratch = surroundings.scratch.borrow_mut();
        let Scratch { wire, plain, forward, alerts } = &mut *scratch;
        plain.clear();
        forward.clear();
        alerts.clear();
        let fault = match direction {
            Direction::ToServer => Fault::Client,
            Direction::ToClient => Fault::Server,
        };
        let (from, _) = self.sides(direction);
        let mut broken = None;
        match input {
            // Of a leg whose work is done elsewhere, also its error.
            Input::Buffered => {
                broken = from.leg.tls.read_wire(&[]).err();
                from.leg.collect();
            }
            Input::Wire => match from.leg.try_read(wire) {
                Ok(0) => from.fin_received = true,
                Ok(read) => {
                    // Plaintext that came before an error is still good.
                    broken = from.leg.tls.read_wire(wire.get(..read).unwrap_or_default()).err();
                    from.leg.collect();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::None);
                }
                Err(error) => return Err(fault(error.into())),
            },
        }
        from.leg.tls.read_plain(plain);
        let closed = from.leg.tls.peer_closed();
        // An end is one when all that came before it has become plaintext.
        let eof = from.fin_received && from.leg.tls.in_progress().wire == 0;
        let eof = eof && !from.ended;
        let closed = closed && !from.ended;
        if eof || closed {
            from.ended = true;
            ask_seldom(&from.leg.stream);
            if direction == Direction::ToServer && plain.is_empty() && !self.server.ended {
                self.rejected = self.left_at_once();
            }
        }
        if direction == Direction::ToServer && !plain.is_empty() && !self.client_spoke {
            self.client_spoke = true;
            certificate_accepted((self.flow, self.guard.place()), self.record);
        }

        let unread = self.inspected.forwards_unread();
        let verdict = if plain.is_empty() || unread {
            Ok(())
        } else {
            self.inspected.inspect(direction, plain, forward, alerts)
        };
        let verdict = match verdict {
            Ok(()) if eof || closed => self.inspected.finish(direction, forward, alerts),
            verdict => verdict,
        };
        for alert in alerts.iter() {
            self.tell(alert, FilterAction::Permit);
        }
        verdict.map_err(Fault::Dropped)?;

        let forward = if unread { plain } else { forward };
        self.count_bytes(direction, forward.len());
        let requested = self.server.leg.tls.renegotiation_requested();
        let sender = match direction {
            Direction::ToServer => End::Client,
            Direction::ToClient => End::Server,
        };
        self.renegotiation.read(sender, !forward.is_empty(), requested);
        if eof || closed {
            self.renegotiation.ended(sender);
        }
        let (_, to) = self.sides(direction);
        let other = match direction {
            Direction::ToServer => Fault::Server,
            Direction::ToClient => Fault::Client,
        };
        to.withholds &= forward.is_empty();
        if to.left && !forward.is_empty() {
            // What its own kernel would answer to it.
            return Err(other(io::Error::from(io::ErrorKind::ConnectionReset).into()));
        }
        to.leg.send_plain(forward).map_err(other)?;
        if (eof || closed) && !to.closing {
            to.closing = true;
            if closed {
                to.leg.tls.close_notify();
                to.leg.collect();
            }
        }
        // What the other direction was made to wait with, this one may have set free.
        let back = direction.reverse();
        if self.inspected.is_released(back) {
            forward.clear();
            alerts.clear();
            let verdict = self.inspected.inspect(back, &[], forward, alerts);
            for alert in alerts.iter() {
                self.tell(alert, FilterAction::Permit);
            }
            verdict.map_err(Fault::Dropped)?;
            self.count_bytes(back, forward.len());
            let (_, to) = self.sides(back);
            to.withholds &= forward.is_empty();
            to.leg.send_plain(forward).map_err(fault)?;
        }
        match broken {
            Some(error) => Err(fault(error.into())),
            None => Ok(Progress::Some),
        }
    }

    fn count_bytes(&mut self, direction: Direction, bytes: usize) {
        let counted = self.record.bytes.get_or_insert_default();
        let total = match direction {
            Direction::ToServer => &mut counted.to_server,
            Direction::ToClient => &mut counted.to_client,
        };
        *total = total.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn tell(&self, alert: &Alert, action: FilterAction) {
        self.surroundings.tell(FromEngine::Filter(Box::new(FilterEvent {
            session: self.record.id,
            time: milliseconds_now(),
            segment: self.record.segment,
            client: self.record.client,
            server: self.record.server,
            server_name: self.record.server_name.clone(),
            profile: self.record.names.as_ref().map(|names| names.profile.clone()),
            sid: alert.sid,
            rev: alert.rev,
            message: alert.message.to_string(),
            action,
            tls_inspected: true,
        })));
    }
}
