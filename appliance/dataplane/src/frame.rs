//! Frames of held flows, read as they came off the wire.
//!
//! For: pure work on bytes. Not for: sending (`link`), segments of our own (`segment_of_ours`). A
//! frame that is not what the programs hand over (Ethernet with at most one 802.1Q tag, at most one
//! GRE or IPIP header, IPv4 or IPv6, TCP, whole), or whose checksums are wrong, is refused and counted.

use crate::checksum::{complete_ipv4, fold, put, sum, u16_at, u32_at};
use crate::encapsulation::{TYPE_IPV4, TYPE_IPV6, TYPE_VLAN};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

const ADDRESSES: usize = 12;
/// As in bpf/packet.h.
const MAX_EXTENSIONS: usize = 6;

/// A TCP segment with its link-layer and tunnel headers, as it came off the wire.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The tag, where there is one, inside.
    bytes: Vec<u8>,
    /// Payload of one segment; 0: the frame is one segment.
    pub gso_size: u16,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    /// As sent, not scaled.
    pub window: u16,
    /// Offset of the TCP header.
    pub transport: usize,
    /// Offset of the tunnel's IPv4 header.
    tunnel: Option<usize>,
    /// Offset of the innermost IP header.
    network: usize,
    /// Offset of the payload.
    payload: usize,
}

/// Why a frame is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("not a whole Ethernet frame with IP and TCP")]
    NotTcp,
    /// The server would drop it, so it is not judged either (SPEC D15).
    #[error("wrong TCP checksum")]
    Checksum,
    /// As above.
    #[error("wrong IPv4 header checksum")]
    HeaderChecksum,
    /// As above: after the handshake only a RST comes without ACK (RFC 9293 3.10.7.4).
    #[error("neither ACK nor RST")]
    NoAcknowledgement,
}

impl Frame {
    /// `vlan_tci`: the tag that the kernel keeps beside the frame.
    pub fn parse(bytes: &[u8], gso_size: u32, vlan_tci: Option<u16>) -> Result<Self, FrameError> {
        let gso_size = u16::try_from(gso_size).map_err(|_| FrameError::NotTcp)?;
        let whole = match (vlan_tci, bytes.split_at_checked(ADDRESSES)) {
            (Some(tci), Some((addresses, rest))) => {
                [addresses, &TYPE_VLAN.to_be_bytes(), &tci.to_be_bytes(), rest].concat()
            }
            _ => bytes.to_vec(),
        };
        let mut frame = Self::dissect(whole, gso_size).ok_or(FrameError::NotTcp)?;
        if !frame.headers().all(|header| fold(sum(header)) == 0xffff) {
            return Err(FrameError::HeaderChecksum);
        }
        if !frame.checksum_holds() {
            return Err(FrameError::Checksum);
        }
        if frame.flags & (ACK | RST) == 0 {
            return Err(FrameError::NoAcknowledgement);
        }
        frame.leave_checksum_to_kernel();
        Ok(frame)
    }

    /// A segment made here, whose TCP checksum is not there yet.
    pub fn of_ours(bytes: Vec<u8>) -> Option<Self> {
        let mut frame = Self::dissect(bytes, 0)?;
        frame.leave_checksum_to_kernel();
        Some(frame)
    }

