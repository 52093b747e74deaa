//! The engine's end of the socket to the agent: snapshots, commands and what was fetched in, sessions,
//! events, counters and what is to be fetched out.
//!
//! A lost agent is looked for until it is back; the policy in force stays. What happens meanwhile
//! waits in the bounded outbox, past which it is lost and counted.

mod questions;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};
use weir_api::engine::{Counters, FromEngine, SegmentCounters, ToEngine};
use weir_api::frame::{self, FrameError};
use weir_api::sight::{Direction, PortTraffic};
use weir_dataplane::{Dataplane, FallbackCause, SegmentReport};
use weir_policy::Snapshot;
use weir_policy::snapshot::SegmentId;

use crate::authorities::Authorities;
use crate::budget::Budget;
use crate::compiled::CompiledPolicy;
use crate::counters::Totals;
use crate::heartbeat::Told;
use crate::legacy::Legacy;
use crate::tally::histogram;

const CAUSES: [FallbackCause; 3] =
    [FallbackCause::Told, FallbackCause::Overloaded, FallbackCause::Recovering];
/// Between two attempts to reach the agent.
const RETRY: Duration = Duration::from_millis(250);
/// Learnt bypasses told with the counters, and servers excepted by their certificates.
const LEARNT_TOLD: usize = 50;
/// How long an event that comes sooner than so behind another waits for more, to be told together.
const GATHER: Duration = Duration::from_millis(10);
/// So many waiting are told at once.
const MANY: usize = 64;
/// Bytes told at once; one event may come on top.
const PIECE: usize = 64 << 10;
const COUNTERS_EVERY: Duration = Duration::from_secs(1);

pub struct Link {
    pub socket: PathBuf,
    pub segments: Vec<SegmentId>,
    pub runtimes: usize,
    pub dataplane: Arc<Dataplane>,
    pub publish: watch::Sender<Arc<CompiledPolicy>>,
    /// Set with the first policy, and then for good.
    pub in_force: Arc<AtomicBool>,
    /// Changes to clear the proxied sessions.
    pub clear: watch::Sender<()>,
    pub health: watch::Receiver<Told>,
    pub totals: Arc<Totals>,
    pub legacy: Arc<Legacy>,
    pub authorities: Arc<Authorities>,
    pub outbox: mpsc::Receiver<FromEngine>,
    /// Frames of what was kept back ([`crate::recent`]), until an agent has taken them whole: of that list's
    /// bound.
    pub kept_back: Vec<u8>,
}

/// Serves the agent for as long as the engine lives.
pub fn run(mut link: Link) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the agent link's runtime")?;
    let started = Instant::now();
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut told = false;
        loop {
            tokio::select! {
                () = serve_one_agent(&mut link, started, &mut told) => {}
                _ = terminate.recv() => {
                    info!("engine ends");
                    return Ok(());
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    })
}

/// One connection to the agent, until it breaks.
async fn serve_one_agent(link: &mut Link, started: Instant, told: &mut bool) {
    let stream = match UnixStream::connect(&link.socket).await {
        Ok(stream) => stream,
        Err(error) => {
            if !std::mem::replace(told, true) {
                warn!(socket = %link.socket.display(), %error, "agent not reached; trying again");
            }
            return;
        }
    };
    *told = false;
    info!("connected to the agent");
    let (mut reader, mut writer) = stream.into_split();
    // Frames are read by a task of their own: a frame cut in two by select! would be lost.
    let (arrived, mut arrivals) = mpsc::channel::<ToEngine>(4);
    let reading = tokio::spawn(async move {
        loop {
            match frame::read::<ToEngine, _>(&mut reader).await {
                Ok(Some(message)) => {
                    if arrived.send(message).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    warn!(%error, "agent sent what the engine does not understand");
                    return;
                }
            }
        }
    });
    let hello = FromEngine::Started {
        version: env!("CARGO_PKG_VERSION").into(),
        segments: link.segments.clone(),
        runtimes: u32::try_from(link.runtimes).unwrap_or(u32::MAX),
        counter_meanings: weir_dataplane::counter_meanings()
            .map(|(name, meaning)| (name.to_owned(), meaning))
            .collect(),
    };
    let mut result = frame::write(&mut writer, &hello).await;
    let mut counters_due = tokio::time::interval(COUNTERS_EVERY);
    let mut told_at = Instant::now();
    link.health.mark_changed();
    link.authorities.fetching.connected(true);
    while result.is_ok() {
        let message = tokio::select! {
            // Sessions end by the hundred: each that is told by itself wakes two processes.
            Some(first) = link.outbox.recv() => {
                if told_at.elapsed() < GATHER && link.outbox.len() < MANY {
                    tokio::time::sleep(GATHER).await;
                }
                result = tell(&mut writer, first, link).await;
                told_at = Instant::now();
                continue;
            }
            arrival = arrivals.recv() => match arrival {
                Some(message) => apply(link, message),
                None => break,
            },
            Ok(()) = link.health.changed() => {
                let told = *link.health.borrow_and_update();
                if told.draining {
                    // The agent asks its successor from now on.
                    result = tell_kept_back(&mut writer, &link.totals, &mut link.kept_back).await;
                    if result.is_err() {
                        break;
                    }
                }
                Some(FromEngine::Health { fallback: told.fallback, draining: told.draining })
            }
            _ = counters_due.tick() => Some(FromEngine::Counters(Box::new(counters(link, started)))),
        };
        if let Some(message) = message {
            result = frame::write(&mut writer, &message).await;
        }
    }
    if let Err(error) = result {
        warn!(%error, "connection to the agent broke");
    }
    link.authorities.fetching.connected(false);
    reading.abort();
}

