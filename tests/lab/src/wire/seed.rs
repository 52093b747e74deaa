//! The NoCloud seed the machine is provisioned by: an ISO labelled `cidata`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process::succeed;
use crate::run::Run;

pub const HOSTNAME: &str = "weir-lab";
pub const USER: &str = "admin";
/// Of the lab's appliance only, which lives as long as the run.
pub const PASSWORD: &str = "weir-demo";

/// user-data with `weir_section` at its end.
pub fn user_data(weir_section: &str) -> Result<String> {
    let hash = succeed(Command::new("openssl").args(["passwd", "-6", PASSWORD]))?;
    Ok(format!(
        "#cloud-config\nhostname: {HOSTNAME}\nusers:\n  - name: {USER}\n    passwd: {}\n{weir_section}",
        hash.trim_end()
    ))
}

/// Writes the ISO; its path.
pub fn iso(run: &Run, user_data: &str) -> Result<PathBuf> {
    let directory = run.path("seed");
    std::fs::create_dir_all(&directory)?;
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text);
    write("meta-data", &format!("instance-id: {HOSTNAME}-1\nlocal-hostname: {HOSTNAME}\n"))?;
    write("user-data", user_data)?;
    write(
        "network-config",
        "version: 2\nethernets:\n  management:\n    addresses: [10.0.2.15/24]\n    \
         gateway4: 10.0.2.2\n",
    )?;
    let iso = run.path("seed.iso");
    make_iso(&directory, &iso)?;
    Ok(iso)
}

fn make_iso(directory: &Path, iso: &Path) -> Result<()> {
    let mut command = Command::new("xorriso");
    command.args(["-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-r", "-o"]).arg(iso);
    succeed(command.arg(directory)).map(drop)
}
