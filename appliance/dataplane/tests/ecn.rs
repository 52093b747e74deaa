//! ECN (RFC 3168) of taken and released flows (SPEC D17): what the ends agree crosses, and a mark that
//! a path sets on an end's packets reaches that end as its peer would have told it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};

use weir_dataplane::Attach;
use wire::capture::{Capture, Packet};
use wire::ends::Tunnel;
use wire::engine::{Does, Engine, PORT, judge_all};
use wire::raw::{ACK, Arrived, CWR, ECE, PUSH, RAW_CLIENT, RAW_SERVER, Raw, SYN};
use wire::{Wire, noise};

/// The last two bits of the TOS.
const NOT_ECT: u8 = 0;
const ECT_0: u8 = 2;
const CE: u8 = 3;

struct Flow {
    wire: Wire,
    engine: Engine,
    client: Raw,
    server: Raw,
}

/// Two ends after their handshake, in which they agreed on ECN or did not.
fn flow(does: Does, agreed: bool) -> Flow {
    flow_in(Tunnel::None, does, agreed)
}

fn flow_in(tunnel: Tunnel, does: Does, agreed: bool) -> Flow {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 5, does);
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    (client.tunnel, server.tunnel) = (tunnel, tunnel);
    client.syn_flags = ECE | CWR;
    server.syn_flags = if agreed { ECE } else { 0 };
    Raw::shake(&mut client, &mut server);
    Flow { wire, engine, client, server }
}

/// Sends a payload with these ECN bits and these flags beside the usual ones.
fn send(from: &Raw, at: i64, payload: &[u8], ecn: u8, flags: u8) {
    let mut segment = from.segment(at, payload);
    segment.tos = ecn;
    segment.flags = ACK | PUSH | flags;
    from.put(&segment);
}

fn acknowledges(end: &Raw, bytes: u32) -> impl Fn(&Arrived) -> bool {
    let wanted = end.first.wrapping_add(bytes);
    move |arrived| arrived.acknowledged == wanted
}

#[test]
fn the_handshakes_ecn_flags_cross() {
    let wire = Wire::new();
    let (_engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1, Does::TakeOver);
    let captures = [Capture::start(&wire.client), Capture::start(&wire.server)];
    let mut client = Raw::client(&wire, 4000, RAW_SERVER);
    let mut server = Raw::server(&wire, (RAW_CLIENT, 4000));
    (client.syn_flags, server.syn_flags) = (ECE | CWR, ECE);
    Raw::shake(&mut client, &mut server);
    for packets in captures.map(Capture::stop) {
        let flags = |from: u16| {
            let of_end = |p: &&Packet| p.from.1 == from && p.flags & SYN != 0;
            packets.iter().find(of_end).unwrap().flags
        };
        assert_eq!([flags(4000), flags(PORT)], [SYN | ECE | CWR, SYN | ACK | ECE]);
    }
}

#[test]
fn a_mark_on_a_taken_flow_is_answered_until_its_end_says_so() {
    let Flow { wire: _wire, engine, client, server } = flow(Does::TakeOver, true);
    send(&client, 0, b"hello", ECT_0, 0);
    let came = server.expect("the hello", |a| a.payload == b"hello");
    assert_eq!((came.tos & 3, came.flags & (ECE | CWR)), (NOT_ECT, 0));
    server.acknowledge(0, 5);

    send(&client, 5, b"marked", CE, 0);
    let answer = client.expect("an acknowledgement", acknowledges(&client, 11));
    assert_eq!(answer.flags & ECE, ECE, "{answer:?}");
    let came = server.expect("the marked bytes", |a| a.payload == b"marked");
    assert_eq!((came.tos & 3, came.flags & (ECE | CWR)), (NOT_ECT, 0));
    server.acknowledge(0, 11);
    // On all that goes to that end, and on nothing that goes to the other.
    server.send(0, b"answer");
    let came = client.expect("the answer", |a| a.payload == b"answer");
    assert_eq!(came.flags & ECE, ECE, "{came:?}");
    let answer = server.expect("an acknowledgement", acknowledges(&server, 6));
    assert_eq!(answer.flags & ECE, 0, "{answer:?}");

    // The end has reduced its rate.
    let mut reduced = client.segment(11, b"slower");
    (reduced.tos, reduced.flags) = (ECT_0, ACK | PUSH | CWR);
    reduced.acknowledged = client.expected.wrapping_add(6);
    client.put(&reduced);
    let answer = client.expect("an acknowledgement", acknowledges(&client, 17));
    assert_eq!(answer.flags & ECE, 0, "{answer:?}");
    let came = server.expect("the slower bytes", |a| a.payload == b"slower");
    assert_eq!(came.flags & (ECE | CWR), 0, "{came:?}");
    assert_eq!(engine.counter("flow_taken_over"), 1);
}

