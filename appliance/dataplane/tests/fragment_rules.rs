//! Fragments under rules that ask for ports, packets that only look like fragments, and fragments of flows
//! that are taken: each is what a receiver makes of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use weir_dataplane::Attach;
use weir_dataplane::namespace::inside;
use weir_policy::Snapshot;
use weir_policy::precedence::{Match, TrafficAction, TrafficFilter, UDP};
use weir_policy::snapshot::{Layer2Fallback, PortRange, QuicAction};
use wire::capture::Capture;
use wire::engine::{Does, Engine, PORT, judge_all, snapshot};
use wire::packets::{CLIENT_TO_SERVER, SERVER_TO_CLIENT, checksum, frame, ipv6, tcp};
use wire::raw::{ACK, PUSH, Raw, SYN};
use wire::{CLIENT, SERVER, Wire};

const SIX: [[u8; 16]; 2] = [
    [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
    [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8],
];
const TCP: u8 = 6;

fn quic_blocked() -> Snapshot {
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    rules.client_proxies[0].detection_ports = vec![PortRange { first: 443, last: 443 }];
    rules.profiles[0].client_policies[0].quic = QuicAction::Block;
    rules
}

fn filter(port: u16) -> Snapshot {
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    let matching = Match {
        protocols: vec![UDP],
        destination_ports: vec![PortRange { first: port, last: port }],
        ..Match::default()
    };
    let (name, action) = ("filter".into(), TrafficAction::Block);
    rules.precedence.traffic_filters = vec![TrafficFilter { name, matching, action }];
    rules
}

/// A datagram that its sender's kernel fragments.
#[test]
fn rules_that_name_ports_see_those_of_a_first_fragment() {
    for (ends, rules, port, counter) in [
        ([CLIENT, SERVER], quic_blocked(), 443, "quic_dropped"),
        (["fd77::1", "fd77::2"], quic_blocked(), 443, "quic_dropped"),
        ([CLIENT, SERVER], filter(5000), 5000, "filter_dropped"),
    ] {
        let wire = Wire::new();
        let (engine, _held) = wire.engine(Attach::Auto);
        wire.crosses(ends[0], ends[1]);
        let [from, to] = ends.map(|end| end.parse::<IpAddr>().unwrap());
        let bind = |namespace, address, port| {
            let socket = inside(namespace, || UdpSocket::bind((address, port)).unwrap()).unwrap();
            socket.set_read_timeout(Some(wire::PATIENCE)).unwrap();
            socket
        };
        let (client, server) = (bind(&wire.client, from, 0), bind(&wire.server, to, port));
        client.send_to(&[0xc0; 2800], (to, port)).unwrap();
        assert_eq!(server.recv(&mut [0; 3000]).expect("nothing is against it yet"), 2800);
        engine.dataplane.apply(&rules).unwrap();
        let before = engine.counter("fragment_passed");
        client.send_to(&[0xc0; 2800], (to, port)).unwrap();
        engine.wait_for("fragment_passed", before + 1);
        engine.wait_for(counter, 1);
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(server.recv(&mut [0; 3000]).is_err(), "{to}: it crossed");
        assert_eq!(engine.counter(counter), 1);
        // Nobody makes an ICMP error of a fragment.
        let silent = u64::from(counter == "quic_dropped");
        assert_eq!(engine.counter("quic_silently_dropped"), silent);
        assert_eq!(engine.counter("fragment_passed"), before + 1, "the rest names no ports");
    }
}

/// RFC 6946: a fragment header that says that there is nothing else.
fn atomic(end: usize, next: u8, inside: &[u8]) -> Vec<u8> {
    let (from, to) = (SIX[end], SIX[1 - end]);
    let mac = if end == 0 { CLIENT_TO_SERVER } else { SERVER_TO_CLIENT };
    frame(mac, 0x86dd, &ipv6(from, to, 44, &[&[next, 0, 0, 0, 0, 0, 0, 7][..], inside].concat()))
}

/// With its checksum.
fn whole(end: usize, protocol: u8, at: usize, mut inside: Vec<u8>) -> Vec<u8> {
    let length = (inside.len() as u32).to_be_bytes();
    let pseudo = [&SIX[end][..], &SIX[1 - end], &length, &[0, 0, 0, protocol]].concat();
    let sum = checksum(&[pseudo, inside.clone()].concat());
    inside[at..at + 2].copy_from_slice(&sum);
    atomic(end, protocol, &inside)
}

#[test]
fn a_packet_with_a_fragment_header_of_no_fragment_is_no_fragment() {
    let wire = Wire::new();
    // What is released has its checksum in the capture, too.
    wire.without_offloads();
    let (engine, held) = wire.engine(Attach::Auto);
    wire.crosses("fd77::1", "fd77::2");
    engine.dataplane.apply(&quic_blocked()).unwrap();
    let quic = [&[0x12, 0x34, 1, 0xbb, 0, 208, 0, 0][..], &[0xc0; 200]].concat();
    let quic = whole(0, UDP, 6, quic);
    let capture = Capture::start_all(&wire.server);
    wire.send_frames(&wire.client, std::slice::from_ref(&quic));
    engine.wait_for("quic_dropped", 1);

    engine.dataplane.apply(&snapshot(Layer2Fallback::PermitAll)).unwrap();
    let _judge = judge_all(held, 5, Does::Release);
    let segment = |end: usize, at: [u32; 2], flags, payload: &[u8]| {
        let ports = if end == 0 { [4000, PORT] } else { [PORT, 4000] };
        let mut inside = [tcp(ports, at[0], flags), payload.to_vec()].concat();
        inside[8..12].copy_from_slice(&at[1].to_be_bytes());
        whole(end, TCP, 16, inside)
    };
    let hello = segment(0, [1001, 5001], ACK | PUSH, b"hello");
    wire.send_frames(&wire.client, &[segment(0, [1000, 0], SYN, &[])]);
    engine.wait_for("candidate_syn", 1);
    wire.send_frames(&wire.server, &[segment(1, [5000, 1001], SYN | ACK, &[])]);
    let handshake_over = segment(0, [1001, 5001], ACK, &[]);
    wire.send_frames(&wire.client, &[handshake_over, hello.clone()]);
    engine.wait_for("flow_released", 1);
    let seen = capture.stop_all();
    assert!(seen.contains(&hello), "what was released did not cross as it came");
    assert!(!seen.contains(&quic), "blocked QUIC crossed");
    assert_eq!(engine.counter("flow_held"), 1);
    assert_eq!(engine.counter("fragment_passed"), 0);
}

fn taken(wire: &Wire, engine: &Engine) -> (Raw, Raw) {
    let (mut client, mut server) = Raw::ends(wire, 4000);
    Raw::shake(&mut client, &mut server);
    client.send(0, b"hello");
    server.expect("the hello", |a| a.payload == b"hello");
    server.acknowledge(0, 5);
    engine.wait_for("flow_taken_over", 1);
    (client, server)
}

#[test]
fn fragments_of_a_taken_flow_are_put_together_by_its_sockets_kernel() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 5, Does::TakeOver);
    wire.crosses(CLIENT, SERVER);
    let (client, server) = taken(&wire, &engine);
    client.put_in_fragments(&client.segment(5, &[1; 500]), 200, [0, 1]);
    server.expect("the client's bytes", |a| a.payload == [1; 500]);
    server.acknowledge(0, 505);
    server.put_in_fragments(&server.segment(0, &[2; 500]), 200, [0, 1]);
    client.expect("the server's bytes", |a| a.payload == [2; 500]);
    client.acknowledge(505, 500);
    assert_eq!(engine.counter("fragment_to_engine"), 4);
    assert_eq!(engine.counter("fragment_dropped"), 0);
    // The rest first crosses as it comes, and is of no use: it comes again.
    client.put_in_fragments(&client.segment(505, &[3; 500]), 200, [1, 0]);
    engine.wait_for("fragment_to_engine", 5);
    server.expect_none("half a packet", |a| a.payload.contains(&3));
    client.put_in_fragments(&client.segment(505, &[3; 500]), 200, [0, 1]);
    server.expect("what came again", |a| a.payload == [3; 500]);
}
