//! Answers to a SYN that its client does not believe, before the one that it does or behind it: none of
//! them ends inspection (SPEC D15). What policy leaves to the bridge crosses where its client does believe it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use weir_dataplane::Attach;
use weir_policy::snapshot::{Evasion, EvasionAction};
use wire::Wire;
use wire::engine::{Does, Engine, against, judge_all};
use wire::raw::{ACK, FIN, RST, Raw, SYN, Segment};

/// An MSS option that is too long for its header, so that no socket could have said it.
const MALFORMED: &[u8] = &[2, 40, 5, 180];
const EARLY: &[u8] = b"early";

/// What of an answer is not as the real one, which has its sequence number from here on.
#[derive(Clone, Copy, Debug)]
struct Strange {
    options: &'static [u8],
    payload: &'static [u8],
    at: i64,
    takes: u32,
    window: Option<u16>,
    /// What seems to follow upon it.
    word: Option<(u8, &'static [u8])>,
}

const USUAL: Strange =
    Strange { options: &[], payload: b"", at: 0, takes: 0, window: None, word: None };

const STRANGE: [Strange; 8] = [
    Strange { payload: b"220 ready", ..USUAL },
    Strange { options: MALFORMED, ..USUAL },
    Strange { takes: EARLY.len() as u32, ..USUAL },
    Strange { at: -1000, ..USUAL },
    Strange { window: Some(0), ..USUAL },
    Strange { at: -1000, word: Some((ACK, b"220 ready")), ..USUAL },
    Strange { at: -1000, word: Some((FIN | ACK, b"")), ..USUAL },
    Strange { at: -1, word: Some((FIN | ACK, b"")), ..USUAL },
];

fn under(evasion: Evasion, does: Does) -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&against(evasion)).unwrap();
    judge_all(held, 6, does);
    (wire, engine)
}

/// Both ends, once the client's SYN crossed.
fn opening(wire: &Wire, port: u16) -> (Raw, Raw) {
    let (mut client, mut server) = Raw::ends(wire, port);
    let early = |client: &Raw| {
        let mut syn = client.syn();
        syn.payload = EARLY;
        client.put(&syn);
    };
    assert!((0..20).any(|_| {
        early(&client);
        server.receive_some(|a| a.flags == SYN).is_some()
    }));
    server.expected = client.first;
    client.expected = server.first;
    (client, server)
}

fn answer<'a>(server: &'a Raw, strange: &Strange) -> Segment<'a> {
    let mut answer = server.syn();
    answer.sequence = answer.sequence.wrapping_add(strange.at as u32);
    (answer.flags, answer.acknowledged) = (SYN | ACK, server.expected.wrapping_add(strange.takes));
    answer.payload = strange.payload;
    if !strange.options.is_empty() {
        answer.options = strange.options;
    }
    if let Some(window) = strange.window {
        answer.window = window;
    }
    answer
}

fn seems_to_answer(client: &Raw, server: &Raw, strange: &Strange) {
    let mut decoy = answer(server, strange);
    decoy.bad_checksum = true;
    server.put(&decoy);
    client.expect("the decoy", |a| a.flags == SYN | ACK);
    if let Some((flags, payload)) = strange.word {
        let mut decoy = server.segment(strange.at, payload);
        (decoy.flags, decoy.bad_checksum) = (flags, true);
        server.put(&decoy);
        client.expect("what follows upon it", |a| a.flags == flags && a.payload == payload);
    }
}

#[test]
fn an_answer_that_the_client_does_not_believe_ends_no_inspection() {
    let (wire, engine) = under(Evasion::default(), Does::TakeOver);
    let mut port = 4000;
    for strange in &STRANGE {
        for (before, behind) in [(true, false), (false, true), (true, true)] {
            port += 1;
            let (client, server) = opening(&wire, port);
            if before {
                seems_to_answer(&client, &server, strange);
            }
            server.put(&answer(&server, &USUAL));
            client.expect("the answer", |a| a.flags == SYN | ACK);
            if behind {
                seems_to_answer(&client, &server, strange);
            }
            client.send_ack();
            server.expect("the client's ACK", |a| a.flags == ACK);
            client.send(0, b"judged");
            server.expect(&format!("{strange:?}"), |a| a.payload == b"judged");
            engine.wait_for("flow_taken_over", u64::from(port) - 4000);
        }
    }
    assert_eq!(engine.counter("flow_held"), u64::from(port) - 4000);
}

