//! Sizes of a taken flow's packets: each end's own MSS and port, and ICMP errors of a path, which reach
//! the one of the two sockets that they are about and nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use weir_dataplane::Attach;
use wire::capture::Capture;
use wire::ends::{ALL, Emulated, Ends, PLAIN};
use wire::engine::{Does, Engine, PORT, judge_all};
use wire::frames::Frame;
use wire::packets::{CLIENT_TO_SERVER, SERVER_TO_CLIENT, frame, ipv4, ipv6, tcp, too_big};
use wire::raw::{ACK, Arrived, RAW_CLIENT, RAW_SERVER, Raw};
use wire::{Wire, noise};

const BYTES: u32 = 30_000;
/// Bytes of a segment that fits every port here, and is too large for a path that is said to be small.
const PIECE: usize = 1200;

struct Taken {
    wire: Wire,
    engine: Engine,
    client: Raw,
    server: Raw,
    _emulated: Emulated,
}

/// A flow between ends of this kind, which said these sizes, taken over.
fn taken(ends: &Ends, mtu: u32, sizes: [u16; 2]) -> Taken {
    let wire = Wire::with_mtu(mtu);
    let emulated = Emulated::start(&wire, ends);
    wire.without_offloads();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 5, Does::TakeOver);
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    for (end, size) in [(&mut client, sizes[0]), (&mut server, sizes[1])] {
        end.options = [&[2, 4][..], &size.to_be_bytes()].concat();
        end.behind_program = true;
    }
    Raw::shake(&mut client, &mut server);
    client.send(0, b"hello");
    server.expect("the hello", |a| a.payload == b"hello");
    server.acknowledge(0, 5);
    engine.wait_for("flow_taken_over", 1);
    Taken { wire, engine, client, server, _emulated: emulated }
}

/// Says `BYTES` bytes after `at`, and waits until they were acknowledged.
fn say(from: &Raw, at: i64) {
    for (number, piece) in (0..).zip(noise(BYTES as usize).chunks(PIECE)) {
        from.send(at + number * PIECE as i64, piece);
    }
    let end = from.first.wrapping_add(at as u32 + BYTES);
    from.expect("an acknowledgement of all", |a| a.acknowledged == end);
}

/// Hears `BYTES` bytes after the peer's first `skip`, acknowledging each segment that `takes` lets
/// in; `own` bytes were said. The sizes of the segments.
fn hear(at: &Raw, own: i64, skip: u32, takes: impl Fn(&Arrived) -> bool) -> Vec<usize> {
    let mut sizes = vec![];
    let mut heard = skip;
    while heard < skip + BYTES {
        let next = at.expected.wrapping_add(heard);
        let came = at.expect_within(Duration::from_secs(20), "the next bytes", |a| {
            !a.payload.is_empty() && a.sequence == next && takes(a)
        });
        sizes.push(came.payload.len());
        heard += came.payload.len() as u32;
        at.acknowledge(own, heard);
    }
    sizes
}

#[test]
fn segments_to_an_end_are_as_large_as_it_takes_and_its_port_carries() {
    // MTU of the ports; MSS that client and server say; largest payload to client and server.
    for (mtu, said, largest) in [
        (1500, [600, 1460], [600, 1460]),
        (1500, [8960, 536], [1460, 536]),
        (1280, [1460, 8960], [1240, 1240]),
        (9000, [8960, 1460], [8960, 1460]),
    ] {
        let Taken { client, server, .. } = &taken(&PLAIN, mtu, said);
        say(server, 0);
        let to_client = hear(client, 5, 0, |_| true);
        say(client, 5);
        let to_server = hear(server, i64::from(BYTES), 5, |_| true);
        let found = [to_client, to_server].map(|sizes| sizes.into_iter().max().unwrap());
        assert_eq!(found, largest, "MTU {mtu}, MSS {said:?}");
    }
}

/// A packet as one of the sockets sends it, as much as an ICMP error quotes.
fn quoted(from: &Raw, at: u32) -> Vec<u8> {
    let sequence = from.first.wrapping_add(at);
    ipv4(from.local.0, from.remote.0, 6, 0x4000, &tcp([from.local.1, from.remote.1], sequence, ACK))
}

/// ICMP messages in a capture, as their end may see them within its tag and tunnel.
fn icmp_messages(frames: &[Vec<u8>], of: &[u8]) -> usize {
    frames.iter().filter(|frame| frame.windows(of.len()).any(|part| part == of)).count()
}

