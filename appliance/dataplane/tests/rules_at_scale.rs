//! Full tables, and changing them while packets cross.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use weir_dataplane::Attach;
use weir_dataplane::namespace::inside;
use weir_policy::Snapshot;
use weir_policy::precedence::{
    BypassRule, Match, PacketFacts, Passage, Reputation, Standing, TCP, TrafficAction,
    TrafficFilter, UDP, evaluate,
};
use weir_policy::snapshot::{
    Layer2Fallback, PortRange, SegmentId, ServerPolicy, ServerProxy, Side, VirtualSegment,
};
use wire::engine::{server_proxy, snapshot};
use wire::{CLIENT, SERVER, Wire};

fn network(base: u32, index: usize, prefix: u8) -> IpNet {
    let address = base + ((index as u32) << (32 - prefix));
    IpNet::new(IpAddr::V4(address.into()), prefix).unwrap()
}

const ONE: u32 = 0x0a00_0000; // 10.0.0.0
const OTHER: u32 = 0xac10_0000; // 172.16.0.0
const THIRD: u32 = 0xc612_0000; // 198.18.0.0
const BAD: u32 = 0x2000_0000; // 32.0.0.0

/// 512 virtual segments with 4,096 networks, 256 bypass rules, 512 filters, a million addresses.
fn full() -> Snapshot {
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    let segment = |number: usize| VirtualSegment {
        name: format!("virtual segment {number}"),
        segments: vec![],
        from: None,
        vlans: vec![],
        sources: (0..4).map(|n| network(ONE, number * 4 + n, 28)).collect(),
        destinations: (0..4).map(|n| network(OTHER, number * 4 + n, 28)).collect(),
        profile: 0,
    };
    rules.virtual_segments = (0..512).map(segment).collect();
    let port = |port: usize| vec![PortRange { first: port as u16, last: port as u16 + 1 }];
    rules.precedence.inspection_bypass = (0..256)
        .map(|number| BypassRule {
            name: format!("bypass {number}"),
            matching: Match { source_ports: port(1000 + number * 4), ..Match::default() },
        })
        .collect();
    rules.precedence.traffic_filters = (0..512)
        .map(|number| TrafficFilter {
            name: format!("filter {number}"),
            matching: Match {
                destination_ports: port(1000 + number * 4),
                destinations: vec![network(THIRD, number, 26)],
                ..Match::default()
            },
            action: if number % 2 == 0 { TrafficAction::Block } else { TrafficAction::Trust },
        })
        .collect();
    let entries = (0..1_000_000).map(|number| (network(BAD, number, 30), Standing::Block));
    rules.precedence.reputation = Reputation::new(entries.collect());
    rules
}

fn packet(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16)) -> (Vec<u8>, PacketFacts) {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, UDP, 0, 0]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.extend([0, 8, 0, 0]);
    let facts = PacketFacts {
        segment: SegmentId(1),
        from: Side::A,
        ether_type: 0x0800,
        vlan: None,
        protocol: UDP,
        addresses: Some((from.into(), to.into())),
        source_port: ports.0,
        destination_port: ports.1,
        icmp_type: None,
    };
    (frame, facts)
}

#[test]
fn full_tables_say_what_their_definition_says() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    let mut rules = full();
    let agree = |rules: &Snapshot| {
        let mut seen = [0; 4];
        let mut state = 7u32;
        let mut random = |bound: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % bound
        };
        for _ in 0..2000 {
            let from = match random(4) {
                0 => BAD + random(4_200_000),
                _ => ONE + random(512 * 4 * 16 + 64),
            };
            let to =
                if random(2) == 0 { OTHER + random(512 * 4 * 16) } else { THIRD + random(32768) };
            let ports = (900 + random(1200) as u16, 900 + random(2300) as u16);
            let (frame, facts) = packet(from.into(), to.into(), ports);
            let expected = evaluate(rules, &facts, |_| false);
            let found = engine.dataplane.explain(&frame, SegmentId(1), Side::A).unwrap();
            assert_eq!(found, expected, "{facts:?}");
            seen[match expected.passage {
                Passage::Bypassed(_) => 0,
                Passage::Blocked(_) => 1,
                Passage::Trusted => 2,
                Passage::Inspected => 3,
            }] += 1;
        }
        assert!(seen.iter().all(|count| *count >= 1), "each happened: {seen:?}");
    };
    engine.dataplane.apply(&rules).unwrap();
    agree(&rules);
    // A list that differs in its halves: some go, some stay, some are new, some change sides.
    let standing = |number| if number % 3 == 0 { Standing::Permit } else { Standing::Block };
    let entries = (500_000..1_050_000).map(|number| (network(BAD, number, 30), standing(number)));
    rules.precedence.reputation = Reputation::new(entries.collect());
    rules.virtual_segments.reverse();
    engine.dataplane.apply(&rules).unwrap();
    agree(&rules);
}

