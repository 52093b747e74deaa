//! What an idle inspected session costs in memory.
//!
//! For: user space (resident memory of the engine and its legacy worker) and the kernel's (its slabs,
//! less those of as many sessions without Weir). Measured before any other load: memory that an
//! allocator has kept from it would be used again and not be seen. Every session has had one request
//! answered.

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde::Serialize;

use super::client::{self, Amount, Target};
use super::site::{DIRECT, OLD_PORT, OTHERS, Site};
use crate::bench::{cpu, memory};
use crate::wire::repository;

/// Sessions that come first, so that what is made once is not counted as a session's.
const FIRST: usize = 200;
/// Until everything is at rest.
const SETTLE: Duration = Duration::from_secs(1);

/// Bytes a session.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Idle {
    pub sessions: usize,
    /// Of the engine and its worker together, and of the worker alone.
    pub user: f64,
    pub worker: f64,
    /// More than the two ends' own.
    pub kernel: f64,
}

pub fn of_modern(site: &Site, weir: &Target, direct: &Target, sessions: usize) -> Result<Idle> {
    let amount =
        |sessions| Amount { sessions, concurrent: 64, requests: 1, path: "/small", length: 6 };
    let _first = client::open(&site.client(), weir, amount(FIRST))?;
    let with = growth(site, || client::open(&site.client(), weir, amount(sessions)))?;
    let without = growth(site, || client::open(&site.client(), direct, amount(sessions)))?;
    let kernel = (with.kernel - without.kernel) / sessions as f64;
    Ok(with.each(sessions, kernel))
}

/// Both legs on the legacy stack; the same sessions over the plain bridge have none of Weir's.
pub fn of_legacy(site: &Site, sessions: usize) -> Result<Idle> {
    let _first = Clients::open(site, OTHERS, FIRST)?;
    let with = growth(site, || Clients::open(site, OTHERS, sessions))?;
    let without = growth(site, || Clients::open(site, DIRECT, sessions))?;
    let kernel = (with.kernel - without.kernel) / sessions as f64;
    Ok(with.each(sessions, kernel))
}

/// Bytes.
struct Memory {
    engine: f64,
    worker: f64,
    kernel: f64,
}

impl Memory {
    fn now(engine: Pid) -> Result<Self> {
        let own = memory::resident(&engine.to_string())? as f64;
        let mut all = 0.0;
        for process in cpu::tree(engine)? {
            all += memory::resident(&process.to_string())? as f64;
        }
        Ok(Self { engine: own, worker: all - own, kernel: memory::slabs()? as f64 })
    }

    fn each(&self, sessions: usize, kernel: f64) -> Idle {
        let each = |bytes: f64| bytes / sessions as f64;
        let user = each(self.engine + self.worker);
        Idle { sessions, user, worker: each(self.worker), kernel }
    }
}

/// By how much Weir's user space and the kernel grow; what was opened is closed again.
fn growth<T>(site: &Site, open: impl FnOnce() -> Result<T>) -> Result<Memory> {
    let engine = site.bench.wire.engine()?;
    std::thread::sleep(SETTLE);
    let before = Memory::now(engine)?;
    let opened = open()?;
    std::thread::sleep(SETTLE);
    let after = Memory::now(engine)?;
    drop(opened);
    std::thread::sleep(SETTLE);
    Ok(Memory {
        engine: after.engine - before.engine,
        worker: after.worker - before.worker,
        kernel: after.kernel - before.kernel,
    })
}

/// A process with many sessions of old.
struct Clients(Child);

impl Clients {
    fn open(site: &Site, server: Ipv4Addr, count: usize) -> Result<Self> {
        let mut command = site.bench.ends.client.command("python3");
        command.arg(repository().join("tests/bench/peers/legacy_clients.py"));
        command.args([server.to_string(), OLD_PORT.to_string(), count.to_string()]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut clients = Self(child);
        let mut line = String::new();
        let output = clients.0.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "open\n", "sessions of old do not open");
        Ok(clients)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
