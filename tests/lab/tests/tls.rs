//! What TLS inspection does between real ends: curl, openssl and nginx.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{Tls, connect, lab, read_until, write_record};
use weir_lab::bench::Bench;
use weir_lab::certificates::{Identity, seen};
use weir_lab::checks;
use weir_lab::document;
use weir_lab::ends::{DOWNLOAD, Ends, INTERFACE, OWN_SERVER, SERVER};
use weir_lab::fetch::{Fetch, Fetched};
use weir_lab::process::{Process, finish, succeed};
use weir_lab::report::Evidence;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

fn passes(check: impl FnOnce(&mut Bench<Lab>, &mut Evidence) -> anyhow::Result<()>) {
    let mut bench = lab();
    if let Err(error) = check(&mut bench, &mut Evidence) {
        panic!("{error:#}; {}", bench.wire.state());
    }
    bench.run.succeeded();
}

/// Asks the console again until its answer holds this.
fn told(bench: &mut Bench<Lab>, command: &str, text: &str) -> anyhow::Result<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let shown = bench.wire.console(command)?;
        if shown.contains(text) {
            return Ok(shown);
        }
        anyhow::ensure!(Instant::now() < deadline, "{command} never tells {text:?}: {shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn counters(bench: &mut Bench<Lab>, what: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let shown = bench.wire.console(&format!("debug np stats show {what}"))?;
    let line = |line: &str| {
        let (count, name) = line.trim_start().split_once("  ")?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    Ok(shown.lines().filter_map(line).collect())
}

/// A server of others that the lab's nginx is not.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 4);

/// Starts a program in the server's namespace, and waits until it listens on port 443 of [`OTHER`].
fn serve(ends: &Ends, name: &str, command: &mut Command) -> anyhow::Result<Process> {
    let address = format!("{OTHER}/24");
    ends.server.ip(&["address", "replace", &address, "dev", INTERFACE])?;
    let mut server = Process::start(name, command, &ends.run.path(&format!("{name}.log")))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let listens = |text: String| text.contains(&format!("{OTHER}:443"));
    while !listens(succeed(ends.server.command("ss").args(["-Hltn"]))?) {
        server.check()?;
        anyhow::ensure!(Instant::now() < deadline, "{name} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// openssl's server: it answers any request with a page of its own, and looks at no server name.
fn openssl_server(ends: &Ends, identity: &Identity) -> anyhow::Result<Process> {
    let mut command = ends.server.command("openssl");
    command.args(["s_server", "-www", "-accept", &format!("{OTHER}:443")]);
    command.arg("-cert").arg(&identity.certificate).arg("-key").arg(&identity.key);
    serve(ends, "s_server", &mut command)
}

/// nginx with HTTP/2.
fn http2_server(ends: &Ends, identity: &Identity) -> anyhow::Result<Process> {
    let path = |name: &str| ends.run.path(name).display().to_string();
    let text = format!(
        "user root;\nworker_processes 1;\ndaemon off;\nerror_log {errors};\npid {pid};\n\
         events {{ worker_connections 64; }}\nhttp {{\n  access_log off;\n  root {root};\n  \
         server {{\n    listen {OTHER}:443 ssl http2;\n    ssl_certificate {certificate};\n    \
         ssl_certificate_key {key};\n  }}\n}}\n",
        errors = path("http2-error.log"),
        pid = path("http2.pid"),
        root = path("www"),
        certificate = identity.certificate.display(),
        key = identity.key.display(),
    );
    let file = ends.run.path("http2.conf");
    std::fs::write(&file, text)?;
    let mut command = ends.server.command("nginx");
    command.arg("-p").arg(ends.run.directory()).arg("-c").arg(&file);
    serve(ends, "http2", &mut command)
}

/// Provisions the lab's document changed so, and waits until it is in force.
fn configure(bench: &mut Bench<Lab>, from: &str, to: &str) -> anyhow::Result<()> {
    let document = document::weir_section(&bench.ends.certificates)?;
    anyhow::ensure!(document.contains(from), "the document has no {from:?}");
    bench.provision(&document.replace(from, to))
}

/// What became of the session of this client port, and its record.
fn record_of(bench: &mut Bench<Lab>, fetched: &Fetched) -> anyhow::Result<(String, String)> {
    let flow = format!("10.66.0.1:{}\n", fetched.port);
    let shown = told(bench, "show sessions detail 5", &flow)?;
    let mut records = shown.split("\n\n");
    let record = records.find(|record| record.contains(&flow)).unwrap_or_default().to_owned();
    let outcome = record.lines().find_map(|line| line.strip_prefix("Outcome")).unwrap_or_default();
    Ok((outcome.trim().to_owned(), record))
}

const EXCEPTED: &str = "not decrypted (domain exception)";
const INSPECTED: &str = "decrypted and inspected";

#[test]
fn a_spoofed_server_name_escapes_nothing_where_the_certificate_decides() {
    passes(|bench, _| {
        let domains = "domains-not-to-decrypt: [\"bank.example\", \"*.bank.example\"]";
        let decided = format!("{domains}\n      decided-by: server-certificate");
        let bank = bench.ends.certificates.bank.clone();
        let public = bench.ends.certificates.public.clone();

        // By default the client's word is trusted.
        let server = openssl_server(&bench.ends, &public)?;
        let spoofed = Fetch::new("bank.example", "/").at(OTHER).trust_anybody();
        let fetched = spoofed.run(&bench.ends)?;
        fetched.succeeded()?;
        assert_eq!(fetched.certificate()?, seen(&public.certificate_pem()?)?);
        assert_eq!(record_of(bench, &fetched)?.0, EXCEPTED);

        configure(bench, domains, &decided)?;
        // Twice: asked, then remembered.
        for _ in 0..2 {
            let fetched = spoofed.run(&bench.ends)?;
            fetched.succeeded()?;
            assert_ne!(fetched.certificate()?, seen(&public.certificate_pem()?)?);
            let (outcome, record) = record_of(bench, &fetched)?;
            assert_eq!(outcome, INSPECTED, "{record}");
            assert!(record.contains("Server certificate      public.example\n"), "{record}");
        }
        drop(server);

        // The bank itself: relayed to it byte for byte, then left on the bridge.
        for time in 0..2 {
            let fetched = Fetch::new("bank.example", "/").run(&bench.ends)?;
            fetched.succeeded()?;
            assert_eq!(fetched.certificate()?, seen(&bank.certificate_pem()?)?);
            let (outcome, record) = record_of(bench, &fetched)?;
            assert_eq!(outcome, EXCEPTED, "{record}");
            let asked = record.contains("Server certificate      bank.example\n");
            assert_eq!(asked, time == 0, "{record}");
            assert!(bench.ends.access_log()?.contains(&format!("10.66.0.1:{} ", fetched.port)));
        }
        // Another name of the same server is not asked for.
        let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
        checks::ensure_signed_by_weir(&fetched)?;
        Ok(())
    });
}

#[test]
fn without_a_server_name_the_certificates_own_names_decide() {
    passes(|bench, _| {
        let domains = "domains-not-to-decrypt: [\"bank.example\", \"*.bank.example\"]";
        configure(bench, domains, &format!("{domains}\n      decided-by: server-certificate"))?;
        let bank = bench.ends.certificates.bank.clone();
        let _server = openssl_server(&bench.ends, &bank)?;
        // By its address: no server name is sent.
        for _ in 0..2 {
            let nameless = Fetch::new(&OTHER.to_string(), "/").at(OTHER).trust_anybody();
            let fetched = nameless.run(&bench.ends)?;
            fetched.succeeded()?;
            assert_eq!(fetched.certificate()?, seen(&bank.certificate_pem()?)?);
            let (outcome, record) = record_of(bench, &fetched)?;
            assert_eq!(outcome, EXCEPTED, "{record}");
            assert!(record.contains("Server name             none\n"), "{record}");
        }
        Ok(())
    });
}

#[test]
fn http2_is_agreed_on_where_both_ends_want_it_and_downgraded_where_set() {
    passes(|bench, _| {
        let public = bench.ends.certificates.public.clone();
        let _server = http2_server(&bench.ends, &public)?;
        let fetch = Fetch::new("public.example", "/").at(OTHER);
        let fetched = fetch.run(&bench.ends)?;
        fetched.succeeded()?;
        checks::ensure_signed_by_weir(&fetched)?;
        assert_eq!(fetched.version, "2");
        let (outcome, record) = record_of(bench, &fetched)?;
        assert_eq!(outcome, "decrypted but not inspected (service not supported)");
        assert_eq!(record.matches("ALPN h2").count(), 2, "{record}");

        // A client that does not want it.
        let fetched = fetch.clone().arguments(&["--http1.1"]).run(&bench.ends)?;
        fetched.succeeded()?;
        assert_eq!(fetched.version, "1.1");
        assert_eq!(record_of(bench, &fetched)?.0, INSPECTED);

        configure(bench, "logging: true\n", "logging: true\n      downgrade-http2: true\n")?;
        let fetched = fetch.run(&bench.ends)?;
        fetched.succeeded()?;
        assert_eq!(fetched.version, "1.1");
        let (outcome, record) = record_of(bench, &fetched)?;
        assert_eq!(outcome, INSPECTED);
        assert_eq!(record.matches("ALPN http/1.1").count(), 2, "{record}");
        let told_so =
            "HTTP/2                  offered by the client, downgraded to HTTP/1 by the proxy\n";
        assert!(record.contains(told_so), "{record}");
        let counted = "1  connectionsHttp2Downgraded\n";
        told(bench, "debug np stats show npSslInspStats", counted).map(drop)
    });
}

/// A server that greets its clients, at this port of both addresses, and echoes what they say; what
/// each connection of [`OWN_SERVER`] ended by.
fn greeter(ends: &Ends, port: u16) -> anyhow::Result<mpsc::Receiver<std::io::Result<u64>>> {
    let listener = ends.server.enter(move || Ok(TcpListener::bind(("0.0.0.0", port))?))?;
    let (tell, told) = mpsc::channel();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let tell = tell.clone();
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                let own = stream.local_addr()?.ip() == OWN_SERVER;
                stream.write_all(b"220 ready\r\n")?;
                let ended = std::io::copy(&mut stream.try_clone()?, &mut stream);
                if own {
                    let _ = tell.send(ended);
                }
                Ok::<(), std::io::Error>(())
            });
        }
    });
    Ok(told)
}

