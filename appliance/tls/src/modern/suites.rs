//! rustls' suites with our own record protection ([`Protection`]).
//!
//! For: rustls encrypts and decrypts by keys that the leg has a hand on as well, which is told of
//! each as rustls makes it ([`witness::note_keys`]); and a fatal alert in a close_notify's place,
//! inside [`super::closing_alert::closing_with`]; and TLS 1.3's HKDF ([`super::key_derivation`]). Not for:
//! key exchange, key schedule, negotiation: these stay rustls' own. Cannot fail but for keys whose length
//! rustls itself defines.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305};
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape, MessageDecrypter,
    MessageEncrypter, OutboundChunks, OutboundOpaqueMessage, OutboundPlainMessage,
    Tls12AeadAlgorithm, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::crypto::hash::HashAlgorithm;
use rustls::crypto::tls13::Hkdf;
use rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error,
    SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
};

use super::closing_alert;
use super::key_derivation::{HKDF_SHA256, HKDF_SHA384};
use super::protection::{Construction, Protection};
use super::witness::{Way, note_keys};

/// The provider's suites, each with such keys. Made once: rustls keeps suites by reference, and
/// sessions are resumed by them.
pub(super) fn suites(provider: &CryptoProvider) -> Vec<SupportedCipherSuite> {
    static WRAPPED: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| {
        rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES.iter().copied().filter_map(wrapped).collect()
    });
    let wanted = |one: &&SupportedCipherSuite| {
        provider.cipher_suites.iter().any(|other| other.suite() == one.suite())
    };
    WRAPPED.iter().filter(wanted).copied().collect()
}

/// `None`: a suite that is not known here.
fn wrapped(suite: SupportedCipherSuite) -> Option<SupportedCipherSuite> {
    let algorithm = algorithm(suite.suite())?;
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: common.confidentiality_limit,
    };
    Some(match suite {
        SupportedCipherSuite::Tls12(suite) => {
            let construction = if suite.aead_alg.key_block_shape().explicit_nonce_len > 0 {
                Construction::Tls12Explicit
            } else {
                Construction::Tls12Implicit
            };
            let keys = Keys { algorithm, construction, limit: TLS12_LIMIT };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: common(&suite.common),
                prf_provider: suite.prf_provider,
                kx: suite.kx,
                sign: suite.sign,
                aead_alg: Box::leak(Box::new(Tls12 { original: suite.aead_alg, keys })),
            })))
        }
        SupportedCipherSuite::Tls13(suite) => {
            let limit = suite.common.confidentiality_limit;
            let keys = Keys { algorithm, construction: Construction::Tls13, limit };
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: common(&suite.common),
                hkdf_provider: hkdf(suite)?,
                aead_alg: Box::leak(Box::new(Tls13 { original: suite.aead_alg, keys })),
                quic: None,
            })))
        }
    })
}

fn algorithm(suite: CipherSuite) -> Option<&'static Algorithm> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => &AES_128_GCM,
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => &AES_256_GCM,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => &CHACHA20_POLY1305,
        _ => return None,
    })
}

fn hkdf(suite: &Tls13CipherSuite) -> Option<&'static dyn Hkdf> {
    match suite.common.hash_provider.algorithm() {
        HashAlgorithm::SHA256 => Some(&HKDF_SHA256),
        HashAlgorithm::SHA384 => Some(&HKDF_SHA384),
        _ => None,
    }
}

/// Records under one key of TLS 1.2. The bound of RFC 8446 section 5.5 (2^24 and a half for GCM, some
/// 400 GB) is of TLS 1.3, where the next key is a message away. TLS 1.2 has no such message, and neither
/// RFC 5246 nor RFC 5288 such a bound, nor has OpenSSL: its ends go on under the same key, and if we
/// did not, their session would break in the middle for being inspected. What no key may do is come to
/// the end of its numbers (RFC 5246 section 6.1), which is half of them away.
const TLS12_LIMIT: u64 = 1 << 63;

/// What a suite's keys are made with.
#[derive(Clone, Copy)]
struct Keys {
    algorithm: &'static Algorithm,
    construction: Construction,
    limit: u64,
}

impl Keys {
    fn protection(&self, key: &AeadKey, iv: &[u8]) -> Option<Arc<Protection>> {
        let Self { algorithm, construction, limit } = *self;
        Protection::new(algorithm, construction, key.as_ref(), iv, limit).map(Arc::new)
    }

    fn encrypter(&self, key: &AeadKey, iv: &[u8]) -> Box<dyn MessageEncrypter> {
        let protection = self.protection(key, iv);
        note_keys(Way::Out, protection.clone());
        Box::new(Encrypter(protection))
    }

    fn decrypter(&self, key: &AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        let protection = self.protection(key, iv);
        note_keys(Way::In, protection.clone());
        Box::new(Decrypter(protection))
    }
}

struct Tls12 {
    original: &'static dyn Tls12AeadAlgorithm,
    keys: Keys,
}

impl Tls12AeadAlgorithm for Tls12 {
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        self.keys.encrypter(&key, &[iv, extra].concat())
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        self.keys.decrypter(&key, iv)
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.original.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.original.extract_keys(key, iv, explicit)
    }

    fn fips(&self) -> bool {
        self.original.fips()
    }
}

struct Tls13 {
    original: &'static dyn Tls13AeadAlgorithm,
    keys: Keys,
}

impl Tls13AeadAlgorithm for Tls13 {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.keys.encrypter(&key, iv.as_ref())
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.keys.decrypter(&key, iv.as_ref())
    }

    fn key_len(&self) -> usize {
        self.original.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.original.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.original.fips()
    }
}

/// `None`: a key of a length that rustls, which asks for it, does not make; nothing goes out then.
struct Encrypter(Option<Arc<Protection>>);

impl MessageEncrypter for Encrypter {
    /// rustls' own number of the record does not count: it knows of its own records only.
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        _: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let protection = self.0.as_ref().ok_or(Error::EncryptError)?;
        match closing_alert::due() {
            Some(alert) if message.typ == ContentType::Alert => {
                let payload = OutboundChunks::Single(&alert);
                protection.encrypt(&OutboundPlainMessage { payload, ..message })
            }
            _ => protection.encrypt(&message),
        }
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.0.as_ref().map_or(payload_len, |protection| protection.sealed_length(payload_len))
    }
}

struct Decrypter(Option<Arc<Protection>>);

impl MessageDecrypter for Decrypter {
    /// As [`Encrypter::encrypt`].
    fn decrypt<'a>(
        &mut self,
        message: InboundOpaqueMessage<'a>,
        _: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        self.0.as_ref().ok_or(Error::DecryptError)?.decrypt(message)
    }
}
