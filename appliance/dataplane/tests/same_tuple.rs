//! The same addresses and ports more than once at one time: through a segment twice, in two VLANs, on
//! two segments one behind the other. Each is its own flow or is left alone, and counted (SPEC D16).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use weir_dataplane::namespace::inside;
use weir_dataplane::{Attach, HeldFlows};
use weir_policy::snapshot::{Layer2Fallback, Side};
use wire::capture::Capture;
use wire::engine::{Does, Engine, PORT, judge_all, snapshot};
use wire::frames::Frame;
use wire::raw::{ACK, Arrived, PUSH, RAW_CLIENT, RAW_SERVER, Raw};
use wire::{Wire, ip, noise};

/// Client and server behind a switch at port A, their router at port B: what they say to one another
/// comes in by A, goes to the router, and comes back in by B.
struct Hairpin {
    wire: Wire,
    ends: [PathBuf; 2],
}

const END_ADDRESSES: [&str; 2] = ["10.78.1.1", "10.78.2.1"];

impl Hairpin {
    fn new() -> Self {
        let wire = Wire::new();
        let (switch, router) = (wire.name("client"), wire.name("server"));
        ip(&format!("-n {switch} link add name switch type bridge forward_delay 0 stp_state 0"));
        ip(&format!("-n {switch} link set e0 master switch"));
        let ends = ["near", "far"].map(|name| {
            let space = wire.name(name);
            ip(&format!("netns add {space}"));
            ip(&format!("-n {switch} link add name {name} type veth peer name e0 netns {space}"));
            ip(&format!("-n {switch} link set {name} master switch"));
            ip(&format!("-n {switch} link set {name} up"));
            wire.names.netns_directory.join(space)
        });
        ip(&format!("-n {switch} link set switch up"));
        for (end, address) in ends.iter().zip(END_ADDRESSES) {
            let space = end.file_name().unwrap().to_str().unwrap();
            let gateway = address.replace(".1.1", ".1.254").replace(".2.1", ".2.254");
            ip(&format!("-n {space} addr add {address}/24 dev e0"));
            ip(&format!("-n {space} link set e0 up"));
            ip(&format!("-n {space} route add default via {gateway}"));
            ip(&format!("-n {router} addr add {gateway}/24 dev e0"));
        }
        wire.run(
            &wire.server,
            "echo 1 > /proc/sys/net/ipv4/ip_forward; \
             echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects; \
             echo 0 > /proc/sys/net/ipv4/conf/e0/send_redirects",
        );
        Self { wire, ends }
    }

    fn listen(&self) -> TcpListener {
        inside(&self.ends[1], || TcpListener::bind((END_ADDRESSES[1], PORT)).unwrap()).unwrap()
    }

