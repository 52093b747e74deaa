//! Kernel modules of the machine of ends: each with what it needs, in modules.dep's order.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::path::Path;

use anyhow::{Context, Result};

/// `/lib/modules/VERSION`.
fn directory() -> Result<std::path::PathBuf> {
    let version = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    Ok(Path::new("/lib/modules").join(version))
}

/// Loads all modules there are.
pub fn load_all() -> Result<()> {
    let directory = directory()?;
    let table = std::fs::read_to_string(directory.join("modules.dep"))
        .with_context(|| format!("modules of {}", directory.display()))?;
    let mut loaded = BTreeSet::new();
    for (path, needs) in table.lines().filter_map(|line| line.split_once(':')) {
        // What is needed first comes last (modules.dep(5)).
        for path in needs.split_whitespace().rev().chain([path]) {
            if loaded.insert(path.to_owned()) {
                load(&directory.join(path)).with_context(|| format!("module {path}"))?;
            }
        }
    }
    Ok(())
}

fn load(path: &Path) -> Result<()> {
    let image = std::fs::read(path)?;
    const NO_PARAMETERS: &CStr = c"";
    // SAFETY: init_module(2) reads `image.len()` bytes of a live vector and a string that ends in
    // NUL, and keeps neither. nix has no wrapper without its "kmod" feature.
    let result = unsafe {
        libc::syscall(libc::SYS_init_module, image.as_ptr(), image.len(), NO_PARAMETERS.as_ptr())
    };
    match result {
        0 => Ok(()),
        _ => match nix::errno::Errno::last() {
            nix::errno::Errno::EEXIST => Ok(()),
            error => Err(error.into()),
        },
    }
}
