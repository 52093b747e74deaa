//! What the programs say of a frame that they dropped, and the datagrams in it.
//!
//! For: datagrams that can be sent as they are, whatever the sender's kernel had left to its interface: two in
//! one frame, checksums that are not filled in. One of which a checksum is wrong is none: its receiver would
//! not take it, nor is it to become right here. Not for: fragments and tunnels, which the programs leave out.
//! Fails by finding no datagram.

use weir_policy::Candidate;
use weir_policy::snapshot::{SegmentId, Side};

use crate::checksum::{complete_ipv4, fold, put, sum, u16_at};
use crate::frame::{header_ipv4, header_ipv6};
use crate::layout::FlowKey;
use crate::layout::quic::{EXCEPTED_NAME, Excepted, read_dropped};

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const IPV6_HEADER: usize = 40;
const LONG_HEADER: u8 = 0x80; // RFC 9000 17.2

/// A connection as its packets of one direction say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    pub key: FlowKey,
    /// Their sender is the lower end of the key.
    from_low: bool,
    /// They came in by.
    pub side: Side,
}

/// One frame.
pub struct Dropped {
    pub way: Way,
    /// The policy that dropped it, or a later one.
    pub policy: u64,
    /// 802.1Q's, where it is not in the frame.
    pub tag: Option<u16>,
    /// From Ethernet on; a long one is cut.
    pub frame: Vec<u8>,
    /// Payload of a datagram where there are several; else 0.
    segment_size: usize,
}

/// One datagram.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Complete.
    pub frame: Vec<u8>,
    payload_at: usize,
    payload_end: usize,
}

impl Datagram {
    pub fn payload(&self) -> &[u8] {
        self.frame.get(self.payload_at..self.payload_end).unwrap_or_default()
    }

    /// Whether it could begin a connection; what has a short header does not.
    pub fn may_begin_connection(&self) -> bool {
        self.payload().first().is_some_and(|first| first & LONG_HEADER != 0)
    }
}

impl Way {
    /// As an entry of the table says it of its client.
    pub fn of(key: FlowKey, entry: &Excepted) -> Self {
        Self { key, from_low: entry.client_low != 0, side: side(entry.side.into()) }
    }

    /// An entry of the table, of this client.
    pub fn entry(&self, policy: u64, length: u16, name: [u8; EXCEPTED_NAME]) -> Excepted {
        let (side, client_low) = (u8::from(self.side == Side::B), u8::from(self.from_low));
        Excepted { last: 0, policy, length, side, client_low, name }
    }

    /// The connection, as policy looks at it.
    pub fn candidate(&self) -> Candidate {
        Candidate {
            segment: SegmentId(self.key.segment as u16),
            from: self.side,
            vlan: (self.key.outer_vlan != 0).then_some(self.key.outer_vlan & 0xfff),
            client: self.key.end(!self.from_low),
            server: self.key.end(self.from_low),
        }
    }
}

fn side(number: u32) -> Side {
    if number == 0 { Side::A } else { Side::B }
}

/// Where things stand in a frame.
struct Offsets {
    network: usize,
    transport: usize,
    /// Past the IP packet.
    end: usize,
    /// As UDP's header says.
    payload: usize,
}

impl Dropped {
    pub fn read(record: &[u8]) -> Option<Self> {
        let (head, frame) = read_dropped(record)?;
        let side = side(head.side);
        Some(Self {
            way: Way { key: head.key, from_low: head.from_low != 0, side },
            policy: head.policy,
            segment_size: head.gso_size as usize,
            tag: (head.vlan_present != 0).then_some(head.vlan_tci),
            frame: frame.to_vec(),
        })
    }

    /// Those that the frame has whole, but for such that their receiver would not take; `None` where it is not
    /// understood.
    pub fn datagrams(&self) -> Option<Vec<Datagram>> {
        let offsets = self.offsets()?;
        if self.segment_size == 0 {
            return self.single(&offsets);
        }
        let headers = self.frame.get(..offsets.transport + UDP_HEADER)?;
        let payload = self.frame.get(headers.len()..)?;
        // Its end may be cut off.
        let payload = payload.get(..offsets.payload).unwrap_or(payload);
        let each = self.segment_size;
        let whole = payload.chunks(each).enumerate().filter(|(number, chunk)| {
            chunk.len() == each || number * each + chunk.len() == offsets.payload
        });
        let datagrams: Option<Vec<_>> = whole
            .map(|(number, chunk)| {
                let number = u16::try_from(number).ok()?;
                segment(headers, &offsets, self.tag, number, chunk)
            })
            .collect();
        datagrams.filter(|datagrams| !datagrams.is_empty())
    }

