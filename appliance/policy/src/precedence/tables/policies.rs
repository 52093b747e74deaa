//! The policies that might take a flow, or block its QUIC, as rules of the same language.
//!
//! A profile's policies are a set of these, since many profiles have the same proxies. They stand
//! in the order in which they count: servers of ours, candidates of clients, QUIC that passes, QUIC that is blocked.
//! Those of one kind that the same profiles have, and that differ in nothing but their destinations, are one:
//! which of them covers a flow is asked when it is judged.

use std::collections::HashMap;

use super::MAX_POLICIES;
use crate::precedence::{Match, QUIC_PORT, TCP, UDP};
use crate::snapshot::{PortRange, Profile, QuicAction, Snapshot};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PolicyKind {
    /// A server policy's source exceptions: a candidate, but not refused to speak first.
    Excepted = 1,
    Server = 2,
    Client = 3,
    QuicPasses = 4,
    QuicBlocked = 5,
}

use PolicyKind as Kind;

/// Which policies a virtual segment's profile has, by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicySet(pub [u64; MAX_POLICIES / 64]);

#[derive(Debug, Default)]
pub(super) struct Policies {
    pub(super) list: Vec<(Kind, Match)>,
    /// Of each profile: places in the list.
    profiles: Vec<Vec<usize>>,
}

impl Policies {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        // Each with the profiles that have it.
        let mut entries: Vec<(Kind, Match)> = Vec::new();
        let mut places = HashMap::<(Kind, Match), usize>::new();
        let mut owners: Vec<Vec<usize>> = Vec::new();
        for (profile, of) in snapshot.profiles.iter().enumerate() {
            for entry in entries_of(snapshot, of) {
                let place = *places.entry(entry).or_insert_with_key(|entry| {
                    entries.push(entry.clone());
                    owners.push(Vec::new());
                    entries.len() - 1
                });
                if let Some(owners) = owners.get_mut(place)
                    && owners.last() != Some(&profile)
                {
                    owners.push(profile);
                }
            }
        }
        let mut merged: Vec<(Kind, Match, Vec<usize>)> = Vec::new();
        let mut places = HashMap::<(Kind, Match, Vec<usize>), usize>::new();
        for ((kind, matching), owners) in entries.into_iter().zip(owners) {
            // No destinations are any.
            if matching.destinations.is_empty() {
                merged.push((kind, matching, owners));
                continue;
            }
            let without = Match { destinations: Vec::new(), ..matching.clone() };
            let next = merged.len();
            let place = *places.entry((kind, without, owners.clone())).or_insert(next);
            match merged.get_mut(place) {
                Some((_, found, _)) => found.destinations.extend(matching.destinations),
                None => merged.push((kind, matching, owners)),
            }
        }
        merged.sort_by_key(|(kind, ..)| *kind);
        let mut profiles = vec![Vec::new(); snapshot.profiles.len()];
        for (place, (_, _, owners)) in merged.iter().enumerate() {
            for owner in owners {
                if let Some(places) = profiles.get_mut(*owner) {
                    places.push(place);
                }
            }
        }
        let list = merged.into_iter().map(|(kind, matching, _)| (kind, matching)).collect();
        Self { list, profiles }
    }

    /// Those of a profile.
    pub(super) fn set(&self, profile: usize) -> PolicySet {
        let mut set = PolicySet([0; MAX_POLICIES / 64]);
        for place in self.profiles.get(profile).into_iter().flatten() {
            if let Some(word) = set.0.get_mut(place / 64) {
                *word |= 1 << (place % 64);
            }
        }
        set
    }
}

fn entries_of(snapshot: &Snapshot, profile: &Profile) -> Vec<(Kind, Match)> {
    let mut entries = Vec::new();
    let candidate = |destinations: &[_], ports: &[_]| Match {
        protocols: vec![TCP],
        destinations: destinations.to_vec(),
        destination_ports: ports.to_vec(),
        ..Match::default()
    };
    if snapshot.device.server_inspection {
        for policy in &profile.server_policies {
            let Some(proxy) = snapshot.server_proxies.get(policy.server_proxy) else { continue };
            // Where policy says none, an empty list of the language would say any.
            if !proxy.destinations.is_empty() && !proxy.detection_ports.is_empty() {
                let matching = candidate(&proxy.destinations, &proxy.detection_ports);
                if !policy.source_exceptions.is_empty() {
                    let sources = policy.source_exceptions.clone();
                    entries.push((Kind::Excepted, Match { sources, ..matching.clone() }));
                }
                entries.push((Kind::Server, matching));
            }
        }
    }
    if !snapshot.device.client_inspection {
        return entries;
    }
    let mut quic = false;
    for policy in &profile.client_policies {
        let Some(proxy) = snapshot.client_proxies.get(policy.client_proxy) else { continue };
        if proxy.detection_ports.is_empty() {
            continue;
        }
        entries.push((Kind::Client, candidate(&[], &proxy.detection_ports)));
        if quic || !proxy.detection_ports.iter().any(|range| range.contains(QUIC_PORT)) {
            continue;
        }
        quic = true; // the first that covers the port decides, as for its TCP
        if policy.quic == QuicAction::Bypass {
            continue;
        }
        let matching = Match {
            protocols: vec![UDP],
            destination_ports: vec![PortRange { first: QUIC_PORT, last: QUIC_PORT }],
            ..Match::default()
        };
        if !policy.source_exceptions.is_empty() {
            let sources = policy.source_exceptions.clone();
            entries.push((Kind::QuicPasses, Match { sources, ..matching.clone() }));
        }
        entries.push((Kind::QuicBlocked, matching));
    }
    entries
}
