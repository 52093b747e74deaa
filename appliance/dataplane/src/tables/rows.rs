//! One half of the tables: a snapshot's rules as [`weir_policy::precedence::tables`] compiles them, in
//! the types that the programs read.
//!
//! For: everything that is written to one half, computed before any of it is. Not for: writing it.
//! Fails where the rules have more classes, networks or policies than the tables.

use weir_policy::Snapshot;
use weir_policy::precedence::tables::Compiled;
use weir_policy::precedence::{TrafficAction, TrafficFilter};
use weir_policy::snapshot::SegmentId;

use super::ApplyError;
use super::covered::ports_of;
use crate::layout::mapped;
use crate::layout::rules::{
    Classes, FILTER_ALLOW, FILTER_BLOCK, FILTER_RATE_LIMIT, FILTER_TRUST, FilterEntry, PolicySet,
    PortSet, Row,
};

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
    pub covered_ports: PortSet,
    /// Segments in which any rule could match; `None`: in all.
    pub segments: Option<Vec<SegmentId>>,
}

impl Half {
    pub fn compile(snapshot: &Snapshot) -> Result<Self, ApplyError> {
        let precedence = &snapshot.precedence;
        let compiled = Compiled::of(snapshot).map_err(ApplyError::TooMany)?;
        let mut classes = classes_of(&compiled);
        classes.reputation = u32::from(!precedence.reputation.entries().is_empty());
        let networks = compiled.networks.iter().map(|(destination, network, class)| {
            let address = network.addr();
            let prefix = u32::from(network.prefix_len()) + if address.is_ipv4() { 96 } else { 0 };
            (*destination, prefix, mapped(address), u32::from(*class))
        });
        Ok(Self {
            rows: compiled.rows.iter().map(|row| Row(row.0)).collect(),
            classes,
            networks: networks.collect(),
            segment_policies: compiled
                .segment_policies
                .iter()
                .map(|set| PolicySet(set.0))
                .collect(),
            filters: precedence.traffic_filters.iter().map(filter_entry).collect(),
            covered_ports: ports_of(&compiled),
            segments: compiled.segments,
        })
    }
}

fn classes_of(compiled: &Compiled) -> Box<Classes> {
    let mut classes = empty_classes();
    let from = &compiled.classes;
    let lists: [(&mut [u16], &[u16]); 5] = [
        (&mut classes.port, &from.port),
        (&mut classes.protocol, &from.protocol),
        (&mut classes.icmp_type, &from.icmp_type),
        (&mut classes.vlan, &from.vlan),
        (&mut classes.ether_type, &from.ether_type),
    ];
    for (slots, values) in lists {
        for (slot, value) in slots.iter_mut().zip(values) {
            *slot = *value;
        }
    }
    // By the number as it is in the packet.
    let by_port: [(&mut [u16], &[u16]); 2] = [
        (&mut classes.source_port, &from.source_port),
        (&mut classes.destination_port, &from.destination_port),
    ];
    for (slots, values) in by_port {
        for (port, class) in (0..=u16::MAX).zip(values) {
            if let Some(slot) = slots.get_mut(usize::from(port.to_be())) {
                *slot = *class;
            }
        }
    }
    classes.no_address = from.no_address;
    for (slot, kind) in classes.policy_kind.iter_mut().zip(&compiled.policy_kinds) {
        *slot = *kind as u8;
    }
    classes
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