    fn offsets(&self) -> Option<Offsets> {
        const ADDRESSES: usize = 12;
        let mut network = ADDRESSES + 2;
        if u16_at(&self.frame, ADDRESSES)? == 0x8100 {
            network += 4;
        }
        let (transport, end) = match self.frame.get(network)? >> 4 {
            4 => header_ipv4(&self.frame, network, |protocol| protocol == UDP)?,
            _ => header_ipv6(&self.frame, network, UDP)?,
        };
        let said = usize::from(u16_at(&self.frame, transport + 4)?);
        let payload = said.checked_sub(UDP_HEADER).filter(|payload| *payload > 0)?;
        (transport + said <= end).then_some(Offsets { network, transport, end, payload })
    }

    /// The frame as it came, but for a checksum that was left to the interface.
    fn single(&self, offsets: &Offsets) -> Option<Vec<Datagram>> {
        let &Offsets { network, transport, end, payload } = offsets;
        let mut bytes = self.frame.clone();
        let datagram = bytes.get(transport..transport + UDP_HEADER + payload)?;
        bytes.get(..end)?;
        let is_ipv4 = bytes.get(network)? >> 4 == 4;
        let pseudo = pseudo_header(&bytes, network, datagram.len())?;
        let right = match u16_at(datagram, 6)? {
            // RFC 768: there is none; RFC 8200 8.1: there has to be one.
            0 => is_ipv4,
            _ if fold(pseudo + sum(datagram)) == 0xffff => true,
            // That of the pseudo-header, to which the interface adds the rest.
            field if field == fold(pseudo) => {
                let sum = checksum_of(pseudo, datagram);
                put(&mut bytes, transport + 6, &sum);
                true
            }
            _ => false,
        };
        let header = bytes.get(network..transport)?;
        if !right || (is_ipv4 && fold(sum(header)) != 0xffff) {
            return Some(vec![]);
        }
        let mut payload_at = transport + UDP_HEADER;
        if let Some(tag) = self.tag {
            bytes.splice(12..12, tagged(tag));
            payload_at += 4;
        }
        Some(vec![Datagram { frame: bytes, payload_at, payload_end: payload_at + payload }])
    }
}

/// 802.1Q's tag.
fn tagged(tag: u16) -> Vec<u8> {
    [[0x81, 0], tag.to_be_bytes()].concat()
}

/// RFC 768, RFC 8200 8.1: of addresses, protocol and length.
fn pseudo_header(bytes: &[u8], network: usize, length: usize) -> Option<u64> {
    let addresses = if bytes.get(network)? >> 4 == 4 { 12..20 } else { 8..40 };
    let addresses = bytes.get(network..)?.get(addresses)?;
    Some(sum(addresses) + u64::from(UDP) + length as u64)
}

/// Of a datagram whose checksum's field counts for nothing; 0 would say that there is none.
fn checksum_of(pseudo: u64, datagram: &[u8]) -> [u8; 2] {
    let field = u64::from(u16_at(datagram, 6).unwrap_or_default());
    match !fold(pseudo + sum(datagram) - field) {
        0 => [0xff; 2],
        sum => sum.to_be_bytes(),
    }
}

/// A datagram of `payload`, the one of that number behind these headers.
fn segment(
    headers: &[u8],
    offsets: &Offsets,
    tag: Option<u16>,
    number: u16,
    payload: &[u8],
) -> Option<Datagram> {
    let (ethernet, packet) = headers.split_at_checked(offsets.network)?;
    let transport = offsets.transport - offsets.network;
    let mut packet = [packet, payload].concat();
    let udp = u16::try_from(UDP_HEADER + payload.len()).ok()?.to_be_bytes();
    put(&mut packet, transport + 4, &udp);
    if packet.first()? >> 4 == 4 {
        let id = u16_at(&packet, 4)?.wrapping_add(number);
        put(&mut packet, 4, &id.to_be_bytes());
        let length = u16::try_from(packet.len()).ok()?;
        put(&mut packet, 2, &length.to_be_bytes());
        complete_ipv4(&mut packet, 0, transport);
    } else {
        let length = u16::try_from(packet.len().checked_sub(IPV6_HEADER)?).ok()?;
        put(&mut packet, 4, &length.to_be_bytes());
    }
    let datagram = packet.get(transport..)?;
    let sum = checksum_of(pseudo_header(&packet, 0, datagram.len())?, datagram);
    put(&mut packet, transport + 6, &sum);
    let mut frame = ethernet.to_vec();
    if let Some(tag) = tag {
        frame.splice(12..12, tagged(tag));
    }
    let payload_at = frame.len() + transport + UDP_HEADER;
    frame.extend(packet);
    Some(Datagram { payload_end: frame.len(), frame, payload_at })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// From the end of the key that is the higher one.
    pub fn way(key: FlowKey) -> Way {
        Way { key, from_low: false, side: Side::A }
    }
}
