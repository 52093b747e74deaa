//! Has the agent fetch, over the socket between them, and waits for what comes.
//!
//! One fetch at a time for the same thing: who asks meanwhile waits for it. A failure is remembered for
//! some minutes, so that a dead responder delays one session and not each. Not for: what may be fetched
//! from where, and within which bounds (the agent's). Fails by [`Unavailable`].

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lru::LruCache;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weir_api::engine::FromEngine;
use weir_api::fetch::{Bytes, FETCH_WITHIN, Fetch, FetchFailure, MOST_FETCHES};
use weir_tls::verify::revocation::list_lasts_until;

/// Failures remembered; past it the least recently used is forgotten. A URL has at most a kilobyte.
const FAILURES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
/// How long.
const FAILURE_LASTS: Duration = Duration::from_secs(300);
/// Lists kept, of 8 MiB at most; past it the least recently used is forgotten.
const LISTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);
/// Intermediates kept, of 64 KiB at most; past it the least recently used is forgotten. What made a chain
/// verify is learnt besides; this is for what did not.
const INTERMEDIATES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(127);
/// How long either is kept at most: a list that was signed anew is seen then.
const LASTS: Duration = Duration::from_secs(3600);
/// An agent that has said nothing for so long about a fetch has lost it.
const LOST: Duration = FETCH_WITHIN.saturating_mul(2);

/// What came of a fetch. Bytes are shared by all who wait.
pub type Fetched = Result<Arc<[u8]>, Unavailable>;

/// Why there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unavailable {
    #[error("no agent is connected")]
    NoAgent,
    #[error("too much is being fetched")]
    Busy,
    #[error("not in time")]
    Slow,
    #[error("{0}")]
    Failed(#[from] FetchFailure),
}

impl Unavailable {
    /// The next who asks may have it.
    pub fn is_passing(self) -> bool {
        match self {
            Self::NoAgent | Self::Busy | Self::Slow | Self::Failed(FetchFailure::Busy) => true,
            Self::Failed(_) => false,
        }
    }
}

/// Totals since the engine started.
#[derive(Debug, Default)]
struct Counts {
    asked: AtomicU64,
    failed: AtomicU64,
}

pub struct Fetching {
    events: mpsc::Sender<FromEngine>,
    state: Mutex<State>,
    counts: Counts,
}

struct State {
    /// An agent hears.
    connected: bool,
    next: u64,
    /// At most [`MOST_FETCHES`].
    flights: HashMap<u64, Flight>,
    failures: LruCache<Fetch, (Unavailable, Instant)>,
    lists: Kept,
    intermediates: Kept,
}

/// What was fetched, and until when it is kept.
type Kept = LruCache<Fetch, (Arc<[u8]>, Instant)>;

struct Flight {
    fetch: Fetch,
    since: Instant,
    told: watch::Sender<Option<Fetched>>,
}

impl Fetching {
    /// `events` go to the agent.
    pub fn new(events: mpsc::Sender<FromEngine>) -> Self {
        let state = State {
            connected: false,
            next: 0,
            flights: HashMap::new(),
            failures: LruCache::new(FAILURES),
            lists: LruCache::new(LISTS),
            intermediates: LruCache::new(INTERMEDIATES),
        };
        Self { events, state: Mutex::new(state), counts: Counts::default() }
    }

    /// Waits until `deadline`; the fetch itself may go on, for those that come later.
    pub async fn fetch(&self, fetch: Fetch, deadline: Instant) -> Fetched {
        let mut told = match self.begin(fetch)? {
            Begun::Waits(told) => told,
            Begun::Known(bytes) => return Ok(bytes),
        };
        let waited = tokio::time::timeout_at(deadline, told.wait_for(Option::is_some)).await;
        match waited {
            Ok(Ok(fetched)) => fetched.clone().unwrap_or(Err(Unavailable::Slow)),
            // The agent went away.
            Ok(Err(_)) => Err(Unavailable::NoAgent),
            Err(_) => Err(Unavailable::Slow),
        }
    }

