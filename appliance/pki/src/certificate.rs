//! PEM bundles of certificates: read, ordered, described.

use std::fmt::Write;

use aws_lc_rs::digest;
use weir_policy::material::KeyAlgorithm;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::MAX_BUNDLE;

/// A certificate with what is needed to find its key and its issuer.
pub(crate) struct Certificate {
    pub(crate) der: Vec<u8>,
    /// Raw names (RFC 5280, section 4.1.2.4).
    subject: Vec<u8>,
    issuer: Vec<u8>,
    /// `None`: a kind of key that this device does not use.
    pub(crate) algorithm: Option<KeyAlgorithm>,
    /// The bits of the subject's public key: a point, or an RSAPublicKey.
    pub(crate) public_key: Vec<u8>,
}

/// All certificates of a PEM text, in its order, duplicates left out; at least one.
pub(crate) fn bundle(text: &[u8]) -> Result<Vec<Certificate>, String> {
    if text.first() == Some(&0x30) {
        return Err("is DER, not PEM; convert it: openssl x509 -inform der -in FILE".to_owned());
    }
    let blocks = pem::parse_many(text).map_err(|error| {
        format!("is not valid PEM ({error}); -----BEGIN CERTIFICATE----- is expected")
    })?;
    if blocks.len() > MAX_BUNDLE {
        return Err(format!("has {} PEM blocks; at most {MAX_BUNDLE} are read", blocks.len()));
    }
    let mut certificates = Vec::<Certificate>::new();
    for block in blocks {
        match block.tag() {
            "CERTIFICATE" | "X509 CERTIFICATE" => {
                let number = certificates.len() + 1;
                let certificate = parse(block.into_contents())
                    .map_err(|why| format!("certificate {number} is not readable: {why}"))?;
                if !certificates.iter().any(|other| other.der == certificate.der) {
                    certificates.push(certificate);
                }
            }
            "TRUSTED CERTIFICATE" => {
                return Err("is an OpenSSL trusted certificate; convert it: openssl x509 -in FILE"
                    .to_owned());
            }
            // Keys, parameters and the like may stand in one file with the certificates.
            _ => {}
        }
    }
    if certificates.is_empty() {
        return Err("holds no certificate; -----BEGIN CERTIFICATE----- is expected".to_owned());
    }
    Ok(certificates)
}

fn parse(der: Vec<u8>) -> Result<Certificate, String> {
    let (rest, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
    if !rest.is_empty() {
        return Err(format!("{} bytes follow its end", rest.len()));
    }
    let (subject, issuer) = (parsed.subject().as_raw().to_vec(), parsed.issuer().as_raw().to_vec());
    let public_key = parsed.public_key().subject_public_key.data.to_vec();
    let algorithm = algorithm(&parsed);
    Ok(Certificate { subject, issuer, algorithm, public_key, der })
}

/// secp224r1 (RFC 5480 section 2.1.1.1).
const OID_EC_P224: &str = "1.3.132.0.33";

fn algorithm(parsed: &X509Certificate<'_>) -> Option<KeyAlgorithm> {
    let info = parsed.public_key();
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => u32::try_from(key.key_size()).ok().map(KeyAlgorithm::Rsa),
        Ok(PublicKey::EC(_)) => {
            let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
            if curve.to_id_string() == OID_EC_P224 {
                Some(KeyAlgorithm::P224)
            } else if curve == oid::OID_EC_P256 {
                Some(KeyAlgorithm::P256)
            } else if curve == oid::OID_NIST_EC_P384 {
                Some(KeyAlgorithm::P384)
            } else if curve == oid::OID_NIST_EC_P521 {
                Some(KeyAlgorithm::P521)
            } else {
                None
            }
        }
        _ => None,
    }
}

/// Whether the certificate may sign others: basic constraints say CA, and key usage, where it is
/// there, has keyCertSign (RFC 5280, sections 4.2.1.9 and 4.2.1.3).
pub(crate) fn may_sign(der: &[u8]) -> Result<bool, String> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let usage = parsed.key_usage().map_err(|error| format!("its key usage is wrong: {error}"))?;
    Ok(parsed.is_ca() && usage.is_none_or(|usage| usage.value.key_cert_sign()))
}

/// The chain from a leaf: each certificate followed by its issuer, by name; then the others.
pub(crate) fn ordered(leaf: &Certificate, bundle: &[Certificate]) -> Vec<Vec<u8>> {
    let mut left = bundle.iter().filter(|other| other.der != leaf.der).collect::<Vec<_>>();
    let mut chain = vec![leaf.der.clone()];
    let mut current = leaf;
    while current.issuer != current.subject
        && let Some(place) = left.iter().position(|other| other.subject == current.issuer)
    {
        current = left.remove(place);
        chain.push(current.der.clone());
    }
    chain.extend(left.into_iter().map(|other| other.der.clone()));
    chain
}

/// Subject and SHA-256 fingerprint on one line: `CN=www.example.org (SHA-256 AB:CD:...)`.
pub fn describe(der: &[u8]) -> String {
    let subject = match X509Certificate::from_der(der) {
        Ok((_, parsed)) => match parsed.subject().to_string() {
            subject if subject.is_empty() => "(no subject)".to_owned(),
            subject => subject.replace(char::is_control, "?"),
        },
        Err(_) => "(unreadable)".to_owned(),
    };
    format!("{subject} (SHA-256 {})", fingerprint(der))
}

/// SHA-256 of the DER, as `openssl x509 -fingerprint -sha256` writes it.
pub fn fingerprint(der: &[u8]) -> String {
    let mut text = String::new();
    for byte in digest::digest(&digest::SHA256, der).as_ref() {
        let colon = if text.is_empty() { "" } else { ":" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{colon}{byte:02X}");
    }
    text
}
