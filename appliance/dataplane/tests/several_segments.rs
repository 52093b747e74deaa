//! Several segments and runtimes at one time: each flow is its own, wherever the same addresses and
//! ports cross, and every runtime has its share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use weir_dataplane::Options;
use weir_dataplane::namespace::inside;
use weir_dataplane::segment::{self, Names};
use weir_policy::snapshot::SegmentId;
use wire::engine::{Does, Engine, PORT, judge_all};
use wire::{CLIENT, SERVER, ip, noise};

const SEGMENTS: u16 = 4;
const FLOWS: u16 = 16;

/// Segments beside one another, each between a client and a server of its own; the addresses are
/// the same on all.
struct Wires {
    names: Names,
    pins: PathBuf,
    count: u16,
}

impl Wires {
    fn new() -> Self {
        let wires = Self::bare(SEGMENTS);
        for id in wires.ids() {
            wires.end("client", id, CLIENT);
            wires.end("server", id, SERVER);
            wires.segment(id);
        }
        wires
    }

    /// Two segments between one client and one server, one behind the other.
    fn in_series() -> Self {
        let wires = Self::bare(2);
        let (first, second) = (SegmentId(1), SegmentId(2));
        wires.end("client", first, CLIENT);
        wires.end("server", second, SERVER);
        let yard = format!("{}yard", wires.names.prefix);
        ip(&format!("-n {yard} link add name server1 type veth peer name client2"));
        wires.segment(first);
        wires.segment(second);
        wires
    }

    fn bare(count: u16) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("wds{}-{number}-", std::process::id());
        let names = Names { prefix: prefix.clone(), ..Names::default() };
        let pins = PathBuf::from(format!("/run/{prefix}pins"));
        ip(&format!("netns add {prefix}yard"));
        Self { names, pins, count }
    }

    fn end(&self, end: &str, id: SegmentId, address: &str) {
        let prefix = &self.names.prefix;
        let (space, port) = (format!("{prefix}{end}{}", id.0), format!("{end}{}", id.0));
        ip(&format!("netns add {space}"));
        ip(&format!("-n {prefix}yard link add name {port} type veth peer name e0 netns {space}"));
        ip(&format!("-n {space} addr add {address}/24 dev e0"));
        ip(&format!("-n {space} link set e0 up"));
    }

    fn segment(&self, id: SegmentId) {
        let ports = [format!("client{}", id.0), format!("server{}", id.0)];
        inside(&self.space("yard"), || {
            segment::create(&self.names, id, [&ports[0], &ports[1]]).unwrap();
        })
        .unwrap();
    }

    fn ids(&self) -> impl Iterator<Item = SegmentId> + use<> {
        (1..=self.count).map(SegmentId)
    }

    fn space(&self, name: &str) -> PathBuf {
        self.names.netns_directory.join(format!("{}{name}", self.names.prefix))
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        let ends = self.ids().flat_map(|SegmentId(id)| {
            [format!("client{id}"), format!("server{id}"), format!("engine-{id}")]
        });
        for name in ends.chain(["yard".to_owned(), "wire".to_owned()]) {
            if self.space(&name).exists() {
                ip(&format!("netns del {}{name}", self.names.prefix));
            }
        }
        let _ = nix::mount::umount2(&self.pins, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.pins);
    }
}

