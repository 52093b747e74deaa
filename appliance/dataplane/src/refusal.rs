//! ICMP errors to the senders of datagrams that the programs dropped: QUIC that policy blocks.
//!
//! For: "port unreachable" as the server itself would say it (RFC 792, RFC 4443), so that a client
//! falls back to TCP at once; without it, it waits for a timer (RFC 9002 6.2: a second and more).
//! Not for: deciding what is dropped, or how many errors there are (the programs' bucket). A datagram
//! that is not understood, or an error that cannot be sent, is dropped in silence.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{Array, MapData, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weir_policy::snapshot::Side;

use crate::core::Core;
use crate::layout::rules::FilterEntry;
use crate::tables::{self, ApplyError};

/// ICMP errors a second, of all segments together (RFC 4443 2.4 (f) wants a bound).
const A_SECOND: u64 = 1000;
/// Of these at once.
const AT_ONCE: u64 = 100;

/// `struct refused` of `bpf/weir.h`: segment, side, tag, whether there is one, then the frame.
const RECORD: usize = 140;
const FRAME_AT: usize = 12;

const ETHERNET: usize = 14;

/// Reads the ring and answers.
pub struct Refusals {
    core: Arc<Core>,
    ring: RingBuf<MapData>,
    stop: OwnedFd,
}

impl Refusals {
    /// Sets the rate, and takes the ring out of the object.
    pub fn new(ebpf: &mut Ebpf, core: Arc<Core>, stop: OwnedFd) -> Result<Self, ApplyError> {
        let mut rate: Array<MapData, FilterEntry> = tables::map(ebpf, "refusal_rate")?;
        let each = 1_000_000_000 / A_SECOND; // ns
        let bucket =
            FilterEntry { picoseconds: each * 1000, burst: each * AT_ONCE, ..Default::default() };
        rate.set(0, bucket, 0)
            .map_err(|error| ApplyError::Table { table: "refusal_rate", error })?;
        Ok(Self { core, ring: tables::map(ebpf, "refused_ring")?, stop })
    }

    /// Until the data plane closes.
    pub fn run(mut self) {
        loop {
            match self.wait() {
                Ok(false) => {}
                Ok(true) => return,
                Err(error) => {
                    tracing::error!(%error, "ring of refused datagrams cannot be read");
                    return;
                }
            }
            while let Some(record) = self.ring.next() {
                answer(&self.core, &record);
            }
        }
    }

    /// Whether the data plane closes.
    fn wait(&self) -> io::Result<bool> {
        // SAFETY: the ring's descriptor is open as long as the ring, which outlives this function.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let mut descriptors = [
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(ring, PollFlags::POLLIN),
        ];
        match poll(&mut descriptors, PollTimeout::NONE) {
            Ok(_) => Ok(descriptors[0].any().unwrap_or(false)),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn answer(core: &Core, record: &[u8]) -> Option<()> {
    let record: &[u8; RECORD] = record.try_into().ok()?;
    let word = |at: usize| Some(u32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(record.get(at..at + 2)?.try_into().ok()?));
    let links = core.segments.get(&word(0)?)?;
    let side = if word(4)? == 0 { Side::A } else { Side::B };
    let tag = (half(10)? != 0).then_some(half(8)?);
    let error = unreachable_port(record.get(FRAME_AT..)?, tag)?;
    if let Err(error) = links.port(side).send_complete(&error) {
        tracing::debug!(%error, "ICMP error not sent");
    }
    Some(())
}

/// The frame of the error, of the family of the datagram that `frame` begins; `tag`: of 802.1Q, where
/// it is not in the frame.
fn unreachable_port(frame: &[u8], tag: Option<u16>) -> Option<Vec<u8>> {
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

/// RFC 4443 3.1. As much as there is, which is below 1280 bytes.
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
    let words = pseudo.chunks(2).chain(bytes.chunks(2));
    let mut sum: u32 = words
        .map(|word| match word {
            [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
            [high] => u32::from(*high) << 8,
            _ => 0,
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
}
