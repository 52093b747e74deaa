//! A rustls connection of either role as a [`TlsLeg`].
//!
//! rustls does the handshake and whatever is no application data; records of application data are
//! sealed and opened here, by the same keys ([`super::protection`]), with one copy each way into
//! buffers that a thread's legs share. rustls is fed whole records, so that each record is its or
//! ours. What it counts of its own accord we have to count, or show it: see [`ModernLeg::record`].
//! It does not see data between the fragments of one handshake message, which it would refuse.

use std::cell::RefCell;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::thread::LocalKey;

use rustls::{AlertDescription, CertificateError, Connection, Error, HandshakeKind};
use rustls_pki_types::CertificateDer;

use super::closing_alert::closing_with;
use super::protection::{Exhausted, LONGEST_PLAIN, MOST_ADDED, Protection};
use super::record::{APPLICATION_DATA, HEADER, Next, next};
use super::witness::{Keys, Observed, observing};
use crate::alert::Alert;
use crate::leg::{Fault, LegError, Negotiated, PLAIN_BOUND, PlainState, TlsLeg, WIRE_BOUND};
use crate::names::{Group, Suite, Version};

thread_local! {
    /// Buffers that no leg of this thread is using, for plaintext and for records: between two
    /// events a leg has none.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SPARE_OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Capacity past which a buffer is freed instead.
const SPARE_BOUND: usize = 4 * PLAIN_BOUND;

/// What rustls makes room for when it has nothing.
const SMALL_RECORD: usize = 4096;

/// Records of application data without a byte of it, in a row; past it the peer only keeps us busy.
/// rustls' own bound.
const EMPTY_BOUND: u8 = 32;

/// A source that never has anything.
struct NothingYet;

impl Read for NothingYet {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

fn give_back(spare: &'static LocalKey<RefCell<Vec<u8>>>, mut buffer: Vec<u8>) {
    buffer.clear();
    if buffer.capacity() <= SPARE_BOUND {
        spare.with_borrow_mut(|spare| {
            if spare.capacity() < buffer.capacity() {
                *spare = buffer;
            }
        });
    }
}

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
    /// Records without a byte, in a row.
    empty: u8,
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

/// Bytes of the whole records that a stream begins with.
fn whole_records(stream: &[u8]) -> usize {
    let mut rest = stream;
    while let Next::Record(_, behind) = next(rest) {
        rest = behind;
    }
    stream.len().saturating_sub(rest.len())
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
            empty: 0,
            closing: false,
            peer_closed: false,
        }
    }

    /// Record by record; the beginning of one is kept.
    fn take(&mut self, mut wire: &[u8]) -> Result<(), LegError> {
        while !self.partial.is_empty() && !self.peer_closed {
            let missing = match next(&self.partial) {
                Next::Incomplete(missing) => missing,
                Next::Record(..) => {
                    let record = std::mem::take(&mut self.partial);
                    self.record(&record)?;
                    break;
                }
                Next::NoRecord => {
                    let none = std::mem::take(&mut self.partial);
                    return self.refuse(&none);
                }
            };
            let Some((more, rest)) = wire.split_at_checked(missing) else {
                self.partial.extend_from_slice(wire);
                return Ok(());
            };
            self.partial.extend_from_slice(more);
            wire = rest;
        }
        while !self.peer_closed {
            match next(wire) {
                // rustls counts rejected early data by what it has at one time.
                Next::Record(..) if self.traffic.is_none() => {
                    let (records, rest) = wire.split_at(whole_records(wire));
                    self.feed(records)?;
                    wire = rest;
                }
                Next::Record(record, rest) => {
                    self.record(record)?;
                    wire = rest;
                }
                Next::Incomplete(missing) => {
                    if !wire.is_empty() {
                        self.partial.reserve_exact(wire.len().saturating_add(missing));
                        self.partial.extend_from_slice(wire);
                    }
                    break;
                }
                Next::NoRecord => return self.refuse(wire),
            }
        }
        Ok(())
    }

    /// What is no record: rustls, given a header's length of it, says what is wrong.
    fn refuse(&mut self, wire: &[u8]) -> Result<(), LegError> {
        self.feed(wire)?;
        self.feed(&[0; HEADER])?;
        Err(LegError::Internal("what is no record was taken for one".to_owned()))
    }

    /// One record: opened here where it is of application data.
    fn record(&mut self, record: &[u8]) -> Result<(), LegError> {
        let Some(traffic) = self.traffic.as_ref() else { return self.feed(record) };
        if record.first() != Some(&APPLICATION_DATA) {
            return self.feed(record);
        }
        let before = self.plain.len();
        if self.shows_data {
            self.feed(record)?;
            self.shows_data &= self.plain.len() == before;
            return Ok(());
        }
        if self.plain.capacity() == 0 {
            self.plain = SPARE.take();
        }
        if !traffic.opening.open(record, &mut self.plain) {
            return self.feed(record);
        }
        if self.plain.len() > before {
            self.empty = 0;
        } else {
            self.empty = self.empty.saturating_add(1);
        }
        if self.empty <= EMPTY_BOUND {
            return Ok(());
        }
        let (fault, alert) = (Fault::Misbehaved, Alert::UNEXPECTED_MESSAGE);
        self.fatal_alert(alert);
        Err(LegError::Refused { fault, alert })
    }

    /// Feeds rustls, which takes 4 KiB at a time, and empties its plaintext buffer after each.
    fn feed(&mut self, mut wire: &[u8]) -> Result<(), LegError> {
        let length = wire.len();
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
        self.take_keys();
        self.shrink(length);
        Ok(())
    }

    /// Those that rustls uses now, once the handshake is over.
    fn take_keys(&mut self) {
        if self.connection.is_handshaking() {
            return;
        }
        let Keys { sealing: Some(sealing), opening: Some(opening) } = self.observed.keys() else {
            return;
        };
        let before = self.traffic.replace(Traffic { sealing, opening });
        if let (Some(before), Some(now)) = (before, &self.traffic)
            && !(Arc::ptr_eq(&before.sealing, &now.sealing)
                && Arc::ptr_eq(&before.opening, &now.opening))
        {
            self.shows_data |= !Arc::ptr_eq(&before.opening, &now.opening);
            // rustls keeps the KeyUpdate that it answers with until it has data to send.
            let _ = observing(&self.observed, || self.connection.writer().write(&[]));
        }
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

    /// Moves what rustls wants to send behind what is to be sent already.
    fn collect(&mut self) {
        // Writing into memory does not fail, and takes at least a byte each time.
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.out) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }

    fn unsent(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    fn all_sent(&mut self) {
        self.sent = 0;
        give_back(&SPARE_OUT, std::mem::take(&mut self.out));
    }

    /// Seals as much as there is room for; fewer bytes only where the keys are used up.
    fn seal(&mut self, plain: &[u8]) -> usize {
        if self.sent > 0 {
            self.out.drain(..self.sent.min(self.out.len()));
            self.sent = 0;
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
    fn renew_key(&mut self) -> bool {
        let renewed = observing(&self.observed, || self.connection.refresh_traffic_keys()).is_ok();
        self.take_keys();
        self.collect();
        renewed
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::super::suites::suites;
    use super::*;

    /// Both ends of one session; neither shows the witness any certificate.
    fn joined(version: &'static rustls::SupportedProtocolVersion) -> [ModernLeg; 2] {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites = suites(&provider);
        let provider = Arc::new(provider);
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let name = ServerName::try_from("a.example").unwrap();
        let client = ClientConnection::new(Arc::new(client), name).unwrap();
        let server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut legs = [client.into(), server.into()]
            .map(|connection: Connection| ModernLeg::new(connection, Arc::default()));
        for _ in 0..8 {
            exchange(&mut legs);
        }
        assert!(legs.iter().all(|leg| leg.traffic.is_some()));
        legs
    }

    fn exchange(legs: &mut [ModernLeg; 2]) {
        for from in [0, 1] {
            let mut wire = vec![];
            legs[from].write_wire(&mut wire);
            let to = &mut legs[1 - from];
            // Each byte by itself, then all that is left at once.
            let (bytes, rest) = wire.split_at(wire.len().min(300));
            bytes.iter().for_each(|byte| to.read_wire(&[*byte]).unwrap());
            to.read_wire(rest).unwrap();
        }
    }

    fn carries_data(legs: &mut [ModernLeg; 2]) {
        for from in [0, 1] {
            let data = vec![b'a' + from as u8; 40_000];
            assert_eq!(legs[from].write_plain(&data), data.len());
            exchange(legs);
            exchange(legs);
            let mut plain = vec![];
            legs[1 - from].read_plain(&mut plain);
            assert_eq!(plain, data);
        }
    }

    #[test]
    fn worn_out_key_gets_a_successor_and_the_peer_changes_its_own() {
        let mut legs = joined(&rustls::version::TLS13);
        carries_data(&mut legs);
        for (from, to) in [(0, 1), (1, 0)] {
            let keys = |leg: &ModernLeg| {
                let traffic = leg.traffic.as_ref().unwrap();
                [Arc::clone(&traffic.sealing), Arc::clone(&traffic.opening)]
            };
            let (before, [_, opening]) = (keys(&legs[from]), keys(&legs[to]));
            before[0].wear_out();
            opening.wear_out();
            carries_data(&mut legs);
            let after = keys(&legs[from]);
            // The peer was asked for a new key of its own, and gave one.
            assert!(before.iter().zip(&after).all(|(before, after)| !Arc::ptr_eq(before, after)));
            carries_data(&mut legs);
        }
    }

    #[test]
    fn keys_may_change_for_ever_where_data_flows_between() {
        let mut legs = joined(&rustls::version::TLS13);
        for _ in 0..40 {
            for from in [0, 1] {
                assert!(legs[from].renew_key());
                exchange(&mut legs);
                exchange(&mut legs);
            }
            carries_data(&mut legs);
        }
    }

    #[test]
    fn peer_that_sends_nothing_but_empty_records_is_refused() {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let mut legs = joined(version);
            let mut empty = |count: usize| {
                let mut wire = vec![];
                for _ in 0..count {
                    let traffic = legs[0].traffic.as_ref().unwrap();
                    traffic.sealing.seal(b"", &mut wire).unwrap();
                }
                legs[1].read_wire(&wire)
            };
            assert_eq!(empty(usize::from(EMPTY_BOUND)), Ok(()));
            let (fault, alert) = (Fault::Misbehaved, Alert::UNEXPECTED_MESSAGE);
            assert_eq!(empty(1), Err(LegError::Refused { fault, alert }));
            let mut wire = vec![];
            legs[1].write_wire(&mut wire);
            assert_eq!(legs[0].read_wire(&wire), Err(LegError::AlertReceived(alert)));
        }
    }

    #[test]
    fn worn_out_key_of_tls_1_2_ends_the_session() {
        let mut legs = joined(&rustls::version::TLS12);
        carries_data(&mut legs);
        let traffic = legs[0].traffic.as_ref().unwrap();
        traffic.sealing.wear_out();
        assert_eq!(legs[0].write_plain(b"more"), 0);
    }
}
