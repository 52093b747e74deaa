//! Keep-alives of one end of a taken flow cause one to the other end (SPEC D17); nothing else does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use weir_dataplane::Attach;
use wire::Wire;
use wire::capture::{Capture, Packet};
use wire::engine::{Does, Engine, PORT, judge_all};
use wire::raw::{ACK, Arrived, RAW_CLIENT, RAW_SERVER, Raw};

const HELLO: &[u8] = b"hello";
const ANSWER: &[u8] = b"answer";
/// Sooner after the takeover, or after another one, a keep-alive is not passed on.
const REST: Duration = Duration::from_millis(1100);

struct Taken {
    _wire: Wire,
    engine: Engine,
    client: Raw,
    server: Raw,
}

/// A taken flow whose ends have said something and acknowledged all.
fn taken() -> Taken {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, HELLO.len(), Does::TakeOver);
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    Raw::shake(&mut client, &mut server);
    client.send(0, HELLO);
    server.expect("the hello", |a| a.payload == HELLO);
    server.acknowledge(0, HELLO.len() as u32);
    server.send(0, ANSWER);
    client.expect("the answer", |a| a.payload == ANSWER);
    client.acknowledge(HELLO.len() as i64, ANSWER.len() as u32);
    std::thread::sleep(REST);
    Taken { _wire: wire, engine, client, server }
}

/// A keep-alive of an end that said so much.
fn asks(of: &Raw, said: usize) -> impl Fn(&Arrived) -> bool {
    let before_next = of.first.wrapping_add(said as u32).wrapping_sub(1);
    move |a| a.flags == ACK && a.payload.is_empty() && a.sequence == before_next
}

#[test]
fn a_keep_alive_of_the_client_is_answered_and_asks_the_server() {
    for payload in [&b""[..], b"o"] {
        let Taken { _wire, engine, client, server } = taken();
        client.keep_alive(HELLO.len() as i64, ANSWER.len() as u32, payload);
        let next = client.first.wrapping_add(HELLO.len() as u32);
        client.expect("an answer", |a| a.flags == ACK && a.acknowledged == next);
        let asked = server.expect("a keep-alive", asks(&client, HELLO.len()));
        assert_eq!(asked.acknowledged, server.first.wrapping_add(ANSWER.len() as u32));
        engine.wait_for("keep_alive_passed", 1);
        // The server's answer is none; the flow goes on.
        server.acknowledge(ANSWER.len() as i64, HELLO.len() as u32);
        client.expect_none("a keep-alive of nobody", asks(&server, ANSWER.len()));
        client.send(HELLO.len() as i64, b"more");
        server.expect("more", |a| a.payload == b"more");
        assert_eq!(engine.counter("keep_alive_passed"), 1);
    }
}

#[test]
fn a_keep_alive_of_the_server_is_answered_and_asks_the_client() {
    let Taken { _wire, engine, client, server } = taken();
    server.keep_alive(ANSWER.len() as i64, HELLO.len() as u32, b"");
    let next = server.first.wrapping_add(ANSWER.len() as u32);
    server.expect("an answer", |a| a.flags == ACK && a.acknowledged == next);
    client.expect("a keep-alive", asks(&server, ANSWER.len()));
    engine.wait_for("keep_alive_passed", 1);
}

#[test]
fn a_flood_of_keep_alives_asks_once_a_second() {
    let Taken { _wire, engine, client, server } = taken();
    for _ in 0..200 {
        client.keep_alive(HELLO.len() as i64, ANSWER.len() as u32, b"");
    }
    server.expect("a keep-alive", asks(&client, HELLO.len()));
    server.expect_none("another one", asks(&client, HELLO.len()));
    assert_eq!(engine.counter("keep_alive_passed"), 1);
}

#[test]
fn what_is_no_keep_alive_asks_nobody() {
    let Taken { _wire, engine, client, server } = taken();
    client.acknowledge(HELLO.len() as i64, ANSWER.len() as u32); // a window update
    client.send(0, HELLO); // a retransmission
    client.keep_alive(HELLO.len() as i64 - 1, ANSWER.len() as u32, b""); // an old number
    client.keep_alive(HELLO.len() as i64 - 3, ANSWER.len() as u32, b"l");
    server.expect_none("a keep-alive", asks(&client, HELLO.len()));
    assert_eq!(engine.counter("keep_alive_passed"), 0);
}

#[test]
fn a_kernels_keep_alives_cross_and_its_idle_peer_is_asked_as_often() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1, Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"!").unwrap();
    server.read_exact(&mut [0]).unwrap();
    engine.wait_for("flow_taken_over", 1);
    let captures = [Capture::start(&wire.client), Capture::start(&wire.server)];
    let keep_alive = TcpKeepalive::new()
        .with_time(Duration::from_secs(2))
        .with_interval(Duration::from_secs(2))
        .with_retries(2);
    SockRef::from(&client).set_tcp_keepalive(&keep_alive).unwrap();
    engine.wait_for("keep_alive_passed", 3);
    let [at_client, at_server] = captures.map(Capture::stop);
    // All that crosses are keep-alives and their answers, as many at one end as at the other.
    let from_client = |packets: &[Packet]| -> Vec<(u32, u32)> {
        let own = packets.iter().filter(|p| p.to.1 == PORT);
        own.map(|p| (p.sequence, p.acknowledged)).collect()
    };
    let (sent, came) = (from_client(&at_client), from_client(&at_server));
    assert!(came.len() >= 3, "{came:?}");
    assert!(sent.len().abs_diff(came.len()) <= 1, "{sent:?} {came:?}");
    assert!(came.iter().all(|probe| *probe == sent[0]), "{sent:?} {came:?}");
    // Both streams live.
    client.write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    server.write_all(b"!").unwrap();
    client.read_exact(&mut [0]).unwrap();
}
