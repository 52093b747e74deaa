//! Writes a cpio archive of the "newc" format, as the kernel unpacks it for an initramfs.
//!
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. The archive
//! depends on names and contents only: owner is root, times are fixed, inode numbers count up.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// An archive being written; entries come out in the order they are given.
pub struct Archive<W: Write> {
    out: W,
    modified: u32,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// `modified` (seconds since 1970) becomes the time of every entry.
    pub fn new(out: W, modified: u32) -> Self {
        Archive { out, modified, inode: 0 }
    }

    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, 2, &[])
    }

    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, FILE | permissions, 1, content)
    }

    /// Ends the archive and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.modified = 0;
        self.header("TRAILER!!!", 0, 1, 0)?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, links: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: 4 GiB is cpio's bound"))
        })?;
        self.header(name, mode, links, size)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn header(&mut self, name: &str, mode: u32, links: u32, size: u32) -> io::Result<()> {
        let name_size = name.len() + 1;
        let (inode, modified) = (self.inode, self.modified);
        let (owner, group, device, check) = (0, 0, 0, 0);
        write!(
            self.out,
            "070701{inode:08X}{mode:08X}{owner:08X}{group:08X}{links:08X}{modified:08X}{size:08X}\
             {device:08X}{device:08X}{device:08X}{device:08X}{name_size:08X}{check:08X}{name}\0"
        )?;
        self.pad(110 + name_size)
    }

    /// Header with name, and content, each end on a multiple of four.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..length.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_is_byte_for_byte_what_the_format_says() {
        let mut archive = Archive::new(Vec::new(), 0x1234_5678);
        archive.directory("dev").unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let golden = concat!(
            "070701",
            "00000001",
            "000041ED",
            "00000000",
            "00000000",
            "00000002",
            "12345678",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000004",
            "00000000",
            "dev\0\0\0", // 110 + 4 = 114, padded to 116
            "070701",
            "00000002",
            "000081ED",
            "00000000",
            "00000000",
            "00000001",
            "12345678",
            "00000005",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000005",
            "00000000",
            "init\0\0", // 110 + 5 = 115, padded to 116
            "hello\0\0\0",
            "070701",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "0000000B",
            "00000000",
            "TRAILER!!!\0\0\0\0", // 110 + 11 = 121, padded to 124
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), golden);
    }
}
