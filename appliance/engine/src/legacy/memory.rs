//! Servers by the stack that could speak with them, by where they are, address and name.
//!
//! For: opening the next session with a server that needs the legacy stack there at once, and none
//! there with a server that does not, whatever happens to a connection. What is remembered is what a
//! handshake came to, whose end the server's key vouches for: nobody on the path makes a server look
//! older than it is by a reset or an alert, but to clients without TLS 1.3, whose hello bounds what the
//! handshake can show, and for minutes. Tables of this kind: of servers that need the legacy
//! stack (for as long as the failure on the modern one was worth; ends with the engine), of those that
//! need it for clients without TLS 1.3 only, since nothing else is known of them, and of those that do
//! not (one for each proxy of each policy generation: what one allows another may not). Not
//! for: clients, whose hello tells. Cannot fail: what was forgotten costs one more attempt.

use std::time::{Duration, Instant};

use weir_policy::ServerAt;
use weir_tls::ShardedCache;

/// Servers, about 150 bytes each; past it the least recently used goes.
const BOUND: usize = 4096;

/// How long a server that the modern stack spoke with is known for it. One that became older since, and
/// does not say so but closes, is not reached for so long.
pub const MODERN_LASTS: Duration = Duration::from_secs(3600);

/// How the modern stack failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The server said so, by an alert or by what it chose.
    Protocol,
    /// The connection ended: so do old servers, and those that are short of something.
    Silence,
    /// No answer at all: some old servers wait for the rest of a hello that they do not understand.
    Mute,
}

impl Evidence {
    /// After it the modern stack is tried again: servers are upgraded.
    pub const fn lasts(self) -> Duration {
        match self {
            Self::Protocol => Duration::from_secs(6 * 3600),
            Self::Silence | Self::Mute => Duration::from_secs(600),
        }
    }
}

/// By server, until when.
pub struct KnownServers(ShardedCache<Server, Instant>);

type Server = (ServerAt, Option<String>);

impl Default for KnownServers {
    fn default() -> Self {
        Self(ShardedCache::new(BOUND))
    }
}

impl KnownServers {
    pub fn remember(&self, at: ServerAt, name: Option<&str>, lasts: Duration, now: Instant) {
        let Some(until) = now.checked_add(lasts) else { return };
        self.0.put(server(at, name), until);
    }

    pub fn knows(&self, at: ServerAt, name: Option<&str>, now: Instant) -> bool {
        let server = server(at, name);
        match self.0.find(&server, |until| now < *until) {
            Some(true) => true,
            Some(false) => {
                self.0.remove(&server);
                false
            }
            None => false,
        }
    }

    /// It turned out to be otherwise.
    pub fn forget(&self, at: ServerAt, name: Option<&str>) {
        self.0.remove(&server(at, name));
    }

    pub fn count(&self) -> usize {
        self.0.count()
    }
}

fn server(at: ServerAt, name: Option<&str>) -> Server {
    (at, name.map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use weir_policy::Place;
    use weir_policy::snapshot::SegmentId;

    use super::*;

    fn at(vlan: Option<u16>) -> ServerAt {
        Place::new(SegmentId(1), vlan).server("192.0.2.1:443".parse().unwrap())
    }

    #[test]
    fn server_is_known_by_address_and_name_for_as_long_as_the_evidence_is_good() {
        let (at, elsewhere) = (at(Some(7)), at(None));
        let other_port = at.place.server("192.0.2.1:444".parse().unwrap());
        for evidence in [Evidence::Protocol, Evidence::Silence] {
            let (servers, now) = (KnownServers::default(), Instant::now());
            servers.remember(at, Some("Old.example."), evidence.lasts(), now);
            let later = |time| now.checked_add(time).unwrap();
            assert!(servers.knows(at, Some("old.example"), later(evidence.lasts() / 2)));
            assert!(!servers.knows(at, None, now));
            assert!(!servers.knows(elsewhere, Some("old.example"), now));
            assert!(!servers.knows(other_port, Some("old.example"), now));
            assert!(!servers.knows(at, Some("old.example"), later(evidence.lasts())));
            assert_eq!(servers.count(), 0);
        }
        assert!(Evidence::Silence.lasts() * 10 < Evidence::Protocol.lasts());
    }

    #[test]
    fn server_that_learnt_better_is_forgotten() {
        let (servers, now) = (KnownServers::default(), Instant::now());
        let at = at(Some(7));
        servers.remember(at, Some("old.example"), MODERN_LASTS, now);
        servers.forget(at, Some("Old.Example"));
        assert!(!servers.knows(at, Some("old.example"), now));
    }

    #[test]
    fn memory_stays_bounded() {
        let (servers, now) = (KnownServers::default(), Instant::now());
        let at = at(Some(7));
        for number in 0..2 * BOUND {
            let name = format!("host-{number}.example");
            servers.remember(at, Some(&name), MODERN_LASTS, now);
        }
        assert_eq!(servers.count(), BOUND);
    }
}
