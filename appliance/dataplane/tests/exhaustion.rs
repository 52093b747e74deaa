//! An engine that the kernel denies something amid a takeover: flows that cannot be taken over are given
//! back or blocked, as policy says, those that are taken go on, each is counted by its reason, and
//! nothing of them stays.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use weir_dataplane::Attach;
use weir_dataplane::segment::Names;
use weir_policy::snapshot::EvasionAction;
use weir_policy::snapshot::Layer2Fallback;
use wire::engine::{Does, Engine, judge_all, snapshot};
use wire::faults::{Fault, Faults};
use wire::{ENGINE_VARIABLE, SEGMENT, Wire};

/// Where the engine writes its counters: it could open no file later.
const REPORT_VARIABLE: &str = "WEIR_TEST_REPORT";
const REPORTED: [&str; 10] = [
    "flow_taken_over",
    "flow_released",
    "flow_blocked",
    "take_over_not_held",
    "take_over_no_socket",
    "take_over_no_memory",
    "take_over_failed",
    "take_over_lost",
    "take_over_tuple_owned",
    "packet_forwarded_after_release",
];

/// Not a test: the engine whose limit is lowered.
#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn engine_of_its_own() {
    let told = std::env::var(ENGINE_VARIABLE).unwrap();
    let [prefix, pins, does] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let names = Names { prefix: prefix.to_owned(), ..Names::default() };
    let report = File::create(std::env::var(REPORT_VARIABLE).unwrap()).unwrap();
    let (engine, held) = Engine::open(&names, Path::new(pins), Attach::Auto);
    if does == "block" {
        let mut blocks = snapshot(Layer2Fallback::PermitAll);
        blocks.device.evasion.table_full = EvasionAction::Block;
        engine.dataplane.apply(&blocks).unwrap();
    }
    let _judge = judge_all(held, 1, Does::TakeOver);
    let tell = || {
        let counts = REPORTED.map(|name| format!("{:10}", engine.counter(name)));
        report.write_all_at(counts.concat().as_bytes(), 0).unwrap();
    };
    // Whoever hears that it is ready reads the report.
    tell();
    println!("ready");
    loop {
        std::thread::sleep(Duration::from_millis(20));
        tell();
    }
}

/// An engine in a process of its own, what it counts, and both ends' way to one another.
struct Engines {
    wire: Wire,
    listener: TcpListener,
    report: PathBuf,
    engine: Child,
    faults: Faults,
    _directory: tempfile::TempDir,
}

impl Engines {
    fn start(does: &str) -> Self {
        let wire = Wire::new();
        let directory = tempfile::tempdir().unwrap();
        let report = directory.path().join("report");
        let faults = Faults::new(directory.path());
        let told = format!("{REPORT_VARIABLE}={}", report.display());
        let [library, shared] = &faults.variables;
        let engine = wire.engine_process_under(&["env", &told, library, shared], does);
        let listener = wire.listen();
        Self { wire, listener, report, engine, faults, _directory: directory }
    }

    fn counted(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(&self.report).unwrap();
        let at = REPORTED.iter().position(|one| *one == name).unwrap() * 10;
        text[at..at + 10].trim().parse().unwrap()
    }

    /// Until a counter has this value, and no other one.
    fn wait_for(&self, name: &str, value: u64, what: &str) {
        until(|| self.counted(name) >= value);
        let all = REPORTED.map(|name| (name, self.counted(name)));
        assert_eq!(self.counted(name), value, "{what}: {name} of {all:?}");
    }

    fn pairs(&self, many: u64) -> Vec<(TcpStream, TcpStream)> {
        (0..many).map(|_| self.wire.pair(&self.listener)).collect()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.engine.id())).unwrap().count()
    }

    /// Sockets of the engine that speak for some end, or did.
    fn sockets(&self) -> String {
        self.wire.run(&self.wire.names.engine(SEGMENT), "ss -Htan exclude listening")
    }

    /// Once all flows are over.
    fn keeps_no_socket(&self) {
        until(|| self.sockets().is_empty());
        assert_eq!(self.sockets(), "", "left");
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        self.engine.kill().unwrap();
        self.engine.wait().unwrap();
    }
}

/// Until it holds, for ten seconds at most: what is asserted next tells.
fn until(holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn talk(pairs: &mut [(TcpStream, TcpStream)]) {
    for (client, server) in pairs {
        client.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        server.write_all(b"there").unwrap();
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"there");
    }
}

/// Both ends learn that it is over, and the server got nothing.
fn is_reset((client, server): &mut (TcpStream, TcpStream), what: &str) {
    client.write_all(b"hello").unwrap();
    for end in [client, server] {
        let error = end.read(&mut [0; 9]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}");
    }
}

#[test]
fn flows_cross_when_the_engine_has_no_descriptors_left() {
    const FLOWS: u64 = 80; // more than its pools have sockets for
    let engines = Engines::start("take-over");
    let mut pairs = engines.pairs(1);
    talk(&mut pairs);
    let open = engines.descriptors();
    let lowered = Command::new("prlimit")
        .args(["--pid", &engines.engine.id().to_string(), &format!("--nofile={open}:{open}")])
        .status()
        .unwrap();
    assert!(lowered.success());
    pairs.extend(engines.pairs(FLOWS - 1));
    talk(&mut pairs);
    talk(&mut pairs);
    let judged = || engines.counted("flow_taken_over") + engines.counted("flow_released");
    until(|| judged() >= FLOWS);
    assert_eq!(judged(), FLOWS);
    let (taken, failed) =
        (engines.counted("flow_taken_over"), engines.counted("take_over_no_socket"));
    assert!(taken > 1 && failed > 0, "{taken} taken, {failed} failed");
    assert_eq!(failed, engines.counted("flow_released"));
    assert_eq!(engines.counted("take_over_lost"), 0);
}

