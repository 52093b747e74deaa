//! QUIC through the whole of Weir, by ends that speak it (SPEC D14).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::lab;
use weir_lab::bench::Bench;
use weir_lab::document;
use weir_lab::ends::SERVER;
use weir_lab::peers;
use weir_lab::process::{Process, finish};
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

/// Beyond any that one waits for in earnest: what waits for it was dropped.
const SECONDS: &str = "20";
/// What is dropped does not come in these.
const DROPPED: &str = "3";

fn serve(bench: &Bench<Lab>) -> Process {
    let mut command = peers::packaged(&bench.ends.server, "quic_peer.py").unwrap();
    let bank = &bench.ends.certificates.bank;
    command.args(["server", &SERVER.to_string(), "443"]).arg(&bank.certificate).arg(&bank.key);
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
    let mut command = peers::packaged(&bench.ends.client, "quic_peer.py").unwrap();
    command.args(["client", &SERVER.to_string(), "443", name]);
    command.arg(&bench.ends.certificates.client_trust);
    let done = finish(command.arg(protocols.to_string()).arg(seconds)).unwrap();
    done.text().trim().to_owned() + &done.errors
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
