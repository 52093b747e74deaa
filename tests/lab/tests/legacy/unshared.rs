//! Servers that share nothing with Weir, and something with their clients: relayed, or blocked, as the device
//! says of TLS that it cannot decrypt. openssl's server and curl at the ends.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use weir_lab::bench::Bench;
use weir_lab::certificates::{Identity, seen};
use weir_lab::ends::{Ends, INTERFACE, OWN_SERVER};
use weir_lab::fetch::Fetch;
use weir_lab::process::finish;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

use super::settings::recorded;
use super::{OLD, certified, changed, ensure_holds, passes, record_of, server_of};

const NAME: &str = "unshared.example";
/// The console folds them.
const BYPASSED: &str = "bypassed (server and client share no suite with";
const BLOCKED: &str = "blocked (server refused Weir's hello with";
const FAILED: &str = "blocked (TLS handshake with the server failed)";
/// Nothing but what Weir has.
const OURS: [&str; 6] = [
    "--ciphers",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "--tls13-ciphers",
    "TLS_AES_128_GCM_SHA256",
    "--curves",
    "X25519:P-256",
];
const DHE: [&str; 3] = ["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"];

fn identity(ends: &Ends) -> anyhow::Result<Identity> {
    certified(ends, NAME, ["RSA", "rsa_keygen_bits:2048"])
}

