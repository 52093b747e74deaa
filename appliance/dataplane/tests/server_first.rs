//! Servers that speak, or end, before their clients do: no TLS (SPEC D12, T9), and a way to provoke a
//! bypass where policy does not block it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::time::Duration;

use weir_dataplane::{Attach, Times};
use weir_policy::snapshot::{Evasion, EvasionAction, Layer2Fallback, ServerPolicy, ServerProxy};
use weir_policy::{Resets, Snapshot};
use wire::Wire;
use wire::engine::{Does, Engine, against, judge_all, server_proxy, snapshot};
use wire::raw::{ACK, FIN, RST, Raw, SYN};

/// The address of the server end's own TCP.
const KERNEL: [u8; 4] = [10, 77, 0, 2];

const BLOCK: EvasionAction = EvasionAction::Block;

/// A wire with an engine that does this with each flow, under this policy.
fn under(evasion: Evasion, does: Does) -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&against(evasion)).unwrap();
    judge_all(held, 4, does);
    (wire, engine)
}

#[test]
fn a_server_that_speaks_first_is_blocked_where_policy_says_so() {
    let policy = Evasion { server_speaks_first: BLOCK, ..Evasion::default() };
    let (wire, engine) = under(policy, Does::Block(Resets::BOTH));
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    Raw::shake(&mut client, &mut server);
    server.send(0, b"220 ready");
    client.expect("RST", |a| a.flags & RST != 0 && a.payload.is_empty());
    server.expect("RST", |a| a.flags & RST != 0);
    client.send(0, b"EHLO");
    server.expect_none("a refused flow's bytes passed", |a| !a.payload.is_empty());
    assert_eq!(engine.counter("flow_blocked"), 1);
    assert_eq!(engine.counter("server_spoke_first_dropped"), 1);
}

/// Its server answers it with a challenge (RFC 5961 4.2), and the session goes on.
#[test]
fn a_stray_syn_does_not_end_a_session_whose_server_spoke_first() {
    let (wire, engine) = under(Evasion::default(), Does::Release);
    let (client, server) = Raw::shaken(&wire, 4000);
    server.send(0, b"220 ready");
    client.expect("the greeting", |a| a.payload == b"220 ready");
    client.acknowledge(0, 9);
    server.expect("its acknowledgement", |a| a.acknowledged == server.first.wrapping_add(9));
    let mut stray = client.syn();
    stray.sequence = stray.sequence.wrapping_add(1_000_000);
    client.put(&stray);
    server.expect("the stray SYN", |a| a.flags & SYN != 0);
    let mut said = client.segment(0, b"EHLO");
    said.acknowledged = said.acknowledged.wrapping_add(9);
    client.put(&said);
    server.expect("what the client says", |a| a.payload == b"EHLO");
    server.send(9, b"250 welcome");
    client.expect("the answer", |a| a.payload == b"250 welcome");
    assert_eq!(engine.counter("contested_dropped"), 0);
}

/// A policy whose server proxy covers every flow.
fn serving() -> Snapshot {
    let mut snapshot = snapshot(Layer2Fallback::PermitAll);
    let client = &snapshot.client_proxies[0];
    snapshot.server_proxies.push(ServerProxy {
        name: "all".into(),
        destinations: vec!["0.0.0.0/0".parse().unwrap()],
        detection_ports: client.detection_ports.clone(),
        ..server_proxy()
    });
    let policy = ServerPolicy { name: "all".into(), server_proxy: 0, source_exceptions: vec![] };
    snapshot.profiles[0].server_policies.push(policy);
    snapshot
}

#[test]
fn a_server_proxys_server_that_speaks_first_is_judged_without_a_byte_of_its_client() {
    let (wire, engine) =
        under(Evasion::default(), Does::Block(Resets { client: true, server: false }));
    engine.dataplane.apply(&serving()).unwrap();
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    Raw::shake(&mut client, &mut server);
    server.send(0, b"220 ready");
    let reset = client.expect("RST", |a| a.flags & RST != 0);
    assert!(reset.payload.is_empty());
    server.send(0, b"220 ready");
    client.send(0, b"EHLO");
    server.expect_none("the server heard", |a| !a.payload.is_empty() || a.flags & RST != 0);
    client.expect_none("the server was heard", |a| !a.payload.is_empty());
    assert_eq!(engine.counter("flow_blocked"), 1);
    assert_eq!(engine.counter("server_spoke_first_dropped"), 1);
}

