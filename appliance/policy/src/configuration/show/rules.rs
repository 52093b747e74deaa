//! What precedes TLS inspection, as a document.

use ipnet::IpNet;

use super::{Page, port_range, quoted};
use crate::precedence::{Match, Precedence, Reputation, Standing, TrafficAction, words};
use crate::snapshot::Side;

/// Reputation entries shown; of more their number is told.
const SHOWN: usize = 100;

impl Page {
    pub(super) fn precedence(&mut self, rules: &Precedence) {
        self.heading("inspection-bypass", rules.inspection_bypass.is_empty());
        for rule in &rules.inspection_bypass {
            self.first(2, "name", quoted(&rule.name));
            self.matching(&rule.matching);
        }
        self.heading("traffic-filters", rules.traffic_filters.is_empty());
        for filter in &rules.traffic_filters {
            self.first(2, "name", quoted(&filter.name));
            match filter.action {
                TrafficAction::Block => self.pair(3, "action", "block"),
                TrafficAction::Allow => self.pair(3, "action", "allow"),
                TrafficAction::Trust => self.pair(3, "action", "trust"),
                TrafficAction::RateLimit { bits_per_second } => {
                    self.pair(3, "action", "rate-limit");
                    self.pair(3, "rate", words::rate(bits_per_second));
                }
            }
            self.matching(&filter.matching);
        }
        self.reputation(&rules.reputation);
        self.line(1, "quarantine:");
        self.pair(2, "timeout", rules.quarantine.timeout / 60);
        self.some(2, "exempt", rules.quarantine.exempt.iter().map(IpNet::to_string));
    }

    fn matching(&mut self, matching: &Match) {
        if *matching == Match::default() {
            return self.pair(3, "match", "{}");
        }
        self.line(3, "match:");
        self.some(4, "segments", matching.segments.iter().map(|id| id.0.to_string()));
        if let Some(side) = matching.from {
            self.pair(4, "from", if side == Side::A { "A" } else { "B" });
        }
        let ether_type = |number: &u16| match words::ether_type(*number) {
            number if number.starts_with("0x") => quoted(&number),
            name => name,
        };
        self.some(4, "ether-types", matching.ether_types.iter().map(ether_type));
        self.some(4, "vlans", matching.vlans.iter().map(u16::to_string));
        let protocols = matching.protocols.iter().map(|number| words::protocol(*number));
        self.some(4, "protocols", protocols);
        self.some(4, "sources", matching.sources.iter().map(IpNet::to_string));
        self.some(4, "destinations", matching.destinations.iter().map(IpNet::to_string));
        let ports = |range: &_| quoted(&port_range(range));
        self.some(4, "source-ports", matching.source_ports.iter().map(ports));
        self.some(4, "destination-ports", matching.destination_ports.iter().map(ports));
        self.some(4, "icmp-types", matching.icmp_types.iter().map(u8::to_string));
    }

    fn reputation(&mut self, reputation: &Reputation) {
        let entries = reputation.entries();
        self.heading("reputation", entries.is_empty());
        for (standing, word) in [(Standing::Block, "block"), (Standing::Permit, "permit")] {
            let of = || entries.iter().filter(|(_, one)| *one == standing);
            let count = of().count();
            if count == 0 {
                continue;
            }
            self.first(2, "action", word);
            if entries.len() <= SHOWN {
                self.some(3, "entries", of().map(|(network, _)| quoted(&network.to_string())));
            } else {
                self.pair(3, "entries", quoted(&format!("({count} entries)")));
            }
        }
    }
}
