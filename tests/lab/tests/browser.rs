//! A browser that is told of HTTP/3 by its server (SPEC D14): where QUIC is blocked it comes by TCP, and
//! is inspected; where it is let pass its QUIC reaches the server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use common::lab;
use weir_lab::bench::Bench;
use weir_lab::certificates::SIGNING_CA;
use weir_lab::document;
use weir_lab::ends::INTERFACE;
use weir_lab::peers::{Chromium, Page};
use weir_lab::process::Process;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 7);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser.py");

fn serve(bench: &Bench<Lab>) -> Process {
    let ends = &bench.ends;
    ends.server.ip(&["address", "add", &format!("{SERVER}/24"), "dev", INTERFACE]).unwrap();
    let mut command = ends.server.command("/usr/bin/python3");
    command.args([SCRIPT, &SERVER.to_string(), "443"]);
    let identity = &ends.certificates.public;
    command.arg(&identity.certificate).arg(&identity.key);
    let server = Process::start("browser", &mut command, &log(bench)).unwrap();
    until(|| read(&log(bench)).contains("ready"));
    server
}

fn log(bench: &Bench<Lab>) -> std::path::PathBuf {
    bench.run.path("browser.log")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Datagrams that reached the server.
fn datagrams(bench: &Bench<Lab>) -> usize {
    read(&log(bench)).lines().filter(|line| line.parse::<usize>().is_ok()).count()
}

fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "it did not come about");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The number behind this label.
fn shown(bench: &mut Bench<Lab>, label: &str) -> u64 {
    let text = bench.wire.console("show tls-inspection").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_default();
    line.trim().parse().unwrap_or_else(|_| panic!("no {label} in {text}"))
}

#[test]
fn a_browser_whose_quic_is_blocked_comes_by_tcp_and_is_inspected() {
    let mut bench = lab();
    let _server = serve(&bench);
    let mut chromium = Chromium::start(&bench.ends, SERVER.into(), &[]).unwrap();
    let mut visit = |page: u32| {
        let page = chromium.visit(&format!("https://public.example/{page}")).unwrap();
        assert_eq!(page, Page { protocol: "http/1.1".into(), issuer: SIGNING_CA.into() });
    };
    // The first one tells it of HTTP/3.
    let mut pages = 0..;
    until(|| {
        visit(pages.next().unwrap());
        shown(&mut bench, "QUIC packets blocked") > 0
    });
    assert_eq!(datagrams(&bench), 0);
    let explained = bench
        .wire
        .console("debug explain segment 1 from 10.66.0.1 to 10.66.0.7 port 443 protocol udp")
        .unwrap();
    assert!(explained.contains("client policy staff blocks it"), "{explained}");

    let text = document::weir_section(&bench.ends.certificates).unwrap();
    let passes = text.replace(
        "          client-proxy: staff\n",
        "          client-proxy: staff\n          quic: bypass\n",
    );
    assert_ne!(text, passes);
    bench.provision(&passes).unwrap();
    // A browser that has not given HTTP/3 up for a time.
    let mut chromium = Chromium::start(&bench.ends, SERVER.into(), &[]).unwrap();
    until(|| {
        let page = chromium.visit(&format!("https://public.example/{}", pages.next().unwrap()));
        assert_eq!(page.unwrap().protocol, "http/1.1", "there is nobody who speaks HTTP/3");
        datagrams(&bench) > 0
    });
    let policies = bench.wire.console("show tls-inspection").unwrap();
    assert!(policies.contains("QUIC passed by          staff\n"), "{policies}");
    bench.run.succeeded();
}
