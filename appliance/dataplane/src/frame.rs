//! Frames of held flows: reading them, and making segments of our own.
//!
//! For: pure work on bytes. Not for: sending (`link`). A frame that is not what the programs hand
//! over (Ethernet, IPv4, TCP, whole), or whose checksum is wrong, is refused and counted.

use std::net::{IpAddr, SocketAddr};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

const ETHERNET: usize = 14;

/// A TCP segment with its link-layer header, as it came off the wire.
#[derive(Clone, Debug)]
pub struct Frame {
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
    /// Offset of the payload.
    payload: usize,
}

/// Why a frame is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("not a whole Ethernet frame with IPv4 and TCP")]
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
    pub fn parse(bytes: &[u8], gso_size: u32) -> Result<Self, FrameError> {
        let mut frame = Self::dissect(bytes, gso_size).ok_or(FrameError::NotTcp)?;
        let header = frame.bytes.get(ETHERNET..frame.transport).unwrap_or_default();
        if fold(sum(header)) != 0xffff {
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

    fn dissect(bytes: &[u8], gso_size: u32) -> Option<Self> {
        let ip = bytes.get(ETHERNET..)?;
        if bytes.get(12..14)? != [0x08, 0x00] || ip.first()? >> 4 != 4 || *ip.get(9)? != 6 {
            return None;
        }
        let header = usize::from(ip.first()? & 0xf) * 4;
        let total = match u16_at(ip, 2)? {
            0 => ip.len(),
            total => usize::from(total),
        };
        let tcp = ip.get(..total)?.get(header..)?;
        let offset = usize::from(tcp.get(12)? >> 4) * 4;
        if header < 20 || offset < 20 || offset > tcp.len() {
            return None;
        }
        Some(Self {
            // Without Ethernet's padding.
            bytes: bytes.get(..ETHERNET + total)?.to_vec(),
            gso_size: u16::try_from(gso_size).ok()?,
            sequence: u32_at(tcp, 4)?,
            acknowledged: u32_at(tcp, 8)?,
            flags: *tcp.get(13)?,
            window: u16_at(tcp, 14)?,
            transport: ETHERNET + header,
            payload: ETHERNET + header + offset,
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn payload(&self) -> &[u8] {
        self.bytes.get(self.payload..).unwrap_or_default()
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

    pub fn set_destination_mac(&mut self, mac: [u8; 6]) {
        if let Some(destination) = self.bytes.first_chunk_mut() {
            *destination = mac;
        }
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
        if let Some(field) = self.bytes.get_mut(self.transport + 16..self.transport + 18) {
            field.copy_from_slice(&pseudo);
        }
    }

    fn pseudo_header_sum(&self) -> u64 {
        let addresses = self.bytes.get(ETHERNET + 12..ETHERNET + 20).unwrap_or_default();
        sum(addresses) + 6 + (self.bytes.len() - self.transport) as u64
    }
}

/// What a segment of our own is made of.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Destination, source.
    pub mac: [u8; 12],
    pub ttl: u8,
    pub tos: u8,
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
    /// The frame; `None` where the addresses are not IPv4.
    pub fn frame(&self) -> Option<Frame> {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (self.from.ip(), self.to.ip()) else {
            return None;
        };
        let options: usize = if self.timestamps.is_some() { 12 } else { 0 };
        let total = 40 + options;
        let mut bytes = Vec::with_capacity(ETHERNET + total);
        bytes.extend(self.mac);
        bytes.extend([0x08, 0x00, 0x45, self.tos]);
        bytes.extend((total as u16).to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, self.ttl, 6, 0, 0]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        let checksum = !fold(sum(&bytes[ETHERNET..]));
        bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(self.from.port().to_be_bytes());
        bytes.extend(self.to.port().to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledged.to_be_bytes());
        bytes.extend([((20 + options) as u8 / 4) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0, 0, 0]);
        if let Some((value, echo)) = self.timestamps {
            bytes.extend([1, 1, 8, 10]);
            bytes.extend(value.to_be_bytes());
            bytes.extend(echo.to_be_bytes());
        }
        let mut frame = Frame::dissect(&bytes, 0)?;
        frame.leave_checksum_to_kernel();
        Some(frame)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_be_bytes(*four))
}

/// Sum of big-endian 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let whole: u64 = words.by_ref().map(|word| u64::from(word[0]) << 8 | u64::from(word[1])).sum();
    whole + words.remainder().first().map_or(0, |last| u64::from(*last) << 8)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A frame of a client for tests: `at` bytes after sequence number `first`.
#[cfg(test)]
pub fn client_frame(first: u32, at: u32, payload: &[u8], flags: u8) -> Frame {
    let segment = Segment {
        mac: [1; 12],
        ttl: 64,
        tos: 0,
        from: "192.0.2.1:1000".parse().unwrap(),
        to: "192.0.2.2:443".parse().unwrap(),
        sequence: first.wrapping_add(at),
        acknowledged: 7,
        flags: ACK | flags,
        window: 100,
        timestamps: Some((5, 6)),
    };
    let mut bytes = segment.frame().unwrap().bytes().to_vec();
    bytes.extend(payload);
    let total = (bytes.len() - ETHERNET) as u16;
    bytes[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total.to_be_bytes());
    bytes[ETHERNET + 10..ETHERNET + 12].fill(0);
    let checksum = !fold(sum(&bytes[ETHERNET..ETHERNET + 20]));
    bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = Frame::dissect(&bytes, 0).unwrap();
    frame.leave_checksum_to_kernel();
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(at: u32, payload: &[u8], flags: u8) -> Frame {
        client_frame(1000, at, payload, flags)
    }

    #[test]
    fn whole_and_partial_checksums_hold_and_others_do_not() {
        let partial = frame(0, b"abc", 0);
        assert!(Frame::parse(partial.bytes(), 0).is_ok());
        let mut whole = partial.bytes().to_vec();
        let at = partial.transport;
        whole[at + 16..at + 18].fill(0);
        let checksum = !fold(partial.pseudo_header_sum() + sum(&whole[at..]));
        whole[at + 16..at + 18].copy_from_slice(&checksum.to_be_bytes());
        assert!(Frame::parse(&whole, 0).is_ok());
        *whole.last_mut().unwrap() ^= 1;
        assert_eq!(Frame::parse(&whole, 0).unwrap_err(), FrameError::Checksum);
    }

    #[test]
    fn a_wrong_header_checksum_is_refused() {
        let mut bytes = frame(0, b"abc", 0).bytes().to_vec();
        bytes[ETHERNET + 10] ^= 1;
        assert_eq!(Frame::parse(&bytes, 0).unwrap_err(), FrameError::HeaderChecksum);
        assert_eq!(Frame::parse(&bytes, 1000).unwrap_err(), FrameError::HeaderChecksum);
    }

    #[test]
    fn only_a_rst_may_come_without_acknowledgement() {
        for (flags, refused) in [(0, true), (FIN, true), (0x08, true), (RST, false), (ACK, false)] {
            let mut bytes = frame(0, b"abc", 0).bytes().to_vec();
            bytes[ETHERNET + 20 + 13] = flags;
            let refusal = Frame::parse(&bytes, 0).err();
            assert_eq!(refusal, refused.then_some(FrameError::NoAcknowledgement), "{flags:#x}");
        }
    }

    #[test]
    fn timestamps_are_found() {
        assert_eq!(frame(0, b"abc", 0).timestamp(), Some(5));
    }

    #[test]
    fn no_prefix_of_a_frame_panics() {
        let whole = frame(0, b"abcdef", 0).bytes().to_vec();
        for length in 0..whole.len() {
            assert!(Frame::parse(&whole[..length], 0).is_err());
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x0f, 0xf0, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                if let Ok(frame) = Frame::parse(&changed, 1) {
                    let _ = (frame.timestamp(), frame.payload());
                }
            }
        }
    }
}
