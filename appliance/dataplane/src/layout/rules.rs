//! Types of the rule tables: `bpf/rules.h`, type for type.

use weir_policy::precedence::tables;
pub use weir_policy::precedence::tables::{
    BYPASS_AT, FILTER_AT, MAX_CLASSES as ROWS, MAX_POLICIES as POLICIES, NO_ICMP_TYPE, RULES,
    UNTAGGED,
};
pub use weir_policy::precedence::{
    MAX_TRAFFIC_FILTERS as TRAFFIC_FILTERS, MAX_VIRTUAL_SEGMENTS as VIRTUAL_SEGMENTS,
};

/// The rules, by bit, that a value satisfies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row(pub [u64; RULES / 64]);
const _: () = assert!(size_of::<Row>() == 416);
/// Entries of both halves in `networks` (`bpf/rule_maps.h`), with those of all IPv4 and all IPv6.
const _: () = assert!((tables::MAX_NETWORKS + 4) * 2 == 65_536);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Classes {
    /// Segment * 2 + side.
    pub port: [u16; 128],
    pub protocol: [u16; 256],
    pub icmp_type: [u16; NO_ICMP_TYPE + 8],
    pub vlan: [u16; UNTAGGED + 8],
    pub ether_type: [u16; 65536],
    pub source_port: [u16; 65536],
    pub destination_port: [u16; 65536],
    pub no_address: [u16; 2],
    pub policy_kind: [u8; POLICIES],
    pub reputation: u32,
}
const _: () = assert!(size_of::<Classes>() == 404_776);

/// The data of an LPM key: scope, then the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetworkKey {
    /// Half * 2; 1 more for destinations.
    pub scope: u32,
    pub address: [u8; 16],
}
const _: () = assert!(size_of::<NetworkKey>() == 20);

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicySet(pub [u64; POLICIES / 64]);

pub const FILTER_BLOCK: u32 = 1;
pub const FILTER_ALLOW: u32 = 2;
pub const FILTER_TRUST: u32 = 3;
pub const FILTER_RATE_LIMIT: u32 = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterEntry {
    pub next: u64,
    pub picoseconds: u64,
    pub burst: u64,
    pub action: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<FilterEntry>() == 32);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCount {
    pub packets: u64,
    pub bytes: u64,
}

/// TCP ports, a bit each, by their number in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSet(pub [u8; 65536 / 8]);
const _: () = assert!(size_of::<PortSet>() == 8192);

/// Key of the table of drops.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualDrop {
    /// Number from 0, of a half: half * [`VIRTUAL_SEGMENTS`] more.
    pub virtual_segment: u32,
    pub counter: u32,
}
const _: () = assert!(size_of::<VirtualDrop>() == 8);

// SAFETY: all of these are `repr(C)`, `Copy`, plain integers, valid for any bytes, and have no
// padding (their sizes are asserted, or all fields are of one type); aya::Pod asks for no more and
// has no safe derive.
unsafe impl aya::Pod for Row {}
// SAFETY: as above.
unsafe impl aya::Pod for Classes {}
// SAFETY: as above.
unsafe impl aya::Pod for NetworkKey {}
// SAFETY: as above.
unsafe impl aya::Pod for PolicySet {}
// SAFETY: as above.
unsafe impl aya::Pod for FilterEntry {}
// SAFETY: as above.
unsafe impl aya::Pod for RuleCount {}
// SAFETY: as above.
unsafe impl aya::Pod for VirtualDrop {}
// SAFETY: as above.
unsafe impl aya::Pod for PortSet {}
