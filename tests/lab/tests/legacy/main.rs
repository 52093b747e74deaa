//! The legacy TLS stack between real ends: curl and openssl in versions and suites of old.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod exceptions;
mod groups;
mod renegotiation;
mod settings;
mod unshared;

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::passes;
use nix::sys::signal::{Signal, kill};
use weir_lab::bench::Bench;
use weir_lab::certificates::Identity;
use weir_lab::checks;
use weir_lab::document;
use weir_lab::ends::{Ends, INTERFACE, SERVER};
use weir_lab::fetch::{Fetch, Fetched};
use weir_lab::process::{Process, succeed};
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

/// An old server of others.
const OLD: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 5);

/// openssl's server, which answers any request with a page of its own, told so to be old.
fn old_server(ends: &Ends, arguments: &[&str]) -> anyhow::Result<Process> {
    // RSA: ECDSA with CBC is off by default.
    let (certificate, key) = (ends.run.path("old.crt"), ends.run.path("old.key"));
    let mut made = Command::new("openssl");
    made.args(["req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "30"]);
    made.args(["-subj", "/CN=old.example", "-addext", "subjectAltName=DNS:old.example"]);
    succeed(made.arg("-out").arg(&certificate).arg("-keyout").arg(&key))?;
    server_of(ends, &Identity { certificate, key }, arguments)
}

/// The same with a certificate of somebody's.
fn server_of(ends: &Ends, identity: &Identity, arguments: &[&str]) -> anyhow::Result<Process> {
    ends.server.ip(&["address", "replace", &format!("{OLD}/24"), "dev", INTERFACE])?;
    let mut command = ends.server.command("openssl");
    command.args(["s_server", "-www", "-accept", &format!("{OLD}:443")]);
    command.arg("-cert").arg(&identity.certificate).arg("-key").arg(&identity.key);
    command.args(arguments);
    let mut server = Process::start("old", &mut command, &ends.run.path("old.log"))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !succeed(ends.server.command("ss").args(["-Hltn"]))?.contains(&format!("{OLD}:443")) {
        server.check()?;
        anyhow::ensure!(Instant::now() < deadline, "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// A certificate for this name by the lab's public authority, with a key of this kind.
fn certified(ends: &Ends, name: &str, algorithm: [&str; 2]) -> anyhow::Result<Identity> {
    let path = |ending: &str| ends.run.path(&format!("{name}.{ending}"));
    let (key, request, extensions) = (path("key"), path("csr"), path("ext"));
    let [kind, option] = algorithm;
    let mut made = Command::new("openssl");
    made.args(["genpkey", "-algorithm", kind, "-pkeyopt", option, "-out"]).arg(&key);
    succeed(&mut made)?;
    let mut asked = Command::new("openssl");
    asked.args(["req", "-new", "-subj", &format!("/CN={name}"), "-key"]).arg(&key);
    succeed(asked.arg("-out").arg(&request))?;
    std::fs::write(&extensions, format!("subjectAltName=DNS:{name}\n"))?;
    let (certificate, by) = (path("crt"), &ends.certificates.public_ca);
    let mut signed = Command::new("openssl");
    signed.args(["x509", "-req", "-days", "30", "-in"]).arg(&request).arg("-CA");
    signed.arg(&by.certificate).arg("-CAkey").arg(&by.key).arg("-extfile").arg(&extensions);
    succeed(signed.arg("-out").arg(&certificate))?;
    Ok(Identity { certificate, key })
}

/// The lab's document with this instead of that.
fn changed(bench: &Bench<Lab>, from: &str, to: &str) -> anyhow::Result<String> {
    let document = document::weir_section(&bench.ends.certificates)?;
    anyhow::ensure!(document.contains(from), "the document has no {from:?}");
    Ok(document.replace(from, to))
}

fn record_of(bench: &mut Bench<Lab>, fetched: &Fetched) -> anyhow::Result<String> {
    common::record_of(bench, fetched.port)
}

fn ensure_holds(record: &str, lines: &[&str]) {
    for line in lines {
        assert!(record.contains(line), "{line:?} is not in {record}");
    }
}

/// A counter of the TLS side, once it has this value.
fn counted(bench: &mut Bench<Lab>, name: &str, value: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = bench.wire.console("show tls-inspection")?;
        let line = shown.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
        if line.split_whitespace().any(|word| word == value.to_string()) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{name} is not {value}: {shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn old_clients_reach_modern_servers_inspected() {
    passes(|bench| {
        let weak = [
            ("1.0", "--tlsv1.0", "AES128-SHA", "TLS 1.0 TLS_RSA_WITH_AES_128_CBC_SHA"),
            (
                "1.1",
                "--tlsv1.1",
                "ECDHE-RSA-AES256-SHA",
                "TLS 1.1 TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
            ),
            ("1.2", "--tlsv1.2", "AES256-GCM-SHA384", "TLS 1.2 TLS_RSA_WITH_AES_256_GCM_SHA384"),
            (
                "1.2",
                "--tlsv1.2",
                "ECDHE-RSA-AES128-SHA256",
                "TLS 1.2 TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
            ),
        ];
        for (version, option, suite, told) in weak {
            let suites = format!("{suite}:@SECLEVEL=0");
            let arguments = [option, "--tls-max", version, "--ciphers", &suites];
            let fetched =
                Fetch::new("public.example", "/").arguments(&arguments).run(&bench.ends)?;
            fetched.succeeded()?;
            checks::ensure_signed_by_weir(&fetched)?;
            let record = record_of(bench, &fetched)?;
            ensure_holds(
                &record,
                &[
                    "decrypted and inspected\n",
                    &format!("TLS with the client     {told}"),
                    "TLS with the server     TLS 1.3 ",
                ],
            );
        }
        // A server of our own, with its own key.
        let arguments = ["--tlsv1.0", "--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0"];
        let fetch = Fetch::new("shop.example", "/").own_server().arguments(&arguments);
        let fetched = fetch.run(&bench.ends)?;
        fetched.succeeded()?;
        ensure_holds(&record_of(bench, &fetched)?, &["TLS with the client     TLS 1.1 "]);
        Ok(())
    });
}

#[test]
fn old_server_is_reached_on_a_second_connection_and_remembered() {
    passes(|bench| {
        let servers = [
            (["-tls1", "-cipher", "ALL:@SECLEVEL=0"], "TLS 1.0 TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"),
            (["-tls1_2", "-cipher", "AES128-SHA256"], "TLS 1.2 TLS_RSA_WITH_AES_128_CBC_SHA256"),
        ];
        for (number, (arguments, told)) in servers.into_iter().enumerate() {
            let name = format!("old-{number}.example");
            let _server = old_server(&bench.ends, &arguments)?;
            for time in 0..2 {
                let number = u64::try_from(number)?;
                let fetched = Fetch::new(&name, "/").at(OLD).trust_anybody().run(&bench.ends)?;
                fetched.succeeded()?;
                let record = record_of(bench, &fetched)?;
                ensure_holds(
                    &record,
                    &[
                        "decrypted and inspected\n",
                        "TLS with the client     TLS 1.3 ",
                        &format!("TLS with the server     {told}"),
                    ],
                );
                // The second time the server is known.
                counted(bench, "server legs opened again on the legacy stack", number + 1)?;
                counted(bench, "legs on the legacy stack", 2 * number + time + 1)?;
            }
        }
        Ok(())
    });
}

/// A client that stays: openssl's, with its standard input open.
fn stays(ends: &Ends, arguments: &[&str]) -> anyhow::Result<std::process::Child> {
    let mut command: Command = ends.client.command("openssl");
    command.args(["s_client", "-connect", &format!("{SERVER}:443")]);
    command.args(["-servername", "public.example", "-quiet"]).args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    request(&mut child)?;
    Ok(child)
}

/// One request on a connection that stays, and the head of its answer.
fn request(child: &mut std::process::Child) -> anyhow::Result<()> {
    let head = b"HEAD / HTTP/1.1\r\nHost: public.example\r\n\r\n";
    child.stdin.as_mut().unwrap().write_all(head)?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(child.stdout.as_mut().unwrap().read(&mut byte)? == 1, "ended");
        answer.push(byte[0]);
    }
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    Ok(())
}

#[test]
fn worker_that_is_killed_takes_legacy_sessions_with_it_and_no_other() {
    passes(|bench| {
        let old = ["-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0"];
        let mut modern = stays(&bench.ends, &["-tls1_3"])?;
        let mut legacy = stays(&bench.ends, &old)?;
        let engine = bench.wire.engine()?;
        let worker = bench.wire.legacy_worker()?;
        kill(worker, Signal::SIGKILL)?;

        // Reset: the client ends by itself.
        let mut rest = Vec::new();
        let _ = legacy.stdout.as_mut().unwrap().read_to_end(&mut rest);
        legacy.wait()?;
        request(&mut modern)?;
        counted(bench, "legacy workers that ended", 1)?;

        // The next one works, on another worker of the same engine.
        let mut next = stays(&bench.ends, &old)?;
        request(&mut next)?;
        request(&mut modern)?;
        assert_eq!(bench.wire.engine()?, engine);
        assert_ne!(bench.wire.legacy_worker()?, worker);
        for mut child in [modern, next] {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    });
}
