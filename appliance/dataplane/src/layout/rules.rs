//! Types of the rule tables: `bpf/rules.h`, type for type.

/// First bits of the groups of rules in a row, and the bits of a row.
pub const VIRTUAL_SEGMENTS: usize = 512;
pub const BYPASS_AT: usize = VIRTUAL_SEGMENTS;
pub const FILTER_AT: usize = BYPASS_AT + 256;
pub const TRAFFIC_FILTERS: usize = 512;
pub const POLICY_AT: usize = FILTER_AT + TRAFFIC_FILTERS;
pub const POLICIES: usize = 256;
pub const RULES: usize = POLICY_AT + POLICIES;
/// Rows of one half.
pub const ROWS: usize = 16_384;

/// The rules, by bit, that a value satisfies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row(pub [u64; RULES / 64]);
const _: () = assert!(size_of::<Row>() == 192);

impl Row {
    pub const EMPTY: Self = Self([0; RULES / 64]);

    /// Bits past the last rule are ignored; the compiler bounds them.
    pub fn set(&mut self, bit: usize) {
        if let Some(word) = self.0.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    pub fn clear(&mut self, bit: usize) {
        if let Some(word) = self.0.get_mut(bit / 64) {
            *word &= !(1 << (bit % 64));
        }
    }

    pub fn or(mut self, other: &Self) -> Self {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        self
    }
}

pub const NO_ICMP_TYPE: usize = 256;
pub const UNTAGGED: usize = 4096;

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
const _: () = assert!(size_of::<Classes>() == 402_984);

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
