//! How a machine gets from its firmware to the kernel: GRUB for BIOS and for UEFI from one EFI
//! system partition, and in it a folder for each slot.
//!
//! The state of slots is `grub/grubenv` on that partition, in RAUC's terms (see grub/grub.cfg).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::build::EPOCH;
use crate::tool::{run, tool};

const GRUB_CONFIGURATION: &str = include_str!("../grub/grub.cfg");
const EARLY_CONFIGURATION: &str = include_str!("../grub/early.cfg");
/// The label that GRUB's early configuration searches for.
const LABEL: &str = "WEIRBOOT";
const GRUB_MODULES: [&str; 18] = [
    "part_gpt",
    "fat",
    "normal",
    "linux",
    "loadenv",
    "configfile",
    "test",
    "search",
    "search_fs_uuid",
    "search_label",
    "serial",
    "terminal",
    "echo",
    "sleep",
    "reboot",
    "minicmd",
    "true",
    "regexp",
];
const EFI_MODULES: [&str; 4] = ["chain", "efi_gop", "efifwsetup", "all_video"];
/// What a block of GRUB's environment is long, comment and padding included.
const ENVIRONMENT: usize = 1024;

/// GRUB's images.
pub struct Grub {
    /// For the BIOS boot partition.
    pub core: PathBuf,
    pub efi: PathBuf,
}

/// What slot a boots; slot b is empty until the first upgrade.
pub struct Slot<'a> {
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    pub command_line: &'a str,
}

pub fn grub(work: &Path) -> anyhow::Result<Grub> {
    let early = work.join("early.cfg");
    fs::write(&early, EARLY_CONFIGURATION)?;
    let grub = Grub { core: work.join("core.img"), efi: work.join("BOOTX64.EFI") };
    let image = |format, prefix, output: &Path, modules: &[&str]| {
        run(tool("grub-mkimage")
            .args(["-O", format, "-p", prefix, "-c"])
            .arg(&early)
            .arg("-o")
            .arg(output)
            .args(modules)
            .args(GRUB_MODULES))
    };
    image("i386-pc", "(,gpt2)/grub", &grub.core, &["biosdisk"])?;
    image("x86_64-efi", "/grub", &grub.efi, &EFI_MODULES)?;
    Ok(grub)
}

/// Makes the EFI system partition's file system, FAT32 of `size` bytes.
pub fn system_partition(
    work: &Path,
    grub: &Grub,
    slot: &Slot<'_>,
    size: u64,
) -> anyhow::Result<PathBuf> {
    let partition = work.join("esp.img");
    fs::File::create(&partition)?.set_len(size)?;
    run(tool("mkfs.vfat").args(["-F", "32", "-n", LABEL, "--invariant"]).arg(&partition))?;
    let small = |name: &str, content: &[u8]| -> anyhow::Result<PathBuf> {
        let path = work.join(name);
        fs::write(&path, content)?;
        Ok(path)
    };
    let configuration = small("grub.cfg", GRUB_CONFIGURATION.as_bytes())?;
    let environment = small("grubenv", &environment())?;
    let slot_line = small("slot.cfg", slot_configuration(slot.command_line).as_bytes())?;
    for directory in ["EFI", "EFI/BOOT", "grub", "slot-a", "slot-b"] {
        run(mtool("mmd", &partition).arg(format!("::/{directory}")))?;
    }
    let files: [(&Path, &str); 6] = [
        (&grub.efi, "EFI/BOOT/BOOTX64.EFI"),
        (&configuration, "grub/grub.cfg"),
        (&environment, "grub/grubenv"),
        (slot.kernel, "slot-a/vmlinuz"),
        (slot.initrd, "slot-a/initrd.zst"),
        (&slot_line, "slot-a/slot.cfg"),
    ];
    for (source, path) in files {
        run(mtool("mcopy", &partition).arg(source).arg(format!("::/{path}")))?;
    }
    Ok(partition)
}

/// What slot.cfg hands to grub.cfg.
fn slot_configuration(command_line: &str) -> String {
    format!("set slot_args=\"{command_line}\"\n")
}

fn environment() -> Vec<u8> {
    let mut block = b"# GRUB Environment Block\n\
        ORDER=a b\na_OK=1\na_TRY=0\nb_OK=0\nb_TRY=0\n"
        .to_vec();
    block.resize(ENVIRONMENT, b'#');
    block
}

/// mtools take the time of new files from SOURCE_DATE_EPOCH.
fn mtool(name: &str, partition: &Path) -> Command {
    let mut command = tool(name);
    command.env("SOURCE_DATE_EPOCH", EPOCH.to_string()).arg("-i").arg(partition);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_is_one_block_that_grub_editenv_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("grubenv");
        fs::write(&path, environment()).unwrap();
        assert_eq!(environment().len(), 1024);
        let listed = run(tool("grub-editenv").arg(&path).arg("list")).unwrap();
        let listed = String::from_utf8(listed).unwrap();
        assert_eq!(listed, "ORDER=a b\na_OK=1\na_TRY=0\nb_OK=0\nb_TRY=0\n");
    }

    #[test]
    fn grub_accepts_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("grub.cfg");
        fs::write(&path, GRUB_CONFIGURATION).unwrap();
        run(tool("grub-script-check").arg(&path)).unwrap();
        fs::write(&path, slot_configuration("quiet weir.slot=a")).unwrap();
        run(tool("grub-script-check").arg(&path)).unwrap();
    }
}
