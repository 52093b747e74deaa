//! IP fragments of TCP packets, plain, in a VLAN, in a tunnel, and over IPv6: they cross as they came or
//! are dropped as policy says, counted (SPEC D15), and never change a byte of a flow that is ours.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use weir_dataplane::Attach;
use weir_policy::snapshot::{Evasion, EvasionAction, Layer2Fallback};
use wire::Wire;
use wire::capture::Capture;
use wire::engine::{Does, Engine, PORT, judge_all, snapshot};
use wire::packets::{CLIENT_TO_SERVER, frame, ipv4, ipv6, tcp};
use wire::raw::{ACK, RAW_CLIENT, RAW_SERVER, Raw, SYN};

const OUTER: [[u8; 4]; 2] = [[192, 0, 2, 1], [192, 0, 2, 2]];
const INNER: [[u8; 4]; 2] = [[10, 77, 0, 1], [10, 77, 0, 2]];
const SIX: [[u8; 16]; 2] = [
    [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
    [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8],
];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK_PUSH: u8 = 0x18;

/// Flags and offset of an IPv4 fragment.
const FIRST: u16 = 0x2000;
const MIDDLE: u16 = 0x2005;
const LAST: u16 = 0x0009;

/// The head of a packet, for a first fragment, or bytes from its middle.
fn part(fragment: u16) -> Vec<u8> {
    if fragment & 0x1fff == 0 {
        [tcp([4000, PORT], 1, ACK_PUSH), vec![7; 20]].concat()
    } else {
        vec![9; 40]
    }
}

fn inner(fragment: u16) -> Vec<u8> {
    ipv4(INNER[0], INNER[1], TCP, fragment, &part(fragment))
}

fn tagged(ether_type: u16, packet: &[u8]) -> Vec<u8> {
    let inside = [&[0x60, 100][..], &ether_type.to_be_bytes(), packet].concat();
    frame(CLIENT_TO_SERVER, 0x8100, &inside)
}

fn plain(packet: &[u8]) -> Vec<u8> {
    frame(CLIENT_TO_SERVER, 0x0800, packet)
}

fn tunnelled(protocol: u8, header: &[u8], fragment: u16) -> Vec<u8> {
    ipv4(OUTER[0], OUTER[1], protocol, 0x4000, &[header, &inner(fragment)].concat())
}

/// An IPv6 packet with a fragment header; `at` in units of eight bytes.
fn six(next: u8, at: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let place = (at << 3 | u16::from(more)).to_be_bytes();
    let header = [&[next, 0][..], &place, &[0, 0, 0, 7], rest].concat();
    ipv6(SIX[0], SIX[1], 44, &header)
}

/// Fragments of TCP, each a name and a frame.
fn fragments() -> Vec<(String, Vec<u8>)> {
    const GRE: [u8; 4] = [0, 0, 8, 0];
    const GRE_KEY: [u8; 8] = [0x20, 0, 8, 0, 0, 0, 0, 77];
    let mut cases = vec![];
    for (which, fragment) in [("first", FIRST), ("middle", MIDDLE), ("last", LAST)] {
        for (name, frame) in [
            ("plain", plain(&inner(fragment))),
            ("VLAN", tagged(0x0800, &inner(fragment))),
            ("IPIP", plain(&tunnelled(4, &[], fragment))),
            ("GRE", plain(&tunnelled(47, &GRE, fragment))),
            ("GRE with key", plain(&tunnelled(47, &GRE_KEY, fragment))),
            ("GRE with key in VLAN", tagged(0x0800, &tunnelled(47, &GRE_KEY, fragment))),
        ] {
            cases.push((format!("{which}, {name}"), frame));
        }
    }
    let head = part(FIRST);
    let options = [&[TCP, 0, 1, 4, 0, 0, 0, 0][..], &head].concat();
    for (name, packet) in [
        ("first, IPv6", six(TCP, 0, true, &head)),
        ("later, IPv6", six(TCP, 5, true, &[9; 40])),
        ("last, IPv6", six(TCP, 9, false, &[9; 40])),
        ("first with options, IPv6", six(60, 0, true, &options)),
    ] {
        cases.push((name.to_owned(), frame(CLIENT_TO_SERVER, 0x86dd, &packet)));
        cases.push((format!("{name} in VLAN"), tagged(0x86dd, &packet)));
    }
    cases
}

fn under(fragments: EvasionAction, does: Does) -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let mut snapshot = snapshot(Layer2Fallback::PermitAll);
    snapshot.device.evasion = Evasion { fragments, ..Evasion::default() };
    engine.dataplane.apply(&snapshot).unwrap();
    judge_all(held, 4, does);
    wire.crosses(wire::CLIENT, wire::SERVER);
    (wire, engine)
}

