//! Flows whose handshake is whole and whose client says nothing: when they are forgotten, by whom, and
//! what becomes of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::time::Duration;

use weir_dataplane::{Attach, Dataplane, HeldFlows, Options, Times};
use weir_policy::snapshot::{Evasion, EvasionAction};
use wire::engine::{Does, Engine, against, judge_all};
use wire::raw::{ACK, FIN, RST, Raw};
use wire::{SEGMENT, Wire};

const BLOCK: EvasionAction = EvasionAction::Block;
const LOOK: Duration = Duration::from_millis(100);
const SHORT: Times = Times {
    recount: Duration::from_secs(600),
    silent: Duration::from_millis(500),
    silent_crowded: Duration::from_millis(500),
    look: LOOK,
    tombstone: Duration::from_secs(60),
    watched: Duration::from_secs(30),
};

fn with(evasion: Evasion, change: impl FnOnce(&mut Options)) -> (Wire, Engine, HeldFlows) {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, change);
    engine.dataplane.apply(&against(evasion)).unwrap();
    (wire, engine, held)
}

#[test]
fn a_silent_flow_that_its_ends_end_leaves_its_room_soon() {
    let (wire, engine, held) = with(Evasion::default(), |options| {
        options.times = Times { silent: Times::default().silent, ..SHORT };
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
    server.expect_none("an end of what waits for its server", |a| a.flags & RST != 0);
}

#[test]
fn a_flow_that_is_silent_for_too_long_is_forgotten_and_counted_or_blocked() {
    let look = Duration::from_millis(100);
    for reset in [false, true] {
        // Where it is looked whether it was forgotten at once, longer than a busy machine takes to look.
        let short = Duration::from_secs(if reset { 4 } else { 1 });
        for action in [EvasionAction::Bypass, BLOCK] {
            let policy = Evasion { unseen_handshake: action, ..Evasion::default() };
            let (wire, engine, held) = with(policy, |options| {
                let times = Times { tombstone: Duration::from_secs(3), look, ..Times::default() };
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
                server.expect("RST", |a| {
                    assert!(a.payload.is_empty(), "a blocked flow's bytes passed");
                    a.flags & RST != 0
                });
                engine.wait_for("tombstone_removed", 1);
            } else {
                engine.wait_for("handshake_forgotten", 1);
                if reset {
                    let next = server.expected;
                    server.expect("an end that it takes", |a| {
                        a.flags == RST | ACK && a.sequence == next && a.payload.is_empty()
                    });
                }
                client.send(0, b"late");
                server.expect("its bytes", |a| a.payload == b"late");
            }
            assert_eq!(engine.counter("flow_held"), 0);
        }
    }
}

#[test]
fn a_server_that_ended_without_a_word_hears_its_client_however_late() {
    for (unseen_handshake, server_speaks_first) in
        [(BLOCK, EvasionAction::Bypass), (EvasionAction::Bypass, BLOCK)]
    {
        let policy = Evasion { unseen_handshake, server_speaks_first, ..Evasion::default() };
        let (wire, engine, held) = with(policy, |options| {
            options.times = Times { silent: Times::default().silent, ..SHORT };
        });
        judge_all(held, 1, Does::Hold);
        let (mut client, server) = Raw::shaken(&wire, 4000);
        let mut end = server.segment(0, &[]);
        end.flags = FIN | ACK;
        server.put(&end);
        client.expect("FIN", |a| a.flags & FIN != 0);
        client.expected = server.first.wrapping_add(1);
        client.send_ack();
        if server_speaks_first == BLOCK {
            // It may not end so.
            engine.wait_for("handshake_blocked", 1);
            continue;
        }
        engine.wait_for("handshake_forgotten", 1);
        client.send(0, b"late");
        server.expect("its bytes", |a| a.payload == b"late");
    }
}

#[test]
fn an_engine_without_a_policy_forgets_nothing() {
    let (wire, engine, held) = with(Evasion::default(), |_| {});
    let (_client, _server) = Raw::shaken(&wire, 4000);
    drop((engine, held));
    let mut options = Options::new(wire.names.clone(), vec![SEGMENT], wire.pins.clone());
    options.times = SHORT;
    let (next, _held) = Dataplane::open(options).unwrap();
    let counted = |name: &str| {
        let report = next.counters();
        report[0].counters.iter().find(|(found, _)| *found == name).unwrap().1
    };
    std::thread::sleep(SHORT.silent + 5 * LOOK);
    assert_eq!(counted("handshake_forgotten"), 0);
    next.apply(&against(Evasion { unseen_handshake: BLOCK, ..Evasion::default() })).unwrap();
    assert!((0..3000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        counted("handshake_blocked") == 1
    }));
    assert_eq!(counted("handshake_forgotten"), 0);
}

#[test]
fn an_engine_that_drains_forgets_nothing() {
    let (wire, old, _held) = with(Evasion::default(), |options| options.times = SHORT);
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1, Does::Hold);
    let (client, server) = Raw::shaken(&wire, 4000);
    std::thread::sleep(SHORT.silent + 5 * LOOK);
    assert_eq!(old.counter("handshake_forgotten"), 0);
    client.send(0, b"late");
    engine.wait_for("flow_held", 1);
    server.expect_none("an unjudged payload passed", |a| !a.payload.is_empty());
}
