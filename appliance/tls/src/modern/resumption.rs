//! Sessions that are resumed, on either leg (SPEC T12), and what binds them.
//!
//! For: sparing clients and servers their full handshakes. A session is bound to the stack that made
//! it, and so to one proxy of one policy generation: a new policy resumes nothing of the old. With
//! the client it is bound also to the certificate it was shown and to the verdict on the server's,
//! with the server to its address, port and name. The server's certificate is judged again on every
//! session, resumed or not: the chain is kept with the session. Early data is never offered and
//! never accepted.
//! Not for: sessions of a server that asked for a client certificate: it must ask again.
//!
//! Tickets for clients are encrypted with a key that changes every six hours and is forgotten after
//! another six; nothing is kept for them here. Cannot fail: without a session the handshake is full.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA256};
use lru::LruCache;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::server::ProducesTickets;
use rustls_pki_types::ServerName;

use super::witness::Observed;
use crate::key::LegKey;
use crate::verify::Verdict;

/// Servers whose sessions one proxy keeps, about 5 KiB each (150 KiB where a server sends the longest
/// tickets it can); past it the least recently used goes.
pub const SERVERS_BOUND: NonZeroUsize = NonZeroUsize::MIN.saturating_add(511);
/// Tickets of TLS 1.3 kept for a server, which are used once each; past it the oldest goes.
const TICKETS: usize = 2;
/// Certificates of a server, together: sessions of one that sends more are not kept.
pub(super) const LONGEST_CHAIN: usize = 16 << 10;

/// SHA-256 over what a client's session is bound to.
const BINDING: usize = 32;

/// Puts a binding into each ticket, and takes none back that has another.
#[derive(Debug)]
pub(super) struct BoundTickets {
    tickets: Arc<dyn ProducesTickets>,
    binding: [u8; BINDING],
}

impl BoundTickets {
    pub(super) fn new(tickets: Arc<dyn ProducesTickets>, key: &LegKey, verdict: Verdict) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&verdict.bits().to_be_bytes());
        context.update(key.chain().first().map(|leaf| leaf.as_ref()).unwrap_or_default());
        let mut binding = [0; BINDING];
        binding.copy_from_slice(context.finish().as_ref());
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
        let bound = zeroize::Zeroizing::new([&self.binding, plain].concat());
        self.tickets.encrypt(&bound)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let bound = zeroize::Zeroizing::new(self.tickets.decrypt(ticket)?);
        let (binding, plain) = bound.split_at_checked(BINDING)?;
        verify_slices_are_equal(binding, &self.binding).ok()?;
        Some(plain.to_vec())
    }
}

/// A server as sessions with it are kept: address and port, and the name it was asked for.
type Server = (SocketAddr, Option<String>);

/// Sessions with servers, of one proxy.
#[derive(Debug)]
pub(super) struct ServerSessions(Mutex<LruCache<Server, Known>>);

#[derive(Debug, Default)]
struct Known {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl Default for ServerSessions {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(SERVERS_BOUND)))
    }
}

/// The sessions with one server, for one leg. rustls' own idea of the server (its name) is not
/// looked at.
#[derive(Debug)]
pub(super) struct SessionsOf {
    all: Arc<ServerSessions>,
    server: Server,
    observed: Arc<Observed>,
}

impl SessionsOf {
    pub(super) fn new(
        all: Arc<ServerSessions>,
        address: SocketAddr,
        name: Option<&str>,
        observed: Arc<Observed>,
    ) -> Self {
        Self { all, server: (address, name.map(str::to_ascii_lowercase)), observed }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(all.get_or_insert_mut_ref(&self.server, Known::default))
    }

    /// Without making an entry for a server that has none.
    fn peek<T>(&self, act: impl FnOnce(&mut Known) -> Option<T>) -> Option<T> {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_mut(&self.server).and_then(act)
    }
}

impl ClientSessionStore for SessionsOf {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.with(|known| known.group = Some(group));
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.peek(|known| known.group)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        if self.observed.session_may_be_kept() {
            self.with(|known| known.tls12 = Some(value));
        }
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.peek(|known| known.tls12.clone())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.peek(|known| known.tls12.take());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        if self.observed.session_may_be_kept() {
            self.with(|known| {
                known.tls13.truncate(TICKETS - 1);
                known.tls13.push_front(value);
            });
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.peek(|known| known.tls13.pop_front())
    }
}
