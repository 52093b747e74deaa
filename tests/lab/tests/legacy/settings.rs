//! What the legacy stack agrees on with openssl at either end: sessions resumed, encrypt-then-MAC,
//! keys on P-224, staples.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use weir_lab::bench::Bench;
use weir_lab::certificates::seen;
use weir_lab::checks;
use weir_lab::document;
use weir_lab::ends::OWN_SERVER;
use weir_lab::fetch::Fetch;
use weir_lab::process::{Process, finish, succeed};
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

use super::{
    OLD, certified, changed, counted, ensure_holds, old_server, passes, record_of, server_of,
};

/// TLS 1.1 is the legacy stack's, whatever the suite.
const OLD_CLIENT: [&str; 3] = ["-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0"];

/// One request by openssl's client; all that it showed.
fn asks(
    bench: &Bench<Lab>,
    at: Ipv4Addr,
    name: &str,
    arguments: &[&str],
) -> anyhow::Result<String> {
    let request = bench.ends.run.path("request");
    std::fs::write(&request, b"GET / HTTP/1.0\r\n\r\n")?;
    let mut command = bench.ends.client.command("sh");
    command.args(["-c", "exec openssl s_client \"$@\" <\"$0\""]).arg(&request);
    command.args(["-connect", &format!("{at}:443"), "-servername", name]);
    command.args(["-ign_eof"]).args(arguments);
    let finished = finish(&mut command)?;
    let text = finished.text();
    anyhow::ensure!(text.contains("HTTP/1."), "no answer: {text}; {}", finished.errors);
    Ok(text)
}

/// A record on the console that holds all of these.
pub fn recorded(bench: &mut Bench<Lab>, lines: &[&str]) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let shown = bench.wire.console("show sessions detail 5")?;
        let holds = |record: &str| lines.iter().all(|line| record.contains(line));
        if shown.split("\n\n").any(holds) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "no record of {lines:?}: {shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn old_sessions_are_resumed_on_both_sides_until_the_next_policy() {
    passes(|bench| {
        let _server = old_server(&bench.ends, &["-tls1", "-cipher", "AES128-SHA:@SECLEVEL=0"])?;
        for (number, ticket) in [&[][..], &["-no_ticket"]].into_iter().enumerate() {
            let session = bench.ends.run.path(&format!("session-{number}"));
            let session = session.to_str().unwrap_or_default().to_owned();
            let visit = |bench: &Bench<Lab>, option: &str| {
                let arguments = [&OLD_CLIENT[..], &[option, &session], ticket].concat();
                asks(bench, OLD, "old.example", &arguments)
            };
            assert!(visit(bench, "-sess_out")?.contains("New, "));
            let shown = visit(bench, "-sess_in")?;
            assert!(shown.contains("Reused, "), "{ticket:?}: {shown}");
            let told = [
                "decrypted and inspected\n",
                "Server certificate      old.example\n",
                "TLS with the client     TLS 1.1 TLS_RSA_WITH_AES_128_CBC_SHA, resumed\n",
                "TLS with the server     TLS 1.0 TLS_RSA_WITH_AES_128_CBC_SHA, resumed\n",
            ];
            recorded(bench, &told)?;

            // Another generation of the policy, whatever changed in it.
            let name = format!("name: lab{number}\n");
            bench.provision(&changed(
                bench,
                "name: lab\n      layer",
                &format!("{name}      layer"),
            )?)?;
            let shown = visit(bench, "-sess_in")?;
            assert!(shown.contains("New, "), "{ticket:?}: {shown}");
        }
        counted(bench, "sessions resumed with the client", 2)
    });
}

const ENCRYPT_THEN_MAC: &str = "extension \"encrypt-then-mac\" (id=22)";

#[test]
fn encrypt_then_mac_is_agreed_on_where_the_device_has_it_on() {
    passes(|bench| {
        let old = ["-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0", "-tlsextdebug"];
        let log = bench.ends.run.path("old.log");
        for on in [false, true] {
            if on {
                let device = "  device:\n";
                bench.provision(&changed(
                    bench,
                    device,
                    &format!("{device}    encrypt-then-mac: true\n"),
                )?)?;
            }
            let server = old_server(&bench.ends, &old)?;
            let shown = asks(bench, OLD, "old.example", &old)?;
            assert_eq!(shown.contains(ENCRYPT_THEN_MAC), on, "{shown}");
            drop(server);
            let server = std::fs::read_to_string(&log)?;
            assert!(server.contains("TLS client extension"), "{server}");
            assert_eq!(server.contains(ENCRYPT_THEN_MAC), on, "{server}");
            let word = if on { "on" } else { "off" };
            let shown = bench.wire.console("show tls-inspection")?;
            let line = shown.lines().find(|line| line.starts_with("Encrypt-then-MAC"));
            assert!(line.is_some_and(|line| line.ends_with(word)), "{shown}");
        }
        Ok(())
    });
}

const P224: [&str; 2] = ["EC", "ec_paramgen_curve:P-224"];

