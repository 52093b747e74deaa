//! dm-verity: the hash tree that lets the kernel check each block of the root file system.
//!
//! Writes what `veritysetup format --hash=sha256` writes (superblock of version 1, hash type 1: the
//! salt goes before the block). Source: Documentation/admin-guide/device-mapper/verity.rst of the
//! kernel and cryptsetup's wiki page "DMVerity". Not for: setting the device up, which is
//! `weir-init`'s.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};

/// Both of data and of hash blocks.
pub const BLOCK: usize = 4096;
const DIGEST: usize = 32;

/// What the kernel needs to know to open the device.
#[derive(Debug, PartialEq, Eq)]
pub struct Verity {
    /// The tree's superblock is the block after the last of these.
    pub data_blocks: u64,
    pub root_hash: [u8; DIGEST],
    pub salt: [u8; DIGEST],
}

impl Verity {
    /// The value of `weir.verity=`: blocks, root hash and salt.
    pub fn argument(&self) -> String {
        format!("{}:{}:{}", self.data_blocks, hex(&self.root_hash), hex(&self.salt))
    }
}

/// Pads the file to whole blocks and appends superblock and hash tree. The salt is the content's
/// own digest, so that the same content gives the same image.
pub fn append(path: &Path, uuid: [u8; 16]) -> anyhow::Result<Verity> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| path.display().to_string())?;
    let mut data = Vec::new();
    file.read_to_end(&mut data)?;
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    let salt: [u8; DIGEST] = Sha256::digest(&data).into();
    let (root_hash, tree) = tree(&data, &salt);
    let data_blocks = (data.len() / BLOCK) as u64;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&data)?;
    file.write_all(&superblock(uuid, data_blocks, &salt))?;
    file.write_all(&tree)?;
    Ok(Verity { data_blocks, root_hash, salt })
}

/// The root hash and the hash blocks, the level next to the root first. `data` is whole blocks.
fn tree(data: &[u8], salt: &[u8]) -> ([u8; DIGEST], Vec<u8>) {
    let mut levels: Vec<Vec<u8>> = Vec::new();
    let mut digests = digests(data, salt);
    while digests.len() > DIGEST {
        digests.resize(digests.len().next_multiple_of(BLOCK), 0);
        let above = self::digests(&digests, salt);
        levels.push(digests);
        digests = above;
    }
    let mut root = [0; DIGEST];
    root.iter_mut().zip(&digests).for_each(|(to, from)| *to = *from);
    (root, levels.into_iter().rev().flatten().collect())
}

fn digests(blocks: &[u8], salt: &[u8]) -> Vec<u8> {
    let salted = Sha256::new_with_prefix(salt);
    blocks.chunks(BLOCK).flat_map(|block| salted.clone().chain_update(block).finalize()).collect()
}

fn superblock(uuid: [u8; 16], data_blocks: u64, salt: &[u8; DIGEST]) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK);
    block.extend(b"verity\0\0");
    block.extend(1_u32.to_le_bytes()); // version
    block.extend(1_u32.to_le_bytes()); // hash type
    block.extend(uuid);
    block.extend(b"sha256");
    block.resize(64, 0);
    block.extend((BLOCK as u32).to_le_bytes()); // data
    block.extend((BLOCK as u32).to_le_bytes()); // hashes
    block.extend(data_blocks.to_le_bytes());
    block.extend((DIGEST as u16).to_le_bytes()); // of the salt
    block.extend([0; 6]);
    block.extend(salt);
    block.resize(BLOCK, 0);
    block
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::{run, tool};

    /// One block (no tree), a full level, one more, and a tree of three levels.
    const SIZES: [usize; 4] = [1, 128, 129, 128 * 128 + 1];

    #[test]
    fn veritysetup_accepts_the_tree_and_finds_the_same_root() {
        for blocks in SIZES {
            let (_directory, path) = sample(blocks * BLOCK - 7);
            let verity = append(&path, [7; 16]).unwrap();
            assert_eq!(verity.data_blocks, blocks as u64);
            let verified = veritysetup(&path, &verity);
            assert!(verified.is_ok(), "{blocks} blocks: {verified:?}");
        }
    }

    #[test]
    fn veritysetup_refuses_a_changed_byte() {
        let (_directory, path) = sample(129 * BLOCK);
        let verity = append(&path, [7; 16]).unwrap();
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(100 * BLOCK as u64 + 5)).unwrap();
        file.write_all(b"\xff\x00\xff").unwrap();
        assert!(veritysetup(&path, &verity).is_err());
    }

    fn sample(size: usize) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.img");
        let content: Vec<u8> = (0..size).map(|at| (at ^ (at >> 12)) as u8).collect();
        std::fs::write(&path, content).unwrap();
        (directory, path)
    }

    fn veritysetup(path: &Path, verity: &Verity) -> anyhow::Result<Vec<u8>> {
        let offset = verity.data_blocks * BLOCK as u64;
        run(tool("veritysetup")
            .arg("verify")
            .args([path, path])
            .arg(hex(&verity.root_hash))
            .arg(format!("--hash-offset={offset}")))
    }
}
