//! Ways in which an end could provoke a bypass, and what policy does about each (SPEC D12, D15).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};

use weir_dataplane::{Attach, TableSizes};
use weir_policy::snapshot::{Evasion, EvasionAction};
use wire::Wire;
use wire::engine::{Does, Engine, against, judge_all};
use wire::raw::{ACK, PLAIN_OPTIONS, PUSH, RAW_SERVER, RST, Raw, SYN};

const BLOCK: EvasionAction = EvasionAction::Block;
const KERNEL: [u8; 4] = [10, 77, 0, 2];

/// A wire with an engine that does this with each flow, under this policy.
fn under(evasion: Evasion, does: Does) -> (Wire, Engine) {
    with(TableSizes::default(), evasion, does)
}

fn with(tables: TableSizes, evasion: Evasion, does: Does) -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| options.tables = tables);
    engine.dataplane.apply(&against(evasion)).unwrap();
    judge_all(held, 4, does);
    (wire, engine)
}

#[test]
fn data_in_a_syn_is_judged_unless_the_server_takes_it() {
    let (wire, engine) = under(Evasion::default(), Does::Release);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    let mut syn = client.syn();
    syn.payload = b"early";
    client.put(&syn);
    // A server without Fast Open acknowledges the SYN alone.
    Raw::shake(&mut client, &mut server);
    client.send(0, b"early");
    server.expect("the judged bytes", |a| a.payload == b"early" && a.flags & SYN == 0);
    // Counted after its packets were sent on.
    engine.wait_for("flow_released", 1);

    let (client, mut server) = Raw::ends(&wire, 4001);
    let mut syn = client.syn();
    syn.payload = b"early";
    client.put(&syn);
    server.expect("SYN with data", |a| a.payload == b"early");
    server.expected = client.first.wrapping_add(5);
    let mut answer = server.syn();
    answer.flags = SYN | ACK;
    answer.acknowledged = server.expected;
    server.put(&answer);
    client.expect("SYN-ACK", |a| a.flags & SYN != 0);
    engine.wait_for("syn_payload_passed", 1);
}

#[test]
fn data_in_a_syn_is_dropped_where_policy_says_so() {
    let policy = Evasion { syn_data: BLOCK, ..Evasion::default() };
    let (wire, engine) = under(policy, Does::Release);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    let mut syn = client.syn();
    syn.payload = b"early";
    client.put(&syn);
    server.expect_none("a SYN with data passed", |a| !a.payload.is_empty());
    assert_eq!(engine.counter("syn_payload_dropped"), 1);
    // The client does without.
    Raw::shake(&mut client, &mut server);
    client.send(0, b"data");
    engine.wait_for("flow_released", 1);
}

#[test]
fn multipath_and_fast_open_are_neutralised_and_the_flow_is_taken_over() {
    let (wire, engine) = under(Evasion::default(), Does::TakeOver);
    let mptcp = [30, 12, 0, 0x81, 1, 2, 3, 4, 5, 6, 7, 8];
    let cookie = [34, 10, 9, 8, 7, 6, 5, 4, 3, 2];
    let experiment = [254, 4, 0xf9, 0x89];
    let cases: [(&str, Vec<u8>); 5] = [
        ("MPTCP", [PLAIN_OPTIONS, &mptcp].concat()),
        ("Fast Open cookie", [PLAIN_OPTIONS, &cookie, &[1, 1]].concat()),
        ("Fast Open at an odd place", [PLAIN_OPTIONS, &[1], &cookie, &[0]].concat()),
        ("both", [PLAIN_OPTIONS, &[1], &mptcp, &cookie, &[0]].concat()),
        ("experimental Fast Open", [PLAIN_OPTIONS, &experiment].concat()),
    ];
    // The server is a kernel: a wrong checksum would be a SYN without an answer.
    let listener = wire.listen();
    for (port, (name, options)) in (4000..).zip(cases) {
        assert!(options.len().is_multiple_of(4), "{name}");
        let mut client = Raw::client(&wire, port, KERNEL);
        client.options = options;
        client.connect();
        client.send(0, b"data");
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(wire::PATIENCE)).unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        server.write_all(b"answer").unwrap();
        client.expect(name, |a| a.payload == b"answer");
    }
    assert_eq!(engine.counter("flow_taken_over"), 5);
    // A handshake's SYN may have been sent more than once.
    assert!(engine.counter("syn_mptcp_neutralised") >= 2);
    assert!(engine.counter("syn_fast_open_neutralised") >= 4);
}

