//! The rings of held packets: how many, how large, and which thread reads which.
//!
//! For: one ring for each CPU, as far as each has room for a burst, and never more readers than runtimes. Not for: reading them (`ring`),
//! making maps (`map_of_maps`). A ring is read by one thread only, and all records of a flow come by one
//! ring: they stay in order. Fails where the kernel makes no ring.

use std::io;
use std::os::fd::OwnedFd;

use aya::maps::{MapData, RingBuf};

use crate::layout::MAX_RINGS;
use crate::map_of_maps::{map_of_maps, ring};

/// The least a ring is made with, in bytes: the largest record has some 64 KiB. Only one ring has more
/// than all may have together.
const LEAST: u32 = 256 << 10;
/// What each of several rings has, in bytes: a port with fewer queues than there are CPUs fills few of
/// them, and CPUs that share a ring are less harm than a burst that finds none.
const SEVERAL: u32 = 1 << 20;

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

/// Rings that were made.
#[derive(Debug)]
pub struct Made {
    /// The map `held_rings`.
    pub table: OwnedFd,
    rings: Vec<OwnedFd>,
}

impl Rings {
    /// `bytes`: what all of them may have together.
    pub fn new(bytes: u32, processors: usize) -> Self {
        let most = (bytes / SEVERAL) as usize;
        let count = processors.min(most).clamp(1, MAX_RINGS);
        let each = (bytes / u32::try_from(count).unwrap_or(1)).max(LEAST);
        // The next power of two below, where it is none.
        Self { count, bytes: 1 << each.ilog2() }
    }

    pub fn make(self) -> io::Result<Made> {
        let rings: Vec<OwnedFd> =
            (0..self.count).map(|_| ring(self.bytes)).collect::<Result<_, _>>()?;
        let table = map_of_maps("held_rings", MAX_RINGS as u32, &rings)?;
        Ok(Made { table, rings })
    }

    /// For each of `readers` threads the rings that it reads, by number.
    pub fn share(self, made: Made, readers: usize) -> Result<Vec<Share>, aya::maps::MapError> {
        let mut shares: Vec<Share> = (0..readers).map(|_| Vec::new()).collect();
        for (number, ring) in made.rings.into_iter().enumerate() {
            let ring = RingBuf::try_from(aya::maps::Map::RingBuf(MapData::from_fd(ring)?))?;
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
        for (processors, count, bytes) in [
            (0, 1, 16 << 20),
            (1, 1, 16 << 20),
            (2, 2, 8 << 20),
            (3, 3, 4 << 20),
            (16, 16, 1 << 20),
            (32, 16, 1 << 20),
            (64, 16, 1 << 20),
            (256, 16, 1 << 20),
        ] {
            let rings = Rings::new(16 << 20, processors);
            assert_eq!(rings, Rings { count, bytes });
            assert!(rings.count * rings.bytes as usize <= 16 << 20);
        }
    }

    #[test]
    fn the_largest_record_fits_however_little_there_is() {
        assert_eq!(Rings::new(4096, 8), Rings { count: 1, bytes: LEAST });
    }

    #[test]
    fn a_larger_machine_may_have_more() {
        assert_eq!(Rings::new(256 << 20, 256), Rings { count: MAX_RINGS, bytes: 4 << 20 });
    }

    #[test]
    fn each_ring_has_one_reader_and_no_reader_has_many_more_than_another() {
        for processors in [1, 2, 8, 16, 32, 64, 256] {
            let rings = Rings::new(16 << 20, processors);
            for runtimes in 1..=70 {
                let readers = rings.readers(runtimes);
                assert!(readers <= rings.count && readers <= runtimes);
                let mut load = vec![0; readers];
                for ring in 0..rings.count {
                    load[rings.reader(ring, readers)] += 1;
                }
                assert!(load.iter().max().unwrap() - load.iter().min().unwrap() <= 1);
            }
        }
    }

    #[test]
    fn a_machine_of_any_size_gets_its_rings() {
        for processors in [1, 3, 64] {
            let rings = Rings::new(16 << 20, processors);
            let shares = rings.share(rings.make().unwrap(), processors.min(2)).unwrap();
            assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), processors.min(16));
        }
    }
}
