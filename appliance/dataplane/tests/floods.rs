//! Floods of SYNs, and handshakes that say nothing: what is forgotten under them, and what is not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::time::Duration;

use weir_dataplane::{Attach, Held, HeldFlows, Options, TableSizes, Times};
use weir_policy::Snapshot;
use weir_policy::snapshot::{Evasion, EvasionAction, Layer2Fallback};
use wire::Wire;
use wire::engine::{Does, Engine, judge_all, snapshot};
use wire::raw::{ACK, FIN, RAW_SERVER, RST, Raw, SYN};

const BLOCK: EvasionAction = EvasionAction::Block;
/// Tables that a flood fills; silent handshakes have room for 64, one client alone for 32.
const SMALL: TableSizes =
    TableSizes { half_open: 256, flows: 256, rings: 1, held: 64, watched: 64 };

fn under(evasion: Evasion) -> Snapshot {
    let mut snapshot = snapshot(Layer2Fallback::PermitAll);
    snapshot.device.evasion = evasion;
    snapshot
}

fn with(evasion: Evasion, change: impl FnOnce(&mut Options)) -> (Wire, Engine, HeldFlows) {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| {
        options.tables = SMALL;
        change(options);
    });
    engine.dataplane.apply(&under(evasion)).unwrap();
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

/// SYNs of many clients to a server that does not answer, until one that came before is forgotten. All
/// are sent, and so looked at, on one processor: the newest few that another one put into an LRU map
/// outlive what this one does.
fn flood(wire: &Wire, engine: &Engine) {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    let (this, all) = (Pid::from_raw(0), sched_getaffinity(Pid::from_raw(0)).unwrap());
    let mut one = CpuSet::new();
    one.set((0..CpuSet::count()).find(|number| all.is_set(*number).unwrap()).unwrap()).unwrap();
    sched_setaffinity(this, &one).unwrap();
    flood_from_here(wire, engine);
    sched_setaffinity(this, &all).unwrap();
}

fn flood_from_here(wire: &Wire, engine: &Engine) {
    let (_client, server) = asked(wire, 3999);
    let (syns, unknown) =
        (engine.counter("candidate_syn"), engine.counter("handshake_unknown_passed"));
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
    engine.wait_for("handshake_unknown_passed", unknown + 1);
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

#[test]
fn a_silent_flow_that_its_ends_end_leaves_its_room_soon() {
    let (wire, engine, held) = with(Evasion::default(), |options| {
        let (look, short) = (Duration::from_millis(100), Duration::from_millis(500));
        options.times = Times { look, silent_crowded: short, ..Times::default() };
    });
    judge_all(held, 1, Does::Hold);
    let (client, mut server) = Raw::shaken(&wire, 4000);
    let mut end = client.segment(0, &[]);
    end.flags = FIN | ACK;
    client.put(&end);
    server.expect("FIN", |a| a.flags & FIN != 0);
    server.expected = client.first.wrapping_add(1);
    server.send_ack();
    client.expect("ACK", |a| a.acknowledged == server.expected);
    engine.wait_for("handshake_forgotten", 1);
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

#[test]
fn a_flow_that_is_silent_for_too_long_is_forgotten_and_counted_or_blocked() {
    let short = Duration::from_secs(1);
    let look = Duration::from_millis(100);
    for reset in [false, true] {
        for action in [EvasionAction::Bypass, BLOCK] {
            let policy = Evasion { unseen_handshake: action, ..Evasion::default() };
            let (wire, engine, held) = with(policy, |options| {
                let times = Times { tombstone: 3 * short, look, ..Times::default() };
                options.times = if reset {
                    Times { silent_crowded: short, ..times }
                } else {
                    Times { silent: short, ..times }
                };
            });
            judge_all(held, 1, Does::Hold);
            let (client, server) = Raw::shaken(&wire, 4000);
            if reset {
                // A decoy, for all we know: it is not forgotten at once.
                let mut end = client.segment(0, &[]);
                end.flags = RST;
                client.put(&end);
                server.expect("RST", |a| a.flags & RST != 0);
                assert_eq!(engine.counter("handshake_forgotten"), 0);
            }
            if action == BLOCK {
                engine.wait_for("handshake_blocked", 1);
                client.send(0, b"late");
                server.expect_within(Duration::from_secs(10), "RST", |a| {
                    assert!(a.payload.is_empty(), "a blocked flow's bytes passed");
                    a.flags & RST != 0
                });
                engine.wait_for("tombstone_removed", 1);
            } else {
                engine.wait_for("handshake_forgotten", 1);
                client.send(0, b"late");
                server.expect("its bytes", |a| a.payload == b"late");
            }
            assert_eq!(engine.counter("flow_held"), 0);
        }
    }
}
