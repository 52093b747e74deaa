//! Capture filters: the part of pcap-filter(7)'s language that operators type, evaluated on the
//! parsed packet.
//!
//! ```text
//! expression:  test, not test, (expression), expression and expression, expression or expression
//! test:        tcp, udp, icmp, icmp6, ip, ip6, arp, vlan [ID], inbound, outbound,
//!              [src|dst] host ADDRESS, [src|dst] net NETWORK, less BYTES, greater BYTES,
//!              [tcp|udp] [src|dst] port PORT, [tcp|udp] [src|dst] portrange PORT-PORT
//! ```
//!
//! `and` and `or` (also `&&` and `||`) bind alike, from left to right, as in pcap-filter; `not` (`!`)
//! binds to the next test. Unlike there, every test looks behind VLAN tags and into one tunnel.
//! Fails by [`FilterError`], which names the place and what would be right.

mod parse;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::packet::{self, Packet, Way};

/// Longest expression, characters.
pub const LONGEST: usize = 1024;

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter, character {column}: {message}")]
pub struct FilterError {
    /// From 1.
    pub column: usize,
    /// What was wrong and what would be right.
    pub message: String,
}

/// A compiled expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    Test(Test),
    Not(Box<Filter>),
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    EtherType(u16),
    /// Of any network header of the packet.
    Protocol(u8),
    /// An id, or any.
    Vlan(Option<u16>),
    Network(End, IpNet),
    /// Of TCP, UDP or both; first and last port.
    Ports(Option<u8>, End, u16, u16),
    Way(Way),
    Less(usize),
    Greater(usize),
}

/// Which end of a packet a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
    Either,
}

impl End {
    fn any<T>(self, ends: (T, T), is: impl Fn(T) -> bool) -> bool {
        match self {
            Self::Source => is(ends.0),
            Self::Destination => is(ends.1),
            Self::Either => is(ends.0) || is(ends.1),
        }
    }
}

impl Filter {
    pub fn compile(text: &str) -> Result<Self, FilterError> {
        parse::parse(text)
    }

    /// Recursion is as deep as the expression has tests: [`LONGEST`] bounds it.
    pub fn matches(&self, packet: &Packet) -> bool {
        match self {
            Self::Test(test) => test.matches(packet),
            Self::Not(inner) => !inner.matches(packet),
            Self::And(one, other) => one.matches(packet) && other.matches(packet),
            Self::Or(one, other) => one.matches(packet) || other.matches(packet),
        }
    }
}

impl Test {
    fn matches(&self, packet: &Packet) -> bool {
        match self {
            Self::EtherType(wanted) => {
                packet.ether_type == *wanted
                    || packet.layers.iter().flatten().any(|layer| {
                        matches!(
                            (layer.source, wanted),
                            (IpAddr::V4(_), 0x0800) | (IpAddr::V6(_), 0x86dd)
                        )
                    })
            }
            Self::Protocol(wanted) => {
                packet.layers.iter().flatten().any(|layer| layer.protocol == *wanted)
            }
            Self::Vlan(None) => packet.vlans[0].is_some(),
            Self::Vlan(wanted) => packet.vlans.contains(wanted),
            Self::Network(end, network) => {
                let layers = packet.layers.iter().flatten();
                let arp = packet.arp.map(|(from, to)| (IpAddr::V4(from), IpAddr::V4(to)));
                layers
                    .map(|layer| (layer.source, layer.destination))
                    .chain(arp)
                    .any(|ends| end.any(ends, |address| network.contains(&address)))
            }
            Self::Ports(protocol, end, first, last) => {
                let found = packet.innermost().map(|layer| layer.protocol);
                let right = match protocol {
                    Some(_) => found == *protocol,
                    None => matches!(found, Some(packet::TCP | packet::UDP)),
                };
                right
                    && packet.ports.is_some_and(|ports| {
                        end.any(ports, |port| (*first..=*last).contains(&port))
                    })
            }
            Self::Way(way) => packet.way == *way,
            Self::Less(bytes) => packet.length <= *bytes,
            Self::Greater(bytes) => packet.length >= *bytes,
        }
    }
}

#[cfg(test)]
mod tests;
