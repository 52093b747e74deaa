//! Entries that go by time: finished flows, and watches of released ones.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::time::Duration;

use weir_dataplane::{Attach, Times};
use weir_policy::Resets;
use weir_policy::snapshot::{Evasion, EvasionAction, Layer2Fallback};
use wire::Wire;
use wire::engine::{Does, Engine, judge_all, snapshot};
use wire::raw::{ACK, FIN, RAW_CLIENT, RAW_SERVER, RST, Raw};

const SHORT: Duration = Duration::from_secs(1);

/// Where finished flows and watches go after a second.
fn with(evasion: Evasion, does: Does) -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| {
        options.times = Times { tombstone: SHORT, watched: SHORT, ..Times::default() };
    });
    let mut snapshot = snapshot(Layer2Fallback::PermitAll);
    snapshot.device.evasion = evasion;
    engine.dataplane.apply(&snapshot).unwrap();
    judge_all(held, 4, does);
    (wire, engine)
}

fn says(wire: &Wire, payload: &[u8]) -> (Raw, Raw) {
    let mut client = Raw::client(wire, 4000, RAW_SERVER);
    let mut server = Raw::server(wire, (RAW_CLIENT, 4000));
    Raw::shake(&mut client, &mut server);
    client.send(0, payload);
    (client, server)
}

#[test]
fn the_entry_of_a_taken_flow_goes_some_time_after_its_last_packet() {
    let (wire, engine) = with(Evasion::default(), Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"taken").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(engine.counter("tombstone_removed"), 0);
    drop((client, server));
    engine.wait_for("tombstone_removed", 1);
}

#[test]
fn the_server_of_a_blocked_flow_is_reset_when_its_entry_goes() {
    let (wire, engine) = with(Evasion::default(), Does::Block(Resets::NONE));
    let (_client, server) = says(&wire, b"evil");
    engine.wait_for("flow_blocked", 1);
    server.expect("RST", |a| {
        assert!(a.payload.is_empty(), "a blocked flow's bytes passed");
        a.flags & RST != 0
    });
    engine.wait_for("tombstone_removed", 1);
}

#[test]
fn a_watch_ends_by_time_and_policy_says_what_becomes_of_the_flow() {
    for action in [EvasionAction::Bypass, EvasionAction::Block] {
        let policy = Evasion { decoy: action, ..Evasion::default() };
        let (wire, engine) = with(policy, Does::Release);
        let (client, server) = says(&wire, b"good");
        // Its server acknowledges nothing.
        server.expect("the judged bytes", |a| a.payload == b"good");
        if action == EvasionAction::Block {
            engine.wait_for("watch_blocked", 1);
            client.send(0, b"EVIL");
            server.expect_none("a blocked flow's bytes passed", |a| !a.payload.is_empty());
        } else {
            engine.wait_for("watch_given_up", 1);
            client.send(0, b"EVIL");
            server.expect("the bytes", |a| a.payload == b"EVIL");
        }
        assert_eq!(engine.counter("watched_conflicting_dropped"), 0);
    }
}

#[test]
fn a_client_that_ended_says_no_more_where_its_server_does_not_take_the_end() {
    let (wire, engine) = with(Evasion::default(), Does::Release);
    let (client, server) = Raw::shaken(&wire, 4000);
    let mut end = client.segment(0, b"half");
    end.flags = FIN | ACK;
    client.put(&end);
    server.expect("the judged bytes", |a| a.payload == b"half");
    server.acknowledge(0, 4);
    engine.wait_for("watch_blocked", 1);
    client.send(4, b"rest");
    let next = server.expected.wrapping_add(4);
    server.expect("an end where the server stands", |a| {
        assert!(!a.payload.ends_with(b"rest"), "a blocked flow's bytes passed");
        a.flags & RST != 0 && a.sequence == next
    });
    assert_eq!(engine.counter("watch_given_up"), 0);
}
