//! Sessions over which nothing goes, where the device has an idle timeout: both ends are reset, and the
//! record says why. Those over which something goes live on.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weir_lab::bench::Bench;
use weir_lab::ends::SERVER;
use weir_lab::process::Process;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

use super::common::{Tls, connect, connect_in_pieces_to, read_until, write_record};
use super::gone::{OF_ANY_SERVICE, STACKS, client_command, is_reset, port_of, server};
use super::{configure, passes, record_of};

/// The least that there is.
const SECONDS: u64 = 10;
const TIMEOUT: (&str, &str) = ("  device:\n", "  device:\n    idle-timeout: 10\n");
const ENDED: &str = "Ended by the device's idle timeout of 10 s";

fn ensure_ended_idle(bench: &mut Bench<Lab>, port: u16) -> anyhow::Result<String> {
    let record = record_of(bench, port)?;
    anyhow::ensure!(record.contains(ENDED), "{record}");
    anyhow::ensure!(!record.contains("Broken off"), "{record}");
    Ok(record)
}

fn ask(tls: &mut Tls) -> anyhow::Result<()> {
    write_record(tls, b"GET / HTTP/1.1\r\nHost: public.example\r\n\r\n")?;
    read_until(tls, "benign page", 1).1?;
    Ok(())
}

#[test]
fn session_over_which_nothing_goes_ends_at_both_ends_on_either_stack() {
    passes(|bench| {
        configure(bench, &[OF_ANY_SERVICE, TIMEOUT])?;
        let public = bench.ends.certificates.public.clone();
        let shop = bench.ends.certificates.shop.clone();
        for (version, identity) in STACKS.into_iter().zip([&public, &shop]) {
            let _server = server(bench, identity, version, "deaf")?;
            let log = bench.run.path(&format!("idle-{version}.log"));
            let mut command = client_command(bench, version, "deaf");
            let mut client = Process::start("client", &mut command, &log)?;
            let port = port_of(&mut client, &log)?;
            let record = ensure_ended_idle(bench, port)?;
            assert!(record.contains(&format!("TLS with the client TLS {version}")), "{record}");
            is_reset(&bench.ends.client, port)?;
            is_reset(&bench.ends.server, port)?;
        }
        // The engine tells its counters once a second.
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let shown = bench.wire.console("debug np stats show npSslInspStats")?;
            let counted = shown.lines().find(|line| line.contains("connectionsEndedIdle"));
            if counted.is_some_and(|line| line.contains('2')) {
                break;
            }
            anyhow::ensure!(Instant::now() < deadline, "{shown}");
            std::thread::sleep(Duration::from_millis(200));
        }
        let shown = bench.wire.console("show tls-inspection")?;
        assert!(shown.contains("Idle sessions end       after 10 s"), "{shown}");
        Ok(())
    });
}

#[test]
fn session_that_nobody_reads_ends_where_nothing_goes_over_it() {
    passes(|bench| {
        configure(bench, &[TIMEOUT])?;
        let place = SocketAddr::from((SERVER, 443));
        let mut tls = connect_in_pieces_to(&bench.ends, place, "bank.example", &[20]);
        let port = tls.sock.local_addr()?.port();
        tls.sock.set_read_timeout(Some(Duration::from_secs(90)))?;
        // Its tickets, and the end.
        let end = tls.read(&mut [0; 16]);
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        let record = ensure_ended_idle(bench, port)?;
        assert!(record.contains("Outcome not decrypted (domain exception)"), "{record}");
        is_reset(&bench.ends.server, port)
    });
}

#[test]
fn session_over_which_something_goes_now_and_then_lives_on() {
    passes(|bench| {
        configure(bench, &[TIMEOUT])?;
        let mut idle = connect(&bench.ends, "public.example");
        ask(&mut idle)?;
        let mut used = connect(&bench.ends, "public.example");
        for _ in 0..5 {
            ask(&mut used)?;
            std::thread::sleep(Duration::from_secs(SECONDS / 3));
        }
        // The other's time is over, beside it.
        ensure_ended_idle(bench, idle.sock.local_addr()?.port())?;
        ask(&mut used)
    });
}
