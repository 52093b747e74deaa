//! dm-verity through the device mapper's ioctls (linux/dm-ioctl.h).
//!
//! For: one read-only mapped device called [`NAME`]. Not for: making hash trees. A block that does
//! not match its hash panics the kernel (`panic_on_corruption`), which reboots it: the boot loader
//! counts that as a failed try. Fails with the step that failed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command_line::Verity;

/// Also looked for by stage 2, which tells from it that the root is verified.
pub const NAME: &str = "weir-root";

/// `struct dm_ioctl`.
const HEADER: usize = 312;
/// `struct dm_target_spec`.
const TARGET: usize = 40;
/// Header, target and parameters: parameters are below 1 KiB.
const MESSAGE: usize = 4096;
const READ_ONLY: u32 = 1;
/// Sectors of 512 bytes in a block of 4 KiB.
const SECTORS_A_BLOCK: u64 = 8;

#[derive(Clone, Copy, Debug)]
pub enum Command {
    Create = 3,
    /// Suspend without the suspend flag: resume.
    Resume = 6,
    LoadTable = 9,
}

#[derive(Debug, thiserror::Error)]
pub enum VerityError {
    #[error("/dev/mapper/control: {0}")]
    Control(#[source] io::Error),
    #[error("{0:?}: {1}")]
    Step(Command, #[source] io::Error),
    #[error("parameters are too long")]
    TooLong,
    #[error("the mapped device did not appear")]
    NoDevice,
}

/// Maps `device` and returns the device to mount.
pub fn open(device: &Path, verity: &Verity) -> Result<PathBuf, VerityError> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/mapper/control")
        .map_err(VerityError::Control)?;
    step(&control, Command::Create, &mut message(0, 0))?;
    step(&control, Command::LoadTable, &mut table(device, verity)?)?;
    step(&control, Command::Resume, &mut message(READ_ONLY, 0))?;
    // devtmpfs makes the node before the ioctl returns; a slow machine gets a second all the same.
    for _ in 0..20 {
        if let Some(mapped) = mapped() {
            return Ok(mapped);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(VerityError::NoDevice)
}

fn step(control: &File, command: Command, message: &mut [u8; MESSAGE]) -> Result<(), VerityError> {
    // _IOWR(0xfd, command, struct dm_ioctl)
    let request = 3 << 30 | (HEADER as u64) << 16 | 0xfd << 8 | command as u64;
    // SAFETY: the buffer is as long as its header says (data_size), which is all that the kernel
    // reads and writes; it outlives the call. nix's ioctl macros would want the C structure.
    let result =
        unsafe { libc::ioctl(control.as_raw_fd(), request as libc::Ioctl, message.as_mut_ptr()) };
    if result < 0 {
        return Err(VerityError::Step(command, io::Error::last_os_error()));
    }
    Ok(())
}

/// A header for the device [`NAME`].
fn message(flags: u32, targets: u32) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    let mut put = |at: usize, bytes: &[u8]| {
        for (place, byte) in message.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    };
    put(0, &4u32.to_ne_bytes()); // version 4.0.0
    put(12, &(MESSAGE as u32).to_ne_bytes()); // data_size
    put(16, &(HEADER as u32).to_ne_bytes()); // data_start
    put(20, &targets.to_ne_bytes()); // target_count
    put(28, &flags.to_ne_bytes());
    put(48, NAME.as_bytes());
    message
}

/// The table of one target, `verity`, over the whole device.
fn table(device: &Path, verity: &Verity) -> Result<[u8; MESSAGE], VerityError> {
    let parameters = parameters(device, verity);
    let length = parameters.len() + 1;
    if HEADER + TARGET + length > MESSAGE {
        return Err(VerityError::TooLong);
    }
    let mut message = message(READ_ONLY, 1);
    let mut put = |at: usize, bytes: &[u8]| {
        for (place, byte) in message.iter_mut().skip(HEADER + at).zip(bytes) {
            *place = *byte;
        }
    };
    put(8, &(verity.blocks * SECTORS_A_BLOCK).to_ne_bytes()); // length; sector_start is 0
    put(20, &((TARGET + length) as u32).to_ne_bytes()); // next
    put(24, b"verity");
    put(TARGET, parameters.as_bytes());
    Ok(message)
}

/// Format 1, data and hashes on one device, blocks of 4 KiB; the tree begins a block after the
/// data, because its superblock takes one (kernel: admin-guide/device-mapper/verity).
fn parameters(device: &Path, verity: &Verity) -> String {
    let device = device.display();
    let Verity { blocks, root_hash, salt } = verity;
    let tree = blocks + 1;
    format!(
        "1 {device} {device} 4096 4096 {blocks} {tree} sha256 {root_hash} {salt} 1 panic_on_corruption"
    )
}

/// The block device that the device mapper calls [`NAME`].
fn mapped() -> Option<PathBuf> {
    std::fs::read_dir("/sys/class/block").ok()?.flatten().find_map(|entry| {
        let name = std::fs::read_to_string(entry.path().join("dm/name")).ok()?;
        (name.trim() == NAME).then(|| PathBuf::from("/dev").join(entry.file_name()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lies_where_the_kernel_reads_it() {
        let verity = Verity { blocks: 3, root_hash: "ab".repeat(32), salt: "cd".into() };
        let message = table(Path::new("/dev/vda3"), &verity).unwrap();
        assert_eq!(message[0..4], 4u32.to_ne_bytes());
        assert_eq!(message[12..16], 4096u32.to_ne_bytes());
        assert_eq!(message[16..20], 312u32.to_ne_bytes());
        assert_eq!(message[20..24], 1u32.to_ne_bytes());
        assert_eq!(&message[48..57], b"weir-root");
        assert_eq!(message[320..328], 24u64.to_ne_bytes());
        assert_eq!(&message[336..343], b"verity\0");
        let parameters = format!(
            "1 /dev/vda3 /dev/vda3 4096 4096 3 4 sha256 {} cd 1 panic_on_corruption\0",
            "ab".repeat(32)
        );
        assert_eq!(&message[352..352 + parameters.len()], parameters.as_bytes());
        assert_eq!(message[332..336], (40 + parameters.len() as u32).to_ne_bytes());
    }
}
