//! A certificate chain with its private key, ready for a client leg.
//!
//! For: loading a key once and sharing it by reference. Not for: importing keys in other forms than
//! PKCS#8 (`appliance/pki` does). Keys that no stack can use are refused by name. The key lives in
//! aws-lc's memory (not one on P-224, which only the legacy stack can use) and, as it came, for the
//! legacy stack; both are wiped when freed. `Debug` does not show it.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use weir_policy::snapshot;
use zeroize::Zeroizing;

use crate::certificate::{Certificate, public_key_bits};
use crate::der::{self, DerError, Reader};
use crate::verify::sha256;

/// A chain (leaf first) and its signing key.
#[derive(Clone)]
pub struct LegKey {
    certified: Arc<CertifiedKey>,
    kind: KeyKind,
    /// SHA-256 of the leaf: what sessions are bound to, at each of them.
    fingerprint: [u8; 32],
    /// For the legacy stack, which loads the key itself.
    pkcs8: Arc<Zeroizing<Vec<u8>>>,
}

/// Key types: all of the legacy stack, and all but P-224 of the modern one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    Rsa,
    P256,
    P384,
    P521,
    /// TLS 1.2 and older only (RFC 8446 section 4.2.3 has no scheme for it).
    P224,
}

/// Why a chain and key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("no certificate")]
    NoCertificate,
    #[error("certificate {index} of the chain is not DER X.509: {error}")]
    Certificate { index: usize, error: DerError },
    #[error("the key is not PKCS#8: {0}")]
    NotPkcs8(DerError),
    #[error("keys of type {0} are not supported; RSA, P-224, P-256, P-384 and P-521 are")]
    Unsupported(String),
    #[error("the key was refused: {0}")]
    Refused(String),
    #[error("the key does not belong to the certificate")]
    Mismatch,
}

impl LegKey {
    /// Loads the key and checks that it belongs to the chain's first certificate.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn new(pair: &snapshot::CertifiedKey) -> Result<Self, KeyError> {
        let kind = KeyKind::of_pkcs8(pair.key.expose())?;
        for (index, certificate) in pair.chain.iter().enumerate() {
            Certificate::parse(certificate)
                .map_err(|error| KeyError::Certificate { index, error })?;
        }
        let chain = pair.chain.iter().cloned().map(CertificateDer::from).collect();
        let pkcs8 = Arc::new(Zeroizing::new(pair.key.expose().to_vec()));
        if kind == KeyKind::P224 {
            return Self::p224(chain, pkcs8);
        }
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.key.expose()));
        let key = any_supported_type(&der).map_err(|error| KeyError::Refused(error.to_string()))?;
        Self::from_parts(chain, key, kind, pkcs8)
    }

    /// Its public half stands in it, or it is refused: nothing here computes on that curve.
    fn p224(
        chain: Vec<CertificateDer<'static>>,
        pkcs8: Arc<Zeroizing<Vec<u8>>>,
    ) -> Result<Self, KeyError> {
        let leaf = chain.first().ok_or(KeyError::NoCertificate)?;
        let certified = Certificate::parse(leaf)
            .and_then(|leaf| public_key_bits(leaf.subject_public_key_info).map(<[u8]>::to_vec))
            .map_err(|error| KeyError::Certificate { index: 0, error })?;
        match ec_public_half(&pkcs8).map_err(KeyError::NotPkcs8)? {
            Some(public) if public == certified => {}
            Some(_) => return Err(KeyError::Mismatch),
            None => return Err(KeyError::Refused("its public half is not in it".to_owned())),
        }
        let fingerprint = sha256(leaf);
        let certified = Arc::new(CertifiedKey::new(chain, Arc::new(OnLegacyOnly)));
        Ok(Self { certified, kind: KeyKind::P224, fingerprint, pkcs8 })
    }

    /// Joins a chain and a loaded key.
    pub(crate) fn from_parts(
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
        kind: KeyKind,
        pkcs8: Arc<Zeroizing<Vec<u8>>>,
    ) -> Result<Self, KeyError> {
        let leaf = chain.first().ok_or(KeyError::NoCertificate)?;
        let fingerprint = sha256(leaf);
        let leaf =
            Certificate::parse(leaf).map_err(|error| KeyError::Certificate { index: 0, error })?;
        match key.public_key() {
            Some(public) if public.as_ref() == leaf.subject_public_key_info => {}
            _ => return Err(KeyError::Mismatch),
        }
        let certified = Arc::new(CertifiedKey::new(chain, key));
        Ok(Self { certified, kind, fingerprint, pkcs8 })
    }

    /// The same with an OCSP response, which clients that ask for one are shown (RFC 6066 section
    /// 8).
    #[must_use]
    pub fn with_staple(&self, response: Vec<u8>) -> Self {
        let mut certified = CertifiedKey::clone(&self.certified);
        certified.ocsp = Some(response);
        Self { certified: Arc::new(certified), pkcs8: self.pkcs8.clone(), ..*self }
    }

    /// The OCSP response, where there is one.
    pub fn staple(&self) -> Option<&[u8]> {
        self.certified.ocsp.as_deref()
    }

    /// Leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// SHA-256 of the leaf.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The key as PKCS#8, for the legacy stack's worker.
    pub fn pkcs8(&self) -> &Zeroizing<Vec<u8>> {
        &self.pkcs8
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    pub(crate) fn signing_key(&self) -> &Arc<dyn SigningKey> {
        &self.certified.key
    }
}

