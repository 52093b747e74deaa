//! What the engine and the worker of the legacy TLS stack say to each other (SPEC T13).
//!
//! For: one Unix stream socket a leg, over which the engine opens a leg and gives it the peer's bytes
//! and plaintext, and the worker answers with the same; and the datagrams of the control socket, by
//! which the engine passes a leg's socket and asks whether the worker still turns. Not for: what TLS
//! does with them. Both ends mistrust each other: every length is checked before room is made for it,
//! and a message that is not whole and right is an [`Invalid`].
//!
//! A frame is one byte of type, four of length (big endian), and so many bytes.

mod codec;
mod open;

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

use self::codec::{Reader, Writer, text};
pub use self::open::{BINDING, Open, Role};

/// Longest body of a frame: an `Open` with a chain, or an `Established` with one.
pub const MAX_BODY: usize = 256 << 10;
/// Longest [`ToWorker::Wire`], [`ToWorker::Plain`] and their counterparts: what is longer is sent
/// in several.
pub const MAX_BYTES: usize = 32 << 10;
/// Certificates of a chain, names of a list, suites: past it the frame is invalid.
const MAX_ITEMS: usize = 256;
const HEADER: usize = 5;

/// Legs of a worker at a time, where it may have as many open files: one a leg, in the worker and in the
/// engine. The engine opens no more, nor more than the worker says that it can take.
pub const MAX_LEGS: usize = 16_384;

/// Control socket, engine to worker: with a leg's socket (`SCM_RIGHTS`).
pub const CONTROL_LEG: u8 = b'L';
/// Control socket: the engine asks by it and the worker answers by the same.
pub const CONTROL_PING: u8 = b'P';
/// Control socket, worker to engine: it is locked in and has the library that it must have. How many legs
/// it takes at a time follows, as four bytes, big endian, and what the sandbox refused when it was tried,
/// in words.
pub const CONTROL_READY: u8 = b'R';

/// A message that its reader cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    #[error("a frame of {0} bytes")]
    TooLong(usize),
    #[error("a frame of unknown type {0}")]
    Type(u8),
    #[error("a frame that ends early, or has bytes left over")]
    Length,
    #[error("a value out of its range")]
    Value,
}

/// Engine to worker.
#[derive(Clone, PartialEq, Eq)]
pub enum ToWorker {
    /// First and once.
    Open(Box<Open>),
    /// Bytes of the peer.
    Wire(Vec<u8>),
    /// Plaintext for the peer.
    Plain(Vec<u8>),
    CloseNotify,
    /// This alert, fatal, after the plaintext: the end of the session.
    Alert(u8),
    /// What was agreed with this server is not to be resumed.
    ForgetSession,
}

/// Worker to engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromWorker {
    /// Bytes for the peer.
    Wire(Vec<u8>),
    /// Plaintext of the peer.
    Plain(Vec<u8>),
    Established(Box<Established>),
    /// The server asked for a client certificate, and got an empty one.
    CertificateRequested {
        /// The server's, leaf first, DER, where its key has signed this handshake: told although the
        /// handshake may fail for the request. Else empty.
        chain: Vec<Vec<u8>>,
    },
    /// The peer's close_notify.
    PeerClosed,
    /// The server asked to renegotiate, and was told that there is no renegotiation.
    RenegotiationRequested,
    /// So many bytes of [`ToWorker::Wire`] and [`ToWorker::Plain`] (one for a
    /// [`ToWorker::CloseNotify`] or [`ToWorker::Alert`]) were taken, and all that came of them was said.
    Done {
        wire: u32,
        plain: u32,
    },
    /// The leg ended. Frames before it are good; nothing comes after it.
    Failed(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// Code points; 0 where there is none.
    pub version: u16,
    pub suite: u16,
    pub group: u16,
    pub signature: u16,
    pub alpn: Option<Vec<u8>>,
    pub resumed: bool,
    /// The peer's, leaf first, DER; of a resumed session the one that it began with.
    pub chain: Vec<Vec<u8>>,
    /// The OCSP response that the server stapled.
    pub staple: Option<Vec<u8>>,
}

