//! The files of captures: names, their bounds, how much they may take up, listing and removal.
//!
//! Fails in words for the operator: what was wrong and what would be right.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use nix::sys::statvfs::statvfs;
use weir_api::capture::{CaptureFile, LONGEST_NAME};

const ENDING: &str = ".pcapng";
/// Captures kept at one time; past it a new one is refused.
pub const MOST_FILES: usize = 32;
/// Of the file system, all captures together: the agent's state is on the same one. Past it a new
/// capture is refused.
const SHARE: u64 = 2;
/// A capture that could not become as large as this, bytes, is not begun.
const SMALLEST: u64 = MIB;
const MIB: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Store {
    pub directory: PathBuf,
}

impl Store {
    /// A new file of this name.
    pub fn create(&self, name: &str) -> Result<File, String> {
        check(name)?;
        if self.list().map_err(|error| self.failed(&error))?.len() >= MOST_FILES {
            return Err(format!(
                "there are {MOST_FILES} captures already; remove one by: capture delete NAME"
            ));
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(self.path(name)).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("there is a capture {name} already; remove it or choose another name")
            }
            _ => self.failed(&error),
        })
    }

    /// How large a new file may become, bytes, at most `largest`; `promised` is what the captures
    /// that run may still write.
    pub fn room(&self, largest: u64, promised: u64) -> Result<u64, String> {
        let system = statvfs(&self.directory).map_err(|error| self.failed(&error.into()))?;
        let files = self.list().map_err(|error| self.failed(&error))?;
        let disk = Disk {
            whole: system.blocks().saturating_mul(system.fragment_size()),
            free: system.blocks_available().saturating_mul(system.fragment_size()),
            captures: files.iter().fold(0, |sum, file| file.bytes.saturating_add(sum)),
            promised,
        };
        disk.room(largest)
    }

    pub fn delete(&self, name: &str) -> Result<(), String> {
        check(name)?;
        fs::remove_file(self.path(name)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("there is no capture {name}; see: show captures"),
            _ => self.failed(&error),
        })
    }

    /// The newest first.
    pub fn list(&self) -> io::Result<Vec<CaptureFile>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let file = entry.file_name();
            let Some(name) = file.to_str().and_then(|file| file.strip_suffix(ENDING)) else {
                continue;
            };
            let Ok(metadata) = entry.metadata() else { continue };
            let modified = metadata.modified().ok();
            let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            found.push(CaptureFile {
                name: name.to_owned(),
                bytes: metadata.len(),
                modified: since.map_or(0, |since| since.as_millis() as u64),
                running: Vec::new(),
            });
        }
        found.sort_by(|one, other| (other.modified, &other.name).cmp(&(one.modified, &one.name)));
        Ok(found)
    }

    /// Where a capture of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{ENDING}"))
    }

    fn failed(&self, error: &io::Error) -> String {
        format!("{}: {error}", Path::new(&self.directory).display())
    }
}

/// The file system of the captures, in bytes.
struct Disk {
    whole: u64,
    free: u64,
    captures: u64,
    /// What captures that run may still write.
    promised: u64,
}

impl Disk {
    /// Half of what is left of the captures' share, so that another capture may run beside this.
    fn room(&self, largest: u64) -> Result<u64, String> {
        let share = (self.whole / SHARE).saturating_sub(self.captures);
        let left = share.min(self.free).saturating_sub(self.promised);
        let room = (left / 2).min(largest);
        if room < SMALLEST {
            return Err(format!(
                "captures may take up half of a disk of {} MiB, and too little of that is left; \
                 wait for those that run, or remove one by: capture delete NAME",
                self.whole / MIB
            ));
        }
        Ok(room)
    }
}

/// A name is no path: letters, digits, `.`, `_` and `-`, a letter or digit first.
fn check(name: &str) -> Result<(), String> {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if first && rest && name.len() <= LONGEST_NAME {
        return Ok(());
    }
    Err(format!(
        "\"{}\" is no name for a capture: right would be up to {LONGEST_NAME} letters, digits, \
         \".\", \"_\" and \"-\", a letter or digit first",
        name.escape_default().take(80).collect::<String>()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leaves_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store { directory: directory.path().to_owned() };
        let long = "x".repeat(65);
        for name in ["", "..", ".x", "a/b", "../x", "a b", "-x", "a\0", "\u{e4}", &long] {
            assert!(store.create(name).unwrap_err().contains("right would be"), "{name:?}");
            assert!(store.delete(name).is_err(), "{name:?}");
        }
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn captures_leave_half_of_the_disk_to_others_and_room_for_one_another() {
        let room = |captures, promised, free, largest| {
            let [captures, promised, free] = [captures, promised, free].map(|mib: u64| mib * MIB);
            Disk { whole: 64 * MIB, free, captures, promised }.room(largest * MIB)
        };
        assert_eq!(room(0, 0, 64, 64), Ok(16 * MIB));
        assert_eq!(room(0, 0, 64, 5), Ok(5 * MIB));
        assert_eq!(room(0, 16, 64, 64), Ok(8 * MIB)); // a second one beside the first
        assert_eq!(room(24, 0, 40, 64), Ok(4 * MIB));
        assert_eq!(room(0, 0, 4, 64), Ok(2 * MIB)); // what others have taken is not there
        for (captures, promised, free) in [(31, 0, 33), (0, 31, 64), (0, 0, 1), (40, 0, 24)] {
            let refused = room(captures, promised, free, 64).unwrap_err();
            assert!(refused.contains("64 MiB") && refused.contains("capture delete"), "{refused}");
        }
    }

    #[test]
    fn room_is_what_the_directory_s_own_disk_has() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store { directory: directory.path().to_owned() };
        assert!(store.room(u64::MAX, u64::MAX).unwrap_err().contains("capture delete"));
        let nowhere = Store { directory: directory.path().join("nowhere") };
        assert!(nowhere.room(1, 0).unwrap_err().contains("nowhere"));
    }

    #[test]
    fn a_capture_is_made_once_listed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store { directory: directory.path().to_owned() };
        store.create("one").unwrap();
        assert!(store.create("one").unwrap_err().contains("already"));
        assert_eq!(store.list().unwrap()[0].name, "one");
        store.delete("one").unwrap();
        assert!(store.delete("one").unwrap_err().contains("no capture one"));
        for number in 0..MOST_FILES {
            store.create(&number.to_string()).unwrap();
        }
        assert!(store.create("more").unwrap_err().contains("capture delete"));
    }
}
