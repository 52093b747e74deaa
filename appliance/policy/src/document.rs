//! The configuration document as it is written: the `weir:` section of user-data (YAML) and
//! `/etc/weir/weir.toml` have the same keys.
//!
//! For: shapes and single values (names, networks, port ranges, domains), each with a message that
//! says what would be right. Not for: what needs a second key to judge; see
//! [`crate::configuration`].

mod rules;
mod scalar;

use ipnet::IpNet;
use serde::Deserialize;

pub(crate) use scalar::{
    Domain, ETHER_TYPES, Name, Network, PROTOCOLS, Ports, Text, Version, Vlan,
};

pub(crate) use rules::{
    BypassSection, MatchSection, QuarantineSection, ReputationSection, TrafficActionWord,
    TrafficFilterSection,
};

use crate::snapshot::{
    CongestionControl, DecidedBy, EvasionAction, Layer2Fallback, LinkDownSynchronisation,
    OnEncryptedClientHello, OnRefusal, OverThreshold, QuicAction, Revocation, RevocationUnknown,
    Service, Side,
};

/// Longest name of a proxy, policy, profile, virtual segment or filter set (SPEC P2).
pub const MAX_NAME: usize = 128;
/// Longest name of a segment or trust store (SPEC P2).
pub const MAX_SHORT_NAME: usize = 64;

/// What holds where no document says otherwise.
pub(crate) const BUILT_IN: &str = "
[device]
client-inspection = true
server-inspection = true
max-concurrent-sessions = 10000
over-threshold = \"bypass\"
max-handshakes-per-client = 512
flow-table = 262144
congestion-control = \"cubic\"
idle-timeout = 0
asymmetric-mode = false
web-mode = false
vlan-translation = false
encrypt-then-mac = false
fetch-intermediates = false
fetch-private-networks = []

[device.health]
heartbeat-timeout = 500
overload-lag = 200
recovery-time = 2
drain-time = 300

