//! Floods of SYNs, and handshakes that say nothing: what is forgotten under them, and what is not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::time::Duration;

use weir_dataplane::{Attach, Held, HeldFlows, Options, TableSizes};
use weir_policy::snapshot::{Evasion, EvasionAction};
use wire::Wire;
use wire::engine::{Does, Engine, against, judge_all};
use wire::raw::{ACK, RAW_SERVER, Raw, SYN};

const BLOCK: EvasionAction = EvasionAction::Block;
/// Tables that a flood fills; silent handshakes have room for 64, one client alone for 32.
const SMALL: TableSizes =
    TableSizes { half_open: 256, flows: 256, rings: 1, held: 64, watched: 64 };

fn with(evasion: Evasion, change: impl FnOnce(&mut Options)) -> (Wire, Engine, HeldFlows) {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| {
        options.tables = SMALL;
        change(options);
    });
    engine.dataplane.apply(&against(evasion)).unwrap();
    (wire, engine, held)
}

/// The client's SYN, which the server has not answered.
fn asked(wire: &Wire, port: u16) -> (Raw, Raw) {
    let (client, mut server) = Raw::ends(wire, port);
    assert!((0..20).any(|_| {
        client.put(&client.syn());
        server.receive_some(|a| a.flags == SYN).is_some()
    }));
    server.expected = client.first;
    (client, server)
}

fn answer(server: &Raw) {
    let mut answer = server.syn();
    answer.flags = SYN | ACK;
    answer.acknowledged = server.expected;
    server.put(&answer);
}

/// SYNs of many clients to a server that does not answer, until one that came before is forgotten.
fn flood(wire: &Wire, engine: &Engine) {
    on_one_processor(|| flood_from_here(wire, engine));
}

/// What is sent there is looked at there: the newest few entries that another processor put into an LRU
/// map outlive what this one does.
fn on_one_processor(send: impl FnOnce()) {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    let (this, all) = (Pid::from_raw(0), sched_getaffinity(Pid::from_raw(0)).unwrap());
    let mut one = CpuSet::new();
    one.set((0..CpuSet::count()).find(|number| all.is_set(*number).unwrap()).unwrap()).unwrap();
    sched_setaffinity(this, &one).unwrap();
    send();
    sched_setaffinity(this, &all).unwrap();
}

fn flood_from_here(wire: &Wire, engine: &Engine) {
    let (_client, server) = asked(wire, 3999);
    // Its SYN-ACK passes or is dropped, as policy has it.
    let unknown =
        || engine.counter("handshake_unknown_passed") + engine.counter("handshake_unknown_dropped");
    let (syns, before) = (engine.counter("candidate_syn"), unknown());
    let mut flood = Raw::client(wire, 1, [10, 77, 0, 99]);
    // Of each some 32 are watched in a second.
    for port in 5000..5064 {
        for last in 1..=64 {
            flood.local = ([10, 77, 1, last], port);
            flood.put(&flood.syn());
        }
    }
    engine.wait_for("candidate_syn", syns + 64 * 64);
    answer(&server);
    assert!((0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        unknown() > before
    }));
}

#[test]
fn a_flood_of_syns_pushes_out_no_taken_flow() {
    let (wire, engine, held) = with(Evasion::default(), |_| {});
    judge_all(held, 4, Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"taken").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    flood(&wire, &engine);
    client.write_all(b"still taken").unwrap();
    let mut bytes = [0; 11];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still taken");
    assert_eq!(engine.counter("flow_taken_over"), 1);
}

#[test]
fn a_flow_that_is_held_through_a_flood_of_syns_is_judged() {
    for does in [Does::TakeOver, Does::Release] {
        let (wire, engine, mut held) = with(Evasion::default(), |_| {});
        let listener = wire.listen();
        let (mut client, mut server) = wire.pair(&listener);
        client.set_nodelay(true).unwrap();
        client.write_all(b"held ").unwrap();
        engine.wait_for("flow_held", 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut flow = held.next().await.unwrap();
            assert_eq!(flow.payload(), b"held ");
            flood(&wire, &engine);
            client.write_all(b"and judged").unwrap();
            while flow.payload().len() < 15 {
                assert_eq!(flow.more().await, Held::More);
            }
            if does == Does::Release {
                flow.release().unwrap();
                server.read_exact(&mut [0; 15]).unwrap();
            } else {
                let taken = flow.take_over().await.unwrap();
                assert_eq!(taken.received, b"held and judged");
            }
        });
        assert_eq!(engine.counter("held_given_back"), 0);
    }
}

#[test]
fn a_client_that_says_nothing_before_a_flood_of_syns_is_judged_after_it() {
    let (wire, engine, held) = with(Evasion::default(), |_| {});
    judge_all(held, 1, Does::Hold);
    let (client, server) = Raw::shaken(&wire, 4000);
    flood(&wire, &engine);
    client.send(0, b"late");
    engine.wait_for("flow_held", 1);
    server.expect_none("an unjudged payload passed", |a| !a.payload.is_empty());
}

