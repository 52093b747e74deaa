//! First packets as rustls makes them, cut, shuffled and spoilt; and the example of RFC 9001.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Keys, Version};
use rustls::{ClientConfig, RootCertStore};

use super::*;

const ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

/// The hello of a QUIC client.
fn hello(name: &str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .with_root_certificates(RootCertStore::empty())
    .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client =
        ClientConnection::new(Arc::new(config), rustls::quic::Version::V1, name, vec![]).unwrap();
    let mut bytes = Vec::new();
    client.write_hs(&mut bytes);
    bytes
}

fn variable(value: usize) -> [u8; 2] {
    (u16::try_from(value).unwrap() | 0x4000).to_be_bytes()
}

fn crypto(at: usize, piece: &[u8]) -> Vec<u8> {
    [&[6][..], &variable(at), &variable(piece.len()), piece].concat()
}

/// An Initial packet with these frames, padded to `length`.
fn initial(version: Version, number: u8, frames: &[u8], length: usize) -> Vec<u8> {
    initial_of([0xc0, 0xd0], version, number, frames, length)
}

/// The same with these first bytes, of version 1 and 2.
fn initial_of(
    first: [u8; 2],
    version: Version,
    number: u8,
    frames: &[u8],
    length: usize,
) -> Vec<u8> {
    let (id, kind) = match version {
        Version::V2 => ([0x6b, 0x33, 0x43, 0xcf], first[1]),
        _ => ([0, 0, 0, 1], first[0]),
    };
    let before = [&[kind][..], &id, &[8], &ID, &[0, 0]].concat();
    let padded = length.saturating_sub(before.len() + 2 + 1 + 16).max(frames.len());
    let header = [&before[..], &variable(1 + padded + 16), &[number]].concat();
    let mut payload = frames.to_vec();
    payload.resize(padded, 0);
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let Keys { local, .. } = suite.quic_suite().unwrap().keys(&ID, Side::Client, version);
    let tag = local.packet.encrypt_in_place(u64::from(number), &header, &mut payload).unwrap();
    let mut packet = [&header[..], &payload, tag.as_ref()].concat();
    let at = header.len() - 1;
    let sample = packet[at + 4..at + 20].to_vec();
    let (first, rest) = packet.split_first_mut().unwrap();
    local.header.encrypt_in_place(&sample, first, &mut rest[at - 1..at]).unwrap();
    packet
}

