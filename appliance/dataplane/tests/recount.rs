//! Counts of clients' flows that were left wrong are put right by the next engine, and by the one that
//! lives (bpf/clients.h): they outlive engines, and one too high would keep a client's room from it for
//! good.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use weir_dataplane::{Attach, Times};
use wire::Wire;
use wire::engine::{Does, judge_all};
use wire::raw::Raw;

/// The pinned counts.
fn counts(wire: &Wire) -> Array<MapData, u64> {
    let layout = std::fs::read_dir(&wire.pins).unwrap().next().unwrap().unwrap().path();
    let map = MapData::from_pin(layout.join("client_flows")).unwrap();
    Array::try_from(Map::Array(map)).unwrap()
}

/// What is counted: the lower halves.
fn read(counts: &Array<MapData, u64>) -> Vec<i32> {
    (0..counts.len()).map(|cell| counts.get(&cell, 0).unwrap() as i32).collect()
}

fn add(counts: &mut Array<MapData, u64>, cell: u32, amount: i64) {
    let found = counts.get(&cell, 0).unwrap();
    counts.set(cell, found.wrapping_add_signed(amount), 0).unwrap();
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
        add(&mut counts, cell, 3);
    }
    // Of a client that has no flow: one that nobody gave back, one given back twice.
    add(&mut counts, 5, 1);
    add(&mut counts, 7, -1);
    // And one that is never left alone, wrong or not: as of a client's flow that ends as another begins.
    const CHANGING: u32 = 9;
    add(&mut counts, CHANGING, 1);

    let (_next, held) = wire.engine_with(Attach::Auto, |options| {
        options.times = Times::default();
    });
    judge_all(held, 1, Does::Release);
    let listener = wire.listen();
    let mended = AtomicBool::new(false);
    let wrong = || {
        let found = read(&counts);
        let both = (0u32..).zip(right.iter().copied().zip(found));
        both.filter(|(cell, (a, b))| *cell != CHANGING && a != b).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut changing = self::counts(&wire);
            while !mended.load(Ordering::Relaxed) {
                add(&mut changing, CHANGING, 1 << 32);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        scope.spawn(|| {
            while !mended.load(Ordering::Relaxed) {
                let (mut client, mut server) = wire.pair(&listener);
                client.write_all(b"!").unwrap();
                server.read_exact(&mut [0]).unwrap();
            }
        });
        let is = |cell: u32| counts.get(&cell, 0).unwrap() as i32 == right[cell as usize];
        let done = (0..3000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            [leaked, counted[0], 5, 7].into_iter().all(is)
        });
        mended.store(true, Ordering::Relaxed);
        assert!(done, "cell, right, found: {:?}", wrong());
    });
    for _ in 0..1000 {
        if wrong().is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(wrong().is_empty(), "cell, right, found: {:?}", wrong());
    assert_eq!(read(&counts)[CHANGING as usize], 1);
}

#[test]
fn counts_that_go_wrong_while_an_engine_lives_are_mended_in_time() {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| {
        options.times = Times { recount: Duration::from_secs(1), ..Times::default() };
    });
    judge_all(held, 1, Does::Hold);
    let (client, _server) = Raw::shaken(&wire, 4000);
    client.send(0, b"held");
    engine.wait_for("flow_held", 1);
    let mut counts = counts(&wire);
    let right = read(&counts);
    // Again and again.
    for _ in 0..2 {
        let held = right.iter().position(|count| *count > 0).unwrap() as u32;
        for (cell, amount) in [(5, 1), (held, 3), (7, -1)] {
            add(&mut counts, cell, amount);
        }
        assert_ne!(read(&counts), right);
        wire::wait_for(|| read(&counts) == right);
    }
}

#[test]
fn counts_below_0_are_none_and_bound_nobody() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1, Does::Hold);
    let mut counts = counts(&wire);
    for cell in 0..counts.len() {
        counts.set(cell, u64::MAX, 0).unwrap();
    }
    let (client, server) = Raw::shaken(&wire, 4000);
    client.send(0, b"held");
    engine.wait_for("flow_held", 1);
    server.expect_none("an unjudged payload passed", |a| !a.payload.is_empty());
    assert_eq!(engine.counter("handshakes_full_passed"), 0);
    assert_eq!(engine.counter("client_flood_passed"), 0);
}

/// As an error leaves them between a client's counts and those of all clients.
#[test]
fn counts_of_all_clients_that_alone_are_wrong_are_mended_once_nothing_changes_them() {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| {
        options.times = Times { recount: Duration::from_secs(1), ..Times::default() };
    });
    judge_all(held, 1, Does::Hold);
    let (client, _server) = Raw::shaken(&wire, 4000);
    client.send(0, b"held");
    engine.wait_for("flow_held", 1);
    let _silent = Raw::shaken(&wire, 4001);
    let mut counts = counts(&wire);
    let right = read(&counts);
    for (cell, amount) in [(6 * 8192, 3), (6 * 8192 + 1, -2)] {
        add(&mut counts, cell, amount);
    }
    wire::wait_for(|| read(&counts) == right);
}

/// Entries of flows that are the bridge's, or that moved back to the table of handshakes: the kernel did not
/// delete them when it was asked to, and no packet of theirs ever comes.
#[test]
fn entries_that_the_kernel_did_not_delete_are_deleted_later() {
    const HALF_OPEN: u8 = 1;
    const IGNORED: u8 = 2;
    const RELEASED: u8 = 5;
    const VALUE: usize = 136;
    let wire = Wire::new();
    let (_engine, held) = wire.engine_with(Attach::Auto, |options| {
        options.times = Times { recount: Duration::from_secs(1), ..Times::default() };
    });
    judge_all(held, 1, Does::Hold);
    let layout = std::fs::read_dir(&wire.pins).unwrap().next().unwrap().unwrap().path();
    let map = Map::HashMap(MapData::from_pin(layout.join("flows")).unwrap());
    let mut flows: aya::maps::HashMap<MapData, [u8; 60], [u8; VALUE]> = map.try_into().unwrap();
    let mut young = None;
    for (port, state, old) in [
        (4001, HALF_OPEN, true),
        (4002, IGNORED, true),
        (4003, RELEASED, true),
        (4004, RELEASED, false),
    ] {
        let _ends = Raw::shaken(&wire, port);
        let is = |key: &[u8; 60]| key[56..].chunks(2).any(|end| end == port.to_be_bytes());
        let key = flows.keys().map(Result::unwrap).find(is).unwrap();
        let mut flow = flows.get(&key, 0).unwrap();
        // Its word's last byte is its state; then when it was touched.
        flow[0] = state;
        let touched = u64::from_ne_bytes(flow[8..16].try_into().unwrap());
        let touched = if old { touched - 20_000_000_000 } else { touched + 3_600_000_000_000 };
        flow[8..16].copy_from_slice(&touched.to_ne_bytes());
        if !old {
            young = Some(key);
        }
        flows.insert(key, flow, 0).unwrap();
    }
    wire::wait_for(|| flows.keys().count() == 1);
    assert_eq!(flows.keys().next().unwrap().unwrap(), young.unwrap());
    // None of them says nothing, and one is left: in one cell of each row, and in all.
    let counts = counts(&wire);
    wire::wait_for(|| read(&counts).iter().filter(|count| **count != 0).count() == 3);
}
