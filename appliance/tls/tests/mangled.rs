//! Hellos and records that change on the way, and hellos in many pieces: the modern stack's legs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/mangle.rs"]
mod mangle;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use common::{authority, leaf};
use mangle::{Change, End, change, converse, in_records};
use proptest::prelude::*;
use rcgen::PKCS_ECDSA_P256_SHA256;
use weir_policy::suites::{Allowed, Protocol};
use weir_tls::{LegKey, ModernStack, TlsLeg, Verdict};

const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);

static KEY: LazyLock<LegKey> = LazyLock::new(|| {
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    LegKey::new(&leaf(&authority, &["server.test"])).unwrap()
});

struct Modern {
    leg: Box<dyn TlsLeg>,
    plain: Vec<u8>,
    failed: bool,
}

impl Modern {
    fn new(leg: Box<dyn TlsLeg>) -> Self {
        Self { leg, plain: Vec::new(), failed: false }
    }

    fn wire(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        self.leg.write_wire(&mut wire);
        wire
    }
}

impl End for Modern {
    fn feed(&mut self, wire: &[u8]) -> Vec<u8> {
        for part in wire.chunks(1400) {
            if !self.failed {
                self.failed = self.leg.read_wire(part).is_err();
                self.leg.read_plain(&mut self.plain);
            }
        }
        self.wire()
    }

    fn write(&mut self, plain: &[u8]) -> Vec<u8> {
        if !self.failed {
            assert_eq!(self.leg.write_plain(plain), plain.len());
        }
        self.wire()
    }

    fn established(&self) -> bool {
        !self.leg.handshaking() && !self.failed
    }

    fn plain(&mut self) -> Vec<u8> {
        self.plain.clone()
    }
}

/// A leg to a server, that speaks this version alone, with its hello; and a leg to a client.
fn ends(version: Protocol) -> (Modern, Modern, Vec<u8>) {
    let allowed = Allowed { weakest: version, strongest: version, ..Allowed::default() };
    let narrow = ModernStack::under(&allowed).unwrap().unwrap();
    let leg = narrow.server_leg(Some("server.test"), ADDRESS, vec![b"http/1.1".to_vec()]);
    let mut client = Modern::new(leg.unwrap());
    let leg = ModernStack::new().unwrap().client_leg(&KEY, Verdict::default(), None);
    let server = Modern::new(leg.unwrap());
    let hello = client.wire();
    (client, server, hello)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_change_on_the_way_makes_a_leg_panic_or_say_what_was_not_said(
        modern in any::<bool>(),
        flight in 0usize..8,
        change in change(),
    ) {
        let version = if modern { Protocol::Tls13 } else { Protocol::Tls12 };
        let (mut client, mut server, hello) = ends(version);
        converse(&mut client, &mut server, hello, flight, &change)?;
    }
}

#[test]
fn hello_may_come_in_any_pieces_and_in_up_to_40_records() {
    let nothing = Change::Rotate { by: 0 };
    for version in [Protocol::Tls12, Protocol::Tls13] {
        for count in 1..=40 {
            let (mut client, mut server, hello) = ends(version);
            let hello = in_records(&hello, count);
            converse(&mut client, &mut server, hello, usize::MAX, &nothing).unwrap();
            assert!(client.established() && server.established(), "{version} {count}");
            assert_eq!(client.plain.len(), 20_000, "{version} {count}");
        }
        let (mut client, mut server, hello) = ends(version);
        let (last, all_but_one) = hello.split_last().unwrap();
        for byte in all_but_one {
            assert!(server.feed(std::slice::from_ref(byte)).is_empty());
        }
        converse(&mut client, &mut server, vec![*last], usize::MAX, &nothing).unwrap();
        assert_eq!(client.plain.len(), 20_000, "{version} byte by byte");
    }
}
