//! The compiled policy: whole, immutable, numbered. The agent makes one from a validated
//! configuration and sends it to the engine; nothing in it refers to a file.
//!
//! References between items are indices into the snapshot's own vectors. A configuration compiles to
//! right ones, and [`Snapshot::check`] runs on every snapshot that is deserialised.

mod domains;
mod proxies;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::domains::{DecidedBy, DecryptionPolicy, DomainPattern};
pub use self::proxies::{
    ClientProxy, LEARNT_BYPASS_TIME, MINIMUM_RSA_KEY_LENGTH, OnEncryptedClientHello, OnRefusal,
    PortRange, Refusals, ServerProxy, Service,
};
pub use crate::device::{
    CongestionControl, Device, Evasion, EvasionAction, FLOW_TABLE, HANDSHAKES_PER_CLIENT, Health,
    IDLE_TIMEOUT, Layer2Fallback, LinkDownSynchronisation, MOST_SESSIONS, OverThreshold,
    SEGMENT_MTU, Segment,
};
use crate::precedence::Precedence;
pub use crate::revocation::{
    MOST_FETCH_NETWORKS, Revocation, RevocationUnknown, host_of, is_never_fetched_from,
};
use crate::secret::SecretBytes;

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
