//! How taken flows end and pause, between two kernels' own sockets: closed one way first, both ways
//! at once, windows at zero, port numbers used again at once.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use weir_dataplane::Attach;
use wire::engine::{Does, Engine, PORT, judge_all};
use wire::{CLIENT, SERVER, Wire, noise};

const MEGABYTE: usize = 1 << 20;

/// A wire whose flows are all taken, and a listener at the server.
fn taken() -> (Wire, Engine, TcpListener) {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    // Ends with the engine.
    drop(judge_all(held, 1, Does::TakeOver));
    let listener = wire.listen();
    (wire, engine, listener)
}

/// Both ends of a flow that was taken, the client's first byte read.
fn pair(wire: &Wire, engine: &Engine, listener: &TcpListener, flows: u64) -> [TcpStream; 2] {
    let (mut client, mut server) = wire.pair(listener);
    client.write_all(b"!").unwrap();
    let mut first = [0];
    server.read_exact(&mut first).unwrap();
    engine.wait_for("flow_taken_over", flows);
    [client, server]
}

fn read_all(mut from: &TcpStream) -> Vec<u8> {
    let mut bytes = vec![];
    from.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn an_end_that_closed_its_half_still_hears_the_other() {
    let (wire, engine, listener) = taken();
    let sent = noise(2 * MEGABYTE);
    for (number, closes_first) in [(1, 0), (2, 1)] {
        let ends = pair(&wire, &engine, &listener, number);
        let (first, second) = (&ends[closes_first], &ends[1 - closes_first]);
        first.shutdown(Shutdown::Write).unwrap();
        assert!(read_all(second).is_empty());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Long after the FIN, and more than any buffer holds.
                std::thread::sleep(Duration::from_millis(300));
                let mut second = second;
                second.write_all(&sent).unwrap();
                second.shutdown(Shutdown::Write).unwrap();
            });
            assert!(read_all(first) == sent, "what came is not what was sent");
        });
    }
    assert_eq!(engine.counter("engine_stray_dropped"), 0);
}

#[test]
fn both_ends_may_close_at_once() {
    let (wire, engine, listener) = taken();
    for number in 1..=20 {
        let ends = pair(&wire, &engine, &listener, number);
        let sent = &noise(100_000);
        std::thread::scope(|scope| {
            for end in &ends {
                scope.spawn(move || {
                    let mut end = end;
                    end.write_all(sent).unwrap();
                    end.shutdown(Shutdown::Write).unwrap();
                    assert!(read_all(end) == *sent, "what came is not what was sent");
                });
            }
        });
    }
}

#[test]
fn an_end_that_does_not_read_stops_the_other_and_loses_nothing() {
    let (wire, engine, listener) = taken();
    // More than the buffers of four sockets.
    let sent = noise(24 * MEGABYTE);
    for (number, writes) in [(1, 0), (2, 1)] {
        let ends = pair(&wire, &engine, &listener, number);
        let (writer, reader) = (&ends[writes], &ends[1 - writes]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = writer;
                writer.write_all(&sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            // Long enough for windows to close all the way and for a probe of them.
            std::thread::sleep(Duration::from_millis(1500));
            assert!(read_all(reader) == sent, "what came is not what was sent");
        });
    }
}

#[test]
fn a_port_number_used_again_at_once_is_another_flow() {
    let (wire, engine, listener) = taken();
    let from: SocketAddr = format!("{CLIENT}:40123").parse().unwrap();
    let to: SocketAddr = format!("{SERVER}:{PORT}").parse().unwrap();
    for number in 1..=4 {
        let mut client: TcpStream = weir_dataplane::namespace::inside(&wire.client, || {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&from.into()).unwrap();
            socket.connect_timeout(&to.into(), wire::PATIENCE).unwrap();
            socket.into()
        })
        .unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (mut server, address) = listener.accept().unwrap();
        assert_eq!(address, from);
        client.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        // The server closes first and has the time to wait; the client's number is free at once.
        server.shutdown(Shutdown::Write).unwrap();
        assert!(read_all(&client).is_empty());
        drop(client);
        assert!(read_all(&server).is_empty());
        engine.wait_for("flow_taken_over", number);
    }
}
