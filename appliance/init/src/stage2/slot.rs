//! Marking the running slot good in GRUB's environment block.
//!
//! For: `<slot>_TRY=0` after a boot that went well (RAUC's contract: ORDER, x_OK, x_TRY), so that
//! three boots that end early lead to the other slot, and no others do. Not for: switching slots.
//! Fails into the log: the appliance is up either way.
//!
//! The file's two sectors are overwritten in place and only where they change: FAT has no journal.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::command_line::CommandLine;
use crate::partition;

const PARTITION: &str = "weir-esp";
const MOUNT: &str = "/run/init/esp";
const ENVIRONMENT: &str = "grub/grubenv";
/// GRUB's environment blocks have this length, whatever is in them.
const LENGTH: usize = 1024;
const SIGNATURE: &str = "# GRUB Environment Block\n";

pub fn mark_good() {
    match mark() {
        Ok(()) => tracing::info!("slot marked good"),
        Err(error) => tracing::warn!(error = format!("{error:#}"), "slot not marked good"),
    }
}

fn mark() -> anyhow::Result<()> {
    let slot = CommandLine::parse(&std::fs::read_to_string("/proc/cmdline")?)?.slot;
    let device = partition::find(PARTITION).context("no partition weir-esp")?;
    std::fs::create_dir_all(MOUNT)?;
    let flags =
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_SYNCHRONOUS;
    mount(Some(&device), MOUNT, Some("vfat"), flags, None::<&str>).context("mount")?;
    let marked = reset_tries(&Path::new(MOUNT).join(ENVIRONMENT), &format!("{slot}_TRY"));
    umount2(MOUNT, MntFlags::MNT_DETACH).context("unmount")?;
    marked
}

fn reset_tries(path: &Path, variable: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path).context(ENVIRONMENT)?;
    let mut block = [0; LENGTH];
    file.read_exact_at(&mut block, 0).context(ENVIRONMENT)?;
    let changed = with_value(&block, variable, "0").context("not an environment block")?;
    if changed != block {
        file.write_all_at(&changed, 0).context(ENVIRONMENT)?;
        file.sync_all().context(ENVIRONMENT)?;
    }
    Ok(())
}

/// The block with `variable` set; `None` for what is no block, or has no room.
fn with_value(block: &[u8; LENGTH], variable: &str, value: &str) -> Option<[u8; LENGTH]> {
    let text = std::str::from_utf8(block).ok()?.strip_prefix(SIGNATURE)?;
    let mut lines: Vec<String> = text
        .split('\n')
        .filter(|line| line.contains('=') && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let line = format!("{variable}={value}");
    match lines.iter_mut().find(|l| l.split('=').next() == Some(variable)) {
        Some(old) => *old = line,
        None => lines.push(line),
    }
    let mut text = SIGNATURE.to_owned();
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    let mut changed = [b'#'; LENGTH];
    changed.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> [u8; LENGTH] {
        let mut block = [b'#'; LENGTH];
        block[..text.len()].copy_from_slice(text.as_bytes());
        block
    }

    #[test]
    fn only_the_variable_changes() {
        let before = block("# GRUB Environment Block\nORDER=a b\na_OK=1\na_TRY=2\nb_OK=0\n");
        let after = block("# GRUB Environment Block\nORDER=a b\na_OK=1\na_TRY=0\nb_OK=0\n");
        assert_eq!(with_value(&before, "a_TRY", "0"), Some(after));
        assert_eq!(with_value(&after, "a_TRY", "0"), Some(after));
    }

    #[test]
    fn a_missing_variable_is_added_and_other_blocks_are_left_alone() {
        let before = block("# GRUB Environment Block\nORDER=a b\n");
        let after = block("# GRUB Environment Block\nORDER=a b\nb_TRY=0\n");
        assert_eq!(with_value(&before, "b_TRY", "0"), Some(after));
        assert_eq!(with_value(&[0; LENGTH], "b_TRY", "0"), None);
        let full = block(&format!("{SIGNATURE}x={}\n", "y".repeat(LENGTH - 28)));
        assert_eq!(with_value(&full, "b_TRY", "0"), None);
    }
}
