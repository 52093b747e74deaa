//! What happens to flows when the engine dies, hangs, comes back, or is told to fall back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_dataplane::Attach;
use weir_dataplane::namespace::inside;
use weir_dataplane::segment::Names;
use weir_policy::snapshot::Layer2Fallback;
use wire::engine::{Does, Engine, judge_all, snapshot};
use wire::{CLIENT, ENGINE_VARIABLE, SERVER, Wire};

/// Not a test: the engine that the tests kill and stop.
#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn engine_of_its_own() {
    let told = std::env::var(ENGINE_VARIABLE).unwrap();
    let [prefix, pins, does] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let does = match does {
        "take-over" => Does::TakeOver,
        "hold" => Does::Hold,
        other => panic!("{other}: right would be take-over or hold"),
    };
    let names = Names { prefix: prefix.to_owned(), ..Names::default() };
    let (_engine, held) = Engine::open(&names, Path::new(pins), Attach::Auto);
    let judge = judge_all(held, 1, does);
    println!("ready");
    judge.join().unwrap();
}

/// One request and its answer on a new connection.
fn talks(wire: &Wire, listener: &TcpListener) {
    let (mut client, mut server) = wire.pair(listener);
    says(&mut client, &mut server);
}

fn says(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    server.write_all(b"there").unwrap();
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"there");
}

fn signal(engine: &Child, signal: Signal) {
    kill(Pid::from_raw(engine.id() as i32), signal).unwrap();
}

#[test]
fn killed_engine_resets_taken_flows_and_new_flows_cross() {
    let wire = Wire::new();
    let mut engine = wire.engine_process("take-over");
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    says(&mut client, &mut server);
    signal(&engine, Signal::SIGKILL);
    engine.wait().unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    for _ in 0..5 {
        talks(&wire, &listener);
    }
}

#[test]
fn held_flow_goes_on_when_the_engine_is_killed() {
    let wire = Wire::new();
    let mut engine = wire.engine_process("hold");
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"hel").unwrap();
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    signal(&engine, Signal::SIGKILL);
    engine.wait().unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.write_all(b"lo").unwrap();
    let mut bytes = [0; 5];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    says(&mut client, &mut server);
}

/// What the engine's process needs; init gives it no more.
const CAPABILITIES: &str = "+bpf,+perfmon,+net_admin,+net_raw,+sys_admin";

#[test]
fn an_engine_of_its_own_user_needs_few_capabilities() {
    let wire = Wire::new();
    // As init does: a bpf file system, and a directory of the engine's user in it.
    wire.mount_pins();
    std::os::unix::fs::chown(&wire.pins, Some(65534), Some(65534)).unwrap();
    let inheritable = format!("--inh-caps=-all,{CAPABILITIES}");
    let ambient = format!("--ambient-caps=-all,{CAPABILITIES}");
    let bounding = format!("--bounding-set=-all,{CAPABILITIES}");
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut engine = wire.engine_process_under(
        &[&user[..], &[&inheritable, &ambient, &bounding]].concat(),
        "take-over",
    );
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    says(&mut client, &mut server);
    signal(&engine, Signal::SIGKILL);
    engine.wait().unwrap();
    // It was taken over, or it would live on.
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn stopped_engine_holds_no_new_flow() {
    let wire = Wire::new();
    let mut engine = wire.engine_process("take-over");
    let listener = wire.listen();
    talks(&wire, &listener);
    signal(&engine, Signal::SIGSTOP);
    // Longer than the heartbeat's timeout.
    std::thread::sleep(Duration::from_millis(700));
    for _ in 0..5 {
        talks(&wire, &listener);
    }
    signal(&engine, Signal::SIGKILL);
    engine.wait().unwrap();
}

#[test]
fn restarted_engine_takes_flows_over_again_and_leaves_the_others() {
    let wire = Wire::new();
    let mut first = wire.engine_process("take-over");
    let listener = wire.listen();
    let (mut taken_client, mut taken_server) = wire.pair(&listener);
    says(&mut taken_client, &mut taken_server);
    signal(&first, Signal::SIGKILL);
    first.wait().unwrap();
    let (mut client, mut server) = wire.pair(&listener);
    says(&mut client, &mut server);

    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    talks(&wire, &listener);
    engine.wait_for("flow_taken_over", 1);
    // The flow of the time between is end to end, as before.
    says(&mut client, &mut server);
    // What the first engine had taken stays reset.
    assert!(taken_client.write_all(b"more").is_err());
    assert!(taken_server.read(&mut [0; 1]).is_err());
    assert_eq!(engine.counter("flow_taken_over"), 1);
}

#[test]
fn clsact_programs_outlive_the_engine_and_are_replaced() {
    let wire = Wire::new();
    let listener = wire.listen();
    for _ in 0..3 {
        let (engine, held) = wire.engine(Attach::Clsact);
        let _judge = judge_all(held, 1, Does::TakeOver);
        let before = engine.counter("flow_held");
        talks(&wire, &listener);
        assert_eq!(engine.counter("flow_held"), before + 1, "held once, by one program");
        drop(engine);
        talks(&wire, &listener);
    }
}

#[test]
fn pins_of_interfaces_that_are_gone_are_replaced() {
    let old = Wire::new();
    drop(old.engine(Attach::Auto));
    old.remove_namespaces();
    let mut wire = Wire::new();
    wire.pins.clone_from(&old.pins);
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    talks(&wire, &wire.listen());
    engine.wait_for("flow_taken_over", 1);
}

#[test]
fn forced_fallback_leaves_new_flows_and_keeps_taken_ones() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    says(&mut client, &mut server);
    engine.dataplane.force_fallback(true).unwrap();
    talks(&wire, &listener);
    says(&mut client, &mut server);
    assert_eq!(engine.counter("flow_taken_over"), 1);
    assert!(engine.dataplane.counters()[0].fallback);
    engine.dataplane.force_fallback(false).unwrap();
    talks(&wire, &listener);
    engine.wait_for("flow_taken_over", 2);
}

#[test]
fn block_all_fallback_drops_everything_when_told_and_when_the_engine_is_gone() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&snapshot(Layer2Fallback::BlockAll)).unwrap();
    let judge = judge_all(held, 1, Does::Release);
    let listener = wire.listen();
    talks(&wire, &listener);
    let refuses = || {
        inside(&wire.client, || {
            let address = listener.local_addr().unwrap();
            TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_err()
        })
        .unwrap()
    };
    engine.dataplane.force_fallback(true).unwrap();
    assert!(refuses());
    engine.dataplane.force_fallback(false).unwrap();
    talks(&wire, &listener);
    drop(engine);
    judge.join().unwrap();
    assert!(refuses());
}

#[test]
fn what_is_no_candidate_crosses_an_engine_at_work() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    wire.crosses("fd77::1", "fd77::2");
    assert_eq!(engine.counter("candidate_syn"), 0);
    assert!(engine.counter("encapsulated_passed") > 0);
}
