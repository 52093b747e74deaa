//! Sessions that idle: all stay, in bounded memory, and go on when they are used; those after them
//! are served from what they gave back.

use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_local};

use super::end::{End, client_config, server_config};
use super::{ANSWER, AT_ONCE, Engine, PATIENCE, PORT, REQUEST, prepare, run_in, target};
use crate::bench::Bench;
use crate::wire::lab::Lab;

#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Sessions that idle at one time.
    #[arg(long, default_value_t = 10_000)]
    pub sessions: usize,
    /// Seconds that they idle.
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
}

impl Settings {
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What an idle session of the modern stack may have of the engine's memory.
pub const BAR_KIB: u64 = 32;
/// As many sessions again after the first were closed. An allocator keeps what it was given back for
/// a while: that it is used again says that it was given back.
const ROUNDS: usize = 2;
/// What the engine may have more in a later round than in the first: whatever else it does meanwhile.
const GROWN_KIB: u64 = 4 << 10;

#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub before: Engine,
    pub idle: Engine,
    /// In the last round.
    pub again: Engine,
    pub after: Engine,
}

impl Report {
    /// For each session.
    pub fn kib(&self) -> f64 {
        let grown = self.idle.resident_kib.saturating_sub(self.before.resident_kib);
        grown as f64 / self.idle.live.max(1) as f64
    }
}

/// Between the thread of the clients and the measuring one.
enum Step {
    Measure,
    Opened,
    Go,
}

pub fn run(bench: &mut Bench<Lab>, settings: &Settings) -> Result<Report> {
    prepare(bench)?;
    let (public, shop) = (&bench.ends.certificates.public, &bench.ends.certificates.shop);
    let server = server_config(public, shop)?;
    let client = client_config(&bench.ends)?;
    let count = settings.sessions;
    let (namespace_of_clients, namespace_of_servers) =
        (bench.ends.client.handle(), bench.ends.server.handle());
    let (tell, told) = mpsc::channel();
    let (order, mut orders) = tokio::sync::mpsc::unbounded_channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (listening, listens) = mpsc::channel();
    std::thread::scope(|scope| {
        let servers = scope.spawn(move || {
            run_in(&namespace_of_servers, async move || {
                let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
                listening.send(())?;
                tokio::select! {
                    served = serve(listener, &server) => served,
                    _ = stopped => Ok(()),
                }
            })
        });
        listens.recv_timeout(PATIENCE).context("the server does not listen")?;
        let clients = scope.spawn(move || {
            run_in(&namespace_of_clients, async move || {
                // What is made once, for all.
                close_all(open_all(&client, AT_ONCE * 4).await?).await?;
                tell.send(Step::Measure)?;
                orders.recv().await;
                for _ in 0..ROUNDS {
                    let open = open_all(&client, count).await?;
                    tell.send(Step::Opened)?;
                    orders.recv().await;
                    close_all(use_all(open).await?).await?;
                }
                Ok(())
            })
        });
        let measured = (|| {
            let step = || told.recv_timeout(Duration::from_secs(900)).context("the clients failed");
            ensure!(matches!(step()?, Step::Measure));
            let before = Engine::settled(bench, None)?;
            order.send(Step::Go)?;
            let mut idle = Vec::new();
            for _ in 0..ROUNDS {
                ensure!(matches!(step()?, Step::Opened));
                std::thread::sleep(settings.idle());
                idle.push(Engine::now(bench)?);
                order.send(Step::Go)?;
            }
            Ok((before, idle))
        })();
        drop(order);
        let ended = clients.join().map_err(|_| anyhow::anyhow!("the clients' thread panicked"))?;
        let _ = stop.send(());
        servers.join().map_err(|_| anyhow::anyhow!("the servers' thread panicked"))??;
        ended?;
        let (before, idle) = measured?;
        let after = Engine::settled(bench, Some(before))?;
        let (Some(&first), Some(&again)) = (idle.first(), idle.last()) else {
            anyhow::bail!("nothing was measured");
        };
        let report = Report { before, idle: first, again, after };
        for round in &idle {
            ensure!(round.live == count as u64, "not {count} sessions stayed: {report:?}");
        }
        ensure!(report.kib() <= BAR_KIB as f64, "{:.1} KiB a session: {report:?}", report.kib());
        let grown = again.resident_kib.saturating_sub(first.resident_kib);
        let bound = first.resident_kib.saturating_sub(before.resident_kib) / 4 + GROWN_KIB;
        ensure!(grown <= bound, "{grown} KiB more for as many sessions again: {report:?}");
        Ok(report)
    })
}

pub(super) async fn serve(
    listener: TcpListener,
    config: &std::sync::Arc<rustls::ServerConfig>,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let mut end = End::server(stream, config)?;
        spawn_local(async move {
            end.shake_hands().await?;
            while end.hear(REQUEST).await? {
                end.say(ANSWER).await?;
            }
            end.close().await
        });
    }
}

pub(super) async fn open_all(
    config: &std::sync::Arc<rustls::ClientConfig>,
    count: usize,
) -> Result<Vec<End>> {
    let config = config.clone();
    at_once((0..count).collect(), move |number| {
        let config = config.clone();
        async move {
            let (address, name) = target(number);
            let mut end = End::client(TcpStream::connect(address).await?, &config, name)?;
            end.shake_hands().await?;
            exchange(end).await
        }
    })
    .await
}

pub(super) async fn use_all(open: Vec<End>) -> Result<Vec<End>> {
    at_once(open, exchange).await
}

pub(super) async fn close_all(open: Vec<End>) -> Result<()> {
    let closed = at_once(open, async |mut end: End| {
        end.close().await?;
        ensure!(!end.hear(ANSWER).await?, "an answer to nothing");
        Ok(())
    });
    closed.await.map(drop)
}

async fn exchange(mut end: End) -> Result<End> {
    end.say(REQUEST).await?;
    ensure!(end.hear(ANSWER).await?, "no answer");
    Ok(end)
}

/// The same of each, some at one time; the first failure is that of all.
async fn at_once<A: 'static, B: 'static, F: Future<Output = Result<B>> + 'static>(
    all: Vec<A>,
    act: impl Fn(A) -> F + 'static,
) -> Result<Vec<B>> {
    let (room, act) = (Rc::new(Semaphore::new(AT_ONCE)), Rc::new(act));
    let mut tasks = JoinSet::new();
    for one in all {
        let (room, act) = (room.clone(), act.clone());
        tasks.spawn_local(async move {
            let _permit = room.acquire().await?;
            tokio::time::timeout(PATIENCE, act(one)).await.context("too slow")?
        });
    }
    let mut done = Vec::new();
    while let Some(one) = tasks.join_next().await {
        done.push(one??);
    }
    Ok(done)
}
