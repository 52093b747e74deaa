//! Sections of what precedes TLS inspection (SPEC D5, D6).

use serde::Deserialize;

use super::MAX_NAME;
use super::scalar::{EtherType, IpProtocol, Name, Network, Ports, Rate, Text, Vlan};
use crate::precedence::Standing;
use crate::snapshot::Side;

/// What a packet must be; what is left out is any.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct MatchSection {
    #[serde(default)]
    pub segments: Vec<u16>,
    pub from: Option<Side>,
    #[serde(default)]
    pub ether_types: Vec<EtherType>,
    #[serde(default)]
    pub vlans: Vec<Vlan>,
    #[serde(default)]
    pub protocols: Vec<IpProtocol>,
    #[serde(default)]
    pub sources: Vec<Network>,
    #[serde(default)]
    pub destinations: Vec<Network>,
    #[serde(default)]
    pub source_ports: Vec<Ports>,
    #[serde(default)]
    pub destination_ports: Vec<Ports>,
    #[serde(default)]
    pub icmp_types: Vec<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct BypassSection {
    pub name: Name<MAX_NAME>,
    #[serde(rename = "match")]
    pub matching: MatchSection,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TrafficFilterSection {
    pub name: Name<MAX_NAME>,
    #[serde(rename = "match")]
    pub matching: MatchSection,
    pub action: TrafficActionWord,
    /// With `rate-limit` only.
    pub rate: Option<Rate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TrafficActionWord {
    Block,
    Allow,
    Trust,
    RateLimit,
}

/// One of `entries` and `file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ReputationSection {
    pub action: Standing,
    pub entries: Option<Vec<Network>>,
    pub file: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct QuarantineSection {
    /// Minutes; default 60.
    pub timeout: Option<u32>,
    #[serde(default)]
    pub exempt: Vec<Network>,
}
