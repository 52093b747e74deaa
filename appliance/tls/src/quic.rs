//! The ClientHello in the first datagrams of a QUIC connection.
//!
//! For: the name that a client asks for by QUIC, so that what policy does not decrypt may go by QUIC too
//! (SPEC D14). Initial packets are protected by keys that anybody can derive from them (RFC 9001 section
//! 5.2): their names are as readable as those in TCP, and as little proven. Not for: QUIC itself; nothing
//! behind the hello is read, and nothing is answered.
//! Fails by the variants of [`FirstPackets`]; no input makes it panic, and what it keeps of an input is
//! bounded by [`MAX_HELLO`].
//!
//! RFC 9000 sections 12.4, 16, 17.2 and 19.6; RFC 9001 section 5; RFC 9369 (version 2).

use std::mem::discriminant;
use std::num::NonZeroUsize;

use rustls::Side;
use rustls::quic::{DirectionalKeys, Suite, Version};

use crate::hello::{ClientHello, HelloError};

/// Longest hello that is put together: more comes in no four datagrams.
const MAX_HELLO: usize = 8192;
/// Pieces of CRYPTO frames that are put together: some clients scatter their hello over a dozen.
const MAX_PIECES: usize = 256;
/// Packets of one datagram that are looked at; one that has more is malformed.
const MAX_PACKETS: usize = 8;
/// RFC 9000 section 17.2: longer ones are of no version known here.
const MAX_CONNECTION_ID: usize = 20;
/// The bit behind it says nothing: servers may take packets without it (RFC 9287).
const LONG_HEADER: u8 = 0x80;

/// What a client's first datagrams are, all together.
#[derive(Debug, PartialEq, Eq)]
pub enum FirstPackets {
    Hello(Box<ClientHello>),
    /// Of a hello, but not all of it: ask again with the next datagram.
    Incomplete,
    /// Nothing but what a client says right behind its hello (0-RTT), which came first.
    Early,
    /// Nothing of them is an Initial packet that can be opened by keys of its own connection ID: of a
    /// connection that its server knows, or of none.
    NotInitial,
    /// Initial packets of more than one connection.
    Several,
    /// What they carry is no hello, or a packet with a long header cannot be read: who knows its version may
    /// find anything in it and behind it.
    Malformed(Option<HelloError>),
}

/// Says what `datagrams` are on the addresses and ports of a connection that these others began, whose hello is
/// known; `None`: of that connection they are, and say nothing else in its hello's place or behind it.
pub fn packets_after(begun: &[&[u8]], datagrams: &[&[u8]]) -> Option<FirstPackets> {
    match first_packets(begun.iter().chain(datagrams).copied()) {
        FirstPackets::Hello(_) => None,
        FirstPackets::Several => Some(first_packets(datagrams.iter().copied())),
        other => Some(other),
    }
}

/// Says what `datagrams`, everything that a client has sent so far on one pair of ports, are.
pub fn first_packets<'a>(datagrams: impl IntoIterator<Item = &'a [u8]>) -> FirstPackets {
    let mut stream = CryptoStream::default();
    let mut connection = None;
    let mut early = false;
    for datagram in datagrams {
        let mut rest = datagram;
        for number in 0.. {
            if rest.first().is_none_or(|first| first & LONG_HEADER == 0) {
                break;
            }
            let Some(packet) = Packet::read(rest).filter(|_| number < MAX_PACKETS) else {
                return FirstPackets::Malformed(None);
            };
            rest = packet.after;
            early |= packet.early;
            let Some(initial) = packet.initial else { continue };
            let Some(payload) = initial.open() else { continue };
            // Packets of another one are another hello's, whatever they say of its bytes.
            let own = (discriminant(&initial.version), initial.destination);
            if *connection.get_or_insert(own) != own {
                return FirstPackets::Several;
            }
            if stream.take_frames(&payload).is_none() {
                return FirstPackets::Malformed(None);
            }
        }
    }
    match stream.hello() {
        _ if connection.is_none() && early => FirstPackets::Early,
        _ if connection.is_none() => FirstPackets::NotInitial,
        None => FirstPackets::Incomplete,
        Some(Ok(hello)) => FirstPackets::Hello(Box::new(hello)),
        Some(Err(error)) => FirstPackets::Malformed(Some(error)),
    }
}

/// A packet with a long header, which says its length (RFC 9000 section 17.2).
struct Packet<'a> {
    /// Of the versions known here.
    initial: Option<Initial<'a>>,
    /// 0-RTT.
    early: bool,
    /// What the datagram has behind it.
    after: &'a [u8],
}

struct Initial<'a> {
    version: Version,
    /// The client's choice where it is the connection's first: the keys are derived from it.
    destination: &'a [u8],
    /// The whole packet.
    bytes: &'a [u8],
    /// Where the protected packet number begins.
    number_at: usize,
}

impl<'a> Packet<'a> {
    /// `None`: no such packet of a client, or of a version that is not known here.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let first = reader.byte()?;
        if first & LONG_HEADER == 0 {
            return None;
        }
        let kind = first >> 4 & 3;
        let (version, [initial, early, retry]) = match reader.take(4)? {
            [0, 0, 0, 1] => (Version::V1, [0, 1, 3]),
            [0x6b, 0x33, 0x43, 0xcf] => (Version::V2, [1, 2, 0]),
            _ => return None,
        };
        let destination = reader.connection_id()?;
        reader.connection_id()?;
        if kind == retry {
            return None;
        }
        if kind == initial {
            let token = reader.variable()?;
            reader.take(token)?;
        }
        let length = reader.variable()?;
        let number_at = bytes.len().checked_sub(reader.0.len())?;
        reader.take(length)?;
        let whole = bytes.get(..number_at.checked_add(length)?)?;
        let initial =
            (kind == initial).then_some(Initial { version, destination, bytes: whole, number_at });
        Some(Self { initial, early: kind == early, after: reader.0 })
    }
}