/// The first event and those that wait behind it, in one piece as far as that is [`PIECE`] long.
/// What is lost is counted.
async fn tell(
    writer: &mut OwnedWriteHalf,
    first: FromEngine,
    link: &mut Link,
) -> Result<(), FrameError> {
    let lost = |events| link.totals.events_lost.fetch_add(events, Ordering::Relaxed);
    let (mut piece, mut events) = (Vec::new(), 0_u64);
    let mut next = Some(first);
    while let Some(event) = next {
        match frame::append(&mut piece, &event) {
            Ok(()) => events = events.saturating_add(1),
            Err(error) => {
                warn!(%error, "an event that has no frame");
                lost(1);
            }
        }
        next = if piece.len() < PIECE { link.outbox.try_recv().ok() } else { None };
    }
    writer.write_all(&piece).await.inspect_err(|_| {
        lost(events);
    })?;
    Ok(())
}

/// What is told only when asked for, and now nobody will ask for. Where the connection breaks meanwhile the next
/// one is told all of it.
async fn tell_kept_back(
    writer: &mut OwnedWriteHalf,
    totals: &Totals,
    kept_back: &mut Vec<u8>,
) -> Result<(), FrameError> {
    for session in totals.recent.close() {
        if let Err(error) = frame::append(kept_back, &FromEngine::Session(session)) {
            warn!(%error, "a session that has no frame");
            totals.events_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
    writer.write_all(kept_back).await?;
    *kept_back = Vec::new();
    Ok(())
}

fn apply(link: &Link, message: ToEngine) -> Option<FromEngine> {
    match message {
        ToEngine::Snapshot(snapshot) => {
            let generation = snapshot.generation;
            Some(match take_policy(link, *snapshot) {
                Ok(()) => {
                    link.authorities.forget_failures();
                    info!(generation, "policy in force");
                    FromEngine::Applied { generation }
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    warn!(generation, error, "policy refused; the running one stays");
                    FromEngine::Refused { generation, error }
                }
            })
        }
        ToEngine::ForgetLearnt => {
            let policy = Arc::clone(&link.publish.borrow());
            policy.learnt.forget();
            policy.exceptions.forget();
            info!("learnt bypasses and exceptions forgotten by command");
            None
        }
        ToEngine::ForceFallback(on) => {
            match link.dataplane.fall_back(FallbackCause::Told, on) {
                Ok(()) => info!(on, "Layer-2 fallback by command"),
                Err(error) => warn!(on, %error, "Layer-2 fallback by command failed"),
            }
            None
        }
        ToEngine::ClearSessions => {
            warn!(sessions = link.totals.threshold.live(), "proxied sessions cleared by command");
            link.clear.send_replace(());
            None
        }
        ToEngine::Ask { number, question } => {
            let policy = Arc::clone(&link.publish.borrow());
            let answer = questions::answer(question, link, &policy);
            Some(FromEngine::Answer { number, answer })
        }
        ToEngine::Fetched { number, result } => {
            link.authorities.fetching.answered(number, result);
            None
        }
    }
}

/// Compiles first: a policy that cannot be honoured changes nothing. New flows see it before eBPF
/// begins to hold for it.
fn take_policy(link: &Link, snapshot: Snapshot) -> anyhow::Result<()> {
    let running = Arc::clone(&link.publish.borrow());
    let compiled = Arc::new(CompiledPolicy::compile(snapshot, &running)?);
    tell_shortages(&running, &compiled);
    link.publish.send_replace(Arc::clone(&compiled));
    if let Err(error) = link.dataplane.apply(&compiled.snapshot) {
        link.publish.send_replace(Arc::clone(&running));
        // Part of the tables may have been written: put those of the running policy back.
        if let Err(error) = link.dataplane.apply(&running.snapshot) {
            warn!(%error, "the running policy's tables could not be written back");
        }
        return Err(anyhow::Error::new(error).context("data plane"));
    }
    if !link.in_force.load(Ordering::Relaxed) {
        // An earlier engine judges until its programs are replaced; no flow is to pass in between,
        // however long that takes: the heartbeat goes on from here.
        link.in_force.store(true, Ordering::Relaxed);
        link.dataplane.heartbeat();
        if let Err(error) = link.dataplane.attach() {
            // Of no use; the supervisor starts another.
            error!(%error, "programs not attached");
            std::process::exit(1);
        }
    }
    Ok(())
}

/// With the first policy, and with one that lets more sessions live or fewer.
fn tell_shortages(running: &CompiledPolicy, new: &CompiledPolicy) {
    let sessions = |policy: &CompiledPolicy| policy.snapshot.device.max_concurrent_sessions;
    if running.snapshot.generation != 0 && sessions(running) == sessions(new) {
        return;
    }
    for shortage in Budget::read().shortages(sessions(new)) {
        warn!("max-concurrent-sessions is {}: the machine has {shortage}", sessions(new));
    }
}

fn counters(link: &Link, started: Instant) -> Counters {
    let policy = Arc::clone(&link.publish.borrow());
    let (forged, now) = (policy.certificates_forged(), Instant::now());
    let [excepted, not_excepted] = policy.exceptions.counts(now);
    let learnt = policy.learnt_so_far(LEARNT_TOLD, now);
    let mut outcomes = link.totals.tallies.by_segment();
    Counters {
        generation: policy.snapshot.generation,
        uptime: started.elapsed().as_secs(),
        sessions_decrypted_now: link.totals.threshold.live().into(),
        over_threshold: link.totals.threshold.is_over(),
        legacy_missing: link.legacy.is_missing(),
        outcomes: link.totals.tallies.outcomes(),
        segments: link
            .dataplane
            .counters()
            .into_iter()
            .map(|report| SegmentCounters {
                fallback: falls_back(link),
                outcomes: outcomes.remove(&report.segment).unwrap_or_default(),
                ..segment_counters(report)
            })
            .collect(),
        tls: link
            .totals
            .tls()
            .into_iter()
            .chain([
                ("certificates forged".to_owned(), forged),
                ("servers excepted by their certificate".to_owned(), excepted),
                ("servers that their certificate does not except".to_owned(), not_excepted),
            ])
            .chain(link.authorities.fetching.told())
            .chain(link.legacy.told())
            .collect(),
        tls_inspection: link.totals.statistics.inspection(link.totals.threshold.live().into()),
        tls_protocols: link.totals.statistics.protocols(),
        tcp_proxy: link.totals.statistics.tcp_proxy(link.totals.threshold.live().into()),
        virtual_segments: link.totals.tallies.by_virtual_segment(&link.dataplane.drop_report()),
        learnt: learnt.bypassed,
        excepted: learnt.excepted,
    }
}

fn falls_back(link: &Link) -> bool {
    CAUSES.iter().any(|cause| link.dataplane.falls_back(*cause))
}

fn segment_counters(report: SegmentReport) -> SegmentCounters {
    SegmentCounters {
        segment: report.segment,
        counters: report.counters.into_iter().map(|(n, v)| (n.to_owned(), v)).collect(),
        ports: report.ports.map(|port| port.map(port_traffic)),
        held_now: report.held_now,
        hold_time: histogram(&report.hold_time),
        take_over_time: histogram(&report.take_over_time),
        ..SegmentCounters::default()
    }
}

fn port_traffic(port: weir_dataplane::PortTraffic) -> PortTraffic {
    let direction = |of: weir_dataplane::Direction| Direction {
        packets: of.packets,
        bytes: of.bytes,
        dropped: of.dropped,
        errors: of.errors,
    };
    PortTraffic { received: direction(port.received), sent: direction(port.sent) }
}

#[cfg(test)]
mod tests;
