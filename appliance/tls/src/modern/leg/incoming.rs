//! What the peer sent, record by record, to rustls or to our own record protection.
//!
//! For: reading records, and keeping what rustls counts of a peer true (see [`ModernLeg::record`]).
//! Not for: what the leg's owner asks of it, nor what goes to the peer ([`super::outgoing`]). Fails
//! by [`LegError`]; the leg remembers it and reads no more.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use rustls::Connection;

use super::fault::explain;
use super::spare::SPARE;
use super::{ModernLeg, Traffic};
use crate::alert::Alert;
use crate::leg::{Fault, LegError, TlsLeg};
use crate::modern::record::{APPLICATION_DATA, HANDSHAKE, HEADER, Next, next};
use crate::modern::witness::{Keys, observing};

/// What rustls makes room for when it has nothing.
const SMALL_RECORD: usize = 4096;

/// Records of application data without a byte of it, in a row; past it the peer only keeps us busy.
/// rustls' own bound.
pub(super) const EMPTY_BOUND: u8 = 32;

/// A source that never has anything.
struct NothingYet;

impl Read for NothingYet {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl ModernLeg {
    /// Record by record; the beginning of one is kept.
    pub(super) fn take(&mut self, mut wire: &[u8]) -> Result<(), LegError> {
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
            return self.feed_other(record);
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
        // RFC 8446 section 5.1; rustls, which does not see this record, would refuse it as well.
        let interleaved = traffic.opening.amid_handshake_message();
        if self.empty <= EMPTY_BOUND && !interleaved {
            return Ok(());
        }
        self.plain.truncate(before);
        let (fault, alert) = (Fault::Misbehaved, Alert::UNEXPECTED_MESSAGE);
        self.fatal_alert(alert);
        Err(LegError::Refused { fault, alert })
    }

    /// A record of no application data, behind the handshake. Of handshake messages in clear view, as before
    /// TLS 1.3, rustls takes none of a server's but the HelloRequest: session tickets come before Finished.
    fn feed_other(&mut self, record: &[u8]) -> Result<(), LegError> {
        self.feed(record)?;
        let of_server = matches!(self.connection, Connection::Client(_));
        self.renegotiation_requested |= of_server && record.first() == Some(&HANDSHAKE);
        Ok(())
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
    pub(super) fn take_keys(&mut self) {
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
            self.answer_due |= !Arc::ptr_eq(&before.sealing, &now.sealing);
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
}

/// Bytes of the whole records that a stream begins with.
fn whole_records(stream: &[u8]) -> usize {
    let mut rest = stream;
    while let Next::Record(_, behind) = next(rest) {
        rest = behind;
    }
    stream.len().saturating_sub(rest.len())
}
