//! A client's first bytes as no kernel sends them in a test: twice, out of order, with the handshake's
//! last ACK; with a window of zero at either end; followed by FIN or RST before they were judged.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use weir_dataplane::Attach;
use weir_dataplane::namespace::inside;
use wire::capture::{Capture, Packet};
use wire::engine::{Does, Engine, PORT, judge_all};
use wire::raw::{ACK, FIN, PUSH, RAW_CLIENT, RAW_SERVER, RST, Raw, SYN};
use wire::{SERVER, Wire};

const KERNEL: [u8; 4] = [10, 77, 0, 2];
const BOTH: [(Does, &str); 2] =
    [(Does::TakeOver, "flow_taken_over"), (Does::Release, "flow_released")];

struct Flow {
    wire: Wire,
    engine: Engine,
    client: Raw,
    server: Raw,
}

/// Two raw ends after their handshake; their flow is judged once so many bytes came.
fn flow(enough: usize, does: Does) -> Flow {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, enough, does);
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    Raw::shake(&mut client, &mut server);
    Flow { wire, engine, client, server }
}

/// The raw client's bytes at a kernel's server, and that its answer comes back.
fn served(client: &Raw, server: &mut TcpStream, bytes: &[u8]) {
    server.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    let mut came = vec![0; bytes.len()];
    server.read_exact(&mut came).unwrap();
    assert_eq!(came, bytes);
    server.write_all(b"answer").unwrap();
    client.expect("the answer", |a| a.payload == b"answer");
    let next = client.first.wrapping_add(bytes.len() as u32);
    client.acknowledge(bytes.len() as i64, 6);
    client.send(0, bytes); // once more, after all that
    client.expect("an acknowledgement of what came again", |a| {
        a.payload.is_empty() && a.flags & RST == 0 && a.acknowledged == next
    });
}

#[test]
fn first_bytes_out_of_order_and_twice_arrive_once_and_in_order() {
    type Said = (i64, &'static [u8]);
    let orders: [(&str, &[Said]); 4] = [
        ("the end first", &[(8, b"bytes"), (0, b"in order")]),
        ("twice while held", &[(0, b"in order"), (0, b"in order"), (8, b"bytes")]),
        ("overlapping", &[(0, b"in ord"), (3, b"orderby"), (2, b" orderbytes")]),
        ("every other first", &[(9, b"ytes"), (3, b"ord"), (6, b"erb"), (0, b"in "), (3, b"ord")]),
    ];
    for (does, counter) in BOTH {
        let wire = Wire::new();
        let (engine, held) = wire.engine(Attach::Auto);
        judge_all(held, 13, does);
        let listener = wire.listen();
        for (number, (name, order)) in (1..).zip(orders) {
            let mut client = Raw::client(&wire, 4000 + number, KERNEL);
            client.connect();
            for (at, payload) in order {
                client.send(*at, payload);
            }
            let mut server = listener.accept().unwrap().0;
            served(&client, &mut server, b"in orderbytes");
            engine.wait_for(counter, number.into());
            assert_eq!(engine.counter("flow_held"), u64::from(number), "{name}");
        }
        assert_eq!(engine.counter("held_conflicting_dropped"), 0);
    }
}

#[test]
fn a_first_payload_that_comes_again_after_the_takeover_says_nothing_new() {
    let Flow { wire: _wire, engine, client, server } = flow(5, Does::TakeOver);
    client.send(0, b"hello");
    server.expect("the hello", |a| a.payload == b"hello");
    server.acknowledge(0, 5);
    for _ in 0..3 {
        client.send(0, b"hello");
    }
    // Other bytes in their place are ignored as well: they were acknowledged.
    client.send(0, b"HELLO");
    client.send(3, b"LO and more");
    let next = client.first.wrapping_add(14);
    client.expect("an acknowledgement of all", |a| a.acknowledged == next);
    let more = server.expect("what is new", |a| !a.payload.is_empty());
    assert_eq!(
        (more.sequence, more.payload.as_slice()),
        (client.first.wrapping_add(5), &b" and more"[..])
    );
    assert_eq!(engine.counter("flow_taken_over"), 1);
}

/// Linux keeps the handshake's last ACK back for the first bytes where it is told that they come soon.
fn connect_with_late_ack(wire: &Wire) -> TcpStream {
    let stream = inside(&wire.client, || {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let seconds = 5i32;
        // SAFETY: `seconds` is an integer of the size given and outlives the call.
        let told = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_TCP,
                libc::TCP_DEFER_ACCEPT,
                std::ptr::from_ref(&seconds).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        assert!(told >= 0, "TCP_DEFER_ACCEPT: {}", std::io::Error::last_os_error());
        let to: std::net::SocketAddr = format!("{SERVER}:{PORT}").parse().unwrap();
        socket.connect(&to.into()).unwrap();
        TcpStream::from(socket)
    })
    .unwrap();
    stream.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    stream
}

#[test]
fn first_bytes_that_come_with_the_handshakes_last_ack_are_judged() {
    for (does, counter) in BOTH {
        let wire = Wire::new();
        let (engine, held) = wire.engine(Attach::Auto);
        judge_all(held, 5, does);
        let listener = wire.listen();
        let captures = [Capture::start(&wire.client), Capture::start(&wire.server)];
        let mut client = connect_with_late_ack(&wire);
        client.write_all(b"hello").unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).unwrap();
        server.write_all(&bytes).unwrap();
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        engine.wait_for(counter, 1);
        let [at_client, at_server] = captures.map(Capture::stop);
        let first = |packets: &[Packet]| -> Packet {
            let own = |p: &&Packet| p.to.1 == PORT && p.flags & SYN == 0;
            packets.iter().find(own).cloned().unwrap()
        };
        // No bare ACK came before them.
        let (sent, came) = (first(&at_client), first(&at_server));
        assert_eq!(sent.payload, b"hello");
        assert_eq!((came.payload, came.sequence), (sent.payload, sent.sequence));
        assert_eq!((came.ttl, came.mac, came.tos), (sent.ttl, sent.mac, sent.tos));
    }
}

