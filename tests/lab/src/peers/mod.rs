//! TLS by the programs of others at both ends: clients and servers of one version and one suite at a
//! time, and what each program cannot.
//!
//! For: holding Weir's two TLS stacks against implementations that share no code with them. Fails in
//! the programs' own words. Not for: what curl and nginx do with defaults ([`crate::fetch`],
//! [`crate::ends`]). The programs come with `ci/setup`; those in Python and Java stand in
//! `tests/lab/peers`.

mod cell;
mod chromium;
mod client;
mod conversation;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use weir_policy::suites::{Authentication, Bulk, KeyExchange, Mac, Protocol, Suite};

pub use self::cell::{Cell, cells};
pub use self::chromium::{Chromium, Page};
pub use self::client::{Client, Resumed};
pub use self::conversation::Conversation;
pub use self::server::{Listen, Servers};
use crate::namespace::Namespace;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Debian's openssl.
    OpenSsl,
    /// On Debian's OpenSSL.
    Curl,
    /// On Debian's OpenSSL; its certificates verified strictly.
    Python,
    GnuTls,
    Nss,
    Java,
    TlsLite,
}

impl Peer {
    pub const CLIENTS: [Self; 7] = [
        Self::OpenSsl,
        Self::Curl,
        Self::Python,
        Self::GnuTls,
        Self::Nss,
        Self::Java,
        Self::TlsLite,
    ];
    pub const SERVERS: [Self; 5] =
        [Self::OpenSsl, Self::Python, Self::GnuTls, Self::Java, Self::TlsLite];

    pub fn name(self) -> &'static str {
        match self {
            Self::OpenSsl => "openssl",
            Self::Curl => "curl",
            Self::Python => "python",
            Self::GnuTls => "gnutls",
            Self::Nss => "nss",
            Self::Java => "java",
            Self::TlsLite => "tlslite",
        }
    }

    /// Why it is not asked for a cell that the standards allow.
    pub fn lacks(self, cell: Cell) -> Option<&'static str> {
        let on_openssl = matches!(self, Self::OpenSsl | Self::Curl | Self::Python);
        match (cell.version, cell.suite.bulk) {
            (Protocol::Ssl30, _) if on_openssl => Some("Debian builds OpenSSL without SSL 3.0"),
            (Protocol::Ssl30, _) if self == Self::GnuTls => {
                Some("Debian builds GnuTLS without SSL 3.0")
            }
            (Protocol::Ssl30, _) if self == Self::Java => {
                Some("Java's SSL 3.0 and OpenSSL's do not take each other's hellos")
            }
            (_, Bulk::TripleDes) if on_openssl => Some("Debian builds OpenSSL without 3DES"),
            (Protocol::Tls13, bulk) if self == Self::Python && bulk != Bulk::Aes256Gcm => {
                Some("Python's ssl cannot choose a suite of TLS 1.3: it has the first")
            }
            _ => None,
        }
    }

    /// Why its second session of a cell is as long as the first, where it is the client.
    pub fn does_not_resume(self, _: Cell) -> Option<&'static str> {
        (self == Self::Nss).then_some(
            "the client of NSS's tools crashes where it shall make two (-L) of a suite (-c)",
        )
    }

    /// The same where it is the server.
    pub fn is_not_resumed(self, cell: Cell) -> Option<&'static str> {
        (self == Self::TlsLite && cell.version == Protocol::Ssl30).then_some(
            "RFC 7627 section 5.3: a session without the extended master secret, which SSL 3.0 has \
             not, is not resumed with a hello that offers it",
        )
    }

    /// How many it makes for one visit.
    pub fn sessions(self) -> usize {
        if self == Self::Nss { 1 } else { 2 }
    }

    /// The suite as this program calls it.
    pub fn suite(self, suite: &Suite) -> String {
        match self {
            Self::OpenSsl | Self::Curl | Self::Python => openssl_name(suite),
            Self::GnuTls => gnutls_name(suite),
            Self::Nss => format!(":{:04X}", suite.id),
            Self::Java | Self::TlsLite => suite.name.to_owned(),
        }
    }
}

