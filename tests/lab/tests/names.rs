//! Server names in all the forms that clients send, and hellos with another one inside (SPEC T5, T12).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::process::Command;

use common::lab;
use weir_lab::bench::Bench;
use weir_lab::certificates::SIGNING_CA;
use weir_lab::document;
use weir_lab::ends::{Ends, OWN_SERVER, SERVER};
use weir_lab::process::{finish, succeed};
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

const EXCEPTED: &str = "not decrypted (domain exception)";
const INSPECTED: &str = "decrypted and inspected";

/// The newest session's record that is not in `seen`.
fn record(bench: &mut Bench<Lab>, seen: &mut usize) -> String {
    for _ in 0..600 {
        let shown = bench.wire.console("show sessions detail 1").unwrap();
        let number = shown.lines().find_map(|line| line.strip_prefix("Session "));
        let number = number.map_or(0, |number| number.trim().parse().unwrap());
        if number > *seen {
            *seen = number;
            return shown;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("no new session after {seen}");
}

fn field<'a>(record: &'a str, name: &str) -> &'a str {
    let value = record.lines().find_map(|line| line.strip_prefix(&format!("{name:24}")));
    value.unwrap_or_default()
}

/// A field's value that may be longer than a line.
fn folded(record: &str, name: &str) -> String {
    let lines = record.lines().skip_while(|line| !line.starts_with(&format!("{name:24}")));
    let (mut value, mut lines) = (String::new(), lines.peekable());
    if let Some(first) = lines.next() {
        value += first.get(24..).unwrap_or_default();
    }
    while let Some(more) = lines.next_if(|line| line.starts_with("                        ")) {
        value += if name == "Outcome" { " " } else { "" };
        value += more.trim_start();
    }
    value
}