impl Initial<'_> {
    /// Its frames; `None` where it does not open.
    fn open(&self) -> Option<Vec<u8>> {
        const LONGEST_NUMBER: usize = 4;
        let keys = keys(self.version, self.destination)?;
        let mut bytes = self.bytes.to_vec();
        // RFC 9001 section 5.4.2: the sample stands where it would behind a number of four bytes.
        let sample_at = self.number_at.checked_add(LONGEST_NUMBER)?;
        let sample = self.bytes.get(sample_at..)?.get(..keys.header.sample_len())?;
        let (first, rest) = bytes.split_first_mut()?;
        let number = rest.get_mut(self.number_at.checked_sub(1)?..)?.get_mut(..LONGEST_NUMBER)?;
        keys.header.decrypt_in_place(sample, first, number).ok()?;
        let length = usize::from(*first & 3) + 1;
        let number = number.get(..length)?;
        let number = number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let (header, payload) = bytes.split_at_mut_checked(self.number_at.checked_add(length)?)?;
        Some(keys.packet.decrypt_in_place(number, header, payload).ok()?.to_vec())
    }
}

/// Those of the client.
fn keys(version: Version, destination: &[u8]) -> Option<DirectionalKeys> {
    let suite: Suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .and_then(|suite| suite.quic_suite())?;
    Some(suite.keys(destination, Side::Server, version).remote)
}

/// What CRYPTO frames carry (RFC 9000 section 19.6), in any order.
#[derive(Default)]
struct CryptoStream {
    bytes: Vec<u8>,
    /// Which of `bytes` have come, by start and length, in order; they may overlap.
    have: Vec<(usize, NonZeroUsize)>,
}

impl CryptoStream {
    /// `None` where these are no frames of an Initial packet, or carry too much.
    fn take_frames(&mut self, payload: &[u8]) -> Option<()> {
        const PADDING: u8 = 0;
        const PING: u8 = 1;
        const ACK: u8 = 2;
        const ACK_WITH_MARKS: u8 = 3;
        const CRYPTO: u8 = 6;
        let mut reader = Reader(payload);
        while let Some(kind) = reader.byte() {
            match kind {
                PADDING | PING => {}
                ACK | ACK_WITH_MARKS => {
                    reader.variable()?;
                    reader.variable()?;
                    let ranges = reader.variable()?;
                    reader.variable()?;
                    for _ in 0..ranges {
                        reader.variable()?;
                        reader.variable()?;
                    }
                    if kind == ACK_WITH_MARKS {
                        for _ in 0..3 {
                            reader.variable()?;
                        }
                    }
                }
                CRYPTO => {
                    let at = reader.variable()?;
                    let length = reader.variable()?;
                    self.put(at, reader.take(length)?)?;
                }
                // A client that closes has no hello to judge.
                _ => return None,
            }
        }
        Some(())
    }

    /// The same bytes may come again; others in their place are no stream.
    fn put(&mut self, at: usize, piece: &[u8]) -> Option<()> {
        let end = at.checked_add(piece.len()).filter(|end| *end <= MAX_HELLO)?;
        let Some(length) = NonZeroUsize::new(piece.len()) else { return Some(()) };
        for (start, length) in &self.have {
            let (from, to) = (at.max(*start), end.min(start.checked_add(length.get())?));
            if from < to && self.bytes.get(from..to)? != piece.get(from - at..to - at)? {
                return None;
            }
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(at..end)?.copy_from_slice(piece);
        if self.have.iter().any(|(start, length)| *start <= at && end <= start + length.get()) {
            return Some(());
        }
        if self.have.len() >= MAX_PIECES {
            return None;
        }
        self.have.push((at, length));
        self.have.sort_unstable();
        Some(())
    }

    /// How many bytes there are without a gap.
    fn contiguous(&self) -> usize {
        let mut end = 0;
        for (start, length) in &self.have {
            if *start > end {
                break;
            }
            end = end.max(start.saturating_add(length.get()));
        }
        end
    }

    /// `None`: more is needed.
    fn hello(&self) -> Option<Result<ClientHello, HelloError>> {
        const HEADER: usize = 4;
        const CLIENT_HELLO: u8 = 1;
        let bytes = self.bytes.get(..self.contiguous())?;
        let [kind, high, middle, low] = *bytes.first_chunk::<HEADER>()?;
        if kind != CLIENT_HELLO {
            return Some(Err(HelloError::NotClientHello));
        }
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let end = HEADER.checked_add(length)?;
        if bytes.len() > end {
            return Some(Err(HelloError::TrailingHandshake));
        }
        Some(ClientHello::parse(bytes.get(HEADER..end)?, end))
    }
}

/// From the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn connection_id(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.byte()?);
        if length > MAX_CONNECTION_ID { None } else { self.take(length) }
    }

    /// A variable-length integer (RFC 9000 section 16).
    fn variable(&mut self) -> Option<usize> {
        let first = self.byte()?;
        let more = self.take((1 << (first >> 6)) - 1)?;
        let start = usize::from(first & 0x3f);
        Some(more.iter().fold(start, |value, byte| value << 8 | usize::from(*byte)))
    }
}

#[cfg(test)]
mod tests;