/// Nor where its client's acknowledgement comes with its first word only.
#[test]
fn a_first_word_says_which_answer_its_client_believes() {
    let (wire, engine) = under(Evasion::default(), Does::TakeOver);
    let (client, server) = opening(&wire, 4000);
    server.put(&answer(&server, &USUAL));
    client.expect("the answer", |a| a.flags == SYN | ACK);
    seems_to_answer(&client, &server, &STRANGE[5]);
    client.send(0, b"judged");
    server.expect("the judged bytes", |a| a.payload == b"judged");
    engine.wait_for("flow_taken_over", 1);
}

/// A client that has its server answer twice, by a reset between, and seems to believe the one that is void.
#[test]
fn an_acknowledgement_that_no_server_takes_does_not_say_which_answer_counts() {
    let blocks = Evasion { server_speaks_first: EvasionAction::Block, ..Evasion::default() };
    for (evasion, acknowledged_before, mut port) in [
        (Evasion::default(), false, 4000),
        (Evasion::default(), true, 4000),
        (blocks, false, 4000),
        (blocks, true, 4000),
    ] {
        let (wire, engine) = under(evasion, Does::TakeOver);
        // Linux counts sequence numbers of new connections by 64 ns: from 2 seconds back to now.
        for apart in [1, 1000, 70_000, 32_000_000, i64::from(u32::MAX)] {
            port += 1;
            let (client, server) = opening(&wire, port);
            let void = Strange { at: apart, ..USUAL };
            let reset = |at| {
                let mut reset = client.segment(at, b"");
                (reset.flags, reset.acknowledged) = (RST, 0);
                client.put(&reset);
                server.expect("the reset", |a| a.flags == RST);
            };
            let seems_to_acknowledge = || {
                let mut decoy = client.segment(0, b"");
                decoy.flags = ACK;
                decoy.acknowledged = decoy.acknowledged.wrapping_add(apart as u32);
                decoy.bad_checksum = true;
                client.put(&decoy);
                server.expect("the decoy", |a| a.flags == ACK);
            };
            server.put(&answer(&server, &void));
            client.expect("the first answer", |a| a.flags == SYN | ACK);
            if acknowledged_before {
                seems_to_acknowledge();
            }
            // One behind the first byte leaves no mark; its server takes it all the same.
            reset(i64::from(acknowledged_before));
            let mut syn = client.syn();
            syn.payload = EARLY;
            client.put(&syn);
            server.expect("the SYN again", |a| a.flags == SYN);
            server.put(&answer(&server, &USUAL));
            client.expect("the second answer", |a| a.flags == SYN | ACK);
            if !acknowledged_before {
                seems_to_acknowledge();
            }
            client.send_ack();
            server.expect("the client's ACK", |a| a.flags == ACK);
            // A server would leave the first byte out, and take the rest.
            client.send(-1, b"xjudged");
            server.expect_none("what begins before the first byte", |a| a.payload == b"xjudged");
            client.send(0, b"judged");
            server.expect(&format!("{apart}: the judged bytes"), |a| a.payload == b"judged");
            engine.wait_for("flow_taken_over", u64::from(port) - 4000);
        }
        assert_eq!(engine.counter("flow_held"), u64::from(port) - 4000);
        assert_eq!(engine.counter("unseen_passed"), 0);
    }
}

/// Whatever policy has for handshakes that were not seen: this one was.
#[test]
fn an_answer_that_policy_leaves_to_the_bridge_crosses_and_what_follows() {
    let policy = Evasion { unseen_handshake: EvasionAction::Block, ..Evasion::default() };
    let (wire, engine) = under(policy, Does::TakeOver);
    let counters = ["server_spoke_first", "syn_options_passed", "syn_payload_passed"];
    for (number, (strange, counter)) in (1..).zip(STRANGE.iter().zip(counters)) {
        let (client, server) = opening(&wire, 4000 + number);
        for _ in 0..2 {
            server.put(&answer(&server, strange));
            client.expect("the answer", |a| a.flags == SYN | ACK);
        }
        let heard = strange.payload.len() as u32;
        client.acknowledge(strange.takes.into(), heard);
        server.expect("the client's ACK", |a| a.flags == ACK);
        let mut said = client.segment(strange.takes.into(), b"and back");
        said.acknowledged = said.acknowledged.wrapping_add(heard);
        client.put(&said);
        server.expect("what its client says", |a| a.payload == b"and back");
        server.send(heard.into(), b"and more");
        client.expect("what its server says", |a| a.payload == b"and more");
        assert!(engine.counter(counter) >= 1, "{counter}");
    }
    assert_eq!(engine.counter("flow_held"), 0);
    assert_eq!(engine.counter("server_spoke_first"), 1);
    assert_eq!(engine.counter("syn_payload_passed"), 1);
}
