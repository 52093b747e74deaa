//! The root file system: a squashfs with dm-verity's tree behind it, the same for every appliance.
//!
//! What differs from one appliance to the next is elsewhere: `/run` (machine-id, resolv.conf, the
//! journal) and `/data`. `/bin`, `/sbin`, `/lib` and `/lib64` are links into `/usr`, so paths work
//! in both spellings. From Debian come systemd-journald and journalctl with the shared objects that
//! they need; Weir's own programs are static.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::build::EPOCH;
use crate::elf;
use crate::modules::Files;
use crate::packages::Packages;
use crate::tool::{run, tool};
use crate::tree::Tree;
use crate::verity::{self, Verity};

const LINKS: [(&str, &str); 9] = [
    ("/bin", "usr/bin"),
    ("/sbin", "usr/sbin"),
    ("/lib", "usr/lib"),
    ("/lib64", "usr/lib64"),
    ("/usr/sbin/init", "weir-init"),
    ("/etc/machine-id", "/run/machine-id"),
    ("/etc/resolv.conf", "/run/resolv.conf"),
    ("/etc/os-release", "../usr/lib/os-release"),
    ("/var/run", "/run"),
];
const MOUNT_POINTS: [&str; 8] = ["/dev", "/proc", "/sys", "/run", "/tmp", "/data", "/mnt", "/root"];
const BINARIES: [(&str, &str); 6] = [
    ("weir-init", "/usr/sbin/weir-init"),
    ("weir-agent", "/usr/bin/weir-agent"),
    ("weir-engine", "/usr/bin/weir-engine"),
    ("weir-legacy", "/usr/bin/weir-legacy"),
    ("weir-capture", "/usr/bin/weir-capture"),
    ("weir", "/usr/bin/weir"),
];
/// Programs of Debian's, by the path that their package gives them.
const JOURNAL: [&str; 2] = ["/lib/systemd/systemd-journald", "/bin/journalctl"];
const VERITY_UUID: [u8; 16] = *b"weir-root-verity";

pub struct Content<'a> {
    pub binaries: &'a Path,
    pub overlay: &'a Path,
    pub packages: &'a Packages,
    pub modules: &'a Files,
}

/// Fills `tree` with all files; returns a line on what went in.
pub fn fill(tree: &Tree, content: &Content<'_>) -> anyhow::Result<String> {
    for path in MOUNT_POINTS.iter().chain(&["/var/log", "/var/tmp", "/usr/lib64"]) {
        tree.directory(path)?;
    }
    for (path, target) in LINKS {
        tree.link(path, target)?;
    }
    for (name, path) in BINARIES {
        tree.copy(&content.binaries.join(name), path, 0o755)?;
    }
    let base = format!("/usr/lib/modules/{}", content.packages.kernel_version);
    for (name, module) in &content.modules.0 {
        tree.file(&format!("{base}/{name}"), 0o644, module)?;
    }
    let libraries = journal(tree, &content.packages.others)?;
    tree.file("/usr/lib/os-release", 0o644, os_release().as_bytes())?;
    let laid_over = tree.lay_over(content.overlay)?;
    Ok(format!("{libraries} shared objects for journald, {laid_over} files of the overlay"))
}

fn journal(tree: &Tree, packages: &[PathBuf]) -> anyhow::Result<usize> {
    for program in JOURNAL {
        let source = packages.iter().map(|package| package.join(&program[1..]));
        let source = source.into_iter().find(|file| file.is_file()).context(program)?;
        tree.copy(&source, &in_usr(program), 0o755)?;
    }
    let libraries = elf::closure(&JOURNAL, packages)?;
    for (path, source) in &libraries {
        tree.copy(source, &in_usr(path), 0o755)?;
    }
    let loader = "ld-linux-x86-64.so.2";
    tree.link(&format!("/usr/lib64/{loader}"), &format!("../lib/x86_64-linux-gnu/{loader}"))?;
    Ok(libraries.len())
}

/// Packages of Debian 12 still have files outside `/usr`.
fn in_usr(path: &str) -> String {
    if path.starts_with("/usr/") { path.to_owned() } else { format!("/usr{path}") }
}

fn os_release() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("NAME=Weir\nID=weir\nVERSION_ID={version}\nPRETTY_NAME=\"Weir {version}\"\n")
}

/// Packs the tree. The file has superblock and hash tree of dm-verity after the squashfs.
pub fn pack(tree: &Tree, output: &Path) -> anyhow::Result<Verity> {
    let epoch = EPOCH.to_string();
    run(tool("mksquashfs")
        .args([tree.path(), output])
        .args(["-comp", "zstd", "-Xcompression-level", "15", "-b", "256K"])
        .args(["-all-root", "-noappend", "-no-progress", "-quiet", "-no-xattrs"])
        .args(["-mkfs-time", &epoch, "-all-time", &epoch]))?;
    verity::append(output, VERITY_UUID)
}
