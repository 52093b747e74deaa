//! What a taken flow's ends are told of what they sent: timestamps, and that it arrived.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use weir_dataplane::Attach;
use wire::Wire;
use wire::capture::Capture;
use wire::engine::{Does, PORT, judge_all};

/// One TCP segment over IPv4.
#[derive(Debug)]
struct Segment {
    from: u16,
    flags: u8,
    acknowledged: u32,
    payload: usize,
    /// Value and echo.
    timestamps: Option<(u32, u32)>,
}

const SYN: u8 = 2;
const FIN: u8 = 1;
const ACK: u8 = 16;

#[test]
fn ends_of_a_taken_flow_have_the_timestamps_echoed_that_they_sent() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    let captures = [Capture::start_all(&wire.client), Capture::start_all(&wire.server)];
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    let own = port(&client);
    let mut received = [0; 100];
    for _ in 0..3 {
        client.write_all(&[1; 100]).unwrap();
        server.read_exact(&mut received).unwrap();
        server.write_all(&[2; 100]).unwrap();
        client.read_exact(&mut received).unwrap();
    }
    drop(client);
    assert_eq!(server.read(&mut received).unwrap(), 0);
    engine.wait_for("flow_taken_over", 1);
    let [client, server] = captures.map(segments);
    // At each end: of the other one's packets, what each echoes.
    for (packets, here, there) in [(client, own, PORT), (server, PORT, own)] {
        let mut sent = HashSet::new();
        let (mut last, mut echoed) = (0, 0);
        for packet in packets.iter().filter(|packet| packet.timestamps.is_some()) {
            let (value, echo) = packet.timestamps.unwrap();
            if packet.from == here {
                sent.insert(value);
                // The first bytes are what was last heard when the other end is told for the first time.
                last = value;
            } else if packet.from == there && packet.flags & ACK != 0 {
                assert!(
                    sent.contains(&echo),
                    "{packet:?} echoes what was never sent to it: {sent:?}"
                );
                if echoed == 0 && packet.payload > 0 {
                    assert_eq!(echo, last, "{packet:?}");
                }
                echoed += 1;
            }
        }
        assert!(echoed >= 4, "{packets:?}");
    }
}

#[test]
fn a_client_is_told_that_its_bytes_arrived_though_the_server_says_nothing() {
    told_beside_a_silent_server(ONE_SEGMENT);
    told_beside_a_silent_server(TWO_SEGMENTS);
}

/// Bytes of a client's hello.
const ONE_SEGMENT: usize = 100;
const TWO_SEGMENTS: usize = 2000;

fn told_beside_a_silent_server(bytes: usize) {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, bytes, Does::TakeOver);
    let capture = Capture::start_all(&wire.client);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    let own = port(&client);
    client.write_all(&vec![1; bytes]).unwrap();
    server.read_exact(&mut vec![0; bytes]).unwrap();
    engine.wait_for("flow_taken_over", 1);
    std::thread::sleep(Duration::from_millis(100)); // what is told late is told by then
    let packets = segments(capture);
    let told: Vec<&Segment> = packets.iter().filter(|p| p.from == PORT && p.flags == ACK).collect();
    let sent: Vec<&Segment> = packets.iter().filter(|p| p.from == own && p.payload > 0).collect();
    let [once] = told.as_slice() else { panic!("{packets:?}") };
    assert_eq!(once.payload, 0);
    let first = sent.first().unwrap();
    assert_eq!(once.timestamps.unwrap().1, first.timestamps.unwrap().0);
    // Its SYN-ACK acknowledged the byte before its first.
    let answered = packets.iter().find(|p| p.from == PORT && p.flags & SYN != 0).unwrap();
    assert_eq!(once.acknowledged, answered.acknowledged.wrapping_add(bytes as u32));
}

#[test]
fn a_client_whose_server_answers_soon_is_told_by_the_answer_alone() {
    told_by_the_answer(ONE_SEGMENT);
    told_by_the_answer(TWO_SEGMENTS);
}

fn told_by_the_answer(bytes: usize) {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, bytes, Does::TakeOver);
    let capture = Capture::start_all(&wire.client);
    let listener = wire.listen();
    const FLOWS: u64 = 20;
    let mut ports = HashSet::new();
    for _ in 0..FLOWS {
        let (mut client, mut server) = wire.pair(&listener);
        ports.insert(port(&client));
        client.write_all(&vec![1; bytes]).unwrap();
        server.read_exact(&mut vec![0; bytes]).unwrap();
        server.write_all(&[2; 100]).unwrap();
        client.read_exact(&mut [0; 100]).unwrap();
    }
    engine.wait_for("flow_taken_over", FLOWS);
    let packets = capture.stop_all();
    // On a loaded machine an answer may be late; not each of so many.
    let by_the_answer = ports.iter().filter(|own| {
        let mut told = packets.iter().filter_map(|frame| {
            let (to, segment) = read(frame)?;
            (segment.from == PORT && to == **own && segment.flags & (SYN | FIN) == 0)
                .then_some(segment)
        });
        told.next().is_some_and(|first| first.payload > 0)
    });
    assert!(by_the_answer.count() > 0);
}

fn port(client: &TcpStream) -> u16 {
    client.local_addr().as_ref().map(SocketAddr::port).unwrap()
}

fn segments(capture: Capture) -> Vec<Segment> {
    capture.stop_all().iter().filter_map(|frame| read(frame)).map(|(_, segment)| segment).collect()
}

/// A segment, and the port it goes to; `None` of what is no TCP over IPv4.
fn read(frame: &[u8]) -> Option<(u16, Segment)> {
    let ip = frame.get(14..).filter(|ip| frame[12..14] == [8, 0] && ip.get(9) == Some(&6))?;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let tcp = ip.get(usize::from(ip[0] & 15) * 4..total)?;
    let four = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
    let header = usize::from(tcp[12] >> 4) * 4;
    // Of a SYN they stand elsewhere (RFC 7323 appendix A).
    let at = (20..header.saturating_sub(9)).find(|at| tcp[*at..*at + 2] == [8, 10]);
    Some((
        u16::from_be_bytes([tcp[2], tcp[3]]),
        Segment {
            from: u16::from_be_bytes([tcp[0], tcp[1]]),
            flags: tcp[13] & 0x17,
            acknowledged: four(8),
            payload: tcp.len() - header,
            timestamps: at.map(|at| (four(at + 2), four(at + 6))),
        },
    ))
}
