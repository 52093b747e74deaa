//! The compiled policy: whole, immutable, numbered. The agent makes one from a validated
//! configuration and sends it to the engine; nothing in it refers to a file.
//!
//! References between items are indices into the snapshot's own vectors. A configuration compiles to
//! right ones, and [`Snapshot::check`] runs on every snapshot that is deserialised.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use crate::device::{
    Device, Evasion, EvasionAction, FLOW_TABLE, HANDSHAKES_PER_CLIENT, Health, Layer2Fallback,
    LinkDownSynchronisation, MOST_SESSIONS, OverThreshold, SEGMENT_MTU, Segment,
};
use crate::precedence::Precedence;
pub use crate::revocation::{
    MOST_FETCH_NETWORKS, Revocation, RevocationUnknown, host_of, is_never_fetched_from,
};
use crate::secret::SecretBytes;
use crate::suites::Allowed;

/// One generation of policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Snapshot {
    /// Grows by one with every change; a session keeps the generation it started with (SPEC P10).
    pub generation: u64,
    pub device: Device,
    pub segments: Vec<Segment>,
    /// In order: the first that matches a packet owns it (SPEC D3).
    pub virtual_segments: Vec<VirtualSegment>,
    pub profiles: Vec<Profile>,
    pub server_proxies: Vec<ServerProxy>,
    pub client_proxies: Vec<ClientProxy>,
    pub decryption_policies: Vec<DecryptionPolicy>,
    pub trust_stores: Vec<TrustStore>,
    pub filters: Vec<FilterSet>,
    /// What a packet meets before TLS inspection (SPEC D5).
    #[serde(default)]
    pub precedence: Precedence,
    /// Signs what does not verify (SPEC T7); made by the agent at first boot.
    pub untrusted_authority: Option<CertifiedKey>,
}

/// A reference inside a snapshot that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{item} refers to {kind} number {index}, of which there are {count}")]
pub struct DanglingReference {
    pub item: String,
    pub kind: &'static str,
    pub index: usize,
    pub count: usize,
}

impl Snapshot {
    /// Whether every index refers to something.
    pub fn check(&self) -> Result<(), DanglingReference> {
        let refer = |item: String, kind, index: usize, count: usize| {
            let dangling = DanglingReference { item, kind, index, count };
            if index < count { Ok(()) } else { Err(dangling) }
        };
        for segment in &self.virtual_segments {
            let item = format!("virtual segment {:?}", segment.name);
            refer(item, "profile", segment.profile, self.profiles.len())?;
        }
        for profile in &self.profiles {
            for policy in &profile.server_policies {
                let item = format!("server policy {:?}", policy.name);
                refer(item, "server proxy", policy.server_proxy, self.server_proxies.len())?;
            }
            for policy in &profile.client_policies {
                let item = || format!("client policy {:?}", policy.name);
                refer(item(), "client proxy", policy.client_proxy, self.client_proxies.len())?;
                if let Some(index) = policy.decryption_policy {
                    let count = self.decryption_policies.len();
                    refer(item(), "decryption policy", index, count)?;
                }
                refer(item(), "trust store", policy.trust_store, self.trust_stores.len())?;
            }
            for index in &profile.filters {
                let item = format!("profile {:?}", profile.name);
                refer(item, "filter set", *index, self.filters.len())?;
            }
        }
        Ok(())
    }
}

impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The derived one: `remote = "Self"` makes it an inherent function.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Snapshot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let snapshot = Self::deserialize(deserializer)?;
        snapshot.check().map_err(D::Error::custom)?;
        Ok(snapshot)
    }
}

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct SegmentId(pub u16);

/// A side of a segment: the port a packet came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    A,
    B,
}

/// A match on segment and direction, VLANs and addresses; carries one profile (SPEC D3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VirtualSegment {
    pub name: String,
    /// Empty: every segment.
    pub segments: Vec<SegmentId>,
    /// The side the client's SYN comes in by; `None`: both.
    pub from: Option<Side>,
    /// Empty: any VLAN and none.
    pub vlans: Vec<u16>,
    /// Empty: any.
    pub sources: Vec<IpNet>,
    /// Empty: any.
    pub destinations: Vec<IpNet>,
    /// Index into [`Snapshot::profiles`].
    pub profile: usize,
}

