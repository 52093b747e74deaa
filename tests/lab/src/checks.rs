//! The six checks of the demo, over any wire. Each prints the evidence it judges by.

mod failover;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

pub use failover::engine_killed;

use crate::bench::Bench;
use crate::capture::{self, Capture};
use crate::certificates::{Certificates, SIGNING_CA, Seen, seen};
use crate::document::{ATTACK_MESSAGE, ATTACK_SID};
use crate::ends::{CLIENT, DOWNLOAD, sha256};
use crate::fetch::{Fetch, Fetched};
use crate::report::{Evidence, Report};
use crate::wire::Wire;

/// How long the console may take to show what happened.
const SHOWN: Duration = Duration::from_secs(60);

/// One of the six: fails with what was expected and what was seen.
type Check<W> = fn(&mut Bench<W>, &mut Evidence) -> Result<()>;

/// Runs all six and prints their verdicts.
pub fn all<W: Wire>(bench: &mut Bench<W>, report: &mut Report) {
    let checks: [(&str, Check<W>); 6] = [
        (
            "a benign download of 20 MB is decrypted and inspected, and arrives whole",
            benign_download,
        ),
        ("an attack in an HTTPS request is blocked and never reaches the server", attack_blocked),
        ("a domain not to be decrypted keeps the server's own certificate", do_not_decrypt),
        ("an untrusted server gets a certificate of the untrusted CA", untrusted_server),
        ("MAC addresses, IP addresses and ports are equal on both sides", transparent),
        ("with the engine killed connections still work, then inspection is back", engine_killed),
    ];
    for (number, (title, check)) in (1..).zip(checks) {
        report.check(number, title, |evidence| check(bench, evidence));
    }
}

/// 1. 20 MB through the proxy: right checksum, Weir's certificate, the console's word for it.
pub fn benign_download<W: Wire>(bench: &mut Bench<W>, evidence: &mut Evidence) -> Result<()> {
    let fetched =
        Fetch::new("public.example", "/random.bin").limit(150).run_into(&bench.ends, "download")?;
    show(evidence, &fetched);
    fetched.succeeded()?;
    show_certificate(evidence, &fetched)?;
    ensure_signed_by_weir(&fetched)?;
    let (sent, received) = (sha256(&bench.ends.served("random.bin"))?, sha256(&fetched.body)?);
    let length = std::fs::metadata(&fetched.body)?.len();
    evidence.line(format!("sha256 on the server  {sent}"));
    evidence.line(format!("sha256 at the client  {received}  ({length} bytes)"));
    ensure!(sent == received && length == DOWNLOAD as u64, "the download is not what was served");
    let row = row_on_console(bench, evidence, "show sessions", &client_port(&fetched))?;
    ensure!(
        row.contains("decrypted and inspected"),
        "the console does not call the session decrypted and inspected: {row}"
    );
    Ok(())
}

/// 2. The request is dropped: an event on the console, nothing in nginx's log.
pub fn attack_blocked<W: Wire>(bench: &mut Bench<W>, evidence: &mut Evidence) -> Result<()> {
    let before = bench.ends.access_log()?.len();
    let attack = Fetch::new("public.example", "/?file=../../etc/passwd").run(&bench.ends)?;
    show(evidence, &attack);
    evidence.line(attack.end());
    ensure!(attack.exit != 0 && attack.status == 0, "the attack got an answer: {}", attack.status);
    ensure_signed_by_weir(&attack)?;
    let row = row_on_console(bench, evidence, "show events", &client_port(&attack))?;
    for part in [ATTACK_MESSAGE, &ATTACK_SID.to_string()] {
        ensure!(row.contains(part), "the event does not name {part:?}: {row}");
    }

    // A request that is let through shows that the log is written at all.
    let benign = Fetch::new("public.example", "/?file=benign").run(&bench.ends)?;
    show(evidence, &benign);
    benign.succeeded()?;
    let log = bench.ends.access_log()?;
    let new = log.get(before..).unwrap_or_default();
    evidence.command(&format!("tail {}", bench.ends.access_log_path().display()));
    evidence.block(new, 5);
    ensure!(new.contains("file=benign"), "nginx did not log the benign request");
    ensure!(!log.contains("passwd"), "nginx has seen the attack");
    Ok(())
}

/// 3. The client is shown the very certificate the server has.
pub fn do_not_decrypt<W: Wire>(bench: &mut Bench<W>, evidence: &mut Evidence) -> Result<()> {
    let own = seen(&bench.ends.certificates.bank.certificate_pem()?)?;
    let fetched = Fetch::new("bank.example", "/").run(&bench.ends)?;
    show(evidence, &fetched);
    fetched.succeeded()?;
    show_certificate(evidence, &fetched)?;
    evidence.line(format!("the server's own, SHA-256  {}", own.fingerprint));
    let shown = fetched.certificate()?;
    ensure!(shown == own, "the client was shown another certificate, of {}", shown.issuer);
    let row = row_on_console(bench, evidence, "show sessions", &client_port(&fetched))?;
    ensure!(row.contains("not decrypted"), "the console says otherwise: {row}");
    Ok(())
}

