//! The headers of a captured TCP frame from the outermost to the addresses, as they were on the
//! wire.
//!
//! For: comparing both sides of the appliance field by field. Written from the standards (802.1Q,
//! RFC 791, 2003, 2784, 2890, 8200), not from Weir's own parser. What is no TCP is `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A header around the innermost IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Around {
    /// Tag protocol and the tag's 16 bits: priority, DEI, number.
    Tag { protocol: u16, control: u16 },
    /// An outer IPv4 header.
    Ipv4 { source: Ipv4Addr, destination: Ipv4Addr, ttl: u8, tos: u8, protocol: u8 },
    /// Flags and version, and the key where there is one.
    Gre { flags: u16, key: Option<u32> },
}

/// A TCP frame's headers without what changes from one to the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layers {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    pub around: Vec<Around>,
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
    /// TTL or hop limit of the innermost header.
    pub ttl: u8,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;
const PROTOCOL_IPV4: u8 = 4;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_GRE: u8 = 47;
/// Tags and tunnels are followed so deep.
const DEEPEST: usize = 8;

impl Layers {
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (addresses, mut rest) = frame.split_at_checked(12)?;
        let mut around = Vec::new();
        let mut ether_type = take_u16(&mut rest)?;
        for _ in 0..DEEPEST {
            match ether_type {
                C_TAG | S_TAG => {
                    let control = take_u16(&mut rest)?;
                    around.push(Around::Tag { protocol: ether_type, control });
                    ether_type = take_u16(&mut rest)?;
                }
                IPV4 => {
                    let header = Ipv4::take(&mut rest)?;
                    match header.protocol {
                        PROTOCOL_TCP => {
                            let (source, destination) =
                                (header.source.into(), header.destination.into());
                            return Self::ended(
                                addresses,
                                around,
                                [source, destination],
                                header.ttl,
                                rest,
                            );
                        }
                        PROTOCOL_IPV4 => around.push(header.around()),
                        PROTOCOL_GRE => {
                            around.push(header.around());
                            let flags = take_u16(&mut rest)?;
                            ether_type = take_u16(&mut rest)?;
                            if flags & 0x8000 != 0 {
                                take_u16(&mut rest)?; // checksum
                                take_u16(&mut rest)?; // reserved
                            }
                            let mut key = None;
                            if flags & 0x2000 != 0 {
                                let high = u32::from(take_u16(&mut rest)?) << 16;
                                key = Some(high | u32::from(take_u16(&mut rest)?));
                            }
                            around.push(Around::Gre { flags, key });
                        }
                        _ => return None,
                    }
                }
                IPV6 => {
                    let (header, after) = rest.split_at_checked(40)?;
                    if *header.get(6)? != PROTOCOL_TCP {
                        return None;
                    }
                    let address = |at: usize| -> Option<IpAddr> {
                        let bytes: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
                        Some(Ipv6Addr::from(bytes).into())
                    };
                    let ends = [address(8)?, address(24)?];
                    return Self::ended(addresses, around, ends, *header.get(7)?, after);
                }
                _ => return None,
            }
        }
        None
    }

    fn ended(
        addresses: &[u8],
        around: Vec<Around>,
        [source, destination]: [IpAddr; 2],
        ttl: u8,
        mut tcp: &[u8],
    ) -> Option<Self> {
        let (destination_mac, source_mac) = addresses.split_at_checked(6)?;
        Some(Self {
            destination_mac: destination_mac.try_into().ok()?,
            source_mac: source_mac.try_into().ok()?,
            around,
            source: (source, take_u16(&mut tcp)?),
            destination: (destination, take_u16(&mut tcp)?),
            ttl,
        })
    }
}

struct Ipv4 {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    tos: u8,
    protocol: u8,
}

impl Ipv4 {
    fn take(rest: &mut &[u8]) -> Option<Self> {
        let first = *rest.first()?;
        let (header, after) = rest.split_at_checked(usize::from(first & 15) * 4)?;
        if first >> 4 != 4 {
            return None;
        }
        let address =
            |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(header.get(at..at + 4)?).ok()?));
        *rest = after;
        Some(Self {
            source: address(12)?,
            destination: address(16)?,
            ttl: *header.get(8)?,
            tos: *header.get(1)?,
            protocol: *header.get(9)?,
        })
    }

    fn around(&self) -> Around {
        Around::Ipv4 {
            source: self.source,
            destination: self.destination,
            ttl: self.ttl,
            tos: self.tos,
            protocol: self.protocol,
        }
    }
}

fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    let (bytes, after) = rest.split_first_chunk::<2>()?;
    *rest = after;
    Some(u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, ttl: u8, last: u8) -> Vec<u8> {
        vec![0x45, 0, 0, 0, 0, 0, 0, 0, ttl, protocol, 0, 0, 10, 0, 0, last, 10, 0, 0, last + 1]
    }

    #[test]
    fn tag_tunnel_and_key_are_read() {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0x60, 100, 0x08, 0];
        frame.extend(ipv4(PROTOCOL_GRE, 61, 1));
        frame.extend([0x20, 0, 0x08, 0, 0, 0, 4, 210]);
        frame.extend(ipv4(PROTOCOL_TCP, 64, 5));
        frame.extend([0x13, 0x88, 1, 187, 0, 0]);
        let layers = Layers::parse(&frame).unwrap();
        assert_eq!(
            layers.around,
            [
                Around::Tag { protocol: 0x8100, control: 0x6064 },
                Around::Ipv4 {
                    source: Ipv4Addr::new(10, 0, 0, 1),
                    destination: Ipv4Addr::new(10, 0, 0, 2),
                    ttl: 61,
                    tos: 0,
                    protocol: 47
                },
                Around::Gre { flags: 0x2000, key: Some(1234) },
            ]
        );
        assert_eq!(layers.source, (Ipv4Addr::new(10, 0, 0, 5).into(), 5000));
        assert_eq!(layers.destination.1, 443);
        assert_eq!([layers.source_mac[5], layers.destination_mac[5], layers.ttl], [1, 2, 64]);
    }

    #[test]
    fn what_is_cut_or_not_tcp_is_none() {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0]);
        frame.extend(ipv4(PROTOCOL_TCP, 64, 1));
        assert_eq!(Layers::parse(&frame), None);
        frame[23] = 17;
        frame.extend([0; 20]);
        assert_eq!(Layers::parse(&frame), None);
    }
}