/// SPEC T9: STARTTLS, and any other server that speaks before TLS does.
#[test]
fn a_server_that_speaks_first_is_blocked_on_a_server_proxy() {
    passes(|bench, _| {
        const PORT: u16 = 2525;
        let ports = "detection-ports: [\"443\"";
        let reset = "reset-server-on-block: true";
        let mut greeting = [0; 11];
        configure(bench, ports, &format!("{ports}, \"{PORT}\""))?;
        let ended = greeter(&bench.ends, PORT)?;
        for resets in [true, false] {
            if !resets {
                let document = document::weir_section(&bench.ends.certificates)?
                    .replace(ports, &format!("{ports}, \"{PORT}\""))
                    .replace(reset, "reset-server-on-block: false");
                bench.provision(&document)?;
            }
            let mut other = bench.ends.connect_from_client(SocketAddr::from((SERVER, PORT)))?;
            other.read_exact(&mut greeting)?;
            assert_eq!(&greeting, b"220 ready\r\n");

            let mut own = bench.ends.connect_from_client(SocketAddr::from((OWN_SERVER, PORT)))?;
            let flow = format!("{} > {OWN_SERVER}:{PORT}", own.local_addr()?);
            let error = own.read(&mut greeting).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            let error = ended.recv()?.unwrap_err().kind();
            // Without a reset it is left to its own patience, which here is a time-out.
            let expected = if resets { ErrorKind::ConnectionReset } else { ErrorKind::WouldBlock };
            assert_eq!(error, expected, "resets: {resets}");
            let shown = told(bench, "show sessions 5", &flow)?;
            assert!(
                shown.contains(&format!("{flow}\n  blocked (server spoke first)\n")),
                "{shown}"
            );
        }
        told(bench, "show segments detail", "server spoke first dropped").map(drop)
    });
}

