//! Ends and wire together, inspecting: where every check and test begins; and below it, what is
//! measured instead of checked.

mod bars;
mod cpu;
pub mod dataplane;
mod memory;
mod results;
mod threads;
pub mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::certificates::SIGNING_CA;
use crate::ends::Ends;
use crate::fetch::Fetch;
use crate::run::Run;
use crate::wire::Wire;
use crate::wire::lab::Lab;

/// How long inspection may take to be there, from the start of the engine (SPEC: within a minute).
pub const INSPECTION: Duration = Duration::from_secs(60);

pub struct Bench<W> {
    // Dropped in this order: Weir, then its ends, then the run's directory.
    pub wire: W,
    pub ends: Ends,
    pub run: Arc<Run>,
}

impl Bench<Lab> {
    /// Provisions a document, and waits until it is in force.
    pub fn provision(&self, document: &str) -> Result<()> {
        // The agent's line: it comes last. The engine has one of its own for each policy, and that of the
        // policy before may be still to come.
        let in_force = |text: &str| text.matches("weir_agent::engine: policy in force").count();
        let before = in_force(&self.wire.log()?);
        self.wire.configure(document)?;
        // A million addresses take their time.
        let deadline = Instant::now() + Duration::from_secs(60);
        while in_force(&self.wire.log()?) <= before {
            ensure!(Instant::now() < deadline, "not in force: {}", self.wire.log()?);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl<W: Wire> Bench<W> {
    /// A new run on the wire that `start` makes; inspecting.
    pub fn start(start: impl FnOnce(&mut Ends) -> Result<W>) -> Result<Self> {
        let run = Run::new()?;
        let mut ends = Ends::new(&run)?;
        let wire = start(&mut ends)?;
        let mut bench = Self { wire, ends, run };
        bench.wait_for_inspection()?;
        Ok(bench)
    }

    /// Waits, bounded by [`INSPECTION`], until a connection is inspected; how long it took.
    pub fn wait_for_inspection(&mut self) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let fetched = Fetch::new("public.example", "/").limit(10).run(&self.ends)?;
            let seen = fetched.certificate();
            if fetched.exit == 0 && seen.as_ref().is_ok_and(|seen| seen.issuer.contains(SIGNING_CA))
            {
                return Ok(started.elapsed());
            }
            if started.elapsed() > INSPECTION {
                bail!(
                    "no inspection after {} s: curl ended with {} {}, certificate: {seen:?}; {}",
                    INSPECTION.as_secs(),
                    fetched.exit,
                    fetched.messages,
                    self.wire.state()
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
