//! Packets that an end would take for the flow's and that must not pass by judgement, or that seem to
//! be the flow's and are not (SPEC D15, D16).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};

use weir_dataplane::{Attach, TableSizes};
use weir_policy::Resets;
use weir_policy::snapshot::{Evasion, EvasionAction, Layer2Fallback};
use wire::engine::{Does, Engine, PORT, judge_all, snapshot};
use wire::raw::{ACK, FIN, PUSH, RAW_CLIENT, RST, Raw, SYN, URGENT};
use wire::{Wire, ip};

const BLOCK: EvasionAction = EvasionAction::Block;
const KERNEL: [u8; 4] = [10, 77, 0, 2];

/// A wire with an engine that does this with each flow once it has eight bytes, under this policy.
fn under(evasion: Evasion, does: Does) -> (Wire, Engine) {
    with(TableSizes::default(), evasion, does)
}

fn with(tables: TableSizes, evasion: Evasion, does: Does) -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| options.tables = tables);
    let mut snapshot = snapshot(Layer2Fallback::PermitAll);
    snapshot.device.evasion = evasion;
    engine.dataplane.apply(&snapshot).unwrap();
    judge_all(held, 8, does);
    (wire, engine)
}

/// A packet of the other end, by this end's port.
fn forged(mut by: Raw, other: &Raw) -> Raw {
    (by.local, by.remote, by.first) = (other.local, other.remote, other.first);
    by
}

#[test]
fn a_priority_tag_does_not_make_another_flow() {
    for does in [Does::Release, Does::TakeOver] {
        let (wire, engine) = under(Evasion::default(), does);
        let (client, server) = Raw::shaken(&wire, 4000);
        let mut segment = client.segment(0, b"eight by");
        segment.tags = &[0];
        client.put(&segment);
        server.expect("the judged bytes", |a| a.payload == b"eight by");
        assert_eq!(engine.counter("flow_held"), 1);
        server.send(0, b"answer");
        client.expect("the answer", |a| a.payload == b"answer");
    }
}

#[test]
fn tags_that_an_end_may_look_through_pass_or_are_dropped() {
    for action in [EvasionAction::Bypass, BLOCK] {
        let policy = Evasion { unread_headers: action, ..Evasion::default() };
        let (wire, engine) = under(policy, Does::Release);
        let (client, server) = Raw::shaken(&wire, 4000);
        for (tags, count) in [(&[0, 0][..], 1), (&[0, 0, 0], 2), (&[5, 6, 7], 3)] {
            let mut segment = client.segment(0, b"eight by");
            segment.tags = tags;
            client.put(&segment);
            if action == BLOCK {
                engine.wait_for("unread_headers_dropped", count);
            } else {
                engine.wait_for("qinq_passed", count);
            }
        }
        // Those of a service provider's network cross.
        let mut segment = client.segment(0, b"eight by");
        segment.tags = &[5, 6];
        client.put(&segment);
        engine.wait_for("qinq_passed", 4);
        if action == BLOCK {
            assert_eq!(engine.counter("unread_headers_dropped"), 3);
            server.expect_none("a payload passed", |a| !a.payload.is_empty());
        }
    }
}

/// Both ports are such that either end might be a client.
#[test]
fn a_syn_of_the_server_does_not_make_its_client_unjudged() {
    let (wire, engine) = under(Evasion::default(), Does::Release);
    let (client, server) = Raw::shaken(&wire, PORT);
    let mut syn = server.syn();
    syn.sequence = syn.sequence.wrapping_add(12345);
    server.put(&syn);
    client.expect("the other SYN", |a| a.flags == SYN);
    client.send(0, b"eight by");
    server.expect("the judged bytes", |a| a.payload == b"eight by");
    engine.wait_for("flow_released", 1);
    assert_eq!(engine.counter("flow_held"), 1);
}

#[test]
fn data_of_a_connection_that_was_opened_from_both_ends_is_counted() {
    for (action, counter) in [(EvasionAction::Bypass, "unseen_passed"), (BLOCK, "unseen_dropped")] {
        let policy = Evasion { unseen_handshake: action, ..Evasion::default() };
        let (wire, engine) = under(policy, Does::Release);
        let (client, server) = Raw::ends(&wire, PORT);
        assert!((0..20).any(|_| {
            client.put(&client.syn());
            server.receive_some(|a| a.flags == SYN).is_some()
        }));
        // The data of the other end, whose SYN-ACK was not seen.
        server.send(0, b"unjudged");
        engine.wait_for(counter, 1);
    }
}