    fn pair(&self, listener: &TcpListener) -> [TcpStream; 2] {
        let address = listener.local_addr().unwrap();
        let client = inside(&self.ends[0], || {
            TcpStream::connect_timeout(&address, Duration::from_secs(20)).unwrap()
        })
        .unwrap();
        let ends = [client, listener.accept().unwrap().0];
        for end in &ends {
            end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            end.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        ends
    }
}

impl Drop for Hairpin {
    fn drop(&mut self) {
        for name in ["near", "far"] {
            ip(&format!("netns del {}", self.wire.name(name)));
        }
    }
}

/// The server sends back what it hears.
fn echo([client, server]: [TcpStream; 2], sent: &[u8]) {
    let client = &client;
    let mut received = vec![];
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::io::copy(&mut &server, &mut &server).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(move || {
            let mut client = client;
            client.write_all(sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let mut client = client;
        client.read_to_end(&mut received).unwrap();
    });
    assert!(received == sent, "what came back is not what was sent");
}

#[test]
fn a_flow_that_crosses_the_segment_twice_is_left_alone() {
    let hairpin = Hairpin::new();
    let (engine, held) = hairpin.wire.engine(Attach::Auto);
    judge_all(held, 1, Does::TakeOver);
    let captures = [&hairpin.ends[0], &hairpin.ends[1]].map(|end| Capture::start(end));
    let listener = hairpin.listen();
    echo(hairpin.pair(&listener), &noise(300_000));
    assert_eq!(engine.counter("flow_held"), 0);
    assert!(engine.counter("two_passes_passed") >= 1);
    // Each packet came as it was sent, but for its TTL and the router's MAC addresses.
    let [client, server] = captures.map(Capture::stop);
    for (here, there, to) in [(&client, &server, PORT), (&server, &client, client[0].from.1)] {
        for sent in here.iter().filter(|packet| packet.to.1 == to) {
            let same = |other: &&wire::capture::Packet| {
                let as_sent =
                    wire::capture::Packet { mac: sent.mac, ttl: sent.ttl, ..(**other).clone() };
                as_sent == *sent && other.ttl + 1 == sent.ttl
            };
            assert!(there.iter().any(|other| same(&other)), "did not arrive: {sent:?}");
        }
    }
}

/// An engine on the hairpin whose policy is for clients at one port alone: of the two passes only one
/// is a candidate, and nothing says of the other that it belongs to the same connection.
fn for_clients_at(hairpin: &Hairpin, side: Side, does: Does) -> Engine {
    let (engine, held) = hairpin.wire.engine(Attach::Auto);
    let mut snapshot = snapshot(Layer2Fallback::PermitAll);
    snapshot.virtual_segments[0].from = Some(side);
    engine.dataplane.apply(&snapshot).unwrap();
    judge_all(held, 1, does);
    engine
}

#[test]
fn one_pass_of_two_is_taken_or_released_and_the_other_left_alone() {
    for side in [Side::A, Side::B] {
        for (does, counter) in
            [(Does::TakeOver, "flow_taken_over"), (Does::Release, "flow_released")]
        {
            let hairpin = Hairpin::new();
            let engine = for_clients_at(&hairpin, side, does);
            let listener = hairpin.listen();
            echo(hairpin.pair(&listener), &noise(2_000_000));
            engine.wait_for(counter, 1);
            assert_eq!(engine.counter("flow_held"), 1);
            let left_alone = if does == Does::TakeOver {
                engine.counter("taken_other_pass_passed")
            } else {
                engine.counter("two_passes_passed")
            };
            assert!(left_alone >= 1, "{side:?} {counter}");
        }
    }
}

#[test]
fn one_pass_of_two_is_held_while_the_other_is_left_alone() {
    for side in [Side::A, Side::B] {
        let hairpin = Hairpin::new();
        let engine = for_clients_at(&hairpin, side, Does::Hold);
        let listener = hairpin.listen();
        let [mut client, server] = hairpin.pair(&listener);
        client.write_all(b"held").unwrap();
        engine.wait_for("flow_held", 1);
        server.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
        assert!((&server).read(&mut [0; 4]).is_err(), "a held flow's bytes passed");
    }
}

#[test]
fn a_router_that_gives_the_second_pass_other_sequence_numbers_makes_a_flow_of_its_own() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1, Does::TakeOver);
    // Client and server at A, a router that changes sequence numbers at B: the connection between
    // client and router, and the one between router and server, with the same addresses and ports.
    let (far, near) = ((RAW_SERVER, PORT), (RAW_CLIENT, 4000));
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::client(&wire, 4000, RAW_SERVER);
    (server.local, server.remote) = (far, near);
    let mut to_client = Raw::server(&wire, near);
    let mut to_server = Raw::server(&wire, near);
    (to_server.local, to_server.remote) = (near, far);
    to_server.first = 0x1234_5678;
    to_client.first = 0x4321_0000;
    server.first = 0x5555_0000;
    Raw::shake(&mut client, &mut to_client);
    Raw::shake(&mut to_server, &mut server);
    client.send(0, b"hello");
    let said = to_client.expect("the client's bytes", |a| a.payload == b"hello");
    assert_eq!(said.sequence, client.first);
    to_client.acknowledge(0, 5);
    to_server.send(0, b"hello");
    server.expect("the bytes, as the router passes them on", |a| a.payload == b"hello");
    server.acknowledge(0, 5);
    server.send(0, b"answer");
    to_server.expect("the answer", |a| a.payload == b"answer");
    to_client.send(0, b"answer");
    client.expect("the answer, as the router passes it on", |a| a.payload == b"answer");
    assert!(engine.counter("flow_held") <= 1, "both passes as one flow");
}

/// Raw ends with the same addresses and ports in two VLANs, or with one of them untagged.
struct TwoVlans {
    _wire: Wire,
    engine: Engine,
    held: Option<HeldFlows>,
    flows: [(Raw, Raw); 2],
}

impl TwoVlans {
    fn new(vlans: [Option<u16>; 2]) -> Self {
        let wire = Wire::new();
        let (engine, held) = wire.engine(Attach::Auto);
        let mut flows = vlans.map(|vlan| {
            let mut client = Raw::client(&wire, 4000, RAW_SERVER);
            let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
            (client.vlan, server.vlan) = (vlan, vlan);
            (client, server)
        });
        for (which, (client, server)) in (0..).zip(&mut flows) {
            client.first = client.first.wrapping_add(which * 100);
            server.first = server.first.wrapping_add(which * 5_000_000);
            Raw::shake(client, server);
        }
        Self { _wire: wire, engine, held: Some(held), flows }
    }

    fn judge(&mut self, does: Does) {
        judge_all(self.held.take().unwrap(), 1, does);
    }
}

const PAYLOADS: [[&[u8]; 2]; 2] =
    [[b"first client", b"first server"], [b"the second client", b"the second server"]];

fn says<'a>(payload: &'a [u8]) -> impl Fn(&Arrived) -> bool + 'a {
    move |arrived| !arrived.payload.is_empty() && payload.starts_with(&arrived.payload)
}

