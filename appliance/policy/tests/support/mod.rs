//! Loads documents over certificates and files made up for the test: `/pki/NAME.pem` belongs to
//! `/pki/NAME.key`; names that begin with `ca` are authorities, with `rsa` RSA; those that end with
//! `p224` have a key on that curve.
#![allow(dead_code)]

use std::io;
use std::path::Path;

use weir_policy::error::LocatedError;
use weir_policy::material::{
    Certificates, CertifiedKeyError, Files, IdentifiedKey, KeyAlgorithm, Material, Rules,
};
use weir_policy::snapshot::CertifiedKey;
use weir_policy::{Configuration, Layer, SecretBytes, Syntax};

pub fn load(text: &str) -> Result<Configuration, Vec<LocatedError>> {
    let layer = Layer { name: "user-data", syntax: Syntax::Yaml, text, section: Some("weir") };
    load_layers(&[layer])
}

pub fn load_layers(layers: &[Layer<'_>]) -> Result<Configuration, Vec<LocatedError>> {
    let (files, certificates, rules) = (MadeUp, MadeUp, MadeUp);
    let material = Material { files: &files, certificates: &certificates, rules: &rules };
    Configuration::load(layers, material)
}

pub fn errors(text: &str) -> Vec<LocatedError> {
    load(text).expect_err("the document is wrong")
}

pub fn messages(errors: Vec<LocatedError>) -> Vec<String> {
    errors.iter().map(LocatedError::to_string).collect()
}

struct MadeUp;

impl Files for MadeUp {
    fn read(&self, path: &Path, _bound: usize) -> io::Result<Vec<u8>> {
        let path = path.to_str().unwrap_or_default();
        match path {
            "/lists/good.txt" => {
                return Ok(b"# a feed\n198.51.100.0/24\n\n2001:db8::1 # host\n".into());
            }
            "/lists/wrong.txt" => return Ok(b"192.0.2.1\n\n10.0.0.1/8\n".into()),
            _ => {}
        }
        match path.strip_prefix("/pki/") {
            Some(name) if name.ends_with(".pem") => Ok(name.replace(".pem", "").into_bytes()),
            Some(name) if name.ends_with(".key") => {
                Ok(format!("SECRET {}", name.replace(".key", "")).into_bytes())
            }
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }
}

impl Certificates for MadeUp {
    fn certified_key(
        &self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<IdentifiedKey, CertifiedKeyError> {
        if key != [b"SECRET ", certificate].concat() {
            return Err(CertifiedKeyError::Key("does not belong to the certificate".to_owned()));
        }
        let rsa = certificate.starts_with(b"rsa");
        Ok(IdentifiedKey {
            certified: CertifiedKey {
                chain: vec![certificate.to_vec()],
                key: SecretBytes::new(key.to_vec()),
            },
            algorithm: match rsa {
                true => KeyAlgorithm::Rsa(2048),
                false if certificate.ends_with(b"p224") => KeyAlgorithm::P224,
                false => KeyAlgorithm::P256,
            },
            is_authority: certificate.starts_with(b"ca"),
        })
    }

    fn authorities(&self, pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        Ok(vec![pem.to_vec()])
    }

    fn describe(&self, certificate: &[u8]) -> String {
        format!("subject of {}", String::from_utf8_lossy(certificate))
    }
}

impl Rules for MadeUp {
    fn check(&self, rules: &str) -> Vec<(u32, String)> {
        let lines = (1..).zip(rules.lines());
        lines
            .filter(|(_, rule)| rule.contains("pcre"))
            .map(|(line, _)| (line, "the keyword `pcre` is not supported".to_owned()))
            .collect()
    }
}
