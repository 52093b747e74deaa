//! The two ends of the wire: a client namespace, and a server namespace with nginx in it.
//!
//! Both ends have an interface called `wire` (a veth end or a tap, made by the wire in use) in one
//! IPv4 network; there is no router. For: real traffic by programs that know nothing of Weir.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::certificates::{Certificates, Identity};
use crate::namespace::Namespace;
use crate::process::{Process, succeed};
use crate::run::Run;

/// Interface of either end, in its namespace.
pub const INTERFACE: &str = "wire";
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
/// Servers of others: client inspection.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
/// Our own servers: server inspection.
pub const OWN_SERVER: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 3);
const CLIENT_MAC: &str = "02:00:00:00:c1:01";
const SERVER_MAC: &str = "02:00:00:00:5e:02";
/// Size of `random.bin`.
pub const DOWNLOAD: usize = 20 << 20;
/// In `malware.txt`; a rule drops responses with it.
pub const MALWARE: &str = "WEIR-LAB-MALWARE-SAMPLE";

pub struct Ends {
    // Dropped in this order: nginx before its namespace.
    nginx: Option<Process>,
    pub client: Namespace,
    pub server: Namespace,
    pub certificates: Certificates,
    pub run: Arc<Run>,
}

impl Ends {
    /// Makes namespaces, certificates and files to serve. The wire then puts an interface into each
    /// namespace and calls [`Ends::connect`].
    pub fn new(run: &Arc<Run>) -> Result<Self> {
        let client = Namespace::create(format!("{}client", run.prefix()))?;
        let server = Namespace::create(format!("{}server", run.prefix()))?;
        let certificates = Certificates::make(&run.path("certificates"))?;
        let ends = Self { nginx: None, client, server, certificates, run: run.clone() };
        ends.make_files()?;
        Ok(ends)
    }

    /// Gives both interfaces their addresses and starts nginx.
    pub fn connect(&mut self) -> Result<()> {
        let client = [CLIENT];
        let server = [SERVER, OWN_SERVER];
        let ends = [
            (&self.client, CLIENT_MAC, client.as_slice()),
            (&self.server, SERVER_MAC, server.as_slice()),
        ];
        for (namespace, mac, addresses) in ends {
            namespace.ip(&["link", "set", INTERFACE, "address", mac])?;
            for address in addresses {
                let address = format!("{address}/24");
                namespace.ip(&["address", "add", &address, "dev", INTERFACE])?;
            }
            namespace.ip(&["link", "set", INTERFACE, "up"])?;
        }
        self.start_nginx()
    }

    /// nginx's access log so far.
    pub fn access_log(&self) -> Result<String> {
        std::fs::read_to_string(self.access_log_path()).context("reading nginx's access log")
    }

    pub fn access_log_path(&self) -> PathBuf {
        self.run.path("nginx-access.log")
    }

    /// A file nginx serves, or one that was uploaded.
    pub fn served(&self, name: &str) -> PathBuf {
        self.run.path("www").join(name)
    }

    /// A TCP connection from the client's namespace.
    pub fn connect_from_client(&self, to: SocketAddr) -> Result<TcpStream> {
        self.client.enter(move || {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(20))
                .with_context(|| format!("connecting to {to}"))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            Ok(stream)
        })
    }

    fn make_files(&self) -> Result<()> {
        std::fs::create_dir_all(self.served("upload"))?;
        for name in ["body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            std::fs::create_dir_all(self.run.path(&format!("nginx-{name}")))?;
        }
        std::fs::write(self.served("index.html"), "a benign page of the lab\n")?;
        std::fs::write(self.served("malware.txt"), format!("before {MALWARE} after\n"))?;
        let mut random = std::fs::File::create(self.served("random.bin"))?;
        let mut bytes = vec![0; DOWNLOAD];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        random.write_all(&bytes)?;
        Ok(())
    }

    fn start_nginx(&mut self) -> Result<()> {
        let configuration = self.run.path("nginx.conf");
        std::fs::write(&configuration, self.nginx_configuration())?;
        let mut command = self.server.command("nginx");
        command.arg("-p").arg(self.run.directory()).arg("-c").arg(&configuration);
        let mut nginx = Process::start("nginx", &mut command, &self.run.path("nginx.log"))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.nginx_listens()? {
            nginx.check()?;
            if Instant::now() > deadline {
                bail!("nginx does not listen after 20 s: see {}", self.run.directory().display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.nginx = Some(nginx);
        Ok(())
    }

    fn nginx_listens(&self) -> Result<bool> {
        let listening = succeed(self.server.command("ss").args(["-Hltn", "sport", "=", ":443"]))?;
        Ok(!listening.trim().is_empty())
    }

    fn nginx_configuration(&self) -> String {
        let file = |name: &str| self.run.path(name).display().to_string();
        let server = |listen: &str, name: &str, identity: &Identity| {
            format!(
                "  server {{\n    listen {listen} ssl;\n    server_name {name};\n    \
                 ssl_certificate {};\n    ssl_certificate_key {};\n    \
                 location /upload/ {{ dav_methods PUT; }}\n  }}\n",
                identity.certificate.display(),
                identity.key.display()
            )
        };
        let others = format!("{SERVER}:443");
        let own = format!("{OWN_SERVER}:443");
        let certificates = &self.certificates;
        let servers = [
            server(&others, "public.example", &certificates.public),
            server(&others, "bank.example", &certificates.bank),
            server(&others, "selfsigned.example", &certificates.self_signed),
            server(&own, "shop.example", &certificates.shop),
            server(&own, "wholesale.example", &certificates.wholesale),
        ];
        format!(
            "user root;\nworker_processes 1;\ndaemon off;\nerror_log {errors} info;\npid {pid};\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n  log_format lab '$remote_addr:$remote_port $server_name \"$request\" \
             $status $bytes_sent';\n  access_log {access} lab;\n  root {root};\n  \
             default_type application/octet-stream;\n  \
             client_max_body_size 64m;\n  client_body_temp_path {body};\n  proxy_temp_path {proxy};\n  \
             fastcgi_temp_path {fastcgi};\n  uwsgi_temp_path {uwsgi};\n  scgi_temp_path {scgi};\n  \
             ssl_protocols TLSv1.2 TLSv1.3;\n{servers}}}\n",
            errors = file("nginx-error.log"),
            pid = file("nginx.pid"),
            access = self.access_log_path().display(),
            root = file("www"),
            body = file("nginx-body"),
            proxy = file("nginx-proxy"),
            fastcgi = file("nginx-fastcgi"),
            uwsgi = file("nginx-uwsgi"),
            scgi = file("nginx-scgi"),
            servers = servers.concat(),
        )
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(nginx) = &mut self.nginx {
            nginx.stop(Signal::SIGQUIT);
        }
    }
}

/// SHA-256 of a file, by coreutils.
pub fn sha256(path: &std::path::Path) -> Result<String> {
    let text = succeed(Command::new("sha256sum").arg("--").arg(path))?;
    Ok(text.split_whitespace().next().context("sha256sum printed nothing")?.to_owned())
}