#[test]
fn a_silent_flow_whose_handshake_ended_otherwise_is_still_the_one_that_is_judged() {
    let (wire, engine, held) = with(Evasion::default(), |_| {});
    judge_all(held, 4, Does::Release);
    // SYN and SYN-ACK once more, and one more SYN that nobody answers.
    let (client, server) = Raw::shaken(&wire, 4000);
    client.put(&client.syn());
    answer(&server);
    let mut other = client.syn();
    other.sequence = other.sequence.wrapping_add(100_000);
    client.put(&other);
    client.send(0, b"good");
    server.expect("the judged bytes", |a| a.payload == b"good");
    engine.wait_for("flow_released", 1);
    assert_eq!(engine.counter("flow_held"), 1);

    // A new connection in the place of a silent one.
    let (mut client, mut server) = Raw::shaken(&wire, 4001);
    client.first = client.first.wrapping_add(100_000);
    server.first = server.first.wrapping_add(100_000);
    Raw::shake(&mut client, &mut server);
    client.send(0, b"good");
    server.expect("the judged bytes", |a| a.payload == b"good" && a.sequence == client.first);
    engine.wait_for("flow_released", 2);
    assert_eq!(engine.counter("flow_held"), 2);
}

#[test]
fn a_client_with_too_many_silent_flows_has_no_more_room_for_such_and_others_have() {
    for action in [EvasionAction::Bypass, BLOCK] {
        let (wire, engine, held) =
            with(Evasion { table_full: action, ..Evasion::default() }, |_| {});
        judge_all(held, 1, Does::Hold);
        let mut silent: Vec<_> = (0..32).map(|n| Raw::shaken(&wire, 4000 + n)).collect();
        assert_eq!(engine.counter("handshakes_full_passed"), 0);

        let (mut client, server) = asked(&wire, 5000);
        answer(&server);
        client.expect("SYN-ACK", |a| a.flags == SYN | ACK);
        client.expected = server.first;
        client.send_ack();
        if action == BLOCK {
            engine.wait_for("handshakes_full_dropped", 1);
            server.expect_none("an ACK without room passed", |a| a.flags & SYN == 0);
        } else {
            engine.wait_for("handshakes_full_passed", 1);
            server.expect("ACK", |a| a.flags == ACK);
        }
        // What says something is judged all the same.
        client.send(0, b"says something");
        engine.wait_for("flow_held", 1);
        server.expect_none("an unjudged payload passed", |a| !a.payload.is_empty());

        // And another client has its share.
        let full =
            || engine.counter("handshakes_full_passed") + engine.counter("handshakes_full_dropped");
        let before = full();
        let local = ([10, 77, 0, 13], 4000);
        let (mut other, mut server) =
            (Raw::client(&wire, local.1, RAW_SERVER), Raw::server(&wire, local));
        other.local = local;
        Raw::shake(&mut other, &mut server);
        assert_eq!(full(), before);

        // A silent flow that says something after all is judged.
        let (first, _) = silent.remove(0);
        first.send(0, b"says something");
        engine.wait_for("flow_held", 2);
        drop(silent);
    }
}

/// Its client ignores what acknowledges more than it has sent.
#[test]
fn a_server_that_acknowledges_an_end_that_did_not_come_ends_no_inspection() {
    let (wire, engine, held) = with(Evasion::default(), |_| {});
    judge_all(held, 1, Does::Hold);
    let (client, mut server) = Raw::shaken(&wire, 4000);
    server.expected = client.first.wrapping_add(1);
    server.send_ack();
    client.expect("ACK", |a| a.acknowledged == server.expected);
    client.send(0, b"judged all the same");
    engine.wait_for("flow_held", 1);
    server.expect_none("an unjudged payload passed", |a| !a.payload.is_empty());
}

/// Nor does one that opens another connection between the same ends, in its own name.
#[test]
fn a_server_that_opens_a_connection_of_its_own_in_a_silent_flows_place_ends_no_inspection() {
    let (wire, engine, held) = with(Evasion::default(), |_| {});
    judge_all(held, 1, Does::Hold);
    let (client, server) = Raw::shaken(&wire, 4000);
    let mut other = server.syn();
    other.sequence = other.sequence.wrapping_add(100_000);
    server.put(&other);
    client.expect("SYN", |a| a.flags == SYN);
    let mut answer = client.syn();
    answer.flags = SYN | ACK;
    answer.acknowledged = other.sequence.wrapping_add(1);
    client.put(&answer);
    client.send(0, b"judged all the same");
    engine.wait_for("flow_held", 1);
    server.expect_none("an unjudged payload passed", |a| !a.payload.is_empty());
}

