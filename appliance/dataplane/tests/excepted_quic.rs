//! QUIC that passes though policy blocks it, by the name that its client asks for (SPEC D14).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;
use weir_policy::snapshot::QuicAction;
use wire::capture::Capture;
use wire::packets::{CLIENT_TO_SERVER, checksum, frame, ipv4, ipv6};
use wire::quic::{
    BlockedQuic, EARLY, EXCEPTED, FOLLOWS, HALF, Judge, OTHER, SHORT, datagram, hears_nothing,
    receives, refused, rules,
};
use wire::{CLIENT, SERVER};

#[test]
fn excepted_quic_crosses_with_its_first_datagrams_and_all_that_follow() {
    let quic = BlockedQuic::new();
    for (number, (from, to)) in [(CLIENT, SERVER), ("fd77::1", "fd77::2")].into_iter().enumerate() {
        quic.wire.crosses(from, to);
        let server = quic.server_at(to);
        let client = quic.client_at(from, to);
        client.send(&datagram(EXCEPTED)).unwrap();
        receives(&server, &client, &datagram(EXCEPTED));
        // Whatever has a short header, and by another way what goes on with the connection.
        for more in [&b"short"[..], &datagram(SHORT), &datagram(FOLLOWS), &datagram(EXCEPTED)] {
            client.send(more).unwrap();
            receives(&server, &client, more);
            server.send_to(more, client.local_addr().unwrap()).unwrap();
            let mut bytes = [0; 4000];
            let length = client.recv(&mut bytes).unwrap();
            assert!(&bytes[..length] == more);
        }
        assert_eq!(quic.engine.counter("quic_excepted"), number as u64 + 1);
        // Another port is another connection.
        let other = quic.client_at(from, to);
        other.send(&datagram(SHORT)).unwrap();
        refused(&other);
    }
}

#[test]
fn a_hello_over_several_datagrams_waits_for_them_and_crosses_whole() {
    let quic = BlockedQuic::new();
    let (client, server) = (quic.client(), quic.server());
    client.send(&datagram(HALF)).unwrap();
    hears_nothing(&server);
    client.send(&datagram(HALF)).unwrap();
    for _ in 0..2 {
        receives(&server, &client, &datagram(HALF));
    }
    // A client's kernel may be given both at once (UDP_SEGMENT).
    let client = quic.client();
    setsockopt(&client, UdpGsoSegment, &1201).unwrap();
    client.send(&[datagram(HALF), datagram(HALF)].concat()).unwrap();
    for _ in 0..2 {
        receives(&server, &client, &datagram(HALF));
    }
    assert_eq!(quic.engine.counter("quic_excepted"), 2);
}

#[test]
fn an_excepted_connection_stays_so_with_the_next_engine() {
    let quic = BlockedQuic::new();
    let server = quic.server();
    let client = quic.begun(&server);
    let quic = quic.with_the_next_engine();
    for _ in 0..2 {
        client.send(b"more").unwrap();
        receives(&server, &client, b"more");
    }
    assert_eq!(
        quic.engine.counter("quic_dropped"),
        2,
        "but for the name, which its policy is asked about"
    );
}

/// A hello that an excepted name is in, before one that asks for another: on the same ports nothing begins
/// without being judged.
#[test]
fn another_hello_on_the_ports_of_an_excepted_one_never_crosses() {
    let quic = BlockedQuic::new();
    let server = quic.server();
    let client = quic.begun(&server);
    client.send(&datagram(OTHER)).unwrap();
    // In halves.
    client.send(&datagram(HALF)).unwrap();
    client.send(&datagram(OTHER)).unwrap();
    // One after the other in one frame (UDP_SEGMENT).
    setsockopt(&client, UdpGsoSegment, &1201).unwrap();
    client.send(&[datagram(SHORT), datagram(OTHER)].concat()).unwrap();
    quic.engine.wait_for("quic_dropped", 5);
    hears_nothing(&server);
}

/// Anybody may send what is not excepted in the name of its client, who hears nothing of it.
#[test]
fn what_is_not_excepted_ends_no_connection_that_is() {
    let quic = BlockedQuic::new();
    let server = quic.server();
    let client = quic.begun(&server);
    for forged in [OTHER, HALF] {
        client.send(&datagram(forged)).unwrap();
        for more in [FOLLOWS, EXCEPTED, SHORT].map(datagram) {
            client.send(&more).unwrap();
            receives(&server, &client, &more);
            server.send_to(&more, client.local_addr().unwrap()).unwrap();
            assert_eq!(client.recv(&mut [0; 4000]).unwrap(), more.len());
        }
    }
    // Nor one that is about to begin.
    let client = quic.client();
    client.send(&datagram(HALF)).unwrap();
    client.send(&datagram(EXCEPTED)).unwrap();
    receives(&server, &client, &datagram(EXCEPTED));
}

