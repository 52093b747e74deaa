//! The first rule that a packet matches, found without asking each.
//!
//! For: judging flow after flow under one snapshot: an address is looked up among the networks of
//! all rules, which leaves the few rules whose networks hold it, and only these are asked. Not for:
//! the rules' meaning, which is [`super::Match::matches`]; what is found here is what asking all of them in
//! order finds ([`Rules`] of a [`Snapshot`]), and a property test says so. Cannot fail. Grows with
//! the networks of a configuration, which the data plane's tables bound.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Deref;

use ipnet::IpNet;

use super::PacketFacts;
use crate::snapshot::Snapshot;

/// A snapshot's rules, to be asked for what a packet matches.
pub trait Rules {
    fn snapshot(&self) -> &Snapshot;
    fn first_matches(&self, facts: &PacketFacts) -> FirstMatches;
}

/// Places, in the snapshot's lists, of the first that a packet matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstMatches {
    pub virtual_segment: Option<usize>,
    pub bypass_rule: Option<usize>,
    pub traffic_filter: Option<usize>,
}

impl Rules for Snapshot {
    fn snapshot(&self) -> &Snapshot {
        self
    }

    fn first_matches(&self, facts: &PacketFacts) -> FirstMatches {
        let facts = &facts.canonical();
        let Snapshot { virtual_segments, precedence, .. } = self;
        let (bypass, filters) = (&precedence.inspection_bypass, &precedence.traffic_filters);
        FirstMatches {
            virtual_segment: virtual_segments.iter().position(|one| one.matches(facts)),
            bypass_rule: bypass.iter().position(|one| one.matching.matches(facts)),
            traffic_filter: filters.iter().position(|one| one.matching.matches(facts)),
        }
    }
}

/// A snapshot, and what its rules are found by.
#[derive(Debug)]
pub struct IndexedSnapshot {
    snapshot: Snapshot,
    sources: Networks,
    destinations: Networks,
}

impl From<Snapshot> for IndexedSnapshot {
    fn from(snapshot: Snapshot) -> Self {
        let words = lists(&snapshot)[LISTS];
        let rules = networks_of_rules(&snapshot);
        let sources = rules.iter().map(|(bit, sources, _)| (*bit, *sources));
        let destinations = rules.iter().map(|(bit, _, destinations)| (*bit, *destinations));
        let sources = Networks::new(words, sources);
        let destinations = Networks::new(words, destinations);
        Self { snapshot, sources, destinations }
    }
}

impl Default for IndexedSnapshot {
    fn default() -> Self {
        Snapshot::default().into()
    }
}

impl Deref for IndexedSnapshot {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl Rules for IndexedSnapshot {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn first_matches(&self, facts: &PacketFacts) -> FirstMatches {
        let facts = &facts.canonical();
        let [segments, bypass, filters, _] = lists(&self.snapshot);
        let (source, destination) = facts.addresses.unzip();
        let left = Left {
            by_source: self.sources.row(source),
            by_destination: self.destinations.row(destination),
        };
        FirstMatches {
            virtual_segment: left.first(segments, &self.virtual_segments, |one| one.matches(facts)),
            bypass_rule: left.first(bypass, &self.precedence.inspection_bypass, |one| {
                one.matching.matches(facts)
            }),
            traffic_filter: left.first(filters, &self.precedence.traffic_filters, |one| {
                one.matching.matches(facts)
            }),
        }
    }
}

/// Rules are the bits of words, those of a list from a word of their own on.
const WORD: usize = 64;

const LISTS: usize = 3;

/// The first word of virtual segments, of bypass rules and of traffic filters, and how many words
/// there are.
fn lists(snapshot: &Snapshot) -> [usize; LISTS + 1] {
    let words = |rules: usize| rules.div_ceil(WORD);
    let bypass = words(snapshot.virtual_segments.len());
    let filters = bypass + words(snapshot.precedence.inspection_bypass.len());
    [0, bypass, filters, filters + words(snapshot.precedence.traffic_filters.len())]
}

/// Each rule's bit, sources and destinations.
fn networks_of_rules(snapshot: &Snapshot) -> Vec<(usize, &[IpNet], &[IpNet])> {
    let [segments, bypass, filters, _] = lists(snapshot).map(|word| word * WORD);
    let rules = &snapshot.precedence;
    let segments = (segments..)
        .zip(&snapshot.virtual_segments)
        .map(|(bit, one)| (bit, &one.sources[..], &one.destinations[..]));
    let bypass = (bypass..).zip(rules.inspection_bypass.iter().map(|one| &one.matching));
    let filters = (filters..).zip(rules.traffic_filters.iter().map(|one| &one.matching));
    let others =
        bypass.chain(filters).map(|(bit, one)| (bit, &one.sources[..], &one.destinations[..]));
    segments.chain(others).collect()
}

/// The rules whose networks hold a packet's addresses.
struct Left<'a> {
    by_source: &'a [u64],
    by_destination: &'a [u64],
}