#[test]
fn a_client_whose_window_is_closed_when_its_flow_is_taken_gets_the_answer_once_it_opens_it() {
    let Flow { wire: _wire, engine, client, server } = flow(5, Does::TakeOver);
    let mut hello = client.segment(0, b"hello");
    hello.window = 0;
    client.put(&hello);
    server.expect("the hello", |a| a.payload == b"hello");
    engine.wait_for("flow_taken_over", 1);
    server.acknowledge(0, 5);
    server.send(0, b"answer");
    let heard = server.first.wrapping_add(6);
    server.expect("an acknowledgement", |a| a.acknowledged == heard);
    // A probe of the window has nothing in it, or one byte of no use.
    client.expect_none("bytes for a closed window", |a| a.payload.len() > 1);
    let mut opened = client.segment(5, &[]);
    opened.flags = ACK;
    client.put(&opened);
    let answer = client.expect("the answer", |a| a.payload == b"answer");
    assert_eq!(answer.sequence, server.first);
}

#[test]
fn a_server_whose_window_closes_with_the_hello_gets_the_rest_once_it_opens_it() {
    let Flow { wire: _wire, engine, client, server } = flow(5, Does::TakeOver);
    client.send(0, b"hello");
    server.expect("the hello", |a| a.payload == b"hello");
    let mut closed = server.segment(0, &[]);
    (closed.flags, closed.window) = (ACK, 0);
    closed.acknowledged = server.expected.wrapping_add(5);
    server.put(&closed);
    client.send(5, b"more");
    server.expect_none("bytes for a closed window", |a| a.payload == b"more");
    server.acknowledge(0, 5);
    server.expect("the rest", |a| a.payload == b"more");
    assert_eq!(engine.counter("flow_taken_over"), 1);
}

