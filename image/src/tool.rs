//! Runs the build host's tools (mksquashfs, grub-mkimage, mtools, ...) quietly.
//!
//! Fails with the tool's name and its own last words, so that a missing package shows as such.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// How many bytes of a failed tool's output are shown: its end says what went wrong.
const SHOWN: usize = 2000;

/// A command with the environment that makes tools behave alike everywhere. File system tools live
/// in sbin directories, which are not on the path of a user who is not root.
pub fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command
        .env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env_remove("SOURCE_DATE_EPOCH")
        .stdin(Stdio::null());
    command
}

/// Runs to the end and returns standard output.
pub fn run(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("{name}: cannot be started (ci/setup installs what is needed)"))?;
    if !output.status.success() {
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        let start = said.len().saturating_sub(SHOWN);
        let start = (start..said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or(0);
        bail!("{name}: {}: {}", output.status, said[start..].trim());
    }
    Ok(output.stdout)
}
