//! A long and lossy path (100 ms, 5 %) between the appliance and a server: what flows move that are
//! taken over or released, beside what flows move at the same time that are the bridge's alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../appliance/dataplane/tests/wire/engine.rs"]
mod engine;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use engine::{Engine, PORT, snapshot};
use weir_dataplane::segment::Names;
use weir_dataplane::{Attach, HeldFlow, HeldFlows, Relayed};
use weir_lab::ends::{Ends, SERVER};
use weir_lab::run::Run;
use weir_lab::wire::impair::Trouble;
use weir_lab::wire::lab::lay_impaired_segment;
use weir_policy::snapshot::{Layer2Fallback, PortRange};

const ONE_WAY: Duration = Duration::from_millis(50);
const LOST: u64 = 500; // of ten thousand frames
/// Of each kind; one half of them uploads, the other downloads. Which packets are lost differs by flow: of a
/// megabyte each (and some 35 losses) flows move 16 % more or less, as a standard deviation; the ratio of two
/// kinds of so many flows differs by 2.3 %.
const FLOWS: usize = 96;
/// What the bridge's flows move, all together, while the others are looked at.
const ENOUGH: u64 = 1_000_000 * FLOWS as u64;
/// In percent of what the bridge's flows move: four deviations under the same.
const AS_MUCH: u64 = 90;
/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// What becomes of a flow, by its server's port.
const KINDS: [&str; 3] = ["taken over", "released", "the bridge's"];

/// What the engine's sockets towards the server found.
#[derive(Default)]
struct Found {
    sockets: AtomicU64,
    retransmitted: AtomicU64,
}

#[test]
fn a_long_lossy_path_carries_as_much_as_on_the_bridge_alone() {
    let run = Run::new().unwrap();
    let mut ends = Ends::new(&run).unwrap();
    let trouble = Trouble { lost: LOST, duplicated: 0, delayed: 0 };
    let [_good, bad] = lay_impaired_segment(&ends, trouble, 7).unwrap();
    ends.connect().unwrap();
    bad.set_latency(ONE_WAY);

    let names = Names { prefix: run.prefix(), ..Names::default() };
    let (engine, held) = Engine::open(&names, &run.pin_directory(), Attach::Auto);
    let mut policy = snapshot(Layer2Fallback::PermitAll);
    policy.client_proxies[0].detection_ports = vec![PortRange { first: PORT, last: PORT + 1 }];
    engine.dataplane.apply(&policy).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let found = Arc::new(Found::default());
    let judge = judge(held, Arc::clone(&stop), Arc::clone(&found));

    let moved = [const { AtomicU64::new(0) }; KINDS.len()];
    let begin = Barrier::new(KINDS.len() * FLOWS + 1);
    std::thread::scope(|scope| {
        for (kind, moved) in moved.iter().enumerate() {
            let port = PORT + kind as u16;
            let listener = ends.server.enter(|| Ok(TcpListener::bind((SERVER, port))?)).unwrap();
            let stop = &stop;
            scope.spawn(move || {
                for _ in 0..FLOWS {
                    let mut stream = controlled(listener.accept().unwrap().0);
                    scope.spawn(move || {
                        // Lost, and not sent again before the end, nor is the reset that ends its flow.
                        match first_byte(&mut stream, stop) {
                            Some(b'u') => hear(&stream, stop, moved),
                            Some(_) => say(&stream, stop),
                            None => {}
                        }
                    });
                }
            });
            for number in 0..FLOWS {
                let (ends, begin) = (&ends, &begin);
                scope.spawn(move || {
                    let stream = ends.connect_from_client((SERVER, port).into()).unwrap();
                    let mut stream = controlled(stream);
                    begin.wait();
                    let up = number % 2 == 0;
                    stream.write_all(if up { b"u" } else { b"d" }).unwrap();
                    if up {
                        say(&stream, stop);
                    } else {
                        hear(&stream, stop, moved);
                    }
                });
            }
        }
        // Connected over a good cable: a lost SYN would keep one kind's flow back.
        begin.wait();
        bad.set_troubled(true);
        let begun = Instant::now();
        while moved[2].load(Ordering::Relaxed) < ENOUGH && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let [taken, released, bridge] = moved.map(AtomicU64::into_inner);
    for (kind, bytes) in KINDS.iter().zip([taken, released, bridge]) {
        println!("{FLOWS} flows {kind}: {bytes} bytes");
    }
    assert!(bridge >= ENOUGH, "the bridge's flows hang");
    for (kind, bytes) in KINDS.iter().zip([taken, released]) {
        assert!(bytes * 100 >= bridge * AS_MUCH, "{kind}: {bytes} bytes, the bridge's {bridge}");
    }
    assert_eq!(engine.counter("flow_taken_over"), FLOWS as u64);
    assert_eq!(engine.counter("flow_released"), FLOWS as u64);

    drop(engine);
    judge.join().unwrap();
    assert_eq!(found.sockets.load(Ordering::Relaxed), FLOWS as u64);
    // Half of the flows upload, by the engine's sockets, so that of all segments half as many are lost as of
    // frames. What is lost is sent again, and not twice as much.
    let segments = taken / 1448;
    let retransmitted = found.retransmitted.load(Ordering::Relaxed);
    println!("{retransmitted} segments sent again, some {segments} moved");
    assert!(retransmitted * 10_000 <= segments * LOST, "{retransmitted} of {segments}");
    run.succeeded();
}

fn judge(
    mut held: HeldFlows,
    stop: Arc<AtomicBool>,
    found: Arc<Found>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        runtime.block_on(local.run_until(async {
            let mut flows = vec![];
            while let Some(flow) = held.next().await {
                if flow.candidate().server.port() == PORT {
                    let (stop, found) = (Arc::clone(&stop), Arc::clone(&found));
                    flows.push(tokio::task::spawn_local(take_over(flow, stop, found)));
                } else {
                    flow.release().unwrap();
                }
            }
            for flow in flows {
                flow.await.unwrap();
            }
        }));
    })
}

