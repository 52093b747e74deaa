//! QUIC of clients whose TCP is decrypted: refused, so that they fall back at once (SPEC D14).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;
use weir_dataplane::namespace::inside;
use weir_dataplane::{Attach, FallbackCause, QuicJudge, QuicVerdict};
use weir_policy::snapshot::{Layer2Fallback, PortRange, QuicAction, Side};
use weir_policy::{Candidate, Snapshot};
use wire::capture::Capture;
use wire::engine::{Engine, snapshot};
use wire::packets::{CLIENT_TO_SERVER, checksum, frame, ipv4, ipv6};
use wire::{CLIENT, SERVER, Wire};

fn rules(quic: QuicAction) -> Snapshot {
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    rules.client_proxies[0].detection_ports = vec![PortRange { first: 443, last: 443 }];
    rules.profiles[0].client_policies[0].quic = quic;
    rules
}

/// The client is told that nobody listens.
fn refused(client: &UdpSocket) {
    let error = client.recv(&mut [0; 9]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

/// A connected socket of the client that sent a first datagram as long as QUIC's to UDP port 443.
fn client(wire: &Wire, from: &str, to: &str) -> UdpSocket {
    inside(&wire.client, || {
        let socket = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0)).unwrap();
        socket.connect((to.parse::<IpAddr>().unwrap(), 443)).unwrap();
        socket.set_read_timeout(Some(wire::PATIENCE)).unwrap();
        socket.send(&[0xc0; 1200]).unwrap();
        socket
    })
    .unwrap()
}

fn server(wire: &Wire, address: &str) -> UdpSocket {
    let address: IpAddr = address.parse().unwrap();
    let socket = inside(&wire.server, || UdpSocket::bind((address, 443)).unwrap()).unwrap();
    socket.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    socket
}

#[test]
fn blocked_quic_is_refused_in_the_servers_name() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    wire.crosses("fd77::1", "fd77::2");
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    for (number, (from, to)) in [(CLIENT, SERVER), ("fd77::1", "fd77::2")].into_iter().enumerate() {
        let server = server(&wire, to);
        let begun = Instant::now();
        let error = client(&wire, from, to).recv(&mut [0; 9]).unwrap_err();
        println!("{to}: refused after {:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "told, not left to its timer");
        assert_eq!(engine.counter("quic_dropped"), number as u64 + 1);
        server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(server.recv(&mut [0; 9]).is_err());
    }
    assert_eq!(engine.counter("quic_silently_dropped"), 0);
}

#[test]
fn bypassed_quic_crosses_as_does_quic_without_decryption() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    let server = server(&wire, SERVER);
    let crosses = |what: &str| {
        let socket = client(&wire, CLIENT, SERVER);
        let mut bytes = [0; 2000];
        let (length, from) = server.recv_from(&mut bytes).expect(what);
        assert_eq!((length, from), (1200, socket.local_addr().unwrap()), "{what}");
        server.send_to(b"answer", from).unwrap();
        assert_eq!(socket.recv(&mut bytes).expect(what), 6);
    };
    engine.dataplane.apply(&rules(QuicAction::Bypass)).unwrap();
    crosses("bypass");
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    engine.dataplane.fall_back(FallbackCause::Told, true).unwrap();
    crosses("fallback: its TCP is not decrypted either");
    engine.dataplane.fall_back(FallbackCause::Told, false).unwrap();
    let mut excepted = rules(QuicAction::Block);
    let client = CLIENT.parse::<IpAddr>().unwrap().into();
    excepted.profiles[0].client_policies[0].source_exceptions = vec![client];
    engine.dataplane.apply(&excepted).unwrap();
    crosses("source exception");
    assert_eq!(engine.counter("quic_dropped"), 0);
}

#[test]
fn refusals_are_bounded() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    let flood = format!(
        "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         for i in range(3000): s.sendto(bytes(1200),('{SERVER}',443))"
    );
    wire.python(&wire.client, &flood, &[]);
    assert_eq!(engine.counter("quic_dropped"), 3000);
    assert!(engine.counter("quic_silently_dropped") > 0, "{:?}", engine.dataplane.counters());
}

/// Datagrams that begin with these bytes: the judge of these tests needs no QUIC. By their first bit they are
/// packets that could begin a connection.
const EXCEPTED: u8 = 0x81;
const HALF: u8 = 0x82;
const OTHER: u8 = 0x83;
const FOLLOWS: u8 = 0x84;
const EARLY: u8 = 0x85;
/// By theirs these could not.
const SHORT: u8 = 0x41;

#[derive(Default)]
struct Judge {
    /// Policy as it is now excepts nothing.
    changed: Arc<AtomicBool>,
    /// Policy as it is now blocks nothing.
    passes: Arc<AtomicBool>,
    /// Says when it was asked, and waits to be told.
    stops: Option<(Sender<()>, Mutex<Receiver<()>>)>,
}

