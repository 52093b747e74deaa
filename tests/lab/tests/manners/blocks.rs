//! Sessions that policy blocks before the client is answered: a reset where the proxy's option says so,
//! else an alert (SPEC T8).

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use weir_lab::bench::Bench;
use weir_lab::certificates::Identity;
use weir_lab::checks;
use weir_lab::ends::{Ends, OWN_SERVER, SERVER};
use weir_lab::fetch::{Fetch, Fetched};
use weir_lab::wire::lab::Lab;

use super::{OTHER, configure, give_address, passes, record_of, serve};

const CLIENT_RESET: &str = "reset-client-on-block: true";
const SERVER_RESET: &str = "reset-server-on-block: true";
const ASKED: &str = "Outcome blocked (server asked for a client certificate)";

/// The client was told so, and by nothing else.
fn ensure_told(fetched: &Fetched, resets: bool, alert: &str) {
    let (told, other) = if resets { ("reset by peer", "alert") } else { (alert, "reset") };
    let words = &fetched.messages;
    assert!(fetched.exit != 0 && words.contains(told), "not {told:?}: {fetched:?}");
    assert!(!words.contains(other), "{other:?}: {fetched:?}");
}

#[test]
fn client_of_a_server_that_asks_for_a_certificate_is_reset_or_told_as_set() {
    passes(|bench| {
        for resets in [true, false] {
            if !resets {
                configure(bench, &[(CLIENT_RESET, "reset-client-on-block: false")])?;
            }
            // Before TLS 1.3 the server fails the handshake; with it, it ends before it is known.
            for version in ["-tls1_2", "-tls1_3"] {
                let public = &bench.ends.certificates.public;
                let mut command = bench.ends.server.command("openssl");
                let place = format!("{OTHER}:443");
                command.args(["s_server", "-www", "-Verify", "1", "-accept", &place, version]);
                command.arg("-cert").arg(&public.certificate).arg("-key").arg(&public.key);
                let _server = serve(&bench.ends, &mut command, &place)?;
                let fetched = Fetch::new("public.example", "/").at(OTHER).run(&bench.ends)?;
                ensure_told(&fetched, resets, "alert handshake failure");
                let record = record_of(bench, fetched.port)?;
                assert!(record.contains(ASKED), "{record}");
            }
        }
        Ok(())
    });
}

/// A server of ours that asks for a certificate, and does without; how each connection ended for it.
fn asking_server(
    ends: &Ends,
    identity: &Identity,
) -> anyhow::Result<mpsc::Receiver<Option<ErrorKind>>> {
    give_address(ends)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&ends.certificates.public_ca.certificate)?)?;
    let verifier =
        WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build()?;
    let chain = CertificateDer::pem_file_iter(&identity.certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)?;
    let config = ServerConfig::builder().with_client_cert_verifier(verifier);
    let mut config = config.with_single_cert(chain, key)?;
    // What it would send after its end would be answered by a reset in any case.
    config.send_tls13_tickets = 0;
    let config = Arc::new(config);
    let listener = ends.server.enter(|| Ok(TcpListener::bind((OTHER, 443))?))?;
    let (tell, told) = mpsc::channel();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), Ok(mut tls)) = (stream, ServerConnection::new(config.clone()))
            else {
                return;
            };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
            while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
            let _ = tell.send(stream.read(&mut [0; 64]).err().map(|error| error.kind()));
        }
    });
    Ok(told)
}

#[test]
fn own_server_that_asks_for_a_certificate_is_reset_or_closed_as_set_and_its_client_reset() {
    passes(|bench| {
        let servers = format!("destinations: [\"{OWN_SERVER}/32\"");
        let with_other = format!("{servers}, \"{OTHER}/32\"");
        let shop = bench.ends.certificates.shop.clone();
        let ended = asking_server(&bench.ends, &shop)?;
        for (reset, end) in [("true", Some(ErrorKind::ConnectionReset)), ("false", None)] {
            let reset = format!("reset-server-on-block: {reset}");
            configure(bench, &[(&servers, &with_other), (SERVER_RESET, &reset)])?;
            let fetched = Fetch::new("shop.example", "/").at(OTHER).run(&bench.ends)?;
            ensure_told(&fetched, true, "");
            assert_eq!(ended.recv_timeout(Duration::from_secs(30))?, end, "{reset}");
            let record = record_of(bench, fetched.port)?;
            assert!(record.contains(ASKED), "{record}");
        }
        Ok(())
    });
}

/// Of TLS 1.2 with a suite that no stack has.
const NO_SUITE: [&str; 4] = ["--tls-max", "1.2", "--ciphers", "AES128-CCM"];
/// What the proxy of clients is told not to speak, in the test below.
const NO_VERSION: [&str; 2] = ["--tls-max", "1.2"];

/// A hello of RFC 5246 section E.2.
const SSLV2_FORMAT: &[u8] = &[
    0x80, 0x1c, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 0x2f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
    14, 15, 16,
];

const NOT_TLS: &str = "Outcome blocked (not TLS on a server proxy)";

/// SPEC D15.
#[test]
fn hello_that_nobody_here_can_answer_passes_unread_or_is_blocked_as_set() {
    passes(|bench| {
        let modern_only = format!("{CLIENT_RESET}\n      protocols: [TLS 1.3]");
        let health = "    health:\n";
        for blocks in [false, true] {
            let action = if blocks { "block" } else { "bypass" };
            let evasion = format!("    evasion: {{ unsupported-tls: {action} }}\n{health}");
            configure(bench, &[(CLIENT_RESET, &modern_only), (health, &evasion)])?;
            let wanted = format!(
                "Outcome {}ed (TLS version or suites not supported)",
                if blocks { "block" } else { "bypass" }
            );
            for fetch in [
                Fetch::new("public.example", "/").arguments(&NO_SUITE),
                Fetch::new("public.example", "/").arguments(&NO_VERSION),
                Fetch::new("shop.example", "/").own_server().arguments(&NO_SUITE),
            ] {
                let fetched = fetch.run(&bench.ends)?;
                let record = record_of(bench, fetched.port)?;
                assert!(record.contains(&wanted), "{record}");
                if blocks {
                    ensure_told(&fetched, true, "");
                }
            }
            let mut stream = bench.ends.connect_from_client(SocketAddr::from((SERVER, 443)))?;
            stream.write_all(SSLV2_FORMAT)?;
            let record = record_of(bench, stream.local_addr()?.port())?;
            assert!(record.contains(&wanted), "{record}");
            let ended = stream.read(&mut [0; 64]);
            let reset = ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
            assert_eq!(reset, blocks);
            // Of a server of ours it is no TLS handshake, whatever is set (SPEC T9).
            let mut own = bench.ends.connect_from_client(SocketAddr::from((OWN_SERVER, 443)))?;
            own.write_all(SSLV2_FORMAT)?;
            let record = record_of(bench, own.local_addr()?.port())?;
            assert!(record.contains(NOT_TLS), "{record}");
        }
        still_inspects(bench)
    });
}

fn still_inspects(bench: &Bench<Lab>) -> anyhow::Result<()> {
    let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
    fetched.succeeded()?;
    checks::ensure_signed_by_weir(&fetched)
}
