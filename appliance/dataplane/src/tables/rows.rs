//! Rules to rows: for each value that a packet may have in each dimension, the set of rules that
//! the value satisfies.
//!
//! For: everything that is written to one half of the tables, computed before any of it is. Not
//! for: writing it. Fails where the rules have more classes, networks or policies than the tables.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use weir_policy::Snapshot;
use weir_policy::precedence::{Match, TrafficAction, TrafficFilter};
use weir_policy::snapshot::{PortRange, SegmentId, Side};

use super::ApplyError;
use super::policies::Policies;
use crate::layout::rules::{
    BYPASS_AT, Classes, FILTER_ALLOW, FILTER_AT, FILTER_BLOCK, FILTER_RATE_LIMIT, FILTER_TRUST,
    FilterEntry, NO_ICMP_TYPE, POLICIES, POLICY_AT, PolicySet, ROWS, RULES, Row, TRAFFIC_FILTERS,
    UNTAGGED, VIRTUAL_SEGMENTS,
};
use crate::layout::{is_mapped, mapped};

/// Networks of one half, sources and destinations together.
const MAX_NETWORKS: usize = 32_768;
/// The least a rate limit lets pass at once: what `RATE_WINDOW` carries, and the largest frame.
const RATE_WINDOW_NS: u64 = 100_000_000;
const LARGEST_FRAME: u64 = 65_600;

/// One half of the tables.
pub struct Half {
    pub rows: Vec<Row>,
    pub classes: Box<Classes>,
    /// Source or destination, prefix in bits of a 16-byte address, address, class.
    pub networks: Vec<(bool, u32, [u8; 16], u32)>,
    pub segment_policies: Vec<PolicySet>,
    pub filters: Vec<FilterEntry>,
    /// Segments in which any rule could match; `None`: in all.
    pub segments: Option<Vec<SegmentId>>,
}

impl Half {
    pub fn compile(snapshot: &Snapshot) -> Result<Self, ApplyError> {
        let precedence = &snapshot.precedence;
        let policies = Policies::of(snapshot);
        let segments = snapshot.virtual_segments.iter().map(|one| one.matching()).enumerate();
        let bypass = precedence.inspection_bypass.iter().enumerate();
        let filters = precedence.traffic_filters.iter().enumerate();
        let covering = policies.list.iter().enumerate();
        let counts = [
            ("virtual segments", snapshot.virtual_segments.len(), VIRTUAL_SEGMENTS),
            ("inspection bypass rules", bypass.len(), FILTER_AT - BYPASS_AT),
            ("traffic filters", filters.len(), TRAFFIC_FILTERS),
            ("different policies", covering.len(), POLICIES),
        ];
        for (what, count, most) in counts {
            within(what, count, most)?;
        }
        let rules: Vec<(usize, Match)> = segments
            .chain(bypass.map(|(index, rule)| (BYPASS_AT + index, rule.matching.clone())))
            .chain(filters.map(|(index, filter)| (FILTER_AT + index, filter.matching.clone())))
            .chain(covering.map(|(index, (_, matching))| (POLICY_AT + index, matching.clone())))
            .collect();

        let mut rows = Rows::default();
        let mut classes = empty_classes();
        classes.policy_kind = policies.kinds();
        classes.reputation = u32::from(!precedence.reputation.entries().is_empty());
        fill(&mut classes, &rules, &mut rows);
        let mut networks = Vec::new();
        for destination in [false, true] {
            let lists: Vec<(usize, &[IpNet])> = rules
                .iter()
                .map(|(bit, rule)| {
                    (*bit, if destination { &rule.destinations[..] } else { &rule.sources[..] })
                })
                .collect();
            classes.no_address[usize::from(destination)] = rows.class(any(&lists));
            networks.extend(
                by_network(&lists)
                    .into_iter()
                    .map(|(prefix, address, row)| (destination, prefix, address, row))
                    .map(|(side, prefix, address, row)| {
                        (side, prefix, address, u32::from(rows.class(row)))
                    }),
            );
        }
        within("networks of rules", networks.len(), MAX_NETWORKS)?;
        within("classes of rules", rows.list.len(), ROWS)?;
        let everywhere = !precedence.reputation.entries().is_empty()
            || rules.iter().any(|(bit, rule)| *bit < POLICY_AT && rule.segments.is_empty());
        let named = rules.iter().flat_map(|(_, rule)| rule.segments.iter().copied());
        Ok(Self {
            rows: rows.list,
            classes,
            networks,
            segment_policies: snapshot
                .virtual_segments
                .iter()
                .map(|segment| policies.set(segment.profile))
                .collect(),
            filters: precedence.traffic_filters.iter().map(filter_entry).collect(),
            segments: (!everywhere).then(|| named.collect()),
        })
    }
}

