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

/// What the client proxy of a range of ports does.
struct Range {
    ports: u16,
    name: &'static str,
    blocks: Option<Action>,
    /// The client of what it blocks is reset.
    resets: bool,
}

const RANGES: [Range; 5] = [
    Range { ports: FORGES, name: "forges", blocks: None, resets: true },
    Range { ports: 22_000, name: "invalid", blocks: Some(Action::BlockInvalid), resets: true },
    Range { ports: 23_000, name: "expired", blocks: Some(Action::BlockExpired), resets: true },
    Range {
        ports: 24_000,
        name: "tells-invalid",
        blocks: Some(Action::BlockInvalid),
        resets: false,
    },
    Range {
        ports: 25_000,
        name: "tells-expired",
        blocks: Some(Action::BlockExpired),
        resets: false,
    },
];

impl Range {
    /// What is blocked here of an animal that these actions block.
    fn blocked(&self, blocked: &[Action]) -> Option<Action> {
        self.blocks.filter(|action| blocked.contains(action))
    }

    /// Whether an animal is worth a visit here: what is not blocked is the same with and without resets.
    fn is_visited(&self, blocked: &[Action]) -> bool {
        self.resets || self.blocked(blocked).is_some()
    }
}

/// The lab's document with the zoo's root as the trust store, and a client policy for each range.
fn document(bench: &Bench<Lab>, root: &str) -> String {
    let text = document::weir_section(&bench.ends.certificates).unwrap();
    let before = |text: &str, part: &str| text.find(part).unwrap_or_else(|| panic!("no {part}"));
    // The proxy, to be repeated with other ports and options.
    let from = before(&text, "    - name: staff\n      detection-ports");
    let proxy = text[from..before(&text, "  trust-stores:")].to_owned();
    let proxies = RANGES.map(|Range { ports, name, blocks, resets }| {
        let option = match blocks {
            Some(Action::BlockInvalid) => "      block-invalid-certificates: true\n",
            Some(Action::BlockExpired) => "      block-expired-certificates: true\n",
            _ => "",
        };
        proxy
            .replace("name: staff", &format!("name: {name}"))
            .replace("[\"443\"]", &format!("[\"{ports}-{}\"]", ports + 999))
            .replace("reset-client-on-block: true", &format!("reset-client-on-block: {resets}"))
            .replace("logging: true\n", &format!("logging: true\n{option}"))
    });
    let proxies = proxies.concat();
    let policy = |Range { name, .. }| {
        format!(
            "        - name: {name}\n          client-proxy: {name}\n          \
             trust-store: zoo\n"
        )
    };
    let policies = RANGES.map(policy).concat();
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
            port: range.ports + number,
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
    let (mut wrong, mut visits) = (Vec::new(), 0);
    // From the last on: the chain without its intermediate before those that teach it.
    for (number, animal) in (0u16..).zip(animals).collect::<Vec<_>>().into_iter().rev() {
        let Expected { signer, blocked, .. } = expected(animal.name);
        for range in RANGES {
            if !range.is_visited(blocked) {
                continue;
            }
            visits += 1;
            let fetched = visit(&bench, animal.asked, range.ports + number);
            let told = range.blocked(blocked).map(|action| match action {
                _ if range.resets => (35, "reset by peer"),
                // What curl makes of that alert: it verifies nothing itself here.
                Action::BlockExpired => (60, "SSL certificate verification failed"),
                _ => (35, "alert bad certificate"),
            });
            let right = match told {
                Some((exit, told)) => fetched.exit == exit && fetched.messages.contains(told),
                None => fetched.exit == 0 && is_signed_by(&fetched, signer),
            };
            if !right {
                wrong.push(format!("{} on {}: {fetched:?}", animal.name, range.name));
            }
        }
    }
    drop(server);
    let log = whole_log(&mut bench, visits);
    for (number, animal) in (0u16..).zip(animals) {
        let Expected { verdict, blocked, .. } = expected(animal.name);
        for range in RANGES {
            if !range.is_visited(blocked) {
                continue;
            }
            let line = format!("{:24}{SERVER}:{}\n", "Server", range.ports + number);
            let Some(record) = log.iter().find(|record| record.contains(&line)) else {
                wrong.push(format!("{} on {} is not in the log", animal.name, range.name));
                continue;
            };
            let outcome = match range.blocked(blocked) {
                Some(Action::BlockExpired) => "blocked (expired server certificate)",
                Some(_) => "blocked (invalid server certificate)",
                None => "decrypted and inspected",
            };
            for (name, value) in [("Verdict", verdict), ("Outcome", outcome)] {
                if !record.contains(&format!("{name:24}{value}\n")) {
                    let (animal, range) = (animal.name, range.name);
                    wrong.push(format!("{animal} on {range}: no {value:?} in {record}"));
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
    for _ in 0..600 {
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
