//! A set of small numbers as bits, for what a session has seen of a rule set.
//!
//! Takes no memory until the first number is inserted; never grows past the size it was made for.
//! Numbers at or past the size are not inserted and never found.

#[derive(Debug)]
pub(crate) struct BitSet {
    words: Vec<u64>,
    size: usize,
    /// Whether there may be something to clear.
    used: bool,
}

impl BitSet {
    pub(crate) fn new(size: usize) -> Self {
        Self { words: Vec::new(), size, used: false }
    }

    /// Whether the number was not yet in the set (and lies below the size).
    pub(crate) fn insert(&mut self, number: u32) -> bool {
        if self.words.is_empty() {
            self.words.resize(self.size.div_ceil(64), 0);
        }
        let Some(word) = self.words.get_mut(number as usize / 64) else { return false };
        let bit = 1 << (number % 64);
        let new = *word & bit == 0;
        *word |= bit;
        self.used = true;
        new
    }

    pub(crate) fn contains(&self, number: u32) -> bool {
        self.words.get(number as usize / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    pub(crate) fn clear(&mut self) {
        if self.used {
            self.words.fill(0);
            self.used = false;
        }
    }
}
