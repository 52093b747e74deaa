//! The engine that is measured: the data plane crate as the engine process uses it, without TLS.
//!
//! A held flow is peeked at and judged as in the engine, then released, or taken over and relayed
//! unread (what is left of a session when its TLS work is taken away), or, for measuring the
//! takeover alone, taken over and dropped. One runtime a processor, settled as in the engine.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use weir_dataplane::{
    Dataplane, Held, HeldFlow, HeldFlows, Options, Relayed, set_reset_on_close,
    settle_runtime_thread,
};
use weir_policy::precedence::IndexedSnapshot;
use weir_policy::snapshot::SegmentId;
use weir_policy::{Decision, FirstBytes, Snapshot, Support, judge};
use weir_tls::hello::{self, Peek};

use super::site::Site;
use crate::bench::threads::on_a_runtime;

/// Names of the threads whose CPU time is the engine's, as the kernel has them.
pub const THREADS: &[&str] = &["weir-sockets", "bench-engine"];

/// An open data plane, its runtimes and its heartbeat.
pub struct Engine {
    pub dataplane: Arc<Dataplane>,
    pub runtimes: usize,
    shared: Arc<Shared>,
    heart: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// A flow taken over is dropped at once.
    drop_taken: AtomicBool,
    released: AtomicU64,
    taken: AtomicU64,
}

impl Engine {
    pub fn start(site: &Site, id: SegmentId, snapshot: Snapshot) -> Result<Self> {
        let runtimes = std::thread::available_parallelism().map_or(1, usize::from);
        let mut options = Options::new(site.names.clone(), vec![id], site.pins(id));
        options.runtimes = runtimes;
        let (dataplane, shares) = Dataplane::open(options).context("opening the data plane")?;
        dataplane.apply(&snapshot).context("applying the snapshot")?;
        dataplane.heartbeat();
        let (dataplane, snapshot) =
            (Arc::new(dataplane), Arc::new(IndexedSnapshot::from(snapshot)));
        let shared = Arc::new(Shared::default());
        for (number, held) in shares.into_iter().enumerate() {
            let (snapshot, shared) = (Arc::clone(&snapshot), Arc::clone(&shared));
            std::thread::Builder::new().name("bench-engine".into()).spawn(move || {
                settle_runtime_thread(number);
                on_a_runtime(turn(held, snapshot, shared))
            })?;
        }
        let heart = std::thread::Builder::new().name("bench-heart".into()).spawn({
            let (dataplane, shared) = (Arc::clone(&dataplane), Arc::clone(&shared));
            move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    dataplane.heartbeat();
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        })?;
        Ok(Self { dataplane, runtimes, shared, heart: Some(heart) })
    }

    /// Whether taken flows are dropped at once instead of relayed.
    pub fn drop_taken(&self, on: bool) {
        self.shared.drop_taken.store(on, Ordering::Relaxed);
    }

    /// Flows released and taken so far.
    pub fn decided(&self) -> [u64; 2] {
        [self.shared.released.load(Ordering::Relaxed), self.shared.taken.load(Ordering::Relaxed)]
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(heart) = self.heart.take() {
            let _ = heart.join();
        }
    }
}

async fn turn(
    mut held: HeldFlows,
    snapshot: Arc<IndexedSnapshot>,
    shared: Arc<Shared>,
) -> Result<()> {
    let surroundings = Rc::new((snapshot, shared));
    while let Some(flow) = held.next().await {
        tokio::task::spawn_local(serve(flow, Rc::clone(&surroundings)));
    }
    Ok(())
}

async fn serve(mut flow: HeldFlow, surroundings: Rc<(Arc<IndexedSnapshot>, Arc<Shared>)>) {
    let (snapshot, shared) = &*surroundings;
    let hello = loop {
        match hello::peek(flow.payload()) {
            Peek::Hello(hello) => break hello,
            Peek::Incomplete => {
                // As the engine waits, which takes the flow over then (SPEC D12): a client that lost both
                // segments of its hello sends one, and the other once that is acknowledged.
                let more = tokio::time::timeout(Duration::from_millis(20), flow.more());
                if !matches!(more.await, Ok(Held::More)) {
                    return; // dropped: released
                }
            }
            _ => return,
        }
    };
    let first = FirstBytes::ClientHello {
        server_name: hello.server_name.as_deref(),
        support: if hello.supported() { Support::Full } else { Support::NoSuite },
        encrypted: hello.encrypted_client_hello,
    };
    match judge(&**snapshot, &flow.candidate(), &first) {
        Decision::Release(_) | Decision::Block { .. } => {
            if flow.release().is_ok() {
                shared.released.fetch_add(1, Ordering::Relaxed);
            }
        }
        Decision::TakeOver(_) => {
            let Ok(mut taken) = flow.take_over().await else { return };
            shared.taken.fetch_add(1, Ordering::Relaxed);
            if shared.drop_taken.load(Ordering::Relaxed) {
                return;
            }
            if taken.relay(&mut Relayed::default(), None).await.is_ok() {
                let _ = set_reset_on_close(&taken.client, false);
                let _ = set_reset_on_close(&taken.server, false);
            }
        }
    }
}
