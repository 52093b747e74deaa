//! `ci/bench dataplane`: what packets and flows cost with the data plane, as ratios to the plain
//! bridge, in one run.
//!
//! For: the bars of the issue "the data plane", with Weir's processes as they are shipped: agent, engine and
//! legacy worker under their supervisor. Every round measures every way once, the plain bridge among them,
//! back to back; a round's ratio has its own round's bridge below the line, and a bar is the median of its
//! rounds. Not for: absolute speed, of which a shared machine says nothing. Prints the spread, then one line
//! a bar: `bar NAME RATIO LIMIT ok|short`. Fails only where something could not be measured.
//!
//! CPU time is counted twice. Attributed: this process, which is both ends, Weir's processes, and the
//! kernel's ksoftirqd; on veth the kernel's packet work is done in the sender's system calls and so
//! within it. Whole machine: what /proc/stat says, softirq included, less what the machine was busy
//! with before. Where that was more than [`By::for_load`] takes for nothing, others are at work and
//! the bars go by the attributed time; both are in the results.

mod datagrams;
mod engine;
mod lean;
mod load;
mod memory;
pub mod open;
mod pairs;
mod policy;
mod site;

use std::iter::once;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use self::engine::{Decided, Engine};
use self::lean::Lean;
use self::load::First;
use self::open::Open;
use self::site::{CANDIDATE_PORT, LAST_PORT, LEAN, OTHER_PORT, PLAIN, SEGMENT, Site};
use crate::bench::bars::{Bar, By, Limit};
use crate::bench::cpu::{self, Used};
use crate::bench::results;
use crate::report::Report;

/// The ratios of fewer rounds say nothing.
const LEAST_ROUNDS: usize = 3;
/// Flows whose memory is measured.
const OPEN_FLOWS: usize = 100_000;
/// What user space and maps may have for them.
const MEMORY: f64 = 64.0 * 1024.0 * 1024.0;

#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Rounds; fewer where the time is up.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Bytes each way of a bulk connection, in millions.
    #[arg(long, default_value_t = 1500)]
    megabytes: usize,
    /// Short connections of a measurement.
    #[arg(long, default_value_t = 20_000)]
    connections: usize,
    /// Datagrams of a measurement.
    #[arg(long, default_value_t = 300_000)]
    datagrams: usize,
    /// Flows open at one time when memory is measured; fewer say nothing about the bar.
    #[arg(long, default_value_t = OPEN_FLOWS)]
    open_flows: usize,
    /// No new round begins after so many seconds.
    #[arg(long, default_value_t = 420)]
    seconds: u64,
    /// Where the results are kept.
    #[arg(long, default_value = "tests/bench/results/dataplane.json")]
    results: PathBuf,
}

/// What is kept of a run.
#[derive(Debug, Serialize)]
struct Results {
    kernel: String,
    processors: usize,
    /// Busy processors before the run.
    idle_load: f64,
    tables: policy::Fill,
    settings: String,
    memory_bytes: [u64; 2],
    samples: Vec<Sample>,
    bars: Vec<Bar>,
}

/// One measurement, per unit (GB, connection, packet): CPU nanoseconds.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    round: usize,
    what: What,
    way: Way,
    attributed: f64,
    whole_machine: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    Gigabyte,
    Connection,
    Packet,
    /// CPU of the engine's process for a takeover, of an ordinary proxy's thread for accept and connect.
    Takeover,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    Bridge,
    /// With a pause amid the hello, as those need that are to be taken.
    BridgeWithPause,
    /// No candidate.
    Passed,
    Released,
    /// Taken over with its hello incomplete, and then relayed unread.
    Taken,
    /// An ordinary proxy's pair of connections.
    Pair,
    /// UDP on a segment whose TCP flows are candidates.
    Datagrams,
    /// The same where the tables have no more than that.
    EmptyTables,
}

/// Measures, prints, keeps.
pub fn run(settings: &Settings) -> Result<()> {
    let report = Report::new("bench");
    let idle = cpu::idle_load(Duration::from_secs(3))?;
    let by = By::for_load(idle);
    report.progress(&format!("{idle:.2} processors are busy with other things: bars go by {by}"));
    let (site, engine, tables) = Site::new()?;
    let lean = Lean::start(&site)?;
    let hello = hello(policy::EXCEPTED)?;
    let mut bench = Bench { site: &site, engine: &engine, settings, hello, idle, samples: vec![] };

    let until = Instant::now() + Duration::from_secs(settings.seconds);
    for round in 0..settings.rounds {
        if round >= LEAST_ROUNDS && Instant::now() > until {
            report.progress(&format!("time is up after {round} rounds"));
            break;
        }
        bench.round(round).with_context(|| format!("round {round}"))?;
        report.progress(&format!("round {} of {}", round + 1, settings.rounds));
    }
    drop(lean);
    let memory_bytes = bench.memory()?;
    report.progress(&format!(
        "{} released flows: user space grew by {} KiB, maps have {} KiB",
        settings.open_flows,
        memory_bytes[0] / 1024,
        memory_bytes[1] / 1024
    ));
    let samples = bench.samples;
    let bars = all_bars(&samples, by, memory_bytes)?;
    let results = Results {
        kernel: results::kernel()?,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        idle_load: idle,
        tables,
        settings: format!("{settings:?}"),
        memory_bytes,
        samples,
        bars,
    };
    results::keep(&results, &settings.results)?;
    report.progress(&format!("results: {}", settings.results.display()));
    site.succeeded();
    results::print(&results.bars);
    Ok(())
}

