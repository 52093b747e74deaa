//! ICMP errors to the senders of datagrams that the programs dropped: QUIC that policy blocks.
//!
//! For: "port unreachable" as the server itself would say it (RFC 792, RFC 4443), so that a client
//! falls back to TCP at once; without it, it waits for a timer (RFC 9002 6.2: a second and more).
//! Not for: deciding what is refused, or how many errors there are ([`crate::quic`], the programs' bucket). Of a
//! datagram that is not understood none is made.

use crate::checksum::{fold, put, sum};

/// As much of a datagram as an error may quote of it, with room to spare below 1280 bytes (RFC 4443 3.1).
const QUOTED: usize = 128;
const ETHERNET: usize = 14;

/// The frame of the error, of the family of the datagram that `frame` begins; `tag`: of 802.1Q, where
/// it is not in the frame.
pub fn unreachable_port(frame: &[u8], tag: Option<u16>) -> Option<Vec<u8>> {
    let frame = frame.get(..QUOTED)?;
    let mut network = ETHERNET;
    let mut kind = frame.get(12..14)?;
    let mut tag = tag.map(u16::to_be_bytes);
    if kind == [0x81, 0] {
        tag = Some(frame.get(14..16)?.try_into().ok()?);
        kind = frame.get(16..18)?;
        network += 4;
    }
    let mut answer = [frame.get(6..12)?, frame.get(..6)?].concat();
    if let Some(tag) = tag {
        answer.extend([0x81, 0]);
        answer.extend(tag);
    }
    answer.extend(kind);
    let packet = frame.get(network..)?;
    match kind {
        [0x08, 0] => four(packet, &mut answer)?,
        [0x86, 0xdd] => six(packet, &mut answer)?,
        _ => return None,
    }
    Some(answer)
}

/// RFC 792: the header and eight bytes of what caused it.
fn four(packet: &[u8], answer: &mut Vec<u8>) -> Option<()> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let quoted = packet.get(..header + 8)?;
    let (source, destination) = (packet.get(12..16)?, packet.get(16..20)?);
    let length = u16::try_from(20 + 8 + quoted.len()).ok()?;
    let mut head = vec![0x45, 0];
    head.extend(length.to_be_bytes());
    head.extend([0, 0, 0x40, 0, 64, 1, 0, 0]);
    head.extend(destination);
    head.extend(source);
    put_checksum(&mut head, 10, &[]);
    let mut icmp = vec![3, 3, 0, 0, 0, 0, 0, 0];
    icmp.extend(quoted);
    put_checksum(&mut icmp, 2, &[]);
    answer.extend(head);
    answer.extend(icmp);
    Some(())
}

/// RFC 4443 3.1.
fn six(packet: &[u8], answer: &mut Vec<u8>) -> Option<()> {
    let (source, destination) = (packet.get(8..24)?, packet.get(24..40)?);
    let length = u16::try_from(8 + packet.len()).ok()?;
    let mut icmp = vec![1, 4, 0, 0, 0, 0, 0, 0];
    icmp.extend(packet);
    let below = [&[0, 0][..], &length.to_be_bytes(), &[0, 0, 0, 58]].concat();
    put_checksum(&mut icmp, 2, &[destination, source, &below].concat());
    answer.extend([0x60, 0, 0, 0]);
    answer.extend(length.to_be_bytes());
    answer.extend([58, 64]);
    answer.extend(destination);
    answer.extend(source);
    answer.extend(icmp);
    Some(())
}

/// RFC 1071, over a pseudo-header of whole words and the bytes.
fn put_checksum(bytes: &mut [u8], at: usize, pseudo: &[u8]) {
    let checksum = !fold(sum(pseudo) + sum(bytes));
    put(bytes, at, &checksum.to_be_bytes());
}
