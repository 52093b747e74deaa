//! Types shared with the eBPF programs: `bpf/weir.h`, type for type.
//!
//! For: what the maps and the ring carry, with the sizes asserted on both sides. Not for: meaning;
//! the header says what each field is. Does not fail.

pub mod quic;
pub mod rules;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Differs with every change of what the pinned maps are made from, so that none of another layout is
/// ever taken on: pins of another layout are removed on open. A change of a comment alone makes
/// another one, too, which costs nothing: another build comes with a boot of its own.
pub const LAYOUT: u64 = fingerprint(&[
    include_str!("../bpf/weir.h"),
    include_str!("../bpf/rules.h"),
    include_str!("../bpf/maps.h"),
    include_str!("../bpf/rule_maps.h"),
    include_str!("../bpf/counters.h"),
]);

/// FNV-1a.
const fn fingerprint(texts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut rest = texts;
    while let Some((text, others)) = rest.split_first() {
        let mut bytes = text.as_bytes();
        while let Some((byte, after)) = bytes.split_first() {
            hash = (hash ^ *byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
            bytes = after;
        }
        rest = others;
    }
    hash
}

/// What the directory of this layout's pins is called.
pub fn pins_name() -> String {
    format!("layout-{LAYOUT:016x}")
}

/// Names of the programs' counters and what one count of each means, in the order of their index
/// (made from `bpf/counters.h`).
pub const COUNTERS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/counters.rs"));

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub segment: u32,
    pub outer_vlan: u16,
    pub inner_vlan: u16,
    pub tunnel: u8,
    pub reserved: [u8; 3],
    pub tunnel_key: u32,
    pub outer: [[u8; 4]; 2],
    pub address: [[u8; 16]; 2],
    /// Big-endian.
    pub port: [[u8; 2]; 2],
}
const _: () = assert!(size_of::<FlowKey>() == 60);

