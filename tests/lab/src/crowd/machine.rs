//! Sessions that idle in the appliance as it is booted from its image: as many as it is made for, where a
//! machine gives no process enough descriptors for the engine's share of them (two a session).
//!
//! For: that all stay, go on when they are used, and end. Not for: their memory, which [`super::idle`]
//! measures. Under emulation the handshakes take minutes. Fails where one session does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;

use super::end::{client_config, server_config};
use super::idle::{close_all, open_all, serve, use_all};
use super::{PORT, SETTLES_WITHIN, descriptors, live, policy, run_in};
use crate::bench::Bench;
use crate::certificates::Identity;
use crate::process::Process;
use crate::wire::Wire as _;
use crate::wire::machine::{Firmware, Image, Machine};
use crate::wire::seed;

/// The hidden command of the servers' process: both ends of so many sessions are more descriptors than a
/// process gets.
#[derive(Clone, Debug, clap::Args)]
pub struct Servers {
    #[arg(long)]
    public: PathBuf,
    #[arg(long)]
    public_key: PathBuf,
    #[arg(long)]
    shop: PathBuf,
    #[arg(long)]
    shop_key: PathBuf,
}

impl Servers {
    /// Serves until it is ended.
    pub fn run(&self) -> Result<()> {
        descriptors()?;
        let identity = |certificate: &PathBuf, key: &PathBuf| Identity {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        let config = server_config(
            &identity(&self.public, &self.public_key),
            &identity(&self.shop, &self.shop_key),
        )?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(tokio::task::LocalSet::new().run_until(async {
            let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
            serve(listener, &config).await
        }))
    }
}

/// How it went, for the reader. `weir_lab` is that program: it runs the servers.
pub fn run(weir_lab: &Path, sessions: usize, idle: Duration) -> Result<String> {
    descriptors()?;
    let mut bench = Bench::start(|ends| {
        let user_data = seed::user_data(&policy(ends)?)?;
        let mut machine = Machine::boot(ends, Firmware::SeaBios, Image::Own, &user_data)?;
        machine.log_in()?;
        Ok(machine)
    })?;
    let mut servers = start_servers(&bench, weir_lab)?;
    let config = client_config(&bench.ends)?;
    let namespace = bench.ends.client.handle();
    let (tell, opened) = std::sync::mpsc::channel();
    let (go, mut gone) = tokio::sync::mpsc::unbounded_channel::<()>();
    std::thread::scope(|scope| {
        let clients = scope.spawn(move || {
            run_in(&namespace, async move || {
                let started = Instant::now();
                let open = open_all(&config, sessions).await?;
                tell.send(started.elapsed())?;
                gone.recv().await;
                close_all(use_all(open).await?).await
            })
        });
        let seen = (|| -> Result<(Duration, u64, String)> {
            let took = opened.recv().context("not all could be opened")?;
            std::thread::sleep(idle);
            let alive = live(&mut bench.wire)?;
            Ok((took, alive, bench.wire.console("show health")?))
        })();
        drop(go);
        clients.join().map_err(|_| anyhow::anyhow!("the clients' thread panicked"))??;
        servers.check()?;
        let (took, alive, health) = seen?;
        ensure!(alive == sessions as u64, "{alive} of {sessions} sessions stayed\n{health}");
        let deadline = Instant::now() + SETTLES_WITHIN;
        while live(&mut bench.wire)? != 0 {
            ensure!(Instant::now() < deadline, "{} sessions are left", live(&mut bench.wire)?);
            std::thread::sleep(Duration::from_millis(1500));
        }
        bench.run.succeeded();
        Ok(format!(
            "{sessions} sessions opened in {} s, all alive after {} s, used again, and ended\n\
             while they idled:\n{health}",
            took.as_secs(),
            idle.as_secs()
        ))
    })
}

fn start_servers(bench: &Bench<Machine>, weir_lab: &Path) -> Result<Process> {
    let certificates = &bench.ends.certificates;
    let mut command = bench.ends.server.command(&weir_lab.to_string_lossy());
    command.args(["crowd", "servers"]);
    for (option, path) in [
        ("--public", &certificates.public.certificate),
        ("--public-key", &certificates.public.key),
        ("--shop", &certificates.shop.certificate),
        ("--shop-key", &certificates.shop.key),
    ] {
        command.arg(option).arg(path);
    }
    Process::start("servers", &mut command, &bench.run.path("servers.log"))
}