#[test]
fn fragments_cross_as_they_came_and_are_counted() {
    let (wire, engine) = under(EvasionAction::Bypass, Does::Hold);
    let capture = Capture::start_all(&wire.server);
    let cases = fragments();
    let frames: Vec<Vec<u8>> = cases.iter().map(|(_, frame)| frame.clone()).collect();
    wire.send_frames(&wire.client, &frames);
    engine.wait_for("fragment_passed", cases.len() as u64);
    let seen = capture.stop_all();
    for (name, frame) in &cases {
        assert!(seen.contains(frame), "{name}: {frame:02x?} did not cross");
    }
    assert_eq!(engine.counter("fragment_passed"), cases.len() as u64);
    assert_eq!(engine.counter("tcp_fragment_dropped"), 0);
}

#[test]
fn first_fragments_are_dropped_where_policy_says_so_and_those_of_what_it_does_not_cover_cross() {
    let (wire, engine) = under(EvasionAction::Block, Does::Hold);
    let capture = Capture::start_all(&wire.server);
    let (mut cases, later): (Vec<_>, Vec<_>) =
        fragments().into_iter().partition(|(name, _)| name.starts_with("first"));
    let between = |ports| [tcp(ports, 1, ACK_PUSH), vec![7; 20]].concat();
    // What policy covers, as its server sends it.
    let answer = ipv4(INNER[0], INNER[1], TCP, FIRST, &between([PORT, 4000]));
    cases.push(("of a server".into(), plain(&answer)));
    let frames: Vec<Vec<u8>> = cases.iter().map(|(_, frame)| frame.clone()).collect();
    wire.send_frames(&wire.client, &frames);
    engine.wait_for("tcp_fragment_dropped", cases.len() as u64);
    let others: Vec<Vec<u8>> = later
        .into_iter()
        .map(|(_, frame)| frame)
        .chain([plain(&ipv4(INNER[0], INNER[1], TCP, FIRST, &between([4000, 99])))])
        .collect();
    wire.send_frames(&wire.client, &others);
    engine.wait_for("fragment_passed", others.len() as u64);
    let of_udp = [
        plain(&ipv4(INNER[0], INNER[1], UDP, FIRST, &[0x12, 0x34, 0, 99, 0, 99, 0, 0])),
        plain(&ipv4(INNER[0], INNER[1], UDP, LAST, &[1; 40])),
        frame(CLIENT_TO_SERVER, 0x86dd, &six(UDP, 0, true, &[0x12, 0x34, 0, 99, 0, 99, 0, 0])),
    ];
    wire.send_frames(&wire.client, &of_udp);
    engine.wait_for("fragment_passed", others.len() as u64 + 3);
    let seen = capture.stop_all();
    assert_eq!(engine.counter("tcp_fragment_dropped"), cases.len() as u64);
    for (name, frame) in &cases {
        assert!(!seen.contains(frame), "{name} crossed");
    }
    for frame in of_udp.iter().chain(&others) {
        assert!(seen.contains(frame), "{frame:02x?} did not cross");
    }
}

