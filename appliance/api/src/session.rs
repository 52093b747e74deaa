//! The record of a session: one typed value that the log, `show sessions` and the counters are made
//! from (SPEC T4, T11).
//!
//! For: what each part is called, wherever a record is shown. Not for: the layout of that. Cannot
//! fail. Foreign text in it is bounded where the record is made.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weir_policy::Outcome;
use weir_policy::outcome::{Blocked, Bypassed};
use weir_policy::snapshot::SegmentId;
use weir_policy::suites::{Protocol, Suite};

/// One session, told when its outcome is known and it ended (decrypted) or was judged (released).
/// Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Unique while the engine runs; counts from 1.
    pub id: u64,
    pub started: u64,
    pub ended: u64,
    /// When it ended by the clock that nobody sets (CLOCK_MONOTONIC, one for all processes), in milliseconds:
    /// sessions are in order by it, also those of an engine and its successor.
    #[serde(default)]
    pub ended_monotonic: u64,
    /// How long it took, by the same clock.
    #[serde(default)]
    pub milliseconds: u64,
    pub segment: SegmentId,
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// As the client sent it; with an encrypted hello the outer one. One that names no host is escaped.
    pub server_name: Option<String>,
    /// The hello has an `encrypted_client_hello` extension (that may be GREASE).
    #[serde(default)]
    pub encrypted_client_hello: bool,
    /// The client offered HTTP/2, which its proxy keeps from being agreed on (SPEC T8).
    #[serde(default)]
    pub http2_downgraded: bool,
    /// Its name in the snapshot of `generation`; sessions share it, and those of their policy.
    pub virtual_segment: Option<Arc<str>>,
    pub names: Option<Arc<PolicyNames>>,
    pub generation: u64,
    pub outcome: Outcome,
    /// The proxy's sessions are logged (SPEC T8).
    #[serde(default)]
    pub logging: bool,
    /// What each side of the session negotiated, where it did (SPEC T4).
    pub client_leg: Option<LegRecord>,
    pub server_leg: Option<LegRecord>,
    /// The server's certificate, where one was seen.
    #[serde(default)]
    pub certificate: Option<CertificateRecord>,
    /// The server certificate's verdict in words, where one was verified.
    pub verdict: Option<String>,
    /// Whether the server's certificate, or one above it, is revoked, where it was looked for (SPEC T12).
    #[serde(default)]
    pub revocation: Option<RevocationRecord>,
    /// The handshake that failed, if one did.
    #[serde(default)]
    pub failure: Option<FailureRecord>,
    /// The server asked to renegotiate, as those do that ask for a client certificate for some of their pages
    /// only; it was told that there is no renegotiation.
    #[serde(default)]
    pub renegotiation_refused: bool,
    /// Who ended it in the middle, if it was not closed in order.
    #[serde(default)]
    pub broken: Option<BreakRecord>,
    /// The device's idle timeout in seconds, where it ended the session, which reset both ends.
    #[serde(default)]
    pub idle: Option<u32>,
    /// `None`: it was released to the bridge, where nobody counts the bytes of one session.
    pub bytes: Option<Carried>,
}

/// Names in the snapshot of a session's generation, of the policy that covers its flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyNames {
    pub profile: String,
    pub policy: String,
    pub proxy: String,
    #[serde(default)]
    pub decryption_policy: Option<String>,
}

/// A session that lives: what is known of it so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSession {
    /// As its record's will be.
    pub id: u64,
    pub started: u64,
    /// Its age.
    pub seconds: u64,
    pub segment: SegmentId,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub server_name: Option<String>,
    pub policy: Option<String>,
    /// `None`: its handshakes are not done.
    pub outcome: Option<Outcome>,
    pub client_leg: Option<LegRecord>,
    pub server_leg: Option<LegRecord>,
    /// Its engine has a successor, and ends with its last session at the latest.
    #[serde(default)]
    pub draining: bool,
}