#[test]
fn a_server_that_opens_its_window_after_the_handshake_is_judged_all_the_same() {
    for (does, counter) in BOTH {
        let wire = Wire::new();
        let (engine, held) = wire.engine(Attach::Auto);
        judge_all(held, 5, does);
        let mut client = Raw::client(&wire, 4000, RAW_SERVER);
        let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
        // By hand: the SYN-ACK's window is zero.
        assert!((0..20).any(|_| {
            client.put(&client.syn());
            server.receive_some(|a| a.flags & SYN != 0).is_some()
        }));
        server.expected = client.first;
        let mut answer = server.syn();
        (answer.flags, answer.window) = (SYN | ACK, 0);
        answer.acknowledged = server.expected;
        server.put(&answer);
        client.expect("SYN-ACK", |a| a.flags & SYN != 0);
        client.expected = server.first;
        client.send_ack();
        server.expect("ACK", |a| a.flags & SYN == 0);
        server.acknowledge(0, 0); // the window opens
        client.expect("the window", |a| a.flags == ACK && a.window > 0);
        client.send(0, b"hello");
        server.expect("the hello", |a| a.payload == b"hello");
        engine.wait_for(counter, 1);
        assert_eq!(engine.counter("outside_window_passed"), 0);
        server.acknowledge(0, 5);
        server.send(0, b"answer");
        client.expect("the answer", |a| a.payload == b"answer");
    }
}

#[test]
fn a_client_that_ends_before_it_is_judged_is_heard_to_its_end() {
    for (does, counter) in BOTH {
        let Flow { wire: _wire, engine, client, server } = flow(1000, does);
        client.send(0, b"hello");
        engine.wait_for("flow_held", 1);
        let mut end = client.segment(5, &[]);
        end.flags = ACK | FIN;
        client.put(&end);
        let came = server.expect("the hello", |a| a.payload == b"hello");
        assert_eq!(came.sequence, client.first);
        let last = client.first.wrapping_add(5);
        let ends = |a: &wire::raw::Arrived| {
            a.flags & FIN != 0 && a.sequence.wrapping_add(a.payload.len() as u32) == last
        };
        if came.flags & FIN == 0 {
            server.acknowledge(0, 5);
            server.expect("FIN", ends);
        }
        engine.wait_for(counter, 1);
        // The other half is still open.
        let mut heard = server.segment(0, b"answer");
        heard.acknowledged = server.expected.wrapping_add(6);
        server.put(&heard);
        client.expect("the answer", |a| a.payload == b"answer");
    }
}

#[test]
fn a_client_that_resets_before_it_is_judged_resets_its_server() {
    for does in [Does::TakeOver, Does::Release] {
        let Flow { wire: _wire, engine, client, server } = flow(1000, does);
        client.send(0, b"hello");
        engine.wait_for("flow_held", 1);
        let mut reset = client.segment(5, &[]);
        reset.flags = RST;
        client.put(&reset);
        server.expect("RST", |a| a.flags & RST != 0);
    }
}

#[test]
fn a_server_that_resets_while_the_flow_is_held_is_heard_and_one_that_ends_is_when_it_says_so_again()
{
    for flags in [FIN | ACK, RST | ACK] {
        let Flow { wire: _wire, engine, client, server } = flow(1000, Does::Release);
        client.send(0, b"hello");
        engine.wait_for("flow_held", 1);
        let mut end = server.segment(0, &[]);
        end.flags = flags;
        server.put(&end);
        if flags & FIN != 0 {
            engine.wait_for("server_end_dropped", 1);
            engine.wait_for("flow_released", 1);
            server.put(&end);
        }
        let came = client.expect("the server's end", |a| a.flags == flags);
        assert_eq!(came.sequence, server.first);
        server.expect("the hello", |a| a.payload == b"hello" && a.flags == ACK | PUSH);
        assert_eq!(engine.counter("held_ended"), u64::from(flags & RST != 0));
    }
}

#[test]
fn a_server_that_ends_while_the_flow_is_held_is_heard_once_it_is_taken() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 8, Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"half").unwrap();
    engine.wait_for("flow_held", 1);
    server.shutdown(Shutdown::Write).unwrap();
    engine.wait_for("server_end_dropped", 1);
    client.write_all(b"rest").unwrap();
    let mut came = [0; 8];
    server.read_exact(&mut came).unwrap();
    assert_eq!(&came, b"halfrest");
    assert_eq!(client.read(&mut came).unwrap(), 0);
    engine.wait_for("flow_taken_over", 1);
}

#[test]
fn half_a_flow_may_end_before_it_is_taken() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1000, Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"all there is").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut came = vec![];
    server.read_to_end(&mut came).unwrap();
    assert_eq!(came, b"all there is");
    server.write_all(b"answer").unwrap();
    drop(server);
    let mut answer = vec![];
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    assert_eq!(engine.counter("flow_taken_over"), 1);
}