    fn begin(&self, fetch: Fetch) -> Result<Begun, Unavailable> {
        let now = Instant::now();
        let mut state = self.state();
        if let Some((bytes, until)) = state.kept(&fetch).and_then(|kept| kept.get(&fetch))
            && now < *until
        {
            return Ok(Begun::Known(Arc::clone(bytes)));
        }
        if let Some((failure, since)) = state.failures.get(&fetch)
            && now.saturating_duration_since(*since) < FAILURE_LASTS
        {
            return Err(*failure);
        }
        state.flights.retain(|_, flight| now.saturating_duration_since(flight.since) < LOST);
        if let Some(flight) = state.flights.values().find(|flight| flight.fetch == fetch) {
            return Ok(Begun::Waits(flight.told.subscribe()));
        }
        if !state.connected {
            return Err(Unavailable::NoAgent);
        }
        if state.flights.len() >= MOST_FETCHES {
            return Err(Unavailable::Busy);
        }
        let number = state.next;
        let message = FromEngine::Fetch { number, fetch: fetch.clone() };
        self.events.try_send(message).map_err(|_| Unavailable::Busy)?;
        self.counts.asked.fetch_add(1, Relaxed);
        state.next = state.next.wrapping_add(1);
        let (told, waiting) = watch::channel(None);
        state.flights.insert(number, Flight { fetch, since: now, told });
        Ok(Begun::Waits(waiting))
    }

    /// The agent answers; what nobody waits for any more is kept all the same.
    pub fn answered(&self, number: u64, result: Result<Bytes, FetchFailure>) {
        let mut state = self.state();
        let Some(Flight { fetch, told, .. }) = state.flights.remove(&number) else { return };
        let fetched: Fetched = match result {
            Ok(Bytes(bytes)) if bytes.len() <= fetch.bound() => Ok(bytes.into()),
            Ok(_) => Err(FetchFailure::TooLong.into()),
            Err(failure) => Err(failure.into()),
        };
        match &fetched {
            Ok(bytes) => {
                let until = Instant::now() + lasts(&fetch, bytes);
                if let Some(kept) = state.kept(&fetch) {
                    kept.put(fetch, (Arc::clone(bytes), until));
                }
            }
            Err(failure) => {
                self.counts.failed.fetch_add(1, Relaxed);
                if !failure.is_passing() {
                    state.failures.put(fetch, (*failure, Instant::now()));
                }
            }
        }
        told.send_replace(Some(fetched));
    }

    /// An agent came, or went: with it goes what it was to fetch.
    pub fn connected(&self, connected: bool) {
        let mut state = self.state();
        state.connected = connected;
        state.flights.clear();
    }

    pub fn forget_failures(&self) {
        self.state().failures.clear();
    }

    /// For the console.
    pub fn told(&self) -> [(String, u64); 2] {
        [
            ("fetches asked of the agent".to_owned(), self.counts.asked.load(Relaxed)),
            ("fetches that failed".to_owned(), self.counts.failed.load(Relaxed)),
        ]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Where such things are kept; `None`: what an OCSP answer says is kept by who asked.
    fn kept(&mut self, fetch: &Fetch) -> Option<&mut Kept> {
        match fetch {
            Fetch::Intermediate { .. } => Some(&mut self.intermediates),
            Fetch::RevocationList { .. } => Some(&mut self.lists),
            Fetch::Ocsp { .. } => None,
        }
    }
}

enum Begun {
    Waits(watch::Receiver<Option<Fetched>>),
    Known(Arc<[u8]>),
}

fn lasts(fetch: &Fetch, bytes: &[u8]) -> Duration {
    if !matches!(fetch, Fetch::RevocationList { .. }) {
        return LASTS;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let until = list_lasts_until(bytes).and_then(|until| u64::try_from(until).ok()).unwrap_or(0);
    Duration::from_secs(until).saturating_sub(now).min(LASTS)
}
