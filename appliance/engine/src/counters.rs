//! What the engine counts: flows by outcome ([`crate::tally`]), and the TLS side's events.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::live::AllLive;
use crate::recent::AllRecent;
use crate::statistics::Statistics;
use crate::tally::Tallies;
use crate::threshold::Threshold;

/// Totals since the engine started. Shared by all runtimes.
#[derive(Debug, Default)]
pub struct Totals {
    pub tallies: Tallies,
    pub recent: AllRecent,
    pub threshold: Threshold,
    pub statistics: Statistics,
    pub live: AllLive,
    pub client_hellos: AtomicU64,
    pub taken_over: AtomicU64,
    pub taken_before_judgement: AtomicU64,
    pub certificates_asked: AtomicU64,
    pub forged_certificates_rejected: AtomicU64,
    pub resumed_with_client: AtomicU64,
    pub resumed_with_server: AtomicU64,
    pub server_handshake_failures: AtomicU64,
    pub client_handshake_failures: AtomicU64,
    pub client_certificates_requested: AtomicU64,
    /// Sessions whose server asked for it, before TLS 1.3.
    pub renegotiations_refused: AtomicU64,
    /// Sessions of which an end is gone, and the other took no more of what that had said last; and those
    /// where it was the legacy stack that held it.
    pub cut_short_by_peer: AtomicU64,
    pub cut_short_by_worker: AtomicU64,
    /// Chains that were sent without all of their intermediates, and those could be had.
    pub chains_completed: AtomicU64,
    /// Sessions, by what is known of the revocation of their server's certificate.
    pub revocation_good: AtomicU64,
    pub revocation_revoked: AtomicU64,
    pub revocation_no_source: AtomicU64,
    pub revocation_not_fetched: AtomicU64,
    pub revocation_not_believed: AtomicU64,
    /// Messages that the agent did not take in time.
    pub events_lost: AtomicU64,
    next_session: AtomicU64,
}

impl Totals {
    pub fn next_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    pub fn tls(&self) -> Vec<(String, u64)> {
        [
            ("ClientHellos seen", &self.client_hellos),
            ("flows taken over", &self.taken_over),
            ("taken over before judgement", &self.taken_before_judgement),
            ("forged certificates shown", &self.certificates_asked),
            ("certificates rejected by clients", &self.forged_certificates_rejected),
            ("sessions resumed with the client", &self.resumed_with_client),
            ("sessions resumed with the server", &self.resumed_with_server),
            ("server handshake failures", &self.server_handshake_failures),
            ("client handshake failures", &self.client_handshake_failures),
            ("client certificates requested", &self.client_certificates_requested),
            ("renegotiations refused to servers", &self.renegotiations_refused),
            ("sessions cut short: an end took no more", &self.cut_short_by_peer),
            ("sessions cut short: held by the legacy stack", &self.cut_short_by_worker),
            ("chains completed with fetched intermediates", &self.chains_completed),
            ("certificates found not revoked", &self.revocation_good),
            ("certificates found revoked", &self.revocation_revoked),
            ("revocation unknown: nobody to ask", &self.revocation_no_source),
            ("revocation unknown: not fetched", &self.revocation_not_fetched),
            ("revocation unknown: answer not believed", &self.revocation_not_believed),
            ("log messages lost", &self.events_lost),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.load(Ordering::Relaxed)))
        .collect()
    }
}

/// Adds one.
pub fn increment(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
