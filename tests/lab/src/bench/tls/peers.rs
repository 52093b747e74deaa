//! The proxies that Weir is compared with, from Debian's packages, with the configurations in
//! tests/bench/peers.
//!
//! Fails where one that is installed does not start; one that is not installed is left out, and the
//! reader is told.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use super::Way;
use super::site::{
    BEHIND, NAME, P256_PORT, RSA_PORT, Site, configuration, filled_in, wait_until_it_listens,
};
use crate::process::{Process, succeed};

/// sslsplit's ports are these many above nginx's.
pub const SSLSPLIT_ABOVE: u16 = 1000;
pub const MITMPROXY_ABOVE: u16 = 2000;
pub const SQUID_PORT: u16 = 3128;
const SQUIDS_HELPER: &str = "/usr/lib/squid/security_file_certgen";

/// One that runs.
pub struct Peer {
    pub way: Way,
    pub version: String,
    processes: Vec<Process>,
}

impl Peer {
    pub fn pids(&self) -> Vec<Pid> {
        self.processes.iter().map(Process::pid).collect()
    }

    pub fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }
}

/// All that are installed.
pub fn start(site: &Site, told: impl Fn(&str)) -> Result<Vec<Peer>> {
    type Start = fn(&Site) -> Result<Vec<Process>>;
    let all: [(Way, &str, &[&str], Start); 4] = [
        (Way::Haproxy, "haproxy", &["-v"], haproxy),
        (Way::Sslsplit, "sslsplit", &["-V"], sslsplit),
        (Way::Squid, "squid", &["-v"], squid),
        (Way::Mitmproxy, "mitmdump", &["--version"], mitmproxy),
    ];
    let mut peers = Vec::new();
    for (way, program, version, start) in all {
        let Ok(output) = Command::new(program).args(version).output() else {
            told(&format!("{program} is not installed: left out"));
            continue;
        };
        let text = [output.stdout, output.stderr].concat();
        let version = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned();
        let processes = start(site).with_context(|| format!("starting {program}"))?;
        told(&version);
        peers.push(Peer { way, version, processes });
    }
    Ok(peers)
}

fn haproxy(site: &Site) -> Result<Vec<Process>> {
    let file = configuration(&site.bench, "haproxy.cfg", &[])?;
    let mut command = site.middle.command("haproxy");
    command.arg("-db").arg("-f").arg(file);
    started(site, "haproxy", &mut command, P256_PORT)
}

fn sslsplit(site: &Site) -> Result<Vec<Process>> {
    let mut command = site.middle.command("sslsplit");
    command.args(arguments(&filled_in(&site.bench, "sslsplit.arguments", &[])?));
    started(site, "sslsplit", &mut command, P256_PORT + SSLSPLIT_ABOVE)
}

fn squid(site: &Site) -> Result<Vec<Process>> {
    let file = configuration(&site.bench, "squid.conf", &[])?;
    // Its helper's store, and its own log: it gives up root for this user.
    let run = &site.bench.run;
    let store = run.path("squid-certificates");
    succeed(Command::new(SQUIDS_HELPER).args(["-c", "-s"]).arg(&store).args(["-M", "16MB"]))?;
    let log = run.path("squid-cache.log");
    std::fs::write(&log, "")?;
    std::fs::write(run.path("squid-hosts"), format!("{BEHIND} {NAME}\n"))?;
    succeed(Command::new("chown").args(["-R", "proxy:proxy"]).args([&store, &log]))?;
    let mut command = site.middle.command("squid");
    command.arg("-N").arg("-f").arg(file);
    started(site, "squid", &mut command, SQUID_PORT)
}

/// One for each of nginx's ports: it has one server.
fn mitmproxy(site: &Site) -> Result<Vec<Process>> {
    let own = site.bench.run.path("mitmproxy");
    std::fs::create_dir_all(&own)?;
    let signing = &site.bench.ends.certificates.signing_ca;
    let both = signing.key_pem()? + &signing.certificate_pem()?;
    std::fs::write(own.join("mitmproxy-ca.pem"), both)?;
    let mut processes = Vec::new();
    for port in [P256_PORT, RSA_PORT] {
        let at = port + MITMPROXY_ABOVE;
        let blanks = [("@SERVER@", format!("{BEHIND}:{port}")), ("@PORT@", at.to_string())];
        let mut command = site.middle.command("mitmdump");
        command.args(arguments(&filled_in(&site.bench, "mitmdump.arguments", &blanks)?));
        processes.extend(started(site, &format!("mitmdump-{port}"), &mut command, at)?);
    }
    Ok(processes)
}

fn started(site: &Site, name: &str, command: &mut Command, port: u16) -> Result<Vec<Process>> {
    let log = site.bench.run.path(&format!("{name}.log"));
    let mut process = Process::start(name, command.current_dir(Path::new("/")), &log)?;
    wait_until_it_listens(&site.middle, &mut process, port)?;
    Ok(vec![process])
}

/// One a line, without comments.
fn arguments(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}
