//! Private keys: PKCS#8, PKCS#1 or SEC1 in PEM to PKCS#8 DER, and the certificate they belong to.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
};
use weir_policy::SecretBytes;
use weir_policy::material::{CertifiedKeyError, KeyAlgorithm};
use zeroize::Zeroizing;

use crate::certificate::Certificate;
use crate::describe;

const EXPECTED: &str = "a PEM private key (PKCS#8, PKCS#1 or SEC1) is expected";

/// The DER of a private key whose algorithm is not looked at yet: a SEC1 key need not name its
/// curve.
pub(crate) struct PrivateKey {
    der: Zeroizing<Vec<u8>>,
    pkcs1: bool,
}

/// A key that belongs to a certificate.
pub(crate) struct MatchedKey {
    pub(crate) pkcs8: SecretBytes,
    pub(crate) algorithm: KeyAlgorithm,
}

impl PrivateKey {
    /// The one private key of a PEM text; certificates and parameters beside it are passed over.
    pub(crate) fn from_pem(text: &[u8]) -> Result<Self, String> {
        if text.first() == Some(&0x30) {
            return Err(format!(
                "is DER; {EXPECTED}: convert it: openssl pkey -inform der -in FILE"
            ));
        }
        let blocks = pem::parse_many(text)
            // The error may quote the text: it is left out.
            .map_err(|_| format!("is not valid PEM; {EXPECTED}"))?;
        let mut found = None;
        for block in blocks {
            let pkcs1 = match block.tag() {
                "PRIVATE KEY" | "EC PRIVATE KEY" => false,
                "RSA PRIVATE KEY" => true,
                "ENCRYPTED PRIVATE KEY" => return Err(encrypted()),
                "DSA PRIVATE KEY" => return Err(unsupported()),
                _ => continue,
            };
            if block.headers().get("Proc-Type").is_some_and(|header| header.contains("ENCRYPTED")) {
                return Err(encrypted());
            }
            if found.is_some() {
                return Err("holds several private keys; keep the certificate's own".to_owned());
            }
            found = Some(Self { der: Zeroizing::new(block.into_contents()), pkcs1 });
        }
        found.ok_or_else(|| format!("holds no private key; {EXPECTED}"))
    }

    /// The certificate of the bundle that has this key's public half.
    pub(crate) fn find_certificate<'a>(
        &self,
        bundle: &'a [Certificate],
    ) -> Result<(&'a Certificate, MatchedKey), CertifiedKeyError> {
        let mut readable = false;
        for certificate in bundle {
            let Some(algorithm) = certificate.algorithm else { continue };
            let Some((public, pkcs8)) = self.halves(algorithm) else { continue };
            readable = true;
            if public == certificate.public_key {
                return Ok((certificate, MatchedKey { pkcs8, algorithm }));
            }
        }
        if bundle.iter().all(|certificate| certificate.algorithm.is_none()) {
            return Err(CertifiedKeyError::Certificate(unsupported()));
        }
        let weak = |algorithm| matches!(algorithm, Some(KeyAlgorithm::Rsa(bits)) if bits < 2048);
        if let Some(leaf) = bundle.first()
            && weak(leaf.algorithm)
        {
            return Err(CertifiedKeyError::Certificate(
                "has an RSA key of fewer than 2048 bits, which this device does not use; give \
                 one of 2048 to 8192 bits"
                    .to_owned(),
            ));
        }
        // A key of another kind than the certificate's is not readable as that kind: look whether
        // it is a key at all.
        let kinds = [
            KeyAlgorithm::Rsa(0),
            KeyAlgorithm::P224,
            KeyAlgorithm::P256,
            KeyAlgorithm::P384,
            KeyAlgorithm::P521,
        ];
        if !readable && kinds.into_iter().all(|kind| self.halves(kind).is_none()) {
            return Err(CertifiedKeyError::Key(format!(
                "is not a readable private key: {}",
                unsupported()
            )));
        }
        let subject = bundle.first().map(|leaf| describe(&leaf.der)).unwrap_or_default();
        Err(CertifiedKeyError::Key(format!(
            "does not belong to the certificate {subject}: their public keys differ; give the key \
             that the certificate was made for"
        )))
    }

    /// The public half, as certificates hold it, and the whole key as PKCS#8; `None` where this is
    /// not a key of that kind.
    fn halves(&self, algorithm: KeyAlgorithm) -> Option<(Vec<u8>, SecretBytes)> {
        let curve: &'static EcdsaSigningAlgorithm = match algorithm {
            KeyAlgorithm::Rsa(_) => return self.rsa_halves(),
            KeyAlgorithm::P224 => return self.p224_halves(),
            KeyAlgorithm::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            KeyAlgorithm::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
            KeyAlgorithm::P521 => &ECDSA_P521_SHA512_ASN1_SIGNING,
        };
        if self.pkcs1 {
            return None;
        }
        let pair = EcdsaKeyPair::from_private_key_der(curve, &self.der).ok()?;
        let pkcs8 = pair.to_pkcs8v1().ok()?;
        Some((pair.public_key().as_ref().to_vec(), SecretBytes::new(pkcs8.as_ref().to_vec())))
    }

    /// aws-lc-rs does not have the curve.
    fn p224_halves(&self) -> Option<(Vec<u8>, SecretBytes)> {
        use p224::elliptic_curve::sec1::ToEncodedPoint as _;
        use p224::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
        if self.pkcs1 {
            return None;
        }
        let key = p224::SecretKey::from_pkcs8_der(&self.der)
            .ok()
            .or_else(|| p224::SecretKey::from_sec1_der(&self.der).ok())?;
        let public = key.public_key().to_encoded_point(false);
        let pkcs8 = key.to_pkcs8_der().ok()?;
        Some((public.as_bytes().to_vec(), SecretBytes::new(pkcs8.as_bytes().to_vec())))
    }

    fn rsa_halves(&self) -> Option<(Vec<u8>, SecretBytes)> {
        let pair = if self.pkcs1 {
            rsa::KeyPair::from_der(&self.der).ok()?
        } else {
            rsa::KeyPair::from_pkcs8(&self.der).ok()?
        };
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().ok()?;
        Some((pair.public_key().as_ref().to_vec(), SecretBytes::new(pkcs8.as_ref().to_vec())))
    }
}

fn encrypted() -> String {
    "is encrypted, which is not supported here; decrypt it: openssl pkey -in FILE -out PLAIN"
        .to_owned()
}

fn unsupported() -> String {
    "this device uses RSA keys of 2048 to 8192 bits and ECDSA keys on P-224, P-256, P-384 and P-521; \
     give one of those"
        .to_owned()
}