#[test]
fn what_the_tables_cannot_hold_is_refused_by_name_and_number() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    let filter = |number: usize, sources| TrafficFilter {
        name: format!("filter {number}"),
        matching: Match { sources, ..Match::default() },
        action: TrafficAction::Allow,
    };
    let many = (0..33_000).map(|number| network(ONE, number, 31)).collect();
    rules.precedence.traffic_filters = vec![filter(0, many)];
    let error = engine.dataplane.apply(&rules).unwrap_err().to_string();
    let what = "different networks of virtual segments, rules and policies";
    let no_more = "the tables of the data plane have room for no more";
    assert_eq!(error, format!("more than 32764 {what}: {no_more}"));
    rules.precedence.traffic_filters = (0..513).map(|number| filter(number, vec![])).collect();
    let error = engine.dataplane.apply(&rules).unwrap_err().to_string();
    assert_eq!(error, format!("more than 512 traffic filters: {no_more}"));
    // What was in force is in force.
    let (frame, facts) = packet(ONE.into(), OTHER.into(), (1, 2));
    let found = engine.dataplane.explain(&frame, SegmentId(1), Side::A).unwrap();
    assert_eq!(found, evaluate(&snapshot(Layer2Fallback::PermitAll), &facts, |_| false));
}

/// As many server policies as there may be certificates, each with destinations, ports and source exceptions
/// that no other has.
#[test]
fn a_thousand_servers_policies_are_known_each() {
    const SERVERS: usize = 1000;
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    let ports = |number: usize| (2 * number + 1) as u16;
    rules.server_proxies = (0..SERVERS)
        .map(|number| ServerProxy {
            name: format!("server {number}"),
            destinations: vec![network(OTHER, number, 28)],
            detection_ports: vec![PortRange { first: ports(number), last: ports(number) }],
            ..server_proxy()
        })
        .collect();
    rules.profiles[0].client_policies.clear();
    rules.profiles[0].server_policies = (0..SERVERS)
        .map(|number| ServerPolicy {
            name: format!("server {number}"),
            server_proxy: number,
            source_exceptions: vec![network(ONE, number, 28)],
        })
        .collect();
    engine.dataplane.apply(&rules).unwrap();
    for number in [0, 1, 63, 64, 255, 256, 511, 998, 999] {
        for (servers, port) in [(number, ports(number)), (number, 3), (1, ports(number))] {
            let to = OTHER + (servers as u32) * 16 + 1;
            let (_, mut facts) = packet(ONE.into(), to.into(), (40_000, port));
            facts.protocol = TCP;
            let expected = evaluate(&rules, &facts, |_| false);
            assert_eq!(
                expected.candidate,
                servers == number && port == ports(number) || number == 1
            );
            assert_eq!(engine.dataplane.explain_packet(&facts).unwrap(), expected, "{facts:?}");
        }
    }
}

/// Rules by which the test's datagrams pass, and by any mixture of which they would not.
fn passing(variant: usize) -> Snapshot {
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    let filter =
        |name: &str, matching, action| TrafficFilter { name: name.into(), matching, action };
    let ends = || Match {
        sources: vec![
            CLIENT.parse::<IpAddr>().unwrap().into(),
            SERVER.parse::<IpAddr>().unwrap().into(),
        ],
        ..Match::default()
    };
    let udp = || Match { protocols: vec![UDP], ..Match::default() };
    let others = |number: usize| Match {
        sources: vec![network(OTHER, variant * 40 + number, 24)],
        destination_ports: vec![PortRange { first: 1 + number as u16, last: 60000 }],
        ..Match::default()
    };
    let filters = &mut rules.precedence.traffic_filters;
    filters
        .extend((0..variant * 7).map(|n| filter(&format!("{n}"), others(n), TrafficAction::Block)));
    filters.push(filter("ends", ends(), TrafficAction::Allow));
    filters.push(filter("all", udp(), TrafficAction::Block));
    if variant % 2 == 1 {
        filters.reverse();
        let name = "ends".to_owned();
        rules.precedence.inspection_bypass = vec![BypassRule { name, matching: ends() }];
    }
    rules
}

#[test]
fn changing_the_rules_loses_no_packet() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&passing(0)).unwrap();
    let socket = |namespace, address: &str| {
        let address: IpAddr = address.parse().unwrap();
        inside(namespace, || UdpSocket::bind((address, 0)).unwrap()).unwrap()
    };
    let (client, server) = (socket(&wire.client, CLIENT), socket(&wire.server, SERVER));
    client.connect(server.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 64];
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = server.recv_from(&mut bytes) {
                    server.send_to(&bytes[..length], from).unwrap();
                }
            }
        });
        let exchange = scope.spawn(|| {
            let mut count = 0u64;
            while !stop.load(Ordering::Relaxed) {
                // Sixteen at once: the change falls between, or among, them.
                for _ in 0..16 {
                    client.send(&count.to_be_bytes()).unwrap();
                }
                for _ in 0..16 {
                    client.recv(&mut [0; 64]).expect("no packet is lost");
                    count += 1;
                }
            }
            count
        });
        for round in 0..60 {
            engine.dataplane.apply(&passing(round % 4)).unwrap();
            if exchange.is_finished() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let count = exchange.join();
        over.store(true, Ordering::Relaxed);
        let count = count.unwrap();
        assert!(count > 1000, "only {count} crossed");
    });
    assert_eq!(engine.counter("filter_dropped"), 0);
}
