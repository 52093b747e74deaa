//! The order in which a flow is judged (SPEC D5, T9, P5, P7, P8), in one function.
//!
//! The data plane holds a candidate flow's first payload; the engine parses it and asks [`judge`].
//! What eBPF decides before that is compiled from the same snapshot.

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::outcome::{Blocked, Bypassed, NotDecrypted, Outcome};
use crate::precedence::{
    BlockedBy, BothWays, PacketFacts, Passage, Rules, TCP, evaluate_both_ways,
};
use crate::snapshot::{
    ClientPolicy, ClientProxy, DecidedBy, EvasionAction, OnEncryptedClientHello, PortRange,
    Profile, SegmentId, ServerPolicy, ServerProxy, Side, Snapshot,
};

/// A held flow, as far as policy looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub segment: SegmentId,
    /// The side the client's SYN came in by.
    pub from: Side,
    pub vlan: Option<u16>,
    pub client: SocketAddr,
    pub server: SocketAddr,
}

/// Whether a hello offers what can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Full,
    /// No version and suite that we decrypt.
    NoSuite,
    /// These, but no group, or no signature scheme.
    NoGroupOrSignature,
}

/// What the client's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes<'a> {
    /// A whole ClientHello. `server_name` as sent; `encrypted`: it says that there is another one inside.
    ClientHello {
        server_name: Option<&'a str>,
        support: Support,
        encrypted: bool,
    },
    /// A whole one, whose server name names no host: nothing is decided by it.
    InvalidServerName,
    /// SSLv2-format hello: recognised, never decrypted.
    Sslv2Hello,
    NotTls,
    Malformed,
    Oversize,
    /// Still incomplete when the hold's time was up, or the client closed.
    Incomplete,
    /// None that count: the server sent data before.
    ServerSpokeFirst,
    /// Incomplete, and one of the ends said that it ends.
    Ended,
}

/// What to do with a held flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Back to the bridge, unharmed.
    Release(Outcome),
    TakeOver(Inspection),
    Block {
        outcome: Outcome,
        resets: Resets,
    },
}

/// Which ends of a blocked session get a TCP reset (SPEC T8, T9); the other hears nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resets {
    pub client: bool,
    pub server: bool,
}

impl Resets {
    pub const BOTH: Self = Self { client: true, server: true };
    pub const NONE: Self = Self { client: false, server: false };
}

impl ClientProxy {
    /// As its option says; servers are others', and are not left waiting.
    pub fn resets_on_block(&self) -> Resets {
        Resets { client: self.reset_client_on_block, server: true }
    }
}

impl ServerProxy {
    /// As its option says; clients are others', and are not left waiting.
    pub fn resets_on_block(&self) -> Resets {
        Resets { client: true, server: self.reset_server_on_block }
    }
}

/// Which policy decrypts a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Index into [`Snapshot::virtual_segments`].
    pub virtual_segment: usize,
    /// Index into [`Snapshot::profiles`].
    pub profile: usize,
    pub policy: PolicyKind,
    /// A traffic management filter trusts it: decrypted, but not inspected (SPEC D6).
    pub trusted: bool,
    pub answers: Answers,
}

/// How the server's packets of a decrypted session are inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Index into [`Snapshot::profiles`]: that of the virtual segment of the server's packets (SPEC
    /// D3). Where they belong to none, the client's, so that they are not left out.
    pub profile: usize,
    /// A traffic management filter trusts them, or an inspection bypass rule lets them pass: they are
    /// not inspected, though what the client sends may be.
    pub trusted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// Index into the profile's `server_policies`.
    Server(usize),
    /// Index into the profile's `client_policies`.
    Client(usize),
}

