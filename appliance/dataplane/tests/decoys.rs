//! Packets that the server ignores: a client cannot make the data plane lose its flow with them, nor
//! have them judged in place of what the server takes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use weir_dataplane::Attach;
use wire::engine::{Does, PORT, judge_all};
use wire::raw::{ACK, RAW_CLIENT, RAW_SERVER, Raw, SYN};
use wire::{SERVER, Wire};

/// Opens a connection, sends a decoy made of the handshake's last ACK, then `RE`, the decoy again,
/// and `AL`. Arguments: address, port, sequence and acknowledgement relative to that ACK's, flags,
/// payload, `plain` or `forged` (the addresses exchanged, as if the server sent it) or `header`
/// (wrong IPv4 checksum).
const CLIENT: &str = r#"
import socket, struct, sys, time
address, port, sequence, acknowledged, flags, payload, kind = sys.argv[1:]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); raw.settimeout(10)
raw.bind(('e0', 3))
s = socket.create_connection((address, int(port)), 10)
own = s.getsockname()[1]
while True:
    frame = raw.recv(65536)
    tcp = frame[34:]
    if frame[12:14] == b"\x08\0" and tcp[12] >> 4 == 8 and tcp[13] == 0x10 and struct.unpack('!H', tcp[:2])[0] == own:
        break
def checksum(data):
    data += b'\0' * (len(data) % 2)
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total > 0xffff: total = (total & 0xffff) + (total >> 16)
    return struct.pack('!H', ~total & 0xffff)
ip = bytearray(frame[14:34]); tcp = bytearray(tcp[:32]) + payload.encode()
first, expected = struct.unpack('!II', tcp[4:12])
tcp[4:12] = struct.pack('!II', (first + int(sequence)) % 2**32, (expected + int(acknowledged)) % 2**32)
tcp[13] = int(flags, 16)
if kind == 'forged':
    ip[12:20] = ip[16:20] + ip[12:16]; tcp[:4] = tcp[2:4] + tcp[:2]
ip[2:4] = struct.pack('!H', 20 + len(tcp)); ip[10:12] = b'\0\0'; ip[10:12] = checksum(bytes(ip))
tcp[16:18] = b'\0\0'
tcp[16:18] = checksum(bytes(ip[12:20]) + struct.pack('!HH', 6, len(tcp)) + bytes(tcp))
if kind == 'header': ip[10] ^= 0x55
def decoy():
    raw.send(frame[:14] + bytes(ip) + bytes(tcp)); time.sleep(0.05)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
decoy(); s.sendall(b'RE'); time.sleep(0.05); decoy(); s.sendall(b'AL')
s.settimeout(8)
try: print(s.recv(16).decode())
except OSError: print('nothing')
"#;

struct Decoy {
    name: &'static str,
    sequence: i32,
    acknowledged: i32,
    flags: u8,
    payload: &'static str,
    kind: &'static str,
}

const PLAIN: Decoy =
    Decoy { name: "", sequence: 0, acknowledged: 0, flags: 0x18, payload: "DECO", kind: "plain" };

#[test]
fn a_packet_that_the_server_ignores_changes_nothing() {
    let decoys = [
        Decoy { name: "old RST", sequence: -9000, flags: 0x14, payload: "", ..PLAIN },
        Decoy { name: "RST in the window", sequence: 900, flags: 0x14, payload: "", ..PLAIN },
        Decoy { name: "old FIN", sequence: -9000, flags: 0x11, payload: "", ..PLAIN },
        Decoy { name: "SYN-ACK", sequence: -9000, flags: 0x12, payload: "", ..PLAIN },
        Decoy { name: "SYN-ACK with payload", sequence: -9000, flags: 0x12, ..PLAIN },
        Decoy { name: "acknowledges nothing", flags: 0x08, ..PLAIN },
        Decoy { name: "acknowledges too much", acknowledged: 5000, ..PLAIN },
        Decoy { name: "outside the window", sequence: 900_000, ..PLAIN },
        Decoy { name: "forged source", kind: "forged", ..PLAIN },
        Decoy { name: "IPv4 checksum", kind: "header", ..PLAIN },
        Decoy {
            name: "SYN of another connection",
            sequence: 77,
            flags: 0x02,
            payload: "",
            ..PLAIN
        },
        Decoy { name: "SYN at the first byte", flags: 0x12, ..PLAIN },
    ];
    for decoy in decoys {
        let wire = Wire::new();
        let (engine, held) = wire.engine(Attach::Auto);
        let _judge = judge_all(held, 4, Does::TakeOver);
        let listener = wire.listen();
        let server = std::thread::spawn(move || {
            let (mut server, _) = listener.accept().unwrap();
            let mut bytes = [0; 4];
            server.read_exact(&mut bytes).unwrap();
            server.write_all(&bytes).unwrap();
        });
        assert_eq!(run(&wire, &decoy), "REAL", "{}", decoy.name);
        server.join().unwrap();
        assert_eq!(engine.counter("flow_taken_over"), 1, "{}", decoy.name);
        if decoy.kind == "header" {
            assert!(engine.counter("held_bad_header_checksum_dropped") >= 1);
        }
    }
}

#[test]
fn a_byte_ahead_of_the_first_cannot_carry_the_hello_past() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 4, Does::Hold);
    let listener = wire.listen();
    let server = std::thread::spawn(move || {
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        server.read(&mut [0; 16]).unwrap_err().kind()
    });
    let decoy = Decoy { name: "one junk byte", sequence: -1, payload: "XDECO", ..PLAIN };
    run(&wire, &decoy);
    assert_eq!(server.join().unwrap(), ErrorKind::WouldBlock);
    assert!(engine.counter("client_invalid_dropped") >= 1);
    assert_eq!(engine.counter("flow_held"), 1);
}

