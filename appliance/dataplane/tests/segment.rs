//! A segment made through rtnetlink is a wire.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::net::UdpSocket;
use std::time::Duration;

use weir_dataplane::namespace::inside;
use weir_dataplane::segment::{Making, create_as};
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

/// A segment whose ports came with an MTU of 1500, between ends with one of 9000, made with this one; and
/// how many of its ports refused it.
fn between_jumbo_ends(mtu: Option<u32>) -> (Wire, usize) {
    let mut refused = 0;
    let wire = Wire::made_by(|names, _, ports| {
        let making = Making { mtu, ..Making::default() };
        refused = create_as(names, SEGMENT, ports, &making).unwrap().len();
    });
    for end in [&wire.client, &wire.server] {
        wire.run(end, "ip link set e0 mtu 9000");
    }
    wire.crosses(CLIENT, SERVER);
    (wire, refused)
}

/// Whether a datagram crosses in one frame of 8042 bytes.
fn jumbo_crosses(wire: &Wire) -> bool {
    let server = inside(&wire.server, || UdpSocket::bind((SERVER, 0)).unwrap()).unwrap();
    let address = server.local_addr().unwrap();
    inside(&wire.client, || {
        UdpSocket::bind((CLIENT, 0)).unwrap().send_to(&[7; 8000], address).unwrap();
    })
    .unwrap();
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    server.recv(&mut [0; 9000]).is_ok_and(|length| length == 8000)
}

#[test]
fn jumbo_frames_cross_a_segment_that_has_such_an_mtu() {
    let (wire, _) = between_jumbo_ends(None);
    assert!(!jumbo_crosses(&wire), "the ports' own MTU");
    let (wire, refused) = between_jumbo_ends(Some(9000));
    assert!(jumbo_crosses(&wire));
    assert_eq!(refused, 0);
}

#[test]
fn ports_that_refuse_an_mtu_keep_their_own_and_bridge() {
    // More than a veth can have.
    let (wire, refused) = between_jumbo_ends(Some(70_000));
    assert_eq!(refused, 2);
    let port = wire.run(&wire.names.wire(), "ip -o link show 1A");
    assert!(port.contains(" mtu 1500 "), "{port}");
}