/// openssl sends a name as it is given it. The issuer of what it is shown.
fn visit(ends: &Ends, name: Option<&str>) -> String {
    let mut command = ends.client.command("timeout");
    command.args(["30", "openssl", "s_client", "-connect", &format!("{SERVER}:443")]);
    match name {
        Some(name) => command.args(["-servername", name]),
        None => command.arg("-noservername"),
    };
    let said = finish(&mut command).unwrap().text();
    let issuer = said.lines().find_map(|line| line.strip_prefix("issuer="));
    issuer.unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn a_server_name_decides_in_whatever_form_it_is_sent() {
    let mut bench = lab();
    let text = document::weir_section(&bench.ends.certificates).unwrap();
    let domains = "[\"bank.example\", \"*.bank.example\"]";
    assert!(text.contains(domains));
    let more = "[\"bank.example\", \"*.bank.example\", \"bücher.example\", \"*.rack.7\"]";
    bench.provision(&text.replace(domains, more)).unwrap();
    let mut seen = 0;
    record(&mut bench, &mut seen);
    // The name, what becomes of the session, and the verdict on what the server shows for it.
    let visits = [
        (None, INSPECTED, "verified"),
        (Some("public.example"), INSPECTED, "verified"),
        (Some("Public.EXAMPLE"), INSPECTED, "verified"),
        (Some("public.example."), INSPECTED, "verified"),
        (Some("notbank.example"), INSPECTED, "name mismatch"),
        // No host may be called so by RFC 952, and some are.
        (Some("notbank-.example"), INSPECTED, "name mismatch"),
        (Some("-notbank.example"), INSPECTED, "name mismatch"),
        // Nor with a number at its end, and inside networks some are.
        (Some("node.10"), INSPECTED, "name mismatch"),
        (Some("node.rack.7"), EXCEPTED, ""),
        // No server name at all, by RFC 6066 section 3, but some send it. The certificate decides then, which
        // here is of nobody's domain.
        (Some("10.66.0.2"), INSPECTED, "name mismatch"),
        (Some("10.66.0.2."), INSPECTED, "name mismatch"),
        (Some("[2001:db8::1]"), INSPECTED, "name mismatch"),
        (Some("bank.example"), EXCEPTED, ""),
        (Some("BANK.Example"), EXCEPTED, ""),
        (Some("bank.example."), EXCEPTED, ""),
        (Some("a.b.bank.example"), EXCEPTED, ""),
        (Some("xn--bcher-kva.example"), EXCEPTED, ""),
        (Some("XN--Bcher-KVA.example"), EXCEPTED, ""),
        (Some("xn--bcher-xyz.example"), INSPECTED, "name mismatch"),
    ];
    for (name, outcome, verdict) in visits {
        let issuer = visit(&bench.ends, name);
        let record = record(&mut bench, &mut seen);
        assert_eq!(field(&record, "Outcome"), outcome, "{name:?}: {record}");
        assert_eq!(field(&record, "Verdict"), verdict, "{name:?}: {record}");
        assert_eq!(field(&record, "Server name"), name.unwrap_or("none"), "{record}");
        let forged_and_trusted = issuer.contains(SIGNING_CA);
        assert_eq!(forged_and_trusted, verdict == "verified", "{name:?}: {issuer}");
        // One that is left alone sees the server's own.
        assert!(outcome == INSPECTED || issuer.contains("Weir lab public CA"), "{issuer}");
    }
    bench.run.succeeded();
}

/// Judged by the hello: nobody finds out what its server makes of it.
#[test]
fn a_name_that_no_host_can_have_is_blocked_for_that_before_any_server_is_asked() {
    let mut bench = lab();
    let text = document::weir_section(&bench.ends.certificates).unwrap();
    let mut seen = 0;
    record(&mut bench, &mut seen);
    let (blocked, bypassed) =
        ("blocked (server name that names no host)", "bypassed (server name that names no host)");
    let long = format!("{}.example", "l".repeat(64));
    let names = [
        ("a..b", "a..b"),
        ("host:443", "host:443"),
        ("b\u{fc}cher.example", r"b\xc3\xbccher.example"),
        (long.as_str(), long.as_str()),
    ];
    let say = |ends: &Ends, server: &str, name: &str| {
        let mut command = ends.client.command("timeout");
        command.args(["30", "openssl", "s_client", "-connect", &format!("{server}:443")]);
        let said = finish(command.args(["-servername", name])).unwrap().text();
        said.lines().find_map(|line| line.strip_prefix("issuer=")).map(str::to_owned)
    };
    for (name, told) in names {
        for server in [SERVER, OWN_SERVER] {
            let issuer = say(&bench.ends, &server.to_string(), name);
            assert_eq!(issuer, None, "{name}");
            let record = record(&mut bench, &mut seen);
            assert_eq!(folded(&record, "Outcome"), blocked, "{name}: {record}");
            assert_eq!(folded(&record, "Server name"), told, "{record}");
        }
    }
    let device = "  device:\n";
    let set = format!("{device}    evasion:\n      invalid-server-name: bypass\n");
    bench.provision(&text.replace(device, &set)).unwrap();
    let issuer = say(&bench.ends, &SERVER.to_string(), "b\u{fc}cher.example").unwrap();
    assert!(issuer.contains("Weir lab public CA"), "{issuer}");
    let record = record(&mut bench, &mut seen);
    assert_eq!(folded(&record, "Outcome"), bypassed, "{record}");
    bench.run.succeeded();
}

/// By a name that only the legacy stack takes a stranger would choose the stack; a name of our own
/// certificates is none of a stranger's.
#[test]
fn name_that_nobody_has_puts_nobody_on_the_legacy_stack_of_a_server_proxy() {
    let mut bench = lab();
    let mut seen = 0;
    record(&mut bench, &mut seen);
    for (name, outcome) in [
        ("shop.example", INSPECTED),
        ("shop-.example", "blocked (TLS handshake with the client failed)"),
    ] {
        let mut command = bench.ends.client.command("timeout");
        command.args(["30", "openssl", "s_client", "-connect", &format!("{OWN_SERVER}:443")]);
        let finished = finish(command.args(["-servername", name])).unwrap();
        let record = record(&mut bench, &mut seen);
        assert_eq!(field(&record, "Outcome"), outcome, "{record}");
        let refused = finished.errors.contains("unrecognized name");
        assert_eq!(refused, outcome != INSPECTED, "{name}: {}", finished.errors);
    }
    // Counted by the engine once a second.
    let mut legs = String::new();
    for _ in 0..600 {
        let shown = bench.wire.console("show tls-inspection").unwrap();
        let line = |words: &str| {
            let line = shown.lines().find(|line| line.ends_with(words)).unwrap_or_default();
            line.split_whitespace().next().unwrap_or_default().to_owned()
        };
        legs = line("  legs on the legacy stack");
        if line("  client handshake failures") == "1" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(legs, "0");
    bench.run.succeeded();
}

/// ECHConfigs (RFC 9849 section 4) of that public name, with X25519 and AES-128-GCM, and a key that
/// nobody has.
fn ech_configs(public_name: &str) -> String {
    let name = public_name.as_bytes();
    let length = u8::try_from(name.len()).unwrap();
    let contents =
        [&[7, 0, 0x20, 0, 32][..], &[9; 32], &[0, 4, 0, 1, 0, 1, 64, length], name, &[0, 0]]
            .concat();
    let vector = |bytes: &[u8]| -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    };
    let configs = vector(&[&[0xfe, 0x0d][..], &vector(&contents)].concat());
    let mut encoded = Command::new("base64");
    let file = std::env::temp_dir().join(format!("weir-ech-{}", std::process::id()));
    std::fs::write(&file, configs).unwrap();
    let text = succeed(encoded.args(["-w", "0"]).arg(&file)).unwrap();
    std::fs::remove_file(file).unwrap();
    text.trim().to_owned()
}

/// NSS is the client that does ECH. What it says.
fn encrypted_visit(ends: &Ends, name: &str, options: &[&str]) -> String {
    let request = ends.run.path("ech-request");
    std::fs::write(&request, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut command = ends.client.command("timeout");
    command.args(["30", "tstclnt", "-h", &SERVER.to_string(), "-p", "443", "-a", name, "-o", "-D"]);
    let finished = finish(command.args(options).arg("-A").arg(&request)).unwrap();
    format!("{}{}", finished.text(), finished.errors)
}

#[test]
fn encrypted_hellos_are_told_by_their_outer_name_and_treated_as_the_proxy_says() {
    let mut bench = lab();
    let mut seen = 0;
    record(&mut bench, &mut seen);
    let text = document::weir_section(&bench.ends.certificates).unwrap();
    let option = "reset-client-on-block: true\n";
    assert_eq!(text.matches(option).count(), 1);
    let configs = ech_configs("public.example");
    for (word, outcome) in [
        ("decrypt", INSPECTED),
        ("bypass", "bypassed (encrypted ClientHello)"),
        ("block", "blocked (encrypted ClientHello)"),
    ] {
        let setting = format!("{option}      on-encrypted-client-hello: {word}\n");
        bench.provision(&text.replace(option, &setting)).unwrap();
        // GREASE: what a browser sends that has no keys of the server's.
        let said = encrypted_visit(&bench.ends, "public.example", &["-i", "40"]);
        let record_of_grease = record(&mut bench, &mut seen);
        assert_eq!(field(&record_of_grease, "Outcome"), outcome, "{word}: {said}");
        assert_eq!(said.contains("benign page"), word != "block", "{word}: {said}");

        // The real one: the name inside is nobody's business.
        let said = encrypted_visit(&bench.ends, "secret.example", &["-N", &configs]);
        let record = record(&mut bench, &mut seen);
        for record in [&record_of_grease, &record] {
            assert_eq!(field(record, "Server name"), "public.example", "{record}");
            let told = field(record, "Encrypted hello");
            assert_eq!(told, "yes; the server name is the outer one", "{record}");
        }
        assert!(!record.contains("secret"), "{record}");
        // Weir and this server have no such keys: the client is told so, and would try again.
        assert!(!said.contains("benign page"), "{word}: {said}");
        if word != "decrypt" {
            assert_eq!(field(&record, "Outcome"), outcome, "{word}: {said}");
        }
    }
    bench.run.succeeded();
}
