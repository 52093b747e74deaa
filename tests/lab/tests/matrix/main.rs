//! Every protocol version and every suite of `policy::suites`, on each leg, between real ends: data
//! both ways, and resumed. A cell passes, or it is listed with the standard that forbids it, or with
//! the reason why a program cannot do it.
//!
//! Tables come of it, in the target folder's `tmp`: clients that are shown forged certificates, clients
//! that agree on encrypt-then-MAC, clients of servers whose keys Weir has, and servers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod records;
mod table;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context as _, Result, ensure};
use common::lab;
use records::{Told, told};
use weir_lab::bench::Bench;
use weir_lab::certificates::Identity;
use weir_lab::document;
use weir_lab::ends::{Ends, SERVER};
use weir_lab::peers::{Cell, Client, EncryptThenMac, Listen, Peer, Resumed, Servers, cells, line};
use weir_lab::wire::lab::Lab;
use weir_policy::suites::{Authentication, Protocol, TABLE};

/// What is asked for, and what the certificates are for.
const NAME: &str = "matrix.example";
/// Where the ports of the visits begin; a client proxy covers all.
const PORTS: u16 = 20_000;
/// At once: there are two cores at least, and most of a visit is spent by the programs.
const VISITORS_OF_SERVERS: usize = 3;

/// One cell of the matrix and one program: two sessions on one port of the server.
#[derive(Clone, Copy)]
pub struct Visit {
    /// Of the table.
    pub column: &'static str,
    pub peer: Peer,
    pub cell: Cell,
    pub port: u16,
}

/// All of these programs with all cells that they can do.
fn visits(peers: &[Peer]) -> Vec<Visit> {
    let possible = || cells().filter(|cell| cell.forbidden().is_none());
    let all = peers.iter().flat_map(|&peer| possible().map(move |cell| (peer, cell)));
    let all = all.filter(|(peer, cell)| peer.lacks(*cell).is_none());
    let numbered = all.zip(PORTS..);
    numbered.map(|((peer, cell), port)| Visit { column: peer.name(), peer, cell, port }).collect()
}

/// Curves of keys that only openssl, of the programs here, is asked for.
const OTHER_CURVES: [(&str, [&str; 2]); 2] =
    [("P-224", ["EC", "ec_paramgen_curve:P-224"]), ("P-521", ["EC", "ec_paramgen_curve:P-521"])];

/// Whether a server with a key of this column's kind may use the cell.
fn goes_with(cell: Cell, column: &str) -> bool {
    match cell.suite.authentication {
        // TLS 1.3, which has no signature scheme for P-224 (RFC 8446 section 4.2.3).
        Authentication::Negotiated => column != "P-224",
        Authentication::Rsa => column == "RSA",
        Authentication::Ecdsa => column != "RSA",
    }
}

/// What the servers show: of each kind of key one.
struct Identities {
    rsa: Identity,
    ecdsa: Identity,
}

/// A lab whose client proxy allows everything, on all ports of the matrix.
fn permissive() -> Result<(Bench<Lab>, Identities)> {
    let bench = lab();
    let document = permissive_document(&bench.ends)?;
    bench.provision(&document)?;
    let certificates = &bench.ends.certificates;
    let identities = Identities {
        rsa: certificates.another("matrix-rsa", ["RSA", "rsa_keygen_bits:2048"], &[NAME])?,
        ecdsa: certificates.another("matrix-ecdsa", ["EC", "ec_paramgen_curve:P-256"], &[NAME])?,
    };
    Ok((bench, identities))
}

fn permissive_document(ends: &Ends) -> Result<String> {
    let proxy = "detection-ports: [\"443\"]\n      service: http\n      reset-client-on-block";
    let text = document::weir_section(&ends.certificates)?;
    ensure!(text.matches(proxy).count() == 1, "the document has another client proxy");
    let permissive = format!(
        "detection-ports: [\"443\", \"{PORTS}-{}\"]\n      service: other\n      \
         {}      reset-client-on-block",
        PORTS + 9_999,
        everything()
    );
    Ok(text.replace(proxy, &permissive))
}

