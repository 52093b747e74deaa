//! Stage 1, in the initramfs: from the kernel to the verified root file system.
//!
//! For: finding the slot's partition, dm-verity over it, switching to it. Not for: anything that
//! can wait until then. Every failure ends here: said on the console, then a reboot, which the
//! boot loader counts; after three it takes the other slot.

mod switch_root;
mod verity;

use std::convert::Infallible;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::mount::{MsFlags, mount};

use crate::command_line::{CommandLine, Verity};
use crate::modules::{self, Modules};
use crate::reboot::{End, end};
use crate::{kernel_log, operator, partition};

/// Longest wait for the root partition: slow controllers, slow hosts.
const ROOT_APPEARS: Duration = Duration::from_secs(30);
/// How long a failure stands on the console.
const FAILURE_STANDS: Duration = Duration::from_secs(10);
/// Where the root is mounted before it becomes the root.
const NEW_ROOT: &str = "/newroot";
/// Loaded whatever the devices say.
const NEEDED: [&str; 3] = ["dm_mod", "dm_verity", "squashfs"];

pub fn run() -> ! {
    let why = match catch_unwind(boot) {
        Ok(Err(error)) => format!("{error:#}"),
        Ok(Ok(never)) => match never {},
        Err(_) => "internal error".to_owned(),
    };
    operator::say(&format!("cannot start: {why}; rebooting in {} s", FAILURE_STANDS.as_secs()));
    std::thread::sleep(FAILURE_STANDS);
    end(End::Reboot)
}

fn boot() -> anyhow::Result<Infallible> {
    basic_mounts()?;
    kernel_log::begin();
    modules::answer_the_kernel("/init")?;
    let text = std::fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?;
    let command_line = CommandLine::parse(&text)?;
    let mut modules = Modules::of_running_kernel()?;
    for name in NEEDED {
        modules.load(name)?;
    }
    let partition = format!("weir-root-{}", command_line.slot);
    modules.cold_plug();
    let each = || {
        modules.cold_plug();
    };
    let device = partition::wait(&partition, ROOT_APPEARS, each)
        .with_context(|| format!("no partition {partition} after {} s", ROOT_APPEARS.as_secs()))?;
    let root = verified(&device, command_line.verity.as_ref())?;
    mount(Some(&root), NEW_ROOT, Some("squashfs"), MsFlags::MS_RDONLY, None::<&str>)
        .with_context(|| format!("mount of {} ({partition})", root.display()))?;
    switch_root::switch(Path::new(NEW_ROOT), "/sbin/weir-init")
}

fn verified(device: &Path, verity: Option<&Verity>) -> anyhow::Result<PathBuf> {
    match verity {
        Some(verity) => verity::open(device, verity)
            .with_context(|| format!("dm-verity on {}", device.display())),
        None => Ok(device.to_owned()),
    }
}

fn basic_mounts() -> anyhow::Result<()> {
    let hidden = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for (kind, target, flags, data) in [
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
        ("proc", "/proc", hidden, ""),
        ("sysfs", "/sys", hidden, ""),
        ("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755,size=25%"),
    ] {
        std::fs::create_dir_all(target).with_context(|| target.to_owned())?;
        mount(Some(kind), target, Some(kind), flags, Some(data))
            .with_context(|| format!("mount of {target}"))?;
    }
    std::fs::create_dir_all(NEW_ROOT).context(NEW_ROOT)
}
