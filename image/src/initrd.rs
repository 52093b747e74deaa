//! The initramfs: weir-init as `/init`, the modules it needs to find and open the root, and nothing
//! else.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::build::EPOCH;
use crate::cpio::Archive;
use crate::modules::Files;
use crate::tool::{run, tool};

/// Where stage 1 mounts things before it switches to the root.
const MOUNT_POINTS: [&str; 6] = ["dev", "mnt", "newroot", "proc", "run", "sys"];

/// Writes the compressed archive.
pub fn write(init: &Path, version: &str, modules: &Files, output: &Path) -> anyhow::Result<()> {
    let init = fs::read(init).with_context(|| init.display().to_string())?;
    let mut archive = Archive::new(Vec::new(), EPOCH);
    for directory in MOUNT_POINTS {
        archive.directory(directory)?;
    }
    archive.file("init", 0o755, &init)?;
    let base = format!("lib/modules/{version}");
    let mut made = String::new();
    for (name, content) in &modules.0 {
        let path = format!("{base}/{name}");
        make_directories(&mut archive, &path, &mut made)?;
        archive.file(&path, 0o644, content)?;
    }
    let plain = output.with_extension("cpio");
    fs::write(&plain, archive.finish()?)?;
    run(tool("zstd").args(["-q", "-f", "-12", "--rm", "-o"]).args([output, &plain]))?;
    Ok(())
}

/// The directories above `path` that `made`, the last file's directory, does not already imply. The
/// names come sorted, so a directory is written at most a few times; the kernel takes repeats.
fn make_directories(
    archive: &mut Archive<Vec<u8>>,
    path: &str,
    made: &mut String,
) -> std::io::Result<()> {
    let directory = path.rsplit_once('/').unwrap_or_default().0;
    for (end, _) in format!("{directory}/").match_indices('/') {
        let above = &directory[..end];
        if !(*made == above || made.starts_with(&format!("{above}/"))) {
            archive.directory(above)?;
        }
    }
    directory.clone_into(made);
    Ok(())
}