#[test]
fn neutralised_options_arrive_as_no_operations() {
    let (wire, _engine) = under(Evasion::default(), Does::Release);
    let (mut client, server) = Raw::ends(&wire, 4000);
    client.options =
        [PLAIN_OPTIONS, &[1, 34, 4, 7, 7, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0][..]].concat();
    let arrived = (0..20)
        .find_map(|_| {
            client.put(&client.syn());
            server.receive_some(|a| a.flags == SYN)
        })
        .unwrap();
    let mut wanted = client.options.clone();
    wanted[5..9].fill(1);
    assert_eq!(arrived.options, wanted);
}

#[test]
fn signed_segments_are_never_touched_and_pass_or_are_dropped() {
    let md5 = [&[19, 18][..], &[7; 16], &[0, 0]].concat();
    // RFC 5925 2.2: kind, length, two key numbers, and a code of 12 bytes.
    let authentication = [&[29, 16, 61, 84][..], &[7; 12]].concat();
    for signed in [md5, authentication] {
        let (wire, engine) = under(Evasion::default(), Does::TakeOver);
        let (mut client, mut server) = Raw::ends(&wire, 4000);
        // What would be neutralised in another SYN stays in a signed one.
        client.options = [&signed[..], &[30, 4, 0, 0]].concat();
        server.options = signed.clone();
        let syn = client.options.clone();
        let arrived = (0..20).find_map(|_| {
            client.put(&client.syn());
            server.receive_some(|a| a.flags == SYN)
        });
        assert_eq!(arrived.unwrap().options, syn);
        Raw::shake(&mut client, &mut server);
        client.send(0, b"signed");
        let came = server.expect("the bytes", |a| a.payload == b"signed");
        assert_eq!((came.sequence, came.flags), (client.first, ACK | PUSH));
        server.acknowledge(0, 6);
        server.send(0, b"answer");
        client.expect("the answer", |a| a.payload == b"answer");
        assert_eq!(engine.counter("flow_held"), 0);
        assert!(engine.counter("syn_signed_passed") >= 1);
        drop((wire, engine));

        let policy = Evasion { untakeable_options: BLOCK, ..Evasion::default() };
        let (wire, engine) = under(policy, Does::Release);
        let (mut client, server) = Raw::ends(&wire, 4000);
        client.options = signed;
        client.put(&client.syn());
        engine.wait_for("syn_options_dropped", 1);
        server.expect_none("a signed SYN passed", |a| a.flags & SYN != 0);
    }
}

#[test]
fn data_of_a_handshake_seen_by_half_passes_or_is_dropped() {
    for (action, counter) in [(EvasionAction::Bypass, "unseen_passed"), (BLOCK, "unseen_dropped")] {
        let policy = Evasion { unseen_handshake: action, ..Evasion::default() };
        let (wire, engine) = under(policy, Does::Release);
        let (client, server) = Raw::ends(&wire, 4000);
        assert!((0..20).any(|_| {
            client.put(&client.syn());
            server.receive_some(|a| a.flags == SYN).is_some()
        }));
        // The SYN-ACK took another path.
        client.send(0, b"data");
        engine.wait_for(counter, 1);
        if action == BLOCK {
            server.expect_none("data of a half-seen flow passed", |a| !a.payload.is_empty());
        } else {
            server.expect("the data", |a| a.payload == b"data");
        }
    }
}

