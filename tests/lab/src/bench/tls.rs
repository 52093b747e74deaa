//! `ci/bench tls`: what TLS inspection costs, beside other proxies from packages and beside the bare
//! cryptography, in one run.
//!
//! For: the bars of the issue "TLS". What runs is the shipped path: Weir's processes of a release
//! build, with their eBPF, on a segment's bridge. Every round measures every way once, back to back;
//! a round's ratio is of its own round's figures, and a bar is the median of its rounds. Not for:
//! absolute speed. Prints the spread, then one line a bar: `bar NAME RATIO LIMIT ok|short`. Fails
//! only where something could not be measured.
//!
//! What is compared with what:
//! - The same clients ([`client`]) and the same nginx for all ways. Nothing is resumed: nginx gives
//!   no tickets. TLS 1.3, X25519, AES-128-GCM, on both legs of every proxy; but for sslsplit's leg to
//!   the client, which knows P-256 only.
//! - With haproxy, which shows a certificate of its own and does not verify the server's: Weir's
//!   server inspection, which does the same (other key than the server's, so that one can tell). With
//!   sslsplit, and beside squid and mitmproxy, which forge: Weir's client inspection, which moreover
//!   verifies the server's certificate (they do not). For bulk and requests, where the certificate is
//!   no part, client inspection stands for both.
//! - All forge with a P-256 key, whatever the server's is; no filters, no logs of connections.
//!   Weir's agent keeps its records of sessions nonetheless, and is counted.
//! - A new session is connection, handshakes, one small request, and the orderly end.
//! - Proxies' CPU time is counted twice. Attributed: that of all their processes (of Weir's: of init,
//!   agent, engine, legacy worker, capture), which includes their system calls and the packet work
//!   done in these. Whole machine: what /proc/stat says, less what the machine was busy with before,
//!   less what the same sessions cost directly, over a plain bridge: so with all the kernel's work
//!   for them, eBPF included, and without the ends' own. Bars go by the latter, unless others use
//!   the machine.
//! - The engine's own CPU time of an inspected session, less that of a taken flow that is relayed
//!   unread (a domain not to decrypt, whose hello comes in two pieces; so does the inspected
//!   session's), against both roles' handshakes in memory ([`crypto`]). Both with the same server:
//!   where that signs by RSA, which takes it long, a flow that is relayed unread costs the engine more,
//!   too (4 to 20 % by round).

pub mod client;
mod config;
mod crypto;
mod engine;
mod memory;
mod peers;
mod ratios;
pub mod site;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use self::client::{Amount, Shown, Target};
use self::config::KeyExchange;
use self::engine::EngineSample;
use self::memory::Idle;
use self::peers::{MITMPROXY_ABOVE, Peer, SQUID_PORT, SSLSPLIT_ABOVE};
use self::site::{BEHIND, DIRECT, NAME, OTHERS, OURS, P256_PORT, PROXY, RSA_PORT, Site, at};
use crate::bench::bars::{Bar, By};
use crate::bench::cpu::{self, Reading};
use crate::bench::results;
use crate::report::Report;

/// The ratios of fewer rounds say nothing.
const LEAST_ROUNDS: usize = 3;
/// Of ways that no bar is about.
const OTHERS_ROUNDS: usize = 2;
/// Until what a proxy does after a session's end is done.
const AFTERMATH: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Rounds; fewer where the time is up.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// New sessions of a measurement.
    #[arg(long, default_value_t = 2500)]
    sessions: usize,
    /// Objects of 10 MB of a measurement.
    #[arg(long, default_value_t = 100)]
    objects: usize,
    /// Requests on kept connections of a measurement.
    #[arg(long, default_value_t = 50_000)]
    requests: usize,
    /// Idle sessions whose memory is measured, on the modern stack; fewer where the engine may not
    /// have so many descriptors.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// The same on the legacy stack.
    #[arg(long, default_value_t = 1000)]
    idle_legacy: usize,
    /// Leave the other proxies out, and their bars.
    #[arg(long)]
    without_peers: bool,
    /// No new round begins after so many seconds.
    #[arg(long, default_value_t = 420)]
    seconds: u64,
    /// Where the results are kept.
    #[arg(long, default_value = "tests/bench/results/tls.json")]
    results: PathBuf,
}

/// What is kept of a run.
#[derive(Debug, Serialize)]
struct Results {
    kernel: String,
    processors: usize,
    /// Busy processors before the run.
    idle_load: f64,
    settings: String,
    peers: Vec<String>,
    memory_modern: Idle,
    memory_legacy: Idle,
    forges_of_first_visits: u64,
    samples: Vec<Sample>,
    engine: Vec<EngineSample>,
    bars: Vec<Bar>,
}

