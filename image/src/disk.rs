//! The disk: partitions, GRUB's boot sector by hand, and the qcow2 made of it.
//!
//! Partition names are what `weir-init` finds its partitions by. The raw disk is sparse; it lives
//! in the work directory only.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, bail};

use crate::tool::{run, tool};

const SECTOR: u64 = 512;
pub const MIB: u64 = 1 << 20;

pub struct Partition {
    pub name: &'static str,
    /// GPT partition type.
    kind: &'static str,
    /// In MiB.
    start: u64,
    /// In MiB.
    size: u64,
}

pub const BIOS: Partition = Partition {
    name: "weir-bios",
    kind: "21686148-6449-6E6F-744E-656564454649",
    start: 1,
    size: 1,
};
pub const SYSTEM: Partition = Partition {
    name: "weir-esp",
    kind: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    start: 2,
    size: 128,
};
pub const ROOT_A: Partition = Partition {
    name: "weir-root-a",
    kind: "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    start: 130,
    size: 256,
};
pub const ROOT_B: Partition = Partition {
    name: "weir-root-b",
    kind: "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    start: 386,
    size: 256,
};
pub const DATA: Partition = Partition {
    name: "weir-data",
    kind: "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
    start: 642,
    size: 64,
};
const PARTITIONS: [&Partition; 5] = [&BIOS, &SYSTEM, &ROOT_A, &ROOT_B, &DATA];
/// In MiB; the last one holds the backup of the partition table.
const DISK: u64 = DATA.start + DATA.size + 1;

impl Partition {
    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size * MIB
    }

    /// In bytes, from the disk's start.
    fn offset(&self) -> u64 {
        self.start * MIB
    }
}

/// An empty ext4 for what the appliance keeps.
pub fn data_partition(path: &Path) -> anyhow::Result<()> {
    File::create(path)?.set_len(DATA.size())?;
    run(tool("mkfs.ext4")
        .env("E2FSPROGS_FAKE_TIME", crate::build::EPOCH.to_string())
        .args(["-q", "-L", DATA.name, "-U", "00000000-0000-4000-8000-0000000000d1", "-E"])
        .arg("hash_seed=00000000-0000-4000-8000-0000000000d2,lazy_itable_init=0,root_owner=0:0")
        .arg(path))?;
    Ok(())
}

/// Writes the raw disk: the table, and each file into its partition.
pub fn assemble(disk: &Path, contents: &[(&Partition, &Path)]) -> anyhow::Result<()> {
    File::create(disk)?.set_len(DISK * MIB)?;
    partition_table(disk)?;
    let mut file = OpenOptions::new().write(true).open(disk)?;
    for (partition, content) in contents {
        let size = fs::metadata(content)?.len();
        if size > partition.size() {
            bail!("{}: {size} bytes do not fit into {} MiB", partition.name, partition.size);
        }
        copy_sparse(content, &mut file, partition.offset())
            .with_context(|| partition.name.to_owned())?;
    }
    Ok(())
}

fn partition_table(disk: &Path) -> anyhow::Result<()> {
    let mut script = String::from(
        "label: gpt\nlabel-id: 00000000-0000-4000-8000-000000000001\nfirst-lba: 2048\n",
    );
    for (index, Partition { name, kind, start, size }) in PARTITIONS.into_iter().enumerate() {
        let (start, size) = (start * MIB / SECTOR, size * MIB / SECTOR);
        let uuid = format!("00000000-0000-4000-8000-0000000001{index:02}");
        script.push_str(&format!(
            "start={start}, size={size}, type={kind}, name=\"{name}\", uuid={uuid}\n"
        ));
    }
    let path = disk.with_extension("sfdisk");
    fs::write(&path, script)?;
    run(tool("sfdisk").arg("-q").arg(disk).stdin(Stdio::from(File::open(path)?)))?;
    Ok(())
}

/// Writes GRUB's boot sector and core image, the two fields of each that say where the rest is
/// patched in: what grub-bios-setup does for a BIOS boot partition. `boot` and `core` are GRUB's
/// `boot.img` and grub-mkimage's output.
pub fn install_bios_boot(disk: &Path, boot: &[u8], core: &[u8]) -> anyhow::Result<()> {
    let (boot, core) = bios_boot(boot, core, BIOS.offset() / SECTOR)?;
    let mut file = OpenOptions::new().write(true).open(disk)?;
    file.write_all(&boot)?;
    file.seek(SeekFrom::Start(BIOS.offset()))?;
    file.write_all(&core)?;
    Ok(())
}