/// Every version and suite of the table, as a proxy's keys.
fn everything() -> String {
    let versions = Protocol::ALL.map(|version| format!("\"{version}\"")).join(", ");
    let suites: Vec<&str> = TABLE.iter().map(|suite| suite.name).collect();
    format!("protocols: [{versions}]\n      suites: [{}]\n", suites.join(", "))
}

/// What became of visits, by port: nothing, or what was wrong by the client's account; and what Weir
/// tells of their sessions.
struct Outcomes {
    said: BTreeMap<u16, Result<Resumed>>,
    told: BTreeMap<u16, Vec<Told>>,
}

#[test]
fn every_version_and_suite_is_spoken_with_every_client() {
    let (mut bench, identities) = permissive().unwrap();
    let visits = visits(&Peer::CLIENTS);
    let told = let_clients_visit(&mut bench, &identities, &visits, EncryptThenMac::Off);
    judge("clients", &visits, told, |told| &told.client_leg, Peer::does_not_resume);
    bench.run.succeeded();
}

/// SPEC T3. Both clients offer it and tell whether it was agreed on; with the setting off they must not
/// tell so, above.
#[test]
fn encrypt_then_mac_is_agreed_on_where_the_device_says_so() {
    let (mut bench, identities) = permissive().unwrap();
    let device = "    client-inspection: true\n";
    let document = permissive_document(&bench.ends).unwrap();
    assert_eq!(document.matches(device).count(), 1);
    let with_setting = format!("{device}    encrypt-then-mac: true\n");
    bench.provision(&document.replace(device, &with_setting)).unwrap();
    let mut visits = visits(&[Peer::GnuTls, Peer::TlsLite]);
    visits.retain(|visit| visit.cell.can_encrypt_then_mac());
    let told = let_clients_visit(&mut bench, &identities, &visits, EncryptThenMac::On);
    let leg: fn(&Told) -> &String = |told| &told.client_leg;
    judge("encrypt-then-MAC", &visits, told, leg, Peer::does_not_resume);
    bench.run.succeeded();
}

/// Server inspection: a server proxy for each kind of key, on ports of its own.
#[test]
fn every_version_and_suite_is_spoken_with_keys_of_our_own() {
    const KEYS: [(&str, [&str; 2]); 3] = [
        ("RSA", ["RSA", "rsa_keygen_bits:2048"]),
        ("P-256", ["EC", "ec_paramgen_curve:P-256"]),
        ("P-384", ["EC", "ec_paramgen_curve:P-384"]),
    ];
    let (mut bench, identities) = permissive().unwrap();
    let mut document = permissive_document(&bench.ends).unwrap();
    let mut visits = Vec::new();
    let mut ports = PORTS..;
    for (column, key) in KEYS.into_iter().chain(OTHER_CURVES) {
        let first = ports.start;
        for cell in cells().filter(|cell| cell.forbidden().is_none()) {
            if !goes_with(cell, column) {
                continue;
            }
            // Where openssl cannot, the one that can.
            let peer = match Peer::OpenSsl.lacks(cell) {
                None => Peer::OpenSsl,
                Some(_) => Peer::TlsLite,
            };
            visits.push(Visit { column, peer, cell, port: ports.next().unwrap() });
        }
        let own = bench.ends.certificates.another(column, key, &[NAME]).unwrap();
        let ports = format!("{first}-{}", ports.start - 1);
        add_server_proxy(&mut document, column, &ports, &own).unwrap();
    }
    bench.provision(&document).unwrap();
    let told = let_clients_visit(&mut bench, &identities, &visits, EncryptThenMac::Off);
    judge("own keys", &visits, told, |told| &told.client_leg, Peer::does_not_resume);
    bench.run.succeeded();
}

