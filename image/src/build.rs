//! The build from end to end, phase by phase, each with its time and size on standard output.
//!
//! Same inputs give the same bytes: times and identifiers in the image are fixed.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};

use crate::boot::{self, Slot};
use crate::disk::{self, BIOS, DATA, MIB, ROOT_A, SYSTEM};
use crate::modules::{INITRD_LIST, Modules, ROOT_LIST};
use crate::packages;
use crate::root::{self, Content};
use crate::tree::Tree;
use crate::verity::Verity;
use crate::{initrd, verity};

/// The time of everything in the image: 2026-01-01, in seconds since 1970.
pub const EPOCH: u32 = 1_767_225_600;
/// What people download: a larger image is an error, not a surprise.
const LARGEST: u64 = 48 * MIB;
/// GRUB's first sector for BIOS, of Debian's package grub-pc-bin.
const BOOT_SECTOR: &str = "/usr/lib/grub/i386-pc/boot.img";

pub struct Request {
    pub binaries: PathBuf,
    pub overlay: PathBuf,
    pub cache: PathBuf,
    pub output: PathBuf,
    /// A meta package, which depends on the newest kernel of its series.
    pub kernel_package: String,
    pub append: String,
}

pub fn run(request: &Request) -> anyhow::Result<()> {
    let progress = Progress::new();
    let directory = request.output.parent().filter(|path| !path.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let work = tempfile::Builder::new().prefix(".weir-image-").tempdir_in(directory)?;
    let work = work.path();

    let packages =
        packages::fetch(&request.kernel_package, &request.cache, &|line| println!("image: {line}"))
            .context("Debian packages")?;
    let version = packages.kernel_version.as_str();
    progress.done(&format!("kernel {version}, {} packages", packages.others.len()));

    let modules = Modules::read(&packages.modules()).context("kernel modules")?;
    let for_initrd = modules.select(&[INITRD_LIST])?;
    let for_root = modules.select(&[INITRD_LIST, ROOT_LIST])?;
    let initrd_path = work.join("initrd.zst");
    let init = request.binaries.join("weir-init");
    initrd::write(&init, version, &modules.unpack(&for_initrd)?, &[], &initrd_path)
        .context("initramfs")?;
    progress.made(&format!("initramfs, {} modules", for_initrd.count()), &initrd_path)?;

    let tree = Tree::create(&work.join("root"))?;
    let content = Content {
        binaries: &request.binaries,
        overlay: &request.overlay,
        packages: &packages,
        modules: &modules.unpack(&for_root)?,
    };
    let summary = root::fill(&tree, &content).context("root file system")?;
    progress.done(&format!("root file system: {} modules, {summary}", for_root.count()));
    let root_path = work.join("root.img");
    let verity = root::pack(&tree, &root_path).context("root file system")?;
    progress.made("squashfs with dm-verity", &root_path)?;
    println!("image: root hash {}", verity::hex(&verity.root_hash));

    let command_line = command_line(&verity, &request.append)?;
    let grub = boot::grub(work).context("GRUB")?;
    let kernel = packages.kernel_image();
    let slot = Slot { kernel: &kernel, initrd: &initrd_path, command_line: &command_line };
    let system_path = boot::system_partition(work, &grub, &slot, SYSTEM.size())
        .context("EFI system partition")?;
    let data_path = work.join("data.img");
    disk::data_partition(&data_path).context("data partition")?;
    progress.done("GRUB for BIOS and UEFI, EFI system partition, data partition");

    let raw = work.join("disk.raw");
    disk::assemble(&raw, &[(&SYSTEM, &system_path), (&ROOT_A, &root_path), (&DATA, &data_path)])?;
    let boot_sector = fs::read(BOOT_SECTOR).context(BOOT_SECTOR)?;
    disk::install_bios_boot(&raw, &boot_sector, &fs::read(&grub.core)?).context(BIOS.name)?;
    let compressed = work.join("disk.qcow2");
    disk::to_qcow2(&raw, &compressed)?;
    progress.made("disk", &compressed)?;

    let size = fs::metadata(&compressed)?.len();
    if size > LARGEST {
        bail!("the image has {}, more than {}", mebibytes(size), mebibytes(LARGEST));
    }
    for_direct_boot(&directory.join("boot"), &kernel, &initrd_path, &command_line)?;
    fs::rename(&compressed, &request.output)?;
    println!("image: {} {}", request.output.display(), mebibytes(size));
    Ok(())
}

/// The kernel's command line for slot a.
fn command_line(verity: &Verity, append: &str) -> anyhow::Result<String> {
    if let Some(wrong) = append.chars().find(|c| "\"\\$".contains(*c) || c.is_control()) {
        bail!(
            "--append: {wrong:?} would mean something to GRUB; right is key=value, spaces between"
        );
    }
    let line = format!(
        "console=tty0 console=ttyS0,115200 quiet loglevel=3 panic=10 weir.slot=a weir.verity={} {}",
        verity.argument(),
        append
    );
    Ok(line.trim_end().to_owned())
}

/// Leaves the kernel, the initramfs and the command line beside the disk, for `qemu -kernel`.
fn for_direct_boot(
    directory: &Path,
    kernel: &Path,
    initrd: &Path,
    command_line: &str,
) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    fs::copy(kernel, directory.join("vmlinuz"))?;
    fs::copy(initrd, directory.join("initrd.zst"))?;
    fs::write(directory.join("cmdline"), format!("{command_line}\n"))?;
    Ok(())
}

/// Says what was done, how long it took and how large it is.
struct Progress {
    last: Cell<Instant>,
}

impl Progress {
    fn new() -> Self {
        Progress { last: Cell::new(Instant::now()) }
    }

    fn done(&self, what: &str) {
        let took = self.last.replace(Instant::now()).elapsed().as_secs_f32();
        println!("image: {took:5.1} s  {what}");
    }

    fn made(&self, what: &str, file: &Path) -> anyhow::Result<()> {
        let size = mebibytes(fs::metadata(file)?.len());
        self.done(&format!("{what}, {size}"));
        Ok(())
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_has_slot_verity_and_what_is_appended() {
        let verity = Verity { data_blocks: 9, root_hash: [0xab; 32], salt: [0xcd; 32] };
        let (hash, salt) = ("ab".repeat(32), "cd".repeat(32));
        assert_eq!(
            command_line(&verity, "weir.test=1").unwrap(),
            format!(
                "console=tty0 console=ttyS0,115200 quiet loglevel=3 panic=10 \
                 weir.slot=a weir.verity=9:{hash}:{salt} weir.test=1"
            )
        );
        assert!(command_line(&verity, "").unwrap().ends_with(&salt));
        assert!(command_line(&verity, "a=\"b\"").is_err());
    }
}
