//! Servers that the modern stack could not speak with, by address and name.
//!
//! For: opening the next session with such a server on the legacy stack at once. Not for: clients,
//! whose hello tells. Ends with the engine. Cannot fail: what was forgotten costs one more attempt.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// Servers; past it the least recently used goes.
const BOUND: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);
/// After it the modern stack is tried again: servers are upgraded.
const LASTS: Duration = Duration::from_secs(6 * 3600);

pub struct LegacyServers(Mutex<LruCache<Server, Instant>>);

type Server = (SocketAddr, Option<String>);

impl Default for LegacyServers {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(BOUND)))
    }
}

impl LegacyServers {
    pub fn remember(&self, address: SocketAddr, name: Option<&str>, now: Instant) {
        self.servers().put(server(address, name), now);
    }

    pub fn knows(&self, address: SocketAddr, name: Option<&str>, now: Instant) -> bool {
        let server = server(address, name);
        let mut servers = self.servers();
        match servers.get(&server) {
            Some(since) if now.saturating_duration_since(*since) < LASTS => true,
            Some(_) => {
                servers.pop(&server);
                false
            }
            None => false,
        }
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
    fn server_is_known_by_address_and_name_until_it_expires() {
        let (servers, now) = (LegacyServers::default(), Instant::now());
        let address = "192.0.2.1:443".parse().unwrap();
        servers.remember(address, Some("Old.example."), now);
        let later = |time| now.checked_add(time).unwrap();
        assert!(servers.knows(address, Some("old.example"), later(LASTS / 2)));
        assert!(!servers.knows(address, None, now));
        assert!(!servers.knows("192.0.2.1:444".parse().unwrap(), Some("old.example"), now));
        assert!(!servers.knows(address, Some("old.example"), later(LASTS)));
        assert_eq!(servers.count(), 0);
    }

    #[test]
    fn memory_stays_bounded() {
        let (servers, now) = (LegacyServers::default(), Instant::now());
        let address = "192.0.2.1:443".parse().unwrap();
        for number in 0..6000 {
            servers.remember(address, Some(&format!("host-{number}.example")), now);
        }
        assert_eq!(servers.count(), BOUND.get());
    }
}
