//! The fuzz targets' seeds, whole, cut short at every length, and with a byte changed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/invariants.rs"]
mod invariants;

use std::path::Path;

use proptest::prelude::*;
use weir_tls::verify::revocation::Status;

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds").join(target);
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: std::path::PathBuf| {
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
    };
    let mut seeds: Vec<_> = entries.map(read).collect();
    seeds.sort();
    let least = match target {
        "certificate" | "chain" => 20,
        "bundle" => 4,
        _ => 6,
    };
    assert!(seeds.len() >= least, "{target}");
    seeds
}

#[test]
fn every_certificate_of_the_zoo_can_be_copied() {
    for (name, seed) in seeds("certificate") {
        assert!(invariants::certificate(&seed), "{name}");
        for length in (0..seed.len()).step_by(1 + seed.len() / 200) {
            assert!(!invariants::certificate(&seed[..length]), "{name} at {length}");
        }
    }
}

#[test]
fn chains_of_the_zoo_keep_their_verdicts() {
    for (name, seed) in seeds("chain") {
        let verdict = invariants::chain(&seed).unwrap();
        match name.as_str() {
            "good" | "wildcard" | "p-384" | "rsa-8192" => assert!(verdict.is_verified(), "{name}"),
            "expired" => assert_eq!(verdict.to_string(), "expired"),
            "name-constraint" => assert_eq!(verdict.to_string(), "constraint violated"),
            "self-signed" => assert_eq!(verdict.to_string(), "untrusted"),
            _ => {}
        }
        for length in (0..seed.len()).step_by(1 + seed.len() / 20) {
            let _ = invariants::chain(&seed[..length]);
        }
    }
}

/// Hellos of clients and first flights of servers, as they were once sent.
#[test]
fn first_flights_end_no_leg_otherwise_than_by_an_error() {
    for (name, seed) in seeds("leg") {
        let (answered, taken) = invariants::leg(&seed);
        assert_eq!(answered, name.starts_with("client-tls12") || name.starts_with("client-tls13"));
        // The keys of the server's answer are not those of this hello.
        assert!(!taken, "{name}");
        for length in (0..seed.len()).step_by(1 + seed.len() / 100) {
            let _ = invariants::leg(&seed[..length]);
        }
    }
}

#[test]
fn answers_of_authorities_say_what_they_were_made_to_say() {
    for (name, seed) in seeds("revocation") {
        let expected = if name.contains("revoked") { Status::Revoked } else { Status::Good };
        assert_eq!(invariants::answer(&seed), Some(expected), "{name}");
        for length in (0..seed.len()).step_by(1 + seed.len() / 100) {
            assert_eq!(invariants::answer(&seed[..length]), None, "{name} at {length}");
        }
    }
}

#[test]
fn issuers_are_found_in_each_kind_of_file() {
    for (name, seed) in seeds("bundle") {
        assert_eq!(invariants::bundle(&seed), Some(true), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn changed_seeds_break_nothing(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        for target in ["certificate", "chain", "leg", "revocation", "bundle"] {
            let seeds = seeds(target);
            let mut seed = which.get(&seeds).1.clone();
            let at = at.index(seed.len());
            seed[at] = byte;
            let _ = match target {
                "certificate" => invariants::certificate(&seed),
                "chain" => invariants::chain(&seed).is_some(),
                "revocation" => invariants::answer(&seed).is_some(),
                "bundle" => invariants::bundle(&seed).is_some(),
                _ => invariants::leg(&seed).0,
            };
        }
    }
}