fn within(what: &'static str, count: usize, most: usize) -> Result<(), ApplyError> {
    if count > most { Err(ApplyError::TooMany { what, count, most }) } else { Ok(()) }
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
    /// Past 65535 the list is too long for the tables, and is refused.
    fn class(&mut self, row: Row) -> u16 {
        let next = self.list.len();
        *self.places.entry(row).or_insert_with(|| {
            self.list.push(row);
            u16::try_from(next).unwrap_or(u16::MAX)
        })
    }
}

/// On the heap from the start: it is 400 KiB.
fn empty_classes() -> Box<Classes> {
    let classes = Box::<Classes>::new_uninit();
    let mut classes = classes;
    // SAFETY: `Classes` is plain integers, for which all bits zero are a value; the pointer is the
    // box's own, valid for one `Classes`. Box::new would build it on the stack first.
    unsafe {
        classes.as_mut_ptr().write_bytes(0, 1);
        classes.assume_init()
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
    classes.protocol[0] = rows.class(unknown(&numbers));
    let none = lists(|rule| rule.icmp_types.iter().map(|one| usize::from(*one)).collect());
    classes.icmp_type[NO_ICMP_TYPE] = rows.class(unknown(&none));
    classes.vlan[UNTAGGED] = rows.class(unknown(&ids));
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
    in_network_order: &mut [u16; 65536],
    rules: &'a [(usize, Match)],
    ranges: impl Fn(&'a Match) -> &'a Vec<PortRange>,
    rows: &mut Rows,
) {
    let mut slots = vec![0; 65536];
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
    for (port, class) in (0..=u16::MAX).zip(slots) {
        if let Some(slot) = in_network_order.get_mut(usize::from(port.to_be())) {
            *slot = class;
        }
    }
}

fn any(lists: &[(usize, &[IpNet])]) -> Row {
    let mut row = Row::EMPTY;
    lists.iter().filter(|(_, list)| list.is_empty()).for_each(|(bit, _)| row.set(*bit));
    row
}

/// Each network with all rules that it or one around it is listed by: the longest prefix tells all.
fn by_network(lists: &[(usize, &[IpNet])]) -> Vec<(u32, [u8; 16], Row)> {
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
        let prefix =
            u32::from(network.prefix_len()) + if network.addr().is_ipv4() { 96 } else { 0 };
        result.push((prefix, mapped(network.addr()), row));
    }
    result
}

fn filter_entry(filter: &TrafficFilter) -> FilterEntry {
    let of = |action| FilterEntry { action, ..FilterEntry::default() };
    match filter.action {
        TrafficAction::Block => of(FILTER_BLOCK),
        TrafficAction::Allow => of(FILTER_ALLOW),
        TrafficAction::Trust => of(FILTER_TRUST),
        TrafficAction::RateLimit { bits_per_second } => {
            let picoseconds = (8_000_000_000_000 / bits_per_second.max(1)).max(1);
            let burst = (LARGEST_FRAME.saturating_mul(picoseconds) / 1000).max(RATE_WINDOW_NS);
            FilterEntry { picoseconds, burst, ..of(FILTER_RATE_LIMIT) }
        }
    }
}
