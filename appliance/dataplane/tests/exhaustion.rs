//! An engine that runs out of descriptors: flows that cannot be taken over are given back, those that
//! are taken go on, and each is counted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use weir_dataplane::Attach;
use weir_dataplane::segment::Names;
use wire::engine::{Does, Engine, judge_all};
use wire::{ENGINE_VARIABLE, Wire};

/// Where the engine writes its counters: it could open no file later.
const REPORT_VARIABLE: &str = "WEIR_TEST_REPORT";
const REPORTED: [&str; 4] =
    ["flow_taken_over", "flow_released", "take_over_failed", "take_over_lost"];

/// Not a test: the engine whose limit is lowered.
#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn engine_of_its_own() {
    let told = std::env::var(ENGINE_VARIABLE).unwrap();
    let [prefix, pins, _] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let names = Names { prefix: prefix.to_owned(), ..Names::default() };
    let report = File::create(std::env::var(REPORT_VARIABLE).unwrap()).unwrap();
    let (engine, held) = Engine::open(&names, Path::new(pins), Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    println!("ready");
    loop {
        let counts = REPORTED.map(|name| format!("{:10}", engine.counter(name)));
        report.write_all_at(counts.concat().as_bytes(), 0).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn counted(report: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(report).unwrap();
    let at = REPORTED.iter().position(|one| *one == name).unwrap() * 10;
    text[at..at + 10].trim().parse().unwrap()
}

#[test]
fn flows_cross_when_the_engine_has_no_descriptors_left() {
    const FLOWS: u64 = 80; // more than its pools have sockets for
    let wire = Wire::new();
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report");
    let told = format!("{REPORT_VARIABLE}={}", report.display());
    let mut engine = wire.engine_process_under(&["env", &told], "take-over");
    let listener = wire.listen();
    let mut pairs = vec![wire.pair(&listener)];
    let talk = |pairs: &mut [(std::net::TcpStream, std::net::TcpStream)]| {
        for (client, server) in pairs {
            client.write_all(b"hello").unwrap();
            let mut bytes = [0; 5];
            server.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"hello");
            server.write_all(b"there").unwrap();
            client.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"there");
        }
    };
    talk(&mut pairs);
    let open = std::fs::read_dir(format!("/proc/{}/fd", engine.id())).unwrap().count();
    let lowered = Command::new("prlimit")
        .args(["--pid", &engine.id().to_string(), &format!("--nofile={open}:{open}")])
        .status()
        .unwrap();
    assert!(lowered.success());
    pairs.extend((1..FLOWS).map(|_| wire.pair(&listener)));
    talk(&mut pairs);
    talk(&mut pairs);
    let judged = || counted(&report, "flow_taken_over") + counted(&report, "flow_released");
    for _ in 0..500 {
        if judged() >= FLOWS {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(judged(), FLOWS);
    let (taken, failed) =
        (counted(&report, "flow_taken_over"), counted(&report, "take_over_failed"));
    assert!(taken > 1 && failed > 0, "{taken} taken, {failed} failed");
    assert_eq!(failed, counted(&report, "flow_released"));
    assert_eq!(counted(&report, "take_over_lost"), 0);
    engine.kill().unwrap();
    engine.wait().unwrap();
}
