//! Handshakes that a client makes void, so that another one of the same ends goes unwatched: none does, and
//! what is said after it is judged (SPEC D15).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use weir_dataplane::Attach;
use weir_policy::snapshot::Evasion;
use wire::Wire;
use wire::engine::{Does, Engine, against, judge_all};
use wire::raw::{ACK, Arrived, FIN, RST, Raw, SYN};

/// Nothing is blocked that policy may let pass.
fn under(does: Does) -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&against(Evasion::default())).unwrap();
    judge_all(held, 6, does);
    (wire, engine)
}

fn asks(client: &Raw, server: &Raw) {
    // The wire may not be there yet for the first one.
    assert!((0..20).any(|_| {
        client.put(&client.syn());
        let asked = |a: &Arrived| a.flags == SYN && a.sequence == client.first.wrapping_sub(1);
        server.receive_some(asked).is_some()
    }));
}

fn answers(client: &Raw, server: &Raw) {
    let mut answer = server.syn();
    (answer.flags, answer.acknowledged) = (SYN | ACK, client.first);
    server.put(&answer);
}

fn answered(client: &mut Raw, server: &mut Raw) {
    answers(client, server);
    client.expect("the answer", |a| {
        a.flags == SYN | ACK && a.sequence == server.first.wrapping_sub(1)
    });
    client.expected = server.first;
    server.expected = client.first;
    client.send_ack();
    server.expect("the client's ACK", |a| a.flags == ACK);
}

fn reset(client: &Raw, server: &Raw, at: i64) {
    let mut reset = client.segment(at, b"");
    (reset.flags, reset.acknowledged) = (RST, 0);
    client.put(&reset);
    server.expect("the reset", |a| a.flags == RST);
}

#[test]
fn an_answer_to_a_syn_that_a_later_one_hides_does_not_cross() {
    for released in [false, true] {
        let (wire, engine) = under(Does::Release);
        let (mut client, mut server) = Raw::ends(&wire, 4000);
        Raw::shake(&mut client, &mut server);
        reset(&client, &server, 1);
        if released {
            client.send(0, b"judged");
            server.expect("the judged bytes", |a| a.payload == b"judged");
            engine.wait_for("flow_released", 1);
        }
        client.first = client.first.wrapping_sub(1 << 30);
        server.first = server.first.wrapping_add(70_000);
        asks(&client, &server);
        let mut later = client.syn();
        later.sequence = later.sequence.wrapping_add(5000);
        client.put(&later);
        server.expect("the later SYN", |a| a.flags == SYN);
        answers(&client, &server);
        client.expect_none("an answer that nobody watches", |a| a.flags == SYN | ACK);
        assert_eq!(engine.counter("contested_dropped"), 1);
        // An honest client sends its SYN again.
        asks(&client, &server);
        answered(&mut client, &mut server);
        client.send(0, b"judged");
        server.expect("the judged bytes", |a| a.payload == b"judged");
        engine.wait_for("flow_held", 1 + u64::from(released));
    }
}

#[test]
fn a_syn_with_data_that_no_server_takes_makes_no_answer_one_that_took_it() {
    let (wire, engine) = under(Does::TakeOver);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    asks(&client, &server);
    let mut decoy = client.syn();
    (decoy.payload, decoy.bad_checksum) = (b"early", true);
    decoy.sequence = decoy.sequence.wrapping_sub(5);
    client.put(&decoy);
    server.expect("the decoy", |a| a.flags == SYN && a.payload == b"early");
    answered(&mut client, &mut server);
    client.send(0, b"judged");
    server.expect_none("what nobody judged", |a| a.payload == b"judged");
    assert_eq!(engine.counter("contested_dropped"), 1);
    assert_eq!(engine.counter("syn_payload_passed"), 0);
}

#[test]
fn what_a_server_said_in_a_connection_before_says_nothing_of_the_next_one() {
    let (wire, engine) = under(Does::TakeOver);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    Raw::shake(&mut client, &mut server);
    server.send(0, b"220 ready");
    client.expect("the first word", |a| a.payload == b"220 ready");
    reset(&client, &server, 0);
    server.first = server.first.wrapping_add(1000);
    asks(&client, &server);
    answered(&mut client, &mut server);
    client.send(0, b"judged");
    server.expect("the judged bytes", |a| a.payload == b"judged");
    engine.wait_for("flow_taken_over", 1);
}

