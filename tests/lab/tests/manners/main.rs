//! How Weir treats ends that it blocks, that ask for what it never does, or that break off.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod blocks;
#[path = "../common/mod.rs"]
mod common;
mod ends;
mod flights;
mod foreign;
mod gone;
mod idle;
mod never;
mod resets;
mod stalls;
mod worker;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use common::passes;
use weir_lab::bench::Bench;
use weir_lab::document;
use weir_lab::ends::{Ends, INTERFACE};
use weir_lab::process::{Process, succeed};
use weir_lab::wire::lab::Lab;

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

/// The record of the session of this client port, its lines unfolded.
fn record_of(bench: &mut Bench<Lab>, port: u16) -> anyhow::Result<String> {
    let record = common::record_of(bench, port)?;
    Ok(record.split_whitespace().collect::<Vec<_>>().join(" "))
}