#[test]
fn without_a_policy_no_fragment_is_dropped() {
    let (wire, engine) = under(EvasionAction::Block, Does::Hold);
    let mut nothing = snapshot(Layer2Fallback::PermitAll);
    nothing.device.evasion.fragments = EvasionAction::Block;
    (nothing.virtual_segments, nothing.profiles) = (vec![], vec![]);
    engine.dataplane.apply(&nothing).unwrap();
    let capture = Capture::start_all(&wire.server);
    let frames: Vec<Vec<u8>> = fragments().into_iter().map(|(_, frame)| frame).collect();
    wire.send_frames(&wire.client, &frames);
    engine.wait_for("fragment_passed", frames.len() as u64);
    let seen = capture.stop_all();
    assert!(frames.iter().all(|frame| seen.contains(frame)));
}

#[test]
fn a_first_fragment_of_a_flow_that_is_ours_is_dropped_in_its_own_vlan_only() {
    for (does, counter) in [(Does::Hold, "flow_held"), (Does::Release, "flow_released")] {
        let (wire, engine) = under(EvasionAction::Bypass, does);
        let mut client = Raw::client(&wire, 4000, RAW_SERVER);
        let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
        (client.vlan, server.vlan) = (Some(100), Some(100));
        Raw::shake(&mut client, &mut server);
        client.send(0, b"hello");
        engine.wait_for(counter, 1);
        let mut fragment = client.segment(5, b"fragment");
        fragment.more_fragments = true;
        client.put(&fragment);
        engine.wait_for("fragment_dropped", 1);
        server.expect_none("a fragment of a flow of ours passed", |a| a.payload == b"fragment");
        // Of a flow of another VLAN nothing is known.
        let mut elsewhere = Raw::client(&wire, 4000, RAW_SERVER);
        elsewhere.vlan = Some(200);
        server.vlan = Some(200);
        elsewhere.expected = client.expected;
        elsewhere.put(&fragment);
        server.expect("the fragment", |a| a.payload == b"fragment");
        assert_eq!(engine.counter("fragment_dropped"), 1);
        assert_eq!(engine.counter("fragment_passed"), 1);
    }
}

#[test]
fn a_fragmented_hello_escapes_by_policys_choice_and_is_counted() {
    let (wire, engine) = under(EvasionAction::Bypass, Does::TakeOver);
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    (client.vlan, server.vlan) = (Some(100), Some(100));
    Raw::shake(&mut client, &mut server);
    let mut fragment = client.segment(0, b"the head");
    fragment.more_fragments = true;
    client.put(&fragment);
    server.expect("the fragment", |a| a.payload == b"the head");
    assert_eq!(engine.counter("fragmented_flow_passed"), 1);
    client.send(8, b"and the rest");
    server.expect("what follows", |a| a.payload == b"and the rest");
    assert_eq!(engine.counter("flow_held"), 0);
}

/// Its client puts nothing together of it, and goes on; or does, and says so by what it acknowledges.
#[test]
fn a_first_fragment_of_the_server_ends_no_inspection() {
    let (wire, engine) = under(EvasionAction::Bypass, Does::TakeOver);
    for (number, heard) in [(1, false), (2, true)] {
        let mut client = Raw::client(&wire, 4000 + number, RAW_SERVER);
        let mut server = Raw::server(&wire, (RAW_CLIENT, 4000 + number));
        (client.vlan, server.vlan) = (Some(100), Some(100));
        Raw::shake(&mut client, &mut server);
        let mut fragment = server.segment(0, b"220 ready");
        fragment.more_fragments = true;
        server.put(&fragment);
        client.expect("the fragment", |a| a.payload == b"220 ready");
        engine.wait_for("server_spoke_first", number.into());
        if heard {
            client.expected = client.expected.wrapping_add(9);
        }
        client.send(0, b"judged");
        server.expect("what its client says", |a| a.payload == b"judged");
    }
    engine.wait_for("flow_taken_over", 1);
    assert_eq!(engine.counter("flow_held"), 1);
    assert_eq!(engine.counter("fragmented_flow_passed"), 0);
}

