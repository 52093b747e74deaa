//! Values that rules about packets are made of.

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::TextOrNumber;
use crate::error::shown;

/// An Ethernet type: a number from 0x0600, or the name of a common one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EtherType(pub(crate) u16);

/// The names that documents may use, and show.
pub(crate) const ETHER_TYPES: &[(&str, u16)] =
    &[("ipv4", 0x0800), ("arp", 0x0806), ("ipv6", 0x86dd), ("lldp", 0x88cc)];

impl<'de> Deserialize<'de> for EtherType {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_any(TextOrNumber { expected: "an Ethernet type" })?;
        let named =
            ETHER_TYPES.iter().find(|(name, _)| **name == **text).map(|(_, number)| *number);
        let number = || match text.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        match named.or_else(number) {
            Some(number @ 0x0600..) => Ok(Self(number)),
            _ => Err(D::Error::custom(format!(
                "is {}; an Ethernet type from 0x0600 to 0xffff is expected, or one of {}",
                shown(&text),
                names(ETHER_TYPES)
            ))),
        }
    }
}

/// An IP protocol: a number from 1, or the name of a common one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpProtocol(pub(crate) u8);

/// The names that documents may use, and show.
pub(crate) const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ospf", 89),
    ("vrrp", 112),
    ("sctp", 132),
];

impl<'de> Deserialize<'de> for IpProtocol {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_any(TextOrNumber { expected: "an IP protocol" })?;
        let named = PROTOCOLS.iter().find(|(name, _)| **name == **text).map(|(_, number)| *number);
        match named.or_else(|| text.parse().ok()) {
            Some(number @ 1..) => Ok(Self(number)),
            _ => Err(D::Error::custom(format!(
                "is {}; a protocol number from 1 to 255 is expected, or one of {}",
                shown(&text),
                names(PROTOCOLS)
            ))),
        }
    }
}

fn names<T>(list: &[(&str, T)]) -> String {
    list.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Bits a second: a number, with `k`, `M` or `G` for thousands, millions, thousands of millions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate(pub(crate) u64);

/// What a token bucket can tell from nothing, and from everything.
const RATES: std::ops::RangeInclusive<u64> = 8_000..=100_000_000_000;

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_any(TextOrNumber { expected: "a rate in bits a second" })?;
        let (digits, unit) = match text.chars().last() {
            Some('k') => (text.strip_suffix('k'), 1_000),
            Some('M') => (text.strip_suffix('M'), 1_000_000),
            Some('G') => (text.strip_suffix('G'), 1_000_000_000),
            _ => (Some(text.as_str()), 1u64),
        };
        let rate = digits.and_then(|digits| digits.parse::<u64>().ok()?.checked_mul(unit));
        match rate {
            Some(rate) if RATES.contains(&rate) => Ok(Self(rate)),
            _ => Err(D::Error::custom(format!(
                "is {}; bits a second from 8k to 100G are expected, like 512k or 10M",
                shown(&text)
            ))),
        }
    }
}
