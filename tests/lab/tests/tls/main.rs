//! What TLS inspection does between real ends: curl, openssl and nginx.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;

mod authorities;
mod back_pressure;
mod cleartext;
mod exceptions;
mod http2;
mod meanwhile;
mod sessions;
mod stapling;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use common::lab;
use weir_lab::bench::Bench;
use weir_lab::certificates::Identity;
use weir_lab::document;
use weir_lab::ends::{Ends, INTERFACE};
use weir_lab::fetch::Fetched;
use weir_lab::process::{Process, succeed};
use weir_lab::report::Evidence;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

fn passes(check: impl FnOnce(&mut Bench<Lab>, &mut Evidence) -> anyhow::Result<()>) {
    let mut bench = lab();
    if let Err(error) = check(&mut bench, &mut Evidence) {
        panic!("{error:#}; {}", bench.wire.state());
    }
    bench.run.succeeded();
}

/// Asks the console again until its answer holds this.
fn told(bench: &mut Bench<Lab>, command: &str, text: &str) -> anyhow::Result<String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = bench.wire.console(command)?;
        if shown.contains(text) {
            return Ok(shown);
        }
        anyhow::ensure!(Instant::now() < deadline, "{command} never tells {text:?}: {shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A server of others that the lab's nginx is not.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 4);

/// Starts a program in the server's namespace, and waits until it listens on port 443 of [`OTHER`].
fn serve(ends: &Ends, name: &str, command: &mut Command) -> anyhow::Result<Process> {
    let address = format!("{OTHER}/24");
    ends.server.ip(&["address", "replace", &address, "dev", INTERFACE])?;
    let mut server = Process::start(name, command, &ends.run.path(&format!("{name}.log")))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let listens = |text: String| text.contains(&format!("{OTHER}:443"));
    while !listens(succeed(ends.server.command("ss").args(["-Hltn"]))?) {
        server.check()?;
        anyhow::ensure!(Instant::now() < deadline, "{name} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// openssl's server: it answers any request with a page of its own, and looks at no server name.
fn openssl_server(ends: &Ends, identity: &Identity) -> anyhow::Result<Process> {
    let mut command = ends.server.command("openssl");
    command.args(["s_server", "-www", "-accept", &format!("{OTHER}:443")]);
    command.arg("-cert").arg(&identity.certificate).arg("-key").arg(&identity.key);
    serve(ends, "s_server", &mut command)
}

/// Provisions the lab's document changed so, and waits until it is in force.
fn configure(bench: &mut Bench<Lab>, from: &str, to: &str) -> anyhow::Result<()> {
    let document = document::weir_section(&bench.ends.certificates)?;
    anyhow::ensure!(document.contains(from), "the document has no {from:?}");
    bench.provision(&document.replace(from, to))
}

/// What became of the session of this client port, and its record.
fn record_of(bench: &mut Bench<Lab>, fetched: &Fetched) -> anyhow::Result<(String, String)> {
    let flow = format!("10.66.0.1:{}\n", fetched.port);
    let shown = told(bench, "show sessions detail 50", &flow)?;
    let mut records = shown.split("\n\n");
    let record = records.find(|record| record.contains(&flow)).unwrap_or_default().to_owned();
    let outcome = record.lines().find_map(|line| line.strip_prefix("Outcome")).unwrap_or_default();
    Ok((outcome.trim().to_owned(), record))
}

const INSPECTED: &str = "decrypted and inspected";
