//! What decrypts: proxies for servers whose keys are here, and for clients of all others (SPEC P3, P4).
//!
//! For: their settings as a snapshot has them. Does not fail.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::CertifiedKey;
use crate::revocation::{Revocation, RevocationUnknown};
use crate::suites::Allowed;

/// SPEC P3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerProxy {
    pub name: String,
    pub destinations: Vec<IpNet>,
    pub detection_ports: Vec<PortRange>,
    pub service: Service,
    /// At least one; the first is the default for names that match none (SPEC T6).
    pub certificates: Vec<CertifiedKey>,
    /// Reset the server's connection on a block, too (SPEC T8).
    pub reset_server_on_block: bool,
    /// Its sessions are in the TLS inspection log (SPEC T8).
    #[serde(default)]
    pub logging: bool,
    /// HTTP/2 is kept from being agreed on, so that HTTP/1 is inspected (SPEC T8).
    #[serde(default)]
    pub downgrade_http2: bool,
    /// What either side may negotiate (SPEC T1, T2).
    #[serde(default)]
    pub allowed: Allowed,
    /// A server that asks for a client certificate (SPEC T10).
    #[serde(default)]
    pub on_client_certificate_request: OnRefusal,
    /// Seconds for which that is bypassed, once learnt.
    #[serde(default = "learnt_bypass_time")]
    pub learnt_bypass_time: u32,
}

/// SPEC P4.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientProxy {
    pub name: String,
    pub detection_ports: Vec<PortRange>,
    pub service: Service,
    pub signing_certificate: CertifiedKey,
    pub block_invalid_certificates: bool,
    pub block_expired_certificates: bool,
    /// Reset the client's connection on a block, too (SPEC T8).
    pub reset_client_on_block: bool,
    /// Its sessions are in the TLS inspection log (SPEC T8).
    #[serde(default)]
    pub logging: bool,
    /// HTTP/2 is kept from being agreed on, so that HTTP/1 is inspected (SPEC T8).
    #[serde(default)]
    pub downgrade_http2: bool,
    /// Bits; a shorter RSA key in a server's chain makes its certificate invalid (SPEC T8).
    #[serde(default = "minimum_rsa_key_length")]
    pub minimum_rsa_key_length: u16,
    /// What either side may negotiate (SPEC T1, T2); at least one suite serves RSA (SPEC P4).
    #[serde(default)]
    pub allowed: Allowed,
    /// A client whose hello has an encrypted one inside, or GREASE that looks like it (SPEC T12).
    #[serde(default)]
    pub on_encrypted_client_hello: OnEncryptedClientHello,
    /// A server that asks for a client certificate (SPEC T10).
    #[serde(default)]
    pub on_client_certificate_request: OnRefusal,
    /// A client that rejects the forged certificate twice within a minute for one server name.
    #[serde(default)]
    pub on_pinned_client: OnRefusal,
    /// Seconds for which either is bypassed, once learnt.
    #[serde(default = "learnt_bypass_time")]
    pub learnt_bypass_time: u32,
    /// Where it is looked whether a server's certificate is revoked (SPEC T12).
    #[serde(default)]
    pub revocation: Revocation,
    /// Where nobody says so in time.
    #[serde(default)]
    pub revocation_unknown: RevocationUnknown,
}

/// What becomes of a session whose ClientHello has an `encrypted_client_hello` extension. Most
/// browsers send one always: what they mean by it cannot be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnEncryptedClientHello {
    /// Under the outer server name. A client that meant it takes the answer for a server that has
    /// no such keys any more, and tries again without (RFC 9849 section 6.1.6).
    #[default]
    Decrypt,
    Bypass,
    Block,
}

impl OnEncryptedClientHello {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Decrypt => "decrypt",
            Self::Bypass => "bypass",
            Self::Block => "block",
        }
    }
}

/// What becomes of sessions that cannot be decrypted because one end refuses, once that is known.
/// The first of them is blocked in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRefusal {
    #[default]
    Block,
    Bypass,
}

/// What a proxy has for sessions that cannot be decrypted because one end refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusals<'a> {
    /// The proxy's name, which one of the other kind may have as well.
    pub proxy: &'a str,
    pub is_server_proxy: bool,
    pub on_client_certificate_request: OnRefusal,
    pub on_pinned_client: OnRefusal,
    pub learnt_bypass_time: u32,
}

impl<'a> From<&'a ServerProxy> for Refusals<'a> {
    /// No certificate of its is forged: nobody has pinned another.
    fn from(proxy: &'a ServerProxy) -> Self {
        Self {
            proxy: &proxy.name,
            is_server_proxy: true,
            on_client_certificate_request: proxy.on_client_certificate_request,
            on_pinned_client: OnRefusal::Block,
            learnt_bypass_time: proxy.learnt_bypass_time,
        }
    }
}

impl<'a> From<&'a ClientProxy> for Refusals<'a> {
    fn from(proxy: &'a ClientProxy) -> Self {
        Self {
            proxy: &proxy.name,
            is_server_proxy: false,
            on_client_certificate_request: proxy.on_client_certificate_request,
            on_pinned_client: proxy.on_pinned_client,
            learnt_bypass_time: proxy.learnt_bypass_time,
        }
    }
}

/// What holds where a proxy does not say: a day.
pub const LEARNT_BYPASS_TIME: u32 = 86_400;

fn learnt_bypass_time() -> u32 {
    LEARNT_BYPASS_TIME
}

/// What holds where a client proxy does not say (SPEC T8).
pub const MINIMUM_RSA_KEY_LENGTH: u16 = 2048;

fn minimum_rsa_key_length() -> u16 {
    MINIMUM_RSA_KEY_LENGTH
}

/// The decrypted service: which decoder inspects the plaintext (SPEC P3, I1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    #[default]
    Http,
    /// Service-independent filters only.
    Other,
}

/// Inclusive, `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}