    fn dissect(mut bytes: Vec<u8>, gso_size: u16) -> Option<Self> {
        let mut at = ADDRESSES + 2;
        let mut ether_type = u16_at(&bytes, ADDRESSES)?;
        if ether_type == TYPE_VLAN {
            ether_type = u16_at(&bytes, at + 2)?;
            at += 4;
        }
        let mut outer = None;
        if ether_type == TYPE_IPV4 && matches!(*bytes.get(at + 9)?, 4 | 47) {
            let (inside, end) = after_tunnel(&bytes, at)?;
            outer = Some((at, end));
            at = inside;
        }
        let (transport, end) = match ether_type {
            TYPE_IPV4 => after_ipv4(&bytes, at)?,
            TYPE_IPV6 => after_ipv6(&bytes, at)?,
            _ => return None,
        };
        // Padding is Ethernet's; inside a tunnel there is none.
        if outer.is_some_and(|(_, outer_end)| outer_end != end) {
            return None;
        }
        bytes.truncate(end);
        let tcp = bytes.get(transport..)?;
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        if header < 20 || header > tcp.len() {
            return None;
        }
        Some(Self {
            gso_size,
            sequence: u32_at(tcp, 4)?,
            acknowledged: u32_at(tcp, 8)?,
            flags: *tcp.get(13)?,
            window: u16_at(tcp, 14)?,
            transport,
            tunnel: outer.map(|(tunnel, _)| tunnel),
            network: at,
            payload: transport + header,
            bytes,
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn payload(&self) -> &[u8] {
        self.bytes.get(self.payload..).unwrap_or_default()
    }

    pub fn is_ipv6(&self) -> bool {
        self.bytes.get(self.network).is_some_and(|first| first >> 4 == 6)
    }

    pub fn in_tunnel(&self) -> bool {
        self.tunnel.is_some()
    }

    /// The same without tag and tunnel, for the engine's namespace.
    pub fn plain(&self, destination: [u8; 6]) -> Self {
        let ether_type = if self.is_ipv6() { TYPE_IPV6 } else { TYPE_IPV4 };
        let source = self.bytes.get(6..ADDRESSES).unwrap_or_default();
        let packet = self.bytes.get(self.network..).unwrap_or_default();
        let less = self.network - (ADDRESSES + 2);
        Self {
            bytes: [&destination, source, &ether_type.to_be_bytes(), packet].concat(),
            transport: self.transport - less,
            tunnel: None,
            network: self.network - less,
            payload: self.payload - less,
            ..*self
        }
    }

    /// The segments of a frame in a tunnel, whole, with all their checksums: the kernel can neither
    /// segment nor check what a packet socket sends in a tunnel.
    pub fn segments(&self) -> Vec<Vec<u8>> {
        let headers = self.bytes.get(..self.payload).unwrap_or_default();
        let size = if self.gso_size == 0 { usize::MAX } else { usize::from(self.gso_size) };
        let mut pieces: Vec<&[u8]> = self.payload().chunks(size).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        let last = pieces.len() - 1;
        let mut at = 0;
        pieces
            .iter()
            .enumerate()
            .map(|(index, piece)| {
                let segment = self.segment(headers, piece, at, index, index == last);
                at += piece.len();
                segment
            })
            .collect()
    }

    fn segment(
        &self,
        headers: &[u8],
        piece: &[u8],
        at: usize,
        index: usize,
        last: bool,
    ) -> Vec<u8> {
        let mut bytes = [headers, piece].concat();
        let end = bytes.len();
        for ip in self.tunnel.into_iter().chain((!self.is_ipv6()).then_some(self.network)) {
            let id = u16_at(&bytes, ip + 4).unwrap_or_default().wrapping_add(index as u16);
            put(&mut bytes, ip + 2, &((end - ip) as u16).to_be_bytes());
            put(&mut bytes, ip + 4, &id.to_be_bytes());
            let length = header_length(&bytes, ip).unwrap_or(20);
            complete_ipv4(&mut bytes, ip, length);
        }
        if self.is_ipv6() {
            put(&mut bytes, self.network + 4, &((end - self.network - 40) as u16).to_be_bytes());
        }
        let mut flags = self.flags;
        if !last {
            flags &= !(FIN | PSH);
        }
        if index > 0 {
            flags &= !CWR;
        }
        let sequence = self.sequence.wrapping_add(at as u32);
        put(&mut bytes, self.transport + 4, &sequence.to_be_bytes());
        put(&mut bytes, self.transport + 13, &[flags]);
        put(&mut bytes, self.transport + 16, &[0, 0]);
        let tcp = bytes.get(self.transport..).unwrap_or_default();
        let checksum = !fold(self.addresses_sum() + 6 + tcp.len() as u64 + sum(tcp));
        put(&mut bytes, self.transport + 16, &checksum.to_be_bytes());
        bytes
    }

    /// The newest timestamp value of its sender (RFC 7323), if it has one.
    pub fn timestamp(&self) -> Option<u32> {
        let mut options = self.bytes.get(self.transport + 20..self.payload)?;
        loop {
            match *options.first()? {
                0 => return None,
                1 => options = options.get(1..)?,
                kind => {
                    let length = usize::from(*options.get(1)?);
                    if kind == 8 && length == 10 {
                        return u32_at(options, 2);
                    }
                    if length < 2 {
                        return None;
                    }
                    options = options.get(length..)?;
                }
            }
        }
    }

    /// The IPv4 headers: of the tunnel, and of the packet.
    fn headers(&self) -> impl Iterator<Item = &[u8]> {
        let inner = (!self.is_ipv6()).then_some(self.network);
        self.tunnel.into_iter().chain(inner).map(|at| {
            let length = header_length(&self.bytes, at).unwrap_or_default();
            self.bytes.get(at..at + length).unwrap_or_default()
        })
    }

    /// Whole, or partial: the checksum of the pseudo-header, which a sender on the same host or
    /// GRO leaves for the kernel or the network card to complete.
    fn checksum_holds(&self) -> bool {
        if self.gso_size > 0 {
            return true;
        }
        let tcp = self.bytes.get(self.transport..).unwrap_or_default();
        let field = u16_at(tcp, 16).unwrap_or_default();
        let pseudo = self.pseudo_header_sum();
        field == fold(pseudo) || fold(pseudo + sum(tcp)) == 0xffff
    }

    /// Every frame is sent with its checksum left to the kernel: what goes out is the same.
    fn leave_checksum_to_kernel(&mut self) {
        let pseudo = fold(self.pseudo_header_sum()).to_be_bytes();
        put(&mut self.bytes, self.transport + 16, &pseudo);
    }

    fn pseudo_header_sum(&self) -> u64 {
        self.addresses_sum() + 6 + (self.bytes.len() - self.transport) as u64
    }

    fn addresses_sum(&self) -> u64 {
        let (first, last) = if self.is_ipv6() { (8, 40) } else { (12, 20) };
        sum(self.bytes.get(self.network + first..self.network + last).unwrap_or_default())
    }
}

fn header_length(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(bytes.get(at)? & 0xf) * 4)
}

/// The offset of the packet inside an IPIP or GRE header at `at`, and the offset past both.
fn after_tunnel(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let (inside, end) = after_ipv4_of(bytes, at, |_| true)?;
    if inside != at + 20 {
        return None;
    }
    if *bytes.get(at + 9)? == 4 {
        return Some((inside, end));
    }
    let length = match u16_at(bytes, inside)? {
        0 => 4,
        0x2000 => 8,
        _ => return None,
    };
    (u16_at(bytes, inside + 2)? == TYPE_IPV4).then_some((inside + length, end))
}

/// The offsets of a TCP header and past its packet.
fn after_ipv4(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    after_ipv4_of(bytes, at, |protocol| protocol == 6)
}

fn after_ipv4_of(bytes: &[u8], at: usize, protocol: impl Fn(u8) -> bool) -> Option<(usize, usize)> {
    header_ipv4(bytes, at, protocol).filter(|(_, end)| *end <= bytes.len())
}

/// The offsets behind an IPv4 header, and past its packet, of which `bytes` may have the start only.
pub fn header_ipv4(
    bytes: &[u8],
    at: usize,
    protocol: impl Fn(u8) -> bool,
) -> Option<(usize, usize)> {
    if bytes.get(at)? >> 4 != 4 || !protocol(*bytes.get(at + 9)?) {
        return None;
    }
    let header = header_length(bytes, at)?;
    let end = match u16_at(bytes, at + 2)? {
        0 => bytes.len(),
        total => at + usize::from(total),
    };
    (header >= 20 && at + header <= end).then_some((at + header, end))
}

fn after_ipv6(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    header_ipv6(bytes, at, 6).filter(|(_, end)| *end <= bytes.len())
}

/// As above, past the extension headers that the programs read (RFC 8200 4).
pub fn header_ipv6(bytes: &[u8], at: usize, protocol: u8) -> Option<(usize, usize)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    if bytes.get(at)? >> 4 != 6 {
        return None;
    }
    let end = match u16_at(bytes, at + 4)? {
        0 => bytes.len(),
        length => at + 40 + usize::from(length),
    };
    let mut next = *bytes.get(at + 6)?;
    let mut transport = at + 40;
    for _ in 0..MAX_EXTENSIONS {
        let words = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => usize::from(*bytes.get(transport + 1)?),
            // One that says that there is nothing else (RFC 6946).
            FRAGMENT if u16_at(bytes, transport + 2)? & 0xfff9 == 0 => 0,
            _ => break,
        };
        next = *bytes.get(transport)?;
        transport += (words + 1) * 8;
    }
    (next == protocol && transport <= end).then_some((transport, end))
}

/// A frame of a client for tests: `at` bytes after sequence number `first`.
#[cfg(test)]
pub fn client_frame(first: u32, at: u32, payload: &[u8], flags: u8) -> Frame {
    let segment = crate::segment_of_ours::Segment {
        mac: [1; 12],
        encapsulation: Default::default(),
        ttl: 64,
        tos: 0,
        flow_label: 0,
        from: "192.0.2.1:1000".parse().unwrap(),
        to: "192.0.2.2:443".parse().unwrap(),
        sequence: first.wrapping_add(at),
        acknowledged: 7,
        flags: ACK | flags,
        window: 100,
        timestamps: Some((5, 6)),
    };
    with_payload(&segment.frame().unwrap(), payload, 0)
}

/// For tests: the same frame with a payload.
#[cfg(test)]
fn with_payload(frame: &Frame, payload: &[u8], gso_size: u16) -> Frame {
    let headers = &frame.bytes[..frame.payload];
    let bytes = frame.segment(headers, payload, 0, 0, true);
    let mut frame = Frame::dissect(bytes, gso_size).unwrap();
    frame.leave_checksum_to_kernel();
    frame
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
