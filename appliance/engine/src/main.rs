//! The engine: joins data plane, TLS and inspection, under the policy the agent sends.
//!
//! For: one process that takes held flows from the data plane, judges them, and proxies those that
//! policy decrypts; one runtime a core. Not for: configuration (the agent's) or bringing segments
//! up (init's). Fails by ending: eBPF then finds no live listener and new flows stay on the bridge;
//! the supervisor starts it again.

mod agent_link;
mod authorities;
mod budget;
mod closing;
mod compiled;
mod counters;
mod exceptions;
mod flow;
mod health;
mod heartbeat;
mod learnt;
mod leg;
mod legacy;
mod live;
mod quic;
mod recent;
mod record;
mod relay;
mod runtime;
mod session;
mod stacks;
mod statistics;
mod tally;
mod threshold;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use weir_dataplane::segment::Names;
use weir_dataplane::{Attach, Dataplane, Options, TableSizes};
use weir_policy::snapshot::FLOW_TABLE;

use crate::authorities::{Authorities, Fetching};
use crate::compiled::CompiledPolicy;
use crate::counters::Totals;
use crate::heartbeat::{Heart, Told};
use crate::legacy::Legacy;

/// musl's own allocator has one lock for all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Messages to the agent that may wait for it; past it they are dropped and counted.
const EVENT_QUEUE: usize = 8192;

/// The Weir engine.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Socket the agent listens on.
    #[arg(long, default_value = weir_api::paths::ENGINE_SOCKET)]
    agent_socket: PathBuf,
    /// Prefix of the network namespaces' names (the lab's).
    #[arg(long, default_value = "")]
    netns_prefix: String,
    /// Directory in a BPF file system where programs and maps are pinned.
    #[arg(long, default_value = "/sys/fs/bpf/weir")]
    pin_directory: PathBuf,
    /// Runtimes; 0: one for each processor.
    #[arg(long, default_value_t = 0)]
    runtimes: usize,
    /// Program of the legacy TLS stack's worker [default: `weir-legacy` beside this program].
    #[arg(long)]
    legacy_worker: Option<PathBuf>,
    /// Entries of the flow table, where none is pinned yet (`device.flow-table`).
    #[arg(long, default_value_t = TableSizes::default().flows, value_parser = flow_table())]
    flow_table: u32,
    /// How eBPF programs are attached to ports.
    #[arg(long, value_enum, default_value_t = AttachBy::Auto)]
    attach: AttachBy,
}

fn flow_table() -> clap::builder::RangedI64ValueParser<u32> {
    let (least, most) = (*FLOW_TABLE.start(), *FLOW_TABLE.end());
    clap::value_parser!(u32).range(i64::from(least)..=i64::from(most))
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum AttachBy {
    /// tcx where the kernel has it, else clsact.
    Auto,
    Tcx,
    Clsact,
}

fn main() -> anyhow::Result<()> {
    start_logging();
    let arguments = Arguments::parse();
    set_limits();

    let names = Names { prefix: arguments.netns_prefix.clone(), ..Names::default() };
    let segments = names.segments_present().context("cannot list the engine namespaces")?;
    if segments.is_empty() {
        // An appliance with fewer than three NICs: nothing to do is no reason to fail.
        warn!(
            "no segments: no namespace {}engine-N in {}; attach a pair of NICs and reboot",
            names.prefix,
            names.netns_directory.display()
        );
        heartbeat::idle();
    }
    let runtimes = match arguments.runtimes {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        given => given,
    };
    let options = Options {
        runtimes,
        attach: match arguments.attach {
            AttachBy::Auto => Attach::Auto,
            AttachBy::Tcx => Attach::Tcx,
            AttachBy::Clsact => Attach::Clsact,
        },
        tables: TableSizes { flows: arguments.flow_table, ..TableSizes::default() },
        ..Options::new(names, segments.clone(), arguments.pin_directory.clone())
    };
    let (dataplane, held) = Dataplane::prepare(options).context("cannot open the data plane")?;
    let dataplane = Arc::new(dataplane);

    let totals = Arc::new(Totals::default());
    let worker = match arguments.legacy_worker {
        Some(program) => program,
        None => std::env::current_exe().context("own path")?.with_file_name("weir-legacy"),
    };
    let legacy = Legacy::start(worker)?;
    let (events, outbox) = mpsc::channel(EVENT_QUEUE);
    let authorities = Arc::new(Authorities::new(Fetching::new(events.clone())));
    let (publish, policy) = watch::channel(Arc::new(CompiledPolicy::default()));
    let (clear, cleared) = watch::channel(());
    dataplane.judge_quic_by(Box::new(quic::ByPolicy(policy.clone())));
    let shared = runtime::Shared {
        policy: policy.clone(),
        cleared,
        totals: Arc::clone(&totals),
        legacy: Arc::clone(&legacy),
        authorities: Arc::clone(&authorities),
        events,
    };
    let pulses = runtime::start(held, &shared)?;
    let in_force = Arc::new(AtomicBool::new(false));
    let (told, health) = watch::channel(Told::default());
    heartbeat::start(Heart {
        dataplane: Arc::clone(&dataplane),
        pulses,
        policy,
        in_force: Arc::clone(&in_force),
        told,
    })?;
    let flow_table = dataplane.flow_table();
    info!(segments = segments.len(), runtimes, flow_table, "engine started");

    agent_link::run(agent_link::Link {
        socket: arguments.agent_socket,
        segments,
        runtimes,
        dataplane,
        publish,
        in_force,
        clear,
        health,
        totals,
        legacy,
        authorities,
        outbox,
        kept_back: Vec::new(),
    })
}

/// Journald in the appliance; standard error in a terminal and in the lab.
fn start_logging() {
    use tracing_subscriber::prelude::*;
    let filter = tracing_subscriber::EnvFilter::try_from_env("WEIR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let interactive = std::io::IsTerminal::is_terminal(&std::io::stderr());
    match tracing_journald::layer() {
        Ok(journald) if !interactive => registry.with(journald).init(),
        _ => registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr)).init(),
    }
}

/// Two sockets a session: the default limit of descriptors is far too low. No core file: it would
/// hold keys.
fn set_limits() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let files = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = files {
        warn!(%error, "limit of open files stays as it was");
    }
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        warn!(%error, "core files are not off");
    }
}

/// How often runtimes show that they turn, and eBPF is told so.
const HEARTBEAT: Duration = Duration::from_millis(50);
