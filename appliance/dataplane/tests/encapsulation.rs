//! Flows in VLANs and tunnels, and over IPv6: taken over and released, as both ends see them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};

use weir_dataplane::Attach;
use wire::capture::Capture;
use wire::ends::{ALL, Emulated, Ends, OUTER, OUTER_TTL, PLAIN, Tunnel};
use wire::engine::{Does, PORT, judge_all};
use wire::frames::Frame;
use wire::{CLIENT, SERVER, Wire, noise};

const SERVER_IPV6: &str = "fd77::2";
const TTL: [u8; 2] = [77, 111];
const SERVER_TOS: u32 = 0xb8;
const MAC: [[u8; 6]; 2] = [[2, 0xaa, 0, 0, 0, 1], [2, 0xbb, 0, 0, 0, 2]];

/// A wire between ends of this kind, whose routes leave room for the tunnel.
fn wire_between(ends: &Ends, mtu: u32) -> (Wire, Emulated) {
    let wire = Wire::with_mtu(mtu);
    let room = mtu - ends.tunnel.length();
    for (namespace, address, ttl) in
        [(&wire.client, CLIENT, TTL[0]), (&wire.server, SERVER, TTL[1])]
    {
        wire.run(
            namespace,
            &format!(
                "echo {ttl} > /proc/sys/net/ipv4/ip_default_ttl; \
                 echo {ttl} > /proc/sys/net/ipv6/conf/all/hop_limit; \
                 echo {ttl} > /proc/sys/net/ipv6/conf/e0/hop_limit; \
                 ip route replace 10.77.0.0/24 dev e0 src {address} mtu lock {room}"
            ),
        );
    }
    let emulated = Emulated::start(&wire, ends);
    (wire, emulated)
}

/// The server sends back what the client sends.
fn echo(client: &TcpStream, server: TcpStream, sent: &[u8], what: &str) {
    let mut client = client;
    let mut received = Vec::with_capacity(sent.len());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::io::copy(&mut &server, &mut &server).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(move || {
            client.write_all(sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        if let Err(error) = client.read_to_end(&mut received) {
            panic!("{what}: {error} after {} bytes", received.len());
        }
    });
    assert!(received == sent, "{what}: what came back is not what was sent");
}

struct Crossing<'a> {
    ends: &'a Ends,
    mtu: u32,
    does: Does,
    attach: Attach,
    offloads: bool,
    address: &'a str,
    bytes: usize,
}

impl Crossing<'_> {
    fn is_released(&self) -> bool {
        matches!(self.does, Does::Release | Does::ReleaseLate)
    }

    fn name(&self) -> String {
        let does = if self.is_released() { "released" } else { "taken over" };
        let offloads = if self.offloads { "GSO" } else { "no GSO" };
        format!("{} to {}, MTU {}, {does}, {offloads}", self.ends.name, self.address, self.mtu)
    }

    /// Runs it; what was captured at the client's and at the server's end.
    fn run(&self) -> [Vec<Frame>; 2] {
        let name = self.name();
        let (wire, emulated) = wire_between(self.ends, self.mtu);
        if !self.offloads {
            wire.without_offloads();
        }
        let (engine, held) = wire.engine(self.attach);
        let _judge = judge_all(held, 1, self.does);
        let captures = (!self.offloads)
            .then_some([&wire.client, &wire.server])
            // With the Ethernet header and a tag.
            .map(|ends| ends.map(|end| Capture::start_all_of_length(end, self.mtu + 18)));
        let listener = wire.listen_at(self.address);
        if self.address == SERVER {
            socket2::SockRef::from(&listener).set_tos_v4(SERVER_TOS).unwrap();
        } else {
            socket2::SockRef::from(&listener).set_tclass_v6(SERVER_TOS).unwrap();
        }
        let (client, server) = wire.pair(&listener);
        echo(&client, server, &noise(self.bytes), &name);
        let counter = if self.is_released() { "flow_released" } else { "flow_taken_over" };
        engine.wait_for(counter, 1);
        assert_eq!(engine.counter("flow_held"), 1, "{name}");
        for nothing in ["encapsulation_dropped", "decapsulation_dropped", "take_over_failed"] {
            assert_eq!(engine.counter(nothing), 0, "{name}: {nothing}");
        }
        let differ = matches!(self.ends.tunnel, Tunnel::GreKey([one, other]) if one != other);
        assert_eq!(engine.counter("gre_keys_differ"), u64::from(differ), "{name}");
        let frames = captures.map(|captures| {
            captures.map(|capture| {
                let frames = capture.stop_all();
                frames.iter().filter_map(|frame| Frame::read(frame)).collect()
            })
        });
        assert_eq!(emulated.mismatches(), [0, 0], "{name}");
        frames.unwrap_or_default()
    }
}

