//! Reasons for which packets are dropped or flows left alone that no other test has: each happens, is
//! counted, and what it is about goes on as it should.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::sync::atomic::Ordering;
use std::time::Duration;

use weir_dataplane::{Attach, HeldFlows, TableSizes};
use weir_policy::snapshot::{Evasion, EvasionAction, Layer2Fallback};
use wire::Wire;
use wire::ends::Tunnel;
use wire::engine::{Does, Engine, flows_of, judge_all, snapshot};
use wire::raw::{ACK, PLAIN_OPTIONS, RAW_SERVER, Raw, SYN};

fn with(tables: TableSizes, evasion: Evasion) -> (Wire, Engine, HeldFlows) {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| options.tables = tables);
    let mut snapshot = snapshot(Layer2Fallback::PermitAll);
    snapshot.device.evasion = evasion;
    engine.dataplane.apply(&snapshot).unwrap();
    (wire, engine, held)
}

#[test]
fn a_syn_past_its_clients_share_passes_where_policy_says_so() {
    let tables = TableSizes { half_open: 256, ..TableSizes::default() };
    let evasion = Evasion { client_flood: EvasionAction::Bypass, ..Evasion::default() };
    let (wire, engine, _held) = with(tables, evasion);
    let mut flood = Raw::client(&wire, 1, RAW_SERVER);
    for port in 5000..5200 {
        flood.local.1 = port;
        flood.put(&flood.syn());
    }
    engine.wait_for("syn_flood_passed", 1);
    assert_eq!(engine.counter("syn_flood_dropped"), 0);
}

#[test]
fn a_flow_with_malformed_options_in_its_syn_is_left_to_the_bridge() {
    let (wire, engine, _held) = with(TableSizes::default(), Evasion::default());
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    // Longer than there are options.
    client.options = [PLAIN_OPTIONS, &[3, 40, 0, 0]].concat();
    Raw::shake(&mut client, &mut server);
    client.send(0, b"unjudged");
    server.expect("the bytes", |a| a.payload == b"unjudged");
    assert!(engine.counter("syn_options_passed") >= 1);
    assert_eq!(engine.counter("flow_held"), 0);
}

#[test]
fn data_outside_the_clients_window_is_no_word_of_the_server() {
    let (wire, engine, held) = with(TableSizes::default(), Evasion::default());
    judge_all(held, 4, Does::Hold);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    Raw::shake(&mut client, &mut server);
    server.send(1_000_000, b"EVIL");
    engine.wait_for("server_outside_window_dropped", 1);
    client.send(0, b"half");
    engine.wait_for("flow_held", 1);
    server.send(1_000_000, b"EVIL");
    engine.wait_for("server_outside_window_dropped", 2);
    client.expect_none("data outside its window", |a| !a.payload.is_empty());
    assert_eq!(engine.counter("server_spoke_first"), 0);
}

#[test]
fn new_flows_cross_beside_an_engine_that_says_nothing() {
    let (wire, engine, _held) = with(TableSizes::default(), Evasion::default());
    let mut policy = snapshot(Layer2Fallback::PermitAll);
    policy.device.health.heartbeat_timeout = Duration::from_millis(500);
    engine.dataplane.apply(&policy).unwrap();
    engine.stop.store(true, Ordering::Relaxed);
    // Longer than the heartbeat's age at which the engine is thought dead.
    std::thread::sleep(Duration::from_secs(1));
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    Raw::shake(&mut client, &mut server);
    client.send(0, b"unjudged");
    server.expect("the bytes", |a| a.payload == b"unjudged");
    assert!(engine.counter("engine_dead_passed") >= 1);
}

#[test]
fn what_a_judge_does_not_take_in_is_bounded_and_comes_again() {
    let (wire, engine, held) = with(TableSizes::default(), Evasion::default());
    let flows = flows_of(held);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    Raw::shake(&mut client, &mut server);
    // Nobody judges; a flow's inbox holds 256 KiB.
    for _ in 0..300 {
        client.send(0, &[7; 1400]);
    }
    engine.wait_for("held_queue_full_dropped", 1);
    let flow = flows.recv().unwrap();
    flow.release().unwrap();
    server.expect("the judged bytes", |a| a.payload == [7; 1400]);
    client.send(1400, b"more");
    server.expect("what follows", |a| a.payload == b"more");
}

#[test]
fn an_answer_whose_gre_key_could_be_of_two_syns_is_of_neither() {
    let (wire, engine, _held) = with(TableSizes::default(), Evasion::default());
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    (client.tunnel, server.tunnel) = (Tunnel::GreKey([1, 9]), Tunnel::GreKey([1, 9]));
    assert!((0..20).any(|_| {
        client.put(&client.syn());
        server.receive_some(|a| a.flags == SYN).is_some()
    }));
    client.tunnel = Tunnel::GreKey([2, 9]);
    client.put(&client.syn());
    server.expect("the other SYN", |a| a.flags == SYN);
    let mut answer = server.syn();
    (answer.flags, answer.acknowledged) = (SYN | ACK, client.first);
    server.put(&answer);
    client.expect("the answer", |a| a.flags == SYN | ACK);
    engine.wait_for("gre_key_ambiguous_passed", 1);
    (client.expected, server.expected) = (server.first, client.first);
    client.send(0, b"unjudged");
    server.expect("the bytes", |a| a.payload == b"unjudged");
    assert_eq!(engine.counter("flow_held"), 0);
}
