//! Sessions that come and go, a share of them aborted by either end at any stage: nothing of them
//! stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustls::{ClientConfig, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_local};

use super::end::{End, client_config, server_config};
use super::old::{self, Visit, Visited};
use super::{ANSWER, AT_ONCE, Engine, PATIENCE, PORT, REQUEST, prepare, run_in, target};
use crate::bench::Bench;
use crate::ends::Ends;
use crate::random::Random;
use crate::wire::lab::Lab;

#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Sessions, one after another, some at one time.
    #[arg(long, default_value_t = 50_000)]
    pub sessions: usize,
    /// Where the ends stop is the same for the same seed.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Also wait until the flow table has forgotten them: a minute and more.
    #[arg(long)]
    pub forgotten: bool,
}

/// One in so many is of an old client, and goes by the legacy stack.
const OLD: usize = 10;
/// Of ten thousand sessions, those that either end means to abort.
const ABORTED: u64 = 2_000;
/// What may stay in the engine: its allocator keeps pages of what its runtimes once had at one time (up to 11.7 MiB
/// were seen on a busy machine, and as often 2), and it keeps the newest sessions for who asks, however many
/// sessions there were: of 50,000 each may leave 300 bytes.
const KEPT_KIB: u64 = 14 << 10;
/// And in the legacy worker, which has one thread (170 KiB were seen).
const KEPT_BY_WORKER_KIB: u64 = 1 << 10;
/// Entries of ended flows rest for a minute after their last packet.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(240);

/// Where an end stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connected,
    PartOfHello,
    Hello,
    AmidHandshake,
    Handshaken,
    Requested,
    Answered,
}

const STAGES: [Stage; 7] = [
    Stage::Connected,
    Stage::PartOfHello,
    Stage::Hello,
    Stage::AmidHandshake,
    Stage::Handshaken,
    Stage::Requested,
    Stage::Answered,
];

/// What one end does with one session: to its end, or to a stage, then RST or FIN.
#[derive(Clone, Copy)]
struct Plan(Option<(Stage, bool)>);

impl Plan {
    fn new(random: &mut Random) -> Self {
        if !random.in_ten_thousand(ABORTED) {
            return Self(None);
        }
        let stage = usize::try_from(random.between(0, STAGES.len() as u64)).unwrap_or_default();
        Self(STAGES.get(stage).map(|stage| (*stage, random.in_ten_thousand(5_000))))
    }

    fn stops(self, at: Stage) -> bool {
        self.0.is_some_and(|(stage, _)| stage == at)
    }

    fn resets(self) -> bool {
        self.0.is_some_and(|(_, reset)| reset)
    }
}

#[derive(Debug)]
pub struct Report {
    pub before: Engine,
    pub after: Engine,
    pub completed: usize,
    pub aborted_by_client: usize,
    pub aborted_by_server: usize,
    /// Of old clients; counted above as well.
    pub old: Visited,
    pub took: Duration,
}

/// What became of the sessions of a run.
#[derive(Debug, Default)]
struct Count {
    completed: AtomicUsize,
    aborted_by_client: AtomicUsize,
    /// Told by the servers.
    aborted_by_server: AtomicUsize,
    /// By no plan of the client's.
    broken: AtomicUsize,
}

pub fn run(bench: &mut Bench<Lab>, settings: &Settings) -> Result<Report> {
    prepare(bench)?;
    let (public, shop) = (&bench.ends.certificates.public, &bench.ends.certificates.shop);
    let server = server_config(public, shop)?;
    let client = client_config(&bench.ends)?;
    let count = Arc::<Count>::default();
    let namespace = bench.ends.server.handle();
    let (listening, listens) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let servers = scope.spawn({
            let (count, seed) = (count.clone(), settings.seed);
            move || {
                run_in(&namespace, async move || {
                    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
                    listening.send(())?;
                    tokio::select! {
                        served = serve(listener, &server, seed, &count) => served,
                        _ = stopped => Ok(()),
                    }
                })
            }
        });
        let measured = (|| {
            listens.recv_timeout(PATIENCE).context("the server does not listen")?;
            let visit = |bench: &Bench<Lab>, sessions: usize, seed| -> Result<Visited> {
                let (client, count) = (client.clone(), count.clone());
                let namespace = bench.ends.client.handle();
                std::thread::scope(|scope| {
                    let old = scope.spawn(|| visit_of_old(&bench.ends, sessions / OLD, seed));
                    run_in(&namespace, async move || {
                        visit(client, sessions - sessions / OLD, seed, count).await
                    })?;
                    old.join().map_err(|_| anyhow::anyhow!("the old clients' thread panicked"))?
                })
            };
            // What is made once, for all of them.
            let first = (settings.sessions / 10).clamp(500, 5_000);
            let first = visit(bench, first, settings.seed ^ u64::MAX)?;
            let before = Engine::settled(bench, None)?;
            let started = Instant::now();
            let old = visit(bench, settings.sessions, settings.seed)?;
            count.completed.fetch_add(first.completed + old.completed, Relaxed);
            count.aborted_by_client.fetch_add(first.aborted + old.aborted, Relaxed);
            count.broken.fetch_add(first.broken + old.broken, Relaxed);
            Ok::<_, anyhow::Error>((before, old, started.elapsed()))
        })();
        let _ = stop.send(());
        servers.join().map_err(|_| anyhow::anyhow!("the servers' thread panicked"))??;
        let (before, old, took) = measured?;
        if settings.forgotten {
            forgotten(bench)?;
        }
        let after = Engine::settled(bench, Some(before))?;
        let of = |count: &AtomicUsize| count.load(Relaxed);
        let report = Report {
            before,
            after,
            completed: of(&count.completed),
            aborted_by_client: of(&count.aborted_by_client),
            aborted_by_server: of(&count.aborted_by_server),
            old,
            took,
        };
        let broken = of(&count.broken);
        ensure!(broken <= report.aborted_by_server, "{broken} broke by themselves: {report:?}");
        let kept = after.resident_kib.saturating_sub(before.resident_kib);
        ensure!(kept <= KEPT_KIB, "{kept} KiB stayed: {report:?}");
        ensure!(after.worker.process == before.worker.process, "the worker ended: {report:?}");
        let kept = after.worker.resident_kib.saturating_sub(before.worker.resident_kib);
        ensure!(kept <= KEPT_BY_WORKER_KIB, "{kept} KiB stayed in the worker: {report:?}");
        Ok(report)
    })
}

