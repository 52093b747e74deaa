//! From the initramfs to the real root.
//!
//! For: moving the mounts, freeing the initramfs's memory, making the new root the root, running
//! its init. Fails with the step; after the new root is in place only exec can fail.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::unistd::{chdir, chroot, execv};

/// linux/magic.h; nix has no name for it.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6_u32 as _);

pub fn switch(new_root: &Path, program: &str) -> anyhow::Result<Infallible> {
    for path in ["dev", "proc", "sys", "run"] {
        let (from, to) = (Path::new("/").join(path), new_root.join(path));
        mount(Some(&from), &to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .with_context(|| format!("move of {}", from.display()))?;
    }
    chdir(new_root).context("chdir")?;
    free_initramfs()?;
    // The kernel's own threads share this process's root and follow it.
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("move of /")?;
    chroot(".").context("chroot")?;
    chdir("/").context("chdir")?;
    let program = CString::new(program)?;
    execv(&program, &[&program]).with_context(|| format!("{program:?}"))
}

/// Nothing gives this memory back later. What cannot be removed stays.
fn free_initramfs() -> anyhow::Result<()> {
    let kind = statfs("/").context("statfs of /")?.filesystem_type();
    if kind != RAMFS_MAGIC && kind != TMPFS_MAGIC {
        bail!("/ is not an initramfs");
    }
    let device = std::fs::metadata("/").context("/")?.dev();
    remove_within(Path::new("/"), device, 0);
    Ok(())
}

/// Never leaves the file system `device`; an initramfs is not 16 deep.
fn remove_within(directory: &Path, device: u64, depth: u8) {
    if depth > 16 {
        return;
    }
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.dev() != device {
            continue;
        }
        if metadata.is_dir() {
            remove_within(&path, device, depth + 1);
            let _ = std::fs::remove_dir(&path);
        } else {
            let _ = std::fs::remove_file(&path);
        }
    }
}
