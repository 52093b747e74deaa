//! What one client can have of the device: its flood must be nobody else's overload (SPEC D15).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_dataplane::namespace::inside;
use weir_dataplane::segment::Names;
use weir_dataplane::{Attach, Dataplane, HeldFlows, Options, TableSizes, TakenFlow};
use weir_policy::Snapshot;
use weir_policy::snapshot::{Evasion, EvasionAction, Layer2Fallback};
use wire::engine::{Does, Engine, judge_all, snapshot};
use wire::raw::{RAW_CLIENT, RAW_SERVER, Raw};
use wire::{ENGINE_VARIABLE, SEGMENT, Wire};

/// As small as the document lets it be is of no interest here.
const MOST: u32 = 2;

fn policy(client_flood: EvasionAction) -> Snapshot {
    let mut snapshot = snapshot(Layer2Fallback::PermitAll);
    snapshot.device.max_handshakes_per_client = MOST;
    snapshot.device.evasion = Evasion { client_flood, ..Evasion::default() };
    snapshot
}

fn wire_under(client_flood: EvasionAction) -> (Wire, Engine, HeldFlows) {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&policy(client_flood)).unwrap();
    (wire, engine, held)
}

/// A connection of the raw client that has sent this much, and its server.
fn says(wire: &Wire, port: u16, payload: &[u8]) -> (Raw, Raw) {
    let mut client = Raw::client(wire, port, RAW_SERVER);
    let mut server = Raw::server(wire, (RAW_CLIENT, port));
    Raw::shake(&mut client, &mut server);
    client.send(0, payload);
    (client, server)
}

#[test]
fn a_client_with_too_many_held_flows_waits_and_other_clients_do_not() {
    let (wire, engine, held) = wire_under(EvasionAction::Block);
    judge_all(held, 1, Does::Hold);
    let _held: Vec<_> = (0..MOST as u16).map(|n| says(&wire, 4000 + n, b"held")).collect();
    engine.wait_for("flow_held", MOST.into());
    let (client, server) = says(&wire, 5000, b"more");
    engine.wait_for("client_flood_dropped", 1);
    client.send(0, b"more");
    engine.wait_for("client_flood_dropped", 2);
    server.expect_none("a payload passed", |a| !a.payload.is_empty());

    let listener = wire.listen();
    let (mut other, _server) = wire.pair(&listener);
    other.write_all(b"other").unwrap();
    engine.wait_for("flow_held", u64::from(MOST) + 1);
    assert_eq!(engine.counter("client_flood_passed"), 0);
}

#[test]
fn a_client_whose_flows_were_judged_has_room_for_others() {
    let (wire, engine, held) = wire_under(EvasionAction::Block);
    // What it has said is too little: each flow is held for half a second.
    judge_all(held, 100, Does::Release);
    for round in 1..=3 {
        let flows: Vec<_> =
            (0..MOST as u16).map(|n| says(&wire, 4000 + 10 * round + n, b"some")).collect();
        for (_, server) in &flows {
            server.expect("the judged bytes", |a| a.payload == b"some");
        }
        engine.wait_for("flow_released", u64::from(round) * u64::from(MOST));
    }
    assert_eq!(engine.counter("client_flood_dropped"), 0);
}

#[test]
fn a_flow_that_waited_is_judged_when_there_is_room() {
    let (wire, engine, held) = wire_under(EvasionAction::Block);
    judge_all(held, 100, Does::Release);
    let flows: Vec<_> = (0..=MOST as u16).map(|n| says(&wire, 4000 + n, b"some")).collect();
    engine.wait_for("client_flood_dropped", 1);
    engine.wait_for("flow_released", MOST.into());
    let (client, server) = &flows[MOST as usize];
    client.send(0, b"some");
    server.expect("the judged bytes", |a| a.payload == b"some");
    engine.wait_for("flow_released", u64::from(MOST) + 1);
}

#[test]
fn a_client_with_too_many_held_flows_passes_where_policy_says_so() {
    let (wire, engine, held) = wire_under(EvasionAction::Bypass);
    judge_all(held, 1, Does::Hold);
    let _held: Vec<_> = (0..MOST as u16).map(|n| says(&wire, 4000 + n, b"held")).collect();
    engine.wait_for("flow_held", MOST.into());
    let (_client, server) = says(&wire, 5000, b"more");
    server.expect("the payload", |a| a.payload == b"more");
    assert_eq!(engine.counter("client_flood_passed"), 1);
    assert_eq!(engine.counter("client_flood_dropped"), 0);
}