#[test]
fn an_end_of_the_client_that_does_not_reach_the_server_is_none() {
    let (wire, engine) = under(Evasion::default(), Does::TakeOver);
    for (port, flags) in [(4000, RST | ACK), (4001, FIN | ACK)] {
        let (client, server) = Raw::shaken(&wire, port);
        client.send(0, b"half");
        engine.wait_for("flow_held", u64::from(port) - 3999);
        let mut decoy = client.segment(4, b"");
        (decoy.flags, decoy.ttl) = (flags, 3);
        client.put(&decoy);
        engine.wait_for("client_ttl_dropped", u64::from(port) - 3999);
        client.send(4, b"more");
        server.expect("the judged bytes", |a| a.payload == b"halfmore");
    }
    assert_eq!(engine.counter("flow_taken_over"), 2);
}

#[test]
fn an_end_of_the_server_that_does_not_reach_the_client_is_none() {
    let (wire, engine) = under(Evasion::default(), Does::TakeOver);
    let (client, server) = Raw::shaken(&wire, 4000);
    client.send(0, b"half");
    engine.wait_for("flow_held", 1);
    let mut decoy = server.segment(0, b"");
    (decoy.flags, decoy.ttl) = (RST | ACK, 3);
    server.put(&decoy);
    engine.wait_for("server_ttl_dropped", 1);
    client.send(4, b"more");
    server.expect("the judged bytes", |a| a.payload == b"halfmore");
    assert_eq!(engine.counter("flow_taken_over"), 1);
}

#[test]
fn no_byte_is_urgent_before_the_judgement_is_final() {
    let (wire, engine) = under(Evasion::default(), Does::Release);
    let listener = wire.listen();
    let mut client = Raw::client(&wire, 4000, KERNEL);
    client.connect();
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    // Announced by a packet without payload, and by the first one.
    let mut announces = client.segment(0, b"");
    (announces.flags, announces.urgent) = (ACK | URGENT, 3);
    client.put(&announces);
    engine.wait_for("urgent_cleared", 1);
    let mut segment = client.segment(0, b"eight by");
    (segment.flags, segment.urgent) = (ACK | PUSH | URGENT, 2);
    client.put(&segment);
    // Its socket would have left a byte out.
    let mut bytes = [0; 8];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"eight by");
    assert_eq!(engine.counter("urgent_cleared"), 2);
    // Counted after its packets were sent on.
    engine.wait_for("flow_released", 1);
}

