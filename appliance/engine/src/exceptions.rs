//! Which servers' certificates were seen to be of domains not to decrypt, where policy lets the
//! certificate decide and not the client's word (SPEC T5).
//!
//! For: judging the next session with the same server under the same name without asking it again.
//! Not for: the decision itself ([`crate::session`] makes it). Ends with its policy's generation.
//! Cannot fail: what was forgotten is asked once more.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use weir_api::engine::ExceptedServer;
use weir_policy::ServerAt;
use weir_policy::snapshot::DecryptionPolicy;
use weir_tls::ShardedCache;

/// Entries; past it the least recently used goes.
const BOUND: usize = 4096;
/// A server that shows another certificate is found out after this.
const LASTS: Duration = Duration::from_secs(3600);

/// What the decision goes by beside the certificate: indices of the snapshot. Another trust store, other
/// domains, another minimum of keys or another way of asking for revocation may decide otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Deciding {
    pub client_proxy: usize,
    pub trust_store: usize,
    pub decryption_policy: usize,
}

/// By what decided, server and normalised name: whether it is excepted, since when.
#[derive(Debug)]
pub struct Exceptions(ShardedCache<Subject, (bool, Instant)>);

type Subject = (Deciding, ServerAt, Option<String>);

impl Default for Exceptions {
    fn default() -> Self {
        Self(ShardedCache::new(BOUND))
    }
}

impl Exceptions {
    /// Whether the server under this name is excepted; `None`: nobody knows.
    pub fn known(
        &self,
        deciding: Deciding,
        server: ServerAt,
        name: Option<&str>,
        now: Instant,
    ) -> Option<bool> {
        let key = (deciding, server, name.map(normalised));
        let (excepted, since) = self.0.find(&key, |entry| *entry)?;
        if now.saturating_duration_since(since) < LASTS {
            return Some(excepted);
        }
        self.0.remove(&key);
        None
    }

    pub fn learn(
        &self,
        deciding: Deciding,
        server: ServerAt,
        name: Option<&str>,
        excepted: bool,
        now: Instant,
    ) {
        self.0.put((deciding, server, name.map(normalised)), (excepted, now));
    }

    /// Servers that are excepted, and that are not.
    pub fn counts(&self, now: Instant) -> [u64; 2] {
        let known = self.0.gather(|_, (excepted, since)| {
            (now.saturating_duration_since(*since) < LASTS).then_some(*excepted)
        });
        [true, false].map(|excepted| {
            known
                .iter()
                .filter(|one| **one == excepted)
                .fold(0, |count: u64, _| count.saturating_add(1))
        })
    }

    /// The newest `most` of those that are excepted.
    pub fn list(
        &self,
        policies: &[DecryptionPolicy],
        most: usize,
        now: Instant,
    ) -> Vec<ExceptedServer> {
        let mut excepted = self.0.gather(|(deciding, server, name), (excepted, since)| {
            let age = now.saturating_duration_since(*since);
            let left = LASTS.checked_sub(age).filter(|left| *excepted && !left.is_zero())?;
            let policy = policies.get(deciding.decryption_policy)?;
            Some(ExceptedServer {
                decryption_policy: policy.name.clone(),
                server: *server,
                server_name: name.clone(),
                seconds: age.as_secs(),
                left: left.as_secs(),
            })
        });
        excepted.sort_by_key(|one| one.seconds);
        excepted.truncate(most);
        excepted
    }

    /// What is known of this server name, or of servers at this address, is forgotten: how many were excepted.
    pub fn forget_of(&self, what: &str, now: Instant) -> usize {
        let (wanted, address) = (normalised(what), what.parse::<IpAddr>().ok());
        let known = self.0.gather(|key, (excepted, since)| {
            let (_, server, name) = key;
            let of_address = address.is_some_and(|ip| server.address.ip() == ip);
            (name.as_ref() == Some(&wanted) || of_address).then(|| {
                let holds = now.saturating_duration_since(*since) < LASTS;
                (key.clone(), *excepted && holds)
            })
        });
        let removed =
            known.into_iter().filter(|(key, excepted)| self.0.remove(key).is_some() && *excepted);
        removed.count()
    }

