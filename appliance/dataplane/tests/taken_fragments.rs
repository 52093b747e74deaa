//! IP fragments of taken flows: they are put together by the kernel that has the flow's sockets, whatever
//! tag or tunnel they come in, and forged ones take neither others' fragments nor that kernel's room.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::fs;

use weir_dataplane::Attach;
use weir_dataplane::namespace::inside;
use wire::capture::Capture;
use wire::ends::{ALL, Tunnel};
use wire::engine::{Does, Engine, PORT, judge_all};
use wire::packets::{CLIENT_TO_SERVER, SERVER_TO_CLIENT, checksum, frame, ipv4, ipv6, tcp};
use wire::raw::{ACK, PUSH, RAW_CLIENT, RAW_SERVER, Raw, SYN};
use wire::{CLIENT, SEGMENT, SERVER, Wire};

const TCP: u8 = 6;
/// That no other packet here has.
const ID: u16 = 0x4321;

fn wired() -> (Wire, Engine) {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 5, Does::TakeOver);
    wire.crosses(CLIENT, SERVER);
    (wire, engine)
}

/// A flow between such ends, the one with this number that is taken over.
fn taken(wire: &Wire, engine: &Engine, port: u16, vlan: Option<u16>, number: u64) -> (Raw, Raw) {
    shaken(Raw::ends(wire, port), engine, vlan, Tunnel::None, number)
}

fn shaken(
    ends: (Raw, Raw),
    engine: &Engine,
    vlan: Option<u16>,
    tunnel: Tunnel,
    number: u64,
) -> (Raw, Raw) {
    let (mut client, mut server) = ends;
    for end in [&mut client, &mut server] {
        (end.vlan, end.tunnel) = (vlan, tunnel);
    }
    Raw::shake(&mut client, &mut server);
    client.send(0, b"hello");
    server.expect("the hello", |a| a.payload == b"hello");
    server.acknowledge(0, 5);
    engine.wait_for("flow_taken_over", number);
    (client, server)
}

#[test]
fn fragments_in_a_vlan_or_a_tunnel_are_put_together_as_well() {
    for ends in &ALL {
        let (wire, engine) = wired();
        let raw = Raw::ends(&wire, 4000);
        let vlan = ends.vlan.map(|_| 100);
        let (client, server) = shaken(raw, &engine, vlan, ends.tunnel, 1);
        client.put_in_fragments(&client.segment(5, &[1; 500]), 200, [0, 1]);
        server.expect(ends.name, |a| a.payload == [1; 500]);
        server.acknowledge(0, 505);
        server.put_in_fragments(&server.segment(0, &[2; 500]), 200, [0, 1]);
        client.expect(ends.name, |a| a.payload == [2; 500]);
        assert_eq!(engine.counter("fragment_to_engine"), 4, "{}", ends.name);
        assert_eq!(engine.counter("fragment_dropped"), 0, "{}", ends.name);
    }
}

/// Packets of the same addresses and the same id in two VLANs, or tunnels: the kernel there tells them apart
/// by nothing, so it has one of them at a time (SPEC D16).
#[test]
fn fragments_of_two_vlans_are_never_mixed_up() {
    let (wire, engine) = wired();
    let (one, server_of_one) = taken(&wire, &engine, 4000, Some(100), 1);
    let (two, server_of_two) = taken(&wire, &engine, 4001, Some(200), 2);
    let (ones, twos) = ([1; 500], [2; 500]);
    one.put_fragment(&one.segment(5, &ones), ID, 200, 0);
    engine.wait_for("fragment_to_engine", 1);
    two.put_fragment(&two.segment(5, &twos), ID, 200, 0);
    engine.wait_for("fragment_dropped", 1);
    two.put_fragment(&two.segment(5, &twos), ID, 200, 1);
    engine.wait_for("fragment_passed", 1);
    one.put_fragment(&one.segment(5, &ones), ID, 200, 1);
    server_of_one.expect("the first one's bytes", |a| a.payload == ones);
    // It says its own again, until the other's is not there any more.
    assert!((0..20).any(|_| {
        for which in [0, 1] {
            two.put_fragment(&two.segment(5, &twos), ID, 200, which);
        }
        server_of_two.receive_some(|a| a.payload == twos).is_some()
    }));
    assert_eq!(engine.counter("fragment_to_engine"), 4);
}

