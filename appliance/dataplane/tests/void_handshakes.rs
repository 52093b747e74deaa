//! Handshakes that a client makes void, so that another one of the same ends goes unwatched: none does, and
//! what is said after it is judged (SPEC D15).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use weir_dataplane::Attach;
use weir_policy::snapshot::Evasion;
use wire::Wire;
use wire::engine::{Does, Engine, against, judge_all};
use wire::raw::{ACK, Arrived, RST, Raw, SYN};

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
