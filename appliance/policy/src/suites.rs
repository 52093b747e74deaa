//! The one table of cipher suites (SPEC T1, T2): what each is made of, in which protocol versions
//! it may be used, whether it is on by default, and which TLS stack has it.
//!
//! For: the configuration document, the console's table, choosing a stack, and printing code
//! points. Not for: code points that Weir never speaks; those have no line here. Cannot fail.
//!
//! Code points and names: IANA's "TLS Cipher Suites". Versions: RFC 8446 (TLS 1.3), RFC 5246 (GCM
//! and SHA-2 in TLS 1.2), RFC 8422 (ECDHE needs extensions, so TLS 1.0 or later), RFC 6101.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A protocol version, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    Ssl30,
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

/// How the session's secret is agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyExchange {
    /// TLS 1.3: (EC)DHE or ML-KEM, negotiated apart from the suite.
    Negotiated,
    Ecdhe,
    Rsa,
}

/// The kind of the server's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// TLS 1.3: negotiated apart from the suite.
    Negotiated,
    Ecdsa,
    Rsa,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bulk {
    Aes128Cbc,
    Aes256Cbc,
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20,
    TripleDes,
}

/// What keeps records from being altered: an HMAC's hash, or the AEAD's own tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mac {
    Sha1,
    Sha256,
    Sha384,
    Gcm,
    Poly1305,
}

/// Which TLS stack speaks a suite (SPEC T13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Memory-safe: TLS 1.3, and TLS 1.2 with ECDHE and AEAD. The legacy stack has these too.
    Modern,
    /// The legacy stack alone.
    Legacy,
}

/// Stacks of this build. A suite of another stack is not supported by the device (SPEC P9).
pub const STACKS: &[Stack] = &[Stack::Modern, Stack::Legacy];

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Suite {
    /// IANA's code point.
    pub id: u16,
    /// IANA's name.
    pub name: &'static str,
    /// Weakest and strongest version that it may be used in.
    pub versions: (Protocol, Protocol),
    pub key_exchange: KeyExchange,
    pub authentication: Authentication,
    pub bulk: Bulk,
    pub mac: Mac,
    /// Offered where a proxy says nothing else.
    pub on_by_default: bool,
    pub stack: Stack,
}