/// The newest of those that live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSessions {
    pub sessions: Vec<LiveSession>,
    /// All of them.
    pub count: usize,
}

/// Plaintext bytes from client to server, and back; of a session that was relayed as it is, the bytes of TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    pub to_server: u64,
    pub to_client: u64,
}

/// What one side negotiated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegRecord {
    pub version: Protocol,
    /// IANA's code point.
    pub suite: u16,
    pub group: Option<String>,
    /// Of the server's handshake; a resumed session has none.
    pub signature: Option<String>,
    pub alpn: Option<String>,
    pub resumed: bool,
    /// On the legacy stack.
    #[serde(default)]
    pub legacy: bool,
}

impl LegRecord {
    pub fn stack(&self) -> &'static str {
        if self.legacy { "legacy" } else { "modern" }
    }
}

/// The names in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// The last common name of its subject, and of its issuer.
    pub subject: Option<String>,
    pub issuer: Option<String>,
    /// The first of its DNS names.
    pub names: Vec<String>,
    /// How many more there are.
    pub more_names: usize,
}

impl CertificateRecord {
    /// DNS names kept of a certificate.
    pub const NAMES: usize = 8;
    /// Characters kept of a name: the most that a DNS name has (RFC 1035 section 2.3.4).
    pub const NAME_LENGTH: usize = 255;
}

/// What came of the question whether the server's certificate, or one between it and its trust anchor, is
/// revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RevocationRecord {
    Good(RevocationSource),
    Revoked(RevocationSource),
    /// In words, why.
    Unknown(String),
    /// The intermediate with this common name.
    IntermediateRevoked {
        subject: String,
        source: RevocationSource,
    },
    IntermediateUnknown {
        subject: String,
        why: String,
    },
}

/// Who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RevocationSource {
    Staple,
    Ocsp,
    List,
}

impl fmt::Display for RevocationRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(source) => write!(f, "not revoked, by {source}"),
            Self::Revoked(source) => write!(f, "revoked, by {source}"),
            Self::Unknown(why) => write!(f, "unknown: {why}"),
            Self::IntermediateRevoked { subject, source } => {
                write!(f, "intermediate {subject} revoked, by {source}")
            }
            Self::IntermediateUnknown { subject, why } => {
                write!(f, "unknown of intermediate {subject}: {why}")
            }
        }
    }
}

impl fmt::Display for RevocationSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Staple => "what the server staples",
            Self::Ocsp => "OCSP",
            Self::List => "its authority's list",
        })
    }
}

/// A handshake that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// With whom.
    pub with: End,
    pub cause: FailureCause,
    /// In the TLS stack's words.
    pub words: String,
}

/// The end of a relayed session that was no close: an alert, or TCP broke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakRecord {
    pub by: End,
    /// The alert, or TCP's error.
    pub words: String,
}

/// An end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Client,
    Server,
}

impl End {
    /// The one that speaks to this one.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What a handshake failed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FailureCause {
    /// No version or suite in common, as we or the peer found. (A peer's `handshake_failure` is taken for that
    /// one: it says no more.)
    Incompatible,
    /// The server asked for a client certificate (SPEC T10).
    CertificateRequested,
    /// Another alert of the peer.
    Alert,
    /// The peer's handshake signature does not verify.
    Signature,
    /// The peer broke the protocol.
    Protocol,
    /// The peer closed amid the handshake.
    Closed,
    /// TCP broke amid the handshake.
    Reset,
    TimedOut,
    /// Ours.
    Internal,
    /// No group or signature scheme in common.
    GroupOrSignature,
    /// No application protocol in common (RFC 7301), as we or the peer found.
    ApplicationProtocol,
}

