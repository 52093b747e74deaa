//! Fuzz targets as plain functions, on the stable compiler: what the ordinary tests run on all seeds and
//! on seeds that were changed.
//!
//! A test's root says `extern crate self as libfuzzer_sys;`, and has each target as a module of its own.

use std::path::Path;

/// In the place of libFuzzer's: the target is a function that takes the input.
#[macro_export]
macro_rules! fuzz_target {
    (|$input:ident: &[u8]| $body:block) => {
        pub fn target($input: &[u8]) $body
    };
    (|$input:ident: &str| $body:block) => {
        pub fn target(input: &[u8]) {
            let Ok($input) = std::str::from_utf8(input) else { return };
            $body
        }
    };
}

/// Changed seeds for each target.
const CHANGED: u64 = 200;

/// Runs the target of this name on its seeds, and on [`CHANGED`] that are made of them; always the same.
pub fn run(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds").join(name);
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut seeds: Vec<_> =
        entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for (path, seed) in &seeds {
        println!("{}", path.display());
        target(seed);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for number in 0..CHANGED {
        let seed = change(&seeds[random.below(seeds.len())].1, &seeds, &mut random);
        // Printed where it fails.
        println!("changed seed {number}: {}", seed.escape_ascii());
        target(&seed);
    }
}

/// Some bytes changed, and perhaps a part removed, repeated, or another seed's.
fn change(seed: &[u8], seeds: &[(std::path::PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = bytes.len().min(at + random.below(64));
        match random.below(6) {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            2 => {
                let other = &seeds[random.below(seeds.len())].1;
                let from = random.below(other.len() + 1);
                let to = other.len().min(from + random.below(64));
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            3 => bytes.truncate(at),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = [0, 0xff, 0x80, *byte ^ 1, random.next() as u8][random.below(5)];
                }
            }
        }
    }
    bytes
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}
