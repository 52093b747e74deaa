//! Whose packets teach a taken flow its ends' path (SPEC D17): an end's own, which stand where its next
//! one must; not what anybody else at its side sends under its addresses and ports.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use weir_dataplane::Attach;
use wire::Wire;
use wire::engine::{Does, Engine, judge_all};
use wire::raw::{ACK, RAW_CLIENT, RAW_SERVER, Raw, Segment};

/// Another router's, and another host's.
const OTHER: [u8; 12] = [2, 0xbb, 0, 0, 0, 9, 2, 0xaa, 0, 0, 0, 9];

struct Taken {
    _wire: Wire,
    engine: Engine,
    client: Raw,
    server: Raw,
}

fn taken() -> Taken {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 5, Does::TakeOver);
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    Raw::shake(&mut client, &mut server);
    client.send(0, b"hello");
    server.expect("the hello", |a| a.payload == b"hello");
    server.acknowledge(0, 5);
    engine.wait_for("flow_taken_over", 1);
    Taken { _wire: wire, engine, client, server }
}

/// Sends this as somebody else at the same side.
fn forge<'a>(from: &mut Raw, change: impl FnOnce(&mut Segment<'a>)) {
    let own = std::mem::replace(&mut from.mac, OTHER);
    let mut forged = from.segment(0, b"forged");
    (forged.ttl, forged.tos) = (9, 0x28);
    change(&mut forged);
    from.put(&forged);
    from.mac = own;
}

/// What comes of an end when it says this next: MAC addresses, TTL and DSCP.
fn path(from: &Raw, to: &Raw, at: i64, payload: &'static [u8]) -> ([u8; 12], u8, u8) {
    from.send(at, payload);
    let came = to.expect("the payload", |a| a.payload == payload);
    (came.mac, came.ttl, came.tos)
}

#[test]
fn a_forged_packet_of_a_taken_flow_teaches_nothing() {
    let Taken { _wire, engine: _engine, mut client, mut server } = taken();
    let (of_client, of_server) = (client.mac, server.mac);
    let forge_at = |end: &mut Raw, sequence: u32, payload: &[u8]| {
        forge(end, |forged| {
            (forged.sequence, forged.flags, forged.payload) = (sequence, ACK, payload);
        });
    };
    for (end, next) in [(&mut client, 5), (&mut server, 0)] {
        let next = end.first.wrapping_add(next);
        for offset in [-5000_i64, -2, 1, 1000, 50_000, 1 << 23, 1 << 25, 1 << 30, 3 << 30] {
            let sequence = next.wrapping_add(offset as u32);
            forge_at(end, sequence, b"");
            // Bytes in its window a socket would take, whoever sent them.
            if !(-2..1 << 23).contains(&offset) {
                forge_at(end, sequence, b"forged");
            }
        }
    }
    // The engine's own words to either end, which go out at once: of both ends' paths.
    assert_eq!(path(&client, &server, 5, b"request"), (of_client, 64, 0));
    assert_eq!(path(&server, &client, 0, b"answer"), (of_server, 64, 0));
}

#[test]
fn a_path_that_changes_under_a_taken_flow_is_learnt_of_its_next_packet() {
    let Taken { _wire, engine: _engine, mut client, server } = taken();
    client.mac = OTHER;
    let mut next = client.segment(5, b"request");
    (next.ttl, next.tos) = (61, 0x28);
    client.put(&next);
    let came = server.expect("the request", |a| a.payload == b"request");
    assert_eq!((came.mac, came.ttl, came.tos), (OTHER, 61, 0x28));
    server.acknowledge(0, 12);
}

/// An end that only waits has nothing new to say.
#[test]
fn a_path_that_changes_is_learnt_of_an_acknowledgement_and_of_a_keep_alive() {
    let Taken { _wire, engine: _engine, mut client, server } = taken();
    let own = std::mem::replace(&mut client.mac, OTHER);
    client.acknowledge(5, 0);
    server.send(0, b"first");
    let came = server.expect("an acknowledgement", |a| a.acknowledged == server.first + 5);
    assert_eq!(came.mac, OTHER);
    client.mac = own;
    client.keep_alive(5, 5, b"");
    server.send(5, b"second");
    let came = server.expect("an acknowledgement", |a| a.acknowledged == server.first + 11);
    assert_eq!(came.mac, own);
}

/// What was lost on the way leaves a hole; the end's next packet stands behind it.
#[test]
fn a_path_is_learnt_again_behind_what_was_lost() {
    let Taken { _wire, engine: _engine, mut client, server } = taken();
    client.mac = OTHER;
    client.send(3005, b"behind a hole");
    client.send(3018, b"and more");
    client.send(5, &[b'x'; 1460]);
    let came = server.expect("the first of it", |a| a.payload.len() == 1460);
    assert_eq!(came.mac, OTHER);
}
