//! What is told of a session: to its client, on the console, in the log and by counters.

use std::collections::BTreeMap;
use std::process::Stdio;

use weir_lab::bench::Bench;
use weir_lab::checks;
use weir_lab::ends::SERVER;
use weir_lab::fetch::Fetch;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

use super::{OTHER, passes, serve, told};

#[test]
fn a_session_is_told_whole_logged_where_its_proxy_says_so_and_counted() {
    passes(|bench, evidence| {
        // By the client proxy, whose logging is on.
        let fetched = Fetch::new("public.example", "/").run(&bench.ends)?;
        fetched.succeeded()?;
        let flow = format!("10.66.0.1:{}", fetched.port);
        checks::row_on_console(bench, evidence, "show sessions", &format!("{flow} "))?;
        let shown = told(bench, "show sessions detail 1", &flow)?;
        for line in [
            "Server name             public.example\n",
            "Policy                  staff\n",
            "Proxy                   staff\n",
            "Decryption policy       private\n",
            "Outcome                 decrypted and inspected\n",
            "Server certificate      public.example\n",
            "Certificate's names     public.example\n",
            "Certificate's issuer    Weir lab public CA\n",
            "TLS with the client     TLS 1.3 TLS_AES_256_GCM_SHA384 ",
            "TLS with the server     TLS 1.3 TLS_AES_256_GCM_SHA384 ",
            "ecdsa_secp256r1_sha256",
        ] {
            assert!(shown.contains(line), "{line:?} is not in {shown}");
        }
        assert_eq!(bench.wire.console("show tls-inspection log 1")?, shown);

        // By the server proxy, whose logging is off.
        let fetched = Fetch::new("shop.example", "/").own_server().run(&bench.ends)?;
        fetched.succeeded()?;
        let flow = format!("10.66.0.1:{}", fetched.port);
        told(bench, "show sessions detail 1", &flow)?;
        assert_eq!(bench.wire.console("show tls-inspection log 1")?, shown);

        // A client with no suite in common is left alone, and counted as such.
        let weak = ["--tls-max", "1.2", "--ciphers", "AES128-CCM"];
        Fetch::new("public.example", "/").arguments(&weak).run(&bench.ends)?;
        told(bench, "debug np stats show npSslInspProtocolStats", "1  clientCipherOther\n")?;
        let after = counters(bench, "npSslInspProtocolStats")?;
        // One of the bench's own, to see that it inspects.
        assert_eq!(after["clientVersionTLS13"], 3, "{after:?}");
        assert_eq!(after["clientVersionTLS13"], after["serverVersionTLS13"]);
        assert_eq!(after["clientCipher TLS_AES_256_GCM_SHA384"], 3, "{after:?}");
        assert_eq!(after["serverCipherOther"] + after["serverFailureIncompatible"], 0);
        let counted = counters(bench, "npSslInspStats")?;
        let of = |name: &str| counted[name];
        assert_eq!((of("connections"), of("connectionsProxied")), (4, 3), "{counted:?}");
        assert_eq!((of("refusedConnections"), of("connectionsBypassed")), (1, 1), "{counted:?}");
        Ok(())
    });
}

/// Its record is told when it has ended, which may be in days.
#[test]
fn a_session_is_shown_and_its_handshakes_are_counted_while_it_lives() {
    passes(|bench, _| {
        let stats = "npSslInspProtocolStats";
        assert_eq!(bench.wire.console("show sessions live")?, "No live sessions.\n");
        // The bench's own, to see that it inspects.
        told(bench, &format!("debug np stats show {stats}"), " 1  clientVersionTLS13\n")?;
        let mut command = bench.ends.client.command("openssl");
        command.args(["s_client", "-connect", &format!("{SERVER}:443"), "-quiet"]);
        command.args(["-servername", "public.example", "-tls1_2"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut client = command.spawn()?;
        let shown = told(bench, "show sessions live", "decrypted and inspected so far\n")?;
        for line in [
            "Live sessions: 1; the newest 1:\n",
            "> 10.66.0.2:443\n",
            "  public.example\n",
            "  TLS with the client: TLS 1.2 ",
            "  TLS with the server: TLS 1.3 ",
        ] {
            assert!(shown.contains(line), "{line:?} is not in {shown}");
        }
        told(bench, &format!("debug np stats show {stats}"), " 1  clientVersionTLS12\n")?;
        let counted = counters(bench, stats)?;
        assert_eq!(counted["serverVersionTLS13"], 2, "{counted:?}");
        // What nobody had is told as well.
        assert_eq!(counted["clientCipher TLS_RSA_WITH_3DES_EDE_CBC_SHA"], 0, "{counted:?}");
        assert!(!bench.wire.console("show sessions")?.contains("TLS 1.2"));
        // Also where its engine has a successor.
        bench.wire.restart_engine()?;
        let shown = told(bench, "show sessions live", "s old, of an engine that drains")?;
        assert!(shown.starts_with("Live sessions: 1; the newest 1:\n"), "{shown}");
        client.kill()?;
        client.wait()?;
        told(bench, "show sessions live", "No live sessions.\n").map(drop)
    });
}

fn counters(bench: &mut Bench<Lab>, what: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let shown = bench.wire.console(&format!("debug np stats show {what}"))?;
    let line = |line: &str| {
        let (count, name) = line.trim_start().split_once("  ")?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    Ok(shown.lines().filter_map(line).collect())
}

/// What the server's alert says reaches the client, whose own handshake has not begun (item 11).
#[test]
fn an_alert_of_the_server_reaches_the_client() {
    passes(|bench, _| {
        let public = bench.ends.certificates.public.clone();
        let mut command = bench.ends.server.command("openssl");
        command.args(["s_server", "-www", "-accept", &format!("{OTHER}:443")]);
        command.arg("-cert").arg(&public.certificate).arg("-key").arg(&public.key);
        command.arg("-cert2").arg(&public.certificate).arg("-key2").arg(&public.key);
        command.args(["-servername", "another.example", "-servername_fatal"]);
        let _server = serve(&bench.ends, "s_server", &mut command)?;
        let fetched = Fetch::new("public.example", "/").at(OTHER).run(&bench.ends)?;
        assert_ne!(fetched.exit, 0);
        assert!(fetched.messages.contains("unrecognized name"), "{}", fetched.messages);
        let shown = told(bench, "show sessions detail 1", "unrecognized_name")?;
        assert!(shown.contains("handshake with the server"), "{shown}");
        told(bench, "debug np stats show npSslInspProtocolStats", "1  serverFailureAlert\n")
            .map(drop)
    });
}
