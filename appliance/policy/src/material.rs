//! What a configuration needs from outside: files, certificates, rules. The caller gives them, so
//! that this crate does no I/O and knows no certificate library.

use std::fmt;
use std::io;
use std::path::Path;

use crate::snapshot::CertifiedKey;

/// Where a configuration's references lead.
#[derive(Clone, Copy)]
pub struct Material<'a> {
    pub files: &'a dyn Files,
    pub certificates: &'a dyn Certificates,
    pub rules: &'a dyn Rules,
}

/// Reads the files a configuration names.
pub trait Files {
    /// The whole file, of at most `bound` bytes; a longer one is an error.
    fn read(&self, path: &Path, bound: usize) -> io::Result<Vec<u8>>;
}

/// Turns PEM into what a snapshot holds; implemented by `weir-pki`.
pub trait Certificates {
    /// A chain and its private key, from PEM texts. Fails where they do not belong together.
    fn certified_key(
        &self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<IdentifiedKey, CertifiedKeyError>;

    /// The certificates of authorities in a PEM bundle, DER.
    fn authorities(&self, pem: &[u8]) -> Result<Vec<Vec<u8>>, String>;

    /// Subject and SHA-256 fingerprint of a DER certificate on one line, for people.
    fn describe(&self, certificate: &[u8]) -> String;
}

/// A certified key and what is known of it.
#[derive(Clone, Debug)]
pub struct IdentifiedKey {
    pub certified: CertifiedKey,
    pub algorithm: KeyAlgorithm,
    /// The leaf is the certificate of an authority (basic constraints), allowed to sign others.
    pub is_authority: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// The modulus's length in bits.
    Rsa(u32),
    P224,
    P256,
    P384,
    P521,
}

/// What a certificate with such a key is called.
impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa(_) => "an RSA certificate",
            Self::P224 => "an ECDSA certificate on P-224",
            Self::P256 => "an ECDSA certificate on P-256",
            Self::P384 => "an ECDSA certificate on P-384",
            Self::P521 => "an ECDSA certificate on P-521",
        })
    }
}

impl KeyAlgorithm {
    pub fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa(_))
    }

    /// Certificates can be forged with such a key.
    pub fn signs(self) -> bool {
        matches!(self, Self::Rsa(_) | Self::P256 | Self::P384)
    }
}

/// Which of the two texts is wrong, and how; the message never holds key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertifiedKeyError {
    #[error("{0}")]
    Certificate(String),
    #[error("{0}")]
    Key(String),
}

/// Judges rules; implemented over `weir-inspect` by whoever joins the two.
pub trait Rules {
    /// Every rule that cannot be honoured: its line in the text, from 1, and why (SPEC I2).
    fn check(&self, rules: &str) -> Vec<(u32, String)>;
}

/// Takes every rule as it is: for callers that only want the configuration's shape.
pub struct UncheckedRules;

impl Rules for UncheckedRules {
    fn check(&self, _rules: &str) -> Vec<(u32, String)> {
        Vec::new()
    }
}
