//! What authorities are asked by the management port: OCSP, lists, missing intermediates. The real
//! agent fetches, from openssl's responder and a web server at the other end of its management port.

mod intermediates;

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use weir_lab::bench::Bench;
use weir_lab::certificates::{Identity, seen};
use weir_lab::fetch::{Fetch, Fetched};
use weir_lab::namespace::Namespace;
use weir_lab::process::{Process, succeed};
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

use super::exceptions::LEARNT;
use super::{INSPECTED, OTHER, openssl_server, passes, record_of, told};

/// Where the authority is, and the appliance's own address on the way there.
const AUTHORITY: &str = "10.67.0.1";
const OWN: &str = "10.67.0.2";
const OCSP: &str = "8081";
const WEB: &str = "8080";
const NOBODY: &str = "8089";

/// The document with these settings.
pub(super) fn provision(bench: &mut Bench<Lab>, device: &str, proxy: &str) -> anyhow::Result<()> {
    let document = weir_lab::document::weir_section(&bench.ends.certificates)?;
    provision_with(bench, &document, device, proxy)
}

fn provision_with(
    bench: &mut Bench<Lab>,
    document: &str,
    device: &str,
    proxy: &str,
) -> anyhow::Result<()> {
    let (before, after) = ("    max-concurrent-sessions: 10000\n", "      logging: true\n");
    anyhow::ensure!(document.contains(before) && document.contains(after), "{document}");
    let document = document.replacen(before, &format!("{before}{device}"), 1);
    bench.provision(&document.replacen(after, &format!("{after}{proxy}"), 1))
}

/// The device may fetch from the authority.
const PERMITTED: &str = "    fetch-private-networks: [10.67.0.0/24]\n";

/// A namespace that has [`AUTHORITY`], and a link to the agent's.
fn authority_s_host(bench: &Bench<Lab>) -> anyhow::Result<Namespace> {
    let host = Namespace::create(format!("{}authority", bench.ends.run.prefix()))?;
    let management = &bench.wire.management;
    let peer = ["peer", "name", "authority", "netns", host.name()];
    management.ip(&[&["link", "add", "authority", "type", "veth"], &peer[..]].concat())?;
    for (namespace, address) in [(management, OWN), (&host, AUTHORITY)] {
        namespace.ip(&["address", "add", &format!("{address}/24"), "dev", "authority"])?;
        namespace.ip(&["link", "set", "authority", "up"])?;
    }
    Ok(host)
}