/// Whoever does not see a flow does not know where it stands.
#[test]
fn a_forged_first_fragment_takes_nobodys_later_ones() {
    let (wire, engine) = wired();
    let (client, server) = taken(&wire, &engine, 4000, None, 1);
    client.put_fragment(&client.segment(0x1000_0000, &[6; 500]), ID, 200, 0);
    engine.wait_for("fragment_dropped", 1);
    // Of another connection of these ends, which nobody inspects.
    let rest = ipv4(RAW_CLIENT, RAW_SERVER, TCP, 25, &[9; 300]);
    let rest = with_id(CLIENT_TO_SERVER, rest, ID);
    let capture = Capture::start_all(&wire.server);
    wire.send_frames(&wire.client, std::slice::from_ref(&rest));
    engine.wait_for("fragment_passed", 1);
    assert!(capture.stop_all().contains(&rest), "another flow's fragment did not cross");
    assert_eq!(engine.counter("fragment_to_engine"), 0);
    // And one that stands where it may takes no more than what follows it.
    client.put_fragment(&client.segment(5, &[1; 500]), ID, 200, 0);
    engine.wait_for("fragment_to_engine", 1);
    let elsewhere = with_id(CLIENT_TO_SERVER, ipv4(RAW_CLIENT, RAW_SERVER, TCP, 90, &[9; 300]), ID);
    wire.send_frames(&wire.client, &[elsewhere]);
    engine.wait_for("fragment_passed", 2);
    client.put_fragment(&client.segment(5, &[1; 500]), ID, 200, 1);
    server.expect("the client's bytes", |a| a.payload == [1; 500]);
}

fn with_id(mac: [u8; 12], mut packet: Vec<u8>, id: u16) -> Vec<u8> {
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum);
    frame(mac, 0x0800, &packet)
}

/// Packets that are never whole take the kernel's memory until it gives them up.
#[test]
fn one_clients_unfinished_packets_leave_room_for_anothers() {
    let (wire, engine) = wired();
    let (client, _server) = taken(&wire, &engine, 4000, None, 1);
    let mut ends = Raw::ends(&wire, 4001);
    ends.0.local.0[3] = 13;
    ends.1.remote.0[3] = 13;
    let (other, server_of_other) = shaken(ends, &engine, None, Tunnel::None, 2);
    const MANY: u16 = 2000;
    for id in 0..MANY {
        client.put_fragment(&client.segment(5, &[1; 500]), id, 200, 0);
    }
    engine.wait_for("fragment_dropped", 1);
    other.put_in_fragments(&other.segment(5, &[2; 500]), 200, [0, 1]);
    server_of_other.expect("the other's bytes", |a| a.payload == [2; 500]);
    let dropped = engine.counter("fragment_dropped");
    let given = engine.counter("fragment_to_engine");
    assert_eq!(dropped + given, u64::from(MANY) + 2);
    // They may fall into two of the windows of time in which a client has its share.
    assert!(given <= 2 * 130 + 2, "{given}");
}

/// A fragment that the kernel does not take makes no packet whole.
#[test]
fn fragments_with_wrong_header_checksums_give_a_client_no_more_room() {
    let (wire, engine) = wired();
    let (client, _server) = taken(&wire, &engine, 4000, None, 1);
    let begins = [tcp([4000, PORT], client.first.wrapping_add(5), ACK), vec![1; 180]].concat();
    let mut frames = vec![];
    for id in 1..=300 {
        let [first, mut rest] = [(0x2000, &begins), (25, &vec![1; 100])].map(|(place, part)| {
            with_id(CLIENT_TO_SERVER, ipv4(RAW_CLIENT, RAW_SERVER, TCP, place, part), id)
        });
        rest[24] ^= 1;
        frames.extend([first, rest]);
    }
    wire.send_frames(&wire.client, &frames);
    let all = || {
        let counters = ["fragment_to_engine", "fragment_dropped", "fragment_passed"];
        counters.map(|name| engine.counter(name))
    };
    while all().iter().sum::<u64>() < 600 {
        std::thread::yield_now();
    }
    // As above.
    assert!(all()[0] <= 2 * 130 + 2, "{:?}", all());
}

