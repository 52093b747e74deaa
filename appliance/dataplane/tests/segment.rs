//! A segment made through rtnetlink is a wire.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use wire::{CLIENT, SEGMENT, SERVER, Wire};

#[test]
fn a_segment_bridges_without_an_engine() {
    let wire = Wire::new();
    wire.crosses(CLIENT, SERVER);
    wire.crosses("fd77::1", "fd77::2");
}

#[test]
fn making_a_segment_again_changes_nothing() {
    let wire = Wire::new();
    weir_dataplane::segment::create(&wire.names, SEGMENT, ["portA", "portB"]).unwrap();
    assert_eq!(wire.names.segments_present().unwrap(), [SEGMENT]);
    wire.crosses(CLIENT, SERVER);
}
