//! What crossed each port, by the kernel's own interface statistics.
//!
//! For: packets and bytes per port and direction, and what the interface lost. They cost the path of
//! a packet nothing, count what eBPF never sees, and go on without any engine. Not for: reasons; the
//! programs' counters have those. Fails with the I/O error of the file; a line that is not
//! understood is left out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::namespace::inside;

/// One port, both directions, since the interface was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortTraffic {
    /// What came in from the wire.
    pub received: Direction,
    /// What went out to the wire.
    pub sent: Direction,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    pub packets: u64,
    pub bytes: u64,
    /// Lost in the interface or its driver: no room, or not sendable.
    pub dropped: u64,
    /// Broken on the wire, by the driver's word.
    pub errors: u64,
}

/// Largest file read: some 130 bytes an interface, four interfaces a segment.
const MOST_BYTES: u64 = 256 << 10;

/// The statistics of all interfaces of one network namespace.
#[derive(Debug)]
pub struct Traffic(Mutex<File>);

impl Traffic {
    /// Opens the statistics of the namespace at `namespace`.
    pub fn open(namespace: &Path) -> io::Result<Self> {
        // The open file belongs to the namespace of the thread that opened it (proc(5)).
        let file = inside(namespace, || File::open("/proc/thread-self/net/dev"))??;
        Ok(Self(Mutex::new(file)))
    }

    /// Every interface by its name, now.
    pub fn read(&self) -> io::Result<HashMap<String, PortTraffic>> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.rewind()?;
        let mut text = String::new();
        Read::by_ref(&mut *file).take(MOST_BYTES).read_to_string(&mut text)?;
        Ok(text.lines().filter_map(line).collect())
    }
}

/// `1A: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop ...`
/// (proc(5)); the two heading lines have no number after their colon, or no colon.
fn line(text: &str) -> Option<(String, PortTraffic)> {
    let (name, numbers) = text.split_once(':')?;
    let numbers: Vec<u64> =
        numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let direction = |at: usize| {
        Some(Direction {
            bytes: *numbers.get(at)?,
            packets: *numbers.get(at + 1)?,
            errors: *numbers.get(at + 2)?,
            dropped: *numbers.get(at + 3)?,
        })
    };
    let traffic = PortTraffic { received: direction(0)?, sent: direction(8)? };
    Some((name.trim().to_owned(), traffic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_interface_and_headings_are_none() {
        let text = "    1A: 1000 10 1 2 0 0 0 5 2000 20 3 4 0 0 0 0";
        let received = Direction { packets: 10, bytes: 1000, errors: 1, dropped: 2 };
        let sent = Direction { packets: 20, bytes: 2000, errors: 3, dropped: 4 };
        assert_eq!(line(text), Some(("1A".into(), PortTraffic { received, sent })));
        for heading in ["Inter-|   Receive   |  Transmit", " face |bytes    packets", "1A: 5", ""] {
            assert_eq!(line(heading), None, "{heading}");
        }
    }
}
