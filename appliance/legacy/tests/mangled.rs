//! Hellos and records that change on the way, and hellos in many pieces: the legacy stack's legs, in
//! a worker that outlives them all.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../tls/tests/common/mangle.rs"]
mod mangle;

use common::{Certified, Leg, Worker, certified, to_server};
use mangle::{Change, End, change, converse, in_records};
use proptest::prelude::*;
use weir_api::legacy::{CONTROL_PING, ToWorker};
use weir_policy::suites::{Protocol, TABLE};

struct Legacy(Leg);

impl End for Legacy {
    fn feed(&mut self, wire: &[u8]) -> Vec<u8> {
        let mut back = Vec::new();
        for part in wire.chunks(30_000) {
            if self.0.failure().is_none() {
                back.extend(self.0.feed(part));
            }
        }
        back
    }

    fn write(&mut self, plain: &[u8]) -> Vec<u8> {
        if self.0.failure().is_some() {
            return Vec::new();
        }
        self.0.say(&ToWorker::Plain(plain.to_vec()));
        self.0.settle()
    }

    fn established(&self) -> bool {
        self.0.established().is_some() && self.0.failure().is_none()
    }

    fn plain(&mut self) -> Vec<u8> {
        self.0.plain()
    }
}

/// As in the modern stack's test.
fn ends(worker: &Worker, key: &Certified, version: Protocol) -> (Legacy, Legacy, Vec<u8>) {
    let suites: Vec<u16> =
        TABLE.iter().filter(|suite| suite.used_in(version)).map(|suite| suite.id).collect();
    let only = (version.code(), version.code());
    let mut client = Legacy(worker.leg(to_server(only, &suites)));
    let mut server = Legacy(worker.leg(key.to_client((0x0300, 0x0304), &common::all_suites())));
    let hello = client.0.settle();
    server.0.settle();
    (client, server, hello)
}

thread_local! {
    static WORKER: (Worker, Certified) = (Worker::start(), certified(&rcgen::PKCS_RSA_SHA256));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_change_on_the_way_ends_the_worker_or_says_what_was_not_said(
        version in 0usize..5,
        flight in 0usize..8,
        change in change(),
    ) {
        WORKER.with(|(worker, key)| {
            let (mut client, mut server, hello) = ends(worker, key, Protocol::ALL[version]);
            converse(&mut client, &mut server, hello, flight, &change)?;
            worker.control.send(&[CONTROL_PING]).unwrap();
            let mut byte = [0];
            worker.control.recv(&mut byte).unwrap();
            prop_assert_eq!(byte, [CONTROL_PING]);
            Ok::<(), TestCaseError>(())
        })?;
    }
}

#[test]
fn hello_may_come_in_any_pieces_and_in_up_to_40_records() {
    let nothing = Change::Rotate { by: 0 };
    let (worker, key) = (Worker::start(), certified(&rcgen::PKCS_RSA_SHA256));
    for version in Protocol::ALL {
        for count in [1, 2, 3, 10, 40] {
            let (mut client, mut server, hello) = ends(&worker, &key, version);
            let hello = in_records(&hello, count);
            converse(&mut client, &mut server, hello, usize::MAX, &nothing).unwrap();
            assert_eq!(client.plain().len(), 20_000, "{version} {count}");
        }
        let (mut client, mut server, hello) = ends(&worker, &key, version);
        let (last, all_but_one) = hello.split_last().unwrap();
        for byte in all_but_one {
            assert!(server.feed(std::slice::from_ref(byte)).is_empty());
        }
        converse(&mut client, &mut server, vec![*last], usize::MAX, &nothing).unwrap();
        assert_eq!(client.plain().len(), 20_000, "{version} byte by byte");
    }
}