/// How much of the first sector is code: a disk signature and the protective MBR's table follow.
const BOOT_CODE: usize = 440;

fn bios_boot(boot: &[u8], core: &[u8], sector: u64) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let mut boot = boot.get(..BOOT_CODE).context("boot.img: too short")?.to_vec();
    let mut core = core.to_vec();
    core.resize(core.len().next_multiple_of(SECTOR as usize), 0);
    let sectors = core.len() / SECTOR as usize;
    if core.is_empty() || core.len() as u64 > BIOS.size() {
        bail!("core.img: {} bytes do not fit into the BIOS boot partition", core.len());
    }
    // boot.img: where core.img's first sector is, and no jump around the drive number check.
    put(&mut boot, 0x5c, &sector.to_le_bytes());
    put(&mut boot, 0x66, &[0x90, 0x90]);
    // core.img, end of its first sector: one block list, start, sectors, segment to load at.
    put(&mut core, 0x1f4, &(sector + 1).to_le_bytes());
    put(&mut core, 0x1fc, &u16::try_from(sectors - 1)?.to_le_bytes());
    put(&mut core, 0x1fe, &0x820_u16.to_le_bytes());
    Ok((boot, core))
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

/// Compresses the raw disk.
pub fn to_qcow2(disk: &Path, output: &Path) -> anyhow::Result<()> {
    run(tool("qemu-img")
        .args(["convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd"])
        .args([disk, output]))?;
    Ok(())
}

fn copy_sparse(from: &Path, to: &mut File, offset: u64) -> anyhow::Result<()> {
    let from = File::open(from)?;
    let mut at = offset;
    loop {
        let mut block = Vec::new();
        (&from).take(MIB).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(());
        }
        if block.iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(at))?;
            to.write_all(&block)?;
        }
        at += block.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_the_partitions_where_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk.raw");
        let content = directory.path().join("content");
        fs::write(&content, b"root file system").unwrap();
        assemble(&disk, &[(&ROOT_A, &content)]).unwrap();
        let bytes = fs::read(&disk).unwrap();
        assert_eq!(&bytes[510..512], [0x55, 0xaa], "protective MBR");
        assert_eq!(bytes[450], 0xee, "protective MBR's partition type");
        assert_eq!(&bytes[512..520], b"EFI PART");
        assert_eq!(&bytes[bytes.len() - 512..][..8], b"EFI PART", "backup");
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        for (index, partition) in PARTITIONS.iter().enumerate() {
            let entry = 1024 + index * 128;
            assert_eq!(number(entry + 32) * SECTOR, partition.offset());
            assert_eq!((number(entry + 40) + 1) * SECTOR, partition.offset() + partition.size());
            let name: Vec<u8> =
                bytes[entry + 56..entry + 128].iter().copied().filter(|byte| *byte != 0).collect();
            assert_eq!(String::from_utf8(name).unwrap(), partition.name);
        }
        let root = ROOT_A.offset() as usize;
        assert_eq!(&bytes[root..root + 16], b"root file system");
        // 21686148-..., its first three parts little-endian: "Hah!IdontNeedEFI"
        assert_eq!(&bytes[1024..1040], b"Hah!IdontNeedEFI");
    }

    #[test]
    fn partitions_follow_each_other() {
        for pair in PARTITIONS.windows(2) {
            assert_eq!(pair[0].start + pair[0].size, pair[1].start);
        }
    }

    #[test]
    fn content_larger_than_its_partition_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let content = directory.path().join("content");
        File::create(&content).unwrap().set_len(BIOS.size() + 1).unwrap();
        let error = assemble(&directory.path().join("disk.raw"), &[(&BIOS, &content)]);
        assert!(error.unwrap_err().to_string().contains("weir-bios"));
    }

    #[test]
    fn boot_sector_and_core_image_say_where_the_rest_is() {
        let (boot, core) = bios_boot(&[1; 512], &[2; 1025], 2048).unwrap();
        assert_eq!(boot.len(), 440);
        assert_eq!(&boot[0x5b..0x68], [1, 0, 8, 0, 0, 0, 0, 0, 0, 1, 1, 0x90, 0x90]);
        assert_eq!(core.len(), 1536);
        assert_eq!(&core[0x1f4..0x200], [1, 8, 0, 0, 0, 0, 0, 0, 2, 0, 0x20, 0x08]);
        assert!(bios_boot(&[1; 512], &vec![2; MIB as usize + 1], 2048).is_err());
    }
}
