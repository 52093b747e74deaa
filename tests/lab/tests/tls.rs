//! What TLS inspection does between real ends: curl, openssl and nginx.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::lab;
use weir_lab::bench::Bench;
use weir_lab::checks;
use weir_lab::fetch::Fetch;
use weir_lab::report::Evidence;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

fn passes(check: impl FnOnce(&mut Bench<Lab>, &mut Evidence) -> anyhow::Result<()>) {
    let mut bench = lab();
    if let Err(error) = check(&mut bench, &mut Evidence) {
        panic!("{error:#}; {}", bench.wire.state());
    }
    bench.run.succeeded();
}

/// Asks the console again until its answer holds this.
fn told(bench: &mut Bench<Lab>, command: &str, text: &str) -> anyhow::Result<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let shown = bench.wire.console(command)?;
        if shown.contains(text) {
            return Ok(shown);
        }
        anyhow::ensure!(Instant::now() < deadline, "{command} never tells {text:?}: {shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn counters(bench: &mut Bench<Lab>, what: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let shown = bench.wire.console(&format!("debug np stats show {what}"))?;
    let line = |line: &str| {
        let (count, name) = line.trim_start().split_once("  ")?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    Ok(shown.lines().filter_map(line).collect())
}

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
        let weak = ["--tls-max", "1.2", "--ciphers", "AES128-SHA256"];
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
