//! What the programs and user space say to one another of QUIC that policy blocks: `bpf/weir.h`, type for type.

use super::FlowKey;

/// `struct dropped`, before its frame.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DroppedHeader {
    pub policy: u64,
    pub key: FlowKey,
    pub side: u32,
    pub from_low: u32,
    pub length: u32,
    pub gso_size: u32,
    pub vlan_tci: u16,
    pub vlan_present: u16,
}
const _: () = assert!(size_of::<DroppedHeader>() + 3072 == 3160);

/// Most bytes of a name in an [`Excepted`].
pub const EXCEPTED_NAME: usize = 260;
/// Nanoseconds without a packet after which it is no more; bpf/quic.h says why.
pub const EXCEPTED_QUIC: u64 = 900_000_000_000;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Excepted {
    pub last: u64,
    pub policy: u64,
    pub length: u16,
    pub side: u8,
    pub client_low: u8,
    pub name: [u8; EXCEPTED_NAME],
}
const _: () = assert!(size_of::<Excepted>() == 280);

// SAFETY: plain integers, valid for any bytes, without padding (the size is asserted); aya::Pod asks for no more
// and has no safe derive.
unsafe impl aya::Pod for Excepted {}

/// Reads a `DroppedHeader` at the start of a ring record, and the frame after it.
pub fn read_dropped(record: &[u8]) -> Option<(DroppedHeader, &[u8])> {
    let (header, rest) = record.split_at_checked(size_of::<DroppedHeader>())?;
    // SAFETY: `DroppedHeader` is plain integers, valid for any bytes, and `header` has its size;
    // read_unaligned asks for no alignment. std has no safe way to read a struct from bytes.
    let dropped = unsafe { header.as_ptr().cast::<DroppedHeader>().read_unaligned() };
    let frame = rest.get(..usize::try_from(dropped.length).ok()?)?;
    Some((dropped, frame))
}
