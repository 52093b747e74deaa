//! QUIC of clients whose TCP is decrypted: refused, so that they fall back at once (SPEC D14).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;
use weir_dataplane::namespace::inside;
use weir_dataplane::{Attach, FallbackCause, QuicVerdict};
use weir_policy::Snapshot;
use weir_policy::snapshot::{Layer2Fallback, PortRange, QuicAction, Side};
use wire::engine::{Engine, snapshot};
use wire::{CLIENT, SERVER, Wire};

fn rules(quic: QuicAction) -> Snapshot {
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    rules.client_proxies[0].detection_ports = vec![PortRange { first: 443, last: 443 }];
    rules.profiles[0].client_policies[0].quic = quic;
    rules
}

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

fn server(wire: &Wire, address: &str) -> UdpSocket {
    let address: IpAddr = address.parse().unwrap();
    let socket = inside(&wire.server, || UdpSocket::bind((address, 443)).unwrap()).unwrap();
    socket.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    socket
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

/// Datagrams that begin with these bytes: the judge of these tests needs no QUIC.
const EXCEPTED: u8 = 1;
const HALF: u8 = 2;

fn judged(engine: &Engine) {
    engine.dataplane.judge_quic_by(Box::new(|candidate, datagrams| {
        assert_eq!(candidate.server.port(), 443);
        assert_eq!(candidate.from, Side::A);
        let starts: Vec<u8> = datagrams.iter().map(|datagram| datagram[0]).collect();
        match starts.as_slice() {
            [EXCEPTED] | [HALF, HALF] => QuicVerdict::Except,
            [HALF] => QuicVerdict::Wait,
            _ => QuicVerdict::Refuse,
        }
    }));
}

/// A datagram as long as QUIC's first, which differs in each place from one that is shifted.
fn datagram(first: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..1201_u32).map(|at| ((at * 7) >> 2) as u8).collect();
    bytes[0] = first;
    bytes
}

fn connected(wire: &Wire, from: &str, to: &str) -> UdpSocket {
    let socket = inside(&wire.client, || {
        let socket = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0)).unwrap();
        socket.connect((to.parse::<IpAddr>().unwrap(), 443)).unwrap();
        socket
    })
    .unwrap();
    socket.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    socket
}

fn receives(server: &UdpSocket, from: &UdpSocket, wanted: &[u8]) {
    let mut bytes = [0; 4000];
    let (length, sender) = server.recv_from(&mut bytes).unwrap();
    assert_eq!(sender, from.local_addr().unwrap());
    assert!(&bytes[..length] == wanted, "other bytes came, {length} of {}", wanted.len());
}

#[test]
fn excepted_quic_crosses_with_its_first_datagrams_and_all_that_follow() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    judged(&engine);
    for (number, (from, to)) in [(CLIENT, SERVER), ("fd77::1", "fd77::2")].into_iter().enumerate() {
        wire.crosses(from, to);
        let server = server(&wire, to);
        let client = connected(&wire, from, to);
        client.send(&datagram(EXCEPTED)).unwrap();
        receives(&server, &client, &datagram(EXCEPTED));
        // Whatever it is: the connection was judged.
        for more in [&b"short"[..], &datagram(9)] {
            client.send(more).unwrap();
            receives(&server, &client, more);
            server.send_to(more, client.local_addr().unwrap()).unwrap();
            let mut bytes = [0; 4000];
            let length = client.recv(&mut bytes).unwrap();
            assert!(&bytes[..length] == more);
        }
        assert_eq!(engine.counter("quic_excepted"), number as u64 + 1);
        // Another port is another connection.
        let other = connected(&wire, from, to);
        other.send(&datagram(9)).unwrap();
        let error = other.recv(&mut [0; 9]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_hello_over_several_datagrams_waits_for_them_and_crosses_whole() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    judged(&engine);
    let server = server(&wire, SERVER);
    let client = connected(&wire, CLIENT, SERVER);
    client.send(&datagram(HALF)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(server.recv(&mut [0; 9]).is_err(), "a half crossed");
    server.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    client.send(&datagram(HALF)).unwrap();
    for _ in 0..2 {
        receives(&server, &client, &datagram(HALF));
    }
    // A client's kernel may be given both at once (UDP_SEGMENT).
    let client = connected(&wire, CLIENT, SERVER);
    setsockopt(&client, UdpGsoSegment, &1201).unwrap();
    client.send(&[datagram(HALF), datagram(HALF)].concat()).unwrap();
    for _ in 0..2 {
        receives(&server, &client, &datagram(HALF));
    }
    assert_eq!(engine.counter("quic_excepted"), 2);
}

#[test]
fn an_excepted_connection_stays_so_with_the_next_engine() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    judged(&engine);
    let server = server(&wire, SERVER);
    let client = connected(&wire, CLIENT, SERVER);
    client.send(&datagram(EXCEPTED)).unwrap();
    receives(&server, &client, &datagram(EXCEPTED));
    drop((engine, held));
    let (engine, _held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    client.send(b"more").unwrap();
    receives(&server, &client, b"more");
    assert_eq!(engine.counter("quic_dropped"), 1, "only the datagram that was judged");
}
