//! Reputation: prefixes that are blocked or permitted, up to a million, the longest prefix wins.
//!
//! For: reading lists, looking addresses up, carrying them between processes in few bytes. Not for:
//! feeds and how they are fetched. Fails with the line that is no address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Most entries of all lists together.
pub const MAX_ENTRIES: usize = 1_000_000;

/// What an entry says of the addresses below its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    Block,
    /// An exception from a shorter prefix that is blocked.
    Permit,
}

/// All entries, each network once. Clones share them.
#[derive(Clone, Default, PartialEq)]
pub struct Reputation {
    /// In order of networks.
    entries: Arc<[(IpNet, Standing)]>,
    /// Bit n: there are prefixes of n bits.
    lengths: (u64, u128),
}

impl Reputation {
    /// Of several entries for one network the first in the list counts.
    pub fn new(mut entries: Vec<(IpNet, Standing)>) -> Self {
        entries.sort_by_key(|(network, _)| *network); // stable
        entries.dedup_by_key(|(network, _)| *network);
        let mut lengths = (0, 0);
        for (network, _) in &entries {
            match network {
                IpNet::V4(network) => lengths.0 |= 1 << network.prefix_len(),
                // Of 129 lengths, 128 share a bit with 127: one more search, no less.
                IpNet::V6(network) => lengths.1 |= 1 << network.prefix_len().min(127),
            }
        }
        Self { entries: entries.into(), lengths }
    }

    pub fn entries(&self) -> &[(IpNet, Standing)] {
        &self.entries
    }

    /// The longest prefix's standing.
    pub fn of(&self, address: IpAddr) -> Option<Standing> {
        self.entry_of(address).map(|(_, standing)| standing)
    }

    /// The entry with the longest prefix.
    pub fn entry_of(&self, address: IpAddr) -> Option<(IpNet, Standing)> {
        let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|length| {
            let present = match address {
                IpAddr::V4(_) => self.lengths.0 >> length & 1 == 1,
                IpAddr::V6(_) => self.lengths.1 >> length.min(127) & 1 == 1,
            };
            let network = present.then(|| IpNet::new(address, length).ok()).flatten()?.trunc();
            let place = self.entries.binary_search_by_key(&network, |(entry, _)| *entry).ok()?;
            self.entries.get(place).copied()
        })
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block",
            Self::Permit => "permit",
        })
    }
}

/// An entry of a list: an address or a CIDR without host bits, of either family.
pub fn entry(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().ok()?,
    };
    (network.trunc() == network).then_some(network)
}

/// Bytes of an entry: address, prefix length, standing.
const FOUR: usize = 4 + 2;
const SIX: usize = 16 + 2;

/// Carried as two base64 texts: 8 characters an IPv4 entry, 24 an IPv6 one.
#[derive(Serialize, Deserialize)]
struct Packed {
    four: String,
    six: String,
}

impl Serialize for Reputation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut four, mut six) = (Vec::new(), Vec::new());
        for (network, standing) in self.entries.iter() {
            let of = |bytes: &mut Vec<u8>, address: &[u8]| {
                bytes.extend_from_slice(address);
                bytes.extend([network.prefix_len(), u8::from(*standing == Standing::Permit)]);
            };
            match network.addr() {
                IpAddr::V4(address) => of(&mut four, &address.octets()),
                IpAddr::V6(address) => of(&mut six, &address.octets()),
            }
        }
        Packed { four: STANDARD.encode(four), six: STANDARD.encode(six) }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Reputation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let packed = Packed::deserialize(deserializer)?;
        let four = STANDARD.decode(packed.four).map_err(D::Error::custom)?;
        let six = STANDARD.decode(packed.six).map_err(D::Error::custom)?;
        let (four, four_rest) = four.as_chunks::<FOUR>();
        let (six, six_rest) = six.as_chunks::<SIX>();
        if !four_rest.is_empty() || !six_rest.is_empty() {
            return Err(D::Error::custom("reputation does not consist of whole entries"));
        }
        if four.len() + six.len() > MAX_ENTRIES {
            return Err(D::Error::custom(format!("reputation has over {MAX_ENTRIES} entries")));
        }
        let mut entries = Vec::with_capacity(four.len() + six.len());
        for [a, b, c, d, length, permit] in four {
            let network = Ipv4Net::new(Ipv4Addr::new(*a, *b, *c, *d), *length);
            entries
                .push((IpNet::V4(network.map_err(D::Error::custom)?.trunc()), standing(*permit)));
        }
        for [address @ .., length, permit] in six {
            let network = Ipv6Net::new(Ipv6Addr::from(*address), *length);
            entries
                .push((IpNet::V6(network.map_err(D::Error::custom)?.trunc()), standing(*permit)));
        }
        Ok(Self::new(entries))
    }
}

fn standing(permit: u8) -> Standing {
    if permit == 0 { Standing::Block } else { Standing::Permit }
}

impl fmt::Debug for Reputation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reputation({} entries)", self.entries.len())
    }
}
