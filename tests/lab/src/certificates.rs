//! Certificates of the lab, made with the openssl command, and what openssl says of others.
//!
//! For: an outside judge: what Weir forges is read by openssl, not by Weir's own code.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process::succeed;

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Identity {
    pub fn certificate_pem(&self) -> Result<String> {
        read(&self.certificate)
    }

    pub fn key_pem(&self) -> Result<String> {
        read(&self.key)
    }
}

/// Everything that is certified in the lab.
#[derive(Clone)]
pub struct Certificates {
    /// Signs the servers the client and Weir trust.
    pub public_ca: Identity,
    /// Weir's signing CA for client inspection; the client trusts it.
    pub signing_ca: Identity,
    pub public: Identity,
    pub bank: Identity,
    pub self_signed: Identity,
    /// Server inspection: Weir has these keys too. Both RSA: a server proxy has one kind of key.
    pub shop: Identity,
    pub wholesale: Identity,
    /// What curl trusts: both CAs.
    pub client_trust: PathBuf,
    directory: PathBuf,
}

pub const PUBLIC_CA: &str = "Weir lab public CA";
pub const SIGNING_CA: &str = "Weir lab signing CA";

impl Certificates {
    /// Makes them all in `directory`.
    pub fn make(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let maker = Maker { directory };
        let public_ca = maker.authority("public-ca", PUBLIC_CA)?;
        let signing_ca = maker.authority("signing-ca", SIGNING_CA)?;
        let public = maker.server("public", P256, &["public.example"], &public_ca)?;
        let bank = maker.server("bank", P256, &["bank.example"], &public_ca)?;
        let names = ["shop.example", "*.shop.example"];
        let shop = maker.server("shop", RSA_2048, &names, &public_ca)?;
        let wholesale = maker.server("wholesale", RSA_2048, &["wholesale.example"], &public_ca)?;
        let self_signed = maker.self_signed("selfsigned", P256, "selfsigned.example")?;
        let client_trust = directory.join("client-trust.pem");
        let both = public_ca.certificate_pem()? + &signing_ca.certificate_pem()?;
        std::fs::write(&client_trust, both)?;
        let directory = directory.to_owned();
        Ok(Self {
            public_ca,
            signing_ca,
            public,
            bank,
            self_signed,
            shop,
            wholesale,
            client_trust,
            directory,
        })
    }

    /// One more server below `by`, with these further lines of extensions as openssl has them.
    pub fn extended(
        &self,
        file: &str,
        names: &[&str],
        by: &Identity,
        more: &str,
    ) -> Result<Identity> {
        Maker { directory: &self.directory }.signed(file, P256, names, by, more)
    }

    /// An authority below the public CA, with these further extensions as openssl has them.
    pub fn intermediate(&self, file: &str, name: &str, more: &[&str]) -> Result<Identity> {
        let maker = Maker { directory: &self.directory };
        let identity = maker.key(file, P256)?;
        let mut command = openssl(["req", "-x509", "-new", "-sha256", "-days", "90"]);
        command.arg("-key").arg(&identity.key).arg("-out").arg(&identity.certificate);
        command.arg("-CA").arg(&self.public_ca.certificate).arg("-CAkey").arg(&self.public_ca.key);
        command.args(["-subj", &format!("/O=Weir lab/CN={name}")]);
        for extension in [&["keyUsage=critical,keyCertSign,cRLSign"], more].concat() {
            command.args(["-addext", extension]);
        }
        succeed(&mut command)?;
        Ok(identity)
    }

    /// One more server of the public CA, its key by openssl's name and option of an algorithm.
    pub fn another(&self, file: &str, key: [&str; 2], names: &[&str]) -> Result<Identity> {
        Maker { directory: &self.directory }.server(file, key, names, &self.public_ca)
    }
}

/// Makes identities in a directory.
pub struct Maker<'a> {
    pub directory: &'a Path,
}

pub const P256: [&str; 2] = ["EC", "ec_paramgen_curve:P-256"];
pub const RSA_2048: [&str; 2] = ["RSA", "rsa_keygen_bits:2048"];