#[test]
fn a_second_syn_that_the_server_does_not_answer_lets_nothing_past() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 4, Does::TakeOver);
    let (mut client, mut server) = asked(&wire);
    answer(&server, &client);
    client.expect("SYN-ACK", |a| a.flags == SYN | ACK);
    let mut second = client.syn();
    second.sequence = second.sequence.wrapping_add(77);
    client.put(&second);
    server.expect("the second SYN", |a| a.flags == SYN && a.sequence == second.sequence);
    (client.expected, server.expected) = (server.first, client.first);
    client.send(0, b"EVIL");
    engine.wait_for("contested_dropped", 1);
    server.expect_none("its data passed", |a| !a.payload.is_empty());
}

#[test]
fn a_client_that_begins_anew_is_judged_by_the_syn_that_its_server_answers() {
    for does in [Does::TakeOver, Does::Release] {
        let wire = Wire::new();
        let (engine, held) = wire.engine(Attach::Auto);
        let _judge = judge_all(held, 4, does);
        let (mut client, mut server) = asked(&wire);
        client.first = client.first.wrapping_add(77);
        Raw::shake(&mut client, &mut server);
        client.send(0, b"good");
        let came = server.expect("the judged bytes", |a| a.payload == b"good");
        assert_eq!(came.sequence, client.first);
        server.acknowledge(0, 4);
        server.send(0, b"answer");
        client.expect("the answer", |a| a.payload == b"answer" && a.sequence == server.first);
        let judged = if does == Does::Release { "flow_released" } else { "flow_taken_over" };
        engine.wait_for(judged, 1);
        assert_eq!(engine.counter("contested_dropped"), 0);
    }
}

/// A client's SYN, which its server has not answered.
fn asked(wire: &Wire) -> (Raw, Raw) {
    let client = Raw::client(wire, 4000, RAW_SERVER);
    let server = Raw::server(wire, (RAW_CLIENT, 4000));
    assert!((0..20).any(|_| {
        client.put(&client.syn());
        server.receive_some(|a| a.flags == SYN).is_some()
    }));
    (client, server)
}

fn answer(server: &Raw, client: &Raw) {
    let mut answer = server.syn();
    (answer.flags, answer.acknowledged) = (SYN | ACK, client.first);
    server.put(&answer);
}

/// What the server answered.
fn run(wire: &Wire, decoy: &Decoy) -> String {
    let arguments = [
        SERVER.to_owned(),
        PORT.to_string(),
        decoy.sequence.to_string(),
        decoy.acknowledged.to_string(),
        format!("{:x}", decoy.flags),
        decoy.payload.to_owned(),
        decoy.kind.to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    wire.python(&wire.client, CLIENT, &arguments).trim().to_owned()
}

/// The client opens a connection, sends a first payload that the server will not accept (its
/// checksum is wrong), then the real one.
const DECOY: &str = r#"
import socket, struct, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); raw.settimeout(10)
raw.bind(('e0', 3))
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
port = s.getsockname()[1]
while True:
    frame = raw.recv(65536)
    tcp = frame[34:]
    # The handshake's last ACK, as this host sent it: 10 of a decoy go in its place.
    if frame[12:14] == b"\x08\0" and tcp[12] >> 4 == 8 and tcp[13] == 0x10 and struct.unpack('!H', tcp[:2])[0] == port:
        break
ip = bytearray(frame[14:34]); tcp = bytearray(tcp[:32])
ip[2:4] = struct.pack('!H', 62); ip[10:12] = b'\0\0'
total = sum(struct.unpack('!10H', ip)); total = (total & 0xffff) + (total >> 16)
ip[10:12] = struct.pack('!H', ~total & 0xffff)
tcp[13] = 0x18; tcp[16:18] = b'\x12\x34'
raw.send(frame[:14] + bytes(ip) + bytes(tcp) + b'DECOYDECOY')
s.sendall(b'REAL')
print(s.recv(16).decode())
"#;

#[test]
fn decoy_with_a_wrong_checksum_is_not_judged() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    let listener = wire.listen();
    let server = std::thread::spawn(move || {
        let (mut server, _) = listener.accept().unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).unwrap();
        server.write_all(&bytes).unwrap();
    });
    let answer = wire.python(&wire.client, DECOY, &[SERVER, &PORT.to_string()]);
    assert_eq!(answer.trim(), "REAL");
    server.join().unwrap();
    assert_eq!(engine.counter("held_bad_checksum_dropped"), 1);
    assert_eq!(engine.counter("flow_taken_over"), 1);
}

#[test]
fn flow_of_nothing_but_decoys_is_blocked() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    let listener = wire.listen();
    let server = std::thread::spawn(move || {
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
        server.read(&mut [0; 16]).unwrap_err().kind()
    });
    // The hello itself comes only once the flow was waited for long enough.
    let late =
        DECOY.replace("s.sendall(b'REAL')", "import time; time.sleep(6); s.sendall(b'REAL')");
    let late = late.replace("print(s.recv(16).decode())", "time.sleep(3)");
    wire.python(&wire.client, &late, &[SERVER, &PORT.to_string()]);
    assert_eq!(server.join().unwrap(), ErrorKind::WouldBlock);
    assert_eq!(engine.counter("held_unread_blocked"), 1);
    assert!(engine.counter("blocked_dropped") >= 1);
}
