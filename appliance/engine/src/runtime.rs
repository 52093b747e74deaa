//! One runtime a core: a thread, a single-threaded scheduler, its own share of the rings that held packets
//! come by and of the flows.
//!
//! What runtimes share on a flow's path: counters and the policy's pointer, and for a session that is
//! decrypted what earlier ones came to (servers known, forged certificates, paths, sessions kept), in
//! caches whose parts have a lock each, held for one look-up (`weir_tls::ShardedCache`); where authorities
//! are asked, what they said, behind one lock (`crate::authorities`), held no longer either. A task that
//! panics ends its own flow (the held flow is released, the taken one reset) and no other; its record says
//! so.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use weir_api::engine::FromEngine;
use weir_dataplane::{HeldFlow, HeldFlows, settle_runtime_thread};

use crate::HEARTBEAT;
use crate::authorities::Authorities;
use crate::compiled::CompiledPolicy;
use crate::counters::{Totals, increment};
use crate::flow::{self, Ledger};
use crate::heartbeat::Pulse;
use crate::legacy::Legacy;
use crate::live::Live;
use crate::recent::Recent;
use crate::relay::Scratch;
use crate::tally::Tally;

/// Flows begun in a row before those that live have a turn.
const TURN: u32 = 16;

/// What a flow's task needs of its runtime.
pub struct Surroundings {
    pub policy: watch::Receiver<Arc<CompiledPolicy>>,
    pub totals: Arc<Totals>,
    pub legacy: Arc<Legacy>,
    pub authorities: Arc<Authorities>,
    /// This runtime's own, all three.
    pub tally: Arc<Tally>,
    pub recent: Arc<Recent>,
    pub live: Arc<Live>,
    pub scratch: RefCell<Scratch>,
    /// Changes when an operator clears the proxied sessions (SPEC D10).
    pub cleared: watch::Receiver<()>,
    events: mpsc::Sender<FromEngine>,
}

impl Surroundings {
    /// Never waits: a slow agent costs log lines, not traffic.
    pub fn tell(&self, message: FromEngine) {
        tell(&self.events, &self.totals, message);
    }

    /// Where a session's record is told.
    pub fn ledger(&self) -> Ledger<'_> {
        Ledger {
            totals: &self.totals,
            tally: &self.tally,
            recent: &self.recent,
            events: &self.events,
        }
    }
}

/// Never waits: what the agent does not take in time is lost, and counted.
pub fn tell(events: &mpsc::Sender<FromEngine>, totals: &Totals, message: FromEngine) {
    if events.try_send(message).is_err() {
        increment(&totals.events_lost);
    }
}

/// What all runtimes have.
#[derive(Clone)]
pub struct Shared {
    pub policy: watch::Receiver<Arc<CompiledPolicy>>,
    pub cleared: watch::Receiver<()>,
    pub totals: Arc<Totals>,
    pub legacy: Arc<Legacy>,
    pub authorities: Arc<Authorities>,
    pub events: mpsc::Sender<FromEngine>,
}

/// Starts one thread for each share; returns their pulses (see [`crate::heartbeat`]).
pub fn start(shares: Vec<HeldFlows>, shared: &Shared) -> anyhow::Result<Vec<Arc<Pulse>>> {
    let mut pulses = Vec::with_capacity(shares.len());
    for (number, held) in shares.into_iter().enumerate() {
        let pulse = Arc::new(Pulse::default());
        pulses.push(Arc::clone(&pulse));
        let Shared { policy, cleared, totals, legacy, authorities, events } = shared.clone();
        let (tally, recent) = (totals.tallies.add(), totals.recent.add());
        let live = totals.live.add();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        std::thread::Builder::new().name(format!("runtime-{number}")).spawn(move || {
            settle_runtime_thread(number);
            let scratch = RefCell::default();
            let surroundings = Rc::new(Surroundings {
                policy,
                totals,
                legacy,
                authorities,
                tally,
                recent,
                live,
                scratch,
                cleared,
                events,
            });
            LocalSet::new().block_on(&runtime, turn(held, surroundings, pulse));
            // The data plane ended its share: without it the engine is of no use.
            std::process::exit(1);
        })?;
    }
    Ok(pulses)
}

/// The runtime's loop: its pulse, and a task for each held flow.
async fn turn(mut held: HeldFlows, surroundings: Rc<Surroundings>, pulse: Arc<Pulse>) {
    tokio::task::spawn_local(async move {
        loop {
            let asleep = Instant::now();
            tokio::time::sleep(HEARTBEAT).await;
            pulse.show(asleep.elapsed().saturating_sub(HEARTBEAT));
        }
    });
    let mut in_a_row = 0;
    while let Some(flow) = held.next().await {
        begin(flow, &surroundings);
        in_a_row += 1;
        if in_a_row == TURN {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Most flows are decided by the packet that they were held for, and need no task of their own.
fn begin(flow: HeldFlow, surroundings: &Rc<Surroundings>) {
    let mut served = Box::pin(flow::serve(flow, Rc::clone(surroundings)));
    // Nobody is woken by this: its task looks again at once.
    let mut context = Context::from_waker(Waker::noop());
    let decided = catch_unwind(AssertUnwindSafe(|| served.as_mut().poll(&mut context)));
    let surroundings = Rc::clone(surroundings);
    match decided {
        // One that panicked is told as such by its record.
        Ok(Poll::Ready(None)) | Err(_) => {}
        Ok(Poll::Ready(Some(taking))) => {
            tokio::task::spawn_local(taking.run(surroundings));
        }
        Ok(Poll::Pending) => {
            tokio::task::spawn_local(async move {
                // Apart, so that its room is free again while a session lives.
                let taking = served.await;
                if let Some(taking) = taking {
                    taking.run(surroundings).await;
                }
            });
        }
    }
}