/// A program that listens on this port of [`AUTHORITY`].
fn authority(
    bench: &Bench<Lab>,
    host: &Namespace,
    name: &str,
    port: &str,
    command: &mut Command,
) -> anyhow::Result<Process> {
    let run = &bench.ends.run;
    let mut process = Process::start(name, command, &run.path(&format!("{name}.log")))?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let listens = |text: String| text.contains(&format!(":{port} "));
    while !listens(succeed(host.command("ss").args(["-Hltn"]))?) {
        process.check()?;
        anyhow::ensure!(std::time::Instant::now() < deadline, "{name} does not listen");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(process)
}

/// An index of openssl-ca(1), in which those marked `true` are revoked.
fn index(bench: &Bench<Lab>, certificates: &[(&Identity, bool)]) -> anyhow::Result<PathBuf> {
    let mut text = String::new();
    for (identity, revoked) in certificates {
        let mut command = Command::new("openssl");
        command.args(["x509", "-noout", "-serial", "-in"]).arg(&identity.certificate);
        let serial = succeed(&mut command)?;
        let serial = serial.trim().trim_start_matches("serial=");
        let (status, since) = if *revoked { ("R", "260101000000Z") } else { ("V", "") };
        text += &format!("{status}\t491231235959Z\t{since}\t{serial}\tunknown\t/CN=x{serial}\n");
    }
    let path = bench.ends.run.path("index");
    std::fs::write(&path, text)?;
    Ok(path)
}

/// A web server for what is in this directory; what it was asked is in the run's `web.log`.
fn web(bench: &Bench<Lab>, host: &Namespace) -> anyhow::Result<(Process, PathBuf)> {
    let directory = bench.ends.run.path("web");
    std::fs::create_dir_all(&directory)?;
    let mut command = host.command("python3");
    command.args(["-um", "http.server", "--bind", AUTHORITY, WEB, "--directory"]).arg(&directory);
    Ok((authority(bench, host, "web", WEB, &mut command)?, directory))
}

/// What a client gets of a server with this certificate, and the session's record.
fn visit(bench: &mut Bench<Lab>, identity: &Identity) -> anyhow::Result<(Fetched, String)> {
    let server = openssl_server(&bench.ends, identity)?;
    let fetched = Fetch::new("public.example", "/").at(OTHER).run(&bench.ends)?;
    let (_, record) = record_of(bench, &fetched)?;
    drop(server);
    Ok((fetched, record))
}

/// The same, whether the client trusts what it is shown, and what the record says.
fn judged(
    bench: &mut Bench<Lab>,
    identity: &Identity,
    trusted: bool,
    verdict: &str,
    revocation: Option<&str>,
) -> anyhow::Result<()> {
    let (fetched, record) = visit(bench, identity)?;
    // The console folds long ones.
    let field = |name: &str| {
        let mut lines = record.lines().skip_while(|line| !line.starts_with(name));
        let first = lines.next()?.strip_prefix(name)?;
        let more = lines.take_while(|line| line.starts_with(' '));
        Some([first].into_iter().chain(more).map(str::trim).collect::<Vec<_>>().join(" "))
    };
    anyhow::ensure!((fetched.exit == 0) == trusted, "{}: {record}", fetched.end());
    anyhow::ensure!(field("Verdict").as_deref() == Some(verdict), "{record}");
    let found = field("Revocation");
    let is_right = match (found.as_deref(), revocation) {
        (None, None) => true,
        (Some(found), Some(expected)) => found.starts_with(expected),
        _ => false,
    };
    anyhow::ensure!(is_right, "{found:?}, not {revocation:?}: {record}");
    Ok(())
}

fn access(kind: &str, port: &str, path: &str) -> String {
    format!("authorityInfoAccess={kind};URI:http://{AUTHORITY}:{port}{path}")
}

#[test]
fn an_authority_that_is_asked_says_whether_a_certificate_is_revoked() {
    passes(|bench, _| {
        let (certificates, host) = (bench.ends.certificates.clone(), authority_s_host(bench)?);
        let authority_of_all = &certificates.public_ca;
        let names = &["public.example"];
        let signed =
            |file: &str, more: &str| certificates.extended(file, names, authority_of_all, more);
        let (good, revoked, unheard) = (
            signed("good", &access("OCSP", OCSP, "/"))?,
            signed("revoked", &access("OCSP", OCSP, "/"))?,
            signed("unheard", &access("OCSP", NOBODY, "/"))?,
        );
        let point = format!("crlDistributionPoints=URI:http://{AUTHORITY}:{WEB}/list.crl");
        let (unlisted, listed) = (signed("unlisted", &point)?, signed("listed", &point)?);
        let index =
            index(bench, &[(&good, false), (&revoked, true), (&unlisted, false), (&listed, true)])?;
        let mut command = host.command("openssl");
        command.args(["ocsp", "-port", OCSP, "-nmin", "60", "-index"]).arg(&index);
        for option in ["-rsigner", "-CA"] {
            command.arg(option).arg(&authority_of_all.certificate);
        }
        command.arg("-rkey").arg(&authority_of_all.key);
        let responder = authority(bench, &host, "responder", OCSP, &mut command)?;
        let (_web, directory) = web(bench, &host)?;
        revocation_list(bench, &index, &directory.join("list.crl"))?;

        // By default nobody is asked.
        judged(bench, &revoked, true, "verified", None)?;
        let shown = bench.wire.console("show tls-inspection")?;
        let none = |line: &str| line.trim() == "0  fetches asked of the agent";
        anyhow::ensure!(shown.lines().any(none), "{shown}");
        // Nor is a private address, where it is not named.
        provision(bench, "", "      revocation: fetched\n")?;
        let refused = "unknown: not fetched: nothing is fetched from 10.67.0.1";
        for identity in [&unheard, &unlisted] {
            judged(bench, identity, true, "verified", Some(refused))?;
        }
        anyhow::ensure!(!asked(bench)?.contains("GET"), "{}", asked(bench)?);

        provision(bench, PERMITTED, "      revocation: fetched\n")?;
        // What was refused before is not held against it.
        let broken = "unknown: not fetched: no connection";
        judged(bench, &unheard, true, "verified", Some(broken))?;
        // The appliance's own services are nobody's to ask.
        let ours = format!("authorityInfoAccess=OCSP;URI:http://{OWN}:{NOBODY}/");
        let (from, why) = (format!("{OWN} port {NOBODY}"), "one of the appliance's own");
        let refused = format!("unknown: not fetched: nothing is fetched from {from}: {why}");
        judged(bench, &signed("ours", &ours)?, true, "verified", Some(&refused))?;
        judged(bench, &good, true, "verified", Some("not revoked, by OCSP"))?;
        judged(bench, &revoked, false, "revoked", Some("revoked, by OCSP"))?;
        let list = "by its authority's list";
        judged(bench, &unlisted, true, "verified", Some(&format!("not revoked, {list}")))?;
        judged(bench, &listed, false, "revoked", Some(&format!("revoked, {list}")))?;
        // One list serves both.
        anyhow::ensure!(asked(bench)?.matches("GET /list.crl").count() == 1, "{}", asked(bench)?);
        // What is known needs nobody, who is asked of what is not does not answer.
        drop(responder);
        judged(bench, &revoked, false, "revoked", Some("revoked, by OCSP"))?;
        let silent = signed("silent", &access("OCSP", OCSP, "/"))?;
        judged(bench, &silent, true, "verified", Some(broken))?;

        let strict = "      revocation: fetched\n      revocation-unknown: untrusted\n";
        provision(bench, PERMITTED, strict)?;
        judged(bench, &silent, false, "revocation unknown", Some(broken))?;
        let public = certificates.public.clone();
        let nobody = "unknown: the certificate names nobody to ask";
        judged(bench, &public, false, "revocation unknown", Some(nobody))?;
        let shown = bench.wire.console("show tls-inspection")?;
        for counter in [
            "certificates found not revoked",
            "certificates found revoked",
            "revocation unknown: nobody to ask",
            "revocation unknown: not fetched",
            "fetches that failed",
        ] {
            anyhow::ensure!(shown.contains(counter), "{counter}: {shown}");
        }
        Ok(())
    });
}

/// What the web server was asked so far.
fn asked(bench: &Bench<Lab>) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(bench.ends.run.path("web.log"))?)
}