/// Those that become whole are no such.
#[test]
fn a_flow_all_of_whose_packets_are_fragmented_goes_on() {
    const PIECE: usize = 1000;
    let (wire, engine) = wired();
    let (client, server) = taken(&wire, &engine, 4000, Some(100), 1);
    for number in 0..1000u32 {
        let at = 5 + i64::from(number) * PIECE as i64;
        let piece = vec![number as u8; PIECE];
        client.put_in_fragments(&client.segment(at, &piece), 504, [0, 1]);
        let next = server.expected.wrapping_add(at as u32);
        server.expect("the next bytes", |a| a.sequence == next && a.payload == piece);
        server.acknowledge(0, at as u32 + PIECE as u32);
    }
    assert_eq!(engine.counter("fragment_dropped"), 0);
}

/// Of a sender, or behind a balancer, that sends a packet's last fragment first, or three in disorder: the first
/// packet is lost, those that follow are not.
#[test]
fn fragments_that_always_come_in_disorder_are_put_together() {
    for order in [&[1, 0][..], &[2, 1, 0], &[0, 2, 1], &[1, 2, 0], &[2, 0, 1]] {
        let (wire, engine) = wired();
        let (client, server) = taken(&wire, &engine, 4000, Some(100), 1);
        let capture = Capture::start_all(&wire.server);
        let mut ids = 1..;
        for number in 0..50u32 {
            let at = 5 + i64::from(number) * 500;
            let piece = vec![number as u8; 500];
            let mut say = || {
                client.put_pieces(&client.segment(at, &piece), ids.next().unwrap(), order);
                server.receive_some(|a| a.payload == piece).is_some()
            };
            let said = say() || (number == 0 && say());
            assert!(said, "{order:?}: packet {number}");
            server.acknowledge(0, at as u32 + 500);
        }
        assert_eq!(engine.counter("fragment_dropped"), 0);
        drop(capture);
    }
}

/// Beside a taken flow whose fragments come in disorder, one of the same ends that nobody inspects.
#[test]
fn another_flow_of_the_same_ends_has_its_fragments_in_disorder_too() {
    let (wire, engine) = wired();
    let (client, server) = taken(&wire, &engine, 4000, None, 1);
    for id in [1, 2] {
        client.put_pieces(&client.segment(5, &[1; 500]), id, &[2, 1, 0]);
    }
    server.expect("the taken flow's", |a| a.payload == [1; 500]);
    let other = client.segment(5, &[2; 500]);
    let capture = Capture::start_all(&wire.server);
    // To a port that no policy is for.
    let mut elsewhere = Raw::client(&wire, 4000, RAW_SERVER);
    elsewhere.remote.1 = 999;
    elsewhere.put_pieces(&other, 3, &[2, 1, 0]);
    engine.wait_for("fragment_passed", 3);
    let crossed = capture.stop_all();
    let of_packet =
        |frame: &&Vec<u8>| frame.get(12..14) == Some(&[8, 0]) && frame.get(18..20) == Some(&[0, 3]);
    assert_eq!(crossed.iter().filter(of_packet).count(), 3);
}

const SIX: [[u8; 16]; 2] = [
    [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
    [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8],
];
/// Destination options that are nothing but padding, without the next header's number.
const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];

/// The packet that an IPv6 end sends, from its destination options on, if any.
fn six(end: usize, at: [u32; 2], flags: u8, options: bool, payload: &[u8]) -> Vec<u8> {
    let ports = if end == 0 { [4000, PORT] } else { [PORT, 4000] };
    let mut inside = [tcp(ports, at[0], flags), payload.to_vec()].concat();
    inside[8..12].copy_from_slice(&at[1].to_be_bytes());
    inside[16..18].fill(0);
    let length = (inside.len() as u32).to_be_bytes();
    let pseudo = [&SIX[end][..], &SIX[1 - end], &length, &[0, 0, 0, TCP]].concat();
    let sum = checksum(&[&pseudo[..], &inside].concat());
    inside[16..18].copy_from_slice(&sum);
    if options { [&[TCP][..], &PADDING, &inside].concat() } else { inside }
}

