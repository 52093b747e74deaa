//! What a client heard of a server that spoke first, before its own first word or while that was held: its
//! server does not say it again, so the engine's sockets, and a reset, stand behind it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::time::Duration;

use weir_dataplane::{Attach, Times};
use weir_policy::Resets;
use weir_policy::snapshot::Evasion;
use wire::Wire;
use wire::engine::{Does, Engine, against, judge_all};
use wire::raw::{ACK, FIN, RST, Raw};

const GREETING: &[u8] = b"220 ready";
const LENGTH: u32 = GREETING.len() as u32;

/// A wire with an engine that does this with each flow once eight bytes of it came.
fn judged(does: Does) -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| {
        options.times = Times { tombstone: Duration::from_millis(500), ..Times::default() };
    });
    engine.dataplane.apply(&against(Evasion::default())).unwrap();
    judge_all(held, 8, does);
    (wire, engine)
}

/// The server speaks, and its client hears it.
fn greet(client: &Raw, server: &Raw) {
    server.send(0, GREETING);
    client.expect("the greeting", |a| a.payload == GREETING);
}

/// Its client acknowledges so much of what it heard by a packet that crosses.
fn hear(client: &Raw, server: &Raw, bytes: u32) {
    client.acknowledge(0, bytes);
    let heard = client.expected.wrapping_add(bytes);
    server.expect("the acknowledgement", |a| a.acknowledged == heard);
}

/// The client's first word was on its way before it heard its server, and came late.
#[test]
fn a_flow_is_taken_over_behind_what_its_server_knows_to_be_heard() {
    let (wire, engine) = judged(Does::TakeOver);
    for (number, acknowledged, heard) in
        [(1, &[LENGTH][..], LENGTH), (2, &[4, LENGTH, 4], LENGTH), (3, &[], 0), (4, &[4, 5000], 4)]
    {
        let (mut client, server) = Raw::shaken(&wire, 4000 + number);
        greet(&client, &server);
        for bytes in acknowledged {
            hear(&client, &server, *bytes);
        }
        client.send(0, b"judged by");
        let came = server.expect("the judged bytes", |a| a.payload == b"judged by");
        assert_eq!(came.acknowledged, server.first.wrapping_add(heard));
        engine.wait_for("flow_taken_over", number.into());
        server.acknowledge(0, 9);
        // What is left of the greeting comes again, and what follows arrives.
        let rest = [&GREETING[heard as usize..], b"250 welcome"].concat();
        server.send(heard.into(), &rest);
        let mut next = server.first.wrapping_add(heard);
        let end = next.wrapping_add(rest.len() as u32);
        while next != end {
            let came =
                client.expect("what follows", |a| a.sequence == next && !a.payload.is_empty());
            next = next.wrapping_add(came.payload.len() as u32);
            client.expected = next;
            client.send_ack();
        }
        client.send(9, b"and more");
        let came = server.expect("what follows", |a| a.payload == b"and more");
        assert_eq!(came.acknowledged, end);
    }
}

#[test]
fn a_block_resets_a_client_that_heard_its_server() {
    let (wire, engine) = judged(Does::Block(Resets::BOTH));
    for (number, before, meanwhile) in [(1, false, true), (2, true, false), (3, false, false)] {
        let (client, server) = Raw::shaken(&wire, 4000 + number);
        if before {
            greet(&client, &server);
            hear(&client, &server, LENGTH);
        }
        client.send(0, b"half");
        engine.wait_for("packet_held", 1);
        if meanwhile {
            greet(&client, &server);
            client.acknowledge(4, LENGTH);
        }
        client.send(4, b"rest");
        let reset = client.expect("RST", |a| a.flags & RST != 0);
        let heard = if before || meanwhile { LENGTH } else { 0 };
        assert_eq!(reset.sequence, server.first.wrapping_add(heard));
        let reset = server.expect("RST", |a| a.flags & RST != 0);
        assert_eq!(reset.sequence, client.first);
        engine.wait_for("flow_blocked", number.into());
    }
}

/// Of a blocked flow nothing of its client's was forwarded, whatever its server said before.
#[test]
fn a_blocked_flows_server_is_reset_where_it_stands() {
    let (wire, engine) = judged(Does::Block(Resets { client: false, server: false }));
    let (client, server) = Raw::shaken(&wire, 4000);
    greet(&client, &server);
    server.send(9, b"250 welcome");
    client.expect("what follows", |a| a.payload == b"250 welcome");
    client.send(0, b"judged by");
    engine.wait_for("flow_blocked", 1);
    let mut more = server.segment(20, b"");
    (more.flags, more.acknowledged) = (ACK, server.expected.wrapping_add(7));
    server.put(&more);
    engine.wait_for("tombstone_removed", 1);
    let mut resets = vec![];
    while let Some(reset) = server.receive_some(|a| a.flags & RST != 0) {
        resets.push(reset.sequence);
    }
    assert_eq!(resets, [client.first]);
}

/// What it says it heard may be more than its server said: there no end is taken.
#[test]
fn a_reset_stands_where_the_server_stopped_whatever_its_client_acknowledges() {
    let (wire, engine) = judged(Does::Block(Resets::BOTH));
    let (client, server) = Raw::shaken(&wire, 4000);
    client.send(0, b"half");
    engine.wait_for("packet_held", 1);
    greet(&client, &server);
    client.acknowledge(4, LENGTH);
    client.acknowledge(4, 5000);
    client.send(4, b"rest");
    let reset = client.expect("RST", |a| a.flags & RST != 0);
    assert_eq!(reset.sequence, server.first.wrapping_add(LENGTH));
}

/// Its first word was on its way before its server ended, and came late: no socket can stand behind that end.
#[test]
fn a_flow_whose_client_acknowledged_its_servers_end_is_reset_and_not_taken_over() {
    let (wire, engine) = judged(Does::TakeOver);
    let (client, server) = Raw::shaken(&wire, 4000);
    let mut end = server.segment(0, b"");
    end.flags = FIN | ACK;
    server.put(&end);
    client.expect("FIN", |a| a.flags & FIN != 0);
    client.acknowledge(9, 1);
    let heard = client.expected.wrapping_add(1);
    server.expect("the acknowledgement", |a| a.acknowledged == heard);
    client.send(0, b"judged by");
    let reset = client.expect("RST", |a| a.flags & RST != 0);
    assert_eq!(reset.sequence, server.first.wrapping_add(1));
    let reset = server.expect("RST", |a| {
        assert!(a.payload.is_empty(), "{a:?}");
        a.flags & RST != 0
    });
    assert_eq!(reset.sequence, client.first);
    engine.wait_for("take_over_server_ended", 1);
}
