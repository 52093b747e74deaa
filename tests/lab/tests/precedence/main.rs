//! What precedes TLS inspection, as the operator reaches it: quarantine, traffic filters, inspection
//! bypass, reputation and `debug explain`, with real traffic between real ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod quarantine;

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::{connect, lab, read_until, write_record};
use nix::sys::signal::{Signal, kill};
use weir_lab::bench::Bench;
use weir_lab::checks;
use weir_lab::document;
use weir_lab::ends::{CLIENT, OWN_SERVER, SERVER};
use weir_lab::fetch::Fetch;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

fn passes(check: impl FnOnce(&mut Bench<Lab>) -> anyhow::Result<()>) {
    let mut bench = lab();
    if let Err(error) = check(&mut bench) {
        panic!("{error:#}; {}", bench.wire.state());
    }
    bench.run.succeeded();
}

/// Until it holds; an error after 90 s.
fn wait_for(what: &str, mut condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !condition()? {
        anyhow::ensure!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Whether a connection comes about, from the client's namespace or from the server's. Where packets
/// are dropped none does within 1.5 s, in which a SYN is sent twice.
fn connects(bench: &Bench<Lab>, from_client: bool, to: Ipv4Addr, port: u16) -> bool {
    let end = if from_client { &bench.ends.client } else { &bench.ends.server };
    let to = SocketAddr::from((to, port));
    end.enter(move || Ok(TcpStream::connect_timeout(&to, Duration::from_millis(1500)).is_ok()))
        .unwrap()
}

/// That one comes about, on a busy machine too.
fn connects_at_last(bench: &Bench<Lab>, to: Ipv4Addr, port: u16) -> anyhow::Result<()> {
    wait_for("a connection", || Ok(connects(bench, true, to, port)))
}

/// The number behind `label`, in what the console shows.
fn number(shown: &str, label: &str) -> u64 {
    let line = shown.lines().find(|line| line.trim_start().starts_with(label));
    let line = line.unwrap_or_else(|| panic!("no {label} in: {shown}"));
    let value = line.trim_start().strip_prefix(label).unwrap().trim();
    value.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("no number: {line}"))
}

/// Packets of the rule of that name.
fn packets(shown: &str, rule: &str) -> u64 {
    let (_, after) = shown.split_once(&format!(". {rule}\n")).unwrap_or_else(|| panic!("{shown}"));
    number(after, "Traffic")
}

fn refusal(bench: &mut Bench<Lab>, command: &str) -> String {
    bench.wire.console(command).unwrap_err().to_string()
}

/// The lab's document with `more` above its segments; in force when this returns.
fn with_rules(bench: &mut Bench<Lab>, more: &str) -> anyhow::Result<()> {
    let good = document::weir_section(&bench.ends.certificates)?;
    let before = bench.wire.log()?.matches("policy in force").count();
    bench.wire.configure(&good.replacen("  segments:\n", &format!("{more}  segments:\n"), 1))?;
    in_force(bench, before)
}

/// Waits for the next configuration; `before`: lines of such a kind that there were.
fn in_force(bench: &Bench<Lab>, before: usize) -> anyhow::Result<()> {
    // The agent's line and the engine's.
    wait_for("the policy", || {
        let log = bench.wire.log()?;
        anyhow::ensure!(!log.contains("configuration refused"), "the test's rules are refused");
        Ok(log.matches("policy in force").count() >= before + 2)
    })
}

fn explained(bench: &mut Bench<Lab>, more: &str) -> anyhow::Result<String> {
    let shown = bench.wire.console(&format!("debug explain segment 1 {more}"))?;
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    assert!(!shown.contains("disagree"), "{shown}");
    Ok(shown)
}

/// Bypass, block and trust by one address each, so that each is seen in real traffic.
const RULES: &str = "  \
inspection-bypass:
    - name: own servers
      match: {destinations: [10.66.0.3/32]}
    - name: answers of own servers
      match: {sources: [10.66.0.3/32]}
  traffic-filters:
    - name: no telnet
      match: {protocols: [tcp], destination-ports: [\"23\"]}
      action: block
    - name: datagrams
      match: {protocols: [udp]}
      action: rate-limit
      rate: 10M
    - name: trusted client
      match: {sources: [10.66.0.1/32], destination-ports: [\"443\"]}
      action: trust
  reputation:
    - action: block
      entries: [10.66.0.99/32]
";

#[test]
fn filters_count_what_they_match_and_explain_agrees_with_what_happens() {
    passes(|bench| {
        with_rules(bench, RULES)?;
        let filters = bench.wire.console("show traffic-filters")?;
        assert_eq!(packets(&filters, "no telnet"), 0, "{filters}");
        assert!(filters.starts_with("1. no telnet\n  Action                block\n"), "{filters}");

        // Block: telnet to the server.
        let client = format!("from {CLIENT} to");
        let shown = explained(bench, &format!("{client} {SERVER} port 23"))?;
        assert!(shown.contains("Traffic filters         1. no telnet: block"), "{shown}");
        assert!(shown.contains("Decided by              traffic filter: blocked"), "{shown}");
        assert!(shown.contains("TLS policy              not asked"), "{shown}");
        assert!(!connects(bench, true, SERVER, 23));
        let filters = bench.wire.console("show traffic-filters")?;
        assert!(packets(&filters, "no telnet") >= 1, "{filters}");

        // Rate limit: datagrams pass, and count.
        let shown = explained(bench, &format!("{client} {SERVER} protocol udp port 9"))?;
        assert!(shown.contains("2. datagrams: rate-limit 10M"), "{shown}");
        assert!(shown.contains("Decided by              no rule: passes"), "{shown}");
        let before = packets(&filters, "datagrams");
        bench.ends.client.enter(|| {
            let socket = UdpSocket::bind((CLIENT, 0))?;
            for _ in 0..3 {
                socket.send_to(b"discarded", (SERVER, 9))?;
            }
            Ok(())
        })?;
        wait_for("the count", || {
            let filters = bench.wire.console("show traffic-filters")?;
            Ok(packets(&filters, "datagrams") - before == 3)
        })?;

        // Trust: decrypted, but not inspected; the attack gets through.
        let shown = explained(bench, &format!("{client} {SERVER} server-name public.example"))?;
        assert!(shown.contains("3. trusted client: trust"), "{shown}");
        let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            flat.contains(
                "decrypted but not inspected (trust filter), by client policy staff of profile \
                 default"
            ),
            "{shown}"
        );
        let fetched = Fetch::new("public.example", "/?f=/etc/passwd").run(&bench.ends)?;
        fetched.succeeded()?;
        checks::ensure_signed_by_weir(&fetched)?;
        assert!(bench.ends.access_log()?.contains("passwd"));
        let flow = format!("{CLIENT}:{} ", fetched.port);
        wait_for("the record", || {
            let shown = bench.wire.console("show sessions")?;
            let row = shown.split(&flow).nth(1).map(str::to_owned);
            Ok(row.is_some_and(|row| {
                let words = row.split_whitespace().take(12).collect::<Vec<_>>().join(" ");
                words.contains("decrypted but not inspected (trust filter)")
            }))
        })?;

        // Inspection bypass: never looked at.
        let shown = explained(bench, &format!("{client} {OWN_SERVER}"))?;
        assert!(shown.contains("Inspection bypass       1. own servers: pass"), "{shown}");
        let bypass = bench.wire.console("show inspection-bypass")?;
        let before = packets(&bypass, "own servers");
        let fetched = Fetch::new("shop.example", "/").own_server().run(&bench.ends)?;
        fetched.succeeded()?;
        let bypass = bench.wire.console("show inspection-bypass")?;
        assert!(packets(&bypass, "own servers") > before, "{bypass}");
        assert!(packets(&bypass, "answers of own servers") > 0, "{bypass}");

        // Reputation.
        let shown = explained(bench, &format!("{client} 10.66.0.99 port 80"))?;
        assert!(shown.contains("10.66.0.99: block (10.66.0.99/32)"), "{shown}");
        assert!(shown.contains("Decided by              reputation: blocked"), "{shown}");
        let shown = bench.wire.console("show reputation")?;
        assert!(shown.contains("Entries                 1 block, 0 permit"), "{shown}");
        let shown = bench.wire.console("show reputation 10.66.0.99")?;
        assert!(shown.contains("By the entry            10.66.0.99/32"), "{shown}");
        Ok(())
    });
}

/// The malware in a response is blocked by the profile's filters; the request's own are asked all the
/// same.
#[test]
fn decrypted_traffic_is_judged_by_the_rules_of_each_direction() {
    passes(|bench| {
        let malware = |bench: &Bench<Lab>| {
            let fetched = Fetch::new("public.example", "/malware.txt").run(&bench.ends)?;
            checks::ensure_signed_by_weir(&fetched)?;
            anyhow::Ok(fetched.exit == 0)
        };
        let attack = |bench: &Bench<Lab>| {
            let fetched = Fetch::new("public.example", "/?f=/etc/passwd").run(&bench.ends)?;
            anyhow::Ok(fetched.exit == 0)
        };
        assert!(!malware(bench)? && !attack(bench)?);

        let trust = "  traffic-filters:\n    - name: trusted servers\n      \
             match: {from: B, source-ports: [\"443\"]}\n      action: trust\n";
        with_rules(bench, trust)?;
        let shown = explained(bench, &format!("from {CLIENT} to {SERVER}"))?;
        let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.ends_with("; the server's packets are not inspected"), "{shown}");
        assert!(malware(bench)?, "the server's packets are trusted");
        assert!(!attack(bench)?, "the client's are not");

        // A virtual segment of the servers' packets, whose profile has no filters (SPEC D3).
        let good = document::weir_section(&bench.ends.certificates)?;
        let split = good
            .replacen(
                "  virtual-segments:\n    - name: all\n",
                "  virtual-segments:\n    - name: servers\n      from: B\n      profile: unfiltered\n    \
                 - name: all\n",
                1,
            )
            .replacen("  profiles:\n", "  profiles:\n    - name: unfiltered\n", 1);
        let before = bench.wire.log()?.matches("policy in force").count();
        bench.wire.configure(&split)?;
        in_force(bench, before)?;
        let shown = explained(bench, &format!("from {CLIENT} to {SERVER}"))?;
        assert!(shown.contains("Virtual segment         all"), "{shown}");
        let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.ends_with("; the server's packets by profile unfiltered"), "{shown}");
        assert!(malware(bench)?, "the server's packets are of another virtual segment");
        assert!(!attack(bench)?);
        Ok(())
    });
}

#[test]
fn explain_tells_what_tls_policy_would_say() {
    passes(|bench| {
        let client = format!("from {CLIENT} to");
        let says = |bench: &mut Bench<Lab>, more: &str| {
            let shown = explained(bench, more)?;
            let (_, tls) = shown.split_once("\nTLS policy  ").unwrap();
            anyhow::Ok(tls.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let said = says(bench, &format!("{client} {SERVER} server-name public.example"))?;
        assert_eq!(said, "decrypted and inspected, by client policy staff of profile default");
        let said = says(bench, &format!("{client} {SERVER} server-name www.bank.example"))?;
        assert_eq!(said, "not decrypted (domain exception)");
        let said = says(bench, &format!("{client} {OWN_SERVER}"))?;
        assert_eq!(said, "decrypted and inspected, by server policy shop of profile default");
        let said = says(bench, &format!("{client} {SERVER} port 80"))?;
        assert_eq!(said, "no policy covers the destination and port: not decrypted");
        assert_eq!(says(bench, &format!("{client} {SERVER} protocol udp port 53"))?, "not asked");

        // Who gives no name, or gives one whose word does not count, is not known before the server is.
        let decided = "decided by the server's certificate: not decrypted, or decrypted and inspected, by \
                       client policy staff of profile default";
        assert_eq!(says(bench, &format!("{client} {SERVER}"))?, decided);
        let domains = "domains-not-to-decrypt: [\"bank.example\", \"*.bank.example\"]";
        let good = document::weir_section(&bench.ends.certificates)?;
        assert!(good.contains(domains));
        let by_certificate = format!("{domains}\n      decided-by: server-certificate");
        let before = bench.wire.log()?.matches("policy in force").count();
        bench.wire.configure(&good.replace(domains, &by_certificate))?;
        in_force(bench, before)?;
        let named = format!("{client} {SERVER} server-name");
        assert_eq!(says(bench, &format!("{named} bank.example"))?, decided);
        let said = says(bench, &format!("{named} public.example"))?;
        assert_eq!(said, "decrypted and inspected, by client policy staff of profile default");
        Fetch::new("bank.example", "/").run(&bench.ends)?.succeeded()?;
        let said = says(bench, &format!("{named} bank.example"))?;
        assert_eq!(said, "not decrypted (learnt that the domain needs no inspection)");
        Ok(())
    });
}

#[test]
fn what_cannot_be_asked_is_refused_with_its_place_and_what_would_be_right() {
    passes(|bench| {
        let cases = [
            ("segment 9 from 10.0.0.1 to 10.0.0.2", "there is no segment 9; known: 1"),
            ("segment 1 from 10.0.0.1 to ::1", "to: ::1 is of another family than 10.0.0.1"),
            (
                "segment 1 from 10.0.0.1 to 10.0.0.2 protocol icmp port 1",
                "give protocol tcp or udp",
            ),
            ("segment 1 from 10.0.0.1 to 10.0.0.2 protocol 47", "another packet inside"),
            ("segment 1 from 10.0.0.1 to 10.0.0.300", "\"10.0.0.300\" is no IP address"),
            ("segment 1 from 10.0.0.1", "the command is incomplete"),
        ];
        for (packet, wanted) in cases {
            let refused = refusal(bench, &format!("debug explain {packet}"));
            let flat = refused.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains(wanted), "{packet}: {refused}");
        }
        let refused = refusal(bench, "quarantine everybody");
        assert!(refused.contains("<address>"), "{refused}");
        Ok(())
    });
}
