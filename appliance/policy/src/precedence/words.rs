//! Rules in the configuration's own words, for those who read them on a console.

use std::fmt;

use super::{Match, TrafficAction};
use crate::document::{ETHER_TYPES, PROTOCOLS};
use crate::snapshot::{PortRange, Side};

/// The protocol's name, or its number.
pub fn protocol(number: u8) -> String {
    match PROTOCOLS.iter().find(|one| one.1 == number) {
        Some((name, _)) => (*name).to_owned(),
        None => number.to_string(),
    }
}

/// The Ethernet type's name, or its number in hexadecimal.
pub fn ether_type(number: u16) -> String {
    match ETHER_TYPES.iter().find(|one| one.1 == number) {
        Some((name, _)) => (*name).to_owned(),
        None => format!("{number:#06x}"),
    }
}

/// Bits a second in the largest unit that is exact: `10M`.
pub fn rate(bits_per_second: u64) -> String {
    for (unit, letter) in [(1_000_000_000, 'G'), (1_000_000, 'M'), (1_000, 'k')] {
        if bits_per_second.is_multiple_of(unit) {
            return format!("{}{letter}", bits_per_second / unit);
        }
    }
    bits_per_second.to_string()
}

impl Match {
    /// What it asks for: (`key of the configuration`, `values`). Empty: it matches everything.
    pub fn words(&self) -> Vec<(String, String)> {
        let mut words = Vec::new();
        let mut some = |key: &str, values: Vec<String>| {
            if !values.is_empty() {
                words.push((key.to_owned(), values.join(", ")));
            }
        };
        some("segments", self.segments.iter().map(|id| id.0.to_string()).collect());
        let side = |side| if side == Side::A { "A" } else { "B" }.to_owned();
        some("from", self.from.map(side).into_iter().collect());
        some("ether-types", self.ether_types.iter().map(|one| ether_type(*one)).collect());
        some("vlans", self.vlans.iter().map(u16::to_string).collect());
        some("protocols", self.protocols.iter().map(|one| protocol(*one)).collect());
        some("sources", self.sources.iter().map(ToString::to_string).collect());
        some("destinations", self.destinations.iter().map(ToString::to_string).collect());
        some("source-ports", self.source_ports.iter().map(ports).collect());
        some("destination-ports", self.destination_ports.iter().map(ports).collect());
        some("icmp-types", self.icmp_types.iter().map(u8::to_string).collect());
        words
    }
}

fn ports(range: &PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}-{}", range.first, range.last)
    }
}

impl fmt::Display for TrafficAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block => f.write_str("block"),
            Self::Allow => f.write_str("allow"),
            Self::Trust => f.write_str("trust"),
            Self::RateLimit { bits_per_second } => {
                write!(f, "rate-limit {}", rate(*bits_per_second))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_is_told_as_the_configuration_has_it() {
        let words = Match {
            from: Some(Side::B),
            ether_types: vec![0x0806, 0x8847],
            protocols: vec![6, 200],
            sources: vec!["10.0.0.0/8".parse().unwrap()],
            destination_ports: vec![
                PortRange { first: 22, last: 22 },
                PortRange { first: 80, last: 90 },
            ],
            ..Match::default()
        }
        .words();
        let expected = [
            ("from", "B"),
            ("ether-types", "arp, 0x8847"),
            ("protocols", "tcp, 200"),
            ("sources", "10.0.0.0/8"),
            ("destination-ports", "22, 80-90"),
        ];
        assert_eq!(words, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert!(Match::default().words().is_empty());
        let limited = TrafficAction::RateLimit { bits_per_second: 2_500_000 };
        assert_eq!(limited.to_string(), "rate-limit 2500k");
    }
}
