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
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::net::UnixStream;
use tokio::sync::watch;
use weir_api::legacy::{CONTROL_LEG, MAX_LEGS, Open};
use weir_tls::{LegError, TlsLeg};

use self::leg::LegacyLeg;
pub use self::memory::{Evidence, KnownServers, MODERN_LASTS};
pub use self::sessions::SessionScope;

/// How long a session waits for a worker that is being started, and for one that has more legs to
/// take than its socket has room for.
const STARTS_WITHIN: Duration = Duration::from_secs(5);
/// Between two attempts to tell the worker of a leg: from the first it doubles to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// Counts a leg as long as it lives.
pub struct OpenLeg(Arc<Counts>);

impl OpenLeg {
    /// `None`: there are as many as the worker takes.
    fn count(counts: &Arc<Counts>) -> Option<Self> {
        let before = counts.open.fetch_add(1, Ordering::Relaxed);
        let most = counts.most.load(Ordering::Relaxed);
        Some(Self(Arc::clone(counts))).filter(|_| before < most)
    }
}

impl Drop for OpenLeg {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Shared by all runtimes.
pub struct Legacy {
    /// The control socket of the worker that is ready.
    control: watch::Receiver<Option<Arc<OwnedFd>>>,
    counts: Arc<Counts>,
    /// Servers that need this stack.
    pub servers: KnownServers,
    /// Servers that clients without TLS 1.3 were led to by it, which offered no more than they do.
    pub servers_of_old_clients: KnownServers,
}

#[derive(Debug)]
pub struct Counts {
    /// Legs opened.
    pub legs: AtomicU64,
    /// Those that are open.
    open: AtomicUsize,
    /// As many as there may be, by what the worker said when it was ready: at most [`MAX_LEGS`].
    most: AtomicUsize,
    /// Legs that were not opened: there were as many as there may be, or no worker took them.
    pub refused: AtomicU64,
    /// Workers that ended, or were killed because they were stuck.
    pub crashes: AtomicU64,
    /// Server legs that failed on the modern stack and were opened again on this one.
    pub opened_again: AtomicU64,
    /// Those that were opened again on the modern stack: nothing had said that it is not the right one.
    pub opened_again_on_modern: AtomicU64,
    /// Of both, those that got no connection of their own: the first one's failure is their session's.
    pub not_connected_again: AtomicU64,
    /// Servers that the modern stack had spoken with, and which then said, twice, that it cannot.
    pub aged: AtomicU64,
    /// The running worker; 0: none.
    pub process: AtomicU64,
    /// When there was one last; else when the first was started.
    pub seen: Mutex<Instant>,
}

impl Default for Counts {
    /// Legs that are opened before a worker is ready wait for it.
    fn default() -> Self {
        Self {
            legs: AtomicU64::default(),
            open: AtomicUsize::default(),
            most: AtomicUsize::new(MAX_LEGS),
            refused: AtomicU64::default(),
            crashes: AtomicU64::default(),
            opened_again: AtomicU64::default(),
            opened_again_on_modern: AtomicU64::default(),
            not_connected_again: AtomicU64::default(),
            aged: AtomicU64::default(),
            process: AtomicU64::default(),
            seen: Mutex::new(Instant::now()),
        }
    }
}

impl Counts {
    /// No worker has run for longer than sessions wait for one.
    fn worker_is_missing(&self, now: Instant) -> bool {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let for_long = now.saturating_duration_since(seen) > STARTS_WITHIN;
        for_long && self.process.load(Ordering::Relaxed) == 0
    }
}

impl Legacy {
    /// Starts the thread that looks after the worker, `program`.
    pub fn start(program: PathBuf) -> anyhow::Result<Arc<Self>> {
        let counts = Arc::<Counts>::default();
        let control = worker::start(program, Arc::clone(&counts))?;
        Ok(Arc::new(Self {
            control,
            counts,
            servers: KnownServers::default(),
            servers_of_old_clients: KnownServers::default(),
        }))
    }

