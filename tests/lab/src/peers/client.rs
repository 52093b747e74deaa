//! Clients: each visits a port twice, and the second time tries to resume the session of the first.
//! What they are shown they verify, strictly where they can; but for tlslite-ng, which does not.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use weir_policy::suites::Protocol;

use super::conversation::{Conversation, echoed};
use super::{Cell, EncryptThenMac, Peer, gnutls_priority, interpreter, line};
use crate::certificates::Certificates;
use crate::ends::{Ends, SERVER};
use crate::process::{finish, succeed};

/// Seconds that one program may take; it takes a fraction of one.
const LIMIT: &str = "100";

/// One program, ready for visits one after the other.
pub struct Client<'a> {
    peer: Peer,
    ends: &'a Ends,
    encrypt_then_mac: EncryptThenMac,
    /// Of those that stay.
    stays: Option<Conversation>,
}

/// What a client says of its second session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    Yes,
    No,
    /// It does not tell, or made no second one.
    Untold,
}

impl<'a> Client<'a> {
    pub fn start(peer: Peer, ends: &'a Ends, encrypt_then_mac: EncryptThenMac) -> Result<Self> {
        let trust = ends.certificates.client_trust.as_os_str();
        let arguments = match peer {
            Peer::Java | Peer::Python => Some(["client".as_ref(), trust]),
            Peer::TlsLite => Some(["client".as_ref(), encrypt_then_mac.word().as_ref()]),
            Peer::OpenSsl | Peer::Curl | Peer::GnuTls | Peer::Nss => None,
        };
        if peer == Peer::Nss {
            std::fs::create_dir_all(ends.run.path("nss"))?;
            nss_database(&ends.certificates, &nss_path(ends))?;
            let request = "GET / HTTP/1.1\r\nHost: example\r\n\r\n";
            std::fs::write(ends.run.path("nss-request"), request)?;
        }
        let stays = match arguments {
            Some(arguments) => {
                let mut command = interpreter(peer, &ends.client)?;
                let log = ends.run.path(&format!("{}-client.log", peer.name()));
                Some(Conversation::start(command.args(arguments), &log)?)
            }
            None => None,
        };
        Ok(Self { peer, ends, encrypt_then_mac, stays })
    }

    /// Visits this port of [`SERVER`], as `name`, in this version and suite.
    ///
    /// # Errors
    /// In the client's words: what it did not trust, what it could not agree on, what did not come
    /// back as it was sent.
    pub fn visit(&mut self, cell: Cell, port: u16, name: &str) -> Result<Resumed> {
        match self.peer {
            Peer::OpenSsl => self.openssl(cell, port, name),
            Peer::Curl => self.curl(cell, port, name),
            Peer::GnuTls => self.gnutls(cell, port, name),
            Peer::Nss => self.nss(cell, port, name),
            Peer::Java | Peer::Python | Peer::TlsLite => self.ask(cell, port, name),
        }
    }

