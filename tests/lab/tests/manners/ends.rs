//! What ends do that is less common, each with a program of others at the other end.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use weir_dataplane::segment::Names;
use weir_lab::bench::Bench;
use weir_lab::certificates::Identity;
use weir_lab::checks;
use weir_lab::ends::{Ends, SERVER};
use weir_lab::fetch::Fetch;
use weir_lab::process::{finish, succeed};
use weir_lab::wire::lab::Lab;
use weir_policy::snapshot::SegmentId;

use super::common::{connect, connect_to};
use super::{OTHER, configure, give_address, passes, record_of, serve};

/// It says so, where others only close.
#[test]
fn client_that_rejects_the_forged_certificate_by_an_alert_is_learnt_as_pinned() {
    passes(|bench| {
        let logging = "logging: true\n";
        let bypass = format!("{logging}      on-pinned-client: bypass\n");
        configure(bench, &[(logging, &bypass)])?;
        // It knows the server's own authority, and not Weir's.
        let authority = bench.ends.certificates.public_ca.certificate.display().to_string();
        let pinned = Fetch::new("public.example", "/").arguments(&["--cacert", &authority]);
        for _ in 0..2 {
            let fetched = pinned.run(&bench.ends)?;
            assert_eq!(fetched.exit, 60, "{fetched:?}");
            let record = record_of(bench, fetched.port)?;
            assert!(record.contains("Failure handshake with the client: "), "{record}");
            assert!(record.contains("unknown_ca"), "{record}");
        }
        let fetched = pinned.run(&bench.ends)?;
        fetched.succeeded()?;
        let record = record_of(bench, fetched.port)?;
        let wanted = "Outcome bypassed (learnt that the client rejects forged certificates)";
        assert!(record.contains(wanted), "{record}");
        Ok(())
    });
}

/// Of TLS 1.3: an end without a key share for the group that the other insists on.
#[test]
fn hello_retry_requests_are_made_to_clients_and_answered_to_servers() {
    passes(|bench| {
        // To a client that guesses wrong. It prints each message.
        let mut command = bench.ends.client.command("timeout");
        command.args(["30", "openssl", "s_client", "-connect", &format!("{SERVER}:443"), "-msg"]);
        command.args(["-servername", "public.example", "-tls1_3", "-groups", "P-521:P-256"]);
        let text = finish(&mut command)?.text();
        assert_eq!(text.matches(", ClientHello\n").count(), 2, "{text}");
        assert!(text.contains("CN = Weir lab signing CA"), "{text}");

        let public = &bench.ends.certificates.public;
        let mut command = bench.ends.server.command("openssl");
        let place = format!("{OTHER}:443");
        command.args(["s_server", "-www", "-tls1_3", "-groups", "P-384", "-accept", &place]);
        command.arg("-cert").arg(&public.certificate).arg("-key").arg(&public.key);
        let _server = serve(&bench.ends, command.arg("-msg"), &place)?;
        let fetched = Fetch::new("public.example", "/").at(OTHER).run(&bench.ends)?;
        fetched.succeeded()?;
        checks::ensure_signed_by_weir(&fetched)?;
        let record = record_of(bench, fetched.port)?;
        let told = "TLS with the server TLS 1.3 TLS_AES_256_GCM_SHA384 secp384r1";
        assert!(record.contains(told), "{record}");
        let said = std::fs::read_to_string(bench.ends.run.path("server.log"))?;
        assert_eq!(said.matches(", ClientHello\n").count(), 2, "{said}");
        Ok(())
    });
}

/// More than all buffers on the way hold.
const MUCH: usize = 8 << 20;

/// A server that hears its client to the end, answers with [`MUCH`], and closes.
fn patient_server(ends: &Ends, identity: &Identity) -> anyhow::Result<()> {
    give_address(ends)?;
    let chain = CertificateDer::pem_file_iter(&identity.certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let config = Arc::new(config);
    let listener = ends.server.enter(|| Ok(TcpListener::bind((OTHER, 443))?))?;
    // Ends with the test's process.
    std::thread::spawn(move || -> std::io::Result<()> {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut tls = StreamOwned::new(connection, stream?);
            let mut heard = Vec::new();
            if tls.read_to_end(&mut heard).is_err() {
                continue;
            }
            tls.write_all(&heard)?;
            tls.write_all(&vec![b'x'; MUCH])?;
            tls.conn.send_close_notify();
            tls.flush()?;
            tls.sock.shutdown(Shutdown::Write)?;
            // Until the client has gone.
            let _ = tls.sock.read(&mut [0; 16]);
        }
        Ok(())
    });
    Ok(())
}

#[test]
fn client_that_has_said_its_last_still_gets_all_that_the_server_sends() {
    passes(|bench| {
        // Not HTTP: nobody knows what is an answer.
        configure(
            bench,
            &[("service: http\n      reset-client", "service: other\n      reset-client")],
        )?;
        let public = bench.ends.certificates.public.clone();
        patient_server(&bench.ends, &public)?;
        let place = SocketAddr::from((OTHER, 443));
        let mut tls = connect_to(&bench.ends, place, "public.example");
        tls.write_all(b"my last words")?;
        tls.conn.send_close_notify();
        tls.flush()?;
        tls.sock.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer)?;
        assert!(answer.starts_with(b"my last words"));
        assert_eq!(answer.len(), MUCH + 13);
        let port = tls.sock.local_addr()?.port();
        drop(tls);
        let record = record_of(bench, port)?;
        assert!(!record.contains("Broken off"), "{record}");
        Ok(())
    });
}

#[test]
fn modern_sessions_do_not_wait_for_a_worker_that_stands_still() {
    passes(|bench| {
        let mut status = String::new();
        // One that stands still is killed as stuck after some seconds, in which a busy machine may not have
        // made the session.
        for _ in 0..5 {
            let worker = bench.wire.legacy_worker()?;
            kill(worker, Signal::SIGSTOP)?;
            let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
            status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
            let _ = kill(worker, Signal::SIGCONT);
            fetched.succeeded()?;
            checks::ensure_signed_by_weir(&fetched)?;
            if status.contains("State:\tT") {
                return Ok(());
            }
        }
        anyhow::bail!("it was over first: {status}")
    });
}

/// The kernel's own timers: an end that vanished without a word is found by them.
#[test]
fn both_ends_of_an_idle_session_are_asked_whether_they_are_there() {
    passes(|bench: &mut Bench<Lab>| {
        let tls = connect(&bench.ends, "public.example");
        let port = tls.sock.local_addr()?.port();
        let prefix = bench.ends.run.prefix();
        let engine = Names { prefix, ..Names::default() }.engine(SegmentId(1));
        let engine = engine.file_name().unwrap().to_str().unwrap().to_owned();
        let mut sockets = String::new();
        // Until what was said last is acknowledged, its timer is the one shown.
        for _ in 0..600 {
            let mut command = std::process::Command::new("ip");
            command.args(["netns", "exec", &engine, "ss", "-Htno", "state", "established"]);
            sockets = succeed(&mut command)?;
            let of_session = sockets.lines().filter(|line| line.contains(&format!(":{port} ")));
            if of_session.filter(|line| line.contains("timer:(keepalive,4min")).count() == 2 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("not both are asked: {sockets}")
    });
}
