//! Flows taken over in mid-flight, released and blocked, as both ends see them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use weir_dataplane::Attach;
use weir_policy::Resets;
use wire::capture::{Capture, Packet, stream};
use wire::engine::{Does, PORT, judge_all};
use wire::raw::Raw;
use wire::{Wire, noise};

const MEGABYTES: usize = 20;

#[test]
fn taken_flow_carries_20_megabytes_each_way() {
    passes_20_megabytes(&Wire::new(), Attach::Auto, Does::TakeOver, "flow_taken_over");
}

#[test]
fn released_flow_carries_20_megabytes_each_way() {
    passes_20_megabytes(&Wire::new(), Attach::Auto, Does::Release, "flow_released");
}

#[test]
fn clsact_serves_where_there_is_no_tcx() {
    passes_20_megabytes(&Wire::new(), Attach::Clsact, Does::TakeOver, "flow_taken_over");
}

#[test]
fn flows_without_tcp_options_are_taken_over() {
    let wire = Wire::new();
    for option in ["tcp_timestamps", "tcp_sack", "tcp_window_scaling"] {
        wire.run(&wire.client, &format!("echo 0 > /proc/sys/net/ipv4/{option}"));
    }
    passes_20_megabytes(&wire, Attach::Auto, Does::TakeOver, "flow_taken_over");
}

fn passes_20_megabytes(wire: &Wire, attach: Attach, does: Does, counter: &str) {
    let (engine, held) = wire.engine(attach);
    let _judge = judge_all(held, 1, does);
    let listener = wire.listen();
    let (client, server) = wire.pair(&listener);
    let sent = noise(MEGABYTES << 20);
    assert!(exchange(&client, server, &sent) == sent, "what came back is not what was sent");
    engine.wait_for(counter, 1);
    assert_eq!(engine.counter("flow_held"), 1);
    for nothing in ["ring_full_dropped", "state_race_dropped", "take_over_failed"] {
        assert_eq!(engine.counter(nothing), 0, "{nothing}");
    }
}

/// The client sends everything while it reads back what the server echoes.
fn exchange(client: &TcpStream, server: TcpStream, sent: &[u8]) -> Vec<u8> {
    let mut client = client;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::io::copy(&mut &server, &mut &server).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(move || {
            client.write_all(sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::with_capacity(sent.len());
        client.read_to_end(&mut received).unwrap();
        received
    })
}

#[test]
fn taken_flow_keeps_addresses_ports_ttl_and_sequence_numbers() {
    let (client, server, end) = captured_exchange(Does::TakeOver);
    both_ends_see_the_same(&client, &server, &end);
}

#[test]
fn released_flow_keeps_every_packet() {
    let (client, server, end) = captured_exchange(Does::Release);
    both_ends_see_the_same(&client, &server, &end);
    // Each segment of the client arrived as it was sent, and no other.
    let sent: Vec<&Packet> = client.iter().filter(|p| p.from == end).collect();
    let arrived: Vec<&Packet> = server.iter().filter(|p| p.from == end).collect();
    for packet in &arrived {
        assert!(sent.contains(packet), "{packet:?} was not sent");
    }
    for packet in &sent {
        assert!(arrived.contains(packet), "{packet:?} did not arrive");
    }
}

/// A short exchange, captured at both ends: client's packets, server's, the client's address.
fn captured_exchange(does: Does) -> (Vec<Packet>, Vec<Packet>, ([u8; 4], u16)) {
    let wire = Wire::new();
    wire.run(&wire.client, "echo 77 > /proc/sys/net/ipv4/ip_default_ttl");
    wire.run(&wire.server, "echo 111 > /proc/sys/net/ipv4/ip_default_ttl");
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, does);
    let captures = [Capture::start(&wire.client), Capture::start(&wire.server)];
    let listener = wire.listen();
    socket2::SockRef::from(&listener).set_tos_v4(0xb8).unwrap();
    let (client, server) = wire.pair(&listener);
    let end = match client.local_addr().unwrap() {
        std::net::SocketAddr::V4(address) => (address.ip().octets(), address.port()),
        other => panic!("{other}"),
    };
    let sent = noise(300_000);
    assert!(exchange(&client, server, &sent) == sent);
    drop(client);
    engine.wait_for("flow_held", 1);
    let [client, server] = captures.map(Capture::stop);
    (client, server, end)
}

fn both_ends_see_the_same(client: &[Packet], server: &[Packet], end: &([u8; 4], u16)) {
    let other = ([10, 77, 0, 2], PORT);
    for (from, to, mac, ttl, tos) in [
        (*end, other, [2, 0xbb, 0, 0, 0, 2, 2, 0xaa, 0, 0, 0, 1], 77, 0),
        (other, *end, [2, 0xaa, 0, 0, 0, 1, 2, 0xbb, 0, 0, 0, 2], 111, 0xb8),
    ] {
        for (packets, place) in [(client, "client"), (server, "server")] {
            let seen: Vec<&Packet> = packets.iter().filter(|p| p.from == from).collect();
            assert!(!seen.is_empty());
            // Once an end is through, its kernel may answer what still comes with RST.
            let mut open = seen.iter().take_while(|packet| packet.flags & 1 == 0);
            assert!(open.all(|packet| packet.flags & 4 == 0), "a RST at the {place}");
            for packet in seen {
                assert_eq!(packet.to, to, "at the {place}");
                assert_eq!(packet.mac, mac, "at the {place}: {packet:?}");
                assert_eq!(packet.ttl, ttl, "at the {place}: {packet:?}");
                assert_eq!(packet.tos & 0xfc, tos, "at the {place}: {packet:?}");
            }
        }
        let (there, here) = (stream(client, from), stream(server, from));
        assert_eq!(there.0, here.0, "first sequence number");
        assert_eq!((there.1.len(), here.1.len()), (300_000, 300_000));
        let differs = there.1.iter().zip(&here.1).position(|(one, two)| one != two);
        assert_eq!(differs, None, "the streams differ");
    }
}

