//! The order in which a flow is judged (SPEC D5, T9, P5, P7, P8), in one function.
//!
//! The data plane holds a candidate flow's first payload; the engine parses it and asks [`judge`].
//! What eBPF decides before that is compiled from the same snapshot.

use std::net::SocketAddr;

use crate::outcome::{Blocked, Bypassed, NotDecrypted, Outcome};
use crate::snapshot::{SegmentId, Side, Snapshot, VirtualSegment, any_or_in};

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
    ClientHello { server_name: Option<&'a str>, supported: bool },
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
    Block { outcome: Outcome, reset: bool },
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
/// 4. what is not a TLS handshake: blocked on a server proxy (SPEC T9), bypassed on a client proxy;
/// 5. domains not to decrypt (client policy);
/// 6. no version and suite that we decrypt: bypassed;
/// 7. take over.
pub fn judge(snapshot: &Snapshot, candidate: &Candidate, first: &FirstBytes<'_>) -> Decision {
    let Some((virtual_segment, profile, policy)) = owner(snapshot, candidate) else {
        return Decision::Release(Outcome::Bypassed(Bypassed::NoPolicy));
    };
    let owner = &snapshot.profiles[profile];
    let exceptions = match policy {
        PolicyKind::Server(index) => &owner.server_policies[index].source_exceptions,
        PolicyKind::Client(index) => &owner.client_policies[index].source_exceptions,
    };
    if exceptions.iter().any(|network| network.contains(&candidate.client.ip())) {
        return Decision::Release(Outcome::NotDecrypted(NotDecrypted::SourceException));
    }
    let (server_name, supported) = match (*first, policy) {
        (FirstBytes::ClientHello { server_name, supported }, _) => (server_name, supported),
        (FirstBytes::NotTls, PolicyKind::Server(_)) => {
            return Decision::Block {
                outcome: Outcome::Blocked(Blocked::NotTlsOnServerProxy),
                reset: true,
            };
        }
        (FirstBytes::NotTls, PolicyKind::Client(_)) => return bypass(Bypassed::NotTls),
        (FirstBytes::Sslv2Hello, _) => return bypass(Bypassed::UnsupportedTls),
        (FirstBytes::Malformed, _) => return bypass(Bypassed::MalformedHello),
        (FirstBytes::Oversize, _) => return bypass(Bypassed::OversizeHello),
        (FirstBytes::Incomplete, _) => return bypass(Bypassed::IncompleteHello),
    };
    if let (PolicyKind::Client(index), Some(name)) = (policy, server_name)
        && let Some(decryption) = owner.client_policies[index].decryption_policy
        && snapshot.decryption_policies[decryption]
            .domains_not_to_decrypt
            .iter()
            .any(|pattern| pattern.matches(name))
    {
        return Decision::Release(Outcome::NotDecrypted(NotDecrypted::DomainException));
    }
    if !supported {
        return bypass(Bypassed::UnsupportedTls);
    }
    Decision::TakeOver(Inspection { virtual_segment, profile, policy })
}

fn bypass(reason: Bypassed) -> Decision {
    Decision::Release(Outcome::Bypassed(reason))
}

/// The policy that owns the flow: its virtual segment, profile, and server or client policy.
fn owner(snapshot: &Snapshot, candidate: &Candidate) -> Option<(usize, usize, PolicyKind)> {
    let (index, segment) = snapshot
        .virtual_segments
        .iter()
        .enumerate()
        .find(|(_, segment)| contains(segment, candidate))?;
    let profile = &snapshot.profiles[segment.profile];
    let port = candidate.server.port();
    let on_port = |ports: &[crate::snapshot::PortRange]| ports.iter().any(|p| p.contains(port));
    let server = snapshot.device.server_inspection.then(|| {
        profile.server_policies.iter().position(|policy| {
            let proxy = &snapshot.server_proxies[policy.server_proxy];
            on_port(&proxy.detection_ports)
                && proxy.destinations.iter().any(|net| net.contains(&candidate.server.ip()))
        })
    });
    let client = snapshot.device.client_inspection.then(|| {
        profile.client_policies.iter().position(|policy| {
            on_port(&snapshot.client_proxies[policy.client_proxy].detection_ports)
        })
    });
    let policy = match (server.flatten(), client.flatten()) {
        (Some(server), _) => PolicyKind::Server(server),
        (None, Some(client)) => PolicyKind::Client(client),
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