/// A server that knows connections by SYN cookies alone takes a client's acknowledgement for a connection that
/// begins where that stands, give or take three of either number.
#[test]
fn a_connection_that_only_syn_cookies_know_is_judged_from_its_first_byte() {
    let (wire, engine) = under(Does::TakeOver);
    let mut held = 0;
    for (number, next_to) in (0..).zip([1i64, 2, 3, -1]) {
        let (mut client, mut server) = Raw::ends(&wire, 4000 + number);
        asks(&client, &server);
        answered(&mut client, &mut server);
        client.expected = client.expected.wrapping_add(next_to as u32);
        client.send(0, b"judged");
        server.expect("the judged bytes", |a| a.payload == b"judged");
        held += 1;
        engine.wait_for("flow_taken_over", held);
    }
    let (mut client, mut server) = Raw::ends(&wire, 4010);
    asks(&client, &server);
    answered(&mut client, &mut server);
    client.send(-1, b"\x16");
    server.expect_none("a first byte before the first", |a| a.payload == b"\x16");
    client.send(-1, b"\0");
    server.expect("a keep-alive", |a| a.payload == b"\0");
    let mut beyond = client.segment(3, b"");
    beyond.flags = ACK;
    client.put(&beyond);
    server.expect_none("a beginning behind the first byte", |a| a.sequence == beyond.sequence);
    client.send(0, b"judged");
    server.expect("the judged bytes", |a| a.payload == b"judged");
    engine.wait_for("flow_taken_over", held + 1);
}

/// Nor wherever else in both sequences: such a server takes an acknowledgement that is as far from its answer's
/// number as it is from its client's SYN.
#[test]
fn what_such_a_connection_says_before_the_first_byte_or_right_behind_it_does_not_pass() {
    let (wire, engine) = under(Does::Release);
    let (client, server) = Raw::shaken(&wire, 4000);
    for at in [-1000i64, -2] {
        let mut other = client.segment(at, b"\x16\x03\x01 unjudged");
        other.payload = &other.payload[..at.unsigned_abs().min(12) as usize];
        other.acknowledged = other.acknowledged.wrapping_add(at as u32);
        client.put(&other);
        server.expect_none("what begins before the first byte", |a| !a.payload.is_empty());
    }
    client.send(0, b"xxx");
    engine.wait_for("flow_held", 1);
    client.send(3, b"\x16\x03\x01");
    server.expect("what was judged", |a| a.payload == b"xxx");
    server.expect_none("a hello behind the first byte", |a| !a.payload.is_empty());
    assert_eq!(engine.counter("client_invalid_dropped"), 3);
}

#[test]
fn nothing_of_another_connection_passes_beside_a_released_one() {
    const JUDGED: &[u8] = b"xxx\x16\x03\x01\x02";
    let (wire, engine) = under(Does::Release);
    let (client, server) = Raw::shaken(&wire, 4000);
    client.send(0, JUDGED);
    server.expect("the judged bytes", |a| a.payload == JUDGED);
    engine.wait_for("flow_released", 1);
    // Where it begins, what it acknowledges, each from the first byte on, and what it says.
    let others: [(i64, i64, &[u8]); 11] = [
        (1000, 1000, b"unjudged"),
        (1000, 1000, b""),
        (7, 7, b"unjudged"),
        (1000, 997, b"unjudged"),
        (1000, 1_000_000, b"unjudged"),
        (-500, -500, b"unjudged"),
        (-3, -3, b"\x16\x03\x01xxx"),
        (-1, 0, b"\x16"),
        (70_000, 0, b"unjudged"),
        (3, 0, &JUDGED[3..]),
        (3, 3, b""),
    ];
    for (number, (at, heard, payload)) in (1..).zip(others) {
        let mut other = client.segment(at, payload);
        other.flags = ACK;
        other.acknowledged = other.acknowledged.wrapping_add(heard as u32);
        client.put(&other);
        server.expect_none(&format!("{at} {heard} {payload:?}"), |_| true);
        engine.wait_for("another_connection_dropped", number);
    }
    // What its client goes on with passes, and what it acknowledges of its server, which has not heard it.
    client.send(7, b"and more");
    server.expect("what follows", |a| a.payload == b"and more");
    server.send(0, b"220 ready");
    client.expect("a word of the server", |a| a.payload == b"220 ready");
    client.acknowledge(15, 9);
    let heard = client.expected.wrapping_add(9);
    server.expect("the acknowledgement", |a| a.acknowledged == heard);
    server.acknowledge(9, 7);
    engine.wait_for("release_final", 1);
    assert_eq!(engine.counter("another_connection_dropped"), others.len() as u64);
}

