//! Ends that are gone by a reset while nobody reads of them: their peers take nothing, or they had said
//! their last. Their sessions end all the same, and their peers are reset.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use weir_lab::bench::Bench;
use weir_lab::certificates::Identity;
use weir_lab::namespace::Namespace;
use weir_lab::process::{Process, succeed};
use weir_lab::wire::lab::Lab;

use super::common::{connect_in_pieces_to, write_record};
use super::{OTHER, configure, passes, record_of, serve};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gone.py");

/// Versions of each stack.
pub(super) const STACKS: [&str; 2] = ["1.3", "1.1"];
/// Nobody speaks HTTP here.
pub(super) const OF_ANY_SERVICE: (&str, &str) =
    ("service: http\n      reset-client", "service: other\n      reset-client");

pub(super) fn server(
    bench: &Bench<Lab>,
    identity: &Identity,
    version: &str,
    act: &str,
) -> anyhow::Result<Process> {
    let mut command = bench.ends.server.command("python3");
    command.arg(SCRIPT).args(["server", &OTHER.to_string()]);
    command.arg(&identity.certificate).arg(&identity.key).args([version, act]);
    serve(&bench.ends, &mut command, &format!("{OTHER}:443"))
}

pub(super) fn client_command(bench: &Bench<Lab>, version: &str, act: &str) -> Command {
    let mut command = bench.ends.client.command("timeout");
    command.args(["120", "python3", SCRIPT, "client", &OTHER.to_string(), "public.example"]);
    command.args([version, act]);
    command
}

/// Where a client says that it is.
fn port(said: &str) -> anyhow::Result<u16> {
    let port = said.lines().find_map(|line| line.strip_prefix("at "));
    Ok(port.unwrap_or_default().parse()?)
}

/// Where one that lives says so.
pub(super) fn port_of(client: &mut Process, log: &Path) -> anyhow::Result<u16> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        client.check()?;
        match port(&std::fs::read_to_string(log)?) {
            Ok(port) => return Ok(port),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A client to its end; its port.
fn client(bench: &Bench<Lab>, version: &str, act: &str) -> anyhow::Result<u16> {
    let said = succeed(&mut client_command(bench, version, act))?;
    anyhow::ensure!(said.contains("resets\n"), "{said}");
    port(&said)
}

/// Until this end has no connection with the other any more.
pub(super) fn is_reset(end: &Namespace, port: u16) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut command = end.command("ss");
        command.args(["-Htn", "state", "connected", "exclude", "time-wait"]);
        let sockets = succeed(&mut command)?;
        if !sockets.contains(&format!(":{port} ")) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "it is not reset: {sockets}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn client_that_resets_while_its_server_reads_nothing_ends_its_session_on_either_stack() {
    passes(|bench| {
        configure(bench, &[OF_ANY_SERVICE])?;
        let public = bench.ends.certificates.public.clone();
        // RSA: ECDSA with CBC is off by default.
        let shop = bench.ends.certificates.shop.clone();
        for act in ["reset", "half-close"] {
            for (version, identity) in STACKS.into_iter().zip([&public, &shop]) {
                let deaf = server(bench, identity, version, "deaf")?;
                let port = client(bench, version, act)?;
                let record = record_of(bench, port)?;
                assert!(record.contains("Broken off by the client: "), "{version} {act}: {record}");
                assert!(record.contains(&format!("TLS with the server TLS {version}")), "{record}");
                is_reset(&bench.ends.server, port)?;
                drop(deaf);
            }
        }
        Ok(())
    });
}

#[test]
fn server_that_resets_while_its_client_reads_nothing_ends_its_session_on_either_stack() {
    passes(|bench| {
        configure(bench, &[OF_ANY_SERVICE])?;
        let public = bench.ends.certificates.public.clone();
        let shop = bench.ends.certificates.shop.clone();
        for (version, identity) in STACKS.into_iter().zip([&public, &shop]) {
            let _server = server(bench, identity, version, "reset")?;
            let log = bench.run.path(&format!("client-{version}.log"));
            let mut command = client_command(bench, version, "deaf");
            let mut client = Process::start("client", &mut command, &log)?;
            let port = port_of(&mut client, &log)?;
            let record = record_of(bench, port)?;
            assert!(record.contains("Broken off by the server: "), "{version}: {record}");
            assert!(record.contains(&format!("TLS with the client TLS {version}")), "{record}");
            is_reset(&bench.ends.client, port)?;
        }
        Ok(())
    });
}

/// Its client's own words find nobody, and are no reason to keep from it what was said to it before.
#[test]
fn what_a_server_said_before_its_reset_reaches_a_slow_client_that_speaks_on_either_stack() {
    passes(|bench| {
        configure(bench, &[OF_ANY_SERVICE])?;
        let public = bench.ends.certificates.public.clone();
        let shop = bench.ends.certificates.shop.clone();
        for (version, identity) in STACKS.into_iter().zip([&public, &shop]) {
            let server = server(bench, identity, version, "reset")?;
            let said = succeed(&mut client_command(bench, version, "slow"))?;
            let log = std::fs::read_to_string(bench.ends.run.path("server.log"))?;
            drop(server);
            let taken = number(&log, "taken ")?;
            // The last record may have come in part.
            let got = number(&said, "got ")? + (16 << 10);
            assert!(got >= taken, "{version}: {got} of {taken}");
        }
        Ok(())
    });
}

/// What an end said last behind a word.
fn number(said: &str, word: &str) -> anyhow::Result<u64> {
    let number = said.lines().rev().find_map(|line| line.strip_prefix(word));
    Ok(number.unwrap_or_default().parse()?)
}

/// What is not decrypted, and taken over all the same: its hello comes in pieces.
#[test]
fn client_that_resets_while_its_server_reads_nothing_ends_its_session_that_nobody_reads() {
    passes(|bench| {
        let bank = bench.ends.certificates.bank.clone();
        let _deaf = server(bench, &bank, "1.3", "deaf")?;
        let place = SocketAddr::from((OTHER, 443));
        let mut tls = connect_in_pieces_to(&bench.ends, place, "bank.example", &[20]);
        let port = tls.sock.local_addr()?.port();
        tls.sock.set_write_timeout(Some(Duration::from_secs(2)))?;
        let full = loop {
            if let Err(error) = write_record(&mut tls, &[b'x'; 16 << 10]) {
                break error;
            }
        };
        assert!([ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&full.kind()), "{full}");
        socket2::SockRef::from(&tls.sock).set_linger(Some(Duration::ZERO))?;
        drop(tls);
        let record = record_of(bench, port)?;
        assert!(record.contains("Outcome not decrypted (domain exception)"), "{record}");
        is_reset(&bench.ends.server, port)
    });
}
