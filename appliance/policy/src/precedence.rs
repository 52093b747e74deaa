//! What a packet meets before TLS inspection, and in which order (SPEC D3, D5, D6, D14).
//!
//! For: the rules' types and [`evaluate`], the one definition of their order. The data plane
//! compiles the same rules to eBPF tables, and a property test holds the two together; the engine
//! asks [`evaluate`] again for the sessions it decrypts. Not for: rates and expiry, which need a
//! clock, and TLS policy ([`crate::judge`]). Does not fail: every packet has an answer.

mod index;
mod matching;
pub mod reputation;
pub mod tables;
pub mod words;

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use index::{FirstMatches, IndexedSnapshot, Rules};
pub use matching::{ICMP, ICMPV6, Match, PacketFacts, TCP, UDP};
pub use reputation::{Reputation, Standing};

use crate::judge::covering;
use crate::snapshot::{ClientPolicy, QuicAction, Snapshot};

/// Most virtual segments.
pub const MAX_VIRTUAL_SEGMENTS: usize = 512;
/// Most inspection bypass rules.
pub const MAX_BYPASS_RULES: usize = 256;
/// Most traffic management filters.
pub const MAX_TRAFFIC_FILTERS: usize = 512;

/// Everything above TLS policy, in the order in which it is asked (SPEC D5).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Precedence {
    pub inspection_bypass: Vec<BypassRule>,
    pub traffic_filters: Vec<TrafficFilter>,
    pub reputation: Reputation,
    pub quarantine: Quarantine,
}

/// What it matches passes, whatever else is configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BypassRule {
    pub name: String,
    pub matching: Match,
}

/// SPEC D6: the first that matches acts, later ones are not asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrafficFilter {
    pub name: String,
    pub matching: Match,
    pub action: TrafficAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TrafficAction {
    /// Dropped.
    Block,
    /// On to reputation, quarantine and inspection.
    Allow,
    /// Passes without these. A TLS session that policy decrypts is decrypted all the same, but not
    /// inspected.
    Trust,
    /// As `Allow`, at this rate; what is over it is dropped.
    RateLimit { bits_per_second: u64 },
}

/// How hosts are quarantined. Which ones are is the data plane's to know: they come and go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Seconds, where whoever quarantines a host names no time.
    pub timeout: u32,
    /// Hosts that are never quarantined.
    pub exempt: Vec<IpNet>,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self { timeout: 3600, exempt: vec![] }
    }
}

impl Quarantine {
    pub fn exempts(&self, host: IpAddr) -> bool {
        let host = host.to_canonical();
        self.exempt.iter().any(|network| network.contains(&host))
    }
}

/// What the rules say of one packet. Indices are those of the snapshot's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// The one it belongs to (SPEC D3).
    pub virtual_segment: Option<usize>,
    /// The traffic management filter that matched.
    pub traffic_filter: Option<usize>,
    pub passage: Passage,
    /// TCP that a policy of its virtual segment covers, to be looked at when it begins a flow.
    pub candidate: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// By this inspection bypass rule: nothing else is asked.
    Bypassed(usize),
    Blocked(BlockedBy),
    /// By the traffic management filter.
    Trusted,
    Inspected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockedBy {
    TrafficFilter,
    Reputation,
    Quarantine,
    /// QUIC, so that its client falls back to TCP (SPEC D14). Not while the engine is out of
    /// action: its TCP would not be decrypted either.
    Quic,
}

/// The order of precedence (SPEC D5), first match wins:
///
/// 1. inspection bypass rules: passes;
/// 2. traffic management filters: block, allow, trust or rate limit;
/// 3. reputation of the source, and of the destination;
/// 4. quarantine of the source, and of the destination;
/// 5. QUIC of the virtual segment's client policy;
/// 6. inspection: candidates are held for [`crate::judge()`].
pub fn evaluate(
    rules: &impl Rules,
    facts: &PacketFacts,
    quarantined: impl Fn(IpAddr) -> bool,
) -> Classified {
    evaluate_with(rules, facts, |ends| bad_reputation(rules.snapshot(), ends), quarantined)
}

/// What the rules say of a flow's packets: those of its client, and those of its server. Without quarantine, which
/// comes and goes: the data plane asks it of every packet, of taken flows as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BothWays {
    pub client: Classified,
    pub server: Classified,
}