/// The public authority's list of what the index has revoked, in DER.
fn revocation_list(bench: &Bench<Lab>, index: &Path, to: &Path) -> anyhow::Result<()> {
    let (run, by) = (&bench.ends.run, &bench.ends.certificates.public_ca);
    let (configuration, pem) = (run.path("ca.cnf"), run.path("list.pem"));
    let text = format!(
        "[ca]\ndefault_ca=one\n[one]\ndatabase={}\ndefault_md=sha256\ndefault_crl_days=7\n\
         crl_extensions=extensions\n[extensions]\nauthorityKeyIdentifier=keyid:always\n",
        index.display()
    );
    std::fs::write(&configuration, text)?;
    let mut command = Command::new("openssl");
    command.args(["ca", "-gencrl", "-config"]).arg(&configuration).arg("-out").arg(&pem);
    command.arg("-cert").arg(&by.certificate).arg("-keyfile").arg(&by.key);
    succeed(&mut command)?;
    let mut command = Command::new("openssl");
    command.args(["crl", "-outform", "DER", "-in"]).arg(&pem).arg("-out").arg(to);
    succeed(&mut command).map(drop)
}

#[test]
fn a_certificate_that_is_revoked_keeps_no_session_from_being_decrypted() {
    passes(|bench, _| {
        let (certificates, host) = (bench.ends.certificates.clone(), authority_s_host(bench)?);
        let (_web, directory) = web(bench, &host)?;
        let point = format!("crlDistributionPoints=URI:http://{AUTHORITY}:{WEB}/list.crl");
        let bank = |file: &str, name: &str| {
            certificates.extended(file, &[name], &certificates.public_ca, &point)
        };
        let (good, stolen) = (bank("good", "www.bank.example")?, bank("stolen", "bank.example")?);
        let index = index(bench, &[(&good, false), (&stolen, true)])?;
        revocation_list(bench, &index, &directory.join("list.crl"))?;
        let domains = "domains-not-to-decrypt: [\"bank.example\", \"*.bank.example\"]";
        let decided = format!("{domains}\n      decided-by: server-certificate");

        let document = weir_lab::document::weir_section(&certificates)?;
        let document = document.replace(domains, &decided);
        provision_with(bench, &document, PERMITTED, "      revocation: fetched\n")?;

        for (identity, name, outcome) in
            [(&stolen, "bank.example", INSPECTED), (&good, "www.bank.example", LEARNT)]
        {
            let _server = openssl_server(&bench.ends, identity)?;
            let visit = Fetch::new(name, "/").at(OTHER).trust_anybody();
            let fetched = visit.run(&bench.ends)?;
            fetched.succeeded()?;
            let (found, record) = record_of(bench, &fetched)?;
            anyhow::ensure!(found == outcome, "{found}: {record}");
            let is_own = fetched.certificate()? == seen(&identity.certificate_pem()?)?;
            anyhow::ensure!(is_own == (outcome == LEARNT), "{record}");
        }
        Ok(())
    });
}
