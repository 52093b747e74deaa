//! What an engine takes on of the maps that are pinned, and what not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::fs;
use std::io::Write;

use aya::maps::MapData;
use weir_dataplane::Attach;
use wire::Wire;
use wire::engine::{Does, judge_all};

/// One connection to a port that policy wants.
fn connects(wire: &Wire) {
    let listener = wire.listen();
    drop(wire.pair(&listener));
}

#[test]
fn pins_of_another_layout_are_removed_and_those_of_the_same_taken_on() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let judge = judge_all(held, 1, Does::Release);
    connects(&wire);
    engine.wait_for("candidate_syn", 1);
    let counted = engine.counter("candidate_syn");
    drop(engine);
    judge.join().unwrap();

    let (engine, held) = wire.engine(Attach::Auto);
    assert!(engine.counter("candidate_syn") >= counted, "the same layout's maps are new");
    drop((engine, held));

    let layouts = || {
        let entries = fs::read_dir(&wire.pins).unwrap().map(|entry| entry.unwrap().path());
        // Beside what the kernel puts there.
        entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let [own] = layouts().try_into().unwrap();
    let older = wire.pins.join("layout-10");
    fs::rename(&own, &older).unwrap();
    let (engine, _held) = wire.engine(Attach::Auto);
    assert_eq!(layouts(), [own]);
    assert_eq!(engine.counter("candidate_syn"), 0);
    connects(&wire);
    engine.wait_for("candidate_syn", 1);
}

#[test]
fn rings_that_a_dying_engine_left_pinned_hinder_no_other() {
    let wire = Wire::new();
    drop(wire.engine(Attach::Auto));
    let entries = fs::read_dir(&wire.pins).unwrap().map(|entry| entry.unwrap().path());
    let layout = entries.into_iter().find(|path| path.is_dir()).unwrap();
    let left = layout.join("held_rings");
    MapData::from_pin(layout.join("client_flows")).unwrap().pin(&left).unwrap();
    let (engine, held) = wire.engine(Attach::Auto);
    assert!(!left.exists());
    judge_all(held, 1, Does::Hold);
    let listener = wire.listen();
    let (mut client, _server) = wire.pair(&listener);
    client.write_all(b"!").unwrap();
    engine.wait_for("flow_held", 1);
}
