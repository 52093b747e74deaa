//! Rules to rows: for each value that a packet may have in each dimension, the set of rules that
//! the value satisfies; a packet's rules are the intersection of its values' rows.
//!
//! For: what the data plane writes to its tables, and how large those are: a configuration that does
//! not fit is refused when it is checked, by the same code that the data plane compiles it with. Not
//! for: the tables. Fails where there are more classes, networks or policies than the tables hold.

mod policies;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{MAX_BYPASS_RULES, MAX_TRAFFIC_FILTERS, MAX_VIRTUAL_SEGMENTS, Match};
use crate::snapshot::{PortRange, SegmentId, Side, Snapshot};
use policies::Policies;
pub use policies::{PolicyKind, PolicySet};

/// Most policies that differ in what they cover: two for each certificate that there may be
/// ([`crate::configuration::MAX_CERTIFICATES`]), one of them its source exceptions.
pub const MAX_POLICIES: usize = 2048;
/// Most networks of all rules and policies, sources and destinations together. (The tables have room for
/// those of all IPv4 and all IPv6 besides.)
pub const MAX_NETWORKS: usize = 32_764;
/// Most sets of rules that one value of one dimension satisfies.
pub const MAX_CLASSES: usize = 16_384;

/// First bits of the groups of rules in a row, and the bits of a row.
pub const BYPASS_AT: usize = MAX_VIRTUAL_SEGMENTS;
pub const FILTER_AT: usize = BYPASS_AT + MAX_BYPASS_RULES;
pub const POLICY_AT: usize = FILTER_AT + MAX_TRAFFIC_FILTERS;
pub const RULES: usize = POLICY_AT + MAX_POLICIES;

/// Classes of values that a packet does not have.
pub const NO_ICMP_TYPE: usize = 256;
pub const UNTAGGED: usize = 4096;
/// Ports of segments: segment * 2 + side.
const SEGMENT_PORTS: usize = 128;

/// [`TooMany::what`].
pub const DIFFERENT_POLICIES: &str = "policies that differ in what they cover";

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {most} {what}: the tables of the data plane have room for no more")]
pub struct TooMany {
    pub what: &'static str,
    pub most: usize,
}

/// The rules, by bit, that a value satisfies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row(pub [u64; RULES / 64]);

impl Row {
    pub const EMPTY: Self = Self([0; RULES / 64]);