/// Each stands for as much as a packet can carry; of nothing but them no server is believed to have spoken.
#[test]
fn any_number_of_first_fragments_of_the_server_ends_no_inspection() {
    const GIBIBYTE: usize = (1 << 30) / 65_535 + 2;
    let (wire, engine) = under(EvasionAction::Bypass, Does::TakeOver);
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    (client.vlan, server.vlan) = (Some(100), Some(100));
    Raw::shake(&mut client, &mut server);
    let mut fragment = server.segment(0, b"220 ready");
    fragment.more_fragments = true;
    for _ in 0..GIBIBYTE {
        server.put(&fragment);
    }
    // The last may cross behind what the client says.
    let passed = || engine.dataplane.counters()[0].ports[1].as_ref().unwrap().received.packets;
    assert!((0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        passed() >= GIBIBYTE as u64
    }));
    client.send(0, b"judged");
    server.expect("what its client says", |a| a.payload == b"judged");
    engine.wait_for("flow_taken_over", 1);
}

fn in_vlan(wire: &Wire, port: u16) -> (Raw, Raw) {
    let (mut client, mut server) = Raw::ends(wire, port);
    (client.vlan, server.vlan) = (Some(100), Some(100));
    (client, server)
}

/// What comes in by the port of its other end is no fragment of the flow (SPEC D16).
#[test]
fn a_fragment_in_one_ends_name_from_the_others_side_ends_no_inspection() {
    let (wire, engine) = under(EvasionAction::Bypass, Does::TakeOver);
    for (number, of_client) in [(1, true), (2, false)] {
        let (mut client, mut server) = in_vlan(&wire, 4000 + number);
        Raw::shake(&mut client, &mut server);
        let (named, forger) = if of_client { (&client, &server) } else { (&server, &client) };
        let mut other = Raw::ends(&wire, 4000 + number);
        let forged = if of_client { &mut other.1 } else { &mut other.0 };
        (forged.local, forged.remote, forged.vlan) = (named.local, named.remote, Some(100));
        (forged.first, forged.expected, forged.mac) = (named.first, named.expected, forger.mac);
        let mut fragment = forged.segment(0, b"the head");
        fragment.more_fragments = true;
        forged.put(&fragment);
        engine.wait_for("two_passes_passed", number.into());
        client.send(0, b"judged");
        server.expect("what its client says", |a| a.payload == b"judged");
        engine.wait_for("flow_taken_over", number.into());
    }
    assert_eq!(engine.counter("fragmented_flow_passed"), 0);
    assert_eq!(engine.counter("server_spoke_first"), 0);
}

/// An answer in fragments, before the one that is known or behind it; of the latter its client may believe
/// either.
#[test]
fn an_answer_in_fragments_ends_no_inspection() {
    let (wire, engine) = under(EvasionAction::Bypass, Does::TakeOver);
    for (number, (before, apart, believed)) in (1..).zip([
        (true, 0, false),
        (true, 1000, false),
        (false, 1000, false),
        (false, 1000, true),
    ]) {
        let (mut client, mut server) = in_vlan(&wire, 4000 + number);
        client.send_syn(|| server.receive_some(|a| a.flags == SYN));
        server.expected = client.first;
        client.expected = server.first;
        let answer = |in_fragments: bool| {
            let mut answer = server.syn();
            (answer.flags, answer.acknowledged) = (SYN | ACK, server.expected);
            if in_fragments {
                answer.sequence = answer.sequence.wrapping_add(apart);
            }
            answer.more_fragments = in_fragments;
            server.put(&answer);
            client.expect("the answer", |a| a.flags == SYN | ACK);
        };
        answer(before);
        answer(!before);
        if believed {
            client.expected = client.expected.wrapping_add(apart);
        }
        client.send(0, b"judged");
        server.expect("what its client says", |a| a.payload == b"judged");
        engine.wait_for("flow_taken_over", number.into());
    }
    assert_eq!(engine.counter("server_spoke_first"), 0);
}
