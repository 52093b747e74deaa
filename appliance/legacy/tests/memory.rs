//! What idle legs cost the worker in memory: after their handshakes, and after data both ways.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Leg, Worker, all_suites, certified, join, to_server};
use weir_api::legacy::ToWorker;
use weir_policy::suites::Protocol;

const SESSIONS: usize = 200;
/// The bar is 64 KiB for a session with all that is kept for it; the engine keeps no buffers.
const BOUND: usize = 47 << 10;

/// Bytes of the worker's own memory.
fn resident(worker: &Worker) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// 64 KiB, in records of the longest kind.
fn transfer(from: &mut Leg, to: &mut Leg) {
    let data = vec![b'x'; 16 << 10];
    for _ in 0..4 {
        from.say(&ToWorker::Plain(data.clone()));
        for part in from.settle().chunks(30_000) {
            to.feed(part);
        }
        to.said.clear();
    }
}

#[test]
fn idle_session_keeps_little_memory() {
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    for version in [Protocol::Tls10, Protocol::Tls12] {
        // Each its own, which has freed nothing yet. glibc's allocator keeps large buffers that were
        // freed unless it is told not to; the appliance's (musl's) gives them back.
        let worker = Worker::start_with(&[("MALLOC_MMAP_THRESHOLD_", "8192")]);
        let only = (version.code(), version.code());
        let session = || {
            // As to any server: whatever the proxy allows is offered.
            let all = (Protocol::Tls10.code(), Protocol::Tls13.code());
            let mut client = worker.leg(to_server(all, &all_suites()));
            let mut server = worker.leg(rsa.to_client(only, &all_suites()));
            join(&mut client, &mut server);
            [client, server]
        };
        let mut warm = session();
        let before = resident(&worker);
        let mut sessions: Vec<_> = (0..SESSIONS).map(|_| session()).collect();
        let shaken = resident(&worker).saturating_sub(before) / SESSIONS;
        for [client, server] in &mut sessions {
            transfer(client, server);
            transfer(server, client);
        }
        let idle = resident(&worker).saturating_sub(before) / SESSIONS;
        println!("{version}: {shaken} B after the handshakes, {idle} B after data");
        assert!(idle > 16 << 10, "{version}: nothing was measured");
        assert!(idle <= BOUND, "{version}: {idle} bytes a session of two legs");
        let [client, server] = &mut warm;
        transfer(client, server);
    }
}
