//! The zoo of server certificates (that of `appliance/tls/tests/zoo`) between real ends: who signs
//! what the client is shown, what the two block options do, and what the log says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../../appliance/tls/tests/zoo/animals.rs"]
#[allow(dead_code)]
mod animals;
#[path = "../../../../appliance/tls/tests/common/mod.rs"]
mod common;
#[path = "../common/mod.rs"]
mod ends;
#[path = "../../../../appliance/tls/tests/zoo/expected.rs"]
mod expected;

use std::path::Path;

use animals::{Animal, ZOO};
use expected::{Expected, expected};
use weir_lab::bench::Bench;
use weir_lab::certificates::{Identity, SIGNING_CA};
use weir_lab::document;
use weir_lab::ends::SERVER;
use weir_lab::fetch::{Fetch, Fetched};
use weir_lab::peers::{Chromium, Client, EncryptThenMac, Listen, Peer, Servers, cells};
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;
use weir_tls::Signer;
use weir_tls::verify::Action;

/// By port, so that one server and one policy do for all: each animal has a port in each range.
const FORGES: u16 = 21_000;
const BLOCKS_INVALID: u16 = 22_000;
const BLOCKS_EXPIRED: u16 = 23_000;
const RANGES: [u16; 3] = [FORGES, BLOCKS_INVALID, BLOCKS_EXPIRED];

/// The lab's document with the zoo's root as the trust store, and a client policy for each range.
fn document(bench: &Bench<Lab>, root: &str) -> String {
    let text = document::weir_section(&bench.ends.certificates).unwrap();
    let before = |text: &str, part: &str| text.find(part).unwrap_or_else(|| panic!("no {part}"));
    // The proxy, to be repeated with other ports and options.
    let from = before(&text, "    - name: staff\n      detection-ports");
    let proxy = text[from..before(&text, "  trust-stores:")].to_owned();
    let of = |name: &str, ports: u16, options: &str| {
        let ports = format!("[\"{ports}-{}\"]", ports + 999);
        proxy
            .replace("name: staff", &format!("name: {name}"))
            .replace("[\"443\"]", &ports)
            .replace("logging: true\n", &format!("logging: true\n{options}"))
    };
    let proxies = of("forges", FORGES, "")
        + &of("invalid", BLOCKS_INVALID, "      block-invalid-certificates: true\n")
        + &of("expired", BLOCKS_EXPIRED, "      block-expired-certificates: true\n");
    let policy = |name: &str| {
        format!(
            "        - name: {name}\n          client-proxy: {name}\n          \
             trust-store: zoo\n"
        )
    };
    let policies = ["forges", "invalid", "expired"].map(policy).concat();
    let store: String = root.lines().map(|line| format!("          {line}\n")).collect();
    let store = format!("    - name: zoo\n      certificates:\n        - |\n{store}");
    text.replace(&proxy, &(proxy.clone() + &proxies))
        .replace("      filters: [lab]\n", &format!("{policies}      filters: [lab]\n"))
        .replace("  server-proxies:\n", &format!("{store}  server-proxies:\n"))
}

/// One server for all of them, on each port of theirs.
fn serve(bench: &Bench<Lab>, animals: &[Animal]) -> Servers {
    let mut ports = Vec::new();
    for (number, animal) in (0u16..).zip(animals) {
        let path = |kind| bench.ends.run.path(&format!("animal-{number}.{kind}"));
        let pem = |kind: &str, der: &[u8]| pem(bench.ends.run.directory(), kind, der);
        let chain: String = animal.pair.chain.iter().map(|one| pem("x509", one)).collect();
        let identity = Identity { certificate: path("crt"), key: path("key") };
        std::fs::write(&identity.certificate, chain).unwrap();
        std::fs::write(&identity.key, pem("pkey", animal.pair.key.expose())).unwrap();
        ports.extend(RANGES.map(|range| Listen {
            peer: Peer::Python,
            port: range + number,
            cell: None,
            identities: vec![identity.clone()],
        }));
    }
    Servers::start(&bench.ends, &ports, EncryptThenMac::Off).unwrap()
}

fn pem(directory: &Path, kind: &str, der: &[u8]) -> String {
    common::write(directory, "one.der", der);
    let arguments = [kind, "-inform", "DER", "-in", "one.der"];
    String::from_utf8(common::openssl(directory, &arguments).stdout).unwrap()
}

/// A client that takes any certificate, and keeps it.
fn visit(bench: &Bench<Lab>, asked: &str, port: u16) -> Fetched {
    let connect_to = format!("{asked}:443:{SERVER}:{port}");
    Fetch::new(asked, "/")
        .trust_anybody()
        .arguments(&["--http1.1", "--connect-to", &connect_to])
        .run(&bench.ends)
        .unwrap()
}

