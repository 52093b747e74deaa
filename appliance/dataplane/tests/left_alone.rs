//! What is not understood crosses a segment as it came, and is counted by its reason (SPEC D4).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use weir_dataplane::Attach;
use wire::Wire;
use wire::capture::Capture;
use wire::engine::PORT;
use wire::packets::{CLIENT_TO_SERVER, frame, ipv4, ipv4_with_options, ipv6, tcp};

const OUTER: [[u8; 4]; 2] = [[192, 0, 2, 1], [192, 0, 2, 2]];
const INNER: [[u8; 4]; 2] = [[10, 77, 0, 1], [10, 77, 0, 2]];
const SIX: [[u8; 16]; 2] = [
    [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
    [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8],
];
const SYN: u8 = 2;

/// A SYN that policy wants, in itself.
fn syn() -> Vec<u8> {
    ipv4(INNER[0], INNER[1], 6, 0x4000, &tcp([4000, PORT], 1, SYN))
}

fn tunnelled(protocol: u8, inside: &[u8]) -> Vec<u8> {
    frame(CLIENT_TO_SERVER, 0x0800, &ipv4(OUTER[0], OUTER[1], protocol, 0x4000, inside))
}

fn gre(flags: u16, ether_type: u16, rest: &[u8]) -> Vec<u8> {
    [&flags.to_be_bytes()[..], &ether_type.to_be_bytes(), rest].concat()
}

fn in_ipv6(next: u8, inside: &[u8]) -> Vec<u8> {
    frame(CLIENT_TO_SERVER, 0x86dd, &ipv6(SIX[0], SIX[1], next, inside))
}

/// `count` destination options of eight bytes each, then TCP.
fn extensions(count: usize) -> Vec<u8> {
    let mut bytes = vec![];
    for index in 0..count {
        let next = if index + 1 == count { 6 } else { 60 };
        bytes.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    bytes.extend(tcp([4000, PORT], 1, SYN));
    bytes
}

#[test]
fn what_is_not_understood_crosses_and_is_counted() {
    let nested = ipv4(OUTER[1], OUTER[0], 4, 0, &syn());
    let routing = [&[6, 2, 4, 1, 0, 0, 0, 0][..], &[0; 16], &tcp([4000, PORT], 1, SYN)].concat();
    let mut mapped = [0; 16];
    mapped[10..12].fill(0xff);
    let udp = [&[0x12, 0x34, 0x08, 0x68, 0, 12, 0, 0][..], &[0; 4]].concat();
    let single = frame(CLIENT_TO_SERVER, 0x8100, &[&[0, 100, 8, 0][..], &syn()].concat());
    let double =
        frame(CLIENT_TO_SERVER, 0x8100, &[&[0, 100, 0x81, 0, 0, 101, 8, 0][..], &syn()].concat());
    let service = frame(CLIENT_TO_SERVER, 0x88a8, &[&[0, 100, 8, 0][..], &syn()].concat());
    let options = ipv4_with_options(OUTER[0], OUTER[1], 4, 0, &[1, 1, 1, 0], &syn());
    let fragment = ipv4(OUTER[0], OUTER[1], 4, 0x2000, &syn());
    let of_udp = |from: u16, to: u16| {
        let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
        tunnelled(17, &[&ports[..], &[0, 12, 0, 0], &[0; 4]].concat())
    };
    let cases: [(&str, u64, Vec<Vec<u8>>); 19] = [
        ("qinq_passed", 2, vec![double, service]),
        ("outer_fragment_passed", 1, vec![frame(CLIENT_TO_SERVER, 0x0800, &fragment)]),
        ("outer_options_passed", 1, vec![frame(CLIENT_TO_SERVER, 0x0800, &options)]),
        (
            "gre_options_passed",
            4,
            [0x1000, 0x8000, 0x4000, 0x0001]
                .map(|flags| tunnelled(47, &gre(flags, 0x0800, &[&[0; 4][..], &syn()].concat())))
                .to_vec(),
        ),
        ("gre_protocol_passed", 1, vec![tunnelled(47, &gre(0, 0x6558, &[0; 60]))]),
        (
            "tunnel_ipv6_passed",
            2,
            vec![
                tunnelled(47, &gre(0, 0x86dd, &ipv6(SIX[0], SIX[1], 6, &extensions(0)))),
                tunnelled(41, &ipv6(SIX[0], SIX[1], 6, &extensions(0))),
            ],
        ),
        ("tunnel_nested_passed", 1, vec![tunnelled(47, &gre(0, 0x0800, &nested))]),
        ("tunnel_in_ipv6_passed", 1, vec![in_ipv6(4, &syn())]),
        ("gtp_passed", 1, vec![tunnelled(17, &udp)]),
        ("vxlan_passed", 1, vec![of_udp(50_000, 4789)]),
        ("geneve_passed", 1, vec![of_udp(50_000, 6081)]),
        (
            "l2tp_passed",
            3,
            vec![of_udp(1701, 1701), of_udp(1701, 40_000), tunnelled(115, &[0; 40])],
        ),
        ("ah_passed", 2, vec![tunnelled(51, &[6; 40]), in_ipv6(51, &[6; 40])]),
        ("esp_passed", 1, vec![tunnelled(50, &[6; 40])]),
        ("pppoe_passed", 1, vec![frame(CLIENT_TO_SERVER, 0x8864, &[0x11; 60])]),
        (
            "mpls_passed",
            2,
            vec![
                frame(CLIENT_TO_SERVER, 0x8847, &[&[0, 1, 1, 64][..], &syn()].concat()),
                frame(CLIENT_TO_SERVER, 0x8848, &[&[0, 1, 1, 64][..], &syn()].concat()),
            ],
        ),
        ("ipv6_extensions_passed", 2, vec![in_ipv6(60, &extensions(7)), in_ipv6(43, &routing)]),
        (
            "ipv6_mapped_passed",
            1,
            vec![frame(CLIENT_TO_SERVER, 0x86dd, &ipv6(mapped, SIX[1], 6, &extensions(0)))],
        ),
        (
            "candidate_syn",
            5,
            vec![
                frame(CLIENT_TO_SERVER, 0x0800, &syn()),
                single,
                tunnelled(47, &gre(0, 0x0800, &syn())),
                tunnelled(4, &syn()),
                in_ipv6(60, &extensions(6)),
            ],
        ),
    ];
    for attach in [Attach::Auto, Attach::Clsact] {
        let wire = Wire::new();
        let (engine, _held) = wire.engine(attach);
        // The bridge's ports forward only a moment after they were made.
        wire.crosses(wire::CLIENT, wire::SERVER);
        let capture = Capture::start_all(&wire.server);
        let before: Vec<u64> = cases.iter().map(|(name, ..)| engine.counter(name)).collect();
        for (_, _, frames) in &cases {
            wire.send_frames(&wire.client, frames);
        }
        let seen = capture.stop_all();
        for ((name, count, frames), before) in cases.iter().zip(before) {
            assert_eq!(engine.counter(name) - before, *count, "{name}");
            for frame in frames {
                assert!(seen.contains(frame), "{name}: {frame:02x?} did not cross");
            }
        }
    }
}