/// A connection that ended, or was reset, without a word, beside which such a server takes another one.
#[test]
fn a_connection_that_only_syn_cookies_know_is_judged_after_an_end_of_its_server() {
    const HELLO: &[u8] = b"\x16\x03\x01 judged";
    let (wire, engine) = under(Does::Release);
    let (client, server) = ended(&wire, 4000);
    let heard = client.expected.wrapping_add(1);
    // What it says as an honest end: that it heard that, and then that it ends, too.
    client.acknowledge(0, 1);
    server.expect("the acknowledgement", |a| a.acknowledged == heard);
    client.acknowledge(1, 1);
    server.expect("that of an end of both", |a| a.acknowledged == heard);
    // Where no end stands that said nothing.
    client.acknowledge(2, 1);
    client.acknowledge(1000, 1000);
    let mut behind = client.segment(0, b"x\x16\x03\x01");
    behind.acknowledged = heard;
    client.put(&behind);
    for at in 1..=4 {
        let mut other = client.segment(at, HELLO);
        other.acknowledged = heard;
        client.put(&other);
    }
    // What its version may follow upon.
    for (at, start) in [(0, &b"x\x16"[..]), (1, b"\x16"), (0, b"x\x16\x03")] {
        let mut other = client.segment(at, start);
        other.acknowledged = heard;
        client.put(&other);
    }
    server.expect_none("another connection", |a| a.flags & RST == 0);
    assert_eq!(engine.counter("client_invalid_dropped"), 10);
    assert_eq!(engine.counter("flow_held"), 0);
    let mut hello = client.segment(0, HELLO);
    hello.acknowledged = heard;
    client.put(&hello);
    server.expect("the judged bytes", |a| a.payload == HELLO);
    engine.wait_for("flow_released", 1);
    assert_eq!(engine.counter("flow_held"), 1);
    assert_eq!(engine.counter("server_spoke_first"), 0);
}

#[test]
fn an_honest_client_that_heard_its_servers_end_is_reset_where_it_says_hello() {
    let (wire, engine) = under(Does::TakeOver);
    let (client, server) = ended(&wire, 4000);
    let mut hello = client.segment(0, b"\x16\x03\x01 judged");
    hello.acknowledged = client.expected.wrapping_add(1);
    client.put(&hello);
    client.expect("a reset", |a| a.flags & RST != 0);
    server.expect("a reset", |a| a.flags & RST != 0);
    engine.wait_for("take_over_server_ended", 1);
}

/// What is no hello no TLS begins with.
#[test]
fn what_else_a_client_says_after_its_servers_end_crosses() {
    let (wire, engine) = under(Does::TakeOver);
    let (client, server) = ended(&wire, 4000);
    for (at, word) in [
        (0, &b"a"[..]),
        (1, b"word"),
        (5, b"and another"),
        // Binary data have the byte of a handshake's record, too, but not with its version behind it.
        (0, b"a\x16ord"),
        (1, b"\x16\x02rd"),
    ] {
        let mut segment = client.segment(at, word);
        segment.acknowledged = client.expected.wrapping_add(1);
        client.put(&segment);
        server.expect("the client's word", |a| a.payload == word);
    }
    assert_eq!(engine.counter("flow_held"), 0);
}

/// Of a connection that began one byte on its server would leave that byte out.
#[test]
fn a_hello_behind_one_judged_byte_does_not_pass_after_an_end() {
    for does in [Does::Release, Does::Hold] {
        let wire = Wire::new();
        let (engine, held) = wire.engine(Attach::Auto);
        engine.dataplane.apply(&against(Evasion::default())).unwrap();
        judge_all(held, 1, does);
        let (client, server) = ended(&wire, 4000);
        client.acknowledge(1, 1);
        client.send(0, b"x");
        engine.wait_for("flow_held", 1);
        let released = matches!(does, Does::Release);
        if released {
            server.expect("the judged byte", |a| a.payload == b"x");
        }
        client.send(0, b"x\x16\x03\x01");
        let name = if released { "another_connection_dropped" } else { "client_invalid_dropped" };
        engine.wait_for(name, 1);
        server.expect_none("a hello behind it", |a| a.payload.len() > 1);
        if released {
            client.send(0, b"x and more");
            server.expect("what follows", |a| a.payload == b"x and more");
        }
    }
}

fn ended(wire: &Wire, port: u16) -> (Raw, Raw) {
    let (client, server) = Raw::shaken(wire, port);
    let mut end = server.segment(0, b"");
    end.flags = FIN | ACK;
    server.put(&end);
    client.expect("the end", |a| a.flags & FIN != 0);
    (client, server)
}

#[test]
fn a_connection_that_only_syn_cookies_know_is_judged_after_a_reset_or_an_end_of_its_client() {
    let (wire, engine) = under(Does::TakeOver);
    for (number, is_reset) in [(1, true), (2, false)] {
        let (mut client, server) = Raw::shaken(&wire, 4000 + number);
        if is_reset {
            reset(&client, &server, 0);
        } else {
            let mut end = client.segment(0, b"");
            end.flags = FIN | ACK;
            client.put(&end);
            server.expect("the end", |a| a.flags & FIN != 0);
            server.acknowledge(0, 1);
            let heard = server.expected.wrapping_add(1);
            client.expect("that it was heard", |a| a.acknowledged == heard);
        }
        client.acknowledge(3, 3);
        server.expect_none("a beginning behind the first byte", |_| true);
        client.expected = client.expected.wrapping_add(2);
        client.send(0, b"judged");
        server.expect("the judged bytes", |a| a.payload == b"judged");
        engine.wait_for("flow_taken_over", number.into());
    }
    assert_eq!(engine.counter("unseen_passed"), 0);
}
