//! What the programs are to find in a frame, whatever it is: `parse` of bpf/packet.h told once more, from the
//! same rules (SPEC D4, D6). Not for: counters, and what only the flow machine looks at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_policy::precedence::{ICMP, ICMPV6, PacketFacts, TCP, UDP};
use weir_policy::snapshot::{SegmentId, Side};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const IPIP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;
/// Further extension headers are not read.
const MAX_EXTENSIONS: usize = 6;

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

struct Ipv4 {
    transport: usize,
    end: usize,
    protocol: u8,
    is_fragment: bool,
    is_later: bool,
    has_options: bool,
    addresses: (IpAddr, IpAddr),
}

/// The header at `at`, of a packet that ends at `limit` at the latest.
fn ipv4(frame: &[u8], at: usize, limit: usize) -> Option<Ipv4> {
    let header = frame.get(at..at + 20)?;
    let length = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || length < 20 {
        return None;
    }
    let total = match word(header, 2)? {
        0 => limit.checked_sub(at)?,
        total => usize::from(total),
    };
    let fragment = word(header, 6)?;
    let address = |at: usize| -> IpAddr {
        Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap()).into()
    };
    (at + total <= limit && length <= total).then_some(Ipv4 {
        transport: at + length,
        end: at + total,
        protocol: header[9],
        is_fragment: fragment & 0x3fff != 0,
        is_later: fragment & 0x1fff != 0,
        has_options: length != 20,
        addresses: (address(12), address(16)),
    })
}

/// What is inside a tunnel's packet, if that is understood; of a first fragment its start.
fn inside(frame: &[u8], outer: &Ipv4) -> Option<Ipv4> {
    if outer.is_later
        || (outer.is_fragment && outer.transport + 8 + 20 + 8 > outer.end)
        || outer.has_options
    {
        return None;
    }
    let mut at = outer.transport;
    if outer.protocol == GRE {
        let flags = word(frame, at)?;
        let kind = word(frame, at + 2)?;
        let length = if flags & 0x2000 == 0 { 4 } else { 8 };
        frame.get(at..at + length)?;
        if flags & !0x2000 != 0 || kind != IPV4 {
            return None;
        }
        at += length;
    }
    let limit = if outer.is_fragment { 1 << 20 } else { outer.end };
    let mut inner = ipv4(frame, at, limit)?;
    if outer.is_fragment {
        inner.end = inner.end.min(outer.end);
    }
    Some(inner)
}

/// Of a frame as it is on the wire, with its tags.
pub fn facts(frame: &[u8], segment: SegmentId, from: Side) -> PacketFacts {
    let mut facts = PacketFacts {
        segment,
        from,
        ether_type: 0,
        vlan: None,
        protocol: 0,
        addresses: None,
        source_port: 0,
        destination_port: 0,
        icmp_type: None,
    };
    // As the kernel names 802.3 (eth_type_trans).
    let mut kind = match word(frame, 12).unwrap() {
        length if length < 0x600 && word(frame, 14) == Some(0xffff) => 1,
        length if length < 0x600 => 4,
        kind => kind,
    };
    let mut network = 14;
    for _ in 0..2 {
        if !matches!(kind, 0x8100 | 0x88a8) {
            break;
        }
        let (Some(tci), Some(next)) = (word(frame, network), word(frame, network + 2)) else {
            return facts;
        };
        if facts.vlan.is_none() && tci & 0xfff != 0 {
            facts.vlan = Some(tci & 0xfff);
        }
        kind = next;
        network += 4;
    }
    facts.ether_type = kind;
    match kind {
        IPV4 => of_ipv4(frame, network, &mut facts),
        IPV6 => of_ipv6(frame, network, &mut facts),
        _ => None,
    };
    facts
}

fn of_ipv4(frame: &[u8], network: usize, facts: &mut PacketFacts) -> Option<()> {
    let mut packet = ipv4(frame, network, frame.len())?;
    facts.protocol = packet.protocol;
    facts.addresses = Some(packet.addresses);
    if matches!(packet.protocol, IPIP | GRE) {
        packet = inside(frame, &packet)?;
        facts.protocol = packet.protocol;
        facts.addresses = Some(packet.addresses);
        if matches!(packet.protocol, IPIP | GRE | IPV6_IN_IP) {
            return None;
        }
    }
    if !packet.is_later {
        transport(frame, packet.transport, packet.end, ICMP, facts);
    }
    Some(())
}

fn of_ipv6(frame: &[u8], network: usize, facts: &mut PacketFacts) -> Option<()> {
    let header = frame.get(network..network + 40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let end = match word(header, 4)? {
        0 => frame.len(),
        length => network + 40 + usize::from(length),
    };
    if end > frame.len() {
        return None;
    }
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap());
    let addresses = (address(8), address(24));
    // Without any there is nobody that rules could name.
    if addresses != (Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED) {
        facts.addresses = Some((addresses.0.into(), addresses.1.into()));
    }
    let mut at = network + 40;
    facts.protocol = header[6];
    let mut is_later = false;
    let mut read = 0;
    while matches!(facts.protocol, 0 | 43 | 44 | 60) && !is_later {
        let extension = frame.get(at..at + 8)?;
        if read == MAX_EXTENSIONS {
            return None;
        }
        read += 1;
        if facts.protocol == 44 {
            is_later = extension[2] != 0 || extension[3] & 0xf8 != 0;
            at += 8;
        } else {
            at += (usize::from(extension[1]) + 1) * 8;
        }
        if facts.protocol == 43 && extension[3] != 0 {
            return None; // its destination is not the last one
        }
        facts.protocol = extension[0];
    }
    let mapped = |address: Ipv6Addr| address.to_ipv4_mapped().is_some();
    if at > end
        || mapped(addresses.0)
        || mapped(addresses.1)
        || matches!(facts.protocol, IPIP | GRE | IPV6_IN_IP)
        || is_later
    {
        return None;
    }
    transport(frame, at, end, ICMPV6, facts)
}

fn transport(frame: &[u8], at: usize, end: usize, icmp: u8, facts: &mut PacketFacts) -> Option<()> {
    let bytes = frame.get(..end.min(frame.len()))?;
    if matches!(facts.protocol, TCP | UDP) {
        let (source, destination) = (word(bytes, at)?, word(bytes, at + 2)?);
        (facts.source_port, facts.destination_port) = (source, destination);
    } else if facts.protocol == icmp {
        word(bytes, at)?;
        facts.icmp_type = bytes.get(at).copied();
    }
    Some(())
}