/// Judges a candidate flow by its first bytes. The order, first match wins:
///
/// 1. what precedes TLS inspection ([`evaluate`]): inspection bypass rules, traffic management
///    filters, reputation, as they are for the client's packets; what stops the server's packets
///    stops the flow, too;
/// 2. virtual segment of the client's SYN; none: bypassed;
/// 3. server policy (it wins over a client policy, SPEC P8), else client policy, by addresses and
///    detection port; none: bypassed;
/// 4. source exceptions;
/// 5. what is not a TLS handshake, or a malformed, oversize or incomplete one: blocked on a server
///    proxy (SPEC T9: what its servers might still accept must not pass it by), as is a server that
///    speaks first; on a client proxy bypassed, or blocked where that might be evasion and policy
///    says so (SPEC D15); so is a hello with a server name that names no host, which is blocked on a server
///    proxy, too;
/// 6. domains not to decrypt (client policy), by the client's word where it gave one and that is
///    trusted (SPEC T5); else the engine asks the server's certificate;
/// 7. an encrypted hello (client policy), as the proxy says;
/// 8. no version and suite that we decrypt: bypassed, or blocked where policy says so (SPEC D15);
/// 9. take over.
pub fn judge(rules: &impl Rules, candidate: &Candidate, first: &FirstBytes<'_>) -> Decision {
    judge_classified(rules.snapshot(), candidate, &candidate.classify(rules), first)
}

/// As [`judge`], where 1. is known already.
pub fn judge_classified(
    snapshot: &Snapshot,
    candidate: &Candidate,
    classified: &BothWays,
    first: &FirstBytes<'_>,
) -> Decision {
    let BothWays { client: packets, server: answers } = classified;
    if let Passage::Bypassed(_) = packets.passage {
        return bypass(Bypassed::InspectionBypassRule);
    }
    if let Some(blocked) = stopped(packets.passage).or_else(|| stopped(answers.passage)) {
        // In silence, as the data plane drops a packet of such a flow.
        return Decision::Block { outcome: Outcome::Blocked(blocked), resets: Resets::NONE };
    }
    let Some((virtual_segment, profile, policy)) =
        packets.virtual_segment.and_then(|index| owner(snapshot, index, candidate))
    else {
        return bypass(Bypassed::NoPolicy);
    };
    if policy.source_exceptions().iter().any(|network| network.contains(&candidate.client.ip())) {
        return Decision::Release(Outcome::NotDecrypted(NotDecrypted::SourceException));
    }
    let resets = policy.resets_on_block(snapshot);
    let ways = &snapshot.device.evasion;
    let evasion = |action, bypassed, blocked| match action {
        EvasionAction::Bypass => bypass(bypassed),
        EvasionAction::Block => Decision::Block { outcome: Outcome::Blocked(blocked), resets },
    };
    let (server_name, support, encrypted) = match (*first, policy) {
        (FirstBytes::ClientHello { server_name, support, encrypted }, _) => {
            (server_name, support, encrypted)
        }
        // An SSLv2-format hello is none of TLS's own; servers that take it go on in TLS, unseen.
        (
            FirstBytes::NotTls
            | FirstBytes::Sslv2Hello
            | FirstBytes::Malformed
            | FirstBytes::Oversize,
            Owner::Server(..),
        ) => {
            let outcome = Outcome::Blocked(Blocked::NotTlsOnServerProxy);
            return Decision::Block { outcome, resets };
        }
        // Nor is one that ends before it is whole: a server may take it for something else.
        (FirstBytes::Incomplete | FirstBytes::Ended, Owner::Server(..)) => {
            return Decision::Block { outcome: Outcome::Blocked(Blocked::IncompleteHello), resets };
        }
        (FirstBytes::InvalidServerName, Owner::Server(..)) => {
            let outcome = Outcome::Blocked(Blocked::InvalidServerName);
            return Decision::Block { outcome, resets };
        }
        (FirstBytes::InvalidServerName, Owner::Client(..)) => {
            let blocked = Blocked::InvalidServerName;
            return evasion(ways.invalid_server_name, Bypassed::InvalidServerName, blocked);
        }
        (FirstBytes::ServerSpokeFirst, Owner::Server(..)) => {
            return Decision::Block {
                outcome: Outcome::Blocked(Blocked::ServerSpokeFirst),
                resets,
            };
        }
        (FirstBytes::NotTls, Owner::Client(..)) => return bypass(Bypassed::NotTls),
        (FirstBytes::Sslv2Hello, Owner::Client(..)) => {
            return unsupported(snapshot, Support::NoSuite, resets);
        }
        (FirstBytes::Malformed, _) => {
            let blocked = Blocked::MalformedHello;
            return evasion(ways.malformed_hello, Bypassed::MalformedHello, blocked);
        }
        (FirstBytes::Oversize, _) => {
            return evasion(ways.oversize_hello, Bypassed::OversizeHello, Blocked::OversizeHello);
        }
        (FirstBytes::Incomplete, _) => {
            let blocked = Blocked::IncompleteHello;
            return evasion(ways.incomplete_hello, Bypassed::IncompleteHello, blocked);
        }
        // An end that is none (a decoy to provoke a bypass) leaves the rest unjudged.
        (FirstBytes::Ended, _) => {
            let blocked = Blocked::IncompleteHello;
            return evasion(ways.incomplete_hello, Bypassed::EndedWhileHeld, blocked);
        }
        (FirstBytes::ServerSpokeFirst, _) => {
            let blocked = Blocked::ServerSpokeFirst;
            return evasion(ways.server_speaks_first, Bypassed::ServerSpokeFirst, blocked);
        }
    };
    if let (Owner::Client(_, client), Some(name)) = (policy, server_name)
        && let Some(index) = client.decryption_policy
        && let Some(decryption) = snapshot.decryption_policies.get(index)
        && decryption.decided_by == DecidedBy::ServerName
        && decryption.excepts(name)
    {
        return Decision::Release(Outcome::NotDecrypted(NotDecrypted::DomainException));
    }
    if let (Owner::Client(_, client), true) = (policy, encrypted)
        && let Some(proxy) = snapshot.client_proxies.get(client.client_proxy)
    {
        match proxy.on_encrypted_client_hello {
            OnEncryptedClientHello::Decrypt => {}
            OnEncryptedClientHello::Bypass => return bypass(Bypassed::EncryptedClientHello),
            OnEncryptedClientHello::Block => {
                return Decision::Block {
                    outcome: Outcome::Blocked(Blocked::EncryptedClientHello),
                    resets,
                };
            }
        }
    }
    if support != Support::Full {
        return unsupported(snapshot, support, resets);
    }
    let trusted = packets.passage == Passage::Trusted;
    let of_answers = answers.virtual_segment.and_then(|index| snapshot.virtual_segments.get(index));
    let answers = Answers {
        profile: of_answers.map_or(profile, |segment| segment.profile),
        trusted: matches!(answers.passage, Passage::Trusted | Passage::Bypassed(_)),
    };
    let policy = policy.kind();
    Decision::TakeOver(Inspection { virtual_segment, profile, policy, trusted, answers })
}

