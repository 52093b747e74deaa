//! What several test files share: generated certificates, and two legs talking in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize, SignatureAlgorithm,
};
use weir_policy::SecretBytes;
use weir_policy::snapshot::CertifiedKey;
use weir_tls::{LeafKeys, LegError, TlsLeg};

pub struct Authority {
    pub issuer: Issuer<'static, KeyPair>,
    pub pair: CertifiedKey,
}

impl Authority {
    pub fn der(&self) -> &[u8] {
        &self.pair.chain[0]
    }
}

/// Made once: an RSA key takes long.
pub fn leaf_keys() -> Arc<LeafKeys> {
    static KEYS: LazyLock<Arc<LeafKeys>> = LazyLock::new(|| LeafKeys::generate().unwrap());
    KEYS.clone()
}

pub fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

pub fn key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    if std::ptr::eq(algorithm, &PKCS_RSA_SHA256) {
        KeyPair::generate_rsa_for(algorithm, RsaKeySize::_2048).unwrap()
    } else {
        KeyPair::generate_for(algorithm).unwrap()
    }
}

pub fn authority(name: &str, algorithm: &'static SignatureAlgorithm) -> Authority {
    authority_with(name, algorithm, |_| {})
}

pub fn authority_with(
    name: &str,
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> Authority {
    let mut params = authority_params(name);
    change(&mut params);
    let key = key(algorithm);
    let certificate = params.self_signed(&key).unwrap();
    let pair = pair(vec![certificate.der().to_vec()], &key);
    Authority { issuer: Issuer::new(params, key), pair }
}

pub fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// An authority below another.
pub fn intermediate(
    name: &str,
    parent: &Authority,
    change: impl FnOnce(&mut CertificateParams),
) -> Authority {
    let mut params = authority_params(name);
    params.use_authority_key_identifier_extension = true;
    change(&mut params);
    let key = p256();
    let certificate = params.signed_by(&key, &parent.issuer).unwrap();
    let pair = pair(vec![certificate.der().to_vec()], &key);
    Authority { issuer: Issuer::new(params, key), pair }
}

pub fn leaf(parent: &Authority, names: &[&str]) -> CertifiedKey {
    leaf_with(parent, names, &PKCS_ECDSA_P256_SHA256, |_| {})
}

pub fn leaf_with(
    parent: &Authority,
    names: &[&str],
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> CertifiedKey {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, "a server");
    params.distinguished_name.push(DnType::OrganizationName, "Example & Söhne");
    params.use_authority_key_identifier_extension = true;
    change(&mut params);
    let key = key(algorithm);
    let certificate = params.signed_by(&key, &parent.issuer).unwrap();
    pair(vec![certificate.der().to_vec(), parent.der().to_vec()], &key)
}

pub fn pair(chain: Vec<Vec<u8>>, key: &KeyPair) -> CertifiedKey {
    CertifiedKey { chain, key: SecretBytes::new(key.serialize_der()) }
}

/// Carries wire bytes between two legs until neither has any, `step` at a time.
pub fn pump(
    left: &mut dyn TlsLeg,
    right: &mut dyn TlsLeg,
    step: usize,
) -> Result<(), (LegError, &'static str)> {
    for _ in 0..10_000 {
        let mut wire = Vec::new();
        left.write_wire(&mut wire);
        let mut quiet = wire.is_empty();
        for part in wire.chunks(step) {
            right.read_wire(part).map_err(|error| (error, "right"))?;
        }
        wire.clear();
        right.write_wire(&mut wire);
        quiet &= wire.is_empty();
        for part in wire.chunks(step) {
            left.read_wire(part).map_err(|error| (error, "left"))?;
        }
        if quiet {
            return Ok(());
        }
    }
    panic!("the legs never stop talking");
}

/// All plaintext a leg has.
pub fn plain(leg: &mut dyn TlsLeg) -> Vec<u8> {
    let mut out = Vec::new();
    leg.read_plain(&mut out);
    out
}

/// Runs the openssl command in `directory`; panics unless it succeeds.
pub fn openssl(directory: &std::path::Path, arguments: &[&str]) -> Output {
    let output = openssl_status(directory, arguments);
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub fn openssl_status(directory: &std::path::Path, arguments: &[&str]) -> Output {
    Command::new("openssl").args(arguments).current_dir(directory).output().expect("openssl runs")
}

/// Reads a PEM file's first block as DER through openssl.
pub fn der_of(directory: &std::path::Path, certificate: &str) -> Vec<u8> {
    openssl(directory, &["x509", "-in", certificate, "-outform", "DER"]).stdout
}

pub fn pkcs8_of(directory: &std::path::Path, key: &str) -> SecretBytes {
    let arguments = ["pkcs8", "-topk8", "-nocrypt", "-in", key, "-outform", "DER"];
    SecretBytes::new(openssl(directory, &arguments).stdout)
}

pub fn write(directory: &std::path::Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}