#[test]
fn taken_flows_count_for_their_client_until_their_handshake_is_over() {
    let (wire, engine, mut held) = wire_under(EvasionAction::Block);
    let (settle, settled) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut taken: Vec<TakenFlow> = vec![];
            for _ in 0..MOST {
                taken.push(held.next().await.unwrap().take_over().await.unwrap());
            }
            settled.recv().unwrap();
            for flow in &mut taken {
                flow.guard.settle();
                flow.guard.settle(); // once is enough
            }
            tell.send(()).unwrap();
            for _ in 0..MOST {
                let flow = held.next().await.unwrap().take_over().await.unwrap();
                drop(flow); // ends amid its handshake
            }
            held.next().await.unwrap().take_over().await.unwrap()
        });
        tell.send(()).unwrap();
    });
    let _taken: Vec<_> = (0..MOST as u16).map(|n| says(&wire, 4000 + n, b"taken")).collect();
    engine.wait_for("flow_taken_over", MOST.into());
    let (client, _server) = says(&wire, 5000, b"more");
    engine.wait_for("client_flood_dropped", 1);
    settle.send(()).unwrap();
    told.recv().unwrap();
    client.send(0, b"more");
    engine.wait_for("flow_taken_over", u64::from(MOST) + 1);
    for n in 1..MOST as u16 + 1 {
        let _ = says(&wire, 5000 + n, b"more");
        engine.wait_for("flow_taken_over", u64::from(MOST) + 1 + u64::from(n));
    }
    told.recv_timeout(wire::PATIENCE).unwrap();
    assert_eq!(engine.counter("client_flood_dropped"), 1);
}

#[test]
fn a_network_of_64_bits_is_one_client_of_ipv6() {
    let (wire, engine, held) = wire_under(EvasionAction::Block);
    judge_all(held, 1, Does::Hold);
    for address in ["fd77::7:1/64", "fd77::7:2/64", "fd77::7:3/64"] {
        wire.add_address(&wire.client, address);
    }
    let listener = wire.listen_at("fd77::2");
    let from = |address: &str| {
        let socket = format!("[{address}]:0").parse::<std::net::SocketAddr>().unwrap();
        let to = listener.local_addr().unwrap();
        let mut stream: TcpStream = inside(&wire.client, || {
            let domain = socket2::Domain::IPV6;
            let own = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
            own.bind(&socket.into()).unwrap();
            own.connect_timeout(&to.into(), wire::PATIENCE).unwrap();
            own.into()
        })
        .unwrap();
        stream.write_all(b"held").unwrap();
        stream
    };
    let _held = [from("fd77::7:1"), from("fd77::7:2")];
    engine.wait_for("flow_held", MOST.into());
    let _waits = from("fd77::7:3");
    engine.wait_for("client_flood_dropped", 1);
    assert_eq!(engine.counter("flow_held"), MOST.into());
}

/// Not a test: an engine that may be stopped for as long as one likes.
#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn engine_of_its_own() {
    let told = std::env::var(ENGINE_VARIABLE).unwrap();
    let [prefix, pins, _] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let names = Names { prefix: prefix.to_owned(), ..Names::default() };
    let (engine, held) = Engine::open_changed(&names, Path::new(pins), Attach::Auto, |options| {
        // Each ring gets the least there is: 256 KiB.
        options.tables = TableSizes { rings: 1, ..TableSizes::default() };
    });
    let mut snapshot = snapshot(Layer2Fallback::PermitAll);
    snapshot.device.health.heartbeat_timeout = Duration::from_secs(60);
    engine.dataplane.apply(&snapshot).unwrap();
    let judge = judge_all(held, 1, Does::TakeOver);
    println!("ready");
    judge.join().unwrap();
}

#[test]
fn a_client_does_not_fill_the_ring_alone() {
    // All records come by one ring: that of the processor that this thread is on.
    let mut processors = nix::sched::CpuSet::new();
    processors.set(0).unwrap();
    nix::sched::sched_setaffinity(Pid::from_raw(0), &processors).unwrap();

    let wire = Wire::new();
    let listener = wire.listen();
    let mut engine = wire.engine_process("take-over");
    let (mut other, mut server) = wire.pair(&listener);
    kill(Pid::from_raw(engine.id() as i32), Signal::SIGSTOP).unwrap();
    let (flood, _) = says(&wire, 4000, b"held");
    for _ in 0..500 {
        flood.send(4, &[7; 1400]);
    }
    other.write_all(b"other").unwrap();
    kill(Pid::from_raw(engine.id() as i32), Signal::SIGCONT).unwrap();
    server.read_exact(&mut [0; 5]).unwrap();

    let options = Options::new(wire.names.clone(), vec![SEGMENT], wire.pins.clone());
    let (reader, _held) = Dataplane::prepare(options).unwrap();
    let counted = |name: &str| {
        let report = reader.counters();
        report[0].counters.iter().find(|(found, _)| *found == name).unwrap().1
    };
    assert!(counted("ring_share_dropped") > 300);
    assert_eq!(counted("ring_full_dropped"), 0);
    engine.kill().unwrap();
    engine.wait().unwrap();
}
