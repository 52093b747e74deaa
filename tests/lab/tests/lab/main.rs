//! Weir's processes between real ends, on this machine's kernel.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attacks;
#[path = "../common/mod.rs"]
mod common;
mod operator;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{connect, connect_in_pieces, lab, read_until, write_record};
use nix::sys::signal::{Signal, kill};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use weir_api::console::VirtualSegmentView;
use weir_api::sight::Histogram;
use weir_lab::bench::Bench;
use weir_lab::certificates::{seen, verify_strictly};
use weir_lab::checks;
use weir_lab::document::{self, MALWARE_SID, UPLOAD_ATTACK, UPLOAD_SID};
use weir_lab::ends::{MALWARE, OWN_SERVER, sha256};
use weir_lab::fetch::Fetch;
use weir_lab::report::Evidence;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::{FLOW_TABLE, Lab};

fn passes(check: impl FnOnce(&mut Bench<Lab>, &mut Evidence) -> anyhow::Result<()>) {
    let mut bench = lab();
    if let Err(error) = check(&mut bench, &mut Evidence) {
        panic!("{error:#}; {}", bench.wire.state());
    }
    bench.run.succeeded();
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn a_benign_download_is_decrypted_inspected_and_whole() {
    passes(checks::benign_download);
}

#[test]
fn an_attack_is_blocked_and_never_reaches_the_server() {
    passes(checks::attack_blocked);
}

#[test]
fn a_domain_not_to_decrypt_keeps_its_certificate() {
    passes(checks::do_not_decrypt);
}

#[test]
fn an_untrusted_server_stays_untrusted() {
    passes(checks::untrusted_server);
}

#[test]
fn addresses_and_ports_are_the_same_on_both_sides() {
    passes(checks::transparent);
}

#[test]
fn connections_survive_a_killed_engine_and_inspection_comes_back() {
    passes(checks::engine_killed);
}

#[test]
fn a_stopped_engine_lets_new_connections_cross() {
    passes(|bench, _| {
        let document = document::weir_section(&bench.ends.certificates)?;
        bench.provision(&document::impatient(&document))?;
        let engine = bench.wire.engine()?;
        kill(engine, Signal::SIGSTOP)?;
        // Longer than the heartbeat's age at which eBPF holds nothing any more.
        std::thread::sleep(Duration::from_secs(1));
        let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
        // Supervision may have killed it by its watchdog meanwhile.
        let _ = kill(engine, Signal::SIGCONT);
        fetched.succeeded()?;
        assert!(checks::is_own(&bench.ends.certificates, &fetched.certificate()?)?);
        bench.wait_for_inspection().map(drop)
    });
}

#[test]
fn forced_fallback_lets_new_connections_cross_until_it_is_lifted() {
    passes(|bench, _| {
        bench.wire.console("high-availability force fallback")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
            fetched.succeeded()?;
            if checks::is_own(&bench.ends.certificates, &fetched.certificate()?)? {
                break;
            }
            assert!(Instant::now() < deadline, "still inspected after fallback was forced");
        }
        bench.wire.console("high-availability force normal")?;
        bench.wait_for_inspection().map(drop)
    });
}

#[test]
fn server_inspection_answers_with_the_servers_own_key_by_server_name() {
    passes(|bench, evidence| {
        let own = [
            ("shop.example", bench.ends.certificates.shop.clone()),
            ("wholesale.example", bench.ends.certificates.wholesale.clone()),
        ];
        for (name, identity) in own {
            let fetched = Fetch::new(name, "/").own_server().run(&bench.ends)?;
            fetched.succeeded()?;
            assert_eq!(fetched.certificate()?, seen(&identity.certificate_pem()?)?, "{name}");
            let row = checks::row_on_console(
                bench,
                evidence,
                "show sessions",
                &format!("10.66.0.1:{} ", fetched.port),
            )?;
            assert!(row.contains("decrypted and inspected"), "{row}");
        }
        let attack = Fetch::new("shop.example", "/?f=/etc/passwd").own_server().run(&bench.ends)?;
        assert_ne!(attack.exit, 0, "the attack got through");
        assert!(!bench.ends.access_log()?.contains("passwd"));
        Ok(())
    });
}

#[test]
fn a_forged_certificate_passes_the_strictest_verification() {
    passes(|bench, _| {
        let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
        fetched.succeeded()?;
        checks::ensure_signed_by_weir(&fetched)?;
        let anchors = bench.ends.certificates.signing_ca.certificate.clone();
        verify_strictly(&fetched.chain, &anchors, &bench.run.path("shown.pem"))
    });
}