#[test]
fn fragments_of_tcp_packets_pass_or_are_dropped() {
    for action in [EvasionAction::Bypass, BLOCK] {
        let policy = Evasion { fragments: action, ..Evasion::default() };
        let (wire, engine) = under(policy, Does::Release);
        let (mut client, mut server) = Raw::ends(&wire, 4000);
        Raw::shake(&mut client, &mut server);
        let mut fragment = client.segment(0, b"fragment");
        fragment.more_fragments = true;
        client.put(&fragment);
        if action == BLOCK {
            engine.wait_for("tcp_fragment_dropped", 1);
            server.expect_none("a fragment passed", |a| !a.payload.is_empty());
        } else {
            server.expect("the fragment", |a| a.payload == b"fragment");
            assert_eq!(engine.counter("fragmented_flow_passed"), 1);
            client.send(8, b"and what follows");
            server.expect("the rest", |a| a.payload == b"and what follows");
        }
        assert_eq!(engine.counter("flow_held"), 0);
    }
}

#[test]
fn a_flow_with_a_decoy_is_blocked_where_policy_says_so() {
    let policy = Evasion { decoy: BLOCK, ..Evasion::default() };
    let (wire, engine) = under(policy, Does::Release);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    Raw::shake(&mut client, &mut server);
    client.send(0, b"good");
    server.expect("the judged bytes", |a| a.payload == b"good");
    client.send(0, b"EVIL");
    engine.wait_for("watch_blocked", 1);
    client.send(4, b"what follows");
    client.send(0, b"good");
    server.expect_none("a blocked flow's bytes passed", |a| !a.payload.is_empty());
}

#[test]
fn a_payload_that_cannot_reach_the_server_is_not_judged() {
    let (wire, engine) = under(Evasion::default(), Does::TakeOver);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    Raw::shake(&mut client, &mut server);
    let mut decoy = client.segment(0, b"EVIL");
    decoy.ttl = 3;
    client.put(&decoy);
    engine.wait_for("client_ttl_dropped", 1);
    client.send(0, b"good");
    server.expect("the judged bytes", |a| a.payload == b"good");
}

#[test]
fn a_payload_with_an_old_timestamp_is_not_judged() {
    let (wire, engine) = under(Evasion::default(), Does::TakeOver);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    client.options = [PLAIN_OPTIONS, &[1, 1, 8, 10, 0, 1, 0, 0, 0, 0, 0, 0][..]].concat();
    server.options = [PLAIN_OPTIONS, &[1, 1, 8, 10, 0, 2, 0, 0, 0, 1, 0, 0][..]].concat();
    Raw::shake(&mut client, &mut server);
    client.timestamps = Some((0xffff, 0x2_0000));
    client.send(0, b"EVIL");
    engine.wait_for("held_old_timestamp_dropped", 1);
    client.timestamps = Some((0x1_0001, 0x2_0000));
    client.send(0, b"good");
    server.expect("the judged bytes", |a| a.payload == b"good");
}

#[test]
fn a_full_flow_table_passes_new_flows_or_lets_them_wait() {
    for action in [EvasionAction::Bypass, BLOCK] {
        let policy = Evasion { table_full: action, ..Evasion::default() };
        let tables = TableSizes { flows: 1, ..TableSizes::default() };
        let (wire, engine) = with(tables, policy, Does::Hold);
        let (mut first, mut first_server) = Raw::ends(&wire, 4000);
        answered(&mut first, &mut first_server);
        first.send(0, b"held");
        engine.wait_for("flow_held", 1);
        // Another client: one alone may not fill the table.
        let other = ([10, 77, 0, 13], 4001);
        let mut client = Raw::client(&wire, other.1, RAW_SERVER);
        client.local = other;
        let mut server = Raw::server(&wire, other);
        answered(&mut client, &mut server);
        client.send(0, b"data");
        if action == BLOCK {
            engine.wait_for("flow_table_full_dropped", 1);
            client.send(0, b"data");
            engine.wait_for("flow_table_full_dropped", 2);
            server.expect_none("data passed", |a| !a.payload.is_empty());
        } else {
            server.expect("the data", |a| a.payload == b"data");
            assert_eq!(engine.counter("flow_table_full_passed"), 1);
        }
    }
}

