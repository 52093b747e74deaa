//! cloud-init's NoCloud datasource: an ISO 9660 or FAT file system labelled `cidata`, in any case,
//! with the files `user-data`, `meta-data` and `network-config`; or a directory with these.
//!
//! For: finding it and reading its files. Not for: what they say. Fails by [`SeedError`], which
//! names the device or file. The file system is mounted read-only, for as long as it is read.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use weir_policy::located::MAX_TEXT;
use zeroize::Zeroizing;

use crate::volume::{self, FileSystem};

pub(crate) const META_DATA: &str = "meta-data";
pub(crate) const USER_DATA: &str = "user-data";
pub(crate) const NETWORK_CONFIG: &str = "network-config";

const LABEL: &str = "cidata";
const BLOCK_DEVICES: &str = "/sys/class/block";
/// Most block devices that are looked at; a virtual machine has a dozen.
const MAX_DEVICES: usize = 256;

/// The texts of a seed, at most 4 MiB each; they may hold private keys.
#[derive(Clone, Default)]
pub struct Seed {
    /// The device or directory it was read from.
    pub origin: String,
    pub meta_data: Option<Zeroizing<Vec<u8>>>,
    pub user_data: Option<Zeroizing<Vec<u8>>>,
    pub network_config: Option<Zeroizing<Vec<u8>>>,
    /// Names of files that cloud-init would read and this appliance does not.
    pub unsupported: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: cannot be mounted as {kind}: {error}", device.display())]
    Mount { device: PathBuf, kind: FileSystem, error: io::Error },
    #[error("{}: has more than {MAX_TEXT} bytes (4 MiB); make it shorter", .0.display())]
    TooLarge(PathBuf),
    #[error("{}: holds none of user-data, meta-data and network-config", .0.display())]
    Empty(PathBuf),
}

/// The seed in a directory where one is given, else on the first block device (by name) with a
/// file system labelled `cidata`; `None` where there is none.
pub fn find_seed(directory: Option<&Path>) -> Result<Option<Seed>, SeedError> {
    if let Some(directory) = directory {
        return read(directory, directory).map(Some);
    }
    for name in block_devices()? {
        let device = Path::new("/dev").join(name);
        // A drive without a medium, or a device without a node, is no datasource.
        let Ok(mut file) = File::open(&device) else { continue };
        let Ok(Some(volume)) = volume::identify(&mut file) else { continue };
        if volume.labels.iter().any(|label| label.eq_ignore_ascii_case(LABEL)) {
            drop(file);
            let mounted = Mounted::new(&device, volume.kind)?;
            return read(&mounted.directory, &device).map(Some);
        }
    }
    Ok(None)
}

fn block_devices() -> Result<Vec<std::ffi::OsString>, SeedError> {
    let at = |error| SeedError::Io { path: BLOCK_DEVICES.into(), error };
    let entries = match fs::read_dir(BLOCK_DEVICES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(error)),
    };
    let names = entries.take(MAX_DEVICES).map(|entry| entry.map(|entry| entry.file_name()));
    let mut names = names.collect::<Result<Vec<_>, _>>().map_err(at)?;
    names.sort();
    Ok(names)
}

fn read(directory: &Path, origin: &Path) -> Result<Seed, SeedError> {
    let text = |name: &str| match bounded(&directory.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(SeedError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // The mount point's name tells nobody anything.
        Err(SeedError::Io { error, .. }) => Err(SeedError::Io { path: origin.join(name), error }),
        Err(SeedError::TooLarge(_)) => Err(SeedError::TooLarge(origin.join(name))),
        Err(other) => Err(other),
    };
    let seed = Seed {
        origin: origin.display().to_string(),
        meta_data: text(META_DATA)?,
        user_data: text(USER_DATA)?,
        network_config: text(NETWORK_CONFIG)?,
        unsupported: ["vendor-data"]
            .into_iter()
            .filter(|name| fs::metadata(directory.join(name)).is_ok_and(|file| file.len() > 0))
            .map(str::to_owned)
            .collect(),
    };
    if seed.meta_data.is_none() && seed.user_data.is_none() && seed.network_config.is_none() {
        return Err(SeedError::Empty(origin.to_owned()));
    }
    Ok(seed)
}

fn bounded(path: &Path) -> Result<Zeroizing<Vec<u8>>, SeedError> {
    let at = |error| SeedError::Io { path: path.to_owned(), error };
    let file = File::open(path).map_err(at)?;
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_TEXT as u64 + 1).read_to_end(&mut text).map_err(at)?;
    if text.len() > MAX_TEXT {
        return Err(SeedError::TooLarge(path.to_owned()));
    }
    Ok(text)
}

/// A file system mounted read-only until it is dropped.
struct Mounted {
    directory: PathBuf,
}

impl Mounted {
    fn new(device: &Path, kind: FileSystem) -> Result<Self, SeedError> {
        let directory = PathBuf::from(format!("/run/weir-seed-{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|error| SeedError::Io { path: directory.clone(), error })?;
        let flags =
            MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        let mounted = mount(Some(device), &directory, Some(kind.name()), flags, None::<&str>);
        match mounted {
            Ok(()) => Ok(Self { directory }),
            Err(error) => {
                let _ = fs::remove_dir(&directory);
                Err(SeedError::Mount { device: device.to_owned(), kind, error: error.into() })
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Detached at once, so that it goes even where something still looks at it.
        let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.directory);
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seed({}, not shown)", self.origin)
    }
}
