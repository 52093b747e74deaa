//! What a server staples: judged where its certificate is forged, passed on where it is our own.

use std::path::PathBuf;
use std::process::Command;

use weir_lab::certificates::Identity;
use weir_lab::ends::{Ends, OWN_SERVER};
use weir_lab::fetch::Fetch;
use weir_lab::process::{finish, succeed};

use super::authorities::provision;
use super::{OTHER, configure, passes, record_of, serve, told};

/// What the lab's public authority says of a certificate, as a file of OCSP. `status`: `V` or `R`,
/// as in the index of openssl-ca(1).
fn ocsp_response(ends: &Ends, of: &Identity, status: &str) -> anyhow::Result<PathBuf> {
    ocsp_response_by(ends, &ends.certificates.public_ca, of, status)
}

/// The same, signed by anybody.
fn ocsp_response_by(
    ends: &Ends,
    signer: &Identity,
    of: &Identity,
    status: &str,
) -> anyhow::Result<PathBuf> {
    let serial = succeed(
        Command::new("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(&of.certificate),
    )?;
    let serial = serial.trim().trim_start_matches("serial=");
    let revoked = if status == "R" { "260101000000Z" } else { "" };
    let index = ends.run.path("ocsp-index");
    std::fs::write(
        &index,
        format!("{status}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN=x\n"),
    )?;
    let (response, authority) = (ends.run.path("ocsp.der"), &ends.certificates.public_ca);
    let mut command = Command::new("openssl");
    command.args(["ocsp", "-ndays", "7", "-index"]).arg(&index);
    for option in ["-CA", "-issuer"] {
        command.arg(option).arg(&authority.certificate);
    }
    command.arg("-rsigner").arg(&signer.certificate).arg("-rkey").arg(&signer.key);
    command.arg("-cert").arg(&of.certificate);
    succeed(command.arg("-respout").arg(&response))?;
    Ok(response)
}

#[test]
fn a_certificate_whose_server_staples_that_it_is_revoked_is_not_vouched_for() {
    passes(|bench, _| {
        let public = bench.ends.certificates.public.clone();
        for (status, trusted) in [("V", true), ("R", false)] {
            let response = ocsp_response(&bench.ends, &public, status)?;
            let mut command = bench.ends.server.command("openssl");
            command.args(["s_server", "-www", "-accept", &format!("{OTHER}:443")]);
            command.arg("-cert").arg(&public.certificate).arg("-key").arg(&public.key);
            let server = serve(&bench.ends, status, command.arg("-status_file").arg(&response))?;
            let fetched = Fetch::new("public.example", "/").at(OTHER).run(&bench.ends)?;
            assert_eq!(fetched.exit == 0, trusted, "{status}: {}", fetched.messages);
            let (_, record) = record_of(bench, &fetched)?;
            let verdict = if trusted { "verified" } else { "revoked" };
            assert!(record.contains(&format!("Verdict                 {verdict}\n")), "{record}");
            drop(server);
        }
        Ok(())
    });
}

/// Its word against itself needs no signature of its authority's; one for itself would.
#[test]
fn a_server_that_staples_that_it_is_revoked_is_believed_whoever_signed_it() {
    passes(|bench, _| {
        let certificates = bench.ends.certificates.clone();
        let (public, anybody) = (&certificates.public, &certificates.self_signed);
        provision(bench, "", "      revocation: fetched\n")?;
        for (status, verdict, revocation, counted) in [
            ("V", "verified", "unknown: the answer is not believed: ", 0),
            ("R", "revoked", "revoked, by what the server staples", 1),
        ] {
            let response = ocsp_response_by(&bench.ends, anybody, public, status)?;
            let mut command = bench.ends.server.command("openssl");
            command.args(["s_server", "-www", "-accept", &format!("{OTHER}:443")]);
            command.arg("-cert").arg(&public.certificate).arg("-key").arg(&public.key);
            let server = serve(&bench.ends, status, command.arg("-status_file").arg(&response))?;
            let fetched = Fetch::new("public.example", "/").at(OTHER).run(&bench.ends)?;
            assert_eq!(fetched.exit == 0, status == "V", "{status}: {}", fetched.messages);
            let (_, record) = record_of(bench, &fetched)?;
            for line in [
                format!("Verdict                 {verdict}\n"),
                format!("Revocation              {revocation}"),
            ] {
                assert!(record.contains(&line), "{line:?}: {record}");
            }
            let counted = format!("{counted}  certificates found revoked");
            told(bench, "show tls-inspection", &counted)?;
            drop(server);
        }
        Ok(())
    });
}

#[test]
fn what_a_server_of_ours_staples_is_passed_to_clients_that_ask() {
    passes(|bench, _| {
        let servers = format!("destinations: [\"{OWN_SERVER}/32\"");
        configure(bench, &servers, &format!("{servers}, \"{OTHER}/32\""))?;
        let shop = bench.ends.certificates.shop.clone();
        let response = ocsp_response(&bench.ends, &shop, "V")?;
        let mut command = bench.ends.server.command("openssl");
        command.args(["s_server", "-www", "-accept", &format!("{OTHER}:443")]);
        command.arg("-cert").arg(&shop.certificate).arg("-key").arg(&shop.key);
        let _server = serve(&bench.ends, "stapling", command.arg("-status_file").arg(&response))?;
        let request = bench.ends.run.path("request");
        std::fs::write(&request, b"GET / HTTP/1.0\r\n\r\n")?;
        // The second client has a handshake of its own, but the session with the server is resumed.
        for _ in 0..2 {
            let mut client = bench.ends.client.command("sh");
            client.args(["-c", "exec openssl s_client \"$@\" <\"$0\""]).arg(&request);
            client.args(["-connect", &format!("{OTHER}:443"), "-servername", "shop.example"]);
            let shown = finish(client.args(["-ign_eof", "-status"]))?.text();
            assert!(shown.contains("HTTP/1.0 200"), "{shown}");
            assert!(shown.contains("OCSP Response Status: successful"), "{shown}");
        }
        told(bench, "show sessions 3", "decrypted and inspected")?;
        told(bench, "show sessions detail", ", resumed\n").map(drop)
    });
}
