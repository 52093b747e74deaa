//! What eBPF drops is told by segment and by virtual segment, by its reason.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::collections::BTreeMap;

use weir_dataplane::{Attach, FallbackCause};
use weir_policy::Snapshot;
use weir_policy::snapshot::{Evasion, EvasionAction, Layer2Fallback, VirtualSegment};
use wire::Wire;
use wire::engine::{Does, Engine, against, judge_all};
use wire::raw::{RAW_CLIENT, Raw};

/// The raw client's packets are of another virtual segment than all others.
fn policy(more: Option<&str>) -> Snapshot {
    let mut snapshot = against(Evasion { syn_data: EvasionAction::Block, ..Evasion::default() });
    let all = snapshot.virtual_segments[0].clone();
    let address: std::net::Ipv4Addr = RAW_CLIENT.into();
    let sources = vec![format!("{address}/32").parse().unwrap()];
    let named = |name: &str, sources| VirtualSegment { name: name.into(), sources, ..all.clone() };
    let other = more.map(|name| named(name, vec!["192.0.2.0/24".parse().unwrap()]));
    let clients = named("clients", sources);
    snapshot.virtual_segments = other.into_iter().chain([clients, all]).collect();
    snapshot
}

type Drops = BTreeMap<String, Vec<(&'static str, u64)>>;

fn drops(engine: &Engine) -> Drops {
    let report = engine.dataplane.drop_report();
    report.into_iter().map(|one| (one.virtual_segment, one.counters)).collect()
}

fn of(told: &[(&str, &[(&'static str, u64)])]) -> Drops {
    told.iter().map(|(name, counters)| ((*name).to_owned(), counters.to_vec())).collect()
}

#[test]
fn what_is_dropped_counts_for_its_virtual_segment() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&policy(None)).unwrap();
    judge_all(held, 1000, Does::Hold);
    let (client, server) = Raw::shaken(&wire, 4000);

    // Before a flow is known, of one that is watched, and of one that is held.
    let (other, _) = Raw::ends(&wire, 4001);
    let mut syn = other.syn();
    syn.payload = b"data";
    other.put(&syn);
    engine.wait_for("syn_payload_dropped", 1);
    let mut early = client.segment(0, b"early");
    early.acknowledged = early.acknowledged.wrapping_sub(1000);
    client.put(&early);
    engine.wait_for("client_invalid_dropped", 1);
    client.send(0, b"half");
    engine.wait_for("flow_held", 1);
    client.put(&early);
    engine.wait_for("client_invalid_dropped", 2);
    // The server's own packets are of another one.
    server.send(1_000_000, b"far");
    engine.wait_for("server_outside_window_dropped", 1);

    let clients: &[_] = &[("syn_payload_dropped", 1), ("client_invalid_dropped", 2)];
    let all: &[_] = &[("server_outside_window_dropped", 1)];
    assert_eq!(drops(&engine), of(&[("clients", clients), ("all", all)]));

    // Kept over changes, whatever their order is then.
    engine.dataplane.apply(&policy(Some("before"))).unwrap();
    client.put(&early);
    engine.wait_for("client_invalid_dropped", 3);
    let clients: &[_] = &[("syn_payload_dropped", 1), ("client_invalid_dropped", 3)];
    assert_eq!(drops(&engine), of(&[("clients", clients), ("all", all)]));
    engine.dataplane.apply(&policy(None)).unwrap();
    assert_eq!(drops(&engine), of(&[("clients", clients), ("all", all)]));
}

#[test]
fn what_is_dropped_without_a_look_at_the_rules_counts_for_its_segment_alone() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1000, Does::Hold);
    let (client, _server) = Raw::shaken(&wire, 4000);
    let mut blocking = policy(None);
    blocking.segments[0].layer2_fallback = Layer2Fallback::BlockAll;
    engine.dataplane.apply(&blocking).unwrap();
    engine.dataplane.fall_back(FallbackCause::Told, true).unwrap();
    client.send(0, b"half");
    engine.wait_for("fallback_dropped", 1);
    engine.dataplane.fall_back(FallbackCause::Told, false).unwrap();
    // Nor does it count for a packet that comes after it and is held.
    client.send(0, b"half");
    engine.wait_for("flow_held", 1);
    assert_eq!(drops(&engine), Drops::new());
}