#[test]
fn a_server_proxys_server_is_not_heard_while_its_client_is_held() {
    let (wire, engine) = under(Evasion::default(), Does::Hold);
    engine.dataplane.apply(&serving()).unwrap();
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    Raw::shake(&mut client, &mut server);
    client.send(0, b"half");
    engine.wait_for("flow_held", 1);
    server.send(0, b"220 ready");
    client.expect_none("the server was heard", |a| !a.payload.is_empty());
}

#[test]
fn a_server_proxys_server_is_heard_while_no_engine_lives() {
    let (wire, engine) = under(Evasion::default(), Does::Hold);
    let mut policy = serving();
    policy.device.health.heartbeat_timeout = Duration::from_secs(3);
    engine.dataplane.apply(&policy).unwrap();
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    Raw::shake(&mut client, &mut server);
    server.send(0, b"220 ready");
    engine.wait_for("flow_held", 1);
    engine.stop.store(true, Ordering::Relaxed);
    // Longer than the heartbeat's age at which the engine is thought dead.
    std::thread::sleep(Duration::from_secs(4));
    server.send(0, b"220 ready");
    client.expect("the server", |a| a.payload == b"220 ready");
}

#[test]
fn a_server_that_speaks_while_the_flow_is_held_is_not_heard_where_policy_blocks_it() {
    let policy = Evasion { server_speaks_first: BLOCK, ..Evasion::default() };
    let (wire, engine) = under(policy, Does::Hold);
    let (mut client, mut server) = Raw::ends(&wire, 4000);
    Raw::shake(&mut client, &mut server);
    client.send(0, b"half");
    engine.wait_for("flow_held", 1);
    server.send(0, b"220 ready");
    client.expect_none("the server was heard", |a| !a.payload.is_empty());
    assert_eq!(engine.counter("server_spoke_first_dropped"), 1);
}

/// What a server says, and a client says before and after it heard that, however the flow is judged.
#[test]
fn what_crosses_a_servers_first_word_or_end_arrives() {
    const SAID: [&[u8]; 2] = [b"220 ready", b""];
    for (does, counter) in [(Does::Release, "flow_released"), (Does::TakeOver, "flow_taken_over")] {
        let wire = Wire::new();
        let (engine, held) = wire.engine(Attach::Auto);
        judge_all(held, 8, does);
        let listener = wire.listen();
        for (number, (said, while_held)) in
            (1..).zip([(SAID[0], false), (SAID[1], false), (SAID[0], true)])
        {
            let mut client = Raw::client(&wire, 4000 + number, KERNEL);
            client.connect();
            let (mut server, _) = listener.accept().unwrap();
            server.set_read_timeout(Some(wire::PATIENCE)).unwrap();
            if while_held {
                client.send(0, b"half");
                engine.wait_for("flow_held", number.into());
            }
            server.write_all(said).unwrap();
            if said.is_empty() {
                server.shutdown(Shutdown::Write).unwrap();
            }
            client.expect("what its server says", |a| {
                a.payload == said && (!said.is_empty() || a.flags & FIN != 0)
            });
            if !while_held {
                client.send(0, b"half");
                engine.wait_for("flow_held", number.into());
            }
            client.expected = client.expected.wrapping_add(said.len().max(1) as u32);
            client.send(4, b"rest");
            engine.wait_for(counter, number.into());
            let more = client.segment(8, b"more");
            let all = client.first.wrapping_add(12);
            let taken = (0..100).any(|_| {
                client.put(&more);
                client.receive_some(|a| a.acknowledged == all).is_some()
            });
            assert!(taken, "what followed is not acknowledged: {:?}", engine.dataplane.counters());
            let mut came = [0; 12];
            server.read_exact(&mut came).unwrap();
            assert_eq!(&came, b"halfrestmore");
        }
        assert_eq!(engine.counter("flow_held"), 3);
        assert_eq!(engine.counter("client_invalid_dropped"), 0);
    }
}

