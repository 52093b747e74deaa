//! Words that ends choose: they reach the system log and the console as words, and not as lines, fields or
//! commands to a terminal.

use std::net::Ipv4Addr;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use weir_lab::process::finish;
use weir_lab::wire::Wire as _;

use super::{OTHER, passes, serve};

/// For a terminal, a log of lines, and a log of fields.
const SHREWD: &str = "x\u{1b}]0;title\u{7}\r\n2026-01-01T00:00:00Z  INFO a\" outcome=\"y";
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
const PORT: u16 = 61_234;

#[test]
fn words_of_ends_reach_log_and_console_as_words() {
    passes(|bench| {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(vec!["public.example".to_owned()])?;
        for name in [SHREWD, "a.example, b.example and 9 more"] {
            parameters.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name)?));
        }
        parameters.distinguished_name.push(DnType::CommonName, SHREWD);
        let certificate = bench.ends.run.path("shrewd.pem");
        let own = parameters.self_signed(&key)?.pem() + &key.serialize_pem();
        std::fs::write(&certificate, own)?;
        // openssl parts its list at commas.
        let alpn = "h2 x\u{1b}[2J\n\" resumed";
        let place = format!("{OTHER}:443");
        let mut command = bench.ends.server.command("openssl");
        command.args(["s_server", "-www", "-accept", &place, "-alpn", alpn, "-cert"]);
        let _server = serve(&bench.ends, command.arg(&certificate), &place)?;

        let mut command = bench.ends.client.command("timeout");
        command.args(["30", "openssl", "s_client", "-connect", &place, "-alpn", alpn]);
        command.args(["-bind", &format!("{CLIENT}:{PORT}"), "-servername", "public.example"]);
        let said = finish(&mut command)?.text();
        assert!(said.contains("ALPN protocol: h2 x"), "{said}");

        let record = super::common::record_of(bench, PORT)?;
        let unfolded = record.split_whitespace().collect::<Vec<_>>().join(" ");
        for told in [
            r#"Server certificate x\u{1b}]0;title\u{7}\r\n2026-01-01T00:00:00Z INFO a" outcome="y"#,
            r#", "a.example, b.example and 9 more""#,
            r#"ALPN "h2 x\x1b[2J\n\" resumed""#,
        ] {
            assert!(unfolded.contains(told), "{told} is not in {unfolded}");
        }
        let log = bench.wire.log()?;
        let told: Vec<_> =
            log.lines().filter(|line| line.contains(&format!("client={CLIENT}:{PORT}"))).collect();
        let [line] = told.as_slice() else { anyhow::bail!("not one line of it: {told:?}") };
        let told =
            r#" certificate="x\u{1b}]0;title\u{7}\r\n2026-01-01T00:00:00Z  INFO a\" outcome=\"y" "#;
        assert!(line.contains(told), "{told} is not in {line}");
        // Nobody wrote a line of his own.
        assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{log}");
        for shown in
            ["show log", "show tls-inspection log", "show sessions", "show sessions detail"]
        {
            let shown = bench.wire.console(shown)?;
            let commands = |one: char| one.is_control() && one != '\n';
            assert!(shown.contains("61234") && !shown.contains(commands), "{shown:?}");
        }
        Ok(())
    });
}