#[test]
fn server_with_a_key_on_p224_is_reached_and_its_certificate_copied() {
    passes(|bench| {
        let identity = certified(&bench.ends, "p224.example", P224)?;
        // TLS 1.3 has no signature scheme for the curve.
        let _server = server_of(&bench.ends, &identity, &["-no_tls1_3"])?;
        for _ in 0..2 {
            let fetched = Fetch::new("p224.example", "/").at(OLD).run(&bench.ends)?;
            fetched.succeeded()?;
            checks::ensure_signed_by_weir(&fetched)?;
            ensure_holds(
                &record_of(bench, &fetched)?,
                &[
                    "decrypted and inspected\n",
                    "Verdict                 verified\n",
                    "TLS with the client     TLS 1.3 ",
                    "TLS with the server     TLS 1.2 TLS_ECDHE_ECDSA_WITH_",
                ],
            );
        }
        // The second time the server was known.
        counted(bench, "server legs opened again on the legacy stack", 1)
    });
}

#[test]
fn own_server_with_a_key_on_p224_is_served_to_clients_that_know_the_curve() {
    passes(|bench| {
        let identity = certified(&bench.ends, "shop.example", P224)?;
        let all = &bench.ends.certificates;
        let mut certificates = all.clone();
        certificates.shop = identity.clone();
        certificates.wholesale = identity.clone();
        let (own, theirs) =
            (seen(&identity.certificate_pem()?)?, seen(&all.shop.certificate_pem()?)?);
        bench.provision(&document::weir_section(&certificates)?)?;

        let knows = ["--curves", "X25519:P-224"];
        let fetch = Fetch::new("shop.example", "/").own_server();
        let fetched = fetch.clone().arguments(&knows).run(&bench.ends)?;
        fetched.succeeded()?;
        assert_eq!(fetched.certificate()?, own);
        ensure_holds(
            &record_of(bench, &fetched)?,
            &["decrypted and inspected\n", "TLS with the client     TLS 1.2 TLS_ECDHE_ECDSA_WITH_"],
        );
        // Others could not verify its signature: left alone, as whoever cannot be answered is.
        let fetched = fetch.run(&bench.ends)?;
        fetched.succeeded()?;
        assert_eq!(fetched.certificate()?, theirs);
        ensure_holds(
            &record_of(bench, &fetched)?,
            &["bypassed (TLS groups or signatures not supported)\n"],
        );
        Ok(())
    });
}

/// What the lab's public authority says of a certificate, by openssl-ocsp. `status`: `V` or `R`.
fn ocsp_response(bench: &Bench<Lab>, certificate: &Path, status: &str) -> anyhow::Result<String> {
    let mut asked = Command::new("openssl");
    let serial = succeed(asked.args(["x509", "-noout", "-serial", "-in"]).arg(certificate))?;
    let serial = serial.trim().trim_start_matches("serial=");
    let revoked = if status == "R" { "260101000000Z" } else { "" };
    let index = bench.ends.run.path("ocsp-index");
    let line = format!("{status}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN=x\n");
    std::fs::write(&index, line)?;
    let authority = &bench.ends.certificates.public_ca;
    let response = bench.ends.run.path(&format!("ocsp-{status}.der"));
    let mut command = Command::new("openssl");
    command.args(["ocsp", "-ndays", "7", "-index"]).arg(&index);
    for option in ["-rsigner", "-CA", "-issuer"] {
        command.arg(option).arg(&authority.certificate);
    }
    command.arg("-rkey").arg(&authority.key).arg("-cert").arg(certificate);
    succeed(command.arg("-respout").arg(&response))?;
    Ok(response.display().to_string())
}

#[test]
fn old_server_that_staples_that_it_is_revoked_is_not_vouched_for_and_not_resumed() {
    passes(|bench| {
        let identity = certified(&bench.ends, "old.example", ["RSA", "rsa_keygen_bits:2048"])?;
        for (status, trusted) in [("V", true), ("R", false)] {
            let response = ocsp_response(bench, &identity.certificate, status)?;
            let old = ["-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0", "-status_file", &response];
            let _server: Process = server_of(&bench.ends, &identity, &old)?;
            for time in 0..2 {
                let fetched = Fetch::new("old.example", "/").at(OLD).run(&bench.ends)?;
                assert_eq!(fetched.exit == 0, trusted, "{status}: {}", fetched.messages);
                let record = record_of(bench, &fetched)?;
                let verdict = if trusted { "verified" } else { "revoked" };
                ensure_holds(&record, &[&format!("Verdict                 {verdict}\n")]);
                let resumed = record.contains("TLS_RSA_WITH_AES_128_CBC_SHA, resumed\n");
                assert_eq!(resumed, trusted && time == 1, "{record}");
            }
        }
        Ok(())
    });
}

#[test]
fn what_a_server_of_ours_staples_is_passed_to_old_clients_that_ask() {
    passes(|bench| {
        let servers = format!("destinations: [\"{OWN_SERVER}/32\"");
        bench.provision(&changed(bench, &servers, &format!("{servers}, \"{OLD}/32\""))?)?;
        let shop = bench.ends.certificates.shop.clone();
        let response = ocsp_response(bench, &shop.certificate, "V")?;
        let _server = server_of(&bench.ends, &shop, &["-status_file", &response])?;
        let arguments = [&OLD_CLIENT[..], &["-status"]].concat();
        // The second client has a handshake of its own, but the session with the server is resumed.
        for _ in 0..2 {
            let shown = asks(bench, OLD, "shop.example", &arguments)?;
            assert!(shown.contains("OCSP Response Status: successful"), "{shown}");
        }
        let leg = "TLS with the client     TLS 1.1 ";
        recorded(bench, &["decrypted and inspected\n", leg, ", resumed\n"])
    });
}
