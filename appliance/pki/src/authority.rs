//! The authority that signs what does not verify (SPEC T7), made by each device for itself.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use time::{Duration, OffsetDateTime};
use weir_policy::SecretBytes;
use weir_policy::snapshot::CertifiedKey;

/// The common name that browsers show when they warn.
pub const UNTRUSTED_AUTHORITY_NAME: &str = "Weir untrusted CA";

const LIFETIME: Duration = Duration::days(3653);
/// Clients' clocks may be a little behind the device's.
const BACKDATED: Duration = Duration::days(1);

#[derive(Debug, thiserror::Error)]
#[error("the untrusted CA cannot be made: {0}")]
pub struct AuthorityError(#[from] rcgen::Error);

/// A new self-signed authority with a P-256 key, valid for ten years, that may sign leaves only.
/// Nobody should ever trust it.
pub fn generate_untrusted_authority() -> Result<CertifiedKey, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, UNTRUSTED_AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc().saturating_sub(BACKDATED);
    params.not_after = params.not_before.saturating_add(LIFETIME);
    let certificate = params.self_signed(&key)?;
    Ok(CertifiedKey {
        chain: vec![certificate.der().to_vec()],
        key: SecretBytes::new(key.serialize_der()),
    })
}