#[test]
fn a_mark_on_the_servers_packets_is_answered_to_the_server() {
    let Flow { wire: _wire, engine: _engine, client, server } = flow(Does::TakeOver, true);
    send(&client, 0, b"hello", ECT_0, 0);
    server.expect("the hello", |a| a.payload == b"hello");
    server.acknowledge(0, 5);
    send(&server, 0, b"marked", CE, 0);
    let answer = server.expect("an acknowledgement", acknowledges(&server, 6));
    assert_eq!(answer.flags & ECE, ECE, "{answer:?}");
    let came = client.expect("the marked bytes", |a| a.payload == b"marked");
    assert_eq!((came.tos & 3, came.flags & ECE), (NOT_ECT, 0));
}

const TUNNELS: [Tunnel; 3] = [Tunnel::Ipip, Tunnel::Gre, Tunnel::GreKey([77, 88])];

/// The same in a tunnel, the ECN bits of its header beside those of the packet.
fn send_in(from: &Raw, at: i64, payload: &[u8], outer: u8, inner: u8) {
    let mut segment = from.segment(at, payload);
    (segment.outer_tos, segment.tos) = (outer, inner);
    from.put(&segment);
}

#[test]
fn a_mark_of_the_tunnels_path_is_answered_as_one_on_the_packet() {
    for tunnel in TUNNELS {
        let Flow { wire: _wire, engine, client, server } = flow_in(tunnel, Does::TakeOver, true);
        send_in(&client, 0, b"hello", ECT_0, ECT_0);
        let came = server.expect("the hello", |a| a.payload == b"hello");
        assert_eq!((came.outer_tos, came.tos), (NOT_ECT, NOT_ECT), "{tunnel:?}");
        server.acknowledge(0, 5);
        client.expect("an acknowledgement", |a| acknowledges(&client, 5)(a) && a.flags & ECE == 0);

        for (from, to, at) in [(&client, &server, 5), (&server, &client, 0)] {
            send_in(from, at, b"marked", CE, ECT_0);
            let answer = from.expect("an acknowledgement", acknowledges(from, at as u32 + 6));
            assert_eq!(answer.flags & ECE, ECE, "{tunnel:?}: {answer:?}");
            let came = to.expect("the marked bytes", |a| a.payload == b"marked");
            assert_eq!((came.outer_tos, came.tos), (NOT_ECT, NOT_ECT), "{tunnel:?}");
        }
        assert_eq!(engine.counter("flow_taken_over"), 1);
        assert_eq!(engine.counter("tunnel_congestion_dropped"), 0);
    }
}

#[test]
fn a_mark_on_the_packet_is_answered_whatever_its_tunnel_says() {
    for (outer, inner) in [(NOT_ECT, CE), (ECT_0, CE), (CE, CE)] {
        let Flow { wire: _wire, engine: _engine, client, server } =
            flow_in(Tunnel::Ipip, Does::TakeOver, true);
        send_in(&client, 0, b"hello", outer, inner);
        server.expect("the hello", |a| a.payload == b"hello");
        server.acknowledge(0, 5);
        server.send(0, b"answer");
        let came = client.expect("the answer", |a| a.payload == b"answer");
        assert_eq!(came.flags & ECE, ECE, "{outer} around {inner}: {came:?}");
    }
}

/// RFC 6040 4.2: where the packet says that nobody would answer a mark, its receiver drops it.
#[test]
fn a_marked_packet_that_cannot_be_marked_is_dropped_as_its_receiver_would() {
    for tunnel in TUNNELS {
        let Flow { wire: _wire, engine, client, server } = flow_in(tunnel, Does::TakeOver, true);
        // While nothing was judged.
        send_in(&client, 0, b"hello", CE, NOT_ECT);
        engine.wait_for("tunnel_congestion_dropped", 1);
        assert_eq!(engine.counter("flow_held"), 0, "{tunnel:?}");
        send_in(&client, 0, b"hello", NOT_ECT, NOT_ECT);
        server.expect("the hello", |a| a.payload == b"hello");
        server.acknowledge(0, 5);
        // And once it is taken.
        send_in(&client, 5, b"more", CE, NOT_ECT);
        engine.wait_for("tunnel_congestion_dropped", 2);
        server.expect_none("more", |a| !a.payload.is_empty());
        send_in(&client, 5, b"more", NOT_ECT, NOT_ECT);
        let came = server.expect("more", |a| a.payload == b"more");
        assert_eq!(came.flags & ECE, 0, "{came:?}");
    }
}