/// Why a leg ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer sent this alert.
    AlertReceived(u8),
    /// This alert was sent to it.
    AlertSent(u8),
    /// Neither, and nothing the peer did; in words.
    Internal(String),
    /// The peer's bytes are no TLS, which is answered by nothing; in words.
    NotTls(String),
}

impl fmt::Debug for ToWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(open) => f.debug_tuple("Open").field(open).finish(),
            Self::Wire(bytes) => write!(f, "Wire({} bytes)", bytes.len()),
            Self::Plain(bytes) => write!(f, "Plain({} bytes)", bytes.len()),
            Self::CloseNotify => f.write_str("CloseNotify"),
            Self::Alert(alert) => write!(f, "Alert({alert})"),
            Self::ForgetSession => f.write_str("ForgetSession"),
        }
    }
}

/// Appends one frame.
///
/// # Errors
/// [`Invalid::TooLong`], with nothing appended.
fn frame(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Writer<'_>)) -> Result<(), Invalid> {
    let start = out.len();
    out.push(kind);
    out.extend_from_slice(&[0; 4]);
    body(&mut Writer(out));
    let length = out.len().saturating_sub(start).saturating_sub(HEADER);
    let bytes = u32::try_from(length).ok().filter(|_| length <= MAX_BODY);
    match (bytes, out.get_mut(start.saturating_add(1)..start.saturating_add(HEADER))) {
        (Some(bytes), Some(place)) => {
            place.copy_from_slice(&bytes.to_be_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(Invalid::TooLong(length))
        }
    }
}

impl ToWorker {
    /// Appends the message as a frame.
    ///
    /// # Errors
    /// [`Invalid::TooLong`] only.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Invalid> {
        match self {
            Self::Open(open) => frame(out, 1, |writer| open.write(writer)),
            Self::Wire(bytes) => Self::wire(bytes, out),
            Self::Plain(bytes) => Self::plain(bytes, out),
            Self::CloseNotify => frame(out, 4, |_| {}),
            Self::Alert(alert) => frame(out, 5, |writer| writer.raw(&[*alert])),
            Self::ForgetSession => frame(out, 6, |_| {}),
        }
    }

    /// [`Self::Wire`] without a copy of its own.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn wire(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
        frame(out, 2, |writer| writer.raw(bytes))
    }

    /// [`Self::Plain`] without a copy of its own.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn plain(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
        frame(out, 3, |writer| writer.raw(bytes))
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Self, Invalid> {
        let mut reader = Reader(body);
        let message = match kind {
            1 => Self::Open(Box::new(Open::read(&mut reader)?)),
            2 => Self::Wire(reader.rest().to_vec()),
            3 => Self::Plain(reader.rest().to_vec()),
            4 => Self::CloseNotify,
            5 => Self::Alert(reader.u8()?),
            6 => Self::ForgetSession,
            other => return Err(Invalid::Type(other)),
        };
        reader.end()?;
        Ok(message)
    }
}