/// 4. A self-signed server: curl refuses, and what it refuses is signed by the untrusted CA.
pub fn untrusted_server<W: Wire>(bench: &mut Bench<W>, evidence: &mut Evidence) -> Result<()> {
    let refused = Fetch::new("selfsigned.example", "/").run(&bench.ends)?;
    show(evidence, &refused);
    evidence.line(refused.end());
    ensure!(refused.exit == 60, "curl must refuse the certificate (exit 60)");
    let accepted = Fetch::new("selfsigned.example", "/").trust_anybody().run(&bench.ends)?;
    show(evidence, &accepted);
    accepted.succeeded()?;
    show_certificate(evidence, &accepted)?;
    let shown = accepted.certificate()?;
    ensure!(shown.subject.contains("selfsigned.example"), "not a copy: {}", shown.subject);
    ensure!(
        shown.issuer.to_lowercase().contains("untrusted") && !shown.issuer.contains(SIGNING_CA),
        "the issuer is not the untrusted CA: {}",
        shown.issuer
    );
    Ok(())
}

/// 5. Captures on both ends during one decrypted connection.
pub fn transparent<W: Wire>(bench: &mut Bench<W>, evidence: &mut Evidence) -> Result<()> {
    let ends = &bench.ends;
    let at_client = Capture::start(&bench.run, &ends.client, "client")?;
    let at_server = Capture::start(&bench.run, &ends.server, "server")?;
    evidence.command(&at_client.command);
    evidence.command(&at_server.command);
    let fetched = Fetch::new("public.example", "/").run(ends)?;
    show(evidence, &fetched);
    let (at_client, at_server) = (at_client.stop()?, at_server.stop()?);
    fetched.succeeded()?;
    show_certificate(evidence, &fetched)?;
    ensure_signed_by_weir(&fetched)?;
    let (client, client_frames) = capture::connection(&at_client, fetched.port)?;
    let (server, server_frames) = capture::connection(&at_server, fetched.port)?;
    for (whose, seen, frames) in
        [("client", &client, client_frames), ("server", &server, server_frames)]
    {
        for ends in seen {
            evidence.line(format!("at the {whose}:  {ends}"));
        }
        evidence.line(format!("              in {frames} frames"));
    }
    ensure!(client.len() == 2, "one connection has two directions, not {}", client.len());
    ensure!(client == server, "the two sides differ");
    Ok(())
}

/// How the console's lists show the client's end.
fn client_port(fetched: &Fetched) -> String {
    format!("{CLIENT}:{} ", fetched.port)
}

fn show(evidence: &mut Evidence, fetched: &Fetched) {
    evidence.command(&fetched.command);
}

fn show_certificate(evidence: &mut Evidence, fetched: &Fetched) -> Result<()> {
    let Seen { subject, issuer, fingerprint } = fetched.certificate()?;
    evidence.line(format!("certificate shown: subject {subject}"));
    evidence.line(format!("                   issuer  {issuer}"));
    evidence.line(format!("                   SHA-256 {fingerprint}"));
    Ok(())
}

/// The certificate shown was issued by Weir's signing CA.
pub fn ensure_signed_by_weir(fetched: &Fetched) -> Result<()> {
    let shown = fetched.certificate()?;
    ensure!(
        shown.issuer.contains(SIGNING_CA),
        "the session was not decrypted: the client was shown a certificate of {}",
        shown.issuer
    );
    Ok(())
}

/// Asks the console until it shows a row with `what`; the row in one line; printed as
/// evidence.
pub fn row_on_console<W: Wire>(
    bench: &mut Bench<W>,
    evidence: &mut Evidence,
    command: &str,
    what: &str,
) -> Result<String> {
    let deadline = Instant::now() + SHOWN;
    loop {
        let text = bench.wire.console(command)?;
        if let Some(row) = row(&text, what) {
            evidence.line(format!("console: {command}"));
            evidence.block(&row, 12);
            return Ok(row.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        if Instant::now() > deadline {
            bail!("'{command}' does not show {what}; it shows:\n{text}");
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// The part of a console's list that has `what` in it: its line and the indented lines that belong
/// to it.
fn row(text: &str, what: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let hit = lines.iter().position(|line| line.contains(what))?;
    let indented = |line: &str| line.starts_with(' ') && !line.trim().is_empty();
    let mut first = hit;
    while first > 0 && lines.get(first).is_some_and(|line| indented(line)) {
        first -= 1;
    }
    let after = lines.iter().skip(first + 1).take_while(|line| indented(line)).count();
    Some(lines.get(first..first + 1 + after)?.join("\n"))
}

/// Whether the certificate shown is the server's own, so that nobody decrypted.
pub fn is_own(certificates: &Certificates, shown: &Seen) -> Result<bool> {
    Ok(*shown == seen(&certificates.public.certificate_pem()?)?)
}