/// One measurement, per unit: CPU nanoseconds.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    round: usize,
    what: What,
    way: Way,
    /// Of the proxy's processes.
    attributed: f64,
    /// With both ends.
    whole_machine: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    /// A new session with a server that has this key.
    SessionP256,
    SessionRsa,
    /// Of 10 MB objects.
    Gigabyte,
    /// Of 1 KB, on a kept connection.
    Request,
}

const ALL: [What; 4] = [What::SessionP256, What::SessionRsa, What::Gigabyte, What::Request];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    Direct,
    /// Client inspection.
    WeirForging,
    /// Server inspection.
    WeirOwn,
    Haproxy,
    Sslsplit,
    Squid,
    Mitmproxy,
}

/// Measures, prints, keeps.
pub fn run(settings: &Settings) -> Result<()> {
    let report = Report::new("bench");
    let idle = cpu::idle_load(Duration::from_secs(3))?;
    let by = By::for_load(idle);
    report.progress(&format!("{idle:.2} processors are busy with other things: bars go by {by}"));
    let until = Instant::now() + Duration::from_secs(settings.seconds);
    let mut site = Site::new()?;
    let peers = if settings.without_peers {
        vec![]
    } else {
        peers::start(&site, |text| report.progress(text))?
    };
    let mut bench =
        Bench { site: &mut site, peers, settings, idle, samples: vec![], engine: vec![] };

    let [modern, legacy] = bench.memory()?;
    report.progress(&format!(
        "{} idle sessions: {:.1} KiB each on the modern stack ({:.1} KiB in the kernel); {:.1} KiB \
         on the legacy stack ({:.1} KiB in its worker, {:.1} KiB in the kernel)",
        modern.sessions,
        modern.user / 1024.0,
        modern.kernel / 1024.0,
        legacy.user / 1024.0,
        legacy.worker / 1024.0,
        legacy.kernel / 1024.0
    ));
    let forges = engine::forges_of_first_visits(bench.site)?;
    report.progress(&format!("{forges} certificates forged for 100 first visits to one host"));
    bench.warm_up()?;
    for round in 0..settings.rounds {
        if round >= LEAST_ROUNDS && Instant::now() > until {
            report.progress(&format!("time is up after {round} rounds"));
            break;
        }
        bench.round(round).with_context(|| format!("round {round}"))?;
        report.progress(&format!("round {} of {}", round + 1, settings.rounds));
    }
    for line in bench.table() {
        println!("{line}");
    }
    let bars = bench.bars(by, [modern, legacy], forges)?;
    let Bench { peers, samples, engine, .. } = bench;
    let results = Results {
        kernel: results::kernel()?,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        idle_load: idle,
        settings: format!("{settings:?}"),
        peers: peers.iter().map(|peer| peer.version.clone()).collect(),
        memory_modern: modern,
        memory_legacy: legacy,
        forges_of_first_visits: forges,
        samples,
        engine,
        bars,
    };
    results::keep(&results, &settings.results)?;
    report.progress(&format!("results: {}", settings.results.display()));
    drop(peers);
    site.bench.run.succeeded();
    results::print(&results.bars);
    Ok(())
}

struct Bench<'a> {
    site: &'a mut Site,
    peers: Vec<Peer>,
    settings: &'a Settings,
    idle: f64,
    samples: Vec<Sample>,
    engine: Vec<EngineSample>,
}

