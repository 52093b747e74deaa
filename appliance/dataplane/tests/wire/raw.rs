//! An end that is no kernel's: TCP segments made by hand, for what a kernel's TCP will not send.
//!
//! It has an address of its own on an end's interface (the kernel there does not know it, so it
//! neither answers nor resets), and the other end knows it by a permanent neighbour entry.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use weir_dataplane::namespace::inside;

use super::ends::{OUTER, Tunnel};
use super::engine::PORT;
use super::packet_socket::{packet_socket, receive_with_tag};
use super::packets::{checksum, ipv4};
pub use super::segments::*;
use super::{PATIENCE, Wire, ip};

/// Which end of the wire a raw end stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Client,
    Server,
}

/// The addresses that raw ends have.
pub const RAW_CLIENT: [u8; 4] = [10, 77, 0, 11];
pub const RAW_SERVER: [u8; 4] = [10, 77, 0, 12];

const CLIENT_MAC: [u8; 6] = [2, 0xaa, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0xbb, 0, 0, 0, 2];

/// One end of one connection.
pub struct Raw {
    socket: File,
    /// Destination, source.
    pub mac: [u8; 12],
    pub local: ([u8; 4], u16),
    pub remote: ([u8; 4], u16),
    /// Sequence number of its first byte, and of the peer's once that is known.
    pub first: u32,
    pub expected: u32,
    /// Of SYN segments.
    pub options: Vec<u8>,
    /// Of all later segments, where timestamps are in use: value and echo.
    pub timestamps: Option<(u32, u32)>,
    /// Of its SYN or SYN-ACK, beside the usual ones.
    pub syn_flags: u8,
    /// 802.1Q tag of what it sends; it hears only what comes in the same VLAN.
    pub vlan: Option<u16>,
    /// A program on its interface puts tag and tunnel around what it sends (`wire::ends`); it hears
    /// what comes, whatever is around it.
    pub behind_program: bool,
    /// It puts this tunnel around what it sends by itself; it hears what comes in any tunnel.
    pub tunnel: Tunnel,
}

/// MSS 1460 and nothing else.
pub const PLAIN_OPTIONS: &[u8] = &[2, 4, 5, 180];

impl Raw {
    /// A client at the wire's client end, for a connection to `remote`; it says nothing yet.
    pub fn client(wire: &Wire, port: u16, remote: [u8; 4]) -> Self {
        neighbour(wire, At::Client);
        let mac = [SERVER_MAC, CLIENT_MAC].concat().try_into().unwrap();
        Self::new(wire, At::Client, mac, (RAW_CLIENT, port), (remote, PORT))
    }

    /// A server at the wire's server end, for the connection of `remote`.
    pub fn server(wire: &Wire, remote: ([u8; 4], u16)) -> Self {
        neighbour(wire, At::Server);
        let mac = [CLIENT_MAC, SERVER_MAC].concat().try_into().unwrap();
        Self::new(wire, At::Server, mac, (RAW_SERVER, PORT), remote)
    }

    fn new(
        wire: &Wire,
        at: At,
        mac: [u8; 12],
        local: ([u8; 4], u16),
        remote: ([u8; 4], u16),
    ) -> Self {
        let namespace = if at == At::Client { &wire.client } else { &wire.server };
        let socket = inside(namespace, || packet_socket("e0")).unwrap();
        let first = 0x7000_0000 + u32::from(local.1);
        let options = PLAIN_OPTIONS.to_vec();
        Self {
            socket,
            mac,
            local,
            remote,
            first,
            expected: 0,
            options,
            timestamps: None,
            syn_flags: 0,
            vlan: None,
            behind_program: false,
            tunnel: Tunnel::None,
        }
    }