#[test]
fn every_certificate_of_the_zoo_is_forged_blocked_and_logged_as_expected() {
    let (keeper, animals) = &*ZOO;
    let mut bench = ends::lab();
    let root = pem(bench.ends.run.directory(), "x509", &keeper.root_der());
    let document = document(&bench, &root);
    bench.provision(&document).unwrap();
    let server = serve(&bench, animals);
    let mut wrong = Vec::new();
    // From the last on: the chain without its intermediate before those that teach it.
    for (number, animal) in (0u16..).zip(animals).collect::<Vec<_>>().into_iter().rev() {
        let Expected { signer, blocked, .. } = expected(animal.name);
        for range in RANGES {
            let fetched = visit(&bench, animal.asked, range + number);
            let alert = match range {
                BLOCKS_INVALID if blocked.contains(&Action::BlockInvalid) => {
                    Some("bad certificate")
                }
                BLOCKS_EXPIRED if blocked.contains(&Action::BlockExpired) => {
                    Some("certificate expired")
                }
                _ => None,
            };
            let right = match alert {
                Some(alert) => {
                    fetched.exit == 35
                        && (fetched.messages.contains(alert) || fetched.messages.contains("reset"))
                }
                None => fetched.exit == 0 && is_signed_by(&fetched, signer),
            };
            if !right {
                wrong.push(format!("{} on {range}: {fetched:?}", animal.name));
            }
        }
    }
    drop(server);
    let log = whole_log(&mut bench, RANGES.len() * animals.len());
    for (number, animal) in (0u16..).zip(animals) {
        let Expected { verdict, blocked, .. } = expected(animal.name);
        for range in RANGES {
            let line = format!("{:24}{SERVER}:{}\n", "Server", range + number);
            let Some(record) = log.iter().find(|record| record.contains(&line)) else {
                wrong.push(format!("{} on {range} is not in the log", animal.name));
                continue;
            };
            let outcome = match range {
                BLOCKS_INVALID if blocked.contains(&Action::BlockInvalid) => {
                    "blocked (invalid server certificate)"
                }
                BLOCKS_EXPIRED if blocked.contains(&Action::BlockExpired) => {
                    "blocked (expired server certificate)"
                }
                _ => "decrypted and inspected",
            };
            for (name, value) in [("Verdict", verdict), ("Outcome", outcome)] {
                if !record.contains(&format!("{name:24}{value}\n")) {
                    wrong.push(format!("{} on {range}: no {value:?} in {record}", animal.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    bench.run.succeeded();
}

fn is_signed_by(fetched: &Fetched, signer: Signer) -> bool {
    let Ok(seen) = fetched.certificate() else { return false };
    seen.issuer.contains(SIGNING_CA) == (signer == Signer::Trusted)
}

/// The records of the TLS inspection log, once there are so many.
fn whole_log(bench: &mut Bench<Lab>, many: usize) -> Vec<String> {
    let mut log = Vec::new();
    for _ in 0..200 {
        let shown = bench.wire.console("show tls-inspection log 1000").unwrap();
        log = shown.split("\n\n").map(|record| format!("{record}\n")).collect();
        if log.len() >= many {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    log
}

/// What of the forged ones a strict client takes: where the original is one that it should take, by
/// the right authority, for either leaf key; and no other.
#[test]
fn strict_clients_of_others_take_the_copies_of_good_certificates_and_no_others() {
    let (keeper, animals) = &*ZOO;
    let bench = ends::lab();
    let root = pem(bench.ends.run.directory(), "x509", &keeper.root_der());
    let document = document(&bench, &root);
    bench.provision(&document).unwrap();
    let _servers = serve(&bench, animals);
    // What teaches the intermediate comes after the chain that lacks it.
    let numbered: Vec<_> = (FORGES..).zip(animals).collect();
    let chosen = |name: &str| cells().find(|cell| cell.name() == name).unwrap();
    let keys = [
        chosen("TLS 1.2 TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        chosen("TLS 1.2 TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    ];
    let wrong = std::sync::Mutex::new(Vec::new());
    // All clients together at one animal, as the order counts.
    let peers = [Peer::OpenSsl, Peer::Python, Peer::GnuTls, Peer::Java];
    let mut clients: Vec<(Peer, Client<'_>)> = peers
        .map(|peer| (peer, Client::start(peer, &bench.ends, EncryptThenMac::Off).unwrap()))
        .into();
    // It chooses the leaf's key by itself.
    let mut chromium = Chromium::start(&bench.ends, SERVER.into(), &[]).unwrap();
    for (port, animal) in numbered.into_iter().rev() {
        let takes = expected(animal.name).verdict == "verified";
        std::thread::scope(|scope| {
            let wrong = &wrong;
            scope.spawn(|| {
                let said = chromium.visit(&format!("https://{}:{port}/", animal.asked));
                let right = match &said {
                    Ok(page) => takes && page.issuer == SIGNING_CA,
                    Err(error) => !takes && error.to_string().contains("net::ERR_CERT_"),
                };
                if !right {
                    wrong.lock().unwrap().push(format!("{} by Chromium: {said:?}", animal.name));
                }
            });
            for (peer, client) in &mut clients {
                scope.spawn(move || {
                    for cell in &keys[..if takes { 2 } else { 1 }] {
                        let said = client.visit(*cell, port, animal.asked);
                        if said.is_ok() != takes {
                            let words = format!("{} by {}: {said:?}", animal.name, peer.name());
                            wrong.lock().unwrap().push(words);
                        }
                    }
                });
            }
        });
    }
    drop((clients, chromium));
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    bench.run.succeeded();
}
