//! The machine of ends from within: this program as PID 1.
//!
//! It makes two namespaces with a network card each and then does what lines on the serial console
//! say: `run CASE` makes the case's interfaces, carries two conversations through them and answers
//! with `case NAME: ...` in one line; `off` ends the machine. Fails with a line `failed: WHY`.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use rustls::{ClientConfig, ServerConfig};

use super::case::{Case, Side};
use super::modules;
use crate::certificates::Identity;
use crate::ends::INTERFACE;
use crate::exchange::{self, Plan, Served};
use crate::namespace::{Namespace, ip};
use crate::tls::{self, Hello};

/// Certificates, in the machine.
pub const CERTIFICATES: &str = "/lab";
/// What comes before each answer.
pub const ANSWER: &str = "case ";
/// The line that says that commands are waited for.
pub const READY: &str = "ends: ready";
/// Link-layer addresses of the two cards.
pub const CLIENT_MAC: &str = "02:00:00:00:c1:02";
pub const SERVER_MAC: &str = "02:00:00:00:5e:03";
/// What a conversation carries in each direction: several windows full.
const BYTES: u64 = 400_000;
const ROUNDS: u32 = 3;
/// Emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Never returns to the kernel but by turning the machine off.
pub fn run() -> Result<()> {
    let result = serve();
    if let Err(error) = &result {
        let _ = say(&format!("failed: {error:#}"));
    }
    nix::unistd::sync();
    reboot(RebootMode::RB_POWER_OFF)?;
    result
}

fn serve() -> Result<()> {
    mount_all()?;
    let console = OpenOptions::new().read(true).write(true).open("/dev/ttyS0")?;
    modules::load_all()?;
    let ends = Ends::make()?;
    say(READY)?;
    for line in BufReader::new(console).lines() {
        let line = line?;
        match line.trim().split_once(' ') {
            Some(("run", name)) => {
                let case = Case::named(name).with_context(|| format!("no case {name}"))?;
                match ends.run(case) {
                    Ok(result) => say(&format!("{ANSWER}{name}: {result}"))?,
                    Err(error) => say(&format!("{ANSWER}{name}: failed: {error:#}"))?,
                }
            }
            None if line.trim() == "off" => return Ok(()),
            _ => bail!("not a command: {line:?}"),
        }
    }
    Ok(())
}

/// A line on the serial console.
fn say(line: &str) -> Result<()> {
    let mut console = OpenOptions::new().write(true).open("/dev/ttyS0")?;
    // One write: the kernel's own lines do not come between.
    console.write_all(format!("\n{line}\n").as_bytes())?;
    Ok(())
}

fn mount_all() -> Result<()> {
    for (kind, at) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")]
    {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {at}"))?;
    }
    // Where ip(8) may look for namespaces.
    std::fs::create_dir_all("/var")?;
    std::os::unix::fs::symlink("/run", "/var/run")?;
    Ok(())
}

struct Ends {
    client: Namespace,
    server: Namespace,
    large: Arc<ClientConfig>,
    small: Arc<ClientConfig>,
    answering: Arc<ServerConfig>,
    own: Vec<u8>,
}

impl Ends {
    fn make() -> Result<Self> {
        let client = Namespace::create_with_ipv6("client".into())?;
        let server = Namespace::create_with_ipv6("server".into())?;
        for (namespace, mac) in [(&client, CLIENT_MAC), (&server, SERVER_MAC)] {
            let card = card(mac)?;
            ip(&["link", "set", &card, "netns", namespace.name(), "name", INTERFACE])?;
            namespace.ip(&["link", "set", INTERFACE, "up"])?;
        }
        let directory = Path::new(CERTIFICATES);
        let identity = |name: &str| Identity {
            certificate: directory.join(format!("{name}.crt")),
            key: directory.join(format!("{name}.key")),
        };
        let (public, bank) = (identity("public"), identity("bank"));
        let trust = directory.join("client-trust.pem");
        Ok(Self {
            client,
            server,
            large: tls::client(&trust, Hello::Large)?,
            small: tls::client(&trust, Hello::Small)?,
            answering: tls::server(&[("public.example", &public), ("bank.example", &bank)])?,
            own: tls::own(&public)?.to_vec(),
        })
    }