/// One that allows everything, before all others of its kind.
fn add_server_proxy(text: &mut String, name: &str, ports: &str, own: &Identity) -> Result<()> {
    let indented = |pem: String| -> String {
        pem.lines().map(|line| format!("            {line}\n")).collect()
    };
    let proxy = format!(
        "  server-proxies:\n    - name: {name}\n      destinations: [\"{SERVER}/32\"]\n      \
         detection-ports: [\"{ports}\"]\n      service: other\n      {}      certificates:\n        \
         - certificate: |\n{}          key: |\n{}",
        everything(),
        indented(own.certificate_pem()?),
        indented(own.key_pem()?),
    );
    *text = text.replacen("  server-proxies:\n", &proxy, 1).replacen(
        "      server-policies:\n",
        &format!(
            "      server-policies:\n        - name: {name}\n          server-proxy: {name}\n"
        ),
        1,
    );
    Ok(())
}

/// All visits, by as many programs at once as there are, to a server that takes everything. What the
/// clients say, and what Weir tells.
fn let_clients_visit(
    bench: &mut Bench<Lab>,
    identities: &Identities,
    visits: &[Visit],
    encrypt_then_mac: EncryptThenMac,
) -> Outcomes {
    let open = visits.iter().map(|visit| Listen {
        peer: Peer::Python,
        port: visit.port,
        cell: None,
        identities: vec![identities.ecdsa.clone(), identities.rsa.clone()],
    });
    let open: Vec<Listen> = open.collect();
    let servers = Servers::start(&bench.ends, &open, EncryptThenMac::Off).unwrap();
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for peer in Peer::CLIENTS {
            // The slowest in two parts.
            for part in 0..if peer == Peer::TlsLite { 2 } else { 1 } {
                let (ends, results) = (&bench.ends, &results);
                let mine = visits.iter().filter(move |visit| {
                    visit.peer == peer && (peer != Peer::TlsLite || visit.port % 2 == part)
                });
                let mut mine = mine.peekable();
                if mine.peek().is_none() {
                    continue;
                }
                scope.spawn(move || {
                    let mut client = Client::start(peer, ends, encrypt_then_mac).unwrap();
                    for visit in mine {
                        let said = client.visit(visit.cell, visit.port, NAME);
                        results.lock().unwrap().insert(visit.port, said);
                    }
                });
            }
        }
    });
    drop(servers);
    Outcomes { said: results.into_inner().unwrap(), told: told(bench, visits).unwrap() }
}

#[test]
fn every_version_and_suite_is_spoken_with_every_server() {
    let (mut bench, identities) = permissive().unwrap();
    let mut visits = visits(&Peer::SERVERS);
    let mut on_other_curves = BTreeMap::new();
    let mut ports = PORTS + u16::try_from(visits.len()).unwrap()..;
    for (column, key) in OTHER_CURVES {
        let file = format!("matrix-{column}");
        on_other_curves
            .insert(column, bench.ends.certificates.another(&file, key, &[NAME]).unwrap());
        let cells = cells().filter(|cell| cell.forbidden().is_none() && goes_with(*cell, column));
        visits.extend(cells.zip(&mut ports).map(|(cell, port)| {
            let peer = Peer::OpenSsl;
            Visit { column, peer, cell, port }
        }));
    }
    let listen = |visit: &Visit| Listen {
        peer: visit.peer,
        port: visit.port,
        cell: Some(visit.cell),
        identities: vec![
            match (on_other_curves.get(visit.column), visit.cell.suite.authentication) {
                (Some(identity), _) => identity.clone(),
                (None, Authentication::Rsa) => identities.rsa.clone(),
                // Of TLS 1.3 that could be either.
                (None, Authentication::Ecdsa | Authentication::Negotiated) => {
                    identities.ecdsa.clone()
                }
            },
        ],
    };
    let listen: Vec<Listen> = visits.iter().map(listen).collect();
    let servers = Servers::start(&bench.ends, &listen, EncryptThenMac::Off).unwrap();
    let waiting = Mutex::new(visits.clone());
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..VISITORS_OF_SERVERS {
            scope.spawn(|| {
                while let Some(visit) = { waiting.lock().unwrap().pop() } {
                    let result = (0..2).try_for_each(|_| modern_visit(&bench.ends, visit.port));
                    let result = result.map(|()| Resumed::Untold);
                    results.lock().unwrap().insert(visit.port, result);
                }
            });
        }
    });
    drop(servers);
    let told = told(&mut bench, &visits).unwrap();
    let outcomes = Outcomes { said: results.into_inner().unwrap(), told };
    judge("servers", &visits, outcomes, |told| &told.server_leg, Peer::is_not_resumed);
    bench.run.succeeded();
}

