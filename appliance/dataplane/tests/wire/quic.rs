//! What tests of QUIC have in common: policy, a judge, and ends that send datagrams.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weir_dataplane::namespace::inside;
use weir_dataplane::{Attach, HeldFlows, QuicJudge, QuicVerdict};
use weir_policy::snapshot::{Layer2Fallback, PortRange, QuicAction, Side};
use weir_policy::{Candidate, Snapshot};

use super::engine::{Engine, snapshot};
use super::{CLIENT, PATIENCE, SERVER, Wire};

pub fn rules(quic: QuicAction) -> Snapshot {
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    rules.client_proxies[0].detection_ports = vec![PortRange { first: 443, last: 443 }];
    rules.profiles[0].client_policies[0].quic = quic;
    rules
}

/// The client is told that nobody listens.
pub fn refused(client: &UdpSocket) {
    let error = client.recv(&mut [0; 9]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

pub fn server(wire: &Wire, address: &str) -> UdpSocket {
    let address: IpAddr = address.parse().unwrap();
    let socket = inside(&wire.server, || UdpSocket::bind((address, 443)).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Datagrams that begin with these bytes: the judge of these tests needs no QUIC. By their first bit they are
/// packets that could begin a connection.
pub const EXCEPTED: u8 = 0x81;
pub const HALF: u8 = 0x82;
pub const OTHER: u8 = 0x83;
pub const FOLLOWS: u8 = 0x84;
pub const EARLY: u8 = 0x85;
/// By theirs these could not.
pub const SHORT: u8 = 0x41;

#[derive(Default)]
pub struct Judge {
    /// Policy as it is now excepts nothing.
    pub changed: Arc<AtomicBool>,
    /// Policy as it is now blocks nothing.
    pub passes: Arc<AtomicBool>,
    /// Says when it was asked, and waits to be told.
    pub stops: Option<(Sender<()>, Mutex<Receiver<()>>)>,
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
            [_] => QuicVerdict::Refuse,
            _ => QuicVerdict::Several,
        }
    }

    fn excepts(&self, _: &Candidate, name: &str) -> bool {
        assert_eq!(name, "bank.example");
        !self.changed.load(Ordering::Relaxed)
    }
}

/// A wire whose clients' QUIC is blocked, but for what a judge excepts.
pub struct BlockedQuic {
    // Dropped in this order.
    pub engine: Engine,
    _held: HeldFlows,
    pub wire: Wire,
}

impl BlockedQuic {
    pub fn new() -> Self {
        Self::judged_by(Judge::default())
    }

    pub fn judged_by(judge: Judge) -> Self {
        let quic = Self::on(Wire::new(), judge);
        quic.wire.crosses(CLIENT, SERVER);
        quic
    }

    /// Its engine ends, and another one begins.
    pub fn with_the_next_engine(self) -> Self {
        let Self { engine, _held, wire } = self;
        drop((engine, _held));
        Self::on(wire, Judge::default())
    }

    fn on(wire: Wire, judge: Judge) -> Self {
        let (engine, held) = wire.engine(Attach::Auto);
        engine.dataplane.apply(&rules(QuicAction::Block)).unwrap();
        engine.dataplane.judge_quic_by(Box::new(judge));
        Self { engine, _held: held, wire }
    }

    pub fn server(&self) -> UdpSocket {
        self.server_at(SERVER)
    }

    pub fn server_at(&self, address: &str) -> UdpSocket {
        server(&self.wire, address)
    }

    /// One that has said nothing yet.
    pub fn client(&self) -> UdpSocket {
        self.client_at(CLIENT, SERVER)
    }

    pub fn client_at(&self, from: &str, to: &str) -> UdpSocket {
        connected(&self.wire, from, to)
    }

    /// One whose first datagram was excepted.
    pub fn begun(&self, server: &UdpSocket) -> UdpSocket {
        let client = self.client();
        client.send(&datagram(EXCEPTED)).unwrap();
        receives(server, &client, &datagram(EXCEPTED));
        client
    }
}

/// A datagram as long as QUIC's first, which differs in each place from one that is shifted.
pub fn datagram(first: u8) -> Vec<u8> {
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
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub fn receives(server: &UdpSocket, from: &UdpSocket, wanted: &[u8]) {
    let mut bytes = [0; 4000];
    let (length, sender) = server.recv_from(&mut bytes).unwrap();
    assert_eq!(sender, from.local_addr().unwrap());
    assert!(&bytes[..length] == wanted, "other bytes came, {length} of {}", wanted.len());
}

/// Nothing more came to it, and nothing does for a while.
pub fn hears_nothing(socket: &UdpSocket) {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut bytes = [0; 4000];
    let came = socket.recv(&mut bytes);
    assert!(came.is_err(), "{came:?} bytes came, the first {:x}", bytes[0]);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
}
