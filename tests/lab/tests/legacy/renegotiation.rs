//! Servers that ask for a client certificate by renegotiation, as some do for some of their pages only:
//! refused on either stack, and bypassed from then on where the proxy says so.

use std::fs::File;
use std::io::Write as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use weir_lab::bench::Bench;
use weir_lab::certificates::Identity;
use weir_lab::ends::INTERFACE;
use weir_lab::process::succeed;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

use super::settings::recorded;
use super::{OLD, certified, changed, counted, passes};

const NAME: &str = "asks.example";

/// A program of openssl's with its standard input open; ends with this value.
struct Openssl(Child);

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Openssl {
    fn says(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.0.stdin.as_mut().unwrap();
        Ok(input.write_all(format!("{line}\n").as_bytes())?)
    }
}

/// Asks again until it holds.
fn within(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds()? {
        anyhow::ensure!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A session in whose middle the server asks to renegotiate, or (`false`) in which nothing is said but a line.
fn session(
    bench: &Bench<Lab>,
    identity: &Identity,
    arguments: &[&str],
    renegotiates: bool,
) -> anyhow::Result<()> {
    let ends = &bench.ends;
    ends.server.ip(&["address", "replace", &format!("{OLD}/24"), "dev", INTERFACE])?;
    let (place, log) = (format!("{OLD}:443"), ends.run.path("asks.log"));
    let mut command = ends.server.command("openssl");
    command.args(["s_server", "-accept", &place]).args(arguments);
    command.arg("-cert").arg(&identity.certificate).arg("-key").arg(&identity.key);
    command.stdin(Stdio::piped()).stdout(File::create(&log)?).stderr(Stdio::null());
    let mut server = Openssl(command.spawn()?);
    within("it does not listen", || {
        Ok(succeed(ends.server.command("ss").args(["-Hltn"]))?.contains(&place))
    })?;
    let mut command = ends.client.command("openssl");
    command.args(["s_client", "-connect", &place, "-servername", NAME, "-quiet"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = Openssl(command.spawn()?);
    client.says("a line of the client's")?;
    within("the line does not arrive", || {
        Ok(std::fs::read_to_string(&log)?.contains("a line of the client's"))
    })?;
    if renegotiates {
        // "Renegotiate and request a client certificate": it ends the session that does not.
        server.says("R")?;
        within("the session does not end", || Ok(client.0.try_wait()?.is_some()))?;
    }
    Ok(())
}

#[test]
fn server_that_asks_to_renegotiate_is_refused_and_bypassed_where_requests_for_certificates_are() {
    passes(|bench| {
        let identity = certified(&bench.ends, NAME, ["RSA", "rsa_keygen_bits:2048"])?;
        let modern = ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"];
        let legacy = ["-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0"];
        let name = format!("Server name             {NAME}\n");
        let inspected = "Outcome                 decrypted and inspected\n";
        let refused = "Renegotiation           asked for by the server, and refused\n";
        let bypassed = "bypassed (learnt that the server asks for";
        for (count, stack) in [&modern[..], &legacy].into_iter().enumerate() {
            let refusals = 3 * u64::try_from(count)?;
            let version = if count == 0 { "TLS 1.2 " } else { "TLS 1.1 " };
            let leg = format!("TLS with the server     {version}");
            // As it is by default.
            let name_of =
                |generation: usize| format!("name: generation{count}{generation}\n      layer");
            let from = "name: lab\n      layer";
            bench.provision(&changed(bench, from, &name_of(0))?)?;
            for time in 0..2 {
                session(bench, &identity, stack, true)?;
                recorded(bench, &[&name, inspected, refused, &leg])?;
                counted(bench, "renegotiations refused to servers", refusals + time + 1)?;
            }
            let logging = "logging: true\n";
            let bypass = format!("{logging}      on-client-certificate-request: bypass\n");
            bench.provision(&changed(bench, logging, &bypass)?)?;
            session(bench, &identity, stack, true)?;
            counted(bench, "renegotiations refused to servers", refusals + 3)?;
            session(bench, &identity, stack, false)?;
            recorded(bench, &[&name, bypassed])?;
            bench.wire.console("clear learnt-bypasses")?;
        }
        Ok(())
    });
}