#[test]
fn flows_of_two_vlans_are_released_each_by_itself() {
    for vlans in [[Some(10), Some(20)], [None, Some(20)]] {
        let mut two = TwoVlans::new(vlans);
        two.judge(Does::Release);
        for ((client, _), [said, _]) in two.flows.iter().zip(PAYLOADS) {
            client.send(0, said);
        }
        for ((client, server), [said, answer]) in two.flows.iter().zip(PAYLOADS) {
            let came = server.expect("the client's bytes", |a| !a.payload.is_empty());
            assert_eq!((came.payload.as_slice(), came.sequence), (said, client.first));
            assert_eq!((came.flags, came.ttl), (ACK | PUSH, 64));
            server.acknowledge(0, said.len() as u32);
            server.send(0, answer);
            let came = client.expect("the server's bytes", |a| !a.payload.is_empty());
            assert_eq!((came.payload.as_slice(), came.sequence), (answer, server.first));
        }
        two.engine.wait_for("flow_released", 2);
        two.engine.wait_for("release_final", 2);
    }
}

#[test]
fn of_flows_of_two_vlans_one_is_taken_and_the_other_left_alone() {
    for vlans in [[Some(10), Some(20)], [None, Some(20)], [Some(20), None]] {
        let mut two = TwoVlans::new(vlans);
        two.judge(Does::TakeOver);
        let [(client, server), (other_client, other_server)] = &two.flows;
        client.send(0, PAYLOADS[0][0]);
        two.engine.wait_for("flow_taken_over", 1);
        other_client.send(0, PAYLOADS[1][0]);
        two.engine.wait_for("take_over_tuple_owned", 1);
        let came = server.expect("the client's bytes", says(PAYLOADS[0][0]));
        assert_eq!(came.sequence, client.first);
        let came = other_server.expect("the second client's bytes", says(PAYLOADS[1][0]));
        assert_eq!(came.sequence, other_client.first);
        server.acknowledge(0, PAYLOADS[0][0].len() as u32);
        other_server.acknowledge(0, PAYLOADS[1][0].len() as u32);
        server.send(0, PAYLOADS[0][1]);
        other_server.send(0, PAYLOADS[1][1]);
        let came = client.expect("the server's bytes", says(PAYLOADS[0][1]));
        assert_eq!(came.sequence, server.first);
        let came = other_client.expect("the second server's bytes", says(PAYLOADS[1][1]));
        assert_eq!(came.sequence, other_server.first);
        assert_eq!(two.engine.counter("flow_held"), 2);
        // The one that was taken goes on with the engine, the other on the bridge.
        other_client.send(PAYLOADS[1][0].len() as i64, b"more");
        other_server.expect("more on the bridge", |a| a.payload == b"more");
        client.send(PAYLOADS[0][0].len() as i64, b"more");
        server.expect("more through the engine", |a| a.payload == b"more");
    }
}

#[test]
fn a_held_flow_does_not_hold_the_same_tuple_in_another_vlan() {
    let mut two = TwoVlans::new([Some(10), Some(20)]);
    let [(client, server), (other_client, other_server)] = &mut two.flows;
    client.send(0, PAYLOADS[0][0]);
    two.engine.wait_for("flow_held", 1);
    // The server of the other speaks first, which leaves that one to the bridge.
    other_server.send(0, b"220 ready");
    other_client.expect("the greeting", |a| a.payload == b"220 ready");
    other_client.expected = other_client.expected.wrapping_add(9);
    other_client.send(0, PAYLOADS[1][0]);
    other_server.expect("its bytes", says(PAYLOADS[1][0]));
    server.expect_none("a held flow's bytes passed", |a| !a.payload.is_empty());
    two.judge(Does::TakeOver);
    let [(client, server), _] = &two.flows;
    server.expect("the held bytes", says(PAYLOADS[0][0]));
    server.acknowledge(0, PAYLOADS[0][0].len() as u32);
    server.send(0, PAYLOADS[0][1]);
    client.expect("the answer", says(PAYLOADS[0][1]));
    assert_eq!(two.engine.counter("flow_held"), 1);
    assert_eq!(two.engine.counter("flow_taken_over"), 1);
}

#[test]
fn frames_of_two_vlans_arrive_with_their_own_tags() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1, Does::TakeOver);
    let capture = Capture::start_all(&wire.server);
    for (tag, first) in [(0x600a, 1_000_000), (0x2014, 9_000_000)] {
        let mut client = Raw::client(&wire, 4000, RAW_SERVER);
        let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
        (client.vlan, server.vlan) = (Some(tag), Some(tag));
        client.first = first;
        Raw::shake(&mut client, &mut server);
        client.send(0, b"hello");
        server.expect("the client's bytes", |a| a.payload == b"hello");
    }
    assert_eq!(engine.counter("flow_taken_over"), 1);
    let frames: Vec<Frame> =
        capture.stop_all().iter().filter_map(|frame| Frame::read(frame)).collect();
    let from_client = frames.iter().filter(|frame| frame.from.port() == 4000);
    for frame in from_client {
        let tag = if frame.sequence < 5_000_000 { 0x600a } else { 0x2014 };
        assert_eq!(frame.vlan_tci, Some(tag), "{frame:x?}");
    }
}
