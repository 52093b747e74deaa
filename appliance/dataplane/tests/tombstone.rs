//! What comes for a taken flow after its end: it is answered, and reaches neither the other end nor
//! the bridge, for as long as its entry rests (60 s; SPEC D10).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use weir_dataplane::Attach;
use wire::Wire;
use wire::engine::{Does, Engine, judge_all};
use wire::raw::{ACK, Arrived, FIN, PUSH, RAW_CLIENT, RAW_SERVER, RST, Raw};

struct Ended {
    _wire: Wire,
    engine: Engine,
    client: Raw,
    server: Raw,
}

fn fin(of: &Raw, at: i64, heard: u32) {
    let mut end = of.segment(at, &[]);
    end.flags = ACK | FIN;
    end.acknowledged = of.expected.wrapping_add(heard);
    of.put(&end);
}

/// A taken flow that both its ends closed in order, the client first.
fn ended() -> Ended {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 5, Does::TakeOver);
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    Raw::shake(&mut client, &mut server);
    client.send(0, b"hello");
    server.expect("the hello", |a| a.payload == b"hello");
    server.acknowledge(0, 5);
    fin(&client, 5, 0);
    server.expect("FIN", |a| a.flags & FIN != 0);
    fin(&server, 0, 6);
    client.expect("FIN", |a| a.flags & FIN != 0);
    client.acknowledge(6, 1);
    server.expect("the last ACK", |a| {
        a.flags == ACK && a.acknowledged == server.first.wrapping_add(1)
    });
    Ended { _wire: wire, engine, client, server }
}

/// As a kernel in TIME-WAIT answers an end that said so much and heard so much, or as one that has
/// forgotten the connection does (RFC 9293 3.10.7.1).
fn answers(to: &Raw, said: u32, heard: u32) -> impl Fn(&Arrived) -> bool {
    let (next, acknowledged) = (to.first.wrapping_add(said), to.expected.wrapping_add(heard));
    move |a| {
        (a.flags == ACK && a.acknowledged == next)
            || (a.flags & RST != 0 && a.sequence == acknowledged)
    }
}

#[test]
fn late_fins_are_answered() {
    let Ended { _wire, engine, client, server } = ended();
    for _ in 0..2 {
        fin(&client, 5, 0);
        client.expect("an answer", answers(&client, 6, 0));
        fin(&server, 0, 6);
        server.expect("an answer", answers(&server, 1, 6));
    }
    assert_eq!(engine.counter("flow_taken_over"), 1);
    assert_eq!(engine.counter("tombstone_removed"), 0);
}

#[test]
fn late_data_is_answered_and_does_not_reach_the_other_end() {
    let Ended { _wire, engine, client, server } = ended();
    client.send(0, b"hello");
    client.expect("an answer", answers(&client, 6, 0));
    client.send(6, b"more");
    client.expect("an answer", |a| a.flags & (RST | ACK) != 0);
    server.send(0, b"late");
    server.expect("an answer", |a| a.flags & (RST | ACK) != 0);
    server.expect_none("late bytes passed", |a| a.flags & PUSH != 0 || !a.payload.is_empty());
    client.expect_none("late bytes passed", |a| a.flags & PUSH != 0 || !a.payload.is_empty());
    assert_eq!(engine.counter("engine_stray_dropped"), 0);
}

#[test]
fn what_comes_late_keeps_the_entry_and_a_new_connection_takes_its_place() {
    let Ended { _wire, engine, mut client, mut server } = ended();
    fin(&client, 5, 0);
    client.expect("an answer", answers(&client, 6, 0));
    client.first = client.first.wrapping_add(100_000);
    server.first = server.first.wrapping_add(900_000);
    Raw::shake(&mut client, &mut server);
    assert_eq!(engine.counter("tombstone_replaced"), 1);
    client.send(0, b"hello again");
    server.expect("the next flow's bytes", |a| a.payload == b"hello again");
    engine.wait_for("flow_taken_over", 2);
}
