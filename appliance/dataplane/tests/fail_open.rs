//! What happens to flows when the engine dies, hangs, or comes back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_dataplane::segment::Names;
use weir_dataplane::{Attach, Dataplane, FallbackCause, Options};
use weir_policy::snapshot::{Health, Layer2Fallback};
use wire::engine::{Does, Engine, judge_all, snapshot};
use wire::{CLIENT, ENGINE_VARIABLE, SEGMENT, SERVER, Wire, ip, says, talks, wait_for};

/// Not a test: the engine that the tests kill and stop.
#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn engine_of_its_own() {
    let told = std::env::var(ENGINE_VARIABLE).unwrap();
    let [prefix, pins, does] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let (does, soon_stuck) = match does {
        "take-over" => (Does::TakeOver, false),
        "take-over-until-stuck" => (Does::TakeOver, true),
        "hold" => (Does::Hold, false),
        other => panic!("{other}: right would be take-over, take-over-until-stuck or hold"),
    };
    let names = Names { prefix: prefix.to_owned(), ..Names::default() };
    let (engine, held) = Engine::open(&names, Path::new(pins), Attach::Auto);
    if soon_stuck {
        let mut snapshot = snapshot(Layer2Fallback::PermitAll);
        snapshot.device.health = Health::default();
        engine.dataplane.apply(&snapshot).unwrap();
    }
    let judge = judge_all(held, 1, does);
    println!("ready");
    judge.join().unwrap();
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

/// The first RST met a link that was down: what the end sends later is answered by the next engine.
#[test]
fn an_end_that_missed_its_engines_reset_gets_another() {
    let wire = Wire::new();
    let mut engine = wire.engine_process("take-over");
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    says(&mut client, &mut server);
    let port = |state| ip(&format!("-n {} link set 1A {state}", wire.name("wire")));
    port("down");
    signal(&engine, Signal::SIGKILL);
    engine.wait().unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    port("up");
    let (_engine, _held) = wire.engine(Attach::Auto);
    client.write_all(b"more").unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
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

/// Engines that can live at one time (bpf/weir.h).
const ENGINES: usize = 16;

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
    let mut engine = wire.engine_process("take-over-until-stuck");
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
fn what_is_no_candidate_crosses_an_engine_at_work() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    wire.crosses(CLIENT, SERVER);
    wire.crosses("fd77::1", "fd77::2");
    assert_eq!(engine.counter("candidate_syn"), 0);
}

#[test]
fn a_planned_restart_lets_the_old_engine_keep_its_flows_beside_the_new_one() {
    let wire = Wire::new();
    let mut old = wire.engine_process("take-over");
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    says(&mut client, &mut server);

    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    says(&mut client, &mut server);
    let (mut new_client, mut new_server) = wire.pair(&listener);
    says(&mut new_client, &mut new_server);
    engine.wait_for("flow_taken_over", 1);
    assert!(!engine.dataplane.superseded());
    says(&mut client, &mut server);

    signal(&old, Signal::SIGKILL);
    old.wait().unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // What the old one left is looked after without being asked for.
    wait_for(|| states(&wire, State::Taken) == 1);
    assert_eq!(states(&wire, State::Tombstone), 1);
    says(&mut new_client, &mut new_server);
}

/// As in a crash loop of the engine that is to follow.
#[test]
fn starts_that_fail_take_nothing_from_an_engine_that_lives() {
    let wire = Wire::new();
    let mut old = wire.engine_process("take-over");
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    says(&mut client, &mut server);
    let options = || Options::new(wire.names.clone(), vec![SEGMENT], wire.pins.clone());
    for _ in 0..ENGINES + 1 {
        drop(Dataplane::prepare(options()).unwrap());
    }
    says(&mut client, &mut server);
    talks(&wire, &listener);
    // Numbers of engines that ended are used again, and the flow is still its owner's.
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    talks(&wire, &listener);
    engine.wait_for("flow_taken_over", 1);
    says(&mut client, &mut server);
    assert!(states(&wire, State::Taken) >= 1);
    signal(&old, Signal::SIGKILL);
    old.wait().unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    wait_for(|| states(&wire, State::Taken) == 0);
}

#[test]
fn an_engine_past_the_most_that_may_live_does_not_start() {
    let wire = Wire::new();
    let options = || Options::new(wire.names.clone(), vec![SEGMENT], wire.pins.clone());
    let mut engines: Vec<_> =
        (0..ENGINES).map(|_| Dataplane::prepare(options()).unwrap()).collect();
    let error = Dataplane::prepare(options()).err().unwrap().to_string();
    assert!(error.contains("as many engines live as there is room for: 16"), "{error}");
    engines.remove(3);
    Dataplane::prepare(options()).unwrap();
}

