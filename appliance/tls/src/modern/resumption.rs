//! Sessions that are resumed, on either leg (SPEC T12), and what binds them.
//!
//! For: sparing clients and servers their full handshakes. A session is bound to the stack that made
//! it, and so to one proxy of one policy generation: a new policy resumes nothing of the old. With
//! the client it is bound also to the certificate it was shown and to the verdict on the server's,
//! with the server to where it is, its address, port and name. The server's certificate is judged again on every
//! session, resumed or not: the chain is kept with the session, and so is what was stapled. A session
//! is resumed for so long after the full handshake that it began with, however many tickets followed
//! ([`crate::verify::resumed_for`]). Early data is never offered and never accepted.
//! Not for: sessions of a server that asked for a client certificate: it must ask again.
//!
//! Tickets for clients are encrypted with a key that changes every six hours and is forgotten after
//! another six; nothing is kept for them here. A client of TLS 1.2 that takes no tickets is known again
//! by its session's number: those are kept, within bounds. Cannot fail: without a session the handshake
//! is full.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::server::{ProducesTickets, StoresServerSessions};
use rustls_pki_types::ServerName;
use weir_policy::ServerAt;
use zeroize::Zeroizing;

use super::Shares;
use super::witness::{Beginning, Observed};
use crate::key::LegKey;
use crate::sharded::ShardedCache;
use crate::verify::Verdict;

/// Servers whose sessions one proxy keeps, about 5 KiB each and what they staple (160 KiB where a server sends
/// the longest tickets and staples that it can); past it the least recently used goes.
pub const SERVERS_BOUND: usize = 512;
/// Tickets of TLS 1.3 kept for a server, which are used once each; past it the oldest goes.
const TICKETS: usize = 2;
/// Certificates of a server, together: sessions of one that sends more are not kept.
pub(super) const LONGEST_CHAIN: usize = 16 << 10;

/// Clients' sessions of TLS 1.2 that one proxy keeps by their numbers, about 300 bytes each; past it
/// the least recently used goes. Also of clients that take tickets: rustls does not tell them apart.
const CLIENTS_BOUND: usize = 4096;
/// The longest of them: a secret, the client's name for the server, and what was agreed on.
const LONGEST_SESSION: usize = 1024;
/// After it the handshake is full again.
const LASTS: Duration = Duration::from_secs(7200);

const BINDING: usize = 34;

/// What a client's session is bound to: SHA-256 of the certificate, and the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Binding([u8; BINDING]);

impl Binding {
    pub(super) fn of(key: &LegKey, verdict: Verdict) -> Self {
        let mut binding = [0; BINDING];
        let (fingerprint, bits) = binding.split_at_mut(32);
        fingerprint.copy_from_slice(key.fingerprint());
        bits.copy_from_slice(&verdict.bits().to_be_bytes());
        Self(binding)
    }
}

/// Puts a binding into each ticket, and takes none back that has another.
#[derive(Debug)]
pub(super) struct BoundTickets {
    tickets: Arc<dyn ProducesTickets>,
    binding: Binding,
}

impl BoundTickets {
    pub(super) fn new(tickets: Arc<dyn ProducesTickets>, binding: Binding) -> Self {
        Self { tickets, binding }
    }
}

impl ProducesTickets for BoundTickets {
    fn enabled(&self) -> bool {
        self.tickets.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.tickets.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        // Holds a session's secret, like every copy that rustls makes of it.
        let bound = Zeroizing::new([&self.binding.0, plain].concat());
        self.tickets.encrypt(&bound)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let bound = Zeroizing::new(self.tickets.decrypt(ticket)?);
        let (binding, plain) = bound.split_at_checked(BINDING)?;
        verify_slices_are_equal(binding, &self.binding.0).ok()?;
        Some(plain.to_vec())
    }
}

/// Clients' sessions of TLS 1.2 by binding and number, of one proxy.
#[derive(Debug)]
pub(super) struct ClientSessions(ShardedCache<(Binding, Vec<u8>), KeptForClient>);

struct KeptForClient {
    session: Zeroizing<Vec<u8>>,
    since: Instant,
}

impl KeptForClient {
    /// While it lasts.
    fn session_at(&self, now: Instant) -> Option<Vec<u8>> {
        let lasts = now.saturating_duration_since(self.since) < LASTS;
        lasts.then(|| self.session.to_vec())
    }
}

impl fmt::Debug for KeptForClient {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptForClient({:?})", self.since)
    }
}

impl Default for ClientSessions {
    fn default() -> Self {
        Self(ShardedCache::new(CLIENTS_BOUND))
    }
}

impl ClientSessions {
    fn put(&self, key: (Binding, Vec<u8>), session: Vec<u8>, now: Instant) -> bool {
        let session = Zeroizing::new(session);
        if session.len() > LONGEST_SESSION {
            return false;
        }
        self.0.put(key, KeptForClient { session, since: now });
        true
    }

