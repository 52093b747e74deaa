//! Intermediates that a server forgets, and those that are revoked.

use std::time::{Duration, Instant};

use super::*;

#[test]
fn an_intermediate_that_a_server_forgets_is_fetched_where_the_device_says_so_and_learnt() {
    passes(|bench, _| {
        let (certificates, host) = (bench.ends.certificates.clone(), authority_s_host(bench)?);
        let middle = certificates.intermediate("middle", "Weir lab intermediate CA", &[])?;
        let names = &["public.example"];
        let server =
            certificates.extended("below", names, &middle, &access("caIssuers", WEB, "/ca.cer"))?;
        let lost = certificates.extended(
            "lost",
            names,
            &certificates.intermediate("other", "Weir lab other CA", &[])?,
            &access("caIssuers", WEB, "/none.cer"),
        )?;
        let (_web, directory) = web(bench, &host)?;
        let mut command = Command::new("openssl");
        command.args(["x509", "-outform", "DER", "-in"]).arg(&middle.certificate);
        succeed(command.arg("-out").arg(directory.join("ca.cer")))?;

        judged(bench, &server, false, "untrusted", None)?;
        anyhow::ensure!(!asked(bench)?.contains("GET"), "{}", asked(bench)?);
        provision(bench, &format!("{PERMITTED}    fetch-intermediates: true\n"), "")?;
        judged(bench, &server, true, "verified", None)?;
        judged(bench, &lost, false, "untrusted", None)?;
        for _ in 0..2 {
            judged(bench, &server, true, "verified", None)?;
            judged(bench, &lost, false, "untrusted", None)?;
        }
        for path in ["/ca.cer", "/none.cer"] {
            let asked = asked(bench)?;
            anyhow::ensure!(asked.matches(&format!("GET {path}")).count() == 1, "{asked}");
        }
        // The engine tells its counters once a second.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let shown = bench.wire.console("show tls-inspection")?;
            if shown.contains("1  chains completed with fetched intermediates") {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "{shown}");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

/// That nobody listened is held against the URL for minutes, until policy is given again; that the agent
/// had no time is not held against it at all.
#[test]
fn an_intermediate_that_could_not_be_had_for_a_moment_is_had_by_a_later_session() {
    passes(|bench, _| {
        let (certificates, host) = (bench.ends.certificates.clone(), authority_s_host(bench)?);
        let signed = |file: &str, path: &str| -> anyhow::Result<[Identity; 2]> {
            let (file_of_by, name) = (format!("{file}-ca"), format!("Weir lab {file}"));
            let by = certificates.intermediate(&file_of_by, &name, &[])?;
            let names = &["public.example"];
            let server =
                certificates.extended(file, names, &by, &access("caIssuers", WEB, path))?;
            Ok([server, by])
        };
        let [down, its_issuer] = signed("down", "/down.cer")?;
        let [late, issuer_of_late] = signed("late", "/late.cer")?;
        let settings = format!("{PERMITTED}    fetch-intermediates: true\n");
        provision(bench, &settings, "")?;
        judged(bench, &down, false, "untrusted", None)?;
        let (_web, directory) = web(bench, &host)?;
        for (issuer, file) in [(&its_issuer, "down.cer"), (&issuer_of_late, "late.cer")] {
            let mut command = Command::new("openssl");
            command.args(["x509", "-outform", "DER", "-in"]).arg(&issuer.certificate);
            succeed(command.arg("-out").arg(directory.join(file)))?;
        }
        judged(bench, &down, false, "untrusted", None)?;
        anyhow::ensure!(!asked(bench)?.contains("GET"), "{}", asked(bench)?);
        provision(bench, &settings, "")?;
        judged(bench, &down, true, "verified", None)?;

        let agent = bench.wire.agent()?;
        let server = openssl_server(&bench.ends, &late)?;
        kill(agent, Signal::SIGSTOP)?;
        let fetched = Fetch::new("public.example", "/").at(OTHER).run(&bench.ends);
        // Supervision may have put another in its place.
        let _ = kill(agent, Signal::SIGCONT);
        let (_, record) = record_of(bench, &fetched?)?;
        anyhow::ensure!(record.contains("Verdict                 untrusted\n"), "{record}");
        drop(server);
        judged(bench, &late, true, "verified", None)?;
        let completed = "2  chains completed with fetched intermediates";
        told(bench, "show tls-inspection", completed).map(drop)
    });
}

/// Also where the server forgets the intermediate, and its authority has it in a bundle.
#[test]
fn a_certificate_below_a_revoked_intermediate_is_as_one_that_is_revoked() {
    passes(|bench, _| {
        let (certificates, host) = (bench.ends.certificates.clone(), authority_s_host(bench)?);
        let (_web, directory) = web(bench, &host)?;
        let point = format!("crlDistributionPoints=URI:http://{AUTHORITY}:{WEB}/list.crl");
        let middle = certificates.intermediate("middle", "Weir lab revoked CA", &[&point])?;
        let other = certificates.intermediate("other", "Weir lab other CA", &[&point])?;
        let names = &["public.example"];
        let access = access("caIssuers", WEB, "/ca.p7c");
        let below = certificates.extended("below", names, &middle, &access)?;
        let good = certificates.extended("good", names, &other, &access)?;
        let mut command = Command::new("openssl");
        command.args(["crl2pkcs7", "-nocrl", "-outform", "DER"]);
        for identity in [&other, &middle] {
            command.arg("-certfile").arg(&identity.certificate);
        }
        succeed(command.arg("-out").arg(directory.join("ca.p7c")))?;
        let index = index(bench, &[(&middle, true), (&other, false)])?;
        revocation_list(bench, &index, &directory.join("list.crl"))?;

        let device = format!("{PERMITTED}    fetch-intermediates: true\n");
        provision(bench, &device, "      revocation: fetched\n")?;
        let revoked = "intermediate Weir lab revoked CA revoked, by its authority's list";
        judged(bench, &below, false, "revoked", Some(revoked))?;
        // Of the leaf itself nobody says anything.
        let nobody = "unknown: the certificate names nobody to ask";
        judged(bench, &good, true, "verified", Some(nobody))?;
        for path in ["/ca.p7c", "/list.crl"] {
            let asked = asked(bench)?;
            anyhow::ensure!(asked.matches(&format!("GET {path}")).count() == 1, "{asked}");
        }
        Ok(())
    });
}
