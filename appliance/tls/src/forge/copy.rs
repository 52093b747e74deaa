//! Writes one forged certificate (RFC 5280 section 4).

use aws_lc_rs::digest::{SHA256, digest};
use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;

use super::{ForgeError, LeafKind};
use crate::certificate::{Certificate, oid, public_key_bits};
use crate::der::{self, Reader, element};
use crate::key::{KeyKind, LegKey};

/// An authority with what of its certificate every forged one carries.
pub(super) struct Authority {
    key: LegKey,
    /// Its subject, raw: a forged issuer must be equal byte for byte, repeated attributes and
    /// string types included, or chains do not join.
    subject: Vec<u8>,
    key_identifier: Vec<u8>,
    scheme: SignatureScheme,
    /// AlgorithmIdentifier, raw.
    algorithm: Vec<u8>,
}

impl Authority {
    /// `None` if the certificate is not one of an authority, or of one that nothing here signs for.
    pub(super) fn new(key: LegKey) -> Option<Self> {
        let certificate = Certificate::parse(key.chain().first()?).ok()?;
        if !certificate.is_authority() {
            return None;
        }
        let (scheme, algorithm) = match key.kind() {
            KeyKind::P256 => (SignatureScheme::ECDSA_NISTP256_SHA256, ECDSA_WITH_SHA256),
            KeyKind::P384 => (SignatureScheme::ECDSA_NISTP384_SHA384, ECDSA_WITH_SHA384),
            KeyKind::Rsa => (SignatureScheme::RSA_PKCS1_SHA256, RSA_WITH_SHA256),
            // No client that forged certificates are for knows them all; the document is refused.
            KeyKind::P521 | KeyKind::P224 => return None,
        };
        Some(Self {
            subject: certificate.subject.to_vec(),
            key_identifier: key_identifier(&certificate)?,
            scheme,
            algorithm: algorithm.to_vec(),
            key,
        })
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        self.key.chain()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ForgeError> {
        let failed = |error: rustls::Error| ForgeError::Signing(error.to_string());
        let signer = self
            .key
            .signing_key()
            .choose_scheme(&[self.scheme])
            .ok_or_else(|| ForgeError::Signing("the key has no such scheme".to_owned()))?;
        signer.sign(message).map_err(failed)
    }
}

const ECDSA_WITH_SHA256: &[u8] =
    &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_WITH_SHA384: &[u8] =
    &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const RSA_WITH_SHA256: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00];
/// `[0] { INTEGER 2 }`: version 3.
const VERSION_3: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];
/// critical, digitalSignature: all that a P-256 leaf key does in TLS.
const KEY_USAGE_ECDSA: &[u8] = &[
    0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x07, 0x80,
];
/// critical, digitalSignature and keyEncipherment: an RSA leaf key also decrypts in RSA key exchange.
const KEY_USAGE_RSA: &[u8] = &[
    0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x05, 0xa0,
];
/// critical, cA left at its default of FALSE.
const BASIC_CONSTRAINTS: &[u8] =
    &[0x30, 0x0c, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x02, 0x30, 0x00];
const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x0e];
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x23];

/// A certificate like `server`, issued by `authority` for the key in `info`.
///
/// Left out on purpose: where to ask about revocation, transparency receipts, must-staple and
/// policies, all of which speak about the original. An issuer and serial pair never repeats: the
/// serial is fresh each time.
pub(super) fn copy_certificate(
    server: &Certificate<'_>,
    authority: &Authority,
    info: &[u8],
    kind: LeafKind,
) -> Result<Vec<u8>, ForgeError> {
    let leaf_identifier = identifier_of(public_key_bits(info)?);
    let extensions = [
        BASIC_CONSTRAINTS.to_vec(),
        match kind {
            LeafKind::Ecdsa => KEY_USAGE_ECDSA.to_vec(),
            LeafKind::Rsa => KEY_USAGE_RSA.to_vec(),
        },
        copied(server, oid::EXTENDED_KEY_USAGE),
        extension(SUBJECT_KEY_IDENTIFIER, &element(der::OCTET_STRING, &[&leaf_identifier])),
        extension(
            AUTHORITY_KEY_IDENTIFIER,
            &element(der::SEQUENCE, &[&element(der::context(0), &[&authority.key_identifier])]),
        ),
        copied(server, oid::SUBJECT_ALTERNATIVE_NAME),
    ]
    .concat();
    let certificate = element(
        der::SEQUENCE,
        &[
            VERSION_3,
            &serial_number()?,
            &authority.algorithm,
            &authority.subject,
            server.validity.raw,
            server.subject,
            info,
            &element(der::context_constructed(3), &[&element(der::SEQUENCE, &[&extensions])]),
        ],
    );
    let signature = authority.sign(&certificate)?;
    Ok(element(
        der::SEQUENCE,
        &[&certificate, &authority.algorithm, &element(der::BIT_STRING, &[&[0], &signature])],
    ))
}

/// 16 random bytes, positive and never shortened (RFC 5280 section 4.1.2.2 allows 20).
fn serial_number() -> Result<Vec<u8>, ForgeError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial)
        .map_err(|_| ForgeError::Signing("no random bytes".to_owned()))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(element(der::INTEGER, &[&serial]))
}

/// The server's own extension as it is, its critical flag included; nothing if it has none.
fn copied(server: &Certificate<'_>, id: &[u8]) -> Vec<u8> {
    server.extension(id).map(|extension| extension.raw.to_vec()).unwrap_or_default()
}

/// `id` is the raw object identifier, `value` what the OCTET STRING holds.
fn extension(id: &[u8], value: &[u8]) -> Vec<u8> {
    element(der::SEQUENCE, &[id, &element(der::OCTET_STRING, &[value])])
}

/// The authority's own identifier, or one made of its key where it has none.
fn key_identifier(certificate: &Certificate<'_>) -> Option<Vec<u8>> {
    match certificate.extension(oid::SUBJECT_KEY_IDENTIFIER) {
        Some(extension) => {
            let identifier = Reader(extension.value).expect(der::OCTET_STRING).ok()?;
            Some(identifier.contents.to_vec())
        }
        None => Some(identifier_of(public_key_bits(certificate.subject_public_key_info).ok()?)),
    }
}

/// RFC 7093 section 2, method 1: the first 160 bits of SHA-256 over the public key's bits.
fn identifier_of(public_key: &[u8]) -> Vec<u8> {
    digest(&SHA256, public_key).as_ref().iter().take(20).copied().collect()
}