    /// The case's interfaces made, both conversations had, the interfaces removed.
    fn run(&self, case: &Case) -> Result<String> {
        let sides = [(&self.client, Side::Client), (&self.server, Side::Server)];
        for (namespace, side) in sides {
            for command in case.up(side) {
                let words: Vec<&str> = command.split(' ').collect();
                namespace.ip(&words).with_context(|| format!("ip {command}"))?;
            }
        }
        let result = self.converse(case);
        for (namespace, _) in sides {
            for command in case.down() {
                let words: Vec<&str> = command.split(' ').collect();
                namespace.ip(&words).with_context(|| format!("ip {command}"))?;
            }
        }
        result
    }

    fn converse(&self, case: &Case) -> Result<String> {
        let address = SocketAddr::from((case.address(Side::Server), 443));
        let listener = self.server.enter(|| Ok(TcpListener::bind(address)?))?;
        let mut shown = Vec::new();
        for (number, (host, config)) in
            [("public.example", &self.large), ("bank.example", &self.small)].into_iter().enumerate()
        {
            let plan = Plan {
                seed: u64::from(case.number) << 8 | number as u64,
                rounds: ROUNDS,
                up: BYTES,
                down: BYTES,
                pause: Duration::ZERO,
            };
            let inspected = self
                .conversation(&listener, address.ip(), config, host, &plan)
                .with_context(|| host.to_owned())?;
            let not = if inspected { "" } else { "not " };
            shown.push(format!("{host} {not}inspected"));
        }
        Ok(shown.join(", "))
    }

    /// Whether the certificate shown was not the server's own.
    fn conversation(
        &self,
        listener: &TcpListener,
        address: IpAddr,
        config: &Arc<ClientConfig>,
        host: &str,
        plan: &Plan,
    ) -> Result<bool> {
        let port = listener.local_addr()?.port();
        std::thread::scope(|scope| {
            let server = scope.spawn(|| -> Result<Served> {
                let (stream, _) = listener.accept()?;
                exchange::prepare(&stream, PATIENCE)?;
                Ok(exchange::answer(tls::accept(stream, &self.answering)?))
            });
            let asked = self.client.enter(|| {
                let to = SocketAddr::from((address, port));
                let stream = TcpStream::connect_timeout(&to, PATIENCE).context("connecting")?;
                exchange::prepare(&stream, PATIENCE)?;
                let (mut stream, shown) =
                    tls::connect(stream, config, host).context("TLS handshake")?;
                exchange::ask(&mut stream, host, plan, |_| {})
                    .map_err(|ended| anyhow::anyhow!("the client's end: {ended:?}"))?;
                stream.conn.send_close_notify();
                let _ = stream.conn.complete_io(&mut stream.sock);
                Ok(shown.to_vec())
            });
            if asked.is_err() {
                // The server may still wait for a connection.
                let _ = self
                    .server
                    .enter(|| Ok(TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?));
            }
            let served = match server.join() {
                Ok(served) => served?,
                Err(_) => bail!("the server's thread panicked"),
            };
            let shown = asked?;
            ensure!(
                served.ended.is_none() && served.rounds == plan.rounds,
                "the server's end: {served:?}"
            );
            Ok(host != "bank.example" && shown != self.own)
        })
    }
}

/// The network card with this address; waits for its driver.
fn card(mac: &str) -> Result<String> {
    for _ in 0..200 {
        for entry in std::fs::read_dir("/sys/class/net")?.flatten() {
            let mut address = String::new();
            if let Ok(mut file) = File::open(entry.path().join("address")) {
                std::io::Read::read_to_string(&mut file, &mut address)?;
            }
            if address.trim() == mac {
                return Ok(entry.file_name().to_string_lossy().into_owned());
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("no network card {mac}")
}
