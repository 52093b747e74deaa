//! Certificates and keys: PEM in, typed DER out; generated authorities.
//!
//! For: chains and private keys that a configuration gives ([`Pki`] is what `weir-policy` asks for
//! them), the untrusted CA made at first boot, one-line descriptions. Not for: verifying servers'
//! chains or forging certificates (`weir-tls`), nor for files: texts come in, bytes go out.
//! Fails by [`weir_policy::material::CertifiedKeyError`] and [`AuthorityError`], in words that say
//! what would be right and never hold key material.
#![forbid(unsafe_code)]

mod authority;
mod certificate;
mod key;

pub use authority::{AuthorityError, UNTRUSTED_AUTHORITY_NAME, generate_untrusted_authority};
pub use certificate::{describe, fingerprint};

use weir_policy::material::{Certificates, CertifiedKeyError, IdentifiedKey};
use weir_policy::snapshot::CertifiedKey;

/// Most certificates in one PEM bundle; a longer one is refused. Mozilla's list has about 150.
pub const MAX_BUNDLE: usize = 1000;

/// PEM to what a snapshot holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pki;

impl Certificates for Pki {
    /// The chain comes out leaf first, each certificate followed by its issuer where that is in the
    /// bundle; certificates that are not on the path are kept at the end. The leaf is the one
    /// that the key belongs to.
    fn certified_key(
        &self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<IdentifiedKey, CertifiedKeyError> {
        let bundle = certificate::bundle(certificate).map_err(CertifiedKeyError::Certificate)?;
        let key = key::PrivateKey::from_pem(key).map_err(CertifiedKeyError::Key)?;
        let (leaf, key) = key.find_certificate(&bundle)?;
        let is_authority =
            certificate::may_sign(&leaf.der).map_err(CertifiedKeyError::Certificate)?;
        let chain = certificate::ordered(leaf, &bundle);
        let algorithm = key.algorithm;
        Ok(IdentifiedKey {
            certified: CertifiedKey { chain, key: key.pkcs8 },
            algorithm,
            is_authority,
        })
    }

    fn authorities(&self, pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        Ok(certificate::bundle(pem)?.into_iter().map(|certificate| certificate.der).collect())
    }

    fn describe(&self, certificate: &[u8]) -> String {
        describe(certificate)
    }
}