impl FailureCause {
    pub const ALL: [Self; 11] = [
        Self::Incompatible,
        Self::CertificateRequested,
        Self::Alert,
        Self::Signature,
        Self::Protocol,
        Self::Closed,
        Self::Reset,
        Self::TimedOut,
        Self::Internal,
        Self::GroupOrSignature,
        Self::ApplicationProtocol,
    ];
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// As a log or a console has it: version, suite, group, signature, ALPN, and whether it was resumed.
impl fmt::Display for LegRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.version, self.suite_name())?;
        for part in [&self.group, &self.signature].into_iter().flatten() {
            write!(f, " {part}")?;
        }
        if let Some(alpn) = &self.alpn {
            // Escaped where it came from bytes.
            let mark = if is_one_word(alpn) { "" } else { "\"" };
            write!(f, ", ALPN {mark}{alpn}{mark}")?;
        }
        if self.resumed {
            f.write_str(", resumed")?;
        }
        Ok(())
    }
}

impl fmt::Display for FailureRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "handshake with the {}: {}", self.with, self.words)
    }
}

impl fmt::Display for BreakRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by the {}: {}", self.by, self.words)
    }
}

/// Its DNS names, and how many were left off.
impl fmt::Display for CertificateRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            f.write_str("none")?;
        }
        for (number, name) in self.names.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { ", " })?;
            if is_one_word(name) {
                f.write_str(name)?;
            } else {
                write!(f, "{name:?}")?;
            }
        }
        if self.more_names > 0 {
            write!(f, " and {} more", self.more_names)?;
        }
        Ok(())
    }
}

/// Whether a word of an end's own can be told among ours as it is: it cannot be taken for more than one
/// word, or for words of ours.
fn is_one_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|one| one.is_alphanumeric() || "-._*/:@".contains(one))
}

impl LegRecord {
    /// IANA's name, or the code point in hex.
    pub fn suite_name(&self) -> String {
        Suite::by_id(self.suite)
            .map_or_else(|| format!("{:#06x}", self.suite), |suite| suite.name.to_owned())
    }
}

impl SessionRecord {
    /// A session of which nothing but its ends is known.
    pub fn new(
        id: u64,
        started: u64,
        segment: SegmentId,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Self {
        Self {
            id,
            started,
            ended: started,
            ended_monotonic: 0,
            milliseconds: 0,
            segment,
            client,
            server,
            server_name: None,
            encrypted_client_hello: false,
            http2_downgraded: false,
            virtual_segment: None,
            names: None,
            generation: 0,
            outcome: Outcome::Bypassed(Bypassed::NoPolicy),
            logging: false,
            client_leg: None,
            server_leg: None,
            certificate: None,
            verdict: None,
            revocation: None,
            failure: None,
            renegotiation_refused: false,
            broken: None,
            idle: None,
            bytes: None,
        }
    }

    /// Whether it belongs in the TLS inspection log: its proxy's logging is on, and it is not one
    /// that a filter blocked, which is in the events (SPEC M3).
    pub fn is_logged(&self) -> bool {
        self.logging && !matches!(self.outcome, Outcome::Blocked(Blocked::Filter(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_an_end_cannot_be_taken_for_several_or_for_words_of_ours() {
        let names = |names: &[&str]| CertificateRecord {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            more_names: 2,
            ..CertificateRecord::default()
        };
        let plain = names(&["*.a.example", "bücher.example"]);
        assert_eq!(plain.to_string(), "*.a.example, bücher.example and 2 more");
        let shrewd = names(&["a.example, b.example", "c\n\u{1b}[2J\"", "", "d and 9 more"]);
        assert_eq!(
            shrewd.to_string(),
            r#""a.example, b.example", "c\n\u{1b}[2J\"", "", "d and 9 more" and 2 more"#
        );
        let leg = |alpn: &str| LegRecord {
            version: Protocol::Tls13,
            suite: 0x1301,
            group: None,
            signature: None,
            alpn: Some(alpn.to_owned()),
            resumed: false,
            legacy: false,
        };
        let suite = "TLS 1.3 TLS_AES_128_GCM_SHA256, ALPN";
        assert_eq!(leg("http/1.1").to_string(), format!("{suite} http/1.1"));
        assert_eq!(leg("h2, resumed").to_string(), format!("{suite} \"h2, resumed\""));
    }
}