    /// One that stays.
    fn ask(&mut self, cell: Cell, port: u16, name: &str) -> Result<Resumed> {
        let (version, suite) = (cell.version_code(), self.peer.suite(cell.suite));
        let stays = self.stays.as_mut().context("it does not stay")?;
        stays.say(&format!("{SERVER} {port} {name} {version} {suite}\n"))?;
        let answer = stays.answer()?;
        let said = match self.peer {
            Peer::TlsLite => format!("{version} {:04x}", cell.suite.id),
            // Java calls this one by SSL 3.0's name.
            Peer::Java => {
                format!("{version} {}", suite.replace("TLS_RSA_WITH_3DES", "SSL_RSA_WITH_3DES"))
            }
            _ => format!("{version} {suite}"),
        };
        let words: Vec<&str> = answer.split(' ').collect();
        let ["ok", _, _, first, etm, _, _, second, etm_again] = words.as_slice() else {
            bail!(answer)
        };
        ensure!(answer.matches(&said).count() == 2, "it has not {said} but {answer}");
        ensure!(["full", "?"].contains(first) && etm == etm_again, "{answer}");
        if self.peer == Peer::TlsLite {
            let expected =
                self.encrypt_then_mac == EncryptThenMac::On && cell.can_encrypt_then_mac();
            ensure!((*etm == "etm") == expected, "{answer}");
        }
        Ok(match *second {
            "resumed" => Resumed::Yes,
            "full" => Resumed::No,
            _ => Resumed::Untold,
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.ends.client.command("timeout");
        command.args([LIMIT, program]);
        command
    }

    fn trust(&self) -> &Path {
        &self.ends.certificates.client_trust
    }

    fn openssl(&self, cell: Cell, port: u16, name: &str) -> Result<Resumed> {
        let session = self.ends.run.path(&format!("session-{port}"));
        let suite = self.peer.suite(cell.suite);
        let mut resumed = Resumed::No;
        for option in ["-sess_out", "-sess_in"] {
            let mut command = self.command("openssl");
            command.args(["s_client", "-connect", &format!("{SERVER}:{port}")]);
            match name.parse::<IpAddr>() {
                Ok(_) => command.args(["-noservername", "-verify_ip", name]),
                Err(_) => command.args(["-servername", name, "-verify_hostname", name]),
            };
            command.args(["-x509_strict", "-verify_return_error", "-CAfile"]).arg(self.trust());
            command.args(openssl_options(cell));
            // A server that resumes none gave it none to keep.
            if option == "-sess_out" || session.exists() {
                command.arg(option).arg(&session);
            }
            let said = echoed(&mut command, &line())?;
            let agreed = said.lines().find(|line| line.ends_with(&format!("Cipher is {suite}")));
            let agreed = agreed.with_context(|| format!("no {suite} in {said}"))?;
            if agreed.starts_with("Reused") {
                ensure!(option == "-sess_in", "{agreed}");
                resumed = Resumed::Yes;
            }
        }
        Ok(resumed)
    }

    /// It tells nothing of resumption.
    fn curl(&self, cell: Cell, port: u16, name: &str) -> Result<Resumed> {
        let (version, suite) = (cell.version.to_string(), self.peer.suite(cell.suite));
        let version = version.trim_start_matches("TLS ");
        let mut command = self.command("curl");
        command.args(["--silent", "--show-error", "--verbose", "--http1.1", "--cacert"]);
        command.arg(self.trust()).args([&format!("--tlsv{version}"), "--tls-max", version]);
        match cell.version {
            Protocol::Tls13 => command.args(["--tls13-ciphers", &suite]),
            _ => command.args(["--ciphers", &format!("{suite}:@SECLEVEL=0")]),
        };
        command.args(["--connect-to", &format!("{name}:{port}:{SERVER}:{port}")]);
        let address = format!("https://{name}:{port}/");
        let finished = finish(command.args([&address, &address]))?;
        let said = &finished.errors;
        ensure!(finished.code == Some(0) && finished.text() == "ok\nok\n", "{said}");
        let agreed = said.lines().filter(|line| line.contains("SSL connection using"));
        let agreed = agreed.filter(|line| line.trim_end().ends_with(&format!("/ {suite}")));
        ensure!(agreed.count() == 2, "{said}");
        Ok(Resumed::Untold)
    }

    fn gnutls(&self, cell: Cell, port: u16, name: &str) -> Result<Resumed> {
        let mut command = self.command("gnutls-cli");
        command.args(["--resume", "--waitresumption", "--port", &port.to_string(), "--x509cafile"]);
        command.arg(self.trust()).args(["--verify-hostname", name]);
        match name.parse::<IpAddr>() {
            Ok(_) => command.arg("--disable-sni"),
            Err(_) => command.args(["--sni-hostname", name]),
        };
        command.args(["--priority", &gnutls_priority(cell), &SERVER.to_string()]);
        let said = echoed(&mut command, &line())?;
        ensure!(said.contains("The certificate is trusted"), "{said}");
        let expected = self.encrypt_then_mac == EncryptThenMac::On && cell.can_encrypt_then_mac();
        ensure!(said.contains("EtM,") == expected, "encrypt-then-MAC: {said}");
        let resumed = said.contains("This is a resumed session");
        Ok(if resumed { Resumed::Yes } else { Resumed::No })
    }

    /// One session.
    fn nss(&self, cell: Cell, port: u16, name: &str) -> Result<Resumed> {
        let version = cell.version.to_string().to_lowercase().replace(' ', "");
        let version = version.replace("ssl3.0", "ssl3");
        let mut command = self.command("tstclnt");
        command.args(["-h", &SERVER.to_string(), "-p", &port.to_string(), "-a", name, "-d"]);
        command.arg(nss_path(self.ends)).args(["-V", &format!("{version}:{version}")]);
        command.args(["-c", &self.peer.suite(cell.suite), "-v", "-A"]);
        let finished = finish(command.arg(self.ends.run.path("nss-request")))?;
        let said = format!("{}{}", finished.text(), finished.errors);
        ensure!(said.contains("\nok\n"), "{said}");
        Ok(Resumed::Untold)
    }
}

/// Of `s_client` and `s_server`: this version and suite alone, and every curve a certificate may be on:
/// P-224 is not in OpenSSL's own list.
pub(super) fn openssl_options(cell: Cell) -> Vec<String> {
    let curves = ["-curves".into(), "X25519:P-256:P-384:P-521:P-224".into()];
    version_and_suite(cell).into_iter().chain(curves).collect()
}

fn version_and_suite(cell: Cell) -> [String; 3] {
    let suite = Peer::OpenSsl.suite(cell.suite);
    let version = match cell.version {
        Protocol::Ssl30 => "-ssl3",
        Protocol::Tls10 => "-tls1",
        Protocol::Tls11 => "-tls1_1",
        Protocol::Tls12 => "-tls1_2",
        Protocol::Tls13 => return ["-tls1_3".into(), "-ciphersuites".into(), suite],
    };
    [version.into(), "-cipher".into(), format!("{suite}:@SECLEVEL=0")]
}

/// NSS keeps what it trusts in a database; its directory exists.
pub(super) fn nss_database(certificates: &Certificates, database: &str) -> Result<()> {
    succeed(Command::new("certutil").args(["-N", "--empty-password", "-d", database]))?;
    for (name, authority) in
        [("public", &certificates.public_ca), ("signing", &certificates.signing_ca)]
    {
        let mut command = Command::new("certutil");
        command.args(["-A", "-n", name, "-t", "C,,", "-d", database, "-i"]);
        succeed(command.arg(&authority.certificate))?;
    }
    Ok(())
}

fn nss_path(ends: &Ends) -> String {
    format!("sql:{}", ends.run.path("nss").display())
}
