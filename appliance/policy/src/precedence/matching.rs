//! The one language that virtual segments, bypass rules, traffic filters and policies match
//! packets in.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::snapshot::{PortRange, SegmentId, Side, VirtualSegment, any_or_in};

/// IP protocol numbers.
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// What a packet must be, in all respects; an empty list, or `None`, means any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Match {
    pub segments: Vec<SegmentId>,
    /// The port's side that the packet came in by.
    pub from: Option<Side>,
    pub ether_types: Vec<u16>,
    /// Ids of the outermost tag. A list matches tagged packets only.
    pub vlans: Vec<u16>,
    /// A list matches IP packets only.
    pub protocols: Vec<u8>,
    pub sources: Vec<IpNet>,
    pub destinations: Vec<IpNet>,
    /// A list matches TCP and UDP packets only, and of their fragments the first.
    pub source_ports: Vec<PortRange>,
    pub destination_ports: Vec<PortRange>,
    /// A list matches ICMP and ICMPv6 packets only, and of their fragments the first.
    pub icmp_types: Vec<u8>,
}

/// A packet, as far as rules look at it. Of a packet in a tunnel that the data plane understands
/// these are the inner one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketFacts {
    pub segment: SegmentId,
    /// The side it came in by.
    pub from: Side,
    pub ether_type: u16,
    pub vlan: Option<u16>,
    /// After IPv6's extension headers; 0: not known, matched by no list.
    pub protocol: u8,
    /// Source and destination; an IPv4-mapped address is the IPv4 address.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// 0: none, or a later fragment; matched by no list. (Nothing comes of those without their first one.)
    pub source_port: u16,
    pub destination_port: u16,
    pub icmp_type: Option<u8>,
}

impl PacketFacts {
    pub(super) fn canonical(&self) -> Self {
        let addresses = self.addresses.map(|(from, to)| (from.to_canonical(), to.to_canonical()));
        Self { addresses, ..*self }
    }
}

impl Match {
    pub fn matches(&self, facts: &PacketFacts) -> bool {
        let (source, destination) = match facts.addresses {
            Some((source, destination)) => (Some(source), Some(destination)),
            None => (None, None),
        };
        any_or(&self.segments, |segment| *segment == facts.segment)
            && self.from.is_none_or(|side| side == facts.from)
            && any_or(&self.ether_types, |ether_type| *ether_type == facts.ether_type)
            && any_or(&self.vlans, |vlan| Some(*vlan) == facts.vlan)
            && any_or(&self.protocols, |one| *one == facts.protocol && *one != 0)
            && within(&self.sources, source)
            && within(&self.destinations, destination)
            && on(&self.source_ports, facts.source_port)
            && on(&self.destination_ports, facts.destination_port)
            && any_or(&self.icmp_types, |one| Some(*one) == facts.icmp_type)
    }
}

impl VirtualSegment {
    /// Whether a packet belongs to it, as far as this one goes: the first in order owns it.
    pub fn matches(&self, facts: &PacketFacts) -> bool {
        let (source, destination) = match facts.addresses {
            Some((source, destination)) => (Some(source), Some(destination)),
            None => (None, None),
        };
        any_or(&self.segments, |segment| *segment == facts.segment)
            && self.from.is_none_or(|side| side == facts.from)
            && any_or(&self.vlans, |vlan| Some(*vlan) == facts.vlan)
            && within(&self.sources, source)
            && within(&self.destinations, destination)
    }

    /// Its match, in the language of the other rules.
    pub fn matching(&self) -> Match {
        Match {
            segments: self.segments.clone(),
            from: self.from,
            vlans: self.vlans.clone(),
            sources: self.sources.clone(),
            destinations: self.destinations.clone(),
            ..Match::default()
        }
    }
}

fn any_or<T>(list: &[T], is: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(is)
}

fn within(networks: &[IpNet], address: Option<IpAddr>) -> bool {
    address.map_or(networks.is_empty(), |address| any_or_in(networks, address))
}

fn on(ranges: &[PortRange], port: u16) -> bool {
    any_or(ranges, |range| port != 0 && range.contains(port))
}