fn visit_of_old(ends: &Ends, sessions: usize, seed: u64) -> Result<Visited> {
    let mut random = Random::of(seed, 3);
    let visits = (0..sessions).map(|number| Visit {
        target: target(number),
        stops: Plan::new(&mut random).0.map(|(stage, resets)| (format!("{stage:?}"), resets)),
    });
    old::visit(ends, &visits.collect::<Vec<_>>(), "old-clients")
}

/// Until the flow table is empty.
fn forgotten(bench: &Bench<Lab>) -> Result<()> {
    let deadline = Instant::now() + FORGOTTEN_WITHIN;
    loop {
        let flows = bench.run.flows()?;
        if flows == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{flows} flows are still in the table");
        std::thread::sleep(Duration::from_secs(1));
    }
}

async fn serve(
    listener: TcpListener,
    config: &Arc<ServerConfig>,
    seed: u64,
    count: &Arc<Count>,
) -> Result<()> {
    let mut random = Random::of(seed, 2);
    loop {
        let (stream, _) = listener.accept().await?;
        let (end, plan) = (End::server(stream, config)?, Plan::new(&mut random));
        let count = count.clone();
        spawn_local(async move {
            let served = tokio::time::timeout(PATIENCE, answer(end, plan)).await;
            // What clients do to it is not its own doing.
            if matches!(served, Ok(Ok(true))) {
                count.aborted_by_server.fetch_add(1, Relaxed);
            }
        });
    }
}

/// Whether it stopped by its plan.
async fn answer(mut end: End, plan: Plan) -> Result<bool> {
    let stop = |end: End| end.abort(plan.resets()).map(|()| true);
    if plan.stops(Stage::Connected) {
        return stop(end);
    }
    if plan.stops(Stage::PartOfHello) || plan.stops(Stage::Hello) {
        end.read().await?;
        return stop(end);
    }
    if plan.stops(Stage::AmidHandshake) {
        end.read().await?;
        end.flush().await?;
        return stop(end);
    }
    end.shake_hands().await?;
    if plan.stops(Stage::Handshaken) {
        return stop(end);
    }
    while end.hear(REQUEST).await? {
        if plan.stops(Stage::Requested) {
            return stop(end);
        }
        end.say(ANSWER).await?;
        if plan.stops(Stage::Answered) {
            return stop(end);
        }
    }
    end.close().await?;
    Ok(false)
}

async fn visit(
    config: Arc<ClientConfig>,
    sessions: usize,
    seed: u64,
    count: Arc<Count>,
) -> Result<()> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut random = Random::of(seed, 1);
    let mut tasks = JoinSet::new();
    for number in 0..sessions {
        let permit = room.clone().acquire_owned().await?;
        let (config, plan) = (config.clone(), Plan::new(&mut random));
        let count = count.clone();
        tasks.spawn_local(async move {
            let _permit = permit;
            let counted = match tokio::time::timeout(PATIENCE, ask(&config, number, plan)).await {
                Ok(Ok(true)) => &count.aborted_by_client,
                Ok(Ok(false)) => &count.completed,
                _ => &count.broken,
            };
            counted.fetch_add(1, Relaxed);
        });
        while tasks.try_join_next().transpose()?.is_some() {}
    }
    while let Some(done) = tasks.join_next().await {
        done?;
    }
    Ok(())
}

/// Whether it stopped by its plan.
async fn ask(config: &Arc<ClientConfig>, number: usize, plan: Plan) -> Result<bool> {
    let stop = |end: End| end.abort(plan.resets()).map(|()| true);
    let (address, name) = target(number);
    let mut end = End::client(TcpStream::connect(address).await?, config, name)?;
    if plan.stops(Stage::Connected) {
        return stop(end);
    }
    if plan.stops(Stage::PartOfHello) {
        end.send_part_of_hello().await?;
        return stop(end);
    }
    if plan.stops(Stage::Hello) {
        end.flush().await?;
        return stop(end);
    }
    if plan.stops(Stage::AmidHandshake) {
        end.flush().await?;
        end.read().await?;
        return stop(end);
    }
    end.shake_hands().await?;
    if plan.stops(Stage::Handshaken) {
        return stop(end);
    }
    end.say(REQUEST).await?;
    if plan.stops(Stage::Requested) {
        return stop(end);
    }
    ensure!(end.hear(ANSWER).await?, "no answer");
    if plan.stops(Stage::Answered) {
        return stop(end);
    }
    end.close().await?;
    ensure!(!end.hear(ANSWER).await?, "an answer to nothing");
    Ok(false)
}
