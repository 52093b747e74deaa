//! Servers that the modern stack could not speak with, by address and name.
//!
//! For: opening the next session with such a server on the legacy stack at once. What is remembered is
//! what a handshake on the legacy stack came to, whose end the server's key vouches for: nobody on
//! the path makes a server look older than it is by a reset or an alert. How long it is remembered is
//! what the failure on the modern stack was worth. Not for: clients, whose hello tells. Ends with the
//! engine. Cannot fail: what was forgotten costs one more attempt.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// Servers; past it the least recently used goes.
const BOUND: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// How the modern stack failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The server said so, by an alert or by what it chose.
    Protocol,
    /// The connection ended: so do old servers, and those that are short of something.
    Silence,
}

impl Evidence {
    /// After it the modern stack is tried again: servers are upgraded.
    const fn lasts(self) -> Duration {
        match self {
            Self::Protocol => Duration::from_secs(6 * 3600),
            Self::Silence => Duration::from_secs(600),
        }
    }
}

/// By server, until when.
pub struct LegacyServers(Mutex<LruCache<Server, Instant>>);

type Server = (SocketAddr, Option<String>);

impl Default for LegacyServers {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(BOUND)))
    }
}

impl LegacyServers {
    pub fn remember(
        &self,
        address: SocketAddr,
        name: Option<&str>,
        evidence: Evidence,
        now: Instant,
    ) {
        if let Some(until) = now.checked_add(evidence.lasts()) {
            self.servers().put(server(address, name), until);
        }
    }

    pub fn knows(&self, address: SocketAddr, name: Option<&str>, now: Instant) -> bool {
        let server = server(address, name);
        let mut servers = self.servers();
        match servers.get(&server) {
            Some(until) if now < *until => true,
            Some(_) => {
                servers.pop(&server);
                false
            }
            None => false,
        }
    }

    /// It turned out that the modern stack can speak with it.
    pub fn forget(&self, address: SocketAddr, name: Option<&str>) {
        self.servers().pop(&server(address, name));
    }

    pub fn count(&self) -> usize {
        self.servers().len()
    }

    fn servers(&self) -> std::sync::MutexGuard<'_, LruCache<Server, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn server(address: SocketAddr, name: Option<&str>) -> Server {
    (address, name.map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_known_by_address_and_name_for_as_long_as_the_evidence_is_good() {
        let address = "192.0.2.1:443".parse().unwrap();
        for evidence in [Evidence::Protocol, Evidence::Silence] {
            let (servers, now) = (LegacyServers::default(), Instant::now());
            servers.remember(address, Some("Old.example."), evidence, now);
            let later = |time| now.checked_add(time).unwrap();
            assert!(servers.knows(address, Some("old.example"), later(evidence.lasts() / 2)));
            assert!(!servers.knows(address, None, now));
            assert!(!servers.knows("192.0.2.1:444".parse().unwrap(), Some("old.example"), now));
            assert!(!servers.knows(address, Some("old.example"), later(evidence.lasts())));
            assert_eq!(servers.count(), 0);
        }
        assert!(Evidence::Silence.lasts() * 10 < Evidence::Protocol.lasts());
    }

    #[test]
    fn server_that_learnt_better_is_forgotten() {
        let (servers, now) = (LegacyServers::default(), Instant::now());
        let address = "192.0.2.1:443".parse().unwrap();
        servers.remember(address, Some("old.example"), Evidence::Protocol, now);
        servers.forget(address, Some("Old.Example"));
        assert!(!servers.knows(address, Some("old.example"), now));
    }

    #[test]
    fn memory_stays_bounded() {
        let (servers, now) = (LegacyServers::default(), Instant::now());
        let address = "192.0.2.1:443".parse().unwrap();
        for number in 0..6000 {
            let name = format!("host-{number}.example");
            servers.remember(address, Some(&name), Evidence::Silence, now);
        }
        assert_eq!(servers.count(), BOUND.get());
    }
}