#[test]
fn fragmentation_needed_reaches_the_socket_that_it_is_about() {
    const PATH: u32 = 700;
    for ends in [&PLAIN, &ALL[0], &ALL[1], &ALL[5]] {
        let Taken { wire, engine, client, server, .. } = &taken(ends, 1500, [1400, 1400]);
        let name = ends.name;
        let address = |end: &Raw| IpAddr::from(end.local.0);
        // About what the socket that speaks for the client sends to the server.
        let capture = Capture::start_all(&wire.client);
        say(client, 5);
        let error = too_big(&quoted(client, 5), address(client), address(server), PATH);
        wire.send_frames(&wire.server, &[frame(SERVER_TO_CLIENT, 0x0800, &error)]);
        engine.wait_for("icmp_to_engine", 1);
        let room = (PATH - 40) as usize;
        let sizes = hear(server, 0, 5, |a| a.payload.len() <= room);
        // As large as that, but for how what was sent before is cut.
        assert!(*sizes.iter().max().unwrap() > 500, "{name}: to the server, {sizes:?}");
        // The client neither hears of it nor is sent smaller segments.
        assert_eq!(icmp_messages(&capture.stop_all(), &error[20..]), 0, "{name}");
        say(server, 0);
        let sizes = hear(client, 5 + i64::from(BYTES), 0, |_| true);
        assert!(*sizes.iter().max().unwrap() > 1300, "{name}: to the client, {sizes:?}");

        // And about what the other one sends to the client.
        let capture = Capture::start_all(&wire.server);
        say(server, i64::from(BYTES));
        let error = too_big(&quoted(server, BYTES), address(server), address(client), PATH);
        wire.send_frames(&wire.client, &[frame(CLIENT_TO_SERVER, 0x0800, &error)]);
        engine.wait_for("icmp_to_engine", 2);
        let sizes = hear(client, 5 + i64::from(BYTES), BYTES, |a| a.payload.len() <= room);
        assert!(*sizes.iter().max().unwrap() > 500, "{name}: to the client, {sizes:?}");
        assert_eq!(icmp_messages(&capture.stop_all(), &error[20..]), 0, "{name}");
    }
}

#[test]
fn an_icmp_error_about_no_flow_of_ours_crosses() {
    let Taken { wire, engine, client, server, .. } = &taken(&PLAIN, 1500, [1400, 1400]);
    let capture = Capture::start_all(&wire.client);
    let mut other = quoted(client, 5);
    other[20..22].copy_from_slice(&4999u16.to_be_bytes());
    let address = |end: &Raw| IpAddr::from(end.local.0);
    let error = too_big(&other, address(client), address(server), 700);
    wire.send_frames(&wire.server, &[frame(SERVER_TO_CLIENT, 0x0800, &error)]);
    assert_eq!(icmp_messages(&capture.stop_all(), &error[20..]), 1);
    assert_eq!(engine.counter("icmp_to_engine"), 0);
    assert_eq!(server.local.1, PORT);
}

#[test]
fn a_path_that_swallows_large_packets_without_a_word_is_found_out() {
    // As behind a tunnel, whose own end the router's ICMP error goes to.
    let Taken { client, server, .. } = &taken(&ALL[1], 1500, [1400, 1400]);
    say(client, 5);
    let sizes = hear(server, 0, 5, |a| a.payload.len() <= 1100);
    assert!(sizes.iter().all(|size| *size <= 1100));
}

#[test]
fn packet_too_big_reaches_the_socket_that_it_is_about() {
    const PATH: u32 = 1300;
    let wire = Wire::new();
    wire.without_offloads();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1, Does::TakeOver);
    let listener = wire.listen_at("fd77::2");
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"!").unwrap();
    server.read_exact(&mut [0]).unwrap();
    engine.wait_for("flow_taken_over", 1);
    // Nothing is acknowledged: what was sent stays on its way, and an error may be about it.
    wire.run(&wire.server, "ip -6 route add blackhole fd77::1/128");
    let sent = noise(40_000);
    let capture = Capture::start_all(&wire.server);
    client.write_all(&sent).unwrap();
    let frames = capture.stop_all();
    let first =
        frames.iter().filter_map(|frame| Frame::read(frame)).find(|f| !f.payload.is_empty());
    let first = first.expect("what the socket sends");
    let (IpAddr::V6(from), IpAddr::V6(to)) = (first.from.ip(), first.to.ip()) else { panic!() };
    let head = tcp([first.from.port(), first.to.port()], first.sequence, ACK);
    let quoted = ipv6(from.octets(), to.octets(), 6, &head);
    let error = too_big(&quoted, from.into(), to.into(), PATH);
    let captures = [&wire.client, &wire.server].map(|end| Capture::start_all(end));
    wire.send_frames(&wire.server, &[frame(SERVER_TO_CLIENT, 0x86dd, &error)]);
    engine.wait_for("icmp_to_engine", 1);
    wire.run(&wire.server, "ip -6 route del blackhole fd77::1/128");
    let mut came = vec![0; sent.len()];
    server.read_exact(&mut came).unwrap();
    assert!(came == sent);
    let [at_client, at_server] = captures.map(Capture::stop_all);
    assert_eq!(icmp_messages(&at_client, &error[40..]), 0, "the client heard of it");
    // From the error on; what was sent once before has the old size.
    let told = at_server.iter().position(|frame| frame.ends_with(&error)).unwrap();
    let after: Vec<usize> = at_server[told..]
        .iter()
        .filter_map(|frame| Frame::read(frame))
        .filter(|frame| frame.from == first.from && !frame.payload.is_empty())
        .map(|frame| frame.length)
        .collect();
    let large = after.iter().filter(|length| **length > PATH as usize).count();
    assert!(large <= 1 && after.len() > 20, "{after:?}");
    assert!(after.contains(&(PATH as usize)), "{after:?}");
}
