//! Many sessions through the lab: what they leave behind in the engine, and what they take while
//! they idle.
//!
//! For: sessions by the thousand, between ends in this process that are rustls and nothing of
//! Weir's, and clients of old that are Python's. Not for: speed. Fails where a session that nobody aborted does not work, and where
//! something stays that was not there before.

pub mod churn;
mod end;
pub mod idle;
pub mod machine;
mod old;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use tokio::task::LocalSet;

use crate::bench::Bench;
use crate::document;
use crate::ends::{Ends, OWN_SERVER, SERVER};
use crate::namespace::Handle;
use crate::wire::Wire;
use crate::wire::lab::Lab;

/// Where the servers of the crowd listen, on both addresses.
const PORT: u16 = 8443;
/// Sessions that are being made, or used, at one time.
const AT_ONCE: usize = 64;
/// For one session, whatever it does: the machine is shared.
const PATIENCE: Duration = Duration::from_secs(120);
/// Until everything of ended sessions is gone, but for entries of flows.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// The engine's pools of sockets are as full as it happens: so many descriptors more say nothing. Of
/// the sessions that are aborted at each stage there are more.
const POOLED: usize = 64;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lab.example\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong";

/// A server of others, then one of ours: both policies.
fn target(number: usize) -> (SocketAddr, &'static str) {
    if number.is_multiple_of(2) {
        ((SERVER, PORT).into(), "public.example")
    } else {
        ((OWN_SERVER, PORT).into(), "shop.example")
    }
}

fn prepare(bench: &mut Bench<Lab>) -> Result<()> {
    bench.provision(&policy(&bench.ends)?)?;
    descriptors()
}

/// The lab's for [`PORT`], for so many sessions.
fn policy(ends: &Ends) -> Result<String> {
    Ok(document::weir_section(&ends.certificates)?
        .replace("detection-ports: [\"443\"", &format!("detection-ports: [\"443\", \"{PORT}\""))
        .replace("max-concurrent-sessions: 10000", "max-concurrent-sessions: 50000"))
}

/// As many as this process may have.
fn descriptors() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = most.max(131_072);
    // Some machines let nobody have more than they gave: then the sessions are as many as fit.
    setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, most, most))
        .context("descriptors for the ends")
}

/// `work` on a runtime of its own, in a thread whose sockets are in the namespace.
fn run_in<T: Send, F: Future<Output = Result<T>>>(
    namespace: &Handle,
    work: impl FnOnce() -> F + Send,
) -> Result<T> {
    namespace.enter(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(LocalSet::new().run_until(work()))
    })
}

/// What the engine has, and what it counts as alive.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    pub resident_kib: u64,
    pub descriptors: usize,
    pub live: u64,
    /// Its worker of the legacy stack.
    pub worker: Worker,
}

#[derive(Clone, Copy, Debug)]
pub struct Worker {
    pub process: Pid,
    pub resident_kib: u64,
    pub descriptors: usize,
}

/// Sessions that the engine counts as alive.
fn live(wire: &mut impl Wire) -> Result<u64> {
    let shown = wire.console("debug np stats show npSslInspStats")?;
    let live = shown.lines().find_map(|line| line.trim().strip_suffix("connectionsActive"));
    Ok(live.with_context(|| format!("no connectionsActive in {shown}"))?.trim().parse()?)
}

/// Memory and descriptors of a process.
fn has(process: Pid) -> Result<(u64, usize)> {
    let process = PathBuf::from(format!("/proc/{process}"));
    let status = std::fs::read_to_string(process.join("status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|line| line.trim().strip_suffix(" kB"));
    let resident = resident.context("no VmRSS")?.trim().parse()?;
    Ok((resident, std::fs::read_dir(process.join("fd"))?.count()))
}

impl Engine {
    pub fn now(bench: &mut Bench<Lab>) -> Result<Self> {
        let (resident_kib, descriptors) = has(bench.wire.engine()?)?;
        let process = bench.wire.legacy_worker()?;
        let of_worker = has(process)?;
        Ok(Self {
            resident_kib,
            descriptors,
            live: live(&mut bench.wire)?,
            worker: Worker { process, resident_kib: of_worker.0, descriptors: of_worker.1 },
        })
    }

    /// Waits until no session lives and descriptors are as many as `before`, but for pools. The worker
    /// has none.
    pub fn settled(bench: &mut Bench<Lab>, before: Option<Self>) -> Result<Self> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        let mut same = None::<Self>;
        loop {
            let now = Self::now(bench)?;
            let quiet = now.live == 0
                && match before {
                    Some(before) => {
                        now.descriptors <= before.descriptors + POOLED
                            && now.worker.descriptors <= before.worker.descriptors
                    }
                    // Sockets of the pools and timers come and go at first.
                    None => same.is_some_and(|same| same.descriptors == now.descriptors),
                };
            if quiet {
                return Ok(now);
            }
            ensure!(Instant::now() < deadline, "not settled: {now:?}, before: {before:?}");
            same = Some(now);
            std::thread::sleep(Duration::from_millis(1500)); // counters are told once a second
        }
    }
}