    pub fn forget(&self) {
        self.0.clear();
    }
}

fn normalised(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use weir_policy::Place;
    use weir_policy::snapshot::SegmentId;

    use super::*;

    const DECIDING: Deciding = Deciding { client_proxy: 0, trust_store: 0, decryption_policy: 0 };

    #[test]
    fn a_server_is_known_by_address_and_name_until_it_expires() {
        let (exceptions, start) = (Exceptions::default(), Instant::now());
        let place = Place::new(SegmentId(1), Some(7));
        let server = place.server("192.0.2.1:443".parse().unwrap());
        let other = place.server("192.0.2.2:443".parse().unwrap());
        let elsewhere = Place::new(SegmentId(1), None).server(server.address);
        let later = |seconds| start.checked_add(Duration::from_secs(seconds)).unwrap();
        assert_eq!(exceptions.known(DECIDING, server, Some("a.example"), start), None);
        exceptions.learn(DECIDING, server, Some("A.example."), true, start);
        exceptions.learn(DECIDING, server, None, false, start);
        exceptions.learn(DECIDING, other, Some("b.example"), true, start);
        assert_eq!(exceptions.forget_of("B.example", start), 1);
        assert_eq!(exceptions.known(DECIDING, other, Some("b.example"), start), None);
        assert_eq!(exceptions.known(DECIDING, server, Some("a.example"), later(3599)), Some(true));
        assert_eq!(exceptions.known(DECIDING, server, None, later(3599)), Some(false));
        assert_eq!(exceptions.known(DECIDING, other, Some("a.example"), start), None);
        assert_eq!(exceptions.known(DECIDING, elsewhere, Some("a.example"), start), None);
        // What it was is not counted as forgotten once it has expired.
        exceptions.learn(DECIDING, other, Some("b.example"), true, start);
        assert_eq!(exceptions.forget_of("b.example", later(3600)), 0);
        assert_eq!(exceptions.known(DECIDING, other, Some("b.example"), start), None);
        assert_eq!(exceptions.known(DECIDING, server, Some("a.example"), later(3600)), None);
    }

    #[test]
    fn told_is_what_is_excepted_and_for_how_long_until_it_is_forgotten() {
        let (exceptions, start) = (Exceptions::default(), Instant::now());
        let server = Place::default().server("192.0.2.1:443".parse().unwrap());
        exceptions.learn(DECIDING, server, Some("a.example"), true, start);
        exceptions.learn(DECIDING, server, Some("b.example"), false, start);
        let later = |seconds| start.checked_add(Duration::from_secs(seconds)).unwrap();
        let policy = DecryptionPolicy {
            name: "banks".into(),
            domains_not_to_decrypt: Vec::new(),
            decided_by: Default::default(),
        };
        let told = |now| exceptions.list(std::slice::from_ref(&policy), 10, now);
        let expected = ExceptedServer {
            decryption_policy: "banks".into(),
            server,
            server_name: Some("a.example".into()),
            seconds: 3599,
            left: 1,
        };
        assert_eq!(told(later(3599)), [expected]);
        assert_eq!(exceptions.counts(later(3599)), [1, 1]);
        assert_eq!(told(later(3600)), []);
        assert_eq!(exceptions.counts(later(3600)), [0, 0]);
        exceptions.forget();
        assert_eq!(exceptions.counts(start), [0, 0]);
    }

    #[test]
    fn what_is_known_stays_bounded() {
        let (exceptions, now) = (Exceptions::default(), Instant::now());
        let server = Place::default().server("192.0.2.1:443".parse().unwrap());
        for number in 0..6000 {
            exceptions.learn(DECIDING, server, Some(&format!("host-{number}.example")), true, now);
        }
        assert_eq!(exceptions.0.count(), BOUND);
    }
}
