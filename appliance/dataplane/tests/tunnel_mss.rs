//! Tunnels that fragment: the ends of a flow that might be taken say no larger segments than fit the
//! ports with the tunnel's header, and what is fragmented all the same changes no byte of a taken flow.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::net::Shutdown;

use weir_dataplane::Attach;
use wire::capture::Capture;
use wire::ends::{ALL, Emulated, Ends, OUTER, PLAIN, Tunnel};
use wire::engine::{Does, Engine, judge_all};
use wire::frames::Frame;
use wire::packets::{CLIENT_TO_SERVER, SERVER_TO_CLIENT, frame, ipv4, tcp};
use wire::raw::{ACK, PUSH, RAW_CLIENT, RAW_SERVER, Raw, SYN};
use wire::{Wire, noise};

const BYTES: usize = 400_000;

/// Ends whose routes are the plain ports', with nothing taken off for the tunnel.
fn crosses_whole(ends: &Ends, mtu: u32, does: Does) {
    let wire = Wire::with_mtu(mtu);
    let emulated = Emulated::start(&wire, ends);
    wire.without_offloads();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1, does);
    let captures =
        [&wire.client, &wire.server].map(|end| Capture::start_all_of_length(end, mtu + 18));
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    let sent = noise(BYTES);
    let (there, back) = std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            let mut came = vec![];
            let result = server.read_to_end(&mut came);
            let _ = server.write_all(&came);
            result.map(|_| came)
        });
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut back = vec![];
        let result = client.read_to_end(&mut back);
        (echo.join().unwrap(), result.map(|_| back))
    });
    let name = ends.name;
    assert!(there.expect(name) == sent && back.expect(name) == sent, "{name}, MTU {mtu}");
    let counter = if does == Does::TakeOver { "flow_taken_over" } else { "flow_released" };
    engine.wait_for(counter, 1);
    // One that comes again counts again.
    let clamped = engine.counter("syn_mss_clamped");
    assert!(if ends.tunnel == Tunnel::None { clamped == 0 } else { clamped >= 2 }, "{name}");
    assert_eq!(engine.counter("outer_fragment_passed"), 0, "{name}");
    assert_eq!(emulated.mismatches(), [0, 0], "{name}");
    let room = (mtu - ends.tunnel.length() - 40) as u16;
    for frame in captures.into_iter().flat_map(Capture::stop_all) {
        let Some(frame) = Frame::read(&frame) else { continue };
        assert!(frame.whole, "{name}: a checksum or a length: {frame:x?}");
        assert!(frame.outer_length <= mtu as usize, "{name}: {}", frame.outer_length);
        if frame.flags & SYN != 0 {
            let said = u16::from_be_bytes([frame.options[2], frame.options[3]]);
            // As the end itself said it, or as it crossed.
            assert!(said == room || said == mtu as u16 - 40, "{name}: MSS {said}");
        }
    }
}

#[test]
fn taken_flow_of_ends_that_know_of_no_tunnel_crosses_unfragmented() {
    for ends in [&PLAIN, &ALL[1], &ALL[2], &ALL[3], &ALL[5]] {
        crosses_whole(ends, 1500, Does::TakeOver);
    }
    crosses_whole(&ALL[3], 9000, Does::TakeOver);
}

#[test]
fn released_flow_of_ends_that_know_of_no_tunnel_crosses_unfragmented() {
    for ends in [&PLAIN, &ALL[1], &ALL[2], &ALL[3], &ALL[5]] {
        crosses_whole(ends, 1500, Does::Release);
    }
}

fn open(does: Does) -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 5, does);
    wire.crosses(wire::CLIENT, wire::SERVER);
    (wire, engine)
}