/// An inspection profile: what a virtual segment does with its traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    pub name: String,
    pub server_policies: Vec<ServerPolicy>,
    pub client_policies: Vec<ClientPolicy>,
    /// Indices into [`Snapshot::filters`].
    pub filters: Vec<usize>,
}

/// SPEC P8.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerPolicy {
    pub name: String,
    /// Index into [`Snapshot::server_proxies`].
    pub server_proxy: usize,
    /// Clients whose sessions are never decrypted.
    pub source_exceptions: Vec<IpNet>,
}

/// SPEC P7.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientPolicy {
    pub name: String,
    /// Index into [`Snapshot::client_proxies`].
    pub client_proxy: usize,
    /// Index into [`Snapshot::decryption_policies`].
    pub decryption_policy: Option<usize>,
    /// Index into [`Snapshot::trust_stores`].
    pub trust_store: usize,
    /// Clients whose sessions are never decrypted.
    pub source_exceptions: Vec<IpNet>,
    #[serde(default)]
    pub quic: QuicAction,
}

/// What becomes of QUIC to a client policy's port 443 (SPEC D14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuicAction {
    /// Refused, so that clients fall back to TCP, which is decrypted.
    #[default]
    Block,
    Bypass,
}

impl QuicAction {
    pub fn word(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Bypass => "bypass",
        }
    }
}

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

/// What tells that a session is with a domain not to decrypt (SPEC T5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecidedBy {
    /// The server name that the client sends.
    #[default]
    ServerName,
    /// The server's certificate, verified for that name; without a name, the certificate's own.
    ServerCertificate,
}

impl DecidedBy {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::ServerName => "server-name",
            Self::ServerCertificate => "server-certificate",
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

/// What holds where a client proxy does not say: a day.
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

/// SPEC P5, domains only; `*.example.org` matches any depth below, not the bare domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecryptionPolicy {
    pub name: String,
    pub domains_not_to_decrypt: Vec<DomainPattern>,
    #[serde(default)]
    pub decided_by: DecidedBy,
}

impl DecryptionPolicy {
    /// Whether a domain of this name is not to be decrypted.
    pub fn excepts(&self, name: &str) -> bool {
        self.domains_not_to_decrypt.iter().any(|pattern| pattern.matches(name))
    }
}

/// SPEC P6.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrustStore {
    pub name: String,
    /// Certificates of authorities, DER.
    #[serde(with = "der_list")]
    pub authorities: Vec<Vec<u8>>,
    /// Mozilla's list as well.
    pub default_ca_package: bool,
}

/// Rules as written, with the name the messages about them use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterSet {
    pub name: String,
    /// Where the text came from: a file's path, or the place in the configuration document.
    pub origin: String,
    /// Rules in Suricata's syntax, a line each (SPEC I2).
    pub rules: String,
}

/// A certificate chain (leaf first, DER) and its private key (PKCS#8 DER).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertifiedKey {
    #[serde(with = "der_list")]
    pub chain: Vec<Vec<u8>>,
    pub key: SecretBytes,
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

/// A domain name or a `*.` wildcard, lower case, no trailing dot, A-labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DomainPattern {
    /// The name without `*.`.
    pub domain: String,
    /// Matches every name below `domain`, and not `domain` itself.
    pub wildcard: bool,
}

impl DomainPattern {
    /// `name` is matched as it came from the wire: any case, with or without a trailing dot.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        if !self.wildcard {
            return name.eq_ignore_ascii_case(&self.domain);
        }
        let Some(cut) = name.len().checked_sub(self.domain.len()) else { return false };
        match (name.get(..cut), name.get(cut..)) {
            (Some(below), Some(domain)) => {
                below.len() > 1 && below.ends_with('.') && domain.eq_ignore_ascii_case(&self.domain)
            }
            _ => false,
        }
    }
}

/// Whether an address lies in one of the networks; an empty list matches everything.
pub fn any_or_in(networks: &[IpNet], address: IpAddr) -> bool {
    networks.is_empty() || networks.iter().any(|network| network.contains(&address))
}

/// DER blobs as base64 strings.
mod der_list {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|der| STANDARD.encode(der)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
        Vec::<String>::deserialize(from)?
            .iter()
            .map(|text| STANDARD.decode(text).map_err(D::Error::custom))
            .collect()
    }
}