fn six_frame(end: usize, next: u8, inside: &[u8]) -> Vec<u8> {
    let mac = if end == 0 { CLIENT_TO_SERVER } else { SERVER_TO_CLIENT };
    frame(mac, 0x86dd, &ipv6(SIX[end], SIX[1 - end], next, inside))
}

/// RFC 8200 4.5: what stands before the fragment header is in each of them, what stands behind it in the
/// first one alone; and of their next headers the first one's counts.
#[test]
fn ipv6_fragments_with_further_extension_headers_are_put_together() {
    const OPTIONS: u8 = 60;
    const FRAGMENT: u8 = 44;
    let (wire, engine) = wired();
    wire.crosses("fd77::1", "fd77::2");
    let (from_client, from_server) = ([1001, 5001], [5001, 1006]);
    wire.send_frames(&wire.client, &[six_frame(0, TCP, &six(0, [1000, 0], SYN, false, &[]))]);
    engine.wait_for("candidate_syn", 1);
    let answer = six(1, [5000, 1001], SYN | ACK, false, &[]);
    wire.send_frames(&wire.server, &[six_frame(1, TCP, &answer)]);
    let over = six_frame(0, TCP, &six(0, from_client, ACK, false, &[]));
    let hello = six_frame(0, TCP, &six(0, from_client, ACK | PUSH, false, b"hello"));
    wire.send_frames(&wire.client, &[over, hello]);
    engine.wait_for("flow_taken_over", 1);
    let acknowledged = six_frame(1, TCP, &six(1, from_server, ACK, false, &[]));
    wire.send_frames(&wire.server, &[acknowledged]);
    let capture = Capture::start_all(&wire.client);
    let mut given = 0;
    for (number, (before, behind)) in
        (0u8..).zip([(false, false), (true, false), (false, true), (true, true)])
    {
        let payload = [7 + number; 400];
        let at = [1006 + 400 * u32::from(number), 5001];
        let inside = six(0, at, ACK | PUSH, behind, &payload);
        let next = if behind { OPTIONS } else { TCP };
        let fragments = [(0u16, &inside[..200]), (25, &inside[200..])].map(|(place, part)| {
            let place = (place << 3 | u16::from(place == 0)).to_be_bytes();
            let header = [&[next, 0][..], &place, &[0, 0, 0, number + 1], part].concat();
            if before {
                six_frame(0, OPTIONS, &[&[FRAGMENT][..], &PADDING, &header].concat())
            } else {
                six_frame(0, FRAGMENT, &header)
            }
        });
        wire.send_frames(&wire.client, &fragments);
        given += 2;
        engine.wait_for("fragment_to_engine", given);
    }
    assert_eq!(engine.counter("fragment_dropped"), 0);
    // The socket that speaks to the client has them all.
    let all = (from_client[0] + 5 + 4 * 400).to_be_bytes();
    let acknowledges = |frame: &Vec<u8>| {
        let ports = [PORT.to_be_bytes(), 4000u16.to_be_bytes()].concat();
        frame.get(54..58) == Some(&ports) && frame.get(62..66) == Some(&all)
    };
    assert!(capture.stop_all().iter().any(acknowledges));
}

/// The time is no longer than what the programs wait for the rest of a packet, and the memory has a bound.
#[test]
fn the_engines_namespace_keeps_no_fragments_for_long() {
    let wire = Wire::new();
    let settings = [
        ("net/ipv4/ipfrag_time", "2"),
        ("net/ipv4/ipfrag_high_thresh", "16777216"),
        ("net/ipv4/ipfrag_max_dist", "0"),
        ("net/ipv6/ip6frag_time", "2"),
        ("net/ipv6/ip6frag_high_thresh", "16777216"),
    ];
    for (setting, value) in settings {
        let found = inside(&wire.names.engine(SEGMENT), || {
            fs::read_to_string(format!("/proc/sys/{setting}")).unwrap()
        });
        assert_eq!(found.unwrap().trim(), value, "{setting}");
    }
}