#[test]
fn a_changed_policy_applies_to_an_excepted_connection_that_goes_on() {
    let changed = Arc::new(AtomicBool::new(false));
    let judge = Judge { changed: Arc::clone(&changed), ..Judge::default() };
    let quic = BlockedQuic::judged_by(judge);
    let dataplane = &quic.engine.dataplane;
    let server = quic.server();
    let client = quic.begun(&server);
    // One that says the same of it, and a quarantine.
    dataplane.apply(&rules(QuicAction::Block)).unwrap();
    dataplane.quarantine("192.0.2.1".parse().unwrap(), None).unwrap();
    for _ in 0..3 {
        client.send(&datagram(SHORT)).unwrap();
        receives(&server, &client, &datagram(SHORT));
    }
    assert_eq!(quic.engine.counter("quic_dropped"), 1, "none waits for an answer about its name");
    // And one that does not except it.
    changed.store(true, Ordering::Relaxed);
    dataplane.apply(&rules(QuicAction::Block)).unwrap();
    client.send(&datagram(SHORT)).unwrap();
    refused(&client);
    // Nor is it excepted when the first one comes back.
    changed.store(false, Ordering::Relaxed);
    dataplane.apply(&rules(QuicAction::Block)).unwrap();
    client.send(&datagram(SHORT)).unwrap();
    refused(&client);
    assert_eq!(quic.engine.counter("quic_excepted"), 1);
}

/// Dropped by a policy, and judged by the next, which blocks no QUIC.
#[test]
fn what_policy_blocks_no_more_passes_without_an_exception() {
    let passes = Arc::new(AtomicBool::new(true));
    let judge = Judge { passes: Arc::clone(&passes), ..Judge::default() };
    let quic = BlockedQuic::judged_by(judge);
    let server = quic.server();
    let client = quic.begun(&server);
    passes.store(false, Ordering::Relaxed);
    client.send(&datagram(SHORT)).unwrap();
    refused(&client);
    assert_eq!(quic.engine.counter("quic_excepted"), 0);
}

/// A client that goes on before its first datagram is judged, or whose packets overtake it.
#[test]
fn what_comes_before_the_first_datagram_is_judged_ends_no_connection() {
    let (asked, is_asked) = channel();
    let (tell, told) = channel();
    let judge = Judge { stops: Some((asked, Mutex::new(told))), ..Judge::default() };
    let quic = BlockedQuic::judged_by(judge);
    let (client, server) = (quic.client(), quic.server());
    client.send(&datagram(EXCEPTED)).unwrap();
    is_asked.recv_timeout(wire::PATIENCE).unwrap();
    client.send(&datagram(SHORT)).unwrap();
    quic.engine.wait_for("quic_dropped", 2);
    tell.send(()).unwrap();
    receives(&server, &client, &datagram(EXCEPTED));
    receives(&server, &client, &datagram(SHORT));
    // What is said with the hello, before it.
    drop(tell);
    let client = quic.client();
    client.send(&datagram(EARLY)).unwrap();
    client.send(&datagram(EXCEPTED)).unwrap();
    receives(&server, &client, &datagram(EARLY));
    receives(&server, &client, &datagram(EXCEPTED));
}

/// Frames as from another host: what is wrong with them is not made right.
#[test]
fn datagrams_with_wrong_checksums_stay_wrong() {
    let BlockedQuic { wire, engine, .. } = &BlockedQuic::new();
    wire.crosses("fd77::1", "fd77::2");
    let capture = Capture::start_all(&wire.server);
    let right = [four(7000, 0), six(7000, &[], 0)];
    let wrong = [four(7001, 1), six(7001, &[], 1)];
    let mut wrong_header = four(7002, 0);
    wrong_header[24] ^= 1;
    // RFC 768: none; RFC 8200 8.1: there must be one.
    let [mut without, mut without_six] = [four(7003, 0), six(7003, &[], 0)];
    without[40..42].copy_from_slice(&[0, 0]);
    without_six[60..62].copy_from_slice(&[0, 0]);
    // Longer than its packet, with the rest where Ethernet pads.
    let mut longer = four(7004, 0);
    longer[16..18].copy_from_slice(&100_u16.to_be_bytes());
    longer[24..26].copy_from_slice(&[0, 0]);
    let header = checksum(&longer[14..34]);
    longer[24..26].copy_from_slice(&header);
    let bad = [&wrong[..], &[wrong_header, without_six, longer]].concat();
    let good = [&right[..], &[without]].concat();
    wire.send_frames(&wire.client, &[bad.as_slice(), &good].concat());
    engine.wait_for("quic_excepted", good.len() as u64);
    let seen = capture.stop_all();
    for good in good {
        assert!(seen.contains(&good), "not forwarded as it came");
    }
    let ports: Vec<_> = seen.iter().filter_map(|frame| source_port(frame)).collect();
    assert_eq!(ports.len(), 3, "{ports:?}");
}

