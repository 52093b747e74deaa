//! Requests by curl from the client's namespace, and what curl saw.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::certificates::{self, Seen};
use crate::ends::{Ends, OWN_SERVER, SERVER};
use crate::process::finish;

/// After the body: what curl's `--write-out` says, then the chain in PEM.
const WRITE_OUT: &str = "code=%{http_code} port=%{local_port} version=%{http_version}\\n%{certs}";

/// A request to be made.
#[derive(Clone, Debug)]
pub struct Fetch {
    host: String,
    address: Ipv4Addr,
    path: String,
    arguments: Vec<String>,
    trust: Trust,
    limit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// The lab's public CA and Weir's signing CA.
    Lab,
    Anybody,
}

/// What came of it.
#[derive(Debug)]
pub struct Fetched {
    /// The command line, to be run again by hand.
    pub command: String,
    /// curl's exit code: 0 is success (curl(1), EXIT CODES).
    pub exit: i32,
    /// HTTP status, 0 for none.
    pub status: u16,
    /// The client's TCP port.
    pub port: u16,
    /// Of HTTP: `1.1`, `2`; empty for none.
    pub version: String,
    /// PEM, the server's own certificate first; empty where no handshake finished.
    pub chain: String,
    /// curl's own messages; with `-v`, what it did.
    pub messages: String,
    pub body: PathBuf,
}

impl Fetch {
    /// GET of `path` from a server of others.
    pub fn new(host: &str, path: &str) -> Self {
        Self {
            host: host.to_owned(),
            address: SERVER,
            path: path.to_owned(),
            arguments: Vec::new(),
            trust: Trust::Lab,
            limit: 30,
        }
    }

    /// The server is one whose key Weir has.
    pub fn own_server(mut self) -> Self {
        self.address = OWN_SERVER;
        self
    }

    /// The server has this address.
    pub fn at(mut self, address: Ipv4Addr) -> Self {
        self.address = address;
        self
    }

    /// curl's `--insecure`.
    pub fn trust_anybody(mut self) -> Self {
        self.trust = Trust::Anybody;
        self
    }

    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Seconds until curl gives up.
    pub fn limit(mut self, seconds: u32) -> Self {
        self.limit = seconds;
        self
    }

    pub fn run(&self, ends: &Ends) -> Result<Fetched> {
        self.run_into(ends, "fetched")
    }

    /// The body goes to file `body` of the run.
    pub fn run_into(&self, ends: &Ends, body: &str) -> Result<Fetched> {
        let body = ends.run.path(body);
        let _ = std::fs::remove_file(&body);
        let mut command = ends.client.command("curl");
        command.args(["--silent", "--show-error"]);
        command.args(["--max-time", &self.limit.to_string()]);
        command.args(["--resolve", &format!("{}:443:{}", self.host, self.address)]);
        match self.trust {
            Trust::Lab => command.arg("--cacert").arg(&ends.certificates.client_trust),
            Trust::Anybody => command.arg("--insecure"),
        };
        command.args(&self.arguments);
        command.args(["--write-out", WRITE_OUT]).arg("--output").arg(&body);
        command.arg(format!("https://{}{}", self.host, self.path));
        let finished = finish(&mut command)?;
        let text = finished.text();
        let (line, chain) = text.split_once('\n').unwrap_or((&text, ""));
        let field = |name: &str| {
            let words = line.split(' ');
            words.filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name)
        };
        let number = |name: &str| field(name).and_then(|(_, value)| value.parse().ok());
        Ok(Fetched {
            exit: finished.code.context("curl was killed by a signal")?,
            status: number("code").unwrap_or(0),
            port: number("port").unwrap_or(0),
            version: field("version").map_or("", |(_, version)| version).to_owned(),
            chain: chain.to_owned(),
            messages: finished.errors.trim_end().to_owned(),
            command: finished.command.replace(&format!(" --write-out {}", shown_write_out()), ""),
            body,
        })
    }
}

fn shown_write_out() -> String {
    format!("'{WRITE_OUT}'")
}

impl Fetched {
    /// How curl ended, in its own words.
    pub fn end(&self) -> String {
        let why =
            self.messages.lines().find(|line| line.starts_with("curl: ")).unwrap_or("curl: -");
        format!("exit {}, {why}", self.exit)
    }

    /// The certificate the client was shown.
    pub fn certificate(&self) -> Result<Seen> {
        ensure!(
            self.chain.contains("BEGIN CERTIFICATE"),
            "curl was shown no certificate (exit {}): {}",
            self.exit,
            self.messages
        );
        certificates::seen(&self.chain)
    }

    /// Fails unless curl succeeded with status 200 (or 201 for an upload).
    pub fn succeeded(&self) -> Result<()> {
        ensure!(
            self.exit == 0 && matches!(self.status, 200 | 201 | 204),
            "curl ended with {} (status {}): {}",
            self.exit,
            self.status,
            self.messages
        );
        Ok(())
    }
}