#[test]
fn marks_on_the_tunnel_cross_on_a_released_flow() {
    let Flow { wire: _wire, engine, client, server } = flow_in(Tunnel::Gre, Does::Release, true);
    send_in(&client, 0, b"hello", CE, ECT_0);
    let came = server.expect("the hello", |a| a.payload == b"hello");
    assert_eq!((came.outer_tos, came.tos), (CE, ECT_0));
    server.acknowledge(0, 5);
    engine.wait_for("release_final", 1);
    send_in(&client, 5, b"more", CE, NOT_ECT);
    let came = server.expect("more", |a| a.payload == b"more");
    assert_eq!((came.outer_tos, came.tos), (CE, NOT_ECT));
}

#[test]
fn a_mark_on_the_hello_is_answered_once_the_flow_is_taken() {
    let Flow { wire: _wire, engine: _engine, client, server } = flow(Does::TakeOver, true);
    send(&client, 0, b"hello", CE, 0);
    server.expect("the hello", |a| a.payload == b"hello");
    server.acknowledge(0, 5);
    server.send(0, b"answer");
    let came = client.expect("the answer", |a| a.payload == b"answer");
    assert_eq!(came.flags & ECE, ECE, "{came:?}");
}

#[test]
fn a_mark_is_not_answered_where_the_ends_did_not_agree() {
    let Flow { wire: _wire, engine: _engine, client, server } = flow(Does::TakeOver, false);
    send(&client, 0, b"hello", CE, 0);
    server.expect("the hello", |a| a.payload == b"hello");
    server.acknowledge(0, 5);
    send(&client, 5, b"marked", CE, 0);
    let answer = client.expect("an acknowledgement", acknowledges(&client, 11));
    assert_eq!(answer.flags & ECE, 0, "{answer:?}");
}

#[test]
fn marks_and_their_answers_cross_on_a_released_flow() {
    let Flow { wire: _wire, engine, client, server } = flow(Does::Release, true);
    send(&client, 0, b"hello", CE, 0);
    let came = server.expect("the hello", |a| a.payload == b"hello");
    assert_eq!(came.tos, CE);
    let mut answer = server.segment(0, b"answer");
    answer.flags = ACK | PUSH | ECE;
    answer.acknowledged = server.expected.wrapping_add(5);
    server.put(&answer);
    let came = client.expect("the answer", |a| a.payload == b"answer");
    assert_eq!(came.flags, ACK | PUSH | ECE);
    send(&client, 5, b"slower", ECT_0, CWR);
    let came = server.expect("the slower bytes", |a| a.payload == b"slower");
    assert_eq!((came.tos, came.flags), (ECT_0, ACK | PUSH | CWR));
    engine.wait_for("release_final", 1);
}

#[test]
fn kernels_that_agree_on_ecn_are_served() {
    let wire = Wire::new();
    for end in [&wire.client, &wire.server] {
        wire.run(end, "echo 1 > /proc/sys/net/ipv4/tcp_ecn");
    }
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, 1, Does::TakeOver);
    let captures = [Capture::start(&wire.client), Capture::start(&wire.server)];
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    let sent = noise(200_000);
    std::thread::scope(|scope| {
        scope.spawn(|| client.write_all(&sent).unwrap());
        let mut bytes = vec![0; sent.len()];
        server.read_exact(&mut bytes).unwrap();
        assert!(bytes == sent);
    });
    engine.wait_for("flow_taken_over", 1);
    // What each end sends says that it may be marked; what comes to it does not.
    let [client, server] = captures.map(Capture::stop);
    let data = |packets: &[Packet]| -> Vec<u8> {
        let of_client = packets.iter().filter(|p| p.to.1 == PORT && p.payload.len() > 1000);
        of_client.map(|packet| packet.tos & 3).collect()
    };
    assert!(data(&client).contains(&ECT_0)); // all but what is sent again
    assert!(!data(&server).is_empty() && data(&server).iter().all(|ecn| *ecn == NOT_ECT));
}