/// Why a flow with such packets cannot be.
fn stopped(passage: Passage) -> Option<Blocked> {
    match passage {
        Passage::Bypassed(_) | Passage::Trusted | Passage::Inspected => None,
        Passage::Blocked(BlockedBy::TrafficFilter | BlockedBy::Quic) => {
            Some(Blocked::TrafficFilter)
        }
        Passage::Blocked(BlockedBy::Reputation) => Some(Blocked::Reputation),
        Passage::Blocked(BlockedBy::Quarantine) => Some(Blocked::Quarantine),
    }
}

/// The profile of a flow's virtual segment, and which of its policies covers the flow's addresses and port, if
/// one does, whatever precedes it.
pub fn covering_policy(
    snapshot: &Snapshot,
    candidate: &Candidate,
    classified: &BothWays,
) -> Option<(usize, PolicyKind)> {
    let (_, profile, policy) = owner(snapshot, classified.client.virtual_segment?, candidate)?;
    Some((profile, policy.kind()))
}

/// A hello that says nothing we could answer, on a flow whose ends are reset so where it is blocked.
pub fn unsupported(snapshot: &Snapshot, support: Support, resets: Resets) -> Decision {
    let (bypassed, blocked) = match support {
        Support::NoGroupOrSignature => {
            (Bypassed::UnsupportedGroupOrSignature, Blocked::UnsupportedGroupOrSignature)
        }
        Support::Full | Support::NoSuite => (Bypassed::UnsupportedTls, Blocked::UnsupportedTls),
    };
    match snapshot.device.evasion.unsupported_tls {
        EvasionAction::Bypass => bypass(bypassed),
        EvasionAction::Block => Decision::Block { outcome: Outcome::Blocked(blocked), resets },
    }
}