async fn take_over(flow: HeldFlow, stop: Arc<AtomicBool>, found: Arc<Found>) {
    const TIMESTAMPS_SACK_AND_WINDOW_SCALE: u8 = 7; // TCPI_OPT_...
    let mut taken = flow.take_over().await.unwrap();
    for socket in [&taken.client, &taken.server] {
        let options = tcp_information(socket).tcpi_options;
        assert_eq!(options & TIMESTAMPS_SACK_AND_WINDOW_SCALE, TIMESTAMPS_SACK_AND_WINDOW_SCALE);
    }
    let stopped = async {
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut relayed = Relayed::default();
    tokio::select! {
        ended = taken.relay(&mut relayed, None) => drop(ended),
        () = stopped => {}
    }
    found.sockets.fetch_add(1, Ordering::Relaxed);
    let again = tcp_information(&taken.server).tcpi_total_retrans;
    found.retransmitted.fetch_add(again.into(), Ordering::Relaxed);
}

fn tcp_information(socket: &tokio::net::TcpStream) -> libc::tcp_info {
    // SAFETY: plain integers, zero is valid for each.
    let mut information: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&information) as libc::socklen_t;
    // SAFETY: the kernel writes as much as `length` says, into a value of that size.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_INFO,
            std::ptr::from_mut(&mut information).cast(),
            &mut length,
        )
    };
    assert_eq!(got, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    information
}

/// Every end controls congestion as the engine's sockets do, whatever this machine's default is: what is
/// compared is the way, not what senders make of loss.
fn controlled(stream: TcpStream) -> TcpStream {
    socket2::SockRef::from(&stream).set_tcp_congestion(b"cubic").unwrap();
    stream
}

/// What a client says first; nothing where it did not come until told to stop.
fn first_byte(stream: &mut TcpStream, stop: &AtomicBool) -> Option<u8> {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut byte = [0];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut byte) {
            Ok(1) => return Some(byte[0]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return None,
        }
    }
    None
}

/// Says something until told to stop.
fn say(mut stream: &TcpStream, stop: &AtomicBool) {
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&[7; 16_384]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Stopped meanwhile.
            Err(_) => return,
        }
    }
}

/// Counts what comes until told to stop.
fn hear(mut stream: &TcpStream, stop: &AtomicBool, moved: &AtomicU64) {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut bytes = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(read) => {
                moved.fetch_add(read as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
