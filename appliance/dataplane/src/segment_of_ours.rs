//! TCP segments made here: acknowledgements and resets, as an end of a flow would send them.
//!
//! For: empty segments over IPv4 and IPv6, in that end's VLAN and tunnel. Not for: data. Gives
//! nothing where the two addresses are of different families.

use std::net::{IpAddr, SocketAddr};

use crate::checksum::complete_ipv4;
use crate::encapsulation::{Encapsulation, TYPE_IPV4, TYPE_IPV6};
use crate::frame::Frame;

/// What a segment of our own is made of.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Destination, source.
    pub mac: [u8; 12],
    pub encapsulation: Encapsulation,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// IPv6 only, 20 bits.
    pub flow_label: u32,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub window: u16,
    /// Value and echo reply.
    pub timestamps: Option<(u32, u32)>,
}

impl Segment {
    /// The frame; `None` where the addresses are not of one family.
    pub fn frame(&self) -> Option<Frame> {
        let options: usize = if self.timestamps.is_some() { 12 } else { 0 };
        let tcp = 20 + options;
        let mut bytes = Vec::with_capacity(128);
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                self.encapsulation.write(&mut bytes, self.mac, TYPE_IPV4, 20 + tcp);
                let at = bytes.len();
                bytes.extend([0x45, self.tos]);
                bytes.extend((20 + tcp as u16).to_be_bytes());
                bytes.extend([0, 0, 0x40, 0, self.ttl, 6, 0, 0]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
                complete_ipv4(&mut bytes, at, 20);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                self.encapsulation.write(&mut bytes, self.mac, TYPE_IPV6, 40 + tcp);
                let word = 6 << 28 | u32::from(self.tos) << 20 | self.flow_label & 0xfffff;
                bytes.extend(word.to_be_bytes());
                bytes.extend((tcp as u16).to_be_bytes());
                bytes.extend([6, self.ttl]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            _ => return None,
        }
        bytes.extend(self.from.port().to_be_bytes());
        bytes.extend(self.to.port().to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledged.to_be_bytes());
        bytes.extend([(tcp as u8 / 4) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0, 0, 0]);
        if let Some((value, echo)) = self.timestamps {
            bytes.extend([1, 1, 8, 10]);
            bytes.extend(value.to_be_bytes());
            bytes.extend(echo.to_be_bytes());
        }
        Frame::of_ours(bytes)
    }
}
