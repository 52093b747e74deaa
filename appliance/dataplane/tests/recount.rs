//! Counts of clients' flows that were left wrong are put right by the next engine (bpf/clients.h): they
//! outlive engines, and one too high would keep a client's room from it for good.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use weir_dataplane::{Attach, Times};
use wire::Wire;
use wire::engine::{Does, judge_all};
use wire::raw::Raw;

/// The pinned counts.
fn counts(wire: &Wire) -> Array<MapData, u32> {
    let layout = std::fs::read_dir(&wire.pins).unwrap().next().unwrap().unwrap().path();
    let map = MapData::from_pin(layout.join("client_flows")).unwrap();
    Array::try_from(Map::Array(map)).unwrap()
}

fn read(counts: &Array<MapData, u32>) -> Vec<u32> {
    (0..counts.len()).map(|cell| counts.get(&cell, 0).unwrap()).collect()
}

#[test]
fn counts_that_were_left_wrong_are_mended_and_those_that_are_right_stay() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1, Does::Hold);
    // One held, one that says nothing.
    let (client, _server) = Raw::shaken(&wire, 4000);
    client.send(0, b"held");
    engine.wait_for("flow_held", 1);
    let _silent = Raw::shaken(&wire, 4001);

    let mut counts = counts(&wire);
    let right = read(&counts);
    let counted: Vec<u32> = (0u32..).zip(&right).filter(|(_, n)| **n > 0).map(|(c, _)| c).collect();
    assert_eq!(counted.len(), 8, "two cells each of those held, all, and silent, and two sums");
    let first_row_of_all = 2 * 8192..3 * 8192;
    let leaked = *counted.iter().find(|cell| first_row_of_all.contains(*cell)).unwrap();
    let sum = *counted.iter().rfind(|cell| **cell >= 6 * 8192).unwrap() - 1;
    for cell in [leaked, sum, counted[0]] {
        counts.set(cell, right[cell as usize] + 3, 0).unwrap();
    }
    // Of a client that has no flow: one that nobody gave back, one given back twice.
    counts.set(5, 1, 0).unwrap();
    counts.set(7, u32::MAX, 0).unwrap();

    let (_next, _held) = wire.engine_with(Attach::Auto, |options| {
        options.times = Times::default();
    });
    for _ in 0..1000 {
        if read(&counts) == right {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let wrong: Vec<_> =
        (0u32..).zip(right.iter().zip(read(&counts))).filter(|(_, (a, b))| **a != *b).collect();
    panic!("cell, right, found: {wrong:?}");
}
