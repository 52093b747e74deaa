//! Labels of ISO 9660 and FAT file systems, read from their first sectors.
//!
//! For: telling whether a block device is a datasource. Not for: reading files (the kernel does).
//! Any bytes at all give an answer; only the reader's own errors are passed on.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

/// A file system that a seed may come on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Iso9660,
    Vfat,
}

impl FileSystem {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iso9660 => "iso9660",
            Self::Vfat => "vfat",
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A file system and its labels: FAT has one in its boot sector and one in its root directory, and
/// programs disagree on which they write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub kind: FileSystem,
    pub labels: Vec<String>,
}

/// The volume that a device holds; `None` for anything but ISO 9660 and FAT.
pub fn identify(device: &mut (impl Read + Seek)) -> io::Result<Option<Volume>> {
    if let Some(descriptor) = read_at::<{ Iso::LENGTH }>(device, Iso::OFFSET)?
        && let Some(label) = Iso::label(&descriptor)
    {
        return Ok(Some(Volume { kind: FileSystem::Iso9660, labels: vec![label] }));
    }
    let Some(sector) = read_at::<512>(device, 0)? else { return Ok(None) };
    let Some(fat) = Fat::parse(&sector) else { return Ok(None) };
    let mut labels = vec![fat.boot_label];
    labels.extend(root_label(device, fat.root, fat.root_entries)?);
    labels.retain(|label| !label.is_empty());
    Ok(Some(Volume { kind: FileSystem::Vfat, labels }))
}

/// The primary volume descriptor (ECMA-119, section 8.4).
struct Iso;

impl Iso {
    const OFFSET: u64 = 0x8000;
    const LENGTH: usize = 72;

    fn label(descriptor: &[u8; Self::LENGTH]) -> Option<String> {
        let primary = descriptor.starts_with(b"\x01CD001");
        primary.then(|| descriptor.get(40..72).map(text)).flatten()
    }
}

/// What a FAT boot sector says (Microsoft's FAT specification, sections 3.1 to 3.3).
struct Fat {
    boot_label: String,
    /// Byte offset of the root directory (FAT32: of its first cluster).
    root: u64,
    /// How many entries of 32 bytes are looked at.
    root_entries: u64,
}

impl Fat {
    fn parse(sector: &[u8; 512]) -> Option<Self> {
        let byte = |at: usize| sector.get(at).copied().map(u64::from);
        let short = |at: usize| Some(byte(at)? | byte(at + 1)? << 8);
        let long = |at: usize| Some(short(at)? | short(at + 2)? << 16);
        let sane = matches!(byte(0)?, 0xeb | 0xe9)
            && short(510)? == 0xaa55
            && matches!(short(11)?, 512 | 1024 | 2048 | 4096)
            && byte(13)?.is_power_of_two()
            && short(14)? > 0
            && matches!(byte(16)?, 1 | 2);
        if !sane {
            return None;
        }
        let (bytes_per_sector, sectors_per_cluster) = (short(11)?, byte(13)?);
        let fat32 = short(22)? == 0;
        let sectors_per_fat = if fat32 { long(36)? } else { short(22)? };
        // At most 2^16 + 2 * 2^32 sectors of 4096 bytes: far below 2^64.
        let data = short(14)? + byte(16)? * sectors_per_fat;
        let (root_sector, root_entries) = if fat32 {
            let cluster = long(44)?.checked_sub(2)?;
            let entries = sectors_per_cluster * bytes_per_sector / 32;
            (data + cluster * sectors_per_cluster, entries)
        } else {
            (data, short(17)?)
        };
        let label = if fat32 { (0x42, 0x47) } else { (0x26, 0x2b) };
        let signed = byte(label.0)? == 0x29;
        let boot_label = sector.get(label.1..label.1 + 11).filter(|_| signed).map(text);
        Some(Self {
            boot_label: boot_label.unwrap_or_default(),
            root: root_sector * bytes_per_sector,
            root_entries,
        })
    }
}

/// The volume entry of a FAT root directory; at most 65535 entries are looked at.
fn root_label(
    device: &mut (impl Read + Seek),
    root: u64,
    entries: u64,
) -> io::Result<Option<String>> {
    const VOLUME: u8 = 0x08;
    const LONG_NAME: u8 = 0x0f;
    const DELETED: u8 = 0xe5;
    for index in 0..entries {
        let Some(entry) = read_at::<32>(device, root + index * 32)? else { return Ok(None) };
        let [first, ..] = entry;
        let attributes = entry[11] & 0x3f;
        if first == 0 {
            return Ok(None);
        }
        if first != DELETED && attributes != LONG_NAME && attributes & VOLUME != 0 {
            return Ok(Some(text(&entry[..11])));
        }
    }
    Ok(None)
}

/// `N` bytes at an offset; `None` where the device ends before.
fn read_at<const N: usize>(
    device: &mut (impl Read + Seek),
    offset: u64,
) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    device.seek(SeekFrom::Start(offset))?;
    match device.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// A padded field's text.
fn text(field: &[u8]) -> String {
    let text = String::from_utf8_lossy(field);
    text.trim_end_matches([' ', '\0']).to_owned()
}