    /// The usual segment: the first byte, everything acknowledged.
    pub fn segment<'a>(&self, at: i64, payload: &'a [u8]) -> Segment<'a> {
        Segment {
            sequence: self.first.wrapping_add(at as u32),
            acknowledged: self.expected,
            flags: ACK | PUSH,
            payload,
            options: &[],
            ttl: 64,
            window: 60_000,
            bad_checksum: false,
            more_fragments: false,
            urgent: 0,
            tags: &[],
            tos: 0,
            outer_tos: 0,
        }
    }

    /// Sends payload `at` bytes after its first.
    pub fn send(&self, at: i64, payload: &[u8]) {
        self.put(&self.segment(at, payload));
    }

    pub fn put(&self, segment: &Segment<'_>) {
        self.put_packet(segment, self.packet(segment));
    }

    /// In IP fragments, the second one from byte `cut` of what follows the IP header on; the fragments in
    /// this order, with an id of their own for each packet.
    pub fn put_in_fragments(&self, segment: &Segment<'_>, cut: usize, order: [usize; 2]) {
        for which in order {
            self.put_fragment(segment, segment.sequence as u16 | 1, cut, which);
        }
    }

    /// One of these two, of a packet with this id.
    pub fn put_fragment(&self, segment: &Segment<'_>, id: u16, cut: usize, which: usize) {
        self.put_part(segment, id, &[cut], which);
    }

    /// As many as are named, each but the last of 200 bytes, in this order.
    pub fn put_pieces(&self, segment: &Segment<'_>, id: u16, order: &[usize]) {
        let cuts: Vec<usize> = (1..order.len()).map(|number| number * 200).collect();
        for which in order {
            self.put_part(segment, id, &cuts, *which);
        }
    }

    fn put_part(&self, segment: &Segment<'_>, id: u16, cuts: &[usize], which: usize) {
        let packet = self.packet(segment);
        let (header, inside) = packet.split_at(20);
        let begins = which.checked_sub(1).map_or(0, |before| cuts[before]);
        let ends = cuts.get(which).copied().unwrap_or(inside.len());
        let more = if which < cuts.len() { 0x2000 } else { 0 };
        let (place, part) = (more | (begins / 8) as u16, &inside[begins..ends]);
        let mut fragment = [header, part].concat();
        let length = (fragment.len() as u16).to_be_bytes();
        fragment[2..4].copy_from_slice(&length);
        fragment[4..6].copy_from_slice(&id.to_be_bytes());
        fragment[6..8].copy_from_slice(&place.to_be_bytes());
        fragment[10..12].fill(0);
        let sum = checksum(&fragment[..20]);
        fragment[10..12].copy_from_slice(&sum);
        self.put_packet(segment, fragment);
    }

    fn packet(&self, segment: &Segment<'_>) -> Vec<u8> {
        let timestamps = self.timestamps.filter(|_| segment.options.is_empty());
        let own = timestamps.map(|(value, echo)| {
            [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
        });
        let options = own.as_deref().unwrap_or(segment.options);
        assert!(options.len().is_multiple_of(4));
        let mut tcp = vec![];
        tcp.extend(self.local.1.to_be_bytes());
        tcp.extend(self.remote.1.to_be_bytes());
        tcp.extend(segment.sequence.to_be_bytes());
        tcp.extend(segment.acknowledged.to_be_bytes());
        tcp.extend([((20 + options.len()) as u8 / 4) << 4, segment.flags]);
        tcp.extend(segment.window.to_be_bytes());
        tcp.extend([0; 2]);
        tcp.extend(segment.urgent.to_be_bytes());
        tcp.extend(options);
        tcp.extend(segment.payload);
        let length = tcp.len() as u16;
        let pseudo = [&self.local.0[..], &self.remote.0, &[0, 6], &length.to_be_bytes()].concat();
        let mut sum = u16::from_be_bytes(checksum(&[&pseudo[..], &tcp].concat()));
        if segment.bad_checksum {
            sum ^= 0x1111;
        }
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut ip = vec![0x45, segment.tos];
        ip.extend((length + 20).to_be_bytes());
        let fragment = if segment.more_fragments { 0x20 } else { 0x40 };
        ip.extend([0, 0, fragment, 0, segment.ttl, 6, 0, 0]);
        ip.extend(self.local.0);
        ip.extend(self.remote.0);
        let header = checksum(&ip);
        ip[10..12].copy_from_slice(&header);
        [ip, tcp].concat()
    }

    fn put_packet(&self, segment: &Segment<'_>, packet: Vec<u8>) {
        let own = self.vlan.map(|tci| [[0x81, 0], tci.to_be_bytes()].concat());
        let tags: Vec<u8> = segment.tags.iter().flat_map(|id| [0x81, 0, 0, *id]).collect();
        let tags = [own.as_deref().unwrap_or_default(), &tags].concat();
        let packet = self.encapsulated(segment.outer_tos, packet);
        let frame = [&self.mac[..], &tags, &[8, 0], &packet].concat();
        (&self.socket).write_all(&frame).unwrap();
    }

    fn encapsulated(&self, tos: u8, packet: Vec<u8>) -> Vec<u8> {
        let end = usize::from(self.local.0 == RAW_SERVER);
        let Some((protocol, gre)) = self.tunnel.header(end) else { return packet };
        let mut outer = ipv4(OUTER[end], OUTER[1 - end], protocol, 0x4000, &[gre, packet].concat());
        outer[1] = tos;
        outer[10..12].fill(0);
        let sum = checksum(&outer[..20]);
        outer[10..12].copy_from_slice(&sum);
        outer
    }

    /// The next segment of the connection that arrives in the given time.
    pub fn receive(&self, within: Duration) -> Option<Arrived> {
        let end = Instant::now() + within;
        let mut bytes = vec![0; 70_000];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = nix::poll::PollTimeout::try_from(left.as_millis() as i32).unwrap();
            let descriptor = std::os::fd::AsFd::as_fd(&self.socket);
            let mut poll = [nix::poll::PollFd::new(descriptor, nix::poll::PollFlags::POLLIN)];
            if nix::poll::poll(&mut poll, timeout).unwrap() == 0 {
                return None;
            }
            let (length, vlan) = receive_with_tag(&self.socket, &mut bytes);
            // Id 0 is a priority alone (802.1Q).
            let vlan = vlan.filter(|id| *id != 0);
            if (self.behind_program || vlan == self.vlan.map(|tci| tci & 0xfff))
                && let Some(arrived) = self.read(&bytes[..length])
            {
                return Some(arrived);
            }
        }
    }

    fn read(&self, frame: &[u8]) -> Option<Arrived> {
        let mut ip = frame.get(14..)?;
        let mut outer_tos = 0;
        if (self.behind_program || self.tunnel != Tunnel::None) && matches!(ip[9], 4 | 47) {
            outer_tos = ip[1];
            let gre = match (ip[9], ip[20]) {
                (4, _) => 0,
                (_, 0x20) => 8,
                _ => 4,
            };
            ip = ip.get(20 + gre..)?;
        }
        if frame[12..14] != [8, 0]
            || ip[9] != 6
            || ip[12..16] != self.remote.0
            || ip[16..20] != self.local.0
        {
            return None;
        }
        let header = usize::from(ip[0] & 15) * 4;
        let tcp = &ip[header..usize::from(u16::from_be_bytes([ip[2], ip[3]]))];
        if tcp[..2] != self.remote.1.to_be_bytes() || tcp[2..4] != self.local.1.to_be_bytes() {
            return None;
        }
        let four = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        let offset = usize::from(tcp[12] >> 4) * 4;
        Some(Arrived {
            sequence: four(4),
            acknowledged: four(8),
            flags: tcp[13],
            window: u16::from_be_bytes([tcp[14], tcp[15]]),
            mac: frame[..12].try_into().unwrap(),
            ttl: ip[8],
            tos: ip[1],
            outer_tos,
            options: tcp[20..offset].to_vec(),
            payload: tcp[offset..].to_vec(),
        })
    }

    /// The first segment that is as wanted; panics after [`PATIENCE`].
    pub fn expect(&self, what: &str, wanted: impl FnMut(&Arrived) -> bool) -> Arrived {
        self.expect_within(PATIENCE, what, wanted)
    }

    /// As above, for what takes longer.
    pub fn expect_within(
        &self,
        time: Duration,
        what: &str,
        mut wanted: impl FnMut(&Arrived) -> bool,
    ) -> Arrived {
        let end = Instant::now() + time;
        let mut seen = vec![];
        while Instant::now() < end {
            match self.receive(Duration::from_millis(200)) {
                Some(arrived) if wanted(&arrived) => return arrived,
                Some(other) => seen.push(other),
                None => {}
            }
        }
        panic!("no {what}; came: {seen:?}");
    }

    /// Asserts that nothing of the kind comes for half a second.
    pub fn expect_none(&self, what: &str, mut unwanted: impl FnMut(&Arrived) -> bool) {
        let end = Instant::now() + Duration::from_millis(500);
        while Instant::now() < end {
            if let Some(arrived) = self.receive(Duration::from_millis(100)) {
                assert!(!unwanted(&arrived), "{what}: {arrived:?}");
            }
        }
    }

    pub fn syn(&self) -> Segment<'_> {
        let mut syn = self.segment(-1, &[]);
        syn.flags = SYN | self.syn_flags;
        syn.acknowledged = 0;
        syn.options = &self.options;
        syn
    }

    /// Sends the SYN again until it is answered: a new wire's bridge may not forward yet.
    pub fn send_syn(&self, mut answered: impl FnMut() -> Option<Arrived>) -> Arrived {
        for _ in 0..20 {
            self.put(&self.syn());
            if let Some(answer) = answered() {
                return answer;
            }
        }
        panic!("nothing answers a SYN");
    }

    /// The first segment that is as wanted, in half a second.
    pub fn receive_some(&self, wanted: impl Fn(&Arrived) -> bool) -> Option<Arrived> {
        let end = Instant::now() + Duration::from_millis(500);
        while Instant::now() < end {
            if let Some(arrived) = self.receive(Duration::from_millis(100)).filter(&wanted) {
                return Some(arrived);
            }
        }
        None
    }

    /// The handshake as a client: SYN, SYN-ACK, ACK. The SYN-ACK.
    pub fn connect(&mut self) -> Arrived {
        let answer = self.send_syn(|| self.receive_some(|a| a.flags & (SYN | ACK) == SYN | ACK));
        self.expected = answer.sequence.wrapping_add(1);
        self.send_ack();
        answer
    }

    /// The handshake as a server: the client's SYN.
    pub fn accept(&mut self) -> Arrived {
        let syn = self.expect("SYN", |a| a.flags & (SYN | ACK) == SYN);
        self.expected = syn.sequence.wrapping_add(1);
        let mut answer = self.syn();
        answer.flags |= ACK;
        answer.acknowledged = self.expected;
        self.put(&answer);
        let expected = self.first;
        self.expect("ACK", |a| a.flags & SYN == 0 && a.acknowledged == expected);
        syn
    }

    /// Both ends of a connection from this port of the client, before its SYN.
    pub fn ends(wire: &Wire, port: u16) -> (Self, Self) {
        (Self::client(wire, port, RAW_SERVER), Self::server(wire, (RAW_CLIENT, port)))
    }

    /// Both ends, with their handshake behind them.
    pub fn shaken(wire: &Wire, port: u16) -> (Self, Self) {
        let (mut client, mut server) = Self::ends(wire, port);
        Self::shake(&mut client, &mut server);
        (client, server)
    }

    /// The handshake between two raw ends.
    pub fn shake(client: &mut Self, server: &mut Self) {
        client.send_syn(|| server.receive_some(|a| a.flags & (SYN | ACK) == SYN));
        server.expected = client.first;
        let mut answer = server.syn();
        answer.flags |= ACK;
        answer.acknowledged = server.expected;
        server.put(&answer);
        client.expect("SYN-ACK", |a| a.flags & (SYN | ACK) == SYN | ACK);
        client.expected = server.first;
        client.send_ack();
        server.expect("ACK", |a| a.flags & SYN == 0);
    }

    /// What a keep-alive is: the number before `at` bytes after its first, and `payload` nothing or
    /// one byte.
    pub fn keep_alive(&self, at: i64, heard: u32, payload: &[u8]) {
        let mut probe = self.segment(at - 1, payload);
        probe.flags = ACK;
        probe.acknowledged = self.expected.wrapping_add(heard);
        self.put(&probe);
    }

    pub fn send_ack(&self) {
        let mut ack = self.segment(0, &[]);
        ack.flags = ACK;
        self.put(&ack);
    }

    /// Acknowledges so many of the peer's bytes, from its first.
    pub fn acknowledge(&self, own: i64, bytes: u32) {
        let mut ack = self.segment(own, &[]);
        ack.flags = ACK;
        ack.acknowledged = self.expected.wrapping_add(bytes);
        self.put(&ack);
    }
}

/// Makes the raw end's address known at the other end.
fn neighbour(wire: &Wire, at: At) {
    let (other, address, mac) = match at {
        At::Client => ("server", "10.77.0.11", "02:aa:00:00:00:01"),
        At::Server => ("client", "10.77.0.12", "02:bb:00:00:00:02"),
    };
    let namespace = wire.name(other);
    ip(&format!("-n {namespace} neigh replace {address} lladdr {mac} dev e0 nud permanent"));
}
