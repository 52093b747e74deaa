//! A data plane in this process whose tables are all but empty, beside Weir's own: what the tables cost a
//! packet. Nobody judges here; only datagrams cross it, which nobody holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use weir_dataplane::{Dataplane, HeldFlows, Options};

use super::policy;
use super::site::{LEAN, Site};

/// Attached while it lives.
pub struct Lean {
    stop: Arc<AtomicBool>,
    heart: Option<JoinHandle<()>>,
    _shares: Vec<HeldFlows>,
}

impl Lean {
    pub fn start(site: &Site) -> Result<Self> {
        let options = Options::new(site.names.clone(), vec![LEAN], site.pins());
        let (dataplane, shares) = Dataplane::open(options).context("opening a data plane")?;
        dataplane.apply(&policy::without_tables()).context("applying the snapshot")?;
        dataplane.heartbeat();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let heart = std::thread::Builder::new().name("bench-heart".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                dataplane.heartbeat();
                std::thread::sleep(Duration::from_millis(50));
            }
        })?;
        Ok(Self { stop, heart: Some(heart), _shares: shares })
    }
}

impl Drop for Lean {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(heart) = self.heart.take() {
            let _ = heart.join();
        }
    }
}
