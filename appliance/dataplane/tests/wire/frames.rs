//! Captured frames with everything below TCP: tag, tunnel, IP header, checksums.

use std::net::{IpAddr, SocketAddr};

/// A TCP packet as a capture has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub mac: [u8; 12],
    pub vlan_tci: Option<u16>,
    /// The tunnel's IPv4 header without length, id and checksum, and the GRE header.
    pub tunnel: Option<Vec<u8>>,
    /// Length and checksum of every IPv4 header, and the checksum of TCP, are right.
    pub whole: bool,
    /// Length of the outermost IP packet, and of the innermost.
    pub outer_length: usize,
    pub length: usize,
    pub ttl: u8,
    pub tos: u8,
    pub flow_label: u32,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
    pub flags: u8,
    pub window: u16,
    /// Of the innermost IPv4 header; 0 of IPv6.
    pub id: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0))).sum()
}

fn checks(sum: u32) -> bool {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

impl Frame {
    /// `None`: not TCP.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let mac = frame[..12].try_into().unwrap();
        let (mut ether_type, mut at, mut vlan_tci) = (word(frame, 12), 14, None);
        if ether_type == 0x8100 {
            vlan_tci = Some(word(frame, 14));
            ether_type = word(frame, 16);
            at = 18;
        }
        let (mut tunnel, mut whole) = (None, true);
        let outer = at;
        if ether_type == 0x0800 && matches!(frame[at + 9], 4 | 47) {
            let ip = &frame[at..at + 20];
            whole &= checks(sum(ip)) && usize::from(word(ip, 2)) == frame.len() - at;
            let gre = match (ip[9], frame[at + 20]) {
                (4, _) => 0,
                (_, 0x20) => 8,
                _ => 4,
            };
            let start = [&ip[..2], &ip[6..10], &ip[12..20], &frame[at + 20..at + 20 + gre]];
            tunnel = Some(start.concat());
            at += 20 + gre;
        }
        let (outer_length, length) = (frame.len() - outer, frame.len() - at);
        let ip = &frame[at..];
        let (header, ttl, tos, flow_label, from, to, protocol): (_, _, _, _, IpAddr, IpAddr, _) =
            if ether_type == 0x0800 {
                whole &= checks(sum(&ip[..20])) && usize::from(word(ip, 2)) == ip.len();
                let address = |at: usize| <[u8; 4]>::try_from(&ip[at..at + 4]).unwrap().into();
                (20, ip[8], ip[1], 0, address(12), address(16), ip[9])
            } else if ether_type == 0x86dd {
                whole &= usize::from(word(ip, 4)) + 40 == ip.len();
                let first = u32::from_be_bytes(ip[..4].try_into().unwrap());
                let address = |at: usize| <[u8; 16]>::try_from(&ip[at..at + 16]).unwrap().into();
                (40, ip[7], (first >> 20) as u8, first & 0xfffff, address(8), address(24), ip[6])
            } else {
                return None;
            };
        if protocol != 6 {
            return None;
        }
        let tcp = &ip[header..];
        let offset = usize::from(tcp[12] >> 4) * 4;
        let addresses = if header == 20 { &ip[12..20] } else { &ip[8..40] };
        whole &= checks(sum(addresses) + 6 + tcp.len() as u32 + sum(tcp));
        Some(Self {
            mac,
            vlan_tci,
            tunnel,
            whole,
            outer_length,
            length,
            ttl,
            tos,
            flow_label,
            from: (from, word(tcp, 0)).into(),
            to: (to, word(tcp, 2)).into(),
            sequence: u32::from_be_bytes(tcp[4..8].try_into().unwrap()),
            flags: tcp[13],
            window: word(tcp, 14),
            id: if header == 20 { word(ip, 4) } else { 0 },
            options: tcp[20..offset].to_vec(),
            payload: tcp[offset..].to_vec(),
        })
    }
}
