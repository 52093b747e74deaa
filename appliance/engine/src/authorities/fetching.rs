//! Has the agent fetch, over the socket between them, and waits for what comes.
//!
//! One fetch at a time for the same thing: who asks meanwhile waits for it. A failure is remembered for
//! some minutes, so that a dead responder delays one session and not each. What anybody may name (an
//! intermediate) and what an authority names have bounds of their own, and of the former each client
//! has its part: a page full of URLs that never answer turns off nobody's checks. Not for: what may be
//! fetched from where (the agent's). Fails by [`Unavailable`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weir_api::engine::FromEngine;
use weir_api::fetch::{Bytes, FETCH_WITHIN, Fetch, FetchFailure, MOST_FETCHES, TURN_WITHIN};

/// Failures remembered; past it the least recently used is forgotten. A URL has at most a kilobyte.
const FAILURES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
/// How long; and how long what came and was not believed is kept.
pub const FAILURE_LASTS: Duration = Duration::from_secs(300);
/// Fetches that one client (an IPv4 address, or the /64 of an IPv6 address) may have under way for
/// chains that do not verify; past it a further one is refused. Half of those that the agent makes at
/// one time.
const MOST_PER_CLIENT: usize = 4;
/// Lists kept until they are read ([`super::lists`]), of 8 MiB at most; past it the least recently used
/// is forgotten.
const LISTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);
/// Intermediates kept, of 64 KiB at most; past it the least recently used is forgotten. What made a chain
/// verify is learnt besides; this is for what did not.
const INTERMEDIATES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(127);
/// How long either is kept at most: what was renewed is seen then.
pub const LASTS: Duration = Duration::from_secs(3600);
/// An agent that has said nothing for so long about a fetch has lost it.
const LOST: Duration = FETCH_WITHIN.saturating_mul(2).saturating_add(TURN_WITHIN);

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
    /// At most [`MOST_FETCHES`] of each kind.
    flights: HashMap<u64, Flight>,
    failures: LruCache<Fetch, (Unavailable, Instant)>,
    lists: Kept,
    intermediates: Kept,
}

type Kept = LruCache<Fetch, KeptBytes>;

/// What was fetched, and until when it is kept.
struct KeptBytes {
    bytes: Arc<[u8]>,
    until: Instant,
    believed: bool,
}

struct Flight {
    fetch: Fetch,
    client: Option<Client>,
    since: Instant,
    told: watch::Sender<Option<Fetched>>,
}

/// Whose server wants something fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(IpAddr);

impl From<IpAddr> for Client {
    /// Who has an IPv6 address has all of its /64.
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                Self(IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()))
            }
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }
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

    /// Waits until `deadline`; the fetch itself may go on, for those that come later. `client`: whose
    /// part of the bounds it is of, if that of anybody.
    pub async fn fetch(&self, fetch: Fetch, client: Option<Client>, deadline: Instant) -> Fetched {
        let mut told = match self.begin(fetch, client, deadline)? {
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

    fn begin(
        &self,
        fetch: Fetch,
        client: Option<Client>,
        deadline: Instant,
    ) -> Result<Begun, Unavailable> {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(kept) = state.kept(&fetch).and_then(|kept| kept.get(&fetch))
            && now < kept.until
        {
            return Ok(Begun::Known(Arc::clone(&kept.bytes)));
        }
        if let Some((failure, since)) = state.failures.get(&fetch)
            && now.saturating_duration_since(*since) < FAILURE_LASTS
        {
            return Err(*failure);
        }
        // Nobody would wait for it.
        if deadline <= now {
            return Err(Unavailable::Slow);
        }
        state.flights.retain(|_, flight| now.saturating_duration_since(flight.since) < LOST);
        if let Some(flight) = state.flights.values().find(|flight| flight.fetch == fetch) {
            return Ok(Begun::Waits(flight.told.subscribe()));
        }
        if !state.connected {
            return Err(Unavailable::NoAgent);
        }
        let of_kind = state.flights.values().filter(|flight| flight.fetch.kind() == fetch.kind());
        let of_client = state.flights.values().filter(|flight| flight.client == client);
        let too_many_of_client = client.is_some() && of_client.count() >= MOST_PER_CLIENT;
        if of_kind.count() >= MOST_FETCHES || too_many_of_client {
            return Err(Unavailable::Busy);
        }
        let number = state.next;
        let message = FromEngine::Fetch { number, fetch: fetch.clone() };
        self.events.try_send(message).map_err(|_| Unavailable::Busy)?;
        self.counts.asked.fetch_add(1, Relaxed);
        state.next = state.next.wrapping_add(1);
        let (told, waiting) = watch::channel(None);
        state.flights.insert(number, Flight { fetch, client, since: now, told });
        Ok(Begun::Waits(waiting))
    }

    /// The agent answers; what nobody waits for any more is kept all the same.
    pub fn answered(&self, number: u64, result: Result<Bytes, FetchFailure>) {
        // What is long is copied before all others have to wait for it.
        let flight = |state: &State| state.flights.get(&number).map(|flight| flight.fetch.clone());
        let Some(fetch) = flight(&self.state()) else { return };
        let fetched: Fetched = match result {
            Ok(Bytes(bytes)) if bytes.len() <= fetch.bound() => Ok(bytes.into()),
            Ok(_) => Err(FetchFailure::TooLong.into()),
            Err(failure) => Err(failure.into()),
        };
        let mut state = self.state();
        let Some(Flight { told, .. }) = state.flights.remove(&number) else { return };
        match &fetched {
            Ok(bytes) => {
                let (bytes, until) = (Arc::clone(bytes), Instant::now() + LASTS);
                state.failures.pop(&fetch);
                if let Some(kept) = state.kept(&fetch) {
                    kept.put(fetch, KeptBytes { bytes, until, believed: true });
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

    /// These bytes are not what they should be: they are kept no longer than a failure. Not dropped:
    /// they would be fetched for each certificate that names them.
    pub fn disbelieved(&self, fetch: &Fetch, bytes: &Arc<[u8]>) {
        let until = Instant::now() + FAILURE_LASTS;
        let mut state = self.state();
        if let Some(kept) = state.kept(fetch).and_then(|kept| kept.get_mut(fetch))
            && Arc::ptr_eq(&kept.bytes, bytes)
            && kept.believed
        {
            kept.believed = false;
            kept.until = kept.until.min(until);
        }
    }

    /// What came of it is kept in another form.
    pub fn taken(&self, fetch: &Fetch) {
        let mut state = self.state();
        if let Some(kept) = state.kept(fetch) {
            kept.pop(fetch);
        }
    }

    /// For how long the same will come of this fetch as did. `None`: nothing of it is remembered.
    pub fn lasts(&self, fetch: &Fetch) -> Option<Duration> {
        let mut state = self.state();
        let until = match state.failures.get(fetch) {
            Some((_, since)) => *since + FAILURE_LASTS,
            None => state.kept(fetch)?.get(fetch)?.until,
        };
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// And what was not believed.
    pub fn forget_failures(&self) {
        let mut state = self.state();
        state.failures.clear();
        let State { lists, intermediates, .. } = &mut *state;
        for kept in [lists, intermediates] {
            let disbelieved = kept.iter().filter(|(_, kept)| !kept.believed);
            let disbelieved: Vec<Fetch> = disbelieved.map(|(fetch, _)| fetch.clone()).collect();
            for fetch in disbelieved {
                kept.pop(&fetch);
            }
        }
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
