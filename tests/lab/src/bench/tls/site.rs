//! Where it is measured: Weir's processes on a segment between two ends, and beside it the ways that
//! do not lead through it: a plain bridge, and a namespace in the middle where other proxies run.
//!
//! Every way ends at the same nginx. All namespaces, the engine's too, have the same congestion
//! control. Everything goes with the run.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::CertificateDer;

use crate::bench::Bench;
use crate::certificates::{Identity, Maker, P256, RSA_2048};
use crate::document;
use crate::ends::INTERFACE;
use crate::namespace::{Namespace, ip};
use crate::process::{Process, succeed};
use crate::tls::own;
use crate::wire::lab::Lab;
use crate::wire::repository;

/// nginx's ports (tests/bench/peers/nginx.conf).
pub const P256_PORT: u16 = 7443;
pub const RSA_PORT: u16 = 7444;
pub const OLD_PORT: u16 = 7445;
pub const FIRST_PORT: u16 = 7446;
/// nginx by Weir's segment: as a server of others, and as one of our own.
pub const OTHERS: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 6);
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 7);
/// nginx by the plain bridge.
pub const DIRECT: Ipv4Addr = Ipv4Addr::new(10, 66, 5, 2);
/// Where the other proxies listen, and nginx as they reach it.
pub const PROXY: Ipv4Addr = Ipv4Addr::new(10, 66, 3, 1);
pub const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 66, 4, 2);
/// What nginx's certificates name.
pub const NAME: &str = "bench.example";
/// Not to be decrypted.
pub const EXCEPTED: &str = "excepted.example";
/// Descriptors of a process: thousands of idle sessions, two each in the engine. Where not even root
/// gets them, the limit stays as it is.
const DESCRIPTORS: u64 = 65_536;
/// What a process may need besides.
const BESIDES: u64 = 1000;
/// How long a program may take to listen.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// What nginx shows by port, and what proxies with a certificate of their own show instead.
pub struct Identities {
    pub p256: Identity,
    pub rsa: Identity,
    pub front_p256: Identity,
    pub front_rsa: Identity,
}

pub struct Site {
    // Dropped in this order: programs, then their namespaces.
    nginx: Process,
    pub bench: Bench<Lab>,
    pub middle: Namespace,
    pub identities: Identities,
}

impl Site {
    pub fn new() -> Result<Self> {
        raise_descriptors()?;
        let bench = Bench::start(Lab::start)?;
        let identities = make_identities(&bench)?;
        let middle = lay_other_ways(&bench)?;
        let nginx = start_nginx(&bench)?;
        let site = Self { nginx, bench, middle, identities };
        site.configure()?;
        Ok(site)
    }

    /// Fails where something ended that should run.
    pub fn check(&mut self) -> Result<()> {
        self.nginx.check()
    }

    pub fn client(&self) -> PathBuf {
        Path::new("/run/netns").join(self.bench.ends.client.name())
    }

    /// The certificate that nginx shows at a port.
    pub fn own(&self, port: u16) -> Result<CertificateDer<'static>> {
        own(if port == RSA_PORT { &self.identities.rsa } else { &self.identities.p256 })
    }

    /// The one that stands before it, where a proxy has one of its own.
    pub fn front(&self, port: u16) -> Result<CertificateDer<'static>> {
        let identities = &self.identities;
        own(if port == RSA_PORT { &identities.front_rsa } else { &identities.front_p256 })
    }

    /// Filters off; and no load makes the engine leave flows to the bridge, since the load of the
    /// ends is on the same processors.
    fn configure(&self) -> Result<()> {
        let certificates = &self.bench.ends.certificates;
        let mut text = format!(
            r#"weir:
  device:
    client-inspection: true
    server-inspection: true
    max-concurrent-sessions: 50000
    health:
      heartbeat-timeout: 60000
      overload-lag: 60000
  segments:
    - id: 1
      name: bench
      layer-2-fallback: permit-all
  virtual-segments:
    - name: all
      profile: default
  profiles:
    - name: default
      server-policies:
        - name: p256
          server-proxy: p256
        - name: rsa
          server-proxy: rsa
      client-policies:
        - name: others
          client-proxy: others
          decryption-policy: excepted
          trust-store: bench
  decryption-policies:
    - name: excepted
      domains-not-to-decrypt: ["{EXCEPTED}"]
  trust-stores:
    - name: bench
      default-ca-package: false
      certificates:
        - |
"#
        );
        document::block(&mut text, 10, &certificates.public_ca.certificate_pem()?);
        let ports = format!("[\"443\", \"{P256_PORT}-{FIRST_PORT}\"]");
        text += &format!(
            "  client-proxies:\n    - name: others\n      detection-ports: {ports}\n      \
             service: http\n      signing-certificate:\n"
        );
        document::identity(&mut text, 8, &certificates.signing_ca)?;
        text += "  server-proxies:\n";
        let ours = [
            ("p256", P256_PORT, &self.identities.front_p256),
            ("rsa", RSA_PORT, &self.identities.front_rsa),
        ];
        for (name, port, identity) in ours {
            text += &format!(
                "    - name: {name}\n      destinations: [\"{OURS}/32\"]\n      \
                 detection-ports: [\"{port}\"]\n      service: http\n      certificates:\n        \
                 -\n"
            );
            document::identity(&mut text, 10, identity)?;
        }
        self.bench.provision(&text)
    }
}

/// How many sessions the engine has descriptors for.
pub fn most_sessions() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(usize::try_from(hard.saturating_sub(BESIDES) / 2)?)
}

