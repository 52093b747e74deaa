//! Whether the modern stack can answer a ClientHello.
//!
//! For: bypassing what cannot be decrypted instead of breaking it (SPEC T11). It must ask for all
//! that rustls asks for, since rustls answers a hello it dislikes by an alert.

use weir_policy::suites::{Allowed, Authentication, Protocol, Stack};

use crate::hello::ClientHello;
use crate::key::KeyKind;
use crate::names::{Group, SignatureScheme, Suite, Version};

/// X25519MLKEM768, x25519, secp256r1, secp384r1.
const GROUPS: [Group; 4] = [Group(0x11ec), Group(0x001d), Group(0x0017), Group(0x0018)];

const ALL_KINDS: [KeyKind; 3] = [KeyKind::P256, KeyKind::P384, KeyKind::Rsa];

impl ClientHello {
    /// True if the modern stack can answer this hello with some certificate, where a proxy allows
    /// what is on by default: TLS 1.3, or TLS 1.2 with ECDHE and AEAD.
    pub fn supported(&self) -> bool {
        ALL_KINDS.iter().any(|kind| self.supported_with(*kind, &Allowed::default()))
    }

    /// The same with a certificate of this key type, where a proxy allows this.
    pub fn supported_with(&self, kind: KeyKind, allowed: &Allowed) -> bool {
        let group = self.groups.iter().any(|group| GROUPS.contains(group));
        if !group || !self.null_compression {
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
                KeyKind::Rsa => &[0x0804, 0x0805, 0x0806],
            };
            return offers(Protocol::Tls13, Authentication::Negotiated) && signs(schemes);
        }
        if !self.versions.contains(&Version::TLS12) {
            return false;
        }
        let (authentication, schemes): (_, &[u16]) = match kind {
            KeyKind::P256 => (Authentication::Ecdsa, &[0x0403]),
            KeyKind::P384 => (Authentication::Ecdsa, &[0x0503]),
            KeyKind::Rsa => {
                (Authentication::Rsa, &[0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806])
            }
        };
        offers(Protocol::Tls12, authentication) && signs(schemes)
    }
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