#[test]
fn an_engine_knows_that_it_has_a_successor_and_leaves_the_tables_to_it() {
    let wire = Wire::new();
    let (old, _held) = wire.engine(Attach::Auto);
    assert!(!old.dataplane.superseded());
    let options = Options::new(wire.names.clone(), vec![SEGMENT], wire.pins.clone());
    let (new, _held_by_new) = Dataplane::prepare(options).unwrap();
    assert!(!old.dataplane.superseded(), "until the programs are on the ports");
    new.apply(&snapshot(Layer2Fallback::PermitAll)).unwrap();
    new.attach().unwrap();
    assert!(old.dataplane.superseded());
    assert!(!new.superseded());
    old.dataplane.fall_back(FallbackCause::Told, true).unwrap();
    old.dataplane.apply(&weir_policy::Snapshot::default()).unwrap();
    let listener = wire.listen();
    for _ in 0..20 {
        new.heartbeat();
        let _pair = wire.pair(&listener);
    }
    let counted = |name: &str| {
        let report = new.counters();
        report[0].counters.iter().find(|(found, _)| *found == name).unwrap().1
    };
    assert_eq!(counted("fallback_passed"), 0);
    assert_eq!(counted("candidate_syn"), 20, "the new one's policy is in force");
}

#[test]
fn a_flow_that_the_old_engine_holds_is_judged_by_it() {
    let wire = Wire::new();
    let mut old = wire.engine_process("hold");
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"hel").unwrap();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    client.write_all(b"lo").unwrap();
    engine.wait_for("draining_held_dropped", 1);
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // It never decided, and dies: nothing of the flow was said to either end.
    signal(&old, Signal::SIGKILL);
    old.wait().unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut bytes = [0; 5];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    says(&mut client, &mut server);
}

#[test]
fn both_ends_are_reset_where_an_engine_dies_amid_a_takeover() {
    let wire = Wire::new();
    let mut old = wire.engine_process("hold");
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    client.write_all(b"hello").unwrap();
    wait_for(|| states(&wire, State::Held) == 1);
    signal(&old, Signal::SIGKILL);
    old.wait().unwrap();
    // As it is between the change of state and the sockets' first word: those were silent, so
    // neither end heard of their end.
    let mut flows = flows(&wire);
    let (key, mut flow) = flows.iter().next().unwrap().unwrap();
    flow[0] = State::Taken as u8;
    // Where its client expects its server: behind the SYN, of which nothing was heard before.
    let [isn, next] = [60..64, 64..68];
    let first = u32::from_ne_bytes(flow[isn].try_into().unwrap()).wrapping_add(1);
    flow[next].copy_from_slice(&first.to_ne_bytes());
    flows.insert(key, flow, 0).unwrap();

    let (_engine, _held) = wire.engine(Attach::Auto);
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(states(&wire, State::Tombstone), 1);
}

#[test]
fn whatever_a_dead_engine_held_is_given_back_however_much_it_is() {
    const HELD: u32 = 5000;
    let wire = Wire::new();
    drop(wire.engine(Attach::Auto));
    // Entries of an engine that there never was.
    let mut flows = flows(&wire);
    for number in 0..HELD {
        let (mut key, mut flow) = ([0; 60], [0; 136]);
        key[0] = 1;
        key[56..].copy_from_slice(&number.to_be_bytes());
        (flow[0], flow[4]) = (State::Held as u8, 1);
        flow[108..112].copy_from_slice(&9999u32.to_ne_bytes());
        flows.insert(key, flow, 0).unwrap();
    }
    assert_eq!(states(&wire, State::Held), HELD as usize);
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    wait_for(|| states(&wire, State::Held) == 0);
    talks(&wire, &wire.listen());
    engine.wait_for("flow_taken_over", 1);
}

/// States of bpf/weir.h.
#[derive(Clone, Copy)]
enum State {
    Held = 3,
    Taken = 6,
    Tombstone = 7,
}

/// The pinned flow table, as bytes: keys of 60, values of 136, whose first byte is the state.
fn flows(wire: &Wire) -> HashMap<MapData, [u8; 60], [u8; 136]> {
    let layout = std::fs::read_dir(&wire.pins).unwrap().next().unwrap().unwrap();
    let data = MapData::from_pin(layout.path().join("flows")).unwrap();
    HashMap::try_from(Map::HashMap(data)).unwrap()
}

fn states(wire: &Wire, state: State) -> usize {
    flows(wire).iter().filter(|entry| entry.as_ref().unwrap().1[0] == state as u8).count()
}