/// What fails before a flow is taken, and as what it is counted.
const BEFORE: [(Fault, &str); 8] = [
    (Fault::Repair, "take_over_failed"),
    (Fault::Bind, "take_over_no_memory"),
    (Fault::Connect, "take_over_no_memory"),
    (Fault::Options, "take_over_no_memory"),
    (Fault::Window, "take_over_no_memory"),
    (Fault::Register, "take_over_no_memory"),
    (Fault::Table, "take_over_no_memory"),
    // Last: it empties the pool.
    (Fault::Socket, "take_over_no_socket"),
];

/// More than the pool has sockets for, where it is that.
fn flows_for(fault: Fault) -> u64 {
    if fault == Fault::Socket { 40 } else { 3 }
}

#[test]
fn flows_that_the_kernel_refuses_amid_their_takeover_cross_and_are_counted_by_reason() {
    let engines = Engines::start("take-over");
    talk(&mut engines.pairs(1));
    engines.wait_for("flow_taken_over", 1, "to begin with");
    let mut taken = 1;
    for (fault, counter) in BEFORE {
        let what = format!("{fault:?}");
        let (counted, released) = (engines.counted(counter), engines.counted("flow_released"));
        let mut pairs = engines.pairs(flows_for(fault));
        engines.faults.set(fault);
        talk(&mut pairs);
        talk(&mut pairs);
        engines.faults.set(Fault::None);
        let failed = if fault == Fault::Socket {
            // Those for which the pool still had one were taken.
            let judged = || engines.counted("flow_taken_over") + engines.counted("flow_released");
            until(|| judged() >= taken + released + 40);
            taken = engines.counted("flow_taken_over");
            engines.counted("flow_released") - released
        } else {
            flows_for(fault)
        };
        assert!(failed > 0, "{what}");
        engines.wait_for(counter, counted + failed, &what);
        engines.wait_for("flow_released", released + failed, &what);
        engines.wait_for("flow_taken_over", taken, &what);
        // And they go on afterwards, as do new ones, which are taken again: once the pool has sockets,
        // which is tried every tenth of a second.
        talk(&mut pairs);
        until(|| {
            talk(&mut engines.pairs(1));
            engines.counted("flow_taken_over") > taken
        });
        std::thread::sleep(Duration::from_millis(100));
        assert!(engines.counted("flow_taken_over") > taken, "{what}");
        taken = engines.counted("flow_taken_over");
    }
    assert_eq!(engines.counted("take_over_lost"), 0);
    engines.keeps_no_socket();
}

#[test]
fn they_are_reset_where_policy_blocks_what_cannot_be_taken() {
    let engines = Engines::start("block");
    talk(&mut engines.pairs(1));
    for (number, (fault, counter)) in (0u64..).zip(BEFORE) {
        if fault == Fault::Socket {
            continue;
        }
        let what = format!("{fault:?}");
        let counted = engines.counted(counter);
        let mut pair = engines.pairs(1);
        engines.faults.set(fault);
        is_reset(&mut pair[0], &what);
        engines.faults.set(Fault::None);
        engines.wait_for(counter, counted + 1, &what);
        engines.wait_for("flow_blocked", number + 1, &what);
        talk(&mut engines.pairs(1));
    }
    assert_eq!(engines.counted("flow_released"), 0);
}

/// From the change of its state on there is no way back to the bridge.
#[test]
fn a_flow_whose_sockets_cannot_speak_is_reset_at_both_ends() {
    let engines = Engines::start("take-over");
    talk(&mut engines.pairs(1));
    for (number, fault) in (1..).zip([Fault::Speak, Fault::SpeakServer]) {
        let what = format!("{fault:?}");
        let mut pair = engines.pairs(1);
        engines.faults.set(fault);
        is_reset(&mut pair[0], &what);
        assert!(engines.faults.hits() >= number, "{what}");
        engines.faults.set(Fault::None);
        engines.wait_for("take_over_lost", u64::from(number), &what);
        talk(&mut engines.pairs(1));
    }
    assert_eq!(engines.counted("flow_released"), 0);
    engines.keeps_no_socket();
}

/// The entry of a flow that ended while its state could not be changed would send the next one of its
/// addresses and ports to sockets that are gone.
#[test]
fn a_taken_flow_that_ends_while_the_table_cannot_be_changed_makes_room_for_the_next() {
    let engines = Engines::start("take-over");
    let mut pairs = engines.pairs(1);
    talk(&mut pairs);
    let from = pairs[0].0.local_addr().unwrap();
    engines.faults.set(Fault::Table);
    let before = engines.faults.hits();
    // The server closes first and has the time to wait; the client's number is free at once.
    let (mut client, server) = pairs.remove(0);
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    until(|| engines.faults.hits() > before);
    engines.faults.set(Fault::None);
    let to = engines.listener.local_addr().unwrap();
    let mut client: TcpStream = weir_dataplane::namespace::inside(&engines.wire.client, || {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect_timeout(&to.into(), Duration::from_secs(20)).unwrap();
        socket.into()
    })
    .unwrap();
    let (mut server, address) = engines.listener.accept().unwrap();
    assert_eq!(address, from);
    client.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}