impl Maker<'_> {
    fn authority(&self, file: &str, name: &str) -> Result<Identity> {
        let identity = self.key(file, P256)?;
        let mut command = openssl(["req", "-x509", "-new", "-sha256", "-days", "3650"]);
        command.arg("-key").arg(&identity.key).arg("-out").arg(&identity.certificate);
        command.args(["-subj", &format!("/O=Weir lab/CN={name}")]);
        command.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
        succeed(&mut command)?;
        Ok(identity)
    }

    pub fn self_signed(&self, file: &str, algorithm: [&str; 2], name: &str) -> Result<Identity> {
        let identity = self.key(file, algorithm)?;
        let mut command = openssl(["req", "-x509", "-new", "-sha256", "-days", "90"]);
        command.arg("-key").arg(&identity.key).arg("-out").arg(&identity.certificate);
        command.args(["-subj", &format!("/CN={name}")]);
        command.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
        succeed(&mut command)?;
        Ok(identity)
    }

    pub fn server(
        &self,
        file: &str,
        algorithm: [&str; 2],
        names: &[&str],
        by: &Identity,
    ) -> Result<Identity> {
        self.signed(file, algorithm, names, by, "")
    }

    fn signed(
        &self,
        file: &str,
        algorithm: [&str; 2],
        names: &[&str],
        by: &Identity,
        more: &str,
    ) -> Result<Identity> {
        let identity = self.key(file, algorithm)?;
        let request = self.directory.join(format!("{file}.csr"));
        let name = names.first().copied().unwrap_or_default();
        let mut command = openssl(["req", "-new", "-sha256"]);
        command.arg("-key").arg(&identity.key).arg("-out").arg(&request);
        succeed(command.args(["-subj", &format!("/O=Weir lab/CN={name}")]))?;

        let extensions = self.directory.join(format!("{file}.ext"));
        let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        // RSA key exchange encrypts with the key.
        let encrypts = if algorithm[0] == "RSA" { ",keyEncipherment" } else { "" };
        let usage = format!("digitalSignature{encrypts}");
        std::fs::write(
            &extensions,
            format!(
                "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,{usage}\n\
                 extendedKeyUsage=serverAuth\nsubjectAltName={}\n\
                 subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n{more}\n",
                names.join(",")
            ),
        )?;
        let mut command = openssl(["x509", "-req", "-sha256", "-days", "90"]);
        command.arg("-in").arg(&request).arg("-CA").arg(&by.certificate);
        command.arg("-CAkey").arg(&by.key).arg("-out").arg(&identity.certificate);
        command.arg("-extfile").arg(&extensions);
        succeed(&mut command)?;
        Ok(identity)
    }

    fn key(&self, file: &str, [algorithm, option]: [&str; 2]) -> Result<Identity> {
        let key = self.directory.join(format!("{file}.key"));
        let mut command = openssl(["genpkey", "-algorithm", algorithm, "-pkeyopt", option]);
        succeed(command.arg("-out").arg(&key))?;
        Ok(Identity { certificate: self.directory.join(format!("{file}.crt")), key })
    }
}

/// What openssl says of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub subject: String,
    pub issuer: String,
    /// SHA-256 of the whole certificate, `AB:CD:...`.
    pub fingerprint: String,
}

/// Reads the first certificate of `pem` with openssl.
pub fn seen(pem: &str) -> Result<Seen> {
    let text =
        openssl_on(&["x509", "-noout", "-subject", "-issuer", "-fingerprint", "-sha256"], pem)?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        });
        line.with_context(|| format!("openssl x509 printed no {name}: {text}"))
    };
    Ok(Seen {
        subject: field("subject")?,
        issuer: field("issuer")?,
        fingerprint: field("sha256 Fingerprint")?,
    })
}

/// `openssl verify -x509_strict` of the chain's first certificate against `anchors`.
pub fn verify_strictly(chain_pem: &str, anchors: &Path, scratch: &Path) -> Result<()> {
    std::fs::write(scratch, chain_pem)?;
    let mut command = openssl(["verify", "-x509_strict"]);
    command.arg("-CAfile").arg(anchors).arg("-untrusted").arg(scratch).arg(scratch);
    succeed(&mut command).map(drop)
}

fn openssl_on(arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running openssl")?;
    child.stdin.take().context("openssl's input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "openssl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn openssl<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments);
    command
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