/// Every frame of each end, at both ends, has what that end sends.
fn compare(crossing: &Crossing<'_>, [client, server]: &[Vec<Frame>; 2]) {
    let name = crossing.name();
    let ends = crossing.ends;
    let server_address = SocketAddr::new(crossing.address.parse::<IpAddr>().unwrap(), PORT);
    let client_address = client.iter().find(|f| f.to == server_address).unwrap().from;
    for end in 0..2 {
        let (from, to) = [(client_address, server_address), (server_address, client_address)][end];
        let at_client: Vec<&Frame> = client.iter().filter(|f| f.from == from).collect();
        let at_server: Vec<&Frame> = server.iter().filter(|f| f.from == from).collect();
        let tunnel = tunnel_header(ends.tunnel, end);
        let tos = if end == 0 { 0 } else { SERVER_TOS as u8 };
        // As the end itself sends them: its kernel may choose another one behind the SYN.
        let own = if end == 0 { &at_client } else { &at_server };
        let labels: BTreeSet<u32> = own.iter().map(|frame| frame.flow_label).collect();
        for (frames, place) in [(&at_client, "client"), (&at_server, "server")] {
            assert!(!frames.is_empty(), "{name}: nothing at the {place}");
            // Once an end is through, its kernel may answer what still comes with RST.
            let open = frames.iter().take_while(|frame| frame.flags & 1 == 0);
            assert_eq!(open.filter(|frame| frame.flags & 4 != 0).count(), 0, "{name}: a RST");
            // Nearly all: what an end's kernel answers without a socket has no DSCP of its own.
            let marked = frames.iter().filter(|frame| frame.tos & 0xfc == tos).count();
            assert!(marked > frames.len() / 2, "{name}: DSCP of {marked} of {}", frames.len());
            for frame in frames.iter() {
                let bare = Frame { payload: vec![], ..(*frame).clone() };
                let what = format!("{name}: at the {place}: {bare:x?}");
                assert_eq!(frame.to, to, "{what}");
                assert_eq!(frame.mac, *[MAC[1 - end], MAC[end]].as_flattened(), "{what}");
                assert_eq!(frame.vlan_tci, ends.vlan.map(|tci| tci[end]), "{what}");
                assert_eq!(frame.tunnel, tunnel, "{what}");
                assert_eq!(frame.ttl, TTL[end], "{what}");
                assert!(labels.contains(&frame.flow_label), "{labels:x?}: {what}");
                assert!(frame.outer_length <= crossing.mtu as usize, "{what}");
                assert!(frame.whole, "a checksum or a length: {what}");
            }
        }
        let (there, here) = (stream(&at_client), stream(&at_server));
        assert_eq!(there.0, here.0, "{name}: first sequence number");
        assert_eq!([there.1.len(), here.1.len()], [crossing.bytes; 2], "{name}");
        assert!(there.1 == here.1, "{name}: the streams differ");
        if crossing.is_released() {
            for (here, there) in [(&at_server, &at_client), (&at_client, &at_server)] {
                let missing = here.iter().enumerate().find(|(place, frame)| {
                    !there.contains(frame) && !is_repeated(frame, &here[..*place])
                });
                assert!(missing.is_none(), "{name}: at one end only: {missing:x?}");
            }
        }
    }
}

/// Whether a frame says again what those before it said: where a loaded machine holds a flow for longer
/// than its client waits, what the client then repeats goes on once.
fn is_repeated(frame: &Frame, before: &[&Frame]) -> bool {
    let end = |frame: &Frame| frame.sequence.wrapping_add(frame.payload.len() as u32);
    let said = |other: &&Frame| end(other).wrapping_sub(end(frame)) < 1 << 31;
    !frame.payload.is_empty() && before.iter().any(said)
}