impl QuicJudge for Judge {
    fn judge(&self, candidate: &Candidate, begun: &[&[u8]], datagrams: &[&[u8]]) -> QuicVerdict {
        assert_eq!(candidate.server.port(), 443);
        assert_eq!(candidate.from, Side::A);
        if let Some((asked, told)) = &self.stops {
            asked.send(()).unwrap();
            let _ = told.lock().unwrap().recv();
        }
        if self.passes.load(Ordering::Relaxed) {
            return QuicVerdict::Pass;
        }
        let starts: Vec<u8> = datagrams.iter().map(|datagram| datagram[0]).collect();
        if begun.iter().any(|begun| datagrams.contains(begun)) {
            return QuicVerdict::Same;
        }
        let except = QuicVerdict::Except("bank.example".into());
        match starts.as_slice() {
            _ if self.changed.load(Ordering::Relaxed) => QuicVerdict::Refuse,
            [EXCEPTED] | [HALF, HALF] | [EARLY, EXCEPTED] => except,
            [HALF] => QuicVerdict::Wait,
            [EARLY] => QuicVerdict::NoHello { may_follow: true },
            [FOLLOWS | SHORT] => QuicVerdict::NoHello { may_follow: false },
            _ => QuicVerdict::Refuse,
        }
    }

    fn excepts(&self, _: &Candidate, name: &str) -> bool {
        assert_eq!(name, "bank.example");
        !self.changed.load(Ordering::Relaxed)
    }
}

fn judged(engine: &Engine) {
    engine.dataplane.judge_quic_by(Box::new(Judge::default()));
}

/// A datagram as long as QUIC's first, which differs in each place from one that is shifted.
fn datagram(first: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..1201_u32).map(|at| ((at * 7) >> 2) as u8).collect();
    bytes[0] = first;
    bytes
}

fn connected(wire: &Wire, from: &str, to: &str) -> UdpSocket {
    let socket = inside(&wire.client, || {
        let socket = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0)).unwrap();
        socket.connect((to.parse::<IpAddr>().unwrap(), 443)).unwrap();
        socket
    })
    .unwrap();
    socket.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    socket
}

fn receives(server: &UdpSocket, from: &UdpSocket, wanted: &[u8]) {
    let mut bytes = [0; 4000];
    let (length, sender) = server.recv_from(&mut bytes).unwrap();
    assert_eq!(sender, from.local_addr().unwrap());
    assert!(&bytes[..length] == wanted, "other bytes came, {length} of {}", wanted.len());
}

#[test]
fn excepted_quic_crosses_with_its_first_datagrams_and_all_that_follow() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    judged(&engine);
    for (number, (from, to)) in [(CLIENT, SERVER), ("fd77::1", "fd77::2")].into_iter().enumerate() {
        wire.crosses(from, to);
        let server = server(&wire, to);
        let client = connected(&wire, from, to);
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
        assert_eq!(engine.counter("quic_excepted"), number as u64 + 1);
        // Another port is another connection.
        let other = connected(&wire, from, to);
        other.send(&datagram(SHORT)).unwrap();
        let error = other.recv(&mut [0; 9]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_hello_over_several_datagrams_waits_for_them_and_crosses_whole() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    judged(&engine);
    let server = server(&wire, SERVER);
    let client = connected(&wire, CLIENT, SERVER);
    client.send(&datagram(HALF)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(server.recv(&mut [0; 9]).is_err(), "a half crossed");
    server.set_read_timeout(Some(wire::PATIENCE)).unwrap();
    client.send(&datagram(HALF)).unwrap();
    for _ in 0..2 {
        receives(&server, &client, &datagram(HALF));
    }
    // A client's kernel may be given both at once (UDP_SEGMENT).
    let client = connected(&wire, CLIENT, SERVER);
    setsockopt(&client, UdpGsoSegment, &1201).unwrap();
    client.send(&[datagram(HALF), datagram(HALF)].concat()).unwrap();
    for _ in 0..2 {
        receives(&server, &client, &datagram(HALF));
    }
    assert_eq!(engine.counter("quic_excepted"), 2);
}

#[test]
fn an_excepted_connection_stays_so_with_the_next_engine() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    judged(&engine);
    let server = server(&wire, SERVER);
    let client = connected(&wire, CLIENT, SERVER);
    client.send(&datagram(EXCEPTED)).unwrap();
    receives(&server, &client, &datagram(EXCEPTED));
    drop((engine, held));
    let (engine, _held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    judged(&engine);
    for _ in 0..2 {
        client.send(b"more").unwrap();
        receives(&server, &client, b"more");
    }
    assert_eq!(
        engine.counter("quic_dropped"),
        2,
        "but for the name, which its policy is asked about"
    );
}

/// A hello that an excepted name is in, before one that asks for another: on the same ports nothing begins
/// without being judged, and what is not excepted ends what was.
#[test]
fn another_hello_on_the_ports_of_an_excepted_one_is_judged() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    judged(&engine);
    let server = server(&wire, SERVER);
    let client = connected(&wire, CLIENT, SERVER);
    client.send(&datagram(EXCEPTED)).unwrap();
    receives(&server, &client, &datagram(EXCEPTED));
    client.send(&datagram(OTHER)).unwrap();
    refused(&client);
    client.send(&datagram(SHORT)).unwrap();
    refused(&client);
    // One after the other in one frame (UDP_SEGMENT).
    client.send(&datagram(EXCEPTED)).unwrap();
    receives(&server, &client, &datagram(EXCEPTED));
    setsockopt(&client, UdpGsoSegment, &1201).unwrap();
    client.send(&[datagram(SHORT), datagram(OTHER)].concat()).unwrap();
    refused(&client);
    // In halves.
    let client = connected(&wire, CLIENT, SERVER);
    client.send(&datagram(EXCEPTED)).unwrap();
    receives(&server, &client, &datagram(EXCEPTED));
    client.send(&datagram(HALF)).unwrap();
    client.send(&datagram(OTHER)).unwrap();
    refused(&client);
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(server.recv(&mut [0; 9]).is_err(), "something of another connection crossed");
}

#[test]
fn a_changed_policy_applies_to_an_excepted_connection_that_goes_on() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    let changed = Arc::new(AtomicBool::new(false));
    let judge = Judge { changed: Arc::clone(&changed), ..Judge::default() };
    engine.dataplane.judge_quic_by(Box::new(judge));
    let server = server(&wire, SERVER);
    let client = connected(&wire, CLIENT, SERVER);
    client.send(&datagram(EXCEPTED)).unwrap();
    receives(&server, &client, &datagram(EXCEPTED));
    // One that says the same of it, and a quarantine.
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    engine.dataplane.quarantine("192.0.2.1".parse().unwrap(), None).unwrap();
    for _ in 0..3 {
        client.send(&datagram(SHORT)).unwrap();
        receives(&server, &client, &datagram(SHORT));
    }
    assert_eq!(engine.counter("quic_dropped"), 1, "none waits for an answer about its name");
    // And one that does not except it.
    changed.store(true, Ordering::Relaxed);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    client.send(&datagram(SHORT)).unwrap();
    refused(&client);
    // Nor is it excepted when the first one comes back.
    changed.store(false, Ordering::Relaxed);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    client.send(&datagram(SHORT)).unwrap();
    refused(&client);
    assert_eq!(engine.counter("quic_excepted"), 1);
}

