//! Rules that stop packets, as the ends feel it: quarantine, traffic filters, reputation, rate limits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::net::IpAddr;
use std::time::Duration;

use weir_dataplane::{Attach, FallbackCause};
use weir_policy::precedence::{
    Match, Quarantine, Reputation, Standing, TrafficAction, TrafficFilter, UDP,
};
use weir_policy::snapshot::Layer2Fallback;
use wire::Wire;
use wire::engine::{Engine, snapshot};

#[test]
fn quarantine_ends_by_time_and_by_hand() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    rules.precedence.quarantine =
        Quarantine { timeout: 60, exempt: vec!["192.0.2.0/24".parse().unwrap()] };
    engine.dataplane.apply(&rules).unwrap();
    let exempt: IpAddr = "192.0.2.1".parse().unwrap();
    assert!(engine.dataplane.quarantine(exempt, None).is_err());
    let client: IpAddr = wire::CLIENT.parse().unwrap();
    wire.crosses(wire::CLIENT, wire::SERVER); // the ends know one another from here on
    assert!(pings(&wire));
    engine.dataplane.quarantine(client, None).unwrap();
    assert!(pings_in_vain(&wire));
    assert!(engine.counter("quarantine_dropped") > 0);
    let [(host, left)] = engine.dataplane.quarantined()[..] else { panic!("one host") };
    assert!(host == client && left > Duration::from_secs(50));
    assert!(engine.dataplane.release_host(client).unwrap());
    assert!(pings(&wire));
    // Longer than a busy machine takes for the next line.
    engine.dataplane.quarantine(client, Some(Duration::from_secs(5))).unwrap();
    assert!(pings_in_vain(&wire));
    for _ in 0..300 {
        if engine.dataplane.quarantined().is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(pings(&wire));
}

/// Whether an echo request of the client is answered, on a busy machine too.
fn pings(wire: &Wire) -> bool {
    ping(wire, "20")
}

/// Whether none is, where it would be at once.
fn pings_in_vain(wire: &Wire) -> bool {
    !ping(wire, "0.5")
}

fn ping(wire: &Wire, seconds: &str) -> bool {
    let script = "import socket, struct, sys\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\n\
        s.settimeout(float(sys.argv[2]))\n\
        body = struct.pack('!BBHHH', 8, 0, 0, 1, 1) + bytes(56)\n\
        total = sum(struct.unpack('!32H', body))\n\
        body = body[:2] + struct.pack('!H', 0xffff - (total % 0xffff)) + body[4:]\n\
        s.sendto(body, (sys.argv[1], 0))\n\
        try:\n    s.recv(2000)\n    print('yes')\nexcept TimeoutError:\n    print('no')";
    wire.python(&wire.client, script, &[wire::SERVER, seconds]).trim() == "yes"
}

#[test]
fn rules_act_on_the_wire_and_are_counted() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    let with = |action, matching: Match| {
        let mut rules = snapshot(Layer2Fallback::PermitAll);
        let name = "filter".to_owned();
        rules.precedence.traffic_filters = vec![TrafficFilter { name, matching, action }];
        engine.dataplane.apply(&rules).unwrap();
    };
    let echo = || Match { icmp_types: vec![8], ..Match::default() };
    with(TrafficAction::Allow, echo());
    wire.crosses(wire::CLIENT, wire::SERVER); // the ends know one another from here on
    with(TrafficAction::Block, echo());
    assert!(pings_in_vain(&wire));
    assert_eq!(engine.counter("filter_dropped"), 1, "{:?}", engine.dataplane.counters());
    wire.crosses(wire::CLIENT, wire::SERVER);
    let count = |engine: &Engine| {
        let report = engine.dataplane.rule_report();
        report.into_iter().find(|one| one.name == "filter").unwrap()
    };
    assert_eq!((count(&engine).packets, count(&engine).bytes), (1, 98));
    with(TrafficAction::Allow, echo());
    assert!(pings(&wire));
    assert_eq!(count(&engine).packets, 2, "kept over a change");
    engine.dataplane.fall_back(FallbackCause::Told, true).unwrap();
    with(TrafficAction::Block, echo());
    assert!(pings(&wire), "in fallback everything passes");
    assert_eq!(engine.counter("fallback_unblocked"), 1);
    engine.dataplane.fall_back(FallbackCause::Told, false).unwrap();
    assert!(pings_in_vain(&wire));
}

#[test]
fn a_packet_from_an_address_of_bad_reputation_is_dropped() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(wire::CLIENT, wire::SERVER); // the ends know one another from here on
    assert!(pings(&wire));
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    let client = format!("{}/32", wire::CLIENT).parse().unwrap();
    rules.precedence.reputation = Reputation::new(vec![(client, Standing::Block)]);
    engine.dataplane.apply(&rules).unwrap();
    assert!(pings_in_vain(&wire));
    assert_eq!(engine.counter("reputation_dropped"), 1);
}

#[test]
fn rate_limit_passes_its_burst_and_then_its_rate() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(wire::CLIENT, wire::SERVER); // the ends know one another from here on
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    rules.precedence.traffic_filters = vec![TrafficFilter {
        name: "slow".to_owned(),
        matching: Match { protocols: vec![UDP], ..Match::default() },
        // A burst of 65,600 bytes, and then some 10 bytes in ten milliseconds.
        action: TrafficAction::RateLimit { bits_per_second: 8_000 },
    }];
    engine.dataplane.apply(&rules).unwrap();
    let send = format!(
        "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         for i in range(200): s.sendto(bytes(958),('{}',9))",
        wire::SERVER
    );
    wire.python(&wire.client, &send, &[]);
    let dropped = engine.counter("rate_limit_dropped");
    // 1000 bytes each with its headers: 65 pass, and one more for each second that it took.
    assert!((120..=135).contains(&dropped), "{dropped} of 200 dropped");
    let report = engine.dataplane.rule_report();
    assert_eq!(report.iter().find(|one| one.name == "slow").unwrap().packets, 200);
}
