//! Numbers that look random and are the same for the same seed: a failed run can be had again.
//!
//! Not for: secrets.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another sequence for each `what` of one seed.
    pub fn of(seed: u64, what: u64) -> Self {
        let mut random = Self(seed ^ what.wrapping_mul(0xd605_1f4b_1c8e_5a3d));
        random.number();
        random
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `from` up to, and without, `to`; `from` where there is nothing between.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.number() % to.saturating_sub(from).max(1)
    }

    /// True `count` times in ten thousand.
    pub fn in_ten_thousand(&mut self, count: u64) -> bool {
        self.number() % 10_000 < count
    }

    /// The sequence as bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            let word = self.number().to_le_bytes();
            for (to, from) in part.iter_mut().zip(word) {
                *to = from;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference implementation's first outputs for seed 1234567.
    #[test]
    fn it_is_splitmix64() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.number(), 6_457_827_717_110_365_317);
        assert_eq!(random.number(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn bytes_do_not_depend_on_how_they_are_asked_for_in_eights() {
        let mut whole = [0; 64];
        Random::of(1, 2).fill(&mut whole);
        let mut random = Random::of(1, 2);
        let mut parts = [0; 64];
        for part in parts.chunks_mut(16) {
            random.fill(part);
        }
        assert_eq!(whole, parts);
        let mut other = [0; 64];
        Random::of(1, 3).fill(&mut other);
        assert_ne!(whole, other);
    }
}
