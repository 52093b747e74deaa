//! What precedes TLS inspection: bypass rules, traffic filters, reputation, quarantine (SPEC D5).

use super::check::{Check, path};
use crate::document::{
    Document, MatchSection, ReputationSection, TrafficActionWord, TrafficFilterSection, networks,
};
use crate::layers::{MAX_ERRORS, child};
use crate::precedence::reputation::{MAX_ENTRIES, entry};
use crate::precedence::{
    BypassRule, ICMP, ICMPV6, MAX_BYPASS_RULES, MAX_TRAFFIC_FILTERS, Match, Precedence, Quarantine,
    Reputation, Standing, TCP, TrafficAction, TrafficFilter, UDP,
};
use crate::snapshot::{Segment, SegmentId};

/// Longest reputation list: a million IPv6 networks, written out, with some words about them.
const MAX_LIST: usize = 64 << 20;
/// Longest quarantine in minutes: a year.
const MAX_TIMEOUT: u32 = 365 * 24 * 60;

impl Check<'_> {
    pub(super) fn precedence(&mut self, document: &Document, segments: &[Segment]) -> Precedence {
        self.names(
            "inspection bypass rule",
            "inspection-bypass",
            document.inspection_bypass.iter().map(|rule| rule.name.0.as_str()),
        );
        self.names(
            "traffic filter",
            "traffic-filters",
            document.traffic_filters.iter().map(|filter| filter.name.0.as_str()),
        );
        self.at_most("inspection-bypass", document.inspection_bypass.len(), MAX_BYPASS_RULES);
        self.at_most("traffic-filters", document.traffic_filters.len(), MAX_TRAFFIC_FILTERS);
        let bypass = document.inspection_bypass.iter().enumerate().map(|(index, section)| {
            let at = child(&path(["inspection-bypass"], index), "match");
            BypassRule {
                name: section.name.0.clone(),
                matching: self.matching(&at, &section.matching, segments),
            }
        });
        let inspection_bypass = bypass.collect();
        let filters = document.traffic_filters.iter().enumerate().map(|(index, section)| {
            let at = path(["traffic-filters"], index);
            TrafficFilter {
                name: section.name.0.clone(),
                matching: self.matching(&child(&at, "match"), &section.matching, segments),
                action: self.traffic_action(&at, section),
            }
        });
        let traffic_filters = filters.collect();
        Precedence {
            inspection_bypass,
            traffic_filters,
            reputation: self.reputation(&document.reputation),
            quarantine: self.quarantine(document),
        }
    }

    pub(super) fn at_most(&mut self, list: &str, count: usize, most: usize) {
        if count > most {
            self.error(&[list.to_owned()], format!("are {count}; at most {most} are allowed"));
        }
    }

    fn matching(&mut self, at: &[String], section: &MatchSection, segments: &[Segment]) -> Match {
        for (place, id) in section.segments.iter().enumerate() {
            self.segment_exists(&child(&child(at, "segments"), place), *id, segments);
        }
        let protocols = section.protocols.iter().map(|one| one.0).collect::<Vec<_>>();
        let only = |wanted: [u8; 2]| {
            protocols.is_empty() || protocols.iter().any(|one| wanted.contains(one))
        };
        let ports = [
            ("source-ports", section.source_ports.is_empty()),
            ("destination-ports", section.destination_ports.is_empty()),
        ];
        for (key, empty) in ports {
            if !empty && !only([TCP, UDP]) {
                let message = "never match: no packet of these protocols has ports; let the \
                               protocols be tcp, udp or both";
                self.error(&child(at, key), message);
            }
        }
        if !section.icmp_types.is_empty() && !only([ICMP, ICMPV6]) {
            let message = "never match: no packet of these protocols has an ICMP type; let the \
                           protocols be icmp, icmpv6 or both";
            self.error(&child(at, "icmp-types"), message);
        }
        Match {
            segments: section.segments.iter().map(|id| SegmentId(*id)).collect(),
            from: section.from,
            ether_types: section.ether_types.iter().map(|one| one.0).collect(),
            vlans: section.vlans.iter().map(|vlan| vlan.0).collect(),
            protocols,
            sources: networks(&section.sources),
            destinations: networks(&section.destinations),
            source_ports: section.source_ports.iter().map(|ports| ports.0).collect(),
            destination_ports: section.destination_ports.iter().map(|ports| ports.0).collect(),
            icmp_types: section.icmp_types.clone(),
        }
    }

    fn traffic_action(&mut self, at: &[String], section: &TrafficFilterSection) -> TrafficAction {
        if section.action != TrafficActionWord::RateLimit && section.rate.is_some() {
            let message = "is for the action rate-limit only; leave it out";
            self.error(&child(at, "rate"), message);
        }
        match (section.action, section.rate) {
            (TrafficActionWord::Block, _) => TrafficAction::Block,
            (TrafficActionWord::Allow, _) => TrafficAction::Allow,
            (TrafficActionWord::Trust, _) => TrafficAction::Trust,
            (TrafficActionWord::RateLimit, Some(rate)) => {
                TrafficAction::RateLimit { bits_per_second: rate.0 }
            }
            (TrafficActionWord::RateLimit, None) => {
                let message = "is rate-limit, which needs a rate in bits a second, like rate: 10M";
                self.error(&child(at, "action"), message);
                TrafficAction::Allow
            }
        }
    }

    fn reputation(&mut self, sections: &[ReputationSection]) -> Reputation {
        let mut entries = Vec::new();
        for (index, section) in sections.iter().enumerate() {
            let at = path(["reputation"], index);
            match (&section.entries, &section.file) {
                (Some(list), None) => {
                    entries.extend(networks(list).into_iter().map(|one| (one, section.action)));
                }
                (None, Some(file)) => {
                    let at = child(&at, "file");
                    self.reputation_file(&at, file.as_str(), section.action, &mut entries);
                }
                (Some(_), Some(_)) => {
                    self.error(&at, "has both entries and file; keep one of them");
                }
                (None, None) => {
                    self.error(&at, "has neither entries (addresses, CIDRs) nor file (a path)");
                }
            }
        }
        let reputation = Reputation::new(entries);
        self.at_most("reputation", reputation.entries().len(), MAX_ENTRIES);
        reputation
    }

    /// An address or a CIDR a line; what follows `#` is not read.
    fn reputation_file(
        &mut self,
        at: &[String],
        file: &str,
        action: Standing,
        entries: &mut Vec<(ipnet::IpNet, Standing)>,
    ) {
        let Some(bytes) = self.file_up_to(at, file, MAX_LIST) else { return };
        let mut wrong = 0;
        for (number, line) in (1u32..).zip(bytes.split(|byte| *byte == b'\n')) {
            let line = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
            if line.is_empty() {
                continue;
            }
            match str::from_utf8(line).ok().and_then(entry) {
                Some(network) => entries.push((network, action)),
                None => {
                    let message = format!(
                        "is {}; an address or a CIDR without host bits is expected",
                        crate::error::shown(&String::from_utf8_lossy(line))
                    );
                    self.error_in_file(at, file, number, message);
                    wrong += 1;
                }
            }
            if wrong >= MAX_ERRORS || entries.len() > 2 * MAX_ENTRIES {
                return; // refused already, or below
            }
        }
    }

    fn quarantine(&mut self, document: &Document) -> Quarantine {
        let section = &document.quarantine;
        let minutes = section.timeout.unwrap_or(Quarantine::default().timeout / 60);
        if !(1..=MAX_TIMEOUT).contains(&minutes) {
            let at = ["quarantine".to_owned(), "timeout".to_owned()];
            self.error(&at, format!("is {minutes}; 1 to {MAX_TIMEOUT} minutes are expected"));
        }
        Quarantine { timeout: minutes.saturating_mul(60), exempt: networks(&section.exempt) }
    }
}
