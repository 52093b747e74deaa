//! Ends of a flow that are none: a FIN or RST that the other end never takes lets nothing past the
//! judgement (SPEC D15), and one that it takes is heard. Here policy lets servers be first, as it does
//! by itself; `server_first.rs` has the rest.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use weir_dataplane::{Attach, Times};
use weir_policy::snapshot::{Evasion, EvasionAction};
use wire::Wire;
use wire::engine::{Does, Engine, against, judge_all};
use wire::raw::{ACK, FIN, RST, Raw, Segment};

/// What a server's end is like that its client does not take: flags, sequence number from the next,
/// and whether its checksum is wrong.
const OF_A_SERVER: [(&str, u8, i64, bool); 5] = [
    ("FIN with a wrong checksum", FIN | ACK, 0, true),
    ("FIN ahead in the window", FIN | ACK, 900, false),
    ("RST with a wrong checksum", RST | ACK, 0, true),
    ("RST ahead in the window", RST | ACK, 900, false),
    ("RST without ACK", RST, 1, false),
];

/// A wire whose flows are judged once so many bytes came.
fn judged(enough: usize, does: Does) -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, enough, does);
    (wire, engine)
}

fn end_of(server: &Raw, (_, flags, at, bad): (&str, u8, i64, bool)) -> Segment<'static> {
    let mut end = server.segment(at, b"");
    (end.flags, end.bad_checksum) = (flags, bad);
    end
}

fn seems_to_end(server: &Raw, client: &Raw, decoy: (&str, u8, i64, bool)) {
    server.put(&end_of(server, decoy));
    client.expect(decoy.0, |a| a.flags == decoy.1);
}

#[test]
fn an_end_of_the_server_that_its_client_does_not_take_ends_no_hold() {
    let (wire, engine) = judged(8, Does::TakeOver);
    for (number, decoy) in (1..).zip(OF_A_SERVER) {
        let (client, server) = Raw::shaken(&wire, 4000 + number);
        client.send(0, b"half");
        engine.wait_for("flow_held", number.into());
        let (name, flags, ..) = decoy;
        if flags & RST != 0 {
            seems_to_end(&server, &client, decoy);
        } else {
            server.put(&end_of(&server, decoy));
        }
        client.send(4, b"rest");
        server.expect(name, |a| !a.payload.is_empty());
        engine.wait_for("flow_taken_over", number.into());
    }
    assert_eq!((engine.counter("held_ended"), engine.counter("server_end_dropped")), (3, 2));
    assert_eq!(engine.counter("flow_released"), 0);
}

#[test]
fn an_end_of_the_server_that_its_client_does_not_take_hinders_no_hold() {
    let (wire, engine) = judged(4, Does::TakeOver);
    for (number, decoy) in (1..).zip(OF_A_SERVER) {
        let (client, server) = Raw::shaken(&wire, 4000 + number);
        seems_to_end(&server, &client, decoy);
        client.send(0, b"judged");
        server.expect(decoy.0, |a| a.payload == b"judged");
        engine.wait_for("flow_taken_over", number.into());
    }
    assert_eq!(engine.counter("server_spoke_first"), 0);
}

/// A client that acknowledged what its server never sent would be answered, and not heard.
#[test]
fn a_client_that_seems_to_have_heard_its_servers_end_is_judged_by_what_the_server_takes() {
    let (wire, engine) = judged(4, Does::TakeOver);
    let (mut client, server) = Raw::shaken(&wire, 4000);
    seems_to_end(&server, &client, OF_A_SERVER[0]);
    client.expected = server.first.wrapping_add(1);
    client.send(0, b"decoy");
    server.expect("the decoy", |a| a.payload == b"decoy");
    client.expected = server.first;
    client.send(0, b"judged");
    server.expect("the judged bytes", |a| a.payload == b"judged");
    engine.wait_for("flow_taken_over", 1);
}

