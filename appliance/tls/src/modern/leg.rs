//! A rustls connection of either role as a [`TlsLeg`].

use std::cell::RefCell;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Connection, Error, HandshakeKind};
use rustls_pki_types::CertificateDer;

use super::closing_alert::closing_with;
use super::witness::{Observed, observing};
use crate::alert::Alert;
use crate::leg::{Fault, LegError, Negotiated, PLAIN_BOUND, PlainState, TlsLeg, WIRE_BOUND};
use crate::names::{Group, Suite, Version};

thread_local! {
    /// A buffer for plaintext that no leg of this thread is using: between two reads a leg has none.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Capacity past which a buffer is freed instead.
const SPARE_BOUND: usize = 4 * PLAIN_BOUND;

/// What rustls makes room for when it has nothing.
const SMALL_RECORD: usize = 4096;

/// A source that never has anything.
struct NothingYet;

impl Read for NothingYet {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

fn give_back(mut buffer: Vec<u8>) {
    buffer.clear();
    if buffer.capacity() <= SPARE_BOUND {
        SPARE.with_borrow_mut(|spare| {
            if spare.capacity() < buffer.capacity() {
                *spare = buffer;
            }
        });
    }
}

pub(super) struct ModernLeg {
    connection: Connection,
    observed: Arc<Observed>,
    /// Decrypted, not yet read: at most [`PLAIN_BOUND`], the input of one call and two records.
    plain: Vec<u8>,
    failed: Option<LegError>,
    /// Wire bytes since the last [`Self::shrink`] that did something.
    fed: usize,
    /// We sent close_notify.
    closing: bool,
    /// The peer did.
    peer_closed: bool,
}

impl ModernLeg {
    pub(super) fn new(mut connection: Connection, observed: Arc<Observed>) -> Self {
        connection.set_buffer_limit(Some(WIRE_BOUND));
        Self {
            connection,
            observed,
            plain: Vec::new(),
            failed: None,
            fed: 0,
            closing: false,
            peer_closed: false,
        }
    }

    /// Feeds rustls, which takes 4 KiB at a time, and empties its plaintext buffer after each.
    fn process(&mut self, mut wire: &[u8]) -> Result<(), LegError> {
        while !wire.is_empty() && !self.peer_closed {
            let taken = self
                .connection
                .read_tls(&mut wire)
                .map_err(|error| LegError::Internal(error.to_string()))?;
            let processed = observing(&self.observed, || self.connection.process_new_packets());
            // Also what came before an error.
            self.drain();
            self.peer_closed = processed.map_err(|error| explain(&error))?.peer_has_closed();
            if taken == 0 {
                break;
            }
        }
        Ok(())
    }

    /// rustls keeps the room of the longest record until the next read, which on an idle session may
    /// be hours away; an attempt to read makes it keep 4 KiB.
    fn shrink(&mut self, fed: usize) {
        self.fed = self.fed.saturating_add(fed);
        if self.fed > SMALL_RECORD && !self.peer_closed {
            self.fed = 0;
            // Its error is the one that NothingYet makes.
            let _ = self.connection.read_tls(&mut NothingYet);
        }
    }

    fn drain(&mut self) {
        let mut reader = self.connection.reader();
        while let Ok(chunk) = reader.fill_buf() {
            if chunk.is_empty() {
                break;
            }
            if self.plain.capacity() == 0 {
                self.plain = SPARE.take();
            }
            self.plain.extend_from_slice(chunk);
            let length = chunk.len();
            reader.consume(length);
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
        self.process(wire).inspect_err(|error| self.failed = Some(error.clone()))?;
        self.shrink(wire.len());
        Ok(())
    }

    fn wants_read(&self) -> bool {
        self.failed.is_none() && self.plain.len() <= PLAIN_BOUND && !self.peer_closed()
    }

    fn write_wire(&mut self, out: &mut Vec<u8>) {
        // Writing into memory does not fail, and takes at least a byte each time.
        while self.connection.wants_write() {
            match self.connection.write_tls(out) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }

    fn send_wire(&mut self, to: &mut dyn Write) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(to)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn wants_write(&self) -> bool {
        self.connection.wants_write()
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
        give_back(plain);
        if self.peer_closed() { PlainState::Closed } else { PlainState::Open }
    }

    fn write_plain(&mut self, plain: &[u8]) -> usize {
        if self.closing || self.failed.is_some() {
            return 0;
        }
        self.connection.writer().write(plain).unwrap_or(0)
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
}

/// Which of our errors, and the alert that rustls has queued for it.
fn explain(error: &Error) -> LegError {
    let refused = |fault, alert| LegError::Refused { fault, alert };
    match error {
        Error::AlertReceived(alert) => LegError::AlertReceived(Alert((*alert).into())),
        Error::InvalidMessage(message) => {
            refused(Fault::Malformed, Alert(AlertDescription::from(*message).into()))
        }
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            refused(Fault::Misbehaved, Alert::UNEXPECTED_MESSAGE)
        }
        Error::DecryptError => refused(Fault::Undecryptable, Alert::BAD_RECORD_MAC),
        Error::PeerSentOversizedRecord => refused(Fault::OversizedRecord, Alert::RECORD_OVERFLOW),
        Error::PeerIncompatible(_) => refused(Fault::Incompatible, Alert::HANDSHAKE_FAILURE),
        Error::PeerMisbehaved(_) => refused(Fault::Misbehaved, Alert::ILLEGAL_PARAMETER),
        Error::NoCertificatesPresented => refused(Fault::Misbehaved, Alert::DECODE_ERROR),
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            refused(Fault::BadSignature, Alert::DECRYPT_ERROR)
        }
        Error::InvalidCertificate(_) => refused(Fault::BadSignature, Alert::BAD_CERTIFICATE),
        Error::NoApplicationProtocol => {
            refused(Fault::NoApplicationProtocol, Alert::NO_APPLICATION_PROTOCOL)
        }
        other => LegError::Internal(other.to_string()),
    }
}
