//! The five session outcomes of SPEC T11, each with its typed reason.
//!
//! The same value feeds the log, the counters and the tests; strings are made at the edge, by
//! `Display` (the outcome's words, exactly as SPEC T11 has them) and [`Outcome::reason`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// What became of one session (SPEC T11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    DecryptedAndInspected,
    DecryptedNotInspected(NotInspected),
    NotDecrypted(NotDecrypted),
    Bypassed(Bypassed),
    Blocked(Blocked),
}

/// Why a decrypted session was not inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NotInspected {
    /// No filter applies to the profile's traffic.
    NoFilters,
    /// A traffic management filter trusts the session's traffic (SPEC D6).
    TrustFilter,
    /// The ends agreed on a protocol that there is no decoder for: HTTP/2.
    ServiceNotSupported,
}

/// Which exception of policy kept a session from being decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NotDecrypted {
    DomainException,
    /// The same by the server's certificate, seen now or before (SPEC T5).
    LearntException,
    SourceException,
}

/// Which requirement of TLS inspection a session did not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Bypassed {
    /// An inspection bypass rule covers the flow (SPEC D5).
    InspectionBypassRule,
    /// No virtual segment's policy covers the flow's addresses and port.
    NoPolicy,
    /// The first bytes on a client proxy's port are not TLS.
    NotTls,
    /// The hello is SSLv2-format, or offers no version and suite this device decrypts.
    UnsupportedTls,
    /// All groups, or all signature schemes, that the hello offers are such that this device lacks.
    UnsupportedGroupOrSignature,
    /// A ClientHello that breaks the protocol's grammar.
    MalformedHello,
    /// A ClientHello with a server name that names no host.
    InvalidServerName,
    /// A ClientHello longer than 64 KiB.
    OversizeHello,
    /// The hello stayed incomplete for longer than it may be held.
    IncompleteHello,
    /// The server sent data before the client's first byte was judged.
    ServerSpokeFirst,
    /// The maximum of concurrent sessions, or of held flows, was reached (SPEC D9).
    SessionThreshold,
    /// The kernel refused one of the two sockets, or another flow owns the same tuple.
    TakeoverFailed,
    /// The flow ended (FIN or RST) while it was held.
    EndedWhileHeld,
    /// The hello says that there is an encrypted one inside (SPEC T12).
    EncryptedClientHello,
    /// The server agreed with its client on what this device, or the proxy, does not have.
    NothingShared,
    /// Learnt: the server asks for client certificates (SPEC T10).
    ClientCertificateRequested,
    /// Learnt: the client rejects forged certificates for this server name.
    PinnedClient,
    /// An error of the engine's own, while the flow was held: it went back to the bridge.
    InternalError,
}

/// Why a session was blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Blocked {
    /// A filter dropped it; the rule's `sid`.
    Filter(u32),
    /// A traffic management filter blocks its traffic (SPEC D6).
    TrafficFilter,
    /// The reputation of one of its ends.
    Reputation,
    /// One of its ends is quarantined.
    Quarantine,
    /// Cleartext, or something else than a TLS handshake, to a server proxy (SPEC T9).
    NotTlsOnServerProxy,
    /// The server's certificate fails verification and the client proxy blocks those.
    InvalidCertificate,
    /// The server's certificate has expired and the client proxy blocks those.
    ExpiredCertificate,
    /// The hello says that there is an encrypted one inside (SPEC T12).
    EncryptedClientHello,
    /// The server asked for a client certificate (SPEC T10).
    ClientCertificateRequested,
    /// The server chose what this device, or the proxy, does not have, or said that it speaks no version or no
    /// suite that strong; its client offers more.
    NothingShared,
    /// The server refused all that this device and the proxy have by `handshake_failure`, which says no more; its
    /// client offers more.
    ServerRefused,
    /// The TLS handshake with the server failed.
    ServerHandshakeFailed,
    /// The TLS handshake with the client failed.
    ClientHandshakeFailed,
    /// A request or response head longer than 64 KiB, which cannot be withheld whole.
    HeadTooLarge,
    /// Traffic that breaks the grammar of the service it is said to be.
    ProtocolViolation,
    /// As [`Bypassed`] has them, where policy blocks that way of evasion (SPEC D15).
    MalformedHello,
    InvalidServerName,
    OversizeHello,
    IncompleteHello,
    UnsupportedTls,
    UnsupportedGroupOrSignature,
    ServerSpokeFirst,
    /// It could not be taken over, as [`Bypassed::TakeoverFailed`], where policy blocks that.
    TakeoverFailed,
    /// The kernel failed amid the takeover: neither end's connection could be kept, both are reset.
    LostInTakeover,
    /// The maximum of concurrent sessions was reached and the device blocks past it (SPEC D9).
    SessionThreshold,
    /// An operator cleared the proxied sessions (SPEC D10).
    ClearedByCommand,
    /// An error of the engine's own: both ends are reset.
    InternalError,
}