/// Whatever policy has for flows that were not seen whole: this one was.
#[test]
fn a_server_that_ended_without_a_word_hears_its_client() {
    let blocks = Evasion { unseen_handshake: EvasionAction::Block, ..Evasion::default() };
    for (word, policy) in
        [(&b""[..], Evasion::default()), (b"", blocks), (b"and a word", Evasion::default())]
    {
        let (wire, engine) = judged(1, Does::TakeOver);
        engine.dataplane.apply(&against(policy)).unwrap();
        let listener = wire.listen();
        let (mut client, mut server) = wire.pair(&listener);
        server.write_all(word).unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        let mut heard = vec![];
        client.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, word);
        client.write_all(b"a request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut request = vec![];
        server.read_to_end(&mut request).unwrap();
        assert_eq!(request, b"a request");
        assert!(engine.counter("server_spoke_first") >= 1);
        assert_eq!(engine.counter("flow_held"), 0);
    }
}

#[test]
fn what_a_client_says_in_the_place_of_its_end_does_not_pass() {
    for whole in [false, true] {
        let (wire, engine) = judged(1000, Does::Release);
        let (client, server) = Raw::shaken(&wire, 4000);
        let mut end = client.segment(4, b"");
        if whole {
            end = client.segment(0, b"half");
        } else {
            client.send(0, b"half");
            engine.wait_for("flow_held", 1);
        }
        end.flags = FIN | ACK;
        client.put(&end);
        server.expect("what was judged", |a| a.payload == b"half");
        engine.wait_for("flow_released", 1);
        // It never gets the FIN.
        server.acknowledge(0, 4);
        client.expect("the acknowledgement", |a| a.flags == ACK);
        client.send(4, b"rest");
        client.send(0, b"halfrest");
        engine.wait_for("watched_conflicting_dropped", 2);
        server.expect_none("what follows", |a| a.payload.ends_with(b"rest"));
        assert_eq!(engine.counter("release_final"), 0);
        client.put(&end);
        server.expect("the end again", |a| a.flags & FIN != 0);
        server.acknowledge(0, 5);
        engine.wait_for("release_final", 1);
    }
}

/// A wire whose flows' entries rest for half a second only.
fn rested_soon(enough: usize, decoy: EvasionAction) -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| {
        options.times = Times { tombstone: Duration::from_millis(500), ..Times::default() };
    });
    engine.dataplane.apply(&against(Evasion { decoy, ..Evasion::default() })).unwrap();
    judge_all(held, enough, Does::Release);
    (wire, engine)
}

/// Before the bridge carries anything of a blocked flow again its server is told the end so that it takes
/// it: where it stands, which is where it heard its client up to.
fn is_ended(server: &Raw, heard: u32) {
    let next = server.expected.wrapping_add(heard);
    server.expect("an end where the server stands", |a| {
        assert!(a.payload.is_empty(), "{a:?}");
        a.flags & RST != 0 && a.sequence == next
    });
}

#[test]
fn what_a_client_says_after_it_reset_its_flow_does_not_pass() {
    let (wire, engine) = rested_soon(1000, EvasionAction::Bypass);
    for (number, heard) in [(1, 0), (2, 2), (3, 4)] {
        let (client, server) = Raw::shaken(&wire, 4000 + number);
        client.send(0, b"half");
        engine.wait_for("flow_held", number.into());
        let mut reset = client.segment(4, b"");
        reset.flags = RST;
        client.put(&reset);
        server.expect("what was judged", |a| a.payload == b"half");
        server.expect("the reset", |a| a.flags & RST != 0);
        // It does not take it, and perhaps not what came before.
        if heard > 0 {
            server.acknowledge(0, heard);
        }
        client.send(4, b"rest");
        is_ended(&server, heard);
        engine.wait_for("tombstone_removed", number.into());
    }
}

#[test]
fn a_watched_flow_that_is_blocked_ends_where_its_server_stands() {
    let (wire, engine) = rested_soon(4, EvasionAction::Block);
    for (number, heard, before) in [(1, 0, false), (2, 2, true), (3, 3, false)] {
        let (client, server) = Raw::shaken(&wire, 4000 + number);
        client.send(0, b"half");
        server.expect("what was judged", |a| a.payload == b"half");
        engine.wait_for("flow_released", number.into());
        if before {
            server.acknowledge(0, heard);
            client.expect("the acknowledgement", |a| {
                a.flags == ACK && a.acknowledged != client.first
            });
        }
        client.send(0, b"EVIL");
        engine.wait_for("watch_blocked", number.into());
        if !before && heard > 0 {
            server.acknowledge(0, heard);
        }
        is_ended(&server, heard);
        engine.wait_for("tombstone_removed", number.into());
    }
}