#[test]
fn both_tls_versions_are_inspected() {
    passes(|bench, _| {
        for (option, version) in [("--tls-max", "1.2"), ("--tlsv1.3", "1.3")] {
            let arguments: &[&str] =
                if option == "--tls-max" { &["-v", option, version] } else { &["-v", option] };
            let fetched =
                Fetch::new("public.example", "/").arguments(arguments).run(&bench.ends)?;
            fetched.succeeded()?;
            checks::ensure_signed_by_weir(&fetched)?;
            let wanted = format!("SSL connection using TLSv{version}");
            assert!(fetched.messages.contains(&wanted), "{}", fetched.messages);
        }
        Ok(())
    });
}

#[test]
fn the_post_quantum_group_is_negotiated_with_a_client_that_has_it() {
    passes(|bench, _| {
        let tls = connect(&bench.ends, "public.example");
        let group = tls.conn.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        Ok(())
    });
}

/// Longer than a hello is held: the flow is taken over before it is judged (SPEC D12).
#[test]
fn a_hello_in_late_pieces_is_judged_all_the_same() {
    passes(|bench, evidence| {
        let tls = connect_in_pieces(&bench.ends, "public.example", &[1, 40, 300]);
        let shown = tls.conn.peer_certificates().unwrap()[0].to_vec();
        assert_ne!(shown, der(&bench.ends.certificates.public.certificate_pem()?));

        let mut tls = connect_in_pieces(&bench.ends, "bank.example", &[1, 40, 300]);
        let shown = tls.conn.peer_certificates().unwrap()[0].to_vec();
        assert_eq!(shown, der(&bench.ends.certificates.bank.certificate_pem()?));
        write_record(
            &mut tls,
            b"GET / HTTP/1.1\r\nHost: bank.example\r\nConnection: close\r\n\r\n",
        )?;
        let (answer, end) = read_until(&mut tls, "\0never", 1);
        end?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let port = tls.sock.local_addr()?.port();
        drop(tls); // a session is told when it ended
        let flow = format!("10.66.0.1:{port} ");
        let row = checks::row_on_console(bench, evidence, "show sessions", &flow)?;
        assert!(row.contains("not decrypted (domain exception)"), "{row}");
        Ok(())
    });
}

/// Servers in use pass over empty records: what is behind one must not pass by uninspected.
#[test]
fn an_empty_record_hides_no_hello_from_a_server_proxy() {
    passes(|bench, _| {
        let mut stream = bench.ends.connect_from_client(SocketAddr::from((OWN_SERVER, 443)))?;
        stream.write_all(&[0x16, 3, 1, 0, 0])?;
        let directory = env!("CARGO_MANIFEST_DIR");
        let seed = format!("{directory}/../fuzz/seeds/client_hello/openssl-3.0-tls13.bin");
        stream.write_all(&std::fs::read(seed)?)?;
        // Taken over, and refused by the stack: an alert (or a reset), never the server's answer.
        let mut answer = [0; 5];
        if let Ok(5) = stream.read(&mut answer) {
            assert_eq!(answer[0], 21, "not an alert: {answer:?}");
        }
        Ok(())
    });
}

#[test]
fn a_large_upload_arrives_whole() {
    passes(|bench, _| {
        let source = bench.ends.served("random.bin");
        let upload = ["--upload-file", source.to_str().unwrap()];
        let fetched = Fetch::new("public.example", "/upload/random.bin")
            .arguments(&upload)
            .limit(120)
            .run(&bench.ends)?;
        fetched.succeeded()?;
        checks::ensure_signed_by_weir(&fetched)?;
        assert_eq!(sha256(&source)?, sha256(&bench.ends.served("upload/random.bin"))?);
        Ok(())
    });
}

#[test]
fn fifty_connections_at_once_are_all_inspected() {
    passes(|bench, _| {
        let ends = &bench.ends;
        let wanted = sha256(&ends.served("index.html"))?;
        let fetched: Vec<_> = std::thread::scope(|scope| {
            let fetches: Vec<_> = (0..50)
                .map(|number| {
                    scope.spawn(move || {
                        Fetch::new("public.example", "/")
                            .limit(60)
                            .run_into(ends, &format!("parallel-{number}"))
                    })
                })
                .collect();
            fetches.into_iter().map(|fetch| fetch.join().unwrap().unwrap()).collect()
        });
        for fetched in fetched {
            fetched.succeeded()?;
            checks::ensure_signed_by_weir(&fetched)?;
            assert_eq!(sha256(&fetched.body)?, wanted);
        }
        Ok(())
    });
}

#[test]
fn a_connection_serves_one_request_after_another() {
    passes(|bench, _| {
        let request = b"GET / HTTP/1.1\r\nHost: public.example\r\n\r\n";
        let page = std::fs::read_to_string(bench.ends.served("index.html"))?;
        let mut tls = connect(&bench.ends, "public.example");
        for _ in 0..2 {
            write_record(&mut tls, request)?;
            let (answer, end) = read_until(&mut tls, page.trim_end(), 1);
            end?;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        Ok(())
    });
}