/// By a client that knows nothing of old versions, and says good-bye: openssl's and GnuTLS's servers
/// answer an end without close_notify by a fatal alert, after which no session may be resumed (RFC 5246
/// section 7.2.2).
fn modern_visit(ends: &Ends, port: u16) -> Result<()> {
    let mut tls = common::try_connect(ends, NAME, SocketAddr::from((SERVER, port)))?;
    common::write_record(&mut tls, format!("{}\n", line()).as_bytes())?;
    let (answer, end) = common::read_until(&mut tls, "\n", 1);
    end?;
    ensure!(answer.trim_end() == line(), "it answered {answer:?}");
    tls.conn.send_close_notify();
    tls.flush()?;
    tls.sock.shutdown(Shutdown::Write)?;
    // To the end, so that the next visit comes after this one.
    let (rest, _) = common::read_until(&mut tls, "\n", 1);
    ensure!(rest.is_empty(), "it went on: {rest:?}");
    Ok(())
}

/// Why a program's second session is not resumed.
pub type NotResumed = fn(Peer, Cell) -> Option<&'static str>;

/// Joins what the ends say with what Weir tells of the leg; writes the table; fails with all that is
/// wrong.
fn judge(
    of: &str,
    visits: &[Visit],
    mut outcomes: Outcomes,
    leg: fn(&Told) -> &String,
    not_resumed: NotResumed,
) {
    let mut judged = Vec::new();
    for visit in visits {
        let said = outcomes.said.remove(&visit.port).context("not visited");
        let told = outcomes.told.get(&visit.port).map(Vec::as_slice).unwrap_or_default();
        let result = said
            .and_then(|said| said)
            .and_then(|said| {
                let resumes = not_resumed(visit.peer, visit.cell).is_none();
                told_rightly(*visit, said, told, leg, resumes)
            })
            .map_err(|error| {
                anyhow::anyhow!("{} {}: {error:#}; {told:?}", visit.peer.name(), visit.cell.name())
            });
        judged.push((*visit, result));
    }
    let text = table::table(of, &judged, not_resumed);
    let file = format!("tls-matrix-{}.txt", of.replace(' ', "-"));
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(file), &text).unwrap();
    let wrong: Vec<String> = judged
        .iter()
        .filter_map(|(_, result)| result.as_ref().err())
        .map(ToString::to_string)
        .collect();
    let wrong_in_words = format!("{} of {}:\n{}", wrong.len(), judged.len(), wrong.join("\n"));
    // Before the table as well: where output is cut, its beginning is kept.
    if !wrong.is_empty() {
        println!("{of}: wrong are {wrong_in_words}\n");
    }
    println!("{text}");
    assert!(wrong.is_empty(), "{wrong_in_words}");
}

/// All its sessions, of its version and suite; whether the second was resumed, as both tell it.
fn told_rightly(
    visit: Visit,
    said: Resumed,
    told: &[Told],
    leg: fn(&Told) -> &String,
    resumes: bool,
) -> Result<bool> {
    ensure!(told.len() == visit.peer.sessions(), "{} sessions", told.len());
    for told in told {
        let Told { outcome, failure, .. } = told;
        ensure!(outcome == "decrypted and inspected", "{outcome}: {failure}");
        let words = format!("{} ", visit.cell.name());
        let leg = leg(told).replace(',', " ") + " ";
        ensure!(leg.starts_with(&words), "{leg}");
    }
    let resumed = |told: &Told| leg(told).ends_with(", resumed");
    ensure!(!told.first().is_some_and(resumed), "the first session was resumed");
    let resumed = told.get(1).is_some_and(resumed);
    ensure!(resumed || !resumes, "not resumed, by Weir's account");
    let as_said = match said {
        Resumed::Yes => resumed,
        Resumed::No => !resumed,
        Resumed::Untold => true,
    };
    ensure!(as_said, "resumed: {said:?} by the client's account, {resumed} by Weir's");
    Ok(resumed)
}