/// Dropped by a policy, and judged by the next, which blocks no QUIC.
#[test]
fn what_policy_blocks_no_more_passes_without_an_exception() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    let passes = Arc::new(AtomicBool::new(true));
    let judge = Judge { passes: Arc::clone(&passes), ..Judge::default() };
    engine.dataplane.judge_quic_by(Box::new(judge));
    let server = server(&wire, SERVER);
    let client = connected(&wire, CLIENT, SERVER);
    client.send(&datagram(EXCEPTED)).unwrap();
    receives(&server, &client, &datagram(EXCEPTED));
    passes.store(false, Ordering::Relaxed);
    client.send(&datagram(SHORT)).unwrap();
    refused(&client);
    assert_eq!(engine.counter("quic_excepted"), 0);
}

/// A client that goes on before its first datagram is judged, or whose packets overtake it.
#[test]
fn what_comes_before_the_first_datagram_is_judged_ends_no_connection() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    let (asked, is_asked) = channel();
    let (tell, told) = channel();
    let judge = Judge { stops: Some((asked, Mutex::new(told))), ..Judge::default() };
    engine.dataplane.judge_quic_by(Box::new(judge));
    let server = server(&wire, SERVER);
    let client = connected(&wire, CLIENT, SERVER);
    client.send(&datagram(EXCEPTED)).unwrap();
    is_asked.recv_timeout(wire::PATIENCE).unwrap();
    client.send(&datagram(SHORT)).unwrap();
    engine.wait_for("quic_dropped", 2);
    tell.send(()).unwrap();
    receives(&server, &client, &datagram(EXCEPTED));
    receives(&server, &client, &datagram(SHORT));
    // What is said with the hello, before it.
    drop(tell);
    let client = connected(&wire, CLIENT, SERVER);
    client.send(&datagram(EARLY)).unwrap();
    client.send(&datagram(EXCEPTED)).unwrap();
    receives(&server, &client, &datagram(EARLY));
    receives(&server, &client, &datagram(EXCEPTED));
}

/// Frames as from another host: what is wrong with them is not made right.
#[test]
fn datagrams_with_wrong_checksums_stay_wrong() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    wire.crosses("fd77::1", "fd77::2");
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    judged(&engine);
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
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses("fd77::1", "fd77::2");
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    judged(&engine);
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

/// One that floods is not heard; others are.
#[test]
fn a_client_that_floods_silences_nobody_else() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    let other = "10.77.0.77";
    wire.add_address(&wire.client, other);
    wire.crosses(other, SERVER);
    engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
    judged(&engine);
    let server = server(&wire, SERVER);
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
            let client = connected(&wire, other, SERVER);
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
