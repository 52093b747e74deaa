//! A rustls connection of either role as a [`TlsLeg`].
//!
//! rustls does the handshake and whatever is no application data; records of application data are
//! sealed and opened here, by the same keys ([`super::protection`]), with one copy each way into
//! buffers that a thread's legs share. rustls is fed whole records, so that each record is its or
//! ours. What it counts of its own accord we have to count, or show it: see [`ModernLeg::record`].
//! It does not see data between the fragments of one handshake message, which it would refuse.

mod fault;
mod incoming;
mod outgoing;
mod spare;

use std::io::{self, Write};
use std::sync::Arc;

use rustls::{Connection, HandshakeKind, ProtocolVersion};
use rustls_pki_types::CertificateDer;

use self::spare::{SPARE, give_back};
use super::closing_alert::closing_with;
use super::protection::Protection;
use super::witness::{Observed, observing};
use crate::alert::Alert;
use crate::leg::{LegError, Negotiated, PLAIN_BOUND, PlainState, TlsLeg, WIRE_BOUND};
use crate::names::{Group, Suite, Version};

pub(super) struct ModernLeg {
    connection: Connection,
    observed: Arc<Observed>,
    /// From the end of the handshake on.
    traffic: Option<Traffic>,
    /// The beginning of a record: less than the longest that there is.
    partial: Vec<u8>,
    /// Decrypted, not yet read: at most [`PLAIN_BOUND`], the input of one call and two records.
    plain: Vec<u8>,
    /// Records for the peer, before those that rustls has: `out[sent..]`. At most [`WIRE_BOUND`] of
    /// data and what its records add, and handshake or alert.
    out: Vec<u8>,
    sent: usize,
    failed: Option<LegError>,
    /// Wire bytes since the last [`Self::shrink`] that did something.
    fed: usize,
    /// The peer has changed its key since rustls saw data of its: rustls lets it change so often only
    /// without any.
    shows_data: bool,
    /// The peer asked for a new key of ours. rustls answers by one KeyUpdate, whatever comes of requests
    /// until it goes out: with our next data, so that a peer earns no answer by asking alone.
    answer_due: bool,
    /// Records without a byte, in a row.
    empty: u8,
    /// A server asked to renegotiate.
    renegotiation_requested: bool,
    /// We sent close_notify.
    closing: bool,
    /// The peer did.
    peer_closed: bool,
}

/// The keys of application data.
struct Traffic {
    sealing: Arc<Protection>,
    opening: Arc<Protection>,
}

impl ModernLeg {
    pub(super) fn new(mut connection: Connection, observed: Arc<Observed>) -> Self {
        connection.set_buffer_limit(Some(WIRE_BOUND));
        Self {
            connection,
            observed,
            traffic: None,
            partial: Vec::new(),
            plain: Vec::new(),
            out: Vec::new(),
            sent: 0,
            failed: None,
            fed: 0,
            shows_data: false,
            answer_due: false,
            empty: 0,
            renegotiation_requested: false,
            closing: false,
            peer_closed: false,
        }
    }
}

impl TlsLeg for ModernLeg {
    fn read_wire(&mut self, wire: &[u8]) -> Result<(), LegError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.plain.len() > PLAIN_BOUND {
            return Err(LegError::Overfed);
        }
        self.take(wire).inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn wants_read(&self) -> bool {
        self.failed.is_none() && self.plain.len() <= PLAIN_BOUND && !self.peer_closed()
    }

    fn write_wire(&mut self, out: &mut Vec<u8>) {
        self.collect();
        out.extend_from_slice(self.unsent());
        self.all_sent();
    }

    fn send_wire(&mut self, to: &mut dyn Write) -> io::Result<()> {
        self.collect();
        while !self.unsent().is_empty() {
            match to.write(self.unsent())? {
                0 => break,
                taken => self.sent = self.sent.saturating_add(taken),
            }
        }
        if self.unsent().is_empty() {
            self.all_sent();
        }
        Ok(())
    }

    fn wants_write(&self) -> bool {
        !self.unsent().is_empty() || self.connection.wants_write()
    }

    fn read_plain(&mut self, out: &mut Vec<u8>) -> PlainState {
        let mut plain = std::mem::take(&mut self.plain);
        if plain.is_empty() {
            // Nothing came, and a leg that has read all has no buffer.
        } else if out.is_empty() {
            // No copy: the caller's buffer is the next one to fill.
            std::mem::swap(out, &mut plain);
        } else {
            out.append(&mut plain);
        }
        give_back(&SPARE, plain);
        if self.peer_closed() { PlainState::Closed } else { PlainState::Open }
    }

    fn write_plain(&mut self, plain: &[u8]) -> usize {
        if self.closing || self.failed.is_some() {
            return 0;
        }
        if self.traffic.is_some() {
            return self.seal(plain);
        }
        observing(&self.observed, || self.connection.writer().write(plain).unwrap_or(0))
    }

    fn close_notify(&mut self) {
        if !self.closing {
            self.closing = true;
            self.connection.send_close_notify();
        }
    }

    fn fatal_alert(&mut self, alert: Alert) {
        if !self.closing && !self.handshaking() {
            self.closing = true;
            closing_with(alert, || self.connection.send_close_notify());
        }
    }

    fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    fn handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    fn peer_awaits_last_flight(&self) -> bool {
        // RFC 5246 section 7.3: of a full handshake the server's Finished is the last message.
        matches!(self.connection, Connection::Server(_))
            && self.connection.protocol_version() != Some(ProtocolVersion::TLSv1_3)
    }

    fn negotiated(&self) -> Option<Negotiated> {
        if self.handshaking() {
            return None;
        }
        let resumed = self.connection.handshake_kind() == Some(HandshakeKind::Resumed);
        Some(Negotiated {
            version: Version(self.connection.protocol_version()?.into()),
            suite: Suite(self.connection.negotiated_cipher_suite()?.suite().into()),
            group: self
                .connection
                .negotiated_key_exchange_group()
                .map(|group| Group(group.name().into())),
            signature: if resumed { None } else { self.observed.signature() },
            alpn: self.connection.alpn_protocol().map(<[u8]>::to_vec),
            resumed,
            legacy: false,
        })
    }

    fn peer_chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.connection
            .peer_certificates()
            .map(|chain| chain.iter().map(|one| one.clone().into_owned()).collect())
    }

    fn stapled_response(&self) -> Option<Vec<u8>> {
        self.observed.staple()
    }

    fn client_certificate_requested(&self) -> bool {
        self.observed.client_certificate_requested()
    }

    fn renegotiation_requested(&self) -> bool {
        self.renegotiation_requested
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