#[test]
fn flows_of_four_segments_with_the_same_addresses_and_ports_spread_over_two_runtimes() {
    let wires = Wires::new();
    let mut options = Options::new(wires.names.clone(), wires.ids().collect(), wires.pins.clone());
    options.runtimes = 2;
    let (engine, mut shares) = Engine::open_with(options);
    // Which runtime had a flow is seen by what became of it.
    judge_all(shares.remove(0), 1, Does::Release);
    judge_all(shares.remove(0), 1, Does::TakeOver);

    std::thread::scope(|scope| {
        for id in wires.ids() {
            let (client, server) =
                (wires.space(&format!("client{}", id.0)), wires.space(&format!("server{}", id.0)));
            let listener = inside(&server, || TcpListener::bind((SERVER, PORT)).unwrap()).unwrap();
            scope.spawn(move || {
                std::thread::scope(|scope| {
                    for _ in 0..FLOWS {
                        let stream = listener.accept().unwrap().0;
                        scope.spawn(move || echo(stream, id));
                    }
                });
            });
            scope.spawn(move || {
                inside(&client, || {
                    let streams: Vec<_> = (0..FLOWS).map(|n| connect(20_000 + n)).collect();
                    std::thread::scope(|scope| {
                        for stream in streams {
                            scope.spawn(move || talk(stream, id));
                        }
                    });
                })
                .unwrap();
            });
        }
    });

    let mut decided = [0, 0];
    for report in engine.dataplane.counters() {
        let counter = |name| report.counters.iter().find(|(found, _)| *found == name).unwrap().1;
        let (released, taken) = (counter("flow_released"), counter("flow_taken_over"));
        assert_eq!(released + taken, u64::from(FLOWS), "{report:?}");
        assert_eq!(counter("flow_held"), u64::from(FLOWS), "{report:?}");
        decided[0] += released;
        decided[1] += taken;
    }
    assert!(decided.iter().all(|flows| *flows > 0), "one runtime had them all: {decided:?}");
    for id in wires.ids() {
        assert_eq!(tracked(&wires.names.engine(id)), 0, "connection tracking of segment {id:?}");
    }
    assert_eq!(tracked(&wires.names.wire()), 0, "connection tracking of the wire");
}

#[test]
fn a_flow_that_crosses_two_segments_is_a_flow_of_each() {
    for (does, counter) in [(Does::TakeOver, "flow_taken_over"), (Does::Release, "flow_released")] {
        let wires = Wires::in_series();
        let options = Options::new(wires.names.clone(), wires.ids().collect(), wires.pins.clone());
        let (engine, mut shares) = Engine::open_with(options);
        judge_all(shares.remove(0), 1, does);
        let id = SegmentId(1);
        let listener =
            inside(&wires.space("server2"), || TcpListener::bind((SERVER, PORT)).unwrap()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2 {
                    echo(listener.accept().unwrap().0, id);
                }
            });
            inside(&wires.space("client1"), || {
                for port in [20_000, 20_001] {
                    talk(connect(port), id);
                }
            })
            .unwrap();
        });
        for report in engine.dataplane.counters() {
            let of = |name| report.counters.iter().find(|(found, _)| *found == name).unwrap().1;
            assert_eq!([of("flow_held"), of(counter)], [2, 2], "{report:?}");
        }
    }
}

/// A client with a port number of its choice: the same on every segment.
fn connect(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(CLIENT.parse().unwrap(), port).into()).unwrap();
    let server = SocketAddr::new(SERVER.parse().unwrap(), PORT);
    socket.connect_timeout(&server.into(), Duration::from_secs(20)).unwrap();
    socket.into()
}

/// What segment a byte belongs on, and that it comes back from there.
fn talk(mut stream: TcpStream, id: SegmentId) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let sent: Vec<u8> = noise(60_000).into_iter().map(|byte| byte ^ id.0 as u8).collect();
    stream.write_all(&sent).unwrap();
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(sent == back, "segment {id:?} carried other bytes");
}

fn echo(mut stream: TcpStream, id: SegmentId) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut bytes = vec![0; 60_000];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes[0], noise(1)[0] ^ id.0 as u8, "bytes of another segment");
    stream.write_all(&bytes).unwrap();
}

/// Connections that the kernel tracks in a namespace: where there is no such thing, none.
fn tracked(namespace: &std::path::Path) -> u64 {
    let count =
        inside(namespace, || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"));
    count.unwrap().map_or(0, |count| count.trim().parse().unwrap())
}