/// Its handshake would be whole with that data alone.
#[test]
fn data_that_is_refused_takes_no_room_of_silent_flows() {
    let (wire, engine, held) = with(Evasion::default(), |options| {
        options.tables = TableSizes { half_open: 4096, ..SMALL };
    });
    judge_all(held, 1, Does::Hold);
    let mut policy = against(Evasion { client_flood: BLOCK, ..Evasion::default() });
    policy.device.max_handshakes_per_client = 1;
    engine.dataplane.apply(&policy).unwrap();
    let (first, _server) = Raw::shaken(&wire, 4000);
    first.send(0, b"held");
    engine.wait_for("flow_held", 1);
    for number in 1..=80 {
        let (mut client, server) = asked(&wire, 4000 + number);
        answer(&server);
        client.expect("SYN-ACK", |a| a.flags == SYN | ACK);
        client.expected = server.first;
        client.send(0, b"refused");
        engine.wait_for("client_flood_dropped", number.into());
    }
    let local = ([10, 77, 0, 13], 4000);
    let (mut other, mut server) =
        (Raw::client(&wire, local.1, RAW_SERVER), Raw::server(&wire, local));
    other.local = local;
    Raw::shake(&mut other, &mut server);
    assert_eq!(engine.counter("handshakes_full_passed"), 0);
    assert_eq!(engine.counter("flow_held"), 1);
}

#[test]
fn a_syn_that_comes_again_beside_a_silent_flow_is_one_handshake() {
    let (wire, engine, held) = with(Evasion::default(), |_| {});
    judge_all(held, 1, Does::Hold);
    let (client, _server) = Raw::shaken(&wire, 4000);
    let mut other = client.syn();
    other.sequence = other.sequence.wrapping_add(100_000);
    let before = engine.counter("candidate_syn");
    // More than a client may begin in a second.
    for _ in 0..50 {
        client.put(&other);
    }
    engine.wait_for("candidate_syn", before + 50);
    assert_eq!(engine.counter("syn_flood_dropped"), 0);
    client.send(0, b"judged all the same");
    engine.wait_for("flow_held", 1);
}

/// As a proxy of many clients does. The table of handshakes has room for 32 of one client in a second.
#[test]
fn a_client_that_completes_all_handshakes_that_it_begins_is_no_flood() {
    let (wire, engine, held) = with(Evasion::default(), |_| {});
    judge_all(held, 4, Does::Release);
    let listener = wire.listen();
    for _ in 0..200 {
        let (mut client, mut server) = wire.pair(&listener);
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
    }
    assert_eq!(engine.counter("syn_flood_dropped"), 0);
    engine.wait_for("flow_released", 200);
    // And one that completes no more of them is.
    let mut flood = Raw::client(&wire, 1, RAW_SERVER);
    for port in 5000..5100 {
        flood.local.1 = port;
        flood.put(&flood.syn());
    }
    engine.wait_for("syn_flood_dropped", 1);
}

/// All at once, where their server says its first word: more than a client may begin in ten seconds.
#[test]
fn handshakes_that_come_back_are_of_the_share_that_their_client_has_in_the_seconds_that_follow() {
    let (wire, engine, _held) = with(Evasion::default(), |options| {
        options.tables = TableSizes { flows: 4096, ..SMALL };
    });
    let (mut client, mut server) = Raw::ends(&wire, 1);
    let connections = 4000..4400;
    for port in connections.clone() {
        (client.local.1, server.remote.1) = (port, port);
        Raw::shake(&mut client, &mut server);
    }
    assert_eq!(engine.counter("syn_flood_dropped"), 0);
    for port in connections {
        server.remote.1 = port;
        server.send(0, b"220 ready");
    }
    engine.wait_for("server_spoke_first", 400);
    // What one second's share is counted by has passed.
    std::thread::sleep(Duration::from_millis(2200));
    assert_eq!(engine.counter("syn_flood_dropped"), 0);
    client.local.1 = 5000;
    client.put(&client.syn());
    engine.wait_for("syn_flood_dropped", 1);
    // Another client is asked for its own share.
    let mut other = Raw::client(&wire, 5000, RAW_SERVER);
    other.local.0 = [10, 77, 0, 13];
    let (seen, dropped) = (engine.counter("candidate_syn"), engine.counter("syn_flood_dropped"));
    other.put(&other.syn());
    engine.wait_for("candidate_syn", seen + 1);
    assert_eq!(engine.counter("syn_flood_dropped"), dropped);
}

/// Its client has another connection opened in its place, has that forgotten, and its server answers.
#[test]
fn an_answer_that_policy_drops_ends_no_inspection_of_a_silent_flow() {
    let policy = Evasion { unseen_handshake: BLOCK, ..Evasion::default() };
    let (wire, engine, held) = with(policy, |_| {});
    judge_all(held, 1, Does::Hold);
    let (client, mut server) = Raw::shaken(&wire, 4000);
    let mut other = client.syn();
    other.sequence = other.sequence.wrapping_add(100_000);
    on_one_processor(|| client.put(&other));
    server.expect("SYN", |a| a.flags == SYN && a.sequence == other.sequence);
    flood(&wire, &engine);
    let dropped = engine.counter("handshake_unknown_dropped");
    server.expected = other.sequence.wrapping_add(1);
    answer(&server);
    engine.wait_for("handshake_unknown_dropped", dropped + 1);
    client.send(0, b"judged all the same");
    engine.wait_for("flow_held", 1);
    server.expect_none("an unjudged payload passed", |a| !a.payload.is_empty());
}
