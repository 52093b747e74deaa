//! Whether the modern stack can answer a ClientHello.
//!
//! For: bypassing what cannot be decrypted instead of breaking it (SPEC T11). It must ask for all
//! that rustls asks for, since rustls answers a hello it dislikes by an alert.

use crate::hello::ClientHello;
use crate::key::KeyKind;
use crate::names::{Group, SignatureScheme, Suite, Version};

const SUITES_1_3: [Suite; 3] = [Suite(0x1301), Suite(0x1302), Suite(0x1303)];
const SUITES_1_2_ECDSA: [Suite; 3] = [Suite(0xc02b), Suite(0xc02c), Suite(0xcca9)];
const SUITES_1_2_RSA: [Suite; 3] = [Suite(0xc02f), Suite(0xc030), Suite(0xcca8)];
/// X25519MLKEM768, x25519, secp256r1, secp384r1.
const GROUPS: [Group; 4] = [Group(0x11ec), Group(0x001d), Group(0x0017), Group(0x0018)];

const ALL_KINDS: [KeyKind; 3] = [KeyKind::P256, KeyKind::P384, KeyKind::Rsa];

impl ClientHello {
    /// True if the modern stack can answer this hello with some certificate: TLS 1.3, or TLS 1.2
    /// with ECDHE and AEAD.
    pub fn supported(&self) -> bool {
        ALL_KINDS.iter().any(|kind| self.supported_with(*kind))
    }

    /// The same with a certificate of this key type. A forged certificate's is
    /// [`KeyKind::P256`].
    pub fn supported_with(&self, kind: KeyKind) -> bool {
        let group = self.groups.iter().any(|group| GROUPS.contains(group));
        if !group || !self.null_compression {
            return false;
        }
        let offers =
            |suites: &[Suite]| self.cipher_suites.iter().any(|suite| suites.contains(suite));
        let signs = |schemes: &[u16]| {
            self.signature_schemes.iter().any(|SignatureScheme(code)| schemes.contains(code))
        };
        // A client that offers TLS 1.3 is answered with it, or not at all.
        if self.versions.contains(&Version::TLS13) {
            let schemes: &[u16] = match kind {
                KeyKind::P256 => &[0x0403],
                KeyKind::P384 => &[0x0503],
                KeyKind::Rsa => &[0x0804, 0x0805, 0x0806],
            };
            return offers(&SUITES_1_3) && signs(schemes);
        }
        if !self.versions.contains(&Version::TLS12) {
            return false;
        }
        match kind {
            KeyKind::P256 => offers(&SUITES_1_2_ECDSA) && signs(&[0x0403]),
            KeyKind::P384 => offers(&SUITES_1_2_ECDSA) && signs(&[0x0503]),
            KeyKind::Rsa => {
                offers(&SUITES_1_2_RSA) && signs(&[0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806])
            }
        }
    }
}