[device.evasion]
server-speaks-first = \"bypass\"
syn-data = \"bypass\"
untakeable-options = \"bypass\"
unseen-handshake = \"bypass\"
fragments = \"bypass\"
decoy = \"bypass\"
table-full = \"bypass\"
client-flood = \"block\"
two-passes = \"bypass\"
unread-headers = \"bypass\"
malformed-hello = \"bypass\"
invalid-server-name = \"block\"
oversize-hello = \"bypass\"
incomplete-hello = \"bypass\"
unsupported-tls = \"bypass\"
";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Document {
    pub device: DeviceSection,
    #[serde(default)]
    pub segments: Vec<SegmentSection>,
    #[serde(default)]
    pub virtual_segments: Vec<VirtualSegmentSection>,
    #[serde(default)]
    pub profiles: Vec<ProfileSection>,
    #[serde(default)]
    pub server_proxies: Vec<ServerProxySection>,
    #[serde(default)]
    pub client_proxies: Vec<ClientProxySection>,
    #[serde(default)]
    pub decryption_policies: Vec<DecryptionPolicySection>,
    #[serde(default)]
    pub trust_stores: Vec<TrustStoreSection>,
    #[serde(default)]
    pub filters: Vec<FilterSection>,
    #[serde(default)]
    pub inspection_bypass: Vec<BypassSection>,
    #[serde(default)]
    pub traffic_filters: Vec<TrafficFilterSection>,
    #[serde(default)]
    pub reputation: Vec<ReputationSection>,
    #[serde(default)]
    pub quarantine: QuarantineSection,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DeviceSection {
    pub client_inspection: bool,
    pub server_inspection: bool,
    pub max_concurrent_sessions: u32,
    pub over_threshold: OverThreshold,
    pub max_handshakes_per_client: u32,
    /// Entries.
    pub flow_table: u32,
    pub congestion_control: CongestionControl,
    /// Seconds; 0: never.
    pub idle_timeout: u32,
    pub asymmetric_mode: bool,
    pub web_mode: bool,
    pub vlan_translation: bool,
    pub encrypt_then_mac: bool,
    pub fetch_intermediates: bool,
    pub fetch_private_networks: Vec<Network>,
    pub health: HealthSection,
    pub evasion: EvasionSection,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct EvasionSection {
    pub server_speaks_first: EvasionAction,
    pub syn_data: EvasionAction,
    pub untakeable_options: EvasionAction,
    pub unseen_handshake: EvasionAction,
    pub fragments: EvasionAction,
    pub decoy: EvasionAction,
    pub table_full: EvasionAction,
    pub client_flood: EvasionAction,
    pub two_passes: EvasionAction,
    pub unread_headers: EvasionAction,
    pub malformed_hello: EvasionAction,
    pub invalid_server_name: EvasionAction,
    pub oversize_hello: EvasionAction,
    pub incomplete_hello: EvasionAction,
    pub unsupported_tls: EvasionAction,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct HealthSection {
    /// Milliseconds.
    pub heartbeat_timeout: u32,
    /// Milliseconds.
    pub overload_lag: u32,
    /// Seconds.
    pub recovery_time: u32,
    /// Seconds.
    pub drain_time: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SegmentSection {
    pub id: u16,
    /// Default: `segment ID`.
    pub name: Option<Name<MAX_SHORT_NAME>>,
    #[serde(default)]
    pub layer_2_fallback: Layer2Fallback,
    #[serde(default)]
    pub link_down_synchronisation: LinkDownSynchronisation,
    /// Seconds.
    #[serde(default)]
    pub wait_time: u32,
    pub mtu: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct VirtualSegmentSection {
    pub name: Name<MAX_NAME>,
    /// Default: the place in the list, from 1.
    pub order: Option<u32>,
    #[serde(default)]
    pub segments: Vec<u16>,
    pub from: Option<Side>,
    #[serde(default)]
    pub vlans: Vec<Vlan>,
    #[serde(default)]
    pub sources: Vec<Network>,
    #[serde(default)]
    pub destinations: Vec<Network>,
    pub profile: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ProfileSection {
    pub name: Name<MAX_NAME>,
    #[serde(default)]
    pub server_policies: Vec<ServerPolicySection>,
    #[serde(default)]
    pub client_policies: Vec<ClientPolicySection>,
    #[serde(default)]
    pub filters: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ServerPolicySection {
    pub name: Name<MAX_NAME>,
    pub server_proxy: Text,
    #[serde(default)]
    pub source_exceptions: Vec<Network>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ClientPolicySection {
    pub name: Name<MAX_NAME>,
    pub client_proxy: Text,
    pub decryption_policy: Option<Text>,
    /// Default: the default CA package.
    pub trust_store: Option<Text>,
    #[serde(default)]
    pub source_exceptions: Vec<Network>,
    #[serde(default)]
    pub quic: QuicAction,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ServerProxySection {
    pub name: Name<MAX_NAME>,
    pub destinations: Vec<Network>,
    pub detection_ports: Vec<Ports>,
    #[serde(default)]
    pub service: Service,
    pub certificates: Vec<KeyPairSection>,
    #[serde(default = "yes")]
    pub reset_server_on_block: bool,
    #[serde(default)]
    pub logging: bool,
    #[serde(default)]
    pub downgrade_http2: bool,
    #[serde(default)]
    pub on_client_certificate_request: OnRefusal,
    pub learnt_bypass_time: Option<u32>,
    pub protocols: Option<Vec<Version>>,
    pub suites: Option<Vec<Text>>,
    #[serde(default)]
    pub suites_off: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ClientProxySection {
    pub name: Name<MAX_NAME>,
    pub detection_ports: Vec<Ports>,
    #[serde(default)]
    pub service: Service,
    pub signing_certificate: KeyPairSection,
    #[serde(default)]
    pub block_invalid_certificates: bool,
    #[serde(default)]
    pub block_expired_certificates: bool,
    #[serde(default = "yes")]
    pub reset_client_on_block: bool,
    #[serde(default)]
    pub logging: bool,
    #[serde(default)]
    pub downgrade_http2: bool,
    pub minimum_rsa_key_length: Option<u16>,
    #[serde(default)]
    pub on_encrypted_client_hello: OnEncryptedClientHello,
    #[serde(default)]
    pub on_client_certificate_request: OnRefusal,
    #[serde(default)]
    pub on_pinned_client: OnRefusal,
    pub learnt_bypass_time: Option<u32>,
    #[serde(default)]
    pub revocation: Revocation,
    #[serde(default)]
    pub revocation_unknown: RevocationUnknown,
    pub protocols: Option<Vec<Version>>,
    pub suites: Option<Vec<Text>>,
    #[serde(default)]
    pub suites_off: Vec<Text>,
}

/// PEM inline, or a file's path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct KeyPairSection {
    pub certificate: Text,
    pub key: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct DecryptionPolicySection {
    pub name: Name<MAX_NAME>,
    #[serde(default)]
    pub domains_not_to_decrypt: Vec<Domain>,
    #[serde(default)]
    pub decided_by: DecidedBy,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TrustStoreSection {
    pub name: Name<MAX_SHORT_NAME>,
    #[serde(default)]
    pub certificates: Vec<Text>,
    #[serde(default)]
    pub default_ca_package: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FilterSection {
    pub name: Name<MAX_NAME>,
    pub rules: Option<Text>,
    pub file: Option<Text>,
}

pub(crate) fn networks(list: &[Network]) -> Vec<IpNet> {
    list.iter().map(|network| network.0).collect()
}

fn yes() -> bool {
    true
}
