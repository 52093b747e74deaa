//! Whether the legacy stack can answer a ClientHello, and what it may be told to negotiate.
//!
//! For: taking over what the modern stack cannot answer, and releasing what neither can (SPEC T11,
//! T13). Not for: hellos that the modern stack can answer; those never reach the legacy stack.
//!
//! RFC 5246 section 7.4.1.4.1 (no signature schemes: SHA-1), RFC 8422 section 4 (no groups: the
//! server chooses).

use weir_policy::suites::{Allowed, Authentication, KeyExchange, Protocol, Suite as Line};

use super::ClientHello;
use crate::key::KeyKind;
use crate::names::{Group, SignatureScheme, Suite, Version};

/// The groups of the legacy stack, which has all of the modern one's.
pub(super) const GROUPS: [u16; 10] =
    [0x11ec, 0x001d, 0x0017, 0x0018, 0x0019, 0x0015, 0x001e, 0x0100, 0x0101, 0x0102];
/// Those that TLS 1.2 and older have in suites with ECDHE: the others are fields of DHE, which has no suite
/// here.
const CURVES: [u16; 6] = [0x001d, 0x0017, 0x0018, 0x0019, 0x0015, 0x001e];

/// Some of each kind of key that both stacks sign with.
const SCHEMES: [u16; 6] = [0x0401, 0x0403, 0x0503, 0x0603, 0x0804, 0x0203];

/// Bounds for one leg of the legacy stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyBounds {
    /// Weakest and strongest; both have suites.
    pub versions: (Protocol, Protocol),
    /// Code points, in order of preference.
    pub suites: Vec<u16>,
}

impl LegacyBounds {
    /// What a proxy allows; `None` where no suite may be used in any version. Versions at either end
    /// that have no suite are left out: OpenSSL would choose one, and then find that.
    pub fn under(allowed: &Allowed) -> Option<Self> {
        let suites: Vec<&Line> = allowed.usable().collect();
        let has_suite = |version: &Protocol| {
            allowed.version(*version) && suites.iter().any(|suite| suite.used_in(*version))
        };
        let weakest = Protocol::ALL.into_iter().find(has_suite)?;
        let strongest = Protocol::ALL.into_iter().rfind(has_suite)?;
        let suites = suites.into_iter().map(|suite| suite.id).collect();
        Some(Self { versions: (weakest, strongest), suites })
    }

    /// The same for a leg to a server whose client offers nothing over this version: some servers
    /// stumble over a hello that does, and that client would reach them by itself.
    pub fn for_client_up_to(client: Protocol, allowed: &Allowed) -> Option<Self> {
        let strongest = allowed.strongest.min(client);
        Self::under(&Allowed { strongest, ..allowed.clone() })
    }

    /// The same for a leg that shows a certificate of this key type: TLS 1.3 cannot be spoken with one
    /// on P-224.
    pub fn with_key(kind: KeyKind, allowed: &Allowed) -> Option<Self> {
        if kind != KeyKind::P224 {
            return Self::under(allowed);
        }
        let strongest = allowed.strongest.min(Protocol::Tls12);
        Self::under(&Allowed { strongest, ..allowed.clone() })
    }
}

impl ClientHello {
    /// True if some stack can answer this hello with some certificate under some proxy.
    pub fn supported_by_any_stack(&self) -> bool {
        let all = Allowed::everything();
        let kinds = [KeyKind::P256, KeyKind::P384, KeyKind::P521, KeyKind::Rsa, KeyKind::P224];
        self.supported() || kinds.iter().any(|kind| self.supported_by_legacy(*kind, &all))
    }

    /// The same hello as from a client that has all groups and signature schemes that either stack has.
    pub fn with_all_groups_and_signatures(&self) -> Self {
        let mut hello = self.clone();
        hello.groups.extend(GROUPS.map(Group));
        hello.signature_schemes.extend(SCHEMES.map(SignatureScheme));
        hello
    }

