//! A captured frame, read as far as filters and one-line summaries need it.
//!
//! For: VLAN ids, the network headers (the outer one, and the inner one of an IP-in-IP or GRE
//! tunnel), ports and TCP flags. Not for: judging whether a packet is right. Never fails: what is
//! cut off or not understood is absent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP6: u8 = 58;
const IP_IN_IP: u8 = 4;
const IP6_IN_IP: u8 = 41;
const GRE: u8 = 47;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad and its older number.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Extension headers looked through; a packet with more has no protocol that we know.
const MOST_EXTENSIONS: usize = 8;

/// Whether a frame came in from the wire or went out to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

/// One network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The protocol above, extension headers skipped.
    pub protocol: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub way: Way,
    /// Bytes on the wire.
    pub length: usize,
    /// The outer and the inner VLAN id.
    pub vlans: [Option<u16>; 2],
    /// Behind the tags.
    pub ether_type: u16,
    /// The outer and, in a tunnel, the inner one.
    pub layers: [Option<Layer>; 2],
    /// Sender and target of an ARP packet.
    pub arp: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Source and destination, of the innermost TCP or UDP header.
    pub ports: Option<(u16, u16)>,
    /// Sequence number, flags, payload bytes.
    pub tcp: Option<(u32, u8, usize)>,
}

impl Packet {
    /// `length`: bytes on the wire; the frame may be cut off.
    pub fn parse(frame: &[u8], length: usize, way: Way) -> Self {
        let mut packet = Self {
            way,
            length,
            vlans: [None; 2],
            ether_type: 0,
            layers: [None; 2],
            arp: None,
            ports: None,
            tcp: None,
        };
        packet.ethernet(frame);
        packet
    }

    /// The innermost network header.
    pub fn innermost(&self) -> Option<&Layer> {
        self.layers.iter().flatten().next_back()
    }

    fn ethernet(&mut self, frame: &[u8]) -> Option<()> {
        let mut at = 12;
        self.ether_type = word(frame, at)?;
        for vlan in &mut self.vlans {
            if !TAGS.contains(&self.ether_type) {
                break;
            }
            *vlan = Some(word(frame, at + 2)? & 0xfff);
            at += 4;
            self.ether_type = word(frame, at)?;
        }
        let rest = frame.get(at + 2..)?;
        match self.ether_type {
            IPV4 | IPV6 => self.network(rest, 0),
            ARP => {
                self.arp = Some((address4(rest, 14)?, address4(rest, 24)?));
                Some(())
            }
            _ => None,
        }
    }

    fn network(&mut self, bytes: &[u8], depth: usize) -> Option<()> {
        let (layer, above, first) = match bytes.first()? >> 4 {
            4 => ipv4(bytes)?,
            6 => ipv6(bytes)?,
            _ => return None,
        };
        *self.layers.get_mut(depth)? = Some(layer);
        if !first {
            return None; // a later fragment: what follows is no header
        }
        match layer.protocol {
            TCP | UDP => {
                self.ports = Some((word(above, 0)?, word(above, 2)?));
                if layer.protocol == TCP {
                    let header = usize::from(above.get(12)? >> 4) * 4;
                    let payload = above.len().saturating_sub(header);
                    self.tcp = Some((long(above, 4)?, *above.get(13)?, payload));
                }
                Some(())
            }
            IP_IN_IP | IP6_IN_IP => self.network(above, depth + 1),
            GRE => {
                let flags = word(above, 0)?;
                if !matches!(word(above, 2)?, IPV4 | IPV6) {
                    return None;
                }
                // Checksum, key and sequence number: four bytes each (RFC 2784, RFC 2890).
                let options = [0x8000, 0x2000, 0x1000].iter().filter(|bit| flags & **bit != 0);
                self.network(above.get(4 + 4 * options.count()..)?, depth + 1)
            }
            _ => Some(()),
        }
    }
}

/// The header, what is above it, and whether that begins with a header.
fn ipv4(bytes: &[u8]) -> Option<(Layer, &[u8], bool)> {
    let layer = Layer {
        source: IpAddr::V4(address4(bytes, 12)?),
        destination: IpAddr::V4(address4(bytes, 16)?),
        protocol: *bytes.get(9)?,
    };
    let header = usize::from(bytes.first()? & 15) * 4;
    // 0 in frames over 64 KiB; Ethernet padding is no payload.
    let total = match usize::from(word(bytes, 2)?) {
        0 => bytes.len(),
        total => total.min(bytes.len()),
    };
    Some((layer, bytes.get(header..total)?, word(bytes, 6)? & 0x1fff == 0))
}

