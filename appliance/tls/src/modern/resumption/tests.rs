//! When sessions end, and what is kept with them; between legs in memory, by a clock that is put on.

use std::cell::Cell;

use weir_policy::SecretBytes;
use weir_policy::snapshot::CertifiedKey;
use weir_policy::suites::{Allowed, Protocol};

use super::*;
use crate::leg::{PlainState, TlsLeg};
use crate::modern::ModernStack;
use crate::verify::KEPT_STAPLE_BOUND;

thread_local! {
    /// So much later than it is.
    pub(super) static LATER: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

const NAME: &str = "server.test";

/// A server whose certificate is valid for so long, and what speaks with it, of one version.
struct World {
    near: ModernStack,
    far: ModernStack,
    key: LegKey,
}

impl World {
    fn new(version: Protocol, valid_for: Duration) -> Self {
        let allowed = Allowed { weakest: version, strongest: version, ..Allowed::default() };
        let stack = || ModernStack::under(&allowed).unwrap().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        parameters.not_after = (std::time::SystemTime::now() + valid_for).into();
        let chain = vec![parameters.self_signed(&key).unwrap().der().to_vec()];
        let key = SecretBytes::new(key.serialize_der());
        let key = LegKey::new(&CertifiedKey { chain, key }).unwrap();
        Self { near: stack(), far: stack(), key }
    }

    /// A visit when it is so much later: whether it was resumed, and what the server staples as it seems.
    fn visited(&self, minutes: u64) -> (bool, Option<Vec<u8>>) {
        LATER.set(Duration::from_secs(60 * minutes));
        let address = "192.0.2.1:443".parse().unwrap();
        let mut near = self.near.server_leg(Some(NAME), address, vec![]).unwrap();
        let mut far = self.far.client_leg(&self.key, Verdict::default(), None).unwrap();
        for _ in 0..3 {
            give(near.as_mut(), far.as_mut());
            give(far.as_mut(), near.as_mut());
        }
        assert_eq!(near.peer_chain().as_deref(), Some(self.key.chain()));
        (near.negotiated().unwrap().resumed, near.stapled_response())
    }

    fn resumed(&self, minutes: u64) -> bool {
        self.visited(minutes).0
    }
}

fn give(from: &mut dyn TlsLeg, to: &mut dyn TlsLeg) {
    let (mut wire, mut plain) = (Vec::new(), Vec::new());
    from.write_wire(&mut wire);
    to.read_wire(&wire).unwrap();
    assert_eq!(to.read_plain(&mut plain), PlainState::Open);
}

const VERSIONS: [Protocol; 2] = [Protocol::Tls12, Protocol::Tls13];
const LONG: Duration = Duration::from_secs(30 * 86_400);

/// rustls copies the chain of the session that was resumed into each new ticket: else a server that is
/// visited often would never show the certificate that it has by now.
#[test]
fn session_with_a_server_ends_two_hours_after_its_full_handshake_whatever_followed() {
    for version in VERSIONS {
        let world = World::new(version, LONG);
        assert!(!world.resumed(0), "{version}");
        for minutes in [40, 80, 119] {
            assert!(world.resumed(minutes), "{version}, {minutes}");
        }
        assert!(!world.resumed(121), "{version}");
        assert!(world.resumed(239), "{version}");
        assert!(!world.resumed(242), "{version}");
    }
}

#[test]
fn session_with_a_server_ends_with_the_certificate_that_it_began_with() {
    for version in VERSIONS {
        let world = World::new(version, Duration::from_secs(60 * 30));
        assert!(!world.resumed(0), "{version}");
        assert!(world.resumed(28), "{version}");
        assert!(!world.resumed(31), "{version}");
    }
}

/// A client of our own server's may ask for it, and be let down without.
#[test]
fn what_a_server_stapled_is_told_of_the_sessions_that_are_resumed_too() {
    for version in VERSIONS {
        let mut world = World::new(version, LONG);
        let staple = vec![7; KEPT_STAPLE_BOUND];
        world.key = world.key.with_staple(staple.clone());
        for minutes in [0, 1, 2] {
            assert!(world.visited(minutes) == (minutes > 0, Some(staple.clone())), "{version}");
        }
        let long = [staple, vec![7]].concat();
        world = World::new(version, LONG);
        world.key = world.key.with_staple(long.clone());
        for minutes in [0, 1] {
            assert!(world.visited(minutes) == (false, Some(long.clone())), "{version}");
        }
    }
}

fn key(number: usize) -> (Binding, Vec<u8>) {
    (Binding([0; BINDING]), number.to_be_bytes().to_vec())
}

#[test]
fn client_sessions_end_in_time_whatever_their_use() {
    let (sessions, now) = (ClientSessions::default(), Instant::now());
    assert!(sessions.put(key(1), b"secret".to_vec(), now));
    let later = |part| now.checked_add(LASTS / part).unwrap();
    assert_eq!(sessions.get(&key(1), later(2)).as_deref(), Some(b"secret".as_slice()));
    assert_eq!(sessions.get(&key(2), later(2)), None);
    let other = (Binding([1; BINDING]), key(1).1);
    assert_eq!(sessions.get(&other, later(2)), None);
    assert_eq!(sessions.get(&key(1), later(1)), None);
    assert_eq!(sessions.0.count(), 0);
}

#[test]
fn client_sessions_are_bounded_in_number_and_length() {
    let (sessions, now) = (ClientSessions::default(), Instant::now());
    assert!(!sessions.put(key(0), vec![0; LONGEST_SESSION + 1], now));
    for number in 1..=2 * CLIENTS_BOUND {
        assert!(sessions.put(key(number), Vec::new(), now));
        assert!(sessions.get(&key(1), now).is_some(), "used a moment ago");
    }
    assert_eq!(sessions.0.count(), CLIENTS_BOUND);
    assert!(sessions.get(&key(2), now).is_none(), "one of the least recently used");
    assert!(sessions.take(&key(1), now).is_some() && sessions.get(&key(1), now).is_none());
}
