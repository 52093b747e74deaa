//! The fuzz targets' seeds, as the targets read them: reads change neither verdict nor what is
//! forwarded, and no good seed is dropped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, path::Path};

use common::{Run, ToClient, ToServer};
use weir_inspect::{RuleSet, RuleText};

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds").join(target);
    let seeds: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(path).unwrap()))
        .collect();
    assert!(!seeds.is_empty());
    seeds
}

#[test]
fn http_seeds_pass_whole_however_they_are_read() {
    for (name, seed) in seeds("http") {
        for most in [usize::MAX, 1, 7] {
            let mut run = Run::http(include_str!("../rules/example.rules"));
            let (mut client, mut server) = (Vec::new(), Vec::new());
            let mut rest = &seed[..];
            while let Some((first, after)) = rest.split_first() {
                let (piece, after) = after.split_at(usize::from(first >> 1).min(after.len()));
                rest = after;
                let from_client = first & 1 == 1;
                if from_client { &mut client } else { &mut server }.extend_from_slice(piece);
                for read in piece.chunks(most) {
                    let direction = if from_client { ToServer } else { ToClient };
                    run.send(direction, read).unwrap_or_else(|dropped| panic!("{name}: {dropped}"));
                }
            }
            assert_eq!((&run.to_server, &run.to_client), (&client, &server), "{name}");
        }
    }
}

#[test]
fn rule_seeds_are_accepted() {
    for (name, seed) in seeds("rules") {
        let text = RuleText { origin: name, text: String::from_utf8(seed).unwrap() };
        assert!(!RuleSet::parse(&[text]).unwrap().is_empty());
    }
}
