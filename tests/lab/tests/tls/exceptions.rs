//! What is not decrypted, because of the server's certificate or of what was learnt of both ends.

use std::process::Command;
use std::time::{Duration, Instant};

use weir_lab::certificates::{Identity, PUBLIC_CA, seen};
use weir_lab::checks;
use weir_lab::ends::{OWN_SERVER, SERVER};
use weir_lab::fetch::Fetch;
use weir_lab::process::{finish, succeed};
use weir_lab::wire::Wire as _;

use super::{INSPECTED, OTHER, configure, openssl_server, passes, record_of, serve, told};

const EXCEPTED: &str = "not decrypted (domain exception)";
/// The console folds it after these.
pub const LEARNT: &str = "not decrypted (learnt that the domain needs no";

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
            assert_eq!(outcome, LEARNT, "{record}");
            let asked = record.contains("Server certificate      bank.example\n");
            assert_eq!(asked, time == 0, "{record}");
            assert!(bench.ends.access_log()?.contains(&format!("10.66.0.1:{} ", fetched.port)));
        }
        // Shown, and asked again once it is forgotten.
        let shown = told(bench, "show tls-inspection", "Excepted by their certificates")?;
        let wanted = format!("  bank.example at {SERVER}:443; segment 1, by ");
        assert!(shown.contains(&wanted), "{shown}");
        bench.wire.console("clear learnt-bypasses")?;
        told(bench, "show tls-inspection", "                     0  servers excepted by")?;
        let fetched = Fetch::new("bank.example", "/").run(&bench.ends)?;
        let (outcome, record) = record_of(bench, &fetched)?;
        assert_eq!(outcome, LEARNT, "{record}");
        assert!(record.contains("Server certificate      bank.example\n"), "{record}");
        // Another name of the same server is not asked for.
        let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
        checks::ensure_signed_by_weir(&fetched)?;
        Ok(())
    });
}

/// There is no word of the client's to trust: whatever policy says of that.
#[test]
fn without_a_server_name_the_certificates_own_names_decide() {
    passes(|bench, _| {
        let domains = "domains-not-to-decrypt: [\"bank.example\", \"*.bank.example\"]";
        let bank = bench.ends.certificates.bank.clone();
        let _server = openssl_server(&bench.ends, &bank)?;
        for decided_by in ["server-name", "server-certificate"] {
            configure(bench, domains, &format!("{domains}\n      decided-by: {decided_by}"))?;
            // By its address: no server name is sent. Asked, then remembered.
            for time in 0..2 {
                let nameless = Fetch::new(&OTHER.to_string(), "/").at(OTHER).trust_anybody();
                let fetched = nameless.run(&bench.ends)?;
                fetched.succeeded()?;
                assert_eq!(fetched.certificate()?, seen(&bank.certificate_pem()?)?);
                let (outcome, record) = record_of(bench, &fetched)?;
                assert_eq!(outcome, LEARNT, "{record}");
                assert!(record.contains("Server name             none\n"), "{record}");
                let asked = record.contains("Server certificate      bank.example\n");
                assert_eq!(asked, time == 0, "{record}");
            }
            // Nor is there where a client sends an address in the name's place.
            let mut client = bench.ends.client.command("timeout");
            client.args(["30", "openssl", "s_client", "-connect", &format!("{OTHER}:443")]);
            let said = finish(client.args(["-servername", &OTHER.to_string()]))?.text();
            let issuer = said.lines().find(|line| line.starts_with("issuer=")).unwrap_or(&said);
            assert!(issuer.contains(PUBLIC_CA), "{issuer}");
        }
        Ok(())
    });
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
            // What is learnt of it is learnt at its end, which is not to come after the command below.
            record_of(bench, &fetched)?;
        }
        told(
            bench,
            "debug np stats show npSslInspProtocolStats",
            "2  serverFailureCertificateRequested\n",
        )?;

        let shown = bench.wire.console("show tls-inspection")?;
        assert!(!shown.contains("Learnt to be bypassed"), "what is blocked: {shown}");
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

        // Of one server, or name, alone.
        let asks = format!("public.example at {OTHER}:443, which asks for client certificates");
        let pins = format!("public.example at {SERVER}:443 for 10.66.0.1, which rejects forged\n");
        let shown = bench.wire.console("show learnt-bypasses")?;
        assert!(shown.contains(&asks) && shown.contains(&pins), "{shown}");
        assert!(bench.wire.console("clear learnt-bypasses elsewhere.example").is_err());
        let done = bench.wire.console(&format!("clear learnt-bypasses {OTHER}"))?;
        assert_eq!(done, format!("1 entry of {OTHER} forgotten\n"));
        let shown = bench.wire.console("show learnt-bypasses")?;
        assert!(!shown.contains(&asks) && shown.contains(&pins), "{shown}");

        bench.wire.console("clear learnt-bypasses")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while bench.wire.console("show tls-inspection")?.contains("Learnt") {
            anyhow::ensure!(Instant::now() < deadline, "nothing is forgotten");
        }
        let shown = bench.wire.console("show learnt-bypasses")?;
        assert_eq!(shown, "Nothing was learnt to be bypassed or excepted.\n");
        let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
        checks::ensure_signed_by_weir(&fetched)
    });
}

/// The same of servers of ours, whose keys are here: their clients' are not.
#[test]
fn servers_of_ours_that_ask_for_certificates_are_blocked_or_learnt_as_set() {
    passes(|bench, _| {
        let shop = bench.ends.certificates.shop.clone();
        let mut command = bench.ends.server.command("openssl");
        command.args(["s_server", "-www", "-Verify", "1", "-accept", &format!("{OTHER}:443")]);
        command.arg("-cert").arg(&shop.certificate).arg("-key").arg(&shop.key);
        let _server = serve(&bench.ends, "asking", &mut command)?;
        let (certificate, key) =
            (shop.certificate.display().to_string(), shop.key.display().to_string());
        let shows = ["--cert", &certificate, "--key", &key];
        let asking = Fetch::new("shop.example", "/").at(OTHER).arguments(&shows);
        let destinations = format!("destinations: [\"{OWN_SERVER}/32\"]");
        for word in ["block", "bypass"] {
            let ours = format!("destinations: [\"{OWN_SERVER}/32\", \"{OTHER}/32\"]");
            let set = format!("{ours}\n      on-client-certificate-request: {word}");
            configure(bench, &destinations, &set)?;
            assert_ne!(asking.run(&bench.ends)?.exit, 0);
            let fetched = asking.run(&bench.ends)?;
            let (outcome, record) = record_of(bench, &fetched)?;
            if word == "block" {
                assert_eq!(outcome, "blocked (server asked for a client certificate)", "{record}");
                continue;
            }
            fetched.succeeded()?;
            assert!(outcome.starts_with("bypassed (learnt that "), "{record}");
            let wanted = format!("shop.example at {OTHER}:443, which asks for client certificates");
            told(bench, "show tls-inspection", &wanted)?;
        }
        Ok(())
    });
}

/// As curl wants it.
fn public_key_pin(of: &Identity) -> anyhow::Result<String> {
    let script = "openssl x509 -pubkey -noout -in \"$0\" | openssl pkey -pubin -outform der \
                  | openssl dgst -sha256 -binary | openssl base64";
    let pin = succeed(Command::new("sh").args(["-c", script]).arg(&of.certificate))?;
    Ok(format!("sha256//{}", pin.trim()))
}