/// For all processes that are started.
fn raise_descriptors() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < DESCRIPTORS && setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).is_ok() {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of open files")
}

fn make_identities(bench: &Bench<Lab>) -> Result<Identities> {
    let directory = bench.run.path("certificates");
    let maker = Maker { directory: &directory };
    let by = &bench.ends.certificates.public_ca;
    let server = |file: &str, algorithm| maker.server(file, algorithm, &[NAME, EXCEPTED], by);
    let identities = Identities {
        p256: server("p256", P256)?,
        rsa: server("rsa", RSA_2048)?,
        front_p256: server("front-p256", P256)?,
        front_rsa: server("front-rsa", RSA_2048)?,
    };
    server("first", P256)?;
    // Of one's own making: RSA key exchange needs another key usage than the others have.
    maker.self_signed("old", RSA_2048, "old.example")?;
    // haproxy and squid want certificate and key in one file.
    let signing = &bench.ends.certificates.signing_ca;
    for (file, identity) in [
        ("front-p256.pem", &identities.front_p256),
        ("front-rsa.pem", &identities.front_rsa),
        ("signing-ca.pem", signing),
    ] {
        let both = identity.certificate_pem()? + &identity.key_pem()?;
        std::fs::write(directory.join(file), both)?;
    }
    Ok(identities)
}

/// The plain bridge and the middle, each with a link to both ends.
fn lay_other_ways(bench: &Bench<Lab>) -> Result<Namespace> {
    let ends = &bench.ends;
    let middle = Namespace::create(format!("{}middle", bench.run.prefix()))?;
    for (here, there, end, address) in [
        ("m3", "proxy", &ends.client, "10.66.3.2/24"),
        ("m4", "proxy", &ends.server, "10.66.4.2/24"),
        ("m5", "direct", &ends.client, "10.66.5.1/24"),
        ("m6", "direct", &ends.server, "10.66.5.2/24"),
    ] {
        middle.ip(&[
            "link",
            "add",
            "name",
            here,
            "type",
            "veth",
            "peer",
            "name",
            there,
            "netns",
            end.name(),
        ])?;
        end.ip(&["addr", "add", address, "dev", there])?;
        end.ip(&["link", "set", there, "up"])?;
        middle.ip(&["link", "set", here, "up"])?;
    }
    middle.ip(&["addr", "add", "10.66.3.1/24", "dev", "m3"])?;
    middle.ip(&["addr", "add", "10.66.4.1/24", "dev", "m4"])?;
    middle.ip(&["link", "add", "name", "plain", "type", "bridge"])?;
    for port in ["m5", "m6"] {
        middle.ip(&["link", "set", port, "master", "plain"])?;
    }
    middle.ip(&["link", "set", "plain", "up"])?;
    for address in [OTHERS, OURS] {
        ends.server.ip(&["addr", "add", &format!("{address}/24"), "dev", INTERFACE])?;
    }
    let engine = format!("{}engine-1", bench.run.prefix());
    for namespace in [ends.client.name(), ends.server.name(), middle.name(), &engine] {
        for setting in [
            // Every kernel lets every namespace have it; a machine's own may be BBR, whose pacing
            // costs more than what is measured.
            "net.ipv4.tcp_congestion_control=reno",
            "net.ipv4.ip_local_port_range=1024 65535",
            // Port numbers come around within a round.
            "net.ipv4.tcp_max_tw_buckets=0",
            "net.core.somaxconn=4096",
        ] {
            ip(&["netns", "exec", namespace, "sysctl", "-qw", setting])?;
        }
    }
    Ok(middle)
}

fn start_nginx(bench: &Bench<Lab>) -> Result<Process> {
    let ends = &bench.ends;
    std::fs::write(ends.served("small"), "small\n")?;
    std::fs::write(ends.served("1k"), [b'k'; 1 << 10])?;
    std::fs::write(ends.served("10m"), vec![b'm'; 10_000_000])?;
    let configuration = configuration(bench, "nginx.conf", &[])?;
    let mut command = ends.server.command("nginx");
    command.arg("-p").arg(bench.run.directory()).arg("-c").arg(&configuration);
    let mut nginx = Process::start("nginx", &mut command, &bench.run.path("bench-nginx.log"))?;
    for port in [P256_PORT, FIRST_PORT] {
        wait_until_it_listens(&ends.server, &mut nginx, port)?;
    }
    Ok(nginx)
}

/// A committed file with its blanks filled in, among the run's own; its path.
pub fn configuration(bench: &Bench<Lab>, name: &str, blanks: &[(&str, String)]) -> Result<PathBuf> {
    let text = filled_in(bench, name, blanks)?;
    let path = bench.run.path(&format!("bench-{name}"));
    std::fs::write(&path, text)?;
    Ok(path)
}

pub fn filled_in(bench: &Bench<Lab>, name: &str, blanks: &[(&str, String)]) -> Result<String> {
    let path = repository().join("tests/bench/peers").join(name);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let directory = bench.run.directory().display().to_string();
    let text = text.replace("@DIRECTORY@", &directory);
    Ok(blanks.iter().fold(text, |text, (blank, value)| text.replace(blank, value)))
}

pub fn wait_until_it_listens(at: &Namespace, process: &mut Process, port: u16) -> Result<()> {
    let deadline = Instant::now() + STARTS_WITHIN;
    loop {
        let listening =
            succeed(at.command("ss").args(["-Hltn", "sport", "=", &format!(":{port}")]))?;
        if !listening.trim().is_empty() {
            return Ok(());
        }
        process.check()?;
        ensure!(Instant::now() < deadline, "nobody listens at port {port}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `address:port`.
pub fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}