    /// Bits past the last rule are ignored; the compiler bounds them.
    fn set(&mut self, bit: usize) {
        if let Some(word) = self.0.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    fn clear(&mut self, bit: usize) {
        if let Some(word) = self.0.get_mut(bit / 64) {
            *word &= !(1 << (bit % 64));
        }
    }

    fn or(mut self, other: &Self) -> Self {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        self
    }
}

/// Classes of everything but addresses, by value: places in [`Compiled::rows`].
pub struct Classes {
    /// Segment * 2 + side.
    pub port: Vec<u16>,
    pub protocol: Vec<u16>,
    pub icmp_type: Vec<u16>,
    pub vlan: Vec<u16>,
    pub ether_type: Vec<u16>,
    /// By the port's number.
    pub source_port: Vec<u16>,
    pub destination_port: Vec<u16>,
    /// Of packets that are not IP: source, destination.
    pub no_address: [u16; 2],
}

/// A snapshot's rules.
pub struct Compiled {
    pub rows: Vec<Row>,
    pub classes: Classes,
    /// Whether it is of destinations, network, class.
    pub networks: Vec<(bool, IpNet, u16)>,
    /// What covers which kind of candidates, in their order.
    pub policy_kinds: Vec<PolicyKind>,
    /// Of each virtual segment.
    pub segment_policies: Vec<PolicySet>,
    /// Segments in which any rule could match; `None`: in all.
    pub segments: Option<Vec<SegmentId>>,
}

impl Compiled {
    pub fn of(snapshot: &Snapshot) -> Result<Self, TooMany> {
        let precedence = &snapshot.precedence;
        let policies = Policies::of(snapshot);
        let segments = snapshot.virtual_segments.iter().map(|one| one.matching()).enumerate();
        let bypass = precedence.inspection_bypass.iter().enumerate();
        let filters = precedence.traffic_filters.iter().enumerate();
        let covering = policies.list.iter().enumerate();
        let counts = [
            ("virtual segments", snapshot.virtual_segments.len(), MAX_VIRTUAL_SEGMENTS),
            ("inspection bypass rules", bypass.len(), MAX_BYPASS_RULES),
            ("traffic filters", filters.len(), MAX_TRAFFIC_FILTERS),
            (DIFFERENT_POLICIES, covering.len(), MAX_POLICIES),
        ];
        for (what, count, most) in counts {
            within(what, count, most)?;
        }
        let rules: Vec<(usize, Match)> = segments
            .chain(bypass.map(|(index, rule)| (BYPASS_AT + index, rule.matching.clone())))
            .chain(filters.map(|(index, filter)| (FILTER_AT + index, filter.matching.clone())))
            .chain(covering.map(|(index, (_, matching))| (POLICY_AT + index, matching.clone())))
            .collect();
        // Before rows are made of them: lists of networks have no bound of their own.
        let sources: HashSet<&IpNet> = rules.iter().flat_map(|(_, one)| &one.sources).collect();
        let destinations: HashSet<&IpNet> =
            rules.iter().flat_map(|(_, one)| &one.destinations).collect();
        let both = sources.len() + destinations.len();
        within("different networks of virtual segments, rules and policies", both, MAX_NETWORKS)?;

        let mut rows = Rows::default();
        let mut classes = Classes {
            port: vec![0; SEGMENT_PORTS],
            protocol: vec![0; 256],
            icmp_type: vec![0; NO_ICMP_TYPE + 1],
            vlan: vec![0; UNTAGGED + 1],
            ether_type: vec![0; 65536],
            source_port: vec![0; 65536],
            destination_port: vec![0; 65536],
            no_address: [0; 2],
        };
        fill(&mut classes, &rules, &mut rows);
        let mut networks = Vec::new();
        for (no_address, destination) in classes.no_address.iter_mut().zip([false, true]) {
            let lists: Vec<(usize, &[IpNet])> = rules
                .iter()
                .map(|(bit, rule)| {
                    (*bit, if destination { &rule.destinations[..] } else { &rule.sources[..] })
                })
                .collect();
            *no_address = rows.class(any(&lists));
            let found = by_network(&lists).into_iter();
            networks.extend(found.map(|(network, row)| (destination, network, rows.class(row))));
        }
        let what = "different sets of virtual segments, rules and policies that one address, port, \
                    VLAN or protocol is in";
        within(what, rows.list.len(), MAX_CLASSES)?;
        let everywhere = !precedence.reputation.entries().is_empty()
            || rules.iter().any(|(bit, rule)| *bit < POLICY_AT && rule.segments.is_empty());
        let named = rules.iter().flat_map(|(_, rule)| rule.segments.iter().copied());
        Ok(Self {
            rows: rows.list,
            classes,
            networks,
            policy_kinds: policies.list.iter().map(|(kind, _)| *kind).collect(),
            segment_policies: snapshot
                .virtual_segments
                .iter()
                .map(|segment| policies.set(segment.profile))
                .collect(),
            segments: (!everywhere).then(|| named.collect()),
        })
    }
}

fn within(what: &'static str, count: usize, most: usize) -> Result<(), TooMany> {
    if count > most { Err(TooMany { what, most }) } else { Ok(()) }
}

/// Rows, each once; the first matches nothing.
struct Rows {
    list: Vec<Row>,
    places: HashMap<Row, u16>,
}

impl Default for Rows {
    fn default() -> Self {
        Self { list: vec![Row::EMPTY], places: HashMap::from([(Row::EMPTY, 0)]) }
    }
}

impl Rows {
    /// Past [`MAX_CLASSES`] the list is too long for the tables: it grows by one more, and is refused.
    fn class(&mut self, row: Row) -> u16 {
        let next = self.list.len();
        if next > MAX_CLASSES {
            return 0;
        }
        *self.places.entry(row).or_insert_with(|| {
            self.list.push(row);
            u16::try_from(next).unwrap_or(u16::MAX)
        })
    }
}

fn fill(classes: &mut Classes, rules: &[(usize, Match)], rows: &mut Rows) {
    fill_ports(classes, rules, rows);
    let lists = |values: fn(&Match) -> Vec<usize>| {
        rules.iter().map(|(bit, rule)| (*bit, values(rule))).collect::<Vec<_>>()
    };
    let numbers = lists(|rule| rule.protocols.iter().map(|one| usize::from(*one)).collect());
    by_value(&mut classes.protocol, &numbers, rows);
    let types = lists(|rule| rule.icmp_types.iter().map(|one| usize::from(*one)).collect());
    by_value(&mut classes.icmp_type, &types, rows);
    let ids = lists(|rule| rule.vlans.iter().map(|one| usize::from(*one)).collect());
    by_value(&mut classes.vlan, &ids, rows);
    let types = lists(|rule| rule.ether_types.iter().map(|one| usize::from(*one)).collect());
    by_value(&mut classes.ether_type, &types, rows);
    // What is not known is in no list.
    let unknown = |values: &[(usize, Vec<usize>)]| {
        let mut row = Row::EMPTY;
        values.iter().filter(|(_, list)| list.is_empty()).for_each(|(bit, _)| row.set(*bit));
        row
    };
    let none = lists(|rule| rule.icmp_types.iter().map(|one| usize::from(*one)).collect());
    for (slot, row) in [
        (classes.protocol.first_mut(), unknown(&numbers)),
        (classes.icmp_type.get_mut(NO_ICMP_TYPE), unknown(&none)),
        (classes.vlan.get_mut(UNTAGGED), unknown(&ids)),
    ] {
        if let Some(slot) = slot {
            *slot = rows.class(row);
        }
    }
    by_port(&mut classes.source_port, rules, |rule| &rule.source_ports, rows);
    by_port(&mut classes.destination_port, rules, |rule| &rule.destination_ports, rows);
}

/// Segment and side.
fn fill_ports(classes: &mut Classes, rules: &[(usize, Match)], rows: &mut Rows) {
    for (index, slot) in (0u16..).zip(classes.port.iter_mut()) {
        let (segment, side) =
            (SegmentId(index / 2), if index % 2 == 0 { Side::A } else { Side::B });
        let mut row = Row::EMPTY;
        for (bit, rule) in rules {
            let here = rule.segments.is_empty() || rule.segments.contains(&segment);
            if here && rule.from.is_none_or(|from| from == side) {
                row.set(*bit);
            }
        }
        *slot = rows.class(row);
    }
}

/// The class of each value: of the rules that list it, or list nothing.
fn by_value(slots: &mut [u16], lists: &[(usize, Vec<usize>)], rows: &mut Rows) {
    let mut any = Row::EMPTY;
    let mut listed = BTreeMap::<usize, Row>::new();
    for (bit, list) in lists {
        if list.is_empty() {
            any.set(*bit);
        }
        for value in list {
            listed.entry(*value).or_insert(Row::EMPTY).set(*bit);
        }
    }
    slots.fill(rows.class(any));
    for (value, row) in listed {
        if let Some(slot) = slots.get_mut(value) {
            *slot = rows.class(row.or(&any));
        }
    }
}

/// As above, by a walk over the ports at which a range begins or ends.
fn by_port<'a>(
    slots: &mut [u16],
    rules: &'a [(usize, Match)],
    ranges: impl Fn(&'a Match) -> &'a Vec<PortRange>,
    rows: &mut Rows,
) {
    let mut row = Row::EMPTY;
    // At each port: rules whose ranges begin, and end before it.
    let mut changes = BTreeMap::<usize, (Vec<usize>, Vec<usize>)>::new();
    for (bit, rule) in rules {
        let list = ranges(rule);
        if list.is_empty() {
            row.set(*bit);
        }
        for range in list {
            let (first, end) = (usize::from(range.first).max(1), usize::from(range.last) + 1);
            if first < end {
                changes.entry(first).or_default().0.push(*bit);
                changes.entry(end).or_default().1.push(*bit);
            }
        }
    }
    let mut open = vec![0u32; RULES];
    let mut from = 0;
    for (at, (begin, end)) in changes {
        let class = rows.class(row);
        slots.get_mut(from..at).unwrap_or_default().fill(class);
        from = at;
        for bit in begin {
            if let Some(count) = open.get_mut(bit) {
                *count += 1;
                row.set(bit);
            }
        }
        for bit in end {
            if let Some(count) = open.get_mut(bit) {
                *count -= 1;
                if *count == 0 {
                    row.clear(bit);
                }
            }
        }
    }
    let class = rows.class(row);
    slots.get_mut(from..).unwrap_or_default().fill(class);
}

/// An IPv6 network of IPv4-mapped addresses: they count as IPv4, and match no IPv6 network.
pub fn is_mapped(network: &IpNet) -> bool {
    match network {
        IpNet::V4(_) => false,
        IpNet::V6(network) => {
            network.prefix_len() >= 96 && network.addr().to_ipv4_mapped().is_some()
        }
    }
}

fn any(lists: &[(usize, &[IpNet])]) -> Row {
    let mut row = Row::EMPTY;
    lists.iter().filter(|(_, list)| list.is_empty()).for_each(|(bit, _)| row.set(*bit));
    row
}

/// Each network with all rules that it or one around it is listed by: the longest prefix tells all.
fn by_network(lists: &[(usize, &[IpNet])]) -> Vec<(IpNet, Row)> {
    let mut listed = BTreeMap::<IpNet, Row>::new();
    // Every address has an answer: rules without a list.
    for root in [IpAddr::from([0u8; 4]), IpAddr::from([0u8; 16])] {
        if let Ok(root) = IpNet::new(root, 0) {
            listed.insert(root, any(lists));
        }
    }
    for (bit, list) in lists {
        for network in list.iter().filter(|network| !is_mapped(network)) {
            listed.entry(network.trunc()).or_insert(Row::EMPTY).set(*bit);
        }
    }
    // In order, so that those around a network come before it.
    let mut around: Vec<(IpNet, Row)> = Vec::new();
    let mut result = Vec::with_capacity(listed.len());
    for (network, own) in listed {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&network)) {
            around.pop();
        }
        let row = around.last().map_or(own, |(_, outer)| own.or(outer));
        around.push((network, row));
        result.push((network, row));
    }
    result
}
