//! A release is final only when the server acknowledged exactly what was judged (SPEC D15): until
//! then nothing else gets through in its place, however it is dressed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::sync::Arc;

use weir_dataplane::{Attach, FlowCounts, HistogramReport};
use weir_policy::Resets;
use weir_policy::snapshot::{EvasionAction, Layer2Fallback};
use wire::Wire;
use wire::engine::{Does, Engine, flows_of, judge_all, snapshot};
use wire::raw::{ACK, FIN, PUSH, RAW_CLIENT, RAW_SERVER, RST, Raw, SYN};

const JUDGED: &[u8] = b"judged bytes";

/// A flow between two raw ends, released by its first bytes, which reached the server.
struct Released {
    wire: Wire,
    engine: Engine,
    client: Raw,
    server: Raw,
}

fn released() -> Released {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, JUDGED.len(), Does::Release);
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    Raw::shake(&mut client, &mut server);
    client.send(0, JUDGED);
    server.expect("what was judged", |a| a.payload == JUDGED);
    Released { wire, engine, client, server }
}

#[test]
fn other_bytes_do_not_replace_the_judged_ones() {
    let Released { wire: _wire, engine, client, server } = released();
    let other = |a: &wire::raw::Arrived| a.payload.windows(4).any(|four| four == b"EVIL");
    let mut sent = 0;
    for (at, payload) in [
        (0, &b"EVIL"[..]),
        (0, b"EVIL bytes..more"),
        (-1, b"xEVIL"),
        (8, b"EVIL and what comes after"),
        (JUDGED.len() as i64 - 1, b"EVIL"),
    ] {
        client.send(at, payload);
        sent += 1;
        server.expect_none("other bytes passed", other);
        let before_the_first = engine.counter("another_connection_dropped");
        assert_eq!(before_the_first, u64::from(sent >= 3));
        assert_eq!(engine.counter("watched_conflicting_dropped") + before_the_first, sent);
    }
    let mut segment = client.segment(0, b"EVIL");
    segment.flags = ACK | PUSH | FIN;
    client.put(&segment);
    segment.flags = RST | ACK;
    client.put(&segment);
    server.expect_none("other bytes passed with FIN or RST", other);
    assert_eq!(engine.counter("release_final"), 0);
}

#[test]
fn what_becomes_of_a_flow_is_counted_where_its_judge_said_as_well() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let flows = flows_of(held);
    let counts = Arc::new(FlowCounts::default());
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    Raw::shake(&mut client, &mut server);
    client.send(0, JUDGED);
    let flow = flows.recv().unwrap();
    flow.count_for(Arc::clone(&counts));
    flow.release().unwrap();
    server.expect("what was judged", |a| a.payload == JUDGED);
    client.send(0, b"EVIL");
    engine.wait_for("watched_conflicting_dropped", 1);
    let report = counts.read();
    let expected = [("flow_released", 1), ("watched_conflicting_dropped", 1)];
    assert_eq!(report.counters, expected);
    assert_eq!(report.hold_time.buckets.iter().sum::<u64>(), 1);
    assert_eq!(report.take_over_time, HistogramReport::default());
}

#[test]
fn the_judged_bytes_pass_again_and_what_follows_them_passes_at_once() {
    let Released { wire: _wire, engine, client, server } = released();
    client.send(0, JUDGED);
    server.expect("the same bytes again", |a| a.payload == JUDGED);
    client.send(4, &[&JUDGED[4..], b" and more"].concat());
    server.expect("the same bytes and more", |a| a.payload.ends_with(b" and more"));
    let before = engine.counter("packet_repeated");
    client.send(JUDGED.len() as i64, b"what follows");
    server.expect("what follows", |a| a.payload == b"what follows");
    assert_eq!(engine.counter("packet_repeated"), before);
    assert_eq!(engine.counter("watched_repeated_forwarded"), 2);
}

#[test]
fn an_exact_acknowledgement_makes_the_release_final() {
    let Released { wire: _wire, engine, client, server } = released();
    server.acknowledge(0, JUDGED.len() as u32);
    client.expect("the acknowledgement", |a| a.flags == ACK);
    engine.wait_for("release_final", 1);
    // The server drops it now, and so the flow costs nothing any more.
    client.send(0, b"whatever");
    server.expect("a packet that nobody looks at", |a| a.payload == b"whatever");
    assert_eq!(engine.counter("packet_repeated"), 0);
}

#[test]
fn a_later_acknowledgement_makes_the_release_final_too() {
    let Released { wire: _wire, engine, client, server } = released();
    client.send(JUDGED.len() as i64, b"what follows");
    server.acknowledge(0, JUDGED.len() as u32 + 12);
    engine.wait_for("release_final", 1);
}

#[test]
fn a_server_that_acknowledges_less_leaves_the_flow_watched() {
    let Released { wire: _wire, engine, client, server } = released();
    for less in [0, 1, JUDGED.len() as u32 - 1, 0u32.wrapping_sub(50)] {
        server.acknowledge(0, less);
        client.expect("the acknowledgement", |a| a.flags == ACK);
    }
    let mut reset = server.segment(0, &[]);
    reset.flags = RST | ACK;
    reset.acknowledged = server.expected.wrapping_add(5000);
    server.put(&reset);
    client.expect("RST", |a| a.flags & RST != 0);
    client.send(JUDGED.len() as i64 - 1, b"X");
    server.expect_none("another last byte passed", |a| a.payload == b"X");
    assert_eq!(engine.counter("release_final"), 0);
    assert_eq!(engine.counter("watched_conflicting_dropped"), 1);
}