/// As [`evaluate`]; what is the same of either direction is asked once.
pub fn evaluate_both_ways(
    rules: &impl Rules,
    client: &PacketFacts,
    server: &PacketFacts,
) -> BothWays {
    let bad = OnceCell::new();
    let bad = |ends| *bad.get_or_init(|| bad_reputation(rules.snapshot(), ends));
    BothWays {
        client: evaluate_with(rules, client, bad, |_| false),
        server: evaluate_with(rules, server, bad, |_| false),
    }
}

fn bad_reputation(snapshot: &Snapshot, ends: [IpAddr; 2]) -> bool {
    let reputation = &snapshot.precedence.reputation;
    ends.iter().any(|end| reputation.of(*end) == Some(Standing::Block))
}

fn evaluate_with(
    rules: &impl Rules,
    facts: &PacketFacts,
    bad_reputation: impl Fn([IpAddr; 2]) -> bool,
    quarantined: impl Fn(IpAddr) -> bool,
) -> Classified {
    let facts = &facts.canonical();
    let FirstMatches { virtual_segment, bypass_rule, traffic_filter: filter } =
        rules.first_matches(facts);
    let snapshot = rules.snapshot();
    let rules = &snapshot.precedence;
    let classified = |traffic_filter, passage, candidate| Classified {
        virtual_segment,
        traffic_filter,
        passage,
        candidate,
    };
    if let Some(rule) = bypass_rule {
        return classified(None, Passage::Bypassed(rule), false);
    }
    let action = filter.and_then(|index| rules.traffic_filters.get(index)).map(|one| one.action);
    let candidate = facts.protocol == TCP && covered(snapshot, virtual_segment, facts);
    let blocked = |by| classified(filter, Passage::Blocked(by), false);
    match action {
        Some(TrafficAction::Block) => return blocked(BlockedBy::TrafficFilter),
        Some(TrafficAction::Trust) => return classified(filter, Passage::Trusted, candidate),
        Some(TrafficAction::Allow | TrafficAction::RateLimit { .. }) | None => {}
    }
    if let Some((source, destination)) = facts.addresses {
        let ends = [source, destination];
        if bad_reputation(ends) {
            return blocked(BlockedBy::Reputation);
        }
        if ends.iter().any(|end| quarantined(*end)) {
            return blocked(BlockedBy::Quarantine);
        }
    }
    if blocks_quic(snapshot, virtual_segment, facts) {
        return blocked(BlockedBy::Quic);
    }
    classified(filter, Passage::Inspected, candidate)
}

/// Whether a server or client policy of the virtual segment covers the destination.
fn covered(snapshot: &Snapshot, virtual_segment: Option<usize>, facts: &PacketFacts) -> bool {
    let Some((_, destination)) = facts.addresses else { return false };
    let profile = virtual_segment.and_then(|index| snapshot.virtual_segments.get(index));
    profile.and_then(|segment| snapshot.profiles.get(segment.profile)).is_some_and(|profile| {
        covering(snapshot, profile, SocketAddr::new(destination, facts.destination_port)).is_some()
    })
}

/// The port of HTTP/3 (SPEC D14).
pub const QUIC_PORT: u16 = 443;

/// QUIC of a client whose TCP a client policy on that port would decrypt, and which says so.
fn blocks_quic(snapshot: &Snapshot, virtual_segment: Option<usize>, facts: &PacketFacts) -> bool {
    let Some((source, _)) = facts.addresses else { return false };
    quic_policy(snapshot, virtual_segment, facts).is_some_and(|policy| {
        policy.quic == QuicAction::Block
            && !policy.source_exceptions.iter().any(|network| network.contains(&source))
    })
}

/// The client policy that says what becomes of a packet as one of QUIC.
pub fn quic_policy<'a>(
    snapshot: &'a Snapshot,
    virtual_segment: Option<usize>,
    facts: &PacketFacts,
) -> Option<&'a ClientPolicy> {
    if facts.protocol != UDP
        || facts.destination_port != QUIC_PORT
        || !snapshot.device.client_inspection
    {
        return None;
    }
    let segment = snapshot.virtual_segments.get(virtual_segment?)?;
    let profile = snapshot.profiles.get(segment.profile)?;
    profile.client_policies.iter().find(|policy| {
        snapshot.client_proxies.get(policy.client_proxy).is_some_and(|proxy| {
            proxy.detection_ports.iter().any(|range| range.contains(QUIC_PORT))
        })
    })
}