fn ipv6(bytes: &[u8]) -> Option<(Layer, &[u8], bool)> {
    let address = |at: usize| {
        let bytes: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(bytes)))
    };
    let total = match usize::from(word(bytes, 4)?) {
        0 => bytes.len(),
        payload => (40 + payload).min(bytes.len()),
    };
    let mut protocol = *bytes.get(6)?;
    let mut above = bytes.get(40..total)?;
    let mut first = true;
    for _ in 0..MOST_EXTENSIONS {
        let length = match protocol {
            // Hop-by-hop, routing, destination options (RFC 8200, section 4).
            0 | 43 | 60 => (usize::from(*above.get(1)?) + 1) * 8,
            44 => {
                first &= word(above, 2)? & 0xfff8 == 0;
                8
            }
            51 => (usize::from(*above.get(1)?) + 2) * 4, // RFC 4302
            _ => break,
        };
        protocol = *above.first()?;
        above = above.get(length..)?;
        if !first {
            break;
        }
    }
    Some((Layer { source: address(8)?, destination: address(24)?, protocol }, above, first))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn address4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Ethernet with the given type or tag chain, then `rest`.
    pub fn ethernet(types: &[u16], rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        frame.extend(types.iter().flat_map(|one| one.to_be_bytes()));
        frame.extend(rest);
        frame
    }

    pub fn ip4(protocol: u8, above: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + above.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        bytes.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend(above);
        bytes
    }

    pub fn tcp(flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0x13, 0x88, 0x01, 0xbb, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, flags];
        bytes.extend([0; 6]);
        bytes.extend(vec![0x17; payload]);
        bytes
    }

    #[test]
    fn tags_tunnels_and_padding_are_looked_through() {
        let plain = ip4(TCP, &tcp(2, 5));
        let mut padded = plain.clone();
        padded.extend([0; 9]);
        let gre = ip4(GRE, &[&[0x20, 0, 8, 0, 0, 0, 0, 7], plain.as_slice()].concat());
        for (types, bytes, layers) in [
            (&[IPV4][..], &padded, 1),
            (&[0x8100, 100, IPV4], &plain, 1),
            (&[0x88a8, 7, 0x8100, 100, IPV4], &plain, 1),
            (&[IPV4], &gre, 2),
            (&[IPV4], &ip4(IP_IN_IP, &plain), 2),
        ] {
            let frame = ethernet(types, bytes);
            let packet = Packet::parse(&frame, frame.len(), Way::In);
            assert_eq!(packet.ports, Some((5000, 443)), "{types:?}");
            assert_eq!(packet.tcp, Some((9, 2, 5)), "{types:?}");
            assert_eq!(packet.layers.iter().flatten().count(), layers, "{types:?}");
            assert_eq!(packet.vlans.iter().flatten().count(), (types.len() - 1) / 2, "{types:?}");
        }
    }

    #[test]
    fn ipv6_extension_headers_are_skipped_and_a_later_fragment_has_no_ports() {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, 60, 64];
        bytes.extend([0xfe; 32]);
        bytes.extend([TCP, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(tcp(0x18, 0));
        let frame = ethernet(&[IPV6], &bytes);
        assert_eq!(Packet::parse(&frame, 0, Way::Out).ports, Some((5000, 443)));
        let mut fragment = ip4(TCP, &tcp(2, 5));
        fragment[7] = 9;
        let packet = Packet::parse(&ethernet(&[IPV4], &fragment), 0, Way::In);
        assert_eq!(packet.ports, None);
        assert_eq!(packet.layers[0].unwrap().protocol, TCP);
    }

    #[test]
    fn no_cut_off_frame_is_read_past_its_end() {
        let inner = ip4(TCP, &tcp(2, 5));
        let gre = ip4(GRE, &[&[0x20, 0, 8, 0, 0, 0, 0, 7], inner.as_slice()].concat());
        let frame = ethernet(&[0x8100, 100, IPV4], &gre);
        for end in 0..=frame.len() {
            let packet = Packet::parse(&frame[..end], frame.len(), Way::In);
            assert_eq!(packet.tcp.is_some(), end >= frame.len() - 11, "{end}");
        }
    }
}
