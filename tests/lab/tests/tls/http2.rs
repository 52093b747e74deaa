//! HTTP/2: agreed on by both ends and relayed, or downgraded.

use weir_lab::certificates::Identity;
use weir_lab::checks;
use weir_lab::ends::Ends;
use weir_lab::fetch::Fetch;
use weir_lab::process::Process;

use super::{INSPECTED, OTHER, configure, passes, record_of, serve, told};

#[test]
fn http2_is_agreed_on_where_both_ends_want_it_and_downgraded_where_set() {
    passes(|bench, _| {
        let public = bench.ends.certificates.public.clone();
        let _server = http2_server(&bench.ends, &public)?;
        let fetch = Fetch::new("public.example", "/").at(OTHER);
        let fetched = fetch.run(&bench.ends)?;
        fetched.succeeded()?;
        checks::ensure_signed_by_weir(&fetched)?;
        assert_eq!(fetched.version, "2");
        let (outcome, record) = record_of(bench, &fetched)?;
        assert_eq!(outcome, "decrypted but not inspected (service not supported)");
        assert_eq!(record.matches("ALPN h2").count(), 2, "{record}");

        // A client that does not want it.
        let fetched = fetch.clone().arguments(&["--http1.1"]).run(&bench.ends)?;
        fetched.succeeded()?;
        assert_eq!(fetched.version, "1.1");
        assert_eq!(record_of(bench, &fetched)?.0, INSPECTED);

        configure(bench, "logging: true\n", "logging: true\n      downgrade-http2: true\n")?;
        let fetched = fetch.run(&bench.ends)?;
        fetched.succeeded()?;
        assert_eq!(fetched.version, "1.1");
        let (outcome, record) = record_of(bench, &fetched)?;
        assert_eq!(outcome, INSPECTED);
        assert_eq!(record.matches("ALPN http/1.1").count(), 2, "{record}");
        let told_so =
            "HTTP/2                  offered by the client, downgraded to HTTP/1 by the proxy\n";
        assert!(record.contains(told_so), "{record}");
        let counted = "1  connectionsHttp2Downgraded\n";
        told(bench, "debug np stats show npSslInspStats", counted).map(drop)
    });
}

/// nginx with HTTP/2.
fn http2_server(ends: &Ends, identity: &Identity) -> anyhow::Result<Process> {
    let path = |name: &str| ends.run.path(name).display().to_string();
    let text = format!(
        "user root;\nworker_processes 1;\ndaemon off;\nerror_log {errors};\npid {pid};\n\
         events {{ worker_connections 64; }}\nhttp {{\n  access_log off;\n  root {root};\n  \
         server {{\n    listen {OTHER}:443 ssl http2;\n    ssl_certificate {certificate};\n    \
         ssl_certificate_key {key};\n  }}\n}}\n",
        errors = path("http2-error.log"),
        pid = path("http2.pid"),
        root = path("www"),
        certificate = identity.certificate.display(),
        key = identity.key.display(),
    );
    let file = ends.run.path("http2.conf");
    std::fs::write(&file, text)?;
    let mut command = ends.server.command("nginx");
    command.arg("-p").arg(ends.run.directory()).arg("-c").arg(&file);
    serve(ends, "http2", &mut command)
}
