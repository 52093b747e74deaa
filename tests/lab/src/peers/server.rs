//! Servers: each listens on ports of [`SERVER`], for one version and suite a port, and echoes lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::client::openssl_options;
use super::conversation::Conversation;
use super::{Cell, EncryptThenMac, Peer, gnutls_priority, interpreter};
use crate::certificates::Identity;
use crate::ends::{Ends, SERVER};
use crate::process::{Process, succeed};

/// Seconds until all listen.
const LIMIT: Duration = Duration::from_secs(60);

/// A port of one program.
#[derive(Clone, Debug)]
pub struct Listen {
    pub peer: Peer,
    pub port: u16,
    /// `None`: any version and suite, however weak; of [`Peer::Python`] only.
    pub cell: Option<Cell>,
    /// What it has. Of each kind of key one at most.
    pub identities: Vec<Identity>,
}

/// Servers that run as long as this lives.
pub struct Servers {
    _processes: Vec<Process>,
    _stay: Vec<Conversation>,
}

impl Servers {
    /// Returns when all listen.
    pub fn start(ends: &Ends, ports: &[Listen], encrypt_then_mac: EncryptThenMac) -> Result<Self> {
        let (mut processes, mut lines) = (Vec::new(), BTreeMap::<Peer, String>::new());
        for Listen { peer, port, cell, identities } in ports {
            let mut command = match (peer, cell) {
                (Peer::OpenSsl, Some(cell)) => {
                    let mut command = ends.server.command("openssl");
                    command.args(["s_server", "-rev", "-accept", &format!("{SERVER}:{port}")]);
                    command.args(openssl_options(*cell));
                    let options = [("-cert", "-key"), ("-dcert", "-dkey")];
                    for ((certificate, key), identity) in options.iter().zip(identities) {
                        command.arg(certificate).arg(&identity.certificate);
                        command.arg(key).arg(&identity.key);
                    }
                    command
                }
                (Peer::GnuTls, Some(cell)) => {
                    let mut command = ends.server.command("gnutls-serv");
                    command.args(["--echo", "--quiet", "--disable-client-cert"]);
                    command.args(["--port", &port.to_string()]);
                    command.args(["--priority", &gnutls_priority(*cell)]);
                    for identity in identities {
                        command.arg("--x509certfile").arg(&identity.certificate);
                        command.arg("--x509keyfile").arg(&identity.key);
                    }
                    command
                }
                _ => {
                    let told = match cell {
                        Some(cell) => format!("{} {}", cell.version_code(), peer.suite(cell.suite)),
                        None => "- -".into(),
                    };
                    let lines = lines.entry(*peer).or_default();
                    write!(lines, "{port} {told}")?;
                    for Identity { certificate, key } in identities {
                        write!(lines, " {} {}", certificate.display(), key.display())?;
                    }
                    lines.push('\n');
                    continue;
                }
            };
            let name = format!("{}-{port}", peer.name());
            let log = ends.run.path(&format!("{}-server.log", peer.name()));
            processes.push(Process::start(&name, &mut command, &log)?);
        }
        let mut stay = Vec::new();
        for (peer, lines) in lines {
            let mut command = interpreter(peer, &ends.server)?;
            command.arg("server").arg(SERVER.to_string());
            if peer == Peer::TlsLite {
                command.arg(encrypt_then_mac.word());
            }
            let log = ends.run.path(&format!("{}-server.log", peer.name()));
            let mut server = Conversation::start(&mut command, &log)?;
            server.say(&format!("{lines}\n"))?;
            stay.push(server);
        }
        for server in &mut stay {
            let answer = server.answer()?;
            ensure!(answer == "ready", "{answer}");
        }
        wait_for(ends, ports, &mut processes)?;
        Ok(Self { _processes: processes, _stay: stay })
    }
}

fn wait_for(ends: &Ends, ports: &[Listen], processes: &mut [Process]) -> Result<()> {
    let wanted: BTreeSet<u16> = ports.iter().map(|listen| listen.port).collect();
    let deadline = Instant::now() + LIMIT;
    loop {
        let shown = succeed(ends.server.command("ss").args(["-Hltn"]))?;
        let listening: BTreeSet<u16> = shown
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':')?.1.parse().ok())
            .collect();
        let missing: Vec<&u16> = wanted.difference(&listening).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for process in processes.iter_mut() {
            process.check()?;
        }
        ensure!(Instant::now() < deadline, "nobody listens on {missing:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
