//! The reputation table, changed entry by entry: it is too large to be held twice.
//!
//! While it changes, packets see entries of before and of after; each entry is changed at once.
//! Fails with the kernel's error; the entries are then read back before the next change.

use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData, MapError};
use weir_policy::precedence::tables::is_mapped;
use weir_policy::precedence::{Reputation, Standing};

use super::{ApplyError, in_table, map};
use crate::layout::mapped;

const BLOCKED: u8 = 1;
const PERMITTED: u8 = 2;

/// A prefix of a 16-byte address.
type Entry = ((u8, [u8; 16]), u8);

pub struct ReputationTable {
    map: LpmTrie<MapData, [u8; 16], u8>,
    /// In order; `None`: not known, to be read from the map.
    current: Option<Vec<Entry>>,
}

impl ReputationTable {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ApplyError> {
        Ok(Self { map: map(ebpf, "reputation")?, current: None })
    }

    /// Makes the table what the snapshot has, by the difference.
    pub fn apply(&mut self, reputation: &Reputation) -> Result<(), ApplyError> {
        let wanted = entries(reputation);
        let current = match self.current.take() {
            Some(current) => current,
            None => self.read().map_err(in_table("reputation"))?,
        };
        self.change(&current, &wanted).map_err(in_table("reputation"))?;
        self.current = Some(wanted);
        Ok(())
    }

    fn read(&self) -> Result<Vec<Entry>, MapError> {
        let mut found = Vec::new();
        for entry in self.map.iter() {
            let (key, standing) = entry?;
            let prefix = u8::try_from(key.prefix_len()).unwrap_or(u8::MAX);
            found.push(((prefix, key.data()), standing));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes first: a full table has no room for more.
    fn change(&mut self, current: &[Entry], wanted: &[Entry]) -> Result<(), MapError> {
        let mut left = wanted.iter().peekable();
        for (key, _) in current {
            while left.next_if(|(other, _)| other < key).is_some() {}
            if left.peek().is_none_or(|(other, _)| other != key) {
                self.map.remove(&Key::new(u32::from(key.0), key.1))?;
            }
        }
        let mut left = current.iter().peekable();
        for entry @ (key, standing) in wanted {
            while left.next_if(|(other, _)| other < key).is_some() {}
            if left.peek().is_none_or(|other| *other != entry) {
                self.map.insert(&Key::new(u32::from(key.0), key.1), *standing, 0)?;
            }
        }
        Ok(())
    }
}

fn entries(reputation: &Reputation) -> Vec<Entry> {
    let mut entries: Vec<Entry> = reputation
        .entries()
        .iter()
        .filter(|(network, _)| !is_mapped(network))
        .map(|(network, standing)| {
            let within = if network.addr().is_ipv4() { 96 } else { 0 };
            let standing = if *standing == Standing::Block { BLOCKED } else { PERMITTED };
            ((network.prefix_len() + within, mapped(network.addr())), standing)
        })
        .collect();
    // No IPv6 network has IPv4 addresses in it, though their keys look so.
    let four = (96, mapped(IpAddr::from([0; 4])));
    let above = |address: [u8; 16], prefix: u8| {
        u128::from_be_bytes(address).checked_shr(128 - u32::from(prefix.min(128)))
    };
    let around = |((prefix, address), _): &Entry| {
        *prefix < 96 && above(*address, *prefix) == above(four.1, *prefix)
    };
    if entries.iter().any(around) && !entries.iter().any(|(key, _)| *key == four) {
        entries.push((four, PERMITTED));
    }
    entries.sort_unstable();
    entries
}
