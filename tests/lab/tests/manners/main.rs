//! How Weir treats ends that it blocks, that ask for what it never does, or that break off.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod blocks;
#[path = "../common/mod.rs"]
mod common;
mod ends;
mod never;
mod resets;
mod worker;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use common::lab;
use weir_lab::bench::Bench;
use weir_lab::document;
use weir_lab::ends::{Ends, INTERFACE};
use weir_lab::process::{Process, succeed};
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

fn passes(check: impl FnOnce(&mut Bench<Lab>) -> anyhow::Result<()>) {
    let mut bench = lab();
    if let Err(error) = check(&mut bench) {
        panic!("{error:#}; {}", bench.wire.state());
    }
    bench.run.succeeded();
}

/// A server that the lab's nginx is not.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 7);

fn give_address(ends: &Ends) -> anyhow::Result<()> {
    ends.server.ip(&["address", "replace", &format!("{OTHER}/24"), "dev", INTERFACE])
}

/// Starts a program in the server's namespace, and waits until it listens at this place.
fn serve(ends: &Ends, command: &mut Command, place: &str) -> anyhow::Result<Process> {
    give_address(ends)?;
    let mut server = Process::start("server", command, &ends.run.path("server.log"))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !succeed(ends.server.command("ss").args(["-Hltn"]))?.contains(place) {
        server.check()?;
        anyhow::ensure!(Instant::now() < deadline, "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// Provisions the lab's document with each of these changes.
fn configure(bench: &Bench<Lab>, changes: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut document = document::weir_section(&bench.ends.certificates)?;
    for (from, to) in changes {
        anyhow::ensure!(document.contains(from), "the document has no {from:?}");
        document = document.replace(from, to);
    }
    bench.provision(&document)
}

/// The record of the session of this client port.
fn record_of(bench: &mut Bench<Lab>, port: u16) -> anyhow::Result<String> {
    let flow = format!("10.66.0.1:{port}\n");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let shown = bench.wire.console("show sessions detail 5")?;
        if let Some(record) = shown.split("\n\n").find(|record| record.contains(&flow)) {
            // The console folds its lines.
            return Ok(record.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        anyhow::ensure!(Instant::now() < deadline, "no record of {flow}: {shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
