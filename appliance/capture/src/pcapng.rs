//! Writing pcapng (draft-ietf-opsawg-pcapng), little-endian, link type Ethernet, times in ns.
//!
//! For: a section header, an interface block a port, enhanced packet blocks with their direction,
//! and interface statistics at the end. Not for: reading. Fails with the writer's I/O error.

use std::io::{self, Write};

use crate::packet::Way;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const ETHERNET: u16 = 1;

/// A file being written, and its length so far.
pub struct Writer<W> {
    output: W,
    length: u64,
    block: Vec<u8>,
}

/// One packet as it is written.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Index of the interface block.
    pub interface: u32,
    /// ns since the Unix epoch.
    pub time: u64,
    pub way: Way,
    /// Its first bytes, at most the interface's snaplen.
    pub bytes: &'a [u8],
    /// Bytes on the wire.
    pub length: usize,
}

impl<W: Write> Writer<W> {
    /// Writes the section header: `application` is who wrote the file.
    pub fn new(output: W, application: &str) -> io::Result<Self> {
        let mut writer = Self { output, length: 0, block: Vec::new() };
        writer.begin(SECTION);
        writer.block.extend(0x1a2b_3c4du32.to_le_bytes());
        writer.block.extend([1, 0, 0, 0]); // version 1.0
        writer.block.extend(u64::MAX.to_le_bytes()); // length of the section: not said
        writer.option(4, application.as_bytes());
        writer.end()?;
        Ok(writer)
    }

    /// Interfaces are numbered from 0 in the order of these calls.
    pub fn interface(&mut self, name: &str, snaplen: u32, filter: Option<&str>) -> io::Result<()> {
        self.begin(INTERFACE);
        self.block.extend(ETHERNET.to_le_bytes());
        self.block.extend([0, 0]);
        self.block.extend(snaplen.to_le_bytes());
        self.option(2, name.as_bytes());
        self.option(9, &[9]); // if_tsresol: 10^-9 s
        if let Some(filter) = filter {
            self.option(11, &[&[0], filter.as_bytes()].concat()); // a string as libpcap has it
        }
        self.end()
    }

    pub fn packet(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.begin(PACKET);
        self.block.extend(record.interface.to_le_bytes());
        self.time(record.time);
        self.block.extend(size(record.bytes.len()).to_le_bytes());
        self.block.extend(size(record.length).to_le_bytes());
        self.padded(record.bytes);
        let flags: u32 = match record.way {
            Way::In => 1,
            Way::Out => 2,
        };
        self.option(2, &flags.to_le_bytes());
        self.end()
    }

    /// What an interface saw, and what of it was lost before it could be looked at.
    pub fn statistics(
        &mut self,
        interface: u32,
        time: u64,
        seen: u64,
        lost: u64,
    ) -> io::Result<()> {
        self.begin(STATISTICS);
        self.block.extend(interface.to_le_bytes());
        self.time(time);
        self.option(4, &seen.to_le_bytes());
        self.option(5, &lost.to_le_bytes());
        self.end()
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// Bytes written.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.block.extend(kind.to_le_bytes());
        self.block.extend([0; 4]);
    }

    /// High half first, whatever the byte order.
    fn time(&mut self, time: u64) {
        self.block.extend(((time >> 32) as u32).to_le_bytes());
        self.block.extend((time as u32).to_le_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.block.extend(bytes);
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
        self.block.extend(code.to_le_bytes());
        self.block.extend((value.len() as u16).to_le_bytes());
        self.padded(value);
    }

    fn end(&mut self) -> io::Result<()> {
        self.block.extend([0; 4]); // end of options
        let total = size(self.block.len() + 4).to_le_bytes();
        if let Some(place) = self.block.get_mut(4..8) {
            place.copy_from_slice(&total);
        }
        self.block.extend(total);
        self.output.write_all(&self.block)?;
        self.length += self.block.len() as u64;
        Ok(())
    }
}

/// Frames are at most 256 KiB.
fn size(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_byte_for_byte_as_the_draft_has_it() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, "Weir").unwrap();
        writer.interface("1A", 96, Some("tcp")).unwrap();
        let bytes = [1, 2, 3, 4, 5];
        let time = 0x0102_0304_0506_0708;
        let record = Record { interface: 0, time, way: Way::Out, bytes: &bytes, length: 60 };
        writer.packet(&record).unwrap();
        writer.statistics(0, time, 9, 2).unwrap();
        assert_eq!(writer.length(), file.len() as u64);
        #[rustfmt::skip]
        let expected = [
            // Section header.
            0x0a, 0x0d, 0x0d, 0x0a, 40, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0,
            255, 255, 255, 255, 255, 255, 255, 255, 4, 0, 4, 0, b'W', b'e', b'i', b'r',
            0, 0, 0, 0, 40, 0, 0, 0,
            // Interface.
            1, 0, 0, 0, 48, 0, 0, 0, 1, 0, 0, 0, 96, 0, 0, 0,
            2, 0, 2, 0, b'1', b'A', 0, 0, 9, 0, 1, 0, 9, 0, 0, 0,
            11, 0, 4, 0, 0, b't', b'c', b'p', 0, 0, 0, 0, 48, 0, 0, 0,
            // Packet.
            6, 0, 0, 0, 52, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 8, 7, 6, 5,
            5, 0, 0, 0, 60, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0,
            2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0, 52, 0, 0, 0,
            // Statistics.
            5, 0, 0, 0, 52, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 8, 7, 6, 5,
            4, 0, 8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5, 0, 8, 0, 2, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 52, 0, 0, 0,
        ];
        assert_eq!(file, expected);
    }
}
