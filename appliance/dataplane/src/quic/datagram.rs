//! What the programs say of a frame that they dropped, and the datagrams in it.
//!
//! For: datagrams that can be sent as they are, whatever the sender's kernel had left to its interface: two in
//! one frame, checksums that are not filled in. Not for: fragments, tunnels and extension headers, which the
//! programs or the reading here leave out. Fails by finding no datagram.

use weir_policy::Candidate;
use weir_policy::snapshot::{SegmentId, Side};

use crate::checksum::{complete_ipv4, fold, put, sum, u16_at};
use crate::layout::{FlowKey, read_dropped};

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const IPV6_HEADER: usize = 40;

/// One frame.
pub struct Dropped {
    pub key: FlowKey,
    /// It came in by.
    pub side: Side,
    /// 802.1Q's, where it is not in the frame.
    pub tag: Option<u16>,
    /// From Ethernet on; a long one is cut.
    pub frame: Vec<u8>,
    /// Its sender is the lower end of the key.
    from_low: bool,
    /// Payload of a datagram where there are several; else 0.
    segment_size: usize,
}

/// One datagram.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Complete.
    pub frame: Vec<u8>,
    payload_at: usize,
}

impl Datagram {
    pub fn payload(&self) -> &[u8] {
        self.frame.get(self.payload_at..).unwrap_or_default()
    }
}

impl Dropped {
    pub fn read(record: &[u8]) -> Option<Self> {
        let (head, frame) = read_dropped(record)?;
        Some(Self {
            key: head.key,
            side: if head.side == 0 { Side::A } else { Side::B },
            from_low: head.from_low != 0,
            segment_size: head.gso_size as usize,
            tag: (head.vlan_present != 0).then_some(head.vlan_tci),
            frame: frame.to_vec(),
        })
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

    /// Those that the frame has whole.
    pub fn datagrams(&self) -> Vec<Datagram> {
        self.split().unwrap_or_default()
    }

    fn split(&self) -> Option<Vec<Datagram>> {
        const ADDRESSES: usize = 12;
        let mut network = ADDRESSES + 2;
        if u16_at(&self.frame, ADDRESSES)? == 0x8100 {
            network += 4;
        }
        let version = self.frame.get(network)? >> 4;
        let (transport, protocol) = match version {
            4 => {
                let length = usize::from(self.frame.get(network)? & 0xf) * 4;
                (network + length, self.frame.get(network + 9)?)
            }
            6 => (network + IPV6_HEADER, self.frame.get(network + 6)?),
            _ => return None,
        };
        if *protocol != UDP {
            return None;
        }
        let said = usize::from(u16_at(&self.frame, transport + 4)?).checked_sub(UDP_HEADER)?;
        let headers = self.frame.get(..transport + UDP_HEADER)?;
        let payload = self.frame.get(headers.len()..)?;
        // A frame may be longer than its datagram (Ethernet's shortest), and this one's end may be cut off.
        let payload = payload.get(..said).unwrap_or(payload);
        let each = if self.segment_size == 0 { said } else { self.segment_size };
        if each == 0 {
            return None;
        }
        let whole = payload
            .chunks(each)
            .enumerate()
            .filter(|(number, chunk)| chunk.len() == each || number * each + chunk.len() == said);
        let (at, tag) = (transport - network, self.tag);
        whole
            .map(|(number, chunk)| {
                let number = u16::try_from(number).ok()?;
                complete(headers, network, at, tag, number, chunk)
            })
            .collect()
    }
}

/// A datagram of `payload`, the one of that number behind these headers; the transport's is `transport` bytes
/// behind the network's.
fn complete(
    headers: &[u8],
    network: usize,
    transport: usize,
    tag: Option<u16>,
    number: u16,
    payload: &[u8],
) -> Option<Datagram> {
    let (ethernet, packet) = headers.split_at_checked(network)?;
    let mut packet = [packet, payload].concat();
    let udp = u16::try_from(UDP_HEADER + payload.len()).ok()?.to_be_bytes();
    put(&mut packet, transport + 4, &udp);
    put(&mut packet, transport + 6, &[0, 0]);
    let addresses = if packet.first()? >> 4 == 4 {
        let id = u16_at(&packet, 4)?.wrapping_add(number);
        put(&mut packet, 4, &id.to_be_bytes());
        let length = u16::try_from(packet.len()).ok()?;
        put(&mut packet, 2, &length.to_be_bytes());
        complete_ipv4(&mut packet, 0, transport);
        packet.get(12..20)?
    } else {
        put(&mut packet, 4, &udp);
        packet.get(8..40)?
    };
    // RFC 768, RFC 8200 8.1: of addresses, protocol and length, and the datagram; 0 says that there is none.
    let pseudo = sum(addresses) + u64::from(UDP) + sum(&udp);
    let checksum = match !fold(pseudo + sum(packet.get(transport..)?)) {
        0 => 0xffff,
        sum => sum,
    };
    put(&mut packet, transport + 6, &checksum.to_be_bytes());
    let mut frame = ethernet.to_vec();
    if let Some(tag) = tag {
        let tag = [[0x81, 0], tag.to_be_bytes()].concat();
        frame.splice(12..12, tag);
    }
    let payload_at = frame.len() + transport + UDP_HEADER;
    frame.extend(packet);
    Some(Datagram { frame, payload_at })
}
