//! Rules that change under traffic, many times: no packet is lost for it, and none meets half of the old rules
//! and half of the new ones.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use weir_dataplane::Attach;
use weir_dataplane::namespace::inside;
use weir_policy::Snapshot;
use weir_policy::precedence::{Match, TrafficAction, TrafficFilter, UDP};
use weir_policy::snapshot::{Layer2Fallback, PortRange, Profile, VirtualSegment};
use wire::engine::{Does, PORT, judge_all, snapshot};
use wire::{CLIENT, PATIENCE, SERVER, Wire};

const CHANGES: usize = 150;
/// Datagrams to this port pass by every rule set, and those to the other by none.
const PASSES: u16 = 7000;
const BLOCKED: u16 = 7001;
/// Datagrams that may be on their way: less than any queue between has room for.
const ON_THE_WAY: u64 = 64;

fn filter(name: &str, action: TrafficAction, port: u16) -> TrafficFilter {
    let ports = vec![PortRange { first: port, last: port }];
    let matching = Match { protocols: vec![UDP], destination_ports: ports, ..Match::default() };
    TrafficFilter { name: name.into(), matching, action }
}

/// Rule sets that say the same of this test's packets, by other rules in other places.
fn variant(number: usize) -> Snapshot {
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    let template = rules.virtual_segments.remove(0);
    let decrypting = rules.profiles.remove(0);
    let idle = Profile { name: "idle".into(), client_policies: vec![], ..decrypting.clone() };
    let others = [0_usize, 1, 70, 300][number % 4];
    // The profile in force has another number each time, and so has its virtual segment.
    rules.profiles =
        if number.is_multiple_of(2) { vec![decrypting, idle] } else { vec![idle, decrypting] };
    let [decrypts, idles] = if number.is_multiple_of(2) { [0, 1] } else { [1, 0] };
    for other in 0..others {
        // Of hosts and VLANs that nothing here is of.
        rules.virtual_segments.push(VirtualSegment {
            name: format!("other {other}"),
            vlans: if other.is_multiple_of(2) { vec![100 + other as u16] } else { vec![] },
            sources: vec![format!("192.0.2.{}/32", other % 200).parse().unwrap()],
            profile: idles,
            ..template.clone()
        });
    }
    let client = format!("{CLIENT}/32").parse().unwrap();
    let sources = if number.is_multiple_of(3) { vec![client] } else { vec![] };
    rules.virtual_segments.push(VirtualSegment { sources, profile: decrypts, ..template.clone() });
    rules.virtual_segments.push(VirtualSegment { name: "rest".into(), profile: idles, ..template });
    let filters = &mut rules.precedence.traffic_filters;
    for other in 0..others {
        filters.push(filter(
            &format!("other {other}"),
            TrafficAction::Block,
            20_000 + other as u16,
        ));
    }
    filters.push(filter("passes", TrafficAction::Allow, PASSES));
    filters.push(filter("blocked", TrafficAction::Block, BLOCKED));
    if number.is_multiple_of(2) {
        filters.reverse();
    }
    rules
}