/// A handshake whose last ACK comes with the client's first payload: where flows that say nothing have
/// no room either, it would have to wait.
fn answered(client: &mut Raw, server: &mut Raw) {
    assert!((0..20).any(|_| {
        client.put(&client.syn());
        server.receive_some(|a| a.flags == SYN).is_some()
    }));
    (client.expected, server.expected) = (server.first, client.first);
    let mut answer = server.syn();
    (answer.flags, answer.acknowledged) = (SYN | ACK, server.expected);
    server.put(&answer);
    client.expect("SYN-ACK", |a| a.flags == SYN | ACK);
}

#[test]
fn flows_over_the_limit_of_held_ones_are_released_or_blocked() {
    for (action, counter) in
        [(EvasionAction::Bypass, "flow_released_unjudged"), (BLOCK, "flow_blocked_unjudged")]
    {
        let policy = Evasion { table_full: action, ..Evasion::default() };
        let tables = TableSizes { held: 1, ..TableSizes::default() };
        let (wire, engine) = with(tables, policy, Does::Hold);
        let (mut first, mut first_server) = Raw::ends(&wire, 4000);
        Raw::shake(&mut first, &mut first_server);
        first.send(0, b"held");
        engine.wait_for("flow_held", 1);
        let (mut client, mut server) = Raw::ends(&wire, 4001);
        Raw::shake(&mut client, &mut server);
        client.send(0, b"data");
        engine.wait_for(counter, 1);
        if action == BLOCK {
            client.expect("RST", |a| a.flags & RST != 0);
            server.expect_none("data passed", |a| !a.payload.is_empty());
        } else {
            server.expect("the data", |a| a.payload == b"data");
        }
    }
}

#[test]
fn a_handshake_whose_syn_is_not_known_crosses_and_is_counted() {
    let (wire, engine) = under(Evasion::default(), Does::Hold);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    (client.expected, server.expected) = (server.first, client.first);
    let mut answer = server.syn();
    answer.flags = SYN | ACK;
    answer.acknowledged = server.expected;
    assert!((0..20).any(|_| {
        server.put(&answer);
        client.receive_some(|a| a.flags == SYN | ACK).is_some()
    }));
    client.send(0, b"unjudged");
    server.expect("its data", |a| a.payload == b"unjudged" && a.flags == ACK | PUSH);
    assert!(engine.counter("handshake_unknown_passed") >= 1);
    assert_eq!(engine.counter("flow_held"), 0);
}

/// Released flows are the bridge's and leave no trace; so whatever begins without a handshake passes as
/// they do.
#[test]
fn a_flow_of_which_nothing_is_known_passes_as_a_released_one_does_whatever_policy_says() {
    let policy = Evasion { unseen_handshake: BLOCK, ..Evasion::default() };
    let (wire, engine) = under(policy, Does::Release);
    let (client, server) = Raw::shaken(&wire, 4000);
    client.send(0, b"judged");
    server.expect("the judged bytes", |a| a.payload == b"judged");
    server.acknowledge(0, 6);
    engine.wait_for("release_final", 1);
    client.send(6, b"and what follows");
    server.expect("what follows", |a| a.payload == b"and what follows");

    let (mut client, mut server) = Raw::ends(&wire, 4001);
    (client.expected, server.expected) = (server.first, client.first);
    client.send(0, b"without a handshake");
    server.expect("its bytes", |a| a.payload == b"without a handshake");
    server.send(0, b"and back");
    client.expect("its bytes", |a| a.payload == b"and back");
    assert_eq!(engine.counter("flow_held"), 1);
}