fn openssl_name(suite: &Suite) -> String {
    if suite.key_exchange == KeyExchange::Negotiated {
        return suite.name.to_owned();
    }
    let exchange = match (suite.key_exchange, suite.authentication) {
        (KeyExchange::Rsa, _) => "",
        (_, Authentication::Ecdsa) => "ECDHE-ECDSA-",
        _ => "ECDHE-RSA-",
    };
    let bulk = match suite.bulk {
        Bulk::Aes128Cbc => "AES128",
        Bulk::Aes256Cbc => "AES256",
        Bulk::Aes128Gcm => "AES128-GCM-SHA256",
        Bulk::Aes256Gcm => "AES256-GCM-SHA384",
        Bulk::ChaCha20 => "CHACHA20-POLY1305",
        Bulk::TripleDes => "DES-CBC3",
    };
    let mac = match suite.mac {
        Mac::Sha1 => "-SHA",
        Mac::Sha256 => "-SHA256",
        Mac::Sha384 => "-SHA384",
        Mac::Gcm | Mac::Poly1305 => "",
    };
    format!("{exchange}{bulk}{mac}")
}

/// As a priority string's parts.
fn gnutls_name(suite: &Suite) -> String {
    let bulk = match suite.bulk {
        Bulk::Aes128Cbc => "AES-128-CBC",
        Bulk::Aes256Cbc => "AES-256-CBC",
        Bulk::Aes128Gcm => "AES-128-GCM",
        Bulk::Aes256Gcm => "AES-256-GCM",
        Bulk::ChaCha20 => "CHACHA20-POLY1305",
        Bulk::TripleDes => "3DES-CBC",
    };
    let mac = match suite.mac {
        Mac::Sha1 => "SHA1",
        Mac::Sha256 => "SHA256",
        Mac::Sha384 => "SHA384",
        Mac::Gcm | Mac::Poly1305 => "AEAD",
    };
    let exchange = match (suite.key_exchange, suite.authentication) {
        (KeyExchange::Rsa, _) => ":+RSA",
        (_, Authentication::Ecdsa) => ":+ECDHE-ECDSA",
        (_, Authentication::Rsa) => ":+ECDHE-RSA",
        (_, Authentication::Negotiated) => "",
    };
    format!("+{bulk}:+{mac}{exchange}")
}

/// Whether an end offers or takes encrypt-then-MAC (RFC 7366). OpenSSL, Java and NSS are not asked:
/// the first always does, the others cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncryptThenMac {
    On,
    Off,
}

impl EncryptThenMac {
    fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// What the clients say, and the servers send back. The same from both ends: openssl's server turns
/// lines around.
pub fn line() -> String {
    let half = "weir ".repeat(60);
    let other: String = half.chars().rev().collect();
    half + &other
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(file)
}

/// A program of `tests/lab/peers` that goes by the packages of its `requirements.txt`.
pub fn packaged(namespace: &Namespace, program: &str) -> Result<Command> {
    let python = environment().join("bin/python");
    ensure!(python.exists(), "no {}: ci/setup makes it", python.display());
    let mut command = namespace.command(python.to_str().context("its path is no text")?);
    command.arg(source(program));
    Ok(command)
}

/// One that goes by what Debian's Python has.
pub fn python(namespace: &Namespace, program: &str) -> Command {
    let mut command = namespace.command("/usr/bin/python3");
    command.arg(source(program));
    command
}

/// A program of `tests/lab/peers`.
fn interpreter(peer: Peer, namespace: &Namespace) -> Result<Command> {
    let mut command;
    match peer {
        Peer::TlsLite => command = packaged(namespace, "tlslite_peer.py")?,
        Peer::Java => {
            command = namespace.command("java");
            // Short lives: no time for the better compiler.
            command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]).arg(source("Peer.java"));
        }
        _ => command = python(namespace, "python_peer.py"),
    }
    Ok(command)
}

/// The virtual environment of Python packages that `ci/setup` makes.
fn environment() -> PathBuf {
    match std::env::var_os("WEIR_PEERS") {
        Some(path) => path.into(),
        None => {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/weir/peers")
        }
    }
}

/// What GnuTLS is told: this version and suite, and whatever group and signature.
fn gnutls_priority(cell: Cell) -> String {
    let version = cell.version.to_string().replace(' ', "");
    let suite = Peer::GnuTls.suite(cell.suite);
    format!("NONE:+VERS-{version}:{suite}:+COMP-NULL:+GROUP-ALL:+SIGN-ALL:+CTYPE-X509")
}
