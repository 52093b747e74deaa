//! Segments of a raw end, as they are sent and as they arrive.

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PUSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URGENT: u8 = 32;
pub const ECE: u8 = 64;
pub const CWR: u8 = 128;

/// What of a segment is not as usual.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub payload: &'a [u8],
    pub options: &'a [u8],
    pub ttl: u8,
    pub window: u16,
    pub bad_checksum: bool,
    pub more_fragments: bool,
    /// Distance from the first byte to past the urgent one, where the flags say so.
    pub urgent: u16,
    /// Tags before the packet: VLAN ids.
    pub tags: &'a [u8],
    /// DSCP and ECN of its IPv4 header, and of its tunnel's.
    pub tos: u8,
    pub outer_tos: u8,
}

/// A segment that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub window: u16,
    /// Destination, source.
    pub mac: [u8; 12],
    pub ttl: u8,
    pub tos: u8,
    /// Of its tunnel's header; 0 where there is none.
    pub outer_tos: u8,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}