impl Outcome {
    /// The reason in the log's words, or `None` for the outcome that needs none.
    pub fn reason(&self) -> Option<String> {
        let reason: &dyn fmt::Display = match self {
            Self::DecryptedAndInspected => return None,
            Self::DecryptedNotInspected(reason) => reason,
            Self::NotDecrypted(reason) => reason,
            Self::Bypassed(reason) => reason,
            Self::Blocked(reason) => reason,
        };
        Some(reason.to_string())
    }
}

const UNSUPPORTED: &str = "TLS version or suites not supported";
const UNSUPPORTED_GROUP_OR_SIGNATURE: &str = "TLS groups or signatures not supported";
const INVALID_SERVER_NAME: &str = "server name that names no host";
const NOTHING_SHARED: &str = "server and client share no suite with Weir";

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DecryptedAndInspected => "decrypted and inspected",
            Self::DecryptedNotInspected(_) => "decrypted but not inspected",
            Self::NotDecrypted(_) => "not decrypted",
            Self::Bypassed(_) => "bypassed",
            Self::Blocked(_) => "blocked",
        })
    }
}

impl fmt::Display for NotInspected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFilters => "no filters apply",
            Self::TrustFilter => "trust filter",
            Self::ServiceNotSupported => "service not supported",
        })
    }
}

impl fmt::Display for NotDecrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DomainException => "domain exception",
            Self::LearntException => "learnt that the domain needs no inspection",
            Self::SourceException => "source exception",
        })
    }
}

impl fmt::Display for Bypassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InspectionBypassRule => "inspection bypass rule",
            Self::NoPolicy => "no policy covers the flow",
            Self::NotTls => "not TLS",
            Self::UnsupportedTls => UNSUPPORTED,
            Self::UnsupportedGroupOrSignature => UNSUPPORTED_GROUP_OR_SIGNATURE,
            Self::MalformedHello => "malformed ClientHello",
            Self::InvalidServerName => INVALID_SERVER_NAME,
            Self::OversizeHello => "ClientHello over 64 KiB",
            Self::IncompleteHello => "incomplete ClientHello",
            Self::ServerSpokeFirst => "server spoke first",
            Self::SessionThreshold => "maximum of concurrent sessions",
            Self::TakeoverFailed => "takeover failed",
            Self::EndedWhileHeld => "ended while held",
            Self::EncryptedClientHello => "encrypted ClientHello",
            Self::NothingShared => NOTHING_SHARED,
            Self::ClientCertificateRequested => "learnt that the server asks for certificates",
            Self::PinnedClient => "learnt that the client rejects forged certificates",
            Self::InternalError => "internal error",
        })
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(sid) => write!(f, "filter {sid}"),
            Self::TrafficFilter => f.write_str("traffic management filter"),
            Self::Reputation => f.write_str("reputation"),
            Self::Quarantine => f.write_str("quarantine"),
            Self::NotTlsOnServerProxy => f.write_str("not TLS on a server proxy"),
            Self::InvalidCertificate => f.write_str("invalid server certificate"),
            Self::ExpiredCertificate => f.write_str("expired server certificate"),
            Self::EncryptedClientHello => f.write_str("encrypted ClientHello"),
            Self::ClientCertificateRequested => {
                f.write_str("server asked for a client certificate")
            }
            Self::NothingShared => f.write_str(NOTHING_SHARED),
            Self::ServerRefused => {
                f.write_str("server refused Weir's hello with handshake_failure")
            }
            Self::ServerHandshakeFailed => f.write_str("TLS handshake with the server failed"),
            Self::ClientHandshakeFailed => f.write_str("TLS handshake with the client failed"),
            Self::HeadTooLarge => f.write_str("message head over 64 KiB"),
            Self::ProtocolViolation => f.write_str("protocol violation"),
            Self::MalformedHello => f.write_str("malformed ClientHello"),
            Self::InvalidServerName => f.write_str(INVALID_SERVER_NAME),
            Self::OversizeHello => f.write_str("ClientHello over 64 KiB"),
            Self::IncompleteHello => f.write_str("incomplete ClientHello"),
            Self::UnsupportedTls => f.write_str(UNSUPPORTED),
            Self::UnsupportedGroupOrSignature => f.write_str(UNSUPPORTED_GROUP_OR_SIGNATURE),
            Self::ServerSpokeFirst => f.write_str("server spoke first"),
            Self::TakeoverFailed => f.write_str("takeover failed"),
            Self::LostInTakeover => f.write_str("lost in takeover"),
            Self::SessionThreshold => f.write_str("maximum of concurrent sessions"),
            Self::ClearedByCommand => f.write_str("cleared by command"),
            Self::InternalError => f.write_str("internal error"),
        }
    }
}