/// A hello of RFC 5246 section E.2, for TLS 1.0 with TLS_RSA_WITH_AES_128_CBC_SHA: openssl's server
/// would go on from it in TLS.
const SSLV2_FORMAT: &[u8] = &[
    0x80, 0x1c, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 0x2f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
    14, 15, 16,
];

/// SPEC T9, T8: what is no TLS, with each setting of the reset.
#[test]
fn cleartext_to_a_server_proxy_is_blocked_and_its_server_reset_as_set() {
    passes(|bench, _| {
        let reset = "reset-server-on-block: true";
        for resets in [true, false] {
            if !resets {
                configure(bench, reset, "reset-server-on-block: false")?;
            }
            for first in [
                &b"GET /cleartext HTTP/1.1\r\n\r\n"[..],
                &[0x16, 3, 1, 0, 4, 0, 0, 0, 0],
                &[0; 64],
                SSLV2_FORMAT,
            ] {
                let mut own =
                    bench.ends.connect_from_client(SocketAddr::from((OWN_SERVER, 443)))?;
                let client = own.local_addr()?;
                let of_server = |ends: &Ends| {
                    let filter = format!("dport = :{}", client.port());
                    succeed(ends.server.command("ss").args(["-Htn", &filter]))
                };
                assert!(of_server(&bench.ends)?.contains("ESTAB"));
                own.write_all(first)?;
                let error = own.read(&mut [0; 16]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{first:?}");
                let shown = told(bench, "show sessions 3", &format!("{client} > "))?;
                let wanted =
                    format!("{client} > {OWN_SERVER}:443\n  blocked (not TLS on a server proxy)\n");
                assert!(shown.contains(&wanted), "{shown}");
                // Told after its resets were sent.
                assert_eq!(of_server(&bench.ends)?.contains("ESTAB"), !resets, "{first:?}");
            }
        }
        assert!(!bench.ends.access_log()?.contains("cleartext"));
        Ok(())
    });
}

/// What the lab's public authority says of a certificate, as a file of OCSP. `status`: `V` or `R`,
/// as in the index of openssl-ca(1).
fn ocsp_response(ends: &Ends, of: &Identity, status: &str) -> anyhow::Result<PathBuf> {
    let serial = succeed(
        Command::new("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(&of.certificate),
    )?;
    let serial = serial.trim().trim_start_matches("serial=");
    let revoked = if status == "R" { "260101000000Z" } else { "" };
    let index = ends.run.path("ocsp-index");
    std::fs::write(
        &index,
        format!("{status}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN=x\n"),
    )?;
    let (response, authority) = (ends.run.path("ocsp.der"), &ends.certificates.public_ca);
    let mut command = Command::new("openssl");
    command.args(["ocsp", "-ndays", "7", "-index"]).arg(&index);
    for option in ["-rsigner", "-CA", "-issuer"] {
        command.arg(option).arg(&authority.certificate);
    }
    command.arg("-rkey").arg(&authority.key).arg("-cert").arg(&of.certificate);
    succeed(command.arg("-respout").arg(&response))?;
    Ok(response)
}

#[test]
fn a_certificate_whose_server_staples_that_it_is_revoked_is_not_vouched_for() {
    passes(|bench, _| {
        let public = bench.ends.certificates.public.clone();
        for (status, trusted) in [("V", true), ("R", false)] {
            let response = ocsp_response(&bench.ends, &public, status)?;
            let mut command = bench.ends.server.command("openssl");
            command.args(["s_server", "-www", "-accept", &format!("{OTHER}:443")]);
            command.arg("-cert").arg(&public.certificate).arg("-key").arg(&public.key);
            let server = serve(&bench.ends, status, command.arg("-status_file").arg(&response))?;
            let fetched = Fetch::new("public.example", "/").at(OTHER).run(&bench.ends)?;
            assert_eq!(fetched.exit == 0, trusted, "{status}: {}", fetched.messages);
            let (_, record) = record_of(bench, &fetched)?;
            let verdict = if trusted { "verified" } else { "revoked" };
            assert!(record.contains(&format!("Verdict                 {verdict}\n")), "{record}");
            drop(server);
        }
        Ok(())
    });
}

#[test]
fn what_a_server_of_ours_staples_is_passed_to_clients_that_ask() {
    passes(|bench, _| {
        let servers = format!("destinations: [\"{OWN_SERVER}/32\"");
        configure(bench, &servers, &format!("{servers}, \"{OTHER}/32\""))?;
        let shop = bench.ends.certificates.shop.clone();
        let response = ocsp_response(&bench.ends, &shop, "V")?;
        let mut command = bench.ends.server.command("openssl");
        command.args(["s_server", "-www", "-accept", &format!("{OTHER}:443")]);
        command.arg("-cert").arg(&shop.certificate).arg("-key").arg(&shop.key);
        let _server = serve(&bench.ends, "stapling", command.arg("-status_file").arg(&response))?;
        let mut client = bench.ends.client.command("openssl");
        client.args(["s_client", "-connect", &format!("{OTHER}:443")]);
        client.args(["-servername", "shop.example", "-status"]).stdin(Stdio::null());
        let shown = finish(&mut client)?.text();
        assert!(shown.contains("OCSP Response Status: successful"), "{shown}");
        told(bench, "show sessions 3", "decrypted and inspected").map(drop)
    });
}

/// What the server's alert says reaches the client, whose own handshake has not begun (item 11).
#[test]
fn an_alert_of_the_server_reaches_the_client() {
    passes(|bench, _| {
        let public = bench.ends.certificates.public.clone();
        let mut command = bench.ends.server.command("openssl");
        command.args(["s_server", "-www", "-accept", &format!("{OTHER}:443")]);
        command.arg("-cert").arg(&public.certificate).arg("-key").arg(&public.key);
        command.arg("-cert2").arg(&public.certificate).arg("-key2").arg(&public.key);
        command.args(["-servername", "another.example", "-servername_fatal"]);
        let _server = serve(&bench.ends, "s_server", &mut command)?;
        let fetched = Fetch::new("public.example", "/").at(OTHER).run(&bench.ends)?;
        assert_ne!(fetched.exit, 0);
        assert!(fetched.messages.contains("unrecognized name"), "{}", fetched.messages);
        let shown = told(bench, "show sessions detail 1", "unrecognized_name")?;
        assert!(shown.contains("handshake with the server"), "{shown}");
        told(bench, "debug np stats show npSslInspProtocolStats", "1  serverFailureAlert\n")
            .map(drop)
    });
}

/// Resident memory of the engine, in KiB.
fn resident(bench: &Bench<Lab>) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bench.wire.engine()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn a_client_that_does_not_read_makes_the_server_wait_and_not_the_engine_hoard() {
    passes(|bench, _| {
        let mut tls = connect(&bench.ends, "public.example");
        write_record(&mut tls, b"GET /index.html HTTP/1.1\r\nHost: public.example\r\n\r\n")?;
        read_until(&mut tls, "benign page", 1).1?;
        // What the allocator takes once, for both runtimes, is no hoard.
        for _ in 0..4 {
            Fetch::new("public.example", "/random.bin").run(&bench.ends)?.succeeded()?;
        }
        let before = resident(bench)?;
        write_record(
            &mut tls,
            b"GET /random.bin HTTP/1.1\r\nHost: public.example\r\nConnection: close\r\n\r\n",
        )?;
        std::thread::sleep(Duration::from_secs(2));
        let grown = resident(bench)?.saturating_sub(before);
        assert!(grown < 8 << 10, "the engine grew by {grown} KiB");
        let (answer, end) = read_all(&mut tls);
        end?;
        assert!(answer > DOWNLOAD, "{answer} bytes came");
        Ok(())
    });
}

/// Reads to the peer's close_notify; how many bytes came.
fn read_all(tls: &mut Tls) -> (usize, std::io::Result<()>) {
    let (mut count, mut buffer) = (0, [0; 16 << 10]);
    loop {
        match tls.read(&mut buffer) {
            Ok(0) => return (count, Ok(())),
            Ok(read) => count += read,
            Err(error) => return (count, Err(error)),
        }
    }
}

/// SPEC T10, and clients that have pinned a certificate: curl compares keys once TLS is done, and then
/// closes without a word.
#[test]
fn clients_that_pin_and_servers_that_ask_are_blocked_or_learnt_as_set_shown_and_forgotten() {
    passes(|bench, _| {
        let public = bench.ends.certificates.public.clone();
        let mut command = bench.ends.server.command("openssl");
        command.args(["s_server", "-www", "-Verify", "1", "-accept", &format!("{OTHER}:443")]);
        command.arg("-cert").arg(&public.certificate).arg("-key").arg(&public.key);
        let _server = serve(&bench.ends, "asking", &mut command)?;
        let asking = Fetch::new("public.example", "/").at(OTHER);
        let pin = public_key_pin(&public)?;
        let pinned = Fetch::new("public.example", "/").arguments(&["--pinnedpubkey", &pin]);

        // As it is by default.
        for _ in 0..2 {
            let fetched = asking.run(&bench.ends)?;
            assert_ne!(fetched.exit, 0);
            let (outcome, _) = record_of(bench, &fetched)?;
            assert_eq!(outcome, "blocked (server asked for a client certificate)");
        }
        for _ in 0..3 {
            let fetched = pinned.run(&bench.ends)?;
            assert_eq!(
                fetched.exit, 90,
                "not CURLE_SSL_PINNEDPUBKEYNOTMATCH: {}",
                fetched.messages
            );
        }
        told(
            bench,
            "debug np stats show npSslInspProtocolStats",
            "2  serverFailureCertificateRequested\n",
        )?;

        bench.wire.console("clear learnt-bypasses")?;
        let both = "logging: true\n      on-client-certificate-request: bypass\n      \
                    on-pinned-client: bypass\n";
        configure(bench, "logging: true\n", both)?;
        for _ in 0..2 {
            assert_eq!(pinned.run(&bench.ends)?.exit, 90);
            assert_ne!(asking.run(&bench.ends)?.exit, 0);
        }
        let wanted =
            format!("public.example at {SERVER}:443 for 10.66.0.1, which rejects forged\n");
        let shown = told(bench, "show tls-inspection", &wanted)?;
        let wanted = format!("public.example at {OTHER}:443, which asks for client certificates");
        assert!(shown.contains(&wanted), "{shown}");
        let fetched = pinned.run(&bench.ends)?;
        fetched.succeeded()?;
        let (outcome, _) = record_of(bench, &fetched)?;
        let wanted = "bypassed (learnt that the client rejects forged";
        assert!(outcome.starts_with(wanted), "{outcome}");
        // It has none to show: it is the server that refuses now.
        let fetched = asking.run(&bench.ends)?;
        assert_ne!(fetched.exit, 0);
        let (outcome, _) = record_of(bench, &fetched)?;
        assert!(outcome.starts_with("bypassed (learnt that "), "{outcome}");

        bench.wire.console("clear learnt-bypasses")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while bench.wire.console("show tls-inspection")?.contains("Learnt") {
            anyhow::ensure!(Instant::now() < deadline, "nothing is forgotten");
        }
        let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
        checks::ensure_signed_by_weir(&fetched)
    });
}

/// As curl wants it.
fn public_key_pin(of: &Identity) -> anyhow::Result<String> {
    let script = "openssl x509 -pubkey -noout -in \"$0\" | openssl pkey -pubin -outform der \
                  | openssl dgst -sha256 -binary | openssl base64";
    let pin = succeed(Command::new("sh").args(["-c", script]).arg(&of.certificate))?;
    Ok(format!("sha256//{}", pin.trim()))
}

#[test]
fn a_server_that_does_not_read_makes_the_client_wait_and_not_the_engine_hoard() {
    passes(|bench, _| {
        let public = bench.ends.certificates.public.clone();
        // It ends a session at the end of its own input, which this pipe never has.
        let mut command = bench.ends.server.command("sh");
        command.args(["-c", "mkfifo \"$0\" && exec openssl s_server \"$@\" <>\"$0\""]);
        command.arg(bench.run.path("deaf.input"));
        command.args(["-quiet", "-accept", &format!("{OTHER}:443")]);
        command.arg("-cert").arg(&public.certificate).arg("-key").arg(&public.key);
        let server = serve(&bench.ends, "deaf", &mut command)?;
        let mut tls =
            common::connect_to(&bench.ends, SocketAddr::from((OTHER, 443)), "public.example");
        for _ in 0..4 {
            Fetch::new("public.example", "/random.bin").run(&bench.ends)?.succeeded()?;
        }
        server.signal(nix::sys::signal::Signal::SIGSTOP)?;
        let before = resident(bench)?;
        tls.sock.set_write_timeout(Some(Duration::from_secs(2)))?;
        let head =
            "PUT /upload HTTP/1.1\r\nHost: public.example\r\nContent-Length: 100000000\r\n\r\n";
        write_record(&mut tls, head.as_bytes())?;
        let mut sent = 0;
        let stopped = loop {
            match write_record(&mut tls, &[b'x'; 16 << 10]) {
                Ok(()) => sent += 16 << 10,
                Err(error) => break error,
            }
            anyhow::ensure!(sent < 64 << 20, "nothing makes the client wait");
        };
        let wait = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
        assert!(wait.contains(&stopped.kind()), "{stopped}");
        let grown = resident(bench)?.saturating_sub(before);
        server.signal(nix::sys::signal::Signal::SIGCONT)?;
        assert!(grown < 8 << 10, "the engine grew by {grown} KiB for {sent} bytes");
        // It goes on where it was.
        tls.sock.set_write_timeout(Some(Duration::from_secs(20)))?;
        for _ in 0..64 {
            write_record(&mut tls, &[b'x'; 16 << 10])?;
        }
        Ok(())
    });
}

#[test]
fn a_session_is_told_whole_logged_where_its_proxy_says_so_and_counted() {
    passes(|bench, evidence| {
        // By the client proxy, whose logging is on.
        let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
        fetched.succeeded()?;
        let flow = format!("10.66.0.1:{}", fetched.port);
        checks::row_on_console(bench, evidence, "show sessions", &format!("{flow} "))?;
        let shown = told(bench, "show sessions detail 1", &flow)?;
        for line in [
            "Server name             public.example\n",
            "Policy                  staff\n",
            "Proxy                   staff\n",
            "Decryption policy       private\n",
            "Outcome                 decrypted and inspected\n",
            "Server certificate      public.example\n",
            "Certificate's names     public.example\n",
            "Certificate's issuer    Weir lab public CA\n",
            "TLS with the client     TLS 1.3 TLS_AES_256_GCM_SHA384 ",
            "TLS with the server     TLS 1.3 TLS_AES_256_GCM_SHA384 ",
            "ecdsa_secp256r1_sha256",
        ] {
            assert!(shown.contains(line), "{line:?} is not in {shown}");
        }
        assert_eq!(bench.wire.console("show tls-inspection log 1")?, shown);

        // By the server proxy, whose logging is off.
        let fetched = Fetch::new("shop.example", "/").own_server().run(&bench.ends)?;
        fetched.succeeded()?;
        let flow = format!("10.66.0.1:{}", fetched.port);
        told(bench, "show sessions detail 1", &flow)?;
        assert_eq!(bench.wire.console("show tls-inspection log 1")?, shown);

        // A client with no suite in common is left alone, and counted as such.
        let weak = ["--tls-max", "1.2", "--ciphers", "AES128-CCM"];
        Fetch::new("public.example", "/").arguments(&weak).run(&bench.ends)?;
        told(bench, "debug np stats show npSslInspProtocolStats", "1  clientCipherOther\n")?;
        let after = counters(bench, "npSslInspProtocolStats")?;
        // One of the bench's own, to see that it inspects.
        assert_eq!(after["clientVersionTLS13"], 3, "{after:?}");
        assert_eq!(after["clientVersionTLS13"], after["serverVersionTLS13"]);
        assert_eq!(after["clientCipher TLS_AES_256_GCM_SHA384"], 3, "{after:?}");
        assert_eq!(after["serverCipherOther"] + after["serverFailureIncompatible"], 0);
        let counted = counters(bench, "npSslInspStats")?;
        let of = |name: &str| counted[name];
        assert_eq!((of("connections"), of("connectionsProxied")), (4, 3), "{counted:?}");
        assert_eq!((of("refusedConnections"), of("connectionsBypassed")), (1, 1), "{counted:?}");
        Ok(())
    });
}
