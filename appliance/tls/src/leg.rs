//! One leg of a decrypted session: a TLS endpoint without I/O.
//!
//! For: the trait that both stacks implement, and what
//! both can tell about a session. The *server leg* goes to the server (Weir is the TLS client), the
//! *client leg* to the client (Weir is the TLS server). The server leg is opened first; the client
//! leg only when the server's certificate is known, with the client's bytes held so far as its
//! first input. Not for: sockets, timers, policy.
//! Fails by [`LegError`]; after an error the leg may still have an alert to write
//! ([`TlsLeg::write_wire`]) and takes no more input.

use std::fmt;
use std::io;
use std::task::{Context, Poll};

use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::alert::Alert;
use crate::names::{Group, SignatureScheme, Suite, Version};

/// Plaintext that a leg holds for [`TlsLeg::read_plain`] before [`TlsLeg::wants_read`] turns false.
/// One more [`TlsLeg::read_wire`] call's worth may come on top of it.
pub const PLAIN_BOUND: usize = 64 * 1024;

/// Plaintext, or records made of it, that a leg holds for [`TlsLeg::write_wire`]; past it
/// [`TlsLeg::write_plain`] accepts nothing. Handshake records and alerts are not counted.
pub const WIRE_BOUND: usize = 64 * 1024;

/// A TLS endpoint that is fed with wire bytes and plaintext and gives the other.
///
/// Order of use after every event: `read_wire`, `read_plain`, `write_plain`, `write_wire`.
pub trait TlsLeg: Send {
    /// Processes bytes from the peer: the whole input is consumed, decrypted and kept for
    /// [`Self::read_plain`]. Bytes after the peer's close_notify are ignored (RFC 8446 section
    /// 6.1). Plaintext that came before an error stays readable.
    ///
    /// # Errors
    /// Whatever ends the session; see [`LegError`]. [`LegError::Overfed`] when called while
    /// [`Self::wants_read`] is false.
    fn read_wire(&mut self, wire: &[u8]) -> Result<(), LegError>;

    /// False while more than [`PLAIN_BOUND`] bytes of plaintext wait, after an error, and after
    /// the peer's close_notify.
    fn wants_read(&self) -> bool;

    /// Appends everything that must go to the peer: at most [`WIRE_BOUND`] bytes of records, and
    /// what handshake or alert is due.
    fn write_wire(&mut self, out: &mut Vec<u8>);

    fn wants_write(&self) -> bool;

    /// Gives `to` what [`Self::write_wire`] would append, as much as it takes, without a copy in
    /// between. A leg that cannot gives nothing.
    ///
    /// # Errors
    /// Those of `to`; what it did not take is still to be written.
    fn send_wire(&mut self, _to: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }

    /// Appends all plaintext that was received.
    fn read_plain(&mut self, out: &mut Vec<u8>) -> PlainState;

    /// Takes plaintext for the peer, also while handshaking, and returns how many bytes were
    /// accepted: fewer than given when [`WIRE_BOUND`] is reached, none after
    /// [`Self::close_notify`] or an error.
    fn write_plain(&mut self, plain: &[u8]) -> usize;

    /// Ends our direction: after what was written, close_notify goes out. The other direction
    /// stays open.
    fn close_notify(&mut self);

    /// Ends the session after the handshake: after what was written, this alert goes out, fatal and
    /// encrypted, and nothing after it. Nothing happens while handshaking, after
    /// [`Self::close_notify`] or an error of this leg.
    fn fatal_alert(&mut self, alert: Alert);

    /// The peer ended its direction by close_notify. A TCP FIN without it is a truncation, which
    /// only the owner of the socket can see.
    fn peer_closed(&self) -> bool;

    fn handshaking(&self) -> bool;

    /// `None` while handshaking.
    fn negotiated(&self) -> Option<Negotiated>;

    /// The peer's certificates, leaf first, as sent; known from the moment the server leg's
    /// handshake is done. Of a server that fails it for want of a client certificate, before TLS 1.3:
    /// from the moment its key has signed the handshake, which RSA key exchange does not have it do.
    /// `None` on a client leg.
    fn peer_chain(&self) -> Option<Vec<CertificateDer<'static>>>;

    /// Frees what [`Self::peer_chain`] has told, where the leg keeps it for that only.
    fn forget_peer_chain(&mut self) {}

    /// Server leg: the OCSP response that the server stapled (RFC 6066 section 8), at most
    /// [`crate::verify::STAPLE_BOUND`] bytes; of a session that was resumed the one that it began with.
    /// Told once: it need not be kept.
    fn stapled_response(&self) -> Option<Vec<u8>> {
        None
    }