fn name_in(datagrams: &[Vec<u8>]) -> Option<String> {
    match first_packets(datagrams.iter().map(Vec::as_slice)) {
        FirstPackets::Hello(hello) => hello.server_name,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_name_of_either_version_is_read() {
    for version in [Version::V1, Version::V2] {
        let datagram = initial(version, 0, &crypto(0, &hello("www.example")), 1200);
        assert_eq!(name_in(&[datagram]).as_deref(), Some("www.example"));
    }
}

/// RFC 9001 appendix A.2.
#[test]
fn the_example_of_the_standard_is_read() {
    let hello = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868\
                 04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578\
                 616d706c652e636f6dff01000100000a00080006001d00170018001000070005\
                 04616c706e000500050100000000003300260024001d00209370b2c9caa47fba\
                 baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400\
                 0d0010000e0403050306030203080408050806002d00020101001c0002400100\
                 3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000\
                 75300901100f088394c8f03e51570806048000ffff";
    let digits: Vec<u8> = hello.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let frames: Vec<u8> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    // The standard's has its number, 2, in four bytes; what is protected is the same but for that.
    let datagram = initial(Version::V1, 2, &frames, 1200);
    assert_eq!(name_in(&[datagram]).as_deref(), Some("example.com"));
}

#[test]
fn a_hello_over_two_datagrams_is_put_together_whichever_comes_first() {
    let hello = hello("www.example");
    let (one, two) = hello.split_at(100);
    let one = initial(Version::V1, 0, &crypto(0, one), 1200);
    let two = initial(Version::V1, 1, &crypto(100, two), 1200);
    for half in [&one, &two] {
        assert_eq!(first_packets([half.as_slice()]), FirstPackets::Incomplete);
    }
    assert_eq!(name_in(&[one.clone(), two.clone()]).as_deref(), Some("www.example"));
    assert_eq!(name_in(&[two, one.clone(), one]).as_deref(), Some("www.example"));
}

#[test]
fn other_bytes_in_the_place_of_those_that_came_are_no_hello() {
    let [bank, evil] = ["www.bank.example", "www.evil.example"].map(hello);
    let frames = [crypto(0, &bank[..200]), crypto(0, &evil)].concat();
    let datagram = initial(Version::V1, 0, &frames, 1200);
    assert_eq!(first_packets([datagram.as_slice()]), FirstPackets::Malformed(None));
}

/// A server takes them for two connections.
#[test]
fn halves_of_a_hello_by_two_connections_are_no_hello() {
    let hello = hello("www.example");
    let (one, two) = hello.split_at(100);
    let one = initial(Version::V1, 0, &crypto(0, one), 1200);
    let two = initial(Version::V2, 1, &crypto(100, two), 1200);
    assert_eq!(first_packets([one.as_slice(), two.as_slice()]), FirstPackets::Several);
}

/// A packet that nothing can open, of this kind.
fn other(first: u8, version: [u8; 4], length: u8) -> Vec<u8> {
    let head = [&[first][..], &version, &[8], &ID, &[0, length]].concat();
    [head, vec![0xaa; length.into()]].concat()
}

#[test]
fn a_hello_without_the_fixed_bit_is_read_as_servers_may() {
    // The bit is not protected; the packet is opened with it as it came.
    let frames = crypto(0, &hello("www.example"));
    let datagram = initial_of([0x80, 0xd0], Version::V1, 0, &frames, 1200);
    assert_eq!(name_in(&[datagram]).as_deref(), Some("www.example"));
}

#[test]
fn a_hello_behind_other_packets_is_found_or_the_datagram_is_malformed() {
    const HANDSHAKE: u8 = 0xe0;
    let good = initial(Version::V1, 0, &crypto(0, &hello("www.example")), 1200);
    let before = other(HANDSHAKE, [0, 0, 0, 1], 10);
    assert_eq!(name_in(&[[before.clone(), good.clone()].concat()]).as_deref(), Some("www.example"));
    for before in [before.repeat(8), other(0xc0, [0xff, 0, 0, 29], 10)] {
        let datagram = [before, good.clone()].concat();
        assert_eq!(first_packets([datagram.as_slice()]), FirstPackets::Malformed(None));
    }
}

#[test]
fn what_overtook_its_hello_is_told_from_what_follows_none() {
    let good = initial(Version::V1, 0, &crypto(0, &hello("www.example")), 1200);
    for (first, version) in [(0xd0, [0, 0, 0, 1]), (0xe0, [0x6b, 0x33, 0x43, 0xcf])] {
        let early = other(first, version, 10);
        assert_eq!(first_packets([early.as_slice()]), FirstPackets::Early);
        assert_eq!(name_in(&[early, good.clone()]).as_deref(), Some("www.example"));
    }
    let handshake = other(0xe0, [0, 0, 0, 1], 10);
    assert_eq!(first_packets([handshake.as_slice()]), FirstPackets::NotInitial);
}

/// On the addresses and ports of a connection that was judged.
#[test]
fn what_goes_on_with_a_hello_is_told_from_what_begins_another() {
    let hellos = ["www.bank.example", "www.evil.example"].map(hello);
    let [bank, evil] = hellos.each_ref().map(|hello| hello.split_at(100));
    let packet = |at: usize, piece: &[u8]| initial(Version::V1, 1, &crypto(at, piece), 1200);
    let begun = [packet(0, bank.0), packet(100, bank.1)];
    let begun = begun.each_ref().map(Vec::as_slice);
    let after = |datagram: Vec<u8>| packets_after(&begun, &[&datagram]);
    // Any of it again, an acknowledgement, and packets by keys of a server's choice of connection ID.
    let mut by_other_keys = packet(0, bank.0);
    by_other_keys[7] ^= 1;
    for same in [packet(0, bank.0), packet(100, bank.1), packet(100, &[]), by_other_keys] {
        assert_eq!(after(same), None);
    }
    // Other bytes in its place, and more behind it.
    for other in [packet(0, evil.0), packet(0, &hellos[1]), packet(hellos[0].len(), b"more")] {
        assert!(matches!(after(other), Some(FirstPackets::Malformed(_))));
    }
    // Another connection; version 2 has other keys.
    let half = initial(Version::V2, 1, &crypto(0, evil.0), 1200);
    assert_eq!(after(half), Some(FirstPackets::Incomplete));
    match after(initial(Version::V2, 1, &crypto(0, &hellos[1]), 1200)) {
        Some(FirstPackets::Hello(hello)) => {
            assert_eq!(hello.server_name.as_deref(), Some("www.evil.example"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hello_that_is_said_again_takes_no_more_room() {
    let hello = hello("www.example");
    let pieces: Vec<Vec<u8>> =
        hello.chunks(10).enumerate().map(|(number, piece)| crypto(number * 10, piece)).collect();
    let (last, first) = pieces.split_last().unwrap();
    let again = initial(Version::V1, 0, &first.concat(), 1200);
    let mut datagrams = vec![again; 20];
    datagrams.push(initial(Version::V1, 1, last, 1200));
    assert_eq!(name_in(&datagrams).as_deref(), Some("www.example"));
}

#[test]
fn what_is_no_initial_packet_says_nothing() {
    let good = initial(Version::V1, 0, &crypto(0, &hello("www.example")), 1200);
    let spoilt = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let short_header = spoilt(0).iter().map(|byte| byte & 0x7f).collect();
    let unknown_version = spoilt(4);
    for datagram in [vec![], short_header, spoilt(700)] {
        assert_eq!(first_packets([datagram.as_slice()]), FirstPackets::NotInitial);
    }
    for datagram in [vec![0xc0; 1200], unknown_version, good[..900].into()] {
        assert_eq!(first_packets([datagram.as_slice()]), FirstPackets::Malformed(None));
    }
}

#[test]
fn what_ends_a_connection_or_says_more_than_a_hello_is_malformed() {
    for frames in [vec![0x1c, 0, 0, 0], crypto(9000, b"far"), [6, 0, 0x7f, 0xff].into()] {
        let datagram = initial(Version::V1, 0, &frames, 1200);
        assert_eq!(first_packets([datagram.as_slice()]), FirstPackets::Malformed(None));
    }
    let mut more = hello("www.example");
    more.push(0);
    let datagram = initial(Version::V1, 0, &crypto(0, &more), 1200);
    let error = FirstPackets::Malformed(Some(HelloError::TrailingHandshake));
    assert_eq!(first_packets([datagram.as_slice()]), error);
}

proptest! {
    /// As some clients scatter theirs, with other frames between.
    #[test]
    fn scattered_pieces_come_to_the_same_hello(cuts in prop::collection::vec(1_usize..260, 0..12), seed: u64) {
        let hello = hello("scattered.example");
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < hello.len()).collect();
        cuts.extend([0, hello.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut frames: Vec<Vec<u8>> =
            cuts.windows(2).map(|cut| crypto(cut[0], &hello[cut[0]..cut[1]])).collect();
        let count = frames.len();
        frames.rotate_left(usize::try_from(seed % count as u64).unwrap());
        if seed % 3 == 0 {
            frames.reverse();
        }
        let frames = frames.join(&[1, 0][..]);
        let datagram = initial(Version::V1, 0, &frames, 1200);
        prop_assert_eq!(name_in(&[datagram]), Some("scattered.example".to_owned()));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0_usize..1200, flip: u8) {
        let mut datagram = initial(Version::V1, 0, &crypto(0, &hello("www.example")), 1200);
        datagram[at] ^= flip;
        let frames = initial(Version::V1, 0, &bytes, 1200);
        let _ = first_packets([&bytes[..], &datagram[..], &frames[..]]);
    }
}