    /// A leg on the worker. Inside the runtime that will own it.
    pub async fn leg(&self, open: Open) -> Result<Box<dyn TlsLeg>, LegError> {
        let internal = |error: &dyn std::fmt::Display| LegError::Internal(error.to_string());
        let (ours, its) =
            std::os::unix::net::UnixStream::pair().map_err(|error| internal(&error))?;
        ours.set_nonblocking(true).map_err(|error| internal(&error))?;
        let socket = UnixStream::from_std(ours).map_err(|error| internal(&error))?;
        let counted = OpenLeg::count(&self.counts);
        let taken = match &counted {
            Some(_) => tokio::time::timeout(STARTS_WITHIN, self.give(its.as_fd())).await,
            None => Ok(Err("as many legs are open as there may be".to_owned())),
        };
        match (taken.unwrap_or_else(|_| Err("no legacy worker takes legs".to_owned())), counted) {
            (Ok(()), Some(counted)) => {
                self.counts.legs.fetch_add(1, Ordering::Relaxed);
                Ok(Box::new(LegacyLeg::new(socket, counted, open)?))
            }
            (taken, _) => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                Err(internal(&taken.err().unwrap_or_default()))
            }
        }
    }

    /// Tells the worker of a leg by its end of the leg's socket, once there is one that has room for
    /// it. The error, in words.
    async fn give(&self, socket: BorrowedFd<'_>) -> Result<(), String> {
        let mut control = self.control.clone();
        let descriptors = [socket.as_raw_fd()];
        let mut pause = FIRST_PAUSE;
        loop {
            let ready = control.wait_for(Option::is_some).await.map(|control| control.clone());
            let Ok(Some(control)) = ready else { return Err("no legacy worker runs".to_owned()) };
            let told = sendmsg::<()>(
                control.as_raw_fd(),
                &[IoSlice::new(&[CONTROL_LEG])],
                &[ControlMessage::ScmRights(&descriptors)],
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
                None,
            );
            match told {
                Ok(_) => return Ok(()),
                // It has not taken those before; of this one, and of all descriptors on their way.
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ETOOMANYREFS) => {}
                Err(error) => return Err(error.to_string()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Sessions that need this stack fail.
    pub fn is_missing(&self) -> bool {
        self.counts.worker_is_missing(Instant::now())
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// As the console tells them.
    pub fn told(&self) -> Vec<(String, u64)> {
        let known = |servers: &KnownServers| u64::try_from(servers.count()).unwrap_or(u64::MAX);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("legs on the legacy stack", count(&self.counts.legs)),
            ("legs that the legacy stack could not take", count(&self.counts.refused)),
            ("server legs opened again on the legacy stack", count(&self.counts.opened_again)),
            (
                "server legs opened again on the modern stack",
                count(&self.counts.opened_again_on_modern),
            ),
            ("server legs that got no second connection", count(&self.counts.not_connected_again)),
            ("servers known as modern that no longer are", count(&self.counts.aged)),
            ("servers known to need the legacy stack", known(&self.servers)),
            ("servers that need it for old clients", known(&self.servers_of_old_clients)),
            ("legacy workers that ended", count(&self.counts.crashes)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_is_missing_once_sessions_do_not_wait_for_it_any_more() {
        let counts = Counts::default();
        let seen = *counts.seen.lock().unwrap();
        let later = |by| seen.checked_add(by).unwrap();
        let long = STARTS_WITHIN * 2;
        assert!(!counts.worker_is_missing(later(STARTS_WITHIN)));
        assert!(counts.worker_is_missing(later(long)));
        counts.process.store(7, Ordering::Relaxed);
        assert!(!counts.worker_is_missing(later(long)));
        // It ended a moment ago.
        *counts.seen.lock().unwrap() = later(long);
        counts.process.store(0, Ordering::Relaxed);
        assert!(!counts.worker_is_missing(later(long)));
    }

    #[test]
    fn no_more_legs_are_opened_than_a_worker_takes() {
        let counts = Arc::<Counts>::default();
        for most in [MAX_LEGS, 3] {
            counts.most.store(most, Ordering::Relaxed);
            counts.open.store(most - 1, Ordering::Relaxed);
            let last = OpenLeg::count(&counts);
            assert!(last.is_some());
            assert!(OpenLeg::count(&counts).is_none());
            drop(last);
            assert!(OpenLeg::count(&counts).is_some());
        }
    }
}