impl KeyKind {
    /// The type that a PKCS#8 key (RFC 5208) says of itself.
    fn of_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
        const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        const SECP224R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x21];
        const SECP384R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
        const SECP521R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
        const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
        let (algorithm, curve) = algorithm_of_pkcs8(der).map_err(KeyError::NotPkcs8)?;
        let unsupported = |name: &str| Err(KeyError::Unsupported(name.to_owned()));
        match (algorithm, curve) {
            (crate::certificate::oid::RSA_ENCRYPTION, _) => Ok(Self::Rsa),
            (EC_PUBLIC_KEY, Some(PRIME256V1)) => Ok(Self::P256),
            (EC_PUBLIC_KEY, Some(SECP384R1)) => Ok(Self::P384),
            (EC_PUBLIC_KEY, Some(SECP224R1)) => Ok(Self::P224),
            (EC_PUBLIC_KEY, Some(SECP521R1)) => Ok(Self::P521),
            (EC_PUBLIC_KEY, _) => unsupported("EC on another curve"),
            (ED25519, _) => unsupported("Ed25519"),
            _ => unsupported("neither RSA nor EC"),
        }
    }
}

/// The algorithm's object identifier, and its parameters' where they are one.
fn algorithm_of_pkcs8(der: &[u8]) -> Result<(&[u8], Option<&[u8]>), DerError> {
    let mut outer = Reader(der);
    let mut info = Reader(outer.expect(der::SEQUENCE)?.contents);
    outer.end()?;
    info.expect(der::INTEGER)?;
    let mut algorithm = Reader(info.expect(der::SEQUENCE)?.contents);
    let identifier = algorithm.expect(der::OBJECT_IDENTIFIER)?.contents;
    let parameters = algorithm.optional(der::OBJECT_IDENTIFIER)?;
    Ok((identifier, parameters.map(|parameters| parameters.contents)))
}

/// The public key of the ECPrivateKey (RFC 5915) in a PKCS#8 key, where it is there.
fn ec_public_half(pkcs8: &[u8]) -> Result<Option<&[u8]>, DerError> {
    let mut outer = Reader(pkcs8);
    let mut info = Reader(outer.expect(der::SEQUENCE)?.contents);
    info.expect(der::INTEGER)?;
    info.expect(der::SEQUENCE)?;
    let mut key = Reader(info.expect(der::OCTET_STRING)?.contents);
    let mut key = Reader(key.expect(der::SEQUENCE)?.contents);
    key.expect(der::INTEGER)?;
    key.expect(der::OCTET_STRING)?;
    key.optional(der::context_constructed(0))?;
    let Some(public) = key.optional(der::context_constructed(1))? else { return Ok(None) };
    match Reader(public.contents).expect(der::BIT_STRING)?.contents {
        [0, bits @ ..] => Ok(Some(bits)),
        _ => Err(DerError::Value),
    }
}

/// The place of a key that the modern stack cannot sign with.
#[derive(Debug)]
struct OnLegacyOnly;

impl SigningKey for OnLegacyOnly {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        None
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl fmt::Debug for LegKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegKey")
            .field("kind", &self.kind)
            .field("certificates", &self.chain().len())
            .finish_non_exhaustive()
    }
}