fn bypass(reason: Bypassed) -> Decision {
    Decision::Release(Outcome::Bypassed(reason))
}

/// The policy that owns a flow, with its place in the profile.
#[derive(Clone, Copy)]
pub(crate) enum Owner<'a> {
    Server(usize, &'a ServerPolicy),
    Client(usize, &'a ClientPolicy),
}

impl<'a> Owner<'a> {
    fn source_exceptions(self) -> &'a [IpNet] {
        match self {
            Self::Server(_, policy) => &policy.source_exceptions,
            Self::Client(_, policy) => &policy.source_exceptions,
        }
    }

    fn resets_on_block(self, snapshot: &Snapshot) -> Resets {
        let resets = match self {
            Self::Server(_, policy) => {
                snapshot.server_proxies.get(policy.server_proxy).map(ServerProxy::resets_on_block)
            }
            Self::Client(_, policy) => {
                snapshot.client_proxies.get(policy.client_proxy).map(ClientProxy::resets_on_block)
            }
        };
        resets.unwrap_or(Resets::BOTH)
    }

    fn kind(self) -> PolicyKind {
        match self {
            Self::Server(index, _) => PolicyKind::Server(index),
            Self::Client(index, _) => PolicyKind::Client(index),
        }
    }
}

/// The profile, and its server or client policy, of a flow of this virtual segment.
fn owner<'a>(
    snapshot: &'a Snapshot,
    virtual_segment: usize,
    candidate: &Candidate,
) -> Option<(usize, usize, Owner<'a>)> {
    let profile = snapshot.virtual_segments.get(virtual_segment)?.profile;
    let policy = covering(snapshot, snapshot.profiles.get(profile)?, candidate.server)?;
    Some((virtual_segment, profile, policy))
}

/// The policy of a profile that covers a server's address and port: a server policy before a client
/// policy (SPEC P8).
pub(crate) fn covering<'a>(
    snapshot: &Snapshot,
    profile: &'a Profile,
    server: SocketAddr,
) -> Option<Owner<'a>> {
    let on_port = |ports: &[PortRange]| ports.iter().any(|range| range.contains(server.port()));
    let serves = || {
        profile.server_policies.iter().enumerate().find(|(_, policy)| {
            snapshot.server_proxies.get(policy.server_proxy).is_some_and(|proxy| {
                on_port(&proxy.detection_ports)
                    && proxy.destinations.iter().any(|net| net.contains(&server.ip()))
            })
        })
    };
    let detects = || {
        profile.client_policies.iter().enumerate().find(|(_, policy)| {
            snapshot
                .client_proxies
                .get(policy.client_proxy)
                .is_some_and(|proxy| on_port(&proxy.detection_ports))
        })
    };
    if let Some((index, policy)) = snapshot.device.server_inspection.then(serves).flatten() {
        return Some(Owner::Server(index, policy));
    }
    let client = snapshot.device.client_inspection.then(detects).flatten();
    client.map(|(index, policy)| Owner::Client(index, policy))
}

impl Candidate {
    /// What precedes TLS inspection, of its packets.
    pub fn classify(&self, rules: &impl Rules) -> BothWays {
        evaluate_both_ways(rules, &self.facts(), &self.answer_facts())
    }

    /// Of the packets of its client.
    pub fn facts(&self) -> PacketFacts {
        let (client, server) = (self.client.ip().to_canonical(), self.server.ip().to_canonical());
        PacketFacts {
            segment: self.segment,
            from: self.from,
            ether_type: if server.is_ipv4() { 0x0800 } else { 0x86dd },
            vlan: self.vlan,
            protocol: TCP,
            addresses: Some((client, server)),
            source_port: self.client.port(),
            destination_port: self.server.port(),
            icmp_type: None,
        }
    }

    /// Of the packets of its server.
    pub fn answer_facts(&self) -> PacketFacts {
        let facts = self.facts();
        PacketFacts {
            from: if self.from == Side::A { Side::B } else { Side::A },
            addresses: facts.addresses.map(|(client, server)| (server, client)),
            source_port: facts.destination_port,
            destination_port: facts.source_port,
            ..facts
        }
    }
}