    fn get(&self, key: &(Binding, Vec<u8>), now: Instant) -> Option<Vec<u8>> {
        let session = self.0.find(key, |kept| kept.session_at(now))?;
        if session.is_none() {
            self.0.remove(key);
        }
        session
    }

    /// Of those who take the same at once, one gets it.
    fn take(&self, key: &(Binding, Vec<u8>), now: Instant) -> Option<Vec<u8>> {
        self.0.remove(key)?.session_at(now)
    }
}

/// Those under one binding, for one leg. rustls keeps a session once, at the end of a full handshake,
/// by a number that it made: nobody's use of it makes it last longer.
#[derive(Debug)]
pub(super) struct BoundSessions {
    all: Arc<ClientSessions>,
    binding: Binding,
}

impl BoundSessions {
    pub(super) fn new(all: Arc<ClientSessions>, binding: Binding) -> Self {
        Self { all, binding }
    }
}

impl StoresServerSessions for BoundSessions {
    fn put(&self, number: Vec<u8>, session: Vec<u8>) -> bool {
        self.all.put((self.binding, number), session, Instant::now())
    }

    fn get(&self, number: &[u8]) -> Option<Vec<u8>> {
        self.all.get(&(self.binding, number.to_vec()), Instant::now())
    }

    fn take(&self, number: &[u8]) -> Option<Vec<u8>> {
        self.all.take(&(self.binding, number.to_vec()), Instant::now())
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// The time by which sessions with servers end.
pub(super) fn now() -> Instant {
    #[cfg(test)]
    let later = tests::LATER.get();
    #[cfg(not(test))]
    let later = Duration::ZERO;
    let now = Instant::now();
    now.checked_add(later).unwrap_or(now)
}

/// A server as sessions with it are kept: where it is, address and port, and the name it was asked for.
type Server = (ServerAt, Option<String>);

/// Sessions with servers, of one proxy.
#[derive(Debug)]
pub(super) struct ServerSessions(ShardedCache<Server, Known>);

#[derive(Debug, Default)]
struct Known {
    /// That the server chose, with ML-KEM on offer and without: what it takes in its place says nothing of
    /// what it would take first.
    groups: [Option<NamedGroup>; 2],
    tls12: Option<Kept<Tls12ClientSessionValue>>,
    tls13: VecDeque<Kept<Tls13ClientSessionValue>>,
}

/// A session, or a ticket of one.
#[derive(Clone, Debug)]
struct Kept<T> {
    session: T,
    beginning: Beginning,
}

impl Default for ServerSessions {
    fn default() -> Self {
        Self(ShardedCache::new(SERVERS_BOUND))
    }
}

/// The sessions with one server, for one leg. rustls' own idea of the server (its name) is not
/// looked at.
#[derive(Debug)]
pub(super) struct SessionsOf {
    all: Arc<ServerSessions>,
    server: Server,
    shares: Shares,
    observed: Arc<Observed>,
}

impl SessionsOf {
    pub(super) fn new(
        all: Arc<ServerSessions>,
        at: ServerAt,
        name: Option<&str>,
        shares: Shares,
        observed: Arc<Observed>,
    ) -> Self {
        Self { all, server: (at, name.map(str::to_ascii_lowercase)), shares, observed }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        self.all.0.with(self.server.clone(), Known::default, act)
    }

    fn group_in<'a>(&self, known: &'a mut Known) -> &'a mut Option<NamedGroup> {
        let [post_quantum, classic] = &mut known.groups;
        match self.shares {
            Shares::PostQuantum => post_quantum,
            Shares::Classic => classic,
        }
    }

    /// What the session began with goes with the leg: rustls has the chain alone, and copies that into
    /// each ticket that follows.
    fn offered<T>(&self, Kept { session, beginning }: Kept<T>) -> Option<T> {
        self.observed.resumes(beginning);
        Some(session)
    }

    /// Without making an entry for a server that has none.
    fn peek<T>(&self, act: impl FnOnce(&mut Known) -> Option<T>) -> Option<T> {
        self.all.0.find(&self.server, act).flatten()
    }
}

impl ClientSessionStore for SessionsOf {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.with(|known| *self.group_in(known) = Some(group));
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.peek(|known| *self.group_in(known))
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        if let Some(beginning) = self.observed.kept() {
            self.with(|known| known.tls12 = Some(Kept { session, beginning }));
        }
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let now = now();
        let kept = self.peek(|known| {
            known.tls12.take_if(|kept| kept.beginning.until <= now);
            known.tls12.clone()
        });
        self.offered(kept?)
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.peek(|known| known.tls12.take());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, session: Tls13ClientSessionValue) {
        if let Some(beginning) = self.observed.kept() {
            self.with(|known| {
                known.tls13.truncate(TICKETS - 1);
                known.tls13.push_front(Kept { session, beginning });
            });
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let now = now();
        let kept = self.peek(|known| {
            known.tls13.retain(|kept| now < kept.beginning.until);
            known.tls13.pop_front()
        });
        self.offered(kept?)
    }
}

#[cfg(test)]
mod tests;
