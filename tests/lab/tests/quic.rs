//! QUIC through the whole of Weir, by ends that speak it (SPEC D14).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use common::lab;
use weir_lab::bench::Bench;
use weir_lab::document;
use weir_lab::ends::{INTERFACE, SERVER};
use weir_lab::namespace::Namespace;
use weir_lab::peers;
use weir_lab::process::{Process, finish};
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

/// Beyond any that one waits for in earnest: what waits for it was dropped.
const SECONDS: &str = "20";
/// What is dropped does not come in these.
const DROPPED: &str = "3";

fn serve(bench: &Bench<Lab>) -> Process {
    serve_at(bench, &bench.ends.server, SERVER)
}

fn serve_at(bench: &Bench<Lab>, namespace: &Namespace, address: Ipv4Addr) -> Process {
    let mut command = peers::packaged(namespace, "quic_peer.py").unwrap();
    let bank = &bench.ends.certificates.bank;
    command.args(["server", &address.to_string(), "443"]).arg(&bank.certificate).arg(&bank.key);
    let log = bench.run.path("quic-server.log");
    let mut server = Process::start("QUIC server", &mut command, &log).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !std::fs::read_to_string(&log).unwrap_or_default().contains("ready") {
        server.check().unwrap();
        assert!(Instant::now() < deadline, "no QUIC server");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

/// What the client says that came of it.
fn visit(bench: &Bench<Lab>, name: &str, protocols: usize, seconds: &str) -> String {
    visit_at(bench, SERVER, name, protocols, seconds, &[])
}

/// The same with decoys (see the program).
fn visit_at(
    bench: &Bench<Lab>,
    address: Ipv4Addr,
    name: &str,
    protocols: usize,
    seconds: &str,
    decoys: &[&str],
) -> String {
    let mut command = peers::packaged(&bench.ends.client, "quic_peer.py").unwrap();
    command.args(["client", &address.to_string(), "443", name]);
    command.arg(&bench.ends.certificates.client_trust);
    let done = finish(command.arg(protocols.to_string()).arg(seconds).args(decoys)).unwrap();
    done.text().trim().to_owned() + &done.errors
}

/// A server behind a router, which takes one from a TTL.
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 67, 0, 2);

fn lay_behind(bench: &Bench<Lab>) -> Namespace {
    let router = &bench.ends.server;
    let behind = Namespace::create(format!("{}behind", bench.run.prefix())).unwrap();
    let link = ["link", "add", "behind", "type", "veth", "peer", "name", INTERFACE];
    router.ip(&[&link[..], &["netns", behind.name()]].concat()).unwrap();
    router.ip(&["address", "add", "10.67.0.1/24", "dev", "behind"]).unwrap();
    router.ip(&["link", "set", "behind", "up"]).unwrap();
    router.sysctl("net.ipv4.ip_forward=1").unwrap();
    behind.ip(&["address", "add", &format!("{BEHIND}/24"), "dev", INTERFACE]).unwrap();
    behind.ip(&["link", "set", INTERFACE, "up"]).unwrap();
    behind.ip(&["route", "add", "default", "via", "10.67.0.1"]).unwrap();
    let by = SERVER.to_string();
    bench.ends.client.ip(&["route", "add", "10.67.0.0/24", "via", &by]).unwrap();
    behind
}

/// Counters come to the console once a second.
fn counted(bench: &mut Bench<Lab>, counter: &str, wanted: impl Fn(u64) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let shown = bench.wire.console("show segments detail").unwrap();
        let count = shown.lines().find_map(|line| line.split_once(counter)?.0.trim().parse().ok());
        let count = count.unwrap_or(0);
        if wanted(count) {
            return;
        }
        assert!(Instant::now() < deadline, "{counter}: {shown}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn quic_to_a_domain_not_to_decrypt_crosses_end_to_end_and_other_quic_does_not() {
    let mut bench = lab();
    let _server = serve(&bench);
    // Its certificate is the server's own, by which the client knows it. The second hello takes two datagrams.
    for protocols in [0, 6] {
        assert_eq!(visit(&bench, "bank.example", protocols, SECONDS), "answered");
    }
    counted(&mut bench, "quic excepted:", |count| count == 2);
    let refused = visit(&bench, "public.example", 0, DROPPED);
    assert!(refused.starts_with("no answer"), "{refused}");
    counted(&mut bench, "quic excepted:", |count| count == 2);
    bench.run.succeeded();
}

/// A hello that its server never gets, or does not take, before the one that it gets.
#[test]
fn decoys_of_a_domain_not_to_decrypt_open_no_way_for_another_connection() {
    let mut bench = lab();
    let behind = lay_behind(&bench);
    let _server = serve_at(&bench, &behind, BEHIND);
    let visit = |bench: &Bench<Lab>, name: &str, seconds: &str, decoys: &[&str]| {
        visit_at(bench, BEHIND, name, 0, seconds, decoys)
    };
    assert_eq!(visit(&bench, "bank.example", SECONDS, &[]), "answered");
    // How many were excepted, and how many of these the server saw.
    for (flaw, excepted, seen) in [("small-ttl", 2, 1), ("wrong-checksum", 2, 1), ("none", 3, 2)] {
        let decoy = ["before", "bank.example", flaw];
        let refused = visit(&bench, "public.example", DROPPED, &decoy);
        assert!(refused.starts_with("no answer"), "{flaw}: {refused}");
        counted(&mut bench, "quic excepted:", |count| count == excepted);
        let log = std::fs::read_to_string(bench.run.path("quic-server.log")).unwrap();
        assert_eq!(log.matches("a connection begins").count(), seen, "{flaw}");
    }
    bench.run.succeeded();
}

/// Anybody can send them in its client's name.
#[test]
fn decoys_end_no_connection_to_a_domain_not_to_decrypt() {
    let bench = lab();
    let behind = lay_behind(&bench);
    let _server = serve_at(&bench, &behind, BEHIND);
    for name in ["public.example", "bank.example", "-"] {
        for flaw in ["small-ttl", "wrong-checksum", "none"] {
            let amid = ["amid", name, flaw];
            let answer = visit_at(&bench, BEHIND, "bank.example", 0, SECONDS, &amid);
            assert_eq!(answer, "answered", "{name}, {flaw}");
        }
    }
    bench.run.succeeded();
}

#[test]
fn where_certificates_decide_no_quic_is_excepted() {
    let mut bench = lab();
    let text = document::weir_section(&bench.ends.certificates).unwrap();
    let policy = "    - name: private\n";
    assert!(text.contains(policy));
    let by_certificate = format!("{policy}      decided-by: server-certificate\n");
    bench.provision(&text.replace(policy, &by_certificate)).unwrap();
    let _server = serve(&bench);
    let refused = visit(&bench, "bank.example", 0, DROPPED);
    assert!(refused.starts_with("no answer"), "{refused}");
    counted(&mut bench, "quic dropped:", |count| count > 0);
    counted(&mut bench, "quic excepted:", |count| count == 0);
    bench.run.succeeded();
}