    /// Server leg: the server sent a CertificateRequest (SPEC T10). It was answered with an empty
    /// certificate.
    fn client_certificate_requested(&self) -> bool;

    /// Server leg, before TLS 1.3: the server asked to renegotiate (a HelloRequest), and was told that there is
    /// no renegotiation.
    fn renegotiation_requested(&self) -> bool {
        false
    }

    /// Ready when a leg whose work is done elsewhere has come further: its owner then asks for all
    /// that it asks for after an input, with an empty [`Self::read_wire`] first, which tells errors.
    /// Never ready on a leg that does its work in the calls themselves.
    fn poll_progress(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Whether the peer's handshake is over only when it has what our last flight is. Otherwise that
    /// flight may go with the first data: our Finished where the peer's came before, or tickets.
    fn peer_awaits_last_flight(&self) -> bool {
        true
    }

    /// Bytes given to [`Self::read_wire`] and to [`Self::write_plain`] (a close_notify counts as
    /// one) of which something may still come.
    fn in_progress(&self) -> InProgress {
        InProgress::default()
    }
}

/// See [`TlsLeg::in_progress`]. All zero on a leg that does its work in the calls themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InProgress {
    pub wire: usize,
    pub plain: usize,
}

/// What [`TlsLeg::read_plain`] says about more plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainState {
    Open,
    /// Everything was read and the peer has sent close_notify.
    Closed,
}

/// What a leg negotiated (SPEC T4). The parts print as IANA names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub version: Version,
    pub suite: Suite,
    pub group: Option<Group>,
    /// Of the server's handshake signature; a resumed session has none.
    pub signature: Option<SignatureScheme>,
    pub alpn: Option<Vec<u8>>,
    pub resumed: bool,
    /// On the legacy stack.
    pub legacy: bool,
}

impl Negotiated {
    /// The application protocol as text; bytes that do not print are escaped.
    pub fn alpn_text(&self) -> Option<String> {
        self.alpn.as_ref().map(|name| name.escape_ascii().to_string())
    }
}

/// Why a leg ended, and who said so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LegError {
    /// The peer ended the session by this alert.
    #[error("the peer sent the alert {0}")]
    AlertReceived(Alert),
    /// We ended the session, and this alert waits in [`TlsLeg::write_wire`].
    #[error("{fault}; answered by the alert {alert}")]
    Refused { fault: Fault, alert: Alert },
    /// The peer's first bytes are no TLS; nobody answers those by an alert.
    #[error("the peer speaks no TLS ({0})")]
    NotTls(String),
    /// [`TlsLeg::read_wire`] was called while [`TlsLeg::wants_read`] was false.
    #[error("more input than the leg may hold")]
    Overfed,
    /// Nothing the peer did: a configuration that cannot work, no random bytes, ....
    #[error("internal: {0}")]
    Internal(String),
}

/// What was wrong with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// Its handshake signature does not verify, or its certificate has no key that could.
    BadSignature,
    /// No version or suite in common.
    Incompatible,
    /// No group or signature scheme in common.
    NoGroupOrSignature,
    /// Bytes that are no TLS message.
    Malformed,
    /// A message out of its order, or contents that break the protocol.
    Misbehaved,
    /// No application protocol in common (RFC 7301).
    NoApplicationProtocol,
    /// A record over 2^14 bytes and what encryption adds.
    OversizedRecord,
    /// A record that does not decrypt.
    Undecryptable,
}

impl LegError {
    /// The nearest alert for the other leg's peer.
    pub fn alert_for_other_side(&self) -> Alert {
        match self {
            Self::AlertReceived(alert) => alert.for_other_side(),
            Self::Refused { fault: Fault::Incompatible | Fault::NoGroupOrSignature, .. } => {
                Alert::HANDSHAKE_FAILURE
            }
            Self::Refused { fault: Fault::NoApplicationProtocol, .. } => {
                Alert::NO_APPLICATION_PROTOCOL
            }
            Self::NotTls(_) => Alert::HANDSHAKE_FAILURE,
            Self::Refused { .. } | Self::Overfed | Self::Internal(_) => Alert::INTERNAL_ERROR,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadSignature => "the handshake's signature does not verify",
            Self::Incompatible => "no version or suite in common",
            Self::NoGroupOrSignature => "no group or signature scheme in common",
            Self::Malformed => "malformed TLS message",
            Self::Misbehaved => "the peer broke the protocol",
            Self::NoApplicationProtocol => "no application protocol in common",
            Self::OversizedRecord => "oversized record",
            Self::Undecryptable => "a record does not decrypt",
        })
    }
}
