//! What a client proxy asks of others about a server's certificate (SPEC T12).
//!
//! For: the settings as a snapshot has them. Not for: asking (the agent fetches, the engine judges).
//! Does not fail.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Networks of [`crate::snapshot::Device::fetch_private_networks`].
pub const MOST_FETCH_NETWORKS: usize = 64;

/// Where it is looked whether a server's certificate is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Revocation {
    /// In what the server staples, nowhere else.
    #[default]
    Stapled,
    /// There; then its authority is asked by OCSP, then its list is fetched.
    Fetched,
}

impl Revocation {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stapled => "stapled",
            Self::Fetched => "fetched",
        }
    }
}

/// What a certificate is of which nobody says in time whether it is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationUnknown {
    /// As good as one that is not.
    #[default]
    Accept,
    /// As bad as one that does not verify.
    Untrusted,
}

impl RevocationUnknown {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Untrusted => "untrusted",
        }
    }
}

/// Nothing is ever fetched from these, whatever is configured: the appliance's loopback, its link (which
/// has a cloud's metadata service), what is no single host.
const NEVER: [IpNet; 8] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32)),
    // The unspecified address, loopback, and what once stood for IPv4 addresses.
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 96)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)),
];

/// By which a translator reaches the IPv4 address in the last 32 bits (RFC 6052, RFC 8215).
const TRANSLATED: [Ipv6Net; 2] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
];

/// Whether nothing is ever fetched from this address, or the one inside it.
pub fn is_never_fetched_from(address: IpAddr) -> bool {
    let host = host_of(address);
    NEVER.iter().any(|never| never.contains(&host))
}

/// Whom this address leads to: an IPv4 address that is inside an IPv6 one is meant.
pub fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if TRANSLATED.iter().any(|prefix| prefix.contains(&address)) => {
            let [.., a, b, c, d] = address.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        address => address,
    }
}

/// Whether a network has anything but such addresses.
pub(crate) fn is_fetched_from(network: &IpNet) -> bool {
    !NEVER.iter().any(|never| never.contains(network))
}