impl FlowKey {
    /// An end's address and port: 0 the lower, 1 the higher.
    pub fn end(&self, high: bool) -> SocketAddr {
        let (address, port) =
            if high { (self.address[1], self.port[1]) } else { (self.address[0], self.port[0]) };
        let address = Ipv6Addr::from(address);
        let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
        SocketAddr::new(address, u16::from_be_bytes(port))
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Port {
    pub segment: u32,
    pub side: u32,
    pub interface: [u32; 2],
    pub engine: u32,
}
const _: () = assert!(size_of::<Port>() == 20);
pub const SIDE_ENGINE: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Configuration {
    pub heartbeat_timeout: u64,
    pub fallback: u32,
    pub attached: u32,
    pub generation: u64,
    pub evasion: u32,
    pub client_flows: u32,
    pub seed: u64,
    pub policies: u64,
}
const _: () = assert!(size_of::<Configuration>() == 48);

/// Ways of provoking a bypass, where policy blocks them (SPEC D15).
pub const EVASION_SERVER_SPEAKS_FIRST: u32 = 1;
pub const EVASION_SYN_DATA: u32 = 2;
pub const EVASION_UNTAKEABLE_OPTIONS: u32 = 4;
pub const EVASION_UNSEEN_HANDSHAKE: u32 = 8;
pub const EVASION_FRAGMENTS: u32 = 16;
pub const EVASION_DECOY: u32 = 32;
pub const EVASION_TABLE_FULL: u32 = 64;
pub const EVASION_CLIENT_FLOOD: u32 = 128;
pub const EVASION_TWO_PASSES: u32 = 256;
pub const EVASION_UNREAD_HEADERS: u32 = 512;

/// Engines that can live at one time.
pub const ENGINES: u32 = 16;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineInstance {
    pub heartbeat: u64,
    pub number: u32,
    pub reserved: u32,
}
const _: () = assert!(size_of::<EngineInstance>() == 16);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SegmentSettings {
    pub block_all: u32,
    pub rules: u32,
}

/// A flow's state in the eBPF tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    HalfOpen = 1,
    Ignored = 2,
    Held = 3,
    Releasing = 4,
    Released = 5,
    Taken = 6,
    Tombstone = 7,
    Blocked = 8,
    Watched = 9,
    Answered = 10,
}

impl State {
    pub fn of(word: u64) -> Option<Self> {
        Some(match word & 0xff {
            1 => Self::HalfOpen,
            2 => Self::Ignored,
            3 => Self::Held,
            4 => Self::Releasing,
            5 => Self::Released,
            6 => Self::Taken,
            7 => Self::Tombstone,
            8 => Self::Blocked,
            9 => Self::Watched,
            10 => Self::Answered,
            _ => return None,
        })
    }
}

/// Nanoseconds in which whoever changes an entry to a state that is not one of the flow table's has deleted
/// it.
pub const SYN_ANSWERED: u64 = 10_000_000_000;

pub const END_WINDOW_SCALE: u8 = 2;
pub const END_SACK: u8 = 4;
pub const END_TIMESTAMPS: u8 = 8;
pub const END_SPOKEN_TO: u8 = 64;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct End {
    pub isn: u32,
    /// Of its SYN; once the flow is taken, the programs have the end's next sequence number here.
    pub tsval: u32,
    pub syn_window: u16,
    pub mss: u16,
    pub window_scale: u8,
    pub flags: u8,
    pub ttl: u8,
    pub tos: u8,
    pub mac: [u8; 12],
    pub vlan_tci: u16,
    pub outer_ttl: u8,
    pub outer_tos: u8,
    /// Network order.
    pub tunnel_key: [u8; 4],
    /// First word of the IPv6 header.
    pub flow_label: u32,
    /// Network order.
    pub outer_fragment: [u8; 2],
    pub tunnel: u8,
    /// A packet of it came marked CE, and it has not said CWR since.
    pub congested: u8,
}
const _: () = assert!(size_of::<End>() == 44);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    pub word: u64,
    pub touched: u64,
    /// 0: client, 1: server.
    pub end: [End; 2],
    pub client_low: u8,
    pub client_side: u8,
    pub contested: u8,
    pub acknowledged: u8,
    pub owner: u32,
    /// From the client's first byte on, its FIN included. Once taken, the programs have the client's
    /// timestamp here.
    pub judged: u32,
    pub successor: u32,
    pub successor_side: u8,
    /// A server policy covers it.
    pub served: u8,
    /// Among its client's flows.
    pub counted: u8,
    /// Before it is held: an end ended or reset it, as far as anybody can tell; 0, or how.
    pub reset: u8,
    /// Of `judged`, so much the server acknowledged; before the release, what [`Self::heard`] says. Once
    /// taken the programs have something else here.
    pub server_heard: u32,
    /// Bytes of the server that crossed behind its SYN-ACK, repeated ones too.
    pub said: u32,
    /// Of the SYN, in bytes.
    pub syn_payload: u32,
}
const _: () = assert!(size_of::<Flow>() == 136);

impl Flow {
    /// Of a held flow: the sequence number of its server up to which the client acknowledged it, by packets
    /// that crossed. What is before it the server does not say again.
    pub fn heard(&self) -> u32 {
        let [_, server] = &self.end;
        server.isn.wrapping_add(1).wrapping_add(self.server_heard)
    }

    /// Whether its server ended without a word, which its client acknowledged by a packet that crossed.
    pub fn heard_the_end(&self) -> bool {
        self.reset == RESET_BY_SERVER && self.server_heard != 0
    }
}

pub const RESET_BY_ANYBODY: u8 = 1;
pub const RESET_BY_SERVER: u8 = 2;
pub const RESET_BY_CLIENT: u8 = 3;
pub const SERVER_SPOKE: u8 = 4;

/// Cells of one row of the table `client_flows`, where each group of counts has two rows: flows held or
/// in their handshake, all entries, and those in [`State::Answered`]; then the sums of the last two. The
/// upper half of a cell changes with each change of it.
pub const CLIENT_CELLS: u32 = 8192;
pub const CLIENT_ENTRIES: u32 = 2 * CLIENT_CELLS;
pub const CLIENT_HANDSHAKES: u32 = 4 * CLIENT_CELLS;
pub const CLIENT_ENTRIES_ALL: u32 = 6 * CLIENT_CELLS;
pub const CLIENT_HANDSHAKES_ALL: u32 = CLIENT_ENTRIES_ALL + 1;
/// The part of the table of flows that such entries may have.
pub const HANDSHAKES_PART: u32 = 4;

