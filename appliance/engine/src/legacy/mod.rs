//! The legacy TLS stack as the engine sees it (SPEC T13): a worker process, and legs on it.
//!
//! For: starting the worker again when it ends (with back-off, counted), killing it when it is stuck,
//! and giving legs their sockets. Nobody but the leg's own session waits for it. Not for: the choice
//! of a stack ([`crate::stacks`]). Fails, for a leg, by [`LegError::Internal`] while no worker runs.

mod leg;
mod memory;
mod sessions;
mod worker;

use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::net::UnixStream;
use tokio::sync::watch;
use weir_api::legacy::{CONTROL_LEG, Open};
use weir_tls::{LegError, TlsLeg};

use self::leg::LegacyLeg;
pub use self::memory::{Evidence, KnownServers, MODERN_LASTS};
pub use self::sessions::SessionScope;

/// How long a session waits for a worker that is being started.
const STARTS_WITHIN: Duration = Duration::from_secs(5);

/// Shared by all runtimes.
pub struct Legacy {
    /// The control socket of the worker that is ready.
    control: watch::Receiver<Option<Arc<OwnedFd>>>,
    counts: Arc<Counts>,
    /// Servers that need this stack.
    pub servers: KnownServers,
}

#[derive(Debug, Default)]
pub struct Counts {
    /// Legs opened.
    pub legs: AtomicU64,
    /// Workers that ended, or were killed because they were stuck.
    pub crashes: AtomicU64,
    /// Server legs that failed on the modern stack and were opened again on this one.
    pub opened_again: AtomicU64,
    /// Those that were opened again on the modern stack: nothing had said that it is not the right one.
    pub opened_again_on_modern: AtomicU64,
    /// Servers that the modern stack had spoken with, and which then said, twice, that it cannot.
    pub aged: AtomicU64,
    /// The running worker; 0: none.
    pub process: AtomicU64,
}

impl Legacy {
    /// Starts the thread that looks after the worker, `program`.
    pub fn start(program: PathBuf) -> anyhow::Result<Arc<Self>> {
        let counts = Arc::<Counts>::default();
        let control = worker::start(program, Arc::clone(&counts))?;
        Ok(Arc::new(Self { control, counts, servers: KnownServers::default() }))
    }

    /// A leg on the worker. Inside the runtime that will own it.
    pub async fn leg(&self, open: Open) -> Result<Box<dyn TlsLeg>, LegError> {
        let internal = |error: &dyn std::fmt::Display| LegError::Internal(error.to_string());
        let mut control = self.control.clone();
        let ready = tokio::time::timeout(STARTS_WITHIN, control.wait_for(Option::is_some)).await;
        let control = match ready {
            Ok(Ok(control)) => control.clone(),
            _ => None,
        };
        let control = control.ok_or_else(|| internal(&"no legacy worker runs"))?;
        let (ours, its) =
            std::os::unix::net::UnixStream::pair().map_err(|error| internal(&error))?;
        let descriptors = [its.as_raw_fd()];
        sendmsg::<()>(
            control.as_raw_fd(),
            &[IoSlice::new(&[CONTROL_LEG])],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .map_err(|error| internal(&error))?;
        drop(its);
        ours.set_nonblocking(true).map_err(|error| internal(&error))?;
        let socket = UnixStream::from_std(ours).map_err(|error| internal(&error))?;
        self.counts.legs.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(LegacyLeg::new(socket, open)?))
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// As the console tells them.
    pub fn told(&self) -> Vec<(String, u64)> {
        let known = u64::try_from(self.servers.count()).unwrap_or(u64::MAX);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("legs on the legacy stack", count(&self.counts.legs)),
            ("server legs opened again on the legacy stack", count(&self.counts.opened_again)),
            (
                "server legs opened again on the modern stack",
                count(&self.counts.opened_again_on_modern),
            ),
            ("servers known as modern that no longer are", count(&self.counts.aged)),
            ("servers known to need the legacy stack", known),
            ("legacy workers that ended", count(&self.counts.crashes)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}
