//! Whether the modern stack can answer a ClientHello.
//!
//! For: bypassing what cannot be decrypted instead of breaking it (SPEC T11). It must ask for all
//! that rustls asks for, since rustls answers a hello it dislikes by an alert. And whether it could
//! have spoken with a server that the legacy stack has spoken with.

use rustls::crypto::aws_lc_rs::default_provider;
use weir_policy::suites::{Allowed, Authentication, Protocol, Stack, Suite as Line};

use super::ModernStack;
use crate::certificate::{Certificate, PublicKey};
use crate::der::{self, Reader};
use crate::hello::ClientHello;
use crate::key::KeyKind;
use crate::leg::Negotiated;
use crate::names::{Group, SignatureScheme, Suite, Version};

pub(super) const X25519MLKEM768: Group = Group(0x11ec);

/// With x25519, secp256r1, secp384r1.
const GROUPS: [Group; 4] = [X25519MLKEM768, Group(0x001d), Group(0x0017), Group(0x0018)];

const ALL_KINDS: [KeyKind; 4] = [KeyKind::P256, KeyKind::P384, KeyKind::P521, KeyKind::Rsa];

impl ClientHello {
    /// True if the modern stack can answer this hello with some certificate, where a proxy allows
    /// what is on by default: TLS 1.3, or TLS 1.2 with ECDHE and AEAD.
    pub fn supported(&self) -> bool {
        ALL_KINDS.iter().any(|kind| self.supported_with(*kind, &Allowed::default()))
    }

    /// The same with a certificate of this key type, where a proxy allows this.
    pub fn supported_with(&self, kind: KeyKind, allowed: &Allowed) -> bool {
        let group = self.groups.iter().any(|group| GROUPS.contains(group));
        let name = self.server_name.as_deref().is_none_or(ModernStack::takes_name);
        if !group || !name || !self.null_compression {
            return false;
        }
        let has_suites = |version| suites(allowed, version).next().is_some();
        let offers = |version, authentication| {
            suites(allowed, version)
                .any(|(id, of)| of == authentication && self.cipher_suites.contains(&Suite(id)))
        };
        let signs = |schemes: &[u16]| {
            self.signature_schemes.iter().any(|SignatureScheme(code)| schemes.contains(code))
        };
        // A client that offers TLS 1.3 is answered with it where it is allowed, or not at all.
        if self.versions.contains(&Version::TLS13) && has_suites(Protocol::Tls13) {
            let schemes: &[u16] = match kind {
                KeyKind::P256 => &[0x0403],
                KeyKind::P384 => &[0x0503],
                KeyKind::P521 => &[0x0603],
                KeyKind::Rsa => &[0x0804, 0x0805, 0x0806],
                KeyKind::P224 => &[],
            };
            return offers(Protocol::Tls13, Authentication::Negotiated) && signs(schemes);
        }
        if !self.versions.contains(&Version::TLS12) {
            return false;
        }
        let (authentication, schemes): (_, &[u16]) = match kind {
            KeyKind::P256 => (Authentication::Ecdsa, &[0x0403]),
            KeyKind::P384 => (Authentication::Ecdsa, &[0x0503]),
            KeyKind::P521 => (Authentication::Ecdsa, &[0x0603]),
            KeyKind::Rsa => {
                (Authentication::Rsa, &[0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806])
            }
            KeyKind::P224 => (Authentication::Ecdsa, &[]),
        };
        offers(Protocol::Tls12, authentication) && signs(schemes)
    }
}

/// Whether a server that agreed on this with the legacy stack, and has this certificate, would have
/// agreed on it with the modern one as well: it then has no need of the other.
pub fn modern_could(negotiated: &Negotiated, leaf: &[u8]) -> bool {
    let suite = Line::by_id(negotiated.suite.0);
    let verifies = |scheme: SignatureScheme| {
        let schemes = default_provider().signature_verification_algorithms.supported_schemes();
        schemes.iter().any(|one| u16::from(*one) == scheme.0)
    };
    negotiated.version >= Version::TLS12
        && suite.is_some_and(|suite| suite.stack == Stack::Modern)
        && negotiated.group.as_ref().is_none_or(|group| GROUPS.contains(group))
        && negotiated.signature.is_none_or(verifies)
        && verifies_with(leaf)
}

/// Whether the modern stack verifies signatures by the certificate's key: RSA of 2048 to 8192 bits,
/// and the curves of its provider.
fn verifies_with(leaf: &[u8]) -> bool {
    let Ok(certificate) = Certificate::parse(leaf) else { return false };
    if let Ok(PublicKey::Rsa(bits)) = certificate.public_key() {
        return (2048..=8192).contains(&bits);
    }
    let algorithm = Reader(certificate.subject_public_key_info)
        .expect(der::SEQUENCE)
        .and_then(|info| Reader(info.contents).expect(der::SEQUENCE));
    let Ok(algorithm) = algorithm else { return false };
    let known = default_provider().signature_verification_algorithms.all;
    known.iter().any(|one| one.public_key_alg_id().as_ref() == algorithm.contents)
}

/// What the modern stack may negotiate in a version.
fn suites(allowed: &Allowed, version: Protocol) -> impl Iterator<Item = (u16, Authentication)> {
    allowed
        .usable()
        .filter(move |suite| {
            suite.stack == Stack::Modern && suite.used_in(version) && allowed.version(version)
        })
        .map(|suite| (suite.id, suite.authentication))
}