#[test]
fn hello_in_pieces_is_put_together() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 3000, Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.set_nodelay(true).unwrap();
    let sent = noise(3000);
    for piece in sent.chunks(700) {
        client.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut received = vec![0; sent.len()];
    server.read_exact(&mut received).unwrap();
    assert!(received == sent);
    assert_eq!(engine.counter("flow_taken_over"), 1);
    assert!(engine.counter("packet_held") >= 5);
}

#[test]
fn half_a_hello_is_acknowledged_when_the_flow_is_taken_over() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    // Nagle: the second write waits for an acknowledgement of the first.
    client.write_all(&[1; 100]).unwrap();
    client.write_all(&[2; 100]).unwrap();
    let mut received = [0; 200];
    server.read_exact(&mut received).unwrap();
    assert_eq!(received[99..101], [1, 2]);
    engine.wait_for("flow_taken_over", 1);
}

#[test]
fn hello_of_60_kilobytes_is_released_whole() {
    large_hello(Does::Release);
}

#[test]
fn hello_of_60_kilobytes_is_taken_over_whole() {
    large_hello(Does::TakeOver);
}

fn large_hello(does: Does) {
    let wire = Wire::new();
    let (_engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 12_000, does);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    let sent = noise(60_000);
    client.write_all(&sent).unwrap();
    let mut received = vec![0; sent.len()];
    server.read_exact(&mut received).unwrap();
    assert!(received == sent);
}

#[test]
fn blocked_flow_is_reset_at_both_ends() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::Block(Resets::BOTH));
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"not wanted").unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(engine.counter("flow_blocked"), 1);
    // The same addresses and ports serve a new connection.
    drop((client, server));
}

#[test]
fn blocked_flow_without_reset_is_silent() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::Block(Resets::NONE));
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    server.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    client.write_all(b"not wanted").unwrap();
    assert_eq!(server.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);
    engine.wait_for("blocked_dropped", 1);
}

#[test]
fn server_that_speaks_first_is_left_to_the_bridge() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    server.write_all(b"220 ready").unwrap();
    client.read_exact(&mut [0; 9]).unwrap();
    client.write_all(b"EHLO").unwrap();
    server.read_exact(&mut [0; 4]).unwrap();
    assert_eq!(engine.counter("server_spoke_first"), 1);
    assert_eq!(engine.counter("flow_held"), 0);
}

#[test]
fn client_that_ends_while_held_is_released_in_order() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1000, Does::Release);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"all there is").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut received = vec![];
    server.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"all there is");
    engine.wait_for("flow_released", 1);
}

#[test]
fn what_the_engine_wrote_reaches_a_slow_client_after_the_flow_was_closed() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"GET").unwrap();
    engine.wait_for("flow_taken_over", 1);
    client.shutdown(Shutdown::Write).unwrap();
    // Unread bytes would make the server's close a reset.
    server.read_to_end(&mut vec![]).unwrap();
    let sent = noise(1 << 20);
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || server.write_all(&sent).unwrap()
    });
    let mut received: Vec<u8> = vec![];
    let mut piece = vec![0; 64 * 1024];
    loop {
        std::thread::sleep(Duration::from_millis(20));
        match client.read(&mut piece).unwrap() {
            0 => break,
            length => received.extend(&piece[..length]),
        }
    }
    writer.join().unwrap();
    assert!(received == sent);
}

#[test]
fn many_short_flows_lose_no_byte() {
    for does in [Does::TakeOver, Does::Release] {
        let wire = Wire::new();
        let (engine, held) = wire.engine(Attach::Auto);
        let _judge = judge_all(held, 1, does);
        let listener = wire.listen();
        let flows = 400;
        let sent = noise(20_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..flows {
                    let (server, _) = listener.accept().unwrap();
                    scope.spawn(move || {
                        std::io::copy(&mut &server, &mut &server).unwrap();
                    });
                }
            });
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..flows / 8 {
                        let mut client = wire.connect();
                        client.write_all(&sent).unwrap();
                        client.shutdown(Shutdown::Write).unwrap();
                        let mut received = vec![];
                        client.read_to_end(&mut received).unwrap();
                        assert!(received == sent);
                    }
                });
            }
        });
        let counter = if does == Does::Release { "flow_released" } else { "flow_taken_over" };
        engine.wait_for(counter, flows);
        assert_eq!(engine.counter("take_over_failed"), 0);
    }
}

/// Each processor has a ring of its own.
#[test]
fn flows_are_judged_whichever_processor_they_begin_on() {
    let wire = Wire::new();
    let (engine, held) = wire.engine_with(Attach::Auto, |options| options.runtimes = 1);
    judge_all(held, 6, Does::TakeOver);
    let this = nix::unistd::Pid::from_raw(0);
    let usable = nix::sched::sched_getaffinity(this).unwrap();
    let processors = (0..nix::sched::CpuSet::count()).filter(|n| usable.is_set(*n).unwrap());
    for (number, processor) in (0..64).zip(processors) {
        let mut own = nix::sched::CpuSet::new();
        own.set(processor).unwrap();
        nix::sched::sched_setaffinity(this, &own).unwrap();
        let (client, server) = Raw::shaken(&wire, 4000 + number);
        client.send(0, b"judged");
        server.expect("the judged bytes", |a| a.payload == b"judged");
        engine.wait_for("flow_taken_over", u64::from(number) + 1);
    }
}
