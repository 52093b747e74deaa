//! The rings of held packets: how many, how large, and which thread reads which.
//!
//! For: one ring for each CPU, as far as the object has them, and never more readers than runtimes.
//! Not for: reading them (`ring`). A ring is read by one thread only, and all records of a flow come
//! by one ring: they stay in order. Fails where the object has not the map.

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};

use crate::layout::MAX_RINGS;
use crate::tables::{self, ApplyError};

/// The least a ring is made with, in bytes: the largest record has some 64 KiB.
const LEAST: u32 = 256 << 10;
/// What a ring that is not used is made with: the least the kernel takes.
const UNUSED: u32 = 4096;

/// Names of the rings' maps.
const NAMES: [&str; MAX_RINGS] = [
    "held_ring_0",
    "held_ring_1",
    "held_ring_2",
    "held_ring_3",
    "held_ring_4",
    "held_ring_5",
    "held_ring_6",
    "held_ring_7",
];

/// The rings that one thread reads, by number.
pub type Share = Vec<(usize, RingBuf<MapData>)>;

/// The rings of one data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// In use, 1 to [`MAX_RINGS`].
    pub count: usize,
    /// Of each, a power of two as the kernel wants it.
    bytes: u32,
}

impl Rings {
    /// `bytes`: what all of them may have together.
    pub fn new(bytes: u32, processors: usize) -> Self {
        let count = processors.clamp(1, MAX_RINGS);
        let each = (bytes / u32::try_from(count).unwrap_or(1)).max(LEAST);
        // The next power of two below, where it is none.
        Self { count, bytes: 1 << each.ilog2() }
    }

    /// Map sizes, for loading.
    pub fn sizes(self) -> impl Iterator<Item = (&'static str, u32)> {
        NAMES.into_iter().enumerate().map(move |(number, name)| {
            (name, if number < self.count { self.bytes } else { UNUSED })
        })
    }

    /// Takes the rings out of the object: for each of `readers` threads those it reads, by number.
    pub fn share(self, ebpf: &mut Ebpf, readers: usize) -> Result<Vec<Share>, ApplyError> {
        let mut shares: Vec<Share> = (0..readers).map(|_| Vec::new()).collect();
        for (number, name) in NAMES.into_iter().enumerate().take(self.count) {
            let ring = tables::map(ebpf, name)?;
            if let Some(share) = shares.get_mut(self.reader(number, readers)) {
                share.push((number, ring));
            }
        }
        Ok(shares)
    }

    /// The threads that read: no more than runtimes, nor than rings.
    pub fn readers(self, runtimes: usize) -> usize {
        runtimes.clamp(1, self.count)
    }

    /// Which of `readers` threads reads a ring.
    pub fn reader(self, ring: usize, readers: usize) -> usize {
        ring % readers.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rings_together_stay_within_what_they_may_have() {
        for (processors, count, bytes) in
            [(1, 1, 16 << 20), (2, 2, 8 << 20), (3, 3, 4 << 20), (64, 8, 2 << 20), (0, 1, 16 << 20)]
        {
            let rings = Rings::new(16 << 20, processors);
            assert_eq!(rings, Rings { count, bytes });
            let used: u32 = rings.sizes().take(count).map(|(_, size)| size).sum();
            assert!(used <= 16 << 20);
        }
    }

    #[test]
    fn the_largest_record_fits_however_little_there_is() {
        assert_eq!(Rings::new(4096, 8).bytes, LEAST);
    }

    #[test]
    fn each_ring_has_one_reader() {
        let rings = Rings::new(16 << 20, 8);
        for runtimes in 1..20 {
            let readers = rings.readers(runtimes);
            assert!(readers <= 8 && readers <= runtimes);
            for ring in 0..rings.count {
                assert!(rings.reader(ring, readers) < readers);
            }
        }
    }
}
