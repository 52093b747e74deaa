//! Flows taken over in mid-flight.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;

use weir_dataplane::Attach;
use weir_dataplane::namespace::inside;
use wire::engine::{Does, Engine, PORT, judge_all};
use wire::{SERVER, Wire};

const MEGABYTES: usize = 20;

#[test]
fn taken_flow_carries_20_megabytes_each_way() {
    passes_20_megabytes(Attach::Auto, Does::TakeOver, "flow_taken_over");
}

#[test]
fn released_flow_carries_20_megabytes_each_way() {
    passes_20_megabytes(Attach::Auto, Does::Release, "flow_released");
}

#[test]
fn clsact_serves_where_there_is_no_tcx() {
    passes_20_megabytes(Attach::Clsact, Does::TakeOver, "flow_taken_over");
}

fn passes_20_megabytes(attach: Attach, does: Does, counter: &str) {
    let wire = Wire::new();
    let (engine, held) = Engine::open(&wire, attach);
    let _judge = judge_all(held, 1, does);
    let server = echo_server(&wire);
    let sent = noise(MEGABYTES << 20);
    let received = inside(&wire.client, || exchange(&sent)).unwrap();
    assert!(received == sent, "what came back is not what was sent");
    server.join().unwrap();
    engine.wait_for(counter, 1);
    assert_eq!(engine.counter("flow_held"), 1);
}

/// Sends everything while reading it back.
fn exchange(sent: &[u8]) -> Vec<u8> {
    let stream = TcpStream::connect((SERVER, PORT)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::with_capacity(sent.len());
        (&stream).read_to_end(&mut received).unwrap();
        received
    })
}

/// Sends back what comes, on one connection.
fn echo_server(wire: &Wire) -> JoinHandle<()> {
    let listener = inside(&wire.server, || TcpListener::bind((SERVER, PORT)).unwrap()).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        std::io::copy(&mut &stream, &mut &stream).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    })
}

/// Bytes that differ everywhere (a linear congruential generator).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}