impl FromWorker {
    /// Appends the message as a frame.
    ///
    /// # Errors
    /// [`Invalid::TooLong`] only.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Invalid> {
        match self {
            Self::Wire(bytes) => frame(out, 1, |writer| writer.raw(bytes)),
            Self::Plain(bytes) => frame(out, 2, |writer| writer.raw(bytes)),
            Self::Established(established) => frame(out, 3, |writer| established.write(writer)),
            Self::CertificateRequested { chain } => frame(out, 4, |writer| {
                writer.list(chain, |writer, certificate| writer.bytes(certificate));
            }),
            Self::PeerClosed => frame(out, 5, |_| {}),
            Self::RenegotiationRequested => frame(out, 8, |_| {}),
            Self::Done { wire, plain } => frame(out, 6, |writer| {
                writer.raw(&wire.to_be_bytes());
                writer.raw(&plain.to_be_bytes());
            }),
            Self::Failed(failure) => frame(out, 7, |writer| match failure {
                Failure::AlertReceived(alert) => writer.raw(&[0, *alert]),
                Failure::AlertSent(alert) => writer.raw(&[1, *alert]),
                Failure::Internal(words) => {
                    writer.raw(&[2]);
                    writer.raw(words.as_bytes());
                }
                Failure::NotTls(words) => {
                    writer.raw(&[3]);
                    writer.raw(words.as_bytes());
                }
            }),
        }
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Self, Invalid> {
        let mut reader = Reader(body);
        let message = match kind {
            1 => Self::Wire(reader.rest().to_vec()),
            2 => Self::Plain(reader.rest().to_vec()),
            3 => Self::Established(Box::new(Established::read(&mut reader)?)),
            4 => Self::CertificateRequested {
                chain: reader.list(|reader| reader.bytes().map(<[u8]>::to_vec))?,
            },
            5 => Self::PeerClosed,
            6 => Self::Done { wire: reader.u32()?, plain: reader.u32()? },
            8 => Self::RenegotiationRequested,
            7 => Self::Failed(match reader.u8()? {
                0 => Failure::AlertReceived(reader.u8()?),
                1 => Failure::AlertSent(reader.u8()?),
                2 => Failure::Internal(text(reader.rest())?),
                3 => Failure::NotTls(text(reader.rest())?),
                _ => return Err(Invalid::Value),
            }),
            other => return Err(Invalid::Type(other)),
        };
        reader.end()?;
        Ok(message)
    }
}

impl Established {
    fn write(&self, writer: &mut Writer<'_>) {
        for code in [self.version, self.suite, self.group, self.signature] {
            writer.u16(code);
        }
        writer.optional(self.alpn.as_deref());
        writer.raw(&[u8::from(self.resumed)]);
        writer.list(&self.chain, |writer, certificate| writer.bytes(certificate));
        writer.optional(self.staple.as_deref());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        Ok(Self {
            version: reader.u16()?,
            suite: reader.u16()?,
            group: reader.u16()?,
            signature: reader.u16()?,
            alpn: reader.optional()?.map(<[u8]>::to_vec),
            resumed: reader.flag()?,
            chain: reader.list(|reader| reader.bytes().map(<[u8]>::to_vec))?,
            staple: reader.optional()?.map(<[u8]>::to_vec),
        })
    }
}

/// Bytes of a stream, cut into frames: at most one frame and what one read brought on top.
#[derive(Default)]
pub struct Frames {
    bytes: Zeroizing<Vec<u8>>,
    taken: usize,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message of the engine; `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`Invalid`]; nothing after it can be read.
    pub fn to_worker(&mut self) -> Result<Option<ToWorker>, Invalid> {
        self.next(ToWorker::decode)
    }

    /// The next message of the worker; `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`Invalid`]; nothing after it can be read.
    pub fn from_worker(&mut self) -> Result<Option<FromWorker>, Invalid> {
        self.next(FromWorker::decode)
    }

    /// An idle leg keeps no buffer.
    pub fn shrink(&mut self) {
        if self.taken == self.bytes.len() {
            *self = Self::default();
        }
    }

    fn next<T>(
        &mut self,
        decode: impl FnOnce(u8, &[u8]) -> Result<T, Invalid>,
    ) -> Result<Option<T>, Invalid> {
        let waiting = self.bytes.get(self.taken..).unwrap_or_default();
        let Some((&[kind, a, b, c, d], rest)) = waiting.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > MAX_BODY {
            return Err(Invalid::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = decode(kind, body)?;
        self.taken = self.taken.saturating_add(HEADER).saturating_add(length);
        Ok(Some(message))
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frames({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests;