/// What such a cell counts. Below 0, by races, it is none.
pub fn count_of(cell: u64) -> i32 {
    cell as i32
}

/// A flow entry's identity: the word without its state.
pub fn id_of(word: u64) -> u64 {
    word >> 8
}

/// Most rings of held packets.
pub const MAX_RINGS: usize = 64;

/// The ring that all records of a flow come by, of `rings` in use: the CPU that saw its SYN is in
/// the id's last byte.
pub fn ring_of(id: u64, rings: usize) -> usize {
    (id & 0xff) as usize % rings.max(1)
}

pub const HELD_FIRST: u32 = 1;
pub const HELD_SERVER_SPOKE: u32 = 3;
pub const HELD_FINAL: u32 = 6;
pub const HELD_SERVER_FIRST: u32 = 7;
pub const HELD_CLIENT_ALIVE: u32 = 8;
pub const HELD_SERVER_ALIVE: u32 = 9;

/// Header of a record of the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub id: u64,
    pub flow: Flow,
    pub key: FlowKey,
    pub kind: u32,
    pub length: u32,
    pub gso_size: u32,
    pub gso_segments: u32,
    pub vlan_tci: u16,
    pub vlan_present: u16,
}
const _: () = assert!(size_of::<Held>() == 224);

impl Held {
    /// The VLAN tag that the kernel keeps beside the frame.
    pub fn tag(&self) -> Option<u16> {
        (self.vlan_present != 0).then_some(self.vlan_tci)
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Command {
    pub id: u64,
    pub key: FlowKey,
    pub from: u32,
    pub to: u32,
    pub delete: u32,
    pub judged: u32,
    pub client_time: u32,
}
const _: () = assert!(size_of::<Command>() == 88);
pub const COMMAND_SWAPPED: u32 = 0x100;
pub const COMMAND_TUPLE_OWNED: u32 = 0x200;
pub const COMMAND_SPOKEN_TO: u32 = 0x400;

/// IPv4 as v4-mapped, as in the keys.
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address).octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Reads a `Held` at the start of a ring record, and the frame after it.
pub fn read_held(record: &[u8]) -> Option<(Held, &[u8])> {
    let (header, rest) = record.split_at_checked(size_of::<Held>())?;
    // SAFETY: `Held` is plain integers, valid for any bytes, and `header` has its size;
    // read_unaligned asks for no alignment. std has no safe way to read a struct from bytes.
    let held = unsafe { header.as_ptr().cast::<Held>().read_unaligned() };
    let frame = rest.get(..usize::try_from(held.length).ok()?)?;
    Some((held, frame))
}

impl Command {
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `Command` has no padding (8 + 60 + 5 * 4 = 88, asserted above), so all its bytes
        // are initialised, and they are borrowed as long as it is; std has no safe way to view a
        // struct as bytes.
        unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(self).cast::<u8>(), size_of::<Self>())
        }
    }
}

// SAFETY: all of these are `repr(C)`, `Copy`, plain integers, valid for any bytes, and have no
// padding (their sizes are asserted); aya::Pod asks for no more and has no safe derive.
unsafe impl aya::Pod for FlowKey {}
// SAFETY: as above.
unsafe impl aya::Pod for Port {}
// SAFETY: as above.
unsafe impl aya::Pod for Configuration {}
// SAFETY: as above.
unsafe impl aya::Pod for EngineInstance {}
// SAFETY: as above.
unsafe impl aya::Pod for SegmentSettings {}
// SAFETY: as above.
unsafe impl aya::Pod for Flow {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_counter_or_another_table_is_another_layout() {
        let counters = include_str!("../bpf/counters.h");
        let (first, rest) = counters.split_once("\nCOUNTER(").unwrap();
        let more = format!("{first}\nCOUNTER(one_more, \"one\")\nCOUNTER({rest}");
        assert_ne!(fingerprint(&[counters]), fingerprint(&[&more]));
        let maps = include_str!("../bpf/maps.h");
        let larger = maps.replacen("max_entries, 8192", "max_entries, 8193", 1);
        assert_ne!(maps, larger);
        assert_ne!(fingerprint(&[maps, counters]), fingerprint(&[&larger, counters]));
    }
}
