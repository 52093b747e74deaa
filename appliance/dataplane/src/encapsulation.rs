//! The headers of one end's packets below its IP packets: VLAN tag and tunnel, as that end sends them.
//!
//! For: segments of our own (`segment_of_ours`) and the room that a tunnel takes. Not for: frames
//! off the wire, which keep their headers byte for byte (`frame`). Does not fail.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::checksum::complete_ipv4;
use crate::layout::{End, FlowKey};

/// Kinds of tunnel in `FlowKey::tunnel` and `End::tunnel` (`enum tunnel` in bpf/packet.h).
const IPIP: u8 = 1;
const GRE: u8 = 2;
const GRE_KEY: u8 = 3;

/// `0x0800` and the like, of what follows the Ethernet header or the tag.
pub const TYPE_VLAN: u16 = 0x8100;
pub const TYPE_IPV4: u16 = 0x0800;
pub const TYPE_IPV6: u16 = 0x86dd;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encapsulation {
    /// 802.1Q tag: PCP, DEI and VLAN id.
    pub vlan_tci: Option<u16>,
    pub tunnel: Option<Tunnel>,
}

/// An outer IPv4 header and what follows it (RFC 2003, RFC 2784, RFC 2890).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub kind: TunnelKind,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub ttl: u8,
    pub tos: u8,
    pub dont_fragment: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    Ipip,
    Gre,
    GreKey([u8; 4]),
}

impl Encapsulation {
    /// Of the packets that `end` sends; `low`: it is end 0 of the key.
    pub fn of(key: &FlowKey, end: &End, low: bool) -> Self {
        let [first, second] = key.outer.map(Ipv4Addr::from);
        let (from, to) = if low { (first, second) } else { (second, first) };
        let kind = match end.tunnel {
            IPIP => Some(TunnelKind::Ipip),
            GRE => Some(TunnelKind::Gre),
            GRE_KEY => Some(TunnelKind::GreKey(end.tunnel_key)),
            _ => None,
        };
        Self {
            // Without a VLAN a tag has a priority alone.
            vlan_tci: (key.outer_vlan != 0 || end.vlan_tci != 0).then_some(end.vlan_tci),
            tunnel: kind.map(|kind| Tunnel {
                kind,
                from,
                to,
                ttl: end.outer_ttl,
                tos: end.outer_tos & 0xfc,
                dont_fragment: end.outer_fragment[0] & 0x40 != 0,
            }),
        }
    }

    /// Bytes that the tunnel adds to an IP packet.
    pub fn overhead(&self) -> u32 {
        self.tunnel.map_or(0, |tunnel| tunnel.length() as u32)
    }

    /// Writes everything before the IP packet of `length` bytes: Ethernet header, tag, tunnel.
    pub fn write(&self, bytes: &mut Vec<u8>, mac: [u8; 12], ether_type: u16, length: usize) {
        bytes.extend(mac);
        if let Some(tci) = self.vlan_tci {
            bytes.extend(TYPE_VLAN.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        let outermost = if self.tunnel.is_some() { TYPE_IPV4 } else { ether_type };
        bytes.extend(outermost.to_be_bytes());
        if let Some(tunnel) = self.tunnel {
            tunnel.write(bytes, ether_type, length);
        }
    }
}

impl Tunnel {
    fn length(&self) -> usize {
        match self.kind {
            TunnelKind::Ipip => 20,
            TunnelKind::Gre => 24,
            TunnelKind::GreKey(_) => 28,
        }
    }

    fn write(&self, bytes: &mut Vec<u8>, ether_type: u16, length: usize) {
        /// Unique among our own packets, which are few (RFC 6864 4.2).
        static NEXT_ID: AtomicU16 = AtomicU16::new(0);
        let at = bytes.len();
        let total = (self.length() + length) as u16;
        let protocol = if self.kind == TunnelKind::Ipip { 4 } else { 47 };
        bytes.extend([0x45, self.tos]);
        bytes.extend(total.to_be_bytes());
        bytes.extend(NEXT_ID.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        bytes.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, protocol, 0, 0]);
        bytes.extend(self.from.octets());
        bytes.extend(self.to.octets());
        complete_ipv4(bytes, at, 20);
        match self.kind {
            TunnelKind::Ipip => {}
            TunnelKind::Gre => {
                bytes.extend([0, 0]);
                bytes.extend(ether_type.to_be_bytes());
            }
            TunnelKind::GreKey(key) => {
                bytes.extend([0x20, 0]);
                bytes.extend(ether_type.to_be_bytes());
                bytes.extend(key);
            }
        }
    }
}