/// All of them, in the order in which the device prefers them where it may choose.
pub static TABLE: [Suite; 25] = {
    use {Authentication as A, Bulk as B, KeyExchange as K, Mac as M};
    [
        tls13(0x1302, "TLS_AES_256_GCM_SHA384", B::Aes256Gcm, M::Gcm),
        tls13(0x1301, "TLS_AES_128_GCM_SHA256", B::Aes128Gcm, M::Gcm),
        tls13(0x1303, "TLS_CHACHA20_POLY1305_SHA256", B::ChaCha20, M::Poly1305),
        aead(0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", A::Ecdsa, B::Aes256Gcm, M::Gcm),
        aead(0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", A::Ecdsa, B::Aes128Gcm, M::Gcm),
        aead(
            0xcca9,
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            A::Ecdsa,
            B::ChaCha20,
            M::Poly1305,
        ),
        aead(0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", A::Rsa, B::Aes256Gcm, M::Gcm),
        aead(0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", A::Rsa, B::Aes128Gcm, M::Gcm),
        aead(
            0xcca8,
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            A::Rsa,
            B::ChaCha20,
            M::Poly1305,
        ),
        // ECDSA with CBC is off by default, whatever its MAC.
        Suite {
            on_by_default: false,
            ..tls12(
                0xc024,
                "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384",
                K::Ecdhe,
                A::Ecdsa,
                B::Aes256Cbc,
                M::Sha384,
            )
        },
        Suite {
            on_by_default: false,
            ..tls12(
                0xc023,
                "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
                K::Ecdhe,
                A::Ecdsa,
                B::Aes128Cbc,
                M::Sha256,
            )
        },
        tls12(
            0xc028,
            "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384",
            K::Ecdhe,
            A::Rsa,
            B::Aes256Cbc,
            M::Sha384,
        ),
        tls12(
            0xc027,
            "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
            K::Ecdhe,
            A::Rsa,
            B::Aes128Cbc,
            M::Sha256,
        ),
        Suite {
            on_by_default: false,
            ..ecdhe_sha1(0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", A::Ecdsa, B::Aes256Cbc)
        },
        Suite {
            on_by_default: false,
            ..ecdhe_sha1(0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", A::Ecdsa, B::Aes128Cbc)
        },
        ecdhe_sha1(0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", A::Rsa, B::Aes256Cbc),
        ecdhe_sha1(0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", A::Rsa, B::Aes128Cbc),
        tls12(0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384", K::Rsa, A::Rsa, B::Aes256Gcm, M::Gcm),
        tls12(0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256", K::Rsa, A::Rsa, B::Aes128Gcm, M::Gcm),
        tls12(0x003d, "TLS_RSA_WITH_AES_256_CBC_SHA256", K::Rsa, A::Rsa, B::Aes256Cbc, M::Sha256),
        tls12(0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256", K::Rsa, A::Rsa, B::Aes128Cbc, M::Sha256),
        rsa_sha1(0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA", B::Aes256Cbc),
        rsa_sha1(0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA", B::Aes128Cbc),
        ecdhe_sha1(0xc012, "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", A::Rsa, B::TripleDes),
        rsa_sha1(0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA", B::TripleDes),
    ]
};

const fn tls13(id: u16, name: &'static str, bulk: Bulk, mac: Mac) -> Suite {
    Suite {
        id,
        name,
        versions: (Protocol::Tls13, Protocol::Tls13),
        key_exchange: KeyExchange::Negotiated,
        authentication: Authentication::Negotiated,
        bulk,
        mac,
        on_by_default: true,
        stack: Stack::Modern,
    }
}

/// TLS 1.2 only, legacy stack.
const fn tls12(
    id: u16,
    name: &'static str,
    key_exchange: KeyExchange,
    authentication: Authentication,
    bulk: Bulk,
    mac: Mac,
) -> Suite {
    Suite {
        id,
        name,
        versions: (Protocol::Tls12, Protocol::Tls12),
        key_exchange,
        authentication,
        bulk,
        mac,
        on_by_default: true,
        stack: Stack::Legacy,
    }
}

/// TLS 1.2 with ECDHE and AEAD, modern stack.
const fn aead(
    id: u16,
    name: &'static str,
    authentication: Authentication,
    bulk: Bulk,
    mac: Mac,
) -> Suite {
    let suite = tls12(id, name, KeyExchange::Ecdhe, authentication, bulk, mac);
    Suite { stack: Stack::Modern, ..suite }
}

const fn ecdhe_sha1(
    id: u16,
    name: &'static str,
    authentication: Authentication,
    bulk: Bulk,
) -> Suite {
    let suite = tls12(id, name, KeyExchange::Ecdhe, authentication, bulk, Mac::Sha1);
    Suite { versions: (Protocol::Tls10, Protocol::Tls12), ..suite }
}

const fn rsa_sha1(id: u16, name: &'static str, bulk: Bulk) -> Suite {
    let suite = tls12(id, name, KeyExchange::Rsa, Authentication::Rsa, bulk, Mac::Sha1);
    Suite { versions: (Protocol::Ssl30, Protocol::Tls12), ..suite }
}

impl Suite {
    pub fn by_id(id: u16) -> Option<&'static Self> {
        TABLE.iter().find(|suite| suite.id == id)
    }

    pub fn by_name(name: &str) -> Option<&'static Self> {
        TABLE.iter().find(|suite| suite.name == name)
    }

    pub fn used_in(&self, version: Protocol) -> bool {
        (self.versions.0..=self.versions.1).contains(&version)
    }

    /// This build has a stack that speaks it.
    pub fn supported(&self) -> bool {
        STACKS.contains(&self.stack)
    }

    /// A server with an RSA certificate can use it (SPEC P4).
    pub fn serves_rsa(&self) -> bool {
        self.authentication != Authentication::Ecdsa
    }
}

/// What a proxy may negotiate on either side (SPEC T1, T2, P3, P4). Both sides of a session
/// negotiate by themselves, within the same bounds (SPEC T4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Allowed {
    /// Every version between the two is allowed as well (SPEC T1: contiguous).
    pub weakest: Protocol,
    pub strongest: Protocol,
    /// Code points that stand in [`TABLE`].
    pub suites: Vec<u16>,
}

impl Default for Allowed {
    /// TLS 1.0 to 1.3, and what the table has on.
    fn default() -> Self {
        let on = TABLE.iter().filter(|suite| suite.on_by_default);
        Self {
            weakest: Protocol::Tls10,
            strongest: Protocol::Tls13,
            suites: on.map(|suite| suite.id).collect(),
        }
    }
}

impl Allowed {
    /// SSL 3.0 to TLS 1.3, and the whole table.
    pub fn everything() -> Self {
        Self {
            weakest: Protocol::Ssl30,
            strongest: Protocol::Tls13,
            suites: TABLE.iter().map(|suite| suite.id).collect(),
        }
    }

    pub fn version(&self, version: Protocol) -> bool {
        (self.weakest..=self.strongest).contains(&version)
    }

    pub fn suite(&self, suite: &Suite) -> bool {
        self.suites.contains(&suite.id)
    }

    /// Allowed suites that may be used in some allowed version.
    pub fn usable(&self) -> impl Iterator<Item = &'static Suite> {
        TABLE.iter().filter(|suite| {
            self.suite(suite)
                && suite.versions.0 <= self.strongest
                && suite.versions.1 >= self.weakest
        })
    }
}

impl Protocol {
    pub const ALL: [Self; 5] = [Self::Ssl30, Self::Tls10, Self::Tls11, Self::Tls12, Self::Tls13];

    pub fn by_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.code() == code)
    }

    /// As on the wire.
    pub fn code(self) -> u16 {
        match self {
            Self::Ssl30 => 0x0300,
            Self::Tls10 => 0x0301,
            Self::Tls11 => 0x0302,
            Self::Tls12 => 0x0303,
            Self::Tls13 => 0x0304,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ssl30 => "SSL 3.0",
            Self::Tls10 => "TLS 1.0",
            Self::Tls11 => "TLS 1.1",
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}

impl fmt::Display for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Negotiated => "any",
            Self::Ecdhe => "ECDHE",
            Self::Rsa => "RSA",
        })
    }
}

impl fmt::Display for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Negotiated => "any",
            Self::Ecdsa => "ECDSA",
            Self::Rsa => "RSA",
        })
    }
}

impl fmt::Display for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128Cbc => "AES-128 CBC",
            Self::Aes256Cbc => "AES-256 CBC",
            Self::Aes128Gcm => "AES-128 GCM",
            Self::Aes256Gcm => "AES-256 GCM",
            Self::ChaCha20 => "ChaCha20",
            Self::TripleDes => "3DES CBC",
        })
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Gcm => "GCM",
            Self::Poly1305 => "Poly1305",
        })
    }
}

#[cfg(test)]
mod tests;