#[test]
fn only_what_a_tunnel_leaves_no_room_for_is_another_in_a_syn() {
    let (wire, engine) = open(Does::Hold);
    let mss = |size: u16| [&[2, 4][..], &size.to_be_bytes()].concat();
    let cases = [
        (Tunnel::Gre, mss(1460), mss(1436)),
        (Tunnel::GreKey([7, 7]), mss(8960), mss(1432)),
        (Tunnel::Ipip, mss(1460), mss(1440)),
        (Tunnel::Gre, mss(1436), mss(1436)),
        (Tunnel::None, mss(1460), mss(1460)),
        (Tunnel::Gre, vec![4, 2, 1, 1], vec![4, 2, 1, 1]),
        (Tunnel::Gre, vec![], vec![]),
        // At an odd place, with what a checksum is carried over by.
        (Tunnel::Gre, vec![1, 2, 4, 255, 255, 1, 1, 1], vec![1, 2, 4, 5, 156, 1, 1, 1]),
        (Tunnel::Gre, vec![1, 2, 4, 5, 180, 3, 3, 7], vec![1, 2, 4, 5, 156, 3, 3, 7]),
    ];
    let capture = Capture::start_all(&wire.server);
    for (port, (tunnel, said, _)) in (4000..).zip(&cases) {
        let (mut client, mut server) = Raw::ends(&wire, port);
        (client.tunnel, server.tunnel) = (*tunnel, *tunnel);
        client.options = said.clone();
        client.send_syn(|| server.receive_some(|a| a.flags == SYN));
    }
    let frames: Vec<Frame> = capture.stop_all().iter().filter_map(|f| Frame::read(f)).collect();
    for (port, (tunnel, said, crossed)) in (4000..).zip(&cases) {
        let syn = frames.iter().find(|f| f.from.port() == port && f.flags == SYN).unwrap();
        assert_eq!(&syn.options, crossed, "{said:?} in {tunnel:?}");
        assert!(syn.whole, "the checksum of {said:?} in {tunnel:?}");
    }
    assert!(engine.counter("syn_mss_clamped") >= 5);
}

/// The router of an end fragments the tunnel's packet, as one does whose DF is clear.
fn outer_fragments(end: usize, packet: &[u8]) -> Vec<Vec<u8>> {
    let inside = [&[0, 0, 8, 0][..], packet].concat();
    let cut = 480;
    let mac = if end == 0 { CLIENT_TO_SERVER } else { SERVER_TO_CLIENT };
    [(0x2000, &inside[..cut]), (cut as u16 / 8, &inside[cut..])]
        .map(|(place, part)| frame(mac, 0x0800, &ipv4(OUTER[end], OUTER[1 - end], 47, place, part)))
        .to_vec()
}

#[test]
fn fragmented_tunnel_packets_put_no_byte_into_a_taken_flow() {
    for (does, counter) in [(Does::TakeOver, "flow_taken_over"), (Does::Hold, "flow_held")] {
        let (wire, engine) = open(does);
        let (mut client, mut server) = Raw::ends(&wire, 4000);
        (client.tunnel, server.tunnel) = (Tunnel::Gre, Tunnel::Gre);
        Raw::shake(&mut client, &mut server);
        client.send(0, b"hello");
        engine.wait_for(counter, 1);
        let head = tcp([server.local.1, 4000], server.first, ACK | PUSH);
        let packet = ipv4(RAW_SERVER, RAW_CLIENT, 6, 0x4000, &[head, vec![7; 1000]].concat());
        let fragments = outer_fragments(1, &packet);
        let capture = Capture::start_all(&wire.client);
        wire.send_frames(&wire.server, &fragments);
        engine.wait_for("fragment_dropped", 1);
        engine.wait_for("outer_fragment_passed", 2);
        let seen = capture.stop_all();
        assert!(!seen.contains(&fragments[0]), "the first fragment crossed");
        // Without it nobody makes anything of the rest.
        assert!(seen.contains(&fragments[1]));
        // Of other ends nothing is known.
        let other = ipv4(RAW_SERVER, [10, 77, 0, 99], 6, 0x4000, &packet[20..]);
        let fragments = outer_fragments(1, &other);
        let capture = Capture::start_all(&wire.client);
        wire.send_frames(&wire.server, &fragments);
        engine.wait_for("outer_fragment_passed", 4);
        let seen = capture.stop_all();
        assert!(fragments.iter().all(|fragment| seen.contains(fragment)));
        assert_eq!(engine.counter("fragment_dropped"), 1);
    }
}