struct Bench<'a> {
    site: &'a Site,
    engine: &'a Engine,
    settings: &'a Settings,
    hello: Arc<[u8]>,
    idle: f64,
    samples: Vec<Sample>,
}

impl Bench<'_> {
    fn round(&mut self, round: usize) -> Result<()> {
        let whole = First::Hello(Arc::clone(&self.hello));
        let in_two = First::InTwo(Arc::clone(&self.hello));
        let mut at_once = [
            (Way::Bridge, PLAIN, CANDIDATE_PORT, &whole),
            (Way::Passed, SEGMENT, OTHER_PORT, &whole),
            (Way::Released, SEGMENT, CANDIDATE_PORT, &whole),
        ];
        let mut paused = [
            (Way::BridgeWithPause, PLAIN, CANDIDATE_PORT, &in_two),
            (Way::Taken, SEGMENT, CANDIDATE_PORT, &in_two),
        ];
        // What comes first in one round comes later in the next.
        at_once.rotate_left(round % 3);
        paused.rotate_left(round % 2);
        // A machine that others use too changes from one second to the next: what is compared is measured without
        // a pause between, and then looked at whether it went its way.
        for (ways, decided) in [(&at_once[..], Way::Released), (&paused[..], Way::Taken)] {
            let (before, count) = (self.engine.decided()?, self.settings.connections);
            for (way, bridge, port, first) in ways {
                let used = load::connections(self.site, Site::server(*bridge, *port), first, count)
                    .with_context(|| format!("connections, {way:?}"))?;
                self.keep(round, What::Connection, *way, &used, count as f64);
            }
            self.check(decided, before, count)?;
        }
        for (ways, decided) in [(&at_once[..], Way::Released), (&paused[..], Way::Taken)] {
            let (before, bytes) = (self.engine.decided()?, self.settings.megabytes * 1_000_000);
            for (way, bridge, port, first) in ways {
                let used = load::bulk(self.site, Site::server(*bridge, *port), first, bytes)
                    .with_context(|| format!("bulk, {way:?}"))?;
                self.keep(round, What::Gigabyte, *way, &used, 2.0 * bytes as f64 / 1e9);
            }
            self.check(decided, before, 1)?;
        }
        let mut ways = [(Way::Bridge, PLAIN), (Way::Datagrams, SEGMENT), (Way::EmptyTables, LEAN)];
        ways.rotate_left(round % 3);
        for (way, bridge) in ways {
            let (to, count) = (Site::server(bridge, CANDIDATE_PORT), self.settings.datagrams);
            let blasted = datagrams::blast(self.site, to, Site::interface(bridge), count)
                .with_context(|| format!("datagrams, {way:?}"))?;
            self.keep(round, What::Packet, way, &blasted.used, blasted.arrived as f64);
        }
        self.takeover(round)
    }

    /// Engine CPU a takeover, and an ordinary proxy's for a pair of connections.
    fn takeover(&mut self, round: usize) -> Result<()> {
        let count = self.settings.connections;
        let to = Site::server(SEGMENT, CANDIDATE_PORT);
        let before = self.engine.decided()?;
        let cpu = self.engine.cpu()?;
        let half = First::Half(Arc::clone(&self.hello));
        load::until_ended(self.site, to, to, &half, count).context("takeovers")?;
        let took = self.engine.cpu()?.saturating_sub(cpu);
        self.check(Way::Taken, before, count)?;
        let [at, server] = Site::middle(OTHER_PORT);
        let pairs = pairs::serve(
            self.site,
            [at, server],
            count,
            || load::until_ended(self.site, at, server, &First::Nothing, count),
            || Ok(cpu::of_threads(&[pairs::THREAD])?.as_secs_f64()),
        )
        .context("ordinary pairs")?;
        for (way, seconds) in [(Way::Taken, took.as_secs_f64()), (Way::Pair, pairs)] {
            let attributed = seconds * 1e9 / count as f64;
            let what = What::Takeover;
            self.samples.push(Sample { round, what, way, attributed, whole_machine: attributed });
        }
        Ok(())
    }

    fn keep(&mut self, round: usize, what: What, way: Way, used: &Used, units: f64) {
        self.samples.push(Sample {
            round,
            what,
            way,
            attributed: used.own.as_secs_f64() * 1e9 / units,
            whole_machine: used.machine_above(self.idle).as_secs_f64() * 1e9 / units,
        });
    }

    /// That so many flows went the way they are measured for, and no others came to the engine: what is released
    /// for lack of anything is cheap.
    fn check(&self, way: Way, before: Decided, flows: usize) -> Result<()> {
        let flows = flows as u64;
        // On a busy machine a hello is late, or its second half early.
        let most = flows - flows / 50;
        let as_wanted = |now: Decided| {
            let released = now.released - before.released;
            let taken = now.taken - before.taken;
            let this_way = if way == Way::Taken { taken } else { released };
            this_way >= most && released + taken == flows
        };
        // The engine tells its counters once a second.
        let mut now = self.engine.decided()?;
        for _ in 0..100 {
            if as_wanted(now) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            now = self.engine.decided()?;
        }
        ensure!(
            as_wanted(now),
            "{way:?}, {flows} flows: {before:?} became {now:?}: {}",
            self.engine.shown()?
        );
        Ok(())
    }

    /// Bytes that user space grew by, and that the maps for flows have, with many released flows
    /// open.
    fn memory(&self) -> Result<[u64; 2]> {
        // A first few, so that what is made once is not counted as a flow's.
        let first = Open::new(self.site, once(CANDIDATE_PORT), 100)?;
        let (before, decided) = (self.engine.resident()?, self.engine.decided()?);
        let open = Open::new(self.site, CANDIDATE_PORT + 1..=LAST_PORT, self.settings.open_flows)
            .with_context(|| format!("{:?}", self.engine.shown()))?;
        // All of one client's, past its bound at times: what then comes again in pieces is taken over or
        // released unjudged, and as much in memory.
        let judged = || -> Result<u64> {
            let now = self.engine.decided()?;
            Ok((now.released + now.taken) - (decided.released + decided.taken))
        };
        let wanted = open.connections as u64 * 95 / 100;
        for _ in 0..200 {
            if judged()? >= wanted {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        ensure!(judged()? >= wanted, "{} of {} flows judged", judged()?, open.connections);
        let grown = self.engine.resident()?.saturating_sub(before);
        let measured = [grown, self.engine.flow_maps()?];
        drop((first, open));
        Ok(measured)
    }
}

fn all_bars(samples: &[Sample], by: By, memory: [u64; 2]) -> Result<Vec<Bar>> {
    use Limit::{AtLeast, AtMost};
    let table = [
        ("passed-cpu-per-gb", AtMost(1.10), What::Gigabyte, Way::Passed, Way::Bridge),
        ("passed-cpu-per-connection", AtMost(1.10), What::Connection, Way::Passed, Way::Bridge),
        ("released-cpu-per-gb", AtMost(1.10), What::Gigabyte, Way::Released, Way::Bridge),
        ("released-cpu-per-connection", AtMost(1.6), What::Connection, Way::Released, Way::Bridge),
        ("taken-cpu-per-gb", AtMost(2.0), What::Gigabyte, Way::Taken, Way::BridgeWithPause),
        (
            "taken-cpu-per-connection",
            AtMost(2.6),
            What::Connection,
            Way::Taken,
            Way::BridgeWithPause,
        ),
        ("takeover-cpu-per-pair", AtMost(4.0), What::Takeover, Way::Taken, Way::Pair),
        // The other way around: packets a CPU second.
        ("udp-packets-per-cpu", AtLeast(0.9), What::Packet, Way::Bridge, Way::Datagrams),
        // What 512 virtual segments with 4,096 networks cost a packet.
        ("udp-full-tables", AtLeast(0.9), What::Packet, Way::EmptyTables, Way::Datagrams),
    ];
    let mut bars = Vec::new();
    for (name, limit, what, above, below) in table {
        let of = |way, value: fn(&Sample) -> f64| {
            let of_way = samples.iter().filter(move |s| s.what == what && s.way == way);
            of_way.map(value).collect::<Vec<_>>()
        };
        let ratios = |value| -> Vec<f64> {
            of(above, value)
                .iter()
                .zip(of(below, value))
                .map(|(above, below)| above / below)
                .collect()
        };
        let attributed = ratios(|sample| sample.attributed);
        let whole =
            if what == What::Takeover { vec![] } else { ratios(|sample| sample.whole_machine) };
        bars.push(Bar::new(name, limit, by, attributed, whole).context("nothing measured")?);
    }
    let memory = (memory[0] + memory[1]) as f64 / MEMORY;
    let limit = AtMost(1.0);
    bars.push(
        Bar::new("memory-100000-released", limit, by, vec![memory], vec![])
            .context("nothing measured")?,
    );
    Ok(bars)
}

/// A hello as a real client sends it.
fn hello(name: &str) -> Result<Arc<[u8]>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let configuration = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned())?;
    let mut client = rustls::ClientConnection::new(Arc::new(configuration), name)?;
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes)?;
    }
    Ok(bytes.into())
}