#[test]
fn no_packet_is_lost_or_misjudged_while_virtual_segments_change() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&variant(0)).unwrap();
    let judge = judge_all(held, 5, Does::TakeOver);
    let listener = wire.listen();
    let at_server = |port| {
        let socket = inside(&wire.server, || UdpSocket::bind((SERVER, port)).unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (passes, blocked) = (at_server(PASSES), at_server(BLOCKED));
    let client = inside(&wire.client, || UdpSocket::bind((CLIENT, 0)).unwrap()).unwrap();
    let (received, ends) = (AtomicU64::new(0), AtomicBool::new(false));
    let done = || ends.load(Ordering::Relaxed);

    let (datagrams, connections) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut number = 0u64;
            let mut moved = Instant::now();
            while !done() {
                let arrived = received.load(Ordering::Relaxed);
                if number - arrived >= ON_THE_WAY {
                    assert!(moved.elapsed() < PATIENCE, "{arrived} of {number} arrived");
                    std::thread::yield_now();
                    continue;
                }
                moved = Instant::now();
                for port in [PASSES, BLOCKED] {
                    client.send_to(&number.to_be_bytes(), (SERVER, port)).unwrap();
                }
                number += 1;
            }
            // The last one: nothing is behind it that would show that it is missing.
            client.send_to(&u64::MAX.to_be_bytes(), (SERVER, PASSES)).unwrap();
            number
        });
        let receiver = scope.spawn(|| {
            let mut bytes = [0; 8];
            for next in 0.. {
                passes.recv(&mut bytes).expect("a datagram was lost");
                let number = u64::from_be_bytes(bytes);
                if number == u64::MAX {
                    return next;
                }
                assert_eq!(number, next, "lost, or out of order");
                received.store(next + 1, Ordering::Relaxed);
            }
            unreachable!("numbers end")
        });
        let flows = scope.spawn(|| {
            // One that goes on, and new ones beside it.
            let mut lasting = wire.pair(&listener);
            wire::says(&mut lasting.0, &mut lasting.1);
            let mut count = 1u64;
            while !done() {
                let mut pair = wire.pair(&listener);
                wire::says(&mut pair.0, &mut pair.1);
                lasting.0.write_all(b"more").unwrap();
                lasting.1.read_exact(&mut [0; 4]).unwrap();
                count += 1;
            }
            count
        });
        for number in 1..=CHANGES {
            engine.dataplane.apply(&variant(number)).unwrap();
        }
        ends.store(true, Ordering::Relaxed);
        let (sent, arrived) = (sender.join().unwrap(), receiver.join().unwrap());
        assert_eq!(sent, arrived);
        (sent, flows.join().unwrap())
    });
    println!("{datagrams} datagrams and {connections} connections over {CHANGES} changes");
    assert!(datagrams > 1000 && connections > 10, "{datagrams} {connections}");
    assert_eq!(engine.counter("flow_held"), connections, "a connection went by unjudged");
    assert_eq!(engine.counter("flow_taken_over"), connections);
    assert_eq!(engine.counter("filter_dropped"), datagrams);
    blocked.set_nonblocking(true).unwrap();
    assert!(blocked.recv(&mut [0; 8]).is_err(), "a blocked datagram crossed");
    drop(judge);
}

#[test]
fn a_flow_outlives_the_policy_that_covered_its_port() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 5, Does::TakeOver);
    let listener = wire.listen();
    let mut lasting = wire.pair(&listener);
    wire::says(&mut lasting.0, &mut lasting.1);
    assert_eq!(engine.counter("flow_taken_over"), 1);

    let mut elsewhere = snapshot(Layer2Fallback::PermitAll);
    elsewhere.client_proxies[0].detection_ports =
        vec![PortRange { first: PORT + 1, last: PORT + 1 }];
    engine.dataplane.apply(&elsewhere).unwrap();
    // The bridge alone would leave the mark that the byte is urgent, and the byte out of the stream.
    socket2::SockRef::from(&lasting.0).send_out_of_band(b"!").unwrap();
    lasting.1.read_exact(&mut [0; 1]).unwrap();
    assert_eq!(engine.counter("urgent_cleared"), 1);
    lasting.1.write_all(b"and back").unwrap();
    lasting.0.read_exact(&mut [0; 8]).unwrap();

    // What begins now on the old port is nobody's, and on the new one it is held.
    let mut passed = wire.pair(&listener);
    wire::says(&mut passed.0, &mut passed.1);
    assert_eq!(engine.counter("flow_held"), 1);
    let other = inside(&wire.server, || TcpListener::bind((SERVER, PORT + 1)).unwrap()).unwrap();
    let mut covered = wire.pair(&other);
    wire::says(&mut covered.0, &mut covered.1);
    assert_eq!(engine.counter("flow_taken_over"), 2);
}
