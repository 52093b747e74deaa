//! Servers whose certificate excepts them from decryption (SPEC T5): those that only the legacy stack
//! can speak with, and those that show a certificate that is not theirs.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use weir_lab::bench::Bench;
use weir_lab::certificates::{Identity, seen};
use weir_lab::ends::{Ends, INTERFACE};
use weir_lab::fetch::Fetch;
use weir_lab::wire::lab::Lab;

use super::{OLD, certified, changed, ensure_holds, passes, record_of, server_of};

/// The console folds it after these.
const EXCEPTED: &str = "not decrypted (learnt that the domain needs no\n";

fn certificate_decides(bench: &mut Bench<Lab>) -> anyhow::Result<()> {
    let domains = "domains-not-to-decrypt: [\"bank.example\", \"*.bank.example\"]";
    let decided = format!("{domains}\n      decided-by: server-certificate");
    bench.provision(&changed(bench, domains, &decided)?)
}

#[test]
fn excepted_server_that_only_the_legacy_stack_can_speak_with_is_relayed() {
    passes(|bench| {
        certificate_decides(bench)?;
        let rsa = certified(&bench.ends, "rsa.bank.example", ["RSA", "rsa_keygen_bits:2048"])?;
        let bank = bench.ends.certificates.bank.clone();
        // The second is beyond what policy allows: ECDSA with CBC is off.
        for (name, identity) in [("rsa.bank.example", rsa), ("bank.example", bank)] {
            let old = ["-tls1", "-cipher", "ALL:@SECLEVEL=0"];
            let _server = server_of(&bench.ends, &identity, &old)?;
            let client = ["--tlsv1.0", "--tls-max", "1.0", "--ciphers", "ALL:@SECLEVEL=0"];
            // Asked, then remembered.
            for time in 0..2 {
                let fetch = Fetch::new(name, "/").at(OLD).arguments(&client);
                let fetched = fetch.run(&bench.ends)?;
                fetched.succeeded()?;
                assert_eq!(fetched.certificate()?, seen(&identity.certificate_pem()?)?, "{time}");
                ensure_holds(&record_of(bench, &fetched)?, &[EXCEPTED]);
            }
        }
        Ok(())
    });
}

/// Before TLS 1.3 such a server fails the handshake with whoever shows no certificate; Weir has none, and
/// must not be in the way of the client, which has.
#[test]
fn excepted_server_that_asks_for_a_client_certificate_is_relayed_to_it() {
    passes(|bench| {
        certificate_decides(bench)?;
        let ecdhe = "ECDHE-RSA-AES128-SHA:@SECLEVEL=0";
        let old = ["--tlsv1.1", "--ciphers", "ALL:@SECLEVEL=0"];
        let servers: [(&str, &[&str], &[&str]); 3] = [
            ("a.bank.example", &["-tls1_3"], &[]),
            ("b.bank.example", &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], &[]),
            ("c.bank.example", &["-tls1_1", "-cipher", ecdhe], &old),
        ];
        let own = bench.ends.certificates.public.clone();
        let (certificate, key) =
            (own.certificate.display().to_string(), own.key.display().to_string());
        let shows = ["--cert", &certificate, "--key", &key];
        let rsa = ["RSA", "rsa_keygen_bits:2048"];
        for (name, server, client) in servers {
            let identity = certified(&bench.ends, name, rsa)?;
            let asking = [server, &["-Verify", "1"]].concat();
            let _server = server_of(&bench.ends, &identity, &asking)?;
            // Asked, then remembered.
            for time in 0..2 {
                let arguments = [&shows[..], client].concat();
                let fetched =
                    Fetch::new(name, "/").at(OLD).arguments(&arguments).run(&bench.ends)?;
                fetched.succeeded()?;
                assert_eq!(fetched.certificate()?, seen(&identity.certificate_pem()?)?, "{time}");
                ensure_holds(&record_of(bench, &fetched)?, &[EXCEPTED]);
            }
        }
        // With RSA key exchange such a server proves nothing before it fails: whose certificate it is
        // cannot be known.
        let name = "d.bank.example";
        let identity = certified(&bench.ends, name, rsa)?;
        let asking = ["-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0", "-Verify", "1"];
        let _server = server_of(&bench.ends, &identity, &asking)?;
        let arguments = [&shows[..], &old].concat();
        let fetched = Fetch::new(name, "/").at(OLD).arguments(&arguments).run(&bench.ends)?;
        assert_ne!(fetched.exit, 0);
        ensure_holds(
            &record_of(bench, &fetched)?,
            &["blocked (server asked for a client certificate)"],
        );
        Ok(())
    });
}

/// Shows a chain, and signs with a key of its own.
#[derive(Debug)]
struct Impostor(Arc<CertifiedKey>);

impl ResolvesServerCert for Impostor {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A server with somebody's certificate and another's key; counts those that sent it data.
fn impostor(ends: &Ends, shown: &Identity, own: &Identity) -> anyhow::Result<Arc<AtomicUsize>> {
    ends.server.ip(&["address", "replace", &format!("{OLD}/24"), "dev", INTERFACE])?;
    let chain = CertificateDer::pem_file_iter(&shown.certificate)?.collect::<Result<_, _>>()?;
    let key = any_supported_type(&PrivateKeyDer::from_pem_file(&own.key)?)?;
    let resolver = Impostor(Arc::new(CertifiedKey::new(chain, key)));
    let config = ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_cert_resolver(Arc::new(resolver)));
    let listener = ends.server.enter(move || Ok(TcpListener::bind((OLD, 443))?))?;
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), Ok(connection)) = (stream, ServerConnection::new(config.clone()))
            else {
                return;
            };
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
fn server_that_shows_an_excepted_certificate_without_its_key_is_excepted_from_nothing() {
    passes(|bench| {
        let all = &bench.ends.certificates;
        let reached = impostor(&bench.ends, &all.bank.clone(), &all.public.clone())?;
        let (bank, fetch) = (all.bank.clone(), Fetch::new("bank.example", "/"));
        let lies = fetch.clone().at(OLD).trust_anybody();
        certificate_decides(bench)?;
        // Neither the first time nor when something might have been learnt.
        for _ in 0..2 {
            let fetched = lies.run(&bench.ends)?;
            assert_ne!(fetched.exit, 0, "{}", fetched.command);
            let record = record_of(bench, &fetched)?;
            // The console folds its lines.
            let words = record.split_whitespace().collect::<Vec<_>>().join(" ");
            ensure_holds(&words, &["blocked (", "the handshake's signature does not verify"]);
        }
        assert_eq!(reached.load(Ordering::Relaxed), 0);
        // The bank itself is excepted, at its own address, and that serves nobody else.
        let fetched = fetch.run(&bench.ends)?;
        fetched.succeeded()?;
        assert_eq!(fetched.certificate()?, seen(&bank.certificate_pem()?)?);
        assert_ne!(lies.run(&bench.ends)?.exit, 0);
        assert_eq!(reached.load(Ordering::Relaxed), 0);
        Ok(())
    });
}
