//! What is kept of connections for a short time, each client's bounded.
//!
//! For: datagrams that wait for the rest of their hello, and those by which a connection was excepted. One
//! client's can push out but its own. Does not fail; past a bound something is not kept.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::datagram::{Datagram, Way};

/// Datagrams by connection.
pub struct Recent {
    entries: HashMap<Way, (Instant, Vec<Datagram>)>,
    /// Connections.
    most: usize,
    /// Of one client; past it, its oldest goes.
    most_of_client: usize,
    /// Afterwards they are forgotten.
    kept_for: Duration,
}

/// Who counts as one client: an IPv4 address, or an IPv6 network of 64 bits, as in bpf/clients.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client(u64);

impl Client {
    #[cfg(test)]
    pub fn numbered(number: u64) -> Self {
        Self(number)
    }

    pub fn of(way: &Way) -> Self {
        match way.candidate().client.ip() {
            IpAddr::V4(address) => Self(u64::from(address.to_bits())),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }
}

impl Recent {
    pub fn new(most: usize, most_of_client: usize, kept_for: Duration) -> Self {
        Self { entries: HashMap::new(), most, most_of_client, kept_for }
    }

    pub fn get(&self, way: &Way, now: Instant) -> &[Datagram] {
        let found = self.entries.get(way);
        let fresh = found.filter(|(since, _)| now.duration_since(*since) <= self.kept_for);
        fresh.map_or(&[], |(_, datagrams)| datagrams)
    }

    /// Those, which are not kept any longer.
    pub fn take(&mut self, way: &Way, now: Instant) -> Vec<Datagram> {
        let found = self.entries.remove(way);
        let fresh = found.filter(|(since, _)| now.duration_since(*since) <= self.kept_for);
        fresh.map_or_else(Vec::new, |(_, datagrams)| datagrams)
    }

    /// Whether there was room.
    pub fn keep(&mut self, way: Way, datagrams: Vec<Datagram>, now: Instant) -> bool {
        let client = Client::of(&way);
        let own = self.entries.iter().filter(|(other, _)| Client::of(other) == client);
        let oldest = own.clone().min_by_key(|(_, (since, _))| *since).map(|(oldest, _)| *oldest);
        if own.count() >= self.most_of_client
            && let Some(oldest) = oldest
        {
            self.entries.remove(&oldest);
        }
        if self.entries.len() >= self.most {
            let kept_for = self.kept_for;
            self.entries.retain(|_, (since, _)| now.duration_since(*since) <= kept_for);
        }
        let room = self.entries.len() < self.most;
        if room {
            self.entries.insert(way, (now, datagrams));
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{FlowKey, mapped};
    use crate::quic::datagram::tests::way;

    fn of(client: &str, port: u16) -> Way {
        let address = ["0.0.0.1", client].map(|address| mapped(address.parse().unwrap()));
        way(FlowKey { address, port: [[1, 0xbb], port.to_be_bytes()], ..FlowKey::default() })
    }

    #[test]
    fn one_client_pushes_out_none_but_its_own() {
        let mut recent = Recent::new(4, 2, Duration::from_secs(3));
        let now = Instant::now();
        let second = |number| now + Duration::from_secs(number);
        for (number, way) in
            [of("10.0.0.1", 1), of("10.0.0.1", 2), of("10.0.0.1", 3)].iter().enumerate()
        {
            assert!(recent.keep(*way, vec![], now + Duration::from_millis(number as u64)));
        }
        assert!(!recent.entries.contains_key(&of("10.0.0.1", 1)));
        for client in ["10.0.0.2", "10.0.0.3"] {
            assert!(recent.keep(of(client, 1), vec![], second(1)));
        }
        assert!(
            !recent.keep(of("10.0.0.4", 1), vec![], second(1)),
            "more than the table has room for"
        );
        // What is too old makes room.
        assert!(recent.keep(of("10.0.0.4", 1), vec![], second(4)));
        assert!(!recent.entries.contains_key(&of("10.0.0.1", 2)));
        assert!(recent.entries.contains_key(&of("10.0.0.2", 1)));
    }
}
