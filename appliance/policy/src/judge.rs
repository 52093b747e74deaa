//! The order in which a flow is judged (SPEC D5, T9, P5, P7, P8), in one function.
//!
//! The data plane holds a candidate flow's first payload; the engine parses it and asks [`judge`].
//! What eBPF decides before that is compiled from the same snapshot.

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::outcome::{Blocked, Bypassed, NotDecrypted, Outcome};
use crate::snapshot::{
    ClientPolicy, PortRange, SegmentId, ServerPolicy, Side, Snapshot, VirtualSegment, any_or_in,
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

/// What the client's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes<'a> {
    /// A whole ClientHello. `server_name` as sent; `supported`: a version and suite we decrypt.
    ClientHello {
        server_name: Option<&'a str>,
        supported: bool,
    },
    /// SSLv2-format hello: recognised, never decrypted.
    Sslv2Hello,
    NotTls,
    Malformed,
    Oversize,
    /// Still incomplete when the hold's time was up, or the client closed.
    Incomplete,
}

/// What to do with a held flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Back to the bridge, unharmed.
    Release(Outcome),
    TakeOver(Inspection),
    /// `reset`: the client's connection is reset (SPEC T8, T9).
    Block {
        outcome: Outcome,
        reset: bool,
    },
}

/// Which policy decrypts a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Index into [`Snapshot::virtual_segments`].
    pub virtual_segment: usize,
    /// Index into [`Snapshot::profiles`].
    pub profile: usize,
    pub policy: PolicyKind,
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
/// 1. virtual segment of the client's SYN; none: bypassed;
/// 2. server policy (it wins over a client policy, SPEC P8), else client policy, by addresses and
///    detection port; none: bypassed;
/// 3. source exceptions;
/// 4. what is not a TLS handshake, or a malformed or oversize one: blocked on a server proxy (SPEC
///    T9: what its servers might still accept must not pass it by), bypassed on a client proxy;
/// 5. domains not to decrypt (client policy);
/// 6. no version and suite that we decrypt: bypassed;
/// 7. take over.
pub fn judge(snapshot: &Snapshot, candidate: &Candidate, first: &FirstBytes<'_>) -> Decision {
    let Some((virtual_segment, profile, policy)) = owner(snapshot, candidate) else {
        return Decision::Release(Outcome::Bypassed(Bypassed::NoPolicy));
    };
    if policy.source_exceptions().iter().any(|network| network.contains(&candidate.client.ip())) {
        return Decision::Release(Outcome::NotDecrypted(NotDecrypted::SourceException));
    }
    let (server_name, supported) = match (*first, policy) {
        (FirstBytes::ClientHello { server_name, supported }, _) => (server_name, supported),
        (FirstBytes::NotTls | FirstBytes::Malformed | FirstBytes::Oversize, Owner::Server(..)) => {
            return Decision::Block {
                outcome: Outcome::Blocked(Blocked::NotTlsOnServerProxy),
                reset: true,
            };
        }
        (FirstBytes::NotTls, Owner::Client(..)) => return bypass(Bypassed::NotTls),
        (FirstBytes::Sslv2Hello, _) => return bypass(Bypassed::UnsupportedTls),
        (FirstBytes::Malformed, _) => return bypass(Bypassed::MalformedHello),
        (FirstBytes::Oversize, _) => return bypass(Bypassed::OversizeHello),
        (FirstBytes::Incomplete, _) => return bypass(Bypassed::IncompleteHello),
    };
    if let (Owner::Client(_, client), Some(name)) = (policy, server_name)
        && let Some(index) = client.decryption_policy
        && let Some(decryption) = snapshot.decryption_policies.get(index)
        && decryption.domains_not_to_decrypt.iter().any(|pattern| pattern.matches(name))
    {
        return Decision::Release(Outcome::NotDecrypted(NotDecrypted::DomainException));
    }
    if !supported {
        return bypass(Bypassed::UnsupportedTls);
    }
    Decision::TakeOver(Inspection { virtual_segment, profile, policy: policy.kind() })
}

fn bypass(reason: Bypassed) -> Decision {
    Decision::Release(Outcome::Bypassed(reason))
}

/// The policy that owns a flow, with its place in the profile.
#[derive(Clone, Copy)]
enum Owner<'a> {
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

    fn kind(self) -> PolicyKind {
        match self {
            Self::Server(index, _) => PolicyKind::Server(index),
            Self::Client(index, _) => PolicyKind::Client(index),
        }
    }
}

/// The flow's virtual segment, profile, and server or client policy.
fn owner<'a>(snapshot: &'a Snapshot, candidate: &Candidate) -> Option<(usize, usize, Owner<'a>)> {
    let (index, segment) = snapshot
        .virtual_segments
        .iter()
        .enumerate()
        .find(|(_, segment)| contains(segment, candidate))?;
    let profile = snapshot.profiles.get(segment.profile)?;
    let port = candidate.server.port();
    let on_port = |ports: &[PortRange]| ports.iter().any(|range| range.contains(port));
    let server = || {
        profile.server_policies.iter().enumerate().find(|(_, policy)| {
            snapshot.server_proxies.get(policy.server_proxy).is_some_and(|proxy| {
                on_port(&proxy.detection_ports)
                    && proxy.destinations.iter().any(|net| net.contains(&candidate.server.ip()))
            })
        })
    };
    let client = || {
        profile.client_policies.iter().enumerate().find(|(_, policy)| {
            snapshot
                .client_proxies
                .get(policy.client_proxy)
                .is_some_and(|proxy| on_port(&proxy.detection_ports))
        })
    };
    let server = snapshot.device.server_inspection.then(server).flatten();
    let client = snapshot.device.client_inspection.then(client).flatten();
    let policy = match (server, client) {
        (Some((index, policy)), _) => Owner::Server(index, policy),
        (None, Some((index, policy))) => Owner::Client(index, policy),
        (None, None) => return None,
    };
    Some((index, segment.profile, policy))
}

fn contains(segment: &VirtualSegment, candidate: &Candidate) -> bool {
    (segment.segments.is_empty() || segment.segments.contains(&candidate.segment))
        && segment.from.is_none_or(|side| side == candidate.from)
        && (segment.vlans.is_empty()
            || candidate.vlan.is_some_and(|vlan| segment.vlans.contains(&vlan)))
        && any_or_in(&segment.sources, candidate.client.ip())
        && any_or_in(&segment.destinations, candidate.server.ip())
}