/// As `Frame::tunnel` has it.
fn tunnel_header(tunnel: Tunnel, end: usize) -> Option<Vec<u8>> {
    let (protocol, gre) = tunnel.header(end)?;
    let ip = [0x45, 0, 0x40, 0, OUTER_TTL[end], protocol];
    Some([&ip[..], &OUTER[end], &OUTER[1 - end], &gre].concat())
}

fn stream(frames: &[&Frame]) -> (u32, Vec<u8>) {
    let first = frames.iter().find(|f| f.flags & 2 != 0).expect("a SYN").sequence.wrapping_add(1);
    let mut data: Vec<(usize, &[u8])> = frames
        .iter()
        .filter(|f| f.flags & 2 == 0)
        .map(|f| (f.sequence.wrapping_sub(first) as usize, f.payload.as_slice()))
        .collect();
    data.sort_by_key(|(start, _)| *start);
    let mut bytes = vec![];
    for (start, payload) in data {
        if start <= bytes.len() && start + payload.len() > bytes.len() {
            let known = bytes.len() - start;
            bytes.extend(&payload[known..]);
        }
    }
    (first, bytes)
}

fn crossing<'a>(ends: &'a Ends, does: Does, address: &'a str) -> Crossing<'a> {
    let attach = Attach::Auto;
    Crossing { ends, mtu: 1500, does, attach, offloads: false, address, bytes: 400_000 }
}

fn keeps_every_field(does: Does) {
    for ends in &ALL {
        let crossing = crossing(ends, does, SERVER);
        compare(&crossing, &crossing.run());
    }
    let crossing = crossing(&PLAIN, does, SERVER_IPV6);
    compare(&crossing, &crossing.run());
    let in_vlan = Crossing { ends: &ALL[0], ..crossing };
    compare(&in_vlan, &in_vlan.run());
}

#[test]
fn taken_flow_keeps_tag_tunnel_and_addresses() {
    keeps_every_field(Does::TakeOver);
}

#[test]
fn released_flow_keeps_every_packet() {
    keeps_every_field(Does::Release);
}

/// As on a machine that is too busy to judge at once.
#[test]
fn flow_released_late_keeps_every_packet_but_what_its_client_repeated() {
    for ends in [&PLAIN, &ALL[0], &ALL[5]] {
        let crossing = crossing(ends, Does::ReleaseLate, SERVER);
        compare(&crossing, &crossing.run());
    }
}

/// Megabytes, with the large frames that the ends' kernels make.
fn carries_megabytes(does: Does, attach: Attach) {
    for ends in &ALL {
        let (offloads, bytes) = (true, 4 << 20);
        Crossing { attach, offloads, bytes, ..crossing(ends, does, SERVER) }.run();
    }
    for ends in [&PLAIN, &ALL[0]] {
        let (offloads, bytes) = (true, 4 << 20);
        Crossing { attach, offloads, bytes, ..crossing(ends, does, SERVER_IPV6) }.run();
    }
}

#[test]
fn taken_flow_carries_megabytes_in_large_frames() {
    carries_megabytes(Does::TakeOver, Attach::Auto);
}

#[test]
fn released_flow_carries_megabytes_in_large_frames() {
    carries_megabytes(Does::Release, Attach::Auto);
}

#[test]
fn clsact_serves_as_well() {
    carries_megabytes(Does::TakeOver, Attach::Clsact);
}

#[test]
fn no_mix_of_mtu_and_tunnel_stalls() {
    for mtu in [1280, 1500, 9000] {
        for offloads in [false, true] {
            for ends in [&PLAIN, &ALL[1], &ALL[5]] {
                let bytes = 1 << 20;
                let crossing =
                    Crossing { mtu, offloads, bytes, ..crossing(ends, Does::TakeOver, SERVER) };
                let frames = crossing.run();
                if !offloads {
                    compare(&crossing, &frames);
                }
            }
            let bytes = 1 << 20;
            Crossing { mtu, offloads, bytes, ..crossing(&PLAIN, Does::TakeOver, SERVER_IPV6) }
                .run();
        }
    }
}
