//! Partitions by name, from the kernel's own reading of the GPT. No udev, no blkid.

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The device of the partition called `name`, `None` where there is none now.
pub fn find(name: &str) -> Option<PathBuf> {
    let wanted = format!("PARTNAME={name}");
    std::fs::read_dir("/sys/class/block").ok()?.flatten().find_map(|entry| {
        let uevent = std::fs::read_to_string(entry.path().join("uevent")).ok()?;
        let is_it = uevent.lines().any(|line| line == wanted);
        is_it.then(|| PathBuf::from("/dev").join(entry.file_name()))
    })
}

/// Waits for it; `each` is called between looks, some 20 times a second.
pub fn wait(name: &str, limit: Duration, mut each: impl FnMut()) -> Option<PathBuf> {
    let until = Instant::now() + limit;
    loop {
        if let Some(device) = find(name) {
            return Some(device);
        }
        if Instant::now() >= until {
            return None;
        }
        each();
        std::thread::sleep(Duration::from_millis(50));
    }
}