impl Left<'_> {
    /// The first rule of a list, which begins at word `at`, that is left and matches.
    fn first<T>(&self, at: usize, list: &[T], matches: impl Fn(&T) -> bool) -> Option<usize> {
        let words = self.by_source.iter().zip(self.by_destination).skip(at);
        for (word, (rules, (source, destination))) in list.chunks(WORD).zip(words).enumerate() {
            let mut left = source & destination;
            while left != 0 {
                let place = left.trailing_zeros() as usize;
                if rules.get(place).is_some_and(&matches) {
                    return Some(word * WORD + place);
                }
                left &= left - 1;
            }
        }
        None
    }
}

/// The networks of one direction in all rules, and the rules that hold in each.
#[derive(Debug)]
struct Networks {
    /// In order of address and prefix length.
    entries: Vec<Entry>,
    /// All rows, one after the other; the first is that of rules that name no network.
    rows: Vec<u64>,
    /// Of a row.
    words: usize,
}

#[derive(Debug)]
struct Entry {
    network: IpNet,
    row: usize,
    /// The smallest other network that has this one in it.
    around: Option<usize>,
}

impl Networks {
    /// Of rules by their bits, in rows of so many words.
    fn new<'a>(words: usize, rules: impl Iterator<Item = (usize, &'a [IpNet])>) -> Self {
        let mut any = vec![0; words];
        let mut listed = BTreeMap::<(IpAddr, u8), (IpNet, Vec<u64>)>::new();
        for (bit, networks) in rules {
            if networks.is_empty() {
                set(&mut any, bit);
            }
            for network in networks.iter().map(IpNet::trunc) {
                let key = (network.addr(), network.prefix_len());
                let (_, row) = listed.entry(key).or_insert_with(|| (network, vec![0; words]));
                set(row, bit);
            }
        }
        let mut networks = Self { entries: Vec::with_capacity(listed.len()), rows: any, words };
        // Of equal rows one is kept.
        let mut kept = HashMap::from([(networks.rows.clone(), 0)]);
        // Networks come after those around them: these are the ones still open.
        let mut open: Vec<usize> = Vec::new();
        for (network, mut row) in listed.into_values() {
            let holds = |place: &usize| {
                networks.entries.get(*place).is_some_and(|one| one.network.contains(&network))
            };
            while open.last().is_some_and(|place| !holds(place)) {
                open.pop();
            }
            let around = open.last().copied();
            let outer =
                around.and_then(|place| networks.entries.get(place)).map_or(0, |one| one.row);
            row.iter_mut().zip(networks.at(outer)).for_each(|(word, outer)| *word |= outer);
            let next = networks.rows.len();
            let place = *kept.entry(row.clone()).or_insert(next);
            if place == next {
                networks.rows.extend(row);
            }
            open.push(networks.entries.len());
            networks.entries.push(Entry { network, row: place, around });
        }
        networks
    }

    /// The rules that hold for an address, or for a packet that has none.
    fn row(&self, address: Option<IpAddr>) -> &[u64] {
        let Some(address) = address else { return self.at(0) };
        let after = self.entries.partition_point(|one| one.network.addr() <= address);
        // The last network that begins before the address: it, or one around it, or none.
        let mut place = after.checked_sub(1);
        while let Some(entry) = place.and_then(|place| self.entries.get(place)) {
            if entry.network.contains(&address) {
                return self.at(entry.row);
            }
            place = entry.around;
        }
        self.at(0)
    }

    fn at(&self, row: usize) -> &[u64] {
        self.rows.get(row..row + self.words).unwrap_or_default()
    }
}

fn set(row: &mut [u64], bit: usize) {
    if let Some(word) = row.get_mut(bit / WORD) {
        *word |= 1 << (bit % WORD);
    }
}