impl Bench<'_> {
    fn memory(&self) -> Result<[Idle; 2]> {
        let weir = self.target(Way::WeirForging, What::SessionP256)?;
        let direct = self.target(Way::Direct, What::SessionP256)?;
        let sessions = self.settings.idle.min(site::most_sessions()?);
        // First: the engine would use again what the many modern ones have left.
        let legacy = memory::of_legacy(self.site, self.settings.idle_legacy)
            .context("idle sessions of old")?;
        let modern =
            memory::of_modern(self.site, &weir, &direct, sessions).context("idle sessions")?;
        Ok([modern, legacy])
    }

    /// Every way once: certificates are forged, servers known.
    fn warm_up(&self) -> Result<()> {
        for way in self.ways(0) {
            for what in ALL.into_iter().filter(|what| measured(way, *what)) {
                let amount =
                    Amount { sessions: 8, concurrent: 4, requests: 1, ..self.amount(way, what) };
                client::run(&self.site.client(), &self.target(way, what)?, amount)
                    .with_context(|| format!("{what:?}, {way:?}"))?;
            }
        }
        Ok(())
    }

    /// Those that are measured in this round.
    fn ways(&self, round: usize) -> Vec<Way> {
        let own = [Way::Direct, Way::WeirForging, Way::WeirOwn];
        let barred = |way: &Way| matches!(way, Way::Haproxy | Way::Sslsplit);
        let peers = self.peers.iter().map(|peer| peer.way);
        let peers = peers.filter(|way| barred(way) || round < OTHERS_ROUNDS);
        own.into_iter().chain(peers).collect()
    }

    fn round(&mut self, round: usize) -> Result<()> {
        self.site.check()?;
        self.peers.iter_mut().try_for_each(Peer::check)?;
        for what in ALL {
            let mut ways = self.ways(round);
            ways.retain(|way| measured(*way, what));
            // What comes first in one round comes later in the next.
            let turn = round % ways.len();
            ways.rotate_left(turn);
            for way in ways {
                let sample =
                    self.measure(round, what, way).with_context(|| format!("{what:?}, {way:?}"))?;
                self.samples.push(sample);
            }
        }
        let sample = engine::measure(self.site, round, self.settings.sessions)?;
        self.engine.push(sample);
        Ok(())
    }

    fn measure(&self, round: usize, what: What, way: Way) -> Result<Sample> {
        let (target, amount) = (self.target(way, what)?, self.amount(way, what));
        let (attributed, machine) = (self.cpu_of(way)?, Reading::now(None)?);
        client::run(&self.site.client(), &target, amount)?;
        std::thread::sleep(AFTERMATH);
        let used = machine.used()?.machine_above(self.idle);
        let attributed = self.cpu_of(way)?.saturating_sub(attributed);
        let units = match what {
            What::SessionP256 | What::SessionRsa => amount.sessions as f64,
            What::Gigabyte => (amount.sessions * amount.requests * amount.length) as f64 / 1e9,
            What::Request => (amount.sessions * amount.requests) as f64,
        };
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e9 / units;
        Ok(Sample { round, what, way, attributed: each(attributed), whole_machine: each(used) })
    }

    /// CPU time of a way's processes so far.
    fn cpu_of(&self, way: Way) -> Result<Duration> {
        let roots = match way {
            Way::Direct => vec![],
            Way::WeirForging | Way::WeirOwn => vec![self.site.bench.wire.supervisor()],
            way => self.peers.iter().filter(|peer| peer.way == way).flat_map(Peer::pids).collect(),
        };
        roots.into_iter().map(cpu::of_tree).sum()
    }

    /// Fewer by the slower ways.
    fn amount(&self, way: Way, what: What) -> Amount {
        let slower = match way {
            Way::Mitmproxy => 20,
            Way::Squid => 4,
            _ => 1,
        };
        let settings = self.settings;
        match what {
            What::SessionP256 | What::SessionRsa => Amount {
                sessions: (settings.sessions / slower).max(1),
                concurrent: 32,
                requests: 1,
                path: "/small",
                length: 6,
            },
            What::Gigabyte => Amount {
                sessions: 4,
                concurrent: 4,
                requests: (settings.objects / slower / 4).max(1),
                path: "/10m",
                length: 10_000_000,
            },
            What::Request => Amount {
                sessions: 16,
                concurrent: 16,
                requests: (settings.requests / slower / 16).max(1),
                path: "/1k",
                length: 1 << 10,
            },
        }
    }

    fn target(&self, way: Way, what: What) -> Result<Target> {
        let port = if what == What::SessionRsa { RSA_PORT } else { P256_PORT };
        let (own, front) = (self.site.own(port)?, self.site.front(port)?);
        let mut connect = None;
        let (address, shown) = match way {
            Way::Direct => (at(DIRECT, port), Shown::This(own)),
            Way::WeirForging => (at(OTHERS, port), Shown::CopyOf(own)),
            Way::WeirOwn => (at(OURS, port), Shown::This(front)),
            Way::Haproxy => (at(PROXY, port), Shown::This(front)),
            Way::Sslsplit => (at(PROXY, port + SSLSPLIT_ABOVE), Shown::CopyOf(own)),
            Way::Mitmproxy => (at(PROXY, port + MITMPROXY_ABOVE), Shown::CopyOf(own)),
            Way::Squid => {
                connect = Some(at(BEHIND, port));
                (at(PROXY, SQUID_PORT), Shown::CopyOf(own))
            }
        };
        let key_exchange = match way {
            Way::Sslsplit => KeyExchange::P256,
            _ => KeyExchange::X25519,
        };
        Ok(Target { address, server_name: NAME, connect, shown, pause: None, key_exchange })
    }
}

/// Server inspection is client inspection once the handshakes are done.
fn measured(way: Way, what: What) -> bool {
    way != Way::WeirOwn || matches!(what, What::SessionP256 | What::SessionRsa)
}