/// Its client ignores it, and goes on.
#[test]
fn a_word_of_the_server_that_its_client_does_not_take_ends_no_inspection() {
    let (wire, engine) = under(Evasion::default(), Does::TakeOver);
    for (number, (at, bad_checksum, while_held)) in
        (1..).zip([(0, true, false), (900, false, false), (0, true, true), (900, false, true)])
    {
        let (client, server) = Raw::shaken(&wire, 4000 + number);
        if while_held {
            client.send(0, b"ju");
            engine.wait_for("flow_held", number.into());
        }
        let mut decoy = server.segment(at, b"220 ready");
        decoy.bad_checksum = bad_checksum;
        server.put(&decoy);
        client.expect("the decoy", |a| a.payload == b"220 ready");
        let at = if while_held { 2 } else { 0 };
        client.send(at, &b"judged"[at as usize..]);
        server.expect("the judged bytes", |a| a.payload == b"judged");
        engine.wait_for("flow_taken_over", number.into());
    }
    assert_eq!(engine.counter("server_spoke_first"), 4);
    assert_eq!(engine.counter("flow_released"), 0);
}

/// A client may say that it heard a word that nobody said; its server takes nothing of that.
#[test]
fn what_follows_upon_a_word_that_the_server_did_not_say_is_no_release() {
    let (wire, engine) = under(Evasion::default(), Does::TakeOver);
    let (mut client, server) = Raw::shaken(&wire, 4000);
    let mut decoy = server.segment(0, b"220 ready");
    decoy.bad_checksum = true;
    for _ in 0..2 {
        server.put(&decoy);
        client.expect("the decoy", |a| a.payload == b"220 ready");
        client.expected = server.first.wrapping_add(9);
        client.send(0, b"decoy");
        server.expect("what its server ignores", |a| a.payload == b"decoy");
    }
    // Nor is an answer to another SYN, and the client's ACK of that.
    let mut answer = server.segment(-1, b"");
    (answer.flags, answer.sequence) = (SYN | ACK, server.first.wrapping_add(5000));
    server.put(&answer);
    client.expect("the answer", |a| a.flags & SYN != 0);
    client.expected = server.first;
    client.send(0, b"judged");
    server.expect("the judged bytes", |a| a.payload == b"judged");
    engine.wait_for("flow_taken_over", 1);
    assert_eq!(engine.counter("server_spoke_first"), 1);
}

#[test]
fn what_a_client_says_to_a_word_that_the_server_did_not_say_is_not_taken_for_what_was_judged() {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| {
        options.times = Times { watched: Duration::from_secs(1), ..Times::default() };
    });
    judge_all(held, 8, Does::Release);
    for (number, payload, flags) in [(1, &b""[..], FIN | ACK), (2, b"220 ready", ACK)] {
        let (mut client, server) = Raw::shaken(&wire, 4000 + number);
        let mut decoy = server.segment(0, payload);
        (decoy.flags, decoy.bad_checksum) = (flags, true);
        server.put(&decoy);
        client.expect("the decoy", |a| a.flags == flags && a.payload == payload);
        client.send(0, b"half");
        client.expected = server.first.wrapping_add(payload.len().max(1) as u32);
        client.send(4, b"good");
        server.expect("what was judged", |a| a.payload == b"good");
        server.acknowledge(0, 4);
        client.expect("the acknowledgement", |a| a.payload.is_empty() && a.flags == ACK);
        client.expected = server.first;
        client.send(4, b"EVIL");
        engine.wait_for("watched_conflicting_dropped", number.into());
        // Whatever policy has for those that are not acknowledged.
        engine.wait_for("watch_blocked", number.into());
        client.send(4, b"EVIL");
        server.expect_none("bytes that were not judged", |a| a.payload == b"EVIL");
    }
    assert_eq!(engine.counter("watch_given_up"), 0);
}

#[test]
fn a_server_that_speaks_first_is_heard_however_much_it_says() {
    let (wire, engine) = under(Evasion::default(), Does::Hold);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    let said = vec![b'!'; 3 << 20];
    for turn in [b"EHLO", b"QUIT"] {
        std::thread::scope(|scope| {
            scope.spawn(|| server.write_all(&said).unwrap());
            let mut heard = vec![0; said.len()];
            client.read_exact(&mut heard).unwrap();
            assert!(heard == said);
        });
        client.write_all(turn).unwrap();
        let mut came = [0; 4];
        server.read_exact(&mut came).unwrap();
        assert_eq!(&came, turn);
    }
    assert_eq!(engine.counter("server_spoke_first"), 1);
    assert_eq!(engine.counter("server_outside_window_dropped"), 0);
    assert_eq!(engine.counter("flow_held"), 0);
}

