//! Sessions that may be resumed (SPEC T12), on either side.
//!
//! For: keeping those with servers, by the binding that the engine asks for them with, and with
//! them what the server showed, its chain and what it stapled, as it was; and the key of the tickets that
//! clients get. Which sessions belong together (one proxy of one policy generation, one server or
//! one certificate and verdict) is the engine's to say, by the bindings: what it does not ask for
//! again is never resumed. TLS 1.3 is not resumed on this stack, which speaks it only by mistake.
//! Not for: clients without tickets, whose sessions OpenSSL keeps itself, as many as
//! [`CLIENTS_BOUND`]. Cannot fail: without a session the handshake is full.

use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lru::LruCache;
use openssl::error::ErrorStack;
use openssl::ssl::{SslContextRef, SslSession, SslSessionRef};
use weir_api::legacy::BINDING;
use zeroize::Zeroizing;

use crate::bindings::{TICKET_KEY, is_resumable, set_ticket_key};

/// Sessions of clients that take no tickets, about 1 KiB each; past it OpenSSL forgets the oldest.
pub const CLIENTS_BOUND: i32 = 4096;
/// Servers with a session, about 20 KiB each; past it the least recently used goes.
const SERVERS_BOUND: NonZeroUsize = NonZeroUsize::MIN.saturating_add(511);
/// Certificates of a server, together: sessions of one that sends more are not kept.
const LONGEST_CHAIN: usize = 16 << 10;
/// The same of what it staples.
const LONGEST_STAPLE: usize = 4 << 10;
/// After it the handshake is full again, and the server shows its certificate: as long as
/// `weir_tls::verify::RESUMED_FOR`, by which the engine says what is not to be kept for so long. OpenSSL has
/// the same for clients.
const LASTS: Duration = Duration::from_secs(7200);
/// Life of a ticket key; what it has encrypted cannot be resumed afterwards.
const KEY_LASTS: Duration = Duration::from_secs(6 * 3600);

pub struct ServerSessions(RefCell<LruCache<[u8; BINDING], Kept>>);

/// What a server showed in the handshake that a session began with.
pub struct Shown {
    /// Leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The OCSP response.
    pub staple: Option<Vec<u8>>,
}

struct Kept {
    session: SslSession,
    shown: Rc<Shown>,
    /// Of the full handshake.
    since: Instant,
}

impl Default for ServerSessions {
    fn default() -> Self {
        Self(RefCell::new(LruCache::new(SERVERS_BOUND)))
    }
}

impl ServerSessions {
    /// The session to resume, and what it began with.
    pub fn get(&self, binding: &[u8; BINDING], now: Instant) -> Option<(SslSession, Rc<Shown>)> {
        let mut all = self.0.borrow_mut();
        let kept = all.get(binding)?;
        if now.saturating_duration_since(kept.since) < LASTS && is_resumable(&kept.session) {
            return Some((kept.session.clone(), Rc::clone(&kept.shown)));
        }
        all.pop(binding);
        None
    }

    /// After a full handshake.
    pub fn keep(
        &self,
        binding: &[u8; BINDING],
        session: &SslSessionRef,
        shown: Shown,
        now: Instant,
    ) {
        let Shown { chain, staple } = &shown;
        let length = chain.iter().fold(0_usize, |sum, one| sum.saturating_add(one.len()));
        let staple = staple.as_ref().map_or(0, Vec::len);
        if length > LONGEST_CHAIN || staple > LONGEST_STAPLE || !is_resumable(session) {
            return;
        }
        let kept = Kept { session: session.to_owned(), shown: shown.into(), since: now };
        self.0.borrow_mut().put(*binding, kept);
    }

    /// After one that was resumed: it may have brought another ticket, but lives no longer for it, and
    /// what was forgotten meanwhile stays so, as does another that is kept meanwhile. `shown`: what the
    /// session began with.
    pub fn renew(&self, binding: &[u8; BINDING], session: &SslSessionRef, shown: &Rc<Shown>) {
        if let Some(known) = self.0.borrow_mut().peek_mut(binding)
            && Rc::ptr_eq(&known.shown, shown)
            && is_resumable(session)
        {
            known.session = session.to_owned();
        }
    }

    pub fn forget(&self, binding: &[u8; BINDING]) {
        self.0.borrow_mut().pop(binding);
    }
}

/// The key of clients' tickets.
pub struct TicketKey {
    made: Cell<Instant>,
}

impl TicketKey {
    /// In the place of the one that OpenSSL makes, which would last as long as the worker.
    pub fn first(context: &SslContextRef, now: Instant) -> Result<Self, ErrorStack> {
        renew(context)?;
        Ok(Self { made: Cell::new(now) })
    }

    /// A new one where it is time.
    pub fn renew_in_time(&self, context: &SslContextRef, now: Instant) -> Result<(), ErrorStack> {
        if now.saturating_duration_since(self.made.get()) >= KEY_LASTS {
            renew(context)?;
            self.made.set(now);
        }
        Ok(())
    }
}

fn renew(context: &SslContextRef) -> Result<(), ErrorStack> {
    let mut key = Zeroizing::new([0; TICKET_KEY]);
    openssl::rand::rand_bytes(key.as_mut_slice())?;
    set_ticket_key(context, &mut key)
}

#[cfg(test)]
mod tests {
    use foreign_types_shared::ForeignTypeRef as _;
    use openssl::ssl::{SslContext, SslMethod};

    use super::*;

    /// SSL_CTX_get_tlsext_ticket_keys(3), a macro around this.
    const GET_TICKET_KEYS: std::os::raw::c_int = 58;

    fn key(context: &SslContextRef) -> Vec<u8> {
        let mut key = vec![0_u8; TICKET_KEY];
        let length = std::os::raw::c_long::try_from(key.len()).unwrap();
        // SAFETY: the call writes so many bytes at this place, and keeps nothing.
        let got = unsafe {
            let context = context.as_ptr();
            openssl_sys::SSL_CTX_ctrl(context, GET_TICKET_KEYS, length, key.as_mut_ptr().cast())
        };
        assert_eq!(got, 1);
        key
    }

    #[test]
    fn key_of_tickets_is_another_after_six_hours_and_not_before() {
        let context = SslContext::builder(SslMethod::tls()).unwrap().build();
        let own = key(&context);
        let start = Instant::now();
        let tickets = TicketKey::first(&context, start).unwrap();
        let first = key(&context);
        assert_ne!(first, own);
        let after = |seconds| start + Duration::from_secs(seconds);
        let six_hours = 6 * 3600;
        let renewed = |now| {
            tickets.renew_in_time(&context, now).unwrap();
            key(&context)
        };
        assert_eq!(renewed(after(six_hours - 1)), first);
        let second = renewed(after(six_hours));
        assert_ne!(second, first);
        // Six hours of its own.
        assert_eq!(renewed(after(2 * six_hours - 1)), second);
        assert_ne!(renewed(after(2 * six_hours)), second);
    }
}
