//! QUIC of clients whose TCP is decrypted: refused, so that they fall back at once (SPEC D14).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use weir_dataplane::namespace::inside;
use weir_dataplane::{Attach, FallbackCause};
use weir_policy::snapshot::QuicAction;
use wire::quic::{rules, server};
use wire::{CLIENT, SERVER, Wire};

/// A connected socket of the client that sent a first datagram as long as QUIC's to UDP port 443.
fn client(wire: &Wire, from: &str, to: &str) -> UdpSocket {
    inside(&wire.client, || {
        let socket = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0)).unwrap();
        socket.connect((to.parse::<IpAddr>().unwrap(), 443)).unwrap();
        socket.set_read_timeout(Some(wire::PATIENCE)).unwrap();
        socket.send(&[0xc0; 1200]).unwrap();
        socket
    })
    .unwrap()
}

#[test]
fn blocked_quic_is_refused_in_the_servers_name() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    wire.crosses("fd77::1", "fd77::2");
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    for (number, (from, to)) in [(CLIENT, SERVER), ("fd77::1", "fd77::2")].into_iter().enumerate() {
        let server = server(&wire, to);
        let begun = Instant::now();
        let error = client(&wire, from, to).recv(&mut [0; 9]).unwrap_err();
        println!("{to}: refused after {:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "told, not left to its timer");
        assert_eq!(engine.counter("quic_dropped"), number as u64 + 1);
        server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(server.recv(&mut [0; 9]).is_err());
    }
    assert_eq!(engine.counter("quic_silently_dropped"), 0);
}

#[test]
fn bypassed_quic_crosses_as_does_quic_without_decryption() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    let server = server(&wire, SERVER);
    let crosses = |what: &str| {
        let socket = client(&wire, CLIENT, SERVER);
        let mut bytes = [0; 2000];
        let (length, from) = server.recv_from(&mut bytes).expect(what);
        assert_eq!((length, from), (1200, socket.local_addr().unwrap()), "{what}");
        server.send_to(b"answer", from).unwrap();
        assert_eq!(socket.recv(&mut bytes).expect(what), 6);
    };
    engine.dataplane.apply(&rules(QuicAction::Bypass)).unwrap();
    crosses("bypass");
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    engine.dataplane.fall_back(FallbackCause::Told, true).unwrap();
    crosses("fallback: its TCP is not decrypted either");
    engine.dataplane.fall_back(FallbackCause::Told, false).unwrap();
    let mut excepted = rules(QuicAction::Block);
    let client = CLIENT.parse::<IpAddr>().unwrap().into();
    excepted.profiles[0].client_policies[0].source_exceptions = vec![client];
    engine.dataplane.apply(&excepted).unwrap();
    crosses("source exception");
    assert_eq!(engine.counter("quic_dropped"), 0);
}

#[test]
fn refusals_are_bounded() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    let flood = format!(
        "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         for i in range(3000): s.sendto(bytes(1200),('{SERVER}',443))"
    );
    wire.python(&wire.client, &flood, &[]);
    assert_eq!(engine.counter("quic_dropped"), 3000);
    assert!(engine.counter("quic_silently_dropped") > 0, "{:?}", engine.dataplane.counters());
}
