//! How sessions end: alerts, close_notify, FIN and RST of either end, at the other end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use common::lab;
use weir_lab::bench::Bench;
use weir_lab::ends::{Ends, INTERFACE};
use weir_lab::process::{Process, succeed};
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 6);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/alerts.py");

/// What one end does, and what the other sees of it. A server's `unrecognized_name` and the like
/// speak of the session; `bad_record_mac` would accuse the other end of what it did not do.
const CASES: [(&str, &str); 10] = [
    ("send:2:49", "alert 49"),
    ("send:2:80", "alert 80"),
    ("send:2:51", "alert 80"),
    ("send:2:20", "alert 80"),
    ("send:2:90", "alert 90"),
    ("cancel", "close_notify"),
    ("close", "close_notify"),
    ("fin", "fin"),
    ("reset", "reset"),
    ("watch", "close_notify"),
];

fn server(ends: &Ends, priorities: &str, acts: &[&str]) -> anyhow::Result<Process> {
    ends.server.ip(&["address", "replace", &format!("{SERVER}/24"), "dev", INTERFACE])?;
    // RSA: ECDSA with CBC is off by default.
    let identity = &ends.certificates.shop;
    let mut command = ends.server.command("python3");
    command.arg(SCRIPT).args(["server", &SERVER.to_string(), "443", priorities]);
    command.arg(&identity.certificate).arg(&identity.key).args(acts);
    let _ = std::fs::remove_file(log(ends));
    let mut server = Process::start("alerts", &mut command, &log(ends))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !succeed(ends.server.command("ss").args(["-Hltn"]))?.contains(&format!("{SERVER}:443")) {
        server.check()?;
        anyhow::ensure!(Instant::now() < deadline, "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

fn log(ends: &Ends) -> std::path::PathBuf {
    ends.run.path("alerts.log")
}

/// What the client and the server saw, a line each for each act.
fn sessions(
    bench: &Bench<Lab>,
    [to_client, to_server]: [&str; 2],
    of_client: &[&str],
    of_server: &[&str],
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let mut server = server(&bench.ends, to_server, of_server)?;
    let mut command = bench.ends.client.command("python3");
    // This old server tells nobody why it closes, and what is known as modern is believed in then.
    let name = if to_server == OLD { "old.shop.example" } else { "shop.example" };
    command.arg(SCRIPT).args(["client", &SERVER.to_string(), "443", to_client, name]);
    let lines = |text: &str| text.lines().map(str::to_owned).collect();
    let client = lines(&succeed(command.args(of_client))?);
    let ended = server.wait(Duration::from_secs(60));
    anyhow::ensure!(
        ended.is_some(),
        "the server goes on: {}",
        std::fs::read_to_string(log(&bench.ends))?
    );
    Ok((client, lines(&std::fs::read_to_string(log(&bench.ends))?)))
}

const MODERN: &str = "NORMAL";
const TLS12: &str = "NORMAL:-VERS-ALL:+VERS-TLS1.2";
const OLD: &str = "NORMAL:-VERS-ALL:+VERS-TLS1.0:+CIPHER-ALL:+MAC-ALL";

/// Both ends, the stacks between them by version.
const VERSIONS: [[&str; 2]; 4] = [[MODERN, MODERN], [TLS12, TLS12], [OLD, MODERN], [MODERN, OLD]];

#[test]
fn what_ends_a_session_at_one_end_ends_it_so_at_the_other() {
    let mut bench = lab();
    let (acts, expected): (Vec<&str>, Vec<&str>) = CASES.into_iter().unzip();
    let watch = vec!["watch"; acts.len()];
    // The last act is to watch: then it is the other end that closes.
    let mut closes = watch.clone();
    *closes.last_mut().unwrap() = "close";
    for versions in VERSIONS {
        let (client, server) = sessions(&bench, versions, &closes, &acts).unwrap();
        let log = bench.wire.console("show sessions detail 12").unwrap();
        let last = acts.len() - 1;
        assert_eq!(client[..last], expected[..last], "of the server, {versions:?}: {log}");
        assert_eq!(server[last], expected[last], "of the client, {versions:?}");

        let (client, server) = sessions(&bench, versions, &acts, &closes).unwrap();
        assert_eq!(server[..last], expected[..last], "of the client, {versions:?}");
        assert_eq!(client[last], expected[last], "of the server, {versions:?}");
    }
    let shown = bench.wire.console("show sessions detail 100").unwrap();
    for line in [
        "Broken off              by the server: alert access_denied\n",
        "Broken off              by the client: alert decrypt_error\n",
    ] {
        assert!(shown.contains(line), "{line:?} is not in {shown}");
    }
    bench.run.succeeded();
}

/// Before a byte of data: the other end may still be in its handshake.
#[test]
fn an_alert_right_after_the_handshake_reaches_the_other_end() {
    let bench = lab();
    for versions in VERSIONS {
        let (client, _) =
            sessions(&bench, versions, &["early:watch"], &["early:send:2:49"]).unwrap();
        assert_eq!(client, ["alert 49"], "{versions:?}");
        let (_, server) =
            sessions(&bench, versions, &["early:send:2:80"], &["early:watch"]).unwrap();
        assert_eq!(server, ["alert 80"], "{versions:?}");
    }
    bench.run.succeeded();
}