#[test]
fn an_urgent_byte_of_a_taken_flow_stays_in_its_place() {
    let (wire, engine) = under(Evasion::default(), Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    // So much that it is not copied.
    let much = vec![7; 500_000];
    let sent = [&much[..], b"!", &much].concat();
    let received = std::thread::scope(|scope| {
        let received = scope.spawn(|| {
            let mut received = vec![0; sent.len()];
            server.read_exact(&mut received).map(|()| received)
        });
        client.write_all(&much).unwrap();
        socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(&much).unwrap();
        received.join().unwrap()
    });
    assert!(received.unwrap() == sent);
    assert!(engine.counter("urgent_cleared") >= 1);
}

#[test]
fn a_handshake_whose_syn_is_not_known_is_dropped_where_policy_says_so() {
    let policy = Evasion { unseen_handshake: BLOCK, ..Evasion::default() };
    let (wire, engine) = under(policy, Does::Release);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    let mut answer = server.syn();
    answer.flags = SYN | ACK;
    answer.acknowledged = client.first;
    server.put(&answer);
    engine.wait_for("handshake_unknown_dropped", 1);
    client.expect_none("a SYN-ACK passed", |a| a.flags & SYN != 0);
    // The SYN comes again.
    Raw::shake(&mut client, &mut server);
    client.send(0, b"eight by");
    server.expect("the judged bytes", |a| a.payload == b"eight by");
    assert_eq!(engine.counter("flow_held"), 1);
}

#[test]
fn a_client_that_floods_handshakes_does_not_make_others_unknown() {
    let tables = TableSizes { half_open: 2048, ..TableSizes::default() };
    let (wire, engine) = with(tables, Evasion::default(), Does::Release);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    let mut flood = Raw::client(&wire, 1, [10, 77, 0, 99]);
    ip(&format!(
        "-n {} neigh replace 10.77.0.99 lladdr 02:bb:00:00:00:02 dev e0 nud permanent",
        wire.name("client")
    ));
    for port in 5000..15_000 {
        flood.local.1 = port;
        flood.put(&flood.syn());
    }
    engine.wait_for("candidate_syn", 10_000);
    assert!(engine.counter("syn_flood_dropped") > 5000);
    client.write_all(b"eight by").unwrap();
    server.read_exact(&mut [0; 8]).unwrap();
    assert_eq!(engine.counter("flow_held"), 1);
}

#[test]
fn a_client_whose_finished_flows_fill_the_table_leaves_room_to_others() {
    let tables = TableSizes { flows: 64, ..TableSizes::default() };
    let (wire, engine) = with(tables, Evasion::default(), Does::Block(Resets::BOTH));
    for port in 4000..4032 {
        let (client, _server) = Raw::shaken(&wire, port);
        client.send(0, b"eight by");
        engine.wait_for("flow_blocked", u64::from(port) - 3999);
    }
    // It has half of the table, and an eighth would be its share now.
    let (client, _server) = Raw::shaken(&wire, 5000);
    client.send(0, b"eight by");
    engine.wait_for("client_flood_dropped", 1);
    let listener = wire.listen();
    let (mut other, _server) = wire.pair(&listener);
    other.write_all(b"eight by").unwrap();
    engine.wait_for("flow_blocked", 33);
    assert_eq!(engine.counter("flow_table_full_passed"), 0);
}

#[test]
fn packets_of_the_client_that_its_server_forges_pass_it_by_or_are_dropped() {
    for action in [EvasionAction::Bypass, BLOCK] {
        let policy = Evasion { two_passes: action, ..Evasion::default() };
        let (wire, engine) = under(policy, Does::Release);
        let (client, server) = Raw::shaken(&wire, 4000);
        let forger = forged(Raw::server(&wire, (RAW_CLIENT, 4000)), &client);
        forger.put(&forger.syn());
        if action == BLOCK {
            engine.wait_for("two_passes_dropped", 1);
        } else {
            engine.wait_for("two_passes_passed", 1);
        }
        client.send(0, b"eight by");
        server.expect("the judged bytes", |a| a.payload == b"eight by");
        assert_eq!(engine.counter("flow_held"), 1);
    }
}

#[test]
fn another_syn_that_the_server_forges_does_not_take_the_place_of_its_clients() {
    let (wire, engine) = under(Evasion::default(), Does::Release);
    let (client, server) = Raw::shaken(&wire, 4000);
    let forger = forged(Raw::server(&wire, (RAW_CLIENT, 4000)), &client);
    let mut syn = forger.syn();
    syn.sequence = syn.sequence.wrapping_add(777);
    forger.put(&syn);
    engine.wait_for("two_passes_passed", 1);
    client.send(0, b"eight by");
    server.expect("the judged bytes", |a| a.payload == b"eight by");
    assert_eq!(engine.counter("flow_held"), 1);
}

#[test]
fn a_first_payload_outside_a_decoys_window_passes_or_is_dropped() {
    for (action, counter) in
        [(EvasionAction::Bypass, "outside_window_passed"), (BLOCK, "outside_window_dropped")]
    {
        let policy = Evasion { decoy: action, ..Evasion::default() };
        let (wire, engine) = under(policy, Does::Release);
        let (mut client, mut server) = Raw::ends(&wire, 4000);
        assert!((0..20).any(|_| {
            client.put(&client.syn());
            server.receive_some(|a| a.flags == SYN).is_some()
        }));
        server.expected = client.first;
        let mut decoy = server.syn();
        (decoy.flags, decoy.acknowledged) = (SYN | ACK, server.expected);
        (decoy.window, decoy.bad_checksum) = (0, true);
        server.put(&decoy);
        client.expect("the decoy", |a| a.window == 0);
        client.expected = server.first;
        client.send_ack();
        client.send(0, b"eight by");
        engine.wait_for(counter, 1);
    }
}

/// What the client has acknowledged stands.
#[test]
fn an_answer_after_the_handshake_is_whole_says_nothing_new() {
    let (wire, engine) = under(Evasion::default(), Does::Release);
    let (client, server) = Raw::shaken(&wire, 4000);
    let mut decoy = server.syn();
    (decoy.flags, decoy.acknowledged) = (SYN | ACK, server.expected);
    (decoy.window, decoy.bad_checksum) = (0, true);
    server.put(&decoy);
    client.expect("the decoy", |a| a.window == 0);
    client.send(0, b"eight by");
    server.expect("the judged bytes", |a| a.payload == b"eight by");
    assert_eq!(engine.counter("flow_held"), 1);
}

#[test]
fn what_policy_would_drop_crosses_without_an_engine() {
    let policy = Evasion { unseen_handshake: BLOCK, ..Evasion::default() };
    let (wire, engine) = under(policy, Does::Release);
    let (client, server) = Raw::ends(&wire, 4000);
    assert!((0..20).any(|_| {
        client.put(&client.syn());
        server.receive_some(|a| a.flags == SYN).is_some()
    }));
    client.send(0, b"unseen");
    engine.wait_for("unseen_dropped", 1);
    drop(engine);
    client.send(0, b"unseen");
    server.expect("the bytes", |a| a.payload == b"unseen");
}
