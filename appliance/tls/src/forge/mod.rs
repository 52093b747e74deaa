//! Forged certificates: the server's own, copied byte for byte where a client looks, under a
//! signing authority of the device (SPEC T7).
//!
//! For: client inspection. Every forged certificate has one of the process's two leaf keys, P-256
//! for clients that can and RSA for those that cannot, made at start and never written down; it is
//! signed by the proxy's signing certificate, or by the untrusted
//! authority, as the verdict says ([`crate::verify::Verdict::signer`]). Not for: deciding that.
//!
//! Forged certificates are kept in a cache of [`CACHE_BOUND`] entries, least recently used first
//! out ([`ShardedCache`]); an entry that fell out is forged again when asked for. Parallel first visits to one server
//! wait for one forge. Fails by [`ForgeError`] where the server's certificate has no frame that
//! could be copied, and, when made, by [`ForgerError`].

mod copy;
mod leaf_key;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use rustls_pki_types::CertificateDer;
use thiserror::Error;
use weir_policy::snapshot::CertifiedKey;

use self::copy::{Authority, copy_certificate};
pub use self::leaf_key::{LeafKeys, LeafKind};
use crate::certificate::Certificate;
use crate::der::DerError;
use crate::hashed::Hashed;
use crate::key::{KeyError, LegKey};
use crate::sharded::ShardedCache;

/// Forged certificates kept, about 3 KiB each.
pub const CACHE_BOUND: usize = 4096;

/// Who signs a forged certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signer {
    /// The client proxy's signing certificate, which clients trust.
    Trusted,
    /// The built-in authority that nobody trusts, so that the client warns.
    Untrusted,
}

/// Forges for one client proxy.
pub struct Forger {
    trusted: Authority,
    untrusted: Authority,
    leaf_keys: Arc<LeafKeys>,
    cache: ShardedCache<CacheKey, Slot>,
    signatures: AtomicU64,
}

/// Why a forger could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ForgerError {
    #[error("{0} certificate: {1}")]
    Key(&'static str, KeyError),
    #[error("{0} certificate is not an authority's: its basicConstraints do not say CA:TRUE")]
    NotAuthority(&'static str),
    #[error("no leaf key could be made")]
    LeafKey,
}

/// Why a certificate could not be forged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ForgeError {
    #[error("the server's certificate is not DER X.509: {0}")]
    Certificate(#[from] DerError),
    #[error("signing failed: {0}")]
    Signing(String),
    #[error("{0}")]
    Key(#[from] KeyError),
}

/// SHA-256 of the server's leaf certificate, the signer, and whose key.
type CacheKey = ([u8; 32], Signer, LeafKind);

/// Filled by the first of those who ask for it; the others wait in it. An error is kept as well:
/// the same bytes would fail again.
type Slot = Arc<OnceLock<Result<Arc<LegKey>, ForgeError>>>;

impl Forger {
    /// Loads both authorities.
    ///
    /// # Errors
    /// Where an authority's key cannot be used or its certificate is none of an authority.
    pub fn new(
        signing: &CertifiedKey,
        untrusted: &CertifiedKey,
        leaf_keys: Arc<LeafKeys>,
    ) -> Result<Self, ForgerError> {
        Ok(Self {
            trusted: authority(signing, "signing")?,
            untrusted: authority(untrusted, "untrusted authority's")?,
            leaf_keys,
            cache: ShardedCache::new(CACHE_BOUND),
            signatures: AtomicU64::new(0),
        })
    }

    /// The forged certificate for a server's leaf certificate (DER), with the authority's chain
    /// after it and the shared leaf key of this kind.
    ///
    /// Copied as they are: subject, validity, subjectAltName and extendedKeyUsage. What the server's
    /// certificate lacks, the forged one lacks as well: a client that refuses the one (no
    /// subjectAltName, say) refuses the other, as it should.
    ///
    /// # Errors
    /// See [`ForgeError`].
    pub fn forge(
        &self,
        server_leaf: &[u8],
        signer: Signer,
        kind: LeafKind,
    ) -> Result<Arc<LegKey>, ForgeError> {
        self.forge_hashed(&Hashed::new(server_leaf), signer, kind)
    }

    /// The same for a certificate that is hashed already.
    ///
    /// # Errors
    /// See [`ForgeError`].
    pub fn forge_hashed(
        &self,
        server_leaf: &Hashed<'_>,
        signer: Signer,
        kind: LeafKind,
    ) -> Result<Arc<LegKey>, ForgeError> {
        let key = (server_leaf.sha256(), signer, kind);
        let slot = self.cache.with(key, Slot::default, |slot| slot.clone());
        slot.get_or_init(|| self.forge_anew(server_leaf.der(), signer, kind).map(Arc::new)).clone()
    }

    /// Certificates signed so far.
    pub fn signatures(&self) -> u64 {
        self.signatures.load(Relaxed)
    }

    fn forge_anew(
        &self,
        server_leaf: &[u8],
        signer: Signer,
        kind: LeafKind,
    ) -> Result<LegKey, ForgeError> {
        let authority = match signer {
            Signer::Trusted => &self.trusted,
            Signer::Untrusted => &self.untrusted,
        };
        let server = Certificate::parse(server_leaf)?;
        let leaf = self.leaf_keys.of(kind);
        let forged = copy_certificate(&server, authority, &leaf.info, kind)?;
        self.signatures.fetch_add(1, Relaxed);
        self.leaf_keys.count_certificate();
        let chain = std::iter::once(CertificateDer::from(forged))
            .chain(authority.chain().iter().cloned())
            .collect();
        Ok(LegKey::from_parts(chain, leaf.key.clone(), kind.key_kind(), leaf.pkcs8.clone())?)
    }
}

fn authority(pair: &CertifiedKey, whose: &'static str) -> Result<Authority, ForgerError> {
    let key = LegKey::new(pair).map_err(|error| ForgerError::Key(whose, error))?;
    Authority::new(key).ok_or(ForgerError::NotAuthority(whose))
}