/// Its client never hears of it, and goes on. Or does hear it, where another box answered the SYN.
#[test]
fn a_server_that_ends_or_speaks_for_us_alone_ends_no_inspection() {
    let (wire, engine) = under(Evasion::default(), Does::TakeOver);
    for (port, payload, flags) in [(4000, &b""[..], FIN | ACK), (4001, b"220 ready", ACK)] {
        let (client, server) = Raw::shaken(&wire, port);
        let mut decoy = server.segment(0, payload);
        (decoy.flags, decoy.ttl) = (flags, 3);
        server.put(&decoy);
        client.expect("what its server says", |a| a.payload == payload && a.flags & flags == flags);
        assert_eq!(engine.counter("server_ttl_passed"), u64::from(port) - 3999);
        client.send(0, b"judged");
        server.expect("the judged bytes", |a| a.payload == b"judged");
    }
    engine.wait_for("flow_taken_over", 2);
    assert_eq!(engine.counter("server_spoke_first"), 0);
}

#[test]
fn what_a_client_says_after_its_server_ended_is_judged_or_dropped_where_servers_must_not_be_first()
{
    for served in [false, true] {
        let action = if served { EvasionAction::Bypass } else { BLOCK };
        let policy = Evasion { server_speaks_first: action, ..Evasion::default() };
        let (wire, engine) = under(policy, Does::Hold);
        if served {
            engine.dataplane.apply(&serving()).unwrap();
        }
        let (mut client, server) = Raw::shaken(&wire, 4000);
        let mut end = server.segment(0, b"");
        end.flags = FIN | ACK;
        server.put(&end);
        client.expect("its end", |a| a.flags & FIN != 0);
        client.expected = server.first.wrapping_add(1);
        client.send(0, b"after the end");
        engine.wait_for("server_spoke_first_dropped", 1);
        client.expected = server.first;
        client.send(0, b"before it heard of it");
        engine.wait_for("flow_held", 1);
        server.expect_none("an unjudged payload passed", |a| !a.payload.is_empty());
    }
}

#[test]
fn a_decoy_of_an_end_ends_no_hold_where_servers_must_not_be_first() {
    for served in [false, true] {
        let action = if served { EvasionAction::Bypass } else { BLOCK };
        let policy = Evasion { server_speaks_first: action, ..Evasion::default() };
        let (wire, engine) = under(policy, Does::Hold);
        if served {
            engine.dataplane.apply(&serving()).unwrap();
        }
        for (port, flags, at) in [(4000, FIN | ACK, 0), (4001, RST | ACK, 1)] {
            let (client, server) = Raw::shaken(&wire, port);
            client.send(0, b"half");
            engine.wait_for("flow_held", u64::from(port) - 3999);
            let mut decoy = server.segment(at, b"");
            decoy.flags = flags;
            server.put(&decoy);
            client.expect_none("the end", |a| a.flags & (FIN | RST) != 0);
            assert_eq!(engine.counter("server_end_dropped"), u64::from(port) - 3999);
            server.send(0, b"after its end");
            client.expect_none("the server was heard", |a| !a.payload.is_empty());
        }
        assert_eq!(engine.counter("held_ended"), 0);
    }
}

/// Whatever told us that it ended: the server may not have heard it.
#[test]
fn a_silent_flow_of_a_server_proxy_is_never_left_to_the_bridge() {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| {
        let look = Duration::from_millis(100);
        options.times = Times { silent_crowded: 5 * look, look, ..Times::default() };
    });
    judge_all(held, 1, Does::Hold);
    engine.dataplane.apply(&serving()).unwrap();
    let (client, server) = Raw::shaken(&wire, 4000);
    let mut decoy = client.segment(0, b"");
    decoy.flags = RST;
    client.put(&decoy);
    server.expect("RST", |a| a.flags & RST != 0);
    engine.wait_for("handshake_blocked", 1);
    client.send(0, b"GET /");
    server.expect_none("an unjudged payload passed", |a| !a.payload.is_empty());
    assert_eq!(engine.counter("handshake_forgotten"), 0);
}