#[test]
fn a_syn_does_not_end_the_watch_unless_the_server_answers_it() {
    let Released { wire: _wire, engine, mut client, mut server } = released();
    let mut syn = client.syn();
    syn.sequence = client.first.wrapping_add(9000);
    // Sent again, as any SYN: the release may still be on its way.
    assert!((0..10).any(|_| {
        client.put(&syn);
        server.receive_some(|a| a.flags == SYN).is_some()
    }));
    client.send(0, b"EVIL");
    server.expect_none("other bytes passed after a SYN", |a| a.payload == b"EVIL");
    assert_eq!(engine.counter("watched_conflicting_dropped"), 1);

    // The server answers: it is a new connection, held and judged like any.
    client.first = syn.sequence.wrapping_add(1);
    server.first = server.first.wrapping_add(70_000);
    Raw::shake(&mut client, &mut server);
    client.send(0, b"the next hello");
    server.expect("the next flow's bytes", |a| a.payload == b"the next hello");
    assert_eq!(engine.counter("tombstone_replaced"), 1);
    assert_eq!(engine.counter("flow_held"), 2);
}

#[test]
fn a_blocked_flow_is_not_opened_by_a_syn_that_the_server_ignores() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1, Does::Block(Resets::NONE));
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    Raw::shake(&mut client, &mut server);
    client.send(0, b"EVIL");
    engine.wait_for("flow_blocked", 1);
    for options in [wire::raw::PLAIN_OPTIONS.to_vec(), [&[19, 18][..], &[7; 18]].concat()] {
        let mut syn = client.syn();
        syn.sequence = client.first.wrapping_add(9000);
        syn.options = &options;
        client.put(&syn);
        client.send(0, b"EVIL");
        server.expect_none("a blocked flow's bytes passed", |a| a.payload == b"EVIL");
    }
    assert_eq!(engine.counter("tombstone_replaced"), 0);
}

/// Nor by one that never reached it, whatever its server says.
#[test]
fn a_blocked_flow_is_not_opened_by_the_answer_to_a_syn_that_policy_drops() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let mut policy = snapshot(Layer2Fallback::PermitAll);
    policy.device.evasion.syn_data = EvasionAction::Block;
    engine.dataplane.apply(&policy).unwrap();
    judge_all(held, 1, Does::Block(Resets::NONE));
    let (client, mut server) = Raw::shaken(&wire, 4000);
    client.send(0, b"EVIL");
    engine.wait_for("flow_blocked", 1);
    let mut syn = client.syn();
    syn.sequence = client.first.wrapping_add(9000);
    syn.payload = b"data";
    client.put(&syn);
    engine.wait_for("syn_payload_dropped", 1);
    server.expected = syn.sequence.wrapping_add(1);
    let mut answer = server.syn();
    (answer.flags, answer.acknowledged) = (SYN | ACK, server.expected);
    server.put(&answer);
    client.expect_none("a blocked flow's packet passed", |a| a.flags & SYN != 0);
    client.send(0, b"EVIL");
    server.expect_none("a blocked flow's bytes passed", |a| a.payload == b"EVIL");
    assert_eq!(engine.counter("tombstone_replaced"), 0);
}

#[test]
fn bytes_without_an_acknowledgement_do_not_replace_the_judged_ones() {
    let Released { wire: _wire, engine, client, server } = released();
    let mut segment = client.segment(0, b"EVIL");
    segment.flags = PUSH;
    client.put(&segment);
    engine.wait_for("held_no_acknowledgement_dropped", 1);
    server.expect_none("other bytes passed", |a| a.payload == b"EVIL");
}

/// Its packets are on their way to the engine when it is released: none of them is lost.
#[test]
fn held_packets_that_arrive_after_the_release_are_forwarded() {
    const PACKETS: u8 = 100;
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let flows = flows_of(held);
    for port in 4000..4200 {
        let (client, server) = Raw::shaken(&wire, port);
        client.send(0, &[0; 10]);
        let flow = flows.recv().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..PACKETS {
                    client.send(i64::from(number) * 10, &[number; 10]);
                }
            });
            // While they are on their way.
            std::thread::yield_now();
            flow.release().unwrap();
        });
        let mut missing: Vec<u8> = (0..PACKETS).collect();
        while !missing.is_empty() {
            let came = server.expect("the rest", |a| !a.payload.is_empty());
            let at = came.sequence.wrapping_sub(client.first) as usize;
            // One of many packets put together, or some.
            for (offset, byte) in came.payload.iter().enumerate() {
                assert_eq!(usize::from(*byte), (at + offset) / 10, "another byte at {at}");
            }
            missing.retain(|number| !came.payload.contains(number));
        }
        if engine.counter("packet_forwarded_after_release") > 0 {
            return;
        }
    }
    panic!("none was on its way at its flow's release");
}

#[test]
fn a_decoy_that_never_arrives_lets_nothing_else_through() {
    // The hello that was judged expires on its way: the server never acknowledges it.
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, JUDGED.len(), Does::Release);
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    Raw::shake(&mut client, &mut server);
    let mut decoy = client.segment(0, JUDGED);
    decoy.ttl = 60;
    client.put(&decoy);
    engine.wait_for("flow_released", 1);
    client.send(0, b"EVIL bytes..");
    server.expect_none("the decoy opened the way", |a| a.payload.starts_with(b"EVIL"));
    assert_eq!(engine.counter("watched_conflicting_dropped"), 1);
}
