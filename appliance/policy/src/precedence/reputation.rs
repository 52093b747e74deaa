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

/// With fewer entries the index of 256 KiB is not worth its memory.
const WORTH_HALVES: usize = 16_384;

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
    /// In order of networks: those of IPv4, then those of IPv6.
    entries: Arc<[(IpNet, Standing)]>,
    /// Where the IPv4 networks of each first half of an address begin, and where the last ends: a search
    /// among a million entries otherwise waits for memory at every step. Empty with few entries.
    halves: Arc<[u32]>,
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
        let halves = if entries.len() < WORTH_HALVES { Vec::new() } else { halves(&entries) };
        Self { entries: entries.into(), halves: halves.into(), lengths }
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
        self.lengths_for(address).find_map(|length| {
            let network = IpNet::new(address, length).ok()?.trunc();
            let entries = self.near(network);
            let place = entries.binary_search_by_key(&network, |(entry, _)| *entry).ok()?;
            entries.get(place).copied()
        })
    }

    /// Of the prefixes there are, the longest first.
    fn lengths_for(&self, address: IpAddr) -> impl Iterator<Item = u8> {
        let (mut left, whole) = match address {
            IpAddr::V4(_) => (self.lengths.0.into(), None),
            // 128 shares a bit with 127.
            IpAddr::V6(_) => (self.lengths.1, (self.lengths.1 >> 127 == 1).then_some(128)),
        };
        whole.into_iter().chain(std::iter::from_fn(move || {
            let length = u128::checked_ilog2(left)?;
            left ^= 1 << length;
            Some(length as u8)
        }))
    }

    /// The entries among which a network is, if it is there at all.
    fn near(&self, network: IpNet) -> &[(IpNet, Standing)] {
        let IpNet::V4(network) = network else { return &self.entries };
        let half = half(network);
        let bounds = self.halves.get(half).zip(self.halves.get(half + 1));
        bounds
            .and_then(|(first, end)| self.entries.get(*first as usize..*end as usize))
            .unwrap_or(&self.entries)
    }
}

/// The first half of a network's address.
fn half(network: Ipv4Net) -> usize {
    (network.network().to_bits() >> 16) as usize
}

/// For [`Reputation::halves`]: one more than there are halves.
fn halves(entries: &[(IpNet, Standing)]) -> Vec<u32> {
    let mut halves = Vec::with_capacity((1 << 16) + 1);
    halves.push(0);
    for (place, (network, _)) in (0..).zip(entries) {
        let IpNet::V4(network) = network else { break };
        // All up to this one's begin here at the latest; where its own ends, those behind it say.
        halves.resize(half(*network) + 1, place);
    }
    let end = entries.iter().filter(|(network, _)| matches!(network, IpNet::V4(_))).count();
    halves.resize((1 << 16) + 1, end as u32);
    halves
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

#[cfg(test)]
mod tests {
    use super::*;

    /// At every bound between two halves of addresses.
    #[test]
    fn each_of_many_entries_is_found_and_no_address_beside_them() {
        let listed = |place: u32| Ipv4Addr::from(place.wrapping_mul(0x0000_8001) ^ 0xffff_0000);
        let entry = |place| (IpNet::from(IpAddr::V4(listed(place))), standing((place & 1) as u8));
        let count = 4 * WORTH_HALVES as u32;
        let six = (IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)), Standing::Permit);
        let reputation = Reputation::new((0..count).map(entry).chain([six]).collect());
        assert!(!reputation.halves.is_empty());
        for place in 0..count {
            let found = reputation.of(IpAddr::V4(listed(place)));
            assert_eq!(found, Some(standing((place & 1) as u8)), "{}", listed(place));
            let beside = Ipv4Addr::from(u32::from(listed(place)) ^ 0x0000_4000);
            assert_eq!(reputation.of(IpAddr::V4(beside)), None, "{beside}");
        }
        assert_eq!(reputation.of(IpAddr::V6(Ipv6Addr::LOCALHOST)), Some(Standing::Permit));
        assert_eq!(reputation.of(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), None);
    }
}
