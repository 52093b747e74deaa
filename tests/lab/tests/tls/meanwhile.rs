//! What another session with the same server learns while this one is in its handshake.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use weir_lab::certificates::{Identity, seen};
use weir_lab::ends::{Ends, INTERFACE};
use weir_lab::fetch::Fetch;

use super::exceptions::LEARNT;
use super::{OTHER, configure, passes, record_of};

/// A server that leaves the hello on its first connection without an answer until it is told to go on; it
/// tells when that hello is there.
fn hesitant(ends: &Ends, identity: &Identity) -> anyhow::Result<(Receiver<()>, Sender<()>)> {
    ends.server.ip(&["address", "replace", &format!("{OTHER}/24"), "dev", INTERFACE])?;
    let chain = CertificateDer::pem_file_iter(&identity.certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let config = Arc::new(config);
    let listener = ends.server.enter(move || Ok(TcpListener::bind((OTHER, 443))?))?;
    let ((tell, asked), (go_on, told)) = (channel(), channel());
    // Ends with the test's process.
    std::thread::spawn(move || {
        let mut first = Some((tell, told));
        for stream in listener.incoming() {
            let (Ok(stream), Ok(connection)) = (stream, ServerConnection::new(config.clone()))
            else {
                return;
            };
            let first = first.take();
            std::thread::spawn(move || {
                if let Some((tell, told)) = first {
                    let _ = stream.peek(&mut [0; 1]);
                    let _ = tell.send(());
                    let _: Result<(), _> = told.recv();
                }
                let mut tls = StreamOwned::new(connection, stream);
                if tls.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
                    let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    let _ = tls.flush();
                }
            });
        }
    });
    Ok((asked, go_on))
}

#[test]
fn session_whose_server_another_one_has_seen_to_be_excepted_meanwhile_is_relayed() {
    passes(|bench, _| {
        let domains = "domains-not-to-decrypt: [\"bank.example\", \"*.bank.example\"]";
        configure(bench, domains, &format!("{domains}\n      decided-by: server-certificate"))?;
        let bank = bench.ends.certificates.bank.clone();
        let (asked, go_on) = hesitant(&bench.ends, &bank)?;
        let fetch = Fetch::new("bank.example", "/").at(OTHER);
        let fetched = std::thread::scope(|scope| {
            let ends = &bench.ends;
            let slow = scope.spawn(|| fetch.run_into(ends, "slow"));
            asked.recv_timeout(Duration::from_secs(20))?;
            let quick = fetch.run(ends);
            go_on.send(())?;
            Ok::<_, anyhow::Error>([slow.join().expect("the fetch panics")?, quick?])
        })?;
        for fetched in fetched {
            fetched.succeeded()?;
            assert_eq!(fetched.certificate()?, seen(&bank.certificate_pem()?)?);
            let (outcome, record) = record_of(bench, &fetched)?;
            assert_eq!(outcome, LEARNT, "{record}");
        }
        Ok(())
    });
}