#[test]
fn behind_extension_headers_a_hello_is_found() {
    let BlockedQuic { wire, engine, .. } = &BlockedQuic::new();
    wire.crosses("fd77::1", "fd77::2");
    let capture = Capture::start_all(&wire.server);
    // Hop-by-hop options, those for the destination of 16 bytes, and a fragment header of no fragment.
    let frames = [
        six(7000, &[(0, vec![0, 1, 4, 0, 0, 0, 0])], 0),
        six(7001, &[(0, vec![0, 1, 4, 0, 0, 0, 0]), (60, [&[1, 1, 12][..], &[0; 12]].concat())], 0),
        six(7002, &[(44, vec![0, 0, 0, 0, 0, 0, 7])], 0),
    ];
    wire.send_frames(&wire.client, &frames);
    engine.wait_for("quic_excepted", 3);
    let seen = capture.stop_all();
    for frame in frames {
        assert!(seen.contains(&frame), "not forwarded as it came");
    }
}

/// Its first fragment need not have a byte of QUIC, and the rest names no port.
#[test]
fn nothing_begins_in_fragments_on_the_ports_of_an_excepted_connection() {
    let BlockedQuic { wire, engine, .. } = &BlockedQuic::new();
    wire.send_frames(&wire.client, &[four(7000, 0)]);
    engine.wait_for("quic_excepted", 1);
    let capture = Capture::start_all(&wire.server);
    let whole = udp(7000, &FOUR.concat(), 0);
    let fragments = [(0x2000, &whole[..8]), (1, &whole[8..])].map(|(place, part)| {
        frame(CLIENT_TO_SERVER, 0x800, &ipv4(FOUR[0], FOUR[1], 17, place, part))
    });
    wire.send_frames(&wire.client, &fragments);
    engine.wait_for("fragment_passed", 1);
    assert!(!capture.stop_all().contains(&fragments[0]), "what begins a datagram crossed");
    assert_eq!(engine.counter("quic_silently_dropped"), 1);
}

/// One that floods is not heard; others are.
#[test]
fn a_client_that_floods_silences_nobody_else() {
    let quic = BlockedQuic::new();
    let BlockedQuic { wire, engine, .. } = &quic;
    let other = "10.77.0.77";
    wire.add_address(&wire.client, other);
    wire.crosses(other, SERVER);
    let server = quic.server();
    let flood = format!(
        "import socket,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('{CLIENT}',0))\n\
         p=bytes([{OTHER}])*1200\nend=time.time()+60\n\
         while time.time()<end: s.sendto(p,('{SERVER}',443))"
    );
    let mut flood = std::process::Command::new("ip")
        .args(["netns", "exec"])
        .arg(wire.client.file_name().unwrap())
        .args(["python3", "-c", &flood])
        .spawn()
        .unwrap();
    engine.wait_for("quic_silently_dropped", 5000);
    let answered: Vec<_> = (0..20)
        .map(|_| {
            let client = quic.client_at(other, SERVER);
            client.send(&datagram(EXCEPTED)).unwrap();
            let mut bytes = [0; 2000];
            server.recv_from(&mut bytes).is_ok_and(|(_, from)| from == client.local_addr().unwrap())
        })
        .collect();
    flood.kill().unwrap();
    flood.wait().unwrap();
    assert!(answered.iter().all(|answered| *answered), "{answered:?}");
}

/// To the server's port 443, with a hello that is excepted.
fn udp(source_port: u16, pseudo: &[u8], wrong: u8) -> Vec<u8> {
    let payload = datagram(EXCEPTED);
    let length = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
    let ports = [source_port.to_be_bytes(), 443_u16.to_be_bytes()].concat();
    let mut datagram = [&ports[..], &length, &[0, 0], &payload].concat();
    let sum = checksum(&[pseudo, &[0, 17], &length, &datagram].concat());
    datagram[6..8].copy_from_slice(&[sum[0], sum[1] ^ wrong]);
    datagram
}

const FOUR: [[u8; 4]; 2] = [[10, 77, 0, 1], [10, 77, 0, 2]];

fn four(source_port: u16, wrong: u8) -> Vec<u8> {
    let datagram = udp(source_port, &FOUR.concat(), wrong);
    frame(CLIENT_TO_SERVER, 0x800, &ipv4(FOUR[0], FOUR[1], 17, 0, &datagram))
}

/// `extensions`: kinds, and what they have behind the next one's kind.
fn six(source_port: u16, extensions: &[(u8, Vec<u8>)], wrong: u8) -> Vec<u8> {
    let [from, to] = ["fd77::1", "fd77::2"].map(|end| end.parse::<Ipv6Addr>().unwrap().octets());
    let mut inside = udp(source_port, &[from, to].concat(), wrong);
    let mut next = 17;
    for (kind, extension) in extensions.iter().rev() {
        inside = [&[next][..], extension, &inside].concat();
        next = *kind;
    }
    frame(CLIENT_TO_SERVER, 0x86dd, &ipv6(from, to, next, &inside))
}

/// Of a datagram to port 443 without extension headers.
fn source_port(frame: &[u8]) -> Option<u16> {
    let at = match (frame.get(12..14)?, frame.get(14 + 9)?, frame.get(14 + 6)?) {
        ([8, 0], 17, _) => 34,
        ([0x86, 0xdd], _, 17) => 54,
        _ => return None,
    };
    let [high, low, 1, 0xbb] = frame.get(at..at + 4)? else { return None };
    Some(u16::from_be_bytes([*high, *low]))
}
