//! The keys of all forged certificates: one P-256, one RSA-2048, made once a process.
//!
//! For: clients of both kinds. An RSA key takes some hundred milliseconds to make, so it is made
//! with the first policy and never per certificate. Keys live in aws-lc's memory only, which wipes
//! them when freed. Fails by [`ForgerError::LeafKey`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use weir_policy::suites::{Allowed, Protocol};
use zeroize::Zeroizing;

use super::ForgerError;
use crate::hello::ClientHello;
use crate::key::KeyKind;
use crate::names::{Group, Version};

/// secp256r1.
const P256: Group = Group(0x0017);

/// Which of the two keys a forged certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LeafKind {
    /// P-256.
    Ecdsa,
    /// 2048 bits.
    Rsa,
}

/// Both keys. One set serves all client proxies.
pub struct LeafKeys {
    ecdsa: LeafKey,
    rsa: LeafKey,
    certificates: AtomicU64,
}

pub(super) struct LeafKey {
    pub(super) key: Arc<dyn SigningKey>,
    /// SubjectPublicKeyInfo, raw.
    pub(super) info: Vec<u8>,
    /// For the legacy stack, which loads the key itself.
    pub(super) pkcs8: Arc<Zeroizing<Vec<u8>>>,
}

impl LeafKeys {
    /// # Errors
    /// [`ForgerError::LeafKey`], where there are no random bytes.
    pub fn generate() -> Result<Arc<Self>, ForgerError> {
        let failed = |_| ForgerError::LeafKey;
        // The documents wipe themselves when dropped.
        let ecdsa =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
                .map_err(failed)?;
        let rsa = KeyPair::generate(KeySize::Rsa2048).map_err(failed)?.as_der().map_err(failed)?;
        let (ecdsa, rsa) = (LeafKey::load(ecdsa.as_ref())?, LeafKey::load(rsa.as_ref())?);
        Ok(Arc::new(Self { ecdsa, rsa, certificates: AtomicU64::new(0) }))
    }

    /// Certificates forged for either key so far, by all forgers that have them.
    pub fn certificates(&self) -> u64 {
        self.certificates.load(Relaxed)
    }

    pub(super) fn count_certificate(&self) {
        self.certificates.fetch_add(1, Relaxed);
    }

    pub(super) fn of(&self, kind: LeafKind) -> &LeafKey {
        match kind {
            LeafKind::Ecdsa => &self.ecdsa,
            LeafKind::Rsa => &self.rsa,
        }
    }
}

impl LeafKey {
    fn load(pkcs8: &[u8]) -> Result<Self, ForgerError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
        let key = any_supported_type(&der).map_err(|_| ForgerError::LeafKey)?;
        let info = key.public_key().ok_or(ForgerError::LeafKey)?.to_vec();
        Ok(Self { key, info, pkcs8: Arc::new(Zeroizing::new(pkcs8.to_vec())) })
    }
}

impl LeafKind {
    pub fn key_kind(self) -> KeyKind {
        match self {
            Self::Ecdsa => KeyKind::P256,
            Self::Rsa => KeyKind::Rsa,
        }
    }

    /// What this client can be shown within what the proxy allows: ECDSA where it can, since it
    /// costs a tenth of RSA; `None` where neither will do. Before TLS 1.3 a client's groups are those of
    /// certificates' keys as well (RFC 8422 section 5.1), though many do not look: one that does not name P-256
    /// is shown it only where it takes no RSA.
    pub fn for_client(hello: &ClientHello, allowed: &Allowed) -> Option<Self> {
        let has_tls13 = allowed.version(Protocol::Tls13)
            && allowed.usable().any(|suite| suite.used_in(Protocol::Tls13));
        let is_tls13 = has_tls13 && hello.versions.contains(&Version::TLS13);
        let knows = is_tls13 || hello.groups.is_empty() || hello.groups.contains(&P256);
        let kinds = if knows { [Self::Ecdsa, Self::Rsa] } else { [Self::Rsa, Self::Ecdsa] };
        let modern = kinds.iter().find(|kind| hello.supported_with(kind.key_kind(), allowed));
        // The other stack only where this one cannot answer at all (SPEC T13).
        let legacy =
            || kinds.iter().find(|kind| hello.supported_by_legacy(kind.key_kind(), allowed));
        modern.or_else(legacy).copied()
    }
}

impl fmt::Debug for LeafKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeafKeys")
    }
}
