//! The initramfs: weir-init as `/init`, the modules it needs to find and open the root, and nothing
//! else. A machine of the lab has another `/init`, and files beside it.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;

use crate::build::EPOCH;
use crate::cpio::Archive;
use crate::modules::Files;
use crate::tool::{run, tool};

/// Where stage 1 mounts things before it switches to the root.
const MOUNT_POINTS: [&str; 6] = ["dev", "mnt", "newroot", "proc", "run", "sys"];

/// A file beside `/init` and the modules.
pub struct Extra {
    /// Where it is in the archive, without a slash before it.
    pub path: String,
    pub permissions: u32,
    pub content: Vec<u8>,
}

/// Writes the compressed archive.
pub fn write(
    init: &Path,
    version: &str,
    modules: &Files,
    extra: &[Extra],
    output: &Path,
) -> anyhow::Result<()> {
    let init = fs::read(init).with_context(|| init.display().to_string())?;
    let plain = output.with_extension("cpio");
    fs::write(&plain, archive(&init, version, modules, extra)?)?;
    run(tool("zstd").args(["-q", "-f", "-12", "--rm", "-o"]).args([output, &plain]))?;
    Ok(())
}

fn archive(init: &[u8], version: &str, modules: &Files, extra: &[Extra]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new(), EPOCH);
    for directory in MOUNT_POINTS {
        archive.directory(directory)?;
    }
    archive.file("init", 0o755, init)?;
    let base = format!("lib/modules/{version}");
    let mut made = String::new();
    for (name, content) in &modules.0 {
        let path = format!("{base}/{name}");
        make_directories(&mut archive, &path, &mut made)?;
        archive.file(&path, 0o644, content)?;
    }
    for Extra { path, permissions, content } in extra {
        make_directories(&mut archive, path, &mut made)?;
        archive.file(path, *permissions, content)?;
    }
    archive.finish()
}

/// The directories above `path` that `made`, the last file's directory, does not already imply. The
/// names come sorted, so a directory is written at most a few times; the kernel takes repeats.
fn make_directories(
    archive: &mut Archive<Vec<u8>>,
    path: &str,
    made: &mut String,
) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_comes_after_the_directories_above_it() {
        let modules = Files(
            ["modules.dep", "kernel/fs/ext4/ext4.ko", "kernel/fs/mbcache.ko", "kernel/net/llc.ko"]
                .map(|name| (name.to_owned(), name.as_bytes().to_vec()))
                .into(),
        );
        let extra = ["lib64/ld.so", "sbin/ip"].map(|path| Extra {
            path: path.to_owned(),
            permissions: 0o755,
            content: b"elf".to_vec(),
        });
        let names = names(&archive(b"init", "6.12", &modules, &extra).unwrap());
        let in_modules = modules.0.keys().map(|name| format!("lib/modules/6.12/{name}"));
        for file in in_modules.chain(extra.map(|extra| extra.path)) {
            let at = names.iter().position(|name| *name == file).unwrap();
            for (end, _) in file.match_indices('/') {
                assert!(names[..at].contains(&file[..end].to_owned()), "{file} in {names:?}");
            }
        }
    }

    /// Names of a newc archive's entries, in order.
    fn names(mut archive: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let field = |at: usize| {
                let text = std::str::from_utf8(&archive[at..at + 8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(54), field(94));
            let name = String::from_utf8(archive[110..110 + name_size - 1].to_vec()).unwrap();
            if name == "TRAILER!!!" {
                return names;
            }
            names.push(name);
            let content = (110 + name_size).next_multiple_of(4);
            archive = &archive[(content + size).next_multiple_of(4)..];
        }
    }
}
