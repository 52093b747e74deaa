//! A fatal alert that ends a session in good order, for which rustls has no call.
//!
//! For: telling one leg's peer what the other leg's peer said. Of its owner's will rustls ends a
//! session by close_notify alone. So each suite's encrypter stands behind one that, inside
//! [`closing_with`], encrypts the alert in the close_notify's place: keys, sequence numbers and
//! framing stay rustls's own. Cannot fail.

use std::cell::Cell;
use std::sync::LazyLock;

use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, Iv, KeyBlockShape, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundOpaqueMessage, OutboundPlainMessage, Tls12AeadAlgorithm, Tls13AeadAlgorithm,
    UnsupportedOperationError,
};
use rustls::{
    CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite,
    Tls12CipherSuite, Tls13CipherSuite,
};

use crate::alert::Alert;

/// RFC 8446 section 6.
const FATAL: u8 = 2;

thread_local! {
    static CLOSING: Cell<Option<Alert>> = const { Cell::new(None) };
}

/// Runs `act`, in which a connection sends its close_notify: its peer gets this alert instead.
pub(super) fn closing_with<T>(alert: Alert, act: impl FnOnce() -> T) -> T {
    CLOSING.set(Some(alert));
    let done = act();
    CLOSING.set(None);
    done
}

/// The provider's suites, each with such an encrypter. Made once: rustls keeps suites by reference,
/// and sessions are resumed by them.
pub(super) fn suites(provider: &CryptoProvider) -> Vec<SupportedCipherSuite> {
    static WRAPPED: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| {
        rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES.iter().copied().map(wrapped).collect()
    });
    let wanted = |one: &&SupportedCipherSuite| {
        provider.cipher_suites.iter().any(|other| other.suite() == one.suite())
    };
    WRAPPED.iter().filter(wanted).copied().collect()
}

fn wrapped(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: common.confidentiality_limit,
    };
    match suite {
        SupportedCipherSuite::Tls12(suite) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: common(&suite.common),
                prf_provider: suite.prf_provider,
                kx: suite.kx,
                sign: suite.sign,
                aead_alg: Box::leak(Box::new(Tls12(suite.aead_alg))),
            })))
        }
        SupportedCipherSuite::Tls13(suite) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: common(&suite.common),
                hkdf_provider: suite.hkdf_provider,
                aead_alg: Box::leak(Box::new(Tls13(suite.aead_alg))),
                quic: None,
            })))
        }
    }
}

struct Tls12(&'static dyn Tls12AeadAlgorithm);

impl Tls12AeadAlgorithm for Tls12 {
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        Box::new(Encrypter(self.0.encrypter(key, iv, extra)))
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        self.0.decrypter(key, iv)
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.0.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv, explicit)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct Tls13(&'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for Tls13 {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Encrypter(self.0.encrypter(key, iv)))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.0.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct Encrypter(Box<dyn MessageEncrypter>);

impl MessageEncrypter for Encrypter {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        match (message.typ, CLOSING.get()) {
            (ContentType::Alert, Some(alert)) => {
                let bytes = [FATAL, alert.0];
                let payload = OutboundChunks::Single(&bytes);
                self.0.encrypt(OutboundPlainMessage { payload, ..message }, sequence)
            }
            _ => self.0.encrypt(message, sequence),
        }
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.0.encrypted_payload_len(payload_len)
    }
}