    /// True if the legacy stack can answer it with a certificate of this key type, where a proxy
    /// allows this.
    pub fn supported_by_legacy(&self, kind: KeyKind, allowed: &Allowed) -> bool {
        let Some(bounds) = LegacyBounds::with_key(kind, allowed) else { return false };
        if !self.null_compression {
            return false;
        }
        // The strongest common version is the one that is negotiated, with a suite or without.
        let (weakest, strongest) = bounds.versions;
        let chosen = Protocol::ALL.into_iter().rfind(|version| {
            (weakest..=strongest).contains(version) && self.offers_version(*version)
        });
        let Some(chosen) = chosen else { return false };
        let offered = bounds
            .suites
            .iter()
            .filter(|id| self.cipher_suites.contains(&Suite(**id)))
            .filter_map(|id| Line::by_id(*id));
        offered.filter(|suite| suite.used_in(chosen)).any(|suite| self.agrees(suite, kind, chosen))
    }

    /// The strongest version that it offers; `None`: none that has a number here.
    pub fn strongest_version(&self) -> Option<Protocol> {
        Protocol::ALL.into_iter().rfind(|version| self.offers_version(*version))
    }

    pub(super) fn offers_version(&self, version: Protocol) -> bool {
        const SUPPORTED_VERSIONS: u16 = 43;
        let code = Version(version.code());
        if self.extensions.contains(&SUPPORTED_VERSIONS) {
            return self.versions.contains(&code);
        }
        code <= self.legacy_version && version < Protocol::Tls13
    }

    /// Group, certificate and signature, for one suite.
    fn agrees(&self, suite: &Line, kind: KeyKind, version: Protocol) -> bool {
        let needed = match kind {
            KeyKind::Rsa => Authentication::Rsa,
            KeyKind::P256 | KeyKind::P384 | KeyKind::P521 | KeyKind::P224 => Authentication::Ecdsa,
        };
        if ![needed, Authentication::Negotiated].contains(&suite.authentication) {
            return false;
        }
        if suite.key_exchange == KeyExchange::Rsa {
            return true; // no group, no signature
        }
        let unsaid = self.groups.is_empty() && version < Protocol::Tls13;
        let knows = |code: u16| unsaid || self.groups.iter().any(|group| group.0 == code);
        let curve = match kind {
            KeyKind::Rsa => None,
            KeyKind::P256 => Some(0x0017),
            KeyKind::P384 => Some(0x0018),
            KeyKind::P521 => Some(0x0019),
            KeyKind::P224 => Some(0x0015),
        };
        let groups = if version == Protocol::Tls13 { &GROUPS[..] } else { &CURVES };
        groups.iter().copied().any(knows)
            && (version == Protocol::Tls13 || curve.is_none_or(knows))
            && self.verifies(kind, version)
    }

    fn verifies(&self, kind: KeyKind, version: Protocol) -> bool {
        const RSA: [u16; 7] = [0x0201, 0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806];
        if version < Protocol::Tls12 {
            return true; // MD5 and SHA-1, or SHA-1: nothing to agree on
        }
        if version == Protocol::Tls12 && self.signature_schemes.is_empty() {
            return true; // SHA-1
        }
        let signs =
            |codes: &[u16]| self.signature_schemes.iter().any(|scheme| codes.contains(&scheme.0));
        match (kind, version) {
            (KeyKind::Rsa, Protocol::Tls13) => signs(&RSA[4..]),
            (KeyKind::Rsa, _) => signs(&RSA),
            (KeyKind::P256, Protocol::Tls13) => signs(&[0x0403]),
            (KeyKind::P384, Protocol::Tls13) => signs(&[0x0503]),
            (KeyKind::P521, Protocol::Tls13) => signs(&[0x0603]),
            (KeyKind::P224, Protocol::Tls13) => false,
            // In TLS 1.2 any hash goes with any curve.
            (KeyKind::P256 | KeyKind::P384 | KeyKind::P521 | KeyKind::P224, _) => {
                signs(&[0x0203, 0x0403, 0x0503, 0x0603])
            }
        }
    }
}