/// Waits until the console tells, or does not tell, that the server is known.
fn told(bench: &mut Bench<Lab>, known: bool) -> anyhow::Result<()> {
    let wanted = format!("{NAME} at {OLD}:443, which shares with clients what Weir");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = bench.wire.console("show tls-inspection")?;
        if shown.contains(&wanted) == known {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "known is not {known}: {shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_a_server_shares_with_its_client_and_not_with_weir_is_relayed() {
    passes(|bench| {
        let identity = identity(&bench.ends)?;
        let own = seen(&identity.certificate_pem()?)?;
        let rsa = "ECDHE-RSA-AES128-GCM-SHA256";
        let ccm = ["--tls13-ciphers", "TLS_AES_128_GCM_SHA256:TLS_AES_128_CCM_SHA256"];
        let aria = ["--ciphers", "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ARIA128-GCM-SHA256"];
        let brainpool = ["--curves", "X25519:brainpoolP256r1"];
        let camellia = ["--ciphers", "AES128-SHA:CAMELLIA128-SHA"];
        // The first with curl as it comes.
        let servers: [(&[&str], &[&str]); 5] = [
            (&DHE, &[]),
            (&["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"], &ccm),
            (&["-tls1_2", "-cipher", "ECDHE-ARIA128-GCM-SHA256"], &aria),
            (&["-tls1_2", "-cipher", "CAMELLIA128-SHA"], &camellia),
            (&["-tls1_2", "-curves", "brainpoolP256r1", "-cipher", rsa], &brainpool),
        ];
        for (server, client) in servers {
            let _server = server_of(&bench.ends, &identity, server)?;
            // Asked by Weir first, then by the client's hello at once.
            for time in 0..2 {
                let fetched = Fetch::new(NAME, "/").at(OLD).arguments(client).run(&bench.ends)?;
                fetched.succeeded()?;
                assert_eq!(fetched.certificate()?, own, "{server:?}, {time}");
                ensure_holds(&record_of(bench, &fetched)?, &[BYPASSED]);
            }
            told(bench, true)?;
            // That is no bypass for whoever could be decrypted: nor is there anything to bypass to.
            let fetch = Fetch::new(NAME, "/").at(OLD).arguments(&OURS);
            let fetched = fetch.run(&bench.ends)?;
            assert_ne!(fetched.exit, 0, "{server:?}");
            ensure_holds(&record_of(bench, &fetched)?, &[FAILED]);
            bench.wire.console("clear learnt-bypasses")?;
            told(bench, false)?;
        }
        // What has come to share something with Weir is decrypted, whatever was known.
        let server = server_of(&bench.ends, &identity, &DHE)?;
        Fetch::new(NAME, "/").at(OLD).run(&bench.ends)?.succeeded()?;
        drop(server);
        let _server = server_of(&bench.ends, &identity, &[])?;
        let fetched = Fetch::new(NAME, "/").at(OLD).run(&bench.ends)?;
        fetched.succeeded()?;
        weir_lab::checks::ensure_signed_by_weir(&fetched)?;
        ensure_holds(&record_of(bench, &fetched)?, &["decrypted and inspected\n"]);
        told(bench, false)
    });
}

/// The group of such a session is told in its first handshake alone.
#[test]
fn session_that_was_relayed_is_resumed_by_its_two_ends() {
    passes(|bench| {
        let identity = identity(&bench.ends)?;
        let suite = "ECDHE-RSA-AES128-GCM-SHA256";
        let server = ["-tls1_2", "-cipher", suite, "-curves", "brainpoolP256r1"];
        let _server = server_of(&bench.ends, &identity, &server)?;
        let session = bench.ends.run.path("session.pem");
        let visits = [
            ("-sess_out", "New, TLSv1.2", true),
            ("-sess_in", "Reused, TLSv1.2", true),
            // Also where nothing is known of the server any more.
            ("-sess_in", "Reused, TLSv1.2", false),
        ];
        for (option, said, known) in visits {
            if !known {
                bench.wire.console("clear learnt-bypasses")?;
                told(bench, false)?;
            }
            let mut command = bench.ends.client.command("timeout");
            command.args(["30", "openssl", "s_client", "-connect", &format!("{OLD}:443")]);
            command.args(["-servername", NAME, "-tls1_2", "-cipher", suite]);
            command.args(["-curves", "X25519:P-256:brainpoolP256r1"]);
            let finished = finish(command.arg(option).arg(&session))?;
            assert!(finished.text().contains(said), "{}{}", finished.text(), finished.errors);
            recorded(bench, &[BYPASSED])?;
            told(bench, true)?;
        }
        Ok(())
    });
}

#[test]
fn where_policy_blocks_it_the_session_is_blocked_for_a_reason_of_its_own() {
    passes(|bench| {
        let device = "  device:\n";
        let set = format!("{device}    evasion:\n      unsupported-tls: block\n");
        bench.provision(&changed(bench, device, &set)?)?;
        let identity = identity(&bench.ends)?;
        let _server = server_of(&bench.ends, &identity, &DHE)?;
        for (client, blocked) in [(&[][..], BLOCKED), (&OURS, FAILED)] {
            let fetch = Fetch::new(NAME, "/").at(OLD).arguments(client);
            let fetched = fetch.run(&bench.ends)?;
            assert_ne!(fetched.exit, 0);
            // Not a reset: an alert, as the server's own is.
            assert_eq!(fetched.exit, 35, "{}", fetched.messages);
            ensure_holds(&record_of(bench, &fetched)?, &[blocked]);
        }
        Ok(())
    });
}

/// A server of ours is decrypted or blocked.
#[test]
fn on_a_server_proxy_it_is_blocked_whatever_the_device_says() {
    passes(|bench| {
        let servers = format!("destinations: [\"{OWN_SERVER}/32\"");
        bench.provision(&changed(bench, &servers, &format!("{servers}, \"{OLD}/32\""))?)?;
        let shop = bench.ends.certificates.shop.clone();
        let server = ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-CCM"];
        let _server = server_of(&bench.ends, &shop, &server)?;
        let client = ["--ciphers", "ECDHE-ECDSA-AES128-CCM:ECDHE-ECDSA-AES128-GCM-SHA256"];
        let fetched = Fetch::new("shop.example", "/").at(OLD).arguments(&client);
        let fetched = fetched.run(&bench.ends)?;
        assert_ne!(fetched.exit, 0);
        ensure_holds(&record_of(bench, &fetched)?, &[BLOCKED]);
        Ok(())
    });
}

/// It tells Weir's hello by what that does not offer, and refuses it; what it would agree on with the client
/// Weir has. Counts those that sent it data.
fn liar(bench: &Bench<Lab>, identity: &Identity) -> anyhow::Result<Arc<AtomicUsize>> {
    bench.ends.server.ip(&["address", "replace", &format!("{OLD}/24"), "dev", INTERFACE])?;
    let chain = CertificateDer::pem_file_iter(&identity.certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let config = Arc::new(config);
    let listener = bench.ends.server.enter(move || Ok(TcpListener::bind((OLD, 443))?))?;
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), Ok(connection)) = (stream, ServerConnection::new(config.clone()))
            else {
                return;
            };
            let mut hello = [0; 4096];
            let Ok(peeked) = stream.peek(&mut hello) else { continue };
            // DHE-RSA-AES128-GCM-SHA256.
            if !hello[..peeked].windows(2).any(|two| two == [0, 0x9e]) {
                let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 40]);
                continue;
            }
            let mut tls = StreamOwned::new(connection, stream);
            if tls.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                let _ = tls.flush();
            }
        }
    });
    Ok(reached)
}

#[test]
fn server_that_refuses_weir_and_agrees_with_the_client_on_what_weir_has_is_not_relayed() {
    passes(|bench| {
        let identity = identity(&bench.ends)?;
        let reached = liar(bench, &identity)?;
        for _ in 0..2 {
            let fetched = Fetch::new(NAME, "/").at(OLD).run(&bench.ends)?;
            assert_ne!(fetched.exit, 0);
            ensure_holds(&record_of(bench, &fetched)?, &[FAILED]);
        }
        assert_eq!(reached.load(Ordering::Relaxed), 0);
        Ok(())
    });
}
