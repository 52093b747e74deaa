//! Kernel modules: by name, by alias, by cold plug, and on the kernel's own demand.
//!
//! For: modules of the running kernel under /lib/modules, with the index files of depmod(8). Not
//! for: choosing what is in the image (its builder does). Fails by [`ModuleError`]; a device
//! whose module is not in the image, or refuses the hardware, is no error of a cold plug.

mod index;

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use index::Index;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h.
const COMPRESSED: libc::c_int = 4;
/// Most passes of a cold plug: buses behind buses are not deeper.
const PASSES: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    #[error("{0}: {1}")]
    Index(PathBuf, #[source] io::Error),
    #[error("no module {0}")]
    Unknown(String),
    #[error("{0}: {1}")]
    Load(PathBuf, #[source] io::Error),
}

pub struct Modules {
    directory: PathBuf,
    index: Index,
    /// Aliases of devices that were dealt with.
    plugged: HashSet<String>,
}

impl Modules {
    pub fn of_running_kernel() -> Result<Self, ModuleError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| ModuleError::Index(path.into(), error))
        };
        let release = read(Path::new("/proc/sys/kernel/osrelease"))?;
        let directory = Path::new("/lib/modules").join(release.trim());
        let index = Index::parse(
            &read(&directory.join("modules.dep"))?,
            &read(&directory.join("modules.alias"))?,
        );
        Ok(Self { directory, index, plugged: HashSet::new() })
    }

    /// By the module's name or any alias, dependencies first. Loaded already is fine.
    pub fn load(&self, name: &str) -> Result<(), ModuleError> {
        let orders = self.index.resolve(name);
        if orders.is_empty() {
            return Err(ModuleError::Unknown(name.to_owned()));
        }
        for path in orders.into_iter().flatten() {
            insert(&self.directory.join(path))?;
        }
        Ok(())
    }

    /// Loads what the devices that are there now ask for, and the devices behind those; returns
    /// how many devices were new.
    pub fn cold_plug(&mut self) -> usize {
        let mut new = 0;
        for _ in 0..PASSES {
            let aliases: Vec<String> =
                device_aliases().into_iter().filter(|a| !self.plugged.contains(a)).collect();
            if aliases.is_empty() {
                break;
            }
            new += aliases.len();
            for alias in aliases {
                match self.load(&alias) {
                    Ok(()) | Err(ModuleError::Unknown(_)) => {}
                    // ENODEV and its like: a module that looked and found nothing for it.
                    Err(error) => tracing::info!(alias, %error, "module not loaded"),
                }
                self.plugged.insert(alias);
            }
        }
        new
    }
}

/// Lets the kernel ask this program, at `path`, for modules (filesystems, ciphers, link types).
pub fn answer_the_kernel(path: &str) -> io::Result<()> {
    std::fs::write("/proc/sys/kernel/modprobe", path)
}

/// What the kernel's request runs: `PATH -q -- ALIAS...`. The exit code is all it looks at.
pub fn answer(mut aliases: impl Iterator<Item = String>) -> Result<(), ModuleError> {
    let modules = Modules::of_running_kernel()?;
    aliases.try_for_each(|alias| modules.load(&alias))
}

/// From every bus's devices; `uevent` and not `modalias`, which processors do not have.
fn device_aliases() -> HashSet<String> {
    let directories = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    directories(PathBuf::from("/sys/bus"))
        .flat_map(|bus| directories(bus.path().join("devices")))
        .filter_map(|device| std::fs::read_to_string(device.path().join("uevent")).ok())
        .filter_map(|uevent| {
            uevent.lines().find_map(|line| line.strip_prefix("MODALIAS=").map(str::to_owned))
        })
        .collect()
}

fn insert(path: &Path) -> Result<(), ModuleError> {
    let failed = |error| ModuleError::Load(path.to_owned(), error);
    let file = File::open(path).map_err(failed)?;
    let compressed = path.extension().is_some_and(|e| e == "xz" || e == "zst" || e == "gz");
    let flags = if compressed { COMPRESSED } else { 0 };
    let parameters = CString::default();
    // SAFETY: the descriptor is open, the pointer is to a C string that outlives the call. nix has
    // finit_module only behind a feature that nobody else of the workspace needs.
    let result = unsafe {
        libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), flags)
    };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        error => Err(failed(error)),
    }
}
