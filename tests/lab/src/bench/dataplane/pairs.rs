//! An ordinary proxy's accept and connect, for comparison with a takeover: a listener, a second
//! connection for each that comes, and the end of both; no byte is moved.

use std::net::SocketAddr;
use std::sync::mpsc::channel;

use anyhow::{Context, Result};

use super::site::Site;
use crate::bench::threads::{PATIENCE, join, on_a_runtime};

/// The name of the proxy's thread.
pub const THREAD: &str = "bench-proxy";

/// Runs the proxy for `count` connections while `load` makes them.
pub fn serve(
    site: &Site,
    [at, to]: [SocketAddr; 2],
    count: usize,
    load: impl FnOnce() -> Result<()>,
    measured: impl FnOnce() -> Result<f64>,
) -> Result<f64> {
    let (ready, wait) = channel();
    let (done, ended) = channel::<()>();
    let (finished, all) = channel();
    let proxy = site.at_middle(THREAD, move || {
        on_a_runtime(async move {
            let listener = tokio::net::TcpListener::bind(at).await?;
            ready.send(())?;
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..count {
                let (client, _) = tokio::time::timeout(PATIENCE, listener.accept())
                    .await
                    .context("no connection came")??;
                tasks.spawn_local(async move {
                    let server = tokio::net::TcpStream::connect(to).await?;
                    drop((client, server));
                    anyhow::Ok(())
                });
            }
            while let Some(pair) = tasks.join_next().await {
                pair??;
            }
            Ok(())
        })?;
        finished.send(())?;
        // The thread's CPU time is read before it ends.
        let _ = ended.recv();
        Ok(())
    })?;
    wait.recv().context("the proxy did not start")?;
    load()?;
    let _ = all.recv();
    let measured = measured();
    drop(done);
    join(proxy)?;
    measured
}
